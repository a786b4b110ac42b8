//! Dense linear algebra on row-major matrices. Results do not depend on the number of threads.
//!
//! | module | computes | cost |
//! | --- | --- | --- |
//! | [`mat`] | views of matrices: a slice and a shape | none |
//! | [`gemm`] | A Bᵀ and A B (A m x k), the Gram matrix X Xᵀ (X n x k) | 2mnk flop, n²k flop |
//! | [`power_iteration`] | λmax of a symmetric matrix, from its products with vectors (Lanczos) | 8 to 50 products |
//! | `vec` | sums, inner products, αx + βy | one pass |
//! | `cholesky` | L Lᵀ of an n x n matrix; solutions of systems with it | n³/3 flop; 2n² flop each |

pub(crate) mod cholesky;
pub mod gemm;
pub mod mat;
pub mod power_iteration;
pub(crate) mod vec;
