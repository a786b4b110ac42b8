//! [`Problem`] in Gram coordinates: W = Aᵀ Xc. Of X only Kc = Xc Xcᵀ is needed.
//!
//! `logits = Kc A`, `adjoint(G) = G`, `⟨U, V⟩ = Σ A_U ∘ logits(V)`. M acts on coordinates as
//! `D Kc + l2`, so with `S = D½ Kc D½ + l2 = L Lᵀ`
//!
//! ```text
//! M⁻¹ r = β = D½ S⁻¹ D⁻½ r,     logits(β) = Kc β = D⁻¹ (r - l2 β)
//! ```
//!
//! Coordinates are kept centred, which changes no weight, as Xcᵀ 1 = 0. If only some rows are
//! fitted, μ is their mean and only they have coordinates. Without a bias nothing is centred: Xc
//! is X and Kc is K.
//! A solve costs 2n²c flop, and the logits of its result nothing: Newton-CG needs one product
//! with Kc per step, for the norm of the gradient. If l2 is very small compared with S, logits
//! are computed with Kc instead: β is large along directions that Kc maps to 0, and its residual
//! exceeds rounding.
//!
//! Rows that are (nearly) linearly dependent give Kc a null space, in which A = -G/l2 is large:
//! it cancels in Kc A, but not in Aᵀ X, rounded to f32. The weight is that of the coordinates of
//! minimum norm with the same logits.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::design::centered::{Centered, Precision};
use crate::design::dense::Dense;
use crate::design::gram::Progress;
use crate::design::gram_f64::GramF64;
use crate::design::rows::{Batch, Rows};
use crate::error::Result;
use crate::kernels::{Isa, with_isa};
use crate::linalg::cholesky::Factor;
use crate::linalg::gemm::Gemm;
use crate::linalg::mat::{MatRef, try_zeros};
use crate::linalg::vec::{axpby, dot, sum};
use crate::solver::problem::Problem;
use crate::threads::{Share, Work};

/// Smallest curvature, relative to the mean: D must be invertible.
const SMALLEST: f64 = 1e-3;
/// Least curvature, times the mean diagonal of Kc, as a multiple of l2: if all samples have large
/// margins, D⁻¹ (r - l2 β) would be rounding.
const D_FLOOR: f64 = 1e-6;
/// Least l2 of the preconditioner, as a multiple of the rounding in the zero eigenvalues of Kc,
/// whose eigenvectors are no descent directions.
const RIDGE: f64 = 10.0;
/// Least l2, relative to the mean diagonal of S, for which the residual gives the logits of a
/// solution.
const SOLVED: f64 = 1e-9;
/// How much coordinates may cancel, |A| √(tr Kc/n) / |W|, before their norm is minimised, and
/// before products with them are f64.
const CANCELLATION: f64 = 1000.0;

/// Gram coordinates in f64.
#[derive(Debug)]
pub struct GramProblem<'a> {
    x: &'a Rows<'a>,
    gemm: Gemm,
    gram: GramF64,
    deviation: Option<Vec<f64>>,
    /// `None`: all rows are.
    fitted: Option<Fitted>,
    preconditioner: Preconditioner,
    /// Kc + ε of the rows fitted, where coordinates of minimum norm were needed.
    range: Option<Preconditioner>,
    /// One set of logits.
    scratch: Vec<f64>,
}

/// Some of the rows.
#[derive(Debug)]
struct Fitted {
    rows: Vec<u32>,
    /// Their columns of K, n x m, about their mean.
    gram: Vec<f64>,
}

impl Fitted {
    /// Cost: nm flop; Kc is about another mean: only its rows' sums are taken away.
    fn new(rows: Vec<u32>, all: &GramF64) -> Result<Fitted> {
        let n = all.rows;
        let m = rows.len();
        let mut gram = try_zeros(n, m)?;
        let work = Work::bytes(16 * n * m);
        (gram.par_chunks_exact_mut(m))
            .zip(all.values.par_chunks_exact(n))
            .share(work)
            .for_each(|(to, from)| gather(&rows, from, to));
        if !all.centred {
            return Ok(Fitted { rows, gram });
        }
        let mean = |row: &[f64]| row.iter().sum::<f64>() / m as f64;
        let means: Vec<f64> = gram.par_chunks_exact(m).share(work).map(mean).collect();
        let of_columns: Vec<f64> = rows.iter().map(|&row| means[row as usize]).collect();
        let of_all = mean(&of_columns);
        (gram.par_chunks_exact_mut(m))
            .zip(&means)
            .share(work)
            .for_each(|(values, of_row)| {
                let values = values.iter_mut().zip(&of_columns);
                values.for_each(|(value, of_column)| *value -= of_row + of_column - of_all);
            });
        Ok(Fitted { rows, gram })
    }
}

