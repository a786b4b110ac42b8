//! [`GramParameters`]: the weight in Gram coordinates, with the same trajectory but no access to X.
//!
//! Every gradient in W is Gᵀ X, so every iterate from W0 has the form
//!
//! ```text
//! W = s·W0 + Aᵀ X,   Z = s·Z0 + K A + 1 bᵀ,   K = X Xᵀ,   Z0 = X W0ᵀ
//! ```
//!
//! and a step changes only A, s, b and Z; Aᵀ, Zᵀ and Gᵀ are c x n. Set-up costs n²d + 2ndc flop, an
//! epoch 2n²c, the model 2ndc; K takes 4n² bytes, and 12n² while it is computed. m validation rows
//! add 2mnd + 2mdc flop, and 2mnc per epoch.
//!
//! A point carries its logits Z: a step adds (K + 1 1ᵀ) G to them, G to A and 1ᵀG to b. Recomputing
//! K A would cost as much and be less exact: its rounding error grows with A, that of the step
//! shrinks with the gradient (measured on Flowers102, lr 0.01, against f64: losses within 2e-8
//! instead of 6e-7).

use crate::design::gram::{GramMatrix, Scratch};
use crate::design::rows::{Batch, Rows};
use crate::io::checkpoint::StateDict;
use crate::kernels::{Isa, columns, with_isa};
use crate::linalg::gemm::{Accum, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec;
use crate::model::Model;
use crate::sgd::dense::DenseParameters;
use crate::sgd::parameters::{Coordinates, Parameters};
use crate::threads::{Share, Work};

/// The Gram engine.
#[derive(Debug)]
pub struct GramParameters<'a> {
    /// X and W0, for set-up and the model.
    primal: DenseParameters<'a>,
    /// K + 1 1ᵀ: the bias is the weight of a feature with value 1. Without an intercept K.
    k: GramMatrix,
    fit_intercept: bool,
    /// Z0ᵀ = W0 Xᵀ, c x n.
    z0: Vec<f32>,
    /// X_val Xᵀ, and W0 X_valᵀ.
    validation: Option<(GramMatrix, Vec<f32>)>,
    scratch: Scratch,
}

/// Aᵀ (c x n, row-major), s and b: the weight s·W0 + Aᵀ X and the bias, or a direction.
#[derive(Clone, Debug)]
pub struct GramPoint {
    a: Vec<f32>,
    s: f64,
    bias: Vec<f32>,
    /// Zᵀ, c x n: the logits of all rows.
    z: Vec<f32>,
}

impl<'a> GramParameters<'a> {
    /// Parameters on the rows `x`, whose Gram matrix is `k`, starting at `start`, whose shape must
    /// match them. `validation` has rows and their inner products with `x`.
    ///
    /// # Panics
    /// If the shape of a Gram matrix does not match the rows.
    pub fn new(
        x: &'a Rows<'a>,
        k: GramMatrix,
        validation: Option<(&'a Rows<'a>, GramMatrix)>,
        start: Model,
        fit_intercept: bool,
        gemm: Gemm,
    ) -> Self {
        assert_eq!((k.rows(), k.cols()), (x.len(), x.len()), "K's shape");
        let (rows, k_validation) = validation.unzip();
        let mut primal = DenseParameters::new(x, rows, start, fit_intercept, gemm);
        let (z0, validation_z0) = primal.start_logits();
        let validation = k_validation.zip(validation_z0);
        if let Some((k, z0)) = &validation {
            let rows = z0.len() / primal.outputs();
            assert_eq!((k.rows(), k.cols()), (rows, x.len()), "K_val's shape");
        }
        GramParameters {
            primal,
            k: if fit_intercept { k.with_ones() } else { k },
            fit_intercept,
            z0,
            validation,
            scratch: Scratch::new(gemm),
        }
    }
}

