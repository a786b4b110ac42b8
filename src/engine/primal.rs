//! The weight itself: W (c x d) and b, with X streamed from where it lies.
//!
//! An epoch costs 4ndc flop and reads X twice. Rows that are not contiguous (mini-batches,
//! a choice of classes out of order) are gathered into a block of bounded size first.

use std::ops::Range;

use rayon::prelude::*;

use super::Engine;
use crate::data::samples::{Batch, Rows};
use crate::gemm::Gemm;
use crate::mat::{MatMut, MatRef};
use crate::model::Model;

/// Most bytes of X gathered at a time.
const GATHER_BYTES: usize = 64 << 20;
/// Values a task when points are combined: 64 KB, a few microseconds of work.
const CHUNK: usize = 16 << 10;

/// The primal engine.
#[derive(Debug)]
pub struct Primal<'a> {
    gemm: Gemm,
    start: Model,
    blocks: Blocks<'a>,
}

/// X as matrices: borrowed where the rows are contiguous, else gathered block by block.
#[derive(Debug)]
struct Blocks<'a> {
    x: &'a Rows<'a>,
    all_rows: Vec<u32>,
    gathered: Gathered,
}

/// A copy of some rows of X.
#[derive(Debug, Default)]
struct Gathered {
    /// Which rows, so that forward and backward gather once.
    rows: Vec<u32>,
    values: Vec<f32>,
}

/// W (c x d, row-major) and b (c), or a direction in their space.
#[derive(Clone, Debug)]
pub struct PrimalPoint {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<'a> Primal<'a> {
    /// Train on `x` from `start`, whose shape fits them.
    pub fn new(x: &'a Rows<'a>, start: Model, gemm: Gemm) -> Self {
        let all_rows = match x.contiguous() {
            Some(_) => Vec::new(),
            None => (0..x.len() as u32).collect(),
        };
        let blocks = Blocks {
            x,
            all_rows,
            gathered: Gathered::default(),
        };
        Primal {
            gemm,
            start,
            blocks,
        }
    }

    /// The initial bias.
    pub(super) fn start_bias(&self) -> &[f32] {
        self.start.bias()
    }

    /// `Z0 = X W0ᵀ`, without the bias.
    pub(super) fn start_margins(&mut self, z: MatMut) {
        let no_bias = vec![0.0; self.outputs()];
        let weight = self.start.weight();
        (self.blocks).margins(self.gemm, weight, &no_bias, Batch::All, z);
    }

    /// The model `W = s·W0 + Aᵀ X` with this bias.
    pub(super) fn combine(&mut self, s: f32, a: MatRef, bias: Vec<f32>) -> Model {
        let mut point = self.start();
        self.pullback(1.0, a, Batch::All, s, &mut point);
        self.start.with_values(point.weight, bias)
    }
}

impl Blocks<'_> {
    /// Give `work` the batch's rows of X, in blocks, with each block's range in the batch.
    fn each(&mut self, batch: Batch, mut work: impl FnMut(Range<usize>, MatRef)) {
        let rows = match (batch, self.x.contiguous()) {
            (Batch::All, Some(x)) => return work(0..x.rows(), x),
            (Batch::All, None) => &self.all_rows,
            (Batch::Rows(rows), _) => rows,
        };
        let block = (GATHER_BYTES / (4 * self.x.features())).max(1);
        for (i, rows) in rows.chunks(block).enumerate() {
            let x = self.gathered.load(self.x, rows);
            work(i * block..i * block + rows.len(), x);
        }
    }

    /// `Z = X_batch Wᵀ + 1 bᵀ`.
    fn margins(&mut self, gemm: Gemm, weight: MatRef, bias: &[f32], batch: Batch, mut z: MatMut) {
        let c = bias.len();
        self.each(batch, |range, x| {
            let rows = range.len();
            let z = &mut z.as_mut_slice()[range.start * c..range.end * c];
            (z.chunks_exact_mut(c)).for_each(|row| row.copy_from_slice(bias));
            gemm.a_bt(1.0, x, weight, 1.0, MatMut::new(z, rows, c));
        });
    }
}

impl Gathered {
    fn load(&mut self, x: &Rows, rows: &[u32]) -> MatRef<'_> {
        let features = x.features();
        if self.rows != rows {
            self.rows.clear();
            self.rows.extend_from_slice(rows);
            self.values.resize(rows.len() * features, 0.0);
            (self.values.par_chunks_exact_mut(features))
                .zip(rows)
                .for_each(|(to, &row)| to.copy_from_slice(x.row(row as usize)));
        }
        MatRef::new(&self.values, rows.len(), features)
    }
}

impl Engine for Primal<'_> {
    type Point = PrimalPoint;

    fn name(&self) -> &'static str {
        "primal"
    }

    fn outputs(&self) -> usize {
        self.start.bias().len()
    }

    fn zero(&self) -> PrimalPoint {
        PrimalPoint {
            weight: vec![0.0; self.start.weight().as_slice().len()],
            bias: vec![0.0; self.outputs()],
        }
    }

    fn start(&self) -> PrimalPoint {
        PrimalPoint {
            weight: self.start.weight().as_slice().to_vec(),
            bias: self.start.bias().to_vec(),
        }
    }

    fn margins(&mut self, at: &PrimalPoint, batch: Batch, z: MatMut) {
        let weight = MatRef::new(&at.weight, self.outputs(), self.blocks.x.features());
        (self.blocks).margins(self.gemm, weight, &at.bias, batch, z);
    }

    fn pullback(&mut self, alpha: f32, g: MatRef, batch: Batch, beta: f32, out: &mut PrimalPoint) {
        let (c, d) = (self.outputs(), self.blocks.x.features());
        let gemm = self.gemm;
        self.blocks.each(batch, |range, x| {
            let beta = if range.start == 0 { beta } else { 1.0 };
            let weight = MatMut::new(&mut out.weight, c, d);
            gemm.at_b(alpha, g.rows_range(range), x, beta, weight);
        });
        super::add_column_sums(alpha, g, beta, &mut out.bias);
    }

    fn axpby(&mut self, alpha: f32, x: &PrimalPoint, beta: f32, y: &mut PrimalPoint) {
        (y.weight.par_chunks_mut(CHUNK))
            .zip(x.weight.par_chunks(CHUNK))
            .for_each(|(y, x)| super::axpby(alpha, x, beta, y));
        super::axpby(alpha, &x.bias, beta, &mut y.bias);
    }

    fn materialise(&mut self, at: PrimalPoint) -> Model {
        self.start.with_values(at.weight, at.bias)
    }
}
