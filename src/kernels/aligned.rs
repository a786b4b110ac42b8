//! Buffers that begin at a cache line. Loading a vector that crosses two lines takes twice as long,
//! and the inner loop of a tile is mostly loads.

use bytemuck::Pod;

/// 32-bit elements of a cache line.
const LEN: usize = 16;

/// A cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Line([f32; LEN]);

// SAFETY: zeros are f32 values, as is any bit pattern; 16 of them fill 64 bytes exactly.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as for `Zeroable`.
unsafe impl bytemuck::Pod for Line {}

/// `len` elements of 32 bits in `lines`, which grows as needed: old elements keep their values, new
/// ones are 0.
pub fn resize<T: Pod>(lines: &mut Vec<Line>, len: usize) -> &mut [T] {
    const { assert!(size_of::<T>() * LEN == size_of::<Line>()) };
    lines.resize(len.div_ceil(LEN), Line([0.0; LEN]));
    &mut bytemuck::cast_slice_mut(lines)[..len]
}
