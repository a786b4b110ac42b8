//! `Minimizer`: the state that all solvers share, with the gradient, the line search and the
//! stopping tests.
//!
//! ```text
//! F(W, b) = Σ sᵢ lossᵢ(Z) + (l2/2) |W|²,     Z = Xc Wᵀ + 1 bᵀ,     b free
//! ```

mod run;
pub(crate) mod separation;
mod state;
#[cfg(test)]
mod tests;

use crate::comm::rows::RowShard;
use crate::error::Result;
use crate::io::checkpoint;
use crate::io::checkpoint::StateDict;
use crate::linalg::vec::axpby;
use crate::loss::risk::{Eval, Risk};
use crate::solver::bias;
use crate::solver::line_search::{LinePoint, line_search};
use crate::solver::point::{Gradient, Point, center_outputs, inner};
use crate::solver::problem::Problem;
use crate::solver::report::{
    GAP, MeasuredOn, Products, SolveReport, Status, Step, StoppingCriteria,
};

/// The rule by which a solver chooses its steps.
pub(crate) trait DirectionRule<S: Problem> {
    /// Number of steps below the noise floor, without halving the gradient, that end the solve.
    const MAX_BELOW_NOISE: usize;

    /// Makes one step and evaluates objective and gradient at its end. Returns whether the line
    /// search found a step.
    ///
    /// # Errors
    /// Those of the problem.
    fn step(&mut self, minimizer: &mut Minimizer<S>) -> Result<bool>;

    /// Adds the rule's own state to a checkpoint; `ranks` may share the rows.
    fn fields<'a>(&'a mut self, ranks: Option<RowShard<'a>>, fields: &mut StateDict<'a>);
}

/// Observes a solve; `P` is the type of its point.
pub trait Watch<P> {
    /// Called before the first step. Returns whether it restored the state of an earlier solve.
    fn begin(&mut self, state: &mut impl checkpoint::State<P>) -> Result<bool>;

    /// Called at every point, the start included; `state` is `None` if the solve ends there. An
    /// error ends the solve.
    fn at(&mut self, step: Step, state: Option<&mut impl checkpoint::State<P>>) -> Result<()>;
}

/// The state of a solve.
pub(crate) struct Minimizer<'a, S: Problem> {
    pub problem: &'a mut S,
    pub risk: &'a Risk<'a>,
    pub l2: f64,
    pub point: Point<S::Real>,
    /// The risk at the point.
    pub at: Eval<S::Real>,
    pub gradient: Gradient,
    pub gradient_norm: f64,
    pub objective: f64,
    pub products: Products,
    /// Steps so far.
    pub iteration: usize,
    stop: StoppingCriteria,
    initial_norm: f64,
    /// The curvatures of the rows and of the bias that were factored last.
    factored: Vec<f64>,
    factored_bias: Vec<f64>,
    /// |W|².
    square: f64,
    /// The smallest gradient norm so far, and steps since it was last halved.
    best: (f64, usize),
    /// Number of updates of the point's logits since they were last computed from the weight.
    pub updates_since_recompute: usize,
    /// Number of consecutive steps with a predicted decrease below the noise floor.
    below_noise: usize,
    /// The best point so far.
    lowest: Lowest,
    /// Products up to the end of the last step.
    saved_products: Products,
    /// See [`SolveReport`].
    decrement: Option<f64>,
    separated_class: Option<u32>,
    /// Sum of the last changes of logits and bias, each weighted half of the next; empty with a
    /// penalty.
    last_moves: (Vec<S::Real>, Vec<f64>),
}

/// The point with the lowest objective; among those equal within rounding, the one with the
/// smallest gradient.
struct Lowest {
    at: Gradient,
    objective: f64,
    gradient_norm: f64,
}

