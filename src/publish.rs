//! Output that appears whole or not at all: the one commit protocol of flowreg.
//!
//! ```text
//! lock .NAME.lock; remove what a killed process left; create .NAME.partial;
//! write and flush its files; flush it; rename it to NAME (or let both change names,
//! in one step); flush the parent; unlock
//! ```
//!
//! A process that dies at any point leaves NAME as it was or complete; its lock dies with it,
//! and the next one with this output removes the remains. Work is not taken up where it
//! stopped: half a matrix cannot be told from a broken one, and a preparation takes seconds
//! a thousand photographs. A fit goes on from its [checkpoint](crate::checkpoint).

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, parent_of, sibling};

/// What to do where the output exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse ([`Error::Exists`]).
    #[default]
    Never,
    /// Replace it, if flowreg wrote it.
    Replace,
}

/// Files whose presence marks a directory as flowreg's own, so that replacing it cannot
/// destroy anything else.
const OURS: [&str; 4] = [
    crate::data::dataset::MANIFEST,
    crate::export::ONNX,
    crate::run::SUMMARY,
    crate::data::flowers102::SPLITS,
];

/// A directory in the making. Dropped without [`Staging::publish`], it vanishes.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    dir: PathBuf,
    overwrite: Overwrite,
    _lock: Lock,
}

impl Staging {
    /// Start writing what will become `target`; its parent is created if missing.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Locked`] if another process is writing it, [`Error::Io`].
    pub fn begin(target: &Path, overwrite: Overwrite) -> Result<Staging> {
        let dir = sibling(target, "partial")?;
        refuse_existing(target, overwrite)?;
        files::create_dir_all(parent_of(target))?;
        let lock = Lock::take(target)?;
        // The lock is ours, so whoever made this is dead.
        files::remove_dir_all(&dir)?;
        // Checked again: its writer may have finished just before.
        refuse_existing(target, overwrite)?;
        files::create_dir(&dir)?;
        Ok(Staging {
            target: target.to_path_buf(),
            dir,
            overwrite,
            _lock: lock,
        })
    }

    /// Where to write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Write one small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        files::write(&self.dir.join(name), bytes)
    }

    /// Make the directory appear under its name.
    pub fn publish(self) -> Result<()> {
        // Checked again: the work in between may have taken hours.
        refuse_existing(&self.target, self.overwrite)?;
        files::sync_dir(&self.dir)?;
        match self.target.symlink_metadata() {
            // What was there is now called `dir`, and vanishes as `self` is dropped.
            Ok(_) => files::exchange(&self.dir, &self.target)?,
            Err(_) => files::rename(&self.dir, &self.target)?,
        }
        files::sync_dir(parent_of(&self.target))
    }
}

/// Write one file that appears complete or not at all, by the same protocol.
///
/// # Errors
/// [`Error::Exists`] unless it may be replaced, [`Error::Locked`], [`Error::Io`].
pub fn write_file(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    files::create_dir_all(parent_of(path))?;
    let _lock = Lock::take(path)?;
    if overwrite == Overwrite::Never && path.symlink_metadata().is_ok() {
        return Err(Error::Exists {
            path: path.to_path_buf(),
        });
    }
    files::replace(path, bytes)
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The right to write one output, held by one process; it ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub fn take(target: &Path) -> Result<Lock> {
        let path = sibling(target, "lock")?;
        loop {
            let file = (File::options().create(true).append(true).open(&path))
                .map_err(Error::io(&path, "create"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked {
                        path: target.to_path_buf(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(Error::io(&path, "lock")(source)),
            }
            // Its last holder may have removed it between our opening and our locking.
            if same_file(&file, &path) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    /// Removed while it is still held, so that nobody else's is.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(a), Ok(b)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn same_file(_: &File, _: &Path) -> bool {
    true
}

fn refuse_existing(target: &Path, overwrite: Overwrite) -> Result<()> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    if overwrite == Overwrite::Never {
        return Err(Error::Exists {
            path: target.to_path_buf(),
        });
    }
    let empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if empty || OURS.iter().any(|name| target.join(name).is_file()) {
        return Ok(());
    }
    Err(Error::format(
        target,
        "content",
        "something that flowreg did not write",
        format!(
            "one of {} (--force replaces only flowreg's own output; remove it yourself or choose another --out)",
            OURS.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a/out");
        let staging = Staging::begin(&out, Overwrite::Never).unwrap();
        staging.write("summary.json", b"1").unwrap();
        assert!(!out.exists());
        drop(staging);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);

        let staging = Staging::begin(&out, Overwrite::Never).unwrap();
        staging.write("summary.json", b"1").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"1");

        assert!(matches!(
            Staging::begin(&out, Overwrite::Never),
            Err(Error::Exists { .. })
        ));
        let staging = Staging::begin(&out, Overwrite::Replace).unwrap();
        staging.write("summary.json", b"2").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn one_writer_at_a_time_and_a_dead_ones_remains_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let first = Staging::begin(&out, Overwrite::Never).unwrap();
        let second = Staging::begin(&out, Overwrite::Never);
        assert!(matches!(second, Err(Error::Locked { .. })));
        // As if it were killed: nothing is dropped, but its lock is free.
        let Staging { dir, _lock, .. } = &first;
        _lock._file.unlock().unwrap();
        fs::write(dir.join("half"), b"1").unwrap();
        std::mem::forget(first);
        let third = Staging::begin(&out, Overwrite::Never).unwrap();
        third.publish().unwrap();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn never_replaces_what_is_not_ours() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), b"years").unwrap();
        let error = Staging::begin(root.path(), Overwrite::Replace).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
    }
}
