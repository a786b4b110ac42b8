//! File operations: all writes of flowreg, and the reads of small files. Reads are bounded, errors
//! name the file, and tests can inject a fault into each operation.
//!
//! In debug builds `FLOWREG_FAIL_IO=K:KIND` injects a fault into the K-th operation of the process
//! (from 0). `eio` and `enospc` fail; `eintr` is interrupted once; `short` moves a single byte.
//! `tests/campaigns.rs` tries every K. Release builds ignore the variable.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// A new file, written sequentially. It is complete once [`NewFile::finish`] has returned.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// Create the file. An existing entry of that name is neither opened nor truncated, and a link
    /// is not followed.
    ///
    /// # Errors
    /// [`Error::Format`] if the name is taken; [`Error::Io`].
    pub fn create(path: &Path) -> Result<NewFile> {
        match injected_fault().and_then(|()| File::create_new(path)) {
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

    /// Open a file that an earlier process began, to append to it, or create it.
    ///
    /// # Errors
    /// [`Error::Format`] for a link, for a file with a second hard link, and for anything that is
    /// not a file; [`Error::Io`].
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

    /// Truncate the file to length 0.
    #[cfg(feature = "download")]
    pub fn empty(&mut self) -> Result<()> {
        (injected_fault().and_then(|()| self.file.set_len(0)))
            .map_err(Error::io(&self.path, "empty"))
    }

    /// Append `bytes`. This uses `write` and no memory map, so that a full disk is an error and not
    /// a SIGBUS.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        FaultyFile(&self.file)
            .write_all(bytes)
            .map_err(Error::io(&self.path, "write"))
    }

    /// Overwrite the first bytes of the file by `bytes`.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(0, bytes)
    }

    /// Write `bytes` at byte `at`, which may be beyond the end. The next append continues after them.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        (injected_fault().and_then(|()| self.file.seek(SeekFrom::Start(at))))
            .map_err(Error::io(&self.path, "write"))?;
        self.append(bytes)
    }

    /// Flush the file to the disk.
    pub fn finish(&self) -> Result<()> {
        (injected_fault().and_then(|()| self.file.sync_all()))
            .map_err(Error::io(&self.path, "flush"))
    }
}

/// Create a file with these bytes and flush it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.append(bytes)?;
    file.finish()
}

/// Write a file in one step: for a path that the library's caller gave. A link is followed, an existing
/// file keeps its permissions, and what is no regular file (a pipe, a device) is written as it is. So is a
/// file in a directory in which nothing can be created.
pub(crate) fn write_over(path: &Path, bytes: &[u8]) -> Result<()> {
    let found = fs::metadata(path);
    let is_link = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink());
    let target = match &found {
        Ok(found) if !found.is_file() || found.permissions().readonly() => {
            return write_in_place(path, bytes);
        }
        Err(_) if is_link => return write_in_place(path, bytes),
        Ok(_) => fs::canonicalize(path).map_err(Error::io(path, "create"))?,
        Err(_) => path.to_path_buf(),
    };
    // Other threads, other processes, and what a killed process left, have other names.
    static SAVED: AtomicU64 = AtomicU64::new(0);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = clock.map_or(0, |now| now.as_nanos());
    let number = SAVED.fetch_add(1, Ordering::Relaxed);
    // It does not contain the file's name, which may be as long as the file system allows.
    let process = std::process::id();
    let name = format!(".flowreg.{process}.{nanoseconds}.{number}.partial");
    let beside = parent_of(&target).join(name);
    let written = replace_by(&beside, &target, bytes, found.ok());
    match written {
        Err(Error::Io { source, .. }) if found_no_room_beside(&source) => {
            write_in_place(path, bytes)
        }
        written => written.map_err(|error| error.of_path(path)),
    }
}

/// Whether nothing can be created or renamed in a directory, which says nothing of the file itself.
fn found_no_room_beside(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(
        error.kind(),
        CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy
    )
}

fn write_in_place(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = injected_fault().and_then(|()| File::create(path));
    let mut file = NewFile {
        file: opened.map_err(Error::io(path, "create"))?,
        path: path.to_path_buf(),
    };
    file.append(bytes)?;
    file.finish()
}

