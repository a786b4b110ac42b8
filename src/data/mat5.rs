//! MATLAB v5 files: a strict, bounded reader of the small integer arrays of Flowers102, and a writer
//! for the demo.
//!
//! Format: "MAT-File Format", MathWorks, chapter 1 (level 5). Pure functions of bytes; every length
//! is compared with the bytes that follow before memory is allocated.

use std::io::Read;

use flate2::read::ZlibDecoder;

/// What is wrong with a MATLAB file: a variant for each kind of damage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mat5Error {
    /// HDF5, MATLAB's later format.
    #[error("format: found MATLAB v7.3 (HDF5), expected v5; save it with -v6 or -v7")]
    Hdf5,
    /// Not a MATLAB v5 file of this byte order.
    #[error("header: found {0}, expected a little-endian MATLAB v5 file")]
    Header(&'static str),
    /// An element is longer than the bytes that follow.
    #[error("{element}: found {found} bytes, expected {expected}; the file is cut short")]
    Truncated {
        /// The element.
        element: &'static str,
        /// Bytes present.
        found: usize,
        /// Its length according to the file.
        expected: usize,
    },
    /// An element has another type.
    #[error("{element}: found type {found}, expected {expected}")]
    Type {
        /// The element.
        element: &'static str,
        /// Its type number.
        found: u32,
        /// The allowed types.
        expected: &'static str,
    },
    /// A compressed element is damaged, or longer than 16 MB uncompressed.
    #[error("compressed data: found {0}, expected a zlib stream of at most 16 MB")]
    Inflate(String),
    /// The variable is not a real numeric vector.
    #[error("{variable}: found {found}, expected a real numeric vector")]
    Vector {
        /// The variable's name.
        variable: String,
        /// Its class or shape.
        found: String,
    },
    /// A value is not a whole number that i64 can hold.
    #[error("{variable}[{index}]: found {value}, expected a whole number")]
    NotInteger {
        /// The variable's name.
        variable: String,
        /// Index of the value.
        index: usize,
        /// The value as text.
        value: String,
    },
    /// No variable of that name.
    #[error("variables: found {found}, expected {expected}")]
    Missing {
        /// The names of the file's variables.
        found: String,
        /// The requested name.
        expected: String,
    },
}

type Result<T> = std::result::Result<T, Mat5Error>;

const HEADER: usize = 128;
/// Limit on the total uncompressed length of a file's compressed elements, in bytes.
const MAX_INFLATED: usize = 16 << 20;

const MI_INT8: u32 = 1;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;
const CLASS_DOUBLE: u8 = 6;
/// double, single, and the eight integer classes.
const NUMERIC_CLASSES: std::ops::RangeInclusive<u8> = CLASS_DOUBLE..=15;
const FLAG_COMPLEX: u8 = 0x08;

/// The values of a variable, a real vector of whole numbers.
///
/// # Errors
/// [`Mat5Error`], by kind of damage.
pub fn read_integers(bytes: &[u8], variable: &str) -> Result<Vec<i64>> {
    let mut rest = check_header(bytes)?;
    let mut names = Vec::new();
    let mut budget = MAX_INFLATED;
    while !rest.is_empty() {
        let element = Element::take(&mut rest, "variable")?;
        let inflated;
        let matrix = match element.kind {
            MI_MATRIX => element.data,
            MI_COMPRESSED => {
                inflated = inflate(element.data, budget)?;
                budget -= inflated.len();
                let mut inner = inflated.as_slice();
                Element::take(&mut inner, "compressed variable")?.of_kind(
                    MI_MATRIX,
                    "compressed variable",
                    "14 (a matrix)",
                )?
            }
            found => {
                return Err(Mat5Error::Type {
                    element: "variable",
                    found,
                    expected: "14 (a matrix) or 15 (compressed)",
                });
            }
        };
        let mut matrix = matrix;
        let head = MatrixHead::take(&mut matrix)?;
        if head.name == variable {
            return head.integers(matrix);
        }
        names.push(head.name);
    }
    Err(Mat5Error::Missing {
        found: if names.is_empty() {
            "none".to_string()
        } else {
            names.join(", ")
        },
        expected: variable.to_string(),
    })
}

