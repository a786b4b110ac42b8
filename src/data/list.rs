//! Lists of pictures: CSV with a path, a label and optionally a split in each line.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};
use rayon::prelude::*;

use crate::data::checks;
use crate::data::csv_quotes::Records;
use crate::data::dataset::TRAIN;
use crate::data::folder::{Class, Found, Shares, drawn, source, usual_split};
use crate::data::labels::LabelEncoder;
use crate::data::photographs::{Photograph, PhotographSplit, Photographs};
use crate::error::{Error, Result};
use crate::io::files;

/// Names of the columns in a header.
const PATH: [&str; 7] = [
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
];
const LABEL: [&str; 2] = ["label", "class"];
const SPLIT: [&str; 1] = ["split"];
/// Names of the splits, in the order in which they are prepared.
const SPLITS: [&str; 3] = ["train", "val", "test"];
/// Limit on the length of a list, in bytes.
const MAX_LIST: u64 = 256 << 20;
/// Limit on the length of a path, in bytes: that of Linux.
const MAX_PATH: usize = 4096;

/// A row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its line, from 1.
    pub line: u64,
    /// The path in the list, without the spaces around it.
    pub path: PathBuf,
    /// The path with the spaces around it, if there are any; preferred if that file exists.
    pub spaced: Option<PathBuf>,
    /// The text of its label, without the spaces around it.
    pub label: String,
    /// Its split: `train`, `val` or `test`.
    pub split: Option<&'static str>,
}

/// Read a list of photographs.
///
/// Columns are path, label and optionally split, separated by commas and quoted as in RFC 4180. A
/// header (path, file, filename or image; label or class; split) allows another order and more
/// columns, which are ignored. Paths are relative to `root`, or to the list's folder. Classes are in
/// numerical order if all labels are whole numbers, False and True if all are truth values, else in
/// the order of the names' bytes. Without a column of splits each class is split by `shares`.
///
/// Without `skip_bad` this checks that every file exists, so that the error for a wrong path names
/// the line.
///
/// # Errors
/// [`Error::Options`] for shares that leave no training rows; [`Error::Format`], with the line, for an
/// invalid list, a file that is missing or listed twice, an unknown split, and a class without rows in
/// `train`; [`Error::Io`].
pub fn open(list: &Path, root: Option<&Path>, shares: Shares, skip_bad: bool) -> Result<Found> {
    shares.check()?;
    let bytes = files::read_stream(list, "open the list", MAX_LIST)?;
    let mut encoder = LabelEncoder::default();
    let (entries, codes, left_out) = read(list, &bytes, &mut encoder)?;
    let root = root.unwrap_or_else(|| files::parent_of(list));
    let mut photographs = Vec::new();
    let mut lines = HashMap::new();
    // In parallel, because on a network file system most of the time is latency.
    let checked: Vec<(&Path, PathBuf, Option<String>)> = (entries.par_iter())
        .map(|entry| {
            let spaced = (entry.spaced.as_deref()).filter(|spaced| root.join(spaced).exists());
            let name = spaced.unwrap_or(&entry.path);
            let path = root.join(name);
            let is_skipped = skip_bad && !may_be_header(entry, &entries);
            let problem = if is_skipped { None } else { problem(&path) };
            (name, path, problem)
        })
        .collect();
    for (entry, (name, path, problem)) in entries.iter().zip(checked) {
        if let Some(first) = lines.insert(path.clone(), entry.line) {
            let found = format!("{}, which line {first} has", entry.path.display());
            return Err(refusal(list, entry.line, found, "each file once"));
        }
        if let Some(problem) = problem {
            let found = format!("{}: {problem}", path.display());
            let header = match entry.line {
                1 => " (a header has the columns path, label and optionally split)",
                _ => "",
            };
            let expected = format!(
                "a picture{header}; paths are relative to `root` or else to the list's folder; \
                 `skip_bad` leaves out what cannot be read"
            );
            return Err(refusal(list, entry.line, found, expected));
        }
        photographs.push(Photograph {
            name: name.display().to_string(),
            path,
            bytes: None,
        });
    }

    let (class_names, classes) = encoder.finish()?;
    let labels: Vec<u32> = codes
        .iter()
        .map(|&code| classes[code as usize] as u32)
        .collect();
    checks::refuse_one_class(list, &labels, &class_names)?;
    let has_splits = entries.iter().any(|entry| entry.split.is_some());
    if has_splits {
        check_train(list, &entries, &class_names, &labels)?;
    }
    let rows = photographs.into_iter().zip(labels);
    let (splits_by, splits) = if has_splits {
        let mut splits = SPLITS.map(|name| PhotographSplit {
            name: name.to_string(),
            rows: Vec::new(),
        });
        for (entry, row) in entries.iter().zip(rows) {
            let split = SPLITS.iter().position(|split| entry.split == Some(split));
            splits[split.unwrap_or(0)].rows.push(row);
        }
        let splits = splits.into_iter().filter(|split| !split.rows.is_empty());
        ("splits by its column".to_string(), splits.collect())
    } else {
        let named = class_names.iter().map(|name| (name.clone(), Vec::new()));
        let mut classes: Vec<Class> = named.collect();
        for (photograph, label) in rows {
            classes[label as usize].1.push(photograph);
        }
        (shares.to_string(), drawn(classes, shares))
    };
    let (pictures, classes) = (entries.len(), class_names.len());
    Ok(Found {
        photographs: Photographs {
            source: source(list),
            root: list.to_path_buf(),
            left_out,
            class_names,
            splits,
        },
        layout: format!("list: {pictures} pictures of {classes} classes; {splits_by}"),
    })
}

