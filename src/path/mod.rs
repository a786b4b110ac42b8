//! The story of a converged fit: a penalty or a path of them, the optimum for each, a choice
//! among them by rows that were not fitted, the model and its certificate.

mod record;

use std::borrow::Cow;
use std::time::Instant;

use rayon::prelude::*;

use crate::design::centered::{Centered, Precision};
use crate::design::gram::CentredGram;
use crate::design::plan::available_memory;
use crate::design::plan::{EngineChoice, EngineKind};
use crate::design::samples::{Samples, Splits};
use crate::design::scaler::{Scaler, Standardize};
use crate::error::{Error, Result};
use crate::io::checkpoint::{Checkpoints, Fingerprint};
use crate::kernels::Isa;
use crate::linalg::gemm::{Backend, Gemm};
use crate::linalg::mat::MatRef;
use crate::linalg::power_iteration::largest_eigenvalue;
use crate::linalg::threads::{self, Share, Work};
use crate::linalg::vec::Real;
use crate::loss::Loss;
use crate::loss::risk::Risk;
use crate::loss::weights::{RowWeights, SampleWeights};
use crate::model::{Logits, Model};
use crate::path::record::{Solution, SolveLog, SolveRecord, Watched};
use crate::sgd::torch_rng::TorchRng;
use crate::solver::certificate::{Certificate, Certifier};
use crate::solver::decrement::decrement;
use crate::solver::lbfgs::lbfgs;
use crate::solver::minimizer::{
    self, MeasuredOn, Point, SolveReport, Status, Step, StoppingCriteria,
};
use crate::solver::newton_cg::newton;
use crate::solver::problem::Problem;
use crate::solver::problem_dense::DenseProblem;
use crate::solver::problem_gram::GramProblem;

/// Penalties of `--l2 auto`.
const AUTO_COUNT: usize = 20;
/// From the strongest of them to the weakest.
const AUTO_RANGE: f64 = 1e-6;
/// Penalties past the best one after which an automatic path ends.
const AUTO_PATIENCE: usize = 3;
/// FLOP of a product with X up to which a model is made and measured in f64 from the start: a few
/// milliseconds.
const SMALL: f64 = 5e8;

/// What to fit and how.
#[derive(Clone, Debug, PartialEq)]
pub struct PathOptions {
    /// Who goes to the optimum.
    pub optimizer: Optimizer,
    /// The penalty or penalties.
    pub penalty: Penalty,
    /// What chooses among penalties: with `None`, the validation rows.
    pub folds: Option<Folds>,
    /// Fit the chosen penalty once more, on the validation rows as well.
    pub refit_all: bool,
    /// How much each sample counts.
    pub weighting: SampleWeights,
    /// The features' scale while fitting; the penalty is that of the scaled features' weight, the
    /// model one of the features as they are. Of folds, the scale of the rows that are fitted.
    pub standardize: Standardize,
    /// Gradient norm that is small enough, as a share of that at W = 0, b = 0; the certified gap
    /// must also be below 100 times this share of the objective.
    pub tolerance: f64,
    /// Most steps for one penalty.
    pub max_iterations: usize,
    /// How the weight is represented.
    pub engine: EngineChoice,
    /// Who multiplies f32 matrices.
    pub backend: Backend,
    /// Where to save the state now and then, to go on from after a stop.
    pub checkpoints: Option<Checkpoints>,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
}

impl Default for PathOptions {
    /// Newton's method at scikit-learn's C = 1, to 1e-5 of the initial gradient.
    fn default() -> Self {
        PathOptions {
            optimizer: Optimizer::Newton,
            penalty: Penalty::C(1.0),
            folds: None,
            refit_all: false,
            weighting: SampleWeights::default(),
            standardize: Standardize::None,
            tolerance: 1e-5,
            max_iterations: 1000,
            engine: EngineChoice::Auto,
            backend: Backend::default(),
            checkpoints: None,
            threads: None,
        }
    }
}

/// Who goes to the optimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// [`newton`].
    Newton,
    /// [`lbfgs`].
    Lbfgs,
}

/// l2 of `mean loss + (l2/2) |W|²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Penalty {
    /// 1/(C Σ wᵢ), wᵢ being the weight of a row (1 where rows count alike): scikit-learn's C.
    C(f64),
    /// This.
    Value(f64),
    /// So many, from one to the other in equal ratios; the strongest is fitted first.
    Path {
        /// One end.
        from: f64,
        /// The other end.
        to: f64,
        /// How many, both ends included.
        count: usize,
    },
    /// Twenty, over six decades down from `h λmax(Xc Xcᵀ)/n`, h the curvature of the loss at
    /// W = 0, where a penalty halves even the strongest direction; the path ends when three
    /// penalties brought nothing better.
    Auto,
}

/// Cross-validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folds {
    /// How many, stratified by class.
    pub count: usize,
    /// Seed of who goes where.
    pub seed: u32,
    /// Choose the strongest penalty whose loss is within one standard error of the lowest
    /// (Breiman et al. 1984), instead of the lowest.
    pub one_standard_error: bool,
}

/// One penalty of a path.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PathEntry {
    /// The penalty.
    pub l2: f64,
    /// The end of its search; with folds, that of the first fold.
    #[serde(flatten)]
    pub outcome: SolveReport,
    /// Mean loss on rows that were not fitted: a row counts by its sample weight, if it has one;
    /// class weights and smoothing do not enter. Of folds, the mean of each fold's mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Standard error of that mean over the folds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss_error: Option<f64>,
    /// Accuracy on rows that were not fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
}

impl From<&SolveRecord> for PathEntry {
    fn from(searched: &SolveRecord) -> PathEntry {
        PathEntry {
            l2: searched.l2,
            outcome: searched.outcome,
            val_loss: searched.score.map(|(loss, _)| loss),
            val_loss_error: None,
            val_accuracy: searched.score.map(|(_, accuracy)| accuracy),
        }
    }
}

