//! Floats as multiples of a power of two, in 64-bit integers.
//!
//! A sum S of addends a, for which |a₁| + |a₂| + ... < 2^e is known, is computed as
//!
//! ```text
//! S = 2^(e - 61) · Σ round(a · 2^(61 - e))
//! ```
//!
//! Each addend is rounded once, by at most 2^(e - 62); the integers, below 2^61 in all but for
//! their rounding, are added exactly. Fewer than 2^61 addends cannot overflow.

/// Bits of a sum.
const BITS: i32 = 61;
/// The least exponent of a bound: smaller bounds, 0 among them, are as good.
const LEAST: i32 = -400;

/// The least e with `bound` < 2^e; at least -400. The bound must be finite and not negative.
pub fn exponent(bound: f64) -> i32 {
    let (mut e, mut power) = (LEAST, 2f64.powi(LEAST));
    if bound >= power {
        // The exponent of a normal number is in its bits.
        e = ((bound.to_bits() >> 52) as i32 & 0x7ff) - 1022;
        power = 2f64.powi(e);
    }
    debug_assert!(bound < power || !bound.is_finite());
    e
}

/// Multiples of 2^(e - 61).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fixed {
    up: f64,
    down: f64,
}

impl Fixed {
    /// For addends whose absolute values add up to less than 2^`exponent`.
    pub fn new(exponent: i32) -> Fixed {
        Fixed {
            up: 2f64.powi(BITS - exponent),
            down: 2f64.powi(exponent - BITS),
        }
    }

    /// `value` as the nearest multiple. A value that is not finite becomes 0 or the largest one.
    #[inline(always)]
    pub fn multiple(self, value: f64) -> i64 {
        (value * self.up).round_ties_even() as i64
    }

    /// The value of a multiple, rounded to f64.
    #[inline(always)]
    pub fn value(self, multiple: i64) -> f64 {
        multiple as f64 * self.down
    }
}

/// [`Fixed`] of the elements of a matrix whose bounds are products: 2 to the power of the row's exponent
/// plus the column's.
#[derive(Clone, Debug)]
pub struct Units {
    up: (Vec<f64>, Vec<f64>),
    down: (Vec<f64>, Vec<f64>),
}

impl Units {
    /// The units for these exponents of rows and columns.
    pub fn new(rows: Vec<i32>, columns: impl Iterator<Item = i32>) -> Units {
        let columns: Vec<i32> = columns.collect();
        let powers = |exponents: &[i32], sign: i32, add: i32| -> Vec<f64> {
            let power = |e: &i32| 2f64.powi(sign * e + add);
            exponents.iter().map(power).collect()
        };
        Units {
            up: (powers(&rows, -1, BITS), powers(&columns, -1, 0)),
            down: (powers(&rows, 1, -BITS), powers(&columns, 1, 0)),
        }
    }

    /// Adds the multiples of the values of row `i` from column `first` on to `sums`. Returns whether they
    /// are finite.
    #[inline(always)]
    pub fn add<T: Copy + Into<f64>>(
        &self,
        i: usize,
        first: usize,
        values: &[T],
        sums: &mut [i64],
    ) -> bool {
        let up = self.up.0[i];
        let mut finite = true;
        let columns = self.up.1[first..].iter();
        for ((sum, &value), &of_column) in sums.iter_mut().zip(values).zip(columns) {
            let value: f64 = value.into();
            finite &= value.is_finite();
            let multiple = (value * up * of_column).round_ties_even();
            *sum = sum.wrapping_add(multiple as i64);
        }
        finite
    }

    /// The value of a multiple in row `i` and column `j`, rounded to f64.
    #[inline(always)]
    pub fn value(&self, i: usize, j: usize, multiple: i64) -> f64 {
        multiple as f64 * self.down.0[i] * self.down.1[j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exponents_are_the_least_above_their_bounds() {
        for (bound, expected) in [
            (0.0, LEAST),
            (1e-300, LEAST),
            (0.5, 0),
            (0.99, 0),
            (1.0, 1),
            (1.5, 1),
            (1e30, 100),
            (2f64.powi(1000), 1001),
        ] {
            assert_eq!(exponent(bound), expected, "{bound}");
        }
    }

    proptest! {
        /// Any order of the addends gives the same bits, within the rounding of each addend.
        #[test]
        fn sums_are_exact_up_to_the_rounding_of_addends(
            values in prop::collection::vec((-1.0f64..1.0, -60i32..60), 1..200),
            turn in 0usize..200,
        ) {
            let mut values: Vec<f64> = values.iter().map(|(m, e)| m * 2f64.powi(*e)).collect();
            let bound: f64 = values.iter().map(|value| value.abs()).sum::<f64>() * 1.001;
            let fixed = Fixed::new(exponent(bound));
            let sum = |values: &[f64]| -> i64 { values.iter().map(|&v| fixed.multiple(v)).sum() };
            let found = sum(&values);
            let turn = turn % values.len();
            values.rotate_left(turn);
            prop_assert_eq!(found, sum(&values));
            values.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
            let exact: f64 = values.iter().sum();
            let unit = 2f64.powi(exponent(bound) - BITS);
            let off = (fixed.value(found) - exact).abs();
            let allowed = unit * values.len() as f64 + bound * f64::EPSILON * values.len() as f64;
            prop_assert!(off <= allowed, "{} {}", off, allowed);
        }
    }
}
