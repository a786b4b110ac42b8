//! The loss of logits and its gradient, in one pass.
//!
//! Logits are stored transposed, Zᵀ (c x n, row-major): one row per output. With labels y and
//! G = dLoss/dZ:
//!
//! - softmax: `loss = mean_i (lse(z_i) - z_i[y_i])`, `G = (P - Y)/n`;
//! - logistic (c = 1, y in {0, 1}): `loss = mean_i (softplus(z_i) - y_i z_i)`,
//!   `G = (sigmoid(z) - y)/n`.
//!
//! Finite logits give a finite loss and gradient: the largest logit of a row is subtracted before
//! the exponential, small probabilities are summed separately from the 1 that would absorb them, and
//! row losses are f64. A NaN logit makes the loss NaN.

mod batch;
pub mod risk;
#[cfg(test)]
mod tests;
pub mod weights;

use rayon::prelude::*;

use crate::kernels::{Isa, softmax};
use crate::linalg::mat::{MatMut, MatRef};
pub use crate::loss::batch::BatchLoss;
use crate::threads::{Share, Work};

/// The loss function; it determines the number of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of the softmax over c classes, with c outputs.
    Softmax,
    /// Binary cross-entropy with logits, with one output for two classes.
    Logistic,
}

impl Loss {
    /// The loss for a number of classes: logistic for two, else softmax.
    pub fn for_classes(classes: usize) -> Loss {
        match classes {
            2 => Loss::Logistic,
            _ => Loss::Softmax,
        }
    }

    /// c: the number of outputs for `classes` classes.
    pub fn outputs(self, classes: usize) -> usize {
        match self {
            Loss::Softmax => classes,
            Loss::Logistic => 1,
        }
    }

    /// The Lipschitz constant of the gradient of a row's loss in its logits, which is the upper bound
    /// of the eigenvalues of its Hessian: 1/2 for softmax (Böhning 1992, "Multinomial logistic
    /// regression algorithm"), 1/4 for logistic.
    pub fn curvature(self) -> f64 {
        match self {
            Loss::Softmax => 0.5,
            Loss::Logistic => 0.25,
        }
    }

    /// Returns the mean loss of the samples whose logits are the columns of `z` (c x n), and writes Gᵀ
    /// to `g`.
    ///
    /// `labels` has one label per column. Cost: n·c exponentials, one pass over Z. The result does not
    /// depend on the number of threads: losses are added in the order of the samples.
    ///
    /// # Panics
    /// If the number of labels is not n, a label is not below c (2 for logistic), or `g` has another
    /// size.
    pub fn loss_gradient(
        self,
        z: MatRef,
        labels: &[u32],
        mut g: MatMut,
        scratch: &mut Vec<f64>,
    ) -> f64 {
        assert_eq!((z.rows(), z.cols()), (g.rows(), g.cols()), "G's shape");
        self.losses(z, labels, Some(g.as_mut_slice()), scratch)
    }

    /// The mean loss of the columns of `z` (c x n), and the number of columns whose
    /// [prediction](Loss::predictions) is the label.
    pub fn loss_and_correct(
        self,
        z: MatRef,
        labels: &[u32],
        scratch: &mut Vec<f64>,
    ) -> (f64, usize) {
        let predictions = self.predictions(z);
        let correct = predictions.iter().zip(labels).filter(|(p, l)| p == l);
        (self.losses(z, labels, None, scratch), correct.count())
    }

    /// Writes the loss of each column of `z` (c x n) to `losses`.
    pub(crate) fn row_losses(self, z: MatRef, labels: &[u32], losses: &mut Vec<f64>) {
        losses.clear();
        losses.resize(labels.len(), 0.0);
        self.of_columns(z, labels, 1.0, losses, None);
    }

    fn losses(
        self,
        z: MatRef,
        labels: &[u32],
        g: Option<&mut [f32]>,
        scratch: &mut Vec<f64>,
    ) -> f64 {
        let n = labels.len();
        scratch.clear();
        scratch.resize(n, 0.0);
        self.of_columns(z, labels, 1.0 / n as f32, scratch, g);
        scratch.iter().sum::<f64>() / n as f64
    }

