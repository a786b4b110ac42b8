//! The options of a converged fit.

use crate::design::plan::EngineChoice;
use crate::design::scaler::Standardize;
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoints;
use crate::linalg::gemm::Backend;
use crate::loss::weights::SampleWeights;
use crate::model::Model;
use crate::progress::Cancel;

/// The options of [`fit_path`](crate::fit_path).
#[derive(Clone, Debug, PartialEq)]
pub struct PathOptions {
    /// The solver.
    pub optimizer: Optimizer,
    /// The penalty or penalties.
    pub penalty: Penalty,
    /// Folds that choose among penalties. With `None` the validation rows choose; without those,
    /// none is chosen (see [`Emit::models`]).
    pub folds: Option<Folds>,
    /// Whether to fit the chosen penalty once more, on training and validation rows together.
    pub refit_all: bool,
    /// What the callback receives of each solve besides its score.
    pub emit: Emit,
    /// The model from which the first solve of the path and of each fold starts, instead of W = 0,
    /// b = 0. It must have the features and classes of the rows. It is ignored if its objective is
    /// above that of W = 0, b = 0. The optimum does not depend on it.
    pub start: Option<Model>,
    /// Whether there is a bias. Without one b = 0, and features are not centred.
    pub fit_intercept: bool,
    /// The weights of samples and classes, and label smoothing.
    pub weighting: SampleWeights,
    /// The scaling of the features during the fit. The penalty applies to the weight of the scaled
    /// features; the model is of the features before scaling. Each fold scales by its fitted rows.
    pub standardize: Standardize,
    /// `converged` means: |∇F| <= tolerance · |∇F(W = 0, b = 0)|, and gap <= 100 · tolerance · F.
    pub tolerance: f64,
    /// The tolerance of the solves of folds, unless [`PathOptions::tolerance`] is larger. Scores of
    /// neighbouring penalties are compared on the same folds, so folds need nearly the tolerance of the
    /// model: at 1e-3 the weakest penalties of wide data are chosen wrongly.
    pub fold_tolerance: f64,
    /// Largest number of steps for one penalty.
    pub max_iterations: usize,
    /// The representation of the weight.
    pub engine: EngineChoice,
    /// The back end of products of f32 matrices.
    pub backend: Backend,
    /// Where and how often to save the state, from which a stopped fit resumes.
    pub checkpoints: Option<Checkpoints>,
    /// Number of threads; `None`: those of the caller's pool, or one for each core.
    pub threads: Option<usize>,
    /// Stops the fit when it is set.
    pub cancel: Option<Cancel>,
}

impl Default for PathOptions {
    /// Newton's method at scikit-learn's C = 1, to 1e-5 of the initial gradient.
    fn default() -> Self {
        PathOptions {
            optimizer: Optimizer::Newton,
            penalty: Penalty::C(1.0),
            folds: None,
            refit_all: false,
            emit: Emit::default(),
            start: None,
            fit_intercept: true,
            weighting: SampleWeights::default(),
            standardize: Standardize::None,
            tolerance: 1e-5,
            fold_tolerance: 1e-5,
            max_iterations: 1000,
            engine: EngineChoice::Auto,
            backend: Backend::default(),
            checkpoints: None,
            threads: None,
            cancel: None,
        }
    }
}

/// The results that the callback receives, as an [`Event`](crate::Event), at the end of each solve
/// of a path. The fit does not keep them. Folds are solved to [`PathOptions::fold_tolerance`]. The
/// refit of [`PathOptions::refit_all`] emits nothing. A resumed fit repeats neither the solves that
/// its checkpoint records nor their events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// Logits of the rows that were held out: [`Event::HeldOut`](crate::Event::HeldOut), once for
    /// each fold and penalty, or for each penalty with validation rows.
    pub held_out: bool,
    /// Models: [`Event::Solved`](crate::Event::Solved), once for each fold and penalty, and for
    /// each penalty on all rows. If it is set, several penalties are allowed without validation rows
    /// and folds: all are fitted, none is chosen, and the model of the fit is that of the weakest.
    /// Cost of a model in Gram coordinates: 2ncd flop.
    pub models: bool,
}

