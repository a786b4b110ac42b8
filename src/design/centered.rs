//! The centred design matrix Xc = X - 1 μᵀ, with products that are precise enough to certify a model.
//!
//! μ is the mean row. Where rows are similar the entries of Xc are small, and so is the rounding
//! error of products with them:
//!
//! ```text
//! logits    Zᵀ = W Xcᵀ      adjoint   Gᵀ Xc
//! ```
//!
//! Products are summed in f32 or f64 within a slab of columns, and in f64 over slabs. No copy of X is
//! made. The bits do not depend on the number of threads.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::comm::fixed::{Units, exponent};
use crate::comm::rows::RowShard;
use crate::comm::{self, shard_slab};
use crate::design::rows::{Rows, Shard, weight_norms};
use crate::kernels::{Isa, columns, with_isa};
use crate::linalg::vec::{Real, axpby, dot, subtract};
use crate::threads::{Share, Work};

/// Largest number of columns of a slab.
const SLAB: usize = 512;
/// Number of rows of a task of logits.
const TASK_ROWS: usize = 128;
/// Number of rows of a block of an adjoint: enough products per sum for the kernels' speed.
const BLOCK_ROWS: usize = 512;

/// The arithmetic of products within a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32: twice as fast.
    Single,
    /// f64.
    Double,
}

impl Precision {
    /// The probable rounding error of the sum of a slab's k products, relative to the product of the
    /// factors' norms: u √k, where u is the unit roundoff (Higham and Mary 2019, "A new approach to
    /// probabilistic rounding error analysis").
    pub fn rounding(self) -> f64 {
        let unit = match self {
            Precision::Single => f64::from(f32::EPSILON) / 2.0,
            Precision::Double => f64::EPSILON / 2.0,
        };
        unit * (SLAB as f64).sqrt()
    }
}

/// Xc = X - 1 μᵀ, where μ is the mean row, or 0.
#[derive(Debug)]
pub struct Centered<'a> {
    x: &'a Rows<'a>,
    mean: Vec<f32>,
    rest: Vec<f32>,
    scale: Vec<f64>,
    centred: bool,
    /// Whether a mean is far from 0: see [`Centered::is_far`].
    far: bool,
    /// The norms of the rows of Xc on all ranks, if they share the columns.
    norms: Option<Vec<f64>>,
}