/// The columns of K that belong to the rows fitted, n x m, and m.
fn columns<'a>(all: &'a GramF64, fitted: Option<&'a Fitted>) -> (&'a [f64], usize) {
    match fitted {
        None => (&all.values, all.rows),
        Some(Fitted { rows, gram }) => (gram, rows.len()),
    }
}

/// The values of some rows.
fn gather(rows: &[u32], from: &[f64], to: &mut [f64]) {
    let values = to.iter_mut().zip(rows);
    values.for_each(|(to, &row)| *to = from[row as usize]);
}

/// S⁻¹ for some D and l2.
#[derive(Debug)]
pub(super) struct Preconditioner {
    factor: Factor,
    /// D½.
    sqrt_d: Vec<f64>,
    l2: f64,
    /// S's mean diagonal without it.
    scale: f64,
}

impl Preconditioner {
    pub(super) fn new(n: usize) -> Result<Preconditioner> {
        Ok(Preconditioner {
            factor: Factor::new(n)?,
            sqrt_d: vec![1.0; n],
            l2: 0.0,
            scale: 0.0,
        })
    }

    /// S for these curvatures, its l2 being at least `least` of its mean diagonal; `gram(i)` is
    /// row i of Kc.
    pub(super) fn factor<'a>(
        &mut self,
        gram: impl Fn(usize) -> &'a [f64] + Sync,
        curvatures: impl Iterator<Item = f64> + Clone,
        l2: f64,
        least: f64,
    ) {
        let n = self.sqrt_d.len() as f64;
        let mean = curvatures.clone().sum::<f64>() / n;
        let smallest = (SMALLEST * mean).max(f64::MIN_POSITIVE);
        for (root, curvature) in self.sqrt_d.iter_mut().zip(curvatures) {
            *root = curvature.max(smallest).sqrt();
        }
        let sqrt_d = &self.sqrt_d;
        let diagonal = sqrt_d.iter().enumerate();
        let diagonal = diagonal.map(|(i, root)| gram(i)[i] * root * root);
        self.scale = diagonal.sum::<f64>() / n;
        let ridge = l2.max(least * self.scale);
        let column = |j: usize, to: &mut [f64]| {
            let values = to.iter_mut().zip(&gram(j)[j..]).zip(&sqrt_d[j..]);
            values.for_each(|((to, value), root)| *to = value * root * sqrt_d[j]);
        };
        self.l2 = (self.factor).factor(ridge.max(f64::MIN_POSITIVE), column);
    }

    /// D½.
    pub(super) fn sqrt_d(&self) -> &[f64] {
        &self.sqrt_d
    }

    /// The penalty that S has.
    pub(super) fn l2(&self) -> f64 {
        self.l2
    }

    /// Whether the residual of a solution is precise enough to give its logits.
    fn resolves_logits(&self) -> bool {
        self.l2 >= SOLVED * self.scale
    }

    /// S⁻¹ of each row of n values, in place.
    pub(super) fn solve(&self, rows: &mut [f64]) {
        self.factor.solve(rows);
    }
}

impl<'a> GramProblem<'a> {
    /// Coordinates on the rows of X, whose centred Gram matrix, with features over `deviation`,
    /// is `gram`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if there is none for the preconditioner.
    pub fn new(
        x: &'a Rows<'a>,
        gram: GramF64,
        deviation: Option<&[f64]>,
        gemm: Gemm,
    ) -> Result<Self> {
        let n = x.len();
        assert_eq!(gram.values.len(), n * n, "K's shape");
        Ok(GramProblem {
            x,
            gemm,
            gram,
            deviation: deviation.map(<[f64]>::to_vec),
            fitted: None,
            preconditioner: Preconditioner::new(n)?,
            range: None,
            scratch: Vec::new(),
        })
    }

