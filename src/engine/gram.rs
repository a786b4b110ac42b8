//! Gram coordinates: the same trajectory without X.
//!
//! Every gradient in W is Gᵀ X, so what starts at W0 stays in
//!
//! ```text
//! W = s·W0 + Aᵀ X,   Z = s·Z0 + K A + 1 bᵀ,   K = X Xᵀ,   Z0 = X W0ᵀ
//! ```
//!
//! and a step touches A (n x c), s, b and Z only. Set-up costs n²d + 2ndc flop, an epoch
//! 2n²c, the end 2ndc; K takes 4n² bytes, and 12n² while it is made.
//!
//! A point carries its product s·Z0 + K A and moves it by K G as A moves by G. Multiplying
//! K A out anew would cost as much and be less exact: its rounding grows with A, that of the
//! step shrinks with the gradient (measured at Flowers102, lr 0.01, against f64: losses
//! within 2e-8 instead of 6e-7).

use rayon::prelude::*;

use super::{Engine, Primal};
use crate::data::samples::{Batch, Rows};
use crate::error::{Error, Result};
use crate::gemm::Gemm;
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// Columns of X multiplied at a time: so many products are summed in f32, the rest in f64.
const SLAB: usize = 1024;

/// The Gram engine.
#[derive(Debug)]
pub struct Gram<'a> {
    /// Holds X and W0, for set-up and end.
    primal: Primal<'a>,
    gemm: Gemm,
    k: GramMatrix,
    /// Z0 = X W0ᵀ, n x c.
    z0: Vec<f32>,
    /// Rows of K of a mini-batch.
    k_rows: Vec<f32>,
}

/// A (n x c, row-major), s and b: the weight s·W0 + Aᵀ X and the bias, or a direction.
#[derive(Clone, Debug)]
pub struct GramPoint {
    a: Vec<f32>,
    s: f64,
    bias: Vec<f32>,
    /// s·Z0 + K A, n x c: the logits of all rows before the bias.
    z: Vec<f32>,
}

/// K = X Xᵀ of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    values: Vec<f32>,
    n: usize,
}

impl GramMatrix {
    /// Multiply one triangle out and mirror it. Cost: n²d flop; 12n² bytes, of which 4n² stay.
    ///
    /// Slabs of columns are summed in f64: an f32 sum over all of 49,152 features would put
    /// an error into K that a fit with a daring learning rate amplifies (binary-fast: losses
    /// within 4.2e-5 of f64 instead of 2.5e-5). Rows that are not contiguous are gathered slab by
    /// slab.
    ///
    /// # Errors
    /// [`Error::Options`] naming the primal engine, if K exceeds the range of f32.
    pub fn new(x: &Rows, gemm: Gemm) -> Result<GramMatrix> {
        let (n, d) = (x.len(), x.features());
        let mut sums = vec![0.0f64; n * n];
        let mut values = vec![0.0f32; n * n];
        let mut gathered = Vec::new();
        for first in (0..d).step_by(SLAB) {
            let columns = first..(first + SLAB).min(d);
            let product = MatMut::new(&mut values, n, n);
            match x.contiguous() {
                Some(x) => gemm.gram(x, columns, product),
                None => {
                    gathered.clear();
                    (0..n).for_each(|i| gathered.extend_from_slice(&x.row(i)[columns.clone()]));
                    let slab = MatRef::new(&gathered, n, columns.len());
                    gemm.gram(slab, 0..columns.len(), product);
                }
            }
            let rows = (sums.par_chunks_exact_mut(n)).zip(values.par_chunks_exact(n));
            rows.enumerate().for_each(|(i, (sums, values))| {
                let lower = sums[..=i].iter_mut().zip(&values[..=i]);
                lower.for_each(|(sum, &value)| *sum += f64::from(value));
            });
        }
        let rows = (values.par_chunks_exact_mut(n)).zip(sums.par_chunks_exact(n));
        rows.enumerate().for_each(|(i, (values, sums))| {
            let lower = values[..=i].iter_mut().zip(&sums[..=i]);
            lower.for_each(|(value, &sum)| *value = sum as f32);
        });
        mirror(&mut values, n);
        // |K_ij|² <= K_ii K_jj: the diagonal speaks for all.
        if let Some(i) = (0..n).find(|&i| !values[i * n + i].is_finite()) {
            return Err(Error::options(
                "--engine",
                format!("gram, where |x|² of row {i} is {}", values[i * n + i]),
                "primal, or features so small that K = X Xᵀ is within f32",
            ));
        }
        Ok(GramMatrix { values, n })
    }

