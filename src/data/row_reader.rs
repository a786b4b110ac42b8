//! The rows of a file, read front to back, and the number format that they get.

use std::path::Path;

use crate::data::columns::Columns;
use crate::data::dataset::{BYTES, NumberFormat, is_usable, usable};
use crate::error::{Error, Result};

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

/// What a number must be where bytes were divided by 255.
const QUOTIENT: &str = "numbers from 0 to 1, as the model was fitted to bytes divided by 255: give the bytes (numpy's astype('u1')), or divide";

/// What numbers must be from which a shift is subtracted.
const NEAR: &str = "numbers near the shift: these are over 800 standard deviations away, as a copy of a dataset's rows is, from which the shift is subtracted already; give the dataset's own SPLIT.x.npy, or the numbers that it was made of";

/// How a number of a file becomes a feature.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finish {
    shift: Option<Vec<f64>>,
    /// Divide by 255.
    bytes: bool,
    /// Only quotients of bytes are right.
    quotients: bool,
    /// What was seen of the columns, if copies of a dataset's rows are to be refused.
    places: Option<Vec<Places>>,
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

    /// The same for rows to be predicted, which may be a copy of a dataset's rows: numbers from
    /// which the shift is subtracted already. [`Finish::refuse_copies`] then tells so by the first
    /// rows. A column is shifted where f32 rounds by more than 1e-4 of its standard deviation, so
    /// that a number that is nearer to 0 than to the shift is more than 800 deviations from the
    /// shift; 0 alone may stand for a value that is missing.
    pub fn refusing_copies(self) -> Finish {
        let columns = self.shift.as_ref().map(Vec::len);
        Finish {
            places: columns.map(|columns| vec![Places::default(); columns]),
            ..self
        }
    }

    /// To look at `columns` columns, from which a shift will be subtracted.
    pub fn only_looking(columns: usize, shift: Option<&[f64]>) -> Finish {
        Finish {
            seen: Some(Columns::shifted(columns, shift)),
            looking: true,
            ..Finish::default()
        }
    }

    /// Whether features are the numbers.
    pub fn is_identity(&self) -> bool {
        self.shift.is_none() && !self.bytes
    }

    /// The features of the numbers of a row; if one cannot be used, its column and what was
    /// expected instead of it.
    pub fn row(
        &mut self,
        numbers: &[f64],
        features: &mut [f32],
    ) -> std::result::Result<(), (usize, &'static str)> {
        if let Some(seen) = &mut self.seen {
            seen.observe_row(numbers);
        }
        // Without a branch for each number; what is in the way of that is looked for afterwards.
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
        let is_plain = !self.looking && !self.quotients && self.places.is_none();
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

    /// The feature of a number in a column, or what was expected instead of it.
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
        if self.looking {
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

    /// To be asked once the first rows were read: refuse them if all values of a shifted column
    /// are nearer to 0 than to its shift, and not all are 0. `name` is what messages call a column.
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

/// Where values of a shifted column were seen.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    /// Nearer to the shift than to 0.
    near: bool,
    /// Nearer to 0, and not 0.
    far: bool,
}
