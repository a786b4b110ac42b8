//! [`Space`] in Gram coordinates: W = Aᵀ Xc, and all that is needed of X is Kc = Xc Xcᵀ.
//!
//! `logits = Kc A`, `pullback(G) = G`, `⟨U, V⟩ = Σ A_U ∘ logits(V)`. M acts on coordinates as
//! `D Kc + l2`, so with `S = D½ Kc D½ + l2 = L Lᵀ`
//!
//! ```text
//! M⁻¹ r = β = D½ S⁻¹ D⁻½ r,     logits(β) = Kc β = D⁻¹ (r - l2 β)
//! ```
//!
//! Coordinates are kept centred, which changes no weight, as Xcᵀ 1 = 0.
//! A solve costs 2n²c flop, and the logits of its result nothing: Newton's method runs
//! without any product with Kc but one a step, for exactness.

use faer::linalg::matmul::matmul;
use faer::{Accum, Par};
use rayon::prelude::*;

use super::factor::Factor;
use super::space::{Space, dot};
use super::{CentredGram, Primal, sum};
use crate::data::samples::Rows;
use crate::error::Result;
use crate::gemm::Gemm;
use crate::kernels::Isa;
use crate::model::Model;

/// Curvatures below this share of their mean are raised to it: D must be inverted.
const SMALLEST: f64 = 1e-3;
/// Least l2 of the preconditioner, as a multiple of what rounding made of Kc's zero eigenvalues:
/// what lies along those must not be taken for a direction of descent.
const RIDGE: f64 = 10.0;

/// Gram coordinates in f64.
#[derive(Debug)]
pub struct GramSpace<'a> {
    x: &'a Rows<'a>,
    gemm: Gemm,
    gram: CentredGram,
    preconditioner: Preconditioner,
    /// Room for one set of logits.
    room: Vec<f64>,
}

/// S⁻¹ for some D and l2.
#[derive(Debug)]
pub(super) struct Preconditioner {
    factor: Factor,
    /// D½.
    roots: Vec<f64>,
    l2: f64,
}

impl Preconditioner {
    pub(super) fn new(n: usize) -> Result<Preconditioner> {
        Ok(Preconditioner {
            factor: Factor::new(n)?,
            roots: vec![1.0; n],
            l2: 0.0,
        })
    }

    /// S for these curvatures, its l2 being at least `least` of its mean diagonal.
    pub(super) fn factor(&mut self, gram: &[f64], curvatures: &[f64], l2: f64, least: f64) {
        let n = self.roots.len();
        let mean = curvatures.iter().sum::<f64>() / n as f64;
        let smallest = (SMALLEST * mean).max(f64::MIN_POSITIVE);
        for (root, &curvature) in self.roots.iter_mut().zip(curvatures) {
            *root = curvature.max(smallest).sqrt();
        }
        let roots = &self.roots;
        let diagonal = |i: usize| gram[i * n + i] * roots[i] * roots[i];
        let mean_diagonal = (0..n).map(diagonal).sum::<f64>() / n as f64;
        let ridge = l2.max(least * mean_diagonal).max(f64::MIN_POSITIVE);
        let element = |i: usize, j: usize| gram[j * n + i] * roots[i] * roots[j];
        self.l2 = self.factor.factor(ridge, element);
    }

    /// D½.
    pub(super) fn roots(&self) -> &[f64] {
        &self.roots
    }

    /// The penalty that S has.
    pub(super) fn l2(&self) -> f64 {
        self.l2
    }

    /// S⁻¹ of each row of n values, in place.
    pub(super) fn solve(&self, rows: &mut [f64]) {
        self.factor.solve(rows);
    }
}

