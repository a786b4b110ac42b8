//! Newton-CG: each step solves `∇²F p = -∇F` inexactly by preconditioned conjugate gradients and
//! searches the line along p.

use crate::comm::rows::RowShard;
use crate::error::Result;
use crate::io::checkpoint::StateDict;
use crate::linalg::vec::Real;
use crate::solver::cg::NewtonDirection;
use crate::solver::minimizer::{DirectionRule, Minimizer};
use crate::solver::problem::Problem;

/// Number of steps after which logits are recomputed from the weight; below the noise floor they
/// are in every step.
const RECOMPUTE_EVERY: usize = 8;
/// Largest forcing term.
const ETA_MAX: f64 = 0.25;

/// The Newton-CG rule.
pub(crate) struct NewtonCg<T> {
    /// Forcing term of the last step, and |∇F| before it.
    asked: f64,
    before: f64,
    direction: NewtonDirection<T>,
}

impl<S: Problem> DirectionRule<S> for NewtonCg<S::Real> {
    /// Small, because a step should reduce the gradient to a quarter.
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

    /// The direction is recomputed in every step.
    fn fields<'a>(&'a mut self, _: Option<RowShard<'a>>, fields: &mut StateDict<'a>) {
        fields.f64("asked", std::slice::from_mut(&mut self.asked));
        fields.f64("before", std::slice::from_mut(&mut self.before));
    }
}

impl<T: Real> NewtonCg<T> {
    /// The rule before the first step.
    pub fn new<S: Problem<Real = T>>(minimizer: &Minimizer<S>) -> Self {
        NewtonCg {
            asked: 0.0,
            before: minimizer.gradient_norm,
            direction: NewtonDirection::new(minimizer),
        }
    }

    /// The forcing term √(|∇F|/|∇F(0)|), which makes convergence superlinear (Eisenstat and Walker
    /// 1996), but not below what the stopping test requires. If the last step reduced the gradient
    /// as its forcing term predicted and one quadratic step can reach the threshold, the forcing
    /// term is just that of the threshold.
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