    /// |A| √(tr Kc/n) / |W|: by how much the rounding of A outweighs that of W.
    fn cancellation(&mut self, a: &[f64]) -> f64 {
        let (norm, of_weight) = (dot(a, a), self.square(a));
        if norm > 0.0 {
            (norm * self.gram.mean_square() / of_weight).sqrt()
        } else {
            0.0
        }
    }

    /// The coordinates of minimum norm with the logits of `a`, to what Kc's rounding allows:
    /// (Kc + ε)⁻¹ Kc A, refined. Cost: n³/3 flop the first time, 10n²c flop.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if there is none for the factor.
    fn minimum_norm(&mut self, a: &[f64]) -> Result<Vec<f64>> {
        let mut of_rows = vec![0.0; a.len() / self.coords() * self.gram.rows];
        self.logits(a, &mut of_rows);
        let mut z = vec![0.0; a.len()];
        self.gather_fitted(&of_rows, &mut z);
        self.with_logits(&z)
    }

    /// The coordinates of minimum norm whose logits of the fitted rows (c x m) are `z`, as far as
    /// Kc reaches them: (Kc + ε)⁻¹ z, refined. Cost: as [`GramProblem::minimum_norm`].
    ///
    /// # Errors
    /// As [`GramProblem::minimum_norm`].
    fn with_logits(&mut self, z: &[f64]) -> Result<Vec<f64>> {
        const REFINEMENTS: usize = 2;
        let (n, m) = (self.gram.rows, self.coords());
        let mut of_rows = vec![0.0; z.len() / m * n];
        if self.range.is_none() {
            let fitted = self.fitted.as_ref();
            let place = |i: usize| fitted.map_or(i, |fitted| fitted.rows[i] as usize);
            let (gram, m) = columns(&self.gram, fitted);
            let row = |i: usize| &gram[place(i) * m..][..m];
            let mut range = Preconditioner::new(m)?;
            let ones = std::iter::repeat_n(1.0, m);
            range.factor(row, ones, 0.0, RIDGE * GramF64::NOISE);
            self.range = Some(range);
        }
        let mut shortest = vec![0.0; z.len()];
        let mut rest = z.to_vec();
        for round in 0..=REFINEMENTS {
            if round > 0 {
                self.logits(&shortest, &mut of_rows);
                self.gather_fitted(&of_rows, &mut rest);
                axpby(1.0, z, -1.0, &mut rest);
            }
            let range = self.range.as_ref().expect("made above");
            range.solve(&mut rest);
            axpby(1.0, &rest, 1.0, &mut shortest);
        }
        self.centre(&mut shortest);
        Ok(shortest)
    }

    /// Coordinates on all rows: 0 on those that are not fitted.
    fn of_all_rows<'c>(&self, a: &'c [f64]) -> Cow<'c, [f64]> {
        let Some(Fitted { rows, .. }) = &self.fitted else {
            return Cow::Borrowed(a);
        };
        let n = self.gram.rows;
        let mut all = vec![0.0; a.len() / rows.len() * n];
        for (a, to) in a.chunks_exact(rows.len()).zip(all.chunks_exact_mut(n)) {
            for (&a, &row) in a.iter().zip(rows) {
                to[row as usize] = a;
            }
        }
        Cow::Owned(all)
    }

    /// Subtracts the mean of each row of coordinates, if rows are centred. The weight does not
    /// change, as Xcᵀ 1 = 0, but a large constant would amplify the rounding in Kc.
    fn centre(&self, a: &mut [f64]) {
        if !self.gram.centred {
            return;
        }
        let (isa, m) = (Isa::current(), self.coords());
        let work = Work::bytes(3 * size_of_val(a));
        a.par_chunks_exact_mut(m).share(work).for_each(|a| {
            with_isa!(isa, || {
                let mean = sum(a) / m as f64;
                a.iter_mut().for_each(|a| *a -= mean);
            });
        });
    }

    /// The logits of the rows that are fitted.
    fn gather_fitted(&self, z: &[f64], to: &mut [f64]) {
        match &self.fitted {
            None => to.copy_from_slice(z),
            Some(Fitted { rows, .. }) => {
                let outputs = z.chunks_exact(self.gram.rows);
                let outputs = outputs.zip(to.chunks_exact_mut(rows.len()));
                outputs.for_each(|(z, to)| gather(rows, z, to));
            }
        }
    }
}

