//! `flowreg-predict` on photographs and arrays: probabilities in every output format, explanations,
//! and unreadable inputs.

mod common;

use common::world::{FIT, PREDICT, World, succeeds};
use flowreg::io::npy;
use flowreg::linalg::mat::MatRef;
use flowreg::model::explain::Explainer;
use flowreg::{Dataset, Model};
use serde_json::Value;

fn world(fit: &[&str]) -> World {
    let world = World::new();
    succeeds(&world.fit(&[&["--lr", "0.05", "--epochs", "30"], fit].concat()));
    world
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_output_format_has_the_probabilities_of_the_model() {
    let world = world(&[]);
    let model = Model::load(world.path("run/model.safetensors")).unwrap();
    let dataset = Dataset::open(world.path("data")).unwrap();
    let test = dataset.split("test").unwrap();
    let samples = test.samples().unwrap();
    let expected = model
        .probabilities(samples.x().contiguous().unwrap().as_slice())
        .unwrap();

    // Photographs are transformed to the rows of flowreg-prep, to the bit.
    let files: Vec<String> = test
        .files()
        .unwrap()
        .iter()
        .map(|f| format!("photographs/{f}"))
        .collect();
    let args: Vec<&str> = ["run", "--json"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let lines = json(&succeeds(&world.run(PREDICT, &args)));
    assert_eq!(lines.len(), samples.rows());
    for ((line, file), p) in lines.iter().zip(&files).zip(expected.chunks(4)) {
        assert_eq!(line["input"], **file);
        let predictions = line["predictions"].as_array().unwrap();
        assert_eq!(predictions.len(), 4);
        let mut last = f64::INFINITY;
        for prediction in predictions {
            let label = prediction["label"].as_u64().unwrap() as usize;
            let probability = prediction["probability"].as_f64().unwrap();
            assert_eq!(probability as f32, p[label]);
            assert_eq!(prediction["class"], model.about().class_names[label]);
            assert!(probability <= last);
            last = probability;
        }
    }

    // Rows of an array, as a table of values and as an array.
    let csv = succeeds(&world.run(
        PREDICT,
        &[
            "run/model.safetensors",
            "data/test.x.npy",
            "--csv",
            "--top",
            "1",
            "--npy",
            "p.npy",
        ],
    ));
    assert_eq!(csv.lines().count(), 1 + samples.rows());
    assert!(
        csv.starts_with("input,rank,class,label,probability\n\"data/test.x.npy[0]\",1,\""),
        "{csv}"
    );
    let written = std::fs::read(world.path("p.npy")).unwrap();
    let header = npy::Header::parse(&written, written.len() as u64).unwrap();
    assert_eq!(
        (header.dtype, header.shape),
        (npy::Dtype::F32, vec![samples.rows(), 4])
    );
    let values: Vec<u8> = expected.iter().flat_map(|p| p.to_le_bytes()).collect();
    assert!(written[header.data_offset..] == values);
    world.refuses(73, &["p.npy"], |world| {
        world.run(PREDICT, &["run", "data/test.x.npy", "--npy", "p.npy"])
    });

    // A folder gives its photographs in order; skipped files are reported.
    let output = world.run(PREDICT, &["run", "photographs", "--top", "2"]);
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("imagelabels.mat, setid.mat"), "{stderr}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().count(), 28 * 3);
    assert!(
        table.starts_with("photographs/jpg/image_00001.jpg\n"),
        "{table}"
    );
}

#[test]
fn unreadable_inputs_are_named_and_the_rest_predicted() {
    let world = world(&["--classes", "2"]);
    std::fs::write(world.path("notes.jpg"), "no image").unwrap();
    let output = world.run(
        PREDICT,
        &[
            "run",
            "notes.jpg",
            "absent.jpg",
            "photographs/jpg/image_00001.jpg",
            "--json",
        ],
    );
    assert_eq!(output.status.code(), Some(74));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 2);
    assert!(
        stderr.contains("notes.jpg: found no picture") && stderr.contains("absent.jpg"),
        "{stderr}"
    );
    let lines = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["predictions"].as_array().unwrap().len(), 2);

    world.refuses(65, &["data", "no photograph"], |world| {
        world.run(PREDICT, &["run", "data"])
    });
    world.refuses(64, &["--top"], |world| {
        world.run(PREDICT, &["run", "photographs", "--top", "0"])
    });
    world.refuses(65, &["test.y.npy", "rows x features"], |world| {
        world.run(PREDICT, &["run", "data/test.y.npy"])
    });
    world.refuses(74, &["coordinates.npy"], |world| {
        world.run(
            PREDICT,
            &[
                "run",
                "photographs/jpg/image_00001.jpg",
                "--explain",
                "data",
            ],
        )
    });
    world.refuses(64, &["--save-coordinates", "--engine gram"], |world| {
        world.run(
            FIT,
            &[
                "data",
                "--engine",
                "primal",
                "--save-coordinates",
                "--out",
                "other",
            ],
        )
    });
}

