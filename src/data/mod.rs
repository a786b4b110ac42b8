//! What becomes rows: photographs, their preparation, and the dataset on the disk.

#[cfg(feature = "photographs")]
pub mod archive;
mod array_file;
pub mod arrays;
pub mod checks;
mod columns;
#[cfg(feature = "formats")]
pub(crate) mod csv_quotes;
#[cfg(feature = "formats")]
pub mod csv_text;
pub mod dataset;
pub(crate) mod dataset_writer;
#[cfg(feature = "photographs")]
pub mod demo;
#[cfg(feature = "download")]
pub mod download;
#[cfg(feature = "photographs")]
pub mod flowers102;
#[cfg(feature = "photographs")]
pub mod folder;
mod in_order;
#[cfg(feature = "photographs")]
pub mod jpeg;
pub(crate) mod labels;
#[cfg(feature = "formats")]
pub mod libsvm;
#[cfg(all(feature = "photographs", feature = "formats"))]
pub mod list;
mod manifest;
#[cfg(feature = "photographs")]
pub mod mat5;
#[cfg(feature = "formats")]
pub(crate) mod npz;
#[cfg(feature = "photographs")]
pub mod photographs;
#[cfg(feature = "photographs")]
pub mod pictures;
#[cfg(feature = "photographs")]
pub mod png;
#[cfg(feature = "photographs")]
pub mod prep;
#[cfg(feature = "download")]
mod proxy;
#[cfg(feature = "photographs")]
pub mod resample;
pub mod rows;
#[cfg(feature = "formats")]
pub mod source;
#[cfg(feature = "formats")]
pub mod text;

/// Lower-case hexadecimal, as checksums are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
