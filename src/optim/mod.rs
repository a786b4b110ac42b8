//! Optimizers: SGD by torch's rule, over [`crate::engine::Engine`]; those that go to the optimum,
//! over [`crate::engine::Space`].

mod cg;
pub mod descent;
pub mod lbfgs;
pub mod newton;
pub mod schedule;
pub mod sgd;
