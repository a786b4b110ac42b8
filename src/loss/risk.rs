//! [`Risk`]: the loss over all rows, its gradient and its Hessian products, in f64, for the solvers.
//!
//! With shares sᵢ >= 0, targets qᵢ (Σⱼ qᵢⱼ = 1) and the probabilities P of the logits Z:
//!
//! ```text
//! loss     = Σ sᵢ lossᵢ,     lossᵢ = lse(zᵢ) - qᵢ·zᵢ
//! gradient   gᵢ = sᵢ (pᵢ - qᵢ)
//! Hessian    hᵢ = sᵢ (pᵢ ∘ (vᵢ - pᵢ·vᵢ));    logistic: sᵢ p (1 - p) vᵢ
//! ```
//!
//! Shares and targets follow from torch's `CrossEntropyLoss` with sample weights uᵢ, class weights w
//! and label smoothing ε over C classes (a logistic output is the softmax of (0, z)):
//!
//! ```text
//! loss = Σᵢ uᵢ [(1 - ε) w_yᵢ (-log p_iyᵢ) + (ε/C) Σⱼ wⱼ (-log pᵢⱼ)] / Σᵢ uᵢ w_yᵢ
//! ```
//!
//! All arithmetic is f64, also for logits stored in f32; matrices are c x n. For probabilities p near
//! 1, 1 - p is the sum of the other probabilities, not a difference, and ln p is -ln_1p of their odds,
//! so that both keep their relative precision.

mod block;
mod logistic;
mod margins;
mod softmax;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::comm;
use crate::comm::rows::RowShard;
use crate::design::rows::Rows;
use crate::kernels::{Isa, columns, with_isa};
use crate::linalg::vec::{Real, axpby_serial};
use crate::loss::Loss;
use crate::loss::risk::block::{Block, LogitsAlong, LogitsAt, WIDTH};
pub use crate::loss::risk::margins::MarginChanges;
use crate::threads::{Share, Work};

/// The loss as a function of the logits: labels with their shares and targets.
#[derive(Clone, Debug)]
pub struct Risk<'a> {
    loss: Loss,
    /// The output of each sample's label; for the logistic loss the label.
    labels: Cow<'a, [u32]>,
    shares: Vec<f64>,
    /// wⱼ of each output; for the logistic loss of both classes.
    class_weights: Vec<f64>,
    /// αᵢ: the target of a class j other than the label is αᵢ wⱼ. `None` without smoothing.
    smoothing: Option<Vec<f64>>,
    outputs: usize,
    /// The class of each output, if there are fewer outputs than classes.
    present: Option<Vec<u32>>,
    /// Whether the bias is a variable; if not, derivatives in it are 0.
    has_bias: bool,
    /// The other samples, if other ranks have them.
    ranks: Option<RowShard<'a>>,
}

/// Loss, gradient and diagonal of the Hessian at some logits.
#[derive(Clone, Debug)]
pub struct Eval<T> {
    /// The loss.
    pub loss: f64,
    /// Gᵀ, c x n.
    pub g: Vec<T>,
    /// Gᵀ 1: the gradient in the bias.
    pub bias: Vec<f64>,
    /// Pᵀ, c x n; for the logistic loss p (1 - p).
    p: Vec<T>,
    /// The most probable output of each sample.
    tops: Vec<u32>,
    /// Mean of sᵢ p (1 - p) over the outputs, for each sample.
    pub curvatures: Vec<f64>,
    /// Sum of sᵢ p (1 - p) over the samples, for each output.
    pub bias_curvatures: Vec<f64>,
    /// The smallest margin, z of the label minus the largest other logit, of samples with sᵢ > 0.
    pub smallest_margin: f64,
    losses: Vec<f64>,
    margins: Vec<f64>,
    of_blocks: Vec<f64>,
}

