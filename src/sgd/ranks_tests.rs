//! Fits of several ranks that share the columns of X, or its rows.

use proptest::prelude::*;

use crate::comm::tests::{Counted, on_ranks};
use crate::kernels::random_values;
use crate::{Backend, EngineChoice, Error, FitOptions, Init, Model, Samples, Standardize, fit};

/// What a fit gives, to the bit.
type Found = (u32, Vec<u64>);

fn found(model: &Model, losses: impl Iterator<Item = f64>) -> Found {
    (model.crc32(), losses.map(f64::to_bits).collect())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bytes,
    Floats,
    /// One column of scale 1e5, and a row 1e3 times as large as the others.
    Uneven,
}

fn features(kind: Kind, n: usize, d: usize, seed: u32) -> Vec<f32> {
    let mut x = random_values(n * d, seed);
    match kind {
        Kind::Bytes => (x.iter_mut()).for_each(|x| *x = ((*x + 1.0) * 127.5).round() / 255.0),
        Kind::Floats => {}
        Kind::Uneven => {
            x.iter_mut().step_by(d).for_each(|x| *x *= 1e5);
            x[d..2 * d].iter_mut().for_each(|x| *x *= 1e3);
        }
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any number of ranks gives the same bits; they are those of a single process where its sums
    /// are exact, and near them elsewhere.
    #[test]
    fn a_fit_has_the_same_bits_on_any_number_of_ranks(
        n in 2usize..14,
        d in 257usize..700,
        classes in 2usize..5,
        kind in prop::sample::select(vec![Kind::Bytes, Kind::Floats, Kind::Uneven]),
        zeros in any::<bool>(),
        scaled in any::<bool>(),
        validated in any::<bool>(),
        weighted in any::<bool>(),
        batch_size in prop::option::of(1usize..9),
        seed in 0u32..1000,
    ) {
        let rows = 2 * n;
        let x = features(kind, rows, d, seed);
        let labels: Vec<u32> = (0..rows).map(|i| (i % classes) as u32).collect();
        let all = |first: usize| {
            let end = first + n;
            Samples::from_labels(&x[first * d..end * d], d, &labels[first..end], classes).unwrap()
        };
        let (train, val) = (all(0), all(n));
        let mut options = FitOptions {
            engine: EngineChoice::Gram,
            backend: Backend::Own,
            standardize: if scaled { Standardize::Both } else { Standardize::None },
            init: if zeros { Init::Zeros } else { Init::Torch { seed } },
            early_stopping: validated.then_some(3),
            ..FitOptions::default()
        };
        options.sgd.epochs = 5;
        options.sgd.momentum = 0.5;
        options.sgd.batch_size = batch_size;
        options.sgd.lr = crate::LearningRate::Auto;
        if weighted {
            options.weighting.samples = Some((0..n).map(|i| (i % 3) as f64 + 0.5).collect());
        }
        let fits = |train: &Samples, val: &Samples, options: &FitOptions| match validated {
            true => fit((train, val), options, &mut |_| {}),
            false => fit(train, options, &mut |_| {}),
        };
        // The largest eigenvalue is an estimate, which rounding of K changes; epochs are compared at one
        // learning rate.
        let lr = fits(&train, &val, &options).unwrap().lr;
        let of_one = on_ranks(1, |comm| {
            let (train, val) = (train.columns_of(comm).unwrap(), val.columns_of(comm).unwrap());
            fits(&train, &val, &options).unwrap().lr
        });
        prop_assert!((of_one[0] / lr - 1.0).abs() <= 2e-3, "{} {}", of_one[0], lr);
        let same = FitOptions {
            sgd: crate::Sgd { lr: of_one[0].into(), ..options.sgd.clone() },
            ..options.clone()
        };
        let alone = fits(&train, &val, &same).unwrap();
        let mut of_one = None;
        for size in [1, 2, 3, 5] {
            let results = on_ranks(size, |comm| {
                let (train, val) = (train.columns_of(comm).unwrap(), val.columns_of(comm).unwrap());
                let fit = fits(&train, &val, &options).unwrap();
                (found(&fit.model, fit.history.iter().map(|epoch| epoch.loss)), fit)
            });
            for (bits, fit) in results {
                let expected = of_one.get_or_insert_with(|| bits.clone());
                prop_assert_eq!(&bits, expected, "{} ranks", size);
                prop_assert_eq!(fit.model.weight().cols(), d);
                if kind == Kind::Bytes && zeros && !scaled {
                    prop_assert_eq!(fit.model.crc32(), alone.model.crc32());
                }
                let pairs = fit.history.iter().zip(&alone.history);
                for (fit, alone) in pairs {
                    let off = (fit.loss - alone.loss).abs();
                    prop_assert!(off <= 1e-4 * alone.loss.max(1.0), "{} {}", fit.loss, alone.loss);
                }
            }
        }
    }
}

/// Rows are copied in blocks of at most 64 MB; here they have more.
#[test]
fn rows_of_several_blocks_have_the_same_bits_on_any_number_of_ranks() {
    let (n, d, classes) = (300, 60_000, 3);
    let x = features(Kind::Bytes, n, d, 4);
    let labels: Vec<u32> = (0..n).map(|i| (i * i % classes) as u32).collect();
    let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
    for init in [Init::Zeros, Init::Torch { seed: 3 }] {
        let mut options = FitOptions {
            engine: EngineChoice::Gram,
            backend: Backend::Own,
            init: init.clone(),
            ..FitOptions::default()
        };
        options.sgd.epochs = 4;
        options.sgd.lr = crate::LearningRate::Auto;
        let fit_of = |samples: &Samples| fit(samples, &options, &mut |_| {}).unwrap().model.crc32();
        let mut expected = (init == Init::Zeros).then(|| fit_of(&train));
        for size in [1, 2, 3] {
            for found in on_ranks(size, |comm| fit_of(&train.columns_of(comm).unwrap())) {
                assert_eq!(
                    found,
                    *expected.get_or_insert(found),
                    "{size} ranks, {init}"
                );
            }
        }
    }
}

/// The sums over blocks of more than 4096 rows, too.
#[test]
fn many_rows_have_the_same_bits_on_any_number_of_ranks() {
    let (n, d, classes) = (4200, 256, 64);
    let x = random_values(n * d, 5);
    let labels: Vec<u32> = (0..n).map(|i| (i * 31 % classes) as u32).collect();
    let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
    let mut options = FitOptions {
        engine: EngineChoice::Gram,
        ..FitOptions::default()
    };
    options.sgd.epochs = 2;
    let mut expected = None;
    for size in [1, 2, 4] {
        let fit_of = |samples: &Samples| fit(samples, &options, &mut |_| {}).unwrap().model.crc32();
        for found in on_ranks(size, |comm| fit_of(&train.columns_of(comm).unwrap())) {
            assert_eq!(found, *expected.get_or_insert(found), "{size} ranks");
        }
    }
}

/// A row of weight 0 and a constant column do not coarsen the units of the others.
#[test]
fn rows_without_weight_and_constants_cost_no_precision() {
    let (n, d, classes) = (30, 300, 3);
    let mut x = random_values(n * d, 6);
    x[7 * d..8 * d].iter_mut().for_each(|x| *x *= 1e15);
    x.iter_mut().skip(5).step_by(d).for_each(|x| *x = 1e12);
    x[7 * d + 5] = 1e12;
    let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
    let mut options = FitOptions {
        engine: EngineChoice::Gram,
        backend: Backend::Own,
        init: Init::Zeros,
        ..FitOptions::default()
    };
    options.fit_intercept = false;
    options.weighting.samples = Some((0..n).map(|i| f64::from(i != 7)).collect());
    options.sgd.epochs = 30;
    options.sgd.lr = 0.01.into();
    // Without the constant, whose products are far beyond those of the other features.
    let alone = |x: &[f32]| {
        let train = Samples::from_labels(x, d, &labels, classes).unwrap();
        fit(&train, &options, &mut |_| {}).map(|fit| fit.history[29].loss)
    };
    let losses = |x: &[f32]| {
        let train = Samples::from_labels(x, d, &labels, classes).unwrap();
        on_ranks(2, |comm| {
            fit(&train.columns_of(comm).unwrap(), &options, &mut |_| {})
                .map(|fit| fit.history[29].loss)
        })
    };
    let mut tame = x.clone();
    tame.iter_mut().skip(5).step_by(d).for_each(|x| *x = 0.0);
    let expected = alone(&tame).unwrap();
    for found in losses(&tame) {
        let found = found.unwrap();
        assert!(
            (found - expected).abs() <= 1e-5 * expected,
            "{found} {expected}"
        );
    }
    // With it the units are those of the centred rows.
    let rows = crate::Rows::new(crate::MatRef::new(&x, n, d));
    let gemm = crate::linalg::gemm::Gemm::new(Backend::Own, 1);
    let weights = options.weighting.samples.clone().unwrap();
    let k = |rows: &crate::Rows| {
        crate::design::gram::GramMatrix::weighted(rows, Some(&weights), gemm, &mut |_| Ok(()))
            .unwrap()
    };
    let product = |k: &crate::design::gram::GramMatrix| -> Vec<f32> {
        // Differences of two rows: the constant, in u and v, has no share in them.
        let mut g = vec![0.0; n];
        (g[0], g[1]) = (1.0, -1.0);
        let mut z = vec![0.0; n];
        let batch = crate::design::rows::Batch::All;
        let mut scratch = crate::design::gram::Scratch::new(gemm);
        let to = crate::linalg::mat::MatMut::new(&mut z, 1, n);
        k.product(
            1.0,
            crate::MatRef::new(&g, 1, n),
            batch,
            0.0,
            to,
            &mut scratch,
        );
        vec![z[2] - z[3], z[4] - z[5]]
    };
    let expected = product(&k(&rows));
    let samples = Samples::from_labels(&x, d, &labels, classes).unwrap();
    for found in on_ranks(2, |comm| product(&k(samples.columns_of(comm).unwrap().x()))) {
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-3, "{found} {expected}");
        }
    }
}

