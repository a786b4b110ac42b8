//! Arrays of other tools to dataset, or to rows in memory: `.npy` and `.npz` features of any type
//! of number, and labels.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::data::array_file::{ArrayFile, Role, refuse_beyond_memory};
use crate::data::columns::Columns;
use crate::data::dataset::{BYTES, MAX_CLASSES, Manifest, NumberFormat, Prepared, Split};
use crate::data::dataset_writer::{DatasetWriter, block_rows};
use crate::data::labels::Numbered;
use crate::data::rows::{Finish, RowReader};
use crate::data::{checks, labels, rows};
use crate::design::plan::available_memory;
use crate::design::samples::room;
use crate::error::{Error, Result};
use crate::io::mmap::{MappedMatrix, Matrix};
use crate::io::npy::Dtype;
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;

/// Values that are converted together.
const GROUP: usize = 1 << 15;
/// Bytes that are read of a column together, of an array in Fortran order: no multiple of a page,
/// so that neighbouring columns do not share sets of the cache.
const RUN: usize = (8 << 10) + 64;
/// Most bytes of such runs, of all columns, as f64.
const SLAB_BYTES: usize = 64 << 20;
/// Columns that are transposed together: two lines of the cache.
const COLUMNS: usize = 16;

/// Arrays that become a split: features (n x d) and labels (n).
#[derive(Clone, Debug)]
pub struct ArrayPart {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// The features' file: `FILE.npy`, `FILE.npz` or `FILE.npz:NAME`, of bool, whole numbers or
    /// floats.
    pub x: PathBuf,
    /// The labels' file, likewise: whole numbers, or text.
    pub y: PathBuf,
}

/// What to make of arrays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayOptions {
    /// The label of the first class: 0 or 1.
    pub labels_from: u8,
    /// Subtract a number near the mean of the first part from each column whose differences f32
    /// would lose, instead of refusing it.
    pub center: bool,
    /// What stops the preparation before its end.
    pub cancel: Option<Cancel>,
}

/// Rows in memory or mapped, for a fit without a dataset.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// One for each part.
    pub splits: Vec<Split>,
    /// Names of the classes; empty if labels are numbers from 0.
    pub class_names: Vec<String>,
    /// How the numbers became rows.
    pub numbers: NumberFormat,
}

/// Convert arrays into the dataset directory `out`, which appears complete or not at all.
///
/// The first part is the one that is fitted. Numbers are rounded to f32; bytes (`|u1`) are taken
/// for pixels and divided by 255. `progress` is told the rows done since its last call. Cost: one
/// pass over the files, one more over the first with `center`, beside hashing and writing;
/// memory: three blocks of 4 MB (of a row at least), and labels; of an array in Fortran order
/// 64 MB and blocks of up to 32 MB, and if it is compressed, all of it.
///
/// # Errors
/// [`Error::Format`] for arrays that do not fit together, for labels that are no classes, for
/// rows of one class only, for values beyond 10¹⁵ or that are no numbers, and for columns whose
/// differences f32 would lose (unless `center`); [`Error::Exists`], [`Error::Locked`],
/// [`Error::Npy`], [`Error::Changed`], [`Error::Io`], [`Error::Interrupted`].
pub fn prepare(
    parts: &[ArrayPart],
    options: &ArrayOptions,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let sources: Vec<PathBuf> = (parts.iter())
        .flat_map(|part| [file(&part.x), file(&part.y)])
        .collect();
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    let staging = Staging::begin(out, OutputKind::Dataset, overwrite, &sources)?;
    let Opened {
        features: readers,
        mut fitted,
        numbered,
        numbers,
    } = Opened::of(parts, options, MAX_CLASSES as i64)?;
    let source = parts[0].x.file_name().unwrap_or_default();
    let source = source.to_string_lossy().into_owned();
    let names = numbered.names(options.labels_from);
    let mut manifest = Manifest::of_numbers(source, names, readers[0].features);
    manifest.numbers = Some(numbers);
    let mut writer = DatasetWriter::new(staging, manifest, options.cancel.clone());
    for ((part, mut reader), labels) in parts.iter().zip(readers).zip(numbered.labels) {
        let block_rows = reader.block_rows();
        writer.write_split(part.name, &part.y, labels, block_rows, |rows, values| {
            progress(rows.len() as u64);
            reader.read(values).map(drop)
        })?;
        reader.end(&mut fitted)?;
    }
    writer.publish()
}

