//! The loss of a batch: rows that count by weights, and targets that are smoothed.

use std::ops::Range;

use crate::design::rows::Batch;
use crate::design::samples::Samples;
use crate::error::Result;
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::Loss;
use crate::loss::weights::{RowWeights, SampleWeights};

/// The loss of the rows of a fit: labels, weights and buffers.
///
/// The loss of a batch is defined by [`SampleWeights`]: for a batch of equal rows the mean loss, 0
/// for one whose rows weigh 0.
#[derive(Clone, Debug)]
pub struct BatchLoss<'a> {
    loss: Loss,
    labels: &'a [u32],
    /// `None` where all rows and classes count alike and targets are one-hot.
    weights: Option<SmoothedWeights>,
    batch_labels: Vec<u32>,
    row_losses: Vec<f64>,
}

impl<'a> BatchLoss<'a> {
    /// Labels of all n rows, which count alike.
    pub fn new(loss: Loss, labels: &'a [u32]) -> Self {
        BatchLoss {
            loss,
            labels,
            weights: None,
            batch_labels: Vec::new(),
            row_losses: Vec::new(),
        }
    }

    /// All samples, as a weighting has them count.
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

    /// Which loss.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// n: rows in all.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// mᵢ and sᵢ w_yᵢ of each row: of a batch with T = Σ sᵢ w_yᵢ, row i's gradient in its logits
    /// is (mᵢ p - its target)/T, and its Hessian mᵢ/T times that of the plain loss.
    pub(crate) fn masses(&self) -> (Vec<f64>, Vec<f64>) {
        match &self.weights {
            None => (vec![1.0; self.rows()], vec![1.0; self.rows()]),
            Some(weights) => {
                let masses = (0..self.rows()).map(|row| weights.mass(row));
                (masses.collect(), weights.of.rows.clone())
            }
        }
    }

    /// Loss of the batch whose logits `z` (c x batch) holds, and Gᵀ in `g`.
    pub fn loss_gradient(&mut self, batch: Batch, z: MatRef, g: MatMut) -> f64 {
        self.mean_loss(batch, |targets, losses| {
            targets.loss_gradient(0..losses.len(), z, g, losses);
        })
    }

    /// Loss of a batch from the losses of its rows, which `fill` gets from its [`SmoothedTargets`].
    pub(crate) fn mean_loss(
        &mut self,
        batch: Batch,
        fill: impl FnOnce(SmoothedTargets, &mut [f64]),
    ) -> f64 {
        let labels = match batch {
            Batch::All => self.labels,
            Batch::Rows(rows) => {
                self.batch_labels.clear();
                (self.batch_labels).extend(rows.iter().map(|&i| self.labels[i as usize]));
                &self.batch_labels
            }
        };
        let n = labels.len();
        let weights = self.weights.as_ref().map(|of_rows| {
            let mut weights = BatchWeights {
                batch,
                of_rows,
                per_mean: 0.0,
            };
            let total: f64 = (0..n).map(|i| of_rows.of.rows[weights.row(i)]).sum();
            if total > 0.0 {
                weights.per_mean = n as f64 / total;
            }
            weights
        });
        let targets = SmoothedTargets {
            loss: self.loss,
            labels,
            weights,
        };
        self.row_losses.clear();
        self.row_losses.resize(n, 0.0);
        fill(targets, &mut self.row_losses);
        self.row_losses.iter().sum::<f64>() / n as f64
    }
}

/// Weights of all rows and classes with label smoothing ε.
///
/// Row i's part of T·loss is, with the logits z, one-hot y and W = Σ_c w_c,
///
/// ```text
/// (1-ε) sᵢ w_yᵢ (-ln p_yᵢ) + ε/C sᵢ Σ_c w_c (-ln p_c)  =  mᵢ (-ln p_yᵢ) + uᵢ Σ_c (W y_c - w_c) z_c
/// uᵢ = sᵢ ε/C,   mᵢ = (1-ε) sᵢ w_yᵢ + uᵢ W
/// ```
///
/// so that its gradient in z_c is mᵢ (p_c - y_c) + uᵢ (W y_c - w_c).
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
    fn mass(&self, row: usize) -> f64 {
        let own = (1.0 - self.label_smoothing) * self.of.rows[row];
        own + self.smoothing(row) * self.classes_total
    }
}

/// Labels and weights of a batch; threads share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmoothedTargets<'a> {
    loss: Loss,
    labels: &'a [u32],
    weights: Option<BatchWeights<'a>>,
}

/// How much a batch's rows count.
#[derive(Clone, Copy, Debug)]
struct BatchWeights<'a> {
    batch: Batch<'a>,
    of_rows: &'a SmoothedWeights,
    /// n/T, or 0 where T is 0: makes of a row's part of T·loss what the mean over n rows is of.
    per_mean: f64,
}

impl BatchWeights<'_> {
    /// The number among all rows of row `i` of the batch.
    fn row(&self, i: usize) -> usize {
        match self.batch {
            Batch::All => i,
            Batch::Rows(rows) => rows[i] as usize,
        }
    }
}

impl SmoothedTargets<'_> {
    /// Of some rows of the batch, whose logits are the columns of `z`: what they add to the sum
    /// of which the loss is the mean, and the gradient of that mean in `g`.
    pub fn loss_gradient(&self, rows: Range<usize>, z: MatRef, mut g: MatMut, losses: &mut [f64]) {
        assert_eq!((z.rows(), z.cols()), (g.rows(), g.cols()), "G's shape");
        let n = self.labels.len();
        let labels = &self.labels[rows.clone()];
        let scale = 1.0 / n as f32;
        (self.loss).of_columns(z, labels, scale, losses, Some(g.as_mut_slice()));
        let Some(weights) = &self.weights else { return };
        let of = weights.of_rows;
        let factors = |of_row: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let rows = rows.clone().map(|i| of_row(weights.row(i)));
            rows.map(|factor| factor * weights.per_mean).collect()
        };
        let masses = factors(&|row| of.mass(row));
        for (loss, mass) in losses.iter_mut().zip(&masses) {
            *loss *= mass;
        }
        for row in g.as_mut_slice().chunks_exact_mut(labels.len()) {
            for (g, mass) in row.iter_mut().zip(&masses) {
                *g = (f64::from(*g) * mass) as f32;
            }
        }
        if of.label_smoothing == 0.0 {
            return;
        }
        let smoothings = factors(&|row| of.smoothing(row));
        for (j, row) in (g.as_mut_slice().chunks_exact_mut(labels.len())).enumerate() {
            // A logistic output is the logit of class 1, that of class 0 being 0.
            let class = match self.loss {
                Loss::Logistic => 1,
                Loss::Softmax => j,
            };
            let others = -of.of.classes[class];
            let own = of.classes_total + others;
            let gradients = row.iter_mut().zip(losses.iter_mut());
            let of_rows = z.row(j).iter().zip(labels).zip(&smoothings);
            for ((g, loss), ((&z, &label), smoothing)) in gradients.zip(of_rows) {
                let pull = if label as usize == class { own } else { others };
                let pull = smoothing * pull;
                *loss += pull * f64::from(z);
                *g += (pull / n as f64) as f32;
            }
        }
    }
}
