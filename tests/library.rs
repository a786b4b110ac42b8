//! The library interface for bindings: rows of any layout and type give the same fit, results are
//! written to buffers of the caller, and the caller can stop a fit.

mod common;

use std::ops::ControlFlow;

use flowreg::design::plan::EngineChoice;
use flowreg::design::samples::{OwnedSamples, Rows};
use flowreg::path::{Penalty, fit_path};
use flowreg::{Cancel, Error, Event, FitOptions, Model, PathOptions, Samples};

const CLASSES: usize = 3;

/// n x d values of a fixed pattern, each a multiple of 1/256 (exact in f32), and labels.
fn problem(n: usize, d: usize) -> (Vec<f32>, Vec<u32>) {
    let value = |i: usize| ((i * 7919 + i / d * 31) % 512) as f32 / 256.0 - 1.0;
    let x = (0..n * d).map(value).collect();
    (
        x,
        (0..n as u32)
            .map(|i| (i * i + i / 3) % CLASSES as u32)
            .collect(),
    )
}

fn sgd(samples: &Samples, engine: EngineChoice) -> Model {
    let mut options = FitOptions {
        engine,
        ..Default::default()
    };
    options.sgd.epochs = 20;
    options.sgd.lr = 0.1.into();
    flowreg::fit(samples, &options, &mut |_| {}).unwrap().model
}

fn optimum(samples: &Samples) -> Model {
    let options = PathOptions {
        penalty: Penalty::Value(0.01),
        ..Default::default()
    };
    fit_path(samples, &options, &mut |_| {}).unwrap().model
}

#[test]
fn a_window_of_a_wider_matrix_is_fitted_as_its_copy() {
    for (n, d) in [(12, 40), (60, 7)] {
        let (x, y) = problem(n, d);
        let (first, stride) = (3, d + 5);
        let mut wide = vec![f32::NAN; n * stride];
        for i in 0..n {
            wide[i * stride + first..][..d].copy_from_slice(&x[i * d..][..d]);
        }
        // The last row may end with its last feature.
        let window = &wide[first..first + (n - 1) * stride + d];
        let rows = Rows::strided(window, n, d, stride).unwrap();
        let apart = Samples::from_rows(rows, &y, CLASSES).unwrap();
        let copied = Samples::from_labels(&x, d, &y, CLASSES).unwrap();
        for engine in [EngineChoice::Gram, EngineChoice::Primal] {
            assert_eq!(sgd(&apart, engine), sgd(&copied, engine), "{engine:?}");
        }
        let model = optimum(&copied);
        assert_eq!(optimum(&apart), model);
        assert_eq!(
            model.evaluate(&apart).unwrap(),
            model.evaluate(&copied).unwrap()
        );
        // Subsets of rows are subsets of the window.
        let few = apart.clone().first_classes(2).unwrap();
        let same = copied.clone().first_classes(2).unwrap();
        assert_eq!(
            sgd(&few, EngineChoice::Auto),
            sgd(&same, EngineChoice::Auto)
        );
    }
}

#[test]
fn rows_that_overlap_or_lack_values_are_refused() {
    let x = [0.0; 20];
    for (values, rows, features, stride) in [
        (20, 4, 5, 4),
        (19, 4, 5, 5),
        (20, 3, 5, 5),
        (20, 4, 0, 5),
        (13, 3, 4, 5),
        (16, 3, 4, 5),
        (20, usize::MAX, 4, 5),
    ] {
        let found = Rows::strided(&x[..values], rows, features, stride);
        assert!(
            matches!(found, Err(Error::Shape { .. })),
            "{values} {rows} {features} {stride}"
        );
    }
    assert!(Rows::strided(&x[..14], 3, 4, 5).is_ok());
    assert!(Samples::from_labels(&x, 5, &[0, 1, 2, 3], 3).is_err());
    assert!(Samples::from_labels(&x, 5, &[0, 1, 2], 3).is_err());
}

#[test]
fn labels_and_features_of_any_type_give_one_fit() {
    let (x, y) = problem(20, 30);
    let signed: Vec<i64> = y.iter().map(|&label| label.into()).collect();
    let double: Vec<f64> = x.iter().map(|&value| value.into()).collect();
    let model = optimum(&Samples::from_labels(&x, 30, &y, CLASSES).unwrap());
    assert_eq!(
        optimum(&Samples::new(&x, 30, &signed, CLASSES).unwrap()),
        model
    );
    let owned = OwnedSamples::from_f64(&double, 30, &y, CLASSES).unwrap();
    assert_eq!(optimum(&owned.samples().unwrap()), model);
    let mut large = double.clone();
    large[31] = 1e39;
    let error = OwnedSamples::from_f64(&large, 30, &y, CLASSES).unwrap_err();
    assert!(error.to_string().contains("row 1, feature 1"), "{error}");
}

/// Squares of such features overflow in f32: the fit ended at the model that is 0.
#[test]
fn features_whose_sums_of_squares_overflow_are_refused_by_converged_fits() {
    for (rows, features) in [(20, 30), (30, 5)] {
        let (mut x, y) = problem(rows, features);
        x[3 * features + 4] = -2e18;
        x[7 * features + 4] = 5e18;
        let samples = Samples::from_labels(&x, features, &y, CLASSES).unwrap();
        let error = fit_path(&samples, &PathOptions::default(), &mut |_| {}).unwrap_err();
        let text = error.to_string();
        for part in [
            "x: found -2e18 in row 3, feature 4",
            "whose largest is 5e18",
            "from -1e15 to 1e15",
            "divide that feature",
        ] {
            assert!(text.contains(part), "{text}");
        }
        // The advice works.
        for at in [3, 7] {
            x[at * features + 4] /= 1e18;
        }
        let samples = Samples::from_labels(&x, features, &y, CLASSES).unwrap();
        fit_path(&samples, &PathOptions::default(), &mut |_| {}).unwrap();
    }
}

