//! Borrowed rows of features, and the batch of rows that a step uses.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::comm::fixed::{Fixed, exponent};
use crate::comm::rows::RowShard;
use crate::comm::{self, Comm, shard_slab};
use crate::error::{Error, Result};
use crate::linalg::mat::MatRef;
use crate::linalg::vec::{Real, dot};
use crate::threads::{Share, Work};

/// The rows that a step uses.
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    /// All rows, in order.
    All,
    /// The rows with these numbers.
    Rows(&'a [u32]),
}

impl<'a> Batch<'a> {
    /// The numbers of the rows; `None` for all.
    pub(crate) fn numbers(self) -> Option<&'a [u32]> {
        match self {
            Batch::All => None,
            Batch::Rows(rows) => Some(rows),
        }
    }

    /// The number of the batch's row `i` among all rows.
    pub(crate) fn row(self, i: usize) -> usize {
        self.numbers().map_or(i, |rows| rows[i] as usize)
    }
}

/// Borrowed rows of a feature matrix: a memory map or the caller's slice. A choice of rows that are
/// not contiguous is stored as an index, not as a copy.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Row `i` begins at `i * stride`.
    values: &'a [f32],
    rows: usize,
    features: usize,
    /// Distance between the starts of consecutive rows, at least `features`.
    stride: usize,
    /// Row numbers in `values`; `None` means all rows in order.
    index: Option<Vec<u32>>,
    /// Whether the features are known to be usable: see [`is_usable`].
    pub(super) known_usable: bool,
    /// The other columns, if other ranks have them.
    shard: Option<Shard<'a>>,
    /// The other rows, if other ranks have them.
    row_shard: Option<RowShard<'a>>,
    /// All rows, if ranks share them and this one can read all.
    whole: Option<Arc<Rows<'a>>>,
}

/// The place of a rank's columns among those of X, which all ranks hold together.
#[derive(Clone, Copy, Debug)]
pub struct Shard<'a> {
    /// The ranks.
    pub comm: &'a dyn Comm,
    /// The first column of this rank.
    pub first: usize,
    /// d: number of columns of all ranks.
    pub features: usize,
}

/// The columns of each of `size` ranks that share d columns: runs of whole slabs.
///
/// # Errors
/// [`Error::Options`] if there are fewer slabs than ranks.
pub(super) fn shard_columns(d: usize, size: usize) -> Result<Vec<Range<usize>>> {
    let slab = shard_slab(d);
    let slabs = d.div_ceil(slab.max(1));
    if slabs < size {
        return Err(Error::options(
            "number of processes",
            size,
            format!("at most {slabs}: {d} features have as many slabs of {slab} columns"),
        ));
    }
    let columns = |rank| {
        let slabs = comm::share(slabs, rank, size);
        slabs.start * slab..(slabs.end * slab).min(d)
    };
    Ok((0..size).map(columns).collect())
}

/// The position of the first value for which `test` is false. A pass without branches comes first,
/// because most blocks have none.
pub(crate) fn position(values: &[f32], test: impl Fn(f32) -> bool) -> Option<usize> {
    let all = values.iter().fold(true, |all, &value| all & test(value));
    if all {
        None
    } else {
        values.iter().position(|&value| !test(value))
    }
}

/// The norm of each column of X - 1 μᵀ (`None`: of X) over the rows of all ranks. Cost: X is read once.
pub(super) fn column_norms(x: &Rows, shard: RowShard, mean: Option<&[f32]>) -> Vec<f64> {
    /// Number of columns of a task.
    const WIDTH: usize = 256;
    let squares = shard.sum(x.features(), |rows| {
        let mut squares = vec![0.0f64; x.features()];
        let work = Work::bytes(4 * rows.len() * x.features());
        let tasks = squares.par_chunks_mut(WIDTH).share(work).enumerate();
        tasks.for_each(|(task, squares)| {
            let columns = task * WIDTH..task * WIDTH + squares.len();
            let mean = mean.map(|mean| &mean[columns.clone()]);
            for i in rows.clone() {
                let values = squares.iter_mut().zip(&x.row(i)[columns.clone()]);
                match mean {
                    None => values.for_each(|(square, &x)| *square += f64::from(x).powi(2)),
                    Some(mean) => values.zip(mean).for_each(|((square, &x), &mean)| {
                        *square += (f64::from(x) - f64::from(mean)).powi(2);
                    }),
                }
            }
        });
        squares
    });
    squares.into_iter().map(f64::sqrt).collect()
}

