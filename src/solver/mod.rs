//! Solvers for the minimum of `mean loss + (l2/2) |W|²` with one penalty: Newton-CG and L-BFGS
//! over a [`Problem`](problem::Problem), their line search, and the certificate of the result.

pub(crate) mod bias;
pub(crate) mod certificate;
mod cg;
pub(crate) mod decrement;
pub mod lbfgs;
mod line_search;
pub mod minimizer;
pub mod newton_cg;
pub mod point;
pub mod problem;
pub mod problem_dense;
pub mod problem_gram;
pub mod report;
