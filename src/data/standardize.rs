//! Features on one scale, and models brought back to the features as they were.
//!
//! With μ and σ the mean and the standard deviation of the training rows' features,
//! x' = (x - μ)/σ. A model of x' is one of x: W = W'/σ, b = b' - W μ.

use std::fmt;

use rayon::prelude::*;

use super::samples::{OwnedSamples, Rows, Samples, room};
use crate::error::{Error, Result};
use crate::model::Model;

/// What is done to every feature before the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standardize {
    /// Nothing.
    #[default]
    None,
    /// Its mean is taken away. Without a penalty on b this leaves converged fits as they are.
    Center,
    /// It is divided by its standard deviation.
    Scale,
    /// Both.
    Both,
}

impl Standardize {
    /// Look one up: none, center, scale or both.
    pub fn named(name: &str) -> Result<Standardize> {
        match name {
            "none" => Ok(Standardize::None),
            "center" => Ok(Standardize::Center),
            "scale" => Ok(Standardize::Scale),
            "both" => Ok(Standardize::Both),
            _ => {
                let expected = "none, center, scale or both";
                Err(Error::options("--standardize", name, expected))
            }
        }
    }
}

impl fmt::Display for Standardize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standardize::None => "none",
            Standardize::Center => "center",
            Standardize::Scale => "scale",
            Standardize::Both => "both",
        })
    }
}

/// μ and σ of some rows, or what stands for them: 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scaler {
    /// From training rows. A feature that is constant is not scaled. Cost: X is read twice.
    pub fn new(x: &Rows, what: Standardize) -> Scaler {
        let d = x.features();
        let mean = moments(x, |_, value| value);
        let deviation = match what {
            Standardize::Scale | Standardize::Both => {
                let variance = moments(x, |j, value| (value - mean[j]).powi(2));
                let root = variance.iter().map(|v| v.sqrt());
                root.map(|s| if s > 0.0 { s } else { 1.0 }).collect()
            }
            _ => vec![1.0; d],
        };
        let mean = match what {
            Standardize::Center | Standardize::Both => mean,
            _ => vec![0.0; d],
        };
        Scaler { mean, deviation }
    }

    /// A copy of samples on this scale. Cost: 4nd bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] for other features, or if no memory can be had.
    pub fn apply(&self, samples: &Samples) -> Result<OwnedSamples> {
        let (n, d) = (samples.rows(), samples.features());
        if d != self.mean.len() {
            let expected = format!("{} as in training", self.mean.len());
            return Err(Error::shape("features", d, expected));
        }
        let len = n.saturating_mul(d);
        let mut x = room(len)?;
        x.resize(len, 0.0);
        x.par_chunks_exact_mut(d).enumerate().for_each(|(i, to)| {
            let values = samples.x().row(i).iter().zip(&self.mean);
            let values = values.zip(&self.deviation).zip(to);
            values.for_each(|(((&x, mean), deviation), to)| {
                *to = ((f64::from(x) - mean) / deviation) as f32;
            });
        });
        Ok(OwnedSamples::new(x, samples))
    }

    /// Make a model of scaled features one of the features as they were.
    pub fn restore(&self, model: &mut Model) {
        let d = self.mean.len();
        let (weight, bias) = model.values_mut();
        for (row, bias) in weight.chunks_exact_mut(d).zip(bias) {
            let mut shift = 0.0;
            for ((w, mean), deviation) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                let value = f64::from(*w) / deviation;
                shift += value * mean;
                *w = value as f32;
            }
            *bias = (f64::from(*bias) - shift) as f32;
        }
    }
}

/// The mean over the rows of `of(feature, value)`, one a feature.
fn moments(x: &Rows, of: impl Fn(usize, f64) -> f64 + Sync) -> Vec<f64> {
    /// Features a task.
    const WIDTH: usize = 256;
    let mut sums = vec![0.0; x.features()];
    sums.par_chunks_mut(WIDTH)
        .enumerate()
        .for_each(|(task, sums)| {
            let first = task * WIDTH;
            for i in 0..x.len() {
                let values = &x.row(i)[first..][..sums.len()];
                for (j, (sum, &value)) in sums.iter_mut().zip(values).enumerate() {
                    *sum += of(first + j, f64::from(value));
                }
            }
            sums.iter_mut().for_each(|sum| *sum /= x.len() as f64);
        });
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_scaled_and_models_restored() {
        let x = [1.0, 5.0, 7.0, 3.0, 5.0, -1.0, 8.0, 5.0, 0.0];
        let samples = Samples::new(&x, 3, &[0, 1, 2], 3).unwrap();
        for what in [
            Standardize::None,
            Standardize::Center,
            Standardize::Scale,
            Standardize::Both,
        ] {
            assert_eq!(Standardize::named(&what.to_string()).unwrap(), what);
            let scaler = Scaler::new(samples.x(), what);
            let scaled = scaler.apply(&samples).unwrap();
            let scaled = scaled.samples().unwrap();
            for j in 0..3 {
                let column: Vec<f64> = (0..3).map(|i| scaled.x().row(i)[j].into()).collect();
                let mean = column.iter().sum::<f64>() / 3.0;
                let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
                if matches!(what, Standardize::Center | Standardize::Both) {
                    assert!(mean.abs() < 1e-6);
                }
                if matches!(what, Standardize::Scale | Standardize::Both) && j != 1 {
                    assert!((variance - 1.0).abs() < 1e-6);
                }
            }
            let weight = vec![0.5, -1.0, 2.0, 0.25, 1.5, -0.75, 1.0, 0.0, 0.125];
            let of_scaled = Model::new(weight, vec![0.1, 0.2, -0.3]).unwrap();
            let mut model = of_scaled.clone();
            scaler.restore(&mut model);
            let (a, b) = (model.evaluate(&samples), of_scaled.evaluate(&scaled));
            let (a, b) = (a.unwrap(), b.unwrap());
            assert!((a.loss - b.loss).abs() < 1e-5 * b.loss, "{a:?} {b:?}");
        }
        assert!(Standardize::named("all").is_err());
    }
}
