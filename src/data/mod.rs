//! What becomes rows: photographs, their preparation, and the dataset on the disk.

pub mod archive;
pub mod arrays;
pub mod blocks;
pub mod dataset;
pub mod demo;
pub mod download;
pub mod flowers102;
pub mod folder;
pub mod jpeg;
pub mod libsvm;
pub mod mat5;
pub mod npy;
pub mod photographs;
pub mod png;
pub mod prep;
pub mod resample;
pub mod samples;
pub mod source;
pub mod store;
pub mod text;

/// Lower-case hexadecimal, as checksums are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
