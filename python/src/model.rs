//! Models in files.

use std::path::PathBuf;

use flowreg::model::About;
use flowreg::{Cancel, Model, Overwrite};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{self, Start, set_model};
use crate::progress::run;

/// Read a model file, or that of a directory: `weight`, `bias`, and as JSON what is known of it,
/// `about`.
#[pyfunction]
pub(crate) fn load_model(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let model = run(py, &Cancel::new(), None, |_| {
        Model::load(Model::file_of(&path))
    })?;
    let dict = PyDict::new(py);
    set_model(&dict, &model)?;
    let about = serde_json::to_string(model.about()).expect("plain data");
    dict.set_item("about", about)?;
    Ok(dict)
}

/// Write a directory of a model and other files, given as pairs of name and content; complete or
/// not at all. It replaces only what this function wrote.
#[pyfunction]
#[pyo3(signature = (directory, weight, bias, about, files, *, overwrite=false))]
pub(crate) fn save_model(
    py: Python<'_>,
    directory: PathBuf,
    weight: numpy::PyReadonlyArray2<'_, f32>,
    bias: numpy::PyReadonlyArray1<'_, f32>,
    about: &str,
    files: Vec<(String, String)>,
    overwrite: bool,
) -> PyResult<()> {
    let model = described((weight, bias), about)?;
    let files: Vec<(&str, &[u8])> = (files.iter())
        .map(|(name, content)| (name.as_str(), content.as_bytes()))
        .collect();
    let overwrite = overwritten(overwrite);
    run(py, &Cancel::new(), None, |_| {
        model.save_directory(&directory, &files, overwrite)
    })
}

/// The model of a weight, a bias and what is known of it, as JSON.
pub(crate) fn described(parts: Start<'_>, about: &str) -> PyResult<Model> {
    let mut model = arrays::model(&parts)?;
    model.set_about(parsed::<About>("about", about)?);
    Ok(model)
}

/// What JSON holds.
pub(crate) fn parsed<T: serde::de::DeserializeOwned>(name: &str, json: &str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

/// What may be replaced.
pub(crate) fn overwritten(overwrite: bool) -> Overwrite {
    if overwrite {
        Overwrite::Replace
    } else {
        Overwrite::Never
    }
}
