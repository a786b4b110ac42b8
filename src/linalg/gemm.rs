//! Matrix products. All f32 products of the crate go through [`Gemm`], which chooses a back end by
//! shape; it is one of the modules that may contain `unsafe`.
//!
//! All matrices are row-major. Results do not depend on the number of threads: work is
//! divided over the rows and columns of the result, never over the summed index.
//!
//! ```
//! use flowreg::linalg::gemm::{Accum, Backend, Gemm};
//! use flowreg::linalg::mat::{MatMut, MatRef};
//!
//! // Z = X Wᵀ of two rows, three features and two outputs.
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let w = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let mut z = [0.0; 4];
//! Gemm::new(Backend::Auto, 1).a_bt(
//!     1.0,
//!     MatRef::new(&x, 2, 3),
//!     MatRef::new(&w, 2, 3),
//!     Accum::Replace,
//!     MatMut::new(&mut z, 2, 2),
//! );
//! assert_eq!(z, [1.0, 5.0, 4.0, 11.0]);
//! ```
#![allow(unsafe_code)]

use std::fmt;

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::ComplexField;
use faer::traits::math_utils::one;
use faer::{Accum as FaerAccum, MatMut as FaerMut, MatRef as FaerRef, Par};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::Isa;
use crate::kernels::columns::{self, Columns, Start};
use crate::kernels::gemm as kernels;
pub use crate::kernels::gemm::{Accum, Part};
use crate::kernels::gemm::{Packed, Strided};
use crate::linalg::mat::{MatMut, MatRef};
use crate::threads::{self, Share, Work};

/// The library that computes products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The fastest for the shape: the kernels of this crate, or `faer` for narrow results.
    #[default]
    Auto,
    /// The kernels of this crate.
    Own,
    /// The `faer` crate; its kernels use AVX2 or AVX-512 as the machine has them.
    Faer,
    /// The `matrixmultiply` crate, in panels of one thread each.
    Matrixmultiply,
}

impl Backend {
    /// The back end called `name`: auto, own, faer or matrixmultiply.
    ///
    /// # Errors
    /// [`Error::Options`] for another name.
    pub fn named(name: &str) -> Result<Backend> {
        match name {
            "auto" => Ok(Backend::Auto),
            "own" => Ok(Backend::Own),
            "faer" => Ok(Backend::Faer),
            "matrixmultiply" => Ok(Backend::Matrixmultiply),
            _ => {
                let expected = "auto, own, faer or matrixmultiply";
                Err(Error::options("`backend`", name, expected))
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Auto => "auto",
            Backend::Own => "own",
            Backend::Faer => "faer",
            Backend::Matrixmultiply => "matrixmultiply",
        })
    }
}

/// Matrix products by one back end, on threads of the current rayon pool.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    backend: Backend,
    isa: Isa,
    threads: usize,
}

/// The right operand B of many products `A Bᵀ`, in the layout that the back end reads fastest.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepacked {
    /// Bᵀ, packed in panels for the kernels of this crate.
    Panels(Packed),
    /// B in row-major order.
    Plain {
        /// The values of B.
        values: Vec<f32>,
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
    },
}

impl Prepacked {
    /// Append column `k` of B to `to`.
    pub fn push_column(&self, k: usize, to: &mut Vec<f32>) {
        match self {
            Prepacked::Panels(b) => b.push_row(k, to),
            Prepacked::Plain { values, cols, .. } => {
                to.extend(values.iter().skip(k).step_by(*cols));
            }
        }
    }
}

/// The lower triangle of `C = A Aᵀ`, or added to C, by faer.
pub(crate) fn lower_triangle<T: ComplexField>(
    accum: FaerAccum,
    a: FaerRef<T>,
    c: FaerMut<T>,
    par: Par,
) {
    let (all, lower) = (BlockStructure::Rectangular, BlockStructure::TriangularLower);
    triangular::matmul(c, lower, accum, a, all, a.transpose(), all, one(), par);
}

/// An f32 operand, as stored or transposed.
type Operand<'a> = Strided<'a>;

