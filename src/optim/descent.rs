//! What optimizers of the penalised objective share: the point, its gradient, the line search
//! and the honest stop.
//!
//! ```text
//! F(W, b) = Σ sᵢ lossᵢ(Z) + (l2/2) |W|²,     Z = Xc Wᵀ + 1 bᵀ,     b free
//! ```

use crate::checkpoint::{self, Fields};
use crate::engine::{Real, Space, axpby_real as axpby};
use crate::error::Result;
use crate::likelihood::{At, Likelihood};

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// Gradient norm that is small enough, as a share of that at W = 0, b = 0; the certified
    /// gap must also be below 100 times this share of the objective.
    pub tolerance: f64,
    /// Most iterations.
    pub iterations: usize,
}

/// How a search for the optimum ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The gradient is as small as was asked for.
    Converged,
    /// Out of iterations.
    IterationLimit,
    /// Rounding allows no further progress.
    Stalled,
    /// The samples are told apart without error and nothing penalises larger weights: the
    /// loss falls to 0 along the weights found, and has no optimum.
    Separable,
}

/// The end of a search.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// F.
    pub objective: f64,
    /// The data's part of F.
    pub loss: f64,
    /// |∇F|.
    pub gradient_norm: f64,
    /// |∇F| at W = 0, b = 0.
    pub initial_gradient_norm: f64,
    /// F is above its minimum by no more than this: |∇_W F|²/(2 l2), where ∇_b F = 0 but for
    /// rounding (F is l2-strongly convex in W). `None` without a penalty, or where b
    /// still leaves more than rounding to gain.
    pub gap: Option<f64>,
    /// Steps.
    pub iterations: usize,
    /// Products.
    pub products: Products,
}

/// A step, as it is reported.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Step {
    /// Number, from 0: the start.
    pub iteration: usize,
    /// F.
    pub objective: f64,
    /// |∇F|.
    pub gradient_norm: f64,
}

/// Products with X, or with K in Gram coordinates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Products {
    /// Logits of a weight or direction; on the weights themselves two products for a weight.
    pub logits: usize,
    /// Weights of a gradient in the logits.
    pub pullbacks: usize,
    /// Solutions with the preconditioner.
    pub solves: usize,
}

/// A weight and bias with the weight's logits.
#[derive(Clone, Debug)]
pub struct Point<T> {
    /// Coordinates of W.
    pub w: Vec<f64>,
    /// b.
    pub b: Vec<f64>,
    /// `Xc Wᵀ`, transposed; empty where they are not kept.
    pub z: Vec<T>,
}

impl<T: Real> Point<T> {
    /// The origin.
    pub fn zero(space: &impl Space<Real = T>, outputs: usize) -> Point<T> {
        Point {
            w: vec![0.0; outputs * space.width()],
            b: vec![0.0; outputs],
            z: vec![T::default(); outputs * space.rows()],
        }
    }

    /// The origin, with logits only where solutions have some.
    pub(super) fn of_solutions(space: &impl Space<Real = T>, outputs: usize) -> Point<T> {
        let mut point = Point::zero(space, outputs);
        if !space.solves_logits() {
            point.z = Vec::new();
        }
        point
    }

    /// Everything that it is made of, for a checkpoint.
    pub(crate) fn fields<'a>(&'a mut self, fields: &mut Fields<'a>) {
        fields.f64("w", &mut self.w);
        fields.f64("b", &mut self.b);
        T::field(fields, "z", &mut self.z);
    }

    /// `self = alpha · x + beta · self`, the logits only if both have some; with `beta` = 0,
    /// `self` is not read.
    pub fn axpby(&mut self, alpha: f64, x: &Point<T>, beta: f64) {
        axpby(alpha, &x.w, beta, &mut self.w);
        axpby(alpha, &x.b, beta, &mut self.b);
        if !x.z.is_empty() && !self.z.is_empty() {
            axpby(alpha, &x.z, beta, &mut self.z);
        }
    }
}

/// A gradient: coordinates and bias, without logits.
#[derive(Clone, Debug, Default)]
pub(super) struct Slope {
    /// Coordinates.
    pub w: Vec<f64>,
    /// Bias.
    pub b: Vec<f64>,
}

impl Slope {
    /// Zeros.
    pub fn zero(space: &impl Space, outputs: usize) -> Slope {
        Slope {
            w: vec![0.0; outputs * space.width()],
            b: vec![0.0; outputs],
        }
    }

