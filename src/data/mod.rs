//! Data input: pictures, arrays and text are converted into datasets on the disk.

#[cfg(feature = "photographs")]
#[doc(hidden)]
pub mod archive;
mod array_file;
mod array_rows;
pub mod arrays;
#[doc(hidden)]
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
pub(crate) mod labels;
#[cfg(feature = "formats")]
pub mod libsvm;
#[cfg(all(feature = "photographs", feature = "formats"))]
pub mod list;
mod manifest;
#[cfg(feature = "photographs")]
#[doc(hidden)]
pub mod mat5;
#[cfg(feature = "formats")]
pub(crate) mod npz;
#[cfg(feature = "photographs")]
#[doc(hidden)]
pub mod photographs;
#[cfg(feature = "photographs")]
#[doc(hidden)]
pub mod pictures;
#[cfg(feature = "photographs")]
pub mod prep;
#[cfg(feature = "download")]
mod proxy;
#[cfg(feature = "photographs")]
#[doc(hidden)]
pub mod resample;
mod row_reader;
#[doc(hidden)]
pub mod rows;
#[cfg(feature = "formats")]
#[doc(hidden)]
pub mod source;
#[cfg(feature = "formats")]
#[doc(hidden)]
pub mod text;

#[cfg(feature = "photographs")]
pub use self::photographs::{Photograph, PhotographSplit, Photographs};
#[cfg(feature = "photographs")]
pub use self::pictures::DecodeOptions;
#[cfg(feature = "formats")]
pub use self::source::Part;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
