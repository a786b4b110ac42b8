//! `dataset.json`, the manifest of a dataset: its contents, checksums, and how its rows were
//! computed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::blocks;

/// Version of the format that this crate writes.
const VERSION: u32 = 3;
/// Oldest version that it reads: 2 is 3 without [`Manifest::numbers`] and [`Manifest::left_out`].
const OLDEST: u32 = 2;
/// The contents of `dataset.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format: 3.
    pub version: u32,
    /// Name of the source: a file or folder.
    pub source: String,
    /// How a photograph was converted to a row; absent if the source has numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// How numbers were converted to a row; absent for photographs, and in version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberFormat>,
    /// d: features per row.
    pub features: usize,
    /// Name of each class, by label.
    pub class_names: Vec<String>,
    /// The splits.
    pub splits: Vec<SplitEntry>,
    /// Photographs that were left out, with reasons.
    pub skipped: Vec<String>,
    /// Other entries of the source that were left out, a sentence per kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// CRC-32 of the compact JSON of the manifest with an empty `crc32`.
    pub crc32: String,
}

/// The conversion of a photograph to a row of `3 * size * size` values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// Side of the square that the photograph is resized to, in pixels.
    pub size: usize,
    /// `"bilinear-antialias"`, Pillow's.
    pub filter: String,
    /// `"chw"`: all red values, then green, then blue, each row by row.
    pub layout: String,
    /// `"u8/255"`, in f32.
    pub scale: String,
    /// `"exif"` if the photograph is turned by its EXIF orientation; absent if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<String>,
}

/// The conversion of a file's numbers to features: value j is stored as `f32(scale(v_j) - shift_j)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberFormat {
    /// `"u8/255"` if bytes were divided by 255; absent if values are not scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
    /// Number of the first feature in LIBSVM's text: 0 or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_index: Option<u8>,
    /// Names of the columns of a table, in the order of the features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Delimiter of a table, if it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// The number subtracted from each feature, in f64, before it is rounded to f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<Vec<f64>>,
}

/// `scale` of bytes divided by 255.
pub const BYTES: &str = "u8/255";
/// `filter` of photographs.
const FILTER: &str = "bilinear-antialias";
/// `layout` of photographs.
const LAYOUT: &str = "chw";
/// `orientation` of photographs that are turned by their EXIF orientation.
pub(crate) const EXIF: &str = "exif";

impl NumberFormat {
    /// The first invalid field of a format of `features` features: its name, what was found, and what
    /// was expected.
    pub fn contradiction(&self, features: usize) -> Option<(&'static str, String, String)> {
        if let Some(scale) = self.scale.as_ref().filter(|scale| *scale != BYTES) {
            return Some(("scale", format!("{scale:?}"), format!("{BYTES:?}")));
        }
        if let Some(first) = self.first_index.filter(|&first| first > 1) {
            return Some(("first_index", first.to_string(), "0 or 1".to_string()));
        }
        let is_delimiter = |c: char| c.is_ascii() && !matches!(c, '"' | '\r' | '\n');
        if let Some(other) = self.delimiter.filter(|&c| !is_delimiter(c)) {
            let expected = "one ASCII character that is no quote and no line end".to_string();
            return Some(("delimiter", format!("{other:?}"), expected));
        }
        let lengths = [
            ("columns", self.columns.as_ref().map(Vec::len)),
            ("shift", self.shift.as_ref().map(Vec::len)),
        ];
        for (field, length) in lengths {
            if let Some(length) = length.filter(|&length| length != features) {
                let expected = format!("{features}: one per feature");
                return Some((field, format!("{length} entries"), expected));
            }
        }
        let shift = self.shift.iter().flatten().enumerate();
        let (j, value) = shift.into_iter().find(|(_, value)| !value.is_finite())?;
        Some((
            "shift",
            format!("{value} of feature {j}"),
            "finite numbers".to_string(),
        ))
    }
}

impl Transform {
    /// Whether its rows have `features` features: 3 · size².
    pub fn makes(&self, features: usize) -> bool {
        let values = (self.size.checked_mul(self.size)).and_then(|area| area.checked_mul(3));
        self.size > 0 && values == Some(features)
    }

    /// The first invalid field of a transform to `features` features: its name, what was found, and
    /// what was expected.
    pub(crate) fn contradiction(&self, features: usize) -> Option<(&'static str, String, String)> {
        if !self.makes(features) {
            let found = format!("{} for {features} features", self.size);
            let expected = "features of 3 x size x size values".to_string();
            return Some(("size", found, expected));
        }
        let fields = [
            ("filter", Some(&self.filter), FILTER),
            ("layout", Some(&self.layout), LAYOUT),
            ("scale", Some(&self.scale), BYTES),
            ("orientation", self.orientation.as_ref(), EXIF),
        ];
        let known = |found: Option<&String>, expected| found.is_none_or(|found| found == expected);
        let (field, found, expected) =
            (fields.into_iter()).find(|&(_, found, expected)| !known(found, expected))?;
        Some((field, format!("{:?}", found?), format!("{expected:?}")))
    }

