//! Checkpoints: the state from which a stopped fit resumes, with bit-identical results.
//!
//! A checkpoint is a safetensors file (see [`crate::io::tensors`]). It contains every
//! [field](StateDict) of the fit's state by name and, as metadata, the fingerprint of the fit: all
//! options, and checksums of the rows, that the result depends on. It is replaced atomically. Values
//! that can be recomputed (K, the order of mini-batches) are not saved.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::comm::rows::RowShard;
use crate::comm::{self, Comm};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::tensors;
use crate::io::tensors::{Numbers, Tensor};
use crate::linalg::vec::{Real, RealSlice};
use crate::progress::Observer;

/// Where and how often a fit saves its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoints {
    /// The file.
    pub path: PathBuf,
    /// How often; `None` only when the fit is stopped.
    pub every: Option<Every>,
    /// Resume from the file if it exists.
    pub resume: bool,
}

impl Checkpoints {
    /// Refuse to overwrite a file, or its temporary sibling, that is not a checkpoint; a link is not
    /// one. A missing file is accepted. The file that a fit resumes from is checked when it is read.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Io`].
    pub fn refuse_foreign(&self) -> Result<()> {
        if !self.resume || self.path.is_symlink() {
            refuse_foreign(&self.path, Extent::Whole)?;
        }
        refuse_foreign(&files::sibling(&self.path, "partial")?, Extent::Prefix)
    }

    /// Remove the file, once the fit's output is published. A file that is not a checkpoint is kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self) -> Result<()> {
        if is_checkpoint(&self.path, Extent::Whole)? {
            files::remove_file(&self.path)?;
        }
        Ok(())
    }

    /// Write the file atomically. It may replace only a checkpoint.
    fn replace(&self, bytes: &[u8]) -> Result<()> {
        refuse_foreign(&self.path, Extent::Whole)?;
        // A killed process may have left a prefix of a checkpoint.
        let partial = files::sibling(&self.path, "partial")?;
        if is_checkpoint(&partial, Extent::Prefix)? {
            files::remove_file(&partial)?;
        }
        files::replace(&self.path, bytes)
    }
}

/// How much of a checkpoint a file must contain.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    Whole,
    /// Any prefix.
    Prefix,
}

/// An error if the path exists and is not a checkpoint.
fn refuse_foreign(path: &Path, extent: Extent) -> Result<()> {
    if path.symlink_metadata().is_err() || is_checkpoint(path, extent)? {
        return Ok(());
    }
    let found = "something that is no checkpoint";
    let expected = "nothing of this name; move it away, or choose another path";
    Err(Error::format(path, "content", found, expected))
}

/// Whether the path is a checkpoint, and not a link to one.
fn is_checkpoint(path: &Path, extent: Extent) -> Result<bool> {
    /// The beginning of the metadata, after eight bytes of length.
    const START: &[u8] = br#"{"__metadata__":{"flowreg":"{\"about\":{\"checkpoint\":"#;
    if !path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file())
    {
        return Ok(false);
    }
    let mut start = Vec::new();
    (std::fs::File::open(path))
        .and_then(|file| file.take(8 + START.len() as u64).read_to_end(&mut start))
        .map_err(Error::io(path, "open the checkpoint"))?;
    Ok(match start.get(8..) {
        Some(start) => start == START || extent == Extent::Prefix && START.starts_with(start),
        None => extent == Extent::Prefix,
    })
}

/// The interval between checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Number of epochs, or of steps of a converged fit.
    Epochs(usize),
    /// Time; the checkpoint is written at the end of the epoch or step.
    Time(Duration),
}

/// The state that an optimizer keeps from one epoch or step to the next; `P` is the point type of
/// its engine.
///
/// `fields` lists all vectors and scalars that later epochs or steps depend on, to save and to
/// restore them. Values that can be computed from others are not listed.
pub trait State<P> {
    /// The current point.
    fn point(&self) -> &P;
    /// List every field; always the same fields with the same lengths.
    fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>);
}

/// The named vectors of a state.
#[derive(Default)]
pub struct StateDict<'a> {
    prefix: String,
    fields: Vec<(String, Field<'a>)>,
}

