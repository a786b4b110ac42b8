//! Precision that columns of numbers lose by rounding to f32, and the shift that prevents it.
//!
//! f32 has a relative precision of 6e-8. For Unix times, about 1.7e9, that is 128 seconds: the 3600
//! seconds of an hour become 29 values. A column *loses digits* if the root mean square of
//! `x - f32(x)` exceeds 1e-4 of its standard deviation. Subtracting a number near the mean first, in
//! f64, keeps the digits, unless the standard deviation is below 1e-41: near 0 the spacing of f32 is
//! 1.4e-45. A column whose values are all equal in f64 loses nothing; only such a column is constant.
//!
//! Columns of another split lose digits if the rounding exceeds 1e-4 of the larger of the two splits'
//! standard deviations.

use std::path::Path;

use crate::error::Error;

/// Limit on the rounding, as a share of the standard deviation.
const MAX_ROUNDING: f64 = 1e-4;
/// Limit on the standard deviation, below which no shift helps.
const MIN_DEVIATION: f64 = 1e-41;

/// Mean, standard deviation and rounding of columns, from one pass over their values. Each field of
/// [`Column`] is an array over the columns, so that the update is vectorized.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    values: Vec<f64>,
    first: Vec<f64>,
    sum: Vec<f64>,
    squares: Vec<f64>,
    spread: Vec<f64>,
    rounding: Vec<f64>,
    /// The number that is subtracted from each value first, by column; empty for none.
    shift: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    values: f64,
    /// The first value; `sum` and `squares` are of the differences from it.
    first: f64,
    sum: f64,
    squares: f64,
    /// Largest difference from the first: 0 if and only if all values are equal.
    spread: f64,
    /// Sum of (x - f32(x))².
    rounding: f64,
}

impl Column {
    fn mean(&self) -> f64 {
        self.first + self.sum / self.values
    }

    fn deviation(&self) -> f64 {
        // The squares of smaller differences underflow in f64.
        if self.spread < 1e-150 {
            return self.spread;
        }
        let mean = self.sum / self.values;
        (self.squares / self.values - mean * mean).max(0.0).sqrt()
    }

    fn rounding(&self) -> f64 {
        (self.rounding / self.values).sqrt()
    }

    fn loses_digits(&self) -> bool {
        let deviation = self.deviation();
        let is_lost = self.rounding() > MAX_ROUNDING * deviation || deviation < MIN_DEVIATION;
        self.spread > 0.0 && is_lost
    }

    /// Whether these values, of another split than `train`, lose digits.
    fn loses_digits_with(&self, train: &Column) -> bool {
        let deviation = train.deviation().max(self.deviation());
        let is_known = train.values > 0.0 && self.values > 0.0;
        is_known && deviation > 0.0 && self.rounding() > MAX_ROUNDING * deviation
    }

    /// Whether digits are lost whatever the shift.
    fn is_too_small(&self) -> bool {
        self.loses_digits() && self.deviation() < MIN_DEVIATION
    }

    /// The mean, rounded to a multiple of a power of ten below the deviation, so that whole numbers
    /// stay whole if their deviation is above 1.
    fn shift(&self) -> f64 {
        let (mean, power) = (self.mean(), self.deviation().log10().floor() as i32);
        let step = 10f64.powi(power.abs());
        let short = if power >= 0 {
            (mean / step).round() * step
        } else {
            (mean * step).round() / step
        };
        if short.is_finite() { short } else { mean }
    }
}

impl Columns {
    /// Statistics of `columns` columns without values.
    pub fn new(columns: usize) -> Columns {
        Columns::shifted(columns, None)
    }

    /// [`Columns::new`] for values from which `shift` is subtracted.
    pub fn shifted(columns: usize, shift: Option<&[f64]>) -> Columns {
        let zeros = || vec![0.0; columns];
        Columns {
            values: zeros(),
            first: zeros(),
            sum: zeros(),
            squares: zeros(),
            spread: zeros(),
            rounding: zeros(),
            shift: shift.unwrap_or_default().to_vec(),
        }
    }

    fn column(&self, j: usize) -> Column {
        Column {
            values: self.values[j],
            first: self.first[j],
            sum: self.sum[j],
            squares: self.squares[j],
            spread: self.spread[j],
            rounding: self.rounding[j],
        }
    }

