//! Softmax cross-entropy of logits: the losses `lse(z) - z[label]` and their gradients.
//!
//! Logits are stored transposed, Zᵀ (c x n). Vectors run over samples, so that sums over classes
//! need no horizontal step and all instruction sets give the same bits.

use std::cell::Cell;

use rayon::prelude::*;

use crate::kernels::Isa;
use crate::kernels::columns::{self, Columns, WIDTH};
use crate::kernels::simd::{Simd, Task};
use crate::threads::{Share, Work};

/// Classes that are summed in f32 before they are added in f64.
const PARTIAL: usize = 8;

/// Smallest x whose exponential is a normal number; [`exp`] is 0 below it.
const LOWEST: f32 = -87.336_54;

/// Loss and gradient of each column of `z` (c x n, row-major; n = `labels.len()`): `losses` (n)
/// gets `lse(z) - z[label]` and `g` (c x n), if given, `(softmax(z) - onehot(label)) · scale`.
/// Runs on the current rayon pool. Cost: nc exponentials.
///
/// # Panics
/// If the lengths do not match or a label is not below c.
pub fn columns(
    isa: Isa,
    z: &[f32],
    labels: &[u32],
    scale: f32,
    losses: &mut [f64],
    g: Option<&mut [f32]>,
) {
    let n = labels.len();
    assert!(n > 0 && z.len().is_multiple_of(n) && losses.len() == n);
    assert!(g.as_ref().is_none_or(|g| g.len() == z.len()));
    let block = |first: usize, losses: &mut [f64], g: Option<Columns>| {
        let mut exps = EXPS.take();
        exps.resize(z.len() / n * WIDTH, 0.0);
        isa.run(&mut Block {
            z: &z[first..],
            n,
            labels: &labels[first..first + losses.len()],
            scale,
            losses,
            g,
            exps: &mut exps,
        });
        EXPS.set(exps);
    };
    let work = Work::exponentials(z.len());
    let losses = losses.par_chunks_mut(WIDTH);
    match g {
        Some(g) => columns::blocks(g, n)
            .zip(losses)
            .share(work)
            .for_each(|(g, losses)| block(g.range().start, losses, Some(g))),
        None => losses
            .share(work)
            .enumerate()
            .for_each(|(i, losses)| block(i * WIDTH, losses, None)),
    }
}

thread_local! {
    /// A thread's buffer of exponentials, kept between tasks.
    static EXPS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

struct Block<'a> {
    /// Logits from the block's first column on; the distance from row to row is `n`.
    z: &'a [f32],
    n: usize,
    labels: &'a [u32],
    scale: f32,
    losses: &'a mut [f64],
    g: Option<Columns<'a>>,
    /// A buffer of c rows of WIDTH values.
    exps: &'a mut [f32],
}

impl Task for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        let width = self.labels.len();
        assert!(width <= WIDTH);
        for (j, exps) in self.exps.chunks_exact_mut(WIDTH).enumerate() {
            exps[..width].copy_from_slice(&self.z[j * self.n..][..width]);
            exps[width..].fill(0.0);
        }
        // The label's own term is added last: near a perfect fit it is 1 and the others are
        // tiny, and both the loss ln(1 + others) and the gradient -others/total keep their digits.
        // Where another class has the largest logit, the loss is distance + ln(1 + rest). Label
        // smoothing may cancel the distance, so the rest is summed without the 1.
        let mut targets = [0.0; WIDTH];
        let label = |i: usize| self.labels[i] as usize * WIDTH + i;
        for (i, target) in targets.iter_mut().enumerate().take(width) {
            *target = self.exps[label(i)];
        }
        let mut max = [f32::NEG_INFINITY; WIDTH];
        // SAFETY: the caller promises the instruction set; `exps` holds whole vectors.
        unsafe { subtract_max_exp::<S>(self.exps, &mut max) };
        let mut target_exps = [0.0; WIDTH];
        for (i, target_exp) in target_exps.iter_mut().enumerate().take(width) {
            *target_exp = std::mem::take(&mut self.exps[label(i)]);
        }
        let mut others = [0.0; WIDTH];
        // SAFETY: the caller promises the instruction set.
        unsafe { sums::<S>(self.exps, &mut others) };
        let (mut factors, mut of_labels) = ([0.0; WIDTH], [0.0; WIDTH]);
        for i in 0..width {
            let others = others[i];
            let total = others + f64::from(target_exps[i]);
            factors[i] = self.scale / total as f32;
            of_labels[i] = -((others / total) as f32) * self.scale;
            // max - target in f64: it may exceed the range of f32.
            let distance = f64::from(max[i]) - f64::from(targets[i]);
            self.losses[i] = if distance == 0.0 {
                others.ln_1p()
            } else if total < 2.0 {
                let rest = self.exps[i..].iter().step_by(WIDTH);
                let rest = rest.filter(|exp| **exp < 1.0).map(|&exp| f64::from(exp));
                distance + (rest.sum::<f64>() + f64::from(target_exps[i])).ln_1p()
            } else {
                distance + total.ln()
            };
        }
        let Some(g) = &mut self.g else { return };
        // SAFETY: the caller promises the instruction set.
        unsafe { scale::<S>(self.exps, &factors) };
        for (i, &value) in of_labels.iter().enumerate().take(width) {
            self.exps[label(i)] = value;
        }
        for (j, exps) in self.exps.chunks_exact(WIDTH).enumerate() {
            g.row(j).copy_from_slice(&exps[..width]);
        }
    }
}

