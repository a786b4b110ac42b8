//! The design matrix X (n x d): its rows, scale, products and Gram matrix.
//!
//! X is a linear map from the coordinates of a weight W to logits. Its adjoint maps a gradient G in
//! the logits to coordinates. Matrices are stored output by output, W as c x coordinates and Zᵀ, Gᵀ
//! as c x n, so that every product runs along rows of X or K:
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
//! Costs are in flop. The four types share no trait, because no caller is generic over them: they
//! differ in coordinates, arithmetic and scratch space. Callers are generic one level up, over
//! [`Parameters`](crate::sgd::parameters::Parameters) (torch's f32 steps, mini-batches) and
//! [`Problem`](crate::solver::problem::Problem) (f64, inner products, a preconditioner).
//!
//! Several processes may share the columns of X, or its rows ([`crate::comm`]): [`Rows`](rows::Rows) has
//! those of one process; K, W, means and scales are then those of all columns and rows.
//!
//! Planned extensions and where they belong:
//!
//! - rows of u8, f16 or bf16: [`Rows`](rows::Rows) stores them; `Gathered::load` in `dense.rs`,
//!   `vec::subtract` in `centered.rs` and `gram_products.rs`, and `ByteSlab` convert them, one block
//!   at a time;
//! - reading a block of rows while another one is multiplied: `Dense::each`;
//! - several machines with some rows each: `Dense::adjoint` adds the sums of blocks of rows (4096 or
//!   more, a function of c and d) in f64, in order. A communicator that gathers these sums in the
//!   order of the rows gives the bits of a single machine, if each machine but the last has whole
//!   blocks. Gᵀ1, the loss, XᵀX and the parts of `one_pass.rs` are not summed in these blocks yet.
//!   Logits need no communicator: each depends on one row.
//!
//! [`plan`] chooses between coordinates by cost and memory; [`scaler`] scales features.

pub mod centered;
pub(crate) mod dense;
pub mod gram;
pub(crate) mod gram_f64;
mod gram_products;
pub mod plan;
pub mod rank_samples;
pub mod rows;
pub mod samples;
pub mod scaler;
