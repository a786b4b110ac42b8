//! The two passes of Pillow's resize, and the conversion of pixels to planes of f32. The passes are
//! exact integer arithmetic and the conversion is one rounded division, so every instruction set
//! gives the same bits.

use crate::kernels::simd::{Simd, Task};
use crate::kernels::{Isa, with_isa};

/// Fraction bits of the weights: 32 bits less 8 for the value less 2 of room.
pub const PRECISION: u32 = 32 - 8 - 2;
/// Bytes that must follow the pixels of [`rows`]: they are loaded and weighted with 0.
pub const PADDING: usize = 16;

const HALF: i32 = 1 << (PRECISION - 1);
/// Number of lower bits of a weight, which are multiplied separately.
const LOW: u32 = 11;
/// Inputs that are weighted together.
const QUAD: usize = 4;
/// Bytes behind four pixels that a load of 16 bytes reads too.
const BEHIND: usize = 4;

/// Number of loads of four inputs that cover a window of `count`.
fn quads(count: usize) -> usize {
    count.div_ceil(QUAD)
}

/// The window of inputs of each output of an axis, and their weights in fixed point.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    inputs: usize,
    /// First input and number of inputs of each output.
    windows: Vec<(usize, usize)>,
    /// Weights of each output, a multiple of four; those beyond its window are 0.
    taps: usize,
    weights: Vec<u32>,
    /// The weights of each two inputs: both upper parts, and both lower 11 bits.
    pairs: Vec<[u32; 2]>,
}

impl Weights {
    /// From the first input and the weights of each output, for an axis of `inputs`.
    ///
    /// # Panics
    /// If a window is not within the inputs, or the weights of an output add up to more than
    /// 2²² + their number (each may be rounded up).
    pub fn new(inputs: usize, outputs: &[(usize, Vec<u32>)]) -> Weights {
        let most = outputs.iter().map(|(_, weights)| weights.len()).max();
        let taps = QUAD * quads(most.unwrap_or(0));
        let mut new = Weights {
            inputs,
            windows: Vec::with_capacity(outputs.len()),
            taps,
            weights: vec![0; outputs.len() * taps],
            pairs: Vec::new(),
        };
        for (i, (first, weights)) in outputs.iter().enumerate() {
            assert!(first + weights.len() <= inputs, "window within the inputs");
            let end = first + QUAD * quads(weights.len());
            assert!(3 * end + BEHIND <= 3 * inputs + PADDING, "padding");
            let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            assert!(
                sum <= (1 << PRECISION) + weights.len() as u64,
                "weights add up to 1"
            );
            new.windows.push((*first, weights.len()));
            new.weights[i * taps..][..weights.len()].copy_from_slice(weights);
        }
        let part = |pair: &[u32], part: fn(u32) -> u32| part(pair[0]) | part(pair[1]) << 16;
        let pairs = new.weights.chunks_exact(2);
        new.pairs = pairs
            .map(|pair| {
                [
                    part(pair, |w| w >> LOW),
                    part(pair, |w| w & ((1 << LOW) - 1)),
                ]
            })
            .collect();
        new
    }

    /// Length of the axis before.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of the axis after.
    pub fn outputs(&self) -> usize {
        self.windows.len()
    }
}

/// The horizontal pass. `rgb` holds rows of `weights.inputs()` interleaved pixels and
/// [`PADDING`] bytes, `out` the same number of rows of `weights.outputs()` pixels: red is the lowest
/// byte, the highest is 0. Cost: O(rows · outputs · taps).
///
/// A weight is cut into its upper part and its lower 11 bits, which are signed 16-bit numbers:
/// no weight is above 2²³. Sums are 32-bit numbers that wrap around, so that `upper · 2¹¹ + lower`
/// is the whole sum modulo 2³². The whole sum is at most 255 · (2²² + taps) + 2²¹, which is below
/// 2³² for every axis of up to 2²² pixels; so it is the sum itself.
///
/// # Panics
/// If the lengths do not match.
pub fn rows(isa: Isa, rgb: &[u8], weights: &Weights, out: &mut [u32]) {
    let outputs = weights.outputs();
    assert!(
        outputs > 0 && out.len().is_multiple_of(outputs),
        "whole rows"
    );
    let height = out.len() / outputs;
    assert_eq!(rgb.len(), 3 * weights.inputs * height + PADDING, "pixels");
    assert!(weights.inputs <= 1 << PRECISION, "the sums fit");
    isa.run(&mut Rows {
        rgb,
        weights,
        height,
        out,
    });
}

