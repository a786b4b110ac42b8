//! The softmax of a block of samples.

use crate::kernels::columns::Columns;
use crate::linalg::vec::{Real, sum};
use crate::loss::risk::block::{Block, Logits, PerSample, Sums, WIDTH, exp};

impl Block<'_> {
    /// [`Block::losses`] of a softmax.
    #[inline(always)]
    pub fn softmax_losses(
        &self,
        logits: &impl Logits,
        losses: &mut [f64],
        margins: &mut [f64],
        mut keep: impl FnMut(usize, &[f64]),
    ) -> Sums {
        let c = self.outputs;
        let width = self.labels.len();
        let (mut max, mut second) = ([f64::NEG_INFINITY; WIDTH], [f64::NEG_INFINITY; WIDTH]);
        let (mut top, mut weighted): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
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
        let (mut others, mut exps): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
        for j in 0..c {
            let z = logits.row(j, &self.range);
            let number = j as f64;
            for i in 0..width {
                exps[i] = exp(z(i) - max[i]);
                others[i] += if top[i] == number { 0.0 } else { exps[i] };
            }
            keep(j, &exps[..width]);
        }
        let mut total: PerSample = [1.0; WIDTH];
        for (i, (&label, &share)) in self.labels.iter().zip(self.shares).enumerate() {
            let z = logits.row(label as usize, &self.range)(i);
            total[i] += others[i];
            // The term 0 · weighted is NaN if a logit is NaN, which the maximum would ignore.
            let smoothed = self.alpha(i) * (self.all_weights * z - weighted[i]) + 0.0 * weighted[i];
            losses[i] = share * (max[i] - z + others[i].ln_1p() + smoothed);
            margins[i] = if share > 0.0 && z < max[i] {
                z - max[i]
            } else if share > 0.0 {
                z - second[i]
            } else {
                f64::INFINITY
            };
        }
        Sums { total, others, top }
    }

    /// [`Block::gradient`] of a softmax.
    #[inline(always)]
    pub fn softmax_gradient<T: Real>(
        &self,
        sums: &Sums,
        p: &mut Columns<T>,
        g: &mut Columns<T>,
        curvatures: &mut [f64],
        of_block: &mut [f64],
    ) {
        let c = self.outputs;
        let width = self.labels.len();
        let (gradients, bias_curvatures) = of_block.split_at_mut(c);
        let mut values: PerSample = [0.0; WIDTH];
        curvatures.fill(0.0);
        let (mut of_output, mut alpha): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
        if let Some(alphas) = self.smoothing {
            alpha[..width].copy_from_slice(alphas);
        }
        for j in 0..c {
            let (label, number, weight) = (j as u32, j as f64, self.class_weights[j]);
            // The sum of the targets of the other classes, divided by α.
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

    /// [`Block::hessian`] of a softmax.
    ///
    /// The value of V at the most probable output is subtracted first: for p near 1, p (v - p·v) would
    /// otherwise be a difference of nearly equal numbers.
    #[inline(always)]
    pub fn softmax_hessian<'p, T: Real>(
        &self,
        p: impl Fn(usize) -> &'p [T],
        tops: &[u32],
        v: &impl Logits,
        h: &mut Columns<T>,
        of_block: &mut [f64],
    ) {
        let width = self.labels.len();
        let mut values: PerSample = [0.0; WIDTH];
        let (mut mean, mut of_top): (PerSample, PerSample) = ([0.0; WIDTH], [0.0; WIDTH]);
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
