//! Weight and bias in the coordinates of a [`Problem`](crate::solver::problem::Problem), and their gradient.

use crate::comm::rows::RowShard;
use crate::io::checkpoint::StateDict;
use crate::linalg::vec::{Real, axpby};

/// A weight and bias with the weight's logits.
#[derive(Clone, Debug)]
pub struct Point<T, W = f64> {
    /// Coordinates of W.
    pub w: Vec<W>,
    /// b.
    pub b: Vec<f64>,
    /// `W Xcᵀ`; empty if logits are not kept.
    pub z: Vec<T>,
}

impl<T: Real> Point<T> {
    /// Adds all fields to a checkpoint.
    pub(crate) fn fields<'a>(
        &'a mut self,
        ranks: Option<RowShard<'a>>,
        fields: &mut StateDict<'a>,
    ) {
        fields.f64("w", &mut self.w);
        fields.f64("b", &mut self.b);
        fields.of_rows("z", &mut self.z, ranks);
    }

    /// `self = alpha · x + beta · self`, with logits if both have them. `self` is not read if
    /// `beta` is 0.
    pub fn axpby(&mut self, alpha: f64, x: &Point<T>, beta: f64) {
        axpby(alpha, &x.w, beta, &mut self.w);
        axpby(alpha, &x.b, beta, &mut self.b);
        if !x.z.is_empty() && !self.z.is_empty() {
            axpby(alpha, &x.z, beta, &mut self.z);
        }
    }
}

/// A gradient: coordinates and bias, without logits.
#[derive(Clone, Debug, Default)]
pub struct Gradient {
    /// Coordinates.
    pub w: Vec<f64>,
    /// Bias.
    pub b: Vec<f64>,
}

impl Gradient {
    /// Adds all fields to a checkpoint.
    pub fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>) {
        fields.f64("w", &mut self.w);
        fields.f64("b", &mut self.b);
    }

    /// `self = alpha · x + beta · self`. `self` is not read if `beta` is 0.
    pub fn axpby(&mut self, alpha: f64, x: &Gradient, beta: f64) {
        axpby(alpha, &x.w, beta, &mut self.w);
        axpby(alpha, &x.b, beta, &mut self.b);
    }
}

/// Subtracts the mean over the outputs from a gradient, or a Hessian product, of the loss alone. Adding
/// one value to all outputs changes no probability: the part along it is rounding. Only the penalty
/// limits it, which in a feature of large scale is far too little: the rounding would become a weight
/// of any size.
pub(super) fn center_outputs(gradient: &mut Gradient) {
    let c = gradient.b.len();
    if c == 1 {
        return;
    }
    for values in [&mut gradient.w, &mut gradient.b] {
        let coords = values.len() / c;
        let mut mean = vec![0.0; coords];
        for row in values.chunks_exact(coords) {
            axpby(1.0 / c as f64, row, 1.0, &mut mean);
        }
        for row in values.chunks_exact_mut(coords) {
            axpby(-1.0, &mean, 1.0, row);
        }
    }
}

/// The inner product of two biases.
pub(super) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
