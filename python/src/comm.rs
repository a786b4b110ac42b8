//! The other ranks of a fit, which Python connects.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};

use flowreg::comm::Comm;
use flowreg::comm::rows::{are_shared, share};
use flowreg::kernels::Isa;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use crate::progress::Request;

/// Largest number of values of one call of Python's `sum`: 32 MiB.
const MESSAGE: usize = 4 << 20;

/// A communicator of Python: an object with `rank`, `size` and `sum`, which replaces a vector of int64
/// by its sums over the ranks. The thread of the fit leaves each sum to the thread that called the fit,
/// because MPI may allow no other one.
pub(crate) struct Ranks {
    rank: usize,
    size: usize,
    sender: SyncSender<Request>,
}

/// A sum that the thread of a fit waits for.
pub(crate) struct Sum {
    values: Vec<i64>,
    reply: SyncSender<Vec<i64>>,
}

/// The payload with which the thread of a fit unwinds when the calling thread has left, because a sum
/// or a callback raised an exception.
struct Left;

impl Ranks {
    /// The ranks of `comm`, whose sums go through `sender`.
    pub(crate) fn new(comm: &Bound<'_, PyAny>, sender: SyncSender<Request>) -> PyResult<Ranks> {
        Ok(Ranks {
            rank: comm.getattr("rank")?.extract()?,
            size: comm.getattr("size")?.extract()?,
            sender,
        })
    }
}

impl Comm for Ranks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [i64]) {
        for values in values.chunks_mut(MESSAGE) {
            let (reply, sums) = sync_channel(1);
            let sum = Sum {
                values: values.to_vec(),
                reply,
            };
            // Both fail after the calling thread has left. The exception is raised there.
            let sent = self.sender.send(Request::Sum(sum)).is_ok();
            match sums.recv() {
                Ok(sums) if sent => values.copy_from_slice(&sums),
                _ => resume_unwind(Box::new(Left)),
            }
        }
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl Sum {
    /// Calls `comm.sum` and sends the sums to the fit.
    pub(crate) fn serve(self, py: Python<'_>, comm: &Py<PyAny>) -> PyResult<()> {
        let values = PyArray1::from_vec(py, self.values);
        comm.call_method1(py, "sum", (&values,))?;
        // The fit waits, unless it panicked on another thread.
        let _ = self.reply.send(values.to_vec()?);
        Ok(())
    }
}

/// Whether ranks divide rows of this shape by rows, each with the held-out rows of its own.
#[pyfunction]
pub(crate) fn are_rows_shared(n: usize, d: usize) -> bool {
    are_shared(n, d)
}

/// The first of the rows that a rank takes of n, and the one after the last: those that it is to have
/// where ranks share the rows.
#[pyfunction]
pub(crate) fn share_of_rows(n: usize, rank: usize, size: usize) -> (usize, usize) {
    let rows = share(n, rank, size);
    (rows.start, rows.end)
}

/// The instruction set of the kernels. Ranks must have the same.
#[pyfunction]
pub(crate) fn instruction_set() -> String {
    Isa::current().to_string()
}
