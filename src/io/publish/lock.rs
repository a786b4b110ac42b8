//! The right to write one output, which one process has at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::sibling;

/// The right to write one output, held by one process; it ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    pub(super) _file: File,
}

impl Lock {
    /// # Errors
    /// [`Error::Locked`]; [`Error::Format`] where something else than a file has the name of the
    /// lock; [`Error::Io`].
    pub fn take(target: &Path) -> Result<Lock> {
        let path = sibling(target, "lock")?;
        loop {
            let mut options = File::options();
            options.create(true).append(true);
            let file = match files::open_unlinked(&path, options, "lock (by a file beside it)") {
                Err(Error::Io { doing, source, .. }) => {
                    return Err(Error::io(target, doing)(source));
                }
                opened => opened?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked {
                        path: target.to_path_buf(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(Error::io(target, "lock")(source)),
            }
            // Its last holder may have removed it between our opening and our locking.
            if same_file(&file, &path) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    /// Removed while it is still held, so that nobody else's is; a file with content is no lock.
    fn drop(&mut self) {
        let metadata = self.path.symlink_metadata();
        if metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(a), Ok(b)) = (file.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn same_file(_: &File, _: &Path) -> bool {
    true
}
