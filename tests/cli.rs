//! The binaries end to end on small drawn photographs: valid input gives the documented files;
//! invalid input gives one line, a non-zero exit code and no output.

mod common;

use std::process::Command;

use sha2::{Digest, Sha256};

use common::world::{FIT, PREP, World, succeeds};
use flowreg::data::dataset::Manifest;
use flowreg::io::blocks::Blocks;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest with its checksum renewed, so that only the change itself can be refused.
fn sealed(text: &str) -> Vec<u8> {
    match serde_json::from_str::<Manifest>(text) {
        Ok(manifest) => serde_json::to_vec_pretty(&manifest.sealed()).unwrap(),
        Err(_) => text.as_bytes().to_vec(),
    }
}

#[test]
fn a_fit_writes_its_documented_files() {
    let world = World::new();
    let said = succeeds(&world.fit(&["--lr", "0.05", "--epochs", "30", "--threads", "2"]));
    for part in [
        "softmax of 4 classes",
        "12 x 192",
        "2 threads",
        "accuracy",
        "loss",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let summary = common::json(&world.path("run/summary.json"));
    for (key, value) in [
        ("n", 12),
        ("d", 192),
        ("c", 4),
        ("threads", 2),
        ("epochs", 30),
    ] {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(summary["engine"], "gram");
    assert_eq!(summary["optimizer"], "sgd");
    let history = std::fs::read_to_string(world.path("run/history.jsonl")).unwrap();
    let losses: Vec<f64> = (history.lines().enumerate())
        .map(|(i, line)| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["epoch"], i);
            line["loss"].as_f64().unwrap()
        })
        .collect();
    assert_eq!(losses.len(), 30);
    assert!(losses[29] < losses[0]);

    // The model file alone gives the same evaluation.
    let model = flowreg::Model::load(world.path("run/model.safetensors")).unwrap();
    let dataset = flowreg::Dataset::open(world.path("data")).unwrap();
    for (split, key) in [("train", "train_accuracy"), ("test", "eval_accuracy")] {
        let split = dataset.split(split).unwrap();
        let samples = split.samples().unwrap();
        let evaluation = model.evaluate(&samples).unwrap();
        assert_eq!(summary[key], evaluation.accuracy);
        let x = samples.x().contiguous().unwrap().as_slice();
        let predicted = model.predict(x).unwrap();
        let right = predicted
            .iter()
            .zip(samples.labels())
            .filter(|(a, b)| a == b);
        assert_eq!(
            right.count() as f64 / predicted.len() as f64,
            evaluation.accuracy
        );
        for (p, label) in model.probabilities(x).unwrap().chunks(4).zip(&predicted) {
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(p.iter().all(|v| *v <= p[*label as usize]));
        }
    }
    assert_eq!(model.about().class_names.len(), 4);
    assert_eq!(model.about().transform.as_ref().unwrap().size, 8);

    // A fit continues from a model by --init, replaces a run only with --force, and never its --init.
    let again = ["--init", "run/model.safetensors", "--force"];
    world.refuses(65, &["model.safetensors", "source"], |world| {
        world.fit(&again)
    });
    world.copy("run", "start");
    let again = [
        "--init",
        "start/model.safetensors",
        "--force",
        "--epochs",
        "5",
    ];
    succeeds(&world.fit(&again));
    assert_eq!(common::json(&world.path("run/summary.json"))["epochs"], 5);
}

#[test]
fn recipes_are_the_notebooks_and_options_override_them() {
    let world = World::new();
    let said = succeeds(&world.fit(&["--recipe", "binary-slow", "--epochs", "7"]));
    assert!(said.contains("logistic of 2 classes"), "{said}");
    let summary = common::json(&world.path("run/summary.json"));
    assert_eq!((&summary["c"], &summary["n"]), (&1.into(), &6.into()));
    assert_eq!(summary["epochs"], 7);
    assert!((summary["lr"].as_f64().unwrap() - 1e-4).abs() < 1e-10);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let world = World::new();
    let model = |threads: &str, batch: &str| {
        let options = ["--threads", threads, "--batch-size", batch, "--force"];
        succeeds(&world.fit(&[&options[..], &["--epochs", "9", "--momentum", "0.9"]].concat()));
        std::fs::read(world.path("run/model.safetensors")).unwrap()
    };
    for batch in ["5", "1000"] {
        let one = model("1", batch);
        for threads in ["2", "3", "4", "8"] {
            assert!(
                model(threads, batch) == one,
                "{threads} threads, batch {batch}"
            );
        }
    }
}

