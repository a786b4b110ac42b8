//! Newton's method: each step solves `∇²F p = -∇F` by preconditioned conjugate gradients, as
//! far as pays, and goes along p.

use crate::error::Result;
use crate::io::checkpoint::StateDict;
use crate::linalg::vec::Real;
use crate::solver::cg::NewtonDirection;
use crate::solver::minimizer::{DirectionRule, Minimizer};
use crate::solver::problem::Problem;

/// Steps for which logits are moved with the point, not multiplied out, while slopes tell.
const RECOMPUTE_EVERY: usize = 8;
/// The largest share of the gradient that a solution may leave.
const ETA_MAX: f64 = 0.25;

/// Newton's method: the step before, and the direction to go.
pub(crate) struct NewtonCg<T> {
    /// The share of the gradient that the last step was to leave, and its norm before.
    asked: f64,
    before: f64,
    direction: NewtonDirection<T>,
}

impl<S: Problem> DirectionRule<S> for NewtonCg<S::Real> {
    /// A step promises to leave a quarter at most.
    const MAX_BELOW_NOISE: usize = 4;

    fn step(&mut self, minimizer: &mut Minimizer<S>) -> Result<bool> {
        minimizer.factor();
        let share = self.forcing_term(minimizer);
        self.direction.solve(minimizer, share);
        let moved = minimizer.line_search_step(&self.direction.p).is_some();
        if minimizer.updates_since_recompute < RECOMPUTE_EVERY && !minimizer.is_below_noise() {
            minimizer.evaluate()
        } else {
            minimizer.recompute()
        }
        Ok(moved)
    }

    /// The rest is made anew in every step.
    fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>) {
        fields.f64("asked", std::slice::from_mut(&mut self.asked));
        fields.f64("before", std::slice::from_mut(&mut self.before));
    }
}

impl<T: Real> NewtonCg<T> {
    /// Before the first step.
    pub fn new<S: Problem<Real = T>>(minimizer: &Minimizer<S>) -> Self {
        NewtonCg {
            asked: 0.0,
            before: minimizer.gradient_norm,
            direction: NewtonDirection::new(minimizer),
        }
    }

    /// The share of the gradient that a step may leave: √(|∇F|/|∇F at 0|), which makes steps
    /// superlinear (Eisenstat and Walker 1996), but no less than the stop asks for; and just
    /// that where it can be had in one step, as the gradient falls with its square and the last
    /// step kept its promise (residuals are measured by the preconditioner, not as gradients).
    fn forcing_term<S: Problem<Real = T>>(&mut self, minimizer: &Minimizer<S>) -> f64 {
        let (share, needed) = (minimizer.share(), 0.5 * minimizer.needed());
        let kept = minimizer.gradient_norm <= 2.0 * self.asked * self.before;
        self.before = minimizer.gradient_norm;
        self.asked = if kept && needed >= share {
            needed.min(share.sqrt())
        } else {
            share.sqrt().max(0.2 * needed)
        };
        self.asked = self.asked.min(ETA_MAX);
        self.asked
    }
}
