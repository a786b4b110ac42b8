//! Gram coordinates: the same trajectory without X.
//!
//! Every gradient in W is Gᵀ X, so what starts at W0 stays in
//!
//! ```text
//! W = s·W0 + Aᵀ X,   Z = s·Z0 + K A + 1 bᵀ,   K = X Xᵀ,   Z0 = X W0ᵀ
//! ```
//!
//! and a step touches A (n x c), s and b only. Set-up costs n²d + 2ndc flop, an epoch
//! 2n²c, the end 2ndc; K takes 4n² bytes.

use super::{Engine, Primal};
use crate::data::samples::{Batch, Rows};
use crate::error::{Error, Result};
use crate::gemm::Gemm;
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// Most bytes of X gathered at a time.
const GATHER_BYTES: usize = 64 << 20;

/// The Gram engine.
#[derive(Debug)]
pub struct Gram<'a> {
    /// Holds X and W0, for set-up and end.
    primal: Primal<'a>,
    gemm: Gemm,
    k: GramMatrix,
    /// Z0 = X W0ᵀ, n x c; empty where W0 = 0.
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
}

/// K = X Xᵀ of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    values: Vec<f32>,
    n: usize,
}

impl GramMatrix {
    /// Multiply one triangle out and mirror it. Cost: n²d flop.
    ///
    /// Rows that are not contiguous are gathered in slabs of columns, so that each value is
    /// copied once and memory stays bounded.
    ///
    /// # Errors
    /// [`Error::Options`] naming the primal engine, if K exceeds the range of f32.
    pub fn new(x: &Rows, gemm: Gemm) -> Result<GramMatrix> {
        let (n, d) = (x.len(), x.features());
        let mut values = vec![0.0; n * n];
        match x.contiguous() {
            Some(x) => gemm.gram(x, 0.0, MatMut::new(&mut values, n, n)),
            None => {
                let width = (GATHER_BYTES / (4 * n)).clamp(1, d);
                let mut slab = Vec::with_capacity(n * width);
                for first in (0..d).step_by(width) {
                    let columns = first..(first + width).min(d);
                    slab.clear();
                    (0..n).for_each(|i| slab.extend_from_slice(&x.row(i)[columns.clone()]));
                    let beta = if first == 0 { 0.0 } else { 1.0 };
                    let slab = MatRef::new(&slab, n, columns.len());
                    gemm.gram(slab, beta, MatMut::new(&mut values, n, n));
                }
            }
        }
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
        let no_weight = start.weight().as_slice().iter().all(|&w| w == 0.0);
        let outputs = start.bias().len();
        let mut primal = Primal::new(x, start, gemm);
        let mut z0 = Vec::new();
        if !no_weight {
            z0.resize(k.n * outputs, 0.0);
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
        }
    }

    fn start(&self) -> GramPoint {
        GramPoint {
            s: 1.0,
            bias: self.primal.start_bias().to_vec(),
            ..self.zero()
        }
    }

    fn margins(&mut self, at: &GramPoint, batch: Batch, mut z: MatMut) {
        let (n, c) = (self.k.n, self.outputs());
        // Z = s·Z0 + 1 bᵀ, then the product on top.
        let s = at.s as f32;
        let fill = |i: usize, row: &mut [f32]| match self.z0.get(i * c..(i + 1) * c) {
            None => row.copy_from_slice(&at.bias),
            Some(z0) => (row.iter_mut().zip(z0).zip(&at.bias))
                .for_each(|((z, &z0), &b)| *z = s.mul_add(z0, b)),
        };
        let rows = z.as_mut_slice().chunks_exact_mut(c);
        let k = match batch {
            Batch::All => {
                rows.enumerate().for_each(|(i, row)| fill(i, row));
                self.k.values()
            }
            Batch::Rows(batch) => {
                self.k_rows.clear();
                for (&i, row) in batch.iter().zip(rows) {
                    fill(i as usize, row);
                    self.k_rows
                        .extend_from_slice(self.k.values().row(i as usize));
                }
                MatRef::new(&self.k_rows, batch.len(), n)
            }
        };
        self.gemm.a_b(1.0, k, MatRef::new(&at.a, n, c), 1.0, z);
    }

    fn pullback(&mut self, alpha: f32, g: MatRef, batch: Batch, beta: f32, out: &mut GramPoint) {
        match batch {
            Batch::All => super::axpby(alpha, g.as_slice(), beta, &mut out.a),
            Batch::Rows(rows) => {
                match beta {
                    0.0 => out.a.fill(0.0),
                    1.0 => {}
                    _ => out.a.iter_mut().for_each(|a| *a *= beta),
                }
                for (i, &row) in rows.iter().enumerate() {
                    let a = &mut out.a[row as usize * g.cols()..][..g.cols()];
                    super::axpby(alpha, g.row(i), 1.0, a);
                }
            }
        }
        out.s *= f64::from(beta);
        super::add_column_sums(alpha, g, beta, &mut out.bias);
    }

    fn axpby(&mut self, alpha: f32, x: &GramPoint, beta: f32, y: &mut GramPoint) {
        super::axpby(alpha, &x.a, beta, &mut y.a);
        super::axpby(alpha, &x.bias, beta, &mut y.bias);
        y.s = f64::from(alpha) * x.s + f64::from(beta) * y.s;
    }

    fn materialise(&mut self, at: GramPoint) -> Model {
        let a = MatRef::new(&at.a, self.k.n, self.outputs());
        self.primal.combine(at.s as f32, a, at.bias)
    }
}
