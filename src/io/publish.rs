//! Output that appears whole or not at all, and replaces nothing but flowreg's own: the one
//! commit protocol of flowreg.
//!
//! ```text
//! lock .NAME.lock; remove what a killed process left; create .NAME.partial;
//! write and flush its files and the list of them; flush it; rename it to NAME (or exchange
//! the two names in one step, then remove the files that the old list names); flush the
//! parent; unlock
//! ```
//!
//! A process that dies at any point leaves NAME as it was or complete; its lock dies with it,
//! and the next one with this output removes the remains. Interrupted work starts again: half
//! a matrix cannot be told from a broken one, and a preparation takes seconds a thousand
//! photographs. A fit continues from its [checkpoint](crate::io::checkpoint).
//!
//! # What may be replaced
//!
//! A published directory has a list of its own entries, [`ENTRIES`]. It is replaced only if it
//! holds nothing else: an entry that is not on the list, or of another kind (file, directory,
//! link), is refused by its name, as are a directory without a list and one of another
//! [kind](OutputKind). Contents are not compared.
//! A single file is replaced only if its first bytes are those of a file that flowreg wrote, and it
//! lies in no output.

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

/// What to do where the output exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse ([`Error::Exists`]).
    #[default]
    Never,
    /// Replace it, if flowreg wrote all of it.
    Replace,
}

impl Overwrite {
    /// By `--force`.
    pub fn forced(force: bool) -> Overwrite {
        if force {
            Overwrite::Replace
        } else {
            Overwrite::Never
        }
    }
}

/// What a published directory is; it replaces only one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A prepared dataset.
    Dataset,
    /// What a fit writes.
    Run,
    /// A model for other programs.
    Export,
    /// The demo's photographs.
    Photographs,
}

impl OutputKind {
    /// Each kind with a file that it has and no other.
    const FILES: [(&str, OutputKind); 4] = [
        ("dataset.json", OutputKind::Dataset),
        ("summary.json", OutputKind::Run),
        ("weight.npy", OutputKind::Export),
        ("imagelabels.mat", OutputKind::Photographs),
    ];

    /// By the list of entries; `None` of one that has none of the files.
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
        }
    }
}

/// File name of the list of a published directory's own entries.
pub const ENTRIES: &str = ".flowreg.json";
/// Longest list that is read.
const MAX_ENTRIES: u64 = 1 << 30;
/// Advice to whoever meets something that `--force` does not replace.
const KEPT: &str = "`force` replaces only what flowreg wrote; move it away, or choose another path";

/// [`ENTRIES`].
#[derive(Debug, Serialize, Deserialize)]
struct Entries {
    /// Version of flowreg.
    flowreg: String,
    /// Paths relative to the directory, with `/`; directories end in `/`. `None` while the
    /// directory is being written.
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

/// Whether a directory is an output of flowreg, whatever else it holds: it has a list of its
/// entries or, of earlier builds, a manifest or a summary with their fields. False where it
/// cannot be read.
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

/// A directory in the making. Dropped without [`Staging::publish`], it vanishes.
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
    /// Start writing what will become `target`; its parent is created if missing. A link is
    /// followed: what it names is written or replaced. `sources` are the files and directories
    /// that the output is made of.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Locked`] if another process is writing it, [`Error::Format`]
    /// for a target with entries that flowreg did not write, for a source inside the target and
    /// for a target inside a source directory, [`Error::Io`].
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
        // The lock is ours, so whoever made this is dead.
        remove_remains(&dir)?;
        // Checked again: its writer may have finished just before.
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

    /// Where to write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Write one small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        files::write(&self.dir.join(name), bytes)
    }

    /// Make the directory appear under its name.
    ///
    /// # Errors
    /// Those of [`Staging::begin`]: the target may have changed meanwhile.
    pub fn publish(mut self) -> Result<()> {
        let mut entries = BTreeSet::new();
        list(&self.dir, "", &mut entries)?;
        let list = Entries::to_json(Some(entries));
        // Whole or not at all: what a killed process leaves is known by it.
        files::replace(&self.dir.join(ENTRIES), &list)?;
        // Checked again: the work in between may have taken hours.
        refuse_existing(&self.target, self.kind, self.overwrite)?;
        files::sync_dir(&self.dir)?;
        if self.target.symlink_metadata().is_err() {
            files::rename(&self.dir, &self.target)?;
            self.published = true;
            return files::sync_dir(parent_of(&self.target));
        }
        files::exchange(&self.dir, &self.target)?;
        // What was there is now called `dir`, and no longer ours to remove.
        self.published = true;
        // Something foreign may have come at the last moment, or the exchange may not be on the
        // disk: then all is put back.
        let own = refuse_existing_as(&self.dir, self.kind, self.overwrite, &self.target)
            .and_then(|own| files::sync_dir(parent_of(&self.target)).map(|()| own));
        match own {
            Ok(own) => remove_listed(&self.dir, &own),
            Err(error) => match files::exchange(&self.dir, &self.target) {
                Ok(()) => {
                    self.published = false;
                    Err(error)
                }
                Err(_) => Err(kept_aside(&self.dir, error)),
            },
        }
    }
}