/// The norm of each row of a weight, of which this rank has `d` columns, over the columns of all ranks.
pub(super) fn weight_norms<T: Real>(shard: Shard, weight: &[T], d: usize) -> Vec<f64> {
    let slab = shard_slab(shard.features);
    let squares: Vec<Vec<f64>> = (0..d)
        .step_by(slab)
        .map(|first| {
            let columns = first..(first + slab).min(d);
            let square = |w: &[T]| dot(&w[columns.clone()], &w[columns.clone()]);
            weight.chunks_exact(d).map(square).collect()
        })
        .collect();
    norms_of_ranks(shard.comm, shard.features.div_ceil(slab), &squares)
}

/// The norms of vectors of which ranks have parts, from the squares of the norms of this rank's parts.
/// `parts` is the number of parts on all ranks; the bits do not depend on how ranks share them.
pub(crate) fn norms_of_ranks(comm: &dyn Comm, parts: usize, squares: &[Vec<f64>]) -> Vec<f64> {
    let len = squares.first().map_or(0, Vec::len);
    let mut largest = vec![0.0f64; len];
    for squares in squares {
        let values = largest.iter_mut().zip(squares);
        values.for_each(|(most, &square)| *most = most.max(square));
    }
    comm::max(comm, &mut largest);
    let count = 1 + exponent(parts as f64);
    let units: Vec<Fixed> = largest
        .iter()
        .map(|most| Fixed::new(count + exponent(*most)))
        .collect();
    let mut sums = vec![0i64; len];
    for squares in squares {
        for ((sum, unit), &square) in sums.iter_mut().zip(&units).zip(squares) {
            *sum += unit.multiple(square);
        }
    }
    comm.sum(&mut sums);
    let values = units.iter().zip(sums);
    values.map(|(unit, sum)| unit.value(sum).sqrt()).collect()
}

/// Whether a value can be a feature of a dataset and of a converged fit: from -1e15 to 1e15, so that
/// f32 holds sums of squares.
pub fn is_usable(value: f32) -> bool {
    value.abs() <= 1e15
}

impl<'a> Rows<'a> {
    /// All rows of a matrix.
    pub fn new(x: MatRef<'a>) -> Self {
        Rows {
            values: x.as_slice(),
            rows: x.rows(),
            features: x.cols(),
            stride: x.cols(),
            index: None,
            known_usable: false,
            shard: None,
            row_shard: None,
            whole: None,
        }
    }

    /// `rows` rows of `features` values whose starts are `stride` values apart: a window of a wider
    /// matrix. If `stride` exceeds `features`, products copy the rows block by block.
    ///
    /// # Errors
    /// [`Error::Shape`] if `features` is 0, if rows overlap (`stride` < `features`), or if `x` is
    /// shorter than the rows or longer than `rows · stride`.
    pub fn strided(x: &'a [f32], rows: usize, features: usize, stride: usize) -> Result<Self> {
        let whole = rows.checked_mul(stride);
        let least = whole.map(|whole| whole.saturating_sub(stride - features.min(stride)));
        if features == 0
            || stride < features
            || whole.is_none_or(|n| n < x.len())
            || least.is_none_or(|n| n > x.len())
        {
            let found = format!("{} values", x.len());
            let expected = if stride == features {
                format!("{rows} labels x {features} features")
            } else {
                format!("{rows} rows x {features} features, {stride} apart")
            };
            return Err(Error::shape("x", found, expected));
        }
        Ok(Rows {
            values: x,
            rows,
            features,
            stride,
            index: None,
            known_usable: false,
            shard: None,
            row_shard: None,
            whole: None,
        })
    }

