//! Loss, gradient and Hessian products of a block of samples, compiled for every instruction set.
//!
//! The softmax is in `softmax.rs`, the logistic loss in `logistic.rs`. Arrays have one value per
//! sample, so that loops over samples are vectorised.

use std::ops::Range;

use crate::kernels::columns::Columns;
use crate::linalg::vec::{Real, sum};
use crate::loss::Loss;

/// Largest number of samples of a block: enough consecutive values of each output's row for the
/// hardware prefetcher.
pub const WIDTH: usize = 256;

/// One value per sample of a block.
pub type PerSample = [f64; WIDTH];

/// Logits by output and sample.
pub trait Logits {
    /// The logits of output `j` for a range of samples, as a function of the position in the range.
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64;
}

/// The logits `z + b 1ᵀ`.
pub struct LogitsAt<'a, T> {
    pub z: &'a [T],
    pub bias: &'a [f64],
    pub n: usize,
}

impl<T: Real> Logits for LogitsAt<'_, T> {
    #[inline(always)]
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64 {
        let (z, bias) = (&self.z[j * self.n..][range.clone()], self.bias[j]);
        #[inline(always)]
        move |i| z[i].into() + bias
    }
}

/// The logits `from + t · direction`.
pub struct LogitsAlong<'a, T> {
    pub from: LogitsAt<'a, T>,
    pub direction: LogitsAt<'a, T>,
    pub t: f64,
}

impl<T: Real> Logits for LogitsAlong<'_, T> {
    #[inline(always)]
    fn row(&self, j: usize, range: &Range<usize>) -> impl Fn(usize) -> f64 {
        let (from, direction) = (self.from.row(j, range), self.direction.row(j, range));
        #[inline(always)]
        move |i| from(i) + self.t * direction(i)
    }
}

/// A block of consecutive samples: WIDTH of them, or fewer at the end.
pub struct Block<'a> {
    pub loss: Loss,
    pub outputs: usize,
    pub class_weights: &'a [f64],
    /// Sum of the class weights.
    pub all_weights: f64,
    pub smoothing: Option<&'a [f64]>,
    pub labels: &'a [u32],
    pub shares: &'a [f64],
    pub range: Range<usize>,
}

/// The sums of the exponentials that [`Block::losses`] passed on, from which probabilities follow.
pub struct Sums {
    /// The sum over all outputs: the divisor of the probabilities.
    pub total: PerSample,
    /// The sum over all outputs but `top`.
    pub others: PerSample,
    /// The most probable output.
    pub top: PerSample,
}

impl Block<'_> {
    /// αᵢ, 0 without smoothing.
    #[inline(always)]
    pub fn alpha(&self, i: usize) -> f64 {
        self.smoothing.map_or(0.0, |alphas| alphas[i])
    }

    /// Writes losses times shares, and margins. `keep` is called with each output and the exponentials
    /// of its logits minus the largest; for the logistic loss with the probabilities of the class
    /// other than the label.
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

    /// The sum of the losses, and its derivative in t.
    #[inline(always)]
    pub fn along<T: Real>(&self, logits: &LogitsAlong<T>) -> (f64, f64) {
        let width = self.labels.len();
        let (mut losses, mut margins) = ([0.0; WIDTH], [0.0; WIDTH]);
        // d of the label, Σⱼ eⱼ (dⱼ - d of the label) and Σⱼ wⱼ (dⱼ - d of the label).
        let mut own: PerSample = [0.0; WIDTH];
        if self.loss == Loss::Softmax {
            for (i, &label) in self.labels.iter().enumerate() {
                own[i] = logits.direction.row(label as usize, &self.range)(i);
            }
        }
        let (mut expected, mut weighted): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
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
        let mut slopes: PerSample = [0.0; WIDTH];
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

    /// Writes P, from the exponentials in `p` and their sums, G, and the curvatures sᵢ p (1 - p) by
    /// sample and, with the sums of G, by output.
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

    /// Writes the product of the Hessian with V to `h`, and its sums by output to `of_block`.
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

/// eˣ for x <= 0 within 2 units in the last place; 0 for x < -708. Without a branch, so that loops are
/// vectorised. `x = k ln 2 + r`; eʳ is its Taylor polynomial, whose next term is below 2⁻⁵⁷ for
/// |r| <= ln(2)/2.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    /// Adding it rounds to an integer, which is then in the lowest bits; subtract it to get the
    /// integer.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    /// ln 2 as a sum of two terms; the product of k and the first is exact (fdlibm).
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
