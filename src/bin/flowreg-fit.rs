//! Dataset to model.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use flowreg::calibration::calibrate;
use flowreg::cli::converged::{self, ConvergeArgs, WeightingArgs};
use flowreg::converge::{ConvergeOptions, Converged, Optimizer, PathEntry, Progress, converge};
use flowreg::data::demo::{self, DemoOptions};
use flowreg::data::flowers102::{self, Verify};
use flowreg::data::prep::{self, PrepOptions};
use flowreg::data::standardize::{Scaler, Standardize};
use flowreg::engine::{self, Choice, Kind};
use flowreg::gemm::Backend;
use flowreg::kernels::Isa;
use flowreg::model::{About, Model};
use flowreg::optim::newton::Step;
use flowreg::publish::{Overwrite, Staging};
use flowreg::run::{self, How, Summary};
use flowreg::weighting::Weighting;
use flowreg::{Checkpoints, Every};
use flowreg::{Dataset, Samples, Split, Splits, cli, threads};
use flowreg::{Decay, Epoch, Event, LearningRate, Schedule, Sgd};
use flowreg::{Error, Evaluation, Fit, FitOptions, Init, Loss, Recipe, Result};

/// Fit a linear softmax or logistic classifier to a prepared dataset.
#[derive(Parser)]
#[command(
    name = "flowreg-fit",
    version,
    allow_negative_numbers = true,
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
  flowreg-fit flowers --epochs 100000 --checkpoint-every 5m --resume --out run

The run directory holds model.safetensors (weight, bias), history.jsonl (each epoch's
learning rate, the loss before its step, validation loss and accuracy after it; or each
step's objective and gradient norm), summary.json, path.json if there were several penalties, and trajectory.npy if asked for.

Ctrl-C and SIGTERM stop after the epoch at hand (a second one stops at once); after the last
epoch the run is finished as usual. The state is kept, in RUN.checkpoint, only with
--checkpoint-every or --resume; a finished run removes it.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 the loss was no number any more
(or a bug), 71 no memory, 73 the output exists or another process is writing it, 74 a file could not be
read or written, 75 a file changed while it was in use, 130 and 143 stopped by Ctrl-C or
SIGTERM (a second one stops at once).

FLOWREG_ISA forces an instruction set: avx512, avx2+fma, neon or portable."
)]
struct Args {
    /// Dataset directory, written by flowreg-prep
    #[arg(
        value_name = "DATASET",
        required_unless_present = "demo",
        conflicts_with = "demo"
    )]
    dataset: Option<PathBuf>,
    /// Draw synthetic flowers, prepare them and fit them, all below --out
    #[arg(long)]
    demo: bool,
    /// Directory of the run to write; it appears complete or not at all
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Replace the run if it exists
    #[arg(long)]
    force: bool,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

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
    /// Split to evaluate afterwards
    #[arg(
        long,
        value_name = "NAME",
        default_value = "test",
        help_heading = "What to fit"
    )]
    eval_split: String,
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
    #[arg(
        long,
        value_name = "PATIENCE",
        requires = "val_split",
        help_heading = "How to fit"
    )]
    early_stopping: Option<usize>,
    /// Save the state beside --out, in RUN.checkpoint, after so many epochs, or after so long
    /// (30s, 5m, 2h), and on Ctrl-C or SIGTERM
    #[arg(long, value_name = "EPOCHS|TIME", value_parser = cli::every, help_heading = "How to fit")]
    checkpoint_every: Option<Every>,
    /// Continue from RUN.checkpoint, to the same bits as an unbroken run; begin if it is not
    /// there. Needs the same data and options; saves the state on Ctrl-C or SIGTERM
    #[arg(long, help_heading = "How to fit")]
    resume: bool,
    /// Write every epoch's Gram coordinates to trajectory.npy (4nc bytes an epoch)
    #[arg(long, help_heading = "How to fit")]
    save_trajectory: bool,
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

