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
pub mod evaluate;
pub mod explain;
pub mod export;
mod scale;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::dataset::{NumberFormat, Transform};
use crate::design::samples::{Rows, Samples, position};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::tensors;
use crate::io::tensors::{Dtype, Numbers, Tensor};
use crate::linalg::gemm::{Accum, Backend, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::Loss;
use crate::threads;
use crate::threads::Work;

/// Rows of a block of logits: enough for the product to be efficient.
const BLOCK_ROWS: usize = 1024;
/// Least number of bytes of rows that are read ahead of a product.
const READ_AHEAD: usize = 8 << 20;

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

    /// Class probabilities (rows x classes, row-major) of `x` (rows x features): softmax(Z/T), or the
    /// sigmoid for one output, where T is the model's temperature or 1. Cost: 2ndc flop.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not consist of whole rows of this model's features;
    /// [`Error::Overflow`] for a row whose logits overflow f32.
    pub fn probabilities(&self, x: &[f32]) -> Result<Vec<f32>> {
        let rows = self.rows_of(x)?.len();
        let mut out = vec![0.0; rows * self.classes()];
        self.probabilities_into(x, &mut out)?;
        Ok(out)
    }

    /// [`Model::probabilities`] into `out`.
    ///
    /// # Errors
    /// As [`Model::probabilities`]; [`Error::Shape`] if `out` is not `rows x classes` values.
    pub fn probabilities_into(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let x = self.rows_of(x)?;
        let classes = self.classes();
        fits("probabilities", out.len(), x.len(), classes)?;
        self.for_logits(&x, |range, z| {
            let out = &mut out[range.start * classes..range.end * classes];
            self.temper(z);
            self.loss().probabilities(z.as_ref(), out);
        })
    }

    /// Logits X Wᵀ + 1 bᵀ (rows x outputs, row-major) of `x` (rows x features), without the
    /// temperature. Cost: 2ndc flop.
    ///
    /// # Errors
    /// As [`Model::probabilities`].
    pub fn logits(&self, x: &[f32]) -> Result<Vec<f32>> {
        let rows = self.rows_of(x)?.len();
        let mut out = vec![0.0; rows * self.bias.len()];
        self.logits_into(x, &mut out)?;
        Ok(out)
    }

    /// [`Model::logits`] into `out`.
    ///
    /// # Errors
    /// As [`Model::logits`]; [`Error::Shape`] if `out` is not `rows x outputs` values.
    pub fn logits_into(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let x = self.rows_of(x)?;
        let outputs = self.bias.len();
        fits("logits", out.len(), x.len(), outputs)?;
        self.for_logits(&x, |range, z| {
            let out = &mut out[range.start * outputs..range.end * outputs];
            for (i, out) in out.chunks_exact_mut(outputs).enumerate() {
                for (j, out) in out.iter_mut().enumerate() {
                    *out = z.as_ref().row(j)[i];
                }
            }
        })
    }

    /// Logits, probabilities and losses of `x` (rows x features); losses only if `labels` has one
    /// label for each row. A row whose logits overflow f32 is no error: its probabilities are NaN
    /// and its loss is meaningless. Cost: 2ndc flop.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not consist of whole rows of this model's features.
    pub fn predict_rows(&self, x: &[f32], labels: &[u32]) -> Result<RowPredictions> {
        let x = self.rows_of(x)?;
        let (rows, outputs, classes) = (x.len(), self.bias.len(), self.classes());
        let mut all = RowPredictions {
            logits: vec![0.0; rows * outputs],
            probabilities: vec![0.0; rows * classes],
            losses: Vec::with_capacity(labels.len()),
        };
        let mut losses = Vec::new();
        self.for_any_logits(&x, |range, z| {
            let logits = &mut all.logits[range.start * outputs..range.end * outputs];
            let values = z.as_mut_slice();
            for (i, logits) in logits.chunks_exact_mut(outputs).enumerate() {
                let column = values[i..].iter_mut().step_by(range.len());
                let finite = column.zip(&mut *logits).fold(true, |finite, (z, logit)| {
                    *logit = *z;
                    finite & z.is_finite()
                });
                if !finite {
                    for z in values[i..].iter_mut().step_by(range.len()) {
                        *z = 0.0;
                    }
                }
            }
            let out = &mut all.probabilities[range.start * classes..range.end * classes];
            self.temper(z);
            self.loss().probabilities(z.as_ref(), out);
            let of_rows = out
                .chunks_exact_mut(classes)
                .zip(logits.chunks_exact(outputs));
            for (out, logits) in of_rows {
                if !logits.iter().all(|z| z.is_finite()) {
                    out.fill(f32::NAN);
                }
            }
            if !labels.is_empty() {
                (self.loss()).row_losses(z.as_ref(), &labels[range], &mut losses);
                all.losses.extend(&losses);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// The most probable class of each row of `x` (rows x features). Cost: 2ndc flop.
    ///
    /// # Errors
    /// As [`Model::probabilities`].
    pub fn predict(&self, x: &[f32]) -> Result<Vec<u32>> {
        let mut out = vec![0; self.rows_of(x)?.len()];
        self.predict_into(x, &mut out)?;
        Ok(out)
    }

    /// [`Model::predict`] into `out`.
    ///
    /// # Errors
    /// As [`Model::predict`]; [`Error::Shape`] if `out` does not have one value for each row.
    pub fn predict_into(&self, x: &[f32], out: &mut [u32]) -> Result<()> {
        let x = self.rows_of(x)?;
        fits("predictions", out.len(), x.len(), 1)?;
        self.for_logits(&x, |range, z| {
            out[range].copy_from_slice(&self.loss().predictions(z.as_ref()));
        })
    }

    /// The logits of samples, for several evaluations or calibrations. Cost: 2ndc flop, 4nc bytes.
    ///
    /// # Errors
    /// As [`Model::evaluate`].
    pub fn logits_of(&self, samples: &Samples) -> Result<Logits> {
        self.check_shape(samples)?;
        let mut blocks = Vec::new();
        self.for_logits(samples.x(), |_, z| blocks.push(z.as_mut_slice().to_vec()))?;
        let outputs = self.bias.len();
        Ok(Logits { outputs, blocks })
    }

    /// Accuracy and mean loss on labelled rows.
    ///
    /// Cost: 2ndc flop; X is streamed once and not copied.
    ///
    /// # Errors
    /// [`Error::Shape`] if features or classes differ from the model's, [`Error::Overflow`] for a
    /// row whose logits overflow f32.
    pub fn evaluate(&self, samples: &Samples) -> Result<Evaluation> {
        self.evaluate_weighted(samples, None)
    }

    /// [`Model::evaluate`] where row i counts `weights[i]` times.
    ///
    /// # Errors
    /// As [`Model::evaluate`]; [`Error::Shape`] if there is not one weight for each row.
    ///
    /// ```
    /// let x = [1.0, -1.0, 3.0];
    /// let rows = flowreg::Samples::new(&x, 1, &[1, 0, 0], 2)?;
    /// let model = flowreg::Model::new(vec![2.0], vec![0.0])?;
    /// let without_the_last = model.evaluate_weighted(&rows, Some(&[1.0, 1.0, 0.0]))?;
    /// assert_eq!(without_the_last.accuracy, 1.0);
    /// # Ok::<(), flowreg::Error>(())
    /// ```
    pub fn evaluate_weighted(
        &self,
        samples: &Samples,
        weights: Option<&[f64]>,
    ) -> Result<Evaluation> {
        self.evaluate_with(samples, weights, None, |_, _| ())
    }

    /// [`Model::evaluate_weighted`], from the `known` logits of these rows if they are given. `see`
    /// is called with each block of logits (c x rows), before the temperature.
    pub(crate) fn evaluate_with(
        &self,
        samples: &Samples,
        weights: Option<&[f64]>,
        known: Option<&Logits>,
        mut see: impl FnMut(Range<usize>, MatRef) + Send,
    ) -> Result<Evaluation> {
        self.check_shape(samples)?;
        let rows = samples.rows();
        if let Some(weights) = weights.filter(|weights| weights.len() != rows) {
            let found = format!("{} weights", weights.len());
            return Err(Error::shape("weights", found, format!("{rows}: one a row")));
        }
        let weight = |i: usize| weights.map_or(1.0, |weights| weights[i]);
        let (mut loss, mut uncalibrated_loss, mut correct) = (0.0, 0.0, 0.0);
        let mut losses = Vec::new();
        let mut sum = |z: MatRef, range: Range<usize>| -> f64 {
            let labels = &samples.labels()[range.clone()];
            self.loss().row_losses(z, labels, &mut losses);
            losses
                .iter()
                .zip(range)
                .map(|(loss, i)| weight(i) * loss)
                .sum()
        };
        let evaluate = |range: Range<usize>, z: &mut MatMut| {
            let predictions = self.loss().predictions(z.as_ref());
            let right = predictions.iter().zip(range.clone());
            let right = right.filter(|(class, i)| **class == samples.labels()[*i]);
            correct += right.map(|(_, i)| weight(i)).sum::<f64>();
            let of_block = sum(z.as_ref(), range.clone());
            uncalibrated_loss += of_block;
            see(range.clone(), z.as_ref());
            loss += match self.about().temperature {
                None => of_block,
                Some(_) => {
                    self.temper(z);
                    sum(z.as_ref(), range)
                }
            };
        };
        match known {
            None => self.for_logits(samples.x(), evaluate)?,
            Some(known) => self.for_known(known, rows, evaluate)?,
        }
        let total = match weights {
            None => rows as f64,
            Some(weights) => weights.iter().sum(),
        };
        Ok(Evaluation {
            rows,
            accuracy: correct / total,
            loss: loss / total,
            uncalibrated_loss: uncalibrated_loss / total,
        })
    }

    fn check_shape(&self, samples: &Samples) -> Result<()> {
        let shape = |features, classes| format!("{features} features, {classes} classes");
        let found = shape(samples.features(), samples.classes());
        let expected = shape(self.features, self.classes());
        if found == expected {
            Ok(())
        } else {
            let expected = format!("{expected}, as the model has");
            Err(Error::shape("samples", found, expected))
        }
    }

    /// Divide logits (c x n) by the temperature, if there is one. The largest logit of a row is
    /// subtracted first: that changes no probability and prevents overflow.
    fn temper(&self, z: &mut MatMut) {
        let Some(temperature) = self.about().temperature else {
            return;
        };
        let n = z.cols();
        let largest = match self.loss() {
            Loss::Logistic => vec![0.0; n],
            Loss::Softmax => {
                let mut largest = vec![f32::NEG_INFINITY; n];
                for row in z.as_mut_slice().chunks_exact(n) {
                    for (largest, &z) in largest.iter_mut().zip(row) {
                        *largest = largest.max(z);
                    }
                }
                largest
            }
        };
        for row in z.as_mut_slice().chunks_exact_mut(n) {
            for (z, &largest) in row.iter_mut().zip(&largest) {
                let divided = (f64::from(*z) - f64::from(largest)) / temperature;
                *z = divided.clamp(f32::MIN.into(), f32::MAX.into()) as f32;
            }
        }
    }

    fn rows_of<'x>(&self, x: &'x [f32]) -> Result<Rows<'x>> {
        if !x.len().is_multiple_of(self.features) {
            return Err(Error::shape(
                "x",
                format!("{} values", x.len()),
                format!("rows of {} features", self.features),
            ));
        }
        let rows = x.len() / self.features;
        Ok(Rows::new(MatRef::new(x, rows, self.features)))
    }

    /// Compute the logits block by block, and call `use_logits` with each block (outputs x rows).
    ///
    /// # Errors
    /// [`Error::Overflow`] for the first logit that is not finite.
    fn for_logits(
        &self,
        rows: &Rows,
        mut use_logits: impl FnMut(Range<usize>, &mut MatMut) + Send,
    ) -> Result<()> {
        self.for_any_logits(rows, |range, z| {
            if let Some(at) = position(z.as_mut_slice(), f32::is_finite) {
                return Err(Error::Overflow {
                    row: range.start + at % range.len(),
                    output: at / range.len(),
                    value: z.as_mut_slice()[at],
                });
            }
            use_logits(range, z);
            Ok(())
        })
    }

    /// [`Model::for_logits`], which accepts logits that are not finite. Another thread reads the next
    /// few megabytes of rows from the disk meanwhile.
    fn for_any_logits(
        &self,
        rows: &Rows,
        use_logits: impl FnMut(Range<usize>, &mut MatMut) -> Result<()> + Send,
    ) -> Result<()> {
        let products = rows.len().saturating_mul(2 * self.weight.len());
        threads::run(None, Work::flop(products), || {
            self.for_logits_in_pool(rows, use_logits)
        })?
    }

    fn for_logits_in_pool(
        &self,
        rows: &Rows,
        mut use_logits: impl FnMut(Range<usize>, &mut MatMut) -> Result<()>,
    ) -> Result<()> {
        let len = rows.len();
        let outputs = self.bias.len();
        let gemm = Gemm::new(Backend::default(), threads::current());
        let mut gathered = Vec::new();
        let mut logits = vec![0.0; BLOCK_ROWS.min(len) * outputs];
        let stretch = (READ_AHEAD / (4 * self.features)).max(1);
        let stretch = stretch.next_multiple_of(BLOCK_ROWS);
        for first in (0..len).step_by(stretch) {
            let end = (first + stretch).min(len);
            let next = end..(end + stretch).min(len);
            std::thread::scope(|scope| {
                if !next.is_empty() {
                    scope.spawn(|| rows.touch(next));
                }
                for start in (first..end).step_by(BLOCK_ROWS) {
                    let range = start..(start + BLOCK_ROWS).min(end);
                    let x = rows.block(range.clone(), &mut gathered);
                    let logits = &mut logits[..range.len() * outputs];
                    for (row, &bias) in logits.chunks_exact_mut(range.len()).zip(&self.bias) {
                        row.fill(bias);
                    }
                    let mut z = MatMut::new(logits, outputs, range.len());
                    gemm.a_bt(1.0, self.weight(), x, Accum::Add, z.reborrow());
                    use_logits(range, &mut z)?;
                }
                Ok::<(), Error>(())
            })?;
        }
        Ok(())
    }

    /// [`Model::for_logits`] with logits that are already known.
    fn for_known(
        &self,
        known: &Logits,
        rows: usize,
        mut use_logits: impl FnMut(Range<usize>, &mut MatMut),
    ) -> Result<()> {
        let (found, expected) = ((known.rows(), known.outputs), (rows, self.bias.len()));
        if found != expected {
            let text = |(rows, outputs)| format!("{rows} rows x {outputs} outputs");
            return Err(Error::shape("logits", text(found), text(expected)));
        }
        let mut start = 0;
        for block in &known.blocks {
            let rows = block.len() / known.outputs;
            let mut block = block.clone();
            let mut z = MatMut::new(&mut block, known.outputs, rows);
            use_logits(start..start + rows, &mut z);
            start += rows;
        }
        Ok(())
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

    /// Write and flush `model.safetensors`, the bytes of [`Model::to_safetensors`].
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

/// Check that an output has `rows` x `columns` values.
fn fits(field: &'static str, found: usize, rows: usize, columns: usize) -> Result<()> {
    if found == rows * columns {
        return Ok(());
    }
    let expected = format!("{rows} rows x {columns}");
    Err(Error::shape(
        field,
        format!("a buffer of {found} values"),
        expected,
    ))
}
