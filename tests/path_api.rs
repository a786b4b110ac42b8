//! Options of `fit_path` that the command line does not have: lists of penalties, explicit folds,
//! emitted results, fits without an intercept, warm starts.

mod common;

use std::ops::ControlFlow;

use common::{Problem, twin};
use flowreg::design::plan::EngineChoice;
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::loss::weights::SampleWeights;
use flowreg::path::{Emit, Fold, Folds, Optimizer, PathFit, PathOptions, Penalty};
use flowreg::solver::report::Status;
use flowreg::{Checkpoints, Event, Every, HeldOut, Model, Samples, Solved, Splits, fit_path};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Gram, EngineChoice::Primal];

fn fit<'a>(data: impl Into<Splits<'a>>, options: &PathOptions) -> PathFit {
    fit_path(data, options, &mut |_| {}).unwrap()
}

/// A fit and all its events.
fn events<'a>(data: impl Into<Splits<'a>>, options: &PathOptions) -> (Vec<Event>, PathFit) {
    let mut events = Vec::new();
    let fit = fit_path(data, options, &mut |event| events.push(event)).unwrap();
    (events, fit)
}

/// The message of a fit that is refused before K is computed or anything else is done.
fn refused(samples: &Samples, options: &PathOptions) -> String {
    let mut began = false;
    let error = fit_path(samples, options, &mut |_| began = true).unwrap_err();
    assert!(!began, "refused after the work began: {error}");
    error.to_string()
}

fn options(penalty: Penalty) -> PathOptions {
    PathOptions {
        penalty,
        ..PathOptions::default()
    }
}

fn stratified(count: usize) -> Option<Folds> {
    Some(Folds::stratified(count, 3))
}

/// The folds and penalties of the steps of a fit, each once.
fn solved(events: &[Event]) -> Vec<(Option<usize>, f64)> {
    let mut solved = Vec::new();
    for event in events {
        if let Event::Step { fold, l2, .. } = event {
            solved.push((*fold, *l2));
        }
    }
    solved.dedup();
    solved
}

/// A list of penalties in any order is solved from the strongest to the weakest.
#[test]
fn a_list_is_fitted_from_the_strongest_to_the_weakest() {
    let problem = Problem::random(50, 90, 3, 4);
    let validation = Problem::random(30, 90, 3, 4);
    let (samples, validation) = (problem.samples(), validation.samples());
    let path = Penalty::Path {
        from: 1.0,
        to: 0.01,
        count: 3,
    };
    let middle = fit((&samples, &validation), &options(path.clone())).path[1].l2;
    let list = Penalty::List(vec![middle, 0.01, 1.0]);
    for folds in [None, stratified(3)] {
        let of = |penalty: &Penalty| {
            let options = PathOptions {
                folds: folds.clone(),
                ..options(penalty.clone())
            };
            fit((&samples, &validation), &options)
        };
        let (path, list) = (of(&path), of(&list));
        assert_eq!(path.path, list.path);
        assert_eq!(path.model, list.model);
        assert_eq!(list.path.len(), 3);
        assert!(list.path.is_sorted_by(|a, b| a.l2 > b.l2));
    }
}

/// C is that of scikit-learn: l2 = 1/(C Σ w) over the fitted rows, in a fold over those of the fold.
#[test]
fn c_is_converted_to_the_l2_of_each_fold() {
    let problem = Problem::random(41, 60, 3, 9);
    let samples = problem.samples();
    let weights: Vec<f64> = (0..41).map(|row| 0.5 + (row % 3) as f64).collect();
    let total: f64 = weights.iter().sum();
    let cs = [10.0, 0.1, 1.0];
    let weighting = SampleWeights {
        samples: Some(weights),
        ..SampleWeights::default()
    };
    let (events, found) = events(
        &samples,
        &PathOptions {
            folds: stratified(3),
            weighting,
            ..options(Penalty::Cs(cs.to_vec()))
        },
    );
    let of_all = [0.1, 1.0, 10.0].map(|c| 1.0 / (c * total));
    let path: Vec<f64> = found.path.iter().map(|entry| entry.l2).collect();
    assert_eq!(path, of_all);
    let solved = solved(&events);
    // The weights of the held-out rows of all folds add up to the total weight.
    let mut left_out = 0.0;
    for fold in 0..3 {
        let l2s: Vec<f64> = solved
            .iter()
            .filter(|s| s.0 == Some(fold))
            .map(|s| s.1)
            .collect();
        assert_eq!(l2s.len(), 3);
        let of_fold = 1.0 / (0.1 * l2s[0]);
        assert!(of_fold < 0.8 * total);
        left_out += total - of_fold;
        for (l2, c) in l2s.iter().zip([0.1, 1.0, 10.0]) {
            assert!((l2 * c * of_fold - 1.0).abs() < 1e-14);
        }
    }
    assert!(
        (left_out / total - 1.0).abs() < 1e-12,
        "{left_out} of {total}"
    );
    let last = solved.iter().filter(|s| s.0.is_none()).map(|s| s.1);
    assert!(last.eq(of_all.into_iter().filter(|&l2| l2 >= found.l2)));
}

