//! Arrays and tables as NumPy and other tools write them are read; anything else is refused.

mod common;

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::world::{FIT, PREP, World, succeeds};
use flowreg::data::arrays::{ArrayOptions, ArrayPart, load, prepare};
use flowreg::data::csv_text;
use flowreg::data::csv_text::{CsvOptions, Table};
use flowreg::data::dataset::{Manifest, NumberFormat, Prepared};
use flowreg::data::folder::Shares;
use flowreg::data::libsvm;
use flowreg::data::libsvm::LibsvmOptions;
use flowreg::data::list;
use flowreg::data::rows;
use flowreg::data::rows::RowReader;
use flowreg::data::source::Part;
use flowreg::data::text::open_text;
use flowreg::io::npy;
use flowreg::io::npy::{Dtype, Header};
use flowreg::io::publish::Overwrite;
use flowreg::threads;
use flowreg::{Cancel, Dataset, Model, Result};
use half::f16;
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/arrays")
        .join(name)
}

/// All rows of a reader, a few at a time.
fn read_all(mut reader: Box<dyn RowReader>, together: usize) -> Result<Vec<f32>> {
    let features = reader.features();
    let (mut all, mut block) = (Vec::new(), vec![0.0; together * features]);
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(all),
            rows => all.extend_from_slice(&block[..rows * features]),
        }
    }
}

fn rows_of(path: &Path, features: usize) -> Result<Vec<f32>> {
    read_all(rows::open(path, &NumberFormat::default(), features)?, 2)
}

fn part(x: &Path, y: &Path) -> ArrayPart {
    ArrayPart {
        name: "train",
        x: x.to_path_buf(),
        y: y.to_path_buf(),
    }
}

/// The first part as a dataset: its manifest, rows and labels.
fn prepared(parts: &[ArrayPart], options: ArrayOptions) -> Result<(Manifest, Vec<f32>, Vec<u32>)> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    prepare(parts, &options, &out, Overwrite::Never, &|_| {})?;
    Ok(of_dataset(&out))
}

fn of_dataset(out: &Path) -> (Manifest, Vec<f32>, Vec<u32>) {
    let dataset = Dataset::open(out).unwrap();
    let split = dataset.split("train").unwrap();
    let samples = split.samples().unwrap();
    let x = samples.x().contiguous().unwrap().as_slice().to_vec();
    let labels = samples.labels().to_vec();
    (dataset.manifest().clone(), x, labels)
}

/// The values that tools/arrays_golden.py saves, by its formula.
fn expected(kind: &str) -> Vec<f32> {
    let numbers = (0..5).flat_map(|i| (0..4).map(move |j| (7 * i - 3 * j) as f32));
    let of = |x: f32| match kind {
        _ if kind.starts_with("float") => x / 8.0,
        _ if kind.starts_with("uint") => x.abs(),
        "bool" => f32::from(u8::from(x > 0.0)),
        _ => x,
    };
    numbers.map(of).collect()
}

#[test]
fn arrays_saved_by_numpy_are_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let Some(kind) = name.strip_prefix("big_").or(name.strip_prefix("little_")) else {
            continue;
        };
        let kind = kind.trim_end_matches("_fortran");
        assert_eq!(rows_of(&path, 4).unwrap(), expected(kind), "{name}");
        let as_bytes = if kind == "uint8" { 255.0 } else { 1.0 };
        let stored: Vec<f32> = expected(kind).iter().map(|x| x / as_bytes).collect();
        let parts = [part(&path, &golden("y.npy"))];
        let (manifest, x, labels) = prepared(&parts, ArrayOptions::default()).unwrap();
        assert_eq!(x, stored, "{name}");
        assert_eq!(labels, [0, 1, 2, 0, 1], "{name}");
        let scale = manifest.numbers.and_then(|numbers| numbers.scale);
        assert_eq!(scale.is_some(), kind == "uint8", "{name}");
        // Read into memory and mapped.
        let loaded = load(&parts, &ArrayOptions::default(), &|_, _| ()).unwrap();
        let samples = loaded.splits[0].samples().unwrap();
        assert_eq!(
            samples.x().contiguous().unwrap().as_slice(),
            stored,
            "{name}"
        );
        assert_eq!(
            loaded.splits[0].is_mapped(),
            name == "little_float32",
            "{name}"
        );
        read += 1;
    }
    assert_eq!(read, 42);
    for version in 1..=3 {
        let path = golden(&format!("version_{version}.npy"));
        assert_eq!(rows_of(&path, 4).unwrap(), expected("float32"));
    }
}

