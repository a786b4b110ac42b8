//! The data's part of the objective with its curvature, for optimizers that want the optimum.
//!
//! With shares sᵢ >= 0, targets qᵢ (Σⱼ qᵢⱼ = 1) and P the probabilities of the logits Z:
//!
//! ```text
//! loss     = Σ sᵢ lossᵢ,     lossᵢ = lse(zᵢ) - qᵢ·zᵢ
//! gradient   gᵢ = sᵢ (pᵢ - qᵢ)
//! Hessian    hᵢ = sᵢ (pᵢ ∘ (vᵢ - pᵢ·vᵢ));    logistic: sᵢ p (1 - p) vᵢ
//! ```
//!
//! Shares and targets are those of torch's `CrossEntropyLoss`, with sample weights uᵢ, class
//! weights w and label smoothing ε over C classes (the one logistic output is the softmax of
//! (0, z)):
//!
//! ```text
//! loss = Σᵢ uᵢ [(1 - ε) w_yᵢ (-log p_iyᵢ) + (ε/C) Σⱼ wⱼ (-log pᵢⱼ)] / Σᵢ uᵢ w_yᵢ
//! ```
//!
//! All arithmetic is f64, whatever the logits are stored as; matrices are c x n. A nearly sure
//! sample keeps its digits: 1 - p is the sum of the other probabilities, never a difference,
//! and ln p = -ln_1p of their odds.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::columns::Columns;
use crate::kernels::{Isa, columns, with_isa};
use crate::linalg::vec::{Real, axpby_serial, sum};
use crate::loss::Loss;
use crate::threads::{Share, Work};

/// Labels with their shares and targets.
#[derive(Clone, Debug)]
pub struct Risk<'a> {
    loss: Loss,
    /// The output that is each sample's own, or its label for the one logistic output.
    labels: Cow<'a, [u32]>,
    shares: Vec<f64>,
    /// wⱼ of each output; of both classes for the one logistic output.
    class_weights: Vec<f64>,
    /// αᵢ: the target of another class j is αᵢ wⱼ. `None` without smoothing.
    smoothing: Option<Vec<f64>>,
    outputs: usize,
    /// The class of each output, where outputs are fewer than classes.
    present: Option<Vec<u32>>,
    /// Whether the bias is a variable; else derivatives in it are 0.
    has_bias: bool,
}

/// Loss, gradient and curvature at some logits.
#[derive(Clone, Debug)]
pub struct Eval<T> {
    /// The loss.
    pub loss: f64,
    /// Gᵀ, c x n.
    pub g: Vec<T>,
    /// Gᵀ 1: the gradient in the bias.
    pub bias: Vec<f64>,
    /// Pᵀ, c x n; p (1 - p) of the one logistic output.
    p: Vec<T>,
    /// The most probable output of each sample.
    tops: Vec<u32>,
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

impl<T: Real> Eval<T> {
    /// Room for c x n.
    pub fn new(outputs: usize, rows: usize) -> Eval<T> {
        Eval {
            loss: f64::INFINITY,
            g: vec![T::default(); outputs * rows],
            bias: vec![0.0; outputs],
            p: vec![T::default(); outputs * rows],
            tops: vec![0; rows],
            curvatures: vec![0.0; rows],
            bias_curvatures: vec![0.0; outputs],
            smallest_margin: f64::NEG_INFINITY,
            losses: vec![0.0; rows],
            margins: vec![0.0; rows],
            of_blocks: Vec::new(),
        }
    }
}

/// How the margins of samples with a share change along a direction: z of the label less z of
/// another class, over all other classes.
#[derive(Clone, Debug, PartialEq)]
pub struct MarginChanges {
    /// The smallest.
    pub smallest: f64,
    /// The largest.
    pub largest: f64,
    /// The largest, over the samples of each class, of a sample's smallest.
    pub of_classes: Vec<f64>,
}

/// Samples of a block: long enough stretches of each output's row for the memory's prefetcher.
const WIDTH: usize = 256;

/// A block's value of every sample.
type Lane = [f64; WIDTH];

impl<'a> Risk<'a> {
    /// Labels below `classes`, the weight uᵢ of each sample, wⱼ of each class and ε. The sum of
    /// uᵢ w_yᵢ is above 0.
    pub fn new(
        labels: &'a [u32],
        weights: &[f64],
        class_weights: &[f64],
        label_smoothing: f64,
    ) -> Self {
        assert_eq!(labels.len(), weights.len(), "one weight a label");
        let classes = class_weights.len();
        let loss = Loss::for_classes(classes);
        let of_rows = || labels.iter().zip(weights);
        let total: f64 = of_rows().map(|(&y, u)| u * class_weights[y as usize]).sum();
        let of_others = label_smoothing / classes as f64;
        let all: f64 = of_others * class_weights.iter().sum::<f64>();
        // What multiplies lse(z) of a sample of this class.
        let of_class = |y: u32| (1.0 - label_smoothing) * class_weights[y as usize] + all;
        let shares = of_rows().map(|(&y, u)| u * of_class(y) / total);
        let alpha = |&y: &u32| match of_class(y) {
            0.0 => 0.0,
            share => of_others / share,
        };
        Risk {
            loss,
            labels: Cow::Borrowed(labels),
            shares: shares.collect(),
            class_weights: class_weights.to_vec(),
            smoothing: (label_smoothing > 0.0).then(|| labels.iter().map(alpha).collect()),
            outputs: loss.outputs(classes),
            present: None,
            has_bias: true,
        }
    }

