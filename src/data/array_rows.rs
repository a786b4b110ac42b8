//! Reader of the rows of a `.npy` or `.npz` array, in C or Fortran order, as f32.

use crate::data::array_file::{ArrayFile, Role, refuse_beyond_memory};
use crate::data::checks;
use crate::data::columns::Columns;
use crate::data::dataset::{BYTES, NumberFormat};
use crate::data::dataset_writer::block_rows;
use crate::data::row_reader::{Finish, RowReader};
use crate::design::samples::try_with_capacity;
use crate::error::{Error, Result};
use crate::io::mmap::Matrix;
use crate::io::npy::Dtype;
use crate::progress::Cancel;
use std::ops::Range;
use std::path::Path;

/// Number of values that are converted at a time.
const GROUP: usize = 1 << 15;
/// Bytes read at a time from each column of an array in Fortran order. Not a multiple of a page, so
/// that neighbouring columns map to different cache sets.
const RUN: usize = (8 << 10) + 64;
/// Limit on the bytes of a slab, as f64.
const SLAB_BYTES: usize = 64 << 20;
/// Columns that are transposed at a time: two cache lines of f64.
const COLUMNS: usize = 16;

/// Reader of the features in a `.npy` or `.npz` file.
#[derive(Debug)]
pub struct Features {
    pub(crate) array: ArrayFile,
    pub(crate) rows: usize,
    pub(crate) features: usize,
    /// Index of the next row.
    at: usize,
    pub(crate) finish: Finish,
    bytes: Vec<u8>,
    /// The decoded rows, row-major.
    numbers: Vec<f64>,
    slab: Slab,
}

/// A range of rows of an array in Fortran order, column-major.
#[derive(Debug, Default)]
struct Slab {
    rows: Range<usize>,
    numbers: Vec<f64>,
}

