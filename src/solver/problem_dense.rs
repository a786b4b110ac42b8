//! [`Problem`] in the weights themselves: W is c x d in f64, products with X are f32.
//!
//! The rows are centred on the fly, `Xc Wᵀ = X Wᵀ - 1 (W μ)ᵀ` and `Gᵀ Xc = Gᵀ X - (Gᵀ1) μᵀ`:
//! X is not copied. If means are so large compared with the scales of the features that f32 sums
//! would lose the differences of rows, blocks of rows are centred before the product. Features are
//! scaled by dividing weights by σ. M uses the mean curvature h:
//!
//! - d <= n: `M = h Xcᵀ Xc + l2`, d x d, factored with its diagonal brought to 1, so that the
//!   units of the features do not matter; a solve costs 2d²c flop;
//! - d > n, with `S = h Kc + l2` (Woodbury 1950): `M⁻¹ r = (r - h Xcᵀ S⁻¹ Xc r)/l2`: two products
//!   with X more. (Its logits would be `S⁻¹ Xc r`, but those of the rounded `M⁻¹ r` differ from
//!   them by far more than rounding.)
//!
//! Where the rounding of f32 products ends a small solve, `DenseF64` continues it with products in
//! f64 and the same preconditioner.

use rayon::prelude::*;

use crate::comm::fixed::{Fixed, exponent};
use crate::comm::rows::RowShard;
use crate::design::centered::{Centered, Precision};
use crate::design::dense::Dense;
use crate::design::gram::Progress;
use crate::design::gram_f64::GramF64;
use crate::design::rows::Batch;
use crate::error::Result;
use crate::io::checkpoint::State;
use crate::kernels::{Isa, with_isa};
use crate::linalg::cholesky::Factor;
use crate::linalg::gemm::{Gemm, lower_triangle};
use crate::linalg::mat::{MatMut, MatRef, try_zeros};
use crate::linalg::vec::{axpby, dot, sum};
use crate::loss::risk::Risk;
use crate::solver::minimizer::{Minimizer, Watch};
use crate::solver::newton_cg::NewtonCg;
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::problem_gram::Preconditioner;
use crate::solver::report::{SolveReport, Step, StoppingCriteria};
use crate::threads;
use crate::threads::{Share, Work};
use faer::Accum;

/// Least l2 of the preconditioner, as a share of its diagonal: as much as the rounding of
/// f32 sums may take away.
const RIDGE: f64 = 1e-6;
/// The least pivot of M that is not rounding, as a multiple of RIDGE.
const MIN_PIVOT: f64 = 100.0;

/// The weights themselves, c x d.
#[derive(Debug)]
pub struct DenseProblem<'a> {
    gemm: Gemm,
    x: Dense<'a>,
    /// μ, to f32; what that leaves of it where blocks are centred.
    mean: Vec<f32>,
    /// Features that have one value in all rows: their gradient would be rounding.
    constant: Vec<usize>,
    /// σ, where features are scaled.
    deviation: Option<Vec<f64>>,
    second_order: SecondOrder,
    /// A weight in f32.
    weight: Vec<f32>,
}

/// What M is made of.
#[derive(Debug)]
enum SecondOrder {
    /// d <= n: the lower triangle of Xcᵀ Xc (of the features as they are), column-major, what
    /// brings M's diagonal to 1, and the factor.
    Features {
        moments: Vec<f32>,
        scale: Vec<f64>,
        factor: Factor,
    },
    /// d > n: Kc, S's factor, and h.
    Samples {
        gram: GramF64,
        preconditioner: Preconditioner,
        curvature: f64,
    },
}

impl<'a> DenseProblem<'a> {
    /// Weights of any number of outputs on X, with features over `deviation`. Cost: X is read
    /// once more than once, n²d or nd² flop, whichever is less.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if a feature is no finite number;
    /// [`Error::Memory`](crate::Error::Memory); those of `progress`.
    pub fn new(
        design: &Centered<'a>,
        deviation: Option<&[f64]>,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<DenseProblem<'a>> {
        let rows = design.x();
        let (n, d) = (rows.all_len(), rows.features());
        let (mut x, mean) = if design.is_far() {
            let x = Dense::centered(rows, design.mean(), gemm);
            (x, design.rest().to_vec())
        } else {
            (Dense::new(rows, gemm), design.mean().to_vec())
        };
        let second_order = if d <= n {
            SecondOrder::Features {
                // The larger one first, in case that memory does not hold it.
                factor: Factor::new(d)?,
                scale: vec![1.0; d],
                moments: moments(&mut x, &mean, progress)?,
            }
        } else {
            SecondOrder::Samples {
                gram: GramF64::new(rows, deviation, design.is_centered(), gemm, progress)?,
                preconditioner: Preconditioner::new(n)?,
                curvature: 0.0,
            }
        };
        Ok(DenseProblem {
            gemm,
            x,
            mean,
            constant: (0..d).filter(|&k| design.scale()[k] == 0.0).collect(),
            deviation: deviation.map(<[f64]>::to_vec),
            second_order,
            weight: Vec::new(),
        })
    }