/// What an observer of a converged fit hears.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The engine was chosen.
    Engine(EngineKind),
    /// The Gram matrix or the moments grow: columns of X so far.
    Columns(usize),
    /// The fit goes on from a checkpoint.
    Resumed {
        /// Steps that were done before, of all penalties and folds.
        steps: usize,
    },
    /// A step for this penalty, in this fold.
    Step {
        /// The penalty.
        l2: f64,
        /// The fold, from 0.
        fold: Option<usize>,
        /// The step.
        step: Step,
    },
    /// A penalty is done.
    Scored(PathEntry),
    /// Something that the caller should know of: a sentence.
    Warning(String),
}

/// A converged fit.
#[derive(Clone, Debug)]
pub struct PathFit {
    /// The model.
    pub model: Model,
    /// The penalty of the model.
    pub l2: f64,
    /// The end of the search for the model, measured on the model.
    pub outcome: SolveReport,
    /// What limits a model that is [`Status::PrecisionLimited`].
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

/// The optimum of `mean loss + (l2/2) |W|²`, b free, for the penalty that is given or chosen.
///
/// ```
/// use flowreg::path::{ConvergeOptions, Penalty, converge};
/// use flowreg::Samples;
///
/// let x = [0.0, 1.0, 0.2, 0.9, 1.0, 0.1, 0.8, 0.0];
/// let samples = Samples::new(&x, 2, &[0, 0, 1, 1], 2)?;
/// let options = ConvergeOptions { penalty: Penalty::Value(0.01), ..Default::default() };
/// let fit = converge(&samples, &options, &mut |_| {})?;
/// assert!(fit.outcome.gap.unwrap() < 1e-6 * fit.outcome.objective);
/// # Ok::<(), flowreg::Error>(())
/// ```
///
/// # Errors
/// [`Error::Options`] for options that make no sense, [`Error::Memory`] for more rows and
/// features than it holds, [`Error::Shape`] for rows or weights that do not fit together,
/// [`Error::Tensors`] and [`Error::Format`] for a checkpoint that is damaged or of another fit,
/// [`Error::Io`] if one cannot be written, [`Error::Interrupted`] after a signal.
pub fn fit_path<'a>(
    data: impl Into<Splits<'a>>,
    options: &PathOptions,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<PathFit> {
    let started = Instant::now();
    let splits = data.into();
    check(splits, options)?;
    if let Some(weights) = &options.weighting.samples
        && weights.contains(&0.0)
    {
        return without_weightless(splits, weights, options, observe);
    }
    Isa::chosen()?;
    let pool = threads::pool(options.threads)?;
    pool.install(|| {
        let threads = pool.current_num_threads();
        let gemm = Gemm::new(options.backend, threads);
        let checkpoints = options.checkpoints.as_ref();
        let mut journal = SolveLog::new(checkpoints, || identity(splits, options))?;
        if let Some(steps) = journal.resumed() {
            observe(Progress::Resumed { steps });
        }
        let mut fit = match splits.validation.filter(|_| options.refit_all) {
            None => on_space(splits, options, gemm, None, &mut journal, observe)?,
            Some(validation) => {
                // A choice that was made before is not made again.
                if !journal.refitting() {
                    on_space(splits, options, gemm, None, &mut journal, observe)?;
                }
                let (path, chosen) = choice(&journal, options)?;
                let l2 = Some(path[chosen].l2);
                journal.refit()?;
                let both = splits.train.joined(validation)?;
                let both = &both.samples()?;
                let refit = on_space(both.into(), options, gemm, l2, &mut journal, observe)?;
                PathFit { path, ..refit }
            }
        };
        fit.threads = threads;
        fit.seconds = started.elapsed().as_secs_f64();
        Ok(fit)
    })
}

/// The fit of the rows that have a weight: the others do not even enter means and scales.
fn without_weightless(
    splits: Splits,
    weights: &[f64],
    options: &PathOptions,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<PathFit> {
    let train = splits.train.keep(|row| weights[row] > 0.0);
    let kept = weights.iter().copied().filter(|&weight| weight > 0.0);
    let weighting = SampleWeights {
        samples: Some(kept.collect()),
        ..options.weighting.clone()
    };
    let options = PathOptions {
        weighting,
        ..options.clone()
    };
    let splits = Splits {
        train: &train,
        validation: splits.validation,
    };
    let fit = fit_path(splits, &options, observe)?;
    // Those of some rows only.
    Ok(PathFit {
        logits: None,
        ..fit
    })
}

impl PathOptions {
    /// Refuse options that make no sense, whatever the rows; `validated` tells whether there are
    /// validation rows.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self, validated: bool) -> Result<()> {
        let positive = |option, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::options(option, value, "a finite number above 0")),
        };
        match self.penalty {
            Penalty::Value(l2) if !(l2.is_finite() && l2 >= 0.0) => {
                let expected = "a finite number, 0 or above";
                return Err(Error::options("--l2", l2, expected));
            }
            Penalty::Path { from, to, count } => {
                positive("--l2-path", from)?;
                positive("--l2-path", to)?;
                if !(2..=10_000).contains(&count) {
                    let expected = "2 to 10000 penalties";
                    return Err(Error::options("--l2-path", count, expected));
                }
            }
            Penalty::C(c) => positive("--C", c)?,
            _ => {}
        }
        positive("--tolerance", self.tolerance)?;
        let several = matches!(self.penalty, Penalty::Path { .. } | Penalty::Auto);
        if several && self.folds.is_none() && !validated {
            return Err(Error::options(
                "--l2",
                "several penalties and no rows to choose by",
                "--val-split or --cv, which choose one, or one --l2",
            ));
        }
        if self.refit_all && !validated {
            let expected = "--val-split, whose rows it adds";
            return Err(Error::options("--refit", "all", expected));
        }
        if self.refit_all && self.weighting.samples.is_some() {
            return Err(Error::options(
                "--refit",
                "all with --sample-weight, which has no weights for the validation rows",
                "train",
            ));
        }
        Ok(())
    }
}