    /// Everything that it is made of, for a checkpoint.
    pub fn fields<'a>(&'a mut self, fields: &mut Fields<'a>) {
        fields.f64("w", &mut self.w);
        fields.f64("b", &mut self.b);
    }

    /// `self = alpha · x + beta · self`; with `beta` = 0, `self` is not read.
    pub fn axpby(&mut self, alpha: f64, x: &Slope, beta: f64) {
        axpby(alpha, &x.w, beta, &mut self.w);
        axpby(alpha, &x.b, beta, &mut self.b);
    }
}

/// Σ a·b of biases.
fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How a search chooses its steps.
pub(super) trait Method<S: Space> {
    /// Steps without halving the gradient that end a search where slopes tell nothing any more:
    /// the gradient may still fall, slowly.
    const BLIND: usize;

    /// Go one step and leave objective and gradient evaluated there; whether something better
    /// was found.
    fn step(&mut self, descent: &mut Descent<S>) -> bool;

    /// What later steps depend on, beside the descent's own, for a checkpoint.
    fn fields<'a>(&'a mut self, fields: &mut Fields<'a>);
}

/// Whoever looks on while a search works; `P` is its point.
pub trait Watch<P> {
    /// Before the first step: whether the state of an earlier search was put in.
    fn begin(&mut self, state: &mut impl checkpoint::State<P>) -> Result<bool>;

    /// At every point, the start too; there is a state unless the search ends there. An error
    /// breaks it off.
    fn at(&mut self, step: Step, state: Option<&mut impl checkpoint::State<P>>) -> Result<()>;
}

/// What a checkpoint holds of a search: where a step found something better, and none of what
/// follows from the point.
struct Underway<'s, 'a, S: Space, M> {
    descent: &'s mut Descent<'a, S>,
    method: &'s mut M,
}

impl<S: Space, M: Method<S>> checkpoint::State<Point<S::Real>> for Underway<'_, '_, S, M> {
    fn point(&self) -> &Point<S::Real> {
        &self.descent.point
    }

    fn fields<'a>(&'a mut self, fields: &mut Fields<'a>) {
        let Descent {
            point,
            products,
            iteration,
            factored,
            factored_bias,
            best,
            moves,
            blind,
            ..
        } = &mut *self.descent;
        fields.group("search.");
        point.fields(fields);
        fields.count("iteration", iteration);
        fields.f64("best_norm", std::slice::from_mut(&mut best.0));
        fields.count("since_best", &mut best.1);
        fields.count("moves", moves);
        fields.count("blind", blind);
        fields.f64("factored", factored);
        fields.f64("factored_bias", factored_bias);
        fields.count("logits", &mut products.logits);
        fields.count("pullbacks", &mut products.pullbacks);
        fields.count("solves", &mut products.solves);
        self.method.fields(fields);
    }
}

/// A search in progress.
pub(super) struct Descent<'a, S: Space> {
    pub space: &'a mut S,
    pub likelihood: &'a Likelihood<'a>,
    pub l2: f64,
    pub point: Point<S::Real>,
    /// The likelihood at the point.
    pub at: At<S::Real>,
    pub gradient: Slope,
    pub gradient_norm: f64,
    pub objective: f64,
    pub products: Products,
    /// Steps so far.
    pub iteration: usize,
    stop: Stop,
    initial_norm: f64,
    /// The curvatures of which the preconditioner was made, those of the bias too.
    factored: Vec<f64>,
    factored_bias: Vec<f64>,
    /// |W|².
    square: f64,
    /// The smallest gradient norm so far, and steps since it was last halved.
    best: (f64, usize),
    /// Steps along which the point's logits were moved since they were multiplied out.
    pub moves: usize,
    /// Steps in a row that promised less than rounding.
    blind: usize,
}

/// Steps without halving the gradient, where the objective tells nothing any more, that end
/// a search.
const PATIENCE: usize = 12;
/// Share of the slope's promise that a step must keep (Armijo 1966).
const SUFFICIENT: f64 = 1e-4;
/// Share of the first slope at which a line is flat enough (Wolfe 1969). A look at a line is
/// cheap beside a direction, and exact steps keep directions conjugate.
const FLAT: f64 = 0.05;
/// Share of the objective that a line must promise to be searched: along it only sums in f64 are
/// rounded, whatever the products were.
const SEEN: f64 = 1e-13;
/// Most points of a line looked at once one of them would do.
const LOOKS: usize = 8;
/// A margin of every sample that no rounding takes away.
const SEPARATED: f64 = 1.0;
/// The gap that counts as none, as a share of the objective: a multiple of the tolerance.
const GAP: f64 = 100.0;
/// Shortest step tried.
const SHORTEST: f64 = 1e-12;

