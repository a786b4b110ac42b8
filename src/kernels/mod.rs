//! Hand-tuned kernels; one of the rooms where `unsafe` may live.
//!
//! Each algorithm is written once over `simd::Simd` and compiled for every instruction
//! set; [`Isa`] is the proof that the machine has one. A kernel knows slices and strides,
//! nothing else.
//!
//! Every element of a product is the same chain of fused multiply-adds (in `skinny`, the same
//! sixteen) on every instruction set and for any number of threads: results agree to the bit,
//! and the portable version is both the fallback and the twin that the others are tested
//! against.
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

/// Numbers in -1..1 for tests.
#[cfg(test)]
pub(crate) fn random_values(len: usize, seed: u32) -> Vec<f32> {
    let mut rng = rand_mt::Mt::new(seed);
    (0..len)
        .map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}
