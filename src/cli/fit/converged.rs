//! The options of converged fits, and the lines printed about them.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{counted, info, signals};
use crate::design::plan::{EngineChoice, EngineKind};
use crate::design::samples::Splits;
use crate::design::scaler::Standardize;
use crate::error::{Error, Result};
use crate::linalg::gemm::{Backend, Gemm};
use crate::loss::weights::{ClassWeights, SampleWeights, read_weights};
use crate::model::calibrate::Calibration;
use crate::path::{FoldRows, Folds, Limit, Optimizer, PathFit, PathOptions, Penalty};
use crate::progress::PathEntry;
use crate::solver::report::{SolveReport, Status};

/// Options of `--optimizer newton` and `lbfgs`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Converged fits (--optimizer newton or lbfgs)")]
pub struct ConvergeArgs {
    /// Penalty of mean loss + (l2/2) |W|²: a number, or auto, chosen by --val-split or --cv
    /// [default: auto with --val-split or --cv, else --C 1]
    #[arg(long, value_name = "VALUE|auto", value_parser = penalty, conflicts_with_all = ["l2_path", "c"])]
    pub l2: Option<Penalty>,
    /// The penalty in scikit-learn's form: l2 = 1/(C n), where n is the sum of the rows' weights; inf
    /// is no penalty
    #[arg(long = "C", value_name = "VALUE", value_parser = value_of_c, conflicts_with = "l2_path")]
    pub c: Option<f64>,
    /// COUNT penalties, geometrically spaced from FROM down to TO, the strongest first; the best
    /// is chosen by --val-split or --cv
    #[arg(long, value_name = "FROM:TO:COUNT", value_parser = path)]
    pub l2_path: Option<Penalty>,
    /// Choose by cross-validation with this number of folds, stratified by class (seed: --seed)
    #[arg(long, value_name = "FOLDS")]
    pub cv: Option<usize>,
    /// With --cv, choose the penalty of lowest loss, or the strongest within one standard error of
    /// it
    #[arg(long, value_name = "RULE", default_value = "lowest", value_parser = ["lowest", "one-se"], requires = "cv")]
    pub cv_rule: String,
    /// Rows of the final fit with the chosen penalty: train, or all (train and --val-split)
    #[arg(long, value_name = "ROWS", default_value = "train", value_parser = ["train", "all"])]
    pub refit: String,
    /// Largest gradient norm of a converged fit, relative to that at W = 0; the gap must also be
    /// at most 100 times this share of the objective [default: 1e-5]
    #[arg(long, value_name = "SHARE", value_parser = crate::cli::finite)]
    pub tolerance: Option<f64>,
    /// Maximum number of steps for one penalty [default: 1000]
    #[arg(long, value_name = "N")]
    pub max_iterations: Option<usize>,
}

/// Options of every optimizer: weights, label smoothing and standardization.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data and model")]
pub struct WeightingArgs {
    /// Weights of the classes: balanced, or a text file with a number for each class
    #[arg(long, value_name = "balanced|FILE")]
    pub class_weight: Option<PathBuf>,
    /// Text file with a weight for each row of --train-split, those that --classes drops included:
    /// 0 removes a row, 2 repeats it
    #[arg(long, value_name = "FILE")]
    pub sample_weight: Option<PathBuf>,
    /// Share of every target that is spread over all classes, as torch's label_smoothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = crate::cli::finite)]
    pub label_smoothing: f64,
    /// Standardize a copy of the features for the fit: none, center, scale or both; the model
    /// applies to the original features
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub standardize: String,
    /// Find the temperature of lowest log-loss on --val-split and store it in the model, whose
    /// weights stay unchanged: flowreg-predict, exports, report and eval_loss use it
    #[arg(long)]
    pub calibrate: bool,
}

impl WeightingArgs {
    /// The file of the class weights, if one was given.
    fn class_file(&self) -> Option<&Path> {
        let path = self.class_weight.as_deref();
        path.filter(|path| path.as_os_str() != "balanced")
    }

