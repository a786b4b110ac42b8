//! K = X Xᵀ in f32, held as its centred part and what centring took away.
//!
//! With μ the mean row of X,
//!
//! ```text
//! K = Kc + u 1ᵀ + 1 vᵀ,   Kc_ij = (x_i - μ)·(x_j - μ),   u_i = x_i·μ,   v_j = (x_j - μ)·μ
//! ```
//!
//! The identity holds for any μ: with sample weights μ is the weighted mean, so that a row of
//! weight 0 does not move it. Kc is f32, u and v are f64. Rows that have much in common
//! (photographs are bright) make K nearly constant, and rounding its entries to f32 loses what
//! tells the rows apart: a fit with a large learning rate amplifies that. The centred entries are
//! small, and so is their rounding. `gram_products.rs` computes them.

use rayon::prelude::*;

pub use crate::design::gram_products::Progress;
use crate::design::gram_products::{Products, in_range, pass};
use crate::design::rows::{Batch, Rows};
use crate::error::Result;
use crate::kernels::columns::{self, Columns};
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Accum, Gemm, Prepacked};
use crate::linalg::mat::{MatMut, MatRef, room};
use crate::linalg::vec::{dot_serial, sum};
use crate::threads::{Share, Work};

/// Inner products of the rows of Y (or X itself) with the rows of X.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    /// Kc, rows x cols.
    centred: Prepacked,
    /// u: one a row.
    row_parts: Vec<f64>,
    /// v: one a column.
    column_parts: Vec<f64>,
    /// How much each row of X counts in μ, if they do not count alike.
    weights: Option<Vec<f64>>,
}

/// Scratch space of [`GramMatrix::product`], kept between calls.
#[derive(Debug)]
pub struct Scratch {
    gemm: Gemm,
    /// A mini-batch's columns of Kc, and of v.
    gathered: Vec<f32>,
    parts: Vec<f64>,
    /// Gᵀ1 and Gᵀv of every block of samples.
    of_blocks: Vec<f64>,
    /// Gᵀ1 of the last product.
    sums: Vec<f64>,
}

