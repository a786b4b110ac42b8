//! JPEG, by libjpeg (the `mozjpeg` crate). One of the modules that may use `unsafe`: for libjpeg's
//! error manager.
//!
//! libjpeg reports a damaged scan as a *warning* and fills in the missing pixels. Here a warning is an
//! error, unless the picture is decoded leniently. Errors leave the C code by unwinding, and are caught
//! in [`decode_rgb`].
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Compress, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

use crate::data::pictures::exif::{self, Orientation};
use crate::data::pictures::rgb::{DecodeOptions, Rgb, rgb_of_cmyk};
use crate::data::resample::grow_for_pixels;

/// Limit on the scans of a progressive JPEG; encoders write about ten.
const MAX_SCANS: usize = 100;
/// Limit on the scans of a picture with the largest allowed number of pixels. Each scan takes time for
/// all pixels, even if it has few bytes. The limit bounds the time (measured: 0.7 s for 10 MB, 10 scans
/// of 39.7 megapixels) independently of the machine.
const MAX_FULL_SCANS: usize = 10;

/// The payload of unwinding: libjpeg's error message.
struct LibjpegError(String);

/// Decode a grey, colour or CMYK JPEG like Pillow's `convert("RGB")`: accurate integer DCT, smooth
/// chroma upsampling; CMYK inverted, as written by Adobe. Data after the end of the picture (videos of
/// phones, further pictures) is ignored. `buffer` is reused for the pixels. Returns also the
/// orientation by EXIF or XMP.
///
/// # Errors
/// What was found and expected, in one phrase.
pub fn decode_rgb(
    bytes: &[u8],
    options: &DecodeOptions,
    buffer: Vec<u8>,
) -> Result<(Rgb, Option<Orientation>), String> {
    let outline = Outline::of(bytes);
    let picture = &bytes[..outline.end];
    // No state outlives the closure, so unwinding leaves none inconsistent.
    let decode = || decode(picture, outline.scans, options, buffer);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    let rgb = decoded.unwrap_or_else(|payload| match payload.downcast::<LibjpegError>() {
        Ok(error) => Err(broken(error.0)),
        Err(bug) => resume_unwind(bug),
    })?;
    let exif = (!outline.exif.is_empty()).then_some(&outline.exif[..]);
    Ok((rgb, exif::orientation(exif, outline.xmp)))
}

fn broken(reason: impl Display) -> String {
    format!("broken JPEG ({reason}); replace the file with a whole copy")
}

/// The contents of a JPEG's markers.
struct Outline<'a> {
    /// Length of the picture: up to the end of image, or all of a file without one.
    end: usize,
    /// Number of scans.
    scans: usize,
    /// EXIF, from one or several segments.
    exif: Vec<u8>,
    /// XMP.
    xmp: Option<&'a [u8]>,
}

impl<'a> Outline<'a> {
    /// Find the markers like libjpeg: segments are skipped by their lengths, and other bytes between
    /// them and in scans are skipped up to the next marker. Every start of scan that libjpeg finds is
    /// found. Cost: O(bytes).
    fn of(bytes: &'a [u8]) -> Self {
        const START_OF_SCAN: u8 = 0xDA;
        const END_OF_IMAGE: u8 = 0xD9;
        const APP1: u8 = 0xE1;
        let mut outline = Outline {
            end: bytes.len(),
            scans: 0,
            exif: Vec::new(),
            xmp: None,
        };
        let mut at = 2;
        while let Some(found) = bytes
            .get(at..)
            .and_then(|rest| rest.iter().position(|&b| b == 0xFF))
        {
            // A marker's code may be preceded by fill bytes.
            at += found;
            let Some(fill) = bytes[at..].iter().position(|&b| b != 0xFF) else {
                break;
            };
            at += fill + 1;
            let code = bytes[at - 1];
            match code {
                END_OF_IMAGE => {
                    outline.end = at;
                    break;
                }
                // An escaped 0xFF of a scan, a restart, and markers without a length.
                0x00..=0xBF | 0xD0..=0xD8 => continue,
                _ => {}
            }
            outline.scans += usize::from(code == START_OF_SCAN);
            let Some(&[high, low]) = bytes.get(at..at + 2) else {
                break;
            };
            let next = at + usize::from(u16::from_be_bytes([high, low])).max(2);
            if code == APP1 && outline.scans == 0 {
                let data = &bytes[at + 2..next.min(bytes.len())];
                if let Some(exif) = data.strip_prefix(b"Exif\0\0") {
                    outline.exif.extend(exif);
                } else if let Some(xmp) = data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    outline.xmp = Some(xmp);
                }
            }
            at = next;
        }
        outline
    }
}

