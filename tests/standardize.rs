//! Standardized fits: initial and final models are of unscaled features, sample weights count in mean
//! and deviation, and Gram coordinates have their scale beside them.

mod common;

use std::sync::Arc;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::io::npy;
use flowreg::linalg::mat::MatRef;
use flowreg::loss::weights::{ClassWeights, SampleWeights};
use flowreg::model::explain::Explainer;
use flowreg::{
    Checkpoints, Error, Event, Every, Fit, FitOptions, Init, LearningRate, Model, Samples, Sgd,
};
use proptest::prelude::*;

const ALL: [Standardize; 4] = [
    Standardize::None,
    Standardize::Center,
    Standardize::Scale,
    Standardize::Both,
];
const ENGINES: [EngineChoice; 2] = [EngineChoice::Gram, EngineChoice::Primal];

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Features of very different means and deviations.
fn uneven(n: usize, d: usize, classes: usize, seed: u32) -> Problem {
    let mut problem = Problem::random(n, d, classes, seed);
    for row in problem.x.chunks_mut(d) {
        for (j, x) in row.iter_mut().enumerate() {
            *x = *x * [1.0, 10.0, 100.0, 0.1][j % 4] + [0.0, 50.0, 3.0][j % 3];
        }
    }
    problem
}

fn options(standardize: Standardize, engine: EngineChoice, epochs: usize) -> FitOptions {
    FitOptions {
        sgd: Sgd {
            lr: 0.3.into(),
            epochs,
            ..Sgd::default()
        },
        standardize,
        engine,
        ..FitOptions::default()
    }
}

fn fit(samples: &Samples, options: &FitOptions) -> Fit {
    flowreg::fit(samples, options, &mut |_| {}).unwrap()
}

/// Against a fit of rows that the caller scales, whose model is converted back.
#[test]
fn standardizing_equals_a_fit_of_scaled_rows() {
    for classes in [2, 3] {
        let (problem, other) = (uneven(40, 6, classes, 1), uneven(15, 6, classes, 2));
        let (train, val) = (problem.samples(), other.samples());
        for what in ALL {
            for engine in ENGINES {
                let options = options(what, engine, 20);
                let found = flowreg::fit((&train, &val), &options, &mut |_| {}).unwrap();
                let scaler = Scaler::new(train.x(), None, what).unwrap();
                let (x, y) = (scaler.apply(&train).unwrap(), scaler.apply(&val).unwrap());
                let plain = FitOptions {
                    standardize: Standardize::None,
                    ..options
                };
                let scaled = (&x.samples().unwrap(), &y.samples().unwrap());
                let mut expected = flowreg::fit(scaled, &plain, &mut |_| {}).unwrap();
                if what != Standardize::None {
                    scaler.restore(&mut expected.model);
                }
                assert_eq!(found.model, expected.model);
                assert_eq!(found.history, expected.history);
                assert_eq!(found.scaler.is_some(), what != Standardize::None);
                // Validation rows are scaled by the training rows' mean and deviation.
                let last = found.history.last().unwrap().val_loss.unwrap();
                let raw = found.model.evaluate(&val).unwrap().loss;
                assert!(common::relative(last, raw) < 1e-3, "{what} {last} {raw}");
            }
        }
    }
}

/// The initial model and the final model are both of unscaled features.
#[test]
fn a_standardized_fit_continues_from_its_model() {
    let dir = scratch();
    let file = dir.path().join("model.safetensors");
    for classes in [2, 3] {
        let problem = uneven(60, 5, classes, 4);
        let samples = problem.samples();
        for (what, engine) in ALL.into_iter().flat_map(|w| ENGINES.map(|e| (w, e))) {
            if what == Standardize::None {
                continue; // Unscaled features this large diverge.
            }
            let first = fit(&samples, &options(what, engine, 40));
            first.model.save(&file).unwrap();
            let go_on_at = |init, epochs| {
                let options = FitOptions {
                    init,
                    ..options(what, engine, epochs)
                };
                fit(&samples, &options)
            };
            let go_on = |epochs| go_on_at(Init::File(file.clone()), epochs);
            let read = Init::Model {
                model: Arc::new(Model::load(&file).unwrap()),
                path: file.clone(),
            };
            assert_eq!(go_on_at(read, 2).model, go_on(2).model);
            let loss = |fit: &Fit| fit.model.evaluate(&samples).unwrap().loss;
            assert!(
                common::relative(loss(&go_on(0)), loss(&first)) < 1e-4,
                "{what}"
            );
            let whole = fit(&samples, &options(what, engine, 60));
            let rest = go_on(20);
            let (a, b) = (whole.history[40].loss, rest.history[0].loss);
            assert!(common::relative(a, b) < 1e-4, "{what} {a} {b}");
            assert!(common::relative(loss(&rest), loss(&whole)) < 1e-3, "{what}");
        }
    }
}

