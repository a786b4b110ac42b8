//! The vector trait over which kernels are written, and its portable implementation.

/// Vectors of f32 and of i32, and their operations on one instruction set.
///
/// # Safety
/// An implementer promises, and kernels rely on it:
///
/// - `V` is `LANES` f32 and `I` is `LANES` i32, without gaps; `LANES` is 4, 8 or 16;
/// - `load`, `load_i32`, `store` and `store_i32` touch `LANES` values at any alignment, `pixels` and
///   `store_pixels` the bytes named there, and no other method touches memory;
/// - every method computes, lane by lane, what its documentation says, to the bits of [`Portable`];
/// - every method is inlined and needs no instruction set but the implementer's own.
///
/// The caller of a method promises that the machine has the instruction set, that the method
/// is inlined into a function that enables it, and that pointers are valid for the values touched.
pub unsafe trait Simd {
    /// A vector of f32.
    type V: Copy;
    /// A vector of i32.
    type I: Copy;
    /// Values of a vector.
    const LANES: usize;

    /// All zeros.
    unsafe fn zero() -> Self::V;
    /// All `value`.
    unsafe fn splat(value: f32) -> Self::V;
    /// `LANES` values from `from`.
    unsafe fn load(from: *const f32) -> Self::V;
    /// `LANES` values to `to`.
    unsafe fn store(v: Self::V, to: *mut f32);
    /// Prefetch the cache line at `from`, which may be any address.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// Prefetch the cache line at `from` for one use: it need not stay in the cache.
    #[inline(always)]
    unsafe fn prefetch_once(_from: *const f32) {}
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a · b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: a NaN in `a` is dropped, one in `b` is kept.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `value · 2^t`, by adding the lowest bits of `t`'s representation to the exponent.
    unsafe fn ldexp(value: Self::V, t: Self::V) -> Self::V;
    /// `value`, but 0 where `x < limit`.
    unsafe fn zero_below(value: Self::V, x: Self::V, limit: Self::V) -> Self::V;

    /// All `value`.
    unsafe fn splat_i32(value: i32) -> Self::I;
    /// `LANES` values from `from`.
    unsafe fn load_i32(from: *const i32) -> Self::I;
    /// `LANES` values to `to`.
    unsafe fn store_i32(v: Self::I, to: *mut i32);
    /// `a + b`, wrapping.
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    /// `sum + a0·b0 + a1·b1 + a2·b2 + a3·b3`, wrapping; the bytes of `a` are unsigned, those of `b`
    /// signed.
    unsafe fn dot4(a: Self::I, b: Self::I, sum: Self::I) -> Self::I;
    /// Interleave: `a0 b0 a1 b1 ...`, in two vectors.
    unsafe fn zip(a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// Four lanes, a group, for each of `LANES / 4` rows of RGB pixels: red, green, blue and
    /// nothing of the first two pixels at `from`, and of the two after them, for [`Simd::weigh`].
    /// Row g is at `from + g · stride`; 16 bytes of each are read.
    unsafe fn pixels(from: *const u8, stride: usize) -> (Self::I, Self::I);
    /// `sum` + the first pixel's value · `weights`' low half + the second one's · its high half,
    /// wrapping; the halves are 16 bits, signed.
    unsafe fn weigh(pixels: Self::I, weights: u32, sum: Self::I) -> Self::I;
    /// Each group's four bytes at `to + g · stride`: `(high · 2¹¹ + low) / 2²²` of its lanes as
    /// unsigned integers, at most 255.
    unsafe fn store_pixels(high: Self::I, low: Self::I, to: *mut u8, stride: usize);
}

/// Methods of [`Simd`] whose bodies are intrinsics; the reason for `unsafe` stands here once.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! in_intrinsics {
    ($($(#[$doc:meta])* fn $name:ident($($args:tt)*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        unsafe fn $name($($args)*) $(-> $result)? {
            // SAFETY: the caller promises that the machine has the instruction set, and that
            // pointers are valid for what the method touches. Loads and stores have no
            // alignment to keep; a prefetch never faults.
            unsafe { $body }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use in_intrinsics;

/// A computation that is written once and compiled for every instruction set.
pub trait Task {
    /// Run it with the vectors of `S`; tiles are NV vectors wide.
    ///
    /// # Safety
    /// The caller inlines it into a function that enables the instruction set of `S`, on a machine
    /// that has it.
    unsafe fn run<S: Simd, const NV: usize>(&mut self);
}

/// Plain Rust. `f32::mul_add` rounds once here too, in software if the target has no instruction.
pub struct Portable;

const LANES: usize = 8;

// SAFETY: arrays of LANES values; plain Rust needs no instruction set.
unsafe impl Simd for Portable {
    type V = [f32; LANES];
    type I = [i32; LANES];
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
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn ldexp(value: Self::V, t: Self::V) -> Self::V {
        let bits = |i: usize| value[i].to_bits().wrapping_add(t[i].to_bits() << 23);
        std::array::from_fn(|i| f32::from_bits(bits(i)))
    }

    #[inline(always)]
    unsafe fn zero_below(value: Self::V, x: Self::V, limit: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { value[i] })
    }

    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::I>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_i32(v: Self::I, to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::I>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    unsafe fn dot4(a: Self::I, b: Self::I, sum: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let bytes = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            let products = bytes.map(|(a, b)| i32::from(a) * i32::from(b as i8));
            sum[i].wrapping_add(products.sum())
        })
    }

    #[inline(always)]
    unsafe fn zip(a: Self::I, b: Self::I) -> (Self::I, Self::I) {
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

    #[inline(always)]
    unsafe fn pixels(from: *const u8, stride: usize) -> (Self::I, Self::I) {
        let pair = |lane: usize, first: usize| {
            let (group, channel) = (lane / 4, lane % 4);
            if channel == 3 {
                return 0;
            }
            // SAFETY: the caller's promise covers 16 bytes a row; this reads the first 12.
            let at = |pixel: usize| unsafe { *from.add(group * stride + 3 * pixel + channel) };
            i32::from(at(first)) | i32::from(at(first + 1)) << 16
        };
        (
            std::array::from_fn(|lane| pair(lane, 0)),
            std::array::from_fn(|lane| pair(lane, 2)),
        )
    }

    #[inline(always)]
    unsafe fn weigh(pixels: Self::I, weights: u32, sum: Self::I) -> Self::I {
        let product = |pixel: i32, weight: u32| i32::from(pixel as i16) * i32::from(weight as i16);
        std::array::from_fn(|i| {
            let first = product(pixels[i], weights);
            let second = product(pixels[i] >> 16, weights >> 16);
            sum[i].wrapping_add(first).wrapping_add(second)
        })
    }

    #[inline(always)]
    unsafe fn store_pixels(high: Self::I, low: Self::I, to: *mut u8, stride: usize) {
        for lane in 0..LANES {
            let sum = (high[lane] << 11).wrapping_add(low[lane]) as u32;
            // SAFETY: the caller's promise.
            unsafe { *to.add(lane / 4 * stride + lane % 4) = (sum >> 22).min(255) as u8 };
        }
    }
}
