//! A run: opens the rows, fits, calibrates and evaluates the model, and writes the files.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use crate::cli::fit::args::Args;
use crate::cli::fit::converged;
use crate::cli::fit::data::Data;
use crate::cli::fit::options::{checkpoints, fit_options, of_sgd, sources};
use crate::cli::fit::print::{
    converge_with_progress, end_laps_of_fit, fit_with_progress, print_evaluation, print_fitted,
    print_header, print_processes, print_sgd, print_written,
};
use crate::cli::ranks;
use crate::cli::report::{Evaluated, Report};
use crate::cli::run_files;
use crate::cli::run_files::{SolverSummary, Summary};
use crate::comm::Comm;
use crate::data::checks;
use crate::design::plan::EngineKind;
use crate::design::scaler::{Scaler, Standardize};
use crate::io::npy;
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::kernels::Isa;
use crate::loss::weights::SampleWeights;
use crate::model::calibrate::calibrate_logits;
use crate::model::{About, Logits, MODEL};
use crate::path::{Optimizer, PathOptions};
use crate::solver::report::Step;
use crate::threads;
use crate::{
    Checkpoints, Epoch, Error, Evaluation, FitOptions, Init, Model, PathEntry, Result, Samples,
    Scores, Splits, cli,
};

pub(super) fn run(args: Args) -> Result<()> {
    let comm = ranks::join()?;
    let mut stopwatch = cli::Stopwatch::new();
    let memory = args.timings.then(cli::PeakMemory::watch);
    let out = args.out.as_deref().expect("clap requires it");
    let mut plan = Plan::new(&args, out)?;
    if let Some(comm) = comm {
        plan.emit_on_first_only(comm);
        #[cfg(feature = "mpi")]
        if let Some(limit) = args.timeout {
            ranks::watch(limit);
        }
    }
    let sources = sources(&args);
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    let staging = match comm {
        Some(comm) if comm.rank() > 0 => {
            cli::mute();
            None
        }
        _ => Some(Staging::begin(
            out,
            OutputKind::Run,
            Overwrite::forced(args.force),
            &sources,
        )?),
    };
    // A process that writes no output needs a place for --demo.
    let own = match &staging {
        Some(_) => None,
        None => {
            let place = std::env::temp_dir();
            let created = tempfile::tempdir();
            Some(created.map_err(Error::io(&place, "create a folder"))?)
        }
    };
    let own = own.as_ref().map(tempfile::TempDir::path);
    let scratch = (staging.as_ref().map(Staging::dir).or(own)).expect("one of them");
    let pool = threads::pool(ranks::threads(args.threads))?;
    let data = pool.install(|| Data::open(&args, scratch))?;
    if let Optimize::Sgd(options) = &mut plan.how {
        data.read_init(&mut options.init)?;
    }
    let classes = data.classes(plan.classes)?;
    let train = data.samples(data.train, classes)?;
    let val = (data.val.map(|val| data.samples(val, classes))).transpose()?;
    let eval = data.samples(data.eval, classes)?;
    let labels_path = data.splits[data.train].1.labels_path();
    let names = &data.class_names;
    checks::refuse_one_class(labels_path, train.labels(), names)?;
    let from_one = match args.dataset {
        Some(_) => "prepare the dataset again with --labels-from 1",
        None => "give --labels-from 1",
    };
    if let Some(sentence) = checks::absent_classes(train.labels(), classes, names, from_one) {
        cli::warn(sentence);
    }
    plan.set_weights(&args, data.splits[data.train].1.labels(), &train)?;
    if let (Some(place), Some(val)) = (data.val, &val) {
        data.warn_of_missing_classes(&train, place, val);
    }
    if data.val != Some(data.eval) {
        data.warn_of_missing_classes(&train, data.eval, &eval);
    }
    if let Some(comm) = comm {
        let work = plan.fingerprint(&args, &data, [Some(&train), val.as_ref()]);
        ranks::refuse_others(comm, &work)?;
    }
    let own_train = comm.map(|comm| train.share_of(comm)).transpose()?;
    // Gram coordinates need the columns of the validation rows; all else needs whole rows.
    let columns = own_train.as_ref().is_some_and(Samples::shares_columns);
    if own_train.is_some() && !columns && (args.save_trajectory || args.save_coordinates) {
        return Err(Error::Options {
            option: if args.save_trajectory {
                "--save-trajectory"
            } else {
                "--save-coordinates"
            },
            found: "Gram coordinates of rows that processes share".to_string(),
            expected: "at most as many rows as features, or a run without mpirun".to_string(),
        });
    }
    let own_val = match (comm, &val, &plan.how) {
        (Some(comm), Some(val), Optimize::Sgd(_)) if columns => Some(val.columns_of(comm)?),
        _ => None,
    };
    let splits = Splits {
        train: own_train.as_ref().unwrap_or(&train),
        validation: own_val.as_ref().or(val.as_ref()),
    };
    stopwatch.end("options, dataset verified");

    print_header(&data, &train);
    if let Some(comm) = comm {
        print_processes(comm, &train, splits.train, pool.current_num_threads());
    }
    let fitted = pool.install(|| plan.fit(splits, scratch, &mut stopwatch));
    // Before the error of the fit, which a changed file may have caused.
    data.check_unchanged()?;
    let mut fitted = fitted?;
    if let Some((sums, bytes)) = ranks::traffic() {
        let megabytes = bytes as f64 / 1e6;
        cli::info(format_args!(
            "  {sums} sums over the processes, of {megabytes:.3} MB"
        ));
    }
    let Some(staging) = staging else {
        // Process 0 evaluates and writes the model.
        return Ok(());
    };
    let logits = match val.as_ref().filter(|_| plan.calibrate) {
        Some(val) => Some(pool.install(|| fitted.model.logits_of(val))?),
        None => None,
    };
    let calibration = match (&val, &logits) {
        (Some(val), Some(logits)) => Some(pool.install(|| calibrate_logits(logits, val))?),
        _ => None,
    };
    fitted.model.set_about(About {
        class_names: (data.class_names.iter())
            .take(train.classes())
            .cloned()
            .collect(),
        transform: data.transform.clone(),
        numbers: data.numbers.clone(),
        temperature: calibration.map(|found| found.temperature),
    });

    stopwatch.end("calibration");
    let weights = plan.weighting.samples.as_deref();
    let known = logits.as_ref().filter(|_| data.val == Some(data.eval));
    let eval_rows = (data.eval != data.train).then_some((&eval, known));
    let (on_train, scores) = pool.install(|| {
        evaluate(
            &staging,
            &fitted,
            (&train, weights),
            eval_rows,
            &mut stopwatch,
        )
    })?;
    // The training loss excludes the temperature, like the loss during the fit.
    let on_train = Evaluation {
        loss: on_train.uncalibrated_loss,
        ..on_train
    };
    print_evaluation(data.name(data.train), on_train, None, "");
    // Top-5 accuracy of five classes is always 1.
    let scored = (train.classes() > 5).then_some(&scores);
    let is_fitted = args.converge.refit == "all" && data.val == Some(data.eval);
    let note = if is_fitted {
        "; --refit all fitted these rows"
    } else {
        ""
    };
    print_evaluation(data.name(data.eval), scores.evaluation, scored, note);
    if let (Some(found), Some(val)) = (&calibration, data.val) {
        converged::print_calibration(data.name(val), found);
    }
    let summary = Summary {
        flowreg: env!("CARGO_PKG_VERSION"),
        engine: fitted.engine,
        instruction_set: Isa::current().to_string(),
        gemm: args.gemm.clone(),
        threads: pool.current_num_threads(),
        how: fitted.how.clone(),
        n: train.rows(),
        d: train.features(),
        c: fitted.model.bias().len(),
        classes: train.classes(),
        class_weights: plan.weighting.classes.to_string(),
        sample_weights: plan.weighting.samples.is_some(),
        label_smoothing: plan.weighting.label_smoothing,
        standardize: plan.standardize,
        train_split: data.name(data.train).to_string(),
        val_split: data.val.map(|val| data.name(val).to_string()),
        eval_split: data.name(data.eval).to_string(),
        train_seconds: fitted.seconds,
        train_accuracy: on_train.accuracy,
        train_loss: on_train.loss,
        eval_accuracy: scores.evaluation.accuracy,
        eval_top5: scores.top(5),
        eval_loss: scores.evaluation.loss,
        eval_loss_uncalibrated: calibration.map(|_| scores.evaluation.uncalibrated_loss),
        eval_rows: scores.evaluation.rows,
        calibration,
    };
    let mut files = write_files(&args, &staging, &fitted, &summary)?;
    stopwatch.end("other files written and flushed");
    if !args.no_report {
        let names = data.files(data.eval, classes);
        let path: Vec<serde_json::Value> = (fitted.path.iter())
            .map(|entry| serde_json::to_value(entry).expect("plain data"))
            .collect();
        let [title, subtitle] = summary.headings(&data.source);
        let report = Report {
            title: &title,
            subtitle: &subtitle,
            summary: &serde_json::to_value(&summary).expect("plain data"),
            history: &fitted.history.curve(),
            model: &fitted.model,
            evaluated: Some(Evaluated {
                split: &summary.eval_split,
                scores: &scores,
                rows: eval.x(),
                files: names.as_deref(),
            }),
            path: (path.len() > 1).then_some(&path[..]),
        };
        files.extend(pool.install(|| report.write(&staging))?);
        stopwatch.end("report and its figures");
    }
    data.check_unchanged()?;
    staging.publish()?;
    if let Some(checkpoints) = &plan.checkpoints {
        checkpoints.discard()?;
    }
    stopwatch.end("directory published");
    print_written(out, &args, &files, &summary);
    if let Some(memory) = memory {
        drop((fitted, train, val, eval));
        drop(data);
        stopwatch.end("memory and maps freed");
        stopwatch.print();
        memory.print();
    }
    Ok(())
}