impl<'a> Centered<'a> {
    /// Xc of all rows. Cost: X is read once.
    pub fn new(x: &'a Rows<'a>) -> Centered<'a> {
        moments(x, true)
    }

    /// X itself (μ = 0), for models without a bias. Cost: X is read once.
    pub fn not_centered(x: &'a Rows<'a>) -> Centered<'a> {
        moments(x, false)
    }

    /// X.
    pub fn x(&self) -> &'a Rows<'a> {
        self.x
    }

    /// Whether the mean row is subtracted.
    pub fn is_centered(&self) -> bool {
        self.centred
    }

    /// μ, rounded to f32: the row that is subtracted.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The mean of Xc's rows: the mean of X's rows minus μ, which is rounded.
    pub fn rest(&self) -> &[f32] {
        &self.rest
    }

    /// The root mean square of each column of Xc.
    pub fn scale(&self) -> &[f64] {
        &self.scale
    }

    /// Whether the mean of a column exceeds its scale so far that f32 sums over uncentred rows would
    /// lose the differences between rows.
    pub fn is_far(&self) -> bool {
        self.far
    }

    /// W μ, one value per output; the weight is c x d. The rounding error is about |W| |μ| times the
    /// machine epsilon of f64.
    pub fn shifts(&self, weight: &[f32]) -> Vec<f64> {
        let d = self.mean.len();
        self.x.sum_of_columns(weight.len() / d, |columns| {
            let rows = weight.chunks_exact(d);
            let of_row = |w: &[f32]| dot(&w[columns.clone()], &self.mean[columns.clone()]);
            rows.map(of_row).collect()
        })
    }

    /// `Zᵀ = W Xcᵀ`, c x n. Cost: 2ncd flop.
    pub fn logits(&self, weight: &[f32], precision: Precision) -> Vec<f64> {
        match precision {
            Precision::Single => self.logits_in::<f32>(weight),
            Precision::Double => {
                let wide: Vec<f64> = weight.iter().map(|&w| w.into()).collect();
                self.logits_in::<f64>(&wide)
            }
        }
    }

    /// [`Centered::logits`] of a weight in f64, with products in f64.
    pub fn logits_f64(&self, weight: &[f64]) -> Vec<f64> {
        self.logits_in(weight)
    }

    /// The logits of some rows, each c, in f64. Cost: 2cd flop a row.
    pub fn logits_of_rows(&self, weight: &[f32], rows: &[usize]) -> Vec<Vec<f64>> {
        let d = self.mean.len();
        let c = weight.len() / d;
        let values = self.x.sum_of_columns(rows.len() * c, |columns| {
            let of_row = |&i: &usize| -> Vec<f64> {
                let mut row = vec![0.0f64; columns.len()];
                self.center(i, columns.start, &mut row);
                let weights = weight.chunks_exact(d).map(|w| &w[columns.clone()]);
                weights.map(|w| dot_of_lanes(w, &row)).collect()
            };
            let work = Work::flop(4 * rows.len() * c * columns.len());
            let of_rows: Vec<Vec<f64>> = rows.par_iter().share(work).map(of_row).collect();
            of_rows.concat()
        });
        values.chunks_exact(c).map(<[f64]>::to_vec).collect()
    }

    /// `Gᵀ Xc`, c x d; Gᵀ is c x n. Cost: 2ncd flop.
    pub fn adjoint(&self, g: &[f64], precision: Precision) -> Vec<f64> {
        match precision {
            Precision::Single => {
                let narrow: Vec<f32> = g.iter().map(|&g| g as f32).collect();
                self.adjoint_in::<f32>(&narrow)
            }
            Precision::Double => self.adjoint_in::<f64>(g),
        }
    }

    fn logits_in<T: Real + ComplexField>(&self, weight: &[T]) -> Vec<f64> {
        let (n, d) = (self.x.len(), self.mean.len());
        let c = weight.len() / d;
        let units = self.x.shard().map(|shard| self.units(shard, weight));
        let slab_width = match self.x.shard() {
            Some(shard) => shard_slab(shard.features).min(SLAB),
            None => SLAB,
        };
        let weight = MatRef::from_row_major_slice(weight, c, d);
        let mut z = vec![0.0; c * n];
        let finite = AtomicBool::new(true);
        let tasks = columns::blocks_of(&mut z, n, TASK_ROWS).share(product::<T>(c, n, d));
        tasks.for_each(|mut block| {
            let rows = block.range();
            let m = rows.len();
            let mut slab = vec![T::default(); m * slab_width.min(d)];
            let mut product = vec![T::default(); c * m];
            for first in (0..d).step_by(slab_width) {
                let width = slab_width.min(d - first);
                let slab = &mut slab[..m * width];
                for (i, to) in rows.clone().zip(slab.chunks_exact_mut(width)) {
                    self.center(i, first, to);
                }
                matmul(
                    MatMut::from_row_major_slice_mut(&mut product, c, m),
                    Accum::Replace,
                    weight.subcols(first, width),
                    MatRef::from_row_major_slice(slab, m, width).transpose(),
                    faer::traits::math_utils::one(),
                    Par::Seq,
                );
                for (j, product) in product.chunks_exact(m).enumerate() {
                    match &units {
                        None => add(product, block.row(j)),
                        Some(units) => {
                            let sums = bytemuck::cast_slice_mut(block.row(j));
                            if !units.add(j, rows.start, product, sums) {
                                finite.store(false, Ordering::Relaxed);
                            }
                        }
                    }
                }
            }
        });
        if let (Some(units), Some(shard)) = (units, self.x.shard()) {
            shard.comm.sum(bytemuck::cast_slice_mut(&mut z));
            if !comm::all(shard.comm, finite.into_inner()) {
                return vec![f64::NAN; c * n];
            }
            for (j, z) in z.chunks_exact_mut(n).enumerate() {
                for (i, z) in z.iter_mut().enumerate() {
                    *z = units.value(j, i, z.to_bits() as i64);
                }
            }
        }
        z
    }

    /// The units in which ranks add logits, from the norms of weights and rows; see
    /// [`Centered::norms_of_ranks`].
    fn units<T: Real>(&self, shard: Shard, weight: &[T]) -> Units {
        let (outputs, rows) = (
            weight_norms(shard, weight, self.mean.len()),
            self.norms.iter().flatten(),
        );
        // Two more, for the rounding of norms and products.
        let outputs = outputs.iter().map(|norm| 2 + exponent(*norm));
        Units::new(outputs.collect(), rows.map(|norm| exponent(*norm)))
    }

    /// The norms of the weight's rows and of the rows of Xc, if ranks share the columns. Their products
    /// bound what the rounding to units moves a logit by, relative to half the machine epsilon of f64.
    pub fn norms_of_ranks(&self, weight: &[f32]) -> Option<(Vec<f64>, &[f64])> {
        let norms = self.norms.as_deref()?;
        Some((
            weight_norms(self.x.shard()?, weight, self.mean.len()),
            norms,
        ))
    }

    fn adjoint_in<T: Real + ComplexField>(&self, g: &[T]) -> Vec<f64> {
        match self.x.row_shard() {
            None => self.adjoint_of_rows(g, 0..self.x.len()),
            Some(shard) => self.adjoint_of_ranks(g, shard),
        }
    }

    /// Gᵀ Xc over the rows of all ranks: in units that depend on the norms of an output's g and of a
    /// column.
    fn adjoint_of_ranks<T: Real + ComplexField>(&self, g: &[T], shard: RowShard) -> Vec<f64> {
        let (n, d) = (self.x.len(), self.mean.len());
        let c = g.len() / n;
        let square = |g: &[T]| -> f64 {
            let values = g.iter().map(|&g| -> f64 { g.into() });
            values.map(|g| g * g).sum()
        };
        let squares = shard.sum(c, |rows| {
            g.chunks_exact(n)
                .map(|g| square(&g[rows.clone()]))
                .collect()
        });
        // The norm of a column is √n times its root mean square. Two more, for the rounding of norms and
        // products.
        let root = (self.x.all_len() as f64).sqrt();
        let outputs = squares.iter().map(|square| 2 + exponent(square.sqrt()));
        let units = Units::new(
            outputs.collect(),
            self.scale.iter().map(|scale| exponent(root * scale)),
        );
        let mut sums = vec![0i64; c * d];
        let mut finite = true;
        for rows in shard.ranges() {
            let part = self.adjoint_of_rows(g, rows);
            let rows = sums.chunks_exact_mut(d).zip(part.chunks_exact(d));
            for (j, (sums, part)) in rows.enumerate() {
                finite &= units.add(j, 0, part, sums);
            }
        }
        shard.comm.sum(&mut sums);
        if !comm::all(shard.comm, finite) {
            return vec![f64::NAN; c * d];
        }
        let values = sums.iter().enumerate();
        let value = |(at, &sum): (usize, &i64)| units.value(at / d, at % d, sum);
        values.map(value).collect()
    }

    /// Gᵀ Xc of these rows; Gᵀ has a column for each row of X.
    fn adjoint_of_rows<T: Real + ComplexField>(&self, g: &[T], rows: Range<usize>) -> Vec<f64> {
        let (n, d) = (self.x.len(), self.mean.len());
        let c = g.len() / n;
        let g = MatRef::from_row_major_slice(g, c, n);
        let mut w = vec![0.0; c * d];
        // With few features, slabs are narrow, so that there are tasks for all threads.
        let width = (d.div_ceil(16)).next_multiple_of(16).min(SLAB);
        let tasks = columns::blocks_of(&mut w, d, width).share(product::<T>(c, rows.len(), d));
        tasks.for_each(|mut block| {
            let range = block.range();
            let mut slab = vec![T::default(); BLOCK_ROWS.min(rows.len()) * range.len()];
            let mut product = vec![T::default(); c * range.len()];
            for first in rows.clone().step_by(BLOCK_ROWS) {
                let m = BLOCK_ROWS.min(rows.end - first);
                let slab = &mut slab[..m * range.len()];
                for (i, to) in slab.chunks_exact_mut(range.len()).enumerate() {
                    self.center(first + i, range.start, to);
                }
                matmul(
                    MatMut::from_row_major_slice_mut(&mut product, c, range.len()),
                    Accum::Replace,
                    g.subcols(first, m),
                    MatRef::from_row_major_slice(slab, m, range.len()),
                    faer::traits::math_utils::one(),
                    Par::Seq,
                );
                for (j, product) in product.chunks_exact(range.len()).enumerate() {
                    add(product, block.row(j));
                }
            }
        });
        w
    }

    /// Writes row `i` of Xc from column `first` on to `to`, each value rounded once.
    fn center<T: Real>(&self, i: usize, first: usize, to: &mut [T]) {
        let columns = first..first + to.len();
        let (x, mean) = (&self.x.row(i)[columns.clone()], &self.mean[columns]);
        with_isa!(Isa::current(), || subtract(x, mean, to));
    }

    /// The norm of each row of Xc whose columns are divided by `scale`; columns of scale 0 do not
    /// count. Cost: X is read once.
    pub fn row_norms(&self, scale: &[f64]) -> Vec<f64> {
        let n = self.x.len();
        let squares = self
            .x
            .sum_of_columns(n, |columns| self.row_squares(scale, columns));
        squares.into_iter().map(f64::sqrt).collect()
    }

    /// The squares of [`Centered::row_norms`] of these columns alone.
    fn row_squares(&self, scale: &[f64], columns: Range<usize>) -> Vec<f64> {
        let inverse: Vec<f64> = scale[columns.clone()]
            .iter()
            .map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 })
            .collect();
        const LANES: usize = 16;
        let square = |i: usize| {
            let (x, mean) = (&self.x.row(i)[columns.clone()], &self.mean[columns.clone()]);
            let values = x.chunks(LANES).zip(mean.chunks(LANES));
            let values = values.zip(inverse.chunks(LANES));
            let mut sums = [0.0f64; LANES];
            with_isa!(Isa::current(), || {
                for ((x, mean), inverse) in values {
                    for (sum, ((&x, &mean), inverse)) in
                        sums.iter_mut().zip(x.iter().zip(mean).zip(inverse))
                    {
                        let value = (f64::from(x) - f64::from(mean)) * inverse;
                        *sum += value * value;
                    }
                }
            });
            sums.iter().sum::<f64>()
        };
        let rows = (0..self.x.len()).into_par_iter();
        rows.share(pass(self.x)).map(square).collect()
    }
}

