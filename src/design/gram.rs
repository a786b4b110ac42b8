//! K = X Xᵀ, held as its centred part and what centring took away.
//!
//! With μ the mean row of X,
//!
//! ```text
//! K = Kc + u 1ᵀ + 1 vᵀ,   Kc_ij = (x_i - μ)·(x_j - μ),   u_i = x_i·μ,   v_j = (x_j - μ)·μ
//! ```
//!
//! (any μ will do: of rows with sample weights it is the weighted mean, so that a row that does
//! not count does not draw the centre away from those that do). Kc is f32, u and v are f64. Rows that have much in common (photographs are bright) make
//! K nearly constant, and rounding its entries to f32 loses what tells the rows apart: a fit
//! with a daring learning rate amplifies that. The centred entries are small, and so is
//! their rounding. Where every feature is a byte over 255, as in photographs, the products
//! are formed in integers, without any rounding.

use std::ops::Range;

use rayon::prelude::*;

use crate::design::samples::{Batch, Rows};
use crate::error::{Error, Result};
use crate::kernels::columns::{self, Columns};
use crate::kernels::{Isa, pixels, with_isa};
use crate::linalg::gemm::{Accum, Gemm, Part, Prepacked, lower_triangle};
use crate::linalg::mat::{MatMut, MatRef, room};
use crate::linalg::vec::{dot_serial, sum};
use crate::threads::{self, Share, Work};

/// Columns of X multiplied at a time in floats: so many products are summed in f32, the rest
/// in f64.
const SLAB: usize = 1024;

/// Hears how many columns of X are done, and may break the work off by an error.
pub type Progress<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Inner products of the rows of Y (or X itself) with the rows of X.
#[derive(Clone, Debug, PartialEq)]
pub struct GramMatrix {
    /// Kc, rows x cols.
    centred: Prepacked,
    /// u: one a row.
    row_parts: Vec<f64>,
    /// v: one a column.
    column_parts: Vec<f64>,
    /// How much each row of X counts in μ, if they do not count alike.
    weights: Option<Vec<f64>>,
}

/// Kc, or K itself, in f64, n x n: what exact optimization needs of X Xᵀ.
#[derive(Clone, Debug)]
pub struct GramF64 {
    /// Kc or K, symmetric.
    pub values: Vec<f64>,
    /// Whether the rows were centred.
    pub centred: bool,
    /// n.
    pub rows: usize,
    /// What |Xc| may be off by: of bytes over 255, Kc is that of the quotients before they were
    /// rounded to f32.
    pub unrounded: f64,
}

impl GramF64 {
    /// The size of the eigenvalues that rounding may have made, as a share of the mean one.
    pub const NOISE: f64 = 1e-12;

