//! `flowreg-predict`: predicts classes and probabilities of inputs by a model.

mod explain;
mod inputs;
mod labels;
mod npy_file;
mod open_rows;
mod print;

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use clap::Parser;
use rayon::prelude::*;

use self::explain::{Explainer, TrainingRows};
use self::inputs::Inputs;
use self::labels::{Classes, Label, Tally};
use self::npy_file::NpyFile;
use self::open_rows::{Block, Row, State, ends_the_work};
use self::print::{Form, Prediction, Printer, largest};
use crate::cli;
use crate::cli::signals;
use crate::data::pictures::DecodeOptions;
use crate::io::publish::Overwrite;
use crate::io::tensors::TensorsError;
use crate::model::RowPredictions;
use crate::threads;
use crate::{Error, Model, Result};

/// Limit on the bytes of a block: those of its rows, and those of its predictions.
const BLOCK_BYTES: usize = 64 << 20;
/// Limit on the rows of a block.
const BLOCK_ROWS: usize = 1 << 16;

/// Predict the classes of pictures or rows of numbers with a model of flowreg-fit.
///
/// Inputs are detected by content: pictures (JPEG, PNG, GIF, BMP, WebP, TIFF), folders of them,
/// .npy and .npz arrays of any type, tables with a header (CSV), LIBSVM's text (plain, .gz, .bz2,
/// .xz); - is standard input. They are converted like the model's training rows: pictures by its
/// transform, bytes divided by 255, columns by name, LIBSVM's indices from the model's first index.
#[derive(Parser)]
#[command(
    name = "flowreg-predict",
    version,
    after_help = "\
Examples:
  flowreg-predict run rose.jpg tulip.png
  flowreg-predict run holiday/ --csv --skip-bad > names.csv
  flowreg-predict run/model.safetensors rose.jpg --json --top 3
  flowreg-predict run flowers/test.x.npy --npy probabilities.npy --quiet
  flowreg-predict run x.npy --y y.npy --logits --npy logits.npy
  flowreg-predict run patients.csv --label diagnosis --csv > predicted.csv
  curl https://example.org/a9a.t | flowreg-predict run - --json
  flowreg-predict run rose.jpg --explain flowers

With labels (--y, --label, or those of LIBSVM's text), accuracy, loss and confusion are printed;
with --csv, accuracy and loss on stderr. The loss is that of the probabilities, also with --logits.
--explain needs a run that was fitted with --save-coordinates, and its dataset.

An input that cannot be read is reported on stderr and left out; its row of --npy is NaN. If a text
is incomplete (a damaged .gz), one row of NaN stands for all missing rows, and the exit code is not
0, also with --skip-bad.

Exit codes: 0 done, 64 wrong usage, 65 bad input data (the other inputs are predicted), 70 a bug,
71 no memory, 73 the output exists or another process is writing it, 74 a file could not be
read or written, 75 a file changed while it was in use, 130 and 143 stopped by Ctrl-C or
SIGTERM (a second one stops at once)."
)]
pub struct Args {
    /// Run directory, or a model.safetensors file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Pictures, folders of them, or files of rows (.npy, .npz, CSV, LIBSVM); - for standard input
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Leave out and report inputs that cannot be read, and exit with 0, unless a text is
    /// incomplete
    #[arg(long, help_heading = "Input")]
    skip_bad: bool,
    /// Accept damaged pictures that can still be decoded
    #[arg(long, help_heading = "Input")]
    lenient: bool,
    /// Maximum number of pixels of a picture
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_pixels, help_heading = "Input")]
    max_pixels: usize,
    /// Maximum side of a picture, in pixels
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_side, help_heading = "Input")]
    max_side: usize,
    /// Labels of all inputs, in order (.npy, .npz): names of classes, or their numbers from 0 as in a
    /// dataset
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    y: Option<PathBuf>,
    /// Name of the label column of tables
    #[arg(
        long,
        value_name = "COLUMN",
        conflicts_with = "y",
        help_heading = "Input"
    )]
    label: Option<String>,
    /// Delimiter of tables: one character, or tab [default: the model's, else detected from the
    /// header]
    #[arg(long, value_name = "CHARACTER", value_parser = cli::delimiter, help_heading = "Input")]
    delimiter: Option<u8>,
    /// Index of the first feature in LIBSVM's text, 0 or 1 [default: the model's]
    #[arg(long, value_name = "I", value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Input")]
    first_index: Option<u8>,

    /// Number of classes to print for each input
    #[arg(long, value_name = "K", default_value_t = 5, help_heading = "Output")]
    top: usize,
    /// Print one JSON object per line: input, and class, label and probability of each prediction
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    json: bool,
    /// Print comma-separated values: input, rank, class, label, probability
    #[arg(long, help_heading = "Output")]
    csv: bool,
    /// Print logits instead of probabilities, without the temperature
    #[arg(
        long,
        help_heading = "Output",
        long_help = "Print logits instead of probabilities: x·W + b, not divided by the temperature of \
                     --calibrate. A model of two classes has one output, the logit of the second \
                     class; the logit of the first is 0, and --npy has one column. Example: \
                     flowreg-predict run x.npy --logits --npy logits.npy"
    )]
    logits: bool,
    /// Write all probabilities as an array (<f4, a row per input in order, NaN if it cannot be
    /// read)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    npy: Option<PathBuf>,
    /// Replace the file of --npy if it exists
    #[arg(long, requires = "npy", help_heading = "Output")]
    force: bool,
    /// Print the training rows with the largest contributions to each prediction
    #[arg(
        long,
        value_name = "DATASET",
        conflicts_with = "csv",
        help_heading = "Output"
    )]
    explain: Option<PathBuf>,
}

