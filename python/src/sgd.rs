//! Fits that follow torch's SGD.

use std::sync::Arc;

use flowreg::{Cancel, Decay, EngineChoice, FitOptions, Init, LearningRate, Schedule, fit};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::arrays::{self, Given, Labelled, Start, fit_given, set_model};
use crate::errors::to_python;
use crate::path::unknown;
use crate::progress::{run_on_ranks, set_epoch};

/// Minimise the mean loss by torch.optim.SGD. `lr=None` is 1/L, where L is a Lipschitz constant of the
/// gradient. `start` is a weight and a bias; if it is given, `init` is ignored. `comm` is
/// as of `fit_path`; the validation rows are this rank's, too, and their labels those of all.
#[pyfunction]
#[pyo3(signature = (
    x, labels, classes, *, lr=0.01, epochs=100, momentum=0.0, dampening=0.0, nesterov=false,
    weight_decay=0.0, batch_size=None, seed=0, schedule="constant", step_size=30, gamma=0.1,
    warmup=0, init="torch", start=None, early_stopping=None, sample_weight=None,
    class_weight=None, label_smoothing=0.0, validation=None, engine="auto", threads=None,
    callback=None, fit_intercept=true, comm=None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn fit_sgd<'py>(
    py: Python<'py>,
    x: numpy::PyReadonlyArray2<'py, f32>,
    labels: PyReadonlyArray1<'py, u32>,
    classes: usize,
    lr: Option<f64>,
    epochs: usize,
    momentum: f64,
    dampening: f64,
    nesterov: bool,
    weight_decay: f64,
    batch_size: Option<usize>,
    seed: u32,
    schedule: &str,
    step_size: usize,
    gamma: f64,
    warmup: usize,
    init: &str,
    start: Option<Start<'py>>,
    early_stopping: Option<usize>,
    sample_weight: Option<PyReadonlyArray1<'py, f64>>,
    class_weight: Option<PyReadonlyArray1<'py, f64>>,
    label_smoothing: f64,
    validation: Option<Labelled<'py>>,
    engine: &str,
    threads: Option<usize>,
    callback: Option<Py<PyAny>>,
    fit_intercept: bool,
    comm: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let train = Given::new(&x, &labels, classes)?;
    let validation = arrays::validation(&validation, classes)?;
    let cancel = Cancel::new();
    let mut options = FitOptions {
        init: match (&start, init) {
            (Some(start), _) => Init::Model {
                model: Arc::new(arrays::model(start)?),
                path: "state_dict".into(),
            },
            (None, "torch") => Init::Torch { seed },
            (None, "zeros") => Init::Zeros,
            _ => return Err(unknown("init", init, "torch or zeros")),
        },
        engine: EngineChoice::named(engine).map_err(to_python)?,
        fit_intercept,
        weighting: arrays::weighting(sample_weight, class_weight, label_smoothing)?,
        early_stopping,
        threads,
        cancel: Some(cancel.clone()),
        ..FitOptions::default()
    };
    options.sgd.lr = match lr {
        Some(lr) => LearningRate::Fixed(lr),
        None => LearningRate::Auto,
    };
    options.sgd.schedule = Schedule {
        decay: match schedule {
            "constant" => Decay::Constant,
            "step" => Decay::Step {
                size: step_size,
                gamma,
            },
            "cosine" => Decay::Cosine,
            _ => return Err(unknown("schedule", schedule, "constant, step or cosine")),
        },
        warmup,
    };
    options.sgd.epochs = epochs;
    options.sgd.momentum = momentum;
    options.sgd.dampening = dampening;
    options.sgd.nesterov = nesterov;
    options.sgd.weight_decay = weight_decay;
    options.sgd.batch_size = batch_size;
    options.sgd.seed = seed;
    let fit = run_on_ranks(py, &cancel, callback, comm.as_ref(), |tell, comm| {
        fit_given(&train, validation.as_ref(), comm, |splits| {
            fit(splits, &options, &mut |event| tell(event))
        })
    })?;
    let dict = PyDict::new(py);
    set_model(&dict, &fit.model)?;
    let history = PyList::empty(py);
    for epoch in &fit.history {
        let entry = PyDict::new(py);
        set_epoch(&entry, epoch)?;
        history.append(entry)?;
    }
    dict.set_item("history", history)?;
    dict.set_item("lr", fit.lr)?;
    dict.set_item("lr_bound", fit.lr_bound)?;
    dict.set_item("best_epoch", fit.best_epoch)?;
    dict.set_item("engine", fit.plan.engine.to_string())?;
    dict.set_item("threads", fit.threads)?;
    Ok(dict)
}
