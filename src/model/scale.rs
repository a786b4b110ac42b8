//! Models of scaled features and of the features as they are.

use crate::design::scaler::Scaler;
use crate::model::Model;

impl Scaler {
    /// Make a model of scaled features one of the features as they were: W = W'/σ, b = b' - W μ.
    /// b takes up what rounding W to f32 does at the mean row.
    ///
    /// # Panics
    /// If the model has other features.
    pub fn restore(&self, model: &mut Model) {
        self.each_output(model, |row, mean, deviation| {
            row.iter_mut()
                .zip(deviation)
                .for_each(|(w, s)| *w = (f64::from(*w) / s) as f32);
            -dot(row, mean)
        });
    }

    /// The inverse of [`Scaler::restore`]: make a model of the features as they are one of
    /// scaled features, W' = W σ, b' = b + W μ.
    ///
    /// # Panics
    /// If the model has other features.
    pub fn scale(&self, model: &mut Model) {
        self.each_output(model, |row, mean, deviation| {
            let shift = dot(row, mean);
            row.iter_mut()
                .zip(deviation)
                .for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
            shift
        });
    }

    /// Let `change` do with each row of W, and add what it returns to the bias.
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
