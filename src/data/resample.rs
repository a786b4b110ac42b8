//! Antialiased bilinear resize, bit-equal to Pillow.
//!
//! The algorithm of Pillow's `Resample.c` (8 bits per channel): a triangle filter, widened by the
//! scale when shrinking; weights in f64, normalised, rounded to 22-bit fixed point; two passes, each
//! rounded to u8, so that their order matters. The order is that of Pillow 13 (older releases nearly
//! always began with the horizontal pass). Pillow skips an axis whose size does not change; here its
//! filter is the identity.

use std::sync::Arc;

use crate::kernels::Isa;
use crate::kernels::resample::{PADDING, PRECISION, Weights, columns, planes, rows};

/// Number of filters that a [`Resizer`] caches: for the common sizes of cameras, upright and across.
const FILTERS: usize = 16;

/// The triangle filter from `input` pixels to `output`.
fn triangle(input: usize, output: usize) -> Weights {
    let scale = input as f64 / output as f64;
    let support = scale.max(1.0);
    let window = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // `as usize` truncates and clamps below at 0, as Pillow does.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weights = (first..end).map(|x| {
            let distance = (x as f64 - center + 0.5) * (1.0 / support);
            (1.0 - distance.abs()).max(0.0)
        });
        let weights: Vec<f64> = weights.collect();
        let total: f64 = weights.iter().sum();
        let fixed = weights.iter().map(|weight| {
            let normalised = if total == 0.0 {
                *weight
            } else {
                weight / total
            };
            (0.5 + normalised * f64::from(1u32 << PRECISION)) as u32
        });
        (first, fixed.collect())
    };
    let windows: Vec<(usize, Vec<u32>)> = (0..output).map(window).collect();
    Weights::new(input, &windows)
}

/// Set a buffer's length without excess capacity: `Vec::resize` alone may double the capacity.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    buffer.reserve_exact(len.saturating_sub(buffer.len()));
    buffer.resize(len, T::default());
}

/// Set the length of an image's buffer, with capacity for the padding of [`Resizer::pixels`].
pub(super) fn grow_for_pixels(rgb: &mut Vec<u8>, len: usize) {
    grow(rgb, len + PADDING);
    rgb.truncate(len);
}

/// Resizes RGB images to squares. Filters and buffers are reused, so that a series of photographs
/// does not allocate.
#[derive(Debug)]
pub struct Resizer {
    isa: Isa,
    /// The cache, most recently used first.
    filters: Vec<Arc<Weights>>,
    /// The result of a horizontal first pass.
    halfway: Vec<u32>,
    /// The result of a vertical first pass.
    rows: Vec<u8>,
    pixels: Vec<u32>,
}

impl Default for Resizer {
    /// A resizer with the instruction set of matrix products.
    fn default() -> Self {
        Resizer::new(Isa::current())
    }
}

impl Resizer {
    /// A resizer with this instruction set; all give the same bits.
    pub fn new(isa: Isa) -> Resizer {
        Resizer {
            isa,
            filters: Vec::new(),
            halfway: Vec::new(),
            rows: Vec::new(),
            pixels: Vec::new(),
        }
    }

    /// Resize an interleaved RGB image to `size x size` pixels; the lowest byte of each is red, the
    /// highest is 0.
    ///
    /// `rgb` is `height x width x 3`; a few bytes of padding may be appended to it.
    /// Cost: O(size · height · max(1, width/size) + size² · max(1, height/size)). Buffers:
    /// O(size · height).
    ///
    /// # Panics
    /// If a dimension is 0 or `rgb` has fewer values.
    pub fn pixels(
        &mut self,
        rgb: &mut Vec<u8>,
        width: usize,
        height: usize,
        size: usize,
    ) -> &[u32] {
        assert!(width > 0 && height > 0 && size > 0, "image dimensions");
        let len = width * height * 3;
        assert!(rgb.len() >= len, "image length");
        let (across, down) = (self.filter(width, size), self.filter(height, size));
        grow(&mut self.pixels, size * size);
        if vertical_first(width, height, size) {
            grow(&mut self.rows, size * width * 3 + PADDING);
            let resized = &mut self.rows[..size * width * 3];
            columns(self.isa, &rgb[..len], &down, resized);
            rows(self.isa, &self.rows, &across, &mut self.pixels);
        } else {
            grow(rgb, len + PADDING);
            grow(&mut self.halfway, height * size);
            rows(self.isa, rgb, &across, &mut self.halfway);
            let resized = bytemuck::cast_slice(&self.halfway);
            let pixels = bytemuck::cast_slice_mut(&mut self.pixels);
            columns(self.isa, resized, &down, pixels);
        }
        &self.pixels
    }

    /// [`Resizer::pixels`] as `3 x size x size` values of f32 (channel first): byte / 255.
    ///
    /// # Panics
    /// As [`Resizer::pixels`], and if `out` has another length.
    pub fn planes(
        &mut self,
        rgb: &mut Vec<u8>,
        width: usize,
        height: usize,
        size: usize,
        out: &mut [f32],
    ) {
        let isa = self.isa;
        planes(isa, self.pixels(rgb, width, height, size), out);
    }

    fn filter(&mut self, input: usize, output: usize) -> Arc<Weights> {
        let fits = |filter: &Arc<Weights>| filter.inputs() == input && filter.outputs() == output;
        let filter = match self.filters.iter().position(fits) {
            Some(at) => self.filters.remove(at),
            None => Arc::new(triangle(input, output)),
        };
        self.filters.truncate(FILTERS - 1);
        self.filters.insert(0, filter.clone());
        filter
    }
}

