//! A temporary folder with small drawn photographs and their dataset, in which the binaries run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flowreg::data::dataset::Manifest;
use flowreg::data::demo::{DemoOptions, write_photographs};

pub const PREP: &str = env!("CARGO_BIN_EXE_flowreg-prep");
pub const FIT: &str = env!("CARGO_BIN_EXE_flowreg-fit");
pub const PREDICT: &str = env!("CARGO_BIN_EXE_flowreg-predict");
pub const FLOWERS: DemoOptions = DemoOptions {
    classes: 4,
    per_class: [3, 2, 2],
    seed: 1,
    cancel: None,
};

/// A folder with photographs of 4 classes and their dataset at 8 x 8.
pub struct World(pub tempfile::TempDir);

impl World {
    pub fn new() -> World {
        let world = World(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        std::fs::create_dir(world.path("photographs")).unwrap();
        write_photographs(&world.path("photographs"), &FLOWERS, &|_| {}).unwrap();
        succeeds(&world.prep("photographs", "data"));
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        command.output().unwrap()
    }

    /// [`World::run`] with `bytes` piped to standard input.
    pub fn run_piped(&self, program: &str, args: &[&str], bytes: &[u8]) -> Output {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        // The process may end before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = super::process::bounded(child);
        writer.join().unwrap();
        output
    }

    pub fn prep(&self, root: &str, out: &str) -> Output {
        let common = ["flowers102", "--no-verify", "--size", "8"];
        self.run(
            PREP,
            &[&common[..], &["--root", root, "--out", out]].concat(),
        )
    }

    pub fn fit(&self, args: &[&str]) -> Output {
        self.run(FIT, &[&["data", "--out", "run"], args].concat())
    }

    /// Check that `act` exits with `code`, prints one line with all of `parts` on stderr, and changes
    /// no file name in the folder.
    #[track_caller]
    pub fn refuses(&self, code: i32, parts: &[&str], act: impl FnOnce(&World) -> Output) {
        let before = self.listing();
        let output = act(self);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
        assert_eq!(self.listing(), before, "the files of the folder changed");
    }

    pub fn listing(&self) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = (std::fs::read_dir(self.0.path()).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        names
    }

    /// Change the manifest and renew its checksum.
    pub fn edit_manifest(&self, edit: impl FnOnce(&mut Manifest)) {
        let path = self.path("data/dataset.json");
        let mut manifest: Manifest =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut manifest);
        std::fs::write(path, serde_json::to_vec(&manifest.sealed()).unwrap()).unwrap();
    }

    pub fn copy(&self, from: &str, to: &str) {
        copy_dir(&self.path(from), &self.path(to));
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[track_caller]
pub fn succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}
