//! The softmax of a row of logits: loss and gradient, in place.
//!
//! Sums run in 16 lanes on every instruction set, so that all give the same bits.

use super::Isa;
use super::simd::{Simd, Task};

/// Lanes of a sum: one vector of AVX-512, two of AVX2, four of NEON.
const LANES: usize = 16;
/// Values that are summed in f32 before they are added in f64: eight a lane.
const PARTIAL: usize = 8 * LANES;

/// Smallest x whose exponential is a normal number; below it, [`exp`] is 0.
const LOWEST: f32 = -87.336_54;

/// Each row of `z` (labels.len() x c) with its label: `losses` gets `lse(z) - z[label]`, the
/// row becomes `(softmax(z) - onehot(label)) · scale`.
///
/// # Panics
/// If the lengths do not fit together or a label is not below c.
pub fn rows(isa: Isa, z: &mut [f32], c: usize, labels: &[u32], scale: f32, losses: &mut [f64]) {
    assert!(z.len() == c * labels.len() && losses.len() == labels.len());
    isa.run(&mut Rows {
        z,
        c,
        labels,
        scale,
        losses,
    });
}

struct Rows<'a> {
    z: &'a mut [f32],
    c: usize,
    labels: &'a [u32],
    scale: f32,
    losses: &'a mut [f64],
}

impl Task for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        // A row padded to whole vectors by what adds nothing.
        let mut row = vec![f32::NEG_INFINITY; self.c.next_multiple_of(LANES)];
        let rows = self.z.chunks_exact_mut(self.c).zip(self.labels);
        for ((z, &label), loss) in rows.zip(&mut *self.losses) {
            row[..self.c].copy_from_slice(z);
            row[self.c..].fill(f32::NEG_INFINITY);
            let label = label as usize;
            let target = z[label];
            // SAFETY: the instruction set is the caller's promise; `row` is whole vectors.
            let max = unsafe { max::<S>(&row) };
            // SAFETY: as above.
            unsafe { subtract_exp::<S>(&mut row, max) };
            // The label's own term is added last: near a perfect fit it is 1 and the others
            // are tiny, and both the loss ln(1 + others) and the gradient -others/total keep
            // them.
            let target_exp = std::mem::take(&mut row[label]);
            // SAFETY: as above.
            let others = unsafe { sum::<S>(&row) };
            let total = others + f64::from(target_exp);
            let factor = self.scale / total as f32;
            for (z, e) in z.iter_mut().zip(&row) {
                *z = e * factor;
            }
            z[label] = -((others / total) as f32) * self.scale;
            // max - target in f64: it may exceed the range of f32.
            let distance = f64::from(max) - f64::from(target);
            *loss = match distance == 0.0 {
                true => others.ln_1p(),
                false => distance + total.ln(),
            };
        }
    }
}

/// The largest value; NaN is dropped (the exponentials bring it back).
///
/// # Safety
/// As [`Task::run`]; whole vectors.
#[inline(always)]
unsafe fn max<S: Simd>(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    // SAFETY: the caller's promise; `lanes` is whole vectors.
    unsafe {
        for block in row.chunks_exact(LANES) {
            for i in (0..LANES).step_by(S::LANES) {
                let (old, new) = (
                    S::load(lanes.as_ptr().add(i)),
                    S::load(block.as_ptr().add(i)),
                );
                S::store(S::max(new, old), lanes.as_mut_ptr().add(i));
            }
        }
    }
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max })
}

/// `row = exp(row - max)`.
///
/// # Safety
/// As [`max`].
#[inline(always)]
unsafe fn subtract_exp<S: Simd>(row: &mut [f32], max: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let max = S::splat(max);
        for block in row.chunks_exact_mut(S::LANES) {
            let x = S::sub(S::load(block.as_ptr()), max);
            S::store(exp::<S>(x), block.as_mut_ptr());
        }
    }
}

/// The sum, in f32 over [`PARTIAL`] values, in f64 over those.
///
/// # Safety
/// As [`max`].
#[inline(always)]
unsafe fn sum<S: Simd>(row: &[f32]) -> f64 {
    let mut total = 0.0;
    for part in row.chunks(PARTIAL) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller's promise; `lanes` is whole vectors.
        unsafe {
            for i in (0..LANES).step_by(S::LANES) {
                let mut sum = S::zero();
                for block in part.chunks_exact(LANES) {
                    sum = S::add(sum, S::load(block.as_ptr().add(i)));
                }
                S::store(sum, lanes.as_mut_ptr().add(i));
            }
        }
        // Neighbours first: a tree of additions that do not wait for each other.
        let mut lanes = lanes.map(f64::from);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        total += lanes[0];
    }
    total
}

/// eˣ for x <= 0 (and a little above): within 1 ULP where it is a normal number, 0 below;
/// NaN stays NaN.
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
        let value = S::zero_below(S::raise(p, bits), x, lowest);
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
            // SAFETY: the caller's promise; the tests give whole vectors.
            unsafe { subtract_exp::<S>(self.0, 0.0) };
        }
    }

    /// Distance in units of the last place of the exact value.
    fn ulps(found: f32, exact: f64) -> f64 {
        let exponent = exact.log2().floor().max(-126.0);
        (f64::from(found) - exact).abs() / (exponent - 23.0).exp2()
    }

    #[test]
    fn the_comparator_counts_units_in_the_last_place() {
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
            values.resize(xs.len().next_multiple_of(LANES), 0.0);
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
    fn exp_of_what_is_special() {
        for isa in Isa::available() {
            let nans = [0x7F80_0001, 0x7FC0_0001, 0xFFFF_FFFF, 0xFFC0_0000].map(f32::from_bits);
            let mut values = [f32::NEG_INFINITY; LANES];
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
            count in 1usize..5, c in prop_oneof![2usize..40, 100usize..300], size in 0.1f32..60.0, seed in any::<u32>(),
        ) {
            let mut rng = rand_mt::Mt::new(seed);
            let mut value = || ((rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0) * size;
            let z: Vec<f32> = (0..count * c).map(|_| value()).collect();
            let labels: Vec<u32> = (0..count as u32).map(|i| (i * 7) % c as u32).collect();
            let on = |isa| {
                let (mut z, mut losses) = (z.clone(), vec![0.0; count]);
                rows(isa, &mut z, c, &labels, 0.25, &mut losses);
                (z.iter().map(|z| z.to_bits()).collect::<Vec<_>>(), losses)
            };
            let twin = on(Isa::PORTABLE);
            for isa in Isa::available() {
                prop_assert_eq!(&on(isa), &twin, "{}", isa);
            }
        }
    }
}
