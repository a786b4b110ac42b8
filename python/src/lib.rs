//! The compiled part of the Python package `flowreg`: the two fits, over NumPy arrays; models in
//! files; and, with the feature `cli`, the programs and the report.
//!
//! Labels are numbers from 0 here and features are f32; whatever else Python has is converted in
//! Python. A function takes keyword arguments and returns a dict of plain numbers and arrays.

mod arrays;
mod comm;
mod dataset;
mod errors;
mod model;
mod path;
#[cfg(feature = "cli")]
mod programs;
mod progress;
mod sgd;

use pyo3::prelude::*;

#[pymodule]
fn _flowreg(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(path::fit_path, module)?)?;
    module.add_function(wrap_pyfunction!(sgd::fit_sgd, module)?)?;
    module.add_function(wrap_pyfunction!(comm::instruction_set, module)?)?;
    module.add_function(wrap_pyfunction!(comm::are_rows_shared, module)?)?;
    module.add_function(wrap_pyfunction!(comm::share_of_rows, module)?)?;
    module.add_function(wrap_pyfunction!(dataset::available_memory, module)?)?;
    module.add_function(wrap_pyfunction!(dataset::verify_split, module)?)?;
    module.add_function(wrap_pyfunction!(model::load_model, module)?)?;
    module.add_function(wrap_pyfunction!(model::save_model, module)?)?;
    #[cfg(feature = "cli")]
    {
        module.add_function(wrap_pyfunction!(programs::main, module)?)?;
        module.add_function(wrap_pyfunction!(programs::report, module)?)?;
    }
    Ok(())
}