fn check(splits: Splits, options: &PathOptions) -> Result<()> {
    options.check(splits.validation.is_some())?;
    let (n, d) = (splits.train.rows(), splits.train.features());
    if let Some(folds) = options.folds
        && !(2..=n).contains(&folds.count)
    {
        let expected = format!("2 to {}, the rows of the training split", n.max(2));
        return Err(Error::options("--cv", folds.count, expected));
    }
    if options.engine == EngineChoice::Gram && n > d {
        // Nothing tells what of a gradient lies in K's null space from rounding.
        return Err(Error::options(
            "--engine",
            format!("gram, for {n} rows of {d} features"),
            "primal (or auto), whose matrices are smaller where rows outnumber features",
        ));
    }
    options.weighting.resolve(splits.train, None)?;
    splits.check_shapes()
}

/// Everything that the fit's bits depend on, each as the command line calls it. The number of
/// threads is not among it; the instruction set is, as faer's products in f64 depend on it.
fn identity(splits: Splits, options: &PathOptions) -> Result<Fingerprint> {
    let (n, d) = (splits.train.rows(), splits.train.features());
    let mut engine = choose(n, d, options.engine)?.to_string();
    if let (true, Some(validation)) = (options.refit_all, splits.validation) {
        let refit = choose(n + validation.rows(), d, options.engine)?;
        engine += &format!(", --refit all {refit}");
    }
    let folds = match options.folds {
        None => "none".to_string(),
        Some(folds) => format!(
            "{}, --seed {}, --cv-rule {}",
            folds.count,
            folds.seed,
            if folds.one_standard_error {
                "one-se"
            } else {
                "lowest"
            }
        ),
    };
    let penalty = match options.penalty {
        Penalty::C(c) => format!("1/({c} n)"),
        Penalty::Value(l2) => l2.to_string(),
        Penalty::Path { from, to, count } => format!("{from}:{to}:{count}"),
        Penalty::Auto => "auto".to_string(),
    };
    let [train, validation] = splits.fingerprints();
    let optimizer = match options.optimizer {
        Optimizer::Newton => "newton",
        Optimizer::Lbfgs => "lbfgs",
    };
    let identity = [
        ("--optimizer", optimizer.to_string()),
        ("training rows", train),
        ("validation rows", validation),
        ("--engine", engine),
        ("--gemm", options.backend.to_string()),
        ("--l2", penalty),
        ("--cv", folds),
        (
            "--refit",
            if options.refit_all { "all" } else { "train" }.to_string(),
        ),
        ("--standardize", options.standardize.to_string()),
        ("--tolerance", options.tolerance.to_string()),
        ("--max-iterations", options.max_iterations.to_string()),
        ("instruction set", Isa::current().to_string()),
    ];
    let identity = identity.into_iter().chain(options.weighting.identity());
    Ok(identity
        .map(|(name, value)| (name.to_string(), value))
        .collect())
}

/// The penalties that were tried, and the place of the chosen one.
fn choice(journal: &SolveLog, options: &PathOptions) -> Result<(Vec<PathEntry>, usize)> {
    let path = match options.folds {
        Some(_) => journal.path_of_folds(),
        None => journal.path(),
    };
    let rule = options.folds.is_some_and(|folds| folds.one_standard_error);
    match path.is_empty() {
        true => Err(journal.foreign()),
        false => {
            let chosen = best(&path, rule);
            Ok((path, chosen))
        }
    }
}

/// Choose the engine and go: to the penalty that is asked for or chosen, or, once that is known,
/// to `l2`.
fn on_space(
    splits: Splits,
    options: &PathOptions,
    gemm: Gemm,
    l2: Option<f64>,
    journal: &mut SolveLog,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<PathFit> {
    let x = splits.train.x();
    let mut engine = choose(x.len(), x.features(), options.engine)?;
    observe(Progress::Engine(engine));
    let weights = options.weighting.resolve(splits.train, None)?;
    let design = Centered::new(x);
    let deviation = deviation(splits.train, options.standardize, &weights.samples)?;
    let scale = deviation.clone();
    let scale = scale.as_deref();
    let given = Given {
        splits,
        options,
        design: &design,
        deviation,
        weights,
        journal,
        observe,
    };
    let mut columns = |columns| {
        (given.observe)(Progress::Columns(columns));
        given.journal.check()
    };
    if engine == EngineKind::Gram {
        match CentredGram::new(x, scale, gemm, &mut columns) {
            // The primal engine may reach what K cannot hold.
            Err(Error::Memory { .. }) if options.engine == EngineChoice::Auto => {
                engine = EngineKind::Primal
            }
            gram => {
                let mut space = GramProblem::new(x, gram?, scale, gemm)?;
                return given.search(engine, &mut space).run(l2);
            }
        }
    }
    let mut space = DenseProblem::new(&design, scale, gemm, &mut columns)?;
    given.search(engine, &mut space).run(l2)
}

/// All that a search needs, whatever its space.
struct Given<'a> {
    splits: Splits<'a>,
    options: &'a PathOptions,
    design: &'a Centered<'a>,
    /// σ of the training rows.
    deviation: Option<Vec<f64>>,
    weights: RowWeights,
    journal: &'a mut SolveLog,
    observe: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Given<'a> {
    fn search<S: Problem>(self, engine: EngineKind, space: &'a mut S) -> Search<'a, S> {
        Search {
            splits: self.splits,
            options: self.options,
            engine,
            design: self.design,
            deviation: self.deviation,
            space,
            weights: self.weights,
            journal: self.journal,
            observe: self.observe,
            last: None,
            best: None,
        }
    }
}

/// σ of the rows that these sample weights leave, where features are scaled.
fn deviation(
    samples: &Samples,
    standardize: Standardize,
    weights: &[f64],
) -> Result<Option<Vec<f64>>> {
    Ok(match standardize {
        // Means do not matter, as the bias is free.
        Standardize::None | Standardize::Center => None,
        Standardize::Scale | Standardize::Both => {
            let scaler = Scaler::new(samples.x(), Some(weights), Standardize::Scale)?;
            Some(scaler.deviation().to_vec())
        }
    })
}

/// Gram coordinates where there are no more rows than features and memory holds the matrices:
/// K and a factor in f64, and room while K is made.
fn choose(n: usize, d: usize, choice: EngineChoice) -> Result<EngineKind> {
    let bytes = |side: usize| (side as u128).saturating_mul(side as u128) * 28;
    let fits =
        |bytes: u128| available_memory().is_none_or(|available| bytes <= u128::from(available));
    let refuse = |engine: &str, side: usize, instead: &str| {
        Err(Error::memory(
            "--engine",
            format!(
                "{engine}, whose matrices of {side} x {side} take {} bytes",
                bytes(side)
            ),
            instead,
        ))
    };
    match choice {
        EngineChoice::Gram if !fits(bytes(n)) => {
            refuse("gram", n, "primal (or auto), or more memory")
        }
        EngineChoice::Gram => Ok(EngineKind::Gram),
        EngineChoice::Auto if n <= d && fits(bytes(n)) => Ok(EngineKind::Gram),
        _ if !fits(bytes(n.min(d))) => refuse(
            "primal",
            n.min(d),
            "--optimizer sgd, fewer rows or features, or more memory",
        ),
        _ => Ok(EngineKind::Primal),
    }
}

/// A converged fit whose engine is known.
struct Search<'a, S: Problem> {
    splits: Splits<'a>,
    options: &'a PathOptions,
    engine: EngineKind,
    design: &'a Centered<'a>,
    /// σ of the training rows.
    deviation: Option<Vec<f64>>,
    space: &'a mut S,
    weights: RowWeights,
    journal: &'a mut SolveLog,
    observe: &'a mut (dyn FnMut(Progress) + Send),
    /// The last optimum, from which the next search begins.
    last: Option<Solution<S::Real>>,
    /// The best so far, where rows that were not fitted choose among all.
    best: Option<Solution<S::Real>>,
}