fn main() -> ExitCode {
    cli::main("flowreg-fit", run)
}

fn run(args: Args) -> Result<()> {
    let mut laps = cli::Laps::new();
    let memory = args.timings.then(cli::PeakMemory::watch);
    let plan = Plan::new(&args)?;
    let overwrite = match args.force {
        true => Overwrite::Replace,
        false => Overwrite::Never,
    };
    let staging = Staging::begin(&args.out, overwrite)?;
    let directory = match &args.dataset {
        Some(directory) => directory.clone(),
        None => prepare_demo(&staging)?,
    };
    let dataset = Dataset::open(&directory)?;
    let pool = threads::pool(args.threads)?;
    let open = |name: &String| pool.install(|| dataset.split(name));
    let train_split = open(&args.train_split)?;
    let val_split = args.val_split.as_ref().map(open).transpose()?;
    let eval_split = open(&args.eval_split)?;
    let train = samples(&train_split, plan.classes)?;
    let val = val_split.as_ref().map(|val| samples(val, plan.classes));
    let val = val.transpose()?;
    let eval = samples(&eval_split, plan.classes)?;
    let splits = Splits {
        train: &train,
        validation: val.as_ref(),
    };

    laps.end("options, dataset verified");
    let manifest = dataset.manifest();
    say_header(&manifest.source, &args, splits);
    let unchanged = || -> Result<()> {
        let splits = [Some(&train_split), val_split.as_ref(), Some(&eval_split)];
        (splits.into_iter().flatten()).try_for_each(Split::check_unchanged)
    };
    let fitted = pool.install(|| plan.fit(splits, &staging, &mut laps));
    // First: it may be why the fit failed.
    unchanged()?;
    let mut fitted = fitted?;
    let mut about = About {
        class_names: manifest.class_names[..train.classes()].to_vec(),
        transform: Some(manifest.transform.clone()),
        temperature: None,
    };
    let calibration = match (&val, args.weighting.calibrate) {
        (Some(val), true) => Some(pool.install(|| calibrate(&fitted.model, val))?),
        _ => None,
    };
    about.temperature = calibration.map(|found| found.temperature);
    fitted.model.set_about(about);

    // The disk takes the model while the cores evaluate it.
    let (on_train, on_eval, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| run::write_model(&staging, &fitted.model));
        let on_train = pool.install(|| fitted.model.evaluate(&train));
        laps.end("evaluation of the rows fitted");
        let on_eval = pool.install(|| fitted.model.evaluate(&eval));
        laps.end("evaluation of --eval-split");
        let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
        laps.end("model flushed, beyond evaluation");
        (on_train, on_eval, written)
    });
    let (on_train, on_eval) = (on_train?, on_eval?);
    written?;
    say_evaluation(&args.train_split, on_train);
    say_evaluation(&args.eval_split, on_eval);
    if let (Some(found), Some(split)) = (&calibration, &args.val_split) {
        converged::say_calibration(split, found);
    }
    let summary = Summary {
        flowreg: env!("CARGO_PKG_VERSION"),
        engine: fitted.engine,
        instruction_set: Isa::current().to_string(),
        gemm: args.gemm.clone(),
        threads: pool.current_num_threads(),
        how: fitted.how,
        n: train.rows(),
        d: train.features(),
        c: fitted.model.bias().len(),
        classes: train.classes(),
        class_weights: plan.weighting.classes.to_string(),
        sample_weights: plan.weighting.samples.is_some(),
        label_smoothing: plan.weighting.label_smoothing,
        standardize: plan.standardize.to_string(),
        train_split: args.train_split.clone(),
        val_split: args.val_split.clone(),
        eval_split: args.eval_split.clone(),
        train_seconds: fitted.seconds,
        train_accuracy: on_train.accuracy,
        train_loss: on_train.loss,
        eval_accuracy: on_eval.accuracy,
        eval_loss: on_eval.loss,
        eval_rows: on_eval.rows,
        calibration,
    };
    let mut files = vec![run::MODEL, run::HISTORY, run::SUMMARY];
    match &fitted.history {
        History::Epochs(epochs) => run::write(&staging, epochs, &summary)?,
        History::Steps(steps) => run::write(&staging, steps, &summary)?,
    }
    if fitted.path.len() > 1 {
        run::write_json(&staging, run::PATH, &fitted.path)?;
        files.push(run::PATH);
    }
    unchanged()?;
    laps.end("other files written and flushed");
    staging.publish()?;
    if let Some(checkpoints) = &plan.checkpoints {
        checkpoints.discard()?;
    }
    laps.end("directory published");
    files.extend(args.save_trajectory.then_some(run::TRAJECTORY));
    cli::say(format_args!("{}: {}", args.out.display(), files.join(", ")));
    if let Some(memory) = memory {
        drop((fitted.model, train, val, eval));
        drop((train_split, val_split, eval_split));
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
    save_trajectory: bool,
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
}

