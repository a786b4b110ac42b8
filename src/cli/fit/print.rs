//! Progress output of a run.

use std::ops::ControlFlow;
use std::path::Path;

use super::args::Args;
use super::converged::{self};
use super::data::Data;
use crate::cli::report;
use crate::cli::run_files::Summary;
use crate::comm::Comm;
use crate::design::plan::EngineKind;
use crate::kernels::Isa;
use crate::linalg::gemm::Gemm;
use crate::path::{PathFit, PathOptions, fit_path};
use crate::threads;
use crate::{
    Epoch, Evaluation, Event, Fit, FitOptions, LearningRate, Loss, Result, Samples, Schedule,
    Scores, Sgd, Splits, TrajectoryWriter, cli,
};

/// Runs a converged fit and prints a line for every penalty. On a terminal the progress bar shows
/// every step.
pub(super) fn converge_with_progress(splits: Splits, options: &PathOptions) -> Result<PathFit> {
    let bar = cli::progress(splits.train.features() as u64, "K");
    let fit = fit_path(splits, options, &mut |progress| match progress {
        Event::Engine(engine) => {
            let threads = threads::current();
            cli::info(format_args!(
                "  {engine}; {threads} threads, {}",
                Isa::current()
            ));
            converged::forecast(splits, options, threads);
        }
        Event::GramMatrix { columns, .. } => bar.set_position(columns as u64),
        Event::Resumed { done: steps } => {
            cli::info(format_args!("  resumed: {steps} steps were done before"))
        }
        Event::Step { l2, fold, step } => {
            let (iteration, objective) = (step.iteration, step.objective);
            let event = serde_json::json!({"l2": l2, "fold": fold, "iteration": iteration,
                "objective": objective, "gradient_norm": step.gradient_norm});
            if !cli::event("step", &event) {
                bar.set_message(format!(
                    "l2 {l2:.3e}, step {iteration}: objective {objective:.6}"
                ));
            }
        }
        Event::Scored(entry) if entry.val_loss.is_some() && !cli::event("penalty", &entry) => {
            bar.suspend(|| converged::print_entry(&entry));
        }
        Event::Warning(message) => bar.suspend(|| cli::warn(message)),
        _ => {}
    });
    bar.finish_and_clear();
    let fit = fit?;
    converged::print_converged(&fit, options);
    Ok(fit)
}

pub(super) fn end_laps_of_fit(stopwatch: &mut cli::Stopwatch, fit: &Fit) {
    let seconds = fit.timings;
    let parts = [
        ("standardization", seconds.scaling),
        ("W0, the initial weights", seconds.initial_weights),
        ("K = X Xᵀ", seconds.gram_matrix),
        ("Z0 = X W0ᵀ", seconds.initial_logits),
        ("largest eigenvalue", seconds.learning_rate),
        ("epochs", seconds.epochs),
        ("W = s W0 + Aᵀ X", seconds.weight),
    ];
    stopwatch.end_with_parts(&parts, "rest of the fit (threads, memory)");
}

pub(super) fn print_header(data: &Data, train: &Samples) {
    let (source, split) = (&data.source, data.name(data.train));
    let place = if data.splits[data.train].1.is_mapped() {
        "mapped"
    } else {
        "in memory"
    };
    let (n, d, classes) = (train.rows(), train.features(), train.classes());
    let loss = Loss::for_classes(classes);
    let c = loss.outputs(classes);
    let what = match loss {
        Loss::Softmax => "softmax",
        Loss::Logistic => "logistic",
    };
    cli::info(format_args!(
        "flowreg {}: {what} of {classes} classes on {source}, split {split}",
        env!("CARGO_PKG_VERSION"),
    ));
    cli::info(format_args!(
        "  X {n} x {d} f32, {place} ({:.1} MB); W {c} x {d}",
        (n * d * 4) as f64 / 1e6
    ));
}

/// Prints the share of each process: `own` are the samples of this one, of `all`.
pub(super) fn print_processes(comm: &dyn Comm, all: &Samples, own: &Samples, threads: usize) {
    let share = if own.shares_columns() {
        format!("{} columns", all.features().div_ceil(comm.size()))
    } else {
        format!("{} rows", all.rows().div_ceil(comm.size()))
    };
    cli::info(format_args!(
        "  {} of {}, each with about {share}",
        cli::counted(comm.size(), "process", "processes"),
        cli::counted(threads, "thread", "threads")
    ));
}

pub(super) fn print_sgd(n: usize, options: &FitOptions) {
    let sgd = &options.sgd;
    let batch = match sgd.batch_size {
        Some(rows) if rows < n => format!("{rows} rows per step"),
        _ => "full batch".to_string(),
    };
    let schedule = if sgd.schedule == Schedule::default() {
        String::new()
    } else {
        format!(" ({})", sgd.schedule)
    };
    cli::info(format_args!(
        "  sgd: lr {}{schedule}, {} epochs, {batch}, start {}",
        sgd.lr, sgd.epochs, options.init
    ));
}

