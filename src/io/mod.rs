//! Files: what is written appears whole or not at all, what is read is checked first.

pub mod blocks;
pub mod checkpoint;
pub(crate) mod files;
pub mod mmap;
pub mod npy;
pub mod publish;
pub mod tensors;
