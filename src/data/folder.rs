//! Photographs in folders: one folder for each class, with or without folders for the splits
//! above them.
//!
//! A folder is read as torchvision's `ImageFolder` reads it: pictures may lie in folders below
//! their class, links are followed, and the rows of a class are in the order of
//! `sorted(os.walk(class, followlinks=True))`. Whatever is not a row is counted and named.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::checks;
use crate::data::photographs::{Photograph, PhotographSplit, Photographs};
use crate::data::pictures;
use crate::error::{Error, Result};
use crate::io::{files, publish};
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
/// Extensions of pictures that are decoded.
const PICTURES: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff",
];
/// Extensions of pictures that are not.
const OTHER_PICTURES: [&str; 14] = [
    "heic", "heif", "avif", "jxl", "jp2", "ppm", "pgm", "pbm", "psd", "svg", "dng", "cr2", "nef",
    "arw",
];
/// More folders than a tree has: links to folders that hold links multiply.
const MAX_FOLDERS: usize = 1 << 20;
/// Names that are given of what is left out.
const NAMED: usize = 3;

/// A class's name and photographs.
pub(crate) type Class = (String, Vec<Photograph>);

/// How to split photographs that nothing else splits.
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
    /// # Errors
    /// [`Error::Options`] for shares that leave nothing to train on.
    pub(crate) fn check(&self) -> Result<()> {
        for (option, share) in [("--val-share", self.val), ("--test-share", self.test)] {
            if !(0.0..1.0).contains(&share) || self.val + self.test >= 1.0 {
                let expected = "shares of 0 or above that add up to less than 1";
                return Err(Error::options(option, share, expected));
            }
        }
        Ok(())
    }
}

/// What the folders below the root are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `CLASS/FILE`: each is a class.
    Classes,
    /// `SPLIT/CLASS/FILE`: those with the name of a split are splits.
    Splits,
}

/// How to read a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderOptions {
    /// The layout; decided by what is there if not given.
    pub layout: Option<Layout>,
    /// Names of splits, each with its folder, which make the layout `Splits`. If empty, the usual
    /// names: train, training; val, valid, validation, dev; test, testing; in any case.
    pub split_names: Vec<(String, String)>,
    /// How to split classes that no folder splits.
    pub shares: Shares,
    /// Leave out folders that cannot be read instead of refusing all.
    pub skip_bad: bool,
}

/// What there is to prepare, and how it was found.
#[derive(Debug)]
pub struct Found {
    /// The photographs; not one of them has been opened.
    pub photographs: Photographs,
    /// The layout and the splits, in a line for people.
    pub layout: String,
}

