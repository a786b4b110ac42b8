//! `--explain`: which training rows push a prediction.

use std::path::Path;

use crate::cli::run_files;
use crate::linalg::mat::MatRef;
use crate::model::explain::Explainer;
use crate::{Dataset, Model, Result, Samples, Split};

/// Training rows that an explanation names.
const NAMED: usize = 5;
/// Bytes of the numbers that are made together.
const BYTES: usize = 64 << 20;

/// The rows that a run was fitted to.
pub struct Fitted {
    split: Split,
    classes: usize,
    /// File and class of each row.
    names: Vec<String>,
}

impl Fitted {
    /// The rows of the run in this dataset.
    pub fn open(run_directory: &Path, dataset: &Path) -> Result<Fitted> {
        let summary = run_files::read_summary(run_directory)?;
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

    /// The rows.
    pub fn samples(&self) -> Result<Samples<'_>> {
        self.split.first_classes(self.classes)
    }

    /// Refuse if the rows changed since they were opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.split.check_unchanged()
    }

    /// Explains predictions of the run's model.
    pub fn explainer<'a>(
        &'a self,
        run_directory: &Path,
        samples: &'a Samples<'a>,
        model: &Model,
    ) -> Result<Pushes<'a>> {
        let scaler = run_files::read_summary(run_directory)?.scaler(run_directory)?;
        let path = run_directory.join(run_files::COORDINATES);
        Ok(Pushes {
            fitted: self,
            explainer: Explainer::open(&path, samples, scaler, model.bias().len())?,
        })
    }
}

/// What explains predictions.
pub struct Pushes<'a> {
    fitted: &'a Fitted,
    explainer: Explainer<'a>,
}

impl Pushes<'_> {
    /// For each row of `x` and its class the training rows that push most, for or against.
    pub fn strongest(&self, x: &[f32], classes: &[u32]) -> Vec<Vec<(String, f64)>> {
        let features = x.len().checked_div(classes.len()).unwrap_or(0);
        let together = (BYTES / (8 * self.fitted.names.len().max(1))).max(1);
        let blocks = classes.chunks(together).enumerate();
        blocks
            .flat_map(|(block, classes)| {
                let rows = &x[block * together * features..][..classes.len() * features];
                let rows = MatRef::new(rows, classes.len(), features);
                let pushes = self.explainer.contributions(rows, classes);
                pushes.into_iter().map(|pushes| self.named(&pushes))
            })
            .collect()
    }

    fn named(&self, pushes: &[f64]) -> Vec<(String, f64)> {
        let mut order: Vec<usize> = (0..pushes.len()).collect();
        order.sort_by(|&a, &b| pushes[b].abs().total_cmp(&pushes[a].abs()));
        let strongest = order.iter().take(NAMED);
        strongest
            .map(|&i| (self.fitted.names[i].clone(), pushes[i]))
            .collect()
    }
}
