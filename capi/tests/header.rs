//! The committed header equals the one generated from the sources.

use std::path::Path;
use std::{env, fs};

#[test]
fn the_committed_header_is_up_to_date() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = builder.with_src(dir.join("src/lib.rs"));
    let mut fresh = Vec::new();
    builder.generate().unwrap().write(&mut fresh);
    let fresh = String::from_utf8(fresh).unwrap();
    let path = dir.join("include/flowreg.h");
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{}: differs from the header of src/ and cbindgen.toml: run `UPDATE_HEADER=1 cargo test --test header`",
        path.display()
    );
    // cbindgen has found every function.
    let mut functions = 0;
    for entry in fs::read_dir(dir.join("src")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for part in text.split("#[unsafe(no_mangle)]\n").skip(1) {
            let name = part.split("extern \"C\" fn ").nth(1).unwrap();
            let name = name.split('(').next().unwrap();
            assert!(fresh.contains(&format!("{name}(")), "{name}");
            functions += 1;
        }
    }
    assert!(functions >= 18, "{functions}");
}

#[test]
fn the_version_is_that_of_flowreg() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let line = format!("version = {:?}", env!("CARGO_PKG_VERSION"));
    let found = manifest.lines().find(|line| line.starts_with("version = "));
    assert_eq!(found, Some(&*line));
}
