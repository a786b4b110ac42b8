//! Output is neither overwritten nor truncated silently: `--force`, sources, standard output that
//! fails or is closed.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::world::{FIT, PREDICT, PREP, World, succeeds};

const FAST: &[&str] = &["--lr", "0.05", "--epochs", "3", "--no-report"];

/// All files below a directory with their bytes.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path))
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()))
        }
    }
    found.sort();
    found
}

/// Check that `act` exits with code 65, prints `words`, and changes no file.
#[track_caller]
fn keeps_all(world: &World, words: &[&str], act: impl FnOnce(&World) -> Output) {
    let before = contents(world.0.path());
    let output = act(world);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in {stderr}");
    }
    assert!(contents(world.0.path()) == before, "something changed");
}

#[test]
fn force_replaces_only_output_of_flowreg() {
    let world = World::new();
    let forced = [FAST, &["--force"]].concat();
    succeeds(&world.fit(FAST));
    succeeds(&world.fit(&forced));
    // A run with a foreign file, and with one in a subfolder.
    for foreign in ["run/thesis.tex", "run/figures/1.pdf"] {
        let path = world.path(foreign);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "years").unwrap();
        keeps_all(&world, &["run", "--force"], |w| w.fit(&forced));
        fs::remove_file(&path).unwrap();
    }
    fs::remove_dir(world.path("run/figures")).unwrap();
    succeeds(&world.fit(&forced));
    // A foreign folder with a file name that flowreg uses.
    for name in ["summary.json", "dataset.json", "model.onnx", "setid.mat"] {
        fs::create_dir_all(world.path("theirs")).unwrap();
        fs::write(world.path("theirs").join(name), "{}").unwrap();
        keeps_all(&world, &["theirs"], |w| {
            w.run(FIT, &[&["data", "--out", "theirs"], &forced[..]].concat())
        });
        // The message does not advise --force, which would be refused.
        let output = world.run(FIT, &[&["data", "--out", "theirs"], FAST].concat());
        assert_eq!(output.status.code(), Some(73));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("give --force"), "{stderr}");
        fs::remove_dir_all(world.path("theirs")).unwrap();
    }
}

#[test]
fn an_output_neither_contains_a_source_nor_is_in_one() {
    let world = World::new();
    succeeds(&world.run(PREP, &["demo", "--out", "drawn"]));
    let flowers = |root: &str, out: &str| {
        let common = ["flowers102", "--no-verify", "--size", "8", "--force"];
        world.run(
            PREP,
            &[&common[..], &["--root", root, "--out", out]].concat(),
        )
    };
    keeps_all(&world, &["drawn"], |_| flowers("drawn", "drawn"));
    keeps_all(&world, &["drawn"], |_| flowers("drawn", "drawn/set"));
    keeps_all(&world, &["drawn"], |_| flowers("drawn/jpg", "drawn"));
    let fit = |args: &[&str]| world.run(FIT, &[args, FAST, &["--force"]].concat());
    keeps_all(&world, &["data"], |_| fit(&["data", "--out", "data"]));
    keeps_all(&world, &["data"], |_| fit(&["data", "--out", "data/run"]));
    succeeds(&fit(&["data", "--out", "run"]));
    let init = ["data", "--init", "run/model.safetensors", "--out", "run"];
    keeps_all(&world, &["model.safetensors"], |_| fit(&init));
    keeps_all(&world, &["run"], |w| {
        w.run(FIT, &["export", "run", "--out", "run", "--force"])
    });
}

#[test]
fn a_link_is_followed_to_the_output() {
    let world = World::new();
    succeeds(&world.fit(FAST));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("run", world.path("link")).unwrap();
        let args = ["data", "--out", "link", "--force", "--lr", "0.05"];
        succeeds(&world.run(
            FIT,
            &[&args[..], &["--epochs", "2", "--no-report"]].concat(),
        ));
        let link = world.path("link").symlink_metadata().unwrap();
        assert!(link.is_symlink());
        let summary = common::json(&world.path("run/summary.json"));
        assert_eq!(summary["epochs"], 2);
    }
}

