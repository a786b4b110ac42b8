//! `--npy`: the predictions as an array, with a row for each input.

use std::path::{Path, PathBuf};

use crate::io::files;
use crate::io::npy::{Dtype, Header};
use crate::io::publish::{OutputFile, Overwrite, is_output};
use crate::{Error, Result};

/// Number of values per write.
const BUFFER: usize = 1 << 16;

/// Length of the header. It identifies files of flowreg-predict: NumPy pads headers of two
/// dimensions to at most 128 bytes.
const HEADER: usize = 192;

/// Whether a file with these first bytes was written by flowreg-predict.
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
    /// Begins an array of `columns` columns; see [`OutputFile::begin`].
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

    /// Appends a row; for `None` a row of NaN.
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

    /// Writes the final header and publishes the file.
    pub fn publish(mut self) -> Result<()> {
        self.flush()?;
        let header = Header::encode_padded(Dtype::F32, &[self.rows, self.columns], HEADER);
        assert_eq!(header.len(), HEADER, "two numbers of 20 digits fit");
        self.file.overwrite_start(&header)?;
        self.file.publish()
    }
}

/// Refuses standard output and other streams: the header is written last, when the number of rows
/// is known.
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
        let expected =
            "the name of a file, such as p.npy or ./-, because its header is written last";
        return Err(Error::options("--npy", shown, expected));
    }
    Ok(())
}

/// The files and directories that are never replaced: the inputs, the model and its run.
pub fn sources<'a>(model: &'a Path, inputs: impl Iterator<Item = &'a PathBuf>) -> Vec<&'a Path> {
    let run = files::parent_of(model);
    let run = is_output(run).then_some(run);
    let inputs = inputs.map(PathBuf::as_path);
    [model].into_iter().chain(run).chain(inputs).collect()
}
