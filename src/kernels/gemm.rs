//! Matrix product of strided f32 operands into a row-major result.
//!
//! C is computed in tiles of MR x NR sums that live in registers. The summed index k is cut
//! into blocks, and the rest depends on how the operands lie.
//!
//! In general, C is cut into panels of NR columns. A, whose rows lie along k, is read where it
//! lies, and each task packs its own columns of B, the next panel while this one is multiplied:
//!
//! ```text
//! for block of rows:                     the block of A stays in L3
//!   for some panels of NR columns, in parallel:
//!     for KC of k, for panel:                B packed: NR columns side by side (L2)
//!       for MR rows:                             one tile, the next rows on their way
//! ```
//!
//! Threads meet after each KC of k where panels are of different lengths, a triangle's, or
//! packed before.
//!
//! Where both operands lie along k (inner products: X Wᵀ) and one of them is short, the longer
//! one takes A's place and is read once:
//!
//! ```text
//! for block of k:                        the shorter one packed as B above (L3)
//!   for strip of the longer one's rows, in parallel:
//!     for KC of the block's k:               its part of B stays in L2
//!       for MR rows, for panel:                  one tile, the next rows on their way
//! ```
//!
//! The design is that of BLIS (Van Zee and van de Geijn 2015). The order in which one element
//! is summed depends on k and KC only.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::aligned::{self, Line};
use crate::kernels::columns::{self, Columns};
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, Task};
use crate::linalg::threads::{self, Share, Work};

/// What the values are.
#[derive(Clone, Copy)]
enum Numbers {
    /// f32; the product is scaled.
    Floats {
        /// By this.
        alpha: f32,
    },
    /// Four bytes each, unsigned in A and signed in B; sums are i32, stored as the same bits.
    Bytes,
}

/// Rows of a tile. 102 classes are 17 of them.
pub const MR: usize = 6;
/// Widest panel of any instruction set.
const MAX_NR: usize = 64;
/// Rows of A that are multiplied together: with KC columns 4 MB, which stay in cache while
/// all panels use them. Whole tiles, so that a triangle's first tile starts at one.
const ROWS: usize = 170 * MR;
/// Length of k for which a panel is packed, and which a tile sums before it returns to C.
const KC: usize = 1024;
/// Most rows of a strip.
const STRIP: usize = 8 * MR;
/// Values of B that inner products pack at a time: 2 MB. What does not fit for one KC is not
/// short.
const SHORT: usize = 512 << 10;
/// Steps of k that are packed together by one task.
const PACK: usize = 128;
/// Steps of k after which a tile looks aside: fetches what will be needed next.
const ASIDE: usize = 16;
/// Panels a task, at most: only the first one's packing is waited for.
const RUN: usize = 32;
/// Rows of B that are on their way from memory while a panel is copied: as they may all lie
/// in one set of the cache, only a few.
const AHEAD: usize = 16;

/// A matrix with strides: element (i, j) is at `i · row_stride + j · col_stride`; one of the
/// strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// From row to row.
    pub row_stride: usize,
    /// From column to column.
    pub col_stride: usize,
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
enum Right<'a> {
    /// Packed while it is multiplied.
    Strided(Strided<'a>),
    /// Packed before, for many products.
    Packed(&'a Packed),
}

impl Right<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Strided(b) => (b.rows, b.cols),
            Right::Packed(b) => (b.rows, b.cols),
        }
    }
}

/// A right operand in panels of NR columns, each with NR values side by side for every row.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    isa: Isa,
    rows: usize,
    cols: usize,
    values: Vec<Line>,
}

impl Packed {
    /// Pack B, on the current rayon pool. Cost: a copy.
    pub fn new(isa: Isa, b: Strided) -> Packed {
        b.check();
        let nr = panel_width(isa);
        let (rows, cols) = (b.rows, b.cols);
        let mut values = Vec::new();
        let panels = aligned::resize(&mut values, rows * cols.next_multiple_of(nr));
        let work = Work::bytes(8 * rows * cols);
        (panels.par_chunks_exact_mut((rows * nr).max(1)))
            .share(work)
            .enumerate()
            .for_each(|(i, to)| {
                let columns = i * nr..((i + 1) * nr).min(cols);
                isa.run(&mut PackPanel {
                    b,
                    columns,
                    k: 0..rows,
                    to,
                });
            });
        Packed {
            isa,
            rows,
            cols,
            values,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Append row `k` of B to `to`.
    pub fn push_row(&self, k: usize, to: &mut Vec<f32>) {
        let nr = panel_width(self.isa);
        let values: &[f32] = bytemuck::cast_slice(&self.values);
        for (i, panel) in values.chunks_exact(self.rows * nr).enumerate() {
            let width = nr.min(self.cols - i * nr);
            to.extend_from_slice(&panel[k * nr..][..width]);
        }
    }
}

/// What becomes of C's old values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accum {
    /// They are not read.
    Replace,
    /// The product is added to them.
    Add,
}

/// The part of C to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Full,
    /// On and below the diagonal; above it C holds nothing of meaning afterwards.
    LowerTriangle,
}

