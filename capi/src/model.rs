//! Models: create, load, save, predict, free.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::ptr;

use flowreg::Model;

use crate::failure::{Failure, flowreg_code, guard};
use crate::memory::{product, reference, slice, slice_mut, write};

/// A linear classifier: logits = x * weight' + bias. A model with one output is logistic, with two
/// classes; with three or more outputs it is a softmax with a class per output.
pub struct flowreg_model {
    model: Model,
}

/// Write a handle of the model to `out`. C frees it.
///
/// # Safety
/// `out` is NULL or valid for a write.
pub(crate) unsafe fn hand_out(model: Model, out: *mut *mut flowreg_model) -> Result<(), Failure> {
    let model = Box::into_raw(Box::new(flowreg_model { model }));
    // SAFETY: the caller's contract.
    let written = unsafe { write("model", out, model) };
    if written.is_err() {
        // SAFETY: created above and not shared.
        drop(unsafe { Box::from_raw(model) });
    }
    written
}

/// The model of a handle.
///
/// # Safety
/// `model` is NULL or a handle that is not freed during `'a`.
unsafe fn model_of<'a>(model: *const flowreg_model) -> Result<&'a Model, Failure> {
    // SAFETY: the caller's contract.
    Ok(&unsafe { reference("model", model)? }.model)
}

/// The path of a C string.
///
/// # Safety
/// `path` is NULL or a text that ends with NUL.
unsafe fn path_of(path: *const c_char) -> Result<PathBuf, Failure> {
    // SAFETY: the caller's contract; every text has a byte.
    unsafe { reference("path", path)? };
    // SAFETY: not NULL; the rest is the caller's contract.
    let path = unsafe { CStr::from_ptr(path) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(std::ffi::OsStr::from_bytes(path.to_bytes()).into())
    }
    #[cfg(not(unix))]
    match path.to_str() {
        Ok(path) => Ok(path.into()),
        Err(error) => Err(Failure::argument("path", error, "UTF-8")),
    }
}

/// The number of values of `rows` rows. Refuses another number of features than the model's.
fn values_of(model: &Model, rows: usize, features: usize) -> Result<usize, Failure> {
    let expected = model.weight().cols();
    if features != expected {
        let expected = format!("{expected}, those of the model");
        return Err(Failure::shape("features", features, expected));
    }
    product("x", rows, features)
}

/// Refuse a buffer of another length.
fn check_length(what: &str, found: usize, expected: usize, rows: usize) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    let expected = format!("{expected} values, for {rows} rows");
    Err(Failure::shape(what, format!("{found} values"), expected))
}

/// Create a model with a copy of weight (outputs x features, row by row) and bias (outputs values).
/// Two outputs are replaced by their difference, with the same probabilities. On success *model is a
/// model to free, else NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_new(
    weight: *const f32,
    bias: *const f32,
    outputs: usize,
    features: usize,
    model: *mut *mut flowreg_model,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        unsafe { write("model", model, ptr::null_mut())? };
        let length = product("weight", outputs, features)?;
        // SAFETY: the rules of the header.
        let (weight, bias) = unsafe {
            (
                slice("weight", weight, length)?,
                slice("bias", bias, outputs)?,
            )
        };
        let new = Model::new(weight.to_vec(), bias.to_vec())?;
        // SAFETY: the rules of the header.
        unsafe { hand_out(new, model) }
    })
}

/// Read a model.safetensors, of flowreg or of a torch.nn.Linear. path ends with NUL: bytes on Unix,
/// UTF-8 elsewhere. On success *model is a model to free, else NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_load(
    path: *const c_char,
    model: *mut *mut flowreg_model,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        unsafe { write("model", model, ptr::null_mut())? };
        // SAFETY: the rules of the header.
        let path = unsafe { path_of(path)? };
        // SAFETY: the rules of the header.
        unsafe { hand_out(Model::load(path)?, model) }
    })
}

