//! The properties that hold for any bytes of any picture format.

use flowreg::data::pictures::{DecodeOptions, Kind, decode_rgb, kind};

/// Decodes strictly and leniently: pixels within the limits, or an error. Bytes of another format are
/// left to its target.
pub fn decode(of: Kind, bytes: &[u8]) {
    if kind(bytes) != Some(of) {
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
}
