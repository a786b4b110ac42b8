//! What a model says about labelled rows, row by row: for reports and for people.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::design::samples::Samples;
use crate::error::Result;
use crate::linalg::mat::MatRef;
use crate::model::{Evaluation, Logits, Model};
use crate::threads::{Share, Work};

/// Samples a task: it should outlast the cost of handing it out.
const TASK: usize = 256;

/// Predictions of labelled rows beside their labels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// Accuracy and mean loss, those of [`Model::evaluate_weighted`].
    pub evaluation: Evaluation,
    /// Each row in order.
    pub rows: Vec<Score>,
}

/// What a model says about one row.
///
/// Its probabilities are those of [`Model::probabilities`], by the model's temperature if it has
/// one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// The row's label.
    pub label: u32,
    /// The most probable class, the first of equals.
    pub predicted: u32,
    /// Probability of `predicted`.
    pub confidence: f32,
    /// Probability of `label`.
    pub label_probability: f32,
    /// Number of classes that come before the label; 0 is a hit.
    pub rank: u32,
    /// How much the row counts in [`Scores::top`]; 1 unless it has a sample weight.
    pub weight: f64,
}

impl Score {
    /// Whether the prediction is the label.
    pub fn is_hit(&self) -> bool {
        self.rank == 0
    }
}

/// How one class fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Rows with this label.
    pub rows: u32,
    /// Those of them that were predicted as such.
    pub hits: u32,
    /// Rows predicted as this class, right or wrong.
    pub predicted: u32,
}

impl Scores {
    /// Share of rows, each counting by its weight, whose label is among the `k` most probable
    /// classes.
    pub fn top(&self, k: u32) -> f64 {
        let sum = |wanted: &dyn Fn(&Score) -> bool| -> f64 {
            let rows = self.rows.iter().filter(|row| wanted(row));
            rows.map(|row| row.weight).sum()
        };
        sum(&|row| row.rank < k) / sum(&|_| true)
    }

    /// Number of rows for each (label, predicted class) that occurs, in order.
    pub fn confusion(&self) -> BTreeMap<(u32, u32), u32> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry((row.label, row.predicted)).or_insert(0) += 1;
        }
        counts
    }

    /// Each of so many classes.
    ///
    /// # Panics
    /// If a row has a class beyond.
    pub fn classes(&self, classes: usize) -> Vec<ClassCounts> {
        let mut all = vec![ClassCounts::default(); classes];
        for row in &self.rows {
            all[row.label as usize].rows += 1;
            all[row.label as usize].hits += u32::from(row.is_hit());
            all[row.predicted as usize].predicted += 1;
        }
        all
    }

    /// Numbers of the (at most `count`) misses of the highest confidence, highest first.
    pub fn confident_misses(&self, count: usize) -> Vec<usize> {
        self.best(count, |row| !row.is_hit(), |row| -row.confidence)
    }

    /// Numbers of the (at most `count`) hits of the lowest confidence, lowest first.
    pub fn least_confident_correct(&self, count: usize) -> Vec<usize> {
        self.best(count, Score::is_hit, |row| row.confidence)
    }

    fn best(
        &self,
        count: usize,
        wanted: impl Fn(&Score) -> bool,
        key: impl Fn(&Score) -> f32,
    ) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.rows.len())
            .filter(|&i| wanted(&self.rows[i]))
            .collect();
        found.sort_by(|&a, &b| key(&self.rows[a]).total_cmp(&key(&self.rows[b])));
        found.truncate(count);
        found
    }
}

impl Model {
    /// [`Model::evaluate`] with what the model says about every row.
    ///
    /// Cost: 2ndc flop and nc exponentials; X is streamed once and not copied.
    ///
    /// # Errors
    /// As [`Model::evaluate`].
    pub fn score(&self, samples: &Samples) -> Result<Scores> {
        self.score_weighted(samples, None)
    }

    /// [`Model::score`] where row i counts `weights[i]` times in the means.
    ///
    /// # Errors
    /// As [`Model::evaluate_weighted`].
    pub fn score_weighted(&self, samples: &Samples, weights: Option<&[f64]>) -> Result<Scores> {
        self.score_with(samples, weights, None)
    }

    /// [`Model::score`] from the rows' logits, which were computed before: no product.
    ///
    /// # Errors
    /// As [`Model::evaluate`]; [`Error::Shape`](crate::Error::Shape) if the logits are of another
    /// number of rows or outputs.
    pub fn score_logits(&self, samples: &Samples, logits: &Logits) -> Result<Scores> {
        self.score_with(samples, None, Some(logits))
    }