    /// The transform to this size; the other fields are fixed.
    #[cfg(feature = "photographs")]
    pub(crate) fn of_photographs(size: usize) -> Transform {
        Transform {
            size,
            filter: FILTER.to_string(),
            layout: LAYOUT.to_string(),
            scale: BYTES.to_string(),
            orientation: None,
        }
    }
}

/// A split's entry in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// `train`, `val`, `test`, …; the beginning of its files' names.
    pub name: String,
    /// n: number of rows.
    pub rows: usize,
    /// SHA-256 of the matrix, without the file's header.
    pub x_sha256: String,
    /// CRC-32 of each MiB of the matrix, without the file's header: 8 digits per block.
    pub x_crc32: String,
    /// SHA-256 of the labels, without the file's header.
    pub y_sha256: String,
    /// SHA-256 of the list of the rows' photographs; absent if the source has numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_sha256: Option<String>,
}

impl Manifest {
    /// A manifest without splits, for photographs resized to `size`.
    #[cfg(feature = "photographs")]
    pub(crate) fn of_photographs(
        source: String,
        class_names: Vec<String>,
        size: usize,
    ) -> Manifest {
        Manifest {
            transform: Some(Transform::of_photographs(size)),
            ..Manifest::of_numbers(source, class_names, 3 * size * size)
        }
    }

    /// A manifest without splits, for rows of `features` numbers.
    pub(crate) fn of_numbers(
        source: String,
        class_names: Vec<String>,
        features: usize,
    ) -> Manifest {
        Manifest {
            version: VERSION,
            source,
            transform: None,
            numbers: None,
            features,
            class_names,
            splits: Vec::new(),
            skipped: Vec::new(),
            left_out: Vec::new(),
            crc32: String::new(),
        }
    }

    /// Set the manifest's checksum.
    pub fn sealed(mut self) -> Manifest {
        self.crc32 = String::new();
        let json = serde_json::to_vec(&self).expect("plain data");
        self.crc32 = format!("{:08x}", crc32fast::hash(&json));
        self
    }

    /// Parse the bytes of `dataset.json`; the path is for messages. Memory: proportional to the
    /// length of `bytes`.
    ///
    /// # Errors
    /// [`Error::Format`] for another version, split names that could leave the directory, sizes
    /// beyond those of files, and a wrong checksum.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bad = |field: &str, found: String, expected: String| {
            Err(Error::format(path, field, found, expected))
        };
        let of_version = format!("a manifest of version {VERSION}");
        let json = |error: serde_json::Error| Error::format(path, "json", error, &*of_version);
        let Versioned { version } = serde_json::from_slice(bytes).map_err(json)?;
        if !(OLDEST..=VERSION).contains(&version) {
            let advice = if version > VERSION {
                "it was made by a newer flowreg, which reads it"
            } else {
                "prepare the dataset again"
            };
            let expected = format!("{OLDEST} to {VERSION}; {advice}");
            return bad("version", version.to_string(), expected);
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
        let contradiction = |transform: &Transform| transform.contradiction(manifest.features);
        if let Some((field, found, expected)) = manifest.transform.as_ref().and_then(contradiction)
        {
            return bad(&format!("transform.{field}"), found, expected);
        }
        let contradiction = |numbers: &NumberFormat| numbers.contradiction(manifest.features);
        if let Some((field, found, expected)) = manifest.numbers.as_ref().and_then(contradiction) {
            return bad(&format!("numbers.{field}"), found, expected);
        }
        let names: Vec<&str> = manifest.splits.iter().map(|s| s.name.as_str()).collect();
        for (i, split) in manifest.splits.iter().enumerate() {
            // Names are parts of file names, which must not leave the directory.
            let name = split.name.as_str();
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            if name.is_empty() || !name.bytes().all(allowed) || names[..i].contains(&name) {
                let expected = "letters, digits, '-' and '_', each name once".to_string();
                return bad(&format!("splits[{i}].name"), format!("{name:?}"), expected);
            }
            let bytes = (split.rows.checked_mul(manifest.features))
                .and_then(|values| values.checked_mul(4))
                .filter(|&bytes| bytes > 0 && isize::try_from(bytes).is_ok());
            let Some(bytes) = bytes else {
                let found = format!("{} of {} features", split.rows, manifest.features);
                let expected = "at least one row and feature, and no more than a file can hold";
                let expected = expected.to_string();
                return bad(&format!("splits[{i}].rows"), found, expected);
            };
            let digits = blocks::hex_len(bytes);
            if split.x_crc32.len() != digits {
                let found = format!("{} digits", split.x_crc32.len());
                let expected = format!("{digits} for {bytes} bytes");
                return bad(&format!("splits[{i}].x_crc32"), found, expected);
            }
        }
        let expected = manifest.clone().sealed().crc32;
        if manifest.crc32 != expected {
            let expected = format!(
                "{expected}; the manifest was damaged or edited, prepare the dataset again"
            );
            return bad("crc32", manifest.crc32, expected);
        }
        Ok(manifest)
    }
}
