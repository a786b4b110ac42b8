//! The weight itself: W (c x d) and b, with X streamed from where it lies.
//!
//! An epoch costs 4ndc flop and reads X twice, for few outputs once (`one_pass.rs`). Rows that
//! are not contiguous (mini-batches, a choice of classes out of order) are gathered into a block
//! of bounded size first.

use std::ops::Range;

use rayon::prelude::*;

use super::one_pass::OnePass;
use super::{Coordinates, Engine, Room};
use crate::checkpoint::Fields;
use crate::data::samples::{Batch, Rows};
use crate::gemm::{Accum, Gemm};
use crate::kernels::{Isa, vectorised};
use crate::mat::{MatMut, MatRef};
use crate::model::Model;
use crate::objective::Objective;
use crate::threads::{Share, Work};

/// Most bytes of X gathered at a time.
const GATHER_BYTES: usize = 64 << 20;
/// Most bytes of X centred at a time: they should still be in the cache when they are multiplied.
const CENTER_BYTES: usize = 4 << 20;

/// The primal engine.
#[derive(Debug)]
pub struct Primal<'a> {
    gemm: Gemm,
    start: Model,
    train: Blocks<'a>,
    validation: Option<Blocks<'a>>,
    /// Where it pays.
    one_pass: Option<OnePass>,
    sums: Vec<f64>,
}

/// X as matrices: borrowed where the rows are contiguous, else gathered block by block.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    x: &'a Rows<'a>,
    all_rows: Vec<u32>,
    gathered: Gathered,
    /// A block's columns of Zᵀ or Gᵀ.
    columns: Vec<f32>,
    /// Taken away from every row.
    mean: Option<Vec<f32>>,
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
    pub fn new(
        x: &'a Rows<'a>,
        validation: Option<&'a Rows<'a>>,
        start: Model,
        gemm: Gemm,
    ) -> Self {
        let outputs = start.bias().len();
        let one_pass = (gemm.has_narrow() && x.contiguous().is_some())
            .then(|| OnePass::new(x.len(), x.features(), outputs))
            .flatten();
        Primal {
            gemm,
            start,
            train: Blocks::new(x),
            validation: validation.map(Blocks::new),
            one_pass,
            sums: Vec::new(),
        }
    }

    /// Whether a full batch is one pass over X.
    #[cfg(test)]
    pub(super) fn reads_once(&self) -> bool {
        self.one_pass.is_some()
    }

    /// W0 and b0.
    pub(super) fn start_model(&self) -> &Model {
        &self.start
    }

    /// `Z0ᵀ = W0 Xᵀ` without the bias, of the rows and of the validation rows.
    pub(super) fn start_margins(&mut self) -> (Vec<f32>, Option<Vec<f32>>) {
        let (gemm, weight) = (self.gemm, self.start.weight());
        let no_bias = vec![0.0; weight.rows()];
        let no_weight = weight.as_slice().iter().all(|&w| w == 0.0);
        let margins = |blocks: &mut Blocks| {
            let (rows, c) = (blocks.x.len(), no_bias.len());
            let mut z = vec![0.0; rows * c];
            if !no_weight {
                let z = MatMut::new(&mut z, c, rows);
                blocks.margins(gemm, weight, &no_bias, Batch::All, z);
            }
            z
        };
        let validation = self.validation.as_mut().map(margins);
        (margins(&mut self.train), validation)
    }

    /// The model `W = s·W0 + Aᵀ X` with this bias.
    pub(crate) fn combine(mut self, from: Coordinates) -> Model {
        let c = self.outputs();
        let a = MatRef::new(from.a, c, from.a.len() / c);
        let (weight, bias) = self.start.values_mut();
        (self.train).pullback(self.gemm, 1.0, a, Batch::All, from.s.into(), weight);
        bias.copy_from_slice(from.bias);
        self.start
    }
}

impl<'a> Blocks<'a> {
    pub(super) fn new(x: &'a Rows<'a>) -> Self {
        let all_rows = match x.contiguous() {
            Some(_) => Vec::new(),
            None => (0..x.len() as u32).collect(),
        };
        Blocks {
            x,
            all_rows,
            gathered: Gathered::default(),
            columns: Vec::new(),
            mean: None,
        }
    }

