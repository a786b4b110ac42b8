//! [`Parameters`]: the representation of the weight that SGD trains.
//!
//! SGD never accesses X: it gets the logits of a point, returns their gradient, and combines
//! points linearly.
//!
//! Logits Z and their gradient G are stored transposed, one row per output, so that products run
//! along rows of X or K and the loss is vectorised over samples.

use crate::comm::rows::RowShard;
use crate::design::rows::Batch;
use crate::io::checkpoint::StateDict;
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::BatchLoss;
use crate::model::Model;

/// A representation of the weight, with the products that training needs.
pub trait Parameters: Sized {
    /// A weight and bias, or a direction in their space.
    type Point;

    /// c: number of outputs.
    fn outputs(&self) -> usize;

    /// The ranks, if they share the rows.
    fn ranks(&self) -> Option<RowShard<'_>> {
        None
    }

    /// The origin.
    fn zero(&self) -> Self::Point;

    /// The initial weight and bias.
    fn start(&self) -> Self::Point;

    /// Logits of the batch at a point: `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch. They are written to
    /// `scratch` if the point does not store them.
    fn logits<'a>(
        &mut self,
        at: &'a Self::Point,
        batch: Batch,
        scratch: &'a mut Vec<f32>,
    ) -> MatRef<'a>;

    /// Logits of all m validation rows at a point, c x m.
    ///
    /// # Panics
    /// If there are no validation rows.
    fn validation_logits(&mut self, at: &Self::Point, z: MatMut);

    /// The gradient in weight and bias from Gᵀ (c x batch), the gradient in the logits:
    /// `out = alpha · (Gᵀ X_batch, Gᵀ 1) + beta · out`.
    ///
    /// `out` is not read if `beta` is 0. `alpha` is rounded to f32, as torch does; `beta` is not,
    /// because f32 would round 1 - lr · weight_decay to 1 for a small decay.
    fn adjoint(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut Self::Point);

    /// Returns the mean loss of the batch at a point and writes its gradient to `g`.
    fn loss(
        &mut self,
        at: &Self::Point,
        batch: Batch,
        loss: &mut BatchLoss,
        g: &mut LossGradient,
    ) -> f64 {
        crate::sgd::parameters::loss(self, at, batch, loss, g)
    }

    /// `out = alpha · g + beta · out`, with g from [`Parameters::loss`] of the same batch. Rounds
    /// as [`Parameters::adjoint`] does.
    fn gradient(
        &mut self,
        alpha: f64,
        g: &LossGradient,
        batch: Batch,
        beta: f64,
        out: &mut Self::Point,
    ) {
        self.adjoint(alpha, g.of_logits(self.outputs()), batch, beta, out);
    }

    /// `y = alpha · x + beta · y`.
    fn axpby(&mut self, alpha: f64, x: &Self::Point, beta: f64, y: &mut Self::Point);

    /// `out = (X Xᵀ + 1 1ᵀ) v` (length n), without an intercept `X Xᵀ v`.
    fn gram_product(&mut self, v: &[f32], out: &mut [f32]);

    /// The point's Gram coordinates; `None` on the primal engine.
    fn coordinates(at: &Self::Point) -> Option<Coordinates<'_>>;

    /// Adds all fields of a point to a checkpoint.
    fn fields<'a>(at: &'a mut Self::Point, fields: &mut StateDict<'a>);

    /// The model of the point, with its weight c x d.
    fn into_model(self, at: Self::Point) -> Model;
}

/// The gradient that [`Parameters::loss`] computes: in the logits, or in the weight by parts of
/// the rows.
#[derive(Debug, Default)]
pub struct LossGradient {
    /// Zᵀ, if the point does not store it.
    z: Vec<f32>,
    /// Gᵀ, c x batch.
    g: Vec<f32>,
    /// Gᵀ X of each part of the rows, and Gᵀ 1; used by `one_pass`.
    pub(super) parts: Vec<f32>,
    pub(super) sums: Vec<f64>,
}

impl LossGradient {
    /// Buffers for the logits of some rows, and for their gradient.
    pub(super) fn of_part(&mut self) -> (&mut Vec<f32>, &mut Vec<f32>) {
        (&mut self.z, &mut self.g)
    }

    /// Gᵀ.
    pub(super) fn of_logits(&self, outputs: usize) -> MatRef<'_> {
        MatRef::new(&self.g, outputs, self.g.len() / outputs)
    }
}

/// Computes [`Parameters::loss`] from the logits.
pub(super) fn loss<E: Parameters>(
    engine: &mut E,
    at: &E::Point,
    batch: Batch,
    loss: &mut BatchLoss,
    gradient: &mut LossGradient,
) -> f64 {
    let LossGradient { z, g, .. } = gradient;
    let z = engine.logits(at, batch, z);
    let (c, rows) = (z.rows(), z.cols());
    g.resize(c * rows, 0.0);
    loss.loss_gradient(batch, z, MatMut::new(g, c, rows))
}

/// The weight s·W0 + Aᵀ X and the bias b.
#[derive(Clone, Copy, Debug)]
pub struct Coordinates<'a> {
    /// s.
    pub s: f32,
    /// b: c values.
    pub bias: &'a [f32],
    /// Aᵀ: c x n, row-major.
    pub a: &'a [f32],
}

impl Coordinates<'_> {
    /// s, b and Aᵀ, concatenated.
    pub fn to_vec(self) -> Vec<f32> {
        [&[self.s], self.bias, self.a].concat()
    }
}
