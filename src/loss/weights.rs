//! Weights of samples and classes, and label smoothing.

use std::fmt;
use std::path::Path;

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::io::files;

/// Largest size of a file of weights, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Weights of classes and samples, and label smoothing.
///
/// With sample weights sᵢ, class weights w, C classes, smoothing ε and the model's probabilities p of
/// row i, the training loss of a set of rows is that of torch's
/// `CrossEntropyLoss(weight=w, label_smoothing=ε)` with row i repeated sᵢ times:
///
/// ```text
/// loss = ( (1-ε) Σᵢ sᵢ w_yᵢ (-ln p_yᵢ) + ε/C Σᵢ sᵢ Σ_c w_c (-ln p_c) ) / T,   T = Σᵢ sᵢ w_yᵢ
/// ```
///
/// The set is the batch for SGD and all rows for converged fits. Two classes are the softmax of the
/// logits (0, z). A sample weight of 0 is the row's removal, 2 its repetition, also for `Balanced`. A
/// batch with T = 0 has loss 0 and gradient 0 (torch's is NaN).
///
/// Class weights and ε are used in the training loss only: `loss` in `history.jsonl` and the
/// `objective` of a converged fit. `train_loss`, `val_loss` and `eval_loss` are means over rows,
/// weighted by sample weights if there are any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleWeights {
    /// Weights of the classes.
    pub classes: ClassWeights,
    /// s: one weight per sample; `None` if all are 1.
    pub samples: Option<Vec<f64>>,
    /// ε: the share of each target that is distributed over all classes.
    pub label_smoothing: f64,
}

/// Weights of the classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ClassWeights {
    /// All 1.
    #[default]
    Equal,
    /// `w_c = Σ s / (K · Σ s of the rows of class c)`, where K is the number of classes that have a
    /// row of weight above 0: all classes have the same total weight, and rows have a mean weight of
    /// one. This equals scikit-learn's `class_weight="balanced"` on rows repeated s times. Classes
    /// without rows get weight 1, which matters only with label smoothing.
    Balanced,
    /// These weights, one per class.
    Given(Vec<f64>),
}

/// The weights of a set of rows, computed by [`SampleWeights::resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct RowWeights {
    /// sᵢ of each row.
    pub samples: Vec<f64>,
    /// w_c of each class.
    pub classes: Vec<f64>,
    /// sᵢ w_yᵢ of each row; their sum is finite and above 0.
    pub rows: Vec<f64>,
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClassWeights::Equal => "equal",
            ClassWeights::Balanced => "balanced",
            ClassWeights::Given(_) => "given",
        })
    }
}