#[test]
fn a_model_that_stands_after_an_input_is_named() {
    let world = world(&[]);
    let bytes = std::fs::read(world.path("run/model.safetensors")).unwrap();
    std::fs::write(world.path("copy.safetensors"), &bytes).unwrap();
    std::fs::write(world.path("empty.jpg"), "").unwrap();
    for input in ["data/test.x.npy", "photographs", "empty.jpg"] {
        for model in ["run", "run/model.safetensors", "copy.safetensors"] {
            let output = world.run(PREDICT, &[input, "-", model]);
            let expected = format!(
                "flowreg-predict: MODEL: found {input}, expected a run or a model file; \
                 `{model}` is one: give it first, then the inputs\n"
            );
            assert_eq!(output.status.code(), Some(64));
            assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        }
    }

    // Damaged and missing models keep their own errors.
    let mut damaged = bytes;
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(world.path("damaged.safetensors"), &damaged).unwrap();
    world.refuses(65, &["damaged.safetensors", "crc32"], |world| {
        world.run(PREDICT, &["damaged.safetensors", "run"])
    });
    world.refuses(74, &["absent", "No such file"], |world| {
        world.run(PREDICT, &["absent", "run"])
    });
}

/// The contributions of all rows, that of W0 and b add up to the logit.
#[test]
fn an_explanation_adds_up_to_the_logit() {
    for classes in ["4", "2"] {
        let world = world(&[
            "--save-coordinates",
            "--init",
            "zeros",
            "--classes",
            classes,
        ]);
        let model = Model::load(world.path("run/model.safetensors")).unwrap();
        let dataset = Dataset::open(world.path("data")).unwrap();
        let split = dataset.split("train").unwrap();
        let train = split
            .samples()
            .unwrap()
            .first_classes(classes.parse().unwrap())
            .unwrap();
        let path = world.path("run/coordinates.npy");
        let explainer = Explainer::open(&path, &train, None, model.bias().len()).unwrap();
        let x = train.x().contiguous().unwrap().rows_range(0..3);
        for class in 0..train.classes() as u32 {
            let pushes = explainer.contributions(x, &[class; 3]);
            for (i, pushes) in pushes.iter().enumerate() {
                assert_eq!(pushes.len(), train.rows());
                let logit = |output: usize| -> f64 {
                    let w = model.weight().row(output).iter();
                    w.zip(x.row(i))
                        .map(|(&w, &x)| f64::from(w) * f64::from(x))
                        .sum()
                };
                let expected = match (model.bias().len(), class) {
                    (1, 0) => -logit(0),
                    (1, _) => logit(0),
                    _ => logit(class as usize),
                };
                let sum: f64 = pushes.iter().sum();
                assert!(
                    (sum - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                    "{sum} {expected}"
                );
            }
        }
        let one = MatRef::new(x.row(0), 1, x.cols());
        let file = split.files().unwrap()[0].clone();
        let args = [
            "run",
            &format!("photographs/{file}"),
            "--explain",
            "data",
            "--json",
        ];
        let line = json(&succeeds(&world.run(PREDICT, &args))).remove(0);
        let predicted = line["predictions"][0]["label"].as_u64().unwrap() as u32;
        let pushes = explainer.contributions(one, &[predicted]).remove(0);
        let strongest = (0..pushes.len())
            .max_by(|&a, &b| pushes[a].abs().total_cmp(&pushes[b].abs()))
            .unwrap();
        let named = line["pushed_by"][0]["file"].as_str().unwrap().to_string();
        assert!(
            named.starts_with(&split.files().unwrap()[strongest]),
            "{named}"
        );
        let told = line["pushed_by"][0]["logit"].as_f64().unwrap();
        assert!((told - pushes[strongest]).abs() <= 1e-6 * pushes[strongest].abs());
        assert_eq!(line["pushed_by"].as_array().unwrap().len(), 5);
        // Coordinates of another number of rows are refused.
        let other = dataset.split("test").unwrap();
        let other = other.samples().unwrap();
        let error = Explainer::open(&path, &other, None, model.bias().len());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("split that were fitted")
        );
    }
}