    fn iter(&self) -> impl Iterator<Item = Column> {
        (0..self.values.len()).map(|j| self.column(j))
    }

    /// Add a value of a column.
    #[cfg(any(test, feature = "formats"))]
    pub fn observe(&mut self, column: usize, value: f64) {
        self.observe_from(column, &[value]);
    }

    /// Add a value of each column.
    pub fn observe_row(&mut self, values: &[f64]) {
        self.observe_from(0, values);
    }

    /// Add a value of each column from `start`.
    #[inline]
    fn observe_from(&mut self, start: usize, values: &[f64]) {
        let range = start..start + values.len();
        // Slices of equal length, so that the loop has no bounds checks.
        let (count, first) = (
            &mut self.values[range.clone()],
            &mut self.first[range.clone()],
        );
        let (sum, squares) = (
            &mut self.sum[range.clone()],
            &mut self.squares[range.clone()],
        );
        let spread = &mut self.spread[range.clone()];
        let rounding = &mut self.rounding[range.clone()];
        let mut take = |j: usize, value: f64| {
            first[j] = if count[j] == 0.0 { value } else { first[j] };
            count[j] += 1.0;
            let apart = value - first[j];
            sum[j] += apart;
            squares[j] += apart * apart;
            spread[j] = if apart.abs() > spread[j] {
                apart.abs()
            } else {
                spread[j]
            };
            let lost = value - f64::from(value as f32);
            rounding[j] += lost * lost;
        };
        if self.shift.is_empty() {
            for (j, &value) in values.iter().enumerate() {
                take(j, value);
            }
        } else {
            let values = values.iter().zip(&self.shift[range]);
            for (j, (value, shift)) in values.enumerate() {
                take(j, value - shift);
            }
        }
    }

    /// Reset a column to no values; it then loses nothing.
    #[cfg(feature = "formats")]
    pub fn reset(&mut self, column: usize) {
        self.values[column] = 0.0;
        self.first[column] = 0.0;
        self.sum[column] = 0.0;
        self.squares[column] = 0.0;
        self.spread[column] = 0.0;
        self.rounding[column] = 0.0;
    }

    /// The shift of each column, 0 for those that lose no digits; `None` if none does.
    fn shift(&self) -> Option<Vec<f64>> {
        let shift = |column: Column| {
            if column.loses_digits() {
                column.shift()
            } else {
                0.0
            }
        };
        let any = self.iter().any(|column| column.loses_digits());
        any.then(|| self.iter().map(shift).collect())
    }

    /// The shift of each column, if `center`.
    ///
    /// # Errors
    /// [`Error::Format`] for a column that loses digits without `center`, or with any shift; `name`
    /// names a column in messages.
    pub fn shift_or_refuse(
        &self,
        center: bool,
        path: &Path,
        name: impl Fn(usize) -> String,
    ) -> Result<Option<Vec<f64>>, Error> {
        if !center {
            return self.refuse_loss(path, name).map(|()| None);
        }
        self.refuse(Column::is_too_small, path, name)?;
        Ok(self.shift())
    }

    /// Refuse columns that lose digits; `name` names a column in messages.
    fn refuse_loss(&self, path: &Path, name: impl Fn(usize) -> String) -> Result<(), Error> {
        self.refuse(Column::loses_digits, path, name)
    }

