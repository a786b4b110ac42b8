//! The data's part of the objective with its curvature, for optimizers that want the optimum.
//!
//! With shares sᵢ >= 0, Σ sᵢ = 1, targets qᵢ (one-hot, smoothed) and P the probabilities of
//! the logits Z:
//!
//! ```text
//! loss     = Σ sᵢ lossᵢ,     softmax: lossᵢ = lse(zᵢ) - qᵢ·zᵢ;   logistic: softplus(zᵢ) - qᵢ zᵢ
//! gradient   gᵢ = sᵢ (pᵢ - qᵢ)
//! Hessian    hᵢ = sᵢ (pᵢ ∘ (vᵢ - pᵢ·vᵢ));    logistic: sᵢ p (1 - p) vᵢ
//! ```
//!
//! All arithmetic is f64, whatever the logits are stored as; matrices are c x n.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::engine::Real;
use crate::kernels::{
    Isa,
    columns::{self, Columns, WIDTH},
};
use crate::objective::Loss;

/// Labels with their shares.
#[derive(Clone, Debug)]
pub struct Likelihood<'a> {
    loss: Loss,
    /// The output that is each sample's own, or its label for the one logistic output.
    labels: Cow<'a, [u32]>,
    shares: Vec<f64>,
    /// q of the label, and of every other class.
    targets: (f64, f64),
    outputs: usize,
    /// The class of each output, where outputs are fewer than classes.
    present: Option<Vec<u32>>,
}

/// Loss, gradient and curvature at some logits.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The loss.
    pub loss: f64,
    /// Gᵀ, c x n.
    pub g: Vec<T>,
    /// Gᵀ 1: the gradient in the bias.
    pub bias: Vec<f64>,
    /// Pᵀ, c x n.
    p: Vec<T>,
    /// Mean over the outputs of sᵢ p (1 - p), one a sample.
    pub curvatures: Vec<f64>,
    /// The same, summed over the samples, one an output.
    pub bias_curvatures: Vec<f64>,
    /// The smallest margin, z of the label less the largest other, of samples with a share.
    pub smallest_margin: f64,
    losses: Vec<f64>,
    margins: Vec<f64>,
    of_blocks: Vec<f64>,
}

impl<T: Real> At<T> {
    /// Room for c x n.
    pub fn new(outputs: usize, rows: usize) -> At<T> {
        At {
            loss: f64::INFINITY,
            g: vec![T::default(); outputs * rows],
            bias: vec![0.0; outputs],
            p: vec![T::default(); outputs * rows],
            curvatures: vec![0.0; rows],
            bias_curvatures: vec![0.0; outputs],
            smallest_margin: f64::NEG_INFINITY,
            losses: vec![0.0; rows],
            margins: vec![0.0; rows],
            of_blocks: Vec::new(),
        }
    }
}

/// A block's value of every sample.
type Lane = [f64; WIDTH];

impl<'a> Likelihood<'a> {
    /// Labels below `classes`, and the weight of each sample, whose sum is above 0.
    pub fn new(labels: &'a [u32], classes: usize, weights: &[f64], label_smoothing: f64) -> Self {
        assert_eq!(labels.len(), weights.len(), "one weight a label");
        let total: f64 = weights.iter().sum();
        let loss = Loss::for_classes(classes);
        let other = label_smoothing / classes as f64;
        Likelihood {
            loss,
            labels: Cow::Borrowed(labels),
            shares: weights.iter().map(|weight| weight / total).collect(),
            targets: (1.0 - label_smoothing + other, other),
            outputs: loss.outputs(classes),
            present: None,
        }
    }

    /// The same without the classes whose samples have no share. One-hot targets push the bias
    /// of such a class down for ever: the loss has a minimum only without it.
    pub fn of_present_classes(mut self) -> Self {
        if !self.is_one_hot() {
            return self;
        }
        let classes = match self.loss {
            Loss::Softmax => self.outputs,
            Loss::Logistic => 2,
        };
        let mut has_share = vec![false; classes];
        for (&label, &share) in self.labels.iter().zip(&self.shares) {
            has_share[label as usize] |= share > 0.0;
        }
        let present: Vec<u32> = (0..classes as u32)
            .filter(|&class| has_share[class as usize])
            .collect();
        if present.len() < classes {
            // A sample without a share may have any label.
            let output = |label: &u32| present.binary_search(label).unwrap_or(0) as u32;
            self.labels = self.labels.iter().map(output).collect();
            self.outputs = present.len();
            self.present = Some(present);
            self.loss = Loss::Softmax;
        }
        self
    }

