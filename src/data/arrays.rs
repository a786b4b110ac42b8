//! Arrays of other tools to dataset: `.npy` features of any float or of bytes, and labels.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use half::f16;

use super::dataset::{MAX_CLASSES, Manifest, USABLE, check_labels, is_usable};
use super::dataset_writer::{publish, write_split};
use super::npy::{Dtype, Header};
use super::samples::position;
use super::store::{check_state, read_header, read_labels, state};
use crate::error::{Error, Result};
use crate::publish::{Overwrite, Staging};

/// One split to be: features (n x d) and labels (n).
#[derive(Clone, Debug)]
pub struct Part {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// The features' file: `<f8`, `<f4`, `<f2` or `|u1`.
    pub x: PathBuf,
    /// The labels' file: `<i8`, `<i4` or `|u1`, classes numbered from 0.
    pub y: PathBuf,
}

/// Convert arrays into the dataset directory `out`, which appears complete or not at all.
///
/// Floats are rounded to f32; bytes are taken for pixels and divided by 255. `progress` is told
/// the rows done since its last call. Cost: one pass over the files; memory: a block of 32 MB.
///
/// # Errors
/// [`Error::Format`] for arrays that do not fit together, labels below 0 or above 524,287, and values beyond 10¹⁵ or that are no numbers; [`Error::Exists`], [`Error::Locked`],
/// [`Error::Npy`], [`Error::Changed`], [`Error::Io`], [`Error::Interrupted`].
pub fn prepare(
    parts: &[Part],
    out: &Path,
    overwrite: Overwrite,
    progress: &dyn Fn(u64),
) -> Result<Manifest> {
    let mut opened = Vec::new();
    for part in parts {
        let x = Features::open(&part.x)?;
        let labels = read_labels(&part.y, x.rows)?.values;
        opened.push((part, x, labels));
    }
    let features = opened[0].1.features;
    let most = MAX_CLASSES as i64;
    for (part, x, labels) in &opened {
        if x.features != features {
            let expected = format!("{features} as {}", opened[0].0.x.display());
            return Err(Error::format(&part.x, "features", x.features, expected));
        }
        let expected = || {
            format!(
                "0..{most}: classes are numbered from 0, and a dataset has names for at most {most}"
            )
        };
        check_labels(&part.y, labels, most, expected)?;
    }
    let largest = opened.iter().flat_map(|(_, _, labels)| labels).max();
    let classes = largest.map_or(2, |largest| (largest + 1).max(2));
    let sources: Vec<&Path> = (parts.iter())
        .flat_map(|part| [part.x.as_path(), &part.y])
        .collect();
    let staging = Staging::begin(out, overwrite, &sources)?;
    let source = opened[0]
        .0
        .x
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let names = (0..classes).map(|class| format!("class {class}")).collect();
    let mut manifest = Manifest::of_numbers(source.into_owned(), names, features);
    for (part, mut x, labels) in opened {
        let fill = |rows: Range<usize>, values: &mut [f32]| {
            progress(rows.len() as u64);
            x.read(rows, values)
        };
        let entry = write_split(staging.dir(), part.name, &part.y, features, &labels, fill)?;
        check_state(&x.path, &x.file, x.state)?;
        manifest.splits.push(entry);
    }
    publish(staging, manifest)
}

/// A features file, read front to back.
struct Features {
    path: PathBuf,
    file: File,
    state: (u64, SystemTime),
    dtype: Dtype,
    rows: usize,
    features: usize,
    bytes: Vec<u8>,
}

