//! The story of a converged fit: a penalty or a path of them, the optimum for each, a choice
//! among them by rows that were not fitted, the model.

use std::borrow::Cow;
use std::time::Instant;

use rayon::prelude::*;

use crate::checkpoint::{Checkpoints, Identity};
use crate::data::samples::{Samples, Splits};
use crate::engine::{
    self, CentredGram, Choice, GramSpace, Kind, PrimalSpace, Real, Space, largest_eigenvalue,
};
use crate::error::{Error, Result};
use crate::gemm::{Backend, Gemm};
use crate::journal::{Found, Journal, Searched, Watched};
use crate::kernels::Isa;
use crate::likelihood::Likelihood;
use crate::mat::MatRef;
use crate::model::Model;
use crate::objective::Loss;
use crate::optim::descent::{Outcome, Point, Status, Step, Stop};
use crate::optim::lbfgs::lbfgs;
use crate::optim::newton::newton;
use crate::threads;
use crate::torch_rng::TorchRng;
use crate::weighting::Weighting;

/// Penalties of `--l2 auto`.
const AUTO_COUNT: usize = 20;
/// From the strongest of them to the weakest.
const AUTO_RANGE: f64 = 1e-6;
/// Penalties past the best one after which an automatic path ends.
const AUTO_PATIENCE: usize = 3;

/// What to fit and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvergeOptions {
    /// Who goes to the optimum.
    pub optimizer: Optimizer,
    /// The penalty or penalties.
    pub penalty: Penalty,
    /// What chooses among penalties: with `None`, the validation rows.
    pub folds: Option<Folds>,
    /// Fit the chosen penalty once more, on the validation rows as well.
    pub refit_all: bool,
    /// How much each sample counts.
    pub weighting: Weighting,
    /// Gradient norm that is small enough, as a share of that at W = 0, b = 0; the certified gap
    /// must also be below 100 times this share of the objective.
    pub tolerance: f64,
    /// Most steps for one penalty.
    pub max_iterations: usize,
    /// How the weight is represented.
    pub engine: Choice,
    /// Who multiplies f32 matrices.
    pub backend: Backend,
    /// Where to save the state now and then, to go on from after a stop.
    pub checkpoints: Option<Checkpoints>,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
}

impl Default for ConvergeOptions {
    /// Newton's method at scikit-learn's C = 1, to 1e-5 of the initial gradient.
    fn default() -> Self {
        ConvergeOptions {
            optimizer: Optimizer::Newton,
            penalty: Penalty::OneOverRows,
            folds: None,
            refit_all: false,
            weighting: Weighting::default(),
            tolerance: 1e-5,
            max_iterations: 1000,
            engine: Choice::Auto,
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
    /// 1/n: scikit-learn's C = 1.
    OneOverRows,
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
    pub outcome: Outcome,
    /// Mean loss on rows that were not fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Standard error of that mean over the folds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss_error: Option<f64>,
    /// Accuracy on rows that were not fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
}

impl From<&Searched> for PathEntry {
    fn from(searched: &Searched) -> PathEntry {
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
    Engine(Kind),
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
}

/// A converged fit.
#[derive(Clone, Debug)]
pub struct Converged {
    /// The model.
    pub model: Model,
    /// The penalty of the model.
    pub l2: f64,
    /// The end of the search for the model.
    pub outcome: Outcome,
    /// All penalties that were tried, the strongest first.
    pub path: Vec<PathEntry>,
    /// Steps of the search for the model.
    pub steps: Vec<Step>,
    /// The engine that did it.
    pub engine: Kind,
    /// Threads it used.
    pub threads: usize,
    /// Seconds from the options to the model.
    pub seconds: f64,
}

/// The optimum of `mean loss + (l2/2) |W|²`, b free, for the penalty that is given or chosen.
///
/// ```
/// use flowreg::converge::{ConvergeOptions, Penalty, converge};
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
pub fn converge<'a>(
    data: impl Into<Splits<'a>>,
    options: &ConvergeOptions,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<Converged> {
    let started = Instant::now();
    let splits = data.into();
    check(splits, options)?;
    Isa::chosen()?;
    let pool = threads::pool(options.threads)?;
    pool.install(|| {
        let threads = pool.current_num_threads();
        let gemm = Gemm::new(options.backend, threads);
        let checkpoints = options.checkpoints.as_ref();
        let mut journal = Journal::new(checkpoints, || identity(splits, options))?;
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
                Converged { path, ..refit }
            }
        };
        fit.threads = threads;
        fit.seconds = started.elapsed().as_secs_f64();
        Ok(fit)
    })
}

fn check(splits: Splits, options: &ConvergeOptions) -> Result<()> {
    let positive = |option, value: f64| match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::options(option, value, "a finite number above 0")),
    };
    match options.penalty {
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
        _ => {}
    }
    let (n, d) = (splits.train.rows(), splits.train.features());
    if options.engine == Choice::Gram && n > d {
        // Nothing tells what of a gradient lies in K's null space from rounding.
        return Err(Error::options(
            "--engine",
            format!("gram, for {n} rows of {d} features"),
            "primal (or auto), whose matrices are smaller where rows outnumber features",
        ));
    }
    positive("--tolerance", options.tolerance)?;
    let several = matches!(options.penalty, Penalty::Path { .. } | Penalty::Auto);
    if several && options.folds.is_none() && splits.validation.is_none() {
        return Err(Error::options(
            "--l2",
            "several penalties and no rows to choose by",
            "--val-split or --cv, which choose one, or one --l2",
        ));
    }
    if options.refit_all && splits.validation.is_none() {
        let expected = "--val-split, whose rows it adds";
        return Err(Error::options("--refit", "all", expected));
    }
    if options.refit_all && options.weighting.samples.is_some() {
        return Err(Error::options(
            "--refit",
            "all with --sample-weight, which has no weights for the validation rows",
            "train",
        ));
    }
    options.weighting.check()?;
    splits.check_shapes()
}

