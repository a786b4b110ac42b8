//! A fit that is stopped after any epoch or step resumes to the bits of an uninterrupted one, for
//! every optimizer and engine. Damaged checkpoints and those of other fits are refused.

mod common;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::design::samples::Splits;
use flowreg::io::tensors::{self, Numbers, Tensor};
use flowreg::loss::weights::{ClassWeights, SampleWeights};
use flowreg::path::{Folds, Optimizer, PathFit, PathOptions, Penalty, fit_path};
use flowreg::{Checkpoints, Decay, Error, Event, Every, Fit, FitOptions, Result, Schedule};
use proptest::prelude::*;

fn checkpoints(path: &Path, every: Option<Every>, resume: bool) -> Option<Checkpoints> {
    let path = path.to_path_buf();
    Some(Checkpoints {
        path,
        every,
        resume,
    })
}

/// Fit with a checkpoint after every epoch. `epoch` is called at the end of each epoch, before its
/// checkpoint is saved.
fn fit(
    splits: Splits,
    options: &FitOptions,
    path: &Path,
    resume: bool,
    mut epoch: impl FnMut(usize) + Send,
) -> Result<Fit> {
    let options = FitOptions {
        checkpoints: checkpoints(path, Some(Every::Epochs(1)), resume),
        ..options.clone()
    };
    flowreg::fit(splits, &options, &mut |event| {
        if let Event::Epoch(e) = event {
            epoch(e.epoch);
        }
    })
}

/// Options of SGD, and whether there are validation rows.
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
    let engine = prop::sample::select(vec![EngineChoice::Gram, EngineChoice::Primal]);
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
    fn resumed_sgd_has_the_bits_of_an_uninterrupted_fit(
        (options, validation) in options(), classes in 2usize..4, stop in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (saved, stopped) = (dir.path().join("saved"), dir.path().join("stopped"));
        let (problem, other) = (Problem::random(11, 7, classes, 1), Problem::random(5, 7, classes, 2));
        let (train, other) = (problem.samples(), other.samples());
        let splits = Splits { train: &train, validation: validation.then_some(&other) };
        let whole = flowreg::fit(splits, &options, &mut |_| {}).unwrap();

        // The file that a process leaves if it is killed during this epoch.
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
fn checkpoints_of_other_fits_are_refused_naming_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(11, 7, 3, 1);
    let train = problem.samples();
    let mut options = FitOptions {
        engine: EngineChoice::Gram,
        ..FitOptions::default()
    };
    options.sgd.momentum = 0.9;
    let nothing = |_| ();
    fit((&train).into(), &options, &path, false, nothing).unwrap();

    type Change = fn(&mut FitOptions);
    let changes: [(&str, Change); 11] = [
        ("`lr`: found 0.01, expected 0.02", |o| {
            o.sgd.lr = 0.02.into();
        }),
        ("`engine`: found gram, expected primal", |o| {
            o.engine = EngineChoice::Primal;
        }),
        ("`momentum`", |o| o.sgd.momentum = 0.0),
        ("`epochs`", |o| o.sgd.epochs = 200),
        ("`batch_size`", |o| o.sgd.batch_size = Some(5)),
        ("`init`", |o| o.init = flowreg::Init::Zeros),
        ("`seed`", |o| o.sgd.seed = 1),
        ("`weight_decay`", |o| o.sgd.weight_decay = 1e-3),
        ("`backend`", |o| {
            o.backend = flowreg::linalg::gemm::Backend::Own
        }),
        ("`class_weight`", |o| {
            o.weighting.classes = ClassWeights::Balanced
        }),
        ("`label_smoothing`", |o| o.weighting.label_smoothing = 0.1),
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
    // Another number of threads is accepted.
    options.threads = Some(3);
    fit((&train).into(), &options, &path, true, nothing).unwrap();
}

/// Nothing but the option itself tells these fits apart.
#[test]
fn a_checkpoint_without_an_intercept_is_refused_by_a_fit_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let problem = Problem::random(11, 7, 3, 1);
    let train = problem.samples();
    for fit_intercept in [false, true] {
        let path = dir.path().join(fit_intercept.to_string());
        let mut options = FitOptions {
            init: flowreg::Init::Zeros,
            backend: flowreg::Backend::Own,
            fit_intercept,
            ..FitOptions::default()
        };
        fit((&train).into(), &options, &path, false, |_| ()).unwrap();
        options.fit_intercept = !fit_intercept;
        let error = fit((&train).into(), &options, &path, true, |_| ()).unwrap_err();
        let part = format!("`fit_intercept`: found {fit_intercept}");
        assert!(error.to_string().contains(&part), "{error}");
    }
}

