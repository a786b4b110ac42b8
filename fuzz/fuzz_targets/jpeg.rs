//! Any bytes: pixels or a reason, strictly and leniently, within the bounds.
#![no_main]

use flowreg::data::jpeg::{MAX_PIXELS, Warnings, decode_rgb};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let strict = decode_rgb(bytes, Warnings::Refuse);
    let lenient = decode_rgb(bytes, Warnings::Accept);
    if let Ok(image) = &lenient {
        assert!(image.width * image.height <= MAX_PIXELS);
        assert_eq!(image.values.len(), 3 * image.width * image.height);
    }
    if let Ok(image) = strict {
        assert_eq!(image.values, lenient.expect("what is strictly right").values);
    }
});
