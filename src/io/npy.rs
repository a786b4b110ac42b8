//! NumPy's `.npy` header, versions 1.0 to 3.0.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Reads real
//! numbers of every type in both byte orders, text, and C or Fortran order; writes version 1.0,
//! little-endian, in C order. Pure functions of bytes; lengths are checked before allocation.

/// Element type of an array, without its byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `f8`: f64.
    F64,
    /// `f4`: f32.
    F32,
    /// `f2`: half precision.
    F16,
    /// `b1`: a byte, 0 or 1.
    Bool,
    /// `u1`: a byte.
    U8,
    /// `u2`: u16.
    U16,
    /// `u4`: u32.
    U32,
    /// `u8`: u64.
    U64,
    /// `i1`: i8.
    I8,
    /// `i2`: i16.
    I16,
    /// `i4`: i32.
    I32,
    /// `i8`: i64.
    I64,
    /// `Un`: text of at most n characters, 4 bytes each, padded with zeros.
    Unicode(usize),
    /// `Sn`: text of at most n bytes, padded with zeros.
    Bytes(usize),
}

impl Dtype {
    /// NumPy's type string, little-endian, such as `<f4`.
    pub fn descr(self) -> String {
        self.spelled(false)
    }

    fn spelled(self, big_endian: bool) -> String {
        let (kind, size) = match self {
            Dtype::F64 => ("f", 8),
            Dtype::F32 => ("f", 4),
            Dtype::F16 => ("f", 2),
            Dtype::Bool => ("b", 1),
            Dtype::U8 => ("u", 1),
            Dtype::U16 => ("u", 2),
            Dtype::U32 => ("u", 4),
            Dtype::U64 => ("u", 8),
            Dtype::I8 => ("i", 1),
            Dtype::I16 => ("i", 2),
            Dtype::I32 => ("i", 4),
            Dtype::I64 => ("i", 8),
            Dtype::Unicode(characters) => ("U", characters),
            Dtype::Bytes(bytes) => ("S", bytes),
        };
        let order = match (self, big_endian) {
            (Dtype::Bytes(_), _) => '|',
            _ if self.size() == 1 => '|',
            (_, false) => '<',
            (_, true) => '>',
        };
        format!("{order}{kind}{size}")
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::Unicode(characters) => 4 * characters,
            Dtype::Bytes(bytes) => bytes,
        }
    }

    /// Whether elements are numbers or bool, not text.
    pub fn is_number(self) -> bool {
        !matches!(self, Dtype::Unicode(_) | Dtype::Bytes(_))
    }
}

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub dtype: Dtype,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether the first index changes fastest (column-major).
    pub fortran_order: bool,
    /// Length of each dimension; empty for a single number.
    pub shape: Vec<usize>,
    /// Offset of the data in the file, in bytes.
    pub data_offset: usize,
}

/// What is wrong with a header: a variant for each kind of damage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// Not a `.npy` file.
    #[error(
        "magic: found other bytes, expected \\x93NUMPY, with which numpy.save begins (flowreg-prep csv and libsvm read text)"
    )]
    Magic,
    /// An unknown version.
    #[error("version: found {0}.{1}, expected 1.0, 2.0 or 3.0; numpy.save writes 1.0")]
    Version(u8, u8),
    /// The file ends inside the header.
    #[error("header: found {found} bytes, expected {expected}; the file is cut short")]
    Truncated {
        /// Bytes present.
        found: usize,
        /// Length of the header according to the file.
        expected: usize,
    },
    /// The header is longer than [`MAX_HEADER`].
    #[error("header: found a length of {0} bytes, expected at most {MAX_HEADER}")]
    TooLong(u64),
    /// The header is not the dictionary that NumPy writes.
    #[error("header: found {0:?}, expected a dictionary of descr, fortran_order and shape")]
    Dictionary(String),
    /// An element type that is neither number nor text.
    #[error("descr: found {found}, expected {expected}")]
    Descr {
        /// The type string in the file.
        found: String,
        /// How to convert it to numbers.
        expected: &'static str,
    },
    /// The shape is not a tuple of lengths.
    #[error("shape: found {0:?}, expected a tuple of whole numbers such as (3, 2) or (3,)")]
    Shape(String),
    /// The file's length contradicts the shape.
    #[error("length: found {found} bytes, expected {expected} from the header")]
    Length {
        /// Bytes in the file.
        found: u64,
        /// Length according to header and shape.
        expected: Expected,
    },
}

