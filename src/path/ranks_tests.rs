//! Converged fits of several ranks that share the columns of X, or its rows.

use proptest::prelude::*;

use crate::comm::cost::Shape;
use crate::comm::tests::{Counted, on_ranks};
use crate::kernels::random_values;
use crate::path::{FoldRows, Folds, Optimizer, PathFit, PathOptions, Penalty};
use crate::solver::report::Status;
use crate::{Samples, Standardize, fit_path};

/// What a fit gives, to the bit.
fn bits(fit: &PathFit) -> Vec<u64> {
    let report = &fit.report;
    let numbers = [
        fit.l2,
        report.objective,
        report.gradient_norm,
        report.gap.unwrap_or(-1.0),
    ];
    let of_path = fit.path.iter().map(|entry| entry.val_loss.unwrap_or(0.0));
    let bits = numbers.into_iter().chain(of_path).map(f64::to_bits);
    bits.chain([fit.model.crc32().into(), report.iterations as u64])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any number of ranks gives the same bits, and the optimum of one process.
    #[test]
    fn a_converged_fit_has_the_same_bits_on_any_number_of_ranks(
        n in 8usize..24,
        d in 257usize..700,
        classes in 2usize..5,
        kind in 0..4,
        lbfgs in any::<bool>(),
        scaled in any::<bool>(),
        weighted in any::<bool>(),
        folds in any::<bool>(),
        intercept in any::<bool>(),
        exponent in -3i32..1,
        seed in 0u32..1000,
    ) {
        let mut x = random_values(n * d, seed);
        match kind {
            0 => x.iter_mut().for_each(|x| *x = ((*x + 1.0) * 127.5).round() / 255.0),
            1 => {}
            // Far from 0, and repeated rows.
            2 => {
                x.iter_mut().for_each(|x| *x += 50.0);
                let (first, rest) = x.split_at_mut(d);
                rest[..d].copy_from_slice(first);
            }
            _ => x.iter_mut().step_by(d).for_each(|x| *x *= 1e3),
        }
        let labels: Vec<u32> = (0..n).map(|i| (i * 5 % classes) as u32).collect();
        let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
        let mut options = PathOptions {
            optimizer: if lbfgs { Optimizer::Lbfgs } else { Optimizer::Newton },
            penalty: Penalty::Value(10f64.powi(exponent)),
            standardize: match (scaled, intercept) {
                (false, _) => Standardize::None,
                (true, true) => Standardize::Both,
                (true, false) => Standardize::Scale,
            },
            fit_intercept: intercept,
            ..PathOptions::default()
        };
        if folds {
            options.penalty = Penalty::List(vec![1.0, 0.01]);
            options.folds = Some(Folds {
                rows: FoldRows::Stratified { count: 2, seed: 1 },
                one_standard_error: false,
            });
        }
        if weighted {
            options.weighting.samples = Some((0..n).map(|i| (i % 4) as f64 + 0.5).collect());
        }
        let alone = fit_path(&train, &options, &mut |_| {}).unwrap();
        let mut expected = None;
        for size in [1, 2, 3, 5] {
            let found = on_ranks(size, |comm| {
                fit_path(&train.columns_of(comm).unwrap(), &options, &mut |_| {}).unwrap()
            });
            for fit in found {
                let expected = expected.get_or_insert_with(|| bits(&fit));
                prop_assert_eq!(&bits(&fit), expected, "{} ranks", size);
                prop_assert_eq!(fit.model.weight().cols(), d);
                if alone.report.status == Status::Converged {
                    prop_assert_eq!(fit.report.status, Status::Converged);
                    let (a, b) = (fit.report.objective, alone.report.objective);
                    let gap = fit.report.gap.unwrap() + alone.report.gap.unwrap();
                    prop_assert!((a - b).abs() <= gap + 1e-12 * b, "{} {} {}", a, b, gap);
                    // What is reported is true of the model of all columns.
                    let evaluation = fit.model.evaluate_weighted(&train, options.weighting.samples.as_deref()).unwrap();
                    let loss = fit.report.loss;
                    prop_assert!((evaluation.loss - loss).abs() <= 1e-4 * loss.max(1e-3), "{} {}", evaluation.loss, loss);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any number of ranks that share the rows gives the same bits, and the optimum of one process.
    #[test]
    fn a_fit_of_shared_rows_has_the_same_bits_on_any_number_of_ranks(
        n in 1700usize..2500,
        d in 2usize..30,
        classes in 2usize..5,
        kind in 0..4,
        lbfgs in any::<bool>(),
        scaled in any::<bool>(),
        weighted in any::<bool>(),
        penalty in 0usize..4,
        intercept in any::<bool>(),
        seed in 0u32..1000,
    ) {
        let mut x = random_values(n * d, seed);
        match kind {
            0 => x.iter_mut().for_each(|x| *x = ((*x + 1.0) * 127.5).round() / 255.0),
            1 => {}
            // Far from 0, and repeated rows.
            2 => {
                x.iter_mut().for_each(|x| *x += 50.0);
                let (first, rest) = x.split_at_mut(d);
                rest[..d].copy_from_slice(first);
            }
            // Columns of large scale, and constant ones.
            _ => {
                x.iter_mut().step_by(d).for_each(|x| *x *= 1e3);
                x.iter_mut().skip(1).step_by(d).for_each(|x| *x = 0.75);
            }
        }
        let noise = random_values(n, seed + 1);
        let label = |i: usize| {
            let value = x[i * d + d - 1] + noise[i];
            ((value.abs() * 3.0) as usize + i % 2) % classes
        };
        let labels: Vec<u32> = (0..n).map(|i| label(i) as u32).collect();
        let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
        let mut options = PathOptions {
            optimizer: if lbfgs { Optimizer::Lbfgs } else { Optimizer::Newton },
            penalty: Penalty::Value([1e-2, 1e-5, 0.0, 0.1][penalty]),
            standardize: match (scaled, intercept) {
                (false, _) => Standardize::None,
                (true, true) => Standardize::Both,
                (true, false) => Standardize::Scale,
            },
            fit_intercept: intercept,
            ..PathOptions::default()
        };
        if penalty == 3 {
            options.penalty = if lbfgs { Penalty::List(vec![1.0, 0.01]) } else { Penalty::Auto };
            options.folds = Some(Folds {
                rows: FoldRows::Stratified { count: 2, seed: 1 },
                one_standard_error: false,
            });
        }
        if weighted {
            options.weighting.samples = Some((0..n).map(|i| (i % 16) as f64).collect());
        }
        let alone = fit_path(&train, &options, &mut |_| {}).unwrap();
        let mut expected = None;
        for size in [1, 2, 3, 4] {
            let found = on_ranks(size, |comm| {
                fit_path(&train.rows_of(comm).unwrap(), &options, &mut |_| {}).unwrap()
            });
            for fit in found {
                let expected = expected.get_or_insert_with(|| bits(&fit));
                prop_assert_eq!(&bits(&fit), expected, "{} ranks", size);
                if alone.report.status == Status::Converged && options.folds.is_none() {
                    prop_assert_eq!(fit.report.status, Status::Converged);
                    let (a, b) = (fit.report.objective, alone.report.objective);
                    let gap = |fit: &PathFit| fit.report.gap.unwrap_or(1e-6 * b);
                    let gap = gap(&fit) + gap(&alone);
                    prop_assert!((a - b).abs() <= gap + 1e-12 * b, "{} {} {}", a, b, gap);
                }
                // What is reported is true of the model on all rows.
                let evaluation = fit.model.evaluate_weighted(&train, options.weighting.samples.as_deref()).unwrap();
                let loss = fit.report.loss;
                prop_assert!((evaluation.loss - loss).abs() <= 1e-4 * loss.max(1e-3), "{} {}", evaluation.loss, loss);
            }
        }
    }
}

/// The sums of a converged fit of shared rows are those of Xᵀ X and of its gradients, and few others.
#[test]
fn the_traffic_of_a_fit_of_shared_rows_is_that_of_its_formula() {
    let (n, d, classes, size) = (2000, 70, 10, 4);
    let x = random_values(n * d, 1);
    let labels: Vec<u32> = (0..n).map(|i| ((x[i * d] + 1.0) * 4.9) as u32).collect();
    let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
    for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
        let options = PathOptions {
            optimizer,
            penalty: Penalty::Value(1e-3),
            ..PathOptions::default()
        };
        let shape = Shape {
            rows: n,
            features: d,
            outputs: classes,
            processes: size,
        };
        let counts = on_ranks(size, |comm| {
            let counted = Counted::new(comm);
            let fit = fit_path(&train.rows_of(&counted).unwrap(), &options, &mut |_| {}).unwrap();
            let gradients = fit.report.products.pullbacks as f64;
            let bytes = shape.moments_bytes() + gradients * shape.gradient_bytes();
            (bytes, counted.counts())
        });
        for (bytes, (sums, values)) in counts {
            let found = 8.0 * values as f64;
            assert!(
                found >= bytes && found <= 1.2 * bytes,
                "{found} {bytes} {sums}"
            );
        }
    }
}
