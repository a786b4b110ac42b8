//! Trajectory files: the Gram coordinates of every epoch, from which the model of any epoch follows.
//!
//! The file is an `.npy` matrix of f32. Row t is the state after t epochs (row 0: the start): s, then
//! b (c values), then Aᵀ (c x n, row-major). NumPy reads it:
//! `t = numpy.load("trajectory.npy"); s, b, A = t[e, 0], t[e, 1:1+c], t[e, 1+c:].reshape(c, n).T`.

use std::path::{Path, PathBuf};

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::NewFile;
use crate::io::mmap::MappedMatrix;
use crate::io::npy::{Dtype, Header};
use crate::linalg::gemm::{Backend, Gemm};
use crate::model::Model;
use crate::sgd::dense::DenseParameters;
use crate::sgd::init::{Init, initial_model};
use crate::sgd::parameters::Coordinates;
use crate::threads;

/// A memory-mapped trajectory file, with the rows and the start of its fit.
#[derive(Debug)]
pub struct Trajectory<'a> {
    states: MappedMatrix,
    train: &'a Samples<'a>,
    start: Model,
}

impl<'a> Trajectory<'a> {
    /// Opens the trajectory of a fit of `train` from `init`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Npy`] if it is no `.npy` matrix of f32,
    /// [`Error::Format`] if its shape or start is that of another fit; the errors of reading `init`.
    pub fn open(path: impl AsRef<Path>, train: &'a Samples<'a>, init: &Init) -> Result<Self> {
        let path = path.as_ref();
        let states = MappedMatrix::open(path)?;
        let mut start = initial_model(init, true, train)?;
        let (n, c) = (train.rows(), start.bias().len());
        let (rows, cols) = (states.view().rows(), states.view().cols());
        if rows == 0 || cols != state_len(n, c) {
            return Err(Error::format(
                path,
                "shape",
                format!("{rows} x {cols}"),
                format!(
                    "at least one row and, for this data, {} columns: s, {c} of b and {c} x {n} of Aᵀ",
                    state_len(n, c)
                ),
            ));
        }
        let first = states.view().row(0);
        let (s_bias, a) = first.split_at(1 + c);
        // A fit without an intercept starts at b = 0.
        if s_bias[1..].iter().all(|&b| b == 0.0) {
            start.values_mut().1.fill(0.0);
        }
        if s_bias[0] != 1.0 || s_bias[1..] != *start.bias() || a.iter().any(|&a| a != 0.0) {
            let expected =
                "the start of the fit: give the seed or the model file that it started from";
            return Err(Error::format(path, "row 0", "another start", expected));
        }
        Ok(Trajectory {
            states,
            train,
            start,
        })
    }

    /// Number of epochs of the fit: the number of states minus 1.
    pub fn epochs(&self) -> usize {
        self.states.view().rows() - 1
    }

    /// The model after `epochs` epochs; 0 is the start. After the last epoch it has the bits of the
    /// fit's model, if the fit used the default back end and no early stopping. Cost: 2ndc flop.
    ///
    /// # Errors
    /// [`Error::Shape`] if the fit had fewer epochs.
    pub fn model(&self, epochs: usize) -> Result<Model> {
        if epochs > self.epochs() {
            let expected = format!("0..={}, the epochs of the trajectory", self.epochs());
            return Err(Error::shape("epochs", epochs, expected));
        }
        let state = self.states.view().row(epochs);
        let (bias, a) = state[1..].split_at(self.start.bias().len());
        let s = state[0];
        let gemm = Gemm::new(Backend::default(), threads::current());
        let primal = DenseParameters::new(self.train.x(), None, self.start.clone(), true, gemm);
        Ok(primal.combine(Coordinates { s, bias, a }))
    }
}

/// Number of values of a state.
fn state_len(n: usize, c: usize) -> usize {
    1 + c + n * c
}

/// Writes the states of [`Event::Coordinates`](crate::Event::Coordinates) to a file for
/// [`Trajectory`]: to a temporary sibling, which [`TrajectoryWriter::finish`] renames.
///
/// ```
/// use flowreg::{Event, FitOptions, Samples, Trajectory, TrajectoryWriter};
/// use std::ops::ControlFlow;
///
/// let dir = tempfile::tempdir()?;
/// let samples = Samples::new(&[0.0, 1.0, 0.2, 0.9, 1.0, 0.1], 2, &[0, 0, 1], 2)?;
/// let options = FitOptions {
///     emit_coordinates: true,
///     ..FitOptions::default()
/// };
/// let path = dir.path().join("trajectory.npy");
/// let (mut writer, mut written) = (TrajectoryWriter::create(&path)?, Ok(()));
/// let fit = flowreg::fit(&samples, &options, &mut |event| {
///     if let Event::Coordinates { values, .. } = event
///         && written.is_ok()
///     {
///         written = writer.push(&values);
///     }
///     if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
/// });
/// written?;
/// let fit = fit?;
/// writer.finish()?;
/// let trajectory = Trajectory::open(&path, &samples, &options.init)?;
/// assert_eq!(trajectory.model(trajectory.epochs())?, fit.model);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TrajectoryWriter {
    path: PathBuf,
    sibling: PathBuf,
    file: NewFile,
    cols: usize,
    rows: usize,
    finished: bool,
}

impl TrajectoryWriter {
    /// A writer for a new file `path`; an existing file is not replaced.
    ///
    /// # Errors
    /// [`Error::Format`] if `path` or the sibling exists, [`Error::Io`] if the sibling cannot be
    /// created.
    pub fn create(path: impl AsRef<Path>) -> Result<TrajectoryWriter> {
        let path = path.as_ref();
        if path.symlink_metadata().is_ok() {
            let expected = "no file of this name: move it away, or choose another path";
            let found = "an existing file";
            return Err(Error::format(path, "name", found, expected));
        }
        let sibling = files::sibling(path, "partial")?;
        let mut writer = TrajectoryWriter {
            path: path.to_path_buf(),
            file: NewFile::create(&sibling)?,
            sibling,
            cols: 0,
            rows: 0,
            finished: false,
        };
        writer.file.append(&writer.header())?;
        Ok(writer)
    }

    /// Appends the next state.
    ///
    /// # Errors
    /// [`Error::Shape`] if its length is not that of the first, [`Error::Io`] if it cannot be written.
    pub fn push(&mut self, state: &[f32]) -> Result<()> {
        if self.rows == 0 {
            self.cols = state.len();
        } else if state.len() != self.cols {
            let expected = format!("{}, the length of the first: states of one fit", self.cols);
            return Err(Error::shape(
                "state",
                format!("{} values", state.len()),
                expected,
            ));
        }
        self.rows += 1;
        self.file.append(bytemuck::cast_slice(state))
    }

    /// Writes the number of states to the header and renames the sibling to `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if this fails.
    pub fn finish(mut self) -> Result<()> {
        self.file.overwrite_start(&self.header())?;
        self.file.finish()?;
        files::rename_new(&self.sibling, &self.path)?;
        self.finished = true;
        files::sync_dir(files::parent_of(&self.path))
    }

    /// The header, whose length does not depend on the number of rows.
    fn header(&self) -> Vec<u8> {
        let header = Header::encode(Dtype::F32, &[self.rows, self.cols]);
        assert_eq!(header.len(), 128, "two numbers of 20 digits fit");
        header
    }
}

impl Drop for TrajectoryWriter {
    /// Removes the sibling of an unfinished file.
    fn drop(&mut self) {
        if !self.finished {
            let _ = files::remove_file(&self.sibling);
        }
    }
}