/// Runs an SGD fit, prints a line for every tenth of the epochs, and writes the trajectory if the
/// options emit it. On a terminal the progress bar shows every epoch.
pub(super) fn fit_with_progress(
    splits: Splits,
    options: &FitOptions,
    trajectory: &Path,
) -> Result<Fit> {
    let epochs = options.sgd.epochs;
    let every = epochs.div_ceil(10).max(1);
    let mut bar = cli::progress(0, "K");
    let mut last = None;
    let writer = || TrajectoryWriter::create(trajectory);
    let mut writer = options.emit_coordinates.then(writer).transpose()?;
    let mut written = Ok(());
    let fit = crate::fit(splits, options, &mut |event| {
        match event {
            Event::Coordinates { values, .. } => {
                if let Some(writer) = &mut writer {
                    // Events may follow a failure until the fit stops.
                    if written.is_ok() {
                        written = writer.push(&values);
                    }
                }
                if written.is_err() {
                    return ControlFlow::Break(());
                }
            }
            Event::Planned(plan) => print_plan(plan, options, splits),
            Event::GramMatrix { columns, of } => {
                bar.set_length(of as u64);
                bar.set_position(columns as u64);
            }
            Event::Started { lr, lr_bound } => {
                bar.finish_and_clear();
                print_learning_rate(&options.sgd, lr, lr_bound);
                bar = cli::progress(epochs as u64, "epochs");
            }
            Event::Resumed { done: epochs } => {
                bar.set_position(epochs as u64);
                cli::info(format_args!("  resumed: {epochs} epochs were done before"));
            }
            Event::Epoch(epoch) => {
                let number = epoch.epoch;
                if cli::event("epoch", &epoch) {
                    return ControlFlow::Continue(());
                }
                bar.set_message(format!("loss {:.4}", epoch.loss));
                bar.inc(1);
                last = (number % every != 0).then_some(epoch);
                if last.is_none() {
                    bar.suspend(|| print_epoch(epoch));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    last.into_iter().for_each(print_epoch);
    written?;
    if let (Ok(_), Some(writer)) = (&fit, writer) {
        writer.finish()?;
    }
    fit
}

pub(super) fn print_plan(plan: crate::design::plan::Plan, options: &FitOptions, splits: Splits) {
    let threads = threads::current();
    cli::info(format_args!(
        "  {plan}; {threads} threads, {}",
        Isa::current()
    ));
    if splits.train.shares_columns() && plan.gram_flop > 2.0 * plan.primal_flop {
        cli::warn(format!(
            "processes that share the columns need K, which takes {:.0} times the work of the primal engine: a run without mpirun may be faster",
            plan.gram_flop / plan.primal_flop
        ));
    }
    let (flop, own) = match plan.engine {
        EngineKind::Gram => (plan.gram_flop, plan.gram_bytes as f64),
        EngineKind::Primal => (plan.primal_flop, 0.0),
    };
    // For a short fit, measuring the machine would take a noticeable share of the time.
    if flop < 2e11 {
        return;
    }
    let rows = splits.train.rows() + splits.validation.map_or(0, Samples::rows);
    let mapped = 4.0 * rows as f64 * splits.train.features() as f64;
    cli::forecast(
        flop / Gemm::new(options.backend, threads).rate(),
        own + mapped,
        0.0,
    );
}

pub(super) fn print_learning_rate(sgd: &Sgd, lr: f64, bound: Option<f64>) {
    let Some(bound) = bound else { return };
    // 2/L guarantees nothing for mini-batches or momentum; with decay it holds for loss + penalty.
    let plain = sgd.batch_size.is_none() && sgd.momentum == 0.0 && sgd.weight_decay == 0.0;
    if sgd.lr == LearningRate::Auto {
        let why = if plain {
            ", half of the bound for descent"
        } else {
            ""
        };
        cli::info(format_args!("  lr {lr:.4e} = 1/L{why}"));
    } else if lr > bound {
        let what = if plain { ", the bound for descent" } else { "" };
        cli::info(format_args!(
            "  lr {lr} is above {bound:.4e} = 2/L{what}: the loss may rise before it falls"
        ));
    }
}

pub(super) fn print_epoch(epoch: Epoch) {
    let validation = match (epoch.val_loss, epoch.val_accuracy) {
        (Some(loss), Some(accuracy)) => format!("  val loss {loss:.4}  accuracy {accuracy:.4}"),
        _ => String::new(),
    };
    cli::info(format_args!(
        "epoch {:5}  loss {:.4}{validation}",
        epoch.epoch, epoch.loss
    ));
}

pub(super) fn print_fitted(fit: &Fit) {
    let seconds = fit.timings.total();
    match fit.best_epoch {
        None => cli::info(format_args!("fitted in {seconds:.3} s")),
        Some(best) => cli::info(format_args!(
            "fitted in {seconds:.3} s; {} epochs, the model is that of epoch {best}",
            fit.history.len()
        )),
    }
}

pub(super) fn print_evaluation(
    split: &str,
    evaluation: Evaluation,
    scores: Option<&Scores>,
    note: &str,
) {
    let top5 = match scores {
        Some(scores) => format!(" (top-5 {:.4})", scores.top(5)),
        None => String::new(),
    };
    cli::info(format_args!(
        "{split:5} {:5} rows: accuracy {:.4}{top5}, loss {:.4}{note}",
        evaluation.rows, evaluation.accuracy, evaluation.loss
    ));
}

pub(super) fn print_written(out: &Path, args: &Args, files: &[&str], summary: &Summary) {
    cli::event("summary", summary);
    cli::info(format_args!("{}: {}", out.display(), files.join(", ")));
    if !args.no_report {
        let page = out.join(report::REPORT);
        cli::info(format_args!("report: open {} in a browser", page.display()));
    }
}