enum History {
    Epochs(Vec<Epoch>),
    Steps(Vec<Step>),
}

impl Plan {
    fn new(args: &Args) -> Result<Plan> {
        let weighting = args.weighting.weighting()?;
        let (mut sgd, classes) = fit_options(args)?;
        let checkpoints = checkpoints(args)?;
        let how = match args.optimizer.as_str() {
            "sgd" => {
                if let Some(option) = args.converge.given() {
                    let expected = "--optimizer newton or lbfgs (sgd has --weight-decay)";
                    return Err(converged::refuse(option, "sgd", expected));
                }
                sgd.weighting = weighting.clone();
                sgd.checkpoints = checkpoints.clone();
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
                let validated = args.val_split.is_some();
                let options = &args.converge;
                let options = options.options(optimizer, seed, validated, weighting.clone());
                Optimize::Converge(ConvergeOptions {
                    engine: sgd.engine,
                    backend: sgd.backend,
                    threads: args.threads,
                    ..options
                })
            }
        };
        Ok(Plan {
            how,
            classes,
            weighting,
            standardize: Standardize::named(&args.weighting.standardize)?,
            checkpoints,
            save_trajectory: args.save_trajectory,
        })
    }

    /// Fit, on one scale if that is asked for; the model is one of the rows as they are.
    fn fit(&self, splits: Splits, staging: &Staging, laps: &mut cli::Laps) -> Result<Fitted> {
        if self.standardize == Standardize::None {
            return self.fit_as_they_are(splits, staging, laps);
        }
        let scaler = Scaler::new(splits.train.x(), self.standardize);
        let train = scaler.apply(splits.train)?;
        let val = splits.validation.map(|val| scaler.apply(val)).transpose()?;
        laps.end("features on one scale");
        let val = val.as_ref().map(|val| val.samples()).transpose()?;
        let scaled = Splits {
            train: &train.samples()?,
            validation: val.as_ref(),
        };
        let mut fitted = self.fit_as_they_are(scaled, staging, laps)?;
        scaler.restore(&mut fitted.model);
        Ok(fitted)
    }

