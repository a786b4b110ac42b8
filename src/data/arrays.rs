//! Conversion of arrays of other tools, `.npy` and `.npz`, to a dataset or to rows in memory.

use std::path::{Path, PathBuf};

use crate::data::array_rows::{Features, of_column};
use crate::data::columns::Columns;
use crate::data::dataset::{BYTES, MAX_CLASSES, Manifest, NumberFormat, Prepared, Split};
use crate::data::dataset_writer::DatasetWriter;
use crate::data::labels::Numbered;
use crate::data::row_reader::RowReader;
use crate::data::{checks, labels, rows};
use crate::design::plan::available_memory;
use crate::error::{Error, Result};
use crate::io::mmap::{MappedMatrix, Matrix};
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;

/// The arrays of a split: features (n x d) and labels (n).
#[derive(Clone, Debug)]
pub struct ArrayPart {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// Features: `FILE.npy`, `FILE.npz` or `FILE.npz:NAME`, of bool, whole numbers or floats.
    pub x: PathBuf,
    /// Labels, from the same kinds of files: whole numbers or text.
    pub y: PathBuf,
}

/// Options of the conversion of arrays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayOptions {
    /// The label of the first class: 0 or 1.
    pub labels_from: u8,
    /// Subtract a number near the mean of the first part from each column whose differences f32
    /// would lose, instead of refusing it.
    pub center: bool,
    /// Stops the conversion when set.
    pub cancel: Option<Cancel>,
}

/// Rows for a fit without a dataset, in memory or mapped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The split of each part.
    pub splits: Vec<Split>,
    /// Names of the classes; empty if labels are numbers from 0.
    pub class_names: Vec<String>,
    /// How numbers were converted to features.
    pub numbers: NumberFormat,
}

/// Convert arrays into the dataset directory `out`, which appears complete or not at all.
///
/// The first part is the training split. Numbers are rounded to f32; bytes (`|u1`) are pixels and
/// are divided by 255. `progress` is called with the number of rows done since its last call.
///
/// Cost: a pass over the files, with `center` another over the first, and hashing and writing.
/// Memory: three blocks of 4 MB (at least a row), and the labels; for an array in Fortran order
/// 64 MB and blocks of up to 32 MB, and all of it if it is compressed.
///
/// # Errors
/// [`Error::Format`] for arrays of different shapes or types, invalid labels, a single class,
/// values that are beyond 10¹⁵ or not numbers, and columns whose differences f32 would lose (unless
/// `center`); [`Error::Exists`], [`Error::Locked`], [`Error::Npy`], [`Error::Changed`],
/// [`Error::Io`], [`Error::Interrupted`].
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
    let mut manifest = Manifest::of_numbers(source, names, readers[0].features());
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

/// Load rows for a fit without a dataset. `<f4` features in C order are mapped, others are converted
/// in memory. `forecast` is called with the bytes of each conversion, before it allocates them.
///
/// # Errors
/// As [`prepare`]; [`Error::Memory`] for arrays that exceed the available memory.
pub fn load(
    parts: &[ArrayPart],
    options: &ArrayOptions,
    forecast: &dyn Fn(&Path, u64),
) -> Result<Loaded> {
    let cancel = options.cancel.clone().unwrap_or_default();
    let most = match options.labels_from {
        0 => i64::from(u32::MAX),
        _ => MAX_CLASSES as i64, // Each class gets a name.
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
            "at most the {memory} bytes of available memory: flowreg-prep npy converts them to a \
             dataset, which is mapped"
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

/// The file of `FILE.npz:NAME`, or of a plain path.
pub fn file(path: &Path) -> PathBuf {
    #[cfg(feature = "formats")]
    return crate::data::npz::locate(path).0;
    #[cfg(not(feature = "formats"))]
    path.to_path_buf()
}

/// The open and checked parts.
struct Opened {
    features: Vec<Features>,
    /// Statistics of the first part's columns, if other parts are to be compared with them.
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
            let expected = "rows of one dataset: give the dataset, or the numbers from which it \
                            was made";
            return Err(Error::format(&parts[other].x, "numbers", found, expected));
        }
        // Rows of a dataset are not converted again; the model gets their format.
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
            // Collected during the first part's conversion, before the others are read.
            features[0].finish.seen = Some(Columns::new(columns));
        } else if may_lose.contains(&true) {
            let cancel = options.cancel.clone().unwrap_or_default();
            let seen = features[0].statistics(&cancel)?;
            if may_lose[0] {
                numbers.shift = seen.shift_or_refuse(true, &features[0].array.path, of_column)?;
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

#[cfg(test)]
mod tests;