enum Field<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    Count(&'a mut usize),
    /// c x n values, of which this rank has those of its rows.
    RowsOfRanks(RealSlice<'a>, RowShard<'a>),
    /// A table, row-major, and its number of columns.
    Rows(&'a mut Vec<f64>, usize),
}

impl<'a> StateDict<'a> {
    /// Prefix the names of later fields.
    pub fn group(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    /// Add a vector of f32.
    pub fn f32(&mut self, name: &str, values: &'a mut [f32]) {
        self.push(name, Field::F32(values));
    }

    /// Add a vector of f64; for a scalar use `std::slice::from_mut`.
    pub fn f64(&mut self, name: &str, values: &'a mut [f64]) {
        self.push(name, Field::F64(values));
    }

    /// Add c x n values, one for each output and row, of which other ranks may have those of other rows.
    pub fn of_rows<T: Real>(
        &mut self,
        name: &str,
        values: &'a mut [T],
        ranks: Option<RowShard<'a>>,
    ) {
        match ranks {
            None => self.real(name, values),
            Some(shard) => self.push(name, Field::RowsOfRanks(T::slice(values), shard)),
        }
    }

    /// Add a vector of f32 or f64.
    pub fn real<T: Real>(&mut self, name: &str, values: &'a mut [T]) {
        match T::slice(values) {
            RealSlice::F32(values) => self.f32(name, values),
            RealSlice::F64(values) => self.f64(name, values),
        }
    }

    /// Add a count, below 2⁵³.
    pub fn count(&mut self, name: &str, count: &'a mut usize) {
        self.push(name, Field::Count(count));
    }

    /// Add a table of `columns` columns; its number of rows is read from the file.
    pub fn rows(&mut self, name: &str, values: &'a mut Vec<f64>, columns: usize) {
        self.push(name, Field::Rows(values, columns));
    }

    fn push(&mut self, name: &str, field: Field<'a>) {
        self.fields.push((format!("{}{name}", self.prefix), field));
    }
}

impl Field<'_> {
    fn numbers(&self) -> Numbers<'_> {
        match self {
            Field::F32(values) => Numbers::F32(Cow::Borrowed(values)),
            Field::F64(values) => Numbers::F64(Cow::Borrowed(values)),
            Field::RowsOfRanks(RealSlice::F32(values), shard) => {
                Numbers::F32(Cow::Owned(shard.rows_of_all(values)))
            }
            Field::RowsOfRanks(RealSlice::F64(values), shard) => {
                Numbers::F64(Cow::Owned(shard.rows_of_all(values)))
            }
            Field::Count(count) => Numbers::F64(Cow::Owned(vec![**count as f64])),
            Field::Rows(values, _) => Numbers::F64(Cow::Borrowed(values)),
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Field::F32(values) => vec![values.len()],
            Field::F64(values) => vec![values.len()],
            Field::RowsOfRanks(RealSlice::F32(values), shard) => {
                vec![shard.len_of_all(values.len())]
            }
            Field::RowsOfRanks(RealSlice::F64(values), shard) => {
                vec![shard.len_of_all(values.len())]
            }
            Field::Count(_) => vec![1],
            Field::Rows(values, columns) => vec![values.len() / columns, *columns],
        }
    }

    /// Copy the values into the field. `Err` says what was expected instead.
    fn put(self, numbers: &Numbers) -> std::result::Result<(), String> {
        match (self, numbers) {
            (Field::F32(to), Numbers::F32(from)) if to.len() == from.len() => {
                to.copy_from_slice(from);
            }
            (Field::F64(to), Numbers::F64(from)) if to.len() == from.len() => {
                to.copy_from_slice(from);
            }
            (Field::RowsOfRanks(RealSlice::F32(to), shard), Numbers::F32(from))
                if shard.len_of_all(to.len()) == from.len() =>
            {
                shard.copy_own_rows(from, to);
            }
            (Field::RowsOfRanks(RealSlice::F64(to), shard), Numbers::F64(from))
                if shard.len_of_all(to.len()) == from.len() =>
            {
                shard.copy_own_rows(from, to);
            }
            (Field::Count(to), Numbers::F64(from)) if is_count(from) => *to = from[0] as usize,
            (Field::Rows(to, columns), Numbers::F64(from)) if from.len() % columns == 0 => {
                *to = from.to_vec();
            }
            (Field::F32(to), _) => return Err(format!("{} values of f32", to.len())),
            (Field::F64(to), _) => return Err(format!("{} values of f64", to.len())),
            (Field::RowsOfRanks(RealSlice::F32(to), shard), _) => {
                return Err(format!("{} values of f32", shard.len_of_all(to.len())));
            }
            (Field::RowsOfRanks(RealSlice::F64(to), shard), _) => {
                return Err(format!("{} values of f64", shard.len_of_all(to.len())));
            }
            (Field::Count(_), _) => return Err("a whole number".to_string()),
            (Field::Rows(_, columns), _) => return Err(format!("rows of {columns} values of f64")),
        }
        Ok(())
    }
}

