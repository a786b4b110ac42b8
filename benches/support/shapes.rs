//! The real shapes: rows n, features d, outputs c.

/// A training problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub n: usize,
    pub d: usize,
    pub c: usize,
}

const fn shape(name: &'static str, n: usize, d: usize, c: usize) -> Shape {
    Shape { name, n, d, c }
}

/// The notebook's 102 classes: Flowers102's train split at 128 x 128 x 3.
pub const SOFTMAX: Shape = shape("softmax", 1020, 49152, 102);

/// All shapes.
pub const SHAPES: [Shape; 9] = [
    SOFTMAX,
    // The notebook's two classes.
    shape("binary", 20, 49152, 1),
    // train and val together; all photographs.
    shape("train+val", 2040, 49152, 102),
    shape("all-flowers", 8189, 49152, 102),
    // Linear probes.
    shape("probe-1000", 50_000, 768, 1000),
    shape("digits", 60_000, 784, 10),
    // Two classes of digits.
    shape("digits-2", 60_000, 784, 1),
    // Edges.
    shape("small", 64, 128, 5),
    shape("primes", 509, 3001, 37),
];

/// Largest number of rows for which K is timed: the next shape would take minutes.
pub const MOST_ROWS_OF_K: usize = 3000;
