//! WebP, by the `image-webp` crate: the picture, or the first frame.
//!
//! Pixels do not depend on alpha, which is dropped. So the crate gets only the bit stream of the
//! picture, as a separate file.

use std::fmt::Display;
use std::io::Cursor;

use image_webp::WebPDecoder;

use crate::data::pictures::exif::{self, Orientation};
use crate::data::pictures::rgb::{DecodeOptions, Rgb};

/// Decode a lossy or lossless picture, or the first frame of an animation on a black canvas. Returns
/// also the orientation by EXIF or XMP.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(Rgb, Option<Orientation>), String> {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok());
    let length = length.map_or(0, u32::from_le_bytes) as usize;
    let riff = bytes
        .get(12..length.saturating_add(8))
        .ok_or_else(|| broken("it ends too early"))?;
    let all = chunks(riff)?;
    let chunk = |name: &[u8; 4]| find(&all, name);

    let (canvas, left, top, stream) = match (chunk(b"VP8X"), chunk(b"ANMF")) {
        (Some(header), frame) => {
            let canvas = (u24(header, 4)? + 1, u24(header, 7)? + 1);
            options.check_size(canvas.0, canvas.1)?;
            match frame {
                Some(frame) => {
                    let (left, top) = (2 * u24(frame, 0)?, 2 * u24(frame, 3)?);
                    let frame = frame.get(16..).unwrap_or_default();
                    (Some(canvas), left, top, stream(&chunks(frame)?)?)
                }
                None => (Some(canvas), 0, 0, stream(&all)?),
            }
        }
        (None, _) => (None, 0, 0, stream(&all)?),
    };
    let picture = decode_stream(&stream, options)?;
    let orientation = exif::orientation(chunk(b"EXIF"), chunk(b"XMP "));
    let Some((width, height)) = canvas else {
        return Ok((picture, orientation));
    };
    if left + picture.width > width || top + picture.height > height {
        let found = format!(
            "{}x{} pixels at {left}, {top}",
            picture.width, picture.height
        );
        return Err(broken(format!("{found} of a canvas of {width}x{height}")));
    }
    let mut values = vec![0; 3 * width * height];
    let rows = values.chunks_exact_mut(3 * width).skip(top);
    for (row, picture_row) in rows.zip(picture.values.chunks_exact(3 * picture.width)) {
        row[3 * left..][..picture_row.len()].copy_from_slice(picture_row);
    }
    let rgb = Rgb {
        width,
        height,
        values,
    };
    Ok((rgb, orientation))
}

/// Name and content of each chunk.
type Chunks<'a> = Vec<(&'a [u8], &'a [u8])>;

fn chunks(mut riff: &[u8]) -> Result<Chunks<'_>, String> {
    let mut chunks = Vec::new();
    while let Some((head, rest)) = riff.split_at_checked(8) {
        let (name, length) = head.split_at(4);
        let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
        let content = rest
            .get(..length)
            .ok_or_else(|| broken("it ends too early"))?;
        chunks.push((name, content));
        riff = rest.get(length + length % 2..).unwrap_or_default();
    }
    Ok(chunks)
}

fn find<'a>(chunks: &Chunks<'a>, wanted: &[u8; 4]) -> Option<&'a [u8]> {
    let found = chunks.iter().find(|(name, _)| name == wanted);
    found.map(|(_, content)| *content)
}

fn u24(bytes: &[u8], at: usize) -> Result<usize, String> {
    match bytes.get(at..at + 3) {
        Some(&[low, middle, high]) => Ok(u32::from_le_bytes([low, middle, high, 0]) as usize),
        _ => Err(broken("it ends too early")),
    }
}

/// A file with only the bit stream of the picture.
fn stream(chunks: &Chunks) -> Result<Vec<u8>, String> {
    for name in [b"VP8 ", b"VP8L"] {
        if let Some(content) = find(chunks, name) {
            let length = content.len() as u32;
            let padding = &[0][..content.len() % 2];
            let length = length.to_le_bytes();
            let all = [&b"WEBP"[..], name, &length, content, padding].concat();
            return Ok([&b"RIFF"[..], &(all.len() as u32).to_le_bytes(), &all].concat());
        }
    }
    Err(broken("it holds no picture"))
}

fn decode_stream(stream: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let mut decoder = WebPDecoder::new(Cursor::new(stream)).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    options.check_size(width, height)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut values = vec![0; channels * width * height];
    decoder.read_image(&mut values).map_err(broken)?;
    if channels == 4 {
        values = (values.chunks_exact(4))
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect();
    }
    Ok(Rgb {
        width,
        height,
        values,
    })
}

fn broken(reason: impl Display) -> String {
    format!("broken WebP ({reason}); replace the file with a whole copy")
}
