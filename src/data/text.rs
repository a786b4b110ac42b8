//! Reader of text by lines: a file, a pipe or standard input, plain or compressed as `.gz`, `.bz2` or
//! `.xz`, which is recognized by the first bytes.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use crate::data::source::{Kind, Source, stopped_or};
use crate::error::{Error, Result};
use crate::io::files::WatchedFile;
use crate::progress::Cancel;

/// Limit on the length of a line, in bytes.
pub const MAX_LINE: u64 = 256 << 20;
/// Limit on the bytes that [`Text::peek`] reads ahead.
const MAX_PEEK: usize = 1 << 20;
/// Limit on the memory for decompressing `.xz`, in KiB; `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 512 << 10;
/// Bytes per read.
const BUFFER: usize = 1 << 17;

/// An open text. Memory: a buffer and the longest line.
pub struct Text {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    watched: Option<Arc<WatchedFile>>,
    cancel: Cancel,
    /// `.gz`, `.bz2` or `.xz`.
    packed: Option<&'static str>,
    /// Bytes read ahead, and the number of them that were consumed.
    ahead: Vec<u8>,
    taken: usize,
    line: Vec<u8>,
    number: u64,
}

/// The format of a text, by its first line that is not blank or a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// LIBSVM's text: one of the first two words is `INDEX:VALUE`, or the only word is a number.
    Libsvm,
    /// A table: commas, semicolons or tabs, or a single word that is not a number.
    Table,
    /// Neither.
    Other,
}

impl TextKind {
    /// The format of a text that begins with `start`. Blank lines, and lines that begin with `#`, are
    /// skipped.
    pub fn of(start: &[u8]) -> TextKind {
        let Some(line) = start.split(|&byte| byte == b'\n').find(has_content) else {
            return TextKind::Other;
        };
        if line.contains(&0) {
            return TextKind::Other;
        }
        let is_pair = |word: &[u8]| match word.iter().position(|&byte| byte == b':') {
            None | Some(0) => false,
            Some(colon) => word[..colon].iter().all(u8::is_ascii_digit) || &word[..colon] == b"qid",
        };
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0B;
        let mut words = line.split(is_blank).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        if is_pair(first) || words.next().is_some_and(is_pair) {
            return TextKind::Libsvm;
        }
        let one = line.trim_ascii();
        let is_number = || std::str::from_utf8(one).is_ok_and(|word| word.parse::<f64>().is_ok());
        match () {
            () if line.iter().any(|byte| b",;\t".contains(byte)) => TextKind::Table,
            () if one.len() > first.len() => TextKind::Other,
            () if is_number() => TextKind::Libsvm,
            () => TextKind::Table,
        }
    }
}

/// Whether a line is neither blank nor a comment.
fn has_content(line: &&[u8]) -> bool {
    !line.trim_ascii().is_empty() && !line.starts_with(b"#")
}

/// Open a text: a file, a pipe, or `-` for standard input. A byte order mark of UTF-8 is skipped.
/// Reads fail once `cancel` is set.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a folder, a device, an array, a damaged compressed file, and
/// UTF-16; [`Error::Interrupted`].
pub fn open_text(path: &Path, cancel: &Cancel) -> Result<Text> {
    Text::of(Source::open(path, cancel)?)
}

impl Text {
    /// The text of an open input; see [`open_text`].
    ///
    /// # Errors
    /// As [`open_text`].
    pub fn of(source: Source) -> Result<Text> {
        let (path, kind, watched) = (source.path().to_path_buf(), source.kind(), source.watched());
        let found = match kind {
            Kind::Npy => "an array (.npy)",
            Kind::Zip => "an archive, such as .npz",
            _ => "",
        };
        if !found.is_empty() {
            let expected = "text: flowreg-prep npy and --x read arrays, of a sparse matrix X those \
                            of X.toarray(); sklearn.datasets.dump_svmlight_file writes X as text";
            return Err(Error::format(&path, "text", found, expected));
        }
        let cancel = source.cancel().clone();
        Text::of_reader(path, kind, watched, cancel, source.into_reader())
    }