/// Whether the value is a single whole number that f64 represents exactly.
fn is_count(values: &[f64]) -> bool {
    matches!(values, &[value] if value.fract() == 0.0 && (0.0..9e15).contains(&value))
}

/// The metadata of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    checkpoint: u32,
    fingerprint: Fingerprint,
}

/// Version of the format.
const VERSION: u32 = 6;

/// Names and values of everything that the result of a fit depends on.
pub(crate) type Fingerprint = Vec<(String, String)>;

/// Saves and restores the state of a fit.
pub(crate) struct Saver {
    checkpoints: Checkpoints,
    fingerprint: Fingerprint,
    /// What `done` counts: "epochs" or "steps".
    unit: &'static str,
    /// Number of epochs or steps at the last save, and its time.
    last: (usize, Instant),
    /// Whether the file contains a state of this fit.
    kept: bool,
    /// Whether this process writes the file.
    writes: bool,
}

impl Saver {
    pub fn new(checkpoints: Checkpoints, fingerprint: Fingerprint, unit: &'static str) -> Saver {
        Saver {
            checkpoints,
            fingerprint,
            unit,
            last: (0, Instant::now()),
            kept: false,
            writes: true,
        }
    }

    /// The same, for a process that leaves writing to another one of the same fit.
    pub fn reading_only(self) -> Saver {
        Saver {
            writes: false,
            ..self
        }
    }

    /// The saved state, if the fit is to resume and the file exists.
    ///
    /// # Errors
    /// [`Error::Tensors`] and [`Error::Format`] for a file that is damaged, or of another fit
    /// (the first difference is named); [`Error::Io`].
    pub fn open(&self, comm: Option<&dyn Comm>) -> Result<Option<Saved>> {
        let Some(comm) = comm else {
            return self.open_alone().map(|(saved, _)| saved);
        };
        let (saved, crc32) = comm::agree(comm, self.open_alone())?;
        if let Some(rank) = comm::first_other(comm, crc32) {
            return Err(Error::format(
                &self.checkpoints.path,
                "content",
                format!("another checkpoint, or none, in process {rank} than in process 0"),
                "one file that all processes see: write it to a shared folder",
            ));
        }
        Ok(saved)
    }

    /// The saved values and the checksum of the file; `None` and 0 without one.
    fn open_alone(&self) -> Result<(Option<Saved>, u32)> {
        let path = &self.checkpoints.path;
        if !(self.checkpoints.resume && path.exists()) {
            return Ok((None, 0));
        }
        let bytes = files::read(path, "open the checkpoint", u64::MAX)?;
        // First, because its error names the setting that differs.
        self.check_fingerprint(&bytes, None)?;
        let (read, _) = tensors::read_all(&bytes).map_err(Error::tensors(path))?;
        let tensors = read.into_iter().map(|tensor| (tensor.name, tensor.numbers));
        let saved = Saved {
            path: path.clone(),
            tensors: tensors.collect(),
        };
        Ok((Some(saved), crc32fast::hash(&bytes)))
    }

    /// Refuse the checkpoint of another fit, before any work. The field `undecided`, whose value is
    /// not yet known, is not compared.
    ///
    /// # Errors
    /// As [`Saver::open`].
    pub fn refuse_other(&self, undecided: Option<&str>) -> Result<()> {
        let path = &self.checkpoints.path;
        if !(self.checkpoints.resume && path.exists()) {
            return Ok(());
        }
        let bytes = files::read(path, "open the checkpoint", u64::MAX)?;
        self.check_fingerprint(&bytes, undecided)
    }

