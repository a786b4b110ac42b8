//! A pipeline of three stages on the threads of the pool: `begin` in order, `make` in parallel, `using`
//! in order.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::threads;

/// Pass `count` items through three stages. `begin` and `using` are called for one item at a time, in
/// order; `make` runs in parallel, with the thread's state from `local`. Stages of different items
/// overlap. A free thread prefers the last stage that has work.
///
/// An item begins only while fewer than `ahead` are unfinished, so that at most `ahead` items are in
/// memory. Outside of a pool the calling thread runs all stages.
///
/// # Errors
/// The first error of `using`, in order; `using` is then not called again.
///
/// # Panics
/// If a stage panics, after all threads have stopped.
pub(crate) fn in_order<L, B, T: Send>(
    count: usize,
    ahead: usize,
    begin: impl FnMut(usize) -> B + Send,
    local: impl Fn() -> L + Sync,
    make: impl Fn(&mut L, usize, B) -> T + Sync,
    using: impl FnMut(usize, T) -> Result<()> + Send,
) -> Result<()> {
    struct State<T, F, U> {
        begun: usize,
        used: usize,
        made: BTreeMap<usize, T>,
        /// `None` while a thread runs it.
        begin: Option<F>,
        /// `None` while a thread runs it.
        using: Option<U>,
        stopped: bool,
        result: Result<()>,
    }
    let state = Mutex::new(State {
        begun: 0,
        used: 0,
        made: BTreeMap::new(),
        begin: Some(begin),
        using: Some(using),
        stopped: false,
        result: Ok(()),
    });
    let changed = Condvar::new();
    /// Calls the function if the thread panics, so that no other waits for it.
    struct OnPanic<F: Fn()>(F);
    impl<F: Fn()> Drop for OnPanic<F> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                (self.0)();
            }
        }
    }
    threads::broadcast(|| {
        let _stop = OnPanic(|| {
            lock(&state).stopped = true;
            changed.notify_all();
        });
        let mut local = local();
        let mut now = lock(&state);
        while !now.stopped && now.used < count {
            let (next, at) = (now.used, now.begun);
            if now.made.contains_key(&next)
                && let Some(mut using) = now.using.take()
            {
                let made = now.made.remove(&next);
                drop(now);
                let result = made.map_or(Ok(()), |made| using(next, made));
                now = lock(&state);
                now.using = Some(using);
                now.used += 1;
                if result.is_err() {
                    now.result = result;
                    now.stopped = true;
                }
            } else if at < count.min(next + ahead)
                && let Some(mut begin) = now.begin.take()
            {
                now.begun += 1;
                drop(now);
                let begun = begin(at);
                lock(&state).begin = Some(begin);
                changed.notify_all();
                let made = make(&mut local, at, begun);
                now = lock(&state);
                now.made.insert(at, made);
            } else {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            changed.notify_all();
        }
    });
    state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .result
}

/// Lock, ignoring poison: no state behind these mutexes is left inconsistent by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;
    use std::panic::AssertUnwindSafe;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// For all durations of the stages: every item begins and is used once, in order, with at
        /// most `ahead` in memory, and none is used after the first error.
        #[test]
        fn items_are_used_in_order(
            count in 0usize..60, ahead in 1usize..8, threads in 1usize..5,
            delays in prop::collection::vec(0u64..200, 60), fails in 0usize..80,
        ) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let alive = AtomicUsize::new(0);
            let most = AtomicUsize::new(0);
            let mut used = Vec::new();
            let mut begun = 0;
            let begin = |i: usize| {
                most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(delays[59 - i]));
                begun += 1;
                begun - 1
            };
            let make = |made: &mut usize, i: usize, begun: usize| {
                assert_eq!(begun, i);
                std::thread::sleep(Duration::from_micros(delays[i]));
                *made += 1;
                (i, *made)
            };
            let using = |at: usize, (i, made): (usize, usize)| {
                assert!(at == i && made > 0);
                used.push(at);
                alive.fetch_sub(1, Ordering::SeqCst);
                if at == fails { Err(Error::options("thing", at, "another")) } else { Ok(()) }
            };
            let result = pool.install(|| in_order(count, ahead, begin, || 0, make, using));
            let whole = fails >= count;
            prop_assert_eq!(result.is_ok(), whole);
            let expected: Vec<usize> = (0..if whole { count } else { fails + 1 }).collect();
            prop_assert_eq!(used, expected);
            prop_assert!(most.load(Ordering::SeqCst) <= ahead);
        }
    }

    /// Threads do not wait for an item whose thread panicked.
    #[test]
    fn a_panic_stops_all_threads() {
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let make = |(): &mut (), i: usize, ()| match i {
                    // Not by `panic!`, which prints.
                    9 => std::panic::resume_unwind(Box::new("nine")),
                    i => i,
                };
                pool.install(|| in_order(100, 3, |_| (), || (), make, |_, _| Ok(())))
            }));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"nine"));
        }
    }

    /// rayon's global pool is not used.
    #[test]
    fn outside_of_a_pool_all_stages_run_on_the_calling_thread() {
        let caller = std::thread::current().id();
        let here = || assert_eq!(std::thread::current().id(), caller);
        let mut used = Vec::new();
        let using = |at, made| {
            here();
            assert_eq!(at, made);
            used.push(made);
            Ok(())
        };
        let make = |(): &mut (), i: usize, ()| {
            here();
            i
        };
        in_order(20, 3, |_| here(), || (), make, using).unwrap();
        assert_eq!(used, Vec::from_iter(0..20));
    }
}
