//! Data that people bring: arrays without a prep step, folders, an archive as it is published,
//! and what the commands say about all of it.

mod common;

use common::world::{FIT, PREDICT, PREP, World, succeeds};
use flowreg::Dataset;
use flowreg::data::npy::{self, Dtype, Header};

#[test]
fn arrays_are_fitted_as_the_dataset_that_they_come_from() {
    let world = World::new();
    succeeds(&world.fit(&["--epochs", "9", "--val-split", "val", "--eval-split", "val"]));
    let arrays = [
        "--x",
        "data/train.x.npy",
        "--y",
        "data/train.y.npy",
        "--x-val",
        "data/val.x.npy",
        "--y-val",
        "data/val.y.npy",
    ];
    succeeds(
        &world.run(
            FIT,
            &[
                &arrays[..],
                &["--epochs", "9", "--early-stopping", "9", "--out", "plain"],
            ]
            .concat(),
        ),
    );
    let same = |name: &str| {
        let read = |run: &str| std::fs::read(world.path(run).join(name)).unwrap();
        assert!(read("run") == read("plain"), "{name}");
    };
    same("history.jsonl");
    let summary =
        |run: &str| common::json(&world.path(run).join("summary.json"))["eval_loss"].clone();
    assert_eq!(summary("run"), summary("plain"));
    assert!(!world.path("plain/weights.png").exists());

    // They are no photographs, so the model takes rows only.
    succeeds(&world.run(PREDICT, &["plain", "data/test.x.npy"]));
    world.refuses(65, &["image_00001.jpg", "knows no transform"], |world| {
        world.run(PREDICT, &["plain", "photographs/jpg/image_00001.jpg"])
    });
    for args in [
        &["--x", "data/train.x.npy"][..],
        &["--x", "a", "--y", "b", "data"],
        &["--x", "a", "--y", "b", "--x-val", "c"],
    ] {
        world.refuses(64, &["--"], |world| {
            world.run(FIT, &[args, &["--out", "r"]].concat())
        });
    }
    world.refuses(65, &["val.y.npy", "one label a row, 12"], |world| {
        world.run(
            FIT,
            &[
                "--x",
                "data/train.x.npy",
                "--y",
                "data/val.y.npy",
                "--out",
                "r",
            ],
        )
    });
    for (label, part) in [(-1, "found -1"), (2_000_000_000, "1536000000768 bytes")] {
        world.refuses(65, &["y.npy", part], |world| {
            let mut y = Header::encode(Dtype::I32, &[12]);
            for label in [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, label] {
                y.extend(i32::to_le_bytes(label));
            }
            std::fs::write(world.path("data/y.npy"), y).unwrap();
            world.run(
                FIT,
                &["--x", "data/train.x.npy", "--y", "data/y.npy", "--out", "r"],
            )
        });
    }
    let mut x = std::fs::read(world.path("data/train.x.npy")).unwrap();
    let row = x.len() - 7 * 192 * 4;
    x[row..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(world.path("data/nan.npy"), x).unwrap();
    for engine in ["gram", "primal"] {
        world.refuses(
            65,
            &["nan.npy", "row 5, column 0", "fill in or drop"],
            |world| {
                let arrays = ["--x", "data/nan.npy", "--y", "data/train.y.npy"];
                let rest = ["--engine", engine, "--out", "r"];
                world.run(FIT, &[&arrays[..], &rest].concat())
            },
        );
    }
}

#[test]
fn an_archive_gives_what_its_files_give() {
    let world = World::new();
    std::fs::create_dir(world.path("packed")).unwrap();
    for file in ["imagelabels.mat", "setid.mat"] {
        std::fs::copy(
            world.path("photographs").join(file),
            world.path("packed").join(file),
        )
        .unwrap();
    }
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    tar.append_dir_all("jpg", world.path("photographs/jpg"))
        .unwrap();
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    std::fs::write(world.path("packed/102flowers.tgz"), bytes).unwrap();
    succeeds(&world.prep("packed", "again"));
    let manifest = |name: &str| {
        let dataset = Dataset::open(world.path(name)).unwrap();
        serde_json::to_value(dataset.manifest()).unwrap()
    };
    assert_eq!(manifest("data"), manifest("again"));
    assert!(!world.path("packed/jpg").exists());

    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let bytes = tar::Builder::new(gzip)
        .into_inner()
        .unwrap()
        .finish()
        .unwrap();
    std::fs::write(world.path("packed/102flowers.tgz"), bytes).unwrap();
    world.refuses(65, &["102flowers.tgz", "no such file"], |world| {
        world.prep("packed", "empty")
    });
}

#[test]
fn a_folder_of_photographs_to_a_prediction() {
    let world = World::new();
    for class in 0..4 {
        let folder = world.path("mine").join(format!("flower {class}"));
        std::fs::create_dir_all(&folder).unwrap();
        for i in 7 * class + 1..7 * class + 8 {
            let name = format!("image_{i:05}.jpg");
            std::fs::copy(
                world.path("photographs/jpg").join(&name),
                folder.join(&name),
            )
            .unwrap();
        }
    }
    std::fs::write(world.path("mine/flower 0/notes.txt"), "no photograph").unwrap();
    let prep = ["folder", "--root", "mine", "--out", "own", "--size", "8"];
    let said = succeeds(&world.run(PREP, &prep));
    assert!(
        said.contains("1 files passed over") && said.contains("next: flowreg-fit own"),
        "{said}"
    );
    succeeds(&world.run(
        FIT,
        &["own", "--epochs", "40", "--lr", "0.05", "--out", "run"],
    ));
    assert_eq!(
        common::json(&world.path("run/summary.json"))["eval_split"],
        "test"
    );
    let said = succeeds(&world.run(PREDICT, &["run", "mine/flower 2", "--top", "1"]));
    assert!(said.contains("%  flower 2"), "{said}");
    world.refuses(64, &["--val-share"], |world| {
        world.run(
            PREP,
            &["folder", "--root", "mine", "--out", "x", "--val-share", "1"],
        )
    });
    world.refuses(74, &["absent", "read the folder"], |world| {
        world.run(PREP, &["folder", "--root", "absent", "--out", "x"])
    });
}

#[test]
fn a_png_that_cannot_be_used_is_named_or_left_out() {
    let world = World::new();
    let good = include_bytes!("pictures/rgb.png");
    // The header of a picture of 65536 x 65536, and a picture cut short.
    let mut bomb = good.to_vec();
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    for class in ["a", "b"] {
        let folder = world.path("mine").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..4 {
            std::fs::write(folder.join(format!("{i}.png")), good).unwrap();
        }
    }
    std::fs::write(world.path("mine/a/9.png"), &bomb).unwrap();
    std::fs::write(world.path("mine/b/9.png"), &good[..good.len() / 2]).unwrap();
    let prep = ["folder", "--root", "mine", "--out", "own", "--size", "8"];
    world.refuses(65, &["9.png"], |world| world.run(PREP, &prep));
    assert!(!world.path("own").exists());
    succeeds(&world.run(PREP, &[&prep[..], &["--skip-bad"]].concat()));
    let dataset = Dataset::open(world.path("own")).unwrap();
    dataset.verify().unwrap();
    let mut skipped = dataset.manifest().skipped.clone();
    skipped.sort_by_key(|line| line.contains("mine/b"));
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(
        skipped[0].contains("a/9.png: found 65536x65536"),
        "{skipped:?}"
    );
    assert!(skipped[1].contains("b/9.png: broken PNG"), "{skipped:?}");
    let rows: usize = dataset
        .manifest()
        .splits
        .iter()
        .map(|split| split.rows)
        .sum();
    assert_eq!(rows, 8);
}

#[test]
fn quiet_json_completions_and_man() {
    let world = World::new();
    assert_eq!(succeeds(&world.fit(&["--epochs", "3", "--quiet"])), "");
    let said = succeeds(&world.fit(&["--epochs", "3", "--force", "--json-logs"]));
    let events: Vec<serde_json::Value> = (said.lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((of("epoch"), of("summary")), (3, 1));
    let converged = [
        "--optimizer",
        "newton",
        "--l2-path",
        "1:0.1:2",
        "--val-split",
        "val",
    ];
    let options = ["--force", "--json-logs"];
    let output = world.fit(&[&converged[..], &options].concat());
    assert!(output.status.success());
    let events_of = |bytes: Vec<u8>| -> Vec<serde_json::Value> {
        let text = String::from_utf8(bytes).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        text.lines().map(parse).collect()
    };
    // The chosen penalty may be at the edge of so short a path.
    let warnings = events_of(output.stderr);
    assert!(
        warnings.iter().all(|event| event["event"] == "warning"),
        "{warnings:?}"
    );
    let events = events_of(output.stdout);
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert!(
        of("step") >= 4 && of("penalty") == 2 && of("summary") == 1,
        "{events:?}"
    );
    let step = events
        .iter()
        .find(|event| event["event"] == "step")
        .unwrap();
    assert!(step["objective"].is_f64() && step["gradient_norm"].is_f64() && step["l2"].is_f64());
    // stderr as well, where the arguments cannot even be understood.
    for bad in [
        ["--json-logs", "--epochs", "many"],
        ["--no-such", "option", "--json-logs"],
    ] {
        let error: serde_json::Value = serde_json::from_slice(&world.fit(&bad).stderr).unwrap();
        assert_eq!(
            (&error["event"], &error["code"]),
            (&"error".into(), &64.into())
        );
    }
    let output = world.fit(&["--json-logs"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (&error["event"], &error["code"]),
        (&"error".into(), &73.into())
    );
    for (program, name) in [
        (PREP, "flowreg-prep"),
        (FIT, "flowreg-fit"),
        (PREDICT, "flowreg-predict"),
    ] {
        for shell in ["bash", "zsh", "fish"] {
            let script = succeeds(&world.run(program, &["--completions", shell]));
            assert!(
                script.contains(name) && script.contains("quiet"),
                "{script}"
            );
        }
        let man = succeeds(&world.run(program, &["--man"]));
        assert!(man.contains(".TH") && man.contains("Examples"), "{man}");
        world.refuses(64, &["--completions"], |world| {
            world.run(program, &["--completions", "tcsh"])
        });
    }
}

/// More classes than rows; classes that no row has; classes that only validation rows have, which
/// are named on stderr.
#[test]
fn classes_may_be_without_rows() {
    let world = World::new();
    let arrays = |name: &str, labels: &[u8]| {
        let x: Vec<f32> = (0..3 * labels.len()).map(|i| (i % 7) as f32).collect();
        let shape = [labels.len(), 3];
        std::fs::write(world.path(&format!("x{name}")), npy::f32_file(&shape, &x)).unwrap();
        let mut y = Header::encode(Dtype::U8, &[labels.len()]);
        y.extend(labels);
        std::fs::write(world.path(&format!("y{name}")), y).unwrap();
    };
    arrays("few", &[0, 1, 2, 0, 1, 2]);
    arrays("gap", &[0, 1, 2, 3, 4, 9]);
    arrays("val", &[0, 5, 2, 11]);
    let fit = |name: &str, rest: &[&str]| {
        let (x, y) = (format!("x{name}"), format!("y{name}"));
        let arrays = [
            "--x", &x, "--y", &y, "--out", "run", "--force", "--epochs", "3",
        ];
        world.run(FIT, &[&arrays[..], rest].concat())
    };
    let outputs = || {
        let model = flowreg::Model::load(world.path("run/model.safetensors")).unwrap();
        model.bias().len()
    };
    succeeds(&fit("few", &["--classes", "10"]));
    assert_eq!(outputs(), 10);
    succeeds(&fit("gap", &[]));
    assert_eq!(outputs(), 10);
    succeeds(&fit("gap", &["--classes", "4"]));
    assert_eq!(outputs(), 4);
    let output = fit("gap", &["--x-val", "xval", "--y-val", "yval"]);
    assert!(output.status.success());
    assert_eq!(outputs(), 12);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("val") && stderr.contains("2 classes"),
        "{stderr}"
    );
    assert!(stderr.ends_with(": 5, 11\n"), "{stderr}");
    // The same of a dataset, whose classes are those of all its parts.
    let prep = [
        "npy", "--x", "xgap", "--y", "ygap", "--x-val", "xval", "--y-val", "yval",
    ];
    succeeds(&world.run(PREP, &[&prep[..], &["--out", "set"]].concat()));
    let options = [
        "--val-split",
        "val",
        "--epochs",
        "3",
        "--out",
        "of-set",
        "--json-logs",
    ];
    let output = world.run(FIT, &[&["set"], &options[..]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let warning: serde_json::Value = serde_json::from_str(stderr.trim()).unwrap();
    assert_eq!(warning["event"], "warning");
    let message = warning["message"].as_str().unwrap();
    assert!(message.ends_with("class 5, class 11"), "{message}");
}

/// A weight for each row of the split, whatever `--classes` keeps; another number is refused
/// before the fit, with the file and both numbers.
#[test]
fn sample_weights_are_by_row_of_the_split() {
    let world = World::new();
    let rows = 24;
    let x: Vec<f32> = (0..2 * rows).map(|i| ((i * 37) % 11) as f32).collect();
    let labels: Vec<u8> = (0..rows as u8).map(|i| i * 5 % 3).collect();
    let weights: Vec<f64> = (0..rows).map(|i| (i % 4) as f64 + 0.5).collect();
    let kept: Vec<usize> = (0..rows).filter(|&i| labels[i] < 2).collect();
    let write = |name: &str, rows: &[usize]| {
        let x: Vec<f32> = rows
            .iter()
            .flat_map(|&i| x[2 * i..][..2].to_vec())
            .collect();
        let file = npy::f32_file(&[rows.len(), 2], &x);
        std::fs::write(world.path(&format!("x{name}")), file).unwrap();
        let mut y = Header::encode(Dtype::U8, &[rows.len()]);
        y.extend(rows.iter().map(|&i| labels[i]));
        std::fs::write(world.path(&format!("y{name}")), y).unwrap();
        let weights: Vec<String> = rows.iter().map(|&i| weights[i].to_string()).collect();
        std::fs::write(world.path(&format!("w{name}")), weights.join(" ")).unwrap();
    };
    write("all", &(0..rows).collect::<Vec<_>>());
    write("kept", &kept);
    let fit = |name: &str, weights: &str, out: &str, rest: &[&str]| {
        let (x, y) = (format!("x{name}"), format!("y{name}"));
        let arrays = [
            "--x",
            &x,
            "--y",
            &y,
            "--sample-weight",
            weights,
            "--out",
            out,
        ];
        world.run(FIT, &[&arrays[..], rest].concat())
    };
    for optimizer in ["sgd", "newton"] {
        let options = ["--optimizer", optimizer, "--force"];
        succeeds(&fit(
            "all",
            "wall",
            "a",
            &[&options[..], &["--classes", "2"]].concat(),
        ));
        succeeds(&fit("kept", "wkept", "b", &options));
        let model = |run: &str| flowreg::Model::load(world.path(run).join("model.safetensors"));
        let (a, b) = (model("a").unwrap(), model("b").unwrap());
        let expected: Vec<f64> = b.weight().as_slice().iter().map(|&w| w.into()).collect();
        assert!(common::largest_difference(a.weight().as_slice(), &expected) < 1e-6);
        let parts = ["wkept", "found 16", "expected 24"];
        world.refuses(65, &parts, |_| {
            fit("all", "wkept", "c", &["--optimizer", optimizer])
        });
    }
}
