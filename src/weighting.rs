//! How much each sample counts, and how sure its label is.

use std::fmt;
use std::path::Path;

use crate::data::samples::Samples;
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of a file of weights.
const MOST_BYTES: u64 = 256 << 20;

/// Weights of classes and samples, and label smoothing.
///
/// A sample weighs (its class's weight) · (its own), and the loss is the weighted mean,
/// Σ wᵢ lossᵢ / Σ wᵢ, as in torch's `CrossEntropyLoss(weight=…)` and scikit-learn's
/// `class_weight` and `sample_weight`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighting {
    /// Weights of the classes.
    pub classes: ClassWeights,
    /// One weight a sample.
    pub samples: Option<Vec<f64>>,
    /// ε: the target is (1 - ε) · one-hot + ε/classes, as torch's `label_smoothing`.
    pub label_smoothing: f64,
}

/// Weights of the classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ClassWeights {
    /// All 1.
    #[default]
    Equal,
    /// n / (classes · rows of the class), so that every class counts alike; a class without
    /// rows has no weight to have.
    Balanced,
    /// These, by label.
    Given(Vec<f64>),
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

/// The weights of a text file: numbers with white space between them.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] naming the first word that is no number.
pub fn read_weights(path: &Path) -> Result<Vec<f64>> {
    let bytes = files::read(path, "read the weights", MOST_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = text.split_whitespace().enumerate();
    words
        .map(|(i, word)| {
            let bad = |_| {
                let word: String = word.chars().take(40).collect();
                let field = format!("weight {i}");
                Error::format(path, field, format!("{word:?}"), "a number, 0 or above")
            };
            word.parse::<f64>().map_err(bad)
        })
        .collect()
}

impl Weighting {
    /// Whether every sample counts alike.
    pub fn is_equal(&self) -> bool {
        self.classes == ClassWeights::Equal && self.samples.is_none()
    }

    /// What tells it from others, each as the command line calls it.
    pub(crate) fn identity(&self) -> [(&'static str, String); 3] {
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
            ("--class-weight", classes),
            ("--sample-weight", samples),
            ("--label-smoothing", self.label_smoothing.to_string()),
        ]
    }

    /// Refuse what is no weighting.
    pub fn check(&self) -> Result<()> {
        let smoothing = self.label_smoothing;
        match (0.0..1.0).contains(&smoothing) {
            true => Ok(()),
            false => Err(Error::options(
                "--label-smoothing",
                smoothing,
                "0 or above, below 1",
            )),
        }
    }

    /// The weight of each sample.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one weight a class or sample, [`Error::Options`] if
    /// one is negative or not finite, or if their sum is 0.
    pub fn of(&self, samples: &Samples) -> Result<Vec<f64>> {
        self.check()?;
        let (labels, classes) = (samples.labels(), samples.classes());
        let of_class = match &self.classes {
            ClassWeights::Equal => vec![1.0; classes],
            ClassWeights::Balanced => {
                let mut counts = vec![0usize; classes];
                labels.iter().for_each(|&label| counts[label as usize] += 1);
                let share = labels.len() as f64 / classes as f64;
                counts.iter().map(|&count| share / count as f64).collect()
            }
            ClassWeights::Given(weights) => {
                length("--class-weight", weights, classes, "class")?;
                positive("--class-weight", weights)?;
                weights.clone()
            }
        };
        let mut weights: Vec<f64> = labels.iter().map(|&l| of_class[l as usize]).collect();
        if let Some(own) = &self.samples {
            length("--sample-weight", own, labels.len(), "row")?;
            positive("--sample-weight", own)?;
            weights.iter_mut().zip(own).for_each(|(w, own)| *w *= own);
        }
        let sum: f64 = weights.iter().sum();
        if !(sum.is_finite() && sum > 0.0) {
            let expected = "a finite sum above 0";
            return Err(Error::options(
                "--class-weight and --sample-weight",
                format!("weights whose sum is {sum}"),
                expected,
            ));
        }
        Ok(weights)
    }
}

fn length(option: &'static str, weights: &[f64], expected: usize, of: &str) -> Result<()> {
    match weights.len() == expected {
        true => Ok(()),
        false => Err(Error::shape(
            option,
            format!("{} weights", weights.len()),
            format!("{expected}: one a {of}"),
        )),
    }
}

fn positive(option: &'static str, weights: &[f64]) -> Result<()> {
    let bad = |w: &f64| !(w.is_finite() && *w >= 0.0);
    match weights.iter().position(bad) {
        None => Ok(()),
        Some(i) => Err(Error::options(
            option,
            format!("weight {} at {i}", weights[i]),
            "finite numbers, 0 or above",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_classes_and_samples_multiply() {
        let x = [0.0; 4];
        let samples = Samples::new(&x, 1, &[0, 0, 0, 1], 2).unwrap();
        let mut weighting = Weighting {
            classes: ClassWeights::Balanced,
            ..Weighting::default()
        };
        let third = 4.0 / (2.0 * 3.0);
        assert_eq!(weighting.of(&samples).unwrap(), [third, third, third, 2.0]);
        weighting.samples = Some(vec![1.0, 0.0, 3.0, 0.5]);
        assert_eq!(weighting.of(&samples).unwrap(), [third, 0.0, 2.0, 1.0]);
        assert!(!weighting.is_equal() && Weighting::default().is_equal());
    }

    #[test]
    fn lies_are_refused() {
        let x = [0.0; 2];
        let samples = Samples::new(&x, 1, &[0, 1], 2).unwrap();
        let refused = |classes, samples_, label_smoothing| {
            let weighting = Weighting {
                classes,
                samples: samples_,
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
