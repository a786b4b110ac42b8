//! Temporary file of sparse rows, between reading a text and writing its dense rows.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::files::{self, NewFile};

/// Bytes per write.
const BUFFER: usize = 1 << 18;

/// Length of the file of `rows` rows with `values` values in all.
pub fn bytes(rows: usize, values: u64) -> u64 {
    4 * rows as u64 + 12 * values
}

/// Writer of sparse rows: for each row the number of its values, then index and value of each.
pub struct Spool {
    path: PathBuf,
    file: NewFile,
    buffer: Vec<u8>,
}

impl Spool {
    /// Create the file.
    pub fn create(path: &Path) -> Result<Spool> {
        Ok(Spool {
            path: path.to_path_buf(),
            file: NewFile::create(path)?,
            buffer: Vec::with_capacity(BUFFER + 16),
        })
    }

    /// Append a row.
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

    /// End writing, and read the rows from the first.
    pub fn read(mut self) -> Result<SpooledRows> {
        self.file.append(&self.buffer)?;
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        Ok(SpooledRows {
            path: self.path,
            file: BufReader::with_capacity(BUFFER, file),
        })
    }
}

/// Reader of sparse rows.
pub struct SpooledRows {
    path: PathBuf,
    file: BufReader<File>,
}

impl SpooledRows {
    /// Read the next row; `value` is called with each index and value.
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
