//! Conversion of LIBSVM's text to a dataset. A line is `LABEL INDEX:VALUE ...`, with ascending
//! indices from 1 or 0. The rows of the dataset are dense: omitted zeros are stored.

mod full;
mod line;
mod rows;
mod spool;

use std::io;
use std::ops::Range;
use std::path::Path;

use full::FullColumns;
pub use line::{Head, MAX_FEATURES, Refusal, parse_line, whole_label};
pub use rows::LibsvmRows;
use spool::Spool;

use crate::data::checks;
use crate::data::dataset::{Manifest, NumberFormat, Prepared, TRAIN};
use crate::data::dataset_writer::{DatasetWriter, block_rows};
use crate::data::labels::{LabelEncoder, TOO_MANY};
use crate::data::source::{Part, name_of, refuse_twice};
use crate::data::text::{Text, open_text};
use crate::design::plan::available_memory;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;

/// Rows between checks of the space that the dense rows need.
const ROWS_PER_CHECK: usize = 1 << 12;
/// File name of the sparse rows, in the temporary directory of the output.
const SPOOL: &str = "rows.spool";

/// Options of the conversion of LIBSVM's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibsvmOptions {
    /// The lowest index, 0 or 1; `None` for 0 if any line has index 0, else 1.
    pub first_index: Option<u8>,
    /// Number of features; `None` to derive it from the largest index of all texts.
    pub features: Option<usize>,
    /// Subtract a number near the mean, in f64, of features whose differences f32 would lose, and
    /// store it with the data; if not set, such features are refused.
    pub center: bool,
    /// Stops the conversion when set.
    pub cancel: Option<Cancel>,
}

/// Progress of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Number of rows read since the last event.
    Read(u64),
    /// All texts have been read.
    Found(Found),
    /// Number of rows written since the last event.
    Written(u64),
}

/// Size of the texts, and of the dataset on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Rows of all parts.
    pub rows: usize,
    /// d: number of features.
    pub features: usize,
    /// Number of values in the texts; all others are 0.
    pub values: u64,
    /// The lowest index: 0 or 1.
    pub first_index: u8,
    /// Number of lines with a `qid:`, which is ignored.
    pub queries: u64,
    /// Bytes of the dense rows and their labels.
    pub bytes: u128,
    /// Bytes of the temporary file of sparse rows, which exists while the dense rows are written.
    pub spool: u64,
}

impl Found {
    /// Refuse rows that do not fit the disk; `free`: its free bytes before the conversion.
    fn refuse_beyond(&self, free: u64, out: &Path) -> Result<()> {
        let Found {
            rows,
            features,
            bytes,
            spool,
            ..
        } = self;
        if bytes + u128::from(*spool) <= u128::from(free) {
            return Ok(());
        }
        let needed = format!(
            "{rows} rows x {features} features take {bytes} bytes, and {spool} more while they \
             are written; the disk has {free}: choose an `out` on a larger disk, or select or \
             hash features before"
        );
        let source = io::Error::new(io::ErrorKind::StorageFull, needed);
        Err(Error::io(out, "write the dataset")(source))
    }
}