#[test]
fn archive_members_are_read_by_name_or_if_unambiguous() {
    let of = |address: &str| rows_of(&golden(address), 4);
    for address in [
        "single.npz",
        "single.npz:weights",
        "single.npz:weights.npy",
        "positional.npz",
        "stored.npz",
        "stored.npz:x",
        "stored.npz:turned",
        "deflated.npz",
        "deflated.npz:turned",
    ] {
        assert_eq!(of(address).unwrap(), expected("float64"), "{address}");
    }
    for archive in ["stored.npz", "deflated.npz", "positional.npz"] {
        let parts = [part(&golden(archive), &golden(archive))];
        for center in [false, true] {
            let options = ArrayOptions {
                center,
                ..ArrayOptions::default()
            };
            let (_, x, labels) = prepared(&parts, options).unwrap();
            assert_eq!((x, &*labels), (expected("float64"), &[0, 1, 2, 0, 1][..]));
        }
    }
    for (address, parts) in [
        ("stored.npz:z", &["the arrays x, y, turned", "\"z\""][..]),
        (
            "stored.npz:y",
            &["stored.npz:y: shape: found [5]", "reshape(-1, 1)"],
        ),
        ("none.npz:x", &["none.npz:x: cannot open"]),
    ] {
        let error = of(address).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let several = dir.path().join("several.npz");
    std::fs::write(
        &several,
        zip(&[("a.npy", b"", false), ("b.npy", b"", false)]),
    )
    .unwrap();
    let error = rows_of(&several, 4).unwrap_err().to_string();
    assert!(
        error.contains("the arrays a, b") && error.contains("several.npz:a"),
        "{error}"
    );
    // A member is not chosen by a common name of features either.
    for name in ["data", "features"] {
        let member = format!("{name}.npy");
        std::fs::write(
            &several,
            zip(&[(&member, b"", false), ("other.npy", b"", false)]),
        )
        .unwrap();
        let error = rows_of(&several, 4).unwrap_err().to_string();
        assert!(
            error.contains(&format!("the arrays {name}, other")),
            "{error}"
        );
    }
}

#[test]
fn labels_of_any_kind_are_numbered() {
    let x = golden("little_float32.npy");
    let of = |y: &str| prepared(&[part(&x, &golden(y))], ArrayOptions::default());
    for y in ["y.npy", "y_column.npy", "y_float.npy", "stored.npz:y"] {
        let (manifest, _, labels) = of(y).unwrap();
        assert_eq!(labels, [0, 1, 2, 0, 1], "{y}");
        assert_eq!(manifest.class_names, ["class 0", "class 1", "class 2"]);
    }
    for y in ["y_names.npy", "y_names_big.npy", "y_bytes.npy"] {
        // Numbered as by numpy.unique(y, return_inverse=True): rose, aster, Ähre.
        let (manifest, _, labels) = of(y).unwrap();
        assert_eq!(labels, [1, 0, 2, 1, 0], "{y}");
        assert_eq!(manifest.class_names, ["aster", "rose", "Ähre"]);
    }
    let parts = [part(&x, &golden("y_names.npy")), part(&x, &golden("y.npy"))];
    let error = prepared(&parts, ArrayOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("y.npy: descr: found whole numbers"),
        "{error}"
    );
}

/// The bytes of a `.npy` file with a header of this version, padded to a multiple of `align`.
fn npy(version: u8, align: usize, dictionary: &str, data: &[u8]) -> Vec<u8> {
    let before = if version == 1 { 10 } else { 12 };
    let length = (before + dictionary.len() + 1).next_multiple_of(align) - before;
    let mut bytes = [b"\x93NUMPY", &[version, 0][..]].concat();
    match version {
        1 => bytes.extend((length as u16).to_le_bytes()),
        _ => bytes.extend((length as u32).to_le_bytes()),
    }
    bytes.extend(dictionary.as_bytes());
    bytes.resize(before + length - 1, b' ');
    bytes.push(b'\n');
    bytes.extend(data);
    bytes
}

/// The bytes of a zip file of members: name, content, and whether it is deflated.
fn zip(members: &[(&str, &[u8], bool)]) -> Vec<u8> {
    use std::io::Write;
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for &(name, content, deflated) in members {
        let data = if deflated {
            let mut deflate =
                flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            deflate.write_all(content).unwrap();
            deflate.finish().unwrap()
        } else {
            content.to_vec()
        };
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut common = vec![20, 0, 0, 0, if deflated { 8 } else { 0 }, 0, 0, 0, 33, 0];
        for number in [crc.sum(), data.len() as u32, content.len() as u32] {
            common.extend(number.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(*b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(*b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(data);
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(*b"PK\x05\x06\0\0\0\0");
    file.extend([members.len() as u8, 0, members.len() as u8, 0]);
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

/// A number as an element of a type, little-endian, and as f32.
fn element(kind: &str, n: i64) -> (Vec<u8>, f32) {
    let bytes = match kind {
        "b1" => vec![u8::from(n & 1 == 1)],
        "i1" => (n as i8).to_le_bytes().to_vec(),
        "u1" => (n as u8).to_le_bytes().to_vec(),
        "i2" => (n as i16).to_le_bytes().to_vec(),
        "u2" => (n as u16).to_le_bytes().to_vec(),
        "i4" => (n as i32).to_le_bytes().to_vec(),
        "u4" => (n as u32).to_le_bytes().to_vec(),
        "i8" => n.to_le_bytes().to_vec(),
        "u8" => n.unsigned_abs().to_le_bytes().to_vec(),
        "f2" => f16::from_f32((n % 2048) as f32).to_le_bytes().to_vec(),
        "f4" => (n as f32 / 3.0).to_le_bytes().to_vec(),
        _ => (n as f64 / 3.0).to_le_bytes().to_vec(),
    };
    let value = match kind {
        "b1" => (n & 1) as f32,
        "i1" => f32::from(n as i8),
        "u1" => f32::from(n as u8),
        "i2" => f32::from(n as i16),
        "u2" => f32::from(n as u16),
        "i4" => n as i32 as f32,
        "u4" => n as u32 as f32,
        "i8" => n as f32,
        "u8" => n.unsigned_abs() as f32,
        "f2" => (n % 2048) as f32,
        "f4" => n as f32 / 3.0,
        _ => (n as f64 / 3.0) as f32,
    };
    (bytes, value)
}

const KINDS: [&str; 12] = [
    "b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Arrays of every type, order and version, plain or deflated, are read as they were written.
    #[test]
    fn any_array_is_read(
        kind in prop::sample::select(&KINDS[..]),
        (rows, columns) in (1usize..7, 1usize..6),
        seed in any::<u64>(),
        (big, fortran, quotes) in any::<(bool, bool, bool)>(),
        (version, align) in (1u8..=3, prop::sample::select(&[1usize, 16, 64][..])),
        packing in 0..3,
        together in 1usize..4,
    ) {
        let n = |i: usize| {
            let mixed = (seed ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(31);
            (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 14) as i64 - (1 << 49)
        };
        let elements: Vec<_> = (0..rows * columns).map(|i| element(kind, n(i))).collect();
        let places: Vec<usize> = if fortran { (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j)).collect() } else { (0..rows * columns).collect() };
        let mut data = Vec::new();
        for place in places {
            let mut bytes = elements[place].0.clone();
            if big {
                bytes.reverse();
            }
            data.extend(bytes);
        }
        let order = match (kind.ends_with('1'), big) {
            (true, _) => '|',
            (false, false) => '<',
            (false, true) => '>',
        };
        let fortran = if fortran { "True" } else { "False" };
        let mut text = format!(
            "{{'shape': ({rows}, {columns}), 'fortran_order': {fortran}, 'descr': '{order}{kind}'}}"
        );
        if quotes {
            text = text.replace('\'', "\"");
        }
        let file = npy(version, align, &text, &data);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        match packing {
            0 => std::fs::write(&path, file).unwrap(),
            packing => {
                let members = [("y.npy", &b"other"[..], false), ("x.npy", &file, packing == 2)];
                std::fs::write(&path, zip(&members)).unwrap();
            }
        }
        let reader = rows::open(&path, &NumberFormat::default(), columns).unwrap();
        prop_assert_eq!(reader.rows(), Some(rows));
        let found = read_all(reader, together).unwrap();
        let expected: Vec<f32> = elements.iter().map(|element| element.1).collect();
        prop_assert_eq!(found, expected);
    }

    /// Any bytes give rows or an error, never a panic.
    #[test]
    fn any_bytes_give_rows_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0..4,
        at in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
        let whole = npy(1, 64, text, &[0; 16]);
        let packed = zip(&[("x.npy", &whole, true), ("z.npy", &whole, false)]);
        let file = match kind {
            0 => bytes,
            1 => [b"PK\x03\x04", &bytes[..]].concat(),
            kind => {
                let mut file = if kind == 2 { packed } else { whole };
                let at = at.index(file.len());
                let end = (at + bytes.len().min(6)).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
                file
            }
        };
        std::fs::write(&path, file).unwrap();
        let _ = rows_of(&path, 2);
    }
}

/// The arrays of a sparse matrix are not the matrix: each is refused.
#[test]
fn sparse_matrices_of_every_kind_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let array = npy(
        1,
        64,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }",
        &[0; 16],
    );
    for kind in [
        &["indices", "indptr"][..],
        &["row", "col"],
        &["coords"],
        &["offsets"],
    ] {
        let names = [kind, &["format", "shape", "data", "_is_array"]].concat();
        let names: Vec<String> = names.iter().map(|name| format!("{name}.npy")).collect();
        let members = names.iter().map(|name| (&**name, &*array, false));
        std::fs::write(&path, zip(&members.collect::<Vec<_>>())).unwrap();
        for x in ["x.npz", "x.npz:data", "x.npz:data.npy"] {
            let x = dir.path().join(x);
            let error = rows_of(&x, 2).unwrap_err().to_string();
            assert!(error.contains("found a sparse matrix"), "{error}");
            assert!(error.contains("X.toarray()"), "{error}");
        }
        let options = CsvOptions::default();
        let error = of_tables(&[("train", &path)], &options).unwrap_err();
        assert!(error.to_string().contains("X.toarray()"), "{error}");
    }
    // Arrays that share some names with those of a sparse matrix are accepted.
    let members =
        ["x.npy", "format.npy", "shape.npy", "data.npy"].map(|name| (name, &*array, false));
    std::fs::write(&path, zip(&members)).unwrap();
    assert_eq!(
        rows_of(&dir.path().join("x.npz:data"), 2).unwrap(),
        [0.0; 4]
    );
}

/// A member compressed in a way that numpy.savez does not use is refused, with the method's name.
#[test]
fn unsupported_compression_of_a_member_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let good = zip(&[("x.npy", &[0; 100], true)]);
    for (method, name) in [(12u16, "bzip2"), (14, "LZMA"), (95, "a method that NumPy")] {
        let mut bytes = good.clone();
        let central = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        bytes[8..10].copy_from_slice(&method.to_le_bytes());
        bytes[central + 10..][..2].copy_from_slice(&method.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = rows_of(&path, 4).unwrap_err().to_string();
        assert!(error.contains(&format!("compression by {name}")), "{error}");
        assert!(error.contains("numpy.savez("), "{error}");
    }
}

/// An invalid number is printed with all digits, and with the same message by every reader.
#[test]
fn invalid_features_have_the_same_message_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, descr: &str, shape: &str, data: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        std::fs::write(path(name), npy(1, 64, &text, data)).unwrap();
    };
    write("y.npy", "|u1", "(2,)", &[0, 1]);
    let told = |error: flowreg::Error| {
        let error = error.to_string();
        let (_, said) = error.split_once(": found ").unwrap();
        said.to_string()
    };
    let of_array = |descr: &str, bytes: &[u8]| {
        write(
            "x.npy",
            descr,
            "(2, 1)",
            &[&vec![0; bytes.len()], bytes].concat(),
        );
        let parts = [part(&path("x.npy"), &path("y.npy"))];
        let prepared = told(prepared(&parts, ArrayOptions::default()).unwrap_err());
        let loaded = load(&parts, &ArrayOptions::default(), &|_, _| {});
        let loaded = loaded.and_then(|loaded| loaded.splits[0].samples().map(drop));
        assert_eq!(told(loaded.unwrap_err()), prepared);
        prepared
    };
    let words = |said: &str| said.split_once(", expected ").unwrap().1.to_string();
    for (text, number) in [("inf", f64::INFINITY), ("nan", f64::NAN), ("1e16", 1e16)] {
        let f4 = of_array("<f4", &(number as f32).to_le_bytes());
        let f8 = of_array(">f8", &number.to_be_bytes());
        assert_eq!(f4, f8);
        std::fs::write(path("t.csv"), format!("a,y\n1,0\n{text},1\n")).unwrap();
        let options = CsvOptions {
            label: "y".to_string(),
            ..CsvOptions::default()
        };
        let table = of_tables(&[("train", &path("t.csv"))], &options).unwrap_err();
        assert_eq!(words(&told(table)), words(&f4));
        std::fs::write(path("t.t"), format!("0 1:1\n1 1:{text}\n")).unwrap();
        let parts = [Part {
            name: "train",
            path: path("t.t"),
        }];
        let (out, options) = (path("out"), Default::default());
        let lines =
            flowreg::data::libsvm::prepare(&parts, &options, &out, Overwrite::Never, &|_| {});
        assert_eq!(words(&told(lines.unwrap_err())), words(&f4));
    }
    for (descr, number, text) in [
        (
            "<i8",
            9_007_199_254_740_993i64.to_le_bytes(),
            "9007199254740993",
        ),
        (">i8", i64::MIN.to_be_bytes(), "-9223372036854775808"),
        ("<u8", u64::MAX.to_le_bytes(), "18446744073709551615"),
    ] {
        let said = of_array(descr, &number);
        assert!(said.starts_with(&format!("{text}, expected")), "{said}");
    }
}

/// An array in Fortran order is converted in memory, as f64: the message still has all digits.
#[test]
fn refused_integers_of_fortran_order_are_printed_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = (dir.path().join("x.npy"), dir.path().join("y.npy"));
    let text = "{'descr': '<i8', 'fortran_order': True, 'shape': (2, 3), }";
    let numbers: [i64; 6] = [1, 2, 3, 4, 5, 9_007_199_254_740_993];
    let numbers = numbers.map(i64::to_le_bytes).concat();
    std::fs::write(&x, npy(1, 64, text, &numbers)).unwrap();
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }";
    std::fs::write(&y, npy(1, 64, text, &[0, 1])).unwrap();
    let error = prepared(&[part(&x, &y)], ArrayOptions::default()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("row 1, column 2: found 9007199254740993, expected"),
        "{error}"
    );
}