/// List the photographs below `root`: `CLASS/FILE`, or `SPLIT/CLASS/FILE`.
///
/// Without [`FolderOptions::layout`] the folders are splits if all of them that hold pictures have
/// the usual names of splits and `train` holds folders with pictures. If only some have such
/// names, they are classes like the others, unless that is unlikely (two of them hold folders with
/// pictures, or a folder beside `train` holds a class of `train`): then the layout must be given.
///
/// Pictures are files with a picture's extension, and files of any other name that begin with a
/// picture's signature. Names that begin with a dot, outputs of flowreg and links that lead back
/// to a folder above them are left out; so is all else that is no row. It is counted and named in
/// [`Photographs::left_out`].
///
/// Classes are the folders' names in the order of their bytes, as Python sorts them. Without
/// split folders each class is shuffled by the seed and divided: at least one photograph stays in
/// `train`, and a share above 0 gets at least one photograph of every class that has enough.
///
/// Cost: each folder is read once; a file is opened only if its extension is no picture's.
///
/// # Errors
/// [`Error::Options`] for shares that leave nothing to train on and names of splits that are none,
/// [`Error::Format`] for a layout that must be given, for less than two classes and for a class
/// that `train` lacks, [`Error::Io`].
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
            let doubt = match options.layout {
                None => doubt(&tree, &names),
                Some(_) => String::new(),
            };
            let layout = format!(
                "layout: a folder for each of {} classes{doubt}; {}",
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

/// What speaks against folders being classes, for people; nothing if nothing does.
fn doubt(tree: &Tree, names: &[String]) -> String {
    let is_train = |folder: &&Tree| usual_split(&folder.name()) == Some("train");
    if let Some(folder) = tree
        .with_pictures()
        .filter(|f| f.holds_classes())
        .find(is_train)
    {
        return format!(
            " ({}); {} is taken for a class, because folders beside it have no split's name; \
             --layout splits would leave those out",
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

/// All pictures below a folder, by the rules of [`open`], and what was left out.
///
/// # Errors
/// [`Error::Io`] for a folder that cannot be read, [`Error::Format`] for links without end.
pub fn pictures_below(folder: &Path, skip_bad: bool) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let mut walk = Walk::new(folder, skip_bad);
    let tree = walk.folder(folder, &mut Vec::new())?;
    let pictures = tree.pictures().into_iter().map(Path::to_path_buf);
    Ok((pictures.collect(), walk.left_out.sentences()))
}

/// Where photographs come from, for the manifest: the name of their folder.
pub(crate) fn source(root: &Path) -> String {
    let name = root.file_name().map(|name| name.to_string_lossy());
    name.map_or("photographs".to_string(), |name| name.into_owned())
}

/// The split that a folder or a list usually means by a name.
pub(crate) fn usual_split(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let usual = USUAL.iter().find(|(usual, _)| *usual == name);
    usual.map(|(_, split)| *split)
}

/// `train=learn,val=check`, for the command line.
///
/// # Errors
/// What was expected, in words.
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
    let option = "--split-names";
    for (i, (split, folder)) in names.iter().enumerate() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if split.is_empty() || !split.bytes().all(allowed) {
            let expected = "names of splits of letters, digits, '-' and '_'";
            return Err(Error::options(option, format!("{split:?}"), expected));
        }
        if Path::new(folder).file_name() != Some(OsStr::new(folder)) {
            let expected = "names of folders directly in --root";
            return Err(Error::options(option, format!("{folder:?}"), expected));
        }
        if names[..i].iter().any(|(s, f)| s == split || f == folder) {
            let found = format!("{split}={folder} beside another of that name");
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

/// A folder with the pictures and folders in it that count.
#[derive(Debug, Default)]
struct Tree {
    path: PathBuf,
    pictures: Vec<PathBuf>,
    folders: Vec<Tree>,
}

impl Tree {
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn holds_pictures(&self) -> bool {
        !self.pictures.is_empty() || self.holds_classes()
    }

    /// Whether a folder in it holds pictures.
    fn holds_classes(&self) -> bool {
        self.folders.iter().any(Tree::holds_pictures)
    }

    /// The folders in it that hold pictures, at any depth.
    fn with_pictures(&self) -> impl Iterator<Item = &Tree> {
        self.folders.iter().filter(|folder| folder.holds_pictures())
    }

    /// All pictures, in the order of `sorted(os.walk(..))`: by the path of their folder as text,
    /// then by name.
    fn pictures(&self) -> Vec<&Path> {
        fn collect<'a>(tree: &'a Tree, all: &mut Vec<&'a Tree>) {
            all.push(tree);
            tree.folders.iter().for_each(|below| collect(below, all));
        }
        let mut all = Vec::new();
        collect(self, &mut all);
        all.sort_by_key(|tree| tree.path.as_os_str().as_encoded_bytes());
        let pictures = all.into_iter().flat_map(|tree| &tree.pictures);
        pictures.map(PathBuf::as_path).collect()
    }
}

/// What is no row, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Beside,
    Outside,
    NoPictures,
    OtherPictures,
    NotPictures,
    NotFiles,
    Hidden,
    Output,
    Circle,
    Unreadable,
}

impl Kind {
    /// For one, and for more.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::Beside => ("folder beside the splits", "folders beside the splits"),
            Kind::Outside => (
                "picture outside of class folders",
                "pictures outside of class folders",
            ),
            Kind::NoPictures => ("folder without pictures", "folders without pictures"),
            Kind::OtherPictures => (
                "picture in a format that flowreg does not read",
                "pictures in formats that flowreg does not read",
            ),
            Kind::NotPictures => ("file that is no picture", "files that are no pictures"),
            Kind::NotFiles => ("pipe, socket or device", "pipes, sockets or devices"),
            Kind::Hidden => ("hidden name", "hidden names"),
            Kind::Output => ("output of flowreg", "outputs of flowreg"),
            Kind::Circle => ("link to a folder above it", "links to folders above them"),
            Kind::Unreadable => ("folder that cannot be read", "folders that cannot be read"),
        }
    }
}

