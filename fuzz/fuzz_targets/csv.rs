//! Any bytes as a table, with and without a column of labels: rows of usable numbers, or an error.
#![no_main]

use std::path::Path;

use flowreg::data::csv_text::Table;
use flowreg::data::dataset::NumberFormat;
use flowreg::data::rows::RowReader;
use flowreg::data::text::Text;
use flowreg::design::rows::is_usable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for label in [None, Some("y")] {
        let (path, format) = (Path::new("table"), NumberFormat::default());
        let Ok(text) = Text::of_bytes(path, bytes.to_vec()) else {
            return;
        };
        let Ok(mut table) = Table::of_text(path, text, label, None, &format) else {
            continue;
        };
        let width = table.features();
        let mut block = vec![0.0; 2 * width];
        while let Ok(rows @ 1..) = table.read(&mut block) {
            assert!(block[..rows * width].iter().all(|&value| is_usable(value)));
            assert_eq!(table.labels().len(), if label.is_some() { rows } else { 0 });
        }
    }
});
