//! Sparse rows on the disk, between the one reading of a text and the writing of its dense rows.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::files::{self, NewFile};

/// Bytes that are written together.
const BUFFER: usize = 1 << 18;

/// Length of the file of `rows` rows that hold `values` values.
pub fn bytes(rows: usize, values: u64) -> u64 {
    4 * rows as u64 + 12 * values
}

/// Rows being written: for each the number of its values, then each index and value.
pub struct Spool {
    path: PathBuf,
    file: NewFile,
    buffer: Vec<u8>,
}

impl Spool {
    /// A new file.
    pub fn create(path: &Path) -> Result<Spool> {
        Ok(Spool {
            path: path.to_path_buf(),
            file: NewFile::create(path)?,
            buffer: Vec::with_capacity(BUFFER + 16),
        })
    }

    /// Add a row.
    pub fn append(&mut self, values: &[(u32, f64)]) -> Result<()> {
        self.buffer.extend((values.len() as u32).to_le_bytes());
        for (index, value) in values {
            self.buffer.extend(index.to_le_bytes());
            self.buffer.extend(value.to_le_bytes());
            self.flush_full()?;
        }
        self.flush_full()
    }

    fn flush_full(&mut self) -> Result<()> {
        if self.buffer.len() >= BUFFER {
            self.file.append(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Read the rows from the first.
    pub fn read(mut self) -> Result<SpooledRows> {
        self.file.append(&self.buffer)?;
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        Ok(SpooledRows {
            path: self.path,
            file: BufReader::with_capacity(BUFFER, file),
        })
    }
}

/// Rows being read.
pub struct SpooledRows {
    path: PathBuf,
    file: BufReader<File>,
}

impl SpooledRows {
    /// The next row: `value` is given each index and value.
    pub fn next(&mut self, mut value: impl FnMut(u32, f64)) -> Result<()> {
        for _ in 0..u32::from_le_bytes(self.word()?) {
            let index = u32::from_le_bytes(self.word()?);
            value(index, f64::from_le_bytes(self.word()?));
        }
        Ok(())
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut word = [0; N];
        (self.file.read_exact(&mut word)).map_err(Error::io(&self.path, "read"))?;
        Ok(word)
    }

    /// Remove the file.
    pub fn remove(self) -> Result<()> {
        drop(self.file);
        files::remove_file(&self.path)
    }
}