/// The checksum of a member is verified and its length bounded.
#[test]
fn damaged_and_forged_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let values: Vec<u8> = (0..400).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (100, 4), }";
    let turned = text.replace("False", "True");
    for (deflated, text) in [
        (false, text),
        (true, text),
        (false, &*turned),
        (true, &*turned),
    ] {
        let good = zip(&[("x.npy", &npy(1, 64, text, &values), deflated)]);
        std::fs::write(&path, &good).unwrap();
        assert_eq!(rows_of(&path, 4).unwrap().len(), 400);
        // Within the data, behind the local header (35 bytes) and the header of the array.
        for at in (200..good.len() - 100).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let error = rows_of(&path, 4).unwrap_err();
            assert_eq!(error.exit_code(), 65, "{at}: {error}");
            assert!(error.to_string().contains("x.npz:x"), "{error}");
        }
        // Truncated.
        for len in (0..good.len()).step_by(29) {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(rows_of(&path, 4).is_err(), "{len}");
        }
    }
    // A member that claims 2 GiB and has a hundred bytes: no memory is allocated for the claim.
    let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (131072, 4096), }";
    let mut lie = zip(&[("x.npy", &npy(1, 64, huge, &[0; 100]), true)]);
    let size = ((1u32 << 31) + 128).to_le_bytes();
    let directory = lie.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    for at in [22, directory + 24] {
        lie[at..at + 4].copy_from_slice(&size);
    }
    std::fs::write(&path, &lie).unwrap();
    let error = rows_of(&path, 4096).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    let mut secret = zip(&[("x.npy", &npy(1, 64, text, &values), false)]);
    let directory = secret.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    for at in [6, directory + 8] {
        secret[at] |= 1;
    }
    std::fs::write(&path, &secret).unwrap();
    let error = rows_of(&path, 4).unwrap_err().to_string();
    assert!(error.contains("encryption"), "{error}");
}

#[test]
fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let array = |name: &str, descr: &str, shape: &str, data: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        std::fs::write(path(name), npy(1, 64, &text, data)).unwrap();
        path(name)
    };
    let y = array("y", "|u1", "(2,)", &[0, 1]);
    let good = array("x", "<f4", "(2, 1)", &[0; 8]);
    let of = |x: &Path, y: &Path| {
        let error = prepared(&[part(x, y)], ArrayOptions::default()).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        error.to_string()
    };
    for (descr, shape, data, advice) in [
        ("<f4", "(2, 2, 2)", 32, "reshape(len(x), -1)"),
        ("<f4", "(2,)", 8, "reshape(-1, 1)"),
        ("<f4", "()", 4, "reshape(-1, 1)"),
        ("<f4", "(0, 2)", 0, "at least one"),
        ("<f4", "(2, 0)", 0, "at least one"),
        ("<c8", "(2, 1)", 16, "x.real"),
        ("<U1", "(2, 1)", 8, "astype('f4')"),
        ("<f4", "(2, 1)", 7, "expected 136 from the header"),
    ] {
        let x = array("bad", descr, shape, &vec![0; data]);
        let error = of(&x, &y);
        assert!(error.contains(advice), "{error}");
    }
    for (descr, shape, data, advice) in [
        (
            "<f8",
            "(2,)",
            [0.0f64, 0.5].map(f64::to_le_bytes).concat(),
            "row 1: found 0.5, expected a whole number",
        ),
        (
            "<f8",
            "(2,)",
            [0.0, f64::NAN].map(f64::to_le_bytes).concat(),
            "row 1: found NaN",
        ),
        (
            "<i8",
            "(2,)",
            [0i64, -1].map(i64::to_le_bytes).concat(),
            "row 1: found -1, expected 0..524288",
        ),
        (
            "<u8",
            "(2,)",
            [0, u64::MAX].map(u64::to_le_bytes).concat(),
            "18446744073709551615",
        ),
        (
            "<i8",
            "(2,)",
            [3i64, 3].map(i64::to_le_bytes).concat(),
            "one: label 3 in all 2 rows",
        ),
        ("|u1", "(2, 3)", vec![0; 6], "argmax(1)"),
        ("|u1", "(1, 2)", vec![0; 2], "reshape(-1)"),
        ("|u1", "(3,)", vec![0; 3], "one label per row, 2"),
        (
            "|S2",
            "(2,)",
            vec![b'a', 0, 0xff, 0xfe],
            "row 1: found bytes that are no text",
        ),
        (
            "|S2",
            "(2,)",
            vec![b'a', 0, 0, 0],
            "label of row 1: found \"\", expected the name",
        ),
        (
            "<U1",
            "(2,)",
            [65u32, 0xD800].map(u32::to_le_bytes).concat(),
            "row 1: found bytes that are no text",
        ),
        ("<c8", "(2,)", vec![0; 16], "abs(x)"),
    ] {
        let y = array("bad", descr, shape, &data);
        let error = of(&good, &y);
        assert!(error.contains(advice), "{error}");
    }
    // Splits of bytes and of floats: only one of them would be divided by 255.
    let bytes = array("bytes", "|u1", "(2, 1)", &[0, 1]);
    let error = prepared(
        &[part(&good, &y), part(&bytes, &y)],
        ArrayOptions::default(),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("bytes: descr: found |u1") && error.contains("astype('f4')"),
        "{error}"
    );
    for folder in [of(dir.path(), &y), of(&good, dir.path())] {
        assert!(
            folder.contains("found a folder, expected a regular file"),
            "{folder}"
        );
    }
    // Labels from 1.
    let from_1 = array("from", "<i2", "(2,)", &[1, 0, 2, 0]);
    let options = ArrayOptions {
        labels_from: 1,
        ..ArrayOptions::default()
    };
    let (manifest, _, labels) = prepared(&[part(&good, &from_1)], options.clone()).unwrap();
    assert_eq!(
        (labels, manifest.class_names),
        (vec![0, 1], vec!["class 1".into(), "class 2".into()])
    );
    let error = prepared(&[part(&good, &y)], options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("row 0: found 0, expected 1.."), "{error}");
}

/// Unix times within one hour, and labels that depend on them.
fn times(dir: &Path) -> (PathBuf, PathBuf) {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for i in 0..360u32 {
        let second = f64::from(i * 7919 % 3600);
        x.extend(
            [f64::from(i % 5), 1.7e9 + second]
                .map(f64::to_le_bytes)
                .concat(),
        );
        y.push(u8::from(second > 1234.0));
    }
    let x_text = "{'descr': '<f8', 'fortran_order': False, 'shape': (360, 2), }";
    let y_text = "{'descr': '|u1', 'fortran_order': False, 'shape': (360,), }";
    std::fs::write(dir.join("times.npy"), npy(1, 64, x_text, &x)).unwrap();
    std::fs::write(dir.join("late.npy"), npy(1, 64, y_text, &y)).unwrap();
    (dir.join("times.npy"), dir.join("late.npy"))
}

