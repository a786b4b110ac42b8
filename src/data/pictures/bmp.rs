//! BMP, like in Pillow.
//!
//! The decoder is part of this crate: that of the `image` crate depends on colour management
//! (`moxcms`, `pxfm`), refuses files that Pillow reads, and gives other pixels for skipped runs.

use std::fmt::Display;

use crate::data::pictures::rgb::{DecodeOptions, Rgb};

/// Decode a bitmap of 1, 4, 8, 16, 24 or 32 bits per pixel, with any header from OS/2's 12 bytes to
/// version 5, bottom-up or top-down, plain, run-length encoded or with masks. Alpha is dropped.
/// Bitmaps that contain a JPEG or PNG are refused. The last row needs no padding. With
/// [`DecodeOptions::lenient`] missing rows have colour 0, or black, except in run-length encoding.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let header = Header::read(bytes)?;
    options.check_size(header.width, header.height)?;
    let stride = header.stride();
    let (width, height) = (header.width, header.height);
    let data = bytes.get(header.data..).unwrap_or_default();
    let runs;
    let (data, stride, bits) = match header.runs {
        Some(nibbles) => {
            runs = unpack_runs(data, header.data, width, height, nibbles)?;
            (&runs[..], width, 8)
        }
        None => (data, stride, header.bits),
    };
    let row_len = (width * bits).div_ceil(8);
    let data_rows = data
        .chunks(stride)
        .take_while(|row| row.len() >= row_len)
        .take(height);
    if !options.lenient && data_rows.clone().count() < height {
        return Err(cut());
    }

    let open = if bits <= 8 { header.colour(0) } else { [0; 3] };
    let mut values = open.repeat(width * height);
    let rows = values.chunks_exact_mut(3 * width);
    let put = |row: &mut [u8], data: &[u8]| {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&match bits {
                1 => header.colour(data[x / 8] >> (7 - x % 8) & 1),
                4 => header.colour(data[x / 2] >> (4 * (1 - x % 2)) & 15),
                8 => header.colour(data[x]),
                _ => {
                    let mut packed = [0; 4];
                    let size = bits / 8;
                    packed[..size].copy_from_slice(&data[size * x..][..size]);
                    let packed = u32::from_le_bytes(packed);
                    header.masks.map(|mask| channel(packed, mask))
                }
            });
        }
    };
    if header.from_top {
        rows.zip(data_rows).for_each(|(row, data)| put(row, data));
    } else {
        rows.rev()
            .zip(data_rows)
            .for_each(|(row, data)| put(row, data));
    }
    Ok(Rgb {
        width,
        height,
        values,
    })
}

