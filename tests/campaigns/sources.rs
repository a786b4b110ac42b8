//! Sources that change while they are read are refused, or the output has the bytes of one version.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flowreg::Dataset;
use flowreg::data::demo::{DemoOptions, photograph};
use flowreg::io::npy::{Dtype, Header};

use super::{Campaign, PREP, Trials, bounded, finish, spawn};

const COLUMNS: usize = 16;

/// A value that occurs in no other version, row or column. All have the same number of digits, so
/// that parts of two versions make a valid text.
fn value(version: usize, row: usize, column: usize) -> u32 {
    (1 + 2 * (row * COLUMNS + column) + version) as u32
}

fn npy(version: usize, rows: usize) -> Vec<u8> {
    let mut bytes = Header::encode(Dtype::F32, &[rows, COLUMNS]);
    for row in 0..rows {
        bytes.extend((0..COLUMNS).flat_map(|j| (value(version, row, j) as f32).to_le_bytes()));
    }
    bytes
}

fn csv(version: usize, rows: usize) -> Vec<u8> {
    let names: Vec<String> = (0..COLUMNS).map(|j| format!("x{j}")).collect();
    let mut text = format!("label,{}\n", names.join(","));
    for row in 0..rows {
        let values = (0..COLUMNS).map(|j| format!("{:07}", value(version, row, j)));
        let values: Vec<String> = values.collect();
        text += &format!("{},{}\n", row % 2, values.join(","));
    }
    text.into_bytes()
}

fn libsvm(version: usize, rows: usize) -> Vec<u8> {
    let mut text = String::new();
    for row in 0..rows {
        let values = (0..COLUMNS).map(|j| format!(" {}:{:07}", j + 1, value(version, row, j)));
        text += &format!("{}{}\n", row % 2, values.collect::<String>());
    }
    text.into_bytes()
}

