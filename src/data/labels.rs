//! Labels, shared by all formats: parsing of text (a number, a truth value, a name or a missing
//! label), the numbering of classes, and labels in arrays of whole numbers or text.

#[cfg(feature = "cli")]
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::data::array_file::{ArrayFile, Role};
use crate::data::dataset::{MAX_CLASSES, check_labels};
use crate::error::{Error, Result};
use crate::io::npy::Dtype;

/// Texts of a missing label or number, besides empty text and what parses as NaN.
const MISSING: [&str; 4] = ["na", "n/a", "null", "<na>"];
/// Advice for a missing label.
const MISSING_NAME: &str = "the name or number of a class; fill in or drop missing labels, or \
                            rename the class if this is its name";

/// Advice for a label beyond [`MAX_CLASSES`] classes.
pub(crate) const TOO_MANY: &str = "one of at most 524288 classes; is it the column of labels?";

/// Whether a text means a missing label or number; spaces around it are ignored.
pub(crate) fn is_missing(text: &str) -> bool {
    let text = text.trim_ascii();
    text.is_empty()
        || MISSING.iter().any(|word| text.eq_ignore_ascii_case(word))
        || text.parse::<f64>().is_ok_and(f64::is_nan)
}

/// The text of a label, without the spaces around it; `None` if it is missing.
#[cfg(feature = "formats")]
pub(crate) fn given(field: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(field.trim_ascii());
    (!is_missing(&text)).then(|| text.into_owned())
}

/// The beginning of a field, for messages.
pub(crate) fn shown(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// The label of a float: a whole number of at most 15 digits, which f64 represents exactly.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
}

/// The value of a label, independent of its spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LabelValue {
    /// `False` or `True`, also in all capital or all small letters, as in pandas.
    Truth(bool),
    /// A whole number: `1`, `+1`, `01`, `1.0` and `1e0` are the same.
    Number(i64),
    /// Any other text.
    Name(String),
}

impl LabelValue {
    /// Parse a label; spaces around it are ignored.
    ///
    /// # Errors
    /// What was expected, for text that is missing or not UTF-8, and for a number that is not whole
    /// or too large to be exact.
    pub fn parse(text: &[u8]) -> std::result::Result<LabelValue, &'static str> {
        let text = std::str::from_utf8(text.trim_ascii())
            .map_err(|_| "a label in UTF-8; save the table in UTF-8")?;
        if is_missing(text) {
            return Err(MISSING_NAME);
        }
        if let Ok(number) = text.parse() {
            return Ok(LabelValue::Number(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => whole(number).map(LabelValue::Number).ok_or(
                if number.fract() == 0.0 {
                    "a whole number below 2^63 (of at most 15 digits with a point or an exponent) \
                     or the name of a class; a letter before the number makes it a name"
                } else {
                    "a whole number or the name of a class; is it the column of labels?"
                },
            ),
            _ => Ok(match text {
                "False" | "false" | "FALSE" => LabelValue::Truth(false),
                "True" | "true" | "TRUE" => LabelValue::Truth(true),
                name => LabelValue::Name(name.to_string()),
            }),
        }
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelValue::Truth(true) => f.write_str("True"),
            LabelValue::Truth(false) => f.write_str("False"),
            LabelValue::Number(number) => write!(f, "{number}"),
            LabelValue::Name(name) => f.write_str(name),
        }
    }
}

/// Numbers the classes: assigns a code to each label in order of occurrence, and at the end a class
/// to each code.
#[derive(Debug, Default)]
pub(crate) struct LabelEncoder {
    /// The code of each spelling.
    spellings: HashMap<Vec<u8>, u32>,
    codes: HashMap<LabelValue, u32>,
    /// Value and first spelling of each code.
    found: Vec<(LabelValue, String)>,
    /// The error for the first number or truth value with two spellings.
    respelled: Option<Error>,
}