    /// Of X, or of X with each feature over its `deviation`; `centred` by the mean row or not.
    /// Cost: n²d operations, with integers where every feature is a byte over 255, else flop in
    /// f64; 12n² bytes, of which 8n² stay.
    /// `progress` hears how many columns of X are done.
    ///
    /// # Errors
    /// [`Error::Shape`] if a feature is no finite number; [`Error::Memory`] if there is none for
    /// K; those of `progress`.
    pub fn new(
        x: &Rows,
        deviation: Option<&[f64]>,
        centred: bool,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramF64> {
        let n = x.len();
        let mut products = Products {
            y: None,
            x,
            weights: None,
            gemm,
            sums: room(n, n)?,
            values: room(n, n)?,
        };
        if deviation.is_none() && gemm.has_bytes() && products.of_bytes(progress)? {
            let (row_parts, column_parts) = products.parts(None);
            if centred {
                let work = pass(&products.sums);
                let rows = products.sums.par_chunks_exact_mut(n).zip(&row_parts);
                rows.share(work).for_each(|(sums, row_part)| {
                    let parts = sums.iter_mut().zip(&column_parts);
                    parts.for_each(|(sum, part)| *sum = *sum - row_part - part);
                });
                // Symmetric to the last bit.
                mirror(&mut products.sums, n);
            }
            return Ok(GramF64 {
                values: products.sums,
                centred,
                rows: n,
                unrounded: f64::from(f32::EPSILON) / 4.0 * (n as f64 * x.features() as f64).sqrt(),
            });
        }
        let Products {
            mut sums, values, ..
        } = products;
        drop(values);
        of_wide_floats(x, deviation, centred, &mut sums, progress)?;
        let work = pass(&sums);
        if !sums.par_iter().share(work).all(|sum| sum.is_finite()) {
            x.check_finite("x")?;
        }
        mirror(&mut sums, n);
        if centred {
            // Means were rounded to f32: what they left is taken away, so that Kc 1 = 0.
            let means: Vec<f64> = (sums.par_chunks_exact(n).share(work))
                .map(|row| row.iter().sum::<f64>() / n as f64)
                .collect();
            let mean = means.iter().sum::<f64>() / n as f64;
            let rows = sums.par_chunks_exact_mut(n).zip(&means);
            rows.share(work).for_each(|(row, of_row)| {
                let values = row.iter_mut().zip(&means);
                values.for_each(|(value, of_column)| *value -= of_row + of_column - mean);
            });
        }
        Ok(GramF64 {
            values: sums,
            centred,
            rows: n,
            unrounded: 0.0,
        })
    }

    /// The mean of Kc's diagonal.
    pub fn mean_square(&self) -> f64 {
        let diagonal = self.values.iter().step_by(self.rows + 1);
        diagonal.sum::<f64>() / self.rows as f64
    }
}

/// The lower triangle of `Xc Xcᵀ` (or `X Xᵀ`) added to `sums`, all in f64.
fn of_wide_floats(
    x: &Rows,
    deviation: Option<&[f64]>,
    centred: bool,
    sums: &mut [f64],
    progress: Progress,
) -> Result<()> {
    /// Columns at a time.
    const SLAB: usize = 512;
    let (n, d) = (x.len(), x.features());
    let (mut mean, mut slab) = (Vec::new(), vec![0.0; n * SLAB.min(d)]);
    for first in (0..d).step_by(SLAB) {
        let columns = first..(first + SLAB).min(d);
        let width = columns.len();
        column_means(x, None, columns.clone(), &mut mean);
        if !centred {
            mean.fill(0.0);
        }
        let slab = &mut slab[..n * width];
        let work = pass(slab);
        (slab.par_chunks_exact_mut(width).share(work).enumerate()).for_each(|(i, slab)| {
            with_isa!(Isa::current(), || {
                let values = x.row(i)[columns.clone()].iter().zip(&mean);
                for (to, (&x, &mean)) in slab.iter_mut().zip(values) {
                    *to = f64::from(x) - f64::from(mean);
                }
                if let Some(deviation) = deviation {
                    for (to, deviation) in slab.iter_mut().zip(&deviation[columns.clone()]) {
                        *to /= deviation;
                    }
                }
            });
        });
        let slab = faer::MatRef::from_row_major_slice(slab, n, width);
        let sums = faer::MatMut::from_row_major_slice_mut(sums, n, n);
        let par = threads::par(Work::flop(2 * n * n * columns.len()));
        lower_triangle(faer::Accum::Add, slab, sums, par);
        progress(columns.end)?;
    }
    Ok(())
}

/// Who multiplies, and the room that [`GramMatrix::product`] uses, kept between calls.
#[derive(Debug)]
pub struct Scratch {
    gemm: Gemm,
    /// A mini-batch's columns of Kc, and of v.
    gathered: Vec<f32>,
    parts: Vec<f64>,
    /// Gᵀ1 and Gᵀv of every block of samples.
    of_blocks: Vec<f64>,
    /// Gᵀ1 of the last product.
    sums: Vec<f64>,
}

impl Scratch {
    /// No room yet.
    pub fn new(gemm: Gemm) -> Scratch {
        Scratch {
            gemm,
            gathered: Vec::new(),
            parts: Vec::new(),
            of_blocks: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl GramMatrix {
    /// K = X Xᵀ, n x n: one triangle multiplied out and mirrored. Cost: n²d flop; 12n² bytes,
    /// of which 4n² stay. `progress` hears how many columns of X are done.
    ///
    /// # Errors
    /// [`Error::Shape`] if a feature is no finite number; naming the primal engine,
    /// [`Error::Options`] if Kc exceeds the range of f32 and [`Error::Memory`] if there is none
    /// for it; those of `progress`.
    pub fn new(x: &Rows, gemm: Gemm, progress: Progress) -> Result<GramMatrix> {
        Self::weighted(x, None, gemm, progress)
    }

    /// [`GramMatrix::new`] of rows that count by their weights, one a row: the same K, rounded
    /// less where the rows of large weight are.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn weighted(
        x: &Rows,
        weights: Option<&[f64]>,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        Self::multiply(None, x, weights, gemm, progress)
    }

    /// Y Xᵀ for other rows, m x n, centred by X's mean; `k` is X Xᵀ. Cost: 2mnd flop; 12mn
    /// bytes, of which 4mn stay.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn between(
        y: &Rows,
        x: &Rows,
        k: &GramMatrix,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        Self::multiply(Some((y, k)), x, k.weights.as_deref(), gemm, progress)
    }

    fn multiply(
        y: Option<(&Rows, &GramMatrix)>,
        x: &Rows,
        weights: Option<&[f64]>,
        gemm: Gemm,
        progress: Progress,
    ) -> Result<GramMatrix> {
        let rows = y.map_or(x.len(), |(y, _)| y.len());
        let mut products = Products {
            y: y.map(|(y, _)| y),
            x,
            weights,
            gemm,
            sums: room(rows, x.len())?,
            values: room(rows, x.len())?,
        };
        if gemm.has_bytes() && products.of_bytes(progress)? {
            return Ok(products.centred(y.map(|(_, k)| k)));
        }
        let (row_parts, column_parts) = products.of_floats(progress)?;
        let Products { values, sums, .. } = products;
        drop(sums);
        in_range(&values, x, y.map(|(y, _)| y))?;
        Ok(GramMatrix {
            centred: gemm.prepack(values, rows, x.len()),
            row_parts,
            column_parts,
            weights: weights.map(<[f64]>::to_vec),
        })
    }

    /// K + 1 1ᵀ: the Gram matrix of rows with one more feature, which is 1.
    pub fn with_ones(mut self) -> GramMatrix {
        self.row_parts.iter_mut().for_each(|part| *part += 1.0);
        self
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_parts.len()
    }

    /// Number of columns: the rows of X.
    pub fn cols(&self) -> usize {
        self.column_parts.len()
    }

    /// `Zᵀ = alpha · Gᵀ K_batchᵀ + beta · Zᵀ`, where K_batch are the batch's columns; Gᵀ is
    /// c x batch, Zᵀ c x rows. Returns Gᵀ1, c values. Cost: 2 · rows · batch · c flop. With
    /// `beta` = 0, Z is not read.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product<'s>(
        &self,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        mut z: MatMut,
        scratch: &'s mut Scratch,
    ) -> &'s [f64] {
        let (rows, outputs) = (self.rows(), z.rows());
        let Scratch {
            gemm,
            gathered,
            parts,
            of_blocks,
            sums,
        } = scratch;
        let parts = match batch {
            Batch::All => &self.column_parts,
            Batch::Rows(batch) => {
                parts.clear();
                parts.extend(batch.iter().map(|&i| self.column_parts[i as usize]));
                parts
            }
        };
        assert_eq!((g.rows(), g.cols()), (outputs, parts.len()), "G's shape");
        // Gᵀ1 and Gᵀv, block by block of samples and then in the blocks' order.
        let isa = Isa::current();
        let blocks = g.cols().div_ceil(columns::WIDTH);
        of_blocks.resize(blocks * 2 * outputs, 0.0);
        let tasks = of_blocks.par_chunks_exact_mut(2 * outputs);
        let tasks = tasks.share(pass(g.as_slice())).enumerate();
        tasks.for_each(|(block, sums)| {
            let first = block * columns::WIDTH;
            let range = first..(first + columns::WIDTH).min(g.cols());
            with_isa!(isa, || {
                let (ones, weighted) = sums.split_at_mut(outputs);
                for (j, (one, weighted)) in ones.iter_mut().zip(weighted).enumerate() {
                    let g = &g.row(j)[range.clone()];
                    (*one, *weighted) = (sum(g), dot_serial(&parts[range.clone()], g));
                }
            });
        });
        sums.clear();
        sums.resize(2 * outputs, 0.0);
        for block in of_blocks.chunks_exact(2 * outputs) {
            let sums = sums.iter_mut().zip(block);
            sums.for_each(|(sum, block)| *sum += block);
        }
        let wide_alpha = f64::from(alpha);
        let begin = |block: &mut Columns| {
            let parts = &self.row_parts[block.range()];
            with_isa!(isa, || {
                for j in 0..outputs {
                    let slope = wide_alpha * sums[j];
                    let shift = wide_alpha * sums[outputs + j];
                    let values = block.row(j).iter_mut().zip(parts);
                    match beta {
                        0.0 => values.for_each(|(z, part)| *z = (slope * part + shift) as f32),
                        _ => values.for_each(|(z, part)| {
                            *z = (beta * f64::from(*z) + (slope * part + shift)) as f32;
                        }),
                    }
                }
            });
        };
        match batch {
            Batch::All => gemm.a_prepacked_t(alpha, g, &self.centred, z, begin),
            Batch::Rows(batch) => {
                let blocks = columns::blocks(z.as_mut_slice(), rows);
                let blocks = blocks.share(Work::bytes(8 * outputs * rows));
                blocks.for_each(|mut block| begin(&mut block));
                gathered.clear();
                for &i in batch {
                    self.centred.push_column(i as usize, gathered);
                }
                let columns = MatRef::new(gathered, batch.len(), rows);
                gemm.a_b(alpha, g, columns, Accum::Add, z);
            }
        }
        &sums[..outputs]
    }
}

