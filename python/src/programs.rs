//! The programs of the command line, and the page that they write.

use std::ffi::OsString;
use std::path::PathBuf;

use flowreg::cli;
use flowreg::cli::report::{Evaluated, Report, SIGNATURE};
use flowreg::io::publish::write_file;
use flowreg::{Cancel, Epoch, threads};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::arrays::{self, Given, Labelled};
use crate::errors::to_python;
use crate::model::{described, overwritten, parsed};
use crate::path::unknown;
use crate::progress::run;

/// Run a program, "prep", "fit" or "predict", as its binary does, and return its exit code. It takes
/// over the process: the handlers of signals and of panics. For processes that do nothing else.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, program: &str, arguments: Vec<OsString>) -> PyResult<u8> {
    let main: fn(Vec<OsString>) -> u8 = match program {
        "prep" => |all| cli::prep::main(all),
        "fit" => |all| cli::fit::main(all),
        "predict" => |all| cli::predict::main(all),
        _ => return Err(unknown("program", program, "prep, fit or predict")),
    };
    let name = OsString::from(format!("flowreg-{program}"));
    let all = std::iter::once(name).chain(arguments).collect();
    Ok(py.detach(|| {
        cli::own_process();
        main(all)
    }))
}

/// What a report says beside the model and its scores.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    title: String,
    subtitle: String,
    summary: Value,
    history: Vec<Epoch>,
    path: Option<Vec<Value>>,
    /// What the evaluated rows are called.
    split: String,
}

/// Write the report of a model, on labelled `rows` if there are any; `about` and `content` are JSON.
#[pyfunction]
#[pyo3(signature = (path, weight, bias, about, content, rows=None, *, overwrite=false, threads=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn report(
    py: Python<'_>,
    path: PathBuf,
    weight: numpy::PyReadonlyArray2<'_, f32>,
    bias: numpy::PyReadonlyArray1<'_, f32>,
    about: &str,
    content: &str,
    rows: Option<Labelled<'_>>,
    overwrite: bool,
    threads: Option<usize>,
) -> PyResult<()> {
    let model = described((weight, bias), about)?;
    let content: Content = parsed("content", content)?;
    let rows = arrays::validation(&rows, model.classes())?;
    let samples = rows.as_ref().map(Given::samples).transpose();
    let samples = samples.map_err(to_python)?;
    run(py, &Cancel::new(), None, |_| {
        threads::pool(threads)?.install(|| {
            let scores = samples.as_ref().map(|rows| model.score(rows)).transpose()?;
            let evaluated = samples.as_ref().zip(scores.as_ref());
            let report = Report {
                title: &content.title,
                subtitle: &content.subtitle,
                summary: &content.summary,
                history: &content.history,
                model: &model,
                evaluated: evaluated.map(|(samples, scores)| Evaluated {
                    split: &content.split,
                    scores,
                    rows: samples.x(),
                    files: None,
                }),
                path: content.path.as_deref(),
            };
            write_file(
                &path,
                |start| start.starts_with(SIGNATURE),
                report.html().as_bytes(),
                overwritten(overwrite),
                &[],
            )
        })
    })
}
