//! AVX-512 and AVX2 with FMA.

use std::arch::x86_64::*;

use crate::kernels::simd::{Simd, Task, in_intrinsics};

/// 16 lanes.
pub struct Avx512;

/// 8 lanes.
pub struct Avx2;

// SAFETY: a vector of 512 bits holds 16 values; every method is made of intrinsics of the
// instruction sets that `run_avx512` enables.
unsafe impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
    const LANES: usize = 16;

    in_intrinsics! {
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(v: __m512, to: *mut f32) { _mm512_storeu_ps(to, v) }
        fn prefetch(from: *const f32) { _mm_prefetch::<_MM_HINT_T0>(from.cast()); }
        fn prefetch_once(from: *const f32) { _mm_prefetch::<_MM_HINT_NTA>(from.cast()); }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }

        fn ldexp(value: __m512, t: __m512) -> __m512 {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value), exponent))
        }

        fn zero_below(value: __m512, x: __m512, limit: __m512) -> __m512 {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit);
            _mm512_mask_blend_ps(below, value, _mm512_setzero_ps())
        }

        fn splat_i32(value: i32) -> __m512i { _mm512_set1_epi32(value) }
        fn load_i32(from: *const i32) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn store_i32(v: __m512i, to: *mut i32) { _mm512_storeu_si512(to.cast(), v) }
        fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn dot4(a: __m512i, b: __m512i, sum: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, a, b) }

        fn zip(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (
                _mm512_permutex2var_epi32(a, low, b),
                _mm512_permutex2var_epi32(a, high, b),
            )
        }

        fn pixels(from: *const u8, stride: usize) -> (__m512i, __m512i) {
            let row = |g: usize| _mm_loadu_si128(from.add(g * stride).cast());
            let rows = _mm512_castsi128_si512(row(0));
            let rows = _mm512_inserti32x4::<1>(rows, row(1));
            let rows = _mm512_inserti32x4::<2>(rows, row(2));
            let rows = _mm512_inserti32x4::<3>(rows, row(3));
            let [first, second] = pixel_pairs().map(|pair| _mm512_broadcast_i32x4(pair));
            (_mm512_shuffle_epi8(rows, first), _mm512_shuffle_epi8(rows, second))
        }

        fn weigh(pixels: __m512i, weights: u32, sum: __m512i) -> __m512i {
            let weights = _mm512_set1_epi32(weights as i32);
            _mm512_dpwssd_epi32(sum, pixels, weights)
        }

        fn store_pixels(high: __m512i, low: __m512i, to: *mut u8, stride: usize) {
            let high = _mm512_slli_epi32::<11>(high);
            let sum = _mm512_add_epi32(high, low);
            let bytes = _mm512_cvtusepi32_epi8(_mm512_srli_epi32::<22>(sum));
            let at = |g: usize| to.add(g * stride).cast::<i32>();
            at(0).write_unaligned(_mm_extract_epi32::<0>(bytes));
            at(1).write_unaligned(_mm_extract_epi32::<1>(bytes));
            at(2).write_unaligned(_mm_extract_epi32::<2>(bytes));
            at(3).write_unaligned(_mm_extract_epi32::<3>(bytes));
        }
    }
}

// SAFETY: a vector of 256 bits holds 8 values; every method is made of intrinsics of the
// instruction sets that `run_avx2` enables.
unsafe impl Simd for Avx2 {
    type V = __m256;
    type I = __m256i;
    const LANES: usize = 8;

    in_intrinsics! {
        fn zero() -> __m256 { _mm256_setzero_ps() }
        fn splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(v: __m256, to: *mut f32) { _mm256_storeu_ps(to, v) }
        fn prefetch(from: *const f32) { _mm_prefetch::<_MM_HINT_T0>(from.cast()); }
        fn prefetch_once(from: *const f32) { _mm_prefetch::<_MM_HINT_NTA>(from.cast()); }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }

        fn ldexp(value: __m256, t: __m256) -> __m256 {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent))
        }

        fn zero_below(value: __m256, x: __m256, limit: __m256) -> __m256 {
            _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), value)
        }

        fn splat_i32(value: i32) -> __m256i { _mm256_set1_epi32(value) }
        fn load_i32(from: *const i32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        fn store_i32(v: __m256i, to: *mut i32) { _mm256_storeu_si256(to.cast(), v) }
        fn add_i32(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }

        fn dot4(a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
            // Bytes 0 and 2, and bytes 1 and 3, as 16-bit numbers: nothing can saturate.
            let low = _mm256_set1_epi32(0x00FF_00FF);
            let a_even = _mm256_and_si256(a, low);
            let a_odd = _mm256_srli_epi16::<8>(a);
            let b_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
            let b_odd = _mm256_srai_epi16::<8>(b);
            let even = _mm256_madd_epi16(a_even, b_even);
            let odd = _mm256_madd_epi16(a_odd, b_odd);
            let sum = _mm256_add_epi32(sum, even);
            _mm256_add_epi32(sum, odd)
        }

        fn zip(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
            let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            (
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            )
        }

        fn pixels(from: *const u8, stride: usize) -> (__m256i, __m256i) {
            let row = |g: usize| _mm_loadu_si128(from.add(g * stride).cast());
            let rows = _mm256_set_m128i(row(1), row(0));
            let [first, second] = pixel_pairs().map(|pair| _mm256_broadcastsi128_si256(pair));
            (_mm256_shuffle_epi8(rows, first), _mm256_shuffle_epi8(rows, second))
        }

        fn weigh(pixels: __m256i, weights: u32, sum: __m256i) -> __m256i {
            let weights = _mm256_set1_epi32(weights as i32);
            let products = _mm256_madd_epi16(pixels, weights);
            _mm256_add_epi32(sum, products)
        }

        fn store_pixels(high: __m256i, low: __m256i, to: *mut u8, stride: usize) {
            let high = _mm256_slli_epi32::<11>(high);
            let sum = _mm256_add_epi32(high, low);
            // At most 1023: the first pack keeps it, the second saturates it to 255.
            let words = _mm256_srli_epi32::<22>(sum);
            let words = _mm256_packus_epi32(words, words);
            let bytes = _mm256_packus_epi16(words, words);
            let at = |g: usize| to.add(g * stride).cast::<i32>();
            at(0).write_unaligned(_mm256_extract_epi32::<0>(bytes));
            at(1).write_unaligned(_mm256_extract_epi32::<4>(bytes));
        }
    }
}

/// The byte shuffles of [`Simd::pixels`] for the first two and the last two of four RGB pixels:
/// each value goes to the low byte of a 16-bit half of a lane.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn pixel_pairs() -> [__m128i; 2] {
    const O: i8 = -1;
    // SAFETY: the caller's promise.
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
