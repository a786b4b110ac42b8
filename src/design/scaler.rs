//! Standardisation of features, and conversion of models between original and scaled features.
//!
//! x' = (x - μ)/σ, where μ and σ are the mean and the standard deviation of each feature over the
//! training rows, weighted by sample weights. A model of x' is equivalent to one of x: W = W'/σ,
//! b = b' - W μ; W' = W σ, b' = b + W μ.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::comm;
use crate::design::rows::{Rows, Shard};
use crate::design::samples::{OwnedSamples, Samples, try_with_capacity};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::tensors::{self, Dtype, Numbers, Tensor};
use crate::linalg::mat::MatRef;
use crate::threads::{Share, Work};

/// The standardisation of every feature before the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Standardize {
    /// No change.
    #[default]
    None,
    /// Subtract the mean. Converged fits do not change, because their bias is not penalised.
    Center,
    /// Divide by the standard deviation.
    Scale,
    /// Subtract the mean and divide by the standard deviation.
    Both,
}

impl Standardize {
    /// Checks that features are not centred for a model without an intercept.
    ///
    /// # Errors
    /// [`Error::Options`] if they are.
    pub(crate) fn check_intercept(self, fit_intercept: bool) -> Result<()> {
        if fit_intercept || !matches!(self, Standardize::Center | Standardize::Both) {
            return Ok(());
        }
        Err(Error::options(
            "`standardize`",
            format!("{self}, with `fit_intercept` false"),
            "none or scale: a model of centred features has a bias",
        ))
    }
}

impl Standardize {
    /// The standardisation called `name`: none, center, scale or both.
    ///
    /// # Errors
    /// [`Error::Options`] for another name.
    pub fn named(name: &str) -> Result<Standardize> {
        match name {
            "none" => Ok(Standardize::None),
            "center" => Ok(Standardize::Center),
            "scale" => Ok(Standardize::Scale),
            "both" => Ok(Standardize::Both),
            _ => {
                let expected = "none, center, scale or both";
                Err(Error::options("`standardize`", name, expected))
            }
        }
    }

    fn centers(self) -> bool {
        matches!(self, Standardize::Center | Standardize::Both)
    }

