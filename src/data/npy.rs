//! NumPy's `.npy` header, version 1.0: the subset that flowreg writes and reads.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
//! Pure functions on bytes; lengths are compared before anything is allocated.

/// Element type of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `<f8`: little-endian f64.
    F64,
    /// `<f4`: little-endian f32.
    F32,
    /// `<f2`: little-endian half precision.
    F16,
    /// `|u1`: a byte.
    U8,
    /// `<i8`: little-endian i64.
    I64,
    /// `<i4`: little-endian i32.
    I32,
}

impl Dtype {
    /// NumPy's spelling.
    pub fn descr(self) -> &'static str {
        match self {
            Dtype::F64 => "<f8",
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::U8 => "|u1",
            Dtype::I64 => "<i8",
            Dtype::I32 => "<i4",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 => 2,
            Dtype::U8 => 1,
        }
    }
}

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub dtype: Dtype,
    /// One or two dimensions, C order.
    pub shape: Vec<usize>,
    /// Where the data starts: a multiple of 64.
    pub data_offset: usize,
}

/// One variant per lie that a header can tell.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// Not an `.npy` file.
    #[error("magic: found other bytes, expected \\x93NUMPY at the start of the file")]
    Magic,
    /// A version this reader does not know.
    #[error("version: found {0}.{1}, expected 1.0")]
    Version(u8, u8),
    /// The file ends inside the header.
    #[error("header: found {found} bytes, expected {expected}; the file is cut short")]
    Truncated {
        /// Bytes present.
        found: usize,
        /// Bytes the header claims.
        expected: usize,
    },
    /// The header is not the dictionary that NumPy writes.
    #[error("header: found {0:?}, expected a dictionary of descr, fortran_order and shape")]
    Dictionary(String),
    /// Another element type.
    #[error(
        "descr: found {0:?}, expected '<f4', '<f8', '<f2', '|u1', '<i8' or '<i4' (numpy's astype makes it so)"
    )]
    Descr(String),
    /// Column-major data.
    #[error("fortran_order: found True, expected False (numpy.ascontiguousarray makes it so)")]
    FortranOrder,
    /// No shape of one or two dimensions.
    #[error("shape: found {0:?}, expected one or two whole numbers")]
    Shape(String),
    /// Data that would not be aligned when mapped.
    #[error("header: data starts at byte {0}, expected a multiple of 64")]
    Alignment(usize),
    /// The file's length is not what the shape says.
    #[error("length: found {found} bytes, expected {expected} from the header")]
    Length {
        /// Bytes in the file.
        found: u64,
        /// Bytes that header and shape ask for, `None` if that overflows.
        expected: Expected,
    },
}

/// A byte count that may not even fit 64 bits.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected(Option<u64>);

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{bytes}"),
            None => f.write_str("more than 2^64"),
        }
    }
}

/// The first bytes of every file.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of ours is longer; more is a lie or another format.
pub const MAX_HEADER: usize = 4096;

impl Header {
    /// Total file length, if it fits 64 bits.
    fn file_len(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(self.dtype.size() as u64, |bytes, &dim| {
                bytes.checked_mul(dim as u64)
            })?
            .checked_add(self.data_offset as u64)
    }