impl Campaign {
    pub fn changing_sources(&mut self) {
        type Source = (
            &'static str,
            &'static str,
            fn(usize, usize) -> Vec<u8>,
            &'static [&'static str],
        );
        const SOURCES: [Source; 3] = [
            (
                "an array changes while prep reads it",
                "x.npy",
                npy,
                &["npy", "--x", "x.npy", "--y", "y.npy"],
            ),
            (
                "a CSV changes while prep reads it",
                "x.csv",
                csv,
                &["csv", "--label", "label", "--train", "x.csv"],
            ),
            (
                "a LIBSVM text changes while prep reads it",
                "x.svm",
                libsvm,
                &["libsvm", "--train", "x.svm"],
            ),
        ];
        for (fault, file, made, args) in SOURCES {
            let mut trials = Trials::of(fault);
            let rows = 5_000;
            let path = self.path(file);
            let versions = [made(0, rows), made(1, rows)];
            let labels: Vec<i64> = (0..rows as i64).map(|i| i % 2).collect();
            let header = Header::encode(Dtype::I64, &[rows]);
            let y = [&header[..], bytemuck::cast_slice(&labels)].concat();
            fs::write(self.path("y.npy"), y).unwrap();
            fs::write(&path, &versions[0]).unwrap();
            let began = Instant::now();
            assert!(finish(self.prep_of(args, "of-before")).status.success());
            let whole = began.elapsed().as_secs_f32();
            let before = fs::read(self.path("of-before/train.x.npy")).unwrap();
            let _ = fs::remove_dir_all(self.path("of-before"));
            let [mut complete, mut changed] = [0, 0];
            for i in 0..self.times(40, 6) {
                fs::write(&path, &versions[0]).unwrap();
                let child = spawn(self.prep_of(args, "of-changed"));
                std::thread::sleep(self.moment(whole));
                self.change(i, &path, &versions);
                let output = bounded(child);
                let code = output.status.code();
                let made = fs::read(self.path("of-changed/train.x.npy")).ok();
                let kept = match (code, &made) {
                    (Some(0), Some(made)) => {
                        complete += 1;
                        // The dataset has one of the two versions.
                        *made == before || {
                            let again = finish(self.prep_of(args, "of-after"));
                            let after = fs::read(self.path("of-after/train.x.npy")).ok();
                            again.status.success() && Some(made) == after.as_ref()
                        }
                    }
                    (Some(75), None) => {
                        changed += 1;
                        true
                    }
                    // A text truncated within a number or line is refused for that.
                    (Some(65), None) => true,
                    _ => false,
                };
                trials.tried(kept, || format!("{i}: {output:?}"));
                for left in ["of-changed", "of-after"] {
                    let _ = fs::remove_dir_all(self.path(left));
                }
            }
            let cut = trials.tried - complete - changed;
            self.end(
                trials,
                format!("{complete} with the bytes of one moment; {changed} exit 75; {cut} cut short, exit 65"),
            );
        }
    }

    fn prep_of(&self, args: &[&str], out: &str) -> Command {
        let mut command = Command::new(PREP);
        command.args(args).args(["--out", out]);
        command.current_dir(self.dir.path());
        command
    }

    fn change(&mut self, how: usize, path: &Path, versions: &[Vec<u8>; 2]) {
        let [old, new] = versions;
        let mut file = File::options().write(true).open(path).unwrap();
        match how % 4 {
            0 => {
                // Rewrite in place, from a random offset.
                let from = self.index(old.len());
                file.seek(SeekFrom::Start(from as u64)).unwrap();
                file.write_all(&new[from..]).unwrap();
            }
            1 => file.set_len(self.index(old.len()) as u64).unwrap(),
            2 => {
                file.seek(SeekFrom::End(0)).unwrap();
                let from = old.len() - self.index(200);
                file.write_all(&old[from..]).unwrap();
            }
            // Replace the file: a reader of the old one reads it to its end.
            _ => {
                let other = path.with_extension("new");
                fs::write(&other, new).unwrap();
                fs::rename(other, path).unwrap();
            }
        }
    }

    pub fn changing_photographs(&mut self) {
        let mut trials = Trials::of("photographs change while prep reads them");
        let classes = DemoOptions {
            classes: 2,
            per_class: [20, 0, 0],
            seed: 3,
            cancel: None,
        };
        let root = self.path("changing");
        let count = classes.photographs();
        let place = |i: usize| format!("{}/{i:02}.jpg", i / 20);
        for class in ["0", "1"] {
            fs::create_dir_all(root.join(class)).unwrap();
        }
        // Two versions of each, of one length: bytes behind the end of a JPEG are ignored.
        let drawn = |seed| -> Vec<Vec<u8>> {
            let options = DemoOptions {
                seed,
                ..classes.clone()
            };
            (0..count)
                .map(|i| photograph(&options, i, 220, 200))
                .collect()
        };
        let mut versions = [drawn(3), drawn(4)];
        let longest = versions.iter().flatten().map(Vec::len).max().unwrap();
        for bytes in versions.iter_mut().flatten() {
            bytes.resize(longest, 0);
        }
        let write = |version: &[Vec<u8>]| {
            for (i, bytes) in version.iter().enumerate() {
                fs::write(root.join(place(i)), bytes).unwrap();
            }
        };
        let mut args = vec!["folder", "--root", "changing", "--size", "16"];
        args.extend(["--val-share", "0", "--test-share", "0"]);
        let rows_of = |c: &Campaign, out: &str| -> Vec<Vec<u8>> {
            let bytes = fs::read(c.path(out).join("train.x.npy")).unwrap();
            bytes[128..]
                .chunks_exact(4 * 3 * 16 * 16)
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut whole = 0.0;
        let rows = versions.each_ref().map(|version| {
            write(version);
            let began = Instant::now();
            assert!(finish(self.prep_of(&args, "of-version")).status.success());
            whole = began.elapsed().as_secs_f32();
            let rows = rows_of(self, "of-version");
            fs::remove_dir_all(self.path("of-version")).unwrap();
            rows
        });
        let [mut complete, mut changed] = [0, 0];
        for i in 0..self.times(40, 6) {
            write(&versions[0]);
            let child = spawn(self.prep_of(&args, "of-changed"));
            std::thread::sleep(self.moment(whole));
            for (at, bytes) in versions[1].iter().enumerate() {
                let path = root.join(place(at));
                let mut file = File::options().write(true).open(&path).unwrap();
                match i % 3 {
                    0 => file.set_len(self.index(longest) as u64).unwrap(),
                    1 => file.write_all(bytes).unwrap(),
                    _ => {
                        // Written outside of the folder, of which it would be a photograph.
                        let other = self.path("other.jpg");
                        fs::write(&other, bytes).unwrap();
                        fs::rename(other, path).unwrap();
                    }
                }
            }
            let output = bounded(child);
            let there = self.path("of-changed").exists();
            let kept = match output.status.code() {
                Some(0) => {
                    complete += 1;
                    // Each photograph has one of the two versions, not parts of both.
                    let complete = self.absent_or_complete("of-changed");
                    let made = rows_of(self, "of-changed");
                    complete
                        && made.len() == count
                        && (0..count).all(|i| made[i] == rows[0][i] || made[i] == rows[1][i])
                }
                Some(75) => {
                    changed += 1;
                    !there
                }
                Some(65) => !there,
                _ => false,
            };
            trials.tried(kept, || format!("{i}: {output:?}"));
            let _ = fs::remove_dir_all(self.path("of-changed"));
        }
        let cut = trials.tried - complete - changed;
        self.end(
            trials,
            format!("{complete} complete, each row of one moment; {changed} exit 75; {cut} cut short, exit 65"),
        );
        assert!(Dataset::open(self.path("data")).is_ok());
    }
}