/// The weights in a text file of numbers separated by white space.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] with the first word that is not a
/// finite number, 0 or above.
pub fn read_weights(path: &Path) -> Result<Vec<f64>> {
    let bytes = files::read(path, "read the weights", MAX_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = text.split_whitespace().enumerate();
    words
        .map(|(i, word)| {
            let weight = word.parse::<f64>().ok().filter(is_weight);
            weight.ok_or_else(|| {
                let word: String = word.chars().take(40).collect();
                let field = format!("weight {i}");
                Error::format(path, field, format!("{word:?}"), IS_WEIGHT)
            })
        })
        .collect()
}

impl SampleWeights {
    /// Whether all sample and class weights are equal.
    pub fn is_equal(&self) -> bool {
        self.classes == ClassWeights::Equal && self.samples.is_none()
    }

    /// The fields of a checkpoint's fingerprint, by their names on the command line.
    pub(crate) fn fingerprint(&self) -> [(&'static str, String); 3] {
        let crc32 = |weights: &[f64]| crc32fast::hash(bytemuck::cast_slice(weights));
        let classes = match &self.classes {
            ClassWeights::Given(weights) => format!("given, {:08x}", crc32(weights)),
            named => named.to_string(),
        };
        let samples = match &self.samples {
            Some(weights) => format!("{:08x}", crc32(weights)),
            None => "none".to_string(),
        };
        [
            ("`class_weight`", classes),
            ("`sample_weight`", samples),
            ("`label_smoothing`", self.label_smoothing.to_string()),
        ]
    }

    /// Checks the weights and the smoothing. Cost: O(n).
    ///
    /// # Errors
    /// [`Error::Options`] for a smoothing outside 0..1 or a weight that is negative or not finite.
    pub fn check(&self) -> Result<()> {
        let smoothing = self.label_smoothing;
        if !(0.0..1.0).contains(&smoothing) {
            let expected = "0 or above, below 1";
            return Err(Error::options("`label_smoothing`", smoothing, expected));
        }
        if let ClassWeights::Given(weights) = &self.classes {
            check_weights("`class_weight`", weights)?;
        }
        match &self.samples {
            Some(weights) => check_weights("`sample_weight`", weights),
            None => Ok(()),
        }
    }

    /// Removes the sample weights of rows whose label is not below `classes`, as
    /// [`Samples::first_classes`] removes the rows. `labels` are those of all rows; the weights were
    /// read from `path`. Cost: O(n).
    ///
    /// # Errors
    /// [`Error::Format`] if the number of weights is not that of the labels.
    pub fn keep_first_classes(
        &mut self,
        labels: &[i64],
        classes: usize,
        path: &Path,
    ) -> Result<()> {
        let Some(weights) = &mut self.samples else {
            return Ok(());
        };
        if weights.len() != labels.len() {
            let expected = format!(
                "{}: one per row of the training split, before `classes` selects rows",
                labels.len()
            );
            return Err(Error::format(path, "weights", weights.len(), expected));
        }
        let mut labels = labels.iter();
        weights.retain(|_| labels.next().is_some_and(|&label| label < classes as i64));
        Ok(())
    }

    /// sᵢ w_yᵢ, the weight of each sample. Cost: O(n).
    ///
    /// # Errors
    /// As [`SampleWeights::resolve`].
    pub fn of(&self, samples: &Samples) -> Result<Vec<f64>> {
        Ok(self.resolve(samples, None)?.rows)
    }

    /// The weights of samples, classes and rows; sample weights are multiplied by `keep` if it is
    /// given. Cost: O(n + C).
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of weights is not that of the classes or samples,
    /// [`Error::Options`] if a weight is negative or not finite, or if the sum over the rows is 0 or
    /// not finite.
    pub fn resolve(&self, samples: &Samples, keep: Option<&[f64]>) -> Result<RowWeights> {
        self.check()?;
        let labels = samples.labels();
        let mut own = match &self.samples {
            None => vec![1.0; labels.len()],
            Some(own) => {
                check_length("`sample_weight`", own, labels.len(), "row")?;
                own.clone()
            }
        };
        if let Some(keep) = keep {
            check_length("rows to keep", keep, labels.len(), "row")?;
            own.iter_mut()
                .zip(keep)
                .for_each(|(own, keep)| *own *= keep);
        }
        let classes = match &self.classes {
            ClassWeights::Equal => vec![1.0; samples.classes()],
            ClassWeights::Balanced => balanced(labels, &own, samples.classes()),
            ClassWeights::Given(weights) => {
                check_length("`class_weight`", weights, samples.classes(), "class")?;
                weights.clone()
            }
        };
        let of_row = |(own, &label): (&f64, &u32)| own * classes[label as usize];
        let rows: Vec<f64> = own.iter().zip(labels).map(of_row).collect();
        let sum: f64 = rows.iter().sum();
        if !(sum.is_finite() && sum > 0.0) {
            return Err(Error::options(
                "`class_weight` and `sample_weight`",
                format!("weights whose sum is {sum}"),
                "a finite sum above 0: at least one row whose class and sample weight are above 0",
            ));
        }
        Ok(RowWeights {
            samples: own,
            classes,
            rows,
        })
    }
}

/// The weights of [`ClassWeights::Balanced`] for rows with these labels and sample weights.
fn balanced(labels: &[u32], weights: &[f64], classes: usize) -> Vec<f64> {
    let mut of_class = vec![0.0; classes];
    for (&label, weight) in labels.iter().zip(weights) {
        of_class[label as usize] += weight;
    }
    let present = of_class.iter().filter(|&&sum| sum > 0.0).count();
    let share = weights.iter().sum::<f64>() / present as f64;
    let weight = |&sum: &f64| if sum > 0.0 { share / sum } else { 1.0 };
    of_class.iter().map(weight).collect()
}

fn check_length(option: &'static str, weights: &[f64], expected: usize, of: &str) -> Result<()> {
    if weights.len() == expected {
        Ok(())
    } else {
        Err(Error::shape(
            option,
            format!("{} weights", weights.len()),
            format!("{expected}: one per {of}"),
        ))
    }
}

/// The values that a weight may have, in messages.
const IS_WEIGHT: &str = "a finite number, 0 or above";

fn is_weight(weight: &f64) -> bool {
    weight.is_finite() && *weight >= 0.0
}

fn check_weights(option: &'static str, weights: &[f64]) -> Result<()> {
    match weights.iter().position(|weight| !is_weight(weight)) {
        None => Ok(()),
        Some(i) => Err(Error::options(
            option,
            format!("weight {} at {i}", weights[i]),
            IS_WEIGHT,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_of_classes_and_samples_multiply() {
        let x = [0.0; 4];
        let samples = Samples::new(&x, 1, &[0, 0, 0, 1], 2).unwrap();
        let mut weighting = SampleWeights {
            classes: ClassWeights::Balanced,
            ..SampleWeights::default()
        };
        let third = 4.0 / (2.0 * 3.0);
        assert_eq!(weighting.of(&samples).unwrap(), [third, third, third, 2.0]);
        weighting.classes = ClassWeights::Given(vec![0.5, 4.0]);
        weighting.samples = Some(vec![1.0, 0.0, 3.0, 0.5]);
        assert_eq!(weighting.of(&samples).unwrap(), [0.5, 0.0, 1.5, 2.0]);
        assert!(!weighting.is_equal() && SampleWeights::default().is_equal());
    }

    #[test]
    fn keep_first_classes_removes_the_weights_of_removed_rows() {
        let x = [0.0; 4];
        let labels = [2, 0, 1, 0];
        let samples = Samples::new(&x, 1, &labels, 3).unwrap();
        let mut weighting = SampleWeights {
            samples: Some(vec![9.0, 1.0, 2.0, 3.0]),
            ..SampleWeights::default()
        };
        let path = Path::new("w.txt");
        weighting.keep_first_classes(&labels, 2, path).unwrap();
        let kept = samples.clone().first_classes(2).unwrap();
        assert_eq!(weighting.of(&kept).unwrap(), [1.0, 2.0, 3.0]);
        let error = weighting.keep_first_classes(&labels, 2, path);
        let error = error.unwrap_err().to_string();
        for part in ["w.txt", "found 3", "expected 4"] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    /// A number of classes, and the label and the integer weight of each row.
    fn weighted_rows() -> impl Strategy<Value = (usize, Vec<(u32, u32)>)> {
        (2usize..6).prop_flat_map(|classes| {
            let row = (0..classes as u32, 0u32..4);
            (Just(classes), prop::collection::vec(row, 1..20))
        })
    }

    proptest! {
        /// Both give the class weights of scikit-learn's rule; `keep` has the effect of sample weights.
        #[test]
        fn balanced_counts_weights_as_repetitions((classes, rows) in weighted_rows()) {
            prop_assume!(rows.iter().any(|&(_, weight)| weight > 0));
            let x = [0.0; 100];
            let labels: Vec<i64> = rows.iter().map(|&(label, _)| label.into()).collect();
            let weights: Vec<f64> = rows.iter().map(|&(_, weight)| weight.into()).collect();
            let repeated: Vec<i64> = (rows.iter())
                .flat_map(|&(label, weight)| vec![i64::from(label); weight as usize])
                .collect();
            let samples = Samples::new(&x[..rows.len()], 1, &labels, classes).unwrap();
            let all = Samples::new(&x[..repeated.len()], 1, &repeated, classes).unwrap();
            let plain = SampleWeights { classes: ClassWeights::Balanced, ..SampleWeights::default() };
            let weighted = SampleWeights { samples: Some(weights.clone()), ..plain.clone() };
            let found = weighted.resolve(&samples, None).unwrap();
            let expected = plain.resolve(&all, None).unwrap().classes;
            prop_assert_eq!(&found, &plain.resolve(&samples, Some(&weights)).unwrap());
            prop_assert_eq!(&found.samples, &weights);
            let present = (0..classes as i64).filter(|class| repeated.contains(class)).count();
            for (class, (found, expected)) in found.classes.iter().zip(&expected).enumerate() {
                let count = repeated.iter().filter(|&&label| label == class as i64).count();
                let by_rule = match count {
                    0 => 1.0,
                    _ => repeated.len() as f64 / (present * count) as f64,
                };
                prop_assert!((found - by_rule).abs() < 1e-12 && (expected - by_rule).abs() < 1e-12);
            }
            let sum: f64 = found.rows.iter().sum();
            prop_assert!((sum - repeated.len() as f64).abs() < 1e-9);
        }
    }

    #[test]
    fn invalid_inputs_are_rejected() {
        let x = [0.0; 2];
        let samples = Samples::new(&x, 1, &[0, 1], 2).unwrap();
        let refused = |classes, sample_weights, label_smoothing| {
            let weighting = SampleWeights {
                classes,
                samples: sample_weights,
                label_smoothing,
            };
            weighting.of(&samples).is_err()
        };
        let given = ClassWeights::Given;
        assert!(!refused(given(vec![0.0, 1.0]), None, 0.5));
        assert!(refused(given(vec![1.0]), None, 0.0));
        assert!(refused(given(vec![1.0, -1.0]), None, 0.0));
        assert!(refused(given(vec![1.0, f64::NAN]), None, 0.0));
        assert!(refused(given(vec![0.0, 0.0]), None, 0.0));
        assert!(refused(ClassWeights::Equal, Some(vec![1.0; 3]), 0.0));
        assert!(refused(ClassWeights::Equal, Some(vec![f64::MAX; 2]), 0.0));
        assert!(refused(ClassWeights::Equal, None, 1.0));
        assert!(refused(ClassWeights::Equal, None, -0.1));
        assert!(refused(ClassWeights::Equal, None, f64::NAN));
    }
}
