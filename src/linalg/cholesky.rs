//! The Cholesky factorisation of a symmetric positive definite matrix, by faer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::{MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{Isa, with_isa};
use crate::linalg::mat::try_zeros;
use crate::threads::{self, Share, Work};

/// Largest number of right-hand sides that one thread solves at once.
const MAX_SIDES: usize = 64;

/// The factor L (n x n) of `L Lᵀ`.
#[derive(Debug)]
pub struct Factor {
    n: usize,
    /// L in the lower triangle, column-major.
    values: Vec<f64>,
}

impl Factor {
    /// Allocates n x n values.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if they cannot be allocated.
    pub fn new(n: usize) -> Result<Factor> {
        let values = try_zeros(n, n)?;
        Ok(Factor { n, values })
    }

    /// Factors a symmetric matrix plus `ridge` on its diagonal; `column(j, to)` writes column j of
    /// the matrix from the diagonal down. If rounding makes the sum indefinite, the ridge is
    /// multiplied by 10 until the factorisation succeeds. Returns the ridge that was used. Cost:
    /// n³/3 flop for each attempt. The result does not depend on the number of threads.
    pub fn factor(&mut self, ridge: f64, column: impl Fn(usize, &mut [f64]) + Sync) -> f64 {
        let n = self.n;
        let isa = Isa::current();
        // n³/3 flop of f64.
        let par = threads::par(Work::flop(n * n * n / 3 * 2));
        let mut scratch = MemBuffer::new(llt::factor::cholesky_in_place_scratch::<f64>(
            n,
            par,
            Default::default(),
        ));
        let mut ridge = ridge;
        loop {
            let work = Work::bytes(size_of_val(&self.values[..]));
            let columns = self.values.par_chunks_exact_mut(n).share(work);
            columns.enumerate().for_each(|(j, values)| {
                with_isa!(isa, || column(j, &mut values[j..]));
                values[j] += ridge;
            });
            let done = llt::factor::cholesky_in_place(
                MatMut::from_column_major_slice_mut(&mut self.values, n, n),
                Default::default(),
                par,
                MemStack::new(&mut scratch),
                Default::default(),
            );
            if done.is_ok() || !ridge.is_finite() {
                return ridge;
            }
            ridge = f64::max(10.0 * ridge, f64::MIN_POSITIVE);
        }
    }

    /// The squares of L's diagonal; of a Gram matrix, the squared distance of each vector from the
    /// span of those before it.
    pub fn pivots(&self) -> impl Iterator<Item = f64> {
        self.values.iter().step_by(self.n + 1).map(|l| l * l)
    }

    /// Solves for right-hand sides of n values each, in place. Cost: 2n² flop each.
    pub fn solve(&self, sides: &mut [f64]) {
        let n = self.n;
        let factor = MatRef::from_column_major_slice(&self.values, n, n);
        // Tasks of equal size, which does not depend on the number of threads.
        let count = sides.len() / n;
        let per_task = count.div_ceil(count.div_ceil(MAX_SIDES).max(1)).max(1);
        // 2n² flop of f64 per side.
        let work = Work::flop(4 * n * n * count);
        let tasks = sides.par_chunks_mut(per_task * n).share(work);
        tasks.for_each(|sides| {
            let count = sides.len() / n;
            llt::solve::solve_in_place(
                factor,
                MatMut::from_column_major_slice_mut(sides, n, count),
                Par::Seq,
                MemStack::new(&mut MemBuffer::new(faer::dyn_stack::StackReq::EMPTY)),
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_systems_and_adds_a_ridge_to_singular_matrices() {
        let n = 90;
        let x: Vec<f64> = (0..n * n).map(|i| ((i * i) % 101) as f64 / 101.0).collect();
        let dot = |i: usize, j: usize| -> f64 {
            let rows = x[i * n..][..n].iter().zip(&x[j * n..][..n]);
            rows.map(|(a, b)| a * b).sum()
        };
        let column = |j: usize, to: &mut [f64]| {
            let values = to.iter_mut().enumerate();
            values.for_each(|(i, value)| *value = dot(j + i, j));
        };
        let mut factor = Factor::new(n).unwrap();
        assert_eq!(factor.factor(0.5, column), 0.5);
        let solution: Vec<f64> = (0..40 * n).map(|i| ((i % 17) as f64) - 8.0).collect();
        let mut sides = vec![0.0; 40 * n];
        for (side, solution) in sides.chunks_mut(n).zip(solution.chunks(n)) {
            for (i, value) in side.iter_mut().enumerate() {
                *value = 0.5 * solution[i] + (0..n).map(|j| dot(i, j) * solution[j]).sum::<f64>();
            }
        }
        factor.solve(&mut sides);
        for (found, expected) in sides.iter().zip(&solution) {
            assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        }
        // A matrix of rank one, without a ridge.
        let ridge = factor.factor(0.0, |_, to| to.fill(1.0));
        assert!(ridge > 0.0 && ridge < 1e-3, "{ridge}");
        let mut side = vec![1.0; n];
        factor.solve(&mut side);
        assert!(side.iter().all(|value| value.is_finite()));
    }
}
