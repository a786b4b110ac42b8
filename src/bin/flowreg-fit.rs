//! Dataset to model.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use flowreg::cli::converged::{self, ConvergeArgs, WeightingArgs};
use flowreg::converge::{ConvergeOptions, Converged, Optimizer, PathEntry, Progress, converge};
use flowreg::data::arrays;
use flowreg::data::checks;
use flowreg::data::dataset::{NumberFormat, Transform};
use flowreg::data::demo::{self, DemoOptions};
use flowreg::data::flowers102::{self, Verify};
use flowreg::data::npy;
use flowreg::data::prep::{self, PrepOptions};
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::engine::{self, Choice, Kind};
use flowreg::gemm::{Backend, Gemm};
use flowreg::kernels::Isa;
use flowreg::model::calibrate::calibrate_logits;
use flowreg::model::{About, Logits};
use flowreg::optim::descent::Step;
use flowreg::publish::{OutputKind, Overwrite, Staging, write_file};
use flowreg::report::{self, Report};
use flowreg::run::{self, How, Summary};
use flowreg::weighting::Weighting;
use flowreg::{Checkpoints, Every};
use flowreg::{Dataset, Model, Samples, Scores, Split, Splits, cli, export, threads};
use flowreg::{Decay, Epoch, Event, LearningRate, Schedule, Sgd};
use flowreg::{Error, Evaluation, Fit, FitOptions, Init, Loss, Recipe, Result};

/// Fit a linear softmax or logistic classifier to a prepared dataset.
#[derive(Parser)]
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

The run directory holds model.safetensors (weight, bias), history.jsonl (each epoch's
learning rate, the loss before its step, validation loss and accuracy after it),
summary.json, report.html with curve.svg, confusion.svg and weights.png, and
trajectory.npy and coordinates.npy if asked for.

The loss in history.jsonl and the objective of a converged fit are what is minimised: class
weights, sample weights and label smoothing enter. train_loss, val_loss and eval_loss are plain
means over rows, in which a row counts by its sample weight if it has one; class weights and
smoothing do not enter.

Ctrl-C and SIGTERM stop after the epoch or step at hand, and while K is made (a second one stops
at once); after the last epoch or step the run is finished as usual. The state is kept, in
RUN.checkpoint, only with --checkpoint-every or --resume; a finished run removes it.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 the loss was no number any more
(or a bug), 71 no memory (for K, or a file), 73 the output exists or another process is
writing it, 74 a file could not be read or written, 75 a file changed while it was in use,
130 and 143 stopped by Ctrl-C or SIGTERM (a second one stops at once).