/// Write a model.safetensors, which flowreg_model_load, flowreg-predict and torch can read. An
/// existing file is replaced. path is as in flowreg_model_load.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_save(
    model: *const flowreg_model,
    path: *const c_char,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let (model, path) = unsafe { (model_of(model)?, path_of(path)?) };
        Ok(model.save(path)?)
    })
}

/// Free a model. NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_free(model: *mut flowreg_model) {
    guard(|| {
        if !model.is_null() {
            // SAFETY: created by `hand_out`; by the rules of the header it is freed once, at the end.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    });
}

/// Outputs (1 for two classes), classes and features of a model. Each of the three pointers may be
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_shape(
    model: *const flowreg_model,
    outputs: *mut usize,
    classes: *mut usize,
    features: *mut usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        for (what, out, value) in [
            ("outputs", outputs, model.outputs()),
            ("classes", classes, model.classes()),
            ("features", features, model.weight().cols()),
        ] {
            if !out.is_null() {
                // SAFETY: the rules of the header.
                unsafe { write(what, out, value)? };
            }
        }
        Ok(())
    })
}

/// Copy the weight, outputs x features, row by row. length must be outputs * features.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_weight(
    model: *const flowreg_model,
    weight: *mut f32,
    length: usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        // SAFETY: the rules of the header.
        unsafe { copy_out("weight", model.weight().as_slice(), weight, length) }
    })
}

/// Copy the bias. length must be the number of outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_bias(
    model: *const flowreg_model,
    bias: *mut f32,
    length: usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        // SAFETY: the rules of the header.
        unsafe { copy_out("bias", model.bias(), bias, length) }
    })
}

/// Copy values into an array of the same length.
///
/// # Safety
/// As [`slice_mut`].
unsafe fn copy_out(
    what: &str,
    values: &[f32],
    out: *mut f32,
    length: usize,
) -> Result<(), Failure> {
    if length != values.len() {
        let (found, expected) = (format!("room for {length} values"), values.len());
        return Err(Failure::shape(what, found, format!("{expected} values")));
    }
    // SAFETY: the caller's contract.
    unsafe { slice_mut(what, out, length, values)? }.copy_from_slice(values);
    Ok(())
}

/// The most probable class of each row of x (rows x features, row by row). length must be rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_predict(
    model: *const flowreg_model,
    x: *const f32,
    rows: usize,
    features: usize,
    classes: *mut u32,
    length: usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        let values = values_of(model, rows, features)?;
        check_length("classes", length, rows, rows)?;
        // SAFETY: the rules of the header.
        let x = unsafe { slice("x", x, values)? };
        // SAFETY: the rules of the header.
        let classes = unsafe { slice_mut("classes", classes, length, x)? };
        Ok(model.predict_into(x, classes)?)
    })
}

/// The logits of the rows of x, without the model's temperature: rows x outputs, row by row. length
/// must be rows * outputs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_logits(
    model: *const flowreg_model,
    x: *const f32,
    rows: usize,
    features: usize,
    logits: *mut f32,
    length: usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        let values = values_of(model, rows, features)?;
        let expected = product("logits", rows, model.outputs())?;
        check_length("logits", length, expected, rows)?;
        // SAFETY: the rules of the header.
        let x = unsafe { slice("x", x, values)? };
        // SAFETY: the rules of the header.
        let logits = unsafe { slice_mut("logits", logits, length, x)? };
        Ok(model.logits_into(x, logits)?)
    })
}

/// The class probabilities of the rows of x, calibrated by the model's temperature if it has one:
/// rows x classes, row by row. length must be rows * classes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_model_probabilities(
    model: *const flowreg_model,
    x: *const f32,
    rows: usize,
    features: usize,
    probabilities: *mut f32,
    length: usize,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        let model = unsafe { model_of(model)? };
        let values = values_of(model, rows, features)?;
        let expected = product("probabilities", rows, model.classes())?;
        check_length("probabilities", length, expected, rows)?;
        // SAFETY: the rules of the header.
        let x = unsafe { slice("x", x, values)? };
        // SAFETY: the rules of the header.
        let out = unsafe { slice_mut("probabilities", probabilities, length, x)? };
        Ok(model.probabilities_into(x, out)?)
    })
}
