//! [`DenseParameters`]: the weight W (c x d) and bias b themselves.
//!
//! An epoch costs 4ndc flop and reads X twice, for few outputs once (`one_pass.rs`). Contiguous rows
//! are read in place; others (mini-batches, a choice of classes) are gathered into a block of bounded
//! size first.

use crate::comm::rows::RowShard;
use crate::design::dense::Dense;
use crate::design::rows::{Batch, Rows};
use crate::io::checkpoint::StateDict;
use crate::linalg::gemm::Gemm;
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec;
use crate::loss::BatchLoss;
use crate::model::Model;
use crate::sgd::one_pass::OnePass;
use crate::sgd::parameters::Coordinates;
use crate::sgd::parameters::{LossGradient, Parameters};

/// The primal engine.
#[derive(Debug)]
pub struct DenseParameters<'a> {
    start: Model,
    train: Dense<'a>,
    validation: Option<Dense<'a>>,
    /// `Some` if a full batch reads X once.
    one_pass: Option<OnePass>,
    fit_intercept: bool,
    sums: Vec<f64>,
}

/// W (c x d, row-major) and b (c), or a direction in their space.
#[derive(Clone, Debug)]
pub struct PrimalPoint {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<'a> DenseParameters<'a> {
    /// Parameters on the rows `x`, starting at `start`, whose shape must match them. Without an
    /// intercept the bias stays 0; that of `start` must be 0.
    pub fn new(
        x: &'a Rows<'a>,
        validation: Option<&'a Rows<'a>>,
        start: Model,
        fit_intercept: bool,
        gemm: Gemm,
    ) -> Self {
        let outputs = start.bias().len();
        let in_place = x.contiguous().is_some() && !x.is_shared();
        let one_pass = (gemm.has_skinny() && in_place)
            .then(|| OnePass::new(x.len(), x.features(), outputs))
            .flatten();
        DenseParameters {
            start,
            train: Dense::new(x, gemm),
            validation: validation.map(|x| Dense::new(x, gemm)),
            one_pass,
            fit_intercept,
            sums: Vec::new(),
        }
    }

    /// [`Parameters::adjoint`] where ranks share the rows: `own` are those of this rank in the batch,
    /// sorted by blocks.
    pub(super) fn adjoint_of_ranks(
        &mut self,
        ranks: RowShard,
        alpha: f64,
        g: MatRef,
        own: Batch,
        beta: f64,
        out: &mut PrimalPoint,
    ) {
        let alpha = alpha as f32;
        (self.train).adjoint(alpha, g, own, beta, &mut out.weight);
        if self.fit_intercept {
            let parts = ranks.parts_of(own.numbers()).into_iter();
            let sums = ranks.sum_of(g.rows(), parts, |rows| {
                let of_output = |j: usize| vec::sum(&g.row(j)[rows.clone()]);
                (0..g.rows()).map(of_output).collect()
            });
            vec::axpby_serial(alpha.into(), &sums, beta, &mut out.bias);
        }
    }

    /// [`Parameters::gram_product`]; `ranks` may share the rows, whose values are `v`.
    pub(super) fn gram_product_of_ranks(
        &mut self,
        ranks: Option<RowShard>,
        v: &[f32],
        out: &mut [f32],
    ) {
        let (n, d) = (v.len(), self.train.features());
        let mut direction = vec![0.0; d];
        let g = MatRef::new(v, 1, n);
        (self.train).adjoint(1.0, g, Batch::All, 0.0, &mut direction);
        let sum = |v: &[f32]| v.iter().map(|&v| f64::from(v)).sum::<f64>();
        let bias = match (self.fit_intercept, ranks) {
            (false, _) => 0.0,
            (true, None) => sum(v),
            (true, Some(shard)) => shard.sum(1, |rows| vec![sum(&v[rows])])[0],
        };
        let (direction, z) = (MatRef::new(&direction, 1, d), MatMut::new(out, 1, n));
        (self.train).logits(direction, &[bias as f32], Batch::All, z);
    }

    /// Whether a full batch reads X once.
    #[cfg(test)]
    pub(super) fn reads_once(&self) -> bool {
        self.one_pass.is_some()
    }

    /// W0 and b0.
    pub(super) fn start_model(&self) -> &Model {
        &self.start
    }