#[test]
fn columns_beyond_the_precision_of_f32_are_refused_or_shifted() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = times(dir.path());
    let parts = [part(&x, &y)];
    for refused in [
        prepared(&parts, ArrayOptions::default()).map(drop),
        load(&parts, &ArrayOptions::default(), &|_, _| ()).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.exit_code(), 65);
        let error = error.to_string();
        assert!(
            error.contains("times.npy: column 1: found values about"),
            "{error}"
        );
        assert!(error.contains("`center`"), "{error}");
    }
    let options = ArrayOptions {
        center: true,
        ..ArrayOptions::default()
    };
    let (manifest, stored, _) = prepared(&parts, options.clone()).unwrap();
    let shift = manifest.numbers.as_ref().unwrap().shift.clone().unwrap();
    assert_eq!(shift[0], 0.0, "nothing is lost of the other column");
    for (i, row) in stored.chunks(2).enumerate() {
        let second = f64::from(i as u32 * 7919 % 3600);
        assert_eq!(f64::from(row[1]), 1.7e9 + second - shift[1]);
        assert_eq!(row[0], (i % 5) as f32);
    }
    let loaded = load(&parts, &options, &|_, _| ()).unwrap();
    assert_eq!(Some(&loaded.numbers), manifest.numbers.as_ref());
    let samples = loaded.splits[0].samples().unwrap();
    assert_eq!(samples.x().contiguous().unwrap().as_slice(), stored);
    // A model with this number format reads the same file.
    let read = rows::open(&x, &loaded.numbers, 2).unwrap();
    assert_eq!(read_all(read, 100).unwrap(), stored);
}

/// Integers of so small a spread that f32 rounds them to one value.
#[test]
fn a_column_of_small_spread_is_not_taken_for_a_constant() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let x: Vec<u8> = (0..8i64)
        .flat_map(|k| (900_000_000_000_000 + k).to_le_bytes())
        .collect();
    let text = "{'descr': '<i8', 'fortran_order': False, 'shape': (8, 1), }";
    std::fs::write(path("x.npy"), npy(1, 64, text, &x)).unwrap();
    let y: Vec<u8> = (0..8).map(|k| k % 2).collect();
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (8,), }";
    std::fs::write(path("y.npy"), npy(1, 64, text, &y)).unwrap();
    let parts = [part(&path("x.npy"), &path("y.npy"))];
    for refused in [
        prepared(&parts, ArrayOptions::default()).map(drop),
        load(&parts, &ArrayOptions::default(), &|_, _| ()).map(drop),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("x.npy: column 0: found values about"),
            "{error}"
        );
    }
    let options = ArrayOptions {
        center: true,
        ..ArrayOptions::default()
    };
    let (_, stored, _) = prepared(&parts, options).unwrap();
    let apart: Vec<f32> = stored.iter().map(|value| value - stored[0]).collect();
    assert_eq!(apart, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

/// Validation rows may lose digits where training rows do not: every input format checks them.
#[test]
fn every_split_is_checked_for_lost_digits() {
    let world = World(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let write = |name: &str, text: &[u8]| std::fs::write(world.path(name), text).unwrap();
    write("t.csv", b"a,b,y\n1,7,u\n2,8,v\n1.5,9,u\n");
    write(
        "v.csv",
        b"b,a,y\n7,1700000001,u\n8,1700000002,v\n9,1700000003,u\n",
    );
    write("t.svm", b"1 1:1 2:7\n2 1:2 2:8\n1 1:1.5 2:9\n");
    write("v.svm", b"1 1:1700000001 2:7\n2 1:1700000002 2:8\n");
    let column = |values: &[f64]| {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let rows = values.len();
        let text = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, 1), }}");
        npy(1, 64, &text, &bytes)
    };
    write("t.npy", &column(&[1.0, 2.0, 1.5]));
    write("t4.npy", &npy::f32_file(&[3, 1], &[1.0, 2.0, 1.5]));
    write(
        "v.npy",
        &column(&[1700000001.0, 1700000002.0, 1700000003.0]),
    );
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }";
    write("y.npy", &npy(1, 64, text, &[0, 1, 0]));
    let csv = [
        "csv", "--train", "t.csv", "--val", "v.csv", "--label", "y", "--out", "o",
    ];
    let libsvm = [
        "libsvm", "--train", "t.svm", "--test", "v.svm", "--out", "o",
    ];
    let (x, val) = (
        ["--x", "t.npy", "--y", "y.npy"],
        ["--x-val", "v.npy", "--y-val", "y.npy"],
    );
    let x4 = ["--x", "t4.npy", "--y", "y.npy"];
    for center in [&[][..], &["--center"]] {
        for (program, args, parts) in [
            (PREP, csv.to_vec(), ["v.csv", "column \"a\""]),
            (PREP, libsvm.to_vec(), ["v.svm", "index 1"]),
            (
                PREP,
                [&["npy"][..], &x, &val, &["--out", "o"]].concat(),
                ["v.npy", "column 0"],
            ),
            (
                PREP,
                [&["npy"][..], &x4, &val, &["--out", "o"]].concat(),
                ["v.npy", "column 0"],
            ),
            (
                FIT,
                [&x[..], &val, &["--out", "o"]].concat(),
                ["v.npy", "column 0"],
            ),
        ] {
            let args = [&args[..], center].concat();
            let parts = [parts[0], parts[1], "remove it from all tables"];
            world.refuses(65, &parts, |world| world.run(program, &args));
        }
    }
}

/// The rows of a dataset are stored shifted; flowreg-predict does not shift them again.
#[test]
fn dataset_rows_are_not_shifted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = times(dir.path());
    let options = ArrayOptions {
        center: true,
        ..ArrayOptions::default()
    };
    let out = dir.path().join("out");
    let parts = [part(&x, &y)];
    let prepared = prepare(&parts, &options, &out, Overwrite::Never, &|_| {}).unwrap();
    let mut format = prepared.manifest.numbers.unwrap();
    let stored = of_dataset(&out).1;
    let file = out.join("train.x.npy");
    let read = rows::open(&file, &format, 2).unwrap();
    assert_eq!(read_all(read, 7).unwrap(), stored);
    format.shift = Some(vec![0.0, 1.0]);
    let error = rows::open(&file, &format, 2)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another shift"), "{error}");
}

