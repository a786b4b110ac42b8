//! `flowreg-predict` on rows of numbers: every file format and type, conversion as for the training
//! rows, labels, pipes, and files that it does not overwrite.

mod common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::world::{FIT, PREDICT, PREP, World, succeeds};
use flowreg::data::dataset::NumberFormat;
use flowreg::io::npy;
use flowreg::io::npy::{Dtype, Header};
use flowreg::{Model, Samples};
use proptest::prelude::*;
use serde_json::Value;

/// An empty folder.
fn folder() -> World {
    World(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// A model of `features` features and these classes, with weights of about 1.
fn model(features: usize, classes: &[&str], numbers: Option<NumberFormat>) -> Model {
    let outputs = if classes.len() == 2 { 1 } else { classes.len() };
    let mut uniform = common::uniform(7);
    let mut draw = |count| -> Vec<f32> { (0..count).map(|_| uniform() - 0.5).collect() };
    let mut model = Model::new(draw(outputs * features), draw(outputs)).unwrap();
    let mut about = model.about().clone();
    about.class_names = classes.iter().map(ToString::to_string).collect();
    about.numbers = numbers;
    model.set_about(about);
    model
}

/// Save a model with numbers as the names of its classes.
fn model_of_numbers(world: &World, from: &str, to: &str) {
    let mut model = Model::load(world.path(from)).unwrap();
    let mut about = model.about().clone();
    about.class_names.clear();
    model.set_about(about);
    model.save(world.path(to)).unwrap();
}

fn write(world: &World, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(world.path(name), bytes).unwrap();
}

/// The header of an array, as NumPy writes it, and its data.
fn array(descr: &str, column_major: bool, shape: [usize; 2], data: Vec<u8>) -> Vec<u8> {
    let order = if column_major { "True" } else { "False" };
    let [n, d] = shape;
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({n}, {d}), }}");
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

fn libsvm(x: &[f32], features: usize, first: usize, labels: &[&str]) -> String {
    let lines = x.chunks(features).enumerate().map(|(i, row)| {
        let values = row.iter().enumerate().filter(|(_, value)| **value != 0.0);
        let values = values.map(|(j, value)| format!(" {}:{value}", j + first));
        format!(
            "{}{}\n",
            labels[i % labels.len()],
            values.collect::<String>()
        )
    });
    lines.collect()
}

fn read_npy(world: &World, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(world.path(name)).unwrap();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    let data = bytes[header.data_offset..].chunks_exact(4);
    let values = data.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (header.shape, values.collect())
}

fn json(output: &Output) -> Vec<Value> {
    let text = succeeds(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// One matrix in every file format has the same predictions, to the bit.
    #[test]
    fn predictions_do_not_depend_on_the_file_format(
        rows in 1usize..20,
        features in 1usize..9,
        classes in 2usize..5,
        values in prop::collection::vec(
            prop_oneof![2 => Just(0.0f32), 3 => -1e3f32..1e3, 1 => -1e-3f32..1e-3], 160),
        rotation in 0usize..9,
    ) {
        let world = folder();
        let mut x: Vec<f32> = values[..rows * features].to_vec();
        // A LIBSVM text of labels alone is refused, and one whose first line is a label alone is a
        // table without its header to a model of tables: the first row has a value that is not 0.
        if x[..features].iter().all(|value| *value == 0.0) {
            x[0] = 1.0;
        }
        let names = ["1", "2", "c", "d"];
        let columns: Vec<String> = (0..features).map(|j| format!("column, \"{j}\"")).collect();
        let numbers = NumberFormat { columns: Some(columns.clone()), ..NumberFormat::default() };
        let model = model(features, &names[..classes], Some(numbers));
        model.save(world.path("m.safetensors")).unwrap();
        let expected = model.probabilities(&x).unwrap();

        let shape = [rows, features];
        let bytes = |of: &dyn Fn(f32) -> Vec<u8>| x.iter().flat_map(|v| of(*v)).collect::<Vec<u8>>();
        let columnwise: Vec<u8> = (0..features)
            .flat_map(|j| x[j..].iter().step_by(features))
            .flat_map(|v| f64::from(*v).to_le_bytes())
            .collect();
        let mut table = String::new();
        let order: Vec<usize> = (0..features).map(|j| (j + rotation) % features).collect();
        let line = |fields: Vec<String>| fields.join(",") + "\r\n";
        table += &line(order.iter().map(|&j| format!("\"{}\"", columns[j].replace('"', "\"\""))).collect());
        for row in x.chunks(features) {
            table += &line(order.iter().map(|&j| row[j].to_string()).collect());
        }
        let text = libsvm(&x, features, 1, &["1", "+1", "2.0"]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        // The content decides on the format, not the file name.
        let files: [(&str, Vec<u8>); 7] = [
            ("f4.txt", npy::f32_file(&shape, &x)),
            ("f4_big.npy", array(">f4", false, shape, bytes(&|v| v.to_be_bytes().to_vec()))),
            ("F8.NPY", array("<f8", false, shape, bytes(&|v| f64::from(v).to_le_bytes().to_vec()))),
            ("f8_columns.npy", array("<f8", true, shape, columnwise)),
            ("table.data", table.into_bytes()),
            ("text.csv", text.into_bytes()),
            ("packed", gz.finish().unwrap()),
        ];
        let mut args = vec!["m.safetensors", "--npy", "p.npy", "--quiet"];
        for (name, bytes) in &files {
            write(&world, name, bytes);
            args.push(name);
        }
        let output = world.run(PREDICT, &args);
        prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (shape, found) = read_npy(&world, "p.npy");
        prop_assert_eq!(shape, vec![files.len() * rows, classes]);
        for ((name, _), found) in files.iter().zip(found.chunks(rows * classes)) {
            prop_assert_eq!(found, &expected[..], "{}", name);
        }
    }
}

#[test]
fn integers_of_every_type_are_read() {
    let world = folder();
    let (rows, features) = (3, 4);
    let values = [0u8, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1];
    let x: Vec<f32> = values.iter().map(|&v| v.into()).collect();
    let of = |size: usize, big: bool| -> Vec<u8> {
        let word = |value: u8| {
            let mut word = vec![0; size];
            word[if big { size - 1 } else { 0 }] = value;
            word
        };
        values.iter().flat_map(|&value| word(value)).collect()
    };
    let model = model(features, &["a", "b", "c"], Some(NumberFormat::default()));
    model.save(world.path("m")).unwrap();
    let expected = model.probabilities(&x).unwrap();
    for descr in [
        "|b1", "|i1", "|u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", ">i8", "<u8",
    ] {
        let size = descr[2..].parse().unwrap();
        let bytes = array(
            descr,
            false,
            [rows, features],
            of(size, descr.starts_with('>')),
        );
        write(&world, "x", bytes);
        let args = ["m", "x", "--npy", "p.npy", "--force"];
        succeeds(&world.run(PREDICT, &args));
        assert_eq!(read_npy(&world, "p.npy").1, expected, "{descr}");
    }
}

/// Rows are converted as the training rows were, as the model records: bytes divided by 255, a shift
/// in f64, indices from 0.
#[test]
fn rows_are_converted_as_the_model_records() {
    let world = folder();
    let probabilities = |numbers: NumberFormat, x: &[f32], name: &str| {
        let model = model(2, &["1", "2", "-1"], Some(numbers));
        model.save(world.path("m")).unwrap();
        succeeds(&world.run(PREDICT, &["m", name, "--npy", "p.npy", "--force"]));
        assert_eq!(
            read_npy(&world, "p.npy").1,
            model.probabilities(x).unwrap(),
            "{name}"
        );
    };
    let bytes = NumberFormat {
        scale: Some("u8/255".to_string()),
        ..NumberFormat::default()
    };
    write(
        &world,
        "u1",
        array("|u1", false, [2, 2], vec![0, 51, 255, 7]),
    );
    let divided: Vec<f32> = [0.0f32, 51.0, 255.0, 7.0]
        .iter()
        .map(|v| v / 255.0)
        .collect();
    probabilities(bytes.clone(), &divided, "u1");
    write(&world, "f4", npy::f32_file(&[2, 2], &divided));
    probabilities(bytes.clone(), &divided, "f4");
    // Undivided integers are refused, not taken for quotients.
    write(
        &world,
        "i2",
        array("<i2", false, [1, 2], vec![51, 0, 255, 0]),
    );
    model(2, &["1", "2", "-1"], Some(bytes))
        .save(world.path("m"))
        .unwrap();
    world.refuses(65, &["i2", "divided by 255"], |world| {
        world.run(PREDICT, &["m", "i2"])
    });

    let shift = NumberFormat {
        shift: Some(vec![1.7e9, 0.0]),
        ..NumberFormat::default()
    };
    let times = [1.7e9 + 1.0, 0.5, 1.7e9 + 3599.0, -0.5];
    let data = times.iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
    write(&world, "times", array("<f8", false, [2, 2], data));
    let shifted = [1.0, 0.5, 3599.0, -0.5];
    probabilities(shift.clone(), &shifted, "times");
    write(
        &world,
        "times.txt",
        "1 1:1700000001 2:0.5\n2 1:1700003599 2:-.5\n",
    );
    probabilities(shift, &shifted, "times.txt");

    // Texts of rows that are already shifted are refused with one message, not row by row.
    write(&world, "copy.txt", "1 1:-1800 2:0.5\n2 1:1799 2:-.5\n");
    write(&world, "copy.csv", "a,b\n-1800,0.5\n1799,-.5\n");
    for name in ["copy.txt", "copy.csv"] {
        world.refuses(
            65,
            &[name, "only numbers nearer to 0 than to 1700000000"],
            |world| world.run(PREDICT, &["m", name]),
        );
    }
    write(&world, "missing.csv", "a,b\n0,0.5\n1700000001,-.5\n");
    succeeds(&world.run(PREDICT, &["m", "missing.csv"]));

    let zero = NumberFormat {
        first_index: Some(0),
        ..NumberFormat::default()
    };
    write(&world, "zero.txt", "1 0:3\n2 1:4\n");
    probabilities(zero, &[3.0, 0.0, 0.0, 4.0], "zero.txt");
    // For a model without a first index, index 0 is an error whose message names the option.
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    world.refuses(65, &["line 1", "--first-index 0"], |world| {
        world.run(PREDICT, &["m", "zero.txt"])
    });
    succeeds(&world.run(PREDICT, &["m", "zero.txt", "--first-index", "0"]));
}

/// flowreg-predict reads tables with the delimiter of the model or that of the option.
#[test]
fn a_table_with_any_delimiter_is_predicted() {
    let world = folder();
    let comma = "a,b,y\n1,2,u\n2,1,v\n3,1,u\n4,7,v\n";
    write(&world, "comma.csv", comma);
    for (i, delimiter) in ["|", ":", "~", " ", "tab"].into_iter().enumerate() {
        let text = comma.replace(',', if delimiter == "tab" { "\t" } else { delimiter });
        write(&world, "t.csv", &text);
        let (data, run) = (format!("d{i}"), format!("r{i}"));
        let prep = [
            "csv",
            "--train",
            "t.csv",
            "--label",
            "y",
            "--delimiter",
            delimiter,
        ];
        succeeds(&world.run(PREP, &[&prep[..], &["--out", &data]].concat()));
        succeeds(&world.run(FIT, &[&data, "--epochs", "3", "--no-report", "--out", &run]));
        let predicted = |args: &[&str]| {
            let args = [&[&run, "--label", "y", "--csv"], args].concat();
            let output = world.run(PREDICT, &args);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            text.replace("comma.csv", "t.csv")
        };
        let expected = predicted(&["t.csv"]);
        assert_eq!(expected.lines().count(), 9, "{delimiter}: {expected}");
        assert_eq!(predicted(&["comma.csv"]), expected, "{delimiter}");
        assert_eq!(
            predicted(&["t.csv", "--delimiter", delimiter]),
            expected,
            "{delimiter}"
        );
    }
}

/// A line without features is not taken for a row of zeros, unless it has a label and other lines
/// have features.
#[test]
fn lines_without_features_are_not_rows_of_zeros() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    write(&world, "z.svm", "1 1:2\nbroken\n0.5\n2\n1 1:3\n");
    let output = world.run(PREDICT, &["m", "z.svm", "--csv"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65));
    for (line, found) in [(2, "broken"), (3, "0.5")] {
        let part = format!("z.svm: line {line}: found \"{found}\", expected a whole number");
        assert!(stderr.contains(&part), "{stderr}");
    }
    // Three of the five lines are rows.
    let rows = String::from_utf8(output.stdout).unwrap().lines().count() - 1;
    assert_eq!(rows, 9, "three classes of three rows");
    write(&world, "alone.txt", "1\n2\n");
    world.refuses(65, &["alone.txt", "2 labels and no feature"], |world| {
        world.run(PREDICT, &["m", "alone.txt"])
    });
    let columns = NumberFormat {
        columns: Some(vec!["a".to_string()]),
        ..NumberFormat::default()
    };
    model(1, &["1", "2"], Some(columns))
        .save(world.path("t"))
        .unwrap();
    for (name, text) in [("alone.txt", "1\n2\n"), ("half.txt", "0.5\n0.2\n")] {
        write(&world, name, text);
        world.refuses(65, &[name, "header: found numbers only"], |world| {
            world.run(PREDICT, &["t", name])
        });
    }
}

/// An option without effect on the inputs is refused before anything is predicted; rows without
/// labels are counted.
#[test]
fn options_without_effect_are_refused_and_unlabelled_rows_counted() {
    let world = folder();
    model(2, &["u", "v"], None).save(world.path("m")).unwrap();
    write(&world, "x.npy", npy::f32_file(&[1, 2], &[1.0, 2.0]));
    write(&world, "t.csv", "a,b,y\n1,2,u\n2,1,\n3,1,NA\n4,7,w\n");
    for option in [
        ["--label", "y"],
        ["--delimiter", ";"],
        ["--first-index", "1"],
    ] {
        world.refuses(64, &[option[0], "leave the option out"], |world| {
            world.run(PREDICT, &["m", "x.npy", option[0], option[1]])
        });
    }
    let output = world.run(PREDICT, &["m", "x.npy", "t.csv", "--label", "y"]);
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("rows without a label: 2;"), "{stderr}");
    assert!(stderr.contains("no class of the model: 1 (w)"), "{stderr}");
    world.refuses(65, &["p/", "the name of a folder"], |world| {
        world.run(PREDICT, &["m", "x.npy", "--npy", "p/"])
    });
}

/// The labels of a dataset are numbers of classes. They score a model whose classes have names, unless a
/// number is one of these names.
#[test]
fn numbers_are_classes_where_no_class_has_a_number_as_its_name() {
    let world = folder();
    write(
        &world,
        "x.npy",
        npy::f32_file(&[4, 1], &[1.0, -1.0, 2.0, 3.0]),
    );
    let letters = "cabc"
        .chars()
        .flat_map(|letter| u32::from(letter).to_le_bytes());
    write(
        &world,
        "named.npy",
        array("<U1", false, [4, 1], letters.collect()),
    );
    let numbers = |labels: [i64; 4]| {
        let bytes = labels
            .iter()
            .flat_map(|label| label.to_le_bytes())
            .collect();
        array("<i8", false, [4, 1], bytes)
    };
    write(&world, "y.npy", numbers([2, 0, 1, 2]));
    write(&world, "beyond.npy", numbers([2, 0, 1, 3]));
    let score = |y: &str| {
        let output = world.run(PREDICT, &["m", "x.npy", "--y", y, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["evaluation"].clone()
    };
    model(1, &["a", "b", "c"], None)
        .save(world.path("m"))
        .unwrap();
    let named = score("named.npy");
    assert_eq!(named["rows"], 4);
    assert_eq!(score("y.npy"), named);
    let beyond = score("beyond.npy");
    assert_eq!(
        (&beyond["rows"], &beyond["rows_of_unknown_labels"]),
        (&3.into(), &1.into())
    );
    write(&world, "from_one.npy", numbers([3, 1, 2, 3]));
    let output = world.run(PREDICT, &["m", "x.npy", "--y", "from_one.npy", "--json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("found 3 and no 0: do they count from 1?"),
        "{stderr}"
    );
    // Here 2 is the name of class 0.
    model(1, &["2", "b", "c"], None)
        .save(world.path("n"))
        .unwrap();
    let output = world.run(PREDICT, &["n", "x.npy", "--y", "y.npy", "--json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("no class of the model: 2 (0, 1)"),
        "{stderr}"
    );
}

/// Every input has a row of --npy, in order. An unreadable input is named, and its row is NaN.
#[test]
fn unreadable_rows_are_nan_and_named() {
    let world = folder();
    let model = model(2, &["1", "2", "-1"], None);
    model.save(world.path("m")).unwrap();
    let x = [1.0, 2.0, f32::NAN, 0.0, 3.0, 4.0];
    write(&world, "x.npy", npy::f32_file(&[3, 2], &x));
    write(&world, "t.txt", "1:1 2:2\n1:1 x\n1:inf\n1:3 2:4\n");
    write(&world, "t.csv", "p,q\n1,2\n3\n1,x\n3,4\n");
    write(&world, "wide.npy", npy::f32_file(&[1, 3], &[1.0; 3]));
    let inputs = ["x.npy", "absent.npy", "t.txt", "wide.npy", "t.csv", "x.npy"];
    let args = [
        &["m"],
        &inputs[..],
        &["--npy", "p.npy", "--csv", "--top", "1"],
    ]
    .concat();
    let good = model.probabilities(&[1.0, 2.0, 3.0, 4.0]).unwrap();
    let (first, last) = good.split_at(3);
    let nan = [f32::NAN; 3];
    let expected = [
        first, &nan, last, &nan, first, &nan, &nan, last, &nan, first, &nan, &nan, last, first,
        &nan, last,
    ]
    .concat();
    for (skip, code) in [(false, 65), (true, 0)] {
        let skip: &[&str] = if skip {
            &["--skip-bad", "--force"]
        } else {
            &[]
        };
        let output = world.run(PREDICT, &[&args[..], skip].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        for part in [
            "x.npy: row 1, column 0",
            "absent.npy",
            "t.txt: line 2",
            "t.txt: line 3",
            "wide.npy",
            "t.csv: line 3",
            "t.csv: line 4",
        ] {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
        assert_eq!(stderr.lines().count(), 8, "{stderr}");
        let (shape, found) = read_npy(&world, "p.npy");
        assert_eq!(shape, [16, 3]);
        let bits = |values: &[f32]| -> Vec<Option<u32>> {
            let bits = |v: &f32| (!v.is_nan()).then(|| v.to_bits());
            values.iter().map(bits).collect()
        };
        assert_eq!(bits(&found), bits(&expected));
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().lines().count(),
            1 + 8
        );
    }
}

/// Each row whose logits overflow f32 is named once, and takes no more time than other rows.
#[test]
fn overflowing_rows_are_left_out_one_by_one() {
    let world = folder();
    let weight = vec![1e30, 0.0, 0.0, 1e30, -1e30, 0.0];
    Model::new(weight, vec![0.0; 3])
        .unwrap()
        .save(world.path("m"))
        .unwrap();
    let rows = 20_000;
    let x: Vec<f32> = (0..rows)
        .flat_map(|i| [if i % 100 == 0 { 1.0 } else { 1e12 }, 1.0])
        .collect();
    write(&world, "x.npy", npy::f32_file(&[rows, 2], &x));
    let output = world.run(
        PREDICT,
        &["m", "x.npy", "--skip-bad", "--csv", "--top", "1"],
    );
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), rows - rows / 100);
    assert!(stderr.contains("x.npy[1]: logits") && stderr.contains("x.npy[19999]: logits"));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().count(),
        1 + rows / 100
    );
}

/// Accuracy, loss and confusion equal those of the library, for every source of labels.
#[test]
fn evaluation_equals_that_of_the_library() {
    let world = folder();
    for classes in [&["-1", "1"][..], &["-1", "1", "4"]] {
        let mut model = model(3, classes, None);
        let mut about = model.about().clone();
        about.temperature = Some(1.7);
        model.set_about(about);
        model.save(world.path("m")).unwrap();
        let rows = 50;
        let mut uniform = common::uniform(3);
        let x: Vec<f32> = (0..3 * rows).map(|_| 4.0 * uniform() - 2.0).collect();
        let labels: Vec<i64> = (0..rows as i64)
            .map(|i| i * i % classes.len() as i64)
            .collect();
        let samples = Samples::new(&x, 3, &labels, classes.len()).unwrap();
        let expected = model.evaluate(&samples).unwrap();
        let written: Vec<&str> = labels
            .iter()
            .map(|&label| classes[label as usize])
            .collect();

        write(&world, "t.txt", libsvm(&x, 3, 1, &written));
        write(&world, "x.npy", npy::f32_file(&[rows, 3], &x));
        let mut y = Header::encode(Dtype::I64, &[rows]);
        y.extend(
            written
                .iter()
                .flat_map(|l| l.parse::<i64>().unwrap().to_le_bytes()),
        );
        write(&world, "y.npy", y);
        let mut table = "p,sort,q,r\n".to_string();
        for (row, label) in x.chunks(3).zip(&written) {
            table += &format!("{},{label},{},{}\n", row[0], row[1], row[2]);
        }
        write(&world, "t.csv", table);
        for args in [
            &["t.txt"][..],
            &["x.npy", "--y", "y.npy"],
            &["t.csv", "--label", "sort"],
        ] {
            let lines = json(&world.run(PREDICT, &[&["m", "--json"], args].concat()));
            assert_eq!(lines.len(), rows + 1);
            let found = &lines[rows]["evaluation"];
            assert_eq!(found["rows"], rows);
            assert_eq!(found["accuracy"].as_f64().unwrap(), expected.accuracy);
            let loss = found["loss"].as_f64().unwrap();
            assert!(
                (loss - expected.loss).abs() < 1e-12,
                "{loss} {}",
                expected.loss
            );
            // The confusion counts the printed predictions.
            let correct = lines[..rows]
                .iter()
                .zip(&written)
                .filter(|(line, label)| line["predictions"][0]["class"] == ***label);
            assert_eq!(correct.count() as f64 / rows as f64, expected.accuracy);
            let confusion = found["confusion"].as_array().unwrap();
            let counts = confusion
                .iter()
                .map(|entry| entry["rows"].as_u64().unwrap());
            assert_eq!(counts.sum::<u64>(), rows as u64);
        }
        let said = succeeds(&world.run(PREDICT, &["m", "t.txt", "--top", "1"]));
        let accuracy = format!("accuracy {:.4} (", expected.accuracy);
        assert!(said.contains(&accuracy), "{said}");
        assert_eq!(said.lines().count(), 2 * rows + 2 + classes.len());
        // Values separated by commas stay separate.
        let output = world.run(PREDICT, &["m", "t.txt", "--csv", "--top", "1"]);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().lines().count(),
            rows + 1
        );
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains(&accuracy)
        );
    }
    // Labels that are no class of the model are counted and named; a line may lack a label.
    write(&world, "t.txt", "1 1:1\n9 1:1\n1:1 2:2\nrose 1:1\n");
    let output = world.run(PREDICT, &["m", "t.txt", "--json"]);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        stderr.contains("no class of the model: 2 (9, rose)"),
        "{stderr}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["evaluation"]["rows"], 1);
    assert_eq!(last["evaluation"]["rows_of_unknown_labels"], 2);
    // Another number of labels than rows is an error.
    let mut y = Header::encode(Dtype::U8, &[3]);
    y.extend([1, 1, 1]);
    write(&world, "y.npy", y);
    for inputs in [&["x.npy"][..], &["t.txt"]] {
        let args = [&["m"], inputs, &["--y", "y.npy", "--npy", "p.npy"]].concat();
        let output = world.run(PREDICT, &args);
        assert_eq!(output.status.code(), Some(65));
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("3 labels")
        );
        assert!(!world.path("p.npy").exists());
    }
}