/// Y Xᵀ or, without Y, the lower triangle of X Xᵀ, in the making.
struct Products<'a> {
    y: Option<&'a Rows<'a>>,
    x: &'a Rows<'a>,
    /// How much each row of X counts in the mean; `None` is alike.
    weights: Option<&'a [f64]>,
    gemm: Gemm,
    /// Sums over slabs of columns, zeros at first.
    sums: Vec<f64>,
    /// Products of one slab.
    values: Vec<f32>,
}

impl Products<'_> {
    /// How many entries of row i are multiplied out.
    fn used(&self) -> impl Fn(usize) -> usize + Sync + use<> {
        let (whole, n) = (self.y.is_some(), self.x.len());
        move |i| if whole { n } else { i + 1 }
    }

    /// Kc by products of centred rows: `values`, u and v.
    fn of_floats(&mut self, progress: Progress) -> Result<(Vec<f64>, Vec<f64>)> {
        let (x, n, d) = (self.x, self.x.len(), self.x.features());
        let rows = self.sums.len() / n;
        let used = self.used();
        let mut column_parts = vec![0.0; n];
        let mut row_parts = vec![0.0; rows];
        let mut mean_squared = 0.0;
        let (mut mean, mut x_slab, mut y_slab) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..d).step_by(SLAB) {
            let columns = first..(first + SLAB).min(d);
            column_means(x, self.weights, columns.clone(), &mut mean);
            mean_squared += dot_serial(&mean, &mean);
            let centred = |rows, slab, parts| {
                let slab = centre(
                    rows,
                    columns.clone(),
                    &mean,
                    |x, mean| x - mean,
                    slab,
                    parts,
                );
                MatRef::new(slab, slab.len() / columns.len(), columns.len())
            };
            let x_slab = centred(x, &mut x_slab, &mut column_parts);
            let product = MatMut::new(&mut self.values, rows, n);
            match self.y {
                None => self.gemm.gram(x_slab, product),
                Some(y) => {
                    let y_slab = centred(y, &mut y_slab, &mut row_parts);
                    (self.gemm).a_bt(1.0, y_slab, x_slab, Accum::Replace, product);
                }
            }
            add_slab(&mut self.sums, &self.values, n, &used);
            progress(columns.end)?;
        }
        let work = pass(&self.sums);
        let both = (self.values.par_chunks_exact_mut(n)).zip(self.sums.par_chunks_exact(n));
        both.share(work)
            .enumerate()
            .for_each(|(i, (values, sums))| {
                let used = values[..used(i)].iter_mut().zip(sums);
                used.for_each(|(value, &sum)| *value = sum as f32);
            });
        if self.y.is_none() {
            mirror(&mut self.values, n);
            row_parts.copy_from_slice(&column_parts);
        }
        row_parts.iter_mut().for_each(|part| *part += mean_squared);
        Ok((row_parts, column_parts))
    }

    /// 255² times the products, exactly, in `sums`, if every feature is a byte over 255. Else
    /// `false`, soon, and `sums` is as it was.
    fn of_bytes(&mut self, progress: Progress) -> Result<bool> {
        let (x, n, d) = (self.x, self.x.len(), self.x.features());
        let rows = self.sums.len() / n;
        let used = self.used();
        let (mut x_slab, mut y_slab) = (ByteSlab::default(), ByteSlab::default());
        // Σ a·b = Σ a·(b - 128) + 128 Σ a.
        let mut row_totals = vec![0u64; rows];
        for first in (0..d).step_by(BYTE_SLAB) {
            let columns = first..(first + BYTE_SLAB).min(d);
            let loads = [(Some(x), &mut x_slab), (self.y, &mut y_slab)];
            for (rows, slab) in loads {
                if rows.is_some_and(|rows| !slab.load(rows, columns.clone())) {
                    self.sums.fill(0.0);
                    return Ok(false);
                }
            }
            let (left, part) = match self.y {
                None => (&x_slab, Part::LowerTriangle),
                Some(_) => (&y_slab, Part::Full),
            };
            let values: &mut [i32] = bytemuck::cast_slice_mut(&mut self.values);
            let width = columns.len().div_ceil(4);
            let (a, b) = (&left.unsigned, &x_slab.signed);
            let accum = if first.is_multiple_of(EXACT) {
                Accum::Replace
            } else {
                Accum::Add
            };
            (self.gemm).byte_product(a, b, width, accum, part, values);
            if columns.end == d || columns.end.is_multiple_of(EXACT) {
                add_slab(&mut self.sums, values, n, &used);
            }
            let totals = row_totals.iter_mut().zip(&left.totals);
            totals.for_each(|(total, slab)| *total += slab);
            progress(columns.end)?;
        }
        let work = pass(&self.sums);
        let rows = self.sums.par_chunks_exact_mut(n).zip(&row_totals);
        rows.share(work)
            .enumerate()
            .for_each(|(i, (sums, &total))| {
                let total = (128 * total) as f64;
                sums[..used(i)].iter_mut().for_each(|sum| *sum += total);
            });
        Ok(true)
    }

    /// Scales the exact products, all of them then; u and v: the mean row's product with a row
    /// is the mean of its products with all rows.
    fn parts(&mut self, k: Option<&GramMatrix>) -> (Vec<f64>, Vec<f64>) {
        let n = self.x.len();
        if self.y.is_none() {
            mirror(&mut self.sums, n);
        }
        let scale = 1.0 / (255.0 * 255.0);
        let work = pass(&self.sums);
        let rows = self.sums.par_chunks_exact_mut(n).share(work);
        let row_parts: Vec<f64> = rows
            .map(|sums| {
                sums.iter_mut().for_each(|sum| *sum *= scale);
                sums.iter().sum::<f64>() / n as f64
            })
            .collect();
        let column_parts = match k {
            Some(k) => k.column_parts.clone(),
            None => {
                let mean_squared = row_parts.iter().sum::<f64>() / n as f64;
                row_parts.iter().map(|part| part - mean_squared).collect()
            }
        };
        (row_parts, column_parts)
    }

    /// Kc, u and v from exact products.
    fn centred(mut self, k: Option<&GramMatrix>) -> GramMatrix {
        let n = self.x.len();
        let (row_parts, column_parts) = self.parts(k);
        let rows = (self.values.par_chunks_exact_mut(n)).zip(self.sums.par_chunks_exact(n));
        let isa = Isa::current();
        let rows = rows.zip(&row_parts).share(pass(&self.sums));
        rows.for_each(|((values, sums), row_part)| {
            with_isa!(isa, || {
                let parts = values.iter_mut().zip(sums.iter().zip(&column_parts));
                parts.for_each(|(value, (sum, part))| *value = (sum - row_part - part) as f32);
            });
        });
        if self.y.is_none() {
            // Symmetric to the last bit.
            mirror(&mut self.values, n);
        }
        drop(self.sums);
        GramMatrix {
            centred: self.gemm.prepack(self.values, row_parts.len(), n),
            row_parts,
            column_parts,
            weights: self.weights.map(<[f64]>::to_vec),
        }
    }
}