FLOWREG_ISA forces an instruction set: avx512, avx2+fma, neon or portable."
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Dataset directory, written by flowreg-prep
    #[arg(
        value_name = "DATASET",
        required_unless_present_any = ["demo", "x"],
        conflicts_with_all = ["demo", "x"]
    )]
    dataset: Option<PathBuf>,
    /// Draw synthetic flowers, prepare them and fit them, all below --out
    #[arg(long)]
    demo: bool,
    /// Directory of the run to write; it appears complete or not at all
    // An option only because a subcommand needs none.
    #[arg(long, value_name = "RUN", required = true)]
    out: Option<PathBuf>,
    /// Replace the run if it exists
    #[arg(long)]
    force: bool,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write no report.html and none of its figures
    #[arg(long)]
    no_report: bool,

    /// Features to fit instead of a dataset (rows x features): FILE.npy, or FILE.npz:NAME. <f4 in C
    /// order is mapped, other numbers are converted in memory (bytes are divided by 255)
    #[arg(long, value_name = "FILE", requires = "y", conflicts_with_all = ["demo", "train_split", "val_split", "eval_split"], help_heading = "Arrays")]
    x: Option<PathBuf>,
    /// Their labels: whole numbers from 0, or text (classes in the order of numpy.unique)
    #[arg(long, value_name = "FILE", requires = "x", help_heading = "Arrays")]
    y: Option<PathBuf>,
    /// Features to validate on after every epoch, and to evaluate
    #[arg(long, value_name = "FILE", requires_all = ["x", "y_val"], help_heading = "Arrays")]
    x_val: Option<PathBuf>,
    /// Their labels
    #[arg(long, value_name = "FILE", requires_all = ["x_val"], help_heading = "Arrays")]
    y_val: Option<PathBuf>,
    /// Label of the first class: 0 or 1 [default: 0]
    #[arg(long, value_name = "N", requires = "x", value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Arrays")]
    labels_from: Option<u8>,
    /// Subtract a number near the mean from each column whose differences f32 would lose; the
    /// model stores it, and flowreg-predict subtracts it, too
    #[arg(long, requires = "x", help_heading = "Arrays")]
    center: bool,

    /// binary-slow, binary-fast, softmax-slow or softmax-fast; options below override it
    #[arg(long, value_name = "NAME", help_heading = "What to fit")]
    recipe: Option<String>,
    /// Use the labels below K; 2 fit one logistic output, more fit softmax [default: all]
    #[arg(long, value_name = "K", help_heading = "What to fit")]
    classes: Option<usize>,
    /// Split to fit
    #[arg(
        long,
        value_name = "NAME",
        default_value = "train",
        help_heading = "What to fit"
    )]
    train_split: String,
    /// Split to validate on after every epoch
    #[arg(long, value_name = "NAME", help_heading = "What to fit")]
    val_split: Option<String>,
    /// Split to evaluate afterwards [default: test, or val, or the one fitted]
    #[arg(long, value_name = "NAME", help_heading = "What to fit")]
    eval_split: Option<String>,
    /// Initial weights: torch, zeros, or a model.safetensors file [default: torch]
    #[arg(long, value_name = "START", help_heading = "What to fit")]
    init: Option<String>,
    /// Seed of torch's weights and of the order of mini-batches [default: 0]
    #[arg(long, value_name = "S", help_heading = "What to fit")]
    seed: Option<u32>,

    /// sgd follows torch.optim.SGD, epoch by epoch; newton and lbfgs go to the optimum of mean
    /// loss + (l2/2) |W|², see below
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = ["sgd", "newton", "lbfgs"], help_heading = "How to fit")]
    optimizer: String,
    /// How the weight is represented: gram (in Gram coordinates, for fewer rows than
    /// features), primal (as it is), or auto, the cheaper one that fits the memory
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "How to fit"
    )]
    engine: String,
    /// Who multiplies matrices: own, faer, matrixmultiply, or auto, the fastest for the shape
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "How to fit"
    )]
    gemm: String,
    /// Say where the time went, from the arguments to the last page given back, and the most
    /// memory held beside the maps
    #[arg(long, help_heading = "How to fit")]
    timings: bool,
    /// Passes over the rows [default: 100]
    #[arg(long, value_name = "N", help_heading = "How to fit")]
    epochs: Option<usize>,
    /// Learning rate; auto is 1/L, half of what guarantees full-batch descent [default: 0.01]
    #[arg(long, value_name = "RATE", value_parser = cli::learning_rate, help_heading = "How to fit")]
    lr: Option<LearningRate>,
    /// Learning rate over the epochs, by torch's definitions: constant, step or cosine
    #[arg(long, value_name = "NAME", default_value = "constant", value_parser = ["constant", "step", "cosine"], help_heading = "How to fit")]
    lr_schedule: String,
    /// Epochs between the steps of --lr-schedule step [default: 30]
    #[arg(long, value_name = "EPOCHS", help_heading = "How to fit")]
    lr_step_size: Option<usize>,
    /// Factor of each step of --lr-schedule step [default: 0.1]
    #[arg(long, value_name = "FACTOR", value_parser = cli::finite, help_heading = "How to fit")]
    lr_gamma: Option<f64>,
    /// Epochs in which the learning rate rises from a third, before the schedule begins
    #[arg(
        long,
        value_name = "EPOCHS",
        default_value_t = 0,
        help_heading = "How to fit"
    )]
    lr_warmup: usize,
    /// Stop when so many epochs in a row brought no lower validation loss, and keep the
    /// best epoch's model
    #[arg(long, value_name = "PATIENCE", help_heading = "How to fit")]
    early_stopping: Option<usize>,
    /// Save the state beside --out, in RUN.checkpoint, after so many epochs (steps of newton and
    /// lbfgs), or after so long (30s, 5m, 2h), and on Ctrl-C or SIGTERM
    #[arg(long, value_name = "EPOCHS|TIME", value_parser = cli::every, help_heading = "How to fit")]
    checkpoint_every: Option<Every>,
    /// Continue from RUN.checkpoint, to the same bits as an unbroken run; begin if it is not
    /// there. Needs the same data and options; saves the state on Ctrl-C or SIGTERM
    #[arg(long, help_heading = "How to fit")]
    resume: bool,
    /// Write every epoch's Gram coordinates to trajectory.npy (4nc bytes an epoch), in one go:
    /// not with --checkpoint-every or --resume
    #[arg(long, help_heading = "How to fit")]
    save_trajectory: bool,
    /// Write the model's Gram coordinates to coordinates.npy (4nc bytes), with which
    /// flowreg-predict --explain names the photographs behind a prediction; fits with the gram
    /// engine
    #[arg(long, help_heading = "How to fit")]
    save_coordinates: bool,
    /// Momentum [default: 0]
    #[arg(long, value_name = "M", value_parser = cli::finite, help_heading = "How to fit")]
    momentum: Option<f64>,
    /// Share of the gradient kept out of the momentum [default: 0]
    #[arg(long, value_name = "T", value_parser = cli::finite, help_heading = "How to fit")]
    dampening: Option<f64>,
    /// Nesterov's momentum
    #[arg(long, help_heading = "How to fit")]
    nesterov: bool,
    /// Added to the gradient, times weight and bias [default: 0]
    #[arg(long, value_name = "D", value_parser = cli::finite, help_heading = "How to fit")]
    weight_decay: Option<f64>,
    /// Rows a step [default: all]
    #[arg(long, value_name = "ROWS", help_heading = "How to fit")]
    batch_size: Option<usize>,

    #[command(flatten)]
    weighting: WeightingArgs,
    #[command(flatten)]
    converge: ConvergeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Lay finished runs over one another, in one page
    Compare(Compare),
    /// Write a model as ONNX and as .npy
    Export(Export),
}

