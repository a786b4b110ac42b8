//! `.npz` archives of `numpy.savez` and `numpy.savez_compressed`: zip files whose members are `.npy`
//! files, stored or deflated. The directory is read by the `zip` crate.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, Result};

/// The first bytes of a zip file with members, and of one without.
const MAGICS: [&[u8; 4]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// Names of all members that scipy.sparse.save_npz writes.
const SPARSE: [&str; 10] = [
    "format",
    "shape",
    "data",
    "indices",
    "indptr",
    "offsets",
    "row",
    "col",
    "coords",
    "_is_array",
];
/// Limit on the number of members named in a message.
const NAMED: usize = 12;

/// Whether the bytes begin like a zip file.
pub fn has_magic(bytes: &[u8]) -> bool {
    MAGICS.iter().any(|magic| bytes.starts_with(*magic))
}

/// The place of a member in its archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name without `.npy`.
    pub name: String,
    /// Offset and length of its bytes in the file.
    pub start: u64,
    pub compressed: u64,
    pub deflated: bool,
    /// Length and CRC-32 of its contents.
    pub size: u64,
    pub crc32: u32,
}

/// A reader of the contents of a deflated member.
pub type Inflated = DeflateDecoder<BufReader<Take<File>>>;

impl Member {
    /// Find the member of this name, with or without `.npy`; without a name, the only array, else the
    /// only one with a name in `usual`. `path` is for messages. Nothing is decompressed.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is not a zip file, has no such member or several (it names
    /// them), or if the member is encrypted, compressed by another method than deflate, or not within
    /// the file.
    pub fn find(path: &Path, file: &File, name: Option<&str>, usual: &[&str]) -> Result<Member> {
        let broken = |error: zip::result::ZipError| {
            let expected = "an .npz archive as numpy.savez writes it; save it again";
            Error::format(path, "archive", error, expected)
        };
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
        let names: Vec<String> = (0..archive.len())
            .map(|i| {
                Ok(archive
                    .by_index_raw(i)
                    .map_err(broken)?
                    .name()
                    .map_err(broken)?
                    .into_owned())
            })
            .collect::<Result<_>>()?;
        let plain = |name: &str| name.strip_suffix(".npy").unwrap_or(name).to_string();
        let arrays: Vec<usize> = (0..names.len())
            .filter(|&i| names[i].ends_with(".npy"))
            .collect();
        let at = |wanted: &str| names.iter().position(|n| n == wanted || plain(n) == wanted);
        // In none of SciPy's formats is one of the arrays the matrix.
        let is_sparse = ["format", "shape", "data"].iter().all(|&n| at(n).is_some())
            && names.iter().all(|name| SPARSE.contains(&&*plain(name)));
        if is_sparse {
            let expected = "a dense matrix: X.toarray(), if it fits the memory";
            return Err(Error::format(
                path,
                "archive",
                "a sparse matrix of SciPy",
                expected,
            ));
        }
        let found = match name {
            Some(name) => at(name),
            None if arrays.len() == 1 => Some(arrays[0]),
            None => {
                let there: Vec<usize> = usual.iter().filter_map(|&name| at(name)).collect();
                (there.len() == 1).then(|| there[0])
            }
        };
        let Some(index) = found else {
            let mut members: Vec<String> = arrays.iter().map(|&i| plain(&names[i])).collect();
            let more = if members.len() > NAMED { ", ..." } else { "" };
            members.truncate(NAMED);
            let there = if members.is_empty() {
                "no .npy array".to_string()
            } else {
                format!("the arrays {}{more}", members.join(", "))
            };
            let expected = match name {
                Some(name) => format!("{name:?}, or give another name after the colon"),
                None if members.is_empty() => "those that numpy.savez writes".to_string(),
                None => {
                    let first = members.first().map_or("NAME", String::as_str);
                    format!(
                        "one array, or the name of one after a colon: {}:{first}",
                        path.display()
                    )
                }
            };
            return Err(Error::format(path, "archive", there, expected));
        };
        let entry = archive.by_index_raw(index).map_err(broken)?;
        let refuse = |found: String, expected: &str| {
            let field = format!("member {:?}", names[index]);
            Err(Error::format(path, field, found, expected))
        };
        let deflated = match entry.compression() {
            _ if entry.encrypted() => {
                return refuse("encryption".to_string(), "none; save it again without");
            }
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => {
                let method = match other {
                    CompressionMethod::BZIP2 => "bzip2",
                    CompressionMethod::LZMA => "LZMA",
                    _ => "a method that NumPy does not support",
                };
                let found = format!("compression by {method}");
                let expected = "none, or deflate: numpy.savez('NEW.npz', **numpy.load(FILE)) \
                                writes it uncompressed";
                return refuse(found, expected);
            }
        };
        let (compressed, size) = (entry.compressed_size(), entry.size());
        let length = file
            .metadata()
            .map_err(Error::io(path, "read the length of"))?
            .len();
        let start = (entry.data_start()).filter(|start| {
            start
                .checked_add(compressed)
                .is_some_and(|end| end <= length)
        });
        let Some(start) = start.filter(|_| deflated || compressed == size) else {
            let found = format!("{compressed} bytes for {size}");
            return refuse(found, "bytes within the archive; save it again");
        };
        Ok(Member {
            name: plain(&names[index]),
            start,
            compressed,
            deflated,
            size,
            crc32: entry.crc32(),
        })
    }

    /// A reader of a deflated member's contents, from the beginning.
    pub fn inflate(&self, path: &Path, file: &File) -> Result<Inflated> {
        let mut file = file.try_clone().map_err(Error::io(path, "open"))?;
        file.seek(SeekFrom::Start(self.start))
            .map_err(Error::io(path, "read"))?;
        let packed = BufReader::with_capacity(1 << 16, file.take(self.compressed));
        Ok(DeflateDecoder::new(packed))
    }
}

/// Archive and name of `ARCHIVE:NAME`, if no file has that path; else the path itself.
pub fn locate(path: &Path) -> (PathBuf, Option<String>) {
    let whole = || (path.to_path_buf(), None);
    if path.symlink_metadata().is_ok() {
        return whole();
    }
    let Some(text) = path.to_str() else {
        return whole();
    };
    // From the right, because names of members rarely have colons.
    let mut cuts = text.rmatch_indices(':');
    let cut = cuts.find(|&(at, _)| Path::new(&text[..at]).is_file() && at + 1 < text.len());
    match cut {
        Some((at, _)) => (PathBuf::from(&text[..at]), Some(text[at + 1..].to_string())),
        None => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_separates_a_name_unless_the_path_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a.npz", "b:c.npz", "d.npz:x"] {
            std::fs::write(path(name), "").unwrap();
        }
        let name = |name: &str| Some(name.to_string());
        assert_eq!(locate(&path("a.npz")), (path("a.npz"), None));
        assert_eq!(locate(&path("a.npz:x")), (path("a.npz"), name("x")));
        assert_eq!(locate(&path("a.npz:x:y")), (path("a.npz"), name("x:y")));
        assert_eq!(locate(&path("b:c.npz")), (path("b:c.npz"), None));
        assert_eq!(locate(&path("b:c.npz:x")), (path("b:c.npz"), name("x")));
        assert_eq!(locate(&path("d.npz:x")), (path("d.npz:x"), None));
        assert_eq!(locate(&path("e.npz:x")), (path("e.npz:x"), None));
        assert_eq!(locate(&path("a.npz:")), (path("a.npz:"), None));
    }
}