/// Everything that the fit's bits depend on, each as the command line calls it. The number of
/// threads is not among it; the instruction set is, as faer's products in f64 depend on it.
fn identity(splits: Splits, options: &ConvergeOptions) -> Result<Identity> {
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
        Penalty::OneOverRows => "1/n".to_string(),
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
fn choice(journal: &Journal, options: &ConvergeOptions) -> Result<(Vec<PathEntry>, usize)> {
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
    options: &ConvergeOptions,
    gemm: Gemm,
    l2: Option<f64>,
    journal: &mut Journal,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<Converged> {
    let x = splits.train.x();
    let mut engine = choose(x.len(), x.features(), options.engine)?;
    observe(Progress::Engine(engine));
    let mut columns = |columns| {
        observe(Progress::Columns(columns));
        journal.check()
    };
    if engine == Kind::Gram {
        match CentredGram::new(x, gemm, &mut columns) {
            // The primal engine may reach what K cannot hold.
            Err(Error::Memory { .. }) if options.engine == Choice::Auto => engine = Kind::Primal,
            gram => {
                let mut space = GramSpace::new(x, gram?, gemm)?;
                return Search::new(splits, options, engine, &mut space, journal, observe)?.run(l2);
            }
        }
    }
    let mut space = PrimalSpace::new(x, gemm, &mut columns)?;
    Search::new(splits, options, engine, &mut space, journal, observe)?.run(l2)
}

/// Gram coordinates where there are no more rows than features and memory holds the matrices:
/// K and a factor in f64, and room while K is made.
fn choose(n: usize, d: usize, choice: Choice) -> Result<Kind> {
    let bytes = |side: usize| (side as u128).saturating_mul(side as u128) * 28;
    let fits = |bytes: u128| {
        engine::available_memory().is_none_or(|available| bytes <= u128::from(available))
    };
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
        Choice::Gram if !fits(bytes(n)) => refuse("gram", n, "primal (or auto), or more memory"),
        Choice::Gram => Ok(Kind::Gram),
        Choice::Auto if n <= d && fits(bytes(n)) => Ok(Kind::Gram),
        _ if !fits(bytes(n.min(d))) => refuse(
            "primal",
            n.min(d),
            "--optimizer sgd, fewer rows or features, or more memory",
        ),
        _ => Ok(Kind::Primal),
    }
}

/// A converged fit whose engine is known.
struct Search<'a, S: Space> {
    splits: Splits<'a>,
    options: &'a ConvergeOptions,
    engine: Kind,
    space: &'a mut S,
    weights: Vec<f64>,
    journal: &'a mut Journal,
    observe: &'a mut (dyn FnMut(Progress) + Send),
    /// The last optimum, from which the next search begins.
    last: Option<Found<S::Real>>,
    /// The best so far, where rows that were not fitted choose among all.
    best: Option<Found<S::Real>>,
}

/// A penalty to go to.
#[derive(Clone, Copy)]
struct Task {
    l2: f64,
    fold: Option<usize>,
    tolerance: f64,
}

