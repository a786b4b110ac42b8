//! K, and what stands on it: against f64, and the same bits for any number of threads.

mod common;

use common::Problem;
use flowreg::engine::{Choice, GramMatrix};
use flowreg::gemm::{Backend, Gemm};
use flowreg::{Dataset, Error, FitOptions, Recipe, Samples};
use proptest::prelude::*;

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Both back ends, contiguous rows and chosen ones, around the edges of panels.
    #[test]
    fn equals_f64(
        n in prop_oneof![2usize..40, 120usize..140], d in 1usize..50, seed in any::<u32>(),
        chosen in any::<bool>(), matrixmultiply in any::<bool>(),
    ) {
        let problem = Problem::random(n, d, 3, seed);
        let samples = problem.samples();
        let two = problem.labels.iter().filter(|&&l| l < 2).count();
        let samples = match chosen && two > 0 {
            true => samples.first_classes(2).unwrap(),
            false => samples,
        };
        let backend = if matrixmultiply { Backend::Matrixmultiply } else { Backend::Faer };
        let x = samples.x();
        let k = on(2, || GramMatrix::new(x, Gemm::new(backend, 2))).unwrap();
        for i in 0..x.len() {
            for j in 0..x.len() {
                let terms = x.row(i).iter().zip(x.row(j));
                let expected: f64 = terms.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let found = f64::from(k.values().row(i)[j]);
                // X is not negative: the sum is its own scale.
                prop_assert!((found - expected).abs() <= 1e-6 * expected.max(1e-6), "{i} {j}: {found} {expected}");
            }
        }
    }
}

#[test]
fn rows_beyond_the_range_of_f32_are_refused_by_gram_and_left_to_primal_by_auto() {
    let x = [1e20f32, 0.0, 0.0, 1e20, 1e20, 1e20, 0.0, 0.0];
    let samples = Samples::new(&x, 2, &[0, 1, 2, 0], 3).unwrap();
    let mut options = FitOptions {
        engine: Choice::Gram,
        init: flowreg::Init::Zeros,
        ..FitOptions::default()
    };
    options.sgd.lr = 1e-30;
    let error = flowreg::fit(&samples, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error}");
    assert!(error.to_string().contains("primal"), "{error}");
    options.engine = Choice::Auto;
    let fit = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
    assert_eq!(fit.engine, "primal");
}

/// Random projection at full size: K r against X (Xᵀ r) in f64.
fn check_projection(dataset: &Dataset) {
    let split = dataset.split("train").unwrap();
    let samples = split.samples().unwrap();
    let x = samples.x();
    let (n, d) = (x.len(), x.features());
    let mut uniform = common::uniform(5);
    let r: Vec<f64> = (0..n).map(|_| f64::from(uniform()) - 0.5).collect();
    let mut xr = vec![0.0f64; d];
    for (i, r) in r.iter().enumerate() {
        let row = x.row(i).iter().zip(&mut xr);
        row.for_each(|(&x, sum)| *sum += f64::from(x) * r);
    }
    for backend in [Backend::Faer, Backend::Matrixmultiply] {
        let k = on(2, || GramMatrix::new(x, Gemm::new(backend, 2))).unwrap();
        let mut worst = 0.0f64;
        for i in 0..n {
            let k = k.values().row(i);
            let found: f64 = k.iter().zip(&r).map(|(&k, r)| f64::from(k) * r).sum();
            let size: f64 = k.iter().zip(&r).map(|(&k, r)| f64::from(k) * r.abs()).sum();
            let expected: f64 = (x.row(i).iter().zip(&xr))
                .map(|(&x, xr)| f64::from(x) * xr)
                .sum();
            worst = worst.max((found - expected).abs() / size);
        }
        println!("K at full size, {backend:?}: {worst:.1e} of |K| |r|");
        assert!(worst < 1e-6, "{backend:?}: {worst:.1e}");
    }
}

#[test]
fn at_full_size() {
    let Some(shared) = common::shared("K, losses and model at full size") else {
        return;
    };
    let dataset = common::flowers128(&shared);
    check_projection(&dataset);

    // The same bits for any number of threads, again and again.
    let split = dataset.split("train").unwrap();
    let samples = split.samples().unwrap();
    let mut options = Recipe::named("softmax-fast").unwrap().options();
    options.engine = Choice::Gram;
    options.sgd.epochs = 20;
    options.sgd.momentum = 0.5;
    let mut run = |threads| {
        options.threads = Some(threads);
        let k = on(threads, || {
            GramMatrix::new(samples.x(), Gemm::new(Backend::Faer, threads))
        });
        let fit = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
        (k.unwrap(), fit.history, fit.model)
    };
    let one = run(1);
    for round in 0..5 {
        for threads in [1, 2, 3, 4, 8] {
            assert!(run(threads) == one, "{threads} threads, round {round}");
        }
    }
}
