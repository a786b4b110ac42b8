//! `Trainer`: validation, early stopping, history and checkpoints after every epoch.

use std::ops::ControlFlow;

use crate::comm::Comm;
use crate::comm::rows::RowShard;
use crate::design::samples::{Samples, Splits};
use crate::error::{Error, Result};
use crate::io::checkpoint::{self, Saver, State, StateDict};
use crate::linalg::mat::MatMut;
use crate::loss::Loss;
use crate::progress::{Epoch, Event, Observer};
use crate::sgd::optimizer::{EpochStats, Watch};
use crate::sgd::options::FitOptions;
use crate::sgd::parameters::Coordinates;
use crate::sgd::parameters::Parameters;

impl Epoch {
    /// Number of values of an epoch in a checkpoint: all but its number; NaN for absent ones.
    const COLUMNS: usize = 4;

    fn row(&self) -> [f64; Self::COLUMNS] {
        let or_nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let (loss, accuracy) = (or_nan(self.val_loss), or_nan(self.val_accuracy));
        [self.lr, self.loss, loss, accuracy]
    }

    fn of_row(epoch: usize, row: &[f64]) -> Epoch {
        let some = |value: f64| (!value.is_nan()).then_some(value);
        Epoch {
            epoch,
            lr: row[0],
            loss: row[1],
            val_loss: some(row[2]),
            val_accuracy: some(row[3]),
        }
    }
}

/// The observer of an SGD run; `P` is the point of the engine.
pub(crate) struct Trainer<'a, 'o, P> {
    validation: Option<Validation<'a>>,
    patience: Option<usize>,
    best: Option<Best<P>>,
    history: Vec<Epoch>,
    emit_coordinates: bool,
    saver: Option<Saver>,
    observer: &'a mut Observer<'o>,
    /// The ranks, if there are several; and if they share the rows.
    comm: Option<&'a dyn Comm>,
    ranks: Option<RowShard<'a>>,
}

/// The labels of the validation rows, with buffers for their logits and losses.
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

/// The result of a finished run.
pub(crate) struct Observed<P> {
    /// The statistics of each epoch.
    pub history: Vec<Epoch>,
    /// The best epoch, with early stopping.
    pub best: Option<Best<P>>,
}

impl<'a, 'o, P> Trainer<'a, 'o, P> {
    /// The observer before the first epoch.
    pub fn new<E: Parameters<Point = P>>(
        splits: Splits<'a>,
        options: &FitOptions,
        engine: &E,
        saver: Option<Saver>,
        observer: &'a mut Observer<'o>,
    ) -> Self {
        let c = engine.outputs();
        let validation = splits.validation.map(|samples: &Samples| Validation {
            loss: Loss::for_classes(samples.classes()),
            labels: samples.labels(),
            z: vec![0.0; samples.rows() * c],
            scratch: Vec::new(),
        });
        let mut trainer = Trainer {
            validation,
            patience: options.early_stopping,
            best: None,
            history: Vec::new(),
            emit_coordinates: options.emit_coordinates,
            saver,
            observer,
            comm: splits.train.x().comm(),
            ranks: splits.train.x().row_shard(),
        };
        trainer.emit_coordinates::<E>(&engine.start());
        trainer
    }

    fn emit_coordinates<E: Parameters<Point = P>>(&mut self, point: &P) {
        if self.emit_coordinates
            && let Some(values) = E::coordinates(point).map(Coordinates::to_vec)
        {
            let epochs = self.history.len();
            self.observer.tell(Event::Coordinates { epochs, values });
        }
    }

