use super::*;
use crate::io::npy::Header;
use proptest::prelude::*;

fn parse(text: &str) -> Option<LabelValue> {
    LabelValue::parse(text.as_bytes()).ok()
}

/// Class names and the class of each label, or the error.
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
fn labels_are_parsed_to_their_values() {
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
        #[cfg(feature = "formats")]
        assert_eq!(given(text.as_bytes()), None);
    }
    for text in ["1.5", "1e-3", "1e15", "9223372036854775808"] {
        assert!(parse(text).is_none(), "{text}");
        #[cfg(feature = "formats")]
        assert_eq!(given(text.as_bytes()).as_deref(), Some(text));
    }
    let expected = format!("at most {MAX_CLASSES} classes");
    assert!(TOO_MANY.contains(&expected));
}

#[test]
fn different_spellings_are_merged_only_without_names() {
    let of = |names: &[&str], classes: &[i64]| {
        Ok((
            names.iter().map(ToString::to_string).collect(),
            classes.to_vec(),
        ))
    };
    // Labels that are all numbers or all truth values are compared by value.
    assert_eq!(
        encoded(&["10", "9.0", "9", " 10"]),
        of(&["9", "10"], &[1, 0, 0, 1])
    );
    let truths = encoded(&["TRUE", "false", "True", "False"]);
    assert_eq!(truths, of(&["False", "True"], &[1, 0, 1, 0]));
    // With names among them, labels are compared as text.
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
    /// All spellings of a whole number are one class; classes are in numerical order.
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

    /// The name of a class is a label of that class, also for another encoder; labels of different
    /// text share a class only if all are numbers or all truth values.
    #[test]
    fn class_names_encode_to_their_classes(
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
fn names_are_numbered_like_numpy_unique() {
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

/// The arithmetic of lengths does not overflow for any number of rows.
#[test]
fn another_number_of_rows_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("y.npy");
    let mut file = Header::encode(Dtype::U8, &[2]);
    file.extend([0, 1]);
    std::fs::write(&path, file).unwrap();
    read(&path, Some(2)).unwrap();
    for rows in [1, 3, 1 << 61, usize::MAX] {
        let error = read(&path, Some(rows)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("one label per row, {rows}")),
            "{error}"
        );
    }
}

#[test]
fn invalid_float_labels_are_rejected_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("y.npy");
    for (label, message) in [
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
        assert!(error.contains(message), "{error}");
    }
}
