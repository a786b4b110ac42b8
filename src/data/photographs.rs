//! A source of labelled photographs, whatever layout it came from.

use std::path::{Path, PathBuf};

use super::pictures::{self, DecodeOptions, Rgb};
use super::resample::resize_to_planes;
use crate::error::{Error, Result};
use crate::files;

/// Labelled photographs in named splits.
#[derive(Clone, Debug)]
pub struct Photographs {
    /// Where they come from, for the manifest.
    pub source: String,
    /// The file or folder that was given: no output may contain it or lie in it.
    pub root: PathBuf,
    /// What lies there and is passed over, a sentence each.
    pub left_out: Vec<String>,
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
    /// Photograph and label of each row.
    pub rows: Vec<(Photograph, u32)>,
}

/// One photograph: a file, or bytes out of an archive.
#[derive(Clone, Debug)]
pub struct Photograph {
    /// The file; of bytes, the archive and the name in it.
    pub path: PathBuf,
    /// What people see, relative to where the photographs lie.
    pub name: String,
    /// Its bytes, where they are in memory already.
    pub bytes: Option<Vec<u8>>,
}

impl Photograph {
    /// Read, decode and resize: see [`load_planes`].
    pub fn planes(&self, size: usize, options: &DecodeOptions) -> Result<Vec<u8>> {
        match &self.bytes {
            Some(bytes) => planes(&self.path, bytes, size, options),
            None => load_planes(&self.path, size, options),
        }
    }
}

/// Read, decode and resize one photograph of any [`pictures::Kind`] to `3 x size x size` bytes.
///
/// Equal to torchvision's `Resize((size, size))` on `Image.open(path).convert("RGB")`,
/// to the bit; EXIF's orientation is not obeyed, as there, unless [`DecodeOptions::exif`] is set.
///
/// # Errors
/// [`Error::Image`] for content that cannot be used, [`Error::Io`].
pub fn load_planes(path: &Path, size: usize, options: &DecodeOptions) -> Result<Vec<u8>> {
    let bytes = match files::read_regular(path, "open the photograph", options.max_file()) {
        Err(Error::Format {
            found, expected, ..
        }) => {
            return Err(Error::Image {
                path: path.to_path_buf(),
                reason: format!(
                    "found {found}, expected {expected}: 4 for each pixel that --max-pixels allows"
                ),
            });
        }
        read => read?,
    };
    planes(path, &bytes, size, options)
}

fn planes(path: &Path, bytes: &[u8], size: usize, options: &DecodeOptions) -> Result<Vec<u8>> {
    let Rgb {
        width,
        height,
        values,
    } = pictures::decode_rgb(bytes, options).map_err(|reason| Error::Image {
        path: path.to_path_buf(),
        reason,
    })?;
    Ok(resize_to_planes(&values, width, height, size))
}

/// `ToTensor`'s value of a byte: u8 / 255 in f32.
pub fn pixel_to_f32(value: u8) -> f32 {
    f32::from(value) / 255.0
}
