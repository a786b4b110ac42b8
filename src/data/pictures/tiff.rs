//! TIFF, by the `tiff` crate: the first picture of the file.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Cursor;

use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::Tag;

use crate::data::pictures::exif;
use crate::data::pictures::exif::Orientation;
use crate::data::pictures::rgb::{DecodeOptions, MIN_MEMORY, Rgb, rgb_of_cmyk};

const GREY_INVERTED: u16 = 0;
const GREY: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const CMYK: u16 = 5;

const UNSIGNED: u16 = 1;
const SIGNED: u16 = 2;
const FLOAT: u16 = 3;

type Tiff<'a> = Decoder<Cursor<&'a [u8]>>;

/// Decode grey (1 to 16 or 32 bits, signed or unsigned integers, or floats), a palette (1 to 8 bits),
/// RGB or CMYK (8 or 16 bits), in strips or tiles, plain or compressed by LZW, deflate or PackBits.
/// Grey of more than 8 bits is clipped to 0..=255; of 16-bit colours the upper 8 bits are used. Alpha
/// is dropped; premultiplied colours are divided by it first. Other formats are refused. With
/// [`DecodeOptions::lenient`] missing rows of an uncompressed file are zeros.
///
/// Like in Pillow, the orientation is applied even without `exif_transpose`.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let (bytes, indexed) = as_grey(bytes);
    let mut decoder = open(&bytes, options)?;
    let (width, height) = decoder.dimensions().map_err(broken)?;
    let (width, height) = (width as usize, height as usize);
    options.check_size(width, height)?;
    check_chunks(&decoder, width, height, options)?;
    refuse_stray_predictor(&mut decoder)?;
    let format = Format::read(&mut decoder, indexed)?;
    let bytes = if format.reversed || options.lenient && format.plain {
        Cow::Owned(format.restored(&mut decoder, &bytes, options)?)
    } else {
        bytes
    };
    let mut decoder = open(&bytes, options)?;

    let layout = decoder.image_buffer_layout().map_err(broken)?;
    let mut data = vec![0; layout.complete_len];
    decoder.read_image_bytes(&mut data).map_err(broken)?;
    let row_stride = layout.row_stride.map_or(0, |stride| stride.get());
    let plane_stride = layout.plane_stride.map_or(0, |stride| stride.get());
    let channels = match layout.planes {
        1 => format.channels,
        _ => 1,
    };
    let sample = |x: usize, y: usize, channel: usize| {
        let (plane, channel) = if layout.planes == 1 {
            (0, channel)
        } else {
            (channel, 0)
        };
        let row = &data[plane * plane_stride + y * row_stride..];
        match format.bits {
            8 => row[x * channels + channel],
            bits @ (16 | 32) => {
                let size = bits / 8;
                format.narrowed(&row[size * (x * channels + channel)..][..size])
            }
            bits => row[x * bits / 8] >> (8 - bits - x * bits % 8) & ((1 << bits) - 1),
        }
    };
    let most = (1u16 << format.bits.min(8)) - 1;
    let mut values = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            values.extend(match format.photometric {
                GREY | GREY_INVERTED => [(u16::from(sample(x, y, 0)) * (255 / most)) as u8; 3],
                PALETTE => format.colour(sample(x, y, 0)),
                CMYK => rgb_of_cmyk([0, 1, 2, 3].map(|channel| sample(x, y, channel))),
                _ => {
                    let rgb = [0, 1, 2].map(|channel| sample(x, y, channel));
                    if format.multiplied {
                        divided(rgb, sample(x, y, 3))
                    } else {
                        rgb
                    }
                }
            });
        }
    }
    let rgb = Rgb {
        width,
        height,
        values,
    };
    Ok(match orientation(&mut decoder, &bytes) {
        Some(orientation) => orientation.apply(rgb),
        None => rgb,
    })
}

fn open<'a>(bytes: &'a [u8], options: &DecodeOptions) -> Result<Tiff<'a>, String> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = (16 * options.max_pixels).max(MIN_MEMORY);
    limits.intermediate_buffer_size = options.max_file() as usize;
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(broken)?;
    Ok(decoder.with_limits(limits))
}

