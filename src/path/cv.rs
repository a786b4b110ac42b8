//! Cross-validation: who is held out when, and the fits of the others.

use super::certify::{lowest_maximum, of_all_classes};
use super::grid::l2_of_c;
use super::options::*;
use super::search::{Search, Task, deviation};
use super::select::score;
use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::loss::weights::RowWeights;
use crate::path::record::Solution;
use crate::progress::Event;
use crate::sgd::torch_rng::TorchRng;
use crate::solver::point::Point;
use crate::solver::problem::Problem;

impl<S: Problem> Search<'_, '_, S> {
    /// Every penalty in every fold: the space is told which rows to fit, and gives the logits
    /// of those held out, which have no weight, with the others'. Class weights that are balanced
    /// and the features' scale are those of the rows that are fitted.
    pub(super) fn cross_validate(&mut self, folds: Folds) -> Result<()> {
        /// Scores of folds differ by far more than this tolerance makes of them.
        const TOLERANCE: f64 = 1e-3;
        let train = self.splits.train;
        let of_rows = assign(train, folds);
        self.warn_of_rare_classes(folds);
        let penalties = self.penalties()?;
        let mut left_out = 0;
        for fold in 0..folds.count {
            let held_out = |row: usize| of_rows[row] == fold;
            let keep: Vec<f64> = (0..train.rows())
                .map(|row| if held_out(row) { 0.0 } else { 1.0 })
                .collect();
            let samples = self.weights.samples.iter().zip(&keep);
            let held: Vec<f64> = samples.map(|(own, keep)| own * (1.0 - keep)).collect();
            let Some(weights) = self.weights_of_fold(&keep, &held, fold)? else {
                left_out += 1;
                continue;
            };
            let risk = self.risk(&weights);
            // A search ends with the logits of all rows multiplied out.
            let score = |found: &Solution<S::Real>| {
                let Point { b, z, .. } = &found.point;
                let lowest = lowest_maximum(&risk, z, b);
                let all = of_all_classes(&found.point, &risk, train.classes(), lowest);
                score(train, &held, &all.z, &all.b)
            };
            if self.log.ahead() < penalties.len() {
                let rows = 0..train.rows();
                let fitted = rows.filter(|&row| !held_out(row)).map(|row| row as u32);
                let deviation = match &self.deviation {
                    None => None,
                    Some(_) => deviation(train, self.options.standardize, &weights.samples)?,
                };
                self.fit_rows(Some(fitted.collect()), deviation.as_deref())?;
            }
            // The l2 of a C depends on the rows that are fitted.
            let of_fold = match self.options.penalty.cs() {
                Some(cs) => l2_of_c(cs, weights.rows.iter().sum())?,
                None => penalties.clone(),
            };
            self.last = None;
            for l2 in of_fold {
                let task = Task {
                    l2,
                    fold: Some(fold),
                    tolerance: self.options.tolerance.max(TOLERANCE),
                };
                self.search(&risk, task, |_, found| Ok(Some(score(found))))?;
            }
        }
        if left_out == folds.count {
            return Err(Error::options(
                "--cv",
                format!(
                    "{} folds, none of which has two classes to fit and a row to score",
                    folds.count
                ),
                "fewer folds, or rows and weights of two classes for every fold",
            ));
        }
        let deviation = self.deviation.clone();
        self.fit_rows(None, deviation.as_deref())
    }

    pub(super) fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
    ) -> Result<()> {
        let (observer, log) = (&mut *self.observer, &self.log);
        let of = self.design.x().features();
        self.problem.fit_rows(rows, deviation, &mut |columns| {
            observer.tell(Event::GramMatrix { columns, of });
            log.check(observer)
        })
    }

    /// The weights of the rows that a fold fits; `None`, and a warning, where it has not two
    /// classes to fit or nothing to score.
    pub(super) fn weights_of_fold(
        &mut self,
        keep: &[f64],
        held: &[f64],
        fold: usize,
    ) -> Result<Option<RowWeights>> {
        let train = self.splits.train;
        let of_rows = train
            .labels()
            .iter()
            .zip(keep.iter().zip(&self.weights.rows));
        let mut classes: Vec<u32> = of_rows
            .filter(|(_, (keep, weight))| **keep * **weight > 0.0)
            .map(|(&label, _)| label)
            .collect();
        classes.sort_unstable();
        classes.dedup();
        let why = if classes.len() < 2 {
            "its training rows are not of two classes".to_string()
        } else if held.iter().all(|&weight| weight == 0.0) {
            "its held-out rows have no weight".to_string()
        } else {
            return self.options.weighting.resolve(train, Some(keep)).map(Some);
        };
        self.observer.tell(Event::Warning(format!(
            "--cv: fold {fold} is left out of the mean: {why}"
        )));
        Ok(None)
    }

    /// Classes with fewer rows than there are folds are missing in some folds.
    pub(super) fn warn_of_rare_classes(&mut self, folds: Folds) {
        const NAMED: usize = 5;
        let train = self.splits.train;
        let mut rows = vec![0; train.classes()];
        train
            .labels()
            .iter()
            .for_each(|&label| rows[label as usize] += 1);
        let rare: Vec<String> = (rows.iter().enumerate())
            .filter(|(_, rows)| (1..folds.count).contains(rows))
            .map(|(class, rows)| format!("class {class} ({rows})"))
            .collect();
        if rare.is_empty() {
            return;
        }
        let more = match rare.len() > NAMED {
            true => format!(" and {} more", rare.len() - NAMED),
            false => String::new(),
        };
        self.observer.tell(Event::Warning(format!(
            "--cv: fewer rows than the {} folds, so that some folds score none of them: {}{more}",
            folds.count,
            rare[..rare.len().min(NAMED)].join(", ")
        )));
    }
}

/// The fold of each row: every class is dealt out in a random order, beginning where the one
/// before ended.
pub(super) fn assign(samples: &Samples, folds: Folds) -> Vec<usize> {
    let (labels, classes) = (samples.labels(), samples.classes());
    let mut rows_of = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        rows_of[label as usize].push(row);
    }
    let mut rng = TorchRng::new(folds.seed);
    let (mut order, mut next) = (Vec::new(), 0);
    let mut fold_of = vec![0; labels.len()];
    for rows in &rows_of {
        rng.permutation(rows.len() as u32, &mut order);
        for &i in &order {
            fold_of[rows[i as usize]] = next % folds.count;
            next += 1;
        }
    }
    fold_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(super) fn folds_are_stratified_disjoint_and_even() {
        let labels: Vec<i64> = (0..107).map(|i| (i * i + i / 7) % 4).collect();
        let x = vec![0.0; labels.len()];
        let samples = Samples::new(&x, 1, &labels, 4).unwrap();
        let folds = |count, seed| Folds {
            count,
            seed,
            one_standard_error: false,
        };
        let fold_of = assign(&samples, folds(5, 7));
        assert_eq!(fold_of, assign(&samples, folds(5, 7)));
        assert_ne!(fold_of, assign(&samples, folds(5, 8)));
        for fold in 0..5 {
            let of = |class: Option<u32>| {
                let rows = fold_of.iter().zip(samples.labels());
                rows.filter(|&(&f, &l)| f == fold && class.is_none_or(|c| c == l))
                    .count()
            };
            assert!((21..=22).contains(&of(None)));
            for class in 0..4 {
                let rows = samples.labels().iter().filter(|&&l| l == class).count();
                let here = of(Some(class));
                assert!(
                    here == rows / 5 || here == rows.div_ceil(5),
                    "{here} of {rows}"
                );
            }
        }
    }
}
