//! Logits, probabilities, predictions and evaluation of a [`Model`], by blocks of rows.

use std::ops::Range;

use crate::design::samples::{Rows, Samples, position};
use crate::error::{Error, Result};
use crate::linalg::gemm::{Accum, Backend, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::Loss;
use crate::model::{Evaluation, Logits, Model, RowPredictions};
use crate::threads;
use crate::threads::Work;

/// Rows of a block of logits: enough for the product to be efficient.
const BLOCK_ROWS: usize = 1024;
/// Least number of bytes of rows that are read ahead of a product.
const READ_AHEAD: usize = 8 << 20;

impl Model {
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
            return Err(Error::shape(
                "weights",
                found,
                format!("{rows}: one per row"),
            ));
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
