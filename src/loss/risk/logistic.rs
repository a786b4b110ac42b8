//! The logistic loss of a block of samples: one output z, the softmax of (0, z).

use crate::linalg::vec::{Real, sum};
use crate::loss::risk::block::{Block, PerSample, WIDTH, exp};

impl Block<'_> {
    /// Writes losses times shares, and margins. Returns q, the probability of the class other than the
    /// label.
    #[inline(always)]
    pub fn logistic_losses(
        &self,
        z: impl Fn(usize) -> f64,
        losses: &mut [f64],
        margins: &mut [f64],
    ) -> PerSample {
        let width = self.labels.len();
        let (mut q, mut small): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
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

    /// The target of the class other than the label.
    #[inline(always)]
    fn other_target(&self, i: usize) -> f64 {
        let other = self.class_weights[1 - (self.labels[i] as usize).min(1)];
        self.alpha(i) * other
    }

    /// The gradient in the logit of sample `i`, where `q` is the probability of the class other than
    /// the label.
    #[inline(always)]
    pub fn logistic_gradient(&self, i: usize, q: f64) -> f64 {
        let gradient = self.shares[i] * (q - self.other_target(i));
        if self.labels[i] == 1 {
            -gradient
        } else {
            gradient
        }
    }

    /// Writes gradients, p (1 - p) and curvatures, where `q` is the probability of the class other
    /// than the label, and the sums of gradients and curvatures to `of_block`.
    #[inline(always)]
    pub fn logistic_gradients<T: Real>(
        &self,
        q: &PerSample,
        p: &mut [T],
        g: &mut [T],
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        let mut values: PerSample = [0.0; WIDTH];
        for i in 0..width {
            let q = q[i];
            values[i] = self.logistic_gradient(i, q);
            g[i] = T::of(values[i]);
            p[i] = T::of(q * (1.0 - q));
            curvatures[i] = self.shares[i] * q * (1.0 - q);
        }
        of_block[0] = sum(&values[..width]);
        of_block[1] = sum(curvatures);
    }

    /// Writes the product of the Hessian with `v` to `h`, where `p` is p (1 - p), and returns its sum.
    #[inline(always)]
    pub fn logistic_hessian<T: Real>(&self, p: &[T], v: impl Fn(usize) -> f64, h: &mut [T]) -> f64 {
        let width = self.labels.len();
        let mut values: PerSample = [0.0; WIDTH];
        for i in 0..width {
            values[i] = self.shares[i] * p[i].into() * v(i);
            h[i] = T::of(values[i]);
        }
        sum(&values[..width])
    }
}
