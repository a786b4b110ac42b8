//! Reader of text tables with a header: comma-, semicolon- or tab-separated values. Fields are split
//! by the `csv` crate.
//!
//! The first line names the columns; one may be the label, all others are features. Quotes, CRLF and a
//! byte-order mark are supported. `True` and `False`, as pandas writes them, are 1 and 0. A missing
//! value, or text that is not a number, is an error that names line and column.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};

use crate::data::checks;
use crate::data::columns::Columns;
use crate::data::csv_quotes::Records;
use crate::data::dataset::{Manifest, NumberFormat, Prepared};
use crate::data::dataset_writer::{DatasetWriter, block_rows};
use crate::data::labels::{LabelEncoder, given, is_missing, shown};
use crate::data::row_reader::{Finish, RowReader};
use crate::data::source::{Part, Source, is_standard_input, name_of, refuse_twice, stopped_or};
use crate::data::text::Text;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::NewFile;
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::progress::Cancel;

/// Limit on the length of a record, in bytes of text.
const MAX_RECORD: u64 = 64 << 20;
/// Limit on the number of columns named in a message.
const NAMED: usize = 12;
/// Texts of a missing value that may also be labels.
const NO_VALUE: [&str; 4] = ["none", "nil", "?", "-"];

/// Options of the conversion of tables.
#[derive(Clone, Debug, Default)]
pub struct CsvOptions {
    /// Name of the label's column.
    pub label: String,
    /// Separator of fields; `None` to detect it in the header.
    pub delimiter: Option<u8>,
    /// As [`crate::data::arrays::ArrayOptions::center`].
    pub center: bool,
    /// Stops the conversion when set.
    pub cancel: Option<Cancel>,
}

/// Convert tables into the dataset directory `out`, which appears complete or not at all.
///
/// The first part is the training split. Features are all columns but the label, in the order of the
/// first table; the other tables have the same columns in any order. Classes are the labels of all
/// tables: in numerical order if all are whole numbers, False and True if all are truth values, else
/// in the order of their names. `progress` is called with the number of rows written since its last
/// call.
///
/// Cost: two passes over the tables; rows are written and hashed during the second. Memory: three
/// blocks of 4 MB (at least a row), 4 bytes per row, and the names.
///
/// # Errors
/// [`Error::Format`], which names file, line and column, for an invalid value; for columns whose
/// differences f32 would lose (unless `center`), and for a single class; [`Error::Exists`],
/// [`Error::Locked`], [`Error::Changed`], [`Error::Io`], [`Error::Interrupted`].
pub fn prepare(
    parts: &[Part],
    options: &CsvOptions,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let sources: Vec<&Path> = parts.iter().map(|part| part.path.as_path()).collect();
    refuse_twice(sources.iter().copied())?;
    let staging = Staging::begin(out, OutputKind::Dataset, overwrite, &sources)?;
    let mut format = NumberFormat {
        delimiter: options.delimiter.map(char::from),
        ..NumberFormat::default()
    };
    let cancel = options.cancel.clone().unwrap_or_default();
    let mut encoder = LabelEncoder::default();
    let (mut scanned, mut fitted) = (Vec::new(), None::<Columns>);
    let open = |part: &Part, source: &Source, format: &NumberFormat| {
        let text = Text::of(source.again()?)?;
        let label = Some(options.label.as_str());
        Table::of_text(&part.path, text, label, options.delimiter, format)
    };
    for part in parts {
        let source = seekable(part, staging.dir(), &cancel)?;
        let mut table = open(part, &source, &format)?;
        format.columns = Some(table.columns.clone());
        table.finish = Finish::observe_only(table.features(), format.shift.as_deref());
        let mut row = vec![0.0; table.features()];
        let mut codes = Vec::new();
        while table.read(&mut row)? > 0 {
            let field = || format!("line {}, the label", table.line);
            codes.push(encoder.encode(&part.path, field, table.label_field())?);
        }
        checks::refuse_empty(&part.path, codes.len(), table.features())?;
        if let Some(seen) = table.finish.seen.take() {
            let name = |j: usize| format!("column {:?}", table.columns[j]);
            if let Some(fitted) = &fitted {
                fitted.refuse_other_split(&seen, &part.path, name)?;
            } else {
                format.shift = seen.shift_or_refuse(options.center, &part.path, name)?;
                fitted = Some(seen);
            }
        }
        scanned.push((part, codes, source));
    }
    let (names, classes) = encoder.finish()?;
    let features = format.columns.as_ref().map_or(0, Vec::len);
    let manifest = Manifest::of_numbers(name_of(&parts[0].path), names, features);
    let mut writer = DatasetWriter::new(staging, manifest, Some(cancel));
    for (part, codes, source) in scanned {
        let labels: Vec<i64> = codes.iter().map(|&code| classes[code as usize]).collect();
        let mut table = open(part, &source, &format)?;
        let mut left = labels.len();
        let fill = |rows: Range<usize>, values: &mut [f32]| {
            progress(rows.len() as u64);
            left -= table.read(values)?;
            Ok(())
        };
        writer.write_split(part.name, &part.path, labels, block_rows(features), fill)?;
        table.check_unchanged()?;
        if left > 0 {
            let (path, what) = (part.path.clone(), "it was written to".to_string());
            return Err(Error::Changed { path, what });
        }
        if source.path() != part.path {
            files::remove_file(source.path())?;
        }
    }
    writer.manifest.numbers = Some(format);
    writer.publish()
}

