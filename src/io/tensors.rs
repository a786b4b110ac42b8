//! Strict, bounded reader and writer of safetensors files: models and checkpoints.
//!
//! Format: <https://github.com/huggingface/safetensors#format>, read by the `safetensors`
//! crate, which checks offsets, overlaps and trailing bytes. In addition the header has at most
//! 1 MiB, and the names are those that the caller expects. A file that flowreg wrote contains a
//! CRC-32 of its data, and must equal byte for byte what flowreg would write for its content, so that
//! every changed bit is detected.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::SafeTensorError;
pub use safetensors::tensor::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Limit on the header's length, in bytes; it contains the class names.
const MAX_HEADER: u64 = 1 << 20;
/// The only metadata key that flowreg writes: several would be written in random order.
const KEY: &str = "flowreg";

/// What is wrong with a safetensors file: a variant for each kind of damage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsError {
    /// The file is shorter than its header, or the header is longer than 1 MiB.
    #[error(
        "header: found {}, expected a safetensors file with a header of at most 1048576 bytes", claim(*.found, *.claimed)
    )]
    Header {
        /// Bytes in the file.
        found: usize,
        /// Length of the header according to the file; 0 if the file is too short to have one.
        claimed: u64,
    },
    /// Not a safetensors file: the message of the `safetensors` crate.
    #[error("header: found {0}, expected a safetensors file")]
    Parse(String),
    /// A tensor is missing or not expected.
    #[error("tensors: found {found}, expected {expected}")]
    Names {
        /// The names in the file.
        found: String,
        /// The expected names.
        expected: String,
    },
    /// A tensor has another element type.
    #[error("{name}: found {found}, expected {expected}")]
    Dtype {
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
        /// The expected type.
        expected: String,
    },
    /// The metadata is that of another program, or missing.
    #[error("metadata: found {found}, expected {expected}")]
    Metadata {
        /// The metadata in the file.
        found: String,
        /// The expected metadata.
        expected: &'static str,
    },
    /// The checksum of the data differs from that in the metadata.
    #[error("crc32: found {found}, expected {expected} as the file says: it is damaged")]
    Checksum {
        /// The checksum of the data.
        found: String,
        /// The checksum in the metadata.
        expected: String,
    },
    /// The file differs from what flowreg writes for its content.
    #[error("header: found another spelling, expected flowreg's own: the file is damaged")]
    NotCanonical,
}

/// The values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers<'a> {
    /// `F32`.
    F32(Cow<'a, [f32]>),
    /// `F64`.
    F64(Cow<'a, [f64]>),
}

impl Numbers<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::F32(_) => Dtype::F32,
            Numbers::F64(_) => Dtype::F64,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Numbers::F32(values) => bytemuck::cast_slice(values),
            Numbers::F64(values) => bytemuck::cast_slice(values),
        }
    }

    /// Copied value by value: the bytes may be unaligned.
    fn of_bytes(dtype: Dtype, bytes: &[u8]) -> Numbers<'static> {
        match dtype {
            Dtype::F64 => Numbers::F64(
                (bytes.chunks_exact(8))
                    .map(|b| f64::from_le_bytes(b.try_into().expect("chunks of 8")))
                    .collect(),
            ),
            _ => Numbers::F32(
                (bytes.chunks_exact(4))
                    .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of 4")))
                    .collect(),
            ),
        }
    }
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape; the product of the dimensions is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub numbers: Numbers<'a>,
}

/// Metadata with a checksum of the metadata and the data.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checksummed {
    about: Value,
    crc32: String,
}

/// The bytes of a file with these tensors and this metadata. The metadata must not contain floats,
/// which JSON may round.
///
/// # Panics
/// If a shape does not fit its values, or two names are equal.
pub fn write(tensors: &[Tensor], about: Value) -> Vec<u8> {
    let crc32 = checksum(tensors, &about);
    let checksummed = serde_json::to_string(&Checksummed { about, crc32 }).expect("plain data");
    let views = tensors.iter().map(|tensor| {
        let Tensor { shape, numbers, .. } = tensor;
        let view = TensorView::new(numbers.dtype(), shape.clone(), numbers.bytes());
        (&*tensor.name, view.expect("the shape is the data's"))
    });
    let metadata = HashMap::from([(KEY.to_string(), checksummed)]);
    safetensors::serialize(views, Some(metadata)).expect("distinct names")
}