/// A command of each program that prints.
fn printing(world: &World) -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    succeeds(&world.fit(FAST));
    let prep = [
        "flowers102",
        "--no-verify",
        "--size",
        "8",
        "--root",
        "photographs",
    ];
    vec![
        ("predict", PREDICT, vec!["run", "data/test.x.npy"]),
        (
            "predict --csv",
            PREDICT,
            vec!["run", "data/test.x.npy", "--csv"],
        ),
        (
            "predict --json",
            PREDICT,
            vec!["run", "data/test.x.npy", "--json"],
        ),
        ("predict --help", PREDICT, vec!["--help"]),
        ("fit", FIT, [&["data", "--out", "new-fit"], FAST].concat()),
        (
            "fit --json-logs",
            FIT,
            [&["data", "--json-logs", "--out", "new-json"], FAST].concat(),
        ),
        ("fit --man", FIT, vec!["--man"]),
        ("prep", PREP, [&prep[..], &["--out", "new-prep"]].concat()),
        ("prep --completions", PREP, vec!["--completions", "bash"]),
        ("prep demo", PREP, vec!["demo", "--out", "new-demo"]),
        ("prep verify", PREP, vec!["verify", "data"]),
    ]
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_on_standard_output_is_exit_74() {
    let world = World::new();
    for (what, program, args) in printing(&world) {
        let mut command = Command::new(program);
        let full = File::options().write(true).open("/dev/full").unwrap();
        command.args(&args).current_dir(world.0.path()).stdout(full);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(74), "{what}: {stderr}");
        assert!(stderr.contains("standard output"), "{what}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    }
    // The output was published nevertheless.
    for name in [
        "new-fit/model.safetensors",
        "new-json/model.safetensors",
        "new-prep/dataset.json",
    ] {
        assert!(world.path(name).exists(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_closed_standard_output_is_no_failure() {
    let world = World::new();
    for (what, program, args) in printing(&world) {
        let mut command = Command::new(program);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command
            .args(&args)
            .current_dir(world.0.path())
            .stdout(writer)
            .stderr(Stdio::piped());
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{what}: {stderr}");
        assert!(stderr.is_empty(), "{what}: {stderr}");
    }
    for name in [
        "new-fit/model.safetensors",
        "new-json/model.safetensors",
        "new-prep/dataset.json",
    ] {
        assert!(world.path(name).exists(), "{name}");
    }
}

/// With a limit of 4 KiB, the output is complete, or does not exist and the error is printed.
#[cfg(target_os = "linux")]
#[test]
fn a_file_size_limit_is_reported() {
    let world = World::new();
    succeeds(&world.fit(FAST));
    let script = "ulimit -f 8; exec \"$0\" \"$@\" > cut.csv";
    let inputs = ["data/test.x.npy"; 40];
    let output = Command::new("sh")
        .args(["-c", script, PREDICT, "run"])
        .args(inputs)
        .arg("--csv")
        .current_dir(world.0.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(74), "{stderr}");
    assert!(stderr.contains("standard output"), "{stderr}");
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -f 8; exec \"$0\" \"$@\"",
            FIT,
            "data",
            "--out",
            "big",
        ])
        .args(FAST)
        .args(["--batch-size", "4"])
        .current_dir(world.0.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code().unwrap() == 0,
        world.path("big").exists(),
        "{stderr}"
    );
    assert!(!stderr.contains(".partial"), "{stderr}");
}

#[test]
fn a_fit_writes_nowhere_but_beside_its_output() {
    let world = World::new();
    let mut command = Command::new(FIT);
    command.args([&["data", "--out", "run"], FAST].concat());
    command.current_dir(world.0.path());
    succeeds(&command.env("TMPDIR", "/nonexistent").output().unwrap());
}