/// Number of steps without halving the gradient that end a solve whose gradient is at the noise
/// floor.
const PATIENCE: usize = 12;
/// Smallest predicted decrease for which a line is searched, relative to the objective. On a line
/// only sums in f64 round, independently of the precision of the products.
const MIN_REL_DECREASE: f64 = 1e-13;
/// Margin of all samples above which the classes count as separated; rounding is far smaller.
const SEPARATED: f64 = 1.0;
impl<'a, S: Problem> Minimizer<'a, S> {
    /// A solve from `start`, or from the origin if the objective is lower there.
    pub fn new(
        problem: &'a mut S,
        risk: &'a Risk<'a>,
        l2: f64,
        start: Point<S::Real>,
        stop: StoppingCriteria,
    ) -> Self {
        let c = risk.outputs();
        let rows = problem.rows();
        let origin = problem.origin(c);
        let at_start_of_all = start.w.iter().chain(&start.b).all(|&value| value == 0.0);
        let mut minimizer = Minimizer {
            at: Eval::new(c, rows),
            gradient: problem.zero_gradient(c),
            point: origin,
            problem,
            risk,
            l2,
            gradient_norm: f64::INFINITY,
            objective: f64::INFINITY,
            products: Products::default(),
            iteration: 0,
            stop,
            initial_norm: 0.0,
            factored: vec![0.0; rows],
            factored_bias: vec![0.0; c],
            square: 0.0,
            best: (f64::INFINITY, 0),
            updates_since_recompute: 0,
            below_noise: 0,
            lowest: Lowest {
                at: Gradient::default(),
                objective: f64::INFINITY,
                gradient_norm: f64::INFINITY,
            },
            saved_products: Products::default(),
            decrement: None,
            separated_class: None,
            last_moves: (Vec::new(), Vec::new()),
        };
        if l2 == 0.0 && risk.is_one_hot() {
            minimizer.last_moves = (minimizer.point.z.clone(), vec![0.0; c]);
        }
        minimizer.lowest.at = minimizer.gradient_like();
        minimizer.evaluate();
        minimizer.initial_norm = minimizer.gradient_norm;
        if !at_start_of_all {
            let at_origin = minimizer.objective;
            minimizer.point = start;
            minimizer.recompute();
            // NaN is not better.
            let is_better = minimizer.objective <= at_origin;
            if !is_better {
                minimizer.point = minimizer.problem.origin(c);
                minimizer.evaluate();
            }
        }
        minimizer.best = (minimizer.gradient_norm, 0);
        minimizer
    }

    fn gradient_like(&self) -> Gradient {
        self.problem.zero_gradient(self.risk.outputs())
    }

    /// Whether the point is better than the best one so far.
    fn is_lowest(&self) -> bool {
        let Lowest {
            objective,
            gradient_norm,
            ..
        } = self.lowest;
        let noise = self.noise_floor();
        if (self.objective - objective).abs() <= noise {
            self.gradient_norm < gradient_norm
        } else {
            self.objective < objective
        }
    }

    fn keep_lowest(&mut self) {
        if self.is_lowest() {
            self.lowest.at.w.copy_from_slice(&self.point.w);
            self.lowest.at.b.copy_from_slice(&self.point.b);
            self.lowest.objective = self.objective;
            self.lowest.gradient_norm = self.gradient_norm;
        }
    }

    /// Returns to the best point, if it is another.
    fn restore_lowest(&mut self) {
        if !self.is_lowest() && self.gradient_norm != self.lowest.gradient_norm {
            self.point.w.copy_from_slice(&self.lowest.at.w);
            self.point.b.copy_from_slice(&self.lowest.at.b);
            self.recompute();
        }
    }

    fn limit(&self, stalled: bool) -> Option<Status> {
        if stalled {
            return Some(Status::PrecisionLimited);
        }
        (self.iteration >= self.stop.iterations).then_some(Status::IterationLimit)
    }

    /// Recomputes what a checkpoint does not store.
    fn restore(&mut self) {
        self.evaluate();
        if self.iteration > 0 {
            self.problem.factor(&self.factored, self.l2);
        }
        self.products = self.saved_products;
    }

    /// The inner product of a gradient and a point.
    pub fn along(&self, slope: &Gradient, point: &Point<S::Real>) -> f64 {
        self.problem.dot(&slope.w, &point.w, &point.z) + inner(&slope.b, &point.b)
    }

    /// Evaluates objective and gradient at the point.
    pub fn evaluate(&mut self) {
        let Point { w, b, z } = &self.point;
        self.risk.evaluate(z, b, &mut self.at);
        self.square = self.problem.dot(w, w, z);
        if self.square < 0.0 && self.updates_since_recompute > 0 {
            // The updated logits have drifted from those of the weight.
            return self.recompute();
        }
        self.objective = self.at.loss + 0.5 * self.l2 * self.square;
        self.problem.adjoint(&self.at.g, &mut self.gradient.w);
        self.products.pullbacks += 1;
        self.gradient.b.copy_from_slice(&self.at.bias);
        center_outputs(&mut self.gradient);
        axpby(self.l2, w, 1.0, &mut self.gradient.w);
        let bias = inner(&self.gradient.b, &self.gradient.b);
        self.gradient_norm = (self.problem.square(&self.gradient.w) + bias).sqrt();
    }

