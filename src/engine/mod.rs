//! How the weight is represented while it is trained.
//!
//! An optimizer sees an [`Engine`] and never X: it asks for logits at a point, gives back
//! the gradient in the logits, and combines points linearly.

mod choice;
mod gram;
mod gram_matrix;
mod primal;
mod spectrum;

pub use choice::{Choice, Kind, Plan, Shape, available_memory};
pub use gram::{Coordinates, Gram};
pub use gram_matrix::{GramMatrix, Scratch};
pub use primal::Primal;
pub use spectrum::largest_eigenvalue;

use rayon::prelude::*;

use crate::data::samples::Batch;
use crate::gemm::Accum;
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// A representation of the weight, with the products that training needs.
pub trait Engine: Sized {
    /// A weight and bias, or a direction in their space.
    type Point;

    /// c: number of outputs.
    fn outputs(&self) -> usize;

    /// The origin.
    fn zero(&self) -> Self::Point;

    /// The initial weight and bias.
    fn start(&self) -> Self::Point;

    /// Logits of the batch at a point: `Z = X_batch Wᵀ + 1 bᵀ`.
    fn margins(&mut self, at: &Self::Point, batch: Batch, z: MatMut);

    /// Logits of all validation rows at a point.
    ///
    /// # Panics
    /// If the engine was made without them.
    fn validation_margins(&mut self, at: &Self::Point, z: MatMut);

    /// The gradient in the weight from the gradient in the logits:
    /// `out = alpha · (Gᵀ X_batch, Gᵀ 1) + beta · out`.
    ///
    /// With `beta` = 0, `out` is not read. `alpha` is rounded to f32, as torch does; `beta`
    /// is not: 1 - lr · weight_decay would lose what makes it differ from 1.
    fn pullback(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut Self::Point);

    /// `y = alpha · x + beta · y`.
    fn axpby(&mut self, alpha: f64, x: &Self::Point, beta: f64, y: &mut Self::Point);

    /// `out = (X Xᵀ + 1 1ᵀ) v`, the curvature of the logits' loss seen from one output.
    fn curvature(&mut self, v: &[f32], out: &mut [f32]);

    /// The point's Gram coordinates, where the engine has them.
    fn coordinates(at: &Self::Point) -> Option<Coordinates<'_>>;

    /// The point as a model with its weight spelled out; nothing is left to do then.
    fn materialise(self, at: Self::Point) -> Model;
}

/// Rows of c values a task.
const ROWS: usize = 64;
/// Values a task when points are combined: 64 KB, a few microseconds of work.
const CHUNK: usize = 16 << 10;

/// `y = alpha · x + beta · y`, each rounded once; with `beta` = 0, `y` is not read.
fn axpby(alpha: f64, x: &[f32], beta: f64, y: &mut [f32]) {
    let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(y, x)| {
        let values = y.iter_mut().zip(x);
        match beta {
            0.0 => values.for_each(|(y, &x)| *y = (alpha * f64::from(x)) as f32),
            _ => {
                values.for_each(|(y, &x)| *y = (alpha * f64::from(x) + beta * f64::from(*y)) as f32)
            }
        }
    });
}

/// Make `beta · values` what a product is added to: zeros need not even be written.
fn scale(beta: f64, values: &mut [f32]) -> Accum {
    match beta {
        0.0 => return Accum::Replace,
        1.0 => {}
        _ => values.par_chunks_mut(CHUNK).for_each(|values| {
            (values.iter_mut()).for_each(|value| *value = (beta * f64::from(*value)) as f32);
        }),
    }
    Accum::Add
}

/// `out = Gᵀ weights`, in row order.
fn column_sums(g: MatRef, weight: impl Fn(usize) -> f64, out: &mut Vec<f64>) {
    out.clear();
    out.resize(g.cols(), 0.0);
    for (i, row) in g.as_slice().chunks_exact(g.cols()).enumerate() {
        let weight = weight(i);
        let sums = out.iter_mut().zip(row);
        sums.for_each(|(sum, &value)| *sum += weight * f64::from(value));
    }
}

/// `bias = alpha · sums + beta · bias`; with `beta` = 0, `bias` is not read.
fn move_bias(alpha: f64, sums: &[f64], beta: f64, bias: &mut [f32]) {
    for (b, sum) in bias.iter_mut().zip(sums) {
        let old = if beta == 0.0 {
            0.0
        } else {
            beta * f64::from(*b)
        };
        *b = (alpha * sum + old) as f32;
    }
}