    /// Writes W of the unscaled features, rounded to f32, to `weight`.
    fn load(&mut self, w: &[f64]) {
        self.weight.clear();
        match &self.deviation {
            None => self.weight.extend(w.iter().map(|&w| w as f32)),
            Some(deviation) => {
                for w in w.chunks_exact(deviation.len()) {
                    let values = w.iter().zip(deviation);
                    self.weight.extend(values.map(|(w, s)| (w / s) as f32));
                }
            }
        }
    }

    /// Divides the d values of one output by σ, if features are scaled.
    #[inline(always)]
    fn divide_by_deviation(&self, w: &mut [f64]) {
        if let Some(deviation) = &self.deviation {
            for (w, deviation) in w.iter_mut().zip(deviation) {
                *w /= deviation;
            }
        }
    }

    /// Makes `Gᵀ Xc` of one output a gradient: 0 for constant features, the others over σ.
    #[inline(always)]
    fn scale_gradient(&self, w: &mut [f64]) {
        for &k in &self.constant {
            w[k] = 0.0;
        }
        self.divide_by_deviation(w);
    }

    /// What [`DenseProblem::load`] leaves of a weight.
    fn rest(&self, w: &[f64]) -> Vec<f64> {
        let d = self.mean.len();
        let sigma = |at: usize| (self.deviation.as_ref()).map_or(1.0, |s| s[at % d]);
        let values = w.iter().zip(&self.weight).enumerate();
        let left = |(at, (&w, &loaded)): (usize, (&f64, &f32))| w - f64::from(loaded) * sigma(at);
        values.map(left).collect()
    }
}

/// The lower triangle of `Xᵀ X - n μ μᵀ` (μ = 0 where X is centred), column-major. Cost: nd² flop.
fn moments(x: &mut Dense, mean: &[f32], progress: Progress) -> Result<Vec<f32>> {
    /// Rows at a time: enough for the product's speed, few enough to be broken off soon.
    const ROWS: usize = 1024;
    let (own, d) = (x.rows(), x.features());
    let mut moments = try_zeros::<f32>(d, d)?;
    let rows_of_ranks = x.x().row_shard();
    let mut sums = match rows_of_ranks {
        Some(_) => Some(MomentSums::new(x)?),
        None => None,
    };
    let (mut rows, mut going_on) = (0, Ok(()));
    x.each(Batch::All, |_, x| {
        for first in (0..x.rows()).step_by(ROWS) {
            if going_on.is_err() {
                return;
            }
            let x = x.rows_range(first..(first + ROWS).min(x.rows()));
            let block = faer::MatRef::from_row_major_slice(x.as_slice(), x.rows(), d);
            let to = faer::MatMut::from_column_major_slice_mut(&mut moments, d, d);
            let par = threads::par(Work::flop(x.rows() * d * d));
            let accum = if sums.is_some() {
                Accum::Replace
            } else {
                Accum::Add
            };
            lower_triangle(accum, block.transpose(), to, par);
            if let Some(sums) = &mut sums {
                sums.add(&moments);
            }
            rows += x.rows();
            // As if they were columns, as elsewhere.
            going_on = progress(rows * d / own);
        }
    });
    x.x().agree(going_on)?;
    if let (Some(sums), Some(shard)) = (sums, rows_of_ranks) {
        sums.write(shard, &mut moments);
    }
    let n = x.x().all_len();
    for (j, column) in moments.chunks_exact_mut(d).enumerate() {
        for (i, value) in column.iter_mut().enumerate().skip(j) {
            let of_mean = n as f64 * f64::from(mean[i]) * f64::from(mean[j]);
            *value = (f64::from(*value) - of_mean) as f32;
        }
    }
    Ok(moments)
}

