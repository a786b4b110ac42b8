//! Files of every format version are read correctly. The programs of each version wrote
//! `tests/golden` (`tools/golden_formats.sh`): datasets of version 2 and 3, and models without and
//! with [`About::numbers`](flowreg::model::About).

use std::path::{Path, PathBuf};

use flowreg::data::dataset::Manifest;
use flowreg::io::tensors::{self, Numbers, Tensor};
use flowreg::{Dataset, Model};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

const ROWS: [f32; 18] = [
    0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.0, 1.0, 1.0, -2.0, 0.0, 4.0, 0.25, 2.0, 2.0, 1.0, 0.0, 3.0,
];

#[test]
fn datasets_of_version_2_are_read() {
    let dataset = Dataset::open(golden("dataset-2")).unwrap();
    dataset.verify().unwrap();
    assert_eq!(dataset.manifest().version, 2);
    assert_eq!(dataset.manifest().numbers, None);
    let split = dataset.split("train").unwrap();
    assert_eq!(split.labels(), [0, 1, 2, 0, 1, 2]);
    let samples = split.samples().unwrap();
    assert_eq!(samples.x().contiguous().unwrap().as_slice(), ROWS);

    let dataset = Dataset::open(golden("photographs-2")).unwrap();
    dataset.verify().unwrap();
    let transform = dataset.manifest().transform.clone().unwrap();
    assert_eq!((transform.size, transform.orientation), (2, None));
    let split = dataset.split("train").unwrap();
    assert_eq!(split.files().unwrap()[0], "a/0.png");
}

#[test]
fn datasets_of_version_3_are_read() {
    let open = |name: &str| {
        let dataset = Dataset::open(golden(name)).unwrap();
        dataset.verify().unwrap();
        assert_eq!(dataset.manifest().version, 3);
        assert!(flowreg::io::publish::is_output(&golden(name)));
        dataset
    };
    let table = open("table-3");
    let numbers = table.manifest().numbers.clone().unwrap();
    assert_eq!(numbers.columns.unwrap(), ["time", "size"]);
    assert_eq!(numbers.shift.unwrap(), [1_700_000_090.0, 0.0]);
    let split = table.split("train").unwrap();
    let rows = split.samples().unwrap();
    for i in 0..6 {
        let size = (i % 4) as f32 + 0.5;
        assert_eq!(rows.x().row(i), [37.0 * i as f32 - 90.0, size]);
    }
    let text = open("libsvm-3");
    let numbers = text.manifest().numbers.clone().unwrap();
    assert_eq!((numbers.first_index, numbers.shift), (Some(0), None));
    let split = text.split("train").unwrap();
    assert_eq!(split.samples().unwrap().x().row(0), [1.0, 0.0, 0.5]);
    let photographs = open("photographs-3");
    let transform = photographs.manifest().transform.clone().unwrap();
    assert_eq!(transform.orientation.as_deref(), Some("exif"));
}

#[test]
fn models_with_number_formats_are_read() {
    let about = |name: &str| Model::load(golden(name)).unwrap().about().clone();
    let table = about("model-2-table.safetensors");
    assert_eq!(table.class_names, ["elm", "oak"]);
    assert_eq!(
        table.numbers.unwrap().shift.unwrap(),
        [1_700_000_090.0, 0.0]
    );
    let text = about("model-2-libsvm.safetensors").numbers.unwrap();
    assert_eq!(text.first_index, Some(0));
    let transform = about("model-2-photographs.safetensors").transform.unwrap();
    assert_eq!(transform.orientation.as_deref(), Some("exif"));
}

#[test]
fn models_without_number_formats_are_read() {
    let model = Model::load(golden("model-1.safetensors")).unwrap();
    assert_eq!(model.about().numbers, None);
    assert!(model.is_described());
    let found = model.probabilities(&ROWS).unwrap();
    for (found, expected) in found.iter().zip(PROBABILITIES) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    let model = Model::load(golden("model-1-photographs.safetensors")).unwrap();
    assert_eq!(model.about().transform.as_ref().unwrap().size, 2);
    assert_eq!(model.about().class_names, ["a", "b"]);
}

/// The message names a newer flowreg as the writer, and does not ask to prepare the data again.
#[test]
fn files_of_newer_versions_name_the_newer_program() {
    let path = Path::new("dataset.json");
    let error = Manifest::parse(path, br#"{"version": 99}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found 99") && error.contains("made by a newer flowreg"),
        "{error}"
    );
    let error = Manifest::parse(path, br#"{"version": 1}"#)
        .unwrap_err()
        .to_string();
    assert!(error.contains("prepare the dataset again"), "{error}");
    let model = Model::new(vec![0.0; 2], vec![0.0]).unwrap();
    assert!(model.is_described());
    let about = serde_json::json!({"class_names": [], "transform": null, "turned": true});
    let tensor = |name: &str, shape: &[usize], values: Vec<f32>| Tensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        numbers: Numbers::F32(values.into()),
    };
    let tensors = [
        tensor("weight", &[1, 2], vec![0.0; 2]),
        tensor("bias", &[1], vec![0.0]),
    ];
    let error = Model::parse(Path::new("m"), &tensors::write(&tensors, about)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("turned") && error.contains("made by a newer one"),
        "{error}"
    );
}

/// The output of flowreg-predict of that version for these rows.
const PROBABILITIES: [f32; 18] = [
    0.33064708, 0.25414824, 0.41520464, 0.2945424, 0.32428524, 0.38117233, 0.36425692, 0.19112043,
    0.44462267, 0.20086694, 0.5587543, 0.24037871, 0.3437557, 0.15376088, 0.5024834, 0.23104535,
    0.37733337, 0.39162126,
];