impl Parameters for GramParameters<'_> {
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
        let bias = self.primal.start_model().bias().to_vec();
        let mut z = self.z0.clone();
        for (row, bias) in z.chunks_exact_mut(self.k.rows()).zip(&bias) {
            row.iter_mut().for_each(|z| *z += bias);
        }
        GramPoint {
            s: 1.0,
            bias,
            z,
            ..self.zero()
        }
    }

    /// Returns the logits that the point carries.
    fn logits<'a>(
        &mut self,
        at: &'a GramPoint,
        batch: Batch,
        scratch: &'a mut Vec<f32>,
    ) -> MatRef<'a> {
        let (c, n) = (self.outputs(), self.k.rows());
        let Batch::Rows(batch) = batch else {
            return MatRef::new(&at.z, c, n);
        };
        scratch.clear();
        for z in at.z.chunks_exact(n) {
            scratch.extend(batch.iter().map(|&i| z[i as usize]));
        }
        MatRef::new(scratch, c, batch.len())
    }

    /// `s·Z0 + K_val A + 1 bᵀ`. Cost: 2mnc flop.
    fn validation_logits(&mut self, at: &GramPoint, mut z: MatMut) {
        let (k, z0) = self.validation.as_ref().expect("validation rows");
        let rows = k.rows();
        let outputs = (z.as_mut_slice().chunks_exact_mut(rows)).zip(z0.chunks_exact(rows));
        for ((z, z0), &b) in outputs.zip(&at.bias) {
            for (z, &z0) in z.iter_mut().zip(z0) {
                *z = (at.s * f64::from(z0) + f64::from(b)) as f32;
            }
        }
        let a = MatRef::new(&at.a, at.bias.len(), k.cols());
        k.product(1.0, a, Batch::All, 1.0, z, &mut self.scratch);
    }

    fn adjoint(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut GramPoint) {
        let n = self.k.rows();
        let alpha_f32 = alpha as f32;
        let alpha = f64::from(alpha_f32);
        match batch {
            Batch::All => {
                let isa = Isa::current();
                let work = Work::bytes(3 * size_of_val(g.as_slice()));
                let blocks = columns::blocks(&mut out.a, n).share(work);
                blocks.for_each(|mut block| {
                    let range = block.range();
                    with_isa!(isa, || {
                        for j in 0..g.rows() {
                            let g = &g.row(j)[range.clone()];
                            vec::axpby_serial(alpha, g, beta, block.row(j));
                        }
                    });
                });
            }
            Batch::Rows(batch) => {
                if vec::scale(beta, &mut out.a) == Accum::Replace {
                    out.a.fill(0.0);
                }
                let outputs = (out.a.chunks_exact_mut(n)).zip(g.as_slice().chunks_exact(g.cols()));
                for (a, g) in outputs {
                    for (&g, &i) in g.iter().zip(batch) {
                        let a = &mut a[i as usize];
                        *a = (alpha * f64::from(g) + f64::from(*a)) as f32;
                    }
                }
            }
        }
        let z = MatMut::new(&mut out.z, g.rows(), n);
        let sums = (self.k).product(alpha_f32, g, batch, beta, z, &mut self.scratch);
        if self.fit_intercept {
            vec::axpby_serial(alpha, sums, beta, &mut out.bias);
        }
        out.s *= beta;
    }

    fn axpby(&mut self, alpha: f64, x: &GramPoint, beta: f64, y: &mut GramPoint) {
        vec::axpby(alpha, &x.a, beta, &mut y.a);
        vec::axpby(alpha, &x.bias, beta, &mut y.bias);
        vec::axpby(alpha, &x.z, beta, &mut y.z);
        y.s = alpha * x.s + beta * y.s;
    }

    /// Cost: 2n² flop.
    fn gram_product(&mut self, v: &[f32], out: &mut [f32]) {
        let n = v.len();
        let (v, z) = (MatRef::new(v, 1, n), MatMut::new(out, 1, n));
        let scratch = &mut self.scratch;
        (self.k).product(1.0, v, Batch::All, 0.0, z, scratch);
    }

    fn coordinates(at: &GramPoint) -> Option<Coordinates<'_>> {
        Some(Coordinates {
            s: at.s as f32,
            bias: &at.bias,
            a: &at.a,
        })
    }

    fn fields<'a>(at: &'a mut GramPoint, fields: &mut StateDict<'a>) {
        fields.f32("a", &mut at.a);
        fields.f64("s", std::slice::from_mut(&mut at.s));
        fields.f32("bias", &mut at.bias);
        fields.f32("z", &mut at.z);
    }

    fn into_model(self, at: GramPoint) -> Model {
        let coordinates = Self::coordinates(&at).expect("this engine has them");
        self.primal.combine(coordinates)
    }
}