/// Convert texts into the dataset directory `out`, which appears complete or not at all.
///
/// Classes are the labels of all texts in numerical order; their names are the labels.
///
/// Cost: a pass over the texts and one over the sparse rows. Disk: 4 bytes per row and feature, and
/// temporarily 12 per value in the texts. Memory: three blocks of 4 MB (at least a row), and 8 bytes
/// per row.
///
/// # Errors
/// [`Error::Format`], which names file and line, for invalid text and for features whose differences
/// f32 would lose (unless `center`); [`Error::Options`] for fewer features than there are;
/// [`Error::Io`] if the disk has too little space for the rows; [`Error::Memory`],
/// [`Error::Exists`], [`Error::Locked`], [`Error::Changed`], [`Error::Interrupted`].
pub fn prepare(
    parts: &[Part],
    options: &LibsvmOptions,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Prepared> {
    refuse_options(parts, options)?;
    let sources: Vec<&Path> = parts.iter().map(|part| part.path.as_path()).collect();
    let staging = Staging::begin(out, OutputKind::Dataset, overwrite, &sources)?;
    let mut reading = Reading {
        out,
        options,
        cancel: options.cancel.clone().unwrap_or_default(),
        free: files::free_space(staging.dir()),
        spool: Spool::create(&staging.dir().join(SPOOL))?,
        encoder: LabelEncoder::default(),
        codes: Vec::new(),
        full: None,
        first: usize::MAX,
        end: 0,
        found: Found::default(),
    };
    for part in parts {
        reading.read(&part.path, progress)?;
    }
    let Reading {
        spool,
        encoder,
        codes,
        full,
        found,
        ..
    } = reading.finish()?;
    let features = found.features;
    let (names, classes) = encoder.finish()?;
    let mut labels = Vec::new();
    for (part, codes) in parts.iter().zip(codes) {
        let of_rows: Vec<i64> = codes.iter().map(|&code| classes[code as usize]).collect();
        checks::refuse_empty(&part.path, of_rows.len(), features)?;
        if part.name == TRAIN {
            checks::refuse_one_class(&part.path, &of_rows, &names)?;
        }
        labels.push(of_rows);
    }
    let first = usize::from(found.first_index);
    let shift = full.and_then(|full| full.shift(first, features));
    progress(Progress::Found(found));
    let mut manifest = Manifest::of_numbers(name_of(&parts[0].path), names, features);
    manifest.numbers = Some(NumberFormat {
        first_index: Some(found.first_index),
        shift: shift.clone(),
        ..NumberFormat::default()
    });
    if found.queries > 0 {
        let queries = format!("qid: of {} lines, which names their query", found.queries);
        manifest.left_out.push(queries);
    }
    let mut writer = DatasetWriter::new(staging, manifest, options.cancel.clone());
    let mut rows = spool.read()?;
    let shift = shift.unwrap_or_default();
    let shifted = |column: usize, value: f64| (value - shift.get(column).unwrap_or(&0.0)) as f32;
    let empty: Vec<f32> = (0..shift.len())
        .map(|column| shifted(column, 0.0))
        .collect();
    for (part, labels) in parts.iter().zip(labels) {
        let write = |range: Range<usize>, values: &mut [f32]| {
            progress(Progress::Written(range.len() as u64));
            values.fill(0.0);
            for row in values.chunks_exact_mut(features) {
                row[..empty.len()].copy_from_slice(&empty);
                rows.next(|index, value| {
                    let column = index as usize - first;
                    row[column] = shifted(column, value);
                })?;
            }
            Ok(())
        };
        writer.write_split(part.name, &part.path, labels, block_rows(features), write)?;
    }
    rows.remove()?;
    writer.publish()
}

fn refuse_options(parts: &[Part], options: &LibsvmOptions) -> Result<()> {
    if let Some(first) = options.first_index.filter(|&first| first > 1) {
        return Err(Error::options("`first_index`", first, "0 or 1"));
    }
    if let Some(features) = options.features.filter(|n| !(1..=MAX_FEATURES).contains(n)) {
        let expected = format!("1..={MAX_FEATURES}");
        return Err(Error::options("`features`", features, expected));
    }
    refuse_twice(parts.iter().map(|part| part.path.as_path()))
}

/// State while the texts are read into the spool.
struct Reading<'a> {
    out: &'a Path,
    options: &'a LibsvmOptions,
    cancel: Cancel,
    /// Free bytes of the disk, if known.
    free: Option<u64>,
    spool: Spool,
    encoder: LabelEncoder,
    /// For each part, the code of each row's label.
    codes: Vec<Vec<u32>>,
    full: Option<FullColumns>,
    /// The lowest index.
    first: usize,
    /// The largest index, plus one.
    end: usize,
    found: Found,
}

