//! Runs a fit on another thread while the calling thread forwards its events and sums to Python.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use flowreg::comm::Comm;
use flowreg::{Cancel, Event};
use numpy::ToPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{matrix, set_model};
use crate::comm::{Ranks, Sum};
use crate::errors::{in_python_names, of_panic, to_python};
use crate::path::set_report;

/// Interval at which the calling thread checks for Ctrl-C.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Capacity of the queue of events: small, because events of held-out rows are large.
const QUEUE_CAPACITY: usize = 4;

/// What the thread of a fit asks of the calling thread.
pub(crate) enum Request {
    Event(Event),
    Sum(Sum),
}

/// Runs `work` with the interpreter released. The calling thread passes events to `callback` and
/// warnings to Python's `warnings`. If one of them raises, or Ctrl-C is pressed, `work` is cancelled
/// and the exception is raised.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    cancel: &Cancel,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut (dyn FnMut(Event) + Send)) -> flowreg::Result<T> + Send,
) -> PyResult<T> {
    run_on_ranks(py, cancel, callback, None, |tell, _| work(tell))
}

/// [`run`] with the ranks of a communicator of Python, which `work` may use. The calling thread serves
/// sums and events in the order in which `work` makes them. An exception of a callback therefore ends
/// `work` at the same sum on all ranks, if all raise it for the same event. An exception of a sum ends
/// `work`, too.
pub(crate) fn run_on_ranks<T: Send>(
    py: Python<'_>,
    cancel: &Cancel,
    callback: Option<Py<PyAny>>,
    comm: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&mut (dyn FnMut(Event) + Send), Option<&dyn Comm>) -> flowreg::Result<T> + Send,
) -> PyResult<T> {
    let wants_all = callback.is_some();
    let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
    let ranks = comm
        .map(|comm| Ranks::new(comm, sender.clone()))
        .transpose()?;
    let comm = comm.map(|comm| comm.clone().unbind());
    let mut serve = |request: Request| {
        Python::attach(|py| match (request, &callback) {
            (Request::Sum(sum), _) => {
                sum.serve(py, comm.as_ref().expect("sums are of a communicator"))
            }
            (Request::Event(Event::Warning(text)), _) => warn(py, &text),
            (_, None) => Ok(()),
            (Request::Event(event), Some(callback)) => match to_dict(py, event)? {
                None => Ok(()),
                Some(event) => callback.call1(py, (event,)).map(|_| ()),
            },
        })
    };
    py.detach(|| {
        thread::scope(|scope| {
            let fit = scope.spawn(move || {
                let comm = ranks.as_ref().map(|ranks| ranks as &dyn Comm);
                let mut tell = |event| {
                    if wants_all || matches!(event, Event::Warning(_)) {
                        // Sending fails after the fit is cancelled.
                        let _ = sender.send(Request::Event(event));
                    }
                };
                work(&mut tell, comm)
            });
            let forwarded = forward(&receiver, &mut serve);
            if forwarded.is_err() {
                cancel.cancel();
            }
            drop(receiver);
            let result = fit.join();
            forwarded?;
            match result {
                Ok(result) => result.map_err(to_python),
                Err(payload) => Err(of_panic(&*payload)),
            }
        })
    })
}

/// Issues a Python warning for the line that called the package.
fn warn(py: Python<'_>, text: &str) -> PyResult<()> {
    let module = py.import("flowreg._warnings")?;
    module.call_method1("warn", (in_python_names(text),))?;
    Ok(())
}

/// Calls `serve` with each request until the fit ends, and checks for Ctrl-C at intervals.
fn forward(
    receiver: &Receiver<Request>,
    serve: &mut impl FnMut(Request) -> PyResult<()>,
) -> PyResult<()> {
    let mut last_check = Instant::now();
    loop {
        match receiver.recv_timeout(POLL_INTERVAL) {
            Ok(request) => serve(request)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if last_check.elapsed() >= POLL_INTERVAL {
            Python::attach(|py| py.check_signals())?;
            last_check = Instant::now();
        }
    }
}

/// The event as a dict, with its kind in `event`; `None` for events that are not passed to Python.
fn to_dict(py: Python<'_>, event: Event) -> PyResult<Option<Bound<'_, PyDict>>> {
    let dict = PyDict::new(py);
    let kind = match event {
        Event::GramMatrix { columns, of } => {
            dict.set_item("done", columns)?;
            dict.set_item("total", of)?;
            "gram_matrix"
        }
        Event::Step { l2, fold, step } => {
            dict.set_item("l2", l2)?;
            dict.set_item("fold", fold)?;
            dict.set_item("iteration", step.iteration)?;
            dict.set_item("objective", step.objective)?;
            dict.set_item("gradient_norm", step.gradient_norm)?;
            "step"
        }
        Event::Epoch(epoch) => {
            set_epoch(&dict, &epoch)?;
            "epoch"
        }
        Event::HeldOut(held_out) => {
            dict.set_item("fold", held_out.fold)?;
            dict.set_item("l2", held_out.l2)?;
            dict.set_item("rows", held_out.rows.to_pyarray(py))?;
            dict.set_item("logits", matrix(py, held_out.logits, held_out.outputs)?)?;
            set_report(&dict, &held_out.report)?;
            "held_out"
        }
        Event::Solved(solved) => {
            dict.set_item("fold", solved.fold)?;
            dict.set_item("l2", solved.l2)?;
            set_model(&dict, &solved.model)?;
            set_report(&dict, &solved.report)?;
            "solved"
        }
        // Without validation rows or folds there is no score.
        Event::Scored(entry) if entry.val_loss.is_some() => {
            dict.set_item("l2", entry.l2)?;
            dict.set_item("val_loss", entry.val_loss)?;
            dict.set_item("val_accuracy", entry.val_accuracy)?;
            "scored"
        }
        _ => return Ok(None),
    };
    dict.set_item("event", kind)?;
    Ok(Some(dict))
}

/// Sets the statistics of an epoch in `dict`.
pub(crate) fn set_epoch(dict: &Bound<'_, PyDict>, epoch: &flowreg::Epoch) -> PyResult<()> {
    dict.set_item("epoch", epoch.epoch)?;
    dict.set_item("lr", epoch.lr)?;
    dict.set_item("loss", epoch.loss)?;
    if let Some(loss) = epoch.val_loss {
        dict.set_item("val_loss", loss)?;
    }
    if let Some(accuracy) = epoch.val_accuracy {
        dict.set_item("val_accuracy", accuracy)?;
    }
    Ok(())
}
