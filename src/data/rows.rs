//! Rows for a model, from the files of other tools: `.npy`, `.npz`, CSV and LIBSVM's text give the
//! same rows for the same numbers.

use std::path::Path;

pub use crate::data::array_rows::Features;
use crate::data::checks;
use crate::data::dataset::{Dataset, MANIFEST, Manifest, NumberFormat};
pub use crate::data::row_reader::RowReader;
use crate::error::{Error, Result};
use crate::io::files;

/// Open an array (`FILE.npy`, `FILE.npz`, `FILE.npz:NAME`) of rows for a model with `features`
/// features and this number format; `None` if the model has none.
///
/// If the format's scale is [`BYTES`](crate::data::dataset::BYTES), bytes (`|u1`) are divided by 255,
/// and other numbers must be quotients from 0 to 1. The shift is subtracted, except from the rows of
/// a dataset (`SPLIT.x.npy` in the directory of its manifest, or a link to it), from which it is
/// subtracted already. Copies of these are recognized by their values: rows are refused if, in the
/// first block, all values of a shifted column are nearer to 0 than to its shift, and not all are 0.
///
/// # Errors
/// [`Error::Npy`]; [`Error::Format`] for another number of features, for rows of a dataset with
/// another shift or scale, and for bytes if `format` is `None`; [`Error::Io`].
pub fn open<'a>(
    path: &Path,
    format: impl Into<Option<&'a NumberFormat>>,
    features: usize,
) -> Result<Box<dyn RowReader>> {
    let format = format.into();
    let rows = Features::open(path)?;
    checks::refuse_width(path, rows.features(), features, "the model")?;
    let stored = stored(path)?;
    if let Some(manifest) = &stored {
        refuse_other_rows(path, manifest, format)?;
    }
    let Some(format) = format else {
        if rows.is_bytes() {
            let (path, found) = rows.described();
            let expected = "floats: the model does not record whether it was fitted to bytes divided \
                            by 255; give numpy's astype('f4'), divided by 255 if it was";
            return Err(Error::format(path, "descr", found, expected));
        }
        return Ok(Box::new(rows));
    };
    let mut format = format.clone();
    format.shift = format.shift.filter(|_| stored.is_none());
    Ok(Box::new(rows.formatted(&format).refusing_copies()))
}

/// The manifest of the dataset, if the file contains the features of one of its splits.
///
/// # Errors
/// As [`Dataset::open`].
pub(crate) fn stored(path: &Path) -> Result<Option<Manifest>> {
    // Links are followed; `ARCHIVE:NAME` is not a file.
    let Ok(path) = path.canonicalize() else {
        return Ok(None);
    };
    let directory = files::parent_of(&path);
    if !directory.join(MANIFEST).is_file() {
        return Ok(None);
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(split) = name.and_then(|name| name.strip_suffix(".x.npy")) else {
        return Ok(None);
    };
    let manifest = Dataset::open(directory)?.manifest().clone();
    let is_split = manifest.splits.iter().any(|entry| entry.name == split);
    Ok(Some(manifest).filter(|_| is_split))
}

/// Refuse rows of a dataset with another shift or scale than the format.
fn refuse_other_rows(
    path: &Path,
    manifest: &Manifest,
    format: Option<&NumberFormat>,
) -> Result<()> {
    let numbers = manifest.numbers.as_ref();
    let shift = |numbers: Option<&NumberFormat>| numbers.and_then(|numbers| numbers.shift.clone());
    if shift(numbers) != shift(format) {
        return Err(Error::format(
            path,
            "numbers.shift",
            "rows of a dataset with another shift",
            "the shift of the model, if any: give the numbers that the dataset was made of",
        ));
    }
    // Without a format, quotients are accepted like other numbers.
    let is_divided = numbers.is_some_and(|numbers| numbers.scale.is_some());
    if is_divided && format.is_some_and(|format| format.scale.is_none()) {
        return Err(Error::format(
            path,
            "numbers.scale",
            "rows of a dataset of bytes, divided by 255",
            "undivided numbers, like those to which the model was fitted: give the bytes",
        ));
    }
    Ok(())
}
