//! AVX-512 and AVX2 with FMA.

use std::arch::x86_64::*;

use crate::kernels::simd::{Simd, Task};

/// 16 lanes.
pub struct Avx512;

/// 8 lanes.
pub struct Avx2;

// SAFETY of both: `Simd` passes the duty on to the caller, who must have the instruction
// set; pointers are used for `LANES` values, unaligned, as `Simd` says.
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(v: __m512, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn prefetch_once(from: *const f32) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn raise(value: __m512, t: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value), exponent))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(value: __m512, x: __m512, limit: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit);
            _mm512_mask_blend_ps(below, value, _mm512_setzero_ps())
        }
    }

    #[inline(always)]
    unsafe fn dot4(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), a, b))
        }
    }

    #[inline(always)]
    unsafe fn add_integers(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_add_epi32(a, b))
        }
    }

    #[inline(always)]
    unsafe fn zip(a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (
                _mm512_permutex2var_ps(a, low, b),
                _mm512_permutex2var_ps(a, high, b),
            )
        }
    }

    #[inline(always)]
    unsafe fn pixels(from: *const u8, stride: usize) -> (__m512, __m512) {
        // SAFETY: as above; 16 bytes of each row.
        unsafe {
            let row = |g: usize| _mm_loadu_si128(from.add(g * stride).cast());
            let rows = _mm512_castsi128_si512(row(0));
            let rows = _mm512_inserti32x4::<1>(rows, row(1));
            let rows = _mm512_inserti32x4::<2>(rows, row(2));
            let rows = _mm512_inserti32x4::<3>(rows, row(3));
            let [first, second] = pixel_pairs().map(|pair| _mm512_broadcast_i32x4(pair));
            (
                _mm512_castsi512_ps(_mm512_shuffle_epi8(rows, first)),
                _mm512_castsi512_ps(_mm512_shuffle_epi8(rows, second)),
            )
        }
    }

    #[inline(always)]
    unsafe fn weigh(pixels: __m512, weights: u32, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let weights = _mm512_set1_epi32(weights as i32);
            let (pixels, sum) = (_mm512_castps_si512(pixels), _mm512_castps_si512(sum));
            _mm512_castsi512_ps(_mm512_dpwssd_epi32(sum, pixels, weights))
        }
    }

    #[inline(always)]
    unsafe fn store_pixels(high: __m512, low: __m512, to: *mut u8, stride: usize) {
        // SAFETY: as above; 4 bytes of each row.
        unsafe {
            let high = _mm512_slli_epi32::<11>(_mm512_castps_si512(high));
            let sum = _mm512_add_epi32(high, _mm512_castps_si512(low));
            let bytes = _mm512_cvtusepi32_epi8(_mm512_srli_epi32::<22>(sum));
            let at = |g: usize| to.add(g * stride).cast::<i32>();
            at(0).write_unaligned(_mm_extract_epi32::<0>(bytes));
            at(1).write_unaligned(_mm_extract_epi32::<1>(bytes));
            at(2).write_unaligned(_mm_extract_epi32::<2>(bytes));
            at(3).write_unaligned(_mm_extract_epi32::<3>(bytes));
        }
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(v: __m256, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn prefetch_once(from: *const f32) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn raise(value: __m256, t: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(value: __m256, x: __m256, limit: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), value) }
    }

    #[inline(always)]
    unsafe fn dot4(a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            // Bytes 0 and 2, and bytes 1 and 3, as 16-bit numbers: nothing can saturate.
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let low = _mm256_set1_epi32(0x00FF_00FF);
            let a_even = _mm256_and_si256(a, low);
            let a_odd = _mm256_srli_epi16::<8>(a);
            let b_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
            let b_odd = _mm256_srai_epi16::<8>(b);
            let even = _mm256_madd_epi16(a_even, b_even);
            let odd = _mm256_madd_epi16(a_odd, b_odd);
            let sum = _mm256_add_epi32(_mm256_castps_si256(sum), even);
            _mm256_castsi256_ps(_mm256_add_epi32(sum, odd))
        }
    }

    #[inline(always)]
    unsafe fn add_integers(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(_mm256_add_epi32(a, b))
        }
    }

    #[inline(always)]
    unsafe fn zip(a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            (
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            )
        }
    }

    #[inline(always)]
    unsafe fn pixels(from: *const u8, stride: usize) -> (__m256, __m256) {
        // SAFETY: as above; 16 bytes of each row.
        unsafe {
            let row = |g: usize| _mm_loadu_si128(from.add(g * stride).cast());
            let rows = _mm256_set_m128i(row(1), row(0));
            let [first, second] = pixel_pairs().map(|pair| _mm256_broadcastsi128_si256(pair));
            (
                _mm256_castsi256_ps(_mm256_shuffle_epi8(rows, first)),
                _mm256_castsi256_ps(_mm256_shuffle_epi8(rows, second)),
            )
        }
    }

    #[inline(always)]
    unsafe fn weigh(pixels: __m256, weights: u32, sum: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let weights = _mm256_set1_epi32(weights as i32);
            let products = _mm256_madd_epi16(_mm256_castps_si256(pixels), weights);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), products))
        }
    }

    #[inline(always)]
    unsafe fn store_pixels(high: __m256, low: __m256, to: *mut u8, stride: usize) {
        // SAFETY: as above; 4 bytes of each row.
        unsafe {
            let high = _mm256_slli_epi32::<11>(_mm256_castps_si256(high));
            let sum = _mm256_add_epi32(high, _mm256_castps_si256(low));
            // At most 1023, so that both steps see it as it is, and the second cuts it to 255.
            let words = _mm256_srli_epi32::<22>(sum);
            let words = _mm256_packus_epi32(words, words);
            let bytes = _mm256_packus_epi16(words, words);
            let at = |g: usize| to.add(g * stride).cast::<i32>();
            at(0).write_unaligned(_mm256_extract_epi32::<0>(bytes));
            at(1).write_unaligned(_mm256_extract_epi32::<4>(bytes));
        }
    }
}

/// Which bytes of four RGB pixels go where in [`Simd::pixels`]: to the low byte of each half of
/// four lanes; the first two pixels', and the other two's.
#[inline(always)]
unsafe fn pixel_pairs() -> [__m128i; 2] {
    const O: i8 = -1;
    // SAFETY: as above.
    unsafe {
        [
            _mm_setr_epi8(0, O, 3, O, 1, O, 4, O, 2, O, 5, O, O, O, O, O),
            _mm_setr_epi8(6, O, 9, O, 7, O, 10, O, 8, O, 11, O, O, O, O, O),
        ]
    }
}

/// [`Task::run`] on AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn run_avx512(task: &mut impl Task) {
    // SAFETY: the instruction set is enabled here. 4 of the 32 registers beside 6 x 4 sums.
    unsafe { task.run::<Avx512, 4>() }
}

/// [`Task::run`] on AVX2.
#[target_feature(enable = "avx2,fma")]
pub fn run_avx2(task: &mut impl Task) {
    // SAFETY: the instruction set is enabled here. 2 of the 16 registers beside 6 x 2 sums.
    unsafe { task.run::<Avx2, 2>() }
}