    /// Recomputes the point's logits from its weight, because updates accumulate rounding, and
    /// evaluates.
    pub fn recompute(&mut self) {
        self.problem.logits(&self.point.w, &mut self.point.z);
        self.products.logits += 1;
        self.updates_since_recompute = 0;
        self.evaluate();
    }

    /// Whether the predicted decrease of the last step was below the noise floor.
    pub fn is_below_noise(&self) -> bool {
        self.below_noise > 0
    }

    /// |∇F| as a share of that at the origin.
    pub fn share(&self) -> f64 {
        self.gradient_norm / self.initial_norm
    }

    /// The gradient threshold divided by |∇F|.
    pub fn needed(&self) -> f64 {
        self.threshold() / self.gradient_norm
    }

    /// Factors the preconditioner with the curvatures at the point.
    pub fn factor(&mut self) {
        self.factored.copy_from_slice(&self.at.curvatures);
        (self.factored_bias).copy_from_slice(&self.at.bias_curvatures);
        self.problem.factor(&self.at.curvatures, self.l2);
    }

    /// Computes the logits of a direction, unless it carries them.
    pub fn multiply_out(&mut self, direction: &mut Point<S::Real>) {
        if !self.problem.solves_logits() {
            self.multiply_out_anew(direction);
        }
    }

    /// Replaces a direction's coordinates by those of minimum norm, if they cancel. Returns whether
    /// it did.
    ///
    /// # Errors
    /// Those of the problem.
    pub fn shorten(&mut self, direction: &mut Point<S::Real>) -> Result<bool> {
        self.problem.shorten(&mut direction.w, &direction.z)
    }

    /// Computes the logits of a direction, even if it carries them.
    pub fn multiply_out_anew(&mut self, direction: &mut Point<S::Real>) {
        (self.problem).logits_of_direction(&direction.w, &mut direction.z);
        self.products.logits += 1;
    }

    /// `to = M⁻¹ r`.
    pub fn precondition(&mut self, r: &Gradient, to: &mut Point<S::Real>) {
        self.problem.solve(&r.w, &mut to.w, &mut to.z);
        self.products.solves += 1;
        let total: f64 = self.factored_bias.iter().sum();
        for ((to, r), curvature) in to.b.iter_mut().zip(&r.b).zip(&self.factored_bias) {
            *to = r / curvature.max(1e-6 * total).max(f64::MIN_POSITIVE);
        }
    }

    /// `q = ∇²F · d`.
    pub fn hessian(&mut self, d: &Point<S::Real>, scratch: &mut [S::Real], q: &mut Gradient) {
        (self.risk).hessian(&self.at, &d.z, &d.b, scratch, &mut q.b);
        self.problem.adjoint(scratch, &mut q.w);
        self.products.pullbacks += 1;
        center_outputs(q);
        axpby(self.l2, &d.w, 1.0, &mut q.w);
    }

    /// Line search. Returns the step length, or `None` if `direction` is no descent direction. The
    /// caller then evaluates objective and gradient.
    pub fn line_search_step(&mut self, direction: &Point<S::Real>) -> Option<f64> {
        let slope = self.along(&self.gradient, direction);
        let square = self.problem.dot(&direction.w, &direction.w, &direction.z);
        // ⟨W, direction⟩.
        let w_along = (self.problem).dot(&self.point.w, &direction.w, &direction.z);
        if slope.is_nan() || slope >= 0.0 {
            return None;
        }
        let start = LinePoint {
            t: 0.0,
            objective: self.objective,
            slope,
        };
        let at = |t: f64| {
            let point = (&self.point.z[..], &self.point.b[..]);
            let (loss, slope) = (self.risk).along(point, (&direction.z, &direction.b), t);
            let penalty = self.square + t * (2.0 * w_along + t * square);
            LinePoint {
                t,
                objective: loss + 0.5 * self.l2 * penalty,
                slope: slope + self.l2 * (w_along + t * square),
            }
        };
        let t = if -slope > MIN_REL_DECREASE * self.objective.abs() {
            line_search(start, at)?
        } else {
            1.0
        };
        self.point.axpby(t, direction, 1.0);
        if !self.last_moves.1.is_empty() {
            axpby(t, &direction.z, 0.5, &mut self.last_moves.0);
            axpby(t, &direction.b, 0.5, &mut self.last_moves.1);
        }
        self.updates_since_recompute += 1;
        self.below_noise = if -slope < self.noise_floor() {
            self.below_noise + 1
        } else {
            0
        };
        Some(t)
    }

