//! Random layouts with `--force`: files that flowreg did not write stay.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Campaign, PREDICT, Trials, finish, of_run};

/// The kind of a directory entry.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    File(Vec<u8>),
    Dir,
    Link(PathBuf),
    /// A FIFO.
    Other,
}

/// All entries below a directory.
fn entries(dir: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap();
        let entry = if kind.is_dir() {
            found.extend(entries(&path));
            Entry::Dir
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            Entry::File(fs::read(&path).unwrap())
        } else {
            Entry::Other
        };
        found.insert(path, entry);
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to)
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Names that flowreg uses, and others.
const NAMES: [&str; 12] = [
    "summary.json",
    "dataset.json",
    "model.onnx",
    "model.safetensors",
    "setid.mat",
    "train.x.npy",
    "thesis.tex",
    ".hidden",
    ".flowreg.json.old",
    "figures",
    "a name\nof two lines",
    "-rf",
];

/// The expected outcome of a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Replaced,
    Refused,
}

impl Campaign {
    pub fn foreign_files(&mut self) {
        let mut trials = Trials::of("random layouts under --force, of prep, fit, export, predict");
        let fit = ["--epochs", "2", "--no-report", "--force"];
        for made in [
            self.prep("own-prep", "8", &["--force"]),
            self.fit("own-fit", &fit),
            self.export("own-fit", "own-export"),
            self.predict_npy("own.npy"),
        ] {
            assert!(finish(made).status.success());
        }
        let [mut replaced, mut refused] = [0, 0];
        for _ in 0..self.times(200, 30) {
            let room = self.path("force");
            let _ = fs::remove_dir_all(&room);
            fs::create_dir_all(room.join("outside")).unwrap();
            fs::write(room.join("outside/years.txt"), "of work").unwrap();
            let (program, layout, expected) = match self.index(4) {
                0 => self.file_layout(&room),
                _ => self.directory_layout(&room),
            };
            let before = entries(&room);
            let output = finish(program);
            let after = entries(&room);
            let code = output.status.code();
            let kept = match expected {
                Expected::Refused => code == Some(65) && after == before,
                Expected::Replaced => {
                    // Everything but the output is unchanged, and nothing new is beside it.
                    let foreign = |entries: &BTreeMap<PathBuf, Entry>| {
                        let mut entries = entries.clone();
                        entries.retain(|path, _| {
                            !["out", "out.npy", "theirs"]
                                .iter()
                                .any(|name| path.starts_with(room.join(name)))
                        });
                        entries
                    };
                    code == Some(0) && foreign(&after) == foreign(&before) && self.whole_output()
                }
            };
            *match expected {
                Expected::Replaced => &mut replaced,
                Expected::Refused => &mut refused,
            } += 1;
            trials.tried(kept, || format!("{layout}, {expected:?}: {output:?}"));
        }
        trials.tried(replaced > 0 && refused > 0, || {
            format!("{replaced} replaced, {refused} refused")
        });
        let note = format!("{replaced} replaced; {refused} refused, exit 65, all as it was");
        self.end(trials, note);
    }

    /// Whether the output is a complete dataset, run, export or array, and nothing else.
    fn whole_output(&self) -> bool {
        let (out, array) = (self.path("force/out"), self.path("force/out.npy"));
        let exported = out.join("model.onnx").is_file();
        let run = of_run(&out).is_some();
        let prepared = out.join("dataset.json").is_file() && self.absent_or_complete("force/out");
        let predicted = fs::read(array).is_ok_and(|bytes| bytes.starts_with(b"\x93NUMPY"));
        // Not two of them in one directory.
        usize::from(exported) + usize::from(run) + usize::from(prepared) + usize::from(predicted)
            == 1
    }

    /// `flowreg-predict --npy FILE --force`.
    fn file_layout(&mut self, room: &Path) -> (Command, String, Expected) {
        let out = room.join("out.npy");
        let array = self.path("own.npy");
        let (what, expected) = match self.index(9) {
            0 => ("nothing", Expected::Replaced),
            1 => {
                fs::copy(array, &out).unwrap();
                ("an array", Expected::Replaced)
            }
            2 => {
                fs::write(&out, "").unwrap();
                ("an empty file", Expected::Replaced)
            }
            3 => {
                fs::copy(array, room.join("theirs")).unwrap();
                symlink("theirs", &out).unwrap();
                ("a link to an array", Expected::Replaced)
            }
            4 => {
                fs::write(&out, "years of work").unwrap();
                ("a text", Expected::Refused)
            }
            5 => {
                symlink("outside/years.txt", &out).unwrap();
                ("a link to a text", Expected::Refused)
            }
            6 => {
                fs::copy(self.path("own-fit/model.safetensors"), &out).unwrap();
                ("a model", Expected::Refused)
            }
            7 => {
                fs::copy(self.path("own-prep/train.y.npy"), &out).unwrap();
                ("an array that predict did not write", Expected::Refused)
            }
            _ => {
                fs::create_dir(&out).unwrap();
                ("a directory", Expected::Refused)
            }
        };
        let command = self.predict_npy("force/out.npy");
        (command, format!("predict over {what}"), expected)
    }