    /// The class of each output, where some class has none.
    pub fn present(&self) -> Option<&[u32]> {
        self.present.as_deref()
    }

    /// The smallest over the samples with a share of the largest logit.
    pub fn lowest_maximum<T: Real>(&self, z: &[T], bias: &[f64]) -> f64 {
        let n = self.labels.len();
        let maximum = |i: usize| {
            let logits = bias.iter().enumerate();
            let logits = logits.map(|(j, bias)| z[j * n + i].into() + bias);
            logits.fold(f64::NEG_INFINITY, f64::max)
        };
        let samples = (0..n).filter(|&i| self.shares[i] > 0.0);
        samples.map(maximum).fold(f64::INFINITY, f64::min)
    }

    /// c.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether targets are one-hot: then scaling up logits that tell all samples apart takes
    /// the loss to 0.
    pub fn is_one_hot(&self) -> bool {
        self.targets.1 == 0.0
    }

    /// Everything at the logits `z + b 1ᵀ`. Cost: nc exponentials.
    pub fn evaluate<T: Real>(&self, z: &[T], bias: &[f64], at: &mut At<T>) {
        let (n, c) = (self.labels.len(), self.outputs);
        let isa = Isa::current();
        at.of_blocks.clear();
        at.of_blocks.resize(n.div_ceil(WIDTH) * 2 * c, 0.0);
        let blocks = columns::blocks(&mut at.g, n).zip(columns::blocks(&mut at.p, n));
        let samples = (at.losses.par_chunks_mut(WIDTH))
            .zip(at.curvatures.par_chunks_mut(WIDTH))
            .zip(at.margins.par_chunks_mut(WIDTH))
            .zip(at.of_blocks.par_chunks_mut(2 * c));
        blocks.zip(samples).for_each(
            |((mut g, mut p), (((losses, curvatures), margins), of_block))| {
                isa.vectorised(|| {
                    let block = Block {
                        of: self,
                        z,
                        bias,
                        first: g.range().start,
                        width: g.range().len(),
                    };
                    match self.loss {
                        Loss::Softmax => block.softmax(&mut p, losses, margins),
                        Loss::Logistic => block.logistic(&mut p, losses, margins),
                    }
                    block.gradient(&mut p, &mut g, curvatures, of_block);
                });
            },
        );
        at.loss = at.losses.iter().sum();
        at.smallest_margin = at.margins.iter().copied().fold(f64::INFINITY, f64::min);
        at.bias.fill(0.0);
        at.bias_curvatures.fill(0.0);
        for of_block in at.of_blocks.chunks_exact(2 * c) {
            let (gradient, curvature) = of_block.split_at(c);
            axpy(gradient, &mut at.bias);
            axpy(curvature, &mut at.bias_curvatures);
        }
    }

    /// The loss at `z + t·d` alone, in logits and bias. Cost: as [`Likelihood::evaluate`].
    pub fn loss_along<T: Real>(
        &self,
        (z, bias): (&[T], &[f64]),
        (d, d_bias): (&[T], &[f64]),
        t: f64,
    ) -> f64 {
        let n = self.labels.len();
        let isa = Isa::current();
        let losses: Vec<f64> = (0..n.div_ceil(WIDTH))
            .into_par_iter()
            .map(|i| {
                let first = i * WIDTH;
                let width = WIDTH.min(n - first);
                isa.vectorised(|| {
                    let value = |j: usize, i: usize| {
                        let at = j * n + first + i;
                        z[at].into() + bias[j] + t * (d[at].into() + d_bias[j])
                    };
                    self.block_loss(first, width, value)
                })
            })
            .collect();
        losses.iter().sum()
    }

