//! What a label is, the same at every door: which text is a number, a truth value, a name or a
//! missing label, and how the classes are numbered. And labels that other tools saved as arrays:
//! whole numbers of any type, or text.

#[cfg(feature = "cli")]
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::array_file::{ArrayFile, Role};
use super::dataset::{MAX_CLASSES, check_labels};
use super::npy::Dtype;
use crate::error::{Error, Result};

/// What stands for a missing label or number, beside nothing at all and what parses as NaN.
const MISSING: [&str; 4] = ["na", "n/a", "null", "<na>"];
/// What is expected in the place of a missing label.
const MISSING_NAME: &str = "the name or number of a class; fill in or drop what is missing, or \
                            rename the class if it is called so";

/// What is expected where a label is one class too many: [`MAX_CLASSES`].
pub(crate) const TOO_MANY: &str = "one of at most 524288 classes; is it the column of labels?";

/// Whether a text stands for a missing label or number, spaces around it left aside.
pub(crate) fn is_missing(text: &str) -> bool {
    let text = text.trim_ascii();
    text.is_empty()
        || MISSING.iter().any(|word| text.eq_ignore_ascii_case(word))
        || text.parse::<f64>().is_ok_and(f64::is_nan)
}

/// The label in a field as text, without the spaces around it; `None` if it is missing.
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

/// The label that a float stands for: a whole number of at most 15 digits, which f64 holds exactly.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
}

/// What a label means, however it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LabelValue {
    /// `False` or `True`, also in capital or in small letters, as pandas reads them.
    Truth(bool),
    /// A whole number: `1`, `+1`, `01`, `1.0` and `1e0` are the same.
    Number(i64),
    /// Any other text.
    Name(String),
}

impl LabelValue {
    /// The value of a text, spaces around it left aside.
    ///
    /// # Errors
    /// What was expected instead: of text that is missing, not UTF-8, or a number that is not
    /// whole or too large to be told from its neighbours.
    pub fn parse(text: &[u8]) -> std::result::Result<LabelValue, &'static str> {
        let text = std::str::from_utf8(text.trim_ascii())
            .map_err(|_| "a label in UTF-8; save the table so")?;
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

/// Numbers labels: a code for each in the order in which they come, and at the end the classes.
#[derive(Debug, Default)]
pub(crate) struct LabelEncoder {
    /// The code of each spelling.
    spellings: HashMap<Vec<u8>, u32>,
    codes: HashMap<LabelValue, u32>,
    /// For each code its value, and how that was first written.
    found: Vec<(LabelValue, String)>,
    /// The first number or truth value that was written in a second way.
    respelled: Option<Error>,
}

impl LabelEncoder {
    /// The code of a label as it is written; `path` and `field` say where.
    ///
    /// # Errors
    /// [`Error::Format`]: see [`LabelValue::parse`]; for a name that differs from another by the
    /// spaces around it only, and for more different labels than a dataset has classes.
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
            "one spelling of a class: {before:?} came before, which {apart}; write both alike, or \
             give them names of their own"
        ));
        if by_spaces && !is_number {
            return Err(error);
        }
        self.respelled.get_or_insert(error);
        Ok(code)
    }

    /// The code of a whole number; `None` if it is one class too many.
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

    /// The names of the classes in order, and for each code its class.
    ///
    /// Labels that are all whole numbers are in numerical order, False comes before True where
    /// there is nothing else, and all others are in the order of their text.
    ///
    /// # Errors
    /// [`Error::Format`] where names stand beside a number or truth value that is written in two
    /// ways: as text they are two, and they are not made one unsaid.
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

/// Different keys in order, and for each key its place among them.
fn in_order<K: Ord>(keys: impl Iterator<Item = K>) -> (Vec<K>, Vec<i64>) {
    let mut sorted: Vec<(K, usize)> = keys.enumerate().map(|(code, key)| (key, code)).collect();
    sorted.sort_unstable();
    let mut places = vec![0; sorted.len()];
    for (place, (_, code)) in sorted.iter().enumerate() {
        places[*code] = place as i64;
    }
    (sorted.into_iter().map(|(key, _)| key).collect(), places)
}