impl Reading<'_> {
    fn read(&mut self, path: &Path, progress: &dyn Fn(Progress)) -> Result<()> {
        let mut text = open_text(path, &self.cancel)?;
        let (mut codes, mut values) = (Vec::new(), Vec::new());
        let mut reported = 0;
        loop {
            values.clear();
            let mut keep = |index, value| values.push((index as u32, value));
            let Some((label, query)) = next_row(&mut text, &mut keep)? else {
                break;
            };
            if let (Some((first, _)), Some((last, _))) = (values.first(), values.last()) {
                self.first = self.first.min(*first as usize);
                self.end = self.end.max(*last as usize + 1);
            }
            self.refuse_indices(&text)?;
            let code = self.encoder.encode_number(label);
            codes.push(code.ok_or_else(|| text.refuse(label, TOO_MANY))?);
            self.spool.append(&values)?;
            let full = || FullColumns::new(&values);
            self.full.get_or_insert_with(full).observe(&values);
            self.found.values += values.len() as u64;
            self.found.queries += u64::from(query);
            if codes.len().is_multiple_of(ROWS_PER_CHECK) {
                self.found.rows += codes.len() - reported;
                progress(Progress::Read((codes.len() - reported) as u64));
                reported = codes.len();
                self.refuse_size()?;
            }
        }
        text.check_unchanged()?;
        if let Some(full) = &mut self.full {
            full.end(self.options.center, path)?;
        }
        self.found.rows += codes.len() - reported;
        progress(Progress::Read((codes.len() - reported) as u64));
        self.codes.push(codes);
        Ok(())
    }

    /// The lowest allowed index, given the rows read up to now.
    fn first_index(&self) -> usize {
        match self.options.first_index {
            Some(first) => usize::from(first),
            None => usize::from(self.first > 0),
        }
    }

    fn refuse_indices(&self, text: &Text) -> Result<()> {
        if self.first < self.first_index() {
            let expected = "indices from 1, as `first_index` says; leave it out, or give 0";
            return Err(text.refuse("index 0", expected));
        }
        match self.options.features {
            Some(features) if self.end.saturating_sub(self.first_index()) > features => {
                let found = format!("index {} beyond `features` {features}", self.end - 1);
                let needed = self.end - self.first_index();
                Err(text.refuse(found, format!("at least `features` {needed}, or none")))
            }
            _ => Ok(()),
        }
    }

    /// Refuse the rows read up to now if they exceed the disk or memory.
    fn refuse_size(&mut self) -> Result<()> {
        let features = match self.options.features {
            Some(features) => features,
            None => self.end.saturating_sub(self.first_index()),
        };
        let rows = self.found.rows;
        self.found.features = features;
        self.found.first_index = self.first_index() as u8;
        self.found.bytes = rows as u128 * (4 * features as u128 + 8);
        self.found.spool = spool::bytes(rows, self.found.values);
        if let Some(free) = self.free {
            self.found.refuse_beyond(free, self.out)?;
        }
        let labels = rows as u64 * 8;
        match available_memory().filter(|&memory| labels > memory) {
            None => Ok(()),
            Some(memory) => Err(Error::memory(
                "labels",
                format!("{rows} rows, {labels} bytes"),
                format!("at most the {memory} bytes of available memory: fewer rows"),
            )),
        }
    }

    fn finish(mut self) -> Result<Self> {
        self.refuse_size()?;
        Ok(self)
    }
}

/// Parse the next row: its label, and whether it has a `qid:`. `value` is called with each index, as
/// in the text, and value.
fn next_row(text: &mut Text, value: &mut dyn FnMut(usize, f64)) -> Result<Option<(i64, bool)>> {
    let refusal = loop {
        let Some(line) = text.next_line()? else {
            return Ok(None);
        };
        let head = parse_line(line, value);
        match head.and_then(|head| {
            head.map(|head| Ok((whole_label(head.label)?, head.query)))
                .transpose()
        }) {
            Ok(None) => {}
            Ok(row) => return Ok(row),
            Err(refusal) => break refusal,
        }
    };
    let (found, expected) = refusal;
    Err(text.refuse(found, expected))
}

#[cfg(test)]
mod tests;