/// Add the products of a slab, as many of row i as `used` says.
fn add_slab<T: Copy + Sync + Into<f64>>(
    sums: &mut [f64],
    values: &[T],
    n: usize,
    used: &(impl Fn(usize) -> usize + Sync),
) {
    let work = pass(sums);
    let rows = sums.par_chunks_exact_mut(n).zip(values.par_chunks_exact(n));
    let isa = Isa::current();
    rows.share(work)
        .enumerate()
        .for_each(|(i, (sums, values))| {
            with_isa!(isa, || {
                let used = sums[..used(i)].iter_mut().zip(values);
                used.for_each(|(sum, &value)| *sum += value.into());
            });
        });
}

/// Columns of X whose bytes are multiplied at a time.
const BYTE_SLAB: usize = 8192;
/// Columns whose products i32 can hold: 255 · 128 · 65,536 < 2^31.
const EXACT: usize = 8 * BYTE_SLAB;
/// Most bytes a row that slabs of either kind take.
pub(super) const SLAB_BYTES: usize = 2 * BYTE_SLAB;

/// Some columns of rows as bytes, four at a time. Where they end, `unsigned` is padded by zeros.
#[derive(Default)]
struct ByteSlab {
    unsigned: Vec<[u8; 4]>,
    /// Less 128.
    signed: Vec<[i8; 4]>,
    /// Sum of each row's bytes.
    totals: Vec<u64>,
}

