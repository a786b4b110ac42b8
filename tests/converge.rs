//! Converged fits reach the optimum, report it correctly, and choose the documented penalty.

mod common;

use common::{Problem, json, relative, shared, twin};
use flowreg::design::plan::EngineChoice;
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::loss::weights::{ClassWeights, SampleWeights};
use flowreg::path::{Folds, Optimizer, PathFit, PathOptions, Penalty, fit_path};
use flowreg::solver::report::{MeasuredOn, SolveReport, Status};
use flowreg::{FitOptions, Init, Samples, Splits};
use proptest::prelude::*;

fn fit<'a>(data: impl Into<Splits<'a>>, options: &PathOptions) -> PathFit {
    fit_path(data, options, &mut |_| {}).unwrap()
}

/// F at a model, from the definition in f64, with the weight of each row.
fn objective(p: &Problem, at: &twin::Parameters, weights: &[f64], l2: f64) -> f64 {
    let total: f64 = weights.iter().sum();
    let data: f64 = (0..p.n)
        .map(|row| weights[row] / total * twin::loss_gradient(p, at, &[row as u32]).0)
        .sum();
    data + 0.5 * l2 * at.weight.iter().map(|w| w * w).sum::<f64>()
}

fn parameters(fit: &PathFit) -> twin::Parameters {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
    twin::Parameters {
        weight: wide(fit.model.weight().as_slice()),
        bias: wide(fit.model.bias()),
    }
}

/// Bound on the change of logits, and so of losses, by rounding weights and products to f32.
fn rounding(p: &Problem, at: &twin::Parameters) -> f64 {
    let size = |row: &[f32], j: usize| -> f64 {
        let weight = &at.weight[j * p.d..][..p.d];
        let terms = row
            .iter()
            .zip(weight)
            .map(|(&x, w)| (f64::from(x) * w).abs());
        terms.sum::<f64>() + at.bias[j].abs()
    };
    let rows =
        p.x.chunks(p.d)
            .flat_map(|row| (0..at.bias.len()).map(move |j| size(row, j)));
    f64::from(f32::EPSILON) * rows.fold(0.0, f64::max)
}

