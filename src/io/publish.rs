//! Atomic output: the commit protocol of all directories and files that flowreg writes. An output
//! appears complete or not at all, and replaces only an output of flowreg.
//!
//! ```text
//! lock .NAME.lock; remove the leftovers of a killed process; create .NAME.partial;
//! write and flush its files and its list of entries; flush it; rename it to NAME (or exchange
//! the two names in one step, then remove the entries on the old list); flush the
//! parent; unlock
//! ```
//!
//! A process that is killed at any point leaves the old NAME or the complete new one. Its lock ends
//! with it, and the next process that writes this output removes its leftovers. Interrupted work
//! starts again: a partial matrix looks like a damaged one, and preparing a thousand photographs
//! takes seconds. A fit continues from its [checkpoint](crate::io::checkpoint).
//!
//! # What may be replaced
//!
//! A published directory contains a list of its entries, [`ENTRIES`]. It is replaced only if it
//! contains nothing else. Refused are an entry that is not on the list or is of another type (file,
//! directory, link), which the error names, a directory without a list, and one of another
//! [kind](OutputKind). Contents are not compared.
//! A single file is replaced only if it begins like a file that flowreg writes and is not part of an
//! output directory.

mod file;
mod lock;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::{parent_of, sibling};

pub use self::file::{FIRST_BYTES, OutputFile, write_file};
pub(crate) use self::lock::Lock;

/// What to do if the output exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse ([`Error::Exists`]).
    #[default]
    Never,
    /// Replace it if flowreg wrote all of it.
    Replace,
}

impl Overwrite {
    /// `Replace` if `--force` was given, else `Never`.
    pub fn forced(force: bool) -> Overwrite {
        if force {
            Overwrite::Replace
        } else {
            Overwrite::Never
        }
    }
}

/// The kind of a published directory, which replaces only a directory of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A prepared dataset.
    Dataset,
    /// The output of a fit.
    Run,
    /// An exported model.
    Export,
    /// The demo's photographs.
    Photographs,
    /// A model and what belongs to it, without the results of a run.
    Model,
}

impl OutputKind {
    /// Each kind and a file that it contains and the kinds below it do not.
    const FILES: [(&str, OutputKind); 5] = [
        ("dataset.json", OutputKind::Dataset),
        ("summary.json", OutputKind::Run),
        ("weight.npy", OutputKind::Export),
        ("imagelabels.mat", OutputKind::Photographs),
        ("model.safetensors", OutputKind::Model),
    ];

    /// The kind of an output with these entries; `None` if they include none of [`Self::FILES`].
    fn of(entries: &BTreeSet<String>) -> Option<OutputKind> {
        let mut files = OutputKind::FILES.iter();
        let found = files.find(|(file, _)| entries.contains(*file));
        found.map(|(_, kind)| *kind)
    }

    fn name(self) -> &'static str {
        match self {
            OutputKind::Dataset => "a dataset",
            OutputKind::Run => "a run",
            OutputKind::Export => "an export",
            OutputKind::Photographs => "the demo's photographs",
            OutputKind::Model => "a model",
        }
    }
}

/// File name of the list of a published directory's entries.
pub const ENTRIES: &str = ".flowreg.json";
/// Limit on the length of the list, in bytes.
const MAX_ENTRIES: u64 = 1 << 30;
/// Advice in an error about an output that `--force` does not replace.
const KEPT: &str = "`force` replaces only what flowreg wrote; move it away, or choose another path";

/// The contents of [`ENTRIES`].
#[derive(Debug, Serialize, Deserialize)]
struct Entries {
    /// flowreg's version.
    flowreg: String,
    /// Paths relative to the directory, separated by `/`; those of directories end in `/`. `None`
    /// while the directory is being written.
    entries: Option<BTreeSet<String>>,
}

impl Entries {
    fn to_json(entries: Option<BTreeSet<String>>) -> Vec<u8> {
        let flowreg = env!("CARGO_PKG_VERSION").to_string();
        serde_json::to_vec_pretty(&Entries { flowreg, entries }).expect("plain data")
    }