    /// The same without the classes that no target names. Targets push the bias of such a class
    /// down for ever: the loss has a minimum only without it.
    pub fn of_present_classes(mut self) -> Self {
        let mut has_target = vec![false; self.class_weights.len()];
        for (&label, &share) in self.labels.iter().zip(&self.shares) {
            has_target[label as usize] |= share > 0.0;
        }
        let named = |class: usize| match self.smoothing {
            Some(_) => self.class_weights[class] > 0.0,
            None => has_target[class],
        };
        let present: Vec<u32> = (0..has_target.len() as u32)
            .filter(|&class| named(class as usize))
            .collect();
        if present.len() < has_target.len() {
            // A sample whose label is not among them has no target of its own.
            let output = |label: &u32| present.binary_search(label).unwrap_or(0) as u32;
            self.labels = self.labels.iter().map(output).collect();
            let weights = present
                .iter()
                .map(|&class| self.class_weights[class as usize]);
            self.class_weights = weights.collect();
            self.outputs = present.len();
            self.present = Some(present);
            self.loss = Loss::Softmax;
        }
        self
    }

    /// The same with the bias held where it is: derivatives in it are 0.
    pub fn without_bias(mut self) -> Self {
        self.has_bias = false;
        self
    }

    /// Whether the bias is a variable.
    pub fn has_bias(&self) -> bool {
        self.has_bias
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
        self.smoothing.is_none()
    }

    /// The samples' shares; their sum is 1 without smoothing.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The margins, of samples with a share, that change by `limit` or less along a direction:
    /// one value for each output and sample, that of the label itself `false`.
    pub fn tied<T: Real>(&self, d: &[T], d_bias: &[f64], limit: f64) -> Vec<bool> {
        let n = self.labels.len();
        let mut tied = vec![false; d.len()];
        for i in (0..n).filter(|&i| self.shares[i] > 0.0) {
            let label = self.labels[i] as usize;
            match self.loss {
                Loss::Logistic => {
                    let along = d[i].into() + d_bias[0];
                    tied[i] = if label == 1 { along } else { -along } <= limit;
                }
                Loss::Softmax => {
                    let along = |j: usize| d[j * n + i].into() + d_bias[j];
                    for j in (0..self.outputs).filter(|&j| j != label) {
                        tied[j * n + i] = along(label) - along(j) <= limit;
                    }
                }
            }
        }
        tied
    }

    /// The gradient, in logits z + b 1ᵀ, of half the sum of the squares of tied margins, and its
    /// sums by output; that half.
    pub fn tied_gradient<T: Real>(
        &self,
        tied: &[bool],
        (z, b): (&[T], &[f64]),
        g: &mut [T],
        bias: &mut [f64],
    ) -> f64 {
        let n = self.labels.len();
        let mut squares = 0.0;
        bias.fill(0.0);
        g.fill(T::default());
        for i in 0..n {
            let label = self.labels[i] as usize;
            let mut of_label = 0.0;
            for (j, bias) in bias.iter_mut().enumerate() {
                let at = j * n + i;
                if !tied[at] {
                    continue;
                }
                let value = match self.loss {
                    Loss::Logistic => z[at].into() + b[j],
                    Loss::Softmax => {
                        let margin = z[label * n + i].into() + b[label] - z[at].into() - b[j];
                        of_label += margin;
                        -margin
                    }
                };
                squares += value * value;
                g[at] = T::of(value);
                *bias += value;
            }
            if self.loss == Loss::Softmax {
                g[label * n + i] = T::of(of_label);
                bias[label] += of_label;
            }
        }
        if !self.has_bias {
            bias.fill(0.0);
        }
        0.5 * squares
    }

