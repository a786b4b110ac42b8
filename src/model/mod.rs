//! A trained linear classifier: logits `Z = X Wᵀ + 1 bᵀ` (X: n x d, W: c x d, b: c, Z: n x c),
//! predictions, probabilities, evaluation, and its file.
//!
//! | module | computes | cost |
//! | --- | --- | --- |
//! | [`Model`] | logits, probabilities, predictions, accuracy and loss | 2ndc flop |
//! | [`evaluate`] | the score of each row, confusion, top-k accuracy | 2ndc flop |
//! | [`calibrate`] | the temperature T of softmax(Z/T) (Guo et al. 2017) | 2ndc flop, 47nc exponentials |
//! | [`explain`] | contributions A_ik (x_i·x) of training rows to a logit | 2nd flop a prediction |
//! | [`export`] | ONNX and `.npy` files | a copy of W |
//!
//! One output is a logistic model of two classes; c > 2 outputs are a softmax.
//!
//! ```
//! let model = flowreg::Model::new(vec![1.0, -1.0], vec![0.5])?;
//! let x = [2.0, 0.0, 0.0, 2.0]; // Two rows of two features.
//! assert_eq!(model.logits(&x)?, [2.5, -1.5]);
//! assert_eq!(model.predict(&x)?, [1, 0]);
//! # Ok::<(), flowreg::Error>(())
//! ```

pub mod calibrate;
mod columns;
mod directory;
pub mod evaluate;
pub mod explain;
pub mod export;
mod predict;
mod scale;

use std::borrow::Cow;
use std::path::Path;

pub use self::directory::MODEL;

use serde::{Deserialize, Serialize};

use crate::data::dataset::{NumberFormat, Transform};
use crate::design::samples::position;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::tensors;
use crate::io::tensors::{Dtype, Numbers, Tensor};
use crate::linalg::mat::MatRef;
use crate::loss::Loss;

/// A linear classifier: logits `Z = X Wᵀ + 1 bᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    weight: Vec<f32>,
    bias: Vec<f32>,
    features: usize,
    /// `None` for a bare state dict.
    about: Option<About>,
}

/// The description of a bare state dict.
static UNKNOWN: About = About {
    class_names: Vec::new(),
    transform: None,
    numbers: None,
    temperature: None,
};

/// The description of a model, stored in the metadata of its file: class names, conversion of inputs
/// to rows, temperature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Name of each class, by label; empty if unknown.
    pub class_names: Vec<String>,
    /// The conversion of a photograph to a row; `None` if the rows came from arrays.
    pub transform: Option<Transform>,
    /// The conversion of numbers to a row; `None` for photographs, and for models written by older
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberFormat>,
    /// The divisor of the logits in probabilities: see [`calibrate`]. It does not change W and b.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// Accuracy and loss of a model on labelled rows.
///
/// They are means over the rows, weighted by sample weights if there are any. Class weights and
/// label smoothing do not enter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Number of rows.
    pub rows: usize,
    /// Share of rows whose most probable class is the label.
    pub accuracy: f64,
    /// Mean of -ln p, where p is the probability of the label as [`Model::probabilities`] gives it
    /// (with the temperature, if there is one): cross-entropy, or binary cross-entropy for two
    /// classes.
    pub loss: f64,
    /// The loss without the temperature.
    pub uncalibrated_loss: f64,
}

/// The logits of rows, without the temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    outputs: usize,
    /// Blocks of rows, each a matrix of outputs x rows.
    blocks: Vec<Vec<f32>>,
}

impl Logits {
    /// From values, outputs x rows.
    pub(crate) fn new(outputs: usize, values: Vec<f32>) -> Logits {
        Logits {
            outputs,
            blocks: vec![values],
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let values: usize = self.blocks.iter().map(Vec::len).sum();
        values / self.outputs
    }

    /// Number of outputs: 1 for two classes.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The logits of each row in order.
    pub(crate) fn each_row(&self) -> impl Iterator<Item = Vec<f32>> {
        self.blocks.iter().flat_map(|block| {
            let rows = block.len() / self.outputs;
            (0..rows).map(move |i| block[i..].iter().step_by(rows).copied().collect())
        })
    }
}

/// Logits, probabilities and losses of rows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowPredictions {
    /// Rows x outputs, without the temperature.
    pub logits: Vec<f32>,
    /// Rows x classes.
    pub probabilities: Vec<f32>,
    /// -ln of the label's probability, if labels were given.
    pub losses: Vec<f64>,
}

