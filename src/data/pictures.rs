//! Pictures of every kind become RGB pixels, those of Pillow's `convert("RGB")`.
//!
//! The kind is told by the first bytes, whatever the file is called. The size in the header is
//! held against the limits before anything of that size is allocated.

mod bmp;
pub mod exif;
mod gif;
mod tiff;
mod webp;

use crate::data::{jpeg, png};
use crate::error::Error;

/// First bytes that [`kind`] needs.
pub const FIRST_BYTES: usize = 18;
/// Longest side that [`DecodeOptions::max_side`] may allow: the longest that JPEG knows.
pub const LARGEST_SIDE: usize = 65_535;
/// Most pixels that [`DecodeOptions::max_pixels`] may allow.
pub const LARGEST_PIXELS: usize = 1 << 30;

/// Bytes that a decoder may allocate for what is beside the pixels, however few are allowed.
pub(super) const MIN_MEMORY: usize = 16 << 20;

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

/// How pictures are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Accept damaged pictures where the decoder gives pixels: JPEG of which libjpeg warns, with
    /// the pixels that it invents; PNG of which only checksums or the end are amiss; GIF, BMP and
    /// TIFF (the last two not packed) that are cut short, with colour 0, or black, for the rest.
    pub lenient: bool,
    /// Turn and mirror pictures as EXIF's orientation (or XMP's) says.
    pub exif: bool,
    /// Most pixels of a picture, at most [`LARGEST_PIXELS`].
    pub max_pixels: usize,
    /// Longest side of a picture, at most [`LARGEST_SIDE`].
    pub max_side: usize,
}

impl Default for DecodeOptions {
    /// Everything damaged is refused; pixels are as stored; 40 megapixels, 8192 a side.
    fn default() -> Self {
        DecodeOptions {
            lenient: false,
            exif: false,
            max_pixels: 40_000_000,
            max_side: 8192,
        }
    }
}

impl DecodeOptions {
    /// Refuse limits that no picture, or too large a picture, would be held to.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self) -> crate::Result<()> {
        for (option, found, most) in [
            ("`max_pixels`", self.max_pixels, LARGEST_PIXELS),
            ("`max_side`", self.max_side, LARGEST_SIDE),
        ] {
            if !(1..=most).contains(&found) {
                return Err(Error::options(option, found, format!("1..={most}")));
            }
        }
        Ok(())
    }

    /// Longest file, in bytes: 4 for each pixel allowed (no kind needs more for 8 bits a
    /// channel), and at least 32 MiB.
    pub fn max_file(&self) -> u64 {
        (4 * self.max_pixels as u64).max(32 << 20)
    }

    /// Refuse a picture whose header tells of more than the limits, before anything of its size
    /// is allocated.
    pub(super) fn check_size(&self, width: usize, height: usize) -> Result<(), String> {
        if width == 0 || height == 0 {
            return Err(format!(
                "found {width}x{height} pixels, expected at least one"
            ));
        }
        let pixels = width.saturating_mul(height);
        let side = width.max(height);
        let (max_side, max_pixels) = (self.max_side, self.max_pixels);
        if side <= max_side && pixels <= max_pixels {
            return Ok(());
        }
        let refusal = format!(
            "found {width}x{height} pixels, expected at most {max_side} a side and {max_pixels} in all"
        );
        if side > LARGEST_SIDE || pixels > LARGEST_PIXELS {
            return Err(refusal);
        }
        let mut options = Vec::new();
        if side > max_side {
            options.push(format!("`max_side` {side}"));
        }
        if pixels > max_pixels {
            options.push(format!("`max_pixels` {pixels}"));
        }
        Err(format!("{refusal}; {} accepts it", options.join(" ")))
    }
}

/// A decoded picture: `height x width x 3`, interleaved.
#[derive(Debug)]
pub struct Rgb {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` values.
    pub values: Vec<u8>,
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

/// Pillow's CMYK to RGB: K - C·K/255, rounded, of values that count ink, K counting paper.
pub(super) fn rgb_of_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let paper = u32::from(255 - black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)) as u8
    })
}
