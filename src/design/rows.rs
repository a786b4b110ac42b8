//! Borrowed rows of features, and the batch of rows that a step uses.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::linalg::mat::MatRef;
use crate::threads::{Share, Work};

/// The rows that a step uses.
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    /// All rows, in order.
    All,
    /// The rows with these numbers.
    Rows(&'a [u32]),
}

/// Borrowed rows of a feature matrix: a memory map or the caller's slice. A choice of rows that are
/// not contiguous is stored as an index, not as a copy.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Row `i` begins at `i * stride`.
    values: &'a [f32],
    rows: usize,
    features: usize,
    /// Distance between the starts of consecutive rows, at least `features`.
    stride: usize,
    /// Row numbers in `values`; `None` means all rows in order.
    index: Option<Vec<u32>>,
    /// Whether the features are known to be usable: see [`is_usable`].
    pub(super) known_usable: bool,
}

/// The position of the first value for which `test` is false. A pass without branches comes first,
/// because most blocks have none.
pub(crate) fn position(values: &[f32], test: impl Fn(f32) -> bool) -> Option<usize> {
    let all = values.iter().fold(true, |all, &value| all & test(value));
    if all {
        None
    } else {
        values.iter().position(|&value| !test(value))
    }
}

/// Whether a value can be a feature of a dataset and of a converged fit: from -1e15 to 1e15, so that
/// f32 holds sums of squares.
pub fn is_usable(value: f32) -> bool {
    value.abs() <= 1e15
}

impl<'a> Rows<'a> {
    /// All rows of a matrix.
    pub fn new(x: MatRef<'a>) -> Self {
        Rows {
            values: x.as_slice(),
            rows: x.rows(),
            features: x.cols(),
            stride: x.cols(),
            index: None,
            known_usable: false,
        }
    }

    /// `rows` rows of `features` values whose starts are `stride` values apart: a window of a wider
    /// matrix. If `stride` exceeds `features`, products copy the rows block by block.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` is 0, if rows overlap (`stride` < `features`), or if `x` is
    /// shorter than the rows or longer than `rows · stride`.
    pub fn strided(x: &'a [f32], rows: usize, features: usize, stride: usize) -> Result<Self> {
        let whole = rows.checked_mul(stride);
        let least = whole.map(|whole| whole.saturating_sub(stride - features.min(stride)));
        if features == 0
            || stride < features
            || whole.is_none_or(|n| n < x.len())
            || least.is_none_or(|n| n > x.len())
        {
            let found = format!("{} values", x.len());
            let expected = if stride == features {
                format!("{rows} labels x {features} features")
            } else {
                format!("{rows} rows x {features} features, {stride} apart")
            };
            return Err(Error::shape("x", found, expected));
        }
        Ok(Rows {
            values: x,
            rows,
            features,
            stride,
            index: None,
            known_usable: false,
        })
    }

    /// n: number of rows.
    pub fn len(&self) -> usize {
        self.index.as_ref().map_or(self.rows, Vec::len)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// d: number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// All rows as one borrowed matrix; `None` if they are not contiguous.
    pub fn contiguous(&self) -> Option<MatRef<'a>> {
        let contiguous = self.index.is_none() && self.stride == self.features;
        contiguous.then(|| MatRef::new(self.values, self.rows, self.features))
    }

