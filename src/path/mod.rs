//! Converged fits: the minimum of `F(W, b) = loss(X Wᵀ + 1 bᵀ) + (l2/2) |W|²` for one penalty or
//! several.
//!
//! [`fit_path`] does the following.
//!
//! 1. Choose the engine: Gram coordinates (K: n x n, in f64) for n <= d if they fit the memory and no
//!    column outweighs all others, else the weight itself.
//! 2. Solve each penalty, from the strongest to the weakest, each from the optimum of the last
//!    (`path_solver`), by a [`solver`](crate::solver); in folds first, if there are any (`cv`).
//! 3. Choose the penalty by its validation loss or its mean loss over folds (`select`).
//! 4. Compute the f32 model of the optimum, and certify it: objective, gradient and gap of that
//!    model (`certify`).
//!
//! Cost in Gram coordinates: n²d flop for K, once for all penalties and, without scaling, for all
//! folds; a few n²c flop for each conjugate gradient step; 2ncd flop for a model. On the primal
//! engine, a few ndc flop for each conjugate gradient step.
//!
//! Sources: Friedman, Hastie and Tibshirani 2010 (paths with warm starts); Breiman et al. 1984 (the
//! one-standard-error rule).

mod certify;
mod cv;
mod grid;
pub mod options;
mod path_solver;
#[cfg(test)]
mod ranks_tests;
mod record;
mod select;

use std::ops::ControlFlow;
use std::time::Instant;

use crate::comm;
use crate::design::plan::{EngineChoice, EngineKind};
use crate::design::samples::{Samples, Splits};
use crate::error::{Error, Result};
use crate::io::checkpoint::Fingerprint;
use crate::kernels::Isa;
use crate::linalg::gemm::{Backend, Gemm};
use crate::loss::weights::SampleWeights;
use crate::model::{Logits, Model};
use crate::path::record::SolveLog;
use crate::progress::{Event, Flow, Observer, PathEntry};
use crate::solver::report::{SolveReport, Step};
use crate::threads;
use crate::threads::Work;
use options::l2_of_c;
pub use options::{Emit, Fold, FoldRows, Folds, Optimizer, PathOptions, Penalty};
use path_solver::{choose, choose_for, fit_on_problem};
use select::choice;

/// The result of [`fit_path`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PathFit {
    /// The model.
    pub model: Model,
    /// The penalty of the model.
    pub l2: f64,
    /// How the solve of the chosen penalty ended, measured on the model.
    pub report: SolveReport,
    /// What limits the precision if the status is
    /// [`Status::PrecisionLimited`](crate::solver::report::Status::PrecisionLimited).
    pub limit: Option<Limit>,
    /// The model's logits of the training rows; `None` if the validation rows were fitted too, or
    /// if some rows have weight 0.
    pub logits: Option<Logits>,
    /// All penalties that were solved, the strongest first.
    pub path: Vec<PathEntry>,
    /// The steps of the solve of the chosen penalty.
    pub steps: Vec<Step>,
    /// The engine of the fit.
    pub engine: EngineKind,
    /// Whether the Gram engine, which works in f64, could be used.
    pub gram_is_possible: bool,
    /// Number of threads of the fit.
    pub threads: usize,
    /// Seconds from the options to the model.
    pub seconds: f64,
}

/// What limits the precision of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Rounding in the products and sums of the solver.
    Search,
    /// Rounding of the optimal weight and bias to f32.
    Model,
}