#[derive(clap::Args)]
struct Compare {
    /// Run directories
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,
    /// Page to write
    #[arg(long, value_name = "FILE", default_value = "compare.html")]
    out: PathBuf,
    /// Replace the page if it exists
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct Export {
    /// Run directory, or a model.safetensors file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Directory to write: model.onnx, weight.npy, bias.npy
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the directory if it exists
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    cli::main("flowreg-fit", |args: Args| match &args.command {
        None => run(args),
        Some(Command::Compare(args)) => compare(args),
        Some(Command::Export(args)) => export(args),
    })
}

fn compare(args: &Compare) -> Result<()> {
    let page = report::compare(&args.runs)?;
    let runs: Vec<&Path> = args.runs.iter().map(PathBuf::as_path).collect();
    let overwrite = Overwrite::forced(args.force);
    write_file(
        &args.out,
        |start| start.starts_with(report::SIGNATURE),
        page.as_bytes(),
        overwrite,
        &runs,
    )?;
    cli::say(format_args!(
        "{}: {} runs",
        args.out.display(),
        args.runs.len()
    ));
    Ok(())
}

fn export(args: &Export) -> Result<()> {
    let model = Model::load(run::model_file(&args.model))?;
    let staging = Staging::begin(
        &args.out,
        OutputKind::Export,
        Overwrite::forced(args.force),
        &[&args.model],
    )?;
    let files = export::write(&staging, &model)?;
    staging.publish()?;
    cli::say(format_args!("{}: {}", args.out.display(), files.join(", ")));
    let numbers = model.about().numbers.as_ref();
    if numbers.is_some_and(|numbers| numbers.scale.is_some()) {
        let (weight, onnx) = (export::WEIGHT, export::ONNX);
        cli::say(format_args!(
            "  {weight} is for bytes divided by 255; {onnx} divides them itself"
        ));
    }
    if files.contains(&export::SHIFT) {
        let (weight, shift, onnx) = (export::WEIGHT, export::SHIFT, export::ONNX);
        cli::say(format_args!(
            "  {weight} is for rows less {shift}, subtracted in f64; {onnx} subtracts it itself"
        ));
    }
    Ok(())
}

/// The rows of a run, mapped, each split once.
struct Data {
    source: String,
    class_names: Vec<String>,
    transform: Option<Transform>,
    numbers: Option<NumberFormat>,
    /// Name and rows.
    splits: Vec<(String, Split)>,
    /// Places in `splits`.
    train: usize,
    val: Option<usize>,
    eval: usize,
}

impl Data {
    fn open(args: &Args, staging: &Staging) -> Result<Data> {
        match (&args.dataset, &args.x, &args.y) {
            (Some(directory), ..) => Data::of_dataset(directory, args),
            (None, Some(x), Some(y)) => Data::of_arrays(x, y, args),
            _ => Data::of_dataset(&prepare_demo(staging)?, args),
        }
    }

    fn of_dataset(directory: &Path, args: &Args) -> Result<Data> {
        let dataset = Dataset::open(directory)?;
        let manifest = dataset.manifest();
        let there = |name: &&str| manifest.splits.iter().any(|split| split.name == *name);
        let eval = (args.eval_split.as_deref())
            .or(["test", "val"].into_iter().find(there))
            .unwrap_or(&args.train_split);
        // Before the first of them is verified.
        let validated = args.val_split.as_deref();
        for name in [&*args.train_split, eval].into_iter().chain(validated) {
            dataset.entry(name)?;
        }
        let mut splits: Vec<(String, Split)> = Vec::new();
        let mut place = |name: &str| -> Result<usize> {
            if let Some(place) = splits.iter().position(|(known, _)| known == name) {
                return Ok(place);
            }
            splits.push((name.to_string(), dataset.split(name)?));
            Ok(splits.len() - 1)
        };
        Ok(Data {
            train: place(&args.train_split)?,
            val: args.val_split.as_deref().map(&mut place).transpose()?,
            eval: place(eval)?,
            source: manifest.source.clone(),
            class_names: manifest.class_names.clone(),
            transform: manifest.transform.clone(),
            numbers: manifest.numbers.clone(),
            splits,
        })
    }

    fn of_arrays(x: &Path, y: &Path, args: &Args) -> Result<Data> {
        let part = |name, x: &Path, y: &Path| arrays::ArrayPart {
            name,
            x: x.to_path_buf(),
            y: y.to_path_buf(),
        };
        let mut parts = vec![part("train", x, y)];
        if let (Some(x), Some(y)) = (&args.x_val, &args.y_val) {
            parts.push(part("val", x, y));
        }
        let options = arrays::ArrayOptions {
            labels_from: args.labels_from.unwrap_or(0),
            center: args.center,
        };
        let loaded = arrays::load(&parts, options, &|path, bytes| {
            let bytes = cli::bytes(bytes as f64);
            cli::say(format_args!(
                "{}: converted to f32 in memory, {bytes}",
                path.display()
            ));
        })?;
        let name = x.file_name().unwrap_or_default().to_string_lossy();
        let val = parts.len() - 1;
        let names = parts.iter().map(|part| part.name.to_string());
        Ok(Data {
            source: name.into_owned(),
            class_names: loaded.class_names,
            transform: None,
            numbers: Some(loaded.numbers),
            train: 0,
            val: (val > 0).then_some(val),
            eval: val,
            splits: names.zip(loaded.splits).collect(),
        })
    }

    fn name(&self, split: usize) -> &str {
        &self.splits[split].0
    }

    /// The classes asked for, else those of all splits. A dataset names its classes; of arrays
    /// there may be more than the labels need.
    fn classes(&self, asked: Option<usize>) -> Result<usize> {
        let known = self.class_names.len();
        match asked {
            Some(classes) if known > 0 && !(2..=known).contains(&classes) => Err(Error::Options {
                option: "--classes",
                found: classes.to_string(),
                expected: format!("2..={known}, the classes of this dataset (arrays take more)"),
            }),
            Some(classes) => Ok(classes),
            None => {
                let classes = self.splits.iter().map(|(_, split)| split.classes());
                Ok(classes.max().unwrap_or(2))
            }
        }
    }

    fn samples(&self, split: usize, classes: usize) -> Result<Samples<'_>> {
        self.splits[split].1.first_classes(classes)
    }

    /// Warn of classes that rows of another split have and the rows to fit have not.
    fn warn_of_missing_classes(&self, train: &Samples, split: usize, samples: &Samples) {
        let missing = samples.classes_missing_in(train);
        let missing: Vec<usize> = missing.into_iter().map(|class| class as usize).collect();
        let (split, train) = (self.name(split), self.name(self.train));
        if let Some(sentence) = checks::missing_in_train(split, train, &missing, &self.class_names)
        {
            cli::warn(sentence);
        }
    }

    /// The files of the rows of [`Data::samples`].
    fn files(&self, split: usize, classes: usize) -> Option<Vec<String>> {
        let split = &self.splits[split].1;
        let rows = split.files()?.iter().zip(split.labels());
        let kept = rows.filter(|(_, label)| **label < classes as i64);
        Some(kept.map(|(file, _)| file.clone()).collect())
    }

