//! Model and photographs to names and probabilities.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use flowreg::data::dataset::{Transform, USABLE, is_usable};
use flowreg::data::folder::pictures_below;
use flowreg::data::npy;
use flowreg::data::photographs::Loader;
use flowreg::data::pictures::DecodeOptions;
use flowreg::data::store::MappedMatrix;
use flowreg::explain::Explainer;
use flowreg::mat::MatRef;
use flowreg::publish::{Overwrite, write_file};
use flowreg::{Dataset, Error, Model, Result, cli, interrupt, run, threads};
use rayon::prelude::*;
use serde_json::{Value, json};

/// Rows that are predicted together.
const BLOCK_BYTES: usize = 64 << 20;
/// Training photographs that an explanation names.
const EXPLAINED: usize = 5;

/// Name what photographs show, by a model that flowreg-fit wrote.
///
/// Photographs go through the transform that is stored in the model. EXIF's orientation is not
/// obeyed, as it was not in training.
#[derive(Parser)]
#[command(
    name = "flowreg-predict",
    version,
    after_help = "\
Examples:
  flowreg-predict run rose.jpg tulip.png
  flowreg-predict run holiday/ --csv > names.csv
  flowreg-predict run/model.safetensors rose.jpg --json --top 3
  flowreg-predict run flowers/test.x.npy --npy probabilities.npy --quiet
  flowreg-predict run rose.jpg --explain flowers

An explanation needs a run that was fitted with --save-coordinates, and its dataset.

Exit codes: 0 done, 64 wrong usage, 65 bad input data (what could be read is predicted
nevertheless), 70 a bug, 71 no memory, 73 the output exists or another process is writing it,
74 a file could not be read or written, 75 a file changed while it was in use, 130 and 143
stopped by Ctrl-C or SIGTERM (a second one stops at once)."
)]
struct Args {
    /// Run directory, or a model.safetensors file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Photographs (JPEG, PNG), folders of them, or .npy files of rows (<f4)
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Classes to name for each input
    #[arg(
        long,
        value_name = "K",
        default_value_t = 5,
        help_heading = "What to say"
    )]
    top: usize,
    /// One JSON object a line: input, and class, label and probability of each prediction
    #[arg(long, conflicts_with = "csv", help_heading = "What to say")]
    json: bool,
    /// Comma-separated values: input, rank, class, label, probability
    #[arg(long, help_heading = "What to say")]
    csv: bool,
    /// Write all probabilities (inputs x classes, <f4) as well
    #[arg(long, value_name = "FILE", help_heading = "What to say")]
    npy: Option<PathBuf>,
    /// Replace the file of --npy if it exists
    #[arg(long, requires = "npy", help_heading = "What to say")]
    force: bool,
    /// Name the training photographs that push each prediction most
    #[arg(
        long,
        value_name = "DATASET",
        conflicts_with = "csv",
        help_heading = "What to say"
    )]
    explain: Option<PathBuf>,
}

/// Something to predict: its name, and how to get its row.
struct Input {
    name: String,
    from: From,
}

enum From {
    Photograph(PathBuf),
    Row(usize, usize),
}

/// One input with its result.
struct Prediction {
    name: String,
    probabilities: Vec<f32>,
    /// Classes, the most probable first.
    order: Vec<usize>,
    /// Training photographs and what they give to the first class's logit.
    pushed_by: Vec<(String, f64)>,
}

fn main() -> ExitCode {
    cli::main("flowreg-predict", |args: Args| {
        threads::pool(args.threads)?.install(|| predict(&args))
    })
}