/// Runs the program with these arguments, of which the first is the program's name, and returns the
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    cli::main("flowreg-predict", args, |args: Args| run(&args))
}

/// Predicts all inputs and prints the results.
///
/// # Errors
/// Those of the model and of the outputs; without `--skip-bad` the last error of an input.
fn run(args: &Args) -> Result<()> {
    threads::pool(args.threads)?.install(|| predict(args))
}

/// The error for a MODEL that is a picture, a folder of pictures or another file, if one of the inputs
/// is a model. `None` for a damaged model, whose own error says more.
fn swapped(args: &Args, error: &Error) -> Option<Error> {
    let is_no_model = match error {
        Error::Tensors { source, .. } => matches!(source, TensorsError::Header { .. }),
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound && args.model.is_dir(),
        _ => false,
    };
    if !is_no_model {
        return None;
    }
    let is_model = |path: &&PathBuf| {
        let file = Model::file_of(path);
        file.extension() == Some(OsStr::new("safetensors")) && Model::load(&file).is_ok()
    };
    let model = args.inputs.iter().find(is_model)?.display();
    let expected =
        format!("a run or a model file; `{model}` is one: give it first, then the inputs");
    Some(Error::options("MODEL", args.model.display(), expected))
}

fn predict(args: &Args) -> Result<()> {
    if args.top == 0 {
        return Err(Error::options("--top", 0, "at least 1 class"));
    }
    let model_file = Model::file_of(&args.model);
    let model = Model::load(&model_file).map_err(|error| swapped(args, &error).unwrap_or(error))?;
    let classes = Classes::of(&model);
    let columns = if args.logits {
        model.bias().len()
    } else {
        classes.count()
    };
    let begin = |path: &PathBuf| {
        npy_file::refuse_stream(path)?;
        let others = args.inputs.iter().chain(&args.y).chain(&args.explain);
        NpyFile::begin(
            path,
            columns,
            Overwrite::forced(args.force),
            &npy_file::sources(&model_file, others),
        )
    };
    let file = args.npy.as_ref().map(begin).transpose()?;
    let labels = args
        .y
        .as_deref()
        .map(|path| classes.read(path))
        .transpose()?;
    let fitted = args.explain.as_deref();
    let fitted = fitted
        .map(|dataset| TrainingRows::open(&args.model, dataset))
        .transpose()?;
    let samples = fitted.as_ref().map(TrainingRows::samples).transpose()?;
    let explainer = (fitted.as_ref().zip(samples.as_ref()))
        .map(|(fitted, samples)| fitted.explainer(&args.model, samples, &model))
        .transpose()?;
    let mut inputs = Inputs::new(args, &model, &classes)?;

    let mut work = Predicting {
        args,
        model: &model,
        classes: &classes,
        printer: Printer::new(args, &classes),
        explainer,
        labels,
        file,
        row: 0,
        tally: Tally::new(args.logits, args.label.is_some()),
        failures: Failures {
            skip: args.skip_bad,
            last: None,
        },
    };
    let done = work
        .all(&mut inputs)
        .and_then(|()| (fitted.as_ref()).map_or(Ok(()), TrainingRows::check_unchanged))
        .and_then(|()| work.publish());
    work.failures.end(done)
}