/// The number format of a dataset is compared with that of the model, also through links to its
/// files and for copies of them.
#[test]
fn dataset_rows_are_recognised_through_links_and_in_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (x, y) = times(dir.path());
    let out = path("out");
    let options = ArrayOptions {
        center: true,
        ..ArrayOptions::default()
    };
    let prepared = prepare(&[part(&x, &y)], &options, &out, Overwrite::Never, &|_| {}).unwrap();
    let format = prepared.manifest.numbers.unwrap();
    let stored = of_dataset(&out).1;
    let file = out.join("train.x.npy");
    let refused = |path: &Path, format: Option<&NumberFormat>| {
        let read = rows::open(path, format, 2).and_then(|rows| read_all(rows, 360));
        read.unwrap_err().to_string()
    };
    // A model without a shift, and one without a number format.
    for format in [Some(&NumberFormat::default()), None] {
        let error = refused(&file, format);
        assert!(error.contains("another shift"), "{error}");
    }
    std::os::unix::fs::symlink(&file, path("link.npy")).unwrap();
    let read = rows::open(&path("link.npy"), &format, 2).unwrap();
    assert_eq!(read_all(read, 7).unwrap(), stored);
    // A copy of the shifted rows is refused.
    std::fs::copy(&file, path("copy.npy")).unwrap();
    let error = refused(&path("copy.npy"), Some(&format));
    assert!(
        error.contains("copy.npy: column 1: found only numbers nearer to 0")
            && error.contains("dataset's own SPLIT.x.npy"),
        "{error}"
    );
    // A copy of another type is recognised too.
    let doubles: Vec<u8> = stored
        .iter()
        .flat_map(|&v| f64::from(v).to_le_bytes())
        .collect();
    let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (360, 2), }";
    std::fs::write(path("doubles.npy"), npy(1, 64, text, &doubles)).unwrap();
    let error = refused(&path("doubles.npy"), Some(&format));
    assert!(error.contains("only numbers nearer to 0"), "{error}");
    // A row of 0, which may stand for missing values, is not taken for a copy.
    for rows in [vec![0.0f32, 1.7e9, 1.0, 0.0], vec![0.0, 0.0, 1.0, 0.0]] {
        let bytes: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
        std::fs::write(path("missing.npy"), npy(1, 64, text, &bytes)).unwrap();
        let read = rows::open(&path("missing.npy"), &format, 2).unwrap();
        assert_eq!(read_all(read, 2).unwrap().len(), 4);
    }
    // Raw rows in f4 are accepted.
    let raw = [0.0f32, 1.7e9, 1.0, 1.7001e9]
        .map(f32::to_le_bytes)
        .concat();
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
    std::fs::write(path("raw.npy"), npy(1, 64, text, &raw)).unwrap();
    let read = rows::open(&path("raw.npy"), &format, 2).unwrap();
    assert_eq!(read_all(read, 2).unwrap().len(), 4);
    // Arrays that are files of a dataset have its number format, and cannot be mixed with raw rows.
    let loaded = load(&[part(&file, &y)], &ArrayOptions::default(), &|_, _| ()).unwrap();
    assert_eq!(loaded.numbers, format);
    let val = ArrayPart {
        name: "val",
        ..part(&x, &y)
    };
    for parts in [
        [part(&file, &y), val.clone()],
        [
            part(&x, &y),
            ArrayPart {
                x: file.clone(),
                ..val
            },
        ],
    ] {
        let error = load(&parts, &options, &|_, _| ()).unwrap_err().to_string();
        assert!(error.contains("give the dataset"), "{error}");
    }
    // A dataset of bytes, for a model of undivided numbers.
    let bytes = path("bytes");
    let parts = [part(&golden("little_uint8.npy"), &golden("y.npy"))];
    prepare(
        &parts,
        &ArrayOptions::default(),
        &bytes,
        Overwrite::Never,
        &|_| {},
    )
    .unwrap();
    let error = rows::open(&bytes.join("train.x.npy"), &NumberFormat::default(), 4)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("divided by 255"), "{error}");
}

/// Bytes are refused if the model does not record whether it divides them by 255.
#[test]
fn bytes_are_refused_if_the_model_has_no_number_format() {
    let bytes = golden("little_uint8.npy");
    let error = rows::open(&bytes, None, 4)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found |u1") && error.contains("astype('f4')"),
        "{error}"
    );
    let floats = golden("little_float32.npy");
    let read = read_all(rows::open(&floats, None, 4).unwrap(), 2).unwrap();
    assert_eq!(read, rows_of(&floats, 4).unwrap());
    // New datasets record it.
    let parts = [part(&floats, &golden("y.npy"))];
    let (manifest, ..) = prepared(&parts, ArrayOptions::default()).unwrap();
    assert_eq!(manifest.numbers, Some(NumberFormat::default()));
}

/// A model of bytes divided by 255 accepts bytes or quotients, and no other values.
#[test]
fn values_above_1_are_not_taken_for_bytes_divided_by_255() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    let format = NumberFormat {
        scale: Some("u8/255".to_string()),
        ..NumberFormat::default()
    };
    let of = |kind: &str, data: &[u8]| {
        let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1, 2), }}");
        std::fs::write(&path, npy(1, 64, &text, data)).unwrap();
        read_all(rows::open(&path, &format, 2)?, 1)
    };
    let bytes = of("|u1", &[51, 255]).unwrap();
    assert_eq!(bytes, [51.0 / 255.0, 1.0]);
    let quotients = bytes.iter().flat_map(|v| v.to_le_bytes());
    assert_eq!(of("<f4", &quotients.collect::<Vec<u8>>()).unwrap(), bytes);
    let error = of("<i2", &[1, 0, 200, 0]).unwrap_err().to_string();
    assert!(
        error.contains("row 0, column 1: found 200, expected numbers from 0 to 1"),
        "{error}"
    );
}

fn table(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    std::fs::write(dir.join(name), text).unwrap();
    dir.join(name)
}

