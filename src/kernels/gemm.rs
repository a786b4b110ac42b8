//! Matrix product of strided f32 operands into a row-major result.
//!
//! C is cut into panels of NR columns, one a task, and a panel into tiles of MR rows that
//! live in registers. Rows and the summed index are cut into blocks of `ROWS` and `BLOCK`, for
//! which A is packed once and shared, and each task packs its own columns of B:
//!
//! ```text
//! for block of rows, for block of k:     A packed: MR rows side by side (L2, L3)
//!   for panel of NR columns, in parallel:    B packed: NR columns side by side (L2)
//!     for KC of the block's k:                   its part of B stays in L1
//!       for MR rows:                                 one tile: MR x NR sums in registers
//! ```
//!
//! The design is that of BLIS (Van Zee and van de Geijn 2015). The order in which one element
//! is summed depends on k, BLOCK and KC only.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::isa::Isa;
use super::simd::{Simd, Task};

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
/// Rows of A that are packed together: with BLOCK columns 4 MB, which stay in cache while all
/// panels use them. Whole tiles, so that a triangle's first tile starts at one.
const ROWS: usize = 170 * MR;
/// Length of k for which operands are packed.
const BLOCK: usize = 1024;
/// Length of k that a tile sums before it returns to C: NR · KC values fit L1.
const KC: usize = 256;

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
pub enum Right<'a> {
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
    values: Vec<f32>,
}

impl Packed {
    /// Pack B, on the current rayon pool. Cost: a copy.
    pub fn new(isa: Isa, b: Strided) -> Packed {
        b.check();
        let nr = panel_width(isa);
        let (rows, cols) = (b.rows, b.cols);
        let mut values = vec![0.0; rows * cols.next_multiple_of(nr)];
        (values.par_chunks_exact_mut((rows * nr).max(1)))
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
        for (i, panel) in self.values.chunks_exact(self.rows * nr).enumerate() {
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
    fn check(&self) {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        assert!(self.row_stride == 1 || self.col_stride == 1, "strides");
        assert!(
            self.rows == 0
                || self.cols == 0
                || last(self.rows, self.row_stride) + last(self.cols, self.col_stride)
                    < self.data.len(),
            "an operand's size"
        );
    }
}

/// `C = alpha · A B`, or added to C; C has `b.cols` columns. Runs on the current
/// rayon pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(
    isa: Isa,
    alpha: f32,
    a: Strided,
    b: Right,
    accum: Accum,
    part: Part,
    c: &mut [f32],
) {
    multiply(isa, Numbers::Floats { alpha }, a, b, accum, part, c);
}

/// `C = A B` of bytes, exactly: A unsigned, B signed, C i32. Operands hold four bytes of the
/// summed index in every f32, as [`bytemuck`] casts them. Runs on the current rayon pool.
///
/// # Panics
/// If the shapes do not fit, or if a sum could overflow: at 65,793 bytes and more.
pub fn byte_product(isa: Isa, a: Strided, b: Strided, part: Part, c: &mut [i32]) {
    assert!(
        4 * a.cols < 65_793,
        "255 · 128 · bytes must stay below 2^31"
    );
    let (b, c) = (Right::Strided(b), bytemuck::cast_slice_mut(c));
    multiply(isa, Numbers::Bytes, a, b, Accum::Replace, part, c);
}

fn multiply(
    isa: Isa,
    numbers: Numbers,
    a: Strided,
    b: Right,
    accum: Accum,
    part: Part,
    c: &mut [f32],
) {
    let add = accum == Accum::Add;
    let (m, k) = (a.rows, a.cols);
    let (b_rows, n) = b.shape();
    a.check();
    match b {
        Right::Strided(b) => b.check(),
        Right::Packed(b) => assert_eq!(b.isa, isa, "panels of another instruction set"),
    }
    assert_eq!(k, b_rows, "inner dimensions");
    assert_eq!(Some(c.len()), m.checked_mul(n), "result's size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(0.0);
        }
        return;
    }
    let nr = panel_width(isa);
    let start = Start(c.as_mut_ptr());
    let mut packed = PACKED_A.take();
    let row_blocks = (0..m).step_by(ROWS);
    let blocks = row_blocks.flat_map(|row| (0..k).step_by(BLOCK).map(move |first| (row, first)));
    for (row, first) in blocks {
        let rows = row..(row + ROWS).min(m);
        let block = first..(first + BLOCK).min(k);
        let len = block.len();
        packed.resize(rows.len().div_ceil(MR) * MR * len, 0.0);
        (packed.par_chunks_exact_mut(MR * len))
            .enumerate()
            .for_each(|(i, to)| pack_rows(a, row + i * MR, block.clone(), to));
        // The longest columns of a triangle come first.
        (0..n.div_ceil(nr)).into_par_iter().for_each(|i| {
            let start = &start;
            let columns = i * nr..((i + 1) * nr).min(n);
            let first_row = match part {
                Part::Full => 0,
                Part::LowerTriangle => (columns.start / MR * MR).saturating_sub(row),
            };
            if first_row >= rows.len() {
                return;
            }
            let mut packed_b = PACKED_B.take();
            if let Right::Strided(_) = b {
                packed_b.resize(nr * BLOCK, 0.0);
            }
            let mut task = Panel {
                numbers,
                a: &packed,
                rows: first_row..rows.len(),
                b,
                k: block.clone(),
                columns,
                packed_b: &mut packed_b,
                add: add || block.start > 0,
                // SAFETY: `row` is a row of C.
                c: unsafe { start.0.add(row * n) },
                stride: n,
            };
            isa.run(&mut task);
            PACKED_B.set(packed_b);
        });
    }
    PACKED_A.set(packed);
}

