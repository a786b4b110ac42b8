//! Dataset to model.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use flowreg::data::demo::{self, DemoOptions};
use flowreg::data::flowers102::{self, Verify};
use flowreg::data::prep;
use flowreg::engine::{Choice, Plan};
use flowreg::model::About;
use flowreg::publish::{Overwrite, Staging};
use flowreg::run::{self, Summary};
use flowreg::{Dataset, Samples, cli, threads};
use flowreg::{Epoch, Error, Evaluation, Fit, FitOptions, Init, Loss, Recipe, Result};

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

The run directory holds model.safetensors (weight, bias), history.jsonl (the loss before
each epoch's step) and summary.json.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 the loss was no number any more,
73 the output exists, 74 a file could not be read or written."
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

    /// The optimizer: sgd, as torch.optim.SGD
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = ["sgd"], help_heading = "How to fit")]
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
    /// Passes over the rows [default: 100]
    #[arg(long, value_name = "N", help_heading = "How to fit")]
    epochs: Option<usize>,
    /// Learning rate [default: 0.01]
    #[arg(long, value_name = "RATE", value_parser = cli::finite, help_heading = "How to fit")]
    lr: Option<f32>,
    /// Momentum [default: 0]
    #[arg(long, value_name = "M", value_parser = cli::finite, help_heading = "How to fit")]
    momentum: Option<f32>,
    /// Share of the gradient kept out of the momentum [default: 0]
    #[arg(long, value_name = "T", value_parser = cli::finite, help_heading = "How to fit")]
    dampening: Option<f32>,
    /// Nesterov's momentum
    #[arg(long, help_heading = "How to fit")]
    nesterov: bool,
    /// Added to the gradient, times weight and bias [default: 0]
    #[arg(long, value_name = "D", value_parser = cli::finite, help_heading = "How to fit")]
    weight_decay: Option<f32>,
    /// Rows a step [default: all]
    #[arg(long, value_name = "ROWS", help_heading = "How to fit")]
    batch_size: Option<usize>,
}

fn main() -> ExitCode {
    cli::main("flowreg-fit", run)
}

fn run(args: Args) -> Result<()> {
    let (options, classes) = fit_options(&args)?;
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
    let train = dataset.split(&args.train_split)?;
    let eval = dataset.split(&args.eval_split)?;
    let limit = |samples| match classes {
        Some(classes) => Samples::first_classes(samples, classes),
        None => Ok(samples),
    };
    let train = limit(train.samples()?)?;
    let eval = limit(eval.samples()?)?;

    let plan = flowreg::fit::plan(&train, &options)?;
    say_header(&dataset.manifest().source, &args, &options, &train, plan);
    let mut fit = fit_with_progress(&train, &options)?;
    let manifest = dataset.manifest();
    fit.model.set_about(About {
        class_names: manifest.class_names[..train.classes()].to_vec(),
        transform: Some(manifest.transform.clone()),
    });
    cli::say(format_args!("fitted in {:.3} s", fit.seconds));

    let evaluate = |samples| fit.model.evaluate(samples);
    let (on_train, on_eval) = threads::pool(options.threads)?
        .install(|| Ok::<_, Error>((evaluate(&train)?, evaluate(&eval)?)))?;
    say_evaluation(&args.train_split, on_train);
    say_evaluation(&args.eval_split, on_eval);
    let summary = Summary::new(
        &options,
        &fit,
        &train,
        (args.train_split, on_train),
        (args.eval_split, on_eval),
    );
    run::write(&staging, &fit, &summary)?;
    staging.publish()?;
    let files = [run::MODEL, run::HISTORY, run::SUMMARY].join(", ");
    cli::say(format_args!("{}: {files}", args.out.display()));
    Ok(())
}

/// A recipe's options with those given put over them, and the number of classes.
fn fit_options(args: &Args) -> Result<(FitOptions, Option<usize>)> {
    let recipe = args.recipe.as_deref().map(Recipe::named).transpose()?;
    let mut options = recipe.map_or_else(FitOptions::default, Recipe::options);
    options.threads = args.threads;
    options.engine = Choice::named(&args.engine)?;
    let sgd = &mut options.sgd;
    sgd.lr = args.lr.unwrap_or(sgd.lr);
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

/// Draw the photographs and prepare them, both inside the run in the making.
fn prepare_demo(staging: &Staging) -> Result<PathBuf> {
    let options = DemoOptions::default();
    let photographs = staging.dir().join("photographs");
    let dataset = staging.dir().join("dataset");
    std::fs::create_dir(&photographs).map_err(|source| Error::Io {
        path: photographs.clone(),
        doing: "create the directory",
        source,
    })?;
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
    prep::prepare(&source, 128, &dataset, Overwrite::Never, &|n| bar.inc(n))?;
    bar.finish_and_clear();
    Ok(dataset)
}

fn say_header(source: &str, args: &Args, options: &FitOptions, train: &Samples, plan: Plan) {
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
    let sgd = &options.sgd;
    let batch = match sgd.batch_size {
        Some(rows) if rows < n => format!("{rows} rows a step"),
        _ => "full batch".to_string(),
    };
    cli::say(format_args!(
        "  sgd: lr {}, {} epochs, {batch}, start {}",
        sgd.lr, sgd.epochs, options.init
    ));
    cli::say(format_args!(
        "  {plan}; {} threads, {}",
        options.threads.unwrap_or_else(threads::available),
        threads::instruction_set()
    ));
}

/// A line on stdout for every tenth of the epochs, and a live one on a terminal.
fn fit_with_progress(train: &Samples, options: &FitOptions) -> Result<Fit> {
    let epochs = options.sgd.epochs;
    let every = epochs.div_ceil(10).max(1);
    let bar = cli::progress(epochs as u64, "epochs");
    let fit = flowreg::fit(train, options, &mut |Epoch { epoch, loss }| {
        bar.set_message(format!("loss {loss:.4}"));
        bar.inc(1);
        if epoch % every == 0 || epoch + 1 == epochs {
            bar.suspend(|| cli::say(format_args!("epoch {epoch:5}  loss {loss:.4}")));
        }
    });
    bar.finish_and_clear();
    fit
}

fn say_evaluation(split: &str, evaluation: Evaluation) {
    cli::say(format_args!(
        "{split:5} {:5} rows: accuracy {:.4}, loss {:.4}",
        evaluation.rows, evaluation.accuracy, evaluation.loss
    ));
}
