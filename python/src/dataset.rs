//! Datasets of flowreg-prep, and the available memory.

use std::path::PathBuf;

use flowreg::design::plan;
use flowreg::{Cancel, Dataset, threads};
use pyo3::prelude::*;

use crate::progress::run;

/// Check the features and labels of a split against their checksums, and return the names of the
/// classes. The arrays are SPLIT.x.npy and SPLIT.y.npy in the directory.
#[pyfunction]
#[pyo3(signature = (directory, split, *, threads=None))]
pub(crate) fn verify_split(
    py: Python<'_>,
    directory: PathBuf,
    split: &str,
    threads: Option<usize>,
) -> PyResult<Vec<String>> {
    run(py, &Cancel::new(), None, |_| {
        let dataset = Dataset::open(&directory)?;
        threads::pool(threads)?.install(|| dataset.split(split))?;
        Ok(dataset.manifest().class_names.clone())
    })
}

/// Available memory in bytes; None if the system does not report it.
#[pyfunction]
pub(crate) fn available_memory() -> Option<u64> {
    plan::available_memory()
}