    /// Refuse columns of another split, [shifted](Columns::shifted) like these, that lose digits;
    /// `path` and `name` are of the other split.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn refuse_other_split(
        &self,
        other: &Columns,
        path: &Path,
        name: impl Fn(usize) -> String,
    ) -> Result<(), Error> {
        let pair = |j: usize| (self.column(j), other.column(j));
        let is_refused = |j: usize| pair(j).1.loses_digits_with(&pair(j).0);
        let Some((first, others)) = first_of(self.values.len(), is_refused) else {
            return Ok(());
        };
        let (train, column) = pair(first);
        let shift = other.shift.get(first).unwrap_or(&0.0);
        let found = format!(
            "values about {} of standard deviation {:.3e}, which f32 rounds by {:.1e}{others}",
            column.mean() + shift,
            column.deviation(),
            column.rounding(),
        );
        // The mean before the shift is subtracted.
        let mean = match shift {
            0.0 => train.mean(),
            shift => *shift,
        };
        let expected = format!(
            "values near the fitted ones (about {mean} of standard deviation {:.3e}), whose \
             differences f32 keeps: correct the column, or remove it from all tables",
            train.deviation(),
        );
        Err(Error::format(path, name(first), found, expected))
    }

    fn refuse(
        &self,
        is_refused: impl Fn(&Column) -> bool,
        path: &Path,
        name: impl Fn(usize) -> String,
    ) -> Result<(), Error> {
        let is_refused = |j: usize| is_refused(&self.column(j));
        let Some((first, others)) = first_of(self.values.len(), is_refused) else {
            return Ok(());
        };
        let column = self.column(first);
        if column.is_too_small() {
            let found = format!("differences of about {:.1e}{others}", column.deviation());
            let expected =
                "differences that f32 can hold, above 1e-41; multiply the column by a power of ten";
            return Err(Error::format(path, name(first), found, expected));
        }
        let found = format!(
            "values about {} of standard deviation {:.3e}, which f32 rounds by {:.1e}{others}",
            column.shift(),
            column.deviation(),
            column.rounding(),
        );
        let expected = "differences that f32 keeps: `center` subtracts a number near the mean of such columns and stores it with the data and the model; or round them to f32 yourself (numpy's astype('f4'))";
        Err(Error::format(path, name(first), found, expected))
    }
}