    /// K: n x n.
    pub fn values(&self) -> MatRef<'_> {
        MatRef::new(&self.values, self.n, self.n)
    }
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

impl<'a> Gram<'a> {
    /// Train on `x`, whose Gram matrix is `k`, from `start`, whose shape fits them.
    ///
    /// # Panics
    /// If `k` is not of `x`'s number of rows.
    pub fn new(x: &'a Rows<'a>, k: GramMatrix, start: Model, gemm: Gemm) -> Self {
        assert_eq!(k.n, x.len(), "the Gram matrix's rows");
        let outputs = start.bias().len();
        let no_weight = start.weight().as_slice().iter().all(|&w| w == 0.0);
        let mut primal = Primal::new(x, start, gemm);
        let mut z0 = vec![0.0; k.n * outputs];
        if !no_weight {
            primal.start_margins(MatMut::new(&mut z0, k.n, outputs));
        }
        Gram {
            primal,
            gemm,
            k,
            z0,
            k_rows: Vec::new(),
        }
    }
}

impl Engine for Gram<'_> {
    type Point = GramPoint;

    fn name(&self) -> &'static str {
        "gram"
    }

    fn outputs(&self) -> usize {
        self.primal.outputs()
    }

    fn zero(&self) -> GramPoint {
        GramPoint {
            a: vec![0.0; self.k.n * self.outputs()],
            s: 0.0,
            bias: vec![0.0; self.outputs()],
            z: vec![0.0; self.k.n * self.outputs()],
        }
    }

    fn start(&self) -> GramPoint {
        GramPoint {
            s: 1.0,
            bias: self.primal.start_bias().to_vec(),
            z: self.z0.clone(),
            ..self.zero()
        }
    }

    /// Reads what the point carries. Cost: a copy.
    fn margins(&mut self, at: &GramPoint, batch: Batch, mut z: MatMut) {
        let c = self.outputs();
        let fill = |row: &mut [f32], i: usize| {
            let from = at.z[i * c..][..c].iter().zip(&at.bias);
            row.iter_mut()
                .zip(from)
                .for_each(|(z, (&x, &b))| *z = x + b);
        };
        let rows = z.as_mut_slice().chunks_exact_mut(c);
        match batch {
            Batch::All => rows.enumerate().for_each(|(i, row)| fill(row, i)),
            Batch::Rows(batch) => rows.zip(batch).for_each(|(row, &i)| fill(row, i as usize)),
        }
    }

    fn pullback(&mut self, alpha: f32, g: MatRef, batch: Batch, beta: f32, out: &mut GramPoint) {
        let (n, c) = (self.k.n, self.outputs());
        let z = MatMut::new(&mut out.z, n, c);
        match batch {
            Batch::All => {
                super::axpby(alpha, g.as_slice(), beta, &mut out.a);
                self.gemm.a_b(alpha, self.k.values(), g, beta, z);
            }
            Batch::Rows(rows) => {
                match beta {
                    0.0 => out.a.fill(0.0),
                    1.0 => {}
                    _ => out.a.iter_mut().for_each(|a| *a *= beta),
                }
                self.k_rows.clear();
                for (i, &row) in rows.iter().enumerate() {
                    let row = row as usize;
                    super::axpby(alpha, g.row(i), 1.0, &mut out.a[row * c..][..c]);
                    self.k_rows.extend_from_slice(self.k.values().row(row));
                }
                // K is symmetric: its rows of the batch are its columns.
                let k_rows = MatRef::new(&self.k_rows, rows.len(), n);
                self.gemm.at_b(alpha, k_rows, g, beta, z);
            }
        }
        out.s *= f64::from(beta);
        super::add_column_sums(alpha, g, beta, &mut out.bias);
    }

    fn axpby(&mut self, alpha: f32, x: &GramPoint, beta: f32, y: &mut GramPoint) {
        super::axpby(alpha, &x.a, beta, &mut y.a);
        super::axpby(alpha, &x.bias, beta, &mut y.bias);
        super::axpby(alpha, &x.z, beta, &mut y.z);
        y.s = f64::from(alpha) * x.s + f64::from(beta) * y.s;
    }

    fn materialise(&mut self, at: GramPoint) -> Model {
        let a = MatRef::new(&at.a, self.k.n, self.outputs());
        self.primal.combine(at.s as f32, a, at.bias)
    }
}