/// The solver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Newton's method; conjugate gradients solve its systems.
    Newton,
    /// L-BFGS, preconditioned.
    Lbfgs,
}

/// The penalty l2 of `mean loss + (l2/2) |W|²`, or several. Several penalties are solved from the
/// strongest to the weakest, each from the optimum of the last; the order of the list is ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Penalty {
    /// scikit-learn's C: l2 = 1/(C Σ wᵢ), where wᵢ is the weight of row i (1 without weights);
    /// infinity is no penalty. In a fold the sum is over the fitted rows, as in scikit-learn.
    C(f64),
    /// Several values of C, each once.
    Cs(Vec<f64>),
    /// One l2; 0 is no penalty.
    Value(f64),
    /// Several values of l2, each once.
    List(Vec<f64>),
    /// `count` values of l2, geometrically spaced.
    Path {
        /// One end.
        from: f64,
        /// The other end.
        to: f64,
        /// Number of penalties, both ends included.
        count: usize,
    },
    /// Twenty penalties over six decades, down from `h λmax(Xc Xcᵀ)/n`, where h is the second
    /// derivative of the loss in one logit at W = 0 and Xc has centred features: a penalty that
    /// halves even the steepest direction. With validation rows the path ends after three penalties
    /// in a row without a lower validation loss.
    Auto,
}

/// Largest number of penalties of a path.
const MAX_PENALTIES: usize = 10_000;

impl Penalty {
    /// Whether there is more than one penalty.
    pub(super) fn is_several(&self) -> bool {
        match self {
            Penalty::C(_) | Penalty::Value(_) => false,
            Penalty::Cs(values) | Penalty::List(values) => values.len() > 1,
            Penalty::Path { .. } | Penalty::Auto => true,
        }
    }

    /// The values of C, if the penalties are given as such.
    pub(super) fn cs(&self) -> Option<&[f64]> {
        match self {
            Penalty::C(c) => Some(std::slice::from_ref(c)),
            Penalty::Cs(cs) => Some(cs),
            _ => None,
        }
    }

    /// Check that all values are valid penalties.
    fn check(&self) -> Result<()> {
        match self {
            Penalty::C(c) if c.is_nan() || *c <= 0.0 => Err(Error::options("`C`", c, ABOVE_ZERO)),
            Penalty::Cs(values) => check_list("penalty (Cs)", values, |c| c > 0.0, ABOVE_ZERO),
            Penalty::Value(l2) if !(l2.is_finite() && *l2 >= 0.0) => {
                let expected = "a finite number, 0 or above";
                Err(Error::options("`l2`", l2, expected))
            }
            Penalty::List(values) => {
                let is_l2 = |l2: f64| l2.is_finite() && l2 >= 0.0;
                check_list(
                    "penalty (List)",
                    values,
                    is_l2,
                    "finite numbers, 0 or above",
                )
            }
            Penalty::Path { from, to, count } => {
                positive("`penalties`", *from)?;
                positive("`penalties`", *to)?;
                if !(2..=MAX_PENALTIES).contains(count) {
                    let expected = format!("2 to {MAX_PENALTIES} penalties");
                    return Err(Error::options("`penalties`", count, expected));
                }
                Ok(())
            }
            Penalty::C(_) | Penalty::Value(_) | Penalty::Auto => Ok(()),
        }
    }
}

/// What is expected of values of C.
const ABOVE_ZERO: &str = "numbers above 0, or inf, which is no penalty";

fn positive(option: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::options(option, value, "a finite number above 0"))
    }
}