    /// The text of bytes in memory; the path is for messages.
    ///
    /// # Errors
    /// As [`open_text`].
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Text> {
        let kind = Kind::of(&bytes);
        let (path, cancel) = (path.to_path_buf(), Cancel::new());
        Text::of_reader(path, kind, None, cancel, io::Cursor::new(bytes))
    }

    fn of_reader(
        path: PathBuf,
        kind: Kind,
        watched: Option<Arc<WatchedFile>>,
        cancel: Cancel,
        reader: impl Read + Send + 'static,
    ) -> Result<Text> {
        let reader = BufReader::with_capacity(BUFFER, reader);
        let (input, packed): (Box<dyn BufRead + Send>, _) = match kind {
            Kind::Packed(ending) => {
                let unpacked = Unpacked {
                    ending,
                    stream: Some(Stream::begin(ending, reader)),
                };
                let input = BufReader::with_capacity(BUFFER, unpacked);
                (Box::new(input), Some(ending))
            }
            _ => (Box::new(reader), None),
        };
        let mut text = Text {
            path,
            input,
            watched,
            cancel,
            packed,
            ahead: Vec::new(),
            taken: 0,
            line: Vec::new(),
            number: 0,
        };
        let utf16 = match text.peek(|bytes| bytes.len() >= 3)? {
            [0xEF, 0xBB, 0xBF, ..] => {
                text.taken = 3;
                false
            }
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => true,
            _ => false,
        };
        if utf16 {
            let expected = "UTF-8 (iconv -f UTF-16 -t UTF-8 converts it)";
            return Err(Error::format(&text.path, "text", "UTF-16", expected));
        }
        Ok(text)
    }

    /// The path, or "standard input": for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next bytes, without consuming them: until `enough` is true of them, the text ends, or 1 MiB
    /// is read.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a damaged compressed file.
    pub fn peek(&mut self, enough: impl Fn(&[u8]) -> bool) -> Result<&[u8]> {
        while !enough(&self.ahead[self.taken..]) && self.ahead.len() < MAX_PEEK {
            let read = match self.input.fill_buf() {
                Ok(bytes) => {
                    let limit = MAX_PEEK - self.ahead.len();
                    let bytes = &bytes[..bytes.len().min(limit)];
                    self.ahead.extend_from_slice(bytes);
                    bytes.len()
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.error(error)),
            };
            self.input.consume(read);
            if read == 0 {
                break;
            }
        }
        Ok(&self.ahead[self.taken..])
    }

    /// The format; nothing is consumed.
    ///
    /// # Errors
    /// As [`Text::peek`].
    pub fn kind(&mut self) -> Result<TextKind> {
        Ok(TextKind::of(self.start()?))
    }

    /// Whether the first line that is not blank or a comment has this byte; nothing is consumed.
    ///
    /// # Errors
    /// As [`Text::peek`].
    pub fn begins_with_line_of(&mut self, wanted: u8) -> Result<bool> {
        let mut lines = self.start()?.split(|&byte| byte == b'\n');
        Ok(lines
            .find(has_content)
            .is_some_and(|line| line.contains(&wanted)))
    }

    /// The next bytes up to the end of the first line that is not blank or a comment, or 4 KiB of that
    /// line, which suffice for its first two words.
    fn start(&mut self) -> Result<&[u8]> {
        self.peek(|bytes: &[u8]| {
            let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
            let line = lines.find(has_content);
            line.is_some_and(|line| line.ends_with(b"\n") || line.len() > 1 << 12)
        })
    }

