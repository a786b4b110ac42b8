//! SGD against an f64 reference of torch's update rule, for every setting.

mod common;

use common::{Problem, twin};
use flowreg::design::plan::EngineChoice;
use flowreg::loss::weights::{ClassWeights, SampleWeights};
use flowreg::{Decay, Error, FitOptions, Init, Schedule, Sgd};
use proptest::prelude::*;

fn schedules() -> impl Strategy<Value = Schedule> {
    let decay = prop_oneof![
        Just(Decay::Constant),
        Just(Decay::Cosine),
        (1usize..6, 0.1f64..1.0).prop_map(|(size, gamma)| Decay::Step { size, gamma }),
    ];
    (decay, 0usize..8).prop_map(|(decay, warmup)| Schedule { decay, warmup })
}

fn settings() -> impl Strategy<Value = Sgd> {
    (
        0.01f64..0.4,
        1usize..12,
        prop::sample::select(vec![0.0f64, 0.5, 0.9]),
        prop::sample::select(vec![0.0f64, 0.3, 1.0]),
        any::<bool>(),
        prop::sample::select(vec![0.0f64, 0.01, 0.2]),
        prop::option::of(1usize..30),
        schedules(),
        any::<u32>(),
    )
        .prop_map(
            |(
                lr,
                epochs,
                momentum,
                dampening,
                nesterov,
                weight_decay,
                batch_size,
                schedule,
                seed,
            )| {
                let nesterov = nesterov && momentum > 0.0;
                Sgd {
                    lr: lr.into(),
                    schedule,
                    epochs,
                    momentum,
                    dampening: if nesterov { 0.0 } else { dampening },
                    nesterov,
                    weight_decay,
                    batch_size,
                    seed,
                }
            },
        )
}

/// Weights of up to 24 rows and 6 classes, some of them 0, and label smoothing.
fn weightings() -> impl Strategy<Value = SampleWeights> {
    let weight = || prop::sample::select(vec![0.0f64, 0.25, 1.0, 1.0, 3.0]);
    let classes = prop_oneof![
        Just(ClassWeights::Equal),
        Just(ClassWeights::Balanced),
        prop::collection::vec(weight(), 6).prop_map(ClassWeights::Given),
    ];
    let samples = prop::option::of(prop::collection::vec(weight(), 24));
    let smoothing = prop::sample::select(vec![0.0f64, 0.1, 0.6]);
    (classes, samples, smoothing).prop_map(|(classes, samples, label_smoothing)| SampleWeights {
        classes,
        samples,
        label_smoothing,
    })
}

/// The weighting cut to these rows and classes, and the same for the reference; `None` if all
/// weights were 0.
fn weigh(
    problem: &Problem,
    mut weighting: SampleWeights,
) -> Option<(SampleWeights, twin::Weights)> {
    let (n, classes) = (problem.n, problem.classes);
    if let Some(samples) = &mut weighting.samples {
        samples.truncate(n);
    }
    let samples = weighting.samples.clone().unwrap_or(vec![1.0; n]);
    let of = |class: usize| -> f64 {
        let own = |&i: &usize| problem.labels[i] == class as i64;
        (0..n).filter(own).map(|i| samples[i]).sum()
    };
    let of_classes: Vec<f64> = match &mut weighting.classes {
        ClassWeights::Equal => vec![1.0; classes],
        ClassWeights::Given(given) => {
            given.truncate(classes);
            given.clone()
        }
        ClassWeights::Balanced => {
            let present = (0..classes).filter(|&class| of(class) > 0.0).count() as f64;
            let share = samples.iter().sum::<f64>() / present;
            let weight = |class| {
                if of(class) > 0.0 {
                    share / of(class)
                } else {
                    1.0
                }
            };
            (0..classes).map(weight).collect()
        }
    };
    let total: f64 = (0..classes)
        .map(|class| of(class) * of_classes[class])
        .sum();
    let twin = twin::Weights {
        samples,
        classes: of_classes,
        smoothing: weighting.label_smoothing,
    };
    (total > 0.0).then_some((weighting, twin))
}

/// The initial parameters of [`Init`], in f64.
fn start(problem: &Problem, init: &Init) -> twin::Parameters {
    let (d, c) = (problem.d, problem.outputs());
    let (weight, bias) = match *init {
        Init::Torch { seed } => flowreg::torch_rng::TorchRng::new(seed).linear(d, c),
        _ => (vec![0.0; c * d], vec![0.0; c]),
    };
    let wide = |values: Vec<f32>| values.iter().map(|&v| f64::from(v)).collect();
    twin::Parameters {
        weight: wide(weight),
        bias: wide(bias),
    }
}

