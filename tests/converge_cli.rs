//! Converged fits by the binary: output files, printed results, and refused arguments.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flowreg::data::demo::{DemoOptions, write_photographs};
use flowreg::{Dataset, Model};

const PREP: &str = env!("CARGO_BIN_EXE_flowreg-prep");
const FIT: &str = env!("CARGO_BIN_EXE_flowreg-fit");

struct World(tempfile::TempDir);

impl World {
    fn new() -> World {
        let world = World(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let flowers = DemoOptions {
            classes: 4,
            per_class: [5, 4, 3],
            seed: 1,
            cancel: None,
        };
        std::fs::create_dir(world.path("photographs")).unwrap();
        write_photographs(&world.path("photographs"), &flowers, &|_| {}).unwrap();
        let prep = [
            "flowers102",
            "--no-verify",
            "--size",
            "8",
            "--root",
            "photographs",
            "--out",
            "data",
        ];
        assert!(world.run(PREP, &prep).status.success());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        command.output().unwrap()
    }

    /// A fit to `out`: stdout and stderr.
    #[track_caller]
    fn fit(&self, out: &str, args: &[&str]) -> (String, String) {
        let output = self.run(
            FIT,
            &[&["data", "--optimizer", "newton", "--out", out], args].concat(),
        );
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        (stdout, stderr)
    }

    #[track_caller]
    fn refuses(&self, code: i32, part: &str, args: &[&str]) {
        let output = self.run(FIT, &[&["data", "--out", "no"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        assert!(!self.path("no").exists());
    }
}

fn json(directory: &Path, name: &str) -> serde_json::Value {
    common::json(&directory.join(name))
}

#[test]
fn a_converged_fit_reports_its_status() {
    let world = World::new();
    let (stdout, stderr) = world.fit("run", &["--l2", "0.1"]);
    assert!(
        stdout.contains("within") && stderr.is_empty(),
        "{stdout}{stderr}"
    );
    let summary = json(&world.path("run"), "summary.json");
    assert_eq!(summary["optimizer"], "newton");
    assert_eq!(summary["status"], "converged");
    assert_eq!(summary["l2"], 0.1);
    assert!(summary["gap"].as_f64().unwrap() < 1e-6 * summary["objective"].as_f64().unwrap());
    assert!(summary["products"]["solves"].as_u64().unwrap() > 0);
    assert!(!world.path("run/path.json").exists());
    let history = std::fs::read_to_string(world.path("run/history.jsonl")).unwrap();
    let norms: Vec<f64> = (history.lines())
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["gradient_norm"]
                .as_f64()
                .unwrap()
        })
        .collect();
    assert_eq!(
        norms.len() as u64,
        summary["iterations"].as_u64().unwrap() + 1
    );
    assert!(norms.last().unwrap() <= &(1e-5 * norms[0]));

    // L-BFGS and the primal engine reach the same optimum.
    for (out, args) in [
        ("lbfgs", ["--optimizer", "lbfgs"]),
        ("primal", ["--engine", "primal"]),
    ] {
        let optimizer = if out == "lbfgs" {
            args.to_vec()
        } else {
            vec!["--optimizer", "newton", args[0], args[1]]
        };
        let output = world.run(
            FIT,
            &[&["data", "--l2", "0.1", "--out", out], &optimizer[..]].concat(),
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let other = json(&world.path(out), "summary.json");
        let off = common::relative(
            other["objective"].as_f64().unwrap(),
            summary["objective"].as_f64().unwrap(),
        );
        assert!(off < 1e-6, "{out}: {off}");
    }

    // Without a penalty there is no minimum, which a warning on stderr reports.
    let (_, stderr) = world.fit("separable", &["--l2", "0"]);
    assert!(
        stderr.contains("separable") && stderr.contains("--l2"),
        "{stderr}"
    );
    assert_eq!(
        json(&world.path("separable"), "summary.json")["status"],
        "separable"
    );
    let (_, stderr) = world.fit("short", &["--l2", "0.001", "--max-iterations", "1"]);
    assert!(
        stderr.contains("iteration limit") && stderr.contains("--max-iterations"),
        "{stderr}"
    );
}

#[test]
fn a_path_is_printed_and_written_and_its_best_penalty_chosen() {
    let world = World::new();
    let (stdout, _) = world.fit(
        "run",
        &[
            "--l2-path",
            "1:0.001:4",
            "--val-split",
            "val",
            "--calibrate",
        ],
    );
    let path = json(&world.path("run"), "path.json");
    let entries = path.as_array().unwrap();
    assert_eq!(entries.len(), 4);
    assert_eq!(stdout.matches("val loss").count(), 4);
    let losses: Vec<f64> = entries
        .iter()
        .map(|e| e["val_loss"].as_f64().unwrap())
        .collect();
    let lowest = (0..4).fold(0, |low, i| if losses[i] < losses[low] { i } else { low });
    let summary = json(&world.path("run"), "summary.json");
    assert_eq!(summary["l2"], entries[lowest]["l2"]);

    // The temperature is stored with the model and applies to its probabilities.
    let calibration = &summary["calibration"];
    let temperature = calibration["temperature"].as_f64().unwrap();
    let log_loss = |key: &str| calibration[key]["log_loss"].as_f64().unwrap();
    assert!(log_loss("after") <= log_loss("before"));
    let model = Model::load(world.path("run/model.safetensors")).unwrap();
    assert_eq!(model.about().temperature, Some(temperature));
    let dataset = Dataset::open(world.path("data")).unwrap();
    let val = dataset.split("val").unwrap();
    let val = val.samples().unwrap();
    let x: Vec<f32> = (0..val.rows())
        .flat_map(|i| val.x().row(i).to_vec())
        .collect();
    let p = model.probabilities(&x).unwrap();
    let rows = p.chunks_exact(4).zip(val.labels());
    let mean = -rows
        .map(|(p, &label)| f64::from(p[label as usize]).ln())
        .sum::<f64>()
        / val.rows() as f64;
    // Losses below 6e-8 cannot be computed from probabilities in f32.
    let after = log_loss("after");
    assert!(
        (mean - after).abs() < 1e-4 * after + 6e-8,
        "{mean} {calibration}"
    );

    let (stdout, _) = world.fit(
        "cv",
        &[
            "--l2",
            "auto",
            "--cv",
            "3",
            "--cv-rule",
            "one-se",
            "--seed",
            "4",
        ],
    );
    assert!(stdout.contains(" ± "), "{stdout}");
    let folds = json(&world.path("cv"), "summary.json");
    assert_eq!(folds["folds"], 3);
    world.fit(
        "all",
        &[
            "--val-split",
            "val",
            "--refit",
            "all",
            "--class-weight",
            "balanced",
            "--standardize",
            "both",
        ],
    );
    let all = json(&world.path("all"), "summary.json");
    assert_eq!(
        (
            &all["refit_all"],
            &all["class_weights"],
            &all["standardize"]
        ),
        (&true.into(), &"balanced".into(), &"both".into())
    );
}

#[test]
fn weights_come_from_files_for_every_optimizer() {
    let world = World::new();
    std::fs::write(world.path("classes.txt"), "1 0\n2.5\n1e0\n").unwrap();
    std::fs::write(world.path("ones.txt"), "1\n".repeat(20)).unwrap();
    for optimizer in ["newton", "sgd"] {
        let fit = |out: &str, args: &[&str]| {
            let output = world.run(
                FIT,
                &[
                    &["data", "--optimizer", optimizer, "--out", out, "--force"],
                    args,
                ]
                .concat(),
            );
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            std::fs::read(world.path(out).join("model.safetensors")).unwrap()
        };
        let plain = fit("plain", &[]);
        assert!(
            fit("ones", &["--sample-weight", "ones.txt"]) == plain,
            "{optimizer}: weights of 1 change nothing"
        );
        assert!(fit("classes", &["--class-weight", "classes.txt"]) != plain);
        assert!(fit("smooth", &["--label-smoothing", "0.1"]) != plain);
        // All classes have the same number of rows.
        assert!(fit("balanced", &["--class-weight", "balanced"]) == plain);
    }
}

/// `--C inf` is `--l2 0`.
#[test]
fn an_infinite_c_is_no_penalty() {
    let world = World::new();
    world.fit("c", &["--C", "inf"]);
    world.fit("l2", &["--l2", "0"]);
    let model = |run: &str| std::fs::read(world.path(run).join("model.safetensors")).unwrap();
    assert!(model("c") == model("l2"));
    assert_eq!(json(&world.path("c"), "summary.json")["l2"], 0.0);
}

#[test]
fn invalid_options_are_refused() {
    let world = World::new();
    std::fs::write(world.path("words.txt"), "1 two 3").unwrap();
    std::fs::write(world.path("two.txt"), "1 2").unwrap();
    let newton = |args: &[&'static str]| [&["--optimizer", "newton"], args].concat();
    world.refuses(64, "--l2: found -1", &newton(&["--l2", "-1"]));
    world.refuses(64, "finite", &newton(&["--l2", "nan"]));
    world.refuses(64, "or inf, which is no penalty", &newton(&["--C", "0"]));
    world.refuses(64, "or inf for no penalty", &newton(&["--C", "nan"]));
    world.refuses(64, "FROM:TO:COUNT", &newton(&["--l2-path", "1:2"]));
    world.refuses(64, "--val-split or --cv", &newton(&["--l2", "auto"]));
    world.refuses(
        64,
        "the rows of the training split",
        &newton(&["--cv", "600"]),
    );
    world.refuses(
        64,
        "--momentum: found --optimizer newton, expected --optimizer sgd",
        &newton(&["--momentum", "0.9"]),
    );
    world.refuses(64, "--l2: found --optimizer sgd", &["--l2", "1"]);
    world.refuses(
        64,
        "--label-smoothing",
        &newton(&["--label-smoothing", "1"]),
    );
    world.refuses(64, "--standardize", &newton(&["--standardize", "all"]));
    world.refuses(64, "--refit", &newton(&["--refit", "all"]));
    world.refuses(
        65,
        "words.txt: weight 1: found \"two\"",
        &newton(&["--class-weight", "words.txt"]),
    );
    world.refuses(
        65,
        "--class-weight: found 2 weights, expected 4",
        &newton(&["--class-weight", "two.txt"]),
    );
    world.refuses(
        65,
        "20: one per row",
        &newton(&["--sample-weight", "two.txt"]),
    );
    world.refuses(74, "none.txt", &newton(&["--sample-weight", "none.txt"]));
}
