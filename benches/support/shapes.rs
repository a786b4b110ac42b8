//! The real shapes, once: rows n, features d, outputs c.

/// A training problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub n: usize,
    pub d: usize,
    pub c: usize,
}

/// The notebook's 102 classes: Flowers102's train split at 128 x 128 x 3.
pub const SOFTMAX: Shape = Shape {
    name: "softmax",
    n: 1020,
    d: 49152,
    c: 102,
};
/// The notebook's two classes.
pub const BINARY: Shape = Shape {
    name: "binary",
    n: 20,
    d: 49152,
    c: 1,
};
