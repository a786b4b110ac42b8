//! `--explain`: the training rows with the largest contributions to a prediction.

use std::path::Path;

use crate::cli::run_files;
use crate::linalg::mat::MatRef;
use crate::model::explain;
use crate::{Dataset, Model, Result, Samples, Split};

/// Number of training rows in an explanation.
const NAMED: usize = 5;
/// Limit on the bytes of the contributions that are computed at once.
const BYTES: usize = 64 << 20;

/// The training rows of a run.
pub struct TrainingRows {
    split: Split,
    classes: usize,
    /// File and class of each row.
    names: Vec<String>,
}

impl TrainingRows {
    /// Opens the training rows of a run in its dataset.
    pub fn open(run_directory: &Path, dataset: &Path) -> Result<TrainingRows> {
        let summary = run_files::read_summary(run_directory)?;
        let dataset = Dataset::open(dataset)?;
        let split = dataset.split(&summary.train_split)?;
        let class_names = &dataset.manifest().class_names;
        let labels = split.samples()?.labels().to_vec();
        // The fit excluded the rows of other classes.
        let fitted =
            (labels.iter().enumerate()).filter(|(_, label)| (**label as usize) < summary.classes);
        let names = fitted.map(|(row, &label)| {
            let class = &class_names[label as usize];
            match split.files() {
                Some(files) => format!("{} ({class})", files[row]),
                None => format!("row {row} of {} ({class})", summary.train_split),
            }
        });
        Ok(TrainingRows {
            names: names.collect(),
            classes: summary.classes,
            split,
        })
    }

    /// The rows.
    pub fn samples(&self) -> Result<Samples<'_>> {
        self.split.first_classes(self.classes)
    }

    /// Returns an error if the rows changed since they were opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.split.check_unchanged()
    }

    /// An explainer of predictions by the run's model.
    pub fn explainer<'a>(
        &'a self,
        run_directory: &Path,
        samples: &'a Samples<'a>,
        model: &Model,
    ) -> Result<Explainer<'a>> {
        let scaler = run_files::read_summary(run_directory)?.scaler(run_directory)?;
        let path = run_directory.join(run_files::COORDINATES);
        Ok(Explainer {
            training: self,
            inner: explain::Explainer::open(&path, samples, scaler, model.bias().len())?,
        })
    }
}

/// Explains predictions by contributions of training rows.
pub struct Explainer<'a> {
    training: &'a TrainingRows,
    inner: explain::Explainer<'a>,
}

impl Explainer<'_> {
    /// For each row of `x` and its class, the training rows with the largest contributions to the
    /// logit of the class, of either sign.
    pub fn strongest(&self, x: &[f32], classes: &[u32]) -> Vec<Vec<(String, f64)>> {
        let features = x.len().checked_div(classes.len()).unwrap_or(0);
        let block_rows = (BYTES / (8 * self.training.names.len().max(1))).max(1);
        let blocks = classes.chunks(block_rows).enumerate();
        blocks
            .flat_map(|(block, classes)| {
                let rows = &x[block * block_rows * features..][..classes.len() * features];
                let rows = MatRef::new(rows, classes.len(), features);
                let contributions = self.inner.contributions(rows, classes);
                contributions.into_iter().map(|of_row| self.named(&of_row))
            })
            .collect()
    }

    /// The largest contributions, with the names of their training rows.
    fn named(&self, contributions: &[f64]) -> Vec<(String, f64)> {
        let mut order: Vec<usize> = (0..contributions.len()).collect();
        order.sort_by(|&a, &b| (contributions[b].abs()).total_cmp(&contributions[a].abs()));
        let strongest = order.iter().take(NAMED);
        strongest
            .map(|&i| (self.training.names[i].clone(), contributions[i]))
            .collect()
    }
}
