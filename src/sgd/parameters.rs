//! How the weight is represented while it is trained.
//!
//! An optimizer sees [`Parameters`] and never X: it asks for logits at a point, gives back
//! the gradient in the logits, and combines points linearly.
//!
//! Logits Z and their gradient G are held transposed, one row an output: then every product
//! runs along rows of X or K, and the loss works on whole vectors of samples.

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

    /// The origin.
    fn zero(&self) -> Self::Point;

    /// The initial weight and bias.
    fn start(&self) -> Self::Point;

    /// Logits of the batch at a point: `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch; in `room` where
    /// the point does not hold them.
    fn logits<'a>(
        &mut self,
        at: &'a Self::Point,
        batch: Batch,
        room: &'a mut Vec<f32>,
    ) -> MatRef<'a>;

    /// Logits of all m validation rows at a point, c x m.
    ///
    /// # Panics
    /// If the engine was made without them.
    fn validation_logits(&mut self, at: &Self::Point, z: MatMut);

    /// The gradient in the weight from that in the logits, Gᵀ (c x batch):
    /// `out = alpha · (Gᵀ X_batch, Gᵀ 1) + beta · out`.
    ///
    /// With `beta` = 0, `out` is not read. `alpha` is rounded to f32, as torch does; `beta`
    /// is not: 1 - lr · weight_decay would lose what makes it differ from 1.
    fn adjoint(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut Self::Point);

    /// Mean loss of the batch at a point, and its gradient in `g`.
    fn loss(
        &mut self,
        at: &Self::Point,
        batch: Batch,
        objective: &mut BatchLoss,
        g: &mut LossGradient,
    ) -> f64 {
        loss(self, at, batch, objective, g)
    }

    /// `out = alpha · g + beta · out`, where [`Parameters::loss`] of this batch left g; rounding
    /// as in [`Parameters::adjoint`].
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

    /// `out = (X Xᵀ + 1 1ᵀ) v`, the curvature of the logits' loss seen from one output.
    fn curvature(&mut self, v: &[f32], out: &mut [f32]);

    /// The point's Gram coordinates, where the engine has them.
    fn coordinates(at: &Self::Point) -> Option<Coordinates<'_>>;

    /// Everything that a point is made of, for a checkpoint.
    fn fields<'a>(at: &'a mut Self::Point, fields: &mut StateDict<'a>);

    /// The point as a model with its weight spelled out; nothing is left to do then.
    fn into_model(self, at: Self::Point) -> Model;
}

/// The gradient of a batch's loss as [`Parameters::loss`] leaves it: in the logits, or in the
/// weight, part by part.
#[derive(Debug, Default)]
pub struct LossGradient {
    /// Zᵀ, where the point does not hold it.
    z: Vec<f32>,
    /// Gᵀ, c x batch.
    g: Vec<f32>,
    /// Of one pass over X: Gᵀ X of each part of the rows, and Gᵀ 1.
    pub(super) parts: Vec<f32>,
    pub(super) sums: Vec<f64>,
}

impl LossGradient {
    /// Gᵀ.
    pub(super) fn of_logits(&self, outputs: usize) -> MatRef<'_> {
        MatRef::new(&self.g, outputs, self.g.len() / outputs)
    }
}

/// [`Parameters::loss`] by way of the logits.
pub(super) fn loss<E: Parameters>(
    engine: &mut E,
    at: &E::Point,
    batch: Batch,
    objective: &mut BatchLoss,
    gradient: &mut LossGradient,
) -> f64 {
    let LossGradient { z, g, .. } = gradient;
    let z = engine.logits(at, batch, z);
    let (c, rows) = (z.rows(), z.cols());
    g.resize(c * rows, 0.0);
    objective.loss_gradient(batch, z, MatMut::new(g, c, rows))
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
    /// s, b and Aᵀ, one after another.
    pub fn to_vec(self) -> Vec<f32> {
        [&[self.s], self.bias, self.a].concat()
    }
}