/// The labels of one file, one a row.
#[derive(Debug)]
pub(crate) struct Labels {
    path: PathBuf,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Numbers(Vec<i64>),
    /// For each row the place of its label in the list, which has each with its first row.
    Names(Vec<u32>, Vec<(String, usize)>),
}

#[cfg(feature = "cli")]
impl Labels {
    /// Each label as text: a number, or a name.
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

/// Labels of several files, numbered alike.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// For each file, the class of each row, from 0.
    pub labels: Vec<Vec<i64>>,
    /// c: as many as the largest label needs, and at least two.
    pub classes: usize,
    /// Names of the classes, where the files have them.
    pub names: Option<Vec<String>>,
}

/// Read an array of one label a row, of so many rows if that is known: bool, whole numbers, floats
/// that are whole, or text; of one dimension or of one column.
///
/// # Errors
/// [`Error::Npy`]; [`Error::Format`] for another shape, for numbers that are not whole (named by
/// row) and for more different names than a dataset has classes.
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
        let expected = format!("one label a row{rows}{hint}");
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
        // Beyond f64's whole numbers.
        Dtype::I64 | Dtype::U64 => {
            let signed = header.dtype == Dtype::I64;
            let words = data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|word| match header.big_endian {
                    true => u64::from_be_bytes(*word),
                    false => u64::from_le_bytes(*word),
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

/// Row, what was found and what was expected.
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

/// The text of an element, without the zeros that fill it up.
fn text(bytes: &[u8], dtype: Dtype, big_endian: bool) -> Option<String> {
    let text = match dtype {
        Dtype::Unicode(_) => {
            let characters = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| match big_endian {
                    true => u32::from_be_bytes(*word),
                    false => u32::from_le_bytes(*word),
                });
            characters.map(char::from_u32).collect::<Option<String>>()?
        }
        _ => std::str::from_utf8(bytes).ok()?.to_string(),
    };
    Some(text.trim_end_matches('\0').to_string())
}

/// Number the labels of all files alike: whole numbers count from `from` (0 or 1), text is
/// numbered by a [`LabelEncoder`]. At most `most` classes.
///
/// # Errors
/// [`Error::Format`] for labels below `from` or too large, named by row, for text beside numbers,
/// and those of [`LabelEncoder`]; [`Error::Options`] for text with a `from` of 1.
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
        let expected = "names of classes, as the other labels are";
        return Err(Error::format(
            &numbers.path,
            "descr",
            "whole numbers",
            expected,
        ));
    }
    if !names.is_empty() && from != 0 {
        let expected = "nothing: it is of labels that are numbers, these are names; leave it out";
        return Err(Error::options("--labels-from", from, expected));
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
                         return_inverse=True)[1] numbers others so)"
                    ),
                    _ => format!(
                        "{}..{}, as --labels-from {from} says; leave it out if labels begin at 0",
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
    /// Names of all classes: those of the files, else `class N` by the labels' own numbers.
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
mod tests {
    use super::super::npy::Header;
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<LabelValue> {
        LabelValue::parse(text.as_bytes()).ok()
    }

    /// Names and the class of each label, or the refusal.
    fn encoded(labels: &[&str]) -> std::result::Result<(Vec<String>, Vec<i64>), String> {
        let mut encoder = LabelEncoder::default();
        let mut codes = Vec::new();
        for (row, label) in labels.iter().enumerate() {
            let field = || format!("row {row}");
            let code = encoder.encode(Path::new("y"), field, label.as_bytes());
            codes.push(code.map_err(|error| error.to_string())?);
        }
        let (names, classes) = encoder.finish().map_err(|error| error.to_string())?;
        Ok((names, codes.iter().map(|&c| classes[c as usize]).collect()))
    }

    #[test]
    fn one_rule_says_what_a_label_is() {
        use LabelValue::*;
        for (text, value) in [
            ("1", Number(1)),
            ("+1", Number(1)),
            (" 1.0\t", Number(1)),
            ("01", Number(1)),
            ("1e0", Number(1)),
            ("-0.0", Number(0)),
            ("9223372036854775807", Number(i64::MAX)),
            ("TRUE", Truth(true)),
            ("false", Truth(false)),
            ("tRUE", Name("tRUE".into())),
            ("None", Name("None".into())),
            ("inf", Name("inf".into())),
            ("nano", Name("nano".into())),
            (" rose ", Name("rose".into())),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["", " ", "nan", "NaN", "-nan", "NA", "n/a", "NULL", "<NA>"] {
            assert!(is_missing(text) && parse(text).is_none(), "{text}");
            assert_eq!(given(text.as_bytes()), None);
        }
        for text in ["1.5", "1e-3", "1e15", "9223372036854775808"] {
            assert!(parse(text).is_none(), "{text}");
            assert_eq!(given(text.as_bytes()).as_deref(), Some(text));
        }
        let expected = format!("at most {MAX_CLASSES} classes");
        assert!(TOO_MANY.contains(&expected));
    }

    #[test]
    fn labels_are_never_merged_unsaid() {
        let of = |names: &[&str], classes: &[i64]| {
            Ok((
                names.iter().map(ToString::to_string).collect(),
                classes.to_vec(),
            ))
        };
        // Numbers and truth values are what they mean, where there is nothing else.
        assert_eq!(
            encoded(&["10", "9.0", "9", " 10"]),
            of(&["9", "10"], &[1, 0, 0, 1])
        );
        let truths = encoded(&["TRUE", "false", "True", "False"]);
        assert_eq!(truths, of(&["False", "True"], &[1, 0, 1, 0]));
        // Beside names they are text.
        assert_eq!(
            encoded(&["10", "9", "x"]),
            of(&["10", "9", "x"], &[0, 1, 2])
        );
        assert_eq!(encoded(&["01", "x"]), of(&["01", "x"], &[0, 1]));
        assert_eq!(encoded(&["TRUE", "maybe"]), of(&["TRUE", "maybe"], &[0, 1]));
        assert_eq!(encoded(&["rose", "Rose"]), of(&["Rose", "rose"], &[1, 0]));
        for (labels, part) in [
            (
                &["1", "x", "1.0"][..],
                "row 2: found \"1.0\", expected one spelling",
            ),
            (
                &["1", "01", "x"],
                "\"1\" came before, which is the same number",
            ),
            (
                &["True", "true", "0"],
                "which differs by capital letters only",
            ),
            (&["u", "u "], "which differs by spaces only"),
            (&["True", "true", "u", " u"], "row 3: found \" u\""),
            (&["True", "True "], "which differs by spaces only"),
            (
                &["0", "0.5"],
                "row 1: found \"0.5\", expected a whole number or",
            ),
            (
                &["a", "NA"],
                "row 1: found \"NA\", expected the name or number of a class",
            ),
            (&["a", "1e15"], "a letter before the number"),
        ] {
            let error = encoded(labels).unwrap_err();
            assert!(error.contains(part), "{labels:?}: {error}");
        }
    }

    proptest! {
        /// A whole number is one class however it is written, and in its place among the others.
        #[test]
        fn spellings_of_a_number_are_one_class(
            numbers in prop::collection::vec(-99_999i64..99_999, 1..20),
            ways in prop::collection::vec(0usize..6, 20),
        ) {
            let written: Vec<String> = (numbers.iter().zip(ways))
                .map(|(n, way)| match way {
                    0 => format!("{n}"),
                    1 => format!("{n}.0"),
                    2 => format!(" {n} "),
                    3 => format!("{n}e0"),
                    4 => format!("{n:+07}"),
                    _ => format!("{:e}", *n as f64),
                })
                .collect();
            let written: Vec<&str> = written.iter().map(String::as_str).collect();
            let mut expected = numbers.clone();
            expected.sort_unstable();
            expected.dedup();
            let (names, classes) = encoded(&written).unwrap();
            let names: Vec<i64> = names.iter().map(|name| name.parse().unwrap()).collect();
            prop_assert_eq!(&names, &expected);
            for (number, class) in numbers.iter().zip(classes) {
                prop_assert_eq!(names[class as usize], *number);
            }
        }

        /// What a class is called is read as that class, also by another encoder; labels of
        /// different text share a class only where all are numbers or all truth values.
        #[test]
        fn names_are_labels_of_their_classes(
            labels in prop::collection::vec("[ 01+.eaA]{0,3}|true|TRUE|False|rose|Rose", 1..8),
        ) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let Ok((names, classes)) = encoded(&labels) else {
                return Ok(());
            };
            for (label, class) in labels.iter().zip(&classes) {
                prop_assert_eq!(parse(label), parse(&names[*class as usize]));
            }
            let is_text = |name: &String| matches!(parse(name), Some(LabelValue::Name(_)));
            if names.iter().any(is_text) {
                for (label, class) in labels.iter().zip(&classes) {
                    prop_assert_eq!(label.trim_ascii(), &names[*class as usize]);
                }
            }
            let again: Vec<&str> = names.iter().map(String::as_str).collect();
            let in_order = (0..names.len() as i64).collect();
            prop_assert_eq!(encoded(&again), Ok((names.clone(), in_order)));
        }
    }

    #[test]
    fn names_are_numbered_as_numpy_unique_does() {
        let of = |names: &[&str]| Labels {
            path: PathBuf::from("y.npy"),
            values: names_of(names),
        };
        fn names_of(names: &[&str]) -> Values {
            let width = names.iter().map(|n| n.chars().count()).max().unwrap();
            let mut data = Vec::new();
            for name in names {
                let mut characters: Vec<u32> = name.chars().map(u32::from).collect();
                characters.resize(width, 0);
                data.extend(characters.iter().flat_map(|c| c.to_be_bytes()));
            }
            super::names(&data, Dtype::Unicode(width), true).unwrap()
        }
        let files = vec![
            of(&["rose", "Ähre", "rose", "aster"]),
            of(&["zinnia", "aster", "Rose"]),
        ];
        let numbered = number(files, 0, 100).unwrap();
        let names = ["Rose", "aster", "rose", "zinnia", "Ähre"].map(String::from);
        assert_eq!(numbered.names.as_deref(), Some(&names[..]));
        assert_eq!(numbered.labels, [vec![2, 4, 2, 1], vec![3, 1, 0]]);
        assert_eq!(numbered.classes, 5);
        assert!(number(vec![of(&["a"])], 1, 100).is_err());
    }

    /// No number of rows makes the arithmetic of lengths wrap.
    #[test]
    fn labels_of_any_number_of_rows_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("y.npy");
        let mut file = Header::encode(Dtype::U8, &[2]);
        file.extend([0, 1]);
        std::fs::write(&path, file).unwrap();
        read(&path, Some(2)).unwrap();
        for rows in [1, 3, 1 << 61, usize::MAX] {
            let error = read(&path, Some(rows)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("one label a row, {rows}")),
                "{error}"
            );
        }
    }

    /// What is said of a number is true of it.
    #[test]
    fn floats_that_are_no_labels_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("y.npy");
        for (label, said) in [
            (f64::NAN, "drop rows without a label"),
            (
                0.5,
                "found 0.5, expected a whole number of at most 15 digits",
            ),
            (1e18, "a whole number of at most 15 digits"),
        ] {
            let mut file = Header::encode(Dtype::F64, &[1]);
            file.extend(label.to_le_bytes());
            std::fs::write(&path, file).unwrap();
            let error = read(&path, None).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