impl LabelEncoder {
    /// The code of a label's text; `path` and `field` are for messages.
    ///
    /// # Errors
    /// [`Error::Format`]: as [`LabelValue::parse`], for a name that differs from another only by the
    /// spaces around it, and for more than [`MAX_CLASSES`] different labels.
    pub fn encode(&mut self, path: &Path, field: impl Fn() -> String, text: &[u8]) -> Result<u32> {
        if let Some(&code) = self.spellings.get(text) {
            return Ok(code);
        }
        let refuse = |expected: &str| Error::format(path, field(), shown(text), expected);
        let value = LabelValue::parse(text).map_err(refuse)?;
        let is_number = matches!(value, LabelValue::Number(_));
        let count = self.found.len();
        let code = self.code(value).ok_or_else(|| refuse(TOO_MANY))?;
        self.spellings.insert(text.to_vec(), code);
        let (_, before) = &mut self.found[code as usize];
        if code as usize == count {
            *before = String::from_utf8_lossy(text).into_owned();
            return Ok(code);
        }
        let by_spaces = before.trim_ascii().as_bytes() == text.trim_ascii();
        let apart = if is_number {
            "is the same number"
        } else if by_spaces {
            "differs by spaces only"
        } else {
            "differs by capital letters only"
        };
        let error = refuse(&format!(
            "one spelling of a class: {before:?} came before, which {apart}; write both the same \
             way, or give them different names"
        ));
        if by_spaces && !is_number {
            return Err(error);
        }
        self.respelled.get_or_insert(error);
        Ok(code)
    }

    /// The code of a whole number; `None` if it exceeds [`MAX_CLASSES`].
    #[cfg(feature = "formats")]
    pub fn encode_number(&mut self, number: i64) -> Option<u32> {
        self.code(LabelValue::Number(number))
    }

    fn code(&mut self, value: LabelValue) -> Option<u32> {
        let count = self.found.len();
        match self.codes.get(&value) {
            Some(&code) => Some(code),
            None if count == MAX_CLASSES => None,
            None => {
                self.codes.insert(value.clone(), count as u32);
                self.found.push((value, String::new()));
                Some(count as u32)
            }
        }
    }

    /// The names of the classes in order, and the class of each code.
    ///
    /// Labels that are all whole numbers are in numerical order, those that are all truth values are
    /// False, True, and others are in the order of their text.
    ///
    /// # Errors
    /// [`Error::Format`] if there are names and a number or truth value with two spellings: as text
    /// these are two labels, which are not merged silently.
    pub fn finish(self) -> Result<(Vec<String>, Vec<i64>)> {
        let numbers = |(value, _): &(LabelValue, _)| matches!(value, LabelValue::Number(_));
        let truths = |(value, _): &(LabelValue, _)| matches!(value, LabelValue::Truth(_));
        if self.found.iter().all(numbers) || self.found.iter().all(truths) {
            let (values, classes) = in_order(self.found.into_iter().map(|(value, _)| value));
            return Ok((values.iter().map(LabelValue::to_string).collect(), classes));
        }
        match self.respelled {
            Some(error) => Err(error),
            None => {
                let written = self.found.into_iter().map(|(_, text)| text);
                Ok(in_order(written.map(|text| text.trim_ascii().to_string())))
            }
        }
    }
}

/// The keys, sorted, and the place of each key among them.
fn in_order<K: Ord>(keys: impl Iterator<Item = K>) -> (Vec<K>, Vec<i64>) {
    let mut sorted: Vec<(K, usize)> = keys.enumerate().map(|(code, key)| (key, code)).collect();
    sorted.sort_unstable();
    let mut places = vec![0; sorted.len()];
    for (place, (_, code)) in sorted.iter().enumerate() {
        places[*code] = place as i64;
    }
    (sorted.into_iter().map(|(key, _)| key).collect(), places)
}

/// The labels of a file, by row.
#[derive(Debug)]
pub(crate) struct Labels {
    path: PathBuf,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Numbers(Vec<i64>),
    /// For each row the place of its label in the list of different labels and their first rows.
    Names(Vec<u32>, Vec<(String, usize)>),
}

#[cfg(feature = "cli")]
impl Labels {
    /// The labels, if all are whole numbers.
    pub fn numbers(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Numbers(numbers) => Some(numbers),
            Values::Names(..) => None,
        }
    }

    /// Each label as text.
    pub fn texts(&self) -> Box<dyn Iterator<Item = Cow<'_, str>> + '_> {
        match &self.values {
            Values::Numbers(numbers) => Box::new(numbers.iter().map(|n| n.to_string().into())),
            Values::Names(places, names) => Box::new(
                places
                    .iter()
                    .map(|&place| names[place as usize].0.as_str().into()),
            ),
        }
    }
}

