//! A decoded picture, and the limits and options of every decoder.

use crate::error::Error;

/// Longest side that [`DecodeOptions::max_side`] may allow: the longest that JPEG knows.
pub const LARGEST_SIDE: usize = 65_535;
/// Most pixels that [`DecodeOptions::max_pixels`] may allow.
pub const LARGEST_PIXELS: usize = 1 << 30;

/// Bytes that a decoder may allocate for what is beside the pixels, however few are allowed.
pub(super) const MIN_MEMORY: usize = 16 << 20;

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

/// Pillow's CMYK to RGB: K - C·K/255, rounded, of values that count ink, K counting paper.
pub(super) fn rgb_of_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let paper = u32::from(255 - black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)) as u8
    })
}