/// A model whose transform contradicts its number of features is refused before a photograph is
/// resized.
#[test]
fn a_transform_with_another_number_of_features_is_refused() {
    let world = world(&[]);
    let mut model = Model::load(world.path("run/model.safetensors")).unwrap();
    for size in [0, 9, 3_037_000_500, usize::MAX] {
        let mut about = model.about().clone();
        about.transform.as_mut().unwrap().size = size;
        model.set_about(about);
        model.save(world.path("lie.safetensors")).unwrap();
        world.refuses(65, &["lie.safetensors", "transform", "192"], |world| {
            world.run(PREDICT, &["lie.safetensors", "photographs/jpg"])
        });
    }
}

/// flowreg-predict accepts what flowreg-prep accepts: damaged pictures with `--lenient`, and pipes;
/// `--skip-bad` leaves out others. Each input has a row of --npy.
#[test]
fn predict_accepts_the_inputs_of_prep() {
    let world = world(&[]);
    let photograph = std::fs::read(world.path("photographs/jpg/image_00001.jpg")).unwrap();
    // libjpeg warns of extra bytes before the end marker.
    let (body, end) = photograph.split_at(photograph.len() - 2);
    std::fs::create_dir(world.path("mine")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(world.path(name), bytes).unwrap();
    write("mine/1.jpg", &photograph);
    write("mine/2.jpg", &[body, &[0; 200], end].concat());
    write("mine/3.jpg", b"");
    let predict = |args: &[&str]| {
        let all = [
            "run", "mine", "--csv", "--top", "1", "--npy", "p.npy", "--force",
        ];
        let output = world.run(PREDICT, &[&all[..], args].concat());
        let lines = String::from_utf8(output.stdout).unwrap().lines().count() - 1;
        let stderr = String::from_utf8(output.stderr).unwrap();
        let bytes = std::fs::read(world.path("p.npy")).unwrap();
        let header = npy::Header::parse(&bytes, bytes.len() as u64).unwrap();
        let values: Vec<f32> = (bytes[header.data_offset..].chunks_exact(4))
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let rows = values.chunks(4).map(|row| !row[0].is_nan());
        (
            output.status.code(),
            lines,
            stderr,
            rows.collect::<Vec<bool>>(),
        )
    };
    let (code, lines, stderr, rows) = predict(&[]);
    assert_eq!((code, lines), (Some(65), 1), "{stderr}");
    assert_eq!(rows, [true, false, false]);
    assert!(
        stderr.contains("2.jpg") && stderr.contains("3.jpg"),
        "{stderr}"
    );
    let (code, lines, stderr, rows) = predict(&["--skip-bad"]);
    assert_eq!((code, lines, stderr.lines().count()), (Some(0), 1, 2));
    assert_eq!(rows, [true, false, false]);
    let (code, lines, stderr, rows) = predict(&["--skip-bad", "--lenient"]);
    assert_eq!((code, lines, stderr.lines().count()), (Some(0), 2, 1));
    assert_eq!(rows, [true, true, false]);
    let (code, lines, stderr, _) = predict(&["--max-side", "8"]);
    assert_eq!((code, lines), (Some(65), 0));
    assert!(stderr.contains("--max-side"), "{stderr}");

    let file = succeeds(&world.run(PREDICT, &["run", "mine/1.jpg"]));
    let mut child = std::process::Command::new(PREDICT)
        .args(["run", "-"])
        .current_dir(world.0.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    child.stdin.take().unwrap().write_all(&photograph).unwrap();
    let piped = succeeds(&common::process::bounded(child));
    assert_eq!(piped, file.replace("mine/1.jpg", "standard input"));
}
