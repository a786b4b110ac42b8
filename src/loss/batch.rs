//! The loss of a batch, with sample weights, class weights and label smoothing.

use std::ops::Range;

use crate::design::rows::Batch;
use crate::design::samples::Samples;
use crate::error::Result;
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::Loss;
use crate::loss::weights::{RowWeights, SampleWeights};

/// The loss of batches of the rows of a fit: labels, weights and buffers.
///
/// [`SampleWeights`] defines it. With equal weights it is the mean loss of the rows; it is 0 for a
/// batch whose weights are all 0.
#[derive(Clone, Debug)]
pub struct BatchLoss<'a> {
    loss: Loss,
    labels: &'a [u32],
    /// `None` if all weights are equal and targets are one-hot.
    weights: Option<SmoothedWeights>,
    batch_labels: Vec<u32>,
    row_losses: Vec<f64>,
}

impl<'a> BatchLoss<'a> {
    /// The loss of n rows of equal weight with these labels.
    pub fn new(loss: Loss, labels: &'a [u32]) -> Self {
        BatchLoss {
            loss,
            labels,
            weights: None,
            batch_labels: Vec::new(),
            row_losses: Vec::new(),
        }
    }

    /// The loss of `samples` with the weights and label smoothing of `weighting`.
    ///
    /// # Errors
    /// As [`SampleWeights::of`].
    pub fn weighted(samples: &'a Samples, weighting: &SampleWeights) -> Result<Self> {
        let weights = SmoothedWeights::new(samples, weighting)?;
        let equal = weighting.is_equal() && weighting.label_smoothing == 0.0;
        Ok(BatchLoss {
            weights: (!equal).then_some(weights),
            ..BatchLoss::new(Loss::for_classes(samples.classes()), samples.labels())
        })
    }

    /// The loss function.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// n: number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The Hessian weight mᵢ and the row weight tᵢ = sᵢ w_yᵢ of each row. In a batch with T = Σ tᵢ,
    /// the Hessian of row i in its logits is mᵢ/T times that of the unweighted loss.
    pub(crate) fn hessian_and_row_weights(&self) -> (Vec<f64>, Vec<f64>) {
        match &self.weights {
            None => (vec![1.0; self.rows()], vec![1.0; self.rows()]),
            Some(weights) => {
                let of_hessians = (0..self.rows()).map(|row| weights.hessian_weight(row));
                (of_hessians.collect(), weights.of.rows.clone())
            }
        }
    }

    /// Returns the loss of the batch with the logits `z` (c x batch) and writes Gᵀ to `g`.
    pub fn loss_gradient(&mut self, batch: Batch, z: MatRef, g: MatMut) -> f64 {
        self.mean_loss(batch, |targets, losses| {
            targets.loss_gradient(0..losses.len(), z, g, losses);
        })
    }

    /// The loss of a batch. `fill` writes the losses of its rows, computed by [`SmoothedTargets`].
    pub(crate) fn mean_loss(
        &mut self,
        batch: Batch,
        fill: impl FnOnce(SmoothedTargets, &mut [f64]),
    ) -> f64 {
        let losses = self.losses_of_part(batch, batch, fill);
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    /// The values of the rows `own` of a batch whose mean over the batch is its loss.
    pub(crate) fn losses_of_part(
        &mut self,
        batch: Batch,
        own: Batch,
        fill: impl FnOnce(SmoothedTargets, &mut [f64]),
    ) -> &[f64] {
        let labels = match own {
            Batch::All => self.labels,
            Batch::Rows(rows) => {
                self.batch_labels.clear();
                (self.batch_labels).extend(rows.iter().map(|&i| self.labels[i as usize]));
                &self.batch_labels
            }
        };
        let n = batch.numbers().map_or(self.labels.len(), <[u32]>::len);
        let weights = self.weights.as_ref().map(|of_rows| {
            let total: f64 = (0..n).map(|i| of_rows.of.rows[batch.row(i)]).sum();
            BatchWeights {
                batch: own,
                of_rows,
                n_over_t: if total > 0.0 { n as f64 / total } else { 0.0 },
            }
        });
        let targets = SmoothedTargets {
            loss: self.loss,
            labels,
            n,
            weights,
        };
        self.row_losses.clear();
        self.row_losses.resize(labels.len(), 0.0);
        fill(targets, &mut self.row_losses);
        &self.row_losses
    }
}

/// The weights of all rows and classes, and label smoothing ε.
///
/// Row i contributes to T·loss, with the logits z, one-hot y and W = Σ_c w_c,
///
/// ```text
/// (1-ε) sᵢ w_yᵢ (-ln p_yᵢ) + ε/C sᵢ Σ_c w_c (-ln p_c)  =  mᵢ (-ln p_yᵢ) + uᵢ Σ_c (W y_c - w_c) z_c
/// uᵢ = sᵢ ε/C,   mᵢ = (1-ε) sᵢ w_yᵢ + uᵢ W
/// ```
///
/// and its gradient in z_c is mᵢ (p_c - y_c) + uᵢ (W y_c - w_c).
#[derive(Clone, Debug)]
struct SmoothedWeights {
    of: RowWeights,
    label_smoothing: f64,
    /// W.
    classes_total: f64,
}

impl SmoothedWeights {
    fn new(samples: &Samples, weighting: &SampleWeights) -> Result<Self> {
        let of = weighting.resolve(samples, None)?;
        Ok(SmoothedWeights {
            classes_total: of.classes.iter().sum(),
            of,
            label_smoothing: weighting.label_smoothing,
        })
    }

