//! The orientation of a picture by EXIF or XMP, like Pillow's `ImageOps.exif_transpose`.

use crate::data::pictures::rgb::Rgb;

/// The transformation from the stored pixels to the upright picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// 2: mirror left and right.
    MirrorX = 2,
    /// 3: turn by 180 degrees.
    Turn180,
    /// 4: mirror top and bottom.
    MirrorY,
    /// 5: mirror at the diagonal from the top left.
    Transpose,
    /// 6: turn by 90 degrees clockwise.
    Turn90,
    /// 7: mirror at the diagonal from the top right.
    Transverse,
    /// 8: turn by 90 degrees counter-clockwise.
    Turn270,
}

use Orientation::*;

impl Orientation {
    /// The orientation of this EXIF number; `None` for 1 (as stored) and undefined numbers.
    pub fn of(number: f64) -> Option<Orientation> {
        [
            MirrorX, Turn180, MirrorY, Transpose, Turn90, Transverse, Turn270,
        ]
        .into_iter()
        .find(|&orientation| f64::from(orientation as u8) == number)
    }

    /// Transform a picture. Cost: O(pixels), and memory for a second picture.
    pub fn apply(self, picture: Rgb) -> Rgb {
        let (width, height) = (picture.width, picture.height);
        let across = matches!(self, Transpose | Turn90 | Transverse | Turn270);
        let (new_width, new_height) = if across {
            (height, width)
        } else {
            (width, height)
        };
        let mut values = Vec::with_capacity(picture.values.len());
        for y in 0..new_height {
            for x in 0..new_width {
                let (from_x, from_y) = match self {
                    MirrorX => (width - 1 - x, y),
                    Turn180 => (width - 1 - x, height - 1 - y),
                    MirrorY => (x, height - 1 - y),
                    Transpose => (y, x),
                    Turn90 => (y, height - 1 - x),
                    Transverse => (width - 1 - y, height - 1 - x),
                    Turn270 => (width - 1 - y, x),
                };
                values.extend_from_slice(&picture.values[3 * (from_y * width + from_x)..][..3]);
            }
        }
        Rgb {
            width: new_width,
            height: new_height,
            values,
        }
    }
}

/// The orientation by EXIF (a TIFF header and its first directory, with or without a preceding
/// `Exif\0\0`), else by an XMP packet.
///
/// Damaged EXIF or XMP is no orientation and no error. EXIF without a TIFF header hides XMP.
pub fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    let mut exif = exif.unwrap_or_default();
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let headers = [b"II\x2A\0", b"MM\0\x2A", b"II\0\x2A", b"MM\x2A\0"];
    let is_tiff = exif.len() >= 8 && headers.iter().any(|&header| exif.starts_with(header));
    if exif.is_empty() || is_tiff {
        of_tiff(exif, xmp)
    } else {
        None
    }
}

/// The orientation in the first directory of a TIFF, else by an XMP packet.
pub(super) fn of_tiff(tiff: &[u8], xmp: Option<&[u8]>) -> Option<Orientation> {
    const ORIENTATION: u16 = 0x0112;
    let number = field(tiff, ORIENTATION).map(|field| field.number);
    Orientation::of(number.or_else(|| xmp.and_then(in_xmp))?)
}

/// A field in the first directory of a TIFF.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// TIFF's number of its type.
    pub kind: u16,
    /// Offset of its data.
    pub at: usize,
    /// Its first number; NaN for bytes or text.
    pub number: f64,
}

/// TIFF's numbers of types.
pub(super) const SHORT: u16 = 3;
const LONG: u16 = 4;