impl Model {
    /// A model from a weight (outputs x features, row-major) and a bias (outputs).
    ///
    /// One output is a logistic model of two classes; c > 2 outputs are a softmax. Two outputs
    /// are the logistic model of their difference, which gives the same probabilities.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths do not match.
    pub fn new(mut weight: Vec<f32>, mut bias: Vec<f32>) -> Result<Model> {
        let outputs = bias.len();
        let features = weight.len().checked_div(outputs).unwrap_or(0);
        if features == 0 || features * outputs != weight.len() {
            return Err(Error::shape(
                "weight and bias",
                format!("{} and {} values", weight.len(), outputs),
                "outputs x features and outputs, where outputs is 1 (two classes) or more",
            ));
        }
        if outputs == 2 {
            for (first, second) in (0..features).zip(features..) {
                weight[first] = weight[second] - weight[first];
            }
            weight.truncate(features);
            bias = vec![bias[1] - bias[0]];
        }
        Ok(Model {
            weight,
            bias,
            features,
            about: Some(About::default()),
        })
    }

    /// The first value of W and b that is not finite, and its place.
    pub(crate) fn non_finite(&self) -> Option<(String, f32)> {
        if let Some(at) = position(&self.weight, f32::is_finite) {
            let place = format!("weight[{}, {}]", at / self.features, at % self.features);
            return Some((place, self.weight[at]));
        }
        let at = position(&self.bias, f32::is_finite)?;
        Some((format!("bias[{at}]"), self.bias[at]))
    }

    /// Checksum of W and b.
    pub(crate) fn crc32(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(bytemuck::cast_slice(&self.weight));
        crc.update(bytemuck::cast_slice(&self.bias));
        crc.finalize()
    }

