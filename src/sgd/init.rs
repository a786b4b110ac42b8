//! Where the weights start.

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
    /// A model file of the same shape; a temperature in it is left aside.
    File(PathBuf),
    /// A model that was read from a file; the path is for messages and checkpoints.
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

/// W0 and b0 for these samples.
pub(crate) fn initial_model(init: &Init, samples: &Samples) -> Result<Model> {
    let loss = Loss::for_classes(samples.classes());
    let (features, outputs) = (samples.features(), loss.outputs(samples.classes()));
    match init {
        Init::Torch { seed } => {
            let (weight, bias) = TorchRng::new(*seed).linear(features, outputs);
            Model::new(weight, bias)
        }
        Init::Zeros => Model::new(vec![0.0; outputs * features], vec![0.0; outputs]),
        Init::File(path) => started_at(Model::load(path)?, path, (outputs, features)),
        Init::Model { model, path } => {
            started_at(model.as_ref().clone(), path, (outputs, features))
        }
    }
}

/// The model of a file as a start; `expected` are its outputs and features.
fn started_at(mut model: Model, path: &Path, expected: (usize, usize)) -> Result<Model> {
    let found = (model.bias().len(), model.weight().cols());
    if found != expected {
        return Err(Error::format(
            path,
            "weight",
            format!("{} x {}", found.0, found.1),
            format!("{} x {} as the data asks for", expected.0, expected.1),
        ));
    }
    // Of another fit's probabilities.
    model.set_about(About {
        temperature: None,
        ..model.about().clone()
    });
    Ok(model)
}
