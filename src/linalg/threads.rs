//! The one place that decides how many threads work: in a fit, and on each loop of it.
//!
//! A loop that threads share ends when the last of them does. Beside other busy processes a
//! thread waits some milliseconds for a core, and whoever waits for its task waits as long: a
//! loop of some microseconds that is shared then takes a thousand times as long. Every parallel
//! loop therefore says how long it takes ([`Work`]), and a short one stays on the calling thread
//! ([`Share::share`], [`par`]). The result is the same either way.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::MinLen;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Most threads accepted.
const MAX_THREADS: usize = 1024;

/// A pool of `threads` threads, or of one for each core.
pub fn pool(threads: Option<usize>) -> Result<ThreadPool> {
    let threads = match threads {
        None => available(),
        Some(n) if (1..=MAX_THREADS).contains(&n) => n,
        Some(n) => return Err(Error::options("--threads", n, format!("1..={MAX_THREADS}"))),
    };
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| {
            Error::options(
                "--threads",
                error,
                "a number of threads that can be started",
            )
        })
}

/// Threads where none are asked for: one for each core.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Nanoseconds of the shortest loop that is shared. Measured on two Zen 4 cores, eight tasks:
/// 20 µs of work take 12 µs if the other thread still looks for work and 26 µs if it sleeps; 40 µs
/// take 22 and 36 µs.
const SHORTEST_SHARED: u64 = 20_000;

static SHORTEST: AtomicU64 = AtomicU64::new(SHORTEST_SHARED);

/// Share every loop, however short, from now on in this process: for tests that compare numbers
/// of threads on small problems.
#[doc(hidden)]
pub fn share_short_loops() {
    SHORTEST.store(0, Ordering::Relaxed);
}

/// An estimate of how long a loop takes on one thread, to a factor of about two. Estimates add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work {
    nanoseconds: u64,
}

impl Work {
    /// A pass over values in memory or cache, at 8 GB/s: `bytes` read and written in all.
    pub fn bytes(bytes: usize) -> Work {
        Work {
            nanoseconds: bytes as u64 / 8,
        }
    }

    /// A matrix product of `flop` f32 operations, at 64 GFLOP/s. Those of f64 count twice.
    pub fn flop(flop: usize) -> Work {
        Work {
            nanoseconds: flop as u64 / 64,
        }
    }

    /// Exponentials, of a softmax for example, at 1 ns each with what belongs to them.
    pub fn exponentials(count: usize) -> Work {
        Work {
            nanoseconds: count as u64,
        }
    }

    /// Whether the threads of the pool share a loop of this length.
    pub fn is_shared(self) -> bool {
        self.nanoseconds >= SHORTEST.load(Ordering::Relaxed)
    }
}

/// A parallel loop that the calling thread does alone if it is short.
pub trait Share: IndexedParallelIterator {
    /// The same loop, shared by the pool's threads if `work` is worth it.
    fn share(self, work: Work) -> MinLen<Self> {
        self.with_min_len(if work.is_shared() { 1 } else { usize::MAX })
    }
}

impl<I: IndexedParallelIterator> Share for I {}

/// What faer is told of threads: all of the pool's, or one for a product that is short.
pub fn par(work: Work) -> faer::Par {
    match work.is_shared() && rayon::current_num_threads() > 1 {
        true => faer::Par::rayon(0),
        false => faer::Par::Seq,
    }
}