/// A part's input that can be read twice: its file, or a copy of its pipe in the temporary directory
/// `dir`.
fn seekable(part: &Part, dir: &Path, cancel: &Cancel) -> Result<Source> {
    let source = Source::open(&part.path, cancel)?;
    if source.is_file() && !is_standard_input(&part.path) {
        return Ok(source);
    }
    let path = dir.join(format!("{}.text", part.name));
    let mut file = NewFile::create(&path)?;
    let mut from = source.into_reader();
    let mut piece = vec![0; 1 << 18];
    loop {
        cancel.check()?;
        let failed = |error| stopped_or(cancel, error, Error::io(&part.path, "read"));
        match from.read(&mut piece).map_err(failed)? {
            0 => return Source::open(&path, cancel),
            read => file.append(&piece[..read])?,
        }
    }
}

/// Reader of a table with a header.
pub struct Table {
    path: PathBuf,
    /// Names of the features, in the order of the rows.
    columns: Vec<String>,
    /// The feature of each field of a record; `None` for the label.
    features: Vec<Option<usize>>,
    reader: csv::Reader<Bounded>,
    record: ByteRecord,
    line: u64,
    labels: Vec<Option<String>>,
    /// The error that ended reading; returned after the rows before it.
    ended: Option<Error>,
    finish: Finish,
}

impl Table {
    /// Read the header of a table. Features are the columns that the format names, in its order; if it
    /// names none, all columns but the label. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Format`] for a header without the label, with an empty name or a name twice, or with
    /// other columns than the format; [`Error::Io`].
    pub fn of_text(
        path: &Path,
        mut text: Text,
        label: Option<&str>,
        delimiter: Option<u8>,
        format: &NumberFormat,
    ) -> Result<Table> {
        let start = text.peek(|bytes| bytes.contains(&b'\n'))?;
        let delimiter = delimiter.unwrap_or_else(|| delimiter_of(start));
        let bounded = Bounded {
            from: text,
            read: 0,
            records: Records::new(delimiter),
        };
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(bounded);
        let mut record = ByteRecord::new();
        next_record(path, &mut reader, &mut record)?;
        let names = header(path, &record)?;
        let label_at = label.map(|label| place_of_label(path, &names, label, delimiter));
        let label_at = label_at.transpose()?;
        let (columns, features) = features(path, &names, label_at, format.columns.as_deref())?;
        Ok(Table {
            path: path.to_path_buf(),
            columns,
            features,
            reader,
            record,
            line: 1,
            labels: Vec::new(),
            ended: None,
            finish: Finish::of_numbers(format),
        })
    }

    /// See [`Finish::refusing_copies`].
    #[cfg(feature = "cli")]
    pub(crate) fn refusing_copies(self) -> Table {
        let finish = self.finish.refusing_copies();
        Table { finish, ..self }
    }

    /// Names of the features, in order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Check that the file has not been written to since it was opened.
    fn check_unchanged(&self) -> Result<()> {
        self.reader.get_ref().from.check_unchanged()
    }

    /// Read the next record; false at the end.
    fn next(&mut self) -> Result<bool> {
        let line = next_record(&self.path, &mut self.reader, &mut self.record)?;
        self.line = line.unwrap_or(self.line);
        Ok(line.is_some())
    }