/// Compare losses and final parameters of both engines with the reference.
fn check_against_twin(
    problem: &Problem,
    sgd: &Sgd,
    init: &Init,
    weighting: &SampleWeights,
    weights: &twin::Weights,
    fit_intercept: bool,
) -> Result<(), TestCaseError> {
    let samples = problem.samples();
    let mut start = start(problem, init);
    if !fit_intercept {
        start.bias.fill(0.0);
    }
    let (losses, end) = twin::sgd(problem, start, sgd, weights, fit_intercept);
    for engine in [EngineChoice::Gram, EngineChoice::Primal] {
        let options = FitOptions {
            sgd: sgd.clone(),
            init: init.clone(),
            weighting: weighting.clone(),
            engine,
            fit_intercept,
            threads: Some(1),
            ..FitOptions::default()
        };
        let fit = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
        prop_assert_eq!(fit.history.len(), losses.len());
        for (epoch, expected) in fit.history.iter().zip(&losses) {
            prop_assert!(
                common::relative(epoch.loss, *expected) < 2e-5,
                "{epoch:?} {expected}"
            );
        }
        prop_assert!(common::largest_difference(fit.model.weight().as_slice(), &end.weight) < 5e-5);
        prop_assert!(common::largest_difference(fit.model.bias(), &end.bias) < 5e-5);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// All settings combined: class and sample weights (some 0, also those of whole batches), label
    /// smoothing, momentum, weight decay, batches, schedules, two and more classes.

    #[test]
    fn sgd_equals_the_f64_reference(
        sgd in settings(), weighting in weightings(), n in 2usize..24, d in 1usize..14,
        classes in 2usize..6, seed in any::<u32>(), zeros in any::<bool>(),
        fit_intercept in any::<bool>(),
    ) {
        let problem = Problem::random(n, d, classes, seed);
        let init = if zeros { Init::Zeros } else { Init::Torch { seed } };
        let Some((weighting, weights)) = weigh(&problem, weighting) else {
            return Ok(());
        };
        check_against_twin(&problem, &sgd, &init, &weighting, &weights, fit_intercept)?;
    }
}

/// The only class with weight has the largest logits and no rows: label smoothing cancels the
/// distance to the label's logit, and small exponentials remain.
#[test]
fn smoothing_of_a_class_without_rows_equals_the_f64_reference() {
    let problem = Problem::random(5, 7, 3, 979_663_454);
    let sgd = Sgd {
        lr: 0.365_099_887_697_680_3.into(),
        momentum: 0.9,
        epochs: 9,
        ..Sgd::default()
    };
    let weighting = SampleWeights {
        classes: ClassWeights::Given(vec![0.0, 0.25, 0.0, 1.0, 1.0, 1.0]),
        label_smoothing: 0.1,
        ..SampleWeights::default()
    };
    let (weighting, weights) = weigh(&problem, weighting).unwrap();
    let init = Init::Torch { seed: 979_663_454 };
    check_against_twin(&problem, &sgd, &init, &weighting, &weights, true).unwrap();
}

/// Label smoothing with class weights at W = 0, where the loss is known.
#[test]
fn smoothing_weighs_every_class_by_its_weight() {
    // logits 0, so every -ln p is ln 3: loss = ((1-ε) Σ w_y + n ε/C Σ w_c) ln 3 / Σ w_y.
    let problem = Problem {
        n: 4,
        d: 1,
        classes: 3,
        x: vec![1.0, -1.0, 2.0, 0.5],
        labels: vec![0, 0, 1, 2],
    };
    let weights = [0.5, 1.0, 7.0];
    let mut options = FitOptions {
        init: Init::Zeros,
        weighting: SampleWeights {
            classes: ClassWeights::Given(weights.to_vec()),
            label_smoothing: 0.1,
            ..SampleWeights::default()
        },
        ..FitOptions::default()
    };
    options.sgd.epochs = 1;
    let fit = flowreg::fit(&problem.samples(), &options, &mut |_| {}).unwrap();
    let expected = (0.9 * 9.0 + 4.0 * 0.1 / 3.0 * 8.5) * 3f64.ln() / 9.0;
    assert!(common::relative(fit.history[0].loss, expected) < 1e-6);
}

/// Rows of chosen classes, which are not contiguous, give the fit of the sorted rows.
#[test]
fn rows_out_of_order_fit_as_rows_in_order() {
    let problem = Problem::random(60, 9, 4, 3);
    let kept: Vec<usize> = (0..60).filter(|&i| problem.labels[i] < 3).collect();
    let x: Vec<f32> = (kept.iter())
        .flat_map(|&i| problem.x[i * 9..][..9].to_vec())
        .collect();
    let labels: Vec<i64> = kept.iter().map(|&i| problem.labels[i]).collect();
    let compact = flowreg::Samples::new(&x, 9, &labels, 3).unwrap();
    let chosen = problem.samples().first_classes(3).unwrap();
    assert!(chosen.x().contiguous().is_none());
    let engines = [EngineChoice::Gram, EngineChoice::Primal];
    for (batch_size, engine) in [None, Some(7)]
        .into_iter()
        .flat_map(|b| engines.map(|e| (b, e)))
    {
        let mut options = FitOptions {
            engine,
            ..FitOptions::default()
        };
        options.sgd.batch_size = batch_size;
        let a = flowreg::fit(&compact, &options, &mut |_| {}).unwrap();
        let b = flowreg::fit(&chosen, &options, &mut |_| {}).unwrap();
        assert_eq!(a.history, b.history);
        assert_eq!(a.model, b.model);
        assert_eq!(
            a.model.evaluate(&compact).unwrap(),
            b.model.evaluate(&chosen).unwrap()
        );
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_fit() {
    let problem = Problem::random(20, 5, 3, 1);
    let mut x = problem.x.clone();
    for v in &mut x {
        *v *= 1e25;
    }
    let samples = flowreg::Samples::new(&x, 5, &problem.labels, 3).unwrap();
    let mut options = FitOptions::default();
    options.sgd.lr = 1e30.into();
    let mut epochs = 0;
    let error = flowreg::fit(&samples, &options, &mut |event| {
        epochs += usize::from(matches!(event, flowreg::Event::Epoch(_)));
    })
    .unwrap_err();
    match error {
        Error::Diverged { epoch, loss, .. } => {
            assert_eq!(epoch, epochs);
            assert!(!loss.is_finite());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn options_that_torch_refuses_are_refused() {
    let good = Sgd::default();
    assert!(good.check().is_ok());
    for bad in [
        Sgd {
            lr: f64::NAN.into(),
            ..good.clone()
        },
        Sgd {
            lr: f64::INFINITY.into(),
            ..good.clone()
        },
        Sgd {
            lr: (-0.1).into(),
            ..good.clone()
        },
        Sgd {
            momentum: -0.1,
            ..good.clone()
        },
        Sgd {
            weight_decay: -1.0,
            ..good.clone()
        },
        Sgd {
            dampening: f64::NAN,
            ..good.clone()
        },
        Sgd {
            nesterov: true,
            ..good.clone()
        },
        Sgd {
            nesterov: true,
            momentum: 0.9,
            dampening: 0.1,
            ..good.clone()
        },
        Sgd {
            batch_size: Some(0),
            ..good.clone()
        },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

/// Without an intercept a start with a bias, and centred features, are refused.
#[test]
fn a_bias_is_refused_without_an_intercept() {
    let problem = Problem::random(6, 3, 3, 1);
    let model = flowreg::Model::new(vec![0.5; 9], vec![0.0, 1.0, 0.0]).unwrap();
    let mut options = FitOptions {
        fit_intercept: false,
        init: Init::Model {
            model: std::sync::Arc::new(model),
            path: "start".into(),
        },
        ..FitOptions::default()
    };
    let refused = |options: &FitOptions| {
        let error = flowreg::fit(&problem.samples(), options, &mut |_| {}).unwrap_err();
        error.to_string()
    };
    let error = refused(&options);
    assert!(
        error.contains("start: bias: found 1, expected 0"),
        "{error}"
    );
    options.init = Init::Zeros;
    options.standardize = flowreg::Standardize::Both;
    let error = refused(&options);
    assert!(error.contains("`fit_intercept` false"), "{error}");
    options.standardize = flowreg::Standardize::Scale;
    let fit = flowreg::fit(&problem.samples(), &options, &mut |_| {}).unwrap();
    assert_eq!(fit.model.bias(), [0.0; 3]);
}

/// Without an intercept rows of zeros leave the loss without curvature: 1/L is no rate.
#[test]
fn the_automatic_rate_is_refused_without_curvature() {
    let samples = flowreg::Samples::new(&[0.0; 8], 2, &[0, 1, 0, 1], 2).unwrap();
    for engine in [EngineChoice::Gram, EngineChoice::Primal] {
        let mut options = FitOptions {
            engine,
            fit_intercept: false,
            ..FitOptions::default()
        };
        options.sgd.lr = flowreg::LearningRate::Auto;
        let error = flowreg::fit(&samples, &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Options { .. }), "{error}");
    }
}
