//! The binaries end to end on small drawn flowers: what good input gives, and that bad
//! input gives one clear line, a non-zero exit, and nothing half-written.

mod common;

use std::process::Command;

use common::world::{FIT, PREP, World, succeeds};

#[test]
fn a_fit_writes_what_it_promises() {
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

    // The model file alone repeats the evaluation.
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

    // It goes on where it stopped, replaces only when told to.
    let again = [
        "--init",
        "run/model.safetensors",
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
fn validation_stopping_schedules_and_the_trajectory() {
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
        "the model is epoch",
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
    use flowreg::data::npy::{Dtype, Header};
    const ROWS: usize = 300_000;
    let world = World::new();
    let mut x = Header::encode(Dtype::F32, &[ROWS, 192]);
    x.resize(x.len() + ROWS * 192 * 4, 0);
    std::fs::write(world.path("data/train.x.npy"), x).unwrap();
    let mut y = Header::encode(Dtype::I64, &[ROWS]);
    (0..ROWS).for_each(|i| y.extend((i as i64 % 4).to_le_bytes()));
    std::fs::write(world.path("data/train.y.npy"), y).unwrap();
    std::fs::remove_file(world.path("data/train.files.json")).unwrap();
    let manifest = std::fs::read_to_string(world.path("data/dataset.json")).unwrap();
    let manifest = manifest.replace("\"rows\": 12", "\"rows\": 300000");
    std::fs::write(world.path("data/dataset.json"), manifest).unwrap();
    let parts = [
        "--engine",
        "300000 x 300000",
        "1080230400000 bytes",
        "primal",
    ];
    world.refuses(64, &parts, |world| world.fit(&["--engine", "gram"]));
    let said = succeeds(&world.fit(&["--epochs", "2"]));
    assert!(said.contains("primal: "), "{said}");
}

#[test]
fn existing_output_is_kept() {
    let world = World::new();
    std::fs::create_dir(world.path("run")).unwrap();
    std::fs::write(world.path("run/thesis.tex"), "years").unwrap();
    world.refuses(73, &["run", "--force"], |world| world.fit(&[]));
    world.refuses(65, &["run", "did not write"], |world| {
        world.fit(&["--force"])
    });
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

    // One image at a time is spoilt in a copy of the folder.
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
        ("empty", &[], "no JPEG or PNG signature"),
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
fn a_dataset_that_lies_is_refused() {
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
    write("train.x.npy", &good_x);

    let mut label = good_y.clone();
    label[128 + 8 * 3] = 4;
    write("train.y.npy", &label);
    world.refuses(65, &["train.y.npy", "row 3", "found 4", "0..4"], |world| {
        world.fit(&[])
    });
    write("train.y.npy", &good_y[..good_y.len() - 8]);
    world.refuses(65, &["train.y.npy", "length"], |world| world.fit(&[]));
    write("train.y.npy", &good_y);

    for (from, to, part) in [
        ("\"version\": 1", "\"version\": 2", "version"),
        ("\"version\": 1,", "", "version"),
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
        write("dataset.json", good_json.replacen(from, to, 1).as_bytes());
        world.refuses(65, &[part], |world| world.fit(&[]));
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