/// A penalty to go to.
#[derive(Clone, Copy)]
struct Task {
    l2: f64,
    fold: Option<usize>,
    tolerance: f64,
}

impl<'a, S: Problem> Search<'a, S> {
    /// The strongest first.
    fn penalties(&mut self) -> Result<Vec<f64>> {
        let total: f64 = self.weights.rows.iter().sum();
        Ok(match self.options.penalty {
            Penalty::C(c) => {
                let l2 = 1.0 / (c * total);
                if !(l2.is_finite() && l2 > 0.0) {
                    let found = format!(
                        "{c}, which is l2 = {l2}: the weights of the rows add up to {total}"
                    );
                    return Err(Error::options(
                        "--C",
                        found,
                        "a value whose l2 is a number above 0",
                    ));
                }
                vec![l2]
            }
            Penalty::Value(l2) => vec![l2],
            Penalty::Path { from, to, count } => ratios(from.max(to), from.min(to), count),
            Penalty::Auto => {
                let strongest = self.curvature();
                if !(strongest.is_finite() && strongest > 0.0) {
                    let found = "auto, and all features are constant (or their products overflow)";
                    return Err(Error::options("--l2", found, "--l2 VALUE or --l2-path"));
                }
                ratios(strongest, AUTO_RANGE * strongest, AUTO_COUNT)
            }
        })
    }

    /// h λmax(D½ Xc Xcᵀ D½) at W = 0, D being the rows' shares and Xc centred by them.
    fn curvature(&mut self) -> f64 {
        let n = self.space.rows();
        let classes = self.splits.train.classes() as f64;
        let h = match Loss::for_classes(self.splits.train.classes()) {
            Loss::Softmax => (1.0 - 1.0 / classes) / classes,
            Loss::Logistic => 0.25,
        };
        let total: f64 = self.weights.rows.iter().sum();
        let shares: Vec<f64> = self.weights.rows.iter().map(|w| w / total).collect();
        let mut w = vec![0.0; self.space.width()];
        let (mut g, mut z) = (vec![S::Real::default(); n], vec![S::Real::default(); n]);
        let largest = largest_eigenvalue(n, |v, out| {
            let rooted = || v.iter().zip(&shares).map(|(&v, s)| f64::from(v) * s.sqrt());
            let sum: f64 = rooted().sum();
            for ((g, v), share) in g.iter_mut().zip(rooted()).zip(&shares) {
                *g = S::Real::of(v - share * sum);
            }
            self.space.adjoint(&g, &mut w);
            self.space.logits_of_direction(&w, &mut z);
            let mean: f64 = z.iter().zip(&shares).map(|(&z, s)| z.into() * s).sum();
            for ((out, &z), share) in out.iter_mut().zip(&z).zip(&shares) {
                *out = ((z.into() - mean) * share.sqrt()) as f32;
            }
        });
        h * largest
    }

    fn run(mut self, l2: Option<f64>) -> Result<PathFit> {
        match (l2, self.options.folds) {
            (Some(l2), _) => self.on_all_rows(&[l2], Vec::new()),
            (None, None) => self.by_validation(),
            (None, Some(folds)) => {
                self.cross_validate(folds)?;
                let (path, chosen) = choice(self.journal, self.options)?;
                for entry in &path {
                    (self.observe)(Progress::Scored(entry.clone()));
                }
                let penalties: Vec<f64> = path[..=chosen].iter().map(|entry| entry.l2).collect();
                self.on_all_rows(&penalties, path)
            }
        }
    }

    /// One penalty after the other on all rows; the model is the last one's.
    fn on_all_rows(mut self, penalties: &[f64], path: Vec<PathEntry>) -> Result<PathFit> {
        let likelihood = self.likelihood(&self.weights);
        let mut end = None;
        self.last = None;
        for &l2 in penalties {
            let searched = self.search(&likelihood, self.task(l2), |_, _| Ok(None))?;
            end = Some((l2, searched.outcome));
        }
        let found = self.last.take();
        self.done(&likelihood, end.expect("at least one penalty"), found, path)
    }