struct Rows<'a> {
    rgb: &'a [u8],
    weights: &'a Weights,
    height: usize,
    out: &'a mut [u32],
}

impl Task for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let group = S::LANES / 4;
        let (stride, out_stride) = (3 * self.weights.inputs, 4 * self.weights.outputs());
        if self.height < group {
            for row in 0..self.height {
                // SAFETY: the row exists, and is all that is touched.
                unsafe { self.group::<S>(row, 0, 0) };
            }
            return;
        }
        for row in (0..self.height).step_by(group) {
            // The last rows may be computed twice.
            let row = row.min(self.height - group);
            // SAFETY: `group` rows exist from this one on.
            unsafe { self.group::<S>(row, stride, out_stride) };
        }
    }
}

impl Rows<'_> {
    /// Compute one row for each group of lanes; the rows are `stride` and `out_stride` bytes apart.
    ///
    /// # Safety
    /// As [`Task::run`]; the rows must exist.
    #[inline(always)]
    unsafe fn group<S: Simd>(&mut self, row: usize, stride: usize, out_stride: usize) {
        let Weights { windows, pairs, .. } = self.weights;
        let taps = self.weights.taps;
        // SAFETY: each window is within the row. The quads that cover this window are loaded, not
        // those of the longest one: they end at most 3 pixels behind the row, and the last load of
        // 16 bytes ends 4 bytes behind them. That is 13 bytes of the padding, as `Weights::new`
        // checks. A window has at most `taps` weights, which are `taps / 2` pairs.
        unsafe {
            let from = self.rgb.as_ptr().add(row * 3 * self.weights.inputs);
            let to = self.out.as_mut_ptr().add(row * windows.len()).cast::<u8>();
            for (i, &(first, count)) in windows.iter().enumerate() {
                let mut at = from.add(3 * first);
                let mut pair = pairs.as_ptr().add(taps / 2 * i);
                let mut high = S::splat_i32(0);
                let mut low = S::splat_i32(HALF);
                for _ in 0..quads(count) {
                    let (first, second) = S::pixels(at, stride);
                    let ([first_high, first_low], [second_high, second_low]) =
                        (*pair, *pair.add(1));
                    high = S::weigh(first, first_high, high);
                    low = S::weigh(first, first_low, low);
                    high = S::weigh(second, second_high, high);
                    low = S::weigh(second, second_low, low);
                    at = at.add(3 * QUAD);
                    pair = pair.add(2);
                }
                S::store_pixels(high, low, to.add(4 * i), out_stride);
            }
        }
    }
}

/// The vertical pass: `weights.inputs()` rows of bytes become `weights.outputs()` rows of the same
/// length. Cost: O(bytes of `out` · taps).
///
/// # Panics
/// If the lengths do not match.
pub fn columns(isa: Isa, bytes: &[u8], weights: &Weights, out: &mut [u8]) {
    let outputs = weights.outputs();
    assert!(
        outputs > 0 && out.len().is_multiple_of(outputs),
        "whole rows"
    );
    let len = out.len() / outputs;
    assert_eq!(bytes.len(), len * weights.inputs, "rows of one length");
    assert!(weights.inputs <= 1 << PRECISION, "the sums fit");
    if len == 0 {
        return;
    }
    with_isa!(isa, || {
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            let (first, count) = weights.windows[i];
            let rows = &bytes[first * len..][..count * len];
            let weights = &weights.weights[i * weights.taps..][..count];
            weighted_row(rows, len, weights, out);
        }
    })
}