    /// Convert the record: its features to `row`, its label to `labels`.
    fn fill(&mut self, row: &mut [f32]) -> Result<()> {
        let refuse = |field: String, found: String, expected: &str| {
            Error::format(
                &self.path,
                format!("line {}{field}", self.line),
                found,
                expected,
            )
        };
        if self.record.len() != self.features.len() {
            let found = format!("{} fields", self.record.len());
            let expected = format!("{} as the header has", self.features.len());
            return Err(refuse(String::new(), found, &expected));
        }
        for (text, &feature) in self.record.iter().zip(&self.features) {
            let Some(feature) = feature else {
                self.labels.push(given(text));
                continue;
            };
            let text = text.trim_ascii();
            let value = number(text).ok_or_else(|| no_number(text));
            let value = value.and_then(|value| self.finish.value(feature, value));
            row[feature] = value.map_err(|expected| {
                refuse(
                    format!(", column {:?}", self.columns[feature]),
                    shown(text),
                    expected,
                )
            })?;
        }
        Ok(())
    }

    fn has_labels(&self) -> bool {
        self.features.contains(&None)
    }

    /// The field of the label in the record that was read last.
    fn label_field(&self) -> &[u8] {
        let at = self.features.iter().position(Option::is_none);
        at.and_then(|at| self.record.get(at)).unwrap_or_default()
    }
}

impl RowReader for Table {
    fn features(&self) -> usize {
        self.columns.len()
    }

    fn rows(&self) -> Option<usize> {
        None
    }

    fn read_each(
        &mut self,
        values: &mut [f32],
        refuse: &mut dyn FnMut(usize, Error),
    ) -> Result<usize> {
        self.reader.get_ref().from.cancel().check()?;
        self.labels.clear();
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        let mut rows = 0;
        for row in values.chunks_exact_mut(self.columns.len()) {
            match self.next() {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = self.check_unchanged().err();
                    break;
                }
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            }
            if let Err(error) = self.fill(row) {
                refuse(rows, error);
            }
            rows += 1;
            if self.has_labels() {
                self.labels.resize(rows, None);
            }
        }
        let name = |column: usize| format!("column {:?}", self.columns[column]);
        self.finish.refuse_copies(&self.path, name)?;
        match self.ended.take_if(|_| rows == 0) {
            Some(error) => Err(error),
            None => Ok(rows),
        }
    }

    fn labels(&self) -> &[Option<String>] {
        &self.labels
    }
}

/// The most frequent of comma, semicolon and tab in the header, outside of quotes.
fn delimiter_of(start: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for &byte in start
        .iter()
        .take_while(|&&byte| !matches!(byte, b'\n' | b'\r'))
    {
        quoted ^= byte == b'"';
        for (delimiter, count) in &mut counts {
            *count += usize::from(byte == *delimiter && !quoted);
        }
    }
    // The first of several with the same count.
    let most = counts.iter().rev().max_by_key(|(_, count)| *count);
    most.map_or(b',', |(delimiter, _)| *delimiter)
}

/// The names of the columns.
fn header(path: &Path, record: &ByteRecord) -> Result<Vec<String>> {
    let bad = |found: String, expected: &str| Err(Error::format(path, "header", found, expected));
    let mut names: Vec<String> = Vec::new();
    for (i, name) in record.iter().map(<[u8]>::trim_ascii).enumerate() {
        let Ok(name) = std::str::from_utf8(name) else {
            let found = format!("{:?}, which is not UTF-8", String::from_utf8_lossy(name));
            return bad(found, "names of columns in UTF-8; save the table in UTF-8");
        };
        if name.is_empty() {
            let found = format!("no name for column {}", i + 1);
            let expected =
                "a name for each column (pandas writes its index without one: to_csv(index=False))";
            return bad(found, expected);
        }
        names.push(name.to_string());
    }
    if names.is_empty() {
        return bad("nothing".to_string(), "a line that names the columns");
    }
    if names.iter().all(|name| number(name.as_bytes()).is_some()) {
        let found = format!("numbers only ({})", listed(&names));
        return bad(found, "a first line that names the columns");
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let found = format!("the column {:?} twice", twice[0]);
        return bad(found, "each name once; rename or leave out one of them");
    }
    Ok(names)
}

