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

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::{NewFile, parent_of, sibling};

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

/// The right to write one output, held by one process; it ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a/out");
        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        staging.write("summary.json", b"1").unwrap();
        assert!(!out.exists());
        drop(staging);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);

        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        staging.write("summary.json", b"1").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"1");

        assert!(matches!(
            Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]),
            Err(Error::Exists { .. })
        ));
        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Replace, &[]).unwrap();
        staging.write("summary.json", b"2").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn one_writer_at_a_time_and_a_dead_ones_remains_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let first = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        let second = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]);
        assert!(matches!(second, Err(Error::Locked { .. })));
        // As if it were killed: nothing is dropped, but its lock is free.
        let Staging { dir, _lock, .. } = &first;
        _lock._file.unlock().unwrap();
        fs::write(dir.join("half"), b"1").unwrap();
        std::mem::forget(first);
        let third = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        third.publish().unwrap();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    /// An output with a file and a directory.
    fn published(root: &Path) -> PathBuf {
        let out = root.join("out");
        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        staging.write("summary.json", b"1").unwrap();
        fs::create_dir(staging.dir().join("jpg")).unwrap();
        staging.write("jpg/1.jpg", b"1").unwrap();
        staging.publish().unwrap();
        out
    }

    fn replace(out: &Path, sources: &[&Path]) -> Result<()> {
        let staging = Staging::begin(out, OutputKind::Run, Overwrite::Replace, sources)?;
        staging.write("summary.json", b"2")?;
        staging.publish()
    }

    #[test]
    fn an_own_output_is_replaced_wholly() {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        assert!(is_output(&out));
        replace(&out, &[]).unwrap();
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
        assert!(!out.join("jpg").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        // Something of the list may be missing.
        fs::remove_file(out.join("summary.json")).unwrap();
        replace(&out, &[]).unwrap();
    }

    #[test]
    fn foreign_entries_are_refused_by_name_and_left() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 7] = [
            (
                |out| fs::write(out.join("thesis.tex"), b"years").unwrap(),
                "thesis.tex",
            ),
            (
                |out| fs::write(out.join("jpg/2.jpg"), b"mine").unwrap(),
                "jpg/2.jpg",
            ),
            (
                |out| fs::write(out.join(".hidden"), b"mine").unwrap(),
                ".hidden",
            ),
            (|out| fs::create_dir(out.join("run1")).unwrap(), "run1/"),
            (|out| fs::remove_file(out.join(ENTRIES)).unwrap(), ENTRIES),
            (|out| fs::write(out.join(ENTRIES), b"{}").unwrap(), ENTRIES),
            (
                |out| {
                    fs::remove_file(out.join("summary.json")).unwrap();
                    fs::create_dir(out.join("summary.json")).unwrap();
                },
                "summary.json/",
            ),
        ];
        for (change, name) in changes {
            let root = tempfile::tempdir().unwrap();
            let out = published(root.path());
            change(&out);
            let mut before = BTreeSet::new();
            list(root.path(), "", &mut before).unwrap();
            let error = replace(&out, &[]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.to_string().contains("`force`"), "{error}");
            assert_eq!(error.exit_code(), 65);
            let mut after = BTreeSet::new();
            list(root.path(), "", &mut after).unwrap();
            assert_eq!(before, after);
        }
    }

    /// What comes while the new output is being written is refused, too.
    #[test]
    fn an_entry_that_comes_late_is_left() {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Replace, &[]).unwrap();
        fs::write(out.join("late"), b"mine").unwrap();
        assert!(staging.publish().unwrap_err().to_string().contains("late"));
        assert_eq!(fs::read(out.join("late")).unwrap(), b"mine");
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"1");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_for_the_output_and_foreign_inside_it() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        let link = root.path().join("link");
        symlink("out", &link).unwrap();
        replace(&link, &[]).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
        fs::remove_file(out.join("summary.json")).unwrap();
        symlink("/dev/null", out.join("summary.json")).unwrap();
        assert!(replace(&link, &[]).is_err());
        let nowhere = root.path().join("nowhere");
        symlink("missing", &nowhere).unwrap();
        let error = replace(&nowhere, &[]).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
    }

    #[test]
    fn outputs_and_sources_do_not_contain_each_other() {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        let inside = out.join("jpg/1.jpg");
        for source in [out.as_path(), &inside, &out.join("jpg"), root.path()] {
            let error = replace(&out, &[source]).unwrap_err();
            let name = source.display().to_string();
            assert!(error.to_string().contains(&name), "{error}");
        }
        let beside = root.path().join("x.npy");
        fs::write(&beside, b"1").unwrap();
        let deep = root.path().join("missing/../out/new");
        assert!(Staging::begin(&deep, OutputKind::Run, Overwrite::Never, &[&out]).is_err());
        replace(&out, &[&beside, &root.path().join("missing")]).unwrap();
    }

    #[test]
    fn an_empty_directory_is_no_output_yet() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        staging.write("summary.json", b"1").unwrap();
        staging.publish().unwrap();
        assert!(out.join("summary.json").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    /// Names that only flowreg uses do not make something flowreg's.
    #[test]
    fn remains_and_locks_of_others_are_left() {
        let root = tempfile::tempdir().unwrap();
        let (out, path) = (root.path().join("out"), |name: &str| root.path().join(name));
        fs::create_dir(path(".out.partial")).unwrap();
        fs::write(path(".out.partial/mine"), b"1").unwrap();
        assert!(Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).is_err());
        assert!(path(".out.partial/mine").exists());
        fs::remove_dir_all(path(".out.partial")).unwrap();
        fs::write(path(".out.lock"), b"mine").unwrap();
        drop(Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap());
        assert!(path(".out.lock").exists());
    }

    /// A link by a name that only flowreg uses is not followed: what it leads to is neither
    /// written nor removed.
    #[cfg(unix)]
    #[test]
    fn links_of_our_names_are_not_followed() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let (out, path) = (root.path().join("new"), |name: &str| root.path().join(name));
        let finished = published(root.path());
        symlink(&finished, path(".new.partial")).unwrap();
        symlink("missing", path(".p.npy.lock")).unwrap();
        symlink("missing", path(".q.npy.partial")).unwrap();
        let error = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap_err();
        assert!(error.to_string().contains(".new.partial: "), "{error}");
        assert_eq!(fs::read(finished.join("summary.json")).unwrap(), b"1");
        assert!(finished.join("jpg/1.jpg").exists());
        for (name, refused) in [("p.npy", ".p.npy.lock"), ("q.npy", ".q.npy.partial")] {
            let written = write_file(&path(name), |_| true, b"1", Overwrite::Never, &[]);
            let error = written.unwrap_err().to_string();
            assert!(
                error.contains(&format!("{refused}: name: found ")),
                "{error}"
            );
        }
        assert!(!path("missing").exists());
    }

    /// What a killed process left is removed, not emptied: another name of it keeps its bytes.
    #[test]
    fn a_remnant_with_another_name_keeps_its_bytes() {
        let root = tempfile::tempdir().unwrap();
        let (path, partial) = (
            root.path().join("p.npy"),
            root.path().join(".p.npy.partial"),
        );
        let kept = root.path().join("kept");
        fs::write(&kept, b"\x93NUMPY of days").unwrap();
        fs::hard_link(&kept, &partial).unwrap();
        let numpy = |start: &[u8]| start.starts_with(b"\x93NUMPY");
        write_file(&path, numpy, b"\x93NUMPY", Overwrite::Never, &[]).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"\x93NUMPY of days");
        assert!(!partial.exists());
    }

    /// A run is not replaced by a dataset, whose fit may have taken days, nor a dataset by a run.
    #[test]
    fn an_output_replaces_only_one_of_its_kind() {
        use OutputKind::*;
        let root = tempfile::tempdir().unwrap();
        for (file, kind) in OutputKind::FILES {
            let out = root.path().join(file).with_extension("");
            let begin = |kind, overwrite| Staging::begin(&out, kind, overwrite, &[]);
            let staging = begin(kind, Overwrite::Never).unwrap();
            staging.write(file, b"1").unwrap();
            staging.publish().unwrap();
            for other in [Dataset, Run, Export, Photographs] {
                if other == kind {
                    begin(other, Overwrite::Replace).unwrap();
                    continue;
                }
                let error = begin(other, Overwrite::Replace).unwrap_err().to_string();
                let found = format!("found {}, expected {}", kind.name(), other.name());
                assert!(error.contains(&found), "{error}");
                let error = begin(other, Overwrite::Never).unwrap_err().to_string();
                assert!(error.contains("`force` would not replace it"), "{error}");
            }
            assert_eq!(fs::read(out.join(file)).unwrap(), b"1");
        }
    }

    #[test]
    fn a_path_may_end_in_a_slash() {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        for end in ["/", "/.", "//"] {
            let mut path = out.clone().into_os_string();
            path.push(end);
            replace(Path::new(&path), &[]).unwrap();
            #[cfg(unix)]
            {
                let link = root.path().join("link");
                std::os::unix::fs::symlink("out", &link).unwrap();
                let mut path = link.clone().into_os_string();
                path.push(end);
                replace(Path::new(&path), &[]).unwrap();
                assert!(link.symlink_metadata().unwrap().is_symlink());
                fs::remove_file(link).unwrap();
            }
        }
        assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        let file = root.path().join("p.npy/");
        let error = write_file(&file, |_| true, b"1", Overwrite::Never, &[]).unwrap_err();
        assert!(
            error.to_string().contains("found the name of a folder"),
            "{error}"
        );
    }

    #[test]
    fn a_file_replaces_only_one_of_its_kind() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("p.npy");
        let numpy = |start: &[u8]| start.starts_with(b"\x93NUMPY");
        let write = |bytes: &[u8], sources: &[&Path]| {
            write_file(&path, numpy, bytes, Overwrite::Replace, sources)
        };
        write(b"\x93NUMPY1", &[]).unwrap();
        write(b"\x93NUMPY2", &[]).unwrap();
        assert!(write(b"\x93NUMPY3", &[&path]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"\x93NUMPY2");
        let again = write_file(&path, numpy, b"\x93NUMPY", Overwrite::Never, &[]);
        assert!(matches!(again, Err(Error::Exists { .. })));
        fs::write(&path, b"a thesis").unwrap();
        assert!(write(b"\x93NUMPY3", &[]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a thesis");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(write(b"\x93NUMPY3", &[]).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(root.path().join(".p.npy.partial"), b"mine").unwrap();
        assert!(write(b"\x93NUMPY3", &[]).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    /// What a killed process leaves: its own is removed, whatever else is there stays.
    #[test]
    fn remains_of_every_moment() {
        let begin = |root: &Path| {
            Staging::begin(&root.join("out"), OutputKind::Run, Overwrite::Replace, &[]).map(drop)
        };
        // Being written: the list empty, cut, or that of an unfinished output.
        for length in [0, 9, usize::MAX] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join(".out.partial");
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("train.x.npy"), b"half").unwrap();
            let list = Entries::to_json(None);
            fs::write(dir.join(ENTRIES), &list[..length.min(list.len())]).unwrap();
            begin(root.path()).unwrap();
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        }
        // An old output, between the exchange and its removal; then with something foreign.
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(".out.partial");
        fs::rename(published(root.path()), &dir).unwrap();
        begin(root.path()).unwrap();
        assert!(!dir.exists());
        fs::rename(published(root.path()), &dir).unwrap();
        fs::write(dir.join("late"), b"mine").unwrap();
        let error = begin(root.path()).unwrap_err();
        assert!(error.to_string().contains("late"), "{error}");
        assert_eq!(fs::read(dir.join("late")).unwrap(), b"mine");
        assert!(dir.join("summary.json").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_an_output_is_not_replaced_by_a_link_to_it() {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        let link = root.path().join("p.npy");
        std::os::unix::fs::symlink(out.join("jpg/1.jpg"), &link).unwrap();
        for path in [&link, &out.join("summary.json")] {
            let written = write_file(path, |_| true, b"2", Overwrite::Replace, &[]);
            assert!(
                written
                    .unwrap_err()
                    .to_string()
                    .contains("an output of flowreg")
            );
        }
        assert_eq!(fs::read(out.join("jpg/1.jpg")).unwrap(), b"1");
    }
}
