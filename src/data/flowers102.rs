//! Reader of Oxford Flowers102 as published: `jpg/image_00001.jpg …` or the archive of these,
//! `imagelabels.mat` and `setid.mat`.
//!
//! The rows of a split are in the order of the ids in `setid.mat`; a label is the value in
//! `imagelabels.mat` minus 1, as in torchvision.

use std::path::Path;

use md5::{Digest, Md5};

use crate::data::photographs::{Photograph, PhotographSplit, Photographs};
use crate::data::{archive, mat5};
use crate::error::{Error, Result};
use crate::io::files;
use crate::progress::Cancel;

/// The file of the labels. The md5 of the official files are those in torchvision.
pub const LABELS: &str = "imagelabels.mat";
/// The file of the three splits.
pub const SPLITS: &str = "setid.mat";
/// The archive of the photographs.
pub const ARCHIVE: &str = "102flowers.tgz";
const LABELS_MD5: &str = "e0620be6f572b9609742df49c70aed4d";
const SPLITS_MD5: &str = "a5357ecc9cb78c4bef273ce3793fc85c";
const ARCHIVE_MD5: &str = "52808999861908f626f3c1f4e79d11fa";
/// Address of the three official files.
pub const URL: &str = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/";
/// A file on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name, on the server and locally.
    pub name: &'static str,
    /// Its expected md5.
    pub md5: &'static str,
    /// Limit on its length, in bytes.
    pub max_bytes: u64,
}

/// The official files, the small ones first.
pub const OFFICIAL: [Remote; 3] = [
    Remote {
        name: SPLITS,
        md5: SPLITS_MD5,
        max_bytes: MAX_MAT,
    },
    Remote {
        name: LABELS,
        md5: LABELS_MD5,
        max_bytes: MAX_MAT,
    },
    Remote {
        name: ARCHIVE,
        md5: ARCHIVE_MD5,
        max_bytes: 1 << 30,
    },
];
/// Names of the splits and the variables with their ids.
const VARIABLES: [(&str, &str); 3] = [("train", "trnid"), ("val", "valid"), ("test", "tstid")];
/// Limit on the length of a `.mat` file, in bytes.
const MAX_MAT: u64 = 16 << 20;

/// Whether the `.mat` files must be the official ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Their md5 must be that of the official files.
    Official,
    /// Any files with the same variables.
    Any,
}