/// A row-major matrix of `cols` columns.
fn rows_of<T>(data: &[T], cols: usize) -> Strided<'_, T> {
    assert!(
        cols > 0 && data.len().is_multiple_of(cols),
        "an operand's rows"
    );
    Strided {
        data,
        rows: data.len() / cols,
        cols,
        row_stride: cols,
        col_stride: 1,
    }
}

impl<'a> Operand<'a> {
    fn new(m: MatRef<'a>) -> Self {
        Operand {
            data: m.as_slice(),
            rows: m.rows(),
            cols: m.cols(),
            row_stride: m.cols(),
            col_stride: 1,
        }
    }

    fn transposed(m: MatRef<'a>) -> Self {
        Self::new(m).transpose()
    }

    fn to_faer(self) -> FaerRef<'a, f32> {
        if self.col_stride == 1 {
            FaerRef::from_row_major_slice(self.data, self.rows, self.cols)
        } else {
            FaerRef::from_column_major_slice(self.data, self.rows, self.cols)
        }
    }
}

impl Gemm {
    /// Products by `backend` on `threads` threads of the rayon pool in which they are called.
    pub fn new(backend: Backend, threads: usize) -> Gemm {
        Gemm {
            backend,
            isa: Isa::current(),
            threads: threads.max(1),
        }
    }

    /// The measured speed of products, in FLOP per second, for estimates of a fit's time. It times
    /// the second of two products of about 10 ms; the first warms up threads and memory.
    pub fn rate(&self) -> f64 {
        const SIDE: usize = 1024;
        let a = vec![0.5; SIDE * SIDE];
        let a = MatRef::new(&a, SIDE, SIDE);
        let mut c = vec![0.0; SIDE * SIDE];
        let mut product = || self.a_bt(1.0, a, a, Accum::Replace, MatMut::new(&mut c, SIDE, SIDE));
        product();
        let started = std::time::Instant::now();
        product();
        2.0 * (SIDE as f64).powi(3) / started.elapsed().as_secs_f64()
    }

    /// `C = alpha · A Bᵀ`, or added to C; A is m x k, B n x k, C m x n. Cost: 2mnk flop.
    ///
    /// The forward pass: Zᵀ = W Xᵀ.
    pub fn a_bt(&self, alpha: f32, a: MatRef, b: MatRef, accum: Accum, c: MatMut) {
        self.product(alpha, Operand::new(a), Operand::transposed(b), accum, c);
    }

    /// `C = alpha · A B`, or added to C; A is m x k, B k x n, C m x n. Cost: 2mnk flop.
    ///
    /// The backward pass: gradient = Gᵀ X.
    pub fn a_b(&self, alpha: f32, a: MatRef, b: MatRef, accum: Accum, c: MatMut) {
        self.product(alpha, Operand::new(a), Operand::new(b), accum, c);
    }

    /// Pack B (`rows` x `cols`, row-major) for [`Gemm::a_prepacked_t`]. Cost: a copy.
    pub fn prepack(&self, b: Vec<f32>, rows: usize, cols: usize) -> Prepacked {
        match self.choose(cols, cols) {
            Backend::Auto | Backend::Own => {
                let b = Operand::transposed(MatRef::new(&b, rows, cols));
                Prepacked::Panels(Packed::new(self.isa, b))
            }
            Backend::Faer | Backend::Matrixmultiply => Prepacked::Plain {
                values: b,
                rows,
                cols,
            },
        }
    }

    /// `C = prologue(C) + alpha · A Bᵀ`; A is m x k, B n x k, C m x n. `prologue` is called with
    /// each block of columns of C just before the product is added to it. Cost: 2mnk flop.
    ///
    /// A step in Gram coordinates computes Gᵀ K so.
    pub fn a_prepacked_t(
        &self,
        alpha: f32,
        a: MatRef,
        b: &Prepacked,
        mut c: MatMut,
        prologue: impl Fn(&mut Columns) + Sync,
    ) {
        match b {
            Prepacked::Plain { values, rows, cols } => {
                let work = Work::bytes(8 * c.rows() * c.cols());
                let blocks = columns::blocks(c.as_mut_slice(), *rows).share(work);
                blocks.for_each(|mut block| prologue(&mut block));
                self.a_bt(alpha, a, MatRef::new(values, *rows, *cols), Accum::Add, c);
            }
            Prepacked::Panels(b) => {
                assert_eq!((c.rows(), c.cols()), (a.rows(), b.cols()), "result's shape");
                let (a, c) = (Operand::new(a), c.as_mut_slice());
                kernels::packed_product(self.isa, alpha, a, b, c, &prologue);
            }
        }
    }

