//! Labelled rows, to fit or to evaluate: borrowed features and checked labels.

use std::borrow::Cow;
use std::fmt;

use rayon::prelude::*;

use crate::comm::Comm;
use crate::comm::rows::are_shared;
use crate::comm::shard_slab;
use crate::design::plan::available_memory;
use crate::design::rows::Shard;
pub(crate) use crate::design::rows::position;
pub use crate::design::rows::{Batch, Rows};
use crate::error::{Error, Result};
use crate::linalg::mat::MatRef;
use crate::threads::{Share, Work};

/// Labelled rows.
#[derive(Clone, Debug)]
pub struct Samples<'a> {
    x: Rows<'a>,
    labels: Cow<'a, [u32]>,
    classes: usize,
}

/// Samples to fit, and samples to validate on while fitting.
#[derive(Clone, Copy, Debug)]
pub struct Splits<'a> {
    /// The rows to fit.
    pub train: &'a Samples<'a>,
    /// The rows on which the model is evaluated after every epoch.
    pub validation: Option<&'a Samples<'a>>,
}

impl Splits<'_> {
    /// The fingerprints of the training rows and the validation rows. Cost: X is read once.
    pub(crate) fn fingerprints(self) -> [String; 2] {
        let of = |samples: Option<&Samples>| match samples {
            Some(samples) => samples.fingerprint(),
            None => "none".to_string(),
        };
        [of(Some(self.train)), of(self.validation)]
    }

    /// Checks that all features are finite, in the caller's pool.
    pub(crate) fn check_finite(self) -> Result<()> {
        let x = self.train.x();
        x.agree(x.check_finite("x").and_then(|()| {
            (self.validation).map_or(Ok(()), |rows| rows.x().check_finite("validation x"))
        }))
    }

    /// Refuse features that are not usable, in the pool that the caller stands in.
    pub(crate) fn check_usable(self) -> Result<()> {
        let x = self.train.x();
        x.agree(x.check_usable("x").and_then(|()| {
            (self.validation).map_or(Ok(()), |rows| rows.x().check_usable("validation x"))
        }))
    }

    /// Refuse validation rows of another shape.
    pub(crate) fn check_shapes(self) -> Result<()> {
        let shape = |s: &Samples| {
            let features = s.x.all_features();
            format!("{features} features, {} classes", s.classes())
        };
        match self.validation.map(shape) {
            Some(found) if found != shape(self.train) => {
                let expected = format!("{} as in training", shape(self.train));
                Err(Error::shape("validation samples", found, expected))
            }
            _ => Ok(()),
        }
    }
}

/// Samples that own a copy of their features.
#[derive(Clone, Debug)]
pub struct OwnedSamples {
    x: Vec<f32>,
    features: usize,
    labels: Vec<u32>,
    classes: usize,
}

impl OwnedSamples {
    /// Samples with these features (row-major) and the labels of `like`.
    pub(crate) fn new(x: Vec<f32>, like: &Samples) -> OwnedSamples {
        OwnedSamples {
            x,
            features: like.features(),
            labels: like.labels().to_vec(),
            classes: like.classes(),
        }
    }

    /// A copy of f64 features (row-major), rounded to f32, with their labels.
    ///
    /// # Errors
    /// As [`Samples::from_labels`]; [`Error::Shape`] for a finite number beyond the range of f32;
    /// [`Error::Memory`] if the copy cannot be allocated.
    pub fn from_f64(
        x: &[f64],
        features: usize,
        labels: &[u32],
        classes: usize,
    ) -> Result<OwnedSamples> {
        let mut values = try_with_capacity(x.len())?;
        values.extend(x.iter().map(|&value| value as f32));
        let overflown = |(&x, value): (&f64, &f32)| x.is_finite() && !value.is_finite();
        if let Some(at) = x.iter().zip(&values).position(overflown) {
            let (row, column) = (at / features.max(1), at % features.max(1));
            let found = format!("{} in row {row}, feature {column}", x[at]);
            return Err(Error::shape("x", found, "numbers within f32"));
        }
        Samples::from_labels(&values, features, labels, classes)?;
        Ok(OwnedSamples {
            x: values,
            features,
            labels: labels.to_vec(),
            classes,
        })
    }

