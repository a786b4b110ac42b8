//! Stochastic gradient descent by the definition of `torch.optim.SGD`.
//!
//! A step from the parameters p = (W, b), with g the gradient of the batch's mean loss:
//!
//! ```text
//! g   = g + weight_decay · p                        (weight and bias)
//! buf = g at the first step, else momentum · buf + (1 - dampening) · g
//! g   = g + momentum · buf if nesterov, else buf    (only with momentum)
//! p   = p - lr · g
//! ```

use std::cell::RefCell;
use std::fmt;
use std::ops::{ControlFlow, Range};

use crate::comm::rows::RowShard;
use crate::design::rows::Batch;
use crate::error::{Error, Result};
use crate::io::checkpoint::{self, StateDict};
use crate::linalg::power_iteration::largest_eigenvalue_of_part;
use crate::loss::BatchLoss;
use crate::sgd::parameters::{LossGradient, Parameters};
use crate::sgd::schedule::Schedule;
use crate::torch_rng::TorchRng;

/// Options of SGD.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: LearningRate,
    /// Factor of the learning rate as a function of the epoch.
    pub schedule: Schedule,
    /// Number of passes over the rows.
    pub epochs: usize,
    /// Momentum factor; 0 means none.
    pub momentum: f64,
    /// Share of the gradient that is not added to the momentum buffer.
    pub dampening: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// Factor of p added to the gradient; unlike an l2 penalty it also decays the bias.
    pub weight_decay: f64,
    /// Rows per step; `None` is the full batch.
    pub batch_size: Option<usize>,
    /// Seed of the order of mini-batches: a new `torch.randperm` each epoch.
    pub seed: u32,
}

/// The learning rate of SGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRate {
    /// This value.
    Fixed(f64),
    /// 1/L, where L is a Lipschitz constant of the gradient: see [`Sgd::lipschitz_constant`].
    Auto,
}

impl From<f64> for LearningRate {
    fn from(lr: f64) -> Self {
        LearningRate::Fixed(lr)
    }
}

impl fmt::Display for LearningRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LearningRate::Fixed(lr) => lr.fmt(f),
            LearningRate::Auto => f.write_str("auto"),
        }
    }
}

impl Default for Sgd {
    /// Full batch, learning rate 0.01, 100 epochs, no momentum.
    fn default() -> Self {
        Sgd {
            lr: LearningRate::Fixed(0.01),
            schedule: Schedule::default(),
            epochs: 100,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            batch_size: None,
            seed: 0,
        }
    }
}

/// Statistics of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochStats {
    /// Number of the epoch, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Mean loss of the batches, each before its step.
    pub loss: f64,
}

/// Observes an SGD run on the parameters `E`.
pub trait Watch<E: Parameters> {
    /// Called before the first epoch. Returns the number of epochs of an earlier run whose state
    /// it restored, or 0.
    fn begin(
        &mut self,
        engine: &mut E,
        state: &mut impl checkpoint::State<E::Point>,
    ) -> Result<usize>;

    /// Called after each epoch; `Break` ends the run.
    fn after(
        &mut self,
        engine: &mut E,
        state: &mut impl checkpoint::State<E::Point>,
        pass: EpochStats,
    ) -> Result<ControlFlow<()>>;
}

