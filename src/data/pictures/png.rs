//! PNG photographs, by the `png` crate.

use std::fmt::Display;
use std::io::Cursor;

use png::{Adam7Info, BitDepth, ColorType, Decoder, Info, Limits, Reader, Transformations};

use crate::data::pictures::exif::{self, Orientation};
use crate::data::pictures::rgb::{DecodeOptions, MIN_MEMORY, Rgb};

/// Decode a PNG like Pillow's `convert("RGB")`: palettes and fewer bits are expanded, alpha is
/// dropped; of 16 bits the upper 8 are used, but 16-bit grey without alpha is clipped to 255. Of an
/// animation the default image. Returns also the orientation by EXIF or XMP.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(Rgb, Option<Orientation>), String> {
    let limits = Limits {
        bytes: (8 * options.max_pixels).max(MIN_MEMORY),
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND);
    decoder.ignore_checksums(options.lenient);
    let header = decoder.read_header_info().map_err(broken)?;
    let (width, height) = (header.width as usize, header.height as usize);
    options.check_size(width, height)?;
    let mut reader = decoder.read_info().map_err(broken)?;
    let info = reader.info();
    // The crate panics on a palette that ends within a colour.
    let palette = info.palette.as_ref().map_or(0, |palette| palette.len());
    if info.color_type == ColorType::Indexed && !palette.is_multiple_of(3) {
        let found = format!("found a palette of {palette} bytes, expected three per colour");
        return Err(broken(found));
    }
    let clipped = info.color_type == ColorType::Grayscale && info.bit_depth == BitDepth::Sixteen;
    let values = rows(&mut reader)?;
    let finished = reader.finish();
    if !options.lenient {
        finished.map_err(broken)?;
    }
    let (colour, depth) = reader.output_color_type();
    let values = match depth {
        BitDepth::Sixteen => (values.chunks_exact(2))
            .map(|value| match (clipped, value[0]) {
                (true, 0) => value[1],
                (true, _) => 255,
                (false, high) => high,
            })
            .collect(),
        _ => values,
    };
    let grey = |step: usize| values.iter().step_by(step).flat_map(|&v| [v; 3]).collect();
    let values = match colour {
        ColorType::Rgb => values,
        ColorType::Rgba => values
            .chunks_exact(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
        ColorType::Grayscale => grey(1),
        ColorType::GrayscaleAlpha => grey(2),
        ColorType::Indexed => return Err("found a palette that was not spread out".to_string()),
    };
    let rgb = Rgb {
        width,
        height,
        values,
    };
    Ok((rgb, orientation(reader.info())))
}

/// All rows of the image; what follows them is not read.
fn rows(reader: &mut Reader<Cursor<&[u8]>>) -> Result<Vec<u8>, String> {
    let size = reader.output_buffer_size();
    let mut values = vec![0; size.ok_or("found more pixels than memory holds")?];
    let (width, height) = reader.info().size();
    let (colour, depth) = reader.output_color_type();
    let stride = reader
        .output_line_size(width)
        .ok_or("found more pixels than memory holds")?;
    if !reader.info().interlaced {
        for row in values.chunks_exact_mut(stride) {
            reader.read_row(row).map_err(broken)?;
        }
        return Ok(values);
    }
    let bits = colour.samples() as u8 * depth as u8;
    for row in interlaced_rows(width, height) {
        if let Some(data) = reader.next_row().map_err(broken)? {
            png::expand_interlaced_row(&mut values, stride, data.data(), &row, bits);
        }
    }
    Ok(values)
}

/// The rows of all seven passes, in the order of the file; a pass without columns has none.
fn interlaced_rows(width: u32, height: u32) -> impl Iterator<Item = Adam7Info> {
    /// First column, first row and row step of each pass.
    const PASSES: [[u32; 3]; 7] = [
        [0, 0, 8],
        [4, 0, 8],
        [0, 4, 8],
        [2, 0, 4],
        [0, 2, 4],
        [1, 0, 2],
        [0, 1, 2],
    ];
    (1..).zip(PASSES).flat_map(move |(pass, [x, y, step])| {
        let lines = if width > x {
            height.saturating_sub(y).div_ceil(step)
        } else {
            0
        };
        (0..lines).map(move |line| Adam7Info::new(pass, line, width))
    })
}

/// The orientation by the chunk eXIf, by ImageMagick's text of EXIF, or by XMP.
fn orientation(info: &Info) -> Option<Orientation> {
    const RAW: &str = "Raw profile type exif";
    const XMP: &str = "XML:com.adobe.xmp";
    let raw = || {
        let plain = info
            .uncompressed_latin1_text
            .iter()
            .find(|text| text.keyword == RAW);
        let packed = info
            .compressed_latin1_text
            .iter()
            .find(|text| text.keyword == RAW);
        let text = match (plain, packed) {
            (Some(text), _) => text.text.clone(),
            (None, packed) => packed?.get_text().ok()?,
        };
        unhex(&text)
    };
    let exif = info
        .exif_metadata
        .as_ref()
        .map(|exif| exif.to_vec())
        .or_else(raw);
    let xmp = info.utf8_text.iter().find(|text| text.keyword == XMP);
    let xmp = xmp.and_then(|text| text.get_text().ok());
    exif::orientation(exif.as_deref(), xmp.as_ref().map(|xmp| xmp.as_bytes()))
}

