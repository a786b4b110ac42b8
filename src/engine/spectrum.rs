//! The largest eigenvalue of a symmetric matrix that is known by its products only.

/// Fewest products: a start that happens to lie along a smaller eigenvector has a small
/// residual at once.
const FEWEST: usize = 8;
/// Most products.
const MOST: usize = 50;
/// Residual, as a share of the eigenvalue, at which it is good enough for a step size.
const RESIDUAL: f64 = 1e-3;

/// λmax of a positive semidefinite n x n matrix by power iteration from a fixed random
/// vector; `multiply(v, out)` puts its product with `v` into `out`.
///
/// The Rayleigh quotient θ approaches λmax from below; near the eigenvector its error is the
/// square of the residual |Kv - θv| over the gap of the spectrum. The iteration ends when the
/// residual is 1e-3 of θ, after 8 to 50 products.
pub fn largest_eigenvalue(n: usize, mut multiply: impl FnMut(&[f32], &mut [f32])) -> f64 {
    let mut rng = rand_mt::Mt::new(1);
    let mut v: Vec<f32> = (0..n)
        .map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    let mut product = vec![0.0; n];
    let mut length = norm(&v);
    let mut theta = 0.0;
    for products in 1..=MOST {
        v.iter_mut()
            .for_each(|v| *v = (f64::from(*v) / length) as f32);
        multiply(&v, &mut product);
        let pairs = || {
            v.iter()
                .zip(&product)
                .map(|(&v, &p)| (f64::from(v), f64::from(p)))
        };
        theta = pairs().map(|(v, p)| v * p).sum();
        let residual = pairs()
            .map(|(v, p)| (p - theta * v).powi(2))
            .sum::<f64>()
            .sqrt();
        length = norm(&product);
        if length == 0.0 || products >= FEWEST && residual <= RESIDUAL * theta {
            break;
        }
        std::mem::swap(&mut v, &mut product);
    }
    theta
}

fn norm(v: &[f32]) -> f64 {
    v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A diagonal matrix behind a reflection: its eigenvalues are known.
        #[test]
        fn finds_the_largest(eigenvalues in prop::collection::vec(0.0f64..100.0, 1..40), seed in any::<u32>()) {
            let n = eigenvalues.len();
            let mut rng = rand_mt::Mt::new(seed);
            let u: Vec<f64> = (0..n).map(|_| f64::from(rng.next_u32() >> 8) + 1.0).collect();
            let square: f64 = u.iter().map(|u| u * u).sum();
            let reflect = |v: &[f64]| -> Vec<f64> {
                let factor = 2.0 * v.iter().zip(&u).map(|(v, u)| v * u).sum::<f64>() / square;
                v.iter().zip(&u).map(|(v, u)| v - factor * u).collect()
            };
            let found = largest_eigenvalue(n, |v, out| {
                let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
                let scaled: Vec<f64> = reflect(&v).iter().zip(&eigenvalues).map(|(v, e)| v * e).collect();
                out.iter_mut().zip(reflect(&scaled)).for_each(|(out, v)| *out = v as f32);
            });
            let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
            prop_assert!(found <= largest * (1.0 + 1e-5), "{found} {largest}");
            // Half of it would already be safe for lr 1/L; neighbours may be hard to tell.
            prop_assert!(found >= 0.9 * largest, "{found} {largest}");
        }
    }

    /// X Xᵀ + 1 1ᵀ of one centred feature: 1 is an eigenvector, of the smaller eigenvalue n,
    /// and any start of positive values lies almost along it.
    #[test]
    fn is_not_deceived_by_centred_features() {
        let n = 100_000;
        for share in [1.5, 4.0] {
            let size = f64::sqrt(share);
            let x = |i: usize| if i.is_multiple_of(2) { size } else { -size };
            let found = largest_eigenvalue(n, |v, out| {
                let sum: f64 = v.iter().map(|&v| f64::from(v)).sum();
                let along: f64 = v
                    .iter()
                    .enumerate()
                    .map(|(i, &v)| x(i) * f64::from(v))
                    .sum();
                (out.iter_mut().enumerate())
                    .for_each(|(i, out)| *out = (sum + x(i) * along) as f32);
            });
            let expected = share * n as f64;
            assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
        }
    }

    #[test]
    fn of_nothing() {
        assert_eq!(largest_eigenvalue(3, |_, out| out.fill(0.0)), 0.0);
    }
}
