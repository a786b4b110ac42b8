//! Ranks that are processes of MPI.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Threading, environment};

use crate::comm::Comm;
use crate::error::{Error, Result};

/// Largest number of values of one message: 256 MiB. MPI counts in 32 bits.
const MESSAGE: usize = 32 << 20;

/// All processes that the launcher started.
pub struct World {
    rank: usize,
    size: usize,
    handles: Mutex<Handles>,
    traffic: Traffic,
    /// When the current sum began, in milliseconds after `start`, and 1 more; 0 outside of sums.
    waits_since: Arc<AtomicU64>,
    start: Instant,
}

/// The sums of a process so far.
#[derive(Debug, Default)]
struct Traffic {
    sums: AtomicU64,
    bytes: AtomicU64,
}

struct Handles {
    world: SimpleCommunicator,
    universe: Option<Universe>,
    /// Receives the sums.
    sums: Vec<i64>,
}

// SAFETY: the handles are used under a mutex only, and MPI was started with support of calls from
// any thread, one at a time (`Threading::Serialized`, checked in `World::join`).
unsafe impl Send for Handles {}

impl World {
    /// Starts MPI and joins the other processes.
    ///
    /// # Errors
    /// [`Error::Options`] if the library gives another number of processes than the launcher's
    /// `launched` (the launcher belongs to another library), if MPI was started before, or if its
    /// calls must come from one thread.
    pub fn join(launched: usize) -> Result<World> {
        let Some((universe, threading)) =
            environment::initialize_with_threading(Threading::Serialized)
        else {
            return Err(Error::options(
                "MPI",
                "started twice",
                "one start a process",
            ));
        };
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let world = World {
            rank,
            size,
            handles: Mutex::new(Handles {
                world,
                universe: Some(universe),
                sums: Vec::new(),
            }),
            traffic: Traffic::default(),
            waits_since: Arc::new(AtomicU64::new(0)),
            start: Instant::now(),
        };
        let library = environment::library_version().unwrap_or_default();
        let library = library
            .trim_end_matches('\0')
            .lines()
            .next()
            .unwrap_or_default();
        let library = library.split(',').next().unwrap_or_default();
        if size != launched {
            return Err(Error::options(
                "MPI",
                format!("{launched} processes of the launcher, {size} of {library}"),
                "the launcher of the library that flowreg was built with: its mpirun, or srun --mpi=pmix",
            ));
        }
        if threading < Threading::Serialized {
            return Err(Error::options(
                "MPI",
                format!("{library} with {threading:?} threads"),
                "a library that takes calls from any thread, one at a time",
            ));
        }
        Ok(world)
    }

    /// Number of sums so far, and the bytes of their values.
    pub fn traffic(&self) -> (u64, u64) {
        let Traffic { sums, bytes } = &self.traffic;
        (sums.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Calls `late`, which should end the process, once a sum takes longer than `limit`.
    pub fn watch(&self, limit: Duration, late: impl FnOnce() + Send + 'static) {
        let (since, start) = (Arc::clone(&self.waits_since), self.start);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(limit.min(Duration::from_secs(1)) / 4);
                let since = since.load(Ordering::Relaxed);
                let waited = start.elapsed() + Duration::from_millis(1);
                if since > 0 && waited > Duration::from_millis(since) + limit {
                    return late();
                }
            }
        });
    }

    /// Ends MPI. All ranks call it, from the thread that called [`World::join`].
    pub fn finish(&self) {
        let universe = self.handles().universe.take();
        drop(universe);
    }

    /// Ends all processes at once, with this exit code.
    pub fn abort(&self, code: u8) -> ! {
        match self.handles.try_lock() {
            Ok(handles) => handles.world.abort(code.into()),
            Err(TryLockError::Poisoned(handles)) => handles.into_inner().world.abort(code.into()),
            // Another thread waits in a sum, for ever if a process panicked.
            Err(TryLockError::WouldBlock) => std::process::exit(code.into()),
        }
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Handles> {
        self.handles
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Comm for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [i64]) {
        let mut handles = self.handles();
        let Handles { world, sums, .. } = &mut *handles;
        self.traffic.sums.fetch_add(1, Ordering::Relaxed);
        let bytes = size_of_val(values) as u64;
        self.traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = self.start.elapsed().as_millis() as u64 + 1;
        self.waits_since.store(now, Ordering::Relaxed);
        for values in values.chunks_mut(MESSAGE) {
            sums.resize(values.len(), 0);
            world.all_reduce_into(&*values, &mut sums[..], SystemOperation::sum());
            values.copy_from_slice(sums);
        }
        self.waits_since.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}
