//! NEON, which every aarch64 processor has.

use std::arch::aarch64::*;

use super::gemm::{Panel, panel};
use super::simd::Simd;

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
    unsafe fn zip(a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: as above.
        unsafe { (vzip1q_f32(a, b), vzip2q_f32(a, b)) }
    }
}

/// [`panel`] on NEON: 6 x 4 accumulators of the 32 registers.
pub fn panel_neon(task: &Panel) {
    // SAFETY: every aarch64 processor has NEON.
    unsafe { panel::<Neon, 4>(task) }
}