    /// The columns of these rows that belong to this rank of `comm`: a run of whole slabs.
    ///
    /// # Errors
    /// [`Error::Options`] if there are fewer slabs than ranks.
    pub(super) fn columns_of(&self, comm: &'a dyn Comm) -> Result<Rows<'a>> {
        let d = self.features;
        let Range { start: first, end } = shard_columns(d, comm.size())?[comm.rank()].clone();
        Ok(Rows {
            values: &self.values[first..],
            features: end - first,
            shard: Some(Shard {
                comm,
                first,
                features: d,
            }),
            ..self.clone()
        })
    }

    /// The rows of this rank of `comm`: a run of whole blocks.
    ///
    /// # Errors
    /// [`Error::Options`] if there are fewer blocks than ranks.
    pub(super) fn rows_of(&self, comm: &'a dyn Comm) -> Result<Rows<'a>> {
        let shard = RowShard::new(comm, self.len())?;
        let own = shard.range();
        let numbers: Vec<u32> = (own.start as u32..own.end as u32).collect();
        Ok(Rows {
            row_shard: Some(shard),
            whole: Some(Arc::new(self.clone())),
            ..self.choose(&numbers)
        })
    }

    /// The place of these rows among those of all ranks; `None` if they are all.
    pub(crate) fn row_shard(&self) -> Option<RowShard<'a>> {
        self.row_shard
    }

    /// All rows, if ranks share them and this one can read all.
    pub(super) fn whole(&self) -> Option<&Rows<'a>> {
        self.whole.as_deref()
    }

    /// Whether a choice of the rows can be divided anew among the ranks.
    pub(crate) fn can_leave_out(&self) -> bool {
        self.row_shard.is_none() || self.whole.is_some()
    }

    /// Number of rows of all ranks.
    pub(crate) fn all_len(&self) -> usize {
        self.row_shard.map_or(self.len(), |shard| shard.rows)
    }

    /// The ranges of these rows whose products are added separately: all, or the blocks that ranks
    /// share.
    pub(crate) fn blocks(&self) -> Vec<Range<usize>> {
        match self.row_shard {
            None => std::iter::once(0..self.len()).collect(),
            Some(shard) => shard.ranges().collect(),
        }
    }

    /// The sum of `of_rows`, `len` values, over the rows of all ranks: of all rows at once for a single
    /// process, else over blocks. Traffic: `len` numbers for each of at most 64 blocks.
    pub(crate) fn sum_of_rows(
        &self,
        len: usize,
        mut of_rows: impl FnMut(Range<usize>) -> Vec<f64>,
    ) -> Vec<f64> {
        match self.row_shard {
            None => of_rows(0..self.len()),
            Some(shard) => shard.sum(len, of_rows),
        }
    }

    /// Whether other ranks have other rows or columns.
    pub(crate) fn is_shared(&self) -> bool {
        self.shard.is_some() || self.row_shard.is_some()
    }