fn predict(args: &Args) -> Result<()> {
    if args.top == 0 {
        return Err(Error::Options {
            option: "--top",
            found: "0".to_string(),
            expected: "at least 1 class".to_string(),
        });
    }
    if let Some(path) = &args.npy
        && !args.force
        && path.symlink_metadata().is_ok()
    {
        return Err(Error::Exists {
            path: path.clone(),
            replaceable: true,
        });
    }
    let model = Model::load(run::model_file(&args.model))?;
    let matrices = matrices(&args.inputs, &model)?;
    let inputs = list(&args.inputs, &matrices, model.about().transform.as_ref())?;
    let features = model.weight().cols();
    let explaining = args
        .explain
        .as_deref()
        .map(|dataset| Fitted::open(&args.model, dataset));
    let explaining = explaining.transpose()?;
    let samples = explaining.as_ref().map(Fitted::samples).transpose()?;
    let explainer = (samples.as_ref())
        .map(|samples| {
            let path = args.model.join(run::COORDINATES);
            let summary = run::read_summary(&args.model)?;
            let scaler = summary.scaler(&args.model)?;
            Explainer::open(&path, samples, scaler, model.bias().len())
        })
        .transpose()?;

    if args.csv {
        cli::print("input,rank,class,label,probability");
    }
    let bar = cli::progress(inputs.len() as u64, "predict");
    let mut failures = Vec::new();
    let mut all = Vec::new();
    let block = (BLOCK_BYTES / (4 * features)).max(1);
    for inputs in inputs.chunks(block) {
        interrupt::check()?;
        let rows: Vec<Result<Vec<f32>>> = (inputs.par_iter())
            .map(|input| row(input, &matrices, &model))
            .collect();
        let (mut x, mut names) = (Vec::new(), Vec::new());
        for (input, row) in inputs.iter().zip(rows) {
            match row {
                Ok(row) => {
                    x.extend(row);
                    names.push(&input.name);
                }
                Err(error) => failures.push(error),
            }
        }
        let probabilities = loop {
            match model.probabilities(&x) {
                // This input is left out, as one that cannot be read is.
                Err(Error::Overflow { row, value, .. }) => {
                    failures.push(Error::Format {
                        path: PathBuf::from(names.remove(row)),
                        field: "logits".to_string(),
                        found: value.to_string(),
                        expected:
                            "finite numbers: its features times the model's weights are beyond f32"
                                .to_string(),
                    });
                    x.drain(row * features..(row + 1) * features);
                }
                probabilities => break probabilities?,
            }
        };
        let mut predictions: Vec<Prediction> = (names.iter())
            .zip(probabilities.chunks_exact(model.classes()))
            .map(|(name, p)| Prediction::new(name, p))
            .collect();
        if let (Some(explainer), Some(fitted)) = (&explainer, &explaining) {
            let classes: Vec<u32> = predictions.iter().map(|p| p.order[0] as u32).collect();
            let x = MatRef::new(&x, names.len(), features);
            for (prediction, pushes) in predictions
                .iter_mut()
                .zip(explainer.contributions(x, &classes))
            {
                prediction.pushed_by = fitted.strongest(&pushes);
            }
        }
        bar.inc(inputs.len() as u64);
        bar.suspend(|| {
            for prediction in &predictions {
                prediction.print(args, &model);
            }
        });
        if args.npy.is_some() {
            all.extend(probabilities);
        }
    }
    bar.finish_and_clear();
    let last = failures.pop();
    for failure in &failures {
        cli::complain(&failure.to_string(), failure.exit_code());
    }
    if let Some(last) = last {
        return Err(last);
    }
    for matrix in matrices.values() {
        matrix.check_unchanged()?;
    }
    if let Some(fitted) = &explaining {
        fitted.split.check_unchanged()?;
    }
    if let Some(path) = &args.npy {
        let overwrite = match args.force {
            true => Overwrite::Replace,
            false => Overwrite::Never,
        };
        let shape = [all.len() / model.classes(), model.classes()];
        let mut sources = vec![args.model.as_path()];
        sources.extend(
            args.inputs
                .iter()
                .chain(&args.explain)
                .map(PathBuf::as_path),
        );
        write_file(
            path,
            npy::MAGIC,
            &npy::f32_file(&shape, &all),
            overwrite,
            &sources,
        )?;
    }
    Ok(())
}

/// The `.npy` inputs, by their place among the inputs.
fn matrices(inputs: &[PathBuf], model: &Model) -> Result<BTreeMap<usize, MappedMatrix>> {
    let features = model.weight().cols();
    let mut matrices = BTreeMap::new();
    for (i, path) in inputs.iter().enumerate() {
        if path.extension().is_some_and(|extension| extension == "npy") {
            let matrix = MappedMatrix::open(path)?;
            let found = matrix.view().cols();
            if found != features {
                return Err(Error::Format {
                    path: path.clone(),
                    field: "features".to_string(),
                    found: found.to_string(),
                    expected: format!("{features} as the model has"),
                });
            }
            matrices.insert(i, matrix);
        }
    }
    Ok(matrices)
}

fn list(
    paths: &[PathBuf],
    matrices: &BTreeMap<usize, MappedMatrix>,
    transform: Option<&Transform>,
) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let name = path.display().to_string();
        if let Some(matrix) = matrices.get(&i) {
            inputs.extend((0..matrix.view().rows()).map(|row| Input {
                name: format!("{name}[{row}]"),
                from: From::Row(i, row),
            }));
            continue;
        }
        if transform.is_none() {
            return Err(Error::Format {
                path: path.clone(),
                field: "input".to_string(),
                found: "a photograph".to_string(),
                expected: "an .npy file of rows: the model was fitted to numbers and knows no transform for photographs".to_string(),
            });
        }
        let photographs = match path.is_dir() {
            true => {
                let (pictures, left_out) = pictures_below(path, false)?;
                if !left_out.is_empty() && !pictures.is_empty() {
                    cli::warn(format_args!("{name}: left out: {}", left_out.join("; ")));
                }
                pictures
            }
            false => vec![path.clone()],
        };
        if photographs.is_empty() {
            return Err(Error::Format {
                path: path.clone(),
                field: "folder".to_string(),
                found: "no photograph".to_string(),
                expected: "files that are pictures".to_string(),
            });
        }
        inputs.extend(photographs.into_iter().map(|path| Input {
            name: path.display().to_string(),
            from: From::Photograph(path),
        }));
    }
    Ok(inputs)
}

