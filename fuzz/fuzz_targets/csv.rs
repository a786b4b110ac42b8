//! Any bytes as a table, with and without a column of labels: rows of usable numbers, or an error.
#![no_main]

use std::io::Cursor;

use flowreg::data::csv_text::Table;
use flowreg::data::dataset::{NumberFormat, is_usable};
use flowreg::data::rows::RowReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for label in [None, Some("y")] {
        let from = Box::new(Cursor::new(bytes.to_vec()));
        let format = NumberFormat::default();
        let Ok(mut table) = Table::of_reader("table".as_ref(), from, label, None, &format) else {
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
