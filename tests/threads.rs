//! Short loops run on the calling thread, long ones on all threads of its pool. The process of this
//! file never calls `share_short_loops`.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread::{self, ThreadId};
use std::time::Duration;

use flowreg::threads::{Share, Work, par, pool};
use rayon::prelude::*;

/// The threads that ran the 64 tasks of a loop in a pool of four. Each task lasts long enough for
/// other threads to steal tasks.
fn threads_of(work: Work) -> HashSet<ThreadId> {
    let ran_on = Mutex::new(HashSet::new());
    let task = |_| {
        thread::sleep(Duration::from_millis(2));
        ran_on.lock().unwrap().insert(thread::current().id());
    };
    pool(Some(4)).unwrap().install(|| {
        (0..64).into_par_iter().share(work).for_each(task);
    });
    ran_on.into_inner().unwrap()
}

#[test]
fn short_loops_stay_on_the_calling_thread_and_long_ones_do_not() {
    let short = Work::bytes(100_000).max(Work::flop(1_000_000));
    assert_eq!(threads_of(short).len(), 1);
    for long in [
        Work::bytes(1 << 20),
        Work::flop(1 << 24),
        Work::exponentials(1 << 17),
    ] {
        assert!(!long.is_shared(), "outside a pool");
        assert!(threads_of(long).len() > 1, "{long:?}");
    }
}

/// Shared and serial loops visit every index once and collect in order.
#[test]
fn shared_and_serial_loops_give_the_same_items_in_order() {
    for work in [Work::bytes(0), Work::bytes(1 << 30)] {
        for len in [0, 1, 1000] {
            let squares: Vec<usize> = (0..len)
                .into_par_iter()
                .share(work)
                .map(|i| i * i)
                .collect();
            assert!(
                squares
                    .iter()
                    .enumerate()
                    .all(|(i, &square)| square == i * i)
            );
            assert_eq!(squares.len(), len);
        }
    }
}

#[test]
fn faer_gets_threads_for_long_products_only() {
    let on = |threads, work| pool(Some(threads)).unwrap().install(|| par(work).degree());
    assert_eq!(on(3, Work::flop(1000)), 1);
    assert_eq!(on(3, Work::flop(1 << 30)), 3);
    assert_eq!(on(1, Work::flop(1 << 30)), 1);
}

/// A reading thread for every 1024 rows would be a thousand threads.
#[test]
fn an_evaluation_starts_few_reading_threads() {
    let (n, d) = (1_000_000, 5);
    let x = vec![0.5; n * d];
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 2).collect();
    let samples = flowreg::Samples::new(&x, d, &labels, 2).unwrap();
    let model = flowreg::Model::new(vec![0.0; d], vec![0.0]).unwrap();
    // Threads are numbered in the order in which they start.
    let made = || -> usize {
        let id = thread::spawn(|| thread::current().id()).join().unwrap();
        let digits = format!("{id:?}").replace(|c: char| !c.is_ascii_digit(), "");
        digits.parse().unwrap()
    };
    let before = made();
    let evaluation = pool(Some(2))
        .unwrap()
        .install(|| model.evaluate(&samples))
        .unwrap();
    // 20 MB of rows; other tests of this file start threads too.
    assert!(made() - before < 100, "{} threads", made() - before);
    assert_eq!((evaluation.rows, evaluation.accuracy), (n, 0.5));
}