    /// A view of these samples, which are a copy of `original`, with its ranks and its place among them.
    ///
    /// # Errors
    /// [`Error::Memory`] if the memory cannot hold a weight of classes x features.
    pub(crate) fn on_ranks_of<'s>(&'s self, original: &Samples<'s>) -> Result<Samples<'s>> {
        let x = MatRef::new(&self.x, original.x.len(), self.features);
        let samples = Samples {
            x: Rows::new(x).on_ranks_of(&original.x),
            labels: Cow::Borrowed(&self.labels),
            classes: self.classes,
        };
        samples.checked()
    }

    /// A view of these samples.
    ///
    /// # Errors
    /// As [`Samples::from_labels`].
    pub fn samples(&self) -> Result<Samples<'_>> {
        Samples::from_labels(&self.x, self.features, &self.labels, self.classes)
    }
}

impl<'a> From<&'a Samples<'a>> for Splits<'a> {
    fn from(train: &'a Samples<'a>) -> Self {
        Splits {
            train,
            validation: None,
        }
    }
}

impl<'a> From<(&'a Samples<'a>, &'a Samples<'a>)> for Splits<'a> {
    fn from((train, validation): (&'a Samples<'a>, &'a Samples<'a>)) -> Self {
        Splits {
            train,
            validation: Some(validation),
        }
    }
}

impl<'a> Samples<'a> {
    /// Samples of `x` (n x features, row-major) with `n` labels in `0..classes`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths do not match, if a label is not below `classes`, or if there
    /// are no rows, no features or fewer than two classes; [`Error::Memory`] if the memory cannot
    /// hold a weight of classes x features. Features that are not finite are refused by the fit.
    pub fn new(x: &'a [f32], features: usize, labels: &[i64], classes: usize) -> Result<Self> {
        let x = Rows::strided(x, labels.len(), features, features)?;
        Samples::of_rows(x, labels, classes)
    }

    /// [`Samples::new`] with borrowed labels.
    ///
    /// # Errors
    /// As [`Samples::new`].
    pub fn from_labels(
        x: &'a [f32],
        features: usize,
        labels: &'a [u32],
        classes: usize,
    ) -> Result<Self> {
        let x = Rows::strided(x, labels.len(), features, features)?;
        Samples::from_rows(x, labels, classes)
    }

    /// [`Samples::from_labels`] of rows that need not be contiguous: see [`Rows::strided`].
    ///
    /// # Errors
    /// As [`Samples::new`].
    pub fn from_rows(x: Rows<'a>, labels: &'a [u32], classes: usize) -> Result<Self> {
        check_counts(&x, labels.len(), classes)?;
        let classes_u32 = classes as u32;
        if let Some(row) = labels.iter().position(|&label| label >= classes_u32) {
            return Err(label_error(row, labels[row], classes));
        }
        let labels = Cow::Borrowed(labels);
        Samples { x, labels, classes }.checked()
    }

    /// [`Samples::new`] for a matrix view.
    ///
    /// # Errors
    /// As [`Samples::new`].
    pub fn from_matrix(x: MatRef<'a>, labels: &[i64], classes: usize) -> Result<Self> {
        Samples::of_rows(Rows::new(x), labels, classes)
    }

    fn of_rows(x: Rows<'a>, labels: &[i64], classes: usize) -> Result<Self> {
        Samples::of_any_classes(x, labels, classes)?.checked()
    }

    /// The same samples, whose features are known to be usable: see
    /// [`is_usable`](crate::design::rows::is_usable).
    pub(crate) fn known_usable(mut self) -> Self {
        self.x.known_usable = true;
        self
    }

    /// Samples with a number of classes whose weight the memory may not hold;
    /// [`Samples::first_classes`] is to reduce it.
    pub(crate) fn of_any_classes(x: Rows<'a>, labels: &[i64], classes: usize) -> Result<Self> {
        check_counts(&x, labels.len(), classes)?;
        let labels = labels.iter().enumerate();
        let labels = labels.map(|(row, &label)| match usize::try_from(label) {
            Ok(l) if l < classes => Ok(l as u32),
            _ => Err(label_error(row, label, classes)),
        });
        Ok(Samples {
            x,
            labels: labels.collect::<Result<_>>()?,
            classes,
        })
    }

    /// Checks that the memory can hold a weight of classes x features.
    fn checked(self) -> Result<Self> {
        match beyond_memory(self.classes, self.features()) {
            None => Ok(self),
            Some((found, expected)) => Err(Error::memory("classes", found, expected)),
        }
    }