impl<'a, S: Space> Search<'a, S> {
    fn new(
        splits: Splits<'a>,
        options: &'a ConvergeOptions,
        engine: Kind,
        space: &'a mut S,
        journal: &'a mut Journal,
        observe: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        Ok(Search {
            weights: options.weighting.of(splits.train)?,
            splits,
            options,
            engine,
            space,
            journal,
            observe,
            last: None,
            best: None,
        })
    }

    /// The strongest first.
    fn penalties(&mut self) -> Result<Vec<f64>> {
        let n = self.splits.train.rows();
        Ok(match self.options.penalty {
            Penalty::OneOverRows => vec![1.0 / n as f64],
            Penalty::Value(l2) => vec![l2],
            Penalty::Path { from, to, count } => ratios(from.max(to), from.min(to), count),
            Penalty::Auto => {
                let strongest = self.curvature();
                if !(strongest.is_finite() && strongest > 0.0) {
                    let found = format!("auto, where the features' curvature is {strongest}");
                    let expected = "numbers of your own: --l2 or --l2-path";
                    return Err(Error::options("--l2", found, expected));
                }
                ratios(strongest, AUTO_RANGE * strongest, AUTO_COUNT)
            }
        })
    }

    /// h λmax(Xc Xcᵀ)/n at W = 0.
    fn curvature(&mut self) -> f64 {
        let n = self.space.rows();
        let classes = self.splits.train.classes() as f64;
        let h = match Loss::for_classes(self.splits.train.classes()) {
            Loss::Softmax => (1.0 - 1.0 / classes) / classes,
            Loss::Logistic => 0.25,
        };
        let mut w = vec![0.0; self.space.width()];
        let (mut g, mut z) = (vec![S::Real::default(); n], vec![S::Real::default(); n]);
        let largest = largest_eigenvalue(n, |v, out| {
            let values = g.iter_mut().zip(v);
            values.for_each(|(g, &v)| *g = S::Real::of(f64::from(v)));
            self.space.pullback(&g, &mut w);
            self.space.logits_of_direction(&w, &mut z);
            let values = out.iter_mut().zip(&z);
            values.for_each(|(out, &z)| *out = z.into() as f32);
        });
        h * largest / n as f64
    }