/// The objective at a point of a line.
#[derive(Clone, Copy, Debug)]
struct OnLine {
    t: f64,
    objective: f64,
    slope: f64,
}

impl OnLine {
    /// Where the cubic through this point and `end` is lowest (Nocedal and Wright, 3.59), as a
    /// share of the way.
    fn lowest_before(self, end: OnLine) -> f64 {
        let length = end.t - self.t;
        let (a, b) = (self.slope * length, end.slope * length);
        let d1 = a + b - 3.0 * (end.objective - self.objective);
        let d2 = (d1 * d1 - a * b).max(0.0).sqrt();
        1.0 - (b + d2 - d1) / (b - a + 2.0 * d2)
    }

    /// Where the slope is 0 if it goes on as from `before` to here: nowhere, if it did not rise.
    fn flat_beyond(self, before: OnLine) -> f64 {
        match before.slope < self.slope {
            true => self.t + self.slope * (self.t - before.t) / (before.slope - self.slope),
            false => f64::INFINITY,
        }
    }
}

/// A `t` at which a convex objective fell sufficiently and is nearly flat (the strong Wolfe
/// conditions: Nocedal and Wright, section 3.1), or the lowest that was found, beginning with 1.
/// At `start` t is 0 and the slope below 0. `None` if the objective falls nowhere.
fn search(start: OnLine, at: impl Fn(f64) -> OnLine) -> Option<f64> {
    // The lowest point lies between them.
    let (mut low, mut high) = (start, None);
    let mut best: Option<OnLine> = None;
    let (mut t, mut looks) = (1.0, 0);
    while looks < LOOKS && t > SHORTEST {
        let here = at(t);
        let fell = here.objective <= start.objective + SUFFICIENT * t * start.slope;
        if fell && here.slope.abs() <= -FLAT * start.slope {
            return Some(t);
        }
        if fell && best.is_none_or(|best| here.objective < best.objective) {
            best = Some(here);
        }
        let before = low;
        match fell && here.slope < 0.0 {
            true => low = here,
            false => high = Some(here),
        }
        let most = if best.is_some() { 0.9 } else { 0.5 };
        t = match high {
            Some(high) => {
                let share = low.lowest_before(high);
                let share = if share.is_finite() { share } else { 0.0 };
                low.t + share.clamp(0.1, most) * (high.t - low.t)
            }
            None => low.flat_beyond(before).clamp(1.1 * t, 4.0 * t),
        };
        looks += usize::from(best.is_some());
    }
    best.map(|best| best.t)
}

impl<'a, S: Space> Descent<'a, S> {
    /// Begin at a point.
    pub fn new(
        space: &'a mut S,
        likelihood: &'a Likelihood<'a>,
        l2: f64,
        start: Point<S::Real>,
        stop: Stop,
    ) -> Self {
        let c = likelihood.outputs();
        let rows = space.rows();
        let origin = Point::zero(space, c);
        let at_start_of_all = start.w.iter().chain(&start.b).all(|&value| value == 0.0);
        let mut descent = Descent {
            at: At::new(c, rows),
            gradient: Slope::zero(space, c),
            point: origin,
            space,
            likelihood,
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
            moves: 0,
            blind: 0,
        };
        descent.evaluate();
        descent.initial_norm = descent.gradient_norm;
        if !at_start_of_all {
            descent.point = start;
            descent.refresh();
        }
        descent.best = (descent.gradient_norm, 0);
        descent
    }

