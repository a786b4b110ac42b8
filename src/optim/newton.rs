//! Newton's method: each step solves `∇²F p = -∇F` by preconditioned conjugate gradients, as
//! far as pays (Dembo and Steihaug 1983; Nocedal and Wright, Numerical Optimization, ch. 7),
//! and goes along p.

use super::descent::{Descent, Method, Outcome, Point, Slope, Stop, Watch};
use crate::checkpoint::Fields;
use crate::engine::{Real, Space};
use crate::error::Result;
use crate::likelihood::Likelihood;

/// Steps for which logits are moved with the point, not multiplied out.
const KEEP: usize = 8;
/// Most steps of conjugate gradients.
const MOST: usize = 500;
/// The largest share of the gradient that a solution may leave.
const LEAVE: f64 = 0.25;

/// Go to the optimum from a point.
///
/// # Errors
/// Those of `watch`, which break the search off.
pub fn newton<S: Space>(
    space: &mut S,
    likelihood: &Likelihood,
    l2: f64,
    start: Point<S::Real>,
    stop: Stop,
    watch: &mut impl Watch<Point<S::Real>>,
) -> Result<(Point<S::Real>, Outcome)> {
    let c = likelihood.outputs();
    let descent = Descent::new(space, likelihood, l2, start, stop);
    let work = Work {
        asked: 0.0,
        before: descent.gradient_norm,
        p: Point::zero(descent.space, c),
        d: Point::zero(descent.space, c),
        solved: Point::of_solutions(descent.space, c),
        r: descent.gradient.clone(),
        q: descent.gradient.clone(),
        room: descent.at.g.clone(),
    };
    descent.run(work, watch)
}

/// The step before, and room that the solutions use.
struct Work<T> {
    /// The share of the gradient that the last step was to leave, and its norm before.
    asked: f64,
    before: f64,
    /// The direction to go.
    p: Point<T>,
    /// The direction of conjugate gradients.
    d: Point<T>,
    solved: Point<T>,
    r: Slope,
    q: Slope,
    room: Vec<T>,
}

impl<S: Space> Method<S> for Work<S::Real> {
    /// A step promises to leave a quarter at most.
    const BLIND: usize = 4;

    fn step(&mut self, descent: &mut Descent<S>) -> bool {
        self.solve(descent);
        let moved = descent.go(&self.p).is_some();
        match descent.moves < KEEP {
            true => descent.evaluate(),
            false => descent.refresh(),
        }
        moved
    }

    /// The rest is made anew in every step.
    fn fields<'a>(&'a mut self, fields: &mut Fields<'a>) {
        fields.f64("asked", std::slice::from_mut(&mut self.asked));
        fields.f64("before", std::slice::from_mut(&mut self.before));
    }
}

impl<T: Real> Work<T> {
    /// The share of the gradient that a step may leave: √(|∇F|/|∇F at 0|), which makes steps
    /// superlinear (Eisenstat and Walker 1996), but no less than the stop asks for; and just
    /// that where it can be had in one step, as the gradient falls with its square and the last
    /// step kept its promise (residuals are measured by the preconditioner, not as gradients).
    fn ask<S: Space<Real = T>>(&mut self, descent: &Descent<S>) -> f64 {
        let (share, needed) = (descent.share(), 0.5 * descent.needed());
        let kept = descent.gradient_norm <= 2.0 * self.asked * self.before;
        self.before = descent.gradient_norm;
        self.asked = match kept && needed >= share {
            true => needed.min(share.sqrt()),
            false => share.sqrt().max(0.2 * needed),
        };
        self.asked = self.asked.min(LEAVE);
        self.asked
    }

    /// `∇²F p = -∇F`, so far as pays.
    fn solve<S: Space<Real = T>>(&mut self, descent: &mut Descent<S>) {
        descent.factor();
        let share = self.ask(descent);
        self.r.axpby(-1.0, &descent.gradient, 0.0);
        self.p.axpby(0.0, &self.d, 0.0);
        descent.precondition(&self.r, &mut self.solved);
        let mut rho = descent.along(&self.r, &self.solved);
        let first = rho;
        self.d.axpby(1.0, &self.solved, 0.0);
        for _ in 0..MOST {
            descent.multiply_out(&mut self.d);
            descent.hessian(&self.d, &mut self.room, &mut self.q);
            let curvature = descent.along(&self.q, &self.d);
            if curvature.is_nan() || curvature <= 0.0 || rho <= 0.0 {
                break;
            }
            let alpha = rho / curvature;
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
    }
}