    /// Read the model that the fit begins at, if it does, and refuse one whose rows were made
    /// otherwise: its weight is of its own scale and its bias of its own shift. A bare state dict
    /// does not say.
    fn read_init(&self, init: &mut Init) -> Result<()> {
        let Init::File(path) = init else {
            return Ok(());
        };
        let (path, model) = (path.clone(), Arc::new(Model::load(path)?));
        *init = Init::Model {
            model: Arc::clone(&model),
            path: path.clone(),
        };
        let (known, rows) = (&model.about().numbers, &self.numbers);
        let shift = |numbers: &Option<NumberFormat>| numbers.as_ref()?.shift.clone();
        let other = if !model.is_described() {
            return Ok(());
        } else if shift(known) != shift(rows) {
            "shift"
        } else if let (Some(known), Some(rows)) = (known, rows)
            && known.scale != rows.scale
        {
            "scale"
        } else {
            return Ok(());
        };
        Err(Error::Format {
            path,
            field: format!("metadata flowreg.numbers.{other}"),
            found: format!("another {other} than the rows have"),
            expected: "a model of this dataset, or another start (--init torch)".to_string(),
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        (self.splits.iter()).try_for_each(|(_, split)| split.check_unchanged())
    }
}

fn run(args: Args) -> Result<()> {
    let mut laps = cli::Laps::new();
    let memory = args.timings.then(cli::PeakMemory::watch);
    let out = args.out.as_deref().expect("clap requires it");
    let mut plan = Plan::new(&args, out)?;
    let sources = sources(&args);
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    let staging = Staging::begin(
        out,
        OutputKind::Run,
        Overwrite::forced(args.force),
        &sources,
    )?;
    let pool = threads::pool(args.threads)?;
    let data = pool.install(|| Data::open(&args, &staging))?;
    if let Optimize::Sgd(options) = &mut plan.how {
        data.read_init(&mut options.init)?;
    }
    let classes = data.classes(plan.classes)?;
    let train = data.samples(data.train, classes)?;
    let val = (data.val.map(|val| data.samples(val, classes))).transpose()?;
    let eval = data.samples(data.eval, classes)?;
    let labels_path = data.splits[data.train].1.labels_path();
    let names = &data.class_names;
    checks::refuse_one_class(labels_path, train.labels(), names)?;
    let from_one = match args.dataset {
        Some(_) => "prepare the dataset again with --labels-from 1",
        None => "give --labels-from 1",
    };
    if let Some(sentence) = checks::absent_classes(train.labels(), classes, names, from_one) {
        cli::warn(sentence);
    }
    plan.weigh(&args, data.splits[data.train].1.labels(), &train)?;
    if let (Some(place), Some(val)) = (data.val, &val) {
        data.warn_of_missing_classes(&train, place, val);
    }
    if data.val != Some(data.eval) {
        data.warn_of_missing_classes(&train, data.eval, &eval);
    }
    let splits = Splits {
        train: &train,
        validation: val.as_ref(),
    };
    laps.end("options, dataset verified");

    say_header(&data, splits);
    let fitted = pool.install(|| plan.fit(splits, &staging, &mut laps));
    // First: it may be why the fit failed.
    data.check_unchanged()?;
    let mut fitted = fitted?;
    let logits = match val.as_ref().filter(|_| plan.calibrate) {
        Some(val) => Some(pool.install(|| fitted.model.logits(val))?),
        None => None,
    };
    let calibration = match (&val, &logits) {
        (Some(val), Some(logits)) => Some(pool.install(|| calibrate_logits(logits, val))?),
        _ => None,
    };
    fitted.model.set_about(About {
        class_names: (data.class_names.iter())
            .take(train.classes())
            .cloned()
            .collect(),
        transform: data.transform.clone(),
        numbers: data.numbers.clone(),
        temperature: calibration.map(|found| found.temperature),
    });

    laps.end("calibration");
    let weights = plan.weighting.samples.as_deref();
    let known = logits.as_ref().filter(|_| data.val == Some(data.eval));
    let eval_rows = (data.eval != data.train).then_some((&eval, known));
    let (on_train, scores) =
        pool.install(|| evaluate(&staging, &fitted, (&train, weights), eval_rows, &mut laps))?;
    // As during the fit: the temperature is for what comes after it.
    let on_train = Evaluation {
        loss: on_train.uncalibrated_loss,
        ..on_train
    };
    say_evaluation(data.name(data.train), on_train, None);
    // Five of five classes would say nothing.
    let scored = (train.classes() > 5).then_some(&scores);
    say_evaluation(data.name(data.eval), scores.evaluation, scored);
    if let (Some(found), Some(val)) = (&calibration, data.val) {
        converged::say_calibration(data.name(val), found);
    }
    let summary = Summary {
        flowreg: env!("CARGO_PKG_VERSION"),
        engine: fitted.engine,
        instruction_set: Isa::current().to_string(),
        gemm: args.gemm.clone(),
        threads: pool.current_num_threads(),
        how: fitted.how.clone(),
        n: train.rows(),
        d: train.features(),
        c: fitted.model.bias().len(),
        classes: train.classes(),
        class_weights: plan.weighting.classes.to_string(),
        sample_weights: plan.weighting.samples.is_some(),
        label_smoothing: plan.weighting.label_smoothing,
        standardize: plan.standardize,
        train_split: data.name(data.train).to_string(),
        val_split: data.val.map(|val| data.name(val).to_string()),
        eval_split: data.name(data.eval).to_string(),
        train_seconds: fitted.seconds,
        train_accuracy: on_train.accuracy,
        train_loss: on_train.loss,
        eval_accuracy: scores.evaluation.accuracy,
        eval_top5: scores.top(5),
        eval_loss: scores.evaluation.loss,
        eval_loss_uncalibrated: calibration.map(|_| scores.evaluation.uncalibrated_loss),
        eval_rows: scores.evaluation.rows,
        calibration,
    };
    let mut files = write_files(&args, &staging, &fitted, &summary)?;
    laps.end("other files written and flushed");
    if !args.no_report {
        let names = data.files(data.eval, classes);
        let path: Vec<serde_json::Value> = (fitted.path.iter())
            .map(|entry| serde_json::to_value(entry).expect("plain data"))
            .collect();
        let report = Report {
            source: &data.source,
            summary: &summary,
            history: &fitted.history.curve(),
            model: &fitted.model,
            scores: &scores,
            rows: eval.x(),
            files: names.as_deref(),
            path: (path.len() > 1).then_some(&path[..]),
        };
        files.extend(pool.install(|| report.write(&staging))?);
        laps.end("report and its figures");
    }
    data.check_unchanged()?;
    staging.publish()?;
    if let Some(checkpoints) = &plan.checkpoints {
        checkpoints.discard()?;
    }
    laps.end("directory published");
    say_written(out, &args, &files, &summary);
    if let Some(memory) = memory {
        drop((fitted, train, val, eval));
        drop(data);
        laps.end("memory and maps given back");
        laps.say();
        memory.say();
    }
    Ok(())
}

/// What the options ask for, checked before any work.
struct Plan {
    how: Optimize,
    classes: Option<usize>,
    weighting: Weighting,
    standardize: Standardize,
    checkpoints: Option<Checkpoints>,
    calibrate: bool,
}

/// By which optimizer.
enum Optimize {
    Sgd(FitOptions),
    Converge(ConvergeOptions),
}

/// What every optimizer gives.
struct Fitted {
    model: Model,
    how: How,
    engine: Kind,
    seconds: f64,
    history: History,
    path: Vec<PathEntry>,
    /// Logits of the rows fitted, where they are known.
    logits: Option<Logits>,
    /// s, b, A, where the Gram engine fitted.
    coordinates: Option<Vec<f32>>,
    /// The scale of the features that they belong to.
    scaler: Option<Scaler>,
}

impl Fitted {
    /// Why the rows that were fitted cannot be evaluated: after SGD, because it diverged.
    fn refused(&self, error: Error) -> Error {
        match (error, &self.history) {
            (Error::Overflow { value, .. }, History::Epochs(epochs)) if !epochs.is_empty() => {
                let last = epochs[epochs.len() - 1];
                Error::Diverged {
                    epoch: last.epoch,
                    what: "logits",
                    loss: value.into(),
                    lr: last.lr,
                }
            }
            (error, _) => error,
        }
    }
}

enum History {
    Epochs(Vec<Epoch>),
    Steps(Vec<Step>),
}

impl History {
    /// What the report draws: the loss of every epoch, or the objective of every step.
    fn curve(&self) -> Vec<Epoch> {
        match self {
            History::Epochs(epochs) => epochs.clone(),
            History::Steps(steps) => (steps.iter())
                .map(|step| Epoch {
                    epoch: step.iteration,
                    lr: 1.0,
                    loss: step.objective,
                    val_loss: None,
                    val_accuracy: None,
                })
                .collect(),
        }
    }
}

impl Plan {
    fn new(args: &Args, out: &Path) -> Result<Plan> {
        let weighting = args.weighting.weighting()?;
        let (mut sgd, classes) = fit_options(args)?;
        let standardize = Standardize::named(&args.weighting.standardize)?;
        let validated = args.val_split.is_some() || args.x_val.is_some();
        if args.weighting.calibrate && !validated {
            return Err(converged::no_rows_to_calibrate());
        }
        if args.weighting.calibrate && args.converge.refit == "all" {
            return Err(converged::all_rows_fitted());
        }
        let checkpoints = checkpoints(args, out)?;
        let how = match args.optimizer.as_str() {
            "sgd" => {
                if let Some(option) = args.converge.given() {
                    let expected = "--optimizer newton or lbfgs (sgd has --weight-decay)";
                    return Err(converged::refuse(option, "sgd", expected));
                }
                sgd.weighting = weighting.clone();
                sgd.checkpoints = checkpoints.clone();
                sgd.standardize = standardize;
                sgd.check(validated)?;
                Optimize::Sgd(sgd)
            }
            name => {
                if let Some(option) = of_sgd(args) {
                    return Err(converged::refuse(option, name, "--optimizer sgd"));
                }
                let optimizer = match name {
                    "lbfgs" => Optimizer::Lbfgs,
                    _ => Optimizer::Newton,
                };
                let seed = args.seed.unwrap_or(0);
                let options = &args.converge;
                let options = options.options(optimizer, seed, validated, weighting.clone());
                let options = ConvergeOptions {
                    standardize,
                    engine: sgd.engine,
                    backend: sgd.backend,
                    checkpoints: checkpoints.clone(),
                    threads: args.threads,
                    ..options
                };
                options.check(validated)?;
                Optimize::Converge(options)
            }
        };
        Ok(Plan {
            how,
            classes,
            weighting,
            standardize,
            checkpoints,
            calibrate: args.weighting.calibrate,
        })
    }

    /// Keep the weights of the rows to fit, `labels` being those of the whole split, and refuse
    /// what does not fit them.
    fn weigh(&mut self, args: &Args, labels: &[i64], train: &Samples) -> Result<()> {
        if let Some(path) = &args.weighting.sample_weight {
            (self.weighting).keep_first_classes(labels, train.classes(), path)?;
        }
        match &mut self.how {
            Optimize::Sgd(options) => options.weighting = self.weighting.clone(),
            Optimize::Converge(options) => options.weighting = self.weighting.clone(),
        }
        self.weighting.of(train).map(|_| ())
    }

    fn fit(&self, splits: Splits, staging: &Staging, laps: &mut cli::Laps) -> Result<Fitted> {
        match &self.how {
            Optimize::Sgd(options) => {
                let mut options = options.clone();
                if let Some(path) = &mut options.save_trajectory {
                    *path = staging.dir().join(&*path);
                }
                say_sgd(splits.train.rows(), &options);
                let fit = fit_with_progress(splits, &options)?;
                say_fitted(&fit);
                end_laps_of_fit(laps, &fit);
                Ok(Fitted {
                    how: How::from((&options, &fit)),
                    engine: fit.plan.engine,
                    seconds: fit.timings.total(),
                    model: fit.model,
                    history: History::Epochs(fit.history),
                    path: Vec::new(),
                    logits: None,
                    coordinates: fit.coordinates,
                    scaler: fit.scaler,
                })
            }
            Optimize::Converge(options) => {
                let fit = converge_with_progress(splits, options)?;
                laps.end("converged fit");
                Ok(Fitted {
                    how: How::from((options, &fit)),
                    engine: fit.engine,
                    seconds: fit.seconds,
                    model: fit.model,
                    history: History::Steps(fit.steps),
                    path: fit.path,
                    logits: fit.logits,
                    coordinates: None,
                    scaler: None,
                })
            }
        }
    }
}

/// The first option that only SGD has, if one was given.
fn of_sgd(args: &Args) -> Option<&'static str> {
    let given = [
        ("--recipe", args.recipe.is_some()),
        ("--init", args.init.is_some()),
        ("--epochs", args.epochs.is_some()),
        ("--lr", args.lr.is_some()),
        ("--lr-schedule", args.lr_schedule != "constant"),
        ("--lr-warmup", args.lr_warmup != 0),
        ("--early-stopping", args.early_stopping.is_some()),
        ("--save-trajectory", args.save_trajectory),
        ("--save-coordinates", args.save_coordinates),
        ("--momentum", args.momentum.is_some()),
        ("--dampening", args.dampening.is_some()),
        ("--nesterov", args.nesterov),
        ("--weight-decay", args.weight_decay.is_some()),
        ("--batch-size", args.batch_size.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given);
    given.next().map(|(option, _)| option)
}

/// A line on stdout for every penalty, and a live one for every step on a terminal.
fn converge_with_progress(splits: Splits, options: &ConvergeOptions) -> Result<Converged> {
    let bar = cli::progress(splits.train.features() as u64, "K");
    let fit = converge(splits, options, &mut |progress| match progress {
        Progress::Engine(engine) => {
            let threads = options.threads.unwrap_or_else(threads::available);
            cli::say(format_args!(
                "  {engine}; {threads} threads, {}",
                Isa::current()
            ));
            converged::forecast(splits, options, threads);
        }
        Progress::Columns(columns) => bar.set_position(columns as u64),
        Progress::Resumed { steps } => {
            cli::say(format_args!("  resumed: {steps} steps were done before"))
        }
        Progress::Step { l2, fold, step } => {
            let (iteration, objective) = (step.iteration, step.objective);
            let event = serde_json::json!({"l2": l2, "fold": fold, "iteration": iteration,
                "objective": objective, "gradient_norm": step.gradient_norm});
            if !cli::event("step", &event) {
                bar.set_message(format!(
                    "l2 {l2:.3e}, step {iteration}: objective {objective:.6}"
                ));
            }
        }
        Progress::Scored(entry) if entry.val_loss.is_some() && !cli::event("penalty", &entry) => {
            bar.suspend(|| converged::say_entry(&entry));
        }
        Progress::Warning(message) => bar.suspend(|| cli::warn(message)),
        _ => {}
    });
    bar.finish_and_clear();
    let fit = fit?;
    converged::say_converged(&fit, options);
    Ok(fit)
}

fn end_laps_of_fit(laps: &mut cli::Laps, fit: &Fit) {
    let seconds = fit.timings;
    let parts = [
        ("features on one scale", seconds.scaling),
        ("W0, the initial weights", seconds.initial_weights),
        ("K = X Xᵀ", seconds.gram_matrix),
        ("Z0 = X W0ᵀ", seconds.initial_logits),
        ("largest eigenvalue", seconds.learning_rate),
        ("epochs", seconds.epochs),
        ("W = s W0 + Aᵀ X", seconds.weight),
    ];
    laps.end_with_parts(&parts, "the fit's rest (threads, memory)");
}

/// Evaluate the model on the rows fitted, with their sample weights, and score those of
/// --eval-split (of known logits, if there are any), `None` being the rows fitted: then one pass
/// does both. The disk takes the model meanwhile.
fn evaluate(
    staging: &Staging,
    fitted: &Fitted,
    (train, weights): (&Samples, Option<&[f64]>),
    eval: Option<(&Samples, Option<&Logits>)>,
    laps: &mut cli::Laps,
) -> Result<(Evaluation, Scores)> {
    const ON_TRAIN: &str = "evaluation of the rows fitted";
    let model = &fitted.model;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| run::write_model(staging, model));
        let evaluated = match eval {
            None => {
                let scores = model.score_with(train, weights, fitted.logits.as_ref());
                laps.end(ON_TRAIN);
                scores
                    .map_err(|error| fitted.refused(error))
                    .map(|scores| (scores.evaluation, scores))
            }
            Some((eval, known)) => {
                let on_train = match &fitted.logits {
                    Some(known) => model
                        .score_with(train, weights, Some(known))
                        .map(|s| s.evaluation),
                    None => model.evaluate_weighted(train, weights),
                };
                laps.end(ON_TRAIN);
                let scores = match known {
                    Some(logits) => model.score_logits(eval, logits),
                    None => model.score(eval),
                };
                laps.end("evaluation of --eval-split");
                let on_train = on_train.map_err(|error| fitted.refused(error));
                on_train.and_then(|on_train| Ok((on_train, scores?)))
            }
        };
        let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
        laps.end("model flushed, beyond evaluation");
        written?;
        evaluated
    })
}

