//! Cross-validation: the rows of each fold, and the solves on them.

use std::borrow::Cow;

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::linalg::vec::Real;
use crate::loss::weights::RowWeights;
use crate::path::certify::{lowest_maximum, of_all_classes};
use crate::path::options::l2_of_c;
use crate::path::options::{Fold, FoldRows, Folds, PathOptions};
use crate::path::path_solver::{PathSolver, SolveSpec, deviation};
use crate::path::select::score;
use crate::progress::{Event, HeldOut};
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::torch_rng::TorchRng;

impl<S: Problem> PathSolver<'_, '_, S> {
    /// Solve every penalty in every fold, and score it on the held-out rows. The problem fits the
    /// rows of the fold and gives the logits of all rows. Balanced class weights and the scale of
    /// the features are those of the fitted rows.
    pub(super) fn cross_validate(&mut self, folds: &Folds) -> Result<()> {
        let train = self.splits.train;
        self.warn_of_rare_classes(folds);
        let penalties = self.penalties()?;
        for (number, rows) in folds.of(train).iter().enumerate() {
            let fold = Counts::new(rows, &self.weights);
            if let Some(why) = fold.left_out(train, &self.weights) {
                self.observer.tell(Event::Warning(format!(
                    "`folds`: fold {number} is left out of the mean: {why}"
                )));
                continue;
            }
            let weights = self.options.weighting.resolve(train, Some(&fold.fitted))?;
            let risk = self.risk(&weights);
            if self.log.to_replay() < penalties.len() {
                let fitted = (0u32..)
                    .zip(&fold.fitted)
                    .filter(|&(_, &count)| count > 0.0);
                let fitted = fitted.map(|(row, _)| row).collect();
                let deviation = match &self.deviation {
                    None => None,
                    Some(_) => deviation(train, self.options.standardize, &weights.samples)?,
                };
                self.fit_rows(Some(fitted), deviation.as_deref())?;
            }
            // The l2 of a value of C depends on the fitted rows.
            let of_fold = match self.options.penalty.cs() {
                Some(cs) => l2_of_c(cs, weights.rows.iter().sum())?,
                None => penalties.clone(),
            };
            self.last = None;
            for l2 in of_fold {
                let spec = SolveSpec {
                    l2,
                    fold: Some(number),
                    tolerance: self.options.tolerance.max(self.options.fold_tolerance),
                };
                self.solve(&risk, spec, |solver, found, report| {
                    // At the end of a solve `z` has the logits of all rows.
                    let Point { b, z, .. } = &found.point;
                    let lowest = lowest_maximum(&risk, z, b);
                    let all = of_all_classes(&found.point, &risk, train.classes(), lowest);
                    if solver.options.emit.held_out {
                        // If ranks share the rows, each reports its own.
                        let x = train.x();
                        let own = x.row_shard().map_or(0..x.len(), |shard| shard.range());
                        let held_out = rows.held_out.iter().copied();
                        let held_out: Vec<u32> = held_out
                            .filter(|&row| own.contains(&(row as usize)))
                            .collect();
                        solver.observer.tell(Event::HeldOut(HeldOut {
                            fold: spec.fold,
                            l2,
                            outputs: all.b.len(),
                            logits: logits_of(&held_out, own.start, &all.z, &all.b),
                            rows: held_out,
                            report,
                        }));
                    }
                    Ok(Some(score(train, &fold.held_out, &all.z, &all.b)))
                })?;
            }
        }
        let deviation = self.deviation.clone();
        self.fit_rows(None, deviation.as_deref())
    }

    /// Make the problem fit `rows` alone (`None`: all) on the scale `deviation`.
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