    fn run(mut self, l2: Option<f64>) -> Result<Converged> {
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
    fn on_all_rows(mut self, penalties: &[f64], path: Vec<PathEntry>) -> Result<Converged> {
        let likelihood = self.likelihood(&self.weights.clone());
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
    fn by_validation(mut self) -> Result<Converged> {
        let likelihood = self.likelihood(&self.weights.clone());
        let auto = self.options.penalty == Penalty::Auto;
        let mut path = Vec::new();
        for l2 in self.penalties()? {
            let searched = self.search(&likelihood, self.task(l2), |search, found| {
                let Some(validation) = search.splits.validation else {
                    return Ok(None);
                };
                let model = found.model.insert(search.model(&likelihood, &found.point));
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
                self.best = Some(Found {
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
        likelihood: &Likelihood,
        (l2, outcome): (f64, Outcome),
        found: Option<Found<S::Real>>,
        path: Vec<PathEntry>,
    ) -> Result<Converged> {
        // Without one, all searches were made before: there would be no checkpoint.
        let found = found.ok_or_else(|| self.journal.foreign())?;
        let model = match found.model {
            Some(model) => model,
            None => self.model(likelihood, &found.point),
        };
        Ok(Converged {
            model,
            l2,
            outcome,
            path,
            steps: found.steps,
            engine: self.engine,
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

    fn model(&mut self, likelihood: &Likelihood, point: &Point<S::Real>) -> Model {
        let point = of_all_classes(point, likelihood, self.splits.train.classes());
        self.space.model(&point.w, &point.b)
    }

    fn likelihood(&self, weights: &[f64]) -> Likelihood<'a> {
        let train = self.splits.train;
        let smoothing = self.options.weighting.label_smoothing;
        Likelihood::new(train.labels(), train.classes(), weights, smoothing).of_present_classes()
    }

    /// The optimum for a penalty, from the last one's, and its score; or what the journal says
    /// of it.
    fn search(
        &mut self,
        likelihood: &Likelihood,
        task: Task,
        score: impl FnOnce(&mut Self, &mut Found<S::Real>) -> Result<Option<(f64, f64)>>,
    ) -> Result<Searched> {
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
            self.best = Some(Found {
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
        let stop = Stop {
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
        let mut found = Found {
            point,
            steps: Vec::new(),
            model: None,
        };
        let searched = Searched {
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
    /// of those held out, which have no weight, with the others'.
    fn cross_validate(&mut self, folds: Folds) -> Result<()> {
        /// Scores of folds differ by far more than this tolerance makes of them.
        const TOLERANCE: f64 = 1e-3;
        let train = self.splits.train;
        let of_rows = assign(train, folds)?;
        let penalties = self.penalties()?;
        for fold in 0..folds.count {
            let held_out = |row: usize| of_rows[row] == fold;
            let mut weights = self.weights.clone();
            let mut score_weights = vec![0.0; weights.len()];
            for row in (0..weights.len()).filter(|&row| held_out(row)) {
                score_weights[row] = std::mem::take(&mut weights[row]);
            }
            let total: f64 = weights.iter().sum();
            let held: f64 = score_weights.iter().sum();
            if !(total > 0.0 && held > 0.0) {
                let found = format!("a fold {fold} without weight");
                let expected = "fewer folds, or weights that every fold has";
                return Err(Error::options("--cv", found, expected));
            }
            let likelihood = self.likelihood(&weights);
            let scorer = Likelihood::new(train.labels(), train.classes(), &score_weights, 0.0);
            // A search ends with the logits of all rows multiplied out.
            let score = |found: &Found<S::Real>| {
                let point = of_all_classes(&found.point, &likelihood, train.classes());
                let Point { b, z, .. } = &*point;
                let (loss, _) = scorer.along((z, b), (z, &vec![0.0; b.len()]), 0.0);
                let right = hits(z, b, train.labels(), &held_out);
                let rows = (0..weights.len()).filter(|&row| held_out(row)).count();
                (loss, right as f64 / rows as f64)
            };
            let rows = 0..weights.len();
            let fitted = rows.filter(|&row| !held_out(row)).map(|row| row as u32);
            self.space.fit_rows(Some(fitted.collect()))?;
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
        self.space.fit_rows(None)
    }
}

/// The point with an output for every class: one without rows has W = 0, and a bias at which
/// its probability of every row is below e⁻³⁷, where f64 sums no longer see it.
fn of_all_classes<'p, T: Real>(
    point: &'p Point<T>,
    likelihood: &Likelihood,
    classes: usize,
) -> Cow<'p, Point<T>> {
    const NEVER: f64 = 37.0;
    let Some(present) = likelihood.present() else {
        return Cow::Borrowed(point);
    };
    let (width, rows) = (point.w.len() / present.len(), point.z.len() / present.len());
    let lowest = likelihood.lowest_maximum(&point.z, &point.b);
    let outputs = Loss::for_classes(classes).outputs(classes);
    let mut all = Point {
        w: vec![0.0; outputs * width],
        b: vec![lowest - NEVER; outputs],
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
fn assign(samples: &Samples, folds: Folds) -> Result<Vec<usize>> {
    let (labels, classes) = (samples.labels(), samples.classes());
    let mut rows_of = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        rows_of[label as usize].push(row);
    }
    let smallest = rows_of.iter().map(Vec::len).filter(|&len| len > 0).min();
    let most = smallest.unwrap_or(0);
    if !(2..=most).contains(&folds.count) {
        let expected = format!("2 to {most}, the rows of the smallest class");
        return Err(Error::options("--cv", folds.count, expected));
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
    Ok(fold_of)
}

/// Rows of these whose prediction is the label.
fn hits<T: Real>(
    z: &[T],
    bias: &[f64],
    labels: &[u32],
    of: &(impl Fn(usize) -> bool + Sync),
) -> usize {
    let (n, c) = (labels.len(), bias.len());
    let loss = Loss::for_classes(c.max(2));
    (0..n)
        .into_par_iter()
        .filter(|&row| of(row))
        .filter(|&row| {
            let logits: Vec<f32> = (0..c)
                .map(|j| (z[j * n + row].into() + bias[j]) as f32)
                .collect();
            loss.predictions(MatRef::new(&logits, c, 1)) == [labels[row]]
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::descent::Products;

    fn entry(l2: f64, val_loss: Option<f64>, val_loss_error: Option<f64>) -> PathEntry {
        let outcome = Outcome {
            status: Status::Converged,
            objective: 0.0,
            loss: 0.0,
            gradient_norm: 0.0,
            initial_gradient_norm: 0.0,
            gap: None,
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
        let fold_of = assign(&samples, folds(5, 7)).unwrap();
        assert_eq!(fold_of, assign(&samples, folds(5, 7)).unwrap());
        assert_ne!(fold_of, assign(&samples, folds(5, 8)).unwrap());
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
        assert!(assign(&samples, folds(1, 0)).is_err());
        assert!(assign(&samples, folds(1000, 0)).is_err());
    }
}
