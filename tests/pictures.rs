//! Pictures of every format are decoded to the pixels of Pillow's `convert("RGB")`, without and with
//! `ImageOps.exif_transpose`. `tools/pillow_pictures.py` draws `tests/pictures`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flowreg::data::pictures::{DecodeOptions, FIRST_BYTES, Kind, Rgb, decode_rgb, kind};

/// Name and bytes of each picture.
fn pictures() -> Vec<(PathBuf, Vec<u8>)> {
    pictures_in("tests/pictures")
}

fn pictures_in(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension != "rgb"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn decode(bytes: &[u8], exif: bool) -> Result<Rgb, String> {
    let options = DecodeOptions {
        exif,
        ..DecodeOptions::default()
    };
    decode_rgb(bytes, &options)
}

#[test]
fn pixels_equal_those_of_pillow() {
    let mut seen = BTreeMap::new();
    for (path, bytes) in pictures() {
        let name = path.display();
        let plain = std::fs::read(format!("{name}.rgb")).unwrap();
        let obeyed = std::fs::read(format!("{name}.exif.rgb")).unwrap_or(plain.clone());
        for (exif, expected) in [(false, plain), (true, obeyed)] {
            let rgb = decode(&bytes, exif).unwrap_or_else(|reason| panic!("{name}: {reason}"));
            let sides = (rgb.width.min(rgb.height), rgb.width.max(rgb.height));
            assert_eq!(sides, (13, 17), "{name}");
            assert!(rgb.values == expected, "{name}, exif: {exif}");
        }
        *seen
            .entry(format!("{:?}", kind(&bytes).unwrap()))
            .or_insert(0) += 1;
    }
    let expected = [
        ("Bmp", 12),
        ("Gif", 6),
        ("Jpeg", 6),
        ("Png", 21),
        ("Tiff", 23),
        ("Webp", 6),
    ];
    assert_eq!(
        seen,
        expected
            .map(|(kind, count)| (kind.to_string(), count))
            .into()
    );
}

#[test]
fn the_format_is_detected_from_the_first_bytes() {
    for (path, bytes) in pictures() {
        let expected = match path.extension().unwrap().to_str().unwrap() {
            "jpg" => Kind::Jpeg,
            "png" => Kind::Png,
            "gif" => Kind::Gif,
            "bmp" => Kind::Bmp,
            "webp" => Kind::Webp,
            "tif" => Kind::Tiff,
            other => panic!("{other}"),
        };
        assert_eq!(kind(&bytes[..FIRST_BYTES]), Some(expected));
    }
    let texts: [&[u8]; 6] = [
        b"",
        b"BM",
        b"BMW is a car, no picture",
        b"GIF",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"II*",
    ];
    for text in texts {
        assert_eq!(kind(text), None);
        let refusal = decode(text, false).unwrap_err();
        assert!(refusal.contains("expected"), "{refusal}");
    }
}

/// A truncated picture is refused, unless the rest has no pixels.
#[test]
fn a_truncated_picture_is_refused_or_complete() {
    for (path, bytes) in pictures() {
        let whole = decode(&bytes, false).unwrap();
        for end in 0..bytes.len() {
            if let Ok(rgb) = decode(&bytes[..end], false) {
                assert!(
                    rgb.values == whole.values,
                    "{} cut at {end}",
                    path.display()
                );
            }
        }
    }
}

/// The error of a picture advises `--lenient` if and only if that accepts it.
#[test]
fn lenient_is_advised_only_where_it_helps() {
    let lenient = DecodeOptions {
        lenient: true,
        ..DecodeOptions::default()
    };
    let mut advised = BTreeMap::new();
    for (path, bytes) in pictures() {
        for end in [bytes.len() - 3, bytes.len() - 12, bytes.len() / 2, 20] {
            let Err(refusal) = decode(&bytes[..end], false) else {
                continue;
            };
            let helps = decode_rgb(&bytes[..end], &lenient).is_ok();
            assert_eq!(refusal.contains("`lenient`"), helps, "{refusal}");
            if helps {
                let kind = path.extension().unwrap().to_str().unwrap().to_string();
                *advised.entry(kind).or_insert(0) += 1;
            }
        }
    }
    let kinds: Vec<&str> = advised.keys().map(String::as_str).collect();
    // These TIFFs have their directory at the end; tests/pictures/cut has others.
    assert_eq!(kinds, ["bmp", "gif", "jpg", "png"]);
}

/// With `--lenient` a truncated picture has the pixels of Pillow's ImageFile.LOAD_TRUNCATED_IMAGES;
/// without it is refused.
#[test]
fn truncated_pictures_equal_those_of_pillow() {
    let lenient = DecodeOptions {
        lenient: true,
        ..DecodeOptions::default()
    };
    let mut seen = 0;
    for (path, bytes) in pictures_in("tests/pictures/cut") {
        let name = path.display();
        let refusal = decode(&bytes, false).unwrap_err();
        assert!(refusal.ends_with("`lenient`"), "{name}: {refusal}");
        let rgb = decode_rgb(&bytes, &lenient).unwrap();
        assert!(
            rgb.values == std::fs::read(format!("{name}.rgb")).unwrap(),
            "{name}"
        );
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// Unsupported kinds of TIFF are refused by name.
#[test]
fn unsupported_tiffs_are_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/rgb.tif");
    let good = std::fs::read(path).unwrap();
    for (tag, value, said) in [
        (
            262u16,
            6,
            "found a TIFF with YCbCr colours, 3 samples of 8 bits, expected",
        ),
        (262, 8, "Lab colours"),
        (259, 4, "compression CCITT (fax)"),
        (259, 7, "compression JPEG"),
        (259, 50_000, "compression Zstandard"),
        (259, 9, "compression 9"),
    ] {
        let entry = [tag.to_le_bytes(), [3, 0], [1, 0], [0, 0]].concat();
        let at = good.windows(8).position(|window| window == entry).unwrap();
        let mut bytes = good.clone();
        bytes[at + 8..][..2].copy_from_slice(&u16::to_le_bytes(value));
        let refusal = decode(&bytes, false).unwrap_err();
        assert!(refusal.contains(said), "{refusal}");
        assert!(refusal.ends_with("save it as PNG"), "{refusal}");
        assert!(!refusal.contains("[]"), "{refusal}");
    }
}

/// The limits apply to every format; the error names the option that raises the limit, and it does.
#[test]
fn limits_are_enforced_and_can_be_raised() {
    for (path, bytes) in pictures() {
        let name = path.display();
        let low = DecodeOptions {
            max_pixels: 220,
            ..DecodeOptions::default()
        };
        let refusal = decode_rgb(&bytes, &low).unwrap_err();
        assert!(
            refusal.ends_with("`max_pixels` 221 accepts it"),
            "{name}: {refusal}"
        );
        let narrow = DecodeOptions {
            max_side: 16,
            ..DecodeOptions::default()
        };
        let refusal = decode_rgb(&bytes, &narrow).unwrap_err();
        assert!(
            refusal.ends_with("`max_side` 17 accepts it"),
            "{name}: {refusal}"
        );
        let enough = DecodeOptions {
            max_pixels: 221,
            max_side: 17,
            ..DecodeOptions::default()
        };
        assert!(decode_rgb(&bytes, &enough).is_ok(), "{name}");
    }
}

/// A picture with random changed bytes gives pixels of the size in its header, or an error; never a
/// panic.
#[test]
fn changed_bytes_give_pixels_or_an_error() {
    let options = DecodeOptions {
        max_pixels: 1 << 16,
        ..DecodeOptions::default()
    };
    let mut random = rand_mt::Mt::new(16);
    for (path, bytes) in pictures() {
        for _ in 0..300 {
            let mut changed = bytes.clone();
            for _ in 0..1 + random.next_u32() % 4 {
                let at = random.next_u32() as usize % changed.len();
                changed[at] = random.next_u32() as u8;
            }
            for lenient in [false, true] {
                let options = DecodeOptions { lenient, ..options };
                match decode_rgb(&changed, &options) {
                    Ok(rgb) => assert_eq!(rgb.values.len(), 3 * rgb.width * rgb.height),
                    Err(reason) => assert!(!reason.is_empty(), "{}", path.display()),
                }
            }
        }
    }
}