    /// All penalties on all rows; the model is that of the lowest validation loss.
    fn by_validation(mut self) -> Result<PathFit> {
        let likelihood = self.likelihood(&self.weights);
        let auto = self.options.penalty == Penalty::Auto;
        let mut path = Vec::new();
        for l2 in self.penalties()? {
            let searched = self.search(&likelihood, self.task(l2), |search, found| {
                let Some(validation) = search.splits.validation else {
                    return Ok(None);
                };
                let model = search.model(&likelihood, &found.point)?;
                let model = found.model.insert(model);
                let score = model.evaluate(validation)?;
                Ok(Some((score.loss, score.accuracy)))
            })?;
            let entry = PathEntry::from(&searched);
            (self.observe)(Progress::Scored(entry.clone()));
            path.push(entry);
            let best = best(&path, false);
            if let Some(last) = &mut self.last
                && best == path.len() - 1
            {
                self.best = Some(Solution {
                    point: last.point.clone(),
                    steps: last.steps.clone(),
                    model: last.model.take(),
                });
            }
            if auto && path.len() - 1 - best >= AUTO_PATIENCE {
                break;
            }
        }
        let chosen = &path[best(&path, false)];
        let (end, found) = ((chosen.l2, chosen.outcome), self.best.take());
        self.done(&likelihood, end, found, path)
    }

    fn done(
        mut self,
        likelihood: &Risk,
        (l2, outcome): (f64, SolveReport),
        found: Option<Solution<S::Real>>,
        path: Vec<PathEntry>,
    ) -> Result<PathFit> {
        // Without one, all searches were made before: there would be no checkpoint.
        let found = found.ok_or_else(|| self.journal.foreign())?;
        let weight = found.model.map(|model| model.weight().as_slice().to_vec());
        let certified = self.certify(likelihood, &found.point, (l2, outcome), weight)?;
        Ok(PathFit {
            model: certified.model,
            l2,
            outcome: certified.outcome,
            limit: certified.limit,
            logits: (!self.journal.refitting()).then_some(certified.logits),
            path,
            steps: found.steps,
            engine: self.engine,
            gram_is_possible: self.gram_is_possible(),
            threads: 0,
            seconds: 0.0,
        })
    }

    fn task(&self, l2: f64) -> Task {
        Task {
            l2,
            fold: None,
            tolerance: self.options.tolerance,
        }
    }

    fn gram_is_possible(&self) -> bool {
        let (n, d) = (self.design.x().len(), self.design.x().features());
        n <= d && choose(n, d, EngineChoice::Gram).is_ok()
    }

    /// Whether f64 costs next to nothing.
    fn is_small(&self, likelihood: &Risk) -> bool {
        let x = self.design.x();
        let products = 2.0 * x.len() as f64 * x.features() as f64;
        products * likelihood.outputs() as f64 <= SMALL
    }

    /// The model of a point, its bias as the point has it.
    fn model(&mut self, likelihood: &Risk, point: &Point<S::Real>) -> Result<Model> {
        let exact = self.is_small(likelihood);
        let weight = self.space.weight(&point.w, self.design, exact)?;
        let shifts = self.design.shifts(&weight);
        let bias = point
            .b
            .iter()
            .zip(shifts)
            .map(|(b, shift)| (b - shift) as f32);
        let lowest = lowest_maximum(likelihood, &point.z, &point.b);
        Ok(self.of_all_classes(likelihood, weight, bias.collect(), lowest))
    }

    /// A model with an output for every class; `lowest` is the smallest over the samples of the
    /// largest logit.
    fn of_all_classes(
        &self,
        likelihood: &Risk,
        weight: Vec<f32>,
        bias: Vec<f32>,
        lowest: f64,
    ) -> Model {
        let classes = self.splits.train.classes();
        let point = Point {
            w: weight,
            b: bias.iter().map(|&b| b.into()).collect(),
            z: Vec::<f64>::new(),
        };
        let all = of_all_classes(&point, likelihood, classes, lowest);
        let bias = all.b.iter().map(|&b| b as f32).collect();
        Model::new(all.w.clone(), bias).expect("the shape of the data")
    }