/// Write what there is beside the model and the report; the names of all but the report.
fn write_files(
    args: &Args,
    staging: &Staging,
    fit: &Fitted,
    summary: &Summary,
) -> Result<Vec<&'static str>> {
    match &fit.history {
        History::Epochs(epochs) => run::write(staging, epochs, summary)?,
        History::Steps(steps) => run::write(staging, steps, summary)?,
    }
    let mut files = vec![run::MODEL, run::HISTORY, run::SUMMARY];
    if fit.path.len() > 1 {
        run::write_json(staging, run::PATH, &fit.path)?;
        files.push(run::PATH);
    }
    files.extend(args.save_trajectory.then_some(run::TRAJECTORY));
    if let (true, Some(coordinates)) = (args.save_coordinates, &fit.coordinates) {
        let file = npy::f32_file(&[1, coordinates.len()], coordinates);
        staging.write(run::COORDINATES, &file)?;
        files.push(run::COORDINATES);
        if let Some(scaler) = &fit.scaler {
            staging.write(run::SCALING, &scaler.to_safetensors())?;
            files.push(run::SCALING);
        }
    }
    Ok(files)
}

fn say_written(out: &Path, args: &Args, files: &[&str], summary: &Summary) {
    cli::event("summary", summary);
    cli::say(format_args!("{}: {}", out.display(), files.join(", ")));
    if !args.no_report {
        let page = out.join(report::REPORT);
        cli::say(format_args!("to look at it, open {}", page.display()));
    }
}

