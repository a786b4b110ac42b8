//! GIF, by the `gif` crate: the first frame, like in Pillow.

use std::borrow::Cow;
use std::fmt::Display;
use std::num::NonZeroU64;

use gif::{ColorOutput, MemoryLimit};

use crate::data::pictures::rgb::{DecodeOptions, MIN_MEMORY, Rgb};

/// Decode the first frame on the whole screen, which is enlarged if the frame extends beyond it.
/// Pixels outside of the frame have the transparent colour if there is one, else colour 0. A
/// transparent pixel has its colour in the palette; a colour beyond the palette is black. With
/// [`DecodeOptions::lenient`] the missing pixels of a truncated frame are like those outside of it.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb, String> {
    let mut reading = gif::DecodeOptions::new();
    reading.set_color_output(ColorOutput::Indexed);
    reading.allow_unknown_blocks(true);
    let limit = options.max_pixels.max(MIN_MEMORY) as u64;
    let limit = NonZeroU64::new(limit).unwrap_or(NonZeroU64::MIN);
    reading.set_memory_limit(MemoryLimit::Bytes(limit));
    let bytes = whole_blocks(bytes);
    let mut decoder = reading.read_info(&*bytes).map_err(broken)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(broken)?;
    let frame = frame.ok_or_else(|| broken("it holds no picture"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, down) = (usize::from(frame.width), usize::from(frame.height));
    let open = frame.transparent.unwrap_or(0);
    let width = screen.0.max(left + across);
    let height = screen.1.max(top + down);
    options.check_size(width, height)?;

    let mut indices = vec![open; decoder.buffer_size()];
    let read = decoder.read_into_buffer(&mut indices);
    if !options.lenient {
        read.map_err(broken)?;
    }
    let palette = decoder.palette().map_err(broken)?;
    let colour = |index: u8| match palette.get(3 * usize::from(index)..) {
        // Pillow treats a ramp of greys as no palette, so that no index is beyond it.
        _ if is_ramp(palette) => [index; 3],
        Some(&[red, green, blue, ..]) => [red, green, blue],
        _ => [0; 3],
    };
    let mut values = colour(open).repeat(width * height);
    if across > 0 {
        let rows = values.chunks_exact_mut(3 * width).skip(top);
        for (row, indices) in rows.zip(indices.chunks_exact(across)) {
            for (pixel, &index) in row[3 * left..].chunks_exact_mut(3).zip(indices) {
                pixel.copy_from_slice(&colour(index));
            }
        }
    }
    Ok(Rgb {
        width,
        height,
        values,
    })
}

/// The file up to the last complete block of a truncated first frame, with an end. Pillow ignores an
/// incomplete block, and the crate decodes no frame without an end.
fn whole_blocks(gif: &[u8]) -> Cow<'_, [u8]> {
    const END: &[u8] = b"\0;";
    let byte = |at: usize| gif.get(at).copied();
    let palette = |at: usize| match byte(at) {
        Some(flags) if flags & 0x80 != 0 => 6 << (flags & 7),
        _ => 0,
    };
    let mut at = 13 + palette(10);
    loop {
        let is_frame = byte(at) == Some(b',');
        at += match byte(at) {
            Some(b',') => 11 + palette(at + 9),
            Some(b'!') => 2,
            _ => return Cow::Borrowed(gif),
        };
        loop {
            let end = byte(at).map(|length| at + 1 + usize::from(length));
            match end.filter(|&end| end <= gif.len()) {
                Some(end) if end > at + 1 => at = end,
                Some(_) if is_frame => return Cow::Borrowed(gif),
                Some(end) => {
                    at = end;
                    break;
                }
                None if is_frame && at <= gif.len() => {
                    return Cow::Owned([&gif[..at], END].concat());
                }
                None => return Cow::Borrowed(gif),
            }
        }
    }
}

fn is_ramp(palette: &[u8]) -> bool {
    let mut colours = (0..=u8::MAX).zip(palette.chunks_exact(3));
    colours.all(|(grey, colour)| colour == [grey; 3])
}

fn broken(reason: impl Display) -> String {
    format!("broken GIF ({reason}); replace the file with a whole copy")
}
