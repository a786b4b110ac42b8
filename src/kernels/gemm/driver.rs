//! The general product: the loops over blocks of rows and of k, and the tasks of threads.

use std::cell::Cell;
use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::kernels::aligned::{self, Line};
use crate::kernels::columns::{self, Columns, Start};
use crate::kernels::gemm::pack::{PackAhead, pack_columns, panel_width, prefetch_rows};
use crate::kernels::gemm::tile::{
    Element, Epilogue, MAX_NR, MR, PREFETCH_INTERVAL, tile, tile_rows,
};
use crate::kernels::gemm::{Accum, Part, Strided};
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, Task};
use crate::threads::{self, Share, Work};

/// Rows of A in a block. With KC columns a block is 4 MB, which stays in the L3 cache while all
/// panels use it. A multiple of MR, so that the first tile of a triangle starts at a tile.
pub const MC: usize = 170 * MR;
/// Steps of k in a block: those that a panel is packed for and that a tile sums before it is added
/// to C.
pub const KC: usize = 1024;
/// Most panels of a task: only its first panel is packed before, not during, a multiplication.
const MAX_PANELS_PER_TASK: usize = 32;

thread_local! {
    /// A thread's buffer for panels of B or for sums, kept between products.
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub enum Right<'a, T> {
    /// Packed by each product.
    Strided(Strided<'a, T>),
    /// Packed once, for many products.
    Packed {
        rows: usize,
        cols: usize,
        /// Panels of NR columns, one after the other.
        panels: &'a [T],
    },
}

impl<T> Right<'_, T> {
    fn shape(&self) -> (usize, usize) {
        match *self {
            Right::Strided(Strided { rows, cols, .. }) | Right::Packed { rows, cols, .. } => {
                (rows, cols)
            }
        }
    }
}

/// Changes a panel of C before the product is added to it.
pub type Prologue<'a, T> = &'a (dyn Fn(&mut Columns<T>) + Sync);

/// `C = scale · A B`, or added to C.
pub struct Product<'a, E: Element> {
    pub isa: Isa,
    pub scale: E::Scale,
    pub a: Strided<'a, E::Lhs>,
    pub b: Right<'a, E::Rhs>,
    pub accum: Accum,
    pub part: Part,
    pub prologue: Option<Prologue<'a, E::Acc>>,
}

impl<E: Element> Product<'_, E> {
    /// Compute C on the current rayon pool.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn run(&self, c: &mut [E::Acc]) {
        let &Product { isa, a, b, .. } = self;
        let (m, k) = (a.rows, a.cols);
        let (b_rows, n) = b.shape();
        let nr = panel_width(isa);
        a.check();
        match b {
            Right::Strided(b) => b.check(),
            Right::Packed { panels, .. } => {
                assert_eq!(panels.len(), b_rows * n.next_multiple_of(nr), "B's panels");
            }
        }
        assert_eq!(a.col_stride, 1, "A's rows must be contiguous");
        assert_eq!(k, b_rows, "inner dimensions");
        assert_eq!(Some(c.len()), m.checked_mul(n), "result's size");
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            match self.prologue {
                Some(prologue) => columns::blocks(c, n).for_each(|mut block| prologue(&mut block)),
                None if self.accum == Accum::Replace => c.fill(E::Acc::zeroed()),
                None => {}
            }
            return;
        }
        // Steps of k and panels of a task. One panel each for a triangle, whose panels differ in
        // length and come longest first, and for a packed B, where there is no packing to overlap.
        let (span, panels) = match (b, self.part) {
            (Right::Strided(_), Part::Full) => {
                let share = n.div_ceil(nr) / (4 * threads::current());
                (k, share.clamp(1, MAX_PANELS_PER_TASK))
            }
            _ => (KC, 1),
        };
        let width = panels * nr;
        // The prologue needs whole columns.
        let height = if self.prologue.is_some() { m } else { MC };
        let start = Start::of(c);
        for row in (0..m).step_by(height) {
            for first in (0..k).step_by(span) {
                let rows = row..(row + height).min(m);
                let block = first..(first + span).min(k);
                for_each_task(n.div_ceil(width), m * n * k, |i| {
                    let columns = i * width..((i + 1) * width).min(n);
                    self.task(&start, rows.clone(), block.clone(), columns);
                });
            }
        }
    }

    /// One task: the products of a range of rows and columns of C, for a range of steps of k.
    fn task(
        &self,
        start: &Start<E::Acc>,
        rows: Range<usize>,
        k: Range<usize>,
        columns: Range<usize>,
    ) {
        let &Product { isa, a, b, .. } = self;
        let (_, n) = b.shape();
        let first_row = match self.part {
            Part::Full => 0,
            Part::LowerTriangle => (columns.start / MR * MR).saturating_sub(rows.start),
        };
        if first_row >= rows.len() {
            return;
        }
        if k.start == 0
            && let Some(prologue) = self.prologue
        {
            // SAFETY: C has these rows and columns, and no other task has the columns.
            prologue(&mut unsafe { Columns::new(start.at(0), n, rows.end, columns.clone()) });
        }
        with_scratch(|scratch| {
            isa.run(&mut Panels::<E> {
                scale: self.scale,
                a: &a.data[rows.start * a.row_stride..],
                a_stride: a.row_stride,
                rows: first_row..rows.len(),
                b,
                k,
                columns,
                scratch,
                add: self.accum == Accum::Add,
                // SAFETY: C has this row.
                c: unsafe { start.at(rows.start * n) },
                stride: n,
            });
        });
    }
}