/// A prediction run.
struct Predicting<'a> {
    args: &'a Args,
    model: &'a Model,
    classes: &'a Classes,
    printer: Printer<'a>,
    explainer: Option<Explainer<'a>>,
    /// The labels of `--y`.
    labels: Option<Vec<Label>>,
    file: Option<NpyFile>,
    /// Number of rows that were given a label of `--y`.
    row: usize,
    tally: Tally,
    failures: Failures,
}

impl Predicting<'_> {
    /// Predicts all inputs and prints the results.
    fn all(&mut self, inputs: &mut Inputs) -> Result<()> {
        cli::print_text(&self.printer.header());
        let bar = cli::progress(0, "predict");
        let most = BLOCK_BYTES / (4 * self.model.weight().cols().max(self.classes.count()));
        let most = most.clamp(1, BLOCK_ROWS);
        while let Some(block) = inputs.next(most)? {
            signals::check()?;
            bar.inc_length(block.rows.len() as u64);
            bar.inc(block.rows.len() as u64);
            let lines = bar.suspend(|| self.block(block))?;
            bar.suspend(|| cli::print_text(&lines));
            // The reader closed standard output, and there is no other output.
            if !cli::stdout_is_open()? && self.file.is_none() {
                return Ok(());
            }
        }
        bar.finish_and_clear();
        self.check_labels()?;
        self.print_tally();
        Ok(())
    }

    /// Predicts a block, and returns the lines to print.
    fn block(&mut self, block: Block) -> Result<String> {
        let mut rows = block.rows;
        if let Err(error) = self.label(&mut rows) {
            for row in rows {
                if let State::Failed(failure) = row.state {
                    self.failures.add(failure)?;
                }
            }
            return Err(error);
        }
        let usable = || rows.iter().filter(|row| matches!(row.state, State::Usable));
        // The loss of a row without a label is not used.
        let class = |label: &Option<Label>| match label {
            Some(Label::Class(class)) => *class,
            _ => 0,
        };
        let labels: Vec<u32> = if rows.iter().any(|row| row.label.is_some()) {
            usable().map(|row| class(&row.label)).collect()
        } else {
            Vec::new()
        };
        let found = self.model.predict_rows(&block.x, &labels)?;
        let values = self.values(&found);
        let count = self.model.classes();
        let top = self.printer.top();
        let mut orders = vec![0; values.len() / count * top];
        (values
            .par_chunks_exact(count)
            .zip(orders.par_chunks_exact_mut(top)))
        .for_each_init(Vec::new, |all, (values, order)| {
            largest(values, order, all);
        });
        let orders: Vec<&[usize]> = orders.chunks_exact(top).collect();
        let pushes = self.explainer.as_ref().map(|explainer| {
            let classes: Vec<u32> = orders.iter().map(|order| order[0] as u32).collect();
            explainer.strongest(&block.x, &classes)
        });

        let outputs = self.model.bias().len();
        let (mut lines, mut name, mut k) = (String::new(), String::new(), 0);
        for row in rows {
            let error = match row.state {
                State::Usable => {
                    k += 1;
                    let at = k - 1;
                    let logits = &found.logits[at * outputs..k * outputs];
                    let values = &values[at * count..k * count];
                    match logits.iter().find(|logit| !logit.is_finite()) {
                        None => {
                            name.clear();
                            // Writing to a string does not fail.
                            let _ = write!(name, "{}", row.name);
                            self.printer.add(
                                &Prediction {
                                    name: &name,
                                    values,
                                    order: orders[at],
                                    pushed_by: pushes.as_ref().map_or(&[], |pushes| &pushes[at]),
                                },
                                &mut lines,
                            );
                            if let Some(label) = &row.label {
                                self.tally.add(label, orders[at][0], found.losses[at]);
                            }
                            if let Some(file) = &mut self.file {
                                let logits = self.args.logits;
                                let values = if logits {
                                    &found.logits[at * outputs..k * outputs]
                                } else {
                                    values
                                };
                                file.append(Some(values))?;
                            }
                            continue;
                        }
                        Some(logit) => Some(beyond_f32(row.name.to_string(), *logit)),
                    }
                }
                State::Failed(error) => Some(error),
                State::Ended(error) => {
                    self.failures.keep(error);
                    None
                }
                State::Lost => None,
            };
            if let Some(error) = error {
                self.failures.add(error)?;
            }
            if let Some(file) = &mut self.file {
                file.append(None)?;
            }
        }
        Ok(lines)
    }

    /// Assigns the labels of `--y` to the rows.
    fn label(&mut self, rows: &mut [Row]) -> Result<()> {
        let Some((labels, path)) = self.labels.as_ref().zip(self.args.y.as_ref()) else {
            return Ok(());
        };
        for row in rows {
            if let State::Ended(_) = row.state {
                // Later labels cannot be assigned to rows.
                cli::warn(format_args!(
                    "{}: only the first {} labels are compared: the number of rows of {} is unknown",
                    path.display(),
                    self.row,
                    row.name.input()
                ));
                self.labels = None;
                return Ok(());
            }
            let Some(label) = labels.get(self.row) else {
                let found = format!("{} labels", labels.len());
                let expected = "more: one for each input, and one for each row of an array or text";
                return Err(Error::format(path, "labels", found, expected));
            };
            row.label = Some(label.clone());
            self.row += 1;
        }
        Ok(())
    }

    /// Refuses more labels of `--y` than rows.
    fn check_labels(&self) -> Result<()> {
        match self.labels.as_ref().zip(self.args.y.as_ref()) {
            Some((labels, path)) if labels.len() != self.row => {
                let expected = format!(
                    "{}: one for each input, and one for each row of an array or text",
                    self.row
                );
                let found = format!("{} labels", labels.len());
                Err(Error::format(path, "labels", found, expected))
            }
            _ => Ok(()),
        }
    }

    /// The values to print, probabilities or logits: rows x classes.
    fn values<'v>(&self, found: &'v RowPredictions) -> std::borrow::Cow<'v, [f32]> {
        match (self.args.logits, self.model.bias().len()) {
            (false, _) => (&found.probabilities).into(),
            (true, 1) => (found.logits.iter())
                .flat_map(|&logit| [0.0, logit])
                .collect(),
            (true, _) => (&found.logits).into(),
        }
    }

    /// Prints accuracy, loss and confusion of the rows with labels.
    fn print_tally(&self) {
        let uncounted = [self.tally.unknown(), self.tally.missing()];
        uncounted.into_iter().flatten().for_each(cli::warn);
        let text = || self.tally.to_text(self.classes);
        match self.printer.form() {
            Form::Lines => cli::print_text(&text()),
            Form::Csv => text().lines().take(1).for_each(cli::warn),
            Form::Json => {
                if let Some(value) = self.tally.to_json(self.classes) {
                    cli::print_json(&value);
                }
            }
        }
    }

    /// Publishes the file of `--npy`.
    fn publish(&mut self) -> Result<()> {
        let published = self.file.take().map_or(Ok(()), NpyFile::publish);
        published.and_then(|()| cli::stdout_is_open().map(drop))
    }
}