/// Whether a row may be a header with unknown column names: the first line, if no other row has its
/// label.
fn may_be_header(entry: &Entry, entries: &[Entry]) -> bool {
    let mut others = entries.iter().filter(|other| other.line != entry.line);
    entry.line == 1 && others.all(|other| other.label != entry.label)
}

/// Why a path cannot be read; `None` if it may be.
fn problem(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Some("a folder".to_string()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Refuse a class without rows in `train`.
fn check_train(
    list: &Path,
    entries: &[Entry],
    class_names: &[String],
    labels: &[u32],
) -> Result<()> {
    let mut in_train = vec![false; class_names.len()];
    let mut first = vec![0; class_names.len()];
    for (entry, &label) in entries.iter().zip(labels) {
        let label = label as usize;
        in_train[label] |= entry.split == Some(TRAIN);
        if first[label] == 0 {
            first[label] = entry.line;
        }
    }
    match in_train.iter().position(|there| !there) {
        None => Ok(()),
        Some(class) => {
            let line = format!("line {}", first[class]);
            let remedy = "change the split of some rows, or remove them";
            Err(checks::untrained(list, line, &class_names[class], remedy))
        }
    }
}

/// Parse a list: its rows, and a sentence for each kind of ignored data. The path is for messages; no
/// file is read.
///
/// Spaces around a field and empty lines are ignored. Memory: a few times the length of the list.
///
/// # Errors
/// [`Error::Format`], with the line.
pub fn parse(list: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, Vec<String>)> {
    let (entries, _, left_out) = read(list, bytes, &mut LabelEncoder::default())?;
    Ok((entries, left_out))
}

/// [`parse`], with the code of each row's label.
fn read(
    list: &Path,
    bytes: &[u8],
    encoder: &mut LabelEncoder,
) -> Result<(Vec<Entry>, Vec<u32>, Vec<String>)> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut record = ByteRecord::new();
    let mut records = Records::new(b',');
    records.feed(bytes);
    let mut columns: Option<Columns> = None;
    let mut left_out = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    let mut codes = Vec::new();
    loop {
        let more = reader.read_byte_record(&mut record);
        if !more.map_err(|error| Error::format(list, "csv", error, "a list in CSV"))? {
            break;
        }
        let line = records.next(list)?;
        let written = record.clone();
        record.trim();
        if record.iter().all(<[u8]>::is_empty) {
            continue;
        }
        let columns = match &columns {
            Some(columns) => columns,
            None => {
                let header = Columns::of_header(list, line, &record)?;
                let is_header = header.is_some();
                let of = header.unwrap_or_else(|| Columns::without_header(record.len()));
                left_out.extend(of.left_out(&record).filter(|_| is_header));
                let of = columns.insert(of);
                if is_header {
                    continue;
                }
                of
            }
        };
        if record.len() != columns.count {
            let found = format!("{} field(s)", record.len());
            let expected = if entries.is_empty() {
                "a path, a label and optionally a split, separated by commas".to_string()
            } else {
                format!("{} as before; quote fields that have commas", columns.count)
            };
            return Err(refusal(list, line, found, expected));
        }
        let mut entry = columns.entry(list, line, &record)?;
        let spaced = Some(&written[columns.path]).filter(|spaced| **spaced != record[columns.path]);
        entry.spaced = spaced.map(path_of);
        entries.push(entry);
        let field = || format!("line {line}, the label");
        codes.push(encoder.encode(list, field, &written[columns.label])?);
    }
    checks::refuse_empty(list, entries.len(), 1)?;
    let split = entries.iter().filter(|entry| entry.split.is_some()).count();
    if let Some(without) = (entries.iter()).find(|entry| split > 0 && entry.split.is_none()) {
        let found = "no split";
        let expected = "train, val or test, as other lines have";
        return Err(refusal(list, without.line, found, expected));
    }
    Ok((entries, codes, left_out))
}

/// The places of the columns of a list.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
    count: usize,
}

