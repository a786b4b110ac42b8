//! Vectorised kernels over slices and strides; one of the modules that may contain `unsafe`.
//!
//! | module | computes | cost |
//! | --- | --- | --- |
//! | [`gemm`] | C = alpha · A B (f32), or exactly for bytes | 2mnk flop |
//! | [`skinny`] | Zᵀ = W Xᵀ + b 1ᵀ and Gᵀ X for few outputs, on a block of rows | 2·rows·c·d flop each |
//! | [`softmax`] | losses lse(z) - z\[label\] and their gradients | nc exponentials |
//! | [`pixels`] | whether features are k/255, and the bytes k | one pass |
//! | [`resample`] | the two passes of Pillow's resize | taps multiplications a value |
//! | [`columns`] | blocks of columns of a row-major matrix, for threads | none |
//!
//! Each algorithm is written once over the trait `simd::Simd` and compiled for every instruction
//! set. A value of [`Isa`] is the proof that the machine has an instruction set.
//!
//! Every element of a product is one chain of fused multiply-adds (in `skinny`, a sum of sixteen
//! chains), the same on every instruction set and for any number of threads. Results therefore
//! agree to the bit, and the portable version is both the fallback and the reference in the tests.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod aligned;
pub mod columns;
pub mod gemm;
mod isa;
pub mod pixels;
pub mod resample;
mod simd;
pub mod skinny;
pub mod softmax;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use isa::Isa;
pub(crate) use isa::with_isa;

/// Uniform random values in -1..1, for tests.
#[cfg(test)]
pub(crate) fn random_values(len: usize, seed: u32) -> Vec<f32> {
    let mut rng = rand_mt::Mt::new(seed);
    (0..len)
        .map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}
