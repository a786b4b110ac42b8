//! The design matrix X (n x d): rows, their scale, their products, their Gram matrix.
//!
//! To the rest of flowreg X is a linear map. A weight W, by its coordinates, goes to logits; a
//! gradient G in the logits goes back to coordinates. Both are held output by output, W as
//! c x coordinates and Zᵀ, Gᵀ as c x n, so that every product runs along rows of X or K:
//!
//! ```text
//! logits    Zᵀ = W Xᵀ          adjoint   W = Gᵀ X          ⟨logits(W), G⟩ = ⟨W, adjoint(G)⟩
//! ```
//!
//! | design | map | coordinates | arithmetic | logits | adjoint | used by |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | `Dense` | X, or X - 1 μᵀ | W, c x d | f32; over blocks of rows f64 | 2ncd | 2ncd | SGD, solver, weights from Gram coordinates |
//! | [`GramMatrix`](gram::GramMatrix) | K = Kc + u 1ᵀ + 1 vᵀ | A, c x n | f32; u, v in f64 | 2n²c | G itself | SGD |
//! | `GramF64` | Kc or K | A, c x n | f64 | 2n²c | G itself | solver |
//! | [`Centered`](centered::Centered) | X - 1 μᵀ | W, c x d | f32 or f64 in a slab of 512, f64 over slabs | 2ncd | 2ncd | certificate, coordinates of a weight |
//!
//! Costs are flop. They are four types and no trait: no caller is written over more than one. A
//! design has two kinds of coordinates, three of arithmetic and three of scratch space, and what
//! callers share is one level up, in [`Parameters`](crate::sgd::parameters::Parameters) (torch's
//! f32 steps, mini-batches) and [`Problem`](crate::solver::problem::Problem) (f64, inner products,
//! a preconditioner).
//!
//! What is to come, and where it goes:
//!
//! - rows of u8, f16 or bf16: [`Rows`](rows::Rows) holds them, `Gathered::load` in `dense.rs`,
//!   `vec::subtract` in `centered.rs` and `gram_products.rs`, and `ByteSlab` convert
//!   them, each a block at a time;
//! - blocks of rows that are read while others are multiplied: `Dense::each`;
//! - several machines, each with some rows: `Dense::adjoint` adds the sums of blocks of rows
//!   (4096 or more, by c and d alone) in f64, in order. A communicator that gathers these sums in
//!   the rows' order gives every machine the bits of one, if each but the last holds whole blocks.
//!   Gᵀ1, the loss, XᵀX and the parts of `one_pass.rs` are not summed in these blocks yet. Logits
//!   are of one row each, and need no communicator.
//!
//! [`plan`] chooses between coordinates by cost and memory; [`scaler`] puts features on one scale.

pub mod centered;
pub(crate) mod dense;
pub mod gram;
pub(crate) mod gram_f64;
mod gram_products;
pub mod plan;
pub mod rows;
pub mod samples;
pub mod scaler;
