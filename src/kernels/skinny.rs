//! Products of few outputs with a block of rows of X: `Zᵀ = W Xᵀ + b 1ᵀ` and `Gᵀ X`.
//!
//! Neither packs X: with few outputs, copying the block into panels would take as long as
//! multiplying it. The block stays in the L2 cache between the two products. Vectors run along the
//! features. A logit is the sum of 16 chains (`CHAINS`) of fused multiply-adds, chain i over the
//! features i, i + CHAINS, ...; a value of Gᵀ X is one chain over the rows. Both have the same bits
//! on every instruction set.

use crate::kernels::aligned::{self, Line};
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Simd, Task};

/// Most rows of a block.
pub const ROWS: usize = 64;
/// Chains of a logit: as many as the widest vector has values.
const CHAINS: usize = 16;
/// Outputs of a tile: with NV vectors each they fill the registers.
const OUTPUTS: usize = 5;
/// Columns of the widest tile; a row of the gradient is padded to whole strips.
const STRIP: usize = 64;

/// Distance from row to row of a gradient of `features` columns.
pub fn stride(features: usize) -> usize {
    features.next_multiple_of(STRIP)
}

/// W (c x d) and b (c); each row of W begins at a cache line and is padded with zeros.
#[derive(Debug, Default)]
pub struct Weight {
    values: Vec<Line>,
    bias: Vec<f32>,
    features: usize,
}

impl Weight {
    /// Copy W (`bias.len()` x `features`) and b.
    ///
    /// # Panics
    /// If W does not have `bias.len()` rows of `features` values.
    pub fn load(&mut self, weight: &[f32], features: usize, bias: &[f32]) {
        assert_eq!(
            Some(weight.len()),
            features.checked_mul(bias.len()),
            "W's shape"
        );
        let width = features.next_multiple_of(CHAINS);
        let rows: &mut [f32] = aligned::resize(&mut self.values, width * bias.len());
        for (to, from) in rows
            .chunks_exact_mut(width)
            .zip(weight.chunks_exact(features))
        {
            let (values, zeros) = to.split_at_mut(features);
            values.copy_from_slice(from);
            zeros.fill(0.0);
        }
        self.bias.clear();
        self.bias.extend_from_slice(bias);
        self.features = features;
    }
}

/// `Zᵀ = W Xᵀ + b 1ᵀ` (c x rows) of the first rows of `x`. The same number of rows behind them is
/// prefetched. Cost: 2·rows·c·d flop.
///
/// # Panics
/// If the shapes do not match.
pub fn logits(isa: Isa, weight: &Weight, x: &[f32], z: &mut [f32]) {
    let c = weight.bias.len();
    assert!(z.len().is_multiple_of(c), "Z's shape");
    let rows = z.len() / c;
    isa.run(&mut Logits {
        weight,
        x: &x[..rows * weight.features],
        rows,
        z,
    });
}

/// `out += Gᵀ X`; Gᵀ is c x rows, X the first rows of `x`, `out` c x d. The rows of `out` are
/// [`stride`] apart; the values between them are scratch. Cost: 2·rows·c·d flop.
///
/// # Panics
/// If the shapes do not match, or for more than [`ROWS`] rows.
pub fn adjoint(isa: Isa, g: &[f32], x: &[f32], features: usize, out: &mut [f32]) {
    let stride = stride(features);
    assert!(out.len().is_multiple_of(stride), "the gradient's shape");
    let c = out.len() / stride;
    assert!(g.len().is_multiple_of(c), "G's shape");
    let rows = g.len() / c;
    assert!(rows <= ROWS, "{rows} rows of a block");
    isa.run(&mut Adjoint {
        g,
        x: &x[..rows * features],
        rows,
        features,
        out,
        stride,
    });
}

struct Logits<'a> {
    weight: &'a Weight,
    x: &'a [f32],
    rows: usize,
    z: &'a mut [f32],
}

impl Task for Logits<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let c = self.weight.bias.len();
        // The rows of W of these outputs stay in L1 while the rows of X come from L2.
        for first in (0..c).step_by(OUTPUTS) {
            for row in (0..self.rows).step_by(NV * S::LANES / CHAINS) {
                // SAFETY: the caller's promise.
                unsafe {
                    match c - first {
                        1 => self.tile::<S, NV, 1>(row, first),
                        2 => self.tile::<S, NV, 2>(row, first),
                        3 => self.tile::<S, NV, 3>(row, first),
                        4 => self.tile::<S, NV, 4>(row, first),
                        _ => self.tile::<S, NV, OUTPUTS>(row, first),
                    }
                }
            }
        }
    }
}