    /// The list of a directory; `None` if it has none.
    fn of(dir: &Path) -> Result<Option<Entries>> {
        let path = dir.join(ENTRIES);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => {}
            _ => return Ok(None),
        }
        let bytes = files::read(&path, "open", MAX_ENTRIES)?;
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

/// Whether a directory is an output of flowreg: it contains a list of entries or, written by an
/// earlier version, a manifest or summary. Other entries do not matter. False if it cannot be read.
pub fn is_output(dir: &Path) -> bool {
    const MAX_JSON: u64 = 16 << 20;
    let has = |name: &str, fields: &[&str]| {
        let path = dir.join(name);
        path.is_file()
            && (files::read(&path, "open", MAX_JSON).ok())
                .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
                .is_some_and(|json| fields.iter().all(|field| json.get(field).is_some()))
    };
    Entries::of(dir).is_ok_and(|entries| entries.is_some())
        || has("dataset.json", &["version", "class_names", "crc32"])
        || has("summary.json", &["flowreg", "train_split", "eval_loss"])
}

/// An output directory that is being written. Dropped without [`Staging::publish`], it is removed.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    dir: PathBuf,
    kind: OutputKind,
    overwrite: Overwrite,
    published: bool,
    _lock: Lock,
}

impl Staging {
    /// Create the temporary directory of `target`, and the parent of `target` if it is missing. If
    /// `target` is a link, it is followed. `sources` are the files and directories that the output
    /// is made from.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Locked`] if another process is writing `target`;
    /// [`Error::Format`] if `target` has entries that flowreg did not write, contains a source or is
    /// inside one; [`Error::Io`].
    pub fn begin(
        target: &Path,
        kind: OutputKind,
        overwrite: Overwrite,
        sources: &[&Path],
    ) -> Result<Staging> {
        let target = &resolve(target)?;
        let dir = sibling(target, "partial")?;
        refuse_overlap(target, sources)?;
        refuse_existing(target, kind, overwrite)?;
        files::create_dir_all(parent_of(target))?;
        let lock = Lock::take(target)?;
        // We hold the lock, so the process that created this has ended.
        remove_leftovers(&dir)?;
        // Checked again: another process may have published before we took the lock.
        refuse_existing(target, kind, overwrite)?;
        files::create_dir(&dir)?;
        let staging = Staging {
            target: target.to_path_buf(),
            dir,
            kind,
            overwrite,
            published: false,
            _lock: lock,
        };
        staging.write(ENTRIES, &Entries::to_json(None))?;
        Ok(staging)
    }

    /// The temporary directory, to write into.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Write a small file into [`Self::dir`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        files::write(&self.dir.join(name), bytes)
    }

    /// Give the directory its final name.
    ///
    /// # Errors
    /// As [`Staging::begin`]: the target may have changed since.
    pub fn publish(mut self) -> Result<()> {
        let mut entries = BTreeSet::new();
        list(&self.dir, "", &mut entries)?;
        let list = Entries::to_json(Some(entries));
        // Atomic: the list tells an unfinished output from a finished one.
        files::replace(&self.dir.join(ENTRIES), &list)?;
        // Checked again: hours may have passed since `begin`.
        refuse_existing(&self.target, self.kind, self.overwrite)?;
        files::sync_dir(&self.dir)?;
        if self.target.symlink_metadata().is_err() {
            files::rename(&self.dir, &self.target)?;
            self.published = true;
            return files::sync_dir(parent_of(&self.target));
        }
        files::exchange(&self.dir, &self.target)?;
        // `dir` now names the old output, which `drop` must not remove.
        self.published = true;
        // If a foreign entry was added since the check, or the flush fails, exchange them back.
        let own = refuse_existing_as(&self.dir, self.kind, self.overwrite, &self.target)
            .and_then(|own| files::sync_dir(parent_of(&self.target)).map(|()| own));
        match own {
            Ok(own) => remove_listed(&self.dir, &own),
            Err(error) => match files::exchange(&self.dir, &self.target) {
                Ok(()) => {
                    self.published = false;
                    Err(error)
                }
                Err(_) => Err(old_output_kept(&self.dir, error)),
            },
        }
    }
}

/// The error if the new output is in place and the old one remains, in `dir`.
fn old_output_kept(dir: &Path, why: impl ToString) -> Error {
    let expected = "nothing foreign in the output that was replaced; the new output is complete, \
                    and the old one is kept in this directory: move it away";
    Error::format(dir, "content", why, expected)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            let _ = remove_all(&self.dir);
        }
    }
}

