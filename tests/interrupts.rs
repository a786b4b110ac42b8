//! Ctrl-C and SIGTERM while K is computed and while arrays and tables are prepared, and a second
//! signal.
#![cfg(unix)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::process::{bounded, signal as signal_to, wait_for_line};
use flowreg::data::arrays::{self, ArrayOptions, ArrayPart};
use flowreg::data::csv_text::{self, CsvOptions};
use flowreg::data::demo::{self, DemoOptions};
use flowreg::data::download;
use flowreg::data::flowers102::{self, Verify};
use flowreg::data::libsvm::{self, LibsvmOptions};
use flowreg::data::prep::{self, PrepOptions};
use flowreg::data::source::Part;
use flowreg::io::npy::{Dtype, Header};
use flowreg::io::publish::Overwrite;
use flowreg::{Cancel, Error};

const FIT: &str = env!("CARGO_BIN_EXE_flowreg-fit");

/// Write a sparse file of X: zeros and one value that is not a byte over 255; and alternating labels
/// of two classes.
fn arrays(dir: &Path, rows: usize, features: usize) {
    let header = Header::encode(Dtype::F32, &[rows, features]);
    let mut x = File::create(dir.join("x.npy")).unwrap();
    x.write_all(&header).unwrap();
    x.write_all(&0.3f32.to_le_bytes()).unwrap();
    x.set_len((header.len() + 4 * rows * features) as u64)
        .unwrap();
    let mut y = Header::encode(Dtype::U8, &[rows]);
    y.extend((0..rows).map(|row| (row % 2) as u8));
    fs::write(dir.join("y.npy"), y).unwrap();
}

fn start(dir: &Path, args: &[&str]) -> Child {
    Command::new(FIT)
        .args(["--x", "x.npy", "--y", "y.npy", "--out", "run"])
        .args(["--threads", "1"])
        .args(args)
        .current_dir(dir)
        .env("FLOWREG_ISA", "portable")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A signal stops the computation of K, which takes seconds here: no checkpoint is written.
#[test]
fn the_first_signal_stops_the_gram_matrix() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sgd = ["--gemm", "own", "--engine", "gram"];
    let newton = |engine| ["--optimizer", "newton", "--engine", engine];
    let cases = [
        ((1000, 32768), sgd, "INT", 130),
        ((1000, 32768), newton("gram"), "TERM", 143),
        ((32768, 1500), newton("primal"), "INT", 130),
    ];
    for ((rows, features), args, signal, code) in cases {
        arrays(dir.path(), rows, features);
        let args = [&args[..], &["--checkpoint-every", "1h"]].concat();
        let mut child = start(dir.path(), &args);
        wait_for_line(&mut child, "1 threads");
        assert!(signal_to(&child, signal));
        let output = bounded(child);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains("nothing was written"), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "{args:?}: something was left behind");
    }
}

/// A signal stops a preparation of seconds while blocks are read, written and hashed.
#[test]
fn the_first_signal_stops_a_preparation() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    arrays(dir.path(), 1 << 16, 1 << 14);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let child = Command::new(env!("CARGO_BIN_EXE_flowreg-prep"))
            .args(["npy", "--x", "x.npy", "--y", "y.npy", "--out", "out"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = dir.path().join(".out.partial/train.x.npy");
        let has_blocks = || fs::metadata(&written).is_ok_and(|file| file.len() > 16 << 20);
        let began = Instant::now();
        while !has_blocks() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "nothing is written"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(signal_to(&child, signal));
        let output = bounded(child);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("nothing was written"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "something was left behind");
    }
}

/// The second signal ends a process that waits for a pipe and does not react to the first.
#[test]
fn the_second_signal_ends_at_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    arrays(dir.path(), 4, 3);
    let fifo = dir.path().join("weights");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for (second, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = start(dir.path(), &["--sample-weight", "weights"]);
        // `open` returns when the process opens the pipe.
        let _writer = File::options().write(true).open(&fifo).unwrap();
        assert!(signal_to(&child, "INT"));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(child.try_wait().unwrap(), None, "the first one waits");
        assert!(signal_to(&child, second));
        let output = bounded(child);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        assert!(!dir.path().join("run").exists());
    }
}

/// A library caller stops a preparation as it stops a fit: from the callback, or before it begins.
/// Nothing is left over.
#[test]
fn the_caller_stops_a_preparation() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    arrays(dir.path(), 1 << 12, 1 << 12);
    let path = |name: &str| dir.path().join(name);
    fs::write(path("table.csv"), "a,label\n1,x\n2,y\n").unwrap();
    fs::write(path("text"), "1 1:2\n2 1:3\n").unwrap();
    let demo = DemoOptions {
        classes: 2,
        per_class: [2, 1, 1],
        ..DemoOptions::default()
    };
    demo::write_photographs(&path("photographs"), &demo, &|_| {}).unwrap();
    let photographs = flowers102::open(&path("photographs"), Verify::Any, &Cancel::new()).unwrap();
    let before = fs::read_dir(dir.path()).unwrap().count();
    for at_once in [true, false] {
        for kind in ["npy", "csv", "libsvm", "photographs"] {
            let cancel = Cancel::new();
            if at_once {
                cancel.cancel();
            }
            let told = AtomicU64::new(0);
            let stop = |n: u64| {
                told.fetch_add(n, Ordering::Relaxed);
                cancel.cancel();
            };
            let (out, stopped) = (path("out"), Some(cancel.clone()));
            let part = |name: &str| Part {
                name: "train",
                path: path(name),
            };
            let never = Overwrite::Never;
            let made = match kind {
                "npy" => {
                    let options = ArrayOptions {
                        cancel: stopped,
                        ..ArrayOptions::default()
                    };
                    let part = ArrayPart {
                        name: "train",
                        x: path("x.npy"),
                        y: path("y.npy"),
                    };
                    arrays::prepare(&[part], &options, &out, never, &stop)
                }
                // Its rows are one block, so that it would be whole before it is asked again.
                "csv" | "libsvm" if !at_once => continue,
                "csv" => {
                    let options = CsvOptions {
                        label: "label".to_string(),
                        cancel: stopped,
                        ..CsvOptions::default()
                    };
                    csv_text::prepare(&[part("table.csv")], &options, &out, never, &stop)
                }
                "libsvm" => {
                    let options = LibsvmOptions {
                        cancel: stopped,
                        ..LibsvmOptions::default()
                    };
                    libsvm::prepare(&[part("text")], &options, &out, never, &|_| stop(0))
                }
                _ => {
                    let options = PrepOptions {
                        size: 8,
                        cancel: stopped,
                        ..PrepOptions::default()
                    };
                    prep::prepare(&photographs, &options, &out, never, &stop)
                }
            };
            let error = made.map(drop).unwrap_err();
            assert!(
                matches!(error, Error::Interrupted { .. }),
                "{kind}: {error}"
            );
            let told = told.into_inner();
            assert_eq!(told == 0, at_once, "{kind}: {told} rows were told");
            let left = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(left, before, "{kind}: something was left behind");
        }
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let archive = flowers102::OFFICIAL[0];
    let fetched = download::fetch(
        "http://127.0.0.1:9",
        &archive,
        dir.path(),
        &cancel,
        &mut |_, _| {},
    );
    assert!(
        matches!(fetched, Err(Error::Interrupted { .. })),
        "{fetched:?}"
    );
}