/// The checked options of a run.
pub(super) struct Plan {
    how: Optimize,
    classes: Option<usize>,
    weighting: SampleWeights,
    standardize: Standardize,
    checkpoints: Option<Checkpoints>,
    calibrate: bool,
}

/// The options of the optimizer.
pub(super) enum Optimize {
    Sgd(Box<FitOptions>),
    Converge(Box<PathOptions>),
}

/// The result of a fit by any optimizer.
pub(super) struct Fitted {
    model: Model,
    how: SolverSummary,
    engine: EngineKind,
    seconds: f64,
    history: History,
    path: Vec<PathEntry>,
    /// Logits of the training rows, if known.
    logits: Option<Logits>,
    /// s, b and A, if SGD used the Gram engine.
    coordinates: Option<Vec<f32>>,
    /// The scale of the features to which the coordinates belong.
    scaler: Option<Scaler>,
}

impl Fitted {
    /// The error of an evaluation of the training rows. After SGD, logits beyond f32 mean that it
    /// diverged.
    pub(super) fn evaluation_error(&self, error: Error) -> Error {
        match (error, &self.history) {
            (Error::Overflow { value, .. }, History::Epochs(epochs)) if !epochs.is_empty() => {
                let last = epochs[epochs.len() - 1];
                Error::Diverged {
                    epoch: last.epoch,
                    what: "logits",
                    loss: value.into(),
                    lr: last.lr,
                }
            }
            (error, _) => error,
        }
    }
}