/// Numbers and first names of what is no row.
#[derive(Debug, Default)]
struct LeftOut(BTreeMap<Kind, (usize, Vec<String>)>);

impl LeftOut {
    fn add(&mut self, kind: Kind, name: impl FnOnce() -> String) {
        let (count, names) = self.0.entry(kind).or_default();
        *count += 1;
        // The folders beside splits are few, and each may be a class.
        if names.len() < NAMED || kind == Kind::Beside && names.len() < 10 * NAMED {
            names.push(name());
        }
    }

    fn sentences(&self) -> Vec<String> {
        let sentence = |(kind, (count, names)): (&Kind, &(usize, Vec<String>))| {
            let (one, more) = kind.words();
            let what = if *count == 1 { one } else { more };
            let dots = if *count > names.len() { ", ..." } else { "" };
            format!("{count} {what} ({}{dots})", names.join(", "))
        };
        self.0.iter().map(sentence).collect()
    }
}

/// A walk through all folders below a root.
struct Walk<'a> {
    root: &'a Path,
    skip_bad: bool,
    left_out: LeftOut,
    folders: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, skip_bad: bool) -> Walk<'a> {
        Walk {
            root,
            skip_bad,
            left_out: LeftOut::default(),
            folders: 0,
        }
    }

    fn leave_out(&mut self, kind: Kind, path: &Path) {
        let root = self.root;
        self.left_out.add(kind, || shown(root, path));
    }

    /// Read a folder; `above` are those that it lies in.
    fn folder(&mut self, path: &Path, above: &mut Vec<files::FolderId>) -> Result<Tree> {
        self.folders += 1;
        if self.folders > MAX_FOLDERS {
            let expected = "fewer; links to folders that hold links multiply: remove some";
            let found = format!("more than {MAX_FOLDERS}");
            return Err(Error::format(self.root, "folders", found, expected));
        }
        let mut tree = Tree {
            path: path.to_path_buf(),
            ..Tree::default()
        };
        let entries = match files::entries(path) {
            Err(_) if self.skip_bad && !above.is_empty() => {
                self.leave_out(Kind::Unreadable, path);
                return Ok(tree);
            }
            entries => entries?,
        };
        above.push(files::folder_id(path)?);
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.leave_out(Kind::Hidden, &path);
                continue;
            }
            // Of a link, what it names; None if that is nothing.
            let kind = match entry.file_type() {
                Ok(kind) if !kind.is_symlink() => Some(kind),
                _ => fs::metadata(&path)
                    .ok()
                    .map(|metadata| metadata.file_type()),
            };
            if !kind.is_some_and(|kind| kind.is_dir()) {
                match file_kind(&path, kind) {
                    None => tree.pictures.push(path),
                    Some(kind) => self.leave_out(kind, &path),
                }
            } else if publish::is_output(&path) {
                self.leave_out(Kind::Output, &path);
            } else if files::folder_id(&path).is_ok_and(|id| above.contains(&id)) {
                self.leave_out(Kind::Circle, &path);
            } else {
                let below = self.folder(&path, above)?;
                tree.folders.push(below);
            }
        }
        above.pop();
        Ok(tree)
    }
}

