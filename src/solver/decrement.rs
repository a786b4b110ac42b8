//! The Newton decrement without a penalty, in f64 with the full Hessian.
//!
//! With g and H the gradient and Hessian of the loss in (W, b), of columns scaled to mean square
//! 1, the quadratic model predicts the decrease `gᵀ H⁻¹ g / 2`. The prediction is reliable if the
//! Newton step changes no margin by much.

use crate::design::centered::Centered;
use crate::linalg::cholesky::Factor;
use crate::linalg::vec::dot;
use crate::loss::risk::{Eval, Risk};
use crate::solver::minimizer::separation::{NEARLY_TIED, RUNNING};

/// Largest cost, in flop, at which the full Hessian is computed: some tens of milliseconds.
const MAX_FLOP: f64 = 1e9;
/// Least ridge, as a share of the diagonal, with which H is factored.
const RIDGE: f64 = 1e-15;

/// The quadratic model at the end of a fit.
pub(crate) struct Decrement {
    /// Half the square of the Newton decrement.
    pub gain: f64,
    /// The largest change of a margin by the Newton step.
    pub step: f64,
    /// If a direction decreases no margin and increases some: the class whose samples are separated
    /// furthest.
    pub separated_class: Option<u32>,
}

/// Share of the largest change of margins below which a change is rounding.
const TIED: f64 = 1e-9;

/// The Newton decrement at `logits` (c x n, the bias included); `None` if the Hessian is too large, or
/// if ranks share X.
/// Cost: about 2n c² (d + 1)² flop.
pub(crate) fn decrement(design: &Centered, risk: &Risk, logits: &[f64]) -> Option<Decrement> {
    if design.x().is_shared() {
        // The Hessian needs all of X.
        return None;
    }
    let (n, d, c) = (design.x().len(), design.mean().len(), risk.outputs());
    // A column of ones for the bias, if there is one.
    let m = d + usize::from(risk.has_bias());
    let size = c * m;
    if 2.0 * n as f64 * (size as f64).powi(2) > MAX_FLOP {
        return None;
    }
    // Columns of (Xc/scale, 1), one after the other.
    let mut x = vec![1.0; m * n];
    for (k, (mean, scale)) in design.mean().iter().zip(design.scale()).enumerate() {
        let inverse = if *scale > 0.0 { scale.recip() } else { 0.0 };
        for (i, to) in x[k * n..][..n].iter_mut().enumerate() {
            *to = (f64::from(design.x().row(i)[k]) - f64::from(*mean)) * inverse;
        }
    }
    let column = |k: usize| &x[k * n..][..n];
    let no_bias = vec![0.0; c];
    let mut at = Eval::new(c, n);
    risk.evaluate(logits, &no_bias, &mut at);
    let gradient: Vec<f64> = (0..size)
        .map(|at_| dot(&at.g[at_ / m * n..][..n], column(at_ % m)))
        .collect();
    let mut hessian = vec![0.0; size * size];
    let (mut v, mut h, mut sums) = (vec![0.0; c * n], vec![0.0; c * n], vec![0.0; c]);
    for (j, values) in hessian.chunks_exact_mut(size).enumerate() {
        v.fill(0.0);
        v[j / m * n..][..n].copy_from_slice(column(j % m));
        risk.hessian(&at, &v, &no_bias, &mut h, &mut sums);
        for (i, value) in values.iter_mut().enumerate().skip(j) {
            *value = dot(&h[i / m * n..][..n], column(i % m));
        }
    }
    let largest = (0..size).map(|i| hessian[i * size + i]).fold(0.0, f64::max);
    let mut factor = Factor::new(size).ok()?;
    factor.factor((RIDGE * largest).max(f64::MIN_POSITIVE), |j, to| {
        to.copy_from_slice(&hessian[j * size + j..(j + 1) * size]);
    });
    let mut step: Vec<f64> = gradient.iter().map(|g| -g).collect();
    factor.solve(&mut step);
    let logits_of = |step: &[f64]| {
        let mut moved = vec![0.0; c * n];
        for (j, moved) in moved.chunks_exact_mut(n).enumerate() {
            for k in 0..m {
                let along = step[j * m + k];
                let values = moved.iter_mut().zip(column(k));
                values.for_each(|(z, x)| *z += along * x);
            }
        }
        moved
    };
    let moved = logits_of(&step);
    let changes = risk.margin_changes(&moved, &no_bias);
    let mut found = Decrement {
        gain: -0.5 * dot(&gradient, &step),
        step: changes.largest,
        separated_class: None,
    };
    let nearly = NEARLY_TIED * changes.largest;
    if !risk.is_one_hot() || changes.largest < RUNNING || changes.smallest < -nearly {
        return Some(found);
    }
    // Least squares make nearly constant margins constant.
    let tied = risk.tied(&moved, &no_bias, nearly);
    let products = |g: &[f64], to: &mut [f64]| {
        for (i, value) in to.iter_mut().enumerate() {
            *value = dot(&g[i / m * n..][..n], column(i % m));
        }
    };
    for (j, values) in hessian.chunks_exact_mut(size).enumerate() {
        v.fill(0.0);
        v[j / m * n..][..n].copy_from_slice(column(j % m));
        risk.tied_gradient(&tied, (&v, &no_bias), &mut h, &mut sums);
        products(&h, values);
    }
    let largest = (0..size).map(|i| hessian[i * size + i]).fold(0.0, f64::max);
    factor.factor((RIDGE * largest).max(f64::MIN_POSITIVE), |j, to| {
        to.copy_from_slice(&hessian[j * size + j..(j + 1) * size]);
    });
    let mut fixed = moved;
    for _ in 0..2 {
        risk.tied_gradient(&tied, (&fixed, &no_bias), &mut h, &mut sums);
        let mut correction = vec![0.0; size];
        products(&h, &mut correction);
        factor.solve(&mut correction);
        let moved = logits_of(&correction);
        fixed
            .iter_mut()
            .zip(&moved)
            .for_each(|(z, moved)| *z -= moved);
    }
    let fixed = risk.margin_changes(&fixed, &no_bias);
    // The ties must leave most of the direction.
    if fixed.largest >= 0.5 * changes.largest && fixed.smallest >= -TIED * fixed.largest {
        found.separated_class = risk.furthest_class(&fixed);
    }
    Some(found)
}