/// Minimises `F(W, b) = loss(X Wᵀ + 1 bᵀ) + (l2/2) |W|²` (X: n x d, W: c x d, b: c) for one penalty
/// or several, and returns the model of the given or chosen one. b is not penalised; it is 0 without
/// [`PathOptions::fit_intercept`]. Steps and cost: see the [module](crate::path).
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
/// [`Error::Options`] for invalid options, [`Error::Memory`] if the matrices of the engine do not
/// fit the memory, [`Error::Shape`] for rows, labels or weights of different lengths and for
/// features that are NaN or not from -1e15 to 1e15,
/// [`Error::Tensors`] and [`Error::Format`] for a checkpoint that is damaged or of another fit,
/// [`Error::Io`] if a checkpoint cannot be written, [`Error::Interrupted`] if the callback or
/// [`PathOptions::cancel`] stopped the fit.
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
        Some(weights) if weights.contains(&0.0) && splits.train.x().can_leave_out() => {
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
        let x = splits.train.x();
        x.agree(splits.check_usable())?;
        let threads = threads::current();
        // Only its own kernels give each element the same bits in any part of a product.
        let backend = if x.is_shared() {
            Backend::Own
        } else {
            options.backend
        };
        let gemm = Gemm::new(backend, threads);
        let checkpoints = options.checkpoints.as_ref();
        let mut log = SolveLog::new(checkpoints, x.comm(), || fingerprint(splits, options))?;
        if let Some(steps) = log.resumed() {
            observer.tell(Event::Resumed { done: steps });
        }
        let mut fit = match splits.validation.filter(|_| options.refit_all) {
            None => fit_on_problem(splits, options, gemm, None, &mut log, observer)?,
            Some(validation) => {
                // The checkpoint of a refit has the records that chose the penalty.
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
        if let Some(comm) = x.comm() {
            comm::refuse_other_state(comm, &fit.model.crc32().to_le_bytes())?;
        }
        fit.threads = threads;
        fit.seconds = started.elapsed().as_secs_f64();
        Ok(fit)
    })?
}

/// An estimate of the time of a fit, which decides whether a pool is started.
fn length(splits: Splits) -> Work {
    let values = splits.train.rows().saturating_mul(splits.train.features());
    Work::flop(values.saturating_mul(64 * splits.train.classes()))
}

/// The fit of the rows whose weight is not 0. The others do not enter means and scales either.
pub(super) fn without_weightless(
    splits: Splits,
    weights: &[f64],
    options: &PathOptions,
    observer: &mut Observer,
) -> Result<PathFit> {
    let train = splits.train.keep(|row| weights[row] > 0.0)?;
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
    // Events have the numbers of the rows among all rows.
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
    // The logits are those of the kept rows only.
    Ok(PathFit {
        logits: None,
        ..fit
    })
}

pub(super) fn check(splits: Splits, options: &PathOptions) -> Result<()> {
    options.check(splits.validation.is_some())?;
    let is_shared = |samples: &Samples| samples.x().is_shared();
    if is_shared(splits.train) && options.refit_all {
        return Err(Error::options(
            "`refit_all`",
            "all rows, with several processes",
            "false, or a run of one process, without mpirun",
        ));
    }
    if splits.validation.is_some_and(is_shared) {
        return Err(Error::options(
            "`validation`",
            "rows that several processes share",
            "all validation rows in every process",
        ));
    }
    let (n, d) = (splits.train.rows(), splits.train.x().all_features());
    if let Some(folds) = &options.folds {
        folds.check(n)?;
    }
    if options.engine == EngineChoice::Gram && n > d {
        // K is singular: rounding cannot be distinguished from components in its null space.
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

/// Check that the model to start from has the features and classes of the rows, and finite values.
fn check_start(start: &Model, train: &Samples) -> Result<()> {
    let shape = |features: usize, classes: usize| format!("{features} features, {classes} classes");
    let found = shape(start.weight().cols(), start.classes());
    let expected = shape(train.x().all_features(), train.classes());
    if found != expected {
        let expected = format!("{expected}, as the training rows have");
        return Err(Error::shape("start", found, expected));
    }
    match start.non_finite() {
        None => Ok(()),
        Some((place, value)) => {
            let found = format!("{value} at {place}");
            Err(Error::shape("start", found, "finite numbers, or no start"))
        }
    }
}

/// All options and data on which the bits of the fit depend, by the names of their parameters. The
/// number of threads is not one of them. The instruction set is, as faer's f64 products depend on it.
pub(super) fn fingerprint(splits: Splits, options: &PathOptions) -> Result<Fingerprint> {
    let (n, d) = (splits.train.rows(), splits.train.x().all_features());
    let mut engine = choose_for(splits.train.x(), options.engine)?.to_string();
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
        ("`fold_tolerance`", options.fold_tolerance.to_string()),
        ("`max_iterations`", options.max_iterations.to_string()),
        ("instruction set", Isa::current().to_string()),
    ];
    let (name, value) = comm::OF_SEVERAL;
    let of_several = (splits.train.x().is_shared()).then(|| (name, value.to_string()));
    let fingerprint = of_several
        .into_iter()
        .chain(fingerprint)
        .chain(options.weighting.fingerprint());
    Ok(fingerprint
        .map(|(name, value)| (name.to_string(), value))
        .collect())
}
