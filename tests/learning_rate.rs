//! The bound on the learning rate for guaranteed descent against f64, and the rate of `auto`.

mod common;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::loss::weights::{ClassWeights, SampleWeights};
use flowreg::{Fit, FitOptions, Init, LearningRate, Sgd};
use proptest::prelude::*;

fn fit(problem: &Problem, engine: EngineChoice, sgd: Sgd, seed: u32) -> Fit {
    let options = FitOptions {
        sgd,
        init: Init::Torch { seed },
        engine,
        threads: Some(1),
        ..FitOptions::default()
    };
    flowreg::fit(&problem.samples(), &options, &mut |_| {}).unwrap()
}

/// λmax(X Xᵀ + 1 1ᵀ) by repeated squaring in f64, after which the largest eigenvalue dominates.
fn largest_eigenvalue(p: &Problem) -> f64 {
    let row = |i: usize| &p.x[i * p.d..][..p.d];
    let entry = |i, j| -> f64 {
        let terms = row(i)
            .iter()
            .zip(row(j))
            .map(|(&a, &b)| f64::from(a) * f64::from(b));
        1.0 + terms.sum::<f64>()
    };
    let n = p.n;
    let k: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
    let mut power = k.clone();
    for _ in 0..30 {
        let trace: f64 = (0..n).map(|i| power[i * n + i]).sum();
        let square = |i: usize, j: usize| -> f64 {
            (0..n)
                .map(|l| power[i * n + l] * power[l * n + j])
                .sum::<f64>()
                / trace
                / trace
        };
        power = (0..n * n).map(|at| square(at / n, at % n)).collect();
    }
    // tr(K P)/tr(P), where P is now the projection to the eigenvectors of λmax.
    let trace: f64 = (0..n).map(|i| power[i * n + i]).sum();
    k.iter().zip(&power).map(|(k, p)| k * p).sum::<f64>() / trace
}

