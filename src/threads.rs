//! Threads of a fit and of each of its loops; no other module decides about them.
//!
//! A parallel loop ends when its last thread does. On a busy machine a thread can wait several
//! milliseconds for a core, so that a loop of a few microseconds takes a thousand times as long.
//! Every parallel loop therefore estimates its time ([`Work`]), and a short one stays on the
//! calling thread ([`Share::share`], [`par`]). The result is the same either way.
//!
//! [`run`] chooses the pool: the caller's, or one that ends with the call. rayon's global pool is
//! never used, because a process that is forked while it exists would wait for its threads for ever.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::iter::{Enumerate, Map};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Largest number of threads that is accepted.
const MAX_THREADS: usize = 1024;

/// Run `work` in a rayon pool and return its result.
///
/// If `threads` is `None` and the calling thread is in a pool, that pool is used. Otherwise a pool
/// of `threads` threads (`None`: one for each core) is started and ends with `work`. Outside a pool,
/// work that takes less time than starting one (`length`) runs on the calling thread.
///
/// # Errors
/// [`Error::Options`] for a number of threads outside 1 to 1024, or one that cannot be started.
pub fn run<R: Send>(
    threads: Option<usize>,
    length: Work,
    work: impl FnOnce() -> R + Send,
) -> Result<R> {
    if let Some(threads) = threads
        && !(1..=MAX_THREADS).contains(&threads)
    {
        let expected = format!("1..={MAX_THREADS}");
        return Err(Error::options("`threads`", threads, expected));
    }
    let has_own = in_pool() && threads.is_none();
    let is_short = length.nanoseconds < SHORTEST_POOLED && SHORTEST.load(Ordering::Relaxed) > 0;
    if has_own || (!in_pool() && is_short) {
        return Ok(work());
    }
    Ok(pool(threads)?.install(work))
}

/// Whether the calling thread belongs to a pool.
fn in_pool() -> bool {
    rayon::current_thread_index().is_some()
}

/// Number of threads that share a long loop: those of the current pool, or 1 outside a pool.
pub fn current() -> usize {
    if in_pool() {
        rayon::current_num_threads()
    } else {
        1
    }
}

/// Start a pool of `threads` threads (`None`: one for each core).
///
/// # Errors
/// As [`run`].
pub fn pool(threads: Option<usize>) -> Result<ThreadPool> {
    let threads = match threads {
        None => available(),
        Some(n) if (1..=MAX_THREADS).contains(&n) => n,
        Some(n) => return Err(Error::options("`threads`", n, format!("1..={MAX_THREADS}"))),
    };
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| {
            Error::options(
                "`threads`",
                error,
                "a number of threads that can be started",
            )
        })
}

/// Default number of threads: one for each core.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Nanoseconds of the shortest work for which a pool is started. Starting and ending two threads
/// takes about 60 µs.
const SHORTEST_POOLED: u64 = 400_000;
/// Nanoseconds of the shortest loop that is shared. Measured on two Zen 4 cores, eight tasks:
/// 20 µs of work take 12 µs if the other thread is still spinning and 26 µs if it sleeps; 40 µs
/// take 22 and 36 µs.
const SHORTEST_SHARED: u64 = 20_000;

static SHORTEST: AtomicU64 = AtomicU64::new(SHORTEST_SHARED);

/// From now on share every loop in this process, however short: for tests that compare numbers of
/// threads on small problems.
#[doc(hidden)]
pub fn share_short_loops() {
    SHORTEST.store(0, Ordering::Relaxed);
}

/// An estimate of the time that a loop takes on one thread, to a factor of about two.
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

    /// A matrix product of `flop` f32 operations, at 64 GFLOP/s. Count f64 operations twice.
    pub fn flop(flop: usize) -> Work {
        Work {
            nanoseconds: flop as u64 / 64,
        }
    }

    /// Exponentials and the arithmetic around them, of a softmax for example, at 1 ns each.
    pub fn exponentials(count: usize) -> Work {
        Work {
            nanoseconds: count as u64,
        }
    }

    /// Whether the threads of the current pool share a loop of this length; false outside a pool.
    pub fn is_shared(self) -> bool {
        in_pool() && self.nanoseconds >= SHORTEST.load(Ordering::Relaxed)
    }
}

/// Extends parallel iterators by loops that stay on the calling thread if they are short.
pub trait Share: IndexedParallelIterator {
    /// The loop over these items, which the current pool shares if `work` is long enough.
    fn share(self, work: Work) -> Loop<Self> {
        Loop {
            items: self,
            shared: work.is_shared(),
        }
    }
}

impl<I: IndexedParallelIterator> Share for I {}

/// A loop that the threads of the current pool share, or that the calling thread runs alone and in
/// order, without touching any pool.
pub struct Loop<I> {
    items: I,
    shared: bool,
}

impl<I: IndexedParallelIterator> Loop<I> {
    /// Each item with its number, from 0.
    pub fn enumerate(self) -> Loop<Enumerate<I>> {
        Loop {
            items: self.items.enumerate(),
            shared: self.shared,
        }
    }

    /// Apply `function` to each item.
    pub fn map<R: Send, F: Fn(I::Item) -> R + Sync + Send>(self, function: F) -> Loop<Map<I, F>> {
        Loop {
            items: self.items.map(function),
            shared: self.shared,
        }
    }

    /// Call `work` with each item.
    pub fn for_each(self, work: impl Fn(I::Item) + Sync + Send) {
        if self.shared {
            self.items.for_each(work);
        } else {
            self.items.with_producer(ForEach(work));
        }
    }

    /// All items, in order.
    pub fn collect(self) -> Vec<I::Item> {
        if self.shared {
            self.items.collect()
        } else {
            self.items.with_producer(Collect)
        }
    }

    /// Whether `test` holds for all items.
    pub fn all(self, test: impl Fn(I::Item) -> bool + Sync + Send) -> bool {
        if self.shared {
            self.items.all(test)
        } else {
            self.items.with_producer(All(test))
        }
    }
}

// The loops of the calling thread alone.
struct ForEach<F>(F);
struct Collect;
struct All<F>(F);

impl<T, F: Fn(T)> ProducerCallback<T> for ForEach<F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, items: P) {
        items.into_iter().for_each(self.0);
    }
}

impl<T> ProducerCallback<T> for Collect {
    type Output = Vec<T>;

    fn callback<P: Producer<Item = T>>(self, items: P) -> Vec<T> {
        items.into_iter().collect()
    }
}

impl<T, F: Fn(T) -> bool> ProducerCallback<T> for All<F> {
    type Output = bool;

    fn callback<P: Producer<Item = T>>(self, items: P) -> bool {
        items.into_iter().all(self.0)
    }
}

/// Call both functions, in parallel if the calling thread is in a pool.
pub fn join<A: Send, B: Send>(
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    if in_pool() {
        rayon::join(a, b)
    } else {
        (a(), b())
    }
}

/// Call `work` once on every thread of the current pool, or on the calling thread outside a pool.
pub fn broadcast(work: impl Fn() + Sync) {
    if in_pool() {
        rayon::broadcast(|_| work());
    } else {
        work();
    }
}

/// The parallelism of a product by faer: all threads of the pool, or one for a short product.
pub fn par(work: Work) -> faer::Par {
    if work.is_shared() && rayon::current_num_threads() > 1 {
        faer::Par::rayon(0)
    } else {
        faer::Par::Seq
    }
}
