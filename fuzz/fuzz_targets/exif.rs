//! Any bytes as EXIF and as XMP: an orientation or none.
#![no_main]

use flowreg::data::pictures::exif::orientation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = orientation(Some(bytes), None);
    let _ = orientation(None, Some(bytes));
});