/// The course of a fit: the epochs of SGD, or the steps of a solver.
pub(super) enum History {
    Epochs(Vec<Epoch>),
    Steps(Vec<Step>),
}

impl History {
    /// The curve in the report: the loss of every epoch, or the objective of every step.
    pub(super) fn curve(&self) -> Vec<Epoch> {
        match self {
            History::Epochs(epochs) => epochs.clone(),
            History::Steps(steps) => (steps.iter())
                .map(|step| Epoch {
                    epoch: step.iteration,
                    lr: 1.0,
                    loss: step.objective,
                    val_loss: None,
                    val_accuracy: None,
                })
                .collect(),
        }
    }
}

impl Plan {
    pub(super) fn new(args: &Args, out: &Path) -> Result<Plan> {
        let weighting = args.weighting.weighting()?;
        let (mut sgd, classes) = fit_options(args)?;
        let standardize = Standardize::named(&args.weighting.standardize)?;
        let validated = args.val_split.is_some() || args.x_val.is_some();
        if args.weighting.calibrate && !validated {
            return Err(converged::no_rows_to_calibrate());
        }
        if args.weighting.calibrate && args.converge.refit == "all" {
            return Err(converged::all_rows_fitted());
        }
        let checkpoints = checkpoints(args, out)?;
        let how = match args.optimizer.as_str() {
            "sgd" => {
                if let Some(option) = args.converge.given() {
                    let expected = "--optimizer newton or lbfgs (sgd has --weight-decay)";
                    return Err(converged::refuse(option, "sgd", expected));
                }
                sgd.weighting = weighting.clone();
                sgd.checkpoints = checkpoints.clone();
                sgd.standardize = standardize;
                sgd.check(validated)?;
                Optimize::Sgd(Box::new(sgd))
            }
            name => {
                if let Some(option) = of_sgd(args) {
                    return Err(converged::refuse(option, name, "--optimizer sgd"));
                }
                let optimizer = match name {
                    "lbfgs" => Optimizer::Lbfgs,
                    _ => Optimizer::Newton,
                };
                let seed = args.seed.unwrap_or(0);
                let options = &args.converge;
                let options = options.options(optimizer, seed, validated, weighting.clone());
                let options = PathOptions {
                    standardize,
                    engine: sgd.engine,
                    backend: sgd.backend,
                    checkpoints: checkpoints.clone(),
                    threads: args.threads,
                    ..options
                };
                options.check(validated)?;
                Optimize::Converge(Box::new(options))
            }
        };
        Ok(Plan {
            how,
            classes,
            weighting,
            standardize,
            checkpoints,
            calibrate: args.weighting.calibrate,
        })
    }

