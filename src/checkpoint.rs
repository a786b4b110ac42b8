//! Checkpoints: what a fit needs to go on after a stop, to the same final bits.
//!
//! A checkpoint is one safetensors file (see [`crate::tensors`]): every [field](Fields) of the
//! optimizer's [`State`] by name, `history` (f64, epochs x 4: learning rate, loss, validation
//! loss and accuracy, NaN where there is none), and as metadata the identity of the fit: all
//! options and checksums of the rows that its bits depend on. It is replaced wholly or not at
//! all. What can be computed again (K, the order of mini-batches) is not in it.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::monitor::Epoch;
use crate::tensors::{self, Dtype, Numbers, Tensor};

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
    /// Remove the file, of which there is no more need once the fit's output is published.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self) -> Result<()> {
        files::remove_file(&self.path)
    }
}

/// A measure of work between checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// So many epochs.
    Epochs(usize),
    /// At the first end of an epoch after so long.
    Time(Duration),
}

/// What an optimizer carries from one epoch to the next, `P` being the engine's point.
///
/// To be checkpointed, an optimizer lists all vectors and scalars that its later epochs depend
/// on; the same list is written from and read back into. What the number of epochs done
/// determines does not belong there.
pub trait State<P> {
    /// The weight now.
    fn point(&self) -> &P;
    /// Show every field, always the same ones of the same lengths.
    fn fields<'a>(&'a mut self, fields: &mut Fields<'a>);
}

/// A list of named vectors that make up a state.
#[derive(Default)]
pub struct Fields<'a> {
    prefix: &'static str,
    fields: Vec<(String, Field<'a>)>,
}

enum Field<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
}

impl<'a> Fields<'a> {
    /// Names from now on begin with this.
    pub fn group(&mut self, prefix: &'static str) {
        self.prefix = prefix;
    }

    /// A vector of f32.
    pub fn f32(&mut self, name: &str, values: &'a mut [f32]) {
        self.push(name, Field::F32(values));
    }

    /// A vector of f64; `std::slice::from_mut` makes one of a scalar.
    pub fn f64(&mut self, name: &str, values: &'a mut [f64]) {
        self.push(name, Field::F64(values));
    }

    /// Checksum of all values.
    pub(crate) fn crc32(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for (_, field) in &self.fields {
            crc.update(match field {
                Field::F32(values) => bytemuck::cast_slice(values),
                Field::F64(values) => bytemuck::cast_slice(values),
            });
        }
        crc.finalize()
    }

    fn push(&mut self, name: &str, field: Field<'a>) {
        self.fields.push((format!("{}{name}", self.prefix), field));
    }
}

/// The metadata of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    checkpoint: u32,
    identity: Identity,
}

/// Version of the format.
const VERSION: u32 = 1;

/// Names and values of all that a fit's bits depend on.
pub(crate) type Identity = Vec<(String, String)>;

/// Name of the tensor of all epochs, and its columns.
const HISTORY: &str = "history";
const COLUMNS: usize = 4;

/// Saves and restores one fit.
pub(crate) struct Saver {
    checkpoints: Checkpoints,
    identity: Identity,
    /// Epochs and time of the last save.
    last: (usize, Instant),
}

impl Saver {
    pub fn new(checkpoints: Checkpoints, identity: Identity) -> Saver {
        Saver {
            checkpoints,
            identity,
            last: (0, Instant::now()),
        }
    }

    /// Whether the fit is to go on from a file that is there.
    pub fn resumes(&self) -> bool {
        self.checkpoints.resume && self.checkpoints.path.exists()
    }

