//! Pictures of every kind become RGB pixels, those of Pillow's `convert("RGB")`.
//!
//! The kind is told by the first bytes, whatever the file is called. The size in the header is
//! held against the limits before anything of that size is allocated.

mod bmp;
pub mod exif;
mod gif;
pub mod jpeg;
pub mod png;
mod rgb;
mod tiff;
mod webp;

pub use crate::data::pictures::rgb::{DecodeOptions, LARGEST_PIXELS, LARGEST_SIDE, Rgb};

/// First bytes that [`kind`] needs.
pub const FIRST_BYTES: usize = 18;

/// What a file holds, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JPEG, also with other pictures or a video behind it.
    Jpeg,
    /// PNG, also animated.
    Png,
    /// GIF, of which the first frame is taken.
    Gif,
    /// Windows' and OS/2's bitmaps.
    Bmp,
    /// WebP, of whose animations the first frame is taken.
    Webp,
    /// TIFF and BigTIFF, of which the first picture is taken.
    Tiff,
}

/// What a file that begins with `first_bytes` holds: [`FIRST_BYTES`], or the whole of a shorter
/// file. `None` for what is no picture that [`decode_rgb`] reads.
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
        // Two letters are no signature; a header of a known length behind them is.
        [b'B', b'M', rest @ ..] => match rest.get(12..16)? {
            [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0] => Some(Kind::Bmp),
            _ => None,
        },
        _ => None,
    }
}

/// Decode a picture of any [`Kind`] as Pillow's `convert("RGB")` does, after
/// `ImageOps.exif_transpose` if [`DecodeOptions::exif`] is set. The reason for a refusal comes
/// back as one phrase, with what to do.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    decode_rgb_in(bytes, options, Vec::new())
}

/// [`decode_rgb`], with the values of a former picture as room for those of a JPEG: most pictures
/// are JPEG, and new room for each takes a twentieth of its time.
pub(super) fn decode_rgb_in(
    bytes: &[u8],
    options: &DecodeOptions,
    room: Vec<u8>,
) -> Result<Rgb, String> {
    let Some(kind) = kind(bytes) else {
        return Err(match bytes {
            [] => "found an empty file, expected a picture".to_string(),
            _ => "found no picture, expected JPEG, PNG, GIF, BMP, WebP or TIFF".to_string(),
        });
    };
    decode(kind, bytes, options, room).map_err(|reason| {
        let lenient = DecodeOptions {
            lenient: true,
            ..*options
        };
        if options.lenient || decode(kind, bytes, &lenient, Vec::new()).is_err() {
            reason
        } else {
            format!("{reason}, or accept it as it is with `lenient`")
        }
    })
}

fn decode(kind: Kind, bytes: &[u8], options: &DecodeOptions, room: Vec<u8>) -> Result<Rgb, String> {
    let (rgb, orientation) = match kind {
        Kind::Jpeg => jpeg::decode_rgb(bytes, options, room)?,
        Kind::Png => png::decode_rgb(bytes, options)?,
        Kind::Gif => (gif::decode_rgb(bytes, options)?, None),
        Kind::Bmp => (bmp::decode_rgb(bytes, options)?, None),
        Kind::Webp => webp::decode_rgb(bytes, options)?,
        Kind::Tiff => (tiff::decode_rgb(bytes, options)?, None),
    };
    Ok(match orientation {
        Some(orientation) if options.exif => orientation.apply(rgb),
        _ => rgb,
    })
}