/// A copy of the file that declares palette indices as grey, and whether it has a palette: the crate
/// does not support palettes, but decodes the indices as greys. Inverted grey of more than 8 bits is
/// declared as grey too, because Pillow does not invert it.
fn as_grey(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let number = |tag: Tag| exif::field(bytes, tag.to_u16());
    let kept = (Cow::Borrowed(bytes), false);
    let Some(photometric) = number(Tag::PhotometricInterpretation) else {
        return kept;
    };
    let indexed = photometric.number == f64::from(PALETTE);
    let inverted = photometric.number == f64::from(GREY_INVERTED);
    let is_wide = || number(Tag::BitsPerSample).is_some_and(|bits| bits.number > 8.0);
    let as_grey = indexed || inverted && is_wide();
    if photometric.kind != exif::SHORT || !as_grey {
        return kept;
    }
    let big_endian = bytes[0] == b'M';
    let mut bytes = bytes.to_vec();
    bytes[photometric.at + usize::from(big_endian)] = GREY as u8;
    (Cow::Owned(bytes), indexed)
}

/// Refuse a predictor with a compression that has none: libtiff ignores it, the crate applies it.
fn refuse_stray_predictor(decoder: &mut Tiff) -> Result<(), String> {
    let mut tag = |tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    let predictor = tag(Tag::Predictor).unwrap_or(1);
    let compression = tag(Tag::Compression).unwrap_or(1);
    const LZW_AND_DEFLATE: [u16; 3] = [5, 8, 32_946];
    if predictor == 1 || LZW_AND_DEFLATE.contains(&compression) {
        Ok(())
    } else {
        Err(format!(
            "found predictor {predictor} with compression {compression}, expected it only with LZW or deflate; save it as PNG"
        ))
    }
}

/// Refuse tiles that are much larger than the picture: they would be decompressed in full.
fn check_chunks(
    decoder: &Tiff,
    width: usize,
    height: usize,
    options: &DecodeOptions,
) -> Result<(), String> {
    let (across, down) = decoder.chunk_dimensions();
    let (across, down) = (
        across as usize,
        (down as usize).min(height.next_multiple_of(16)),
    );
    let padded = |side: usize, chunk: usize| side.div_ceil(chunk.max(1)).saturating_mul(chunk);
    let pixels = padded(width, across).saturating_mul(padded(height, down));
    if pixels > options.max_pixels.saturating_mul(4) {
        return Err(format!(
            "found tiles of {across}x{down} pixels for {width}x{height}, expected tiles not much larger than the picture; save it as PNG"
        ));
    }
    Ok(())
}

struct Format {
    photometric: u16,
    bits: usize,
    sample_format: u16,
    /// Whether the rows are uncompressed.
    plain: bool,
    /// Whether the first bit of a byte is the lowest.
    reversed: bool,
    /// Bits per pixel in the file, or per sample of a plane.
    stride_bits: usize,
    planes: usize,
    /// Samples per pixel that the crate returns.
    channels: usize,
    /// Whether colours are premultiplied by alpha.
    multiplied: bool,
    /// All red values, then green, then blue.
    palette: Vec<u16>,
}