#[test]
fn features_that_are_not_finite_are_refused_by_the_fit() {
    let (mut x, y) = problem(20, 30);
    x[2 * 30 + 4] = f32::INFINITY;
    let samples = Samples::from_labels(&x, 30, &y, CLASSES).unwrap();
    let errors = [
        flowreg::fit(&samples, &FitOptions::default(), &mut |_| {}).unwrap_err(),
        fit_path(&samples, &PathOptions::default(), &mut |_| {}).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(
            error.to_string().contains("inf in row 2, feature 4"),
            "{error}"
        );
    }
}

#[test]
fn results_are_written_to_buffers_of_the_caller() {
    let (x, y) = problem(20, 30);
    let samples = Samples::from_labels(&x, 30, &y, CLASSES).unwrap();
    let model = optimum(&samples);
    let (mut logits, mut probabilities, mut classes) = (vec![9.0; 60], vec![9.0; 60], vec![9; 20]);
    model.logits_into(&x, &mut logits).unwrap();
    model.probabilities_into(&x, &mut probabilities).unwrap();
    model.predict_into(&x, &mut classes).unwrap();
    assert_eq!(logits, model.logits(&x).unwrap());
    assert_eq!(probabilities, model.probabilities(&x).unwrap());
    assert_eq!(classes, model.predict(&x).unwrap());
    for (i, row) in logits.chunks_exact(CLASSES).enumerate() {
        let expected: f64 = (x[i * 30..][..30].iter().zip(model.weight().row(1)))
            .map(|(&x, &w)| f64::from(x) * f64::from(w))
            .sum::<f64>()
            + f64::from(model.bias()[1]);
        assert!((f64::from(row[1]) - expected).abs() < 1e-5);
    }
    assert!(model.logits_into(&x, &mut logits[..59]).is_err());
    assert!(model.probabilities_into(&x, &mut [0.0; 61]).is_err());
    assert!(model.predict_into(&x[..30], &mut [0; 2]).is_err());
}

#[test]
fn two_outputs_are_the_logistic_model_of_their_difference() {
    let two = Model::new(vec![1.0, 2.0, 4.0, -1.0], vec![0.5, 0.25]).unwrap();
    assert_eq!(two, Model::new(vec![3.0, -3.0], vec![-0.25]).unwrap());
    let z = [1.0 + 2.0 + 0.5f64, 4.0 - 1.0 + 0.25];
    let softmax = z[1].exp() / (z[0].exp() + z[1].exp());
    let probability = two.probabilities(&[1.0, 1.0]).unwrap()[1];
    assert!((f64::from(probability) - softmax).abs() < 1e-6);
}

/// A fit is stopped by its flag or callback, at once or later; other fits continue.
#[test]
fn the_caller_stops_a_fit() {
    let (x, y) = problem(40, 60);
    let samples = Samples::from_labels(&x, 60, &y, CLASSES).unwrap();
    let cancel = Cancel::new();
    let sgd = FitOptions {
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    let path = PathOptions {
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    flowreg::fit(&samples, &sgd, &mut |_| {}).unwrap();
    let mut epochs = 0;
    let stopped = flowreg::fit(&samples, &sgd, &mut |event| {
        epochs += usize::from(matches!(event, Event::Epoch(_)));
        if epochs == 3 {
            cancel.cancel();
        }
    });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    assert_eq!(epochs, 3);
    let stopped = fit_path(&samples, &path, &mut |_| {});
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));

    let mut steps = 0;
    let stopped = fit_path(&samples, &PathOptions::default(), &mut |event| {
        steps += usize::from(matches!(event, Event::Step { .. }));
        if steps == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    assert_eq!(steps, 2);
    fit_path(&samples, &PathOptions::default(), &mut |_| {}).unwrap();
}

/// A model file is replaced in one step: a reader of the old file sees none of the new one. A link to it
/// stays, and nothing else is left in its folder.
#[test]
fn saving_over_a_model_does_not_truncate_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("model.safetensors");
    let small = Model::new(vec![1.0; 3 * 4], vec![0.0; 3]).unwrap();
    let large = Model::new(vec![2.0; 3 * 4000], vec![0.0; 3]).unwrap();
    large.save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut open = std::fs::File::open(&path).unwrap();
    small.save(&path).unwrap();
    let mut seen = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut seen).unwrap();
    assert_eq!(seen, before);
    assert_eq!(Model::load(&path).unwrap(), small);
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("model.safetensors", &link).unwrap();
        large.save(&link).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        std::fs::remove_file(&link).unwrap();
    }
    large.save(&path).unwrap();
    assert_eq!(Model::load(&path).unwrap(), large);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // The permissions stay.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        small.save(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// The temporary file beside it has a name of its own.
#[test]
fn a_model_is_replaced_under_the_longest_name() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = |value| Model::new(vec![value; 3 * 4], vec![0.0; 3]).unwrap();
    let path = folder.path().join("m".repeat(255));
    model(1.0).save(&path).unwrap();
    let mut open = std::fs::File::open(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    model(2.0).save(&path).unwrap();
    assert_eq!(Model::load(&path).unwrap(), model(2.0));
    let mut seen = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut seen).unwrap();
    assert_eq!(seen, before);
    let longer = folder.path().join("m".repeat(256));
    let message = model(1.0).save(&longer).unwrap_err().to_string();
    assert!(message.contains(": cannot rename to: "), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