    /// [`Model::score_weighted`], from known logits where there are some.
    ///
    /// # Errors
    /// As [`Model::score_logits`].
    pub fn score_with(
        &self,
        samples: &Samples,
        weights: Option<&[f64]>,
        known: Option<&Logits>,
    ) -> Result<Scores> {
        let temperature = self.about().temperature;
        let mut rows = vec![Score::default(); samples.rows()];
        let evaluation = self.evaluate_with(samples, weights, known, |range, z| {
            let labels = &samples.labels()[range.clone()];
            let tasks = rows[range]
                .par_chunks_mut(TASK)
                .zip(labels.par_chunks(TASK));
            let tasks = tasks.share(Work::exponentials(8 * z.as_slice().len()));
            tasks.enumerate().for_each(|(task, (rows, labels))| {
                for (i, (row, &label)) in rows.iter_mut().zip(labels).enumerate() {
                    *row = score(z, task * TASK + i, label, temperature);
                }
            });
        })?;
        for (row, &weight) in rows.iter_mut().zip(weights.unwrap_or_default()) {
            row.weight = weight;
        }
        Ok(Scores { evaluation, rows })
    }
}

/// Column `i` of logits (c x n). One logit stands for the two of (0, z).
fn score(z: MatRef, i: usize, label: u32, temperature: Option<f64>) -> Score {
    let outputs = z.rows();
    let logit = |class: u32| match (outputs, class) {
        (1, 0) => 0.0,
        (1, _) => z.row(0)[i],
        _ => z.row(class as usize)[i],
    };
    let own = logit(label);
    let (mut predicted, mut largest, mut rank) = (0, logit(0), 0);
    for class in 0..outputs.max(2) as u32 {
        let z = logit(class);
        if z > largest {
            (predicted, largest) = (class, z);
        }
        rank += u32::from(z > own || (z == own && class < label));
    }
    // The probability as a multiple of the largest one.
    let share = |z: f32| match temperature {
        None => f64::from((z - largest).exp()),
        Some(temperature) => ((f64::from(z) - f64::from(largest)) / temperature).exp(),
    };
    let total: f64 = (0..outputs.max(2) as u32)
        .map(|class| share(logit(class)))
        .sum();
    Score {
        label,
        predicted,
        confidence: (1.0 / total) as f32,
        label_probability: (share(own) / total) as f32,
        rank,
        weight: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against `predict`, `probabilities` and `evaluate`, which know nothing of scores.
        #[test]
        fn scores_agree_with_predictions(
            classes in 2usize..7,
            n in 1usize..40,
            weight in prop::collection::vec(-2f32..2.0, 7 * 3),
            x in prop::collection::vec(-2f32..2.0, 40 * 3),
        ) {
            let outputs = if classes == 2 { 1 } else { classes };
            let model = Model::new(weight[..outputs * 3].to_vec(), vec![0.1; outputs]).unwrap();
            let x = &x[..n * 3];
            let labels: Vec<i64> = (0..n as i64).map(|i| i * 5 % classes as i64).collect();
            let samples = Samples::new(x, 3, &labels, classes).unwrap();
            let scores = model.score(&samples).unwrap();
            prop_assert_eq!(scores.evaluation, model.evaluate(&samples).unwrap());
            prop_assert_eq!(scores.top(1), scores.evaluation.accuracy);
            prop_assert_eq!(scores.top(classes as u32), 1.0);
            let predicted = model.predict(x).unwrap();
            let probabilities = model.probabilities(x).unwrap();
            for (i, (row, p)) in scores.rows.iter().zip(probabilities.chunks(classes)).enumerate() {
                prop_assert_eq!(row.predicted, predicted[i]);
                prop_assert_eq!(row.is_hit(), i64::from(row.predicted) == labels[i]);
                prop_assert!((row.confidence - p[row.predicted as usize]).abs() < 1e-5);
                prop_assert!((row.label_probability - p[row.label as usize]).abs() < 1e-5);
            }
            let confusion = scores.confusion();
            let of_classes = scores.classes(classes);
            prop_assert_eq!(confusion.values().sum::<u32>() as usize, n);
            for (class, of) in (0u32..).zip(&of_classes) {
                let sum = |wanted: &dyn Fn(u32, u32) -> bool| -> u32 {
                    let cells = confusion.iter().filter(|((label, predicted), _)| wanted(*label, *predicted));
                    cells.map(|(_, n)| n).sum()
                };
                prop_assert_eq!(of.rows, sum(&|label, _| label == class));
                prop_assert_eq!(of.predicted, sum(&|_, predicted| predicted == class));
                prop_assert_eq!(of.hits, sum(&|label, predicted| label == class && predicted == class));
            }
        }
    }

    #[test]
    fn misses_and_unsure_hits_come_in_order() {
        let row = |label, predicted, confidence| Score {
            label,
            predicted,
            confidence,
            label_probability: 0.0,
            rank: u32::from(label != predicted),
            weight: 1.0,
        };
        let scores = Scores {
            evaluation: Evaluation {
                rows: 5,
                accuracy: 0.4,
                loss: 1.0,
                uncalibrated_loss: 1.0,
            },
            rows: vec![
                row(0, 1, 0.6),
                row(0, 0, 0.9),
                row(1, 0, 0.8),
                row(1, 1, 0.5),
                row(0, 1, 0.7),
            ],
        };
        assert_eq!(scores.confident_misses(2), [2, 4]);
        assert_eq!(scores.least_confident_correct(9), [3, 1]);
    }
}