fn of_tables(
    parts: &[(&'static str, &Path)],
    options: &CsvOptions,
) -> Result<(Manifest, Vec<f32>, Vec<u32>)> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let parts: Vec<Part> = (parts.iter())
        .map(|&(name, path)| Part {
            name,
            path: path.to_path_buf(),
        })
        .collect();
    csv_text::prepare(&parts, options, &out, Overwrite::Never, &|_| {})?;
    Ok(of_dataset(&out))
}

#[test]
fn tables_of_every_spelling_are_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let options = CsvOptions {
        label: "species".to_string(),
        ..CsvOptions::default()
    };
    for (name, text) in [
        (
            "plain",
            "length,species,wide\n1.5,rose,True\n-2e3,aster,False\n.25,rose,1\n",
        ),
        (
            "windows",
            "\u{feff}length,species,wide\r\n1.5,rose,1\r\n-2000,aster,0\r\n0.25,rose,1\r\n",
        ),
        (
            "mac",
            "length,species,wide\r1.5,rose,1\r-2000,aster,0\r0.25,rose,1\r",
        ),
        (
            "semicolons",
            "length;species;wide\n1.5;rose;1\n-2000;aster;0\n0.25;rose;1",
        ),
        (
            "tabs",
            "length\tspecies\twide\n1.5\trose\t1\n\n-2000\taster\t0\n0.25\trose\t1\n",
        ),
        (
            "quotes",
            "\"length\",\"species\",\"wide\"\n\"1.5\",\"rose\",1\n\"-2000\",\"aster\",\"0\"\n 0.25 ,\"rose\", +1\n",
        ),
    ] {
        let path = table(dir.path(), name, text);
        let (manifest, x, labels) = of_tables(&[("train", &path)], &options).unwrap();
        assert_eq!(x, [1.5, 1.0, -2000.0, 0.0, 0.25, 1.0], "{name}");
        assert_eq!(labels, [1, 0, 1], "{name}");
        assert_eq!(manifest.class_names, ["aster", "rose"]);
        let numbers = manifest.numbers.unwrap();
        assert_eq!(
            numbers.columns,
            Some(vec!["length".to_string(), "wide".to_string()])
        );
        // For a model of these columns, a table in another order and without labels.
        let path = table(dir.path(), "ask", "wide,length\n0,7\n");
        let text = open_text(&path, &Cancel::new()).unwrap();
        let read = Table::of_text(&path, text, None, None, &numbers).unwrap();
        assert_eq!(read_all(Box::new(read), 5).unwrap(), [7.0, 0.0]);
    }
    // Labels in numerical order, if all are integers; quoted commas, quotes and line ends.
    let text = "a,\"say \"\"b\"\",\nor c\",y\n1,2,10\n3,4,9\n5,6,-1\n7,8,10.0\n";
    let path = table(dir.path(), "numbers", text);
    let options = CsvOptions {
        label: "y".to_string(),
        ..CsvOptions::default()
    };
    let (manifest, x, labels) = of_tables(&[("train", &path)], &options).unwrap();
    assert_eq!(manifest.class_names, ["-1", "9", "10"]);
    assert_eq!(labels, [2, 1, 0, 2]);
    assert_eq!(x, (1..9).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(
        manifest.numbers.unwrap().columns.unwrap()[1],
        "say \"b\",\nor c"
    );
    // Columns of other splits are found by name.
    let (a, b) = (
        table(dir.path(), "a", "p,q,y\n1,2,u\n3,4,v\n"),
        table(dir.path(), "b", "y;q;p\nw;2;1\n"),
    );
    let (manifest, ..) = of_tables(&[("train", &a), ("test", &b)], &options).unwrap();
    assert_eq!(manifest.class_names, ["u", "v", "w"]);
    assert_eq!(manifest.splits.len(), 2);
}

/// Tables, arrays of text and lists give the same classes and refuse the same labels.
#[test]
fn labels_are_read_alike_from_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| table(dir.path(), name, text);
    let x = npy::f32_file(&[4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let x = write("x.npy", &x);
    let options = CsvOptions {
        label: "label".to_string(),
        ..CsvOptions::default()
    };
    let shares = Shares {
        val: 0.0,
        test: 0.0,
        seed: 0,
    };
    // Class names and the class of each row, or the error, from a table, an array of text and a list.
    let doors = |labels: [&str; 4]| {
        let rows = |row: &dyn Fn(usize) -> String| {
            let lines = (0..4).map(|i| format!("{},{}\n", row(i), labels[i]));
            "path,label\n".to_string() + &lines.collect::<String>()
        };
        let csv = write("t.csv", rows(&|i| i.to_string()).as_bytes());
        let csv = of_tables(&[("train", &csv)], &options).map(|(m, _, y)| (m.class_names, y));
        let mut y = Header::encode(Dtype::Bytes(8), &[4]);
        for label in labels {
            y.extend(format!("{label:\0<8}").bytes());
        }
        let y = write("y.npy", &y);
        let array = prepared(&[part(&x, &y)], ArrayOptions::default());
        let array = array.map(|(m, _, y)| (m.class_names, y));
        let list = write("l.csv", rows(&|i| format!("{i}.jpg")).as_bytes());
        let list = list::open(&list, None, shares, true).map(|found| {
            let mut rows = Vec::new();
            for (photograph, label) in &found.photographs.splits[0].rows {
                rows.push((photograph.name.clone(), *label));
            }
            rows.sort();
            let labels = rows
                .into_iter()
                .map(|(_, label)| label)
                .collect::<Vec<u32>>();
            (found.photographs.class_names, labels)
        });
        [csv, array, list]
    };
    for (labels, names, classes) in [
        (["1.0", "1", "10", "9"], &["1", "9", "10"][..], [0, 0, 2, 1]),
        (
            ["TRUE", "false", "True", "False"],
            &["False", "True"],
            [1, 0, 1, 0],
        ),
        (["10", "9", "x", "9"], &["10", "9", "x"], [0, 1, 2, 1]),
    ] {
        for made in doors(labels) {
            let (found, rows) = made.unwrap();
            assert_eq!(
                (found, &*rows),
                (names.iter().map(|n| n.to_string()).collect(), &classes[..])
            );
        }
    }
    for (labels, said) in [
        (
            ["a", "b", "nan", "b"],
            "found \"nan\", expected the name or number of a class; fill in",
        ),
        (
            ["a", "b", "0.5", "b"],
            "found \"0.5\", expected a whole number or the name of a class",
        ),
        (
            ["a", "b", "b ", "b"],
            "found \"b \", expected one spelling of a class: \"b\" came before",
        ),
        (
            ["1", "1.0", "x", "1"],
            "found \"1.0\", expected one spelling of a class: \"1\" came before",
        ),
        (
            ["7", "7.0", "7", "07"],
            "classes: found one: label 7 in all 4 rows",
        ),
    ] {
        for refused in doors(labels) {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}

#[test]
fn invalid_tables_are_refused_by_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let options = CsvOptions {
        label: "y".to_string(),
        ..CsvOptions::default()
    };
    let refused = |text: &[u8]| {
        let path = table(dir.path(), "t.csv", text);
        let error = of_tables(&[("train", &path)], &options).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        error.to_string()
    };
    for (text, advice) in [
        (
            &b"a,y\n1,0\n,1\n"[..],
            "line 3, column \"a\": found \"\", expected a number; fill in",
        ),
        (
            b"a,y\n1,0\nNaN,1\n",
            "line 3, column \"a\": found \"NaN\", expected a number; fill in",
        ),
        (b"a,y\n1,0\n?,1\n", "fill in or drop"),
        (
            b"a,y\n1,0\ninf,1\n",
            "line 3, column \"a\": found \"inf\", expected a number between -1e15 and",
        ),
        (b"a,y\n1,0\n1e16,1\n", "1e15"),
        (
            b"a,y\n1,0\nred,1\n",
            "line 3, column \"a\": found \"red\", expected a number such as",
        ),
        (b"a;y\n1;0\n\"1,5\";1\n", "found \"1,5\""),
        (b"a,y\n1,0\n2,NaN\n", "line 3, the label"),
        (
            b"a,y\n1,0\n2,\n",
            "line 3, the label: found \"\", expected the name or number of a class; fill in or drop",
        ),
        (
            b"a,y\n1,0\n2,NA\n",
            "line 3, the label: found \"NA\", expected the name or number of a class; fill in or drop missing labels, or rename",
        ),
        (
            b"a,y\n1,0\n2,caf\xe9\n",
            "line 3, the label: found \"caf\u{fffd}\", expected a label in UTF-8; save the table in UTF-8",
        ),
        // Lines are counted as by an editor, for every kind of line end.
        (b"a,y\r\n1,0\r\nred,1\r\n", "line 3, column \"a\""),
        (b"a,y\r1,0\r\rred,1\r", "line 4, column \"a\""),
        (b"\n\na,y\n1,0\n\n\nred,1\n", "line 7, column \"a\""),
        (b"a,y\r\n1,\"u\r\nv\"\r\nred,1\r\n", "line 4, column \"a\""),
        // An unclosed quote does not swallow rows.
        (
            b"a,y\n1,u\n2,v\n3,\"u\n4,v\n5,u\n",
            "line 4: found a quote that is never closed, expected a second quote",
        ),
        (
            b"a,y\n1,u\n2,\"v",
            "line 3: found a quote that is never closed",
        ),
        (
            b"a,y\n1,u\n2,\"u\n3,v\n4,\"v\"\n5,v\n",
            "line 3: found a field in quotes with text behind",
        ),
        // Classes are neither merged nor split silently.
        (
            b"a,y\n5,\"u\"\n6,\"u \"\n7,v\n",
            "line 3, the label: found \"u \", expected one spelling of a class: \"u\" came before, which differs by spaces only",
        ),
        (
            b"a,y\n1,TRUE\n6,true\n5,maybe\n",
            "line 3, the label: found \"true\", expected one spelling of a class: \"TRUE\" came before, which differs by capital letters only",
        ),
        (
            b"a,y\n1,1\n6,1.0\n5,x\n",
            "line 3, the label: found \"1.0\", expected one spelling of a class: \"1\" came before, which is the same number",
        ),
        (
            b"a,y\n1e39,0\n6,1\n",
            "line 2, column \"a\": found \"1e39\", expected a number between -1e15 and 1e15",
        ),
        (
            b"a,y\n1e16,0\n6,1\n",
            "expected a number between -1e15 and 1e15",
        ),
        (
            b"a,y\n1e-50,0\n2e-50,1\n1e-50,1\n",
            "column \"a\": found differences of about 4.7e-51, expected differences that f32 can hold",
        ),
        (
            b"a,y\n1,0\n2,0.5\n",
            "line 3, the label: found \"0.5\", expected a whole number or",
        ),
        (b"a,y\n1,0\n1,2,3\n", "line 3: found 3 fields, expected 2"),
        (b"a,y\n\"1\n2\",0\n", "line 2"),
        (
            b"a,b\n1,0\n",
            "found the columns a, b, expected a column \"y\"",
        ),
        (b"a|y\n1|0\n", "`delimiter` names another"),
        (
            b"1.5,2\n1,0\n",
            "numbers only (1.5, 2), expected a first line that names",
        ),
        (b",a,y\n0,1,0\n", "to_csv(index=False)"),
        (b"a,a,y\n0,1,0\n", "the column \"a\" twice"),
        (b"y\n0\n1\n", "no features"),
        (b"", "a line that names the columns"),
        (b"a,y\n", "rows: found 0"),
        (b"a,y\n1,0\n2,0\n", "label 0 in all 2 rows"),
        (b"\xff\xfea\0,\0y\0", "UTF-16"),
        (b"\xe4,y\n1,0\n", "UTF-8"),
        (b"a,y\n1,\xe4\n", "UTF-8"),
        (
            b"t,y\n1700000000.5,0\n1700000001.25,1\n1700000002.75,1\n",
            "column \"t\": found values about 1700000001",
        ),
    ] {
        let error = refused(text);
        assert!(
            error.contains(advice),
            "{:?}: {error}",
            String::from_utf8_lossy(text)
        );
    }
    let train = table(dir.path(), "train", "a,b,y\n1,2,0\n3,4,1\n");
    for (text, advice) in [
        ("a,y\n1,0\n", "no column \"b\", expected all columns"),
        (
            "a,b,c,y\n1,2,3,0\n",
            "the column \"c\", expected only the columns",
        ),
        ("a,b,y\n", "rows: found 0"),
    ] {
        let test = table(dir.path(), "test", text);
        let error = of_tables(&[("train", &train), ("test", &test)], &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(advice), "{error}");
    }
    // An unclosed quote does not fill the memory.
    let open = [b"a,y\n1,0\n\"".to_vec(), vec![b'x'; 80 << 20]].concat();
    let error = refused(&open);
    assert!(
        error.contains("line 3: found a longer record") && error.contains("64 MiB"),
        "{error}"
    );
    let centered = CsvOptions {
        center: true,
        ..options
    };
    for (text, advice) in [
        (
            "a,y\n1e39,0\n6,1\n",
            "expected a number between -1e15 and 1e15",
        ),
        (
            "a,y\n1e-50,0\n2e-50,1\n1e-50,1\n",
            "multiply the column by a power of ten",
        ),
    ] {
        let path = table(dir.path(), "centered", text);
        let error = of_tables(&[("train", &path)], &centered)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(advice) && !error.contains("subtracts"),
            "{error}"
        );
    }
    // Spaces around numbers are allowed.
    let path = table(dir.path(), "numbers", "a, y\n1, 0\n2,1\n3, 1\n4,0\n");
    let (manifest, _, labels) = of_tables(&[("train", &path)], &centered).unwrap();
    assert_eq!(manifest.class_names, ["0", "1"]);
    assert_eq!(labels, [0, 1, 1, 0]);
    // A column of truth values, in every spelling.
    let path = table(
        dir.path(),
        "truths",
        "a,y\n1,TRUE\n2,false\n3,True\n4,False\n",
    );
    let (manifest, _, labels) = of_tables(&[("train", &path)], &centered).unwrap();
    assert_eq!(manifest.class_names, ["False", "True"]);
    assert_eq!(labels, [1, 0, 1, 0]);
    let text = "t,y\n1700000000.5,0\n1700000001.25,1\n1700000002.75,1\n";
    let path = table(dir.path(), "times", text);
    let (manifest, x, _) = of_tables(&[("train", &path)], &centered).unwrap();
    let shift = manifest.numbers.unwrap().shift.unwrap();
    assert_eq!(x[2] - x[0], 2.25);
    assert_eq!(f64::from(x[0]) + shift[0], 1_700_000_000.5);
}

/// The same numbers give the same model in every file format.
#[test]
fn converted_and_mapped_arrays_give_the_same_fit() {
    let world = World::new();
    let fit = |x: &str, y: &str, out: &str, more: &[&str]| {
        let common = [
            "--x",
            x,
            "--y",
            y,
            "--out",
            out,
            "--epochs",
            "20",
            "--threads",
            "1",
        ];
        succeeds(&world.run(FIT, &[&common[..], more].concat()))
    };
    let file = |name: &str| golden(name).to_str().unwrap().to_string();
    let said = fit(&file("little_float32.npy"), &file("y.npy"), "mapped", &[]);
    assert!(
        said.contains("mapped") && !said.contains("converted"),
        "{said}"
    );
    let weight = |run: &str| {
        let model = Model::load(world.path(run).join("model.safetensors")).unwrap();
        model.weight().as_slice().to_vec()
    };
    for (i, (x, y)) in [
        ("big_float64.npy", "y_column.npy"),
        ("big_float16_fortran.npy", "y_float.npy"),
        ("deflated.npz", "deflated.npz"),
        ("stored.npz:turned", "positional.npz"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("run{i}");
        let said = fit(&file(x), &file(y), &out, &[]);
        assert!(
            said.contains("converted to f32 in memory") && said.contains("in memory ("),
            "{said}"
        );
        assert_eq!(weight(&out), weight("mapped"), "{x}");
    }
    fit(
        &file("little_float32.npy"),
        &file("y_names.npy"),
        "named",
        &[],
    );
    let model = Model::load(world.path("named/model.safetensors")).unwrap();
    assert_eq!(model.about().class_names, ["aster", "rose", "Ähre"]);
    fit(&file("little_uint8.npy"), &file("y.npy"), "bytes", &[]);
    let model = Model::load(world.path("bytes/model.safetensors")).unwrap();
    let numbers = model.about().numbers.clone().unwrap();
    assert_eq!(numbers.scale.as_deref(), Some("u8/255"));
    // `FILE:NAME` is a file, if one of that name exists, and else a member of FILE.
    std::fs::copy(golden("little_float32.npy"), world.path("a.npz:x")).unwrap();
    fit("a.npz:x", &file("y.npy"), "colon", &[]);
    assert_eq!(weight("colon"), weight("mapped"));
}

/// A shift is passed on from the command line to the dataset, the model and ONNX.
#[test]
fn a_shift_is_kept_by_dataset_model_and_onnx() {
    let world = World::new();
    let (x, _) = times(&world.path(""));
    let arrays = ["--x", "times.npy", "--y", "late.npy"];
    for refused in [
        world.run(PREP, &[&["npy"], &arrays[..], &["--out", "set"]].concat()),
        world.run(FIT, &[&arrays[..], &["--out", "run"]].concat()),
    ] {
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(65), "{stderr}");
        assert!(
            stderr.contains("column 1") && stderr.contains("--center"),
            "{stderr}"
        );
    }
    succeeds(&world.run(
        PREP,
        &[&["npy"], &arrays[..], &["--center", "--out", "set"]].concat(),
    ));
    let newton = [
        "--optimizer",
        "newton",
        "--l2",
        "1e-8",
        "--standardize",
        "both",
    ];
    succeeds(&world.run(FIT, &[&["set"], &newton[..], &["--out", "of-set"]].concat()));
    let centered = [&arrays[..], &["--center"], &newton[..], &["--out", "of-x"]].concat();
    succeeds(&world.run(FIT, &centered));
    let model = |run: &str| Model::load(world.path(run).join("model.safetensors")).unwrap();
    assert_eq!(model("of-set"), {
        let mut model = model("of-x");
        let about = flowreg::model::About {
            class_names: vec!["class 0".to_string(), "class 1".to_string()],
            ..model.about().clone()
        };
        model.set_about(about);
        model
    });
    let summary = common::json(&world.path("of-x/summary.json"));
    assert!(
        summary["train_accuracy"].as_f64().unwrap() > 0.99,
        "{summary}"
    );
    // --init accepts a model of the same shift and refuses one of another.
    let again = [
        "--init",
        "of-x/model.safetensors",
        "--epochs",
        "1",
        "--lr",
        "1e-9",
        "--out",
    ];
    succeeds(&world.run(FIT, &[&["set"], &again[..], &["more"]].concat()));
    // --init refuses a model of rows that were not shifted.
    let golden_file = |name: &str| golden(name).to_str().unwrap().to_string();
    let plain = [
        "--x",
        "plain.npy",
        "--y",
        "late.npy",
        "--epochs",
        "1",
        "--out",
        "plain",
    ];
    let zeros = "{'descr': '<f4', 'fortran_order': False, 'shape': (360, 2), }";
    std::fs::write(world.path("plain.npy"), npy(1, 64, zeros, &[0; 2880])).unwrap();
    succeeds(&world.run(FIT, &plain));
    let found = Model::load(world.path("plain/model.safetensors")).unwrap();
    assert_eq!(found.about().numbers, Some(NumberFormat::default()));
    world.refuses(
        65,
        &[
            "plain/model.safetensors",
            "a shift other than that of the rows",
        ],
        |world| {
            let init = [
                "--init",
                "plain/model.safetensors",
                "--epochs",
                "1",
                "--out",
                "other",
            ];
            world.run(FIT, &[&["set"], &init[..]].concat())
        },
    );
    // --init refuses a model of bytes for rows that were not divided.
    let little = |x: &str, more: &[&str]| {
        let (x, y) = (golden_file(x), golden_file("y.npy"));
        let rows = ["--x", &x, "--y", &y, "--epochs", "1"];
        world.run(FIT, &[&rows[..], more].concat())
    };
    succeeds(&little("little_uint8.npy", &["--out", "bytes"]));
    world.refuses(
        65,
        &[
            "bytes/model.safetensors",
            "a scale other than that of the rows",
        ],
        |_| {
            let init = ["--init", "bytes/model.safetensors", "--out", "other"];
            little("little_int16.npy", &init)
        },
    );
    world.refuses(
        65,
        &[
            "of-x/model.safetensors",
            "a shift other than that of the rows",
        ],
        |world| {
            let (x, y) = (golden_file("little_float32.npy"), golden_file("y.npy"));
            let rows = ["--x", &x, "--y", &y, "--classes", "2"];
            world.run(FIT, &[&rows[..], &again[..], &["other"]].concat())
        },
    );
    succeeds(&world.run(FIT, &["export", "of-x", "--out", "exported"]));
    let model = model("of-x");
    let numbers = model.about().numbers.clone().unwrap();
    let rows = read_all(rows::open(&x, &numbers, 2).unwrap(), 360).unwrap();
    let expected = model.probabilities(&rows).unwrap();
    let raw: Vec<f64> = (std::fs::read(&x).unwrap()[128..].chunks(8))
        .map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let onnx = std::fs::read(world.path("exported/model.onnx")).unwrap();
    let found = common::onnx::probabilities(&onnx, &raw);
    let found: Vec<f32> = found.into_iter().map(|p| p as f32).collect();
    assert!(
        common::largest_difference(
            &found,
            &expected.iter().map(|&p| p.into()).collect::<Vec<f64>>()
        ) < 1e-5
    );
}

/// Tables are read from pipes and packed files; the copy of a pipe is not left in the dataset.
#[cfg(unix)]
#[test]
fn tables_are_read_packed_and_from_pipes() {
    use std::io::Write;

    let world = World::new();
    let text: String = (0..500)
        .map(|i| format!("{},{i},c{}\n", i % 7, i % 3))
        .collect();
    let text = format!("a,b,y\n{text}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    std::fs::write(world.path("t.csv"), &text).unwrap();
    std::fs::write(world.path("t.csv.gz"), &packed).unwrap();
    let prep = ["csv", "--label", "y", "--out"];
    succeeds(&world.run(PREP, &[&prep[..], &["plain", "--train", "t.csv"]].concat()));
    succeeds(&world.run(
        PREP,
        &[&prep[..], &["packed", "--train", "t.csv.gz"]].concat(),
    ));
    for (out, bytes) in [("pipe", text.as_bytes()), ("packed-pipe", &packed)] {
        let args = [&prep[..], &[out, "--train", "-", "--test", "t.csv"]].concat();
        succeeds(&world.run_piped(PREP, &args, bytes));
        assert!(!world.path(out).join("train.text").exists());
        succeeds(&world.run(PREP, &["verify", out]));
        assert_eq!(
            of_dataset(&world.path(out)).1,
            of_dataset(&world.path("plain")).1
        );
    }
    assert_eq!(
        of_dataset(&world.path("packed")).1,
        of_dataset(&world.path("plain")).1
    );
    world.refuses(64, &["- twice", "read once"], |world| {
        world.run(
            PREP,
            &[&prep[..], &["x", "--train", "-", "--test", "-"]].concat(),
        )
    });
    std::fs::write(world.path("cut.csv.gz"), &packed[..packed.len() / 2]).unwrap();
    world.refuses(65, &["cut.csv.gz"], |world| {
        world.run(PREP, &[&prep[..], &["x", "--train", "cut.csv.gz"]].concat())
    });
    world.refuses(65, &["photographs", "found a folder"], |world| {
        world.run(
            PREP,
            &[&prep[..], &["x", "--train", "photographs"]].concat(),
        )
    });
}

/// Files of a folder by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let read = |entry: DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

/// Number of rows that gives several blocks of 4 MB, and several reads of 8 KB of each column.
const SHAPE: (usize, usize) = (3000, 1024);

/// The value in a row and column of the large arrays, exact in f32.
fn large(row: usize, column: usize) -> f64 {
    (row * 7 % 1000) as f64 / 8.0 - (column % 512) as f64
}

/// Write a large array, `x.npy`, and labels of two classes, `y.npy`.
fn write_large(dir: &Path, dtype: Dtype, fortran: bool, number: impl Fn(usize, usize) -> f64) {
    let (rows, features) = SHAPE;
    let order = if fortran { "True" } else { "False" };
    let dictionary = format!(
        "{{'descr': '{}', 'fortran_order': {order}, 'shape': ({rows}, {features}), }}",
        dtype.descr()
    );
    let (outer, inner) = if fortran { (features, rows) } else { SHAPE };
    let mut data = Vec::new();
    for i in 0..outer {
        for j in 0..inner {
            let value = if fortran { number(j, i) } else { number(i, j) };
            match dtype {
                Dtype::F64 => data.extend(value.to_le_bytes()),
                _ => data.extend((value as f32).to_le_bytes()),
            }
        }
    }
    std::fs::write(dir.join("x.npy"), npy(1, 64, &dictionary, &data)).unwrap();
    let labels: Vec<u8> = (0..rows).map(|row| (row % 2) as u8).collect();
    let dictionary = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows},), }}");
    std::fs::write(dir.join("y.npy"), npy(1, 64, &dictionary, &labels)).unwrap();
}