impl Scratch {
    /// No room yet.
    pub fn new(gemm: Gemm) -> Scratch {
        Scratch {
            gemm,
            gathered: Vec::new(),
            parts: Vec::new(),
            of_blocks: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl GramMatrix {
    /// K = X Xᵀ, n x n: one triangle multiplied out and mirrored. Cost: n²d flop; 12n² bytes,
    /// of which 4n² stay. `progress` hears how many columns of X are done.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if a feature is no finite number; naming the primal
    /// engine, [`Error::Options`](crate::Error::Options) if Kc exceeds the range of f32 and
    /// [`Error::Memory`](crate::Error::Memory) if there is no memory for it; those of `progress`.
    pub fn new(x: &Rows, gemm: Gemm, progress: Progress) -> Result<GramMatrix> {
        Self::weighted(x, None, gemm, progress)
    }

    /// [`GramMatrix::new`] of rows that count by their weights, one a row: the same K, rounded
    /// less where the rows of large weight are.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn weighted(
        x: &Rows,
        weights: Option<&[f64]>,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        Self::multiply(None, x, weights, gemm, progress)
    }

    /// Y Xᵀ for other rows, m x n, centred by X's mean; `k` is X Xᵀ. Cost: 2mnd flop; 12mn
    /// bytes, of which 4mn stay.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn between(
        y: &Rows,
        x: &Rows,
        k: &GramMatrix,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        Self::multiply(Some((y, k)), x, k.weights.as_deref(), gemm, progress)
    }

    fn multiply(
        y: Option<(&Rows, &GramMatrix)>,
        x: &Rows,
        weights: Option<&[f64]>,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        let rows = y.map_or(x.len(), |(y, _)| y.len());
        let mut products = Products {
            y: y.map(|(y, _)| y),
            x,
            weights,
            gemm,
            sums: room(rows, x.len())?,
            values: room(rows, x.len())?,
        };
        let is_exact = gemm.has_bytes() && products.of_bytes(progress)?;
        let (row_parts, column_parts) = if is_exact {
            products.centred(y.map(|(_, k)| &k.column_parts[..]))
        } else {
            products.of_floats(progress)?
        };
        let Products { values, sums, .. } = products;
        drop(sums);
        if !is_exact {
            in_range(&values, x, y.map(|(y, _)| y))?;
        }
        Ok(GramMatrix {
            centred: gemm.prepack(values, rows, x.len()),
            row_parts,
            column_parts,
            weights: weights.map(<[f64]>::to_vec),
        })
    }

    /// K + 1 1ᵀ: the Gram matrix of rows with one more feature, which is 1.
    pub fn with_ones(mut self) -> GramMatrix {
        self.row_parts.iter_mut().for_each(|part| *part += 1.0);
        self
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_parts.len()
    }

    /// Number of columns: the rows of X.
    pub fn cols(&self) -> usize {
        self.column_parts.len()
    }

    /// `Zᵀ = alpha · Gᵀ K_batchᵀ + beta · Zᵀ`, where K_batch are the batch's columns; Gᵀ is
    /// c x batch, Zᵀ c x rows. Returns Gᵀ1, c values. Cost: 2 · rows · batch · c flop. With
    /// `beta` = 0, Z is not read.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product<'s>(
        &self,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        mut z: MatMut,
        scratch: &'s mut Scratch,
    ) -> &'s [f64] {
        let (rows, outputs) = (self.rows(), z.rows());
        let Scratch {
            gemm,
            gathered,
            parts,
            of_blocks,
            sums,
        } = scratch;
        let parts = match batch {
            Batch::All => &self.column_parts,
            Batch::Rows(batch) => {
                parts.clear();
                parts.extend(batch.iter().map(|&i| self.column_parts[i as usize]));
                parts
            }
        };
        assert_eq!((g.rows(), g.cols()), (outputs, parts.len()), "G's shape");
        // Gᵀ1 and Gᵀv, block by block of samples and then in the blocks' order.
        let isa = Isa::current();
        let blocks = g.cols().div_ceil(columns::WIDTH);
        of_blocks.resize(blocks * 2 * outputs, 0.0);
        let tasks = of_blocks.par_chunks_exact_mut(2 * outputs);
        let tasks = tasks.share(pass(g.as_slice())).enumerate();
        tasks.for_each(|(block, sums)| {
            let first = block * columns::WIDTH;
            let range = first..(first + columns::WIDTH).min(g.cols());
            with_isa!(isa, || {
                let (ones, weighted) = sums.split_at_mut(outputs);
                for (j, (one, weighted)) in ones.iter_mut().zip(weighted).enumerate() {
                    let g = &g.row(j)[range.clone()];
                    (*one, *weighted) = (sum(g), dot_serial(&parts[range.clone()], g));
                }
            });
        });
        sums.clear();
        sums.resize(2 * outputs, 0.0);
        for block in of_blocks.chunks_exact(2 * outputs) {
            let sums = sums.iter_mut().zip(block);
            sums.for_each(|(sum, block)| *sum += block);
        }
        let wide_alpha = f64::from(alpha);
        let begin = |block: &mut Columns| {
            let parts = &self.row_parts[block.range()];
            with_isa!(isa, || {
                for j in 0..outputs {
                    let slope = wide_alpha * sums[j];
                    let shift = wide_alpha * sums[outputs + j];
                    let values = block.row(j).iter_mut().zip(parts);
                    match beta {
                        0.0 => values.for_each(|(z, part)| *z = (slope * part + shift) as f32),
                        _ => values.for_each(|(z, part)| {
                            *z = (beta * f64::from(*z) + (slope * part + shift)) as f32;
                        }),
                    }
                }
            });
        };
        match batch {
            Batch::All => gemm.a_prepacked_t(alpha, g, &self.centred, z, begin),
            Batch::Rows(batch) => {
                let blocks = columns::blocks(z.as_mut_slice(), rows);
                let blocks = blocks.share(Work::bytes(8 * outputs * rows));
                blocks.for_each(|mut block| begin(&mut block));
                gathered.clear();
                for &i in batch {
                    self.centred.push_column(i as usize, gathered);
                }
                let columns = MatRef::new(gathered, batch.len(), rows);
                gemm.a_b(alpha, g, columns, Accum::Add, z);
            }
        }
        &sums[..outputs]
    }
}
