//! [`Space`] in the weights themselves: W is c x d in f64, products with X are f32.
//!
//! The rows are centred on the fly, `Xc Wᵀ = X Wᵀ - 1 (W μ)ᵀ` and `Gᵀ Xc = Gᵀ X - (Gᵀ1) μᵀ`:
//! X stays where it lies. M is that of the mean curvature h:
//!
//! - d <= n: `M = h Xcᵀ Xc + l2`, d x d, factored; a solve costs 2d²c flop;
//! - d > n, with `S = h Kc + l2` (Woodbury 1950): `M⁻¹ r = (r - h Xcᵀ S⁻¹ Xc r)/l2`, whose
//!   logits are `S⁻¹ Xc r`: two products with X more.

use faer::Accum;
use rayon::prelude::*;

use super::factor::Factor;
use super::gram_matrix::room;
use super::gram_space::Preconditioner;
use super::primal::Blocks;
use super::space::{Space, dot};
use super::{CentredGram, Progress, sum};
use crate::data::samples::{Batch, Rows};
use crate::error::Result;
use crate::gemm::{Gemm, lower_triangle};
use crate::kernels::{Isa, vectorised};
use crate::mat::{MatMut, MatRef};
use crate::model::Model;
use crate::threads::{self, Share, Work};

/// Least l2 of the preconditioner, as a share of its mean diagonal: as much as the rounding of
/// f32 sums may take away.
const RIDGE: f64 = 1e-6;

/// Weights as they are.
#[derive(Debug)]
pub struct PrimalSpace<'a> {
    gemm: Gemm,
    x: Blocks<'a>,
    rows: usize,
    features: usize,
    /// μ, to f32.
    mean: Vec<f32>,
    second_order: SecondOrder,
    /// Room for a weight in f32.
    weight: Vec<f32>,
}

/// What M is made of.
#[derive(Debug)]
enum SecondOrder {
    /// d <= n: the lower triangle of Xcᵀ Xc, column-major, and M's factor.
    Features { moments: Vec<f32>, factor: Factor },
    /// d > n: Kc, S's factor, and h.
    Samples {
        gram: Vec<f64>,
        preconditioner: Preconditioner,
        curvature: f64,
    },
}

impl<'a> PrimalSpace<'a> {
    /// Weights of any number of outputs on X. Cost: X is read once more than once, n²d or nd²
    /// flop, whichever is less.
    ///
    /// # Errors
    /// As [`CentredGram::new`].
    pub fn new(x: &'a Rows<'a>, gemm: Gemm, progress: Progress) -> Result<PrimalSpace<'a>> {
        let (n, d) = (x.len(), x.features());
        let mut blocks = Blocks::new(x);
        let mut mean = vec![0.0; d];
        let ones = vec![1.0; n];
        let ones = MatRef::new(&ones, 1, n);
        blocks.pullback(gemm, 1.0 / n as f32, ones, Batch::All, 0.0, &mut mean);
        let second_order = match d <= n {
            true => SecondOrder::Features {
                // The larger one first, in case that memory does not hold it.
                factor: Factor::new(d)?,
                moments: moments(&mut blocks, &mean, n, progress)?,
            },
            false => SecondOrder::Samples {
                gram: CentredGram::new(x, gemm, progress)?.values,
                preconditioner: Preconditioner::new(n)?,
                curvature: 0.0,
            },
        };
        Ok(PrimalSpace {
            gemm,
            x: blocks,
            rows: n,
            features: d,
            mean,
            second_order,
            weight: Vec::new(),
        })
    }
}

/// The lower triangle of `Xᵀ X - n μ μᵀ`, column-major. Cost: nd² flop.
fn moments(x: &mut Blocks, mean: &[f32], n: usize, progress: Progress) -> Result<Vec<f32>> {
    /// Rows at a time: enough for the product's speed, few enough to be broken off soon.
    const ROWS: usize = 1024;
    let d = mean.len();
    let mut moments = room::<f32>(d, d)?;
    let (mut rows, mut going_on) = (0, Ok(()));
    x.each(Batch::All, |_, x| {
        for first in (0..x.rows()).step_by(ROWS) {
            if going_on.is_err() {
                return;
            }
            let x = x.rows_range(first..(first + ROWS).min(x.rows()));
            let block = faer::MatRef::from_row_major_slice(x.as_slice(), x.rows(), d);
            let moments = faer::MatMut::from_column_major_slice_mut(&mut moments, d, d);
            let par = threads::par(Work::flop(x.rows() * d * d));
            lower_triangle(Accum::Add, block.transpose(), moments, par);
            rows += x.rows();
            // As if they were columns, as elsewhere.
            going_on = progress(rows * d / n);
        }
    });
    going_on?;
    for (j, column) in moments.chunks_exact_mut(d).enumerate() {
        for (i, value) in column.iter_mut().enumerate().skip(j) {
            let of_mean = n as f64 * f64::from(mean[i]) * f64::from(mean[j]);
            *value = (f64::from(*value) - of_mean) as f32;
        }
    }
    Ok(moments)
}