impl Strided<'_> {
    /// The same values with rows and columns exchanged.
    pub fn transpose(self) -> Self {
        Strided {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    fn check(&self) {
        let last = |n: usize, stride: usize| n.saturating_sub(1).checked_mul(stride);
        let end = last(self.rows, self.row_stride)
            .zip(last(self.cols, self.col_stride))
            .and_then(|(row, col)| row.checked_add(col));
        assert!(self.row_stride == 1 || self.col_stride == 1, "strides");
        assert!(
            self.rows == 0 || self.cols == 0 || end.is_some_and(|end| end < self.data.len()),
            "an operand's size"
        );
    }
}

/// `C = alpha · A B`, or added to C; C has `b.cols` columns, A's rows are contiguous. Runs on
/// the current rayon pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(
    isa: Isa,
    alpha: f32,
    a: Strided,
    b: Strided,
    accum: Accum,
    part: Part,
    c: &mut [f32],
) {
    let (numbers, b) = (Numbers::Floats { alpha }, Right::Strided(b));
    multiply(isa, numbers, a, b, accum, part, c, None);
}

/// `C = begin(C) + alpha · A B`; `begin` is given each panel of C just before its product is
/// added. Runs on the current rayon pool.
///
/// # Panics
/// If the shapes do not fit, or if B was packed for another instruction set.
pub fn packed_product(isa: Isa, alpha: f32, a: Strided, b: &Packed, c: &mut [f32], begin: Begin) {
    let (numbers, b, add) = (Numbers::Floats { alpha }, Right::Packed(b), Accum::Add);
    multiply(isa, numbers, a, b, add, Part::Full, c, Some(begin));
}

/// What a panel of C is before the product is added.
type Begin<'a> = &'a (dyn Fn(&mut Columns) + Sync);

/// `C = A B` of bytes, or added to C, exactly: A unsigned, B signed, C i32. Operands hold four bytes of the
/// summed index in every f32, as [`bytemuck`] casts them. Runs on the current rayon pool.
///
/// # Panics
/// If the shapes do not fit, or if a sum could overflow: at 65,793 bytes and more, which must
/// not be exceeded by adding either.
pub fn byte_product(isa: Isa, a: Strided, b: Strided, accum: Accum, part: Part, c: &mut [i32]) {
    assert!(
        4 * a.cols < 65_793,
        "255 · 128 · bytes must stay below 2^31"
    );
    let (b, c) = (Right::Strided(b), bytemuck::cast_slice_mut(c));
    multiply(isa, Numbers::Bytes, a, b, accum, part, c, None);
}

#[expect(clippy::too_many_arguments)]
fn multiply(
    isa: Isa,
    numbers: Numbers,
    a: Strided,
    b: Right,
    accum: Accum,
    part: Part,
    c: &mut [f32],
    begin: Option<Begin>,
) {
    let add = accum == Accum::Add;
    let (m, k) = (a.rows, a.cols);
    let (b_rows, n) = b.shape();
    a.check();
    match b {
        Right::Strided(b) => b.check(),
        Right::Packed(b) => assert_eq!(b.isa, isa, "panels of another instruction set"),
    }
    assert_eq!(a.col_stride, 1, "A lies along k");
    assert_eq!(k, b_rows, "inner dimensions");
    assert_eq!(Some(c.len()), m.checked_mul(n), "result's size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        match begin {
            Some(begin) => columns::blocks(c, n).for_each(|mut block| begin(&mut block)),
            None if !add => c.fill(0.0),
            None => {}
        }
        return;
    }
    if let (Right::Strided(b), Numbers::Floats { alpha }, Part::Full) = (b, numbers, part)
        && b.row_stride == 1
        && m.min(n) <= SHORT / KC
    {
        inner_products(isa, alpha, a, b, add, c);
        return;
    }
    let nr = panel_width(isa);
    let panels = n.div_ceil(nr);
    // Panels and steps of k of a task. A triangle's panels are of different lengths, the longest
    // ones come first; packed ones are not waited for.
    let (run, span) = match (b, part) {
        (Right::Strided(_), Part::Full) => (panels / (4 * threads::current()), k),
        _ => (1, KC),
    };
    let run = run.clamp(1, RUN) * nr;
    // `begin` is given whole columns.
    let at_once = if begin.is_some() { m } else { ROWS };
    let start = Start(c.as_mut_ptr());
    let row_blocks = (0..m).step_by(at_once);
    let blocks = row_blocks.flat_map(|row| (0..k).step_by(span).map(move |first| (row, first)));
    for (row, first) in blocks {
        let rows = row..(row + at_once).min(m);
        let block = first..(first + span).min(k);
        each(n.div_ceil(run), m * n * k, |i| {
            let start = &start;
            let columns = i * run..((i + 1) * run).min(n);
            let first_row = match part {
                Part::Full => 0,
                Part::LowerTriangle => (columns.start / MR * MR).saturating_sub(row),
            };
            if first_row >= rows.len() {
                return;
            }
            if block.start == 0
                && let Some(begin) = begin
            {
                // SAFETY: the columns are this task's.
                begin(&mut unsafe { Columns::new(start.0, n, m, columns.clone()) });
            }
            let mut packed_b = PACKED_B.take();
            let mut task = Panels {
                numbers,
                a: &a.data[row * a.row_stride..],
                a_stride: a.row_stride,
                rows: first_row..rows.len(),
                b,
                k: block.clone(),
                columns,
                packed_b: &mut packed_b,
                add,
                // SAFETY: `row` is a row of C.
                c: unsafe { start.0.add(row * n) },
                stride: n,
            };
            isa.run(&mut task);
            PACKED_B.set(packed_b);
        });
    }
}

