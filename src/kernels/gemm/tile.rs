//! The microkernel: MR x NR sums in registers, and the epilogue that writes them to C.

use bytemuck::{Pod, Zeroable};

use crate::kernels::simd::Simd;

/// Rows of a tile. 102 classes are 17 of them.
pub const MR: usize = 6;
/// Widest panel of any instruction set.
pub const MAX_NR: usize = 64;
/// Prefetch interval, in steps of k.
pub const PREFETCH_INTERVAL: usize = 16;

/// The types and the arithmetic of a product: f32, or u8 by i8. A step of k fills one lane of a
/// vector: one f32, or four bytes.
///
/// # Safety
/// A vector holds `S::LANES` steps of B or `S::LANES` sums; `load` and `write` touch these and
/// nothing else, at any alignment; `write` reads C only if `add` is set.
pub unsafe trait Element: Sized {
    /// A step of k in a row of A.
    type Lhs: Pod + Sync;
    /// A step of k in a column of B.
    type Rhs: Pod + Send + Sync;
    /// An element of C.
    type Acc: Pod + Send + Sync;
    /// The factor of the product.
    type Scale: Copy + Send + Sync;
    /// A vector of S.
    type V<S: Simd>: Copy;

    /// Empty sums: zeros.
    ///
    /// # Safety
    /// This and all other methods: as [`Task::run`](crate::kernels::simd::Task::run); pointers
    /// are valid for `LANES` elements.
    unsafe fn zero<S: Simd>() -> Self::V<S>;
    /// The same step of A in all lanes.
    unsafe fn splat<S: Simd>(value: Self::Lhs) -> Self::V<S>;
    /// A step of B of LANES columns.
    unsafe fn load<S: Simd>(from: *const Self::Rhs) -> Self::V<S>;
    /// `sum + a · b`.
    unsafe fn multiply_add<S: Simd>(a: Self::V<S>, b: Self::V<S>, sum: Self::V<S>) -> Self::V<S>;
    /// `C = scale · sum`, or with `add` `C + scale · sum`, for LANES elements of C.
    unsafe fn write<S: Simd>(scale: Self::Scale, sum: Self::V<S>, add: bool, c: *mut Self::Acc);
}

// SAFETY: `Simd::V` holds LANES f32.
unsafe impl Element for f32 {
    type Lhs = f32;
    type Rhs = f32;
    type Acc = f32;
    type Scale = f32;
    type V<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn zero<S: Simd>() -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::zero() }
    }

    #[inline(always)]
    unsafe fn splat<S: Simd>(value: f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::splat(value) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn multiply_add<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::fma(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn write<S: Simd>(scale: f32, sum: S::V, add: bool, c: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let value = if add {
                S::fma(S::splat(scale), sum, S::load(c))
            } else {
                S::mul(S::splat(scale), sum)
            };
            S::store(value, c);
        }
    }
}

