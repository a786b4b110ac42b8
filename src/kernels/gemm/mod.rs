//! Matrix product of strided operands into a row-major result: [`product`] and
//! [`packed_product`] of f32, [`byte_product`] of bytes. The trait `Element` (`tile.rs`) has the
//! types and the arithmetic of each; everything else is written once.
//!
//! C is computed in tiles of MR x NR sums that are held in registers (`tile`). The summed index k
//! is cut into blocks of KC; the other loops depend on the layout of the operands.
//!
//! In general (`driver`), C is cut into panels of NR columns. A, whose rows are contiguous along k,
//! is read in place. Each task packs the columns of B that it needs (`pack`), the next panel while
//! the current one is multiplied:
//!
//! ```text
//! for MC rows of A:                      the block of A stays in L3
//!   for some panels of NR columns, in parallel:
//!     for KC of k, for panel:                B packed: NR columns side by side (L2)
//!       for MR rows:                             one tile; the next rows are prefetched
//! ```
//!
//! Threads synchronise after each KC of k in two cases: for a triangle, whose panels differ in
//! length, and for a packed B, where no task has to wait for packing.
//!
//! Inner products (`inner`): both operands are contiguous along k, as in X Wᵀ, and one is short.
//! The longer one takes the place of A and is read once:
//!
//! ```text
//! for block of k:                        the shorter one packed as B above (L3)
//!   for strip of the longer one's rows, in parallel:
//!     for KC of the block's k:               its part of B stays in L2
//!       for MR rows, for panel:                  one tile; the next rows are prefetched
//! ```
//!
//! The design is that of BLIS (Van Zee and van de Geijn 2015). The order in which one element
//! is summed depends on k and KC only.

mod driver;
mod inner;
mod pack;
#[cfg(test)]
mod tests;
mod tile;

use rayon::prelude::*;

use crate::kernels::aligned::{self, Line};
use crate::kernels::columns::Columns;
use crate::kernels::isa::Isa;
use crate::threads::{Share, Work};
use driver::{Product, Right};
use pack::{PackPanel, panel_width};

/// A matrix with strides: element (i, j) is at `i · row_stride + j · col_stride`; one of the
/// strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T = f32> {
    /// The values.
    pub data: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance from row to row.
    pub row_stride: usize,
    /// Distance from column to column.
    pub col_stride: usize,
}

impl<T> Strided<'_, T> {
    /// The same values with rows and columns exchanged.
    pub fn transpose(self) -> Self {
        Strided {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// Check the shape against `data`.
    ///
    /// # Panics
    /// If an element is outside of `data`, or no stride is 1.
    fn check(&self) {
        let last = |n: usize, stride: usize| n.saturating_sub(1).checked_mul(stride);
        let end = last(self.rows, self.row_stride)
            .zip(last(self.cols, self.col_stride))
            .and_then(|(row, col)| row.checked_add(col));
        assert!(self.row_stride == 1 || self.col_stride == 1, "strides");
        assert!(
            self.rows == 0 || self.cols == 0 || end.is_some_and(|end| end < self.data.len()),
            "an operand's size"
        );
    }
}

/// A right operand B of f32, packed in panels of NR columns: NR adjacent values for every row.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    isa: Isa,
    rows: usize,
    cols: usize,
    values: Vec<Line>,
}

impl Packed {
    /// Pack B, on the current rayon pool. Cost: a copy.
    ///
    /// # Panics
    /// If B has fewer values than its shape needs.
    pub fn new(isa: Isa, b: Strided) -> Packed {
        b.check();
        let nr = panel_width(isa);
        let (rows, cols) = (b.rows, b.cols);
        let mut values = Vec::new();
        let panels = aligned::resize(&mut values, rows * cols.next_multiple_of(nr));
        let work = Work::bytes(8 * rows * cols);
        (panels.par_chunks_exact_mut((rows * nr).max(1)))
            .share(work)
            .enumerate()
            .for_each(|(i, to)| {
                let columns = i * nr..((i + 1) * nr).min(cols);
                isa.run(&mut PackPanel {
                    b,
                    columns,
                    k: 0..rows,
                    to,
                });
            });
        Packed {
            isa,
            rows,
            cols,
            values,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Append row `k` of B to `to`.
    pub fn push_row(&self, k: usize, to: &mut Vec<f32>) {
        let nr = panel_width(self.isa);
        for (i, panel) in self.panels().chunks_exact(self.rows * nr).enumerate() {
            let width = nr.min(self.cols - i * nr);
            to.extend_from_slice(&panel[k * nr..][..width]);
        }
    }

    /// All panels, one after the other.
    fn panels(&self) -> &[f32] {
        bytemuck::cast_slice(&self.values)
    }
}

/// Whether a product overwrites C or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accum {
    /// Overwrite C, which is not read.
    Replace,
    /// Add the product to C.
    Add,
}

/// The part of C to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Full,
    /// On and below the diagonal; the values above it are unspecified afterwards.
    LowerTriangle,
}

/// `C = alpha · A B`, or added to C; A is m x k, its rows contiguous, B k x n, C m x n and
/// row-major. Runs on the current rayon pool. Cost: 2mnk flop.
///
/// # Panics
/// If the shapes do not match.
pub fn product(
    isa: Isa,
    alpha: f32,
    a: Strided,
    b: Strided,
    accum: Accum,
    part: Part,
    c: &mut [f32],
) {
    if part == Part::Full && inner::pays(a, b) {
        inner::inner_products(isa, alpha, a, b, accum, c);
        return;
    }
    let product = Product::<f32> {
        isa,
        scale: alpha,
        a,
        b: Right::Strided(b),
        accum,
        part,
        prologue: None,
    };
    product.run(c);
}

/// `C = prologue(C) + alpha · A B`, shapes as for [`product`]. `prologue` is called with each panel
/// of C just before the product is added to it. Runs on the current rayon pool. Cost: 2mnk flop.
///
/// # Panics
/// If the shapes do not match, or if B was packed for another instruction set.
pub fn packed_product(
    isa: Isa,
    alpha: f32,
    a: Strided,
    b: &Packed,
    c: &mut [f32],
    prologue: &(dyn Fn(&mut Columns) + Sync),
) {
    assert_eq!(b.isa, isa, "panels of another instruction set");
    let product = Product::<f32> {
        isa,
        scale: alpha,
        a,
        b: Right::Packed {
            rows: b.rows,
            cols: b.cols,
            panels: b.panels(),
        },
        accum: Accum::Add,
        part: Part::Full,
        prologue: Some(prologue),
    };
    product.run(c);
}

/// `C = A B` of bytes, or added to C, exactly: A (m x 4k) unsigned, B (4k x n) signed, C
/// (m x n) i32. A step of k is four bytes. Runs on the current rayon pool. Cost: 8mnk
/// operations.
///
/// # Panics
/// If the shapes do not match, or if a sum could overflow: from 65,793 bytes on. With
/// [`Accum::Add`], that limit is for all products that are added up in C.
pub fn byte_product(
    isa: Isa,
    a: Strided<[u8; 4]>,
    b: Strided<[i8; 4]>,
    accum: Accum,
    part: Part,
    c: &mut [i32],
) {
    assert!(
        4 * a.cols < 65_793,
        "255 · 128 · bytes must stay below 2^31"
    );
    let product = Product::<u8> {
        isa,
        scale: (),
        a,
        b: Right::Strided(b),
        accum,
        part,
        prologue: None,
    };
    product.run(c);
}
