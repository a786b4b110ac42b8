//! Reader of an array: a `.npy` file, or a member of an `.npz` archive.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

#[cfg(feature = "formats")]
use crate::data::npz::{self, Inflated, Member};
use crate::design::plan::available_memory;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::WatchedFile;
use crate::io::mmap::parse_header;
use crate::io::npy::Header;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// The use of an array, which determines its usual names in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Features,
    Labels,
}

#[cfg(feature = "formats")]
impl Role {
    /// The usual names in an archive of several arrays; `numpy.savez(file, x, y)` writes `arr_0` and
    /// `arr_1`.
    fn usual(self) -> &'static [&'static str] {
        match self {
            Role::Features => &["x", "X", "arr_0"],
            Role::Labels => &["y", "Y", "arr_1"],
        }
    }
}

/// An open array. It is read sequentially or, after [`ArrayFile::seekable`], at any offset.
#[derive(Debug)]
pub(crate) struct ArrayFile {
    /// The path as given, for messages.
    pub path: PathBuf,
    pub header: Header,
    file: WatchedFile,
    source: Source,
    /// Bytes of the data, and those that [`ArrayFile::read`] has left.
    length: u64,
    left: u64,
    #[cfg(feature = "formats")]
    packed: Option<Packed>,
}

#[derive(Debug)]
enum Source {
    /// The file, from this offset.
    Plain(u64),
    #[cfg(feature = "formats")]
    Inflated(Box<Inflated>),
    #[cfg(feature = "formats")]
    Held(io::Cursor<Vec<u8>>),
}

/// An archive member, the checksum of its header and that of all bytes read.
#[cfg(feature = "formats")]
#[derive(Debug)]
struct Packed {
    member: Member,
    of_head: crc32fast::Hasher,
    crc32: crc32fast::Hasher,
}

impl ArrayFile {
    /// Open `FILE.npy`, `FILE.npz` or `FILE.npz:NAME` and read the header. The format is recognized
    /// by the first bytes.
    ///
    /// # Errors
    /// [`Error::Npy`]; [`Error::Format`] for a pipe or directory, and for an archive without the
    /// array; [`Error::Io`].
    pub fn open(path: &Path, role: Role) -> Result<ArrayFile> {
        #[cfg(feature = "formats")]
        let (place, name) = npz::locate(path);
        #[cfg(not(feature = "formats"))]
        let place = path.to_path_buf();
        let file = WatchedFile::new(path, files::open_regular(&place, "open")?)?;
        let (mut bytes, file_length) = (&file.file, file.len);
        let mut start = Vec::new();
        bytes
            .take(4)
            .read_to_end(&mut start)
            .map_err(Error::io(path, "read"))?;
        #[cfg(feature = "formats")]
        if npz::has_magic(&start) || name.is_some() {
            let member = Member::find(path, bytes, name.as_deref(), role.usual())?;
            return ArrayFile::of_member(path, file, member);
        }
        let _ = role;
        bytes.rewind().map_err(Error::io(path, "read"))?;
        let head = read_head(&mut bytes).map_err(Error::io(path, "read"))?;
        let header = parse_header(path, &head, file_length)?;
        let at = header.data_offset as u64;
        Ok(ArrayFile {
            path: path.to_path_buf(),
            file,
            source: Source::Plain(at),
            length: file_length - at,
            left: file_length - at,
            header,
            #[cfg(feature = "formats")]
            packed: None,
        })
    }

