//! The command line of flowreg-fit.

use std::path::PathBuf;

use super::converged::{ConvergeArgs, WeightingArgs};
use crate::{Every, LearningRate, cli};
use clap::{Parser, Subcommand};

/// Fit a linear softmax or logistic classifier to a prepared dataset.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "flowreg-fit",
    version,
    allow_negative_numbers = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  flowreg-fit --demo --out demo-run
  flowreg-fit flowers --recipe softmax-fast --out run
  flowreg-fit flowers --recipe softmax-slow --epochs 300 --out run
  flowreg-fit flowers --classes 2 --lr 1e-4 --momentum 0.9 --nesterov --out run
  flowreg-fit flowers --lr 1e-3 --batch-size 64 --weight-decay 1e-4 --threads 1 --out run
  flowreg-fit flowers --init run/model.safetensors --epochs 50 --out more
  flowreg-fit flowers --lr auto --epochs 2000 --val-split val --early-stopping 50 --out run
  flowreg-fit flowers --optimizer newton --l2 0.3 --out run
  flowreg-fit flowers --optimizer newton --l2 auto --val-split val --refit all --out run
  flowreg-fit flowers --optimizer newton --l2-path 10:1e-3:10 --cv 5 --cv-rule one-se --out run
  flowreg-fit flowers --lr 0.01 --lr-schedule cosine --lr-warmup 5 --momentum 0.9 --out run
  flowreg-fit --x x.npy --y y.npy --x-val xv.npy --y-val yv.npy --lr auto --epochs 2000 --out run
  flowreg-fit flowers --epochs 100000 --checkpoint-every 5m --resume --out run
  flowreg-fit compare run more --out compare.html
  flowreg-fit export run --out exported
  flowreg-fit plan --rows 1281167 --features 2048 --classes 1000 --processes 8
  mpirun -n 4 flowreg-fit flowers --out run        (a build with --features mpi)

The run directory holds model.safetensors (weight, bias), history.jsonl (each epoch's
learning rate, the loss before its step, validation loss and accuracy after it),
summary.json, report.html with curve.svg, confusion.svg and weights.png, and
trajectory.npy and coordinates.npy with --save-trajectory and --save-coordinates.

The fit minimises the loss in history.jsonl or, in a converged fit, the objective; both include
class weights, sample weights and label smoothing. train_loss, val_loss and eval_loss are means
over rows, weighted by the sample weights if there are any; they include neither class weights
nor smoothing.

Ctrl-C and SIGTERM stop the fit after the current epoch or step, or while K is computed (a second
signal stops at once); after the last epoch or step the run is finished as usual. The state is
saved in RUN.checkpoint only with --checkpoint-every or --resume; a finished run removes it.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 69 another process of mpirun does not
answer (--timeout), 70 the loss is not finite (or a bug), 71 no memory (for K, or a file), 73 the
output exists or another process is writing it, 74 a file could not be read or written, 75 a
file changed while it was in use, 130 and 143 stopped by Ctrl-C or SIGTERM (a second one stops
at once).

