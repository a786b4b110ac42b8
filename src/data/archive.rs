//! Reader of the files in a `.tgz`, as a stream. Nothing is unpacked to the disk, so that names, links
//! and devices in it are harmless.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tar::Archive;

use crate::error::{Error, Result};
use crate::progress::Cancel;

/// Limit on the uncompressed length of an archive; Flowers102's has 0.35 GB.
const MAX_BYTES: u64 = 4 << 30;
/// Limit on the length of a file in it, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// The bytes of the regular files whose name `accept` returns true for, by name; the first of files
/// with the same name. Other entries (folders, links, devices) are ignored.
///
/// Memory: the bytes of the files.
///
/// # Errors
/// [`Error::Format`] if it is not a gzipped tar, is longer than 4 GiB uncompressed, or an accepted
/// file is longer than 32 MiB; [`Error::Interrupted`] once `cancel` is set.
pub fn read_files(
    path: &Path,
    accept: impl Fn(&str) -> bool,
    cancel: &Cancel,
) -> Result<HashMap<String, Vec<u8>>> {
    let broken = |error: std::io::Error| {
        let expected = "a whole gzipped tar of at most 4 GiB; delete the file and fetch it again";
        Error::format(path, "archive", error, expected)
    };
    let file = File::open(path).map_err(Error::io(path, "open the archive"))?;
    let unpacked = MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file));
    let mut archive = Archive::new(unpacked.take(MAX_BYTES));
    let mut files = HashMap::new();
    for entry in archive.entries().map_err(broken)? {
        cancel.check()?;
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() || !accept(&name) || files.contains_key(&name) {
            continue;
        }
        let len = entry.size();
        if len > MAX_FILE {
            let expected = format!("at most {MAX_FILE} bytes");
            return Err(Error::format(path, name, format!("{len} bytes"), expected));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        entry.read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 != len {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        files.insert(name, bytes);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    /// An archive with entries that would be harmful if unpacked.
    fn hostile() -> Vec<u8> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut add = |name: &str, kind: EntryType, link: &str, data: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            // Not by `set_path`, which refuses such names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            tar.append(&header, data).unwrap();
        };
        add("jpg/", EntryType::Directory, "", b"");
        add("jpg/a.jpg", EntryType::Regular, "", b"first");
        add("../evil.jpg", EntryType::Regular, "", b"evil");
        add("/tmp/flowreg-evil.jpg", EntryType::Regular, "", b"evil");
        add("jpg/b.jpg", EntryType::Symlink, "/etc/passwd", b"");
        add("jpg/c.jpg", EntryType::Link, "/etc/passwd", b"");
        add("jpg/d.jpg", EntryType::Char, "", b"");
        add("jpg/e.jpg", EntryType::Fifo, "", b"");
        add("jpg/a.jpg", EntryType::Regular, "", b"second");
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn only_accepted_regular_files_are_read_and_none_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("a.tgz");
        std::fs::write(&path, hostile()).unwrap();
        let files = read_files(&path, |name| name.starts_with("jpg/"), &Cancel::new()).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files["jpg/a.jpg"], b"first");
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!((names(dir.path()), names(&inner)), (1, 1));
        assert!(!Path::new("/tmp/flowreg-evil.jpg").exists());
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tgz");
        let whole = hostile();
        for len in [0, 1, whole.len() / 2] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = read_files(&path, |_| true, &Cancel::new()).unwrap_err();
            assert!(error.to_string().contains("fetch it again"), "{error}");
        }
    }
}