/// Replace `path` by these bytes atomically: write a sibling, flush and rename it, and flush the
/// directory.
///
/// # Errors
/// [`Error::Format`] if the sibling's name is taken; [`Error::Io`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(&sibling(path, "partial")?, path, bytes, None)
}

/// [`replace`] with the name of the sibling, and the file whose permissions it gets.
fn replace_by(sibling: &Path, path: &Path, bytes: &[u8], like: Option<fs::Metadata>) -> Result<()> {
    let mut file = NewFile::create(sibling)?;
    let permitted = like.map_or(Ok(()), |like| file.file.set_permissions(like.permissions()));
    let written = permitted
        .map_err(Error::io(path, "set the permissions of"))
        .and_then(|()| file.append(bytes))
        .and_then(|()| file.finish())
        .and_then(|()| rename(sibling, path));
    if written.is_err() {
        let _ = fs::remove_file(sibling);
    }
    written?;
    sync_dir(parent_of(path))
}

/// Open a regular file for reading. Others are refused ([`Error::Format`]) before they are opened:
/// opening a FIFO would wait for a writer, and opening a device may have side effects.
pub(crate) fn open_regular(path: &Path, doing: &'static str) -> Result<File> {
    let check = |metadata: io::Result<fs::Metadata>| {
        let kind = metadata.map_err(Error::io(path, doing))?.file_type();
        if kind.is_file() {
            Ok(())
        } else {
            Err(Error::format(path, "kind", kind_of(kind), "a regular file"))
        }
    };
    check(injected_fault().and_then(|()| fs::metadata(path)))?;
    let mut options = File::options();
    options.read(true);
    // The name may have been given to another file since the check.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file =
        (injected_fault().and_then(|()| options.open(path))).map_err(Error::io(path, doing))?;
    check(file.metadata())?;
    Ok(file)
}

/// Open a regular file that is not a link and has no other hard link, so that writing to it changes
/// no other path.
///
/// # Errors
/// [`Error::Format`] if something else has that name; [`Error::Io`].
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
    // The name may since have been given to a link, or to a pipe that waits for its reader.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NOFOLLOW | libc::O_NONBLOCK,
    );
    let file =
        (injected_fault().and_then(|()| options.open(path))).map_err(Error::io(path, doing))?;
    let metadata = file.metadata().map_err(Error::io(path, doing))?;
    if !metadata.is_file() {
        return Err(refused_name(path, kind_of(metadata.file_type())));
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
        return Err(refused_name(path, "a file with a second hard link"));
    }
    Ok(file)
}

/// The error if a name that flowreg needs for a temporary file is taken.
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

/// Read a regular file of at most `most` bytes into `bytes`, replacing its contents; see
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
    let file =
        (injected_fault().and_then(|()| File::open(path))).map_err(Error::io(path, doing))?;
    let mut bytes = Vec::new();
    read_opened(file, path, most, &mut bytes)?;
    Ok(bytes)
}

#[cfg(all(feature = "photographs", feature = "formats"))]
/// Read a file or pipe of at most `most` bytes to its end.
pub(crate) fn read_stream(path: &Path, doing: &'static str, most: u64) -> Result<Vec<u8>> {
    let file =
        (injected_fault().and_then(|()| File::open(path))).map_err(Error::io(path, doing))?;
    let mut bytes = Vec::new();
    (FaultyFile(&file).take(most.saturating_add(1)))
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
    // Reading one byte more shows whether the file has grown.
    usize::try_from(len)
        .map_or(Err(()), |len| bytes.try_reserve(len + 1).map_err(|_| ()))
        .map_err(|()| Error::io(path, "hold in memory")(io::ErrorKind::OutOfMemory.into()))?;
    (FaultyFile(file).take(len + 1))
        .read_to_end(bytes)
        .map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 != len {
        return Err(changed(path, len, bytes.len() as u64));
    }
    watched.check_unchanged()
}

