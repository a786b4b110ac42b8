//! Writer of a dataset: its splits sequentially, its manifest last.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::data::checks;
use crate::data::dataset::{
    MANIFEST, Manifest, Prepared, SplitEntry, TRAIN, files_file, x_file, y_file,
};
use crate::data::in_order::{in_order, lock};
use crate::error::Result;
use crate::io::blocks::Blocks;
use crate::io::files;
use crate::io::files::NewFile;
use crate::io::npy::{Dtype, Header};
use crate::io::publish::Staging;
use crate::progress::Cancel;
use crate::threads;
use crate::threads::Work;

/// Bytes of a block of rows, which stays in the cache while it is filled, written and hashed.
const BLOCK_BYTES: usize = 4 << 20;
/// Number of blocks in memory: one is filled, one written and one hashed.
const BLOCKS: usize = 3;

/// Number of rows of a block, at least one.
pub(crate) fn block_rows(features: usize) -> usize {
    (BLOCK_BYTES / features.saturating_mul(4).max(1)).max(1)
}

/// Writer of a dataset, which appears complete or not at all.
pub(crate) struct DatasetWriter {
    staging: Staging,
    /// The manifest, with the splits written up to now.
    pub manifest: Manifest,
    /// Stops the writing when set.
    pub cancel: Cancel,
    /// Number of photographs with an orientation by EXIF or XMP that was ignored.
    pub ignored_orientations: usize,
    train_labels: Vec<i64>,
}

impl DatasetWriter {
    /// A writer with a manifest without splits.
    pub fn new(staging: Staging, manifest: Manifest, cancel: Option<Cancel>) -> DatasetWriter {
        DatasetWriter {
            staging,
            manifest,
            cancel: cancel.unwrap_or_default(),
            ignored_orientations: 0,
            train_labels: Vec::new(),
        }
    }

    /// Write a split of numbers. `fill` is called for successive blocks of `block_rows` rows, while
    /// earlier blocks are written and hashed on other threads. `source` is the file of the labels,
    /// for messages. Memory: three blocks.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for a split without rows or features, and for
    /// training rows of a single class; the first error of `fill`, which is then not called again.
    pub fn write_split(
        &mut self,
        name: &str,
        source: &Path,
        labels: Vec<i64>,
        block_rows: usize,
        mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()> + Send,
    ) -> Result<()> {
        let (rows, features) = (labels.len(), self.manifest.features);
        checks::refuse_empty(source, rows, features)?;
        self.refuse_one_class(name, source, &labels)?;
        let mut x = self.begin_matrix(name)?;
        let cancel = self.cancel.clone();
        let MatrixWriter { file, sums, .. } = &mut x;
        let file = Mutex::new(file);
        // Blocks are reused.
        let emptied = Mutex::new(Vec::<Vec<f32>>::new());
        let mut failed = false;
        let fill = |block: usize| -> Result<Vec<f32>> {
            let mut values = lock(&emptied).pop().unwrap_or_default();
            // The error is returned after the earlier blocks are written; this block is not.
            if failed {
                return Ok(values);
            }
            let start = block * block_rows;
            let range = start..(start + block_rows).min(rows);
            values.resize(range.len() * features, 0.0);
            let filled = cancel.check().and_then(|()| fill(range, &mut values));
            failed = filled.is_err();
            filled.map(|()| values)
        };
        let write = |(): &mut (), block: usize, filled: Result<Vec<f32>>| {
            let values = filled?;
            let at = HEADER as u64 + 4 * (block * block_rows) as u64 * features as u64;
            lock(&file).write_at(at, bytemuck::cast_slice(&values))?;
            Ok(values)
        };
        let hash = |_, written: Result<Vec<f32>>| {
            let values = written?;
            sums.update(bytemuck::cast_slice(&values));
            lock(&emptied).push(values);
            Ok(())
        };
        let blocks = rows.div_ceil(block_rows);
        // A value is converted, written and hashed in about 4 ns.
        let length = Work::bytes(rows.saturating_mul(features).saturating_mul(32));
        threads::run(None, length, || {
            in_order(blocks, BLOCKS, fill, || (), write, hash)
        })??;
        self.finish_split(name, x, labels, None)
    }

    /// Refuse training rows of a single class.
    pub fn refuse_one_class(&self, name: &str, source: &Path, labels: &[i64]) -> Result<()> {
        if name == TRAIN {
            checks::refuse_one_class(source, labels, &self.manifest.class_names)?;
        }
        Ok(())
    }

    /// Begin the matrix of a split, to be written row by row.
    pub fn begin_matrix(&self, name: &str) -> Result<MatrixWriter> {
        MatrixWriter::create(&self.staging.dir().join(x_file(name)), Dtype::F32)
    }

    /// Finish the matrix, and write the labels and, for photographs, their file names.
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
            Ok(crate::data::hex(&Sha256::digest(&json)))
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

    /// Write the manifest, and publish the dataset.
    pub fn publish(self) -> Result<Prepared> {
        let manifest = self.manifest.sealed();
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        self.staging.write(MANIFEST, &json)?;
        self.staging.publish()?;
        Ok(Prepared {
            manifest,
            train_labels: self.train_labels,
            ignored_orientations: self.ignored_orientations,
        })
    }
}

/// Writer of a `.npy` file, which hashes the data.
pub(crate) struct MatrixWriter {
    file: NewFile,
    dtype: Dtype,
    sums: Sums,
}

/// SHA-256 and CRC-32 of sequential data.
#[derive(Default)]
struct Sums {
    sha256: Sha256,
    crc32: Blocks,
}

impl Sums {
    fn update(&mut self, data: &[u8]) {
        // In pieces that stay in the cache for the second hash.
        for data in data.chunks(1 << 18) {
            self.sha256.update(data);
            self.crc32.update(data);
        }
    }
}

impl MatrixWriter {
    /// Create the file; the shape is given to [`Self::finish`].
    pub fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&[0; HEADER])?;
        Ok(MatrixWriter {
            file,
            dtype,
            sums: Sums::default(),
        })
    }

    pub fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file.append(data)?;
        self.sums.update(data);
        Ok(())
    }

    /// Write the header and flush the file. Returns SHA-256 and CRC-32 of the data.
    pub fn finish(mut self, shape: &[usize]) -> Result<(String, String)> {
        let header = Header::encode(self.dtype, shape);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.finish()?;
        let Sums { sha256, crc32 } = self.sums;
        Ok((crate::data::hex(&sha256.finalize()), crc32.to_hex()))
    }
}

/// Length of the header of every array of one or two dimensions.
const HEADER: usize = 128;