/// Contributions and the bias of the model add up to the logit.
#[test]
fn contributions_and_bias_add_up_to_the_logit() {
    let dir = scratch();
    let path = dir.path().join("coordinates.npy");
    for classes in [2, 4] {
        let (problem, others) = (uneven(12, 9, classes, 5), uneven(7, 9, classes, 6));
        let samples = problem.samples();
        for what in ALL {
            let mut options = options(what, EngineChoice::Gram, 30);
            options.init = Init::Zeros;
            options.sgd.lr = LearningRate::Auto;
            let fit = fit(&samples, &options);
            let coordinates = fit.coordinates.unwrap();
            let bytes = npy::f32_file(&[1, coordinates.len()], &coordinates);
            std::fs::write(&path, bytes).unwrap();
            // The scale is read from its file.
            let scaler = fit.scaler.map(|scaler| {
                let file = dir.path().join("scaling.safetensors");
                std::fs::write(&file, scaler.to_safetensors()).unwrap();
                let read = Scaler::load(&file).unwrap();
                assert_eq!(read, scaler);
                read
            });
            let c = fit.model.bias().len();
            let explainer = Explainer::open(&path, &samples, scaler, c).unwrap();
            let x = MatRef::new(&others.x, 7, 9);
            for output in 0..c {
                let class = if c == 1 { 1 } else { output };
                let given = explainer.contributions(x, &[class as u32; 7]);
                for (i, given) in given.iter().enumerate() {
                    assert_eq!(given.len(), 12);
                    let w = fit.model.weight().row(output);
                    let terms = w.iter().zip(x.row(i));
                    let terms: Vec<f64> =
                        terms.map(|(&w, &x)| f64::from(w) * f64::from(x)).collect();
                    let size: f64 = terms.iter().map(|term| term.abs()).sum();
                    let logit: f64 = terms.iter().sum();
                    let given: f64 = given.iter().sum();
                    assert!(
                        (given - logit).abs() < 2e-5 * (1.0 + size),
                        "{what} {given} {logit}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_damaged_scale_is_refused() {
    let dir = scratch();
    let path = dir.path().join("scaling.safetensors");
    let problem = uneven(8, 3, 2, 1);
    let scaler = Scaler::new(problem.samples().x(), None, Standardize::Both).unwrap();
    let good = scaler.to_safetensors();
    for bit in 0..8 * good.len() {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        assert!(Scaler::load(&path).is_err(), "bit {bit}");
    }
    std::fs::write(&path, good).unwrap();
    assert_eq!(Scaler::load(&path).unwrap(), scaler);
}

#[test]
fn a_trajectory_of_scaled_rows_is_refused() {
    let problem = uneven(8, 3, 3, 1);
    for what in ALL.into_iter().filter(|what| *what != Standardize::None) {
        let options = FitOptions {
            emit_coordinates: true,
            ..options(what, EngineChoice::Auto, 3)
        };
        let mut events = 0;
        let error = flowreg::fit(&problem.samples(), &options, &mut |_| events += 1).unwrap_err();
        assert_eq!((error.exit_code(), events), (64, 0), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("`emit_coordinates`") && text.contains(&what.to_string()),
            "{text}"
        );
    }
}

/// A standardized fit resumes to the same bits, and only with the same standardization.
#[test]
fn a_checkpoint_records_the_scale() {
    let dir = scratch();
    let path = dir.path().join("checkpoint");
    let problem = uneven(20, 4, 3, 7);
    let samples = problem.samples();
    let checkpointed = |what, epochs| FitOptions {
        checkpoints: Some(Checkpoints {
            path: path.clone(),
            every: Some(Every::Epochs(4)),
            resume: true,
        }),
        ..options(what, EngineChoice::Primal, epochs)
    };
    fit(&samples, &checkpointed(Standardize::Both, 10));
    let again = fit(&samples, &checkpointed(Standardize::Both, 10));
    let whole = fit(
        &samples,
        &options(Standardize::Both, EngineChoice::Primal, 10),
    );
    assert_eq!(again.model, whole.model);
    for what in [Standardize::Scale, Standardize::None] {
        // The refusal comes before K is computed.
        let mut made = false;
        let options = FitOptions {
            engine: EngineChoice::Gram,
            ..checkpointed(what, 10)
        };
        let refused = flowreg::fit(&samples, &options, &mut |event| {
            made |= matches!(event, Event::GramMatrix { .. });
        });
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Format { .. }));
        assert!(
            error.to_string().contains("`standardize`") && !made,
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Weight 0 removes a row and weight 2 repeats it, for full batches, in every combination.
    #[test]
    fn sample_weights_equal_repetitions(
        n in 6usize..24, d in 1usize..8, classes in 2usize..4, seed in any::<u32>(),
        what in prop::sample::select(ALL.to_vec()),
        balanced in any::<bool>(), auto in any::<bool>(), smoothing in prop::sample::select(vec![0.0, 0.2]),
        momentum in prop::sample::select(vec![0.0, 0.8]), engine in prop::sample::select(ENGINES.to_vec()),
    ) {
        let mut problem = uneven(n, d, classes, seed);
        let weights: Vec<f64> = (0..n).map(|i| (i as f64 * 1.7 + f64::from(seed % 5)) as u64 as f64 % 3.0).collect();
        let mut spelled = problem.clone();
        (spelled.x, spelled.labels) = (Vec::new(), Vec::new());
        for (i, &weight) in weights.iter().enumerate() {
            let row = &mut problem.x[i * d..][..d];
            if weight == 0.0 {
                // Large values, which would be visible if the row had an effect.
                for x in row.iter_mut() { *x *= 30.0; }
            }
            for _ in 0..weight as usize {
                spelled.x.extend_from_slice(row);
                spelled.labels.push(problem.labels[i]);
            }
        }
        spelled.n = spelled.labels.len();
        // Beyond 2/L rounding errors grow from step to step.
        let only_auto = what != Standardize::Both;
        let with = |samples| FitOptions {
            sgd: Sgd {
                lr: if auto || only_auto { LearningRate::Auto } else { LearningRate::Fixed(0.3) },
                epochs: 25,
                momentum,
                ..Sgd::default()
            },
            weighting: SampleWeights {
                classes: if balanced { ClassWeights::Balanced } else { ClassWeights::Equal },
                samples,
                label_smoothing: smoothing,
            },
            init: Init::Zeros,
            standardize: what,
            engine,
            ..FitOptions::default()
        };
        let a = fit(&problem.samples(), &with(Some(weights.clone())));
        let b = fit(&spelled.samples(), &with(None));
        prop_assert!(common::relative(a.lr, b.lr) < 1e-4, "lr {} {}", a.lr, b.lr);
        for (a, b) in a.history.iter().zip(&b.history) {
            prop_assert!((a.loss - b.loss).abs() < 1e-3 * (1.0 + b.loss), "{} {}", a.loss, b.loss);
        }
        // The reported means over rows agree too.
        let (x, y) = (problem.samples(), spelled.samples());
        let weighted = b.model.evaluate_weighted(&x, Some(&weights)).unwrap();
        let plain = b.model.evaluate(&y).unwrap();
        prop_assert!((weighted.loss - plain.loss).abs() < 1e-5 * (1.0 + plain.loss));
        prop_assert!((weighted.accuracy - plain.accuracy).abs() < 1e-12);
        let (weighted, plain) = (b.model.score_weighted(&x, Some(&weights)).unwrap(), b.model.score(&y).unwrap());
        prop_assert!((weighted.top(1) - plain.top(1)).abs() < 1e-12);
        prop_assert!(b.model.evaluate_weighted(&x, Some(&weights[1..])).is_err());
    }
}
