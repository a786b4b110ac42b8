//! The state of a solve in a checkpoint.

use crate::io::checkpoint::{self, StateDict};
use crate::solver::minimizer::{DirectionRule, Minimizer};
use crate::solver::point::Point;
use crate::solver::problem::Problem;

/// The state that a checkpoint stores. It excludes everything that can be computed from the
/// point.
pub(super) struct SolverState<'s, 'a, S: Problem, M> {
    pub minimizer: &'s mut Minimizer<'a, S>,
    pub rule: &'s mut M,
}

impl<S: Problem, M: DirectionRule<S>> checkpoint::State<Point<S::Real>>
    for SolverState<'_, '_, S, M>
{
    fn point(&self) -> &Point<S::Real> {
        &self.minimizer.point
    }

    fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>) {
        let Minimizer {
            point,
            last_moves,
            saved_products: products,
            iteration,
            factored,
            factored_bias,
            best,
            lowest,
            updates_since_recompute,
            below_noise,
            risk,
            ..
        } = &mut *self.minimizer;
        let ranks = risk.ranks();
        fields.group("search.lowest.");
        lowest.at.fields(fields);
        fields.f64("objective", std::slice::from_mut(&mut lowest.objective));
        fields.f64("norm", std::slice::from_mut(&mut lowest.gradient_norm));
        if !last_moves.1.is_empty() {
            fields.group("search.last_moves.");
            fields.f64("b", &mut last_moves.1);
            fields.of_rows("z", &mut last_moves.0, ranks);
        }
        fields.group("search.");
        point.fields(ranks, fields);
        fields.count("iteration", iteration);
        fields.f64("best_norm", std::slice::from_mut(&mut best.0));
        fields.count("since_best", &mut best.1);
        fields.count("moves", updates_since_recompute);
        fields.count("blind", below_noise);
        fields.of_rows("factored", factored, ranks);
        fields.f64("factored_bias", factored_bias);
        fields.count("logits", &mut products.logits);
        fields.count("pullbacks", &mut products.pullbacks);
        fields.count("solves", &mut products.solves);
        self.rule.fields(ranks, fields);
    }
}