/// The sum over ranks of the lower triangles of Xᵀ X of some rows each, in units that depend on the
/// largest |x_ik| of each column.
struct MomentSums {
    /// Exponents of the columns, and then that of the number of rows.
    columns: Vec<i32>,
    /// The lower triangle, column by column.
    sums: Vec<i64>,
}

impl MomentSums {
    fn new(x: &Dense) -> Result<MomentSums> {
        // |Σ x_ik x_il| <= n m_k m_l; one more, for the rounding of products.
        let rows = 1 + exponent(x.x().all_len() as f64);
        let of_columns = x.largest_of_columns().iter().map(|most| exponent(*most));
        let mut columns: Vec<i32> = of_columns.collect();
        columns.push(rows);
        Ok(MomentSums {
            columns,
            sums: try_zeros(x.features() + 1, x.features().div_ceil(2))?,
        })
    }

    fn unit(columns: &[i32], i: usize, j: usize) -> Fixed {
        Fixed::new(columns[columns.len() - 1] + columns[i] + columns[j])
    }

    fn add(&mut self, part: &[f32]) {
        let columns = &self.columns;
        let d = columns.len() - 1;
        let mut rest = &mut self.sums[..];
        let mut tasks = Vec::with_capacity(d);
        for (j, part) in part.chunks_exact(d).enumerate() {
            let (sums, others) = rest.split_at_mut(d - j);
            tasks.push((j, sums, &part[j..]));
            rest = others;
        }
        let tasks = tasks.into_par_iter().share(Work::bytes(6 * part.len()));
        tasks.for_each(|(j, sums, part)| {
            for (i, (sum, &value)) in (j..).zip(sums.iter_mut().zip(part)) {
                *sum = sum.wrapping_add(Self::unit(columns, i, j).multiple(value.into()));
            }
        });
    }

    fn write(mut self, shard: RowShard, moments: &mut [f32]) {
        shard.comm.sum(&mut self.sums);
        let d = self.columns.len() - 1;
        let mut sums = self.sums.iter();
        for (j, column) in moments.chunks_exact_mut(d).enumerate() {
            for (i, (to, &sum)) in (j..).zip(column[j..].iter_mut().zip(&mut sums)) {
                *to = Self::unit(&self.columns, i, j).value(sum) as f32;
            }
        }
    }
}