/// No rank waits for one that has returned.
#[test]
fn an_error_of_one_rank_ends_the_fit_of_all() {
    let (n, d) = (6, 400);
    let mut x = features(Kind::Floats, n, d, 1);
    x[2 * d + 390] = f32::NAN;
    let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
    let errors = on_ranks(3, |comm| {
        let train = Samples::from_labels(&x, d, &labels, 2).unwrap();
        let train = train.columns_of(comm).unwrap();
        let options = FitOptions {
            engine: EngineChoice::Gram,
            ..FitOptions::default()
        };
        fit(&train, &options, &mut |_| {}).unwrap_err()
    });
    let text = errors[2].to_string();
    assert!(text.contains("NaN in row 2, feature 390"), "{text}");
    for error in &errors[..2] {
        assert!(matches!(error, Error::Rank { rank: 2 }), "{error}");
    }
}

#[test]
fn more_ranks_than_slabs_are_refused() {
    let x = random_values(4 * 100, 3);
    let errors = on_ranks(3, |comm| {
        let samples = Samples::from_labels(&x, 100, &[0, 1, 0, 1], 2).unwrap();
        samples
            .columns_of(comm)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    });
    for error in errors {
        assert!(
            error.contains("found 3") && error.contains("at most 2"),
            "{error}"
        );
    }
}