/// The model file that a fit begins at, if it does.
fn init_file(args: &Args) -> Option<&Path> {
    let init = (args.init.as_deref()).filter(|init| !["torch", "zeros"].contains(init));
    init.map(Path::new)
}

/// The files and directories that a run is made of.
fn sources(args: &Args) -> Vec<PathBuf> {
    let arrays = [&args.x, &args.y, &args.x_val, &args.y_val];
    (arrays.into_iter().flatten().map(|path| arrays::file(path)))
        .chain(args.dataset.iter().cloned())
        .chain(args.weighting.files().map(Path::to_path_buf))
        .chain(init_file(args).map(Path::to_path_buf))
        .collect()
}

/// Where to save the state, if that was asked for. A checkpoint that is neither continued nor
/// given up with --force is kept: it may be days of work.
fn checkpoints(args: &Args, out: &Path) -> Result<Option<Checkpoints>> {
    // Beside it, where it ends in a slash, too.
    let mut path = out.components().collect::<PathBuf>().into_os_string();
    path.push(".checkpoint");
    let path = PathBuf::from(path);
    let wanted = args.resume || args.checkpoint_every.is_some();
    if !wanted {
        return Ok(None);
    }
    let checkpoints = Checkpoints {
        path,
        every: args.checkpoint_every,
        resume: args.resume,
    };
    checkpoints.refuse_foreign()?;
    if !args.resume && !args.force && checkpoints.path.exists() {
        let path = checkpoints.path;
        return Err(Error::Checkpoint { path });
    }
    Ok(Some(checkpoints))
}