FLOWREG_ISA forces an instruction set: avx512, avx2+fma, neon or portable."
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// Dataset directory, written by flowreg-prep
    #[arg(
        value_name = "DATASET",
        required_unless_present_any = ["demo", "x"],
        conflicts_with_all = ["demo", "x"]
    )]
    pub(super) dataset: Option<PathBuf>,
    /// Draw synthetic flowers, prepare and fit them, all inside --out
    #[arg(long)]
    pub(super) demo: bool,
    /// Directory of the run to write; it appears complete or not at all
    // An Option because a subcommand needs none.
    #[arg(long, value_name = "RUN", required = true)]
    pub(super) out: Option<PathBuf>,
    /// Replace the run if it exists
    #[arg(long)]
    pub(super) force: bool,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Write no report.html and none of its figures
    #[arg(long)]
    pub(super) no_report: bool,

    /// Features to fit instead of a dataset (rows x features): FILE.npy, or FILE.npz:NAME. <f4 in C
    /// order is mapped; other numbers are converted in memory (bytes are divided by 255)
    #[arg(long, value_name = "FILE", requires = "y", conflicts_with_all = ["demo", "train_split", "val_split", "eval_split"], help_heading = "Arrays")]
    pub(super) x: Option<PathBuf>,
    /// Labels of --x: whole numbers from 0, or text (classes in the order of numpy.unique)
    #[arg(long, value_name = "FILE", requires = "x", help_heading = "Arrays")]
    pub(super) y: Option<PathBuf>,
    /// Features to validate on after every epoch, and to evaluate
    #[arg(long, value_name = "FILE", requires_all = ["x", "y_val"], help_heading = "Arrays")]
    pub(super) x_val: Option<PathBuf>,
    /// Labels of --x-val
    #[arg(long, value_name = "FILE", requires_all = ["x_val"], help_heading = "Arrays")]
    pub(super) y_val: Option<PathBuf>,
    /// Label of the first class: 0 or 1 [default: 0]
    #[arg(long, value_name = "N", requires = "x", value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Arrays")]
    pub(super) labels_from: Option<u8>,
    /// Subtract a number near its mean from each column whose differences f32 would lose; the
    /// model stores the number, and flowreg-predict subtracts it, too
    #[arg(long, requires = "x", help_heading = "Arrays")]
    pub(super) center: bool,

    /// binary-slow, binary-fast, softmax-slow or softmax-fast; options below override it
    #[arg(long, value_name = "NAME", help_heading = "Data and model")]
    pub(super) recipe: Option<String>,
    /// Use only rows with labels below K; 2 classes have one logistic output, more have softmax
    /// [default: all]
    #[arg(long, value_name = "K", help_heading = "Data and model")]
    pub(super) classes: Option<usize>,
    /// Split to fit
    #[arg(
        long,
        value_name = "NAME",
        default_value = "train",
        help_heading = "Data and model"
    )]
    pub(super) train_split: String,
    /// Split to validate on after every epoch
    #[arg(long, value_name = "NAME", help_heading = "Data and model")]
    pub(super) val_split: Option<String>,
    /// Split to evaluate after the fit [default: test, else val, else --train-split]
    #[arg(long, value_name = "NAME", help_heading = "Data and model")]
    pub(super) eval_split: Option<String>,
    /// Initial weights: torch, zeros, or a model.safetensors file [default: torch]
    #[arg(long, value_name = "START", help_heading = "Data and model")]
    pub(super) init: Option<String>,
    /// Seed of torch's initial weights and of the order of mini-batches [default: 0]
    #[arg(long, value_name = "S", help_heading = "Data and model")]
    pub(super) seed: Option<u32>,

    /// sgd follows torch.optim.SGD, epoch by epoch; newton and lbfgs minimise mean loss +
    /// (l2/2) |W|², see below
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = ["sgd", "newton", "lbfgs"], help_heading = "Optimization")]
    pub(super) optimizer: String,
    /// Representation of the weight: gram (Gram coordinates, for fewer rows than features),
    /// primal (the weight itself), or auto, the cheaper one that fits the memory
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "Optimization"
    )]
    pub(super) engine: String,
    /// Library for matrix products: own, faer, matrixmultiply, or auto, the fastest for the shape
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "Optimization"
    )]
    pub(super) gemm: String,
    /// Print the time of each part of the run, and the peak memory without mapped files
    #[arg(long, help_heading = "Optimization")]
    pub(super) timings: bool,
    /// Passes over the rows [default: 100]
    #[arg(long, value_name = "N", help_heading = "Optimization")]
    pub(super) epochs: Option<usize>,
    /// Learning rate; auto is 1/L, half of the bound for full-batch descent [default: 0.01]
    #[arg(long, value_name = "RATE", value_parser = cli::learning_rate, help_heading = "Optimization")]
    pub(super) lr: Option<LearningRate>,
    /// Learning rate over the epochs, by torch's definitions: constant, step or cosine
    #[arg(long, value_name = "NAME", default_value = "constant", value_parser = ["constant", "step", "cosine"], help_heading = "Optimization")]
    pub(super) lr_schedule: String,
    /// Epochs between the steps of --lr-schedule step [default: 30]
    #[arg(long, value_name = "EPOCHS", help_heading = "Optimization")]
    pub(super) lr_step_size: Option<usize>,
    /// Factor of each step of --lr-schedule step [default: 0.1]
    #[arg(long, value_name = "FACTOR", value_parser = cli::finite, help_heading = "Optimization")]
    pub(super) lr_gamma: Option<f64>,
    /// Epochs in which the learning rate rises from a third, before the schedule begins
    #[arg(
        long,
        value_name = "EPOCHS",
        default_value_t = 0,
        help_heading = "Optimization"
    )]
    pub(super) lr_warmup: usize,
    /// Stop after PATIENCE epochs in a row without a lower validation loss, and keep the
    /// best epoch's model
    #[arg(long, value_name = "PATIENCE", help_heading = "Optimization")]
    pub(super) early_stopping: Option<usize>,
    /// Save the state in RUN.checkpoint, next to --out, every EPOCHS epochs (steps of newton and
    /// lbfgs) or every TIME (30s, 5m, 2h), and on Ctrl-C or SIGTERM
    #[arg(long, value_name = "EPOCHS|TIME", value_parser = cli::every, help_heading = "Optimization")]
    pub(super) checkpoint_every: Option<Every>,
    /// Continue from RUN.checkpoint, to the same bits as an uninterrupted run; start a new run if
    /// there is none. Needs the same data and options; saves the state on Ctrl-C or SIGTERM
    #[arg(long, help_heading = "Optimization")]
    pub(super) resume: bool,
    /// Write every epoch's Gram coordinates to trajectory.npy (4nc bytes per epoch); not with
    /// --checkpoint-every or --resume
    #[arg(long, help_heading = "Optimization")]
    pub(super) save_trajectory: bool,
    /// Write the Gram coordinates of a model of --optimizer sgd to coordinates.npy (4nc bytes), from
    /// which flowreg-predict --explain computes the contributions of training rows; uses the gram engine
    #[arg(long, help_heading = "Optimization")]
    pub(super) save_coordinates: bool,
    /// Momentum [default: 0]
    #[arg(long, value_name = "M", value_parser = cli::finite, help_heading = "Optimization")]
    pub(super) momentum: Option<f64>,
    /// Share of the gradient that is not added to the momentum buffer [default: 0]
    #[arg(long, value_name = "T", value_parser = cli::finite, help_heading = "Optimization")]
    pub(super) dampening: Option<f64>,
    /// Use Nesterov momentum
    #[arg(long, help_heading = "Optimization")]
    pub(super) nesterov: bool,
    /// Factor of weight and bias that is added to the gradient [default: 0]
    #[arg(long, value_name = "D", value_parser = cli::finite, help_heading = "Optimization")]
    pub(super) weight_decay: Option<f64>,
    /// Rows per step [default: all]
    #[arg(long, value_name = "ROWS", help_heading = "Optimization")]
    pub(super) batch_size: Option<usize>,

    /// Under mpirun: end all processes if one waits longer than TIME (30s, 5m, 2h) for the others
    /// [default: wait for ever]
    #[cfg(feature = "mpi")]
    #[arg(long, value_name = "TIME", value_parser = cli::time, help_heading = "Optimization")]
    pub(super) timeout: Option<std::time::Duration>,
    #[command(flatten)]
    pub(super) weighting: WeightingArgs,
    #[command(flatten)]
    pub(super) converge: ConvergeArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Compare finished runs in one page
    Compare(Compare),
    /// Write a model as ONNX and .npy files
    Export(Export),
    /// Print what several processes (mpirun) would share, send and compute
    Plan(PlanArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// Number of training rows
    #[arg(long, value_name = "N", value_parser = count())]
    pub(super) rows: usize,
    /// Number of features
    #[arg(long, value_name = "D", value_parser = count())]
    pub(super) features: usize,
    /// Number of classes
    #[arg(long, value_name = "K", value_parser = count())]
    pub(super) classes: usize,
    /// Number of processes
    #[arg(long, value_name = "P", value_parser = count())]
    pub(super) processes: usize,
    /// Bandwidth of the network between them, in Gb/s
    #[arg(long, value_name = "Gb/s", default_value_t = 10.0)]
    pub(super) gbits: f64,
    /// Time of an empty message, in microseconds
    #[arg(long, value_name = "µs", default_value_t = 30.0)]
    pub(super) latency_us: f64,
    /// Threads of each process [default: one per core of this machine]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
}

/// A whole number from 1 to 2³² - 1.
fn count() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(u32)
        .range(1..)
        .map(|count| count as usize)
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Compare {
    /// Run directories
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    pub(super) runs: Vec<PathBuf>,
    /// Page to write
    #[arg(long, value_name = "FILE", default_value = "compare.html")]
    pub(super) out: PathBuf,
    /// Replace the page if it exists
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Export {
    /// Run directory, or a model.safetensors file
    #[arg(value_name = "MODEL")]
    pub(super) model: PathBuf,
    /// Directory to write: model.onnx, weight.npy, bias.npy
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Replace the directory if it exists
    #[arg(long)]
    pub(super) force: bool,
}