    #[inline(always)]
    fn block_loss(&self, first: usize, width: usize, value: impl Fn(usize, usize) -> f64) -> f64 {
        let (c, (own, other)) = (self.outputs, self.targets);
        let mut sum = 0.0;
        let labels = self.labels[first..][..width].iter();
        let samples = labels.zip(&self.shares[first..][..width]).enumerate();
        for (i, (&label, &share)) in samples {
            sum += share
                * match self.loss {
                    Loss::Logistic => {
                        let z = value(0, i);
                        let target = if label == 1 { own } else { other };
                        softplus(z) - target * z
                    }
                    Loss::Softmax => {
                        let (mut max, mut mean) = (f64::NEG_INFINITY, 0.0);
                        for j in 0..c {
                            max = f64::max(max, value(j, i));
                            mean += value(j, i);
                        }
                        let total: f64 = (0..c).map(|j| (value(j, i) - max).exp()).sum();
                        let label = value(label as usize, i);
                        max + total.ln() - (own - other) * label - other * mean
                    }
                };
        }
        sum
    }

    /// `H = Hessian · (V + v 1ᵀ)` at the logits that `at` was evaluated at, and `H 1` in `bias`.
    pub fn hessian<T: Real>(
        &self,
        at: &At<T>,
        v: &[T],
        v_bias: &[f64],
        h: &mut [T],
        bias: &mut [f64],
    ) {
        let (n, c) = (self.labels.len(), self.outputs);
        let isa = Isa::current();
        let mut of_blocks = vec![0.0; n.div_ceil(WIDTH) * c];
        columns::blocks(h, n)
            .zip(of_blocks.par_chunks_mut(c))
            .for_each(|(mut h, of_block)| {
                isa.vectorised(|| {
                    let (first, width) = (h.range().start, h.range().len());
                    let row = |values: &'_ [T], j: usize| -> Lane {
                        load(&values[j * n + first..][..width])
                    };
                    let mut mean: Lane = [0.0; WIDTH];
                    for (j, v_bias) in v_bias.iter().enumerate() {
                        let (p, v) = (row(&at.p, j), row(v, j));
                        for i in 0..WIDTH {
                            mean[i] += p[i] * (v[i] + v_bias);
                        }
                    }
                    let shares: Lane = load(&self.shares[first..][..width]);
                    for j in 0..c {
                        let (p, v) = (row(&at.p, j), row(v, j));
                        let mut values: Lane = [0.0; WIDTH];
                        for i in 0..WIDTH {
                            let v = v[i] + v_bias[j];
                            values[i] = shares[i]
                                * match self.loss {
                                    Loss::Softmax => p[i] * (v - mean[i]),
                                    Loss::Logistic => p[i] * (1.0 - p[i]) * v,
                                };
                        }
                        of_block[j] = values[..width].iter().sum();
                        store(&values, h.row(j));
                    }
                });
            });
        bias.fill(0.0);
        of_blocks
            .chunks_exact(c)
            .for_each(|of_block| axpy(of_block, bias));
    }
}

/// Some samples: WIDTH of them, or the last ones.
struct Block<'a, T> {
    of: &'a Likelihood<'a>,
    z: &'a [T],
    bias: &'a [f64],
    first: usize,
    width: usize,
}

