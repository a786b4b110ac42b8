//! A block of samples: what a thread computes at a time, compiled for every instruction set.
//!
//! The softmax is in `softmax.rs`, the one logistic output in `logistic.rs`. Values of a sample
//! stand in lanes, so that loops over samples become vectors.

use std::ops::Range;

use crate::kernels::columns::Columns;
use crate::linalg::vec::{Real, sum};
use crate::loss::Loss;

/// Samples of a block: long enough stretches of each output's row for the memory's prefetcher.
pub const WIDTH: usize = 256;

/// A block's value of every sample.
pub type Lane = [f64; WIDTH];

/// Logits by output and sample.
pub trait Logits {
    /// Those of output `j` for a range of samples, by their place in it.
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64;
}

/// `z + b 1ᵀ`.
pub struct Still<'a, T> {
    pub z: &'a [T],
    pub bias: &'a [f64],
    pub n: usize,
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
pub struct Along<'a, T> {
    pub from: Still<'a, T>,
    pub direction: Still<'a, T>,
    pub t: f64,
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
pub struct Block<'a> {
    pub loss: Loss,
    pub outputs: usize,
    pub class_weights: &'a [f64],
    /// Their sum.
    pub all_weights: f64,
    pub smoothing: Option<&'a [f64]>,
    pub labels: &'a [u32],
    pub shares: &'a [f64],
    pub range: Range<usize>,
}

/// What makes probabilities of what [`Block::losses`] kept, one value a sample.
pub struct Sums {
    /// The divisor.
    pub total: Lane,
    /// All of it but the part of `top`, the most probable output.
    pub others: Lane,
    /// Its number.
    pub top: Lane,
}

impl Block<'_> {
    /// αᵢ, 0 without smoothing.
    #[inline(always)]
    pub fn alpha(&self, i: usize) -> f64 {
        self.smoothing.map_or(0.0, |alphas| alphas[i])
    }

    /// Losses times shares, and margins; `keep` is given each output's `e` to the logits less
    /// the largest, or the logistic output's probability of the class that is not the label.
    #[inline(always)]
    pub fn losses(
        &self,
        logits: &impl Logits,
        losses: &mut [f64],
        margins: &mut [f64],
        mut keep: impl FnMut(usize, &[f64]),
    ) -> Sums {
        let width = self.labels.len();
        assert!(width <= WIDTH && losses.len() == width && margins.len() == width);
        match self.loss {
            Loss::Softmax => self.softmax_losses(logits, losses, margins, keep),
            Loss::Logistic => {
                let q = self.logistic_losses(logits.row(0, &self.range), losses, margins);
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
    pub fn along<T: Real>(&self, logits: &Along<T>) -> (f64, f64) {
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

    /// P of what [`Block::losses`] kept there and summed up, G, and the curvatures by sample
    /// and by output.
    #[inline(always)]
    pub fn gradient<T: Real>(
        &self,
        sums: &Sums,
        p: &mut Columns<T>,
        g: &mut Columns<T>,
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width && curvatures.len() == width);
        match self.loss {
            Loss::Softmax => self.softmax_gradient(sums, p, g, curvatures, of_block),
            Loss::Logistic => {
                let (p, g) = (&mut p.row(0)[..width], &mut g.row(0)[..width]);
                self.logistic_gradients(&sums.others, p, g, curvatures, of_block);
            }
        }
    }

    /// The Hessian's product with V into `h`, and its sums by output.
    #[inline(always)]
    pub fn hessian<'p, T: Real>(
        &self,
        p: impl Fn(usize) -> &'p [T],
        tops: &[u32],
        v: &impl Logits,
        h: &mut Columns<T>,
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        assert!(width <= WIDTH && self.shares.len() == width);
        match self.loss {
            Loss::Softmax => self.softmax_hessian(p, tops, v, h, of_block),
            Loss::Logistic => {
                let (p, h) = (&p(0)[..width], &mut h.row(0)[..width]);
                of_block[0] = self.logistic_hessian(p, v.row(0, &self.range), h);
            }
        }
    }
}

/// eˣ for x <= 0, and 0 below e⁻⁷⁰⁸, within 2 units of the last place: without a branch, so that
/// the compiler makes vectors of it. `x = k ln 2 + r`, and eʳ by its Taylor polynomial, whose
/// next term is below 2⁻⁵⁷ for |r| <= ln(2)/2.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
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
