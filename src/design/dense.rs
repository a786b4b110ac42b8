//! Products with X in f32, for SGD and for the dense solver.
//!
//! ```text
//! logits    Zᵀ = W X_Bᵀ + b 1ᵀ                 c x B
//! adjoint   W  = alpha · Gᵀ X_B + beta · W      c x d
//! ```
//!
//! Contiguous rows are read in place. Other rows (mini-batches, a choice of classes, centred rows) are
//! gathered into a block of bounded size first.
//!
//! Gᵀ X is summed over blocks of [`row_block`] rows, 4096 or more, in f32 within a block and in f64,
//! in the order of the rows, over blocks: the rounding error grows with the block, not with n. A
//! block has about 2²⁵/(c·d) rows, so with few outputs and features all rows are one block. Time
//! compared with a single f32 sum, on one thread: 15 % less with 10 outputs on X of 200,000 x 512;
//! within 2.5 % with 102 on 8192 x 4096, 100 on 50,000 x 768 and 10 on 60,000 x 784.

use std::ops::Range;

use rayon::prelude::*;

use crate::comm::fixed::{Fixed, Units, exponent};
use crate::comm::rows::RowShard;
use crate::comm::{self, shard_slab};
use crate::design::rows::{Batch, Rows, Shard, column_norms, weight_norms};
use crate::kernels::{Isa, with_isa};
use crate::linalg::gemm::{Accum, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec;
use crate::threads::{Share, Work};

/// Smallest number of rows of a block.
const ROW_BLOCK: usize = 4096;
/// Smallest number of multiplications of a block: about a millisecond, so that the synchronisation of
/// threads at its ends costs little.
const BLOCK_WORK: usize = 1 << 25;
/// Largest number of bytes of X that are gathered at a time.
const GATHER_BYTES: usize = 64 << 20;
/// Largest number of bytes of X that are centred at a time: they should stay in the cache until they
/// are multiplied.
const CENTER_BYTES: usize = 4 << 20;

/// The number of rows, a power of two, whose products are summed in f32; it depends only on the
/// outputs c and the features d.
fn row_block(c: usize, d: usize) -> usize {
    ROW_BLOCK.max(BLOCK_WORK.div_ceil(c * d).next_power_of_two())
}

/// X or X - 1 μᵀ, the back end that multiplies it, and scratch space.
#[derive(Debug)]
pub(crate) struct Dense<'a> {
    x: &'a Rows<'a>,
    gemm: Gemm,
    /// μ.
    mean: Option<Vec<f32>>,
    /// 0..n, where all rows are gathered.
    all_rows: Vec<u32>,
    gathered: Gathered,
    /// The columns of Zᵀ or Gᵀ that belong to a block.
    columns: Vec<f32>,
    /// The sum over a block of rows, and the sum over blocks.
    sums: (Vec<f32>, Vec<f64>),
    /// The norms of the rows of X on all ranks, if they share the columns; those of the columns of
    /// X - 1 μᵀ, if they share the rows.
    norms: Option<Vec<f64>>,
    /// Products of a block of rows, and their sums over blocks, if ranks share the rows.
    shared: (Vec<f32>, Vec<i64>),
}

/// A copy of some rows of X.
#[derive(Debug, Default)]
struct Gathered {
    /// Numbers of the rows, so that logits and adjoint of a batch gather it once.
    rows: Vec<u32>,
    values: Vec<f32>,
}

impl<'a> Dense<'a> {
    /// X itself.
    pub(crate) fn new(x: &'a Rows<'a>, gemm: Gemm) -> Self {
        let all_rows = match x.contiguous() {
            Some(_) => Vec::new(),
            None => (0..x.len() as u32).collect(),
        };
        Dense {
            x,
            gemm,
            mean: None,
            all_rows,
            gathered: Gathered::default(),
            columns: Vec::new(),
            sums: (Vec::new(), Vec::new()),
            norms: match (x.shard(), x.row_shard()) {
                (Some(_), _) => Some(x.row_norms()),
                (None, Some(shard)) => Some(column_norms(x, shard, None)),
                (None, None) => None,
            },
            shared: (Vec::new(), Vec::new()),
        }
    }

