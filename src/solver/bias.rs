//! Newton's method on the bias alone, with constant logits of the weight.

use crate::linalg::vec::{Real, axpby};
use crate::loss::risk::{Eval, Risk};
use crate::solver::point::inner;

/// Maximum number of Newton steps.
const ROUNDS: usize = 40;
/// Gain that is rounding if it no longer decreases, relative to the loss.
const ROUNDING: f64 = 1e-10;
/// Maximum number of halvings of a step.
const HALVINGS: usize = 60;

/// Minimises the loss at `z + b 1ᵀ` over `b`. Returns the remaining gain to second order,
/// `gᵀ H⁻¹ g`: at most `noise`, unless rounding ends the iteration earlier. `at` must be evaluated
/// at `b` before and is so after.
pub(crate) fn minimize<T: Real>(
    risk: &Risk,
    z: &[T],
    b: &mut [f64],
    at: &mut Eval<T>,
    noise: f64,
) -> f64 {
    let zeros = vec![T::default(); z.len()];
    let mut scratch = zeros.clone();
    let mut gain = f64::INFINITY;
    for _ in 0..ROUNDS {
        let step;
        let before = gain;
        (step, gain) = newton_step(risk, at, &zeros, &mut scratch);
        // The gain converges quadratically until it is rounding.
        let is_rounding = gain <= ROUNDING * at.loss.abs() && gain > 0.25 * before;
        if gain.is_nan() || gain <= noise || is_rounding {
            break;
        }
        let (start, before) = (b.to_vec(), at.loss);
        let mut length = 1.0;
        let fell = (0..HALVINGS).any(|_| {
            b.copy_from_slice(&start);
            axpby(length, &step, 1.0, b);
            risk.evaluate(z, b, at);
            length *= 0.5;
            at.loss <= before
        });
        if !fell {
            b.copy_from_slice(&start);
            risk.evaluate(z, b, at);
            break;
        }
    }
    gain
}

/// `-H⁻¹ g` for the bias, and `gᵀ H⁻¹ g`, by conjugate gradients. The preconditioner is the
/// diagonal of H, so that rare classes converge as fast as others.
fn newton_step<T: Real>(
    risk: &Risk,
    at: &Eval<T>,
    zeros: &[T],
    scratch: &mut [T],
) -> (Vec<f64>, f64) {
    const MAX_STEPS: usize = 30;
    const RESIDUAL: f64 = 1e-8;
    let c = at.bias.len();
    // H 1 = 0 for softmax, so rounding along 1 is removed.
    let centered = |mut r: Vec<f64>| -> Vec<f64> {
        if c > 1 {
            let mean = r.iter().sum::<f64>() / c as f64;
            r.iter_mut().for_each(|r| *r -= mean);
        }
        r
    };
    let scaled = |r: &[f64]| -> Vec<f64> {
        let curvatures = r.iter().zip(&at.bias_curvatures);
        curvatures
            .map(|(r, h)| r / h.max(f64::MIN_POSITIVE))
            .collect()
    };
    let mut r = centered(at.bias.iter().map(|g| -g).collect());
    let (mut step, mut gain, mut q) = (vec![0.0; c], 0.0, vec![0.0; c]);
    let mut d = scaled(&r);
    let mut rho = inner(&r, &d);
    let first = rho;
    let mut moved = rho == 0.0;
    for _ in 0..MAX_STEPS {
        risk.hessian(at, zeros, &d, scratch, &mut q);
        let curvature = inner(&d, &q);
        if rho <= RESIDUAL * first || curvature.is_nan() || curvature <= 0.0 {
            break;
        }
        let alpha = rho / curvature;
        moved = true;
        gain += alpha * rho;
        axpby(alpha, &d, 1.0, &mut step);
        axpby(-alpha, &q, 1.0, &mut r);
        r = centered(r);
        let solved = scaled(&r);
        let next = inner(&r, &solved);
        axpby(1.0, &solved, next / rho, &mut d);
        rho = next;
    }
    // Without a step the gain is unknown.
    (step, if moved { gain } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With logits 0, from near and far starts.
    #[test]
    fn optimal_bias_gives_the_class_frequencies() {
        for (start, counts) in [(0.0, [5u32, 3, 2]), (30.0, [90, 9, 1])] {
            let labels: Vec<u32> = (0..3)
                .flat_map(|j| vec![j; counts[j as usize] as usize])
                .collect();
            let n = labels.len();
            let risk = Risk::new(&labels, &vec![1.0; n], &[1.0; 3], 0.0);
            let (z, mut b, mut at) = (vec![0.0f64; 3 * n], vec![start, 0.0, 0.0], Eval::new(3, n));
            risk.evaluate(&z, &b, &mut at);
            let left = minimize(&risk, &z, &mut b, &mut at, 1e-16);
            assert!(left <= 1e-16, "{left}");
            let total: f64 = b.iter().map(|b| b.exp()).sum();
            for (b, count) in b.iter().zip(counts) {
                let share = b.exp() / total;
                assert!(
                    (share - f64::from(count) / n as f64).abs() < 1e-8,
                    "{share}"
                );
            }
        }
    }
}