impl<T: Real> Eval<T> {
    /// Buffers for c x n logits.
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
    /// The loss of these labels, with the weight uᵢ of each sample, wⱼ of each class, and ε. The sum
    /// of uᵢ w_yᵢ must be above 0.
    ///
    /// # Panics
    /// If the numbers of labels and weights differ, or a label is not below the number of classes.
    pub fn new(
        labels: &'a [u32],
        weights: &[f64],
        class_weights: &[f64],
        label_smoothing: f64,
    ) -> Self {
        assert_eq!(labels.len(), weights.len(), "numbers of labels and weights");
        let classes = class_weights.len();
        let loss = Loss::for_classes(classes);
        let of_rows = || labels.iter().zip(weights);
        let total: f64 = of_rows().map(|(&y, u)| u * class_weights[y as usize]).sum();
        let of_others = label_smoothing / classes as f64;
        let all: f64 = of_others * class_weights.iter().sum::<f64>();
        // The factor of lse(z) of a sample with this label and weight 1.
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
            ranks: None,
        }
    }

    /// The loss without the classes whose targets are all 0. The bias of such a class would decrease
    /// for ever, so that the loss has no minimum.
    pub fn of_present_classes(mut self) -> Self {
        let mut has_target = vec![false; self.class_weights.len()];
        for (&label, &share) in self.labels.iter().zip(&self.shares) {
            has_target[label as usize] |= share > 0.0;
        }
        let is_present = |class: usize| match self.smoothing {
            Some(_) => self.class_weights[class] > 0.0,
            None => has_target[class],
        };
        let present: Vec<u32> = (0..has_target.len() as u32)
            .filter(|&class| is_present(class as usize))
            .collect();
        if present.len() < has_target.len() {
            // All targets of a sample whose label is absent are αᵢ wⱼ, or its share is 0: any output
            // can take the place of its label.
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

    /// The loss with a constant bias: derivatives in it are 0.
    pub fn without_bias(mut self) -> Self {
        self.has_bias = false;
        self
    }

    /// The loss of the rows of `x` alone, if ranks share the rows; their sums are those of all ranks.
    pub(crate) fn on_rows_of(mut self, x: &Rows<'a>) -> Self {
        let Some(shard) = x.row_shard() else {
            return self;
        };
        let own = shard.range();
        self.labels = match self.labels {
            Cow::Borrowed(labels) => Cow::Borrowed(&labels[own.clone()]),
            Cow::Owned(labels) => labels[own.clone()].iter().copied().collect(),
        };
        self.shares = self.shares[own.clone()].to_vec();
        let own_alphas = |alphas: Vec<f64>| alphas[own].to_vec();
        self.smoothing = self.smoothing.map(own_alphas);
        self.ranks = Some(shard);
        self
    }

    /// The sum of `of_rows`, `len` values, over the samples of all ranks.
    fn sum_of_rows(
        &self,
        len: usize,
        mut of_rows: impl FnMut(Range<usize>) -> Vec<f64>,
    ) -> Vec<f64> {
        match self.ranks {
            None => of_rows(0..self.labels.len()),
            Some(shard) => shard.sum(len, of_rows),
        }
    }

    /// The ranks, if they share the rows.
    pub(crate) fn ranks(&self) -> Option<RowShard<'a>> {
        self.ranks
    }

    /// Whether the bias is a variable.
    pub fn has_bias(&self) -> bool {
        self.has_bias
    }

    /// The class of each output, if some class has no output.
    pub fn present(&self) -> Option<&[u32]> {
        self.present.as_deref()
    }

    /// The rows of `rows`, one of `width` values for each class, whose classes have outputs.
    pub fn rows_of_present<T: Copy + Default>(&self, rows: Vec<T>, width: usize) -> Vec<T> {
        match self.present() {
            None => rows,
            // Only one of two classes is present: its output has W = 0.
            Some(present) if present.len() * width >= rows.len() => {
                vec![T::default(); present.len() * width]
            }
            Some(present) => {
                let row = |&class: &u32| &rows[class as usize * width..][..width];
                present.iter().flat_map(row).copied().collect()
            }
        }
    }

    /// c: number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether targets are one-hot. If they are, the loss of separated samples tends to 0 as their
    /// logits are scaled up.
    pub fn is_one_hot(&self) -> bool {
        self.smoothing.is_none()
    }

    /// The share sᵢ of each sample; without smoothing their sum is 1.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Evaluates loss, gradient and Hessian diagonal at the logits `z + b 1ᵀ`. Cost: nc exponentials.
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
        // An exponential per logit; a logarithm and the margin per sample.
        let work = Work::exponentials(2 * n * (c + 4));
        blocks.zip(samples).share(work).for_each(
            |((mut g, mut p), ((((losses, curvatures), margins), tops), of_block))| {
                with_isa!(isa, || {
                    let block = self.block(g.range());
                    let logits = LogitsAt { z, bias, n };
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
        // Loss, then the sums of the blocks; blocks of ranks consist of whole ones.
        let sums = self.sum_of_rows(1 + 2 * c, |rows| {
            let mut sums = vec![0.0; 1 + 2 * c];
            sums[0] = at.losses[rows.clone()].iter().sum();
            if self.has_bias {
                let blocks = rows.start / WIDTH * 2 * c..rows.end.div_ceil(WIDTH) * 2 * c;
                for of_block in at.of_blocks[blocks].chunks_exact(2 * c) {
                    axpby_serial(1.0, of_block, 1.0, &mut sums[1..]);
                }
            }
            sums
        });
        at.loss = sums[0];
        at.bias.copy_from_slice(&sums[1..1 + c]);
        at.bias_curvatures.copy_from_slice(&sums[1 + c..]);
        at.smallest_margin = at.margins.iter().copied().fold(f64::INFINITY, f64::min);
        self.smallest(std::slice::from_mut(&mut at.smallest_margin));
    }

    /// Replaces each value by its smallest on any rank.
    fn smallest(&self, values: &mut [f64]) {
        if let Some(shard) = self.ranks {
            comm::min(shard.comm, values);
        }
    }

    /// The loss at `z + t·d`, in logits and bias, and its derivative in t. Cost: that of
    /// [`Risk::evaluate`].
    pub fn along<T: Real>(
        &self,
        (z, bias): (&[T], &[f64]),
        (d, d_bias): (&[T], &[f64]),
        t: f64,
    ) -> (f64, f64) {
        let n = self.labels.len();
        let isa = Isa::current();
        let at = |z, bias| LogitsAt { z, bias, n };
        let logits = LogitsAlong {
            from: at(z, bias),
            direction: at(d, d_bias),
            t,
        };
        let of_blocks = (0..n.div_ceil(WIDTH))
            .into_par_iter()
            .share(Work::exponentials(2 * n * (self.outputs + 4)))
            .map(|i| {
                let block = self.block(i * WIDTH..((i + 1) * WIDTH).min(n));
                with_isa!(isa, || block.along(&logits))
            });
        let of_blocks: Vec<(f64, f64)> = of_blocks.collect();
        let sums = self.sum_of_rows(2, |rows| {
            let of_blocks = &of_blocks[rows.start / WIDTH..rows.end.div_ceil(WIDTH)];
            let sum = |part: fn(&(f64, f64)) -> f64| of_blocks.iter().map(part).sum();
            vec![sum(|of_block| of_block.0), sum(|of_block| of_block.1)]
        });
        (sums[0], sums[1])
    }

    /// Writes `H = Hessian · (V + v 1ᵀ)`, at the logits of the evaluation `at`, to `h`, and `H 1` to
    /// `bias`. Cost: two passes over P and V.
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
                    let v = LogitsAt {
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
            bias.copy_from_slice(&self.sum_of_rows(c, |rows| {
                let mut sums = vec![0.0; c];
                let blocks = rows.start / WIDTH * c..rows.end.div_ceil(WIDTH) * c;
                for of_block in of_blocks[blocks].chunks_exact(c) {
                    axpby_serial(1.0, of_block, 1.0, &mut sums);
                }
                sums
            }));
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
