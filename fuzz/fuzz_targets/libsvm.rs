//! Any line of text: ascending, bounded indices and values, or a refusal.
#![no_main]

use flowreg::data::libsvm::{MAX_FEATURES, parse_line, whole_label};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut next = 0;
        let head = parse_line(line, &mut |index, value| {
            assert!(index >= next && index <= MAX_FEATURES && value.abs() <= 1.1e15);
            next = index + 1;
        });
        match head {
            Ok(None) => assert_eq!(next, 0),
            Ok(Some(head)) => drop(whole_label(head.label)),
            Err(_) => {}
        }
    }
});