    /// Go by a method to the end.
    ///
    /// # Errors
    /// Those of `watch`.
    pub fn run<M: Method<S>>(
        mut self,
        mut method: M,
        watch: &mut impl Watch<Point<S::Real>>,
    ) -> Result<(Point<S::Real>, Outcome)> {
        let mut state = Underway {
            descent: &mut self,
            method: &mut method,
        };
        if watch.begin(&mut state)? {
            self.go_on();
        }
        let mut moved = true;
        loop {
            let mut ended = self.ended(moved, M::BLIND);
            let mut left = None;
            if ended == Some(Status::Converged) {
                left = self.settle();
                ended = self.ended(moved, M::BLIND);
            }
            let step = Step {
                iteration: self.iteration,
                objective: self.objective,
                gradient_norm: self.gradient_norm,
            };
            let mut state = Underway {
                descent: &mut self,
                method: &mut method,
            };
            watch.at(step, ended.is_none().then_some(&mut state))?;
            if let Some(status) = ended {
                return Ok(self.finish(status, left));
            }
            moved = method.step(&mut self);
            self.iteration += 1;
            self.best = match self.gradient_norm <= 0.5 * self.best.0 {
                true => (self.gradient_norm, 0),
                false => (self.best.0, self.best.1 + 1),
            };
        }
    }

    /// Compute again what belongs to the fields that were put in.
    fn go_on(&mut self) {
        let products = self.products;
        self.evaluate();
        if self.iteration > 0 {
            self.space.factor(&self.factored, self.l2);
        }
        self.products = products;
    }

    /// The inner product of a slope and a point.
    pub fn along(&self, slope: &Slope, point: &Point<S::Real>) -> f64 {
        self.space.dot(&slope.w, &point.w, &point.z) + inner(&slope.b, &point.b)
    }

    /// Objective and gradient at the point.
    pub fn evaluate(&mut self) {
        let Point { w, b, z } = &self.point;
        self.likelihood.evaluate(z, b, &mut self.at);
        self.square = self.space.dot(w, w, z);
        self.objective = self.at.loss + 0.5 * self.l2 * self.square;
        self.space.pullback(&self.at.g, &mut self.gradient.w);
        self.products.pullbacks += 1;
        axpby(self.l2, w, 1.0, &mut self.gradient.w);
        self.gradient.b.copy_from_slice(&self.at.bias);
        let bias = inner(&self.gradient.b, &self.gradient.b);
        self.gradient_norm = (self.space.square(&self.gradient.w) + bias).sqrt();
    }

    /// Multiply the point's logits out anew: moving them step by step adds up rounding.
    pub fn refresh(&mut self) {
        self.space.logits(&self.point.w, &mut self.point.z);
        self.products.logits += 1;
        self.moves = 0;
        self.evaluate();
    }

    /// |∇F| as a share of that at the origin.
    pub fn share(&self) -> f64 {
        self.gradient_norm / self.initial_norm
    }

    /// The share of the gradient that may be left in the end.
    pub fn needed(&self) -> f64 {
        self.threshold() / self.gradient_norm
    }

    /// The average curvatures at the point, and a bias's inverse ones, for the preconditioner.
    pub fn factor(&mut self) {
        self.factored.copy_from_slice(&self.at.curvatures);
        (self.factored_bias).copy_from_slice(&self.at.bias_curvatures);
        self.space.factor(&self.at.curvatures, self.l2);
    }

    /// The logits of a direction made of solutions.
    pub fn multiply_out(&mut self, direction: &mut Point<S::Real>) {
        if !self.space.solves_logits() {
            (self.space).logits_of_direction(&direction.w, &mut direction.z);
            self.products.logits += 1;
        }
    }

    /// The preconditioned slope: `M⁻¹ r`.
    pub fn precondition(&mut self, r: &Slope, to: &mut Point<S::Real>) {
        self.space.solve(&r.w, &mut to.w, &mut to.z);
        self.products.solves += 1;
        let total: f64 = self.factored_bias.iter().sum();
        for ((to, r), curvature) in to.b.iter_mut().zip(&r.b).zip(&self.factored_bias) {
            *to = r / curvature.max(1e-6 * total).max(f64::MIN_POSITIVE);
        }
    }

    /// `q = ∇²F · d`.
    pub fn hessian(&mut self, d: &Point<S::Real>, room: &mut [S::Real], q: &mut Slope) {
        (self.likelihood).hessian(&self.at, &d.z, &d.b, room, &mut q.b);
        self.space.pullback(room, &mut q.w);
        self.products.pullbacks += 1;
        axpby(self.l2, &d.w, 1.0, &mut q.w);
    }