/// `C = alpha · A B`, or added to C, where the rows of A and the columns of B are contiguous.
fn inner_products(isa: Isa, alpha: f32, a: Strided, b: Strided, add: bool, c: &mut [f32]) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    // C or, if B is the longer operand, Cᵀ = Bᵀ Aᵀ; the shorter one is packed.
    let transposed = n > m;
    let (long, short) = match transposed {
        false => (a, b),
        true => (b.transpose(), a.transpose()),
    };
    let nr = panel_width(isa);
    let width = short.cols.next_multiple_of(lanes(isa));
    let block = (SHORT / width / KC).max(1) * KC;
    let strip = strip_rows(long.rows);
    let start = Start(c.as_mut_ptr());
    let mut packed = SHARED_B.take();
    for first in (0..k).step_by(block) {
        let block = first..(first + block).min(k);
        let len = block.len();
        let packed = aligned::resize(&mut packed, width * len);
        for (panel, to) in packed.chunks_mut(nr * len).enumerate() {
            let columns = panel * nr..((panel + 1) * nr).min(short.cols);
            let width = to.len() / len;
            let pack = |(part, to): (usize, &mut [f32])| {
                let k = block.start + part * PACK;
                isa.run(&mut PackPanel {
                    b: short,
                    columns: columns.clone(),
                    k: k..k + to.len() / width,
                    to,
                });
            };
            let work = Work::bytes(8 * columns.len() * len);
            let parts = to.par_chunks_mut(PACK * width).share(work).enumerate();
            parts.for_each(pack);
        }
        each(long.rows.div_ceil(strip), m * n * k, |i| {
            let start = &start;
            let row = i * strip;
            let at = if transposed { row } else { row * n };
            let mut sums = PACKED_B.take();
            let room = aligned::resize(&mut sums, strip * width);
            isa.run(&mut Strip {
                alpha,
                a: &long.data[row * long.row_stride + first..],
                rows: strip.min(long.rows - row),
                row_stride: long.row_stride,
                len,
                b: packed,
                columns: short.cols,
                width,
                add: add || first > 0,
                // SAFETY: row or column `row` of C begins there.
                c: unsafe { start.0.add(at) },
                stride: n,
                transposed,
                sums: room,
            });
            PACKED_B.set(sums);
        });
    }
    SHARED_B.set(packed);
}

/// Rows of a strip, in whole tiles, that leave the busiest thread the least to do.
fn strip_rows(rows: usize) -> usize {
    let threads = threads::current();
    let busiest = |&strip: &usize| rows.div_ceil(strip).div_ceil(threads) * strip;
    let strips = (STRIP / 2 / MR..=STRIP / MR).rev().map(|tiles| tiles * MR);
    strips.min_by_key(busiest).unwrap_or(STRIP)
}

/// Columns of a panel.
fn panel_width(isa: Isa) -> usize {
    widths(isa).1
}

/// Values of a vector.
fn lanes(isa: Isa) -> usize {
    widths(isa).0
}

/// Values of a vector and of a panel's row.
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

thread_local! {
    /// Kept between products, taken while one runs.
    static SHARED_B: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static PACKED_B: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Do the tasks of a product of so many multiply-adds, on the current rayon pool if they are
/// worth it.
fn each(tasks: usize, products: usize, task: impl Fn(usize) + Sync + Send) {
    let tasks = (0..tasks).into_par_iter();
    tasks.share(Work::flop(2 * products)).for_each(task);
}

/// The start of C, for disjoint panels.
struct Start(*mut f32);
// SAFETY: every task touches only its own columns of C, or its own rows.
unsafe impl Sync for Start {}

/// MR rows of an operand that lie along k, from `first` on; beyond the last row of `rows` that
/// one again, whose sums are dropped.
///
/// # Panics
/// If a row does not have `steps` values.
#[inline(always)]
fn tile_rows(
    a: &[f32],
    stride: usize,
    row: usize,
    rows: usize,
    first: usize,
    steps: usize,
) -> [*const f32; MR] {
    std::array::from_fn(|r| {
        let row = (row + r).min(rows - 1);
        a[row * stride + first..][..steps].as_ptr()
    })
}

/// One task: all tiles of some panels, for some of k.
struct Panels<'a> {
    numbers: Numbers,
    /// The block of A's rows.
    a: &'a [f32],
    /// From row to row of A.
    a_stride: usize,
    /// Rows to compute, of the block of A; starts at a tile.
    rows: Range<usize>,
    b: Right<'a>,
    k: Range<usize>,
    columns: Range<usize>,
    /// Room for two panels of B, where it is not packed.
    packed_b: &'a mut Vec<Line>,
    add: bool,
    /// The block's first row of C.
    c: *mut f32,
    stride: usize,
}