    /// W and b as mutable slices.
    pub(crate) fn values_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.weight, &mut self.bias)
    }

    /// W: c x d.
    pub fn weight(&self) -> MatRef<'_> {
        MatRef::new(&self.weight, self.bias.len(), self.features)
    }

    /// b: c values.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// c: number of outputs, 1 for two classes.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Number of classes: 2 for one output.
    pub fn classes(&self) -> usize {
        self.bias.len().max(2)
    }

    /// The loss of this number of outputs: logistic for one, else softmax.
    pub fn loss(&self) -> Loss {
        Loss::for_classes(self.classes())
    }

    /// The description of the model; empty for a bare state dict.
    pub fn about(&self) -> &About {
        self.about.as_ref().unwrap_or(&UNKNOWN)
    }

    /// Whether the model has a description: false for a bare state dict.
    pub fn is_described(&self) -> bool {
        self.about.is_some()
    }

    /// Set the description of the model.
    pub fn set_about(&mut self, about: About) {
        self.about = Some(about);
    }

    /// The model of W/T and b/T without a temperature, which gives the same probabilities: for tools
    /// that do not support temperatures.
    ///
    /// # Errors
    /// [`Error::Shape`] if a quotient overflows f32.
    pub fn calibrated(&self) -> Result<Cow<'_, Model>> {
        let Some(temperature) = self.about().temperature else {
            return Ok(Cow::Borrowed(self));
        };
        let mut model = self.clone();
        model.set_about(About {
            temperature: None,
            ..self.about().clone()
        });
        for value in model.weight.iter_mut().chain(&mut model.bias) {
            *value = (f64::from(*value) / temperature) as f32;
        }
        match model.non_finite() {
            None => Ok(Cow::Owned(model)),
            Some((place, value)) => Err(Error::shape(
                "the model divided by its temperature",
                format!("{value} at {place}"),
                "finite numbers: fit with a penalty, or without `calibrate`",
            )),
        }
    }

    /// The bytes of `model.safetensors`: `weight`, `bias`, and [`About`] with a checksum as
    /// metadata.
    ///
    /// `torch.nn.Linear.load_state_dict(safetensors.torch.load_file(path))` reads them; a
    /// logistic model has one output.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let tensor = |name: &str, shape, data| Tensor {
            name: name.to_string(),
            shape,
            numbers: Numbers::F32(Cow::Borrowed(data)),
        };
        let outputs = self.bias.len();
        let weight = tensor("weight", vec![outputs, self.features], &*self.weight);
        let bias = tensor("bias", vec![outputs], &self.bias);
        let about = serde_json::to_value(self.about()).expect("plain data");
        tensors::write(&[weight, bias], about)
    }

    /// Write and flush `model.safetensors`, the bytes of [`Model::to_safetensors`]. A file that is there is
    /// replaced in one step, so a failed write leaves it as it was; where nothing can be created in its
    /// directory, it is written in place.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written; [`Error::Format`] for a weight or bias that is
    /// not finite, as [`Model::load`] refuses such a file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.refuse_non_finite(path.as_ref())?;
        files::write_over(path.as_ref(), &self.to_safetensors())
    }

    fn refuse_non_finite(&self, path: &Path) -> Result<()> {
        match self.non_finite() {
            None => Ok(()),
            Some((place, value)) => {
                let expected = "finite numbers: the fit diverged, fit again with a smaller \
                                learning rate or a penalty";
                Err(Error::format(path, place, value, expected))
            }
        }
    }

    /// Read a model file of flowreg or a state dict of torch (`weight` and `bias` in f32).
    ///
    /// # Errors
    /// [`Error::Tensors`]; [`Error::Format`] for shapes that do not match, and for the first weight
    /// or bias that is not finite; [`Error::Io`].
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = files::read(path, "read the model", u64::MAX)?;
        Self::parse(path, &bytes)
    }

    /// Read the bytes of a model file; `path` is used in messages only.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Model> {
        let expected = [("weight", Dtype::F32), ("bias", Dtype::F32)];
        let (tensors, about) = tensors::read(bytes, &expected).map_err(Error::tensors(path))?;
        let bad = |field: &str, found: String, expected: &str| {
            Err(Error::format(path, field, found, expected))
        };
        let shapes = [&tensors[0].shape, &tensors[1].shape];
        let (&[outputs, _], &[biases]) = (&**shapes[0], &**shapes[1]) else {
            let found = format!("shapes {:?} and {:?}", shapes[0], shapes[1]);
            return bad("weight and bias", found, "two dimensions and one");
        };
        if outputs != biases {
            let expected = format!("{outputs} values, as weight has {outputs} rows");
            return bad("bias", format!("{biases} values"), &expected);
        }
        let weight_shape = format!("{:?}", shapes[0]);
        let mut values = tensors.into_iter().map(|tensor| match tensor.numbers {
            Numbers::F32(values) => values.into_owned(),
            Numbers::F64(_) => unreachable!("f32 was asked for"),
        });
        let mut next = || values.next().expect("two tensors were asked for");
        let Ok(mut model) = Model::new(next(), next()) else {
            let expected = "outputs x features, outputs being 1 or above 2";
            return bad("weight", weight_shape, expected);
        };
        model.refuse_non_finite(path)?;
        model.about = None;
        if let Some(about) = about {
            let positive = |t: f64| t.is_finite() && t > 0.0;
            model.about = match serde_json::from_value::<About>(about) {
                Ok(about) if !about.temperature.is_none_or(positive) => {
                    let found = format!("{:?}", about.temperature);
                    return bad("metadata flowreg.temperature", found, "a number above 0");
                }
                Ok(about) => {
                    let transform = about.transform.as_ref().and_then(|transform| {
                        Some(("transform", transform.contradiction(model.features)?))
                    });
                    let numbers = about.numbers.as_ref().and_then(|numbers| {
                        Some(("numbers", numbers.contradiction(model.features)?))
                    });
                    if let Some((of, (field, found, expected))) = transform.or(numbers) {
                        let field = format!("metadata flowreg.{of}.{field}");
                        return bad(&field, found, &expected);
                    }
                    Some(about)
                }
                Err(error) => {
                    let found = error.to_string();
                    let expected = if found.contains("unknown field") {
                        "what this flowreg writes; it was made by a newer one, which reads it"
                    } else {
                        "what flowreg writes"
                    };
                    return bad("metadata flowreg", found, expected);
                }
            };
        }
        Ok(model)
    }
}