/// Why a file is no row; None for a row. Files with a picture's extension are rows whatever is in
/// them; of others the first bytes decide. Nothing but a regular file is opened.
fn file_kind(path: &Path, kind: Option<FileType>) -> Option<Kind> {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let extension = extension.to_ascii_lowercase();
    if PICTURES.contains(&extension.as_str()) {
        return None;
    }
    let regular = kind.is_some_and(|kind| kind.is_file());
    if kind.is_some() && !regular {
        Some(Kind::NotFiles)
    } else if regular && begins_as_a_picture(path) {
        None
    } else if OTHER_PICTURES.contains(&extension.as_str()) {
        Some(Kind::OtherPictures)
    } else {
        Some(Kind::NotPictures)
    }
}

fn begins_as_a_picture(path: &Path) -> bool {
    let mut begin = Vec::new();
    files::open_regular(path, "open").is_ok_and(|file| {
        file.take(pictures::FIRST_BYTES as u64)
            .read_to_end(&mut begin)
            .is_ok()
            && pictures::kind(&begin).is_some()
    })
}

/// A path below `root`, for people.
fn shown(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.display().to_string()
}

/// The split folders below the root, in order; None if the folders are classes.
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
                    "one, as --split-names says",
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
            _ => "; or --layout classes, which makes each folder a class",
        };
        let found = match all.is_empty() {
            true => "no pictures",
            false => &all,
        };
        let expected = format!(
            "a folder train with a folder for each class in it (--split-names train=FOLDER,... \
             gives its name){classes}"
        );
        return Err(Error::format(root, "splits", found, expected));
    }
    for (i, (split, folder)) in splits.iter().enumerate() {
        if let Some((_, other)) = splits[..i].iter().find(|(name, _)| name == split) {
            let found = format!("two for the split {split}, {}", names([*other, *folder]));
            let expected = "one; --split-names train=FOLDER,val=FOLDER,... chooses";
            return Err(Error::format(root, "splits", found, expected));
        }
    }
    Ok(Some(splits))
}

