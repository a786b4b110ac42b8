//! The choice of a penalty by its loss on validation or held-out rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::design::samples::Samples;
use crate::error::Result;
use crate::linalg::mat::MatRef;
use crate::linalg::vec::Real;
use crate::loss::Loss;
use crate::loss::risk::Risk;
use crate::path::options::PathOptions;
use crate::path::options::l2_of_c;
use crate::path::record::SolveLog;
use crate::progress::PathEntry;
use crate::threads::{Share, Work};

/// The penalties that were solved, and the index of the chosen one.
pub(super) fn choice(
    log: &SolveLog,
    options: &PathOptions,
    train: &Samples,
) -> Result<(Vec<PathEntry>, usize)> {
    let mut path = match &options.folds {
        Some(_) => log.path_of_folds(),
        None => log.path(),
    };
    if path.is_empty() {
        return Err(log.foreign());
    }
    if let Some(cs) = options.penalty.cs() {
        // A value of C is another l2 in each fold; the path shows that of all rows.
        let total = options.weighting.resolve(train, None)?.rows.iter().sum();
        for (entry, l2) in path.iter_mut().zip(l2_of_c(cs, total)?) {
            entry.l2 = l2;
        }
    }
    let rule = (options.folds.as_ref()).is_some_and(|folds| folds.one_standard_error);
    let chosen = best(&path, rule);
    Ok((path, chosen))
}

/// The index of the entry with the lowest validation loss, or of the strongest penalty within one
/// standard error of it (Breiman et al. 1984). Without validation losses, the last index.
pub(super) fn best(path: &[PathEntry], one_standard_error: bool) -> usize {
    let loss = |entry: &PathEntry| entry.val_loss.unwrap_or(f64::NEG_INFINITY);
    let mut lowest = 0;
    for (i, entry) in path.iter().enumerate() {
        if loss(entry) < loss(&path[lowest]) || entry.val_loss.is_none() {
            lowest = i;
        }
    }
    match (one_standard_error, path[lowest].val_loss_error) {
        (true, Some(error)) => {
            let within = |entry: &PathEntry| loss(entry) <= loss(&path[lowest]) + error;
            path.iter().position(within).unwrap_or(lowest)
        }
        _ => lowest,
    }
}

/// Mean loss and accuracy of rows with logits z + b 1ᵀ (z is c x n, n the number of own rows); row i
/// counts wᵢ times. If ranks share the rows, those of all ranks.
pub(super) fn score<T: Real>(samples: &Samples, weights: &[f64], z: &[T], b: &[f64]) -> (f64, f64) {
    let ones = vec![1.0; samples.classes()];
    let scorer = Risk::new(samples.labels(), weights, &ones, 0.0).on_rows_of(samples.x());
    let (loss, _) = scorer.along((z, b), (z, &vec![0.0; b.len()]), 0.0);
    let x = samples.x();
    let own = x.row_shard().map_or(0..x.len(), |shard| shard.range());
    let (labels, own) = (&samples.labels()[own.clone()], &weights[own]);
    let correct = x.sum_of_rows(1, |rows| vec![correct(z, b, labels, own, rows)]);
    (loss, correct[0] / weights.iter().sum::<f64>())
}

/// The sum of the weights of those of `rows` whose prediction is the label.
pub(super) fn correct<T: Real>(
    z: &[T],
    bias: &[f64],
    labels: &[u32],
    weights: &[f64],
    rows: Range<usize>,
) -> f64 {
    let (n, c) = (labels.len(), bias.len());
    let loss = Loss::for_classes(c.max(2));
    let of_row = |row: usize| {
        let logits: Vec<f32> = (0..c)
            .map(|j| (z[j * n + row].into() + bias[j]) as f32)
            .collect();
        if loss.predictions(MatRef::new(&logits, c, 1)) == [labels[row]] {
            weights[row]
        } else {
            0.0
        }
    };
    let work = Work::exponentials(rows.len() * c);
    let of_rows: Vec<f64> = rows.into_par_iter().share(work).map(of_row).collect();
    of_rows.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solver::report::{MeasuredOn, Products};
    use crate::solver::report::{SolveReport, Status};

    fn entry(l2: f64, val_loss: Option<f64>, val_loss_error: Option<f64>) -> PathEntry {
        let report = SolveReport {
            status: Status::Converged,
            measured_on: MeasuredOn::Coordinates,
            objective: 0.0,
            loss: 0.0,
            gradient_norm: 0.0,
            initial_gradient_norm: 0.0,
            gap: None,
            decrement: None,
            separated_class: None,
            iterations: 0,
            products: Products::default(),
        };
        PathEntry {
            l2,
            report,
            val_loss,
            val_loss_error,
            val_accuracy: None,
        }
    }

    #[test]
    fn the_lowest_loss_or_the_strongest_penalty_within_its_error_is_chosen() {
        let path: Vec<PathEntry> = [(3.0, 2.0), (1.0, 1.2), (0.3, 1.0), (0.1, 1.5)]
            .map(|(l2, loss)| entry(l2, Some(loss), Some(0.25)))
            .to_vec();
        assert_eq!(best(&path, false), 2);
        assert_eq!(best(&path, true), 1);
        assert_eq!(best(&[entry(1.0, None, None)], false), 0);
        assert_eq!(
            best(&[entry(1.0, None, None), entry(0.1, None, None)], false),
            1
        );
    }
}
