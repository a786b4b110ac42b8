//! The story of a converged fit: a penalty or a path of them, the optimum for each, a choice
//! among them by rows that were not fitted, the model.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;

use crate::data::samples::{Rows, Samples, Splits};
use crate::engine::{
    self, CentredGram, Choice, GramSpace, Kind, PrimalSpace, Real, Space, largest_eigenvalue,
};
use crate::error::{Error, Result};
use crate::gemm::{Backend, Gemm};
use crate::interrupt;
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
    /// Gradient norm that is small enough, as a share of that at W = 0, b = 0.
    pub tolerance: f64,
    /// Most steps for one penalty.
    pub max_iterations: usize,
    /// How the weight is represented.
    pub engine: Choice,
    /// Who multiplies f32 matrices.
    pub backend: Backend,
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

/// What an observer of a converged fit hears.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The engine was chosen.
    Engine(Kind),
    /// The Gram matrix or the moments grow: columns of X so far.
    Columns(usize),
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
/// features than it holds, [`Error::Shape`] for rows or weights that do not fit together, [`Error::Interrupted`] after a signal.
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
        let mut fit = on_space(splits, options, gemm, observe)?;
        if let (true, Some(validation)) = (options.refit_all, splits.validation) {
            let both = splits.train.joined(validation)?;
            let only = ConvergeOptions {
                penalty: Penalty::Value(fit.l2),
                folds: None,
                ..options.clone()
            };
            let refit = on_space((&both.samples()?).into(), &only, gemm, observe)?;
            fit = Converged {
                path: fit.path,
                ..refit
            };
        }
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

/// Choose the engine and go.
fn on_space(
    splits: Splits,
    options: &ConvergeOptions,
    gemm: Gemm,
    observe: &mut (dyn FnMut(Progress) + Send),
) -> Result<Converged> {
    let x = splits.train.x();
    let mut engine = choose(x, options.engine)?;
    observe(Progress::Engine(engine));
    let mut columns = |columns| {
        observe(Progress::Columns(columns));
        interrupt::check()
    };
    if engine == Kind::Gram {
        match CentredGram::new(x, gemm, &mut columns) {
            // The primal engine may reach what K cannot hold.
            Err(Error::Memory { .. }) if options.engine == Choice::Auto => engine = Kind::Primal,
            gram => {
                let mut space = GramSpace::new(x, gram?, gemm)?;
                return Search::new(splits, options, engine, &mut space, observe)?.run();
            }
        }
    }
    let mut space = PrimalSpace::new(x, gemm, &mut columns)?;
    Search::new(splits, options, engine, &mut space, observe)?.run()
}

/// Gram coordinates where there are no more rows than features and memory holds the matrices:
/// K and a factor in f64, and room while K is made.
fn choose(x: &Rows, choice: Choice) -> Result<Kind> {
    let (n, d) = (x.len(), x.features());
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
    /// The strongest first.
    penalties: Vec<f64>,
    observe: &'a mut (dyn FnMut(Progress) + Send),
}

/// A point on a path, with the end of its search.
struct Found<T> {
    point: Point<T>,
    outcome: Outcome,
    steps: Vec<Step>,
}

