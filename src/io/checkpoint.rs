//! Checkpoints: what a fit needs to go on after a stop, to the same final bits.
//!
//! A checkpoint is one safetensors file (see [`crate::io::tensors`]): every [field](StateDict) of the
//! fit by name, and as metadata the identity of the fit: all options and checksums of the rows
//! that its bits depend on. It is replaced wholly or not at all. What can be computed again (K,
//! the order of mini-batches) is not in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
    /// How often; `None` is only when a signal stops the fit.
    pub every: Option<Every>,
    /// Go on from the file if it is there.
    pub resume: bool,
}

impl Checkpoints {
    /// Refuse a file of that name, or of the one in which the next checkpoint is made, that is no
    /// checkpoint: it is somebody else's, and not to be written over; a link is none. No file is
    /// fine. The file that a fit resumes from is looked at as it is read.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Io`].
    pub fn refuse_foreign(&self) -> Result<()> {
        if !self.resume || self.path.is_symlink() {
            refuse_foreign(&self.path, At::Whole)?;
        }
        refuse_foreign(&files::sibling(&self.path, "partial")?, At::Cut)
    }

    /// Remove the file, of which there is no more need once the fit's output is published. What is
    /// no checkpoint stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self) -> Result<()> {
        if is_checkpoint(&self.path, At::Whole)? {
            files::remove_file(&self.path)?;
        }
        Ok(())
    }

    /// Write the file, wholly or not at all; in the place of a checkpoint only.
    fn replace(&self, bytes: &[u8]) -> Result<()> {
        refuse_foreign(&self.path, At::Whole)?;
        // A killed process leaves the beginning of one.
        let partial = files::sibling(&self.path, "partial")?;
        if is_checkpoint(&partial, At::Cut)? {
            files::remove_file(&partial)?;
        }
        files::replace(&self.path, bytes)
    }
}

/// How much of a checkpoint there must be.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Whole,
    /// Any beginning of one.
    Cut,
}

/// Refuse something of that name that is no checkpoint.
fn refuse_foreign(path: &Path, at: At) -> Result<()> {
    if path.symlink_metadata().is_err() || is_checkpoint(path, at)? {
        return Ok(());
    }
    let found = "something that is no checkpoint";
    let expected = "nothing of this name; move it away, or choose another path";
    Err(Error::format(path, "content", found, expected))
}

/// Whether a checkpoint has this name: no link to one.
fn is_checkpoint(path: &Path, at: At) -> Result<bool> {
    /// The beginning of the metadata, behind eight bytes of length.
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
        Some(start) => start == START || at == At::Cut && START.starts_with(start),
        None => at == At::Cut,
    })
}

/// A measure of work between checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// So many epochs, or steps of a converged fit.
    Epochs(usize),
    /// At the first end of an epoch or step after so long.
    Time(Duration),
}

/// What an optimizer carries from one epoch or step to the next, `P` being a point of its engine.
///
/// To be checkpointed, an optimizer lists all vectors and scalars that its later epochs or steps
/// depend on; the same list is written from and read back into. What can be computed from the
/// others does not belong there.
pub trait State<P> {
    /// The weight now.
    fn point(&self) -> &P;
    /// Show every field, always the same ones of the same lengths.
    fn fields<'a>(&'a mut self, fields: &mut StateDict<'a>);
}

/// A list of named vectors that make up a state.
#[derive(Default)]
pub struct StateDict<'a> {
    prefix: String,
    fields: Vec<(String, Field<'a>)>,
}

enum Field<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    Count(&'a mut usize),
    /// A table of rows; the number of values of each.
    Rows(&'a mut Vec<f64>, usize),
}

impl<'a> StateDict<'a> {
    /// Names from now on begin with this.
    pub fn group(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    /// A vector of f32.
    pub fn f32(&mut self, name: &str, values: &'a mut [f32]) {
        self.push(name, Field::F32(values));
    }

    /// A vector of f64; `std::slice::from_mut` makes one of a scalar.
    pub fn f64(&mut self, name: &str, values: &'a mut [f64]) {
        self.push(name, Field::F64(values));
    }

    /// A vector of f32 or f64.
    pub fn real<T: Real>(&mut self, name: &str, values: &'a mut [T]) {
        match T::slice(values) {
            RealSlice::F32(values) => self.f32(name, values),
            RealSlice::F64(values) => self.f64(name, values),
        }
    }

    /// A number of things, below 2⁵³.
    pub fn count(&mut self, name: &str, count: &'a mut usize) {
        self.push(name, Field::Count(count));
    }

    /// A table of rows of `columns` values, whose number the file tells.
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
            Field::Count(count) => Numbers::F64(Cow::Owned(vec![**count as f64])),
            Field::Rows(values, _) => Numbers::F64(Cow::Borrowed(values)),
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Field::F32(values) => vec![values.len()],
            Field::F64(values) => vec![values.len()],
            Field::Count(_) => vec![1],
            Field::Rows(values, columns) => vec![values.len() / columns, *columns],
        }
    }

    /// Take these values; else what was expected.
    fn put(self, numbers: &Numbers) -> std::result::Result<(), String> {
        match (self, numbers) {
            (Field::F32(to), Numbers::F32(from)) if to.len() == from.len() => {
                to.copy_from_slice(from);
            }
            (Field::F64(to), Numbers::F64(from)) if to.len() == from.len() => {
                to.copy_from_slice(from);
            }
            (Field::Count(to), Numbers::F64(from)) if is_count(from) => *to = from[0] as usize,
            (Field::Rows(to, columns), Numbers::F64(from)) if from.len() % columns == 0 => {
                *to = from.to_vec();
            }
            (Field::F32(to), _) => return Err(format!("{} values of f32", to.len())),
            (Field::F64(to), _) => return Err(format!("{} values of f64", to.len())),
            (Field::Count(_), _) => return Err("a whole number".to_string()),
            (Field::Rows(_, columns), _) => return Err(format!("rows of {columns} values of f64")),
        }
        Ok(())
    }
}