impl Logits<'_> {
    /// The logits of C outputs from `first` on and of NV · LANES / CHAINS rows from `row` on.
    ///
    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const NV: usize, const C: usize>(&mut self, row: usize, first: usize) {
        const { assert!(CHAINS.is_multiple_of(S::LANES) && NV * S::LANES <= STRIP) };
        const { assert!((NV * S::LANES).is_multiple_of(CHAINS)) };
        let d = self.weight.features;
        let width = d.next_multiple_of(CHAINS);
        let whole = d / CHAINS * CHAINS;
        let weight: &[f32] = bytemuck::cast_slice(&self.weight.values);
        let w: [&[f32]; C] = std::array::from_fn(|j| &weight[(first + j) * width..][..width]);
        let count = NV * S::LANES / CHAINS;
        // Vector v holds chains `part(v)` and following of row v · LANES / CHAINS. Beyond the last
        // row that row is repeated.
        let part = |v: usize| v * S::LANES % CHAINS;
        let rows: [&[f32]; NV] = std::array::from_fn(|v| {
            let row = (row + v * S::LANES / CHAINS).min(self.rows - 1);
            &self.x[row * d..][..d]
        });
        let mut sums = [[0.0f32; STRIP]; C];
        // SAFETY: rows of X have `whole` values, those of W `width`; `ends` has CHAINS values
        // a row; NV vectors are at most STRIP values.
        unsafe {
            let mut vectors = [[S::zero(); NV]; C];
            let x = std::array::from_fn(|v| rows[v].as_ptr().add(part(v)));
            let ahead = if first == 0 { self.rows * d } else { 0 };
            inner::<S, NV, C>(whole, x, w.map(<[f32]>::as_ptr), ahead, &mut vectors);
            if whole < d {
                let mut ends = [[0.0f32; CHAINS]; NV];
                for (end, row) in ends.iter_mut().zip(rows) {
                    end[..d - whole].copy_from_slice(&row[whole..]);
                }
                let x = std::array::from_fn(|v| ends[v].as_ptr().add(part(v)));
                let w = w.map(|w| w[whole..].as_ptr());
                inner::<S, NV, C>(CHAINS, x, w, 0, &mut vectors);
            }
            for (sums, vectors) in sums.iter_mut().zip(vectors) {
                for (v, vector) in vectors.into_iter().enumerate() {
                    S::store(vector, sums.as_mut_ptr().add(v * S::LANES));
                }
            }
        }
        for (j, sums) in sums.iter_mut().enumerate() {
            let z = &mut self.z[(first + j) * self.rows..][..self.rows];
            let bias = self.weight.bias[first + j];
            let chains = sums.chunks_exact_mut(CHAINS).take(count);
            for (z, chains) in z[row..].iter_mut().zip(chains) {
                *z = bias + tree_sum(chains);
            }
        }
    }
}

/// The sum of the chains as a tree: the upper half is added to the lower half until one is left.
#[inline(always)]
fn tree_sum(chains: &mut [f32]) -> f32 {
    let mut half = CHAINS / 2;
    while half > 0 {
        let (low, high) = chains.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    chains[0]
}

/// Add the products of `len` features to the chains of C outputs with NV vectors of X. If `ahead`
/// is not 0, X is prefetched `ahead` values further on.
///
/// # Safety
/// As [`Task::run`]; rows hold `len` values, `len` is a multiple of CHAINS.
#[inline(always)]
unsafe fn inner<S: Simd, const NV: usize, const C: usize>(
    len: usize,
    x: [*const f32; NV],
    w: [*const f32; C],
    ahead: usize,
    sums: &mut [[S::V; NV]; C],
) {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller's promise.
        unsafe {
            let mut vectors = [S::zero(); NV];
            for (vector, x) in vectors.iter_mut().zip(x) {
                *vector = S::load(x.add(at));
                if ahead > 0 {
                    S::prefetch(x.wrapping_add(at + ahead));
                }
            }
            for (sums, w) in sums.iter_mut().zip(w) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let w = S::load(w.add(at + v * S::LANES % CHAINS));
                    *sum = S::fma(vectors[v], w, *sum);
                }
            }
        }
        at += CHAINS;
    }
}

struct Adjoint<'a> {
    g: &'a [f32],
    x: &'a [f32],
    rows: usize,
    features: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl Task for Adjoint<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let strip = NV * S::LANES;
        let whole = self.features / strip * strip;
        // SAFETY: the caller's promise; the columns are those of X, or of a copy with room for
        // whole vectors.
        unsafe {
            for column in (0..whole).step_by(strip) {
                let x = self.x[column..].as_ptr();
                self.strip::<S, NV>(column, x, self.features);
            }
            if whole < self.features {
                let mut ends = [0.0f32; ROWS * STRIP];
                let rows = self.x.chunks_exact(self.features);
                for (end, row) in ends.chunks_exact_mut(strip).zip(rows) {
                    end[..self.features - whole].copy_from_slice(&row[whole..]);
                }
                self.strip::<S, NV>(whole, ends.as_ptr(), strip);
            }
        }
    }
}