/// The error for a row whose logits are beyond f32.
fn beyond_f32(name: String, logit: f32) -> Error {
    Error::Format {
        path: PathBuf::from(name),
        field: "logits".to_string(),
        found: logit.to_string(),
        expected: "finite numbers: its features times the model's weights are beyond f32"
            .to_string(),
    }
}

/// Inputs that could not be read.
struct Failures {
    skip: bool,
    /// The last error, which is returned at the end; earlier ones were printed.
    last: Option<Error>,
}

impl Failures {
    fn add(&mut self, error: Error) -> Result<()> {
        if ends_the_work(&error) {
            return Err(error);
        }
        if self.skip {
            cli::warn(format_args!("left out: {error}"));
        } else {
            self.keep(error);
        }
        Ok(())
    }

    /// Adds an error that `--skip-bad` does not skip.
    fn keep(&mut self, error: Error) {
        self.print_last();
        self.last = Some(error);
    }

    /// The result of the run: `done` if it is an error, else the last error of the inputs.
    fn end(mut self, done: Result<()>) -> Result<()> {
        if done.is_err() {
            self.print_last();
        }
        done.and(self.last.map_or(Ok(()), Err))
    }

    fn print_last(&mut self) {
        if let Some(error) = self.last.take() {
            cli::print_error(&error.to_string(), error.exit_code());
        }
    }
}