struct Header<'a> {
    width: usize,
    height: usize,
    from_top: bool,
    bits: usize,
    /// Whether run-length encoding is of nibbles; `None` without run-length encoding.
    runs: Option<bool>,
    /// Bits of a pixel that are red, green and blue.
    masks: [u32; 3],
    palette: &'a [u8],
    /// Bytes per colour of the palette.
    colour_size: usize,
    /// Offset of the pixels.
    data: usize,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let u16_at = |at: usize| {
            let bytes = bytes
                .get(at..at + 2)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map(u16::from_le_bytes).ok_or_else(cut)
        };
        let u32_at = |at: usize| {
            let bytes = bytes
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(cut)
        };
        let size = u32_at(14)? as usize;
        let os2 = size == 12;
        let (width, height, bits, compression, colours) = if os2 {
            let (width, height) = (u16_at(18)?, u16_at(20)?);
            (u32::from(width), u32::from(height), u16_at(24)?, 0, 0)
        } else {
            let (compression, colours) = (u32_at(30)?, u32_at(46)?);
            (u32_at(18)?, u32_at(22)?, u16_at(28)?, compression, colours)
        };
        // A negative height means top-down. Pillow tests the highest byte.
        let from_top = !os2 && height >> 24 == 0xFF;
        let height = if from_top {
            height.wrapping_neg()
        } else {
            height
        };
        let mut end = 14 + size;
        let masks = match (compression, bits) {
            (0, 16) => [0x7C00, 0x3E0, 0x1F],
            (3, 16 | 24 | 32) => {
                if size == 40 {
                    end += 12;
                }
                let masks = [u32_at(54)?, u32_at(58)?, u32_at(62)?];
                match masks {
                    [0, 0, 0] if bits == 32 => [0xFF_0000, 0xFF00, 0xFF],
                    masks => masks,
                }
            }
            _ => [0xFF_0000, 0xFF00, 0xFF],
        };
        let gap = |mask: u32| {
            mask == 0 || (mask >> mask.trailing_zeros()).trailing_ones() != mask.count_ones()
        };
        if masks.into_iter().any(gap) {
            return Err(unknown(
                format!("masks {masks:x?}"),
                "one run of bits for each of red, green and blue",
            ));
        }
        let runs = match (compression, bits) {
            (0, 1 | 4 | 8 | 16 | 24 | 32) | (3, 16 | 24 | 32) => None,
            (1, 8) => Some(false),
            (2, 4) => Some(true),
            _ => {
                let expected =
                    "1, 4, 8, 16, 24 or 32 bits, plain, run-length encoded or with masks";
                let found = format!("{bits} bits per pixel in compression {compression}");
                return Err(unknown(found, expected));
            }
        };
        let colour_size = if os2 { 3 } else { 4 };
        let colours = match (bits, colours) {
            (1 | 4 | 8, 0) => 1 << bits,
            (1 | 4 | 8, 1..=256) => colours as usize,
            (1 | 4 | 8, _) => {
                return Err(unknown(
                    format!("a palette of {colours} colours"),
                    "at most 256",
                ));
            }
            _ => 0,
        };
        let palette = bytes
            .get(end..end + colour_size * colours)
            .ok_or_else(cut)?;
        let data = match u32_at(10)? as usize {
            0 => end + palette.len(),
            // Some writers forget the palette.
            offset if offset == 14 + size => offset + palette.len(),
            offset => offset,
        };
        Ok(Header {
            width: width as usize,
            height: height as usize,
            from_top,
            bits: usize::from(bits),
            runs,
            masks,
            palette,
            colour_size,
            data,
        })
    }

    /// Bytes per row, with padding.
    fn stride(&self) -> usize {
        (self.width * self.bits).div_ceil(32) * 4
    }

    /// A colour of the palette; black beyond it.
    fn colour(&self, index: u8) -> [u8; 3] {
        match self.palette.get(self.colour_size * usize::from(index)..) {
            Some(&[blue, green, red, ..]) => [red, green, blue],
            _ => [0; 3],
        }
    }
}

/// The bits under a mask, scaled to 0..=255.
fn channel(packed: u32, mask: u32) -> u8 {
    let shift = mask.trailing_zeros();
    let most = u64::from(mask >> shift);
    (u64::from((packed & mask) >> shift) * 255 / most) as u8
}

/// Decode run-length encoding to a byte per pixel, rows in the file's order. `at` is the offset of
/// `data` in the file: literal runs are padded to even offsets.
fn unpack_runs(
    data: &[u8],
    at: usize,
    width: usize,
    height: usize,
    nibbles: bool,
) -> Result<Vec<u8>, String> {
    let len = width * height;
    let mut pixels = Vec::with_capacity(len);
    let mut rest = data.iter().copied();
    let mut x = 0;
    while pixels.len() < len {
        let (Some(count), Some(byte)) = (rest.next(), rest.next()) else {
            return Err(cut());
        };
        let count = usize::from(count);
        match (count, byte) {
            (0, 0) => {
                pixels.resize(pixels.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => return Err(cut()),
            (0, 2) => {
                let (Some(right), Some(up)) = (rest.next(), rest.next()) else {
                    return Err(cut());
                };
                let skipped = usize::from(right) + usize::from(up) * width;
                pixels.resize((pixels.len() + skipped).min(len), 0);
                x = pixels.len() % width;
            }
            (0, count) => {
                let taken = usize::from(count).min(len - pixels.len());
                let size = if nibbles { taken.div_ceil(2) } else { taken };
                for _ in 0..size {
                    let byte = rest.next().ok_or_else(cut)?;
                    if nibbles {
                        pixels.extend([byte >> 4, byte & 15]);
                    } else {
                        pixels.push(byte);
                    }
                }
                if nibbles && taken % 2 == 1 {
                    pixels.pop();
                }
                x += usize::from(count);
                if (at + data.len() - rest.len()) % 2 == 1 {
                    rest.next();
                }
            }
            (count, byte) => {
                // Pixels beyond the row are dropped.
                let count = count.min(width.saturating_sub(x));
                let pair = if nibbles {
                    [byte >> 4, byte & 15]
                } else {
                    [byte; 2]
                };
                pixels.extend(pair.into_iter().cycle().take(count));
                x += count;
            }
        }
    }
    pixels.truncate(len);
    Ok(pixels)
}

fn cut() -> String {
    "broken BMP (it ends too early); replace the file with a whole copy".to_string()
}

fn unknown(found: impl Display, expected: &str) -> String {
    format!("found a BMP with {found}, expected {expected}; save it as PNG")
}
