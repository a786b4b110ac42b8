//! The stopping test without a penalty: it distinguishes a minimum from separated classes.
//!
//! The Newton decrement takes the place of the gap. If the classes are quasi-separable (Albert and
//! Anderson 1984, "On the existence of maximum likelihood estimates in logistic regression
//! models"), steps continue along a direction that decreases no margin and increases some. The
//! test searches for one near the last steps and near the Newton step.

use crate::linalg::vec::Real;
use crate::loss::risk::{MarginChanges, Risk};
use crate::solver::cg::NewtonDirection;
use crate::solver::minimizer::Minimizer;
use crate::solver::problem::Problem;
use crate::solver::report::{Status, StoppingCriteria};

/// Change of a margin from which steps may diverge: along a direction without a minimum the loss
/// falls like e⁻ᵗ, and each Newton step changes margins by 1.
pub(crate) const RUNNING: f64 = 0.1;
/// Safety factor of the allowed decrement: if margins change by less than [`RUNNING`], the loss
/// agrees with its quadratic model up to a factor of about e⁰·¹.
pub(crate) const SURE: f64 = 0.8;
/// Share of the largest change below which a margin is a candidate for a tie.
pub(crate) const NEARLY_TIED: f64 = 0.05;
/// Share of the largest change of margins below which a change is rounding.
const TIED: f64 = 1e-6;

/// Half the square of the Newton decrement of the loss without a penalty, at `logits` (c x n, the
/// bias included): the decrease that the quadratic model predicts.
pub(crate) fn decrement<S: Problem>(
    problem: &mut S,
    risk: &Risk,
    logits: &[f64],
    stop: StoppingCriteria,
) -> Option<f64> {
    let start = problem.origin(risk.outputs());
    let mut minimizer = Minimizer::new(problem, risk, 0.0, start, stop);
    let values = minimizer.point.z.iter_mut().zip(logits);
    values.for_each(|(z, &logit)| *z = S::Real::of(logit));
    minimizer.evaluate();
    minimizer.factor();
    NewtonDirection::new(&minimizer).decrement(&mut minimizer)
}

impl<S: Problem> Minimizer<'_, S> {
    /// The status without a penalty, once the gradient is small or the solve stalled: a minimum,
    /// or none exists. `None`: the solve must continue along the Newton `direction`.
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
            // `runs_away` overwrote the Newton direction.
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

    /// The class whose samples are separated furthest, if a direction near (`z`, `b`) decreases no
    /// margin and increases some. Least squares make nearly constant margins constant; then all
    /// margins are tested again.
    fn runs_away(
        &mut self,
        scratch: &mut NewtonDirection<S::Real>,
        (mut z, mut b): (Vec<S::Real>, Vec<f64>),
        moved: MarginChanges,
    ) -> Option<u32> {
        let nearly = NEARLY_TIED * moved.largest;
        if moved.smallest < -nearly {
            return None;
        }
        let tied = self.risk.tied(&z, &b, nearly);
        scratch.fix_ties(self, (&mut z, &mut b), &tied);
        let fixed = self.risk.margin_changes(&z, &b);
        let rounding = TIED.max(10.0 * self.problem.noise()) * fixed.largest;
        // The ties must leave most of the direction.
        if fixed.largest < 0.5 * moved.largest || fixed.smallest < -rounding {
            return None;
        }
        self.risk.furthest_class(&fixed)
    }
}