#[test]
fn logits_are_those_of_the_fit() {
    let world = folder();
    for classes in [&["a", "b"][..], &["a", "b", "c"]] {
        let mut model = model(2, classes, None);
        let mut about = model.about().clone();
        about.temperature = Some(3.0);
        model.set_about(about);
        model.save(world.path("m")).unwrap();
        let x = [1.0, 2.0, -3.0, 0.5];
        write(&world, "x.npy", npy::f32_file(&[2, 2], &x));
        let args = [
            "m", "x.npy", "--logits", "--npy", "z.npy", "--json", "--force",
        ];
        let lines = json(&world.run(PREDICT, &args));
        let (shape, found) = read_npy(&world, "z.npy");
        assert_eq!(shape, [2, model.bias().len()]);
        for (i, x) in x.chunks(2).enumerate() {
            for (k, &b) in model.bias().iter().enumerate() {
                let w = model.weight().row(k).to_vec();
                let expected = w[0] * x[0] + w[1] * x[1] + b;
                let logit = found[i * model.bias().len() + k];
                assert!((logit - expected).abs() < 1e-5);
                let class = if model.bias().len() == 1 { 1 } else { k };
                let predictions = lines[i]["predictions"].as_array().unwrap();
                let said = predictions.iter().find(|p| p["label"] == class).unwrap();
                assert_eq!(said["logit"].as_f64().unwrap() as f32, logit);
            }
        }
        // The printed loss is named as that of the probabilities.
        write(&world, "t.txt", "0 1:1 2:2\n1 1:-3 2:0.5\n");
        model_of_numbers(&world, "m", "n");
        let said = succeeds(&world.run(PREDICT, &["n", "t.txt", "--logits"]));
        assert!(said.contains(", loss of the probabilities "), "{said}");
        let lines = json(&world.run(PREDICT, &["n", "t.txt", "--logits", "--json"]));
        assert_eq!(lines[2]["evaluation"]["loss_of"], "probabilities");
        let said = succeeds(&world.run(PREDICT, &["m", "x.npy", "--logits", "--csv"]));
        assert!(said.starts_with("input,rank,class,label,logit\n"), "{said}");
    }
}

