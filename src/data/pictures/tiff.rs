//! TIFF by the `tiff` crate: the first picture of the file.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Cursor;

use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::Tag;

use crate::data::pictures::exif::{self, Orientation};
use crate::data::pictures::{DecodeOptions, MIN_MEMORY, Rgb, rgb_of_cmyk};

const GREY_INVERTED: u16 = 0;
const GREY: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const CMYK: u16 = 5;

/// Decode grey (1, 2, 4, 8 or 16 bits), a palette (1 to 8 bits), RGB or CMYK (8 or 16 bits), in
/// strips or tiles, plain or packed by LZW, deflate or PackBits; of 16 bits as [`crate::data::png`]
/// does. Alpha is dropped; where colours were multiplied by it, it is divided out first. Other
/// kinds are refused.
///
/// Pillow obeys a TIFF's orientation even without `exif_transpose`, and so does this: the pixels
/// come back turned. The reason for a refusal comes back as one phrase.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let photometric = exif::whole_number(bytes, Tag::PhotometricInterpretation.to_u16());
    let (bytes, indexed) = match photometric {
        Some((at, value)) if value == u32::from(PALETTE) => {
            (grey_in_place_of_palette(bytes, at), true)
        }
        _ => (Cow::Borrowed(bytes), false),
    };
    let mut limits = Limits::default();
    limits.decoding_buffer_size = (16 * options.max_pixels).max(MIN_MEMORY);
    limits.intermediate_buffer_size = options.max_file() as usize;
    let mut decoder = Decoder::new(Cursor::new(&*bytes))
        .map_err(broken)?
        .with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(broken)?;
    let (width, height) = (width as usize, height as usize);
    options.check_size(width, height)?;
    check_chunks(&decoder, width, height, options)?;
    refuse_stray_predictor(&mut decoder)?;
    let format = Format::read(&mut decoder, indexed)?;

    let layout = decoder.image_buffer_layout().map_err(broken)?;
    let mut data = vec![0; layout.complete_len];
    decoder.read_image_bytes(&mut data).map_err(broken)?;
    let row_stride = layout.row_stride.map_or(0, |stride| stride.get());
    let plane_stride = layout.plane_stride.map_or(0, |stride| stride.get());
    let channels = match layout.planes {
        1 => format.channels,
        _ => 1,
    };
    // Of 16 bits the upper 8, but of grey ones everything above 255 is 255: as Pillow does.
    let sample = |x: usize, y: usize, channel: usize| {
        let (plane, channel) = if layout.planes == 1 {
            (0, channel)
        } else {
            (channel, 0)
        };
        let row = &data[plane * plane_stride + y * row_stride..];
        match format.bits {
            8 => row[x * channels + channel],
            16 => {
                let at = 2 * (x * channels + channel);
                let value = u16::from_ne_bytes([row[at], row[at + 1]]);
                match format.photometric {
                    GREY => value.min(255) as u8,
                    _ => (value >> 8) as u8,
                }
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
    Ok(match orientation(&mut decoder) {
        Some(orientation) => orientation.apply(rgb),
        None => rgb,
    })
}

/// The crate knows no palettes, but what lies in the file is the same as with greys: a copy whose
/// field "photometric interpretation", at `at`, says so.
fn grey_in_place_of_palette(bytes: &[u8], at: usize) -> Cow<'_, [u8]> {
    let mut bytes = bytes.to_vec();
    let low = if bytes[0] == b'M' { at + 1 } else { at };
    bytes[low] = GREY as u8;
    Cow::Owned(bytes)
}

/// Refuse a predictor beside a compression that has none: libtiff ignores it there, and the crate
/// applies it.
fn refuse_stray_predictor(decoder: &mut Decoder<Cursor<&[u8]>>) -> Result<(), String> {
    let mut tag = |tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    let predictor = tag(Tag::Predictor).unwrap_or(1);
    let compression = tag(Tag::Compression).unwrap_or(1);
    const LZW_AND_DEFLATE: [u16; 3] = [5, 8, 32_946];
    match predictor == 1 || LZW_AND_DEFLATE.contains(&compression) {
        true => Ok(()),
        false => Err(format!(
            "found predictor {predictor} with compression {compression}, expected LZW or deflate beside it; save it as PNG"
        )),
    }
}

/// Refuse tiles that hold far more than the picture: they would be unpacked all the same.
fn check_chunks(
    decoder: &Decoder<Cursor<&[u8]>>,
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
    /// Samples a pixel, as they are unpacked.
    channels: usize,
    /// Whether colours were multiplied by alpha.
    multiplied: bool,
    /// All red values, then green, then blue.
    palette: Vec<u16>,
}

impl Format {
    fn read(decoder: &mut Decoder<Cursor<&[u8]>>, indexed: bool) -> Result<Format, String> {
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
                "found a TIFF with {found}, expected grey, a palette, RGB or CMYK of whole numbers of at most 16 bits, plain or packed by LZW, deflate or PackBits; save it as PNG"
            ))
        };
        if !matches!(compression, 1 | 5 | 8 | 32773 | 32946) {
            return unknown(format!("compression {compression}"));
        }
        if format != 1 || fill_order != 1 {
            return unknown(format!("sample format {format}, fill order {fill_order}"));
        }
        let colours = usize::from(samples).checked_sub(extra.len());
        let known = matches!(
            (photometric, colours, bits, &extra[..]),
            (GREY | GREY_INVERTED | PALETTE, Some(1), 1 | 2 | 4 | 8, [])
                | (GREY | PALETTE, Some(1), 8, [0 | 2])
                | (GREY, Some(1), 16, [])
                | (RGB, Some(3), 8 | 16, [] | [_] | [_, _] | [_, _, _])
                | (RGB, Some(4), 8 | 16, [])
                | (CMYK, Some(4), 8 | 16, [] | [0] | [0, 0])
        );
        if !known {
            return unknown(format!(
                "interpretation {photometric}, {samples} samples of {bits} bits, of them {extra:?} beside the colours"
            ));
        }
        // The crate takes the padding of tiles of later planes for that of the first one.
        if planar && samples > 1 && tiled {
            return unknown("tiles of one colour each".to_string());
        }
        // The crate drops samples that are neither colour nor alpha, and goes wrong in tiles and
        // with differences then.
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
            channels: usize::from(channels),
            multiplied: photometric == RGB && extra.first() == Some(&1),
            palette,
        })
    }

    fn colour(&self, index: u8) -> [u8; 3] {
        let colours = self.palette.len() / 3;
        [0, 1, 2].map(|channel| (self.palette[channel * colours + usize::from(index)] >> 8) as u8)
    }
}

/// A colour that was multiplied by alpha, divided by it: as Pillow's `RGBa`.
fn divided(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    match alpha {
        0 => [0; 3],
        alpha => rgb.map(|value| (255 * u16::from(value) / u16::from(alpha)).min(255) as u8),
    }
}

fn orientation(decoder: &mut Decoder<Cursor<&[u8]>>) -> Option<Orientation> {
    const XMP: Tag = Tag::Unknown(700);
    if let Ok(Some(number)) = decoder.find_tag_unsigned::<u32>(Tag::Orientation) {
        return Orientation::of(number);
    }
    let xmp = decoder.find_tag(XMP).ok()??.into_u8_vec().ok()?;
    exif::orientation(None, Some(&xmp))
}

fn broken(reason: impl Display) -> String {
    format!("broken TIFF ({reason}); replace the file with a whole copy")
}
