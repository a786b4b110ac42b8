//! Photographs to dataset: decoded and resized in parallel, hashed and written in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::data::dataset::{EXIF, Manifest, Prepared};
use crate::data::dataset_writer::DatasetWriter;
use crate::data::photographs::{Loader, PhotographSplit, Photographs};
use crate::data::pictures::DecodeOptions;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::io::publish::{OutputKind, Overwrite, Staging};

/// Largest side accepted: rows of 3 · 2048² values.
pub const MAX_SIZE: usize = 2048;
/// Bytes of rows that wait for those before them, where more than one a thread fit.
const MAX_WAITING: usize = 64 << 20;

/// How photographs become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepOptions {
    /// Side of the square that they are resized to, in pixels.
    pub size: usize,
    /// How photographs are decoded.
    pub decode: DecodeOptions,
    /// Leave out what cannot be used, and list it in the manifest, instead of refusing all.
    pub skip_bad: bool,
}

impl Default for PrepOptions {
    /// 128 pixels; everything broken is refused.
    fn default() -> Self {
        PrepOptions {
            size: 128,
            decode: DecodeOptions::default(),
            skip_bad: false,
        }
    }
}

/// Prepare `photographs` into the dataset directory `out`, which appears complete or not at
/// all.
///
/// `progress` is told the number of photographs finished since its last call. Cost: 2 to 4 ms a
/// core for a 500 x 667 photograph; memory: 64 MB of rows (one a thread and one more at least), and
/// for each thread a photograph's pixels.
///
/// # Errors
/// [`Error::Exists`], [`Error::Locked`], [`Error::Image`] for the first photograph that cannot
/// be used, [`Error::Format`] for a split of which nothing is left, [`Error::Io`],
/// [`Error::Interrupted`].
pub fn prepare(
    photographs: &Photographs,
    options: &PrepOptions,
    out: &Path,
    overwrite: Overwrite,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let size = options.size;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::options("--size", size, format!("1..={MAX_SIZE}")));
    }
    options.decode.check()?;
    let staging = Staging::begin(out, OutputKind::Dataset, overwrite, &[&photographs.root])?;
    let mut manifest = Manifest::of_photographs(
        photographs.source.clone(),
        photographs.class_names.clone(),
        size,
    );
    if let (true, Some(transform)) = (options.decode.exif, &mut manifest.transform) {
        transform.orientation = Some(EXIF.to_string());
    }
    manifest.left_out = photographs.left_out.clone();
    let mut writer = DatasetWriter::new(staging, manifest);
    for split in &photographs.splits {
        prepare_split(split, options, &photographs.root, &mut writer, progress)?;
    }
    writer.publish()
}

