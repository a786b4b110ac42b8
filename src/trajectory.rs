//! A whole trajectory in Gram coordinates, and the weight of any epoch from it.
//!
//! The file is one `.npy` matrix of f32. Row t is the state after t epochs (row 0 is the
//! start): s, then b (c values), then Aᵀ (c x n, row-major). NumPy reads it:
//! `t = numpy.load("trajectory.npy"); s, b, A = t[e, 0], t[e, 1:1+c], t[e, 1+c:].reshape(c, n).T`.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::data::npy::{Dtype, Header};
use crate::data::samples::Samples;
use crate::data::store::MappedMatrix;
use crate::engine::{Coordinates, Primal};
use crate::error::{Error, Result};
use crate::fit::{Init, initial_model};
use crate::gemm::{Backend, Gemm};
use crate::model::Model;
use crate::publish::parent_of;

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
        let gemm = Gemm::new(Backend::default(), rayon::current_num_threads());
        let primal = Primal::new(self.train.x(), None, self.start.clone(), gemm);
        Ok(primal.combine(Coordinates { s, bias, a }))
    }
}

/// Values of one state.
fn state_len(n: usize, c: usize) -> usize {
    1 + c + n * c
}

/// Writes states one by one; the file appears when it is finished.
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    cols: usize,
    rows: usize,
}

impl Writer {
    /// Start writing what will become `path`.
    pub fn create(path: &Path, n: usize, c: usize) -> Result<Writer> {
        let parent = parent_of(path);
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What an ordinary file gets, less the umask.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = (builder.prefix(".trajectory-").tempfile_in(parent))
            .map_err(Error::io(path, "create"))?;
        let mut writer = Writer {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            cols: state_len(n, c),
            rows: 0,
        };
        let header = writer.header();
        writer.write(&header)?;
        Ok(writer)
    }

    /// Add the next state.
    pub fn push(&mut self, state: Coordinates) -> Result<()> {
        let values = 1 + state.bias.len() + state.a.len();
        assert_eq!(values, self.cols, "every state has the same shape");
        self.rows += 1;
        self.write(&state.s.to_le_bytes())?;
        self.write(bytemuck::cast_slice(state.bias))?;
        self.write(bytemuck::cast_slice(state.a))
    }

    /// Put the number of states into the header and let the file appear.
    pub fn finish(mut self) -> Result<()> {
        let header = self.header();
        self.file.rewind().map_err(Error::io(&self.path, "write"))?;
        self.write(&header)?;
        let Writer { path, file, .. } = self;
        let file = file
            .into_inner()
            .map_err(|e| Error::io(&path, "write")(e.into_error()))?;
        File::sync_all(file.as_file()).map_err(Error::io(&path, "write"))?;
        file.persist(&path)
            .map_err(|e| Error::io(&path, "create")(e.error))?;
        Ok(())
    }

    /// The header; of the same length for any number of rows.
    fn header(&self) -> Vec<u8> {
        let header = Header::encode(Dtype::F32, &[self.rows, self.cols]);
        assert_eq!(header.len(), 128, "two numbers of 20 digits fit");
        header
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (self.file.write_all(bytes)).map_err(Error::io(&self.path, "write"))
    }
}
