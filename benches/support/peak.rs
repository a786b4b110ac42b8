//! The measured f32 FMA peak of the machine: chains of multiply-adds in registers, on all threads.

use std::hint::black_box;
use std::time::Instant;

/// Multiply-adds of a chain in one call.
const STEPS: usize = 1 << 20;
/// Number of independent chains: more than latency 4 times two units.
const CHAINS: usize = 12;

/// The best of several short runs on `threads` threads, in GFLOP/s.
pub fn measure(threads: usize) -> f64 {
    (0..8).map(|_| run(threads)).fold(0.0, f64::max)
}

fn run(threads: usize) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let seconds: Vec<f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let start = Instant::now();
                    black_box(chains(black_box(0.999)));
                    start.elapsed().as_secs_f64()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    (2 * lanes() * CHAINS * STEPS * threads) as f64 / slowest / 1e9
}

/// f32 lanes of the widest vector that [`chains`] uses on this machine.
fn lanes() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return 16;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return 8;
        }
        1
    }
    #[cfg(target_arch = "aarch64")]
    return 4;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return 1;
}

fn chains(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { avx512(factor) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { avx2(factor) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every aarch64 processor has NEON.
    return unsafe { neon(factor) };
    #[allow(unreachable_code)]
    scalar(factor)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(factor: f32) -> f32 {
    use std::arch::x86_64::*;
    let k = _mm512_set1_ps(factor);
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, k, k);
        }
    }
    sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(factor: f32) -> f32 {
    use std::arch::x86_64::*;
    let k = _mm256_set1_ps(factor);
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, k, k);
        }
    }
    sums.iter()
        .map(|&sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum)))
        .sum()
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(factor: f32) -> f32 {
    use std::arch::aarch64::*;
    let k = vdupq_n_f32(factor);
    let mut sums = [vdupq_n_f32(1.0); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = vfmaq_f32(k, *sum, k);
        }
    }
    sums.iter().map(|&sum| vaddvq_f32(sum)).sum()
}

fn scalar(factor: f32) -> f32 {
    let mut sums = [1.0f32; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    sums.iter().sum()
}
