//! Converged fits.

use flowreg::path::{Emit, Fold, Folds, Optimizer, Penalty};
use flowreg::{Cancel, EngineChoice, PathOptions, SolveReport, Status, fit_path as fit};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{self, Given, Labelled, Start, fit_given, set_model};
use crate::errors::to_python;
use crate::progress::run_on_ranks;

/// Minimise mean loss + (l2/2) |W|² for each of `values`, which are values of l2 or of scikit-learn's
/// C (`penalty`). The model is that of the penalty chosen by `folds` or `validation`; without them,
/// that of the weakest penalty. With `comm`, an object with `rank`, `size` and `sum`, `x` has this
/// rank's rows of X; everything else is of all rows and the same on all ranks.
#[pyfunction]
#[pyo3(signature = (
    x, labels, classes, *, penalty, values, solver="newton", tolerance=1e-5, fold_tolerance=1e-5,
    max_iterations=1000, fit_intercept=true, sample_weight=None, class_weight=None, start=None, folds=None,
    validation=None, held_out=false, models=false, engine="auto", threads=None, callback=None,
    comm=None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn fit_path<'py>(
    py: Python<'py>,
    x: numpy::PyReadonlyArray2<'py, f32>,
    labels: PyReadonlyArray1<'py, u32>,
    classes: usize,
    penalty: &str,
    values: Vec<f64>,
    solver: &str,
    tolerance: f64,
    fold_tolerance: f64,
    max_iterations: usize,
    fit_intercept: bool,
    sample_weight: Option<PyReadonlyArray1<'py, f64>>,
    class_weight: Option<PyReadonlyArray1<'py, f64>>,
    start: Option<Start<'py>>,
    folds: Option<Vec<(PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, u32>)>>,
    validation: Option<Labelled<'py>>,
    held_out: bool,
    models: bool,
    engine: &str,
    threads: Option<usize>,
    callback: Option<Py<PyAny>>,
    comm: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let train = Given::new(&x, &labels, classes)?;
    let validation = arrays::validation(&validation, classes)?;
    let cancel = Cancel::new();
    let options = PathOptions {
        optimizer: match solver {
            "newton" => Optimizer::Newton,
            "lbfgs" => Optimizer::Lbfgs,
            _ => return Err(unknown("solver", solver, "newton or lbfgs")),
        },
        penalty: match penalty {
            "C" => Penalty::Cs(values),
            "l2" => Penalty::List(values),
            _ => return Err(unknown("penalty", penalty, "C or l2")),
        },
        folds: folds.map(given_folds).transpose()?,
        emit: Emit { held_out, models },
        start: start.as_ref().map(arrays::model).transpose()?,
        fit_intercept,
        weighting: arrays::weighting(sample_weight, class_weight, 0.0)?,
        tolerance,
        fold_tolerance,
        max_iterations,
        engine: EngineChoice::named(engine).map_err(to_python)?,
        threads,
        cancel: Some(cancel.clone()),
        ..PathOptions::default()
    };
    let fit = run_on_ranks(py, &cancel, callback, comm.as_ref(), |tell, comm| {
        fit_given(&train, validation.as_ref(), comm, |splits| {
            fit(splits, &options, &mut |event| tell(event))
        })
    })?;
    let dict = PyDict::new(py);
    set_model(&dict, &fit.model)?;
    set_report(&dict, &fit.report)?;
    dict.set_item("l2", fit.l2)?;
    dict.set_item("engine", fit.engine.to_string())?;
    dict.set_item("threads", fit.threads)?;
    dict.set_item("seconds", fit.seconds)?;
    Ok(dict)
}

/// The exception for an unknown value of an option.
pub(crate) fn unknown(option: &str, found: &str, expected: &str) -> PyErr {
    PyValueError::new_err(format!("{option}: found {found:?}, expected {expected}"))
}

fn given_folds(
    folds: Vec<(PyReadonlyArray1<'_, u32>, PyReadonlyArray1<'_, u32>)>,
) -> PyResult<Folds> {
    let fold = |(fitted, held_out): (PyReadonlyArray1<u32>, PyReadonlyArray1<u32>)| {
        Ok(Fold {
            fitted: fitted.as_slice()?.to_vec(),
            held_out: held_out.as_slice()?.to_vec(),
        })
    };
    let folds: PyResult<Vec<Fold>> = folds.into_iter().map(fold).collect();
    Ok(Folds::given(folds?))
}

/// Sets the status and the measurements of a solve in `dict`.
pub(crate) fn set_report(dict: &Bound<'_, PyDict>, report: &SolveReport) -> PyResult<()> {
    let status = match report.status {
        Status::Converged => "converged",
        Status::IterationLimit => "iteration_limit",
        Status::PrecisionLimited => "precision_limited",
        Status::Separable => "separable",
        Status::QuasiSeparable => "quasi_separable",
        _ => "other",
    };
    dict.set_item("status", status)?;
    dict.set_item("objective", report.objective)?;
    dict.set_item("loss", report.loss)?;
    dict.set_item("gap", report.gap)?;
    dict.set_item("gradient_norm", report.gradient_norm)?;
    dict.set_item("initial_gradient_norm", report.initial_gradient_norm)?;
    dict.set_item("iterations", report.iterations)
}
