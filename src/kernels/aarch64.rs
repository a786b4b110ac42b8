//! NEON, which every aarch64 processor has.

use std::arch::aarch64::*;

use crate::kernels::simd::{Simd, Task, in_intrinsics};

/// 4 lanes.
pub struct Neon;

// SAFETY: a vector of 128 bits holds 4 values; every method is made of intrinsics of NEON.
unsafe impl Simd for Neon {
    type V = float32x4_t;
    type I = int32x4_t;
    const LANES: usize = 4;

    in_intrinsics! {
        fn zero() -> float32x4_t { vdupq_n_f32(0.0) }
        fn splat(value: f32) -> float32x4_t { vdupq_n_f32(value) }
        fn load(from: *const f32) -> float32x4_t { vld1q_f32(from) }
        fn store(v: float32x4_t, to: *mut f32) { vst1q_f32(to, v) }
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vbslq_f32(vcgtq_f32(a, b), a, b) }

        fn ldexp(value: float32x4_t, t: float32x4_t) -> float32x4_t {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(t));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(value), exponent))
        }

        fn zero_below(value: float32x4_t, x: float32x4_t, limit: float32x4_t) -> float32x4_t {
            vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0.0), value)
        }

        fn splat_i32(value: i32) -> int32x4_t { vdupq_n_s32(value) }
        fn load_i32(from: *const i32) -> int32x4_t { vld1q_s32(from) }
        fn store_i32(v: int32x4_t, to: *mut i32) { vst1q_s32(to, v) }
        fn add_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t { vaddq_s32(a, b) }

        fn dot4(a: int32x4_t, b: int32x4_t, sum: int32x4_t) -> int32x4_t {
            let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
            let wide = |a| vreinterpretq_s16_u16(vmovl_u8(a));
            let low = vmulq_s16_wide(wide(vget_low_u8(a)), vmovl_s8(vget_low_s8(b)));
            let high = vmulq_s16_wide(wide(vget_high_u8(a)), vmovl_s8(vget_high_s8(b)));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }

        fn zip(a: int32x4_t, b: int32x4_t) -> (int32x4_t, int32x4_t) {
            (vzip1q_s32(a, b), vzip2q_s32(a, b))
        }

        /// The first pixel in the lower half, the second in the upper: eight 16-bit numbers.
        fn pixels(from: *const u8, _: usize) -> (int32x4_t, int32x4_t) {
            const O: u8 = 255;
            const FIRST: [u8; 16] = [0, O, 1, O, 2, O, O, O, 3, O, 4, O, 5, O, O, O];
            const SECOND: [u8; 16] = [6, O, 7, O, 8, O, O, O, 9, O, 10, O, 11, O, O, O];
            let row = vld1q_u8(from);
            (
                vreinterpretq_s32_u8(vqtbl1q_u8(row, vld1q_u8(FIRST.as_ptr()))),
                vreinterpretq_s32_u8(vqtbl1q_u8(row, vld1q_u8(SECOND.as_ptr()))),
            )
        }

        fn weigh(pixels: int32x4_t, weights: u32, sum: int32x4_t) -> int32x4_t {
            let pixels = vreinterpretq_s16_s32(pixels);
            let sum = vmlal_n_s16(sum, vget_low_s16(pixels), weights as i16);
            vmlal_n_s16(sum, vget_high_s16(pixels), (weights >> 16) as i16)
        }

        fn store_pixels(high: int32x4_t, low: int32x4_t, to: *mut u8, _: usize) {
            let sum = vaddq_s32(vshlq_n_s32::<11>(high), low);
            let words = vqmovn_u32(vshrq_n_u32::<22>(vreinterpretq_u32_s32(sum)));
            let bytes = vqmovn_u16(vcombine_u16(words, words));
            let bytes = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
            to.cast::<u32>().write_unaligned(bytes);
        }
    }
}

/// Sums of neighbouring products: 8 products of 16 bits, 4 sums of 32.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn vmulq_s16_wide(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    // SAFETY: NEON is always there.
    unsafe {
        let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
        let high = vmull_s16(vget_high_s16(a), vget_high_s16(b));
        vpaddq_s32(low, high)
    }
}

/// [`Task::run`] on NEON.
pub fn run_neon(task: &mut impl Task) {
    // SAFETY: every aarch64 processor has NEON. 4 of the 32 registers beside 6 x 4 sums.
    unsafe { task.run::<Neon, 4>() }
}
