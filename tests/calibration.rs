//! The binaries on arrays: calibrated probabilities agree in all outputs, a split is evaluated once,
//! no model with NaN is published, and invalid arguments are refused before any work.

mod common;

use std::path::Path;
use std::process::Output;

use common::world::{FIT, PREDICT, succeeds};
use common::{json, uniform};
use flowreg::io::npy::{self, Dtype, Header};
use flowreg::{Model, Samples};

/// A folder with arrays: x.npy, y.npy and xv.npy, yv.npy.
struct Place(tempfile::TempDir);

impl Place {
    /// 3 classes, 12 features, `n` training rows and `m` validation rows.
    fn new(n: usize, m: usize) -> Place {
        let place = Place(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let mut uniform = uniform(3);
        let mut rows = |n: usize, x: &str, y: &str| {
            let labels: Vec<usize> = (0..n).map(|_| (uniform() * 3.0) as usize).collect();
            let noise =
                |uniform: &mut dyn FnMut() -> f32| (0..6).map(|_| uniform() - 0.5).sum::<f32>();
            let values: Vec<f32> = (labels.iter())
                .flat_map(|&label| (0..12).map(move |j| f32::from(u8::from(j == label))))
                .map(|mean| mean + 1.4 * noise(&mut uniform))
                .collect();
            place.write_rows(x, &values, 12);
            place.write_labels(y, &labels);
        };
        rows(n, "x.npy", "y.npy");
        rows(m, "xv.npy", "yv.npy");
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write_rows(&self, name: &str, values: &[f32], d: usize) {
        let file = npy::f32_file(&[values.len() / d, d], values);
        std::fs::write(self.path(name), file).unwrap();
    }

    fn write_labels(&self, name: &str, labels: &[usize]) {
        let mut file = Header::encode(Dtype::I64, &[labels.len()]);
        labels
            .iter()
            .for_each(|&label| file.extend((label as i64).to_le_bytes()));
        std::fs::write(self.path(name), file).unwrap();
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = std::process::Command::new(program);
        command
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    fn fit(&self, args: &[&str]) -> Output {
        let arrays = ["--x", "x.npy", "--y", "y.npy", "--out", "run", "--force"];
        self.run(FIT, &[&arrays[..], args].concat())
    }

    fn validated(&self, args: &[&str]) -> Output {
        let val = ["--x-val", "xv.npy", "--y-val", "yv.npy"];
        self.fit(&[&val[..], args].concat())
    }

    /// Check that the exit code is `code`, stderr contains `words`, stdout is empty, and no run was
    /// written.
    #[track_caller]
    fn refuses(&self, code: i32, words: &[&str], output: &Output) {
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{err}");
        words
            .iter()
            .for_each(|word| assert!(err.contains(word), "{word}: {err}"));
        assert_eq!(out, "", "work before the refusal");
        assert!(!self.path("run").exists());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const NEWTON: [&str; 4] = ["--optimizer", "newton", "--l2", "1e-4"];

fn values(file: &Path) -> (Vec<f32>, usize) {
    let matrix = flowreg::io::mmap::MappedMatrix::open(file).unwrap();
    (matrix.view().as_slice().to_vec(), matrix.view().cols())
}

/// Summary, report, flowreg-predict and the exported arrays of a calibrated model agree on loss and
/// confidence. Values of the fit (train_loss, the stored weight) are uncalibrated.
#[test]
fn all_outputs_of_a_calibrated_run_have_the_same_probabilities() {
    let place = Place::new(40, 200);
    for how in [
        &NEWTON[..],
        &["--epochs", "400", "--lr", "1", "--init", "zeros"],
    ] {
        succeeds(&place.validated(&[how, &["--calibrate"]].concat()));
        let summary = json(&place.path("run/summary.json"));
        let temperature = summary["calibration"]["temperature"].as_f64().unwrap();
        assert!(temperature > 1.2, "overconfident fit: {temperature}");
        assert_eq!(summary["calibration"]["at_bound"], false);
        assert_eq!(summary["calibration"]["separable"], false);

        succeeds(&place.run(
            PREDICT,
            &["run", "xv.npy", "--npy", "p.npy", "--force", "--quiet"],
        ));
        let (p, classes) = values(&place.path("p.npy"));
        let (x, d) = values(&place.path("xv.npy"));
        let labels = std::fs::read(place.path("yv.npy")).unwrap();
        let labels = labels[labels.len() - 8 * 200..].chunks(8);
        let labels: Vec<i64> = labels
            .map(|l| i64::from_le_bytes(l.try_into().unwrap()))
            .collect();
        let losses = p
            .chunks(classes)
            .zip(&labels)
            .map(|(p, &l)| -f64::from(p[l as usize]).ln());
        let loss = losses.sum::<f64>() / 200.0;
        let eval_loss = summary["eval_loss"].as_f64().unwrap();
        assert!(
            common::relative(eval_loss, loss) < 1e-5,
            "{eval_loss} {loss}"
        );
        let after = summary["calibration"]["after"]["log_loss"]
            .as_f64()
            .unwrap();
        assert!(common::relative(after, loss) < 1e-5, "{after} {loss}");

        // The confidences of the report's examples are those of flowreg-predict.
        let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
        let told = page.split("\"confidence\":").skip(1).map(|rest| {
            rest[..rest.find([',', '}']).unwrap()]
                .parse::<f32>()
                .unwrap()
        });
        let told: Vec<f32> = told.collect();
        assert!(!told.is_empty());
        for told in told {
            assert!(p.iter().any(|p| (p - told).abs() < 1e-5), "{told}");
        }

        // The file has the uncalibrated weight, and train_loss belongs to it.
        let model = Model::load(place.path("run/model.safetensors")).unwrap();
        assert_eq!(model.about().temperature, Some(temperature));
        let mut plain = model.clone();
        plain.set_about(flowreg::model::About::default());
        let samples = Samples::new(&x, d, &labels, 3).unwrap();
        let before = summary["calibration"]["before"]["log_loss"]
            .as_f64()
            .unwrap();
        assert!(common::relative(plain.evaluate(&samples).unwrap().loss, before) < 1e-5);
        let calibrated = summary["train_loss"].clone();
        succeeds(&place.validated(how));
        let uncalibrated = json(&place.path("run/summary.json"));
        assert_eq!(uncalibrated["train_loss"], calibrated);
        assert_eq!(uncalibrated.get("calibration"), None);
        let fitted = Model::load(place.path("run/model.safetensors")).unwrap();
        assert_eq!(fitted.weight().as_slice(), model.weight().as_slice());

        // Exported arrays are divided by the temperature.
        model.save(place.path("calibrated.safetensors")).unwrap();
        let export = [
            "export",
            "calibrated.safetensors",
            "--out",
            "exported",
            "--force",
        ];
        succeeds(&place.run(FIT, &export));
        let (weight, _) = values(&place.path("exported/weight.npy"));
        let bias = std::fs::read(place.path("exported/bias.npy")).unwrap();
        let bias: Vec<f32> = (bias[bias.len() - 12..].chunks(4))
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let exported = Model::new(weight, bias).unwrap();
        let onnx = std::fs::read(place.path("exported/model.onnx")).unwrap();
        let raw: &[u8] = bytemuck::cast_slice(exported.weight().as_slice());
        assert!(
            onnx.windows(raw.len()).any(|window| window == raw),
            "the same weight in ONNX"
        );
        let q = exported.probabilities(&x).unwrap();
        assert!(p.iter().zip(&q).all(|(p, q)| (p - q).abs() < 1e-5));

        // --init takes the weight and ignores the temperature.
        let again = ["--init", "calibrated.safetensors", "--epochs", "0"];
        succeeds(&place.fit(&again));
        let again = Model::load(place.path("run/model.safetensors")).unwrap();
        assert_eq!(again.weight().as_slice(), model.weight().as_slice());
        assert_eq!(again.about().temperature, None);
    }
}

/// Writing and reading a temperature changes no digit.
#[test]
fn temperatures_survive_their_file_exactly() {
    let mut uniform = uniform(1);
    for _ in 0..2000 {
        let mut model = Model::new(vec![1.0, 2.0], vec![0.5]).unwrap();
        let temperature = (10.0 * f64::from(uniform()) - 5.0 + 1e-9 * f64::from(uniform())).exp();
        model.set_about(flowreg::model::About {
            temperature: Some(temperature),
            ..Default::default()
        });
        let read = Model::parse(Path::new("m"), &model.to_safetensors()).unwrap();
        assert_eq!(read, model);
    }
}

#[test]
fn a_temperature_at_its_bound_is_reported() {
    let place = Place::new(40, 60);
    succeeds(&place.fit(&NEWTON));
    let model = Model::load(place.path("run/model.safetensors")).unwrap();
    let (x, _) = values(&place.path("xv.npy"));
    let right: Vec<usize> = model
        .predict(&x)
        .unwrap()
        .iter()
        .map(|&p| p as usize)
        .collect();
    place.write_labels("yv.npy", &right);
    let wrong: Vec<usize> = right.iter().map(|p| (p + 1) % 3).collect();
    for (labels, bound, separable) in [(right, 0.01, true), (wrong, 100.0, false)] {
        place.write_labels("yv.npy", &labels);
        let output = place.validated(&[&NEWTON[..], &["--calibrate"]].concat());
        let err = text(&output.stderr);
        assert!(output.status.success(), "{err}");
        assert!(
            err.contains("temperature") && err.lines().count() == 1,
            "{err}"
        );
        let found = &json(&place.path("run/summary.json"))["calibration"];
        assert_eq!(found["temperature"], bound);
        assert_eq!(
            (&found["at_bound"], &found["separable"]),
            (&true.into(), &separable.into())
        );
    }
}

#[test]
fn refusals_come_before_any_work() {
    let place = Place::new(20, 20);
    for optimizer in ["sgd", "newton", "lbfgs"] {
        let output = place.fit(&["--optimizer", optimizer, "--calibrate"]);
        place.refuses(64, &["--calibrate", "--val-split"], &output);
    }
    let output = place.fit(&["--optimizer", "newton", "--cv", "3", "--calibrate"]);
    place.refuses(64, &["--calibrate", "--val-split"], &output);
    let output = place.validated(&["--optimizer", "newton", "--calibrate", "--refit", "all"]);
    place.refuses(64, &["--calibrate", "--refit"], &output);
    let output = place.fit(&["--early-stopping", "3"]);
    place.refuses(64, &["--early-stopping", "--val-split"], &output);
    let output = place.fit(&["--save-trajectory", "--standardize", "both"]);
    place.refuses(64, &["--save-trajectory", "--standardize none"], &output);

    // A model or weights of another shape are refused before K is computed.
    let events = |options: &flowreg::FitOptions| {
        let (x, d) = values(&place.path("x.npy"));
        let samples = Samples::new(&x, d, &[0; 20], 3).unwrap();
        let mut events = 0;
        let refused = flowreg::fit(&samples, options, &mut |_| events += 1).is_err();
        assert!(refused);
        events
    };
    let mut options = flowreg::FitOptions::default();
    options.weighting.samples = Some(vec![1.0; 19]);
    assert_eq!(events(&options), 0);
    let small = Model::new(vec![1.0; 9], vec![0.0; 3]).unwrap();
    small.save(place.path("small.safetensors")).unwrap();
    let options = flowreg::FitOptions {
        init: flowreg::Init::File(place.path("small.safetensors")),
        ..Default::default()
    };
    assert_eq!(events(&options), 0);

    // An existing output is refused before anything is predicted.
    succeeds(&place.fit(&["--epochs", "1"]));
    std::fs::write(place.path("p.npy"), b"mine").unwrap();
    let output = place.run(PREDICT, &["run", "xv.npy", "--npy", "p.npy"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("--force"));
    assert_eq!(std::fs::read(place.path("p.npy")).unwrap(), b"mine");
}

/// A missing split is reported before another one is verified.
#[test]
fn missing_splits_are_reported_before_any_verification() {
    let world = common::world::World::new();
    let damaged = world.path("data/train.x.npy");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    for option in ["--val-split", "--eval-split"] {
        world.refuses(65, &["no split \"vale\"", "train"], |world| {
            world.fit(&[option, "vale"])
        });
    }
    world.refuses(65, &["train.x.npy"], |world| world.fit(&[]));
}

/// A split that is both fitted and the --eval-split is evaluated once, with its sample weights.
#[test]
fn a_split_is_evaluated_once() {
    let place = Place::new(30, 30);
    let weights: String = (0..30).map(|i| format!("{} ", i % 3)).collect();
    std::fs::write(place.path("w"), weights).unwrap();
    let how = ["--epochs", "9", "--sample-weight", "w", "--timings"];
    let said = succeeds(&place.fit(&how));
    assert!(said.contains("evaluation of the training rows"), "{said}");
    assert!(!said.contains("evaluation of --eval-split"), "{said}");
    let summary = json(&place.path("run/summary.json"));
    for name in ["accuracy", "loss"] {
        assert_eq!(
            summary[format!("train_{name}")],
            summary[format!("eval_{name}")]
        );
    }
    // Against the definition.
    let model = Model::load(place.path("run/model.safetensors")).unwrap();
    let (x, _) = values(&place.path("x.npy"));
    let labels = std::fs::read(place.path("y.npy")).unwrap();
    let labels = labels[labels.len() - 8 * 30..]
        .chunks(8)
        .map(|l| usize::from(l[0]));
    let p = model.probabilities(&x).unwrap();
    let (mut loss, mut total) = (0.0, 0.0);
    for (i, (p, label)) in p.chunks(3).zip(labels).enumerate() {
        let weight = f64::from(i as u32 % 3);
        loss -= weight * f64::from(p[label]).ln();
        total += weight;
    }
    let found = summary["train_loss"].as_f64().unwrap();
    assert!(
        common::relative(found, loss / total) < 1e-5,
        "{found} {}",
        loss / total
    );

    let said = succeeds(&place.validated(&how));
    assert!(said.contains("evaluation of --eval-split"), "{said}");
}

/// The model of the last step is checked too: no run with NaN or infinity is published.
#[test]
fn a_last_step_that_overflows_publishes_nothing() {
    let place = Place::new(30, 30);
    let (mut x, d) = values(&place.path("x.npy"));
    for engine in ["gram", "primal"] {
        for (epochs, lr, scale) in [
            ("1", "1e300", 1.0),
            ("2", "1e300", 1.0),
            ("1", "1e20", 1e10),
        ] {
            // The weights of the last epoch are finite, its logits are not.
            let scaled: Vec<f32> = x.iter().map(|x| scale * x).collect();
            place.write_rows("x.npy", &scaled, d);
            let output = place.fit(&["--epochs", epochs, "--lr", lr, "--engine", engine]);
            let err = text(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(70),
                "{epochs} {lr} {engine} {err}"
            );
            assert!(err.contains("--lr"), "{err}");
            assert_eq!(err.contains("logits"), scale > 1.0, "{err}");
            assert!(!place.path("run").exists());
        }
    }
    x.truncate(30 * d);
    let samples = Samples::new(&x, d, &[0; 30], 3).unwrap();
    let mut options = flowreg::FitOptions::default();
    (options.sgd.lr, options.sgd.epochs) = (1e300.into(), 1);
    let error = flowreg::fit(&samples, &options, &mut |_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            flowreg::Error::Diverged {
                epoch: 0,
                what: "weight",
                ..
            }
        ),
        "{error}"
    );
}

/// Every command that loads a model refuses NaN and infinity, and names file, tensor and place.
#[test]
fn models_with_nan_or_infinity_are_refused() {
    let place = Place::new(10, 10);
    for (value, word) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        for in_bias in [false, true] {
            let (mut weight, mut bias) = (vec![0.5; 36], vec![0.0; 3]);
            let at = if in_bias {
                bias[2] = value;
                "bias[2]"
            } else {
                weight[17] = value;
                "weight[1, 5]"
            };
            let model = Model::new(weight, bias).unwrap();
            std::fs::write(place.path("m.safetensors"), model.to_safetensors()).unwrap();
            assert!(model.save(place.path("never.safetensors")).is_err());
            let words = ["m.safetensors", at, word];
            let doors = [
                place.run(PREDICT, &["m.safetensors", "x.npy"]),
                place.run(FIT, &["export", "m.safetensors", "--out", "exported"]),
                place.fit(&["--init", "m.safetensors"]),
            ];
            for output in doors {
                let err = text(&output.stderr);
                assert_eq!(output.status.code(), Some(65), "{err}");
                words
                    .iter()
                    .for_each(|word| assert!(err.contains(word), "{word}: {err}"));
            }
            assert!(!place.path("exported").exists() && !place.path("never.safetensors").exists());
        }
    }
}

/// Rows whose logits overflow f32 are named, the others are predicted, and no NaN is printed.
#[test]
fn rows_whose_logits_overflow_are_named_and_left_out() {
    let place = Place::new(10, 10);
    let model = Model::new([1e30, 0.0, 0.0, 1e30, 1.0, 1.0].to_vec(), vec![0.0; 3]).unwrap();
    model.save(place.path("m.safetensors")).unwrap();
    place.write_rows("x.npy", &[1.0, 2.0, 1e14, -1e14, 1.0, -2.0], 2);
    let output = place.run(PREDICT, &["m.safetensors", "x.npy", "--json"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(65), "{err}");
    assert!(err.contains("x.npy[1]") && err.contains("logits"), "{err}");
    assert_eq!(out.lines().count(), 2);
    assert!(
        out.contains("x.npy[0]") && out.contains("x.npy[2]") && !out.contains("null"),
        "{out}"
    );
}
