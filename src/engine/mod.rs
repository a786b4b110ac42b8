//! How the weight is represented while it is trained.
//!
//! An optimizer sees an [`Engine`] and never X: it asks for logits at a point, gives back
//! the gradient in the logits, and combines points linearly.
//!
//! Logits Z and their gradient G are held transposed, one row an output: then every product
//! runs along rows of X or K, and the loss works on whole vectors of samples.

mod choice;
mod factor;
mod gram;
mod gram_matrix;
mod gram_space;
mod one_pass;
mod primal;
mod primal_space;
mod space;
mod spectrum;

pub use choice::{Choice, Kind, Plan, Shape, available_memory};
pub(crate) use factor::Factor;
pub use gram::{Coordinates, Gram};
pub use gram_matrix::{CentredGram, GramMatrix, Progress, Scratch};
pub use gram_space::GramSpace;
pub use primal::Primal;
pub use primal_space::PrimalSpace;
pub use space::{Real, Space};
pub(crate) use space::{axpby as axpby_real, dot as real_dot};
pub use spectrum::largest_eigenvalue;

use rayon::prelude::*;

use crate::checkpoint::Fields;
use crate::data::samples::Batch;
use crate::gemm::Accum;
use crate::kernels::{Isa, vectorised};
use crate::mat::{MatMut, MatRef};
use crate::model::Model;
use crate::objective::Objective;
use crate::threads::{Share, Work};

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

    /// Logits of the batch at a point: `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch; in `room` where
    /// the point does not hold them.
    fn margins<'a>(
        &mut self,
        at: &'a Self::Point,
        batch: Batch,
        room: &'a mut Vec<f32>,
    ) -> MatRef<'a>;

    /// Logits of all m validation rows at a point, c x m.
    ///
    /// # Panics
    /// If the engine was made without them.
    fn validation_margins(&mut self, at: &Self::Point, z: MatMut);

    /// The gradient in the weight from that in the logits, Gᵀ (c x batch):
    /// `out = alpha · (Gᵀ X_batch, Gᵀ 1) + beta · out`.
    ///
    /// With `beta` = 0, `out` is not read. `alpha` is rounded to f32, as torch does; `beta`
    /// is not: 1 - lr · weight_decay would lose what makes it differ from 1.
    fn pullback(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut Self::Point);

    /// Mean loss of the batch at a point; `room` keeps what [`Engine::gradient`] needs.
    fn loss(
        &mut self,
        at: &Self::Point,
        batch: Batch,
        objective: &mut Objective,
        room: &mut Room,
    ) -> f64 {
        loss(self, at, batch, objective, room)
    }

    /// `out = alpha · gradient + beta · out`, the gradient being that of the last
    /// [`Engine::loss`], of this batch; as [`Engine::pullback`].
    fn gradient(
        &mut self,
        alpha: f64,
        batch: Batch,
        beta: f64,
        out: &mut Self::Point,
        room: &Room,
    ) {
        self.pullback(alpha, room.gradient(self.outputs()), batch, beta, out);
    }

    /// `y = alpha · x + beta · y`.
    fn axpby(&mut self, alpha: f64, x: &Self::Point, beta: f64, y: &mut Self::Point);

    /// `out = (X Xᵀ + 1 1ᵀ) v`, the curvature of the logits' loss seen from one output.
    fn curvature(&mut self, v: &[f32], out: &mut [f32]);

    /// The point's Gram coordinates, where the engine has them.
    fn coordinates(at: &Self::Point) -> Option<Coordinates<'_>>;

    /// Everything that a point is made of, for a checkpoint.
    fn fields<'a>(at: &'a mut Self::Point, fields: &mut Fields<'a>);

    /// The point as a model with its weight spelled out; nothing is left to do then.
    fn materialise(self, at: Self::Point) -> Model;
}

/// Room for a batch's logits and their gradient.
#[derive(Debug, Default)]
pub struct Room {
    /// Where the engine needs it.
    z: Vec<f32>,
    g: Vec<f32>,
}

impl Room {
    /// Gᵀ.
    fn gradient(&self, outputs: usize) -> MatRef<'_> {
        MatRef::new(&self.g, outputs, self.g.len() / outputs)
    }
}

/// [`Engine::loss`] by way of the logits.
fn loss<E: Engine>(
    engine: &mut E,
    at: &E::Point,
    batch: Batch,
    objective: &mut Objective,
    room: &mut Room,
) -> f64 {
    let z = engine.margins(at, batch, &mut room.z);
    let (c, rows) = (z.rows(), z.cols());
    room.g.resize(c * rows, 0.0);
    objective.loss_gradient(batch, z, MatMut::new(&mut room.g, c, rows))
}

/// Values a task when points are combined: 64 KB, a few microseconds of work.
const CHUNK: usize = 16 << 10;

/// `y = alpha · x + beta · y`, each rounded once; with `beta` = 0, `y` is not read.
fn axpby(alpha: f64, x: &[f32], beta: f64, y: &mut [f32]) {
    let isa = Isa::current();
    let work = Work::bytes(2 * size_of_val(y) + size_of_val(x));
    let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks
        .share(work)
        .for_each(|(y, x)| vectorised!(isa, || axpby_part(alpha, x, beta, y)));
}

/// [`axpby`] by one thread.
#[inline(always)]
fn axpby_part<X: Copy + Into<f64>>(alpha: f64, x: &[X], beta: f64, y: &mut [f32]) {
    let values = y.iter_mut().zip(x);
    match beta {
        0.0 => values.for_each(|(y, &x)| *y = (alpha * x.into()) as f32),
        _ => values.for_each(|(y, &x)| *y = (alpha * x.into() + beta * f64::from(*y)) as f32),
    }
}

/// Make `beta · values` what a product is added to: zeros need not even be written.
fn scale(beta: f64, values: &mut [f32]) -> Accum {
    match beta {
        0.0 => return Accum::Replace,
        1.0 => {}
        _ => {
            let work = Work::bytes(2 * size_of_val(values));
            let chunks = values.par_chunks_mut(CHUNK).share(work);
            chunks.for_each(|values| {
                (values.iter_mut()).for_each(|value| *value = (beta * f64::from(*value)) as f32);
            });
        }
    }
    Accum::Add
}

/// `out = Gᵀ 1`: the sum of each row of Gᵀ.
fn row_sums(g: MatRef, out: &mut Vec<f64>) {
    out.clear();
    out.extend(g.as_slice().chunks_exact(g.cols()).map(sum));
}

/// Lanes of a sum in f64, for the sake of vectors.
const LANES: usize = 8;

/// Σ a in f64.
#[inline(always)]
pub(crate) fn sum<A: Copy + Into<f64>>(a: &[A]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&a| a.into()).sum();
    for a in chunks {
        for lane in 0..LANES {
            sums[lane] += a[lane].into();
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Σ a·b in f64.
#[inline(always)]
fn dot<A: Copy + Into<f64>>(a: &[A], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(&a, &b)| a.into() * f64::from(b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane].into() * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
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