impl Problem for GramProblem<'_> {
    type Real = f64;

    fn rows(&self) -> usize {
        self.x.len()
    }

    fn coords(&self) -> usize {
        columns(&self.gram, self.fitted.as_ref()).1
    }

    fn noise(&self) -> f64 {
        GramF64::NOISE
    }

    fn logits(&mut self, a: &[f64], z: &mut [f64]) {
        let (gram, m) = columns(&self.gram, self.fitted.as_ref());
        GramF64::logits(gram, a, m, z);
    }

    fn adjoint(&mut self, g: &[f64], a: &mut [f64]) {
        let (n, m) = (self.x.len(), self.coords());
        match &self.fitted {
            None => a.copy_from_slice(g),
            Some(fitted) => (a.par_chunks_exact_mut(m))
                .zip(g.par_chunks_exact(n))
                .share(Work::bytes(16 * g.len()))
                .for_each(|(a, g)| gather(&fitted.rows, g, a)),
        }
        self.centre(a);
    }

    fn dot(&self, u: &[f64], _v: &[f64], logits: &[f64]) -> f64 {
        let Some(fitted) = &self.fitted else {
            return dot(u, logits);
        };
        let outputs = u
            .par_chunks_exact(self.coords())
            .zip(logits.par_chunks_exact(self.x.len()))
            .share(Work::bytes(16 * logits.len()));
        let of_outputs = outputs.map(|(u, logits)| -> f64 {
            let values = u.iter().zip(&fitted.rows);
            values.map(|(u, &row)| u * logits[row as usize]).sum()
        });
        of_outputs.collect().iter().sum()
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(u.len() / self.coords() * self.x.len(), 0.0);
        self.logits(u, &mut scratch);
        let square = self.dot(u, u, &scratch);
        self.scratch = scratch;
        square.max(0.0)
    }

    fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()> {
        let n = self.x.len();
        self.fitted = None;
        self.range = None;
        if self.deviation.as_deref() != deviation {
            // One Gram matrix at a time.
            self.gram.values = Vec::new();
            let centred = self.gram.centred;
            self.gram = GramF64::new(self.x, deviation, centred, self.gemm, progress)?;
            self.deviation = deviation.map(<[f64]>::to_vec);
        }
        self.preconditioner = Preconditioner::new(rows.as_ref().map_or(n, Vec::len))?;
        if let Some(rows) = rows {
            self.fitted = Some(Fitted::new(rows, &self.gram)?);
        }
        Ok(())
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        let least = RIDGE * GramF64::NOISE;
        let square = self.gram.mean_square();
        let floor = if square > 0.0 {
            D_FLOOR * l2 / square
        } else {
            0.0
        };
        let fitted = self.fitted.as_ref();
        let place = |i: usize| fitted.map_or(i, |fitted| fitted.rows[i] as usize);
        let (gram, m) = columns(&self.gram, fitted);
        let row = |i: usize| &gram[place(i) * m..][..m];
        let curvatures = (0..m).map(|i| curvatures[place(i)].max(floor));
        self.preconditioner.factor(row, curvatures, l2, least);
    }

    fn solve(&mut self, r: &[f64], a: &mut [f64], logits: &mut [f64]) {
        let (n, m) = (self.x.len(), self.coords());
        let (sqrt_d, l2) = (self.preconditioner.sqrt_d(), self.preconditioner.l2());
        let work = Work::bytes(24 * r.len());
        let outputs = a.par_chunks_exact_mut(m).zip(r.par_chunks_exact(m));
        outputs.share(work).for_each(|(a, r)| {
            let values = a.iter_mut().zip(r).zip(sqrt_d);
            values.for_each(|((a, r), root)| *a = r / root);
        });
        self.preconditioner.solve(a);
        let fitted = self.fitted.as_ref();
        let outputs = a.par_chunks_exact_mut(m).zip(r.par_chunks_exact(m));
        outputs
            .zip(logits.par_chunks_exact_mut(n))
            .share(work)
            .for_each(|((a, r), logits)| {
                let values = a.iter_mut().zip(r).zip(sqrt_d);
                let logit_of = |((a, r), root): ((&mut f64, &f64), &f64)| {
                    *a *= root;
                    (r - l2 * *a) / (root * root)
                };
                let values = values.map(logit_of);
                match fitted {
                    None => logits.iter_mut().zip(values).for_each(|(to, z)| *to = z),
                    Some(fitted) => {
                        let rows = fitted.rows.iter().zip(values);
                        rows.for_each(|(&row, z)| logits[row as usize] = z);
                    }
                }
            });
        self.centre(a);
        if !self.preconditioner.resolves_logits() {
            self.logits(a, logits);
        }
    }

    fn solves_logits(&self) -> bool {
        true
    }

    fn shorten(&mut self, a: &mut [f64], logits: &[f64]) -> Result<bool> {
        let square = self.dot(a, a, logits);
        let cancels = dot(a, a) * self.gram.mean_square() > CANCELLATION.powi(2) * square;
        if cancels {
            let shortest = self.minimum_norm(a)?;
            a.copy_from_slice(&shortest);
        }
        Ok(cancels)
    }

    fn weight(&mut self, a: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>> {
        let mut cancellation = self.cancellation(a);
        let shortest;
        let mut a = a;
        if cancellation > CANCELLATION || cancellation.is_nan() {
            shortest = self.minimum_norm(a)?;
            a = &shortest;
            cancellation = self.cancellation(a);
        }
        let a = &*self.of_all_rows(a);
        let d = design.x().features();
        let of_raw = |at: usize, w: f64| match &self.deviation {
            None => w as f32,
            // Once for the rows that A is of, once for the features that W is of.
            Some(deviation) => (w / deviation[at % d].powi(2)) as f32,
        };
        if exact || cancellation > CANCELLATION || design.is_far() {
            let weight = design.adjoint(a, Precision::Double);
            return Ok(weight
                .iter()
                .enumerate()
                .map(|(at, &w)| of_raw(at, w))
                .collect());
        }
        // Aᵀ Xc = Aᵀ X, as coordinates are centred.
        let narrow: Vec<f32> = a.iter().map(|&a| a as f32).collect();
        let (c, n) = (a.len() / self.gram.rows, self.gram.rows);
        let mut weight = vec![0.0; c * d];
        let a = MatRef::new(&narrow, c, n);
        Dense::new(self.x, self.gemm).adjoint(1.0, a, Batch::All, 0.0, &mut weight);
        if self.deviation.is_some() {
            let values = weight.iter_mut().enumerate();
            values.for_each(|(at, w)| *w = of_raw(at, f64::from(*w)));
        }
        Ok(weight)
    }

    /// W (μ + δ), δ being the mean of the fitted rows of Xc. Cost: where some rows are not fitted,
    /// 2nd flop.
    fn shifts(&self, weight: &[f32], design: &Centered) -> Vec<f64> {
        let mut shifts = design.shifts(weight);
        if let Some(Fitted { rows, .. }) = &self.fitted
            && self.gram.centred
        {
            let share = vec![1.0 / rows.len() as f64; rows.len()];
            let mean = design.adjoint(&self.of_all_rows(&share), Precision::Double);
            let d = mean.len();
            let products = design.x().sum_of_columns(shifts.len(), |columns| {
                let mean = &mean[columns.clone()];
                let of_output = |w: &[f32]| -> f64 {
                    let products = w[columns.clone()].iter().zip(mean);
                    products.map(|(&w, mean)| f64::from(w) * mean).sum()
                };
                weight.chunks_exact(d).map(of_output).collect()
            });
            axpby(1.0, &products, 1.0, &mut shifts);
        }
        shifts
    }

    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)> {
        let n = self.gram.rows;
        let of_rows = design.logits(weight, Precision::Double);
        let mut z = vec![0.0; of_rows.len() / n * self.coords()];
        self.gather_fitted(&of_rows, &mut z);
        // About the mean of the fitted rows.
        self.centre(&mut z);
        let shifts = self.shifts(weight, design);
        Ok((self.with_logits(&z)?, shifts))
    }

    fn adjoint_square(&self, g: &[f64]) -> Option<(f64, f64)> {
        let mut z = vec![0.0; g.len()];
        GramF64::logits(&self.gram.values, g, self.gram.rows, &mut z);
        let (norm, square) = (dot(g, g), dot(g, &z).max(0.0));
        // |Gᵀ(Xc + D)|² with |D| known.
        let unrounded = self.gram.unrounded * norm.sqrt();
        let rounding = GramF64::NOISE * self.gram.mean_square() * norm
            + unrounded * (2.0 * square.sqrt() + unrounded);
        Some((square, rounding))
    }
}
