//! A source of labelled photographs, whatever layout it came from.

use std::path::{Path, PathBuf};

use crate::data::pictures::{self, DecodeOptions, LARGEST_PIXELS, Rgb};
use crate::data::resample::Resizer;
use crate::error::{Error, Result};
use crate::io::files;

/// Most bytes of a file, and of pixels, that a [`Loader`] keeps as room for the next.
const MAX_ROOM: usize = 128 << 20;

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
/// ones nothing is allocated for a JPEG but what libjpeg allocates itself. Other pictures come in
/// memory of their decoder's. Room beyond 128 MB (a photograph of 44 megapixels) is given back.
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
        self.file = kept(file);
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
            mut values,
        } = pictures::decode_rgb_in(bytes, options, room).map_err(|reason| Error::Image {
            path: path.to_path_buf(),
            reason,
        })?;
        (self.resizer).planes(&mut values, width, height, size, row);
        self.rgb = kept(values);
        Ok(())
    }
}

/// Room for the next photograph, unless it is so much that every thread's together would be too
/// much.
fn kept(room: Vec<u8>) -> Vec<u8> {
    if room.capacity() > MAX_ROOM {
        Vec::new()
    } else {
        room
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

    /// The option that allows longer files is named for them, and for nothing else.
    #[test]
    fn refusals_name_an_option_only_where_it_helps() {
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
    fn room_for_the_next_photograph_has_a_limit() {
        assert_eq!(kept(Vec::with_capacity(MAX_ROOM)).capacity(), MAX_ROOM);
        assert_eq!(kept(Vec::with_capacity(MAX_ROOM + 1)).capacity(), 0);
    }
}
