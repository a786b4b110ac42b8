//! Several processes that fit one model together.
//!
//! Every process (rank) runs the same fit on its share of X, and all ranks hold the same state, so
//! that each takes the same decisions. They exchange one kind of message: the elementwise sum of
//! vectors of integers ([`Comm::sum`]). Sums of floats are made of it by [`fixed`]: each addend is
//! rounded to a multiple of a power of two that depends on bounds, not on the addends' order, and
//! the multiples are added as 64-bit integers. Integer sums are exact, so that the bits of a fit do
//! not depend on the number of ranks, on the algorithm of the sum or on the library that computes
//! it (Demmel and Nguyen 2013, "Fast reproducible floating-point summation", round to a common
//! unit, too; here bounds known in advance save their second pass).
//!
//! Everything else is a sum, too: [`assemble`] and [`gather`] add vectors that are 0 outside of a
//! rank's own place, [`max`] gathers, and [`agree`] gathers which ranks failed.

pub mod cost;
pub mod exchange;
pub mod fixed;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod rows;

use std::fmt::Debug;

use crate::error::{Error, Result};

/// A group of processes.
pub trait Comm: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Replaces `values` by their elementwise sums over all ranks, on every rank. All ranks call it
    /// in the same order with vectors of the same length; whether another length is noticed depends on
    /// the implementation. The sums do not overflow.
    ///
    /// An implementation that cannot reach the other ranks ends the process or panics. Fits call it from
    /// one thread at a time, which may be one of their pool.
    fn sum(&self, values: &mut [i64]);
}

/// The vector of `len` values of which each rank has a part: `own`, from `first` on.
pub fn assemble(comm: &dyn Comm, len: usize, first: usize, own: &[i64]) -> Vec<i64> {
    let mut all = vec![0; len];
    all[first..][..own.len()].copy_from_slice(own);
    comm.sum(&mut all);
    all
}

/// Concatenates the values of all ranks, which have the same number of them.
pub fn gather(comm: &dyn Comm, values: &[i64]) -> Vec<i64> {
    let len = values.len();
    assemble(comm, comm.size() * len, comm.rank() * len, values)
}

/// Replaces each value by its largest on any rank.
pub fn max(comm: &dyn Comm, values: &mut [f64]) {
    fold(comm, values, f64::max);
}

/// Replaces each value by its smallest on any rank.
pub fn min(comm: &dyn Comm, values: &mut [f64]) {
    fold(comm, values, f64::min);
}

/// Replaces each value by `f` of the values of all ranks, in their order.
fn fold(comm: &dyn Comm, values: &mut [f64], f: fn(f64, f64) -> f64) {
    if values.is_empty() {
        return;
    }
    let bits: Vec<i64> = values.iter().map(|value| value.to_bits() as i64).collect();
    let all = gather(comm, &bits);
    let value = |bits: i64| f64::from_bits(bits as u64);
    for (i, to) in values.iter_mut().enumerate() {
        let of_ranks = all.iter().skip(i).step_by(bits.len());
        let of_ranks = of_ranks.map(|&bits| value(bits));
        *to = of_ranks.reduce(f).expect("at least one rank");
    }
}

/// Whether `here` is true on every rank.
pub fn all(comm: &dyn Comm, here: bool) -> bool {
    let mut failed = [i64::from(!here)];
    comm.sum(&mut failed);
    failed == [0]
}

/// `result`, if no rank has an error. Ends a part of the work in which a single rank can fail, so
/// that no rank waits for another one that has returned.
///
/// # Errors
/// The error of this rank; [`Error::Rank`] if only others have one.
pub fn agree<T>(comm: &dyn Comm, result: Result<T>) -> Result<T> {
    let failed = gather(comm, &[i64::from(result.is_err())]);
    let value = result?;
    match failed.iter().position(|&failed| failed != 0) {
        None => Ok(value),
        Some(rank) => Err(Error::Rank { rank }),
    }
}

/// The first rank whose value is not that of rank 0.
pub fn first_other(comm: &dyn Comm, value: u32) -> Option<usize> {
    let values = gather(comm, &[value.into()]);
    values.iter().position(|&other| other != values[0])
}

/// Number of columns of a slab of a distributed X of d columns: the smallest part that ranks share,
/// and the part whose products are summed in f32. There are at most 64 slabs, while that leaves them
/// 1024 columns or fewer.
pub fn shard_slab(d: usize) -> usize {
    d.div_ceil(64).next_multiple_of(64).min(1024)
}

/// The first entry of the fingerprint of a checkpoint that several ranks wrote. A single process reads its
/// value where it expects another entry.
pub(crate) const OF_SEVERAL: (&str, &str) = (
    "processes",
    "a fit under mpirun, or with `comm` (to continue it, use `mpirun -n 1` or more)",
);

/// Refuses ranks whose states differ, though each should have computed the same.
///
/// # Errors
/// [`Error::Shape`] with the number of the first other rank.
pub fn refuse_other_state(comm: &dyn Comm, state: &[u8]) -> Result<()> {
    match first_other(comm, crc32fast::hash(state)) {
        None => Ok(()),
        Some(rank) => Err(Error::shape(
            "state of the processes",
            format!("another one in process {rank} than in process 0"),
            "the same: give all processes the same files, labels, weights and options",
        )),
    }
}

