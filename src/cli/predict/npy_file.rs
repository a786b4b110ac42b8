//! `--npy`: what is predicted as an array, one row for each input.

use std::path::{Path, PathBuf};

use crate::io::files;
use crate::io::npy::{Dtype, Header};
use crate::io::publish::{OutputFile, Overwrite, is_output};
use crate::{Error, Result};

/// Values that are written together.
const BUFFER: usize = 1 << 16;

/// Length of the header, by which a file of flowreg-predict is told from those of others: NumPy
/// pads headers of two dimensions to 128 bytes at most.
const HEADER: usize = 192;

/// Whether a file that begins so was written here.
fn is_own(start: &[u8]) -> bool {
    let header = Header::encode_padded(Dtype::F32, &[0, 0], HEADER);
    let known = header.iter().position(|&byte| byte == b'0').unwrap_or(0);
    start.len() >= HEADER && start.starts_with(&header[..known])
}

/// An array that is written row by row and appears whole or not at all.
pub struct NpyFile {
    file: OutputFile,
    buffer: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl NpyFile {
    /// Begin an array of `columns` columns; see [`OutputFile::begin`].
    ///
    /// # Errors
    /// Those of [`OutputFile::begin`].
    pub fn begin(
        path: &Path,
        columns: usize,
        overwrite: Overwrite,
        sources: &[&Path],
    ) -> Result<NpyFile> {
        let mut file = OutputFile::begin(path, is_own, overwrite, sources)?;
        let header = Header::encode_padded(Dtype::F32, &[0, columns], HEADER);
        file.append(&header)?;
        Ok(NpyFile {
            file,
            buffer: Vec::new(),
            rows: 0,
            columns,
        })
    }

    /// Add a row, or NaNs where there is none.
    pub fn append(&mut self, row: Option<&[f32]>) -> Result<()> {
        match row {
            Some(row) => self.buffer.extend_from_slice(row),
            None => self
                .buffer
                .extend(std::iter::repeat_n(f32::NAN, self.columns)),
        }
        self.rows += 1;
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.append(bytemuck::cast_slice(&self.buffer))?;
        self.buffer.clear();
        Ok(())
    }

    /// Let it appear.
    pub fn publish(mut self) -> Result<()> {
        self.flush()?;
        let header = Header::encode_padded(Dtype::F32, &[self.rows, self.columns], HEADER);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.publish()
    }
}

/// Refuse standard output and whatever else is no file: a header is put in last, when the number
/// of rows is known.
///
/// # Errors
/// [`Error::Options`].
pub fn refuse_stream(path: &Path) -> Result<()> {
    let streams = ["/dev/std", "/dev/fd/", "/proc/self/fd/"];
    let shown = path.display().to_string();
    let is_stream = || {
        let metadata = path.metadata();
        metadata.is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
    };
    if shown == "-" || streams.iter().any(|name| shown.starts_with(name)) || is_stream() {
        let expected = "a file, whose beginning is written last: give its name, such as p.npy (./- is a file too)";
        return Err(Error::options("--npy", shown, expected));
    }
    Ok(())
}

/// The files and directories that are never replaced: the inputs and the model, with the run
/// that it belongs to.
pub fn sources<'a>(model: &'a Path, inputs: impl Iterator<Item = &'a PathBuf>) -> Vec<&'a Path> {
    let run = files::parent_of(model);
    let run = is_output(run).then_some(run);
    let inputs = inputs.map(PathBuf::as_path);
    [model].into_iter().chain(run).chain(inputs).collect()
}
