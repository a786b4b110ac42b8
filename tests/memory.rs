//! Memory besides the map: softmax-fast runs in 150 MB; too little memory gives exit code 71.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use flowreg::io::npy::{Dtype, Header, f32_file};

/// flowreg-fit with at most `bytes` of private writable memory (RLIMIT_DATA: heap and stacks, touched
/// or not, but no maps of files).
fn fit_within(bytes: usize) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"ulimit -d "$1" && shift && exec "$@""#, "sh"])
        .arg((bytes / 1024).to_string())
        .arg(env!("CARGO_BIN_EXE_flowreg-fit"));
    command
}

fn softmax_fast_within(bytes: usize, dataset: &Path, out: &Path) -> Output {
    fit_within(bytes)
        .arg(dataset)
        .args(["--recipe", "softmax-fast", "--threads", "2", "--out"])
        .arg(out)
        .output()
        .expect("a shell")
}

/// Matrices of the size of K take tens of megabytes here, everything else very little.
#[test]
fn a_gram_matrix_without_memory_exits_71() {
    let dir = tempfile::tempdir().expect("a directory");
    let fit = |rows: usize, features: usize, megabytes: usize, args: &[&str]| {
        let x: Vec<f32> = (0..rows * features).map(|i| (i * i % 97) as f32).collect();
        std::fs::write(dir.path().join("x.npy"), f32_file(&[rows, features], &x)).unwrap();
        let mut y = Header::encode(Dtype::U8, &[rows]);
        y.extend((0..rows).map(|row| (row % 2) as u8));
        std::fs::write(dir.path().join("y.npy"), y).unwrap();
        let _ = std::fs::remove_dir_all(dir.path().join("run"));
        let output = fit_within(megabytes << 20)
            .args(["--x", "x.npy", "--y", "y.npy", "--threads", "1"])
            .args(["--no-report", "--out", "run"])
            .args(args)
            .current_dir(dir.path())
            .output()
            .expect("a shell");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.success(),
            dir.path().join("run").exists(),
            "{complaint}"
        );
        (output.status.code(), complaint)
    };
    let refused = |(code, complaint): (Option<i32>, String)| {
        assert_eq!(code, Some(71), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        for part in ["--engine", "no memory", "expected"] {
            assert!(complaint.contains(part), "{part:?} is not in {complaint}");
        }
    };
    refused(fit(2000, 10, 30, &["--engine", "gram"]));
    let newton = |engine| ["--optimizer", "newton", "--engine", engine];
    refused(fit(1500, 1600, 30, &newton("gram")));
    refused(fit(1500, 1600, 30, &newton("auto")));
    refused(fit(2500, 2000, 30, &newton("primal")));
    // The primal engine of SGD needs no K.
    let (code, complaint) = fit(1500, 3000, 30, &["--epochs", "600", "--lr", "1e-6"]);
    assert_eq!(code, Some(0), "{complaint}");
    let summary = common::json(&dir.path().join("run/summary.json"));
    assert_eq!(summary["engine"], "primal");
}

#[test]
fn softmax_fast_fits_150_megabytes_beside_the_map() {
    let Some(shared) = common::shared("memory of softmax-fast") else {
        return;
    };
    common::flowers128(&shared);
    let dataset = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flowers128");
    let room = tempfile::tempdir().expect("a directory");
    let output = softmax_fast_within(150_000_000, &dataset, &room.path().join("run"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    // The limit is effective: W alone takes 20 MB.
    let output = softmax_fast_within(20_000_000, &dataset, &room.path().join("none"));
    assert!(!output.status.success() && !room.path().join("none").exists());
}