/// Every optimum of the reference, which Newton's method found in f64: by every optimizer in Gram
/// coordinates, and on the primal engine, which takes 50 times as long, for two penalties (for all
/// with FLOWREG_FULL=1).
#[test]
fn the_optima_of_the_reference_are_reached() {
    let Some(shared) = shared("optima") else {
        return;
    };
    let dataset = common::flowers128(&shared);
    let (train, val) = (
        dataset.split("train").unwrap(),
        dataset.split("val").unwrap(),
    );
    let (train, val) = (train.samples().unwrap(), val.samples().unwrap());
    let optima = json(&shared.join("reference/l2_optima.json"));
    let optima = optima.as_array().unwrap();
    assert_eq!(optima.len(), 8);
    let full = std::env::var_os("FLOWREG_FULL").is_some();
    for (engine, optimizer) in [
        (EngineChoice::Gram, Optimizer::Newton),
        (EngineChoice::Gram, Optimizer::Lbfgs),
        (EngineChoice::Primal, Optimizer::Newton),
        (EngineChoice::Primal, Optimizer::Lbfgs),
    ] {
        for (i, optimum) in optima.iter().enumerate() {
            if engine == EngineChoice::Primal && !full && ![0, 2].contains(&i) {
                continue;
            }
            let options = PathOptions {
                optimizer,
                engine,
                penalty: Penalty::Value(optimum["l2"].as_f64().unwrap()),
                tolerance: 1e-6,
                ..PathOptions::default()
            };
            let found = fit((&train, &val), &options);
            let expected = optimum["objective"].as_f64().unwrap();
            let off = relative(found.report.objective, expected);
            let context = format!("{engine:?} {optimizer:?} {optimum} {:?}", found.report);
            println!(
                "{engine:?} {optimizer:?} l2 {}: off {off:.1e}, {:.2} s",
                found.l2, found.seconds
            );
            assert_eq!(found.report.status, Status::Converged, "{context}");
            assert_eq!(found.report.measured_on, MeasuredOn::Model);
            assert!(off <= 1e-7, "{off} {context}");
            let accuracy = found.path[0].val_accuracy.unwrap();
            let images = (accuracy - optimum["val_accuracy"].as_f64().unwrap()) * 1020.0;
            assert!(images.abs() <= 2.01, "{images} {context}");
            let val_loss = found.path[0].val_loss.unwrap();
            let off = relative(val_loss, optimum["val_loss"].as_f64().unwrap());
            assert!(off <= 1e-3, "{val_loss} {context}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Both optimizers on both engines reach one optimum, for wide and tall problems with weights and
    /// smoothed labels; the gap bounds the distance by the definition.
    #[test]
    fn solvers_and_engines_agree(
        n in 6usize..40, d in 1usize..80, classes in 2usize..5, seed in any::<u32>(),
        l2 in (-4.0f64..1.0).prop_map(|e| 10f64.powf(e)),
        smoothing in prop_oneof![Just(0.0), 0.0f64..0.4], weighted in any::<bool>(),
    ) {
        let problem = Problem::random(n, d, classes, seed);
        let samples = problem.samples();
        let mut uniform = common::uniform(seed ^ 9);
        let weights: Vec<f64> = (0..n).map(|_| if weighted { f64::from(uniform()) } else { 1.0 }).collect();
        let mut options = PathOptions {
            penalty: Penalty::Value(l2),
            weighting: SampleWeights {
                samples: Some(weights.clone()),
                label_smoothing: smoothing,
                ..SampleWeights::default()
            },
            ..PathOptions::default()
        };
        let mut lowest = f64::INFINITY;
        let mut found = Vec::new();
        for engine in [EngineChoice::Gram, EngineChoice::Primal] {
            if engine == EngineChoice::Gram && n > d {
                continue;
            }
            for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                (options.engine, options.optimizer) = (engine, optimizer);
                let fit = fit(&samples, &options);
                let SolveReport { status, .. } = fit.report;
                prop_assert!(status == Status::Converged, "{engine:?} {optimizer:?} {:?}", fit.report);
                lowest = f64::min(lowest, fit.report.objective);
                found.push(fit);
            }
        }
        for fit in &found {
            let objective_found = fit.report.objective;
            let gap = fit.report.gap.unwrap();
            prop_assert!(objective_found <= lowest * (1.0 + 1e-5) + gap, "{objective_found} {lowest} {gap}");
            if smoothing == 0.0 {
                let twin = objective(&problem, &parameters(fit), &weights, l2);
                // A class without rows keeps a probability of e^-37.
                let bound = 1e-6 * objective_found + rounding(&problem, &parameters(fit)) + 1e-15;
                let off = (twin - objective_found).abs();
                prop_assert!(off <= bound, "{twin} {objective_found} {bound}");
            }
        }
    }

    /// A row of weight 2 equals two copies of the row, for SGD and for the optimum.
    #[test]
    fn sample_weights_equal_repetitions(n in 4usize..20, d in 1usize..30, classes in 2usize..4, seed in any::<u32>()) {
        let problem = Problem::random(n, d, classes, seed);
        let counts: Vec<usize> = (0..n).map(|i| 1 + (i * 7 + seed as usize % 5) % 3).collect();
        let repeat = |row: usize| std::iter::repeat_n(row, counts[row]);
        let rows: Vec<usize> = (0..n).flat_map(repeat).collect();
        let repeated = Problem {
            n: rows.len(),
            x: rows.iter().flat_map(|&r| problem.x[r * d..][..d].to_vec()).collect(),
            labels: rows.iter().map(|&r| problem.labels[r]).collect(),
            ..problem.clone()
        };
        let weighting = SampleWeights {
            samples: Some(counts.iter().map(|&count| count as f64).collect()),
            label_smoothing: 0.1,
            ..SampleWeights::default()
        };
        let unweighted = SampleWeights { samples: None, ..weighting.clone() };
        let of = |problem: &Problem, weighting: &SampleWeights| {
            let samples = problem.samples();
            let optimum = fit(&samples, &PathOptions {
                penalty: Penalty::Value(0.01),
                weighting: weighting.clone(),
                ..PathOptions::default()
            });
            let mut options = FitOptions { weighting: weighting.clone(), init: Init::Zeros, ..FitOptions::default() };
            (options.sgd.epochs, options.sgd.momentum) = (20, 0.5);
            let sgd = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
            (optimum.report.objective, sgd.history.last().unwrap().loss)
        };
        let (weighted, repeated) = (of(&problem, &weighting), of(&repeated, &unweighted));
        prop_assert!(relative(weighted.0, repeated.0) < 1e-6, "{weighted:?} {repeated:?}");
        prop_assert!(relative(weighted.1, repeated.1) < 1e-5, "{weighted:?} {repeated:?}");
    }
}

/// Converged fits have the same bits for any number of threads.
#[test]
fn the_number_of_threads_changes_no_bit() {
    flowreg::threads::share_short_loops();
    // With one output and enough rows libraries use other algorithms.
    for (n, d, classes) in [(90, 400, 5), (400, 60, 5), (300, 320, 2)] {
        let problem = Problem::random(n, d, classes, 3);
        let samples = problem.samples();
        for engine in [EngineChoice::Gram, EngineChoice::Primal] {
            if engine == EngineChoice::Gram && n > d {
                continue;
            }
            for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                let on = |threads| {
                    let fit = fit(
                        &samples,
                        &PathOptions {
                            engine,
                            optimizer,
                            penalty: Penalty::Path {
                                from: 0.1,
                                to: 1e-3,
                                count: 3,
                            },
                            folds: Some(Folds::stratified(3, 0)),
                            threads: Some(threads),
                            ..PathOptions::default()
                        },
                    );
                    let bits: Vec<u32> = fit
                        .model
                        .weight()
                        .as_slice()
                        .iter()
                        .chain(fit.model.bias())
                        .map(|v| v.to_bits())
                        .collect();
                    (bits, fit.path)
                };
                let one = on(1);
                for threads in [2, 3, 4, 8] {
                    assert!(
                        on(threads) == one,
                        "{engine:?} {optimizer:?} {n} x {d}, {threads} threads"
                    );
                }
            }
        }
    }
}

/// Without a penalty separable classes are recognised; overlapping classes have an optimum.
#[test]
fn separable_samples_without_a_penalty_are_recognised() {
    for (classes, wide) in [(2, true), (4, true), (2, false), (3, false)] {
        let problem = Problem::random(60, if wide { 100 } else { 2 }, classes, 1);
        for engine in [EngineChoice::Auto, EngineChoice::Gram, EngineChoice::Primal] {
            if engine == EngineChoice::Gram && !wide {
                continue; // Refused, see below.
            }
            for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                let found = fit(
                    &problem.samples(),
                    &PathOptions {
                        optimizer,
                        engine,
                        penalty: Penalty::Value(0.0),
                        tolerance: 1e-4,
                        ..PathOptions::default()
                    },
                );
                let expected = if wide {
                    Status::Separable
                } else {
                    Status::Converged
                };
                assert_eq!(
                    found.report.status, expected,
                    "{classes} {engine:?} {optimizer:?}: {:?}",
                    found.report
                );
                assert!(found.report.iterations < 100, "{:?}", found.report);
                if wide {
                    let accuracy = found.model.evaluate(&problem.samples()).unwrap().accuracy;
                    assert_eq!(
                        accuracy, 1.0,
                        "{classes} {engine:?} {optimizer:?}: {:?} {:?}",
                        found.report, &found.model
                    );
                }
            }
        }
    }
}

