//! Detection of features that are bytes divided by 255, as those of photographs are: the Gram
//! matrix of such rows is computed exactly in integers.

use crate::kernels::Isa;
use crate::kernels::simd::{Simd, Task};

/// Whether every value of `x` is k/255 for a byte k. If so, `unsigned` holds k and `signed`
/// k - 128. Cost: one pass over `x`.
///
/// # Panics
/// If the lengths differ.
pub fn bytes(isa: Isa, x: &[f32], unsigned: &mut [u8], signed: &mut [i8]) -> bool {
    assert!(x.len() == unsigned.len() && x.len() == signed.len());
    let mut task = Bytes {
        x,
        unsigned,
        signed,
        exact: false,
    };
    isa.run(&mut task);
    task.exact
}

struct Bytes<'a> {
    x: &'a [f32],
    unsigned: &'a mut [u8],
    signed: &'a mut [i8],
    exact: bool,
}

impl Task for Bytes<'_> {
    /// Plain Rust, which the compiler vectorises.
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&mut self) {
        /// 2²³: adding it rounds to a whole number, held in the lowest bits.
        const ROUND: f32 = 8_388_608.0;
        let mut wrong = 0u32;
        let bytes = self.unsigned.iter_mut().zip(&mut *self.signed);
        for (&x, (unsigned, signed)) in self.x.iter().zip(bytes) {
            let k = (x * 255.0 + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
            // k/255 must reproduce the feature to the bit.
            let again = (k & 0xFF) as f32 / 255.0;
            wrong |= (k & !0xFF) | (again.to_bits() ^ x.to_bits());
            *unsigned = k as u8;
            *signed = (k as u8 ^ 0x80) as i8;
        }
        self.exact = wrong == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_recognised_and_other_values_are_not() {
        for isa in Isa::available() {
            let run = |x: &[f32]| {
                let (mut unsigned, mut signed) = (vec![0; x.len()], vec![0; x.len()]);
                let exact = bytes(isa, x, &mut unsigned, &mut signed);
                (exact, unsigned, signed)
            };
            let all: Vec<f32> = (0..=255u8).map(|k| f32::from(k) / 255.0).collect();
            let (exact, unsigned, signed) = run(&all);
            assert!(exact, "{isa}");
            for k in 0..=255u8 {
                assert_eq!(unsigned[usize::from(k)], k);
                assert_eq!(i32::from(signed[usize::from(k)]), i32::from(k) - 128);
            }
            let near = |k: f32| f32::from_bits((k / 255.0).to_bits() + 1);
            let other_values = [
                near(7.0),
                near(255.0),
                1.5 / 255.0,
                256.0 / 255.0,
                -1.0 / 255.0,
                -0.0,
                1e-30,
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                1e30,
                65_791.0,
            ];
            for other in other_values {
                for at in [0, 5, 63, 255] {
                    let mut x = all.clone();
                    x[at] = other;
                    assert!(!run(&x).0, "{isa}: {other} at {at}");
                }
            }
        }
    }
}
