//! NEON, which every aarch64 processor has.

use std::arch::aarch64::*;

use super::simd::{Simd, Task};

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
