//! The files of a run: `history.jsonl`, `summary.json`, `model.safetensors`, `path.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::design::plan::EngineKind;
use crate::design::scaler::{Scaler, Standardize};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::publish::Staging;
use crate::model::calibrate::Calibration;
use crate::model::{MODEL, Model};
use crate::path::{Folds, Optimizer, PathFit, PathOptions};
use crate::sgd::{Fit, FitOptions, Timings};
use crate::solver::report::SolveReport;

/// One JSON object per epoch or step.
pub const HISTORY: &str = "history.jsonl";
/// Options and results.
pub const SUMMARY: &str = "summary.json";
/// Limit on the size of a summary, in bytes; a larger file is refused before it is read.
const MAX_SUMMARY: u64 = 1 << 20;
/// Gram coordinates of every epoch, with `--save-trajectory`.
pub const TRAJECTORY: &str = "trajectory.npy";
/// Gram coordinates of the model, with `--save-coordinates`: one row of [`TRAJECTORY`].
pub const COORDINATES: &str = "coordinates.npy";

/// Mean and deviation of the features to which [`COORDINATES`] belong, with `--standardize`.
pub const SCALING: &str = "scaling.safetensors";

/// The penalties of the path, if there are several.
pub const PATH: &str = "path.json";

/// `summary.json`. `train_seconds` is the time of the fit alone; after `--resume`, that of the last
/// process.
///
/// Accuracies and losses of `train_` and `eval_` are means over the rows, weighted by the sample
/// weights on the training split; they exclude class weights and label smoothing. With
/// `--calibrate`, `eval_loss` includes the temperature, like the probabilities of flowreg-predict
/// and of exports; `train_loss` and `objective` exclude it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The names suffice; docs/reference/files.md explains the file.
pub struct Summary {
    pub flowreg: &'static str,
    pub engine: EngineKind,
    pub instruction_set: String,
    pub gemm: String,
    pub threads: usize,
    #[serde(flatten)]
    pub how: SolverSummary,
    pub n: usize,
    pub d: usize,
    /// Outputs: 1 for two classes.
    pub c: usize,
    pub classes: usize,
    pub class_weights: String,
    pub sample_weights: bool,
    pub label_smoothing: f64,
    pub standardize: Standardize,
    pub train_split: String,
    pub val_split: Option<String>,
    pub eval_split: String,
    pub train_seconds: f64,
    pub train_accuracy: f64,
    pub train_loss: f64,
    pub eval_accuracy: f64,
    /// Share of rows whose label is among the five most probable classes.
    pub eval_top5: f64,
    pub eval_loss: f64,
    /// With `--calibrate`: `eval_loss` without the temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss_uncalibrated: Option<f64>,
    pub eval_rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

impl Summary {
    /// The title and the subtitle of the run's report; `source` names the source of the rows.
    pub fn headings(&self, source: &str) -> [String; 2] {
        let kind = if self.c == 1 { "Logistic" } else { "Softmax" };
        let title = format!("{kind} of {} classes on {source}", self.classes);
        let subtitle = format!(
            "{} of {} rows x {} features, {} on {} threads, finished; flowreg {}",
            self.train_split, self.n, self.d, self.engine, self.threads, self.flowreg,
        );
        [title, subtitle]
    }
}

/// The part of the summary that depends on the optimizer.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum SolverSummary {
    /// Of an SGD fit.
    Sgd(SgdSummary),
    /// Of a converged fit.
    Converged(PathSummary),
}

/// The summary of an SGD fit. `epochs` is the number of epochs run; `seconds` add up to
/// `train_seconds`.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct SgdSummary {
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
    pub early_stopping: Option<usize>,
    pub best_epoch: Option<usize>,
    pub seconds: Timings,
}

/// The summary of a converged fit: the given or chosen penalty and the report of its solve, whose
/// steps are `iterations`.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct PathSummary {
    pub optimizer: Optimizer,
    pub l2: f64,
    pub tolerance: f64,
    #[serde(flatten)]
    pub report: SolveReport,
    pub penalties_tried: usize,
    pub folds: Option<usize>,
    pub refit_all: bool,
}

impl From<(&FitOptions, &Fit)> for SolverSummary {
    fn from((options, fit): (&FitOptions, &Fit)) -> SolverSummary {
        let sgd = &options.sgd;
        SolverSummary::Sgd(SgdSummary {
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
            early_stopping: options.early_stopping,
            best_epoch: fit.best_epoch,
            seconds: fit.timings,
        })
    }
}

impl From<(&PathOptions, &PathFit)> for SolverSummary {
    fn from((options, fit): (&PathOptions, &PathFit)) -> SolverSummary {
        SolverSummary::Converged(PathSummary {
            optimizer: options.optimizer,
            l2: fit.l2,
            tolerance: options.tolerance,
            report: fit.report,
            penalties_tried: fit.path.len(),
            folds: options.folds.as_ref().map(Folds::count),
            refit_all: options.refit_all,
        })
    }
}

/// Writes the model into the temporary directory of the run.
pub fn write_model(staging: &Staging, model: &Model) -> Result<()> {
    model.save(staging.dir().join(MODEL))
}

/// Writes history and summary into the temporary directory of the run; the caller publishes it.
///
/// `history` has one object per epoch or step.
pub fn write(staging: &Staging, history: &[impl Serialize], summary: &Summary) -> Result<()> {
    let lines = history.iter();
    let lines: String = lines
        .map(|line| serde_json::to_string(line).expect("plain data") + "\n")
        .collect();
    staging.write(HISTORY, lines.as_bytes())?;
    write_json(staging, SUMMARY, summary)
}

/// Writes a value as JSON into the temporary directory of the run.
pub fn write_json(staging: &Staging, name: &str, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(value).expect("plain data");
    json.push(b'\n');
    staging.write(name, &json)
}

/// The part of `summary.json` that later commands read.
#[derive(Clone, Debug, Deserialize)]
pub struct Fitted {
    /// Split that was fitted.
    pub train_split: String,
    /// Classes that were fitted.
    pub classes: usize,
    /// The standardization of the features.
    #[serde(default)]
    pub standardize: Standardize,
}

impl Fitted {
    /// The scale of the features to which the coordinates belong; `None` without standardization.
    ///
    /// # Errors
    /// Those of [`Scaler::load`].
    pub fn scaler(&self, run: &Path) -> Result<Option<Scaler>> {
        match self.standardize {
            Standardize::None => Ok(None),
            _ => Scaler::load(run.join(SCALING)).map(Some),
        }
    }
}

/// Reads the summary of a run directory.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`].
pub fn read_summary(run: &Path) -> Result<Fitted> {
    let path = run.join(SUMMARY);
    let doing = "open the run's summary (give the run's directory, not its model file)";
    let bytes = files::read(&path, doing, MAX_SUMMARY)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::format(&path, "json", error, "a summary written by flowreg-fit"))
}