/// Standard input is read like a file.
#[test]
fn every_format_is_read_from_standard_input() {
    let world = folder();
    let model = model(2, &["1", "2", "-1"], None);
    model.save(world.path("m")).unwrap();
    let x = [1.0, 2.0, 3.0, 4.0];
    let expected = model.probabilities(&x).unwrap();
    let inputs: [&[u8]; 3] = [
        &npy::f32_file(&[2, 2], &x),
        b"1:1 2:2\n1:3 2:4\n",
        b"p,q\n1,2\n3,4\n",
    ];
    for bytes in inputs {
        let names: &[&str] = if cfg!(unix) {
            &["-", "/dev/stdin"]
        } else {
            &["-"]
        };
        for name in names {
            let output = world.run_piped(
                PREDICT,
                &["m", name, "--npy", "p.npy", "--force", "--csv"],
                bytes,
            );
            let said = succeeds(&output);
            assert!(said.contains("\"standard input[1]\",1,"), "{said}");
            assert_eq!(read_npy(&world, "p.npy").1, expected);
        }
    }
    // Errors name standard input, not a file.
    let output = world.run_piped(PREDICT, &["m", "-"], &npy::f32_file(&[1, 3], &[1.0; 3]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("standard input: features"), "{stderr}");
    let output = world.run_piped(PREDICT, &["m", "-", "-"], b"");
    assert_eq!(output.status.code(), Some(64));
}

/// Inputs that are no rows of numbers are refused by their kind.
#[test]
fn inputs_of_another_kind_are_named() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    std::fs::create_dir(world.path("folder")).unwrap();
    write(&world, "p", include_bytes!("pictures/rgb.png"));
    write(&world, "letter.txt", "dear reader\nall is well\n");
    write(&world, "empty", "");
    write(&world, "comments.txt", "# 1 1:2\n");
    write(&world, "noise", [7, 0, 9, 200, 3, 0, 0, 1]);
    write(&world, "header.csv", "p,q\n");
    write(&world, "cut.npy", &npy::f32_file(&[2, 2], &[1.0; 4])[..135]);
    for (name, part) in [
        ("folder", "found a folder"),
        ("p", "found a PNG picture"),
        ("letter.txt", "LIBSVM"),
        ("empty", "empty"),
        ("comments.txt", "text that is neither CSV nor LIBSVM's"),
        ("noise", "neither an array nor text"),
        ("header.csv", "rows: found 0"),
        ("cut.npy", "cut.npy"),
        ("letter.npz:x", "letter.npz"),
    ] {
        let output = world.run(PREDICT, &["m", name]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            [Some(65), Some(74)].contains(&output.status.code()),
            "{stderr}"
        );
        assert!(
            stderr.contains(part) && stderr.contains(name),
            "{part}: {stderr}"
        );
        assert!(!stderr.contains("found a photograph"), "{stderr}");
    }
    // Features that the model does not have are left out with a warning.
    write(&world, "wide.txt", "1 1:1 5:2 9:1\n1 3:1\n");
    let output = world.run(PREDICT, &["m", "wide.txt", "--csv"]);
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("left out 3 values") && stderr.contains("line 1 (index 5)"),
        "{stderr}"
    );
}

