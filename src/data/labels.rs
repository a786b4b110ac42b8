//! Labels that other tools saved: whole numbers of any type, or the names of classes.

#[cfg(feature = "cli")]
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::array_file::{ArrayFile, Role};
use crate::data::dataset::{MAX_CLASSES, check_labels};
use crate::error::{Error, Result};
use crate::io::npy::Dtype;

/// The labels of one file, one a row.
#[derive(Debug)]
pub(crate) struct Labels {
    path: PathBuf,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Numbers(Vec<i64>),
    /// For each row the place of its class in the list.
    Names(Vec<u32>, Vec<String>),
}

#[cfg(feature = "cli")]
impl Labels {
    /// Each label as text: a number, or a name.
    #[cfg(feature = "cli")]
    pub fn texts(&self) -> Box<dyn Iterator<Item = Cow<'_, str>> + '_> {
        match &self.values {
            Values::Numbers(numbers) => Box::new(numbers.iter().map(|n| n.to_string().into())),
            Values::Names(places, names) => Box::new(
                places
                    .iter()
                    .map(|&place| names[place as usize].as_str().into()),
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

/// Read an array of one label a row, of so many rows if that is known: bool, whole numbers, floats that are whole, or text; of one
/// dimension or of one column.
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
            let whole = |(row, &number): (usize, &f64)| match number.fract() == 0.0
                && number.abs() < 1e15
            {
                true => Ok(number as i64),
                false => {
                    let expected = match number.is_nan() {
                        true => "a whole number, the class; drop rows without a label",
                        false => "a whole number of at most 15 digits, the class",
                    };
                    Err(refuse(row, number.to_string(), expected))
                }
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
    let mut known: BTreeMap<&[u8], u32> = BTreeMap::new();
    let mut list = Vec::new();
    let mut of_rows = Vec::new();
    for (row, bytes) in data.chunks_exact(dtype.size()).enumerate() {
        let place = match known.get(bytes) {
            Some(&place) => place,
            None => {
                let name = text(bytes, dtype, big_endian).ok_or_else(|| {
                    let expected = "text; numpy.char.decode(y, 'latin1') makes it of other bytes";
                    (row, "bytes that are no text".to_string(), expected)
                })?;
                if name.is_empty() {
                    return Err((
                        row,
                        "no text".to_string(),
                        "the name of a class; drop rows without a label",
                    ));
                }
                if list.len() == MAX_CLASSES {
                    let found = format!("the {}th name", MAX_CLASSES + 1);
                    return Err((row, found, "one of at most 524288 classes"));
                }
                list.push(name);
                known.insert(bytes, list.len() as u32 - 1);
                list.len() as u32 - 1
            }
        };
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

/// Number the labels of all files alike: whole numbers count from `from` (0 or 1), names are
/// sorted as `numpy.unique` sorts them. At most `most` classes.
///
/// # Errors
/// [`Error::Format`] for labels below `from` or too large, named by row, and for names beside
/// numbers; [`Error::Options`] for names with a `from` of 1.
pub(crate) fn number(files: Vec<Labels>, from: u8, most: i64) -> Result<Numbered> {
    let mut all = BTreeMap::new();
    for file in &files {
        if let Values::Names(_, names) = &file.values {
            all.extend(names.iter().map(|name| (name.clone(), 0)));
        }
    }
    for (place, number) in all.values_mut().enumerate() {
        *number = place as i64;
    }
    let numbers = files
        .iter()
        .find(|file| matches!(file.values, Values::Numbers(_)));
    if !all.is_empty()
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
    if !all.is_empty() && from != 0 {
        let expected = "nothing: it is of labels that are numbers, these are names; leave it out";
        return Err(Error::options("--labels-from", from, expected));
    }
    if all.len() > MAX_CLASSES {
        let (found, expected) = (all.len(), format!("at most {MAX_CLASSES} classes"));
        return Err(Error::format(&files[0].path, "labels", found, expected));
    }
    let mut labels: Vec<Vec<i64>> = Vec::new();
    for file in files {
        labels.push(match file.values {
            Values::Names(of_rows, names) => {
                let places: Vec<i64> = names.iter().map(|name| all[name]).collect();
                of_rows.iter().map(|&name| places[name as usize]).collect()
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
        names: (!all.is_empty()).then(|| all.into_keys().collect()),
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
    use super::*;
    use crate::io::npy::Header;

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
