//! Rows of numbers from files of other tools, as a model or dataset wants them: `.npy`, `.npz`
//! and CSV give the same rows for the same numbers.

use std::path::Path;

use super::arrays::Features;
use super::checks;
use super::columns::Columns;
use super::dataset::{BYTES, Dataset, MANIFEST, NumberFormat, USABLE, is_usable};
use crate::error::{Error, Result};
use crate::files;

/// Rows that are read front to back.
pub trait RowReader {
    /// d: values a row.
    fn features(&self) -> usize;

    /// n, if it is known before the end.
    fn rows(&self) -> Option<usize>;

    /// Fill `values`, whole rows, from the front; the number of rows that were filled, 0 at the
    /// end. `refuse` is given the place of each row that cannot be used, among these, and what is
    /// wrong with it, by row and column; the values of such a row mean nothing.
    ///
    /// # Errors
    /// [`Error::Format`] where the file is damaged beyond a row; [`Error::Io`];
    /// [`Error::Changed`] if it is not as it was when it was opened. The rows before were given
    /// out.
    fn read_each(
        &mut self,
        values: &mut [f32],
        refuse: &mut dyn FnMut(usize, Error),
    ) -> Result<usize>;

    /// [`RowReader::read_each`], where each row must be one that can be used.
    ///
    /// # Errors
    /// Those of the first row that cannot, and of [`RowReader::read_each`].
    fn read(&mut self, values: &mut [f32]) -> Result<usize> {
        let mut first = None;
        let rows = self.read_each(values, &mut |_, error| {
            first.get_or_insert(error);
        })?;
        first.map_or(Ok(rows), Err)
    }

    /// The labels of the rows that were read last, as they are written; empty if the file has
    /// none.
    fn labels(&self) -> &[Option<String>] {
        &[]
    }

    /// What there is to say at the end: a sentence on each thing that was passed over.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Open rows of `features` numbers for a model whose rows were made by `format`: an array
/// (`FILE.npy`, `FILE.npz`, `FILE.npz:NAME`) or, by any other beginning, a table with a header.
///
/// Bytes (`|u1`) are divided by 255 if the format says so; other numbers must then be such
/// quotients, from 0 to 1. The shift is subtracted, except from the rows of a dataset
/// (`SPLIT.x.npy` beside its manifest), which are stored without it.
///
/// # Errors
/// [`Error::Npy`]; [`Error::Format`] for another number of features, and a table whose columns
/// are not the format's; [`Error::Io`].
pub fn open(path: &Path, format: &NumberFormat, features: usize) -> Result<Box<dyn RowReader>> {
    let reader: Box<dyn RowReader> = match is_table(path)? {
        #[cfg(feature = "formats")]
        true => Box::new(super::csv_text::Table::open(path, None, None, format)?),
        _ => {
            let stored = is_stored(path, format)?;
            let format = match stored {
                true => &NumberFormat::default(),
                false => format,
            };
            Box::new(Features::open(path)?.formatted(format))
        }
    };
    checks::refuse_width(path, reader.features(), features, "the model")?;
    Ok(reader)
}

/// Whether a file is neither `.npy` nor `.npz`, by its first bytes.
#[cfg(feature = "formats")]
fn is_table(path: &Path) -> Result<bool> {
    use std::io::Read;
    let (place, name) = super::npz::locate(path);
    if name.is_some() || !place.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    (std::fs::File::open(&place))
        .and_then(|file| file.take(8).read_to_end(&mut start))
        .map_err(Error::io(path, "open"))?;
    Ok(!start.starts_with(super::npy::MAGIC) && !super::npz::has_magic(&start))
}

#[cfg(not(feature = "formats"))]
fn is_table(_: &Path) -> Result<bool> {
    Ok(false)
}

/// Whether the file holds the rows of a split of a dataset, as they are stored.
///
/// # Errors
/// [`Error::Format`] if another shift was subtracted from them than the format's.
fn is_stored(path: &Path, format: &NumberFormat) -> Result<bool> {
    if format.shift.is_none() {
        return Ok(false);
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(split) = name.and_then(|name| name.strip_suffix(".x.npy")) else {
        return Ok(false);
    };
    let directory = files::parent_of(path);
    if !directory.join(MANIFEST).is_file() {
        return Ok(false);
    }
    let dataset = Dataset::open(directory)?;
    let manifest = dataset.manifest();
    if !manifest.splits.iter().any(|entry| entry.name == split) {
        return Ok(false);
    }
    let shift = manifest
        .numbers
        .as_ref()
        .and_then(|numbers| numbers.shift.as_ref());
    match shift == format.shift.as_ref() {
        true => Ok(true),
        false => Err(Error::format(
            path,
            "numbers.shift",
            "rows of a dataset with another shift",
            "the shift of the model: give the numbers that the dataset was made of",
        )),
    }
}

/// What a number must be where bytes were divided by 255.
const QUOTIENT: &str = "numbers from 0 to 1, as the model was fitted to bytes divided by 255: give the bytes (numpy's astype('u1')), or divide";

/// What a number must be, where it is too large.
const TOO_LARGE: &str = "a number between -1e15 and 1e15, whose square f32 can hold; divide larger ones by a power of ten (and give --center if they are times)";

/// How a number of a file becomes a feature.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finish {
    shift: Option<Vec<f64>>,
    /// Divide by 255.
    bytes: bool,
    /// Only quotients of bytes are right.
    quotients: bool,
    /// Features are not wanted, but what is seen.
    looking: bool,
    /// What was seen of each column, if that was asked for.
    pub seen: Option<Columns>,
}

impl Finish {
    /// By a format, of numbers that are not stored as bytes.
    pub fn of_numbers(format: &NumberFormat) -> Finish {
        Finish {
            shift: format.shift.clone(),
            quotients: format.scale.as_deref() == Some(BYTES),
            ..Finish::default()
        }
    }

    /// By a format, of bytes.
    pub fn of_bytes(format: &NumberFormat) -> Finish {
        Finish {
            bytes: format.scale.as_deref() == Some(BYTES),
            quotients: false,
            ..Finish::of_numbers(format)
        }
    }

    /// For a look at so many columns.
    pub fn only_looking(columns: usize) -> Finish {
        Finish {
            seen: Some(Columns::new(columns)),
            looking: true,
            ..Finish::default()
        }
    }

    /// Whether features are the numbers.
    pub fn is_identity(&self) -> bool {
        self.shift.is_none() && !self.bytes
    }

    /// The feature of a number in a column, or what was expected instead of it.
    #[inline]
    pub fn value(&mut self, column: usize, value: f64) -> std::result::Result<f32, &'static str> {
        if let Some(seen) = &mut self.seen {
            seen.observe(column, value);
        }
        if self.looking {
            return if value.is_finite() {
                Ok(0.0)
            } else {
                Err(USABLE)
            };
        }
        if self.quotients && !(0.0..=1.0).contains(&value) {
            return Err(QUOTIENT);
        }
        let scaled = if self.bytes { value / 255.0 } else { value };
        let feature = match &self.shift {
            Some(shift) => scaled - shift[column],
            None => scaled,
        } as f32;
        match is_usable(feature) {
            true => Ok(feature),
            false if value.is_finite() => Err(TOO_LARGE),
            false => Err(USABLE),
        }
    }
}
