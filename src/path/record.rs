//! The solve log of a converged fit, which its checkpoint stores: a record for each solve that has
//! ended, and the state of the current solve.
//!
//! On resume the path is replayed from its beginning; recorded solves are skipped.

use crate::comm::Comm;
use crate::comm::rows::RowShard;
use crate::error::{Error, Result};
use crate::io::checkpoint;
use crate::io::checkpoint::{Checkpoints, Fingerprint, Saved, Saver, State, StateDict};
use crate::linalg::vec::Real;
use crate::model::Model;
use crate::progress::{Event, Observer, PathEntry};
use crate::solver::minimizer::Watch;
use crate::solver::point::Point;
use crate::solver::report::{MeasuredOn, Products, SolveReport, Status, Step};

/// The record of a solve that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SolveRecord {
    /// The fold whose rows were held out.
    pub fold: Option<usize>,
    /// The penalty.
    pub l2: f64,
    /// How the solve ended.
    pub report: SolveReport,
    /// Loss and accuracy on the validation or held-out rows.
    pub score: Option<(f64, f64)>,
}

impl From<&SolveRecord> for PathEntry {
    fn from(record: &SolveRecord) -> PathEntry {
        PathEntry {
            l2: record.l2,
            report: record.report,
            val_loss: record.score.map(|(loss, _)| loss),
            val_loss_error: None,
            val_accuracy: record.score.map(|(_, accuracy)| accuracy),
        }
    }
}

/// An optimum and the steps that led to it.
pub(crate) struct Solution<T> {
    pub point: Point<T>,
    pub steps: Vec<Step>,
    /// The model of the point, if a score or an event needed it.
    pub model: Option<Model>,
}

/// The records of all solves, and the checkpoint that stores them.
pub(crate) struct SolveLog {
    saver: Option<Saver>,
    /// The state of the current solve as read from a checkpoint, until that solve takes it.
    saved: Option<Saved>,
    records: Vec<SolveRecord>,
    /// Number of records that the resumed fit has replayed.
    replayed: usize,
    /// Steps of the current solve.
    steps: Vec<Step>,
    /// Whether the chosen penalty is being fitted on training and validation rows.
    refitting: bool,
}

impl SolveLog {
    /// An empty log, or the log of a checkpoint.
    ///
    /// # Errors
    /// As [`Saver::open`], and those of `fingerprint`.
    pub fn new(
        checkpoints: Option<&Checkpoints>,
        comm: Option<&dyn Comm>,
        fingerprint: impl FnOnce() -> Result<Fingerprint>,
    ) -> Result<SolveLog> {
        let mut log = SolveLog {
            saver: None,
            saved: None,
            records: Vec::new(),
            replayed: 0,
            steps: Vec::new(),
            refitting: false,
        };
        let Some(checkpoints) = checkpoints else {
            return Ok(log);
        };
        let mut saver = Saver::new(checkpoints.clone(), fingerprint()?, "steps");
        if comm.is_some_and(|comm| comm.rank() > 0) {
            saver = saver.reading_only();
        }
        if let Some(mut saved) = saver.open(comm)? {
            let mut state = LogState::default();
            saved.put(state.fields())?;
            for row in state.records.chunks_exact(SolveRecord::COLUMNS) {
                let record = SolveRecord::of_row(row);
                let foreign = || saver.foreign("searched", format!("{row:?}"));
                log.records.push(record.ok_or_else(foreign)?);
            }
            log.steps = steps_of(&state.steps);
            log.refitting = state.refitting > 0;
            saver.kept(log.done(log.steps.len()));
            log.saved = Some(saved);
        }
        log.saver = Some(saver);
        Ok(log)
    }

    /// Number of steps in the checkpoint, if the fit was resumed.
    pub fn resumed(&self) -> Option<usize> {
        (self.saved.is_some()).then(|| self.done(self.steps.len()))
    }

    /// Whether the penalty was chosen and is now fitted on training and validation rows.
    pub fn refitting(&self) -> bool {
        self.refitting
    }

    /// Begin the fit of the chosen penalty on training and validation rows. Saves the records, as no
    /// solve saves them while the matrices of these rows are computed.
    pub fn refit(&mut self) -> Result<()> {
        self.refitting = true;
        self.replayed = self.records.len();
        let (done, mut state) = (self.done(0), self.state());
        match &mut self.saver {
            Some(saver) if self.saved.is_none() => saver.save(state.fields(), done),
            _ => Ok(()),
        }
    }

    /// Check whether the caller has stopped the fit.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if so.
    pub fn check(&self, observer: &Observer) -> Result<()> {
        match &self.saver {
            Some(saver) => saver.check(observer),
            None => observer.check(),
        }
    }

    /// The record of the next solve, if the checkpoint has it.
    ///
    /// # Errors
    /// [`Error::Format`] if the record is of another fold or penalty.
    pub fn replay(&mut self, fold: Option<usize>, l2: f64) -> Result<Option<SolveRecord>> {
        let Some(&record) = self.records.get(self.replayed) else {
            return Ok(None);
        };
        self.replayed += 1;
        if (record.fold, record.l2) == (fold, l2) {
            Ok(Some(record))
        } else {
            Err(self.foreign())
        }
    }

