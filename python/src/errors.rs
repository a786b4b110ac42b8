//! Conversion of flowreg's errors to Python exceptions.

use std::any::Any;
use std::io;

use flowreg::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyFileExistsError, PyMemoryError, PyOSError, PyRuntimeError, PyValueError};

/// What the library calls a parameter, and what Python does.
const NAMES: [(&str, &str); 7] = [
    ("`optimizer`", "`solver`"),
    ("`tolerance`", "`tol`"),
    ("`fold_tolerance`", "`fold_tol`"),
    ("`max_iterations`", "`max_iter`"),
    ("`threads`", "`n_threads`"),
    ("`force`", "`overwrite`"),
    ("`lr_schedule`", "`schedule`"),
];

/// The text of an error or a warning, with Python's names of parameters.
pub(crate) fn in_python_names(text: &str) -> String {
    let rename = |text: String, (library, python): (&str, &str)| text.replace(library, python);
    NAMES.into_iter().fold(text.to_string(), rename)
}

/// The exception of an error, with its text.
pub(crate) fn to_python(error: Error) -> PyErr {
    let text = in_python_names(&error.to_string());
    match error {
        Error::Options { .. }
        | Error::Shape { .. }
        | Error::Format { .. }
        | Error::Npy { .. }
        | Error::Tensors { .. } => PyValueError::new_err(text),
        Error::Memory { .. } => PyMemoryError::new_err(text),
        // The kind selects the subclass of OSError.
        Error::Io { source, .. } => io::Error::new(source.kind(), text).into(),
        Error::Exists { .. } | Error::Checkpoint { .. } => PyFileExistsError::new_err(text),
        Error::Locked { .. } | Error::Changed { .. } => PyOSError::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}

/// The exception of a panic.
pub(crate) fn of_panic(payload: &(dyn Any + Send)) -> PyErr {
    let message = (payload.downcast_ref::<&str>().copied())
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    PyRuntimeError::new_err(format!(
        "flowreg: internal fault: {message}; please report it"
    ))
}
