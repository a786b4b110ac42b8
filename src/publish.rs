//! Output that appears whole or not at all: written into a hidden sibling directory,
//! flushed to the disk, then renamed to its name.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};

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
    dir: TempDir,
    overwrite: Overwrite,
}

impl Staging {
    /// Start writing what will become `target`; its parent is created if missing.
    pub fn begin(target: &Path, overwrite: Overwrite) -> Result<Staging> {
        refuse_existing(target, overwrite)?;
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(Error::io(parent, "create the directory"))?;
        let name = target.file_name().ok_or_else(|| {
            Error::options("--out", target.display(), "a path that ends in a name")
        })?;
        let dir = tempfile::Builder::new()
            .prefix(&format!(".{}.partial-", name.to_string_lossy()))
            .tempdir_in(parent)
            .map_err(Error::io(parent, "create a directory in"))?;
        Ok(Staging {
            target: target.to_path_buf(),
            dir,
            overwrite,
        })
    }

    /// Where to write.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Write one small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir().join(name);
        let mut file = File::create(&path).map_err(Error::io(&path, "create"))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(Error::io(&path, "write"))
    }

    /// Make the directory appear under its name.
    pub fn publish(self) -> Result<()> {
        // Checked again: the work in between may have taken hours.
        refuse_existing(&self.target, self.overwrite)?;
        let parent = parent_of(&self.target);
        set_default_mode(self.dir.path())?;
        sync_dir(self.dir.path())?;
        let old = match self.target.exists() {
            true => Some(move_aside(&self.target, parent)?),
            false => None,
        };
        let staged = self.dir.keep();
        if let Err(source) = fs::rename(&staged, &self.target) {
            let _ = fs::remove_dir_all(&staged);
            if let Some(old) = &old {
                let _ = fs::rename(old.path().join("old"), &self.target);
            }
            return Err(Error::io(&self.target, "rename the finished output to")(
                source,
            ));
        }
        sync_dir(parent)
    }
}

/// Write one file that appears complete or not at all.
///
/// # Errors
/// [`Error::Exists`] unless it may be replaced, [`Error::Io`].
pub fn write_file(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    if overwrite == Overwrite::Never && path.symlink_metadata().is_ok() {
        return Err(Error::Exists {
            path: path.to_path_buf(),
        });
    }
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create the directory"))?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What an ordinary file gets, less the umask.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = (builder.prefix(".flowreg-").tempfile_in(parent))
        .map_err(Error::io(parent, "create a file in"))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(Error::io(path, "write"))?;
    let appeared = match overwrite {
        Overwrite::Replace => file.persist(path),
        Overwrite::Never => file.persist_noclobber(path),
    };
    appeared.map_err(|error| Error::io(path, "create")(error.error))?;
    Ok(())
}

/// The directory that holds `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
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

/// The old output waits in a temporary directory that is removed when dropped.
fn move_aside(target: &Path, parent: &Path) -> Result<TempDir> {
    let aside = tempfile::Builder::new()
        .prefix(".replaced-")
        .tempdir_in(parent)
        .map_err(Error::io(parent, "create a directory in"))?;
    fs::rename(target, aside.path().join("old")).map_err(Error::io(target, "move aside"))?;
    Ok(aside)
}

/// Temporary directories are private (0700); the result is an ordinary directory.
fn set_default_mode(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A fresh directory shows what the process's umask allows.
        let probe = dir.join(".mode");
        fs::create_dir(&probe).map_err(Error::io(&probe, "create the directory"))?;
        let mode = fs::metadata(&probe)
            .map_err(Error::io(&probe, "inspect"))?
            .permissions()
            .mode();
        fs::remove_dir(&probe).map_err(Error::io(&probe, "remove"))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(Error::io(dir, "set the permissions of"))?;
    }
    Ok(())
}

/// Flush a directory's entries, so that a rename survives a power cut.
fn sync_dir(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io(dir, "flush"))?;
    Ok(())
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
    fn never_replaces_what_is_not_ours() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), b"years").unwrap();
        let error = Staging::begin(root.path(), Overwrite::Replace).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
    }
}
