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
use std::ops::Range;

use rayon::prelude::*;

use crate::engine::{Real, sum};
use crate::kernels::{
    Isa,
    columns::{self, Columns},
    vectorised,
};
use crate::objective::Loss;
use crate::threads::{Share, Work};

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

/// Samples of a block: long enough stretches of each output's row for the memory's prefetcher.
const WIDTH: usize = 256;

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
        let blocks =
            columns::blocks_of(&mut at.g, n, WIDTH).zip(columns::blocks_of(&mut at.p, n, WIDTH));
        let samples = (at.losses.par_chunks_mut(WIDTH))
            .zip(at.curvatures.par_chunks_mut(WIDTH))
            .zip(at.margins.par_chunks_mut(WIDTH))
            .zip(at.of_blocks.par_chunks_mut(2 * c));
        // An exponential a logit; a logarithm and the margins a sample.
        let work = Work::exponentials(2 * n * (c + 4));
        blocks.zip(samples).share(work).for_each(
            |((mut g, mut p), (((losses, curvatures), margins), of_block))| {
                vectorised!(isa, || {
                    let block = self.block(g.range());
                    let logits = Still { z, bias, n };
                    let total = block.losses(
                        &logits,
                        losses,
                        margins,
                        #[inline(always)]
                        |j, exps| {
                            let values = p.row(j).iter_mut().zip(exps);
                            values.for_each(|(p, &e)| *p = T::of(e));
                        },
                    );
                    block.gradient(&total, &mut p, &mut g, curvatures, of_block);
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

    /// The loss at `z + t·d` alone, in logits and bias, and its slope in t there. Cost: as
    /// [`Likelihood::evaluate`].
    pub fn along<T: Real>(
        &self,
        (z, bias): (&[T], &[f64]),
        (d, d_bias): (&[T], &[f64]),
        t: f64,
    ) -> (f64, f64) {
        let n = self.labels.len();
        let isa = Isa::current();
        let still = |z, bias| Still { z, bias, n };
        let logits = Along {
            from: still(z, bias),
            direction: still(d, d_bias),
            t,
        };
        let of_blocks: Vec<(f64, f64)> = (0..n.div_ceil(WIDTH))
            .into_par_iter()
            .share(Work::exponentials(2 * n * (self.outputs + 4)))
            .map(|i| {
                let block = self.block(i * WIDTH..((i + 1) * WIDTH).min(n));
                vectorised!(isa, || block.along(&logits))
            })
            .collect();
        let sum = |part: fn(&(f64, f64)) -> f64| of_blocks.iter().map(part).sum();
        (sum(|of_block| of_block.0), sum(|of_block| of_block.1))
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
        columns::blocks_of(h, n, WIDTH)
            .zip(of_blocks.par_chunks_mut(c))
            .share(Work::exponentials(n * (c + 1)))
            .for_each(|(mut h, of_block)| {
                vectorised!(isa, || {
                    let block = self.block(h.range());
                    let p = |j: usize| &at.p[j * n..][block.range.clone()];
                    let v = Still {
                        z: v,
                        bias: v_bias,
                        n,
                    };
                    block.hessian(p, &v, &mut h, of_block);
                });
            });
        bias.fill(0.0);
        of_blocks
            .chunks_exact(c)
            .for_each(|of_block| axpy(of_block, bias));
    }

    fn block(&self, range: Range<usize>) -> Block<'_> {
        Block {
            loss: self.loss,
            outputs: self.outputs,
            targets: self.targets,
            labels: &self.labels[range.clone()],
            shares: &self.shares[range.clone()],
            range,
        }
    }
}

/// Logits by output and sample.
trait Logits {
    /// Those of output `j` for a range of samples, by their place in it.
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64;
}

/// `z + b 1ᵀ`.
struct Still<'a, T> {
    z: &'a [T],
    bias: &'a [f64],
    n: usize,
}

impl<T: Real> Logits for Still<'_, T> {
    #[inline(always)]
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64 {
        let (z, bias) = (&self.z[j * self.n..][range.clone()], self.bias[j]);
        #[inline(always)]
        move |i| z[i].into() + bias
    }
}

/// At `t` along a direction.
struct Along<'a, T> {
    from: Still<'a, T>,
    direction: Still<'a, T>,
    t: f64,
}

impl<T: Real> Logits for Along<'_, T> {
    #[inline(always)]
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64 {
        let (from, direction) = (self.from.row(j, range), self.direction.row(j, range));
        #[inline(always)]
        move |i| from(i) + self.t * direction(i)
    }
}

/// Some samples: WIDTH of them, or the last ones.
struct Block<'a> {
    loss: Loss,
    outputs: usize,
    targets: (f64, f64),
    labels: &'a [u32],
    shares: &'a [f64],
    range: Range<usize>,
}

