//! The inner products of rows, by slabs of columns: in integers if every feature is a byte over 255,
//! else in f32 within a slab and in f64 over slabs.
//!
//! If ranks share the columns, each adds its slabs, and the ranks add their sums: bytes exactly,
//! floats in units that depend on the rows alone ([`Units`]). The bits do not depend on the number of
//! ranks. Products of bytes have the bits of one process; those of floats do not, because it adds
//! slabs in f64.

use std::ops::Range;

use rayon::prelude::*;

use crate::comm::fixed::{self, Fixed, exponent};
use crate::comm::shard_slab;
use crate::comm::{self, Comm};
use crate::design::rows::{Rows, Shard, norms_of_ranks};
use crate::error::{Error, Result};
use crate::kernels::{Isa, pixels, with_isa};
use crate::linalg::gemm::{Accum, Gemm, Part};
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec::{dot_serial, subtract};
use crate::threads::{Share, Work};

/// Called with the number of finished columns of X; an error ends the computation.
pub type Progress<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Number of columns of a slab of floats.
const SLAB: usize = 1024;

/// The computation of Y Xᵀ or, without Y, of the lower triangle of X Xᵀ.
pub(super) struct Products<'a> {
    pub y: Option<&'a Rows<'a>>,
    pub x: &'a Rows<'a>,
    /// Weights of X's rows in the mean; `None` if all are equal.
    pub weights: Option<&'a [f64]>,
    pub gemm: Gemm,
    /// Sums over slabs of columns, initially 0.
    pub sums: Vec<f64>,
    /// Products of one slab.
    pub values: Vec<f32>,
}