    fn predict_npy(&self, file: &str) -> Command {
        let mut command = Command::new(PREDICT);
        command.args(["own-fit", "data/test.x.npy", "--force", "--npy", file]);
        command.current_dir(self.dir.path());
        command
    }

    fn directory_layout(&mut self, room: &Path) -> (Command, String, Expected) {
        let out = room.join("out");
        let mut expected = Expected::Replaced;
        let mut layout = String::new();
        let mut inside = out.clone();
        let mut kind = None;
        match self.index(8) {
            0 => layout += "nothing",
            1 => {
                fs::create_dir(&out).unwrap();
                layout += "an empty directory";
            }
            2 => {
                // A link is followed, and its target replaced.
                copy(&self.path("own-fit"), &room.join("theirs"));
                symlink("theirs", &out).unwrap();
                inside = room.join("theirs");
                layout += "a link to a run";
                kind = Some(1);
            }
            3 => {
                fs::create_dir(&out).unwrap();
                fs::write(out.join(NAMES[self.index(6)]), "{}").unwrap();
                layout += "a file of a name of ours";
                expected = Expected::Refused;
            }
            4 => {
                fs::write(&out, "years of work").unwrap();
                layout += "a file";
                expected = Expected::Refused;
            }
            _ => {
                let own = self.index(3);
                kind = Some(own);
                let own = ["own-prep", "own-fit", "own-export"][own];
                copy(&self.path(own), &out);
                layout += own;
            }
        }
        for _ in 0..self.index(3) {
            let what = self.plant(room, &inside, &mut expected);
            layout += &format!(", {what}");
        }
        let fit = ["--epochs", "2", "--no-report", "--force"];
        let of = self.index(3);
        // An output may be replaced by one of its kind only.
        if kind.is_some_and(|kind| kind != of) {
            expected = Expected::Refused;
        }
        let command = match of {
            0 => self.prep("force/out", "8", &["--force"]),
            1 => self.fit("force/out", &fit),
            _ => self.export("own-fit", "force/out"),
        };
        (command, layout, expected)
    }

    /// Create a foreign entry in the output or beside it.
    fn plant(&mut self, room: &Path, inside: &Path, expected: &mut Expected) -> &'static str {
        let name = NAMES[self.index(NAMES.len())];
        if self.index(4) == 0 {
            // Beside the output, where flowreg creates temporary files.
            let lock = room.join(".out.lock");
            if inside == room.join("out") && !lock.exists() {
                fs::write(lock, "not a lock").unwrap();
                return "a file of the lock's name";
            }
            fs::write(room.join(name), "beside").unwrap();
            return "a file beside it";
        }
        if !inside.is_dir() {
            return "and nothing in it";
        }
        let path = inside.join(name);
        // Some replace a file of flowreg by a foreign entry of its name.
        let there = path.symlink_metadata();
        if there.as_ref().is_ok_and(|there| there.is_file())
            && !inside.join(".flowreg.json").exists()
        {
            return "and nothing more";
        }
        if there.as_ref().is_ok_and(|there| there.is_file()) {
            fs::remove_file(&path).unwrap();
        }
        let at = if path.is_dir() {
            path.join("deep")
        } else {
            path
        };
        *expected = Expected::Refused;
        match self.index(if there.is_ok() { 4 } else { 6 }) {
            0 => {
                fs::create_dir(&at).unwrap();
                "an empty directory in it"
            }
            1 => {
                fs::create_dir(&at).unwrap();
                fs::write(at.join("summary.json"), "{}").unwrap();
                "a directory in it"
            }
            2 => {
                symlink(room.join("outside/years.txt"), &at).unwrap();
                "a link in it"
            }
            3 => {
                symlink(room.join("outside"), &at).unwrap();
                "a link to a directory in it"
            }
            4 => {
                let made = Command::new("mkfifo").arg("--").arg(&at).status();
                assert!(made.unwrap().success());
                "a FIFO in it"
            }
            _ => {
                fs::write(&at, "years of work").unwrap();
                "a file in it"
            }
        }
    }
}