/// The share of `rank` in `parts` things that `size` ranks divide: consecutive ones, as evenly as
/// possible.
pub fn share(parts: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
    let start = |rank: usize| rank * parts / size;
    start(rank)..start(rank + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard};

    /// A rank that is a thread.
    #[derive(Debug)]
    pub(crate) struct ThreadRank {
        rank: usize,
        size: usize,
        shared: Arc<(Mutex<Sums>, Condvar)>,
    }

    /// The state of a sum.
    #[derive(Debug, Default)]
    struct Sums {
        values: Vec<i64>,
        /// Number of ranks that have added their values, and of those that have read the sums.
        added: usize,
        read: usize,
        /// Whether a rank panicked, for which the others would wait.
        failed: bool,
    }

    impl ThreadRank {
        /// Waits until `done`.
        fn wait<'s>(
            &self,
            sums: MutexGuard<'s, Sums>,
            done: impl Fn(&Sums) -> bool,
        ) -> MutexGuard<'s, Sums> {
            let waits = |sums: &mut Sums| !(sums.failed || done(sums));
            let sums = self.shared.1.wait_while(sums, waits).unwrap();
            assert!(!sums.failed, "another rank panicked");
            sums
        }
    }

    impl Drop for ThreadRank {
        fn drop(&mut self) {
            if std::thread::panicking()
                && let Ok(mut sums) = self.shared.0.lock()
            {
                sums.failed = true;
                self.shared.1.notify_all();
            }
        }
    }

    impl Comm for ThreadRank {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.size
        }

        fn sum(&self, values: &mut [i64]) {
            let (sums, changed) = &*self.shared;
            // The sum before may not have been read by all.
            let mut sums = self.wait(sums.lock().unwrap(), |sums| sums.read == 0);
            if sums.added == 0 {
                sums.values = vec![0; values.len()];
            }
            assert_eq!(sums.values.len(), values.len(), "lengths of the ranks");
            for (sum, value) in sums.values.iter_mut().zip(&*values) {
                *sum = sum.checked_add(*value).expect("no overflow");
            }
            sums.added += 1;
            changed.notify_all();
            let mut sums = self.wait(sums, |sums| sums.added == self.size);
            values.copy_from_slice(&sums.values);
            sums.read += 1;
            if sums.read == self.size {
                (sums.added, sums.read) = (0, 0);
            }
            changed.notify_all();
        }
    }

    /// Runs `work` on `size` ranks and returns the results in their order.
    pub(crate) fn on_ranks<R: Send>(size: usize, work: impl Fn(&dyn Comm) -> R + Sync) -> Vec<R> {
        let shared = Arc::new((Mutex::new(Sums::default()), Condvar::new()));
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    let shared = Arc::clone(&shared);
                    let comm = ThreadRank { rank, size, shared };
                    let work = &work;
                    scope.spawn(move || work(&comm))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    /// A rank that counts its messages.
    #[derive(Debug)]
    pub(crate) struct Counted<'a> {
        comm: &'a dyn Comm,
        calls: AtomicUsize,
        values: AtomicUsize,
    }

    impl<'a> Counted<'a> {
        pub(crate) fn new(comm: &'a dyn Comm) -> Counted<'a> {
            Counted {
                comm,
                calls: AtomicUsize::new(0),
                values: AtomicUsize::new(0),
            }
        }

        /// The numbers of sums and of their values.
        pub(crate) fn counts(self) -> (usize, usize) {
            (self.calls.into_inner(), self.values.into_inner())
        }
    }

    impl Comm for Counted<'_> {
        fn rank(&self) -> usize {
            self.comm.rank()
        }

        fn size(&self) -> usize {
            self.comm.size()
        }

        fn sum(&self, values: &mut [i64]) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.values.fetch_add(values.len(), Ordering::Relaxed);
            self.comm.sum(values);
        }
    }

    #[test]
    fn gather_max_and_agree_are_made_of_sums() {
        for size in [1, 2, 3, 5] {
            let found = on_ranks(size, |comm| {
                let rank = comm.rank() as i64;
                let gathered = gather(comm, &[rank, -rank]);
                let mut largest = [rank as f64, 1.0 / (1.0 + rank as f64), 1e300];
                max(comm, &mut largest);
                let mut smallest = [-rank as f64, rank as f64];
                min(comm, &mut smallest);
                assert_eq!(smallest, [1.0 - size as f64, 0.0]);
                let failed = match comm.rank() {
                    1 => Err(Error::options("`x`", 1, "2")),
                    _ => Ok(()),
                };
                let agreed = agree(comm, failed).map_err(|error| error.to_string());
                (gathered, largest, agreed, all(comm, rank != 2))
            });
            for (rank, (gathered, largest, agreed, all)) in found.into_iter().enumerate() {
                let expected = (0..size as i64).flat_map(|rank| [rank, -rank]);
                assert_eq!(gathered, expected.collect::<Vec<_>>());
                assert_eq!(largest, [(size - 1) as f64, 1.0, 1e300]);
                match (size, rank) {
                    (1, _) => assert!(agreed.is_ok()),
                    (_, 1) => assert_eq!(agreed.unwrap_err(), "`x`: found 1, expected 2"),
                    _ => assert!(agreed.unwrap_err().contains("process 1"), "size {size}"),
                }
                assert_eq!(all, size <= 2);
            }
        }
    }

    #[test]
    fn shares_are_consecutive_and_even() {
        for (parts, size) in [(5, 2), (64, 8), (3, 3), (100, 7)] {
            let shares: Vec<_> = (0..size).map(|rank| share(parts, rank, size)).collect();
            assert_eq!((shares[0].start, shares[size - 1].end), (0, parts));
            for pair in shares.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
            }
            let lengths: Vec<_> = shares.iter().map(|share| share.len()).collect();
            let (least, most) = (lengths.iter().min(), lengths.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{lengths:?}");
        }
    }
}
