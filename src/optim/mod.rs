//! Optimizers, written once over [`crate::engine::Engine`].

pub mod schedule;
pub mod sgd;
