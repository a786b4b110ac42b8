use super::walk::MAX_FOLDERS;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;

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
fn random_splits_are_stratified_seeded_and_complete() {
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
fn folders_with_usual_names_are_splits() {
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

#[test]
fn the_layout_is_derived_or_rejected_as_ambiguous() {
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
            splits("diesel steam", "2 folders outside of the splits (bus, car)"),
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
            splits("a b", "1 folder outside of the splits (more)"),
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
        (&mixed[..], &auto, "train with names of splits, and more"),
        (&three, &auto, "train, test with names of splits, and more"),
        (
            &["val/a/1.png", "val/b/1.png", "test/a/2.png"],
            &auto,
            "a folder train with",
        ),
        (&["train/1.png", "test/2.png"], &auto, "`layout` classes"),
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
        (&usual, &named("train=../x"), "directly in `root`"),
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
    let remark = "classes (bus, car, train); train is a class, because other folders";
    assert!(found.layout.contains(remark), "{}", found.layout);
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
fn entries_left_out_are_counted_and_named() {
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
        "1 picture in an unsupported format (a/phone.HEIC)",
        "4 files that are no pictures (a/other/dataset.json, a/text, b/empty/x.md, ...)",
        "3 outputs of flowreg (a/new, a/set, run1)",
    ];
    assert_eq!(found.photographs.left_out, left_out);
}

#[cfg(unix)]
#[test]
fn links_are_followed_except_to_parent_folders() {
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
    // Links without a cycle whose paths multiply.
    let mut walk = Walk::new(&root, false);
    walk.folders = MAX_FOLDERS - 3;
    let error = walk.folder(&root, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("links to folders"), "{error}");
}

#[cfg(unix)]
#[test]
fn only_class_names_must_be_utf8() {
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

/// Paths of files, up to three folders deep: pictures, other files, and hidden ones.
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

    /// In each layout every file is a row or is counted, and the rows of a class are in the order of
    /// Python's `sorted(os.walk(..))`: by folder, then by name.
    #[test]
    fn every_file_is_a_row_or_counted(files in files(), layout in 0..3usize) {
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
            let is_folders = sentence.contains("folders outside") || sentence.contains("folder outside");
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
