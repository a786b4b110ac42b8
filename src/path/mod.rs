//! Converged fits: a penalty or a path of them, the optimum for each, a choice among them by rows
//! that were not fitted, the model and its certificate.

mod certify;
mod cv;
mod grid;
pub mod options;
mod record;
mod search;
mod select;

use std::ops::ControlFlow;
use std::time::Instant;

use crate::design::plan::{EngineChoice, EngineKind};
use crate::design::samples::{Samples, Splits};
use crate::error::{Error, Result};
use crate::io::checkpoint::Fingerprint;
use crate::kernels::Isa;
use crate::linalg::gemm::Gemm;
use crate::loss::weights::SampleWeights;
use crate::model::{Logits, Model};
use crate::path::record::SolveLog;
use crate::progress::{Event, Flow, Observer, PathEntry};
use crate::solver::report::{SolveReport, Step};
use crate::threads;
use crate::threads::Work;
use grid::l2_of_c;
pub use options::{Emit, Fold, FoldRows, Folds, Optimizer, PathOptions, Penalty};
use search::{choose, fit_on_problem};
use select::choice;

/// A converged fit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PathFit {
    /// The model.
    pub model: Model,
    /// The penalty of the model.
    pub l2: f64,
    /// The end of the search for the model, measured on the model.
    pub report: SolveReport,
    /// What limits a model that is
    /// [`Status::PrecisionLimited`](crate::solver::report::Status::PrecisionLimited).
    pub limit: Option<Limit>,
    /// The model's logits of the training rows; `None` where the validation rows were fitted, too.
    pub logits: Option<Logits>,
    /// All penalties that were tried, the strongest first.
    pub path: Vec<PathEntry>,
    /// Steps of the search for the model.
    pub steps: Vec<Step>,
    /// The engine that did it.
    pub engine: EngineKind,
    /// Whether the Gram engine, which works in f64, could have done it.
    pub gram_is_possible: bool,
    /// Threads it used.
    pub threads: usize,
    /// Seconds from the options to the model.
    pub seconds: f64,
}

/// What stands between a fit and its optimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Products and sums of the optimizer are rounded.
    Search,
    /// The optimum was found; its weight and bias, rounded to f32, are no longer that good.
    Model,
}

/// The optimum of `mean loss + (l2/2) |W|²` for the penalty that is given or chosen. b is not
/// penalised; without [`PathOptions::fit_intercept`] it is 0.
///
/// ```
/// use flowreg::path::Penalty;
/// use flowreg::{PathOptions, Samples, fit_path};
///
/// let x = [0.0, 1.0, 0.2, 0.9, 1.0, 0.1, 0.8, 0.0];
/// let samples = Samples::new(&x, 2, &[0, 0, 1, 1], 2)?;
/// let options = PathOptions { penalty: Penalty::Value(0.01), ..Default::default() };
/// let fit = fit_path(&samples, &options, &mut |_| {})?;
/// assert!(fit.report.gap.unwrap() < 1e-6 * fit.report.objective);
/// # Ok::<(), flowreg::Error>(())
/// ```
///
/// # Errors
/// [`Error::Options`] for options that make no sense, [`Error::Memory`] for more rows and
/// features than it holds, [`Error::Shape`] for rows or weights that do not fit together,
/// [`Error::Tensors`] and [`Error::Format`] for a checkpoint that is damaged or of another fit,
/// [`Error::Io`] if one cannot be written, [`Error::Interrupted`] if the callback or
/// [`PathOptions::cancel`] stopped it.
pub fn fit_path<'a, F: Flow>(
    data: impl Into<Splits<'a>>,
    options: &PathOptions,
    callback: &mut (dyn FnMut(Event) -> F + Send),
) -> Result<PathFit> {
    let mut callback = |event| callback(event).flow();
    let observer = &mut Observer::new(&mut callback, options.cancel.as_ref());
    let splits = data.into();
    check(splits, options)?;
    match &options.weighting.samples {
        Some(weights) if weights.contains(&0.0) => {
            without_weightless(splits, weights, options, observer)
        }
        _ => fit_splits(splits, options, observer),
    }
}

/// The fit of rows that all have a weight.
fn fit_splits(splits: Splits, options: &PathOptions, observer: &mut Observer) -> Result<PathFit> {
    let started = Instant::now();
    if let Some(folds) = &options.folds {
        folds.check_weights(splits.train, options)?;
    }
    Isa::chosen()?;
    threads::run(options.threads, length(splits), || {
        splits.check_finite()?;
        let threads = threads::current();
        let gemm = Gemm::new(options.backend, threads);
        let checkpoints = options.checkpoints.as_ref();
        let mut log = SolveLog::new(checkpoints, || fingerprint(splits, options))?;
        if let Some(steps) = log.resumed() {
            observer.tell(Event::Resumed { done: steps });
        }
        let mut fit = match splits.validation.filter(|_| options.refit_all) {
            None => fit_on_problem(splits, options, gemm, None, &mut log, observer)?,
            Some(validation) => {
                // A choice that was made before is not made again.
                if !log.refitting() {
                    fit_on_problem(splits, options, gemm, None, &mut log, observer)?;
                }
                let (path, chosen) = choice(&log, options, splits.train)?;
                let l2 = Some(path[chosen].l2);
                log.refit()?;
                let both = splits.train.joined(validation)?;
                let both = &both.samples()?;
                let refit = fit_on_problem(both.into(), options, gemm, l2, &mut log, observer)?;
                PathFit { path, ..refit }
            }
        };
        fit.threads = threads;
        fit.seconds = started.elapsed().as_secs_f64();
        Ok(fit)
    })?
}