/// `--force` replaces an array of predictions, and no other file.
#[test]
fn inputs_and_models_are_never_overwritten() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    write(&world, "x.npy", npy::f32_file(&[2, 2], &[1.0; 4]));
    write(&world, "notes.npy", "no array");
    std::fs::create_dir(world.path("folder")).unwrap();
    let predict =
        |world: &World, file: &str| world.run(PREDICT, &["m", "x.npy", "--npy", file, "--force"]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("x.npy", world.path("link.npy")).unwrap();
    // Foreign arrays that differ in one respect from those that flowreg writes.
    write(&world, "f8.npy", array("<f8", false, [3, 2], vec![0; 48]));
    write(
        &world,
        "columns.npy",
        array("<f4", true, [3, 2], vec![0; 24]),
    );
    write(
        &world,
        "numpy.npy",
        array("<f4", false, [3, 3], vec![0; 36]),
    );
    let files = [
        "m",
        "x.npy",
        "./folder/../x.npy",
        "notes.npy",
        "folder",
        "f8.npy",
        "columns.npy",
        "numpy.npy",
    ];
    for file in files.into_iter().chain(cfg!(unix).then_some("link.npy")) {
        let read = || files.map(|file| std::fs::read(world.path(file)).ok());
        let before = read();
        let name = file.replace("link", "x");
        world.refuses(65, &[&name], |world| predict(world, file));
        assert_eq!(read(), before, "{file}");
    }
    succeeds(&predict(&world, "p.npy"));
    succeeds(&predict(&world, "p.npy"));
    assert_eq!(read_npy(&world, "p.npy").0, [2, 3]);
    // Files of other outputs of flowreg are not replaced either.
    std::fs::create_dir(world.path("run")).unwrap();
    write(
        &world,
        "run/.flowreg.json",
        r#"{"flowreg": "0", "entries": ["coordinates.npy"]}"#,
    );
    write(
        &world,
        "run/coordinates.npy",
        npy::f32_file(&[1, 1], &[1.0]),
    );
    world.refuses(65, &["coordinates.npy"], |world| {
        predict(world, "run/coordinates.npy")
    });
    // Nor through another name, nor if the file could be an array of predictions.
    std::fs::create_dir_all(world.path("run/sub")).unwrap();
    std::fs::copy(world.path("p.npy"), world.path("run/sub/p.npy")).unwrap();
    world.refuses(65, &["run"], |world| predict(world, "run/sub/p.npy"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("run/sub/p.npy", world.path("inner.npy")).unwrap();
        let before = std::fs::read(world.path("run/sub/p.npy")).unwrap();
        world.refuses(65, &["run"], |world| predict(world, "inner.npy"));
        assert_eq!(std::fs::read(world.path("run/sub/p.npy")).unwrap(), before);
    }
}

/// An output that is not a regular file is refused before any work.
#[test]
fn npy_output_must_be_a_regular_file() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    write(&world, "x.npy", npy::f32_file(&[2, 2], &[1.0; 4]));
    let mut streams = vec!["-"];
    #[cfg(unix)]
    {
        let fifo = Command::new("mkfifo").arg(world.path("fifo")).status();
        assert!(fifo.unwrap().success());
        streams.extend(["/dev/stdout", "/dev/fd/1", "/dev/null", "fifo"]);
    }
    for stream in streams {
        let args = ["m", "x.npy", "--npy", stream, "--force"];
        world.refuses(
            64,
            &["--npy", stream, "expected the name of a file"],
            |world| world.run(PREDICT, &args),
        );
    }
    succeeds(&world.run(PREDICT, &["m", "x.npy", "--npy", "./-"]));
    assert_eq!(read_npy(&world, "-").0, [2, 3]);
}