    /// The lower triangle of `C = X Xᵀ`; X is n x k. Cost: n²k flop.
    ///
    /// C is not read; its values above the diagonal are unspecified afterwards.
    pub fn gram(&self, x: MatRef, mut c: MatMut) {
        let n = x.rows();
        assert_eq!((c.rows(), c.cols()), (n, n), "result's shape");
        match self.choose(n, n) {
            Backend::Auto | Backend::Own => {
                let (a, b) = (Operand::new(x), Operand::transposed(x));
                let (accum, part) = (Accum::Replace, Part::LowerTriangle);
                kernels::product(self.isa, 1.0, a, b, accum, part, c.as_mut_slice());
            }
            Backend::Faer => {
                let c = FaerMut::from_row_major_slice_mut(c.as_mut_slice(), n, n);
                let par = self.par(n * n * x.cols());
                lower_triangle(FaerAccum::Replace, Operand::new(x).to_faer(), c, par);
            }
            Backend::Matrixmultiply => {
                /// Rows of a panel; its product covers the columns up to its last row.
                const PANEL: usize = 128;
                for first in (0..n).step_by(PANEL) {
                    let last = (first + PANEL).min(n);
                    let a = Operand::new(x.rows_range(first..last));
                    let b = Operand::transposed(x.rows_range(0..last));
                    let c = &mut c.as_mut_slice()[first * n..last * n];
                    self.matrixmultiply(1.0, a, b, Accum::Replace, c, n);
                }
            }
        }
    }

    /// Whether products of few outputs use the kernels of [`crate::kernels::skinny`].
    pub fn has_skinny(&self) -> bool {
        match self.backend {
            Backend::Auto => self.isa != Isa::PORTABLE,
            backend => backend == Backend::Own,
        }
    }

    /// Whether this back end has [`Gemm::byte_product`].
    pub fn has_bytes(&self) -> bool {
        matches!(self.backend, Backend::Auto | Backend::Own)
    }

    /// `C = A Bᵀ` of bytes, or added to C, exactly: A (m x 4k) unsigned, B (n x 4k) signed, C
    /// (m x n) i32, all of it or its lower triangle. A row has k `steps` of four bytes. Cost: 8mnk
    /// operations.
    ///
    /// # Panics
    /// If A or B does not have whole rows, or C not m x n values; if one product could overflow:
    /// from 65,793 bytes on. With [`Accum::Add`], that limit is for all products that are added up
    /// in C.
    pub fn byte_product(
        &self,
        a: &[[u8; 4]],
        b: &[[i8; 4]],
        steps: usize,
        accum: Accum,
        part: Part,
        c: &mut [i32],
    ) {
        let (a, b) = (rows_of(a, steps), rows_of(b, steps).transpose());
        kernels::byte_product(self.isa, a, b, accum, part, c);
    }

    /// The back end for a result of m x n. [`Backend::Auto`] takes the kernels of this crate, but
    /// `faer` where most of a tile would be padding and on machines with only the portable kernels.
    /// Time of faer over theirs by `cargo bench --bench gemm`: 1020 x 49152 x 102, 1.4; 64 x 128 x
    /// 5, 9; 60000 x 784 x 10, 1.2; 20 x 49152 x 1, 0.1; K of 20 rows, 0.3.
    fn choose(&self, m: usize, n: usize) -> Backend {
        /// Least length of the shorter and of the longer side for the kernels of this crate.
        const MIN_SHORT: usize = 5;
        const MIN_LONG: usize = 32;
        match self.backend {
            Backend::Auto => {
                let is_narrow = m.min(n) < MIN_SHORT || m.max(n) < MIN_LONG;
                if is_narrow || self.isa == Isa::PORTABLE {
                    Backend::Faer
                } else {
                    Backend::Own
                }
            }
            backend => backend,
        }
    }

