//! The one place that decides how many threads work.

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
