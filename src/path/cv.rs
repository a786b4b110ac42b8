//! Cross-validation: the rows of each fold, and the fits of them.

use std::borrow::Cow;

use super::certify::{lowest_maximum, of_all_classes};
use super::grid::l2_of_c;
use super::options::*;
use super::search::{Search, Task, deviation};
use super::select::score;
use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::linalg::vec::Real;
use crate::loss::weights::RowWeights;
use crate::progress::{Event, HeldOut};
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::torch_rng::TorchRng;

impl<S: Problem> Search<'_, '_, S> {
    /// Every penalty in every fold. The problem is told which rows to fit, and gives the logits of
    /// all rows. Class weights that are balanced and the features' scale are those of the rows
    /// that are fitted.
    pub(super) fn cross_validate(&mut self, folds: &Folds) -> Result<()> {
        /// Scores of folds differ by far more than this tolerance makes of them.
        const TOLERANCE: f64 = 1e-3;
        let train = self.splits.train;
        self.warn_of_rare_classes(folds);
        let penalties = self.penalties()?;
        for (number, rows) in folds.of(train).iter().enumerate() {
            let fold = Counts::new(rows, &self.weights);
            if let Some(why) = fold.left_out(train, &self.weights) {
                self.observer.tell(Event::Warning(format!(
                    "--cv: fold {number} is left out of the mean: {why}"
                )));
                continue;
            }
            let weights = self.options.weighting.resolve(train, Some(&fold.fitted))?;
            let risk = self.risk(&weights);
            if self.log.ahead() < penalties.len() {
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
            // The l2 of a C depends on the rows that are fitted.
            let of_fold = match self.options.penalty.cs() {
                Some(cs) => l2_of_c(cs, weights.rows.iter().sum())?,
                None => penalties.clone(),
            };
            self.last = None;
            for l2 in of_fold {
                let task = Task {
                    l2,
                    fold: Some(number),
                    tolerance: self.options.tolerance.max(TOLERANCE),
                };
                self.search(&risk, task, |search, found, report| {
                    // A solve ends with the logits of all rows multiplied out.
                    let Point { b, z, .. } = &found.point;
                    let lowest = lowest_maximum(&risk, z, b);
                    let all = of_all_classes(&found.point, &risk, train.classes(), lowest);
                    if search.options.emit.held_out {
                        search.observer.tell(Event::HeldOut(HeldOut {
                            fold: task.fold,
                            l2,
                            rows: rows.held_out.clone(),
                            outputs: all.b.len(),
                            logits: logits_of(&rows.held_out, &all.z, &all.b),
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

    /// Classes with fewer rows than there are stratified folds are missing in some folds.
    fn warn_of_rare_classes(&mut self, folds: &Folds) {
        const NAMED: usize = 5;
        let FoldRows::Stratified { count, .. } = folds.rows else {
            return;
        };
        let train = self.splits.train;
        let mut rows = vec![0; train.classes()];
        train
            .labels()
            .iter()
            .for_each(|&label| rows[label as usize] += 1);
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
            "--cv: fewer rows than the {} folds, so that some folds score none of them: {}{more}",
            count,
            rare[..rare.len().min(NAMED)].join(", ")
        )));
    }
}

/// How often a fold fits each row, and the weight with which it scores each row.
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

    /// Why the fold cannot be fitted or scored, if so; `weights` are those of all rows.
    fn left_out(&self, train: &Samples, weights: &RowWeights) -> Option<&'static str> {
        let mut classes = (train.labels().iter().zip(&self.fitted).zip(&weights.rows))
            .filter(|((_, count), weight)| **count * **weight > 0.0)
            .map(|((label, _), _)| label);
        let first = classes.next();
        if classes.all(|label| Some(label) == first) {
            Some("its training rows are not of two classes")
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

    /// Refuse sets that are empty or name rows beyond `rows`.
    pub(super) fn check(&self, rows: usize) -> Result<()> {
        let FoldRows::Given(folds) = &self.rows else {
            return Ok(());
        };
        if folds.is_empty() {
            return Err(Error::options("folds", "no fold", "at least one"));
        }
        for (number, fold) in folds.iter().enumerate() {
            for (what, set) in [("fitted", &fold.fitted), ("held_out", &fold.held_out)] {
                let found = if set.is_empty() {
                    "no row".to_string()
                } else if let Some(at) = set.iter().position(|&row| row as usize >= rows) {
                    format!("row {} at {at}", set[at])
                } else {
                    continue;
                };
                let found = format!("{found} in `{what}` of fold {number}");
                let expected = format!("at least one row, each from 0 to {}", rows - 1);
                return Err(Error::options("folds", found, expected));
            }
        }
        Ok(())
    }

    /// Refuse folds none of which can be fitted and scored, or a C that is no penalty in one.
    pub(super) fn check_weights(&self, train: &Samples, options: &PathOptions) -> Result<()> {
        if let FoldRows::Stratified { count, .. } = self.rows
            && !(2..=train.rows()).contains(&count)
        {
            let expected = format!(
                "2 to {}, the rows of the training split",
                train.rows().max(2)
            );
            return Err(Error::options("--cv", count, expected));
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
        Err(Error::options("--cv", found, expected))
    }

    /// The same folds of the rows that are kept: `numbers` has their old numbers, ascending.
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

    /// What tells them from others.
    pub(super) fn fingerprint(&self) -> String {
        let rows = match &self.rows {
            FoldRows::Stratified { count, seed } => format!("{count}, --seed {seed}"),
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
        format!("{rows}, --cv-rule {rule}")
    }
}

/// The logits z + b 1ᵀ of some rows, rows x outputs; z is c x n.
fn logits_of<T: Real>(rows: &[u32], z: &[T], b: &[f64]) -> Vec<f64> {
    let n = z.len() / b.len();
    let of_row = |&row: &u32| (0..b.len()).map(move |j| z[j * n + row as usize].into() + b[j]);
    rows.iter().flat_map(of_row).collect()
}

/// The fold of each row: every class is dealt out in a random order, beginning where the one
/// before ended.
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
