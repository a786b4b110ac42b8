//! The options that a caller of the library has, beside those of the command line: lists of
//! penalties, given folds, results as they are made, fits without an intercept, warm starts.

mod common;

use common::Problem;
use flowreg::loss::weights::SampleWeights;
use flowreg::path::{Folds, PathFit, PathOptions, Penalty};
use flowreg::{Event, Samples, Splits, fit_path};

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
    Some(Folds {
        count,
        seed: 3,
        one_standard_error: false,
    })
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
