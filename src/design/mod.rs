//! The design matrix: its scale, and its products about the mean row.

pub mod centered;
pub mod scaler;
