//! Temperature scaling (Guo et al. 2017): probabilities softmax(Z/T), with the T of lowest log-loss
//! on rows that were not fitted. It changes the confidence of predictions, not the predicted class.

use rayon::prelude::*;

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::model::{Logits, Model};
use crate::threads::{Share, Work};

/// Bins of the expected calibration error.
const BINS: usize = 15;
/// T is searched between 1/RANGE and RANGE.
const RANGE: f64 = 100.0;
/// Number of golden-section steps: the interval shrinks below 1e-9 of its length.
const SECTIONS: usize = 45;

/// The agreement of probabilities with outcomes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Quality {
    /// Mean negative log-likelihood of the labels.
    pub log_loss: f64,
    /// Expected calibration error: the mean over rows of |accuracy - confidence| of the row's bin,
    /// for 15 bins of confidence of equal width.
    pub calibration_error: f64,
}

/// A temperature, and the quality of probabilities on the rows that chose it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Calibration {
    /// T.
    pub temperature: f64,
    /// Whether T is a bound of its range, 0.01 or 100, where the log-loss still falls.
    pub at_bound: bool,
    /// Whether the label of every row has the largest logit: then the log-loss falls as T goes to 0,
    /// and these rows do not determine T.
    pub separable: bool,
    /// Quality with T = 1.
    pub before: Quality,
    /// Quality with T.
    pub after: Quality,
}

/// The T between 0.01 and 100 of the lowest log-loss on `rows`, by golden-section search (the
/// log-loss is convex in 1/T); 1 if no other T is better. A temperature of the model is ignored.
/// Cost for m rows: one product (2mdc flop) and 47mc exponentials.
///
/// # Errors
/// As [`Model::evaluate`].
pub fn calibrate(model: &Model, rows: &Samples) -> Result<Calibration> {
    calibrate_logits(&model.logits_of(rows)?, rows)
}

/// [`calibrate`] from logits of the rows that are already known.
///
/// # Errors
/// [`Error::Shape`] if the logits do not have the number of rows and classes of `rows`.
pub fn calibrate_logits(logits: &Logits, rows: &Samples) -> Result<Calibration> {
    let found = (logits.rows(), logits.outputs().max(2));
    let expected = (rows.rows(), rows.classes());
    if found != expected {
        let text = |(rows, classes)| format!("{rows} rows, {classes} classes");
        return Err(Error::shape("logits", text(found), text(expected)));
    }
    let rows: Vec<Row> = (logits.each_row().zip(rows.labels()))
        .map(|(z, &label)| Row::new(&z, label as usize))
        .collect();
    let loss = |ln_t: f64| log_loss(&rows, ln_t.exp());
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-RANGE.ln(), RANGE.ln());
    let inner = |low: f64, high: f64, share: f64| low + share * (high - low);
    let (mut a, mut b) = (inner(low, high, 1.0 - ratio), inner(low, high, ratio));
    let (mut at_a, mut at_b) = (loss(a), loss(b));
    for _ in 0..SECTIONS {
        if at_a <= at_b {
            (high, b, at_b) = (b, a, at_a);
            a = inner(low, high, 1.0 - ratio);
            at_a = loss(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = inner(low, high, ratio);
            at_b = loss(b);
        }
    }
    let mut temperature = (0.5 * (low + high)).exp();
    let bound = [1.0 / RANGE, RANGE].into_iter();
    let bound = bound.min_by(|a, b| (a - temperature).abs().total_cmp(&(b - temperature).abs()));
    let bound = bound.filter(|bound| (temperature / bound - 1.0).abs() < 1e-6);
    temperature = bound.unwrap_or(temperature);
    let quality = |t: f64| Quality {
        log_loss: log_loss(&rows, t),
        calibration_error: calibration_error(&rows, t),
    };
    let (before, mut after) = (quality(1.0), quality(temperature));
    if before.log_loss <= after.log_loss {
        (temperature, after) = (1.0, before);
    }
    Ok(Calibration {
        temperature,
        at_bound: bound == Some(temperature),
        separable: rows.iter().all(|row| row.others.iter().all(|z| *z < 0.0)),
        before,
        after,
    })
}

/// The logits of the other classes of a row, minus the logit of its label.
struct Row {
    label: usize,
    others: Vec<f64>,
}

