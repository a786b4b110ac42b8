//! K = X Xᵀ in f64, centred or not: the solver's.

use faer::linalg::matmul::matmul;
use rayon::prelude::*;

use crate::design::gram::Progress;
use crate::design::gram_products::{Products, column_means, mirror, pass};
use crate::design::rows::Rows;
use crate::error::Result;
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Gemm, lower_triangle};
use crate::linalg::mat::room;
use crate::linalg::vec::subtract;
use crate::threads::{self, Share, Work};

/// Kc, or K itself, in f64, n x n: what exact optimization needs of X Xᵀ.
#[derive(Clone, Debug)]
pub struct GramF64 {
    /// Kc or K, symmetric.
    pub values: Vec<f64>,
    /// Whether the rows were centred.
    pub centred: bool,
    /// n.
    pub rows: usize,
    /// What |Xc| may be off by: of bytes over 255, Kc is that of the quotients before they were
    /// rounded to f32.
    pub unrounded: f64,
}

impl GramF64 {
    /// The size of the eigenvalues that rounding may have made, as a share of the mean one.
    pub const NOISE: f64 = 1e-12;

    /// Of X, or of X with each feature over its `deviation`; `centred` by the mean row or not.
    /// Cost: n²d operations, with integers where every feature is a byte over 255, else flop in
    /// f64; 12n² bytes, of which 8n² stay.
    /// `progress` hears how many columns of X are done.
    ///
    /// # Errors
    /// [`Error::Shape`] if a feature is no finite number; [`Error::Memory`] if there is none for
    /// K; those of `progress`.
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
            sums: room(n, n)?,
            values: room(n, n)?,
        };
        if deviation.is_none() && gemm.has_bytes() && products.of_bytes(progress)? {
            let (row_parts, column_parts) = products.parts(None);
            if centred {
                let work = pass(&products.sums);
                let rows = products.sums.par_chunks_exact_mut(n).zip(&row_parts);
                rows.share(work).for_each(|(sums, row_part)| {
                    let parts = sums.iter_mut().zip(&column_parts);
                    parts.for_each(|(sum, part)| *sum = *sum - row_part - part);
                });
                // Symmetric to the last bit.
                mirror(&mut products.sums, n);
            }
            return Ok(GramF64 {
                values: products.sums,
                centred,
                rows: n,
                unrounded: f64::from(f32::EPSILON) / 4.0 * (n as f64 * x.features() as f64).sqrt(),
            });
        }
        let Products {
            mut sums, values, ..
        } = products;
        drop(values);
        of_wide_floats(x, deviation, centred, &mut sums, progress)?;
        let work = pass(&sums);
        if !sums.par_iter().share(work).all(|sum| sum.is_finite()) {
            x.check_finite("x")?;
        }
        mirror(&mut sums, n);
        if centred {
            // Means were rounded to f32: what they left is taken away, so that Kc 1 = 0.
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

    /// `Zᵀ = A Kᵀ`, c x n, for coordinates A (c x m) of m rows, `columns` (n x m) being their columns
    /// of K. Cost: 2nmc flop. The bits do not depend on the number of threads.
    pub fn logits(columns: &[f64], a: &[f64], m: usize, z: &mut [f64]) {
        let (n, c) = (columns.len() / m, a.len() / m);
        // Along the rows of K: with one output faer would share the sums of its columns out by
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

/// The lower triangle of `Xc Xcᵀ` (or `X Xᵀ`) added to `sums`, all in f64.
fn of_wide_floats(
    x: &Rows,
    deviation: Option<&[f64]>,
    centred: bool,
    sums: &mut [f64],
    progress: Progress,
) -> Result<()> {
    /// Columns at a time.
    const SLAB: usize = 512;
    let (n, d) = (x.len(), x.features());
    let (mut mean, mut slab) = (Vec::new(), vec![0.0; n * SLAB.min(d)]);
    for first in (0..d).step_by(SLAB) {
        let columns = first..(first + SLAB).min(d);
        let width = columns.len();
        column_means(x, None, columns.clone(), &mut mean);
        if !centred {
            mean.fill(0.0);
        }
        let slab = &mut slab[..n * width];
        let work = pass(slab);
        (slab.par_chunks_exact_mut(width).share(work).enumerate()).for_each(|(i, slab)| {
            with_isa!(Isa::current(), || {
                subtract(&x.row(i)[columns.clone()], &mean, slab);
                if let Some(deviation) = deviation {
                    for (to, deviation) in slab.iter_mut().zip(&deviation[columns.clone()]) {
                        *to /= deviation;
                    }
                }
            });
        });
        let slab = faer::MatRef::from_row_major_slice(slab, n, width);
        let sums = faer::MatMut::from_row_major_slice_mut(sums, n, n);
        let par = threads::par(Work::flop(2 * n * n * columns.len()));
        lower_triangle(faer::Accum::Add, slab, sums, par);
        progress(columns.end)?;
    }
    Ok(())
}
