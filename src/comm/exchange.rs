//! Rows of each rank, exchanged for what each rank is to have: its columns of all rows, or other rows.
//!
//! **Columns** ([`rows_to_columns`]). Rank a is to have the columns C_a of all rows. It lacks, of each
//! other rank b, the block (b, a): the columns C_a of b's rows. A sum reaches all ranks, so that a
//! vector with a place for each block would carry n·d values. Instead, the blocks (a, b) and (b, a)
//! share their place: each of the two ranks knows what it added itself, subtracts it, and keeps the
//! block of the other. With P ranks n·d·(P - 1)/(2P) values are added, 31 of them in 16 integers: about
//! 2·n·d·(P - 1)/P bytes. Sums can do no better: one block of each pair must be carried, because among
//! the ranks in order no rank knows in advance what a later one lacks.
//!
//! **Rows** ([`move_rows`]). A row that moves has a place of its own, to which its rank adds it: 4·d
//! bytes a row.
//!
//! **Memory.** The result, and a message of at most 32 MiB, or of one row (of each rank, for columns).

use std::ops::Range;

use crate::comm::Comm;

/// Bits of values that an integer carries: the sum of two such integers does not overflow.
const BITS: u32 = 62;
const MASK: u128 = (1 << BITS) - 1;
/// Largest number of integers of a message, unless one row of each rank needs more.
const MESSAGE: usize = 4 << 20;

/// Writes into `all` (row-major) the columns `columns[comm.rank()]` of the rows of all ranks.
///
/// Rank r has `rows[r]` rows, and `row` returns those of this rank; the ranks' rows follow each other
/// in the order of the ranks. `columns` covers all columns. All ranks call it with the same `rows`
/// and `columns`.
///
/// # Panics
/// If `all` has another length than the result.
pub fn rows_to_columns<'a>(
    comm: &dyn Comm,
    row: impl Fn(usize) -> &'a [f32],
    rows: &[usize],
    columns: &[Range<usize>],
    all: &mut [f32],
) {
    exchange(comm, row, rows, columns, all, MESSAGE);
}

fn exchange<'a>(
    comm: &dyn Comm,
    row: impl Fn(usize) -> &'a [f32],
    rows: &[usize],
    columns: &[Range<usize>],
    all: &mut [f32],
    message: usize,
) {
    let (rank, size) = (comm.rank(), comm.size());
    let own = columns[rank].clone();
    assert_eq!(all.len(), rows.iter().sum::<usize>() * own.len());
    let mut starts = vec![0];
    starts.extend(rows.iter().scan(0, |end, &rows| {
        *end += rows * own.len();
        Some(*end)
    }));
    for (i, to) in all[starts[rank]..starts[rank + 1]]
        .chunks_exact_mut(own.len())
        .enumerate()
    {
        to.copy_from_slice(&row(i)[own.clone()]);
    }
    let pairs: Vec<(usize, usize)> = (0..size)
        .flat_map(|a| (a + 1..size).map(move |b| (a, b)))
        .collect();
    // The place of a pair in a message in which each rank has this number of rows.
    let place = |(a, b): (usize, usize), height: &dyn Fn(usize) -> usize| {
        let values = (height(a) * columns[b].len()).max(height(b) * columns[a].len());
        (32 * values).div_ceil(BITS as usize)
    };
    let of_one_row: usize = pairs.iter().map(|&pair| place(pair, &|_| 1)).sum();
    let most = (message / of_one_row.max(1)).max(1);
    let longest = rows.iter().copied().max().unwrap_or(0);
    let mut integers = Vec::new();
    for first in (0..if pairs.is_empty() { 0 } else { longest }).step_by(most) {
        let turn = |rank: usize| first.min(rows[rank])..(first + most).min(rows[rank]);
        let height = |rank: usize| turn(rank).len();
        let lengths: Vec<usize> = pairs.iter().map(|&pair| place(pair, &height)).collect();
        // Calls `with` for the other rank of each pair of this one, and the pair's place.
        let each = |integers: &mut [i64], with: &mut dyn FnMut(usize, &mut [i64])| {
            let mut rest = integers;
            for (&(a, b), &length) in pairs.iter().zip(&lengths) {
                let (place, after) = rest.split_at_mut(length);
                rest = after;
                if a == rank || b == rank {
                    with(a + b - rank, place);
                }
            }
        };
        let values = |other: usize| {
            let (row, columns) = (&row, columns[other].clone());
            turn(rank).flat_map(move |i| row(i)[columns.clone()].iter().copied())
        };
        integers.clear();
        integers.resize(lengths.iter().sum(), 0);
        each(&mut integers, &mut |other, place| {
            pack(values(other), place, 1);
        });
        comm.sum(&mut integers);
        each(&mut integers, &mut |other, place| {
            pack(values(other), place, -1);
            let from = starts[other] + turn(other).start * own.len();
            let to = &mut all[from..][..height(other) * own.len()];
            unpack(place, to);
        });
    }
}

