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
    /// residual, as the preconditioner measures it, is `share` of the gradient. The gain along p
    /// that the quadratic model promises, `gᵀ H⁻¹ g / 2`: half the square of the Newton
    /// decrement.
    pub fn solve<S: Space<Real = T>>(&mut self, descent: &mut Descent<S>, share: f64) -> f64 {
        self.r.axpby(-1.0, &descent.gradient, 0.0);
        let noise = descent.unmeasurable();
        // Without a penalty H may be singular: what rounding left there must not be divided by it.
        let (floor, most) = match descent.l2 > 0.0 {
            true => (0.0, f64::INFINITY),
            false => (1e-4 * noise, descent.objective.abs().max(noise)),
        };
        let product = |descent: &mut Descent<S>, d: &Point<T>, room: &mut [T], q: &mut Slope| {
            descent.hessian(d, room, q);
        };
        self.solve_by(descent, share, (floor, most), product)
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

    /// Solve `H p = r`, H given by its product; what [`NewtonDirection::solve`] gives. Ends, too,
    /// where the residual's square falls below `floor`, and before the gain is above `most`: that
    /// would be rounding, divided by what is singular in H.
    fn solve_by<S: Space<Real = T>>(
        &mut self,
        descent: &mut Descent<S>,
        share: f64,
        (floor, most): (f64, f64),
        mut product: impl FnMut(&mut Descent<S>, &Point<T>, &mut [T], &mut Slope),
    ) -> f64 {
        self.p.axpby(0.0, &self.d, 0.0);
        descent.precondition(&self.r, &mut self.solved);
        let mut rho = descent.along(&self.r, &self.solved);
        let (first, mut gain) = (rho, 0.0);
        self.d.axpby(1.0, &self.solved, 0.0);
        for _ in 0..MAX_CG {
            descent.multiply_out(&mut self.d);
            product(descent, &self.d, &mut self.room, &mut self.q);
            let curvature = descent.along(&self.q, &self.d);
            if curvature.is_nan() || curvature <= 0.0 || rho <= floor {
                break;
            }
            let alpha = rho / curvature;
            if gain + 0.5 * alpha * rho > most {
                break;
            }
            gain += 0.5 * alpha * rho;
            self.p.axpby(alpha, &self.d, 1.0);
            self.r.axpby(-alpha, &self.q, 1.0);
            descent.precondition(&self.r, &mut self.solved);
            let next = descent.along(&self.r, &self.solved);
            if next.is_nan() || next <= share * share * first {
                break;
            }
            self.d.axpby(1.0, &self.solved, next / rho);
            rho = next;
        }
        gain
    }
}
