//! Any bytes give numbers or an error, and numbers survive being written and read.
#![no_main]

use flowreg::data::mat5::{read_integers, write_integers};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(values) = read_integers(bytes, "labels") {
        let in_range = |v: &i64| (0..=255).contains(v);
        if values.iter().all(in_range) {
            let again = write_integers(&[("labels", &values)]);
            assert_eq!(read_integers(&again, "labels").unwrap(), values);
        }
    }
});