    /// Warn of classes with fewer rows than stratified folds: some folds hold out none of them.
    fn warn_of_rare_classes(&mut self, folds: &Folds) {
        const NAMED: usize = 5;
        let FoldRows::Stratified { count, .. } = folds.rows else {
            return;
        };
        let train = self.splits.train;
        let mut rows = vec![0; train.classes()];
        for &label in train.labels() {
            rows[label as usize] += 1;
        }
        let rare: Vec<String> = (rows.iter().enumerate())
            .filter(|(_, rows)| (1..count).contains(rows))
            .map(|(class, rows)| format!("class {class} ({rows})"))
            .collect();
        if rare.is_empty() {
            return;
        }
        let more = if rare.len() > NAMED {
            format!(" and {} more", rare.len() - NAMED)
        } else {
            String::new()
        };
        self.observer.tell(Event::Warning(format!(
            "`folds`: fewer rows than the {} folds, so that some folds score none of them: {}{more}",
            count,
            rare[..rare.len().min(NAMED)].join(", ")
        )));
    }
}

/// The number of times that a fold fits each row, and the weight with which it scores each row.
struct Counts {
    fitted: Vec<f64>,
    held_out: Vec<f64>,
}

impl Counts {
    fn new(fold: &Fold, weights: &RowWeights) -> Counts {
        let mut counts = Counts {
            fitted: vec![0.0; weights.rows.len()],
            held_out: vec![0.0; weights.rows.len()],
        };
        for &row in &fold.fitted {
            counts.fitted[row as usize] += 1.0;
        }
        for &row in &fold.held_out {
            counts.held_out[row as usize] += weights.samples[row as usize];
        }
        counts
    }

    /// The reason why the fold cannot be fitted or scored, if there is one; `weights` are those of
    /// all rows.
    fn left_out(&self, train: &Samples, weights: &RowWeights) -> Option<&'static str> {
        let mut classes = (train.labels().iter().zip(&self.fitted).zip(&weights.rows))
            .filter(|((_, count), weight)| **count * **weight > 0.0)
            .map(|((label, _), _)| label);
        let first = classes.next();
        if classes.all(|label| Some(label) == first) {
            Some("its fitted rows are of fewer than two classes")
        } else if self.held_out.iter().all(|&weight| weight == 0.0) {
            Some("its held-out rows have no weight")
        } else {
            None
        }
    }
}

