//! Any bytes: as many values as the header promises, or a reason.
#![no_main]

use flowreg::data::png::decode_rgb;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(rgb) = decode_rgb(bytes) {
        assert_eq!(rgb.values.len(), 3 * rgb.width * rgb.height);
    }
});