impl Task for Panels<'_> {
    /// Pack the columns of B and compute the tiles; NR = NV · `S::LANES`.
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let nr = NV * S::LANES;
        assert!(nr <= MAX_NR);
        let (k, columns) = (self.k.clone(), self.columns.clone());
        let parts = k.clone().step_by(KC).flat_map(|first| {
            let block = first..(first + KC).min(k.end);
            let panels = columns.clone().step_by(nr);
            let end = columns.end;
            panels.map(move |first| (block.clone(), first..(first + nr).min(end)))
        });
        let b = match self.b {
            Right::Packed(b) => {
                let values: &[f32] = bytemuck::cast_slice(&b.values);
                for (block, columns) in parts {
                    let panel = &values[columns.start / nr * nr * b.rows..][..nr * b.rows];
                    let panel = &panel[block.start * nr..block.end * nr];
                    // SAFETY: the caller's promise; the panel is `block` x NR.
                    unsafe { self.panel::<S, NV>(block, columns, panel, &mut Feed::nothing()) };
                }
                return;
            }
            Right::Strided(b) => b,
        };
        let most = nr * KC.min(k.len());
        let mut packed = std::mem::take(self.packed_b);
        let (mut this, mut next) = aligned::resize(&mut packed, 2 * most).split_at_mut(most);
        let mut parts = parts.peekable();
        // SAFETY: `this` and `next` hold NR values for every step of a block; `Strided::check`
        // held the operand's size against its shape, and so the feed's rows, the operand's next
        // columns.
        unsafe {
            if let Some((block, columns)) = parts.peek().cloned() {
                pack_columns::<S>(b, columns, block, nr, this);
            }
            while let Some((block, columns)) = parts.next() {
                let Some((next_block, next_columns)) = parts.peek().cloned() else {
                    self.panel::<S, NV>(block, columns, this, &mut Feed::nothing());
                    break;
                };
                if b.col_stride == 1 && next_columns.len() == nr {
                    let groups = block.len().div_ceil(ASIDE) * self.rows.len().div_ceil(MR);
                    let start = next_block.start * b.row_stride + next_columns.start;
                    let mut feed = Feed {
                        from: b.data[start..].as_ptr(),
                        stride: b.row_stride,
                        ahead: AHEAD * b.row_stride,
                        to: next.as_mut_ptr(),
                        left: next_block.len(),
                        at_once: next_block.len().div_ceil(groups),
                    };
                    self.panel::<S, NV>(block, columns, this, &mut feed);
                    feed.copy::<S, NV>(usize::MAX);
                } else {
                    self.panel::<S, NV>(block, columns, this, &mut Feed::nothing());
                    pack_columns::<S>(b, next_columns, next_block, nr, next);
                }
                std::mem::swap(&mut this, &mut next);
            }
        }
        *self.packed_b = packed;
    }
}

impl Panels<'_> {
    /// All tiles of a panel and block of k, with B packed.
    ///
    /// # Safety
    /// As [`Task::run`]; `b` is block x NR values; `feed` as [`Feed::copy`].
    #[inline(always)]
    unsafe fn panel<S: Simd, const NV: usize>(
        &self,
        block: Range<usize>,
        columns: Range<usize>,
        b: &[f32],
        feed: &mut Feed,
    ) {
        let (steps, width) = (block.len(), columns.len());
        for row in self.rows.clone().step_by(MR) {
            let rows = MR.min(self.rows.end - row);
            let a = tile_rows(
                self.a,
                self.a_stride,
                row,
                self.rows.end,
                block.start,
                steps,
            );
            // SAFETY: `run` held B to its size, `tile_rows` A; `c` points to a matrix of
            // rows of length `stride` that holds the task's rows and columns, which no
            // other task touches.
            unsafe {
                let put = Put {
                    numbers: self.numbers,
                    add: self.add || block.start > 0,
                    c: self.c.add(row * self.stride + columns.start),
                    stride: self.stride,
                };
                let mut next = a[0].wrapping_add(MR * self.a_stride);
                let aside = || {
                    fetch_rows::<S>(next, self.a_stride);
                    next = next.wrapping_add(ASIDE);
                    feed.next::<S, NV>();
                };
                // C's rows lie apart like those of X: nothing else would fetch them in time.
                for v in 0..NV {
                    fetch_rows::<S>(put.c.wrapping_add(v * S::LANES), self.stride);
                }
                let b = b.as_ptr();
                let sums = match self.numbers {
                    Numbers::Floats { .. } => tile::<S, NV, false>(steps, a, b, aside),
                    Numbers::Bytes => tile::<S, NV, true>(steps, a, b, aside),
                };
                match rows == MR && width == NV * S::LANES {
                    true => put.whole::<S, NV>(sums),
                    false => put.edge::<S, NV>(sums, rows, width),
                }
            }
        }
    }
}

/// The copy of the next panel, some rows at a time. Pointers move from row to row: an index
/// that is multiplied out is checked for overflow, which the hot loops feel.
struct Feed {
    from: *const f32,
    stride: usize,
    /// Values from a row to the one that is fetched meanwhile.
    ahead: usize,
    to: *mut f32,
    /// Rows still to copy.
    left: usize,
    /// Rows a call of [`Feed::next`].
    at_once: usize,
}

impl Feed {
    /// Nothing to copy.
    fn nothing() -> Feed {
        Feed {
            from: std::ptr::null(),
            stride: 0,
            ahead: 0,
            to: std::ptr::null_mut(),
            left: 0,
            at_once: 0,
        }
    }