impl ByteSlab {
    /// Whether all values are bytes over 255; then they are loaded.
    fn load(&mut self, rows: &Rows, columns: Range<usize>) -> bool {
        let width = columns.len().div_ceil(4);
        let isa = Isa::current();
        self.unsigned.resize(rows.len() * width, [0; 4]);
        self.signed.resize(rows.len() * width, [0; 4]);
        self.totals.resize(rows.len(), 0);
        // Four bytes of X a byte.
        let work = Work::bytes(6 * size_of_val(&self.unsigned[..]));
        (self.unsigned.par_chunks_exact_mut(width))
            .zip(self.signed.par_chunks_exact_mut(width))
            .zip(&mut self.totals)
            .share(work)
            .enumerate()
            .all(|(i, ((unsigned, signed), total))| {
                let (unsigned, signed) = (unsigned.as_flattened_mut(), signed.as_flattened_mut());
                unsigned[columns.len()..].fill(0);
                let (unsigned, signed) =
                    (&mut unsigned[..columns.len()], &mut signed[..columns.len()]);
                let exact = pixels::bytes(isa, &rows.row(i)[columns.clone()], unsigned, signed);
                // Wrapping, as a check at every byte would leave it without vectors.
                let add = |total: u64, &byte: &u8| total.wrapping_add(byte.into());
                *total = with_isa!(isa, || unsigned.iter().fold(0, add));
                exact
            })
    }
}