/// Σ w x in sixteen sums.
fn dot_of_lanes(w: &[f32], x: &[f64]) -> f64 {
    let mut sums = [0.0f64; 16];
    with_isa!(Isa::current(), || {
        for (w, x) in w.chunks(16).zip(x.chunks(16)) {
            for (sum, (&w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
                *sum += f64::from(w) * x;
            }
        }
    });
    sums.iter().sum()
}

/// The work of a product of c x d values with n x d values, which are centred first.
fn product<T>(c: usize, n: usize, d: usize) -> Work {
    Work::flop(2 * c * n * d * (size_of::<T>() / size_of::<f32>())).max(Work::bytes(4 * n * d))
}

/// The work of a pass over X.
fn pass(x: &Rows) -> Work {
    Work::bytes(4 * x.len() * x.features())
}

/// `y += x`.
fn add<T: Real>(x: &[T], y: &mut [f64]) {
    with_isa!(Isa::current(), || {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x.into();
        }
    });
}

/// Computes the mean of each column, rounded to f32 (0 if not `centred`), and the root mean square
/// about it, from sums of differences from the first row. Cost: X is read once.
fn moments<'a>(x: &'a Rows<'a>, centred: bool) -> Centered<'a> {
    let (n, d) = (x.all_len(), x.features());
    let origin = if centred {
        x.row_of_all(0)
    } else {
        Cow::Owned(vec![0.0; d])
    };
    let totals = x.sum_of_rows(2 * d, |rows| sums_of_rows(x, &origin, rows));
    let (sums, squares) = totals.split_at(d);
    let mut design = Centered {
        x,
        mean: Vec::with_capacity(d),
        rest: Vec::with_capacity(d),
        scale: Vec::with_capacity(d),
        centred,
        far: false,
        norms: None,
    };
    for ((sum, square), &origin) in sums.iter().zip(squares).zip(origin.iter()) {
        let shift = if centred { sum / n as f64 } else { 0.0 };
        let rounded = (f64::from(origin) + shift) as f32;
        // The sum `origin + shift` is rounded itself: subtract `rounded` before `shift` is added.
        let rest = f64::from(origin) - f64::from(rounded) + shift;
        design.mean.push(rounded);
        design.rest.push(rest as f32);
        design
            .scale
            .push(((square / n as f64 - shift * shift).max(0.0) + rest * rest).sqrt());
    }
    design.far = !x.all_ranks(!is_far(&design));
    if x.shard().is_some() {
        let square = |i: usize, columns: Range<usize>| {
            let values = x.row(i)[columns.clone()].iter().zip(&design.mean[columns]);
            let differences = values.map(|(&x, &mean)| f64::from(x) - f64::from(mean));
            differences.map(|difference| difference * difference).sum()
        };
        design.norms = Some(x.norms_of_rows(square));
    }
    design
}