impl Sgd {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Options`] for values that torch rejects or that are not finite.
    pub fn check(&self) -> Result<()> {
        let lr = match self.lr {
            LearningRate::Fixed(lr) => lr,
            LearningRate::Auto => 0.0,
        };
        let not_negative = [
            ("`lr`", lr),
            ("`momentum`", self.momentum),
            ("`weight_decay`", self.weight_decay),
        ];
        for (option, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                let expected = "a finite number, 0 or above";
                return Err(Error::options(option, value, expected));
            }
        }
        if !self.dampening.is_finite() {
            let expected = "a finite number";
            return Err(Error::options("`dampening`", self.dampening, expected));
        }
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            return Err(Error::options(
                "`nesterov`",
                format!("momentum {}, dampening {}", self.momentum, self.dampening),
                "a momentum above 0 and no dampening",
            ));
        }
        if self.batch_size == Some(0) {
            return Err(Error::options("`batch_size`", 0, "at least 1"));
        }
        self.schedule.check()
    }

    /// L, a Lipschitz constant of the gradient of any batch's loss:
    ///
    /// ```text
    /// full batch:   h · λ/T + weight_decay
    /// mini-batches: h · min(λ/T, max_i (mᵢ/tᵢ) · max_i (|x_i|² + 1)) + weight_decay
    /// λ = λmax(√D (X Xᵀ + 1 1ᵀ) √D),   D = diag(mᵢ)
    /// ```
    ///
    /// where h is the [Lipschitz constant](crate::Loss::curvature) of the gradient of a row's loss in
    /// its logits (1/2 for softmax, 1/4 for logistic), tᵢ = sᵢ w_yᵢ are the weights of the rows, mᵢ
    /// those of their Hessians (see [`SampleWeights`](crate::loss::weights::SampleWeights); both are 1
    /// without weights), and T is the smallest possible Σ tᵢ of a batch: without weights the size
    /// of the smallest batch. Rows with mᵢ = 0 are excluded. A full-batch step without momentum
    /// decreases the loss if lr < 2/L.
    ///
    /// Without an intercept, 1 1ᵀ and the 1 in |x_i|² + 1 are absent. `largest_square` returns the
    /// largest |x_i|² (+ 1) of the rows that its argument keeps; it is called only for mini-batches.
    pub fn lipschitz_constant<E: Parameters>(
        &self,
        engine: &mut E,
        loss: &BatchLoss,
        largest_square: impl FnOnce(&(dyn Fn(usize) -> bool + Sync)) -> f64,
    ) -> f64 {
        let n = loss.rows();
        let (m, mut t) = loss.hessian_and_row_weights();
        let largest_m = m.iter().copied().fold(0.0, f64::max);
        let roots: Vec<f64> = m.iter().map(|m| (m / largest_m).sqrt()).collect();
        let lambda = largest_weighted(engine, &roots) * largest_m;
        let of_products = match self.batch_size {
            Some(size) if size < n => {
                let ratio = |(m, t): (&f64, &f64)| if *m == 0.0 { 0.0 } else { m / t };
                let ratio = m.iter().zip(&t).map(ratio).fold(0.0, f64::max);
                let square = largest_square(&|i| m[i] > 0.0);
                t.sort_by(f64::total_cmp);
                let smallest_sum: f64 = t[..(n - 1) % size + 1].iter().sum();
                f64::min(lambda / smallest_sum, ratio * square)
            }
            _ => lambda / t.iter().sum::<f64>(),
        };
        loss.loss().curvature() * of_products + self.weight_decay
    }

    /// Runs the epochs from the engine's start with the learning rate `lr` and returns the last
    /// point. `watch` may restore the state of an earlier run first, and may end the run after an
    /// epoch.
    ///
    /// # Errors
    /// [`Error::Options`]; [`Error::Diverged`] at the first epoch whose loss is not finite;
    /// those of `watch`.
    pub fn run<E: Parameters>(
        &self,
        lr: f64,
        engine: &mut E,
        loss: &mut BatchLoss,
        watch: &mut impl Watch<E>,
    ) -> Result<E::Point> {
        self.check()?;
        let n = loss.rows();
        let batch_size = self.batch_size.unwrap_or(n).min(n);
        let mut state = State::new(self, engine);
        let mut rng = TorchRng::new(self.seed);
        let mut order = Vec::new();
        let done = watch.begin(engine, &mut state)?;
        state.first = done == 0;
        if batch_size < n {
            (0..done).for_each(|_| rng.permutation(n as u32, &mut order));
        }
        for epoch in done..self.epochs {
            state.lr = lr * self.schedule.factor(epoch, self.epochs);
            let mean_loss = if batch_size == n {
                state.step(self, engine, loss, Batch::All)
            } else {
                rng.permutation(n as u32, &mut order);
                let mut sum = 0.0;
                for rows in order.chunks(batch_size) {
                    let batch = Batch::Rows(rows);
                    sum += rows.len() as f64 * state.step(self, engine, loss, batch);
                }
                sum / n as f64
            };
            let lr = state.lr;
            if !mean_loss.is_finite() {
                return Err(Error::Diverged {
                    epoch,
                    what: "loss",
                    loss: mean_loss,
                    lr,
                });
            }
            let pass = EpochStats {
                epoch,
                lr,
                loss: mean_loss,
            };
            if watch.after(engine, &mut state, pass)?.is_break() {
                break;
            }
        }
        Ok(state.point)
    }
}

