//! The Newton direction by preconditioned conjugate gradients (Dembo and Steihaug 1983; Nocedal
//! and Wright, Numerical Optimization, ch. 7).

use crate::linalg::vec::{Real, axpby};
use crate::solver::minimizer::Minimizer;
use crate::solver::point::{Gradient, Point};
use crate::solver::problem::Problem;

/// Maximum number of CG steps.
const MAX_CG: usize = 500;

/// Assumed bound of the inverse eigenvalues of the preconditioned Hessian: samples with nearly
/// certain predictions have small curvatures that CG has not met yet.
const FLATTEST: f64 = 1e5;

/// Stopping rule of CG.
#[derive(Clone, Copy)]
enum Until {
    /// Residual at most this share of the right-hand side, in the norm of M⁻¹.
    Share(f64),
    /// Remaining gain at most 5 % of the gain so far, or below this value.
    Gain(f64),
}

/// The Newton direction and the vectors of CG.
pub(super) struct NewtonDirection<T> {
    /// p.
    pub p: Point<T>,
    /// The direction of conjugate gradients.
    d: Point<T>,
    solved: Point<T>,
    r: Gradient,
    q: Gradient,
    scratch: Vec<T>,
}

impl<T: Real> NewtonDirection<T> {
    /// Allocates the vectors for a minimizer.
    pub fn new<S: Problem<Real = T>>(minimizer: &Minimizer<S>) -> Self {
        let c = minimizer.risk.outputs();
        NewtonDirection {
            p: minimizer.problem.origin(c),
            d: minimizer.problem.origin(c),
            solved: minimizer.problem.zero_solution(c),
            r: minimizer.gradient.clone(),
            q: minimizer.gradient.clone(),
            scratch: minimizer.at.g.clone(),
        }
    }

    /// Solves `∇²F p = -∇F` at the minimizer's point, until the residual is `share` of the gradient
    /// in the norm of M⁻¹. The preconditioner must be factored.
    pub fn solve<S: Problem<Real = T>>(&mut self, minimizer: &mut Minimizer<S>, share: f64) {
        self.solve_newton(minimizer, Until::Share(share), f64::INFINITY);
    }

    /// Solves `∇²F p = -∇F` and returns half the square of the Newton decrement, `gᵀ H⁻¹ g / 2`,
    /// plus an estimate of the unsolved part: the decrease that the quadratic model predicts.
    /// `None` if rounding prevents a solution.
    pub fn decrement<S: Problem<Real = T>>(&mut self, minimizer: &mut Minimizer<S>) -> Option<f64> {
        if minimizer.l2 == 0.0 && !minimizer.problem.resolves_curvatures() {
            self.solve(minimizer, 1e-3);
            return None;
        }
        let noise = minimizer.noise_floor();
        // Without a penalty H may be singular: dividing rounding by 0 must end CG.
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
            |minimizer: &mut Minimizer<S>, d: &Point<T>, scratch: &mut [T], q: &mut Gradient| {
                minimizer.hessian(d, scratch, q);
            };
        self.solve_by(minimizer, until, most, product)
    }

    /// Corrects the direction `d` (logits and bias), by least squares, so that it does not change
    /// the `tied` margins. The correction is the smallest in the norm of M.
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
            |minimizer: &mut Minimizer<S>, d: &Point<T>, scratch: &mut [T], q: &mut Gradient| {
                risk.tied_gradient(tied, (&d.z, &d.b), scratch, &mut q.b);
                minimizer.problem.adjoint(scratch, &mut q.w);
            };
        self.solve_by(minimizer, Until::Share(1e-10), squares, product);
        axpby(1.0, &self.p.z, 1.0, d);
        axpby(1.0, &self.p.b, 1.0, d_bias);
    }

    /// Solves `H p = r` with H given by `product`. Returns the gain `rᵀ H⁻¹ r / 2`, or `None` if
    /// `until` was not reached. CG also ends before the gain exceeds `most`, because then it
    /// divides rounding by an eigenvalue near 0.
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
        // The longest step: estimates the inverse of the least eigenvalue of M⁻¹ H.
        let mut longest: f64 = 0.0;
        self.d.axpby(1.0, &self.solved, 0.0);
        for _ in 0..MAX_CG {
            if rho == 0.0 {
                // The residual is 0, or the preconditioner underflows.
                return (first > 0.0 || minimizer.gradient_norm == 0.0).then_some(gain);
            }
            minimizer.multiply_out(&mut self.d);
            product(minimizer, &self.d, &mut self.scratch, &mut self.q);
            let curvature = minimizer.along(&self.q, &self.d);
            let alpha = rho / curvature;
            // A negative value, also of the preconditioner, is rounding.
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
