//! A trained model: weight, bias, and what the numbers mean.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::data::dataset::Transform;
use crate::data::samples::{Rows, Samples};
use crate::error::{Error, Result};
use crate::gemm::{Accum, Backend, Gemm};
use crate::mat::{MatMut, MatRef};
use crate::objective::Loss;

/// Rows whose logits are computed together: enough for the product to be efficient.
const BLOCK_ROWS: usize = 1024;
/// The key of the metadata of `model.safetensors`.
const METADATA: &str = "flowreg";

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

    /// Class probabilities of `rows x features` values: `rows x classes`, row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] if the values are not whole rows of this model's features.
    pub fn probabilities(&self, x: &[f32]) -> Result<Vec<f32>> {
        let x = self.rows_of(x)?;
        let classes = self.classes();
        let mut out = vec![0.0; x.len() * classes];
        self.for_logits(&x, |range, z| {
            let out = &mut out[range.start * classes..range.end * classes];
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

    /// Compute logits (outputs x block) block by block and hand each block on.
    fn for_logits(&self, x: &Rows, mut use_logits: impl FnMut(Range<usize>, &mut MatMut)) {
        let rows = x.len();
        let outputs = self.bias.len();
        let gemm = Gemm::new(Backend::default(), rayon::current_num_threads());
        let mut gathered = Vec::new();
        let mut logits = vec![0.0; BLOCK_ROWS.min(rows) * outputs];
        for start in (0..rows).step_by(BLOCK_ROWS) {
            let range = start..(start + BLOCK_ROWS).min(rows);
            let x = x.block(range.clone(), &mut gathered);
            let logits = &mut logits[..range.len() * outputs];
            let rows = logits.chunks_exact_mut(range.len()).zip(&self.bias);
            rows.for_each(|(row, &bias)| row.fill(bias));
            let mut z = MatMut::new(logits, outputs, range.len());
            gemm.a_bt(1.0, self.weight(), x, Accum::Add, z.reborrow());
            use_logits(range, &mut z);
        }
    }

    /// The bytes of `model.safetensors`: `weight`, `bias`, and [`About`] as metadata.
    ///
    /// `torch.nn.Linear.load_state_dict(safetensors.torch.load_file(path))` reads them; a
    /// logistic model has one output.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let about = serde_json::to_string(&self.about).expect("plain data");
        let view = |shape: Vec<usize>, data| {
            TensorView::new(Dtype::F32, shape, bytemuck::cast_slice::<f32, u8>(data))
                .expect("the shape is the data's")
        };
        let outputs = self.bias.len();
        let tensors = [
            ("weight", view(vec![outputs, self.features], &self.weight)),
            ("bias", view(vec![outputs], &self.bias)),
        ];
        // One key only: a map of several would be written in a random order.
        let metadata = HashMap::from([(METADATA.to_string(), about)]);
        safetensors::serialize(tensors, Some(metadata)).expect("two small f32 tensors")
    }

    /// Read a model file, of flowreg or of torch (`weight` and `bias` in f32).
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path, "read the model"))?;
        let bad = |field: &str, found: String, expected: &str| {
            Err(Error::format(path, field, found, expected))
        };
        let parsed = SafeTensors::read_metadata(&bytes)
            .and_then(|(_, metadata)| Ok((metadata, SafeTensors::deserialize(&bytes)?)));
        let (metadata, tensors) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return bad("header", error.to_string(), "a safetensors file"),
        };
        let mut values = Vec::new();
        for (name, dims) in [("weight", 2), ("bias", 1)] {
            let Ok(tensor) = tensors.tensor(name) else {
                return bad(name, "no such tensor".to_string(), "weight and bias");
            };
            if tensor.dtype() != Dtype::F32 || tensor.shape().len() != dims {
                let found = format!("{:?} of shape {:?}", tensor.dtype(), tensor.shape());
                return bad(name, found, &format!("F32 with {dims} dimension(s)"));
            }
            // Copied by parts: nothing promises that the bytes are aligned.
            let data: Vec<f32> = (tensor.data().chunks_exact(4))
                .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of 4")))
                .collect();
            values.push((data, tensor.shape().to_vec()));
        }
        let (bias, bias_shape) = values.pop().expect("two tensors");
        let (weight, weight_shape) = values.pop().expect("two tensors");
        if weight_shape[0] != bias_shape[0] {
            let expected = format!("{} outputs as weight has", weight_shape[0]);
            return bad("bias", format!("{} values", bias_shape[0]), &expected);
        }
        let mut model = match Model::new(weight, bias) {
            Ok(model) => model,
            Err(_) => {
                let expected = "outputs x features, outputs being 1 or above 2";
                return bad("weight", format!("{weight_shape:?}"), expected);
            }
        };
        let about = metadata.metadata().as_ref().and_then(|m| m.get(METADATA));
        if let Some(about) = about {
            model.about = match serde_json::from_str(about) {
                Ok(about) => about,
                Err(error) => {
                    return bad("metadata flowreg", error.to_string(), "what flowreg writes");
                }
            };
        }
        Ok(model)
    }
}