/// The sum of weighted rows, rounded to bytes.
#[inline(always)]
fn weighted_row(rows: &[u8], len: usize, weights: &[u32], out: &mut [u8]) {
    /// Bytes whose sums stay in registers.
    const CHUNK: usize = 64;
    let mut at = 0;
    while at + CHUNK <= len {
        weighted_chunk::<CHUNK>(rows, len, weights, at, out);
        at += CHUNK;
    }
    if at < len && len >= CHUNK {
        // The last bytes may be computed twice.
        weighted_chunk::<CHUNK>(rows, len, weights, len - CHUNK, out);
    } else {
        for at in at..len {
            weighted_chunk::<1>(rows, len, weights, at, out);
        }
    }
}

#[inline(always)]
fn weighted_chunk<const N: usize>(
    rows: &[u8],
    len: usize,
    weights: &[u32],
    at: usize,
    out: &mut [u8],
) {
    let mut sums = [HALF as u32; N];
    for (row, &weight) in rows.chunks_exact(len).zip(weights) {
        let values: &[u8; N] = row[at..][..N].try_into().expect("N values");
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum = sum.wrapping_add(u32::from(value) * weight);
        }
    }
    for (out, sum) in out[at..][..N].iter_mut().zip(sums) {
        *out = (sum >> PRECISION).min(255) as u8;
    }
}

