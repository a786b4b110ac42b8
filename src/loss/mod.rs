//! The loss on logits: value and gradient in one pass.
//!
//! Logits are held transposed, Zᵀ (c x n, row-major): one row an output. With labels y and
//! G = dLoss/dZ:
//!
//! - softmax: `loss = mean_i (lse(z_i) - z_i[y_i])`, `G = (P - Y)/n`;
//! - logistic (c = 1, y in {0, 1}): `loss = mean_i (softplus(z_i) - y_i z_i)`,
//!   `G = (sigmoid(z) - y)/n`.
//!
//! Every finite logit gives a finite loss and gradient: the largest logit of a row is
//! subtracted before the exponential, small probabilities are summed apart from the 1
//! that would swallow them, and row losses are f64. A NaN among the logits makes the loss
//! NaN, so that it cannot go unseen.

pub mod risk;
pub mod weights;

use std::ops::Range;

use rayon::prelude::*;

use crate::design::samples::{Batch, Samples};
use crate::error::Result;
use crate::kernels::{Isa, softmax};
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::weights::{RowWeights, SampleWeights};
use crate::threads::{Share, Work};

/// Which loss; the number of outputs follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of a softmax over c classes: c outputs.
    Softmax,
    /// Binary cross-entropy with logits: one output for two classes.
    Logistic,
}

impl Loss {
    /// Two classes fit one logistic output, more fit softmax.
    pub fn for_classes(classes: usize) -> Loss {
        match classes {
            2 => Loss::Logistic,
            _ => Loss::Softmax,
        }
    }

    /// c: number of outputs for so many classes.
    pub fn outputs(self, classes: usize) -> usize {
        match self {
            Loss::Softmax => classes,
            Loss::Logistic => 1,
        }
    }

    /// The largest eigenvalue that the Hessian of one row's loss in its logits can have: 1/2
    /// for softmax (Böhning 1992, "Multinomial logistic regression algorithm"), 1/4 for
    /// logistic.
    pub fn curvature(self) -> f64 {
        match self {
            Loss::Softmax => 0.5,
            Loss::Logistic => 0.25,
        }
    }

    /// Mean loss over the samples whose logits are the columns of `z` (c x n), and Gᵀ in `g`.
    ///
    /// `labels` has one label a column. Cost: n·c exponentials, one pass over Z. The result
    /// does not depend on the number of threads: losses are added in the samples' order.
    ///
    /// # Panics
    /// If there is not one label a column, or a label is not below c (2 for logistic), or if
    /// `g` has another size.
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

    /// Mean loss over the columns of `z` (c x n) and the number of them whose
    /// [prediction](Loss::predictions) is the label.
    pub fn loss_and_hits(self, z: MatRef, labels: &[u32], scratch: &mut Vec<f64>) -> (f64, usize) {
        let predictions = self.predictions(z);
        let hits = predictions.iter().zip(labels).filter(|(p, l)| p == l);
        (self.losses(z, labels, None, scratch), hits.count())
    }

    /// The loss of each column of `z` (c x n), one label a column.
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

