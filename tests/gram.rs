//! The Gram matrix and products with it: against f64, and the same bits for any number of threads.

mod common;

use common::Problem;
use flowreg::design::gram::{GramMatrix, Scratch};
use flowreg::design::plan::{EngineChoice, EngineKind};
use flowreg::design::samples::{Batch, Rows};
use flowreg::linalg::gemm::{Backend, Gemm};
use flowreg::linalg::mat::{MatMut, MatRef};
use flowreg::{Dataset, Error, Event, FitOptions, Recipe, Samples};
use proptest::prelude::*;

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    flowreg::threads::share_short_loops();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(work)
}

fn gram_matrix(x: &Rows, backend: Backend, threads: usize) -> GramMatrix {
    let gemm = Gemm::new(backend, threads);
    on(threads, || GramMatrix::new(x, gemm, &mut |_| Ok(()))).unwrap()
}

/// `alpha · K_batch G + beta · Z` for G and Z of two columns. Without Z, beta is 0 and the output
/// buffer holds NaN before.
fn product(
    (k, gemm): (&GramMatrix, Gemm),
    alpha: f32,
    g: &[f32],
    batch: Batch,
    beta: f64,
    z: Option<&[f32]>,
) -> Vec<f32> {
    let transposed = |z: &[f32], rows: usize| -> Vec<f32> {
        let cols = z.len() / rows;
        let values = (0..cols).flat_map(|j| (0..rows).map(move |i| z[i * cols + j]));
        values.collect()
    };
    let mut out = match z {
        Some(z) => transposed(z, k.rows()),
        None => vec![f32::NAN; 2 * k.rows()],
    };
    let g = transposed(g, g.len() / 2);
    let g = MatRef::new(&g, 2, g.len() / 2);
    let z = MatMut::new(&mut out, 2, k.rows());
    let mut scratch = Scratch::new(gemm);
    on(2, || k.product(alpha, g, batch, beta, z, &mut scratch));
    transposed(&out, 2)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Products with K and K_val against f64: all back ends, contiguous rows and subsets, all columns
    /// and batches, around the edges of panels and slabs.
    #[test]
    fn products_with_k_equal_f64(
        n in prop_oneof![2usize..40, 120usize..140], m in 1usize..30,
        d in prop_oneof![1usize..50, 1020usize..1030], seed in any::<u32>(),
        chosen in any::<bool>(), backend in 0usize..3, beta in prop_oneof![Just(0.0), Just(1.0), -2.0f64..2.0],
    ) {
        let problem = Problem::random(n, d, 3, seed);
        let samples = problem.samples();
        let two = problem.labels.iter().filter(|&&l| l < 2).count();
        let samples = if chosen && two > 0 { samples.first_classes(2).unwrap() } else { samples };
        let others = Problem::random(m, d, 3, seed ^ 9);
        let others = others.samples();
        let backend = [Backend::Own, Backend::Faer, Backend::Matrixmultiply][backend];
        let (x, y) = (samples.x(), others.x());
        let k = gram_matrix(x, backend, 2);
        let gemm = Gemm::new(backend, 2);
        let mut heard = 0;
        let k_validation = GramMatrix::between(y, x, &k, gemm, &mut |columns| { heard = columns; Ok(()) }).unwrap();
        prop_assert_eq!(heard, d);

        let n = x.len();
        let mut uniform = common::uniform(seed ^ 5);
        let mut values = |len: usize| (0..len).map(|_| uniform() - 0.5).collect::<Vec<f32>>();
        let some: Vec<u32> = (0..n as u32).rev().step_by(3).collect();
        let all: Vec<u32> = (0..n as u32).collect();
        let cases: [(_, &Rows, Batch, &[u32]); 3] = [
            (&k, x, Batch::All, &all),
            (&k, x, Batch::Rows(&some), &some),
            (&k_validation, y, Batch::All, &all),
        ];
        for (k, left, batch, columns) in cases {
            prop_assert_eq!((k.rows(), k.cols()), (left.len(), n));
            let g = values(2 * columns.len());
            let old = values(2 * left.len());
            let found = product((k, gemm), -1.5, &g, batch, beta, (beta != 0.0).then_some(&old));
            for i in 0..left.len() {
                for j in 0..2 {
                    let before = beta * f64::from(old[2 * i + j]);
                    let terms = columns.iter().enumerate().map(|(b, &row)| {
                        -1.5 * dot(left.row(i), x.row(row as usize)) * f64::from(g[2 * b + j])
                    });
                    let (sum, size) = terms.fold((before, before.abs()), |(s, a), t| (s + t, a + t.abs()));
                    let found = f64::from(found[2 * i + j]);
                    prop_assert!((found - sum).abs() <= 1e-6 * size + 1e-6, "{i} {j}: {found} {sum}");
                }
            }
        }
    }
}