impl Problem for DenseProblem<'_> {
    type Real = f32;

    fn rows(&self) -> usize {
        self.x.rows()
    }

    fn coords(&self) -> usize {
        self.mean.len()
    }

    fn noise(&self) -> f64 {
        1e-6
    }

    /// The digits of W that f32 does not hold are multiplied too: without them gradients would
    /// not fall below their share, which is more than a weak penalty leaves. Cost: 4ncd flop.
    fn logits(&mut self, w: &[f64], z: &mut [f32]) {
        self.logits_of_direction(w, z);
        let rest = self.rest(w);
        let mut z_of_rest = vec![0.0; z.len()];
        self.logits_of_direction(&rest, &mut z_of_rest);
        axpby(1.0, &z_of_rest, 1.0, z);
    }

    fn logits_of_direction(&mut self, w: &[f64], z: &mut [f32]) {
        let (n, d) = (self.x.rows(), self.mean.len());
        let c = w.len() / d;
        self.load(w);
        let rows = self.weight.chunks_exact(d);
        let shifts: Vec<f32> = rows.map(|w| -dot(w, &self.mean) as f32).collect();
        let weight = MatRef::new(&self.weight, c, d);
        let z = MatMut::new(z, c, n);
        self.x.logits(weight, &shifts, Batch::All, z);
    }

    fn adjoint(&mut self, g: &[f32], w: &mut [f64]) {
        let (n, d) = (self.x.rows(), self.mean.len());
        let c = g.len() / n;
        self.weight.resize(c * d, 0.0);
        let g = MatRef::new(g, c, n);
        let totals = self.x.x().sum_of_rows(c, |rows| {
            let of_output = |j: usize| sum(&g.row(j)[rows.clone()]);
            (0..c).map(of_output).collect()
        });
        (self.x).adjoint(1.0, g, Batch::All, 0.0, &mut self.weight);
        let problem = &*self;
        let rows = w
            .par_chunks_exact_mut(d)
            .zip(self.weight.par_chunks_exact(d));
        let isa = Isa::current();
        // G is summed and W written.
        let work = Work::bytes(size_of_val(g.as_slice()) + 3 * c * d * 8);
        let rows = rows.share(work);
        rows.enumerate().for_each(|(j, (w, from))| {
            with_isa!(isa, || {
                let of_mean = totals[j];
                let values = w.iter_mut().zip(from).zip(&self.mean);
                for ((w, &from), &mean) in values {
                    *w = f64::from(from) - of_mean * f64::from(mean);
                }
                problem.scale_gradient(w);
            });
        });
    }

    fn dot(&self, u: &[f64], v: &[f64], _logits: &[f32]) -> f64 {
        dot(u, v)
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        dot(u, u)
    }

    /// The moments stay those of all rows, of which M need not be exact.
    fn fit_rows(
        &mut self,
        _rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()> {
        if self.deviation.as_deref() != deviation {
            if let SecondOrder::Samples { gram, .. } = &mut self.second_order {
                gram.values = Vec::new();
                *gram = GramF64::new(self.x.x(), deviation, gram.centred, self.gemm, progress)?;
            }
            self.deviation = deviation.map(<[f64]>::to_vec);
        }
        Ok(())
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        let (n, d) = (self.x.rows(), self.mean.len());
        let x = self.x.x();
        let total = x.sum_of_rows(1, |rows| vec![curvatures[rows].iter().sum::<f64>()]);
        let h = (total[0] / x.all_len() as f64).max(f64::MIN_POSITIVE);
        match &mut self.second_order {
            SecondOrder::Features {
                moments,
                scale,
                factor,
            } => {
                // diag(1/σ) (h moments + l2 σ²) diag(1/σ), its diagonal brought to 1.
                let sigma = |i: usize| (self.deviation.as_ref()).map_or(1.0, |s| s[i]);
                for (i, scale) in scale.iter_mut().enumerate() {
                    let moment = f64::from(moments[i * d + i]).max(0.0) / sigma(i).powi(2);
                    let diagonal = h * moment + l2;
                    *scale = if diagonal > 0.0 {
                        diagonal.sqrt().recip()
                    } else {
                        0.0
                    };
                }
                for &k in &self.constant {
                    scale[k] = 0.0;
                }
                factor.factor(RIDGE, |j, to| {
                    let of_column = h * scale[j] / sigma(j);
                    let values = to.iter_mut().zip(&moments[j * d..][j..d]).zip(&scale[j..]);
                    match &self.deviation {
                        None => {
                            for ((to, &value), scale) in values {
                                *to = of_column * scale * f64::from(value);
                            }
                        }
                        Some(deviation) => {
                            for (((to, &value), scale), sigma) in values.zip(&deviation[j..]) {
                                *to = of_column * scale * f64::from(value) / sigma;
                            }
                        }
                    }
                    to[0] = to[0].max(0.0) + l2 * scale[j] * scale[j];
                });
            }
            SecondOrder::Samples {
                gram,
                preconditioner,
                curvature,
            } => {
                *curvature = h;
                let h = std::iter::repeat_n(h, n);
                preconditioner.factor(|i| &gram.values[i * n..][..n], h, l2, 100.0 * RIDGE);
            }
        }
    }

    fn solve(&mut self, r: &[f64], w: &mut [f64], _logits: &mut [f32]) {
        if let SecondOrder::Features { factor, scale, .. } = &self.second_order {
            let rescale = |to: &mut [f64]| {
                for row in to.chunks_exact_mut(scale.len()) {
                    row.iter_mut().zip(scale).for_each(|(w, scale)| *w *= scale);
                }
            };
            w.copy_from_slice(r);
            rescale(w);
            factor.solve(w);
            rescale(w);
            return;
        }
        let mut logits = vec![0.0; r.len() / self.mean.len() * self.x.rows()];
        self.logits_of_direction(r, &mut logits);
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
        self.adjoint(&logits, w);
        axpby(1.0 / l2, r, -h / l2, w);
    }

    fn solves_logits(&self) -> bool {
        false
    }

    /// False if columns are nearly dependent, or outnumber the rows.
    fn resolves_curvatures(&self) -> bool {
        match &self.second_order {
            SecondOrder::Samples { .. } => false,
            SecondOrder::Features { scale, factor, .. } => {
                let pivots = factor.pivots().zip(scale);
                { pivots }.all(|(pivot, &scale)| scale == 0.0 || pivot >= MIN_PIVOT * RIDGE)
            }
        }
    }

    fn weight(&mut self, w: &[f64], _design: &Centered, _exact: bool) -> Result<Vec<f32>> {
        self.load(w);
        Ok(self.weight.clone())
    }

    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)> {
        let d = self.mean.len();
        let sigma = |at: usize| (self.deviation.as_ref()).map_or(1.0, |s| s[at % d]);
        let w = weight.iter().enumerate();
        let w = w.map(|(at, &w)| f64::from(w) * sigma(at));
        Ok((w.collect(), self.shifts(weight, design)))
    }

    fn adjoint_square(&self, _g: &[f64]) -> Option<(f64, f64)> {
        None
    }

    fn refine(
        &mut self,
        design: &Centered,
        risk: &Risk,
        l2: f64,
        point: &Point<f32>,
        stop: StoppingCriteria,
        check_stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<(Point<f64>, SolveReport)>> {
        refine(self, design, risk, l2, point, stop, check_stop).map(Some)
    }
}