/// Writes into `wanted` the rows of all ranks that have these numbers.
///
/// Rank r has `rows[r]` rows, and `row` returns those of this rank; the ranks' rows follow each other
/// in the order of the ranks. `moved` has the numbers, among those of all ranks, of the rows that ranks
/// want and do not have, in ascending order. All ranks call it with the same `rows` and `moved`.
///
/// # Panics
/// If `to` has another length than the wanted rows, each of `features` values.
pub fn move_rows<'a>(
    comm: &dyn Comm,
    row: impl Fn(usize) -> &'a [f32],
    rows: &[usize],
    moved: &[usize],
    wanted: Range<usize>,
    features: usize,
    to: &mut [f32],
) {
    assert_eq!(to.len(), wanted.len() * features);
    let first: usize = rows[..comm.rank()].iter().sum();
    let own = first..first + rows[comm.rank()];
    let mut keep = |i: usize, values: &[f32]| {
        to[(i - wanted.start) * features..][..features].copy_from_slice(values);
    };
    for i in own.start.max(wanted.start)..own.end.min(wanted.end) {
        keep(i, row(i - first));
    }
    let of_row = features.div_ceil(2);
    let mut integers = Vec::new();
    for moved in moved.chunks((MESSAGE / of_row.max(1)).max(1)) {
        integers.clear();
        integers.resize(moved.len() * of_row, 0i64);
        let places = integers.chunks_exact_mut(of_row);
        for (&i, place) in moved.iter().zip(places).filter(|(i, _)| own.contains(i)) {
            let values: &mut [f32] = bytemuck::cast_slice_mut(place);
            values[..features].copy_from_slice(row(i - first));
        }
        comm.sum(&mut integers);
        let places = integers.chunks_exact(of_row);
        for (&i, place) in moved.iter().zip(places).filter(|(i, _)| wanted.contains(i)) {
            let values: &[f32] = bytemuck::cast_slice(place);
            keep(i, &values[..features]);
        }
    }
}

/// Adds `sign` times the integers that carry these values.
fn pack(values: impl Iterator<Item = f32>, integers: &mut [i64], sign: i64) {
    let (mut bits, mut held) = (0u128, 0);
    let mut integers = integers.iter_mut();
    let mut add = |bits: u128| {
        *integers.next().expect("a place of this length") += sign * (bits & MASK) as i64;
    };
    for value in values {
        bits |= u128::from(value.to_bits()) << held;
        held += 32;
        if held >= BITS {
            add(bits);
            bits >>= BITS;
            held -= BITS;
        }
    }
    if held > 0 {
        add(bits);
    }
}

