use super::*;
use crate::Dataset;
use std::sync::Mutex;

/// The dataset and sizes of a conversion of these texts.
fn prepared(
    texts: &[&[u8]],
    options: LibsvmOptions,
) -> (tempfile::TempDir, Result<(Dataset, Found)>) {
    let dir = tempfile::tempdir().unwrap();
    let parts: Vec<Part> = (["train", "test"].into_iter().zip(texts))
        .map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Part { name, path }
        })
        .collect();
    let found = Mutex::new(Found::default());
    let out = dir.path().join("out");
    let made = prepare(&parts, &options, &out, Overwrite::Never, &|progress| {
        if let Progress::Found(all) = progress {
            *found.lock().unwrap() = all;
        }
    });
    let made = made.map(|_| (Dataset::open(&out).unwrap(), found.into_inner().unwrap()));
    assert_eq!(made.is_ok(), out.exists());
    assert!(!out.join(SPOOL).exists());
    (dir, made)
}

fn rows(dataset: &Dataset, name: &str) -> (Vec<f32>, Vec<u32>) {
    let split = dataset.split(name).unwrap();
    let samples = split.samples().unwrap();
    let x = samples.x().contiguous().unwrap().as_slice().to_vec();
    (x, samples.labels().to_vec())
}

#[test]
fn text_is_converted_to_dense_rows() {
    let train = b"+1 1:0.5 3:-2 # a comment\n\n-1 2:1e1\n+1\n";
    let (_dir, made) = prepared(&[train, b"-1 4:7\n0 1:2\n"], LibsvmOptions::default());
    let (dataset, found) = made.unwrap();
    // Labels that only the test rows have are classes.
    assert_eq!(dataset.manifest().class_names, ["-1", "0", "1"]);
    let x = vec![0.5, 0.0, -2.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(rows(&dataset, "train"), (x, vec![2, 0, 2]));
    let x = vec![0.0, 0.0, 0.0, 7.0, 2.0, 0.0, 0.0, 0.0];
    assert_eq!(rows(&dataset, "test"), (x, vec![0, 1]));
    let expected = Found {
        rows: 5,
        features: 4,
        values: 5,
        first_index: 1,
        queries: 0,
        bytes: 5 * (4 * 4 + 8),
        spool: 5 * 4 + 5 * 12,
    };
    assert_eq!(found, expected);
}

/// The sparse rows remain on the disk until all dense rows are written.
#[test]
fn the_space_check_includes_the_sparse_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    let mut spool = Spool::create(&path).unwrap();
    spool.append(&[(1, 2.0), (7, 3.0)]).unwrap();
    spool.append(&[]).unwrap();
    spool.read().unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    assert_eq!(length, spool::bytes(2, 2));

    let found = Found {
        rows: 2,
        bytes: 100,
        spool: 32,
        ..Found::default()
    };
    found.refuse_beyond(132, &path).unwrap();
    let error = found.refuse_beyond(131, &path).unwrap_err().to_string();
    assert!(error.contains("100 bytes, and 32 more"), "{error}");
}