/// Weak penalties converge from W = 0, although the first step overshoots to where the Hessian
/// vanishes and the objective falls to a billionth of that at the start.
#[test]
fn weak_penalties_converge_without_a_path() {
    let mut problem = Problem::random(60, 200, 5, 8);
    for x in problem.x.iter_mut() {
        *x *= 20.0;
    }
    let samples = problem.samples();
    for exponent in 2..11 {
        let fits = [Optimizer::Newton, Optimizer::Lbfgs].map(|optimizer| {
            let options = PathOptions {
                engine: EngineChoice::Gram,
                penalty: Penalty::Value(10f64.powi(-exponent)),
                optimizer,
                ..PathOptions::default()
            };
            fit(&samples, &options).report
        });
        for report in &fits {
            assert_eq!(report.status, Status::Converged, "{report:?}");
            let gap = report.gap.unwrap();
            assert!(gap <= 1e-3 * report.objective, "{report:?}");
        }
        let [newton, lbfgs] = fits.map(|report| report.objective);
        assert!((newton / lbfgs - 1.0).abs() <= 1e-3, "{newton} {lbfgs}");
    }
}

/// A fold fits the other rows alone, on either engine.
#[test]
fn folds_are_fits_of_the_other_rows() {
    let problem = Problem::random(60, 200, 3, 5);
    let samples = problem.samples();
    let path = Penalty::Path {
        from: 1.0,
        to: 0.01,
        count: 3,
    };
    let folds = Folds::stratified(4, 2);
    for engine in [EngineChoice::Gram, EngineChoice::Primal] {
        let together = fit(
            &samples,
            &PathOptions {
                engine,
                penalty: path.clone(),
                folds: Some(folds.clone()),
                ..PathOptions::default()
            },
        );
        // The same folds: the rows of a class, permuted as by torch, are dealt to the folds in turn.
        let mut rng = flowreg::torch_rng::TorchRng::new(2);
        let (mut order, mut next, mut fold_of) = (Vec::new(), 0, vec![0; problem.n]);
        for class in 0..3 {
            let rows: Vec<usize> = (0..problem.n)
                .filter(|&i| problem.labels[i] == class)
                .collect();
            rng.permutation(rows.len() as u32, &mut order);
            for &i in &order {
                fold_of[rows[i as usize]] = next % folds.count();
                next += 1;
            }
        }
        for entry in &together.path {
            let mut losses = Vec::new();
            for fold in 0..folds.count() {
                let part = |kept: bool| {
                    let rows: Vec<usize> = (0..problem.n)
                        .filter(|&i| (fold_of[i] == fold) != kept)
                        .collect();
                    Problem {
                        n: rows.len(),
                        x: rows
                            .iter()
                            .flat_map(|&r| problem.x[r * problem.d..][..problem.d].to_vec())
                            .collect(),
                        labels: rows.iter().map(|&r| problem.labels[r]).collect(),
                        ..problem.clone()
                    }
                };
                let (rest, held_out) = (part(true), part(false));
                let alone = fit(
                    &rest.samples(),
                    &PathOptions {
                        penalty: Penalty::Value(entry.l2),
                        ..PathOptions::default()
                    },
                );
                losses.push(alone.model.evaluate(&held_out.samples()).unwrap().loss);
            }
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            assert!(
                relative(entry.val_loss.unwrap(), mean) < 2e-3,
                "{entry:?} {losses:?}"
            );
        }
        let lowest = together
            .path
            .iter()
            .map(|e| e.val_loss.unwrap())
            .fold(f64::INFINITY, f64::min);
        let chosen = together.path.iter().find(|e| e.l2 == together.l2).unwrap();
        assert_eq!(chosen.val_loss.unwrap(), lowest);
    }
}