/// Every flipped bit and every truncated length of a checkpoint.
#[test]
fn damaged_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(4, 3, 2, 1);
    let train = problem.samples();
    let mut options = FitOptions {
        engine: EngineChoice::Primal,
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
    for len in 0..good.len() {
        refused(&good[..len]);
    }
    refused(&[&good[..], b"\0"].concat());
}

#[test]
fn a_trajectory_cannot_be_resumed() {
    let problem = Problem::random(4, 3, 2, 1);
    let options = FitOptions {
        emit_coordinates: true,
        ..FitOptions::default()
    };
    let train = problem.samples();
    for resume in [false, true] {
        let error = fit((&train).into(), &options, Path::new("c"), resume, |_| ()).unwrap_err();
        for part in ["`emit_coordinates`", "`checkpoints` or `resume`"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(error.exit_code(), 64);
    }
}

/// Run a converged fit with a checkpoint after every step. `step` is called after each step, when its
/// checkpoint has been saved.
fn fit_path_saving(
    splits: Splits,
    options: &PathOptions,
    path: &Path,
    resume: bool,
    mut step: impl FnMut(usize) + Send,
) -> Result<PathFit> {
    let options = PathOptions {
        checkpoints: checkpoints(path, Some(Every::Epochs(1)), resume),
        ..options.clone()
    };
    let mut steps = 0;
    fit_path(splits, &options, &mut |progress| {
        if let Event::Step { .. } = progress {
            step(steps);
            steps += 1;
        }
    })
}

/// Options of a converged fit, and whether there are validation rows.
fn converge_options() -> impl Strategy<Value = (PathOptions, bool)> {
    let optimizer = prop::sample::select(vec![Optimizer::Newton, Optimizer::Lbfgs]);
    let engine = prop::sample::select(vec![EngineChoice::Gram, EngineChoice::Primal]);
    let path = Penalty::Path {
        from: 1.0,
        to: 1e-4,
        count: 5,
    };
    let folds = |one_standard_error| {
        Some(Folds {
            one_standard_error,
            ..Folds::stratified(3, 1)
        })
    };
    let way = prop::sample::select(vec![
        (Penalty::Value(0.01), None, false),
        (Penalty::Value(0.0), None, true),
        (path.clone(), None, true),
        (Penalty::Auto, None, true),
        (path, folds(true), false),
        (Penalty::Auto, folds(false), true),
    ]);
    let classes = prop::sample::select(vec![
        ClassWeights::Equal,
        ClassWeights::Given(vec![0.0, 1.0, 2.0]),
    ]);
    // A tolerance below rounding, where line searches stall.
    let tolerance = prop::sample::select(vec![1e-5, 1e-16]);
    (optimizer, engine, way, any::<bool>(), classes, tolerance).prop_map(
        |(optimizer, engine, (penalty, folds, validation), refit, classes, tolerance)| {
            let options = PathOptions {
                optimizer,
                engine,
                penalty,
                folds,
                refit_all: refit && validation,
                weighting: SampleWeights {
                    classes,
                    ..SampleWeights::default()
                },
                tolerance,
                threads: Some(2),
                ..PathOptions::default()
            };
            (options, validation)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn resumed_solves_have_the_bits_of_an_uninterrupted_fit(
        (options, validation) in converge_options(), tall in any::<bool>(),
        stops in prop::collection::vec(any::<prop::sample::Index>(), 2),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("saved");
        let d = if tall && options.engine == EngineChoice::Primal { 7 } else { 40 };
        let (problem, other) = (Problem::random(20, d, 3, 1), Problem::random(9, d, 3, 2));
        let (train, other) = (problem.samples(), other.samples());
        let splits = Splits { train: &train, validation: validation.then_some(&other) };
        let mut steps = 0;
        let whole = fit_path(splits, &options, &mut |progress| {
            steps += usize::from(matches!(progress, Event::Step { .. }));
        }).unwrap();

        // The file that a process leaves if it is killed after this step, and the step at which it
        // was saved, which is not the last of a solve.
        let stops: HashSet<usize> = stops.iter().map(|stop| stop.index(steps)).collect();
        let stopped = |stop: usize| dir.path().join(stop.to_string());
        let (mut file, mut last, mut saved_at) = (None, 0, HashMap::new());
        let watched = fit_path_saving(splits, &options, &saved, false, |step| {
            let now = std::fs::metadata(&saved).ok().map(|about| about.ino());
            if now != file {
                (file, last) = (now, step);
            }
            if stops.contains(&step) && saved.exists() {
                std::fs::copy(&saved, stopped(step)).unwrap();
            }
            saved_at.insert(step, last);
        }).unwrap();
        let mut fits = vec![watched];
        for &stop in &stops {
            let mut heard = 0;
            fits.push(fit_path_saving(splits, &options, &stopped(stop), true, |_| heard += 1).unwrap());
            prop_assert_eq!(heard, steps - saved_at[&stop]);
        }
        for fit in fits {
            prop_assert_eq!(fit.model.to_safetensors(), whole.model.to_safetensors());
            prop_assert_eq!(&fit.path, &whole.path);
            prop_assert_eq!(&fit.steps, &whole.steps);
            prop_assert_eq!(fit.report, whole.report);
            prop_assert_eq!((fit.l2, fit.engine), (whole.l2, whole.engine));
        }
    }
}

/// A fit that is stopped while the matrices of the refit are computed keeps the chosen penalty.
#[test]
fn a_resumed_refit_keeps_the_chosen_penalty() {
    let dir = tempfile::tempdir().unwrap();
    let (saved, stopped) = (dir.path().join("saved"), dir.path().join("stopped"));
    let (problem, other) = (Problem::random(20, 40, 3, 1), Problem::random(9, 40, 3, 2));
    let (train, validation) = (problem.samples(), other.samples());
    let splits = Splits::from((&train, &validation));
    let folds = Folds {
        one_standard_error: true,
        ..Folds::stratified(3, 1)
    };
    for (optimizer, folds) in [(Optimizer::Newton, None), (Optimizer::Lbfgs, Some(folds))] {
        let _ = std::fs::remove_file(&saved);
        let options = |checkpoints| PathOptions {
            optimizer,
            folds: folds.clone(),
            penalty: Penalty::Auto,
            refit_all: true,
            checkpoints,
            ..PathOptions::default()
        };
        let mut engines = 0;
        let whole = fit_path(
            splits,
            &options(checkpoints(&saved, None, false)),
            &mut |p| {
                engines += usize::from(matches!(p, Event::Engine(_)));
                if engines == 2 && saved.exists() && !stopped.exists() {
                    std::fs::copy(&saved, &stopped).unwrap();
                }
            },
        )
        .unwrap();
        let (mut engines, mut steps) = (0, 0);
        let resumed = fit_path(
            splits,
            &options(checkpoints(&stopped, None, true)),
            &mut |p| {
                engines += usize::from(matches!(p, Event::Engine(_)));
                steps += usize::from(matches!(p, Event::Step { .. }));
            },
        )
        .unwrap();
        assert_eq!((engines, steps), (1, whole.steps.len()));
        assert_eq!(resumed.model.to_safetensors(), whole.model.to_safetensors());
        assert_eq!(resumed.path, whole.path);
        assert_eq!(
            (resumed.l2, resumed.report, resumed.steps),
            (whole.l2, whole.report, whole.steps)
        );
        std::fs::remove_file(&stopped).unwrap();
    }
}

/// The options of a fit in Gram coordinates that was stopped at its last saved step.
fn stopped_fit(path: &Path, problem: &Problem, optimizer: Optimizer) -> PathOptions {
    let options = PathOptions {
        optimizer,
        engine: EngineChoice::Gram,
        penalty: Penalty::Path {
            from: 1.0,
            to: 0.01,
            count: 3,
        },
        threads: Some(1),
        ..PathOptions::default()
    };
    let train = problem.samples();
    fit_path_saving((&train, &train).into(), &options, path, false, |_| ()).unwrap();
    options
}

#[test]
fn checkpoints_of_other_converged_fits_are_refused_naming_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(11, 15, 3, 1);
    let train = problem.samples();
    let options = stopped_fit(&path, &problem, Optimizer::Newton);
    let splits = Splits::from((&train, &train));
    fit_path_saving(splits, &options, &path, true, |_| ()).unwrap();

    type Change = fn(&mut PathOptions);
    let changes: [(&str, Change); 11] = [
        ("`optimizer`: found newton, expected lbfgs", |o| {
            o.optimizer = Optimizer::Lbfgs
        }),
        ("`engine`: found gram, expected primal", |o| {
            o.engine = EngineChoice::Primal
        }),
        ("`l2`: found 1:0.01:3, expected 0.1", |o| {
            o.penalty = Penalty::Value(0.1)
        }),
        ("`folds`", |o| o.folds = Some(Folds::stratified(2, 0))),
        // Other rows, whose K would differ too.
        (
            "`engine`: found gram, expected gram, `refit_all` all",
            |o| o.refit_all = true,
        ),
        ("`tolerance`", |o| o.tolerance = 1e-6),
        ("`max_iterations`", |o| o.max_iterations = 1001),
        ("`backend`", |o| {
            o.backend = flowreg::linalg::gemm::Backend::Own
        }),
        ("`class_weight`", |o| {
            o.weighting.classes = ClassWeights::Given(vec![1.0, 1.0, 2.0])
        }),
        ("`sample_weight`", |o| {
            o.weighting.samples = Some(vec![1.0; 11])
        }),
        ("`label_smoothing`", |o| o.weighting.label_smoothing = 0.1),
    ];
    for (part, change) in changes {
        let mut other = options.clone();
        change(&mut other);
        let error = fit_path_saving(splits, &other, &path, true, |_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let other = Problem::random(11, 15, 3, 2);
    let other = other.samples();
    for (part, splits) in [
        ("training rows", (&other, &train)),
        ("validation rows", (&train, &other)),
    ] {
        let error = fit_path_saving(splits.into(), &options, &path, true, |_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let sgd = FitOptions::default();
    let error = fit(splits, &sgd, &path, true, |_| ()).unwrap_err();
    let part = "`optimizer`: found newton, expected sgd";
    assert!(error.to_string().contains(part), "{error}");
}

/// Checkpoints with flipped bits, and with correct checksums but invalid content.
#[test]
fn damaged_and_forged_checkpoints_of_converged_fits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(6, 8, 3, 1);
    let train = problem.samples();
    for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
        let options = stopped_fit(&path, &problem, optimizer);
        let good = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            fit_path_saving((&train, &train).into(), &options, &path, true, |_| ())
        };
        let refused = |bytes: &[u8], what: &str| match read(bytes) {
            Err(error @ (Error::Tensors { .. } | Error::Format { .. })) => error,
            other => panic!("{what}: {other:?}"),
        };
        for bit in (0..8 * good.len()).step_by(31) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            refused(&bad, "a bit");
        }
        (0..good.len())
            .step_by(5)
            .for_each(|len| drop(refused(&good[..len], "cut short")));

        let (all, about) = tensors::read_all(&good).unwrap();
        let about = about.unwrap();
        let forged = |tensors: &[Tensor]| tensors::write(tensors, about.clone());
        assert_eq!(forged(&all), good);
        assert!(read(&good).is_ok());
        for i in 0..all.len() {
            let what = &all[i].name;
            let mut some = all.clone();
            some.remove(i);
            refused(&forged(&some), what);
            let mut renamed = all.clone();
            renamed[i].name.push('_');
            refused(&forged(&renamed), what);
            let Numbers::F64(values) = &all[i].numbers else {
                unreachable!("in Gram coordinates all is f64")
            };
            let with = |values: Vec<f64>| {
                let mut other = all.clone();
                other[i].shape = vec![values.len()];
                other[i].numbers = Numbers::F64(values.into());
                forged(&other)
            };
            refused(&with([&values[..], &[0.0]].concat()), what);
            // A changed point resumes as another fit, which ends. Changed counts or records must be
            // refused.
            for value in [f64::NAN, -1.0, 0.5, 1e300] {
                let result = read(&with(vec![value; values.len()]));
                let counts = ["since_best", "iteration", "logits", "solves", "searched"];
                if counts.iter().any(|name| what.ends_with(name)) {
                    assert!(
                        matches!(result, Err(Error::Format { .. })),
                        "{what} {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn more_solves_than_the_fit_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let problem = Problem::random(6, 8, 3, 1);
    let train = problem.samples();
    let options = stopped_fit(&path, &problem, Optimizer::Newton);
    let good = std::fs::read(&path).unwrap();
    let (mut all, about) = tensors::read_all(&good).unwrap();
    let searched = all.iter_mut().find(|tensor| tensor.name == "searched");
    let searched = searched.unwrap();
    let Numbers::F64(values) = &searched.numbers else {
        panic!("rows are f64")
    };
    // Two of three penalties are recorded: add a third record.
    let columns = searched.shape[1];
    let mut last = values[columns..].to_vec();
    assert_eq!(values.len(), 2 * columns);
    last[1] = 0.01;
    searched.numbers = Numbers::F64([&values[..], &last].concat().into());
    searched.shape[0] = 3;
    std::fs::write(&path, tensors::write(&all, about.unwrap())).unwrap();
    let error =
        fit_path_saving((&train, &train).into(), &options, &path, true, |_| ()).unwrap_err();
    assert!(error.to_string().contains("3 solves"), "{error}");
}