impl Format {
    fn read(decoder: &mut Tiff, indexed: bool) -> Result<Format, String> {
        let tiled = decoder.get_chunk_type() == ChunkType::Tile;
        let mut list = |tag, default: &[u16]| match decoder.find_tag_unsigned_vec::<u16>(tag) {
            Ok(values) => Ok(values.unwrap_or_else(|| default.to_vec())),
            Err(error) => Err(broken(error)),
        };
        let mut one = |tag, default| {
            Ok::<u16, String>(list(tag, &[default])?.first().copied().unwrap_or(default))
        };
        let compression = one(Tag::Compression, 1)?;
        let photometric = if indexed {
            PALETTE
        } else {
            one(Tag::PhotometricInterpretation, u16::MAX)?
        };
        let samples = one(Tag::SamplesPerPixel, 1)?;
        let bits = one(Tag::BitsPerSample, 1)?;
        let format = one(Tag::SampleFormat, 1)?;
        let fill_order = one(Tag::FillOrder, 1)?;
        let planar = one(Tag::PlanarConfiguration, 1)? == 2;
        let predicted = one(Tag::Predictor, 1)? != 1;
        let extra = list(Tag::ExtraSamples, &[])?;
        let palette = list(Tag::ColorMap, &[])?;

        let unknown = |found: String| {
            Err(format!(
                "found a TIFF with {found}, expected grey, a palette, RGB or CMYK, plain or packed by LZW, deflate or PackBits; save it as PNG"
            ))
        };
        if !matches!(compression, 1 | 5 | 8 | 32773 | 32946) {
            return unknown(format!("compression {}", compression_name(compression)));
        }
        let colours = usize::from(samples).checked_sub(extra.len());
        let known = match (photometric, colours, &extra[..]) {
            (GREY, Some(1), []) => matches!(
                (bits, format),
                (1 | 2 | 4, UNSIGNED)
                    | (8 | 16, UNSIGNED | SIGNED)
                    | (32, UNSIGNED | SIGNED | FLOAT)
            ),
            (GREY_INVERTED | PALETTE, Some(1), []) => {
                matches!((bits, format), (1 | 2 | 4 | 8, UNSIGNED))
            }
            (GREY | PALETTE, Some(1), [0 | 2]) => (bits, format) == (8, UNSIGNED),
            // In compressed planes Pillow treats the fourth colour as alpha.
            (RGB, Some(4), []) => {
                (!planar || compression == 1) && matches!((bits, format), (8 | 16, UNSIGNED))
            }
            (RGB, Some(3), [] | [_] | [_, _] | [_, _, _]) | (CMYK, Some(4), [] | [0] | [0, 0]) => {
                matches!((bits, format), (8 | 16, UNSIGNED))
            }
            _ => false,
        };
        if !known {
            let kind = match format {
                UNSIGNED => "bits",
                SIGNED => "bits with a sign",
                FLOAT => "bits, floats",
                _ => "bits of another kind of number",
            };
            let extras = match extra.len() {
                0 => String::new(),
                count => format!(", {count} of them besides the colours ({extra:?})"),
            };
            let name = photometric_name(photometric);
            let planes = if planar { " in planes" } else { "" };
            return unknown(format!(
                "{name}{planes}, {samples} samples of {bits} {kind}{extras}"
            ));
        }
        // The crate uses the first plane's padding of tiles for later planes too.
        if planar && samples > 1 && tiled {
            return unknown("tiles of one colour each".to_string());
        }
        // The crate drops samples that are neither colour nor alpha; its result is then wrong for
        // tiles and predictors.
        let channels = match (photometric, &extra[..]) {
            (RGB, [1 | 2, ..]) => 4,
            (RGB, [0 | 3.., ..]) => 3,
            (CMYK, _) => 4,
            _ => samples,
        };
        if channels < samples && !planar && (predicted || tiled) {
            return unknown(format!(
                "{samples} samples a pixel in tiles or as differences"
            ));
        }
        if photometric == PALETTE && palette.len() != 3 << bits {
            return Err(broken(format!("its palette has {} values", palette.len())));
        }
        Ok(Format {
            photometric,
            bits: usize::from(bits),
            sample_format: format,
            plain: compression == 1,
            reversed: fill_order == 2,
            stride_bits: usize::from(bits) * usize::from(if planar { 1 } else { samples }),
            planes: usize::from(if planar { samples } else { 1 }),
            channels: usize::from(channels),
            multiplied: photometric == RGB && extra.first() == Some(&1),
            palette,
        })
    }

    /// Convert a wider sample to 8 bits: grey is clipped to 0..=255, of colours the upper bits are used.
    fn narrowed(&self, sample: &[u8]) -> u8 {
        match (self.sample_format, sample) {
            (SIGNED, &[a, b]) => i16::from_ne_bytes([a, b]).clamp(0, 255) as u8,
            (_, &[a, b]) if self.photometric == GREY => u16::from_ne_bytes([a, b]).min(255) as u8,
            (_, &[a, b]) => (u16::from_ne_bytes([a, b]) >> 8) as u8,
            (FLOAT, &[a, b, c, d]) => f32::from_ne_bytes([a, b, c, d]).clamp(0.0, 255.0) as u8,
            // Pillow treats unsigned ones as signed.
            (_, &[a, b, c, d]) => i32::from_ne_bytes([a, b, c, d]).clamp(0, 255) as u8,
            _ => 0,
        }
    }