    /// The model of the point, or of the weight that was made of it before, and what it is worth.
    fn certify(
        &mut self,
        likelihood: &Risk,
        point: &Point<S::Real>,
        (l2, found): (f64, SolveReport),
        weight: Option<Vec<f32>>,
    ) -> Result<Certified> {
        let stop = StoppingCriteria {
            tolerance: self.options.tolerance,
            iterations: self.options.max_iterations,
        };
        let certifier = Certifier {
            design: self.design,
            deviation: self.deviation.as_deref(),
            likelihood,
            l2,
            tolerance: stop.largest_gap(1.0),
        };
        let measure = |space: &mut S, weight: Option<Vec<f32>>, exact: bool| -> Result<_> {
            let weight = match weight {
                Some(weight) => weight,
                None => space.weight(&point.w, self.design, exact)?,
            };
            let precision = match exact {
                true => Precision::Double,
                false => Precision::Single,
            };
            let square = |g: &[f64]| space.adjoint_square(g);
            let certificate = certifier.certify(&weight, &point.b, precision, square);
            Ok((weight, certificate))
        };
        let falls_short = |certificate: &Certificate| match found.status {
            Status::Converged if l2 > 0.0 => {
                let allowed = stop.largest_gap(certificate.objective);
                certificate.gap.is_none_or(|gap| gap > allowed)
            }
            Status::Separable => certificate.smallest_margin <= 0.0,
            _ => false,
        };
        let present = likelihood.present();
        let weight = weight.map(|weight| of_present(weight, self.design.mean().len(), present));
        let small = self.is_small(likelihood);
        let (mut weight, mut certificate) = measure(self.space, weight, small)?;
        if !small && falls_short(&certificate) {
            (weight, certificate) = measure(self.space, None, true)?;
        }
        let mut outcome = SolveReport {
            measured_on: MeasuredOn::Model,
            objective: certificate.objective,
            loss: certificate.loss,
            gradient_norm: certificate.gradient_norm,
            gap: certificate.gap,
            ..found
        };
        let is_end = !matches!(found.status, Status::Separable | Status::IterationLimit);
        if l2 == 0.0 && is_end {
            let allowed = minimizer::SURE * stop.largest_gap(outcome.objective);
            let logits = &certificate.logits;
            if let Some(exact) = decrement(self.design, likelihood, logits) {
                outcome.decrement = Some(exact.gain);
                outcome.separated_class = exact.separated_class;
                let is_minimum = exact.gain <= allowed && exact.step < minimizer::RUNNING;
                outcome.status = match exact.separated_class {
                    Some(_) => Status::QuasiSeparable,
                    None if is_minimum => Status::Converged,
                    None => Status::PrecisionLimited,
                };
            } else if found.status != Status::QuasiSeparable {
                let left = minimizer::decrement(self.space, likelihood, logits, stop);
                outcome.decrement = left;
                if left.is_none_or(|left| left > allowed) {
                    outcome.status = Status::PrecisionLimited;
                }
            }
        }
        if falls_short(&certificate) {
            outcome.status = Status::PrecisionLimited;
        }
        let limit = (outcome.status == Status::PrecisionLimited).then_some(match found.status {
            Status::PrecisionLimited => Limit::Search,
            _ => Limit::Model,
        });
        let logits = Point {
            w: Vec::<f64>::new(),
            b: vec![0.0; likelihood.outputs()],
            z: certificate.logits,
        };
        let lowest = lowest_maximum(likelihood, &logits.z, &logits.b);
        let train = self.splits.train;
        let all = of_all_classes(&logits, likelihood, train.classes(), lowest);
        let of_outputs = all.z.chunks_exact(train.rows()).zip(&all.b);
        let narrow: Vec<Vec<f32>> = of_outputs
            .map(|(z, b)| z.iter().map(|z| (z + b) as f32).collect())
            .collect();
        Ok(Certified {
            model: self.of_all_classes(likelihood, weight, certificate.bias, lowest),
            outcome,
            limit,
            logits: Logits::new(all.b.len(), narrow.concat()),
        })
    }

    fn likelihood(&self, weights: &RowWeights) -> Risk<'a> {
        let labels = self.splits.train.labels();
        let smoothing = self.options.weighting.label_smoothing;
        Risk::new(labels, &weights.samples, &weights.classes, smoothing).of_present_classes()
    }

    /// The optimum for a penalty, from the last one's, and its score; or what the journal says
    /// of it.
    fn search(
        &mut self,
        likelihood: &Risk,
        task: Task,
        score: impl FnOnce(&mut Self, &mut Solution<S::Real>) -> Result<Option<(f64, f64)>>,
    ) -> Result<SolveRecord> {
        let Task {
            l2,
            fold,
            tolerance,
        } = task;
        if let Some(searched) = self.journal.pass(fold, l2)? {
            return Ok(searched);
        }
        let zero = Point::zero(self.space, likelihood.outputs());
        if self.journal.has_best() {
            self.best = Some(Solution {
                point: zero.clone(),
                steps: Vec::new(),
                model: None,
            });
        }
        let start = match self.last.take() {
            // Weights that only tell rows apart are no start for a penalty.
            Some(found) if self.journal.last_status() != Some(Status::Separable) => found.point,
            _ => zero,
        };
        let stop = StoppingCriteria {
            tolerance,
            iterations: self.options.max_iterations,
        };
        let observe = &mut self.observe;
        let mut watched = Watched {
            journal: self.journal,
            best: self.best.as_mut(),
            observe: &mut |step| observe(Progress::Step { l2, fold, step }),
        };
        let space = &mut *self.space;
        let (point, outcome) = match self.options.optimizer {
            Optimizer::Newton => newton(space, likelihood, l2, start, stop, &mut watched),
            Optimizer::Lbfgs => lbfgs(space, likelihood, l2, start, stop, &mut watched),
        }?;
        let mut found = Solution {
            point,
            steps: Vec::new(),
            model: None,
        };
        let searched = SolveRecord {
            fold,
            l2,
            outcome,
            score: score(self, &mut found)?,
        };
        found.steps = self.journal.record(searched);
        self.last = Some(found);
        Ok(searched)
    }

    /// Every penalty in every fold: the space is told which rows to fit, and gives the logits
    /// of those held out, which have no weight, with the others'. Class weights that are balanced
    /// and the features' scale are those of the rows that are fitted.
    fn cross_validate(&mut self, folds: Folds) -> Result<()> {
        /// Scores of folds differ by far more than this tolerance makes of them.
        const TOLERANCE: f64 = 1e-3;
        let train = self.splits.train;
        let of_rows = assign(train, folds);
        self.warn_of_rare_classes(folds);
        let penalties = self.penalties()?;
        let mut left_out = 0;
        for fold in 0..folds.count {
            let held_out = |row: usize| of_rows[row] == fold;
            let keep: Vec<f64> = (0..train.rows())
                .map(|row| if held_out(row) { 0.0 } else { 1.0 })
                .collect();
            let samples = self.weights.samples.iter().zip(&keep);
            let held: Vec<f64> = samples.map(|(own, keep)| own * (1.0 - keep)).collect();
            let Some(weights) = self.weights_of_fold(&keep, &held, fold)? else {
                left_out += 1;
                continue;
            };
            let likelihood = self.likelihood(&weights);
            // A search ends with the logits of all rows multiplied out.
            let score = |found: &Solution<S::Real>| {
                let Point { b, z, .. } = &found.point;
                let lowest = lowest_maximum(&likelihood, z, b);
                let all = of_all_classes(&found.point, &likelihood, train.classes(), lowest);
                score(train, &held, &all.z, &all.b)
            };
            if self.journal.ahead() < penalties.len() {
                let rows = 0..train.rows();
                let fitted = rows.filter(|&row| !held_out(row)).map(|row| row as u32);
                let deviation = match &self.deviation {
                    None => None,
                    Some(_) => deviation(train, self.options.standardize, &weights.samples)?,
                };
                self.fit_rows(Some(fitted.collect()), deviation.as_deref())?;
            }
            self.last = None;
            for &l2 in &penalties {
                let task = Task {
                    l2,
                    fold: Some(fold),
                    tolerance: self.options.tolerance.max(TOLERANCE),
                };
                self.search(&likelihood, task, |_, found| Ok(Some(score(found))))?;
            }
        }
        if left_out == folds.count {
            return Err(Error::options(
                "--cv",
                format!(
                    "{} folds, none of which has two classes to fit and a row to score",
                    folds.count
                ),
                "fewer folds, or rows and weights of two classes for every fold",
            ));
        }
        let deviation = self.deviation.clone();
        self.fit_rows(None, deviation.as_deref())
    }

    fn fit_rows(&mut self, rows: Option<Vec<u32>>, deviation: Option<&[f64]>) -> Result<()> {
        let (observe, journal) = (&mut self.observe, &self.journal);
        self.space.fit_rows(rows, deviation, &mut |columns| {
            observe(Progress::Columns(columns));
            journal.check()
        })
    }

    /// The weights of the rows that a fold fits; `None`, and a warning, where it has not two
    /// classes to fit or nothing to score.
    fn weights_of_fold(
        &mut self,
        keep: &[f64],
        held: &[f64],
        fold: usize,
    ) -> Result<Option<RowWeights>> {
        let train = self.splits.train;
        let of_rows = train
            .labels()
            .iter()
            .zip(keep.iter().zip(&self.weights.rows));
        let mut classes: Vec<u32> = of_rows
            .filter(|(_, (keep, weight))| **keep * **weight > 0.0)
            .map(|(&label, _)| label)
            .collect();
        classes.sort_unstable();
        classes.dedup();
        let why = if classes.len() < 2 {
            "its training rows are not of two classes".to_string()
        } else if held.iter().all(|&weight| weight == 0.0) {
            "its held-out rows have no weight".to_string()
        } else {
            return self.options.weighting.resolve(train, Some(keep)).map(Some);
        };
        (self.observe)(Progress::Warning(format!(
            "--cv: fold {fold} is left out of the mean: {why}"
        )));
        Ok(None)
    }

    /// Classes with fewer rows than there are folds are missing in some folds.
    fn warn_of_rare_classes(&mut self, folds: Folds) {
        const NAMED: usize = 5;
        let train = self.splits.train;
        let mut rows = vec![0; train.classes()];
        train
            .labels()
            .iter()
            .for_each(|&label| rows[label as usize] += 1);
        let rare: Vec<String> = (rows.iter().enumerate())
            .filter(|(_, rows)| (1..folds.count).contains(rows))
            .map(|(class, rows)| format!("class {class} ({rows})"))
            .collect();
        if rare.is_empty() {
            return;
        }
        let more = match rare.len() > NAMED {
            true => format!(" and {} more", rare.len() - NAMED),
            false => String::new(),
        };
        (self.observe)(Progress::Warning(format!(
            "--cv: fewer rows than the {} folds, so that some folds score none of them: {}{more}",
            folds.count,
            rare[..rare.len().min(NAMED)].join(", ")
        )));
    }
}

