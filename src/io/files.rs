//! The file operations of everything that flowreg writes, and of the small files that it
//! reads: every one bounded, every failure with the file's name, and every one a place where
//! a test can make the operating system refuse.
//!
//! In debug builds `FLOWREG_FAIL_IO=K:KIND` makes the K-th operation of the process (from 0)
//! fail: `eio`, `enospc`; or be awkward, as it may: `eintr` (interrupted once), `short` (one
//! byte at a time). `tests/faults.rs` goes through every K. Release builds do not look.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// A file that is written front to back. It counts only once [`NewFile::finish`] is through.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// Create it. Whatever has its name already is neither opened nor emptied, nor is a link
    /// followed.
    ///
    /// # Errors
    /// [`Error::Format`] where something has the name; [`Error::Io`].
    pub fn create(path: &Path) -> Result<NewFile> {
        match refusal().and_then(|()| File::create_new(path)) {
            Ok(file) => Ok(NewFile {
                path: published(path),
                file,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(refused_name(path, "something that was there already"))
            }
            Err(error) => Err(Error::io(&published(path), "create")(error)),
        }
    }

    /// Go on with what an earlier process began, if it is there, in a directory of our own.
    ///
    /// # Errors
    /// [`Error::Format`] for a link, for a file with another name beside this one, and for what
    /// is no file; [`Error::Io`].
    #[cfg(feature = "download")]
    pub fn resume(path: &Path) -> Result<NewFile> {
        if path.symlink_metadata().is_err() {
            return NewFile::create(path);
        }
        let mut options = File::options();
        options.append(true);
        let file = open_unlinked(path, options, "open")?;
        Ok(NewFile {
            path: published(path),
            file,
        })
    }

    /// Begin anew, with a file of [`NewFile::resume`].
    #[cfg(feature = "download")]
    pub fn empty(&mut self) -> Result<()> {
        (refusal().and_then(|()| self.file.set_len(0))).map_err(Error::io(&self.path, "empty"))
    }

    /// Append. With `write`, never through a map: a full disk is then an error, no SIGBUS.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        Failing(&self.file)
            .write_all(bytes)
            .map_err(Error::io(&self.path, "write"))
    }

    /// Put `bytes` over the beginning; what follows stays.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(0, bytes)
    }

    /// Write `bytes` from byte `at` on, beyond the end too. What is appended next follows them.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        (refusal().and_then(|()| self.file.seek(SeekFrom::Start(at))))
            .map_err(Error::io(&self.path, "write"))?;
        self.append(bytes)
    }

    /// Flush to the disk.
    pub fn finish(&self) -> Result<()> {
        (refusal().and_then(|()| self.file.sync_all())).map_err(Error::io(&self.path, "flush"))
    }
}

/// Write a whole small file, which is new, and flush it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.append(bytes)?;
    file.finish()
}

/// Write a whole file and flush it, over whatever file or link has the name: for one that the
/// caller of the library names.
pub(crate) fn write_over(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = refusal().and_then(|()| File::create(path));
    let mut file = NewFile {
        file: opened.map_err(Error::io(path, "create"))?,
        path: path.to_path_buf(),
    };
    file.append(bytes)?;
    file.finish()
}

/// Replace `path` by these bytes, wholly or not at all: written to a sibling, flushed,
/// renamed, and the directory flushed.
///
/// # Errors
/// [`Error::Format`] where something has the sibling's name; [`Error::Io`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let sibling = sibling(path, "partial")?;
    let mut file = NewFile::create(&sibling)?;
    let written = (file.append(bytes))
        .and_then(|()| file.finish())
        .and_then(|()| rename(&sibling, path));
    if written.is_err() {
        let _ = fs::remove_file(&sibling);
    }
    written?;
    sync_dir(parent_of(path))
}

