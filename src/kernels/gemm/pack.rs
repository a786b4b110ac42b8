//! Packing: copies panels of columns of B into the order in which tiles read them.
//!
//! An element is one 32-bit word, an f32 or four bytes, so vectors of i32 copy both kinds.

use std::ops::Range;

use bytemuck::Pod;

use crate::kernels::gemm::Strided;
use crate::kernels::gemm::tile::{MR, PREFETCH_INTERVAL};
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, Task};

/// Rows of B that are prefetched ahead of the copy. Only a few, as all of them may map to one set
/// of the cache.
const PREFETCH_ROWS: usize = 16;

/// NR, the columns of a panel.
pub fn panel_width(isa: Isa) -> usize {
    widths(isa).1
}

/// Values of a vector.
pub fn lanes(isa: Isa) -> usize {
    widths(isa).0
}

/// Values of a vector, and of a panel's row.
fn widths(isa: Isa) -> (usize, usize) {
    struct Widths(usize, usize);
    impl Task for Widths {
        #[inline(always)]
        unsafe fn run<S: Simd, const NV: usize>(&mut self) {
            (self.0, self.1) = (S::LANES, NV * S::LANES);
        }
    }
    let mut widths = Widths(0, 0);
    isa.run(&mut widths);
    (widths.0, widths.1)
}

/// The task of packing one panel of B, whose size was checked.
pub struct PackPanel<'a, T> {
    pub b: Strided<'a, T>,
    pub columns: Range<usize>,
    pub k: Range<usize>,
    /// The panel: the same number of elements for every k, at least one for each column.
    pub to: &'a mut [T],
}

impl<T: Pod> Task for PackPanel<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let (columns, k) = (self.columns.clone(), self.k.clone());
        let nr = self.to.len() / k.len();
        assert!(columns.len() <= nr && nr * k.len() == self.to.len());
        // SAFETY: the assertion checks `to`; `Strided::check` compared B's size with its shape.
        unsafe { pack_columns::<S, T>(self.b, columns, k, nr, self.to) };
    }
}

/// Pack columns of a block of rows: `nr` elements for every k, zeros beyond the last column.
///
/// # Safety
/// As [`Task::run`]; `to` has `nr` elements for every k, and the operand has the block.
#[inline(always)]
pub unsafe fn pack_columns<S: Simd, T: Pod>(
    b: Strided<T>,
    columns: Range<usize>,
    k: Range<usize>,
    nr: usize,
    to: &mut [T],
) {
    let width = columns.len();
    let len = k.len();
    // SAFETY: row k, column j of the operand is at from + k · row_stride + j · col_stride; all
    // reads stay within `columns` and `k`, all writes within nr x len elements.
    unsafe {
        let from = b
            .data
            .as_ptr()
            .add(columns.start * b.col_stride + k.start * b.row_stride);
        if width < nr {
            to.fill(T::zeroed());
        }
        let to = to.as_mut_ptr();
        if b.col_stride == 1 {
            for k in 0..len {
                let (from, to) = (from.add(k * b.row_stride), to.add(k * nr));
                let whole = width / S::LANES * S::LANES;
                for j in (0..whole).step_by(S::LANES) {
                    move_vector::<S, T>(from.add(j), to.add(j));
                }
                for j in whole..width {
                    *to.add(j) = *from.add(j);
                }
            }
        } else {
            // Columns are contiguous.
            transpose_all::<S, T>(from, b.col_stride, width, len, to, nr);
        }
    }
}

/// Packs the next panel, a few rows at a time, while the current one is multiplied. It moves
/// pointers from row to row: multiplying out an index and checking it for overflow would slow the
/// inner loop.
pub struct PackAhead<T> {
    from: *const T,
    /// Distance from row to row of B.
    stride: usize,
    /// Distance from a row to the one that is prefetched with it.
    prefetch_distance: usize,
    to: *mut T,
    /// Rows still to copy.
    left: usize,
    /// Rows that a call of [`PackAhead::some_rows`] copies.
    at_once: usize,
}

impl<T: Pod> PackAhead<T> {
    /// An empty panel.
    pub fn nothing() -> Self {
        PackAhead {
            from: std::ptr::null(),
            stride: 0,
            prefetch_distance: 0,
            to: std::ptr::null_mut(),
            left: 0,
            at_once: 0,
        }
    }

    /// A whole panel from column `column` on. The copy is divided over the calls that tiles of
    /// `steps` steps and `rows` rows in all make.
    ///
    /// # Panics
    /// If B does not hold the panel's first element.
    #[inline(always)]
    pub fn new(
        b: Strided<T>,
        column: usize,
        k: Range<usize>,
        to: &mut [T],
        steps: usize,
        rows: usize,
    ) -> Self {
        let calls = steps.div_ceil(PREFETCH_INTERVAL) * rows.div_ceil(MR);
        PackAhead {
            from: b.data[k.start * b.row_stride + column..].as_ptr(),
            stride: b.row_stride,
            prefetch_distance: PREFETCH_ROWS * b.row_stride,
            to: to.as_mut_ptr(),
            left: k.len(),
            at_once: k.len().div_ceil(calls),
        }
    }