impl Products<'_> {
    /// Maps i to the number of entries of row i that are computed.
    fn computed(&self) -> impl Fn(usize) -> usize + Sync + use<> {
        let (whole, n) = (self.y.is_some(), self.x.len());
        move |i| if whole { n } else { i + 1 }
    }

    /// Writes Kc, from products of centred rows, to `values`, and returns u and v.
    pub fn multiply_floats(&mut self, progress: Progress) -> Result<(Vec<f64>, Vec<f64>)> {
        let (x, n) = (self.x, self.x.len());
        let mut parts = Parts::new(self.sums.len() / n, n);
        let units = x
            .shard()
            .map(|shard| Units::new(self.y, x, self.weights, shard));
        let own = self.add_slabs(units.as_ref(), &mut parts, progress);
        let finite = x.agree(own)?;
        let computed = self.computed();
        if let (Some(units), Some(shard)) = (&units, x.shard()) {
            if !comm::all(shard.comm, finite) {
                // As if the whole product were beyond the range of f32.
                self.values.fill(f32::INFINITY);
                return Ok((parts.rows, parts.columns));
            }
            units.reduce(&mut self.sums, n, &computed, shard.comm);
            units.reduce_parts(&mut parts, shard.comm);
        }
        let work = pass(&self.sums);
        let both = (self.values.par_chunks_exact_mut(n)).zip(self.sums.par_chunks_exact(n));
        both.share(work)
            .enumerate()
            .for_each(|(i, (values, sums))| {
                let used = values[..computed(i)].iter_mut().zip(sums);
                used.for_each(|(value, &sum)| *value = sum as f32);
            });
        if self.y.is_none() {
            mirror(&mut self.values, n);
            parts.rows.copy_from_slice(&parts.columns);
        }
        let mean_squared = parts.mean_squared;
        (parts.rows.iter_mut()).for_each(|part| *part += mean_squared);
        Ok((parts.rows, parts.columns))
    }

    /// Adds the products of all slabs to `sums` and `parts`. Returns whether they are finite, if ranks
    /// share the columns.
    fn add_slabs(
        &mut self,
        units: Option<&Units>,
        parts: &mut Parts,
        progress: Progress,
    ) -> Result<bool> {
        let (x, n, d) = (self.x, self.x.len(), self.x.features());
        let rows = self.sums.len() / n;
        let computed = self.computed();
        let mut of_slab = Parts::new(rows, n);
        let (mut mean, mut x_slab, mut y_slab) = (Vec::new(), Vec::new(), Vec::new());
        let mut finite = true;
        let slab = x.shard().map_or(SLAB, |shard| shard_slab(shard.features));
        for first in (0..d).step_by(slab) {
            let columns = first..(first + slab).min(d);
            column_means(x, self.weights, columns.clone(), &mut mean);
            of_slab.values().for_each(|value| *value = 0.0);
            of_slab.mean_squared = dot_serial(&mean, &mean);
            let centred = |rows, slab, parts| {
                let slab = center_columns(rows, columns.clone(), &mean, slab, parts);
                MatRef::new(slab, slab.len() / columns.len(), columns.len())
            };
            let x_slab = centred(x, &mut x_slab, &mut of_slab.columns);
            let product = MatMut::new(&mut self.values, rows, n);
            match self.y {
                None => self.gemm.gram(x_slab, product),
                Some(y) => {
                    let y_slab = centred(y, &mut y_slab, &mut of_slab.rows);
                    (self.gemm).a_bt(1.0, y_slab, x_slab, Accum::Replace, product);
                }
            }
            match units {
                None => {
                    add_slab(&mut self.sums, &self.values, n, &computed);
                    let both = parts.values().zip(of_slab.values());
                    both.for_each(|(sum, value)| *sum += *value);
                }
                Some(units) => {
                    finite &= units.add_slab(&mut self.sums, &self.values, n, &computed);
                    units.add_parts(parts, &mut of_slab);
                }
            }
            progress(columns.end)?;
        }
        Ok(finite)
    }

    /// Writes 255² times the products of all ranks, exactly, to `sums` and returns `true` if every
    /// feature is a byte over 255. Otherwise resets `sums` to 0 and returns `false`.
    pub fn try_multiply_bytes(&mut self, progress: Progress) -> Result<bool> {
        let own = self.try_multiply_own_bytes(progress);
        let Some(shard) = self.x.shard() else {
            return own;
        };
        let own = self.x.agree(own)?;
        if !comm::all(shard.comm, own) {
            self.sums.fill(0.0);
            return Ok(false);
        }
        let (n, computed) = (self.x.len(), self.computed());
        // Both conversions are exact below 2⁵³.
        let work = pass(&self.sums);
        let integers = self.sums.par_iter_mut().share(work);
        integers.for_each(|sum| *sum = f64::from_bits((*sum as i64) as u64));
        reduce(&mut self.sums, n, &computed, shard.comm);
        let floats = self.sums.par_iter_mut().share(work);
        floats.for_each(|sum| *sum = (sum.to_bits() as i64) as f64);
        Ok(true)
    }

    /// [`Products::try_multiply_bytes`] of the own columns; it ends at the first slab with another
    /// value.
    fn try_multiply_own_bytes(&mut self, progress: Progress) -> Result<bool> {
        let (x, n, d) = (self.x, self.x.len(), self.x.features());
        let rows = self.sums.len() / n;
        let computed = self.computed();
        let (mut x_slab, mut y_slab) = (ByteSlab::default(), ByteSlab::default());
        // Σ a·b = Σ a·(b - 128) + 128 Σ a.
        let mut row_totals = vec![0u64; rows];
        for first in (0..d).step_by(BYTE_SLAB) {
            let columns = first..(first + BYTE_SLAB).min(d);
            let loads = [(Some(x), &mut x_slab), (self.y, &mut y_slab)];
            for (rows, slab) in loads {
                if rows.is_some_and(|rows| !slab.load(rows, columns.clone())) {
                    self.sums.fill(0.0);
                    return Ok(false);
                }
            }
            let (left, part) = match self.y {
                None => (&x_slab, Part::LowerTriangle),
                Some(_) => (&y_slab, Part::Full),
            };
            let values: &mut [i32] = bytemuck::cast_slice_mut(&mut self.values);
            let width = columns.len().div_ceil(4);
            let (a, b) = (&left.unsigned, &x_slab.signed);
            let accum = if first.is_multiple_of(I32_COLUMNS) {
                Accum::Replace
            } else {
                Accum::Add
            };
            (self.gemm).byte_product(a, b, width, accum, part, values);
            if columns.end == d || columns.end.is_multiple_of(I32_COLUMNS) {
                add_slab(&mut self.sums, values, n, &computed);
            }
            let totals = row_totals.iter_mut().zip(&left.totals);
            totals.for_each(|(total, slab)| *total += slab);
            progress(columns.end)?;
        }
        let work = pass(&self.sums);
        let rows = self.sums.par_chunks_exact_mut(n).zip(&row_totals);
        rows.share(work)
            .enumerate()
            .for_each(|(i, (sums, &total))| {
                let total = (128 * total) as f64;
                sums[..computed(i)].iter_mut().for_each(|sum| *sum += total);
            });
        Ok(true)
    }

    /// Scales the exact products, mirrors them without Y, and returns u and v. The product of a row
    /// with the mean row is the mean of its products with all rows. With Y, v is `column_parts`, that
    /// of X.
    pub fn scale_and_means(&mut self, column_parts: Option<&[f64]>) -> (Vec<f64>, Vec<f64>) {
        let n = self.x.len();
        if self.y.is_none() {
            mirror(&mut self.sums, n);
        }
        let scale = 1.0 / (255.0 * 255.0);
        let work = pass(&self.sums);
        let rows = self.sums.par_chunks_exact_mut(n).share(work);
        let row_parts: Vec<f64> = rows
            .map(|sums| {
                sums.iter_mut().for_each(|sum| *sum *= scale);
                sums.iter().sum::<f64>() / n as f64
            })
            .collect();
        let column_parts = match column_parts {
            Some(parts) => parts.to_vec(),
            None => {
                let mean_squared = row_parts.iter().sum::<f64>() / n as f64;
                row_parts.iter().map(|part| part - mean_squared).collect()
            }
        };
        (row_parts, column_parts)
    }

    /// Writes Kc, from exact products, to `values`, and returns u and v as
    /// [`Products::scale_and_means`] does.
    pub fn center(&mut self, column_parts: Option<&[f64]>) -> (Vec<f64>, Vec<f64>) {
        let n = self.x.len();
        let (row_parts, column_parts) = self.scale_and_means(column_parts);
        let rows = (self.values.par_chunks_exact_mut(n)).zip(self.sums.par_chunks_exact(n));
        let isa = Isa::current();
        let rows = rows.zip(&row_parts).share(pass(&self.sums));
        rows.for_each(|((values, sums), row_part)| {
            with_isa!(isa, || {
                let parts = values.iter_mut().zip(sums.iter().zip(&column_parts));
                parts.for_each(|(value, (sum, part))| *value = (sum - row_part - part) as f32);
            });
        });
        if self.y.is_none() {
            // Rounding differs above the diagonal: mirror, so that the matrix is symmetric.
            mirror(&mut self.values, n);
        }
        (row_parts, column_parts)
    }
}