    /// Parse the header at the start of `bytes` (the first [`MAX_HEADER`] bytes of the
    /// file suffice) and hold it against the length of the whole file.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Header, NpyError> {
        if bytes.len() < MAGIC.len() || &bytes[..MAGIC.len()] != MAGIC {
            return Err(NpyError::Magic);
        }
        let &[_, _, _, _, _, _, major, minor, low, high, ..] = bytes else {
            return Err(NpyError::Truncated {
                found: bytes.len(),
                expected: 10,
            });
        };
        if (major, minor) != (1, 0) {
            return Err(NpyError::Version(major, minor));
        }
        let data_offset = 10 + usize::from(u16::from_le_bytes([low, high]));
        let Some(text) = bytes.get(10..data_offset) else {
            return Err(NpyError::Truncated {
                found: bytes.len(),
                expected: data_offset,
            });
        };
        if data_offset % 64 != 0 {
            return Err(NpyError::Alignment(data_offset));
        }
        let (dtype, shape) = parse_dictionary(text)?;
        let header = Header {
            dtype,
            shape,
            data_offset,
        };
        let expected = header.file_len();
        if expected != Some(file_len) {
            return Err(NpyError::Length {
                found: file_len,
                expected: Expected(expected),
            });
        }
        Ok(header)
    }

    /// The header's bytes, as `numpy.save` writes them.
    pub fn encode(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
        let dims = match shape {
            [n] => format!("({n},)"),
            _ => format!(
                "({})",
                shape
                    .iter()
                    .map(usize::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let mut text = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': {dims}, }}",
            dtype.descr()
        );
        let unpadded = 10 + text.len() + 1;
        text.extend(std::iter::repeat_n(
            ' ',
            unpadded.next_multiple_of(64) - unpadded,
        ));
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }
}

/// The bytes of a whole `<f4` file.
///
/// # Panics
/// If the shape has another number of values.
pub fn f32_file(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let product = (shape.iter()).try_fold(1usize, |product, &dim| product.checked_mul(dim));
    assert_eq!(product, Some(values.len()), "the shape");
    let mut bytes = Header::encode(Dtype::F32, shape);
    bytes.extend_from_slice(bytemuck::cast_slice(values));
    bytes
}

/// Accepts the three keys in any order, each once, and nothing else.
fn parse_dictionary(text: &[u8]) -> Result<(Dtype, Vec<usize>), NpyError> {
    let printable = String::from_utf8_lossy(text);
    let bad = || NpyError::Dictionary(printable.trim().chars().take(120).collect());
    let inner = printable
        .trim()
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(bad)?;
    let (mut dtype, mut order, mut shape) = (None, None, None);
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (key, after) = rest
            .strip_prefix('\'')
            .and_then(|t| t.split_once('\''))
            .ok_or_else(bad)?;
        let after = after
            .trim_start()
            .strip_prefix(':')
            .ok_or_else(bad)?
            .trim_start();
        // A value ends at the next comma, or, for a tuple, at its bracket.
        let end = match after.strip_prefix('(') {
            Some(tuple) => tuple.find(')').ok_or_else(bad)? + 2,
            None => after.find(',').unwrap_or(after.len()),
        };
        let (value, after) = after.split_at(end);
        let value = value.trim();
        let repeated = match key {
            "descr" => dtype.replace(parse_descr(value)?).is_some(),
            "fortran_order" => order.replace(parse_order(value, &bad)?).is_some(),
            "shape" => shape.replace(parse_shape(value)?).is_some(),
            _ => return Err(bad()),
        };
        if repeated {
            return Err(bad());
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return Err(bad()),
        };
    }
    match (dtype, order, shape) {
        (Some(dtype), Some(()), Some(shape)) => Ok((dtype, shape)),
        _ => Err(bad()),
    }
}

fn parse_descr(value: &str) -> Result<Dtype, NpyError> {
    match value {
        "'<f8'" => Ok(Dtype::F64),
        "'<f4'" => Ok(Dtype::F32),
        "'<f2'" => Ok(Dtype::F16),
        "'|u1'" => Ok(Dtype::U8),
        "'<i8'" => Ok(Dtype::I64),
        "'<i4'" => Ok(Dtype::I32),
        _ => Err(NpyError::Descr(value.chars().take(40).collect())),
    }
}

fn parse_order(value: &str, bad: &impl Fn() -> NpyError) -> Result<(), NpyError> {
    match value {
        "False" => Ok(()),
        "True" => Err(NpyError::FortranOrder),
        _ => Err(bad()),
    }
}

