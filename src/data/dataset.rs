//! A prepared dataset: a directory with `dataset.json` and, for each split,
//! `SPLIT.x.npy` (`<f4`, rows x features) and `SPLIT.y.npy` (`<i8`); of photographs also
//! `SPLIT.files.json`, the name of each row's file.
//!
//! `numpy.load("train.x.npy", mmap_mode="r")` opens them as well.
//!
//! The manifest has checksums of every file's data, and one of itself. A [`Split`] is only
//! to be had verified: [`Dataset::split`] is the one place where what is read is checked.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::design::samples::{Rows, Samples, beyond_memory, position};
use crate::error::{Error, Result};
use crate::io::blocks;
use crate::io::blocks::BLOCK;
use crate::io::files;
use crate::io::mmap::{MappedMatrix, Matrix, read_labels};
use crate::io::npy::{Dtype, Header};

#[cfg(feature = "photographs")]
pub(crate) use crate::data::manifest::EXIF;
pub use crate::data::manifest::{BYTES, Manifest, NumberFormat, SplitEntry, Transform};

/// Name of the split to train on.
pub const TRAIN: &str = "train";
/// File name of the manifest.
pub const MANIFEST: &str = "dataset.json";
/// A manifest of millions of column names is as long; more is refused before it is read.
const MAX_MANIFEST: u64 = 256 << 20;
/// As is a list of names.
const MAX_FILES: u64 = 1 << 30;
/// Most classes whose names fit a manifest, at up to 30 bytes each.
pub(crate) const MAX_CLASSES: usize = 1 << 19;

/// A dataset that was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Prepared {
    /// Its manifest.
    pub manifest: Manifest,
    /// The class of each row of `train`; empty if there is no such split.
    pub train_labels: Vec<i64>,
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

/// One split of a dataset, memory-mapped and verified.
#[derive(Debug)]
pub struct Split {
    x: Matrix,
    x_crc32: String,
    y: Vec<i64>,
    y_path: PathBuf,
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
        let doing = "open the dataset (flowreg-prep makes one)";
        let manifest = Manifest::parse(&path, &files::read(&path, doing, MAX_MANIFEST)?)?;
        Ok(Dataset { dir, manifest })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Map the features of a split, read its labels, and verify both: every block's checksum,
    /// every feature a number of at most 10¹⁵, every label a class.
    ///
    /// Cost: one pass over the matrix by all threads of the current pool, at the speed of
    /// memory or of the disk.
    ///
    /// # Errors
    /// If there is no such split, or its files are not what the manifest says.
    pub fn split(&self, name: &str) -> Result<Split> {
        let split = self.open_split(name)?;
        split.verify_features()?;
        Ok(split)
    }

    /// Check every byte of every file against the manifest, SHA-256 included.
    ///
    /// # Errors
    /// Those of [`Dataset::split`]; [`Error::Format`] for the first file whose data has
    /// another SHA-256. Nothing is repaired.
    pub fn verify(&self) -> Result<()> {
        for entry in &self.manifest.splits {
            let split = self.split(&entry.name)?;
            check_sha256(split.x.path(), split.x.data(), &entry.x_sha256)?;
            split.check_unchanged()?;
        }
        Ok(())
    }

    /// What the manifest says of a split. No file is read.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such split: it names those that are there.
    pub fn entry(&self, name: &str) -> Result<&SplitEntry> {
        let splits = &self.manifest.splits;
        splits
            .iter()
            .find(|split| split.name == name)
            .ok_or_else(|| {
                let names: Vec<&str> = splits.iter().map(|split| split.name.as_str()).collect();
                Error::format(
                    &self.dir.join(MANIFEST),
                    "splits",
                    format!("no split {name:?}"),
                    format!("one of {}", names.join(", ")),
                )
            })
    }

    /// The labels of a split, verified. No matrix is read.
    ///
    /// # Errors
    /// As [`Dataset::split`].
    pub fn labels(&self, name: &str) -> Result<Vec<i64>> {
        self.open_split(name).map(|split| split.y)
    }