/// Sets `max` to the largest value of each column, and `values` (rows of WIDTH) to
/// `exp(values - max)`. A NaN does not enter the maximum; its exponential is NaN.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn subtract_max_exp<S: Simd>(values: &mut [f32], max: &mut [f32; WIDTH]) {
    for first in (0..WIDTH).step_by(S::LANES) {
        // SAFETY: the caller's promise; LANES divides WIDTH.
        unsafe {
            let max = max.as_mut_ptr().add(first);
            let mut largest = S::load(max);
            for row in values.chunks_exact(WIDTH) {
                largest = S::max(S::load(row.as_ptr().add(first)), largest);
            }
            S::store(largest, max);
            for row in values.chunks_exact_mut(WIDTH) {
                let value = row.as_mut_ptr().add(first);
                S::store(exp::<S>(S::sub(S::load(value), largest)), value);
            }
        }
    }
}

/// Adds up each column: in f32 over [`PARTIAL`] values, in f64 over these partial sums.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn sums<S: Simd>(values: &[f32], sums: &mut [f64; WIDTH]) {
    for rows in values.chunks(PARTIAL * WIDTH) {
        let mut partial = [0.0f32; WIDTH];
        for first in (0..WIDTH).step_by(S::LANES) {
            // SAFETY: the caller's promise; LANES divides WIDTH.
            unsafe {
                let mut sum = S::zero();
                for row in rows.chunks_exact(WIDTH) {
                    sum = S::add(sum, S::load(row.as_ptr().add(first)));
                }
                S::store(sum, partial.as_mut_ptr().add(first));
            }
        }
        for (sum, partial) in sums.iter_mut().zip(partial) {
            *sum += f64::from(partial);
        }
    }
}

/// Multiplies each column by its factor.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn scale<S: Simd>(values: &mut [f32], factors: &[f32; WIDTH]) {
    for row in values.chunks_exact_mut(WIDTH) {
        for first in (0..WIDTH).step_by(S::LANES) {
            // SAFETY: the caller's promise; LANES divides WIDTH.
            unsafe {
                let value = row.as_mut_ptr().add(first);
                let product = S::mul(S::load(value), S::load(factors.as_ptr().add(first)));
                S::store(product, value);
            }
        }
    }
}

