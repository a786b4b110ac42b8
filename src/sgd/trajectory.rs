//! A whole trajectory in Gram coordinates, and the weight of any epoch from it.
//!
//! The file is one `.npy` matrix of f32. Row t is the state after t epochs (row 0 is the
//! start): s, then b (c values), then Aᵀ (c x n, row-major). NumPy reads it:
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
use crate::sgd::gram::Coordinates;
use crate::sgd::init::{Init, initial_model};
use crate::threads;

/// A saved trajectory, mapped, with the rows and the start that it belongs to.
#[derive(Debug)]
pub struct Trajectory<'a> {
    states: MappedMatrix,
    train: &'a Samples<'a>,
    start: Model,
}

impl<'a> Trajectory<'a> {
    /// Open the trajectory of a fit of `train` from `init`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Npy`]; [`Error::Format`] if the file's shape or start is that of
    /// another fit; those of reading `init`.
    pub fn open(path: impl AsRef<Path>, train: &'a Samples<'a>, init: &Init) -> Result<Self> {
        let path = path.as_ref();
        let states = MappedMatrix::open(path)?;
        let start = initial_model(init, train)?;
        let (n, c) = (train.rows(), start.bias().len());
        let (rows, cols) = (states.view().rows(), states.view().cols());
        if rows == 0 || cols != state_len(n, c) {
            return Err(Error::format(
                path,
                "shape",
                format!("{rows} x {cols}"),
                format!(
                    "at least one row and {} columns: s, {c} of b and {c} x {n} of Aᵀ, as the data asks for",
                    state_len(n, c)
                ),
            ));
        }
        let first = states.view().row(0);
        let (s_bias, a) = first.split_at(1 + c);
        if s_bias[0] != 1.0 || s_bias[1..] != *start.bias() || a.iter().any(|&a| a != 0.0) {
            let expected =
                "the initial bias of the data and start given: the seed or file of the fit";
            return Err(Error::format(path, "row 0", "another start", expected));
        }
        Ok(Trajectory {
            states,
            train,
            start,
        })
    }

    /// Epochs of the fit; there is one state more.
    pub fn epochs(&self) -> usize {
        self.states.view().rows() - 1
    }

    /// The model after so many epochs, 0 being the start; after the last one, to the bit the
    /// model of the fit (of the default back end). Cost: 2ndc flop.
    ///
    /// # Errors
    /// [`Error::Shape`] if the fit was shorter.
    pub fn model(&self, epochs: usize) -> Result<Model> {
        if epochs > self.epochs() {
            let expected = format!("0..={}, as the trajectory has", self.epochs());
            return Err(Error::shape("epochs", epochs, expected));
        }
        let state = self.states.view().row(epochs);
        let (bias, a) = state[1..].split_at(self.start.bias().len());
        let s = state[0];
        let gemm = Gemm::new(Backend::default(), threads::current());
        let primal = DenseParameters::new(self.train.x(), None, self.start.clone(), gemm);
        Ok(primal.combine(Coordinates { s, bias, a }))
    }
}

/// Values of one state.
fn state_len(n: usize, c: usize) -> usize {
    1 + c + n * c
}

/// Writes states one by one, to a sibling; the file appears when it is finished.
pub(crate) struct Writer {
    path: PathBuf,
    sibling: PathBuf,
    file: NewFile,
    cols: usize,
    rows: usize,
    finished: bool,
}

impl Writer {
    /// Start writing what will become `path`.
    ///
    /// # Errors
    /// [`Error::Format`] where something has that name, or the sibling's; [`Error::Io`].
    pub fn create(path: &Path, n: usize, c: usize) -> Result<Writer> {
        if path.symlink_metadata().is_ok() {
            let expected = "nothing of this name; move it away, or choose another path";
            let found = "something that was there already";
            return Err(Error::format(path, "name", found, expected));
        }
        let sibling = files::sibling(path, "partial")?;
        let mut writer = Writer {
            path: path.to_path_buf(),
            file: NewFile::create(&sibling)?,
            sibling,
            cols: state_len(n, c),
            rows: 0,
            finished: false,
        };
        writer.file.append(&writer.header())?;
        Ok(writer)
    }

    /// Add the next state.
    pub fn push(&mut self, state: Coordinates) -> Result<()> {
        let values = 1 + state.bias.len() + state.a.len();
        assert_eq!(values, self.cols, "every state has the same shape");
        self.rows += 1;
        self.file.append(&state.s.to_le_bytes())?;
        self.file.append(bytemuck::cast_slice(state.bias))?;
        self.file.append(bytemuck::cast_slice(state.a))
    }

    /// Put the number of states into the header and let the file appear.
    pub fn finish(mut self) -> Result<()> {
        self.file.overwrite_start(&self.header())?;
        self.file.finish()?;
        files::rename_new(&self.sibling, &self.path)?;
        self.finished = true;
        files::sync_dir(files::parent_of(&self.path))
    }

    /// The header; of the same length for any number of rows.
    fn header(&self) -> Vec<u8> {
        let header = Header::encode(Dtype::F32, &[self.rows, self.cols]);
        assert_eq!(header.len(), 128, "two numbers of 20 digits fit");
        header
    }
}

impl Drop for Writer {
    /// Nothing stays of a file that was not finished.
    fn drop(&mut self) {
        if !self.finished {
            let _ = files::remove_file(&self.sibling);
        }
    }
}