    /// Put the file's values into the fields; its epochs come back.
    ///
    /// # Errors
    /// [`Error::Tensors`] and [`Error::Format`] for a file that is damaged, of another fit (the
    /// first difference is named) or of other lengths; [`Error::Io`].
    pub fn load(&mut self, fields: Fields) -> Result<Vec<Epoch>> {
        let path = &self.checkpoints.path;
        let bad = |field: &str, found: String, expected: String| {
            Err(Error::format(path, field, found, expected))
        };
        let bytes = files::read(path, "open the checkpoint", u64::MAX)?;
        let mut expected = vec![(HISTORY, Dtype::F64)];
        expected.extend(fields.fields.iter().map(|(name, field)| match field {
            Field::F32(_) => (&**name, Dtype::F32),
            Field::F64(_) => (&**name, Dtype::F64),
        }));
        // The identity first: it says what differs, where names only say that something does.
        let about = tensors::about(&bytes).map_err(Error::tensors(path))?;
        let about: About = match serde_json::from_value(about) {
            Ok(about) => about,
            Err(error) => return bad("metadata", error.to_string(), "a checkpoint's".to_string()),
        };
        if about.checkpoint != VERSION {
            let expected = format!("{VERSION}; this flowreg is of another time, start anew");
            return bad("version", about.checkpoint.to_string(), expected);
        }
        for (i, (name, value)) in self.identity.iter().enumerate() {
            let theirs = about.identity.get(i);
            if theirs != Some(&(name.clone(), value.clone())) {
                let found = theirs.map_or("nothing".to_string(), |(_, value)| value.clone());
                let expected = format!(
                    "{value} as now: --resume continues the same fit only (remove the file to start anew)"
                );
                return bad(name, found, expected);
            }
        }
        let (read, _) = tensors::read(&bytes, &expected).map_err(Error::tensors(path))?;
        let mut read = read.into_iter();
        let history = match read.next().expect("history was asked for").numbers {
            Numbers::F64(values) if values.len() % COLUMNS == 0 => {
                (values.chunks_exact(COLUMNS).enumerate())
                    .map(|(i, v)| epoch(i, v))
                    .collect()
            }
            _ => {
                return bad(
                    HISTORY,
                    "a part of an epoch".to_string(),
                    "whole ones".to_string(),
                );
            }
        };
        for ((name, field), tensor) in fields.fields.into_iter().zip(read) {
            let lengths = match (field, tensor.numbers) {
                (Field::F32(to), Numbers::F32(from)) => copy(to, &from),
                (Field::F64(to), Numbers::F64(from)) => copy(to, &from),
                _ => unreachable!("the type was asked for"),
            };
            if let Err((found, expected)) = lengths {
                return bad(&name, format!("{found} values"), expected.to_string());
            }
        }
        let history: Vec<Epoch> = history;
        self.last = (history.len(), Instant::now());
        Ok(history)
    }

    /// Whether it is time to save, so many epochs being done.
    pub fn due(&self, epochs: usize) -> bool {
        match self.checkpoints.every {
            None => false,
            Some(Every::Epochs(every)) => epochs >= self.last.0 + every,
            Some(Every::Time(every)) => self.last.1.elapsed() >= every,
        }
    }

    /// Replace the file.
    pub fn save(&mut self, fields: Fields, history: &[Epoch]) -> Result<()> {
        let rows: Vec<f64> = (history.iter())
            .flat_map(|epoch| {
                let [loss, accuracy] =
                    [epoch.val_loss, epoch.val_accuracy].map(|value| value.unwrap_or(f64::NAN));
                [epoch.lr, epoch.loss, loss, accuracy]
            })
            .collect();
        let mut tensors = vec![Tensor {
            name: HISTORY.to_string(),
            shape: vec![history.len(), COLUMNS],
            numbers: Numbers::F64(rows.into()),
        }];
        tensors.extend(fields.fields.into_iter().map(|(name, field)| {
            let (len, numbers) = match field {
                Field::F32(values) => (values.len(), Numbers::F32(Cow::Borrowed(&*values))),
                Field::F64(values) => (values.len(), Numbers::F64(Cow::Borrowed(&*values))),
            };
            Tensor {
                name,
                shape: vec![len],
                numbers,
            }
        }));
        let about = About {
            checkpoint: VERSION,
            identity: self.identity.clone(),
        };
        let about = serde_json::to_value(about).expect("plain data");
        files::replace(&self.checkpoints.path, &tensors::write(&tensors, about))?;
        self.last = (history.len(), Instant::now());
        Ok(())
    }

    /// What was kept of a fit that stops after so many epochs.
    pub fn kept(&self, epochs: usize) -> String {
        let path = self.checkpoints.path.display();
        format!("{epochs} epochs are kept in {path}: --resume continues them")
    }
}

fn copy<T: Copy>(to: &mut [T], from: &[T]) -> std::result::Result<(), (usize, usize)> {
    match to.len() == from.len() {
        true => {
            to.copy_from_slice(from);
            Ok(())
        }
        false => Err((from.len(), to.len())),
    }
}

fn epoch(number: usize, values: &[f64]) -> Epoch {
    let some = |value: f64| (!value.is_nan()).then_some(value);
    Epoch {
        epoch: number,
        lr: values[0],
        loss: values[1],
        val_loss: some(values[2]),
        val_accuracy: some(values[3]),
    }
}
