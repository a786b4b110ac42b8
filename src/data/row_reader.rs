//! Sequential readers of rows, and the conversion of a file's numbers to features.

use std::path::Path;

use crate::data::columns::Columns;
use crate::data::dataset::{BYTES, NumberFormat, usable};
use crate::design::rows::is_usable;
use crate::error::{Error, Result};

/// A sequential reader of rows.
pub trait RowReader {
    /// d: features per row.
    fn features(&self) -> usize;

    /// n, if it is known before the end.
    fn rows(&self) -> Option<usize>;

    /// Read rows into `values`, and return their number: 0 at the end. `refuse` is called for each
    /// invalid row, with its place among these rows and an error that names row and column; the
    /// values of such a row are unspecified.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is damaged so that no later row can be read; [`Error::Io`];
    /// [`Error::Changed`] if the file changed since it was opened. The rows before the error have
    /// been returned by earlier calls.
    fn read_each(
        &mut self,
        values: &mut [f32],
        refuse: &mut dyn FnMut(usize, Error),
    ) -> Result<usize>;

    /// [`RowReader::read_each`], with an error if a row is invalid.
    ///
    /// # Errors
    /// That of the first invalid row, and those of [`RowReader::read_each`].
    fn read(&mut self, values: &mut [f32]) -> Result<usize> {
        let mut first = None;
        let rows = self.read_each(values, &mut |_, error| {
            first.get_or_insert(error);
        })?;
        first.map_or(Ok(rows), Err)
    }

    /// The labels of the rows that were read last, as text; empty if the file has no labels.
    fn labels(&self) -> &[Option<String>] {
        &[]
    }

    /// Remarks for the user at the end: a sentence for each kind of ignored data.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The requirement on numbers if the model was fitted to bytes divided by 255.
const QUOTIENT: &str = "numbers from 0 to 1, as the model was fitted to bytes divided by 255: give the bytes (numpy's astype('u1')), or divide";

/// The requirement on numbers from which a shift is subtracted.
const NEAR: &str = "numbers near the shift: these are over 800 standard deviations away, like a copy of a dataset's rows, from which the shift was subtracted already; give the dataset's own SPLIT.x.npy, or the numbers that it was made of";

/// The conversion of a file's numbers to features: `f32(number / divisor - shift_j)`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finish {
    shift: Option<Vec<f64>>,
    /// Divide by 255.
    bytes: bool,
    /// Require numbers from 0 to 1, the quotients of bytes.
    quotients: bool,
    /// Where the values of shifted columns are, to refuse copies of a dataset's rows.
    places: Option<Vec<Places>>,
    /// Only observe the columns; features are 0.
    observe_only: bool,
    /// Statistics of each column, if requested.
    pub seen: Option<Columns>,
}

impl Finish {
    /// The conversion of numbers that are not stored as bytes.
    pub fn of_numbers(format: &NumberFormat) -> Finish {
        Finish {
            shift: format.shift.clone(),
            quotients: format.scale.as_deref() == Some(BYTES),
            ..Finish::default()
        }
    }

    /// The conversion of bytes.
    pub fn of_bytes(format: &NumberFormat) -> Finish {
        Finish {
            bytes: format.scale.as_deref() == Some(BYTES),
            quotients: false,
            ..Finish::of_numbers(format)
        }
    }

    /// The same conversion, which prepares [`Finish::refuse_copies`]: rows to predict may be a copy
    /// of a dataset's rows, from which the shift is subtracted already. A column is shifted if f32
    /// rounds it by more than 1e-4 of its standard deviation; so a number nearer to 0 than to the
    /// shift is more than 800 standard deviations from the shift. 0 is not counted: it may stand for
    /// a missing value.
    pub fn refusing_copies(self) -> Finish {
        let columns = self.shift.as_ref().map(Vec::len);
        Finish {
            places: columns.map(|columns| vec![Places::default(); columns]),
            ..self
        }
    }