/// Rows to fit without a dataset: features that can be mapped are (`<f4` in C order), others are
/// converted in memory. `forecast` is told the bytes of memory that an array will take, before it
/// takes them.
///
/// # Errors
/// As [`prepare`]; [`Error::Memory`] for arrays beyond the memory at hand.
pub fn load(
    parts: &[ArrayPart],
    options: &ArrayOptions,
    forecast: &dyn Fn(&Path, u64),
) -> Result<Loaded> {
    let cancel = options.cancel.clone().unwrap_or_default();
    let most = match options.labels_from {
        0 => i64::from(u32::MAX),
        _ => MAX_CLASSES as i64, // They get names.
    };
    let Opened {
        features: readers,
        mut fitted,
        numbered,
        numbers,
    } = Opened::of(parts, options, most)?;
    let class_names = match (&numbered.names, options.labels_from) {
        (None, 0) => Vec::new(),
        _ => numbered.names(options.labels_from),
    };
    let held = readers.iter().filter(|reader| !reader.is_mappable());
    let bytes = held.map(|reader| reader.bytes().unwrap_or(u64::MAX));
    let bytes = bytes.fold(0, u64::saturating_add);
    let memory = available_memory().unwrap_or(u64::MAX);
    if bytes > memory {
        let found = format!("arrays of {bytes} bytes in f32");
        let expected = format!(
            "at most the {memory} bytes of memory at hand: flowreg-prep npy makes a dataset of \
             them, which is mapped"
        );
        return Err(Error::memory("`x`", found, expected));
    }
    let mut splits = Vec::new();
    for ((part, reader), labels) in parts.iter().zip(readers).zip(numbered.labels) {
        let x = if reader.is_mappable() {
            Matrix::Mapped(MappedMatrix::open(&part.x)?)
        } else {
            forecast(&reader.array.path, reader.bytes().unwrap_or(u64::MAX));
            reader.hold(&mut fitted, &cancel)?
        };
        splits.push(Split::of_matrix(x, labels, &part.y, numbered.classes)?);
    }
    Ok(Loaded {
        splits,
        class_names,
        numbers,
    })
}

/// The file of an address such as `FILE.npz:NAME`, or of a plain path.
pub fn file(path: &Path) -> PathBuf {
    #[cfg(feature = "formats")]
    return crate::data::npz::locate(path).0;
    #[cfg(not(feature = "formats"))]
    path.to_path_buf()
}

/// What messages call a column.
fn of_column(column: usize) -> String {
    format!("column {column}")
}

/// Parts that were checked and are ready to be read.
struct Opened {
    features: Vec<Features>,
    /// What is known of the first part's columns, if other parts are to be compared with it.
    fitted: Option<Columns>,
    numbered: Numbered,
    numbers: NumberFormat,
}

impl Opened {
    fn of(parts: &[ArrayPart], options: &ArrayOptions, most_classes: i64) -> Result<Opened> {
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        let mut stored: Vec<Option<NumberFormat>> = Vec::new();
        for part in parts {
            let x = Features::open(&part.x)?;
            labels.push(labels::read(&part.y, Some(x.rows))?);
            features.push(x);
            stored.push(rows::stored(&part.x)?.and_then(|manifest| manifest.numbers));
        }
        let first = &features[0];
        let (name, of_bytes) = (&first.array.path, first.is_bytes());
        for x in &features[1..] {
            let whose = name.display().to_string();
            checks::refuse_width(&x.array.path, x.features, first.features, &whose)?;
            if x.is_bytes() != of_bytes {
                let expected = if of_bytes {
                    format!("|u1 as {}, which is divided by 255", name.display())
                } else {
                    format!(
                        "numbers as {} (bytes would be divided by 255: numpy's astype('f4'))",
                        name.display()
                    )
                };
                return Err(Error::format(
                    &x.array.path,
                    "descr",
                    x.array.header.descr(),
                    expected,
                ));
            }
        }
        let numbered = labels::number(labels, options.labels_from, most_classes)?;
        let made = |format: &Option<NumberFormat>| {
            let format = format.clone().unwrap_or_default();
            (format.shift, format.scale)
        };
        if let Some(other) = stored
            .iter()
            .position(|format| made(format) != made(&stored[0]))
        {
            let found = "rows with another shift or scale than the first";
            let expected = "rows of one dataset: give the dataset, or the numbers that it was \
                            made of";
            return Err(Error::format(&parts[other].x, "numbers", found, expected));
        }
        // Rows of a dataset are what they were made, and their format is the model's.
        if let Some(numbers) = stored.swap_remove(0) {
            return Ok(Opened {
                features,
                fitted: None,
                numbered,
                numbers,
            });
        }
        let mut numbers = NumberFormat {
            scale: of_bytes.then(|| BYTES.to_string()),
            ..NumberFormat::default()
        };
        let columns = features[0].features;
        let may_lose: Vec<bool> = features.iter().map(Features::may_lose_digits).collect();
        let mut fitted = None;
        if may_lose[0] && !options.center {
            // As it is read: the others come after it.
            features[0].finish.seen = Some(Columns::new(columns));
        } else if may_lose.contains(&true) {
            let cancel = options.cancel.clone().unwrap_or_default();
            let seen = features[0].look(&cancel)?;
            if may_lose[0] {
                numbers.shift = seen.settle(true, &features[0].array.path, of_column)?;
            }
            fitted = Some(seen);
        }
        let mut features: Vec<Features> = (features.into_iter())
            .map(|x| x.formatted(&numbers))
            .collect();
        for (x, _) in (features.iter_mut().zip(may_lose).skip(1)).filter(|(_, may)| *may) {
            x.finish.seen = Some(Columns::shifted(columns, numbers.shift.as_deref()));
        }
        Ok(Opened {
            features,
            fitted,
            numbered,
            numbers,
        })
    }
}

