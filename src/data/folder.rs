//! One folder of photographs for each class, with or without the splits as folders above.

use std::fs;
use std::path::{Path, PathBuf};

use super::photographs::{Photograph, PhotographSplit, Photographs};
use crate::error::{Error, Result};
use crate::torch_rng::TorchRng;

/// Folders that are splits where they are there; `valid` and `validation` mean `val`.
const SPLITS: [(&str, &str); 5] = [
    ("train", "train"),
    ("val", "val"),
    ("valid", "val"),
    ("validation", "val"),
    ("test", "test"),
];

/// A class's name and photographs.
type Class = (String, Vec<Photograph>);

/// How to split photographs that no folder splits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Share of each class for `val`.
    pub val: f64,
    /// Share of each class for `test`.
    pub test: f64,
    /// Seed of the draw.
    pub seed: u32,
}

/// A folder of photographs, and how many files in it are none.
#[derive(Debug)]
pub struct Found {
    /// What there is to prepare.
    pub photographs: Photographs,
    /// Files passed over: neither JPEG nor PNG by their name.
    pub passed_over: usize,
    /// Whether folders made the splits.
    pub split_by_folders: bool,
}

/// List the photographs below `root`: `CLASS/FILE`, or `SPLIT/CLASS/FILE` if there is a folder
/// `train`. Files may lie in folders below a class; names that begin with a dot are passed over,
/// links are followed for files only.
///
/// Classes are the folders' names in alphabetical order. Without split folders each class is
/// shuffled by the seed and divided: at least one photograph stays in `train`, and a share above
/// 0 gets at least one photograph of every class that has enough.
///
/// # Errors
/// [`Error::Options`] for shares that leave nothing to train, [`Error::Format`] for a folder
/// without two classes or with a class that no photograph to train on shows.
pub fn open(root: &Path, shares: Shares) -> Result<Found> {
    for (option, share) in [("--val-share", shares.val), ("--test-share", shares.test)] {
        if !(0.0..1.0).contains(&share) || shares.val + shares.test >= 1.0 {
            let expected = "shares of 0 or above that add up to less than 1";
            return Err(Error::options(option, share, expected));
        }
    }
    let split_by_folders = root.join("train").is_dir();
    let mut passed_over = 0;
    let mut listed: Vec<(&str, PathBuf)> = Vec::new();
    match split_by_folders {
        true => listed.extend(
            (SPLITS.iter())
                .map(|(folder, split)| (*split, root.join(folder)))
                .filter(|(_, folder)| folder.is_dir()),
        ),
        false => listed.push(("", root.to_path_buf())),
    }
    let mut splits: Vec<(&str, Vec<Class>)> = Vec::new();
    for (split, folder) in listed {
        if splits.iter().any(|(name, _)| *name == split) {
            let expected = "one of val, valid and validation";
            return Err(Error::format(
                root,
                "folders",
                "two for the split val",
                expected,
            ));
        }
        splits.push((split, classes(root, &folder, &mut passed_over)?));
    }
    let class_names: Vec<String> = splits[0].1.iter().map(|(name, _)| name.clone()).collect();
    if class_names.len() < 2 {
        return Err(Error::format(
            root,
            "classes",
            format!("{} folder(s) with photographs", class_names.len()),
            "at least two, one for each class (or train/, val/, test/ with such folders)",
        ));
    }
    let splits = match split_by_folders {
        true => labelled(root, splits, &class_names)?,
        false => drawn(splits.remove(0).1, shares),
    };
    Ok(Found {
        photographs: Photographs {
            source: (root.file_name()).map_or("photographs".to_string(), |name| {
                name.to_string_lossy().into_owned()
            }),
            root: root.to_path_buf(),
            left_out: Vec::new(),
            class_names,
            splits,
        },
        passed_over,
        split_by_folders,
    })
}

/// The classes of a folder that have photographs, in order.
fn classes(root: &Path, folder: &Path, passed_over: &mut usize) -> Result<Vec<Class>> {
    let mut classes = Vec::new();
    for path in entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            let expected = "a name in UTF-8: it becomes the name of a class";
            return Err(Error::format(folder, "class", path.display(), expected));
        };
        if !path.is_dir() {
            *passed_over += 1;
            continue;
        }
        let mut photographs = Vec::new();
        collect(root, &path, &mut photographs, passed_over)?;
        if !photographs.is_empty() {
            classes.push((name.to_string(), photographs));
        }
    }
    Ok(classes)
}

fn collect(
    root: &Path,
    folder: &Path,
    photographs: &mut Vec<Photograph>,
    passed_over: &mut usize,
) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            // A link to a folder could lead in a circle.
            if !path.is_symlink() {
                collect(root, &path, photographs, passed_over)?;
            }
        } else if is_photograph(&path) {
            let name = path.strip_prefix(root).unwrap_or(&path);
            photographs.push(Photograph {
                name: name.display().to_string(),
                path,
                bytes: None,
            });
        } else {
            *passed_over += 1;
        }
    }
    Ok(())
}

/// Whether a file's name is that of a JPEG or PNG.
pub fn is_photograph(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        ["jpg", "jpeg", "png"].contains(&extension.to_ascii_lowercase().as_str())
    })
}

