//! Dense linear algebra: matrices, vectors, products, a Cholesky factor, the largest eigenvalue.

pub(crate) mod cholesky;
pub mod gemm;
pub mod mat;
pub mod power_iteration;
pub(crate) mod vec;