    /// Rows less a mean, which are made anew, block by block, for every product.
    pub(super) fn centered(x: &'a Rows<'a>, mean: &[f32]) -> Self {
        Blocks {
            all_rows: (0..x.len() as u32).collect(),
            mean: Some(mean.to_vec()),
            ..Blocks::new(x)
        }
    }

    /// Give `work` the batch's rows of X, in blocks, with each block's range in the batch.
    pub(super) fn each(&mut self, batch: Batch, mut work: impl FnMut(Range<usize>, MatRef)) {
        let mean = self.mean.as_deref();
        let (rows, bytes) = match (batch, self.x.contiguous()) {
            (Batch::All, Some(x)) if mean.is_none() => return work(0..x.rows(), x),
            (Batch::All, Some(_)) => (&self.all_rows[..], CENTER_BYTES),
            (Batch::All, None) => (&self.all_rows[..], GATHER_BYTES),
            (Batch::Rows(rows), _) => (rows, GATHER_BYTES),
        };
        let block = (bytes / (4 * self.x.features())).max(1);
        for (i, rows) in rows.chunks(block).enumerate() {
            let x = self.gathered.load(self.x, rows, mean);
            work(i * block..i * block + rows.len(), x);
        }
    }

    /// `Zᵀ = W X_batchᵀ + b 1ᵀ`, c x batch.
    pub(super) fn margins(
        &mut self,
        gemm: Gemm,
        weight: MatRef,
        bias: &[f32],
        batch: Batch,
        mut z: MatMut,
    ) {
        let n = z.cols();
        let mut columns = std::mem::take(&mut self.columns);
        self.each(batch, |range, x| {
            let len = range.len();
            let block = match len == n {
                true => z.as_mut_slice(),
                false => {
                    columns.resize(bias.len() * len, 0.0);
                    &mut columns[..]
                }
            };
            let rows = block.chunks_exact_mut(len).zip(bias);
            rows.for_each(|(row, &bias)| row.fill(bias));
            let z_block = MatMut::new(block, bias.len(), len);
            gemm.a_bt(1.0, weight, x, Accum::Add, z_block);
            if len < n {
                let rows = z
                    .as_mut_slice()
                    .chunks_exact_mut(n)
                    .zip(columns.chunks_exact(len));
                rows.for_each(|(row, block)| row[range.clone()].copy_from_slice(block));
            }
        });
        self.columns = columns;
    }

    /// `weight = alpha · Gᵀ X_batch + beta · weight`; Gᵀ is c x batch.
    pub(super) fn pullback(
        &mut self,
        gemm: Gemm,
        alpha: f32,
        g: MatRef,
        batch: Batch,
        beta: f64,
        weight: &mut [f32],
    ) {
        let (c, n, d) = (g.rows(), g.cols(), self.x.features());
        let mut accum = super::scale(beta, weight);
        let mut columns = std::mem::take(&mut self.columns);
        self.each(batch, |range, x| {
            let len = range.len();
            let g = match len == n {
                true => g,
                false => {
                    columns.clear();
                    let rows = g.as_slice().chunks_exact(n);
                    rows.for_each(|row| columns.extend_from_slice(&row[range.clone()]));
                    MatRef::new(&columns, c, len)
                }
            };
            gemm.a_b(alpha, g, x, accum, MatMut::new(weight, c, d));
            accum = Accum::Add;
        });
        self.columns = columns;
    }
}

impl Gathered {
    fn load(&mut self, x: &Rows, rows: &[u32], mean: Option<&[f32]>) -> MatRef<'_> {
        let features = x.features();
        if self.rows != rows {
            self.rows.clear();
            self.rows.extend_from_slice(rows);
            self.values.resize(rows.len() * features, 0.0);
            let work = Work::bytes(2 * size_of_val(&self.values[..]));
            (self.values.par_chunks_exact_mut(features))
                .zip(rows)
                .share(work)
                .for_each(|(to, &row)| match mean {
                    None => to.copy_from_slice(x.row(row as usize)),
                    Some(mean) => vectorised!(Isa::current(), || {
                        let values = x.row(row as usize).iter().zip(mean);
                        for (to, (x, mean)) in to.iter_mut().zip(values) {
                            *to = x - mean;
                        }
                    }),
                });
        }
        MatRef::new(&self.values, rows.len(), features)
    }
}