    /// Copy the next rows.
    ///
    /// # Safety
    /// As [`Feed::copy`].
    #[inline(always)]
    unsafe fn next<S: Simd, const NV: usize>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.copy::<S, NV>(self.at_once) };
    }

    /// Copy up to `count` rows.
    ///
    /// # Safety
    /// As [`Task::run`]; `left` rows of NR values can be read at `from` and written at `to`.
    #[inline(always)]
    unsafe fn copy<S: Simd, const NV: usize>(&mut self, count: usize) {
        let count = count.min(self.left);
        self.left -= count;
        for _ in 0..count {
            for v in 0..NV {
                // SAFETY: the caller's promise; a prefetch may name any address.
                unsafe {
                    S::store(S::load(self.from.add(v * S::LANES)), self.to);
                    S::prefetch_once(
                        self.from
                            .wrapping_add(self.ahead)
                            .wrapping_add(v * S::LANES),
                    );
                    self.to = self.to.add(S::LANES);
                }
            }
            self.from = self.from.wrapping_add(self.stride);
        }
    }
}

/// One task: the inner products of some rows, for one block of k.
struct Strip<'a> {
    alpha: f32,
    /// The first row's part of the block, and all that follows.
    a: &'a [f32],
    rows: usize,
    row_stride: usize,
    /// Length of the block.
    len: usize,
    /// The block of B in panels of NR columns, the last one of as many vectors as it takes.
    b: &'a [f32],
    columns: usize,
    /// Columns and what fills the last vector.
    width: usize,
    add: bool,
    /// The first of the strip's sums in C, whose rows lie `stride` apart.
    c: *mut f32,
    stride: usize,
    /// Whether the strip is columns of C, not rows.
    transposed: bool,
    /// Room for the strip's tiles, `width` values a row.
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
                let next = match row + MR < self.rows {
                    true => a[0].wrapping_add(MR * self.row_stride),
                    false => self.a.as_ptr().wrapping_add(first + KC),
                };
                for column in (0..width).step_by(nr) {
                    let vectors = nr.min(width - column) / S::LANES;
                    // SAFETY: the assertions hold the operands and `sums` to their sizes.
                    unsafe {
                        let b = self
                            .b
                            .as_ptr()
                            .add(column * len + first * vectors * S::LANES);
                        let put = Put {
                            numbers: Numbers::Floats { alpha: self.alpha },
                            add: self.add || first > 0,
                            c: self.sums.as_mut_ptr().add(row * width + column),
                            stride: width,
                        };
                        let mut next = next;
                        let aside = || {
                            if column == 0 {
                                fetch_rows::<S>(next, self.row_stride);
                                next = next.wrapping_add(ASIDE);
                            }
                        };
                        match vectors {
                            1 => put.whole::<S, 1>(tile::<S, 1, false>(steps, a, b, aside)),
                            2 => put.whole::<S, 2>(tile::<S, 2, false>(steps, a, b, aside)),
                            3 => put.whole::<S, 3>(tile::<S, 3, false>(steps, a, b, aside)),
                            _ => put.whole::<S, 4>(tile::<S, 4, false>(steps, a, b, aside)),
                        }
                    }
                }
            }
        }
        // SAFETY: as above.
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
            match self.transposed {
                true => transpose_all::<S>(c, stride, self.columns, self.rows, sums, width),
                false => copy_rows(c, stride, self.rows, self.columns, sums, width),
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
            match self.transposed {
                true => transpose_all::<S>(sums, width, self.rows, self.columns, c, stride),
                false => copy_rows(sums, width, self.rows, self.columns, c, stride),
            }
        }
    }
}

/// Ask for the cache lines at `at` in MR rows.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn fetch_rows<S: Simd>(mut at: *const f32, stride: usize) {
    for _ in 0..MR {
        // SAFETY: the caller's promise; a prefetch may name any address.
        unsafe { S::prefetch(at) };
        at = at.wrapping_add(stride);
    }
}

/// MR x NR sums of `steps` products, or of `steps` products of four bytes. `a` are A's rows,
/// `aside` is called every [`ASIDE`] steps. Pointers move instead of indices, which would be
/// checked for overflow.
///
/// # Safety
/// As [`Task::run`]; each row of `a` holds `steps` values, `b` `steps` x NR.
#[inline(always)]
unsafe fn tile<S: Simd, const NV: usize, const BYTES: bool>(
    steps: usize,
    mut a: [*const f32; MR],
    mut b: *const f32,
    mut aside: impl FnMut(),
) -> [[S::V; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::zero(); NV]; MR];
        let mut left = steps;
        while left > 0 {
            aside();
            let count = left.min(ASIDE);
            left -= count;
            for k in 0..count {
                let mut vectors = [S::zero(); NV];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(b.add(v * S::LANES));
                }
                b = b.add(NV * S::LANES);
                for (row, a) in sums.iter_mut().zip(&a) {
                    let value = S::splat(*a.add(k));
                    for (sum, &vector) in row.iter_mut().zip(&vectors) {
                        *sum = match BYTES {
                            true => S::dot4(value, vector, *sum),
                            false => S::fma(value, vector, *sum),
                        };
                    }
                }
            }
            a = a.map(|a| a.add(count));
        }
        sums
    }
}

