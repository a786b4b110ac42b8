//! What a checkpoint of a converged fit holds: a row of numbers for each solve that has ended, and
//! the state of the solve underway.
//!
//! On resume the path is replayed from its beginning; recorded solves are skipped.

use crate::error::{Error, Result};
use crate::io::checkpoint::{self, Checkpoints, Fingerprint, Saved, Saver, State, StateDict};
use crate::linalg::vec::Real;
use crate::model::Model;
use crate::progress::{Event, Observer, PathEntry};
use crate::solver::minimizer::Watch;
use crate::solver::point::Point;
use crate::solver::report::{MeasuredOn, Products, SolveReport, Status, Step};

/// A search that came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SolveRecord {
    /// The fold whose rows were held out.
    pub fold: Option<usize>,
    /// The penalty.
    pub l2: f64,
    /// The end.
    pub report: SolveReport,
    /// Loss and accuracy on rows that were not fitted.
    pub score: Option<(f64, f64)>,
}

impl From<&SolveRecord> for PathEntry {
    fn from(searched: &SolveRecord) -> PathEntry {
        PathEntry {
            l2: searched.l2,
            report: searched.report,
            val_loss: searched.score.map(|(loss, _)| loss),
            val_loss_error: None,
            val_accuracy: searched.score.map(|(_, accuracy)| accuracy),
        }
    }
}

/// An optimum, and the way there.
pub(crate) struct Solution<T> {
    pub point: Point<T>,
    pub steps: Vec<Step>,
    /// The point spelled out, where it was wanted before.
    pub model: Option<Model>,
}

/// The record, and where it is kept.
pub(crate) struct SolveLog {
    saver: Option<Saver>,
    /// What was read and is still to be put into the search that was underway.
    saved: Option<Saved>,
    records: Vec<SolveRecord>,
    /// How many of these the fit has come past.
    passed: usize,
    /// Steps of the search underway.
    steps: Vec<Step>,
    /// Whether it is that of the chosen penalty on all rows.
    refitting: bool,
}

impl SolveLog {
    /// Begin, or go on from a checkpoint.
    ///
    /// # Errors
    /// As [`Saver::open`], and those of `fingerprint`.
    pub fn new(
        checkpoints: Option<&Checkpoints>,
        fingerprint: impl FnOnce() -> Result<Fingerprint>,
    ) -> Result<SolveLog> {
        let mut log = SolveLog {
            saver: None,
            saved: None,
            records: Vec::new(),
            passed: 0,
            steps: Vec::new(),
            refitting: false,
        };
        let Some(checkpoints) = checkpoints else {
            return Ok(log);
        };
        let mut saver = Saver::new(checkpoints.clone(), fingerprint()?, "steps");
        if let Some(mut saved) = saver.open()? {
            let mut pages = Pages::default();
            saved.put(pages.fields())?;
            for row in pages.records.chunks_exact(SolveRecord::COLUMNS) {
                let records = SolveRecord::of_row(row);
                let foreign = || saver.foreign("searched", format!("{row:?}"));
                log.records.push(records.ok_or_else(foreign)?);
            }
            log.steps = steps_of(&pages.steps);
            log.refitting = pages.refitting > 0;
            saver.kept(log.done(log.steps.len()));
            log.saved = Some(saved);
        }
        log.saver = Some(saver);
        Ok(log)
    }

    /// Steps that an earlier process made, if there was one.
    pub fn resumed(&self) -> Option<usize> {
        (self.saved.is_some()).then(|| self.done(self.steps.len()))
    }

    /// Whether the penalty is chosen and now fitted on all rows.
    pub fn refitting(&self) -> bool {
        self.refitting
    }