impl Features {
    /// Open an array of rows x features, of bool, whole numbers or floats. Bytes are divided by 255;
    /// other numbers are not scaled.
    ///
    /// # Errors
    /// [`Error::Npy`]; [`Error::Format`] for another shape or type, for another kind of file, and
    /// for an archive without such an array; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Features> {
        let mut array = ArrayFile::open(path, Role::Features)?;
        let path = &array.path;
        let shape = &array.header.shape;
        let &[rows, features] = shape.as_slice() else {
            let expected = match shape.len() {
                0 | 1 => {
                    "rows x features: numpy's reshape(-1, 1) makes one column of them, reshape(1, -1) one row"
                }
                _ => "rows x features: numpy's reshape(len(x), -1) makes a row of each",
            };
            return Err(Error::format(path, "shape", format!("{shape:?}"), expected));
        };
        checks::refuse_empty(path, rows, features)?;
        // A row's bytes and numbers, a slab of one row, and three rows of f32.
        refuse_beyond_memory(path, "a row", (features as u64).saturating_mul(36))?;
        if !array.header.dtype.is_number() {
            let found = format!("{} (text)", array.header.descr());
            let expected = "numbers: numpy's astype('f4') makes them of text that has them";
            return Err(Error::format(path, "descr", found, expected));
        }
        if array.header.is_column_major() {
            array.seekable()?;
        }
        let finish = match array.header.dtype {
            Dtype::U8 => Finish::of_bytes(&NumberFormat {
                scale: Some(BYTES.to_string()),
                ..NumberFormat::default()
            }),
            _ => Finish::default(),
        };
        Ok(Features {
            array,
            rows,
            features,
            at: 0,
            finish,
            bytes: Vec::new(),
            numbers: Vec::new(),
            slab: Slab::default(),
        })
    }

    /// The same rows, converted by `format`.
    pub(crate) fn formatted(self, format: &NumberFormat) -> Features {
        let mut finish = match self.array.header.dtype {
            Dtype::U8 => Finish::of_bytes(format),
            _ => Finish::of_numbers(format),
        };
        finish.seen = self.finish.seen;
        Features { finish, ..self }
    }

    /// See [`Finish::refusing_copies`].
    pub(crate) fn refusing_copies(self) -> Features {
        let finish = self.finish.refusing_copies();
        Features { finish, ..self }
    }

    pub(crate) fn is_bytes(&self) -> bool {
        self.array.header.dtype == Dtype::U8
    }

    /// The file, and the type of its numbers.
    pub(crate) fn described(&self) -> (&Path, String) {
        (&self.array.path, self.array.header.descr())
    }

    /// Whether f32 cannot represent all numbers of the type.
    pub(crate) fn may_lose_digits(&self) -> bool {
        use Dtype::*;
        matches!(self.array.header.dtype, F64 | I32 | I64 | U32 | U64)
    }

    /// Whether the file can be mapped without conversion.
    pub(crate) fn is_mappable(&self) -> bool {
        let plain = self.array.is_whole_file() && self.array.header.is_mappable();
        plain && self.finish.is_identity()
    }

    /// Bytes of the features as f32; `None` if they exceed 64 bits.
    pub(crate) fn bytes(&self) -> Option<u64> {
        (self.rows as u64)
            .checked_mul(self.features as u64)?
            .checked_mul(4)
    }

    /// Statistics of all columns, by a pass over the file. The reader then starts from the first row.
    pub(crate) fn statistics(&mut self, cancel: &Cancel) -> Result<Columns> {
        let observe = Finish::observe_only(self.features, None);
        let before = std::mem::replace(&mut self.finish, observe);
        let mut block = vec![0.0; self.block_rows() * self.features];
        while self.read(&mut block)? > 0 {
            cancel.check()?;
        }
        let seen = std::mem::replace(&mut self.finish, before).seen;
        self.at = 0;
        self.array.rewind()?;
        Ok(seen.expect("`observe_only` collects statistics"))
    }

    /// Number of rows to read at a time.
    pub(crate) fn block_rows(&self) -> usize {
        let mut rows = block_rows(self.features);
        if self.array.header.is_column_major() {
            rows = rows.max(self.slab_rows());
        }
        rows.min(self.rows)
    }

    /// Read all rows into memory.
    pub(crate) fn hold(mut self, fitted: &mut Option<Columns>, cancel: &Cancel) -> Result<Matrix> {
        let mut values = try_with_capacity(self.rows.saturating_mul(self.features))?;
        while self.at < self.rows {
            cancel.check()?;
            let start = values.len();
            let rows = self.block_rows().min(self.rows - self.at);
            values.resize(start + rows * self.features, 0.0);
            self.read(&mut values[start..])?;
        }
        self.end(fitted)?;
        Ok(Matrix::Held {
            path: self.array.path,
            values,
            rows: self.rows,
            cols: self.features,
        })
    }

    /// Checks after the last row: the file has not changed, and f32 keeps the differences of each
    /// column, compared with the first part, `fitted`, if there is one.
    pub(crate) fn end(&mut self, fitted: &mut Option<Columns>) -> Result<()> {
        self.array.check_unchanged()?;
        let Some(seen) = self.finish.seen.take() else {
            return Ok(());
        };
        if let Some(fitted) = fitted {
            return fitted.refuse_other_split(&seen, &self.array.path, of_column);
        }
        seen.shift_or_refuse(false, &self.array.path, of_column)?;
        *fitted = Some(seen);
        Ok(())
    }

    /// Decode up to `most` rows of an array in C order into `numbers`.
    pub(crate) fn read_rows(&mut self, most: usize) -> Result<()> {
        let rows = (GROUP / self.features).max(1).min(most);
        let size = self.array.header.dtype.size();
        self.bytes.resize(rows * self.features * size, 0);
        self.array.read(&mut self.bytes)?;
        self.numbers.clear();
        self.array.header.decode(&self.bytes, &mut self.numbers);
        Ok(())
    }

    /// Decode up to `most` rows of an array in Fortran order into `numbers`, from the slab; the next
    /// slab is read if it has no more.
    pub(crate) fn read_columns(&mut self, most: usize) -> Result<()> {
        if !self.slab.rows.contains(&self.at) {
            self.read_slab()?;
        }
        let (features, length) = (self.features, self.slab.rows.len());
        // At least 8 rows: a cache line of a column has 8 numbers.
        let rows = (GROUP / features).max(8.min(64 * GROUP / features)).max(1);
        let rows = rows.min(most).min(self.slab.rows.end - self.at);
        let first = self.at - self.slab.rows.start;
        self.numbers.resize(rows * features, 0.0);
        // Blocks of columns, so that rows are written in whole cache lines.
        for start in (0..features).step_by(COLUMNS) {
            let end = (start + COLUMNS).min(features);
            let columns = &self.slab.numbers[start * length..end * length];
            for (row, numbers) in self.numbers.chunks_exact_mut(features).enumerate() {
                let column = columns[first + row..].iter().step_by(length);
                for (number, &value) in numbers[start..end].iter_mut().zip(column) {
                    *number = value;
                }
            }
        }
        Ok(())
    }

    /// Read the slab that begins at the next row.
    pub(crate) fn read_slab(&mut self) -> Result<()> {
        let size = self.array.header.dtype.size();
        let rows = self.slab_rows().min(self.rows - self.at);
        // The slab is empty until all of it is read.
        self.slab.rows = 0..0;
        self.slab.numbers.clear();
        self.bytes.resize(rows * size, 0);
        for column in 0..self.features {
            let first = (column * self.rows + self.at) * size;
            self.array.read_at(first as u64, &mut self.bytes)?;
            self.array
                .header
                .decode(&self.bytes, &mut self.slab.numbers);
        }
        self.slab.rows = self.at..self.at + rows;
        Ok(())
    }

    /// Number of rows of a slab: [`RUN`] bytes per column, limited by [`SLAB_BYTES`].
    pub(crate) fn slab_rows(&self) -> usize {
        let most = SLAB_BYTES / 8 / self.features;
        (RUN / self.array.header.dtype.size()).min(most).max(1)
    }
}

