//! Any bytes: a manifest whose names stay in the directory, or an error.
#![no_main]

use flowreg::data::dataset::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Renew the checksum of an otherwise valid manifest, so that the fuzzer gets past it.
    let sealed = serde_json::from_slice::<Manifest>(bytes)
        .map(|manifest| serde_json::to_vec(&manifest.sealed()).unwrap());
    for bytes in std::iter::once(bytes.to_vec()).chain(sealed) {
        if let Ok(manifest) = Manifest::parse("fuzz".as_ref(), &bytes) {
            for split in &manifest.splits {
                assert!(!split.name.contains(['/', '.', '\\', '\0']));
                assert!(split.rows.checked_mul(manifest.features).is_some());
            }
        }
    }
});
