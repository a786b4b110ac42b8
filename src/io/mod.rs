//! Files: atomic output, and readers that check a file before they use it.

pub mod blocks;
pub mod checkpoint;
pub(crate) mod files;
pub mod mmap;
pub mod npy;
pub mod publish;
pub mod tensors;