impl<'a, S: Space> Search<'a, S> {
    fn new(
        splits: Splits<'a>,
        options: &'a ConvergeOptions,
        engine: Kind,
        space: &'a mut S,
        observe: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        let weights = options.weighting.of(splits.train)?;
        let mut search = Search {
            splits,
            options,
            engine,
            space,
            weights,
            penalties: Vec::new(),
            observe,
        };
        search.penalties = search.penalties()?;
        Ok(search)
    }

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
            self.space.logits(&w, &mut z);
            let values = out.iter_mut().zip(&z);
            values.for_each(|(out, &z)| *out = z.into() as f32);
        });
        h * largest / n as f64
    }

    fn run(mut self) -> Result<Converged> {
        let (path, chosen) = match self.options.folds {
            Some(folds) => {
                let path = self.cross_validate(folds)?;
                let chosen = best(&path, folds.one_standard_error);
                (path, chosen)
            }
            None => return self.by_validation(),
        };
        // From the strongest penalty to the chosen one, on all rows.
        let likelihood = self.likelihood(&self.weights.clone());
        let mut found = None;
        for entry in &path[..=chosen] {
            found =
                Some(self.search(&likelihood, entry.l2, found, None, self.options.tolerance)?);
        }
        let found = found.expect("at least one penalty");
        let point = of_all_classes(&found.point, &likelihood, self.splits.train.classes());
        let model = self.space.model(&point.w, &point.b);
        self.done(model, path[chosen].l2, found, path)
    }

    /// All penalties on all rows; the model is that of the lowest validation loss.
    fn by_validation(mut self) -> Result<Converged> {
        let likelihood = self.likelihood(&self.weights.clone());
        let auto = self.options.penalty == Penalty::Auto;
        let (mut path, mut found) = (Vec::<PathEntry>::new(), None);
        let mut chosen: Option<(f64, Model, Found<S::Real>)> = None;
        for l2 in self.penalties.clone() {
            let last = self.search(&likelihood, l2, found, None, self.options.tolerance)?;
            let point = of_all_classes(&last.point, &likelihood, self.splits.train.classes());
            let model = self.space.model(&point.w, &point.b);
            let score = match self.splits.validation {
                Some(validation) => Some(model.evaluate(validation)?),
                None => None,
            };
            let entry = PathEntry {
                l2,
                outcome: last.outcome,
                val_loss: score.map(|score| score.loss),
                val_loss_error: None,
                val_accuracy: score.map(|score| score.accuracy),
            };
            path.push(entry.clone());
            (self.observe)(Progress::Scored(entry));
            let best = best(&path, false);
            if best == path.len() - 1 {
                let kept = Found {
                    point: last.point.clone(),
                    outcome: last.outcome,
                    steps: last.steps.clone(),
                };
                chosen = Some((l2, model, kept));
            }
            if auto && path.len() - 1 - best >= AUTO_PATIENCE {
                break;
            }
            found = Some(last);
        }
        let (l2, model, found) = chosen.expect("at least one penalty");
        self.done(model, l2, found, path)
    }

    fn done(
        self,
        model: Model,
        l2: f64,
        found: Found<S::Real>,
        path: Vec<PathEntry>,
    ) -> Result<Converged> {
        Ok(Converged {
            model,
            l2,
            outcome: found.outcome,
            path,
            steps: found.steps,
            engine: self.engine,
            threads: 0,
            seconds: 0.0,
        })
    }

    fn likelihood(&self, weights: &[f64]) -> Likelihood<'a> {
        let train = self.splits.train;
        let smoothing = self.options.weighting.label_smoothing;
        Likelihood::new(train.labels(), train.classes(), weights, smoothing).of_present_classes()
    }

    /// The optimum for a penalty, from the last one's.
    fn search(
        &mut self,
        likelihood: &Likelihood,
        l2: f64,
        from: Option<Found<S::Real>>,
        fold: Option<usize>,
        tolerance: f64,
    ) -> Result<Found<S::Real>> {
        let start = match from {
            // Weights that only tell rows apart are no start for a penalty.
            Some(found) if found.outcome.status != Status::Separable => found.point,
            _ => Point::zero(self.space, likelihood.outputs()),
        };
        let stop = Stop {
            tolerance,
            iterations: self.options.max_iterations,
        };
        let mut steps = Vec::new();
        let observe = &mut self.observe;
        let mut watch = |step: Step| {
            steps.push(step);
            observe(Progress::Step { l2, fold, step });
            match interrupt::signal() {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            }
        };
        let (point, outcome) = match self.options.optimizer {
            Optimizer::Newton => newton(self.space, likelihood, l2, start, stop, &mut watch),
            Optimizer::Lbfgs => lbfgs(self.space, likelihood, l2, start, stop, &mut watch),
        };
        interrupt::check()?;
        Ok(Found {
            point,
            outcome,
            steps,
        })
    }

    /// Every penalty in every fold: a fold's held-out rows are in the matrices like all others,
    /// but have no weight, and their logits come with the others'.
    fn cross_validate(&mut self, folds: Folds) -> Result<Vec<PathEntry>> {
        /// Scores of folds differ by far more than this tolerance makes of them.
        const TOLERANCE: f64 = 1e-3;
        let train = self.splits.train;
        let of_rows = assign(train, folds)?;
        let tolerance = self.options.tolerance.max(TOLERANCE);
        let mut scores: Vec<Vec<(f64, f64)>> = vec![Vec::new(); self.penalties.len()];
        let mut outcomes = Vec::new();
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
            let mut found = None;
            for (i, l2) in self.penalties.clone().into_iter().enumerate() {
                let last = self.search(&likelihood, l2, found, Some(fold), tolerance)?;
                let point = of_all_classes(&last.point, &likelihood, train.classes());
                let Point { b, z, .. } = &*point;
                let loss = scorer.loss_along((z, b), (z, &vec![0.0; b.len()]), 0.0);
                let right = hits(z, b, train.labels(), &held_out);
                let rows = (0..weights.len()).filter(|&row| held_out(row)).count();
                scores[i].push((loss, right as f64 / rows as f64));
                if fold == 0 {
                    outcomes.push(last.outcome);
                }
                found = Some(last);
            }
        }
        let entries = self.penalties.iter().zip(&scores).zip(outcomes);
        let path: Vec<PathEntry> = entries
            .map(|((&l2, scores), outcome)| {
                let k = scores.len() as f64;
                let mean = scores.iter().map(|(loss, _)| loss).sum::<f64>() / k;
                let square = |(loss, _): &(f64, f64)| (loss - mean).powi(2);
                let variance = scores.iter().map(square).sum::<f64>() / (k - 1.0);
                PathEntry {
                    l2,
                    outcome,
                    val_loss: Some(mean),
                    val_loss_error: Some((variance / k).sqrt()),
                    val_accuracy: Some(scores.iter().map(|(_, a)| a).sum::<f64>() / k),
                }
            })
            .collect();
        for entry in &path {
            (self.observe)(Progress::Scored(entry.clone()));
        }
        Ok(path)
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