/// Call `work` with this thread's scratch buffer.
pub fn with_scratch(work: impl FnOnce(&mut Vec<Line>)) {
    let mut scratch = SCRATCH.take();
    work(&mut scratch);
    SCRATCH.set(scratch);
}

/// Run the tasks of a product of `multiply_adds` multiply-adds, on the current rayon pool if the
/// product is long enough (see [`Work`]). The tasks of a triangle differ in length, so a thread may
/// take each of them from another: rayon would keep neighbours together.
pub fn for_each_task(tasks: usize, multiply_adds: usize, task: impl Fn(usize) + Sync + Send) {
    let tasks = (0..tasks).into_par_iter().with_max_len(1);
    tasks.share(Work::flop(2 * multiply_adds)).for_each(task);
}

/// The task of computing all tiles of a range of panels, for a range of steps of k.
struct Panels<'a, E: Element> {
    scale: E::Scale,
    /// The block of rows of A.
    a: &'a [E::Lhs],
    /// Distance from row to row of A.
    a_stride: usize,
    /// Rows of the block to compute; the first is that of a tile.
    rows: Range<usize>,
    b: Right<'a, E::Rhs>,
    k: Range<usize>,
    columns: Range<usize>,
    /// A buffer for two panels of B, used if B is not packed.
    scratch: &'a mut Vec<Line>,
    add: bool,
    /// The first row of the block in C.
    c: *mut E::Acc,
    /// Distance from row to row of C.
    stride: usize,
}

impl<E: Element> Task for Panels<'_, E> {
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
            Right::Packed { rows, panels, .. } => {
                for (block, columns) in parts {
                    let panel = &panels[columns.start / nr * nr * rows..][..nr * rows];
                    let panel = &panel[block.start * nr..block.end * nr];
                    // SAFETY: the caller's promise; the panel is `block` x NR.
                    unsafe {
                        self.panel::<S, NV>(block, columns, panel, &mut PackAhead::nothing());
                    }
                }
                return;
            }
            Right::Strided(b) => b,
        };
        let most = nr * KC.min(k.len());
        let mut scratch = std::mem::take(self.scratch);
        let (mut this, mut next) = aligned::resize(&mut scratch, 2 * most).split_at_mut(most);
        let mut parts = parts.peekable();
        // SAFETY: `this` and `next` have NR elements for every step of a block; `Strided::check`
        // compared B's size with its shape, which has the rows and columns that are packed.
        unsafe {
            if let Some((block, columns)) = parts.peek().cloned() {
                pack_columns::<S, _>(b, columns, block, nr, this);
            }
            while let Some((block, columns)) = parts.next() {
                let Some((next_block, next_columns)) = parts.peek().cloned() else {
                    self.panel::<S, NV>(block, columns, this, &mut PackAhead::nothing());
                    break;
                };
                if b.col_stride == 1 && next_columns.len() == nr {
                    let (steps, rows) = (block.len(), self.rows.len());
                    let mut ahead =
                        PackAhead::new(b, next_columns.start, next_block, next, steps, rows);
                    self.panel::<S, NV>(block, columns, this, &mut ahead);
                    ahead.rest::<S, NV>();
                } else {
                    self.panel::<S, NV>(block, columns, this, &mut PackAhead::nothing());
                    pack_columns::<S, _>(b, next_columns, next_block, nr, next);
                }
                std::mem::swap(&mut this, &mut next);
            }
        }
        *self.scratch = scratch;
    }
}

impl<E: Element> Panels<'_, E> {
    /// All tiles of a panel and block of k, with B packed.
    ///
    /// # Safety
    /// As [`Task::run`]; `b` is block x NR elements; `ahead` as [`PackAhead::some_rows`].
    #[inline(always)]
    unsafe fn panel<S: Simd, const NV: usize>(
        &self,
        block: Range<usize>,
        columns: Range<usize>,
        b: &[E::Rhs],
        ahead: &mut PackAhead<E::Rhs>,
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
            // SAFETY: `run` checked the size of B, `tile_rows` that of A; `c` points to a matrix of
            // rows of length `stride` that has the task's rows and columns, which no other task
            // touches.
            unsafe {
                let epilogue = Epilogue::<E> {
                    scale: self.scale,
                    add: self.add || block.start > 0,
                    c: self.c.add(row * self.stride + columns.start),
                    stride: self.stride,
                };
                let mut next = a[0].wrapping_add(MR * self.a_stride);
                let prefetch = || {
                    prefetch_rows::<S, _>(next, self.a_stride);
                    next = next.wrapping_add(PREFETCH_INTERVAL);
                    ahead.some_rows::<S, NV>();
                };
                // The rows of C are far apart, so the hardware does not prefetch them in time.
                for v in 0..NV {
                    prefetch_rows::<S, _>(epilogue.c.wrapping_add(v * S::LANES), self.stride);
                }
                let sums = tile::<S, E, NV>(steps, a, b.as_ptr(), prefetch);
                if rows == MR && width == NV * S::LANES {
                    epilogue.whole::<S, NV>(sums);
                } else {
                    epilogue.edge::<S, NV>(sums, rows, width);
                }
            }
        }
    }
}
