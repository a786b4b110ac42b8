//! A source of labelled photographs, whatever layout it came from.

use std::path::PathBuf;

use super::resample::resize_to_planes;
use super::{jpeg, jpeg::Rgb, jpeg::Warnings};
use crate::error::{Error, Result};
use crate::files;

/// Largest photograph file accepted, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// Labelled photographs in named splits.
#[derive(Clone, Debug)]
pub struct Photographs {
    /// Where they come from, for the manifest.
    pub source: String,
    /// Name of each class; a label is an index into it.
    pub class_names: Vec<String>,
    /// The splits, in the order in which they are prepared.
    pub splits: Vec<PhotographSplit>,
}

/// One split: photographs in row order.
#[derive(Clone, Debug)]
pub struct PhotographSplit {
    /// `train`, `val`, `test`, …
    pub name: String,
    /// File and label of each row.
    pub rows: Vec<(PathBuf, u32)>,
}

/// Read, decode and resize one photograph to `3 x size x size` bytes.
///
/// Equal to torchvision's `Resize((size, size))` on `Image.open(path).convert("RGB")`,
/// to the bit.
///
/// # Errors
/// [`Error::Image`] for content that cannot be used, [`Error::Io`].
pub fn load_planes(path: &std::path::Path, size: usize, warnings: Warnings) -> Result<Vec<u8>> {
    let refuse = |reason: String| Error::Image {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = match files::read(path, "open the photograph", MAX_FILE) {
        Err(Error::Format {
            found, expected, ..
        }) => return Err(refuse(format!("found {found}, expected {expected}"))),
        read => read?,
    };
    let Rgb {
        width,
        height,
        values,
    } = jpeg::decode_rgb(&bytes, warnings).map_err(refuse)?;
    Ok(resize_to_planes(&values, width, height, size))
}

/// `ToTensor`'s value of a byte: u8 / 255 in f32.
pub fn pixel_to_f32(value: u8) -> f32 {
    f32::from(value) / 255.0
}