impl Space for PrimalSpace<'_> {
    type Real = f32;

    fn rows(&self) -> usize {
        self.rows
    }

    fn width(&self) -> usize {
        self.features
    }

    fn noise(&self) -> f64 {
        1e-6
    }

    /// The digits of W that f32 does not hold are multiplied too: without them gradients would
    /// not fall below their share, which is more than a weak penalty leaves. Cost: 4ncd flop.
    fn logits(&mut self, w: &[f64], z: &mut [f32]) {
        self.logits_of_direction(w, z);
        let rest: Vec<f64> = w.iter().map(|&w| w - f64::from(w as f32)).collect();
        let mut z_of_rest = vec![0.0; z.len()];
        self.logits_of_direction(&rest, &mut z_of_rest);
        super::axpby_real(1.0, &z_of_rest, 1.0, z);
    }

    fn logits_of_direction(&mut self, w: &[f64], z: &mut [f32]) {
        let (n, d) = (self.rows, self.features);
        let c = w.len() / d;
        self.weight.clear();
        self.weight.extend(w.iter().map(|&w| w as f32));
        let rows = self.weight.chunks_exact(d);
        let shifts: Vec<f32> = rows.map(|w| -dot(w, &self.mean) as f32).collect();
        let weight = MatRef::new(&self.weight, c, d);
        let z = MatMut::new(z, c, n);
        self.x.margins(self.gemm, weight, &shifts, Batch::All, z);
    }

    fn pullback(&mut self, g: &[f32], w: &mut [f64]) {
        let (n, d) = (self.rows, self.features);
        let c = g.len() / n;
        self.weight.resize(c * d, 0.0);
        let g = MatRef::new(g, c, n);
        (self.x).pullback(self.gemm, 1.0, g, Batch::All, 0.0, &mut self.weight);
        let rows = w
            .par_chunks_exact_mut(d)
            .zip(self.weight.par_chunks_exact(d));
        let isa = Isa::current();
        // G is summed and W written.
        let work = Work::bytes(size_of_val(g.as_slice()) + 3 * c * d * 8);
        let rows = rows.share(work);
        rows.enumerate().for_each(|(j, (w, from))| {
            vectorised!(isa, || {
                let of_mean = sum(g.row(j));
                let values = w.iter_mut().zip(from).zip(&self.mean);
                values.for_each(|((w, &from), &mean)| {
                    *w = f64::from(from) - of_mean * f64::from(mean);
                });
            });
        });
    }

    fn dot(&self, u: &[f64], v: &[f64], _logits: &[f32]) -> f64 {
        dot(u, v)
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        dot(u, u)
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        let d = self.features;
        let h = (curvatures.iter().sum::<f64>() / self.rows as f64).max(f64::MIN_POSITIVE);
        match &mut self.second_order {
            SecondOrder::Features { moments, factor } => {
                let trace: f64 = (0..d).map(|i| f64::from(moments[i * d + i])).sum();
                let ridge = l2.max(RIDGE * h * trace / d as f64);
                factor.factor(ridge.max(f64::MIN_POSITIVE), |j, to| {
                    let values = to.iter_mut().zip(&moments[j * d..][j..d]);
                    values.for_each(|(to, &value)| *to = h * f64::from(value));
                });
            }
            SecondOrder::Samples {
                gram,
                preconditioner,
                curvature,
            } => {
                *curvature = h;
                let (n, h) = (self.rows, std::iter::repeat_n(h, self.rows));
                preconditioner.factor(|i| &gram[i * n..][..n], h, l2, 10.0 * RIDGE);
            }
        }
    }

    fn solve(&mut self, r: &[f64], w: &mut [f64], logits: &mut [f32]) {
        if let SecondOrder::Features { factor, .. } = &self.second_order {
            w.copy_from_slice(r);
            factor.solve(w);
            return;
        }
        self.logits_of_direction(r, logits);
        let SecondOrder::Samples {
            preconditioner,
            curvature,
            ..
        } = &self.second_order
        else {
            return;
        };
        let (h, l2) = (*curvature, preconditioner.l2());
        let mut of_samples: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        preconditioner.solve(&mut of_samples);
        for (z, &value) in logits.iter_mut().zip(&of_samples) {
            *z = value as f32;
        }
        self.pullback(logits, w);
        super::axpby_real(1.0 / l2, r, -h / l2, w);
    }

    fn solves_logits(&self) -> bool {
        matches!(self.second_order, SecondOrder::Samples { .. })
    }

    fn model(&mut self, w: &[f64], bias: &[f64]) -> Model {
        let rows = w.chunks_exact(self.features).zip(bias);
        let bias = rows.map(|(w, bias)| (bias - dot(w, &self.mean)) as f32);
        let bias = bias.collect();
        let weight = w.iter().map(|&w| w as f32).collect();
        Model::new(weight, bias).expect("the shape of the data")
    }
}