fn decode(
    bytes: &[u8],
    scans: usize,
    options: &DecodeOptions,
    mut buffer: Vec<u8>,
) -> Result<Rgb, String> {
    let header = Decompress::builder()
        .with_err(error_manager(options.lenient))
        .from_mem(bytes)
        .map_err(broken)?;
    let (width, height) = header.size();
    options.check_size(width, height)?;
    let work = MAX_FULL_SCANS * options.max_pixels;
    if scans > MAX_SCANS || scans * width * height > work {
        return Err(format!(
            "found {scans} scans of {width}x{height} pixels, expected at most {MAX_SCANS}, and {work} pixels in all of them"
        ));
    }
    let values = match header.color_space() {
        ColorSpace::JCS_GRAYSCALE | ColorSpace::JCS_YCbCr | ColorSpace::JCS_RGB => {
            let mut image = header.rgb().map_err(broken)?;
            grow_for_pixels(&mut buffer, width * height * 3);
            image.read_scanlines_into(&mut buffer).map_err(broken)?;
            image.finish().map_err(broken)?;
            buffer
        }
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let mut image = header.to_colorspace(ColorSpace::JCS_CMYK).map_err(broken)?;
            let mut values = vec![0; width * height * 4];
            image.read_scanlines_into(&mut values).map_err(broken)?;
            image.finish().map_err(broken)?;
            (values.chunks_exact(4))
                .flat_map(|p| rgb_of_cmyk([255 - p[0], 255 - p[1], 255 - p[2], 255 - p[3]]))
                .collect()
        }
        other => {
            return Err(format!(
                "found colour space {other:?}, expected grey, YCbCr, RGB or CMYK; convert the photograph to RGB"
            ));
        }
    };
    Ok(Rgb {
        width,
        height,
        values,
    })
}

/// Encode `height x width x 3` interleaved values as a JPEG of this quality (0 to 100).
///
/// # Panics
/// If there are fewer values.
pub fn encode_rgb(
    values: &[u8],
    width: usize,
    height: usize,
    quality: f32,
) -> std::io::Result<Vec<u8>> {
    assert_eq!(values.len(), width * height * 3, "a value per channel");
    let mut jpeg = Compress::new(ColorSpace::JCS_RGB);
    // mozjpeg's defaults optimise the file's length and take ten times as long.
    jpeg.set_fastest_defaults();
    jpeg.set_size(width, height);
    jpeg.set_quality(quality);
    let mut started = jpeg.start_compress(Vec::new())?;
    started.write_scanlines(values)?;
    started.finish()
}

/// Whether libjpeg was built with SIMD and the processor supports it; decoding then takes about half
/// the time, and gives the same pixels. On x86-64 the build uses SIMD if the assembler nasm is
/// installed.
pub fn has_simd() -> bool {
    unsafe extern "C" {
        fn jsimd_can_idct_islow() -> c_int;
    }
    // SAFETY: a function of every build of libjpeg. It queries the processor, and by `getenv` names of
    // instruction sets (`JSIMD_FORCESSE2`, ..), as every decoder does: code that changes the
    // environment must ensure that no other thread reads it.
    unsafe { jsimd_can_idct_islow() != 0 }
}

/// libjpeg's standard error manager without output; errors, and warnings unless `lenient`, unwind.
fn error_manager(lenient: bool) -> jpeg_error_mgr {
    // SAFETY: the struct is plain data with nullable function pointers, for which zero is
    // valid, and `jpeg_std_error` fills every field that libjpeg reads.
    let mut manager = unsafe {
        let mut manager = std::mem::zeroed();
        jpeg_std_error(&mut manager);
        manager
    };
    manager.error_exit = Some(unwind);
    manager.emit_message = Some(if lenient { ignore } else { unwind_on_warning });
    manager
}

extern "C-unwind" fn unwind(cinfo: &mut jpeg_common_struct) {
    // `resume_unwind` does not call the panic hook: nothing is printed.
    resume_unwind(Box::new(LibjpegError(message(cinfo))));
}

extern "C-unwind" fn unwind_on_warning(cinfo: &mut jpeg_common_struct, level: c_int) {
    // Levels from 0 up are trace messages.
    if level < 0 {
        unwind(cinfo);
    }
}

extern "C-unwind" fn ignore(_: &mut jpeg_common_struct, _: c_int) {}

