//! [`Error`]: every variant names the place, what was found, what was expected and what to do
//! next, in one line.

use std::io;
use std::path::{Path, PathBuf};

#[cfg(feature = "photographs")]
use crate::data::mat5::Mat5Error;
use crate::io::npy::NpyError;
use crate::io::tensors::TensorsError;

/// Result with flowreg's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of flowreg. [`Error::exit_code`] is the exit code of a process that fails with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// File or directory concerned.
        path: PathBuf,
        /// Verb phrase completing "cannot …".
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The content of a file violates its format.
    #[error("{}: {field}: found {found}, expected {expected}", path.display())]
    Format {
        /// File concerned.
        path: PathBuf,
        /// Field, header entry or row inside the file.
        field: String,
        /// What was found.
        found: String,
        /// What was expected, and what to do next.
        expected: String,
    },
    /// An array file's header is not the `.npy` subset that flowreg reads.
    #[error("{}: {source}", path.display())]
    Npy {
        /// File concerned.
        path: PathBuf,
        /// What is wrong.
        source: NpyError,
    },
    /// A MATLAB file does not contain small integer arrays, as those of Flowers102 do.
    #[cfg(feature = "photographs")]
    #[error("{}: {source}", path.display())]
    Mat5 {
        /// File concerned.
        path: PathBuf,
        /// What is wrong.
        source: Mat5Error,
    },
    /// A model or checkpoint file is not what flowreg or torch writes.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// File concerned.
        path: PathBuf,
        /// What is wrong.
        source: TensorsError,
    },
    /// A photograph cannot be used.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The photograph.
        path: PathBuf,
        /// Why it was rejected.
        reason: String,
    },
    /// A file could not be fetched.
    #[error("{url}: {reason}")]
    Download {
        /// The address of the file.
        url: String,
        /// What happened, and what to do next.
        reason: String,
    },
    /// The output exists and may not be replaced.
    #[error("{}: already exists{}", path.display(), if *replaceable { "; choose another path, or give `force` to replace it" } else { ", and `force` would not replace it, because it is another kind of output or contains files that flowreg did not write: choose another path" })]
    Exists {
        /// The existing output.
        path: PathBuf,
        /// Whether `force` may replace it.
        replaceable: bool,
    },
    /// The output has the checkpoint of an unfinished fit.
    #[error("{}: checkpoint of an unfinished fit; `resume` continues it if the options and the data are the same, `force` discards it; or choose another path", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("{}: another process is writing it; wait for it, or choose another path", path.display())]
    Locked {
        /// The output.
        path: PathBuf,
    },
    /// A file changed while it was read.
    #[error("{}: changed while it was in use ({what}); nothing was written: run again, on files that do not change", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The evidence, such as a new size.
        what: String,
    },
    /// A [`Cancel`](crate::Cancel), a callback or a signal stopped the work.
    #[error("stopped before its end; {kept}")]
    Interrupted {
        /// The part of the work that was kept.
        kept: String,
    },
    /// Another process of the same fit has an error.
    #[error("process {rank} of this fit stopped with an error; its message says why")]
    Rank {
        /// The number of the process, from 0.
        rank: usize,
    },
    /// An option's value is out of its range.
    #[error("{option}: found {found}, expected {expected}")]
    Options {
        /// The parameter, in backticks; the command line prints its option.
        option: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        expected: String,
    },
    /// An array does not fit the memory.
    #[error("{what}: found {found}, expected {expected}")]
    Memory {
        /// The parameter that needs the memory, in backticks, or the array.
        what: &'static str,
        /// Its size.
        found: String,
        /// What to do instead.
        expected: String,
    },
    /// The shapes of arrays do not match.
    #[error("{what}: found {found}, expected {expected}")]
    Shape {
        /// The array.
        what: &'static str,
        /// Its size.
        found: String,
        /// The expected size.
        expected: String,
    },
    /// Logits that are not finite in f32: they have no probabilities.
    #[error(
        "logits: found {value} in row {row} for output {output}, expected finite numbers: the row has NaN or Inf, or features times weights are beyond f32; in that case scale the features (`standardize`), or fit with a penalty or a smaller `lr`"
    )]
    Overflow {
        /// The row, from 0.
        row: usize,
        /// The output, from 0.
        output: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The loss or a weight is not finite; no model is published.
    #[error(
        "epoch {epoch}: the {what} became {loss} at lr {lr}; no model was written: try a smaller `lr` (a tenth), or auto"
    )]
    Diverged {
        /// Epoch (from 0) whose loss, or whose step's weight, was not finite.
        epoch: usize,
        /// The quantity: "loss", "validation loss", "weight" or "logits".
        what: &'static str,
        /// Its value: NaN or an infinity.
        loss: f64,
        /// Learning rate in use.
        lr: f64,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            path: path.to_path_buf(),
            doing,
            source,
        }
    }

    pub(crate) fn tensors(path: &Path) -> impl FnOnce(TensorsError) -> Error {
        move |source| Error::Tensors {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn format(
        path: &Path,
        field: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Format {
            path: path.to_path_buf(),
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(crate) fn options(
        option: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Options {
            option,
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// [`Error::Interrupted`], with nothing kept.
    pub(crate) fn interrupted() -> Error {
        Error::Interrupted {
            kept: "nothing was written".to_string(),
        }
    }

    pub(crate) fn memory(
        what: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Memory {
            what,
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(crate) fn shape(
        what: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        Error::Shape {
            what,
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The error of a temporary file as that of the file that it is to become.
    pub(crate) fn of_path(self, path: &Path) -> Error {
        match self {
            Error::Io { doing, source, .. } => Error::Io {
                path: path.to_path_buf(),
                doing,
                source,
            },
            error => error,
        }
    }

    /// Whether the error is that of one input, so that others may still be used.
    #[cfg(feature = "photographs")]
    pub(crate) fn is_of_input(&self) -> bool {
        match self {
            Error::Image { .. } => true,
            Error::Io { source, .. } => source.kind() != io::ErrorKind::OutOfMemory,
            _ => false,
        }
    }

    /// Exit code of the binaries: 64 usage, 65 bad data, 70 no usable result, 71 no memory,
    /// 73 output exists or is being written, 74 input or output failed, 75 input changed, 128 + signal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Options { .. } => 64,
            #[cfg(feature = "photographs")]
            Error::Mat5 { .. } => 65,
            Error::Format { .. }
            | Error::Npy { .. }
            | Error::Tensors { .. }
            | Error::Image { .. }
            | Error::Overflow { .. }
            | Error::Shape { .. } => 65,
            Error::Diverged { .. } | Error::Rank { .. } => 70,
            Error::Exists { .. } | Error::Checkpoint { .. } | Error::Locked { .. } => 73,
            Error::Memory { .. } => 71,
            Error::Io { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => 71,
            Error::Io { .. } | Error::Download { .. } => 74,
            Error::Changed { .. } => 75,
            // As after Ctrl-C; the command line uses the number of the signal that it received.
            Error::Interrupted { .. } => 130,
        }
    }
}