/// Products along differences of rows that differ little. Without centring, rounding the entries
/// of K to f32 would be larger than the result.
#[test]
fn differences_of_bright_rows_keep_their_precision() {
    let (n, d) = (40, 300);
    let mut uniform = common::uniform(3);
    let x: Vec<f32> = (0..n * d).map(|_| 1000.0 + 2.0 * uniform() - 1.0).collect();
    let rows = Rows::new(MatRef::new(&x, n, d));
    let k = gram_matrix(&rows, Backend::Faer, 2);
    // Columns of G that sum to 0.
    let g: Vec<f32> = (0..2 * n)
        .map(|at| if at / 2 % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    let gemm = Gemm::new(Backend::Faer, 2);
    let found = product((&k, gemm), 1.0, &g, Batch::All, 0.0, None);
    for i in 0..n {
        let terms = (0..n).map(|j| dot(rows.row(i), rows.row(j)) * f64::from(g[2 * j]));
        let expected: f64 = terms.sum();
        // The entries of K are 3e8, which f32 rounds to multiples of 32.
        let error = (f64::from(found[2 * i]) - expected).abs();
        assert!(
            error <= 1e-6 * expected.abs() + 0.01,
            "{i}: {} {expected}",
            found[2 * i]
        );
    }
}

#[test]
fn rows_beyond_the_range_of_f32_are_refused_by_gram_and_left_to_primal_by_auto() {
    let mut x = [0.0f32; 32];
    for i in 0..4 {
        x[9 * i] = 1e20;
    }
    let samples = Samples::new(&x, 8, &[0, 1, 2, 0], 3).unwrap();
    let mut options = FitOptions {
        engine: EngineChoice::Gram,
        init: flowreg::Init::Zeros,
        ..FitOptions::default()
    };
    options.sgd.lr = 1e-30.into();
    let error = flowreg::fit(&samples, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error}");
    assert!(error.to_string().contains("primal"), "{error}");
    options.engine = EngineChoice::Auto;
    let mut planned = Vec::new();
    let fit = flowreg::fit(&samples, &options, &mut |event| {
        if let Event::Planned(plan) = event {
            planned.push(plan.engine);
        }
    });
    assert_eq!(planned, [EngineKind::Gram, EngineKind::Primal]);
    let plan = fit.unwrap().plan;
    assert_eq!((plan.engine, plan.gram_fits), (EngineKind::Primal, false));
}

#[test]
fn features_that_are_not_finite_are_named() {
    let problem = Problem::random(12, 5, 3, 1);
    let mut x = problem.x.clone();
    x[17] = f32::NAN;
    x[20] = f32::INFINITY;
    let expected = "x: found NaN in row 3, feature 2, expected finite numbers";
    let samples = Samples::new(&x, 5, &problem.labels, 3).unwrap();
    let refused = flowreg::fit(&samples, &FitOptions::default(), &mut |_| {}).unwrap_err();
    assert_eq!(refused.to_string(), expected);
    let rows = Rows::new(MatRef::new(&x, 12, 5));
    let gemm = Gemm::new(Backend::default(), 1);
    let refused = GramMatrix::new(&rows, gemm, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.to_string(), expected);
}

/// At full size, K r against X (Xᵀ r) in f64.
fn check_projection(dataset: &Dataset) {
    let split = dataset.split("train").unwrap();
    let samples = split.samples().unwrap();
    let x = samples.x();
    let (n, d) = (x.len(), x.features());
    let mut uniform = common::uniform(5);
    let mut expected = Vec::new();
    // Two directions: a random one, and one that sums to 0.
    let r: Vec<f32> = (0..n)
        .flat_map(|i| [uniform(), if i % 2 == 0 { 1.0 } else { -1.0 }])
        .collect();
    for direction in 0..2 {
        let r = |i: usize| f64::from(r[2 * i + direction]);
        let mut xr = vec![0.0f64; d];
        for i in 0..n {
            let row = x.row(i).iter().zip(&mut xr);
            for (&x, sum) in row {
                *sum += f64::from(x) * r(i);
            }
        }
        expected.push(
            (0..n)
                .map(|i| {
                    (x.row(i).iter().zip(&xr))
                        .map(|(&x, xr)| f64::from(x) * xr)
                        .sum()
                })
                .collect::<Vec<f64>>(),
        );
    }
    for backend in [Backend::Own, Backend::Faer, Backend::Matrixmultiply] {
        let k = gram_matrix(x, backend, 2);
        let gemm = Gemm::new(backend, 2);
        let found = product((&k, gemm), 1.0, &r, Batch::All, 0.0, None);
        for direction in 0..2 {
            let expected = &expected[direction];
            let largest = expected.iter().fold(0.0, |max, e| f64::max(max, e.abs()));
            let found = found.iter().skip(direction).step_by(2);
            let errors = found.zip(expected).map(|(&f, e)| (f64::from(f) - e).abs());
            let worst = errors.fold(0.0, f64::max) / largest;
            println!("K at full size, {backend:?}, direction {direction}: {worst:.1e}");
            assert!(
                worst < 1e-6,
                "{backend:?}, direction {direction}: {worst:.1e}"
            );
        }
    }
}

#[test]
fn products_with_k_equal_f64_at_full_size() {
    let Some(shared) = common::shared("K, losses and model at full size") else {
        return;
    };
    let dataset = common::flowers128(&shared);
    check_projection(&dataset);

    // The same bits for any number of threads, in repeated runs.
    let split = dataset.split("train").unwrap();
    let samples = split.samples().unwrap();
    let mut options = Recipe::named("softmax-fast").unwrap().options();
    options.engine = EngineChoice::Gram;
    options.sgd.epochs = 20;
    options.sgd.momentum = 0.5;
    let mut run = |threads| {
        options.threads = Some(threads);
        let k = gram_matrix(samples.x(), Backend::Faer, threads);
        let fit = flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
        (k, fit.history, fit.model)
    };
    let one = run(1);
    for round in 0..5 {
        for threads in [1, 2, 3, 4, 8] {
            assert!(run(threads) == one, "{threads} threads, round {round}");
        }
    }
}
