//! See `shared/pictures.rs`.
#![no_main]

#[path = "shared/pictures.rs"]
mod pictures;

use flowreg::data::pictures::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pictures::decode(Kind::Png, bytes));