/// A `.gz` text of `rows` rows, and the number of rows that its first half has.
fn cut_text(rows: usize) -> (Vec<u8>, usize) {
    use std::io::Read;
    let mut uniform = common::uniform(5);
    let text: String = (0..rows)
        .map(|_| format!("1 1:{} 2:{}\n", uniform(), uniform()))
        .collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let mut bytes = gz.finish().unwrap();
    bytes.truncate(bytes.len() / 2);
    let mut read = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..])
        .read_to_end(&mut read)
        .unwrap_err();
    let whole = read.iter().filter(|&&byte| byte == b'\n').count();
    (bytes, whole)
}

/// A truncated text is an error that --skip-bad does not excuse; one NaN row stands for the missing
/// rows. Labels are not compared, as the number of rows is unknown.
#[test]
fn a_truncated_text_is_never_a_success() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    let (bytes, whole) = cut_text(20_000);
    write(&world, "cut", bytes);
    write(&world, "x.npy", npy::f32_file(&[1, 2], &[1.0; 2]));
    let mut y = Header::encode(Dtype::U8, &[20_001]);
    y.extend([1; 20_001]);
    write(&world, "y.npy", y);
    let args = ["m", "cut", "x.npy", "--csv", "--top", "1", "--npy", "p.npy"];
    for more in [&["--skip-bad"][..], &["--y", "y.npy", "--force"]] {
        let output = world.run(PREDICT, &[&args[..], more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{stderr}");
        let part = "this row and all after it are left out";
        assert!(
            stderr.contains(part) && stderr.contains("cut: .gz"),
            "{stderr}"
        );
        let (shape, _) = read_npy(&world, "p.npy");
        assert_eq!(shape, [whole + 2, 3]);
        if more.contains(&"--y") {
            let compared = format!("only the first {whole} labels");
            assert!(stderr.contains(&compared), "{stderr}");
            assert!(stderr.contains(&format!("of {whole} rows)")), "{stderr}");
        }
    }
}

/// An invalid line makes one row NaN.
#[test]
fn an_unknown_feature_index_invalidates_only_its_row() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    write(&world, "t", "1 1:1\n1 0:1\n2 1:1\n");
    let args = ["m", "t", "--npy", "p.npy", "--skip-bad", "--csv"];
    let output = world.run(PREDICT, &args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("line 2: found index 0"), "{stderr}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("\"t[2]\"")
    );
    let (shape, found) = read_npy(&world, "p.npy");
    assert_eq!(shape, [3, 3]);
    assert!(found[..3] == found[6..] && found[3..6].iter().all(|v| v.is_nan()));
}

