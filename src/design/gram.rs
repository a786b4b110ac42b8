//! The Gram matrix K = X Xᵀ in f32, stored as its centred part and the terms that centring removes.
//!
//! With μ the mean row of X,
//!
//! ```text
//! K = Kc + u 1ᵀ + 1 vᵀ,   Kc_ij = (x_i - μ)·(x_j - μ),   u_i = x_i·μ,   v_j = (x_j - μ)·μ
//! ```
//!
//! The identity holds for any μ: with sample weights μ is the weighted mean, so that a row of
//! weight 0 does not change it. Kc is f32; u and v are f64. If rows are similar (photographs are
//! bright), K is nearly constant, and rounding its entries to f32 loses the differences between
//! rows, an error that a large learning rate amplifies. The entries of Kc are small, and so is their
//! rounding error. `gram_products.rs` computes them.

use rayon::prelude::*;

pub use crate::design::gram_products::Progress;
use crate::design::gram_products::{Products, in_range, pass};
use crate::design::rows::{Batch, Rows};
use crate::error::Result;
use crate::kernels::columns::{self, Columns};
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Accum, Gemm, Prepacked};
use crate::linalg::mat::{MatMut, MatRef, try_zeros};
use crate::linalg::vec::{dot_serial, sum};
use crate::threads::{Share, Work};

/// The inner products of the rows of Y (or of X itself) with the rows of X.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    /// Kc, rows x cols.
    centred: Prepacked,
    /// u: one value per row.
    row_parts: Vec<f64>,
    /// v: one value per column.
    column_parts: Vec<f64>,
    /// Weights of X's rows in μ; `None` if all are equal.
    weights: Option<Vec<f64>>,
}

/// Scratch space of [`GramMatrix::product`], kept between calls.
#[derive(Debug)]
pub struct Scratch {
    gemm: Gemm,
    /// The mini-batch's columns of Kc, and its values of v.
    gathered: Vec<f32>,
    parts: Vec<f64>,
    /// Gᵀ1 and Gᵀv of each block of samples.
    of_blocks: Vec<f64>,
    /// Gᵀ1 of the last product.
    sums: Vec<f64>,
}

impl Scratch {
    /// Empty; the first product allocates.
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
    /// K = X Xᵀ, n x n: one triangle is computed and mirrored. Cost: n²d flop; 12n² bytes, of which
    /// 4n² remain. `progress` is called with the number of finished columns of X.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if a feature is not finite;
    /// [`Error::Options`](crate::Error::Options) if Kc exceeds the range of f32, and
    /// [`Error::Memory`](crate::Error::Memory) if it cannot be allocated, both of which suggest the
    /// primal engine; the errors of `progress`.
    pub fn new(x: &Rows, gemm: Gemm, progress: Progress) -> Result<GramMatrix> {
        Self::weighted(x, None, gemm, progress)
    }

    /// [`GramMatrix::new`] centred by the weighted mean, with one weight per row: the same K, with
    /// less rounding error for rows of large weight.
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

    /// Y Xᵀ for other rows Y, m x n, centred by the mean of X; `k` is X Xᵀ. Cost: 2mnd flop; 12mn
    /// bytes, of which 4mn remain.
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
            sums: x.agree(try_zeros(rows, x.len()))?,
            values: x.agree(try_zeros(rows, x.len()))?,
        };
        let is_exact = gemm.has_bytes() && products.try_multiply_bytes(progress)?;
        let (row_parts, column_parts) = if is_exact {
            products.center(y.map(|(_, k)| &k.column_parts[..]))
        } else {
            products.multiply_floats(progress)?
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

    /// K + 1 1ᵀ: the Gram matrix of rows with an additional feature of value 1.
    pub fn with_ones(mut self) -> GramMatrix {
        self.row_parts.iter_mut().for_each(|part| *part += 1.0);
        self
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_parts.len()
    }

    /// Number of columns: that of the rows of X.
    pub fn cols(&self) -> usize {
        self.column_parts.len()
    }

    /// `Zᵀ = alpha · Gᵀ K_batchᵀ + beta · Zᵀ`, where K_batch is the batch's columns of K; Gᵀ is
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
        // Gᵀ1 and Gᵀv of each block of samples, then their sums in the order of the blocks.
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
