//! A trained model: weight, bias, and what the numbers mean.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::dataset::Transform;
use crate::data::samples::{Rows, Samples};
use crate::error::{Error, Result};
use crate::files;
use crate::gemm::{Accum, Backend, Gemm};
use crate::mat::{MatMut, MatRef};
use crate::objective::Loss;
use crate::tensors::{self, Dtype, Numbers, Tensor};

/// Rows whose logits are computed together: enough for the product to be efficient.
const BLOCK_ROWS: usize = 1024;
/// Bytes of rows that are read ahead of a product at least.
const READ_AHEAD: usize = 8 << 20;

/// A linear classifier: logits `Z = X Wᵀ + 1 bᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    weight: Vec<f32>,
    bias: Vec<f32>,
    features: usize,
    about: About,
}

/// What the numbers mean; stored in the model file's metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Name of each class, by label; empty if unknown.
    pub class_names: Vec<String>,
    /// How a photograph becomes a row; `None` if the rows were given as arrays.
    pub transform: Option<Transform>,
    /// Logits are divided by it before they become probabilities: see [`crate::calibration`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// How well a model does on some rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Number of rows.
    pub rows: usize,
    /// Share of rows whose most probable class is the label.
    pub accuracy: f64,
    /// Mean loss: cross-entropy, or binary cross-entropy with logits for two classes.
    pub loss: f64,
}

impl Model {
    /// From a weight (outputs x features, row-major) and a bias (outputs).
    ///
    /// One output is a logistic model of two classes; c > 2 outputs are a softmax.
    pub fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Model> {
        let outputs = bias.len();
        let features = weight.len().checked_div(outputs).unwrap_or(0);
        if features == 0 || features * outputs != weight.len() || outputs == 2 {
            return Err(Error::shape(
                "weight and bias",
                format!("{} and {} values", weight.len(), outputs),
                "outputs x features and outputs, where outputs is 1 (two classes) or above 2",
            ));
        }
        Ok(Model {
            weight,
            bias,
            features,
            about: About::default(),
        })
    }

    /// W and b, to be changed.
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

    /// Number of classes: 2 for one output.
    pub fn classes(&self) -> usize {
        self.bias.len().max(2)
    }

    /// The loss that this model was made for.
    pub fn loss(&self) -> Loss {
        Loss::for_classes(self.classes())
    }

    /// What the numbers mean.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Say what the numbers mean.
    pub fn set_about(&mut self, about: About) {
        self.about = about;
    }

    /// Class probabilities of `rows x features` values: `rows x classes`, row-major; those of the
    /// logits divided by the model's temperature, if it has one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the values are not whole rows of this model's features.
    pub fn probabilities(&self, x: &[f32]) -> Result<Vec<f32>> {
        let x = self.rows_of(x)?;
        let classes = self.classes();
        let mut out = vec![0.0; x.len() * classes];
        self.for_logits(&x, |range, z| {
            let out = &mut out[range.start * classes..range.end * classes];
            if let Some(temperature) = self.about.temperature {
                let z = z.as_mut_slice().iter_mut();
                z.for_each(|z| *z = (f64::from(*z) / temperature) as f32);
            }
            self.loss().probabilities(z.as_ref(), out);
        });
        Ok(out)
    }

    /// The most probable class of each row of `rows x features` values.
    ///
    /// # Errors
    /// As [`Model::probabilities`].
    pub fn predict(&self, x: &[f32]) -> Result<Vec<u32>> {
        let x = self.rows_of(x)?;
        let mut out = Vec::with_capacity(x.len());
        self.for_logits(&x, |_, z| out.extend(self.loss().predictions(z.as_ref())));
        Ok(out)
    }

    /// Accuracy and mean loss on labelled rows, on all cores.
    ///
    /// Cost: 2ndc flop; X is streamed once and not copied.
    ///
    /// # Errors
    /// [`Error::Shape`] if features or classes differ from the model's.
    pub fn evaluate(&self, samples: &Samples) -> Result<Evaluation> {
        self.evaluate_with(samples, |_, _| ())
    }

    /// [`Model::evaluate`], and what `see` makes of each block of logits (c x its rows).
    pub(crate) fn evaluate_with(
        &self,
        samples: &Samples,
        mut see: impl FnMut(Range<usize>, MatRef),
    ) -> Result<Evaluation> {
        if (samples.features(), samples.classes()) != (self.features, self.classes()) {
            return Err(Error::shape(
                "samples",
                format!(
                    "{} features, {} classes",
                    samples.features(),
                    samples.classes()
                ),
                format!(
                    "{} features, {} classes as the model",
                    self.features,
                    self.classes()
                ),
            ));
        }
        let (mut loss, mut hits) = (0.0, 0);
        let mut scratch = Vec::new();
        self.for_logits(samples.x(), |range, z| {
            let labels = &samples.labels()[range.clone()];
            let (mean, right) = self.loss().loss_and_hits(z.as_ref(), labels, &mut scratch);
            loss += mean * range.len() as f64;
            hits += right;
            see(range, z.as_ref());
        });
        let rows = samples.rows();
        Ok(Evaluation {
            rows,
            accuracy: hits as f64 / rows as f64,
            loss: loss / rows as f64,
        })
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

    /// Compute logits (outputs x block) block by block and hand each block on. What follows is
    /// read from the disk meanwhile, by a thread for every few megabytes.
    pub(crate) fn for_logits(
        &self,
        rows: &Rows,
        mut use_logits: impl FnMut(Range<usize>, &mut MatMut),
    ) {
        let len = rows.len();
        let outputs = self.bias.len();
        let gemm = Gemm::new(Backend::default(), rayon::current_num_threads());
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
                    let biases = logits.chunks_exact_mut(range.len()).zip(&self.bias);
                    biases.for_each(|(row, &bias)| row.fill(bias));
                    let mut z = MatMut::new(logits, outputs, range.len());
                    gemm.a_bt(1.0, self.weight(), x, Accum::Add, z.reborrow());
                    use_logits(range, &mut z);
                }
            });
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
        let about = serde_json::to_value(&self.about).expect("plain data");
        tensors::write(&[weight, bias], about)
    }

    /// Write and flush `model.safetensors`, the bytes of [`Model::to_safetensors`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.to_safetensors())
    }

    /// Read a model file, of flowreg or of torch (`weight` and `bias` in f32).
    ///
    /// # Errors
    /// [`Error::Tensors`], [`Error::Format`], [`Error::Io`].
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = files::read(path, "read the model", u64::MAX)?;
        Self::parse(path, &bytes)
    }

    /// Read the bytes of a model file; the path is for messages.
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
            let expected = format!("{outputs} outputs as weight has");
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
        if let Some(about) = about {
            let positive = |t: f64| t.is_finite() && t > 0.0;
            model.about = match serde_json::from_value::<About>(about) {
                Ok(about) if !about.temperature.is_none_or(positive) => {
                    let found = format!("{:?}", about.temperature);
                    return bad("metadata flowreg.temperature", found, "a number above 0");
                }
                Ok(about) => about,
                Err(error) => {
                    return bad("metadata flowreg", error.to_string(), "what flowreg writes");
                }
            };
        }
        Ok(model)
    }
}
