//! Blocks of columns of a row-major matrix: disjoint mutable views, one for each task.
//!
//! Passes that cut a matrix in the same way find each block in the cache of the core that worked
//! on it before.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Width of a block of [`blocks`]: a panel of the widest vectors.
pub const WIDTH: usize = 64;

/// A mutable view of a range of columns of a row-major matrix.
pub struct Columns<'a, T = f32> {
    /// The first column of the range in row 0.
    start: *mut T,
    /// Distance from row to row.
    stride: usize,
    rows: usize,
    range: Range<usize>,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Columns<'_, T> {
    /// Columns `range` of a matrix at `start` of `rows` rows, `stride` values apart.
    ///
    /// # Safety
    /// The matrix has these columns, and no other view of them exists while this one does.
    pub(super) unsafe fn new(
        start: *mut T,
        stride: usize,
        rows: usize,
        range: Range<usize>,
    ) -> Self {
        Columns {
            start: start.wrapping_add(range.start),
            stride,
            rows,
            range,
            matrix: PhantomData,
        }
    }

    /// The numbers of the columns.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// These columns of row `j`.
    ///
    /// # Panics
    /// If `j` is not below the number of rows.
    #[inline(always)]
    pub fn row(&mut self, j: usize) -> &mut [T] {
        assert!(j < self.rows, "row {j} of {}", self.rows);
        // SAFETY: row j has these columns, `self` alone has them, and it is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(j * self.stride), self.range.len()) }
    }
}

// SAFETY: a mutable view like `&mut [T]`; no other view has the same values.
unsafe impl<T: Send> Send for Columns<'_, T> {}

/// A raw pointer to a matrix whose parts different threads write. Each use has to say why no other
/// thread touches the same element.
pub(crate) struct Start<T>(*mut T);

impl<T> Start<T> {
    /// The start of `values`.
    pub(crate) fn of(values: &mut [T]) -> Self {
        Start(values.as_mut_ptr())
    }

    /// A pointer to element `at`.
    ///
    /// # Safety
    /// `at` is at most the number of values.
    pub(crate) unsafe fn at(&self, at: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }
}

// SAFETY: a pointer touches nothing by itself; values that are written through it by another
// thread may be sent there.
unsafe impl<T: Send> Send for Start<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for Start<T> {}

/// A row-major matrix of `cols` columns, cut into blocks of [`WIDTH`] columns; the last block may
/// be narrower.
///
/// # Panics
/// If the values are not whole rows.
pub fn blocks<T: Send>(
    values: &mut [T],
    cols: usize,
) -> impl IndexedParallelIterator<Item = Columns<'_, T>> {
    blocks_of(values, cols, WIDTH)
}

/// [`blocks`] of `width` columns.
///
/// # Panics
/// If the values are not whole rows.
pub fn blocks_of<T: Send>(
    values: &mut [T],
    cols: usize,
    width: usize,
) -> impl IndexedParallelIterator<Item = Columns<'_, T>> {
    assert!(
        cols > 0 && values.len().is_multiple_of(cols),
        "matrix shape"
    );
    let rows = values.len() / cols;
    let start = Start::of(values);
    (0..cols.div_ceil(width)).into_par_iter().map(move |i| {
        let range = i * width..((i + 1) * width).min(cols);
        // SAFETY: the matrix is borrowed, and its blocks do not overlap.
        unsafe { Columns::new(start.at(0), cols, rows, range) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_block() {
        for (rows, cols) in [(3, 1), (2, WIDTH), (4, 3 * WIDTH + 5), (0, 7)] {
            let mut values = vec![0.0; rows * cols];
            blocks(&mut values, cols).for_each(|mut block| {
                let range = block.range();
                for j in 0..rows {
                    let row = block.row(j);
                    assert_eq!(row.len(), range.len());
                    for (value, i) in row.iter_mut().zip(range.clone()) {
                        *value += (j * cols + i + 1) as f32;
                    }
                }
            });
            assert!(
                values
                    .iter()
                    .enumerate()
                    .all(|(at, &v)| v == (at + 1) as f32)
            );
        }
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn rows_beyond_the_last_are_refused() {
        let mut values = vec![0.0; 6];
        blocks(&mut values, 3).for_each(|mut block| block.row(2).fill(1.0));
    }
}