impl Engine for Primal<'_> {
    type Point = PrimalPoint;

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

    fn margins<'a>(
        &mut self,
        at: &'a PrimalPoint,
        batch: Batch,
        room: &'a mut Vec<f32>,
    ) -> MatRef<'a> {
        let (c, d) = (self.outputs(), self.train.x.features());
        let n = match batch {
            Batch::All => self.train.x.len(),
            Batch::Rows(rows) => rows.len(),
        };
        room.resize(c * n, 0.0);
        let weight = MatRef::new(&at.weight, c, d);
        let z = MatMut::new(room, c, n);
        (self.train).margins(self.gemm, weight, &at.bias, batch, z);
        MatRef::new(room, c, n)
    }

    fn validation_margins(&mut self, at: &PrimalPoint, z: MatMut) {
        let weight = MatRef::new(&at.weight, self.outputs(), self.train.x.features());
        let validation = self.validation.as_mut().expect("validation rows");
        validation.margins(self.gemm, weight, &at.bias, Batch::All, z);
    }

    fn pullback(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut PrimalPoint) {
        let alpha = alpha as f32;
        (self.train).pullback(self.gemm, alpha, g, batch, beta, &mut out.weight);
        super::row_sums(g, &mut self.sums);
        super::move_bias(alpha.into(), &self.sums, beta, &mut out.bias);
    }

    fn loss(
        &mut self,
        at: &PrimalPoint,
        batch: Batch,
        objective: &mut Objective,
        room: &mut Room,
    ) -> f64 {
        match (&mut self.one_pass, batch, self.train.x.contiguous()) {
            (Some(pass), Batch::All, Some(x)) => pass.loss(&at.weight, &at.bias, x, objective),
            _ => super::loss(self, at, batch, objective, room),
        }
    }

    fn gradient(
        &mut self,
        alpha: f64,
        batch: Batch,
        beta: f64,
        out: &mut PrimalPoint,
        room: &Room,
    ) {
        match (&self.one_pass, batch) {
            (Some(pass), Batch::All) => {
                pass.pullback(alpha as f32, beta, &mut out.weight, &mut out.bias);
            }
            _ => self.pullback(alpha, room.gradient(self.outputs()), batch, beta, out),
        }
    }

    fn axpby(&mut self, alpha: f64, x: &PrimalPoint, beta: f64, y: &mut PrimalPoint) {
        super::axpby(alpha, &x.weight, beta, &mut y.weight);
        super::axpby(alpha, &x.bias, beta, &mut y.bias);
    }

    /// Cost: 4nd flop, X read twice.
    fn curvature(&mut self, v: &[f32], out: &mut [f32]) {
        let (n, d) = (v.len(), self.train.x.features());
        let mut direction = vec![0.0; d];
        let g = MatRef::new(v, 1, n);
        (self.train).pullback(self.gemm, 1.0, g, Batch::All, 0.0, &mut direction);
        let sum = v.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
        let (direction, z) = (MatRef::new(&direction, 1, d), MatMut::new(out, 1, n));
        (self.train).margins(self.gemm, direction, &[sum], Batch::All, z);
    }

    fn coordinates(_: &PrimalPoint) -> Option<Coordinates<'_>> {
        None
    }

    fn fields<'a>(at: &'a mut PrimalPoint, fields: &mut Fields<'a>) {
        fields.f32("weight", &mut at.weight);
        fields.f32("bias", &mut at.bias);
    }

    fn materialise(mut self, at: PrimalPoint) -> Model {
        let (weight, bias) = self.start.values_mut();
        weight.copy_from_slice(&at.weight);
        bias.copy_from_slice(&at.bias);
        self.start
    }
}
