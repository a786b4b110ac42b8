//! Newton's direction by preconditioned conjugate gradients (Dembo and Steihaug 1983; Nocedal
//! and Wright, Numerical Optimization, ch. 7).

use super::descent::{Descent, Point, Slope};
use crate::engine::{Real, Space, axpby_real as axpby};

/// Most steps.
const MAX_CG: usize = 500;

/// The direction, and room for the way to it.
pub(super) struct NewtonDirection<T> {
    /// p.
    pub p: Point<T>,
    /// The direction of conjugate gradients.
    d: Point<T>,
    solved: Point<T>,
    r: Slope,
    q: Slope,
    room: Vec<T>,
}

impl<T: Real> NewtonDirection<T> {
    /// Room for the problems of a descent.
    pub fn new<S: Space<Real = T>>(descent: &Descent<S>) -> Self {
        let c = descent.likelihood.outputs();
        NewtonDirection {
            p: Point::zero(descent.space, c),
            d: Point::zero(descent.space, c),
            solved: Point::of_solutions(descent.space, c),
            r: descent.gradient.clone(),
            q: descent.gradient.clone(),
            room: descent.at.g.clone(),
        }
    }

    /// Solve `∇²F p = -∇F` at the descent's point, whose preconditioner is factored, until the
    /// residual, as the preconditioner measures it, is `share` of the gradient.
    pub fn solve<S: Space<Real = T>>(&mut self, descent: &mut Descent<S>, share: f64) {
        self.solve_newton(descent, share, (0.0, f64::INFINITY));
    }

    /// The same far enough to tell whether anything is left to gain: the gain along p that the
    /// quadratic model promises, `gᵀ H⁻¹ g / 2`, half the square of the Newton decrement. `None`
    /// where rounding keeps the equation from being solved.
    pub fn decrement<S: Space<Real = T>>(&mut self, descent: &mut Descent<S>) -> Option<f64> {
        /// What may be left of the gradient.
        const SHARE: f64 = 1e-3;
        let noise = descent.unmeasurable();
        // Without a penalty H may be singular: what rounding left there must not be divided by it.
        let most = descent.objective.abs().max(noise);
        self.solve_newton(descent, SHARE, (1e-4 * noise, most))
    }

    fn solve_newton<S: Space<Real = T>>(
        &mut self,
        descent: &mut Descent<S>,
        share: f64,
        limits: (f64, f64),
    ) -> Option<f64> {
        self.r.axpby(-1.0, &descent.gradient, 0.0);
        let product = |descent: &mut Descent<S>, d: &Point<T>, room: &mut [T], q: &mut Slope| {
            descent.hessian(d, room, q);
        };
        self.solve_by(descent, share, limits, product)
    }

    /// The direction `d` (its logits and bias) moved as little as the preconditioner sees, so that
    /// the margins that are tied along it do not change at all, as far as that can be had.
    pub fn fix_ties<S: Space<Real = T>>(
        &mut self,
        descent: &mut Descent<S>,
        (d, d_bias): (&mut [T], &mut [f64]),
        tied: &[bool],
    ) {
        let likelihood = descent.likelihood;
        let mut g = vec![T::default(); d.len()];
        let squares = likelihood.tied_gradient(tied, (d, d_bias), &mut g, &mut self.r.b);
        descent.space.pullback(&g, &mut self.r.w);
        self.r.w.iter_mut().for_each(|r| *r = -*r);
        self.r.b.iter_mut().for_each(|r| *r = -*r);
        let product = |descent: &mut Descent<S>, d: &Point<T>, room: &mut [T], q: &mut Slope| {
            likelihood.tied_gradient(tied, (&d.z, &d.b), room, &mut q.b);
            descent.space.pullback(room, &mut q.w);
        };
        self.solve_by(descent, 1e-10, (0.0, squares), product);
        axpby(1.0, &self.p.z, 1.0, d);
        axpby(1.0, &self.p.b, 1.0, d_bias);
    }

    /// Solve `H p = r`, H given by its product; the gain `rᵀ H⁻¹ r / 2`, if that was reached. Ends,
    /// too, where the residual's square falls below `floor`, and before the gain is above `most`:
    /// that would be rounding, divided by what is singular in H.
    fn solve_by<S: Space<Real = T>>(
        &mut self,
        descent: &mut Descent<S>,
        share: f64,
        (floor, most): (f64, f64),
        mut product: impl FnMut(&mut Descent<S>, &Point<T>, &mut [T], &mut Slope),
    ) -> Option<f64> {
        /// A residual's square, as a share of the first, that may be all rounding.
        const ROUNDING: f64 = 0.01;
        self.p.axpby(0.0, &self.d, 0.0);
        descent.precondition(&self.r, &mut self.solved);
        let mut rho = descent.along(&self.r, &self.solved);
        let (first, mut gain) = (rho, 0.0);
        self.d.axpby(1.0, &self.solved, 0.0);
        for _ in 0..MAX_CG {
            descent.multiply_out(&mut self.d);
            product(descent, &self.d, &mut self.room, &mut self.q);
            let curvature = descent.along(&self.q, &self.d);
            if rho <= floor {
                // Below 0 the preconditioner is rounding, too.
                return (rho >= 0.0).then_some(gain);
            }
            let alpha = rho / curvature;
            let is_rounding = curvature <= 0.0 || gain + 0.5 * alpha * rho > most;
            if is_rounding || curvature.is_nan() {
                return (rho <= ROUNDING * first).then_some(gain);
            }
            gain += 0.5 * alpha * rho;
            self.p.axpby(alpha, &self.d, 1.0);
            self.r.axpby(-alpha, &self.q, 1.0);
            descent.precondition(&self.r, &mut self.solved);
            let next = descent.along(&self.r, &self.solved);
            if next <= share * share * first {
                return Some(gain);
            }
            if next.is_nan() {
                break;
            }
            self.d.axpby(1.0, &self.solved, next / rho);
            rho = next;
        }
        None
    }
}