    /// The other ranks, if X is divided among several.
    pub(crate) fn comm(&self) -> Option<&'a dyn Comm> {
        let of_columns = self.shard.map(|shard| shard.comm);
        of_columns.or_else(|| self.row_shard.map(|shard| shard.comm))
    }

    /// The same rows, which are a copy of `original`, with its ranks and its place among them.
    pub(super) fn on_ranks_of(self, original: &Rows<'a>) -> Rows<'a> {
        self.on_ranks(original.shard, original.row_shard)
    }

    /// The same rows, with this place among those of other ranks.
    pub(super) fn on_ranks(
        self,
        shard: Option<Shard<'a>>,
        row_shard: Option<RowShard<'a>>,
    ) -> Rows<'a> {
        Rows {
            shard,
            row_shard,
            ..self
        }
    }

    /// The place of these columns among those of all ranks; `None` if they are all.
    pub(crate) fn shard(&self) -> Option<Shard<'a>> {
        self.shard
    }

    /// Number of features of all ranks.
    pub(crate) fn all_features(&self) -> usize {
        self.shard.map_or(self.features, |shard| shard.features)
    }

    /// `result`, if no rank has an error: see [`comm::agree`].
    pub(crate) fn agree<T>(&self, result: Result<T>) -> Result<T> {
        match self.comm() {
            Some(comm) => comm::agree(comm, result),
            None => result,
        }
    }

    /// n: number of rows.
    pub fn len(&self) -> usize {
        self.index.as_ref().map_or(self.rows, Vec::len)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// d: number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// All rows as one borrowed matrix; `None` if they are not contiguous.
    pub fn contiguous(&self) -> Option<MatRef<'a>> {
        let contiguous = self.index.is_none() && self.stride == self.features;
        contiguous.then(|| MatRef::new(self.values, self.rows, self.features))
    }

    /// The features of row `i`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        let i = self.index.as_ref().map_or(i, |index| index[i] as usize);
        &self.values[i * self.stride..][..self.features]
    }

    /// Row `i` of all ranks: a message if other ranks have other rows.
    pub(crate) fn row_of_all(&self, i: usize) -> Cow<'a, [f32]> {
        let Some(shard) = self.row_shard else {
            return Cow::Borrowed(self.row(i));
        };
        let mut bits = vec![0; self.features];
        if shard.range().contains(&i) {
            let values = bits.iter_mut().zip(self.row(i - shard.first));
            values.for_each(|(bits, x)| *bits = i64::from(x.to_bits()));
        }
        shard.comm.sum(&mut bits);
        bits.iter()
            .map(|&bits| f32::from_bits(bits as u32))
            .collect()
    }

    /// Refuse features that are no finite numbers. Cost: X is read once, unless its features are
    /// known to be usable.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the first by row and column.
    pub(crate) fn check_finite(&self, what: &'static str) -> Result<()> {
        self.refuse(what, self.first_bad(f32::is_finite))
    }

    /// Refuse features that are not usable (see [`is_usable`]). Cost: as [`Rows::check_finite`].
    ///
    /// # Errors
    /// [`Error::Shape`] naming the first by row and column, and the largest value of that column.
    pub(crate) fn check_usable(&self, what: &'static str) -> Result<()> {
        self.refuse(what, self.first_bad(is_usable))
    }

    /// The error for the feature at this row and column, if there is one.
    fn refuse(&self, what: &'static str, bad: Option<(usize, usize)>) -> Result<()> {
        let Some((row, own)) = bad else {
            return Ok(());
        };
        let value = self.row(row)[own];
        let column = own + self.shard.map_or(0, |shard| shard.first);
        let values = (0..self.len()).map(|i| self.row(i)[own].abs());
        let row = row + self.row_shard.map_or(0, |shard| shard.first);
        if !value.is_finite() {
            let found = format!("{value} in row {row}, feature {column}");
            return Err(Error::shape(what, found, "finite numbers"));
        }
        let largest = values.filter(|value| value.is_finite()).fold(0.0, f32::max);
        Err(Error::shape(
            what,
            format!("{value:e} in row {row}, feature {column}, whose largest is {largest:e}"),
            "numbers from -1e15 to 1e15, so that f32 holds sums of their squares: replace values that stand for missing ones, or divide that feature by a power of ten",
        ))
    }

    /// The row and the column of the first feature that fails the test.
    fn first_bad(&self, test: impl Fn(f32) -> bool + Copy + Sync) -> Option<(usize, usize)> {
        if self.known_usable {
            return None;
        }
        let rows = (0..self.len()).into_par_iter();
        let rows = rows.share(Work::bytes(4 * self.len() * self.features()));
        let bad = rows.map(|i| position(self.row(i), test)).collect();
        (bad.iter().enumerate()).find_map(|(row, column)| Some((row, (*column)?)))
    }

    /// The largest |x_i|² of the rows i for which `keep(i)` is true. Cost: these rows are read once.
    /// If ranks share the rows, i counts those of all.
    pub fn largest_square(&self, keep: impl Fn(usize) -> bool + Sync) -> f64 {
        let first = self.row_shard.map_or(0, |shard| shard.first);
        let keep = |own: usize| keep(first + own);
        let square = |row: &[f32]| -> f64 { row.iter().map(|&x| f64::from(x).powi(2)).sum() };
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep(i)).collect();
        let work = Work::bytes(4 * kept.len() * self.features());
        let rows = kept.par_iter().share(work);
        let squares: Vec<f64> = match self.shard {
            None => rows.map(|&i| square(self.row(i))).collect(),
            Some(_) => {
                let norms = self.row_norms();
                kept.iter().map(|&i| norms[i].powi(2)).collect()
            }
        };
        let mut largest = squares.into_iter().fold(0.0, f64::max);
        if let Some(shard) = self.row_shard {
            comm::max(shard.comm, std::slice::from_mut(&mut largest));
        }
        largest
    }

    /// The sum of `of_columns` over the columns of all ranks, `len` values: of all columns at once for a
    /// single process, else of each slab, added in the order of the slabs. The bits do not depend on
    /// the number of ranks. Traffic: `len` numbers for each of at most 64 slabs (more for over 65,536
    /// columns).
    pub(crate) fn sum_of_columns(
        &self,
        len: usize,
        of_columns: impl Fn(Range<usize>) -> Vec<f64>,
    ) -> Vec<f64> {
        let Some(shard) = self.shard else {
            return of_columns(0..self.features);
        };
        let slab = shard_slab(shard.features);
        let mut bits = vec![0i64; shard.features.div_ceil(slab) * len];
        for first in (0..self.features).step_by(slab) {
            let values = of_columns(first..(first + slab).min(self.features));
            let place = (shard.first + first) / slab * len;
            let places = bits[place..][..len].iter_mut().zip(values);
            places.for_each(|(bits, value)| *bits = value.to_bits() as i64);
        }
        shard.comm.sum(&mut bits);
        let mut sums = vec![0.0; len];
        for of_slab in bits.chunks_exact(len) {
            let values = sums.iter_mut().zip(of_slab);
            values.for_each(|(sum, &bits)| *sum += f64::from_bits(bits as u64));
        }
        sums
    }

    /// Whether `here` holds on every rank.
    pub(crate) fn all_ranks(&self, here: bool) -> bool {
        self.comm().map_or(here, |comm| comm::all(comm, here))
    }

    /// The norm of each row, over the columns of all ranks, which share them. Cost: X is read once.
    pub(crate) fn row_norms(&self) -> Vec<f64> {
        self.norms_of_rows(|i, columns| {
            let values = self.row(i)[columns].iter();
            values.map(|&x| f64::from(x).powi(2)).sum()
        })
    }

    /// The norms of rows over the columns of all ranks, which share them: `square` is the square of that
    /// of row i over some columns.
    pub(crate) fn norms_of_rows(
        &self,
        square: impl Fn(usize, Range<usize>) -> f64 + Sync,
    ) -> Vec<f64> {
        let shard = self.shard.expect("ranks share the columns");
        let slab = shard_slab(shard.features);
        let work = Work::bytes(4 * self.len() * slab);
        let squares: Vec<Vec<f64>> = (0..self.features)
            .step_by(slab)
            .map(|first| {
                let columns = first..(first + slab).min(self.features);
                let rows = (0..self.len()).into_par_iter().share(work);
                rows.map(|i| square(i, columns.clone())).collect()
            })
            .collect();
        norms_of_ranks(shard.comm, shard.features.div_ceil(slab), &squares)
    }

    /// Reads one value of each page of these rows, in order, to load a memory map before its rows are
    /// multiplied: sequential reads are the fastest on a disk.
    pub fn touch(&self, range: Range<usize>) {
        /// Number of values in the smallest page, 4096 bytes.
        const PAGE: usize = 1024;
        for i in range {
            let row = self.row(i);
            let values = row.iter().step_by(PAGE).chain(row.last());
            values.for_each(|value| {
                std::hint::black_box(*value);
            });
        }
    }

    /// Rows `range` as a matrix: borrowed if they are contiguous, else copied to `scratch`.
    pub fn block<'b>(&'b self, range: Range<usize>, scratch: &'b mut Vec<f32>) -> MatRef<'b> {
        match self.contiguous() {
            Some(x) => x.rows_range(range),
            None => {
                let rows = range.len();
                scratch.clear();
                range.for_each(|i| scratch.extend_from_slice(self.row(i)));
                MatRef::new(scratch, rows, self.features())
            }
        }
    }

    /// The rows with these numbers, which must be in ascending order.
    pub(super) fn choose(&self, kept: &[u32]) -> Self {
        let mut chosen = self.clone();
        let ends = kept.first().copied().zip(kept.last().copied());
        match (ends, &self.index) {
            (Some((first, last)), None) if (last - first) as usize + 1 == kept.len() => {
                let end = (last as usize + 1) * self.stride;
                let end = end.min(self.values.len());
                chosen.values = &self.values[first as usize * self.stride..end];
                chosen.rows = kept.len();
            }
            _ => {
                let number = |&i: &u32| self.index.as_ref().map_or(i, |index| index[i as usize]);
                chosen.index = Some(kept.iter().map(number).collect());
            }
        }
        chosen
    }
}