    /// How margins change along a direction. Cost: nc comparisons.
    pub fn margin_changes<T: Real>(&self, d: &[T], d_bias: &[f64]) -> MarginChanges {
        let n = self.labels.len();
        let classes = match self.loss {
            Loss::Logistic => 2,
            Loss::Softmax => self.outputs,
        };
        let mut changes = MarginChanges {
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
            of_classes: vec![f64::NEG_INFINITY; classes],
        };
        for i in (0..n).filter(|&i| self.shares[i] > 0.0) {
            let label = self.labels[i] as usize;
            let along = |j: usize| match (self.loss, j) {
                (Loss::Logistic, 0) => 0.0,
                (Loss::Logistic, _) => d[i].into() + d_bias[0],
                (Loss::Softmax, _) => d[j * n + i].into() + d_bias[j],
            };
            let own = along(label);
            let others = (0..classes).filter(|&j| j != label).map(|j| own - along(j));
            let (low, high) = others.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), d| {
                (low.min(d), high.max(d))
            });
            changes.smallest = changes.smallest.min(low);
            changes.largest = changes.largest.max(high);
            let of_class = &mut changes.of_classes[label];
            *of_class = of_class.max(low);
        }
        changes
    }

    /// Everything at the logits `z + b 1ᵀ`. Cost: nc exponentials.
    pub fn evaluate<T: Real>(&self, z: &[T], bias: &[f64], at: &mut Eval<T>) {
        let (n, c) = (self.labels.len(), self.outputs);
        let isa = Isa::current();
        at.of_blocks.clear();
        at.of_blocks.resize(n.div_ceil(WIDTH) * 2 * c, 0.0);
        let blocks =
            columns::blocks_of(&mut at.g, n, WIDTH).zip(columns::blocks_of(&mut at.p, n, WIDTH));
        let samples = (at.losses.par_chunks_mut(WIDTH))
            .zip(at.curvatures.par_chunks_mut(WIDTH))
            .zip(at.margins.par_chunks_mut(WIDTH))
            .zip(at.tops.par_chunks_mut(WIDTH))
            .zip(at.of_blocks.par_chunks_mut(2 * c));
        // An exponential a logit; a logarithm and the margins a sample.
        let work = Work::exponentials(2 * n * (c + 4));
        blocks.zip(samples).share(work).for_each(
            |((mut g, mut p), ((((losses, curvatures), margins), tops), of_block))| {
                with_isa!(isa, || {
                    let block = self.block(g.range());
                    let logits = Still { z, bias, n };
                    let sums = block.losses(
                        &logits,
                        losses,
                        margins,
                        #[inline(always)]
                        |j, exps| {
                            let values = p.row(j).iter_mut().zip(exps);
                            values.for_each(|(p, &e)| *p = T::of(e));
                        },
                    );
                    let values = tops.iter_mut().zip(&sums.top);
                    values.for_each(|(to, &top)| *to = top as u32);
                    block.gradient(&sums, &mut p, &mut g, curvatures, of_block);
                });
            },
        );
        at.loss = at.losses.iter().sum();
        at.smallest_margin = at.margins.iter().copied().fold(f64::INFINITY, f64::min);
        at.bias.fill(0.0);
        at.bias_curvatures.fill(0.0);
        if !self.has_bias {
            return;
        }
        for of_block in at.of_blocks.chunks_exact(2 * c) {
            let (gradient, curvature) = of_block.split_at(c);
            axpby_serial(1.0, gradient, 1.0, &mut at.bias);
            axpby_serial(1.0, curvature, 1.0, &mut at.bias_curvatures);
        }
    }

    /// The loss at `z + t·d` alone, in logits and bias, and its slope in t there. Cost: as
    /// [`Risk::evaluate`].
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
                with_isa!(isa, || block.along(&logits))
            })
            .collect();
        let sum = |part: fn(&(f64, f64)) -> f64| of_blocks.iter().map(part).sum();
        (sum(|of_block| of_block.0), sum(|of_block| of_block.1))
    }

    /// `H = Hessian · (V + v 1ᵀ)` at the logits that `at` was evaluated at, and `H 1` in `bias`.
    pub fn hessian<T: Real>(
        &self,
        at: &Eval<T>,
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
                with_isa!(isa, || {
                    let block = self.block(h.range());
                    let p = |j: usize| &at.p[j * n..][block.range.clone()];
                    let v = Still {
                        z: v,
                        bias: v_bias,
                        n,
                    };
                    let tops = &at.tops[block.range.clone()];
                    block.hessian(p, tops, &v, &mut h, of_block);
                });
            });
        bias.fill(0.0);
        if self.has_bias {
            for of_block in of_blocks.chunks_exact(c) {
                axpby_serial(1.0, of_block, 1.0, bias);
            }
        }
    }

    fn block(&self, range: Range<usize>) -> Block<'_> {
        Block {
            loss: self.loss,
            outputs: self.outputs,
            class_weights: &self.class_weights,
            all_weights: self.class_weights.iter().sum(),
            smoothing: (self.smoothing.as_ref()).map(|alphas| &alphas[range.clone()]),
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
    class_weights: &'a [f64],
    /// Their sum.
    all_weights: f64,
    smoothing: Option<&'a [f64]>,
    labels: &'a [u32],
    shares: &'a [f64],
    range: Range<usize>,
}

