//! Photographs in folders: a folder per class, optionally in a folder per split.
//!
//! Folders are read like torchvision's `ImageFolder`: pictures may be in subfolders of their class,
//! links are followed, and the rows of a class are in the order of
//! `sorted(os.walk(class, followlinks=True))`. Other entries are counted and named.

mod walk;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use self::walk::{Kind, LeftOut, Tree, Walk, shown};

use crate::data::checks;
use crate::data::photographs::{Photograph, PhotographSplit, Photographs};
use crate::error::{Error, Result};
use crate::torch_rng::TorchRng;

/// Usual names of split folders, in lower case.
const USUAL: [(&str, &str); 8] = [
    ("train", "train"),
    ("training", "train"),
    ("val", "val"),
    ("valid", "val"),
    ("validation", "val"),
    ("dev", "val"),
    ("test", "test"),
    ("testing", "test"),
];
/// The name and photographs of a class.
pub(crate) type Class = (String, Vec<Photograph>);

/// The shares of a random split of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Share of each class for `val`.
    pub val: f64,
    /// Share of each class for `test`.
    pub test: f64,
    /// Seed of the draw.
    pub seed: u32,
}

impl std::fmt::Display for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Shares { val, test, seed } = self;
        write!(
            f,
            "each class is split by seed {seed}, {val} for val, {test} for test"
        )
    }
}

impl Shares {
    /// Check the shares.
    ///
    /// # Errors
    /// [`Error::Options`] for shares that leave no training rows.
    pub(crate) fn check(&self) -> Result<()> {
        for (option, share) in [("`val_share`", self.val), ("`test_share`", self.test)] {
            if !(0.0..1.0).contains(&share) || self.val + self.test >= 1.0 {
                let expected = "shares of 0 or above that add up to less than 1";
                return Err(Error::options(option, share, expected));
            }
        }
        Ok(())
    }
}

/// The layout of the folders below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `CLASS/FILE`: each folder is a class.
    Classes,
    /// `SPLIT/CLASS/FILE`: folders with the name of a split are splits.
    Splits,
}

/// Options of [`open`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderOptions {
    /// The layout; `None` to derive it from the names of the folders.
    pub layout: Option<Layout>,
    /// Names of splits and their folders; if there are any, the layout is `Splits`. If empty, the
    /// usual names: train, training; val, valid, validation, dev; test, testing; case is ignored.
    pub split_names: Vec<(String, String)>,
    /// How to split the classes of the layout `Classes`.
    pub shares: Shares,
    /// Leave out unreadable folders instead of an error.
    pub skip_bad: bool,
}

/// The photographs of a folder or list.
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    /// The photographs, not yet opened.
    pub photographs: Photographs,
    /// A line for the user about the layout and splits.
    pub layout: String,
}

