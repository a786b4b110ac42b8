//! K = X Xᵀ, held as its centred part and what centring took away.
//!
//! With μ the mean row of X,
//!
//! ```text
//! K = Kc + u 1ᵀ + 1 vᵀ,   Kc_ij = (x_i - μ)·(x_j - μ),   u_i = x_i·μ,   v_j = (x_j - μ)·μ
//! ```
//!
//! Kc is f32, u and v are f64. Rows that have much in common (photographs are bright) make
//! K nearly constant, and rounding its entries to f32 loses what tells the rows apart: a fit
//! with a daring learning rate amplifies that. The centred entries are small, and so is
//! their rounding.

use std::ops::Range;

use rayon::prelude::*;

use super::{ROWS, column_sums};
use crate::data::samples::{Batch, Rows};
use crate::error::{Error, Result};
use crate::gemm::{Accum, Gemm};
use crate::mat::{MatMut, MatRef};

/// Columns of X multiplied at a time: so many products are summed in f32, the rest in f64.
pub(super) const SLAB: usize = 1024;

/// Inner products of the rows of Y (or X itself) with the rows of X.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    /// Kc, rows x cols.
    centred: Vec<f32>,
    /// u: one a row.
    row_parts: Vec<f64>,
    /// v: one a column.
    column_parts: Vec<f64>,
}

/// Who multiplies, and the room that [`GramMatrix::product`] uses, kept between calls.
#[derive(Debug)]
pub struct Scratch {
    gemm: Gemm,
    /// Rows of Kc of a mini-batch.
    rows: Vec<f32>,
    /// vᵀG.
    weighted: Vec<f64>,
    /// 1ᵀG of the last product.
    pub(super) sums: Vec<f64>,
}

