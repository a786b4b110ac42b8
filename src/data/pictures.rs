//! Decoding of pictures to RGB pixels, equal to those of Pillow's `convert("RGB")`.
//!
//! The format is recognized by the first bytes, not by the file's name. The size in the header is
//! compared with the limits before pixels are allocated.

mod bmp;
pub mod exif;
mod gif;
pub mod jpeg;
pub mod png;
mod rgb;
mod tiff;
mod webp;

use crate::data::pictures::exif::Orientation;
pub use crate::data::pictures::rgb::{DecodeOptions, LARGEST_PIXELS, LARGEST_SIDE, Rgb};

/// Number of first bytes that [`kind`] needs.
pub const FIRST_BYTES: usize = 18;

/// The format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JPEG; pictures or a video after it are ignored.
    Jpeg,
    /// PNG; the default image of an animation.
    Png,
    /// GIF; the first frame.
    Gif,
    /// Bitmaps of Windows and OS/2.
    Bmp,
    /// WebP; the first frame of an animation.
    Webp,
    /// TIFF and BigTIFF; the first picture.
    Tiff,
}

/// The format of a file that begins with `first_bytes`: [`FIRST_BYTES`], or all of a shorter file.
/// `None` if [`decode_rgb`] does not support it.
pub fn kind(first_bytes: &[u8]) -> Option<Kind> {
    match first_bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(Kind::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Kind::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Kind::Gif),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some(Kind::Webp),
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Some(Kind::Tiff),
        // Two letters are too weak a signature: the length of the header must be a known one.
        [b'B', b'M', rest @ ..] => match rest.get(12..16)? {
            [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0] => Some(Kind::Bmp),
            _ => None,
        },
        _ => None,
    }
}

/// Decode a picture of any [`Kind`] like Pillow's `convert("RGB")`, after
/// `ImageOps.exif_transpose` if [`DecodeOptions::exif`] is set.
///
/// # Errors
/// What was found and expected, and what to do, in one phrase.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let (rgb, _) = decode_rgb_in(bytes, options, Vec::new())?;
    Ok(rgb)
}

/// [`decode_rgb`] with a buffer to be reused for the pixels of a JPEG, whose allocation would take 5 %
/// of the time. Returns also the orientation by EXIF or XMP that was ignored.
pub(super) fn decode_rgb_in(
    bytes: &[u8],
    options: &DecodeOptions,
    buffer: Vec<u8>,
) -> Result<(Rgb, Option<Orientation>), String> {
    let Some(kind) = kind(bytes) else {
        return Err(match bytes {
            [] => "found an empty file, expected a picture".to_string(),
            _ => "found no picture, expected JPEG, PNG, GIF, BMP, WebP or TIFF".to_string(),
        });
    };
    decode(kind, bytes, options, buffer).map_err(|reason| {
        let lenient = DecodeOptions {
            lenient: true,
            ..*options
        };
        if options.lenient || decode(kind, bytes, &lenient, Vec::new()).is_err() {
            reason
        } else {
            format!("{reason}, or accept it with `lenient`")
        }
    })
}

fn decode(
    kind: Kind,
    bytes: &[u8],
    options: &DecodeOptions,
    buffer: Vec<u8>,
) -> Result<(Rgb, Option<Orientation>), String> {
    let (rgb, orientation) = match kind {
        Kind::Jpeg => jpeg::decode_rgb(bytes, options, buffer)?,
        Kind::Png => png::decode_rgb(bytes, options)?,
        Kind::Gif => (gif::decode_rgb(bytes, options)?, None),
        Kind::Bmp => (bmp::decode_rgb(bytes, options)?, None),
        Kind::Webp => webp::decode_rgb(bytes, options)?,
        Kind::Tiff => (tiff::decode_rgb(bytes, options)?, None),
    };
    Ok(match orientation {
        Some(orientation) if options.exif => (orientation.apply(rgb), None),
        ignored => (rgb, ignored),
    })
}
