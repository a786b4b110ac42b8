//! [`Risk`]: the loss over all rows with gradient and Hessian products, in f64, for the solvers.
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

mod block;
mod logistic;
mod margins;
mod softmax;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::{Isa, columns, with_isa};
use crate::linalg::vec::{Real, axpby_serial};
use crate::loss::Loss;
use crate::loss::risk::block::{Along, Block, Still, WIDTH};
pub use crate::loss::risk::margins::MarginChanges;
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

    /// The rows, of `width` values each, that belong to the fitted classes; `rows` has one for
    /// every class.
    pub fn rows_of_present<T: Copy + Default>(&self, rows: Vec<T>, width: usize) -> Vec<T> {
        match self.present() {
            None => rows,
            // One of two classes is present; the one output has W = 0.
            Some(present) if present.len() * width >= rows.len() => {
                vec![T::default(); present.len() * width]
            }
            Some(present) => {
                let row = |&class: &u32| &rows[class as usize * width..][..width];
                present.iter().flat_map(row).copied().collect()
            }
        }
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
