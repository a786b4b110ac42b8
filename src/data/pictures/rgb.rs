//! A decoded picture, and the options and limits of all decoders.

use crate::error::Error;

/// Limit on [`DecodeOptions::max_side`]: the longest side of a JPEG.
pub const LARGEST_SIDE: usize = 65_535;
/// Limit on [`DecodeOptions::max_pixels`].
pub const LARGEST_PIXELS: usize = 1 << 30;

/// Bytes that a decoder may allocate even if few pixels are allowed.
pub(super) const MIN_MEMORY: usize = 16 << 20;

/// Options of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Accept damaged pictures: JPEG with libjpeg's warnings, with the pixels that it fills in; PNG
    /// with wrong checksums or a damaged end; truncated GIF, and truncated uncompressed BMP and TIFF,
    /// with colour 0, or black, for the missing pixels.
    pub lenient: bool,
    /// Turn and mirror pictures by the orientation in EXIF or XMP.
    pub exif: bool,
    /// Limit on the pixels of a picture, at most [`LARGEST_PIXELS`].
    pub max_pixels: usize,
    /// Limit on the sides of a picture, at most [`LARGEST_SIDE`].
    pub max_side: usize,
}

impl Default for DecodeOptions {
    /// Not lenient, without EXIF; 40 megapixels, sides of 8192.
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
    /// Check the limits.
    ///
    /// # Errors
    /// [`Error::Options`] for a limit of 0, or above the largest.
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

    /// Limit on the length of a file, in bytes: 4 per allowed pixel (no format needs more for 8 bits
    /// per channel), and at least 32 MiB.
    pub fn max_file(&self) -> u64 {
        (4 * self.max_pixels as u64).max(32 << 20)
    }

    /// Refuse a picture whose header exceeds the limits, before its pixels are allocated.
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
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `width * height * 3` values.
    pub values: Vec<u8>,
}

/// Pillow's conversion of CMYK to RGB: for each of C, M and Y, P - C·P/255, rounded, where P = 255 - K.
pub(super) fn rgb_of_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let paper = u32::from(255 - black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)) as u8
    })
}