    /// No conversion, only statistics of `columns` columns after the shift is subtracted.
    pub fn observe_only(columns: usize, shift: Option<&[f64]>) -> Finish {
        Finish {
            seen: Some(Columns::shifted(columns, shift)),
            observe_only: true,
            ..Finish::default()
        }
    }

    /// Whether features equal the file's numbers.
    pub fn is_identity(&self) -> bool {
        self.shift.is_none() && !self.bytes
    }

    /// Convert a row. `Err`: the column of an invalid number, and what was expected.
    pub fn row(
        &mut self,
        numbers: &[f64],
        features: &mut [f32],
    ) -> std::result::Result<(), (usize, &'static str)> {
        if let Some(seen) = &mut self.seen {
            seen.observe_row(numbers);
        }
        // Branch-free over the numbers; the checks below run only if they may fail.
        let divisor = if self.bytes { 255.0 } else { 1.0 };
        let values = features.iter_mut().zip(numbers);
        match &self.shift {
            Some(shift) => {
                for ((feature, number), shift) in values.zip(shift) {
                    *feature = (number / divisor - shift) as f32;
                }
            }
            None if self.bytes => {
                for (feature, number) in values {
                    *feature = (number / divisor) as f32;
                }
            }
            None => {
                for (feature, number) in values {
                    *feature = *number as f32;
                }
            }
        }
        let is_plain = !self.observe_only && !self.quotients && self.places.is_none();
        if is_plain && features.iter().fold(true, |all, &x| all & is_usable(x)) {
            return Ok(());
        }
        for (column, (feature, &number)) in features.iter_mut().zip(numbers).enumerate() {
            *feature = self
                .check(column, number)
                .map_err(|expected| (column, expected))?;
        }
        Ok(())
    }

    /// Convert a number of a column. `Err`: what was expected.
    #[cfg(feature = "formats")]
    #[inline]
    pub fn value(&mut self, column: usize, value: f64) -> std::result::Result<f32, &'static str> {
        if let Some(seen) = &mut self.seen {
            seen.observe(column, value);
        }
        self.check(column, value)
    }

    #[inline]
    fn check(&mut self, column: usize, value: f64) -> std::result::Result<f32, &'static str> {
        if self.observe_only {
            return if (value as f32).is_finite() {
                Ok(0.0)
            } else {
                Err(usable(value))
            };
        }
        if self.quotients && !(0.0..=1.0).contains(&value) {
            return Err(if value.is_finite() {
                QUOTIENT
            } else {
                usable(value)
            });
        }
        let scaled = if self.bytes { value / 255.0 } else { value };
        let shift = self.shift.as_ref().map_or(0.0, |shift| shift[column]);
        if let Some(places) = &mut self.places
            && shift != 0.0
        {
            let is_far = value.abs() < (value - shift).abs();
            places[column].near |= !is_far;
            places[column].far |= is_far && value != 0.0;
        }
        let feature = (scaled - shift) as f32;
        if is_usable(feature) {
            Ok(feature)
        } else {
            Err(usable(value))
        }
    }

    /// Refuse a copy of a dataset's rows: all values of a shifted column are nearer to 0 than to its
    /// shift, and not all are 0. To be called after the first block; later calls do nothing. `name`
    /// names a column in messages.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn refuse_copies(&mut self, path: &Path, name: impl Fn(usize) -> String) -> Result<()> {
        let (Some(places), Some(shift)) = (self.places.take(), &self.shift) else {
            return Ok(());
        };
        match places.iter().position(|places| places.far && !places.near) {
            None => Ok(()),
            Some(column) => {
                let found = format!(
                    "only numbers nearer to 0 than to {}, the shift of the model",
                    shift[column]
                );
                Err(Error::format(path, name(column), found, NEAR))
            }
        }
    }
}

/// Where the values of a shifted column are.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    /// Some are nearer to the shift than to 0.
    near: bool,
    /// Some are nearer to 0, but not 0.
    far: bool,
}
