//! A prepared dataset: a directory with `dataset.json` and, for each split,
//! `SPLIT.x.npy` (`<f4`, rows x features) and `SPLIT.y.npy` (`<i8`).
//!
//! `numpy.load("train.x.npy", mmap_mode="r")` opens them as well.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::samples::Samples;
use super::store::{MappedMatrix, read_labels};
use crate::error::{Error, Result};

/// File name of the manifest.
pub const MANIFEST: &str = "dataset.json";
/// Version of the format that this crate writes and reads.
const VERSION: u32 = 1;
/// Manifests are small; more is refused before it is read.
const MAX_MANIFEST: u64 = 16 << 20;

/// `dataset.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format: 1.
    pub version: u32,
    /// Where the photographs came from.
    pub source: String,
    /// How a photograph became a row.
    pub transform: Transform,
    /// d: values a row.
    pub features: usize,
    /// Name of each class, by label.
    pub class_names: Vec<String>,
    /// The splits.
    pub splits: Vec<SplitEntry>,
}

/// How a photograph becomes a row of `3 * size * size` values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// Side of the square that the photograph is resized to, in pixels.
    pub size: usize,
    /// `"bilinear-antialias"`, Pillow's.
    pub filter: String,
    /// `"chw"`: all red values, then green, then blue, each row after row.
    pub layout: String,
    /// `"u8/255"`, in f32.
    pub scale: String,
}

/// One split of the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// `train`, `val`, `test`, …; the files are named after it.
    pub name: String,
    /// n.
    pub rows: usize,
    /// SHA-256 of the matrix, without the file's header.
    pub x_sha256: String,
    /// SHA-256 of the labels, without the file's header.
    pub y_sha256: String,
}

impl Manifest {
    /// A manifest without splits, for photographs resized to `size`.
    pub(crate) fn new(source: String, class_names: Vec<String>, size: usize) -> Manifest {
        Manifest {
            version: VERSION,
            source,
            transform: Transform {
                size,
                filter: "bilinear-antialias".to_string(),
                layout: "chw".to_string(),
                scale: "u8/255".to_string(),
            },
            features: 3 * size * size,
            class_names,
            splits: Vec::new(),
        }
    }
}

/// File name of a split's features.
pub(crate) fn x_file(split: &str) -> String {
    format!("{split}.x.npy")
}

/// File name of a split's labels.
pub(crate) fn y_file(split: &str) -> String {
    format!("{split}.y.npy")
}

/// An opened dataset directory.
#[derive(Clone, Debug)]
pub struct Dataset {
    dir: PathBuf,
    manifest: Manifest,
}

/// One split of a dataset, memory-mapped.
#[derive(Debug)]
pub struct Split {
    x: MappedMatrix,
    y: Vec<i64>,
    classes: usize,
}

impl Dataset {
    /// Open the directory and check its manifest. No matrix is read.
    ///
    /// ```no_run
    /// let dataset = flowreg::Dataset::open("flowers")?;
    /// let train = dataset.split("train")?;
    /// println!("{} rows", train.samples()?.rows());
    /// # Ok::<(), flowreg::Error>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<Dataset> {
        let dir = dir.as_ref().to_path_buf();
        let path = dir.join(MANIFEST);
        let len = std::fs::metadata(&path)
            .map_err(Error::io(
                &path,
                "open the dataset (flowreg-prep makes one)",
            ))?
            .len();
        if len > MAX_MANIFEST {
            let expected = format!("at most {MAX_MANIFEST} bytes");
            return Err(Error::format(&path, "length", len, expected));
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, "json", error, "a manifest of version 1"))?;
        if manifest.version != VERSION {
            return Err(Error::format(
                &path,
                "version",
                manifest.version,
                format!("{VERSION}; this flowreg is of another time, prepare the dataset again"),
            ));
        }
        let names: Vec<&str> = manifest.splits.iter().map(|s| s.name.as_str()).collect();
        for (i, name) in names.iter().enumerate() {
            // Names become file names: nothing that could leave the directory.
            let plain = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !plain || names[..i].contains(name) {
                return Err(Error::format(
                    &path,
                    format!("splits[{i}].name"),
                    format!("{name:?}"),
                    "letters, digits, '-' and '_', each name once",
                ));
            }
        }
        Ok(Dataset { dir, manifest })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Map the features of a split and read its labels.
    ///
    /// # Errors
    /// If there is no such split, or its files are not what the manifest says.
    pub fn split(&self, name: &str) -> Result<Split> {
        let Some(entry) = self.manifest.splits.iter().find(|s| s.name == name) else {
            let names: Vec<&str> = (self.manifest.splits.iter().map(|s| s.name.as_str())).collect();
            return Err(Error::format(
                &self.dir.join(MANIFEST),
                "splits",
                format!("no split {name:?}"),
                format!("one of {}", names.join(", ")),
            ));
        };
        let x_path = self.dir.join(x_file(name));
        let y_path = self.dir.join(y_file(name));
        let x = MappedMatrix::open(&x_path)?;
        let shape = (x.view().rows(), x.view().cols());
        if shape != (entry.rows, self.manifest.features) {
            return Err(Error::format(
                &x_path,
                "shape",
                format!("{} x {}", shape.0, shape.1),
                format!(
                    "{} x {} as {MANIFEST} says",
                    entry.rows, self.manifest.features
                ),
            ));
        }
        let y = read_labels(&y_path)?;
        if y.len() != entry.rows {
            let expected = format!("{} as {MANIFEST} says", entry.rows);
            return Err(Error::format(&y_path, "rows", y.len(), expected));
        }
        let classes = self.manifest.class_names.len();
        if let Some((row, label)) =
            (y.iter().enumerate()).find(|(_, label)| !(0..classes as i64).contains(label))
        {
            return Err(Error::format(
                &y_path,
                format!("label of row {row}"),
                label,
                format!("0..{classes}, the classes of {MANIFEST}"),
            ));
        }
        Ok(Split { x, y, classes })
    }
}

impl Split {
    /// The split's rows, borrowed from the map.
    pub fn samples(&self) -> Result<Samples<'_>> {
        Samples::from_matrix(self.x.view(), &self.y, self.classes)
    }
}