/// Sums of the smallest and the largest features neither overflow nor vanish.
#[test]
fn products_of_any_scale_are_those_of_one_process() {
    let (n, d) = (5, 300);
    for scale in [1e-15f32, 1e-6, 1.0, 1e6, 1e15] {
        let x: Vec<f32> = (random_values(n * d, 7).iter())
            .map(|x| x * scale)
            .collect();
        let rows = crate::Rows::new(crate::MatRef::new(&x, n, d));
        let gemm = crate::linalg::gemm::Gemm::new(Backend::Own, 1);
        let product = |rows: &crate::Rows| -> Vec<f32> {
            let k = crate::design::gram::GramMatrix::new(rows, gemm, &mut |_| Ok(())).unwrap();
            let mut scratch = crate::design::gram::Scratch::new(gemm);
            let identity: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
            let mut z = vec![0.0; n * n];
            let batch = crate::design::rows::Batch::All;
            let g = crate::MatRef::new(&identity, n, n);
            let to = crate::linalg::mat::MatMut::new(&mut z, n, n);
            k.product(1.0, g, batch, 0.0, to, &mut scratch);
            z
        };
        let alone = product(&rows);
        let largest = alone
            .iter()
            .fold(0.0f32, |most, value| most.max(value.abs()));
        let labels = [0, 1, 0, 1, 0];
        let samples = Samples::from_labels(&x, d, &labels, 2).unwrap();
        for found in on_ranks(3, |comm| product(samples.columns_of(comm).unwrap().x())) {
            for (found, alone) in found.iter().zip(&alone) {
                assert!(
                    (found - alone).abs() <= 1e-6 * largest,
                    "{scale}: {found} {alone}"
                );
            }
        }
    }
}

