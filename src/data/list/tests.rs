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
fn valid_lists_are_parsed_and_invalid_ones_rejected() {
    let row =
        |line, path: &str, label: &str, split| (line, path.to_string(), label.to_string(), split);
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
        (b"a.jpg;rose\n", "separated by commas"),
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
        (b"a.jpg,NA\nb.jpg,rose\n", "fill in or drop missing labels"),
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
    /// For all quote styles and line ends of a CSV writer.
    #[test]
    fn round_trip_preserves_paths_and_labels(
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
fn classes_and_splits_follow_from_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = dir.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
        fs::write(pictures.join(name), b"").unwrap();
    }
    let list = dir.path().join("list.csv");
    let found = |text: &str, skip_bad| {
        fs::write(&list, text).unwrap();
        let found =
            open(&list, Some(&pictures), SHARES, skip_bad).map_err(|error| error.to_string())?;
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
        // In the order of bytes, like ImageFolder.
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
        // Spellings of one number.
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
    // With `skip_bad` the missing file is left out later.
    assert!(found(missing, true).is_ok());
    for (text, part) in [
        ("image,breed\na.jpg,x\n", "a header has the columns"),
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

/// A header with unknown column names is an error, also with `skip_bad`; a file whose name begins or
/// ends with spaces is found.
#[test]
fn unknown_headers_are_rejected_and_spaces_in_names_are_kept() {
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
            error.contains("line 1") && error.contains("a header has the columns"),
            "{error}"
        );
    }
    // A missing picture whose class has others is left out.
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