/// A model with what it is worth.
struct Certified {
    model: Model,
    outcome: SolveReport,
    limit: Option<Limit>,
    logits: Logits,
}

/// The outputs of a weight (c x d) that are fitted.
fn of_present(weight: Vec<f32>, d: usize, present: Option<&[u32]>) -> Vec<f32> {
    match present {
        None => weight,
        // One of two classes: its one output is W = 0.
        Some(present) if present.len() * d >= weight.len() => vec![0.0; present.len() * d],
        Some(present) => {
            let rows = present.iter();
            rows.flat_map(|&class| weight[class as usize * d..][..d].to_vec())
                .collect()
        }
    }
}

/// Mean loss and accuracy of rows by their logits z + b 1ᵀ, where row i counts wᵢ times.
fn score<T: Real>(samples: &Samples, weights: &[f64], z: &[T], b: &[f64]) -> (f64, f64) {
    let ones = vec![1.0; samples.classes()];
    let scorer = Risk::new(samples.labels(), weights, &ones, 0.0);
    let (loss, _) = scorer.along((z, b), (z, &vec![0.0; b.len()]), 0.0);
    let hits = correct(z, b, samples.labels(), weights);
    (loss, hits / weights.iter().sum::<f64>())
}

/// The smallest over the samples of the largest logit, where some class is not fitted.
fn lowest_maximum<T: Real>(likelihood: &Risk, z: &[T], b: &[f64]) -> f64 {
    match likelihood.present() {
        Some(_) => likelihood.lowest_maximum(z, b),
        None => 0.0,
    }
}

/// Numbers with an output for every class: one that is not fitted has W = 0, and a bias at which
/// its probability of every row is below e⁻³⁷, where f64 sums no longer see it. `lowest` is the
/// smallest over the samples of the largest logit.
fn of_all_classes<'p, W: Copy + Default, T: Real>(
    point: &'p Point<T, W>,
    likelihood: &Risk,
    classes: usize,
    lowest: f64,
) -> Cow<'p, Point<T, W>> {
    const NEVER: f64 = 37.0;
    let Some(present) = likelihood.present() else {
        return Cow::Borrowed(point);
    };
    let (width, rows) = (point.w.len() / present.len(), point.z.len() / present.len());
    let outputs = Loss::for_classes(classes).outputs(classes);
    let mut all = Point {
        w: vec![W::default(); outputs * width],
        // Rounded to f32 it must not be above.
        b: vec![lowest - NEVER - 1e-6 * lowest.abs(); outputs],
        z: vec![T::default(); outputs * rows],
    };
    if outputs == 1 {
        // One of two classes is present.
        all.b[0] = if present == [1] { NEVER } else { -NEVER };
        return Cow::Owned(all);
    }
    for (j, &class) in present.iter().enumerate() {
        let class = class as usize;
        all.w[class * width..][..width].copy_from_slice(&point.w[j * width..][..width]);
        all.b[class] = point.b[j];
        all.z[class * rows..][..rows].copy_from_slice(&point.z[j * rows..][..rows]);
    }
    Cow::Owned(all)
}

