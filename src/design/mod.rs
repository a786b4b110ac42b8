//! The design matrix: what is done to the features before a fit.

pub mod scaler;
