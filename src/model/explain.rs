//! Contributions of training rows to a prediction, from the Gram coordinates of a model.
//!
//! With W = s·W0 + Aᵀ X, the logit of output k at a row x is
//! `z_k = s·w0_k·x + Σ_i A_ik (x_i·x) + b_k`: training row i contributes `A_ik (x_i·x)`.
//!
//! Coordinates of standardized features x' = (x - μ)/σ stand for W = s·W0/σ + Aᵀ X'/σ. Training row
//! i then contributes `A_ik (x'_i·x/σ)`, and b is the bias of the model.

use std::path::Path;

use crate::design::samples::{Rows, Samples, position};
use crate::design::scaler::Scaler;
use crate::error::{Error, Result};
use crate::io::mmap::MappedMatrix;
use crate::linalg::gemm::{Accum, Backend, Gemm};
use crate::linalg::mat::{MatMut, MatRef};
use crate::threads;

/// Training rows whose inner products are computed together.
const BLOCK_ROWS: usize = 1024;

/// The Gram coordinates of a model, with the training rows to which they belong.
#[derive(Debug)]
pub struct Explainer<'a> {
    coordinates: Values<'a>,
    train: &'a Samples<'a>,
    scaler: Option<Scaler>,
    outputs: usize,
}

/// s, b and Aᵀ, one after another.
#[derive(Debug)]
enum Values<'a> {
    Mapped(MappedMatrix),
    Borrowed(&'a [f32]),
}

impl Values<'_> {
    fn as_slice(&self) -> &[f32] {
        match self {
            Values::Mapped(matrix) => matrix.view().as_slice(),
            Values::Borrowed(values) => values,
        }
    }
}

impl<'a> Explainer<'a> {
    /// From the `coordinates` and the `scaler` of a [`Fit`](crate::Fit) of `train`, whose model has
    /// `outputs` outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] if the coordinates are of another number of rows or outputs, or the scaler
    /// of another number of features.
    pub fn new(
        coordinates: &'a [f32],
        train: &'a Samples<'a>,
        scaler: Option<Scaler>,
        outputs: usize,
    ) -> Result<Explainer<'a>> {
        let expected = 1 + outputs + train.rows() * outputs;
        if coordinates.len() != expected {
            let found = format!("{} values", coordinates.len());
            return Err(Error::shape("coordinates", found, expected.to_string()));
        }
        Explainer::of_values(Values::Borrowed(coordinates), train, scaler, outputs)
    }

    /// Map the file of coordinates of a model of `outputs` outputs that was fitted to `train`;
    /// `scaler` is that of the fit ([`crate::Fit::scaler`]).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Npy`]; [`Error::Format`] if the coordinates are of another number of
    /// rows or outputs, or not finite; [`Error::Shape`] if the scaler is of another number of
    /// features.
    pub fn open(
        path: &Path,
        train: &'a Samples<'a>,
        scaler: Option<Scaler>,
        outputs: usize,
    ) -> Result<Explainer<'a>> {
        let state = MappedMatrix::open(path)?;
        let found = (state.view().rows(), state.view().cols());
        let expected = 1 + outputs + train.rows() * outputs;
        if found != (1, expected) {
            return Err(Error::format(
                path,
                "shape",
                format!("{} x {}", found.0, found.1),
                format!(
                    "1 x {expected}: s, {outputs} values of b, {outputs} x {} values of Aᵀ; give the dataset and split that were fitted",
                    train.rows()
                ),
            ));
        }
        if let Some(at) = position(state.view().as_slice(), f32::is_finite) {
            let value = state.view().as_slice()[at];
            let field = format!("column {at}");
            return Err(Error::format(path, field, value, "finite numbers"));
        }
        Explainer::of_values(Values::Mapped(state), train, scaler, outputs)
    }

    fn of_values(
        coordinates: Values<'a>,
        train: &'a Samples<'a>,
        scaler: Option<Scaler>,
        outputs: usize,
    ) -> Result<Explainer<'a>> {
        let features = scaler.as_ref().map(|scaler| scaler.mean().len());
        if let Some(found) = features.filter(|&found| found != train.features()) {
            let expected = format!("{}, as the rows have", train.features());
            return Err(Error::shape("features of the scaler", found, expected));
        }
        Ok(Explainer {
            coordinates,
            train,
            scaler,
            outputs,
        })
    }

    /// The contributions of all n training rows to a logit of each row of `x` (m x d): m lists of n
    /// values. Row i's logit is that of `classes[i]`; class 0 of a logistic model has the negated
    /// logit. Cost: 2nd flop for each row of `x`.
    ///
    /// # Panics
    /// If there is not one class for each row, or the rows have another number of features.
    pub fn contributions(&self, x: MatRef, classes: &[u32]) -> Vec<Vec<f64>> {
        assert_eq!(x.rows(), classes.len(), "one class a row");
        let (n, m) = (self.train.rows(), x.rows());
        let gemm = Gemm::new(Backend::default(), threads::current());
        let mut all = vec![Vec::with_capacity(n); m];
        let (mut gathered, mut scaled, mut query) = (Vec::new(), Vec::new(), Vec::new());
        let x = match &self.scaler {
            None => x,
            Some(scaler) => {
                scaler.scale_rows(x, &mut query);
                MatRef::new(&query, m, x.cols())
            }
        };
        let rows: &Rows = self.train.x();
        for start in (0..n).step_by(BLOCK_ROWS) {
            let range = start..(start + BLOCK_ROWS).min(n);
            let mut block = rows.block(range.clone(), &mut gathered);
            let mut offsets = vec![0.0; range.len()];
            if let Some(scaler) = &self.scaler {
                scaler.scale_rows(block, &mut scaled);
                block = MatRef::new(&scaled, range.len(), x.cols());
                for (offset, row) in offsets.iter_mut().zip(scaled.chunks_exact(x.cols())) {
                    *offset = scaler.offset(row);
                }
            }
            let mut products = vec![0.0; m * range.len()];
            let of = MatMut::new(&mut products, m, range.len());
            gemm.a_bt(1.0, x, block, Accum::Replace, of);
            let rows = all.iter_mut().zip(products.chunks(range.len()));
            for ((all, products), &class) in rows.zip(classes) {
                let (output, sign) = match self.outputs {
                    1 => (0, if class == 0 { -1.0 } else { 1.0 }),
                    _ => (class as usize, 1.0),
                };
                let a =
                    &self.coordinates.as_slice()[1 + self.outputs + output * n..][range.clone()];
                let of_row = a.iter().zip(products).zip(&offsets);
                all.extend(of_row.map(|((&a, &product), offset)| {
                    sign * f64::from(a) * (f64::from(product) + offset)
                }));
            }
        }
        all
    }
}
