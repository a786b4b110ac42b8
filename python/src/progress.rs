//! A fit on a thread of its own, while the calling thread listens.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use flowreg::{Cancel, Event};
use numpy::ToPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{matrix, set_model};
use crate::errors::{in_python_names, of_panic, to_python};
use crate::path::set_report;

/// How often the calling thread looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(20);
/// Events that wait to be told. Few, as those of held-out rows are large.
const WAITING: usize = 4;

/// Do `work` with the interpreter released. Events go to `callback` and warnings to Python's
/// `warnings`, from the calling thread. If one of them raises, or Ctrl-C is pressed, `work` is
/// cancelled and the exception is raised.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    cancel: &Cancel,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut (dyn FnMut(Event) + Send)) -> flowreg::Result<T> + Send,
) -> PyResult<T> {
    let wants_all = callback.is_some();
    let mut tell = |event: Event| {
        Python::attach(|py| match (&event, &callback) {
            (Event::Warning(text), _) => warn(py, text),
            (_, None) => Ok(()),
            (_, Some(callback)) => match to_dict(py, event)? {
                None => Ok(()),
                Some(event) => callback.call1(py, (event,)).map(|_| ()),
            },
        })
    };
    py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING);
            let fit = scope.spawn(move || {
                work(&mut |event| {
                    if wants_all || matches!(event, Event::Warning(_)) {
                        // Nobody listens any more once the fit is cancelled.
                        let _ = sender.send(event);
                    }
                })
            });
            let listened = listen(&receiver, &mut tell);
            if listened.is_err() {
                cancel.cancel();
            }
            drop(receiver);
            let ended = fit.join();
            listened?;
            match ended {
                Ok(result) => result.map_err(to_python),
                Err(payload) => Err(of_panic(&*payload)),
            }
        })
    })
}

/// Warn the line that called the package.
fn warn(py: Python<'_>, text: &str) -> PyResult<()> {
    let module = py.import("flowreg._warnings")?;
    module.call_method1("warn", (in_python_names(text),))?;
    Ok(())
}

/// Tell events until the fit ends; look for Ctrl-C now and then.
fn listen(
    receiver: &Receiver<Event>,
    tell: &mut impl FnMut(Event) -> PyResult<()>,
) -> PyResult<()> {
    let mut looked = Instant::now();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(event) => tell(event)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if looked.elapsed() >= LOOK {
            Python::attach(|py| py.check_signals())?;
            looked = Instant::now();
        }
    }
}

/// An event as a dict whose `event` says its kind; `None` for those that Python is not told.
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
        // Without rows to score by, a penalty that was fitted is scored by nothing.
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

/// Set what is known of an epoch.
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
