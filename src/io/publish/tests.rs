use super::*;

#[test]
fn an_output_appears_only_when_published() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("a/out");
    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    staging.write("summary.json", b"1").unwrap();
    assert!(!out.exists());
    drop(staging);
    assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);

    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    staging.write("summary.json", b"1").unwrap();
    staging.publish().unwrap();
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"1");

    assert!(matches!(
        Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]),
        Err(Error::Exists { .. })
    ));
    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Replace, &[]).unwrap();
    staging.write("summary.json", b"2").unwrap();
    staging.publish().unwrap();
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
    assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
}

#[test]
fn writers_exclude_each_other_and_leftovers_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let first = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    let second = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]);
    assert!(matches!(second, Err(Error::Locked { .. })));
    // As after a kill: nothing is dropped, but the lock is free.
    let Staging { dir, _lock, .. } = &first;
    _lock._file.unlock().unwrap();
    fs::write(dir.join("half"), b"1").unwrap();
    std::mem::forget(first);
    let third = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    third.publish().unwrap();
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

/// A published output with a file and a directory.
fn published(root: &Path) -> PathBuf {
    let out = root.join("out");
    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    staging.write("summary.json", b"1").unwrap();
    fs::create_dir(staging.dir().join("jpg")).unwrap();
    staging.write("jpg/1.jpg", b"1").unwrap();
    staging.publish().unwrap();
    out
}

fn replace(out: &Path, sources: &[&Path]) -> Result<()> {
    let staging = Staging::begin(out, OutputKind::Run, Overwrite::Replace, sources)?;
    staging.write("summary.json", b"2")?;
    staging.publish()
}

#[test]
fn replacing_an_output_removes_all_its_entries() {
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    assert!(is_output(&out));
    replace(&out, &[]).unwrap();
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
    assert!(!out.join("jpg").exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    // A listed entry may be missing.
    fs::remove_file(out.join("summary.json")).unwrap();
    replace(&out, &[]).unwrap();
}

#[test]
fn foreign_entries_are_named_and_kept() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 7] = [
        (
            |out| fs::write(out.join("thesis.tex"), b"years").unwrap(),
            "thesis.tex",
        ),
        (
            |out| fs::write(out.join("jpg/2.jpg"), b"mine").unwrap(),
            "jpg/2.jpg",
        ),
        (
            |out| fs::write(out.join(".hidden"), b"mine").unwrap(),
            ".hidden",
        ),
        (|out| fs::create_dir(out.join("run1")).unwrap(), "run1/"),
        (|out| fs::remove_file(out.join(ENTRIES)).unwrap(), ENTRIES),
        (|out| fs::write(out.join(ENTRIES), b"{}").unwrap(), ENTRIES),
        (
            |out| {
                fs::remove_file(out.join("summary.json")).unwrap();
                fs::create_dir(out.join("summary.json")).unwrap();
            },
            "summary.json/",
        ),
    ];
    for (change, name) in changes {
        let root = tempfile::tempdir().unwrap();
        let out = published(root.path());
        change(&out);
        let mut before = BTreeSet::new();
        list(root.path(), "", &mut before).unwrap();
        let error = replace(&out, &[]).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("`force`"), "{error}");
        assert_eq!(error.exit_code(), 65);
        let mut after = BTreeSet::new();
        list(root.path(), "", &mut after).unwrap();
        assert_eq!(before, after);
    }
}

/// Foreign entries are looked for again on publication.
#[test]
fn a_foreign_entry_added_before_publication_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Replace, &[]).unwrap();
    fs::write(out.join("late"), b"mine").unwrap();
    assert!(staging.publish().unwrap_err().to_string().contains("late"));
    assert_eq!(fs::read(out.join("late")).unwrap(), b"mine");
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"1");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_to_an_output_is_followed_and_a_link_inside_is_foreign() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    let link = root.path().join("link");
    symlink("out", &link).unwrap();
    replace(&link, &[]).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
    fs::remove_file(out.join("summary.json")).unwrap();
    symlink("/dev/null", out.join("summary.json")).unwrap();
    assert!(replace(&link, &[]).is_err());
    let nowhere = root.path().join("nowhere");
    symlink("missing", &nowhere).unwrap();
    let error = replace(&nowhere, &[]).unwrap_err();
    assert!(error.to_string().contains("link"), "{error}");
}

