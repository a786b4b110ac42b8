//! A dataset being written: its splits front to back, its manifest last.

use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::data::checks;
use crate::data::dataset::{MANIFEST, Manifest, SplitEntry, TRAIN, files_file, x_file, y_file};
use crate::error::Result;
use crate::interrupt;
use crate::io::blocks::Blocks;
use crate::io::files::{self, NewFile};
use crate::io::npy::{Dtype, Header};
use crate::io::publish::Staging;

/// Bytes of rows that are made and written together.
pub(crate) const BLOCK_BYTES: usize = 32 << 20;

/// Seal and write the manifest, and let the dataset appear.
pub(crate) fn publish(staging: Staging, manifest: Manifest) -> Result<Manifest> {
    let manifest = manifest.sealed();
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    staging.write(MANIFEST, &json)?;
    staging.publish()?;
    Ok(manifest)
}

/// Write a split of `rows x features` numbers: `fill` is asked for one block of rows after
/// another. `source` is the file of the labels, for messages.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) for a split without rows or features, and for one class to train on.
pub(crate) fn write_split(
    dir: &Path,
    name: &str,
    source: &Path,
    features: usize,
    labels: &[i64],
    mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()>,
) -> Result<SplitEntry> {
    let rows = labels.len();
    checks::refuse_empty(source, rows, features)?;
    if name == TRAIN {
        checks::refuse_one_class(source, labels)?;
    }
    let mut x = ArrayFile::create(&dir.join(x_file(name)), Dtype::F32)?;
    let block_rows = (BLOCK_BYTES / features.saturating_mul(4)).max(1);
    let mut block = Vec::new();
    for start in (0..rows).step_by(block_rows) {
        interrupt::check()?;
        let range = start..(start + block_rows).min(rows);
        block.resize(range.len() * features, 0.0);
        fill(range, &mut block)?;
        x.append(bytemuck::cast_slice(&block))?;
    }
    finish_split(dir, name, x, features, labels, None)
}

/// Finish the matrix and write what belongs to it: the labels and, of photographs, the names.
pub(crate) fn finish_split(
    dir: &Path,
    name: &str,
    x: ArrayFile,
    features: usize,
    labels: &[i64],
    names: Option<&[&str]>,
) -> Result<SplitEntry> {
    let rows = labels.len();
    let (x_sha256, x_crc32) = x.finish(&[rows, features])?;
    let mut y = ArrayFile::create(&dir.join(y_file(name)), Dtype::I64)?;
    y.append(bytemuck::cast_slice(labels))?;
    let (y_sha256, _) = y.finish(&[rows])?;
    let write_names = |names: &[&str]| {
        let json = serde_json::to_vec(names).expect("names are text");
        files::write(&dir.join(files_file(name)), &json)?;
        Ok(crate::data::hex(&Sha256::digest(&json)))
    };
    Ok(SplitEntry {
        name: name.to_string(),
        rows,
        x_sha256,
        x_crc32,
        y_sha256,
        files_sha256: names.map(write_names).transpose()?,
    })
}

/// A `.npy` file being written front to back and hashed on the way.
pub(crate) struct ArrayFile {
    file: NewFile,
    dtype: Dtype,
    sha256: Sha256,
    crc32: Blocks,
}

impl ArrayFile {
    /// Begin; the shape is known at the end.
    pub fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&[0; HEADER])?;
        Ok(ArrayFile {
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
        Ok((
            crate::data::hex(&self.sha256.finalize()),
            self.crc32.to_hex(),
        ))
    }
}

/// Length of every header of one or two dimensions.
const HEADER: usize = 128;
