//! The penalties of a path.

use super::options::{Penalty, descending, l2_of_c};
use super::path_solver::PathSolver;
use crate::error::{Error, Result};
use crate::linalg::power_iteration::largest_eigenvalue_of_part;
use crate::linalg::vec::Real;
use crate::loss::Loss;
use crate::solver::problem::Problem;

/// Number of penalties of [`Penalty::Auto`].
pub(super) const AUTO_COUNT: usize = 20;

/// Ratio of the weakest of them to the strongest.
pub(super) const AUTO_RANGE: f64 = 1e-6;

impl<S: Problem> PathSolver<'_, '_, S> {
    /// The penalties of a fit on all rows, the strongest first.
    pub(super) fn penalties(&mut self) -> Result<Vec<f64>> {
        let total = self.weights.rows.iter().sum();
        Ok(match &self.options.penalty {
            Penalty::C(c) => l2_of_c(&[*c], total)?,
            Penalty::Cs(cs) => l2_of_c(cs, total)?,
            Penalty::Value(l2) => vec![*l2],
            Penalty::List(values) => descending(values.clone()),
            Penalty::Path { from, to, count } => geometric(from.max(*to), from.min(*to), *count),
            Penalty::Auto => {
                let strongest = self.strongest();
                if !(strongest.is_finite() && strongest > 0.0) {
                    let found = "auto, and all features are constant (or their products overflow)";
                    return Err(Error::options("`l2`", found, "`l2` VALUE or `penalties`"));
                }
                geometric(strongest, AUTO_RANGE * strongest, AUTO_COUNT)
            }
        })
    }

    /// The strongest penalty of [`Penalty::Auto`]: h λmax(D½ Xc Xcᵀ D½), where h is the second
    /// derivative of the loss in one logit at W = 0, D the diagonal of the rows' shares of the total
    /// weight, and Xc is X centred by these shares (X itself if there is no bias). Cost: 8 to 50
    /// products with X or K.
    pub(super) fn strongest(&mut self) -> f64 {
        let x = self.design.x();
        let n = x.len();
        let classes = self.splits.train.classes() as f64;
        let h = match Loss::for_classes(self.splits.train.classes()) {
            Loss::Softmax => (1.0 - 1.0 / classes) / classes,
            Loss::Logistic => 0.25,
        };
        let total: f64 = self.weights.rows.iter().sum();
        let own = x.row_shard().map_or(0..n, |shard| shard.range());
        let shares: Vec<f64> = (self.weights.rows[own.clone()].iter())
            .map(|w| w / total)
            .collect();
        let sum_of_rows = |value: &dyn Fn(usize) -> f64| -> f64 {
            x.sum_of_rows(1, |rows| vec![rows.map(value).sum()])[0]
        };
        let inner = |a: &[f64], b: &[f64]| sum_of_rows(&|i| a[i] * b[i]);
        let centred = self.options.fit_intercept;
        let mut w = vec![0.0; self.problem.coords()];
        let (mut g, mut z) = (vec![S::Real::default(); n], vec![S::Real::default(); n]);
        let largest = largest_eigenvalue_of_part(own, x.all_len(), inner, |v, out| {
            let rooted = |i: usize| f64::from(v[i]) * shares[i].sqrt();
            let sum = if centred { sum_of_rows(&rooted) } else { 0.0 };
            for (i, (g, share)) in g.iter_mut().zip(&shares).enumerate() {
                *g = S::Real::of(rooted(i) - share * sum);
            }
            self.problem.adjoint(&g, &mut w);
            self.problem.logits_of_direction(&w, &mut z);
            let mean = |i: usize| z[i].into() * shares[i];
            let mean = if centred { sum_of_rows(&mean) } else { 0.0 };
            for ((out, &z), share) in out.iter_mut().zip(&z).zip(&shares) {
                *out = ((z.into() - mean) * share.sqrt()) as f32;
            }
        });
        h * largest
    }
}

/// `count` values, geometrically spaced from `from` to `to`.
pub(super) fn geometric(from: f64, to: f64, count: usize) -> Vec<f64> {
    let last = (count - 1) as f64;
    let value = |i: usize| (from.ln() + (to.ln() - from.ln()) * i as f64 / last).exp();
    let mut values: Vec<f64> = (0..count).map(value).collect();
    (values[0], values[count - 1]) = (from, to);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(super) fn paths_are_geometric_and_include_both_ends() {
        let path = geometric(10.0, 0.001, 5);
        assert_eq!((path[0], path[4]), (10.0, 0.001));
        assert!((path[2] - 0.1).abs() < 1e-15);
    }
}