/// Open a regular file to read. Others are refused ([`Error::Format`]) without being opened: a
/// FIFO would wait for a writer, and a device may do anything.
pub(crate) fn open_regular(path: &Path, doing: &'static str) -> Result<File> {
    let check = |metadata: io::Result<fs::Metadata>| {
        let kind = metadata.map_err(Error::io(path, doing))?.file_type();
        if kind.is_file() {
            Ok(())
        } else {
            Err(Error::format(path, "kind", kind_of(kind), "a regular file"))
        }
    };
    check(refusal().and_then(|()| fs::metadata(path)))?;
    let mut options = File::options();
    options.read(true);
    // What has the name now may be another file than a moment ago.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = (refusal().and_then(|()| options.open(path))).map_err(Error::io(path, doing))?;
    check(file.metadata())?;
    Ok(file)
}

/// Open a regular file that has no other name, and no link to one: what is written to it is
/// written to no other.
///
/// # Errors
/// [`Error::Format`] for anything else of that name; [`Error::Io`].
pub(crate) fn open_unlinked(
    path: &Path,
    mut options: fs::OpenOptions,
    doing: &'static str,
) -> Result<File> {
    if let Ok(metadata) = path.symlink_metadata()
        && !metadata.is_file()
    {
        return Err(refused_name(path, kind_of(metadata.file_type())));
    }
    // What has the name now may be a link, or a pipe that waits for its reader.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NOFOLLOW | libc::O_NONBLOCK,
    );
    let file = (refusal().and_then(|()| options.open(path))).map_err(Error::io(path, doing))?;
    let metadata = file.metadata().map_err(Error::io(path, doing))?;
    if !metadata.is_file() {
        return Err(refused_name(path, kind_of(metadata.file_type())));
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
        return Err(refused_name(path, "a file that has another name, too"));
    }
    Ok(file)
}

/// The refusal of something that has a name that flowreg needs.
pub(crate) fn refused_name(path: &Path, found: &str) -> Error {
    let expected = "nothing of this name, which flowreg needs for a while; move it away";
    Error::format(path, "name", found, expected)
}

fn kind_of(kind: fs::FileType) -> &'static str {
    if kind.is_symlink() {
        return "a link";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe (FIFO)";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "no file" }
}

/// Read a regular file of at most `most` bytes in place of what `bytes` holds; see
/// [`open_regular`].
#[cfg(feature = "photographs")]
pub(crate) fn read_regular(
    path: &Path,
    doing: &'static str,
    most: u64,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    read_opened(open_regular(path, doing)?, path, most, bytes)
}

/// Read a file of at most `most` bytes.
pub(crate) fn read(path: &Path, doing: &'static str, most: u64) -> Result<Vec<u8>> {
    let file = (refusal().and_then(|()| File::open(path))).map_err(Error::io(path, doing))?;
    let mut bytes = Vec::new();
    read_opened(file, path, most, &mut bytes)?;
    Ok(bytes)
}

#[cfg(all(feature = "photographs", feature = "formats"))]
/// Read all of a file or pipe of at most `most` bytes.
pub(crate) fn read_stream(path: &Path, doing: &'static str, most: u64) -> Result<Vec<u8>> {
    let file = (refusal().and_then(|()| File::open(path))).map_err(Error::io(path, doing))?;
    let mut bytes = Vec::new();
    (Failing(&file).take(most.saturating_add(1)))
        .read_to_end(&mut bytes)
        .map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > most {
        let (found, expected) = (format!("more than {most} bytes"), "no more");
        return Err(Error::format(path, "length", found, expected));
    }
    Ok(bytes)
}

fn read_opened(file: File, path: &Path, most: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    let watched = WatchedFile::new(path, file)?;
    let (file, len) = (&watched.file, watched.len);
    if len > most {
        return Err(Error::format(
            path,
            "length",
            format!("{len} bytes"),
            format!("at most {most}"),
        ));
    }
    // One byte more than it had shows whether it grew.
    usize::try_from(len)
        .map_or(Err(()), |len| bytes.try_reserve(len + 1).map_err(|_| ()))
        .map_err(|()| Error::io(path, "hold in memory")(io::ErrorKind::OutOfMemory.into()))?;
    (Failing(file).take(len + 1))
        .read_to_end(bytes)
        .map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 != len {
        return Err(changed(path, len, bytes.len() as u64));
    }
    watched.check_unchanged()
}