/// The model's bytes with every instruction set that the machine has, forced and really used.
#[test]
fn the_same_bits_on_every_instruction_set() {
    let world = World::new();
    let fit = |isa: &str, args: &[&str]| {
        let mut command = Command::new(FIT);
        command.args(["data", "--out", "run", "--force", "--gemm", "own"]);
        command
            .args(["--epochs", "20", "--momentum", "0.9", "--lr", "0.1"])
            .args(args);
        command.env("FLOWREG_ISA", isa).current_dir(world.0.path());
        command.output().unwrap()
    };
    let available = flowreg::kernels::Isa::available();
    assert!(available.contains(&flowreg::kernels::Isa::PORTABLE));
    for args in [
        &["--engine", "gram"][..],
        &["--engine", "primal", "--batch-size", "5"],
        &["--engine", "gram", "--classes", "2", "--val-split", "val"],
    ] {
        let models = available.iter().map(|isa| {
            let isa = isa.to_string();
            let said = succeeds(&fit(&isa, args));
            assert!(
                said.contains(&format!("threads, {isa}\n")),
                "{isa} is not in {said}"
            );
            assert_eq!(
                common::json(&world.path("run/summary.json"))["instruction_set"],
                *isa
            );
            let history = std::fs::read(world.path("run/history.jsonl")).unwrap();
            (
                history,
                std::fs::read(world.path("run/model.safetensors")).unwrap(),
            )
        });
        let models: Vec<_> = models.collect();
        assert!(
            models.windows(2).all(|pair| pair[0] == pair[1]),
            "{available:?} {args:?}"
        );
    }
    std::fs::remove_dir_all(world.path("run")).unwrap();
    world.refuses(64, &["FLOWREG_ISA", "mmx", "portable"], |_| fit("mmx", &[]));
}

#[test]
fn bad_options_are_refused() {
    let world = World::new();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--recipe", "softmax-medium"],
            &["--recipe", "softmax-medium", "softmax-fast"],
        ),
        (&["--classes", "9"], &["--classes", "9", "2..=4"]),
        (&["--classes", "1"], &["--classes", "2..=4"]),
        (&["--lr", "nan"], &["--lr", "finite"]),
        (&["--lr", "inf"], &["--lr", "finite"]),
        (&["--lr", "x"], &["--lr", "number"]),
        (&["--lr=-1"], &["--lr", "0 or above"]),
        (&["--epochs", "-1"], &["--epochs"]),
        (&["--batch-size", "0"], &["--batch-size", "at least 1"]),
        (&["--nesterov"], &["--nesterov", "momentum"]),
        (&["--threads", "0"], &["--threads", "1..="]),
        (&["--gemm", "abacus"], &["--gemm", "faer"]),
        (&["--engine", "quantum"], &["--engine", "primal"]),
        (&["--early-stopping", "3"], &["--val-split"]),
        (
            &["--early-stopping", "0", "--val-split", "val"],
            &["--early-stopping", "at least 1"],
        ),
        (&["--lr-schedule", "linear"], &["--lr-schedule", "cosine"]),
        (
            &["--lr-schedule", "cosine", "--lr-gamma", "0.5"],
            &["--lr-gamma", "--lr-schedule step"],
        ),
        (
            &["--lr-schedule", "step", "--lr-step-size", "0"],
            &["--lr-step-size", "at least 1"],
        ),
        (&["--lr-gamma", "inf"], &["--lr-gamma", "finite"]),
        (
            &["--save-trajectory", "--engine", "primal"],
            &["--save-trajectory", "the gram engine"],
        ),
        (&["--colour"], &["--colour"]),
    ];
    for (args, parts) in cases {
        world.refuses(64, parts, |world| world.fit(args));
    }
    let dataset = "data/dataset.json";
    world.refuses(65, &[dataset, "no split", "train, val, test"], |world| {
        world.fit(&["--train-split", "trian"])
    });
    world.refuses(65, &[dataset, "no split", "train, val, test"], |world| {
        world.fit(&["--val-split", "vla"])
    });
    world.refuses(74, &["nowhere/dataset.json", "flowreg-prep"], |world| {
        world.run(FIT, &["nowhere", "--out", "run"])
    });
    world.refuses(64, &["DATASET"], |world| world.run(FIT, &["--out", "run"]));
    world.refuses(74, &["absent.safetensors"], |world| {
        world.fit(&["--init", "absent.safetensors"])
    });
}

