//! The Gram matrix K = X Xᵀ in f64, centred or not, for the solver.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use rayon::prelude::*;

use crate::comm::shard_slab;
use crate::design::gram::Progress;
use crate::design::gram_products::{Products, Units, column_means, mirror, pass};
use crate::design::rows::{Rows, Shard, norms_of_ranks};
use crate::error::Result;
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Gemm, lower_triangle};
use crate::linalg::mat::try_zeros;
use crate::linalg::vec::subtract;
use crate::threads::{self, Share, Work};

/// Kc or K in f64, n x n.
#[derive(Clone, Debug)]
pub struct GramF64 {
    /// Kc or K, symmetric.
    pub values: Vec<f64>,
    /// Whether the rows were centred.
    pub centred: bool,
    /// n.
    pub rows: usize,
    /// A bound of the error of |Xc|. It is 0 except for features that are bytes over 255, of which
    /// Kc is exact: X has the quotients rounded to f32.
    pub unrounded: f64,
}

impl GramF64 {
    /// Size of eigenvalues that may be rounding errors, relative to the mean eigenvalue.
    pub const NOISE: f64 = 1e-12;

    /// The Gram matrix of X, or of X with each feature divided by its `deviation`; `centred` by the
    /// mean row or not. Cost: n²d operations, of integers if every feature is a byte over 255, else
    /// in f64; 12n² bytes, of which 8n² remain. `progress` is called with the number of finished
    /// columns of X.
    ///
    /// # Errors
    /// [`Error::Shape`] if a feature is not finite; [`Error::Memory`] if K cannot be allocated; the
    /// errors of `progress`.
    pub fn new(
        x: &Rows,
        deviation: Option<&[f64]>,
        centred: bool,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramF64> {
        let n = x.len();
        let mut products = Products {
            y: None,
            x,
            weights: None,
            gemm,
            sums: try_zeros(n, n)?,
            values: try_zeros(n, n)?,
        };
        if deviation.is_none() && gemm.has_bytes() && products.try_multiply_bytes(progress)? {
            let (row_parts, column_parts) = products.scale_and_means(None);
            if centred {
                let work = pass(&products.sums);
                let rows = products.sums.par_chunks_exact_mut(n).zip(&row_parts);
                rows.share(work).for_each(|(sums, row_part)| {
                    let parts = sums.iter_mut().zip(&column_parts);
                    parts.for_each(|(sum, part)| *sum = *sum - row_part - part);
                });
                // Rounding differs above the diagonal: mirror, so that the matrix is symmetric.
                mirror(&mut products.sums, n);
            }
            return Ok(GramF64 {
                values: products.sums,
                centred,
                rows: n,
                unrounded: f64::from(f32::EPSILON) / 4.0
                    * (n as f64 * x.all_features() as f64).sqrt(),
            });
        }
        let Products {
            mut sums, values, ..
        } = products;
        drop(values);
        match x.shard() {
            None => add_products(x, deviation, centred, &mut sums, progress)?,
            Some(shard) => {
                add_products_of_ranks(shard, x, deviation, centred, &mut sums, progress)?
            }
        }
        let work = pass(&sums);
        if !sums.par_iter().share(work).all(|sum| sum.is_finite()) {
            x.check_finite("x")?;
        }
        mirror(&mut sums, n);
        if centred {
            // The means were rounded to f32: centre the rest in f64, so that Kc 1 = 0.
            let means: Vec<f64> = (sums.par_chunks_exact(n).share(work))
                .map(|row| row.iter().sum::<f64>() / n as f64)
                .collect();
            let mean = means.iter().sum::<f64>() / n as f64;
            let rows = sums.par_chunks_exact_mut(n).zip(&means);
            rows.share(work).for_each(|(row, of_row)| {
                let values = row.iter_mut().zip(&means);
                values.for_each(|(value, of_column)| *value -= of_row + of_column - mean);
            });
        }
        Ok(GramF64 {
            values: sums,
            centred,
            rows: n,
            unrounded: 0.0,
        })
    }

    /// `Zᵀ = A Kᵀ`, c x n, for coordinates A (c x m) of m rows, whose columns of K are `columns`
    /// (n x m). Cost: 2nmc flop. The bits do not depend on the number of threads.
    pub fn logits(columns: &[f64], a: &[f64], m: usize, z: &mut [f64]) {
        let (n, c) = (columns.len() / m, a.len() / m);
        // Sums run along the rows of K: with one output, faer would divide sums along its columns by
        // the number of threads.
        matmul(
            faer::MatMut::from_row_major_slice_mut(z, c, n),
            faer::Accum::Replace,
            faer::MatRef::from_row_major_slice(a, c, m),
            faer::MatRef::from_row_major_slice(columns, n, m).transpose(),
            1.0,
            threads::par(Work::flop(4 * c * n * m)),
        );
    }

    /// The mean of Kc's diagonal.
    pub fn mean_square(&self) -> f64 {
        let diagonal = self.values.iter().step_by(self.rows + 1);
        diagonal.sum::<f64>() / self.rows as f64
    }
}

/// Adds the lower triangle of `Xc Xcᵀ` (or `X Xᵀ`), in f64, to `sums`.
fn add_products(
    x: &Rows,
    deviation: Option<&[f64]>,
    centred: bool,
    sums: &mut [f64],
    progress: Progress,
) -> Result<()> {
    /// Number of columns of a slab.
    const SLAB: usize = 512;
    let n = x.len();
    each_slab(x, deviation, centred, SLAB, |slab, columns| {
        let sums = faer::MatMut::from_row_major_slice_mut(sums, n, n);
        let par = threads::par(Work::flop(2 * n * n * columns.len()));
        lower_triangle(faer::Accum::Add, slab, sums, par);
        progress(columns.end)
    })
}

/// [`add_products`] of the columns of all ranks. The bits do not depend on the number of ranks.
fn add_products_of_ranks(
    shard: Shard,
    x: &Rows,
    deviation: Option<&[f64]>,
    centred: bool,
    sums: &mut [f64],
    progress: Progress,
) -> Result<()> {
    let n = x.len();
    let slab = shard_slab(shard.features);
    let mut squares = Vec::new();
    each_slab(x, deviation, centred, slab, |slab, _| {
        let square = |i: usize| slab.row(i).iter().map(|value| value * value).sum();
        squares.push((0..n).map(square).collect::<Vec<f64>>());
        Ok(())
    })?;
    let slabs = shard.features.div_ceil(slab);
    let units = Units::of_rows(&norms_of_ranks(shard.comm, slabs, &squares));
    let computed = |i: usize| i + 1;
    let mut products = x.agree(try_zeros(n, n))?;
    let own = each_slab(x, deviation, centred, slab, |slab, columns| {
        let to = faer::MatMut::from_row_major_slice_mut(&mut products, n, n);
        let par = threads::par(Work::flop(2 * n * n * columns.len()));
        lower_triangle(faer::Accum::Replace, slab, to, par);
        units.add_slab(sums, &products, n, &computed);
        progress(columns.end)
    });
    x.agree(own)?;
    units.reduce(sums, n, &computed, shard.comm);
    Ok(())
}

/// Calls `work` with each slab of columns, centred if `centred` and over `deviation`, and its columns.
fn each_slab(
    x: &Rows,
    deviation: Option<&[f64]>,
    centred: bool,
    slab: usize,
    mut work: impl FnMut(faer::MatRef<f64>, Range<usize>) -> Result<()>,
) -> Result<()> {
    let (n, d) = (x.len(), x.features());
    let (mut mean, mut values) = (Vec::new(), vec![0.0; n * slab.min(d)]);
    for first in (0..d).step_by(slab) {
        let columns = first..(first + slab).min(d);
        let width = columns.len();
        column_means(x, None, columns.clone(), &mut mean);
        if !centred {
            mean.fill(0.0);
        }
        let values = &mut values[..n * width];
        let pass = pass(values);
        (values.par_chunks_exact_mut(width).share(pass).enumerate()).for_each(|(i, values)| {
            with_isa!(Isa::current(), || {
                subtract(&x.row(i)[columns.clone()], &mean, values);
                if let Some(deviation) = deviation {
                    for (to, deviation) in values.iter_mut().zip(&deviation[columns.clone()]) {
                        *to /= deviation;
                    }
                }
            });
        });
        work(
            faer::MatRef::from_row_major_slice(values, n, width),
            columns,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Samples;
    use crate::comm::tests::on_ranks;
    use crate::linalg::gemm::Backend;

    /// Rows of few values other than 0, whose norms are far below their bound √d max |x_ik|: the rounding
    /// of sums over ranks is that of f64.
    #[test]
    fn products_of_sparse_rows_on_ranks_are_as_precise_as_f64() {
        let (n, d) = (12, 20_000);
        let mut rng = rand_mt::Mt::new(4);
        let mut x = vec![0.0f32; n * d];
        for row in x.chunks_exact_mut(d) {
            for _ in 0..50 {
                row[rng.next_u32() as usize % d] = 0.14;
            }
            row[7] = 0.5;
        }
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 2).collect();
        let samples = Samples::from_labels(&x, d, &labels, 2).unwrap();
        let gemm = Gemm::new(Backend::Own, 1);
        let found = on_ranks(3, |comm| {
            let own = samples.columns_of(comm).unwrap();
            let k = GramF64::new(own.x(), None, false, gemm, &mut |_| Ok(()));
            k.unwrap().values
        });
        for i in 0..n {
            for j in 0..n {
                let products = samples.x().row(i).iter().zip(samples.x().row(j));
                let exact: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                for k in &found {
                    let off = (k[i * n + j] - exact).abs();
                    assert!(off <= 1e-15, "{i} {j} {off}");
                }
            }
        }
    }
}
