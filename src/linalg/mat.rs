//! Views of row-major f32 matrices: a slice without gaps between rows, and a shape. No arithmetic.

use crate::error::{Error, Result};

/// A read-only view of a row-major matrix; row `i` starts at `data[i * cols]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
}

/// A mutable view of a row-major matrix.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
}

impl<'a> MatRef<'a> {
    /// The matrix of `rows x cols` values in `data`.
    ///
    /// # Panics
    /// If `data.len() != rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "matrix shape");
        MatRef { data, rows, cols }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row after row.
    pub fn as_slice(&self) -> &'a [f32] {
        self.data
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.cols..][..self.cols]
    }

    /// Rows `range`, borrowed.
    ///
    /// # Panics
    /// If the range ends beyond the last row.
    pub fn rows_range(&self, range: std::ops::Range<usize>) -> MatRef<'a> {
        let data = &self.data[range.start * self.cols..range.end * self.cols];
        MatRef::new(data, range.len(), self.cols)
    }
}

impl<'a> MatMut<'a> {
    /// The matrix of `rows x cols` values in `data`.
    ///
    /// # Panics
    /// If `data.len() != rows * cols`.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "matrix shape");
        MatMut { data, rows, cols }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row after row.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.data
    }

    /// A shorter-lived view of the same matrix.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
        }
    }

    /// The same matrix, read-only.
    pub fn as_ref(&self) -> MatRef<'_> {
        MatRef::new(self.data, self.rows, self.cols)
    }
}

/// A vector of rows x cols zeros.
///
/// # Errors
/// [`Error::Memory`] if it cannot be allocated.
pub(crate) fn try_zeros<T: Clone + Default>(rows: usize, cols: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let len = rows.saturating_mul(cols);
    if values.try_reserve_exact(len).is_err() {
        return Err(Error::memory(
            "`engine`",
            format!("a matrix of {rows} x {cols} for which there is no memory"),
            "another engine (or auto), fewer rows or features, or more memory",
        ));
    }
    values.resize(len, T::default());
    Ok(values)
}