/// The first field with a tag in the first directory of a TIFF or BigTIFF. Like in Pillow, a field of
/// an unknown type, without data or with more data than the file is skipped, and other data outside of
/// the file ends the directory.
pub(super) fn field(tiff: &[u8], wanted: u16) -> Option<Field> {
    let (big_endian, wide) = match tiff.get(..4)? {
        b"MM\0\x2A" | b"MM\x2A\0" => (true, false),
        b"II\x2A\0" | b"II\0\x2A" => (false, false),
        b"MM\0\x2B" => (true, true),
        b"II\x2B\0" => (false, true),
        _ => return None,
    };
    let number = |at: usize, len: usize| {
        let bytes = tiff.get(at..at.checked_add(len)?)?.iter();
        let append = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if big_endian {
            bytes.fold(0, append)
        } else {
            bytes.rev().fold(0, append)
        })
    };
    // Lengths of an offset and of the number of entries, in bytes.
    let (word, counter) = if wide { (8, 8) } else { (4, 2) };
    let directory = number(if wide { 8 } else { 4 }, word)? as usize;
    let first = directory.checked_add(counter)?;
    let mut beyond = 0u64;
    for entry in 0..number(directory, counter)? as usize {
        let at = (4 + 2 * word).checked_mul(entry)?.checked_add(first)?;
        let (tag, kind) = (number(at, 2)? as u16, number(at + 2, 2)? as u16);
        let (count, offset) = (number(at + 4, word)?, number(at + 4 + word, word)?);
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            SHORT | 8 => 2,
            LONG | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => continue,
        };
        let length = count.saturating_mul(size as u64);
        let mut data = at + 4 + word;
        if length > word as u64 {
            beyond = beyond.saturating_add(length);
            if beyond > tiff.len() as u64 {
                continue;
            }
            data = offset as usize;
            tiff.get(data..data.checked_add(length as usize)?)?;
        }
        if tag != wanted || count == 0 {
            continue;
        }
        let bits = number(data, size)?;
        let half = |at| number(at, 4).map(|bits| bits as u32);
        let number = match kind {
            SHORT | LONG | 13 | 16 => bits as f64,
            6 => f64::from(bits as i8),
            8 => f64::from(bits as i16),
            9 => f64::from(bits as i32),
            11 => f64::from(f32::from_bits(bits as u32)),
            12 => f64::from_bits(bits),
            5 => f64::from(half(data)?) / f64::from(half(data + 4)?),
            10 => f64::from(half(data)? as i32) / f64::from(half(data + 4)? as i32),
            _ => f64::NAN,
        };
        return Some(Field {
            kind,
            at: data,
            number,
        });
    }
    None
}