fn message(cinfo: &mut jpeg_common_struct) -> String {
    /// `JMSG_LENGTH_MAX` of `jpeglib.h`; the binding's 80 is `JMSG_STR_PARM_MAX`.
    const LENGTH_MAX: usize = 200;
    type Bound = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]);
    type Declared = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, *mut u8);
    let mut text = [0u8; LENGTH_MAX];
    // SAFETY: `err` is the manager above, alive as long as the decoder. Its
    // `format_message` is libjpeg's own, `void (j_common_ptr, char *)`: the binding gives
    // the buffer a wrong size and constness, so the C type is restored before the call.
    unsafe {
        let Some(format) = cinfo.err.as_ref().and_then(|err| err.format_message) else {
            return "unknown error".to_string();
        };
        let format = std::mem::transmute::<Bound, Declared>(format);
        format(cinfo, text.as_mut_ptr());
    }
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Vec<u8> {
        let values: Vec<u8> = (0..24 * 16 * 3).map(|i| (i * 7) as u8).collect();
        encode_rgb(&values, 24, 16, 90.0).unwrap()
    }

    fn decode(bytes: &[u8], lenient: bool) -> Result<Vec<u8>, String> {
        let options = DecodeOptions {
            lenient,
            ..DecodeOptions::default()
        };
        decode_rgb(bytes, &options, Vec::new()).map(|(rgb, _)| rgb.values)
    }

    /// A buffer that is too short grows to the pixels and the resizer's padding.
    #[test]
    fn the_buffer_grows_to_the_exact_length() {
        let alone = picture();
        let buffer = vec![9; 24 * 16 * 3 - 1];
        let (rgb, _) = decode_rgb(&alone, &DecodeOptions::default(), buffer).unwrap();
        assert!(rgb.values == decode(&alone, false).unwrap());
        assert!(rgb.values.capacity() < 24 * 16 * 3 + 100);
    }

    #[test]
    fn bytes_after_the_end_of_image_are_ignored() {
        let alone = picture();
        let expected = decode(&alone, false).unwrap();
        let scans: Vec<u8> = b"ftypmp42\xFF\xDA\0\x08".repeat(10_000);
        for behind in [&scans[..], &alone, b"\0", b"\xFF\xD8\xFF\xDA"] {
            let found = decode(&[&alone, behind].concat(), false).unwrap();
            assert!(found == expected);
        }
    }

    /// A phone's preview in a segment, with scans and an end of image, is skipped by its length.
    #[test]
    fn an_embedded_preview_is_skipped() {
        let alone = picture();
        let expected = decode(&alone, false).unwrap();
        let preview = [&alone[..], &b"\xFF\xDA".repeat(200)].concat();
        let length = (preview.len() as u16 + 2).to_be_bytes();
        let with = [&alone[..2], b"\xFF\xE2", &length, &preview, &alone[2..]].concat();
        assert!(decode(&with, false).unwrap() == expected);
    }

    #[test]
    fn too_many_scans_are_rejected_before_decoding() {
        let alone = picture();
        let start = alone.windows(2).position(|w| w == b"\xFF\xDA").unwrap();
        let (header, scan) = (&alone[..start], &alone[start..alone.len() - 2]);
        let hidden: [&[u8]; 5] = [
            b"",
            b"\xFF\xFF\xFF",                  // fill bytes before the marker
            b"\xFF\x02\xFF\xFF",              // a marker without a meaning, and no length
            b"\xFF\xD3garbage\xFF\0\xFF\x01", // between segments
            b"\xFF\xE5\0\x04\xFF\xD9",        // an end of image inside a segment
        ];
        for before in hidden {
            let more = [before, scan].concat().repeat(100);
            let bomb = [header, scan, &more, b"\xFF\xD9"].concat();
            for lenient in [false, true] {
                let refusal = decode(&bomb, lenient).unwrap_err();
                assert!(refusal.contains("101 scans"), "{refusal}");
            }
        }
    }

    #[test]
    fn scans_are_limited_by_the_pixels_allowed() {
        let alone = picture();
        let start = alone.windows(2).position(|w| w == b"\xFF\xDA").unwrap();
        let (header, scan) = (&alone[..start], &alone[start..alone.len() - 2]);
        let twenty = [header, &scan.repeat(20), b"\xFF\xD9"].concat();
        let options = DecodeOptions {
            max_pixels: 24 * 16,
            lenient: true,
            ..DecodeOptions::default()
        };
        let refusal = decode_rgb(&twenty, &options, Vec::new()).unwrap_err();
        assert!(refusal.contains("20 scans of 24x16"), "{refusal}");
    }

    #[test]
    fn truncated_files_never_panic() {
        let alone = picture();
        for end in 0..alone.len() {
            assert!(decode(&alone[..end], false).is_err(), "{end}");
            let _ = decode(&alone[..end], true);
        }
    }
}