    /// The files of weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        (self.class_file().into_iter()).chain(self.sample_weight.as_deref())
    }

    /// The weights and label smoothing as options of the library.
    pub fn weighting(&self) -> Result<SampleWeights> {
        let classes = match (&self.class_weight, self.class_file()) {
            (None, _) => ClassWeights::Equal,
            (Some(_), None) => ClassWeights::Balanced,
            (_, Some(path)) => ClassWeights::Given(read_weights(path)?),
        };
        let samples = self
            .sample_weight
            .as_deref()
            .map(read_weights)
            .transpose()?;
        let weighting = SampleWeights {
            classes,
            samples,
            label_smoothing: self.label_smoothing,
        };
        weighting.check()?;
        Ok(weighting)
    }
}

impl ConvergeArgs {
    /// The first given option that only converged fits have.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--l2", self.l2.is_some()),
            ("--C", self.c.is_some()),
            ("--l2-path", self.l2_path.is_some()),
            ("--cv", self.cv.is_some()),
            ("--refit", self.refit != "train"),
            ("--tolerance", self.tolerance.is_some()),
            ("--max-iterations", self.max_iterations.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given);
        given.next().map(|(option, _)| option)
    }

    /// The arguments as options of [`fit_path`](crate::fit_path).
    pub fn options(
        &self,
        optimizer: Optimizer,
        seed: u32,
        validated: bool,
        weighting: SampleWeights,
    ) -> PathOptions {
        let default = PathOptions::default();
        let chosen = self.cv.is_some() || validated;
        PathOptions {
            optimizer,
            penalty: (self.l2.clone())
                .or(self.c.map(Penalty::C))
                .or(self.l2_path.clone())
                .unwrap_or(if chosen {
                    Penalty::Auto
                } else {
                    default.penalty
                }),
            folds: self.cv.map(|count| Folds {
                rows: FoldRows::Stratified { count, seed },
                one_standard_error: self.cv_rule == "one-se",
            }),
            refit_all: self.refit == "all",
            weighting,
            standardize: Standardize::None,
            tolerance: self.tolerance.unwrap_or(default.tolerance),
            max_iterations: self.max_iterations.unwrap_or(default.max_iterations),
            engine: EngineChoice::Auto,
            backend: Backend::default(),
            checkpoints: None,
            threads: None,
            cancel: Some(signals::cancel()),
            ..default
        }
    }
}

/// Parses a penalty or `auto`, for clap.
fn penalty(text: &str) -> std::result::Result<Penalty, String> {
    match text {
        "auto" => Ok(Penalty::Auto),
        _ => crate::cli::finite(text)
            .map(Penalty::Value)
            .map_err(|why| format!("{why}, or auto")),
    }
}

/// Parses a value of C, for clap.
fn value_of_c(text: &str) -> std::result::Result<f64, String> {
    match text {
        "inf" => Ok(f64::INFINITY),
        _ => crate::cli::finite(text).map_err(|why| format!("{why}, or inf for no penalty")),
    }
}

/// Parses `FROM:TO:COUNT`, for clap.
fn path(text: &str) -> std::result::Result<Penalty, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [from, to, count] = parts[..] else {
        return Err("expected FROM:TO:COUNT such as 10:0.001:8".to_string());
    };
    let count = count.parse();
    Ok(Penalty::Path {
        from: crate::cli::finite(from)?,
        to: crate::cli::finite(to)?,
        count: count.map_err(|_| "expected a whole number of penalties".to_string())?,
    })
}

