//! Any bytes as a text, plain or packed: reading ends, and peeked bytes are read again.
#![no_main]

use std::path::Path;

use flowreg::data::text::{Text, TextKind};
use libfuzzer_sys::fuzz_target;

/// Number of lines to read: a packed text may be far longer than its bytes.
const LINES: usize = 1 << 12;

fuzz_target!(|bytes: &[u8]| {
    let _ = TextKind::of(bytes);
    let Ok(mut text) = Text::of_bytes(Path::new("text"), bytes.to_vec()) else {
        return;
    };
    let Ok(ahead) = text.peek(|ahead| ahead.len() > 100).map(<[u8]>::to_vec) else {
        return;
    };
    let mut read = Vec::new();
    for _ in 0..LINES {
        match text.next_line() {
            Ok(Some(line)) => {
                assert!(!line.is_empty());
                if read.len() < ahead.len() {
                    read.extend_from_slice(line);
                }
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let both = ahead.len().min(read.len());
    assert_eq!(ahead[..both], read[..both]);
});
