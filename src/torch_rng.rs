//! The random numbers of torch's CPU generator, to the bit: MT19937, 32-bit (`torch.manual_seed`).

use rand_mt::Mt;

/// A generator seeded as by `torch.manual_seed(seed)` or `torch.Generator().manual_seed(seed)`.
pub struct TorchRng(Mt);

impl TorchRng {
    /// A generator with this seed.
    pub fn new(seed: u32) -> Self {
        TorchRng(Mt::new(seed))
    }

    /// The initial weight (`outputs x features`, row-major) and bias of
    /// `torch.nn.Linear(features, outputs)`: uniform in ±1/√features.
    pub fn linear(&mut self, features: usize, outputs: usize) -> (Vec<f32>, Vec<f32>) {
        // kaiming_uniform_(a=√5) computes its bound in f64.
        let bound = (1.0 / (features as f64).sqrt()) as f32;
        let mut draw = |len: usize| -> Vec<f32> {
            (0..len)
                .map(|_| {
                    let unit = (self.0.next_u32() & 0xFF_FFFF) as f32 / (1 << 24) as f32;
                    unit.mul_add(bound - -bound, -bound)
                })
                .collect()
        };
        (draw(outputs * features), draw(outputs))
    }

    /// Writes `torch.randperm(n)` to `order`. torch uses this algorithm for n below 2³²/20; for a
    /// larger n the permutation is equally random but differs from torch's.
    pub fn permutation(&mut self, n: u32, order: &mut Vec<u32>) {
        order.clear();
        order.extend(0..n);
        for i in 0..n.saturating_sub(1) {
            let swap = i + self.0.next_u32() % (n - i);
            order.swap(i as usize, swap as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.manual_seed(5); torch.nn.Linear(7, 3)`, torch 2.15, as bits.
    #[test]
    fn linear_has_the_bits_of_torch() {
        let (weight, bias) = TorchRng::new(5).linear(7, 3);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&weight),
            [
                1048552307, 3197154649, 1050522765, 1048028533, 1050843217, 3197394744, 3196183671,
                1043868323, 3199509673, 1052722272, 1034208318, 1028124247, 3198516705, 1039576557,
                1042705925, 1031118573, 1052385991, 1038645131, 3198916918, 1050843427, 1040410874
            ]
        );
        assert_eq!(bits(&bias), [3191382789, 3199320691, 1046258516]);
    }

    /// `torch.randperm(10, generator=torch.Generator().manual_seed(7))`, twice, torch 2.15.
    #[test]
    fn permutation_equals_that_of_torch() {
        let mut rng = TorchRng::new(7);
        let mut order = Vec::new();
        rng.permutation(10, &mut order);
        assert_eq!(order, [5, 0, 3, 4, 1, 7, 9, 6, 8, 2]);
        rng.permutation(10, &mut order);
        assert_eq!(order, [1, 8, 9, 5, 7, 4, 0, 3, 6, 2]);
        rng.permutation(0, &mut order);
        assert!(order.is_empty());
    }
}