/// Labels of several files with a common numbering of classes.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// For each file, the class of each row, from 0.
    pub labels: Vec<Vec<i64>>,
    /// c: the largest label plus one, and at least two.
    pub classes: usize,
    /// Names of the classes, if the files have names.
    pub names: Option<Vec<String>>,
}

/// Read an array of labels, of one dimension or one column; `rows` is their number, if known. Labels
/// are bool, whole numbers (also as floats), or text.
///
/// # Errors
/// [`Error::Npy`]; [`Error::Format`] for another shape, for numbers that are not whole (it names the
/// row), and for more than [`MAX_CLASSES`] different names.
pub(crate) fn read(path: &Path, rows: Option<usize>) -> Result<Labels> {
    let mut array = ArrayFile::open(path, Role::Labels)?;
    let path = array.path.clone();
    let shape = &array.header.shape;
    let is_right = |n: usize| rows.is_none_or(|rows| n == rows);
    if !matches!(**shape, [n] | [n, 1] if is_right(n)) {
        let hint = match **shape {
            [n, columns] if is_right(n) && columns > 1 => {
                " (numpy's y.argmax(1) makes labels of rows with a 1 for the class)"
            }
            [1, n] if is_right(n) => " (numpy's reshape(-1))",
            _ => "",
        };
        let rows = rows.map_or(String::new(), |rows| format!(", {rows}"));
        let expected = format!("one label per row{rows}{hint}");
        return Err(Error::format(
            &path,
            "shape",
            format!("{shape:?}"),
            expected,
        ));
    }
    let data = array.read_rest()?;
    array.check_unchanged()?;
    let header = &array.header;
    let refuse = |row: usize, found: String, expected: &str| {
        Error::format(&path, format!("label of row {row}"), found, expected)
    };
    let values = match header.dtype {
        Dtype::Unicode(_) | Dtype::Bytes(_) => names(&data, header.dtype, header.big_endian)
            .map_err(|(row, found, expected)| refuse(row, found, expected))?,
        // Not through f64, which would round them.
        Dtype::I64 | Dtype::U64 => {
            let signed = header.dtype == Dtype::I64;
            let words = data.as_chunks::<8>().0.iter().map(|word| {
                if header.big_endian {
                    u64::from_be_bytes(*word)
                } else {
                    u64::from_le_bytes(*word)
                }
            });
            let numbers = words
                .enumerate()
                .map(|(row, word)| match i64::try_from(word) {
                    _ if signed => Ok(word as i64),
                    Ok(number) => Ok(number),
                    Err(_) => Err(refuse(row, word.to_string(), "a label below 2^63")),
                });
            Values::Numbers(numbers.collect::<Result<_>>()?)
        }
        _ => {
            let mut numbers = Vec::new();
            header.decode(&data, &mut numbers);
            let whole = |(row, &number): (usize, &f64)| {
                whole(number).ok_or_else(|| {
                    let expected = if number.is_nan() {
                        "a whole number, the class; drop rows without a label"
                    } else {
                        "a whole number of at most 15 digits, the class"
                    };
                    refuse(row, number.to_string(), expected)
                })
            };
            Values::Numbers(
                numbers
                    .iter()
                    .enumerate()
                    .map(whole)
                    .collect::<Result<_>>()?,
            )
        }
    };
    Ok(Labels { path, values })
}