/// Resize an interleaved RGB image and separate its channels.
///
/// `rgb` is `height x width x 3`; the result is `3 x size x size` (channel first). For many images
/// use a [`Resizer`], which is faster.
///
/// # Panics
/// If a dimension is 0 or `rgb.len() != width * height * 3`.
pub fn resize_to_planes(rgb: &[u8], width: usize, height: usize, size: usize) -> Vec<u8> {
    assert_eq!(rgb.len(), width * height * 3, "image length");
    let mut resizer = Resizer::default();
    let pixels = resizer.pixels(&mut rgb.to_vec(), width, height, size);
    let plane = |channel: u32| {
        pixels
            .iter()
            .map(move |pixel| (pixel >> (8 * channel)) as u8)
    };
    (0..3).flat_map(plane).collect()
}

/// Pillow's rule: the vertical pass is first if it removes more than twice as many pixels as the
/// horizontal one, per column and row.
fn vertical_first(width: usize, height: usize, size: usize) -> bool {
    let lost = |side: usize| side as i64 - size as i64;
    lost(height) > 0 && lost(height) > 2 * lost(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    /// Width, height, size, and the first half of the SHA-256 of Pillow 13.0's result for the same
    /// image; `tools/pillow_golden.py` prints this table.
    const PILLOW: [(usize, usize, usize, &str); 12] = [
        (1, 1, 5, "372d41cd338a35d69117a6d109e7b948"),
        (2, 3, 7, "44c6358e1f561c265cc2b43d6f97c06c"),
        (500, 667, 128, "8721cc525466425d375b7943852cef6d"),
        (333, 500, 64, "0ba4e401d99ff8646748e52832127f22"),
        (128, 500, 128, "9cd16af8dbb21184ac321e03cc50d28b"),
        (500, 128, 128, "1ed668cc8269ecb7400948a2b8e3ca98"),
        (64, 64, 64, "fda4a2a436744caa3dcf4c6235f31fe4"),
        (7, 1000, 33, "e7372c3d68f964c63abc916c9b894b86"),
        (1000, 7, 33, "221beeca61940c092b6de26403c41daa"),
        (129, 127, 128, "8cc96fbad96533fbcf0eabe77c7d62a8"),
        (17, 19, 1, "bd9ca42266250219093ae920eeab9c19"),
        (64, 64, 128, "f40743bff516d9a0865480637d8fc2a2"),
    ];

    #[test]
    fn results_are_bit_equal_to_pillow() {
        for (width, height, size, expected) in PILLOW {
            let mut rng = rand_mt::Mt::new(1);
            let rgb: Vec<u8> = (0..width * height * 3)
                .map(|_| rng.next_u32() as u8)
                .collect();
            let planes = resize_to_planes(&rgb, width, height, size);
            let found = crate::data::hex(&Sha256::digest(&planes));
            assert_eq!(&found[..32], expected, "{width}x{height} to {size}");
            let values: Vec<f32> = planes.iter().map(|&v| f32::from(v) / 255.0).collect();
            for isa in Isa::available() {
                let mut found = vec![0.0; values.len()];
                let mut rgb = rgb.clone();
                Resizer::new(isa).planes(&mut rgb, width, height, size, &mut found);
                assert!(found == values, "{width}x{height} to {size}, {isa}");
            }
        }
    }

    /// Reused buffers and filters do not change later results.
    #[test]
    fn results_are_independent_of_earlier_images() {
        let mut rng = rand_mt::Mt::new(2);
        let mut side = || 1 + rng.next_u32() as usize % 90;
        let mut resizer = Resizer::default();
        for i in 0..4 * FILTERS {
            let (width, height, size) = (side(), side(), 1 + side() % 20);
            let mut rgb: Vec<u8> = (0..width * height * 3).map(|at| (at * i) as u8).collect();
            let expected = Resizer::default()
                .pixels(&mut rgb.clone(), width, height, size)
                .to_vec();
            let found = resizer.pixels(&mut rgb, width, height, size);
            assert_eq!(found, expected, "{width}x{height} to {size}");
            assert!(resizer.filters.len() <= FILTERS);
        }
    }

    /// The capacities of the image's buffer and of that between the passes are not doubled.
    #[test]
    fn buffers_grow_to_the_exact_length() {
        let mut resizer = Resizer::default();
        let mut buffer = Vec::new();
        for (width, height) in [(300, 200), (310, 210), (100, 900), (90, 1000)] {
            let len = 3 * width * height;
            grow_for_pixels(&mut buffer, len);
            assert!((len + PADDING..len + 100).contains(&buffer.capacity()));
            let before = buffer.as_ptr();
            resizer.pixels(&mut buffer, width, height, 50);
            assert_eq!(buffer.as_ptr(), before, "it has not moved");
            // From a decoder that reserves no padding.
            let mut exact = vec![7; len];
            resizer.pixels(&mut exact, width, height, 50);
            assert!(exact.capacity() < len + 100);
        }
        assert!(resizer.rows.capacity() < 50 * 100 * 3 + 100);
        assert!(resizer.halfway.capacity() < 50 * 210 + 100);
    }

    proptest! {
        /// Weights sum to 1 within their rounding.
        #[test]
        fn a_constant_image_stays_constant(
            width in 1usize..300, height in 1usize..300, size in 1usize..200,
            colour in any::<[u8; 3]>(),
        ) {
            let rgb = colour.repeat(width * height);
            let planes = resize_to_planes(&rgb, width, height, size);
            for (channel, plane) in planes.chunks_exact(size * size).enumerate() {
                prop_assert!(plane.iter().all(|&value| value == colour[channel]));
            }
        }
    }
}
