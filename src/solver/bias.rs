//! Newton's method on the bias alone: passes over logits that stay as they are.

use crate::linalg::vec::{Real, axpby};
use crate::loss::risk::{Eval, Risk};
use crate::solver::point::inner;

/// Most Newton steps.
const ROUNDS: usize = 40;
/// A share of the loss that is rounding where it does not fall any more.
const ROUNDING: f64 = 1e-10;
/// Most halvings of a step.
const HALVINGS: usize = 60;

/// Move `b` to where the loss at `z + b 1ᵀ` is lowest, `at` being evaluated at `b` before and
/// after. What is left to gain, to second order (`gᵀ H⁻¹ g`): no more than `noise` of the loss
/// plus the penalty, unless rounding stops it before.
pub(crate) fn minimize<T: Real>(
    risk: &Risk,
    z: &[T],
    b: &mut [f64],
    at: &mut Eval<T>,
    noise: f64,
) -> f64 {
    let nowhere = vec![T::default(); z.len()];
    let mut room = nowhere.clone();
    let mut gain = f64::INFINITY;
    for _ in 0..ROUNDS {
        let step;
        let before = gain;
        (step, gain) = newton_step(risk, at, &nowhere, &mut room);
        // Near the end the gain falls with its square, until it is rounding.
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

/// `-H⁻¹ g` for the bias, and `gᵀ H⁻¹ g`, by conjugate gradients preconditioned with H's
/// diagonal: a class that hardly has rows counts as much as the others.
fn newton_step<T: Real>(
    risk: &Risk,
    at: &Eval<T>,
    nowhere: &[T],
    room: &mut [T],
) -> (Vec<f64>, f64) {
    const MAX_STEPS: usize = 30;
    const RESIDUAL: f64 = 1e-8;
    let c = at.bias.len();
    // H 1 = 0 for softmax: rounding along 1 must not be divided by it.
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
        risk.hessian(at, nowhere, &d, room, &mut q);
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
    // What cannot be looked for is not known to be little.
    (step, if moved { gain } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With logits of 0 the probabilities are the classes' shares, from however far away.
    #[test]
    fn the_bias_alone_gives_the_classes_their_shares() {
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