/// Row, what was found, and what was expected.
type Refusal = (usize, String, &'static str);

fn names(data: &[u8], dtype: Dtype, big_endian: bool) -> std::result::Result<Values, Refusal> {
    let mut known: HashMap<&[u8], u32> = HashMap::new();
    let mut list = Vec::new();
    let mut of_rows = Vec::new();
    for (row, bytes) in data.chunks_exact(dtype.size()).enumerate() {
        if let Some(&place) = known.get(bytes) {
            of_rows.push(place);
            continue;
        }
        let Some(name) = text(bytes, dtype, big_endian) else {
            let expected = "text; numpy.char.decode(y, 'latin1') makes it of other bytes";
            return Err((row, "bytes that are no text".to_string(), expected));
        };
        if is_missing(&name) {
            return Err((row, shown(name.as_bytes()), MISSING_NAME));
        }
        if list.len() == MAX_CLASSES {
            return Err((row, shown(name.as_bytes()), TOO_MANY));
        }
        let place = list.len() as u32;
        known.insert(bytes, place);
        list.push((name, row));
        of_rows.push(place);
    }
    Ok(Values::Names(of_rows, list))
}

/// The text of an element, without its padding of zeros.
fn text(bytes: &[u8], dtype: Dtype, big_endian: bool) -> Option<String> {
    let text = match dtype {
        Dtype::Unicode(_) => {
            let characters = bytes.as_chunks::<4>().0.iter().map(|word| {
                if big_endian {
                    u32::from_be_bytes(*word)
                } else {
                    u32::from_le_bytes(*word)
                }
            });
            characters.map(char::from_u32).collect::<Option<String>>()?
        }
        _ => std::str::from_utf8(bytes).ok()?.to_string(),
    };
    Some(text.trim_end_matches('\0').to_string())
}

/// Number the classes of all files: whole numbers count from `from` (0 or 1), text is numbered by a
/// [`LabelEncoder`]. At most `most` classes.
///
/// # Errors
/// [`Error::Format`] for labels below `from` or too large (it names the row), for files with text and
/// files with numbers, and as [`LabelEncoder`]; [`Error::Options`] for text if `from` is 1.
pub(crate) fn number(files: Vec<Labels>, from: u8, most: i64) -> Result<Numbered> {
    let mut encoder = LabelEncoder::default();
    let mut codes: Vec<Vec<u32>> = Vec::new();
    for file in &files {
        let mut of_names = Vec::new();
        if let Values::Names(_, names) = &file.values {
            for (name, row) in names {
                let field = || format!("label of row {row}");
                of_names.push(encoder.encode(&file.path, field, name.as_bytes())?);
            }
        }
        codes.push(of_names);
    }
    let (names, classes) = encoder.finish()?;
    let numbers = files
        .iter()
        .find(|file| matches!(file.values, Values::Numbers(_)));
    if !names.is_empty()
        && let Some(numbers) = numbers
    {
        let expected = "names of classes, like the other labels";
        return Err(Error::format(
            &numbers.path,
            "descr",
            "whole numbers",
            expected,
        ));
    }
    if !names.is_empty() && from != 0 {
        let expected = "no such option, because these labels are names, not numbers; leave it out";
        return Err(Error::options("`labels_from`", from, expected));
    }
    let mut labels: Vec<Vec<i64>> = Vec::new();
    for (file, codes) in files.into_iter().zip(codes) {
        labels.push(match file.values {
            Values::Names(of_rows, _) => {
                let class = |&name: &u32| classes[codes[name as usize] as usize];
                of_rows.iter().map(class).collect()
            }
            Values::Numbers(numbers) => {
                let first = i64::from(from);
                let classes = first..most + first;
                let expected = match from {
                    0 => format!(
                        "0..{most}: classes are numbered from 0 (numpy.unique(y, \
                         return_inverse=True)[1] does so)"
                    ),
                    _ => format!(
                        "{}..{}, as `labels_from` {from} says; leave it out if labels begin at 0",
                        classes.start, classes.end
                    ),
                };
                check_labels(&file.path, &numbers, classes, || expected)?;
                numbers.into_iter().map(|label| label - first).collect()
            }
        });
    }
    let largest = labels.iter().flatten().max().copied();
    Ok(Numbered {
        classes: largest.map_or(2, |largest| (largest as usize + 1).max(2)),
        labels,
        names: (!names.is_empty()).then_some(names),
    })
}

impl Numbered {
    /// Names of all classes: those in the files, else `class N`, where N counts from `from`.
    pub fn names(&self, from: u8) -> Vec<String> {
        match &self.names {
            Some(names) => names.clone(),
            None => (0..self.classes)
                .map(|class| format!("class {}", class + usize::from(from)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
