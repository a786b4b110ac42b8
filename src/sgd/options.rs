//! The options and the result of an SGD fit.

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

/// Options of [`fit`](fn@crate::fit).
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The optimizer and its settings.
    pub sgd: Sgd,
    /// The initial weight and bias.
    pub init: Init,
    /// The engine: the representation of the weight.
    pub engine: EngineChoice,
    /// Whether to fit a bias, as `torch.nn.Linear(bias=True)` does. Otherwise b = 0.
    pub fit_intercept: bool,
    /// Weights of samples and classes, and label smoothing.
    pub weighting: SampleWeights,
    /// Standardisation of the features, on a copy, by the (weighted) mean and deviation of the
    /// training rows. The model of the fit and that of [`Init::File`] are those of the original
    /// features. Torch's initial weight and weight decay are those of the scaled features.
    pub standardize: Standardize,
    /// Patience: stop after this number of consecutive epochs without a lower validation loss, and
    /// return the model of the best epoch.
    pub early_stopping: Option<usize>,
    /// Whether to send the Gram coordinates before the first epoch and after each one as
    /// [`Event::Coordinates`](crate::Event::Coordinates), which [`crate::TrajectoryWriter`] writes to a
    /// file. Memory: a copy of 4(1 + c + nc) bytes per epoch.
    pub emit_coordinates: bool,
    /// Where and how often to save the state, and whether to resume from it.
    pub checkpoints: Option<Checkpoints>,
    /// Number of threads; `None`: those of the caller's pool, or one for each core.
    pub threads: Option<usize>,
    /// Stops the fit when it is set.
    pub cancel: Option<Cancel>,
    /// The library that multiplies matrices.
    pub backend: Backend,
}

impl Default for FitOptions {
    fn default() -> Self {
        FitOptions {
            sgd: Sgd::default(),
            init: Init::default(),
            engine: EngineChoice::default(),
            fit_intercept: true,
            weighting: SampleWeights::default(),
            standardize: Standardize::default(),
            early_stopping: None,
            emit_coordinates: false,
            checkpoints: None,
            threads: None,
            cancel: None,
            backend: Backend::default(),
        }
    }
}

/// The result of [`fit`](fn@crate::fit).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fit {
    /// The model after the best epoch (with early stopping) or after the last one.
    pub model: Model,
    /// The statistics of each epoch.
    pub history: Vec<Epoch>,
    /// The engine of the fit, and the cost of each engine.
    pub plan: Plan,
    /// Learning rate before the schedule's factor.
    pub lr: f64,
    /// 2/L, below which a full-batch step without momentum decreases the loss (with weight decay,
    /// the loss and its penalty). `None` if it was not computed: on the primal engine with a fixed
    /// learning rate.
    pub lr_bound: Option<f64>,
    /// With early stopping, the epoch after which the model is that of the fit.
    pub best_epoch: Option<usize>,
    /// Number of threads of the fit.
    pub threads: usize,
    /// The model in Gram coordinates, from the Gram engine: s, b (c values) and Aᵀ (c x n). With
    /// [`FitOptions::standardize`] it is the model of the scaled features (`scaler`).
    pub coordinates: Option<Vec<f32>>,
    /// Mean and deviation of the features, with [`FitOptions::standardize`].
    pub scaler: Option<Scaler>,
    /// Seconds of each part of the fit.
    pub timings: Timings,
}

/// Seconds of each part of a fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Scaling the features, and converting the model to the original features.
    pub scaling: f64,
    /// Drawing or reading W0; on the Gram engine also loading X into memory, in parallel.
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

/// The choice of the engine that the options imply: only the Gram engine has coordinates.
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
    /// Checks the options as far as [`fit`](fn@crate::fit) can without the rows. `validated` is
    /// whether there will be validation rows.
    ///
    /// # Errors
    /// [`Error::Options`] for invalid options and combinations.
    pub fn check(&self, validated: bool) -> Result<()> {
        self.sgd.check()?;
        self.weighting.check()?;
        choice(self)?;
        self.standardize.check_intercept(self.fit_intercept)?;
        if self.early_stopping == Some(0) {
            return Err(Error::options("`early_stopping`", 0, "at least 1 epoch"));
        }
        if self.early_stopping.is_some() && !validated {
            let expected = "`validation` (or `x_val`), whose loss decides when to stop";
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
                "only one of them: a resumed fit does not emit the earlier epochs",
            ));
        }
        if self.emit_coordinates && self.standardize != Standardize::None {
            return Err(Error::options(
                "`emit_coordinates`",
                format!("`standardize` {}", self.standardize),
                "`standardize` none: the coordinates would be those of scaled rows (the result of \
                 the fit has the last ones in `coordinates`, with their scale in `scaler`)",
            ));
        }
        Ok(())
    }
}
