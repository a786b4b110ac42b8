//! What the benchmarks share.

pub mod peak;
pub mod shapes;
pub mod table;
