//! Scores of labelled rows, one by one: prediction, confidence and rank of the label, and the
//! confusion table, per-class counts and top-k accuracy that follow from them.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::design::samples::Samples;
use crate::error::Result;
use crate::linalg::mat::MatRef;
use crate::model::{Evaluation, Logits, Model};
use crate::threads::{Share, Work};

/// Samples of a parallel task, enough to outlast its scheduling.
const TASK: usize = 256;

/// The predictions of labelled rows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// Accuracy and mean loss, those of [`Model::evaluate_weighted`].
    pub evaluation: Evaluation,
    /// The score of each row, in order.
    pub rows: Vec<Score>,
}

/// The prediction of one labelled row.
///
/// Its probabilities are those of [`Model::probabilities`], calibrated by the model's temperature if
/// it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// The row's label.
    pub label: u32,
    /// The most probable class; the first, if several are equally probable.
    pub predicted: u32,
    /// Probability of `predicted`.
    pub confidence: f32,
    /// Probability of `label`.
    pub label_probability: f32,
    /// Number of classes that rank before the label; 0 if the prediction is correct.
    pub rank: u32,
    /// The row's weight in [`Scores::top`]: its sample weight, or 1.
    pub weight: f64,
}

impl Score {
    /// Whether the prediction is the label.
    pub fn is_correct(&self) -> bool {
        self.rank == 0
    }
}

/// Counts of the rows of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Rows with this label.
    pub rows: u32,
    /// Rows with this label whose prediction is correct.
    pub correct: u32,
    /// Rows predicted as this class, right or wrong.
    pub predicted: u32,
}

impl Scores {
    /// Weighted share of the rows whose label is among the `k` most probable classes.
    pub fn top(&self, k: u32) -> f64 {
        let sum = |wanted: &dyn Fn(&Score) -> bool| -> f64 {
            let rows = self.rows.iter().filter(|row| wanted(row));
            rows.map(|row| row.weight).sum()
        };
        sum(&|row| row.rank < k) / sum(&|_| true)
    }

    /// The confusion table: number of rows of each pair (label, predicted class) that occurs.
    pub fn confusion(&self) -> BTreeMap<(u32, u32), u32> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry((row.label, row.predicted)).or_insert(0) += 1;
        }
        counts
    }

    /// The counts of each class, for `classes` classes.
    ///
    /// # Panics
    /// If a row has a label or prediction of `classes` or above.
    pub fn classes(&self, classes: usize) -> Vec<ClassCounts> {
        let mut all = vec![ClassCounts::default(); classes];
        for row in &self.rows {
            all[row.label as usize].rows += 1;
            all[row.label as usize].correct += u32::from(row.is_correct());
            all[row.predicted as usize].predicted += 1;
        }
        all
    }

    /// The row numbers of the (at most `count`) wrong predictions of highest confidence, highest
    /// first.
    pub fn confident_misses(&self, count: usize) -> Vec<usize> {
        self.first_by(count, |row| !row.is_correct(), |row| -row.confidence)
    }

    /// The row numbers of the (at most `count`) correct predictions of lowest confidence, lowest
    /// first.
    pub fn least_confident_correct(&self, count: usize) -> Vec<usize> {
        self.first_by(count, Score::is_correct, |row| row.confidence)
    }

    fn first_by(
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
    /// [`Model::evaluate`], and the score of every row.
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

    /// [`Model::score`] from logits of the rows that are already known: no product.
    ///
    /// # Errors
    /// As [`Model::evaluate`]; [`Error::Shape`](crate::Error::Shape) if the logits are of another
    /// number of rows or outputs.
    pub fn score_logits(&self, samples: &Samples, logits: &Logits) -> Result<Scores> {
        self.score_with(samples, None, Some(logits))
    }

    /// [`Model::score_weighted`], from `known` logits if they are given.
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

/// The score of column `i` of logits (c x n). One logit z stands for (0, z).
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
        /// Against `predict`, `probabilities` and `evaluate`, which do not use scores.
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
                prop_assert_eq!(row.is_correct(), i64::from(row.predicted) == labels[i]);
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
                prop_assert_eq!(of.correct, sum(&|label, predicted| label == class && predicted == class));
            }
        }
    }

    #[test]
    fn misses_and_least_confident_correct_rows_are_ordered_by_confidence() {
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
