//! The certificate of a model: objective, gradient and gap of its f32 values on the stored rows.
//!
//! A solve ends in f64 coordinates; the model is rounded from them, and only the f32 model is
//! written. With Z the logits of its weight, G their gradient at the best bias, σ the
//! features' deviations (1 if they are not scaled) and Xc the centred rows over σ, weak duality
//! gives for any W
//!
//! ```text
//! F(W, b) - min F <= F(W, b) - F(W, b*) + |Gᵀ Xc + l2 Wσ|² / (2 l2)
//!                  = F(W, b) - F(W, b*) + (l2/2) |Wσ|² + ⟨G, Z⟩ + |Gᵀ Xc|² / (2 l2)
//! ```
//!
//! (`loss(Z) - ⟨G, Z⟩ - |Gᵀ Xc|²/(2 l2)` is the dual objective at G, which is feasible, as Gᵀ1 = 0 at
//! the best bias.) The second form takes no product with X but that of the logits where Kc is at
//! hand. What rounding may have moved the logits by is added. Without a bias, b and b* are 0, Xc is
//! X, and any G is feasible.
//!
//! Where the scale of a column is large, the rounding of its weight to f32 leaves a gradient that makes
//! this bound useless, though it hardly changes F. The gap is then F less the dual objective at the
//! logits of the solver's own point, which are not rounded ([`Certifier::dual`]).

use std::ops::Range;

use crate::comm;
use crate::design::centered::{Centered, Precision};
use crate::linalg::vec::dot;
use crate::loss::risk::{Eval, Risk};
use crate::solver::bias;

/// The largest share of the allowed gap that Kc's rounding may use.
const OF_GRAM: f64 = 0.05;

/// The largest share of the allowed gap that the bias may leave to gain.
const OF_BIAS: f64 = 0.1;

/// The problem for which models are certified.
pub(crate) struct Certifier<'a> {
    pub design: &'a Centered<'a>,
    /// σ.
    pub deviation: Option<&'a [f64]>,
    pub risk: &'a Risk<'a>,
    pub l2: f64,
    /// The gap that is small enough, as a share of the objective.
    pub tolerance: f64,
}

/// Objective, gradient and gap of a model.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// b, for rows that are not centred: the best one, rounded.
    pub bias: Vec<f32>,
    /// F.
    pub objective: f64,
    /// The data's part of F.
    pub loss: f64,
    /// |∇F|; its part in W at the best bias.
    pub gradient_norm: f64,
    /// F is above its minimum by no more than this, rounding included. `None` without a penalty, or
    /// if the best bias could not be found.
    pub gap: Option<f64>,
    /// What rounding may have changed F by.
    pub rounding: f64,
    /// The smallest margin of a sample with a share, less what rounding may have added.
    pub smallest_margin: f64,
    /// Zᵀ, c x n, the bias included.
    pub logits: Vec<f64>,
}

