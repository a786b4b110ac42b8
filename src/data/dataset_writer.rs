//! A dataset being written: its splits front to back, its manifest last.

use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::blocks::Blocks;
use super::checks;
use super::dataset::{MANIFEST, Manifest, Prepared, SplitEntry, TRAIN, files_file, x_file, y_file};
use super::npy::{Dtype, Header};
use crate::error::Result;
use crate::files::{self, NewFile};
use crate::interrupt;
use crate::publish::Staging;

/// Bytes of rows that are made and written together.
pub(crate) const BLOCK_BYTES: usize = 32 << 20;

/// A dataset being written, which appears complete or not at all.
pub(crate) struct DatasetWriter {
    staging: Staging,
    /// Its splits are added as they are written.
    pub manifest: Manifest,
    train_labels: Vec<i64>,
}

impl DatasetWriter {
    /// Begin with the manifest of no splits.
    pub fn new(staging: Staging, manifest: Manifest) -> DatasetWriter {
        let train_labels = Vec::new();
        DatasetWriter {
            staging,
            manifest,
            train_labels,
        }
    }

    /// Write a split of numbers: `fill` is asked for one block of rows after another. `source` is
    /// the file of the labels, for messages.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for a split without rows or features, and for one
    /// class to train on.
    pub fn write_split(
        &mut self,
        name: &str,
        source: &Path,
        labels: Vec<i64>,
        mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (rows, features) = (labels.len(), self.manifest.features);
        checks::refuse_empty(source, rows, features)?;
        self.refuse_one_class(name, source, &labels)?;
        let mut x = self.begin_matrix(name)?;
        let block_rows = (BLOCK_BYTES / features.saturating_mul(4)).max(1);
        let mut block = Vec::new();
        for start in (0..rows).step_by(block_rows) {
            interrupt::check()?;
            let range = start..(start + block_rows).min(rows);
            block.resize(range.len() * features, 0.0);
            fill(range, &mut block)?;
            x.append(bytemuck::cast_slice(&block))?;
        }
        self.finish_split(name, x, labels, None)
    }

    /// Refuse one class to train on.
    pub fn refuse_one_class(&self, name: &str, source: &Path, labels: &[i64]) -> Result<()> {
        if name == TRAIN {
            checks::refuse_one_class(source, labels, &self.manifest.class_names)?;
        }
        Ok(())
    }

    /// The matrix of a split, to be written row by row.
    pub fn begin_matrix(&self, name: &str) -> Result<MatrixWriter> {
        MatrixWriter::create(&self.staging.dir().join(x_file(name)), Dtype::F32)
    }

    /// Finish the matrix and write what belongs to it: the labels and, of photographs, the names
    /// of their files.
    pub fn finish_split(
        &mut self,
        name: &str,
        x: MatrixWriter,
        labels: Vec<i64>,
        files: Option<&[&str]>,
    ) -> Result<()> {
        let (rows, dir) = (labels.len(), self.staging.dir());
        let (x_sha256, x_crc32) = x.finish(&[rows, self.manifest.features])?;
        let mut y = MatrixWriter::create(&dir.join(y_file(name)), Dtype::I64)?;
        y.append(bytemuck::cast_slice(&labels))?;
        let (y_sha256, _) = y.finish(&[rows])?;
        let write_names = |names: &[&str]| {
            let json = serde_json::to_vec(names).expect("names are text");
            files::write(&dir.join(files_file(name)), &json)?;
            Ok(super::hex(&Sha256::digest(&json)))
        };
        self.manifest.splits.push(SplitEntry {
            name: name.to_string(),
            rows,
            x_sha256,
            x_crc32,
            y_sha256,
            files_sha256: files.map(write_names).transpose()?,
        });
        if name == TRAIN {
            self.train_labels = labels;
        }
        Ok(())
    }

    /// Seal and write the manifest, and let the dataset appear.
    pub fn publish(self) -> Result<Prepared> {
        let manifest = self.manifest.sealed();
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        self.staging.write(MANIFEST, &json)?;
        self.staging.publish()?;
        Ok(Prepared {
            manifest,
            train_labels: self.train_labels,
        })
    }
}

/// A `.npy` file being written front to back and hashed on the way.
pub(crate) struct MatrixWriter {
    file: NewFile,
    dtype: Dtype,
    sha256: Sha256,
    crc32: Blocks,
}

impl MatrixWriter {
    /// Begin; the shape is known at the end.
    pub fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&[0; HEADER])?;
        Ok(MatrixWriter {
            file,
            dtype,
            sha256: Sha256::new(),
            crc32: Blocks::default(),
        })
    }

    pub fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file.append(data)?;
        self.sha256.update(data);
        self.crc32.update(data);
        Ok(())
    }

    /// Put the header in and flush to the disk; SHA-256 and CRC-32 of the data.
    pub fn finish(mut self, shape: &[usize]) -> Result<(String, String)> {
        let header = Header::encode(self.dtype, shape);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.finish()?;
        Ok((super::hex(&self.sha256.finalize()), self.crc32.to_hex()))
    }
}

/// Length of every header of one or two dimensions.
const HEADER: usize = 128;