    /// All inputs that processes of one fit must have in common, by their names. Cost: arrays are read
    /// once.
    fn fingerprint(
        &self,
        args: &Args,
        data: &Data,
        samples: [Option<&Samples>; 2],
    ) -> Vec<(&'static str, String)> {
        // A manifest has the checksums of its matrices, which were compared when they were opened.
        let of = |samples: &Samples| match &data.checksum {
            Some(checksum) => format!("{checksum} {}", samples.rows()),
            None => samples.fingerprint(),
        };
        let samples = samples.map(|samples| samples.map(of));
        let weights = self.weighting.fingerprint();
        let start = match &self.how {
            Optimize::Sgd(options) => match &options.init {
                Init::Model { model, .. } => Some(model.crc32()),
                _ => None,
            },
            Optimize::Converge(_) => None,
        };
        // Products in f64 depend on the instruction set; those of SGD's kernels do not.
        let isa = match &self.how {
            Optimize::Sgd(_) => String::new(),
            Optimize::Converge(_) => Isa::current().to_string(),
        };
        // The number of threads changes no bit.
        let options = Args {
            threads: None,
            ..args.clone()
        };
        let [train, validation] = samples.map(|samples| format!("{samples:?}"));
        vec![
            ("version of flowreg", env!("CARGO_PKG_VERSION").to_string()),
            ("options", format!("{options:?}")),
            ("instruction set", isa),
            ("features or labels", format!("{} {train}", data.source)),
            ("validation rows", validation),
            ("weights", format!("{weights:?}")),
            ("initial weights", format!("{start:?}")),
        ]
    }

    /// Leaves the coordinates of every epoch, which become the trajectory, to process 0.
    fn emit_on_first_only(&mut self, comm: &dyn Comm) {
        if let Optimize::Sgd(options) = &mut self.how {
            options.emit_coordinates &= comm.rank() == 0;
        }
    }

    /// Sets the weights of the training rows, and checks them. `labels` are those of the whole
    /// split.
    pub(super) fn set_weights(
        &mut self,
        args: &Args,
        labels: &[i64],
        train: &Samples,
    ) -> Result<()> {
        if let Some(path) = &args.weighting.sample_weight {
            (self.weighting).keep_first_classes(labels, train.classes(), path)?;
        }
        match &mut self.how {
            Optimize::Sgd(options) => options.weighting = self.weighting.clone(),
            Optimize::Converge(options) => options.weighting = self.weighting.clone(),
        }
        self.weighting.of(train).map(|_| ())
    }