    #[cfg(feature = "formats")]
    fn of_member(path: &Path, file: WatchedFile, member: Member) -> Result<ArrayFile> {
        let mut path = path.as_os_str().to_os_string();
        // Messages name the member, even if `path` does not.
        if npz::locate(Path::new(&path)).1.is_none() {
            path.push(":");
            path.push(&member.name);
        }
        let path = PathBuf::from(path);
        let (head, source) = if member.deflated {
            let mut inflated = member.inflate(&path, &file.file)?;
            let head = read_head(&mut inflated).map_err(damaged(&path))?;
            (head, Source::Inflated(Box::new(inflated)))
        } else {
            let mut bytes = &file.file;
            let head = (bytes.seek(SeekFrom::Start(member.start)))
                .and_then(|_| read_head(&mut bytes.take(member.size)))
                .map_err(Error::io(&path, "read"))?;
            let at = member.start + head.len() as u64;
            (head, Source::Plain(at))
        };
        let header = parse_header(&path, &head, member.size)?;
        let mut of_head = crc32fast::Hasher::new();
        of_head.update(&head);
        let length = member.size - header.data_offset as u64;
        Ok(ArrayFile {
            path,
            file,
            source,
            length,
            left: length,
            header,
            packed: Some(Packed {
                member,
                crc32: of_head.clone(),
                of_head,
            }),
        })
    }

    /// Fill `bytes` with the next bytes of the data. At the end of an archive member its checksum is
    /// verified.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Io`]; [`Error::Format`] for a damaged archive.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let read = match &mut self.source {
            Source::Plain(_) => (&self.file.file)
                .read_exact(bytes)
                .map_err(Error::io(&self.path, "read")),
            #[cfg(feature = "formats")]
            Source::Inflated(inflated) => inflated.read_exact(bytes).map_err(damaged(&self.path)),
            #[cfg(feature = "formats")]
            Source::Held(held) => held
                .read_exact(bytes)
                .map_err(Error::io(&self.path, "read")),
        };
        // If the file was truncated meanwhile, the error says so.
        if read.is_err() {
            self.check_unchanged()?;
        }
        read?;
        self.left -= bytes.len() as u64;
        #[cfg(feature = "formats")]
        if let Some(packed) = &mut self.packed {
            packed.crc32.update(bytes);
            if self.left == 0 {
                self.check_member()?;
            }
        }
        Ok(())
    }

    /// Read the rest of the data.
    ///
    /// # Errors
    /// As [`ArrayFile::read`]; [`Error::Format`] if it exceeds the available memory.
    pub fn read_rest(&mut self) -> Result<Vec<u8>> {
        refuse_beyond_memory(&self.path, "length", self.left)?;
        let mut all = Vec::new();
        // In pieces: memory is allocated for bytes that are there, not for those that are claimed.
        while self.left > 0 {
            let start = all.len();
            all.resize(start + self.left.min(PIECE as u64) as usize, 0);
            self.read(&mut all[start..])?;
        }
        Ok(all)
    }

    #[cfg(feature = "formats")]
    fn check_member(&mut self) -> Result<()> {
        let Some(packed) = &self.packed else {
            return Ok(());
        };
        let longer = match &mut self.source {
            Source::Inflated(inflated) => inflated.read(&mut [0]).map_err(damaged(&self.path))? > 0,
            _ => false,
        };
        let (found, expected) = (packed.crc32.clone().finalize(), packed.member.crc32);
        if found != expected || longer {
            let found = if longer {
                "more bytes than the archive's directory says".to_string()
            } else {
                format!("{found:08x}")
            };
            let expected = format!("{expected:08x}; the archive is damaged, save it again");
            return Err(Error::format(&self.path, "crc32", found, expected));
        }
        Ok(())
    }

    /// Start again from the first byte of the data.
    pub fn rewind(&mut self) -> Result<()> {
        match &mut self.source {
            Source::Plain(at) => {
                ((&self.file.file).seek(SeekFrom::Start(*at)))
                    .map_err(Error::io(&self.path, "read"))?;
            }
            #[cfg(feature = "formats")]
            Source::Held(held) => held.set_position(0),
            #[cfg(feature = "formats")]
            Source::Inflated(inflated) => {
                if let Some(packed) = &self.packed {
                    **inflated = packed.member.inflate(&self.path, &self.file.file)?;
                    read_head(inflated).map_err(damaged(&self.path))?;
                }
            }
        }
        #[cfg(feature = "formats")]
        if let Some(packed) = &mut self.packed {
            packed.crc32 = packed.of_head.clone();
        }
        self.left = self.length;
        Ok(())
    }

    /// Prepare for [`ArrayFile::read_at`]: inflate a deflated member into memory; verify the checksum
    /// of a stored one.
    ///
    /// # Errors
    /// As [`ArrayFile::read_rest`].
    pub fn seekable(&mut self) -> Result<()> {
        #[cfg(feature = "formats")]
        if self.packed.is_some() {
            if let Source::Inflated(_) = self.source {
                let held = self.read_rest()?;
                self.source = Source::Held(io::Cursor::new(held));
            } else {
                let mut piece = vec![0; PIECE];
                while self.left > 0 {
                    let next = self.left.min(PIECE as u64) as usize;
                    self.read(&mut piece[..next])?;
                }
            }
            self.packed = None;
        }
        Ok(())
    }

    /// Fill `bytes` from offset `at` of the data. Requires [`ArrayFile::seekable`].
    pub fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let read = match &mut self.source {
            #[cfg(unix)]
            Source::Plain(start) => {
                std::os::unix::fs::FileExt::read_exact_at(&self.file.file, bytes, *start + at)
            }
            #[cfg(not(unix))]
            Source::Plain(start) => {
                let mut file = &self.file.file;
                (file.seek(SeekFrom::Start(*start + at))).and_then(|_| file.read_exact(bytes))
            }
            #[cfg(feature = "formats")]
            Source::Held(held) => {
                held.set_position(at);
                held.read_exact(bytes)
            }
            #[cfg(feature = "formats")]
            Source::Inflated(_) => unreachable!("seekable comes first"),
        };
        if read.is_err() {
            self.check_unchanged()?;
        }
        read.map_err(Error::io(&self.path, "read"))
    }

    /// Whether the array is a `.npy` file, not a member of an archive.
    pub fn is_whole_file(&self) -> bool {
        #[cfg(feature = "formats")]
        return self.packed.is_none()
            && matches!(self.source, Source::Plain(at) if at == self.header.data_offset as u64);
        #[cfg(not(feature = "formats"))]
        true
    }

    /// The error of a number that cannot be a feature.
    pub fn refused(&self, (row, column): (usize, usize), element: &[u8], expected: &str) -> Error {
        let field = format!("row {row}, column {column}");
        Error::format(&self.path, field, self.header.spelled(element), expected)
    }

    /// Check that the file has not been written to since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }
}