/// The automatic path finds a penalty as good as the best of a fine grid around it.
#[test]
fn the_automatic_penalty_is_as_good_as_a_fine_grid() {
    let all = Problem::random(240, 80, 3, 11);
    let part = |rows: std::ops::Range<usize>| Problem {
        n: rows.len(),
        x: all.x[rows.start * all.d..rows.end * all.d].to_vec(),
        labels: all.labels[rows].to_vec(),
        ..all.clone()
    };
    let (train, val) = (part(0..120), part(120..240));
    let (train, val) = (train.samples(), val.samples());
    let auto = fit(
        (&train, &val),
        &PathOptions {
            penalty: Penalty::Auto,
            ..PathOptions::default()
        },
    );
    let grid = fit(
        (&train, &val),
        &PathOptions {
            penalty: Penalty::Path {
                from: 100.0,
                to: 1e-5,
                count: 60,
            },
            ..PathOptions::default()
        },
    );
    let lowest = |fit: &PathFit| {
        fit.path
            .iter()
            .map(|e| e.val_loss.unwrap())
            .fold(f64::INFINITY, f64::min)
    };
    assert!(
        lowest(&auto) <= 1.005 * lowest(&grid),
        "{} {}",
        lowest(&auto),
        lowest(&grid)
    );
    assert!(
        auto.path.len() < 20,
        "it should have stopped: {}",
        auto.path.len()
    );
    // The objective of a refit is that of training and validation rows.
    let refit = fit(
        (&train, &val),
        &PathOptions {
            penalty: Penalty::Value(auto.l2),
            refit_all: true,
            ..PathOptions::default()
        },
    );
    let whole = fit(
        &all.samples(),
        &PathOptions {
            penalty: Penalty::Value(auto.l2),
            ..PathOptions::default()
        },
    );
    assert!(relative(refit.report.objective, whole.report.objective) < 1e-9);
}

