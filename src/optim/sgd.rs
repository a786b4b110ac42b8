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

use crate::data::samples::Batch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::mat::MatMut;
use crate::objective::Objective;
use crate::torch_rng::TorchRng;

/// Options of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Passes over the rows.
    pub epochs: usize,
    /// Momentum factor; 0 means none.
    pub momentum: f32,
    /// Share of the gradient kept out of the momentum buffer.
    pub dampening: f32,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// Factor of p added to the gradient; unlike an l2 penalty it also decays the bias.
    pub weight_decay: f32,
    /// Rows a step; `None` is the full batch.
    pub batch_size: Option<usize>,
    /// Seed of the order of mini-batches: `torch.randperm`'s, a new one each epoch.
    pub seed: u32,
}

impl Default for Sgd {
    /// Full batch, learning rate 0.01, 100 epochs, no momentum.
    fn default() -> Self {
        Sgd {
            lr: 0.01,
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

/// One epoch, as it is reported while training.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Epoch {
    /// Number, from 0.
    pub epoch: usize,
    /// Mean loss of its batches, each taken before its step.
    pub loss: f64,
}

impl Sgd {
    /// Refuse values that torch refuses, and those that are not finite.
    pub fn check(&self) -> Result<()> {
        let not_negative = [
            ("--lr", self.lr),
            ("--momentum", self.momentum),
            ("--weight-decay", self.weight_decay),
        ];
        for (option, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                let expected = "a finite number, 0 or above";
                return Err(Error::options(option, value, expected));
            }
        }
        if !self.dampening.is_finite() {
            let expected = "a finite number";
            return Err(Error::options("--dampening", self.dampening, expected));
        }
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            return Err(Error::options(
                "--nesterov",
                format!("momentum {}, dampening {}", self.momentum, self.dampening),
                "a momentum above 0 and no dampening",
            ));
        }
        if self.batch_size == Some(0) {
            return Err(Error::options("--batch-size", 0, "at least 1"));
        }
        Ok(())
    }

    /// Run all epochs from the engine's start; `observe` sees each epoch as it ends.
    ///
    /// # Errors
    /// [`Error::Diverged`] at the first epoch whose loss is not finite; [`Error::Options`].
    pub fn run<E: Engine>(
        &self,
        engine: &mut E,
        objective: &mut Objective,
        observe: &mut dyn FnMut(Epoch),
    ) -> Result<E::Point> {
        self.check()?;
        let n = objective.rows();
        let batch_size = self.batch_size.unwrap_or(n).min(n);
        let mut state = State::new(self, engine, batch_size);
        let mut rng = TorchRng::new(self.seed);
        let mut order = Vec::new();
        for epoch in 0..self.epochs {
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
            if !loss.is_finite() {
                return Err(Error::Diverged {
                    epoch,
                    loss,
                    lr: self.lr,
                });
            }
            observe(Epoch { epoch, loss });
        }
        Ok(state.point)
    }
}

/// The parameters and what belongs to them; allocated once.
struct State<P> {
    point: P,
    /// Gradient and momentum buffer, only where there is momentum.
    momentum: Option<(P, P)>,
    first: bool,
    z: Vec<f32>,
}

impl<P> State<P> {
    fn new<E: Engine<Point = P>>(sgd: &Sgd, engine: &E, batch_size: usize) -> Self {
        State {
            point: engine.start(),
            momentum: (sgd.momentum != 0.0).then(|| (engine.zero(), engine.zero())),
            first: true,
            z: vec![0.0; batch_size * engine.outputs()],
        }
    }

    /// One step; the batch's mean loss before it.
    fn step<E: Engine<Point = P>>(
        &mut self,
        sgd: &Sgd,
        engine: &mut E,
        objective: &mut Objective,
        batch: Batch,
    ) -> f64 {
        let cols = engine.outputs();
        let rows = match batch {
            Batch::All => objective.rows(),
            Batch::Rows(rows) => rows.len(),
        };
        let mut z = MatMut::new(&mut self.z[..rows * cols], rows, cols);
        engine.margins(&self.point, batch, z.reborrow());
        let loss = objective.loss_gradient(batch, z.reborrow());
        let g = z.as_ref();
        let Some((gradient, buffer)) = &mut self.momentum else {
            // p = (1 - lr · weight_decay) · p - lr · g in the product itself.
            let keep = 1.0 - sgd.lr * sgd.weight_decay;
            engine.pullback(-sgd.lr, g, batch, keep, &mut self.point);
            return loss;
        };
        engine.pullback(1.0, g, batch, 0.0, gradient);
        if sgd.weight_decay != 0.0 {
            engine.axpby(sgd.weight_decay, &self.point, 1.0, gradient);
        }
        match std::mem::take(&mut self.first) {
            true => engine.axpby(1.0, gradient, 0.0, buffer),
            false => engine.axpby(1.0 - sgd.dampening, gradient, sgd.momentum, buffer),
        }
        if sgd.nesterov {
            engine.axpby(-sgd.lr, gradient, 1.0, &mut self.point);
            engine.axpby(-sgd.lr * sgd.momentum, buffer, 1.0, &mut self.point);
        } else {
            engine.axpby(-sgd.lr, buffer, 1.0, &mut self.point);
        }
        loss
    }
}
