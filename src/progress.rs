//! [`Event`]s that a fit sends to its callback, and [`Cancel`], which stops it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::design::plan::{EngineKind, Plan};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::solver::report::{SolveReport, Step};

/// An event of a fit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// [`fit`](crate::fit) has chosen its engine.
    Planned(Plan),
    /// [`fit_path`](crate::fit_path) has chosen its engine.
    Engine(EngineKind),
    /// Progress of the Gram matrix K = X Xᵀ, or of Xᵀ X.
    GramMatrix {
        /// Number of columns of X that are multiplied.
        columns: usize,
        /// Total number of columns, those for K_val included.
        of: usize,
    },
    /// Training begins.
    Started {
        /// Learning rate before its schedule.
        lr: f64,
        /// 2/L, if it was computed: see [`crate::Fit::lr_bound`].
        lr_bound: Option<f64>,
    },
    /// The fit continues from a checkpoint.
    Resumed {
        /// Number of epochs in the checkpoint, or of steps for all penalties and folds.
        done: usize,
    },
    /// An epoch has ended.
    Epoch(Epoch),
    /// The Gram coordinates, with [`FitOptions::emit_coordinates`]: before the first epoch, and
    /// after each epoch.
    ///
    /// [`FitOptions::emit_coordinates`]: crate::FitOptions::emit_coordinates
    Coordinates {
        /// Number of epochs before these coordinates.
        epochs: usize,
        /// s, then b (c values), then Aᵀ (c x n, row-major).
        values: Vec<f32>,
    },
    /// A solver made a step.
    Step {
        /// The penalty.
        l2: f64,
        /// The fold, from 0.
        fold: Option<usize>,
        /// The step.
        step: Step,
    },
    /// The solution for a penalty was scored on rows that were not fitted.
    Scored(PathEntry),
    /// The logits of rows that a solve did not fit, with [`Emit::held_out`]. A resumed fit does not
    /// send the event again for solves in its checkpoint.
    ///
    /// [`Emit::held_out`]: crate::path::Emit::held_out
    HeldOut(HeldOut),
    /// The model of a solve, with [`Emit::models`]. A resumed fit does not send the event again for
    /// solves in its checkpoint.
    ///
    /// [`Emit::models`]: crate::path::Emit::models
    Solved(Box<Solved>),
    /// A warning, one sentence.
    Warning(String),
}

/// One epoch: a line of `history.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Epoch {
    /// Number, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Mean loss of its batches, before the step of each.
    pub loss: f64,
    /// Loss on the validation rows after the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Accuracy on the validation rows after the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
}

/// The logits of rows that a solve did not fit, to be scored by any measure.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeldOut {
    /// The fold, from 0; `None`: the rows are the validation rows.
    pub fold: Option<usize>,
    /// The penalty.
    pub l2: f64,
    /// Indices of the rows: for a fold, training rows in the order of the fold; else all validation
    /// rows.
    pub rows: Vec<u32>,
    /// Number of outputs: 1 for two classes.
    pub outputs: usize,
    /// Logits, rows x outputs, the bias included. They are computed in f64 for folds in Gram
    /// coordinates, in f32 on the primal engine and for validation rows.
    pub logits: Vec<f64>,
    /// The end of the solve.
    pub report: SolveReport,
}

/// The solution for a penalty.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Solved {
    /// The fold, from 0; `None`: all training rows were fitted.
    pub fold: Option<usize>,
    /// The penalty.
    pub l2: f64,
    /// The end of the solve, measured on the solver's coordinates.
    pub report: SolveReport,
    /// The model, rounded to f32.
    pub model: Model,
}

/// One penalty of a path.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct PathEntry {
    /// The penalty.
    pub l2: f64,
    /// The end of its solve; with folds, that of the first fold.
    #[serde(flatten)]
    pub report: SolveReport,
    /// Mean loss on rows that were not fitted, weighted by the sample weights if there are any,
    /// without class weights and smoothing. With folds, the mean of the means of the folds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Standard error of that mean over the folds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss_error: Option<f64>,
    /// Accuracy on rows that were not fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
}

/// Stops a fit, a preparation or a download after the current epoch, step, slab of the Gram
/// matrix, photograph or block of rows. Clones share one flag, so that another thread or a signal
/// handler can set it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicUsize>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Shares a flag that other code sets, to any number but 0.
    pub fn of_flag(flag: Arc<AtomicUsize>) -> Cancel {
        Cancel(flag)
    }

    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Returns an error if the flag is set.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::interrupted())
        } else {
            Ok(())
        }
    }
}

impl PartialEq for Cancel {
    /// Whether both share one flag.
    fn eq(&self, other: &Cancel) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Cancel {}

/// The return type of a callback: `()`, or a [`ControlFlow`] that may stop the fit.
pub trait Flow {
    /// [`ControlFlow::Break`] stops the fit as [`Cancel`] does.
    fn flow(self) -> ControlFlow<()>;
}

impl Flow for () {
    fn flow(self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Flow for ControlFlow<()> {
    fn flow(self) -> ControlFlow<()> {
        self
    }
}

/// The callback and the [`Cancel`] of a fit.
pub(crate) struct Observer<'a> {
    callback: &'a mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
    cancel: Option<&'a Cancel>,
    broken: bool,
}

impl<'a> Observer<'a> {
    pub fn new(
        callback: &'a mut (dyn FnMut(Event) -> ControlFlow<()> + Send),
        cancel: Option<&'a Cancel>,
    ) -> Observer<'a> {
        Observer {
            callback,
            cancel,
            broken: false,
        }
    }

    /// Sends an event to the callback.
    pub fn tell(&mut self, event: Event) {
        self.broken |= (self.callback)(event).is_break();
    }

    /// Whether the callback or [`Cancel`] stopped the fit.
    pub fn is_stopped(&self) -> bool {
        self.broken || self.cancel.is_some_and(Cancel::is_cancelled)
    }

    /// Returns an error if the fit was stopped.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() {
            return Err(Error::interrupted());
        }
        Ok(())
    }

    /// Sends the progress of the Gram matrix.
    ///
    /// # Errors
    /// As [`Observer::check`].
    pub fn columns(&mut self, columns: usize, of: usize) -> Result<()> {
        self.tell(Event::GramMatrix { columns, of });
        self.check()
    }
}