fn parse_shape(value: &str) -> Result<Vec<usize>, NpyError> {
    let bad = || NpyError::Shape(value.chars().take(40).collect());
    let inner = value
        .strip_prefix('(')
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(bad)?;
    // "(3)" is a number in brackets, not a tuple; NumPy writes "(3,)".
    let inner = match inner.trim().strip_suffix(',') {
        Some(one) if !one.contains(',') => one,
        None if inner.contains(',') => inner,
        _ => return Err(bad()),
    };
    let shape = inner
        .split(',')
        .map(|dim| {
            let dim = dim.trim();
            // `parse` would also take a sign.
            if dim.is_empty() || !dim.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            dim.parse().map_err(|_| bad())
        })
        .collect::<Result<Vec<usize>, _>>()?;
    if shape.len() > 2 {
        return Err(bad());
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_text(text: &str, data: u64) -> Result<Header, NpyError> {
        let mut bytes = MAGIC.to_vec();
        let len = (10 + text.len() + 1).next_multiple_of(64) - 10;
        bytes.extend([1, 0]);
        bytes.extend((len as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(10 + len, b' ');
        Header::parse(&bytes, bytes.len() as u64 + data)
    }

    #[test]
    fn reads_what_numpy_writes() {
        // numpy.save of numpy.zeros((2, 3), 'f4'), numpy 2.
        let header = parse_text(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
            24,
        )
        .unwrap();
        assert_eq!((header.dtype, header.shape), (Dtype::F32, vec![2, 3]));
    }

    #[test]
    fn one_error_per_lie() {
        use NpyError as E;
        let good = Header::encode(Dtype::F32, &[2, 3]);
        let len = good.len() as u64 + 24;
        assert_eq!(Header::parse(b"PK\x03\x04", 4), Err(E::Magic));
        assert!(matches!(
            Header::parse(&good[..8], len),
            Err(E::Truncated { .. })
        ));
        assert!(matches!(
            Header::parse(&good[..40], len),
            Err(E::Truncated { .. })
        ));
        let mut version = good.clone();
        version[6] = 2;
        assert_eq!(Header::parse(&version, len), Err(E::Version(2, 0)));
        let mut odd = good.clone();
        odd[8] -= 1;
        assert_eq!(Header::parse(&odd, len), Err(E::Alignment(127)));
        assert!(matches!(
            Header::parse(&good, len - 1),
            Err(E::Length { .. })
        ));
        assert!(matches!(
            Header::parse(&good, len + 1),
            Err(E::Length { .. })
        ));
        for (text, data) in [
            (
                "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
                4,
            ),
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
                4,
            ),
        ] {
            assert!(matches!(parse_text(text, data), Err(E::Descr(_))), "{text}");
        }
        assert_eq!(
            parse_text(
                "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }",
                4
            ),
            Err(E::FortranOrder)
        );
        for shape in ["(3)", "()", "(-1,)", "(+1,)", "(1,2,3)", "(1,,2)", "[1]"] {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            assert!(
                matches!(parse_text(&text, 4), Err(E::Shape(_) | E::Dictionary(_))),
                "{shape}"
            );
        }
        for text in [
            "",
            "{}",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} + 1",
        ] {
            assert!(parse_text(text, 4).is_err(), "{text}");
        }
        // A product beyond 2^64 must not wrap round to the real length.
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
        assert!(matches!(parse_text(text, 0), Err(E::Length { .. })));
    }

    proptest! {
        #[test]
        fn round_trip(rows in 0usize..1 << 40, cols in 0usize..1 << 20, two in any::<bool>()) {
            let shape = if two { vec![rows, cols] } else { vec![rows] };
            let bytes = Header::encode(Dtype::I64, &shape);
            prop_assert_eq!(bytes.len() % 64, 0);
            let data = shape.iter().map(|&d| d as u64).product::<u64>() * 8;
            let header = Header::parse(&bytes, bytes.len() as u64 + data).unwrap();
            prop_assert_eq!(header.shape, shape);
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
            let _ = Header::parse(&bytes, len);
            let mut framed = Header::encode(Dtype::F32, &[1, 1]);
            let n = bytes.len().min(framed.len() - 10);
            framed[10..10 + n].copy_from_slice(&bytes[..n]);
            let _ = Header::parse(&framed, len);
        }
    }
}
