//! The rows of a run, from a dataset or arrays.

use std::path::Path;
use std::sync::Arc;

use super::args::Args;
use crate::{Dataset, Error, Init, Model, Result, Samples, Split, cli};

use crate::cli::signals;
use crate::data::dataset::{NumberFormat, Transform};
use crate::data::demo::DemoOptions;
use crate::data::flowers102::Verify;
use crate::data::prep::PrepOptions;
use crate::data::{arrays, checks, demo, flowers102, prep};
use crate::io::publish::Overwrite;
use std::path::PathBuf;

/// The splits of a run. A split with two roles is opened once.
pub(super) struct Data {
    pub(super) source: String,
    /// That of a dataset's manifest.
    pub(super) checksum: Option<String>,
    pub(super) class_names: Vec<String>,
    pub(super) transform: Option<Transform>,
    pub(super) numbers: Option<NumberFormat>,
    /// Names and rows.
    pub(super) splits: Vec<(String, Split)>,
    /// Index of the split to fit in `splits`; so are `val` and `eval`.
    pub(super) train: usize,
    pub(super) val: Option<usize>,
    pub(super) eval: usize,
}

impl Data {
    pub(super) fn open(args: &Args, scratch: &Path) -> Result<Data> {
        match (&args.dataset, &args.x, &args.y) {
            (Some(directory), ..) => Data::of_dataset(directory, args),
            (None, Some(x), Some(y)) => Data::of_arrays(x, y, args),
            _ => Data::of_dataset(&prepare_demo(scratch)?, args),
        }
    }

    pub(super) fn of_dataset(directory: &Path, args: &Args) -> Result<Data> {
        let dataset = Dataset::open(directory)?;
        let manifest = dataset.manifest();
        let exists = |name: &&str| manifest.splits.iter().any(|split| split.name == *name);
        let eval = (args.eval_split.as_deref())
            .or(["test", "val"].into_iter().find(exists))
            .unwrap_or(&args.train_split);
        // A missing split is an error before the first one is verified.
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
            checksum: Some(manifest.crc32.clone()),
            class_names: manifest.class_names.clone(),
            transform: manifest.transform.clone(),
            numbers: manifest.numbers.clone(),
            splits,
        })
    }

    pub(super) fn of_arrays(x: &Path, y: &Path, args: &Args) -> Result<Data> {
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
            cancel: Some(signals::cancel()),
        };
        let loaded = arrays::load(&parts, &options, &|path, bytes| {
            let bytes = cli::bytes(bytes as f64);
            cli::info(format_args!(
                "{}: converted to f32 in memory, {bytes}",
                path.display()
            ));
        })?;
        let name = x.file_name().unwrap_or_default().to_string_lossy();
        let val = parts.len() - 1;
        let names = parts.iter().map(|part| part.name.to_string());
        Ok(Data {
            source: name.into_owned(),
            checksum: None,
            class_names: loaded.class_names,
            transform: None,
            numbers: Some(loaded.numbers),
            train: 0,
            val: (val > 0).then_some(val),
            eval: val,
            splits: names.zip(loaded.splits).collect(),
        })
    }

    pub(super) fn name(&self, split: usize) -> &str {
        &self.splits[split].0
    }

    /// The number of classes: `requested`, else as many as the labels of all splits need. A dataset
    /// limits `requested` to its named classes; arrays do not.
    pub(super) fn classes(&self, requested: Option<usize>) -> Result<usize> {
        let known = self.class_names.len();
        match requested {
            Some(classes) if known > 0 && !(2..=known).contains(&classes) => Err(Error::Options {
                option: "--classes",
                found: classes.to_string(),
                expected: format!(
                    "2..={known}, the classes of this dataset (only arrays allow more)"
                ),
            }),
            Some(classes) => Ok(classes),
            None => {
                let classes = self.splits.iter().map(|(_, split)| split.classes());
                Ok(classes.max().unwrap_or(2))
            }
        }
    }

    pub(super) fn samples(&self, split: usize, classes: usize) -> Result<Samples<'_>> {
        self.splits[split].1.first_classes(classes)
    }

    /// Warns about classes that occur in another split but not in the training rows.
    pub(super) fn warn_of_missing_classes(&self, train: &Samples, split: usize, samples: &Samples) {
        let missing = samples.classes_missing_in(train);
        let missing: Vec<usize> = missing.into_iter().map(|class| class as usize).collect();
        let (split, train) = (self.name(split), self.name(self.train));
        if let Some(sentence) = checks::missing_in_train(split, train, &missing, &self.class_names)
        {
            cli::warn(sentence);
        }
    }

    /// The files of the rows of [`Data::samples`].
    pub(super) fn files(&self, split: usize, classes: usize) -> Option<Vec<String>> {
        let split = &self.splits[split].1;
        let rows = split.files()?.iter().zip(split.labels());
        let kept = rows.filter(|(_, label)| **label < classes as i64);
        Some(kept.map(|(file, _)| file.clone()).collect())
    }

    /// Reads the initial model of `--init FILE`. A model of rows with another scale or shift is an
    /// error, because its weight and bias belong to these. A bare state dict, which has neither, is
    /// accepted.
    pub(super) fn read_init(&self, init: &mut Init) -> Result<()> {
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
            found: format!("a {other} other than that of the rows"),
            expected: "a model of this dataset, or another start (--init torch)".to_string(),
        })
    }

    pub(super) fn check_unchanged(&self) -> Result<()> {
        (self.splits.iter()).try_for_each(|(_, split)| split.check_unchanged())
    }
}

/// Draws the photographs and prepares them, both in a temporary folder of the run.
fn prepare_demo(scratch: &Path) -> Result<PathBuf> {
    let options = DemoOptions {
        cancel: Some(signals::cancel()),
        ..DemoOptions::default()
    };
    let photographs = scratch.join("photographs");
    let dataset = scratch.join("dataset");
    let count = options.photographs();
    cli::info(format_args!(
        "demo: drawing and preparing {count} synthetic flowers of {} classes",
        options.classes
    ));
    let bar = cli::progress(2 * count as u64, "demo");
    demo::write_photographs(&photographs, &options, &|n| bar.inc(n))?;
    let mut source = flowers102::open(&photographs, Verify::Any, &signals::cancel())?;
    source.source = "flowreg demo".to_string();
    source.class_names = demo::class_names(&options);
    let options = PrepOptions {
        cancel: Some(signals::cancel()),
        ..PrepOptions::default()
    };
    prep::prepare(&source, &options, &dataset, Overwrite::Never, &|n| {
        bar.inc(n)
    })?;
    bar.finish_and_clear();
    Ok(dataset)
}