/// The bytes of a file of row vectors of doubles; the same for the same variables.
///
/// # Panics
/// If a name or a vector is longer than the format's 32-bit lengths.
pub fn write_integers(variables: &[(&str, &[i64])]) -> Vec<u8> {
    let mut out = format!("{:116}", "MATLAB 5.0 MAT-file, written by flowreg").into_bytes();
    out.extend([0; 8]);
    out.extend(0x0100u16.to_le_bytes());
    out.extend(*b"IM");
    for (name, values) in variables {
        let mut matrix = Vec::new();
        push(
            &mut matrix,
            MI_UINT32,
            &u64::from(CLASS_DOUBLE).to_le_bytes(),
        );
        let columns = i32::try_from(values.len()).expect("a short vector");
        let dims = [1i32.to_le_bytes(), columns.to_le_bytes()].concat();
        push(&mut matrix, MI_INT32, &dims);
        push(&mut matrix, MI_INT8, name.as_bytes());
        let doubles: Vec<u8> = (values.iter())
            .flat_map(|&v| (v as f64).to_le_bytes())
            .collect();
        push(&mut matrix, 9, &doubles);
        push(&mut out, MI_MATRIX, &matrix);
    }
    out
}

fn push(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(
        u32::try_from(data.len())
            .expect("a short element")
            .to_le_bytes(),
    );
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn check_header(bytes: &[u8]) -> Result<&[u8]> {
    if bytes.starts_with(b"\x89HDF") || bytes.starts_with(b"MATLAB 7.3") {
        return Err(Mat5Error::Hdf5);
    }
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Err(Mat5Error::Header("fewer than 128 bytes"));
    };
    match (&header[126..128], &header[124..126]) {
        (b"IM", [0x00, 0x01]) => Ok(rest),
        (b"MI", _) => Err(Mat5Error::Header("big-endian data")),
        _ => Err(Mat5Error::Header("no v5 version and byte order")),
    }
}

fn inflate(data: &[u8], budget: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    // One byte more than the budget shows whether the data exceeds it.
    let read = ZlibDecoder::new(data)
        .take(budget as u64 + 1)
        .read_to_end(&mut out);
    match read {
        Ok(_) if out.len() > budget => Err(Mat5Error::Inflate(format!("more than {budget} bytes"))),
        Ok(_) => Ok(out),
        Err(error) => Err(Mat5Error::Inflate(error.to_string())),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A tag and its data.
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

impl<'a> Element<'a> {
    /// Take the next element, with its padding, from `rest`.
    fn take(rest: &mut &'a [u8], element: &'static str) -> Result<Element<'a>> {
        let cut = |expected, found| Mat5Error::Truncated {
            element,
            found,
            expected,
        };
        if rest.len() < 8 {
            return Err(cut(8, rest.len()));
        }
        let first = u32_at(rest, 0);
        if first >> 16 != 0 {
            // The small form: type and length share a word, data is in the next.
            let len = (first >> 16) as usize;
            if len > 4 {
                return Err(cut(len, 4));
            }
            let data = &rest[4..4 + len];
            *rest = &rest[8..];
            return Ok(Element {
                kind: first & 0xFFFF,
                data,
            });
        }
        let len = u32_at(rest, 4) as usize;
        let body = &rest[8..];
        let Some(data) = body.get(..len) else {
            return Err(cut(len, body.len()));
        };
        // Compressed elements are not padded; the last padding of a file may be missing.
        let padded = match first {
            MI_COMPRESSED => len,
            _ => len.next_multiple_of(8).min(body.len()),
        };
        *rest = &body[padded..];
        Ok(Element { kind: first, data })
    }

    fn of_kind(self, kind: u32, element: &'static str, expected: &'static str) -> Result<&'a [u8]> {
        if self.kind == kind {
            Ok(self.data)
        } else {
            Err(Mat5Error::Type {
                element,
                found: self.kind,
                expected,
            })
        }
    }
}

/// The subelements of a matrix before its values.
struct MatrixHead {
    class: u8,
    flags: u8,
    dims: Vec<i32>,
    name: String,
}

impl MatrixHead {
    fn take(matrix: &mut &[u8]) -> Result<MatrixHead> {
        let flags = Element::take(matrix, "array flags")?.of_kind(
            MI_UINT32,
            "array flags",
            "6 (uint32)",
        )?;
        if flags.len() != 8 {
            return Err(Mat5Error::Truncated {
                element: "array flags",
                found: flags.len(),
                expected: 8,
            });
        }
        let dims =
            Element::take(matrix, "dimensions")?.of_kind(MI_INT32, "dimensions", "5 (int32)")?;
        let name = Element::take(matrix, "name")?.of_kind(MI_INT8, "name", "1 (int8)")?;
        Ok(MatrixHead {
            class: flags[0],
            flags: flags[1],
            dims: (dims.chunks_exact(4))
                .map(|dim| u32_at(dim, 0) as i32)
                .collect(),
            name: name.escape_ascii().to_string(),
        })
    }

