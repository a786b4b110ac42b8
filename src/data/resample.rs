//! Pillow's antialiased bilinear resize, to the bit.
//!
//! The algorithm of Pillow's `Resample.c` (8 bits per channel): a triangle filter,
//! widened by the scale when shrinking; coefficients in f64, normalised, rounded to
//! 22-bit fixed point; a horizontal pass rounded to u8, then a vertical one. An axis
//! whose size does not change is not filtered.

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
    let narrow = match width == size {
        true => rgb.to_vec(),
        false => shrink_rows(rgb, width, size),
    };
    let resized = match height == size {
        true => narrow,
        false => shrink_columns(&narrow, size * 3, &Filter::new(height, size)),
    };
    let mut planes = vec![0; 3 * size * size];
    let (red, rest) = planes.split_at_mut(size * size);
    let (green, blue) = rest.split_at_mut(size * size);
    for (i, pixel) in resized.chunks_exact(3).enumerate() {
        (red[i], green[i], blue[i]) = (pixel[0], pixel[1], pixel[2]);
    }
    planes
}

/// The horizontal pass: each row of `width` pixels becomes one of `size`.
fn shrink_rows(rgb: &[u8], width: usize, size: usize) -> Vec<u8> {
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

/// The vertical pass over rows of `len` bytes.
fn shrink_columns(rows: &[u8], len: usize, filter: &Filter) -> Vec<u8> {
    let mut out = vec![0; filter.first.len() * len];
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