/// The path with links followed, if it is a link; else the path. A trailing `/` or `/.`, with which
/// the system would follow a link, is removed first.
fn resolve(target: &Path) -> Result<PathBuf> {
    let target = &target.components().collect::<PathBuf>();
    match target.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => (target.canonicalize()).map_err(Error::io(
            target,
            "follow the link (remove it, or choose another path)",
        )),
        _ => Ok(target.to_path_buf()),
    }
}

/// The absolute path without links and `..`; its last components need not exist.
fn absolute(path: &Path) -> Result<PathBuf> {
    let at = || Error::io(path, "find");
    let mut rest = Vec::new();
    let mut known = std::path::absolute(path).map_err(at())?;
    loop {
        match known.canonicalize() {
            Ok(found) => {
                known = found;
                break;
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at()(error)),
            Err(error) => match (known.components().next_back(), known.parent()) {
                (Some(last), Some(parent)) => {
                    rest.push(last.as_os_str().to_owned());
                    known = parent.to_path_buf();
                }
                _ => return Err(at()(error)),
            },
        }
    }
    for name in rest.into_iter().rev() {
        match Path::new(&name).components().next() {
            Some(Component::ParentDir) => drop(known.pop()),
            _ => known.push(name),
        }
    }
    Ok(known)
}

/// Refuse a source inside the output, and an output inside a source.
fn refuse_overlap(target: &Path, sources: &[&Path]) -> Result<()> {
    let output = absolute(target)?;
    for &source in sources {
        // A missing source is an error when it is opened.
        let Ok(found) = source.canonicalize() else {
            continue;
        };
        if found.starts_with(&output) {
            let found = format!("the source {}", source.display());
            let expected = "an output that holds none of its sources; choose another one";
            return Err(Error::format(target, "output", found, expected));
        }
        if found.is_dir() && output.starts_with(&found) {
            let found = format!("a place inside the source {}", source.display());
            let expected = "a place outside of it; choose another one";
            return Err(Error::format(target, "output", found, expected));
        }
    }
    Ok(())
}

/// An error if the target exists and may not be replaced.
fn refuse_existing(target: &Path, kind: OutputKind, overwrite: Overwrite) -> Result<()> {
    refuse_existing_as(target, kind, overwrite, target).map(drop)
}

/// [`refuse_existing`] with `name` as the target's path in messages. Returns the entries that
/// flowreg wrote.
fn refuse_existing_as(
    target: &Path,
    kind: OutputKind,
    overwrite: Overwrite,
    name: &Path,
) -> Result<BTreeSet<String>> {
    let Ok(metadata) = target.symlink_metadata() else {
        return Ok(BTreeSet::new());
    };
    let is_dir = metadata.is_dir();
    if is_dir && fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none()) {
        return Ok(BTreeSet::new());
    }
    let replaceable = own_entries(target, name, is_dir).and_then(|own| {
        match OutputKind::of(&own).filter(|&other| other != kind) {
            None => Ok(own),
            Some(other) => {
                let kind = kind.name();
                let expected =
                    format!("{kind}, as the new one is; move it away, or choose another path");
                Err(Error::format(name, "output", other.name(), expected))
            }
        }
    });
    match overwrite {
        Overwrite::Replace => replaceable,
        Overwrite::Never => Err(Error::Exists {
            path: name.to_path_buf(),
            replaceable: replaceable.is_ok(),
        }),
    }
}

/// The listed entries of a target; an error if it contains others.
fn own_entries(target: &Path, name: &Path, is_dir: bool) -> Result<BTreeSet<String>> {
    if !is_dir {
        let expected = format!("a directory; {KEPT}");
        return Err(Error::format(name, "output", "no directory", expected));
    }
    let Some(Entries {
        entries: Some(own), ..
    }) = Entries::of(target)?
    else {
        let found = format!("no list of flowreg's entries ({ENTRIES})");
        let expected = format!("a directory that flowreg wrote since it keeps such lists; {KEPT}");
        return Err(Error::format(name, "output", found, expected));
    };
    let mut there = BTreeSet::new();
    list(target, "", &mut there)?;
    match there.difference(&own).next() {
        None => Ok(own),
        Some(foreign) => {
            let expected = format!("nothing that flowreg did not write; {KEPT}");
            Err(Error::format(name, "output", foreign, expected))
        }
    }
}

