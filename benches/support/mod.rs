//! What the benchmarks share.
#![allow(dead_code)] // Each bench uses a part of it.

pub mod peak;
pub mod shapes;
pub mod table;

/// Values as pixels have them: k/255.
pub fn pixels(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 24) as f32 / 255.0
        })
        .collect()
}
