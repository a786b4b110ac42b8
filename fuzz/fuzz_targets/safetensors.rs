//! Any bytes give a model or an error; a model of flowreg has exactly one encoding.
#![no_main]

use flowreg::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Also with the correct length of the header, which is hard to guess.
    let mut framed = (bytes.len() as u64 - bytes.len() as u64 / 4).to_le_bytes().to_vec();
    framed.extend(bytes);
    for bytes in [bytes, &framed] {
        if let Ok(model) = Model::parse("fuzz".as_ref(), bytes) {
            let again = model.to_safetensors();
            let parsed = Model::parse("fuzz".as_ref(), &again).unwrap();
            assert_eq!(parsed.to_safetensors(), again);
        }
    }
});
