//! A single output file, written atomically.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{KEPT, Lock, Overwrite, absolute, is_output, refuse_overlap, resolve};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::{NewFile, parent_of, sibling};

/// Number of leading bytes by which flowreg recognizes a file that it wrote.
pub const FIRST_BYTES: usize = 256;

/// An output file that is being written; it appears complete or not at all. Dropped without
/// [`OutputFile::publish`], it is removed.
#[derive(Debug)]
pub struct OutputFile {
    target: PathBuf,
    partial: PathBuf,
    overwrite: Overwrite,
    own: fn(&[u8]) -> bool,
    file: NewFile,
    published: bool,
    _lock: Lock,
}

impl OutputFile {
    /// Create the temporary file of `path`. If `path` is a link, it is followed. An existing file
    /// may be replaced if `own` returns true for its first [`FIRST_BYTES`] bytes, and if it is not
    /// part of an output directory. `sources` are never replaced.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Locked`]; [`Error::Format`] if the file may not be replaced;
    /// [`Error::Io`].
    pub fn begin(
        path: &Path,
        own: fn(&[u8]) -> bool,
        overwrite: Overwrite,
        sources: &[&Path],
    ) -> Result<OutputFile> {
        let shown = path.as_os_str().as_encoded_bytes();
        if shown.ends_with(b"/") || shown.ends_with(b"/.") {
            let expected = "the name of a file";
            return Err(Error::format(
                path,
                "output",
                "the name of a folder",
                expected,
            ));
        }
        let target = resolve(path)?;
        refuse_overlap(&target, sources)?;
        refuse_file(&target, own, overwrite)?;
        files::create_dir_all(parent_of(&target))?;
        let lock = Lock::take(&target)?;
        let partial = sibling(&target, "partial")?;
        // Left by a killed process if it begins like a file of flowreg; nothing else is removed.
        if partial.symlink_metadata().is_ok() && is_own(&partial, own)? {
            files::remove_file(&partial)?;
        }
        let file = NewFile::create(&partial)?;
        Ok(OutputFile {
            target,
            partial,
            overwrite,
            own,
            file,
            published: false,
            _lock: lock,
        })
    }

    /// Append `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes)
    }

    /// Overwrite the first bytes of the file by `bytes`.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.overwrite_start(bytes)
    }

    /// Give the file its final name.
    ///
    /// # Errors
    /// As [`OutputFile::begin`]: the target may have changed since.
    pub fn publish(mut self) -> Result<()> {
        self.file.finish()?;
        refuse_file(&self.target, self.own, self.overwrite)?;
        match self.overwrite {
            Overwrite::Replace => files::rename(&self.partial, &self.target)?,
            // Another program may have created it since the check.
            Overwrite::Never => files::rename_new(&self.partial, &self.target)?,
        }
        self.published = true;
        files::sync_dir(parent_of(&self.target))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Write a file atomically: [`OutputFile`] in one call.
///
/// # Errors
/// As [`OutputFile::begin`].
pub fn write_file(
    path: &Path,
    own: fn(&[u8]) -> bool,
    bytes: &[u8],
    overwrite: Overwrite,
    sources: &[&Path],
) -> Result<()> {
    debug_assert!(own(&bytes[..bytes.len().min(FIRST_BYTES)]));
    let mut file = OutputFile::begin(path, own, overwrite, sources)?;
    file.append(bytes)?;
    file.publish()
}

/// An error if the file exists and may not be replaced.
fn refuse_file(path: &Path, own: fn(&[u8]) -> bool, overwrite: Overwrite) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let output = absolute(path)?;
    let output = output.ancestors().skip(1).find(|dir| is_output(dir));
    let replaceable = output.is_none() && is_own(path, own)?;
    match overwrite {
        Overwrite::Replace if replaceable => Ok(()),
        Overwrite::Never => Err(Error::Exists {
            path: path.to_path_buf(),
            replaceable,
        }),
        Overwrite::Replace => {
            let found = match output {
                Some(dir) => format!("a file of {}, an output of flowreg", dir.display()),
                None => "a file that flowreg did not write".to_string(),
            };
            Err(Error::format(path, "output", found, KEPT))
        }
    }
}

/// Whether the path is a regular file that is empty or for which `own` returns true.
fn is_own(path: &Path, own: fn(&[u8]) -> bool) -> Result<bool> {
    let metadata = path
        .symlink_metadata()
        .map_err(Error::io(path, "read the type of"))?;
    if !metadata.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FIRST_BYTES as u64).read_to_end(&mut start))
        .map_err(Error::io(path, "read"))?;
    Ok(start.is_empty() || own(&start))
}
