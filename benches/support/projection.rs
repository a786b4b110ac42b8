//! Checks whole products against f64 without an f64 product: along a random direction r, `C r` follows
//! from the factors of C in one pass over X.

use flowreg::linalg::gemm::{Accum, Gemm};
use flowreg::linalg::mat::{MatMut, MatRef};
use flowreg::torch_rng::TorchRng;

use super::shapes::Shape;

/// Largest error accepted, in f32 epsilons of Σ|terms|, divided by the root of the number of entries
/// that the direction adds up. Measured at the real shapes, by any back end: 1.5. Leaving one term
/// out of a chain of 49,152 for 102 outputs gives 17.
const EPSILONS: f64 = 4.0;
/// The same for K, whose diagonal has sums of squares, which are rounded in one direction.
/// Measured: 3.4.
const EPSILONS_OF_K: f64 = 10.0;

/// Panics unless `W Xᵀ` and `Gᵀ X` agree with f64 for every row and every feature of X (n x d). The
/// output buffers hold NaN before.
pub fn check(gemm: Gemm, shape: Shape, x: &[f32]) {
    let Shape { n, d, c, .. } = shape;
    let x = MatRef::new(x, n, d);
    let along_outputs = random(c, 1);
    let bound = EPSILONS / (c as f64).sqrt();
    let w = random(c * d, 2);
    let mut z = vec![f32::NAN; c * n];
    let product = MatMut::new(&mut z, c, n);
    gemm.a_bt(1.0, MatRef::new(&w, c, d), x, Accum::Replace, product);
    let moved = Sums::of_rows(&w, &along_outputs, d);
    let expected = (0..n).map(|i| moved.dot(x.row(i)));
    let found = Sums::of_rows(&z, &along_outputs, n);
    found.equal(
        expected,
        &|_| bound,
        &format!("W Xᵀ of {shape:?} by {gemm:?}"),
    );

    let g = random(c * n, 3);
    let mut gradient = vec![f32::NAN; c * d];
    let product = MatMut::new(&mut gradient, c, d);
    gemm.a_b(1.0, MatRef::new(&g, c, n), x, Accum::Replace, product);
    let moved = Sums::of_rows(&g, &along_outputs, n);
    let mut expected = Sums::zero(d);
    for (i, (&weight, &size)) in moved.sums.iter().zip(&moved.sizes).enumerate() {
        expected.add(weight, size, x.row(i));
    }
    let expected = expected.sums.into_iter().zip(expected.sizes);
    let found = Sums::of_rows(&gradient, &along_outputs, d);
    found.equal(
        expected,
        &|_| bound,
        &format!("Gᵀ X of {shape:?} by {gemm:?}"),
    );
}

/// Panics unless the lower triangle of `X Xᵀ` agrees with f64 for every row.
pub fn check_gram(gemm: Gemm, shape: Shape, x: &[f32]) {
    let Shape { n, d, .. } = shape;
    let x = MatRef::new(x, n, d);
    let along_rows = random(n, 4);
    let mut k = vec![f32::NAN; n * n];
    gemm.gram(x, MatMut::new(&mut k, n, n));
    // Row i of the triangle along r is x_i · Σ_{j≤i} r_j x_j.
    let mut found = Sums::zero(n);
    let mut before = Sums::zero(d);
    let expected: Vec<(f64, f64)> = (0..n)
        .map(|i| {
            let weight = f64::from(along_rows[i]);
            before.add(weight, weight.abs(), x.row(i));
            let triangle = k[i * n..=i * n + i].iter().zip(&along_rows);
            found.sums[i] = triangle.map(|(&k, &r)| f64::from(k) * f64::from(r)).sum();
            before.dot(x.row(i))
        })
        .collect();
    let bound = |i: usize| EPSILONS_OF_K / ((i + 1) as f64).sqrt();
    let what = format!("K of {shape:?} by {gemm:?}");
    found.equal(expected.into_iter(), &bound, &what);
}

/// Random numbers with mean 0.
fn random(len: usize, seed: u32) -> Vec<f32> {
    TorchRng::new(seed).linear(len, 1).0
}

/// Sums in f64, and the sums of the absolute values of their terms.
struct Sums {
    sums: Vec<f64>,
    sizes: Vec<f64>,
}

impl Sums {
    fn zero(len: usize) -> Sums {
        Sums {
            sums: vec![0.0; len],
            sizes: vec![0.0; len],
        }
    }

    /// `rᵀ M` for M of `cols` columns.
    fn of_rows(m: &[f32], r: &[f32], cols: usize) -> Sums {
        let mut sums = Sums::zero(cols);
        for (row, &r) in m.chunks_exact(cols).zip(r) {
            sums.add(f64::from(r), f64::from(r.abs()), row);
        }
        sums
    }

    /// Add `weight` times a row; `size` is the sum of the absolute terms of the weight.
    fn add(&mut self, weight: f64, size: f64, row: &[f32]) {
        let both = self.sums.iter_mut().zip(&mut self.sizes).zip(row);
        for ((sum, total), &value) in both {
            *sum += weight * f64::from(value);
            *total += size * f64::from(value.abs());
        }
    }

    fn dot(&self, row: &[f32]) -> (f64, f64) {
        let terms = row.iter().zip(self.sums.iter().zip(&self.sizes));
        terms.fold((0.0, 0.0), |(sum, size), (&value, (by, size_by))| {
            let value = f64::from(value);
            (sum + value * by, size + value.abs() * size_by)
        })
    }

    /// Panics if the error of entry i is above `bound(i)` epsilons.
    fn equal(
        &self,
        expected: impl Iterator<Item = (f64, f64)>,
        bound: &dyn Fn(usize) -> f64,
        what: &str,
    ) {
        for (i, (&found, (expected, size))) in self.sums.iter().zip(expected).enumerate() {
            let error = (found - expected).abs() / (f64::from(f32::EPSILON) * size);
            assert!(
                error <= bound(i),
                "{what}: {found} at {i} instead of {expected}, off by {error} epsilons"
            );
        }
    }
}