    /// The split with its labels verified and its features mapped.
    fn open_split(&self, name: &str) -> Result<Split> {
        let entry = self.entry(name)?;
        let (rows, features) = (entry.rows, self.manifest.features);
        let x = MappedMatrix::open(&self.dir.join(x_file(name)))?;
        let shape = (x.view().rows(), x.view().cols());
        if shape != (rows, features) {
            return Err(Error::format(
                x.path(),
                "shape",
                format!("{} x {}", shape.0, shape.1),
                format!("{rows} x {features} as {MANIFEST} says"),
            ));
        }
        check_header(x.path(), x.header(), Dtype::F32, &[rows, features])?;
        let y_path = self.dir.join(y_file(name));
        let labels = read_labels(&y_path, rows)?;
        check_header(&y_path, &labels.header, Dtype::I64, &[rows])?;
        check_sha256(&y_path, &labels.data, &entry.y_sha256)?;
        let classes = self.manifest.class_names.len();
        let expected = || format!("0..{classes}, the classes of {MANIFEST}");
        check_labels(&y_path, &labels.values, 0..classes as i64, expected)?;
        Ok(Split {
            x: Matrix::Mapped(x),
            x_crc32: entry.x_crc32.clone(),
            y: labels.values,
            y_path,
            classes,
            files: self.files(entry)?,
        })
    }

    /// The names of a split's photographs.
    fn files(&self, entry: &SplitEntry) -> Result<Option<Vec<String>>> {
        let Some(sha256) = &entry.files_sha256 else {
            return Ok(None);
        };
        let path = self.dir.join(files_file(&entry.name));
        let bytes = files::read(&path, "open", MAX_FILES)?;
        check_sha256(&path, &bytes, sha256)?;
        let files: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, "json", error, "a list of names"))?;
        if files.len() == entry.rows {
            Ok(Some(files))
        } else {
            let expected = format!("{} as {MANIFEST} says", entry.rows);
            Err(Error::format(&path, "names", files.len(), expected))
        }
    }
}

impl Split {
    /// Features that some other tool saved, and their labels, each below `classes`.
    ///
    /// Cost: as [`Dataset::split`]; the checksums are those of now, for
    /// [`Split::check_unchanged`].
    ///
    /// # Errors
    /// [`Error::Format`] for a feature that is no number of at most 10¹⁵.
    pub(crate) fn of_matrix(
        x: Matrix,
        y: Vec<i64>,
        y_path: &Path,
        classes: usize,
    ) -> Result<Split> {
        let unusable = Unusable::default();
        let x_crc32 = blocks::checksums(x.data(), |range, data| unusable.look(range, data));
        unusable.refuse(&x)?;
        Ok(Split {
            x,
            x_crc32,
            y,
            y_path: y_path.to_path_buf(),
            classes,
            files: None,
        })
    }

    /// Whether the features are mapped from their file, not held in memory.
    pub fn is_mapped(&self) -> bool {
        matches!(self.x, Matrix::Mapped(_))
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
    ///
    /// # Errors
    /// As [`Split::first_classes`].
    pub fn samples(&self) -> Result<Samples<'_>> {
        self.first_classes(self.classes)
    }

    /// The rows whose label is below `classes`, which becomes the number of classes; they may be
    /// more than [`Split::classes`].
    ///
    /// # Errors
    /// [`Error::Format`] naming the labels' file if memory cannot hold a weight of `classes` x
    /// features; [`Error::Options`] if `classes` is below 2 or no row is left.
    pub fn first_classes(&self, classes: usize) -> Result<Samples<'_>> {
        let x = self.x.view();
        if let Some((found, expected)) = beyond_memory(classes, x.cols()) {
            return Err(Error::format(&self.y_path, "labels", found, expected));
        }
        let samples = Samples::of_any_classes(Rows::new(x), &self.y, self.classes)?;
        samples.known_finite().first_classes(classes)
    }

    /// The file of the labels.
    pub fn labels_path(&self) -> &Path {
        &self.y_path
    }

    /// The label of each row.
    pub fn labels(&self) -> &[i64] {
        &self.y
    }

    /// Refuse if somebody changed the matrix since it was verified: by its length, the time of
    /// the last write, and the checksums of up to 64 blocks of it. Ask before publishing what
    /// was made of it.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check_unchanged(&self) -> Result<()> {
        const SAMPLES: usize = 64;
        self.x.check_unchanged()?;
        let data = self.x.data();
        let stride = data.len().div_ceil(BLOCK).div_ceil(SAMPLES).max(1);
        for block in (0..data.len().div_ceil(BLOCK)).step_by(stride) {
            let data = &data[block * BLOCK..data.len().min((block + 1) * BLOCK)];
            let digits = blocks::hex_len(BLOCK);
            let hex = &self.x_crc32[block * digits..][..digits];
            if blocks::first_wrong(data, hex, |_, _| ()).is_some() {
                return Err(Error::Changed {
                    path: self.x.path().to_path_buf(),
                    what: format!("bytes {}..", block * BLOCK),
                });
            }
        }
        Ok(())
    }

    /// Every block's checksum and every feature, in one pass.
    fn verify_features(&self) -> Result<()> {
        let unusable = Unusable::default();
        let look = |range: Range<usize>, data: &[u8]| unusable.look(range, data);
        if let Some(wrong) = blocks::first_wrong(self.x.data(), &self.x_crc32, look) {
            self.x.check_unchanged()?;
            return Err(Error::format(
                self.x.path(),
                format!("bytes {}..{} of the data", wrong.start, wrong.end),
                "another checksum",
                format!("that of {MANIFEST}: the file is damaged, prepare the dataset again"),
            ));
        }
        unusable.refuse(&self.x)
    }
}