/// An index 0 in any part makes all parts zero-based; the manifest stores it.
#[test]
fn zero_based_indices_are_recognized_in_any_part() {
    let first = |dataset: &Dataset| dataset.manifest().numbers.clone().unwrap().first_index;
    let texts: [&[u8]; 2] = [b"1 1:1\n2 2:1\n", b"1 qid:4 0:3\n"];
    let (_dir, made) = prepared(&texts, LibsvmOptions::default());
    let (dataset, found) = made.unwrap();
    assert_eq!(
        (found.features, found.queries, first(&dataset)),
        (3, 1, Some(0))
    );
    assert!(dataset.manifest().left_out[0].contains("qid: of 1 lines"));
    assert_eq!(rows(&dataset, "train").0, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(rows(&dataset, "test").0, [3.0, 0.0, 0.0]);
    for (first_index, features) in [(0, 3), (1, 2)] {
        let options = LibsvmOptions {
            first_index: Some(first_index),
            ..LibsvmOptions::default()
        };
        let (_dir, made) = prepared(&texts[..1], options);
        let (dataset, found) = made.unwrap();
        assert_eq!(
            (found.features, first(&dataset)),
            (features, Some(first_index))
        );
    }
}

#[test]
fn the_number_of_features_may_exceed_the_largest_index() {
    let texts: [&[u8]; 1] = [b"1 1:1\n2 2:1\n"];
    let of = |features| LibsvmOptions {
        features: Some(features),
        ..LibsvmOptions::default()
    };
    let (_dir, made) = prepared(&texts, of(4));
    let (dataset, _) = made.unwrap();
    assert_eq!(
        rows(&dataset, "train").0,
        [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    );
    let (_dir, made) = prepared(&texts, of(1));
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("`features` 2"),
        "{error}"
    );
    for features in [0, MAX_FEATURES + 1] {
        let (_dir, made) = prepared(&texts, of(features));
        assert_eq!(made.unwrap_err().exit_code(), 64);
    }
}

#[test]
fn compression_and_byte_order_mark_do_not_change_the_rows() {
    use std::io::Write;
    let plain = b"1 1:1\r\n2 2:1\r\n".to_vec();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let marked = [b"\xEF\xBB\xBF", &plain[..]].concat();
    let (_dir, expected) = prepared(&[&plain], LibsvmOptions::default());
    let expected = rows(&expected.unwrap().0, "train");
    for text in [gz.finish().unwrap(), marked] {
        let (_dir, made) = prepared(&[&text], LibsvmOptions::default());
        assert_eq!(rows(&made.unwrap().0, "train"), expected);
    }
}

#[test]
fn invalid_text_is_rejected_with_its_line() {
    for (text, part) in [
        (&b"1 1:1\n\xff\xfe 1:1\n"[..], "line 2"),
        (b"1 1:1\nx 1:1\n", "line 2: found \"x\""),
        (b"1.5 1:1\n", "line 1"),
        (b"1 1:1\n1,2 1:1\n", "line 2: found \"1,2\""),
        (b"1 1:1\n1:1 2:1\n", "line 2: found a value first"),
        (b"1 2:1 2:1\n", "ascend"),
        (b"7 1:1\n7 2:1\n", "one: label 7 in all 2 rows"),
        (b"1\n2\n", "features: found 0"),
        (b"", "rows: found 0"),
        (b"\xFF\xFE1\0", "UTF-16"),
    ] {
        let (_dir, made) = prepared(&[text], LibsvmOptions::default());
        let error = made.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.exit_code(), 65);
    }
    let options = LibsvmOptions {
        first_index: Some(1),
        ..LibsvmOptions::default()
    };
    let (_dir, made) = prepared(&[b"1 1:1\n2 0:1\n"], options);
    let error = made.unwrap_err().to_string();
    assert!(error.contains("line 2: found index 0"), "{error}");
}

/// Columns that lose digits in f32 are refused or, with `center`, shifted.
#[test]
fn center_keeps_the_digits_of_times() {
    let mut text = String::new();
    for i in 0..100 {
        text += &format!(
            "{} 1:{} 3:{}\n",
            i % 2,
            1_700_000_000 + 10 * i,
            0.1 * f64::from(i)
        );
    }
    let (_dir, made) = prepared(&[text.as_bytes()], LibsvmOptions::default());
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("index 1:") && error.contains("`center`"),
        "{error}"
    );
    let center = LibsvmOptions {
        center: true,
        ..LibsvmOptions::default()
    };
    let (_dir, made) = prepared(&[text.as_bytes(), b"1 3:1\n"], center);
    let (dataset, _) = made.unwrap();
    let shift = dataset.manifest().numbers.clone().unwrap().shift.unwrap();
    assert_eq!((shift[1], shift[2]), (0.0, 0.0));
    let (x, _) = rows(&dataset, "train");
    for (i, row) in x.chunks(3).enumerate() {
        assert_eq!(f64::from(row[0]) + shift[0], 1.7e9 + 10.0 * i as f64);
        assert_eq!(row[2], (0.1 * i as f64) as f32);
    }
    // An omitted value is 0 before the shift.
    assert_eq!(rows(&dataset, "test").0, [-shift[0] as f32, 0.0, 1.0]);
    // A column with an omitted zero loses no digits.
    text += "0 2:1\n";
    let (_dir, made) = prepared(&[text.as_bytes()], LibsvmOptions::default());
    assert!(
        made.unwrap()
            .0
            .manifest()
            .numbers
            .clone()
            .unwrap()
            .shift
            .is_none()
    );
}

/// Rows that exceed the disk are refused while the text is read, before its end.
#[test]
fn dense_rows_beyond_the_disk_are_refused_early() {
    let mut text = b"1 1:1\n2 16777216:1\n".to_vec();
    for _ in 0..1 << 21 {
        text.extend(b"1\n");
    }
    let (_dir, made) = prepared(&[&text], LibsvmOptions::default());
    let error = made.unwrap_err();
    assert_eq!(error.exit_code(), 74);
    assert!(
        error.to_string().contains("x 16777216 features take"),
        "{error}"
    );
}