/// List the photographs below `root`: `CLASS/FILE`, or `SPLIT/CLASS/FILE`.
///
/// Without [`FolderOptions::layout`] the folders are splits if all that contain pictures have the
/// usual names of splits, and `train` contains folders with pictures. If only some have such names,
/// all are classes. If that is unlikely (two of them contain folders with pictures, or a folder
/// besides `train` contains a class of `train`), the layout must be given.
///
/// Pictures are files with the extension of a picture, and other files that begin with the signature
/// of a picture. Names that begin with a dot, outputs of flowreg, links to a parent folder, and all
/// other entries are left out. [`Photographs::left_out`] counts and names them.
///
/// Classes are the folders' names in the order of their bytes, as Python sorts them. Without
/// split folders each class is shuffled by the seed and divided: at least one photograph stays in
/// `train`, and a share above 0 gets at least one photograph of every class that has enough.
///
/// Cost: each folder is read once; a file is opened only if it has not the extension of a picture.
///
/// # Errors
/// [`Error::Options`] for shares that leave no training rows, and invalid names of splits;
/// [`Error::Format`] for an ambiguous layout, fewer than two classes, and a class without rows in
/// `train`; [`Error::Io`].
pub fn open(root: &Path, options: &FolderOptions) -> Result<Found> {
    options.shares.check()?;
    check_split_names(&options.split_names)?;
    let mut walk = Walk::new(root, options.skip_bad);
    let tree = walk.folder(root, &mut Vec::new())?;
    let mut left_out = walk.left_out;
    let splits = splits(root, &tree, options)?;

    let (layout, class_names, splits) = match splits {
        Some(folders) => {
            let named = folders.iter().map(|(split, folder)| match folder.name() {
                name if name == *split => name,
                name => format!("{split} in {name}"),
            });
            let named: Vec<String> = named.collect();
            let layout = format!("layout: folders of splits ({})", named.join(", "));
            let (names, splits) = split_by_folders(root, &tree, &folders, &mut left_out)?;
            (layout, names, splits)
        }
        None => {
            let classes = classes(root, &tree, &mut left_out)?;
            let names: Vec<String> = classes.iter().map(|(name, _)| name.clone()).collect();
            let remark = match options.layout {
                None => remark(&tree, &names),
                Some(_) => String::new(),
            };
            let layout = format!(
                "layout: a folder for each of {} classes{remark}; {}",
                names.len(),
                options.shares
            );
            (layout, names, drawn(classes, options.shares))
        }
    };
    if class_names.len() < 2 {
        let left_out = match left_out.sentences().join("; ") {
            text if text.is_empty() => text,
            text => format!("; left out: {text}"),
        };
        return Err(Error::format(
            root,
            "classes",
            format!("{} folder(s) with pictures{left_out}", class_names.len()),
            "at least two, one for each class (or train/, val/, test/ with such folders)",
        ));
    }
    Ok(Found {
        photographs: Photographs {
            root: root.to_path_buf(),
            source: source(root),
            class_names,
            splits,
            left_out: left_out.sentences(),
        },
        layout,
    })
}

/// A remark for the user if a folder that is a class has the name of a split; else empty.
fn remark(tree: &Tree, names: &[String]) -> String {
    let is_train = |folder: &&Tree| usual_split(&folder.name()) == Some("train");
    if let Some(folder) = tree
        .with_pictures()
        .filter(|f| f.holds_classes())
        .find(is_train)
    {
        return format!(
            " ({}); {} is a class, because other folders have no name of a split; `layout` splits \
             would leave these out",
            names.join(", "),
            folder.name()
        );
    }
    let below = tree.with_pictures().flat_map(Tree::with_pictures);
    match below.into_iter().find(is_train) {
        Some(folder) => format!("; {} in a class is no split", folder.name()),
        None => String::new(),
    }
}

/// All pictures below a folder, by the rules of [`open`], and sentences about other entries.
///
/// # Errors
/// [`Error::Io`] for an unreadable folder; [`Error::Format`] for too many folders, by links.
pub fn pictures_below(folder: &Path, skip_bad: bool) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let mut walk = Walk::new(folder, skip_bad);
    let tree = walk.folder(folder, &mut Vec::new())?;
    let pictures = tree.pictures().into_iter().map(Path::to_path_buf);
    Ok((pictures.collect(), walk.left_out.sentences()))
}

/// The source of photographs in the manifest: the name of their folder.
pub(crate) fn source(root: &Path) -> String {
    let name = root.file_name().map(|name| name.to_string_lossy());
    name.map_or("photographs".to_string(), |name| name.into_owned())
}

/// The split with this usual name.
pub(crate) fn usual_split(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let usual = USUAL.iter().find(|(usual, _)| *usual == name);
    usual.map(|(_, split)| *split)
}

/// Parse `train=learn,val=check`, an option of the command line.
///
/// # Errors
/// What was expected.
pub fn parse_split_names(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(|pair| {
        let (split, folder) = pair.split_once('=')?;
        let (split, folder) = (split.trim(), folder.trim());
        (!split.is_empty() && !folder.is_empty()).then(|| (split.to_string(), folder.to_string()))
    });
    let pairs: Option<Vec<_>> = pairs.collect();
    pairs.ok_or_else(|| "expected SPLIT=FOLDER,..., such as train=learn,val=check".to_string())
}

