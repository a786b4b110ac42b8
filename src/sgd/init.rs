//! The initial weight and bias.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::model::{About, Model};
use crate::torch_rng::TorchRng;

/// The initial weight and bias.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Those of `torch.manual_seed(seed); torch.nn.Linear(d, c)`, to the bit.
    Torch {
        /// The seed.
        seed: u32,
    },
    /// All zero.
    Zeros,
    /// The model in a file, which must have the shape of the fit; its temperature is ignored.
    File(PathBuf),
    /// A model that was read from a file; the path is used in messages and checkpoints.
    Model {
        /// The model.
        model: Arc<Model>,
        /// Its file.
        path: PathBuf,
    },
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Init::Torch { seed } => write!(f, "torch (seed {seed})"),
            Init::Zeros => f.write_str("zeros"),
            Init::File(path) | Init::Model { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

impl Default for Init {
    fn default() -> Self {
        Init::Torch { seed: 0 }
    }
}

/// W0 and b0 for a fit of these samples; b0 = 0 without an intercept. W0 has all features, also if
/// ranks share the columns.
pub(crate) fn initial_model(init: &Init, fit_intercept: bool, samples: &Samples) -> Result<Model> {
    let loss = Loss::for_classes(samples.classes());
    let (features, outputs) = (samples.x().all_features(), loss.outputs(samples.classes()));
    match init {
        Init::Torch { seed } => {
            let (weight, mut bias) = TorchRng::new(*seed).linear(features, outputs);
            if !fit_intercept {
                bias.fill(0.0);
            }
            Model::new(weight, bias)
        }
        Init::Zeros => Model::new(vec![0.0; outputs * features], vec![0.0; outputs]),
        Init::File(path) => {
            check_start(Model::load(path)?, path, (outputs, features), fit_intercept)
        }
        Init::Model { model, path } => check_start(
            model.as_ref().clone(),
            path,
            (outputs, features),
            fit_intercept,
        ),
    }
}

/// Checks the model of a file as the start of a fit with `expected` outputs and features.
fn check_start(
    mut model: Model,
    path: &Path,
    expected: (usize, usize),
    fit_intercept: bool,
) -> Result<Model> {
    let found = (model.bias().len(), model.weight().cols());
    if found != expected {
        return Err(Error::format(
            path,
            "weight",
            format!("{} x {}", found.0, found.1),
            format!(
                "{} x {}, the outputs and features of the data",
                expected.0, expected.1
            ),
        ));
    }
    if let Some(value) = model.bias().iter().find(|&&b| b != 0.0 && !fit_intercept) {
        return Err(Error::format(
            path,
            "bias",
            value,
            "0, because `fit_intercept` is false: set it to true, or start from a model without a bias",
        ));
    }
    // The temperature calibrates the probabilities of another fit.
    model.set_about(About {
        temperature: None,
        ..model.about().clone()
    });
    Ok(model)
}