impl<'a> GramSpace<'a> {
    /// Coordinates on the rows of X, whose centred Gram matrix is `gram`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if there is none for the preconditioner.
    pub fn new(x: &'a Rows<'a>, gram: CentredGram, gemm: Gemm) -> Result<Self> {
        let n = x.len();
        assert_eq!(gram.values.len(), n * n, "K's shape");
        Ok(GramSpace {
            x,
            gemm,
            gram,
            preconditioner: Preconditioner::new(n)?,
            room: Vec::new(),
        })
    }
}

impl Space for GramSpace<'_> {
    type Real = f64;

    fn rows(&self) -> usize {
        self.x.len()
    }

    fn width(&self) -> usize {
        self.x.len()
    }

    fn noise(&self) -> f64 {
        CentredGram::NOISE
    }

    fn logits(&mut self, a: &[f64], z: &mut [f64]) {
        let n = self.x.len();
        let c = a.len() / n;
        matmul(
            faer::MatMut::from_row_major_slice_mut(z, c, n),
            Accum::Replace,
            faer::MatRef::from_row_major_slice(a, c, n),
            faer::MatRef::from_row_major_slice(&self.gram.values, n, n),
            1.0,
            Par::rayon(0),
        );
    }

    fn pullback(&mut self, g: &[f64], a: &mut [f64]) {
        a.copy_from_slice(g);
        centre(a, self.x.len());
    }

    fn dot(&self, u: &[f64], _v: &[f64], logits: &[f64]) -> f64 {
        dot(u, logits)
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        let mut room = std::mem::take(&mut self.room);
        room.resize(u.len(), 0.0);
        self.logits(u, &mut room);
        let square = dot(u, &room);
        self.room = room;
        square.max(0.0)
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        let least = RIDGE * CentredGram::NOISE;
        (self.preconditioner).factor(&self.gram.values, curvatures, l2, least);
    }

    fn solve(&mut self, r: &[f64], a: &mut [f64], logits: &mut [f64]) {
        let n = self.x.len();
        let (roots, l2) = (self.preconditioner.roots(), self.preconditioner.l2());
        let rows = a.par_chunks_exact_mut(n).zip(r.par_chunks_exact(n));
        rows.for_each(|(a, r)| {
            let values = a.iter_mut().zip(r).zip(roots);
            values.for_each(|((a, r), root)| *a = r / root);
        });
        self.preconditioner.solve(a);
        let rows = a.par_chunks_exact_mut(n).zip(r.par_chunks_exact(n));
        rows.zip(logits.par_chunks_exact_mut(n))
            .for_each(|((a, r), logits)| {
                let values = a.iter_mut().zip(r).zip(logits).zip(roots);
                values.for_each(|(((a, r), z), root)| {
                    *a *= root;
                    *z = (r - l2 * *a) / (root * root);
                });
            });
        centre(a, n);
    }

    fn model(&mut self, a: &[f64], bias: &[f64]) -> Model {
        let n = self.x.len();
        // Aᵀ Xc = (A - 1 (1ᵀA)/n)ᵀ X, and b gives μ·W back.
        let mut of_x = Vec::with_capacity(a.len());
        let mut raw_bias = Vec::with_capacity(bias.len());
        for (a, bias) in a.chunks_exact(n).zip(bias) {
            let mean = a.iter().sum::<f64>() / n as f64;
            of_x.extend(a.iter().map(|a| (a - mean) as f32));
            let shift: f64 = (a.iter().zip(&self.gram.column_parts))
                .map(|(a, part)| (a - mean) * part)
                .sum();
            raw_bias.push((bias - shift) as f32);
        }
        Primal::weight_of(self.x, &of_x, raw_bias, self.gemm)
    }
}

/// Take its mean away from each row of n coordinates: Xcᵀ 1 is 0, so the weight stays, but
/// rounding in Kc must not meet a large constant.
fn centre(a: &mut [f64], n: usize) {
    let isa = Isa::current();
    a.par_chunks_exact_mut(n).for_each(|a| {
        isa.vectorised(|| {
            let mean = sum(a) / n as f64;
            a.iter_mut().for_each(|a| *a -= mean);
        });
    });
}