    fn scales(self) -> bool {
        matches!(self, Standardize::Scale | Standardize::Both)
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

/// μ and σ of the training rows, d values each: μ = 0 without centring, σ = 1 without scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scaler {
    /// The scaler of training rows with sample weights s (`None`: all 1), in f64:
    ///
    /// ```text
    /// μ = Σ sᵢ xᵢ / Σ sᵢ,   σ² = Σ sᵢ (xᵢ - μ)² / Σ sᵢ
    /// ```
    ///
    /// A weight of 0 is the row's removal, 2 its repetition. A feature that is constant in all rows
    /// of weight above 0 is not scaled (σ = 1). Cost: X is read twice.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of weights is not that of the rows; [`Error::Options`] if a
    /// weight is negative or not finite, or if all are 0.
    pub fn new(x: &Rows, weights: Option<&[f64]>, what: Standardize) -> Result<Scaler> {
        let shares = weights
            .map(|weights| shares(weights, x.all_len()))
            .transpose()?;
        let share = |i: usize| match &shares {
            Some(shares) => shares[i],
            None => 1.0 / x.all_len() as f64,
        };
        // Differences from a row of weight above 0 are exactly 0 for a constant feature.
        let first = (0..x.all_len()).find(|&i| share(i) > 0.0).unwrap_or(0);
        let origin = x.row_of_all(first);
        let of_first_row = x.row_shard().map_or(0, |shard| shard.first);
        let share = |own: usize| share(of_first_row + own);
        let offset = weighted_means(x, share, |j, value| value - f64::from(origin[j]));
        let deviation = if what.scales() {
            let square = |j: usize, value: f64| (value - f64::from(origin[j]) - offset[j]).powi(2);
            let variance = weighted_means(x, share, square);
            let root = variance.iter().map(|variance| variance.sqrt());
            root.map(|s| if s > 0.0 { s } else { 1.0 }).collect()
        } else {
            vec![1.0; x.features()]
        };
        let mean = if what.centers() {
            let mean = origin.iter().zip(&offset);
            mean.map(|(&origin, offset)| f64::from(origin) + offset)
                .collect()
        } else {
            vec![0.0; x.features()]
        };
        Ok(Scaler { mean, deviation })
    }

    /// The scaler of all columns from those of each rank.
    pub(crate) fn of_ranks(&self, shard: Shard) -> Scaler {
        let of_all = |own: &[f64]| -> Vec<f64> {
            let bits: Vec<i64> = own.iter().map(|own| own.to_bits() as i64).collect();
            let all = comm::assemble(shard.comm, shard.features, shard.first, &bits);
            all.into_iter()
                .map(|bits| f64::from_bits(bits as u64))
                .collect()
        };
        Scaler {
            mean: of_all(&self.mean),
            deviation: of_all(&self.deviation),
        }
    }

    /// μ, d values.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// σ, d values.
    pub fn deviation(&self) -> &[f64] {
        &self.deviation
    }

    /// A copy of samples with scaled features x'. Cost: 4nd bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of features differs; [`Error::Memory`] if the copy cannot be
    /// allocated.
    pub fn apply(&self, samples: &Samples) -> Result<OwnedSamples> {
        let (n, d) = (samples.x().len(), samples.features());
        if d != self.mean.len() {
            let expected = format!("{} as in training", self.mean.len());
            return Err(Error::shape("features", d, expected));
        }
        let len = n.saturating_mul(d);
        let mut x = try_with_capacity(len)?;
        x.resize(len, 0.0);
        let work = Work::bytes(8 * len);
        let rows = x.par_chunks_exact_mut(d).share(work).enumerate();
        rows.for_each(|(i, to)| self.scale_row(samples.x().row(i), to));
        Ok(OwnedSamples::new(x, samples))
    }

    /// Writes x' of the rows `x` to `to`, which is resized.
    pub(crate) fn scale_rows(&self, x: MatRef, to: &mut Vec<f32>) {
        to.resize(x.rows() * x.cols(), 0.0);
        let work = Work::bytes(8 * to.len());
        let rows = to.par_chunks_exact_mut(x.cols()).share(work).enumerate();
        rows.for_each(|(i, to)| self.scale_row(x.row(i), to));
    }

    /// Σ x' μ/σ of a scaled row `row`, the product of x' with the offset μ/σ between x/σ and x'.
    pub(crate) fn offset(&self, row: &[f32]) -> f64 {
        let values = row.iter().zip(self.mean.iter().zip(&self.deviation));
        values
            .map(|(&x, (mean, deviation))| f64::from(x) * mean / deviation)
            .sum()
    }

    /// The bytes of a safetensors file for [`Scaler::load`], with `mean` and `deviation` (d values of
    /// f64 each).
    pub fn to_safetensors(&self) -> Vec<u8> {
        let tensor = |name: &str, values| Tensor {
            name: name.to_string(),
            shape: vec![self.mean.len()],
            numbers: Numbers::F64(Cow::Borrowed(values)),
        };
        let tensors = [
            tensor("deviation", &*self.deviation),
            tensor("mean", &self.mean),
        ];
        tensors::write(&tensors, json!({}))
    }

    /// Reads a file of [`Scaler::to_safetensors`].
    ///
    /// # Errors
    /// [`Error::Tensors`] for another kind of file; [`Error::Format`] if the lengths differ, a value
    /// is not finite or a deviation not above 0; [`Error::Io`] if the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Scaler> {
        let path = path.as_ref();
        let doing = "read mean and deviation of the features (fit again with `save_coordinates`)";
        let bytes = files::read(path, doing, u64::MAX)?;
        let expected = [("deviation", Dtype::F64), ("mean", Dtype::F64)];
        let (tensors, _) = tensors::read(&bytes, &expected).map_err(Error::tensors(path))?;
        let mut values = tensors.into_iter().map(|tensor| match tensor.numbers {
            Numbers::F64(values) => values.into_owned(),
            Numbers::F32(_) => unreachable!("f64 was requested"),
        });
        let mut next = || values.next().expect("two tensors were requested");
        let (deviation, mean) = (next(), next());
        if deviation.len() != mean.len() {
            let expected = format!("{} as deviation has", deviation.len());
            return Err(Error::format(path, "mean", mean.len(), expected));
        }
        let bad = |(mean, s): (&f64, &f64)| !(mean.is_finite() && s.is_finite() && *s > 0.0);
        match mean.iter().zip(&deviation).position(bad) {
            None => Ok(Scaler { mean, deviation }),
            Some(j) => Err(Error::format(
                path,
                format!("feature {j}"),
                format!("mean {} and deviation {}", mean[j], deviation[j]),
                "finite numbers, the deviation above 0",
            )),
        }
    }

