//! Any bytes: pixels or a reason, strictly and leniently, within the limits.
#![no_main]

use flowreg::data::pictures::{DecodeOptions, Kind, decode_rgb, kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if kind(bytes) != Some(Kind::Bmp) {
        return;
    }
    let strict = DecodeOptions {
        exif: true,
        max_pixels: 1 << 20,
        ..DecodeOptions::default()
    };
    let lenient = DecodeOptions {
        lenient: true,
        ..strict
    };
    let taken = decode_rgb(bytes, &lenient);
    if let Ok(image) = &taken {
        assert!(image.width * image.height <= strict.max_pixels);
        assert_eq!(image.values.len(), 3 * image.width * image.height);
    }
    if let Ok(image) = decode_rgb(bytes, &strict) {
        assert_eq!(image.values, taken.expect("what is strictly right").values);
    }
});
