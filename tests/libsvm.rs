//! LIBSVM texts by the binaries: prepared, fitted and predicted.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::world::{FIT, PREDICT, PREP, World, succeeds};
use flowreg::Dataset;

/// Rows of 3 classes with indices from `first`, most features left out.
fn text(first: usize, rows: usize, seed: u32) -> String {
    let mut uniform = common::uniform(seed);
    let mut text = String::new();
    for i in 0..rows {
        let label = i % 3;
        text += &format!("{}.0 qid:{i}", label + 1);
        for j in 0..20 {
            if j % 3 == label && uniform() < 0.8 || uniform() < 0.2 {
                text += &format!(" {}:{}", j + first, uniform());
            }
        }
        text += if i % 5 == 0 { " # a note\r\n" } else { "\n" };
    }
    text
}

fn folder() -> World {
    World(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// Packed, piped and plain texts give the same rows. flowreg-predict reads the text as flowreg-prep
/// did, and prints the accuracy and loss of the fit.
#[test]
fn a_libsvm_text_is_prepared_fitted_and_predicted() {
    for first in [0, 1] {
        let world = folder();
        let (train, test) = (text(first, 120, 1), text(first, 60, 2));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(test.as_bytes()).unwrap();
        std::fs::write(world.path("train"), &train).unwrap();
        std::fs::write(world.path("test"), gz.finish().unwrap()).unwrap();
        let said = succeeds(&world.run(
            PREP,
            &[
                "libsvm", "--train", "train", "--test", "test", "--out", "set",
            ],
        ));
        let bytes = 180 * (4 * 20 + 8);
        assert!(said.contains("qid: of 180 lines"), "{said}");
        let forecast = format!("180 rows x 20 features, numbered from {first}: {bytes} bytes");
        assert!(said.contains(&forecast), "{said}");
        let values = (train.clone() + &test).matches(':').count() - 180;
        let spool = format!("and {} more during writing", 180 * 4 + values * 12);
        assert!(said.contains(&spool), "{spool}: {said}");
        let out = ["--test", "test", "--out", "piped"];
        let args = [&["libsvm", "--train", "-"], &out[..]].concat();
        succeeds(&world.run_piped(PREP, &args, train.as_bytes()));
        let checksums = |name: &str| {
            let dataset = Dataset::open(world.path(name)).unwrap();
            dataset.verify().unwrap();
            let splits = dataset.manifest().splits.clone();
            splits
                .into_iter()
                .map(|s| (s.name, s.x_sha256, s.y_sha256))
                .collect::<Vec<_>>()
        };
        assert_eq!(checksums("set"), checksums("piped"));

        let fit = [
            "set",
            "--lr",
            "auto",
            "--epochs",
            "200",
            "--no-report",
            "--out",
            "run",
        ];
        succeeds(&world.run(FIT, &fit));
        let summary = common::json(&world.path("run/summary.json"));
        for input in ["test", "set/test.x.npy"] {
            let labels: &[&str] = match input {
                "test" => &[],
                _ => &["--y", "names.npy"],
            };
            // The labels of the text, 1 to 3.
            let mut y = flowreg::io::npy::Header::encode(flowreg::io::npy::Dtype::U8, &[60]);
            y.extend((0..60).map(|i| i % 3 + 1));
            std::fs::write(world.path("names.npy"), y).unwrap();
            let args = [&["run", input, "--json"], labels].concat();
            let output = world.run(PREDICT, &args);
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            let last: serde_json::Value =
                serde_json::from_str(text.lines().last().unwrap()).unwrap();
            let found = &last["evaluation"];
            assert_eq!(found["rows"], 60);
            assert_eq!(found["accuracy"], summary["eval_accuracy"]);
            let loss = |value: &serde_json::Value| value.as_f64().unwrap();
            let apart = loss(&found["loss"]) - loss(&summary["eval_loss"]);
            assert!(apart.abs() < 1e-6, "{apart}");
        }
    }
}

#[test]
fn options_are_applied_and_invalid_ones_named() {
    let world = folder();
    std::fs::write(world.path("t"), "1 1:1\n2 2:1\n").unwrap();
    let prep = |rest: &[&str]| {
        let args = ["libsvm", "--train", "t", "--out", "set", "--force"];
        world.run(PREP, &[&args[..], rest].concat())
    };
    for (rest, features) in [
        (&["--first-index", "0"][..], 3),
        (&["--features", "9"], 9),
        (&[], 2),
    ] {
        succeeds(&prep(rest));
        let dataset = Dataset::open(world.path("set")).unwrap();
        assert_eq!(dataset.manifest().features, features);
    }
    std::fs::remove_dir_all(world.path("set")).unwrap();
    for (code, rest, part) in [
        (65, &["--features", "1"][..], "--features 2"),
        (64, &["--features", "0"], "--features"),
        (64, &["--first-index", "2"], "--first-index"),
        (64, &["--val", "-", "--test", "-"], "standard input"),
    ] {
        world.refuses(code, &[part], |_| prep(rest));
    }
    // A folder and a device are named as such.
    world.refuses(65, &["a folder"], |world| {
        world.run(PREP, &["libsvm", "--train", ".", "--out", "../x"])
    });
    #[cfg(unix)]
    world.refuses(65, &["a device"], |world| {
        world.run(PREP, &["libsvm", "--train", "/dev/zero", "--out", "x"])
    });
}

/// Ctrl-C ends a program that waits for a pipe, and no file is left.
#[cfg(unix)]
#[test]
fn an_empty_pipe_can_be_interrupted() {
    use std::os::unix::process::ExitStatusExt;
    let world = folder();
    let mut child = Command::new(PREP)
        .args(["libsvm", "--train", "-", "--out", "set"])
        .current_dir(world.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    while !world.path(".set.partial").exists() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(common::process::signal(&child, "INT"));
    let output = common::process::bounded(child);
    assert_eq!(
        (output.status.code(), output.status.signal()),
        (Some(130), None)
    );
    assert!(world.listing().is_empty(), "{:?}", world.listing());
    drop(stdin);
}
