//! A prepared dataset: a directory with `dataset.json` and, for each split,
//! `SPLIT.x.npy` (`<f4`, rows x features) and `SPLIT.y.npy` (`<i8`); of photographs also
//! `SPLIT.files.json`, the name of each row's file.
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
/// As is a list of names.
const MAX_FILES: u64 = 1 << 30;

/// `dataset.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format: 1.
    pub version: u32,
    /// Where the photographs came from.
    pub source: String,
    /// How a photograph became a row; absent if the rows were given as numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
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

impl Transform {
    /// The one transform there is, at this size.
    pub(crate) fn of_photographs(size: usize) -> Transform {
        Transform {
            size,
            filter: "bilinear-antialias".to_string(),
            layout: "chw".to_string(),
            scale: "u8/255".to_string(),
        }
    }
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

    /// A manifest without splits, for rows of so many numbers.
    pub(crate) fn of_numbers(
        source: String,
        class_names: Vec<String>,
        features: usize,
    ) -> Manifest {
        Manifest {
            version: VERSION,
            source,
            transform: None,
            features,
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

/// File name of the list of a split's photographs, in row order.
pub(crate) fn files_file(split: &str) -> String {
    format!("{split}.files.json")
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
    files: Option<Vec<String>>,
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
        let files = self.files(name, entry.rows)?;
        Ok(Split {
            x,
            y,
            classes,
            files,
        })
    }

    /// The names of a split's photographs; `None` if nobody wrote them down.
    fn files(&self, name: &str, rows: usize) -> Result<Option<Vec<String>>> {
        let path = self.dir.join(files_file(name));
        let bytes = match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_FILES => {
                let expected = format!("at most {MAX_FILES} bytes");
                return Err(Error::format(&path, "length", found.len(), expected));
            }
            Ok(_) => std::fs::read(&path).map_err(Error::io(&path, "read"))?,
            Err(_) => return Ok(None),
        };
        let files: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, "json", error, "a list of names"))?;
        match files.len() == rows {
            true => Ok(Some(files)),
            false => {
                let expected = format!("{rows} as {MANIFEST} says");
                Err(Error::format(&path, "names", files.len(), expected))
            }
        }
    }
}

impl Split {
    /// Map `<f4` features (n x d) and read labels (n) that some other tool saved.
    ///
    /// There are as many classes as `classes` says, or as the labels, from 0, need.
    ///
    /// # Errors
    /// [`Error::Npy`] and [`Error::Format`] if the files are not such arrays, if the rows and
    /// labels are not as many, or if a label is below 0 or not below `classes`.
    pub fn of_arrays(x: &Path, y: &Path, classes: Option<usize>) -> Result<Split> {
        let labels = read_labels(y)?;
        let x = MappedMatrix::open(x)?;
        let rows = x.view().rows();
        if labels.len() != rows || rows == 0 {
            let expected = format!("one label a row, {rows}, and at least one row");
            return Err(Error::format(y, "labels", labels.len(), expected));
        }
        let needed = labels.iter().max().map_or(0, |most| most.saturating_add(1));
        // No more classes than rows, or a wild label would make a matrix of W that none holds.
        let classes = classes.map_or(needed.min(rows as i64), |classes| classes as i64);
        if let Some((row, label)) =
            (labels.iter().enumerate()).find(|(_, label)| !(0..classes).contains(label))
        {
            return Err(Error::format(
                y,
                format!("label of row {row}"),
                label,
                format!("0..{classes}: classes are numbered from 0, and no more than rows to fit"),
            ));
        }
        Ok(Split {
            x,
            y: labels,
            classes: (classes as usize).max(2),
            files: None,
        })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The file of each row, relative to where the photographs lay; `None` if unknown.
    pub fn files(&self) -> Option<&[String]> {
        self.files.as_deref()
    }

    /// The split's rows, borrowed from the map.
    pub fn samples(&self) -> Result<Samples<'_>> {
        Samples::from_matrix(self.x.view(), &self.y, self.classes)
    }
}
