//! Newton's direction by preconditioned conjugate gradients (Dembo and Steihaug 1983; Nocedal
//! and Wright, Numerical Optimization, ch. 7).

use crate::linalg::vec::{Real, axpby};
use crate::solver::minimizer::Minimizer;
use crate::solver::point::{Gradient, Point};
use crate::solver::problem::Problem;

/// Most steps.
const MAX_CG: usize = 500;

/// One over a curvature, beside the preconditioner's, that nothing has shown yet: of samples that
/// are nearly sure.
const FLATTEST: f64 = 1e5;

/// When conjugate gradients have gone far enough.
#[derive(Clone, Copy)]
enum Until {
    /// The residual is this share of the right-hand side, as the preconditioner measures both.
    Share(f64),
    /// What the residual still hides of the gain is little of it, or below this.
    Gain(f64),
}

/// The direction, and room for the way to it.
pub(super) struct NewtonDirection<T> {
    /// p.
    pub p: Point<T>,
    /// The direction of conjugate gradients.
    d: Point<T>,
    solved: Point<T>,
    r: Gradient,
    q: Gradient,
    room: Vec<T>,
}

impl<T: Real> NewtonDirection<T> {
    /// Room for the problems of a descent.
    pub fn new<S: Problem<Real = T>>(minimizer: &Minimizer<S>) -> Self {
        let c = minimizer.risk.outputs();
        NewtonDirection {
            p: Point::zero(minimizer.problem, c),
            d: Point::zero(minimizer.problem, c),
            solved: Point::zero_solution(minimizer.problem, c),
            r: minimizer.gradient.clone(),
            q: minimizer.gradient.clone(),
            room: minimizer.at.g.clone(),
        }
    }

    /// Solve `∇²F p = -∇F` at the descent's point, whose preconditioner is factored, until the
    /// residual, as the preconditioner measures it, is `share` of the gradient.
    pub fn solve<S: Problem<Real = T>>(&mut self, minimizer: &mut Minimizer<S>, share: f64) {
        self.solve_newton(minimizer, Until::Share(share), f64::INFINITY);
    }

    /// The same far enough to tell what is left to gain: the gain along p that the quadratic model
    /// promises, `gᵀ H⁻¹ g / 2`, half the square of the Newton decrement, and a little more. `None`
    /// where rounding keeps the equation from being solved.
    pub fn decrement<S: Problem<Real = T>>(&mut self, minimizer: &mut Minimizer<S>) -> Option<f64> {
        if minimizer.l2 == 0.0 && !minimizer.problem.resolves_curvatures() {
            self.solve(minimizer, 1e-3);
            return None;
        }
        let noise = minimizer.noise_floor();
        // Without a penalty H may be singular: what rounding left there must not be divided by it.
        let most = minimizer.objective.abs().max(noise);
        self.solve_newton(minimizer, Until::Gain(1e-3 * noise), most)
    }

    fn solve_newton<S: Problem<Real = T>>(
        &mut self,
        minimizer: &mut Minimizer<S>,
        until: Until,
        most: f64,
    ) -> Option<f64> {
        self.r.axpby(-1.0, &minimizer.gradient, 0.0);
        let product =
            |minimizer: &mut Minimizer<S>, d: &Point<T>, room: &mut [T], q: &mut Gradient| {
                minimizer.hessian(d, room, q);
            };
        self.solve_by(minimizer, until, most, product)
    }

    /// The direction `d` (its logits and bias) moved as little as the preconditioner sees, so that
    /// the margins that are tied along it do not change at all, as far as that can be had.
    pub fn fix_ties<S: Problem<Real = T>>(
        &mut self,
        minimizer: &mut Minimizer<S>,
        (d, d_bias): (&mut [T], &mut [f64]),
        tied: &[bool],
    ) {
        let risk = minimizer.risk;
        let mut g = vec![T::default(); d.len()];
        let squares = risk.tied_gradient(tied, (d, d_bias), &mut g, &mut self.r.b);
        minimizer.problem.adjoint(&g, &mut self.r.w);
        self.r.w.iter_mut().for_each(|r| *r = -*r);
        self.r.b.iter_mut().for_each(|r| *r = -*r);
        let product =
            |minimizer: &mut Minimizer<S>, d: &Point<T>, room: &mut [T], q: &mut Gradient| {
                risk.tied_gradient(tied, (&d.z, &d.b), room, &mut q.b);
                minimizer.problem.adjoint(room, &mut q.w);
            };
        self.solve_by(minimizer, Until::Share(1e-10), squares, product);
        axpby(1.0, &self.p.z, 1.0, d);
        axpby(1.0, &self.p.b, 1.0, d_bias);
    }

    /// Solve `H p = r`, H given by its product; the gain `rᵀ H⁻¹ r / 2`, if that was reached. Ends,
    /// too, before the gain is above `most`: that would be rounding, divided by what is singular
    /// in H.
    fn solve_by<S: Problem<Real = T>>(
        &mut self,
        minimizer: &mut Minimizer<S>,
        until: Until,
        most: f64,
        mut product: impl FnMut(&mut Minimizer<S>, &Point<T>, &mut [T], &mut Gradient),
    ) -> Option<f64> {
        self.p.axpby(0.0, &self.d, 0.0);
        minimizer.precondition(&self.r, &mut self.solved);
        let mut rho = minimizer.along(&self.r, &self.solved);
        let (first, mut gain) = (rho, 0.0);
        // The longest step: one over the least curvature beside the preconditioner's, so far.
        let mut longest: f64 = 0.0;
        self.d.axpby(1.0, &self.solved, 0.0);
        for _ in 0..MAX_CG {
            if rho == 0.0 {
                // Nothing is left, or the preconditioner underflows.
                return (first > 0.0 || minimizer.gradient_norm == 0.0).then_some(gain);
            }
            minimizer.multiply_out(&mut self.d);
            product(minimizer, &self.d, &mut self.room, &mut self.q);
            let curvature = minimizer.along(&self.q, &self.d);
            let alpha = rho / curvature;
            // Below 0 the preconditioner is rounding, too.
            let is_rounding = curvature <= 0.0 || rho < 0.0 || gain + 0.5 * alpha * rho > most;
            if is_rounding || alpha.is_nan() {
                return None;
            }
            gain += 0.5 * alpha * rho;
            longest = longest.max(alpha);
            self.p.axpby(alpha, &self.d, 1.0);
            self.r.axpby(-alpha, &self.q, 1.0);
            minimizer.precondition(&self.r, &mut self.solved);
            let next = minimizer.along(&self.r, &self.solved);
            let left = 0.5 * next * longest;
            let hidden = 0.5 * next * longest.max(FLATTEST);
            match until {
                Until::Share(share) if next <= share * share * first => return Some(gain),
                Until::Gain(noise) if left <= 0.05 * gain || hidden <= noise => {
                    return Some(gain + left.max(0.0));
                }
                _ if next.is_nan() => return None,
                _ => {}
            }
            self.d.axpby(1.0, &self.solved, next / rho);
            rho = next;
        }
        None
    }
}