/// A recipe's options with those given put over them, and the number of classes.
fn fit_options(args: &Args) -> Result<(FitOptions, Option<usize>)> {
    let recipe = args.recipe.as_deref().map(Recipe::named).transpose()?;
    let mut options = recipe.map_or_else(FitOptions::default, Recipe::options);
    options.threads = args.threads;
    options.engine = match (Choice::named(&args.engine)?, args.save_coordinates) {
        (Choice::Primal, true) => {
            return Err(Error::Options {
                option: "--save-coordinates",
                found: "the primal engine".to_string(),
                expected: "--engine gram: only it has the coordinates A, s and b".to_string(),
            });
        }
        (_, true) => Choice::Gram,
        (choice, false) => choice,
    };
    options.backend = Backend::named(&args.gemm)?;
    options.early_stopping = args.early_stopping;
    options.save_trajectory = args.save_trajectory.then(|| PathBuf::from(run::TRAJECTORY));
    let sgd = &mut options.sgd;
    sgd.lr = args.lr.unwrap_or(sgd.lr);
    sgd.schedule = schedule(args)?;
    sgd.epochs = args.epochs.unwrap_or(sgd.epochs);
    sgd.momentum = args.momentum.unwrap_or(sgd.momentum);
    sgd.dampening = args.dampening.unwrap_or(sgd.dampening);
    sgd.nesterov |= args.nesterov;
    sgd.weight_decay = args.weight_decay.unwrap_or(sgd.weight_decay);
    sgd.batch_size = args.batch_size.or(sgd.batch_size);
    sgd.seed = args.seed.unwrap_or(sgd.seed);
    sgd.check()?;
    options.init = match args.init.as_deref() {
        None | Some("torch") => Init::Torch { seed: sgd.seed },
        Some("zeros") => Init::Zeros,
        Some(file) => Init::File(PathBuf::from(file)),
    };
    let classes = args.classes.or(recipe.and_then(|recipe| recipe.classes));
    Ok((options, classes))
}

fn schedule(args: &Args) -> Result<Schedule> {
    let decay = match args.lr_schedule.as_str() {
        "step" => Decay::Step {
            size: args.lr_step_size.unwrap_or(30),
            gamma: args.lr_gamma.unwrap_or(0.1),
        },
        other if args.lr_step_size.is_some() || args.lr_gamma.is_some() => {
            return Err(Error::Options {
                option: "--lr-step-size and --lr-gamma",
                found: format!("--lr-schedule {other}"),
                expected: "--lr-schedule step".to_string(),
            });
        }
        "cosine" => Decay::Cosine,
        _ => Decay::Constant,
    };
    Ok(Schedule {
        decay,
        warmup: args.lr_warmup,
    })
}

/// Draw the photographs and prepare them, both inside the run in the making.
fn prepare_demo(staging: &Staging) -> Result<PathBuf> {
    let options = DemoOptions::default();
    let photographs = staging.dir().join("photographs");
    let dataset = staging.dir().join("dataset");
    let count = options.photographs();
    cli::say(format_args!(
        "demo: drawing and preparing {count} synthetic flowers of {} classes",
        options.classes
    ));
    let bar = cli::progress(2 * count as u64, "demo");
    demo::write_photographs(&photographs, &options, &|n| bar.inc(n))?;
    let mut source = flowers102::open(&photographs, Verify::Any)?;
    source.source = "flowreg demo".to_string();
    source.class_names = demo::class_names(&options);
    let options = PrepOptions::default();
    prep::prepare(&source, &options, &dataset, Overwrite::Never, &|n| {
        bar.inc(n)
    })?;
    bar.finish_and_clear();
    Ok(dataset)
}

