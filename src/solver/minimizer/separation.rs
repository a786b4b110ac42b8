//! The end without a penalty: a minimum, or classes that are separated.
//!
//! The Newton decrement takes the gap's place. Where the classes are quasi-separable (Albert and
//! Anderson 1984, "On the existence of maximum likelihood estimates in logistic regression
//! models") steps go on along a direction that shrinks no margin and grows some; such a direction
//! is looked for near the last steps and the Newton step.

use crate::linalg::vec::Real;
use crate::loss::risk::{MarginChanges, Risk};
use crate::solver::cg::NewtonDirection;
use crate::solver::minimizer::Minimizer;
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::report::{Status, StoppingCriteria};

/// A change of margins by steps that does not die out: along a direction without a minimum
/// Newton's steps change them by 1, as the loss falls like e⁻ᵗ.
pub(crate) const RUNNING: f64 = 0.1;
/// The share of the decrement allowed that is surely small enough: where margins change by less
/// than [`RUNNING`] the loss is its quadratic model to about e⁰·¹.
pub(crate) const SURE: f64 = 0.8;
/// A share of the largest change of margins that may be none: the others of such a direction.
pub(crate) const NEARLY_TIED: f64 = 0.05;
/// A share of the largest change of margins that counts as none.
const TIED: f64 = 1e-6;

/// Half the square of the Newton decrement of the loss, without a penalty, at some logits (c x n,
/// the bias included): what the quadratic model there promises to be left to gain.
pub(crate) fn decrement<S: Problem>(
    problem: &mut S,
    risk: &Risk,
    logits: &[f64],
    stop: StoppingCriteria,
) -> Option<f64> {
    let start = Point::zero(problem, risk.outputs());
    let mut minimizer = Minimizer::new(problem, risk, 0.0, start, stop);
    let values = minimizer.point.z.iter_mut().zip(logits);
    values.for_each(|(z, &logit)| *z = S::Real::of(logit));
    minimizer.evaluate();
    minimizer.factor();
    NewtonDirection::new(&minimizer).decrement(&mut minimizer)
}

impl<S: Problem> Minimizer<'_, S> {
    /// Where there is no penalty and the gradient is small, or rounding: whether that is a
    /// minimum, or none exists. `None` if the Newton direction, which is then to be followed,
    /// still leads on.
    pub(super) fn without_penalty(
        &mut self,
        direction: &mut NewtonDirection<S::Real>,
        stalled: bool,
    ) -> Option<Status> {
        if self.updates_since_recompute > 0 {
            self.recompute();
        }
        self.factor();
        self.decrement = direction.decrement(self);
        if !self.last_moves.1.is_empty() {
            let next = (direction.p.z.clone(), direction.p.b.clone());
            let (mut running, mut overwritten) = (false, false);
            for way in [self.last_moves.clone(), next] {
                let moved = self.risk.margin_changes(&way.0, &way.1);
                if moved.largest < RUNNING {
                    continue;
                }
                running = true;
                overwritten = true;
                self.separated_class = self.runs_away(direction, way, moved);
                if self.separated_class.is_some() {
                    return Some(Status::QuasiSeparable);
                }
            }
            // Steps become small where there is a minimum, unless they do already.
            if overwritten {
                direction.decrement(self);
            }
            if running && self.decrement.is_none_or(|left| left > self.noise_floor()) {
                return self.limit(stalled);
            }
        }
        let allowed = SURE * self.stop.largest_gap(self.objective);
        let small = self.decrement.is_some_and(|left| left <= allowed);
        if small && (self.is_small() || stalled) {
            Some(Status::Converged)
        } else {
            self.limit(stalled)
        }
    }

    /// The class whose samples are separated furthest along a way, if there is a direction near
    /// it along which no margin shrinks and some grow: margins that nearly stay are made to stay,
    /// by least squares, and all are looked at again.
    fn runs_away(
        &mut self,
        room: &mut NewtonDirection<S::Real>,
        (mut z, mut b): (Vec<S::Real>, Vec<f64>),
        moved: MarginChanges,
    ) -> Option<u32> {
        let nearly = NEARLY_TIED * moved.largest;
        if moved.smallest < -nearly {
            return None;
        }
        let tied = self.risk.tied(&z, &b, nearly);
        room.fix_ties(self, (&mut z, &mut b), &tied);
        let fixed = self.risk.margin_changes(&z, &b);
        let rounding = TIED.max(10.0 * self.problem.noise()) * fixed.largest;
        // A direction of which the ties leave little was none.
        if fixed.largest < 0.5 * moved.largest || fixed.smallest < -rounding {
            return None;
        }
        self.risk.furthest_class(&fixed)
    }
}
