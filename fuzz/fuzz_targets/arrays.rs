//! Any bytes as a file of an array or an archive of arrays: rows or an error, and never more rows
//! than the file says.
#![no_main]

use flowreg::data::arrays::Features;
use flowreg::data::rows::RowReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("flowreg-fuzz-arrays-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    if let Ok(mut features) = Features::open(&path) {
        let width = features.features();
        // A header may claim far more rows than the file has; one block is enough.
        if width <= 1 << 16 {
            let rows = features.rows().unwrap();
            let mut block = vec![0.0; 3 * width];
            let mut read = 0;
            while read < 1 << 12 {
                match features.read(&mut block) {
                    Ok(0) => {
                        assert_eq!(read, rows);
                        break;
                    }
                    Ok(more) => read += more,
                    Err(_) => break,
                }
            }
        }
    }
});