/// eˣ for x <= 0 (and slightly above 0): within 1 ULP where the result is a normal number, 0 where
/// it would be subnormal, NaN for NaN.
///
/// x = t·ln 2 + r with |r| <= (ln 2)/2, eˣ = 2ᵗ eʳ, eʳ by its Taylor polynomial of degree 7
/// (relative error 5e-9). ln 2 is in two parts (Cody and Waite 1980): t times the first is
/// exact.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    /// 1.5·2²³: adding it rounds to a whole number, held in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const TAYLOR: [f32; 8] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let lowest = S::splat(LOWEST);
        let clamped = S::max(lowest, x);
        let round = S::splat(ROUND);
        let bits = S::fma(clamped, S::splat(std::f32::consts::LOG2_E), round);
        let t = S::sub(bits, round);
        let r = S::fma(t, S::splat(-LN2_HIGH), clamped);
        let r = S::fma(t, S::splat(-LN2_LOW), r);
        let mut p = S::splat(TAYLOR[7]);
        for &coefficient in TAYLOR[..7].iter().rev() {
            p = S::fma(p, r, S::splat(coefficient));
        }
        let value = S::zero_below(S::ldexp(p, bits), x, lowest);
        // 0, unless x is NaN, whose bits the exponent may have changed.
        S::add(value, S::sub(clamped, clamped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Exp<'a>(&'a mut [f32]);

    impl Task for Exp<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd, const NV: usize>(&mut self) {
            for block in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: the caller's promise; the tests give whole vectors.
                unsafe { S::store(exp::<S>(S::load(block.as_ptr())), block.as_mut_ptr()) };
            }
        }
    }

    /// Distance of `found` from `exact` in units in the last place.
    fn ulps(found: f32, exact: f64) -> f64 {
        let exponent = exact.log2().floor().max(-126.0);
        (f64::from(found) - exact).abs() / (exponent - 23.0).exp2()
    }

    #[test]
    fn ulps_counts_units_in_the_last_place() {
        assert_eq!(ulps(1.0, 1.0), 0.0);
        assert_eq!(ulps(1.0 + f32::EPSILON, 1.0), 1.0);
        assert_eq!(ulps(0.5, 0.5 + 0.5 * f64::from(f32::EPSILON)), 1.0);
        assert!(ulps(f32::NAN, 1.0).is_nan());
    }

    /// Every 64th f32 from -110 to 0.
    #[test]
    fn exp_is_within_one_unit_in_the_last_place() {
        let last = (-110.0f32).to_bits();
        let first = (-0.0f32).to_bits();
        let mut worst = 0.0;
        let xs: Vec<f32> = (first..=last).step_by(64).map(f32::from_bits).collect();
        let mut of_portable: Option<Vec<u32>> = None;
        for isa in Isa::available().into_iter().rev() {
            let mut values = xs.clone();
            values.resize(xs.len().next_multiple_of(WIDTH), 0.0);
            isa.run(&mut Exp(&mut values));
            for (&x, &value) in xs.iter().zip(&values) {
                if x < LOWEST {
                    assert_eq!(value, 0.0, "{isa}: {x}");
                    continue;
                }
                let distance = ulps(value, f64::from(x).exp());
                assert!(distance <= 1.0, "{isa}: exp({x}) = {value}, {distance} ULP");
                worst = f64::max(worst, distance);
            }
            let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
            let portable = of_portable.get_or_insert_with(|| bits.clone());
            assert!(bits == *portable, "{isa}");
        }
        println!("exp: {worst:.3} ULP");
    }

    #[test]
    fn exp_of_nan_zero_and_infinity() {
        for isa in Isa::available() {
            let nans = [0x7F80_0001, 0x7FC0_0001, 0xFFFF_FFFF, 0xFFC0_0000].map(f32::from_bits);
            let mut values = [f32::NEG_INFINITY; WIDTH];
            values[..4].copy_from_slice(&nans);
            values[4] = 0.0;
            values[5] = -f32::MAX;
            isa.run(&mut Exp(&mut values));
            assert!(values[..4].iter().all(|v| v.is_nan()), "{isa}: {values:?}");
            assert_eq!(values[4], 1.0);
            assert!(values[5..].iter().all(|&v| v == 0.0), "{isa}: {values:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_instruction_set_gives_the_same_bits(
            count in prop_oneof![1usize..5, WIDTH - 2..WIDTH + 3, 3 * WIDTH..3 * WIDTH + 20],
            c in prop_oneof![2usize..40, 100usize..300], size in 0.1f32..60.0, seed in any::<u32>(),
        ) {
            let mut rng = rand_mt::Mt::new(seed);
            let mut value = || ((rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0) * size;
            let z: Vec<f32> = (0..count * c).map(|_| value()).collect();
            let labels: Vec<u32> = (0..count as u32).map(|i| (i * 7) % c as u32).collect();
            let on = |isa| {
                let (mut g, mut losses) = (vec![f32::NAN; z.len()], vec![0.0; count]);
                columns(isa, &z, &labels, 0.25, &mut losses, Some(&mut g));
                let mut losses_alone = vec![0.0; count];
                columns(isa, &z, &labels, 0.25, &mut losses_alone, None);
                assert_eq!(losses, losses_alone);
                (g.iter().map(|g| g.to_bits()).collect::<Vec<_>>(), losses)
            };
            let twin = on(Isa::PORTABLE);
            for isa in Isa::available() {
                prop_assert_eq!(&on(isa), &twin, "{}", isa);
            }
        }
    }
}
