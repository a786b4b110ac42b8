//! Validation during training: the history, and early stopping.

mod common;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::{Error, FitOptions, Init, Sgd};
use proptest::prelude::*;

fn options(engine: EngineChoice, seed: u32) -> FitOptions {
    FitOptions {
        sgd: Sgd {
            lr: 0.3.into(),
            epochs: 12,
            ..Sgd::default()
        },
        init: Init::Torch { seed },
        engine,
        threads: Some(1),
        ..FitOptions::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The validation of the last epoch equals the evaluation of the model, and validating does not
    /// change the fit.
    #[test]
    fn the_last_validation_equals_the_evaluation_of_the_model(
        n in 2usize..30, m in 1usize..30, d in 1usize..20, classes in 2usize..6, seed in any::<u32>(),
        epochs in 1usize..8, batch_size in prop::option::of(1usize..30), momentum in any::<bool>(),
        chosen in any::<bool>(),
        engine in prop::sample::select(vec![EngineChoice::Gram, EngineChoice::Primal]),
    ) {
        let (problem, other) = (Problem::random(n, d, classes, seed), Problem::random(m, d, classes, !seed));
        let (mut train, mut validation) = (problem.samples(), other.samples());
        if chosen && classes > 2 {
            // Rows out of order.
            let (Ok(a), Ok(b)) = (train.clone().first_classes(classes - 1), validation.clone().first_classes(classes - 1)) else {
                return Err(TestCaseError::reject("no rows"));
            };
            (train, validation) = (a, b);
        }
        let mut options = options(engine, seed);
        options.sgd.epochs = epochs;
        options.sgd.batch_size = batch_size;
        options.sgd.weight_decay = 0.1;
        options.sgd.momentum = if momentum { 0.9 } else { 0.0 };
        let fit = flowreg::fit((&train, &validation), &options, &mut |_| {}).unwrap();
        prop_assert_eq!(fit.history.len(), epochs);
        let last = fit.history.last().unwrap();
        let expected = fit.model.evaluate(&validation).unwrap();
        prop_assert!(common::relative(last.val_loss.unwrap(), expected.loss) < 2e-5, "{last:?} {expected:?}");
        // Rounding may change the prediction of a row with two nearly equal logits.
        let rows = (last.val_accuracy.unwrap() - expected.accuracy).abs() * m as f64;
        prop_assert!(rows < 1.5, "{last:?} {expected:?}");
        let plain = flowreg::fit(&train, &options, &mut |_| {}).unwrap();
        prop_assert_eq!(plain.model, fit.model);
        prop_assert!(plain.history.iter().all(|epoch| epoch.val_loss.is_none()));
    }

    /// Early stopping ends `patience` epochs after the lowest loss, and returns the model of a fit
    /// that ends at the epoch of the lowest loss.
    #[test]
    fn early_stopping_returns_the_best_epoch(
        n in 4usize..16, seed in any::<u32>(), patience in 1usize..6,
        engine in prop::sample::select(vec![EngineChoice::Gram, EngineChoice::Primal]),
        momentum in any::<bool>(),
    ) {
        let (problem, other) = (Problem::random(n, 30, 3, seed), Problem::random(20, 30, 3, !seed));
        let (train, validation) = (problem.samples(), other.samples());
        let mut options = options(engine, seed);
        options.sgd.epochs = 60;
        options.sgd.lr = 1.0.into();
        options.sgd.momentum = if momentum { 0.9 } else { 0.0 };
        options.early_stopping = Some(patience);
        let fit = flowreg::fit((&train, &validation), &options, &mut |_| {}).unwrap();
        let losses: Vec<f64> = fit.history.iter().map(|epoch| epoch.val_loss.unwrap()).collect();
        let best = fit.best_epoch.unwrap();
        prop_assert!(losses.iter().all(|&loss| loss >= losses[best]));
        prop_assert!(losses[..best].iter().all(|&loss| loss > losses[best]));
        prop_assert_eq!(losses.len(), (best + patience + 1).min(60));

        options.early_stopping = None;
        options.sgd.epochs = best + 1;
        let short = flowreg::fit((&train, &validation), &options, &mut |_| {}).unwrap();
        prop_assert_eq!(short.best_epoch, None);
        prop_assert_eq!(short.model, fit.model);
    }
}

#[test]
fn mismatched_shapes_are_refused() {
    let problem = Problem::random(20, 5, 3, 1);
    let train = problem.samples();
    let mut options = options(EngineChoice::Auto, 0);
    for (d, classes) in [(4, 3), (5, 4), (5, 2)] {
        let other = Problem::random(9, d, classes, 2);
        let error = flowreg::fit((&train, &other.samples()), &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(
            error.to_string().contains("5 features, 3 classes"),
            "{error}"
        );
    }
    options.early_stopping = Some(3);
    let error = flowreg::fit(&train, &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("`validation`"), "{error}");
    options.early_stopping = Some(0);
    let error = flowreg::fit((&train, &train), &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("at least 1"), "{error}");
}

#[test]
fn a_validation_loss_that_is_not_finite_stops_the_fit() {
    let problem = Problem::random(20, 5, 3, 1);
    let mut x = problem.x.clone();
    // Finite features whose products with the weight overflow.
    x[5..10].fill(f32::MAX);
    let spoilt = flowreg::Samples::new(&x, 5, &problem.labels, 3).unwrap();
    let options = options(EngineChoice::Primal, 0);
    let error = flowreg::fit((&problem.samples(), &spoilt), &options, &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("validation loss became inf"),
        "{error}"
    );
}