/// A length in bytes; `None` if it exceeds 64 bits.
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
/// Limit on the header's length, in bytes: the longest of version 1.0, with magic and length.
pub const MAX_HEADER: usize = (1 << 16) + 10;
/// NumPy's limit on the number of dimensions.
const MAX_DIMENSIONS: usize = 64;

impl Header {
    /// Whether the bytes begin with [`MAGIC`].
    pub fn has_magic(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// NumPy's type string of the elements.
    pub fn descr(&self) -> String {
        self.dtype.spelled(self.big_endian)
    }

    /// Length of the whole file, if it fits 64 bits.
    fn file_len(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(self.dtype.size() as u64, |bytes, &dim| {
                bytes.checked_mul(dim as u64)
            })?
            .checked_add(self.data_offset as u64)
    }

    /// Parse the header at the start of `bytes` (the first [`MAX_HEADER`] bytes of the file
    /// suffice) and compare it with the length of the whole file.
    ///
    /// # Errors
    /// [`NpyError`], by kind of damage.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Header, NpyError> {
        if !Header::has_magic(bytes) {
            return Err(NpyError::Magic);
        }
        let cut = |expected| NpyError::Truncated {
            found: bytes.len(),
            expected,
        };
        let &[major, minor, ref rest @ ..] = &bytes[MAGIC.len()..] else {
            return Err(cut(10));
        };
        let (start, length) = match (major, minor, rest) {
            (1, 0, &[a, b, ..]) => (10, u32::from(u16::from_le_bytes([a, b]))),
            (2 | 3, 0, &[a, b, c, d, ..]) => (12, u32::from_le_bytes([a, b, c, d])),
            (1..=3, 0, _) => return Err(cut(if major == 1 { 10 } else { 12 })),
            _ => return Err(NpyError::Version(major, minor)),
        };
        if length as usize > MAX_HEADER - start {
            return Err(NpyError::TooLong(length.into()));
        }
        let data_offset = start + length as usize;
        let text = bytes
            .get(start..data_offset)
            .ok_or_else(|| cut(data_offset))?;
        let (dtype, big_endian, fortran_order, shape) = parse_dictionary(text)?;
        let header = Header {
            dtype,
            big_endian,
            fortran_order,
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

    /// Decode elements and append them to `into` as f64 (whole numbers beyond 2^53 are rounded).
    ///
    /// # Panics
    /// If the elements are text.
    pub fn decode(&self, bytes: &[u8], into: &mut Vec<f64>) {
        fn words<const N: usize>(
            (bytes, big_endian): (&[u8], bool),
            into: &mut Vec<f64>,
            of: impl Fn([u8; N]) -> f64,
        ) {
            let words = bytes.as_chunks::<N>().0.iter();
            if big_endian {
                into.extend(words.map(|&(mut word)| {
                    word.reverse();
                    of(word)
                }))
            } else {
                into.extend(words.map(|&word| of(word)))
            }
        }
        let from = (bytes, self.big_endian);
        match self.dtype {
            Dtype::F64 => words(from, into, f64::from_le_bytes),
            Dtype::F32 => words(from, into, |b| f32::from_le_bytes(b).into()),
            Dtype::F16 => words(from, into, |b| f16_to_f64(u16::from_le_bytes(b))),
            Dtype::Bool => words(from, into, |[b]| f64::from(u8::from(b != 0))),
            Dtype::U8 => words(from, into, |[b]| b.into()),
            Dtype::U16 => words(from, into, |b| u16::from_le_bytes(b).into()),
            Dtype::U32 => words(from, into, |b| u32::from_le_bytes(b).into()),
            Dtype::U64 => words(from, into, |b| u64::from_le_bytes(b) as f64),
            Dtype::I8 => words(from, into, |b| i8::from_le_bytes(b).into()),
            Dtype::I16 => words(from, into, |b| i16::from_le_bytes(b).into()),
            Dtype::I32 => words(from, into, |b| i32::from_le_bytes(b).into()),
            Dtype::I64 => words(from, into, |b| i64::from_le_bytes(b) as f64),
            Dtype::Unicode(_) | Dtype::Bytes(_) => panic!("text has no numbers"),
        }
    }

    /// One element as decimal text, exactly.
    ///
    /// # Panics
    /// If the elements are text, or the bytes are not those of one element.
    pub fn spelled(&self, element: &[u8]) -> String {
        let mut bytes = element.to_vec();
        if self.big_endian {
            bytes.reverse();
        }
        match (self.dtype, <[u8; 8]>::try_from(&*bytes)) {
            (Dtype::U64, Ok(bytes)) => u64::from_le_bytes(bytes).to_string(),
            (Dtype::I64, Ok(bytes)) => i64::from_le_bytes(bytes).to_string(),
            (Dtype::F32, _) => {
                let mut number = Vec::new();
                self.decode(element, &mut number);
                (number[0] as f32).to_string()
            }
            _ => {
                let mut number = Vec::new();
                self.decode(element, &mut number);
                number[0].to_string()
            }
        }
    }

    /// Whether the data can be mapped without conversion as a row-major f32 matrix.
    pub fn is_mappable(&self) -> bool {
        let plain = self.dtype == Dtype::F32 && !self.big_endian && !self.is_column_major();
        plain && self.shape.len() == 2 && self.data_offset.is_multiple_of(size_of::<f32>())
    }

    /// Whether the matrix is column-major; false for a single row or column, where the orders agree.
    pub fn is_column_major(&self) -> bool {
        self.fortran_order && self.shape.iter().all(|&dim| dim > 1)
    }

    /// The header's bytes, as `numpy.save` writes them.
    pub fn encode(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
        Header::encode_padded(dtype, shape, 0)
    }

    /// [`Header::encode`], padded with spaces to at least `length` bytes, as the format allows.
    pub fn encode_padded(dtype: Dtype, shape: &[usize], length: usize) -> Vec<u8> {
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
        let length = unpadded.max(length).next_multiple_of(64);
        text.extend(std::iter::repeat_n(' ', length - unpadded));
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }
}

/// The bytes of a `.npy` file of f32 values.
///
/// # Panics
/// If the shape does not fit the number of values.
pub fn f32_file(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let product = (shape.iter()).try_fold(1usize, |product, &dim| product.checked_mul(dim));
    assert_eq!(product, Some(values.len()), "the shape");
    let mut bytes = Header::encode(Dtype::F32, shape);
    bytes.extend_from_slice(bytemuck::cast_slice(values));
    bytes
}

/// Parse the dictionary: the three keys in any order, each once, and no others.
fn parse_dictionary(text: &[u8]) -> Result<(Dtype, bool, bool, Vec<usize>), NpyError> {
    let printable = String::from_utf8_lossy(text);
    let bad = || NpyError::Dictionary(printable.trim().chars().take(120).collect());
    let mut literal = Literal::new(&printable);
    let (mut descr, mut order, mut shape) = (None, None, None);
    literal.expect('{').ok_or_else(bad)?;
    while !literal.take('}') {
        let Some(Value::Text(key)) = literal.value(0) else {
            return Err(bad());
        };
        literal.expect(':').ok_or_else(bad)?;
        let start = literal.rest;
        let value = literal.value(0);
        let spelled = &start[..start.len() - literal.rest.len()];
        let repeated = match (key, value) {
            ("descr", value) => {
                // The error of an unsupported type comes first, whatever follows it.
                let value = value.ok_or_else(|| refused_descr(spelled))?;
                descr.replace(parse_descr(value, spelled)?).is_some()
            }
            ("fortran_order", Some(Value::Bool(value))) => order.replace(value).is_some(),
            ("shape", value) => {
                let dims = value.and_then(parse_shape).ok_or_else(|| {
                    NpyError::Shape(start.trim_start().chars().take(40).collect())
                })?;
                shape.replace(dims).is_some()
            }
            _ => return Err(bad()),
        };
        if repeated || !literal.take(',') && !literal.rest.trim_start().starts_with('}') {
            return Err(bad());
        }
    }
    match (descr, order, shape) {
        (Some((dtype, big_endian)), Some(fortran_order), Some(shape))
            if literal.rest.trim().is_empty() =>
        {
            Ok((dtype, big_endian, fortran_order, shape))
        }
        _ => Err(bad()),
    }
}

/// A Python literal in a header.
enum Value<'a> {
    Text(&'a str),
    Bool(bool),
    Number(usize),
    Tuple(Vec<Value<'a>>),
    List,
}

/// Parser of Python literals.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn new(rest: &'a str) -> Self {
        Literal { rest }
    }

    /// Consume this character if it is next.
    fn take(&mut self, character: char) -> bool {
        match self.rest.trim_start().strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, character: char) -> Option<()> {
        self.take(character).then_some(())
    }

    /// The next value; `None` if it is none of [`Value`]. `depth` is the depth of nesting.
    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        const MAX_DEPTH: usize = 16;
        if depth > MAX_DEPTH {
            return None;
        }
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        match first {
            '\'' | '"' => {
                let (text, rest) = self.rest[1..].split_once(first)?;
                self.rest = rest;
                Some(Value::Text(text))
            }
            '(' | '[' => {
                self.rest = &self.rest[1..];
                let close = if first == '(' { ')' } else { ']' };
                let (mut items, mut commas) = (Vec::new(), 0);
                while !self.take(close) {
                    if items.len() > commas {
                        return None;
                    }
                    items.push(self.value(depth + 1)?);
                    commas += usize::from(self.take(','));
                }
                match first {
                    '[' => Some(Value::List),
                    // "(3)" is a number in parentheses, not a tuple; NumPy writes "(3,)".
                    _ if items.len() == 1 && commas == 0 => items.pop(),
                    _ => Some(Value::Tuple(items)),
                }
            }
            _ => {
                let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                let end = self.rest.find(end).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match word {
                    "True" => Some(Value::Bool(true)),
                    "False" => Some(Value::Bool(false)),
                    _ => {
                        // Python 2 wrote "3L". `parse` would also take a sign.
                        let digits = word.strip_suffix('L').unwrap_or(word);
                        let all = digits.bytes().all(|b| b.is_ascii_digit());
                        all.then(|| digits.parse().ok().map(Value::Number))?
                    }
                }
            }
        }
    }
}