/// Rows of weight 0 have no effect, rows of weight 2 count as two copies, and every step lowers the
/// loss, with class weights and label smoothing too.
#[test]
fn the_automatic_rate_treats_weights_as_repetitions() {
    for (seed, classes) in [(1, 2), (2, 4), (3, 3)] {
        let mut problem = Problem::random(30, 8, classes, seed);
        let mut repeated = problem.clone();
        (repeated.x, repeated.labels) = (Vec::new(), Vec::new());
        let weights: Vec<f64> = (0..30).map(|i| f64::from(i as u8 * 7 % 3)).collect();
        for (i, &weight) in weights.iter().enumerate() {
            let row = &mut problem.x[i * 8..][..8];
            if weight == 0.0 {
                // This row would determine the rate if it had weight.
                for x in row.iter_mut() {
                    *x *= 5.0;
                }
            }
            for _ in 0..weight as usize {
                repeated.x.extend_from_slice(row);
                repeated.labels.push(problem.labels[i]);
            }
        }
        repeated.n = repeated.labels.len();
        let given = (0..classes).map(|class| 0.5 + class as f64).collect();
        for (class_weights, label_smoothing) in [
            (ClassWeights::Equal, 0.0),
            (ClassWeights::Balanced, 0.0),
            (ClassWeights::Given(given), 0.3),
        ] {
            let weighting = |samples| SampleWeights {
                classes: class_weights.clone(),
                samples,
                label_smoothing,
            };
            let sgd = Sgd {
                lr: LearningRate::Auto,
                epochs: 30,
                ..Sgd::default()
            };
            for engine in [EngineChoice::Gram, EngineChoice::Primal] {
                let fit = |problem: &Problem, samples| {
                    let options = FitOptions {
                        sgd: sgd.clone(),
                        weighting: weighting(samples),
                        engine,
                        ..FitOptions::default()
                    };
                    flowreg::fit(&problem.samples(), &options, &mut |_| {}).unwrap()
                };
                let (weighted, whole) =
                    (fit(&problem, Some(weights.clone())), fit(&repeated, None));
                assert!(common::relative(weighted.lr, whole.lr) < 1e-4);
                let expected: Vec<f64> = (whole.model.weight().as_slice().iter())
                    .map(|&w| w.into())
                    .collect();
                let found = weighted.model.weight().as_slice();
                assert!(common::largest_difference(found, &expected) < 1e-4);
                let falls = |pair: &[flowreg::Epoch]| pair[1].loss <= pair[0].loss * (1.0 + 1e-6);
                assert!(weighted.history.windows(2).all(falls));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_automatic_rate_is_one_over_the_lipschitz_constant(
        n in 2usize..20, d in 1usize..30, classes in 2usize..6, seed in any::<u32>(),
        batch_size in prop::option::of(1usize..24), weight_decay in prop::sample::select(vec![0.0, 0.3]),
    ) {
        let problem = Problem::random(n, d, classes, seed);
        let sgd = Sgd { lr: LearningRate::Auto, epochs: 15, batch_size, weight_decay, ..Sgd::default() };
        let gram = fit(&problem, EngineChoice::Gram, sgd.clone(), seed);
        let primal = fit(&problem, EngineChoice::Primal, sgd, seed);

        let largest = largest_eigenvalue(&problem);
        let square = |i: usize| problem.x[i * d..][..d].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let longest = (0..n).map(square).fold(0.0, f64::max) + 1.0;
        let of_logits = match batch_size {
            Some(size) if size < n => {
                let smallest = (0..n).step_by(size).map(|i| size.min(n - i)).min().unwrap();
                f64::min(largest / smallest as f64, longest)
            }
            _ => largest / n as f64,
        };
        let curvature = of_logits * if classes == 2 { 0.25 } else { 0.5 } + weight_decay;
        for fit in [&gram, &primal] {
            prop_assert!(common::relative(fit.lr, 1.0 / curvature) < 1e-4, "{} {}", fit.lr, 1.0 / curvature);
            prop_assert_eq!(fit.lr_bound.unwrap(), 2.0 * fit.lr);
            // Every full-batch step lowers the loss (without weight decay).
            if batch_size.is_none_or(|size| size >= n) && weight_decay == 0.0 {
                let down = fit.history.windows(2).all(|pair| pair[1].loss <= pair[0].loss * (1.0 + 1e-6));
                prop_assert!(down, "{:?}", fit.history);
            }
        }
    }
}

/// The bound is tight for two equal rows with opposite labels near the minimum, where the second
/// derivative of the logistic loss is largest: the loss falls just below 2/L and rises just above.
#[test]
fn the_bound_on_the_rate_is_tight() {
    let x = [3.0f32, 3.0];
    let samples = flowreg::Samples::new(&x, 1, &[0, 1], 2).unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("start.safetensors");
    let start = flowreg::Model::new(vec![0.01], vec![0.003]).unwrap();
    start.save(&file).unwrap();
    let mut options = FitOptions {
        init: Init::File(file),
        engine: EngineChoice::Gram,
        ..FitOptions::default()
    };
    options.sgd.epochs = 3;
    let mut rise = |share: f64| {
        options.sgd.lr = LearningRate::Auto;
        let bound = flowreg::fit(&samples, &options, &mut |_| {})
            .unwrap()
            .lr_bound
            .unwrap();
        options.sgd.lr = (share * bound).into();
        let fit = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
        fit.history[1].loss - fit.history[0].loss
    };
    assert!(rise(0.95) < 0.0);
    assert!(rise(1.05) > 0.0);
}

#[test]
fn the_primal_engine_computes_the_bound_only_for_auto() {
    let problem = Problem::random(20, 5, 3, 1);
    let fixed = fit(&problem, EngineChoice::Primal, Sgd::default(), 0);
    assert_eq!((fixed.lr, fixed.lr_bound), (0.01, None));
    assert!(
        fit(&problem, EngineChoice::Gram, Sgd::default(), 0)
            .lr_bound
            .is_some()
    );
}