#[test]
fn overlapping_outputs_and_sources_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    let inside = out.join("jpg/1.jpg");
    for source in [out.as_path(), &inside, &out.join("jpg"), root.path()] {
        let error = replace(&out, &[source]).unwrap_err();
        let name = source.display().to_string();
        assert!(error.to_string().contains(&name), "{error}");
    }
    let beside = root.path().join("x.npy");
    fs::write(&beside, b"1").unwrap();
    let deep = root.path().join("missing/../out/new");
    assert!(Staging::begin(&deep, OutputKind::Run, Overwrite::Never, &[&out]).is_err());
    replace(&out, &[&beside, &root.path().join("missing")]).unwrap();
}

#[test]
fn an_empty_directory_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    let staging = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap();
    staging.write("summary.json", b"1").unwrap();
    staging.publish().unwrap();
    assert!(out.join("summary.json").exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

/// A foreign directory or file is kept, even if its name is that of a temporary directory or lock.
#[test]
fn foreign_partial_directories_and_lock_files_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let (out, path) = (root.path().join("out"), |name: &str| root.path().join(name));
    fs::create_dir(path(".out.partial")).unwrap();
    fs::write(path(".out.partial/mine"), b"1").unwrap();
    assert!(Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).is_err());
    assert!(path(".out.partial/mine").exists());
    fs::remove_dir_all(path(".out.partial")).unwrap();
    fs::write(path(".out.lock"), b"mine").unwrap();
    drop(Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap());
    assert!(path(".out.lock").exists());
}

/// The target of a link with the name of a temporary or lock file is neither written nor removed.
#[cfg(unix)]
#[test]
fn links_with_temporary_names_are_not_followed() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let (out, path) = (root.path().join("new"), |name: &str| root.path().join(name));
    let finished = published(root.path());
    symlink(&finished, path(".new.partial")).unwrap();
    symlink("missing", path(".p.npy.lock")).unwrap();
    symlink("missing", path(".q.npy.partial")).unwrap();
    let error = Staging::begin(&out, OutputKind::Run, Overwrite::Never, &[]).unwrap_err();
    assert!(error.to_string().contains(".new.partial: "), "{error}");
    assert_eq!(fs::read(finished.join("summary.json")).unwrap(), b"1");
    assert!(finished.join("jpg/1.jpg").exists());
    for (name, refused) in [("p.npy", ".p.npy.lock"), ("q.npy", ".q.npy.partial")] {
        let written = write_file(&path(name), |_| true, b"1", Overwrite::Never, &[]);
        let error = written.unwrap_err().to_string();
        assert!(
            error.contains(&format!("{refused}: name: found ")),
            "{error}"
        );
    }
    assert!(!path("missing").exists());
}

/// The temporary file of a killed process is removed, not truncated.
#[test]
fn a_hard_link_to_a_leftover_keeps_its_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (path, partial) = (
        root.path().join("p.npy"),
        root.path().join(".p.npy.partial"),
    );
    let kept = root.path().join("kept");
    fs::write(&kept, b"\x93NUMPY of days").unwrap();
    fs::hard_link(&kept, &partial).unwrap();
    let numpy = |start: &[u8]| start.starts_with(b"\x93NUMPY");
    write_file(&path, numpy, b"\x93NUMPY", Overwrite::Never, &[]).unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"\x93NUMPY of days");
    assert!(!partial.exists());
}

#[test]
fn an_output_replaces_only_its_own_kind() {
    use OutputKind::*;
    let root = tempfile::tempdir().unwrap();
    for (file, kind) in OutputKind::FILES {
        let out = root.path().join(file).with_extension("");
        let begin = |kind, overwrite| Staging::begin(&out, kind, overwrite, &[]);
        let staging = begin(kind, Overwrite::Never).unwrap();
        staging.write(file, b"1").unwrap();
        staging.publish().unwrap();
        for other in [Dataset, Run, Export, Photographs, Model] {
            if other == kind {
                begin(other, Overwrite::Replace).unwrap();
                continue;
            }
            let error = begin(other, Overwrite::Replace).unwrap_err().to_string();
            let found = format!("found {}, expected {}", kind.name(), other.name());
            assert!(error.contains(&found), "{error}");
            let error = begin(other, Overwrite::Never).unwrap_err().to_string();
            assert!(error.contains("`force` would not replace it"), "{error}");
        }
        assert_eq!(fs::read(out.join(file)).unwrap(), b"1");
    }
}