fn prepare_split(
    split: &PhotographSplit,
    options: &PrepOptions,
    root: &Path,
    writer: &mut DatasetWriter,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let features = 3 * options.size * options.size;
    let mut x = writer.begin_matrix(&split.name)?;
    let skipped = &mut writer.manifest.skipped;
    let (mut labels, mut names) = (Vec::new(), Vec::new());

    // Rows go back to be filled again.
    let emptied = Mutex::new(Vec::<Vec<f32>>::new());
    let ahead = rows_ahead(features, rayon::current_num_threads());
    let load = |loader: &mut Loader, i: usize| -> Result<Vec<f32>> {
        interrupt::check()?;
        let (photograph, _) = &split.rows[i];
        let mut row = lock(&emptied).pop().unwrap_or_default();
        row.resize(features, 0.0);
        loader.load(photograph, options.size, &options.decode, &mut row)?;
        progress(1);
        Ok(row)
    };
    let write = |i: usize, loaded: Result<Vec<f32>>| {
        let (photograph, label) = &split.rows[i];
        match loaded {
            Ok(row) => {
                x.append(bytemuck::cast_slice(&row))?;
                lock(&emptied).push(row);
                labels.push(i64::from(*label));
                names.push(photograph.name.as_str());
            }
            Err(error) if options.skip_bad && error.is_of_input() => {
                skipped.push(format!("{}: {error}", split.name));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    in_order(split.rows.len(), ahead, Loader::default, load, write)?;

    if labels.is_empty() {
        return Err(Error::format(
            root,
            format!("split {}", split.name),
            format!(
                "{} photographs, none of which can be used (the last: {})",
                split.rows.len(),
                skipped.last().map_or("", String::as_str)
            ),
            "at least one; replace them, or take the split away",
        ));
    }
    writer.refuse_one_class(&split.name, root, &labels)?;
    writer.finish_split(&split.name, x, labels, Some(&names))
}

/// Rows in memory at a time: as many as make 64 MB, at most four a thread. One a thread and one
/// more at least, so that no thread waits while another writes; a photograph takes more than that.
fn rows_ahead(features: usize, threads: usize) -> usize {
    (MAX_WAITING / (4 * features)).clamp(threads + 1, 4 * threads)
}

/// Make `count` things on all threads of the pool and use them in order: whoever has made the
/// next one uses it, and those after it that are there, while the others make more. `local` is
/// what each thread keeps from one thing to the next.
///
/// Nobody begins a thing `ahead` or more beyond the next to be used, so that never more than
/// `ahead` are in memory.
///
/// # Errors
/// The first error of `using`, in order; then nothing more is used.
///
/// # Panics
/// If `make` or `using` does, once all threads have stopped.
fn in_order<L, T: Send>(
    count: usize,
    ahead: usize,
    local: impl Fn() -> L + Sync,
    make: impl Fn(&mut L, usize) -> T + Sync,
    using: impl FnMut(usize, T) -> Result<()> + Send,
) -> Result<()> {
    struct State<T, U> {
        begun: usize,
        used: usize,
        made: BTreeMap<usize, T>,
        /// Taken while somebody uses things.
        using: Option<U>,
        stopped: bool,
        result: Result<()>,
    }
    let state = Mutex::new(State {
        begun: 0,
        used: 0,
        made: BTreeMap::new(),
        using: Some(using),
        stopped: false,
        result: Ok(()),
    });
    let changed = Condvar::new();
    /// Lets nobody wait for a thread that panics.
    struct OnPanic<F: Fn()>(F);
    impl<F: Fn()> Drop for OnPanic<F> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                (self.0)();
            }
        }
    }
    rayon::broadcast(|_| {
        let _stop = OnPanic(|| {
            lock(&state).stopped = true;
            changed.notify_all();
        });
        let mut local = local();
        loop {
            let mut now = lock(&state);
            while !now.stopped && now.begun < count && now.begun >= now.used + ahead {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
            if now.stopped || now.begun == count {
                return;
            }
            let i = now.begun;
            now.begun += 1;
            drop(now);
            let made = make(&mut local, i);

            let mut now = lock(&state);
            now.made.insert(i, made);
            let Some(mut using) = now.using.take() else {
                // Another thread is using things, and takes this one in the loop below.
                continue;
            };
            while !now.stopped
                && let at = now.used
                && let Some(made) = now.made.remove(&at)
            {
                drop(now);
                let result = using(at, made);
                now = lock(&state);
                now.used += 1;
                if result.is_err() {
                    now.result = result;
                    now.stopped = true;
                }
                changed.notify_all();
            }
            now.using = Some(using);
        }
    });
    state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .result
}

/// No state here is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::panic::AssertUnwindSafe;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever takes how long: used in order, each once, never more than `ahead` at a time, and
        /// after the first error nothing.
        #[test]
        fn things_are_used_in_order(
            count in 0usize..60, ahead in 1usize..8, threads in 1usize..5,
            delays in prop::collection::vec(0u64..200, 60), fails in 0usize..80,
        ) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let alive = AtomicUsize::new(0);
            let most = AtomicUsize::new(0);
            let mut used = Vec::new();
            let make = |made: &mut usize, i: usize| {
                most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(delays[i]));
                *made += 1;
                (i, *made)
            };
            let using = |at: usize, (i, made): (usize, usize)| {
                assert!(at == i && made > 0);
                used.push(at);
                alive.fetch_sub(1, Ordering::SeqCst);
                match at == fails {
                    true => Err(Error::options("thing", at, "another")),
                    false => Ok(()),
                }
            };
            let result = pool.install(|| in_order(count, ahead, || 0, make, using));
            let whole = fails >= count;
            prop_assert_eq!(result.is_ok(), whole);
            let expected: Vec<usize> = (0..if whole { count } else { fails + 1 }).collect();
            prop_assert_eq!(used, expected);
            prop_assert!(most.load(Ordering::SeqCst) <= ahead);
        }
    }

    /// All threads work, however large the rows are.
    #[test]
    fn no_thread_waits_for_room() {
        for size in [1, 128, 224, 512, 1024, MAX_SIZE] {
            for threads in [1, 2, 4, 16, 64] {
                let rows = rows_ahead(3 * size * size, threads);
                assert!(rows > threads && rows <= 4 * threads, "{size}: {rows}");
                let fits = 4 * 3 * size * size * rows <= MAX_WAITING;
                assert!(fits || rows == threads + 1, "{size}: {rows}");
            }
        }
    }

    /// A thread that panics takes the others with it: nobody waits for what never comes.
    #[test]
    fn a_panic_stops_all_threads() {
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let make = |(): &mut (), i: usize| match i {
                    // Not by `panic!`, which prints.
                    9 => std::panic::resume_unwind(Box::new("nine")),
                    i => i,
                };
                pool.install(|| in_order(100, 3, || (), make, |_, _| Ok(())))
            }));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"nine"));
        }
    }
}