impl<T: Real> Block<'_, T> {
    /// Logits of output j.
    #[inline(always)]
    fn logits(&self, j: usize) -> Lane {
        let n = self.of.labels.len();
        let mut z: Lane = load(&self.z[j * n + self.first..][..self.width]);
        z.iter_mut().for_each(|z| *z += self.bias[j]);
        z
    }

    #[inline(always)]
    fn labels(&self) -> &[u32] {
        &self.of.labels[self.first..][..self.width]
    }

    #[inline(always)]
    fn shares(&self) -> &[f64] {
        &self.of.shares[self.first..][..self.width]
    }

    /// Probabilities, losses times shares, margins.
    #[inline(always)]
    fn softmax(&self, p: &mut Columns<T>, losses: &mut [f64], margins: &mut [f64]) {
        let (c, (own, other)) = (self.of.outputs, self.of.targets);
        let (mut max, mut sum) = ([f64::NEG_INFINITY; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            let z = self.logits(j);
            for i in 0..WIDTH {
                max[i] = if z[i] > max[i] { z[i] } else { max[i] };
                sum[i] += z[i];
            }
        }
        let mut total: Lane = [0.0; WIDTH];
        for j in 0..c {
            let mut e = self.logits(j);
            for i in 0..self.width {
                e[i] = (e[i] - max[i]).exp();
            }
            for i in 0..WIDTH {
                total[i] += e[i];
            }
            store(&e, p.row(j));
        }
        for (i, (&label, &share)) in self.labels().iter().zip(self.shares()).enumerate() {
            let n = self.of.labels.len();
            let value = |j: usize| self.z[j * n + self.first + i].into() + self.bias[j];
            let z = value(label as usize);
            losses[i] = share * (max[i] - z + total[i].ln() + other * (c as f64 * z - sum[i]));
            debug_assert!(own + other * (c as f64 - 1.0) > 0.999);
            margins[i] = match share > 0.0 {
                true if z < max[i] => z - max[i],
                true => {
                    let others = (0..c).filter(|&j| j != label as usize).map(value);
                    z - others.fold(f64::NEG_INFINITY, f64::max)
                }
                false => f64::INFINITY,
            };
        }
        for j in 0..c {
            let mut e: Lane = load(p.row(j));
            for i in 0..WIDTH {
                e[i] /= total[i];
            }
            store(&e, p.row(j));
        }
    }

    /// The same for one output.
    #[inline(always)]
    fn logistic(&self, p: &mut Columns<T>, losses: &mut [f64], margins: &mut [f64]) {
        let (own, other) = self.of.targets;
        let mut values = self.logits(0);
        for (i, (&label, &share)) in self.labels().iter().zip(self.shares()).enumerate() {
            let z = values[i];
            let target = if label == 1 { own } else { other };
            losses[i] = share * (softplus(z) - target * z);
            let margin = if label == 1 { z } else { -z };
            margins[i] = if share > 0.0 { margin } else { f64::INFINITY };
            values[i] = 1.0 / (1.0 + (-z).exp());
        }
        store(&values, p.row(0));
    }

    /// G, and the curvatures by sample and by output.
    #[inline(always)]
    fn gradient(
        &self,
        p: &mut Columns<T>,
        g: &mut Columns<T>,
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let (c, (own, other)) = (self.of.outputs, self.of.targets);
        let shares: Lane = load(self.shares());
        let mut mean: Lane = [0.0; WIDTH];
        let mut labels = [u32::MAX; WIDTH];
        labels[..self.width].copy_from_slice(self.labels());
        let (gradients, bias_curvatures) = of_block.split_at_mut(c);
        for j in 0..c {
            let p: Lane = load(p.row(j));
            // The one logistic output is that of label 1.
            let own_label = if self.of.loss == Loss::Logistic {
                1
            } else {
                j as u32
            };
            let (mut values, mut curvature): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
            for i in 0..WIDTH {
                let target = if labels[i] == own_label { own } else { other };
                values[i] = shares[i] * (p[i] - target);
                curvature[i] = shares[i] * p[i] * (1.0 - p[i]);
                mean[i] += curvature[i];
            }
            gradients[j] = values[..self.width].iter().sum();
            bias_curvatures[j] = curvature[..self.width].iter().sum();
            store(&values, g.row(j));
        }
        for (to, mean) in curvatures.iter_mut().zip(mean) {
            *to = mean / c as f64;
        }
    }
}

/// ln(1 + eᶻ).
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// Values, and zeros after them.
#[inline(always)]
fn load<T: Real>(values: &[T]) -> Lane {
    let mut lane = [0.0; WIDTH];
    for (to, &value) in lane.iter_mut().zip(values) {
        *to = value.into();
    }
    lane
}

#[inline(always)]
fn store<T: Real>(values: &Lane, to: &mut [T]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to = T::of(value);
    }
}