fn say_header(data: &Data, splits: Splits) {
    let (source, split) = (&data.source, data.name(data.train));
    let place = match data.splits[data.train].1.is_mapped() {
        true => "mapped",
        false => "in memory",
    };
    let train = splits.train;
    let (n, d, classes) = (train.rows(), train.features(), train.classes());
    let loss = Loss::for_classes(classes);
    let c = loss.outputs(classes);
    let what = match loss {
        Loss::Softmax => "softmax",
        Loss::Logistic => "logistic",
    };
    cli::say(format_args!(
        "flowreg {}: {what} of {classes} classes on {source}, split {split}",
        env!("CARGO_PKG_VERSION"),
    ));
    cli::say(format_args!(
        "  X {n} x {d} f32, {place} ({:.1} MB); W {c} x {d}",
        (n * d * 4) as f64 / 1e6
    ));
}

fn say_sgd(n: usize, options: &FitOptions) {
    let sgd = &options.sgd;
    let batch = match sgd.batch_size {
        Some(rows) if rows < n => format!("{rows} rows a step"),
        _ => "full batch".to_string(),
    };
    let schedule = match sgd.schedule == Schedule::default() {
        true => String::new(),
        false => format!(" ({})", sgd.schedule),
    };
    cli::say(format_args!(
        "  sgd: lr {}{schedule}, {} epochs, {batch}, start {}",
        sgd.lr, sgd.epochs, options.init
    ));
}

/// A line on stdout for every tenth of the epochs, and a live one on a terminal.
fn fit_with_progress(splits: Splits, options: &FitOptions) -> Result<Fit> {
    let epochs = options.sgd.epochs;
    let every = epochs.div_ceil(10).max(1);
    let mut bar = cli::progress(0, "K");
    let mut last = None;
    let result = flowreg::fit(splits, options, &mut |event| match event {
        Event::Planned(plan) => say_plan(plan, options, splits),
        Event::GramMatrix { columns, of } => {
            bar.set_length(of as u64);
            bar.set_position(columns as u64);
        }
        Event::Started { lr, lr_bound } => {
            bar.finish_and_clear();
            say_learning_rate(&options.sgd, lr, lr_bound);
            bar = cli::progress(epochs as u64, "epochs");
        }
        Event::Resumed { epochs } => {
            bar.set_position(epochs as u64);
            cli::say(format_args!("  resumed: {epochs} epochs were done before"));
        }
        Event::Epoch(epoch) => {
            let number = epoch.epoch;
            if cli::event("epoch", &epoch) {
                return;
            }
            bar.set_message(format!("loss {:.4}", epoch.loss));
            bar.inc(1);
            last = (number % every != 0).then_some(epoch);
            if last.is_none() {
                bar.suspend(|| say_epoch(epoch));
            }
        }
        _ => {}
    });
    bar.finish_and_clear();
    last.into_iter().for_each(say_epoch);
    result
}

fn say_plan(plan: engine::Plan, options: &FitOptions, splits: Splits) {
    let threads = options.threads.unwrap_or_else(threads::available);
    cli::say(format_args!(
        "  {plan}; {threads} threads, {}",
        Isa::current()
    ));
    let (flop, own) = match plan.engine {
        Kind::Gram => (plan.gram_flop, plan.gram_bytes as f64),
        Kind::Primal => (plan.primal_flop, 0.0),
    };
    // Of what is this short, measuring the machine would take a share that shows.
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

fn say_learning_rate(sgd: &Sgd, lr: f64, bound: Option<f64>) {
    let Some(bound) = bound else { return };
    // 2/L promises nothing to mini-batches or momentum, and with decay speaks of a sum.
    let plain = sgd.batch_size.is_none() && sgd.momentum == 0.0 && sgd.weight_decay == 0.0;
    if sgd.lr == LearningRate::Auto {
        let why = if plain {
            ", half of what guarantees descent"
        } else {
            ""
        };
        cli::say(format_args!("  lr {lr:.4e} = 1/L{why}"));
    } else if lr > bound {
        let what = if plain {
            ", which guarantees descent"
        } else {
            ""
        };
        cli::say(format_args!(
            "  lr {lr} is above {bound:.4e} = 2/L{what}: the loss may rise before it falls"
        ));
    }
}

fn say_epoch(epoch: Epoch) {
    let validation = match (epoch.val_loss, epoch.val_accuracy) {
        (Some(loss), Some(accuracy)) => format!("  val loss {loss:.4}  accuracy {accuracy:.4}"),
        _ => String::new(),
    };
    cli::say(format_args!(
        "epoch {:5}  loss {:.4}{validation}",
        epoch.epoch, epoch.loss
    ));
}

fn say_fitted(fit: &Fit) {
    let seconds = fit.timings.total();
    match fit.best_epoch {
        None => cli::say(format_args!("fitted in {seconds:.3} s")),
        Some(best) => cli::say(format_args!(
            "fitted in {seconds:.3} s; {} epochs, the model is epoch {best}'s",
            fit.history.len()
        )),
    }
}

fn say_evaluation(split: &str, evaluation: Evaluation, scores: Option<&Scores>) {
    let top5 = match scores {
        Some(scores) => format!(" (top-5 {:.4})", scores.top(5)),
        None => String::new(),
    };
    cli::say(format_args!(
        "{split:5} {:5} rows: accuracy {:.4}{top5}, loss {:.4}",
        evaluation.rows, evaluation.accuracy, evaluation.loss
    ));
}
