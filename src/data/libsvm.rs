//! LIBSVM's text to dataset: a line is `LABEL INDEX:VALUE ...`, indices from 1 and ascending.
//! Rows are written out whole: zeros that the text leaves out are stored.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::dataset::{MAX_CLASSES, Manifest, USABLE, is_usable};
use super::dataset_writer::{publish, write_split};
use super::store::{check_state, state};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::publish::{Overwrite, Staging};

/// Longest line that is read.
const MAX_LINE: u64 = 256 << 20;
/// Most features: a row of 64 MiB.
const MAX_FEATURES: usize = 16 << 20;

/// One split to be.
#[derive(Clone, Debug)]
pub struct Part {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// The text.
    pub path: PathBuf,
}

/// Convert texts into the dataset directory `out`, which appears complete or not at all.
///
/// Classes are the labels of all texts in numerical order, and keep them as names; features are
/// as many as the largest index of all texts. `progress` is told the rows written since its last
/// call. Cost: two passes over the texts; on the disk 4 bytes for every row and feature.
///
/// # Errors
/// [`Error::Format`] names file and line of what is no such text; [`Error::Exists`],
/// [`Error::Locked`], [`Error::Changed`], [`Error::Io`], [`Error::Interrupted`].
pub fn prepare(
    parts: &[Part],
    out: &Path,
    overwrite: Overwrite,
    progress: &dyn Fn(u64),
) -> Result<Manifest> {
    let sources: Vec<&Path> = parts.iter().map(|part| part.path.as_path()).collect();
    let staging = Staging::begin(out, overwrite, &sources)?;
    let mut features = 0;
    let mut counted = Vec::new();
    for part in parts {
        let mut labels = Vec::new();
        let mut lines = Lines::open(&part.path)?;
        while lines.next(&mut |index, _| features = features.max(index + 1))? {
            labels.push(lines.label);
        }
        counted.push((part, labels, lines.state));
    }
    let labels = counted.iter().flat_map(|(_, labels, _)| labels);
    let classes: BTreeSet<i64> = labels.copied().collect();
    let classes: Vec<i64> = classes.into_iter().collect();
    if features == 0 || !(2..=MAX_CLASSES).contains(&classes.len()) {
        let found = format!("{} classes, {features} features", classes.len());
        let expected = format!("2..={MAX_CLASSES} classes and at least one feature");
        return Err(Error::format(&parts[0].path, "labels", found, expected));
    }
    let source = parts[0]
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let names = classes.iter().map(i64::to_string).collect();
    let mut manifest = Manifest::of_numbers(source.into_owned(), names, features);
    for (part, labels, state) in counted {
        let number = |label| classes.partition_point(|class| class < label) as i64;
        let numbers: Vec<i64> = labels.iter().map(number).collect();
        let mut lines = Lines::open(&part.path)?;
        let write = |rows: Range<usize>, values: &mut [f32]| {
            progress(rows.len() as u64);
            values.fill(0.0);
            for row in values.chunks_exact_mut(features) {
                // The same text as before, unless somebody changed it in between.
                let again = lines.next(&mut |index, value| {
                    if let Some(place) = row.get_mut(index) {
                        *place = value;
                    }
                })?;
                if !again {
                    let expected = "the text as it was a moment ago";
                    return Err(Error::format(&part.path, "length", "another", expected));
                }
            }
            Ok(())
        };
        let entry = write_split(
            staging.dir(),
            part.name,
            &part.path,
            features,
            &numbers,
            write,
        )?;
        check_state(&part.path, lines.from.get_ref(), state)?;
        manifest.splits.push(entry);
    }
    publish(staging, manifest)
}

/// A text, line by line.
struct Lines {
    path: PathBuf,
    from: BufReader<File>,
    state: (u64, SystemTime),
    line: Vec<u8>,
    number: usize,
    /// Of the line just read.
    label: i64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        Ok(Lines {
            path: path.to_path_buf(),
            state: state(path, &file)?,
            from: BufReader::new(file),
            line: Vec::new(),
            number: 0,
            label: 0,
        })
    }

    /// Read the next row and hand on its values, by index from 0; false at the end.
    fn next(&mut self, value: &mut dyn FnMut(usize, f32)) -> Result<bool> {
        use std::io::Read;
        loop {
            interrupt::check()?;
            self.line.clear();
            let mut limited = (&mut self.from).take(MAX_LINE);
            let read = limited
                .read_until(b'\n', &mut self.line)
                .map_err(Error::io(&self.path, "read"))?;
            if read == 0 {
                return Ok(false);
            }
            self.number += 1;
            if read as u64 == MAX_LINE {
                let expected = format!("less than {MAX_LINE} bytes");
                let field = format!("line {}", self.number);
                return Err(Error::format(&self.path, field, "a longer one", expected));
            }
            let label = parse_line(&self.line, value).map_err(|(found, expected)| {
                Error::format(&self.path, format!("line {}", self.number), found, expected)
            })?;
            if let Some(label) = label {
                self.label = label;
                return Ok(true);
            }
        }
    }
}

