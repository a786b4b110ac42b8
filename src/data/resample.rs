//! Pillow's antialiased bilinear resize, to the bit.
//!
//! The algorithm of Pillow's `Resample.c` (8 bits per channel): a triangle filter,
//! widened by the scale when shrinking; coefficients in f64, normalised, rounded to
//! 22-bit fixed point; two passes, each rounded to u8, so that their order matters. The
//! order is Pillow 13's (older releases nearly always began with the horizontal pass). An
//! axis whose size does not change is not filtered.

/// Fraction bits of the fixed-point coefficients: 32 bits less 8 for the value less 2 of room.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

/// For each output index, the first input index and the fixed-point coefficients.
struct Filter {
    first: Vec<usize>,
    count: Vec<usize>,
    /// `taps` coefficients an output index; those from `count` on are unused.
    coefficients: Vec<i32>,
    taps: usize,
}

impl Filter {
    fn new(input: usize, output: usize) -> Filter {
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let taps = support.ceil() as usize * 2 + 1;
        let mut filter = Filter {
            first: Vec::with_capacity(output),
            count: Vec::with_capacity(output),
            coefficients: vec![0; output * taps],
            taps,
        };
        let mut weights = vec![0.0f64; taps];
        for (i, fixed) in filter.coefficients.chunks_exact_mut(taps).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            // `as usize` truncates and clamps below at 0, as Pillow does.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let weights = &mut weights[..end - first];
            let mut total = 0.0;
            for (x, weight) in weights.iter_mut().enumerate() {
                let distance = ((x + first) as f64 - center + 0.5) * (1.0 / support);
                *weight = (1.0 - distance.abs()).max(0.0);
                total += *weight;
            }
            for (fixed, weight) in fixed.iter_mut().zip(&*weights) {
                let normalised = if total == 0.0 {
                    *weight
                } else {
                    weight / total
                };
                *fixed = (0.5 + normalised * f64::from(1u32 << PRECISION)) as i32;
            }
            filter.first.push(first);
            filter.count.push(end - first);
        }
        filter
    }

    fn at(&self, i: usize) -> (usize, &[i32]) {
        (
            self.first[i],
            &self.coefficients[i * self.taps..][..self.count[i]],
        )
    }
}

fn round_to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resize an interleaved RGB image and separate its channels.
///
/// `rgb` is `height x width x 3`; the result is `3 x size x size` (channel first).
/// Cost: O(size · height · max(1, width/size) + size² · max(1, height/size)).
///
/// # Panics
/// If a dimension is 0 or `rgb.len() != width * height * 3`.
pub fn resize_to_planes(rgb: &[u8], width: usize, height: usize, size: usize) -> Vec<u8> {
    assert!(width > 0 && height > 0 && size > 0, "image dimensions");
    assert_eq!(rgb.len(), width * height * 3, "image length");
    let shrink_x = |rgb: &[u8]| match width == size {
        true => rgb.to_vec(),
        false => filter_rows(rgb, width, size),
    };
    let shrink_y = |rgb: &[u8], width: usize| match height == size {
        true => rgb.to_vec(),
        false => filter_columns(rgb, width * 3, height, size),
    };
    let resized = match vertical_first(width, height, size) {
        true => shrink_x(&shrink_y(rgb, width)),
        false => shrink_y(&shrink_x(rgb), size),
    };
    let mut planes = vec![0; 3 * size * size];
    let (red, rest) = planes.split_at_mut(size * size);
    let (green, blue) = rest.split_at_mut(size * size);
    for (i, pixel) in resized.chunks_exact(3).enumerate() {
        (red[i], green[i], blue[i]) = (pixel[0], pixel[1], pixel[2]);
    }
    planes
}

/// Pillow's rule: where the height loses more than twice the pixels that the width loses.
fn vertical_first(width: usize, height: usize, size: usize) -> bool {
    let lost = |side: usize| side as i64 - size as i64;
    lost(height) > 0 && lost(height) > 2 * lost(width)
}

/// The horizontal pass: each row of `width` pixels becomes one of `size`.
fn filter_rows(rgb: &[u8], width: usize, size: usize) -> Vec<u8> {
    let filter = Filter::new(width, size);
    let mut out = Vec::with_capacity(rgb.len() / width * size);
    for row in rgb.chunks_exact(width * 3) {
        for i in 0..size {
            let (first, coefficients) = filter.at(i);
            let mut sum = [HALF; 3];
            for (pixel, &k) in row[first * 3..].chunks_exact(3).zip(coefficients) {
                for channel in 0..3 {
                    sum[channel] += i32::from(pixel[channel]) * k;
                }
            }
            out.extend(sum.map(round_to_u8));
        }
    }
    out
}

/// The vertical pass: `height` rows of `len` bytes become `size` rows.
fn filter_columns(rows: &[u8], len: usize, height: usize, size: usize) -> Vec<u8> {
    let filter = Filter::new(height, size);
    let mut out = vec![0; size * len];
    let mut sums = vec![0i32; len];
    for (i, out_row) in out.chunks_exact_mut(len).enumerate() {
        let (first, coefficients) = filter.at(i);
        sums.fill(HALF);
        for (row, &k) in rows[first * len..].chunks_exact(len).zip(coefficients) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * k;
            }
        }
        for (out, &sum) in out_row.iter_mut().zip(&sums) {
            *out = round_to_u8(sum);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    /// Width, height, size, and the start of the SHA-256 of what Pillow 13.0 makes of the
    /// same image; `tools/pillow_golden.py` prints this table.
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
    fn equals_pillow_to_the_bit() {
        for (width, height, size, expected) in PILLOW {
            let mut rng = rand_mt::Mt::new(1);
            let rgb: Vec<u8> = (0..width * height * 3)
                .map(|_| rng.next_u32() as u8)
                .collect();
            let planes = resize_to_planes(&rgb, width, height, size);
            let found = crate::data::hex(&Sha256::digest(&planes));
            assert_eq!(&found[..32], expected, "{width}x{height} to {size}");
        }
    }

    proptest! {
        /// Coefficients sum to 1 within their rounding, so a plain image stays plain.
        #[test]
        fn a_plain_image_stays_plain(
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
