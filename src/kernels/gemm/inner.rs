//! Inner products: f32 operands that are both contiguous along k, one of them short.

use std::cell::Cell;

use rayon::prelude::*;

use crate::kernels::aligned::{self, Line};
use crate::kernels::columns::Start;
use crate::kernels::gemm::driver::{KC, for_each_task, with_scratch};
use crate::kernels::gemm::pack::{PackPanel, lanes, panel_width, prefetch_rows, transpose_all};
use crate::kernels::gemm::tile::{Epilogue, MR, PREFETCH_INTERVAL, copy_rows, tile, tile_rows};
use crate::kernels::gemm::{Accum, Strided};
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, Task};
use crate::threads::{self, Share, Work};

/// Most rows of a strip.
pub const STRIP: usize = 8 * MR;
/// Values of the short operand that are packed at a time: 2 MB.
const MAX_PACKED: usize = 512 << 10;
/// Most columns of a short operand: at least KC steps of k are packed at a time.
pub const MAX_SHORT: usize = MAX_PACKED / KC;
/// Steps of k that one task packs.
const PACK_STEPS: usize = 128;

thread_local! {
    /// A thread's buffer for the packed short operand, kept between products.
    static PACKED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Whether [`inner_products`] computes this product: B's columns are contiguous, one of the
/// operands is short, and no dimension is 0.
pub fn pays(a: Strided, b: Strided) -> bool {
    let short = a.rows.min(b.cols);
    b.row_stride == 1 && (1..=MAX_SHORT).contains(&short) && a.cols > 0
}

/// `C = alpha · A B`, or added to C, for operands for which this [`pays`]: the rows of A and the
/// columns of B are contiguous. Shapes and cost as for [`product`](super::product).
///
/// # Panics
/// If the shapes do not match.
pub fn inner_products(isa: Isa, alpha: f32, a: Strided, b: Strided, accum: Accum, c: &mut [f32]) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    a.check();
    b.check();
    assert_eq!(a.col_stride, 1, "A's rows must be contiguous");
    assert_eq!(b.row_stride, 1, "B's columns must be contiguous");
    assert_eq!(k, b.rows, "inner dimensions");
    assert_eq!(Some(c.len()), m.checked_mul(n), "result's size");
    // C or, if B is the longer operand, Cᵀ = Bᵀ Aᵀ; the shorter one is packed.
    let transposed = n > m;
    let (long, short) = if transposed {
        (b.transpose(), a.transpose())
    } else {
        (a, b)
    };
    let nr = panel_width(isa);
    let width = short.cols.next_multiple_of(lanes(isa));
    let span = (MAX_PACKED / width / KC).max(1) * KC;
    let strip = strip_rows(long.rows);
    let start = Start::of(c);
    let mut packed = PACKED.take();
    for first in (0..k).step_by(span) {
        let len = span.min(k - first);
        let packed = aligned::resize(&mut packed, width * len);
        for (panel, to) in packed.chunks_mut(nr * len).enumerate() {
            let columns = panel * nr..((panel + 1) * nr).min(short.cols);
            let width = to.len() / len;
            let work = Work::bytes(8 * columns.len() * len);
            let parts = to.par_chunks_mut(PACK_STEPS * width).share(work);
            parts.enumerate().for_each(|(part, to)| {
                let k = first + part * PACK_STEPS;
                isa.run(&mut PackPanel {
                    b: short,
                    columns: columns.clone(),
                    k: k..k + to.len() / width,
                    to,
                });
            });
        }
        for_each_task(long.rows.div_ceil(strip), m * n * k, |i| {
            let row = i * strip;
            let at = if transposed { row } else { row * n };
            with_scratch(|scratch| {
                isa.run(&mut Strip {
                    alpha,
                    a: &long.data[row * long.row_stride + first..],
                    rows: strip.min(long.rows - row),
                    row_stride: long.row_stride,
                    len,
                    b: packed,
                    columns: short.cols,
                    width,
                    add: accum == Accum::Add || first > 0,
                    // SAFETY: row or column `row` of C begins there.
                    c: unsafe { start.at(at) },
                    stride: n,
                    transposed,
                    sums: aligned::resize(scratch, strip * width),
                });
            });
        });
    }
    PACKED.set(packed);
}

