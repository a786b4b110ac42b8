//! Photographs to dataset: decode and resize in parallel, write and hash behind.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::blocks::Blocks;
use super::dataset::{MANIFEST, Manifest, SplitEntry, files_file, x_file, y_file};
use super::npy::{Dtype, Header};
use super::photographs::{Photograph, PhotographSplit, Photographs, pixel_to_f32};
use super::pictures::DecodeOptions;
use crate::error::{Error, Result};
use crate::files::{self, NewFile};
use crate::interrupt;
use crate::publish::{Overwrite, Staging};

/// Largest side accepted: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;
/// Bytes of rows decoded together; two such blocks are in memory at a time.
const BLOCK_BYTES: usize = 32 << 20;

/// How photographs become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepOptions {
    /// Side of the square that they are resized to, in pixels.
    pub size: usize,
    /// How photographs are decoded.
    pub decode: DecodeOptions,
    /// Leave out what cannot be used, and list it in the manifest, instead of refusing all.
    pub skip_bad: bool,
}

impl Default for PrepOptions {
    /// 128 pixels; everything broken is refused.
    fn default() -> Self {
        PrepOptions {
            size: 128,
            decode: DecodeOptions::default(),
            skip_bad: false,
        }
    }
}

/// Prepare `photographs` into the dataset directory `out`, which appears complete or not at
/// all; its manifest comes back.
///
/// `progress` is told the number of photographs finished since its last call. Cost: about
/// 5 ms a core for a 500 x 667 photograph; memory: two blocks of 32 MB (one row at least).
///
/// # Errors
/// [`Error::Exists`], [`Error::Locked`], [`Error::Image`] for the first photograph that cannot
/// be used, [`Error::Format`] for a split of which nothing is left, [`Error::Io`],
/// [`Error::Interrupted`].
pub fn prepare(
    photographs: &Photographs,
    options: &PrepOptions,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Manifest> {
    let size = options.size;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::options("--size", size, format!("1..={MAX_SIZE}")));
    }
    options.decode.check()?;
    let staging = Staging::begin(out, overwrite)?;
    let mut manifest = Manifest::of_photographs(
        photographs.source.clone(),
        photographs.class_names.clone(),
        size,
    );
    if options.decode.exif
        && let Some(transform) = &mut manifest.transform
    {
        transform.orientation = Some("exif".to_string());
    }
    for split in &photographs.splits {
        let skipped = &mut manifest.skipped;
        let entry = prepare_split(split, options, staging.dir(), skipped, progress)?;
        manifest.splits.push(entry);
    }
    publish(staging, manifest)
}

/// Seal and write the manifest, and let the dataset appear.
pub(crate) fn publish(staging: Staging, manifest: Manifest) -> Result<Manifest> {
    let manifest = manifest.sealed();
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    staging.write(MANIFEST, &json)?;
    staging.publish()?;
    Ok(manifest)
}

fn prepare_split(
    split: &PhotographSplit,
    options: &PrepOptions,
    dir: &Path,
    skipped: &mut Vec<String>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<SplitEntry> {
    let features = 3 * options.size * options.size;
    let block_rows = (BLOCK_BYTES / (4 * features)).max(1);
    let mut x = ArrayFile::create(&dir.join(x_file(&split.name)), Dtype::F32)?;
    let (mut labels, mut names) = (Vec::new(), Vec::new());

    // One thread writes and hashes a block while the pool decodes the next.
    let (full, to_write) = mpsc::sync_channel::<Vec<f32>>(0);
    let (emptied, reuse) = mpsc::channel::<Vec<f32>>();
    let x = std::thread::scope(|scope| -> Result<ArrayFile> {
        let writer = scope.spawn(move || -> Result<ArrayFile> {
            for block in to_write {
                x.append(bytemuck::cast_slice(&block))?;
                // The decoder may be gone already; then the block is just dropped.
                let _ = emptied.send(block);
            }
            Ok(x)
        });
        for photographs in split.rows.chunks(block_rows) {
            let mut block = reuse.try_recv().unwrap_or_default();
            let decoded = decode(photographs, options, features, &mut block, progress);
            // In row order, so that the same photograph is named every time.
            let mut kept = 0;
            for (row, (result, (photograph, label))) in
                decoded.into_iter().zip(photographs).enumerate()
            {
                match result {
                    Ok(()) => {
                        block.copy_within(row * features..(row + 1) * features, kept * features);
                        kept += 1;
                        labels.push(i64::from(*label));
                        names.push(photograph.name.as_str());
                    }
                    Err(error @ Error::Image { .. }) if options.skip_bad => {
                        skipped.push(format!("{}: {error}", split.name));
                    }
                    Err(error) => return Err(error),
                }
            }
            block.truncate(kept * features);
            if full.send(block).is_err() {
                break; // The writer has failed; its result says why.
            }
        }
        drop(full);
        writer.join().expect("the writer does not panic")
    })?;

    if labels.is_empty() {
        return Err(Error::format(
            dir,
            format!("split {}", split.name),
            format!("{} photographs, none usable", split.rows.len()),
            "at least one",
        ));
    }
    finish_split(dir, &split.name, x, features, &labels, Some(&names))
}

/// Write a split of `rows x features` numbers: `fill` is asked for one block of rows after
/// another.
pub(crate) fn write_split(
    dir: &Path,
    name: &str,
    features: usize,
    labels: &[i64],
    mut fill: impl FnMut(Range<usize>, &mut [f32]) -> Result<()>,
) -> Result<SplitEntry> {
    let rows = labels.len();
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
fn finish_split(
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

/// Decode and resize photographs in parallel, one to a row of the block.
fn decode(
    photographs: &[(Photograph, u32)],
    options: &PrepOptions,
    features: usize,
    block: &mut Vec<f32>,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Result<()>> {
    let lut: [f32; 256] = std::array::from_fn(|value| pixel_to_f32(value as u8));
    block.resize(photographs.len() * features, 0.0);
    (block.par_chunks_exact_mut(features).zip(photographs))
        .map(|(row, (photograph, _))| {
            interrupt::check()?;
            let planes = photograph.planes(options.size, &options.decode)?;
            for (value, byte) in row.iter_mut().zip(planes) {
                *value = lut[usize::from(byte)];
            }
            progress(1);
            Ok(())
        })
        .collect()
}

/// A `.npy` file being written front to back and hashed on the way.
struct ArrayFile {
    file: NewFile,
    dtype: Dtype,
    sha256: Sha256,
    crc32: Blocks,
}

impl ArrayFile {
    /// Begin; the shape is known at the end.
    fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&[0; HEADER])?;
        Ok(ArrayFile {
            file,
            dtype,
            sha256: Sha256::new(),
            crc32: Blocks::default(),
        })
    }

    fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file.append(data)?;
        self.sha256.update(data);
        self.crc32.update(data);
        Ok(())
    }

    /// Put the header in and flush to the disk; SHA-256 and CRC-32 of the data.
    fn finish(mut self, shape: &[usize]) -> Result<(String, String)> {
        let header = Header::encode(self.dtype, shape);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.finish()?;
        Ok((super::hex(&self.sha256.finalize()), self.crc32.to_hex()))
    }
}

/// Length of every header of one or two dimensions.
const HEADER: usize = 128;