fn axpy(x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn direction(len: usize, seed: u32) -> Vec<f64> {
        let mut rng = rand_mt::Mt::new(seed);
        (0..len)
            .map(|_| f64::from(rng.next_u32() >> 8) / f64::from(1 << 23) - 1.0)
            .collect()
    }

    proptest! {
        /// The gradient is the slope of the loss and the Hessian that of the gradient, by
        /// central differences; both ways to the loss agree.
        #[test]
        fn derivatives_are_those_of_the_loss(
            n in prop_oneof![1usize..6, WIDTH - 1..WIDTH + 3, 2 * WIDTH..2 * WIDTH + 9],
            classes in 2usize..7, smoothing in prop_oneof![Just(0.0), 0.0f64..0.5],
            size in 0.1f64..12.0, seed in any::<u32>(),
        ) {
            let c = Loss::for_classes(classes).outputs(classes);
            let labels: Vec<u32> = (0..n as u32).map(|i| (i * 5 + i / 3) % classes as u32).collect();
            // Some samples have no weight.
            let weights: Vec<f64> = direction(n, seed ^ 3).iter().map(|w| (w + 0.8).max(0.0)).collect();
            prop_assume!(weights.iter().sum::<f64>() > 0.0);
            let likelihood = Likelihood::new(&labels, classes, &weights, smoothing);
            let z: Vec<f64> = direction(c * n, seed).iter().map(|z| size * z).collect();
            let bias = direction(c, seed ^ 1);
            let (d, d_bias) = (direction(c * n, seed ^ 2), direction(c, seed ^ 4));
            let mut at = At::<f64>::new(c, n);
            let moved = |t: f64, at: &mut At<f64>| {
                let z: Vec<f64> = z.iter().zip(&d).map(|(z, d)| z + t * d).collect();
                let bias: Vec<f64> = bias.iter().zip(&d_bias).map(|(b, d)| b + t * d).collect();
                likelihood.evaluate(&z, &bias, at);
            };
            let step = 1e-4;
            let (mut after, mut before) = (at.clone(), at.clone());
            moved(step, &mut after);
            moved(-step, &mut before);
            moved(0.0, &mut at);
            for (t, loss) in [(step, after.loss), (-step, before.loss), (0.0, at.loss)] {
                let along = likelihood.loss_along((&z, &bias), (&d, &d_bias), t);
                prop_assert!((along - loss).abs() <= 1e-12 * (1.0 + loss.abs()), "{along} {loss}");
            }
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let slope = dot(&at.g, &d) + dot(&at.bias, &d_bias);
            let expected = (after.loss - before.loss) / (2.0 * step);
            prop_assert!((slope - expected).abs() <= 1e-6, "{slope} {expected}");
            let (mut h, mut h_bias) = (vec![f64::NAN; c * n], vec![f64::NAN; c]);
            likelihood.hessian(&at, &d, &d_bias, &mut h, &mut h_bias);
            let differences = after.g.iter().zip(&before.g).map(|(a, b)| (a - b) / (2.0 * step));
            for (h, expected) in h.iter().zip(differences) {
                prop_assert!((h - expected).abs() <= 1e-6, "{h} {expected}");
            }
            for (j, sum) in h_bias.iter().enumerate() {
                let expected: f64 = h[j * n..][..n].iter().sum();
                prop_assert!((sum - expected).abs() <= 1e-12);
            }
            let of_samples: f64 = at.curvatures.iter().sum();
            let of_outputs: f64 = at.bias_curvatures.iter().sum();
            prop_assert!((of_samples - of_outputs / c as f64).abs() <= 1e-12);
        }

        /// The loss is that of the fits by SGD where samples count alike.
        #[test]
        fn equals_the_loss_of_sgd(n in 1usize..150, classes in 2usize..6, seed in any::<u32>()) {
            let c = Loss::for_classes(classes).outputs(classes);
            let labels: Vec<u32> = (0..n as u32).map(|i| (i * 7) % classes as u32).collect();
            let z: Vec<f32> = direction(c * n, seed).iter().map(|z| 5.0 * *z as f32).collect();
            let mut at = At::<f32>::new(c, n);
            Likelihood::new(&labels, classes, &vec![2.0; n], 0.0).evaluate(&z, &vec![0.0; c], &mut at);
            let mut g = vec![0.0; c * n];
            let expected = Loss::for_classes(classes).loss_gradient(
                crate::mat::MatRef::new(&z, c, n),
                &labels,
                crate::mat::MatMut::new(&mut g, c, n),
                &mut Vec::new(),
            );
            prop_assert!((at.loss - expected).abs() <= 1e-6 * expected, "{} {expected}", at.loss);
            for (a, b) in at.g.iter().zip(&g) {
                prop_assert!((a - b).abs() <= 1e-6 / n as f32, "{a} {b}");
            }
        }
    }

    #[test]
    fn margins_tell_when_samples_are_separated() {
        let labels = [0, 2, 1];
        let z: Vec<f64> = vec![3.0, -1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 2.0, 9.0];
        let mut at = At::new(3, 3);
        Likelihood::new(&labels, 3, &[1.0, 1.0, 0.0], 0.0).evaluate(&z, &[0.0; 3], &mut at);
        assert_eq!(at.smallest_margin, 2.0);
        Likelihood::new(&labels, 3, &[1.0; 3], 0.0).evaluate(&z, &[0.0; 3], &mut at);
        assert_eq!(at.smallest_margin, -8.5);
    }
}