/// Adds the products of a slab to `sums`: the first `computed(i)` entries of each row i.
fn add_slab<T: Copy + Sync + Into<f64>>(
    sums: &mut [f64],
    values: &[T],
    n: usize,
    computed: &(impl Fn(usize) -> usize + Sync),
) {
    let work = pass(sums);
    let rows = sums.par_chunks_exact_mut(n).zip(values.par_chunks_exact(n));
    let isa = Isa::current();
    rows.share(work)
        .enumerate()
        .for_each(|(i, (sums, values))| {
            with_isa!(isa, || {
                let used = sums[..computed(i)].iter_mut().zip(values);
                used.for_each(|(sum, &value)| *sum += value.into());
            });
        });
}

/// The products of rows with the mean row: u without |μ|², v, and |μ|².
struct Parts {
    rows: Vec<f64>,
    columns: Vec<f64>,
    mean_squared: f64,
}

impl Parts {
    fn new(rows: usize, columns: usize) -> Parts {
        Parts {
            rows: vec![0.0; rows],
            columns: vec![0.0; columns],
            mean_squared: 0.0,
        }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut f64> {
        let rows = self.rows.iter_mut().chain(&mut self.columns);
        rows.chain(std::iter::once(&mut self.mean_squared))
    }
}

/// The units of sums that ranks add: see [`fixed`](crate::comm::fixed). The slabs' products of rows i and j
/// add up to at most |x_i| |x_j| in absolute value (Cauchy and Schwarz). The entries of `sums` are
/// multiples of a unit, as the bits of f64, until they are reduced.
pub(super) struct Units {
    products: fixed::Units,
    /// Units of the products with the mean row, of rows and columns, and of that row's square.
    parts: Vec<Fixed>,
}

impl Units {
    /// Cost: X and Y are read once more, and X's means are computed once more.
    fn new(y: Option<&Rows>, x: &Rows, weights: Option<&[f64]>, shard: Shard) -> Units {
        let rows_of_y = y.map_or(0, Rows::len);
        let rows = x.len() + rows_of_y;
        let slab = shard_slab(shard.features);
        let mut mean = Vec::new();
        // The squares of X's rows, of Y's, and of the mean row.
        let squares: Vec<Vec<f64>> = (0..x.features())
            .step_by(slab)
            .map(|first| {
                let columns = first..(first + slab).min(x.features());
                column_means(x, weights, columns.clone(), &mut mean);
                let square = |i: usize| -> f64 {
                    let row = match y {
                        Some(y) if i >= x.len() => y.row(i - x.len()),
                        _ => x.row(i),
                    };
                    let values = row[columns.clone()].iter().zip(&mean);
                    values.map(|(x, mean)| f64::from(x - mean).powi(2)).sum()
                };
                let work = Work::bytes(4 * rows * columns.len());
                let mut squares: Vec<f64> =
                    (0..rows).into_par_iter().share(work).map(square).collect();
                squares.push(dot_serial(&mean, &mean));
                squares
            })
            .collect();
        let slabs = shard.features.div_ceil(slab);
        let norms = norms_of_ranks(shard.comm, slabs, &squares);
        let (of_x, rest) = norms.split_at(x.len());
        let (of_y, of_mean) = rest.split_at(rows_of_y);
        let of_y = if y.is_some() { of_y } else { of_x };
        Units::of(of_y, of_x, of_mean[0])
    }

