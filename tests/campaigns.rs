//! Fault injection: a table of how often each fault was tried and how often something was lost.
//! `cargo test` runs a short form, `tools/faults.sh` the full one (`-- --full`).
//!
//! Processes are killed by their id, each has a time limit, and all files are in one temporary
//! directory.

mod common;
#[path = "campaigns/force.rs"]
mod force;
#[path = "campaigns/sources.rs"]
mod sources;
#[path = "campaigns/stdout.rs"]
mod stdout;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::process::{self, bounded, wait_for_line};
use flowreg::data::dataset::Manifest;
use flowreg::data::demo::{DemoOptions, write_photographs};
use flowreg::io::blocks::Blocks;
use flowreg::{Dataset, Model};

const PREP: &str = env!("CARGO_BIN_EXE_flowreg-prep");
const FIT: &str = env!("CARGO_BIN_EXE_flowreg-fit");
const PREDICT: &str = env!("CARGO_BIN_EXE_flowreg-predict");

fn main() {
    let full = std::env::args().any(|arg| arg == "--full");
    let started = Instant::now();
    let mut c = Campaign::new(full);
    c.io_calls();
    c.kills_of_prep();
    c.kills_of_fits();
    c.signals();
    c.races();
    c.full_disks();
    c.small_files();
    c.standard_output();
    c.foreign_files();
    c.changing_sources();
    c.changing_photographs();
    c.cuts_and_bits();
    c.bits_of_a_matrix();
    c.plantings();
    c.changes_under_the_map();
    println!("\n| fault | tried | lost | |\n| --- | --- | --- | --- |");
    for row in &c.rows {
        println!(
            "| {} | {} | {} | {} |",
            row.fault, row.tried, row.lost, row.note
        );
    }
    println!("\n{} s", started.elapsed().as_secs());
    let lost: usize = c.rows.iter().map(|row| row.lost).sum();
    assert_eq!(lost, 0, "see the table");
}

struct Row {
    fault: &'static str,
    tried: usize,
    lost: usize,
    note: String,
}

struct Campaign {
    full: bool,
    dir: tempfile::TempDir,
    uniform: Box<dyn FnMut() -> f32>,
    rows: Vec<Row>,
}

/// Counts trials, and prints what was lost.
struct Trials {
    fault: &'static str,
    tried: usize,
    lost: usize,
}

impl Trials {
    fn of(fault: &'static str) -> Trials {
        eprintln!("{fault} ...");
        Trials {
            fault,
            tried: 0,
            lost: 0,
        }
    }

    fn tried(&mut self, kept: bool, what: impl FnOnce() -> String) {
        self.tried += 1;
        if !kept {
            self.lost += 1;
            eprintln!("LOST: {}: {}", self.fault, what());
        }
    }
}

