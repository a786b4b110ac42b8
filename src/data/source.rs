//! Input from a file, a pipe or standard input, whose format is recognized by its first bytes.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::files::WatchedFile;
use crate::progress::Cancel;

/// Number of first bytes to read: more than any signature has.
const HEAD: u64 = 64;

/// An open input and its first bytes. A pipe is read once.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    head: Vec<u8>,
    file: File,
    /// `None` if it is not a regular file.
    watched: Option<Arc<WatchedFile>>,
    cancel: Cancel,
}

/// The text of a split.
#[derive(Clone, Debug)]
pub struct Part {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// A file, a pipe, or `-` for standard input; plain, `.gz`, `.bz2` or `.xz`.
    pub path: PathBuf,
}

/// The format of an input, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An empty input.
    Empty,
    /// A `.npy` array.
    Npy,
    /// An archive: a `.npz` if it holds arrays.
    Zip,
    /// A compressed file, with its extension.
    Packed(&'static str),
    /// None of these, possibly text.
    Other,
}

impl Kind {
    /// The format of an input that begins with `head`.
    pub fn of(head: &[u8]) -> Kind {
        match head {
            [] => Kind::Empty,
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Kind::Npy,
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Kind::Zip,
            [0x1F, 0x8B, ..] => Kind::Packed(".gz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Kind::Packed(".bz2"),
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Kind::Packed(".xz"),
            _ => Kind::Other,
        }
    }
}

/// Whether a path means standard input.
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

/// Refuse standard input that is given twice: it can be read once only.
///
/// # Errors
/// [`Error::Options`].
pub(crate) fn refuse_twice<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<()> {
    if paths.filter(|path| is_standard_input(path)).count() > 1 {
        let expected = "- once: standard input can be read once only";
        return Err(Error::options("standard input", "- twice", expected));
    }
    Ok(())
}

/// The name of an input in a dataset's manifest.
pub(crate) fn name_of(path: &Path) -> String {
    if is_standard_input(path) {
        "standard input".to_string()
    } else {
        (path.file_name().unwrap_or_default().to_string_lossy()).into_owned()
    }
}

impl Source {
    /// Open a file, a pipe or a terminal; `-` is standard input. Reads of a pipe that waits
    /// fail once `cancel` is set.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a folder, and for a device, which may be endless;
    /// [`Error::Interrupted`].
    pub fn open(path: &Path, cancel: &Cancel) -> Result<Source> {
        let doing = "open";
        if is_standard_input(path) {
            let file = standard_input().map_err(Error::io(path, doing))?;
            return Source::of_file(Path::new("standard input"), file, cancel);
        }
        let file = File::open(path).map_err(Error::io(path, doing))?;
        Source::of_file(path, file, cancel)
    }

    fn of_file(path: &Path, mut file: File, cancel: &Cancel) -> Result<Source> {
        let metadata = (file.metadata()).map_err(Error::io(path, "read the length of"))?;
        let refuse = |found: &str| {
            let expected = "a file or a pipe";
            Err(Error::format(path, "input", found, expected))
        };
        if metadata.is_dir() {
            return refuse("a folder");
        }
        if is_device(&metadata) && !file.is_terminal() {
            return refuse("a device");
        }
        let watched = if metadata.is_file() {
            let file = file.try_clone().map_err(Error::io(path, "open"))?;
            Some(Arc::new(WatchedFile::new(path, file)?))
        } else {
            None
        };
        let mut head = Vec::new();
        let reading = Waiting {
            file: &mut file,
            cancel: cancel.clone(),
        };
        (reading.take(HEAD).read_to_end(&mut head))
            .map_err(|error| stopped_or(cancel, error, Error::io(path, "read")))?;
        Ok(Source {
            path: path.to_path_buf(),
            head,
            file,
            watched,
            cancel: cancel.clone(),
        })
    }

    /// The same open file from its first byte, even if its path now names another file. Both share
    /// a position: read one after the other.
    pub(crate) fn again(&self) -> Result<Source> {
        let failed = Error::io(&self.path, "read again");
        let mut file = &self.file;
        let file = (file.seek(SeekFrom::Start(self.head.len() as u64)))
            .and_then(|_| self.file.try_clone())
            .map_err(failed)?;
        Ok(Source {
            path: self.path.clone(),
            head: self.head.clone(),
            file,
            watched: self.watched.clone(),
            cancel: self.cancel.clone(),
        })
    }

    /// The path, or "standard input", for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first bytes, or all if there are fewer.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The format, by the first bytes.
    pub fn kind(&self) -> Kind {
        Kind::of(&self.head)
    }

    /// Whether it is a regular file, which can be read [again](Source::again).
    pub fn is_file(&self) -> bool {
        self.watched.is_some()
    }

    /// Read all bytes, at most `most`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Interrupted`]; [`Error::Format`] if there are more.
    pub fn read_all(self, most: u64) -> Result<Vec<u8>> {
        let (path, cancel, mut bytes) = (self.path.clone(), self.cancel.clone(), Vec::new());
        let limit = most.saturating_add(1);
        (self.into_reader().take(limit).read_to_end(&mut bytes))
            .map_err(|error| stopped_or(&cancel, error, Error::io(&path, "read")))?;
        if bytes.len() as u64 > most {
            let found = format!("more than {most} bytes");
            return Err(Error::format(
                &path,
                "length",
                found,
                format!("at most {most}"),
            ));
        }
        Ok(bytes)
    }

    /// A reader of all bytes, from the first.
    pub(crate) fn into_reader(self) -> impl Read + Send {
        Cursor::new(self.head).chain(Waiting {
            file: self.file,
            cancel: self.cancel,
        })
    }

    /// The signal that ends reads.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The file's state when it was opened, to detect changes; `None` for a pipe.
    pub(crate) fn watched(&self) -> Option<Arc<WatchedFile>> {
        self.watched.clone()
    }
}

/// The error of a failed read: [`Error::Interrupted`] if `cancel` ended it, else `other`.
pub(crate) fn stopped_or(
    cancel: &Cancel,
    error: io::Error,
    other: impl FnOnce(io::Error) -> Error,
) -> Error {
    match cancel.check() {
        Err(stopped) => stopped,
        Ok(()) => other(error),
    }
}

/// A reader whose reads fail once `cancel` is set, even while they wait for a pipe.
struct Waiting<F> {
    file: F,
    cancel: Cancel,
}

impl<F: Read + WaitsFor> Read for Waiting<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.file.is_ready()? {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("stopped by the caller"));
            }
        }
        self.file.read(buffer)
    }
}

/// An input that can be polled.
trait WaitsFor {
    /// Whether a read would not block. Waits for up to 0.1 s.
    fn is_ready(&self) -> io::Result<bool>;
}

impl WaitsFor for File {
    #[cfg(unix)]
    fn is_ready(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const TIMEOUT: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        match poll(&mut fds, Some(&TIMEOUT)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(unix))]
    fn is_ready(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl WaitsFor for &mut File {
    fn is_ready(&self) -> io::Result<bool> {
        (**self).is_ready()
    }
}

#[cfg(unix)]
fn standard_input() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(windows)]
fn standard_input() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(File::from(io::stdin().as_handle().try_clone_to_owned()?))
}

#[cfg(unix)]
fn is_device(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    kind.is_char_device() || kind.is_block_device()
}

#[cfg(not(unix))]
fn is_device(_: &std::fs::Metadata) -> bool {
    false
}