#[test]
fn a_trailing_slash_is_accepted_for_directories_only() {
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    for end in ["/", "/.", "//"] {
        let mut path = out.clone().into_os_string();
        path.push(end);
        replace(Path::new(&path), &[]).unwrap();
        #[cfg(unix)]
        {
            let link = root.path().join("link");
            std::os::unix::fs::symlink("out", &link).unwrap();
            let mut path = link.clone().into_os_string();
            path.push(end);
            replace(Path::new(&path), &[]).unwrap();
            assert!(link.symlink_metadata().unwrap().is_symlink());
            fs::remove_file(link).unwrap();
        }
    }
    assert_eq!(fs::read(out.join("summary.json")).unwrap(), b"2");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let file = root.path().join("p.npy/");
    let error = write_file(&file, |_| true, b"1", Overwrite::Never, &[]).unwrap_err();
    assert!(
        error.to_string().contains("found the name of a folder"),
        "{error}"
    );
}

#[test]
fn a_file_replaces_only_files_that_it_recognizes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("p.npy");
    let numpy = |start: &[u8]| start.starts_with(b"\x93NUMPY");
    let write = |bytes: &[u8], sources: &[&Path]| {
        write_file(&path, numpy, bytes, Overwrite::Replace, sources)
    };
    write(b"\x93NUMPY1", &[]).unwrap();
    write(b"\x93NUMPY2", &[]).unwrap();
    assert!(write(b"\x93NUMPY3", &[&path]).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"\x93NUMPY2");
    let again = write_file(&path, numpy, b"\x93NUMPY", Overwrite::Never, &[]);
    assert!(matches!(again, Err(Error::Exists { .. })));
    fs::write(&path, b"a thesis").unwrap();
    assert!(write(b"\x93NUMPY3", &[]).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"a thesis");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(write(b"\x93NUMPY3", &[]).is_err());
    fs::remove_dir(&path).unwrap();
    fs::write(root.path().join(".p.npy.partial"), b"mine").unwrap();
    assert!(write(b"\x93NUMPY3", &[]).is_err());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

/// Leftovers of a process killed at any point are removed; foreign entries are kept.
#[test]
fn leftovers_are_removed_and_foreign_entries_kept() {
    let begin = |root: &Path| {
        Staging::begin(&root.join("out"), OutputKind::Run, Overwrite::Replace, &[]).map(drop)
    };
    // Killed while writing: the list is empty, truncated, or that of an unfinished output.
    for length in [0, 9, usize::MAX] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(".out.partial");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("train.x.npy"), b"half").unwrap();
        let list = Entries::to_json(None);
        fs::write(dir.join(ENTRIES), &list[..length.min(list.len())]).unwrap();
        begin(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
    // Killed between the exchange and the removal of the old output; then with a foreign entry.
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(".out.partial");
    fs::rename(published(root.path()), &dir).unwrap();
    begin(root.path()).unwrap();
    assert!(!dir.exists());
    fs::rename(published(root.path()), &dir).unwrap();
    fs::write(dir.join("late"), b"mine").unwrap();
    let error = begin(root.path()).unwrap_err();
    assert!(error.to_string().contains("late"), "{error}");
    assert_eq!(fs::read(dir.join("late")).unwrap(), b"mine");
    assert!(dir.join("summary.json").exists());
}

#[cfg(unix)]
#[test]
fn a_file_inside_an_output_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let out = published(root.path());
    let link = root.path().join("p.npy");
    std::os::unix::fs::symlink(out.join("jpg/1.jpg"), &link).unwrap();
    for path in [&link, &out.join("summary.json")] {
        let written = write_file(path, |_| true, b"2", Overwrite::Replace, &[]);
        assert!(
            written
                .unwrap_err()
                .to_string()
                .contains("an output of flowreg")
        );
    }
    assert_eq!(fs::read(out.join("jpg/1.jpg")).unwrap(), b"1");
}