/// Centring does not change a fit; scaling equals a fit of scaled features, converted back.
#[test]
fn standardized_fits_give_models_of_unscaled_features() {
    let problem = Problem::random(80, 120, 3, 4);
    let samples = problem.samples();
    let options = PathOptions {
        penalty: Penalty::Value(0.01),
        ..PathOptions::default()
    };
    let plain = fit(&samples, &options);
    for what in [Standardize::Center, Standardize::Both] {
        let scaler = Scaler::new(samples.x(), None, what).unwrap();
        let scaled = scaler.apply(&samples).unwrap();
        let scaled = scaled.samples().unwrap();
        let mut found = fit(&scaled, &options);
        let on_scaled = found.model.evaluate(&scaled).unwrap();
        scaler.restore(&mut found.model);
        let on_plain = found.model.evaluate(&samples).unwrap();
        assert!(relative(on_plain.loss, on_scaled.loss) < 1e-5);
        let same = relative(found.report.objective, plain.report.objective) < 1e-6;
        assert_eq!(same, what == Standardize::Center);
    }
}

#[test]
fn invalid_options_are_refused() {
    let problem = Problem::random(12, 5, 3, 1);
    let samples = problem.samples();
    let refused = |options: PathOptions| {
        fit_path(&samples, &options, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let l2 = |penalty| PathOptions {
        penalty,
        ..PathOptions::default()
    };
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(refused(l2(Penalty::Value(value))).starts_with("`l2`:"));
        assert!(
            refused(l2(Penalty::Path {
                from: value,
                to: 1.0,
                count: 3
            }))
            .starts_with("`penalties`:")
        );
    }
    assert!(
        refused(l2(Penalty::Path {
            from: 1.0,
            to: 0.1,
            count: 1
        }))
        .contains("2 to 10000")
    );
    assert!(refused(l2(Penalty::Auto)).contains("`validation` or `folds`"));
    let gram = PathOptions {
        engine: EngineChoice::Gram,
        ..l2(Penalty::Value(0.0))
    };
    assert!(refused(gram).contains("12 rows of 5 features"));
    let folds = |count| PathOptions {
        folds: Some(Folds {
            one_standard_error: true,
            ..Folds::stratified(count, 0)
        }),
        ..PathOptions::default()
    };
    assert!(refused(folds(1)).starts_with("`folds`:"));
    assert!(refused(folds(13)).contains("2 to 12, the rows of the training split"));
    let weights = |samples, classes| PathOptions {
        weighting: SampleWeights {
            samples,
            classes,
            label_smoothing: 0.0,
        },
        ..PathOptions::default()
    };
    assert!(refused(weights(Some(vec![1.0; 3]), ClassWeights::Equal)).contains("12: one per row"));
    assert!(
        refused(weights(None, ClassWeights::Given(vec![1.0, -1.0, 1.0])))
            .contains("weight -1 at 1")
    );
    assert!(
        refused(PathOptions {
            tolerance: 0.0,
            ..PathOptions::default()
        })
        .starts_with("`tolerance`:")
    );
    assert!(
        refused(PathOptions {
            refit_all: true,
            ..PathOptions::default()
        })
        .starts_with("`refit_all`:")
    );
}

/// A class without rows gets a finite bias at which it is never predicted.
#[test]
fn classes_without_rows_are_never_predicted() {
    let problem = Problem::random(40, 60, 3, 8);
    let samples = Samples::new(&problem.x, 60, &problem.labels, 5).unwrap();
    for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
        let weighting = SampleWeights {
            classes: ClassWeights::Balanced,
            ..SampleWeights::default()
        };
        let found = fit(
            &samples,
            &PathOptions {
                optimizer,
                weighting,
                penalty: Penalty::Value(0.1),
                ..PathOptions::default()
            },
        );
        assert_eq!(found.report.status, Status::Converged, "{:?}", found.report);
        // The class is left out of the fit: W = 0 and a very low bias.
        let parameters = parameters(&found);
        let (weight, bias) = (&parameters.weight, &parameters.bias);
        assert!(weight[3 * 60..].iter().all(|&w| w == 0.0));
        assert!(weight.iter().chain(bias).all(|v| v.is_finite()));
        let gap = found.report.gap.unwrap();
        assert!(gap < 1e-8 * found.report.objective, "{gap}");
        assert!(
            found
                .model
                .predict(&problem.x)
                .unwrap()
                .iter()
                .all(|&label| label < 3)
        );
    }
}