impl Scratch {
    /// No room yet.
    pub fn new(gemm: Gemm) -> Scratch {
        Scratch {
            gemm,
            rows: Vec::new(),
            weighted: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl GramMatrix {
    /// K = X Xᵀ, n x n: one triangle multiplied out and mirrored. Cost: n²d flop; 12n² bytes,
    /// of which 4n² stay. `progress` hears how many columns of X are done.
    ///
    /// # Errors
    /// [`Error::Shape`] if a feature is no finite number; [`Error::Options`] naming the primal
    /// engine, if Kc exceeds the range of f32 or no memory can be had.
    pub fn new(x: &Rows, gemm: Gemm, progress: &mut dyn FnMut(usize)) -> Result<GramMatrix> {
        Self::multiply(None, x, gemm, progress)
    }

    /// Y Xᵀ for other rows, m x n, centred by X's mean. Cost: 2mnd flop; 12mn bytes, of which
    /// 4mn stay.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn between(
        y: &Rows,
        x: &Rows,
        gemm: Gemm,
        progress: &mut dyn FnMut(usize),
    ) -> Result<GramMatrix> {
        Self::multiply(Some(y), x, gemm, progress)
    }

    fn multiply(
        y: Option<&Rows>,
        x: &Rows,
        gemm: Gemm,
        progress: &mut dyn FnMut(usize),
    ) -> Result<GramMatrix> {
        let (n, d) = (x.len(), x.features());
        let rows = y.map_or(n, Rows::len);
        // Entries of row i that are multiplied out.
        let used = |i: usize| if y.is_some() { n } else { i + 1 };
        let mut sums: Vec<f64> = room(rows, n)?;
        let mut values: Vec<f32> = room(rows, n)?;
        let mut column_parts = vec![0.0; n];
        let mut row_parts = vec![0.0; rows];
        let mut mean_squared = 0.0;
        let (mut mean, mut x_slab, mut y_slab) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..d).step_by(SLAB) {
            let columns = first..(first + SLAB).min(d);
            column_means(x, columns.clone(), &mut mean);
            mean_squared += dot(&mean, &mean);
            let x_slab = centre(x, columns.clone(), &mean, &mut x_slab, &mut column_parts);
            let product = MatMut::new(&mut values, rows, n);
            match y {
                None => gemm.gram(x_slab, product),
                Some(y) => {
                    let y_slab = centre(y, columns.clone(), &mean, &mut y_slab, &mut row_parts);
                    gemm.a_bt(1.0, y_slab, x_slab, Accum::Replace, product);
                }
            }
            let both = (sums.par_chunks_exact_mut(n)).zip(values.par_chunks_exact(n));
            both.enumerate().for_each(|(i, (sums, values))| {
                let used = sums[..used(i)].iter_mut().zip(values);
                used.for_each(|(sum, &value)| *sum += f64::from(value));
            });
            progress(columns.end);
        }
        let both = (values.par_chunks_exact_mut(n)).zip(sums.par_chunks_exact(n));
        both.enumerate().for_each(|(i, (values, sums))| {
            let used = values[..used(i)].iter_mut().zip(sums);
            used.for_each(|(value, &sum)| *value = sum as f32);
        });
        if y.is_none() {
            mirror(&mut values, n);
            row_parts.copy_from_slice(&column_parts);
        }
        row_parts.iter_mut().for_each(|part| *part += mean_squared);
        if let Some(value) = values.par_iter().find_any(|value| !value.is_finite()) {
            finite(x, "x")?;
            y.map_or(Ok(()), |y| finite(y, "validation x"))?;
            return Err(Error::options(
                "--engine",
                format!("gram, where the inner products of rows hold {value}"),
                "primal, or features so small that their products are within f32",
            ));
        }
        Ok(GramMatrix {
            centred: values,
            row_parts,
            column_parts,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_parts.len()
    }

    /// Number of columns: the rows of X.
    pub fn cols(&self) -> usize {
        self.column_parts.len()
    }

    /// `Z = alpha · K_batch G`, or added to Z, where K_batch are the batch's columns; G has a
    /// row for each. Cost: 2 · rows · batch · c flop.
    ///
    /// # Panics
    /// If the shapes do not fit, or if the batch is not all of a matrix that is not square.
    pub fn product(
        &self,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        accum: Accum,
        mut z: MatMut,
        scratch: &mut Scratch,
    ) {
        let (rows, cols) = (self.rows(), self.cols());
        let centred = MatRef::new(&self.centred, rows, cols);
        let Scratch {
            gemm,
            rows: gathered,
            weighted,
            sums,
        } = scratch;
        match batch {
            Batch::All => {
                column_sums(g, |i| self.column_parts[i], weighted);
                gemm.a_b(alpha, centred, g, accum, z.reborrow());
            }
            Batch::Rows(batch) => {
                assert_eq!(rows, cols, "a batch of columns is read as rows");
                column_sums(g, |i| self.column_parts[batch[i] as usize], weighted);
                gathered.clear();
                let columns = batch.iter().map(|&i| centred.row(i as usize));
                columns.for_each(|column| gathered.extend_from_slice(column));
                let columns = MatRef::new(gathered, batch.len(), rows);
                gemm.at_b(alpha, columns, g, accum, z.reborrow());
            }
        }
        column_sums(g, |_| 1.0, sums);
        let alpha = f64::from(alpha);
        let rows = z.as_mut_slice().par_chunks_exact_mut(sums.len());
        (rows.zip(&self.row_parts).with_min_len(ROWS)).for_each(|(row, part)| {
            let parts = sums.iter().zip(&*weighted);
            for (z, (sum, weighted)) in row.iter_mut().zip(parts) {
                *z = (f64::from(*z) + alpha * (part * sum + weighted)) as f32;
            }
        });
    }
}

/// Zeros, one for each of rows x cols.
fn room<T: Clone + Default>(rows: usize, cols: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let len = rows.saturating_mul(cols);
    if values.try_reserve_exact(len).is_err() {
        return Err(Error::options(
            "--engine",
            format!("gram, whose matrix of {rows} x {cols} finds no memory"),
            "primal, which needs no such matrix",
        ));
    }
    values.resize(len, T::default());
    Ok(values)
}

/// Refuse features that are no finite numbers.
fn finite(x: &Rows, what: &'static str) -> Result<()> {
    for i in 0..x.len() {
        if let Some(j) = x.row(i).iter().position(|value| !value.is_finite()) {
            let found = format!("{} in row {i}, feature {j}", x.row(i)[j]);
            return Err(Error::shape(what, found, "finite numbers"));
        }
    }
    Ok(())
}

/// The mean of these columns of X.
fn column_means(x: &Rows, columns: Range<usize>, mean: &mut Vec<f32>) {
    /// Columns a task: two cache lines of a row.
    const WIDTH: usize = 32;
    mean.clear();
    mean.resize(columns.len(), 0.0);
    let tasks = mean.par_chunks_mut(WIDTH).enumerate();
    tasks.for_each(|(task, mean)| {
        let first = columns.start + task * WIDTH;
        let mut sums = [0.0f64; WIDTH];
        for i in 0..x.len() {
            let values = &x.row(i)[first..first + mean.len()];
            let sums = sums.iter_mut().zip(values);
            sums.for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let means = mean.iter_mut().zip(sums);
        means.for_each(|(mean, sum)| *mean = (sum / x.len() as f64) as f32);
    });
}

/// These columns of X less their mean; each row's product with the mean is added to `parts`.
fn centre<'a>(
    x: &Rows,
    columns: Range<usize>,
    mean: &[f32],
    slab: &'a mut Vec<f32>,
    parts: &mut [f64],
) -> MatRef<'a> {
    let (n, width) = (x.len(), columns.len());
    slab.resize(n * width, 0.0);
    (slab.par_chunks_exact_mut(width))
        .zip(parts)
        .enumerate()
        .for_each(|(i, (slab, part))| {
            let values = x.row(i)[columns.clone()].iter().zip(mean);
            let centred = slab.iter_mut().zip(values);
            centred.for_each(|(centred, (x, mean))| *centred = x - mean);
            *part += dot(slab, mean);
        });
    MatRef::new(slab, n, width)
}

/// Σ a·b in f64, in eight sums that are vector lanes.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Copy the lower triangle to the upper one, by tiles that stay in cache.
fn mirror(k: &mut [f32], n: usize) {
    const TILE: usize = 32;
    for first in (0..n).step_by(TILE) {
        let last = (first + TILE).min(n);
        for row in first..n {
            for col in first..last.min(row) {
                k[col * n + row] = k[row * n + col];
            }
        }
    }
}