    /// Copy the next rows.
    ///
    /// # Safety
    /// As [`Task::run`]; the rows that are left can be read, NR elements each, and written.
    #[inline(always)]
    pub unsafe fn some_rows<S: Simd, const NV: usize>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.copy::<S, NV>(self.at_once) };
    }

    /// Copy all rows that are left.
    ///
    /// # Safety
    /// As [`PackAhead::some_rows`].
    #[inline(always)]
    pub unsafe fn rest<S: Simd, const NV: usize>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.copy::<S, NV>(usize::MAX) };
    }

    /// Copy up to `count` rows.
    ///
    /// # Safety
    /// As [`PackAhead::some_rows`].
    #[inline(always)]
    unsafe fn copy<S: Simd, const NV: usize>(&mut self, count: usize) {
        let count = count.min(self.left);
        self.left -= count;
        for _ in 0..count {
            for v in 0..NV {
                // SAFETY: the caller's promise; a prefetch may name any address.
                unsafe {
                    move_vector::<S, T>(self.from.add(v * S::LANES), self.to);
                    S::prefetch_once(
                        self.from
                            .wrapping_add(self.prefetch_distance)
                            .wrapping_add(v * S::LANES)
                            .cast(),
                    );
                    self.to = self.to.add(S::LANES);
                }
            }
            self.from = self.from.wrapping_add(self.stride);
        }
    }
}

/// Prefetch the cache lines at `at` in MR rows.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
pub unsafe fn prefetch_rows<S: Simd, T>(mut at: *const T, stride: usize) {
    for _ in 0..MR {
        // SAFETY: the caller's promise; a prefetch may name any address.
        unsafe { S::prefetch(at.cast()) };
        at = at.wrapping_add(stride);
    }
}

/// Copy LANES elements.
///
/// # Safety
/// As [`Task::run`]; LANES elements can be read at `from` and written at `to`.
#[inline(always)]
unsafe fn move_vector<S: Simd, T: Pod>(from: *const T, to: *mut T) {
    const { assert!(size_of::<T>() == size_of::<i32>()) };
    // SAFETY: the caller's promise; an element is as long as an i32.
    unsafe { S::store_i32(S::load_i32(from.cast()), to.cast()) };
}

/// Transpose rows x cols elements, by squares of LANES x LANES.
///
/// # Safety
/// As [`Task::run`] and [`copy_rows`].
#[inline(always)]
pub unsafe fn transpose_all<S: Simd, T: Pod>(
    from: *const T,
    from_stride: usize,
    rows: usize,
    cols: usize,
    to: *mut T,
    to_stride: usize,
) {
    let whole_rows = rows / S::LANES * S::LANES;
    let whole_cols = cols / S::LANES * S::LANES;
    let (down, across) = (S::LANES * from_stride, S::LANES * to_stride);
    // SAFETY: the caller's promise.
    unsafe {
        let (mut from_rows, mut to_cols) = (from, to);
        for _ in (0..whole_rows).step_by(S::LANES) {
            let (mut from, mut to) = (from_rows, to_cols);
            for _ in (0..whole_cols).step_by(S::LANES) {
                transpose_square::<S, T>(from, from_stride, to, to_stride);
                from = from.add(S::LANES);
                to = to.wrapping_add(across);
            }
            from_rows = from_rows.wrapping_add(down);
            to_cols = to_cols.add(S::LANES);
        }
        for j in 0..cols {
            let first = if j < whole_cols { whole_rows } else { 0 };
            for i in first..rows {
                *to.add(j * to_stride + i) = *from.add(i * from_stride + j);
            }
        }
    }
}

/// Transpose LANES rows of LANES elements: interleave the two halves of the rows log2(LANES) times.
/// Each round doubles the length of the runs that are in their final order.
///
/// # Safety
/// As [`Task::run`]; rows start `from_stride` and `to_stride` apart.
#[inline(always)]
unsafe fn transpose_square<S: Simd, T: Pod>(
    mut from: *const T,
    from_stride: usize,
    mut to: *mut T,
    to_stride: usize,
) {
    const MAX_LANES: usize = 16;
    const { assert!(S::LANES <= MAX_LANES && S::LANES.is_power_of_two()) };
    const { assert!(size_of::<T>() == size_of::<i32>()) };
    let half = S::LANES / 2;
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [S::splat_i32(0); MAX_LANES];
        for row in rows.iter_mut().take(S::LANES) {
            *row = S::load_i32(from.cast());
            from = from.wrapping_add(from_stride);
        }
        let mut round = 1;
        while round < S::LANES {
            let old = rows;
            for i in 0..half {
                (rows[2 * i], rows[2 * i + 1]) = S::zip(old[i], old[i + half]);
            }
            round *= 2;
        }
        for &row in rows.iter().take(S::LANES) {
            S::store_i32(row, to.cast());
            to = to.wrapping_add(to_stride);
        }
    }
}