    /// `Z0ᵀ = W0 Xᵀ` (without bias) of the training and the validation rows.
    pub(super) fn start_logits(&mut self) -> (Vec<f32>, Option<Vec<f32>>) {
        let weight = self.start.weight();
        let no_bias = vec![0.0; weight.rows()];
        let no_weight = weight.as_slice().iter().all(|&w| w == 0.0);
        let logits = |x: &mut Dense| {
            let (rows, c) = (x.rows(), no_bias.len());
            let mut z = vec![0.0; rows * c];
            if !no_weight {
                let z = MatMut::new(&mut z, c, rows);
                x.logits(weight, &no_bias, Batch::All, z);
            }
            z
        };
        let validation = self.validation.as_mut().map(logits);
        (logits(&mut self.train), validation)
    }

    /// The model `W = s·W0 + Aᵀ X` with this bias.
    pub(crate) fn combine(mut self, from: Coordinates) -> Model {
        let c = self.outputs();
        let a = MatRef::new(from.a, c, from.a.len() / c);
        let (weight, bias) = self.start.values_mut();
        (self.train).adjoint(1.0, a, Batch::All, from.s.into(), weight);
        bias.copy_from_slice(from.bias);
        self.start
    }
}

impl Parameters for DenseParameters<'_> {
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

    fn logits<'a>(
        &mut self,
        at: &'a PrimalPoint,
        batch: Batch,
        scratch: &'a mut Vec<f32>,
    ) -> MatRef<'a> {
        let (c, d) = (self.outputs(), self.train.features());
        let n = self.train.rows_of(batch);
        scratch.resize(c * n, 0.0);
        let weight = MatRef::new(&at.weight, c, d);
        let z = MatMut::new(scratch, c, n);
        (self.train).logits(weight, &at.bias, batch, z);
        MatRef::new(scratch, c, n)
    }

    fn validation_logits(&mut self, at: &PrimalPoint, z: MatMut) {
        let weight = MatRef::new(&at.weight, self.outputs(), self.train.features());
        let validation = self.validation.as_mut().expect("validation rows");
        validation.logits(weight, &at.bias, Batch::All, z);
    }

    fn adjoint(&mut self, alpha: f64, g: MatRef, batch: Batch, beta: f64, out: &mut PrimalPoint) {
        let alpha = alpha as f32;
        (self.train).adjoint(alpha, g, batch, beta, &mut out.weight);
        if self.fit_intercept {
            vec::row_sums(g, &mut self.sums);
            vec::axpby_serial(alpha.into(), &self.sums, beta, &mut out.bias);
        }
    }

    fn loss(
        &mut self,
        at: &PrimalPoint,
        batch: Batch,
        loss: &mut BatchLoss,
        g: &mut LossGradient,
    ) -> f64 {
        match (&mut self.one_pass, batch, self.train.x().contiguous()) {
            (Some(pass), Batch::All, Some(x)) => pass.loss(&at.weight, &at.bias, x, loss, g),
            _ => crate::sgd::parameters::loss(self, at, batch, loss, g),
        }
    }

    fn gradient(
        &mut self,
        alpha: f64,
        g: &LossGradient,
        batch: Batch,
        beta: f64,
        out: &mut PrimalPoint,
    ) {
        match (&self.one_pass, batch) {
            (Some(pass), Batch::All) => {
                pass.adjoint(alpha as f32, g, beta, &mut out.weight, &mut out.bias);
                if !self.fit_intercept {
                    out.bias.fill(0.0);
                }
            }
            _ => self.adjoint(alpha, g.of_logits(self.outputs()), batch, beta, out),
        }
    }

    fn axpby(&mut self, alpha: f64, x: &PrimalPoint, beta: f64, y: &mut PrimalPoint) {
        vec::axpby(alpha, &x.weight, beta, &mut y.weight);
        vec::axpby(alpha, &x.bias, beta, &mut y.bias);
    }

    /// Cost: 4nd flop; X is read twice.
    fn gram_product(&mut self, v: &[f32], out: &mut [f32]) {
        self.gram_product_of_ranks(None, v, out);
    }

    fn coordinates(_: &PrimalPoint) -> Option<Coordinates<'_>> {
        None
    }

    fn fields<'a>(at: &'a mut PrimalPoint, fields: &mut StateDict<'a>) {
        fields.f32("weight", &mut at.weight);
        fields.f32("bias", &mut at.bias);
    }

    fn into_model(mut self, at: PrimalPoint) -> Model {
        let (weight, bias) = self.start.values_mut();
        weight.copy_from_slice(&at.weight);
        bias.copy_from_slice(&at.bias);
        self.start
    }
}
