//! Temperature scaling (Guo et al. 2017): probabilities softmax(Z/T), T chosen on rows that
//! were not fitted. Predictions do not change, only how sure they are.

use rayon::prelude::*;

use crate::data::samples::Samples;
use crate::error::{Error, Result};
use crate::mat::MatRef;
use crate::model::Model;

/// Bins of the expected calibration error.
const BINS: usize = 15;
/// T is looked for between 1/RANGE and RANGE.
const RANGE: f64 = 100.0;
/// Golden sections: the interval shrinks below 1e-9 of itself.
const SECTIONS: usize = 45;

/// How probabilities and outcomes agree.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Quality {
    /// Mean negative log-likelihood of the labels.
    pub log_loss: f64,
    /// Expected calibration error: |accuracy - confidence| in 15 bins of confidence of the
    /// same width, weighted by their rows.
    pub calibration_error: f64,
}

/// A temperature, and what it does to the rows that it was chosen on.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Calibration {
    /// T.
    pub temperature: f64,
    /// With T = 1.
    pub before: Quality,
    /// With T.
    pub after: Quality,
}

/// The T of lowest log-loss on some rows, between 0.01 and 100; the log-loss is convex in 1/T.
/// Cost: one product, and 45 times mc exponentials.
///
/// # Errors
/// As [`Model::evaluate`].
pub fn calibrate(model: &Model, rows: &Samples) -> Result<Calibration> {
    let c = model.bias().len();
    let logits = logits(model, rows)?;
    let labels = rows.labels();
    let loss = |ln_t: f64| log_loss(&logits, labels, c, ln_t.exp());
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
    let temperature = (0.5 * (low + high)).exp();
    if !temperature.is_finite() || !at_a.is_finite() {
        let expected = "finite logits of the validation rows";
        return Err(Error::shape(
            "calibration",
            format!("a loss of {at_a}"),
            expected,
        ));
    }
    let quality = |t: f64| Quality {
        log_loss: log_loss(&logits, labels, c, t),
        calibration_error: calibration_error(&logits, labels, c, t),
    };
    Ok(Calibration {
        temperature,
        before: quality(1.0),
        after: quality(temperature),
    })
}

/// Logits of a row, divided by t: one a class.
fn row(z: &[f32], c: usize, t: f64) -> Vec<f64> {
    match c {
        1 => vec![0.0, f64::from(z[0]) / t],
        _ => z.iter().map(|&z| f64::from(z) / t).collect(),
    }
}

fn log_sum(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
}

fn log_loss(logits: &[f32], labels: &[u32], c: usize, t: f64) -> f64 {
    let rows = logits.par_chunks_exact(c).zip(labels);
    let losses: Vec<f64> = rows
        .map(|(z, &label)| {
            let z = row(z, c, t);
            log_sum(&z) - z[label as usize]
        })
        .collect();
    losses.iter().sum::<f64>() / labels.len() as f64
}

fn calibration_error(logits: &[f32], labels: &[u32], c: usize, t: f64) -> f64 {
    // Rows, confidence and hits of each bin.
    let mut bins = [(0usize, 0.0f64, 0usize); BINS];
    for (z, &label) in logits.chunks_exact(c).zip(labels) {
        let z = row(z, c, t);
        let top = (0..z.len()).fold(0, |top, j| if z[j] > z[top] { j } else { top });
        let confidence = (z[top] - log_sum(&z)).exp();
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += confidence;
        bin.2 += usize::from(top == label as usize);
    }
    let gaps = bins
        .iter()
        .map(|&(_, confidence, hits)| (confidence - hits as f64).abs());
    gaps.sum::<f64>() / labels.len() as f64
}

/// Logits, rows x c, row-major.
fn logits(model: &Model, rows: &Samples) -> Result<Vec<f32>> {
    let c = model.bias().len();
    let mut logits = vec![0.0; rows.rows() * c];
    model.evaluate_with(rows, |range, z: MatRef| {
        let to = &mut logits[range.start * c..range.end * c];
        for j in 0..c {
            let rows = z.row(j).iter().zip(to.iter_mut().skip(j).step_by(c));
            rows.for_each(|(&z, to)| *to = z);
        }
    })?;
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels drawn from the probabilities of the logits: T is 1; logits k times as large: k.
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
                    let z = row(z, c, 1.0);
                    let (total, mut left) = (log_sum(&z), uniform());
                    let drawn = z.iter().position(|z| {
                        left -= (z - total).exp();
                        left < 0.0
                    });
                    drawn.unwrap_or(z.len() - 1) as i64
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
            }
        }
    }
}