    /// The features of row `i`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        let i = self.index.as_ref().map_or(i, |index| index[i] as usize);
        &self.values[i * self.stride..][..self.features]
    }

    /// Refuse features that are no finite numbers. Cost: X is read once, unless its features are
    /// known to be usable.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the first by row and column.
    pub(crate) fn check_finite(&self, what: &'static str) -> Result<()> {
        self.refuse(what, self.first_bad(f32::is_finite))
    }

    /// Refuse features that are not usable (see [`is_usable`]). Cost: as [`Rows::check_finite`].
    ///
    /// # Errors
    /// [`Error::Shape`] naming the first by row and column, and the largest value of that column.
    pub(crate) fn check_usable(&self, what: &'static str) -> Result<()> {
        self.refuse(what, self.first_bad(is_usable))
    }

    /// The error for the feature at this row and column, if there is one.
    fn refuse(&self, what: &'static str, bad: Option<(usize, usize)>) -> Result<()> {
        let Some((row, column)) = bad else {
            return Ok(());
        };
        let value = self.row(row)[column];
        if !value.is_finite() {
            let found = format!("{value} in row {row}, feature {column}");
            return Err(Error::shape(what, found, "finite numbers"));
        }
        let values = (0..self.len()).map(|i| self.row(i)[column].abs());
        let largest = values.filter(|value| value.is_finite()).fold(0.0, f32::max);
        Err(Error::shape(
            what,
            format!("{value:e} in row {row}, feature {column}, whose largest is {largest:e}"),
            "numbers from -1e15 to 1e15, so that f32 holds sums of their squares: replace values that stand for missing ones, or divide that feature by a power of ten",
        ))
    }

    /// The row and the column of the first feature that fails the test.
    fn first_bad(&self, test: impl Fn(f32) -> bool + Copy + Sync) -> Option<(usize, usize)> {
        if self.known_usable {
            return None;
        }
        let rows = (0..self.len()).into_par_iter();
        let rows = rows.share(Work::bytes(4 * self.len() * self.features()));
        let bad = rows.map(|i| position(self.row(i), test)).collect();
        (bad.iter().enumerate()).find_map(|(row, column)| Some((row, (*column)?)))
    }

    /// The largest |x_i|² of the rows i for which `keep(i)` is true. Cost: these rows are read once.
    pub fn largest_square(&self, keep: impl Fn(usize) -> bool + Sync) -> f64 {
        let square = |i| -> f64 { self.row(i).iter().map(|&x| f64::from(x).powi(2)).sum() };
        let square = |i| if keep(i) { square(i) } else { 0.0 };
        let rows = (0..self.len()).into_par_iter();
        let rows = rows.share(Work::bytes(4 * self.len() * self.features()));
        rows.map(square).collect().into_iter().fold(0.0, f64::max)
    }

    /// Reads one value of each page of these rows, in order, to load a memory map before its rows are
    /// multiplied: sequential reads are the fastest on a disk.
    pub fn touch(&self, range: Range<usize>) {
        /// Number of values in the smallest page, 4096 bytes.
        const PAGE: usize = 1024;
        for i in range {
            let row = self.row(i);
            let values = row.iter().step_by(PAGE).chain(row.last());
            values.for_each(|value| {
                std::hint::black_box(*value);
            });
        }
    }

    /// Rows `range` as a matrix: borrowed if they are contiguous, else copied to `scratch`.
    pub fn block<'b>(&'b self, range: Range<usize>, scratch: &'b mut Vec<f32>) -> MatRef<'b> {
        match self.contiguous() {
            Some(x) => x.rows_range(range),
            None => {
                let rows = range.len();
                scratch.clear();
                range.for_each(|i| scratch.extend_from_slice(self.row(i)));
                MatRef::new(scratch, rows, self.features())
            }
        }
    }

    /// The rows with these numbers, which must be in ascending order.
    pub(super) fn choose(&self, kept: &[u32]) -> Self {
        let mut chosen = self.clone();
        let ends = kept.first().copied().zip(kept.last().copied());
        match (ends, &self.index) {
            (Some((first, last)), None) if (last - first) as usize + 1 == kept.len() => {
                let end = (last as usize + 1) * self.stride;
                let end = end.min(self.values.len());
                chosen.values = &self.values[first as usize * self.stride..end];
                chosen.rows = kept.len();
            }
            _ => {
                let number = |&i: &u32| self.index.as_ref().map_or(i, |index| index[i as usize]);
                chosen.index = Some(kept.iter().map(number).collect());
            }
        }
        chosen
    }
}
