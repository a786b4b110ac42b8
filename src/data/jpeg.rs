//! The door to libjpeg (the `mozjpeg` crate): one of the rooms where `unsafe` may live,
//! for an error manager of our own.
//!
//! libjpeg calls a broken scan a *warning* and invents the missing pixels. Here a
//! warning is an error, unless the caller accepts it. Errors leave the C code by unwinding and are caught in
//! [`decode_rgb`]; nothing else of this crate sees them.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Compress, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

/// Longest side accepted, in pixels.
pub const MAX_SIDE: usize = 8192;
/// Most pixels accepted.
pub const MAX_PIXELS: usize = 40_000_000;

/// Most scans of a progressive photograph; encoders write about ten.
const MAX_SCANS: usize = 100;
/// Most pixels times scans: every scan goes over all pixels, however few bytes it has. This
/// bounds the time of a file (measured: 0.7 s for 10 MB, 10 scans of 39.7 megapixels) by what
/// is in it, not by a clock, so that the same file is refused or accepted on every machine.
const MAX_WORK: usize = 10 * MAX_PIXELS;

/// What to do where libjpeg warns: it does where data is broken, and then invents pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warnings {
    /// Refuse the photograph.
    Refuse,
    /// Take what libjpeg makes of it.
    Accept,
}

/// A decoded photograph: `height x width x 3`, interleaved.
#[derive(Debug)]
pub struct Rgb {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` values.
    pub values: Vec<u8>,
}

/// What libjpeg said, carried by the unwinding.
struct LibjpegSays(String);

/// Decode a grey, colour or CMYK JPEG as Pillow's `convert("RGB")` does: accurate integer DCT,
/// smooth chroma upsampling; CMYK inverted, as Adobe writes it. EXIF's orientation is not
/// obeyed. The reason for a refusal comes back as one phrase.
pub fn decode_rgb(bytes: &[u8], warnings: Warnings) -> Result<Rgb, String> {
    if !bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return Err(
            "found no JPEG or PNG signature, expected a JPEG or PNG photograph".to_string(),
        );
    }
    // No state outlives the closure, so unwinding cannot leave any half-changed.
    catch_unwind(AssertUnwindSafe(|| decode(bytes, warnings))).unwrap_or_else(|payload| {
        match payload.downcast::<LibjpegSays>() {
            Ok(says) => Err(format!(
                "broken JPEG ({}); replace the file with a whole copy",
                says.0
            )),
            Err(bug) => resume_unwind(bug),
        }
    })
}

fn decode(bytes: &[u8], warnings: Warnings) -> Result<Rgb, String> {
    let fail = |error: std::io::Error| format!("broken JPEG ({error})");
    let header = Decompress::builder()
        .with_err(error_manager(warnings))
        .from_mem(bytes)
        .map_err(fail)?;
    let (width, height) = header.size();
    // Before anything of that size is allocated.
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(format!(
            "found {width}x{height} pixels, expected at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
        ));
    }
    let scans = bytes
        .windows(2)
        .filter(|marker| marker == b"\xFF\xDA")
        .count();
    if scans > MAX_SCANS || scans * width * height > MAX_WORK {
        return Err(format!(
            "found {scans} scans of {width}x{height} pixels, expected at most {MAX_SCANS}, and {MAX_WORK} pixels in all of them"
        ));
    }
    let values = match header.color_space() {
        ColorSpace::JCS_GRAYSCALE | ColorSpace::JCS_YCbCr | ColorSpace::JCS_RGB => {
            let mut image = header.rgb().map_err(fail)?;
            let mut values = vec![0; width * height * 3];
            image.read_scanlines_into(&mut values).map_err(fail)?;
            image.finish().map_err(fail)?;
            values
        }
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let mut image = header.to_colorspace(ColorSpace::JCS_CMYK).map_err(fail)?;
            let mut values = vec![0; width * height * 4];
            image.read_scanlines_into(&mut values).map_err(fail)?;
            image.finish().map_err(fail)?;
            rgb_of_inverted_cmyk(&values)
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

/// Pillow's CMYK to RGB, of values that count ink from 255 down: K - (255 - C)·K/255, rounded.
fn rgb_of_inverted_cmyk(values: &[u8]) -> Vec<u8> {
    let pixels = values.chunks_exact(4);
    let rgb = pixels.flat_map(|pixel| {
        let paper = u32::from(pixel[3]);
        [0, 1, 2].map(|channel| {
            let ink = u32::from(255 - pixel[channel]) * paper + 128;
            (paper - (((ink >> 8) + ink) >> 8)) as u8
        })
    });
    rgb.collect()
}

/// Encode `height x width x 3` interleaved values as a JPEG of this quality (0 to 100).
///
/// # Panics
/// If there are not so many values.
pub fn encode_rgb(
    values: &[u8],
    width: usize,
    height: usize,
    quality: f32,
) -> std::io::Result<Vec<u8>> {
    assert_eq!(values.len(), width * height * 3, "a value a channel");
    let mut jpeg = Compress::new(ColorSpace::JCS_RGB);
    // mozjpeg's own defaults search for smaller files and take ten times as long.
    jpeg.set_fastest_defaults();
    jpeg.set_size(width, height);
    jpeg.set_quality(quality);
    let mut started = jpeg.start_compress(Vec::new())?;
    started.write_scanlines(values)?;
    started.finish()
}

/// Whether libjpeg was built with SIMD, and this processor has it: decoding then takes about half
/// the time. On x86-64 the build needs the assembler nasm for it, and does without where there is
/// none; the pixels are the same.
pub fn has_simd() -> bool {
    unsafe extern "C" {
        fn jsimd_can_idct_islow() -> c_int;
    }
    // SAFETY: libjpeg's own, in every build of it: it looks at the processor and nothing else.
    unsafe { jsimd_can_idct_islow() != 0 }
}

/// libjpeg's standard manager, silent, with fatal errors turned into unwinding, and warnings
/// too if they are to be refused.
fn error_manager(warnings: Warnings) -> jpeg_error_mgr {
    // SAFETY: the struct is plain data with nullable function pointers, for which zero is
    // valid, and `jpeg_std_error` fills every field that libjpeg reads.
    let mut manager = unsafe {
        let mut manager = std::mem::zeroed();
        jpeg_std_error(&mut manager);
        manager
    };
    manager.error_exit = Some(unwind);
    manager.emit_message = Some(match warnings {
        Warnings::Refuse => unwind_on_warning,
        Warnings::Accept => ignore,
    });
    manager
}

extern "C-unwind" fn unwind(cinfo: &mut jpeg_common_struct) {
    // `resume_unwind` does not call the panic hook: nothing is printed.
    resume_unwind(Box::new(LibjpegSays(message(cinfo))));
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