/// An open regular file with the length and modification time that it had when it was opened.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    /// The file.
    pub file: File,
    /// Its length in bytes.
    pub len: u64,
    written: SystemTime,
}

impl WatchedFile {
    /// Record length and modification time; `path` is for messages.
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

    /// Check that the file has not been written to. Replacing it by another file of the same name is
    /// not detected and does no harm: the opened file stays readable.
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

/// Length and modification time.
fn state(path: &Path, file: &File) -> Result<(u64, SystemTime)> {
    (injected_fault().and_then(|()| file.metadata()))
        .and_then(|metadata| Ok((metadata.len(), metadata.modified()?)))
        .map_err(Error::io(path, "read length and time of"))
}

/// The error if a file's length changed from `before` to `now` bytes.
pub(crate) fn changed(path: &Path, before: u64, now: u64) -> Error {
    Error::Changed {
        path: path.to_path_buf(),
        what: format!("from {before} to {now} bytes"),
    }
}

/// Call `each` with successive pieces of a file of any length.
#[cfg(feature = "photographs")]
pub(crate) fn read_pieces(path: &Path, mut each: impl FnMut(&[u8])) -> Result<()> {
    let file =
        (injected_fault().and_then(|()| File::open(path))).map_err(Error::io(path, "open"))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match FaultyFile(&file).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => each(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, "read")(error)),
        }
    }
}

#[cfg(feature = "photographs")]
/// The entries of a folder, sorted by the bytes of their names.
pub(crate) fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let read = || {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_cached_key(|entry| entry.file_name().into_encoded_bytes());
        Ok(entries)
    };
    (injected_fault().and_then(|()| read())).map_err(Error::io(folder, "read the folder"))
}

/// Identity of a folder, independent of the path by which it was reached.
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

/// Rename a file or directory.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    (injected_fault().and_then(|()| fs::rename(from, to))).map_err(Error::io(to, "rename to"))
}

/// Rename a file to a name that is free.
///
/// # Errors
/// [`Error::Exists`] if it is taken; [`Error::Io`].
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let exists = || Error::Exists {
        path: to.to_path_buf(),
        replaceable: false,
    };
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        injected_fault().map_err(Error::io(to, "rename to"))?;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::EXIST) => return Err(exists()),
            // Not every file system supports it: then a file created since the check is replaced.
            Err(_) => {}
        }
    }
    match to.symlink_metadata() {
        Ok(_) => Err(exists()),
        Err(_) => rename(from, to),
    }
}

/// Exchange the names of two directories atomically.
pub(crate) fn exchange(a: &Path, b: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let exchanged = {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        injected_fault().and_then(|()| Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?))
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
    (injected_fault().and_then(|()| fs::create_dir(path)))
        .map_err(Error::io(&published(path), "create the directory"))
}

/// Create a directory and its parents.
pub(crate) fn create_dir_all(path: &Path) -> Result<()> {
    (injected_fault().and_then(|()| fs::create_dir_all(path)))
        .map_err(Error::io(path, "create the directory"))
}

/// Remove a file if it exists.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    gone(injected_fault().and_then(|()| fs::remove_file(path))).map_err(Error::io(path, "remove"))
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
    (injected_fault().and_then(|()| File::open(dir)?.sync_all()))
        .map_err(Error::io(dir, "flush"))?;
    Ok(())
}

/// Bytes available to this user on the disk of this directory; `None` if unknown.
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

/// The path `.NAME.what` in the directory of `path`: hidden, and different for each output.
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

/// The path after publication, for messages: `.NAME.partial` becomes NAME.
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

/// A file with fault injection into its reads and writes.
struct FaultyFile<'a>(&'a File);

impl Read for FaultyFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = fault::length(buffer.len())?;
        self.0.read(&mut buffer[..most])
    }
}

impl Write for FaultyFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = fault::length(bytes.len())?;
        self.0.write(&bytes[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fault of an operation other than a read or write, if one is injected.
fn injected_fault() -> io::Result<()> {
    // The standard library repeats interrupted calls, except reads and writes.
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

    /// Number of the `asked` bytes that this read or write may move, or the injected fault.
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