/// Features in a `.npy` or `.npz` file, read front to back.
#[derive(Debug)]
pub struct Features {
    array: ArrayFile,
    rows: usize,
    features: usize,
    /// The next row.
    at: usize,
    finish: Finish,
    bytes: Vec<u8>,
    /// Rows that are converted together.
    numbers: Vec<f64>,
    slab: Slab,
}

/// Numbers of an array in Fortran order: some rows of every column, column after column.
#[derive(Debug, Default)]
struct Slab {
    rows: Range<usize>,
    numbers: Vec<f64>,
}

impl Features {
    /// Open an array of rows x features, of bool, whole numbers or floats. Bytes are divided by
    /// 255 and other numbers taken as they are.
    ///
    /// # Errors
    /// [`Error::Npy`]; [`Error::Format`] for another shape or type, and for a kind of file or
    /// archive that has no such array; [`Error::Io`].
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
        // A row's bytes and numbers, those of a slab, and three rows of f32.
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

    /// As the rows of a format.
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

    /// Whether there are numbers of the type that f32 does not hold.
    fn may_lose_digits(&self) -> bool {
        use Dtype::*;
        matches!(self.array.header.dtype, F64 | I32 | I64 | U32 | U64)
    }

    /// Whether the features can be used as they lie in the file.
    fn is_mappable(&self) -> bool {
        let plain = self.array.is_whole_file() && self.array.header.is_mappable();
        plain && self.finish.is_identity()
    }

    /// Bytes of the features in f32.
    fn bytes(&self) -> Option<u64> {
        (self.rows as u64)
            .checked_mul(self.features as u64)?
            .checked_mul(4)
    }

    /// Look at all values once, and begin again.
    fn look(&mut self, cancel: &Cancel) -> Result<Columns> {
        let looking = Finish::only_looking(self.features, None);
        let before = std::mem::replace(&mut self.finish, looking);
        let mut block = vec![0.0; self.block_rows() * self.features];
        while self.read(&mut block)? > 0 {
            cancel.check()?;
        }
        let seen = std::mem::replace(&mut self.finish, before).seen;
        self.at = 0;
        self.array.rewind()?;
        Ok(seen.expect("it was looking"))
    }

    /// Rows that are read together.
    fn block_rows(&self) -> usize {
        let mut rows = block_rows(self.features);
        if self.array.header.is_column_major() {
            rows = rows.max(self.slab_rows());
        }
        rows.min(self.rows)
    }

    /// All rows, in memory.
    fn hold(mut self, fitted: &mut Option<Columns>, cancel: &Cancel) -> Result<Matrix> {
        let mut values = room(self.rows.saturating_mul(self.features))?;
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

    /// To be asked after the last row: whether the file is as it was, and digits were lost, by
    /// themselves or beside those of the first part, `fitted`.
    fn end(&mut self, fitted: &mut Option<Columns>) -> Result<()> {
        self.array.check_unchanged()?;
        let Some(seen) = self.finish.seen.take() else {
            return Ok(());
        };
        if let Some(fitted) = fitted {
            return fitted.refuse_beside(&seen, &self.array.path, of_column);
        }
        seen.settle(false, &self.array.path, of_column)?;
        *fitted = Some(seen);
        Ok(())
    }

    /// At most `most` rows that lie in the file one after another, as numbers.
    fn read_rows(&mut self, most: usize) -> Result<()> {
        let rows = (GROUP / self.features).max(1).min(most);
        let size = self.array.header.dtype.size();
        self.bytes.resize(rows * self.features * size, 0);
        self.array.read(&mut self.bytes)?;
        self.numbers.clear();
        self.array.header.decode(&self.bytes, &mut self.numbers);
        Ok(())
    }

    /// At most `most` rows whose values lie a column apart, as numbers: those of the slab, which is
    /// read when it is used up.
    fn read_columns(&mut self, most: usize) -> Result<()> {
        if !self.slab.rows.contains(&self.at) {
            self.read_slab()?;
        }
        let (features, length) = (self.features, self.slab.rows.len());
        // A line of the cache, which is fetched for every column, has the numbers of 8 rows.
        let rows = (GROUP / features).max(8.min(64 * GROUP / features)).max(1);
        let rows = rows.min(most).min(self.slab.rows.end - self.at);
        let first = self.at - self.slab.rows.start;
        self.numbers.resize(rows * features, 0.0);
        // Columns together whose rows are written as whole lines of the cache.
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

    /// Read some rows of every column, from the next row on.
    fn read_slab(&mut self) -> Result<()> {
        let size = self.array.header.dtype.size();
        let rows = self.slab_rows().min(self.rows - self.at);
        // Until all of it is read.
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

    /// Rows of a slab: of each column [`RUN`] bytes, or as many as fit into [`SLAB_BYTES`].
    fn slab_rows(&self) -> usize {
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

#[cfg(test)]
mod tests;