fn row(input: &Input, matrices: &BTreeMap<usize, MappedMatrix>, model: &Model) -> Result<Vec<f32>> {
    match &input.from {
        From::Row(matrix, row) => {
            let matrix = &matrices[matrix];
            let values = matrix.view().row(*row).to_vec();
            match values.iter().position(|&value| !is_usable(value)) {
                None => Ok(values),
                Some(column) => Err(Error::Format {
                    path: matrix.path().to_path_buf(),
                    field: format!("row {row}, column {column}"),
                    found: values[column].to_string(),
                    expected: USABLE.to_string(),
                }),
            }
        }
        From::Photograph(path) => {
            let transform = model.about().transform.as_ref().expect("checked by list");
            let decode = DecodeOptions {
                exif: transform.orientation.is_some(),
                ..DecodeOptions::default()
            };
            let mut row = vec![0.0; 3 * transform.size * transform.size];
            let size = transform.size;
            Loader::default().load_file(path, size, &decode, &mut row)?;
            Ok(row)
        }
    }
}

impl Prediction {
    fn new(name: &str, probabilities: &[f32]) -> Prediction {
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        Prediction {
            name: name.to_string(),
            probabilities: probabilities.to_vec(),
            order,
            pushed_by: Vec::new(),
        }
    }

    fn print(&self, args: &Args, model: &Model) {
        let names = &model.about().class_names;
        let class = |label: usize| match names.get(label) {
            Some(name) => name.clone(),
            None => format!("class {label}"),
        };
        let shown = self
            .order
            .iter()
            .take(args.top)
            .map(|&label| (label, class(label), self.probabilities[label]));
        if args.json || cli::is_json() && !args.csv {
            let predictions: Vec<Value> = shown
                .map(|(label, class, p)| json!({"class": class, "label": label, "probability": p}))
                .collect();
            let mut line = json!({"input": self.name, "predictions": predictions});
            if args.explain.is_some() {
                let pushes = self
                    .pushed_by
                    .iter()
                    .map(|(file, push)| json!({"file": file, "logit": push}));
                line["pushed_by"] = pushes.collect();
            }
            cli::print(line);
        } else if args.csv {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            for (rank, (label, class, p)) in shown.enumerate() {
                cli::print(format_args!(
                    "{},{},{},{label},{p}",
                    quoted(&self.name),
                    rank + 1,
                    quoted(&class)
                ));
            }
        } else {
            cli::print(&self.name);
            for (_, class, p) in shown {
                cli::print(format_args!("  {:6.2} %  {class}", 100.0 * p));
            }
            for (i, (file, push)) in self.pushed_by.iter().enumerate() {
                let lead = if i == 0 { "pushed by" } else { "" };
                cli::print(format_args!("  {lead:9} {push:+8.3}  {file}"));
            }
        }
    }
}

/// The rows that a run was fitted to.
struct Fitted {
    split: flowreg::Split,
    classes: usize,
    /// File and class of each row.
    names: Vec<String>,
}

impl Fitted {
    fn open(run_directory: &Path, dataset: &Path) -> Result<Fitted> {
        let summary = run::read_summary(run_directory)?;
        let dataset = Dataset::open(dataset)?;
        let split = dataset.split(&summary.train_split)?;
        let class_names = &dataset.manifest().class_names;
        let labels = split.samples()?.labels().to_vec();
        // Rows of the other classes were left out of the fit.
        let fitted =
            (labels.iter().enumerate()).filter(|(_, label)| (**label as usize) < summary.classes);
        let names = fitted.map(|(row, &label)| {
            let class = &class_names[label as usize];
            match split.files() {
                Some(files) => format!("{} ({class})", files[row]),
                None => format!("row {row} of {} ({class})", summary.train_split),
            }
        });
        Ok(Fitted {
            names: names.collect(),
            classes: summary.classes,
            split,
        })
    }

    fn samples(&self) -> Result<flowreg::Samples<'_>> {
        self.split.first_classes(self.classes)
    }

    /// The rows that push most, for or against.
    fn strongest(&self, pushes: &[f64]) -> Vec<(String, f64)> {
        let mut order: Vec<usize> = (0..pushes.len()).collect();
        order.sort_by(|&a, &b| pushes[b].abs().total_cmp(&pushes[a].abs()));
        let strongest = order.iter().take(EXPLAINED);
        strongest
            .map(|&i| (self.names[i].clone(), pushes[i]))
            .collect()
    }
}