/// Columns of a panel.
pub fn panel_width(isa: Isa) -> usize {
    struct Width(usize);
    impl Task for Width {
        #[inline(always)]
        unsafe fn run<S: Simd, const NV: usize>(&mut self) {
            self.0 = NV * S::LANES;
        }
    }
    let mut width = Width(0);
    isa.run(&mut width);
    width.0
}

thread_local! {
    /// Kept between products, taken while one runs.
    static PACKED_A: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PACKED_B: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The start of C, for disjoint panels.
struct Start(*mut f32);
// SAFETY: every task writes only the columns of its own panel.
unsafe impl Sync for Start {}

/// Pack rows `first..first + MR` of a block of columns: for every k its MR values, zeros
/// beyond the last row.
fn pack_rows(a: Strided, first: usize, k: Range<usize>, to: &mut [f32]) {
    let rows = MR.min(a.rows - first);
    if rows < MR {
        to.fill(0.0);
    }
    if a.col_stride == 1 && rows == MR {
        let row = |r: usize| &a.data[(first + r) * a.row_stride..][k.clone()];
        let rows: [&[f32]; MR] = std::array::from_fn(row);
        assert!(to.len() == MR * k.len() && rows.iter().all(|row| row.len() == k.len()));
        for (i, to) in to.chunks_exact_mut(MR).enumerate() {
            for (to, row) in to.iter_mut().zip(rows) {
                // SAFETY: there are as many chunks as values in a row.
                *to = unsafe { *row.get_unchecked(i) };
            }
        }
        return;
    }
    for (k, to) in k.zip(to.chunks_exact_mut(MR)) {
        for (r, to) in to[..rows].iter_mut().enumerate() {
            *to = a.data[(first + r) * a.row_stride + k * a.col_stride];
        }
    }
}

/// One task: all tiles of a panel, for one block of k.
pub struct Panel<'a> {
    numbers: Numbers,
    /// The block of A, packed by [`pack_rows`].
    a: &'a [f32],
    /// Rows to compute, of the block of A; starts at a tile.
    rows: Range<usize>,
    b: Right<'a>,
    k: Range<usize>,
    columns: Range<usize>,
    /// Room for NR columns of the block of B, where it is not packed.
    packed_b: &'a mut [f32],
    add: bool,
    /// The block's first row of C.
    c: *mut f32,
    stride: usize,
}

impl Task for Panel<'_> {
    /// Pack the panel's columns of B and compute its tiles; NR = NV · `S::LANES`.
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let nr = NV * S::LANES;
        let len = self.k.len();
        let width = self.columns.len();
        assert!(width <= nr && nr <= MAX_NR);
        assert!(self.a.len() >= self.rows.end.next_multiple_of(MR) * len);
        let b: *const f32 = match self.b {
            Right::Packed(b) => {
                let panel = &b.values[self.columns.start / nr * nr * b.rows..][..nr * b.rows];
                panel[self.k.start * nr..self.k.end * nr].as_ptr()
            }
            Right::Strided(b) => {
                let to = &mut self.packed_b[..nr * len];
                // SAFETY: `to` is nr x len values; `Strided::check` held the operand's size
                // against its shape.
                unsafe { pack_columns::<S>(b, self.columns.clone(), self.k.clone(), nr, to) };
                to.as_ptr()
            }
        };
        for first in (0..len).step_by(KC) {
            let steps = KC.min(len - first);
            let add = self.add || first > 0;
            for row in self.rows.clone().step_by(MR) {
                let rows = MR.min(self.rows.end - row);
                // SAFETY: the assertions hold both packed operands to their sizes; `c` points
                // to a matrix of rows of length `stride` that holds the task's rows and
                // columns, which no other task touches.
                unsafe {
                    let (a, b) = (
                        self.a.as_ptr().add(row * len + first * MR),
                        b.add(first * nr),
                    );
                    let c = self.c.add(row * self.stride + self.columns.start);
                    let put = Put {
                        numbers: self.numbers,
                        add,
                        c,
                        stride: self.stride,
                    };
                    let sums = match self.numbers {
                        Numbers::Floats { .. } => tile::<S, NV, false>(steps, a, b),
                        Numbers::Bytes => tile::<S, NV, true>(steps, a, b),
                    };
                    match rows == MR && width == nr {
                        true => put.whole::<S, NV>(sums),
                        false => put.edge::<S, NV>(sums, rows, width),
                    }
                }
            }
        }
    }
}