    /// The next line, including its line end; `None` at the end of the text.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Interrupted`]; [`Error::Format`] for a damaged compressed file or a
    /// line of 256 MiB.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.cancel.check()?;
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let read = self.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        self.line = line;
        match read {
            Err(error) => Err(self.error(error)),
            Ok(0) => Ok(None),
            Ok(read) if read as u64 == MAX_LINE => {
                self.number += 1;
                let expected = format!("a line of less than {MAX_LINE} bytes");
                Err(self.refuse("a longer line", expected))
            }
            Ok(_) => {
                self.number += 1;
                Ok(Some(&self.line))
            }
        }
    }

    /// Number of the line that was read last, from 1.
    pub fn line_number(&self) -> u64 {
        self.number
    }

    /// The error for the line that was read last.
    pub fn refuse(&self, found: impl ToString, expected: impl Into<String>) -> Error {
        Error::format(&self.path, format!("line {}", self.number), found, expected)
    }

    /// Check that the file has not been written to since it was opened.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check_unchanged(&self) -> Result<()> {
        (self.watched.as_ref()).map_or(Ok(()), |watched| watched.check_unchanged())
    }

    /// The signal that ends reads.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The error of a failed read: a cancellation, one of the operating system, or a damaged
    /// compressed file.
    pub fn error(&self, error: io::Error) -> Error {
        stopped_or(&self.cancel, error, |error| match self.packed {
            Some(ending) if error.raw_os_error().is_none() => {
                let (found, expected) = match error.kind() {
                    io::ErrorKind::OutOfMemory => (
                        format!("a dictionary that takes more than {XZ_MEMORY} KiB"),
                        "a smaller one: compress the file again, by xz -9 or less".to_string(),
                    ),
                    _ => (
                        error.to_string(),
                        format!("a whole {ending} file: download or compress it again"),
                    ),
                };
                Error::format(&self.path, ending, found, expected)
            }
            _ => Error::io(&self.path, "read")(error),
        })
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Text {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken < self.ahead.len() {
            Ok(&self.ahead[self.taken..])
        } else {
            self.input.fill_buf()
        }
    }

    fn consume(&mut self, amount: usize) {
        if self.taken < self.ahead.len() {
            self.taken += amount;
        } else {
            self.input.consume(amount);
        }
    }
}

/// Decompression of a text: one or several streams, with zeros between or after them, as in Python's
/// gzip module, bzip2 and xz. Other bytes after a .bz2 or .xz are ignored, as by bzip2 and Python;
/// after a .gz they are an error, as in Python.
struct Unpacked<R: BufRead> {
    /// `.gz`, `.bz2` or `.xz`.
    ending: &'static str,
    /// `None` at the end.
    stream: Option<Stream<R>>,
}

enum Stream<R: BufRead> {
    Gz(GzDecoder<R>),
    Bz2(BzDecoder<R>),
    Xz(Box<XzReader<R>>),
}

impl<R: BufRead> Stream<R> {
    fn begin(ending: &str, reader: R) -> Stream<R> {
        match ending {
            ".gz" => Stream::Gz(GzDecoder::new(reader)),
            ".bz2" => Stream::Bz2(BzDecoder::new(reader)),
            _ => {
                let stream = XzReader::new_mem_limit(reader, false, XZ_MEMORY);
                Stream::Xz(Box::new(stream))
            }
        }
    }

    /// The next stream after this one has ended, if there is one.
    fn next(self, ending: &str) -> io::Result<Option<Stream<R>>> {
        let (mut reader, first) = match self {
            Stream::Gz(stream) => (stream.into_inner(), 0x1F),
            Stream::Bz2(stream) => (stream.into_inner(), b'B'),
            Stream::Xz(stream) => (stream.into_inner(), 0xFD),
        };
        loop {
            let bytes = match reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            match bytes.iter().position(|&byte| byte != 0) {
                Some(zeros) if bytes[zeros] == first => {
                    reader.consume(zeros);
                    return Ok(Some(Stream::begin(ending, reader)));
                }
                Some(_) if ending == ".gz" => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "other bytes after its end",
                    ));
                }
                Some(_) => return Ok(None),
                None if bytes.is_empty() => return Ok(None),
                None => {
                    let zeros = bytes.len();
                    reader.consume(zeros);
                }
            }
        }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(stream) = &mut self.stream {
            let read = match stream {
                Stream::Gz(stream) => stream.read(buffer)?,
                Stream::Bz2(stream) => stream.read(buffer)?,
                Stream::Xz(stream) => stream.read(buffer)?,
            };
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let ended = self.stream.take();
            self.stream = match ended {
                Some(stream) => stream.next(self.ending)?,
                None => None,
            };
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
