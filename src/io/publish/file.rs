//! One file that appears whole or not at all.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{KEPT, Lock, Overwrite, absolute, is_output, refuse_overlap, resolve};
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::{NewFile, parent_of, sibling};

/// Bytes of a file by which it is known as flowreg's.
pub const FIRST_BYTES: usize = 256;

/// One file that appears complete or not at all. Dropped without [`OutputFile::publish`], it
/// vanishes.
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
    /// Start writing `path`. A link is followed. A file that is there may be replaced if `own`
    /// takes its first [`FIRST_BYTES`] bytes for those of a file that flowreg wrote, and if it is
    /// in no output of flowreg. `sources` are never replaced.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Locked`], [`Error::Io`]; [`Error::Format`] for what may not be
    /// replaced.
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
        // Of a killed process, if it begins as ours; nothing else is removed.
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

    /// Append.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes)
    }

    /// Put `bytes` over the beginning; what follows stays.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.overwrite_start(bytes)
    }

    /// Make the file appear under its name.
    ///
    /// # Errors
    /// Those of [`OutputFile::begin`]: the target may have changed meanwhile.
    pub fn publish(mut self) -> Result<()> {
        self.file.finish()?;
        refuse_file(&self.target, self.own, self.overwrite)?;
        match self.overwrite {
            Overwrite::Replace => files::rename(&self.partial, &self.target)?,
            // Another program may have written it since it was looked for.
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

/// Write one file that appears complete or not at all: [`OutputFile`] in one step.
///
/// # Errors
/// Those of [`OutputFile::begin`].
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

/// Refuse a file that exists and may not be replaced.
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

/// Whether it is a regular file that `own` takes for flowreg's, or an empty one.
fn is_own(path: &Path, own: fn(&[u8]) -> bool) -> Result<bool> {
    let metadata = path
        .symlink_metadata()
        .map_err(Error::io(path, "look at"))?;
    if !metadata.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FIRST_BYTES as u64).read_to_end(&mut start))
        .map_err(Error::io(path, "read"))?;
    Ok(start.is_empty() || own(&start))
}