    /// The loss of each column of `z`, and the gradients of their sum times `scale`.
    fn of_columns(
        self,
        z: MatRef,
        labels: &[u32],
        scale: f32,
        losses: &mut [f64],
        g: Option<&mut [f32]>,
    ) {
        assert_eq!(z.cols(), labels.len(), "one label a column");
        let z = z.as_slice();
        match self {
            Loss::Softmax => softmax::columns(Isa::current(), z, labels, scale, losses, g),
            Loss::Logistic => {
                let samples = (z.par_iter().zip(labels)).zip(losses.par_iter_mut());
                // An exponential and a logarithm.
                let samples = samples.with_min_len(TASK);
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

    /// The most probable class of each column of logits (c x n); the first of equals.
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

    /// Class probabilities of each column of logits (c x n): `out` is n x classes, row-major.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn probabilities(self, z: MatRef, out: &mut [f32]) {
        let (c, n) = (z.rows(), z.cols());
        let classes = c.max(2);
        assert_eq!(out.len(), n * classes, "one probability a class");
        let mut logits = vec![0.0; c];
        for (i, out) in out.chunks_exact_mut(classes).enumerate() {
            for (j, logit) in logits.iter_mut().enumerate() {
                *logit = z.row(j)[i];
            }
            match self {
                Loss::Logistic => (out[0], out[1]) = (sigmoid(-logits[0]), sigmoid(logits[0])),
                Loss::Softmax => {
                    // `f32::max` skips NaN; the exponentials bring it back.
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

/// Samples a task: it should outlast the cost of handing it out.
const TASK: usize = 256;

/// The loss of a fit's rows: the labels, how much each row counts, and the room it takes.
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

/// What the logits of a batch are held to; threads share it.
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

/// One logit: `softplus(z) - y z` and `(sigmoid(z) - y) * scale`.
fn logistic(z: f32, label: u32, scale: f32) -> (f64, f32) {
    assert!(label < 2, "a logistic label is 0 or 1");
    // With the sign turned towards the label both classes are one case:
    // loss = softplus(t), t = -z for y = 1 and z for y = 0.
    let sign = if label == 1 { -1.0 } else { 1.0 };
    let t = sign * z;
    let g = sign * sigmoid(t) * scale;
    let t = f64::from(t);
    (t.max(0.0) + (-t.abs()).exp().ln_1p(), g)
}

/// 1/(1 + e⁻ᵗ) with the exponential of a negative number only: it cannot overflow.
fn sigmoid(t: f32) -> f32 {
    let e = (-t.abs()).exp();
    if t < 0.0 {
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + e)
    }
}

/// The probability that a loss stands for: `exp(-loss)`.
///
/// ```
/// let p = flowreg::loss_to_probability(0.6931471805599453);
/// assert!((p - 0.5).abs() < 1e-12);
/// ```
pub fn loss_to_probability(loss: f64) -> f64 {
    (-loss).exp()
}

/// The loss of giving the truth a probability: `-ln(probability)`.
///
/// ```
/// assert_eq!(flowreg::probability_to_loss(1.0), 0.0);
/// assert!((flowreg::probability_to_loss(1.0 / 102.0) - 4.624972813284271).abs() < 1e-12);
/// ```
pub fn probability_to_loss(probability: f64) -> f64 {
    -probability.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Loss and G of n x c logits, a sample a row.
    fn run(loss: Loss, z: &[f32], cols: usize, labels: &[u32]) -> (f64, Vec<f32>) {
        let rows = z.len() / cols;
        let transposed = |z: &[f32], rows: usize, cols: usize| -> Vec<f32> {
            let values = (0..cols).flat_map(|j| (0..rows).map(move |i| z[i * cols + j]));
            values.collect()
        };
        let z = transposed(z, rows, cols);
        let mut g = vec![f32::NAN; z.len()];
        let (z, g_view) = (MatRef::new(&z, cols, rows), MatMut::new(&mut g, cols, rows));
        let value = loss.loss_gradient(z, labels, g_view, &mut Vec::new());
        assert_eq!(
            loss.loss_and_hits(z, labels, &mut Vec::new()).0.to_bits(),
            value.to_bits()
        );
        (value, transposed(&g, cols, rows))
    }

    #[test]
    fn predictions_and_probabilities_agree() {
        // Columns: the second class, a tie of the first and third, NaN beside the third.
        let z = [0.0, 1.0, f32::NAN, 2.0, 0.0, 1.0, 1.0, 1.0, 3.0];
        let z = MatRef::new(&z, 3, 3);
        assert_eq!(Loss::Softmax.predictions(z)[..2], [1, 0]);
        let mut p = [0.0; 9];
        Loss::Softmax.probabilities(z, &mut p);
        assert!((p[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6 && p[1] > p[2] && p[2] > p[0]);
        assert_eq!(p[3], p[5]);
        assert!(p[6..].iter().all(|p| p.is_nan()));
        let z = MatRef::new(&[-1.0, 2.0], 1, 2);
        assert_eq!(Loss::Logistic.predictions(z), [0, 1]);
        Loss::Logistic.probabilities(z, &mut p[..4]);
        assert!(p[0] > 0.5 && p[3] > 0.8 && (p[0] + p[1] - 1.0).abs() < 1e-6);
        // More than a task.
        let n = 2 * TASK + 3;
        let z: Vec<f32> = (0..3 * n)
            .map(|at| f32::from(u8::from(at % n % 3 == at / n)))
            .collect();
        let expected: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        assert_eq!(Loss::Softmax.predictions(MatRef::new(&z, 3, n)), expected);
    }

    /// The definition, in f64, with the max of each row taken out.
    fn oracle(loss: Loss, z: &[f64], cols: usize, labels: &[u32]) -> f64 {
        let rows = z.len() / cols;
        let mut sum = 0.0;
        for (row, &label) in z.chunks_exact(cols).zip(labels) {
            sum += match loss {
                Loss::Logistic => {
                    row[0].max(0.0) + (-row[0].abs()).exp().ln_1p() - f64::from(label) * row[0]
                }
                Loss::Softmax => {
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let lse = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
                    lse - row[label as usize]
                }
            };
        }
        sum / rows as f64
    }

    fn problem() -> impl Strategy<Value = (Loss, Vec<f32>, usize, Vec<u32>)> {
        (any::<bool>(), 1usize..9, 3usize..12, 0.1f32..30.0).prop_flat_map(
            |(binary, rows, classes, size)| {
                let loss = Loss::for_classes(if binary { 2 } else { classes });
                let cols = loss.outputs(classes);
                let labels = if binary { 2 } else { classes as u32 };
                (
                    Just(loss),
                    prop::collection::vec(-size..size, rows * cols),
                    Just(cols),
                    prop::collection::vec(0..labels, rows),
                )
            },
        )
    }

    proptest! {
        #[test]
        fn equals_the_definition((loss, z, cols, labels) in problem()) {
            let (value, g) = run(loss, &z, cols, &labels);
            let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
            let expected = oracle(loss, &z, cols, &labels);
            prop_assert!((value - expected).abs() <= 2e-6 * expected.max(1e-3), "{value} {expected}");
            // The gradient against central differences of the f64 definition.
            let h = 1e-5;
            for i in 0..z.len() {
                let mut moved = z.clone();
                moved[i] += h;
                let up = oracle(loss, &moved, cols, &labels);
                moved[i] -= 2.0 * h;
                let down = oracle(loss, &moved, cols, &labels);
                let slope = (up - down) / (2.0 * h);
                prop_assert!((f64::from(g[i]) - slope).abs() < 1e-6, "{i}: {} {slope}", g[i]);
            }
        }

        /// Softmax is unchanged by a shift of a row, whatever the other rows hold.
        #[test]
        fn rows_do_not_meet((_, z, cols, labels) in problem()) {
            prop_assume!(cols > 1);
            let (_, g) = run(Loss::Softmax, &z, cols, &labels);
            let mut far = z.clone();
            far[..cols].iter_mut().for_each(|z| *z = *z * 0.0 + 1e30);
            let (_, g_far) = run(Loss::Softmax, &far, cols, &labels);
            prop_assert_eq!(&g[cols..], &g_far[cols..]);
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let extremes = [1e30f32, -1e30, f32::MAX, -f32::MAX, 0.0, -0.0, 88.8, -104.0];
        for &a in &extremes {
            for label in [0, 1] {
                let (value, g) = run(Loss::Logistic, &[a], 1, &[label]);
                assert!(value.is_finite() && value >= 0.0 && g[0].is_finite(), "{a}");
            }
            for &b in &extremes {
                for label in [0, 1, 2] {
                    let (value, g) = run(Loss::Softmax, &[a, b, 1.0], 3, &[label]);
                    assert!(value.is_finite() && value >= 0.0, "{a} {b}: {value}");
                    assert!(g.iter().all(|g| g.is_finite() && g.abs() <= 1.0), "{g:?}");
                }
            }
        }
        // Known values at the extremes.
        assert_eq!(
            run(Loss::Softmax, &[1e30, 0.0, 0.0], 3, &[1]).0,
            f64::from(1e30f32)
        );
        assert_eq!(run(Loss::Softmax, &[1e30, 0.0, 0.0], 3, &[0]).0, 0.0);
        assert_eq!(run(Loss::Logistic, &[-1e30], 1, &[1]).0, f64::from(1e30f32));
    }

    #[test]
    fn small_losses_are_not_rounded_away() {
        // lse - z_y in f32 would give 0 for both.
        let (value, g) = run(Loss::Softmax, &[20.0, 0.0, 0.0], 3, &[0]);
        let others = 2.0 * (-20.0f64).exp();
        assert!((value / others.ln_1p() - 1.0).abs() < 1e-6, "{value}");
        assert!((f64::from(g[0]) / -(others / (1.0 + others)) - 1.0).abs() < 1e-6);
        // Above the distance of the label from the largest logit, which label smoothing may
        // take away again.
        let (value, _) = run(Loss::Softmax, &[10.0, 0.0, 0.0], 3, &[1]);
        let rest = 2.0 * (-10.0f64).exp();
        assert!(
            ((value - 10.0) / rest.ln_1p() - 1.0).abs() < 1e-6,
            "{value}"
        );
        let (value, g) = run(Loss::Logistic, &[30.0], 1, &[1]);
        assert!((value / (-30.0f64).exp() - 1.0).abs() < 1e-6);
        assert!((f64::from(g[0]) / -(-30.0f64).exp() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_is_seen() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!run(Loss::Softmax, &[0.0, bad, 0.0], 3, &[0]).0.is_finite());
            assert!(!run(Loss::Softmax, &[0.0, bad, 0.0], 3, &[1]).0.is_finite());
        }
        assert!(!run(Loss::Logistic, &[f32::NAN], 1, &[0]).0.is_finite());
        assert!(!run(Loss::Logistic, &[f32::INFINITY], 1, &[0]).0.is_finite());
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        crate::threads::share_short_loops();
        let z: Vec<f32> = (0..1000 * 7)
            .map(|i| ((i * 37) % 101) as f32 / 9.0)
            .collect();
        let labels: Vec<u32> = (0..1000).map(|i| i % 7).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| run(Loss::Softmax, &z, 7, &labels))
        };
        assert!((1..5).all(|threads| on(threads) == on(1)));
    }
}