/// A regular file as it was when it was opened.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    /// The file.
    pub file: File,
    /// Its length.
    pub len: u64,
    written: SystemTime,
}

impl WatchedFile {
    /// Take note of length and time of the last write; `path` is for messages.
    pub fn new(path: &Path, file: File) -> Result<WatchedFile> {
        let (len, written) = state(path, &file)?;
        let path = path.to_path_buf();
        Ok(WatchedFile {
            path,
            file,
            len,
            written,
        })
    }

    /// Refuse if the file was written to. One that was replaced by another of its name is still
    /// the one that was opened.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check_unchanged(&self) -> Result<()> {
        let (len, written) = state(&self.path, &self.file)?;
        if len != self.len {
            return Err(changed(&self.path, self.len, len));
        }
        if written != self.written {
            let path = self.path.clone();
            let what = "it was written to".to_string();
            return Err(Error::Changed { path, what });
        }
        Ok(())
    }
}

/// Length and time of the last write.
fn state(path: &Path, file: &File) -> Result<(u64, SystemTime)> {
    (refusal().and_then(|()| file.metadata()))
        .and_then(|metadata| Ok((metadata.len(), metadata.modified()?)))
        .map_err(Error::io(path, "read length and time of"))
}

/// A file that had `before` bytes and has `now`.
pub(crate) fn changed(path: &Path, before: u64, now: u64) -> Error {
    Error::Changed {
        path: path.to_path_buf(),
        what: format!("from {before} to {now} bytes"),
    }
}

/// Hand on a file of any length, piece by piece.
#[cfg(feature = "photographs")]
pub(crate) fn read_pieces(path: &Path, mut each: impl FnMut(&[u8])) -> Result<()> {
    let file = (refusal().and_then(|()| File::open(path))).map_err(Error::io(path, "open"))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match Failing(&file).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => each(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, "read")(error)),
        }
    }
}

#[cfg(feature = "photographs")]
/// What lies in a folder, in the order of the names' bytes.
pub(crate) fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let read = || {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_cached_key(|entry| entry.file_name().into_encoded_bytes());
        Ok(entries)
    };
    (refusal().and_then(|()| read())).map_err(Error::io(folder, "read the folder"))
}

/// What tells a folder from all others, by whatever name it is reached.
#[cfg(all(feature = "photographs", unix))]
pub(crate) type FolderId = (u64, u64);
#[cfg(all(feature = "photographs", not(unix)))]
pub(crate) type FolderId = PathBuf;

#[cfg(feature = "photographs")]
/// The identity of a folder.
pub(crate) fn folder_id(folder: &Path) -> Result<FolderId> {
    #[cfg(unix)]
    let id = fs::metadata(folder).map(|metadata| {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    });
    #[cfg(not(unix))]
    let id = fs::canonicalize(folder);
    id.map_err(Error::io(folder, "read the folder"))
}

/// Give a file or directory another name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    (refusal().and_then(|()| fs::rename(from, to))).map_err(Error::io(to, "rename to"))
}

/// Give a file a name that nothing has.
///
/// # Errors
/// [`Error::Exists`].
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let exists = || Error::Exists {
        path: to.to_path_buf(),
        replaceable: false,
    };
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        refusal().map_err(Error::io(to, "rename to"))?;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::EXIST) => return Err(exists()),
            // Not every file system can: then what came since the last look is replaced.
            Err(_) => {}
        }
    }
    match to.symlink_metadata() {
        Ok(_) => Err(exists()),
        Err(_) => rename(from, to),
    }
}

/// Let two directories change names, in one step that nothing can interrupt.
pub(crate) fn exchange(a: &Path, b: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let exchanged = {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        refusal().and_then(|()| Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?))
    };
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    let exchanged = Err(io::Error::from(io::ErrorKind::Unsupported));
    exchanged.map_err(Error::io(
        b,
        "replace in one step (move it away, or choose another path)",
    ))
}