/// Refuse folders of which some are probably splits, and others are not: at least two with names
/// of splits hold folders with pictures, or one beside `train` holds a class of `train`.
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
        "{} with names of splits, beside {}",
        names(splits.iter().map(|(_, folder)| *folder)),
        names(others.iter().copied())
    );
    let usual = match train {
        Some(_) => "--layout splits leaves out what lies beside the splits, ",
        None => "",
    };
    let expected = format!(
        "a choice: {usual}--split-names train=FOLDER,... names other splits, --layout classes \
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

/// Names of the classes of `train`, and the splits that folders make; what lies beside them is
/// left out.
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
        let kind = match folders.iter().any(|(_, split)| split.path == folder.path) {
            true => continue,
            false if folder.holds_pictures() => Kind::Beside,
            false => Kind::NoPictures,
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
                let remedy = format!("move some of its pictures to {train}, or the folder away");
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

/// The folder of the split train.
fn names_of_train(folders: &[(String, &Tree)]) -> String {
    names(
        folders
            .iter()
            .filter(|(split, _)| split == "train")
            .map(|(_, folder)| *folder),
    )
}

/// Splits by a draw of each class.
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
    use proptest::prelude::*;

    const SHARES: Shares = Shares {
        val: 0.2,
        test: 0.3,
        seed: 0,
    };
    const GIF: &[u8] = b"GIF89a..........";

    fn options() -> FolderOptions {
        FolderOptions {
            shares: SHARES,
            ..FolderOptions::default()
        }
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            put(dir.path(), file, b"");
        }
        dir
    }

    fn put(root: &Path, file: &str, bytes: &[u8]) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Split, name and label of all rows.
    fn rows(found: &Found) -> Vec<(&str, &str, u32)> {
        let splits = found.photographs.splits.iter();
        let rows = splits.flat_map(|split| split.rows.iter().map(move |row| (split, row)));
        rows.map(|(split, (photograph, label))| (&*split.name, &*photograph.name, *label))
            .collect()
    }

    #[test]
    fn a_draw_is_stratified_seeded_and_whole() {
        let mut files: Vec<String> = (0..20).map(|i| format!("rose/{i:02}.JPG")).collect();
        files.extend((0..10).map(|i| format!("lily/deep/{i}.png")));
        let strangers = [
            "one/1.jpeg",
            "rose/notes.txt",
            ".git/x.jpg",
            "README.md",
            "empty/x.txt",
        ];
        files.extend(strangers.map(String::from));
        let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let found = open(dir.path(), &options()).unwrap();
        assert_eq!(found.photographs.class_names, ["lily", "one", "rose"]);
        let left_out = [
            "1 folder without pictures (empty)",
            "3 files that are no pictures (README.md, empty/x.txt, rose/notes.txt)",
            "1 hidden name (.git)",
        ];
        assert_eq!(found.photographs.left_out, left_out);
        let mut counts = BTreeMap::new();
        for (split, _, label) in rows(&found) {
            *counts.entry((split.to_string(), label)).or_insert(0) += 1;
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
        let expected = expected.map(|((split, label), count)| ((split.to_string(), label), count));
        assert_eq!(counts, BTreeMap::from(expected));
        let mut names: Vec<&str> = rows(&found).iter().map(|(_, name, _)| *name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 31);

        let test = |seed| -> Vec<String> {
            let shares = Shares { seed, ..SHARES };
            let found = open(
                dir.path(),
                &FolderOptions {
                    shares,
                    ..options()
                },
            )
            .unwrap();
            let of_test = rows(&found)
                .into_iter()
                .filter(|(split, ..)| *split == "test");
            of_test.map(|(_, name, _)| name.to_string()).collect()
        };
        assert_eq!(test(0), test(0));
        assert_ne!(test(0), test(1));
    }

    #[test]
    fn folders_make_the_splits() {
        let files = [
            "Train/a/1.jpg",
            "Train/b/1.jpg",
            "valid/b/2.jpg",
            "test/a/3.png",
        ];
        let found = open(tree(&files).path(), &options()).unwrap();
        let expected = [
            ("train", "Train/a/1.jpg", 0),
            ("train", "Train/b/1.jpg", 1),
            ("val", "valid/b/2.jpg", 1),
            ("test", "test/a/3.png", 0),
        ];
        assert_eq!(rows(&found), expected);
        let layout = "layout: folders of splits (train in Train, val in valid, test)";
        assert_eq!(found.layout, layout);
    }

    /// What a layout becomes: classes, the splits with their folders' names, or a refusal.
    #[test]
    fn the_whole_layout_decides() {
        let classes = |names: &str| (names.to_string(), String::new());
        let splits = |names: &str, left_out: &str| (names.to_string(), left_out.to_string());
        let auto = options();
        let forced = |layout| FolderOptions {
            layout: Some(layout),
            ..options()
        };
        let (as_classes, as_splits) = (forced(Layout::Classes), forced(Layout::Splits));
        let named = |text: &str| FolderOptions {
            split_names: parse_split_names(text).unwrap(),
            ..options()
        };
        let vehicles = [
            "bus/1.png",
            "car/2.png",
            "train/steam/1.png",
            "train/diesel/2.png",
        ];
        let flat = ["bus/1.png", "car/2.png", "train/3.png"];
        let usual = ["train/a/1.png", "train/b/2.png", "val/a/3.png"];
        let kaggle = ["train/a/1.png", "train/b/2.png", "test/3.png", "test/4.png"];
        let mixed = ["train/a/1.png", "train/b/2.png", "more/a/3.png"];
        let three = [
            "train/a/1.png",
            "train/b/2.png",
            "test/a/3.png",
            "more/4.png",
        ];
        for (files, options, (expected, left_out)) in [
            (&flat[..], &auto, classes("bus car train")),
            (&vehicles, &auto, classes("bus car train")),
            (&vehicles, &as_classes, classes("bus car train")),
            (&usual, &as_classes, classes("train val")),
            (
                &vehicles,
                &as_splits,
                splits("diesel steam", "2 folders beside the splits (bus, car)"),
            ),
            (&usual, &auto, splits("a b", "")),
            (
                &kaggle,
                &auto,
                splits(
                    "a b",
                    "2 pictures outside of class folders (test/3.png, test/4.png)",
                ),
            ),
            (
                &mixed,
                &as_splits,
                splits("a b", "1 folder beside the splits (more)"),
            ),
            (&mixed, &named("train=train,val=more"), splits("a b", "")),
            (&mixed, &named("train=train, extra=more"), splits("a b", "")),
        ] {
            let found = open(tree(files).path(), options).unwrap();
            assert_eq!(
                found.photographs.class_names.join(" "),
                expected,
                "{files:?}"
            );
            assert_eq!(found.photographs.left_out.join("; "), left_out, "{files:?}");
        }
        for (files, options, part) in [
            (&mixed[..], &auto, "train with names of splits, beside more"),
            (
                &three,
                &auto,
                "train, test with names of splits, beside more",
            ),
            (
                &["val/a/1.png", "val/b/1.png", "test/a/2.png"],
                &auto,
                "a folder train with",
            ),
            (&["train/1.png", "test/2.png"], &auto, "--layout classes"),
            (&["train/1.png", "train/2.png"], &auto, "at least two"),
            (
                &["1.png", "2.png"],
                &auto,
                "2 pictures outside of class folders",
            ),
            (&["a/1.png"], &auto, "1 folder(s) with pictures"),
            (&flat, &as_splits, "a folder train with"),
            (
                &usual,
                &named("train=learn"),
                "learn: split: found no folder",
            ),
            (&usual, &named("val=val"), "train=FOLDER among them"),
            (
                &usual,
                &named("train=train,train=val"),
                "each split and each folder once",
            ),
            (&usual, &named("train=../x"), "directly in --root"),
            (&usual, &named("a/b=train"), "letters, digits"),
            (
                &["train/a/1.png", "train/b/1.png", "val/c/1.png"],
                &auto,
                "which has no rows to train on, expected every class in train; move some of its pictures to",
            ),
            (
                &[
                    "train/a/1.png",
                    "train/b/1.png",
                    "val/a/1.png",
                    "valid/a/1.png",
                ],
                &auto,
                "two for the split val, val, valid",
            ),
        ] {
            let error = open(tree(files).path(), options).unwrap_err().to_string();
            assert!(error.contains(part), "{files:?}: {error}");
        }
        let below = [
            "a/train/1.png",
            "a/test/2.png",
            "b/train/3.png",
            "b/test/4.png",
        ];
        let found = open(tree(&below).path(), &auto).unwrap();
        assert!(
            found.layout.contains("train in a class is no split"),
            "{}",
            found.layout
        );
        let found = open(tree(&vehicles).path(), &auto).unwrap();
        let doubt = "classes (bus, car, train); train is taken for a class, because folders beside";
        assert!(found.layout.contains(doubt), "{}", found.layout);
        for text in ["", "train", "=a", "train=", "train=a,"] {
            assert!(parse_split_names(text).is_err(), "{text}");
        }
        for (val, test) in [(-0.1, 0.2), (0.5, 0.5), (f64::NAN, 0.1)] {
            let shares = Shares { val, test, seed: 0 };
            assert!(
                open(
                    Path::new("."),
                    &FolderOptions {
                        shares,
                        ..options()
                    }
                )
                .is_err()
            );
        }
    }

    #[test]
    fn what_is_no_row_is_counted_and_named() {
        let dir = tree(&["a/1.png", "b/1.jpg", "b/notes", "loose.png", "b/empty/x.md"]);
        let root = dir.path();
        put(root, "a/photo", b"\xff\xd8\xff\xe0....");
        put(root, "a/x.jpg_large", GIF);
        put(root, "a/really.heic", b"\x89PNG\r\n\x1a\n....");
        put(root, "a/phone.HEIC", b"....ftypheic");
        put(root, "a/text", b"BMx text of a BMW");
        put(
            root,
            "run1/summary.json",
            br#"{"flowreg":"0.1.0","train_split":"t","eval_loss":1}"#,
        );
        put(root, "run1/weights.png", b"");
        put(
            root,
            "a/set/dataset.json",
            br#"{"version":2,"class_names":[],"crc32":"0"}"#,
        );
        put(root, "a/set/1.png", b"");
        put(root, "a/other/dataset.json", br#"{"of":"another program"}"#);
        put(root, "a/other/1.png", b"");
        put(
            root,
            "a/new/.flowreg.json",
            br#"{"flowreg":"0.1.0","entries":[]}"#,
        );
        put(root, "a/new/1.png", b"");
        fs::create_dir(root.join("none")).unwrap();
        let found = open(root, &options()).unwrap();
        let mut names: Vec<&str> = rows(&found).iter().map(|(_, name, _)| *name).collect();
        names.sort();
        let expected = [
            "a/1.png",
            "a/other/1.png",
            "a/photo",
            "a/really.heic",
            "a/x.jpg_large",
            "b/1.jpg",
        ];
        assert_eq!(names, expected);
        let left_out = [
            "1 picture outside of class folders (loose.png)",
            "1 folder without pictures (none)",
            "1 picture in a format that flowreg does not read (a/phone.HEIC)",
            "4 files that are no pictures (a/other/dataset.json, a/text, b/empty/x.md, ...)",
            "3 outputs of flowreg (a/new, a/set, run1)",
        ];
        assert_eq!(found.photographs.left_out, left_out);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_without_circles() {
        use std::os::unix::fs::symlink;
        let dir = tree(&[
            "p/a/1.png",
            "p/b/1.png",
            "other/2.png",
            "other/deep/3.png",
            "p/.x/4.png",
        ]);
        let root = dir.path().join("p");
        symlink(dir.path().join("other"), root.join("a/more")).unwrap();
        symlink(dir.path().join("other"), root.join("c")).unwrap();
        symlink("..", root.join("a/up")).unwrap();
        symlink(&root, dir.path().join("other/root")).unwrap();
        symlink("itself", root.join("a/itself")).unwrap();
        symlink("/nowhere", root.join("a/broken.png")).unwrap();
        symlink("/nowhere", root.join("a/broken")).unwrap();
        symlink("1.png", root.join("a/one.png")).unwrap();
        for name in ["a/pipe", "a/socket.heic"] {
            drop(std::os::unix::net::UnixListener::bind(root.join(name)).unwrap());
        }
        let found = open(&root, &options()).unwrap();
        assert_eq!(found.photographs.class_names, ["a", "b", "c"]);
        let all = FolderOptions {
            shares: Shares::default(),
            ..options()
        };
        let found = open(&root, &all).unwrap();
        let names: Vec<&str> = rows(&found).iter().map(|(_, name, _)| *name).collect();
        let expected = [
            "a/1.png",
            "a/broken.png",
            "a/one.png",
            "a/more/2.png",
            "a/more/deep/3.png",
            "b/1.png",
            "c/2.png",
            "c/deep/3.png",
        ];
        assert_eq!(names, expected);
        let left_out = [
            "2 files that are no pictures (a/broken, a/itself)",
            "2 pipes, sockets or devices (a/pipe, a/socket.heic)",
            "1 hidden name (.x)",
            "3 links to folders above them (a/more/root, a/up, c/root)",
        ];
        assert_eq!(found.photographs.left_out, left_out);
        // No circle, but twice as many ways with every step.
        let mut walk = Walk::new(&root, false);
        walk.folders = MAX_FOLDERS - 3;
        let error = walk.folder(&root, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("links to folders"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn names_need_not_be_utf8_unless_they_name_a_class() {
        use std::os::unix::ffi::OsStrExt;
        let name = |bytes: &'static [u8]| Path::new(OsStr::from_bytes(bytes));
        let dir = tree(&["a/1.png", "b/1.png"]);
        fs::write(dir.path().join(name(b"caf\xe9.txt")), b"").unwrap();
        fs::write(dir.path().join("a").join(name(b"\xff.png")), b"").unwrap();
        fs::create_dir(dir.path().join(name(b"empty\xe9"))).unwrap();
        let found = open(dir.path(), &options()).unwrap();
        assert_eq!(rows(&found).len(), 3);
        fs::write(dir.path().join(name(b"empty\xe9/1.png")), b"").unwrap();
        let error = open(dir.path(), &options()).unwrap_err().to_string();
        assert!(error.contains("rename the folder"), "{error}");
    }

    /// A tree of files: names that are pictures, strangers or hidden, some folders deep.
    fn files() -> impl Strategy<Value = Vec<String>> {
        let folder = prop::sample::select(vec![
            "train", "val", "test", "a", "a-b", "a.b", "b", "B", "ab", "z",
        ]);
        let name = prop::sample::select(vec![
            "1.png", "10.png", "2.JPG", "1-.png", "x.txt", "y.heic", ".z", "noext",
        ]);
        let path = (prop::collection::vec(folder, 0..4), name);
        let path = path.prop_map(|(folders, name)| {
            let parts: Vec<&str> = folders.into_iter().chain([name]).collect();
            parts.join("/")
        });
        prop::collection::btree_set(path, 0..30).prop_map(|paths| paths.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Every file is a row or is counted, whatever the layout is taken for; and the rows of a
        /// class are in the order of Python's `sorted(os.walk(..))`: by folder, then by name.
        #[test]
        fn nothing_is_lost(files in files(), layout in 0..3usize) {
            let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
            let options = FolderOptions {
                layout: [None, Some(Layout::Classes), Some(Layout::Splits)][layout],
                ..FolderOptions::default()
            };
            let Ok(found) = open(dir.path(), &options) else {
                return Ok(());
            };
            let all = rows(&found);
            let mut counted = 0;
            for sentence in &found.photographs.left_out {
                let count: usize = sentence.split(' ').next().unwrap().parse().unwrap();
                let is_folders = sentence.contains("folders beside") || sentence.contains("folder beside");
                if is_folders {
                    let names = sentence.split_once('(').unwrap().1.trim_end_matches(')');
                    for name in names.split(", ") {
                        let lower = files.iter().map(|file| file.to_lowercase());
                        counted += lower.zip(&files).filter(|(lower, file)| {
                            file.starts_with(&format!("{name}/"))
                                && [".png", ".jpg"].iter().any(|end| lower.ends_with(end))
                        }).count();
                    }
                } else if !sentence.contains("without pictures") {
                    counted += count;
                }
            }
            prop_assert_eq!(all.len() + counted, files.len(), "{:?}", found.photographs.left_out);
            for split in &found.photographs.splits {
                for label in 0..found.photographs.class_names.len() as u32 {
                    let names: Vec<&str> = (split.rows.iter())
                        .filter(|row| row.1 == label)
                        .map(|(photograph, _)| photograph.name.as_str())
                        .collect();
                    let mut sorted = names.clone();
                    sorted.sort_by_key(|name| name.rsplit_once('/'));
                    prop_assert_eq!(names, sorted);
                }
            }
        }
    }
}