    fn check_fingerprint(&self, bytes: &[u8], undecided: Option<&str>) -> Result<()> {
        let path = &self.checkpoints.path;
        let bad = |field: &str, found: String, expected: String| {
            Err(Error::format(path, field, found, expected))
        };
        let about = tensors::about(bytes).map_err(Error::tensors(path))?;
        let about: About = match serde_json::from_value(about) {
            Ok(about) => about,
            Err(error) => return bad("metadata", error.to_string(), "a checkpoint's".to_string()),
        };
        if about.checkpoint != VERSION {
            let expected = format!("{VERSION}; this flowreg is of another time, start anew");
            return bad("version", about.checkpoint.to_string(), expected);
        }
        for (i, (name, value)) in self.fingerprint.iter().enumerate() {
            if undecided == Some(&**name) {
                continue;
            }
            let theirs = about.fingerprint.get(i);
            if theirs != Some(&(name.clone(), value.clone())) {
                let found = theirs.map_or("nothing".to_string(), |(_, value)| value.clone());
                let expected = format!(
                    "{value} as now: `resume` continues the same fit only (remove the file to start anew)"
                );
                return bad(name, found, expected);
            }
        }
        if let Some((name, value)) = about.fingerprint.get(self.fingerprint.len()) {
            let expected = "nothing as now: `resume` continues the same fit only (remove the file to \
                            start anew)";
            return bad(name, value.clone(), expected.to_string());
        }
        Ok(())
    }

    /// Set a field of the fingerprint, once its value is known.
    pub fn decide(&mut self, name: &str, value: String) {
        let fields = self
            .fingerprint
            .iter_mut()
            .filter(|(known, _)| known == name);
        fields.for_each(|field| field.1.clone_from(&value));
    }

    /// Record that the file contains the state after `done` epochs or steps.
    pub fn kept(&mut self, done: usize) {
        self.last = (done, Instant::now());
        self.kept = true;
    }

    /// Check whether the caller stopped the fit.
    ///
    /// # Errors
    /// [`Error::Interrupted`], which says what the checkpoint contains.
    pub fn check(&self, observer: &Observer) -> Result<()> {
        if observer.is_stopped() {
            self.stop()
        } else {
            Ok(())
        }
    }

    /// The error of a fit that the caller stopped.
    fn stop(&self) -> Result<()> {
        if !self.kept {
            return Err(Error::interrupted());
        }
        let (done, unit, path) = (self.last.0, self.unit, self.checkpoints.path.display());
        let kept = format!("{done} {unit} are kept in {path}: `resume` continues them");
        Err(Error::Interrupted { kept })
    }

    /// Replace the file by the state after `done` epochs or steps.
    pub fn save(&mut self, fields: StateDict, done: usize) -> Result<()> {
        // Sorted by name, as they are read; all ranks gather what they share.
        let fields: BTreeMap<String, Field> = fields.fields.into_iter().collect();
        if !self.writes {
            for field in fields.values() {
                drop(field.numbers());
            }
            self.last = (done, Instant::now());
            return Ok(());
        }
        let tensors: Vec<Tensor> = (fields.iter())
            .map(|(name, field)| Tensor {
                name: name.clone(),
                shape: field.shape(),
                numbers: field.numbers(),
            })
            .collect();
        let about = About {
            checkpoint: VERSION,
            fingerprint: self.fingerprint.clone(),
        };
        let about = serde_json::to_value(about).expect("plain data");
        self.checkpoints.replace(&tensors::write(&tensors, about))?;
        self.kept(done);
        Ok(())
    }

    /// The error for an undamaged checkpoint with an invalid value.
    pub fn foreign(&self, field: &str, found: impl ToString) -> Error {
        let expected = "what the fit wrote: remove the file to start anew";
        Error::format(&self.checkpoints.path, field, found, expected)
    }

    /// Whether a save is due.
    fn due(&self, done: usize) -> bool {
        match self.checkpoints.every {
            None => false,
            Some(Every::Epochs(every)) => done.saturating_sub(self.last.0) >= every,
            Some(Every::Time(every)) => self.last.1.elapsed() >= every,
        }
    }
}