/// The first refused column, and the number of the others in words.
fn first_of(columns: usize, is_refused: impl Fn(usize) -> bool) -> Option<(usize, String)> {
    let mut refused = (0..columns).filter(|&j| is_refused(j));
    let first = refused.next()?;
    let others = match refused.count() {
        0 => String::new(),
        1 => ", also in 1 other column".to_string(),
        others => format!(", also in {others} other columns"),
    };
    Some((first, others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Columns {
        let mut columns = Columns::new(1);
        values.into_iter().for_each(|x| columns.observe(0, x));
        columns
    }

    #[test]
    fn only_columns_that_lose_digits_are_shifted() {
        let hour = of((0..3600).map(|s| 1.7e9 + f64::from(s)));
        assert_eq!(hour.shift(), Some(vec![1_700_002_000.0]));
        let error = hour
            .refuse_loss("x.npy".as_ref(), |j| format!("column {j}"))
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("x.npy: column 0: found values about 1700002000 of"),
            "{message}"
        );
        assert!(message.contains("`center`"), "{message}");
        for kept in [
            // Ten years of days; years; pixels; a constant.
            of((0..3650).map(|day| 1.4e9 + 86_400.0 * f64::from(day))),
            of((0..30).map(|year| 1990.0 + f64::from(year))),
            of((0..256).map(|pixel| f64::from(pixel) / 255.0)),
            of([0.1; 10]),
            of([]),
            // Constants, and a small difference that f32 keeps.
            of([1e-50; 4]),
            of([1e-200; 4]),
            of([0.0, 1e-38, 2e-38]),
        ] {
            assert_eq!(kept.shift(), None);
            kept.refuse_loss("x.npy".as_ref(), |j| j.to_string())
                .unwrap();
        }
    }

    /// A column is constant only if its values are equal in f64.
    #[test]
    fn a_column_with_a_tiny_relative_spread_is_shifted() {
        for (first, step) in [
            (9e14, 1.0),
            (3e14, 1.0),
            (1e12, 1e-3),
            (1.7e9, 1e-5),
            (0.1, 1e-16),
        ] {
            let values: Vec<f64> = (0..8).map(|k| first + step * f64::from(k)).collect();
            for values in [values.clone(), values.into_iter().rev().collect()] {
                let columns = of(values.iter().copied());
                let shift = columns.shift().expect("f32 holds one of them");
                let kept: std::collections::BTreeSet<u32> = (values.iter())
                    .map(|value| ((value - shift[0]) as f32).to_bits())
                    .collect();
                assert_eq!(kept.len(), 8, "{first} {step}");
                columns
                    .refuse_loss("x".as_ref(), |j| j.to_string())
                    .unwrap_err();
            }
        }
    }

    /// Columns of another split may lose digits where those of the first do not.
    #[test]
    fn rounding_of_another_split_is_compared_with_the_larger_deviation() {
        let times = || (0..100).map(|s| 1.7e9 + f64::from(s));
        let path = Path::new("v.csv");
        let compare = |train: Columns, other: &[f64], shift: Option<&[f64]>| {
            let mut columns = Columns::shifted(1, shift);
            other.iter().for_each(|&x| columns.observe(0, x));
            train.refuse_other_split(&columns, path, |j| format!("column {j}"))
        };
        let far: Vec<f64> = times().collect();
        let error = compare(of([1.0, 2.0]), &far, None).unwrap_err().to_string();
        assert!(
            error.contains("v.csv: column 0: found values about 17000000"),
            "{error}"
        );
        assert!(
            error.contains("(about 1.5 of standard deviation 5.000e-1)"),
            "{error}"
        );
        // Also a single far value, whose deviation is 0.
        assert!(compare(of([1.0, 2.0]), &far[3..4], None).is_err());
        let train = of(times());
        let shift = train.shift();
        assert!(compare(train.clone(), &far, shift.as_deref()).is_ok());
        let error = compare(train, &[1.3, 2.3], shift.as_deref()).unwrap_err();
        assert!(error.to_string().contains("about 1.79999"), "{error}");
        for (train, other) in [
            // A small rounding relative to its own deviation; a constant in both, or in one.
            (of([1.0, 2.0]), [1.0, 1e6 + 0.1]),
            (of([0.1, 0.1]), [0.1, 0.1]),
            (of([0.1, 0.1]), [0.3, 0.7]),
            (of([1.0, 2.0]), [0.1, 0.1]),
        ] {
            assert!(compare(train, &other, None).is_ok(), "{other:?}");
        }
        assert!(compare(of([]), &far, None).is_ok());
    }

    /// A shift does not help if differences are below the smallest f32.
    #[test]
    fn differences_below_f32_are_refused_with_and_without_a_shift() {
        let hour = of((0..3600).map(|s| 1.7e9 + f64::from(s)));
        let path = Path::new("x.npy");
        let name = |j: usize| format!("column {j}");
        assert_eq!(
            hour.shift_or_refuse(true, path, name).unwrap(),
            hour.shift()
        );
        assert!(hour.shift_or_refuse(false, path, name).is_err());
        for tiny in [1e-50, 1e-45, 1e-200, 1e-310] {
            let columns = of([tiny, 2.0 * tiny, tiny, 3.0 * tiny]);
            for center in [false, true] {
                let error = columns
                    .shift_or_refuse(center, path, name)
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains("multiply the column by a power of ten"),
                    "{error}"
                );
                assert!(!error.contains("`center`"), "{error}");
            }
            let power = 1.0 / tiny.max(1e-300);
            let larger = of([tiny, 2.0 * tiny, tiny, 3.0 * tiny].map(|x| x * power));
            assert_eq!(larger.shift_or_refuse(false, path, name).unwrap(), None);
        }
    }

    proptest! {
        /// After the shift the rounding is below 1e-6 of the deviation.
        #[test]
        fn a_shifted_column_keeps_its_digits(
            mean in prop::num::f64::NORMAL.prop_filter("finite in f32", |m| m.abs() < 1e14 && m.abs() > 1e-9),
            share in -11.0f64..-4.5,
            values in prop::collection::vec(-1.0f64..1.0, 3..50),
        ) {
            let values: Vec<f64> = values.iter().map(|v| mean * (1.0 + v * 10f64.powf(share))).collect();
            let columns = of(values.iter().copied());
            if let Some(shift) = columns.shift() {
                let deviation = columns.column(0).deviation();
                let after = of(values.iter().map(|v| v - shift[0])).column(0);
                prop_assert!(after.rounding() < 1e-6 * deviation.max(after.deviation()));
                prop_assert!((after.deviation() - deviation).abs() < 1e-3 * deviation);
                prop_assert!(shift[0].to_string().len() <= values[0].to_string().len().max(24));
            }
        }
    }
}
