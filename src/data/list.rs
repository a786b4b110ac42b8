//! Pictures and their labels in a list: CSV with a path, a label and perhaps a split in each line.

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
/// Longest list, in bytes.
const MAX_LIST: u64 = 256 << 20;
/// Longest path, in bytes: that of Linux.
const MAX_PATH: usize = 4096;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its line, from 1.
    pub line: u64,
    /// The picture, as the list names it between spaces.
    pub path: PathBuf,
    /// The same with the spaces around it, if it has any: a file of that name comes first.
    pub spaced: Option<PathBuf>,
    /// Its class, as it is written between spaces.
    pub label: String,
    /// Its split: `train`, `val` or `test`.
    pub split: Option<&'static str>,
}

/// Read a list of photographs.
///
/// Columns are path, label and, if there is one, split, separated by commas and quoted as in
/// RFC 4180; a first line that names them (path, file, filename or image; label or class; split)
/// may give another order and more columns, which are left out. Paths are relative to `root`, or
/// to the list's own folder. If all labels are whole numbers, classes are in numeric order, if all
/// are truth values False and True, else in the order of the names' bytes. Without a column of
/// splits each class is divided by `shares`.
///
/// Unless `skip_bad` says that photographs that cannot be used are left out, every file is looked
/// for now, so that a wrong path is named with its line.
///
/// # Errors
/// [`Error::Options`] for shares that leave nothing to train on; [`Error::Format`], with the line,
/// for what is no list, a file that is missing or comes twice, an unknown split, a class that
/// `train` lacks; [`Error::Io`].
pub fn open(list: &Path, root: Option<&Path>, shares: Shares, skip_bad: bool) -> Result<Found> {
    shares.check()?;
    let bytes = files::read_stream(list, "open the list", MAX_LIST)?;
    let mut encoder = LabelEncoder::default();
    let (entries, codes, left_out) = read(list, &bytes, &mut encoder)?;
    let root = root.unwrap_or_else(|| files::parent_of(list));
    let mut photographs = Vec::new();
    let mut lines = HashMap::new();
    // Where files are far away, most of the time is waiting for them.
    let looked: Vec<(&Path, PathBuf, Option<String>)> = (entries.par_iter())
        .map(|entry| {
            let spaced = (entry.spaced.as_deref()).filter(|spaced| root.join(spaced).exists());
            let name = spaced.unwrap_or(&entry.path);
            let path = root.join(name);
            let is_skipped = skip_bad && !may_be_header(entry, &entries);
            let problem = if is_skipped { None } else { problem(&path) };
            (name, path, problem)
        })
        .collect();
    for (entry, (name, path, problem)) in entries.iter().zip(looked) {
        if let Some(first) = lines.insert(path.clone(), entry.line) {
            let found = format!("{}, which line {first} has", entry.path.display());
            return Err(refusal(list, entry.line, found, "each file once"));
        }
        if let Some(problem) = problem {
            let found = format!("{}: {problem}", path.display());
            let header = match entry.line {
                1 => " (a line of column names has path, label and perhaps split)",
                _ => "",
            };
            let expected = format!(
                "a picture{header}; paths are relative to --root or else to the list's folder; \
                 --skip-bad leaves out what cannot be read"
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
        ("splits as it says".to_string(), splits.collect())
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

/// Whether a row may be a line of column names that are not known: the first line, whose label is
/// that of no other row.
fn may_be_header(entry: &Entry, entries: &[Entry]) -> bool {
    let mut others = entries.iter().filter(|other| other.line != entry.line);
    entry.line == 1 && others.all(|other| other.label != entry.label)
}

/// Why nothing can be read of a path.
fn problem(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Some("a folder".to_string()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Refuse a class of which no row is in train.
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
            let remedy = "change the split of some rows, or take them out";
            Err(checks::untrained(list, line, &class_names[class], remedy))
        }
    }
}

/// The rows of a list, and what of it is left out, a sentence each. The path of the list is for
/// messages; no other file is looked at.
///
/// Spaces around a field and empty lines do not count, unless a file has such a name. Memory: a few times the bytes of the list.
///
/// # Errors
/// [`Error::Format`] with the line.
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
            let expected = match entries.is_empty() {
                true => "a path and a label, and perhaps a split, with commas between".to_string(),
                false => format!("{} as before; quote fields that have commas", columns.count),
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

/// Where the fields of a list are.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
    count: usize,
}

impl Columns {
    /// By a line of names; None if it is a row.
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

    /// Path, label, split.
    fn without_header(fields: usize) -> Columns {
        Columns {
            path: 0,
            label: 1,
            split: (fields >= 3).then_some(2),
            count: fields.clamp(2, 3),
        }
    }

    /// What of these names is not read.
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
mod tests {
    use super::*;
    use crate::data::labels::LabelValue;
    use csv::{QuoteStyle, Terminator, WriterBuilder};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SHARES: Shares = Shares {
        val: 0.0,
        test: 0.0,
        seed: 0,
    };

    /// Line, path, label and split.
    type Row = (u64, String, String, Option<&'static str>);

    fn parsed(text: &[u8]) -> std::result::Result<Vec<Row>, String> {
        let (entries, _) = parse(Path::new("l.csv"), text).map_err(|error| error.to_string())?;
        let row = |entry: Entry| {
            (
                entry.line,
                entry.path.display().to_string(),
                entry.label,
                entry.split,
            )
        };
        Ok(entries.into_iter().map(row).collect())
    }

    #[test]
    fn headers_quotes_and_line_ends() {
        let row = |line, path: &str, label: &str, split| {
            (line, path.to_string(), label.to_string(), split)
        };
        let plain = || vec![row(1, "a.jpg", "rose", None), row(2, "b.jpg", "lily", None)];
        let second = |split| {
            vec![
                row(2, "a.jpg", "rose", split),
                row(3, "b.jpg", "lily", split),
            ]
        };
        for (text, expected) in [
            (&b"a.jpg,rose\nb.jpg,lily\n"[..], plain()),
            (b"a.jpg,rose\r\nb.jpg,lily", plain()),
            (b"a.jpg,rose\rb.jpg,lily\r", plain()),
            (
                b"\n\r\npath,label\r\n\r\na.jpg,rose\r\n",
                vec![row(5, "a.jpg", "rose", None)],
            ),
            (b"\xef\xbb\xbfa.jpg,rose\r\nb.jpg , lily \n", plain()),
            (b"path,label\na.jpg,rose\nb.jpg,lily\n", second(None)),
            (
                b"\xef\xbb\xbfFilename, Class \na.jpg,rose\nb.jpg,lily\n\n",
                second(None),
            ),
            (
                b"label,width,image\nrose,1,a.jpg\nlily,2,b.jpg\n",
                second(None),
            ),
            (
                b"split,file,label\nTest,a.jpg,rose\ntesting,b.jpg,lily\n",
                second(Some("test")),
            ),
            (
                b"path,label,split\na.jpg,rose,\nb.jpg,lily,\n",
                second(None),
            ),
            (
                b"a.jpg,rose,train\n b.jpg,lily,dev\n",
                vec![
                    row(1, "a.jpg", "rose", Some("train")),
                    row(2, "b.jpg", "lily", Some("val")),
                ],
            ),
            (
                b"\"a, \"\"b\"\".jpg\",\"x\ny\"\nb.jpg,z\n",
                vec![
                    row(1, "a, \"b\".jpg", "x\ny", None),
                    row(3, "b.jpg", "z", None),
                ],
            ),
        ] {
            assert_eq!(
                parsed(text).unwrap(),
                expected,
                "{}",
                String::from_utf8_lossy(text)
            );
        }
        let (_, left_out) = parse(Path::new("l"), b"label,width,image,\nrose,1,a.jpg,2\n").unwrap();
        assert_eq!(left_out, ["2 columns of the list (width, without a name)"]);
        for (text, part) in [
            (&b""[..], "rows: found 0"),
            (b"path,label\n", "rows: found 0"),
            (b"a.jpg\n", "line 1: found 1 field(s)"),
            (b"a.jpg;rose\n", "with commas between"),
            (b"a.jpg,rose\nb, c.jpg,lily\n", "line 2: found 3 field(s)"),
            (b"a.jpg,rose,train,4\n", "line 1: found 4 field(s)"),
            (
                b"a.jpg,rose,train\nb.jpg,lily,holdout\n",
                "line 2: found split \"holdout\"",
            ),
            (b"a.jpg,rose,train\nb.jpg,lily,\n", "line 2: found no split"),
            (b"a.jpg,rose\nb.jpg,\n", "line 2, the label: found \"\""),
            (b"a.jpg,rose\n,lily\n", "line 2: found no path"),
            (
                b"a.jpg,\xff\n",
                "line 1, the label: found \"\u{fffd}\", expected a label in UTF-8",
            ),
            (
                b"a.jpg,rose\n\"b.jpg,lily\nc.jpg,lily\n",
                "line 2: found a quote that is never closed",
            ),
            (
                b"path,label\r\na.jpg,rose\r\nb.jpg,\"rose\r\nc.jpg,lily\r\nd.jpg,lily\r\n",
                "line 3: found a quote that is never closed",
            ),
            (
                b"a.jpg,rose\nb.jpg,\"rose\nc.jpg,\"lily\"\nd.jpg,lily\n",
                "line 2: found a field in quotes with text",
            ),
            (b"\"a\n.jpg\",rose\n", "line 1: found a path of 6 bytes"),
            (
                b"a.jpg,rose\nb.jpg,nan\n",
                "line 2, the label: found \"nan\"",
            ),
            (b"a.jpg,NA\nb.jpg,rose\n", "fill in or drop what is missing"),
            (
                b"a.jpg,1.5\nb.jpg,rose\n",
                "line 1, the label: found \"1.5\", expected a whole number or",
            ),
            (
                b"a.jpg,u\nb.jpg,u \n",
                "line 2, the label: found \"u \", expected one spelling of a class: \"u\" came before, which differs by spaces only",
            ),
            (
                b"path,file,label\na,b,c\n",
                "line 1: found the columns path and file",
            ),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(
                error.contains(part),
                "{}: {error}",
                String::from_utf8_lossy(text)
            );
        }
        #[cfg(unix)]
        assert!(parsed(b"\xff.jpg,rose\n").is_ok());
    }

    fn label() -> impl Strategy<Value = String> {
        let known = |label: &String| LabelValue::parse(label.as_bytes()).is_ok();
        "[ -~é\n]{0,4}[!-~é]".prop_filter("is no label", known)
    }

    proptest! {
        /// Whatever a writer of CSV writes is read, however it quotes.
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec(("[ -~é]{0,8}[!-~é]\\.png", label()), 1..20),
            quotes in 0..2usize,
            terminator in 0..2usize,
            bom: bool,
        ) {
            // Labels that differ by spaces only are refused.
            let labels: BTreeSet<&str> = rows.iter().map(|(_, label)| label.as_str()).collect();
            let trimmed: BTreeSet<&str> = labels.iter().map(|label| label.trim_ascii()).collect();
            prop_assume!(labels.len() == trimmed.len());
            let mut text = if bom { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
            let mut writer = WriterBuilder::new()
                .quote_style([QuoteStyle::Necessary, QuoteStyle::Always][quotes])
                .terminator([Terminator::CRLF, Terminator::Any(b'\n')][terminator])
                .from_writer(&mut text);
            writer.write_record(["path", "label"]).unwrap();
            for (path, label) in &rows {
                writer.write_record([path, label]).unwrap();
            }
            drop(writer);
            let found: Vec<(String, String)> = (parsed(&text).unwrap().into_iter())
                .map(|(_, path, label, _)| (path, label))
                .collect();
            let trimmed = |text: &str| text.trim_matches(|c: char| c.is_ascii_whitespace()).to_string();
            let rows: Vec<(String, String)> = (rows.iter())
                .map(|(path, label)| (trimmed(path), trimmed(label)))
                .collect();
            prop_assert_eq!(found, rows);
        }
    }

    #[test]
    fn a_list_makes_classes_and_splits() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = dir.path().join("pictures");
        fs::create_dir(&pictures).unwrap();
        for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
            fs::write(pictures.join(name), b"").unwrap();
        }
        let list = dir.path().join("list.csv");
        let found = |text: &str, skip_bad| {
            fs::write(&list, text).unwrap();
            let found = open(&list, Some(&pictures), SHARES, skip_bad)
                .map_err(|error| error.to_string())?;
            let splits = found.photographs.splits.into_iter();
            let rows = splits.flat_map(|split| {
                let name = split.name.clone();
                split
                    .rows
                    .into_iter()
                    .map(move |(picture, label)| format!("{name} {} {label}", picture.name))
            });
            Ok::<_, String>((
                found.photographs.class_names.join(" "),
                rows.collect::<Vec<_>>().join(", "),
            ))
        };
        for (text, classes, rows) in [
            (
                "a.jpg,1.0\nb.jpg,1\nc.jpg,2\n",
                "1 2",
                "train a.jpg 0, train b.jpg 0, train c.jpg 1",
            ),
            // In the order of bytes, as ImageFolder.
            (
                "a.jpg,é\nb.jpg,a\nc.jpg,B\n",
                "B a é",
                "train c.jpg 0, train b.jpg 1, train a.jpg 2",
            ),
            (
                "a.jpg,10\nb.jpg,9\nc.jpg,-1\n",
                "-1 9 10",
                "train c.jpg 0, train b.jpg 1, train a.jpg 2",
            ),
            (
                "a.jpg,10\nb.jpg,9\nc.jpg,x\n",
                "10 9 x",
                "train a.jpg 0, train b.jpg 1, train c.jpg 2",
            ),
            (
                "a.jpg,10.0\nb.jpg,9.0\nc.jpg,1e2\n",
                "9 10 100",
                "train b.jpg 0, train a.jpg 1, train c.jpg 2",
            ),
            (
                "a.jpg,01\nb.jpg,2\nc.jpg,nano\n",
                "01 2 nano",
                "train a.jpg 0, train b.jpg 1, train c.jpg 2",
            ),
            (
                "a.jpg,TRUE\nb.jpg,false\nc.jpg,True\n",
                "False True",
                "train b.jpg 0, train a.jpg 1, train c.jpg 1",
            ),
            // One number, however it is written.
            (
                "a.jpg,01\nb.jpg,1\nc.jpg,2\n",
                "1 2",
                "train a.jpg 0, train b.jpg 0, train c.jpg 1",
            ),
            (
                "d.jpg,x,test\na.jpg,y,train\nb.jpg,x,val\nc.jpg,x,train\n",
                "x y",
                "train a.jpg 1, train c.jpg 0, val b.jpg 0, test d.jpg 0",
            ),
        ] {
            let expected = (classes.to_string(), rows.to_string());
            assert_eq!(found(text, false), Ok(expected), "{text}");
        }
        let missing = "a.jpg,x\nb.jpg,y\nabsent.jpg,x\n";
        let error = found(missing, false).unwrap_err();
        assert!(
            error.contains("line 3: found") && error.contains("absent.jpg: No such file"),
            "{error}"
        );
        // It is left out when it is read.
        assert!(found(missing, true).is_ok());
        for (text, part) in [
            ("image,breed\na.jpg,x\n", "a line of column names"),
            (
                "a.jpg,x\n./a.jpg,y\n",
                "line 2: found ./a.jpg, which line 1 has",
            ),
            (".,x\na.jpg,y\n", "a folder"),
            (
                "a.jpg,x\nb.jpg,x\n",
                "classes: found one: label x in all 2 rows",
            ),
            (
                "a.jpg,1\nb.jpg,1.0\nc.jpg,x\n",
                "line 2, the label: found \"1.0\"",
            ),
            (
                "a.jpg,x,train\nb.jpg,y,val\nc.jpg,z,train\n",
                "line 2: found class \"y\", which has no rows to train on, expected every class in train",
            ),
            (
                "a.jpg,x,val\nb.jpg,y,val\n",
                "line 1: found class \"x\", which has no rows",
            ),
        ] {
            let error = found(text, false).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        fs::write(&list, "pictures/a.jpg,x\npictures/b.jpg,y\n").unwrap();
        assert!(open(&list, None, SHARES, false).is_ok());
    }

    /// A header of words that are not known is no picture and no class, with `skip_bad` neither;
    /// a file whose name has spaces is that file.
    #[test]
    fn headers_and_spaces_are_not_taken_for_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("l.csv");
        let opened = |text: &str, skip_bad: bool| {
            fs::write(&list, text).unwrap();
            open(&list, None, SHARES, skip_bad)
        };
        for name in ["a.png", "b.png", " a.png"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        for skip_bad in [false, true] {
            let error = opened("filename_of,species\na.png,x\nb.png,y\n", skip_bad).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("line 1") && error.contains("column names"),
                "{error}"
            );
        }
        // A missing picture of a class that others have is left out.
        let found = opened("c.png,x\na.png,x\nb.png,y\n", true).unwrap();
        assert_eq!(found.photographs.class_names, ["x", "y"]);
        let names = |text: &str| {
            let found = opened(text, false).unwrap();
            let rows = found
                .photographs
                .splits
                .into_iter()
                .flat_map(|split| split.rows);
            let mut names: Vec<String> = rows.map(|(photograph, _)| photograph.name).collect();
            names.sort();
            names
        };
        assert_eq!(names("\" a.png\",x\nb.png,y\n"), [" a.png", "b.png"]);
        assert_eq!(names(" a.png,x\na.png,y\n"), [" a.png", "a.png"]);
        assert_eq!(names(" b.png ,x\na.png,y\n"), ["a.png", "b.png"]);
    }
}
