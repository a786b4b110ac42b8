//! Models of some columns of X, which a rank holds: see [`crate::comm`].

use std::ops::Range;

use crate::design::rows::Shard;
use crate::model::Model;

impl Model {
    /// The model of these features alone.
    pub(crate) fn columns(&self, columns: Range<usize>) -> Model {
        let rows = self.weight.chunks_exact(self.features);
        Model {
            weight: rows
                .flat_map(|row| &row[columns.clone()])
                .copied()
                .collect(),
            bias: self.bias.clone(),
            features: columns.len(),
            about: self.about.clone(),
        }
    }

    /// The model of all features from those of each rank's. Traffic: a sum of c·d/2 integers.
    pub(crate) fn of_ranks(&self, shard: Shard) -> Model {
        let values = self.bias.len() * shard.features;
        // Two values an integer. In each half one rank has bits, so that no sum carries.
        let mut bits = vec![0i64; values.div_ceil(2)];
        for (j, row) in self.weight.chunks_exact(self.features).enumerate() {
            for (k, value) in row.iter().enumerate() {
                let at = j * shard.features + shard.first + k;
                bits[at / 2] |= i64::from(value.to_bits()) << (32 * (at % 2));
            }
        }
        shard.comm.sum(&mut bits);
        let value = |at: usize| f32::from_bits((bits[at / 2] >> (32 * (at % 2))) as u32);
        Model {
            weight: (0..values).map(value).collect(),
            bias: self.bias.clone(),
            features: shard.features,
            about: self.about.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::tests::on_ranks;
    use crate::kernels::random_values;

    #[test]
    fn the_parts_of_a_model_make_it_again_to_the_bit() {
        let (c, d) = (3, 7);
        let mut weight = random_values(c * d, 1);
        weight[..4].copy_from_slice(&[f32::NAN, -0.0, f32::INFINITY, f32::MIN]);
        let model = Model::new(weight, vec![1.0, -2.0, f32::NEG_INFINITY]).unwrap();
        for size in [1, 2, 3, 7] {
            let found = on_ranks(size, |comm| {
                let own = crate::comm::share(d, comm.rank(), size);
                let shard = Shard {
                    comm,
                    first: own.start,
                    features: d,
                };
                model.columns(own).of_ranks(shard)
            });
            for found in found {
                assert_eq!(found.crc32(), model.crc32(), "{size}");
            }
        }
    }
}
