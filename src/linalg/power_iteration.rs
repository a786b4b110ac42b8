//! The largest eigenvalue of a symmetric matrix given by its products.

/// Fewest products: a start that happens to lie along a smaller eigenvector has a small
/// residual at once.
const FEWEST: usize = 8;
/// Most products.
const MOST: usize = 50;
/// Residual, as a share of the eigenvalue, at which it is good enough for a step size.
const RESIDUAL: f64 = 1e-4;

/// λmax of a positive semidefinite n x n matrix by Lanczos' method from a fixed random vector;
/// `multiply(v, out)` puts its product with `v` into `out`.
///
/// The largest eigenvalue θ of the tridiagonal matrix approaches λmax from below; its error is
/// at most the residual, and near the eigenvector the residual's square over the gap of the
/// spectrum. The iteration ends when the residual is 1e-4 of θ, after 8 to 50 products (n, if
/// that is fewer).
pub fn largest_eigenvalue(n: usize, mut multiply: impl FnMut(&[f32], &mut [f32])) -> f64 {
    let mut rng = rand_mt::Mt::new(1);
    let mut v: Vec<f64> = (0..n)
        .map(|_| f64::from(rng.next_u32() >> 8) / f64::from(1 << 23) - 1.0)
        .collect();
    let length = norm(&v);
    v.iter_mut().for_each(|v| *v /= length);
    let mut before = vec![0.0; n];
    let (mut rounded, mut product) = (vec![0.0; n], vec![0.0; n]);
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    loop {
        let values = rounded.iter_mut().zip(&v);
        values.for_each(|(rounded, &v)| *rounded = v as f32);
        multiply(&rounded, &mut product);
        let alpha: f64 = v.iter().zip(&product).map(|(v, &p)| v * f64::from(p)).sum();
        if !alpha.is_finite() {
            return alpha;
        }
        let beta = beside.last().copied().unwrap_or(0.0);
        for ((before, v), &p) in before.iter_mut().zip(&v).zip(&product) {
            *before = f64::from(p) - alpha * v - beta * *before;
        }
        diagonal.push(alpha);
        let beta = norm(&before);
        let (theta, last) = of_tridiagonal(&diagonal, &beside);
        let products = diagonal.len();
        let enough = products >= FEWEST && beta * last <= RESIDUAL * theta;
        // Below f32's rounding of the product the next vector would be noise.
        let exhausted = products >= n || beta <= 1e-7 * theta;
        if enough || exhausted || products == MOST {
            return theta;
        }
        before.iter_mut().for_each(|before| *before /= beta);
        std::mem::swap(&mut v, &mut before);
        beside.push(beta);
    }
}

/// The largest eigenvalue of the symmetric matrix with this diagonal and these values beside it,
/// and the last component of its eigenvector of length 1.
fn of_tridiagonal(diagonal: &[f64], beside: &[f64]) -> (f64, f64) {
    let k = diagonal.len();
    if k == 1 {
        return (diagonal[0], 1.0);
    }
    let beside_of = |i: usize| beside.get(i).copied().unwrap_or(0.0);
    // Pivots of t·1 - T: all are positive where t is above every eigenvalue.
    let pivots = |t: f64| -> Option<Vec<f64>> {
        let mut pivots: Vec<f64> = Vec::with_capacity(k);
        for (i, alpha) in diagonal.iter().enumerate() {
            let taken = pivots
                .last()
                .map_or(0.0, |last| beside[i - 1].powi(2) / last);
            pivots.push(t - alpha - taken);
            if pivots[i].is_nan() || pivots[i] <= 0.0 {
                return None;
            }
        }
        Some(pivots)
    };
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let reach = |i: usize| diagonal[i] + beside_of(i) + if i > 0 { beside[i - 1] } else { 0.0 };
    let mut high = (0..k).map(reach).fold(low, f64::max);
    high += 1e-12 * high.abs() + f64::MIN_POSITIVE;
    while high - low > 1e-13 * high.abs() {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        match pivots(middle) {
            Some(_) => high = middle,
            None => low = middle,
        }
    }
    let Some(pivots) = pivots(high) else {
        return (high, 1.0);
    };
    // Inverse iteration: (t·1 - T) x = x, solved by its pivots.
    let mut x = vec![1.0; k];
    for _ in 0..3 {
        for i in 1..k {
            x[i] += beside[i - 1] / pivots[i - 1] * x[i - 1];
        }
        for i in (0..k).rev() {
            let after = if i + 1 < k { beside[i] * x[i + 1] } else { 0.0 };
            x[i] = (x[i] + after) / pivots[i];
        }
        let length = norm(&x);
        x.iter_mut().for_each(|x| *x /= length);
    }
    (high, x[k - 1].abs())
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
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
            // Half of it would already be safe for lr 1/L; close neighbours may be hard to tell.
            prop_assert!(found >= 0.95 * largest, "{found} {largest}");
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