    /// Writes x' of the row `x` to `to`.
    fn scale_row(&self, x: &[f32], to: &mut [f32]) {
        let values = x.iter().zip(&self.mean).zip(&self.deviation).zip(to);
        for (((&x, mean), deviation), to) in values {
            *to = ((f64::from(x) - mean) / deviation) as f32;
        }
    }
}

/// The weights divided by their sum, after a check.
fn shares(weights: &[f64], rows: usize) -> Result<Vec<f64>> {
    if weights.len() != rows {
        let found = format!("{} weights", weights.len());
        return Err(Error::shape(
            "sample weights",
            found,
            format!("{rows}: one per row"),
        ));
    }
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|&weight| weight < 0.0) || !(sum.is_finite() && sum > 0.0) {
        return Err(Error::options(
            "`sample_weight`",
            format!(
                "weights whose sum is {sum}, the least being {}",
                least(weights)
            ),
            "finite numbers, 0 or above, not all 0",
        ));
    }
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

fn least(weights: &[f64]) -> f64 {
    weights.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The weighted mean of `of(feature, value)` over the rows, for each feature; a row's weight is its
/// `share`.
fn weighted_means(
    x: &Rows,
    share: impl Fn(usize) -> f64 + Sync,
    of: impl Fn(usize, f64) -> f64 + Sync,
) -> Vec<f64> {
    /// Number of features of a task.
    const WIDTH: usize = 256;
    x.sum_of_rows(x.features(), |rows| {
        let mut means = vec![0.0; x.features()];
        let work = Work::bytes(4 * rows.len() * x.features());
        let tasks = means.par_chunks_mut(WIDTH).share(work).enumerate();
        tasks.for_each(|(task, means)| {
            let first = task * WIDTH;
            for (i, share) in rows.clone().map(|i| (i, share(i))) {
                if share == 0.0 {
                    continue;
                }
                let values = &x.row(i)[first..][..means.len()];
                for (j, (mean, &value)) in means.iter_mut().zip(values).enumerate() {
                    *mean += share * of(first + j, f64::from(value));
                }
            }
        });
        means
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use proptest::prelude::*;

    const ALL: [Standardize; 4] = [
        Standardize::None,
        Standardize::Center,
        Standardize::Scale,
        Standardize::Both,
    ];

    #[test]
    fn scaled_features_have_mean_0_and_deviation_1_and_restored_models_the_same_loss() {
        let x = [1.0, 5.0, 7.0, 3.0, 5.0, -1.0, 8.0, 5.0, 0.0];
        let samples = Samples::new(&x, 3, &[0, 1, 2], 3).unwrap();
        for what in ALL {
            assert_eq!(Standardize::named(&what.to_string()).unwrap(), what);
            let scaler = Scaler::new(samples.x(), None, what).unwrap();
            let scaled = scaler.apply(&samples).unwrap();
            let scaled = scaled.samples().unwrap();
            for j in 0..3 {
                let column: Vec<f64> = (0..3).map(|i| scaled.x().row(i)[j].into()).collect();
                let mean = column.iter().sum::<f64>() / 3.0;
                let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
                if what.centers() {
                    assert!(mean.abs() < 1e-6);
                }
                if what.scales() && j != 1 {
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

    /// The rounded mean of the values 0.1 is not 0.1: rounding must not look like a deviation.
    #[test]
    fn a_constant_feature_is_not_scaled() {
        for value in [0.1, -3e38, 1e-40, 0.0] {
            let x: Vec<f32> = (0..1001).flat_map(|i| [value, i as f32]).collect();
            let rows = Samples::new(&x, 2, &[0; 1001], 2).unwrap();
            // The only row with another value has weight 0.
            let mut x = x.clone();
            x[0] = 7.0;
            let other = Samples::new(&x, 2, &[0; 1001], 2).unwrap();
            let mut weights = vec![0.3; 1001];
            weights[0] = 0.0;
            for (rows, weights) in [(&rows, None), (&other, Some(&*weights))] {
                let scaler = Scaler::new(rows.x(), weights, Standardize::Both).unwrap();
                assert_eq!(scaler.deviation()[0], 1.0, "{value}");
                assert_eq!(scaler.mean()[0], f64::from(value));
                assert!(scaler.deviation()[1] > 100.0);
            }
        }
    }

    #[test]
    fn invalid_weights_are_rejected() {
        let x = [1.0, 2.0, 4.0];
        let rows = Samples::new(&x, 1, &[0, 1, 0], 2).unwrap();
        let refused = |w: &[f64]| Scaler::new(rows.x(), Some(w), Standardize::Both).is_err();
        assert!(!refused(&[0.0, 1.0, 2.0]));
        assert!(refused(&[1.0, 1.0]));
        assert!(refused(&[1.0, -1.0, 2.0]));
        assert!(refused(&[0.0; 3]));
        assert!(refused(&[1.0, f64::NAN, 1.0]));
        assert!(refused(&[1.0, f64::INFINITY, 1.0]));
    }

    proptest! {
        /// Both are compared with the definitions in f64.
        #[test]
        fn integer_weights_equal_repeated_rows(
            d in 1usize..5,
            rows in prop::collection::vec((prop::collection::vec(-1f32..1.0, 5), 0u8..4), 1..30),
            scale in prop::sample::select(vec![1e-6f32, 1.0, 1e6]),
            offset in prop::sample::select(vec![0f32, 1.0, 1e3]),
            factor in prop::sample::select(vec![1.0, 0.1, 7.0]),
        ) {
            prop_assume!(rows.iter().any(|(_, times)| *times > 0));
            let row = |values: &[f32]| -> Vec<f32> {
                values[..d].iter().map(|value| scale * (offset + value)).collect()
            };
            let x: Vec<f32> = rows.iter().flat_map(|(values, _)| row(values)).collect();
            let weights: Vec<f64> = rows.iter().map(|(_, times)| factor * f64::from(*times)).collect();
            let repeated: Vec<f32> = (rows.iter())
                .flat_map(|(values, times)| row(values).repeat(usize::from(*times)))
                .collect();
            let (n, m) = (rows.len(), repeated.len() / d);
            let given = Samples::new(&x, d, &vec![0; n], 2).unwrap();
            let spelled = Samples::new(&repeated, d, &vec![0; m], 2).unwrap();
            for what in ALL {
                let a = Scaler::new(given.x(), Some(&weights), what).unwrap();
                let b = Scaler::new(spelled.x(), None, what).unwrap();
                for j in 0..d {
                    let column: Vec<f64> = (0..m).map(|i| spelled.x().row(i)[j].into()).collect();
                    let mean = column.iter().sum::<f64>() / m as f64;
                    let deviation = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / m as f64).sqrt();
                    let constant = column.iter().all(|x| *x == column[0]);
                    let size = f64::from(scale) * (1.0 + f64::from(offset));
                    for scaler in [&a, &b] {
                        let expected = if what.centers() { mean } else { 0.0 };
                        prop_assert!((scaler.mean()[j] - expected).abs() <= 1e-12 * size);
                        let expected = if what.scales() && !constant { deviation } else { 1.0 };
                        prop_assert!((scaler.deviation()[j] - expected).abs() <= 1e-9 * expected.max(size));
                    }
                    prop_assert!((a.deviation()[j] / b.deviation()[j] - 1.0).abs() < 1e-12);
                }
            }
        }

        /// The loss is the same on scaled features, and `restore` returns the original model.
        #[test]
        fn restore_inverts_scale(
            weight in prop::collection::vec(-2f32..2.0, 9),
            x in prop::collection::vec(-2f32..2.0, 12),
        ) {
            let x: Vec<f32> = x.chunks(3).flat_map(|r| [r[0], 50.0 + 10.0 * r[1], 0.1 * r[2]]).collect();
            let samples = Samples::new(&x, 3, &[0, 1, 2, 0], 3).unwrap();
            for what in ALL {
                let scaler = Scaler::new(samples.x(), None, what).unwrap();
                let model = Model::new(weight.clone(), vec![0.1, 0.2, -0.3]).unwrap();
                let mut scaled = model.clone();
                scaler.scale(&mut scaled);
                let there = scaler.apply(&samples).unwrap();
                let (a, b) = (model.evaluate(&samples).unwrap(), scaled.evaluate(&there.samples().unwrap()).unwrap());
                prop_assert!((a.loss - b.loss).abs() < 1e-4 * (1.0 + a.loss), "{a:?} {b:?}");
                scaler.restore(&mut scaled);
                for (a, b) in model.weight().as_slice().iter().zip(scaled.weight().as_slice()) {
                    prop_assert!((a - b).abs() <= 1e-6 * a.abs());
                }
                for (a, b) in model.bias().iter().zip(scaled.bias()) {
                    prop_assert!((a - b).abs() < 1e-4);
                }
            }
        }
    }
}