impl Row {
    /// From the logits of a row; one logit z stands for (0, z).
    fn new(z: &[f32], label: usize) -> Row {
        let z: Vec<f64> = match z {
            [z] => vec![0.0, f64::from(*z)],
            _ => z.iter().map(|&z| f64::from(z)).collect(),
        };
        let others = z.iter().enumerate().filter(|(class, _)| *class != label);
        Row {
            label,
            others: others.map(|(_, other)| other - z[label]).collect(),
        }
    }

    /// -ln p of the label: ln(1 + Σ exp(others/t)), by `ln_1p` where the sum is small.
    fn loss(&self, t: f64) -> f64 {
        let largest = self.others.iter().copied().fold(0.0, f64::max) / t;
        let sum: f64 = self.others.iter().map(|z| (z / t - largest).exp()).sum();
        if largest == 0.0 {
            sum.ln_1p()
        } else {
            largest + ((-largest).exp() + sum).ln()
        }
    }

    /// The probability of the most probable class.
    fn confidence(&self, t: f64) -> f64 {
        let largest = self.others.iter().copied().fold(0.0, f64::max) / t;
        (largest - self.loss(t)).exp()
    }

    /// Whether the prediction, the first class of the largest logit, is the label.
    fn is_correct(&self) -> bool {
        let (before, after) = self.others.split_at(self.label);
        before.iter().all(|z| *z < 0.0) && after.iter().all(|z| *z <= 0.0)
    }
}

fn log_loss(rows: &[Row], t: f64) -> f64 {
    let outputs = rows.first().map_or(0, |row| row.others.len());
    let work = Work::exponentials(rows.len() * outputs);
    let losses = rows.par_iter().share(work).map(|row| row.loss(t)).collect();
    losses.iter().sum::<f64>() / rows.len() as f64
}