fn check_split_names(names: &[(String, String)]) -> Result<()> {
    let option = "`split_names`";
    for (i, (split, folder)) in names.iter().enumerate() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if split.is_empty() || !split.bytes().all(allowed) {
            let expected = "names of splits of letters, digits, '-' and '_'";
            return Err(Error::options(option, format!("{split:?}"), expected));
        }
        if Path::new(folder).file_name() != Some(OsStr::new(folder)) {
            let expected = "names of folders directly in `root`";
            return Err(Error::options(option, format!("{folder:?}"), expected));
        }
        if names[..i].iter().any(|(s, f)| s == split || f == folder) {
            let found = format!("{split}={folder}, whose split or folder is given twice");
            let expected = "each split and each folder once";
            return Err(Error::options(option, found, expected));
        }
    }
    if !names.is_empty() && !names.iter().any(|(split, _)| split == "train") {
        let found = "no train";
        return Err(Error::options(option, found, "train=FOLDER among them"));
    }
    Ok(())
}

/// The split folders below the root, in order; `None` if the folders are classes.
fn splits<'a>(
    root: &Path,
    tree: &'a Tree,
    options: &FolderOptions,
) -> Result<Option<Vec<(String, &'a Tree)>>> {
    if !options.split_names.is_empty() {
        let named = options.split_names.iter().map(|(split, name)| {
            let mut folders = tree.with_pictures();
            let folder = folders.find(|folder| folder.name() == *name);
            let found = "no folder with pictures";
            let missing = || {
                Error::format(
                    &root.join(name),
                    "split",
                    found,
                    "one, as `split_names` says",
                )
            };
            Ok((split.clone(), folder.ok_or_else(missing)?))
        });
        return named.collect::<Result<_>>().map(Some);
    }
    let (mut splits, mut others) = (Vec::new(), Vec::new());
    for folder in tree.with_pictures() {
        match usual_split(&folder.name()) {
            Some(split) => splits.push((split.to_string(), folder)),
            None => others.push(folder),
        }
    }
    splits.sort_by_key(|(split, _)| USUAL.iter().position(|(name, _)| name == split));
    let train = (splits.iter()).find(|(split, folder)| split == "train" && folder.holds_classes());
    let train = train.map(|(_, folder)| *folder);
    let are_splits = match options.layout {
        Some(layout) => layout == Layout::Splits,
        None if others.is_empty() => train.is_some() || splits.len() > 1,
        None => {
            refuse_both(root, &splits, &others, train)?;
            false
        }
    };
    if !are_splits {
        return Ok(None);
    }
    if train.is_none() {
        let all = names(tree.with_pictures());
        let classes = match tree.with_pictures().count() {
            0 | 1 => "",
            _ => "; or `layout` classes, which makes each folder a class",
        };
        let found = if all.is_empty() { "no pictures" } else { &all };
        let expected = format!(
            "a folder train with a folder for each class in it (`split_names` train=FOLDER,... \
             gives its name){classes}"
        );
        return Err(Error::format(root, "splits", found, expected));
    }
    for (i, (split, folder)) in splits.iter().enumerate() {
        if let Some((_, other)) = splits[..i].iter().find(|(name, _)| name == split) {
            let found = format!("two for the split {split}, {}", names([*other, *folder]));
            let expected = "one; `split_names` train=FOLDER,val=FOLDER,... chooses";
            return Err(Error::format(root, "splits", found, expected));
        }
    }
    Ok(Some(splits))
}

/// Refuse an ambiguous layout: of the folders with names of splits at least two contain folders with
/// pictures, or a folder without such a name contains a class of `train`.
fn refuse_both(
    root: &Path,
    splits: &[(String, &Tree)],
    others: &[&Tree],
    train: Option<&Tree>,
) -> Result<()> {
    let holding = splits.iter().filter(|(_, folder)| folder.holds_classes());
    let of_train: Vec<String> = (train.into_iter().flat_map(Tree::with_pictures))
        .map(Tree::name)
        .collect();
    let shared = (others.iter().flat_map(|other| other.with_pictures()))
        .any(|class| of_train.contains(&class.name()));
    if holding.count() < 2 && !shared {
        return Ok(());
    }
    let found = format!(
        "{} with names of splits, and {}",
        names(splits.iter().map(|(_, folder)| *folder)),
        names(others.iter().copied())
    );
    let usual = match train {
        Some(_) => "`layout` splits leaves out the other folders, ",
        None => "",
    };
    let expected = format!(
        "a choice: {usual}`split_names` train=FOLDER,... names other splits, `layout` classes \
         makes each folder a class"
    );
    Err(Error::format(root, "layout", found, expected))
}

