//! A fit that was stopped after any epoch goes on to the bits of an unbroken one, and a
//! checkpoint of another fit, or a damaged one, is refused.

mod common;

use std::path::Path;

use common::Problem;
use flowreg::data::samples::Splits;
use flowreg::engine::Choice;
use flowreg::{Checkpoints, Decay, Error, Event, Every, Fit, FitOptions, Result, Schedule};
use proptest::prelude::*;

/// Fit with a checkpoint after every epoch; `epoch` is called with the file as it is when an
/// epoch ends, before that one is saved.
fn fit(
    splits: Splits,
    options: &FitOptions,
    path: &Path,
    resume: bool,
    mut epoch: impl FnMut(usize) + Send,
) -> Result<Fit> {
    let options = FitOptions {
        checkpoints: Some(Checkpoints {
            path: path.to_path_buf(),
            every: Some(Every::Epochs(1)),
            resume,
        }),
        ..options.clone()
    };
    flowreg::fit(splits, &options, &mut |event| {
        if let Event::Epoch(e) = event {
            epoch(e.epoch);
        }
    })
}

/// Options and whether there are validation rows.
fn options() -> impl Strategy<Value = (FitOptions, bool)> {
    let momentum = prop::sample::select(vec![(0.0, 0.0), (0.9, 0.0), (0.5, 0.3)]);
    let schedule = prop::sample::select(vec![
        Decay::Constant,
        Decay::Cosine,
        Decay::Step {
            size: 3,
            gamma: 0.5,
        },
    ]);
    let engine = prop::sample::select(vec![Choice::Gram, Choice::Primal]);
    (
        (momentum, any::<bool>(), schedule, 0usize..3, engine),
        (prop::option::of(1usize..12), any::<bool>(), 1usize..12),
        (prop::option::of(1usize..5), any::<bool>(), 0u32..5),
    )
        .prop_map(|(a, b, c)| {
            let ((momentum, dampening), nesterov, decay, warmup, engine) = a;
            let (batch_size, weight_decay, epochs) = b;
            let (early_stopping, validation, seed) = c;
            let mut options = FitOptions {
                engine,
                early_stopping: early_stopping.filter(|_| validation),
                threads: Some(2),
                ..FitOptions::default()
            };
            let sgd = &mut options.sgd;
            sgd.lr = 0.5.into();
            (sgd.momentum, sgd.dampening) = (momentum, dampening);
            sgd.nesterov = nesterov && momentum > 0.0 && dampening == 0.0;
            sgd.weight_decay = if weight_decay { 0.01 } else { 0.0 };
            (sgd.batch_size, sgd.epochs, sgd.seed) = (batch_size, epochs, seed);
            sgd.schedule = Schedule { decay, warmup };
            (options, validation)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_bits_are_those_of_an_unbroken_fit(
        (options, validation) in options(), classes in 2usize..4, stop in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (saved, stopped) = (dir.path().join("saved"), dir.path().join("stopped"));
        let (problem, other) = (Problem::random(11, 7, classes, 1), Problem::random(5, 7, classes, 2));
        let (train, other) = (problem.samples(), other.samples());
        let splits = Splits { train: &train, validation: validation.then_some(&other) };
        let whole = flowreg::fit(splits, &options, &mut |_| {}).unwrap();

        // The file as a process would leave it that is killed while this epoch is on.
        let stop = stop.index(whole.history.len());
        let watched = fit(splits, &options, &saved, false, |epoch| {
            if epoch == stop && epoch > 0 {
                std::fs::copy(&saved, &stopped).unwrap();
            }
        }).unwrap();
        let mut first = None;
        let resumed = fit(splits, &options, &stopped, true, |epoch| { first.get_or_insert(epoch); }).unwrap();
        prop_assert_eq!(first, Some(stop));
        for fit in [watched, resumed] {
            prop_assert_eq!(fit.model.to_safetensors(), whole.model.to_safetensors());
            prop_assert_eq!(&fit.history, &whole.history);
            prop_assert_eq!(fit.best_epoch, whole.best_epoch);
        }
    }
}

#[test]
fn checkpoints_of_other_fits_are_refused_by_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(11, 7, 3, 1);
    let train = problem.samples();
    let mut options = FitOptions {
        engine: Choice::Gram,
        ..FitOptions::default()
    };
    options.sgd.momentum = 0.9;
    let nothing = |_| ();
    fit((&train).into(), &options, &path, false, nothing).unwrap();

    type Change = fn(&mut FitOptions);
    let changes: [(&str, Change); 9] = [
        ("--lr: found 0.01, expected 0.02", |o| {
            o.sgd.lr = 0.02.into();
        }),
        ("--engine: found gram, expected primal", |o| {
            o.engine = Choice::Primal;
        }),
        ("--momentum", |o| o.sgd.momentum = 0.0),
        ("--epochs", |o| o.sgd.epochs = 200),
        ("--batch-size", |o| o.sgd.batch_size = Some(5)),
        ("--init", |o| o.init = flowreg::Init::Zeros),
        ("--seed", |o| o.sgd.seed = 1),
        ("--weight-decay", |o| o.sgd.weight_decay = 1e-3),
        ("--gemm", |o| o.backend = flowreg::gemm::Backend::Own),
    ];
    for (part, change) in changes {
        let mut other = options.clone();
        change(&mut other);
        let error = fit((&train).into(), &other, &path, true, nothing).unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    for (part, other) in [
        ("training rows", Problem::random(11, 7, 3, 2)),
        ("training rows", Problem::random(12, 7, 3, 1)),
    ] {
        let other = other.samples();
        let error = fit((&other).into(), &options, &path, true, nothing).unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let error = fit((&train, &train).into(), &options, &path, true, nothing).unwrap_err();
    assert!(error.to_string().contains("validation rows"), "{error}");
    // The number of threads may change.
    options.threads = Some(3);
    fit((&train).into(), &options, &path, true, nothing).unwrap();
}

/// Every bit and every length of a checkpoint.
#[test]
fn damaged_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(4, 3, 2, 1);
    let train = problem.samples();
    let mut options = FitOptions {
        engine: Choice::Primal,
        threads: Some(1),
        ..FitOptions::default()
    };
    options.sgd.epochs = 3;
    fit((&train).into(), &options, &path, false, |_| ()).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = fit((&train).into(), &options, &path, true, |_| ()).unwrap_err();
        assert!(
            matches!(error, Error::Tensors { .. } | Error::Format { .. }),
            "{error}"
        );
        assert_eq!(error.exit_code(), 65);
    };
    for bit in 0..8 * good.len() {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refused(&bad);
    }
    (0..good.len()).for_each(|len| refused(&good[..len]));
    refused(&[&good[..], b"\0"].concat());
}

#[test]
fn a_trajectory_cannot_be_resumed() {
    let problem = Problem::random(4, 3, 2, 1);
    let options = FitOptions {
        save_trajectory: Some("trajectory.npy".into()),
        ..FitOptions::default()
    };
    let train = problem.samples();
    let error = fit((&train).into(), &options, Path::new("c"), false, |_| ()).unwrap_err();
    assert!(error.to_string().contains("--save-trajectory"), "{error}");
}