/// Any number of threads writes the same files, for every input format.
#[test]
fn datasets_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let same = |kind: &str, make: &(dyn Fn() -> Result<Prepared> + Sync)| {
        let made = [1, 2, 4].map(|threads| {
            let pool = threads::pool(Some(threads)).unwrap();
            pool.install(make).unwrap();
            Dataset::open(&out).unwrap().verify().unwrap();
            let made = files(&out);
            std::fs::remove_dir_all(&out).unwrap();
            made
        });
        // `assert_eq!` would print megabytes.
        assert!(made[0] == made[1] && made[0] == made[2], "{kind}");
        let [first, ..] = made;
        first
    };
    let (rows, features) = SHAPE;
    let numbers = (0..rows).flat_map(|row| (0..features).map(move |j| large(row, j) as f32));
    let expected: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
    for dtype in [Dtype::F64, Dtype::F32] {
        for fortran in [false, true] {
            write_large(dir.path(), dtype, fortran, large);
            let parts = [part(&dir.path().join("x.npy"), &dir.path().join("y.npy"))];
            let options = ArrayOptions::default();
            let made = same("arrays", &|| {
                prepare(&parts, &options, &out, Overwrite::Never, &|_| {})
            });
            let x = &made["train.x.npy"];
            assert!(
                x[x.len() - expected.len()..] == expected,
                "{dtype:?} {fortran}"
            );
        }
    }

    let rows = 1100;
    let mut text = String::from("label");
    for column in 0..features {
        text += &format!(",x{column}");
    }
    for row in 0..rows {
        text += &format!("\n{}", row % 2);
        for column in 0..features {
            text += &format!(",{}", large(row, column));
        }
    }
    let path = table(dir.path(), "table.csv", text);
    let name = "train";
    let part = Part { name, path };
    let options = CsvOptions {
        label: "label".to_string(),
        ..CsvOptions::default()
    };
    let of_table = same("CSV", &|| {
        let parts = std::slice::from_ref(&part);
        csv_text::prepare(parts, &options, &out, Overwrite::Never, &|_| {})
    });

    let mut text = String::new();
    for row in 0..rows {
        text += &format!("{}", row % 2);
        for j in 0..features {
            text += &format!(" {}:{}", j + 1, large(row, j));
        }
        text += "\n";
    }
    let path = table(dir.path(), "text.libsvm", text);
    let part = Part { name, path };
    let of_text = same("LIBSVM", &|| {
        let (parts, options) = (std::slice::from_ref(&part), LibsvmOptions::default());
        libsvm::prepare(parts, &options, &out, Overwrite::Never, &|_| {})
    });
    for made in [of_table, of_text] {
        let x = &made["train.x.npy"][128..];
        assert!(*x == expected[..4 * rows * features]);
    }
}

