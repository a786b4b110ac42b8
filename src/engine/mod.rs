//! How the weight is represented while it is trained.
//!
//! An optimizer sees an [`Engine`] and never X: it asks for logits at a point, gives back
//! the gradient in the logits, and combines points linearly.

mod choice;
mod gram;
mod primal;

pub use choice::{Choice, Kind, Plan, available_memory};
pub use gram::{Gram, GramMatrix};
pub use primal::Primal;

use crate::data::samples::Batch;
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// A representation of the weight, with the products that training needs.
pub trait Engine {
    /// A weight and bias, or a direction in their space.
    type Point;

    /// Name for reports.
    fn name(&self) -> &'static str;

    /// c: number of outputs.
    fn outputs(&self) -> usize;

    /// The origin.
    fn zero(&self) -> Self::Point;

    /// The initial weight and bias.
    fn start(&self) -> Self::Point;

    /// Logits of the batch at a point: `Z = X_batch Wᵀ + 1 bᵀ`.
    fn margins(&mut self, at: &Self::Point, batch: Batch, z: MatMut);

    /// The gradient in the weight from the gradient in the logits:
    /// `out = alpha · (Gᵀ X_batch, Gᵀ 1) + beta · out`.
    ///
    /// With `beta` = 0, `out` is not read.
    fn pullback(&mut self, alpha: f32, g: MatRef, batch: Batch, beta: f32, out: &mut Self::Point);

    /// `y = alpha · x + beta · y`.
    fn axpby(&mut self, alpha: f32, x: &Self::Point, beta: f32, y: &mut Self::Point);

    /// The point as a model with its weight spelled out.
    fn materialise(&mut self, at: Self::Point) -> Model;
}

/// `y = alpha · x + beta · y`; with `beta` = 0, `y` is not read.
fn axpby(alpha: f32, x: &[f32], beta: f32, y: &mut [f32]) {
    match beta {
        0.0 => y.iter_mut().zip(x).for_each(|(y, x)| *y = alpha * x),
        1.0 => y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * x),
        _ => (y.iter_mut().zip(x)).for_each(|(y, x)| *y = alpha * x + beta * *y),
    }
}

/// `out = alpha · Gᵀ 1 + beta · out`, summed in f64 and in row order.
fn add_column_sums(alpha: f32, g: MatRef, beta: f32, out: &mut [f32]) {
    let mut sums = vec![0.0f64; out.len()];
    for row in g.as_slice().chunks_exact(out.len()) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let sums: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
    axpby(alpha, &sums, beta, out);
}