    /// From now on the chosen penalty is fitted on all rows. What chose it is saved: no search
    /// is underway while the matrices of more rows are made.
    pub fn refit(&mut self) -> Result<()> {
        self.refitting = true;
        self.passed = self.records.len();
        let (done, mut pages) = (self.done(0), self.pages());
        match &mut self.saver {
            Some(saver) if self.saved.is_none() => saver.save(pages.fields(), done),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`Error::Interrupted`] once the caller wants the fit to stop.
    pub fn check(&self, observer: &Observer) -> Result<()> {
        match &self.saver {
            Some(saver) => saver.check(observer),
            None => observer.check(),
        }
    }

    /// The next search, if it was made before.
    ///
    /// # Errors
    /// [`Error::Format`] if it was another one.
    pub fn pass(&mut self, fold: Option<usize>, l2: f64) -> Result<Option<SolveRecord>> {
        let Some(&records) = self.records.get(self.passed) else {
            return Ok(None);
        };
        self.passed += 1;
        if (records.fold, records.l2) == (fold, l2) {
            Ok(Some(records))
        } else {
            Err(self.foreign())
        }
    }

    /// Searches that were made before and are still to be passed.
    pub fn ahead(&self) -> usize {
        self.records.len() - self.passed
    }

    /// A search came to its end; its steps.
    pub fn record(&mut self, records: SolveRecord) -> Vec<Step> {
        self.records.push(records);
        self.passed = self.records.len();
        std::mem::take(&mut self.steps)
    }

    /// How the last search ended.
    pub fn last_status(&self) -> Option<Status> {
        Some(self.records.last()?.report.status)
    }

    /// Whether the best optimum so far, beside the search underway, is still to be put in.
    pub fn has_best(&self) -> bool {
        (self.saved.as_ref()).is_some_and(|saved| saved.has("best.w"))
    }

    /// The penalties tried so far, without folds.
    pub fn path(&self) -> Vec<PathEntry> {
        let records = self.records.iter();
        records
            .filter(|s| s.fold.is_none())
            .map(PathEntry::from)
            .collect()
    }

    /// The penalties tried in folds, each with its mean over all of them.
    pub fn path_of_folds(&self) -> Vec<PathEntry> {
        let records = self.records.iter();
        let records: Vec<&SolveRecord> = records.filter(|s| s.fold.is_some()).collect();
        // Folds may have been left out; those that were not have all penalties.
        let first = records.first().and_then(|s| s.fold);
        let count = records.iter().filter(|s| s.fold == first).count();
        let of_penalty = |i: usize| {
            let folds = records.iter().skip(i).step_by(count);
            let scores: Vec<(f64, f64)> = folds.filter_map(|s| s.score).collect();
            let k = scores.len() as f64;
            let mean = scores.iter().map(|(loss, _)| loss).sum::<f64>() / k;
            let square = |(loss, _): &(f64, f64)| (loss - mean).powi(2);
            let variance = scores.iter().map(square).sum::<f64>() / (k - 1.0).max(1.0);
            PathEntry {
                val_loss: Some(mean),
                val_loss_error: Some((variance / k).sqrt()),
                val_accuracy: Some(scores.iter().map(|(_, a)| a).sum::<f64>() / k),
                ..PathEntry::from(records[i])
            }
        };
        (0..count).map(of_penalty).collect()
    }

    /// A checkpoint whose searches do not lead where it says that the fit was.
    pub fn foreign(&self) -> Error {
        let saver = (self.saver.as_ref()).expect("only a checkpoint has what was not made here");
        saver.foreign("searched", format!("{} searches", self.records.len()))
    }

    /// Steps in all, so many in the search underway.
    fn done(&self, steps: usize) -> usize {
        let records = self.records.iter();
        steps + records.map(|s| s.report.iterations).sum::<usize>()
    }

    fn pages(&self) -> Pages {
        Pages {
            records: self.records.iter().flat_map(SolveRecord::row).collect(),
            steps: rows_of(&self.steps),
            refitting: usize::from(self.refitting),
        }
    }
}

/// What of a checkpoint does not depend on the shape of points.
#[derive(Default)]
struct Pages {
    records: Vec<f64>,
    steps: Vec<f64>,
    refitting: usize,
}

impl Pages {
    fn fields(&mut self) -> StateDict<'_> {
        let mut fields = StateDict::default();
        fields.rows("searched", &mut self.records, SolveRecord::COLUMNS);
        fields.rows("steps", &mut self.steps, STEP_COLUMNS);
        fields.count("refitting", &mut self.refitting);
        fields
    }
}