    /// X - 1 μᵀ, computed block by block in every product.
    pub(crate) fn centered(x: &'a Rows<'a>, mean: &[f32], gemm: Gemm) -> Self {
        let mut dense = Dense {
            all_rows: (0..x.len() as u32).collect(),
            mean: Some(mean.to_vec()),
            ..Dense::new(x, gemm)
        };
        if let Some(shard) = x.row_shard() {
            dense.norms = Some(column_norms(x, shard, Some(mean)));
        }
        dense
    }

    /// X.
    pub(crate) fn x(&self) -> &'a Rows<'a> {
        self.x
    }

    /// The norms of the columns of X - 1 μᵀ on all ranks, which share the rows.
    pub(crate) fn column_norms(&self) -> &[f64] {
        self.norms.as_deref().expect("the rows are shared")
    }

    /// n: number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.x.len()
    }

    /// d: number of features.
    pub(crate) fn features(&self) -> usize {
        self.x.features()
    }

    /// Number of rows of a batch.
    pub(crate) fn rows_of(&self, batch: Batch) -> usize {
        match batch {
            Batch::All => self.rows(),
            Batch::Rows(rows) => rows.len(),
        }
    }

    /// Calls `work` with each block of the batch's rows of X and the block's range in the batch. If
    /// rows are gathered, all blocks of a run of rows but the last have the same power of two of rows.
    pub(crate) fn each(&mut self, batch: Batch, mut work: impl FnMut(Range<usize>, MatRef)) {
        match batch {
            Batch::All => {
                for rows in self.x.blocks() {
                    self.each_of(batch, rows, &mut work);
                }
            }
            Batch::Rows(rows) => self.each_of(batch, 0..rows.len(), &mut work),
        }
    }

    /// [`Dense::each`] for the rows at these places of the batch.
    fn each_of(
        &mut self,
        batch: Batch,
        range: Range<usize>,
        work: &mut impl FnMut(Range<usize>, MatRef),
    ) {
        let mean = self.mean.as_deref();
        let (numbers, bytes) = match (batch, self.x.contiguous()) {
            (Batch::All, Some(x)) if mean.is_none() => {
                return work(range.clone(), x.rows_range(range));
            }
            (Batch::All, Some(_)) => (&self.all_rows[..], CENTER_BYTES),
            (Batch::All, None) => (&self.all_rows[..], GATHER_BYTES),
            (Batch::Rows(rows), _) => (rows, GATHER_BYTES),
        };
        let block = self.gathered_rows(bytes);
        for first in range.clone().step_by(block) {
            let range = first..(first + block).min(range.end);
            let x = self.gathered.load(self.x, &numbers[range.clone()], mean);
            work(range, x);
        }
    }

    /// The number of rows of X, a power of two, of about `bytes`: the same for any number of ranks.
    fn gathered_rows(&self, bytes: usize) -> usize {
        1 << (bytes / (4 * self.x.all_features())).max(1).ilog2()
    }

    /// `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch. Cost: 2dc flop per row.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn logits(&mut self, weight: MatRef, bias: &[f32], batch: Batch, mut z: MatMut) {
        if let Some(shard) = self.x.shard() {
            return self.logits_of_ranks(shard, weight, bias, batch, z);
        }
        let (gemm, n) = (self.gemm, z.cols());
        let mut columns = std::mem::take(&mut self.columns);
        self.each(batch, |range, x| {
            let len = range.len();
            let block = if len == n {
                z.as_mut_slice()
            } else {
                columns.resize(bias.len() * len, 0.0);
                &mut columns[..]
            };
            for (row, &bias) in block.chunks_exact_mut(len).zip(bias) {
                row.fill(bias);
            }
            let z_block = MatMut::new(block, bias.len(), len);
            gemm.a_bt(1.0, weight, x, Accum::Add, z_block);
            if len < n {
                let rows = z.as_mut_slice().chunks_exact_mut(n);
                for (row, block) in rows.zip(columns.chunks_exact(len)) {
                    row[range.clone()].copy_from_slice(block);
                }
            }
        });
        self.columns = columns;
    }

    /// [`Dense::logits`] of all ranks, which share the columns: in f32 within a slab of columns, and
    /// over slabs in units that depend on the norms of the output's weight and of the row. The bits do
    /// not depend on the number of ranks.
    fn logits_of_ranks(
        &mut self,
        shard: Shard,
        weight: MatRef,
        bias: &[f32],
        batch: Batch,
        mut z: MatMut,
    ) {
        let (gemm, c, n) = (self.gemm, bias.len(), z.cols());
        let norms = self.norms.take().expect("the columns are shared");
        let slab = shard_slab(shard.features);
        let of_weight = weight_norms(shard, weight.as_slice(), weight.cols());
        // Two more, for the rounding of norms and products.
        let of_weight: Vec<i32> = of_weight.iter().map(|w| 2 + exponent(*w)).collect();
        let of_rows: Vec<i32> = (0..n).map(|i| exponent(norms[batch.row(i)])).collect();
        self.norms = Some(norms);
        let unit = |j: usize, i: usize| Fixed::new(of_weight[j] + of_rows[i]);
        let mut sums = vec![0i64; c * n];
        let mut finite = true;
        let (mut x_slab, mut w_slab) = (Vec::new(), Vec::new());
        let mut product = std::mem::take(&mut self.columns);
        self.each(batch, |rows, x| {
            for first in (0..x.cols()).step_by(slab) {
                let columns = first..(first + slab).min(x.cols());
                let x = columns_of(x, columns.clone(), &mut x_slab);
                let w = columns_of(weight, columns, &mut w_slab);
                product.resize(c * rows.len(), 0.0);
                let part = MatMut::new(&mut product, c, rows.len());
                gemm.a_bt(1.0, w, x, Accum::Replace, part);
                let outputs = sums
                    .chunks_exact_mut(n)
                    .zip(product.chunks_exact(rows.len()));
                for (j, (sums, values)) in outputs.enumerate() {
                    for ((i, sum), &value) in rows.clone().zip(&mut sums[rows.clone()]).zip(values)
                    {
                        finite &= value.is_finite();
                        *sum = sum.wrapping_add(unit(j, i).multiple(value.into()));
                    }
                }
            }
        });
        self.columns = product;
        shard.comm.sum(&mut sums);
        if !comm::all(shard.comm, finite) {
            return z.as_mut_slice().fill(f32::NAN);
        }
        let outputs = z
            .as_mut_slice()
            .chunks_exact_mut(n)
            .zip(sums.chunks_exact(n));
        for (j, ((z, sums), &bias)) in outputs.zip(bias).enumerate() {
            for (i, (z, &sum)) in z.iter_mut().zip(sums).enumerate() {
                *z = (unit(j, i).value(sum) + f64::from(bias)) as f32;
            }
        }
    }

    /// `weight = alpha · Gᵀ X_batch + beta · weight`; Gᵀ is c x batch. With `beta` = 0, `weight`
    /// is not read. Cost: 2dc flop per row.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn adjoint(
        &mut self,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        weight: &mut [f32],
    ) {
        let block = row_block(g.rows(), self.x.all_features());
        if let Some(shard) = self.x.row_shard() {
            let parts = shard.parts_of(batch.numbers());
            return self.adjoint_of_ranks(shard, &parts, block, alpha, g, batch, beta, weight);
        }
        match (self.x.shard(), batch) {
            (Some(shard), Batch::All) => {
                self.adjoint_by_slabs(shard_slab(shard.features), block, alpha, g, beta, weight);
            }
            _ => self.adjoint_in_blocks(block, alpha, g, batch, beta, weight),
        }
    }

    /// [`Dense::adjoint`] of the batch's rows on all ranks: in f32 within a block of rows, whose places in
    /// this rank's batch are in `parts`, and over blocks in units that depend on the norms of an output's g and
    /// of a column. Traffic: cd + 1 numbers, and c for each block.
    #[allow(clippy::too_many_arguments)]
    fn adjoint_of_ranks(
        &mut self,
        shard: RowShard,
        parts: &[(usize, Range<usize>)],
        block: usize,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        weight: &mut [f32],
    ) {
        let (c, d) = (g.rows(), self.features());
        let squares = shard.sum_of(c, parts.iter().cloned(), |rows| {
            let square = |j: usize| vec::dot(&g.row(j)[rows.clone()], &g.row(j)[rows.clone()]);
            (0..c).map(square).collect()
        });
        let norms = self.norms.take().expect("the rows are shared");
        // Two more, for the rounding of norms and products.
        let of_outputs = squares.iter().map(|square| 2 + exponent(square.sqrt()));
        let units = Units::new(
            of_outputs.collect(),
            norms.iter().map(|norm| exponent(*norm)),
        );
        let (mut part, mut sums) = std::mem::take(&mut self.shared);
        part.resize(c * d, 0.0);
        sums.clear();
        // The last one counts products that are not finite.
        sums.resize(c * d + 1, 0);
        let (sums_of_products, infinite) = sums.split_at_mut(c * d);
        let isa = Isa::current();
        for (_, rows) in parts {
            self.adjoint_of_range(block, batch, rows.clone(), 1.0, g, 0.0, &mut part);
            let work = Work::bytes(12 * c * d);
            let outputs = sums_of_products.par_chunks_exact_mut(d);
            let outputs = outputs.zip(part.par_chunks_exact(d)).share(work);
            let finite = outputs
                .enumerate()
                .map(|(j, (sums, values))| with_isa!(isa, || units.add(j, 0, values, sums)));
            infinite[0] += i64::from(!finite.collect().into_iter().all(|finite| finite));
        }
        shard.comm.sum(&mut sums);
        let finite = sums[c * d] == 0;
        let outputs = weight.chunks_exact_mut(d).zip(sums.chunks_exact(d));
        for (j, (weight, sums)) in outputs.enumerate() {
            for (k, (weight, &sum)) in weight.iter_mut().zip(sums).enumerate() {
                let sum = if finite {
                    units.value(j, k, sum)
                } else {
                    f64::NAN
                };
                let before = if beta == 0.0 {
                    0.0
                } else {
                    beta * f64::from(*weight)
                };
                *weight = (f64::from(alpha) * sum + before) as f32;
            }
        }
        self.shared = (part, sums);
        self.norms = Some(norms);
    }

    /// [`Dense::adjoint`] of all rows for `slab` columns at a time, which are copied: the bits are those
    /// of the product with contiguous rows of all columns.
    fn adjoint_by_slabs(
        &mut self,
        slab: usize,
        block: usize,
        alpha: f32,
        g: MatRef,
        beta: f64,
        weight: &mut [f32],
    ) {
        let (n, d) = (self.rows(), self.features());
        let (mut x, mut part) = (Vec::new(), Vec::new());
        for first in (0..d).step_by(slab) {
            let columns = first..(first + slab).min(d);
            x.resize(n * columns.len(), 0.0);
            let work = Work::bytes(2 * size_of_val(&x[..]));
            let rows = x
                .par_chunks_exact_mut(columns.len())
                .share(work)
                .enumerate();
            rows.for_each(|(i, to)| to.copy_from_slice(&self.x.row(i)[columns.clone()]));
            let own = Rows::new(MatRef::new(&x, n, columns.len()));
            part.clear();
            for row in weight.chunks_exact(d) {
                part.extend_from_slice(&row[columns.clone()]);
            }
            let mut design = Dense::new(&own, self.gemm);
            design.adjoint_in_blocks(block, alpha, g, Batch::All, beta, &mut part);
            let rows = weight
                .chunks_exact_mut(d)
                .zip(part.chunks_exact(columns.len()));
            rows.for_each(|(row, part)| row[columns.clone()].copy_from_slice(part));
        }
    }

    /// [`Dense::adjoint`] with `block` rows (a power of two) summed in f32.
    fn adjoint_in_blocks(
        &mut self,
        block: usize,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        weight: &mut [f32],
    ) {
        self.adjoint_of_range(block, batch, 0..g.cols(), alpha, g, beta, weight);
    }

    /// [`Dense::adjoint_in_blocks`] of the rows at these places of the batch.
    #[allow(clippy::too_many_arguments)]
    fn adjoint_of_range(
        &mut self,
        block: usize,
        batch: Batch,
        range: Range<usize>,
        alpha: f32,
        g: MatRef,
        beta: f64,
        weight: &mut [f32],
    ) {
        let mut sum = BlockSum::new(self, block, range.clone(), g, alpha, beta, weight);
        self.each_of(batch, range, &mut |rows, x| sum.add(rows, x));
        sum.finish(self);
    }
}