    /// The rows whose label is below `classes`, which becomes the number of classes and may exceed
    /// the labels.
    ///
    /// # Errors
    /// [`Error::Options`] if `classes` is below 2, or if no row remains; [`Error::Memory`] if the
    /// memory cannot hold a weight of `classes` x features.
    pub fn first_classes(self, classes: usize) -> Result<Self> {
        if classes < 2 || u32::try_from(classes).is_err() {
            let expected = "2 or more, below 2^32";
            return Err(Error::options("`classes`", classes, expected));
        }
        if classes >= self.classes {
            return Samples { classes, ..self }.checked();
        }
        let kept: Vec<u32> = (0..self.labels.len() as u32)
            .filter(|&i| (self.labels[i as usize] as usize) < classes)
            .collect();
        if kept.is_empty() {
            let expected = "at least one row with a label below it";
            return Err(Error::options("`classes`", classes, expected));
        }
        let samples = Samples {
            x: self.x.choose(&kept),
            labels: self.labels_of(&kept),
            classes,
        };
        samples.checked()
    }

    /// The classes that have rows in `self` but not in `other`, in ascending order.
    pub fn classes_missing_in(&self, other: &Samples) -> Vec<u32> {
        let mut missing = self.labels.to_vec();
        missing.sort_unstable();
        missing.dedup();
        let there: std::collections::HashSet<u32> = other.labels.iter().copied().collect();
        missing.retain(|label| !there.contains(label));
        missing
    }