/// The number in the first `tiff:Orientation="6"`, or element of that name.
fn in_xmp(xmp: &[u8]) -> Option<f64> {
    const NAME: &[u8] = b"tiff:Orientation";
    (xmp.windows(NAME.len() + 3)).find_map(|window| match window.strip_prefix(NAME)? {
        [b'=', b'"', digit @ b'0'..=b'9'] => Some(f64::from(digit - b'0')),
        [b'>', digit @ b'0'..=b'9', _] => Some(f64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// EXIF with one entry.
    fn exif(big_endian: bool, kind: u16, count: u32, value: u32) -> Vec<u8> {
        let short = |v: u16| {
            if big_endian {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let long = |v: u32| {
            if big_endian {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let mut bytes = if big_endian { b"MM" } else { b"II" }.to_vec();
        bytes.extend(short(42));
        bytes.extend(long(8));
        bytes.extend(short(1));
        bytes.extend(short(0x0112));
        bytes.extend(short(kind));
        bytes.extend(long(count));
        match kind {
            3 | 8 => {
                bytes.extend(short(value as u16));
                bytes.extend(short(3));
            }
            1 | 6 | 7 => bytes.extend([value as u8, 3, 0, 0]),
            11 => bytes.extend(long((value as f32).to_bits())),
            5 | 10 => {
                bytes.extend(long(26));
                bytes.extend(long(0));
                bytes.extend(long(2 * value));
                bytes.extend(long(2));
                return bytes;
            }
            _ => bytes.extend(long(value)),
        }
        bytes.extend(long(0));
        bytes
    }

    /// For each type the result is Pillow's: the first number, whole or not; bytes and text are no
    /// number, but hide that in XMP. Damaged fields are skipped.
    #[test]
    fn numbers_of_all_types_are_read_like_pillow() {
        let xmp = br#"<rdf tiff:Orientation="8"/>"#;
        let of = |exif: &[u8]| orientation(Some(exif), Some(xmp));
        for big_endian in [false, true] {
            for kind in [3, 4, 5, 6, 8, 9, 10, 11, 13] {
                let bytes = exif(big_endian, kind, 1, 6);
                assert_eq!(of(&bytes), Some(Turn90), "{kind}");
                for number in [0, 1, 9] {
                    assert_eq!(of(&exif(big_endian, kind, 1, number)), None, "{kind}");
                }
            }
            assert_eq!(of(&exif(big_endian, 3, 2, 6)), Some(Turn90));
            assert_eq!(of(&exif(big_endian, 6, 4, 6)), Some(Turn90));
            for kind in [1, 2, 7] {
                assert_eq!(of(&exif(big_endian, kind, 1, 6)), None, "{kind}");
            }
            // A truncated header.
            assert_eq!(of(&exif(big_endian, 3, 1, 6)[..7]), None);
            assert_eq!(of(b"Exif\0\0"), Some(Turn270));
            // An unknown type, no values, and values outside of the data.
            for (kind, count, value) in [(0, 1, 6), (14, 1, 6), (3, 0, 6), (4, 8, 6), (4, 2, 23)] {
                let bytes = exif(big_endian, kind, count, value);
                assert_eq!(of(&bytes), Some(Turn270), "{kind} x {count}");
            }
            // The first of two fields with the same tag.
            let mut twice = exif(big_endian, 3, 1, 6);
            let entry = exif(big_endian, 3, 1, 3)[10..22].to_vec();
            twice.splice(22..22, entry);
            twice[8..10].copy_from_slice(if big_endian { &[0, 2] } else { &[2, 0] });
            assert_eq!(of(&twice), Some(Turn90));
        }
    }

    #[test]
    fn exif_of_both_byte_orders_is_read() {
        for big_endian in [false, true] {
            for kind in [3, 4] {
                let bytes = exif(big_endian, kind, 1, 6);
                assert_eq!(orientation(Some(&bytes), None), Some(Turn90));
                let named = [b"Exif\0\0", &bytes[..]].concat();
                assert_eq!(orientation(Some(&named), None), Some(Turn90));
            }
            assert_eq!(orientation(Some(&exif(big_endian, 1, 1, 6)), None), None);
            assert_eq!(orientation(Some(&exif(big_endian, 3, 1, 9)), None), None);
        }
    }

    #[test]
    fn xmp_is_used_without_exif_orientation() {
        let attribute = br#"<rdf tiff:Orientation="8"/>"#;
        let element = b"<tiff:Orientation>3</tiff:Orientation>";
        assert_eq!(orientation(None, Some(attribute)), Some(Turn270));
        assert_eq!(orientation(None, Some(element)), Some(Turn180));
        let one = exif(false, 3, 1, 1);
        assert_eq!(orientation(Some(&one), Some(attribute)), None);
        assert_eq!(orientation(None, Some(b"tiff:Orientation='3'")), None);
    }

    #[test]
    fn a_clockwise_turn_makes_the_left_column_the_top_row() {
        let picture = Rgb {
            width: 2,
            height: 1,
            values: vec![1, 1, 1, 2, 2, 2],
        };
        let turned = Turn90.apply(picture);
        assert_eq!((turned.width, turned.height), (1, 2));
        assert_eq!(turned.values, [1, 1, 1, 2, 2, 2]);
    }

    proptest! {
        #[test]
        fn an_orientation_and_its_inverse_cancel(
            width in 1usize..9, height in 1usize..9, number in 2u32..9, seed in any::<u8>(),
        ) {
            let values: Vec<u8> = (0..width * height * 3)
                .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
                .collect();
            let picture = Rgb { width, height, values: values.clone() };
            let there = Orientation::of(number.into()).unwrap();
            let back = match there {
                Turn90 => Turn270,
                Turn270 => Turn90,
                same => same,
            };
            let again = back.apply(there.apply(picture));
            prop_assert_eq!((again.width, again.height), (width, height));
            prop_assert_eq!(again.values, values);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut exif = b"II\x2A\0\x08\0\0\0".to_vec();
            exif.extend(&bytes);
            let _ = orientation(Some(&exif), Some(&bytes));
            let _ = orientation(Some(&bytes), None);
        }
    }
}
