//! [`SharedRows`]: the weight W and bias b of ranks that share the rows.
//!
//! Every rank has all of W; it computes the logits of its own rows of a batch, their losses and its part
//! of the gradient. Losses and gradients are sums over blocks of rows: their bits do not depend on the
//! number of ranks. Traffic of a step: cd + 1 numbers for the gradient, and 2c + 1 for each block.

use std::ops::Range;

use crate::comm::rows::RowShard;
use crate::design::rows::Batch;
use crate::io::checkpoint::StateDict;
use crate::linalg::mat::{MatMut, MatRef};
use crate::loss::BatchLoss;
use crate::model::Model;
use crate::sgd::dense::{DenseParameters, PrimalPoint};
use crate::sgd::parameters::{Coordinates, LossGradient, Parameters};

/// The primal engine of ranks that share the rows.
#[derive(Debug)]
pub struct SharedRows<'a> {
    dense: DenseParameters<'a>,
    ranks: RowShard<'a>,
    selection: Selection,
}

/// The rows of a batch that this rank has.
#[derive(Debug)]
struct Selection {
    /// The numbers, among those of all ranks, of all rows of this rank.
    all: Vec<u32>,
    /// Those of a batch, sorted by blocks: their numbers among the rows of this rank, and among those of
    /// all ranks.
    own: Vec<u32>,
    of_all: Vec<u32>,
}

impl Selection {
    /// The rows of this rank, by their numbers among its own and among those of all ranks.
    fn of(&mut self, ranks: RowShard, batch: Batch) -> (Batch<'_>, Batch<'_>) {
        let Some(rows) = batch.numbers() else {
            return (Batch::All, Batch::Rows(&self.all));
        };
        let range = ranks.range();
        let first = range.start as u32;
        let here = rows.iter().filter(|&&row| range.contains(&(row as usize)));
        self.own.clear();
        self.own.extend(here.map(|row| row - first));
        // Stable: within a block the order is that of the batch.
        self.own.sort_by_key(|&row| ranks.block_of(row));
        self.of_all.clear();
        self.of_all.extend(self.own.iter().map(|row| row + first));
        (Batch::Rows(&self.own), Batch::Rows(&self.of_all))
    }
}

impl<'a> SharedRows<'a> {
    /// The parameters of `dense`, whose rows are those of this rank.
    pub fn new(dense: DenseParameters<'a>, ranks: RowShard<'a>) -> Self {
        SharedRows {
            dense,
            ranks,
            selection: Selection {
                all: ranks.range().map(|row| row as u32).collect(),
                own: Vec::new(),
                of_all: Vec::new(),
            },
        }
    }
}

impl Parameters for SharedRows<'_> {
    type Point = PrimalPoint;

    fn outputs(&self) -> usize {
        self.dense.outputs()
    }

    fn zero(&self) -> PrimalPoint {
        self.dense.zero()
    }

    fn start(&self) -> PrimalPoint {
        self.dense.start()
    }

    fn ranks(&self) -> Option<RowShard<'_>> {
        Some(self.ranks)
    }

    /// The logits of this rank's rows of the batch.
    fn logits<'a>(
        &mut self,
        at: &'a PrimalPoint,
        batch: Batch,
        scratch: &'a mut Vec<f32>,
    ) -> MatRef<'a> {
        let (own, _) = self.selection.of(self.ranks, batch);
        self.dense.logits(at, own, scratch)
    }

    fn validation_logits(&mut self, at: &PrimalPoint, z: MatMut) {
        self.dense.validation_logits(at, z);
    }

    /// Gᵀ has a column for each of this rank's rows of the batch.
    fn adjoint(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut PrimalPoint) {
        let (own, _) = self.selection.of(self.ranks, batch);
        self.dense
            .adjoint_of_ranks(self.ranks, alpha, g, own, beta, out);
    }

    fn loss(
        &mut self,
        at: &PrimalPoint,
        batch: Batch,
        loss: &mut BatchLoss,
        gradient: &mut LossGradient,
    ) -> f64 {
        let (own, of_all) = self.selection.of(self.ranks, batch);
        let (z, g) = gradient.of_part();
        let z = self.dense.logits(at, own, z);
        let (c, rows) = (z.rows(), z.cols());
        g.resize(c * rows, 0.0);
        let n = batch.numbers().map_or(loss.rows(), <[u32]>::len);
        let losses = loss.losses_of_part(batch, of_all, |targets, losses| {
            if rows > 0 {
                targets.loss_gradient(0..rows, z, MatMut::new(g, c, rows), losses);
            }
        });
        let parts = self.ranks.parts_of(own.numbers()).into_iter();
        let sum = |rows: Range<usize>| vec![losses[rows].iter().sum()];
        self.ranks.sum_of(1, parts, sum)[0] / n as f64
    }

    fn axpby(&mut self, alpha: f64, x: &PrimalPoint, beta: f64, y: &mut PrimalPoint) {
        self.dense.axpby(alpha, x, beta, y);
    }

    /// `v` and `out` are the values of this rank's rows.
    fn gram_product(&mut self, v: &[f32], out: &mut [f32]) {
        self.dense.gram_product_of_ranks(Some(self.ranks), v, out);
    }

    fn coordinates(_: &PrimalPoint) -> Option<Coordinates<'_>> {
        None
    }

    fn fields<'a>(at: &'a mut PrimalPoint, fields: &mut StateDict<'a>) {
        DenseParameters::fields(at, fields);
    }

    fn into_model(self, at: PrimalPoint) -> Model {
        self.dense.into_model(at)
    }
}