    /// For products of rows of these norms with one another.
    pub(super) fn of_rows(norms: &[f64]) -> Units {
        Units::of(norms, norms, 0.0)
    }

    fn of(rows: &[f64], columns: &[f64], mean: f64) -> Units {
        // Two more, for the rounding of differences, norms and products.
        let rows: Vec<i32> = rows.iter().map(|norm| 2 + exponent(*norm)).collect();
        let columns: Vec<i32> = columns.iter().map(|norm| exponent(*norm)).collect();
        let mean = exponent(mean);
        let both = rows.iter().copied().chain(columns.iter().map(|e| e + 2));
        let parts = both.map(|e| e + mean).chain([2 + 2 * mean]);
        Units {
            parts: parts.map(Fixed::new).collect(),
            products: fixed::Units::new(rows, columns.into_iter()),
        }
    }

    /// Adds the products of a slab. Returns whether they are finite.
    pub(super) fn add_slab<T: Copy + Sync + Into<f64>>(
        &self,
        sums: &mut [f64],
        values: &[T],
        n: usize,
        computed: &(impl Fn(usize) -> usize + Sync),
    ) -> bool {
        let work = pass(sums);
        let sums: &mut [i64] = bytemuck::cast_slice_mut(sums);
        let rows = sums.par_chunks_exact_mut(n).zip(values.par_chunks_exact(n));
        let isa = Isa::current();
        rows.share(work).enumerate().all(|(i, (sums, values))| {
            let used = ..computed(i);
            with_isa!(isa, || self.products.add(
                i,
                0,
                &values[used],
                &mut sums[used]
            ))
        })
    }

    /// Adds the parts of a slab.
    fn add_parts(&self, sums: &mut Parts, parts: &mut Parts) {
        for ((sum, value), unit) in sums.values().zip(parts.values()).zip(&self.parts) {
            let multiple = (sum.to_bits() as i64).wrapping_add(unit.multiple(*value));
            *sum = f64::from_bits(multiple as u64);
        }
    }

