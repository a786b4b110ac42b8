//! PNG photographs, by the `png` crate.

use std::fmt::Display;
use std::io::Cursor;

use png::{ColorType, Decoder, Limits, Transformations};

use super::jpeg::{MAX_PIXELS, MAX_SIDE, Rgb};

/// The first bytes of every PNG.
pub const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decode any PNG as Pillow's `convert("RGB")` does: palettes and fewer bits spread out, alpha
/// dropped; of 16 bits the upper 8 (Pillow clips grey ones instead). Of an animation the
/// default image. The reason for a refusal comes back as one phrase.
pub fn decode_rgb(bytes: &[u8]) -> Result<Rgb, String> {
    let limits = Limits {
        bytes: 8 * MAX_PIXELS,
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(broken)?;
    let (width, height) = (header.width as usize, header.height as usize);
    // Before anything of that size is allocated.
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(format!(
            "found {width}x{height} pixels, expected at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
        ));
    }
    let mut reader = decoder.read_info().map_err(broken)?;
    // The crate checks no more than the chunk's length, and panics on part of a colour.
    let info = reader.info();
    let palette = info.palette.as_ref().map_or(0, |palette| palette.len());
    if info.color_type == ColorType::Indexed && !palette.is_multiple_of(3) {
        let found = format!("found a palette of {palette} bytes, expected three a colour");
        return Err(broken(found));
    }
    let size = reader.output_buffer_size();
    let mut values = vec![0; size.ok_or("found more pixels than memory holds")?];
    let frame = reader.next_frame(&mut values).map_err(broken)?;
    reader.finish().map_err(broken)?;
    values.truncate(frame.buffer_size());
    let grey = |step: usize| values.iter().step_by(step).flat_map(|&v| [v; 3]).collect();
    let values = match frame.color_type {
        ColorType::Rgb => values,
        ColorType::Rgba => values
            .chunks_exact(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
        ColorType::Grayscale => grey(1),
        ColorType::GrayscaleAlpha => grey(2),
        ColorType::Indexed => return Err("found a palette that was not spread out".to_string()),
    };
    Ok(Rgb {
        width,
        height,
        values,
    })
}

fn broken(reason: impl Display) -> String {
    format!("broken PNG ({reason}); replace the file with a whole copy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::{BitDepth, Encoder};
    use proptest::prelude::*;

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
    fn every_colour_type_becomes_rgb() {
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
                &[7, 200, 8, 3],
                [7, 7, 7, 8, 8, 8],
            ),
            (ColorType::Indexed, One, &[0b1000_0000], [4, 5, 6, 1, 2, 3]),
        ];
        for (colour, depth, data, expected) in cases {
            let rgb = decode_rgb(&encode(colour, depth, data)).unwrap();
            assert_eq!((rgb.width, rgb.height), (2, 1));
            assert_eq!(rgb.values, expected, "{colour:?} {depth:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut bytes = encode(ColorType::Grayscale, BitDepth::Eight, &[1, 2]);
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let refusal = decode_rgb(&bytes).unwrap_err();
        assert!(refusal.contains("65536x65536"), "{refusal}");
    }

    #[test]
    fn a_palette_that_ends_within_a_colour_is_refused() {
        for length in [4, 5, 7, 52, 766, 767] {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(ColorType::Indexed);
            encoder.set_palette(vec![9; length]);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0, 0]).unwrap();
            writer.finish().unwrap();
            let refusal = decode_rgb(&bytes).unwrap_err();
            assert!(refusal.contains(&format!("{length} bytes")), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn broken_bytes_end_in_a_reason(at in 8usize..60, to in any::<u8>(), cut in 8usize..70) {
            let mut bytes = encode(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6]);
            let cut = cut.min(bytes.len());
            prop_assert!(decode_rgb(&bytes[..cut]).is_err() || cut + 12 >= bytes.len());
            let at = at.min(bytes.len() - 1);
            bytes[at] = to;
            let _ = decode_rgb(&bytes);
        }
    }
}