/// What was found and what was expected.
pub type Refusal = (String, &'static str);

/// The label of a line, or none of an empty one; `value` is told each value and its index from 0.
/// A `#` begins a comment.
pub fn parse_line(
    line: &[u8],
    value: &mut dyn FnMut(usize, f32),
) -> std::result::Result<Option<i64>, Refusal> {
    let refuse = |found: &str, expected| {
        (
            format!("{:?}", found.chars().take(40).collect::<String>()),
            expected,
        )
    };
    let Ok(text) = std::str::from_utf8(line) else {
        return Err(refuse(&String::from_utf8_lossy(line), "text"));
    };
    let text = text.split('#').next().unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let label = (first.parse::<f64>().ok())
        .filter(|label| label.fract() == 0.0 && label.abs() < 1e15)
        .ok_or_else(|| refuse(first, "a whole number, the label, at the start of the line"))?;
    let mut last = 0;
    for word in words {
        let pair = word.split_once(':').and_then(|(index, number)| {
            Some((index.parse::<usize>().ok()?, number.parse::<f32>().ok()?))
        });
        let (index, number) = pair.ok_or_else(|| refuse(word, "INDEX:VALUE"))?;
        if index <= last || index > MAX_FEATURES {
            return Err(refuse(
                word,
                "indices from 1, ascending, of at most 16777216",
            ));
        }
        if !is_usable(number) {
            return Err(refuse(word, USABLE));
        }
        last = index;
        value(index - 1, number);
    }
    Ok(Some(label as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    #[test]
    fn text_becomes_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("train"), "+1 1:0.5 3:-2 # a comment\n\n-1 2:1e1\n+1\n").unwrap();
        std::fs::write(path("test"), "-1 4:7\n0 1:2\n").unwrap();
        let parts = [("train", "train"), ("test", "test")].map(|(name, file)| Part {
            name,
            path: path(file),
        });
        prepare(&parts, &path("out"), Overwrite::Never, &|_| {}).unwrap();
        let dataset = Dataset::open(path("out")).unwrap();
        // A class that only the test rows have is a class.
        assert_eq!(dataset.manifest().class_names, ["-1", "0", "1"]);
        let rows = |name: &str| {
            let split = dataset.split(name).unwrap();
            let samples = split.samples().unwrap();
            (
                samples.x().contiguous().unwrap().as_slice().to_vec(),
                samples.labels().to_vec(),
            )
        };
        let x = vec![0.5, 0.0, -2.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(rows("train"), (x, vec![2, 0, 2]));
        let x = vec![0.0, 0.0, 0.0, 7.0, 2.0, 0.0, 0.0, 0.0];
        assert_eq!(rows("test"), (x, vec![0, 1]));
    }

    #[test]
    fn text_that_lies_is_refused_by_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train");
        std::fs::write(&path, b"1 1:1\n\xff\xfe 1:1\n").unwrap();
        let parts = [Part {
            name: "train",
            path: path.clone(),
        }];
        let out = dir.path().join("out");
        let error = prepare(&parts, &out, Overwrite::Never, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert_eq!(error.exit_code(), 65);
        for (text, part) in [
            ("1 1:1\nx 1:1\n", "line 2: found \"x\""),
            ("1.5 1:1\n", "line 1"),
            ("1 0:1\n", "ascending"),
            ("1 2:1 2:1\n", "ascending"),
            ("1 99999999999:1\n", "16777216"),
            ("1 1:nan\n", "1e15"),
            ("1 1:2e15\n", "1e15"),
            ("1 1=3\n", "INDEX:VALUE"),
            ("1 1:1\n1 2:1\n", "1 classes"),
            ("", "0 classes"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = prepare(&parts, &out, Overwrite::Never, &|_| {}).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