#[test]
fn validation_early_stopping_schedule_and_trajectory_work_together() {
    let world = World::new();
    let said = succeeds(&world.fit(&[
        "--lr",
        "0.3",
        "--epochs",
        "400",
        "--val-split",
        "val",
        "--early-stopping",
        "7",
        "--lr-schedule",
        "step",
        "--lr-step-size",
        "50",
        "--lr-warmup",
        "5",
        "--save-trajectory",
        "--timings",
    ]));
    for part in [
        "= 2/L",
        "val loss",
        "the model is that of epoch",
        "trajectory.npy",
        "warm-up",
        "in all",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let summary = common::json(&world.path("run/summary.json"));
    assert_eq!(summary["val_split"], "val");
    assert_eq!(summary["early_stopping"], 7);
    let seconds = summary["seconds"].as_object().unwrap();
    let sum: f64 = seconds.values().map(|s| s.as_f64().unwrap()).sum();
    assert!((sum - summary["train_seconds"].as_f64().unwrap()).abs() < 1e-9);
    let history = std::fs::read_to_string(world.path("run/history.jsonl")).unwrap();
    let history: Vec<serde_json::Value> = (history.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(summary["epochs"], history.len());
    assert!(history.len() < 400);
    assert!((history[0]["lr"].as_f64().unwrap() - 0.1).abs() < 1e-12);
    assert_eq!(history[5]["lr"], 0.3);
    let best = summary["best_epoch"].as_u64().unwrap() as usize;
    assert_eq!(history.len(), best + 8);

    // The model is the best epoch's: it has that epoch's loss on the validation split, and
    // the trajectory holds it.
    let model = flowreg::Model::load(world.path("run/model.safetensors")).unwrap();
    let dataset = flowreg::Dataset::open(world.path("data")).unwrap();
    let (train, val) = (
        dataset.split("train").unwrap(),
        dataset.split("val").unwrap(),
    );
    let (train, val) = (train.samples().unwrap(), val.samples().unwrap());
    let evaluation = model.evaluate(&val).unwrap();
    let expected = history[best]["val_loss"].as_f64().unwrap();
    assert!(common::relative(evaluation.loss, expected) < 1e-5);
    let path = world.path("run/trajectory.npy");
    let start = flowreg::Init::default();
    let trajectory = flowreg::Trajectory::open(path, &train, &start).unwrap();
    assert_eq!(trajectory.epochs(), history.len());
    let rebuilt = trajectory.model(best + 1).unwrap();
    assert_eq!(rebuilt.weight().as_slice(), model.weight().as_slice());
    assert_eq!(rebuilt.bias(), model.bias());

    let said = succeeds(&world.fit(&["--lr", "auto", "--force"]));
    assert!(said.contains("= 1/L"), "{said}");
}

/// 300,000 rows: K would take a terabyte. Gram is refused before anything is allocated, and
/// the message names the mode that fits; that one then fits.
#[cfg(target_os = "linux")] // Elsewhere the memory at hand is not known beforehand.
#[test]
fn a_gram_matrix_beyond_the_memory_is_refused() {
    use flowreg::io::npy::{Dtype, Header};
    const ROWS: usize = 300_000;
    let world = World::new();
    let mut x = Header::encode(Dtype::F32, &[ROWS, 192]);
    x.resize(x.len() + ROWS * 192 * 4, 0);
    std::fs::write(world.path("data/train.x.npy"), x).unwrap();
    let mut y = Header::encode(Dtype::I64, &[ROWS]);
    for i in 0..ROWS {
        y.extend((i as i64 % 4).to_le_bytes());
    }
    std::fs::write(world.path("data/train.y.npy"), y).unwrap();
    world.edit_manifest(|manifest| {
        let train = &mut manifest.splits[0];
        let (mut x, mut y) = (Blocks::default(), Sha256::new());
        x.update(&vec![0; ROWS * 192 * 4]);
        for i in 0..ROWS {
            y.update((i as i64 % 4).to_le_bytes());
        }
        (train.rows, train.x_crc32) = (ROWS, x.to_hex());
        train.files_sha256 = None;
        train.y_sha256 = hex(&y.finalize());
    });
    let parts = [
        "--engine",
        "300000 x 300000",
        "1080230400000 bytes",
        "primal",
    ];
    world.refuses(71, &parts, |world| world.fit(&["--engine", "gram"]));
    let said = succeeds(&world.fit(&["--epochs", "2"]));
    assert!(said.contains("primal: "), "{said}");
}

#[test]
fn existing_output_is_not_overwritten() {
    let world = World::new();
    std::fs::create_dir(world.path("run")).unwrap();
    std::fs::write(world.path("run/thesis.tex"), "years").unwrap();
    world.refuses(73, &["run", "--force"], |world| world.fit(&[]));
    world.refuses(
        65,
        &["run", "--force replaces only what flowreg wrote"],
        |world| world.fit(&["--force"]),
    );
    world.refuses(73, &["data", "--force"], |world| {
        world.prep("photographs", "data")
    });
    assert!(world.path("run/thesis.tex").exists());
}

#[test]
fn a_diverging_fit_publishes_no_model() {
    let world = World::new();
    let parts = ["epoch ", "the loss became", "no model was written", "--lr"];
    world.refuses(70, &parts, |world| {
        world.fit(&["--lr", "1e38", "--weight-decay", "1e30", "--epochs", "50"])
    });
}

#[test]
fn initial_weights_of_another_shape_are_refused() {
    let world = World::new();
    succeeds(&world.fit(&["--classes", "3", "--epochs", "1"]));
    std::fs::rename(
        world.path("run/model.safetensors"),
        world.path("m.safetensors"),
    )
    .unwrap();
    std::fs::remove_dir_all(world.path("run")).unwrap();
    let parts = ["m.safetensors", "weight", "3 x 192", "4 x 192"];
    world.refuses(65, &parts, |world| world.fit(&["--init", "m.safetensors"]));
    let whole = std::fs::read(world.path("m.safetensors")).unwrap();
    for len in [0, 4, 100, whole.len() - 1] {
        std::fs::write(world.path("m.safetensors"), &whole[..len]).unwrap();
        world.refuses(65, &["m.safetensors", "safetensors file"], |world| {
            world.fit(&["--init", "m.safetensors", "--classes", "3"])
        });
    }
}

#[test]
fn bad_photographs_are_refused() {
    let world = World::new();
    world.refuses(65, &["nowhere", "--root"], |world| {
        world.prep("nowhere", "out")
    });
    world.refuses(65, &["imagelabels.mat", "md5", "--no-verify"], |world| {
        world.run(
            PREP,
            &["flowers102", "--root", "photographs", "--out", "out"],
        )
    });
    for size in ["0", "4096"] {
        world.refuses(64, &["--size", size, "1..="], |world| {
            let args = [
                "flowers102",
                "--root",
                "photographs",
                "--no-verify",
                "--out",
                "out",
            ];
            world.run(PREP, &[&args[..], &["--size", size]].concat())
        });
    }

    // One photograph at a time is damaged in a copy of the folder.
    let image = "jpg/image_00003.jpg";
    let good = std::fs::read(world.path("photographs").join(image)).unwrap();
    let mut oversized = good.clone();
    // The frame header: marker, length, precision, height, width.
    let frame = (good.windows(2)).position(|w| w == [0xFF, 0xC0] || w == [0xFF, 0xC2]);
    let height = frame.unwrap() + 5;
    oversized[height..height + 4].copy_from_slice(&[0x4E, 0x20, 0x4E, 0x20]);
    let mut taller = good.clone();
    taller[height] += 1; // 256 rows more than the scan holds
    let cases: [(&str, &[u8], &str); 7] = [
        ("empty", &[], "found an empty file"),
        ("half a PNG", b"\x89PNG\r\n\x1a\n", "broken PNG"),
        ("cut in half", &good[..good.len() / 2], "broken JPEG"),
        ("without its end", &good[..good.len() - 2], "broken JPEG"),
        ("cut in its header", &good[..100], "broken JPEG"),
        ("oversized", &oversized, "20000x20000"),
        ("taller than its data", &taller, "broken JPEG"),
    ];
    world.copy("photographs", "spoilt");
    for (name, bytes, reason) in cases {
        std::fs::write(world.path("spoilt").join(image), bytes).unwrap();
        let parts = ["image_00003.jpg", reason];
        println!("{name}");
        world.refuses(65, &parts, |world| world.prep("spoilt", "out"));
    }
    std::fs::remove_file(world.path("spoilt").join(image)).unwrap();
    world.refuses(74, &["image_00003.jpg", "cannot open"], |world| {
        world.prep("spoilt", "out")
    });
}

/// --skip-bad leaves out and lists invalid photographs, --lenient accepts pixels that libjpeg
/// invents; the number of scans bounds the time of a file.
#[test]
fn bad_photographs_are_skipped_or_accepted_by_option() {
    let world = World::new();
    world.copy("photographs", "spoilt");
    // The second photograph of class 0 in train, and one of test.
    let write = |image: &str, bytes: &[u8]| {
        std::fs::write(world.path("spoilt/jpg").join(image), bytes).unwrap();
    };
    let good = std::fs::read(world.path("spoilt/jpg/image_00002.jpg")).unwrap();
    write("image_00002.jpg", &good[..good.len() / 2]);
    write("image_00006.jpg", b"");
    let prep = |more: &[&str]| {
        let args = [
            "flowers102",
            "--no-verify",
            "--size",
            "8",
            "--root",
            "spoilt",
        ];
        world.run(PREP, &[&args[..], &["--out", "out"], more].concat())
    };
    world.refuses(65, &["image_00002.jpg", "broken JPEG"], |_| prep(&[]));
    world.refuses(65, &["image_00006.jpg", "found an empty file"], |_| {
        prep(&["--lenient"])
    });

    let said = succeeds(&prep(&["--skip-bad"]));
    for part in [
        "train    11 rows",
        "test      7 rows",
        "skipped: train: ",
        "skipped: test: ",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let dataset = flowreg::Dataset::open(world.path("out")).unwrap();
    let skipped = &dataset.manifest().skipped;
    assert_eq!(skipped.len(), 2);
    assert!(
        skipped[0].contains("image_00002.jpg: broken JPEG"),
        "{skipped:?}"
    );
    // The remaining rows are those of the whole dataset without these two.
    let whole = flowreg::Dataset::open(world.path("data")).unwrap();
    for (split, without) in [("train", Some(1)), ("val", None), ("test", Some(0))] {
        let (a, b) = (whole.split(split).unwrap(), dataset.split(split).unwrap());
        let (a, b) = (a.samples().unwrap(), b.samples().unwrap());
        let kept: Vec<usize> = (0..a.rows()).filter(|&i| Some(i) != without).collect();
        assert_eq!(kept.len(), b.rows());
        for (b_row, &a_row) in kept.iter().enumerate() {
            assert_eq!(a.x().row(a_row), b.x().row(b_row), "{split} {a_row}");
            assert_eq!(a.labels()[a_row], b.labels()[b_row]);
        }
    }
    std::fs::remove_dir_all(world.path("out")).unwrap();

    write("image_00006.jpg", &good);
    let said = succeeds(&prep(&["--lenient"]));
    assert!(said.contains("train    12 rows"), "{said}");
    succeeds(&world.run(PREP, &["verify", "out"]));
    std::fs::remove_dir_all(world.path("out")).unwrap();

    // A comment full of start-of-scan markers holds no scan; the scan itself, 201 times, is refused.
    let mut comment = good[..2].to_vec();
    comment.extend([0xFF, 0xFE, 0x01, 0x92]);
    comment.extend([0xFF, 0xDA].repeat(200));
    comment.extend(&good[2..]);
    write("image_00002.jpg", &comment);
    succeeds(&prep(&[]));
    let repaired = flowreg::Dataset::open(world.path("out")).unwrap();
    let (a, b) = (
        whole.split("train").unwrap(),
        repaired.split("train").unwrap(),
    );
    let (a, b) = (a.samples().unwrap(), b.samples().unwrap());
    assert_eq!(a.x().row(1), b.x().row(1));
    std::fs::remove_dir_all(world.path("out")).unwrap();
    let scan = good
        .windows(2)
        .position(|marker| marker == [0xFF, 0xDA])
        .unwrap();
    let (head, scan) = good[..good.len() - 2].split_at(scan);
    let bomb = [head, &scan.repeat(201), &[0xFF, 0xD9]].concat();
    write("image_00002.jpg", &bomb);
    world.refuses(65, &["image_00002.jpg", "201 scans"], |_| {
        prep(&["--lenient"])
    });
}

#[test]
fn verify_finds_every_kind_of_damage() {
    let world = World::new();
    let verify = |world: &World| world.run(PREP, &["verify", "data"]);
    assert!(succeeds(&verify(&world)).contains("all checksums match"));
    for (file, at, part) in [
        ("test.x.npy", 5000, "checksum"),
        ("val.x.npy", 70, "val.x.npy"),
        ("test.y.npy", 130, "sha256"),
        ("test.y.npy", 20, "test.y.npy"),
        ("dataset.json", 40, "dataset.json"),
    ] {
        let path = world.path("data").join(file);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&path, bad).unwrap();
        world.refuses(65, &[file, part], verify);
        std::fs::write(path, good).unwrap();
    }
    // Other data with correct block checksums: the SHA-256 differs.
    world.edit_manifest(|manifest| manifest.splits[2].x_sha256 = "0".repeat(64));
    succeeds(&world.fit(&["--epochs", "1"]));
    std::fs::remove_dir_all(world.path("run")).unwrap();
    world.refuses(65, &["test.x.npy", "sha256"], verify);
}

#[test]
fn checkpoints_are_replaced_only_with_force_or_resume() {
    let world = World::new();
    let often = ["--checkpoint-every", "1", "--epochs", "3"];
    succeeds(&world.fit(&often));
    assert!(!world.path("run.checkpoint").exists());
    std::fs::remove_dir_all(world.path("run")).unwrap();
    // A foreign file is kept, with --force too.
    std::fs::write(world.path("run.checkpoint"), b"days of work").unwrap();
    for force in [&often[..], &[&often[..], &["--force"]].concat()] {
        let parts = ["run.checkpoint", "no checkpoint", "another path"];
        world.refuses(65, &parts, |world| world.fit(force));
    }
    // A truncated checkpoint of a fit.
    let start = br#"{"__metadata__":{"flowreg":"{\"about\":{\"checkpoint\":"#;
    let cut = [&[0; 8], &start[..]].concat();
    std::fs::write(world.path("run.checkpoint"), cut).unwrap();
    world.refuses(73, &["run.checkpoint", "--resume", "--force"], |world| {
        world.fit(&often)
    });
    world.refuses(65, &["run.checkpoint", "header"], |world| {
        world.fit(&["--resume"])
    });
    for bad in ["0", "5d", "m", "-1", "1.5h"] {
        let args = [&*format!("--checkpoint-every={bad}")];
        world.refuses(64, &["--checkpoint-every", "5m"], |world| world.fit(&args));
    }
    succeeds(&world.fit(&[&often[..], &["--force"]].concat()));
    assert!(!world.path("run.checkpoint").exists());
    // --resume without a checkpoint starts a new fit.
    succeeds(&world.fit(&["--resume", "--force", "--epochs", "3"]));
}

#[test]
fn bad_labels_and_splits_are_refused() {
    use flowreg::data::mat5::write_integers;
    let world = World::new();
    world.copy("photographs", "spoilt");
    let labels = |labels: &[i64]| {
        let bytes = write_integers(&[("labels", labels)]);
        std::fs::write(world.path("spoilt/imagelabels.mat"), bytes).unwrap();
    };
    let all: Vec<i64> = (0..28).map(|i| i / 7 + 1).collect();
    for bad in [0, -1, 29] {
        let mut spoilt = all.clone();
        spoilt[5] = bad;
        labels(&spoilt);
        let value = bad.to_string();
        world.refuses(65, &["imagelabels.mat", "labels[5]", &value], |world| {
            world.prep("spoilt", "out")
        });
    }
    labels(&all);
    for (ids, part) in [
        (vec![1, 29], "trnid[1]"),
        (vec![1, 1], "second time"),
        (vec![], "trnid"),
    ] {
        let bytes = write_integers(&[("trnid", &ids), ("valid", &[2]), ("tstid", &[3])]);
        std::fs::write(world.path("spoilt/setid.mat"), bytes).unwrap();
        world.refuses(65, &["setid.mat", part], |world| {
            world.prep("spoilt", "out")
        });
    }
    std::fs::write(world.path("spoilt/setid.mat"), b"short").unwrap();
    world.refuses(65, &["setid.mat", "header"], |world| {
        world.prep("spoilt", "out")
    });
}

#[test]
fn forged_datasets_are_refused() {
    let world = World::new();
    let good_x = std::fs::read(world.path("data/train.x.npy")).unwrap();
    let good_y = std::fs::read(world.path("data/train.y.npy")).unwrap();
    let good_json = std::fs::read_to_string(world.path("data/dataset.json")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(world.path("data").join(name), bytes).unwrap();
    };

    for len in [0, 5, 60, 128, good_x.len() - 1] {
        write("train.x.npy", &good_x[..len]);
        world.refuses(65, &["train.x.npy"], |world| world.fit(&[]));
    }
    let shape = |text: &str| {
        let mut bytes = good_x.clone();
        let at = bytes.windows(9).position(|w| w == b"(12, 192)").unwrap();
        bytes[at..at + 9].copy_from_slice(text.as_bytes());
        bytes
    };
    write("train.x.npy", &shape("(99, 192)"));
    world.refuses(65, &["train.x.npy", "length"], |world| world.fit(&[]));
    write("train.x.npy", &shape("(24, 096)"));
    world.refuses(
        65,
        &["train.x.npy", "shape", "24 x 96", "12 x 192"],
        |world| world.fit(&[]),
    );
    let mut body = good_x.clone();
    body[1000] ^= 1;
    write("train.x.npy", &body);
    let parts = ["train.x.npy", "bytes 0..9216", "checksum", "damaged"];
    world.refuses(65, &parts, |world| world.fit(&[]));
    let mut header = good_x.clone();
    header[126] = 11;
    write("train.x.npy", &header);
    world.refuses(65, &["train.x.npy", "header"], |world| world.fit(&[]));
    write("train.x.npy", &good_x);

    let mut label = good_y.clone();
    label[128 + 8 * 3] = 4;
    write("train.y.npy", &label);
    world.refuses(65, &["train.y.npy", "sha256"], |world| world.fit(&[]));
    world.edit_manifest(|manifest| {
        manifest.splits[0].y_sha256 = hex(&Sha256::digest(&label[128..]));
    });
    world.refuses(65, &["train.y.npy", "row 3", "found 4", "0..4"], |world| {
        world.fit(&[])
    });
    write("train.y.npy", &good_y[..good_y.len() - 8]);
    world.refuses(65, &["train.y.npy", "length"], |world| world.fit(&[]));
    write("train.y.npy", &good_y);

    for (from, to, part) in [
        (
            "\"version\": 3",
            "\"version\": 1",
            "prepare the dataset again",
        ),
        ("\"version\": 3,", "", "version"),
        (
            "\"rows\": 12",
            "\"rows\": 9223372036854775807",
            "splits[0].rows",
        ),
        ("\"rows\": 12", "\"rows\": 0", "splits[0].rows"),
        ("\"rows\": 12", "\"rows\": 120000", "splits[0].x_crc32"),
        ("\"size\": 8", "\"size\": 3037000500", "transform.size"),
        ("\"features\": 192", "\"features\": 0", "transform.size"),
        ("bilinear-antialias", "nearest", "transform.filter"),
        ("\"chw\"", "\"hwc\"", "transform.layout"),
        (
            "\"layout\"",
            "\"orientation\": \"xmp\",\"layout\"",
            "transform.orientation",
        ),
        (
            "\"name\": \"val\"",
            "\"name\": \"../val\"",
            "splits[1].name",
        ),
        ("\"name\": \"val\"", "\"name\": \"train\"", "splits[1].name"),
        ("\"rows\": 12", "\"rows\": 13", "train.x.npy"),
        ("\"features\"", "\"featurse\"", "json"),
    ] {
        assert!(good_json.contains(from), "{from}");
        let lie = good_json.replacen(from, to, 1);
        write("dataset.json", &sealed(&lie));
        world.refuses(65, &[part], |world| world.fit(&[]));
        write("dataset.json", lie.as_bytes());
        world.refuses(65, &["dataset.json"], |world| world.fit(&[]));
    }
    write("dataset.json", good_json.as_bytes());
    succeeds(&world.fit(&["--epochs", "1"]));
}

#[test]
fn help_has_examples() {
    let world = World::new();
    for (program, args) in [
        (PREP, vec!["--help"]),
        (FIT, vec!["--help"]),
        (FIT, vec!["-h"]),
    ] {
        let help = succeeds(&world.run(program, &args));
        assert!(help.contains("Examples:"), "{help}");
    }
    assert!(succeeds(&world.run(FIT, &["--version"])).starts_with("flowreg-fit "));
}