/// Read the labels and splits below `root`.
///
/// Photographs below `jpg/` are not opened. Without that folder they are read from
/// `102flowers.tgz` into memory (0.33 GB).
///
/// # Errors
/// [`Error::Format`] and [`Error::Mat5`], which name file and field, for invalid files;
/// [`Error::Io`]; [`Error::Interrupted`] once `cancel` is set.
pub fn open(root: &Path, verify: Verify, cancel: &Cancel) -> Result<Photographs> {
    if !root.is_dir() {
        return Err(Error::format(
            root,
            "`root`",
            "no such directory",
            format!(
                "the folder that holds jpg/ or {ARCHIVE}, {LABELS} and {SPLITS}; `download` fetches them"
            ),
        ));
    }
    let labels_path = root.join(LABELS);
    let splits_path = root.join(SPLITS);
    let labels = read(&labels_path, LABELS_MD5, verify)?;
    let splits = read(&splits_path, SPLITS_MD5, verify)?;
    let labels = integers(&labels_path, &labels, "labels")?;
    let classes = classes(&labels_path, &labels)?;

    let mut packed = if root.join("jpg").is_dir() || !root.join(ARCHIVE).exists() {
        None
    } else {
        let path = root.join(ARCHIVE);
        if verify == Verify::Official {
            check_md5(&path, &md5_of(&path)?, ARCHIVE_MD5)?;
        }
        let wanted = |name: &str| name.starts_with("jpg/image_") && name.ends_with(".jpg");
        Some(archive::read_files(&path, wanted, cancel)?)
    };
    let mut photograph = |id: i64| -> Result<Photograph> {
        let name = format!("jpg/image_{id:05}.jpg");
        let Some(packed) = &mut packed else {
            return Ok(Photograph {
                path: root.join(&name),
                name,
                bytes: None,
            });
        };
        let path = root.join(ARCHIVE);
        match packed.remove(&name) {
            None => Err(Error::format(
                &path,
                name,
                "no such file",
                "every photograph",
            )),
            bytes => Ok(Photograph {
                path: path.join(&name),
                name,
                bytes,
            }),
        }
    };
    let mut seen = vec![false; labels.len()];
    let mut split = |name: &str, variable: &str| -> Result<PhotographSplit> {
        let ids = integers(&splits_path, &splits, variable)?;
        let rows = ids.iter().enumerate().map(|(i, &id)| {
            let field = || format!("{variable}[{i}]");
            let index = usize::try_from(id)
                .ok()
                .and_then(|id| id.checked_sub(1))
                .filter(|&index| index < labels.len());
            let Some(index) = index else {
                let expected = format!("1..={} as {LABELS} has labels", labels.len());
                return Err(Error::format(&splits_path, field(), id, expected));
            };
            if std::mem::replace(&mut seen[index], true) {
                return Err(Error::format(
                    &splits_path,
                    field(),
                    format!("{id} a second time"),
                    "every photograph in one split, once",
                ));
            }
            Ok((photograph(id)?, labels[index] as u32 - 1))
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        if rows.is_empty() {
            return Err(Error::format(
                &splits_path,
                variable,
                "no ids",
                "at least one photograph",
            ));
        }
        Ok(PhotographSplit {
            name: name.to_string(),
            rows,
        })
    };
    Ok(Photographs {
        source: "Oxford Flowers102".to_string(),
        root: root.to_path_buf(),
        left_out: Vec::new(),
        splits: VARIABLES
            .iter()
            .map(|(name, variable)| split(name, variable))
            .collect::<Result<_>>()?,
        class_names: if classes == CLASS_NAMES.len() {
            CLASS_NAMES.iter().map(|name| name.to_string()).collect()
        } else {
            (1..=classes)
                .map(|class| format!("class {class}"))
                .collect()
        },
    })
}

/// The number of classes. Labels are 1..=C, where C is at most the number of photographs.
fn classes(path: &Path, labels: &[i64]) -> Result<usize> {
    let most = labels.len() as i64;
    if let Some((i, label)) = (labels.iter().enumerate()).find(|(_, l)| !(1..=most).contains(l)) {
        return Err(Error::format(
            path,
            format!("labels[{i}]"),
            label,
            format!("1..={most}, no more classes than photographs"),
        ));
    }
    Ok(labels.iter().copied().max().unwrap_or(0) as usize)
}

fn integers(path: &Path, bytes: &[u8], variable: &str) -> Result<Vec<i64>> {
    mat5::read_integers(bytes, variable).map_err(|source| Error::Mat5 {
        path: path.to_path_buf(),
        source,
    })
}

fn read(path: &Path, md5: &str, verify: Verify) -> Result<Vec<u8>> {
    let bytes = files::read(path, "open", MAX_MAT)?;
    if verify == Verify::Official {
        check_md5(path, &crate::data::hex(&Md5::digest(&bytes)), md5)?;
    }
    Ok(bytes)
}

/// The md5 of a file, in hexadecimal.
pub fn md5_of(path: &Path) -> Result<String> {
    let mut hash = Md5::new();
    files::read_pieces(path, |piece| hash.update(piece))?;
    Ok(crate::data::hex(&hash.finalize()))
}

fn check_md5(path: &Path, found: &str, md5: &str) -> Result<()> {
    if found != md5 {
        let expected = format!("{md5}, the official file (`no_verify` accepts others)");
        return Err(Error::format(path, "md5", found, expected));
    }
    Ok(())
}

/// The official class names, in label order, as in torchvision.
#[rustfmt::skip]
const CLASS_NAMES: [&str; 102] = [
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea",
    "english marigold", "tiger lily", "moon orchid", "bird of paradise", "monkshood",
    "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger",
    "grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke",
    "sweet william", "carnation", "garden phlox", "love in the mist", "mexican aster",
    "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort", "siam tulip",
    "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia", "bolero deep blue",
    "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura",
    "geranium", "orange dahlia", "pink-yellow dahlia?", "cautleya spicata", "japanese anemone",
    "black-eyed susan", "silverbush", "californian poppy", "osteospermum", "spring crocus",
    "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose",
    "thorn apple", "morning glory", "passion flower", "lotus", "toad lily", "anthurium",
    "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove",
    "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower",
    "trumpet creeper", "blackberry lily",
];
