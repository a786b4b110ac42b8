//! The rows of X as matrices for products, borrowed where they lie.
//!
//! Rows that are not contiguous (mini-batches, a choice of classes out of order) are gathered
//! into a block of bounded size first.

use std::ops::Range;

use rayon::prelude::*;

use crate::design::samples::{Batch, Rows};
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Accum, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec;
use crate::threads::{Share, Work};

/// Most bytes of X gathered at a time.
const GATHER_BYTES: usize = 64 << 20;
/// Most bytes of X centred at a time: they should still be in the cache when they are multiplied.
const CENTER_BYTES: usize = 4 << 20;

/// X as matrices: borrowed where the rows are contiguous, else gathered block by block.
#[derive(Debug)]
pub(crate) struct Blocks<'a> {
    pub(crate) x: &'a Rows<'a>,
    all_rows: Vec<u32>,
    gathered: Gathered,
    /// A block's columns of Zᵀ or Gᵀ.
    columns: Vec<f32>,
    /// Taken away from every row.
    mean: Option<Vec<f32>>,
}

/// A copy of some rows of X.
#[derive(Debug, Default)]
struct Gathered {
    /// Which rows, so that forward and backward gather once.
    rows: Vec<u32>,
    values: Vec<f32>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(x: &'a Rows<'a>) -> Self {
        let all_rows = match x.contiguous() {
            Some(_) => Vec::new(),
            None => (0..x.len() as u32).collect(),
        };
        Blocks {
            x,
            all_rows,
            gathered: Gathered::default(),
            columns: Vec::new(),
            mean: None,
        }
    }

    /// Rows less a mean, which are made anew, block by block, for every product.
    pub(crate) fn centered(x: &'a Rows<'a>, mean: &[f32]) -> Self {
        Blocks {
            all_rows: (0..x.len() as u32).collect(),
            mean: Some(mean.to_vec()),
            ..Blocks::new(x)
        }
    }

    /// Give `work` the batch's rows of X, in blocks, with each block's range in the batch.
    pub(crate) fn each(&mut self, batch: Batch, mut work: impl FnMut(Range<usize>, MatRef)) {
        let mean = self.mean.as_deref();
        let (rows, bytes) = match (batch, self.x.contiguous()) {
            (Batch::All, Some(x)) if mean.is_none() => return work(0..x.rows(), x),
            (Batch::All, Some(_)) => (&self.all_rows[..], CENTER_BYTES),
            (Batch::All, None) => (&self.all_rows[..], GATHER_BYTES),
            (Batch::Rows(rows), _) => (rows, GATHER_BYTES),
        };
        let block = (bytes / (4 * self.x.features())).max(1);
        for (i, rows) in rows.chunks(block).enumerate() {
            let x = self.gathered.load(self.x, rows, mean);
            work(i * block..i * block + rows.len(), x);
        }
    }

    /// `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch.
    pub(crate) fn logits(
        &mut self,
        gemm: Gemm,
        weight: MatRef,
        bias: &[f32],
        batch: Batch,
        mut z: MatMut,
    ) {
        let n = z.cols();
        let mut columns = std::mem::take(&mut self.columns);
        self.each(batch, |range, x| {
            let len = range.len();
            let block = if len == n {
                z.as_mut_slice()
            } else {
                columns.resize(bias.len() * len, 0.0);
                &mut columns[..]
            };
            let rows = block.chunks_exact_mut(len).zip(bias);
            rows.for_each(|(row, &bias)| row.fill(bias));
            let z_block = MatMut::new(block, bias.len(), len);
            gemm.a_bt(1.0, weight, x, Accum::Add, z_block);
            if len < n {
                let rows = z
                    .as_mut_slice()
                    .chunks_exact_mut(n)
                    .zip(columns.chunks_exact(len));
                rows.for_each(|(row, block)| row[range.clone()].copy_from_slice(block));
            }
        });
        self.columns = columns;
    }

    /// `weight = alpha · Gᵀ X_batch + beta · weight`; Gᵀ is c x batch.
    pub(crate) fn adjoint(
        &mut self,
        gemm: Gemm,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        weight: &mut [f32],
    ) {
        let (c, n, d) = (g.rows(), g.cols(), self.x.features());
        let mut accum = vec::scale(beta, weight);
        let mut columns = std::mem::take(&mut self.columns);
        self.each(batch, |range, x| {
            let len = range.len();
            let g = if len == n {
                g
            } else {
                columns.clear();
                let rows = g.as_slice().chunks_exact(n);
                rows.for_each(|row| columns.extend_from_slice(&row[range.clone()]));
                MatRef::new(&columns, c, len)
            };
            gemm.a_b(alpha, g, x, accum, MatMut::new(weight, c, d));
            accum = Accum::Add;
        });
        self.columns = columns;
    }
}

impl Gathered {
    fn load(&mut self, x: &Rows, rows: &[u32], mean: Option<&[f32]>) -> MatRef<'_> {
        let features = x.features();
        if self.rows != rows {
            self.rows.clear();
            self.rows.extend_from_slice(rows);
            self.values.resize(rows.len() * features, 0.0);
            let work = Work::bytes(2 * size_of_val(&self.values[..]));
            (self.values.par_chunks_exact_mut(features))
                .zip(rows)
                .share(work)
                .for_each(|(to, &row)| match mean {
                    None => to.copy_from_slice(x.row(row as usize)),
                    Some(mean) => with_isa!(Isa::current(), || {
                        let values = x.row(row as usize).iter().zip(mean);
                        for (to, (x, mean)) in to.iter_mut().zip(values) {
                            *to = x - mean;
                        }
                    }),
                });
        }
        MatRef::new(&self.values, rows.len(), features)
    }
}