/// Element type, and whether it is big-endian.
fn parse_descr(value: Value, spelled: &str) -> Result<(Dtype, bool), NpyError> {
    let refused = || refused_descr(spelled);
    let Value::Text(text) = value else {
        return Err(refused());
    };
    let (big_endian, code) = match text.strip_prefix(['<', '>', '|', '=']) {
        Some(code) => (text.starts_with('>'), code),
        None => (false, text),
    };
    let dtype = dtype_of(code, code.len() < text.len()).ok_or_else(refused)?;
    // A single byte has no order; NumPy writes '|'.
    Ok((
        dtype,
        big_endian && dtype.size() > 1 && !matches!(dtype, Dtype::Bytes(_)),
    ))
}

/// The element type of a type string without its byte order, in any of NumPy's forms: kind and size,
/// the letter of C's type (on a 64-bit Unix), or a name, which must have no byte order (`ordered`).
fn dtype_of(code: &str, ordered: bool) -> Option<Dtype> {
    Some(match code {
        "f8" | "d" => Dtype::F64,
        "f4" | "f" => Dtype::F32,
        "f2" | "e" => Dtype::F16,
        "b1" | "?" => Dtype::Bool,
        "u1" | "B" => Dtype::U8,
        "u2" | "H" => Dtype::U16,
        "u4" | "I" => Dtype::U32,
        "u8" | "L" | "Q" | "P" | "N" => Dtype::U64,
        "i1" | "b" => Dtype::I8,
        "i2" | "h" => Dtype::I16,
        "i4" | "i" => Dtype::I32,
        "i8" | "l" | "q" | "p" | "n" => Dtype::I64,
        "c" => Dtype::Bytes(1),
        "float64" | "double" | "float" if !ordered => Dtype::F64,
        "float32" | "single" if !ordered => Dtype::F32,
        "float16" | "half" if !ordered => Dtype::F16,
        "bool" | "bool_" if !ordered => Dtype::Bool,
        "uint8" | "ubyte" if !ordered => Dtype::U8,
        "uint16" | "ushort" if !ordered => Dtype::U16,
        "uint32" | "uintc" if !ordered => Dtype::U32,
        "uint64" | "uint" | "uintp" | "ulong" | "ulonglong" if !ordered => Dtype::U64,
        "int8" | "byte" if !ordered => Dtype::I8,
        "int16" | "short" if !ordered => Dtype::I16,
        "int32" | "intc" if !ordered => Dtype::I32,
        "int64" | "int" | "int_" | "intp" | "long" | "longlong" if !ordered => Dtype::I64,
        _ => {
            let length = |digits: &str| {
                let all = digits.bytes().all(|b| b.is_ascii_digit());
                // Longer texts are implausible; with length 0 any number of rows would have 0 bytes.
                let length = all.then(|| digits.parse().ok()).flatten();
                length.filter(|length| (1..=1 << 20).contains(length))
            };
            let unicode = (code.strip_prefix('U').and_then(length)).map(Dtype::Unicode);
            let bytes = || (code.strip_prefix(['S', 'a']).and_then(length)).map(Dtype::Bytes);
            unicode.or_else(bytes)?
        }
    })
}