/// Refuse inner products beyond the range of f32, and features that are no finite numbers.
fn in_range(values: &[f32], x: &Rows, y: Option<&Rows>) -> Result<()> {
    let all = values.par_iter().share(pass(values));
    if all.all(|value| value.is_finite()) {
        return Ok(());
    }
    x.check_finite("x")?;
    y.map_or(Ok(()), |y| y.check_finite("validation x"))?;
    Err(Error::options(
        "`engine`",
        "gram, where inner products of rows are beyond f32",
        "primal, or features so small that their products are within f32",
    ))
}

/// A pass that reads these values and writes as many.
fn pass<T>(values: &[T]) -> Work {
    Work::bytes(2 * size_of_val(values))
}

/// The mean of these columns of X, by the rows' weights if there are any.
fn column_means(x: &Rows, weights: Option<&[f64]>, columns: Range<usize>, mean: &mut Vec<f32>) {
    /// Columns a task: two cache lines of a row.
    const WIDTH: usize = 32;
    let total = weights.map_or(x.len() as f64, |weights| weights.iter().sum());
    mean.clear();
    mean.resize(columns.len(), 0.0);
    let work = Work::bytes(4 * x.len() * columns.len());
    let tasks = mean.par_chunks_mut(WIDTH).share(work).enumerate();
    tasks.for_each(|(task, mean)| {
        let first = columns.start + task * WIDTH;
        let mut sums = [0.0f64; WIDTH];
        for i in 0..x.len() {
            let values = &x.row(i)[first..first + mean.len()];
            let sums = sums.iter_mut().zip(values);
            let weight = weights.map_or(1.0, |weights| weights[i]);
            sums.for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
        let means = mean.iter_mut().zip(sums);
        means.for_each(|(mean, sum)| *mean = (sum / total) as f32);
    });
}

/// These columns of X less their mean, by `subtract`; each row's product with the mean is added
/// to `parts`.
fn centre<'a, T: Copy + Default + Send + Sync + Into<f64>>(
    x: &Rows,
    columns: Range<usize>,
    mean: &[f32],
    subtract: impl Fn(f32, f32) -> T + Sync,
    slab: &'a mut Vec<T>,
    parts: &mut [f64],
) -> &'a [T] {
    let width = columns.len();
    slab.resize(x.len() * width, T::default());
    let isa = Isa::current();
    let work = pass(slab);
    (slab.par_chunks_exact_mut(width))
        .zip(parts)
        .share(work)
        .enumerate()
        .for_each(|(i, (slab, part))| {
            with_isa!(isa, || {
                let values = x.row(i)[columns.clone()].iter().zip(mean);
                let centred = slab.iter_mut().zip(values);
                centred.for_each(|(centred, (&x, &mean))| *centred = subtract(x, mean));
                *part += dot_serial(slab, mean);
            });
        });
    slab
}

/// Copy the lower triangle to the upper one, by tiles that stay in cache.
fn mirror<T: Copy + Send + Sync>(k: &mut [T], n: usize) {
    const TILE: usize = 64;
    const TASK: usize = 16;
    for first in (0..n).step_by(TILE) {
        let last = (first + TILE).min(n);
        let (above, below) = k.split_at_mut(last * n);
        let tile = &mut above[first * n..];
        for i in 0..last - first {
            for j in 0..i {
                tile[j * n + first + i] = tile[i * n + first + j];
            }
        }
        let work = Work::bytes(2 * size_of_val(below) / n * (last - first));
        let rows = tile.par_chunks_mut(TASK * n).share(work).enumerate();
        rows.for_each(|(task, rows)| {
            for (i, from) in below.chunks_exact(n).enumerate() {
                let from = &from[first + task * TASK..];
                for (row, &value) in rows.chunks_exact_mut(n).zip(from) {
                    row[last + i] = value;
                }
            }
        });
    }
}