/// MR x NR sums of `steps` products, or of `steps` products of four bytes.
///
/// # Safety
/// As [`Task::run`]; `a` holds `steps` x MR values, `b` `steps` x NR.
#[inline(always)]
unsafe fn tile<S: Simd, const NV: usize, const BYTES: bool>(
    steps: usize,
    mut a: *const f32,
    mut b: *const f32,
) -> [[S::V; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::zero(); NV]; MR];
        for _ in 0..steps {
            let mut vectors = [S::zero(); NV];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = S::load(b.add(v * S::LANES));
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let value = S::splat(*a.add(r));
                for (sum, &vector) in row.iter_mut().zip(&vectors) {
                    *sum = match BYTES {
                        true => S::dot4(value, vector, *sum),
                        false => S::fma(value, vector, *sum),
                    };
                }
            }
            a = a.add(MR);
            b = b.add(NV * S::LANES);
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
    /// NR values for every k.
    to: &'a mut [f32],
}

impl Task for PackPanel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let (columns, k) = (self.columns.clone(), self.k.clone());
        assert_eq!(self.to.len(), NV * S::LANES * k.len());
        // SAFETY: the assertion; `Packed::new` checked the operand.
        unsafe { pack_columns::<S>(self.b, columns, k, NV * S::LANES, self.to) };
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
        // Columns are contiguous: transpose squares of LANES x LANES.
        let whole_k = len / S::LANES * S::LANES;
        let whole_j = width / S::LANES * S::LANES;
        for j in (0..whole_j).step_by(S::LANES) {
            for k in (0..whole_k).step_by(S::LANES) {
                let (from, to) = (from.add(j * b.col_stride + k), to.add(k * nr + j));
                transpose::<S>(from, b.col_stride, to, nr);
            }
        }
        for k in 0..len {
            let first = if k < whole_k { whole_j } else { 0 };
            for j in first..width {
                *to.add(k * nr + j) = *from.add(j * b.col_stride + k);
            }
        }
    }
}

/// Transpose LANES rows of LANES values: interleaving the two halves of the rows, as often
/// as it takes to double one value to all.
///
/// # Safety
/// As [`Task::run`]; rows start `from_stride` and `to_stride` apart.
#[inline(always)]
unsafe fn transpose<S: Simd>(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    const MOST: usize = 16;
    const { assert!(S::LANES <= MOST && S::LANES.is_power_of_two()) };
    let half = S::LANES / 2;
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [S::zero(); MOST];
        for (i, row) in rows.iter_mut().enumerate().take(S::LANES) {
            *row = S::load(from.add(i * from_stride));
        }
        let mut round = 1;
        while round < S::LANES {
            let old = rows;
            for i in 0..half {
                (rows[2 * i], rows[2 * i + 1]) = S::zip(old[i], old[i + half]);
            }
            round *= 2;
        }
        for (i, &row) in rows.iter().enumerate().take(S::LANES) {
            S::store(row, to.add(i * to_stride));
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
                    product(isa, 1.0, a, Right::Strided(b), Accum::Replace, part, &mut c);
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
            k in prop_oneof![0usize..40, KC - 2..KC + 3, BLOCK - 1..BLOCK + 18],
            transposed in any::<(bool, bool)>(), padding in 0usize..3, add in any::<bool>(),
            alpha in -2.0f32..2.0, seed in any::<u32>(), threads in 1usize..4,
        ) {
            let a = Made::new(m, k, transposed.0, padding, seed);
            let b = Made::new(k, n, transposed.1, padding, seed ^ 1);
            let (accum, old) = match add {
                true => (Accum::Add, values(m * n, seed ^ 2)),
                false => (Accum::Replace, vec![f32::NAN; m * n]),
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = |isa| {
                let mut c = old.clone();
                pool.install(|| product(isa, alpha, a.view(), Right::Strided(b.view()), accum, Part::Full, &mut c));
                c
            };
            let run_packed = |isa| {
                let mut c = old.clone();
                let b = pool.install(|| Packed::new(isa, b.view()));
                pool.install(|| product(isa, alpha, a.view(), Right::Packed(&b), accum, Part::Full, &mut c));
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
            quads in prop_oneof![1usize..20, KC - 1..KC + 2, BLOCK - 1..BLOCK + 2],
            extreme in any::<bool>(), seed in any::<u32>(),
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
                let mut c = vec![-1; m * n];
                byte_product(isa, left, right, Part::Full, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..4 * quads).map(|l| {
                            i64::from(byte(&a, 4 * quads * i + l)) * i64::from(byte(&b, 4 * quads * j + l) as i8)
                        });
                        prop_assert_eq!(i64::from(c[i * n + j]), terms.sum::<i64>(), "{} {} {}", isa, i, j);
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
                product(isa, 1.0, a, Right::Strided(b), Accum::Replace, Part::Full, &mut full);
                product(isa, 1.0, a, Right::Strided(b), Accum::Replace, Part::LowerTriangle, &mut lower);
                for i in 0..n {
                    prop_assert_eq!(&lower[i * n..=i * n + i], &full[i * n..=i * n + i], "{} row {}", isa, i);
                }
            }
        }
    }
}
