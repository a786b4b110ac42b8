//! The small vector trait that kernels are written over, and its portable version.

/// A vector of f32.
///
/// # Safety
/// Every method may be called only where the machine has the instruction set, inlined into
/// a function that enables it; pointers must be valid for `LANES` values (any alignment).
pub trait Simd {
    /// The vector.
    type V: Copy;
    /// f32 values a vector.
    const LANES: usize;

    /// All zeros.
    unsafe fn zero() -> Self::V;
    /// All `value`.
    unsafe fn splat(value: f32) -> Self::V;
    /// `LANES` values from `from`.
    unsafe fn load(from: *const f32) -> Self::V;
    /// `LANES` values to `to`.
    unsafe fn store(v: Self::V, to: *mut f32);
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a · b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// Interleave: `a0 b0 a1 b1 ...`, in two vectors.
    unsafe fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V);
}

/// Plain Rust. `f32::mul_add` rounds once here too, in software where it must.
pub struct Portable;

const LANES: usize = 8;

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let at = |i: usize| {
            if i.is_multiple_of(2) {
                a[i / 2]
            } else {
                b[i / 2]
            }
        };
        (
            std::array::from_fn(at),
            std::array::from_fn(|i| at(i + LANES)),
        )
    }
}