/// What makes probabilities of what [`Block::losses`] kept, one value a sample.
struct Sums {
    /// The divisor.
    total: Lane,
    /// All of it but the part of `top`, the most probable output.
    others: Lane,
    /// Its number.
    top: Lane,
}

impl Block<'_> {
    /// αᵢ, 0 without smoothing.
    #[inline(always)]
    fn alpha(&self, i: usize) -> f64 {
        self.smoothing.map_or(0.0, |alphas| alphas[i])
    }

    /// Losses times shares, and margins; `keep` is given each output's `e` to the logits less
    /// the largest, or the logistic output's probability of the class that is not the label.
    #[inline(always)]
    fn losses(
        &self,
        logits: &impl Logits,
        losses: &mut [f64],
        margins: &mut [f64],
        mut keep: impl FnMut(usize, &[f64]),
    ) -> Sums {
        let width = self.labels.len();
        assert!(width <= WIDTH && losses.len() == width && margins.len() == width);
        match self.loss {
            Loss::Softmax => self.softmax(logits, losses, margins, keep),
            Loss::Logistic => {
                let q = self.logistic(logits.row(0, &self.range), losses, margins);
                keep(0, &q[..width]);
                Sums {
                    total: [1.0; WIDTH],
                    others: q,
                    top: [0.0; WIDTH],
                }
            }
        }
    }

    /// The sum of the losses, and its slope.
    #[inline(always)]
    fn along<T: Real>(&self, logits: &Along<T>) -> (f64, f64) {
        let width = self.labels.len();
        let (mut losses, mut margins) = ([0.0; WIDTH], [0.0; WIDTH]);
        // d of the label, Σⱼ eⱼ (dⱼ - d of the label) and Σⱼ wⱼ (dⱼ - d of the label).
        let mut own: Lane = [0.0; WIDTH];
        if self.loss == Loss::Softmax {
            for (i, &label) in self.labels.iter().enumerate() {
                own[i] = logits.direction.row(label as usize, &self.range)(i);
            }
        }
        let (mut expected, mut weighted): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        let sums = self.losses(
            logits,
            &mut losses[..width],
            &mut margins[..width],
            #[inline(always)]
            |j, exps| {
                let d = logits.direction.row(j, &self.range);
                let weight = self.class_weights[j];
                for (i, &e) in exps.iter().enumerate() {
                    let along = d(i) - own[i];
                    expected[i] += e * along;
                    weighted[i] += weight * along;
                }
            },
        );
        let mut slopes: Lane = [0.0; WIDTH];
        match self.loss {
            Loss::Softmax => {
                for (i, &share) in self.shares.iter().enumerate() {
                    let targets = self.alpha(i) * weighted[i];
                    slopes[i] = share * (expected[i] / sums.total[i] - targets);
                }
            }
            Loss::Logistic => {
                let d = logits.direction.row(0, &self.range);
                for (i, slope) in slopes[..width].iter_mut().enumerate() {
                    *slope = self.logistic_gradient(i, sums.others[i]) * d(i);
                }
            }
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
    ) -> Sums {
        let c = self.outputs;
        let width = self.labels.len();
        let (mut max, mut second) = ([f64::NEG_INFINITY; WIDTH], [f64::NEG_INFINITY; WIDTH]);
        let (mut top, mut weighted): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            let z = logits.row(j, &self.range);
            let (number, weight) = (j as f64, self.class_weights[j]);
            for i in 0..width {
                let z = z(i);
                let smaller = if z > max[i] { max[i] } else { z };
                second[i] = if smaller > second[i] {
                    smaller
                } else {
                    second[i]
                };
                top[i] = if z > max[i] { number } else { top[i] };
                max[i] = if z > max[i] { z } else { max[i] };
                weighted[i] += weight * z;
            }
        }
        let (mut others, mut exps): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            let z = logits.row(j, &self.range);
            let number = j as f64;
            for i in 0..width {
                exps[i] = exp(z(i) - max[i]);
                others[i] += if top[i] == number { 0.0 } else { exps[i] };
            }
            keep(j, &exps[..width]);
        }
        let mut total: Lane = [1.0; WIDTH];
        for (i, (&label, &share)) in self.labels.iter().zip(self.shares).enumerate() {
            let z = logits.row(label as usize, &self.range)(i);
            total[i] += others[i];
            // Where a logit is no number, no maximum may hide it.
            let smoothed = self.alpha(i) * (self.all_weights * z - weighted[i]) + 0.0 * weighted[i];
            losses[i] = share * (max[i] - z + others[i].ln_1p() + smoothed);
            margins[i] = match share > 0.0 {
                true if z < max[i] => z - max[i],
                true => z - second[i],
                false => f64::INFINITY,
            };
        }
        Sums { total, others, top }
    }

    /// Losses times shares and margins of the one logistic output, and its probabilities of the
    /// class that is not the label.
    #[inline(always)]
    fn logistic(&self, z: impl Fn(usize) -> f64, losses: &mut [f64], margins: &mut [f64]) -> Lane {
        let width = self.labels.len();
        let (mut q, mut small): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for i in 0..width {
            let margin = if self.labels[i] == 1 { z(i) } else { -z(i) };
            margins[i] = margin;
            small[i] = exp(-margin.abs());
            let part = if margin > 0.0 { small[i] } else { 1.0 };
            q[i] = part / (1.0 + small[i]);
        }
        for i in 0..width {
            let margin = margins[i];
            let loss = (-margin).max(0.0) + small[i].ln_1p() + self.other_target(i) * margin;
            losses[i] = self.shares[i] * loss;
            margins[i] = if self.shares[i] > 0.0 {
                margin
            } else {
                f64::INFINITY
            };
        }
        q
    }

    /// The logistic output's target of the class that is not the label.
    #[inline(always)]
    fn other_target(&self, i: usize) -> f64 {
        let other = self.class_weights[1 - (self.labels[i] as usize).min(1)];
        self.alpha(i) * other
    }

    /// The gradient in the logistic output's logit, `q` being the probability of the class that
    /// is not the label.
    #[inline(always)]
    fn logistic_gradient(&self, i: usize, q: f64) -> f64 {
        let against = self.shares[i] * (q - self.other_target(i));
        if self.labels[i] == 1 {
            -against
        } else {
            against
        }
    }

    /// P of what [`Block::losses`] kept there and summed up, G, and the curvatures by sample
    /// and by output.
    #[inline(always)]
    fn gradient<T: Real>(
        &self,
        sums: &Sums,
        p: &mut Columns<T>,
        g: &mut Columns<T>,
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let c = self.outputs;
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width && curvatures.len() == width);
        let (gradients, bias_curvatures) = of_block.split_at_mut(c);
        let mut values: Lane = [0.0; WIDTH];
        if self.loss == Loss::Logistic {
            let (p, g) = (&mut p.row(0)[..width], &mut g.row(0)[..width]);
            for i in 0..width {
                let q = sums.others[i];
                values[i] = self.logistic_gradient(i, q);
                g[i] = T::of(values[i]);
                p[i] = T::of(q * (1.0 - q));
                curvatures[i] = self.shares[i] * q * (1.0 - q);
            }
            gradients[0] = sum(&values[..width]);
            bias_curvatures[0] = sum(curvatures);
            return;
        }
        curvatures.fill(0.0);
        let (mut of_output, mut alpha): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        if let Some(alphas) = self.smoothing {
            alpha[..width].copy_from_slice(alphas);
        }
        for j in 0..c {
            let (label, number, weight) = (j as u32, j as f64, self.class_weights[j]);
            // What the targets of all other classes add up to, over α.
            let of_others = self.all_weights - weight;
            let (p, g) = (&mut p.row(j)[..width], &mut g.row(j)[..width]);
            for i in 0..width {
                let share = self.shares[i];
                let probability = p[i].into() / sums.total[i];
                p[i] = T::of(probability);
                let rest = if sums.top[i] == number {
                    sums.others[i] / sums.total[i]
                } else {
                    1.0 - probability
                };
                let own = alpha[i] * of_others - rest;
                let other = probability - alpha[i] * weight;
                values[i] = share * if self.labels[i] == label { own } else { other };
                of_output[i] = share * probability * rest;
                curvatures[i] += of_output[i];
                g[i] = T::of(values[i]);
            }
            gradients[j] = sum(&values[..width]);
            bias_curvatures[j] = sum(&of_output[..width]);
        }
        curvatures.iter_mut().for_each(|mean| *mean /= c as f64);
    }

    /// The Hessian's product with V into `h`, and its sums by output.
    ///
    /// For softmax V is taken less its value at the most probable output: p (v - p·v) of a
    /// sure sample would be the difference of equal numbers.
    #[inline(always)]
    fn hessian<'p, T: Real>(
        &self,
        p: impl Fn(usize) -> &'p [T],
        tops: &[u32],
        v: &impl Logits,
        h: &mut Columns<T>,
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width);
        let mut values: Lane = [0.0; WIDTH];
        if self.loss == Loss::Logistic {
            let (curvature, v) = (&p(0)[..width], v.row(0, &self.range));
            let h = &mut h.row(0)[..width];
            for i in 0..width {
                values[i] = self.shares[i] * curvature[i].into() * v(i);
                h[i] = T::of(values[i]);
            }
            of_block[0] = sum(&values[..width]);
            return;
        }
        let (mut mean, mut of_top): (Lane, Lane) = ([0.0; WIDTH], [0.0; WIDTH]);
        for (i, &top) in tops.iter().enumerate() {
            of_top[i] = v.row(top as usize, &self.range)(i);
        }
        for j in 0..self.outputs {
            let (p, v) = (&p(j)[..width], v.row(j, &self.range));
            for i in 0..width {
                mean[i] += p[i].into() * (v(i) - of_top[i]);
            }
        }
        for (j, of_output) in of_block.iter_mut().enumerate() {
            let (p, v, h) = (
                &p(j)[..width],
                v.row(j, &self.range),
                &mut h.row(j)[..width],
            );
            for i in 0..width {
                let (p, v) = (p[i].into(), v(i) - of_top[i]);
                values[i] = self.shares[i] * p * (v - mean[i]);
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
            weighted in any::<bool>(), size in 0.1f64..12.0, seed in any::<u32>(),
        ) {
            let c = Loss::for_classes(classes).outputs(classes);
            let labels: Vec<u32> = (0..n as u32).map(|i| (i * 5 + i / 3) % classes as u32).collect();
            // Some samples have no weight.
            let weights: Vec<f64> = direction(n, seed ^ 3).iter().map(|w| (w + 0.8).max(0.0)).collect();
            let class_weights: Vec<f64> = if weighted { (0..classes).map(|class| [1.0, 0.0, 2.5][class % 3]).collect() } else { vec![1.0; classes] };
            let total: f64 = labels.iter().zip(&weights).map(|(&y, w)| w * class_weights[y as usize]).sum();
            prop_assume!(total > 0.0);
            let risk = Risk::new(&labels, &weights, &class_weights, smoothing);
            let z: Vec<f64> = direction(c * n, seed).iter().map(|z| size * z).collect();
            let bias = direction(c, seed ^ 1);
            let (d, d_bias) = (direction(c * n, seed ^ 2), direction(c, seed ^ 4));
            let mut at = Eval::<f64>::new(c, n);
            let moved = |t: f64, at: &mut Eval<f64>| {
                let z: Vec<f64> = z.iter().zip(&d).map(|(z, d)| z + t * d).collect();
                let bias: Vec<f64> = bias.iter().zip(&d_bias).map(|(b, d)| b + t * d).collect();
                risk.evaluate(&z, &bias, at);
            };
            let step = 1e-4;
            let (mut after, mut before) = (at.clone(), at.clone());
            moved(step, &mut after);
            moved(-step, &mut before);
            moved(0.0, &mut at);
            for (t, loss) in [(step, after.loss), (-step, before.loss), (0.0, at.loss)] {
                let (along, _) = risk.along((&z, &bias), (&d, &d_bias), t);
                prop_assert!((along - loss).abs() <= 1e-12 * (1.0 + loss.abs()), "{along} {loss}");
            }
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let slope = |at: &Eval<f64>| dot(&at.g, &d) + dot(&at.bias, &d_bias);
            for (t, expected) in [(0.0, slope(&at)), (step, slope(&after))] {
                let (_, along) = risk.along((&z, &bias), (&d, &d_bias), t);
                prop_assert!((along - expected).abs() <= 1e-12 * size, "{along} {expected}");
            }
            let slope = slope(&at);
            let expected = (after.loss - before.loss) / (2.0 * step);
            prop_assert!((slope - expected).abs() <= 1e-6, "{slope} {expected}");
            let (mut h, mut h_bias) = (vec![f64::NAN; c * n], vec![f64::NAN; c]);
            risk.hessian(&at, &d, &d_bias, &mut h, &mut h_bias);
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
            let mut at = Eval::<f32>::new(c, n);
            Risk::new(&labels, &vec![2.0; n], &vec![1.0; classes], 0.0).evaluate(&z, &vec![0.0; c], &mut at);
            let mut g = vec![0.0; c * n];
            let expected = Loss::for_classes(classes).loss_gradient(
                crate::linalg::mat::MatRef::new(&z, c, n),
                &labels,
                crate::linalg::mat::MatMut::new(&mut g, c, n),
                &mut Vec::new(),
            );
            prop_assert!((at.loss - expected).abs() <= 1e-6 * expected, "{} {expected}", at.loss);
            for (a, b) in at.g.iter().zip(&g) {
                prop_assert!((a - b).abs() <= 1e-6 / n as f32, "{a} {b}");
            }
        }
    }

    /// Two classes are two outputs at the logits (0, z), whatever weighs.
    #[test]
    fn logistic_is_the_softmax_of_two_outputs() {
        let labels = [0, 1, 1, 0, 1];
        let z = [0.3, -2.0, 25.0, 40.0, 0.0];
        let two: Vec<f64> = [0.0; 5].into_iter().chain(z).collect();
        for smoothing in [0.0, 0.3] {
            let weights = [1.0, 0.5, 2.0, 1.0, 0.0];
            let one = Risk::new(&labels, &weights, &[0.7, 3.0], smoothing);
            let mut softmax = one.clone();
            (softmax.loss, softmax.outputs) = (Loss::Softmax, 2);
            let (mut a, mut b) = (Eval::<f64>::new(1, 5), Eval::<f64>::new(2, 5));
            one.evaluate(&z, &[0.0], &mut a);
            softmax.evaluate(&two, &[0.0; 2], &mut b);
            assert!((a.loss - b.loss).abs() < 1e-14 * b.loss);
            for i in 0..5 {
                assert!(
                    (a.g[i] - b.g[5 + i]).abs() <= 1e-14 * b.g[5 + i].abs(),
                    "{i}"
                );
            }
        }
    }

    /// What a nearly sure sample has left keeps its digits, with logits in f32 too.
    #[test]
    fn sure_samples_keep_their_digits() {
        for margin in [1.0f64, 10.0, 16.0, 30.0, 80.0] {
            // softmax of (m, 0, -1): the label's p is 1 - tiny.
            let odds = (-margin).exp() + (-margin - 1.0).exp();
            let rest = odds / (1.0 + odds);
            let z = [margin as f32, 0.0, -1.0];
            let mut at = Eval::<f32>::new(3, 1);
            let risk = Risk::new(&[0], &[1.0], &[1.0; 3], 0.0);
            risk.evaluate(&z, &[0.0; 3], &mut at);
            let near = |found: f64, expected: f64| {
                assert!(
                    (found / expected - 1.0).abs() < 1e-6,
                    "{margin}: {found} {expected}"
                );
            };
            near(at.loss, odds.ln_1p());
            near(f64::from(at.g[0]), -rest);
            near(at.bias[0], -rest);
            let p = [
                1.0 - rest,
                (-margin).exp() / (1.0 + odds),
                (-margin - 1.0).exp() / (1.0 + odds),
            ];
            near(at.bias_curvatures[0], p[0] * rest);
            // H (1, 0, 0): p0 (1 - p0), -p0 p1, -p0 p2.
            let (mut h, mut sums) = ([0f32; 3], [0.0; 3]);
            risk.hessian(&at, &[1f32, 0.0, 0.0], &[0.0; 3], &mut h, &mut sums);
            near(f64::from(h[0]), p[0] * rest);
            near(f64::from(h[1]), -p[0] * p[1]);
            near(f64::from(h[2]), -p[0] * p[2]);
            let (_, slope) = risk.along((&z, &[0.0; 3]), (&[1f32, 0.0, 0.0], &[0.0; 3]), 0.0);
            near(slope, -rest);
            // The one logistic output, both labels alike.
            let q = (-margin).exp() / (1.0 + (-margin).exp());
            for (label, sign) in [(1, 1.0), (0, -1.0)] {
                let z = [(sign * margin) as f32];
                let mut at = Eval::<f32>::new(1, 1);
                let labels = [label];
                let risk = Risk::new(&labels, &[1.0], &[1.0; 2], 0.0);
                risk.evaluate(&z, &[0.0], &mut at);
                near(at.loss, (-margin).exp().ln_1p());
                near(f64::from(at.g[0]), -sign * q);
                near(at.curvatures[0], q * (1.0 - q));
                let (mut h, mut sums) = ([0f32], [0.0]);
                risk.hessian(&at, &[1f32], &[0.0], &mut h, &mut sums);
                near(f64::from(h[0]), q * (1.0 - q));
                let (_, slope) = risk.along((&z, &[0.0]), (&[1f32], &[0.0]), 0.0);
                near(slope, -sign * q);
            }
        }
    }

    #[test]
    fn a_logit_that_is_no_number_shows_in_the_loss() {
        for classes in [2, 3] {
            let c = Loss::for_classes(classes).outputs(classes);
            for bad in 0..c {
                let mut z = vec![0f64; c];
                z[bad] = f64::NAN;
                let mut at = Eval::new(c, 1);
                let class_weights = vec![1.0; classes];
                Risk::new(&[0], &[1.0], &class_weights, 0.0).evaluate(&z, &vec![0.0; c], &mut at);
                assert!(at.loss.is_nan(), "{classes} {bad}");
            }
        }
    }

    #[test]
    fn margin_changes_tell_which_class_runs_away() {
        let labels = [0, 1, 2];
        let risk = Risk::new(&labels, &[1.0; 3], &[1.0; 3], 0.0);
        // Only the sample of class 2 moves, towards its label.
        let d = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0];
        let changes = risk.margin_changes(&d, &[0.0; 3]);
        assert_eq!((changes.smallest, changes.largest), (0.0, 2.0));
        assert_eq!(changes.of_classes, [0.0, 0.0, 2.0]);
        let changes = risk.margin_changes(&d, &[1.0, 0.0, 0.0]);
        assert_eq!((changes.smallest, changes.of_classes[0]), (-1.0, 1.0));
    }

    #[test]
    fn margins_tell_when_samples_are_separated() {
        let labels = [0, 2, 1];
        let z: Vec<f64> = vec![3.0, -1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 2.0, 9.0];
        let mut at = Eval::new(3, 3);
        Risk::new(&labels, &[1.0, 1.0, 0.0], &[1.0; 3], 0.0).evaluate(&z, &[0.0; 3], &mut at);
        assert_eq!(at.smallest_margin, 2.0);
        Risk::new(&labels, &[1.0; 3], &[1.0; 3], 0.0).evaluate(&z, &[0.0; 3], &mut at);
        assert_eq!(at.smallest_margin, -8.5);
    }
}