fn names<'a>(folders: impl IntoIterator<Item = &'a Tree>) -> String {
    let names: Vec<String> = folders.into_iter().map(Tree::name).collect();
    names.join(", ")
}

/// The classes of a folder that have photographs, in order.
fn classes(root: &Path, tree: &Tree, left_out: &mut LeftOut) -> Result<Vec<Class>> {
    for picture in &tree.pictures {
        left_out.add(Kind::Outside, || shown(root, picture));
    }
    let mut classes = Vec::new();
    for folder in &tree.folders {
        if !folder.holds_pictures() {
            left_out.add(Kind::NoPictures, || shown(root, &folder.path));
            continue;
        }
        let Some(name) = folder.path.file_name().and_then(OsStr::to_str) else {
            let expected = "a name in UTF-8: it becomes the name of a class; rename the folder";
            return Err(Error::format(&tree.path, "class", folder.name(), expected));
        };
        let photographs = folder.pictures().into_iter().map(|path| Photograph {
            name: shown(root, path),
            path: path.to_path_buf(),
            bytes: None,
        });
        classes.push((name.to_string(), photographs.collect()));
    }
    Ok(classes)
}

/// Names of the classes of `train`, and the splits of the layout `Splits`; other folders are left
/// out.
fn split_by_folders(
    root: &Path,
    tree: &Tree,
    folders: &[(String, &Tree)],
    left_out: &mut LeftOut,
) -> Result<(Vec<String>, Vec<PhotographSplit>)> {
    for picture in &tree.pictures {
        left_out.add(Kind::Outside, || shown(root, picture));
    }
    for folder in &tree.folders {
        if folders.iter().any(|(_, split)| split.path == folder.path) {
            continue;
        }
        let kind = if folder.holds_pictures() {
            Kind::OtherFolder
        } else {
            Kind::NoPictures
        };
        left_out.add(kind, || shown(root, &folder.path));
    }
    let mut of_splits = Vec::new();
    for (split, folder) in folders {
        of_splits.push((split, *folder, classes(root, folder, left_out)?));
    }
    let train = of_splits.iter().find(|(split, ..)| *split == "train");
    let names: Vec<String> = train.map_or(Vec::new(), |(.., classes)| {
        classes.iter().map(|(name, _)| name.clone()).collect()
    });
    let mut splits = Vec::new();
    for (split, folder, classes) in of_splits {
        let mut rows = Vec::new();
        for (class, photographs) in classes {
            let Ok(label) = names.binary_search(&class) else {
                let path = folder.path.join(&class);
                let train = names_of_train(folders);
                let remedy = format!("move some of its pictures to {train}, or remove the folder");
                return Err(checks::untrained(&path, "class", &class, &remedy));
            };
            let labelled = |photograph| (photograph, label as u32);
            rows.extend(photographs.into_iter().map(labelled));
        }
        if !rows.is_empty() {
            let name = split.clone();
            splits.push(PhotographSplit { name, rows });
        }
    }
    Ok((names, splits))
}

/// The folder name of the split `train`.
fn names_of_train(folders: &[(String, &Tree)]) -> String {
    names(
        folders
            .iter()
            .filter(|(split, _)| split == "train")
            .map(|(_, folder)| *folder),
    )
}

/// Split each class at random by `shares`.
pub(crate) fn drawn(classes: Vec<Class>, shares: Shares) -> Vec<PhotographSplit> {
    let mut rng = TorchRng::new(shares.seed);
    let mut splits = ["train", "val", "test"].map(|name| PhotographSplit {
        name: name.to_string(),
        rows: Vec::new(),
    });
    for (label, (_, photographs)) in classes.into_iter().enumerate() {
        let count = photographs.len();
        let mut order = Vec::new();
        rng.permutation(count as u32, &mut order);
        let part = |share: f64, left: usize| {
            if share > 0.0 {
                ((share * count as f64).round() as usize).max(1).min(left)
            } else {
                0
            }
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
mod tests;