    /// The largest |∇F| of a converged fit: tol·|∇F(0)|, and with a penalty small enough for the
    /// gap too, because with a weak penalty a small relative gradient does not bound the gap.
    fn threshold(&self) -> f64 {
        let StoppingCriteria { tolerance, .. } = self.stop;
        let of_start = tolerance * self.initial_norm;
        if self.l2 > 0.0 {
            of_start.min((2.0 * self.l2 * GAP * tolerance * self.objective.abs()).sqrt())
        } else {
            of_start
        }
    }

    fn is_small(&self) -> bool {
        self.gradient_norm <= self.threshold()
    }

    /// The status if the solve ends at this point. `moved` is false if the last line search found
    /// no step; `below_noise` is [`DirectionRule::MAX_BELOW_NOISE`].
    fn ended(&self, moved: bool, below_noise: usize) -> Option<Status> {
        if self.l2 == 0.0 && self.risk.is_one_hot() && self.at.smallest_margin > SEPARATED {
            Some(Status::Separable)
        } else if self.is_small() {
            Some(Status::Converged)
        } else {
            self.limit(self.stalled(moved, below_noise))
        }
    }

    /// Whether rounding prevents further progress.
    fn stalled(&self, moved: bool, below_noise: usize) -> bool {
        let flat = self.gradient_norm * self.gradient_norm
            <= self.noise_floor() * self.l2.max(f64::MIN_POSITIVE);
        !moved
            || flat && self.best.1 >= PATIENCE
            || self.best.1.min(self.below_noise) >= below_noise
    }

    /// Recomputes the logits and, with a penalty, minimises over the bias, which the gap requires.
    /// Returns the decrease of F that the bias still leaves; `None` without a penalty.
    fn polish(&mut self) -> Option<f64> {
        if self.updates_since_recompute > 0 {
            self.recompute();
        }
        (self.l2 > 0.0).then(|| {
            let noise = self.noise_floor();
            let Point { b, z, .. } = &mut self.point;
            let left = bias::minimize(self.risk, z, b, &mut self.at, noise);
            self.evaluate();
            left
        })
    }

    /// The final point and its report; `left` is the result of [`Minimizer::polish`], if it was
    /// called.
    fn finish(mut self, mut status: Status, left: Option<f64>) -> (Point<S::Real>, SolveReport) {
        let cut_short = matches!(status, Status::PrecisionLimited | Status::IterationLimit);
        if cut_short {
            self.restore_lowest();
        }
        let left = match status {
            Status::Converged => left,
            _ => self.polish(),
        };
        let gap = left.and_then(|left| {
            let bias = inner(&self.gradient.b, &self.gradient.b);
            let of_weight = (self.gradient_norm.powi(2) - bias).max(0.0);
            (left <= self.noise_floor()).then_some(of_weight / (2.0 * self.l2))
        });
        if cut_short && self.l2 > 0.0 {
            // A gradient that consists of rounding counts as small.
            let rounding = self
                .noise_floor()
                .min(self.stop.largest_gap(self.objective));
            let is_rounding = status == Status::PrecisionLimited;
            if self.is_small() || is_rounding && gap.is_some_and(|gap| gap <= rounding) {
                status = Status::Converged;
            }
        }
        let report = SolveReport {
            status,
            measured_on: MeasuredOn::Coordinates,
            objective: self.objective,
            loss: self.at.loss,
            gradient_norm: self.gradient_norm,
            initial_gradient_norm: self.initial_norm,
            gap,
            decrement: self.decrement.filter(|_| self.l2 == 0.0),
            separated_class: self.separated_class,
            iterations: self.iteration,
            products: self.products,
        };
        (self.point, report)
    }

    /// The rounding error of F.
    pub fn noise_floor(&self) -> f64 {
        self.problem.noise() * self.objective.abs()
    }
}