impl Block<'_> {
    /// Losses times shares, and margins; `keep` is given each output's `e` to the logits less
    /// the largest, or the logistic output's probability; what makes probabilities of them is
    /// the divisor returned.
    #[inline(always)]
    fn losses(
        &self,
        logits: &impl Logits,
        losses: &mut [f64],
        margins: &mut [f64],
        mut keep: impl FnMut(usize, &[f64]),
    ) -> Lane {
        let width = self.labels.len();
        assert!(width <= WIDTH && losses.len() == width && margins.len() == width);
        match self.loss {
            Loss::Softmax => self.softmax(logits, losses, margins, keep),
            Loss::Logistic => {
                let p = self.logistic(logits.row(0, &self.range), losses, margins);
                keep(0, &p[..width]);
                [1.0; WIDTH]
            }
        }
    }

    /// The sum of the losses, and its slope.
    #[inline(always)]
    fn along<T: Real>(&self, logits: &Along<T>) -> (f64, f64) {
        let (own, other) = self.targets;
        let width = self.labels.len();
        let (mut losses, mut margins) = ([0.0; WIDTH], [0.0; WIDTH]);
        // Σⱼ eⱼ dⱼ and Σⱼ dⱼ.
        let (mut expected, mut sums): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        let total = self.losses(
            logits,
            &mut losses[..width],
            &mut margins[..width],
            #[inline(always)]
            |j, exps| {
                let d = logits.direction.row(j, &self.range);
                for (i, &e) in exps.iter().enumerate() {
                    expected[i] += e * d(i);
                    sums[i] += d(i);
                }
            },
        );
        let mut slopes: Lane = [0.0; WIDTH];
        for (i, (&label, &share)) in self.labels.iter().zip(self.shares).enumerate() {
            let own_d = match self.loss {
                Loss::Softmax => logits.direction.row(label as usize, &self.range)(i),
                // The one logistic output is that of label 1.
                Loss::Logistic => f64::from(label) * sums[i],
            };
            let targets = other * sums[i] + (own - other) * own_d;
            slopes[i] = share * (expected[i] / total[i] - targets);
        }
        (sum(&losses[..width]), sum(&slopes[..width]))
    }

    #[inline(always)]
    fn softmax(
        &self,
        logits: &impl Logits,
        losses: &mut [f64],
        margins: &mut [f64],
        mut keep: impl FnMut(usize, &[f64]),
    ) -> Lane {
        let (c, other) = (self.outputs, self.targets.1);
        let width = self.labels.len();
        let (mut max, mut second) = ([f64::NEG_INFINITY; WIDTH], [f64::NEG_INFINITY; WIDTH]);
        let mut sums: Lane = [0.0; WIDTH];
        for j in 0..c {
            let z = logits.row(j, &self.range);
            for i in 0..width {
                let z = z(i);
                let smaller = if z > max[i] { max[i] } else { z };
                second[i] = if smaller > second[i] {
                    smaller
                } else {
                    second[i]
                };
                max[i] = if z > max[i] { z } else { max[i] };
                sums[i] += z;
            }
        }
        let (mut total, mut exps): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            let z = logits.row(j, &self.range);
            for i in 0..width {
                exps[i] = exp(z(i) - max[i]);
                total[i] += exps[i];
            }
            keep(j, &exps[..width]);
        }
        for (i, (&label, &share)) in self.labels.iter().zip(self.shares).enumerate() {
            let z = logits.row(label as usize, &self.range)(i);
            losses[i] = share * (max[i] - z + total[i].ln() + other * (c as f64 * z - sums[i]));
            margins[i] = match share > 0.0 {
                true if z < max[i] => z - max[i],
                true => z - second[i],
                false => f64::INFINITY,
            };
        }
        total
    }

    /// Losses times shares and margins of the one logistic output, and its probabilities.
    #[inline(always)]
    fn logistic(&self, z: impl Fn(usize) -> f64, losses: &mut [f64], margins: &mut [f64]) -> Lane {
        let (own, other) = self.targets;
        let mut p: Lane = [0.0; WIDTH];
        for (i, (&label, &share)) in self.labels.iter().zip(self.shares).enumerate() {
            let z = z(i);
            let target = if label == 1 { own } else { other };
            losses[i] = share * (softplus(z) - target * z);
            let margin = if label == 1 { z } else { -z };
            margins[i] = if share > 0.0 { margin } else { f64::INFINITY };
            p[i] = 1.0 / (1.0 + (-z).exp());
        }
        p
    }

    /// P of what [`Block::losses`] kept there and summed up, G, and the curvatures by sample
    /// and by output.
    #[inline(always)]
    fn gradient<T: Real>(
        &self,
        total: &Lane,
        p: &mut Columns<T>,
        g: &mut Columns<T>,
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let (c, (own, other)) = (self.outputs, self.targets);
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width && curvatures.len() == width);
        curvatures.fill(0.0);
        let (gradients, bias_curvatures) = of_block.split_at_mut(c);
        let (mut values, mut of_output): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            // The one logistic output is that of label 1.
            let own_label = match self.loss {
                Loss::Logistic => 1,
                Loss::Softmax => j as u32,
            };
            let (p, g) = (&mut p.row(j)[..width], &mut g.row(j)[..width]);
            for i in 0..width {
                p[i] = T::of(p[i].into() / total[i]);
                let (p, share) = (p[i].into(), self.shares[i]);
                let target = if self.labels[i] == own_label {
                    own
                } else {
                    other
                };
                values[i] = share * (p - target);
                of_output[i] = share * p * (1.0 - p);
                curvatures[i] += of_output[i];
                g[i] = T::of(values[i]);
            }
            gradients[j] = sum(&values[..width]);
            bias_curvatures[j] = sum(&of_output[..width]);
        }
        curvatures.iter_mut().for_each(|mean| *mean /= c as f64);
    }

    /// The Hessian's product with V into `h`, and its sums by output.
    #[inline(always)]
    fn hessian<'p, T: Real>(
        &self,
        p: impl Fn(usize) -> &'p [T],
        v: &impl Logits,
        h: &mut Columns<T>,
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width);
        let mut mean: Lane = [0.0; WIDTH];
        for j in 0..self.outputs {
            let (p, v) = (&p(j)[..width], v.row(j, &self.range));
            for i in 0..width {
                mean[i] += p[i].into() * v(i);
            }
        }
        let mut values: Lane = [0.0; WIDTH];
        for (j, of_output) in of_block.iter_mut().enumerate() {
            let (p, v, h) = (
                &p(j)[..width],
                v.row(j, &self.range),
                &mut h.row(j)[..width],
            );
            for i in 0..width {
                let (p, v) = (p[i].into(), v(i));
                values[i] = self.shares[i]
                    * match self.loss {
                        Loss::Softmax => p * (v - mean[i]),
                        Loss::Logistic => p * (1.0 - p) * v,
                    };
                h[i] = T::of(values[i]);
            }
            *of_output = sum(&values[..width]);
        }
    }
}