/// `weight = alpha · Gᵀ X + beta · weight` for some rows, in f32 within blocks of rows and in f64 over
/// blocks.
struct BlockSum<'a> {
    gemm: Gemm,
    /// Number of rows of a block.
    block: usize,
    rows: Range<usize>,
    g: MatRef<'a>,
    alpha: f32,
    beta: f64,
    weight: &'a mut [f32],
    /// How the next product is added to the weight, if all rows are one block.
    accum: Accum,
    columns: Vec<f32>,
    part: Vec<f32>,
    sums: Vec<f64>,
}

impl<'a> BlockSum<'a> {
    /// The sum over `rows` with the scratch space of `dense`.
    fn new(
        dense: &mut Dense,
        block: usize,
        rows: Range<usize>,
        g: MatRef<'a>,
        alpha: f32,
        beta: f64,
        weight: &'a mut [f32],
    ) -> BlockSum<'a> {
        let (mut part, mut sums) = std::mem::take(&mut dense.sums);
        let mut accum = Accum::Add;
        if rows.len() <= block {
            accum = vec::scale(beta, weight);
        } else {
            part.resize(weight.len(), 0.0);
            sums.clear();
            sums.resize(weight.len(), 0.0);
        }
        BlockSum {
            gemm: dense.gemm,
            block,
            rows,
            g,
            alpha,
            beta,
            weight,
            accum,
            columns: std::mem::take(&mut dense.columns),
            part,
            sums,
        }
    }

    /// Adds the product with these rows of X.
    fn add(&mut self, rows: Range<usize>, x: MatRef) {
        let (c, d) = (self.g.rows(), x.cols());
        if self.rows.len() <= self.block {
            let g = columns_of(self.g, rows, &mut self.columns);
            let weight = MatMut::new(self.weight, c, d);
            self.gemm.a_b(self.alpha, g, x, self.accum, weight);
            self.accum = Accum::Add;
            return;
        }
        let origin = self.rows.start;
        for start in rows.clone().step_by(self.block) {
            let end = (start + self.block).min(rows.end);
            let g = columns_of(self.g, start..end, &mut self.columns);
            let x = x.rows_range(start - rows.start..end - rows.start);
            let accum = if (start - origin).is_multiple_of(self.block) {
                Accum::Replace
            } else {
                Accum::Add
            };
            let part = MatMut::new(&mut self.part, c, d);
            self.gemm.a_b(1.0, g, x, accum, part);
            if (end - origin).is_multiple_of(self.block) || end == self.rows.end {
                vec::axpby(1.0, &self.part, 1.0, &mut self.sums);
            }
        }
    }

    /// Writes the sum over blocks to the weight, and returns the scratch space.
    fn finish(self, dense: &mut Dense) {
        if self.rows.len() > self.block {
            vec::axpby(self.alpha.into(), &self.sums, self.beta, self.weight);
        }
        dense.sums = (self.part, self.sums);
        dense.columns = self.columns;
    }
}