/// What lies in a folder, in order, without names that begin with a dot.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || Error::io(folder, "read the folder");
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(read())? {
        let entry = entry.map_err(read())?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Splits that folders made; a class must be known from `train`.
fn labelled(
    root: &Path,
    splits: Vec<(&str, Vec<Class>)>,
    class_names: &[String],
) -> Result<Vec<PhotographSplit>> {
    let mut all = Vec::new();
    for (split, classes) in splits {
        let mut rows = Vec::new();
        for (class, photographs) in classes {
            let Ok(label) = class_names.binary_search(&class) else {
                return Err(Error::format(
                    &root.join(split).join(&class),
                    "class",
                    "no photograph of it in train",
                    "the classes of train in every split",
                ));
            };
            rows.extend(
                photographs
                    .into_iter()
                    .map(|photograph| (photograph, label as u32)),
            );
        }
        if !rows.is_empty() {
            all.push(PhotographSplit {
                name: split.to_string(),
                rows,
            });
        }
    }
    Ok(all)
}

/// Splits by a draw of each class.
fn drawn(classes: Vec<Class>, shares: Shares) -> Vec<PhotographSplit> {
    let mut rng = TorchRng::new(shares.seed);
    let mut splits = ["train", "val", "test"].map(|name| PhotographSplit {
        name: name.to_string(),
        rows: Vec::new(),
    });
    for (label, (_, photographs)) in classes.into_iter().enumerate() {
        let count = photographs.len();
        let mut order = Vec::new();
        rng.permutation(count as u32, &mut order);
        let part = |share: f64, left: usize| match share > 0.0 {
            true => ((share * count as f64).round() as usize).max(1).min(left),
            false => 0,
        };
        let test = part(shares.test, count - 1);
        let val = part(shares.val, count - 1 - test);
        let mut split_of = vec![0; count];
        for (i, &photograph) in order.iter().enumerate() {
            split_of[photograph as usize] = match i {
                i if i < test => 2,
                i if i < test + val => 1,
                _ => 0,
            };
        }
        for (photograph, split) in photographs.into_iter().zip(split_of) {
            splits[split].rows.push((photograph, label as u32));
        }
    }
    let kept = splits.into_iter().filter(|split| !split.rows.is_empty());
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SHARES: Shares = Shares {
        val: 0.2,
        test: 0.3,
        seed: 0,
    };

    fn folder(files: &[String]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    #[test]
    fn a_draw_is_stratified_seeded_and_whole() {
        let mut files: Vec<String> = (0..20).map(|i| format!("rose/{i:02}.JPG")).collect();
        files.extend((0..10).map(|i| format!("lily/deep/{i}.png")));
        files.extend(
            [
                "one/1.jpeg",
                "rose/notes.txt",
                ".git/x.jpg",
                "README.md",
                "empty/x.txt",
            ]
            .map(String::from),
        );
        let dir = folder(&files);
        let found = open(dir.path(), SHARES).unwrap();
        assert_eq!(found.passed_over, 3);
        let photographs = found.photographs;
        assert_eq!(photographs.class_names, ["lily", "one", "rose"]);
        let mut counts = BTreeMap::new();
        let mut names = Vec::new();
        for split in &photographs.splits {
            for (photograph, label) in &split.rows {
                *counts.entry((split.name.as_str(), *label)).or_insert(0) += 1;
                names.push(photograph.name.clone());
            }
        }
        let expected = [
            (("train", 0), 5),
            (("train", 1), 1),
            (("train", 2), 10),
            (("val", 0), 2),
            (("val", 2), 4),
            (("test", 0), 3),
            (("test", 2), 6),
        ];
        assert_eq!(counts, BTreeMap::from(expected));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 31);

        let test = |seed| -> Vec<String> {
            let found = open(dir.path(), Shares { seed, ..SHARES }).unwrap();
            let rows = found.photographs.splits.into_iter().last().unwrap().rows;
            rows.into_iter()
                .map(|(photograph, _)| photograph.name)
                .collect()
        };
        assert_eq!(test(0), test(0));
        assert_ne!(test(0), test(1));
    }

    #[test]
    fn folders_make_the_splits() {
        let dir = folder(
            &[
                "train/a/1.jpg",
                "train/b/1.jpg",
                "valid/b/2.jpg",
                "test/a/3.png",
            ]
            .map(String::from),
        );
        let found = open(dir.path(), SHARES).unwrap();
        assert!(found.split_by_folders);
        let rows: Vec<(String, String, u32)> = (found.photographs.splits.iter())
            .flat_map(|s| {
                s.rows
                    .iter()
                    .map(|(p, label)| (s.name.clone(), p.name.clone(), *label))
            })
            .collect();
        let row = |split: &str, name: &str, label| (split.to_string(), name.to_string(), label);
        assert_eq!(
            rows,
            [
                row("train", "train/a/1.jpg", 0),
                row("train", "train/b/1.jpg", 1),
                row("val", "valid/b/2.jpg", 1),
                row("test", "test/a/3.png", 0)
            ]
        );
    }

    #[test]
    fn folders_that_cannot_be_trained_on_are_refused() {
        for (files, part) in [
            (&["a/1.jpg"][..], "at least two"),
            (&["1.jpg", "2.jpg"], "at least two"),
            (
                &["train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"],
                "no photograph of it in train",
            ),
            (
                &[
                    "train/a/1.jpg",
                    "train/b/1.jpg",
                    "val/a/1.jpg",
                    "valid/a/1.jpg",
                ],
                "two for the split val",
            ),
        ] {
            let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
            let error = open(folder(&files).path(), SHARES).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (val, test) in [(-0.1, 0.2), (0.5, 0.5), (f64::NAN, 0.1)] {
            assert!(open(Path::new("."), Shares { val, test, seed: 0 }).is_err());
        }
    }
}