/// Where a tile goes and what becomes of the old values.
struct Put {
    numbers: Numbers,
    add: bool,
    /// The start of the tile.
    c: *mut f32,
    stride: usize,
}

impl Put {
    /// Put a whole tile into C.
    ///
    /// # Safety
    /// As [`Task::run`]; MR rows of NR values at `c` belong to the caller.
    #[inline(always)]
    unsafe fn whole<S: Simd, const NV: usize>(&self, sums: [[S::V; NV]; MR]) {
        for (r, row) in sums.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let at = self.c.add(r * self.stride + v * S::LANES);
                    let value = match (self.numbers, self.add) {
                        (Numbers::Floats { alpha }, true) => {
                            S::fma(S::splat(alpha), sum, S::load(at))
                        }
                        (Numbers::Floats { alpha }, false) => S::mul(S::splat(alpha), sum),
                        (Numbers::Bytes, true) => S::add_integers(sum, S::load(at)),
                        (Numbers::Bytes, false) => sum,
                    };
                    S::store(value, at);
                }
            }
        }
    }

    /// Put `rows` x `width` values of a tile into C.
    ///
    /// # Safety
    /// As [`Put::whole`], for these values.
    #[inline(always)]
    unsafe fn edge<S: Simd, const NV: usize>(
        &self,
        sums: [[S::V; NV]; MR],
        rows: usize,
        width: usize,
    ) {
        let mut row_values = [0.0f32; MAX_NR];
        for (r, row) in sums.into_iter().enumerate().take(rows) {
            // SAFETY: NV vectors fit `row_values`; the rest is the caller's promise.
            unsafe {
                for (v, sum) in row.into_iter().enumerate() {
                    S::store(sum, row_values.as_mut_ptr().add(v * S::LANES));
                }
                for (j, &sum) in row_values.iter().enumerate().take(width) {
                    let at = self.c.add(r * self.stride + j);
                    *at = match (self.numbers, self.add) {
                        (Numbers::Floats { alpha }, true) => alpha.mul_add(sum, *at),
                        (Numbers::Floats { alpha }, false) => alpha * sum,
                        (Numbers::Bytes, true) => {
                            f32::from_bits(sum.to_bits().wrapping_add((*at).to_bits()))
                        }
                        (Numbers::Bytes, false) => sum,
                    };
                }
            }
        }
    }
}

/// Pack one panel of B.
struct PackPanel<'a> {
    b: Strided<'a>,
    columns: Range<usize>,
    k: Range<usize>,
    /// As many values for every k as it is long.
    to: &'a mut [f32],
}

impl Task for PackPanel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let (columns, k) = (self.columns.clone(), self.k.clone());
        let nr = self.to.len() / k.len();
        assert!(columns.len() <= nr && nr * k.len() == self.to.len());
        // SAFETY: the assertion; the operand was checked.
        unsafe { pack_columns::<S>(self.b, columns, k, nr, self.to) };
    }
}

/// Pack columns of a block of rows: for every k its `nr` values, zeros beyond the last.
///
/// # Safety
/// As [`Task::run`]; `to` holds `nr` values for every k, and the operand holds the block.
#[inline(always)]
unsafe fn pack_columns<S: Simd>(
    b: Strided,
    columns: Range<usize>,
    k: Range<usize>,
    nr: usize,
    to: &mut [f32],
) {
    let width = columns.len();
    let len = k.len();
    // SAFETY: row k, column j of the operand is at from + k · row_stride + j · col_stride; all
    // reads stay within `columns` and `k`, all writes within nr x len values.
    unsafe {
        let from = b
            .data
            .as_ptr()
            .add(columns.start * b.col_stride + k.start * b.row_stride);
        if width < nr {
            to.fill(0.0);
        }
        let to = to.as_mut_ptr();
        if b.col_stride == 1 {
            for k in 0..len {
                let (from, to) = (from.add(k * b.row_stride), to.add(k * nr));
                let whole = width / S::LANES * S::LANES;
                for j in (0..whole).step_by(S::LANES) {
                    S::store(S::load(from.add(j)), to.add(j));
                }
                for j in whole..width {
                    *to.add(j) = *from.add(j);
                }
            }
            return;
        }
        // Columns are contiguous.
        transpose_all::<S>(from, b.col_stride, width, len, to, nr);
    }
}

/// Transpose rows x cols values, by squares of LANES x LANES.
///
/// # Safety
/// As [`Task::run`]; the rows start `from_stride` apart, those of the result `to_stride`.
#[inline(always)]
unsafe fn transpose_all<S: Simd>(
    from: *const f32,
    from_stride: usize,
    rows: usize,
    cols: usize,
    to: *mut f32,
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
                transpose::<S>(from, from_stride, to, to_stride);
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

/// Copy rows x cols values between rows that lie apart.
///
/// # Safety
/// As [`transpose_all`].
unsafe fn copy_rows(
    from: *const f32,
    from_stride: usize,
    rows: usize,
    cols: usize,
    to: *mut f32,
    to_stride: usize,
) {
    for i in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(from.add(i * from_stride), to.add(i * to_stride), cols);
        }
    }
}