    /// The parallelism of a product of `flop` by faer.
    fn par(&self, flop: usize) -> Par {
        if self.threads == 1 {
            Par::Seq
        } else {
            threads::par(Work::flop(flop))
        }
    }

    fn product(&self, alpha: f32, a: Operand, b: Operand, accum: Accum, mut c: MatMut) {
        assert_eq!(a.cols, b.rows, "inner dimensions");
        assert_eq!((c.rows(), c.cols()), (a.rows, b.cols), "result's shape");
        let (rows, cols) = (c.rows(), c.cols());
        match self.choose(a.rows, b.cols) {
            Backend::Auto | Backend::Own => {
                kernels::product(self.isa, alpha, a, b, accum, Part::Full, c.as_mut_slice());
            }
            Backend::Faer => {
                let accum = match accum {
                    Accum::Replace => FaerAccum::Replace,
                    Accum::Add => FaerAccum::Add,
                };
                let (a, b, c) = (a.to_faer(), b.to_faer(), c.as_mut_slice());
                if rows.min(cols) == 1 {
                    faer_vector(alpha, a, b, accum, c);
                } else {
                    let c = FaerMut::from_row_major_slice_mut(c, rows, cols);
                    let par = self.par(2 * rows * cols * a.ncols());
                    matmul(c, accum, a, b, alpha, par);
                }
            }
            Backend::Matrixmultiply => {
                self.matrixmultiply(alpha, a, b, accum, c.as_mut_slice(), cols);
            }
        }
    }

    /// `C = alpha · A B`, or added to C, by matrixmultiply: C is cut along its longer side into one
    /// panel for each thread. The rows of C are `stride` apart.
    fn matrixmultiply(
        &self,
        alpha: f32,
        a: Operand,
        b: Operand,
        accum: Accum,
        c: &mut [f32],
        stride: usize,
    ) {
        /// The largest tile side of the crate's f32 kernels: panels end between tiles.
        const TILE: usize = 16;
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let beta = match accum {
            Accum::Replace => 0.0,
            Accum::Add => 1.0,
        };
        assert!(stride >= n && c.len() >= m * stride, "result's size");
        let by_rows = m >= n;
        let side = if by_rows { m } else { n };
        let panel = side.div_ceil(self.threads).next_multiple_of(TILE).max(TILE);
        let start = Start::of(c);
        let panels = (0..side.div_ceil(panel)).into_par_iter();
        panels.share(Work::flop(2 * m * n * k)).for_each(|i| {
            let (first, len) = (i * panel, panel.min(side - i * panel));
            let (row, rows, col, cols) = if by_rows {
                (first, len, 0, n)
            } else {
                (0, m, first, len)
            };
            // SAFETY: the callers checked the shapes, the assertion above the size of C. The slice
            // of each operand covers its shape and strides (an `Operand` is made from a `MatRef`
            // only), the panel is inside C, and panels do not overlap.
            unsafe {
                matrixmultiply::sgemm(
                    rows,
                    k,
                    cols,
                    alpha,
                    a.data.as_ptr().add(row * a.row_stride),
                    a.row_stride as isize,
                    a.col_stride as isize,
                    b.data.as_ptr().add(col * b.col_stride),
                    b.row_stride as isize,
                    b.col_stride as isize,
                    beta,
                    start.at(row * stride + col),
                    stride as isize,
                    1,
                );
            }
        });
    }
}

