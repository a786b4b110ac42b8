//! The largest eigenvalue of a symmetric matrix, from its products with vectors.

use std::ops::Range;

/// Smallest number of products: from a start close to an eigenvector of a smaller eigenvalue the
/// residual is small at first.
const MIN_PRODUCTS: usize = 8;
/// Largest number of products.
const MAX_PRODUCTS: usize = 50;
/// Residual, relative to the eigenvalue, that is precise enough for a step size.
const MAX_RESIDUAL: f64 = 1e-4;

/// λmax of a positive semidefinite n x n matrix by Lanczos' method from a fixed random vector;
/// `multiply(v, out)` writes its product with `v` to `out`.
///
/// The largest eigenvalue θ of the tridiagonal matrix approaches λmax from below. Its error is
/// at most the residual, and near the eigenvector the residual's square over the gap of the
/// spectrum. The iteration ends when the residual is at most 1e-4 θ, after 8 to 50 products (at most
/// n).
pub fn largest_eigenvalue(n: usize, multiply: impl FnMut(&[f32], &mut [f32])) -> f64 {
    largest_eigenvalue_of_part(0..n, n, inner, multiply)
}

/// [`largest_eigenvalue`] of vectors of which only the values `own` are here; `inner` returns the inner
/// product of two whole vectors, given their parts.
pub fn largest_eigenvalue_of_part(
    own: Range<usize>,
    n: usize,
    inner: impl Fn(&[f64], &[f64]) -> f64,
    mut multiply: impl FnMut(&[f32], &mut [f32]),
) -> f64 {
    let norm = |v: &[f64]| inner(v, v).sqrt();
    let mut rng = rand_mt::Mt::new(1);
    let mut v: Vec<f64> = (0..own.end)
        .map(|_| f64::from(rng.next_u32() >> 8) / f64::from(1 << 23) - 1.0)
        .collect();
    v.drain(..own.start);
    let length = norm(&v);
    v.iter_mut().for_each(|v| *v /= length);
    let mut before = vec![0.0; v.len()];
    let (mut rounded, mut product) = (vec![0.0; v.len()], vec![0.0; v.len()]);
    let mut widened = vec![0.0; v.len()];
    let (mut diagonal, mut off_diagonal) = (Vec::new(), Vec::new());
    loop {
        let values = rounded.iter_mut().zip(&v);
        values.for_each(|(rounded, &v)| *rounded = v as f32);
        multiply(&rounded, &mut product);
        let values = widened.iter_mut().zip(&product);
        values.for_each(|(widened, &p)| *widened = p.into());
        let alpha = inner(&v, &widened);
        if !alpha.is_finite() {
            return alpha;
        }
        let beta = off_diagonal.last().copied().unwrap_or(0.0);
        for ((before, v), &p) in before.iter_mut().zip(&v).zip(&product) {
            *before = f64::from(p) - alpha * v - beta * *before;
        }
        diagonal.push(alpha);
        let beta = norm(&before);
        let (theta, last) = largest_of_tridiagonal(&diagonal, &off_diagonal);
        let products = diagonal.len();
        let precise = products >= MIN_PRODUCTS && beta * last <= MAX_RESIDUAL * theta;
        // Below the f32 rounding of the product the next vector would be noise.
        let exhausted = products >= n || beta <= 1e-7 * theta;
        if precise || exhausted || products == MAX_PRODUCTS {
            return theta;
        }
        before.iter_mut().for_each(|before| *before /= beta);
        std::mem::swap(&mut v, &mut before);
        off_diagonal.push(beta);
    }
}

/// The largest eigenvalue of a symmetric tridiagonal matrix, and the last component of its unit
/// eigenvector.
fn largest_of_tridiagonal(diagonal: &[f64], off_diagonal: &[f64]) -> (f64, f64) {
    let k = diagonal.len();
    if k == 1 {
        return (diagonal[0], 1.0);
    }
    let next_to = |i: usize| off_diagonal.get(i).copied().unwrap_or(0.0);
    // Pivots of t·1 - T; all are positive if t is above every eigenvalue.
    let pivots = |t: f64| -> Option<Vec<f64>> {
        let mut pivots: Vec<f64> = Vec::with_capacity(k);
        for (i, alpha) in diagonal.iter().enumerate() {
            let taken = pivots
                .last()
                .map_or(0.0, |last| off_diagonal[i - 1].powi(2) / last);
            pivots.push(t - alpha - taken);
            if pivots[i].is_nan() || pivots[i] <= 0.0 {
                return None;
            }
        }
        Some(pivots)
    };
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let gershgorin =
        |i: usize| diagonal[i] + next_to(i) + if i > 0 { off_diagonal[i - 1] } else { 0.0 };
    let mut high = (0..k).map(gershgorin).fold(low, f64::max);
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
    // Inverse iteration with the pivots of t·1 - T.
    let mut x = vec![1.0; k];
    for _ in 0..3 {
        for i in 1..k {
            x[i] += off_diagonal[i - 1] / pivots[i - 1] * x[i - 1];
        }
        for i in (0..k).rev() {
            let after = if i + 1 < k {
                off_diagonal[i] * x[i + 1]
            } else {
                0.0
            };
            x[i] = (x[i] + after) / pivots[i];
        }
        let length = norm(&x);
        x.iter_mut().for_each(|x| *x /= length);
    }
    (high, x[k - 1].abs())
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    inner(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The matrix is a reflected diagonal matrix, whose eigenvalues are known.
        #[test]
        fn finds_the_largest_eigenvalue(eigenvalues in prop::collection::vec(0.0f64..100.0, 1..40), seed in any::<u32>()) {
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
            // Half of it would be enough for lr = 1/L; close eigenvalues slow the iteration.
            prop_assert!(found >= 0.95 * largest, "{found} {largest}");
        }
    }

    /// The matrix is X Xᵀ + 1 1ᵀ of one centred feature. The vector of ones is an eigenvector of the
    /// smaller eigenvalue n, and a start of positive values is almost parallel to it.
    #[test]
    fn finds_the_largest_eigenvalue_of_centred_features() {
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
    fn the_zero_matrix_has_eigenvalue_0() {
        assert_eq!(largest_eigenvalue(3, |_, out| out.fill(0.0)), 0.0);
    }
}