/// The tensors of a file, in the order of `expected`, which must be all that it has; and the
/// metadata, if flowreg wrote the file.
///
/// Memory: at most three times the length of `bytes`.
///
/// # Errors
/// [`TensorsError`], by kind of damage.
pub fn read(
    bytes: &[u8],
    expected: &[(&str, Dtype)],
) -> Result<(Vec<Tensor<'static>>, Option<Value>), TensorsError> {
    let metadata = metadata(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(parse)?;
    let mut names = file.names();
    let mut expected_names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    expected_names.sort_unstable();
    if names != expected_names {
        return Err(TensorsError::Names {
            found: names.join(", ").chars().take(200).collect(),
            expected: expected_names.join(", "),
        });
    }
    let mut tensors = Vec::new();
    for &(name, dtype) in expected {
        let view = file.tensor(name).map_err(parse)?;
        if view.dtype() != dtype {
            return Err(TensorsError::Dtype {
                name: name.to_string(),
                found: format!("{:?}", view.dtype()),
                expected: format!("{dtype:?}"),
            });
        }
        tensors.push(Tensor {
            name: name.to_string(),
            shape: view.shape().to_vec(),
            numbers: Numbers::of_bytes(dtype, view.data()),
        });
    }
    let Some(Checksummed { about, crc32 }) = checksummed(&metadata)? else {
        return Ok((tensors, None));
    };
    let found = checksum(&tensors, &about);
    if found != crc32 {
        let expected = crc32;
        return Err(TensorsError::Checksum { found, expected });
    }
    if write(&tensors, about.clone()) == bytes {
        Ok((tensors, Some(about)))
    } else {
        Err(TensorsError::NotCanonical)
    }
}

/// [`read`] for all tensors of a file, sorted by name.
///
/// # Errors
/// As [`read`].
pub fn read_all(bytes: &[u8]) -> Result<(Vec<Tensor<'static>>, Option<Value>), TensorsError> {
    let names = names(bytes)?;
    let names: Vec<(&str, Dtype)> = names
        .iter()
        .map(|(name, dtype)| (&**name, *dtype))
        .collect();
    read(bytes, &names)
}

/// Names and types of a file's tensors, sorted by name; checksums are not verified.
fn names(bytes: &[u8]) -> Result<Vec<(String, Dtype)>, TensorsError> {
    metadata(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(parse)?;
    let mut names: Vec<(String, Dtype)> = (file.iter())
        .map(|(name, view)| (name.to_string(), view.dtype()))
        .collect();
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let other = |(_, dtype): &&(String, Dtype)| ![Dtype::F32, Dtype::F64].contains(dtype);
    match names.iter().find(other) {
        None => Ok(names),
        Some((name, dtype)) => Err(TensorsError::Dtype {
            name: name.clone(),
            found: format!("{dtype:?}"),
            expected: "F32 or F64".to_string(),
        }),
    }
}

/// The metadata of a file that flowreg wrote, not verified: for a more precise error than that of a
/// later [`read`].
///
/// # Errors
/// [`TensorsError`].
pub fn about(bytes: &[u8]) -> Result<Value, TensorsError> {
    checksummed(&metadata(bytes)?)?.map_or_else(
        || {
            Err(TensorsError::Metadata {
                found: "none".to_string(),
                expected: "flowreg's",
            })
        },
        |checksummed| Ok(checksummed.about),
    )
}

/// What a file without a usable header is, for its message.
fn claim(found: usize, claimed: u64) -> String {
    match found.checked_sub(8) {
        Some(rest) if claimed <= rest as u64 => format!("a header of {claimed} bytes"),
        _ => format!("a file of {found} bytes that does not begin with the length of its header"),
    }
}

fn parse(error: SafeTensorError) -> TensorsError {
    TensorsError::Parse(error.to_string())
}

/// All metadata of a file whose header is not too long.
fn metadata(bytes: &[u8]) -> Result<HashMap<String, String>, TensorsError> {
    let claimed = bytes
        .first_chunk()
        .map_or(0, |len| u64::from_le_bytes(*len));
    if bytes.len() < 8 || claimed > MAX_HEADER {
        let found = bytes.len();
        return Err(TensorsError::Header { found, claimed });
    }
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(parse)?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// flowreg's metadata; `None` if torch wrote the file.
fn checksummed(metadata: &HashMap<String, String>) -> Result<Option<Checksummed>, TensorsError> {
    let bad = |found: String| TensorsError::Metadata {
        found: found.chars().take(200).collect(),
        expected: "what flowreg or torch writes; a model of an older flowreg is to be fitted again",
    };
    let torchs = metadata.get("format").is_some_and(|format| format == "pt");
    if metadata.is_empty() || torchs && metadata.len() == 1 {
        return Ok(None);
    }
    let Some(json) = metadata.get(KEY).filter(|_| metadata.len() == 1) else {
        let mut keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
        keys.sort_unstable();
        return Err(bad(keys.join(", ")));
    };
    match serde_json::from_str(json) {
        Ok(checksummed) => Ok(Some(checksummed)),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// CRC-32 of the metadata and of each tensor's data, in the order given.
fn checksum(tensors: &[Tensor], about: &Value) -> String {
    let mut crc = crc32fast::Hasher::new();
    crc.update(about.to_string().as_bytes());
    tensors.iter().for_each(|t| crc.update(t.numbers.bytes()));
    format!("{:08x}", crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NAMES: [(&str, Dtype); 2] = [("weight", Dtype::F32), ("bias", Dtype::F64)];

    fn example() -> Vec<Tensor<'static>> {
        vec![
            Tensor {
                name: "weight".to_string(),
                shape: vec![2, 3],
                numbers: Numbers::F32(vec![1.0, -2.5, f32::NAN, 0.0, -0.0, 1e-40].into()),
            },
            Tensor {
                name: "bias".to_string(),
                shape: vec![2],
                numbers: Numbers::F64(vec![0.1, f64::INFINITY].into()),
            },
        ]
    }

    fn written() -> Vec<u8> {
        write(&example(), json!({"epoch": 3}))
    }

    #[test]
    fn round_trip_preserves_all_bits() {
        let (tensors, about) = read(&written(), &NAMES).unwrap();
        assert_eq!(about, Some(json!({"epoch": 3})));
        for (a, b) in tensors.iter().zip(example()) {
            assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
            assert_eq!(a.numbers.bytes(), b.numbers.bytes());
        }
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_an_error() {
        let good = written();
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, &NAMES).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(read(&good[..len], &NAMES).is_err(), "length {len}");
        }
        assert!(read(&[&good[..], b"x"].concat(), &NAMES).is_err());
    }

    /// A file with this header and `data` zero bytes.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn each_kind_of_damage_has_an_error() {
        use TensorsError as E;
        let names = [("weight", Dtype::F32)];
        let weight = r#""weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let read = |header: &str, data| read(&file(header, data), &names).map(|_| ());
        assert_eq!(read(&format!("{{{weight}}}"), 4), Ok(()));
        let torch = format!(r#"{{"__metadata__":{{"format":"pt"}},{weight}}}"#);
        assert_eq!(read(&torch, 4), Ok(()));

        let short = super::read(&[1, 2], &names);
        assert!(matches!(
            short,
            Err(E::Header {
                found: 2,
                claimed: 0
            })
        ));
        let mut long = file("{}", 0);
        long[5] = 1;
        assert!(matches!(super::read(&long, &names), Err(E::Header { .. })));
        for (bytes, found) in [
            (&[][..], "a file of 0 bytes that does not begin"),
            (
                b"\xff\xd8\xff\xe0\0\x10JFIF",
                "a file of 10 bytes that does not begin",
            ),
            (
                &file(&" ".repeat(1048577), 0),
                "a header of 1048577 bytes, ",
            ),
        ] {
            let message = super::read(bytes, &names).err().unwrap().to_string();
            assert!(
                message.starts_with(&format!("header: found {found}")),
                "{message}"
            );
            assert!(
                message.ends_with("a header of at most 1048576 bytes"),
                "{message}"
            );
        }
        // Trailing bytes, a hole, an overflow, no JSON: errors of the crate.
        let huge = weight.replace("[1]", "[4294967296,4294967296,4]");
        let hole = weight.replace("[0,4]", "[4,8]");
        for (header, data) in [(weight, 5), (&*hole, 8), (&*huge, 4), ("x", 4)] {
            let found = read(&format!("{{{header}}}"), data);
            assert!(matches!(found, Err(E::Parse(_))), "{header}: {found:?}");
        }
        let more =
            format!(r#"{{{weight},"more":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}"#);
        assert!(matches!(read(&more, 8), Err(E::Names { .. })));
        assert!(matches!(read("{}", 0), Err(E::Names { .. })));
        let dtype = format!("{{{}}}", weight.replace("F32", "I32"));
        assert!(matches!(read(&dtype, 4), Err(E::Dtype { .. })));
        for metadata in [
            r#"{"author":"x"}"#,
            r#"{"flowreg":"x"}"#,
            r#"{"format":"tf"}"#,
            r#"{"format":"pt","flowreg":"{}"}"#,
        ] {
            let header = format!(r#"{{"__metadata__":{metadata},{weight}}}"#);
            let found = read(&header, 4);
            assert!(matches!(found, Err(E::Metadata { .. })), "{metadata}");
        }
        let checksummed = |crc| {
            format!(
                r#"{{"__metadata__":{{"flowreg":"{{\"about\":1,\"crc32\":\"{crc}\"}}"}},{weight}}}"#
            )
        };
        assert!(matches!(
            read(&checksummed("00000000"), 4),
            Err(E::Checksum { .. })
        ));
        let Err(E::Checksum { found, .. }) = read(&checksummed("00000000"), 4) else {
            unreachable!()
        };
        // The right checksum, but the header is not padded as flowreg pads it.
        assert_eq!(read(&checksummed(&found), 4), Err(E::NotCanonical));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(header in ".{0,200}", data in 0usize..64, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes, &NAMES);
            let _ = read(&file(&header, data), &NAMES);
        }
    }
}
