//! Input by users: arrays without a prep step, folders, lists and the published archive; logs,
//! completions and warnings of the commands.

mod common;

use common::world::{FIT, PREDICT, PREP, World, succeeds};
use flowreg::Dataset;
use flowreg::io::npy;
use flowreg::io::npy::{Dtype, Header};

#[test]
fn arrays_and_their_dataset_give_the_same_fit() {
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

    // The model of arrays has no transform of photographs.
    succeeds(&world.run(PREDICT, &["plain", "data/test.x.npy"]));
    world.refuses(65, &["image_00001.jpg", "has no transform"], |world| {
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
    world.refuses(65, &["val.y.npy", "one label per row, 12"], |world| {
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
fn an_archive_and_its_unpacked_files_give_the_same_dataset() {
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
fn a_folder_of_photographs_is_prepared_fitted_and_predicted() {
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
        said.contains("left out: 1 file that is no picture (flower 0/notes.txt)\n")
            && said
                .contains("layout: a folder for each of 4 classes; each class is split by seed 0")
            && said.contains("next: flowreg-fit own"),
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
fn invalid_pngs_are_named_or_left_out() {
    let world = World::new();
    let good = include_bytes!("pictures/rgb.png");
    // The header of a picture of 65536 x 65536, and a truncated picture.
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

/// Two classes of pictures in `mine`, and the arguments that prepare them without splits.
fn two_classes(world: &World) -> [&'static str; 11] {
    for name in ["a/0.png", "a/1.png", "b/0.png", "b/1.png"] {
        let path = world.path("mine").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, include_bytes!("pictures/rgb.png")).unwrap();
    }
    [
        "folder",
        "--root",
        "mine",
        "--out",
        "own",
        "--size",
        "8",
        "--val-share",
        "0",
        "--test-share",
        "0",
    ]
}

/// Unreadable files are refused at once or left out by --skip-bad: broken links, pipes, folders,
/// empty and too large files, and files that are no pictures.
#[cfg(unix)]
#[test]
fn unreadable_files_are_refused_or_left_out() {
    use std::os::unix::net::UnixListener;
    let world = World::new();
    let prep = two_classes(&world);
    let put = |name: &str| world.path("mine/a").join(name);
    let fifo = || {
        let made = std::process::Command::new("mkfifo")
            .arg(put("bad.png"))
            .status();
        assert!(made.unwrap().success());
    };
    let kinds: [(&str, &dyn Fn(), i32); 7] = [
        (
            "bad.png: cannot open",
            &|| std::os::unix::fs::symlink("/nowhere", put("bad.png")).unwrap(),
            74,
        ),
        ("bad.png: found a pipe", &fifo, 65),
        (
            "bad.png: found a socket",
            &|| drop(UnixListener::bind(put("bad.png")).unwrap()),
            65,
        ),
        (
            "bad.png: found a device",
            &|| std::os::unix::fs::symlink("/dev/zero", put("bad.png")).unwrap(),
            65,
        ),
        (
            "bad.png: found",
            &|| std::fs::write(put("bad.png"), "").unwrap(),
            65,
        ),
        (
            "bad.png: found",
            &|| std::fs::write(put("bad.png"), "text").unwrap(),
            65,
        ),
        (
            "bad.png: found",
            &|| {
                std::fs::File::create(put("bad.png"))
                    .unwrap()
                    .set_len(1 << 33)
                    .unwrap()
            },
            65,
        ),
    ];
    for (part, make, code) in kinds {
        make();
        world.refuses(code, &[part], |world| world.run(PREP, &prep));
        succeeds(&world.run(PREP, &[&prep[..], &["--skip-bad", "--force"]].concat()));
        let dataset = Dataset::open(world.path("own")).unwrap();
        let manifest = dataset.manifest();
        assert_eq!(manifest.splits[0].rows, 4);
        assert!(
            manifest.skipped[0].contains("bad.png"),
            "{:?}",
            manifest.skipped
        );
        assert_eq!(manifest.skipped.len(), 1);
        std::fs::remove_file(put("bad.png")).unwrap();
        std::fs::remove_dir_all(world.path("own")).unwrap();
    }
}

/// A folder that the system does not list, on any level, is an error, or is left out and named.
#[cfg(debug_assertions)]
#[test]
fn unreadable_folders_are_refused_or_left_out() {
    let world = World::new();
    let prep = two_classes(&world);
    std::fs::create_dir_all(world.path("mine/a/deep")).unwrap();
    std::fs::write(
        world.path("mine/a/deep/2.png"),
        include_bytes!("pictures/rgb.png"),
    )
    .unwrap();
    let run = |call: usize, more: &[&str]| {
        let mut command = std::process::Command::new(PREP);
        command.args(prep).args(more).current_dir(world.0.path());
        command.env("FLOWREG_FAIL_IO", format!("{call}:eio"));
        command.output().unwrap()
    };
    for (call, folder) in ["mine", "mine/a", "mine/a/deep"].iter().enumerate() {
        world.refuses(74, &[folder, "cannot read the folder"], |_| run(call, &[]));
    }
    world.refuses(74, &["mine: cannot read the folder"], |_| {
        run(0, &["--skip-bad"])
    });
    let said = succeeds(&run(2, &["--skip-bad"]));
    assert!(
        said.contains("left out: 1 folder that cannot be read (a/deep)\n"),
        "{said}"
    );
    let left_out = Dataset::open(world.path("own"))
        .unwrap()
        .manifest()
        .left_out
        .clone();
    assert_eq!(left_out, ["1 folder that cannot be read (a/deep)"]);
}

/// A split without usable pictures is named by its folder.
#[test]
fn an_empty_split_is_named_by_its_folder() {
    let world = World::new();
    for name in ["train/a/1.png", "train/b/1.png", "val/a/2.png"] {
        let path = world.path("mine").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = include_bytes!("pictures/rgb.png");
        let bytes = if name.starts_with("val") {
            &[][..]
        } else {
            bytes
        };
        std::fs::write(path, bytes).unwrap();
    }
    let prep = [
        "folder",
        "--root",
        "mine",
        "--out",
        "own",
        "--size",
        "8",
        "--skip-bad",
    ];
    world.refuses(
        65,
        &["mine: split val: found 1 photographs", "val/a/2.png"],
        |world| {
            let output = world.run(PREP, &prep);
            assert!(!String::from_utf8_lossy(&output.stderr).contains(".partial"));
            output
        },
    );
}

/// Runs and datasets among the photographs are neither prepared nor predicted.
#[test]
fn outputs_among_photographs_are_skipped() {
    let world = World::new();
    let prep = two_classes(&world);
    succeeds(&world.run(PREP, &prep));
    succeeds(&world.run(FIT, &["own", "--epochs", "2", "--out", "mine/run"]));
    assert!(world.path("mine/run/weights.png").exists());
    std::fs::rename(world.path("own"), world.path("mine/a/own")).unwrap();
    let said = succeeds(&world.run(PREP, &prep));
    assert!(
        said.contains("left out: 2 outputs of flowreg (a/own, run)"),
        "{said}"
    );
    let dataset = Dataset::open(world.path("own")).unwrap();
    assert_eq!(dataset.manifest().class_names, ["a", "b"]);
    assert_eq!(
        dataset.manifest().left_out,
        ["2 outputs of flowreg (a/own, run)"]
    );
    let output = world.run(PREDICT, &["mine/run", "mine", "--csv", "--top", "1"]);
    assert!(output.status.success());
    let csv = String::from_utf8(output.stdout).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(!csv.contains("mine/run"), "{csv}");
}

/// A list and the same layout in folders give the same dataset, to the byte; an invalid list is
/// refused by line.
#[test]
fn a_list_and_folders_give_the_same_dataset() {
    let world = World::new();
    let mut list = "split,label,file\r\n".to_string();
    for i in 1..=12 {
        let (split, class) = (
            ["train", "train", "test"][i % 3],
            ["lily", "tulip, red"][i % 2],
        );
        let name = format!("image_{i:05}.jpg");
        let folder = world.path("mine").join(split).join(class);
        std::fs::create_dir_all(&folder).unwrap();
        let from = world.path("photographs/jpg").join(&name);
        std::fs::copy(from, folder.join(&name)).unwrap();
        list += &format!("{split},\"{class}\",jpg/{name}\r\n");
    }
    std::fs::write(world.path("list.csv"), &list).unwrap();
    let size = ["--size", "8"];
    let run = |how: &[&str]| world.run(PREP, &[&["folder"], how, &size].concat());
    succeeds(&run(&["--root", "mine", "--out", "folders"]));
    let listed = ["--list", "list.csv", "--root", "photographs"];
    succeeds(&run(&[&listed[..], &["--out", "listed"]].concat()));
    let rows = |dataset: &str, split: &str| {
        let dataset = Dataset::open(world.path(dataset)).unwrap();
        let classes = dataset.manifest().class_names.clone();
        let split = dataset.split(split).unwrap();
        let samples = split.samples().unwrap();
        let mut rows: Vec<(Vec<u32>, u32)> = (0..samples.rows())
            .map(|i| {
                let row = samples.x().row(i).iter().map(|value| value.to_bits());
                (row.collect(), samples.labels()[i])
            })
            .collect();
        rows.sort();
        (classes, rows)
    };
    for split in ["train", "test"] {
        assert_eq!(rows("folders", split), rows("listed", split));
    }
    std::fs::write(
        world.path("bad.csv"),
        list.replace("image_00007", "image_x"),
    )
    .unwrap();
    world.refuses(
        65,
        &["bad.csv: line 8", "jpg/image_x.jpg", "--skip-bad"],
        |world| {
            world.run(
                PREP,
                &[
                    "folder",
                    "--list",
                    "bad.csv",
                    "--root",
                    "photographs",
                    "--out",
                    "x",
                ],
            )
        },
    );
    let skipped = [
        "--list",
        "bad.csv",
        "--root",
        "photographs",
        "--out",
        "skipped",
        "--skip-bad",
    ];
    succeeds(&run(&skipped));
    for args in [
        &["--list", "list.csv", "--layout", "classes"][..],
        &[
            "--root",
            "mine",
            "--layout",
            "splits",
            "--split-names",
            "train=a",
        ],
        &["--root", "mine", "--layout", "some"],
        &["--root", "mine", "--split-names", "train"],
        &[],
    ] {
        world.refuses(64, &["--"], |_| run(&[args, &["--out", "x"]].concat()));
    }
}

#[test]
fn quiet_json_logs_completions_and_man_page_work() {
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
    // On a short path the chosen penalty may be the first or the last.
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
    // Errors of the arguments are JSON on stderr too.
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

/// There may be more classes than rows, classes without rows, and classes of validation rows only,
/// which a warning names.
#[test]
fn classes_without_rows_are_allowed() {
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
    let warned = |output: std::process::Output, count: &str| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && stderr.lines().count() == 1,
            "{stderr}"
        );
        let part = format!("{count} classes have no rows to train on: class ");
        assert!(stderr.contains(&part), "{stderr}");
    };
    warned(fit("few", &["--classes", "10"]), "7 of 10");
    assert_eq!(outputs(), 10);
    warned(fit("gap", &[]), "4 of 10");
    assert_eq!(outputs(), 10);
    succeeds(&fit("gap", &["--classes", "4"]));
    assert_eq!(outputs(), 4);
    let output = fit("gap", &["--x-val", "xval", "--y-val", "yval"]);
    assert!(output.status.success());
    assert_eq!(outputs(), 12);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("6 of 12 classes have no rows"), "{stderr}");
    assert!(
        stderr.contains("val") && stderr.contains("2 classes"),
        "{stderr}"
    );
    assert!(stderr.ends_with(": class 5, class 11\n"), "{stderr}");
    // A dataset has the classes of all its splits.
    let prep = [
        "npy", "--x", "xgap", "--y", "ygap", "--x-val", "xval", "--y-val", "yval",
    ];
    warned(
        world.run(PREP, &[&prep[..], &["--out", "set"]].concat()),
        "6 of 12",
    );
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
    for (line, end) in stderr.lines().zip(["class 11", "class 5, class 11"]) {
        let warning: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(warning["event"], "warning");
        let message = warning["message"].as_str().unwrap();
        assert!(message.ends_with(end), "{message}");
    }
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

/// `--sample-weight` has one weight for each row of the split, including rows that `--classes`
/// leaves out. Another number is refused before the fit, with the file and both numbers.
#[test]
fn sample_weights_have_one_value_for_each_row_of_the_split() {
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
