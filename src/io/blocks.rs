//! CRC-32 (IEEE) checksums of a file's data, one per block of 1 MiB. They detect every error burst of
//! up to 32 bits, and miss any other error with probability 2⁻³².
//!
//! They detect accidental damage. For deliberate changes the manifest of a dataset has the SHA-256 of
//! each file; `flowreg-prep verify` checks both.

use std::ops::Range;

use rayon::prelude::*;

use crate::threads::{Share, Work};

/// Bytes per block; the last may be shorter.
pub const BLOCK: usize = 1 << 20;
/// Digits per block in [`Blocks::to_hex`].
const DIGITS: usize = 8;

/// Checksums of data that arrives in pieces of any length.
#[derive(Debug, Default)]
pub struct Blocks {
    sums: Vec<u32>,
    last: crc32fast::Hasher,
    filled: usize,
}

impl Blocks {
    /// Add the next piece.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (piece, rest) = data.split_at(data.len().min(BLOCK - self.filled));
            self.last.update(piece);
            self.filled += piece.len();
            if self.filled == BLOCK {
                self.end_block();
            }
            data = rest;
        }
    }

    fn end_block(&mut self) {
        self.sums.push(std::mem::take(&mut self.last).finalize());
        self.filled = 0;
    }

    /// All checksums, 8 hexadecimal digits per block.
    pub fn to_hex(mut self) -> String {
        if self.filled > 0 {
            self.end_block();
        }
        self.sums.iter().map(|sum| format!("{sum:08x}")).collect()
    }
}

/// The byte range of the first block of `data` whose checksum differs from `hex`. `each` is called
/// with every block while it is in the cache. Parallel, at memory bandwidth.
///
/// # Panics
/// If the length of `hex` is not [`hex_len`].
pub fn first_wrong(
    data: &[u8],
    hex: &str,
    each: impl Fn(Range<usize>, &[u8]) + Sync,
) -> Option<Range<usize>> {
    assert_eq!(hex.len(), hex_len(data.len()));
    let blocks = data
        .par_chunks(BLOCK)
        .zip(hex.as_bytes().par_chunks(DIGITS));
    let blocks = blocks.share(Work::bytes(data.len())).enumerate();
    let wrong = blocks.map(|(block, (data, hex))| {
        let range = block * BLOCK..block * BLOCK + data.len();
        each(range.clone(), data);
        let sum = format!("{:08x}", crc32fast::hash(data));
        (sum.as_bytes() != hex).then_some(range)
    });
    wrong.collect().into_iter().flatten().next()
}

/// The checksums of `data`, as by [`Blocks::to_hex`]. `each` is called with every block while it is
/// in the cache. Parallel, at memory bandwidth.
pub fn checksums(data: &[u8], each: impl Fn(Range<usize>, &[u8]) + Sync) -> String {
    let blocks = data.par_chunks(BLOCK).share(Work::bytes(data.len()));
    let sums = blocks.enumerate().map(|(block, data)| {
        each(block * BLOCK..block * BLOCK + data.len(), data);
        format!("{:08x}", crc32fast::hash(data))
    });
    sums.collect().concat()
}

/// Number of digits of the checksums of `bytes` bytes.
pub fn hex_len(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK) * DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Checksums are independent of the lengths of the pieces, and detect every changed bit.
        #[test]
        fn checksums_are_independent_of_pieces_and_detect_every_bit(
            len in 0usize..3 * BLOCK, piece in 1usize..2 * BLOCK, bit in any::<prop::sample::Index>(),
        ) {
            let mut data: Vec<u8> = (0..len).map(|i| ((i * i) >> 7) as u8).collect();
            let mut blocks = Blocks::default();
            data.chunks(piece).for_each(|piece| blocks.update(piece));
            let hex = blocks.to_hex();
            prop_assert_eq!(hex.len(), hex_len(len));
            prop_assert_eq!(&checksums(&data, |_, _| ()), &hex);
            prop_assert_eq!(first_wrong(&data, &hex, |_, _| ()), None);
            if len > 0 {
                let bit = bit.index(8 * len);
                data[bit / 8] ^= 1 << (bit % 8);
                let wrong = first_wrong(&data, &hex, |_, _| ()).unwrap();
                prop_assert!(wrong.contains(&(bit / 8)));
            }
        }
    }

    /// The published check value of CRC-32 (IEEE).
    #[test]
    fn crc32_check_value() {
        let mut blocks = Blocks::default();
        blocks.update(b"123456789");
        assert_eq!(blocks.to_hex(), "cbf43926");
    }
}