/// Prints the forecast of a long fit: time and memory of K (n <= d) or of the moments XᵀX. They are
/// computed once for all folds, and once more for each fold if K is scaled per fold.
pub fn forecast(splits: Splits, options: &PathOptions, threads: usize) {
    let x = splits.train.x();
    let (n, d) = (x.len() as f64, x.all_features() as f64);
    let scales = matches!(options.standardize, Standardize::Scale | Standardize::Both);
    let folds = match &options.folds {
        Some(folds) if scales && n <= d => folds.count(),
        _ => 0,
    };
    let side = n.min(d);
    let flop = (1 + folds) as f64 * n * d * side;
    // For a short fit, measuring the machine would take a noticeable share of the time.
    if flop < 1e11 {
        return;
    }
    // K is summed in f64, at half the speed; moments are in f32.
    let slower = if n <= d { 2.0 } else { 1.0 };
    let seconds = slower * flop / Gemm::new(options.backend, threads).rate();
    crate::cli::forecast(seconds, 28.0 * side * side + 4.0 * n * d, 0.0);
}

/// Prints the line of a penalty.
pub fn print_entry(entry: &PathEntry) {
    let mut line = format!("l2 {:<10.4e}", entry.l2);
    if let Some(loss) = entry.val_loss {
        line += &format!("  val loss {loss:.4}");
    }
    if let Some(error) = entry.val_loss_error {
        line += &format!(" ± {error:.4}");
    }
    if let Some(accuracy) = entry.val_accuracy {
        line += &format!("  accuracy {accuracy:.4}");
    }
    let report = entry.report;
    let steps = counted(report.iterations, "step", "steps");
    let (objective, status) = (report.objective, status_text(report.status));
    info(format_args!(
        "{line}  objective {objective:.6}, {steps}, {status}"
    ));
}

/// Prints the result, and on stderr a warning for each solve that did not converge.
pub fn print_converged(fit: &PathFit, options: &PathOptions) {
    let report = &fit.report;
    let gap = match (report.gap, report.decrement) {
        (Some(gap), _) => format!(", within {gap:.1e} of the optimum"),
        (None, Some(left)) => format!(", about {left:.1e} above the minimum"),
        (None, None) => String::new(),
    };
    let objective = match report.objective {
        small if small < 1e-3 => format!("{small:.6e}"),
        objective => format!("{objective:.8}"),
    };
    info(format_args!(
        "l2 {:.4e}: objective {objective}{gap}; gradient norm {:.1e}, {:.1e} at W = 0; {}, {:.3} s",
        fit.l2,
        report.gradient_norm,
        report.initial_gradient_norm,
        counted(report.iterations, "step", "steps"),
        fit.seconds
    ));
    if report.status != Status::Converged {
        let status = status_text(report.status);
        crate::cli::warn(format_args!(
            "not converged ({status}): {}",
            advice(fit, options)
        ));
    }
    print_edge(fit);
}

/// Why a fit did not converge, and the remedy.
fn advice(fit: &PathFit, options: &PathOptions) -> String {
    let report = &fit.report;
    let excess = excess(report, options.tolerance);
    match report.status {
        Status::Converged => String::new(),
        Status::IterationLimit => {
            let most = options.max_iterations;
            format!("{excess} after {most} steps; raise --max-iterations or --tolerance")
        }
        Status::Separable => "the classes are separable and l2 is 0, so the loss has no minimum: \
                              set --l2 above 0"
            .to_string(),
        Status::QuasiSeparable => {
            let class = match report.separated_class {
                Some(class) => format!("class {class} is"),
                None => "some rows are".to_string(),
            };
            format!(
                "{class} partly separated from the others and l2 is 0, so the loss has no \
                 minimum: set --l2 above 0"
            )
        }
        Status::PrecisionLimited => {
            let scaled = options.standardize != Standardize::None;
            match fit.limit {
                Some(Limit::Model) if scaled => format!(
                    "{excess}: rounding the model of the original features to f32 limits the \
                     precision; subtract each feature's mean before the rows are stored"
                ),
                Some(Limit::Model) => format!(
                    "{excess}: rounding the model to f32 limits the precision; try --standardize both \
                     or a larger --l2"
                ),
                _ if fit.engine == EngineKind::Primal && fit.gram_is_possible => {
                    format!(
                        "{excess}: products in f32 limit the precision; use --engine gram, which \
                         computes in f64"
                    )
                }
                _ if !scaled => format!(
                    "{excess}: rounding in the products limits the precision; try --standardize both, \
                     a larger --l2 or a larger --tolerance"
                ),
                _ => format!(
                    "{excess}: rounding in the products limits the precision; try a larger --l2 or a \
                     larger --tolerance"
                ),
            }
        }
    }
}