    /// Go along a direction of descent, to about where the objective is lowest; how often the
    /// direction, if the objective falls along it. Objective and gradient are then to be evaluated.
    pub fn go(&mut self, direction: &Point<S::Real>) -> Option<f64> {
        let slope = self.along(&self.gradient, direction);
        let square = self.space.dot(&direction.w, &direction.w, &direction.z);
        // ⟨W, direction⟩, from the gradient's penalty part only.
        let w_along = (self.space).dot(&self.point.w, &direction.w, &direction.z);
        if slope.is_nan() || slope >= 0.0 {
            return None;
        }
        let start = OnLine {
            t: 0.0,
            objective: self.objective,
            slope,
        };
        let at = |t: f64| {
            let point = (&self.point.z[..], &self.point.b[..]);
            let (loss, slope) = (self.likelihood).along(point, (&direction.z, &direction.b), t);
            let penalty = self.square + t * (2.0 * w_along + t * square);
            OnLine {
                t,
                objective: loss + 0.5 * self.l2 * penalty,
                slope: slope + self.l2 * (w_along + t * square),
            }
        };
        let t = match -slope > SEEN * self.objective.abs() {
            true => search(start, at)?,
            false => 1.0,
        };
        self.point.axpby(t, direction, 1.0);
        self.moves += 1;
        self.blind = match -slope < self.unmeasurable() {
            true => self.blind + 1,
            false => 0,
        };
        Some(t)
    }

    /// The gradient norm that is small enough: as a share of the start's, and by the gap that it
    /// leaves. Where the penalty is weak, a gradient that is small beside the start's says
    /// nothing.
    fn threshold(&self) -> f64 {
        let Stop { tolerance, .. } = self.stop;
        let of_start = tolerance * self.initial_norm;
        match self.l2 > 0.0 {
            true => of_start.min((2.0 * self.l2 * GAP * tolerance * self.objective.abs()).sqrt()),
            false => of_start,
        }
    }

    fn is_small(&self) -> bool {
        self.gradient_norm <= self.threshold()
    }

    /// Why the search ends here, if it does; `moved` is false if the last step found nothing
    /// better, `blind` its method's [`Method::BLIND`].
    fn ended(&self, moved: bool, blind: usize) -> Option<Status> {
        let flat = self.gradient_norm * self.gradient_norm
            <= self.unmeasurable() * self.l2.max(f64::MIN_POSITIVE);
        if self.l2 == 0.0 && self.likelihood.is_one_hot() && self.at.smallest_margin > SEPARATED {
            Some(Status::Separable)
        } else if self.is_small() {
            Some(Status::Converged)
        } else if !moved || flat && self.best.1 >= PATIENCE || self.best.1.min(self.blind) >= blind
        {
            Some(Status::Stalled)
        } else if self.iteration >= self.stop.iterations {
            Some(Status::IterationLimit)
        } else {
            None
        }
    }

    /// The point as it is: its logits multiplied out and, with a penalty, the bias at its own
    /// optimum, so that the gap can be told; what the bias still leaves to gain then.
    fn settle(&mut self) -> Option<f64> {
        if self.moves > 0 {
            self.refresh();
        }
        (self.l2 > 0.0).then(|| self.polish_bias())
    }

    /// The end; `left` is what [`Descent::settle`] said, if it was called.
    fn finish(mut self, mut status: Status, left: Option<f64>) -> (Point<S::Real>, Outcome) {
        let left = match status {
            Status::Converged => left,
            _ => self.settle(),
        };
        let gap = left.and_then(|left| {
            let bias = inner(&self.gradient.b, &self.gradient.b);
            let of_weight = (self.gradient_norm.powi(2) - bias).max(0.0);
            (left <= self.unmeasurable()).then_some(of_weight / (2.0 * self.l2))
        });
        if status != Status::Separable && self.is_small() {
            status = Status::Converged;
        }
        let outcome = Outcome {
            status,
            objective: self.objective,
            loss: self.at.loss,
            gradient_norm: self.gradient_norm,
            initial_gradient_norm: self.initial_norm,
            gap,
            iterations: self.iteration,
            products: self.products,
        };
        (self.point, outcome)
    }

    /// What is too little of F to be told from rounding.
    fn unmeasurable(&self) -> f64 {
        self.space.noise() * self.objective.abs()
    }

