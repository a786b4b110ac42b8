//! Optimizers, written once over [`crate::engine::Engine`].

pub mod sgd;
