//! NEON, which every aarch64 processor has.

use std::arch::aarch64::*;

use crate::kernels::simd::{Simd, Task};

/// 4 lanes.
pub struct Neon;

// SAFETY: `Simd` passes the duty on to the caller; NEON is always there, and pointers are
// used for `LANES` values.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(v: float32x4_t, to: *mut f32) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn raise(value: float32x4_t, t: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(t));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(value), exponent))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(value: float32x4_t, x: float32x4_t, limit: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0.0), value) }
    }

    #[inline(always)]
    unsafe fn dot4(a: float32x4_t, b: float32x4_t, sum: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            let a = vreinterpretq_u8_f32(a);
            let b = vreinterpretq_s8_f32(b);
            let wide = |a| vreinterpretq_s16_u16(vmovl_u8(a));
            let low = vmulq_s16_wide(wide(vget_low_u8(a)), vmovl_s8(vget_low_s8(b)));
            let high = vmulq_s16_wide(wide(vget_high_u8(a)), vmovl_s8(vget_high_s8(b)));
            let dots = vpaddq_s32(low, high);
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(sum), dots))
        }
    }

    #[inline(always)]
    unsafe fn add_integers(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            vreinterpretq_f32_u32(vaddq_u32(
                vreinterpretq_u32_f32(a),
                vreinterpretq_u32_f32(b),
            ))
        }
    }

    #[inline(always)]
    unsafe fn zip(a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: as above.
        unsafe { (vzip1q_f32(a, b), vzip2q_f32(a, b)) }
    }

    /// The first pixel in the lower half, the second in the upper: eight 16-bit numbers.
    #[inline(always)]
    unsafe fn pixels(from: *const u8, _: usize) -> (float32x4_t, float32x4_t) {
        const O: u8 = 255;
        const FIRST: [u8; 16] = [0, O, 1, O, 2, O, O, O, 3, O, 4, O, 5, O, O, O];
        const SECOND: [u8; 16] = [6, O, 7, O, 8, O, O, O, 9, O, 10, O, 11, O, O, O];
        // SAFETY: as above; 16 bytes of the row.
        unsafe {
            let row = vld1q_u8(from);
            (
                vreinterpretq_f32_u8(vqtbl1q_u8(row, vld1q_u8(FIRST.as_ptr()))),
                vreinterpretq_f32_u8(vqtbl1q_u8(row, vld1q_u8(SECOND.as_ptr()))),
            )
        }
    }

    #[inline(always)]
    unsafe fn weigh(pixels: float32x4_t, weights: u32, sum: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe {
            let pixels = vreinterpretq_s16_f32(pixels);
            let sum = vreinterpretq_s32_f32(sum);
            let sum = vmlal_n_s16(sum, vget_low_s16(pixels), weights as i16);
            let sum = vmlal_n_s16(sum, vget_high_s16(pixels), (weights >> 16) as i16);
            vreinterpretq_f32_s32(sum)
        }
    }

    #[inline(always)]
    unsafe fn store_pixels(high: float32x4_t, low: float32x4_t, to: *mut u8, _: usize) {
        // SAFETY: as above; 4 bytes of the row.
        unsafe {
            let high = vshlq_n_u32::<11>(vreinterpretq_u32_f32(high));
            let sum = vaddq_u32(high, vreinterpretq_u32_f32(low));
            let words = vqmovn_u32(vshrq_n_u32::<22>(sum));
            let bytes = vqmovn_u16(vcombine_u16(words, words));
            let bytes = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
            to.cast::<u32>().write_unaligned(bytes);
        }
    }
}

/// Sums of neighbouring products: 8 products of 16 bits, 4 sums of 32.
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
