//! Changes of margins along a direction, which show whether classes are separable.

use crate::comm;
use crate::linalg::vec::Real;
use crate::loss::Loss;
use crate::loss::risk::Risk;

/// The changes of margins along a direction. A margin is z of the label minus z of another class;
/// samples with share 0 are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct MarginChanges {
    /// The smallest change.
    pub smallest: f64,
    /// The largest change.
    pub largest: f64,
    /// For each class, the maximum over its samples of a sample's smallest change.
    pub of_classes: Vec<f64>,
}

impl Risk<'_> {
    /// The minimum, over samples with a share above 0, of a sample's largest logit.
    pub fn lowest_maximum<T: Real>(&self, z: &[T], bias: &[f64]) -> f64 {
        let n = self.labels.len();
        let maximum = |i: usize| {
            let logits = bias.iter().enumerate();
            let logits = logits.map(|(j, bias)| z[j * n + i].into() + bias);
            logits.fold(f64::NEG_INFINITY, f64::max)
        };
        let samples = (0..n).filter(|&i| self.shares[i] > 0.0);
        let mut lowest = samples.map(maximum).fold(f64::INFINITY, f64::min);
        self.smallest(std::slice::from_mut(&mut lowest));
        lowest
    }

    /// Whether each margin changes by at most `limit` along a direction, for each output and sample;
    /// `false` for the label's own output and for samples with share 0.
    pub fn tied<T: Real>(&self, d: &[T], d_bias: &[f64], limit: f64) -> Vec<bool> {
        let n = self.labels.len();
        let mut tied = vec![false; d.len()];
        for i in (0..n).filter(|&i| self.shares[i] > 0.0) {
            let label = self.labels[i] as usize;
            match self.loss {
                Loss::Logistic => {
                    let along = d[i].into() + d_bias[0];
                    tied[i] = if label == 1 { along } else { -along } <= limit;
                }
                Loss::Softmax => {
                    let along = |j: usize| d[j * n + i].into() + d_bias[j];
                    for j in (0..self.outputs).filter(|&j| j != label) {
                        tied[j * n + i] = along(label) - along(j) <= limit;
                    }
                }
            }
        }
        tied
    }

    /// Returns half the sum of the squares of tied margins at the logits z + b 1ᵀ, and writes its
    /// gradient to `g` and the sums of the gradient by output to `bias`.
    pub fn tied_gradient<T: Real>(
        &self,
        tied: &[bool],
        (z, b): (&[T], &[f64]),
        g: &mut [T],
        bias: &mut [f64],
    ) -> f64 {
        let n = self.labels.len();
        g.fill(T::default());
        // The sum of squares, and then those of the outputs.
        let sums = self.sum_of_rows(1 + bias.len(), |rows| {
            let mut sums = vec![0.0; 1 + b.len()];
            for i in rows {
                let label = self.labels[i] as usize;
                let mut of_label = 0.0;
                for j in 0..b.len() {
                    let at = j * n + i;
                    if !tied[at] {
                        continue;
                    }
                    let value = match self.loss {
                        Loss::Logistic => z[at].into() + b[j],
                        Loss::Softmax => {
                            let margin = z[label * n + i].into() + b[label] - z[at].into() - b[j];
                            of_label += margin;
                            -margin
                        }
                    };
                    sums[0] += value * value;
                    g[at] = T::of(value);
                    sums[1 + j] += value;
                }
                if self.loss == Loss::Softmax {
                    g[label * n + i] = T::of(of_label);
                    sums[1 + label] += of_label;
                }
            }
            sums
        });
        bias.copy_from_slice(&sums[1..]);
        if !self.has_bias {
            bias.fill(0.0);
        }
        0.5 * sums[0]
    }

    /// The changes of margins along a direction. Cost: nc comparisons.
    pub fn margin_changes<T: Real>(&self, d: &[T], d_bias: &[f64]) -> MarginChanges {
        let n = self.labels.len();
        let classes = match self.loss {
            Loss::Logistic => 2,
            Loss::Softmax => self.outputs,
        };
        let mut changes = MarginChanges {
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
            of_classes: vec![f64::NEG_INFINITY; classes],
        };
        for i in (0..n).filter(|&i| self.shares[i] > 0.0) {
            let label = self.labels[i] as usize;
            let along = |j: usize| match (self.loss, j) {
                (Loss::Logistic, 0) => 0.0,
                (Loss::Logistic, _) => d[i].into() + d_bias[0],
                (Loss::Softmax, _) => d[j * n + i].into() + d_bias[j],
            };
            let own = along(label);
            let others = (0..classes).filter(|&j| j != label).map(|j| own - along(j));
            let (low, high) = others.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), d| {
                (low.min(d), high.max(d))
            });
            changes.smallest = changes.smallest.min(low);
            changes.largest = changes.largest.max(high);
            let of_class = &mut changes.of_classes[label];
            *of_class = of_class.max(low);
        }
        if let Some(shard) = self.ranks {
            comm::min(shard.comm, std::slice::from_mut(&mut changes.smallest));
            comm::max(shard.comm, std::slice::from_mut(&mut changes.largest));
            comm::max(shard.comm, &mut changes.of_classes);
        }
        changes
    }

    /// The class with the largest value in [`MarginChanges::of_classes`].
    pub fn furthest_class(&self, changes: &MarginChanges) -> Option<u32> {
        let outputs = (0u32..).zip(&changes.of_classes);
        let (output, _) = outputs.max_by(|a, b| a.1.total_cmp(b.1))?;
        let present = self.present.as_ref();
        Some(present.map_or(output, |present| present[output as usize]))
    }
}
