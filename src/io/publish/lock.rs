//! The lock of an output: one process writes it at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::sibling;

/// The lock of an output, released on drop or when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    pub(super) _file: File,
}

impl Lock {
    /// Take the lock of `target`, without waiting.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it; [`Error::Format`] if something else than a
    /// file has the name of the lock file; [`Error::Io`].
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
            // The last holder may have removed the file between `open` and `try_lock`.
            if same_file(&file, &path) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    /// Remove the lock file while the lock is held: no other process can hold it. A file with
    /// content is not a lock file and is kept.
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

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn same_file(_: &File, _: &Path) -> bool {
    true
}