    /// uᵢ.
    fn smoothing(&self, row: usize) -> f64 {
        self.of.samples[row] * self.label_smoothing / self.of.classes.len() as f64
    }

    /// mᵢ.
    fn hessian_weight(&self, row: usize) -> f64 {
        let own = (1.0 - self.label_smoothing) * self.of.rows[row];
        own + self.smoothing(row) * self.classes_total
    }
}

/// The labels and weights of a batch, shared by threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmoothedTargets<'a> {
    loss: Loss,
    labels: &'a [u32],
    /// Number of rows of the batch, to which the labels belong; other ranks may have others.
    n: usize,
    weights: Option<BatchWeights<'a>>,
}

/// The weights of a batch's rows.
#[derive(Clone, Copy, Debug)]
struct BatchWeights<'a> {
    batch: Batch<'a>,
    of_rows: &'a SmoothedWeights,
    /// n/T, or 0 if T is 0: the factor from contributions to T·loss to values whose mean over the n
    /// rows is the loss.
    n_over_t: f64,
}

impl BatchWeights<'_> {
    /// The row number, among all rows, of row `i` of the batch.
    fn row(&self, i: usize) -> usize {
        self.batch.row(i)
    }
}

impl SmoothedTargets<'_> {
    /// For the batch's rows `rows`, whose logits are the columns of `z`, writes to `losses` the values
    /// whose mean over the batch is its loss, and to `g` the gradient of that mean.
    pub fn loss_gradient(&self, rows: Range<usize>, z: MatRef, mut g: MatMut, losses: &mut [f64]) {
        assert_eq!((z.rows(), z.cols()), (g.rows(), g.cols()), "G's shape");
        let n = self.n;
        let labels = &self.labels[rows.clone()];
        let scale = 1.0 / n as f32;
        (self.loss).of_columns(z, labels, scale, losses, Some(g.as_mut_slice()));
        let Some(weights) = &self.weights else { return };
        let of = weights.of_rows;
        let factors = |of_row: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let rows = rows.clone().map(|i| of_row(weights.row(i)));
            rows.map(|factor| factor * weights.n_over_t).collect()
        };
        let hessian_weights = factors(&|row| of.hessian_weight(row));
        for (loss, weight) in losses.iter_mut().zip(&hessian_weights) {
            *loss *= weight;
        }
        for row in g.as_mut_slice().chunks_exact_mut(labels.len()) {
            for (g, weight) in row.iter_mut().zip(&hessian_weights) {
                *g = (f64::from(*g) * weight) as f32;
            }
        }
        if of.label_smoothing == 0.0 {
            return;
        }
        let smoothings = factors(&|row| of.smoothing(row));
        for (j, row) in (g.as_mut_slice().chunks_exact_mut(labels.len())).enumerate() {
            // The logistic output is the logit of class 1; that of class 0 is 0.
            let class = match self.loss {
                Loss::Logistic => 1,
                Loss::Softmax => j,
            };
            let others = -of.of.classes[class];
            let own = of.classes_total + others;
            let gradients = row.iter_mut().zip(losses.iter_mut());
            let of_rows = z.row(j).iter().zip(labels).zip(&smoothings);
            for ((g, loss), ((&z, &label), smoothing)) in gradients.zip(of_rows) {
                let coefficient = if label as usize == class { own } else { others };
                let coefficient = smoothing * coefficient;
                *loss += coefficient * f64::from(z);
                *g += (coefficient / n as f64) as f32;
            }
        }
    }
}
