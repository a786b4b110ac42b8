//! The orientation of a picture, out of EXIF or XMP: as Pillow's `ImageOps.exif_transpose`.

use std::collections::HashSet;

use super::Rgb;

/// How the stored pixels become the picture.
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
    /// The orientation of this number; `None` for 1 (as stored) and numbers without meaning.
    pub fn of(number: u32) -> Option<Orientation> {
        [
            MirrorX, Turn180, MirrorY, Transpose, Turn90, Transverse, Turn270,
        ]
        .into_iter()
        .find(|&orientation| orientation as u32 == number)
    }

    /// Move the pixels. Cost: O(pixels), and a second picture in memory.
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

/// The orientation by EXIF (a TIFF header and its first directory, with or without `Exif\0\0`
/// before it), or else by an XMP packet.
///
/// Whatever is no such thing tells of no orientation: EXIF is never a reason to refuse a picture.
pub fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    let number = exif.and_then(in_exif).or_else(|| xmp.and_then(in_xmp))?;
    Orientation::of(number)
}

/// The first entry of the tag that has a value, whole number or not, is the one that counts; of
/// several numbers in it the first.
fn in_exif(mut exif: &[u8]) -> Option<u32> {
    const ORIENTATION: u16 = 0x0112;
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let tiff = Tiff::new(exif)?;
    let (mut seen, mut total) = (HashSet::new(), 0);
    for entry in tiff.entries()? {
        let bytes = size_of(entry.kind).map(|size| size * u64::from(entry.count));
        let Some(bytes) = bytes.filter(|&bytes| bytes > 0 && !seen.contains(&entry.tag)) else {
            continue;
        };
        let mut at = entry.value;
        if bytes > 4 {
            // More values than the bytes can hold are passed over; one that is not all there ends
            // the directory.
            total += bytes;
            if total > exif.len() as u64 {
                continue;
            }
            at = tiff.number(at, 4)? as usize;
            exif.get(at..at.checked_add(bytes as usize)?)?;
        }
        if entry.tag == ORIENTATION {
            return match entry.kind {
                // Signed ones, too: no orientation is negative, or larger than a byte.
                SBYTE => tiff.number(at, 1),
                SHORT | SSHORT => tiff.number(at, 2),
                LONG | SLONG | IFD => tiff.number(at, 4),
                _ => None,
            };
        }
        seen.insert(entry.tag);
    }
    None
}

const SHORT: u16 = 3;
const LONG: u16 = 4;
const SBYTE: u16 = 6;
const SSHORT: u16 = 8;
const SLONG: u16 = 9;
const IFD: u16 = 13;

/// Bytes of a value of a type.
fn size_of(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | SBYTE | 7 => Some(1),
        SHORT | SSHORT => Some(2),
        LONG | SLONG | 11 | IFD => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

/// Where the first directory of a TIFF holds one whole number of 16 or 32 bits under a tag, and
/// the number; of a tag twice there, the last one counts.
pub(super) fn whole_number(tiff: &[u8], wanted: u16) -> Option<(usize, u32)> {
    let tiff = Tiff::new(tiff)?;
    let number = |entry: Entry| {
        let bytes = match entry.kind {
            SHORT => 2,
            LONG => 4,
            _ => return None,
        };
        Some((entry.value, tiff.number(entry.value, bytes)?))
    };
    let entries = tiff.entries()?;
    let single = entries.filter(|entry| entry.tag == wanted && entry.count == 1);
    single.filter_map(number).last()
}

/// The bytes of a TIFF.
struct Tiff<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

/// An entry of a directory; `value` is the place of its value, or of the place of that.
struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    value: usize,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Tiff<'a>> {
        let big_endian = match bytes.get(..4)? {
            b"MM\0\x2A" => true,
            b"II\x2A\0" => false,
            _ => return None,
        };
        Some(Tiff { bytes, big_endian })
    }

    /// The number in so many bytes.
    fn number(&self, at: usize, len: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(len)?)?.iter();
        let append = |number: u32, &byte: &u8| number << 8 | u32::from(byte);
        Some(if self.big_endian {
            bytes.fold(0, append)
        } else {
            bytes.rev().fold(0, append)
        })
    }

    /// The entries of the first directory; what is cut short ends it.
    fn entries(&self) -> Option<impl Iterator<Item = Entry>> {
        let directory = self.number(4, 4)? as usize;
        let entries = self.number(directory, 2)? as usize;
        let entry = move |entry: usize| {
            let at = directory + 2 + 12 * entry;
            self.number(at + 8, 4)?;
            Some(Entry {
                tag: self.number(at, 2)? as u16,
                kind: self.number(at + 2, 2)? as u16,
                count: self.number(at + 4, 4)?,
                value: at + 8,
            })
        };
        Some((0..entries).map_while(entry))
    }
}