/// Relative paths of all entries below a directory, except [`ENTRIES`]. The path of a directory ends
/// in `/`; that of anything else but a file in `@`, so that it matches no listed path.
fn list(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) -> Result<()> {
    let read = || Error::io(dir, "read the directory");
    for entry in fs::read_dir(dir).map_err(read())? {
        let entry = entry.map_err(read())?;
        let kind = entry.file_type().map_err(read())?;
        let name = match entry.file_name().into_string() {
            Ok(name) => format!("{prefix}{name}"),
            // flowreg writes no such name.
            Err(name) => format!("{prefix}{}@", name.to_string_lossy()),
        };
        if kind.is_dir() {
            list(&entry.path(), &format!("{name}/"), into)?;
            into.insert(format!("{name}/"));
        } else if kind.is_file() {
            if name != ENTRIES {
                into.insert(name);
            }
        } else {
            into.insert(format!("{name}@"));
        }
    }
    Ok(())
}

/// Remove these entries, their list and the directory.
///
/// # Errors
/// [`Error::Format`] if the directory has other entries, which are kept.
fn remove_listed(dir: &Path, own: &BTreeSet<String>) -> Result<()> {
    // In descending order the entries of a directory come before it.
    for entry in own.iter().rev() {
        let path = dir.join(entry);
        let _ = if entry.ends_with('/') {
            fs::remove_dir(path)
        } else {
            fs::remove_file(path)
        };
    }
    let _ = fs::remove_file(dir.join(ENTRIES));
    match fs::remove_dir(dir) {
        Err(error) if dir.symlink_metadata().is_ok() => Err(old_output_kept(dir, error)),
        _ => Ok(()),
    }
}

/// Remove the temporary directory that a killed process left. Without a complete list it is an
/// unfinished output, and all of it is removed; with one it is a replaced output, and its listed
/// entries are.
///
/// # Errors
/// [`Error::Format`] if the directory has other entries, which are kept.
fn remove_leftovers(dir: &Path) -> Result<()> {
    if dir.symlink_metadata().is_err() || fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    if is_unfinished(dir) {
        return remove_all(dir);
    }
    let own = own_entries(dir, dir, is_directory(dir))?;
    remove_listed(dir, &own)
}

/// Whether the path is a directory and not a link to one.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
}

/// Whether the path is an unfinished output: a directory with the list of one, or a prefix of it.
fn is_unfinished(dir: &Path) -> bool {
    let path = dir.join(ENTRIES);
    let is_list = || {
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
    };
    let list = || files::read(&path, "open", MAX_ENTRIES).ok();
    is_directory(dir)
        && is_list()
        && list().is_some_and(|list| Entries::to_json(None).starts_with(&list))
}

/// The directory `.NAME.partial` in which the file `target` is assembled: that of an earlier
/// process, to be continued, or a new one. The caller holds the lock of `target` and removes the
/// directory with [`remove_all`].
///
/// # Errors
/// [`Error::Format`] if something else has that name; [`Error::Io`].
#[cfg(feature = "download")]
pub(crate) fn resume_directory(target: &Path) -> Result<PathBuf> {
    let dir = sibling(target, "partial")?;
    if is_unfinished(&dir) {
        return Ok(dir);
    }
    // A killed process may have left it empty.
    if dir.symlink_metadata().is_ok() && fs::remove_dir(&dir).is_err() {
        let found = "something that flowreg did not write";
        return Err(files::refused_name(&dir, found));
    }
    files::create_dir(&dir)?;
    files::write(&dir.join(ENTRIES), &Entries::to_json(None))?;
    Ok(dir)
}

/// Remove an unfinished output, its list last, so that a process killed meanwhile leaves a directory
/// that is recognized as unfinished.
pub(crate) fn remove_all(dir: &Path) -> Result<()> {
    let mut all = BTreeSet::new();
    list(dir, "", &mut all)?;
    remove_listed(dir, &all)
}

#[cfg(test)]
mod tests;