/// Check that a list is neither empty nor too long, and has no value twice and only `allowed` ones.
fn check_list(
    option: &'static str,
    values: &[f64],
    allowed: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<()> {
    if !(1..=MAX_PENALTIES).contains(&values.len()) {
        let found = format!("{} values", values.len());
        let expected = format!("1 to {MAX_PENALTIES} values");
        return Err(Error::options(option, found, expected));
    }
    if let Some(at) = values.iter().position(|&value| !allowed(value)) {
        let found = format!("{} at {at}", values[at]);
        return Err(Error::options(option, found, expected));
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let found = format!("{} twice", pair[0]);
        return Err(Error::options(option, found, "each value once"));
    }
    Ok(())
}

/// Cross-validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    /// The rows that each fold fits and scores.
    pub rows: FoldRows,
    /// Whether to choose the strongest penalty whose loss is within one standard error of the
    /// lowest (Breiman et al. 1984), instead of the lowest loss.
    pub one_standard_error: bool,
}

/// The rows that each fold fits and scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldRows {
    /// Every row is held out by one fold and fitted by the others.
    Stratified {
        /// Number of folds. Each holds out its share of every class.
        count: usize,
        /// Seed of the order in which the rows of a class are dealt to the folds.
        seed: u32,
    },
    /// The folds, as scikit-learn's splitters give them.
    Given(Vec<Fold>),
}

/// One fold, by numbers of the training rows, from 0. A row may be in both sets, which makes the
/// score optimistic, or in neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The rows to fit, in any order. A row that is listed k times counts k times.
    pub fitted: Vec<u32>,
    /// The rows to score, in any order. A row that is listed k times counts k times.
    pub held_out: Vec<u32>,
}

impl Folds {
    /// `count` folds stratified by class; the penalty of the lowest loss is chosen.
    pub fn stratified(count: usize, seed: u32) -> Folds {
        Folds {
            rows: FoldRows::Stratified { count, seed },
            one_standard_error: false,
        }
    }

    /// These folds; the penalty of the lowest loss is chosen.
    pub fn given(folds: Vec<Fold>) -> Folds {
        Folds {
            rows: FoldRows::Given(folds),
            one_standard_error: false,
        }
    }

    /// Number of folds.
    pub fn count(&self) -> usize {
        match &self.rows {
            FoldRows::Stratified { count, .. } => *count,
            FoldRows::Given(folds) => folds.len(),
        }
    }
}

impl PathOptions {
    /// Check the options that do not depend on the training rows; `validated`: whether there are
    /// validation rows.
    ///
    /// # Errors
    /// [`Error::Options`] for a value out of range or options that exclude each other.
    pub fn check(&self, validated: bool) -> Result<()> {
        self.penalty.check()?;
        positive("`tolerance`", self.tolerance)?;
        positive("`fold_tolerance`", self.fold_tolerance)?;
        self.standardize.check_intercept(self.fit_intercept)?;
        if self.penalty.is_several() && self.folds.is_none() && !validated && !self.emit.models {
            return Err(Error::options(
                "`l2`",
                "several penalties and no rows to choose by",
                "`validation` or `folds`, which choose one, or one `l2`",
            ));
        }
        if self.refit_all && !validated {
            let expected = "`validation`, whose rows it adds";
            return Err(Error::options("`refit_all`", "all", expected));
        }
        if self.refit_all && self.weighting.samples.is_some() {
            return Err(Error::options(
                "`refit_all`",
                "all with `sample_weight`, which has no weights for the validation rows",
                "train",
            ));
        }
        Ok(())
    }
}

/// l2 = 1/(C · total) of each C, the strongest first; `total` is the sum of the weights of the
/// fitted rows. It is 0 for an infinite C.
pub(super) fn l2_of_c(cs: &[f64], total: f64) -> Result<Vec<f64>> {
    let l2_of = |&c: &f64| {
        let l2 = 1.0 / (c * total);
        if l2.is_finite() && (l2 > 0.0 || c == f64::INFINITY) {
            return Ok(l2);
        }
        let found = format!("{c}, which is l2 = {l2}: the weights of the rows add up to {total}");
        let expected = "a value whose l2 is a number above 0, or inf, which is no penalty";
        Err(Error::options("`C`", found, expected))
    };
    Ok(descending(cs.iter().map(l2_of).collect::<Result<_>>()?))
}

pub(super) fn descending(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(|a, b| b.total_cmp(a));
    values
}
