//! The processes that a launcher such as mpirun started together.

use std::time::Duration;

use crate::comm::{self, Comm};
use crate::error::{Error, Result};
use crate::threads;

#[cfg(feature = "mpi")]
use crate::cli;
#[cfg(feature = "mpi")]
use std::sync::OnceLock;

#[cfg(feature = "mpi")]
static WORLD: OnceLock<crate::comm::mpi::World> = OnceLock::new();

/// The number of processes of the launcher; `None` without one.
fn launched() -> Option<usize> {
    // srun sets the number of its step's tasks even if it starts no MPI.
    let of_slurm = || number(["SLURM_STEP_NUM_TASKS"; 2]).filter(|&tasks| tasks > 1);
    number(["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]).or_else(of_slurm)
}

/// Where this process is, if it is not the first of several: what its errors add.
pub fn place() -> String {
    let rank = number(["OMPI_COMM_WORLD_RANK", "PMI_RANK"]).or_else(|| number(["PMIX_RANK"; 2]));
    match (rank, launched()) {
        (Some(rank), Some(size)) if cfg!(feature = "mpi") && rank > 0 => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!(" (in process {rank} of {size}, on {})", host.trim())
        }
        _ => String::new(),
    }
}

/// The number in the first of these variables that is set.
fn number(variables: [&str; 2]) -> Option<usize> {
    let value = |name| std::env::var(name).ok()?.parse().ok();
    variables.into_iter().find_map(value)
}

/// The other processes of this fit, if a launcher started several.
///
/// # Errors
/// [`Error::Options`] if this program cannot join them.
pub fn join() -> Result<Option<&'static dyn Comm>> {
    match launched() {
        None => Ok(None),
        Some(launched) => join_launched(launched),
    }
}

#[cfg(feature = "mpi")]
fn join_launched(launched: usize) -> Result<Option<&'static dyn Comm>> {
    let world = crate::comm::mpi::World::join(launched)?;
    Ok(Some(WORLD.get_or_init(|| world)))
}

/// Processes of this build do not know each other; each is a run of its own.
#[cfg(not(feature = "mpi"))]
fn join_launched(_: usize) -> Result<Option<&'static dyn Comm>> {
    Ok(None)
}

/// Waits before an error of this process is printed, if another process is likely to print it and to
/// end all of them: process 0 where all have the same error, or the one that `error` speaks of.
pub fn let_others_report(error: Option<&Error>) {
    let rank = number(["OMPI_COMM_WORLD_RANK", "PMI_RANK"]).or_else(|| number(["PMIX_RANK"; 2]));
    let wait = match (error, rank.filter(|_| cfg!(feature = "mpi"))) {
        (_, None) => Duration::ZERO,
        (Some(Error::Rank { .. }), _) => Duration::from_secs(15),
        (_, Some(0)) => Duration::ZERO,
        // Process 0 may still write its checkpoint.
        (Some(Error::Interrupted { .. }), _) => Duration::from_secs(600),
        // One after the other, if several have it, and all before 15 s.
        (_, Some(rank)) => Duration::from_millis(3000 + 100 * rank.min(100) as u64),
    };
    std::thread::sleep(wait);
}

/// The number of threads of each process: `requested`, or an even share of the cores.
pub fn threads(requested: Option<usize>) -> Option<usize> {
    let here = number(["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"]);
    // As in "2(x3),1": the first is right for even shares.
    let here = here.or_else(|| {
        let tasks = std::env::var("SLURM_STEP_TASKS_PER_NODE").ok()?;
        tasks
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    });
    let here = here.filter(|_| launched() > Some(1));
    requested.or_else(|| here.map(|here| (threads::available() / here.max(1)).max(1)))
}

/// Refuses processes that were given other work than the others: `work` has its parts by their names.
///
/// # Errors
/// [`Error::Options`] with the name of the first part that differs, and the number of a process.
pub fn refuse_others(comm: &dyn Comm, work: &[(&str, String)]) -> Result<()> {
    let other = |(name, text): &(&str, String)| {
        let rank = comm::first_other(comm, crc32fast::hash(text.as_bytes()))?;
        Some((name.to_string(), rank))
    };
    // Every process compares every part.
    let others: Vec<_> = work.iter().map(other).collect();
    match others.into_iter().flatten().next() {
        None => Ok(()),
        Some((name, rank)) => Err(Error::options(
            "processes",
            format!("other {name} in process {rank} than in process 0"),
            "the same in all of them",
        )),
    }
}

/// Ends all processes with an error, once one of them waits longer than `limit` for the others.
#[cfg(feature = "mpi")]
pub fn watch(limit: Duration) {
    let Some(world) = WORLD.get() else {
        return;
    };
    let rank = world.rank();
    // If several wait, the first reports.
    let stagger = Duration::from_secs(3 * rank.min(20) as u64);
    world.watch(limit + stagger, move || {
        let seconds = limit.as_secs();
        let found = format!("process {rank}: no answer of another process in {seconds} s");
        let expected = "all of them at work (one may be stopped, or its machine or network down): start again, with --resume if there is a checkpoint";
        cli::print_error(&format!("--timeout: found {found}, expected {expected}"), NO_ANSWER);
        std::process::exit(NO_ANSWER.into());
    });
}

/// The exit code of a process that waited too long for another.
#[cfg(feature = "mpi")]
const NO_ANSWER: u8 = 69;

/// Number of sums over the processes so far, and the bytes of one process in them.
#[cfg(feature = "mpi")]
pub fn traffic() -> Option<(u64, u64)> {
    Some(WORLD.get()?.traffic())
}

/// Nothing: the processes of this build are runs of their own.
#[cfg(not(feature = "mpi"))]
pub fn traffic() -> Option<(u64, u64)> {
    None
}

/// Ends MPI at the end of a program, or with an error all of its processes.
#[cfg(feature = "mpi")]
pub fn end(code: u8) {
    if let Some(world) = WORLD.get() {
        match code {
            0 => world.finish(),
            _ => {
                // MPICH's launcher may drop what a process printed just before.
                std::thread::sleep(Duration::from_millis(200));
                world.abort(code)
            }
        }
    }
}

/// Nothing: the processes of this build are runs of their own.
#[cfg(not(feature = "mpi"))]
pub fn end(_: u8) {}