fn place_of_label(path: &Path, names: &[String], label: &str, delimiter: u8) -> Result<usize> {
    let at = names.iter().position(|name| name == label.trim());
    at.ok_or_else(|| {
        let hint = match names.len() {
            1 => format!(
                ", separated by {:?} (`delimiter` names another)",
                char::from(delimiter)
            ),
            _ => String::new(),
        };
        let found = format!("the columns {}{hint}", listed(names));
        Error::format(
            path,
            "header",
            found,
            format!("a column {label:?}, the label"),
        )
    })
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", ..." } else { "" };
    let first = names.iter().take(NAMED).map(String::as_str);
    first.collect::<Vec<_>>().join(", ") + more
}

/// Names of the features, and the feature of each column.
fn features(
    path: &Path,
    names: &[String],
    label: Option<usize>,
    wanted: Option<&[String]>,
) -> Result<(Vec<String>, Vec<Option<usize>>)> {
    let others = || names.iter().enumerate().filter(|(i, _)| Some(*i) != label);
    let all: Vec<String> = others().map(|(_, name)| name.clone()).collect();
    if all.is_empty() {
        let expected = "at least one column besides the label";
        return Err(Error::format(path, "header", "no features", expected));
    }
    let columns = wanted.map_or(all, <[String]>::to_vec);
    let place: HashMap<&str, usize> = (columns.iter().enumerate())
        .map(|(place, name)| (name.as_str(), place))
        .collect();
    let mut missing = vec![true; columns.len()];
    let mut features = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if Some(i) == label {
            features.push(None);
            continue;
        }
        let Some(&feature) = place.get(name.as_str()) else {
            let found = format!("the column {name:?}");
            let expected = format!(
                "only the columns of the fitted rows: {}; leave it out{}",
                listed(&columns),
                match label {
                    Some(_) => "",
                    None => ", or give `label` if it is the label",
                }
            );
            return Err(Error::format(path, "header", found, expected));
        };
        missing[feature] = false;
        features.push(Some(feature));
    }
    if let Some(missing) = missing.iter().position(|&missing| missing) {
        let found = format!("no column {:?}", columns[missing]);
        let expected = format!("all columns of the fitted rows: {}", listed(&columns));
        return Err(Error::format(path, "header", found, expected));
    }
    Ok((columns, features))
}

/// Parse a number or truth value.
fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    match text {
        "True" | "true" | "TRUE" => Some(1.0),
        "False" | "false" | "FALSE" => Some(0.0),
        // NaN and infinities are parsed, and refused later with a better message.
        _ => text.parse().ok(),
    }
}

/// Advice for a text that is not a number.
fn no_number(text: &[u8]) -> &'static str {
    match std::str::from_utf8(text) {
        Ok(text)
            if is_missing(text) || NO_VALUE.iter().any(|word| text.eq_ignore_ascii_case(word)) =>
        {
            "a number; fill in or drop missing values"
        }
        _ => "a number such as -1.5 or 2e-3; leave out the column, or replace its text by numbers",
    }
}

/// Read the next record. Returns the line in which it begins; `None` at the end.
fn next_record(
    path: &Path,
    reader: &mut csv::Reader<Bounded>,
    record: &mut ByteRecord,
) -> Result<Option<u64>> {
    reader.get_mut().read = 0;
    let more = reader.read_byte_record(record);
    let records = &mut reader.get_mut().records;
    let quote = records.open_quote();
    let more = more.map_err(|error| of_csv(path, error, quote, &reader.get_ref().from))?;
    let records = &mut reader.get_mut().records;
    more.then(|| records.next(path)).transpose()
}

/// The error for a record; `quote` is the line of an open quote.
fn of_csv(path: &Path, error: csv::Error, quote: Option<u64>, text: &Text) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.kind() == TOO_LONG => match quote {
            None => Error::format(path, "record", source, "records of at most 64 MiB"),
            Some(line) => {
                let expected = "records of at most 64 MiB; is the quote that opens here closed?";
                Error::format(path, format!("line {line}"), source, expected)
            }
        },
        csv::ErrorKind::Io(source) => text.error(source),
        other => Error::format(
            path,
            "record",
            format!("{other:?}"),
            "comma-separated values",
        ),
    }
}

/// Kind of the error for a record that is too long.
const TOO_LONG: io::ErrorKind = io::ErrorKind::FileTooLarge;

/// A reader that limits the length of a record.
struct Bounded {
    from: Text,
    /// Number of bytes read since the record began.
    read: u64,
    records: Records,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.read > MAX_RECORD {
            let error = "a longer record";
            return Err(io::Error::new(TOO_LONG, error));
        }
        let read = self.from.read(into)?;
        self.read += read as u64;
        self.records.feed(&into[..read]);
        Ok(read)
    }
}