/// Watches a solve, and saves its state with the record.
pub(crate) struct Watched<'j, 'o, T> {
    pub log: &'j mut SolveLog,
    /// The best optimum before it, if one is to be kept.
    pub best: Option<&'j mut Solution<T>>,
    pub observer: &'j mut Observer<'o>,
    /// The penalty and fold of the solve.
    pub l2: f64,
    pub fold: Option<usize>,
}

impl<T: Real> Watch<Point<T>> for Watched<'_, '_, T> {
    fn begin(&mut self, state: &mut impl State<Point<T>>) -> Result<bool> {
        let Some(mut saved) = self.log.saved.take() else {
            return Ok(false);
        };
        if !saved.has("search.w") {
            return saved.finish().map(|()| false);
        }
        let mut best_steps = Vec::new();
        let mut fields = StateDict::default();
        state.fields(&mut fields);
        if let Some(best) = &mut self.best {
            best_fields(&mut best.point, &mut best_steps, &mut fields);
        }
        saved.put(fields)?;
        saved.finish()?;
        if let Some(best) = &mut self.best {
            best.steps = steps_of(&best_steps);
        }
        Ok(true)
    }

    fn at(&mut self, step: Step, state: Option<&mut impl State<Point<T>>>) -> Result<()> {
        if let Some(state) = state {
            self.keep(step, state)?;
        }
        self.log.steps.push(step);
        let (l2, fold) = (self.l2, self.fold);
        self.observer.tell(Event::Step { l2, fold, step });
        Ok(())
    }
}

impl<T: Real> Watched<'_, '_, T> {
    /// Save the state if it is time to; stop if a signal has come.
    fn keep(&mut self, step: Step, state: &mut impl State<Point<T>>) -> Result<()> {
        let done = self.log.done(step.iteration);
        let mut saver = self.log.saver.take();
        let kept = checkpoint::keep(saver.as_mut(), self.observer, done, |saver| {
            let mut pages = self.log.pages();
            let mut best_steps =
                (self.best.as_ref()).map_or(Vec::new(), |best| rows_of(&best.steps));
            let mut fields = pages.fields();
            state.fields(&mut fields);
            if let Some(best) = &mut self.best {
                best_fields(&mut best.point, &mut best_steps, &mut fields);
            }
            saver.save(fields, done)
        });
        self.log.saver = saver;
        kept
    }
}

fn best_fields<'a, T: Real>(
    point: &'a mut Point<T>,
    steps: &'a mut Vec<f64>,
    fields: &mut StateDict<'a>,
) {
    fields.group("best.");
    point.fields(fields);
    fields.rows("steps", steps, STEP_COLUMNS);
}

/// Values of a step: all but its number.
const STEP_COLUMNS: usize = 2;

fn rows_of(steps: &[Step]) -> Vec<f64> {
    let rows = steps
        .iter()
        .map(|step| [step.objective, step.gradient_norm]);
    rows.flatten().collect()
}

fn steps_of(rows: &[f64]) -> Vec<Step> {
    let rows = rows.chunks_exact(STEP_COLUMNS).enumerate();
    rows.map(|(iteration, row)| Step {
        iteration,
        objective: row[0],
        gradient_norm: row[1],
    })
    .collect()
}

impl SolveRecord {
    const COLUMNS: usize = 16;