    /// A copy of the file that the crate can read: bits in the usual order and, if lenient, zeros (ones
    /// in inverted grey, that is black) for missing rows of an uncompressed file.
    fn restored(
        &self,
        decoder: &mut Tiff,
        bytes: &[u8],
        options: &DecodeOptions,
    ) -> Result<Vec<u8>, String> {
        let tiled = decoder.get_chunk_type() == ChunkType::Tile;
        let (offsets, counts) = if tiled {
            (Tag::TileOffsets, Tag::TileByteCounts)
        } else {
            (Tag::StripOffsets, Tag::StripByteCounts)
        };
        let mut list = |tag| {
            let numbers = decoder.find_tag_unsigned_vec::<u64>(tag).map_err(broken)?;
            let numbers = numbers.unwrap_or_default().into_iter();
            Ok::<Vec<_>, String>(numbers.map(|number| number as usize).collect())
        };
        let (offsets, counts) = (list(offsets)?, list(counts)?);
        let mut restored = bytes.to_vec();
        if self.reversed {
            for (&offset, count) in offsets.iter().zip(counts) {
                let chunk = restored.get_mut(offset..).unwrap_or_default();
                for byte in chunk.iter_mut().take(count) {
                    *byte = byte.reverse_bits();
                }
            }
        }
        if !options.lenient || !self.plain {
            return Ok(restored);
        }
        let (width, height) = decoder.dimensions().map_err(broken)?;
        let (width, height) = (width as usize, height as usize);
        let (across, down) = decoder.chunk_dimensions();
        let (across, down) = (across as usize, down as usize);
        let zero = match self.photometric {
            GREY_INVERTED => 0xFF,
            _ => 0,
        };
        let columns = width.div_ceil(across);
        let chunks = columns * height.div_ceil(down);
        let stride = (across * self.stride_bits).div_ceil(8);
        for (i, &offset) in offsets.iter().enumerate().take(chunks * self.planes) {
            let (x, y) = (i % chunks % columns * across, i % chunks / columns * down);
            let rows = (height - y).min(down);
            let end = offset.saturating_add(stride * if tiled { down } else { rows });
            if end <= bytes.len() {
                continue;
            }
            if end as u64 > options.max_file() {
                return Err(broken("it ends too early"));
            }
            // A row is complete if its part within the picture is.
            let row_len = ((width - x).min(across) * self.stride_bits).div_ceil(8);
            let there = bytes.len().saturating_sub(offset);
            let whole = match there.checked_sub(row_len) {
                Some(rest) => rest / stride + 1,
                None => 0,
            };
            restored.resize(restored.len().max(end), zero);
            if whole < rows {
                restored[offset + whole * stride..end].fill(zero);
            }
        }
        Ok(restored)
    }

    fn colour(&self, index: u8) -> [u8; 3] {
        let colours = self.palette.len() / 3;
        [0, 1, 2].map(|channel| (self.palette[channel * colours + usize::from(index)] >> 8) as u8)
    }
}

/// Divide a premultiplied colour by alpha, like Pillow's `RGBa`.
fn divided(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    match alpha {
        0 => [0; 3],
        alpha => rgb.map(|value| (255 * u16::from(value) / u16::from(alpha)).min(255) as u8),
    }
}

fn orientation(decoder: &mut Tiff, bytes: &[u8]) -> Option<Orientation> {
    const XMP: Tag = Tag::Unknown(700);
    let xmp = decoder.find_tag(XMP).ok().flatten();
    let xmp = xmp.and_then(|xmp| xmp.into_u8_vec().ok());
    exif::of_tiff(bytes, xmp.as_deref())
}

fn compression_name(number: u16) -> String {
    match number {
        2..=4 => "CCITT (fax)".to_string(),
        6 | 7 => "JPEG".to_string(),
        34_925 => "LZMA".to_string(),
        50_000 => "Zstandard".to_string(),
        50_001 => "WebP".to_string(),
        _ => number.to_string(),
    }
}

fn photometric_name(number: u16) -> String {
    match number {
        GREY | GREY_INVERTED => "grey".to_string(),
        RGB => "RGB".to_string(),
        PALETTE => "a palette".to_string(),
        CMYK => "CMYK".to_string(),
        6 => "YCbCr colours".to_string(),
        8..=10 => "Lab colours".to_string(),
        _ => format!("photometric interpretation {number}"),
    }
}

fn broken(reason: impl Display) -> String {
    format!("broken TIFF ({reason}); replace the file with a whole copy")
}
