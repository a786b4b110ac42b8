//! A dataset being written: its splits front to back, its manifest last.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::blocks::Blocks;
use super::checks;
use super::dataset::{MANIFEST, Manifest, SplitEntry, TRAIN, files_file, x_file, y_file};
use super::in_order::{in_order, lock};
use super::npy::{Dtype, Header};
use crate::error::Result;
use crate::files::{self, NewFile};
use crate::interrupt;
use crate::publish::Staging;

/// Bytes of rows that are made and written together: they stay in the cache from one to the other.
const BLOCK_BYTES: usize = 4 << 20;
/// Blocks in memory: one is filled, one written and one hashed.
const BLOCKS: usize = 3;

/// Rows of a block, at least one.
pub(crate) fn block_rows(features: usize) -> usize {
    (BLOCK_BYTES / features.saturating_mul(4).max(1)).max(1)
}

/// Seal and write the manifest, and let the dataset appear.
pub(crate) fn publish(staging: Staging, manifest: Manifest) -> Result<Manifest> {
    let manifest = manifest.sealed();
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    staging.write(MANIFEST, &json)?;
    staging.publish()?;
    Ok(manifest)
}

/// Write a split of `rows x features` numbers: `fill` is asked for one block of `block_rows` rows
/// after another, while blocks before it are written and hashed on other threads of the pool.
/// `source` is the file of the labels, for messages. Memory: three blocks.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) for a split without rows or features, and for one class
/// to train on; the first error of `fill`, which is then not called again.
pub(crate) fn write_split(
    dir: &Path,
    name: &str,
    source: &Path,
    features: usize,
    labels: &[i64],
    block_rows: usize,
    mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()> + Send,
) -> Result<SplitEntry> {
    let rows = labels.len();
    checks::refuse_empty(source, rows, features)?;
    if name == TRAIN {
        checks::refuse_one_class(source, labels)?;
    }
    let mut x = ArrayFile::create(&dir.join(x_file(name)), Dtype::F32)?;
    let ArrayFile { file, sums, .. } = &mut x;
    let file = Mutex::new(file);
    // Blocks go back to be filled again.
    let emptied = Mutex::new(Vec::<Vec<f32>>::new());
    let mut failed = false;
    let fill = |block: usize| -> Result<Vec<f32>> {
        let mut values = lock(&emptied).pop().unwrap_or_default();
        // The error stops all once the blocks before it are written; this one is not.
        if failed {
            return Ok(values);
        }
        let start = block * block_rows;
        let range = start..(start + block_rows).min(rows);
        values.resize(range.len() * features, 0.0);
        let filled = interrupt::check().and_then(|()| fill(range, &mut values));
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
    in_order(blocks, BLOCKS, fill, || (), write, hash)?;
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
        Ok(super::hex(&Sha256::digest(&json)))
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
    sums: Sums,
}

/// SHA-256 and CRC-32 of data that comes front to back.
#[derive(Default)]
struct Sums {
    sha256: Sha256,
    crc32: Blocks,
}

impl Sums {
    fn update(&mut self, data: &[u8]) {
        // The second finds in the cache what the first has read.
        for data in data.chunks(1 << 18) {
            self.sha256.update(data);
            self.crc32.update(data);
        }
    }
}

impl ArrayFile {
    /// Begin; the shape is known at the end.
    pub fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&[0; HEADER])?;
        Ok(ArrayFile {
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

    /// Put the header in and flush to the disk; SHA-256 and CRC-32 of the data.
    pub fn finish(mut self, shape: &[usize]) -> Result<(String, String)> {
        let header = Header::encode(self.dtype, shape);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.finish()?;
        let Sums { sha256, crc32 } = self.sums;
        Ok((super::hex(&sha256.finalize()), crc32.to_hex()))
    }
}

/// Length of every header of one or two dimensions.
const HEADER: usize = 128;
