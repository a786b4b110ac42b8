//! The traffic of fits of several processes: a model that the tests compare with counts.
//!
//! A sum of v numbers takes 8v bytes of each process. An allreduce of B bytes among P processes, by the
//! algorithms that move the fewest bytes, takes about
//!
//! ```text
//! 2 (P - 1)/P · B/bandwidth + 2 log₂ P · latency
//! ```
//!
//! (Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH").

use std::time::Duration;

use crate::comm::rows::{are_shared, shard_block};
use crate::comm::shard_slab;

/// Bytes of a number.
const NUMBER: f64 = 8.0;

/// The shape of a fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// n: number of rows.
    pub rows: usize,
    /// d: number of features.
    pub features: usize,
    /// c: number of outputs.
    pub outputs: usize,
    /// P: number of processes.
    pub processes: usize,
}

impl Shape {
    /// Whether processes share the columns of X; if not, they share its rows.
    pub fn shares_columns(self) -> bool {
        !are_shared(self.rows, self.features)
    }

    /// Bytes of the sums for K: n(n + 1)/2 numbers, once.
    pub fn gram_bytes(self) -> f64 {
        let n = self.rows as f64;
        NUMBER * n * (n + 1.0) / 2.0
    }

    /// Bytes of the sums for the weight, of which each process has its columns: cd/2 numbers, once.
    pub fn weight_bytes(self) -> f64 {
        NUMBER * self.outputs as f64 * self.features as f64 / 2.0
    }

    /// Bytes of the sums for the logits of all rows: nc numbers.
    pub fn logits_bytes(self) -> f64 {
        NUMBER * self.outputs as f64 * self.rows as f64
    }

    /// Number of blocks of the rows that processes share.
    pub fn blocks(self) -> usize {
        self.rows.div_ceil(shard_block(self.rows))
    }

    /// Number of slabs of columns, or blocks of rows, that processes share: the largest number of
    /// processes.
    pub fn parts(self) -> usize {
        if self.shares_columns() {
            self.features.div_ceil(shard_slab(self.features))
        } else {
            self.blocks()
        }
    }

    /// Number of columns or rows of the process that has the most.
    pub fn largest_share(self) -> usize {
        let (len, part) = if self.shares_columns() {
            (self.features, shard_slab(self.features))
        } else {
            (self.rows, shard_block(self.rows))
        };
        (self.parts().div_ceil(self.processes) * part).min(len)
    }

    /// Bytes of the sums for Xᵀ X, with which Newton's steps and those of L-BFGS are preconditioned:
    /// d(d + 1)/2 numbers, once.
    pub fn moments_bytes(self) -> f64 {
        let d = self.features as f64;
        NUMBER * d * (d + 1.0) / 2.0
    }

    /// Bytes of the sums for a gradient, or for a product with the Hessian: cd + 1 numbers, and 3c + 1 for
    /// each block.
    pub fn gradient_bytes(self) -> f64 {
        let (c, d) = (self.outputs as f64, self.features as f64);
        NUMBER * (c * d + 1.0 + (3.0 * c + 1.0) * self.blocks() as f64)
    }

    /// The time of `sums` sums of so many bytes together.
    pub fn time(self, sums: usize, bytes: f64, network: Network) -> Duration {
        let p = self.processes as f64;
        let moved = 2.0 * (p - 1.0) / p * bytes / network.bytes_per_second;
        let latency = 2.0 * p.log2().ceil() * network.latency.as_secs_f64();
        Duration::from_secs_f64(moved + sums as f64 * latency)
    }
}

/// A network between the processes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Bytes that a process sends in a second, while it receives as many.
    pub bytes_per_second: f64,
    /// The time of an empty message.
    pub latency: Duration,
}