impl Features {
    fn open(path: &Path) -> Result<Features> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let state = state(path, &file)?;
        let Header {
            dtype,
            shape,
            data_offset,
        } = read_header(path, &file, state.0)?;
        let &[rows, features] = shape.as_slice() else {
            let expected =
                "two dimensions, rows x features (numpy's reshape(len(x), -1) makes them)";
            return Err(Error::format(path, "shape", format!("{shape:?}"), expected));
        };
        if rows == 0 || features == 0 {
            let expected = "at least one row and one feature";
            return Err(Error::format(
                path,
                "shape",
                format!("{rows} x {features}"),
                expected,
            ));
        }
        if matches!(dtype, Dtype::I64 | Dtype::I32) {
            let expected = "<f8, <f4, <f2 or |u1 (numpy's astype('f4') makes whole numbers so)";
            return Err(Error::format(path, "descr", dtype.descr(), expected));
        }
        file.seek(SeekFrom::Start(data_offset as u64))
            .map_err(Error::io(path, "read"))?;
        Ok(Features {
            path: path.to_path_buf(),
            file,
            state,
            dtype,
            rows,
            features,
            bytes: Vec::new(),
        })
    }

    /// The next rows, which are `range`.
    fn read(&mut self, range: Range<usize>, values: &mut [f32]) -> Result<()> {
        self.bytes.resize(values.len() * self.dtype.size(), 0);
        (self.file.read_exact(&mut self.bytes)).map_err(Error::io(&self.path, "read"))?;
        fn spread<const N: usize>(bytes: &[u8], values: &mut [f32], of: impl Fn([u8; N]) -> f32) {
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                *value = of(bytes.try_into().expect("chunks of N"));
            }
        }
        let bytes = &self.bytes;
        match self.dtype {
            Dtype::F64 => spread(bytes, values, |b| f64::from_le_bytes(b) as f32),
            Dtype::F32 => spread(bytes, values, f32::from_le_bytes),
            Dtype::F16 => spread(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::U8 => spread(bytes, values, |b: [u8; 1]| f32::from(b[0]) / 255.0),
            Dtype::I64 | Dtype::I32 => unreachable!("refused when it was opened"),
        }
        match position(values, is_usable) {
            None => Ok(()),
            Some(i) => Err(Error::format(
                &self.path,
                format!(
                    "row {}, column {}",
                    range.start + i / self.features,
                    i % self.features
                ),
                values[i],
                USABLE,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    fn npy(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Vec<u8> {
        let mut bytes = Header::encode(dtype, shape);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn every_type_becomes_f32() {
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
            let part = Part {
                name: "train",
                x: path("x.npy"),
                y: path("y.npy"),
            };
            prepare(&[part], &path("out"), Overwrite::Replace, &|_| {}).unwrap();
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
    fn classes_are_as_many_as_the_labels_of_all_parts_need() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("x.npy"), npy(Dtype::U8, &[2, 1], vec![0, 1])).unwrap();
        std::fs::write(path("y.npy"), npy(Dtype::U8, &[2], vec![0, 9])).unwrap();
        std::fs::write(path("yv.npy"), npy(Dtype::U8, &[2], vec![0, 12])).unwrap();
        let parts = [("train", "y.npy"), ("val", "yv.npy")].map(|(name, y)| Part {
            name,
            x: path("x.npy"),
            y: path(y),
        });
        let manifest = prepare(&parts, &path("out"), Overwrite::Never, &|_| {}).unwrap();
        assert_eq!(manifest.class_names.len(), 13);
        let dataset = Dataset::open(path("out")).unwrap();
        assert_eq!(dataset.split("train").unwrap().labels(), [0, 9]);
    }

    #[test]
    fn arrays_that_lie_are_refused() {
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
                "one label a row, 2",
            ),
            (
                npy(Dtype::F32, &[2, 2], floats([0.0; 4])),
                npy(Dtype::I32, &[2], [0, -1i32].map(i32::to_le_bytes).concat()),
                "label of row 1: found -1",
            ),
            (
                npy(Dtype::F32, &[4], floats([0.0; 4])),
                npy(Dtype::U8, &[4], vec![0; 4]),
                "two dimensions",
            ),
            (
                npy(Dtype::I32, &[2, 2], floats([0.0; 4])),
                npy(Dtype::U8, &[2], vec![0, 1]),
                "<i4",
            ),
        ];
        for (x, y, part) in cases {
            std::fs::write(path("x.npy"), x).unwrap();
            std::fs::write(path("y.npy"), y).unwrap();
            let parts = [Part {
                name: "train",
                x: path("x.npy"),
                y: path("y.npy"),
            }];
            let error = prepare(&parts, &path("out"), Overwrite::Never, &|_| {}).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!path("out").exists());
        }
    }
}