/// Converts pixels, as [`rows`] makes them, to three planes of f32: all red values, then green, then
/// blue, each divided by 255.
///
/// # Panics
/// If `planes` does not have three values for each pixel.
pub fn planes(isa: Isa, pixels: &[u32], planes: &mut [f32]) {
    assert_eq!(planes.len(), 3 * pixels.len(), "three planes");
    if pixels.is_empty() {
        return;
    }
    with_isa!(isa, || {
        for (channel, plane) in planes.chunks_exact_mut(pixels.len()).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(pixels) {
                *value = (pixel >> (8 * channel) & 0xFF) as f32 / 255.0;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Random windows, with weights of all sizes that add up to the largest sum allowed.
    fn some_weights(inputs: usize, outputs: usize, longest: usize, seed: u32) -> Weights {
        let mut rng = rand_mt::Mt::new(seed);
        let mut below = |n: usize| rng.next_u32() as usize % n;
        let outputs: Vec<(usize, Vec<u32>)> = (0..outputs)
            .map(|_| {
                let count = 1 + below(longest.min(inputs));
                let mut left = (1usize << PRECISION) + count;
                let mut weights: Vec<u32> = (0..count)
                    .map(|_| {
                        let weight = below(left + 1);
                        left -= weight;
                        weight as u32
                    })
                    .collect();
                weights[0] += left as u32;
                (below(inputs - count + 1), weights)
            })
            .collect();
        Weights::new(inputs, &outputs)
    }

    fn some_bytes(len: usize, seed: u32) -> Vec<u8> {
        let mut rng = rand_mt::Mt::new(seed);
        // 255 is frequent, because the largest sums test the limits.
        let byte = |r: u32| if r & 0x300 == 0 { 255 } else { r as u8 };
        (0..len).map(|_| byte(rng.next_u32())).collect()
    }

    /// The reference: sums in 64 bits.
    fn weighted(weights: &Weights, i: usize, value: impl Fn(usize) -> u8) -> u8 {
        let (first, count) = weights.windows[i];
        let products = (0..count).map(|t| {
            u64::from(value(first + t)) * u64::from(weights.weights[i * weights.taps + t])
        });
        let sum = products.sum::<u64>() + (1 << (PRECISION - 1));
        (sum >> PRECISION).min(255) as u8
    }

    proptest! {
        /// Every instruction set gives the result of 64-bit sums, for any weights and any height.
        #[test]
        fn both_passes_equal_plain_sums(
            inputs in 1usize..70, outputs in 1usize..20, rows_ in 1usize..10,
            longest in 1usize..40, seed in any::<u32>(),
        ) {
            let weights = some_weights(inputs, outputs, longest, seed);
            let rgb = some_bytes(3 * inputs * rows_ + PADDING, seed);
            let by_rows: Vec<u32> = (0..rows_ * outputs)
                .map(|at| {
                    let (row, i) = (at / outputs, at % outputs);
                    let channel = |c: usize| {
                        weighted(&weights, i, |x| rgb[3 * (row * inputs + x) + c])
                    };
                    u32::from_le_bytes([channel(0), channel(1), channel(2), 0])
                })
                .collect();
            // Rows of many bytes, so that some have whole chunks.
            let len = 3 * rows_ * longest;
            let bytes = some_bytes(len * inputs, seed);
            let by_columns: Vec<u8> = (0..len * outputs)
                .map(|at| weighted(&weights, at / len, |y| bytes[y * len + at % len]))
                .collect();
            for isa in Isa::available() {
                let mut out = vec![u32::MAX; rows_ * outputs];
                rows(isa, &rgb, &weights, &mut out);
                prop_assert_eq!(&out, &by_rows, "{}", isa);
                let mut out = vec![7; len * outputs];
                columns(isa, &bytes, &weights, &mut out);
                prop_assert_eq!(&out, &by_columns, "{}", isa);
            }
        }
    }

    /// Nothing behind the padding is read: the page behind it is protected. Windows at the end of
    /// the row are shorter than others, as in every picture that is reduced.
    #[cfg(unix)]
    #[test]
    fn nothing_behind_the_padding_is_read() {
        let page = 1 << 16; // a multiple of every machine's
        let mut map = memmap2::MmapMut::map_anon(2 * page).unwrap();
        // SAFETY: nothing uses the second half of this map.
        let forbidden =
            unsafe { libc::mprotect(map.as_mut_ptr().add(page).cast(), page, libc::PROT_NONE) };
        assert_eq!(forbidden, 0);
        let outputs = |inputs: usize| {
            [inputs, 1, inputs.min(2), inputs.min(3), inputs.min(5)].map(|count| {
                let weight = (1 << PRECISION) / count as u32;
                (inputs - count, vec![weight; count])
            })
        };
        for inputs in (1..40).chain([600]) {
            let weights = Weights::new(inputs, &outputs(inputs));
            for height in 1..10 {
                let len = 3 * inputs * height + PADDING;
                let rgb = &mut map[page - len..page];
                rgb.copy_from_slice(&some_bytes(len, 1));
                for isa in Isa::available() {
                    let mut out = vec![0; height * weights.outputs()];
                    rows(isa, rgb, &weights, &mut out);
                    for (at, found) in out.into_iter().enumerate() {
                        let (row, i) = (at / weights.outputs(), at % weights.outputs());
                        let channel =
                            |c: usize| weighted(&weights, i, |x| rgb[3 * (row * inputs + x) + c]);
                        let expected = [channel(0), channel(1), channel(2), 0];
                        assert_eq!(found.to_le_bytes(), expected, "{isa}");
                    }
                }
            }
        }
    }

    /// The longest axis, all white, has the largest sums.
    #[test]
    fn the_largest_sums_do_not_overflow() {
        let inputs = 1 << PRECISION;
        let weights = Weights::new(inputs, &[(0, vec![2; inputs])]);
        let white = vec![255; 3 * inputs + PADDING];
        for isa in Isa::available() {
            let mut out = [0];
            rows(isa, &white, &weights, &mut out);
            assert_eq!(out, [0x00FF_FFFF], "{isa}");
            let mut out = [0; 3];
            columns(isa, &white[..3 * inputs], &weights, &mut out);
            assert_eq!(out, [255; 3], "{isa}");
        }
    }

    #[test]
    fn planes_are_values_divided_by_255() {
        let pixels: Vec<u32> = (0..1000u32).map(|i| (i * 40_503) & 0x00FF_FFFF).collect();
        for isa in Isa::available() {
            for len in [0, 1, 15, 16, 17, 1000] {
                let mut found = vec![9.0; 3 * len];
                planes(isa, &pixels[..len], &mut found);
                for (at, found) in found.into_iter().enumerate() {
                    let byte = pixels[at % len].to_le_bytes()[at / len];
                    assert_eq!(
                        found.to_bits(),
                        (f32::from(byte) / 255.0).to_bits(),
                        "{isa}"
                    );
                }
            }
        }
    }
}
