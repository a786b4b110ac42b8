//! The design matrix X: rows, their scale, their products and their Gram matrix.

pub mod centered;
pub(crate) mod dense;
pub mod gram;
pub mod plan;
pub mod samples;
pub mod scaler;