/// One value far beyond the others, a time or a code for a missing value, can leave a weight that f32
/// does not hold. The model is never worse than W = 0 with the shares of the classes, and what is
/// reported is measured on it.
#[test]
fn one_huge_value_leaves_no_model_worse_than_none() {
    for (n, d, classes) in [(60, 4, 3), (40, 9, 2), (20, 33, 3)] {
        for seed in 0..6 {
            for exponent in 9..15 {
                let mut problem = Problem::random(n, d, classes, seed);
                problem.x[(seed as usize * 7) % (n * d)] = 10f32.powi(exponent);
                let l2 = 1.0 / n as f64;
                let mut counts = vec![0.0; classes];
                problem
                    .labels
                    .iter()
                    .for_each(|&label| counts[label as usize] += 1.0);
                let shares = counts.iter().map(|count| count / n as f64);
                let present = shares.filter(|share| *share > 0.0);
                let of_none: f64 = present.map(|share| -share * share.ln()).sum();
                for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                    let options = PathOptions {
                        penalty: Penalty::Value(l2),
                        optimizer,
                        ..PathOptions::default()
                    };
                    let fit = fit(&problem.samples(), &options);
                    let found = fit.report.objective;
                    let context = format!("{n} x {d}, {seed}, 1e{exponent}, {optimizer:?}");
                    assert!(
                        found <= of_none * (1.0 + 1e-6),
                        "{found} {of_none}: {context}"
                    );
                    let measured = objective(&problem, &parameters(&fit), &vec![1.0; n], l2);
                    assert!(
                        relative(measured, found) <= 1e-5,
                        "{measured} {found}: {context}"
                    );
                }
            }
        }
    }
}
