//! Photographs to dataset: decode and resize in parallel, write and hash behind.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::dataset::{MANIFEST, Manifest, SplitEntry, files_file, x_file, y_file};
use super::npy::{Dtype, Header};
use super::photographs::{PhotographSplit, Photographs, pixel_to_f32};
use crate::error::{Error, Result};
use crate::publish::{Overwrite, Staging};

/// Largest side accepted: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;
/// Bytes of rows decoded together; two such blocks are in memory at a time.
const BLOCK_BYTES: usize = 32 << 20;

/// Prepare `photographs` at `size x size` into the dataset directory `out`, which appears
/// complete or not at all.
///
/// `progress` is told the number of photographs finished since its last call. Cost: about
/// 5 ms a core for a 500 x 667 photograph; memory: two blocks of 32 MB (one row at least).
///
/// # Errors
/// [`Error::Exists`], [`Error::Image`] for the first photograph that cannot be used,
/// [`Error::Io`].
pub fn prepare(
    photographs: &Photographs,
    size: usize,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::options("--size", size, format!("1..={MAX_SIZE}")));
    }
    let staging = Staging::begin(out, overwrite)?;
    let mut manifest = Manifest::of_photographs(
        photographs.source.clone(),
        photographs.class_names.clone(),
        size,
    );
    for split in &photographs.splits {
        let entry = prepare_split(split, size, staging.dir(), progress)?;
        manifest.splits.push(entry);
        let names: Vec<&str> = split.rows.iter().map(|(p, _)| p.name.as_str()).collect();
        let json = serde_json::to_vec(&names).expect("names are text");
        staging.write(&files_file(&split.name), &json)?;
    }
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    staging.write(MANIFEST, &json)?;
    staging.publish()
}

fn prepare_split(
    split: &PhotographSplit,
    size: usize,
    dir: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<SplitEntry> {
    let features = 3 * size * size;
    let rows = split.rows.len();
    let block_rows = (BLOCK_BYTES / (4 * features)).max(1);
    let lut: [f32; 256] = std::array::from_fn(|value| pixel_to_f32(value as u8));
    let mut x = ArrayFile::create(
        &dir.join(x_file(&split.name)),
        Dtype::F32,
        &[rows, features],
    )?;

    // One thread writes and hashes a block while the pool decodes the next.
    let (full, to_write) = mpsc::sync_channel::<Vec<f32>>(0);
    let (emptied, reuse) = mpsc::channel::<Vec<f32>>();
    let x_sha256 = std::thread::scope(|scope| -> Result<String> {
        let writer = scope.spawn(move || -> Result<String> {
            for block in to_write {
                x.append(bytemuck::cast_slice(&block))?;
                // The decoder may be gone already; then the block is just dropped.
                let _ = emptied.send(block);
            }
            x.finish()
        });
        for photographs in split.rows.chunks(block_rows) {
            let mut block = reuse.try_recv().unwrap_or_default();
            block.resize(photographs.len() * features, 0.0);
            let results: Vec<Result<()>> = block
                .par_chunks_exact_mut(features)
                .zip(photographs)
                .map(|(row, (photograph, _))| {
                    let planes = photograph.planes(size)?;
                    for (value, byte) in row.iter_mut().zip(planes) {
                        *value = lut[usize::from(byte)];
                    }
                    progress(1);
                    Ok(())
                })
                .collect();
            // In row order, so that the same photograph is named every time.
            results.into_iter().collect::<Result<()>>()?;
            if full.send(block).is_err() {
                break; // The writer has failed; its result says why.
            }
        }
        drop(full);
        writer.join().expect("the writer does not panic")
    })?;

    let labels: Vec<i64> = (split.rows.iter())
        .map(|&(_, label)| i64::from(label))
        .collect();
    Ok(SplitEntry {
        name: split.name.clone(),
        rows,
        x_sha256,
        y_sha256: write_labels(&dir.join(y_file(&split.name)), &labels)?,
    })
}

/// Write a split of `rows x features` numbers: `fill` is asked for one block of rows after
/// another.
pub(crate) fn write_split(
    dir: &Path,
    name: &str,
    (rows, features): (usize, usize),
    labels: &[i64],
    mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()>,
) -> Result<SplitEntry> {
    let mut x = ArrayFile::create(&dir.join(x_file(name)), Dtype::F32, &[rows, features])?;
    let block_rows = (BLOCK_BYTES / features.saturating_mul(4)).max(1);
    let mut block = Vec::new();
    for start in (0..rows).step_by(block_rows) {
        let range = start..(start + block_rows).min(rows);
        block.resize(range.len() * features, 0.0);
        fill(range, &mut block)?;
        x.append(bytemuck::cast_slice(&block))?;
    }
    Ok(SplitEntry {
        name: name.to_string(),
        rows,
        x_sha256: x.finish()?,
        y_sha256: write_labels(&dir.join(y_file(name)), labels)?,
    })
}

/// The labels' file; the SHA-256 of its data.
fn write_labels(path: &Path, labels: &[i64]) -> Result<String> {
    let mut y = ArrayFile::create(path, Dtype::I64, &[labels.len()])?;
    y.append(bytemuck::cast_slice(labels))?;
    y.finish()
}

/// A `.npy` file being written front to back and hashed on the way.
///
/// With `write`, never through a map: a full disk is then an error and not a SIGBUS.
struct ArrayFile {
    path: std::path::PathBuf,
    file: File,
    hash: Sha256,
}

impl ArrayFile {
    fn create(path: &Path, dtype: Dtype, shape: &[usize]) -> Result<Self> {
        let mut file = File::create(path).map_err(Error::io(path, "create"))?;
        file.write_all(&Header::encode(dtype, shape))
            .map_err(Error::io(path, "write"))?;
        Ok(ArrayFile {
            path: path.to_path_buf(),
            file,
            hash: Sha256::new(),
        })
    }

    fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file
            .write_all(data)
            .map_err(Error::io(&self.path, "write"))?;
        self.hash.update(data);
        Ok(())
    }

    /// Flush to the disk; the SHA-256 of the data.
    fn finish(self) -> Result<String> {
        self.file
            .sync_all()
            .map_err(Error::io(&self.path, "flush"))?;
        Ok(super::hex(&self.hash.finalize()))
    }
}