/// eˣ for x <= 0, and 0 below e⁻⁷⁰⁸, within 2 units of the last place: without a branch, so that
/// the compiler makes vectors of it. `x = k ln 2 + r`, and eʳ by its Taylor polynomial, whose
/// next term is below 2⁻⁵⁷ for |r| <= ln(2)/2.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// Rounds to an integer when added and subtracted, and leaves it in the lowest bits.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    /// ln 2 in two parts, the first of which k multiplies exactly (fdlibm).
    const LN2: (f64, f64) = (6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10);
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = x - k * LN2.0 - k * LN2.1;
    let mut power = 1.0 / 6_227_020_800.0;
    for factorial in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
    ] {
        power = power * r + 1.0 / factorial;
    }
    let power = power * r + 1.0;
    let raised = power.to_bits().wrapping_add(shifted.to_bits() << 52);
    if x < -708.0 {
        0.0
    } else {
        f64::from_bits(raised)
    }
}

/// ln(1 + eᶻ).
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
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

    /// From 0 to where it is 0, against the standard library's.
    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut worst = 0;
        for i in 0..2_000_000 {
            let x = -708.0 * (f64::from(i) / 2e6).powi(3);
            let (found, expected) = (exp(x), x.exp());
            worst = worst.max(found.to_bits().abs_diff(expected.to_bits()));
        }
        assert!((1..=2).contains(&worst), "{worst}");
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert_eq!((exp(-708.1), exp(f64::NEG_INFINITY)), (0.0, 0.0));
        assert!(exp(f64::NAN).is_nan());
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
                let (along, _) = likelihood.along((&z, &bias), (&d, &d_bias), t);
                prop_assert!((along - loss).abs() <= 1e-12 * (1.0 + loss.abs()), "{along} {loss}");
            }
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let slope = |at: &At<f64>| dot(&at.g, &d) + dot(&at.bias, &d_bias);
            for (t, expected) in [(0.0, slope(&at)), (step, slope(&after))] {
                let (_, along) = likelihood.along((&z, &bias), (&d, &d_bias), t);
                prop_assert!((along - expected).abs() <= 1e-12 * size, "{along} {expected}");
            }
            let slope = slope(&at);
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
