//! Photographs of every kind become the pixels that Pillow's `convert("RGB")` gives:
//! `tests/pictures`, drawn by `tools/pillow_pictures.py`.

use std::path::Path;

use flowreg::data::jpeg::{self, Warnings};
use flowreg::data::png;

#[test]
fn pixels_are_pillows() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let decoded = match path.extension().and_then(|extension| extension.to_str()) {
            Some("jpg") => jpeg::decode_rgb(&bytes, Warnings::Refuse),
            Some("png") => png::decode_rgb(&bytes),
            _ => continue,
        };
        let rgb = decoded.unwrap();
        assert_eq!((rgb.width, rgb.height), (17, 13), "{}", path.display());
        let expected = std::fs::read(format!("{}.rgb", path.display())).unwrap();
        assert!(rgb.values == expected, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 12);
}