impl Folds {
    /// The folds as sets of rows.
    fn of(&self, train: &Samples) -> Cow<'_, [Fold]> {
        let (count, seed) = match &self.rows {
            FoldRows::Given(folds) => return Cow::Borrowed(folds),
            FoldRows::Stratified { count, seed } => (*count, *seed),
        };
        let fold_of = assign(train, count, seed);
        let rows = |keep: &dyn Fn(usize) -> bool| -> Vec<u32> {
            let rows = (0u32..).zip(&fold_of).filter(|&(_, &fold)| keep(fold));
            rows.map(|(row, _)| row).collect()
        };
        let fold = |number: usize| Fold {
            fitted: rows(&|fold| fold != number),
            held_out: rows(&|fold| fold == number),
        };
        (0..count).map(fold).collect()
    }

    /// Check that no set is empty or has a row number of `rows` or above.
    pub(super) fn check(&self, rows: usize) -> Result<()> {
        let FoldRows::Given(folds) = &self.rows else {
            return Ok(());
        };
        if folds.is_empty() {
            return Err(Error::options("folds", "no fold", "at least one"));
        }
        for (number, fold) in folds.iter().enumerate() {
            for (field, set) in [("fitted", &fold.fitted), ("held_out", &fold.held_out)] {
                let found = if set.is_empty() {
                    "no row".to_string()
                } else if let Some(at) = set.iter().position(|&row| row as usize >= rows) {
                    format!("row {} at {at}", set[at])
                } else {
                    continue;
                };
                let found = format!("{found} in `{field}` of fold {number}");
                let expected = format!("at least one row, each from 0 to {}", rows - 1);
                return Err(Error::options("folds", found, expected));
            }
        }
        Ok(())
    }

    /// Check that at least one fold can be fitted and scored, and that each C is a valid l2 in
    /// every fold.
    pub(super) fn check_weights(&self, train: &Samples, options: &PathOptions) -> Result<()> {
        if let FoldRows::Stratified { count, .. } = self.rows
            && !(2..=train.rows()).contains(&count)
        {
            let expected = format!(
                "2 to {}, the rows of the training split",
                train.rows().max(2)
            );
            return Err(Error::options("`folds`", count, expected));
        }
        let weights = options.weighting.resolve(train, None)?;
        let mut is_any = false;
        for fold in self.of(train).iter() {
            let fold = Counts::new(fold, &weights);
            if fold.left_out(train, &weights).is_none() {
                is_any = true;
                let weights = options.weighting.resolve(train, Some(&fold.fitted))?;
                l2_of_c(
                    options.penalty.cs().unwrap_or(&[]),
                    weights.rows.iter().sum(),
                )?;
            }
        }
        if is_any {
            return Ok(());
        }
        let found = format!(
            "{} folds, none of which has two classes to fit and a row to score",
            self.count()
        );
        let expected = "fewer folds, or rows and weights of two classes for every fold";
        Err(Error::options("`folds`", found, expected))
    }

    /// The same folds over a subset of the rows; `numbers` has their old numbers, ascending.
    pub(super) fn of_kept(&self, numbers: &[u32]) -> Folds {
        let rows = match &self.rows {
            FoldRows::Stratified { .. } => self.rows.clone(),
            FoldRows::Given(folds) => {
                let place = |row: &u32| numbers.binary_search(row).ok().map(|place| place as u32);
                let kept = |rows: &[u32]| rows.iter().filter_map(place).collect();
                let folds = folds.iter().map(|fold| Fold {
                    fitted: kept(&fold.fitted),
                    held_out: kept(&fold.held_out),
                });
                FoldRows::Given(folds.collect())
            }
        };
        Folds { rows, ..*self }
    }

    /// The folds in the fingerprint of a fit.
    pub(super) fn fingerprint(&self) -> String {
        let rows = match &self.rows {
            FoldRows::Stratified { count, seed } => format!("{count}, `seed` {seed}"),
            FoldRows::Given(folds) => {
                let mut crc = crc32fast::Hasher::new();
                for set in folds.iter().flat_map(|fold| [&fold.fitted, &fold.held_out]) {
                    crc.update(&set.len().to_le_bytes());
                    crc.update(bytemuck::cast_slice(set));
                }
                format!("{} given, {:08x}", folds.len(), crc.finalize())
            }
        };
        let rule = if self.one_standard_error {
            "one-se"
        } else {
            "lowest"
        };
        format!("{rows}, `cv_rule` {rule}")
    }
}

/// The logits z + b 1ᵀ of the rows with these numbers, rows x outputs; z is c x n, its first row is that
/// of number `first`.
fn logits_of<T: Real>(rows: &[u32], first: usize, z: &[T], b: &[f64]) -> Vec<f64> {
    let n = z.len() / b.len();
    let of_row =
        |&row: &u32| (0..b.len()).map(move |j| z[j * n + row as usize - first].into() + b[j]);
    rows.iter().flat_map(of_row).collect()
}

/// The fold of each row. The rows of each class are dealt to the folds in turn and in a random
/// order, beginning at the fold after that of the class before.
fn assign(samples: &Samples, count: usize, seed: u32) -> Vec<usize> {
    let (labels, classes) = (samples.labels(), samples.classes());
    let mut rows_of = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        rows_of[label as usize].push(row);
    }
    let mut rng = TorchRng::new(seed);
    let (mut order, mut next) = (Vec::new(), 0);
    let mut fold_of = vec![0; labels.len()];
    for rows in &rows_of {
        rng.permutation(rows.len() as u32, &mut order);
        for &i in &order {
            fold_of[rows[i as usize]] = next % count;
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
        let fold_of = assign(&samples, 5, 7);
        assert_eq!(fold_of, assign(&samples, 5, 7));
        assert_ne!(fold_of, assign(&samples, 5, 8));
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