/// Call `save` if a checkpoint is due or the caller stopped the fit. Called wherever a fit may stop.
/// If `ranks` share the rows, all of them save and stop together.
///
/// # Errors
/// [`Error::Interrupted`] if the caller stopped the fit; those of `save`.
pub(crate) fn keep(
    saver: Option<&mut Saver>,
    observer: &Observer,
    ranks: Option<RowShard>,
    done: usize,
    save: impl FnOnce(&mut Saver) -> Result<()>,
) -> Result<()> {
    // Read once: a later request takes effect at the next call.
    let mut stopped = observer.is_stopped();
    let mut due = saver.as_ref().is_some_and(|saver| saver.due(done));
    if let Some(shard) = ranks {
        let mut wanted = [stopped, due].map(i64::from);
        shard.comm.sum(&mut wanted);
        [stopped, due] = wanted.map(|wanted| wanted > 0);
    }
    let Some(saver) = saver else {
        return if stopped {
            Err(Error::interrupted())
        } else {
            Ok(())
        };
    };
    if stopped || due {
        let saved = save(saver);
        match ranks {
            None => saved?,
            Some(shard) => comm::agree(shard.comm, saved)?,
        }
    }
    if stopped { saver.stop() } else { Ok(()) }
}

/// The values read from a checkpoint, until [`Saved::put`] copies them into the state.
pub(crate) struct Saved {
    path: PathBuf,
    tensors: BTreeMap<String, Numbers<'static>>,
}

impl Saved {
    /// Whether the checkpoint has a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Copy the saved values into these fields.
    ///
    /// # Errors
    /// [`Error::Format`] for a field that is missing or has another length or type.
    pub fn put(&mut self, fields: StateDict) -> Result<()> {
        for (name, field) in fields.fields {
            let Some(numbers) = self.tensors.remove(&name) else {
                return Err(Error::format(&self.path, name, "nothing", "a field"));
            };
            let found = match &numbers {
                Numbers::F32(values) => format!("{} values of f32", values.len()),
                Numbers::F64(values) => format!("{} values of f64", values.len()),
            };
            (field.put(&numbers))
                .map_err(|expected| Error::format(&self.path, name, found, expected))?;
        }
        Ok(())
    }

    /// Check that all values were used.
    ///
    /// # Errors
    /// [`Error::Format`] if one was not.
    pub fn finish(self) -> Result<()> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::format(
                &self.path,
                name,
                "a field",
                "none of that name, which this fit does not have",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checkpoints_are_overwritten_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints {
            path: dir.path().join("run.checkpoint"),
            every: None,
            resume: false,
        };
        assert!(checkpoints.refuse_foreign().is_ok());
        let mut saver = Saver::new(checkpoints.clone(), Fingerprint::new(), "epochs");
        saver.save(StateDict::default(), 3).unwrap();
        assert!(checkpoints.refuse_foreign().is_ok());
        for foreign in [&b""[..], b"days of work", &[0; 200]] {
            std::fs::write(&checkpoints.path, foreign).unwrap();
            assert!(checkpoints.refuse_foreign().is_err());
        }
        std::fs::remove_file(&checkpoints.path).unwrap();
        let partial = dir.path().join(".run.checkpoint.partial");
        std::fs::write(&partial, b"days of work").unwrap();
        assert!(checkpoints.refuse_foreign().is_err());
        let resumed = Checkpoints {
            resume: true,
            ..checkpoints.clone()
        };
        assert!(resumed.refuse_foreign().is_err());
        std::fs::write(&partial, b"").unwrap();
        assert!(checkpoints.refuse_foreign().is_ok());
        // Nor is a file that is created later.
        let mut saver = Saver::new(checkpoints.clone(), Fingerprint::new(), "epochs");
        saver.save(StateDict::default(), 1).unwrap();
        std::fs::write(&partial, b"days of work").unwrap();
        let error = saver.save(StateDict::default(), 2).unwrap_err().to_string();
        assert!(error.contains(".run.checkpoint.partial"), "{error}");
        assert_eq!(std::fs::read(&partial).unwrap(), b"days of work");
        std::fs::remove_file(&partial).unwrap();
        std::fs::write(&checkpoints.path, b"days of work").unwrap();
        assert!(saver.save(StateDict::default(), 2).is_err());
        checkpoints.discard().unwrap();
        assert_eq!(std::fs::read(&checkpoints.path).unwrap(), b"days of work");
    }
}