/// The new output is in place; what was there before is kept in `dir`.
fn kept_aside(dir: &Path, why: impl ToString) -> Error {
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

/// What a link names, at the end of all links; any other path as it is, without a `/` or `/.` at its
/// end, which asks for what a link leads to.
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

/// The absolute path of something that need not exist, without links and `..`.
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

/// Refuse a source that the output would replace, and an output that a source would contain.
fn refuse_overlap(target: &Path, sources: &[&Path]) -> Result<()> {
    let output = absolute(target)?;
    for &source in sources {
        // A source that cannot be found is refused where it is opened.
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

/// Refuse a target that exists and may not be replaced.
fn refuse_existing(target: &Path, kind: OutputKind, overwrite: Overwrite) -> Result<()> {
    refuse_existing_as(target, kind, overwrite, target).map(drop)
}

/// The same for a target that is called `name` in messages; its own entries.
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

/// The entries of a target that holds nothing else.
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

/// The entries below a directory by their relative paths, without its [`ENTRIES`]. A directory
/// ends in `/`, anything that is neither directory nor file in `@`, so that it is on no list.
fn list(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) -> Result<()> {
    let read = || Error::io(dir, "read the directory");
    for entry in fs::read_dir(dir).map_err(read())? {
        let entry = entry.map_err(read())?;
        let kind = entry.file_type().map_err(read())?;
        let name = match entry.file_name().into_string() {
            Ok(name) => format!("{prefix}{name}"),
            // No name of ours.
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

/// Remove these entries, the list of them and the directory.
///
/// # Errors
/// [`Error::Format`] if something else is there, which stays.
fn remove_listed(dir: &Path, own: &BTreeSet<String>) -> Result<()> {
    // In descending order: what is in a directory comes before the directory.
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
        Err(error) if dir.symlink_metadata().is_ok() => Err(kept_aside(dir, error)),
        _ => Ok(()),
    }
}

/// Remove the directory that a killed process left: one without a whole list was being written,
/// and all of it is flowreg's; one with a list was an output, of which only that is.
///
/// # Errors
/// [`Error::Format`] if something else is there, which stays.
fn remove_remains(dir: &Path) -> Result<()> {
    if dir.symlink_metadata().is_err() || fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    if is_unfinished(dir) {
        return remove_all(dir);
    }
    let own = own_entries(dir, dir, is_directory(dir))?;
    remove_listed(dir, &own)
}

/// Whether it is a directory, and no link to one.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
}

/// Whether it is a directory that flowreg was writing: its list is that of one, or the beginning
/// of it.
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

/// The directory `.NAME.partial` in which the file `target` is made, by several processes one
/// after another: new, or as the last one left it. The caller holds the lock of `target`, and
/// removes it by [`remove_all`].
///
/// # Errors
/// [`Error::Format`] for anything else of that name; [`Error::Io`].
#[cfg(feature = "download")]
pub(crate) fn resume_directory(target: &Path) -> Result<PathBuf> {
    let dir = sibling(target, "partial")?;
    if is_unfinished(&dir) {
        return Ok(dir);
    }
    // A killed process may leave it empty.
    if dir.symlink_metadata().is_ok() && fs::remove_dir(&dir).is_err() {
        let found = "something that flowreg did not write";
        return Err(files::refused_name(&dir, found));
    }
    files::create_dir(&dir)?;
    files::write(&dir.join(ENTRIES), &Entries::to_json(None))?;
    Ok(dir)
}

/// Remove an unfinished output, its list last: what a process leaves that is killed meanwhile is
/// known by it, too.
pub(crate) fn remove_all(dir: &Path) -> Result<()> {
    let mut all = BTreeSet::new();
    list(dir, "", &mut all)?;
    remove_listed(dir, &all)
}

#[cfg(test)]
mod tests;