/// `count` values from one to the other in equal ratios.
fn ratios(from: f64, to: f64, count: usize) -> Vec<f64> {
    let last = (count - 1) as f64;
    let value = |i: usize| (from.ln() + (to.ln() - from.ln()) * i as f64 / last).exp();
    let mut values: Vec<f64> = (0..count).map(value).collect();
    (values[0], values[count - 1]) = (from, to);
    values
}

/// The entry to choose: the lowest loss on rows that were not fitted, or the strongest penalty
/// within one standard error of it. Without such rows, the last.
fn best(path: &[PathEntry], one_standard_error: bool) -> usize {
    let loss = |entry: &PathEntry| entry.val_loss.unwrap_or(f64::NEG_INFINITY);
    let mut lowest = 0;
    for (i, entry) in path.iter().enumerate() {
        if loss(entry) < loss(&path[lowest]) || entry.val_loss.is_none() {
            lowest = i;
        }
    }
    match (one_standard_error, path[lowest].val_loss_error) {
        (true, Some(error)) => {
            let within = |entry: &PathEntry| loss(entry) <= loss(&path[lowest]) + error;
            path.iter().position(within).unwrap_or(lowest)
        }
        _ => lowest,
    }
}

/// The fold of each row: every class is dealt out in a random order, beginning where the one
/// before ended.
fn assign(samples: &Samples, folds: Folds) -> Vec<usize> {
    let (labels, classes) = (samples.labels(), samples.classes());
    let mut rows_of = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        rows_of[label as usize].push(row);
    }
    let mut rng = TorchRng::new(folds.seed);
    let (mut order, mut next) = (Vec::new(), 0);
    let mut fold_of = vec![0; labels.len()];
    for rows in &rows_of {
        rng.permutation(rows.len() as u32, &mut order);
        for &i in &order {
            fold_of[rows[i as usize]] = next % folds.count;
            next += 1;
        }
    }
    fold_of
}

/// The weight of the rows whose prediction is the label.
fn correct<T: Real>(z: &[T], bias: &[f64], labels: &[u32], weights: &[f64]) -> f64 {
    let (n, c) = (labels.len(), bias.len());
    let loss = Loss::for_classes(c.max(2));
    let of_row = |row: usize| {
        let logits: Vec<f32> = (0..c)
            .map(|j| (z[j * n + row].into() + bias[j]) as f32)
            .collect();
        match loss.predictions(MatRef::new(&logits, c, 1)) == [labels[row]] {
            true => weights[row],
            false => 0.0,
        }
    };
    let rows = (0..n).into_par_iter().share(Work::exponentials(n * c));
    let of_rows: Vec<f64> = rows.map(of_row).collect();
    of_rows.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solver::minimizer::Products;

    fn entry(l2: f64, val_loss: Option<f64>, val_loss_error: Option<f64>) -> PathEntry {
        let outcome = SolveReport {
            status: Status::Converged,
            measured_on: MeasuredOn::Coordinates,
            objective: 0.0,
            loss: 0.0,
            gradient_norm: 0.0,
            initial_gradient_norm: 0.0,
            gap: None,
            decrement: None,
            separated_class: None,
            iterations: 0,
            products: Products::default(),
        };
        PathEntry {
            l2,
            outcome,
            val_loss,
            val_loss_error,
            val_accuracy: None,
        }
    }

    #[test]
    fn the_choice_is_the_lowest_or_the_strongest_within_its_error() {
        let path: Vec<PathEntry> = [(3.0, 2.0), (1.0, 1.2), (0.3, 1.0), (0.1, 1.5)]
            .map(|(l2, loss)| entry(l2, Some(loss), Some(0.25)))
            .to_vec();
        assert_eq!(best(&path, false), 2);
        assert_eq!(best(&path, true), 1);
        assert_eq!(best(&[entry(1.0, None, None)], false), 0);
        assert_eq!(
            best(&[entry(1.0, None, None), entry(0.1, None, None)], false),
            1
        );
    }

    #[test]
    fn paths_are_geometric_and_end_where_they_should() {
        let path = ratios(10.0, 0.001, 5);
        assert_eq!((path[0], path[4]), (10.0, 0.001));
        assert!((path[2] - 0.1).abs() < 1e-15);
    }

    #[test]
    fn folds_are_stratified_disjoint_and_even() {
        let labels: Vec<i64> = (0..107).map(|i| (i * i + i / 7) % 4).collect();
        let x = vec![0.0; labels.len()];
        let samples = Samples::new(&x, 1, &labels, 4).unwrap();
        let folds = |count, seed| Folds {
            count,
            seed,
            one_standard_error: false,
        };
        let fold_of = assign(&samples, folds(5, 7));
        assert_eq!(fold_of, assign(&samples, folds(5, 7)));
        assert_ne!(fold_of, assign(&samples, folds(5, 8)));
        for fold in 0..5 {
            let of = |class: Option<u32>| {
                let rows = fold_of.iter().zip(samples.labels());
                rows.filter(|&(&f, &l)| f == fold && class.is_none_or(|c| c == l))
                    .count()
            };
            assert!((21..=22).contains(&of(None)));
            for class in 0..4 {
                let rows = samples.labels().iter().filter(|&&l| l == class).count();
                let here = of(Some(class));
                assert!(
                    here == rows / 5 || here == rows.div_ceil(5),
                    "{here} of {rows}"
                );
            }
        }
    }
}
