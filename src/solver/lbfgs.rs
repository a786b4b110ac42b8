//! Limited-memory BFGS (Liu and Nocedal 1989; two-loop recursion: Nocedal and Wright,
//! Numerical Optimization, algorithm 7.4), whose first matrix is the preconditioner's inverse
//! instead of a multiple of the unit matrix.

use std::collections::VecDeque;

use crate::comm::rows::RowShard;
use crate::error::Result;
use crate::io::checkpoint::StateDict;
use crate::linalg::vec::Real;
use crate::solver::minimizer::{DirectionRule, Minimizer};
use crate::solver::point::{Gradient, Point};
use crate::solver::problem::Problem;

/// Number of stored pairs: with nearly exact line searches, more of them save no step.
const MEMORY: usize = 5;
/// Number of steps after which preconditioner and logits are recomputed.
const RECOMPUTE_EVERY: usize = 12;

/// A step s and the change y of the gradient.
struct Pair<T> {
    s: Point<T>,
    y: Gradient,
    /// 1/⟨s, y⟩; 0 if the pair is unused.
    rho: f64,
}

/// The L-BFGS rule.
pub(crate) struct Lbfgs<T> {
    /// Unused pairs, then the others from the oldest on.
    pairs: VecDeque<Pair<T>>,
    direction: Point<T>,
    q: Gradient,
}

impl<T: Real> Lbfgs<T> {
    /// The rule before the first step.
    pub fn new<S: Problem<Real = T>>(minimizer: &Minimizer<S>) -> Self {
        let c = minimizer.risk.outputs();
        let pair = || Pair {
            s: minimizer.problem.zero_solution(c),
            y: minimizer.problem.zero_gradient(c),
            rho: 0.0,
        };
        Lbfgs {
            pairs: (0..MEMORY).map(|_| pair()).collect(),
            direction: minimizer.problem.origin(c),
            q: minimizer.gradient.clone(),
        }
    }
}

impl<S: Problem> DirectionRule<S> for Lbfgs<S::Real> {
    const MAX_BELOW_NOISE: usize = 60;

    fn step(&mut self, minimizer: &mut Minimizer<S>) -> Result<bool> {
        let Lbfgs {
            pairs,
            direction,
            q,
        } = self;
        if minimizer.iteration.is_multiple_of(RECOMPUTE_EVERY) {
            // Before a step, not after it: y must not contain the accumulated rounding.
            if minimizer.updates_since_recompute > 0 {
                minimizer.recompute();
            }
            minimizer.factor();
        }
        q.axpby(-1.0, &minimizer.gradient, 0.0);
        let unused = pairs.iter().take_while(|pair| pair.rho == 0.0).count();
        let alphas: Vec<f64> = (pairs.iter().skip(unused).rev())
            .map(|pair| {
                let alpha = pair.rho * minimizer.along(q, &pair.s);
                q.axpby(-alpha, &pair.y, 1.0);
                alpha
            })
            .collect();
        minimizer.precondition(q, direction);
        for (pair, alpha) in pairs.iter().skip(unused).zip(alphas.iter().rev()) {
            let beta = pair.rho * minimizer.along(&pair.y, direction);
            direction.axpby(alpha - beta, &pair.s, 1.0);
        }
        // Pairs may be nearly parallel: then their coordinates cancel, more from step to step, and
        // the logits that they carry are rounding.
        if minimizer.shorten(direction)? {
            minimizer.multiply_out_anew(direction)
        } else {
            minimizer.multiply_out(direction)
        }

        let mut pair = pairs.pop_front().expect("MEMORY of them");
        pair.y.axpby(-1.0, &minimizer.gradient, 0.0);
        let moved = minimizer.line_search_step(direction);
        minimizer.evaluate();
        pair.s.axpby(moved.unwrap_or(0.0), direction, 0.0);
        pair.y.axpby(1.0, &minimizer.gradient, 1.0);
        let curvature = minimizer.along(&pair.y, &pair.s);
        if curvature > 0.0 {
            pair.rho = 1.0 / curvature;
            pairs.push_back(pair);
        } else {
            pair.rho = 0.0;
            pairs.push_front(pair);
        }
        Ok(moved.is_some())
    }

    fn fields<'a>(&'a mut self, ranks: Option<RowShard<'a>>, fields: &mut StateDict<'a>) {
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            fields.group(format!("search.pair.{i}.s."));
            pair.s.fields(ranks, fields);
            fields.group(format!("search.pair.{i}.y."));
            pair.y.fields(fields);
            fields.f64("rho", std::slice::from_mut(&mut pair.rho));
        }
    }
}
