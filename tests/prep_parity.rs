//! Preparation equals torchvision to the bit, at every size of the reference.

mod common;

use flowreg::data::flowers102::{self, Verify};
use flowreg::data::prep::{self, PrepOptions};
use flowreg::io::publish::Overwrite;
use flowreg::{Cancel, Dataset};
use sha2::{Digest, Sha256};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[test]
fn every_row_equals_the_reference() {
    let Some(shared) = common::shared("preparation against torchvision") else {
        return;
    };
    let expected = common::json(&shared.join("reference/prep_checksums.json"));
    let all = flowers102::open(
        &shared.join("flowers102-64px"),
        Verify::Official,
        &Cancel::new(),
    )
    .unwrap();
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let matrices = expected["matrices"].as_array().unwrap();
    let mut checked = 0;
    for size in [128usize, 64, 32] {
        let wanted =
            |split: &str| (matrices.iter()).find(|m| m["split"] == split && m["size"] == size);
        let mut source = all.clone();
        source.splits.retain(|split| wanted(&split.name).is_some());
        let out = temporary.path().join(size.to_string());
        let options = PrepOptions {
            size,
            ..PrepOptions::default()
        };
        prep::prepare(&source, &options, &out, Overwrite::Never, &|_| {}).unwrap();
        let dataset = Dataset::open(&out).unwrap();
        for entry in &dataset.manifest().splits {
            let expected_matrix = wanted(&entry.name).unwrap();
            let split = dataset.split(&entry.name).unwrap();
            let samples = split.samples().unwrap();
            let x = samples.x().contiguous().unwrap();
            assert_eq!(expected_matrix["rows"], x.rows());
            assert_eq!(expected_matrix["cols"], x.cols());
            // The hash of the mapped rows, not the one that the writer stored.
            let found = sha256(bytemuck::cast_slice(x.as_slice()));
            assert_eq!(
                expected_matrix["sha256_f32"],
                found.as_str(),
                "{} {size}",
                entry.name
            );
            assert_eq!(entry.x_sha256, found);
            let labels: Vec<u8> = (samples.labels().iter())
                .flat_map(|&label| i64::from(label).to_le_bytes())
                .collect();
            let labels = sha256(&labels);
            assert_eq!(expected["labels_i64_sha256"][&entry.name], labels.as_str());
            assert_eq!(entry.y_sha256, labels);
            checked += 1;
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(checked, matrices.len());
}
