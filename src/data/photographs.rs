//! A source of labelled photographs, whatever layout it came from.

use std::path::{Path, PathBuf};

use super::pictures::{self, DecodeOptions, Rgb};
use super::resample::Resizer;
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

/// Reads, decodes and resizes photographs, one after the other in the same room: after the first
/// ones nothing is allocated for a photograph but what its decoder allocates itself.
///
/// The rows are equal to torchvision's `Resize((size, size))` and `ToTensor` of
/// `Image.open(path).convert("RGB")`, to the bit. EXIF's orientation is
/// not obeyed, as there, unless [`DecodeOptions::exif`] is set.
#[derive(Debug, Default)]
pub struct Loader {
    file: Vec<u8>,
    rgb: Vec<u8>,
    resizer: Resizer,
}

impl Loader {
    /// A photograph as `3 x size x size` values (channel first): byte / 255.
    ///
    /// # Errors
    /// [`Error::Image`] for content that cannot be used, [`Error::Io`].
    ///
    /// # Panics
    /// If the row has another length.
    pub fn load(
        &mut self,
        photograph: &Photograph,
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<()> {
        match &photograph.bytes {
            Some(bytes) => self.decode(&photograph.path, bytes, size, options, row),
            None => self.load_file(&photograph.path, size, options, row),
        }
    }

    /// [`Loader::load`] of a file.
    ///
    /// # Errors
    /// As there.
    pub fn load_file(
        &mut self,
        path: &Path,
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<()> {
        let mut file = std::mem::take(&mut self.file);
        let read = files::read_regular(path, "open the photograph", options.max_file(), &mut file);
        let loaded = match read {
            Ok(()) => self.decode(path, &file, size, options, row),
            Err(Error::Format {
                found, expected, ..
            }) => Err(Error::Image {
                path: path.to_path_buf(),
                reason: format!(
                    "found {found}, expected {expected}: 4 for each pixel that --max-pixels allows; raise that"
                ),
            }),
            Err(error) => Err(error),
        };
        self.file = file;
        loaded
    }

    fn decode(
        &mut self,
        path: &Path,
        bytes: &[u8],
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<()> {
        let room = std::mem::take(&mut self.rgb);
        let Rgb {
            width,
            height,
            values,
        } = pictures::decode_rgb_in(bytes, options, room).map_err(|reason| Error::Image {
            path: path.to_path_buf(),
            reason,
        })?;
        self.rgb = values;
        (self.resizer).planes(&mut self.rgb, width, height, size, row);
        Ok(())
    }
}