/// The sums of `x - origin` over these rows, for each column, and then those of its square.
fn sums_of_rows(x: &Rows, origin: &[f32], rows: Range<usize>) -> Vec<f64> {
    /// Numbers of rows and columns of a task.
    const ROWS: usize = 1024;
    const COLUMNS: usize = 2048;
    let d = x.features();
    let (bands, strips) = (rows.len().div_ceil(ROWS), d.div_ceil(COLUMNS));
    let of_task = |task: usize| {
        let (start, first) = (rows.start + task / strips * ROWS, task % strips * COLUMNS);
        let width = COLUMNS.min(d - first);
        let (mut sums, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
        for i in start..(start + ROWS).min(rows.end) {
            let values = x.row(i)[first..][..width]
                .iter()
                .zip(&origin[first..][..width]);
            let values = values.zip(sums.iter_mut().zip(&mut squares));
            with_isa!(Isa::current(), || {
                for ((&x, &origin), (sum, square)) in values {
                    let value = f64::from(x) - f64::from(origin);
                    *sum += value;
                    *square += value * value;
                }
            });
        }
        (sums, squares)
    };
    let tasks = (0..bands * strips).into_par_iter();
    let work = Work::bytes(4 * rows.len() * d);
    let tasks: Vec<_> = tasks.share(work).map(of_task).collect();
    let mut totals = vec![0.0; 2 * d];
    let (sums, squares) = totals.split_at_mut(d);
    for (task, (of_sums, of_squares)) in tasks.iter().enumerate() {
        let columns = task % strips * COLUMNS..;
        axpby(
            1.0,
            of_sums,
            1.0,
            &mut sums[columns.clone()][..of_sums.len()],
        );
        axpby(
            1.0,
            of_squares,
            1.0,
            &mut squares[columns][..of_squares.len()],
        );
    }
    totals
}

/// Whether the mean of one of the own columns exceeds its scale so far that f32 sums over uncentred
/// rows would lose the differences between rows.
fn is_far(design: &Centered) -> bool {
    /// Largest mean, as a multiple of the scale.
    const MAX_MEAN: f64 = 30.0;
    let mut columns = design.mean.iter().zip(&design.scale);
    columns.any(|(&mean, &scale)| f64::from(mean).abs() > MAX_MEAN * scale && scale > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random_values as values;
    use crate::linalg::mat;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Also for a mean far from 0 and for columns of different scales.
        #[test]
        fn products_equal_f64_within_the_documented_rounding(
            n in prop_oneof![1usize..12, 120usize..140, 250usize..400],
            d in prop_oneof![1usize..20, 500usize..530, 1000usize..1100],
            c in 1usize..4, offset in prop_oneof![Just(0.0f32), Just(1e4)], spread in 0i32..4, seed in any::<u32>(),
        ) {
            let scale_of = |k: usize| 10f32.powi(spread * (k % 3) as i32 - spread);
            let x: Vec<f32> = (values(n * d, seed).iter().enumerate())
                .map(|(at, v)| scale_of(at % d) * (v + offset))
                .collect();
            let rows = Rows::new(mat::MatRef::new(&x, n, d));
            let design = Centered::new(&rows);
            let weight: Vec<f32> = (values(c * d, seed ^ 1).iter().enumerate())
                .map(|(at, v)| v / scale_of(at % d))
                .collect();
            let g: Vec<f64> = values(c * n, seed ^ 2).iter().map(|&g| g.into()).collect();
            let xc = |i: usize, k: usize| f64::from(x[i * d + k]) - f64::from(design.mean()[k]);
            for k in 0..d {
                let mean = (0..n).map(|i| f64::from(x[i * d + k])).sum::<f64>() / n as f64;
                prop_assert!((mean - f64::from(design.mean()[k])).abs() <= 1e-7 * mean.abs() + 1e-12);
                let square = (0..n).map(|i| xc(i, k).powi(2)).sum::<f64>() / n as f64;
                let off = (square.sqrt() - design.scale()[k]).abs();
                prop_assert!(off <= 1e-3 * square.sqrt() + 1e-6 * f64::from(scale_of(k)), "{off}");
            }
            let ones: Vec<f64> = (0..d).map(|k| scale_of(k).into()).collect();
            let norms = design.row_norms(&ones);
            let of_rows = design.logits_of_rows(&weight, &[0, n - 1]);
            for precision in [Precision::Single, Precision::Double] {
                let z = design.logits(&weight, precision);
                if precision == Precision::Double {
                    for (j, exact) in of_rows[1].iter().enumerate() {
                        prop_assert!((z[j * n + n - 1] - exact).abs() <= 1e-9 * (1.0 + exact.abs()));
                    }
                }
                for j in 0..c {
                    let w = |k: usize| f64::from(weight[j * d + k]);
                    let size = (0..d).map(|k| (w(k) * ones[k]).powi(2)).sum::<f64>().sqrt();
                    for i in 0..n {
                        let expected: f64 = (0..d).map(|k| xc(i, k) * w(k)).sum();
                        let bound = precision.rounding() * norms[i] * size + 1e-12 * expected.abs();
                        let off = (z[j * n + i] - expected).abs();
                        prop_assert!(off <= bound, "{precision:?} {off} {bound}");
                    }
                }
                let w = design.adjoint(&g, precision);
                for j in 0..c {
                    let g = &g[j * n..][..n];
                    let size = g.iter().map(|g| g * g).sum::<f64>().sqrt();
                    for k in 0..d {
                        let expected: f64 = (0..n).map(|i| g[i] * xc(i, k)).sum();
                        let column = (0..n).map(|i| xc(i, k).powi(2)).sum::<f64>().sqrt();
                        let bound = precision.rounding() * size * column + 1e-12 * expected.abs();
                        let off = (w[j * d + k] - expected).abs();
                        prop_assert!(off <= bound, "{precision:?} {off} {bound}");
                    }
                }
            }
        }
    }
}