/// Decode `\nexif\n  LENGTH\nHEX...`.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = (text.split('\n').skip(3))
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| 16 * pair[0] + pair[1])
            .collect(),
    )
}

fn broken(reason: impl Display) -> String {
    format!("broken PNG ({reason}); replace the file with a whole copy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::Encoder;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Rgb, String> {
        decode_rgb(bytes, &DecodeOptions::default()).map(|(rgb, _)| rgb)
    }

    fn encode(colour: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn all_colour_types_are_converted_to_rgb() {
        use BitDepth::{Eight, One, Sixteen};
        let cases: [(ColorType, BitDepth, &[u8], [u8; 6]); 7] = [
            (
                ColorType::Rgb,
                Eight,
                &[1, 2, 3, 4, 5, 6],
                [1, 2, 3, 4, 5, 6],
            ),
            (
                ColorType::Rgba,
                Eight,
                &[1, 2, 3, 0, 4, 5, 6, 9],
                [1, 2, 3, 4, 5, 6],
            ),
            (ColorType::Grayscale, Eight, &[7, 8], [7, 7, 7, 8, 8, 8]),
            (
                ColorType::GrayscaleAlpha,
                Eight,
                &[7, 0, 8, 9],
                [7, 7, 7, 8, 8, 8],
            ),
            (
                ColorType::Grayscale,
                One,
                &[0b0100_0000],
                [0, 0, 0, 255, 255, 255],
            ),
            (
                ColorType::Grayscale,
                Sixteen,
                &[0, 200, 8, 3],
                [200, 200, 200, 255, 255, 255],
            ),
            (ColorType::Indexed, One, &[0b1000_0000], [4, 5, 6, 1, 2, 3]),
        ];
        for (colour, depth, data, expected) in cases {
            let rgb = decode(&encode(colour, depth, data)).unwrap();
            assert_eq!((rgb.width, rgb.height), (2, 1));
            assert_eq!(rgb.values, expected, "{colour:?} {depth:?}");
        }
    }

    /// With `lenient`, damage after the pixels is accepted.
    #[test]
    fn lenient_accepts_complete_pixels_with_a_damaged_end() {
        let lenient = DecodeOptions {
            lenient: true,
            ..DecodeOptions::default()
        };
        for (interlaced, depth) in [(false, 8), (false, 16), (true, 8), (true, 16)] {
            let whole = checks(interlaced, depth);
            let expected = decode(&whole).unwrap().values;
            let end = whole.len() - 12;
            let garbage = [&whole[..end], &[7; 30]].concat();
            let mut checksum = whole.clone();
            checksum[end - 1] ^= 1;
            for damaged in [
                &whole[..end],
                &whole[..end + 5],
                &whole[..end - 4],
                &garbage,
                &checksum,
            ] {
                assert!(decode(damaged).is_err());
                let (rgb, _) = decode_rgb(damaged, &lenient).unwrap();
                assert!(rgb.values == expected);
            }
            // Missing rows are an error.
            assert!(decode_rgb(&whole[..end - 30], &lenient).is_err());
        }
    }

    /// 17 x 13 noisy pixels in RGB.
    fn checks(interlaced: bool, depth: u8) -> Vec<u8> {
        let rows: [(u32, u32, u32, u32); 7] = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ];
        let mut raw = Vec::new();
        let passes = if interlaced {
            &rows[..]
        } else {
            &[(0, 0, 1, 1)]
        };
        let mut noise = 1u32;
        for &(x, y, dx, dy) in passes {
            for _ in (y..13).step_by(dy as usize) {
                raw.extend([0]); // no filter
                for _ in (x..17).step_by(dx as usize) {
                    for _ in 0..3 * depth / 8 {
                        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        raw.push((noise >> 24) as u8);
                    }
                }
            }
        }
        let header = [0, 0, 0, 17, 0, 0, 0, 13, depth, 2, 0, 0, interlaced as u8];
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |name: &[u8], data: &[u8]| {
            bytes.extend((data.len() as u32).to_be_bytes());
            let at = bytes.len();
            bytes.extend([name, data].concat());
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[at..]);
            bytes.extend(crc.sum().to_be_bytes());
        };
        chunk(b"IHDR", &header);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zlib, &raw).unwrap();
        chunk(b"IDAT", &zlib.finish().unwrap());
        chunk(b"IEND", b"");
        bytes
    }

    #[test]
    fn a_decompression_bomb_is_rejected_by_its_header() {
        let mut bytes = encode(ColorType::Grayscale, BitDepth::Eight, &[1, 2]);
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let refusal = decode(&bytes).unwrap_err();
        assert!(refusal.contains("65536x65536"), "{refusal}");
    }

    #[test]
    fn a_palette_that_ends_within_a_colour_is_rejected() {
        for length in [4, 5, 7, 52, 766, 767] {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(ColorType::Indexed);
            encoder.set_palette(vec![9; length]);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0, 0]).unwrap();
            writer.finish().unwrap();
            let refusal = decode(&bytes).unwrap_err();
            assert!(refusal.contains(&format!("{length} bytes")), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 8usize..60, to in any::<u8>(), cut in 8usize..70) {
            let mut bytes = encode(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6]);
            let cut = cut.min(bytes.len());
            prop_assert!(decode(&bytes[..cut]).is_err() || cut + 12 >= bytes.len());
            let at = at.min(bytes.len() - 1);
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }
}
