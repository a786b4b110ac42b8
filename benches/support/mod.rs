//! Helpers of the benchmarks.
#![allow(dead_code)] // Each bench uses a part of it.

pub mod openblas;
pub mod peak;
pub mod projection;
pub mod shapes;
pub mod table;

/// Number of threads and their FMA peak in GFLOP/s; prints both.
pub fn machine() -> (usize, f64) {
    let threads = flowreg::threads::available();
    let peak = peak::measure(threads);
    let isa = flowreg::kernels::Isa::current();
    println!(
        "{}, {threads} threads, {isa}: FMA peak {peak:.0} GFLOP/s",
        processor()
    );
    (threads, peak)
}

/// The name of the processor, or of the architecture if the system does not report it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    match name.and_then(|line| line.split_once(':')) {
        Some((_, name)) => name.trim().to_string(),
        None => std::env::consts::ARCH.to_string(),
    }
}

/// Random pixel values k/255.
pub fn pixels(len: usize) -> Pixels {
    let mut state = 1u32;
    let mut values = vec![0.0; len + LINE];
    let start = values.as_ptr().align_offset(4 * LINE);
    for value in &mut values[start..][..len] {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        *value = (state >> 24) as f32 / 255.0;
    }
    Pixels { values, start, len }
}

/// f32 values of a cache line.
const LINE: usize = 16;

/// Values that begin at a cache line, as in a mapped file.
pub struct Pixels {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl std::ops::Deref for Pixels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..][..self.len]
    }
}
