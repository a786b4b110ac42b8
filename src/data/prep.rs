//! Photographs to dataset: decoded and resized in parallel, hashed and written in order.

use std::path::Path;
use std::sync::Mutex;

use crate::data::dataset::{EXIF, Manifest, Prepared};
use crate::data::dataset_writer::DatasetWriter;
use crate::data::in_order::{in_order, lock};
use crate::data::photographs::{Loader, PhotographSplit, Photographs};
use crate::data::pictures::DecodeOptions;
use crate::error::{Error, Result};
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;
use crate::threads;
use crate::threads::Work;

/// Largest side accepted: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;
/// Bytes of rows that wait for those before them, where more than one a thread fit.
const MAX_WAITING: usize = 64 << 20;

/// Bytes of which a pass takes as long as a photograph: about 2 ms.
const PHOTOGRAPH: usize = 16 << 20;

/// How photographs become rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepOptions {
    /// Side of the square that they are resized to, in pixels.
    pub size: usize,
    /// How photographs are decoded.
    pub decode: DecodeOptions,
    /// Leave out what cannot be used, and list it in the manifest, instead of refusing all.
    pub skip_bad: bool,
    /// What stops the preparation before its end.
    pub cancel: Option<Cancel>,
}

impl Default for PrepOptions {
    /// 128 pixels; everything broken is refused.
    fn default() -> Self {
        PrepOptions {
            size: 128,
            decode: DecodeOptions::default(),
            skip_bad: false,
            cancel: None,
        }
    }
}

/// Prepare `photographs` into the dataset directory `out`, which appears complete or not at
/// all.
///
/// `progress` is told the number of photographs finished since its last call. Cost: 2 to 4 ms a
/// core for a 500 x 667 photograph; memory: 64 MB of rows (one a thread and one more at least), and
/// for each thread a photograph's pixels.
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
) -> Result<Prepared> {
    let size = options.size;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::options("`size`", size, format!("1..={MAX_SIZE}")));
    }
    options.decode.check()?;
    let staging = Staging::begin(out, OutputKind::Dataset, overwrite, &[&photographs.root])?;
    let mut manifest = Manifest::of_photographs(
        photographs.source.clone(),
        photographs.class_names.clone(),
        size,
    );
    if let (true, Some(transform)) = (options.decode.exif, &mut manifest.transform) {
        transform.orientation = Some(EXIF.to_string());
    }
    manifest.left_out = photographs.left_out.clone();
    let mut writer = DatasetWriter::new(staging, manifest, options.cancel.clone());
    let rows: usize = photographs.splits.iter().map(|s| s.rows.len()).sum();
    let length = Work::bytes(rows.saturating_mul(PHOTOGRAPH));
    threads::run(None, length, || {
        (photographs.splits.iter()).try_for_each(|split| {
            prepare_split(split, options, &photographs.root, &mut writer, progress)
        })
    })??;
    writer.publish()
}

fn prepare_split(
    split: &PhotographSplit,
    options: &PrepOptions,
    root: &Path,
    writer: &mut DatasetWriter,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let features = 3 * options.size * options.size;
    let mut x = writer.begin_matrix(&split.name)?;
    let cancel = writer.cancel.clone();
    let skipped = &mut writer.manifest.skipped;
    let (mut labels, mut names) = (Vec::new(), Vec::new());

    // Rows go back to be filled again.
    let emptied = Mutex::new(Vec::<Vec<f32>>::new());
    let ahead = rows_ahead(features, threads::current());
    let load = |loader: &mut Loader, i: usize, ()| -> Result<Vec<f32>> {
        cancel.check()?;
        let (photograph, _) = &split.rows[i];
        let mut row = lock(&emptied).pop().unwrap_or_default();
        row.resize(features, 0.0);
        loader.load(photograph, options.size, &options.decode, &mut row)?;
        progress(1);
        Ok(row)
    };
    let write = |i: usize, loaded: Result<Vec<f32>>| {
        let (photograph, label) = &split.rows[i];
        match loaded {
            Ok(row) => {
                x.append(bytemuck::cast_slice(&row))?;
                lock(&emptied).push(row);
                labels.push(i64::from(*label));
                names.push(photograph.name.as_str());
            }
            Err(error) if options.skip_bad && error.is_of_input() => {
                skipped.push(format!("{}: {error}", split.name));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let begin = |_| ();
    in_order(split.rows.len(), ahead, begin, Loader::default, load, write)?;

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
    writer.refuse_one_class(&split.name, root, &labels)?;
    writer.finish_split(&split.name, x, labels, Some(&names))
}

/// Rows in memory at a time: as many as make 64 MB, at most four a thread. One a thread and one
/// more at least, so that no thread waits while another writes; a photograph takes more than that.
fn rows_ahead(features: usize, threads: usize) -> usize {
    (MAX_WAITING / (4 * features)).clamp(threads + 1, 4 * threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All threads work, however large the rows are.
    #[test]
    fn no_thread_waits_for_room() {
        for size in [1, 128, 224, 512, 1024, MAX_SIZE] {
            for threads in [1, 2, 4, 16, 64] {
                let rows = rows_ahead(3 * size * size, threads);
                assert!(rows > threads && rows <= 4 * threads, "{size}: {rows}");
                let fits = 4 * 3 * size * size * rows <= MAX_WAITING;
                assert!(fits || rows == threads + 1, "{size}: {rows}");
            }
        }
    }
}
