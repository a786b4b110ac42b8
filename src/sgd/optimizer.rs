//! Stochastic gradient descent, `torch.optim.SGD` to the letter.
//!
//! A step at the parameters p = (W, b), with g the gradient of the batch's mean loss:
//!
//! ```text
//! g   = g + weight_decay · p                        (weight and bias)
//! buf = g at the first step, else momentum · buf + (1 - dampening) · g
//! g   = g + momentum · buf if nesterov, else buf    (only with momentum)
//! p   = p - lr · g
//! ```

use std::fmt;
use std::ops::ControlFlow;

use crate::design::rows::Batch;
use crate::error::{Error, Result};
use crate::io::checkpoint::{self, StateDict};
use crate::linalg::power_iteration::largest_eigenvalue;
use crate::loss::BatchLoss;
use crate::sgd::parameters::{LossGradient, Parameters};
use crate::sgd::schedule::Schedule;
use crate::torch_rng::TorchRng;

/// Options of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: LearningRate,
    /// What becomes of it from epoch to epoch.
    pub schedule: Schedule,
    /// Passes over the rows.
    pub epochs: usize,
    /// Momentum factor; 0 means none.
    pub momentum: f64,
    /// Share of the gradient kept out of the momentum buffer.
    pub dampening: f64,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// Factor of p added to the gradient; unlike an l2 penalty it also decays the bias.
    pub weight_decay: f64,
    /// Rows a step; `None` is the full batch.
    pub batch_size: Option<usize>,
    /// Seed of the order of mini-batches: `torch.randperm`'s, a new one each epoch.
    pub seed: u32,
}

/// How long a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRate {
    /// This.
    Fixed(f64),
    /// 1/L, where L bounds the curvature of the loss: see [`Sgd::curvature`].
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

/// A pass over the rows, as it is reported while training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochStats {
    /// Number, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Mean loss of its batches, each taken before its step.
    pub loss: f64,
}

/// Observes an optimizer that works on the parameters `E`.
pub trait Watch<E: Parameters> {
    /// Before the first epoch: how many were done before, whose state is put in.
    fn begin(
        &mut self,
        engine: &mut E,
        state: &mut impl checkpoint::State<E::Point>,
    ) -> Result<usize>;

    /// After an epoch; may break the run off.
    fn after(
        &mut self,
        engine: &mut E,
        state: &mut impl checkpoint::State<E::Point>,
        pass: EpochStats,
    ) -> Result<ControlFlow<()>>;
}

impl Sgd {
    /// Refuse values that torch refuses, and those that are not finite.
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

    /// L, a bound on the curvature of the loss of any batch:
    ///
    /// ```text
    /// full batch:   h · λ/T + weight_decay
    /// mini-batches: h · min(λ/T, max_i (mᵢ/tᵢ) · max_i (|x_i|² + 1)) + weight_decay
    /// λ = λmax(√D (X Xᵀ + 1 1ᵀ) √D),   D = diag(mᵢ)
    /// ```
    ///
    /// with h, the loss's own curvature in the logits, 1/2 for softmax and 1/4 for logistic
    /// (Böhning 1992), tᵢ = sᵢ w_yᵢ the weights of the rows and mᵢ those of their curvatures (see
    /// [`SampleWeights`](crate::loss::weights::SampleWeights); both are 1 without weights), and T the least
    /// Σ tᵢ that a batch can have: n for a full batch without weights, else the size of the
    /// smallest. Rows with mᵢ = 0 are left out. A full-batch step without momentum lowers the
    /// loss if lr < 2/L.
    ///
    /// `largest_square` gives the largest |x_i|² of the rows that its argument keeps; it is asked
    /// for only where mini-batches need it.
    pub fn curvature<E: Parameters>(
        &self,
        engine: &mut E,
        objective: &BatchLoss,
        largest_square: impl FnOnce(&(dyn Fn(usize) -> bool + Sync)) -> f64,
    ) -> f64 {
        let n = objective.rows();
        let (masses, mut weights) = objective.masses();
        let heaviest = masses.iter().copied().fold(0.0, f64::max);
        let roots: Vec<f64> = masses.iter().map(|m| (m / heaviest).sqrt()).collect();
        let largest = largest_weighted(engine, &roots) * heaviest;
        let of_logits = match self.batch_size {
            Some(size) if size < n => {
                let ratio = |(mass, weight): (&f64, &f64)| match mass {
                    0.0 => 0.0,
                    mass => mass / weight,
                };
                let ratio = masses.iter().zip(&weights).map(ratio).fold(0.0, f64::max);
                let longest = largest_square(&|i| masses[i] > 0.0) + 1.0;
                weights.sort_by(f64::total_cmp);
                let least: f64 = weights[..(n - 1) % size + 1].iter().sum();
                f64::min(largest / least, ratio * longest)
            }
            _ => largest / weights.iter().sum::<f64>(),
        };
        objective.loss().curvature() * of_logits + self.weight_decay
    }