/// The sums of a fit have n(n + 1)/2 values for K, nm for K_val, (n + m)c for Z0 and cd/2 for W, and
/// some for each row, output and rank; none for an epoch.
#[test]
fn the_traffic_of_a_fit_is_that_of_its_formula() {
    let (n, m, d, classes) = (40, 11, 640, 3);
    let x = random_values((n + m) * d, 3);
    let labels: Vec<u32> = (0..n + m).map(|i| (i % classes) as u32).collect();
    for epochs in [1, 50] {
        let mut options = FitOptions {
            engine: EngineChoice::Gram,
            ..FitOptions::default()
        };
        options.sgd.epochs = epochs;
        options.sgd.lr = 1e-4.into();
        let size = 4;
        let counts = on_ranks(size, |comm| {
            let counted = Counted::new(comm);
            let all = |rows: std::ops::Range<usize>| {
                let x = &x[rows.start * d..rows.end * d];
                Samples::from_labels(x, d, &labels[rows], classes).unwrap()
            };
            let (train, val) = (all(0..n), all(n..n + m));
            let own = (
                train.columns_of(&counted).unwrap(),
                val.columns_of(&counted).unwrap(),
            );
            fit((&own.0, &own.1), &options, &mut |_| {}).unwrap();
            counted.counts()
        });
        let large = n * (n + 1) / 2 + n * m + (n + m) * classes + classes * d / 2;
        let of_rows = size * (4 * (n + m) + 2 * classes) + 4 * (n + m);
        for (calls, values) in counts {
            assert!(values >= large, "{values} of {large}");
            assert!(
                values <= large + of_rows + 16 * size,
                "{values} of {large} and {of_rows}"
            );
            assert!(calls <= 45, "{calls}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any number of ranks that share the rows gives the same bits, near those of a single process.
    #[test]
    fn a_fit_of_shared_rows_has_the_same_bits_on_any_number_of_ranks(
        n in 1537usize..2300,
        d in 1usize..20,
        classes in 2usize..5,
        scaled in any::<bool>(),
        validated in any::<bool>(),
        weighted in any::<bool>(),
        smoothed in any::<bool>(),
        intercept in any::<bool>(),
        batch_size in prop::option::of(prop::sample::select(vec![1usize, 7, 40, 700])),
        seed in 0u32..1000,
    ) {
        let (x, x_val) = (random_values(n * d, seed), random_values(30 * d, seed + 1));
        let label = |i: usize| (i * i % 7 % classes) as u32;
        let labels: Vec<u32> = (0..n).map(label).collect();
        let train = Samples::from_labels(&x, d, &labels, classes).unwrap();
        let val = Samples::from_labels(&x_val, d, &labels[..30], classes).unwrap();
        let mut options = FitOptions {
            engine: EngineChoice::Primal,
            backend: Backend::Own,
            standardize: match (scaled, intercept) {
                (false, _) => Standardize::None,
                (true, true) => Standardize::Both,
                (true, false) => Standardize::Scale,
            },
            init: if intercept { Init::Torch { seed } } else { Init::Zeros },
            fit_intercept: intercept,
            early_stopping: validated.then_some(3),
            ..FitOptions::default()
        };
        options.sgd.epochs = if batch_size == Some(1) { 1 } else { 4 };
        options.sgd.momentum = 0.5;
        options.sgd.batch_size = batch_size;
        options.sgd.lr = crate::LearningRate::Auto;
        if weighted {
            options.weighting.samples = Some((0..n).map(|i| (i % 3) as f64).collect());
        }
        options.weighting.label_smoothing = if smoothed { 0.1 } else { 0.0 };
        let fits = |train: &Samples| match validated {
            true => fit((train, &val), &options, &mut |_| {}),
            false => fit(train, &options, &mut |_| {}),
        };
        let alone = fits(&train).unwrap();
        let mut expected = None;
        for size in [1, 2, 3, 4] {
            let results = on_ranks(size, |comm| {
                let fit = fits(&train.rows_of(comm).unwrap()).unwrap();
                (found(&fit.model, fit.history.iter().map(|epoch| epoch.loss)), fit)
            });
            for (bits, fit) in results {
                prop_assert_eq!(&bits, expected.get_or_insert(bits.clone()), "{} ranks", size);
                prop_assert!((fit.lr / alone.lr - 1.0).abs() < 1e-4, "{} {}", fit.lr, alone.lr);
                for (fit, alone) in fit.history.iter().zip(&alone.history) {
                    let off = (fit.loss - alone.loss).abs();
                    prop_assert!(off <= 1e-4 * alone.loss.max(1.0), "{} {}", fit.loss, alone.loss);
                }
            }
        }
    }
}
