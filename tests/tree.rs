//! The folders of `src/` are those of the diagram in CONTRIBUTING.md, and imports follow its arrows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The arrows of the diagram, from folder to folders.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string("CONTRIBUTING.md").unwrap();
    let picture = text.split("```mermaid").nth(1).unwrap();
    let picture = picture.split("```").next().unwrap();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in picture.lines().filter(|line| line.contains("-->")) {
        let ends: Vec<String> = (line.split("-->"))
            .map(|end| end.trim().split('[').next().unwrap().to_string())
            .collect();
        arrows
            .entry(ends[0].clone())
            .or_default()
            .insert(ends[1].clone());
        arrows.entry(ends[1].clone()).or_default();
    }
    arrows
}

/// The folders that can be reached from `from` along the arrows.
fn below(from: &str, arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![from.to_string()];
    while let Some(at) = left.pop() {
        if found.insert(at.clone()) {
            left.extend(arrows[&at].iter().cloned());
        }
    }
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let of_entry = |path: PathBuf| {
        if path.is_dir() {
            files(&path)
        } else {
            vec![path]
        }
    };
    entries.flat_map(of_entry).collect()
}

#[test]
fn the_diagram_shows_every_folder() {
    let folders: BTreeSet<String> = fs::read_dir("src")
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let shown: BTreeSet<String> = arrows().into_keys().collect();
    assert_eq!(shown, folders);
}

#[test]
fn imports_follow_the_arrows_of_the_diagram() {
    let arrows = arrows();
    let mut found = BTreeSet::new();
    for file in files(Path::new("src")) {
        let name = file
            .strip_prefix("src")
            .unwrap()
            .to_str()
            .unwrap()
            .to_string();
        let Some((folder, _)) = name.split_once('/') else {
            continue;
        };
        let reachable = below(folder, &arrows);
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for part in line.split("crate::").skip(1) {
                let module: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if arrows.contains_key(&module) && !reachable.contains(&module) {
                    found.insert((name.clone(), module));
                }
            }
        }
    }
    assert!(found.is_empty(), "against the arrows: {found:?}");
}
