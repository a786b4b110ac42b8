//! Rows that ranks share: each has some of the n rows of X.

use std::ops::Range;

use bytemuck::Pod;

use crate::comm::{self, Comm};
use crate::error::{Error, Result};

/// The place of a rank's rows among those of X, which all ranks hold together.
///
/// Sums over rows are sums over blocks of rows, whose boundaries depend on n alone where each rank has
/// whole blocks: the bits do not depend on the number of ranks then.
#[derive(Clone, Copy, Debug)]
pub struct RowShard<'a> {
    /// The ranks.
    pub comm: &'a dyn Comm,
    /// The first row of this rank.
    pub first: usize,
    /// n: number of rows of all ranks.
    pub rows: usize,
    /// Number of rows of this rank.
    own: usize,
    /// Number of rows of a block; the last one of a rank may have fewer.
    block: usize,
    /// The first block of this rank, and the number of blocks of all ranks.
    blocks: (usize, usize),
}

/// Number of rows of a block of n rows that ranks share: a multiple of 512, so that at most 64 blocks
/// have all rows.
pub fn shard_block(n: usize) -> usize {
    n.div_ceil(64).next_multiple_of(512)
}

/// Whether ranks divide X of n rows and d features by rows; otherwise they divide it by columns.
pub fn are_shared(n: usize, d: usize) -> bool {
    n > d
}

/// The rows that `rank` of `size` ranks is to have of n that they share: whole blocks; or an even share if
/// there are fewer blocks than ranks, which then cannot share the rows.
pub fn share(n: usize, rank: usize, size: usize) -> Range<usize> {
    let block = shard_block(n).max(1);
    let blocks = n.div_ceil(block);
    if blocks < size {
        return comm::share(n, rank, size);
    }
    let own = comm::share(blocks, rank, size);
    (own.start * block).min(n)..(own.end * block).min(n)
}

impl<'a> RowShard<'a> {
    /// The place of this rank of `comm` among those of n rows: a run of whole blocks.
    ///
    /// # Errors
    /// [`Error::Options`] if there are fewer blocks than ranks.
    pub fn new(comm: &'a dyn Comm, n: usize) -> Result<RowShard<'a>> {
        let block = shard_block(n);
        let blocks = n.div_ceil(block);
        if blocks < comm.size() {
            return Err(Error::options(
                "number of processes",
                comm.size(),
                format!("at most {blocks}: {n} rows make as many blocks of {block} rows"),
            ));
        }
        let own = comm::share(blocks, comm.rank(), comm.size());
        let first = own.start * block;
        Ok(RowShard {
            comm,
            first,
            rows: n,
            own: (own.end * block).min(n) - first,
            block,
            blocks: (own.start, blocks),
        })
    }

    /// The ranges of this rank's rows that are blocks.
    pub fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.own).step_by(self.block);
        starts.map(move |start| start..(start + self.block).min(self.own))
    }

    /// The block of a row of this rank, counted from its first.
    pub fn block_of(self, row: u32) -> usize {
        row as usize / self.block
    }

    /// `len` values of each block of all ranks, in order; `parts` are the blocks whose values are not 0,
    /// each with a range that is given to `of_rows`. Traffic: 8 bytes a value.
    fn gather_of(
        self,
        len: usize,
        parts: impl Iterator<Item = (usize, Range<usize>)>,
        mut of_rows: impl FnMut(Range<usize>) -> Vec<f64>,
    ) -> Vec<f64> {
        let (first, all) = self.blocks;
        let mut bits = vec![0i64; all * len];
        for (block, range) in parts {
            let to = bits[(first + block) * len..][..len].iter_mut();
            let values = to.zip(of_rows(range));
            values.for_each(|(bits, value)| *bits = value.to_bits() as i64);
        }
        self.comm.sum(&mut bits);
        bits.into_iter()
            .map(|bits| f64::from_bits(bits as u64))
            .collect()
    }

    /// The sum of `of_rows`, `len` values, over the blocks of all ranks, in order.
    pub fn sum(self, len: usize, of_rows: impl FnMut(Range<usize>) -> Vec<f64>) -> Vec<f64> {
        self.sum_of(len, self.ranges().enumerate(), of_rows)
    }

    /// [`RowShard::sum`] where `parts` are the blocks that are not 0, each with a range that is given to
    /// `of_rows`: the places in a batch of the rows of that block.
    pub fn sum_of(
        self,
        len: usize,
        parts: impl Iterator<Item = (usize, Range<usize>)>,
        of_rows: impl FnMut(Range<usize>) -> Vec<f64>,
    ) -> Vec<f64> {
        let mut sums = vec![0.0; len];
        for of_block in self.gather_of(len, parts, of_rows).chunks_exact(len) {
            let values = sums.iter_mut().zip(of_block);
            values.for_each(|(sum, value)| *sum += value);
        }
        sums
    }

    /// The blocks of which this rank has some `rows` (`None`: all), each with their range in that list,
    /// which must be sorted by blocks.
    pub fn parts_of(self, rows: Option<&[u32]>) -> Vec<(usize, Range<usize>)> {
        let Some(rows) = rows else {
            return self.ranges().enumerate().collect();
        };
        let mut start = 0;
        let same = |a: &u32, b: &u32| self.block_of(*a) == self.block_of(*b);
        let parts = rows.chunk_by(same).map(|part| {
            let range = start..start + part.len();
            start = range.end;
            (self.block_of(part[0]), range)
        });
        parts.collect()
    }

    /// The numbers of this rank's rows among those of all ranks.
    pub fn range(self) -> Range<usize> {
        self.first..self.first + self.own
    }

    /// The number of values of all ranks, if this one has `own` for its rows.
    pub fn len_of_all(self, own: usize) -> usize {
        own / self.own * self.rows
    }

    /// The c x n values (of f32 or f64) of all ranks, of which `own` are those of this rank's rows.
    /// Traffic: the bytes of all values.
    pub fn rows_of_all<T: Pod>(self, own: &[T]) -> Vec<T> {
        let len = self.len_of_all(own.len());
        // Where this rank has no values, its bytes are 0.
        let mut all = vec![0i64; (len * size_of::<T>()).div_ceil(8)];
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut all);
        let outputs = values.chunks_exact_mut(self.rows);
        for (to, own) in outputs.zip(own.chunks_exact(self.own)) {
            to[self.range()].copy_from_slice(own);
        }
        self.comm.sum(&mut all);
        bytemuck::cast_slice(&all)[..len].to_vec()
    }

    /// Copies the values of this rank's rows from the c x n values `all`.
    pub fn copy_own_rows<T: Pod>(self, all: &[T], own: &mut [T]) {
        for (to, all) in own
            .chunks_exact_mut(self.own)
            .zip(all.chunks_exact(self.rows))
        {
            to.copy_from_slice(&all[self.range()]);
        }
    }
}