/// What a feature must be instead of a value that is not usable.
pub(crate) fn usable(value: f64) -> &'static str {
    if value.is_nan() {
        "a number; fill in or drop what is missing (numbers are from -1e15 to 1e15)"
    } else if value.is_finite() {
        "a number between -1e15 and 1e15, whose square f32 can hold; divide larger ones by a power of ten"
    } else {
        "a number between -1e15 and 1e15, whose square f32 can hold; fill in or drop what is missing, scale what is larger"
    }
}

/// Whether a value can be a feature: a number between -1e15 and 1e15, whose square f32 can hold.
pub fn is_usable(value: f32) -> bool {
    value.abs() <= 1e15
}

/// The first feature that cannot be used, whichever thread finds it; `usize::MAX` for none.
struct Unusable(AtomicUsize);

impl Default for Unusable {
    fn default() -> Self {
        Unusable(AtomicUsize::new(usize::MAX))
    }
}

impl Unusable {
    /// Look at a range of the matrix's bytes.
    fn look(&self, range: Range<usize>, data: &[u8]) {
        if let Some(at) = position(bytemuck::cast_slice(data), is_usable) {
            self.0.fetch_min(range.start / 4 + at, Ordering::Relaxed);
        }
    }

    fn refuse(self, x: &Matrix) -> Result<()> {
        match self.0.into_inner() {
            usize::MAX => Ok(()),
            at => {
                let (row, column) = (at / x.view().cols(), at % x.view().cols());
                let field = format!("row {row}, column {column}");
                let value = x.view().as_slice()[at];
                Err(Error::format(x.path(), field, value, usable(value.into())))
            }
        }
    }
}

/// Refuse a label that is not one of the classes; `expected` says why not.
pub(crate) fn check_labels(
    path: &Path,
    labels: &[i64],
    classes: Range<i64>,
    expected: impl FnOnce() -> String,
) -> Result<()> {
    match (labels.iter().enumerate()).find(|(_, label)| !classes.contains(label)) {
        None => Ok(()),
        Some((row, label)) => {
            let field = format!("label of row {row}");
            Err(Error::format(path, field, label, expected()))
        }
    }
}

/// The header must be, byte for byte, the one that flowreg writes.
fn check_header(path: &Path, header: &[u8], dtype: Dtype, shape: &[usize]) -> Result<()> {
    if header == Header::encode(dtype, shape) {
        Ok(())
    } else {
        Err(Error::format(
            path,
            "header",
            "another spelling",
            "flowreg's own: the file is damaged, prepare the dataset again",
        ))
    }
}

fn check_sha256(path: &Path, data: &[u8], expected: &str) -> Result<()> {
    let found = crate::data::hex(&Sha256::digest(data));
    if found == expected {
        Ok(())
    } else {
        Err(Error::format(
            path,
            "sha256 of the data",
            found,
            format!(
                "{expected} as {MANIFEST} says: the file is damaged, prepare the dataset again"
            ),
        ))
    }
}