    /// Run the epochs from the engine's start with the learning rate `lr`. `watch` sees the
    /// state after each epoch, and may break the run off; it may also put an earlier run's
    /// state in at the beginning.
    ///
    /// # Errors
    /// [`Error::Options`]; [`Error::Diverged`] at the first epoch whose loss is not finite;
    /// those of `watch`.
    pub fn run<E: Parameters>(
        &self,
        lr: f64,
        engine: &mut E,
        objective: &mut BatchLoss,
        watch: &mut impl Watch<E>,
    ) -> Result<E::Point> {
        self.check()?;
        let n = objective.rows();
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
            let loss = if batch_size == n {
                state.step(self, engine, objective, Batch::All)
            } else {
                rng.permutation(n as u32, &mut order);
                let mut sum = 0.0;
                for rows in order.chunks(batch_size) {
                    let loss = state.step(self, engine, objective, Batch::Rows(rows));
                    sum += loss * rows.len() as f64;
                }
                sum / n as f64
            };
            let lr = state.lr;
            if !loss.is_finite() {
                let what = "loss";
                return Err(Error::Diverged {
                    epoch,
                    what,
                    loss,
                    lr,
                });
            }
            let pass = EpochStats { epoch, lr, loss };
            if watch.after(engine, &mut state, pass)?.is_break() {
                break;
            }
        }
        Ok(state.point)
    }
}

/// λmax of R (X Xᵀ + 1 1ᵀ) R, R being diagonal with these `roots`. Rows whose root is 0 are as
/// good as not there, in the iteration's start as well.
fn largest_weighted<E: Parameters>(engine: &mut E, roots: &[f64]) -> f64 {
    let counted: Vec<usize> = (0..roots.len()).filter(|&i| roots[i] > 0.0).collect();
    let (mut all, mut product) = (vec![0.0; roots.len()], vec![0.0; roots.len()]);
    largest_eigenvalue(counted.len(), |v, out| {
        let values = counted.iter().zip(v);
        values.for_each(|(&i, &v)| all[i] = (roots[i] * f64::from(v)) as f32);
        engine.curvature(&all, &mut product);
        let values = counted.iter().zip(out);
        values.for_each(|(&i, out)| *out = (roots[i] * f64::from(product[i])) as f32);
    })
}

/// The parameters and what belongs to them; allocated once.
struct State<E: Parameters> {
    point: E::Point,
    /// This epoch's learning rate.
    lr: f64,
    /// Gradient and momentum buffer, only where there is momentum.
    momentum: Option<(E::Point, E::Point)>,
    first: bool,
    /// Of the batch's loss.
    g: LossGradient,
}

impl<E: Parameters> checkpoint::State<E::Point> for State<E> {
    fn point(&self) -> &E::Point {
        &self.point
    }

    /// The gradient is computed anew before it is read, and the first step is known by the
    /// number of epochs.
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

    /// One step; the batch's mean loss before it.
    fn step(&mut self, sgd: &Sgd, engine: &mut E, objective: &mut BatchLoss, batch: Batch) -> f64 {
        let loss = engine.loss(&self.point, batch, objective, &mut self.g);
        let Some((gradient, buffer)) = &mut self.momentum else {
            // p = (1 - lr · weight_decay) · p - lr · g in the product itself.
            let keep = 1.0 - self.lr * sgd.weight_decay;
            engine.gradient(-self.lr, &self.g, batch, keep, &mut self.point);
            return loss;
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
        loss
    }
}