/// A product whose result is a vector, in parts that one thread each computes. faer would split
/// the sums by the number of threads, and the bits would depend on it.
fn faer_vector(alpha: f32, a: FaerRef<f32>, b: FaerRef<f32>, accum: FaerAccum, c: &mut [f32]) {
    /// Values of a part. The number of threads does not enter.
    const PART: usize = 128;
    // The time is that of reading the matrix once.
    let work = Work::bytes(4 * a.nrows() * a.ncols() * b.ncols());
    let parts = c.par_chunks_mut(PART).share(work);
    parts.enumerate().for_each(|(part, c)| {
        let (first, len) = (part * PART, c.len());
        let (a, b, rows) = if a.nrows() == 1 {
            (a, b.subcols(first, len), 1)
        } else {
            (a.subrows(first, len), b, len)
        };
        let c = FaerMut::from_row_major_slice_mut(c, rows, b.ncols());
        matmul(c, accum, a, b, alpha, Par::Seq);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random_values as values;
    use proptest::prelude::*;

    /// Σ a·b in f64, and Σ |a·b|, which scales the error bound.
    fn oracle(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> (f64, f64) {
        a.zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| {
            let product = f64::from(a) * f64::from(b);
            (sum + product, size + product.abs())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Each product of each back end is compared with f64. NaN in C must not remain if C is replaced.
        #[test]
        fn products_equal_f64_on_every_back_end(
            m in 1usize..40, n in 1usize..40, k in 0usize..70, threads in 1usize..4,
            alpha in -2.0f32..2.0, add in any::<bool>(), seed in any::<u32>(),
        ) {
            let (a, b) = (values(m * k, seed), values(n * k, seed ^ 1));
            let (accum, old) = if add {
                (Accum::Add, values(m * n, seed ^ 2))
            } else {
                (Accum::Replace, vec![f32::NAN; m * n])
            };
            for backend in [Backend::Own, Backend::Faer, Backend::Matrixmultiply] {
                for product in ["a_bt", "a_prepacked_t", "a_b"] {
                    let mut c = old.clone();
                    let gemm = Gemm::new(backend, threads);
                    let out = MatMut::new(&mut c, m, n);
                    match product {
                        "a_bt" => gemm.a_bt(alpha, MatRef::new(&a, m, k), MatRef::new(&b, n, k), accum, out),
                        "a_prepacked_t" => {
                            let b = gemm.prepack(b.clone(), n, k);
                            gemm.a_prepacked_t(alpha, MatRef::new(&a, m, k), &b, out, |block| {
                                let replaced = if accum == Accum::Replace { m } else { 0 };
                                (0..replaced).for_each(|i| block.row(i).fill(0.0));
                            });
                        }
                        _ => gemm.a_b(alpha, MatRef::new(&a, m, k), MatRef::new(&b, k, n), accum, out),
                    }
                    let a_at = |i: usize, l: usize| a[i * k + l];
                    let b_at = |l: usize, j: usize| if product == "a_b" { b[l * n + j] } else { b[j * k + l] };
                    for i in 0..m {
                        for j in 0..n {
                            let (sum, size) = oracle((0..k).map(|l| a_at(i, l)), (0..k).map(|l| b_at(l, j)));
                            let before = if add { f64::from(old[i * n + j]) } else { 0.0 };
                            let expected = f64::from(alpha) * sum + before;
                            let bound = f64::from(f32::EPSILON) * (k as f64 + 4.0)
                                * (f64::from(alpha.abs()) * size + before.abs()) + 1e-30;
                            let found = f64::from(c[i * n + j]);
                            prop_assert!((found - expected).abs() <= bound,
                                "{backend:?} {product} {i} {j}: {found} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        threads::share_short_loops();
        let shapes = [
            (150, 37, 3000),
            (1, 530, 1100),
            (530, 1, 1100),
            (3, 200, 1100),
        ];
        let backends = [Backend::Own, Backend::Faer, Backend::Matrixmultiply];
        for ((m, n, k), backend) in shapes.into_iter().flat_map(|s| backends.map(|b| (s, b))) {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let mut c = vec![0.0; m * n];
                pool.install(|| {
                    Gemm::new(backend, threads).a_bt(
                        1.0,
                        MatRef::new(&a, m, k),
                        MatRef::new(&b, n, k),
                        Accum::Replace,
                        MatMut::new(&mut c, m, n),
                    );
                });
                c
            };
            let one = run(1);
            for threads in [2, 3, 4, 8] {
                let shape = format!("{m} x {n} x {k}");
                assert!(
                    run(threads) == one,
                    "{shape}, {backend:?} with {threads} threads"
                );
            }
        }
    }
}