impl Certifier<'_> {
    /// The certificate of a weight (c x d, of the unscaled features) with its best bias; the search
    /// for it starts at `bias` (of centred rows). `adjoint_square` returns |Gᵀ Xc|² and its
    /// rounding, or `None`. Cost: 2ncd flop for the logits; twice that if it returns `None`.
    pub fn certify(
        &self,
        weight: &[f32],
        bias: &[f64],
        precision: Precision,
        adjoint_square: impl Fn(&[f64]) -> Option<(f64, f64)>,
    ) -> Certificate {
        let n = self.design.x().len();
        let c = bias.len();
        let mut logits = self.design.logits(weight, precision);
        let (mut b, mut at) = (bias.to_vec(), Eval::new(c, n));
        if c > 1 {
            // What all biases have in common changes nothing, but f32 must not hold it.
            let mean = b.iter().sum::<f64>() / c as f64;
            b.iter_mut().for_each(|b| *b -= mean);
        }
        self.risk.evaluate(&logits, &b, &mut at);
        let penalty = 0.5 * self.l2 * self.square(weight);
        // A slope that is left would count times the way to the best bias, however long that is.
        let noise = 1e-16 * (at.loss + penalty);
        let left = bias::minimize(self.risk, &logits, &mut b, &mut at, noise);
        let at_best = at.loss;
        // Gᵀ1 is 0 but for rounding, which large biases would show.
        let infeasible = b.iter().zip(&at.bias).map(|(b, g)| (b * g).abs());
        let infeasible: f64 = infeasible.sum();
        let (of_loss, of_margin) = self.rounding(weight, &at.g, &logits, precision);
        let gap_allowed = self.tolerance * (at_best + penalty);

        let of_gram = if self.l2 > 0.0 {
            adjoint_square(&at.g)
                .filter(|(_, rounding)| *rounding <= OF_GRAM * gap_allowed * 2.0 * self.l2)
        } else {
            None
        };
        let (gradient, gap_of_weight) = match of_gram {
            Some((square, rounding)) => {
                let dual = penalty + self.dot(&at.g, &logits) + square / (2.0 * self.l2);
                let gap = dual.max(0.0) + rounding / (2.0 * self.l2);
                ((2.0 * self.l2 * gap).sqrt(), gap)
            }
            None => {
                // Kc is too coarse for this G, or there is none.
                let adjoint = self.design.adjoint(&at.g, precision);
                let (norm, rounding) = self.gradient(&adjoint, weight, &at.g, precision);
                (norm, (norm + rounding).powi(2) / (2.0 * self.l2))
            }
        };

        let shifts = self.design.shifts(weight);
        let of_rows = b.iter().zip(&shifts);
        let bias: Vec<f32> = of_rows.map(|(b, shift)| (b - shift) as f32).collect();
        let written = bias.iter().zip(&shifts);
        let written: Vec<f64> = written.map(|(&b, shift)| f64::from(b) + shift).collect();
        self.risk.evaluate(&logits, &written, &mut at);
        let excess = (at.loss - at_best).max(0.0);
        let of_shifts: f64 = self
            .rounding_of_shifts(weight)
            .iter()
            .zip(&at.bias)
            .map(|(moved, g)| moved * (g.abs() + moved))
            .sum();
        let of_bias = excess + 2.0 * left.max(0.0) + infeasible + of_shifts;
        let gap = gap_of_weight + of_bias + of_loss;
        let is_settled = left <= OF_BIAS * gap_allowed;
        for (z, b) in logits.chunks_exact_mut(n).zip(&written) {
            z.iter_mut().for_each(|z| *z += b);
        }
        let square_of_bias: f64 = at.bias.iter().map(|g| g * g).sum();
        Certificate {
            bias,
            objective: at.loss + penalty,
            loss: at.loss,
            gradient_norm: (gradient * gradient + square_of_bias).sqrt(),
            // The minimum of F is not below 0.
            gap: (self.l2 > 0.0 && is_settled && gap.is_finite())
                .then_some(gap.min(at.loss + penalty + of_loss + of_shifts)),
            rounding: of_loss + of_shifts,
            smallest_margin: at.smallest_margin - of_margin,
            logits,
        }
    }

    /// A lower bound of min F: the dual objective at the gradient of the loss at `logits` (c x n) with
    /// their best bias, less what rounding may have added. Close to min F for the logits of an optimum.
    /// `None` if the best bias could not be found, without which the dual point is not feasible; the
    /// search for it starts at `bias`. Cost: 2ncd flop in f64, if `adjoint_square` returns `None` or is
    /// too coarse.
    pub fn dual(
        &self,
        logits: &[f64],
        bias: &[f64],
        adjoint_square: impl Fn(&[f64]) -> Option<(f64, f64)>,
    ) -> Option<f64> {
        let n = self.design.x().len();
        let (mut b, mut at) = (bias.to_vec(), Eval::new(bias.len(), n));
        self.risk.evaluate(logits, &b, &mut at);
        let noise = 1e-16 * at.loss;
        let left = bias::minimize(self.risk, logits, &mut b, &mut at, noise);
        let gap_allowed = self.tolerance * at.loss;
        if left.is_nan() || left > OF_BIAS * gap_allowed {
            return None;
        }
        let infeasible: f64 = b.iter().zip(&at.bias).map(|(b, g)| (b * g).abs()).sum();
        let of_gram = adjoint_square(&at.g)
            .filter(|(_, rounding)| *rounding <= OF_GRAM * gap_allowed * 2.0 * self.l2);
        let square = match of_gram {
            Some((square, rounding)) => square + rounding,
            None => {
                let adjoint = self.design.adjoint(&at.g, Precision::Double);
                let no_weight = vec![0.0; adjoint.len()];
                let (norm, rounding) =
                    self.gradient(&adjoint, &no_weight, &at.g, Precision::Double);
                (norm + rounding).powi(2)
            }
        };
        // Sums of this size were rounded.
        let sums = at.loss + self.dot(&at.g, &at.g).sqrt() * self.dot(logits, logits).sqrt();
        let rounding = 8.0 * f64::EPSILON * sums + 2.0 * left.max(0.0) + infeasible;
        let dual = at.loss - self.dot(&at.g, logits) - square / (2.0 * self.l2) - rounding;
        dual.is_finite().then_some(dual)
    }

    /// The inner product of two c x n matrices, over the rows of all ranks.
    fn dot(&self, a: &[f64], b: &[f64]) -> f64 {
        let x = self.design.x();
        let n = x.len();
        if x.row_shard().is_none() {
            return dot(a, b);
        }
        let sums = x.sum_of_rows(1, |rows| {
            let outputs = a.chunks_exact(n).zip(b.chunks_exact(n));
            let products = outputs.map(|(a, b)| dot(&a[rows.clone()], &b[rows.clone()]));
            vec![products.sum()]
        });
        sums[0]
    }

    /// Bound of the rounding in W μ (length c).
    fn rounding_of_shifts(&self, weight: &[f32]) -> Vec<f64> {
        let mean = self.design.mean();
        self.of_outputs(weight, |_, w, columns| {
            let products = w.iter().zip(&mean[columns]);
            let size = products.map(|(&w, &mean)| (f64::from(w) * f64::from(mean)).abs());
            2.0 * f64::EPSILON * size.sum::<f64>()
        })
    }

    /// |Wσ|².
    fn square(&self, weight: &[f32]) -> f64 {
        let squares = self.of_outputs(weight, |_, w, columns| match self.deviation {
            None => dot(w, w),
            Some(deviation) => {
                let values = w.iter().zip(&deviation[columns]);
                values.map(|(&w, s)| (f64::from(w) * s).powi(2)).sum()
            }
        });
        squares.iter().sum()
    }

    /// A sum over columns for each output: `of` gets the output, its part of the weight and the columns.
    fn of_outputs(
        &self,
        weight: &[f32],
        of: impl Fn(usize, &[f32], Range<usize>) -> f64,
    ) -> Vec<f64> {
        let d = self.design.mean().len();
        self.design.x().sum_of_columns(weight.len() / d, |columns| {
            let rows = weight.chunks_exact(d).enumerate();
            rows.map(|(j, w)| of(j, &w[columns.clone()], columns.clone()))
                .collect()
        })
    }

    /// |Gᵀ Xc/σ + l2 Wσ| and a bound of its rounding.
    fn gradient(
        &self,
        adjoint: &[f64],
        weight: &[f32],
        g: &[f64],
        precision: Precision,
    ) -> (f64, f64) {
        let d = self.design.mean().len();
        let n = self.design.x().all_len();
        let sigma = |k: usize| self.deviation.map_or(1.0, |s| s[k]);
        let squares = self.of_outputs(weight, |j, w, columns| {
            let values = adjoint[j * d..][..d][columns.clone()].iter().zip(w);
            let value = |(k, (a, &w)): (usize, (&f64, &f32))| {
                (a / sigma(k) + self.l2 * f64::from(w) * sigma(k)).powi(2)
            };
            columns.zip(values).map(value).sum()
        });
        let square: f64 = squares.iter().sum();
        // Of column k of Gᵀ Xc: u √k |G| times that column's norm.
        let scale = self.design.scale();
        let of_columns = self.design.x().sum_of_columns(1, |columns| {
            let values = columns.map(|k| (scale[k] / sigma(k)).powi(2));
            vec![values.sum()]
        });
        let rounding = precision.rounding() * (self.dot(g, g) * n as f64 * of_columns[0]).sqrt();
        (square.sqrt(), rounding)
    }

    /// Estimates of the rounding in the loss and in a margin. In f32 they are a multiple of the
    /// error of some rows, whose logits are recomputed in f64, because the bound for all rows is
    /// far too large.
    fn rounding(
        &self,
        weight: &[f32],
        g: &[f64],
        logits: &[f64],
        precision: Precision,
    ) -> (f64, f64) {
        /// Rows looked at, and how much worse others may be.
        const ROWS: usize = 16;
        const WORSE: f64 = 8.0;
        let x = self.design.x();
        let (n, all, d) = (x.len(), x.all_len(), x.all_features());
        // With every column brought to a mean square of 1 the bound does not know its units.
        let scale = self.design.scale();
        let norms = match precision {
            Precision::Single => self.design.row_norms(scale),
            // As large as they can be: in f64 that is small enough.
            Precision::Double => vec![(all as f64 * d as f64).sqrt(); n],
        };
        let weights = self.of_outputs(weight, |_, w, columns| {
            let values = w.iter().zip(&scale[columns]);
            values.map(|(&w, s)| (f64::from(w) * s).powi(2)).sum()
        });
        let weights: Vec<f64> = weights.into_iter().map(f64::sqrt).collect();
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let unit = match precision {
            Precision::Double => precision.rounding(),
            Precision::Single => {
                let own = x.row_shard().map_or(0..n, |shard| shard.range());
                let rows = (0..ROWS.min(all)).map(|k| k * all / ROWS.min(all));
                let rows = rows.filter(|row| own.contains(row));
                let rows: Vec<usize> = rows.map(|row| row - own.start).collect();
                let exact = self.design.logits_of_rows(weight, &rows);
                let mut worst = 0.0f64;
                for (&i, exact) in rows.iter().zip(&exact) {
                    for (j, (exact, weight)) in exact.iter().zip(&weights).enumerate() {
                        let size = norms[i] * weight;
                        if size > 0.0 {
                            worst = worst.max((logits[j * n + i] - exact).abs() / size);
                        }
                    }
                }
                if let Some(shard) = x.row_shard() {
                    comm::max(shard.comm, std::slice::from_mut(&mut worst));
                }
                (WORSE * worst).clamp(f64::EPSILON, precision.rounding())
            }
        };
        // What the sums over ranks that share the columns round: of each output and row.
        let of_ranks = self.design.norms_of_ranks(weight);
        let of_sums = |i: usize, j: usize| match &of_ranks {
            None => 0.0,
            Some((weights, rows)) => 0.5 * f64::EPSILON * weights[j] * rows[i],
        };
        let largest_of_sums = |i: usize| {
            let of_outputs = (0..weights.len()).map(|j| of_sums(i, j));
            of_outputs.fold(0.0, f64::max)
        };
        let moved = x.sum_of_rows(2, |rows| {
            let (mut first, mut second) = (0.0, 0.0);
            for (g, weight) in g.chunks_exact(n).zip(&weights) {
                let values = g[rows.clone()].iter().zip(&norms[rows.clone()]);
                let products = values.map(|(g, norm)| g.abs() * norm);
                first += unit * weight * products.sum::<f64>();
            }
            if of_ranks.is_some() {
                for (j, g) in g.chunks_exact(n).enumerate() {
                    let products = rows.clone().map(|i| g[i].abs() * of_sums(i, j));
                    first += products.sum::<f64>();
                }
            }
            for i in rows {
                let most = unit * norms[i] * largest + largest_of_sums(i);
                // The loss's curvature is 1/2 at most.
                second += 0.25 * self.risk.shares()[i] * most * most;
            }
            vec![first, second]
        });
        let of_row = |i: usize| 2.0 * (unit * norms[i] * largest + largest_of_sums(i));
        let mut margin = (0..n).map(of_row).fold(0.0, f64::max);
        if let Some(shard) = x.row_shard() {
            comm::max(shard.comm, std::slice::from_mut(&mut margin));
        }
        (moved[0] + moved[1], margin)
    }
}
