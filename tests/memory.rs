//! Memory beside the map: softmax-fast, whole, in 150 MB.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

/// Fit with so many bytes of private writable memory (RLIMIT_DATA: heap, stacks, everything but
/// the maps of files), touched or not.
fn softmax_fast_within(bytes: usize, dataset: &Path, out: &Path) -> Output {
    Command::new("sh")
        .args(["-c", r#"ulimit -d "$1" && shift && exec "$@""#, "sh"])
        .arg((bytes / 1024).to_string())
        .arg(env!("CARGO_BIN_EXE_flowreg-fit"))
        .arg(dataset)
        .args(["--recipe", "softmax-fast", "--threads", "2", "--out"])
        .arg(out)
        .output()
        .expect("a shell")
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
    // The limit is one: W alone takes 20 MB.
    let output = softmax_fast_within(20_000_000, &dataset, &room.path().join("none"));
    assert!(!output.status.success() && !room.path().join("none").exists());
}