    /// In numbers; NaN for what there is not.
    fn row(&self) -> [f64; Self::COLUMNS] {
        let SolveReport { products, .. } = self.report;
        let (loss, accuracy) = self.score.unwrap_or((f64::NAN, f64::NAN));
        [
            self.fold.map_or(f64::NAN, |fold| fold as f64),
            self.l2,
            f64::from(self.report.status as u8),
            self.report.objective,
            self.report.loss,
            self.report.gradient_norm,
            self.report.initial_gradient_norm,
            self.report.gap.unwrap_or(f64::NAN),
            self.report.iterations as f64,
            products.logits as f64,
            products.pullbacks as f64,
            products.solves as f64,
            loss,
            accuracy,
            self.report.decrement.unwrap_or(f64::NAN),
            self.report.separated_class.map_or(f64::NAN, f64::from),
        ]
    }

    /// `None` for numbers of nothing.
    fn of_row(row: &[f64]) -> Option<SolveRecord> {
        const STATUSES: [Status; 5] = [
            Status::Converged,
            Status::IterationLimit,
            Status::PrecisionLimited,
            Status::Separable,
            Status::QuasiSeparable,
        ];
        let some = |value: f64| (!value.is_nan()).then_some(value);
        let count = |value: f64| {
            let whole = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
            whole.then_some(value as usize)
        };
        let &[
            fold,
            l2,
            status,
            objective,
            loss,
            gradient_norm,
            initial_gradient_norm,
            gap,
            iterations,
            logits,
            pullbacks,
            solves,
            val_loss,
            accuracy,
            decrement,
            separated_class,
        ] = row
        else {
            return None;
        };
        Some(SolveRecord {
            fold: match some(fold) {
                Some(fold) => Some(count(fold)?),
                None => None,
            },
            l2,
            report: SolveReport {
                status: *STATUSES.get(count(status)?)?,
                measured_on: MeasuredOn::Coordinates,
                objective,
                loss,
                gradient_norm,
                initial_gradient_norm,
                gap: some(gap),
                decrement: some(decrement),
                separated_class: match some(separated_class) {
                    Some(class) => Some(count(class)? as u32),
                    None => None,
                },
                iterations: count(iterations)?,
                products: Products {
                    logits: count(logits)?,
                    pullbacks: count(pullbacks)?,
                    solves: count(solves)?,
                },
            },
            // A loss may be NaN, an accuracy not.
            score: some(accuracy).map(|accuracy| (val_loss, accuracy)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_what_was_searched() {
        let mut records = SolveRecord {
            fold: Some(3),
            l2: 0.1,
            report: SolveReport {
                status: Status::Converged,
                measured_on: MeasuredOn::Coordinates,
                objective: 1.5,
                loss: 1.25,
                gradient_norm: 1e-9,
                initial_gradient_norm: 2.0,
                gap: Some(1e-12),
                decrement: Some(1e-11),
                separated_class: Some(2),
                iterations: 17,
                products: Products {
                    logits: 1,
                    pullbacks: 2,
                    solves: 3,
                },
            },
            score: Some((0.7, 0.5)),
        };
        for status in [
            Status::Converged,
            Status::IterationLimit,
            Status::PrecisionLimited,
            Status::Separable,
            Status::QuasiSeparable,
        ] {
            records.report.status = status;
            assert_eq!(SolveRecord::of_row(&records.row()), Some(records));
        }
        (records.fold, records.report.gap, records.score) = (None, None, None);
        (records.report.decrement, records.report.separated_class) = (None, None);
        let good = records.row();
        assert_eq!(SolveRecord::of_row(&good), Some(records));
        assert_eq!(SolveRecord::of_row(&good[1..]), None);
        for (column, bad) in [
            (0, 0.5),
            (2, 5.0),
            (8, -1.0),
            (9, 1e300),
            (11, f64::NAN),
            (15, 0.5),
        ] {
            let mut row = good;
            row[column] = bad;
            assert_eq!(SolveRecord::of_row(&row), None, "{column}");
        }
    }
}