/// Refuse to read more bytes than the available memory; `field` is for the message.
///
/// # Errors
/// [`Error::Format`].
pub(crate) fn refuse_beyond_memory(path: &Path, field: &str, bytes: u64) -> Result<()> {
    /// Up to this length the available memory is not queried.
    const ALWAYS: u64 = 256 << 20;
    let memory = available_memory().unwrap_or(u64::MAX);
    if bytes <= ALWAYS || bytes <= memory {
        return Ok(());
    }
    let found = format!("{bytes} bytes that must be in memory");
    let expected = format!(
        "at most the {memory} bytes of available memory; save a smaller array, or an uncompressed one in C order"
    );
    Err(Error::format(path, field, found, expected))
}

/// Read exactly the bytes of a header, or all if there are fewer.
fn read_head(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(12).read_to_end(&mut head)?;
    let rest = match *head {
        [_, _, _, _, _, _, 1, 0, a, b, ..] => 10 + usize::from(u16::from_le_bytes([a, b])),
        [_, _, _, _, _, _, 2 | 3, 0, a, b, c, d] => {
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            12 + length.min(crate::io::npy::MAX_HEADER)
        }
        _ => 0,
    };
    // A valid header of version 1.0 is longer than the 2 bytes that were read too far.
    let rest = rest.saturating_sub(head.len()) as u64;
    from.take(rest).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(feature = "formats")]
fn damaged(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let expected =
            "as many bytes as the archive's directory says; it is damaged, save it again";
        Error::format(path, "member", error, expected)
    }
}