/// Bytes: unsigned in A, signed in B, summed in i32 without rounding.
// SAFETY: `Simd::I` holds LANES i32, each as long as four bytes.
unsafe impl Element for u8 {
    type Lhs = [u8; 4];
    type Rhs = [i8; 4];
    type Acc = i32;
    type Scale = ();
    type V<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn zero<S: Simd>() -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::splat_i32(0) }
    }

    #[inline(always)]
    unsafe fn splat<S: Simd>(value: [u8; 4]) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::splat_i32(i32::from_le_bytes(value)) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const [i8; 4]) -> S::I {
        // SAFETY: the caller's promise; a vector may lie at any address.
        unsafe { S::load_i32(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add<S: Simd>(a: S::I, b: S::I, sum: S::I) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::dot4(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn write<S: Simd>((): (), sum: S::I, add: bool, c: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe {
            let value = if add {
                S::add_i32(sum, S::load_i32(c))
            } else {
                sum
            };
            S::store_i32(value, c);
        }
    }
}

/// Pointers to MR rows of an operand from row `row` on, at step `first`. Beyond row `rows - 1` that
/// row is repeated; the sums of the repeats are dropped.
///
/// # Panics
/// If a row does not have `steps` steps from there on.
#[inline(always)]
pub fn tile_rows<T>(
    a: &[T],
    stride: usize,
    row: usize,
    rows: usize,
    first: usize,
    steps: usize,
) -> [*const T; MR] {
    std::array::from_fn(|r| {
        let row = (row + r).min(rows - 1);
        a[row * stride + first..][..steps].as_ptr()
    })
}

/// MR x NR sums of `steps` products; NR = NV · `S::LANES`. `a` are A's rows, `b` is packed;
/// `prefetch` is called every [`PREFETCH_INTERVAL`] steps. Pointers move instead of indices,
/// which would be checked for overflow.
///
/// # Safety
/// As [`Task::run`](crate::kernels::simd::Task::run); each row of `a` holds `steps` steps, `b`
/// `steps` x NR.
#[inline(always)]
pub unsafe fn tile<S: Simd, E: Element, const NV: usize>(
    steps: usize,
    mut a: [*const E::Lhs; MR],
    mut b: *const E::Rhs,
    mut prefetch: impl FnMut(),
) -> [[E::V<S>; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[E::zero::<S>(); NV]; MR];
        let mut left = steps;
        while left > 0 {
            prefetch();
            let count = left.min(PREFETCH_INTERVAL);
            left -= count;
            for k in 0..count {
                let mut vectors = [E::zero::<S>(); NV];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = E::load::<S>(b.add(v * S::LANES));
                }
                b = b.add(NV * S::LANES);
                for (row, a) in sums.iter_mut().zip(&a) {
                    let value = E::splat::<S>(*a.add(k));
                    for (sum, &vector) in row.iter_mut().zip(&vectors) {
                        *sum = E::multiply_add::<S>(value, vector, *sum);
                    }
                }
            }
            a = a.map(|a| a.add(count));
        }
        sums
    }
}

/// Writes a tile to C, over the old values or added to them.
pub struct Epilogue<E: Element> {
    pub scale: E::Scale,
    /// Whether the tile is added to the old values.
    pub add: bool,
    /// The start of the tile.
    pub c: *mut E::Acc,
    /// Distance from row to row of C.
    pub stride: usize,
}

impl<E: Element> Epilogue<E> {
    /// Write a whole tile.
    ///
    /// # Safety
    /// As [`Task::run`](crate::kernels::simd::Task::run); MR rows of NR elements at `c` belong to
    /// the caller.
    #[inline(always)]
    pub unsafe fn whole<S: Simd, const NV: usize>(&self, sums: [[E::V<S>; NV]; MR]) {
        for (r, row) in sums.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let c = self.c.add(r * self.stride + v * S::LANES);
                    E::write::<S>(self.scale, sum, self.add, c);
                }
            }
        }
    }

    /// Write the first `rows` x `width` sums of a tile, through a buffer of a whole tile.
    ///
    /// # Safety
    /// As [`Epilogue::whole`], for these elements.
    #[inline(always)]
    pub unsafe fn edge<S: Simd, const NV: usize>(
        &self,
        sums: [[E::V<S>; NV]; MR],
        rows: usize,
        width: usize,
    ) {
        let nr = NV * S::LANES;
        assert!(nr <= MAX_NR && rows <= MR && width <= nr);
        let mut tile = [E::Acc::zeroed(); MR * MAX_NR];
        let beside = Epilogue::<E> {
            c: tile.as_mut_ptr(),
            stride: nr,
            ..*self
        };
        // SAFETY: the assertion for `tile`, the caller's promise for C.
        unsafe {
            if self.add {
                copy_rows(self.c, self.stride, rows, width, beside.c, nr);
            }
            beside.whole::<S, NV>(sums);
            copy_rows(beside.c, nr, rows, width, self.c, self.stride);
        }
    }
}

/// Copy rows x cols elements between matrices with strides.
///
/// # Safety
/// The rows start `from_stride` apart, those of the result `to_stride`; they do not overlap.
#[inline(always)]
pub unsafe fn copy_rows<T: Pod>(
    from: *const T,
    from_stride: usize,
    rows: usize,
    cols: usize,
    to: *mut T,
    to_stride: usize,
) {
    for i in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(from.add(i * from_stride), to.add(i * to_stride), cols);
        }
    }
}
