//! Gram coordinates: the same trajectory without X.
//!
//! Every gradient in W is Gᵀ X, so what starts at W0 stays in
//!
//! ```text
//! W = s·W0 + Aᵀ X,   Z = s·Z0 + K A + 1 bᵀ,   K = X Xᵀ,   Z0 = X W0ᵀ
//! ```
//!
//! and a step touches A (n x c), s, b and Z only. Set-up costs n²d + 2ndc flop, an epoch
//! 2n²c, the end 2ndc; K takes 4n² bytes, and 12n² while it is made. m validation rows add
//! 2mnd + 2mdc and 2mnc an epoch.
//!
//! A point carries its product s·Z0 + K A and moves it by K G as A moves by G. Multiplying
//! K A out anew would cost as much and be less exact: its rounding grows with A, that of the
//! step shrinks with the gradient (measured at Flowers102, lr 0.01, against f64: losses
//! within 2e-8 instead of 6e-7).

use rayon::prelude::*;

use super::{Engine, GramMatrix, Primal, ROWS, Scratch};
use crate::data::samples::{Batch, Rows};
use crate::gemm::{Accum, Gemm};
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// The Gram engine.
#[derive(Debug)]
pub struct Gram<'a> {
    /// Holds X and W0, for set-up and end.
    primal: Primal<'a>,
    k: GramMatrix,
    /// Z0 = X W0ᵀ, n x c.
    z0: Vec<f32>,
    /// X_val Xᵀ and X_val W0ᵀ.
    validation: Option<(GramMatrix, Vec<f32>)>,
    scratch: Scratch,
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

/// The weight s·W0 + Aᵀ X and the bias b.
#[derive(Clone, Copy, Debug)]
pub struct Coordinates<'a> {
    /// s.
    pub s: f32,
    /// b: c values.
    pub bias: &'a [f32],
    /// A: n x c, row-major.
    pub a: &'a [f32],
}

impl<'a> Gram<'a> {
    /// Train on `x`, whose Gram matrix is `k`, from `start`, whose shape fits them. The
    /// validation rows come with their inner products with `x`.
    ///
    /// # Panics
    /// If a Gram matrix does not have the rows' numbers.
    pub fn new(
        x: &'a Rows<'a>,
        k: GramMatrix,
        validation: Option<(&'a Rows<'a>, GramMatrix)>,
        start: Model,
        gemm: Gemm,
    ) -> Self {
        assert_eq!((k.rows(), k.cols()), (x.len(), x.len()), "K's shape");
        let (rows, k_validation) = validation.unzip();
        let mut primal = Primal::new(x, rows, start, gemm);
        let (z0, validation_z0) = primal.start_margins();
        let validation = k_validation.zip(validation_z0);
        if let Some((k, z0)) = &validation {
            let rows = z0.len() / primal.outputs();
            assert_eq!((k.rows(), k.cols()), (rows, x.len()), "K_val's shape");
        }
        Gram {
            primal,
            k,
            z0,
            validation,
            scratch: Scratch::new(gemm),
        }
    }
}

impl Engine for Gram<'_> {
    type Point = GramPoint;

    fn outputs(&self) -> usize {
        self.primal.outputs()
    }

    fn zero(&self) -> GramPoint {
        GramPoint {
            a: vec![0.0; self.z0.len()],
            s: 0.0,
            bias: vec![0.0; self.outputs()],
            z: vec![0.0; self.z0.len()],
        }
    }

    fn start(&self) -> GramPoint {
        GramPoint {
            s: 1.0,
            bias: self.primal.start_model().bias().to_vec(),
            z: self.z0.clone(),
            ..self.zero()
        }
    }

    /// Reads what the point carries. Cost: a copy.
    fn margins(&mut self, at: &GramPoint, batch: Batch, mut z: MatMut) {
        let c = self.outputs();
        let rows = z.as_mut_slice().par_chunks_exact_mut(c).with_min_len(ROWS);
        rows.enumerate().for_each(|(i, row)| {
            let i = match batch {
                Batch::All => i,
                Batch::Rows(batch) => batch[i] as usize,
            };
            let from = at.z[i * c..][..c].iter().zip(&at.bias);
            (row.iter_mut().zip(from)).for_each(|(z, (&x, &b))| *z = x + b);
        });
    }

    /// `s·Z0 + K_val A + 1 bᵀ`. Cost: 2mnc flop.
    fn validation_margins(&mut self, at: &GramPoint, mut z: MatMut) {
        let c = self.outputs();
        let (k, z0) = self.validation.as_ref().expect("validation rows");
        let rows = (z.as_mut_slice().chunks_exact_mut(c)).zip(z0.chunks_exact(c));
        for (z, z0) in rows {
            for ((z, &z0), &b) in z.iter_mut().zip(z0).zip(&at.bias) {
                *z = (at.s * f64::from(z0) + f64::from(b)) as f32;
            }
        }
        let a = MatRef::new(&at.a, k.cols(), c);
        let scratch = &mut self.scratch;
        k.product(1.0, a, Batch::All, Accum::Add, z, scratch);
    }

    fn pullback(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut GramPoint) {
        let (n, c) = (self.k.rows(), self.outputs());
        let alpha_f32 = alpha as f32;
        let alpha = f64::from(alpha_f32);
        match batch {
            Batch::All => super::axpby(alpha, g.as_slice(), beta, &mut out.a),
            Batch::Rows(rows) => {
                if super::scale(beta, &mut out.a) == Accum::Replace {
                    out.a.fill(0.0);
                }
                for (i, &row) in rows.iter().enumerate() {
                    super::axpby(alpha, g.row(i), 1.0, &mut out.a[row as usize * c..][..c]);
                }
            }
        }
        let accum = super::scale(beta, &mut out.z);
        let z = MatMut::new(&mut out.z, n, c);
        let scratch = &mut self.scratch;
        (self.k).product(alpha_f32, g, batch, accum, z, scratch);
        super::move_bias(alpha, &scratch.sums, beta, &mut out.bias);
        out.s *= beta;
    }

    fn axpby(&mut self, alpha: f64, x: &GramPoint, beta: f64, y: &mut GramPoint) {
        super::axpby(alpha, &x.a, beta, &mut y.a);
        super::axpby(alpha, &x.bias, beta, &mut y.bias);
        super::axpby(alpha, &x.z, beta, &mut y.z);
        y.s = alpha * x.s + beta * y.s;
    }

    /// Cost: 2n² flop.
    fn curvature(&mut self, v: &[f32], out: &mut [f32]) {
        let n = v.len();
        let (v, z) = (MatRef::new(v, n, 1), MatMut::new(out, n, 1));
        let scratch = &mut self.scratch;
        (self.k).product(1.0, v, Batch::All, Accum::Replace, z, scratch);
        let sum = scratch.sums[0] as f32;
        out.iter_mut().for_each(|out| *out += sum);
    }

    fn coordinates(at: &GramPoint) -> Option<Coordinates<'_>> {
        Some(Coordinates {
            s: at.s as f32,
            bias: &at.bias,
            a: &at.a,
        })
    }

    fn materialise(self, at: GramPoint) -> Model {
        let coordinates = Self::coordinates(&at).expect("this engine has them");
        self.primal.combine(coordinates)
    }
}
