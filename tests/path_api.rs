//! The options that a caller of the library has, beside those of the command line: lists of
//! penalties, given folds, results as they are made, fits without an intercept, warm starts.

mod common;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::loss::weights::SampleWeights;
use flowreg::path::{Fold, Folds, PathFit, PathOptions, Penalty};
use flowreg::{Event, Samples, Splits, fit_path};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Gram, EngineChoice::Primal];

fn fit<'a>(data: impl Into<Splits<'a>>, options: &PathOptions) -> PathFit {
    fit_path(data, options, &mut |_| {}).unwrap()
}

/// All events of a fit, and the fit.
fn events<'a>(data: impl Into<Splits<'a>>, options: &PathOptions) -> (Vec<Event>, PathFit) {
    let mut events = Vec::new();
    let fit = fit_path(data, options, &mut |event| events.push(event)).unwrap();
    (events, fit)
}

/// The message of a fit that is refused before K, or anything else, is made.
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

/// The penalties that the steps of a fit were of, by fold, each once.
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

/// A list is the path of its values from the strongest to the weakest, in whatever order it is.
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

/// C is scikit-learn's: l2 = 1/(C Σ w) over the rows that are fitted, of a fold its own.
#[test]
fn each_fold_has_its_own_l2_for_a_c() {
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
    // The weights that folds leave out add up to all of them.
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
fn lists_that_make_no_path_are_refused() {
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
        (Penalty::Cs(vec![f64::INFINITY]), ["inf at 0", "above 0"]),
        (Penalty::Cs(vec![2.0, 2.0]), ["2 twice", "each value once"]),
        (Penalty::Cs(vec![1e-310, 1.0]), ["--C", "l2 = inf"]),
        (Penalty::List(vec![1.0, 0.5]), ["several penalties", "--cv"]),
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
    // One value chooses nothing.
    let one = fit(&samples, &options(Penalty::List(vec![0.5])));
    assert_eq!(
        one.model,
        fit(&samples, &options(Penalty::Value(0.5))).model
    );
}

/// Random sets of rows: some rows in none of the two, fitted rows up to three times.
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

/// Given folds are the folds that they spell out: those of a seed, to the bit.
#[test]
fn given_folds_are_the_stratified_ones_that_they_spell_out() {
    let problem = Problem::random(45, 70, 3, 2);
    let samples = problem.samples();
    let mut rng = flowreg::sgd::torch_rng::TorchRng::new(3);
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

/// A fold is a fit of its rows alone, however often each is listed, scored on the others listed;
/// weights of 0 take rows out of both sets.
#[test]
fn a_given_fold_is_a_fit_of_the_rows_that_it_lists() {
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
fn folds_that_cannot_be_fitted_are_refused_by_name() {
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
    // One fold that can be is enough; the other is named.
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