impl Columns {
    /// The columns by a header; `None` if the line is not one.
    fn of_header(list: &Path, line: u64, record: &ByteRecord) -> Result<Option<Columns>> {
        let names: Vec<String> = (record.iter())
            .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect();
        let place = |known: &[&str]| {
            let mut places = (0..names.len()).filter(|&i| known.contains(&names[i].as_str()));
            match (places.next(), places.next()) {
                (Some(a), Some(b)) => {
                    let found = format!("the columns {} and {}", names[a], names[b]);
                    Err(refusal(list, line, found, "one of them; rename the other"))
                }
                (first, _) => Ok(first),
            }
        };
        let (path, label, split) = (place(&PATH)?, place(&LABEL)?, place(&SPLIT)?);
        Ok(path.zip(label).map(|(path, label)| Columns {
            path,
            label,
            split,
            count: names.len(),
        }))
    }

    /// Path, label and split, in this order.
    fn without_header(fields: usize) -> Columns {
        Columns {
            path: 0,
            label: 1,
            split: (fields >= 3).then_some(2),
            count: fields.clamp(2, 3),
        }
    }

    /// A sentence about the columns that are ignored, if there are any.
    fn left_out(&self, header: &ByteRecord) -> Option<String> {
        let read = |i: usize| i == self.path || i == self.label || Some(i) == self.split;
        let others: Vec<_> = (header.iter().enumerate())
            .filter(|(i, _)| !read(*i))
            .map(|(_, name)| match name {
                [] => "without a name".into(),
                name => String::from_utf8_lossy(name),
            })
            .collect();
        let what = match others.len() {
            0 => return None,
            1 => "column",
            _ => "columns",
        };
        Some(format!(
            "{} {what} of the list ({})",
            others.len(),
            others.join(", ")
        ))
    }

    fn entry(&self, list: &Path, line: u64, record: &ByteRecord) -> Result<Entry> {
        let path = &record[self.path];
        if path.is_empty() || path.len() > MAX_PATH || path.contains(&b'\n') {
            let found = match path {
                [] => "no path".to_string(),
                _ => format!("a path of {} bytes", path.len()),
            };
            let expected = "the path of a picture, in one line";
            return Err(refusal(list, line, found, expected));
        }
        let split = match self
            .split
            .map(|column| String::from_utf8_lossy(&record[column]))
        {
            None => None,
            Some(name) if name.is_empty() => None,
            Some(name) => Some(usual_split(&name).ok_or_else(|| {
                let expected = "train, val or test (or valid, validation, dev, training, testing)";
                refusal(list, line, format!("split {name:?}"), expected)
            })?),
        };
        Ok(Entry {
            line,
            path: path_of(path),
            spaced: None,
            label: String::from_utf8_lossy(&record[self.label]).into_owned(),
            split,
        })
    }
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

fn refusal(list: &Path, line: u64, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::format(list, format!("line {line}"), found, expected)
}

#[cfg(test)]
mod tests;
