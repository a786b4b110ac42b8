//! Labelled photographs, independent of their source, and their conversion to rows.

use std::path::{Path, PathBuf};

use crate::data::pictures::exif::Orientation;
use crate::data::pictures::{self, DecodeOptions, LARGEST_PIXELS, Rgb};
use crate::data::resample::Resizer;
use crate::error::{Error, Result};
use crate::io::files;

/// Limit on the length of each buffer that a [`Loader`] keeps for the next photograph, in bytes.
const MAX_BUFFER: usize = 128 << 20;

/// Labelled photographs in named splits.
#[derive(Clone, Debug)]
pub struct Photographs {
    /// Name of the source, for the manifest.
    pub source: String,
    /// The file or folder that was given; no output may contain it or be inside it.
    pub root: PathBuf,
    /// Sentences about entries that are left out.
    pub left_out: Vec<String>,
    /// Name of each class; a label is an index into it.
    pub class_names: Vec<String>,
    /// The splits, in the order in which they are prepared.
    pub splits: Vec<PhotographSplit>,
}

/// A split: photographs in row order.
#[derive(Clone, Debug)]
pub struct PhotographSplit {
    /// `train`, `val`, `test`, …
    pub name: String,
    /// Photograph and label of each row.
    pub rows: Vec<(Photograph, u32)>,
}

/// A photograph: a file, or bytes from an archive.
#[derive(Clone, Debug)]
pub struct Photograph {
    /// The file; for bytes, the archive and the name in it.
    pub path: PathBuf,
    /// Its name for users, relative to the root.
    pub name: String,
    /// Its bytes, if they are in memory.
    pub bytes: Option<Vec<u8>>,
}

/// Reads, decodes and resizes photographs. Buffers are reused: after the first few photographs a JPEG
/// allocates only inside libjpeg. Other formats allocate in their decoder. Buffers above 128 MB (a
/// photograph of 44 megapixels) are freed.
///
/// The rows are bit-equal to torchvision's `Resize((size, size))` and `ToTensor` of
/// `Image.open(path).convert("RGB")`. Like there, the EXIF orientation is ignored, unless
/// [`DecodeOptions::exif`] is set.
#[derive(Debug, Default)]
pub struct Loader {
    file: Vec<u8>,
    rgb: Vec<u8>,
    resizer: Resizer,
}

impl Loader {
    /// Load a photograph into `row` as `3 x size x size` values (channel first): byte / 255. Returns
    /// the orientation by EXIF or XMP that was ignored, if there is one and [`DecodeOptions::exif`] is
    /// not set.
    ///
    /// # Errors
    /// [`Error::Image`] for an unusable picture; [`Error::Io`].
    ///
    /// # Panics
    /// If `row` has another length.
    pub fn load(
        &mut self,
        photograph: &Photograph,
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<Option<Orientation>> {
        match &photograph.bytes {
            Some(bytes) => self.decode(&photograph.path, bytes, size, options, row),
            None => self.load_file(&photograph.path, size, options, row),
        }
    }

    /// [`Loader::load`] for a file.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_file(
        &mut self,
        path: &Path,
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<Option<Orientation>> {
        let mut file = std::mem::take(&mut self.file);
        let read = files::read_regular(path, "open the photograph", options.max_file(), &mut file);
        let loaded = match read {
            Ok(()) => self.decode(path, &file, size, options, row),
            Err(Error::Format {
                field,
                found,
                expected,
                ..
            }) => {
                let reason = format!("found {found}, expected {expected}");
                let limit = match field.as_str() {
                    "length" if options.max_pixels < LARGEST_PIXELS => format!(
                        ": 4 for each pixel that `max_pixels` allows; raise that, to {LARGEST_PIXELS} at most"
                    ),
                    _ => String::new(),
                };
                Err(Error::Image {
                    path: path.to_path_buf(),
                    reason: reason + &limit,
                })
            }
            Err(error) => Err(error),
        };
        self.file = reusable(file);
        loaded
    }

    fn decode(
        &mut self,
        path: &Path,
        bytes: &[u8],
        size: usize,
        options: &DecodeOptions,
        row: &mut [f32],
    ) -> Result<Option<Orientation>> {
        let buffer = std::mem::take(&mut self.rgb);
        let decoded = pictures::decode_rgb_in(bytes, options, buffer);
        let (rgb, ignored) = decoded.map_err(|reason| Error::Image {
            path: path.to_path_buf(),
            reason,
        })?;
        let Rgb {
            width,
            height,
            mut values,
        } = rgb;
        (self.resizer).planes(&mut values, width, height, size, row);
        self.rgb = reusable(values);
        Ok(ignored)
    }
}

/// The buffer for the next photograph; empty if this one is too large to be kept by every thread.
fn reusable(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > MAX_BUFFER {
        Vec::new()
    } else {
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn load(path: &Path, max_pixels: usize) -> String {
        let options = DecodeOptions {
            max_pixels,
            ..DecodeOptions::default()
        };
        let mut row = [0.0; 3];
        let loaded = Loader::default().load_file(path, 1, &options, &mut row);
        loaded.unwrap_err().to_string()
    }

    /// An error names `max_pixels` only if raising it would allow the file.
    #[test]
    fn errors_name_an_option_only_if_it_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.jpg");
        File::create(&path)
            .unwrap()
            .set_len((32 << 20) + 1)
            .unwrap();
        let refusal = load(&path, 1000);
        assert!(
            refusal.ends_with(
                "found 33554433 bytes, expected at most 33554432: 4 for each pixel that \
                 `max_pixels` allows; raise that, to 1073741824 at most"
            ),
            "{refusal}"
        );
        File::create(&path).unwrap().set_len((4 << 30) + 1).unwrap();
        let refusal = load(&path, LARGEST_PIXELS);
        assert!(refusal.ends_with("at most 4294967296"), "{refusal}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let refusal = load(&path, 1000);
        assert!(
            refusal.ends_with("found a folder, expected a regular file"),
            "{refusal}"
        );
        #[cfg(unix)]
        {
            let refusal = load(Path::new("/dev/null"), 1000);
            assert!(
                refusal.ends_with("found a device, expected a regular file"),
                "{refusal}"
            );
            fs::remove_dir(&path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
            let refusal = load(&path, 1000);
            assert!(
                refusal.ends_with("found a pipe (FIFO), expected a regular file"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn large_buffers_are_freed() {
        let capacity = |bytes| reusable(Vec::with_capacity(bytes)).capacity();
        assert_eq!(capacity(MAX_BUFFER), MAX_BUFFER);
        assert_eq!(capacity(MAX_BUFFER + 1), 0);
    }
}