impl RowReader for Features {
    fn features(&self) -> usize {
        self.features
    }

    fn rows(&self) -> Option<usize> {
        Some(self.rows)
    }

    fn read_each(
        &mut self,
        values: &mut [f32],
        refuse: &mut dyn FnMut(usize, Error),
    ) -> Result<usize> {
        let rows = (values.len() / self.features).min(self.rows - self.at);
        if rows == 0 {
            return Ok(0);
        }
        let first = self.at;
        let (size, by_columns) = {
            let header = &self.array.header;
            (header.dtype.size(), header.is_column_major())
        };
        while self.at < first + rows {
            let left = first + rows - self.at;
            if by_columns {
                self.read_columns(left)?;
            } else {
                self.read_rows(left)?;
            }
            let values = &mut values[(self.at - first) * self.features..];
            let values = values.chunks_exact_mut(self.features);
            let rows = values.zip(self.numbers.chunks_exact(self.features));
            for (row_start, (row, numbers)) in (0..).step_by(self.features).zip(rows) {
                if let Err((column, expected)) = self.finish.row(numbers, row) {
                    let mut element = vec![0; size];
                    if by_columns {
                        let at = (column * self.rows + self.at) * size;
                        self.array.read_at(at as u64, &mut element)?;
                    } else {
                        let at = (row_start + column) * size;
                        element.copy_from_slice(&self.bytes[at..at + size]);
                    }
                    let place = (self.at, column);
                    let error = self.array.refused(place, &element, expected);
                    refuse(self.at - first, error);
                }
                self.at += 1;
            }
        }
        self.finish.refuse_copies(&self.array.path, of_column)?;
        if self.at == self.rows {
            self.array.check_unchanged()?;
        }
        Ok(rows)
    }
}

/// The name of a column in messages.
pub(crate) fn of_column(column: usize) -> String {
    format!("column {column}")
}