    /// Number of records that are still to be replayed.
    pub fn to_replay(&self) -> usize {
        self.records.len() - self.replayed
    }

    /// Add the record of the current solve; returns the steps of that solve.
    pub fn record(&mut self, record: SolveRecord) -> Vec<Step> {
        self.records.push(record);
        self.replayed = self.records.len();
        std::mem::take(&mut self.steps)
    }

    /// The status of the last recorded solve.
    pub fn last_status(&self) -> Option<Status> {
        Some(self.records.last()?.report.status)
    }

    /// Whether the checkpoint holds a best optimum that the current solve will restore.
    pub fn has_best(&self) -> bool {
        (self.saved.as_ref()).is_some_and(|saved| saved.has("best.w"))
    }

    /// The penalties solved so far outside of folds.
    pub fn path(&self) -> Vec<PathEntry> {
        let records = self.records.iter();
        records
            .filter(|s| s.fold.is_none())
            .map(PathEntry::from)
            .collect()
    }

    /// The penalties solved in folds, each with the mean of its scores over the folds.
    pub fn path_of_folds(&self) -> Vec<PathEntry> {
        let records = self.records.iter();
        let records: Vec<&SolveRecord> = records.filter(|s| s.fold.is_some()).collect();
        // A fold may have been left out; every other fold has all penalties.
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

    /// The error for a checkpoint whose records do not match this fit.
    pub fn foreign(&self) -> Error {
        let saver =
            (self.saver.as_ref()).expect("only a checkpoint has records of another process");
        saver.foreign("searched", format!("{} solves", self.records.len()))
    }

    /// Number of steps of all solves, `steps` of them in the current one.
    fn done(&self, steps: usize) -> usize {
        let records = self.records.iter();
        steps + records.map(|s| s.report.iterations).sum::<usize>()
    }

    fn state(&self) -> LogState {
        LogState {
            records: self.records.iter().flat_map(SolveRecord::row).collect(),
            steps: rows_of(&self.steps),
            refitting: usize::from(self.refitting),
        }
    }
}

/// The part of a checkpoint that does not depend on the shape of points.
#[derive(Default)]
struct LogState {
    records: Vec<f64>,
    steps: Vec<f64>,
    refitting: usize,
}

impl LogState {
    fn fields(&mut self) -> StateDict<'_> {
        let mut fields = StateDict::default();
        fields.rows("searched", &mut self.records, SolveRecord::COLUMNS);
        fields.rows("steps", &mut self.steps, STEP_COLUMNS);
        fields.count("refitting", &mut self.refitting);
        fields
    }
}

/// Reports the steps of a solve, and saves its state with the log.
pub(crate) struct SolveWatch<'j, 'o, T> {
    pub log: &'j mut SolveLog,
    /// The best optimum so far, if validation rows choose.
    pub best: Option<&'j mut Solution<T>>,
    pub observer: &'j mut Observer<'o>,
    /// The penalty and fold of the solve.
    pub l2: f64,
    pub fold: Option<usize>,
    /// The ranks, if they share the rows.
    pub ranks: Option<RowShard<'j>>,
}

impl<T: Real> Watch<Point<T>> for SolveWatch<'_, '_, T> {
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
            best_fields(&mut best.point, &mut best_steps, self.ranks, &mut fields);
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

impl<T: Real> SolveWatch<'_, '_, T> {
    /// Save the state if a checkpoint is due; return an error if the caller has stopped the fit.
    fn keep(&mut self, step: Step, state: &mut impl State<Point<T>>) -> Result<()> {
        let done = self.log.done(step.iteration);
        let mut saver = self.log.saver.take();
        let kept = checkpoint::keep(saver.as_mut(), self.observer, self.ranks, done, |saver| {
            let mut log_state = self.log.state();
            let mut best_steps =
                (self.best.as_ref()).map_or(Vec::new(), |best| rows_of(&best.steps));
            let mut fields = log_state.fields();
            state.fields(&mut fields);
            if let Some(best) = &mut self.best {
                best_fields(&mut best.point, &mut best_steps, self.ranks, &mut fields);
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
    ranks: Option<RowShard<'a>>,
    fields: &mut StateDict<'a>,
) {
    fields.group("best.");
    point.fields(ranks, fields);
    fields.rows("steps", steps, STEP_COLUMNS);
}

/// Values of a step in a checkpoint: all but its number.
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

    /// The record as numbers; NaN for `None`.
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

    /// The record from numbers; `None` if they are not those of a record.
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
            // The loss of a score may be NaN, the accuracy cannot.
            score: some(accuracy).map(|accuracy| (val_loss, accuracy)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_encoded_as_rows_without_loss() {
        let mut record = SolveRecord {
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
            record.report.status = status;
            assert_eq!(SolveRecord::of_row(&record.row()), Some(record));
        }
        (record.fold, record.report.gap, record.score) = (None, None, None);
        (record.report.decrement, record.report.separated_class) = (None, None);
        let good = record.row();
        assert_eq!(SolveRecord::of_row(&good), Some(record));
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