/// The quantity that is above its tolerance, in words.
fn excess(report: &SolveReport, tolerance: f64) -> String {
    let allowed = 100.0 * tolerance * report.objective;
    match (report.gap, report.decrement) {
        (Some(gap), _) if gap > allowed => {
            format!("the gap is {gap:.1e}, more than {allowed:.1e}")
        }
        (None, Some(left)) if left > allowed => {
            format!("the objective is about {left:.1e} above its minimum, more than {allowed:.1e}")
        }
        _ => {
            let of_start = tolerance * report.initial_gradient_norm;
            format!(
                "the gradient norm is {:.1e}; --tolerance requires at most {of_start:.1e}, and a gap \
                 of at most {allowed:.1e}",
                report.gradient_norm
            )
        }
    }
}

/// Warns if the chosen penalty is at the end of its path.
fn print_edge(fit: &PathFit) {
    let scored = fit.path.iter().filter(|entry| entry.val_loss.is_some());
    let (Some(first), Some(last)) = (scored.clone().next(), scored.clone().next_back()) else {
        return;
    };
    let further = match fit.l2 {
        _ if fit.path.len() < 2 => return,
        l2 if l2 == first.l2 => ("strongest", "upwards"),
        l2 if l2 == last.l2 => ("weakest", "downwards"),
        _ => return,
    };
    let (which, way) = further;
    crate::cli::warn(format_args!(
        "the chosen penalty, l2 {:.4e}, is the {which} of its path: extend the path {way} with \
         --l2-path",
        fit.l2
    ));
}

/// Prints the loss before and after calibration, and a warning if the temperature is unreliable.
pub fn print_calibration(split: &str, found: &Calibration) {
    let (temperature, before, after) = (found.temperature, found.before, found.after);
    info(format_args!(
        "temperature {temperature:.4} on {split}: log-loss {:.4} -> {:.4}, calibration error {:.4} -> {:.4}",
        before.log_loss, after.log_loss, before.calibration_error, after.calibration_error
    ));
    if found.separable {
        crate::cli::warn(format_args!(
            "temperature {temperature}: all rows of {split} are predicted correctly, so they do not \
             determine the temperature; calibrate on more rows, or fit without --calibrate"
        ));
    } else if found.at_bound {
        crate::cli::warn(format_args!(
            "temperature {temperature} is a bound of its range (0.01 to 100): the probabilities do \
             not fit the labels of {split}; check the labels, or fit without --calibrate"
        ));
    }
}

/// A status in words.
fn status_text(status: Status) -> &'static str {
    match status {
        Status::Converged => "converged",
        Status::IterationLimit => "iteration limit",
        Status::PrecisionLimited => "precision limited",
        Status::Separable => "separable",
        Status::QuasiSeparable => "quasi-separable",
    }
}

/// The error for `--calibrate` without validation rows.
pub fn no_rows_to_calibrate() -> Error {
    let expected = "--val-split (or --x-val): the temperature is fitted to its rows";
    Error::options("--calibrate", "no validation rows", expected)
}

/// The error for `--calibrate` with `--refit all`, which leaves no row for the temperature.
pub fn all_rows_fitted() -> Error {
    let expected = "--refit train: a temperature of fitted rows makes the model overconfident";
    Error::options("--calibrate", "--refit all", expected)
}

/// The error for an option that the optimizer does not have.
pub fn refuse(option: &'static str, optimizer: &str, expected: &str) -> Error {
    Error::options(option, format!("--optimizer {optimizer}"), expected)
}