/// Create a directory whose parent exists.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    (refusal().and_then(|()| fs::create_dir(path)))
        .map_err(Error::io(&published(path), "create the directory"))
}

/// Create a directory and those above it.
pub(crate) fn create_dir_all(path: &Path) -> Result<()> {
    (refusal().and_then(|()| fs::create_dir_all(path)))
        .map_err(Error::io(path, "create the directory"))
}

/// Remove a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    gone(refusal().and_then(|()| fs::remove_file(path))).map_err(Error::io(path, "remove"))
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Flush a directory's entries, so that a rename survives a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    (refusal().and_then(|()| File::open(dir)?.sync_all())).map_err(Error::io(dir, "flush"))?;
    Ok(())
}

/// Bytes that the disk of this directory has for us; `None` if the system does not tell.
#[cfg(feature = "formats")]
pub(crate) fn free_space(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let about = rustix::fs::statvfs(dir).ok()?;
        about.f_bavail.checked_mul(about.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// The directory that holds `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `.NAME.what` beside `path`: hidden, and told from any other output by its name.
pub(crate) fn sibling(path: &Path, what: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        let expected = "a path that ends in a name";
        Error::format(path, "output", "no name", expected)
    })?;
    let mut sibling = std::ffi::OsString::from(".");
    sibling.push(name);
    sibling.push(".");
    sibling.push(what);
    Ok(parent_of(path).join(sibling))
}

/// A path as its user knows it: what is written below `.NAME.partial` will appear below NAME.
fn published(path: &Path) -> PathBuf {
    let name = |part: &std::ffi::OsStr| -> Option<std::ffi::OsString> {
        let name = part.to_str()?.strip_prefix('.')?.strip_suffix(".partial")?;
        (!name.is_empty()).then(|| name.into())
    };
    let parts = path.components().map(|part| {
        let part = part.as_os_str();
        name(part).unwrap_or_else(|| part.to_owned())
    });
    parts.collect()
}

/// A file whose reads and writes can be made to fail.
struct Failing<'a>(&'a File);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = fault::length(buffer.len())?;
        self.0.read(&mut buffer[..most])
    }
}

impl Write for Failing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = fault::length(bytes.len())?;
        self.0.write(&bytes[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The refusal of an operation that is all or nothing, if a test asks for it.
fn refusal() -> io::Result<()> {
    // The standard library repeats what is interrupted, except reads and writes.
    match fault::length(1) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(not(debug_assertions))]
mod fault {
    #[inline(always)]
    pub fn length(asked: usize) -> std::io::Result<usize> {
        Ok(asked)
    }
}

#[cfg(debug_assertions)]
mod fault {
    use std::io::{Error, ErrorKind, Result};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLAN: LazyLock<Option<(u64, String)>> = LazyLock::new(|| {
        let plan = std::env::var("FLOWREG_FAIL_IO").ok()?;
        let (call, kind) = plan.split_once(':').expect("FLOWREG_FAIL_IO=K:KIND");
        Some((call.parse().expect("a number"), kind.to_string()))
    });
    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// How many of `asked` bytes this operation may move.
    pub fn length(asked: usize) -> Result<usize> {
        let Some((call, kind)) = PLAN.as_ref() else {
            return Ok(asked);
        };
        let this = CALLS.fetch_add(1, Ordering::Relaxed) == *call;
        match kind.as_str() {
            "short" => Ok(asked.min(1)).map(|one| if this { one } else { asked }),
            _ if !this => Ok(asked),
            "eintr" => Err(ErrorKind::Interrupted.into()),
            "enospc" => Err(Error::from(ErrorKind::StorageFull)),
            "eio" => Err(Error::other("made to fail by FLOWREG_FAIL_IO")),
            other => panic!("FLOWREG_FAIL_IO: unknown kind {other}"),
        }
    }
}
