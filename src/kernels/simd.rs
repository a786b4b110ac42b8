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
    /// Ask for the cache line at `from`, any address, to be fetched.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// The same for what is used once and need not stay in the cache.
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
    unsafe fn raise(value: Self::V, t: Self::V) -> Self::V;
    /// `value`, but 0 where `x < limit`.
    unsafe fn zero_below(value: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    /// Lanes as integers: `sum + a0·b0 + a1·b1 + a2·b2 + a3·b3`, the bytes of `a` being
    /// unsigned, those of `b` signed.
    unsafe fn dot4(a: Self::V, b: Self::V, sum: Self::V) -> Self::V;
    /// Lanes as integers: `a + b`.
    unsafe fn add_integers(a: Self::V, b: Self::V) -> Self::V;
    /// Interleave: `a0 b0 a1 b1 ...`, in two vectors.
    unsafe fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// Four lanes, a group, for each of `LANES / 4` rows of RGB pixels: red, green, blue and
    /// nothing of the first two pixels at `from`, and of the two after them, for [`Simd::weigh`].
    /// Row g is at `from + g · stride`; 16 bytes of each are read.
    unsafe fn pixels(from: *const u8, stride: usize) -> (Self::V, Self::V);
    /// Lanes as integers: `sum` + the first pixel's value · `weights`' low half + the second
    /// one's · its high half, the halves being 16 bits, signed.
    unsafe fn weigh(pixels: Self::V, weights: u32, sum: Self::V) -> Self::V;
    /// The bytes of each group at `to + g · stride`: lanes of `(high · 2¹¹ + low) / 2²²` as
    /// unsigned integers, at most 255.
    unsafe fn store_pixels(high: Self::V, low: Self::V, to: *mut u8, stride: usize);
}

/// Work that is written once and compiled for every instruction set.
pub trait Task {
    /// Do it with vectors `S`, tiles being NV of them wide.
    ///
    /// # Safety
    /// Inlined into a function that enables `S`'s instruction set, on a machine that has it.
    unsafe fn run<S: Simd, const NV: usize>(&mut self);
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
    unsafe fn raise(value: Self::V, t: Self::V) -> Self::V {
        let bits = |i: usize| value[i].to_bits().wrapping_add(t[i].to_bits() << 23);
        std::array::from_fn(|i| f32::from_bits(bits(i)))
    }

    #[inline(always)]
    unsafe fn zero_below(value: Self::V, x: Self::V, limit: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { value[i] })
    }

    #[inline(always)]
    unsafe fn dot4(a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let (a, b) = (a[i].to_bits().to_le_bytes(), b[i].to_bits().to_le_bytes());
            let products = a
                .iter()
                .zip(b)
                .map(|(&a, b)| i32::from(a) * i32::from(b as i8));
            let dot = products.sum::<i32>() as u32;
            f32::from_bits(sum[i].to_bits().wrapping_add(dot))
        })
    }

    #[inline(always)]
    unsafe fn add_integers(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits().wrapping_add(b[i].to_bits())))
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

    #[inline(always)]
    unsafe fn pixels(from: *const u8, stride: usize) -> (Self::V, Self::V) {
        let pair = |lane: usize, first: usize| {
            let (group, channel) = (lane / 4, lane % 4);
            if channel == 3 {
                return 0.0;
            }
            // SAFETY: the caller's promise; the last of the bytes is the 12th.
            let at = |pixel: usize| unsafe { *from.add(group * stride + 3 * pixel + channel) };
            f32::from_bits(u32::from(at(first)) | u32::from(at(first + 1)) << 16)
        };
        (
            std::array::from_fn(|lane| pair(lane, 0)),
            std::array::from_fn(|lane| pair(lane, 2)),
        )
    }

    #[inline(always)]
    unsafe fn weigh(pixels: Self::V, weights: u32, sum: Self::V) -> Self::V {
        let product = |pixel: u32, weight: u32| (pixel as i16 as i32) * (weight as i16 as i32);
        std::array::from_fn(|i| {
            let pixels = pixels[i].to_bits();
            let first = product(pixels, weights);
            let second = product(pixels >> 16, weights >> 16);
            let sum = sum[i].to_bits() as i32;
            f32::from_bits(sum.wrapping_add(first).wrapping_add(second) as u32)
        })
    }

    #[inline(always)]
    unsafe fn store_pixels(high: Self::V, low: Self::V, to: *mut u8, stride: usize) {
        for lane in 0..LANES {
            let sum = (high[lane].to_bits() << 11).wrapping_add(low[lane].to_bits());
            // SAFETY: the caller's promise.
            unsafe { *to.add(lane / 4 * stride + lane % 4) = (sum >> 22).min(255) as u8 };
        }
    }
}
