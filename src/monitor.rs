//! What happens after every epoch: validation, early stopping, history, trajectory.

use std::ops::ControlFlow;

use crate::data::samples::{Samples, Splits};
use crate::engine::{Engine, Plan};
use crate::error::{Error, Result};
use crate::fit::FitOptions;
use crate::mat::MatMut;
use crate::objective::Loss;
use crate::optim::sgd::Pass;
use crate::trajectory::Writer;

/// What an observer of a fit hears.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The engine was chosen.
    Planned(Plan),
    /// K = X Xᵀ grows.
    GramMatrix {
        /// Columns of X multiplied so far.
        columns: usize,
        /// Columns in all, those for K_val included.
        of: usize,
    },
    /// Training begins.
    Started {
        /// Learning rate before its schedule.
        lr: f64,
        /// 2/L, if it was computed: see [`crate::Fit::lr_bound`].
        lr_bound: Option<f64>,
    },
    /// An epoch has ended.
    Epoch(Epoch),
}

/// One epoch: a line of `history.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    /// Number, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Mean loss of its batches, each taken before its step.
    pub loss: f64,
    /// Loss on the validation rows after the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Accuracy on the validation rows after the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
}

/// Watches a fit; `P` is the engine's point.
pub(crate) struct Monitor<'a, P> {
    validation: Option<Validation<'a>>,
    patience: Option<usize>,
    best: Option<Best<P>>,
    history: Vec<Epoch>,
    trajectory: Option<Writer>,
    observe: &'a mut (dyn FnMut(Event) + Send),
}

/// The validation rows' labels, and room for their logits.
struct Validation<'a> {
    loss: Loss,
    labels: &'a [u32],
    z: Vec<f32>,
    scratch: Vec<f64>,
}

/// The epoch of the lowest validation loss.
pub(crate) struct Best<P> {
    pub epoch: usize,
    loss: f64,
    pub point: P,
}

/// What remains of a finished run.
pub(crate) struct Watched<P> {
    /// Every epoch.
    pub history: Vec<Epoch>,
    /// The best of them, with early stopping.
    pub best: Option<Best<P>>,
}

impl<'a, P> Monitor<'a, P> {
    /// Before the first epoch.
    pub fn new<E: Engine<Point = P>>(
        splits: Splits<'a>,
        options: &FitOptions,
        engine: &E,
        observe: &'a mut (dyn FnMut(Event) + Send),
    ) -> Result<Self> {
        let c = engine.outputs();
        let validation = splits.validation.map(|samples: &Samples| Validation {
            loss: Loss::for_classes(samples.classes()),
            labels: samples.labels(),
            z: vec![0.0; samples.rows() * c],
            scratch: Vec::new(),
        });
        let trajectory = match &options.save_trajectory {
            None => None,
            Some(path) => {
                let mut writer = Writer::create(path, splits.train.rows(), c)?;
                writer.push(E::coordinates(&engine.start()).expect("the gram engine"))?;
                Some(writer)
            }
        };
        Ok(Monitor {
            validation,
            patience: options.early_stopping,
            best: None,
            history: Vec::new(),
            trajectory,
            observe,
        })
    }

    /// After an epoch that ended at `point`.
    pub fn after<E: Engine<Point = P>>(
        &mut self,
        engine: &mut E,
        point: &P,
        pass: Pass,
    ) -> Result<ControlFlow<()>> {
        let evaluation = self.validation.as_mut().map(|v| v.evaluate(engine, point));
        let epoch = Epoch {
            epoch: pass.epoch,
            lr: pass.lr,
            loss: pass.loss,
            val_loss: evaluation.map(|(loss, _)| loss),
            val_accuracy: evaluation.map(|(_, accuracy)| accuracy),
        };
        if let Some((loss, _)) = evaluation
            && !loss.is_finite()
        {
            return Err(Error::Diverged {
                epoch: epoch.epoch,
                what: "validation loss",
                loss,
                lr: epoch.lr,
            });
        }
        self.history.push(epoch);
        (self.observe)(Event::Epoch(epoch));
        if let Some(writer) = &mut self.trajectory {
            writer.push(E::coordinates(point).expect("the gram engine"))?;
        }
        match (self.patience, epoch.val_loss) {
            (Some(patience), Some(loss)) => Ok(self.keep_best(engine, point, loss, patience)),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    fn keep_best<E: Engine<Point = P>>(
        &mut self,
        engine: &mut E,
        point: &P,
        loss: f64,
        patience: usize,
    ) -> ControlFlow<()> {
        let epoch = self.history.len() - 1;
        let best = self.best.get_or_insert_with(|| Best {
            epoch,
            loss: f64::INFINITY,
            point: engine.zero(),
        });
        if loss < best.loss {
            (best.epoch, best.loss) = (epoch, loss);
            engine.axpby(1.0, point, 0.0, &mut best.point);
        }
        match epoch - best.epoch >= patience {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// After the last epoch.
    pub fn finish(self) -> Result<Watched<P>> {
        if let Some(writer) = self.trajectory {
            writer.finish()?;
        }
        Ok(Watched {
            history: self.history,
            best: self.best,
        })
    }
}

impl Validation<'_> {
    /// Loss and accuracy at a point.
    fn evaluate<E: Engine>(&mut self, engine: &mut E, point: &E::Point) -> (f64, f64) {
        let rows = self.labels.len();
        let mut z = MatMut::new(&mut self.z, engine.outputs(), rows);
        engine.validation_margins(point, z.reborrow());
        let (loss, hits) = (self.loss).loss_and_hits(z.as_ref(), self.labels, &mut self.scratch);
        (loss, hits as f64 / rows as f64)
    }
}
