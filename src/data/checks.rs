//! Checks and warnings on labelled rows, shared by all formats.

use std::path::Path;

use crate::error::{Error, Result};

/// Limit on the number of classes named in a message.
const NAMED: usize = 8;

/// Refuse data without rows or features; `path` is for the message.
///
/// # Errors
/// [`Error::Format`].
pub fn refuse_empty(path: &Path, rows: usize, features: usize) -> Result<()> {
    for (field, count) in [("rows", rows), ("features", features)] {
        if count == 0 {
            return Err(Error::format(path, field, 0, "at least one"));
        }
    }
    Ok(())
}

/// The name of a class in messages: its own, or `class N`.
fn class_name(names: &[String], class: usize) -> String {
    let name = names.get(class).cloned();
    name.unwrap_or_else(|| format!("class {class}"))
}

/// The names of at most [`NAMED`] classes.
fn listed(names: &[String], classes: &[usize]) -> String {
    let first = classes.iter().take(NAMED);
    let first: Vec<String> = first.map(|&class| class_name(names, class)).collect();
    let more = if classes.len() > NAMED { ", ..." } else { "" };
    first.join(", ") + more
}

/// Refuse labels of fewer than two classes; `path` and the class `names` (which may be fewer than
/// the classes) are for the message. Cost: O(n).
///
/// # Errors
/// [`Error::Format`].
pub fn refuse_one_class<L: Copy + PartialEq + TryInto<usize>>(
    path: &Path,
    labels: &[L],
    names: &[String],
) -> Result<()> {
    let first = labels.first();
    if first.is_some_and(|first| labels.iter().any(|label| label != first)) {
        return Ok(());
    }
    let found = match first.map(|&label| label.try_into().unwrap_or(usize::MAX)) {
        Some(class) => {
            let name = class_name(names, class);
            // Without a name, the label.
            let label = name.strip_prefix("class ").unwrap_or(&name);
            format!("one: label {label} in all {} rows", labels.len())
        }
        None => "none: no rows".to_string(),
    };
    let expected = "at least two, with rows to train on";
    Err(Error::format(path, "classes", found, expected))
}

/// The error for a class without training rows; `field` is where the class occurs, and `remedy` what
/// to do.
pub fn untrained(path: &Path, field: impl Into<String>, class: &str, remedy: &str) -> Error {
    let found = format!("class {class:?}, which has no rows to train on");
    let expected = format!("every class in train; {remedy}");
    Error::format(path, field, found, expected)
}

/// Refuse rows of another number of features than `expected`, that of `whose`, such as
/// `"the model"`.
///
/// # Errors
/// [`Error::Format`].
pub fn refuse_width(path: &Path, found: usize, expected: usize, whose: &str) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        let expected = format!("{expected} as {whose} has");
        Err(Error::format(path, "features", found, expected))
    }
}

/// A warning about classes in `0..classes` without training rows; `None` if there are none. `names`
/// may be fewer than the classes; `from_one` is the advice for labels that begin at 1.
/// Cost: O(n + classes).
pub fn absent_classes<L: Copy + TryInto<usize>>(
    labels: &[L],
    classes: usize,
    names: &[String],
    from_one: &str,
) -> Option<String> {
    let mut present = vec![false; classes];
    for &label in labels {
        if let Some(seen) = label.try_into().ok().and_then(|l| present.get_mut(l)) {
            *seen = true;
        }
    }
    let absent: Vec<usize> = (0..classes).filter(|&class| !present[class]).collect();
    let listed = listed(names, &absent);
    match absent.as_slice() {
        [] => None,
        [0] if classes > 2 && listed == "class 0" => Some(format!(
            "class 0 has no rows to train on; labels seem to begin at 1: if so, {from_one}"
        )),
        [_] => Some(format!("{listed} has no rows to train on")),
        _ => {
            let count = absent.len();
            Some(format!(
                "{count} of {classes} classes have no rows to train on: {listed}"
            ))
        }
    }
}

/// A warning about classes that occur in `split` but not in `train`; `None` if there are none.
pub fn missing_in_train(
    split: &str,
    train: &str,
    classes: &[usize],
    names: &[String],
) -> Option<String> {
    let count = match classes {
        [] => return None,
        [_] => "1 class".to_string(),
        _ => format!("{} classes", classes.len()),
    };
    let listed = listed(names, classes);
    Some(format!(
        "{split} has rows of {count} without rows in {train}, which cannot be learned: {listed}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_data_is_rejected() {
        let path = Path::new("y.npy");
        let message = |result: Result<()>| result.unwrap_err().to_string();
        assert!(refuse_empty(path, 1, 1).is_ok());
        assert_eq!(
            message(refuse_empty(path, 0, 3)),
            "y.npy: rows: found 0, expected at least one"
        );
        assert!(message(refuse_empty(path, 3, 0)).contains("features: found 0"));
        assert!(refuse_one_class(path, &[1u32, 1, 0], &[]).is_ok());
        let one = message(refuse_one_class(path, &[4i64; 20], &[]));
        assert!(one.contains("label 4 in all 20 rows"), "{one}");
        // The message has the class's name or its label in the file, not its index.
        for (names, label) in [(["rose", "lily"], "lily"), (["class 1", "class 2"], "2")] {
            let one = message(refuse_one_class(path, &[1i64; 3], &names.map(String::from)));
            assert!(
                one.contains(&format!("one: label {label} in all 3 rows")),
                "{one}"
            );
        }
        assert!(message(refuse_one_class::<i64>(path, &[], &[])).contains("no rows"));
        assert!(refuse_width(path, 3, 3, "the model").is_ok());
        assert_eq!(
            message(refuse_width(path, 3, 4, "the model")),
            "y.npy: features: found 3, expected 4 as the model has"
        );
    }

    #[test]
    fn absent_classes_are_named() {
        assert_eq!(absent_classes(&[0u32, 1, 2], 3, &[], ""), None);
        let from_one = absent_classes(&[1i64, 2, 3], 4, &[], "subtract 1").unwrap();
        assert!(from_one.starts_with("class 0 has") && from_one.ends_with("if so, subtract 1"));
        let names = ["rose", "lily", "iris"].map(String::from);
        let named = absent_classes(&[1i64, 2], 3, &names, "").unwrap();
        assert_eq!(named, "rose has no rows to train on");
        let many = absent_classes(&[20u32], 21, &[], "").unwrap();
        assert!(many.starts_with("20 of 21 classes"), "{many}");
        assert!(many.ends_with("class 7, ..."), "{many}");
    }
}