/// Transpose LANES rows of LANES values: interleaving the two halves of the rows, as often
/// as it takes to double one value to all.
///
/// # Safety
/// As [`Task::run`]; rows start `from_stride` and `to_stride` apart.
#[inline(always)]
unsafe fn transpose<S: Simd>(
    mut from: *const f32,
    from_stride: usize,
    mut to: *mut f32,
    to_stride: usize,
) {
    const MOST: usize = 16;
    const { assert!(S::LANES <= MOST && S::LANES.is_power_of_two()) };
    let half = S::LANES / 2;
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [S::zero(); MOST];
        for row in rows.iter_mut().take(S::LANES) {
            *row = S::load(from);
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
            S::store(row, to);
            to = to.wrapping_add(to_stride);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random_values as values;
    use proptest::prelude::*;

    /// A random rows x cols operand: as stored or transposed, its rows padded by NaN.
    struct Made {
        data: Vec<f32>,
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    }

    impl Made {
        fn new(rows: usize, cols: usize, transposed: bool, padding: usize, seed: u32) -> Made {
            let (lines, len) = if transposed {
                (cols, rows)
            } else {
                (rows, cols)
            };
            let stride = len + padding;
            let mut data = values((lines * stride).max(1), seed);
            for line in data.chunks_mut(stride.max(1)) {
                line.iter_mut()
                    .skip(len)
                    .for_each(|value| *value = f32::NAN);
            }
            let (row_stride, col_stride) = if transposed { (1, stride) } else { (stride, 1) };
            Made {
                data,
                rows,
                cols,
                row_stride,
                col_stride,
            }
        }

        fn view(&self) -> Strided<'_> {
            Strided {
                data: &self.data,
                rows: self.rows,
                cols: self.cols,
                row_stride: self.row_stride,
                col_stride: self.col_stride,
            }
        }

        fn at(&self, i: usize, j: usize) -> f32 {
            self.data[i * self.row_stride + j * self.col_stride]
        }
    }

    /// More rows than are packed together: the full product and the triangle.
    #[test]
    fn many_rows() {
        for n in [ROWS - 1, ROWS + 1, 2 * ROWS + 65] {
            let k = 3;
            let x = Made::new(n, k, false, 0, 9);
            let (a, b) = (
                x.view(),
                Strided {
                    rows: k,
                    cols: n,
                    row_stride: 1,
                    col_stride: k,
                    ..x.view()
                },
            );
            for isa in Isa::available() {
                for part in [Part::Full, Part::LowerTriangle] {
                    let mut c = vec![f32::NAN; n * n];
                    product(isa, 1.0, a, b, Accum::Replace, part, &mut c);
                    for i in 0..n {
                        let last = if part == Part::Full { n } else { i + 1 };
                        for j in 0..last {
                            let exact: f64 = (0..k)
                                .map(|l| f64::from(x.at(i, l)) * f64::from(x.at(j, l)))
                                .sum();
                            assert!(
                                (f64::from(c[i * n + j]) - exact).abs() < 1e-6,
                                "{isa} {i} {j}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Inner products of operands that both lie along k, over several blocks and strips, on
    /// either side: the bits of the general way, and f64 along a random direction.
    #[test]
    fn both_ways_give_the_same_bits() {
        let (k, wide) = (2 * KC + 37, SHORT / KC);
        for (m, n) in [(3 * STRIP + 5, 9), (9, 3 * STRIP + 5), (wide, wide + 7)] {
            let (a, b) = (Made::new(m, k, false, 3, 5), Made::new(k, n, true, 3, 6));
            let old = values(m * n, 7);
            let direction = values(n, 8);
            let mut expected: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let packed = Packed::new(isa, b.view());
                for general in [true, false] {
                    let mut c = old.clone();
                    match general {
                        true => packed_product(isa, 0.7, a.view(), &packed, &mut c, &|_| {}),
                        false => {
                            let (a, b) = (a.view(), b.view());
                            product(isa, 0.7, a, b, Accum::Add, Part::Full, &mut c);
                        }
                    }
                    let expected = expected.get_or_insert_with(|| c.clone());
                    let same = c
                        .iter()
                        .zip(expected)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{isa} {m} x {n}");
                }
            }
            let c = expected.unwrap();
            let moved: Vec<f64> = (0..k)
                .map(|l| {
                    let terms = (0..n).map(|j| f64::from(b.at(l, j)) * f64::from(direction[j]));
                    terms.sum()
                })
                .collect();
            for i in 0..m {
                let along = |row: &[f32]| -> f64 {
                    let terms = row.iter().zip(&direction);
                    terms.map(|(&c, &r)| f64::from(c) * f64::from(r)).sum()
                };
                let product: f64 = (0..k).map(|l| f64::from(a.at(i, l)) * moved[l]).sum();
                let expected = along(&old[i * n..][..n]) + 0.7 * product;
                let found = along(&c[i * n..][..n]);
                assert!(
                    (found - expected).abs() < 0.02,
                    "row {i}: {found} {expected}"
                );
            }
        }
    }

    fn near(edge: usize) -> impl Strategy<Value = usize> {
        (0..=2 * edge + 1).prop_map(move |n| if n > edge + 3 { n - edge / 2 } else { n })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// One test set for all: every instruction set gives the portable twin's bits, and
        /// the twin is within the bound of rounding of f64. What is replaced may hold NaN.
        #[test]
        fn every_instruction_set_equals_the_twin_and_f64(
            m in near(MR), n in prop_oneof![near(16), near(MAX_NR)],
            k in prop_oneof![0usize..40, KC - 2..KC + 3, 2 * KC - 1..2 * KC + 18],
            transposed in any::<bool>(), padding in 0usize..3, add in any::<bool>(),
            alpha in -2.0f32..2.0, seed in any::<u32>(), threads in 1usize..4,
        ) {
            crate::linalg::threads::share_short_loops();
            let a = Made::new(m, k, false, padding, seed);
            let b = Made::new(k, n, transposed, padding, seed ^ 1);
            let (accum, old) = match add {
                true => (Accum::Add, values(m * n, seed ^ 2)),
                false => (Accum::Replace, vec![f32::NAN; m * n]),
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = |isa| {
                let mut c = old.clone();
                pool.install(|| product(isa, alpha, a.view(), b.view(), accum, Part::Full, &mut c));
                c
            };
            let run_packed = |isa| {
                let mut c = vec![f32::NAN; m * n];
                let b = pool.install(|| Packed::new(isa, b.view()));
                // Adding to -0 changes no bit of a product; where there is none, 0 is expected.
                let nothing = if k == 0 { 0.0 } else { -0.0 };
                let begin = |block: &mut Columns| for i in 0..m {
                    let range = block.range();
                    match add {
                        true => block.row(i).copy_from_slice(&old[i * n..][range]),
                        false => block.row(i).fill(nothing),
                    }
                };
                pool.install(|| packed_product(isa, alpha, a.view(), &b, &mut c, &begin));
                c
            };
            let twin = run(Isa::PORTABLE);
            for i in 0..m {
                for j in 0..n {
                    let terms = (0..k).map(|l| f64::from(a.at(i, l)) * f64::from(b.at(l, j)));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
                    let before = if add { f64::from(old[i * n + j]) } else { 0.0 };
                    let expected = f64::from(alpha) * sum + before;
                    let size = f64::from(alpha.abs()) * size + before.abs();
                    let bound = f64::from(f32::EPSILON) * (k as f64 + 4.0) * size + 1e-30;
                    let found = f64::from(twin[i * n + j]);
                    prop_assert!((found - expected).abs() <= bound, "{i} {j}: {found} {expected}");
                }
            }
            for isa in Isa::available() {
                for found in [run(isa), run_packed(isa)] {
                    let same = found.iter().zip(&twin).all(|(a, b)| a.to_bits() == b.to_bits());
                    prop_assert!(same, "{isa}");
                }
                let packed = Packed::new(isa, b.view());
                for l in 0..k {
                    let mut row = Vec::new();
                    packed.push_row(l, &mut row);
                    prop_assert!(row.iter().enumerate().all(|(j, &value)| value == b.at(l, j)) && row.len() == n);
                }
            }
        }

        /// Bytes are multiplied exactly, and alike on every instruction set.
        #[test]
        fn bytes_are_exact(
            m in near(MR), n in prop_oneof![near(16), near(MAX_NR)],
            quads in prop_oneof![1usize..20, KC - 1..KC + 2, 2 * KC - 1..2 * KC + 2],
            extreme in any::<bool>(), add in any::<bool>(), seed in any::<u32>(),
        ) {
            let mut rng = rand_mt::Mt::new(seed);
            let mut words = |len: usize| -> Vec<f32> {
                (0..len).map(|_| f32::from_bits(if extreme { 0x80FF_80FF } else { rng.next_u32() })).collect()
            };
            let (a, b) = (words(m * quads), words(n * quads));
            let byte = |words: &[f32], at: usize| words[at / 4].to_bits().to_le_bytes()[at % 4];
            let left = Strided { data: &a, rows: m, cols: quads, row_stride: quads, col_stride: 1 };
            let right = Strided { data: &b, rows: quads, cols: n, row_stride: 1, col_stride: quads };
            for isa in Isa::available() {
                let (accum, old) = if add { (Accum::Add, 12_345) } else { (Accum::Replace, 0) };
                let mut c = vec![12_345; m * n];
                byte_product(isa, left, right, accum, Part::Full, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..4 * quads).map(|l| {
                            i64::from(byte(&a, 4 * quads * i + l)) * i64::from(byte(&b, 4 * quads * j + l) as i8)
                        });
                        prop_assert_eq!(i64::from(c[i * n + j]), terms.sum::<i64>() + old, "{} {} {}", isa, i, j);
                    }
                }
            }
        }

        /// The triangle is the full product's, and nothing is written outside of C.
        #[test]
        fn the_lower_triangle_is_the_full_products(n in near(2 * MAX_NR), k in 1usize..30, seed in any::<u32>()) {
            let x = Made::new(n, k, false, 0, seed);
            let (a, b) = (x.view(), Strided { rows: k, cols: n, row_stride: 1, col_stride: k, ..x.view() });
            for isa in Isa::available() {
                let mut full = vec![f32::NAN; n * n];
                let mut lower = full.clone();
                product(isa, 1.0, a, b, Accum::Replace, Part::Full, &mut full);
                product(isa, 1.0, a, b, Accum::Replace, Part::LowerTriangle, &mut lower);
                for i in 0..n {
                    prop_assert_eq!(&lower[i * n..=i * n + i], &full[i * n..=i * n + i], "{} row {}", isa, i);
                }
            }
        }
    }
}