    /// Writes the loss of each column of `z` to `losses`, and `scale` times the gradient of their sum
    /// to `g`.
    fn of_columns(
        self,
        z: MatRef,
        labels: &[u32],
        scale: f32,
        losses: &mut [f64],
        g: Option<&mut [f32]>,
    ) {
        assert_eq!(z.cols(), labels.len(), "number of labels");
        let z = z.as_slice();
        match self {
            Loss::Softmax => softmax::columns(Isa::current(), z, labels, scale, losses, g),
            Loss::Logistic => {
                let samples = (z.par_iter().zip(labels)).zip(losses.par_iter_mut());
                let samples = samples.with_min_len(TASK);
                // An exponential and a logarithm per sample.
                let work = Work::exponentials(8 * labels.len());
                let of_sample = |((&z, &label), loss): ((&f32, &u32), &mut f64)| {
                    let (value, g) = logistic(z, label, scale);
                    *loss = value;
                    g
                };
                match g {
                    Some(g) => samples
                        .zip(g.par_iter_mut())
                        .share(work)
                        .for_each(|(sample, g)| *g = of_sample(sample)),
                    None => samples.share(work).for_each(|sample| {
                        of_sample(sample);
                    }),
                }
            }
        }
    }

    /// The most probable class of each column of logits (c x n); the first one of a tie.
    pub fn predictions(self, z: MatRef) -> Vec<u32> {
        let n = z.cols();
        let mut best = vec![0; n];
        match self {
            Loss::Logistic => {
                let logits = best.iter_mut().zip(z.row(0));
                logits.for_each(|(best, &z)| *best = u32::from(z > 0.0));
            }
            Loss::Softmax => {
                let work = Work::bytes(2 * size_of_val(z.as_slice()));
                let tasks = best.par_chunks_mut(TASK).share(work).enumerate();
                tasks.for_each(|(task, best)| {
                    let columns = task * TASK..task * TASK + best.len();
                    let mut largest = [f32::NEG_INFINITY; TASK];
                    largest[..best.len()].copy_from_slice(&z.row(0)[columns.clone()]);
                    for class in 1..z.rows() {
                        let logits = &z.row(class)[columns.clone()];
                        let both = best.iter_mut().zip(&mut largest).zip(logits);
                        for ((best, largest), &z) in both {
                            let more = z > *largest;
                            *best = if more { class as u32 } else { *best };
                            *largest = if more { z } else { *largest };
                        }
                    }
                });
            }
        }
        best
    }

    /// Writes the class probabilities of each column of logits (c x n) to `out` (n x classes,
    /// row-major).
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn probabilities(self, z: MatRef, out: &mut [f32]) {
        let (c, n) = (z.rows(), z.cols());
        let classes = c.max(2);
        assert_eq!(out.len(), n * classes, "number of probabilities");
        let mut logits = vec![0.0; c];
        for (i, out) in out.chunks_exact_mut(classes).enumerate() {
            for (j, logit) in logits.iter_mut().enumerate() {
                *logit = z.row(j)[i];
            }
            match self {
                Loss::Logistic => (out[0], out[1]) = (sigmoid(-logits[0]), sigmoid(logits[0])),
                Loss::Softmax => {
                    // `f32::max` ignores NaN, but its exponential is NaN.
                    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let mut total = 0.0;
                    for (p, &z) in out.iter_mut().zip(&logits) {
                        *p = (z - max).exp();
                        total += *p;
                    }
                    out.iter_mut().for_each(|p| *p /= total);
                }
            }
        }
    }
}

/// Number of samples of a task: enough work to outweigh its scheduling.
const TASK: usize = 256;

/// The loss of one logit, `softplus(z) - y z`, and its scaled gradient, `(sigmoid(z) - y) * scale`.
fn logistic(z: f32, label: u32, scale: f32) -> (f64, f32) {
    assert!(label < 2, "a logistic label is 0 or 1");
    // The classes differ in a sign: loss = softplus(t), t = -z for y = 1 and z for y = 0.
    let sign = if label == 1 { -1.0 } else { 1.0 };
    let t = sign * z;
    let g = sign * sigmoid(t) * scale;
    let t = f64::from(t);
    (t.max(0.0) + (-t.abs()).exp().ln_1p(), g)
}

/// 1/(1 + e⁻ᵗ), by the exponential of -|t|, which cannot overflow.
fn sigmoid(t: f32) -> f32 {
    let e = (-t.abs()).exp();
    if t < 0.0 {
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + e)
    }
}

/// The probability of the label with this loss: `exp(-loss)`.
///
/// ```
/// let p = flowreg::loss_to_probability(0.6931471805599453);
/// assert!((p - 0.5).abs() < 1e-12);
/// ```
pub fn loss_to_probability(loss: f64) -> f64 {
    (-loss).exp()
}

/// The loss of a label with this probability: `-ln(probability)`.
///
/// ```
/// assert_eq!(flowreg::probability_to_loss(1.0), 0.0);
/// assert!((flowreg::probability_to_loss(1.0 / 102.0) - 4.624972813284271).abs() < 1e-12);
/// ```
pub fn probability_to_loss(probability: f64) -> f64 {
    -probability.ln()
}
