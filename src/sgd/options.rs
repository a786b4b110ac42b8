//! What an SGD fit is told, and what it returns.

use crate::design::plan::{EngineChoice, Plan};
use crate::design::scaler::{Scaler, Standardize};
use crate::error::{Error, Result};
use crate::io::checkpoint::Checkpoints;
use crate::linalg::gemm::Backend;
use crate::loss::weights::SampleWeights;
use crate::model::Model;
use crate::progress::{Cancel, Epoch};
use crate::sgd::init::Init;
use crate::sgd::optimizer::Sgd;

/// What to fit and how.
#[derive(Clone, Debug, Default)]
pub struct FitOptions {
    /// The optimizer and its settings.
    pub sgd: Sgd,
    /// Where the weights start.
    pub init: Init,
    /// How the weight is represented.
    pub engine: EngineChoice,
    /// How much each sample counts.
    pub weighting: SampleWeights,
    /// What is done to the features before the fit, on a copy of them; validation rows are put on
    /// the training rows' scale. Sample weights count in mean and deviation. The model that comes
    /// out is of the features as they were, as that of [`Init::File`] that goes in is; torch's
    /// start is drawn on the scaled features. Weight decay acts on the scaled features' weights.
    pub standardize: Standardize,
    /// Patience: stop after this many epochs in a row without a lower validation loss, and return
    /// the best epoch's model.
    pub early_stopping: Option<usize>,
    /// Give the callback the Gram coordinates before the first epoch and after each, as
    /// [`Event::Coordinates`](crate::Event::Coordinates); [`crate::TrajectoryWriter`] writes them to a file. Memory: a copy of
    /// 4(1 + c + nc) bytes an epoch.
    pub emit_coordinates: bool,
    /// Where to save the state now and then, to go on from after a stop.
    pub checkpoints: Option<Checkpoints>,
    /// Threads; `None` is those of the caller's pool, or one for each core.
    pub threads: Option<usize>,
    /// What stops the fit before its end.
    pub cancel: Option<Cancel>,
    /// The library that multiplies matrices.
    pub backend: Backend,
}

/// A finished fit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fit {
    /// The trained model: the best epoch's with early stopping, else the last one's.
    pub model: Model,
    /// Every epoch.
    pub history: Vec<Epoch>,
    /// The engine that did it, and what each would have cost.
    pub plan: Plan,
    /// Learning rate before its schedule.
    pub lr: f64,
    /// 2/L, below which a full-batch step without momentum lowers the loss (with weight decay,
    /// the loss and its penalty); `None` if it was not computed: by the primal engine with a
    /// fixed learning rate.
    pub lr_bound: Option<f64>,
    /// The epoch whose model was kept, with early stopping.
    pub best_epoch: Option<usize>,
    /// Threads it used.
    pub threads: usize,
    /// The model in Gram coordinates, from the Gram engine: s, b (c values) and Aᵀ (c x n); with
    /// [`FitOptions::standardize`] that of the scaled features, whose scale is `scaler`.
    pub coordinates: Option<Vec<f32>>,
    /// Mean and deviation of the training rows, where [`FitOptions::standardize`] asked for them.
    pub scaler: Option<Scaler>,
    /// Where the time went.
    pub timings: Timings,
}

/// Seconds of each part of a fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Putting the features on one scale, and the model on theirs.
    pub scaling: f64,
    /// Drawing or reading W0; meanwhile X is mapped, if its Gram matrix comes next.
    pub initial_weights: f64,
    /// K, and K_val if there are validation rows.
    pub gram_matrix: f64,
    /// Z0 = X W0ᵀ.
    pub initial_logits: f64,
    /// The largest eigenvalue, for the learning rate.
    pub learning_rate: f64,
    /// All epochs, validation included.
    pub epochs: f64,
    /// W = s·W0 + Aᵀ X.
    pub weight: f64,
}

impl Timings {
    /// Seconds of all parts.
    pub fn total(&self) -> f64 {
        self.scaling
            + self.initial_weights
            + self.gram_matrix
            + self.initial_logits
            + self.learning_rate
            + self.epochs
            + self.weight
    }
}

/// The engine asked for; only the Gram engine has coordinates.
pub(super) fn choice(options: &FitOptions) -> Result<EngineChoice> {
    match options.engine {
        choice if !options.emit_coordinates => Ok(choice),
        EngineChoice::Auto | EngineChoice::Gram => Ok(EngineChoice::Gram),
        EngineChoice::Primal => Err(Error::options(
            "`emit_coordinates`",
            "the primal engine",
            "the gram engine: only it has the coordinates A, s and b",
        )),
    }
}

impl FitOptions {
    /// Refuse options that make no sense, `validated` saying whether there will be validation
    /// rows: what [`fit`](fn@crate::fit) refuses before it sees any row.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self, validated: bool) -> Result<()> {
        self.sgd.check()?;
        self.weighting.check()?;
        choice(self)?;
        if self.early_stopping == Some(0) {
            return Err(Error::options("`early_stopping`", 0, "at least 1 epoch"));
        }
        if self.early_stopping.is_some() && !validated {
            let expected = "`validation` (or `x_val`), whose loss tells when to stop";
            return Err(Error::options(
                "`early_stopping`",
                "no validation rows",
                expected,
            ));
        }
        if self.emit_coordinates && self.checkpoints.is_some() {
            return Err(Error::options(
                "`emit_coordinates`",
                "`checkpoints` or `resume`",
                "one of them: a resumed fit would not emit the epochs before",
            ));
        }
        if self.emit_coordinates && self.standardize != Standardize::None {
            return Err(Error::options(
                "`emit_coordinates`",
                format!("`standardize` {}", self.standardize),
                "`standardize` none: the states would be combinations of scaled rows, which make \
                 no weights of the rows as they are (`coordinates` of the fit are the last state, \
                 beside its scale)",
            ));
        }
        Ok(())
    }
}