/// An invalid row behind blocks that were already written is named, and no output is left.
#[test]
fn an_error_after_written_blocks_leaves_no_output() {
    let dir = tempfile::tempdir().unwrap();
    for fortran in [false, true] {
        write_large(dir.path(), Dtype::F64, fortran, |row, column| {
            // The first invalid value in the order of rows; in that of columns it is the second.
            let is_bad = (row, column) == (2500, 1000) || (row, column) == (2501, 3);
            if is_bad { f64::NAN } else { large(row, column) }
        });
        let parts = [part(&dir.path().join("x.npy"), &dir.path().join("y.npy"))];
        for threads in [1, 2, 4] {
            let out = dir.path().join("out");
            let pool = threads::pool(Some(threads)).unwrap();
            let made = pool.install(|| {
                let options = ArrayOptions::default();
                prepare(&parts, &options, &out, Overwrite::Never, &|_| {})
            });
            let error = made.unwrap_err();
            assert_eq!(error.exit_code(), 65);
            let error = error.to_string();
            assert!(
                error.contains("row 2500, column 1000: found NaN"),
                "{error}"
            );
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }
}

/// Whichever operation of the preparation of three blocks fails, it ends with exit code 74 and no
/// output is left.
#[test]
#[cfg(debug_assertions)]
fn a_failed_write_of_a_block_leaves_no_output() {
    let dir = tempfile::tempdir().unwrap();
    write_large(dir.path(), Dtype::F32, false, large);
    let mut refused = 0;
    for call in 0.. {
        let output = Command::new(PREP)
            .args(["npy", "--x", "x.npy", "--y", "y.npy", "--out", "out"])
            .current_dir(dir.path())
            .env("FLOWREG_FAIL_IO", format!("{call}:enospc"))
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        refused += 1;
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{call}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{call}: {complaint}");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        // A dataset that has been published stays.
        if !dir.path().join("out").exists() {
            assert_eq!(left, 2, "{call}: {complaint}");
        } else {
            std::fs::remove_dir_all(dir.path().join("out")).unwrap();
        }
    }
    assert!(refused > 20, "{refused}");
}