/// Most steps of a solve that continues.
const STEPS: usize = 50;

/// The weights of a dense problem, and its rows in f64.
struct DenseF64<'p, 'a> {
    dense: &'p mut DenseProblem<'a>,
    design: &'p Centered<'p>,
}

/// Continue a solve of `dense` from `point` by Newton's method, with products in f64. Cost: 4ncd flop
/// in f64 for each step of conjugate gradients.
///
/// # Errors
/// Those of `check_stop`, which is called after every step.
fn refine(
    dense: &mut DenseProblem,
    design: &Centered,
    risk: &Risk,
    l2: f64,
    point: &Point<f32>,
    stop: StoppingCriteria,
    check_stop: &mut dyn FnMut() -> Result<()>,
) -> Result<(Point<f64>, SolveReport)> {
    let problem = &mut DenseF64 { dense, design };
    let start = Point {
        w: point.w.clone(),
        b: point.b.clone(),
        // The solve computes the logits at its start.
        z: vec![0.0; point.z.len()],
    };
    let stop = StoppingCriteria {
        iterations: stop.iterations.min(STEPS),
        ..stop
    };
    let minimizer = Minimizer::new(problem, risk, l2, start, stop);
    let rule = NewtonCg::new(&minimizer);
    minimizer.run(rule, &mut CheckStop(check_stop))
}

/// Calls a function after every step; its error stops the solve.
struct CheckStop<'a>(&'a mut dyn FnMut() -> Result<()>);

impl<P> Watch<P> for CheckStop<'_> {
    fn begin(&mut self, _state: &mut impl State<P>) -> Result<bool> {
        Ok(false)
    }

    fn at(&mut self, _step: Step, _state: Option<&mut impl State<P>>) -> Result<()> {
        (self.0)()
    }
}

impl Problem for DenseF64<'_, '_> {
    type Real = f64;

    fn rows(&self) -> usize {
        self.dense.rows()
    }

    fn coords(&self) -> usize {
        self.dense.coords()
    }

    fn noise(&self) -> f64 {
        1e-13
    }

    fn logits(&mut self, w: &[f64], z: &mut [f64]) {
        let mut weight = w.to_vec();
        for w in weight.chunks_exact_mut(self.coords()) {
            self.dense.divide_by_deviation(w);
        }
        z.copy_from_slice(&self.design.logits_f64(&weight));
    }

    fn adjoint(&mut self, g: &[f64], w: &mut [f64]) {
        w.copy_from_slice(&self.design.adjoint(g, Precision::Double));
        for w in w.chunks_exact_mut(self.coords()) {
            self.dense.scale_gradient(w);
        }
    }

    fn dot(&self, u: &[f64], v: &[f64], _logits: &[f64]) -> f64 {
        dot(u, v)
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        dot(u, u)
    }

    fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()> {
        self.dense.fit_rows(rows, deviation, progress)
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        self.dense.factor(curvatures, l2);
    }

    fn solve(&mut self, r: &[f64], w: &mut [f64], _logits: &mut [f64]) {
        self.dense.solve(r, w, &mut []);
    }

    fn solves_logits(&self) -> bool {
        false
    }

    fn weight(&mut self, w: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>> {
        self.dense.weight(w, design, exact)
    }

    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)> {
        self.dense.coordinates(weight, design)
    }

    fn adjoint_square(&self, _g: &[f64]) -> Option<(f64, f64)> {
        None
    }
}
