//! Conversion of models between scaled features x' = (x - μ)/σ and the features x before scaling:
//! W = W'/σ, b = b' - W μ, and back W' = W σ, b' = b + W μ. Cost: one pass over W.

use crate::design::scaler::Scaler;
use crate::model::Model;

impl Scaler {
    /// Convert a model of scaled features to one of the features before scaling: W = W'/σ,
    /// b = b' - W μ. b is computed from the rounded W, so that the logits of the mean row are exact
    /// up to the rounding of b.
    ///
    /// # Panics
    /// If the model has another number of features.
    pub fn restore(&self, model: &mut Model) {
        self.each_output(model, |row, mean, deviation| {
            for (w, s) in row.iter_mut().zip(deviation) {
                *w = (f64::from(*w) / s) as f32;
            }
            -dot(row, mean)
        });
    }

    /// The inverse of [`Scaler::restore`]: convert a model of the features before scaling to one of
    /// scaled features, W' = W σ, b' = b + W μ.
    ///
    /// # Panics
    /// If the model has another number of features.
    pub fn scale(&self, model: &mut Model) {
        self.each_output(model, |row, mean, deviation| {
            let shift = dot(row, mean);
            for (w, s) in row.iter_mut().zip(deviation) {
                *w = (f64::from(*w) * s) as f32;
            }
            shift
        });
    }

    /// Call `change` with each row of W, μ and σ, and add its result to the bias of that output.
    fn each_output(&self, model: &mut Model, change: impl Fn(&mut [f32], &[f64], &[f64]) -> f64) {
        let d = self.mean().len();
        assert_eq!(model.weight().cols(), d, "the scaler's features");
        let (weight, bias) = model.values_mut();
        for (row, bias) in weight.chunks_exact_mut(d).zip(bias) {
            *bias = (f64::from(*bias) + change(row, self.mean(), self.deviation())) as f32;
        }
    }
}

/// Σ w μ.
fn dot(w: &[f32], mean: &[f64]) -> f64 {
    w.iter()
        .zip(mean)
        .map(|(&w, mean)| f64::from(w) * mean)
        .sum()
}
