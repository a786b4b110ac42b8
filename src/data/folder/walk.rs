//! Walk through the folders below a root: its pictures, and the entries that are left out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::pictures;
use crate::error::{Error, Result};
use crate::io::{files, publish};

/// Extensions of pictures that are decoded.
const PICTURES: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff",
];
/// Extensions of pictures in unsupported formats.
const OTHER_PICTURES: [&str; 14] = [
    "heic", "heif", "avif", "jxl", "jp2", "ppm", "pgm", "pbm", "psd", "svg", "dng", "cr2", "nef",
    "arw",
];
/// Limit on the number of folders: paths multiply if folders contain links to folders with links.
pub(super) const MAX_FOLDERS: usize = 1 << 20;
/// Limit on the names in a sentence about entries left out.
const NAMED: usize = 3;

/// A folder with its pictures and subfolders.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub path: PathBuf,
    pub pictures: Vec<PathBuf>,
    pub folders: Vec<Tree>,
}

impl Tree {
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    pub fn holds_pictures(&self) -> bool {
        !self.pictures.is_empty() || self.holds_classes()
    }

    /// Whether one of its subfolders contains pictures.
    pub fn holds_classes(&self) -> bool {
        self.folders.iter().any(Tree::holds_pictures)
    }

    /// The subfolders that contain pictures, at any depth.
    pub fn with_pictures(&self) -> impl Iterator<Item = &Tree> {
        self.folders.iter().filter(|folder| folder.holds_pictures())
    }

    /// All pictures, in the order of `sorted(os.walk(..))`: by the bytes of their folder's path, then
    /// by name.
    pub fn pictures(&self) -> Vec<&Path> {
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

/// The kinds of entries that are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    OtherFolder,
    Outside,
    NoPictures,
    OtherPictures,
    NotPictures,
    NotFiles,
    Hidden,
    Output,
    ParentLink,
    Unreadable,
}

impl Kind {
    /// Words for one such entry, and for several.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::OtherFolder => (
                "folder outside of the splits",
                "folders outside of the splits",
            ),
            Kind::Outside => (
                "picture outside of class folders",
                "pictures outside of class folders",
            ),
            Kind::NoPictures => ("folder without pictures", "folders without pictures"),
            Kind::OtherPictures => (
                "picture in an unsupported format",
                "pictures in unsupported formats",
            ),
            Kind::NotPictures => ("file that is no picture", "files that are no pictures"),
            Kind::NotFiles => ("pipe, socket or device", "pipes, sockets or devices"),
            Kind::Hidden => ("hidden name", "hidden names"),
            Kind::Output => ("output of flowreg", "outputs of flowreg"),
            Kind::ParentLink => ("link to a folder above it", "links to folders above them"),
            Kind::Unreadable => ("folder that cannot be read", "folders that cannot be read"),
        }
    }
}

/// Counts and first names of the entries left out, by kind.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<Kind, (usize, Vec<String>)>);

impl LeftOut {
    pub fn add(&mut self, kind: Kind, name: impl FnOnce() -> String) {
        let (count, names) = self.0.entry(kind).or_default();
        *count += 1;
        // More names of folders outside of the splits, because each may be a class.
        if names.len() < NAMED || kind == Kind::OtherFolder && names.len() < 10 * NAMED {
            names.push(name());
        }
    }

    pub fn sentences(&self) -> Vec<String> {
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
pub(super) struct Walk<'a> {
    root: &'a Path,
    skip_bad: bool,
    pub left_out: LeftOut,
    pub folders: usize,
}

impl<'a> Walk<'a> {
    pub fn new(root: &'a Path, skip_bad: bool) -> Walk<'a> {
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

    /// Read a folder; `above` are its parents.
    pub fn folder(&mut self, path: &Path, above: &mut Vec<files::FolderId>) -> Result<Tree> {
        self.folders += 1;
        if self.folders > MAX_FOLDERS {
            let expected = "fewer; links to folders that contain links multiply: remove some";
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
            // Links are followed; `None` for a broken link.
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
                self.leave_out(Kind::ParentLink, &path);
            } else {
                let below = self.folder(&path, above)?;
                tree.folders.push(below);
            }
        }
        above.pop();
        Ok(tree)
    }
}

/// Why a file is left out; `None` for a row. Files with the extension of a picture are rows; others
/// if they begin with the signature of a picture. Only regular files are opened.
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

/// A path relative to `root`, for messages.
pub(super) fn shown(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.display().to_string()
}
