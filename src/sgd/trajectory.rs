//! Trajectory files: the Gram coordinates of every epoch, from which the model of any epoch follows.
//!
//! The file is an `.npy` matrix of f32. Row t is the state after t epochs (row 0: the start): s, then
//! b (c values), then Aᵀ (c x n, row-major). NumPy reads it:
//! `t = numpy.load("trajectory.npy"); s, b, A = t[e, 0], t[e, 1:1+c], t[e, 1+c:].reshape(c, n).T`.

use std::path::Path;

use crate::design::samples::Samples;
use crate::error::{Error, Result};
use crate::io::mmap::MappedMatrix;
use crate::io::npy::{Dtype, Header};
use crate::io::publish::{OutputFile, Overwrite};
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

/// Writes the states of [`Event::Coordinates`](crate::Event::Coordinates) to a file that
/// [`Trajectory`] reads. The file appears when it is finished, or not at all.
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
    file: OutputFile,
    cols: usize,
    rows: usize,
}

impl TrajectoryWriter {
    /// Creates the temporary file of `path`, in the same folder. An existing file is never replaced;
    /// an unfinished trajectory of a killed process is.
    ///
    /// # Errors
    /// [`Error::Exists`] if something has this name; [`Error::Locked`] if another process is writing
    /// it; [`Error::Format`] if something else has the name of the temporary file; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<TrajectoryWriter> {
        let mut file = OutputFile::begin(path.as_ref(), is_unfinished, Overwrite::Never, &[])?;
        file.append(&header(0, 0))?;
        Ok(TrajectoryWriter {
            file,
            cols: 0,
            rows: 0,
        })
    }

    /// Appends the next state.
    ///
    /// # Errors
    /// [`Error::Shape`] if its length differs from the first state's; [`Error::Io`].
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

    /// Writes the number of states to the header and renames the file to its name.
    ///
    /// # Errors
    /// As [`TrajectoryWriter::create`]: another program may have created the file since.
    pub fn finish(mut self) -> Result<()> {
        self.file.overwrite_start(&header(self.rows, self.cols))?;
        self.file.publish()
    }
}

/// The header of a trajectory; its length does not depend on the number of states.
fn header(rows: usize, cols: usize) -> Vec<u8> {
    let header = Header::encode(Dtype::F32, &[rows, cols]);
    assert_eq!(header.len(), 128, "two numbers of 20 digits fit");
    header
}

/// Whether a file that begins with `start` is a trajectory whose number of states is not written.
fn is_unfinished(start: &[u8]) -> bool {
    start.starts_with(&header(0, 0))
}
