//! Any bytes as a list of pictures: rows with a path, a label and a line, or a refusal.
#![no_main]

use std::path::Path;

use flowreg::data::list::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((entries, _)) = parse(Path::new("list.csv"), bytes) else {
        return;
    };
    assert!(!entries.is_empty());
    let mut last = 0;
    for entry in &entries {
        assert!(!entry.label.is_empty() && !entry.path.as_os_str().is_empty());
        assert!(entry.line > last || bytes.contains(&b'"'));
        last = entry.line;
    }
    let lines = bytes.iter().filter(|byte| [b'\n', b'\r'].contains(byte)).count() as u64;
    assert!(last <= lines + 1);
    let with_split = entries.iter().filter(|entry| entry.split.is_some()).count();
    assert!([0, entries.len()].contains(&with_split));
});