    /// Adds the sums of all ranks, and makes them floats.
    pub(super) fn reduce(
        &self,
        sums: &mut [f64],
        n: usize,
        computed: &(impl Fn(usize) -> usize + Sync),
        comm: &dyn Comm,
    ) {
        reduce(sums, n, computed, comm);
        let work = pass(sums);
        let rows = sums.par_chunks_exact_mut(n);
        rows.share(work).enumerate().for_each(|(i, sums)| {
            for (j, sum) in sums[..computed(i)].iter_mut().enumerate() {
                *sum = self.products.value(i, j, sum.to_bits() as i64);
            }
        });
    }

    /// Adds the parts of all ranks, and makes them floats.
    fn reduce_parts(&self, parts: &mut Parts, comm: &dyn Comm) {
        let mut bits: Vec<i64> = parts.values().map(|sum| sum.to_bits() as i64).collect();
        comm.sum(&mut bits);
        for ((sum, bits), unit) in parts.values().zip(bits).zip(&self.parts) {
            *sum = unit.value(bits);
        }
    }
}

/// Adds the computed entries, which are integers as the bits of f64, over all ranks.
fn reduce(
    sums: &mut [f64],
    n: usize,
    computed: &(impl Fn(usize) -> usize + Sync),
    comm: &dyn Comm,
) {
    /// Least number of values of a message, but for the last: 32 MiB.
    const MESSAGE: usize = 4 << 20;
    let sums: &mut [i64] = bytemuck::cast_slice_mut(sums);
    let rows = sums.len() / n;
    let mut message = Vec::new();
    let (mut begun, mut end) = (0, 0);
    while begun < rows {
        while end < rows && message.len() < MESSAGE {
            message.extend_from_slice(&sums[end * n..][..computed(end)]);
            end += 1;
        }
        comm.sum(&mut message);
        let mut rest = &message[..];
        for i in begun..end {
            let (row, after) = rest.split_at(computed(i));
            sums[i * n..][..computed(i)].copy_from_slice(row);
            rest = after;
        }
        message.clear();
        begun = end;
    }
}

/// Number of columns of a slab of bytes.
const BYTE_SLAB: usize = 8192;
/// Number of columns whose sum of products fits i32: 255 · 128 · 65,536 < 2^31.
const I32_COLUMNS: usize = 8 * BYTE_SLAB;
/// Largest number of bytes per row of a slab of either kind.
pub(super) const SLAB_BYTES: usize = 2 * BYTE_SLAB;

/// A slab of columns as bytes, in groups of four; the last group of `unsigned` is padded with zeros.
#[derive(Default)]
struct ByteSlab {
    unsigned: Vec<[u8; 4]>,
    /// The bytes minus 128.
    signed: Vec<[i8; 4]>,
    /// The sum of each row's bytes.
    totals: Vec<u64>,
}

impl ByteSlab {
    /// Converts these columns to bytes. Returns whether all values are bytes over 255.
    fn load(&mut self, rows: &Rows, columns: Range<usize>) -> bool {
        let width = columns.len().div_ceil(4);
        let isa = Isa::current();
        self.unsigned.resize(rows.len() * width, [0; 4]);
        self.signed.resize(rows.len() * width, [0; 4]);
        self.totals.resize(rows.len(), 0);
        // Four bytes of X are read per byte.
        let work = Work::bytes(6 * size_of_val(&self.unsigned[..]));
        (self.unsigned.par_chunks_exact_mut(width))
            .zip(self.signed.par_chunks_exact_mut(width))
            .zip(&mut self.totals)
            .share(work)
            .enumerate()
            .all(|(i, ((unsigned, signed), total))| {
                let (unsigned, signed) = (unsigned.as_flattened_mut(), signed.as_flattened_mut());
                unsigned[columns.len()..].fill(0);
                let (unsigned, signed) =
                    (&mut unsigned[..columns.len()], &mut signed[..columns.len()]);
                let exact = pixels::bytes(isa, &rows.row(i)[columns.clone()], unsigned, signed);
                // Overflow checks would prevent vectorisation.
                let add = |total: u64, &byte: &u8| total.wrapping_add(byte.into());
                *total = with_isa!(isa, || unsigned.iter().fold(0, add));
                exact
            })
    }
}

/// Checks that the inner products are in the range of f32 and the features finite.
pub(super) fn in_range(values: &[f32], x: &Rows, y: Option<&Rows>) -> Result<()> {
    let all = values.par_iter().share(pass(values));
    if all.all(|value| value.is_finite()) {
        return Ok(());
    }
    x.check_finite("x")?;
    y.map_or(Ok(()), |y| y.check_finite("validation x"))?;
    Err(Error::options(
        "`engine`",
        "gram, with inner products of rows beyond the range of f32",
        "primal, or smaller features (multiply them by a constant)",
    ))
}

/// The work of reading these values and writing as many.
pub(super) fn pass<T>(values: &[T]) -> Work {
    Work::bytes(2 * size_of_val(values))
}

/// Writes the mean of these columns of X, weighted if there are weights, to `mean`.
pub(super) fn column_means(
    x: &Rows,
    weights: Option<&[f64]>,
    columns: Range<usize>,
    mean: &mut Vec<f32>,
) {
    /// Number of columns of a task: two cache lines of a row.
    const WIDTH: usize = 32;
    let total = weights.map_or(x.len() as f64, |weights| weights.iter().sum());
    mean.clear();
    mean.resize(columns.len(), 0.0);
    let work = Work::bytes(4 * x.len() * columns.len());
    let tasks = mean.par_chunks_mut(WIDTH).share(work).enumerate();
    tasks.for_each(|(task, mean)| {
        let first = columns.start + task * WIDTH;
        let mut sums = [0.0f64; WIDTH];
        for i in 0..x.len() {
            let values = &x.row(i)[first..first + mean.len()];
            let sums = sums.iter_mut().zip(values);
            let weight = weights.map_or(1.0, |weights| weights[i]);
            sums.for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
        let means = mean.iter_mut().zip(sums);
        means.for_each(|(mean, sum)| *mean = (sum / total) as f32);
    });
}

/// Writes these columns of X minus their mean to `slab`, and adds each row's product with the mean to
/// `parts`.
fn center_columns<'a>(
    x: &Rows,
    columns: Range<usize>,
    mean: &[f32],
    slab: &'a mut Vec<f32>,
    parts: &mut [f64],
) -> &'a [f32] {
    let width = columns.len();
    slab.resize(x.len() * width, 0.0);
    let isa = Isa::current();
    let work = pass(slab);
    (slab.par_chunks_exact_mut(width))
        .zip(parts)
        .share(work)
        .enumerate()
        .for_each(|(i, (slab, part))| {
            with_isa!(isa, || {
                subtract(&x.row(i)[columns.clone()], mean, slab);
                *part += dot_serial(slab, mean);
            });
        });
    slab
}

/// Copies the lower triangle to the upper one, by tiles that stay in the cache.
pub(super) fn mirror<T: Copy + Send + Sync>(k: &mut [T], n: usize) {
    const TILE: usize = 64;
    const TASK: usize = 16;
    for first in (0..n).step_by(TILE) {
        let last = (first + TILE).min(n);
        let (above, below) = k.split_at_mut(last * n);
        let tile = &mut above[first * n..];
        for i in 0..last - first {
            for j in 0..i {
                tile[j * n + first + i] = tile[i * n + first + j];
            }
        }
        let work = Work::bytes(2 * size_of_val(below) / n * (last - first));
        let rows = tile.par_chunks_mut(TASK * n).share(work).enumerate();
        rows.for_each(|(task, rows)| {
            for (i, from) in below.chunks_exact(n).enumerate() {
                let from = &from[first + task * TASK..];
                for (row, &value) in rows.chunks_exact_mut(n).zip(from) {
                    row[last + i] = value;
                }
            }
        });
    }
}