impl Campaign {
    /// Photographs of 3 classes, and their dataset at 8 x 8.
    fn new(full: bool) -> Campaign {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let c = Campaign {
            full,
            dir,
            uniform: Box::new(common::uniform(6)),
            rows: Vec::new(),
        };
        fs::create_dir(c.path("photographs")).unwrap();
        let flowers = DemoOptions {
            classes: 3,
            per_class: [3, 1, 1],
            seed: 1,
            cancel: None,
        };
        write_photographs(&c.path("photographs"), &flowers, &|_| {}).unwrap();
        assert!(finish(c.prep("data", "8", &[])).status.success());
        c
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Number of trials: of the full campaign, or of the short one.
    fn times(&self, full: usize, short: usize) -> usize {
        if self.full { full } else { short }
    }

    fn end(&mut self, trials: Trials, note: impl Into<String>) {
        self.rows.push(Row {
            fault: trials.fault,
            tried: trials.tried,
            lost: trials.lost,
            note: note.into(),
        });
    }

    fn prep(&self, out: &str, size: &str, more: &[&str]) -> Command {
        let mut command = Command::new(PREP);
        let args = [
            "flowers102",
            "--root",
            "photographs",
            "--no-verify",
            "--threads",
            "1",
        ];
        command
            .args(args)
            .args(["--size", size, "--out", out])
            .args(more);
        command.current_dir(self.dir.path());
        command
    }

    fn fit(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(FIT);
        command
            .args(["data", "--threads", "1", "--momentum", "0.9", "--out", out])
            .args(more);
        command.current_dir(self.dir.path());
        command
    }

    /// A choice among 20 penalties in 3 folds: several hundred steps.
    fn converged(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(FIT);
        command
            .args(["data", "--threads", "1", "--optimizer", "lbfgs"])
            .args(["--l2", "auto", "--cv", "3", "--out", out])
            .args(more);
        command.current_dir(self.dir.path());
        command
    }

    fn export(&self, run: &str, out: &str) -> Command {
        let mut command = Command::new(FIT);
        command.args(["export", run, "--out", out, "--force"]);
        command.current_dir(self.dir.path());
        command
    }

    /// A random moment in a process that takes `seconds`.
    fn moment(&mut self, seconds: f32) -> Duration {
        Duration::from_secs_f32((self.uniform)() * seconds)
    }

    fn index(&mut self, len: usize) -> usize {
        ((f64::from((self.uniform)()) * len as f64) as usize).min(len - 1)
    }

    /// Whether the dataset is absent or complete.
    fn absent_or_complete(&self, name: &str) -> bool {
        let path = self.path(name);
        !path.exists()
            || Dataset::open(&path)
                .and_then(|dataset| dataset.verify())
                .is_ok()
    }

    /// Names that did not exist at the beginning.
    fn remains(&self, of: &str) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(of)).collect()
    }

    /// Every I/O call fails once. Where it is only interrupted or short, the output may not differ.
    fn io_calls(&mut self) {
        let kinds: &[&str] = if self.full {
            &["eio", "enospc", "eintr", "short"]
        } else {
            &["eio", "short"]
        };
        let mut trials =
            Trials::of("the k-th I/O call fails or is awkward, every k of prep, fit, export");
        // About 170, 60 and 20 calls are expected. A release build ignores FLOWREG_FAIL_IO and would
        // try nothing.
        const FEWEST: [usize; 3] = [100, 40, 12];
        let mut all_calls = Vec::new();
        let fit = ["--epochs", "3", "--checkpoint-every", "1", "--force"];
        type Program<'a> = (&'a str, &'a dyn Fn(&Campaign) -> Command, &'a str);
        let programs: [Program; 3] = [
            ("out", &|c| c.prep("out", "8", &["--force"]), "train.x.npy"),
            ("run", &|c| c.fit("run", &fit), "model.safetensors"),
            ("onnx", &|c| c.export("run", "onnx"), "model.onnx"),
        ];
        for (out, command, file) in programs {
            assert!(finish(command(self)).status.success());
            let good = fs::read(self.path(out).join(file)).unwrap();
            let names = names_in(&self.path(out));
            let mut calls = None;
            for kind in kinds {
                for k in 0.. {
                    if calls == Some(k) {
                        break;
                    }
                    let failing_at = |k: usize| {
                        let mut command = command(self);
                        command.env("FLOWREG_FAIL_IO", format!("{k}:{kind}"));
                        finish(command)
                    };
                    let output = failing_at(k);
                    // The old output is complete, whatever happened to its replacement.
                    let there = fs::read(self.path(out).join(file)).is_ok_and(|now| now == good)
                        && names_in(&self.path(out)) == names;
                    let clean = self.remains(&format!(".{out}.")).is_empty();
                    let code = output.status.code();
                    if calls.is_none() && code == Some(0) {
                        // There are no more calls, or a call whose failure has no effect.
                        let end = (k + 1..k + 9).all(|k| failing_at(k).status.success());
                        trials.tried(end, || format!("{out} {k}:{kind}: nobody saw it"));
                        calls = Some(k);
                        break;
                    }
                    let expected = if kind.starts_with("e") && *kind != "eintr" {
                        74
                    } else {
                        0
                    };
                    let one_line = output.stderr.iter().filter(|&&b| b == b'\n').count() <= 1;
                    let _ = fs::remove_file(self.path("run.checkpoint"));
                    trials.tried(there && clean && one_line && code == Some(expected), || {
                        format!("{out} {k}:{kind}: {output:?} {there} {clean}")
                    });
                }
            }
            all_calls.push(calls.unwrap());
        }
        for ((calls, fewest), (out, ..)) in all_calls.iter().zip(FEWEST).zip(programs) {
            trials.tried(*calls >= fewest, || {
                format!("{out}: only {calls} calls of {fewest} or more were made to fail")
            });
        }
        let kinds = kinds.join(", ");
        let note = format!(
            "{} calls of prep, {} of fit, {} of export; {kinds}",
            all_calls[0], all_calls[1], all_calls[2]
        );
        self.end(trials, note);
    }

    fn kills_of_prep(&mut self) {
        let mut trials = Trials::of("kill -9 of prep");
        let began = Instant::now();
        let output = finish(self.prep("out", "64", &["--force"]));
        assert!(output.status.success(), "{output:?}");
        let whole = began.elapsed().as_secs_f32();
        let mut caught = 0;
        while trials.tried < self.times(1000, 20) {
            if trials.tried.is_multiple_of(2) {
                let _ = fs::remove_dir_all(self.path("out"));
            }
            let moment = self.moment(whole);
            let child = spawn(self.prep("out", "64", &["--force"]));
            if kill_after(child, moment).success() {
                continue; // It ended before the kill.
            }
            caught += usize::from(self.path(".out.partial").exists());
            let kept = self.absent_or_complete("out");
            trials.tried(kept, || format!("{moment:?}"));
        }
        let output = finish(self.prep("out", "64", &["--force"]));
        assert!(output.status.success(), "{output:?}");
        let clean = self.absent_or_complete("out") && self.remains(".out.").is_empty();
        trials.lost += usize::from(!clean);
        self.end(
            trials,
            format!("{caught} while writing; the next prep works and leaves nothing"),
        );
    }

    fn kills_of_fits(&mut self) {
        let options = ["--checkpoint-every", "1", "--resume"];
        let sgd = [&options[..], &["--epochs", "60", "--val-split", "val"]].concat();
        let times = self.times(500, 20);
        self.kills_of_fit("kill -9 of fit, then --resume", times, &|c, out| {
            c.fit(out, &sgd)
        });
        let times = self.times(200, 10);
        let fault = "kill -9 of a converged fit, then --resume";
        self.kills_of_fit(fault, times, &|c, out| c.converged(out, &options));
    }

    fn kills_of_fit(
        &mut self,
        fault: &'static str,
        times: usize,
        fit: &dyn Fn(&Campaign, &str) -> Command,
    ) {
        let mut trials = Trials::of(fault);
        let began = Instant::now();
        let _ = fs::remove_dir_all(self.path("whole"));
        assert!(finish(fit(self, "whole")).status.success());
        let whole = began.elapsed().as_secs_f32();
        let expected = of_run(&self.path("whole"));
        let (mut caught, mut fits, mut resumed) = (0, 0, 0);
        // Kill the fit `times` times, then let it resume and end.
        loop {
            let kept = self.path("run6.checkpoint").exists();
            let last = trials.tried >= times && (kept || trials.tried >= 2 * times);
            let child = spawn(fit(self, "run6"));
            let status = if last {
                let output = bounded(child);
                let said = String::from_utf8_lossy(&output.stdout).contains("resumed: ");
                trials.tried(said, || format!("began anew: {output:?}"));
                resumed += usize::from(said);
                output.status
            } else {
                kill_after(child, self.moment(0.7 * whole))
            };
            let killed = status.signal() == Some(9);
            caught += usize::from(
                self.path(".run6.checkpoint.partial").exists()
                    || self.path(".run6.partial/summary.json").exists(),
            );
            // A kill leaves no run or a complete one, no checkpoint or a complete one.
            let run = of_run(&self.path("run6"));
            let kept = run
                .as_ref()
                .is_none_or(|run| Some(run) == expected.as_ref())
                && (run.is_some() || !self.path("run6").exists())
                && absent_or_whole(&self.path("run6.checkpoint"));
            trials.tried(kept && (killed || status.success()), || {
                format!("{status}, run there: {}, kept: {kept}", run.is_some())
            });
            if run.is_some() {
                fits += 1;
                fs::remove_dir_all(self.path("run6")).unwrap();
                let _ = fs::remove_file(self.path("run6.checkpoint"));
            }
            if last || !(killed || status.success()) {
                break;
            }
        }
        trials.tried(fits > 0 && resumed > 0, || {
            format!("{fits} fits came to their end, {resumed} of them by --resume")
        });
        for left in [".run6.checkpoint.partial", "run6.checkpoint"] {
            let _ = fs::remove_file(self.path(left));
        }
        let share = 100 * caught / trials.tried;
        self.end(trials, format!("{caught} ({share} %) while writing; {fits} fits came to their end, all with the bits of an unbroken one"));
    }

    /// Ctrl-C and SIGTERM give their exit code, one line and a checkpoint; resuming gives the same
    /// bits.
    fn signals(&mut self) {
        let mut trials = Trials::of("Ctrl-C or SIGTERM, of fit then --resume");
        let options = ["--checkpoint-every", "1h", "--resume"];
        let sgd = [&options[..], &["--epochs", "4000"]].concat();
        self.signals_to(&mut trials, self.times(50, 6), &|c, out| c.fit(out, &sgd));
        self.signals_to(&mut trials, self.times(50, 6), &|c, out| {
            c.converged(out, &options)
        });
        for i in 0..self.times(20, 4) {
            let (signal, code) = [("INT", 130), ("TERM", 143)][i % 2];
            let mut child = spawn(self.prep("stopped", "512", &[]));
            wait_for_line(&mut child, "features");
            let output = signal_and_finish(child, signal);
            let kept = output.status.code() == Some(code) && !self.path("stopped").exists();
            trials.tried(kept, || format!("prep: {output:?}"));
        }
        let clean = self.remains("run2").is_empty() && self.remains("stopped").is_empty();
        trials.lost += usize::from(!clean);
        self.end(
            trials,
            "exit 130 or 143, nothing left over; converged fits and prep among them",
        );
    }

    fn signals_to(
        &mut self,
        trials: &mut Trials,
        times: usize,
        fit: &dyn Fn(&Campaign, &str) -> Command,
    ) {
        let began = Instant::now();
        let _ = fs::remove_dir_all(self.path("whole2"));
        assert!(finish(fit(self, "whole2")).status.success());
        let whole = began.elapsed().as_secs_f32();
        let expected = of_run(&self.path("whole2"));
        let before = trials.tried;
        while trials.tried < before + times {
            let (signal, code) = [("INT", 130), ("TERM", 143)][trials.tried % 2];
            let mut child = spawn(fit(self, "run2"));
            wait_for_line(&mut child, "X ");
            std::thread::sleep(self.moment(0.8 * whole));
            let output = signal_and_finish(child, signal);
            if !output.status.success() {
                let kept = output.status.code() == Some(code) && !self.path("run2").exists();
                // There is no checkpoint while K is computed.
                let said = if self.path("run2.checkpoint").exists() {
                    "--resume"
                } else {
                    "nothing was written"
                };
                let said = String::from_utf8_lossy(&output.stderr).contains(said);
                let end = finish(fit(self, "run2"));
                let run = of_run(&self.path("run2"));
                let same = end.status.success() && run.is_some() && run == expected;
                trials.tried(kept && said && same, || format!("{output:?}"));
            }
            fs::remove_dir_all(self.path("run2")).unwrap();
        }
    }

    fn races(&mut self) {
        let mut trials = Trials::of("4 preps race for one directory");
        for _ in 0..self.times(200, 5) {
            let children: Vec<Child> = (0..4)
                .map(|_| spawn(self.prep("raced", "8", &[])))
                .collect();
            let codes: Vec<_> = (children.into_iter())
                .map(|child| bounded(child).status.code())
                .collect();
            let won = codes.iter().filter(|&&code| code == Some(0)).count();
            let refused = codes.iter().filter(|&&code| code == Some(73)).count();
            let complete = self.path("raced").exists() && self.absent_or_complete("raced");
            let clean = self.remains(".raced.").is_empty();
            trials.tried(won == 1 && refused == 3 && complete && clean, || {
                format!("{codes:?}")
            });
            let _ = fs::remove_dir_all(self.path("raced"));
        }
        self.end(trials, "one wins, three exit 73");
    }

    /// Disks of many sizes, if the user may mount a tmpfs.
    fn full_disks(&mut self) {
        let mut trials = Trials::of("disk full, prep and fit on tmpfs of 50 sizes");
        let disk = self.path("disk");
        fs::create_dir(&disk).unwrap();
        let sizes = self.times(50, 5);
        let (mut filled, mut skipped) = (0, false);
        for i in 0..sizes {
            let kib = 4 + 200 * i / sizes;
            let options = format!("size={kib}k");
            let mount = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "none"])
                .arg(&disk)
                .stderr(Stdio::null())
                .status();
            if !mount.is_ok_and(|status| status.success()) {
                skipped = true;
                break;
            }
            let fit = ["--epochs", "20", "--checkpoint-every", "1"];
            let outputs = [
                finish(self.prep("disk/out", "32", &[])),
                finish(self.fit("disk/run", &fit)),
            ];
            for (output, name) in outputs.iter().zip(["disk/out", "disk/run"]) {
                let code = output.status.code();
                let there = self.path(name).exists();
                filled += usize::from(code == Some(74));
                let kept = if there {
                    code == Some(0) && (name == "disk/run" || self.absent_or_complete(name))
                } else {
                    code == Some(74)
                };
                let hidden = fs::read_dir(&disk).unwrap().any(|entry| {
                    entry
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with('.')
                });
                trials.tried(kept && !hidden, || format!("{kib} KiB: {output:?}"));
            }
            let unmounted = Command::new("umount").arg(&disk).status().unwrap();
            assert!(unmounted.success());
        }
        let note = if skipped {
            common::skipped("full disks: no right to mount a tmpfs");
            "SKIPPED: no right to mount".to_string()
        } else {
            format!("{filled} times full; exit 74, nothing left over")
        };
        self.end(trials, note);
    }

    /// `ulimit -f` limits the blocks of 512 bytes of every file.
    fn small_files(&mut self) {
        let mut trials = Trials::of("files may not grow, prep at 50 limits");
        for blocks in (0..self.times(50, 5)).map(|i| i * 4) {
            let prep = self.prep("limited", "32", &[]);
            let mut command = Command::new("sh");
            command
                .arg("-c")
                .arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\""));
            command.arg(prep.get_program()).args(prep.get_args());
            command.current_dir(self.dir.path());
            let output = finish(command);
            let code = output.status.code();
            let there = self.path("limited").exists();
            let kept = (there && code == Some(0)) || (!there && code == Some(74));
            let clean = self.remains(".limited.").is_empty() && self.absent_or_complete("limited");
            trials.tried(kept && clean, || format!("{blocks}: {output:?}"));
            let _ = fs::remove_dir_all(self.path("limited"));
        }
        self.end(trials, "exit 74, or complete");
    }

    /// Every length and every bit of small files, read in this process.
    fn cuts_and_bits(&mut self) {
        let model_path = self.path("whole/model.safetensors");
        let read_model = |bytes: &[u8]| Model::parse("model".as_ref(), bytes).is_ok();
        let small = Model::new(vec![1.5; 12], vec![0.25; 3])
            .unwrap()
            .to_safetensors();
        let data = self.path("data");
        let read_data = || {
            Dataset::open(&data)
                .and_then(|d| d.split("train").map(|_| ()))
                .is_ok()
        };
        assert!(read_model(&small) && read_data());

        let mut bits =
            Trials::of("one bit flipped: every bit of a model, of dataset.json and of labels");
        let mut cuts =
            Trials::of("cut short: every length of models, dataset.json, labels, matrix");
        for bit in 0..8 * small.len() {
            bits.tried(!read_model(&flipped(&small, bit)), || {
                format!("model, bit {bit}")
            });
        }
        for model in [small, fs::read(model_path).unwrap()] {
            for len in 0..model.len() {
                cuts.tried(!read_model(&model[..len]), || format!("model, {len}"));
            }
        }
        for name in ["dataset.json", "train.y.npy", "train.x.npy"] {
            let path = data.join(name);
            let good = fs::read(&path).unwrap();
            let step = self.times(1, 17);
            for len in (0..good.len()).step_by(step) {
                fs::write(&path, &good[..len]).unwrap();
                cuts.tried(!read_data(), || format!("{name}, {len}"));
            }
            for bit in (0..8 * good.len()).step_by(step) {
                if name == "train.x.npy" {
                    break; // The matrix has another campaign.
                }
                fs::write(&path, flipped(&good, bit)).unwrap();
                bits.tried(!read_data(), || format!("{name}, bit {bit}"));
            }
            fs::write(&path, good).unwrap();
        }
        assert!(read_data());
        self.end(bits, "refused");
        self.end(cuts, "refused");
    }

    fn bits_of_a_matrix(&mut self) {
        let mut trials = Trials::of("one random bit flipped of a matrix of several blocks");
        assert!(finish(self.prep("large", "128", &[])).status.success());
        let path = self.path("large/train.x.npy");
        let dataset = Dataset::open(self.path("large")).unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let len = file.metadata().unwrap().len() as usize;
        use std::os::unix::fs::FileExt;
        for _ in 0..self.times(10_000, 300) {
            let bit = self.index(8 * len);
            let (at, mask) = ((bit / 8) as u64, 1 << (bit % 8));
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ mask], at).unwrap();
            trials.tried(dataset.split("train").is_err(), || format!("bit {bit}"));
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(dataset.split("train").is_ok());
        let blocks = len.div_ceil(1 << 20);
        self.end(trials, format!("refused; {blocks} blocks"));
    }

    /// NaN, infinities and too large values in files with correct checksums.
    fn plantings(&mut self) {
        let mut trials = Trials::of("NaN, Inf or beyond 1e15 planted in a cell");
        let data = self.path("data");
        let (x_path, json) = (data.join("train.x.npy"), data.join("dataset.json"));
        let (good_x, good_json) = (fs::read(&x_path).unwrap(), fs::read(&json).unwrap());
        let cells = (good_x.len() - 128) / 4;
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.1e15, -1.1e15];
        let plant = |cell: usize, value: f32| {
            let mut x = good_x.clone();
            x[128 + 4 * cell..][..4].copy_from_slice(&value.to_le_bytes());
            let mut manifest: Manifest = serde_json::from_slice(&good_json).unwrap();
            let mut blocks = Blocks::default();
            blocks.update(&x[128..]);
            manifest.splits[0].x_crc32 = blocks.to_hex();
            fs::write(&x_path, x).unwrap();
            fs::write(&json, serde_json::to_vec(&manifest.sealed()).unwrap()).unwrap();
            let split = Dataset::open(&data).unwrap().split("train");
            split
                .err()
                .map(|error| (error.exit_code(), error.to_string()))
        };
        for value in [1e-40, 1e15, -1e15] {
            assert_eq!(plant(7, value), None, "{value} is usable");
        }
        for i in 0..self.times(1000, 50) {
            let cell = match i {
                0 => 0,
                1 => cells - 1,
                _ => self.index(cells),
            };
            let found = plant(cell, values[i % values.len()]);
            let named = format!("row {}, column {}:", cell / 192, cell % 192);
            let refused = found
                .as_ref()
                .is_some_and(|(code, line)| *code == 65 && line.contains(&named));
            trials.tried(refused, || format!("{named} {found:?}"));
        }
        // One value by the program, on both engines.
        for engine in ["gram", "primal"] {
            let output = finish(self.fit("run", &["--engine", engine, "--force"]));
            trials.tried(output.status.code() == Some(65), || format!("{output:?}"));
        }
        fs::write(x_path, good_x).unwrap();
        fs::write(json, good_json).unwrap();
        self.end(trials, "exit 65 naming row and column");
    }

    /// The matrix is truncated or rewritten while a fit has it mapped.
    fn changes_under_the_map(&mut self) {
        use std::os::unix::fs::FileExt;
        let path = self.path("large/train.x.npy");
        let good = fs::read(&path).unwrap();
        for (fault, cut) in [
            ("matrix cut short under the map of a fit", true),
            ("matrix rewritten in place under the map of a fit", false),
        ] {
            let mut trials = Trials::of(fault);
            for i in 0..self.times(20, 4) {
                fs::write(&path, &good).unwrap();
                let engine = ["primal", "gram"][i % 2];
                let epochs = ["4000", "300000"][i % 2];
                let mut command = Command::new(FIT);
                command.args([
                    "large", "--out", "mapped", "--engine", engine, "--epochs", epochs,
                ]);
                command.current_dir(self.dir.path());
                let json = i % 4 > 1;
                if json {
                    command.arg("--json-logs");
                }
                let mut child = spawn(command);
                wait_for_line(&mut child, "sgd:");
                std::thread::sleep(self.moment(0.15));
                let file = fs::File::options().write(true).open(&path).unwrap();
                if cut {
                    file.set_len(self.index(good.len()) as u64).unwrap()
                } else {
                    file.write_all_at(&[255; 4096], self.index(good.len() - 4096) as u64)
                        .unwrap()
                }
                let output = bounded(child);
                let lines = output.stderr.iter().filter(|&&b| b == b'\n').count();
                let no_output = !self.path("mapped").exists();
                let line: Option<serde_json::Value> = serde_json::from_slice(&output.stderr).ok();
                let told = line.is_some_and(|line| line["event"] == "error" && line["code"] == 75);
                let right =
                    output.status.code() == Some(75) && lines == 1 && told == json && no_output;
                trials.tried(right && !output.status.core_dumped(), || {
                    format!("{output:?}")
                });
                let _ = fs::remove_dir_all(self.path("mapped"));
            }
            self.end(trials, "one line, exit 75, no core dump, no output");
        }
        fs::write(&path, &good).unwrap();
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

type RunBytes = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Model, history and path of penalties (if there is one); `None` without a run.
fn of_run(run: &Path) -> Option<RunBytes> {
    let read = |name| fs::read(run.join(name)).ok();
    let path = read("path.json");
    Some((read("model.safetensors")?, read("history.jsonl")?, path))
}

/// Whether a checkpoint is absent or complete.
fn absent_or_whole(checkpoint: &Path) -> bool {
    let whole = |bytes: Vec<u8>| flowreg::io::tensors::read_all(&bytes).is_ok();
    fs::read(checkpoint).map_or(!checkpoint.exists(), whole)
}

/// The names in a directory, in order.
fn names_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn finish(command: Command) -> Output {
    bounded(spawn(command))
}

fn kill_after(mut child: Child, moment: Duration) -> ExitStatus {
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap()
}

fn signal_and_finish(child: Child, signal: &str) -> Output {
    process::signal(&child, signal);
    bounded(child)
}
