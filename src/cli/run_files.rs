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

/// One JSON object an epoch.
pub const HISTORY: &str = "history.jsonl";
/// Options and results.
pub const SUMMARY: &str = "summary.json";
/// Summaries are small; more is refused before it is read.
const MAX_SUMMARY: u64 = 1 << 20;
/// Every epoch's Gram coordinates, if they were asked for.
pub const TRAJECTORY: &str = "trajectory.npy";
/// The model in Gram coordinates, if they were asked for: one row of [`TRAJECTORY`].
pub const COORDINATES: &str = "coordinates.npy";

/// Mean and deviation of the features that [`COORDINATES`] belong to, if they were standardized.
pub const SCALING: &str = "scaling.safetensors";

/// The penalties that were tried, if there were several.
pub const PATH: &str = "path.json";

/// `summary.json`. `train_seconds` is fitting and nothing else; after `--resume`, of the last
/// process only.
///
/// Accuracies and losses of `train_` and `eval_` are means over the rows, in which a row of the
/// split that was fitted counts by its sample weight; class weights and label smoothing do not
/// enter. With `--calibrate`, `eval_loss` is of the probabilities that flowreg-predict and exports
/// give, and `train_loss` (like `objective`) of those without the temperature.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The field names say it; README explains the file.
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
    /// The heading of the run's report, and the line below it; `source` is where the rows came from.
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

/// What is particular to an optimizer.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum SolverSummary {
    /// By torch's rule.
    Sgd(SgdSummary),
    /// To the optimum.
    Converged(PathSummary),
}

/// `epochs` are those that were run; `seconds` add up to `train_seconds`.
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

/// The penalty that was given or chosen, and the end of the search; `iterations` are its own.
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

/// Write the model into an output in the making.
pub fn write_model(staging: &Staging, model: &Model) -> Result<()> {
    model.save(staging.dir().join(MODEL))
}

/// Write what there is to say about a fit into an output in the making; the caller publishes it.
///
/// `history` is one object an epoch or step.
pub fn write(staging: &Staging, history: &[impl Serialize], summary: &Summary) -> Result<()> {
    let lines = history.iter();
    let lines: String = lines
        .map(|line| serde_json::to_string(line).expect("plain data") + "\n")
        .collect();
    staging.write(HISTORY, lines.as_bytes())?;
    write_json(staging, SUMMARY, summary)
}

/// Write a value as JSON into an output in the making.
pub fn write_json(staging: &Staging, name: &str, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(value).expect("plain data");
    json.push(b'\n');
    staging.write(name, &json)
}

/// What a later command needs to know of a finished run.
#[derive(Clone, Debug, Deserialize)]
pub struct Fitted {
    /// Split that was fitted.
    pub train_split: String,
    /// Classes that were fitted.
    pub classes: usize,
    /// What `--standardize` did: none, center, scale or both.
    #[serde(default)]
    pub standardize: Standardize,
}

impl Fitted {
    /// The scale of the features that the coordinates belong to; `None` if it is their own.
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
