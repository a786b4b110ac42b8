//! The iteration of a solve: test, report, step.

use crate::error::Result;
use crate::solver::cg::NewtonDirection;
use crate::solver::minimizer::state::SolverState;
use crate::solver::minimizer::{DirectionRule, Minimizer, Watch};
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::report::{SolveReport, Status, Step};

impl<S: Problem> Minimizer<'_, S> {
    /// Minimises F with the steps of `rule`. Returns the final point and its report.
    ///
    /// # Errors
    /// Those of `watch`.
    pub fn run<M: DirectionRule<S>>(
        mut self,
        mut rule: M,
        watch: &mut impl Watch<Point<S::Real>>,
    ) -> Result<(Point<S::Real>, SolveReport)> {
        let mut state = SolverState {
            minimizer: &mut self,
            rule: &mut rule,
        };
        if watch.begin(&mut state)? {
            self.restore();
        }
        let mut moved = true;
        let mut newton = None;
        loop {
            self.saved_products = self.products;
            self.keep_lowest();
            let mut ended = self.ended(moved, M::MAX_BELOW_NOISE);
            let (mut left, mut follow) = (None, false);
            match ended {
                Some(Status::Converged) if self.l2 > 0.0 => {
                    left = self.polish();
                    // A resumed fit does not polish again.
                    self.saved_products = self.products;
                    ended = self.ended(moved, M::MAX_BELOW_NOISE);
                }
                Some(Status::Converged | Status::PrecisionLimited) if self.l2 == 0.0 => {
                    let stalled = self.stalled(moved, M::MAX_BELOW_NOISE);
                    let direction = newton.get_or_insert_with(|| NewtonDirection::new(&self));
                    ended = self.without_penalty(direction, stalled);
                    follow = ended.is_none();
                }
                _ => {}
            }
            let step = Step {
                iteration: self.iteration,
                objective: self.objective,
                gradient_norm: self.gradient_norm,
            };
            let mut state = SolverState {
                minimizer: &mut self,
                rule: &mut rule,
            };
            watch.at(step, ended.is_none().then_some(&mut state))?;
            if let Some(status) = ended {
                return Ok(self.finish(status, left));
            }
            moved = match &newton {
                Some(direction) if follow => {
                    let moved = self.line_search_step(&direction.p).is_some();
                    self.evaluate();
                    moved
                }
                _ => rule.step(&mut self)?,
            };
            self.iteration += 1;
            self.best = if self.gradient_norm <= 0.5 * self.best.0 {
                (self.gradient_norm, 0)
            } else {
                (self.best.0, self.best.1 + 1)
            };
        }
    }
}
