//! Any line of text: a label with ascending, bounded values, or a refusal.
#![no_main]

use flowreg::data::libsvm::parse_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut next = 0;
        let label = parse_line(line, &mut |index, value| {
            assert!(index >= next && index < 16 << 20 && value.abs() <= 1e15);
            next = index + 1;
        });
        if label == Ok(None) {
            assert_eq!(next, 0);
        }
    }
});