/// `tiff:Orientation="6"`, or the element of that name: the first one counts.
fn in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    (xmp.windows(NAME.len() + 3)).find_map(|window| match window.strip_prefix(NAME)? {
        [b'=', b'"', digit @ b'0'..=b'9'] => Some(u32::from(digit - b'0')),
        [b'>', digit @ b'0'..=b'9', _] => Some(u32::from(digit - b'0')),
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
            3 => {
                bytes.extend(short(value as u16));
                bytes.extend([0, 0]);
            }
            _ => bytes.extend(long(value)),
        }
        bytes.extend(long(0));
        bytes
    }

    #[test]
    fn exif_of_either_byte_order_is_read() {
        for big_endian in [false, true] {
            for kind in [3, 4] {
                let bytes = exif(big_endian, kind, 1, 6);
                assert_eq!(orientation(Some(&bytes), None), Some(Turn90));
                let named = [b"Exif\0\0", &bytes[..]].concat();
                assert_eq!(orientation(Some(&named), None), Some(Turn90));
                assert_eq!(orientation(Some(&exif(big_endian, kind, 0, 6)), None), None);
            }
            assert_eq!(orientation(Some(&exif(big_endian, 1, 1, 6)), None), None);
            assert_eq!(orientation(Some(&exif(big_endian, 3, 1, 9)), None), None);
        }
    }

    /// As Pillow 13 reads each of them.
    #[test]
    fn exif_of_awkward_entries_is_read_as_pillow_reads_it() {
        let of_tags = |entries: &[(u16, u16, u32, [u8; 4])]| {
            let mut bytes = b"II\x2A\0\x08\0\0\0".to_vec();
            bytes.extend((entries.len() as u16).to_le_bytes());
            for (tag, kind, count, value) in entries {
                bytes.extend(tag.to_le_bytes());
                bytes.extend(kind.to_le_bytes());
                bytes.extend(count.to_le_bytes());
                bytes.extend(value);
            }
            bytes.extend([0; 4]);
            bytes.extend([6, 0, 0, 0, 0, 0, 0, 0]);
            orientation(Some(&bytes), None)
        };
        let of = |entries: &[(u16, u32, [u8; 4])]| {
            let entries = entries.iter();
            let entries: Vec<_> = entries.map(|&(k, n, v)| (0x0112, k, n, v)).collect();
            of_tags(&entries)
        };
        let six = [6, 0, 0, 0];
        let one = [1, 0, 0, 0];
        for kind in [3, 4, 6, 8, 9, 13] {
            assert_eq!(of(&[(kind, 1, six)]), Some(Turn90), "{kind}");
        }
        for kind in [1, 2, 5, 7, 99] {
            assert_eq!(of(&[(kind, 1, six)]), None, "{kind}");
        }
        // Several numbers, in place or elsewhere; none.
        assert_eq!(of(&[(3, 2, [6, 0, 1, 0])]), Some(Turn90));
        assert_eq!(of(&[(3, 2, [1, 0, 6, 0])]), None);
        assert_eq!(of(&[(3, 3, [26, 0, 0, 0])]), Some(Turn90));
        assert_eq!(of(&[(3, 0, six)]), None);
        // Twice: the first that has a value.
        assert_eq!(of(&[(3, 1, one), (3, 1, six)]), None);
        assert_eq!(of(&[(3, 1, six), (3, 1, one)]), Some(Turn90));
        assert_eq!(of(&[(3, 0, one), (3, 1, six)]), Some(Turn90));
        assert_eq!(of(&[(3, 1, six), (3, 9, [255; 4])]), Some(Turn90));
        assert_eq!(of(&[(3, 9, [255; 4]), (3, 1, six)]), None);
        assert_eq!(of(&[(99, 1, one), (3, 1, six)]), Some(Turn90));
        assert_eq!(of(&[(1, 1, one), (3, 1, six)]), None);
        // Values of another tag that are not there at all, or not to their end.
        let behind = |count, at| of_tags(&[(0x010F, 2, count, [at, 0, 0, 0]), (0x0112, 3, 1, six)]);
        assert_eq!(behind(100, 200), Some(Turn90));
        assert_eq!(behind(30, 30), None);
        assert_eq!(behind(8, 38), Some(Turn90));
    }

    #[test]
    fn xmp_counts_where_exif_says_nothing() {
        let attribute = br#"<rdf tiff:Orientation="8"/>"#;
        let element = b"<tiff:Orientation>3</tiff:Orientation>";
        assert_eq!(orientation(None, Some(attribute)), Some(Turn270));
        assert_eq!(orientation(None, Some(element)), Some(Turn180));
        let one = exif(false, 3, 1, 1);
        assert_eq!(orientation(Some(&one), Some(attribute)), None);
        assert_eq!(orientation(None, Some(b"tiff:Orientation='3'")), None);
    }

    #[test]
    fn a_clockwise_turn_moves_the_left_column_up() {
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
        /// Each orientation undone by the one that is its inverse gives the picture back.
        #[test]
        fn every_orientation_has_its_inverse(
            width in 1usize..9, height in 1usize..9, number in 2u32..9, seed in any::<u8>(),
        ) {
            let values: Vec<u8> = (0..width * height * 3)
                .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
                .collect();
            let picture = Rgb { width, height, values: values.clone() };
            let there = Orientation::of(number).unwrap();
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
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut exif = b"II\x2A\0\x08\0\0\0".to_vec();
            exif.extend(&bytes);
            let _ = orientation(Some(&exif), Some(&bytes));
            let _ = orientation(Some(&bytes), None);
        }
    }
}
