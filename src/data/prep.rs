//! Conversion of photographs to a dataset: decoded and resized in parallel, written and hashed in
//! order.

use std::path::Path;
use std::sync::Mutex;

use crate::data::dataset::{EXIF, Manifest, Prepared};
use crate::data::dataset_writer::DatasetWriter;
use crate::data::in_order::{in_order, lock};
use crate::data::photographs::{Loader, PhotographSplit, Photographs};
use crate::data::pictures::DecodeOptions;
use crate::data::pictures::exif::Orientation;
use crate::error::{Error, Result};
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;
use crate::threads;
use crate::threads::Work;

/// Limit on the side: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;
/// Limit on the bytes of finished rows that wait for earlier rows, if it is more than a row per
/// thread.
const MAX_WAITING: usize = 64 << 20;

/// Work of a photograph, about 2 ms, as the bytes of a pass over memory that takes as long.
const PHOTOGRAPH: usize = 16 << 20;

/// Options of the conversion of photographs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepOptions {
    /// Side of the resized square, in pixels.
    pub size: usize,
    /// How photographs are decoded.
    pub decode: DecodeOptions,
    /// Leave out unusable photographs, and list them in the manifest, instead of an error.
    pub skip_bad: bool,
    /// Stops the conversion when set.
    pub cancel: Option<Cancel>,
}

impl Default for PrepOptions {
    /// 128 pixels; a damaged photograph is an error.
    fn default() -> Self {
        PrepOptions {
            size: 128,
            decode: DecodeOptions::default(),
            skip_bad: false,
            cancel: None,
        }
    }
}

/// Convert `photographs` into the dataset directory `out`, which appears complete or not at all.
///
/// `progress` is called with the number of photographs finished since its last call. Cost: 2 to 4 ms
/// of a core for a photograph of 500 x 667 pixels. Memory: 64 MB of rows (at least one more than
/// threads), and the pixels of a photograph per thread.
///
/// # Errors
/// [`Error::Exists`]; [`Error::Locked`]; [`Error::Image`] for the first unusable photograph;
/// [`Error::Format`] for a split without usable photographs; [`Error::Io`]; [`Error::Interrupted`].
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
    let ignored_orientations = &mut writer.ignored_orientations;
    let (mut labels, mut names) = (Vec::new(), Vec::new());

    // Rows are reused.
    let emptied = Mutex::new(Vec::<Vec<f32>>::new());
    let ahead = rows_ahead(features, threads::current());
    let load = |loader: &mut Loader, i: usize, ()| -> Result<(Vec<f32>, Option<Orientation>)> {
        cancel.check()?;
        let (photograph, _) = &split.rows[i];
        let mut row = lock(&emptied).pop().unwrap_or_default();
        row.resize(features, 0.0);
        let ignored = loader.load(photograph, options.size, &options.decode, &mut row)?;
        progress(1);
        Ok((row, ignored))
    };
    let write = |i: usize, loaded: Result<(Vec<f32>, Option<Orientation>)>| {
        let (photograph, label) = &split.rows[i];
        match loaded {
            Ok((row, ignored)) => {
                *ignored_orientations += usize::from(ignored.is_some());
                x.append(bytemuck::cast_slice(&row))?;
                lock(&emptied).push(row);
                labels.push(i64::from(*label));
                names.push(photograph.name.as_str());
            }
            Err(error) if options.skip_bad && error.is_of_input() => {
                skipped.push(format!("{}: {error}", split.name));
            }
            Err(Error::Image { path, reason }) => {
                let reason =
                    format!("{reason}; `skip_bad` leaves out every picture that cannot be used");
                return Err(Error::Image { path, reason });
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
            "at least one; replace them, or remove the split",
        ));
    }
    writer.refuse_one_class(&split.name, root, &labels)?;
    writer.finish_split(&split.name, x, labels, Some(&names))
}

/// Number of rows in memory: 64 MB, but at most four per thread, and at least one more than threads,
/// so that no thread waits while another writes.
fn rows_ahead(features: usize, threads: usize) -> usize {
    (MAX_WAITING / (4 * features)).clamp(threads + 1, 4 * threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_than_threads_fit_for_every_size() {
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