impl Adjoint<'_> {
    /// Add the products to one strip of columns; the rows of `x` are `x_stride` values apart.
    ///
    /// # Safety
    /// As [`Task::run`]; `rows` rows of NV vectors can be read from `x` on.
    #[inline(always)]
    unsafe fn strip<S: Simd, const NV: usize>(
        &mut self,
        column: usize,
        x: *const f32,
        x_stride: usize,
    ) {
        let c = self.out.len() / self.stride;
        for first in (0..c).step_by(OUTPUTS) {
            // SAFETY: the caller's promise.
            unsafe {
                match c - first {
                    1 => self.tile::<S, NV, 1>(column, first, x, x_stride),
                    2 => self.tile::<S, NV, 2>(column, first, x, x_stride),
                    3 => self.tile::<S, NV, 3>(column, first, x, x_stride),
                    4 => self.tile::<S, NV, 4>(column, first, x, x_stride),
                    _ => self.tile::<S, NV, OUTPUTS>(column, first, x, x_stride),
                }
            }
        }
    }

    /// Add the products to C outputs of a strip, from output `first` on.
    ///
    /// # Safety
    /// As [`Adjoint::strip`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const NV: usize, const C: usize>(
        &mut self,
        column: usize,
        first: usize,
        mut x: *const f32,
        x_stride: usize,
    ) {
        let g: [*const f32; C] =
            std::array::from_fn(|j| self.g[(first + j) * self.rows..][..self.rows].as_ptr());
        let strip = NV * S::LANES;
        let out: [*mut f32; C] = std::array::from_fn(|j| {
            self.out[(first + j) * self.stride + column..][..strip].as_mut_ptr()
        });
        // SAFETY: the slices of `g` and `out` have the values touched; `x` is the caller's promise.
        unsafe {
            let mut sums = [[S::zero(); NV]; C];
            for (sums, out) in sums.iter_mut().zip(out) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(out.add(v * S::LANES));
                }
            }
            for k in 0..self.rows {
                let mut vectors = [S::zero(); NV];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(x.add(v * S::LANES));
                }
                for (sums, g) in sums.iter_mut().zip(g) {
                    let g = S::splat(*g.add(k));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = S::fma(g, vector, *sum);
                    }
                }
                x = x.wrapping_add(x_stride);
            }
            for (sums, out) in sums.into_iter().zip(out) {
                for (v, sum) in sums.into_iter().enumerate() {
                    S::store(sum, out.add(v * S::LANES));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random_values as values;
    use proptest::prelude::*;

    /// Σ a·b in f64 and the bound of its rounding in f32, where `before` is added.
    fn oracle(products: impl Iterator<Item = (f32, f32)>, before: f32) -> (f64, f64) {
        let before = f64::from(before);
        let (mut sum, mut size, mut count) = (before, before.abs(), 4.0);
        for (a, b) in products {
            let product = f64::from(a) * f64::from(b);
            sum += product;
            size += product.abs();
            count += 1.0;
        }
        (sum, f64::from(f32::EPSILON) * count * size + 1e-30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Every instruction set gives the portable twin's bits, and the twin is within the
        /// bound of rounding of f64. X ends with its last row.
        #[test]
        fn every_instruction_set_equals_the_twin_and_f64(
            c in 1usize..=2 * OUTPUTS + 6,
            rows in prop_oneof![1usize..8, ROWS - 3..=ROWS],
            d in prop_oneof![1usize..40, STRIP - 2..STRIP + 3, 3 * STRIP..3 * STRIP + 20],
            seed in any::<u32>(),
        ) {
            let (w, bias, x) = (values(c * d, seed), values(c, seed ^ 1), values(rows * d, seed ^ 2));
            let (g, stride) = (values(c * rows, seed ^ 3), stride(d));
            let old = values(c * stride, seed ^ 4);
            let mut weight = Weight::default();
            // The values of an earlier weight are not read.
            weight.load(&vec![f32::NAN; c * (d + 5)], d + 5, &bias);
            weight.load(&w, d, &bias);
            let on = |isa| {
                let (mut z, mut out) = (vec![f32::NAN; c * rows], old.clone());
                logits(isa, &weight, &x, &mut z);
                adjoint(isa, &g, &x, d, &mut out);
                let out: Vec<f32> = out.chunks_exact(stride).flat_map(|row| &row[..d]).copied().collect();
                (z, out)
            };
            let (z, out) = on(Isa::PORTABLE);
            for j in 0..c {
                for i in 0..rows {
                    let products = (0..d).map(|k| (w[j * d + k], x[i * d + k]));
                    let (expected, bound) = oracle(products, bias[j]);
                    let found = f64::from(z[j * rows + i]);
                    prop_assert!((found - expected).abs() <= bound, "z {j} {i}: {found} {expected}");
                }
                for k in 0..d {
                    let products = (0..rows).map(|i| (g[j * rows + i], x[i * d + k]));
                    let (expected, bound) = oracle(products, old[j * stride + k]);
                    let found = f64::from(out[j * d + k]);
                    prop_assert!((found - expected).abs() <= bound, "out {j} {k}: {found} {expected}");
                }
            }
            for isa in Isa::available() {
                let (z_here, out_here) = on(isa);
                let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same(&z_here, &z) && same(&out_here, &out), "{isa}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "rows of a block")]
    fn more_rows_than_a_block_are_refused() {
        let x = [0.0; ROWS + 1];
        adjoint(Isa::PORTABLE, &x, &x, 1, &mut vec![0.0; stride(1)]);
    }
}
