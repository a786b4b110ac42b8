//! The one place that decides how many threads work: in a fit, and on each loop of it.
//!
//! A loop that threads share ends when the last of them does. Beside other busy processes a
//! thread waits some milliseconds for a core, and whoever waits for its task waits as long: a
//! loop of some microseconds that is shared then takes a thousand times as long. Every parallel
//! loop therefore says how long it takes ([`Work`]), and a short one stays on the calling thread
//! ([`Share::share`], [`par`]). The result is the same either way.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::iter::{Enumerate, Map};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Most threads accepted.
const MAX_THREADS: usize = 1024;

/// Do `work` in a pool: the caller's, if it stands in one and asks for no number of threads, else
/// one of `threads` threads (`None`: one for each core) that ends with it. What is shorter than a
/// pool takes to start is done by the calling thread. rayon's global pool is never used: a
/// process that was forked while it runs would wait for its threads for ever.
///
/// # Errors
/// [`Error::Options`] for a number of threads outside 1 to 1024, or that cannot be started.
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

/// Whether the calling thread is one of a pool's.
fn in_pool() -> bool {
    rayon::current_thread_index().is_some()
}

/// Threads that share a long loop: those of the pool that the calling thread stands in, or it
/// alone.
pub fn current() -> usize {
    if in_pool() {
        rayon::current_num_threads()
    } else {
        1
    }
}

/// A pool of `threads` threads, or of one for each core.
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

/// Threads where none are asked for: one for each core.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Nanoseconds of the shortest work for which a pool is started. Starting two threads and ending
/// them takes about 60 µs.
const SHORTEST_POOLED: u64 = 400_000;
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

    /// Whether the threads of the pool share a loop of this length. Outside a pool none do.
    pub fn is_shared(self) -> bool {
        in_pool() && self.nanoseconds >= SHORTEST.load(Ordering::Relaxed)
    }
}

/// A parallel iterator whose loop the calling thread does alone if it is short.
pub trait Share: IndexedParallelIterator {
    /// The loop, shared by the pool's threads if `work` is worth it.
    fn share(self, work: Work) -> Loop<Self> {
        Loop {
            items: self,
            shared: work.is_shared(),
        }
    }
}

impl<I: IndexedParallelIterator> Share for I {}

/// A loop that the pool's threads share, or that the calling thread does alone, in order, without
/// a look at any pool.
pub struct Loop<I> {
    items: I,
    shared: bool,
}

impl<I: IndexedParallelIterator> Loop<I> {
    /// The items with their numbers.
    pub fn enumerate(self) -> Loop<Enumerate<I>> {
        Loop {
            items: self.items.enumerate(),
            shared: self.shared,
        }
    }

    /// A function of each item.
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

    /// The items, in order.
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

/// What the calling thread does alone with the items of a loop.
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

/// Both, at once if the calling thread stands in a pool.
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

/// Call `work` on every thread of the pool that the calling thread stands in, at the same time; on
/// the calling thread alone outside a pool.
pub fn broadcast(work: impl Fn() + Sync) {
    if in_pool() {
        rayon::broadcast(|_| work());
    } else {
        work();
    }
}

/// What faer is told of threads: all of the pool's, or one for a product that is short.
pub fn par(work: Work) -> faer::Par {
    if work.is_shared() && rayon::current_num_threads() > 1 {
        faer::Par::rayon(0)
    } else {
        faer::Par::Seq
    }
}