/// Every unreadable input is named, whatever error ends the program.
#[test]
fn every_unreadable_input_is_named_before_a_later_failure() {
    let world = folder();
    model(2, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    write(&world, "x.npy", npy::f32_file(&[2, 2], &[1.0; 4]));
    write(&world, "t.txt", "1 1:1\n1 1:x\n1 1:1\n");
    for (rows, expected) in [(2, "expected more"), (9, "one for each")] {
        let mut y = Header::encode(Dtype::U8, &[rows]);
        y.extend(std::iter::repeat_n(1, rows));
        write(&world, "y.npy", y);
        for (input, named) in [("absent.npy", "absent.npy"), ("t.txt", "t.txt: line 2")] {
            let args = ["m", input, "x.npy", "--y", "y.npy", "--csv"];
            let output = world.run(PREDICT, &args);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(65), "{stderr}");
            assert!(
                stderr.contains(named) && stderr.contains(expected),
                "{stderr}"
            );
        }
    }
    #[cfg(target_os = "linux")]
    {
        let full = || {
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
        };
        let mut command = Command::new(PREDICT);
        command.current_dir(world.0.path());
        let output = command
            .args(["m", "t.txt"])
            .stdout(full())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{stderr}");
        for part in ["t.txt: line 2", "standard output"] {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
        // With --csv accuracy and loss are printed on stderr.
        write(&world, "t.txt", "1 1:1\n");
        let mut command = Command::new(PREDICT);
        command.current_dir(world.0.path()).stderr(full());
        let output = command.args(["m", "t.txt", "--csv"]).output().unwrap();
        assert_eq!(output.status.code(), Some(74));
    }
}

/// A file that changes while it is read ends the program without a result.
#[test]
fn a_text_that_changes_while_read_gives_no_array() {
    use std::io::Read;
    let world = folder();
    model(1, &["1", "2", "-1"], None)
        .save(world.path("m"))
        .unwrap();
    // More rows than a block, so that the output pipe fills before the end of the file is read.
    let rows = 70_000;
    write(&world, "t.txt", "1 1:1\n".repeat(rows));
    write(&world, "t.csv", "p\n".to_string() + &"1\n".repeat(rows));
    for input in ["t.txt", "t.csv"] {
        let args = [
            "m",
            input,
            "--csv",
            "--top",
            "1",
            "--npy",
            "p.npy",
            "--skip-bad",
        ];
        let mut child = Command::new(PREDICT)
            .args(args)
            .current_dir(world.0.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut begun = [0; 100];
        stdout.read_exact(&mut begun).unwrap();
        let file = std::fs::File::options().write(true).open(world.path(input));
        file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let mut text = String::from_utf8(begun.to_vec()).unwrap();
        stdout.read_to_string(&mut text).unwrap();
        let output = common::process::bounded(child);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{stderr}");
        assert!(stderr.contains(input), "{stderr}");
        assert_eq!(text.lines().count(), rows + 1);
        assert!(!world.path("p.npy").exists());
    }
}