/// Whether it is one whole number that f64 tells from its neighbours.
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
const VERSION: u32 = 5;

/// Names and values of all that a fit's bits depend on.
pub(crate) type Fingerprint = Vec<(String, String)>;

/// Saves and restores one fit.
pub(crate) struct Saver {
    checkpoints: Checkpoints,
    fingerprint: Fingerprint,
    /// What is counted: epochs or steps.
    unit: &'static str,
    /// How many were done, and when, at the last save.
    last: (usize, Instant),
    /// Whether the file is this fit's.
    kept: bool,
}

impl Saver {
    pub fn new(checkpoints: Checkpoints, fingerprint: Fingerprint, unit: &'static str) -> Saver {
        Saver {
            checkpoints,
            fingerprint,
            unit,
            last: (0, Instant::now()),
            kept: false,
        }
    }

    /// What was saved, if the fit is to go on from a file that is there.
    ///
    /// # Errors
    /// [`Error::Tensors`] and [`Error::Format`] for a file that is damaged, or of another fit
    /// (the first difference is named); [`Error::Io`].
    pub fn open(&self) -> Result<Option<Saved>> {
        let path = &self.checkpoints.path;
        if !(self.checkpoints.resume && path.exists()) {
            return Ok(None);
        }
        let bytes = files::read(path, "open the checkpoint", u64::MAX)?;
        // The identity first: it says what differs, where names only say that something does.
        self.check_identity(&bytes, None)?;
        let (read, _) = tensors::read_all(&bytes).map_err(Error::tensors(path))?;
        let tensors = read.into_iter().map(|tensor| (tensor.name, tensor.numbers));
        Ok(Some(Saved {
            path: path.clone(),
            tensors: tensors.collect(),
        }))
    }

    /// Refuse a file of another fit before any work; of the field `undecided` nothing is known
    /// yet.
    ///
    /// # Errors
    /// As [`Saver::open`].
    pub fn refuse_other(&self, undecided: Option<&str>) -> Result<()> {
        let path = &self.checkpoints.path;
        if !(self.checkpoints.resume && path.exists()) {
            return Ok(());
        }
        let bytes = files::read(path, "open the checkpoint", u64::MAX)?;
        self.check_identity(&bytes, undecided)
    }

    fn check_identity(&self, bytes: &[u8], undecided: Option<&str>) -> Result<()> {
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
        Ok(())
    }

    /// The fit turned out to have another value of a field.
    pub fn decide(&mut self, name: &str, value: String) {
        let fields = self
            .fingerprint
            .iter_mut()
            .filter(|(known, _)| known == name);
        fields.for_each(|field| field.1.clone_from(&value));
    }

    /// The file holds the state after `done` epochs or steps.
    pub fn kept(&mut self, done: usize) {
        self.last = (done, Instant::now());
        self.kept = true;
    }

    /// # Errors
    /// [`Error::Interrupted`], with what is kept, once the caller wants the fit to stop.
    pub fn check(&self, observer: &Observer) -> Result<()> {
        if !(observer.is_stopped() && self.kept) {
            return observer.check();
        }
        let (done, unit, path) = (self.last.0, self.unit, self.checkpoints.path.display());
        let kept = format!("{done} {unit} are kept in {path}: `resume` continues them");
        Err(Error::Interrupted { kept })
    }

    /// Replace the file by the state after `done` epochs or steps.
    pub fn save(&mut self, fields: StateDict, done: usize) -> Result<()> {
        let fields: BTreeMap<String, Field> = fields.fields.into_iter().collect();
        // By name, as they are read.
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

    /// A checkpoint that is whole, but of no fit.
    pub fn foreign(&self, field: &str, found: impl ToString) -> Error {
        let expected = "what the fit wrote: remove the file to start anew";
        Error::format(&self.checkpoints.path, field, found, expected)
    }

    /// Whether it is time to save.
    fn due(&self, done: usize) -> bool {
        match self.checkpoints.every {
            None => false,
            Some(Every::Epochs(every)) => done.saturating_sub(self.last.0) >= every,
            Some(Every::Time(every)) => self.last.1.elapsed() >= every,
        }
    }
}

/// Where a fit may stop: `save` if it is time to or a signal has come.
///
/// # Errors
/// [`Error::Interrupted`] once the caller wants the fit to stop; those of `save`.
pub(crate) fn keep(
    saver: Option<&mut Saver>,
    observer: &Observer,
    done: usize,
    save: impl FnOnce(&mut Saver) -> Result<()>,
) -> Result<()> {
    let Some(saver) = saver else {
        return observer.check();
    };
    // Asked once: a request that comes later finds its own place.
    let stopped = observer.is_stopped();
    if stopped || saver.due(done) {
        save(saver)?;
    }
    if stopped {
        saver.check(observer)
    } else {
        Ok(())
    }
}

/// The values of a checkpoint, until they are put where they belong.
pub(crate) struct Saved {
    path: PathBuf,
    tensors: BTreeMap<String, Numbers<'static>>,
}

impl Saved {
    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Put these fields' values in.
    ///
    /// # Errors
    /// [`Error::Format`] for one that is not there, or of another length or type.
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

    /// # Errors
    /// [`Error::Format`] if a value was left over.
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
    fn a_checkpoint_is_told_from_other_files() {
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
        // Nor is a file written over or removed that comes later.
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
