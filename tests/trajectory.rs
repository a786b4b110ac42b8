//! The saved trajectory: it rebuilds the model of every epoch; files of other fits are refused.

mod common;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::{Error, Event, Fit, FitOptions, Init, Result, Sgd, Splits};
use flowreg::{Trajectory, TrajectoryWriter};
use std::ops::ControlFlow;
use std::path::Path;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A fit whose states are written to `path`.
fn record<'a>(data: impl Into<Splits<'a>>, options: &FitOptions, path: &Path) -> Result<Fit> {
    let (mut writer, mut written) = (TrajectoryWriter::create(path)?, Ok(()));
    let mut states = 0;
    let fit = flowreg::fit(data, options, &mut |event| {
        if let Event::Coordinates { epochs, values } = event {
            assert_eq!(epochs, states);
            states += 1;
            written = writer.push(&values);
        }
        if written.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    written?;
    let fit = fit?;
    writer.finish()?;
    Ok(fit)
}

#[test]
fn a_trajectory_rebuilds_the_model_of_every_epoch_to_the_bit() {
    let dir = scratch();
    let problem = Problem::random(14, 40, 4, 5);
    let all = problem.samples();
    let two = problem.samples().first_classes(2).unwrap();
    assert!(two.x().contiguous().is_none());
    let init = Init::Torch { seed: 8 };
    let plain = Sgd {
        lr: 0.5.into(),
        epochs: 6,
        ..Sgd::default()
    };
    let heavy = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 0.05,
        batch_size: Some(5),
        ..plain.clone()
    };
    let cases = [
        (&all, plain.clone(), true),
        (&two, heavy, true),
        (&all, plain, false),
    ];
    for (number, (samples, sgd, fit_intercept)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.npy"));
        let mut options = FitOptions {
            sgd,
            init: init.clone(),
            emit_coordinates: true,
            fit_intercept,
            ..FitOptions::default()
        };
        let fit = record(samples, &options, &path).unwrap();
        let trajectory = Trajectory::open(&path, samples, &init).unwrap();
        assert_eq!(trajectory.epochs(), 6);
        assert_eq!(trajectory.model(6).unwrap(), fit.model);
        options.emit_coordinates = false;
        options.engine = EngineChoice::Gram;
        for epochs in 0..6 {
            options.sgd.epochs = epochs;
            let fit = flowreg::fit(samples, &options, &mut |_| {}).unwrap();
            assert_eq!(trajectory.model(epochs).unwrap(), fit.model, "{epochs}");
        }
        let error = trajectory.model(7).unwrap_err().to_string();
        assert!(error.contains("0..=6"), "{error}");
    }
    // The three files, and no temporary file.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn early_stopping_shortens_the_trajectory() {
    let dir = scratch();
    let path = dir.path().join("t.npy");
    let (problem, other) = (Problem::random(8, 30, 3, 5), Problem::random(20, 30, 3, 6));
    let (train, validation) = (problem.samples(), other.samples());
    let mut options = FitOptions {
        emit_coordinates: true,
        early_stopping: Some(2),
        ..FitOptions::default()
    };
    options.sgd.lr = 2.0.into();
    options.sgd.epochs = 1000;
    let fit = record((&train, &validation), &options, &path).unwrap();
    assert!(fit.history.len() < 1000);
    let trajectory = Trajectory::open(&path, &train, &options.init).unwrap();
    assert_eq!(trajectory.epochs(), fit.history.len());
    let best = fit.best_epoch.unwrap() + 1;
    assert_eq!(trajectory.model(best).unwrap(), fit.model);
}

#[test]
fn trajectories_of_other_fits_are_refused() {
    let dir = scratch();
    let path = dir.path().join("t.npy");
    let problem = Problem::random(14, 9, 4, 5);
    let samples = problem.samples();
    let mut options = FitOptions {
        emit_coordinates: true,
        engine: EngineChoice::Primal,
        ..FitOptions::default()
    };
    options.sgd.epochs = 3;
    let error = record(&samples, &options, &path).unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error}");
    assert!(error.to_string().contains("the gram engine"), "{error}");
    assert!(!path.exists());

    options.engine = EngineChoice::Auto;
    // Rows or classes of another fit; the features are checked with the initial weight.
    record(&samples, &options, &path).unwrap();
    for other in [Problem::random(13, 9, 4, 5), Problem::random(14, 9, 3, 5)] {
        let error = Trajectory::open(&path, &other.samples(), &options.init).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        for part in ["t.npy", "shape", "4 x 61"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    let other = Init::Torch { seed: 77 };
    let error = Trajectory::open(&path, &samples, &other).unwrap_err();
    assert!(error.to_string().contains("another start"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 3, 64, 127, 128, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Trajectory::open(&path, &samples, &options.init).unwrap_err();
        assert!(error.to_string().contains("t.npy"), "{error}");
    }
    // Existing files of either name are not overwritten.
    for (name, message) in [
        ("mine.npy", "mine.npy: already exists"),
        (".mine.npy.partial", ".mine.npy.partial: name: found"),
    ] {
        let mine = dir.path().join(name);
        std::fs::write(&mine, "days of work").unwrap();
        let error = record(&samples, &options, &dir.path().join("mine.npy")).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(std::fs::read(&mine).unwrap(), b"days of work");
        std::fs::remove_file(&mine).unwrap();
    }
    let file = dir.path().join("t.npy/t.npy");
    let error = record(&samples, &options, &file).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // States of two fits in one file, which is then not there.
    let path = dir.path().join("two.npy");
    let mut writer = TrajectoryWriter::create(&path).unwrap();
    writer.push(&[1.0; 5]).unwrap();
    let error = writer.push(&[1.0; 6]).unwrap_err().to_string();
    assert!(error.contains("6 values, expected 5"), "{error}");
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn one_process_writes_a_trajectory_and_its_remains_are_replaced() {
    let dir = scratch();
    let path = dir.path().join("t.npy");
    let partial = dir.path().join(".t.npy.partial");
    let mut writer = TrajectoryWriter::create(&path).unwrap();
    writer.push(&[1.0; 5000]).unwrap();
    let error = TrajectoryWriter::create(&path).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    let left = std::fs::read(&partial).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    // As after a kill: the lock is free, the temporary file is there.
    for length in [0, 128, left.len()] {
        std::fs::write(&partial, &left[..length.min(left.len())]).unwrap();
        let mut writer = TrajectoryWriter::create(&path).unwrap();
        writer.push(&[2.0; 3]).unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::remove_file(&path).unwrap();
    }
}