/// The columns `range` of Gᵀ: borrowed if these are all columns, else copied to `scratch`.
fn columns_of<'a>(g: MatRef<'a>, range: Range<usize>, scratch: &'a mut Vec<f32>) -> MatRef<'a> {
    if range.len() == g.cols() {
        return g;
    }
    scratch.clear();
    for row in g.as_slice().chunks_exact(g.cols()) {
        scratch.extend_from_slice(&row[range.clone()]);
    }
    MatRef::new(scratch, g.rows(), range.len())
}

impl Gathered {
    /// Copies these rows, minus `mean`, unless they were copied by the last call.
    fn load(&mut self, x: &Rows, rows: &[u32], mean: Option<&[f32]>) -> MatRef<'_> {
        let features = x.features();
        if self.rows != rows {
            self.rows.clear();
            self.rows.extend_from_slice(rows);
            self.values.resize(rows.len() * features, 0.0);
            let work = Work::bytes(2 * size_of_val(&self.values[..]));
            (self.values.par_chunks_exact_mut(features))
                .zip(rows)
                .share(work)
                .for_each(|(to, &row)| {
                    let row = x.row(row as usize);
                    match mean {
                        None => to.copy_from_slice(row),
                        Some(mean) => with_isa!(Isa::current(), || vec::subtract(row, mean, to)),
                    }
                });
        }
        MatRef::new(&self.values, rows.len(), features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random_values as values;
    use crate::linalg::gemm::Backend;

    /// One block of rows, several blocks, and a partial one; rows in place, gathered and centred.
    #[test]
    fn adjoint_equals_the_definition_for_any_number_of_row_blocks() {
        let (d, c) = (5, 3);
        let gemm = Gemm::new(Backend::default(), 1);
        for n in [7, ROW_BLOCK, ROW_BLOCK + 1, 2 * ROW_BLOCK + 9] {
            let x = values(n * (d + 1), 1);
            let x: Vec<f32> = x.iter().map(|x| x + 3.0).collect();
            let g = values(c * n, 2);
            let before = values(c * d, 3);
            let together = Rows::new(MatRef::new(&x[..n * d], n, d));
            let apart = Rows::strided(&x, n, d, d + 1).unwrap();
            let mean = [3.0, 2.5, 3.5, 0.0, 3.25];
            let designs = [
                (Dense::new(&together, gemm), [0.0; 5]),
                (Dense::new(&apart, gemm), [0.0; 5]),
                (Dense::centered(&together, &mean, gemm), mean),
            ];
            for (mut design, mean) in designs {
                for beta in [0.0, 0.5] {
                    let mut found = before.clone();
                    let g = MatRef::new(&g, c, n);
                    design.adjoint_in_blocks(ROW_BLOCK, -0.25, g, Batch::All, beta, &mut found);
                    for (at, found) in found.iter().enumerate() {
                        let (j, k) = (at / d, at % d);
                        let term = |i: usize| {
                            let x = design.x().row(i)[k] - mean[k];
                            f64::from(g.row(j)[i]) * f64::from(x)
                        };
                        let sum: f64 = (0..n).map(term).sum();
                        let expected = beta * f64::from(before[at]) - 0.25 * sum;
                        let size = (n as f64).sqrt();
                        let off = (f64::from(*found) - expected).abs();
                        assert!(off <= 3e-6 * size, "{n} {beta} {at}: {found} {expected}");
                    }
                }
            }
        }
    }

    /// The sums that several machines would gather, added in f64, give the same bits.
    #[test]
    fn adjoint_adds_blocks_of_rows_in_order() {
        let (n, d, c) = (3 * ROW_BLOCK + 100, 6, 2);
        let (x, g) = (values(n * d, 4), values(c * n, 5));
        let gemm = Gemm::new(Backend::default(), 1);
        let all = Rows::new(MatRef::new(&x, n, d));
        let mut found = vec![0.0; c * d];
        let whole = MatRef::new(&g, c, n);
        let mut design = Dense::new(&all, gemm);
        design.adjoint_in_blocks(ROW_BLOCK, 1.0, whole, Batch::All, 0.0, &mut found);
        let mut sums = vec![0.0f64; c * d];
        for first in (0..n).step_by(ROW_BLOCK) {
            let rows = first..(first + ROW_BLOCK).min(n);
            let x = Rows::new(MatRef::new(&x, n, d).rows_range(rows.clone()));
            let mut scratch = Vec::new();
            let g = columns_of(whole, rows, &mut scratch);
            let mut part = vec![0.0; c * d];
            Dense::new(&x, gemm).adjoint(1.0, g, Batch::All, 0.0, &mut part);
            vec::axpby(1.0, &part, 1.0, &mut sums);
        }
        let expected: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn row_blocks_are_powers_of_two_of_at_least_the_block_work() {
        for (c, d, expected) in [
            (102, 4096, 4096),
            (10, 784, 8192),
            (1, 64, 1 << 19),
            (1, 1, 1 << 25),
        ] {
            assert_eq!(row_block(c, d), expected, "{c} x {d}");
        }
    }

    /// ⟨logits(W), G⟩ = ⟨W, adjoint(G)⟩.
    #[test]
    fn adjoint_is_the_transpose_of_logits() {
        let (n, d, c) = (ROW_BLOCK + 50, 4, 2);
        let (x, g, w) = (values(n * d, 6), values(c * n, 7), values(c * d, 8));
        let rows = Rows::new(MatRef::new(&x, n, d));
        let mut design = Dense::new(&rows, Gemm::new(Backend::default(), 1));
        let (mut z, mut back) = (vec![0.0; c * n], vec![0.0; c * d]);
        let weight = MatRef::new(&w, c, d);
        design.logits(weight, &[0.0; 2], Batch::All, MatMut::new(&mut z, c, n));
        let g_view = MatRef::new(&g, c, n);
        design.adjoint_in_blocks(ROW_BLOCK, 1.0, g_view, Batch::All, 0.0, &mut back);
        let (there, back) = (vec::dot(&z, &g), vec::dot(&w, &back));
        assert!((there - back).abs() <= 1e-3, "{there} {back}");
    }
}
