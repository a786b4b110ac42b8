//! The files of a run: `history.jsonl`, `summary.json`, `model.safetensors`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::samples::Samples;
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::eval::Scores;
use crate::files;
use crate::fit::{Fit, FitOptions, Timings};
use crate::kernels::Isa;
use crate::model::{Evaluation, Model};
use crate::monitor::Epoch;
use crate::publish::Staging;

/// One JSON object an epoch.
pub const HISTORY: &str = "history.jsonl";
/// Options and results.
pub const SUMMARY: &str = "summary.json";
/// Summaries are small; more is refused before it is read.
const MAX_SUMMARY: u64 = 1 << 20;
/// Weight, bias and what they mean.
pub const MODEL: &str = "model.safetensors";
/// Every epoch's Gram coordinates, if they were asked for.
pub const TRAJECTORY: &str = "trajectory.npy";
/// The model in Gram coordinates, if they were asked for: one row of [`TRAJECTORY`].
pub const COORDINATES: &str = "coordinates.npy";

/// `summary.json`. Losses are means over rows; `epochs` are those that were run;
/// `train_seconds` is fitting and nothing else, and the sum of `seconds`; after `--resume`, of
/// the last process only.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The field names say it; README explains the file.
pub struct Summary {
    pub flowreg: &'static str,
    pub engine: Kind,
    pub instruction_set: String,
    pub gemm: String,
    pub threads: usize,
    pub optimizer: &'static str,
    pub epochs: usize,
    pub lr: f64,
    pub lr_bound: Option<f64>,
    pub lr_schedule: String,
    pub momentum: f64,
    pub dampening: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub batch_size: Option<usize>,
    pub seed: u32,
    pub init: String,
    pub n: usize,
    pub d: usize,
    /// Outputs: 1 for two classes.
    pub c: usize,
    pub classes: usize,
    pub train_split: String,
    pub val_split: Option<String>,
    pub early_stopping: Option<usize>,
    pub best_epoch: Option<usize>,
    pub eval_split: String,
    pub train_seconds: f64,
    pub seconds: Timings,
    pub train_accuracy: f64,
    pub train_loss: f64,
    pub eval_accuracy: f64,
    /// Share of rows whose label is among the five most probable classes.
    pub eval_top5: f64,
    pub eval_loss: f64,
    pub eval_rows: usize,
}

impl Summary {
    /// A finished fit with its evaluations, each with the name of its split.
    pub fn new(
        options: &FitOptions,
        fit: &Fit,
        train: &Samples,
        (train_split, on_train): (String, Evaluation),
        val_split: Option<String>,
        (eval_split, scores): (String, &Scores),
    ) -> Summary {
        let sgd = &options.sgd;
        let on_eval = scores.evaluation;
        Summary {
            flowreg: env!("CARGO_PKG_VERSION"),
            engine: fit.plan.engine,
            instruction_set: Isa::current().to_string(),
            gemm: options.backend.to_string(),
            threads: fit.threads,
            optimizer: "sgd",
            epochs: fit.history.len(),
            lr: fit.lr,
            lr_bound: fit.lr_bound,
            lr_schedule: sgd.schedule.to_string(),
            momentum: sgd.momentum,
            dampening: sgd.dampening,
            nesterov: sgd.nesterov,
            weight_decay: sgd.weight_decay,
            batch_size: sgd.batch_size,
            seed: sgd.seed,
            init: options.init.to_string(),
            n: train.rows(),
            d: train.features(),
            c: fit.model.bias().len(),
            classes: train.classes(),
            train_split,
            val_split,
            early_stopping: options.early_stopping,
            best_epoch: fit.best_epoch,
            eval_split,
            train_seconds: fit.timings.total(),
            seconds: fit.timings,
            train_accuracy: on_train.accuracy,
            train_loss: on_train.loss,
            eval_accuracy: on_eval.accuracy,
            eval_top5: scores.top(5),
            eval_loss: on_eval.loss,
            eval_rows: on_eval.rows,
        }
    }
}

/// The model file of a run directory, or the file itself.
pub fn model_file(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join(MODEL),
        false => path.to_path_buf(),
    }
}

/// Write the model into an output in the making.
pub fn write_model(staging: &Staging, model: &Model) -> Result<()> {
    model.save(staging.dir().join(MODEL))
}

/// Write what there is to say about a fit into an output in the making; the caller publishes it.
pub fn write(staging: &Staging, fit: &Fit, summary: &Summary) -> Result<()> {
    staging.write(HISTORY, history_lines(&fit.history).as_bytes())?;
    let mut json = serde_json::to_vec_pretty(summary).expect("plain data");
    json.push(b'\n');
    staging.write(SUMMARY, &json)
}

fn history_lines(history: &[Epoch]) -> String {
    (history.iter())
        .map(|epoch| serde_json::to_string(epoch).expect("plain data") + "\n")
        .collect()
}

/// What a later command needs to know of a finished run.
#[derive(Clone, Debug, Deserialize)]
pub struct Fitted {
    /// Split that was fitted.
    pub train_split: String,
    /// Classes that were fitted.
    pub classes: usize,
}

/// Read the summary of a run directory.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`].
pub fn read_summary(run: &Path) -> Result<Fitted> {
    let path = run.join(SUMMARY);
    let doing = "open the run's summary (give the run's directory, not its model file)";
    let bytes = files::read(&path, doing, MAX_SUMMARY)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::format(&path, "json", error, "what flowreg-fit writes"))
}