    /// Evaluates and reports an epoch that ended at `point`; `Break` if early stopping ends the run.
    fn record<E: Parameters<Point = P>>(
        &mut self,
        engine: &mut E,
        point: &P,
        pass: EpochStats,
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
        self.observer.tell(Event::Epoch(epoch));
        self.emit_coordinates::<E>(point);
        match (self.patience, epoch.val_loss) {
            (Some(patience), Some(loss)) => Ok(self.update_best(engine, point, loss, patience)),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    /// Stores `point` if its loss is the lowest; `Break` after `patience` epochs without a lower one.
    fn update_best<E: Parameters<Point = P>>(
        &mut self,
        engine: &mut E,
        point: &P,
        loss: f64,
        patience: usize,
    ) -> ControlFlow<()> {
        let epoch = self.history.len() - 1;
        let best = self.best.get_or_insert_with(|| Best::none(engine));
        if loss < best.loss {
            (best.epoch, best.loss) = (epoch, loss);
            engine.axpby(1.0, point, 0.0, &mut best.point);
        }
        if epoch - best.epoch >= patience {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Saves the state if a checkpoint is due; stops if the fit was cancelled.
    fn save_if_due<E: Parameters<Point = P>>(&mut self, state: &mut impl State<P>) -> Result<()> {
        let epochs = self.history.len();
        checkpoint::keep(
            self.saver.as_mut(),
            self.observer,
            self.ranks,
            epochs,
            |saver| {
                let mut rows: Vec<f64> = self.history.iter().flat_map(Epoch::row).collect();
                let fields = all_fields::<E, P>(state, &mut self.best, &mut rows);
                saver.save(fields, epochs)
            },
        )
    }

    /// The result after the last epoch.
    pub fn finish(self) -> Observed<P> {
        Observed {
            history: self.history,
            best: self.best,
        }
    }
}

impl<E: Parameters> Watch<E> for Trainer<'_, '_, E::Point> {
    fn begin(&mut self, engine: &mut E, state: &mut impl State<E::Point>) -> Result<usize> {
        let Some(saver) = &mut self.saver else {
            return Ok(0);
        };
        let Some(mut saved) = saver.open(self.comm)? else {
            return Ok(0);
        };
        self.best = self.patience.map(|_| Best::none(engine));
        let mut rows = Vec::new();
        saved.put(all_fields::<E, _>(state, &mut self.best, &mut rows))?;
        saved.finish()?;
        let rows = rows.chunks_exact(Epoch::COLUMNS).enumerate();
        self.history = rows.map(|(i, row)| Epoch::of_row(i, row)).collect();
        saver.kept(self.history.len());
        if let Some(best) = &mut self.best {
            for (epoch, loss) in self
                .history
                .iter()
                .filter_map(|e| Some((e.epoch, e.val_loss?)))
            {
                if loss < best.loss {
                    (best.epoch, best.loss) = (epoch, loss);
                }
            }
        }
        let epochs = self.history.len();
        self.observer.tell(Event::Resumed { done: epochs });
        Ok(epochs)
    }

    fn after(
        &mut self,
        engine: &mut E,
        state: &mut impl State<E::Point>,
        pass: EpochStats,
    ) -> Result<ControlFlow<()>> {
        let flow = self.record(engine, state.point(), pass)?;
        if flow.is_continue() {
            self.save_if_due::<E>(state)?;
        }
        Ok(flow)
    }
}

/// All fields of a checkpoint: everything on which later epochs depend.
fn all_fields<'a, E: Parameters<Point = P>, P>(
    state: &'a mut impl State<P>,
    best: &'a mut Option<Best<P>>,
    history: &'a mut Vec<f64>,
) -> StateDict<'a> {
    let mut fields = StateDict::default();
    fields.rows("history", history, Epoch::COLUMNS);
    state.fields(&mut fields);
    if let Some(best) = best {
        fields.group("best.");
        E::fields(&mut best.point, &mut fields);
    }
    fields
}

impl<P> Best<P> {
    /// A placeholder with an infinite loss.
    fn none<E: Parameters<Point = P>>(engine: &E) -> Best<P> {
        Best {
            epoch: 0,
            loss: f64::INFINITY,
            point: engine.zero(),
        }
    }
}

impl Validation<'_> {
    /// The validation loss and accuracy at a point.
    fn evaluate<E: Parameters>(&mut self, engine: &mut E, point: &E::Point) -> (f64, f64) {
        let rows = self.labels.len();
        let mut z = MatMut::new(&mut self.z, engine.outputs(), rows);
        engine.validation_logits(point, z.reborrow());
        let (loss, correct) =
            (self.loss).loss_and_correct(z.as_ref(), self.labels, &mut self.scratch);
        (loss, correct as f64 / rows as f64)
    }
}