    /// Newton's method on b alone, by conjugate gradients: passes over the logits, and a gradient
    /// a round. What b still leaves to gain, to second order: `gᵀ H⁻¹ g`, the square of the Newton
    /// decrement.
    fn polish_bias(&mut self) -> f64 {
        const ROUNDS: usize = 10;
        let nowhere = vec![S::Real::default(); self.point.z.len()];
        let mut room = nowhere.clone();
        for _ in 0..ROUNDS {
            let (step, gain) = self.bias_step(&nowhere, &mut room);
            if gain <= self.unmeasurable() {
                return gain;
            }
            let before = (self.point.b.clone(), self.objective);
            axpby(1.0, &step, 1.0, &mut self.point.b);
            self.evaluate();
            let worse = self.objective > before.1 + self.unmeasurable();
            if worse || self.objective.is_nan() {
                self.point.b = before.0;
                self.evaluate();
                return gain;
            }
        }
        self.bias_step(&nowhere, &mut room).1
    }

    /// `-H⁻¹ g` for the bias, and `gᵀ H⁻¹ g`, by conjugate gradients preconditioned with H's
    /// diagonal: a class that hardly has rows counts as much as the others.
    fn bias_step(&self, nowhere: &[S::Real], room: &mut [S::Real]) -> (Vec<f64>, f64) {
        const MOST: usize = 30;
        const LEAVE: f64 = 1e-8;
        let c = self.point.b.len();
        // H 1 = 0 for softmax: rounding along 1 must not be divided by it.
        let centred = |mut r: Vec<f64>| -> Vec<f64> {
            let mean = if c > 1 {
                r.iter().sum::<f64>() / c as f64
            } else {
                0.0
            };
            r.iter_mut().for_each(|r| *r -= mean);
            r
        };
        let scaled = |r: &[f64]| -> Vec<f64> {
            let curvatures = r.iter().zip(&self.at.bias_curvatures);
            let scaled = curvatures.map(|(r, h)| r / h.max(f64::MIN_POSITIVE));
            scaled.collect()
        };
        let mut r = centred(self.gradient.b.iter().map(|g| -g).collect());
        let (mut step, mut gain, mut q) = (vec![0.0; c], 0.0, vec![0.0; c]);
        let mut d = scaled(&r);
        let mut rho = inner(&r, &d);
        let first = rho;
        for _ in 0..MOST {
            (self.likelihood).hessian(&self.at, nowhere, &d, room, &mut q);
            let curvature = inner(&d, &q);
            if rho <= LEAVE * first || curvature.is_nan() || curvature <= 0.0 {
                break;
            }
            let alpha = rho / curvature;
            gain += alpha * rho;
            axpby(alpha, &d, 1.0, &mut step);
            axpby(-alpha, &q, 1.0, &mut r);
            r = centred(r);
            let solved = scaled(&r);
            let next = inner(&r, &solved);
            axpby(1.0, &solved, next / rho, &mut d);
            rho = next;
        }
        (step, gain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// On convex lines that saturate, explode or do neither, their lowest point anywhere from
        /// 1e-4 to 1e3: few looks find it.
        #[test]
        fn a_line_is_searched_to_its_lowest_point(
            lowest in -4.0f64..3.0, square in 0.0f64..2.0, cosh in 0.0f64..2.0,
            softplus in 0.0f64..2.0, steep in -1.0f64..2.0,
        ) {
            let lowest = 10f64.powf(lowest);
            let steep = 10f64.powf(steep) / lowest;
            prop_assume!(square + cosh + softplus > 1e-3);
            let looks = std::cell::Cell::new(0);
            let at = |t: f64| {
                looks.set(looks.get() + 1);
                let u = t - lowest;
                let bend = 2.0 / (1.0 + (-steep * u).exp()) - 1.0;
                OnLine {
                    t,
                    objective: square * u * u / 2.0 / lowest.powi(2) + cosh * (u / lowest).cosh()
                        + softplus * (2.0 * (steep * u).exp().ln_1p() - steep * u),
                    slope: square * u / lowest.powi(2) + cosh * (u / lowest).sinh() / lowest
                        + softplus * steep * bend,
                }
            };
            let start = at(0.0);
            let t = search(start, at).unwrap();
            prop_assert!(looks.get() <= 20, "{} looks", looks.get());
            let (end, lowest) = (at(t), at(lowest));
            let left = (end.objective - lowest.objective) / (start.objective - lowest.objective);
            prop_assert!(left <= 0.05, "{left}: {end:?} of {start:?}");
        }
    }

    #[test]
    fn a_line_that_falls_nowhere_has_no_step() {
        let at = |t: f64| OnLine {
            t,
            objective: if t > 0.0 { f64::NAN } else { 1.0 },
            slope: -1.0,
        };
        assert_eq!(search(at(0.0), at), None);
    }
}
