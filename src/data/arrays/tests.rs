use super::*;
use crate::Dataset;
use crate::io::npy::Dtype;
use crate::io::npy::Header;
use half::f16;

const DEFAULTS: ArrayOptions = ArrayOptions {
    labels_from: 0,
    center: false,
    cancel: None,
};

fn npy(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Vec<u8> {
    let mut bytes = Header::encode(dtype, shape);
    bytes.extend(data);
    bytes
}

#[test]
fn numbers_of_all_types_are_converted_to_f32() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let numbers = [0.0, 1.0, 255.0, 51.0, 0.25, 2.0];
    let of = |bytes: &dyn Fn(f64) -> Vec<u8>| numbers.iter().flat_map(|v| bytes(*v)).collect();
    let y: Vec<u8> = [0i32, 2, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path("y.npy"), npy(Dtype::I32, &[3], y)).unwrap();
    let cases: [(Dtype, Vec<u8>, f32); 4] = [
        (Dtype::F64, of(&|v| v.to_le_bytes().to_vec()), 1.0),
        (Dtype::F32, of(&|v| (v as f32).to_le_bytes().to_vec()), 1.0),
        (
            Dtype::F16,
            of(&|v| f16::from_f64(v).to_le_bytes().to_vec()),
            1.0,
        ),
        (Dtype::U8, of(&|v| vec![v as u8]), 255.0),
    ];
    for (dtype, data, scale) in cases {
        std::fs::write(path("x.npy"), npy(dtype, &[3, 2], data)).unwrap();
        let part = ArrayPart {
            name: "train",
            x: path("x.npy"),
            y: path("y.npy"),
        };
        prepare(
            &[part],
            &DEFAULTS,
            &path("out"),
            Overwrite::Replace,
            &|_| {},
        )
        .unwrap();
        let dataset = Dataset::open(path("out")).unwrap();
        assert_eq!(dataset.manifest().class_names.len(), 3);
        assert_eq!(dataset.manifest().transform, None);
        let split = dataset.split("train").unwrap();
        let samples = split.samples().unwrap();
        assert_eq!(samples.labels(), [0, 2, 1]);
        let values = samples.x().contiguous().unwrap().as_slice();
        for (&value, number) in values.iter().zip(numbers) {
            let number = if dtype == Dtype::U8 {
                number.trunc()
            } else {
                number
            };
            assert_eq!(value, number as f32 / scale, "{dtype:?}");
        }
    }
}

/// More classes than rows, and one that only the validation rows have.
#[test]
fn the_number_of_classes_follows_from_the_labels_of_all_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("x.npy"), npy(Dtype::U8, &[2, 1], vec![0, 1])).unwrap();
    std::fs::write(path("y.npy"), npy(Dtype::U8, &[2], vec![0, 9])).unwrap();
    std::fs::write(path("yv.npy"), npy(Dtype::U8, &[2], vec![0, 12])).unwrap();
    let parts = [("train", "y.npy"), ("val", "yv.npy")].map(|(name, y)| ArrayPart {
        name,
        x: path("x.npy"),
        y: path(y),
    });
    let prepared = prepare(&parts, &DEFAULTS, &path("out"), Overwrite::Never, &|_| {}).unwrap();
    assert_eq!(prepared.manifest.class_names.len(), 13);
    assert_eq!(prepared.train_labels, [0, 9]);
    let dataset = Dataset::open(path("out")).unwrap();
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 9]);
}

#[test]
fn invalid_arrays_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let floats = |v: [f32; 4]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let cases: [(Vec<u8>, Vec<u8>, &str); 6] = [
        (
            npy(Dtype::F32, &[2, 2], floats([0.0, 1.0, f32::NAN, 2.0])),
            npy(Dtype::U8, &[2], vec![0, 1]),
            "row 1, column 0",
        ),
        (
            npy(
                Dtype::F64,
                &[2, 1],
                [1f64, 1e300].iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
            npy(Dtype::U8, &[2], vec![0, 1]),
            "row 1, column 0",
        ),
        (
            npy(Dtype::F32, &[2, 2], floats([0.0; 4])),
            npy(Dtype::U8, &[3], vec![0, 1, 1]),
            "one label per row, 2",
        ),
        (
            npy(Dtype::F32, &[2, 2], floats([0.0; 4])),
            npy(Dtype::I32, &[2], [0, -1i32].map(i32::to_le_bytes).concat()),
            "label of row 1: found -1",
        ),
        (
            npy(Dtype::F32, &[4], floats([0.0; 4])),
            npy(Dtype::U8, &[4], vec![0; 4]),
            "reshape(-1, 1)",
        ),
        (
            npy(Dtype::Bytes(4), &[2, 2], floats([0.0; 4])),
            npy(Dtype::U8, &[2], vec![0, 1]),
            "|S4 (text), expected numbers",
        ),
    ];
    for (x, y, part) in cases {
        std::fs::write(path("x.npy"), x).unwrap();
        std::fs::write(path("y.npy"), y).unwrap();
        let parts = [ArrayPart {
            name: "train",
            x: path("x.npy"),
            y: path("y.npy"),
        }];
        let error =
            prepare(&parts, &DEFAULTS, &path("out"), Overwrite::Never, &|_| {}).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!path("out").exists());
    }
}