/// Rows of a strip, in whole tiles, that give the busiest thread the fewest rows.
fn strip_rows(rows: usize) -> usize {
    let threads = threads::current();
    let busiest = |&strip: &usize| rows.div_ceil(strip).div_ceil(threads) * strip;
    let strips = (STRIP / 2 / MR..=STRIP / MR).rev().map(|tiles| tiles * MR);
    strips.min_by_key(busiest).unwrap_or(STRIP)
}

/// The task of computing the inner products of a range of rows, for one block of k.
struct Strip<'a> {
    alpha: f32,
    /// A, from the block's part of the first row on.
    a: &'a [f32],
    rows: usize,
    /// Distance from row to row of `a`.
    row_stride: usize,
    /// Length of the block.
    len: usize,
    /// The block of B in panels of NR columns; the last one is padded to whole vectors.
    b: &'a [f32],
    columns: usize,
    /// Columns, padded to whole vectors.
    width: usize,
    add: bool,
    /// The first element of the strip in C.
    c: *mut f32,
    /// Distance from row to row of C.
    stride: usize,
    /// Whether the rows of the strip are columns of C.
    transposed: bool,
    /// A buffer for the tiles of the strip, `width` values a row.
    sums: &'a mut [f32],
}

impl Task for Strip<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let nr = NV * S::LANES;
        let (len, width) = (self.len, self.width);
        assert!(NV <= 4 && self.b.len() == width * len);
        assert!(self.sums.len() >= self.rows.next_multiple_of(MR) * width);
        if self.add {
            // SAFETY: the caller's promise; the strip belongs to this task.
            unsafe { self.load::<S>() };
        }
        for first in (0..len).step_by(KC) {
            let steps = KC.min(len - first);
            for row in (0..self.rows).step_by(MR) {
                let a = tile_rows(self.a, self.row_stride, row, self.rows, first, steps);
                let next = if row + MR < self.rows {
                    a[0].wrapping_add(MR * self.row_stride)
                } else {
                    self.a.as_ptr().wrapping_add(first + KC)
                };
                for column in (0..width).step_by(nr) {
                    let vectors = nr.min(width - column) / S::LANES;
                    // SAFETY: the assertions above check the sizes of the operands and of `sums`.
                    unsafe {
                        let b = self
                            .b
                            .as_ptr()
                            .add(column * len + first * vectors * S::LANES);
                        let epilogue = Epilogue::<f32> {
                            scale: self.alpha,
                            add: self.add || first > 0,
                            c: self.sums.as_mut_ptr().add(row * width + column),
                            stride: width,
                        };
                        let mut next = next;
                        let prefetch = || {
                            if column == 0 {
                                prefetch_rows::<S, _>(next, self.row_stride);
                                next = next.wrapping_add(PREFETCH_INTERVAL);
                            }
                        };
                        match vectors {
                            1 => epilogue.whole::<S, 1>(tile::<S, f32, 1>(steps, a, b, prefetch)),
                            2 => epilogue.whole::<S, 2>(tile::<S, f32, 2>(steps, a, b, prefetch)),
                            3 => epilogue.whole::<S, 3>(tile::<S, f32, 3>(steps, a, b, prefetch)),
                            _ => epilogue.whole::<S, 4>(tile::<S, f32, 4>(steps, a, b, prefetch)),
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise; the strip belongs to this task.
        unsafe { self.store::<S>() };
    }
}

impl Strip<'_> {
    /// Copy the strip of C to `sums`.
    ///
    /// # Safety
    /// As [`Task::run`]; the strip of C can be read.
    #[inline(always)]
    unsafe fn load<S: Simd>(&mut self) {
        let (width, stride) = (self.width, self.stride);
        let (c, sums) = (self.c, self.sums.as_mut_ptr());
        // SAFETY: the caller's promise; `sums` holds the rows.
        unsafe {
            if self.transposed {
                transpose_all::<S, _>(c, stride, self.columns, self.rows, sums, width);
            } else {
                copy_rows(c, stride, self.rows, self.columns, sums, width);
            }
        }
    }

    /// Copy `sums` to the strip of C.
    ///
    /// # Safety
    /// As [`Task::run`]; the strip of C can be written.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self) {
        let (width, stride) = (self.width, self.stride);
        let (c, sums) = (self.c, self.sums.as_ptr());
        // SAFETY: the caller's promise; `sums` holds the rows.
        unsafe {
            if self.transposed {
                transpose_all::<S, _>(sums, width, self.rows, self.columns, c, stride);
            } else {
                copy_rows(sums, width, self.rows, self.columns, c, stride);
            }
        }
    }
}
