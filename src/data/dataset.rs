//! A prepared dataset: a directory with `dataset.json` and, for each split,
//! `SPLIT.x.npy` (`<f4`, rows x features) and `SPLIT.y.npy` (`<i8`); for photographs also
//! `SPLIT.files.json`, the file name of each row.
//!
//! `numpy.load("train.x.npy", mmap_mode="r")` opens the arrays as well.
//!
//! The manifest contains checksums of every file's data and of itself. Every [`Split`] of a dataset
//! is verified, by [`Dataset::split`].

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::design::rows::is_usable;
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

/// Name of the training split.
pub const TRAIN: &str = "train";
/// File name of the manifest.
pub const MANIFEST: &str = "dataset.json";
/// Limit on the length of a manifest, in bytes: enough for millions of column names.
const MAX_MANIFEST: u64 = 256 << 20;
/// Limit on the length of a list of file names, in bytes.
const MAX_FILES: u64 = 1 << 30;
/// Limit on the number of classes: their names, of up to 30 bytes, fit a manifest.
pub(crate) const MAX_CLASSES: usize = 1 << 19;

/// The result of a preparation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Prepared {
    /// The manifest of the dataset.
    pub manifest: Manifest,
    /// The label of each row of `train`; empty if there is no such split.
    pub train_labels: Vec<i64>,
    /// Number of photographs with an orientation by EXIF or XMP that was ignored.
    pub ignored_orientations: usize,
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

/// A split of a dataset, memory-mapped and verified.
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

    /// Map the features of a split, read its labels, and verify both: the checksums, that features
    /// are numbers of at most 10¹⁵, and that labels are classes.
    ///
    /// Cost: one parallel pass over the matrix, at the bandwidth of the memory or disk.
    ///
    /// # Errors
    /// If there is no such split, or its files contradict the manifest.
    pub fn split(&self, name: &str) -> Result<Split> {
        let split = self.open_split(name)?;
        split.verify_features()?;
        Ok(split)
    }

    /// Verify all files by their CRC-32 and SHA-256. Nothing is repaired.
    ///
    /// # Errors
    /// As [`Dataset::split`]; [`Error::Format`] for the first file whose data has another SHA-256.
    pub fn verify(&self) -> Result<()> {
        for entry in &self.manifest.splits {
            let split = self.split(&entry.name)?;
            check_sha256(split.x.path(), split.x.data(), &entry.x_sha256)?;
            split.check_unchanged()?;
        }
        Ok(())
    }

    /// The manifest's entry of a split. No file is read.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such split; it names the splits.
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
    /// A split of features that another tool saved, and labels below `classes`.
    ///
    /// Cost: as [`Dataset::split`]. The checksums are computed here, for
    /// [`Split::check_unchanged`].
    ///
    /// # Errors
    /// [`Error::Format`] for a feature that is not a number of at most 10¹⁵.
    pub(crate) fn of_matrix(
        x: Matrix,
        y: Vec<i64>,
        y_path: &Path,
        classes: usize,
    ) -> Result<Split> {
        let unusable = Unusable::default();
        let x_crc32 = blocks::checksums(x.data(), |range, data| unusable.check(range, data));
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

    /// Whether the features are mapped from their file, not in memory.
    pub fn is_mapped(&self) -> bool {
        matches!(self.x, Matrix::Mapped(_))
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The file of each row, relative to the folder of the photographs; `None` if unknown.
    pub fn files(&self) -> Option<&[String]> {
        self.files.as_deref()
    }

    /// The rows and labels, borrowed.
    ///
    /// # Errors
    /// As [`Split::first_classes`].
    pub fn samples(&self) -> Result<Samples<'_>> {
        self.first_classes(self.classes)
    }

    /// The rows whose label is below `classes`, as samples of `classes` classes, which may be more
    /// than [`Split::classes`].
    ///
    /// # Errors
    /// [`Error::Format`], which names the labels' file, if a weight of `classes` x features exceeds
    /// the memory; [`Error::Options`] if `classes` is below 2 or no row has such a label.
    pub fn first_classes(&self, classes: usize) -> Result<Samples<'_>> {
        let x = self.x.view();
        if let Some((found, expected)) = beyond_memory(classes, x.cols()) {
            return Err(Error::format(&self.y_path, "labels", found, expected));
        }
        let samples = Samples::of_any_classes(Rows::new(x), &self.y, self.classes)?;
        samples.known_usable().first_classes(classes)
    }

    /// The file of the labels.
    pub fn labels_path(&self) -> &Path {
        &self.y_path
    }

    /// The label of each row.
    pub fn labels(&self) -> &[i64] {
        &self.y
    }

    /// Check that the matrix has not changed since it was verified: its length, modification time,
    /// and the checksums of up to 64 blocks. To be called before results are published.
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

    /// Verify the checksum of every block and the range of every feature, in one pass.
    fn verify_features(&self) -> Result<()> {
        let unusable = Unusable::default();
        let check = |range: Range<usize>, data: &[u8]| unusable.check(range, data);
        if let Some(wrong) = blocks::first_wrong(self.x.data(), &self.x_crc32, check) {
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

/// The requirement on features that this value does not meet, with advice.
pub(crate) fn usable(value: f64) -> &'static str {
    if value.is_nan() {
        "a number; fill in or drop missing values (numbers are from -1e15 to 1e15)"
    } else if value.is_finite() {
        "a number between -1e15 and 1e15, so that f32 holds sums of squares; divide larger ones by a power of ten"
    } else {
        "a number between -1e15 and 1e15, so that f32 holds sums of squares; fill in or drop missing values, scale larger ones"
    }
}

/// The place of the first unusable feature, over all threads; `usize::MAX` if there is none.
struct Unusable(AtomicUsize);

impl Default for Unusable {
    fn default() -> Self {
        Unusable(AtomicUsize::new(usize::MAX))
    }
}

impl Unusable {
    /// Check the features in a byte range of the matrix.
    fn check(&self, range: Range<usize>, data: &[u8]) {
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

/// Refuse a label that is not in `classes`; `expected` is for the message.
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

/// Refuse a header that differs in any byte from the one that flowreg writes.
fn check_header(path: &Path, header: &[u8], dtype: Dtype, shape: &[usize]) -> Result<()> {
    if header == Header::encode(dtype, shape) {
        Ok(())
    } else {
        Err(Error::format(
            path,
            "header",
            "a header that flowreg does not write",
            "that of flowreg: the file is damaged, prepare the dataset again",
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