    fn labels_of(&self, rows: &[u32]) -> Cow<'a, [u32]> {
        rows.iter().map(|&i| self.labels[i as usize]).collect()
    }

    /// The rows i for which `keep(i)` is true; of rows that ranks share, those of all are divided anew.
    ///
    /// # Errors
    /// As [`Samples::rows_of`].
    pub(crate) fn keep(&self, keep: impl Fn(usize) -> bool) -> Result<Samples<'a>> {
        let kept: Vec<u32> = (0..self.rows() as u32)
            .filter(|&row| keep(row as usize))
            .collect();
        let x = match (self.x.row_shard(), self.x.whole()) {
            (Some(shard), Some(whole)) => {
                let divided = whole.choose(&kept).rows_of(shard.comm);
                divided.map_err(|error| match error {
                    Error::Options {
                        option,
                        found,
                        expected,
                    } => Error::Options {
                        option,
                        found,
                        expected: format!("{expected} (rows of weight 0 do not count)"),
                    },
                    other => other,
                })?
            }
            _ => self.x.choose(&kept),
        };
        Ok(Samples {
            x,
            labels: self.labels_of(&kept),
            classes: self.classes,
        })
    }

    /// A copy of these samples followed by m others. Cost: 4(n + m)d bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of features or classes differ; [`Error::Memory`] if the copy
    /// cannot be allocated.
    pub fn joined(&self, other: &Samples) -> Result<OwnedSamples> {
        let splits = Splits {
            train: self,
            validation: Some(other),
        };
        splits.check_shapes()?;
        let mut x =
            try_with_capacity((self.rows() + other.rows()).saturating_mul(self.features()))?;
        for rows in [self.x(), other.x()] {
            (0..rows.len()).for_each(|i| x.extend_from_slice(rows.row(i)));
        }
        let mut both = OwnedSamples::new(x, self);
        both.labels.extend_from_slice(other.labels());
        Ok(both)
    }

    /// These samples with the columns of this rank of `comm`, which has all of their labels. A
    /// [`fit`](fn@crate::fit) of them is one of all ranks together, and its model that of all columns.
    /// Cost: none; the columns are borrowed.
    ///
    /// # Errors
    /// [`Error::Options`] if there are too few columns for so many ranks.
    pub fn columns_of(&self, comm: &'a dyn Comm) -> Result<Samples<'a>> {
        Ok(Samples {
            x: self.x.columns_of(comm)?,
            labels: self.labels.clone(),
            classes: self.classes,
        })
    }

    /// These samples with this rank's share: [columns](Samples::columns_of) if they are not fewer than the
    /// rows, else [rows](Samples::rows_of).
    ///
    /// # Errors
    /// [`Error::Options`] if there is too little to share for so many ranks.
    pub fn share_of(&self, comm: &'a dyn Comm) -> Result<Samples<'a>> {
        if are_shared(self.rows(), self.features()) {
            self.rows_of(comm)
        } else {
            self.columns_of(comm)
        }
    }

    /// These samples with the rows of this rank of `comm`, which has the labels of all rows. A
    /// [`fit_path`](crate::fit_path()) of them is one of all ranks together, and its model that of all
    /// rows. Cost: none; the rows are borrowed.
    ///
    /// # Errors
    /// [`Error::Options`] if there are too few rows for so many ranks.
    pub fn rows_of(&self, comm: &'a dyn Comm) -> Result<Samples<'a>> {
        Ok(Samples {
            x: self.x.rows_of(comm)?,
            labels: self.labels.clone(),
            classes: self.classes,
        })
    }

    /// Whether other ranks have other columns.
    pub fn shares_columns(&self) -> bool {
        self.x.shard().is_some()
    }

    /// X, without the labels.
    pub fn x(&self) -> &Rows<'a> {
        &self.x
    }

    /// n: number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// d: number of features.
    pub fn features(&self) -> usize {
        self.x.features()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Shape and checksums of features and labels, which identify the samples. Cost: X is read once.
    pub(crate) fn fingerprint(&self) -> String {
        if let Some(shard) = self.x.shard() {
            return self.fingerprint_of_ranks(shard);
        }
        let row = |i| crc32fast::hash(bytemuck::cast_slice(self.x.row(i)));
        let rows = (0..self.x.len()).into_par_iter();
        let rows = rows.share(Work::bytes(4 * self.x.len() * self.features()));
        let mut rows: Vec<u32> = rows.map(row).collect();
        let mut kind = "x";
        if let Some(shard) = self.x.row_shard() {
            rows = shard.rows_of_all(&rows);
            kind = "shared x";
        }
        let crc32 = |values: &[u32]| crc32fast::hash(bytemuck::cast_slice(values));
        let (x, labels) = (crc32(&rows), crc32(&self.labels));
        let (n, d, classes) = (self.rows(), self.features(), self.classes);
        format!("{n} x {d}, {classes} classes, {kind} {x:08x}, labels {labels:08x}")
    }

    /// [`Samples::fingerprint`] of the columns of all ranks, the same for any number of them: a sum over
    /// slabs of columns.
    fn fingerprint_of_ranks(&self, shard: Shard) -> String {
        let slab = shard_slab(shard.features);
        let slabs: Vec<usize> = (0..self.features()).step_by(slab).collect();
        let work = Work::bytes(4 * self.rows() * self.features());
        let slabs = slabs.par_iter().share(work).map(|&first| {
            let mut crc32 = crc32fast::Hasher::new();
            for i in 0..self.rows() {
                let row = self.x.row(i);
                let columns = &row[first..(first + slab).min(row.len())];
                crc32.update(bytemuck::cast_slice(columns));
            }
            // Another order is another sum.
            let place = 2 * (shard.first + first) / slab + 1;
            i64::from(crc32.finalize()) * place as i64
        });
        let mut sum = [slabs.collect().into_iter().fold(0, i64::wrapping_add)];
        shard.comm.sum(&mut sum);
        let labels = crc32fast::hash(bytemuck::cast_slice(&self.labels));
        let (n, d, classes) = (self.rows(), shard.features, self.classes);
        let x = sum[0];
        format!("{n} x {d}, {classes} classes, columns {x:016x}, labels {labels:08x}")
    }

    /// The label of each row, below [`Samples::classes`].
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }
}

/// Checks that the numbers of rows, labels and classes are consistent.
fn check_counts(x: &Rows, labels: usize, classes: usize) -> Result<()> {
    if x.is_empty() || x.features() == 0 || x.all_len() != labels {
        let found = format!("{} x {}", x.all_len(), x.features());
        let expected = format!("as many rows as labels ({labels}), at least one, and features");
        return Err(Error::shape("x", found, expected));
    }
    // Row numbers are stored in 32 bits.
    if classes < 2 || u32::try_from(x.all_len().max(classes)).is_err() {
        let expected = "at least 2 and rows and classes below 2^32";
        return Err(Error::shape("classes", classes, expected));
    }
    Ok(())
}

/// The error for a label that is not below `classes`.
fn label_error(row: usize, label: impl fmt::Display, classes: usize) -> Error {
    let found = format!("{label} in row {row}");
    Error::shape("labels", found, format!("0..{classes}"))
}

/// What an error reports as found and as expected if the memory cannot hold a weight of classes x
/// features, which a single wrong label can cause; `None` if it can.
pub(crate) fn beyond_memory(classes: usize, features: usize) -> Option<(String, String)> {
    /// Bytes of a weight that is always accepted.
    const ALWAYS: u64 = 256 << 20;
    let bytes = (classes as u64).saturating_mul(features as u64);
    let bytes = bytes.saturating_mul(4);
    if bytes <= ALWAYS {
        return None;
    }
    let most = available_memory().unwrap_or(u64::MAX >> 1);
    (bytes > most).then(|| {
        (
            format!("{classes} classes x {features} features, a weight of {bytes} bytes"),
            format!(
                "at most the {most} bytes of available memory: number the classes from 0 without \
                 gaps, or set `classes` to leave out rows with higher labels"
            ),
        )
    })
}

/// An empty vector with capacity for `values` values.
///
/// # Errors
/// [`Error::Memory`] if it cannot be allocated.
pub(crate) fn try_with_capacity(values: usize) -> Result<Vec<f32>> {
    let mut x = Vec::new();
    match x.try_reserve_exact(values) {
        Ok(()) => Ok(x),
        Err(_) => Err(Error::memory(
            "a copy of x",
            format!("{values} values, for which there is no memory"),
            "fewer rows or features, or more memory",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_classes_borrows_contiguous_rows_and_indexes_others() {
        let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let sorted = Samples::new(&x, 2, &[0, 0, 1, 1, 2, 2], 3).unwrap();
        let two = sorted.first_classes(2).unwrap();
        assert_eq!(two.x().contiguous().unwrap().as_slice(), &x[..8]);
        assert_eq!((two.rows(), two.classes()), (4, 2));

        let mixed = Samples::new(&x, 2, &[2, 0, 2, 1, 0, 2], 3).unwrap();
        let two = mixed.first_classes(2).unwrap();
        assert!(two.x().contiguous().is_none());
        assert_eq!(two.labels(), [0, 1, 0]);
        let mut scratch = Vec::new();
        assert_eq!(
            two.x().block(1..3, &mut scratch).as_slice(),
            [6.0, 7.0, 8.0, 9.0]
        );
    }

    #[test]
    fn invalid_inputs_are_rejected() {
        let x = [0.0; 6];
        assert!(Samples::new(&x, 2, &[0, 1], 2).is_err());
        assert!(Samples::new(&x, 0, &[], 2).is_err());
        assert!(Samples::new(&[], 2, &[], 2).is_err());
        assert!(Samples::new(&x, 2, &[0, 1, 2], 2).is_err());
        assert!(Samples::new(&x, 2, &[0, 1, -1], 2).is_err());
        assert!(Samples::new(&x, 2, &[0, 0, 0], 1).is_err());
        let good = Samples::new(&x, 2, &[0, 1, 2], 3).unwrap();
        assert!(good.clone().first_classes(1).is_err());
        assert!(good.first_classes(usize::MAX).is_err());
    }

    #[test]
    fn classes_may_be_more_than_rows_and_labels() {
        let x = [0.0; 4];
        let samples = Samples::new(&x, 2, &[7, 0], 8).unwrap();
        assert_eq!((samples.rows(), samples.classes()), (2, 8));
        let more = samples.clone().first_classes(10).unwrap();
        assert_eq!((more.rows(), more.classes()), (2, 10));
        assert_eq!(samples.clone().first_classes(3).unwrap().labels(), [0]);
        let few = Samples::new(&x, 2, &[0, 1], 8).unwrap();
        assert_eq!(samples.classes_missing_in(&few), [7]);
        assert_eq!(few.classes_missing_in(&few), [0u32; 0]);
    }

    /// They are accepted if `first_classes` leaves out the row with the large label.
    #[test]
    fn classes_beyond_memory_are_refused() {
        let x = vec![0.0; 2 << 20];
        let large = i64::from(u32::MAX) - 1;
        let (features, classes) = (1 << 20, large as usize + 1);
        let error = Samples::new(&x, features, &[large, 0], classes).unwrap_err();
        let bytes = classes as u64 * features as u64 * 4;
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
        assert_eq!(error.exit_code(), 71);
        let x = MatRef::new(&x, 2, features);
        let all = Samples::of_any_classes(Rows::new(x), &[large, 0], classes).unwrap();
        assert_eq!(all.first_classes(2).unwrap().labels(), [0]);
    }
}
