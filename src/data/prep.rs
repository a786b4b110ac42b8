//! Photographs to dataset: decode and resize in parallel, write and hash behind.

use std::path::Path;
use std::sync::mpsc;

use rayon::prelude::*;

use super::checks;
use super::dataset::{Manifest, SplitEntry, TRAIN, x_file};
use super::dataset_writer::{ArrayFile, BLOCK_BYTES, finish_split, publish};
use super::jpeg::Warnings;
use super::npy::Dtype;
use super::photographs::{Photograph, PhotographSplit, Photographs, pixel_to_f32};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::publish::{Overwrite, Staging};

/// Largest side accepted: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;

/// How photographs become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepOptions {
    /// Side of the square that they are resized to, in pixels.
    pub size: usize,
    /// What to do where libjpeg warns of broken data.
    pub warnings: Warnings,
    /// Leave out what cannot be used, and list it in the manifest, instead of refusing all.
    pub skip_bad: bool,
}

impl Default for PrepOptions {
    /// 128 pixels; everything broken is refused.
    fn default() -> Self {
        PrepOptions {
            size: 128,
            warnings: Warnings::Refuse,
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
    let staging = Staging::begin(out, overwrite, &[&photographs.root])?;
    let mut manifest = Manifest::of_photographs(
        photographs.source.clone(),
        photographs.class_names.clone(),
        size,
    );
    manifest.left_out = photographs.left_out.clone();
    for split in &photographs.splits {
        let skipped = &mut manifest.skipped;
        let (dir, root) = (staging.dir(), &photographs.root);
        let entry = prepare_split(split, options, dir, root, skipped, progress)?;
        manifest.splits.push(entry);
    }
    publish(staging, manifest)
}

fn prepare_split(
    split: &PhotographSplit,
    options: &PrepOptions,
    dir: &Path,
    root: &Path,
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
                    Err(error) if options.skip_bad && error.is_of_input() => {
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
            root,
            format!("split {}", split.name),
            format!(
                "{} photographs, none of which can be used (the last: {})",
                split.rows.len(),
                skipped.last().map_or("", String::as_str)
            ),
            "at least one; replace them, or take the split away",
        ));
    }
    if split.name == TRAIN {
        checks::refuse_one_class(root, &labels)?;
    }
    finish_split(dir, &split.name, x, features, &labels, Some(&names))
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
            let planes = photograph.planes(options.size, options.warnings)?;
            for (value, byte) in row.iter_mut().zip(planes) {
                *value = lut[usize::from(byte)];
            }
            progress(1);
            Ok(())
        })
        .collect()
}