    fn integers(self, mut values: &[u8]) -> Result<Vec<i64>> {
        let refuse = |found: String| {
            Err(Mat5Error::Vector {
                variable: self.name.clone(),
                found,
            })
        };
        if !NUMERIC_CLASSES.contains(&self.class) {
            return refuse(format!("class {}", self.class));
        }
        if self.flags & FLAG_COMPLEX != 0 {
            return refuse("complex values".to_string());
        }
        let len = match self.dims.as_slice() {
            &[1, n] | &[n, 1] => usize::try_from(n).ok(),
            _ => None,
        };
        let Some(len) = len else {
            return refuse(format!("dimensions {:?}", self.dims));
        };
        let element = Element::take(&mut values, "values")?;
        let data = element.data;
        // MATLAB stores values in the smallest type that can represent them, regardless of the class.
        let parsed = match element.kind {
            1 => parse(data, |[b]| Ok(i64::from(b as i8))),
            2 => parse(data, |[b]| Ok(i64::from(b))),
            3 => parse(data, |b| Ok(i64::from(i16::from_le_bytes(b)))),
            4 => parse(data, |b| Ok(i64::from(u16::from_le_bytes(b)))),
            5 => parse(data, |b| Ok(i64::from(i32::from_le_bytes(b)))),
            6 => parse(data, |b| Ok(i64::from(u32::from_le_bytes(b)))),
            7 => parse(data, |b| whole(f64::from(f32::from_le_bytes(b)))),
            9 => parse(data, |b| whole(f64::from_le_bytes(b))),
            12 => parse(data, |b| Ok(i64::from_le_bytes(b))),
            13 => parse(data, |b| {
                let value = u64::from_le_bytes(b);
                i64::try_from(value).map_err(|_| value.to_string())
            }),
            found => {
                return Err(Mat5Error::Type {
                    element: "values",
                    found,
                    expected: "a numeric type",
                });
            }
        };
        let values = match parsed {
            Ok(values) => values,
            Err((index, value)) => {
                return Err(Mat5Error::NotInteger {
                    variable: self.name,
                    index,
                    value,
                });
            }
        };
        match values {
            Some(values) if values.len() == len => Ok(values),
            _ => refuse(format!("{} bytes for {len} values", data.len())),
        }
    }
}

/// Parse values of N bytes; `None` if the length is not a multiple of N.
fn parse<const N: usize>(
    data: &[u8],
    value: impl Fn([u8; N]) -> std::result::Result<i64, String>,
) -> std::result::Result<Option<Vec<i64>>, (usize, String)> {
    if !data.len().is_multiple_of(N) {
        return Ok(None);
    }
    (data.chunks_exact(N).enumerate())
        .map(|(i, bytes)| value(bytes.try_into().expect("chunks of N")).map_err(|v| (i, v)))
        .collect::<std::result::Result<_, _>>()
        .map(Some)
}

