//! Conversions between NumPy arrays and flowreg's rows, labels, weights and models.

use flowreg::comm::Comm;
use flowreg::{ClassWeights, Model, RankSamples, Rows, SampleWeights, Samples, Splits};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use numpy::{PyUntypedArrayMethods, ToPyArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_python;

/// Features and labels from Python.
pub(crate) type Labelled<'py> = (PyReadonlyArray2<'py, f32>, PyReadonlyArray1<'py, u32>);

/// Weight and bias of a model from Python.
pub(crate) type Start<'py> = (PyReadonlyArray2<'py, f32>, PyReadonlyArray1<'py, f32>);

/// Rows of a fit and the labels of all rows, which are these or, on several ranks, those of all.
pub(crate) struct Given<'a> {
    rows: Rows<'a>,
    labels: &'a [u32],
    classes: usize,
}

impl<'a> Given<'a> {
    pub(crate) fn new(
        x: &'a PyReadonlyArray2<'_, f32>,
        labels: &'a PyReadonlyArray1<'_, u32>,
        classes: usize,
    ) -> PyResult<Given<'a>> {
        let (rows, labels) = (rows(x)?, labels.as_slice()?);
        Ok(Given {
            rows,
            labels,
            classes,
        })
    }

    /// These rows alone.
    pub(crate) fn samples(&self) -> flowreg::Result<Samples<'_>> {
        Samples::from_rows(self.rows.clone(), self.labels, self.classes)
    }
}

/// Fits these rows, or those of all ranks.
pub(crate) fn fit_given<T>(
    train: &Given,
    validation: Option<&Given>,
    comm: Option<&dyn Comm>,
    fit: impl FnOnce(Splits) -> flowreg::Result<T>,
) -> flowreg::Result<T> {
    let Some(comm) = comm else {
        let train = train.samples()?;
        let validation = validation.map(Given::samples).transpose()?;
        return fit(Splits {
            train: &train,
            validation: validation.as_ref(),
        });
    };
    let train = RankSamples::of_rows(comm, &train.rows, train.labels, train.classes)?;
    let validation = validation
        .map(|given| train.validation(&given.rows, given.labels))
        .transpose()?;
    let samples = validation.as_ref().map(RankSamples::samples).transpose()?;
    fit(Splits {
        train: &train.samples()?,
        validation: samples.as_ref(),
    })
}

/// Borrows rows. The features of a row must be contiguous; the rows need not be.
fn rows<'a>(x: &'a PyReadonlyArray2<'_, f32>) -> PyResult<Rows<'a>> {
    let (rows, features) = (x.shape()[0], x.shape()[1]);
    const SIZE: isize = size_of::<f32>() as isize;
    let (row, column) = (x.strides()[0], x.strides()[1]);
    let stride = if rows > 1 {
        row / SIZE
    } else {
        features as isize
    };
    let is_aligned = x.data().is_aligned() && row % SIZE == 0;
    if !is_aligned || (features > 1 && column != SIZE) || stride < features as isize {
        return Err(PyValueError::new_err(format!(
            "x: found strides ({row}, {column}), expected aligned rows with their features side \
             by side: pass numpy.ascontiguousarray(x)"
        )));
    }
    let values = match rows.checked_sub(1) {
        None => 0,
        Some(before) => before * stride as usize + features,
    };
    // SAFETY: NumPy's array of this shape and these strides, which are non-negative multiples of the
    // size of a value, spans these values; it is aligned and lives as long as `x`. Python may write to
    // it while the fit reads, as with every library that releases the interpreter.
    let values = unsafe { std::slice::from_raw_parts(x.data(), values) };
    Rows::strided(values, rows, features, stride as usize).map_err(to_python)
}

/// Borrows the validation rows, if there are any.
pub(crate) fn validation<'a>(
    rows: &'a Option<Labelled<'_>>,
    classes: usize,
) -> PyResult<Option<Given<'a>>> {
    let rows = rows.as_ref();
    rows.map(|(x, labels)| Given::new(x, labels, classes))
        .transpose()
}

/// The weights of rows and classes.
pub(crate) fn weighting(
    samples: Option<PyReadonlyArray1<'_, f64>>,
    classes: Option<PyReadonlyArray1<'_, f64>>,
    label_smoothing: f64,
) -> PyResult<SampleWeights> {
    let copied = |weights: PyReadonlyArray1<'_, f64>| weights.as_slice().map(<[f64]>::to_vec);
    Ok(SampleWeights {
        samples: samples.map(copied).transpose()?,
        classes: match classes {
            None => ClassWeights::Equal,
            Some(classes) => ClassWeights::Given(copied(classes)?),
        },
        label_smoothing,
    })
}

/// The model of a weight and a bias.
pub(crate) fn model((weight, bias): &Start<'_>) -> PyResult<Model> {
    let (weight, bias) = (weight.as_slice()?.to_vec(), bias.as_slice()?.to_vec());
    Model::new(weight, bias).map_err(to_python)
}

/// Sets `weight` (c x d) and `bias` (c) in `dict`.
pub(crate) fn set_model(dict: &Bound<'_, PyDict>, model: &Model) -> PyResult<()> {
    let py = dict.py();
    let shape = [model.outputs(), model.weight().cols()];
    let weight = model.weight().as_slice().to_pyarray(py).reshape(shape)?;
    dict.set_item("weight", weight)?;
    dict.set_item("bias", model.bias().to_pyarray(py))
}

/// The matrix of these values (row-major) with this number of columns.
pub(crate) fn matrix<'py>(
    py: Python<'py>,
    values: Vec<f64>,
    columns: usize,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let rows = values.len() / columns.max(1);
    PyArray1::from_vec(py, values).reshape([rows, columns])
}