/// The values that these integers carry.
fn unpack(integers: &[i64], values: &mut [f32]) {
    let (mut bits, mut held) = (0u128, 0);
    let mut integers = integers.iter();
    for value in values {
        if held < 32 {
            let integer = *integers.next().expect("an integer for these values");
            bits |= u128::from(integer as u64) << held;
            held += BITS;
        }
        *value = f32::from_bits(bits as u32);
        bits >>= 32;
        held -= 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::tests::on_ranks;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Every pattern of bits arrives: NaN, infinities, -0 and subnormal numbers among them.
    fn any_bits(values: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            f32::from_bits((state >> 32) as u32)
        };
        (0..values).map(|_| next()).collect()
    }

    fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
        values.into_iter().map(f32::to_bits).collect()
    }

    proptest! {
        #[test]
        fn values_come_out_of_integers_as_they_went_in(length in 0usize..200, seed: u64) {
            let (a, b) = (any_bits(length, seed), any_bits(length, !seed));
            let mut integers = vec![0; (32 * length).div_ceil(62)];
            pack(a.iter().copied(), &mut integers, 1);
            pack(b.iter().copied(), &mut integers, 1);
            pack(a.iter().copied(), &mut integers, -1);
            let mut found = vec![0.0; length];
            unpack(&integers, &mut found);
            prop_assert_eq!(bits(found), bits(b));
        }

        /// Whatever the ranks' shares of rows and columns, none among them, and the size of messages.
        #[test]
        fn every_rank_gets_its_columns_of_all_rows(
            rows in prop::collection::vec(0usize..6, 1..6),
            widths in prop::collection::vec(0usize..40, 5),
            message in 1usize..100,
            seed: u64,
        ) {
            let size = rows.len();
            let n: usize = rows.iter().sum();
            let mut columns = Vec::new();
            let mut d = 0;
            for width in &widths[..size] {
                columns.push(d..d + width + 1);
                d += width + 1;
            }
            let x = any_bits(n * d, seed);
            let found = on_ranks(size, |comm| {
                let before: usize = rows[..comm.rank()].iter().sum();
                let row = |i: usize| &x[(before + i) * d..][..d];
                let mut all = vec![0.0; n * columns[comm.rank()].len()];
                exchange(comm, row, &rows, &columns, &mut all, message);
                all
            });
            for (found, own) in found.into_iter().zip(&columns) {
                let expected = x.chunks_exact(d).flat_map(|row| row[own.clone()].to_vec());
                prop_assert_eq!(bits(found), bits(expected));
            }
        }
    }

    proptest! {
        /// Whatever the ranks have and want; all rows, or those that a rank wants and lacks, move.
        #[test]
        fn every_rank_gets_the_rows_that_it_wants(
            rows in prop::collection::vec(0usize..6, 1..6),
            ends in prop::collection::vec(0usize..30, 5),
            d in 1usize..9,
            everywhere: bool,
            seed: u64,
        ) {
            let size = rows.len();
            let n: usize = rows.iter().sum();
            let x = any_bits(n * d, seed);
            let mut ends: Vec<usize> = ends[..size].iter().map(|&end| end.min(n)).collect();
            ends.sort_unstable();
            ends[size - 1] = n;
            let wanted = |rank: usize| {
                if everywhere {
                    return 0..n;
                }
                let start = if rank == 0 { 0 } else { ends[rank - 1] };
                start..ends[rank]
            };
            let has = |rank: usize| {
                let first: usize = rows[..rank].iter().sum();
                first..first + rows[rank]
            };
            let lacks = |i: &usize| (0..size).any(|r| wanted(r).contains(i) && !has(r).contains(i));
            let moved: Vec<usize> = (0..n).filter(lacks).collect();
            let found = on_ranks(size, |comm| {
                let (own, wanted) = (has(comm.rank()), wanted(comm.rank()));
                let row = |i: usize| &x[(own.start + i) * d..][..d];
                let mut to = vec![0.0; wanted.len() * d];
                move_rows(comm, row, &rows, &moved, wanted, d, &mut to);
                to
            });
            for (rank, found) in found.into_iter().enumerate() {
                let wanted = wanted(rank);
                prop_assert_eq!(bits(found), bits(x[wanted.start * d..wanted.end * d].to_vec()));
            }
        }
    }

    #[derive(Debug)]
    struct Counted<'a>(&'a dyn Comm, &'a AtomicUsize, &'a AtomicUsize);

    impl Comm for Counted<'_> {
        fn rank(&self) -> usize {
            self.0.rank()
        }
        fn size(&self) -> usize {
            self.0.size()
        }
        fn sum(&self, values: &mut [i64]) {
            if self.rank() == 0 {
                self.1.fetch_add(values.len(), Ordering::Relaxed);
                self.2.fetch_max(values.len(), Ordering::Relaxed);
            }
            self.0.sum(values);
        }
    }

    /// The formula of the module's documentation, and the bound of a message.
    #[test]
    fn traffic_and_messages_are_as_documented() {
        let (n, d, message) = (60, 310, 500);
        for size in [1, 2, 3, 5] {
            let (sent, longest) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let x = vec![1.0; d];
            on_ranks(size, |comm| {
                let comm = Counted(comm, &sent, &longest);
                let share = |of: usize| -> Vec<Range<usize>> {
                    (0..size)
                        .map(|rank| crate::comm::share(of, rank, size))
                        .collect()
                };
                let rows: Vec<usize> = share(n).iter().map(|rows| rows.len()).collect();
                let columns = share(d);
                let mut all = vec![0.0; n * columns[comm.rank()].len()];
                exchange(&comm, |_| &x, &rows, &columns, &mut all, message);
            });
            let formula = 2.0 * (n * d * (size - 1)) as f64 / size as f64;
            let bytes = 8.0 * sent.into_inner() as f64;
            assert!(
                (formula..=1.06 * formula + 1e-9).contains(&bytes),
                "{size}: {bytes} {formula}"
            );
            assert!(longest.into_inner() <= message);
        }
    }
}