    fn fit_as_they_are(
        &self,
        splits: Splits,
        staging: &Staging,
        laps: &mut cli::Laps,
    ) -> Result<Fitted> {
        match &self.how {
            Optimize::Sgd(options) => {
                let mut options = options.clone();
                if self.save_trajectory {
                    options.save_trajectory = Some(staging.dir().join(run::TRAJECTORY));
                }
                say_sgd(splits.train.rows(), &options);
                let fit = fit_with_progress(splits, &options)?;
                say_fitted(&fit);
                let seconds = fit.timings;
                let parts = [
                    ("W0, the initial weights", seconds.initial_weights),
                    ("K = X Xᵀ", seconds.gram_matrix),
                    ("Z0 = X W0ᵀ", seconds.initial_logits),
                    ("largest eigenvalue", seconds.learning_rate),
                    ("epochs", seconds.epochs),
                    ("W = s W0 + Aᵀ X", seconds.weight),
                ];
                laps.end_with_parts(&parts, "the fit's rest (threads, memory)");
                Ok(Fitted {
                    how: How::from((&options, &fit)),
                    engine: fit.plan.engine,
                    seconds: seconds.total(),
                    model: fit.model,
                    history: History::Epochs(fit.history),
                    path: Vec::new(),
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
        ("--checkpoint-every", args.checkpoint_every.is_some()),
        ("--resume", args.resume),
        ("--save-trajectory", args.save_trajectory),
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
        Progress::Engine(engine) => cli::say(format_args!(
            "  {engine}; {} threads, {}",
            options.threads.unwrap_or_else(threads::available),
            Isa::current()
        )),
        Progress::Columns(columns) => bar.set_position(columns as u64),
        Progress::Step { l2, step, .. } => bar.set_message(format!(
            "l2 {l2:.3e}, step {}: objective {:.6}",
            step.iteration, step.objective
        )),
        Progress::Scored(entry) if entry.val_loss.is_some() => {
            bar.suspend(|| converged::say_entry(&entry));
        }
        _ => {}
    });
    bar.finish_and_clear();
    let fit = fit?;
    converged::say_converged("flowreg-fit", &fit);
    Ok(fit)
}

/// Where to save the state, if that was asked for. A checkpoint that is neither continued nor
/// given up with --force is kept: it may be days of work.
fn checkpoints(args: &Args) -> Result<Option<Checkpoints>> {
    let mut path = args.out.clone().into_os_string();
    path.push(".checkpoint");
    let path = PathBuf::from(path);
    let wanted = args.resume || args.checkpoint_every.is_some();
    if wanted && !args.resume && !args.force && path.exists() {
        return Err(Error::Checkpoint { path });
    }
    Ok(wanted.then_some(Checkpoints {
        path,
        every: args.checkpoint_every,
        resume: args.resume,
    }))
}

fn samples(split: &Split, classes: Option<usize>) -> Result<Samples<'_>> {
    match classes {
        Some(classes) => split.samples()?.first_classes(classes),
        None => split.samples(),
    }
}

/// A recipe's options with those given put over them, and the number of classes.
fn fit_options(args: &Args) -> Result<(FitOptions, Option<usize>)> {
    let recipe = args.recipe.as_deref().map(Recipe::named).transpose()?;
    let mut options = recipe.map_or_else(FitOptions::default, Recipe::options);
    options.threads = args.threads;
    options.engine = Choice::named(&args.engine)?;
    options.backend = Backend::named(&args.gemm)?;
    options.early_stopping = args.early_stopping;
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

fn say_header(source: &str, args: &Args, splits: Splits) {
    let train = splits.train;
    let (n, d, classes) = (train.rows(), train.features(), train.classes());
    let loss = Loss::for_classes(classes);
    let c = loss.outputs(classes);
    let what = match loss {
        Loss::Softmax => "softmax",
        Loss::Logistic => "logistic",
    };
    cli::say(format_args!(
        "flowreg {}: {what} of {classes} classes on {source}, split {}",
        env!("CARGO_PKG_VERSION"),
        args.train_split,
    ));
    cli::say(format_args!(
        "  X {n} x {d} f32, mapped ({:.1} MB); W {c} x {d}",
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
        Event::Planned(plan) => say_plan(plan, options),
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

fn say_plan(plan: engine::Plan, options: &FitOptions) {
    cli::say(format_args!(
        "  {plan}; {} threads, {}",
        options.threads.unwrap_or_else(threads::available),
        Isa::current()
    ));
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

fn say_evaluation(split: &str, evaluation: Evaluation) {
    cli::say(format_args!(
        "{split:5} {:5} rows: accuracy {:.4}, loss {:.4}",
        evaluation.rows, evaluation.accuracy, evaluation.loss
    ));
}