/// The error for a type that is neither number nor text, with advice how to convert it.
fn refused_descr(spelled: &str) -> NpyError {
    let spelled = spelled.trim();
    let code = spelled.trim_start_matches(['\'', '"', '<', '>', '|', '=']);
    let expected = match code.chars().next() {
        _ if spelled.starts_with('[') => {
            "plain numbers: numpy.lib.recfunctions.structured_to_unstructured makes columns of the fields"
        }
        Some('c') => "real numbers: x.real, x.imag or abs(x)",
        Some('O') => "numbers or text: x.astype('f4') makes numbers of objects, y.astype('U') text",
        Some('M' | 'm') => "numbers: astype('i8') makes them of times",
        Some('f') => "bool, a whole number of up to 8 bytes, or a float of 2, 4 or 8: astype('f8')",
        _ => "bool, a whole number, a float or text: astype('f4') makes numbers",
    };
    NpyError::Descr {
        found: spelled.chars().take(40).collect(),
        expected,
    }
}

fn parse_shape(value: Value) -> Option<Vec<usize>> {
    let Value::Tuple(dims) = value else {
        return None;
    };
    let dims = dims.into_iter().map(|dim| match dim {
        Value::Number(dim) => Some(dim),
        _ => None,
    });
    let dims: Vec<usize> = dims.collect::<Option<_>>()?;
    (dims.len() <= MAX_DIMENSIONS).then_some(dims)
}

/// The value of an IEEE 754 binary16, exactly.
fn f16_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    sign * size
}

#[cfg(test)]
mod tests;