    pub(super) fn fit(
        &self,
        splits: Splits,
        scratch: &Path,
        stopwatch: &mut cli::Stopwatch,
    ) -> Result<Fitted> {
        match &self.how {
            Optimize::Sgd(options) => {
                print_sgd(splits.train.rows(), options);
                let trajectory = scratch.join(run_files::TRAJECTORY);
                let fit = fit_with_progress(splits, options, &trajectory)?;
                print_fitted(&fit);
                end_laps_of_fit(stopwatch, &fit);
                Ok(Fitted {
                    how: SolverSummary::from((&**options, &fit)),
                    engine: fit.plan.engine,
                    seconds: fit.timings.total(),
                    model: fit.model,
                    history: History::Epochs(fit.history),
                    path: Vec::new(),
                    logits: None,
                    coordinates: fit.coordinates,
                    scaler: fit.scaler,
                })
            }
            Optimize::Converge(options) => {
                let fit = converge_with_progress(splits, options)?;
                stopwatch.end("converged fit");
                Ok(Fitted {
                    how: SolverSummary::from((&**options, &fit)),
                    engine: fit.engine,
                    seconds: fit.seconds,
                    model: fit.model,
                    history: History::Steps(fit.steps),
                    path: fit.path,
                    logits: fit.logits,
                    coordinates: None,
                    scaler: None,
                })
            }
        }
    }
}

/// Evaluates the model on the training rows, with their sample weights, and scores it on `eval`,
/// the rows of `--eval-split` and their logits if known. `None`: `--eval-split` is the training
/// split, and one pass does both. The model is written at the same time.
pub(super) fn evaluate(
    staging: &Staging,
    fitted: &Fitted,
    (train, weights): (&Samples, Option<&[f64]>),
    eval: Option<(&Samples, Option<&Logits>)>,
    stopwatch: &mut cli::Stopwatch,
) -> Result<(Evaluation, Scores)> {
    const ON_TRAIN: &str = "evaluation of the training rows";
    let model = &fitted.model;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| run_files::write_model(staging, model));
        let evaluated = match eval {
            None => {
                let scores = model.score_with(train, weights, fitted.logits.as_ref());
                stopwatch.end(ON_TRAIN);
                scores
                    .map_err(|error| fitted.evaluation_error(error))
                    .map(|scores| (scores.evaluation, scores))
            }
            Some((eval, known)) => {
                let on_train = match &fitted.logits {
                    Some(known) => model
                        .score_with(train, weights, Some(known))
                        .map(|s| s.evaluation),
                    None => model.evaluate_weighted(train, weights),
                };
                stopwatch.end(ON_TRAIN);
                let scores = match known {
                    Some(logits) => model.score_logits(eval, logits),
                    None => model.score(eval),
                };
                stopwatch.end("evaluation of --eval-split");
                let on_train = on_train.map_err(|error| fitted.evaluation_error(error));
                on_train.and_then(|on_train| Ok((on_train, scores?)))
            }
        };
        let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
        stopwatch.end("rest of writing the model");
        written?;
        evaluated
    })
}

/// Writes the files of the run except the model and the report. Returns the names of these files
/// and of the model.
pub(super) fn write_files(
    args: &Args,
    staging: &Staging,
    fit: &Fitted,
    summary: &Summary,
) -> Result<Vec<&'static str>> {
    match &fit.history {
        History::Epochs(epochs) => run_files::write(staging, epochs, summary)?,
        History::Steps(steps) => run_files::write(staging, steps, summary)?,
    }
    let mut files = vec![MODEL, run_files::HISTORY, run_files::SUMMARY];
    if fit.path.len() > 1 {
        run_files::write_json(staging, run_files::PATH, &fit.path)?;
        files.push(run_files::PATH);
    }
    files.extend(args.save_trajectory.then_some(run_files::TRAJECTORY));
    if let (true, Some(coordinates)) = (args.save_coordinates, &fit.coordinates) {
        let file = npy::f32_file(&[1, coordinates.len()], coordinates);
        staging.write(run_files::COORDINATES, &file)?;
        files.push(run_files::COORDINATES);
        if let Some(scaler) = &fit.scaler {
            staging.write(run_files::SCALING, &scaler.to_safetensors())?;
            files.push(run_files::SCALING);
        }
    }
    Ok(files)
}