/// An estimate of how long one step of a fit takes.
fn length(splits: Splits) -> Work {
    let values = splits.train.rows().saturating_mul(splits.train.features());
    Work::flop(values.saturating_mul(64 * splits.train.classes()))
}

/// The fit of the rows that have a weight: the others do not even enter means and scales.
pub(super) fn without_weightless(
    splits: Splits,
    weights: &[f64],
    options: &PathOptions,
    observer: &mut Observer,
) -> Result<PathFit> {
    let train = splits.train.keep(|row| weights[row] > 0.0);
    let kept = weights.iter().copied().filter(|&weight| weight > 0.0);
    let numbers = (0u32..).zip(weights).filter(|&(_, &weight)| weight > 0.0);
    let numbers: Vec<u32> = numbers.map(|(row, _)| row).collect();
    let weighting = SampleWeights {
        samples: Some(kept.collect()),
        ..options.weighting.clone()
    };
    let options = PathOptions {
        weighting,
        folds: (options.folds.as_ref()).map(|folds| folds.of_kept(&numbers)),
        ..options.clone()
    };
    let splits = Splits {
        train: &train,
        validation: splits.validation,
    };
    // The callback is told the rows by their numbers among all.
    let mut callback = |mut event| {
        if let Event::HeldOut(held_out) = &mut event
            && held_out.fold.is_some()
        {
            for row in &mut held_out.rows {
                *row = numbers[*row as usize];
            }
        }
        observer.tell(event);
        if observer.is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let observer = &mut Observer::new(&mut callback, options.cancel.as_ref());
    let fit = fit_splits(splits, &options, observer)?;
    // Those of some rows only.
    Ok(PathFit {
        logits: None,
        ..fit
    })
}

pub(super) fn check(splits: Splits, options: &PathOptions) -> Result<()> {
    options.check(splits.validation.is_some())?;
    let (n, d) = (splits.train.rows(), splits.train.features());
    if let Some(folds) = &options.folds {
        folds.check(n)?;
    }
    if options.engine == EngineChoice::Gram && n > d {
        // Nothing tells what of a gradient lies in K's null space from rounding.
        return Err(Error::options(
            "`engine`",
            format!("gram, for {n} rows of {d} features"),
            "primal (or auto), whose matrices are smaller where rows outnumber features",
        ));
    }
    let weights = options.weighting.resolve(splits.train, None)?;
    if let Some(cs) = options.penalty.cs() {
        l2_of_c(cs, weights.rows.iter().sum())?;
    }
    if let Some(start) = &options.start {
        check_start(start, splits.train)?;
    }
    splits.check_shapes()
}

/// Refuse a model to start from that is not one of these features and classes.
fn check_start(start: &Model, train: &Samples) -> Result<()> {
    let shape = |features: usize, classes: usize| format!("{features} features, {classes} classes");
    let found = shape(start.weight().cols(), start.classes());
    let expected = shape(train.features(), train.classes());
    if found != expected {
        return Err(Error::shape(
            "start",
            found,
            format!("{expected}, as the training rows"),
        ));
    }
    match start.non_finite() {
        None => Ok(()),
        Some((place, value)) => {
            let found = format!("{value} at {place}");
            Err(Error::shape("start", found, "finite numbers, or no start"))
        }
    }
}

/// Everything that the fit's bits depend on, each as the command line calls it. The number of
/// threads is not among it; the instruction set is, as faer's products in f64 depend on it.
pub(super) fn fingerprint(splits: Splits, options: &PathOptions) -> Result<Fingerprint> {
    let (n, d) = (splits.train.rows(), splits.train.features());
    let mut engine = choose(n, d, options.engine)?.to_string();
    if let (true, Some(validation)) = (options.refit_all, splits.validation) {
        let refit = choose(n + validation.rows(), d, options.engine)?;
        engine += &format!(", `refit_all` all {refit}");
    }
    let folds = match &options.folds {
        None => "none".to_string(),
        Some(folds) => folds.fingerprint(),
    };
    let penalty = match &options.penalty {
        Penalty::C(c) => format!("1/({c} n)"),
        Penalty::Cs(cs) => format!("1/({cs:?} n)"),
        Penalty::Value(l2) => l2.to_string(),
        Penalty::List(values) => format!("{values:?}"),
        Penalty::Path { from, to, count } => format!("{from}:{to}:{count}"),
        Penalty::Auto => "auto".to_string(),
    };
    let start = match &options.start {
        None => "none".to_string(),
        Some(model) => format!("a model, {:08x}", model.crc32()),
    };
    let [train, validation] = splits.fingerprints();
    let optimizer = match options.optimizer {
        Optimizer::Newton => "newton",
        Optimizer::Lbfgs => "lbfgs",
    };
    let fingerprint = [
        ("`optimizer`", optimizer.to_string()),
        ("training rows", train),
        ("validation rows", validation),
        ("`engine`", engine),
        ("`backend`", options.backend.to_string()),
        ("`l2`", penalty),
        ("`folds`", folds),
        (
            "`refit_all`",
            if options.refit_all { "all" } else { "train" }.to_string(),
        ),
        ("fit_intercept", options.fit_intercept.to_string()),
        ("start", start),
        ("`standardize`", options.standardize.to_string()),
        ("`tolerance`", options.tolerance.to_string()),
        ("`max_iterations`", options.max_iterations.to_string()),
        ("instruction set", Isa::current().to_string()),
    ];
    let fingerprint = fingerprint
        .into_iter()
        .chain(options.weighting.fingerprint());
    Ok(fingerprint
        .map(|(name, value)| (name.to_string(), value))
        .collect())
}