#[test]
fn invalid_lists_of_penalties_are_refused() {
    let problem = Problem::random(12, 20, 3, 1);
    let samples = problem.samples();
    for (penalty, parts) in [
        (Penalty::List(vec![]), ["penalty (List)", "found 0 values"]),
        (Penalty::List(vec![1.0, -1.0]), ["-1 at 1", "0 or above"]),
        (Penalty::List(vec![1.0, f64::NAN]), ["NaN at 1", "finite"]),
        (
            Penalty::List(vec![1.0, 0.5, 1.0]),
            ["1 twice", "each value once"],
        ),
        (Penalty::Cs(vec![0.0]), ["penalty (Cs)", "0 at 0"]),
        (Penalty::Cs(vec![f64::NAN]), ["NaN at 0", "above 0"]),
        (Penalty::C(-1.0), ["`C`: found -1", "above 0, or inf"]),
        (Penalty::Cs(vec![2.0, 2.0]), ["2 twice", "each value once"]),
        (Penalty::Cs(vec![1e-310, 1.0]), ["`C`", "l2 = inf"]),
        (
            Penalty::List(vec![1.0, 0.5]),
            ["several penalties", "`folds`"],
        ),
    ] {
        let options = PathOptions {
            folds: match parts[0] {
                "several penalties" => None,
                _ => stratified(3),
            },
            ..options(penalty)
        };
        let error = refused(&samples, &options);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
    // One value needs no rows to choose by.
    let one = fit(&samples, &options(Penalty::List(vec![0.5])));
    assert_eq!(
        one.model,
        fit(&samples, &options(Penalty::Value(0.5))).model
    );
}

/// An infinite C is no penalty, alone and as the last of a path.
#[test]
fn an_infinite_c_is_no_penalty() {
    let problem = Problem::random(90, 3, 3, 9);
    let samples = problem.samples();
    let none = fit(&samples, &options(Penalty::Value(0.0)));
    let alone = fit(&samples, &options(Penalty::C(f64::INFINITY)));
    assert_eq!((alone.l2, &alone.model), (0.0, &none.model));
    let path = PathOptions {
        folds: stratified(3),
        ..options(Penalty::Cs(vec![f64::INFINITY, 1e-4]))
    };
    let found = fit(&samples, &path);
    assert_eq!(found.path[1].l2, 0.0);
    assert!(found.path[1].val_loss < found.path[0].val_loss);
    assert_eq!(found.l2, 0.0);
}

/// The default tolerance of folds gives the scores of exact folds, also of weak penalties on wide data,
/// whose gradient at the start of a solve is small already.
#[test]
fn default_folds_score_as_exact_folds_do() {
    for seed in 0..4 {
        let problem = Problem::random(90, 400, 6, 20 + seed);
        let samples = problem.samples();
        let [default, exact] = [PathOptions::default().fold_tolerance, 1e-9].map(|tolerance| {
            let path = PathOptions {
                fold_tolerance: tolerance,
                tolerance: 1e-9,
                folds: stratified(3),
                ..options(Penalty::List((0..7).map(|k| 10f64.powi(-k)).collect()))
            };
            fit(&samples, &path).path
        });
        for (default, exact) in default.iter().zip(&exact) {
            let (found, expected) = (default.val_loss.unwrap(), exact.val_loss.unwrap());
            let off = (found / expected - 1.0).abs();
            assert!(
                off < 2e-3,
                "seed {seed}, l2 {}: {found}, {expected}",
                exact.l2
            );
        }
    }
}

/// The models of folds are as precise as `fold_tolerance` asks.
#[test]
fn folds_are_solved_to_their_own_tolerance() {
    let problem = Problem::random(60, 90, 3, 5);
    let samples = problem.samples();
    for engine in ENGINES {
        let shares = [1e-3, 1e-6].map(|fold_tolerance| {
            let path = PathOptions {
                engine,
                fold_tolerance,
                tolerance: 1e-7,
                folds: stratified(3),
                emit: Emit {
                    models: true,
                    ..Emit::default()
                },
                ..options(Penalty::C(10.0))
            };
            let (told, _) = events(&samples, &path);
            let of_folds = told.iter().filter_map(|event| match event {
                Event::Solved(solved) if solved.fold.is_some() => {
                    Some(solved.report.gradient_norm / solved.report.initial_gradient_norm)
                }
                _ => None,
            });
            of_folds.fold(0.0, f64::max)
        });
        assert!(
            shares[0] > 1e-6 && shares[0] <= 1e-3,
            "{engine:?} {shares:?}"
        );
        assert!(shares[1] <= 1e-6, "{engine:?} {shares:?}");
    }
    let error = refused(
        &samples,
        &PathOptions {
            fold_tolerance: 0.0,
            ..PathOptions::default()
        },
    );
    assert!(error.starts_with("`fold_tolerance`: found 0"), "{error}");
}

/// Random folds: some rows are in neither set, fitted rows are listed up to three times.
fn ragged_folds(n: u32, count: u32) -> Vec<Fold> {
    let fold = |number: u32| {
        let place = |row: u32| (row * 7 + number * 3) % 11;
        let fitted = (0..n).rev().filter(|&row| place(row) < 7);
        let repeated = fitted.flat_map(|row| vec![row; 1 + place(row) as usize / 3]);
        Fold {
            fitted: repeated.collect(),
            held_out: (0..n).rev().filter(|&row| place(row) > 8).collect(),
        }
    };
    (0..count).map(fold).collect()
}

fn part(problem: &Problem, rows: &[u32]) -> Problem {
    let d = problem.d;
    let row = |&row: &u32| problem.x[row as usize * d..][..d].to_vec();
    Problem {
        n: rows.len(),
        x: rows.iter().flat_map(row).collect(),
        labels: rows
            .iter()
            .map(|&row| problem.labels[row as usize])
            .collect(),
        ..problem.clone()
    }
}

/// The folds of a seed, given as sets of rows, give the same bits as the seed.
#[test]
fn explicit_stratified_folds_equal_those_of_a_seed() {
    let problem = Problem::random(45, 70, 3, 2);
    let samples = problem.samples();
    let mut rng = flowreg::torch_rng::TorchRng::new(3);
    let (mut order, mut next, mut fold_of) = (Vec::new(), 0, [0; 45]);
    for class in 0..3 {
        let rows: Vec<usize> = (0..45).filter(|&i| problem.labels[i] == class).collect();
        rng.permutation(rows.len() as u32, &mut order);
        for &i in &order {
            fold_of[rows[i as usize]] = next % 4;
            next += 1;
        }
    }
    let rows = |keep: &dyn Fn(usize) -> bool| -> Vec<u32> {
        (0..45).filter(|&row| keep(fold_of[row as usize])).collect()
    };
    let given = (0..4).map(|number| Fold {
        fitted: rows(&|fold| fold != number),
        held_out: rows(&|fold| fold == number),
    });
    let path = options(Penalty::Cs(vec![0.1, 1.0]));
    let of = |folds| {
        let folds = Some(folds);
        fit(
            &samples,
            &PathOptions {
                folds,
                ..path.clone()
            },
        )
    };
    let (given, dealt) = (
        of(Folds::given(given.collect())),
        of(Folds::stratified(4, 3)),
    );
    assert_eq!(given.path, dealt.path);
    assert_eq!(given.model, dealt.model);
}

/// A fold fits the rows that it lists, each as often as it is listed, and scores its held-out rows.
/// Rows of weight 0 are in neither set.
#[test]
fn a_given_fold_fits_the_rows_that_it_lists() {
    let problem = Problem::random(60, 110, 3, 5);
    let samples = problem.samples();
    let folds = ragged_folds(60, 3);
    let weights: Vec<f64> = (0..60).map(|row| (row % 5) as f64 / 2.0).collect();
    for weights in [vec![1.0; 60], weights] {
        let of = |rows: &[u32]| -> Vec<f64> { rows.iter().map(|&r| weights[r as usize]).collect() };
        for engine in ENGINES {
            let path = PathOptions {
                engine,
                weighting: weighted(&weights),
                folds: Some(Folds::given(folds.clone())),
                ..options(Penalty::Cs(vec![1.0, 0.05]))
            };
            let together = fit(&samples, &path);
            for (entry, c) in together.path.iter().zip([0.05, 1.0]) {
                let losses = folds.iter().map(|fold| {
                    let fitted = part(&problem, &fold.fitted);
                    let alone = PathOptions {
                        weighting: weighted(&of(&fold.fitted)),
                        tolerance: 1e-3,
                        ..options(Penalty::C(c))
                    };
                    let model = fit(&fitted.samples(), &alone).model;
                    let held_out = part(&problem, &fold.held_out);
                    let held_out = held_out.samples();
                    let weights = of(&fold.held_out);
                    model
                        .evaluate_weighted(&held_out, Some(&weights))
                        .unwrap()
                        .loss
                });
                let mean = losses.sum::<f64>() / 3.0;
                let found = entry.val_loss.unwrap();
                assert!(
                    (found / mean - 1.0).abs() < 2e-3,
                    "{engine:?} {c}: {found} {mean}"
                );
            }
        }
    }
}

fn weighted(weights: &[f64]) -> SampleWeights {
    SampleWeights {
        samples: Some(weights.to_vec()),
        ..SampleWeights::default()
    }
}

#[test]
fn invalid_folds_are_refused_by_name() {
    let problem = Problem::random(12, 20, 2, 1);
    let samples = problem.samples();
    let of = |label: i64| -> Vec<u32> {
        let rows = (0..12).filter(|&row| problem.labels[row as usize] == label);
        rows.collect()
    };
    let fold = |fitted: &[u32], held_out: &[u32]| Fold {
        fitted: fitted.to_vec(),
        held_out: held_out.to_vec(),
    };
    let all: Vec<u32> = (0..12).collect();
    for (folds, parts) in [
        (vec![], ["folds: found no fold", "at least one"]),
        (
            vec![fold(&all, &[])],
            ["no row in `held_out` of fold 0", "at least one row"],
        ),
        (
            vec![fold(&all, &all), fold(&[], &all)],
            ["no row in `fitted` of fold 1", "at least one row"],
        ),
        (
            vec![fold(&all, &[3, 12])],
            ["row 12 at 1 in `held_out` of fold 0", "from 0 to 11"],
        ),
        (
            vec![fold(&of(0), &of(1))],
            ["none of which has two classes", "fewer folds"],
        ),
    ] {
        let options = PathOptions {
            folds: Some(Folds::given(folds)),
            ..PathOptions::default()
        };
        let error = refused(&samples, &options);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
    // One valid fold is enough; a warning names the other.
    let folds = vec![fold(&of(0), &of(1)), fold(&all, &all)];
    let options = PathOptions {
        folds: Some(Folds::given(folds)),
        ..PathOptions::default()
    };
    let (events, found) = events(&samples, &options);
    let is_named = |event: &Event| matches!(event, Event::Warning(text) if text.contains("fold 0"));
    assert!(events.iter().any(is_named));
    assert!(found.path[0].val_loss.is_some());
}

const OPTIMIZERS: [Optimizer; 2] = [Optimizer::Newton, Optimizer::Lbfgs];

/// The logits of `rows` by a model, rows x outputs, in f64.
fn logits(problem: &Problem, model: &Model, rows: &[u32]) -> Vec<f64> {
    let of_row = |&row: &u32| {
        let x = &problem.x[row as usize * problem.d..][..problem.d];
        let weight = model.weight();
        (0..model.bias().len()).map(move |j| {
            let products = weight.row(j).iter().zip(x);
            let product: f64 = products.map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            product + f64::from(model.bias()[j])
        })
    };
    let rows: Vec<Vec<f64>> = rows.iter().map(|row| of_row(row).collect()).collect();
    rows.concat()
}

/// The weighted mean loss of logits by its definition.
fn loss(problem: &Problem, rows: &[u32], weights: &[f64], outputs: usize, logits: &[f64]) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for (&row, z) in rows.iter().zip(logits.chunks_exact(outputs)) {
        let z = match z {
            &[z] => vec![0.0, z],
            z => z.to_vec(),
        };
        let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let weight = weights[row as usize];
        sum += weight * (lse - z[problem.labels[row as usize] as usize]);
        total += weight;
    }
    sum / total
}

/// For each fold and penalty, the emitted logits give the score and are those of the emitted model,
/// which is the fit of the fold's rows alone. Rows have their original numbers.
#[test]
fn logits_and_models_of_each_fold_are_emitted_on_request() {
    for (classes, intercept) in [(3, true), (3, false), (2, true), (2, false)] {
        let problem = Problem::random(60, 110, classes, 5);
        let samples = problem.samples();
        let folds = ragged_folds(60, 3);
        let weights: Vec<f64> = (0..60).map(|row| (row % 5) as f64 / 2.0).collect();
        for (engine, standardize) in [
            (EngineChoice::Gram, Standardize::None),
            (EngineChoice::Gram, Standardize::Scale),
            (EngineChoice::Primal, Standardize::Scale),
        ] {
            let mut path = PathOptions {
                engine,
                standardize,
                fit_intercept: intercept,
                weighting: weighted(&weights),
                folds: Some(Folds::given(folds.clone())),
                ..options(Penalty::Cs(vec![1.0, 0.05]))
            };
            let (silent, plain) = events(&samples, &path);
            let is_emitted = |event: &&Event| matches!(event, Event::HeldOut(_) | Event::Solved(_));
            assert_eq!(silent.iter().filter(is_emitted).count(), 0);
            path.emit = Emit {
                held_out: true,
                models: true,
            };
            let (told, found) = events(&samples, &path);
            // Emitting does not change the fit.
            assert_eq!((&found.model, &found.path), (&plain.model, &plain.path));
            let held_out: Vec<&HeldOut> = told.iter().filter_map(held_out).collect();
            let solved: Vec<&Solved> = told.iter().filter_map(solved_event).collect();
            assert_eq!(held_out.len(), 6);
            for (i, held_out) in held_out.iter().enumerate() {
                let (number, context) = (i / 2, format!("{engine:?} {standardize:?} {intercept}"));
                let fold = &folds[number];
                let counts = |row: &&u32| weights[**row as usize] > 0.0;
                assert_eq!(held_out.fold, Some(number));
                assert!(held_out.rows.iter().eq(fold.held_out.iter().filter(counts)));
                let solved = solved[i];
                assert_eq!((solved.fold, solved.l2), (held_out.fold, held_out.l2));
                assert_eq!(solved.report, held_out.report);
                let outputs = solved.model.bias().len();
                assert_eq!(held_out.outputs, outputs);
                let by_model = logits(&problem, &solved.model, &held_out.rows);
                assert_eq!(by_model.len(), held_out.logits.len());
                for (a, b) in by_model.iter().zip(&held_out.logits) {
                    assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{a} {b} {context}");
                }
                let has_bias = solved.model.bias().iter().any(|&b| b != 0.0);
                assert_eq!(has_bias, intercept);
                let fitted = part(&problem, &fold.fitted);
                let of_fitted = fold.fitted.iter().map(|&row| weights[row as usize]);
                let of_fitted: Vec<f64> = of_fitted.collect();
                let alone = PathOptions {
                    standardize,
                    fit_intercept: intercept,
                    weighting: weighted(&of_fitted),
                    ..options(Penalty::Value(held_out.l2))
                };
                let alone = fit(&fitted.samples(), &alone);
                // |W - W*|² <= 2 gap / l2, of the scaled features' weights.
                let scaler = Scaler::new(fitted.samples().x(), Some(&of_fitted), standardize);
                let sigma = scaler.unwrap().deviation().to_vec();
                let values = solved.model.weight().as_slice().iter();
                let values = values.zip(alone.model.weight().as_slice()).enumerate();
                let distance: f64 = values
                    .map(|(at, (&a, &b))| ((f64::from(a) - f64::from(b)) * sigma[at % 110]).powi(2))
                    .sum();
                let far = |gap: Option<f64>| (2.0 * gap.unwrap() / held_out.l2).sqrt();
                let allowed = far(solved.report.gap) + far(alone.report.gap) + 1e-5;
                assert!(distance.sqrt() <= allowed, "{distance} {allowed} {context}");
                // W = 0 violates that bound.
                let values = alone.model.weight().as_slice().iter().enumerate();
                let norm: f64 = values
                    .map(|(at, &w)| (f64::from(w) * sigma[at % 110]).powi(2))
                    .sum();
                assert!(allowed < 0.7 * norm.sqrt(), "{allowed} {norm} {context}");
            }
            // The score follows from these logits.
            for (entry, first) in found.path.iter().zip(0..2) {
                let of_entry = held_out.iter().skip(first).step_by(2);
                let losses =
                    of_entry.map(|h| loss(&problem, &h.rows, &weights, h.outputs, &h.logits));
                let mean = losses.sum::<f64>() / 3.0;
                assert!((entry.val_loss.unwrap() / mean - 1.0).abs() < 1e-12);
            }
            // After the folds, the penalties are solved on all rows, up to the chosen one.
            let on_all = solved.iter().filter(|solved| solved.fold.is_none());
            let on_all: Vec<f64> = on_all.map(|solved| solved.l2).collect();
            let path = found.path.iter().map(|entry| entry.l2);
            assert!(path.take(on_all.len()).eq(on_all.iter().copied()));
            assert_eq!(on_all.last(), Some(&found.l2));
        }
    }
}

fn held_out(event: &Event) -> Option<&HeldOut> {
    match event {
        Event::HeldOut(held_out) => Some(held_out),
        _ => None,
    }
}

fn solved_event(event: &Event) -> Option<&Solved> {
    match event {
        Event::Solved(solved) => Some(solved.as_ref()),
        _ => None,
    }
}

/// With validation rows the emitted logits are those of these rows. Without rows to choose by, all
/// penalties are fitted and emitted, and none is chosen.
#[test]
fn a_path_without_a_choice_emits_every_model() {
    let problem = Problem::random(50, 80, 3, 4);
    let other = Problem::random(20, 80, 3, 6);
    let (samples, validation) = (problem.samples(), other.samples());
    for (optimizer, intercept) in [(Optimizer::Newton, true), (Optimizer::Lbfgs, false)] {
        let path = PathOptions {
            optimizer,
            fit_intercept: intercept,
            emit: Emit {
                held_out: true,
                models: true,
            },
            ..options(Penalty::List(vec![0.01, 1.0, 0.1]))
        };
        let (told, found) = events(&samples, &path);
        let solved: Vec<&Solved> = told.iter().filter_map(solved_event).collect();
        assert_eq!(told.iter().filter_map(held_out).count(), 0);
        assert_eq!(found.l2, 0.01);
        assert_eq!(found.path.len(), 3);
        assert!(found.path.iter().all(|entry| entry.val_loss.is_none()));
        for (solved, l2) in solved.iter().zip([1.0, 0.1, 0.01]) {
            assert_eq!((solved.fold, solved.l2), (None, l2));
            let alone = PathOptions {
                fit_intercept: intercept,
                ..options(Penalty::Value(l2))
            };
            let alone = fit(&samples, &alone);
            let (a, b) = (alone.report.objective, solved.report.objective);
            assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
            let distance = distance(&solved.model, &alone.model);
            assert!(distance < 1e-2, "{distance}");
        }
        assert!(distance(&solved[2].model, &found.model) < 1e-6);

        let (told, chosen) = events((&samples, &validation), &path);
        let held_out: Vec<&HeldOut> = told.iter().filter_map(held_out).collect();
        assert_eq!(held_out.len(), 3);
        for (held_out, entry) in held_out.iter().zip(&chosen.path) {
            let all: Vec<u32> = (0..20).collect();
            assert_eq!((&held_out.rows, held_out.fold), (&all, None));
            let loss = loss(&other, &all, &[1.0; 20], 3, &held_out.logits);
            assert!((loss / entry.val_loss.unwrap() - 1.0).abs() < 1e-5);
        }
        let solved = told.iter().filter_map(solved_event);
        assert!(solved.map(|s| s.l2).eq([1.0, 0.1, 0.01]));
    }
    let auto = PathOptions {
        emit: Emit {
            models: true,
            ..Emit::default()
        },
        ..options(Penalty::Auto)
    };
    let (told, found) = events(&samples, &auto);
    assert_eq!(told.iter().filter_map(solved_event).count(), 20);
    assert_eq!(found.l2, found.path[19].l2);
}

/// |W - V| / |V|.
fn distance(a: &Model, b: &Model) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let (a, b) = (a.weight(), b.weight());
    let (a, b) = (a.as_slice(), b.as_slice());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// Without an intercept b is 0 and W is the optimum for uncentred X: the gradient at W, by its
/// definition in f64, is so small that strong convexity bounds the distance to the optimum.
#[test]
fn a_fit_without_an_intercept_is_optimal_at_b_0() {
    for (n, d, classes) in [(40, 70, 3), (40, 70, 2), (70, 12, 3), (70, 12, 2)] {
        let mut problem = Problem::random(n, d, classes, 7);
        for bytes in [false, true] {
            if bytes {
                // Products of bytes are integers.
                problem
                    .x
                    .iter_mut()
                    .for_each(|x| *x = (255.0 * *x).round() / 255.0);
            }
            let samples = problem.samples();
            let weights: Vec<f64> = (0..n).map(|row| 0.5 + (row % 3) as f64).collect();
            for engine in ENGINES {
                if engine == EngineChoice::Gram && n > d {
                    continue;
                }
                for (optimizer, standardize) in [
                    (Optimizer::Newton, Standardize::None),
                    (Optimizer::Lbfgs, Standardize::None),
                    (Optimizer::Newton, Standardize::Scale),
                ] {
                    let l2 = 0.01;
                    let options = PathOptions {
                        engine,
                        optimizer,
                        standardize,
                        fit_intercept: false,
                        tolerance: 1e-6,
                        weighting: weighted(&weights),
                        ..options(Penalty::Value(l2))
                    };
                    let found = fit(&samples, &options);
                    let context = format!("{engine:?} {optimizer:?} {standardize:?} {n} x {d}");
                    assert_eq!(found.report.status, Status::Converged, "{context}");
                    assert!(found.model.bias().iter().all(|&b| b == 0.0), "{context}");
                    let scaler = Scaler::new(samples.x(), Some(&weights), standardize).unwrap();
                    let sigma = scaler.deviation();
                    let wide = found
                        .model
                        .weight()
                        .as_slice()
                        .iter()
                        .map(|&w| f64::from(w));
                    let at = twin::Parameters {
                        weight: wide.collect(),
                        bias: vec![0.0; problem.outputs()],
                    };
                    let all: Vec<u32> = (0..n as u32).collect();
                    let of_twin = twin::Weights {
                        samples: weights.clone(),
                        ..twin::Weights::equal(&problem)
                    };
                    let (loss, gradient) =
                        twin::weighted_loss_gradient(&problem, &at, &all, &of_twin);
                    let (mut square, mut norm) = (0.0, 0.0);
                    for (at, (g, w)) in gradient.weight.iter().zip(&at.weight).enumerate() {
                        let sigma = sigma[at % d];
                        square += (g / sigma + l2 * w * sigma).powi(2);
                        norm += (w * sigma).powi(2);
                    }
                    let objective = loss + 0.5 * l2 * norm;
                    let off = (objective / found.report.objective - 1.0).abs();
                    assert!(off < 1e-6, "{off} {context}");
                    // |W - W*| <= |∇F| / l2.
                    let distance = square.sqrt() / l2 / norm.sqrt();
                    assert!(distance < 1e-3, "{distance} {context}");
                    let gap = found.report.gap.unwrap();
                    assert!(square / (2.0 * l2) <= 1.01 * gap + 1e-12, "{context}");
                }
            }
        }
    }
}

#[test]
fn centred_features_require_an_intercept() {
    let problem = Problem::random(12, 20, 3, 1);
    for standardize in [Standardize::Center, Standardize::Both] {
        let options = PathOptions {
            standardize,
            fit_intercept: false,
            ..PathOptions::default()
        };
        let error = refused(&problem.samples(), &options);
        assert!(error.starts_with("`standardize`:"), "{error}");
        assert!(error.contains("none or scale"), "{error}");
    }
}

/// A start at the optimum needs at most one step; fits from any start end at the same optimum.
#[test]
fn a_start_does_not_change_the_optimum() {
    for (n, d, classes) in [(40, 70, 3), (40, 70, 2), (70, 12, 4)] {
        let problem = Problem::random(n, d, classes, 3);
        let samples = problem.samples();
        let outputs = problem.outputs();
        let mut uniform = common::uniform(8);
        let mut random = |size: f32| {
            let mut values = |count: usize| -> Vec<f32> {
                (0..count).map(|_| size * (uniform() - 0.5)).collect()
            };
            Model::new(values(outputs * d), values(outputs)).unwrap()
        };
        let starts = [random(0.1), random(3.0), random(1e6), random(1e30)];
        for engine in ENGINES {
            if engine == EngineChoice::Gram && n > d {
                continue;
            }
            for optimizer in OPTIMIZERS {
                for (intercept, standardize) in [
                    (true, Standardize::None),
                    (true, Standardize::Both),
                    (false, Standardize::Scale),
                ] {
                    let options = PathOptions {
                        engine,
                        optimizer,
                        standardize,
                        fit_intercept: intercept,
                        ..options(Penalty::Value(0.01))
                    };
                    let context = format!("{engine:?} {optimizer:?} {standardize:?} {n} x {d}");
                    let cold = fit(&samples, &options);
                    let from = |start: &Model, tolerance: f64| {
                        let start = Some(start.clone());
                        let options = PathOptions {
                            start,
                            tolerance,
                            ..options.clone()
                        };
                        fit(&samples, &options)
                    };
                    let warm = from(&cold.model, options.tolerance);
                    assert_eq!(warm.report.status, Status::Converged, "{context}");
                    let steps = (warm.report.iterations, cold.report.iterations);
                    assert!(steps.0 <= 1 && steps.1 > 2, "{steps:?} {context}");
                    for start in &starts {
                        let found = from(start, options.tolerance);
                        assert_eq!(found.report.status, Status::Converged, "{context}");
                        let (a, b) = (found.report, cold.report);
                        let off = (a.objective - b.objective).abs();
                        let allowed = a.gap.unwrap() + b.gap.unwrap();
                        assert!(off <= allowed + 1e-12, "{off} {allowed} {context}");
                    }
                }
            }
        }
    }
}

/// A start of two outputs is used as their difference; each fold starts from the model too.
#[test]
fn a_start_applies_to_two_outputs_and_to_folds() {
    let problem = Problem::random(60, 100, 2, 3);
    let samples = problem.samples();
    let cold = fit(&samples, &options(Penalty::Value(0.05)));
    let mut weight = vec![0.0; 100];
    weight.extend_from_slice(cold.model.weight().as_slice());
    let two = Model::new(weight, vec![0.0, cold.model.bias()[0]]).unwrap();
    let warm = PathOptions {
        start: Some(two),
        ..options(Penalty::Value(0.05))
    };
    assert!(fit(&samples, &warm).report.iterations <= 1);
    // The optimum of a fold of nearly all rows is close to that of all rows.
    let all: Vec<u32> = (0..60).collect();
    let fold = Fold {
        fitted: all[..59].to_vec(),
        held_out: vec![59],
    };
    for engine in ENGINES {
        let steps = [None, Some(cold.model.clone())].map(|start| {
            let options = PathOptions {
                engine,
                start,
                folds: Some(Folds::given(vec![fold.clone(), fold.clone()])),
                ..options(Penalty::Value(0.05))
            };
            let (told, found) = events(&samples, &options);
            let steps = told.iter().filter(|event| {
                let is_of_fold = |fold: &Option<usize>| *fold == Some(1);
                matches!(event, Event::Step { fold, .. } if is_of_fold(fold))
            });
            (steps.count(), found.path[0].val_loss.unwrap())
        });
        let [cold, warm] = steps;
        assert!(warm.0 < cold.0, "{engine:?} {steps:?}");
        assert!((warm.1 / cold.1 - 1.0).abs() < 1e-2, "{engine:?} {steps:?}");
    }
}

#[test]
fn a_start_of_another_shape_is_refused() {
    let problem = Problem::random(12, 20, 3, 1);
    for (start, part) in [
        (
            Model::new(vec![0.0; 57], vec![0.0; 3]),
            "19 features, 3 classes",
        ),
        (
            Model::new(vec![0.0; 80], vec![0.0; 4]),
            "20 features, 4 classes",
        ),
        (
            Model::new(vec![0.0; 20], vec![0.0]),
            "20 features, 2 classes",
        ),
        (
            Model::new(vec![f32::NAN; 60], vec![0.0; 3]),
            "NaN at weight[0, 0]",
        ),
    ] {
        let options = PathOptions {
            start: Some(start.unwrap()),
            ..PathOptions::default()
        };
        let error = refused(&problem.samples(), &options);
        assert!(
            error.starts_with("start:") && error.contains(part),
            "{error}"
        );
    }
}

/// A stopped and resumed fit has the bits of an uninterrupted one; a checkpoint of another start or
/// intercept is refused by the name of that option.
#[test]
fn checkpoints_record_the_start_and_the_intercept() {
    let dir = tempfile::tempdir().unwrap();
    let problem = Problem::random(40, 70, 3, 2);
    let samples = problem.samples();
    let start = fit(&samples, &options(Penalty::Value(1.0))).model;
    let whole = PathOptions {
        fit_intercept: false,
        start: Some(start),
        folds: Some(Folds::given(ragged_folds(40, 2))),
        ..options(Penalty::Cs(vec![0.1, 10.0]))
    };
    for engine in ENGINES {
        let whole = PathOptions {
            engine,
            ..whole.clone()
        };
        let unbroken = fit(&samples, &whole);
        for stop in [1, 4, 7] {
            let path = dir.path().join(format!("{engine:?}{stop}"));
            let saved = |resume| PathOptions {
                checkpoints: Some(Checkpoints {
                    path: path.clone(),
                    every: Some(Every::Epochs(1)),
                    resume,
                }),
                ..whole.clone()
            };
            let mut steps = 0;
            let stopped = fit_path(&samples, &saved(false), &mut |event| {
                steps += usize::from(matches!(event, Event::Step { .. }));
                if steps <= stop {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            assert_eq!(stopped.unwrap_err().exit_code(), 130);
            type Change = fn(&mut PathOptions);
            let changes: [(&str, Change); 3] = [
                ("start: found a model", |o| o.start = None),
                ("fit_intercept: found false", |o| o.fit_intercept = true),
                ("`folds`: found 2 given", |o| {
                    o.folds = Some(Folds::given(ragged_folds(39, 2)))
                }),
            ];
            for (part, change) in changes {
                let mut other = saved(true);
                change(&mut other);
                let error = fit_path(&samples, &other, &mut |_| {}).unwrap_err();
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
            let resumed = fit(&samples, &saved(true));
            assert_eq!(resumed.model, unbroken.model);
            assert_eq!(resumed.path, unbroken.path);
        }
    }
}