fn whole(value: f64) -> std::result::Result<i64, String> {
    // Beyond 2^53 a double does not represent every whole number.
    if value.fract() == 0.0 && value.abs() <= (1u64 << 53) as f64 {
        Ok(value as i64)
    } else {
        Err(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mat5Error as E;
    use proptest::prelude::*;
    use std::io::Write;

    fn sample() -> Vec<u8> {
        write_integers(&[("labels", &[1, 2, 3]), ("other", &[7])])
    }

    /// The sample with one byte changed.
    fn with(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = sample();
        bytes[at] = byte;
        bytes
    }

    fn error_of(bytes: &[u8]) -> E {
        read_integers(bytes, "labels").unwrap_err()
    }

    #[test]
    fn plain_and_compressed_files_are_read() {
        assert_eq!(read_integers(&sample(), "labels"), Ok(vec![1, 2, 3]));
        assert_eq!(read_integers(&sample(), "other"), Ok(vec![7]));

        // Compressed, as MATLAB writes by default.
        let plain = sample();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
        zlib.write_all(&plain[HEADER..]).unwrap();
        let stream = zlib.finish().unwrap();
        let mut file = plain[..HEADER].to_vec();
        file.extend(MI_COMPRESSED.to_le_bytes());
        file.extend((stream.len() as u32).to_le_bytes());
        file.extend(&stream);
        assert_eq!(read_integers(&file, "labels"), Ok(vec![1, 2, 3]));

        // zlib's checksum detects a flipped bit.
        let last = file.len() - 1;
        file[last] ^= 1;
        assert!(matches!(error_of(&file), E::Inflate(_)));
    }

    #[test]
    fn small_elements_and_small_types_are_read() {
        let mut matrix = Vec::new();
        push(
            &mut matrix,
            MI_UINT32,
            &u64::from(CLASS_DOUBLE).to_le_bytes(),
        );
        push(&mut matrix, MI_INT32, &[3, 0, 0, 0, 1, 0, 0, 0]);
        // Name and values in the small form: 2 bytes of int8, 3 bytes of uint8.
        matrix.extend([1, 0, 2, 0, b'i', b'd', 0, 0]);
        matrix.extend([2, 0, 3, 0, 9, 8, 255, 0]);
        let mut file = sample()[..HEADER].to_vec();
        push(&mut file, MI_MATRIX, &matrix);
        assert_eq!(read_integers(&file, "id"), Ok(vec![9, 8, 255]));
    }

    #[test]
    fn each_kind_of_damage_has_an_error() {
        // Offsets in the sample: element tag 128, flags 136..152, dims 152..168,
        // name 168..184, value tag 184, values 192...
        assert_eq!(error_of(b"\x89HDF\r\n"), E::Hdf5);
        assert!(matches!(error_of(b"MATLAB 5.0"), E::Header(_)));
        assert!(matches!(error_of(&with(126, b'X')), E::Header(_)));
        let big = [&with(126, b'M')[..127], b"I", &sample()[128..]].concat();
        assert_eq!(error_of(&big), E::Header("big-endian data"));
        assert!(matches!(error_of(&sample()[..150]), E::Truncated { .. }));
        assert!(matches!(error_of(&with(135, 0x7F)), E::Truncated { .. }));
        assert!(matches!(error_of(&with(128, 3)), E::Type { .. }));
        assert!(matches!(error_of(&with(136, 5)), E::Type { .. }));
        assert!(matches!(error_of(&with(184, 16)), E::Type { .. }));
        for class in [1, 2, 4, 5, 16] {
            assert!(
                matches!(error_of(&with(144, class)), E::Vector { .. }),
                "{class}"
            );
        }
        assert!(matches!(
            error_of(&with(145, FLAG_COMPLEX)),
            E::Vector { .. }
        ));
        assert!(matches!(error_of(&with(160, 2)), E::Vector { .. }));
        assert!(matches!(error_of(&with(164, 4)), E::Vector { .. }));
        assert!(matches!(error_of(&with(167, 0xFF)), E::Vector { .. }));
        assert!(matches!(
            error_of(&with(192, 1)),
            E::NotInteger { index: 0, .. }
        ));
        assert_eq!(
            read_integers(&sample(), "setid").unwrap_err(),
            E::Missing {
                found: "labels, other".to_string(),
                expected: "setid".to_string()
            }
        );
    }

    #[test]
    fn a_decompression_bomb_is_rejected() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
        zlib.write_all(&vec![0; MAX_INFLATED + 1]).unwrap();
        let stream = zlib.finish().unwrap();
        let mut file = sample()[..HEADER].to_vec();
        file.extend(MI_COMPRESSED.to_le_bytes());
        file.extend((stream.len() as u32).to_le_bytes());
        file.extend(&stream);
        assert!(matches!(error_of(&file), E::Inflate(_)));
    }

    proptest! {
        #[test]
        fn round_trip_preserves_values(values in prop::collection::vec(-(1i64 << 53)..1 << 53, 0..50)) {
            let file = write_integers(&[("x", &[5]), ("labels", &values)]);
            prop_assert_eq!(read_integers(&file, "labels"), Ok(values));
        }

        #[test]
        fn damaged_bytes_never_panic(
            changes in prop::collection::vec((128usize..300, any::<u8>()), 1..6),
            cut in 0usize..300,
        ) {
            let mut file = sample();
            for (at, byte) in changes {
                if let Some(b) = file.get_mut(at) {
                    *b = byte;
                }
            }
            let _ = read_integers(&file, "labels");
            let _ = read_integers(&file[..cut.min(file.len())], "labels");
        }
    }
}