fn calibration_error(rows: &[Row], t: f64) -> f64 {
    // The sum of confidences and the number of correct rows of each bin.
    let mut bins = [(0.0f64, 0usize); BINS];
    for row in rows {
        let confidence = row.confidence(t);
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += confidence;
        bin.1 += usize::from(row.is_correct());
    }
    let gaps = bins.map(|(confidence, correct)| (confidence - correct as f64).abs());
    gaps.iter().sum::<f64>() / rows.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::About;

    /// If labels are drawn from the probabilities of the logits, T is 1; k times these logits have
    /// T = k.
    #[test]
    fn finds_the_temperature_that_labels_were_drawn_with() {
        let mut rng = rand_mt::Mt::new(5);
        let mut uniform = || f64::from(rng.next_u32() >> 8) / f64::from(1 << 24);
        for classes in [2, 4] {
            let n = 20_000;
            let c = if classes == 2 { 1 } else { classes };
            let x: Vec<f32> = (0..n * c).map(|_| (6.0 * uniform() - 3.0) as f32).collect();
            let labels: Vec<i64> = (x.chunks_exact(c))
                .map(|z| {
                    let mut p: Vec<f64> = z.iter().map(|&z| f64::from(z).exp()).collect();
                    if c == 1 {
                        p.insert(0, 1.0);
                    }
                    let mut left = uniform() * p.iter().sum::<f64>();
                    let drawn = p.iter().position(|p| {
                        left -= p;
                        left < 0.0
                    });
                    drawn.unwrap_or(p.len() - 1) as i64
                })
                .collect();
            let samples = Samples::new(&x, c, &labels, classes).unwrap();
            for factor in [1.0f32, 3.0] {
                let weight = (0..c * c).map(|i| if i % (c + 1) == 0 { factor } else { 0.0 });
                let model = Model::new(weight.collect(), vec![0.0; c]).unwrap();
                let found = calibrate(&model, &samples).unwrap();
                let share = found.temperature / f64::from(factor);
                assert!((share - 1.0).abs() < 0.05, "{classes} {found:?}");
                assert!(found.after.log_loss <= found.before.log_loss);
                assert!(found.after.calibration_error < 0.02, "{found:?}");
                if factor > 1.0 {
                    assert!(found.before.calibration_error > 0.05, "{found:?}");
                }
                let mean = model.evaluate(&samples).unwrap().loss;
                assert!((found.before.log_loss - mean).abs() < 1e-5 * mean);
                assert!(!found.at_bound && !found.separable);
                probabilities_agree(&model, &samples, found);
            }
        }
    }

    /// Every function of the calibrated model gives the same probabilities.
    fn probabilities_agree(model: &Model, rows: &Samples, found: Calibration) {
        let mut calibrated = model.clone();
        calibrated.set_about(About {
            temperature: Some(found.temperature),
            ..About::default()
        });
        let scores = calibrated.score(rows).unwrap();
        let evaluation = calibrated.evaluate(rows).unwrap();
        assert_eq!(scores.evaluation, evaluation);
        assert_eq!(
            scores,
            calibrated
                .score_logits(rows, &model.logits_of(rows).unwrap())
                .unwrap()
        );
        let plain = model.evaluate(rows).unwrap();
        assert_eq!(
            (plain.loss, plain.accuracy),
            (evaluation.uncalibrated_loss, evaluation.accuracy)
        );
        assert!((evaluation.loss - found.after.log_loss).abs() < 1e-6);
        let exported = calibrated.calibrated().unwrap();
        assert_eq!(exported.about().temperature, None);
        let x: Vec<f32> = (0..rows.rows())
            .flat_map(|i| rows.x().row(i).to_vec())
            .collect();
        let classes = model.classes();
        let (p, q) = (
            calibrated.probabilities(&x).unwrap(),
            exported.probabilities(&x).unwrap(),
        );
        assert!(p.iter().zip(&q).all(|(p, q)| (p - q).abs() < 1e-5));
        let mut loss = 0.0;
        for ((score, p), &label) in scores.rows.iter().zip(p.chunks(classes)).zip(rows.labels()) {
            assert!((score.confidence - p[score.predicted as usize]).abs() < 1e-5);
            assert!((score.label_probability - p[label as usize]).abs() < 1e-5);
            loss -= f64::from(p[label as usize]).ln() / rows.rows() as f64;
        }
        assert!(
            (loss - evaluation.loss).abs() < 1e-5 * loss,
            "{loss} {evaluation:?}"
        );
    }

    /// If the log-loss has no minimum in the range, `at_bound` is set, and T is never worse than 1.
    #[test]
    fn bounds_of_the_range_are_reported() {
        let x = [1.0, -2.0, 0.5, -0.25];
        let model = Model::new(vec![1.0], vec![0.0]).unwrap();
        let found = |labels: &[i64]| {
            let rows = Samples::new(&x, 1, labels, 2).unwrap();
            let found = calibrate(&model, &rows).unwrap();
            assert!(found.after.log_loss <= found.before.log_loss);
            (found.temperature, found.at_bound, found.separable)
        };
        assert_eq!(found(&[1, 0, 1, 0]), (0.01, true, true));
        assert_eq!(found(&[0, 1, 0, 1]), (100.0, true, false));
        let (temperature, at_bound, separable) = found(&[1, 0, 0, 0]);
        assert!((0.02..50.0).contains(&temperature) && !at_bound && !separable);
        // The log-loss does not depend on T, which stays 1.
        let model = Model::new(vec![0.0], vec![0.0]).unwrap();
        let rows = Samples::new(&x, 1, &[1, 0, 1, 0], 2).unwrap();
        let found = calibrate(&model, &rows).unwrap();
        assert_eq!((found.temperature, found.at_bound), (1.0, false));
    }

    /// Logits near the largest f32 with a temperature that would make them overflow.
    #[test]
    fn no_temperature_gives_probabilities_that_are_not_finite() {
        for classes in [2usize, 3] {
            let outputs = if classes == 2 { 1 } else { 3 };
            let weight = (0..outputs).map(|k| [3e38, -3e38, 1.0][k]).collect();
            let mut model = Model::new(weight, vec![0.0; outputs]).unwrap();
            model.set_about(About {
                temperature: Some(0.01),
                ..About::default()
            });
            let x = [1.0, -1.0];
            let rows = Samples::new(&x, 1, &[0, 1], classes).unwrap();
            let p = model.probabilities(&x).unwrap();
            assert!(p.iter().all(|p| p.is_finite()), "{p:?}");
            assert!((p.iter().sum::<f32>() - 2.0).abs() < 1e-6);
            let scores = model.score(&rows).unwrap();
            assert!(scores.evaluation.loss.is_finite());
            assert!(scores.rows.iter().all(|row| row.confidence == 1.0));
            let error = model.calibrated().unwrap_err().to_string();
            assert!(error.contains("inf at weight[0, 0]"), "{error}");
            // Logits that overflow without a temperature are an error, not NaN.
            let x = [1.0, 10.0];
            let error = model.probabilities(&x).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Overflow {
                        row: 1,
                        output: 0,
                        ..
                    }
                ),
                "{error}"
            );
            let rows = Samples::new(&x, 1, &[0, 1], classes).unwrap();
            assert!(model.evaluate(&rows).is_err() && model.predict(&x).is_err());
        }
    }
}
