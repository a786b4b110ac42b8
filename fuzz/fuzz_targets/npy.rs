//! Any bytes: a header or an error; a header that is accepted fits its file, and its elements
//! are numbers or text.
#![no_main]

use flowreg::io::npy::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(bytes, bytes.len() as u64) {
        let values: usize = header.shape.iter().product();
        let end = header.data_offset + values * header.dtype.size();
        assert_eq!(end, bytes.len());
        if header.dtype.is_number() {
            let mut numbers = Vec::new();
            header.decode(&bytes[header.data_offset..], &mut numbers);
            assert_eq!(numbers.len(), values);
        }
        // The header that flowreg writes for it is read as the same.
        let mut again = Header::encode(header.dtype, &header.shape);
        again.resize(again.len() + values * header.dtype.size(), 0);
        let parsed = Header::parse(&again, again.len() as u64).unwrap();
        assert_eq!((parsed.dtype, parsed.shape), (header.dtype, header.shape));
    }
});