/// λmax of R (X Xᵀ + 1 1ᵀ) R with R = diag(`roots`). Rows with root 0 are excluded, also from the
/// start of the iteration.
fn largest_weighted<E: Parameters>(engine: &mut E, roots: &[f64]) -> f64 {
    let own = engine.ranks().map_or(0..roots.len(), RowShard::range);
    let before = roots[..own.start]
        .iter()
        .filter(|&&root| root > 0.0)
        .count();
    let all = roots.iter().filter(|&&root| root > 0.0).count();
    let roots = &roots[own];
    let counted: Vec<usize> = (0..roots.len()).filter(|&i| roots[i] > 0.0).collect();
    let (mut values, mut product) = (vec![0.0; roots.len()], vec![0.0; roots.len()]);
    // Two borrows of the engine: the sums over ranks and the products.
    let engine = RefCell::new(engine);
    let inner = |a: &[f64], b: &[f64]| {
        let product = |place: usize| a[place] * b[place];
        let engine = engine.borrow();
        let Some(shard) = engine.ranks() else {
            return (0..a.len()).map(product).sum();
        };
        // The places of rows among those that count.
        let place = |row: usize| counted.partition_point(|&i| i < row);
        let of_rows = |rows: Range<usize>| {
            let places = place(rows.start)..place(rows.end);
            vec![places.map(product).sum()]
        };
        shard.sum(1, of_rows)[0]
    };
    let counted_here = before..before + counted.len();
    largest_eigenvalue_of_part(counted_here, all, inner, |v, out| {
        for (&i, &v) in counted.iter().zip(v) {
            values[i] = (roots[i] * f64::from(v)) as f32;
        }
        engine.borrow_mut().gram_product(&values, &mut product);
        for (&i, out) in counted.iter().zip(out) {
            *out = (roots[i] * f64::from(product[i])) as f32;
        }
    })
}

/// The state of a run: parameters, momentum and gradient.
struct State<E: Parameters> {
    point: E::Point,
    /// Learning rate of the epoch.
    lr: f64,
    /// Gradient and momentum buffer; `None` without momentum.
    momentum: Option<(E::Point, E::Point)>,
    /// Whether the next step is the first.
    first: bool,
    /// Gradient of the batch's loss.
    g: LossGradient,
}

impl<E: Parameters> checkpoint::State<E::Point> for State<E> {
    fn point(&self) -> &E::Point {
        &self.point
    }

    /// The gradient is recomputed before it is read, and `first` follows from the number of
    /// epochs.
    fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>) {
        fields.group("point.");
        E::fields(&mut self.point, fields);
        if let Some((_, buffer)) = &mut self.momentum {
            fields.group("momentum.");
            E::fields(buffer, fields);
        }
    }
}

impl<E: Parameters> State<E> {
    fn new(sgd: &Sgd, engine: &E) -> Self {
        State {
            point: engine.start(),
            lr: 0.0,
            momentum: (sgd.momentum != 0.0).then(|| (engine.zero(), engine.zero())),
            first: true,
            g: LossGradient::default(),
        }
    }

    /// Makes one step. Returns the batch's mean loss before it.
    fn step(&mut self, sgd: &Sgd, engine: &mut E, loss: &mut BatchLoss, batch: Batch) -> f64 {
        let mean_loss = engine.loss(&self.point, batch, loss, &mut self.g);
        let Some((gradient, buffer)) = &mut self.momentum else {
            // The product computes p = (1 - lr · weight_decay) · p - lr · g.
            let keep = 1.0 - self.lr * sgd.weight_decay;
            engine.gradient(-self.lr, &self.g, batch, keep, &mut self.point);
            return mean_loss;
        };
        engine.gradient(1.0, &self.g, batch, 0.0, gradient);
        if sgd.weight_decay != 0.0 {
            engine.axpby(sgd.weight_decay, &self.point, 1.0, gradient);
        }
        if std::mem::take(&mut self.first) {
            engine.axpby(1.0, gradient, 0.0, buffer)
        } else {
            engine.axpby(1.0 - sgd.dampening, gradient, sgd.momentum, buffer)
        }
        if sgd.nesterov {
            engine.axpby(-self.lr, gradient, 1.0, &mut self.point);
            engine.axpby(-self.lr * sgd.momentum, buffer, 1.0, &mut self.point);
        } else {
            engine.axpby(-self.lr, buffer, 1.0, &mut self.point);
        }
        mean_loss
    }
}
