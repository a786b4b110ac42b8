//! Both fits: the converged fit of one penalty, and the trajectory of torch's SGD.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::ptr;

use flowreg::design::plan::{EngineChoice, EngineKind};
use flowreg::design::samples::Rows;
use flowreg::loss::weights::SampleWeights;
use flowreg::path::{Optimizer, Penalty};
use flowreg::solver::report::Status;
use flowreg::{FitOptions, Init, LearningRate, PathOptions, Samples, fit, fit_path};

use crate::failure::{Failure, flowreg_code, guard};
use crate::memory::{
    Versioned, check_struct, init_struct, product, read_struct, slice, too_large, write,
    write_struct,
};
use crate::model::{flowreg_model, hand_out};
use crate::progress::{Listener, flowreg_callback};

/// Representation of the weight.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_engine {
    /// The cheaper of the two that fits the memory.
    Auto = 0,
    /// Gram coordinates, for fewer rows than features.
    Gram = 1,
    /// The weight itself.
    Primal = 2,
}

/// Solver of flowreg_fit_path.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_solver {
    /// Newton's method with conjugate gradients.
    Newton = 0,
    /// L-BFGS.
    Lbfgs = 1,
}

/// Meaning of flowreg_path_options.penalty.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_penalty {
    /// scikit-learn's C, above 0: l2 = 1/(C * sum of the rows' weights).
    C = 0,
    /// l2 of mean loss + (l2/2) |W|^2, 0 or above.
    L2 = 1,
}

/// Initial weight of SGD.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_init {
    /// That of torch.manual_seed(init_seed); torch.nn.Linear(...), bit-equal.
    Torch = 0,
    /// Zeros.
    Zeros = 1,
}

/// How a converged fit ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_status {
    /// |gradient| <= tolerance * |gradient at W = 0|, and gap <= 100 * tolerance * objective.
    Converged = 0,
    /// The fit reached max_iterations.
    IterationLimit = 1,
    /// The rounding of products or of f32 prevents a better optimum.
    PrecisionLimited = 2,
    /// l2 is 0 and the classes are separable: the loss has no minimum.
    Separable = 3,
    /// l2 is 0 and some samples are separable: the loss has no minimum.
    QuasiSeparable = 4,
    /// A status that this interface does not have.
    Other = 5,
}

/// Labelled rows. The fields row_stride and sample_weights may be 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flowreg_samples {
    /// sizeof(flowreg_samples).
    pub struct_size: usize,
    /// Features, row by row.
    pub x: *const f32,
    /// Number of rows.
    pub rows: usize,
    /// Number of features.
    pub features: usize,
    /// Values from the start of a row to that of the next, at least features; 0 means features. x
    /// has (rows - 1) * row_stride + features values.
    pub row_stride: usize,
    /// The label of each row, below classes.
    pub labels: *const u32,
    /// Number of classes, 2 or more.
    pub classes: usize,
    /// The weight of each row, 0 or above; NULL means equal weights.
    pub sample_weights: *const f64,
}

// SAFETY: `repr(C)`, begins with struct_size, consists of numbers and pointers.
unsafe impl Versioned for flowreg_samples {
    const FIRST_SIZE: usize = size_of::<flowreg_samples>();
    const DEFAULT: flowreg_samples = flowreg_samples {
        struct_size: size_of::<flowreg_samples>(),
        x: ptr::null(),
        rows: 0,
        features: 0,
        row_stride: 0,
        labels: ptr::null(),
        classes: 0,
        sample_weights: ptr::null(),
    };
}

/// Options of flowreg_fit_path; see flowreg_path_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flowreg_path_options {
    /// sizeof(flowreg_path_options).
    pub struct_size: usize,
    /// The penalty, in terms of penalty_kind. Default: 1.
    pub penalty: f64,
    /// A flowreg_penalty. Default: FLOWREG_PENALTY_C.
    pub penalty_kind: i32,
    /// A flowreg_solver. Default: FLOWREG_SOLVER_NEWTON.
    pub solver: i32,
    /// Stop if |gradient| <= tolerance * |gradient at W = 0| and gap <= 100 * tolerance * objective.
    /// Default: 1e-5.
    pub tolerance: f64,
    /// Limit on the number of steps. Default: 1000.
    pub max_iterations: usize,
    /// Threads, 1 to 1024; 0 means one per core. Default: 0.
    pub threads: usize,
    /// A flowreg_engine. Default: FLOWREG_ENGINE_AUTO.
    pub engine: i32,
    /// Not used. Default: 0.
    pub reserved: i32,
    /// Called for each event; may be NULL. Default: NULL.
    pub callback: flowreg_callback,
    /// Passed to callback. Default: NULL.
    pub user_data: *mut c_void,
    /// 1 to fit the bias, 0 to keep it 0. Default: 1.
    pub fit_intercept: i32,
    /// Not used. Default: 0.
    pub reserved_2: i32,
}

// SAFETY: `repr(C)`, begins with struct_size, consists of numbers and pointers.
unsafe impl Versioned for flowreg_path_options {
    const FIRST_SIZE: usize = offset_of!(flowreg_path_options, callback);
    const DEFAULT: flowreg_path_options = flowreg_path_options {
        struct_size: size_of::<flowreg_path_options>(),
        penalty: 1.0,
        penalty_kind: flowreg_penalty::C as i32,
        solver: flowreg_solver::Newton as i32,
        tolerance: 1e-5,
        max_iterations: 1000,
        threads: 0,
        engine: flowreg_engine::Auto as i32,
        reserved: 0,
        callback: None,
        user_data: ptr::null_mut(),
        fit_intercept: 1,
        reserved_2: 0,
    };
}

/// Result of flowreg_fit_path, measured on the returned model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flowreg_path_result {
    /// sizeof(flowreg_path_result), to be set before the call.
    pub struct_size: usize,
    /// A flowreg_status, to be checked: a fit that does not converge returns its best model and
    /// FLOWREG_CODE_OK.
    pub status: i32,
    /// The flowreg_engine that was used.
    pub engine: i32,
    /// mean loss + (l2/2) |W|^2.
    pub objective: f64,
    /// Upper bound on the objective minus its minimum; NaN if unknown (l2 = 0).
    pub gap: f64,
    /// Mean loss.
    pub loss: f64,
    /// Norm of the objective's gradient.
    pub gradient_norm: f64,
    /// The penalty l2.
    pub l2: f64,
    /// Number of steps.
    pub iterations: usize,
    /// Duration of the fit, in seconds.
    pub seconds: f64,
}

// SAFETY: `repr(C)`, begins with struct_size, consists of numbers.
unsafe impl Versioned for flowreg_path_result {
    const FIRST_SIZE: usize = offset_of!(flowreg_path_result, loss);
    const DEFAULT: flowreg_path_result = flowreg_path_result {
        struct_size: size_of::<flowreg_path_result>(),
        status: flowreg_status::Other as i32,
        engine: flowreg_engine::Auto as i32,
        objective: f64::NAN,
        gap: f64::NAN,
        loss: f64::NAN,
        gradient_norm: f64::NAN,
        l2: f64::NAN,
        iterations: 0,
        seconds: 0.0,
    };
}

/// Options of flowreg_fit_sgd, as in torch.optim.SGD; see flowreg_sgd_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flowreg_sgd_options {
    /// sizeof(flowreg_sgd_options).
    pub struct_size: usize,
    /// Learning rate. Default: 0.01.
    pub lr: f64,
    /// Momentum. Default: 0.
    pub momentum: f64,
    /// Dampening. Default: 0.
    pub dampening: f64,
    /// Weight decay. Default: 0.
    pub weight_decay: f64,
    /// Passes over the rows. Default: 100.
    pub epochs: usize,
    /// Rows per step; 0 means all rows. Default: 0.
    pub batch_size: usize,
    /// Threads, 1 to 1024; 0 means one per core. Default: 0.
    pub threads: usize,
    /// Seed of the order of mini-batches. Default: 0.
    pub seed: u32,
    /// Seed of FLOWREG_INIT_TORCH. Default: 0.
    pub init_seed: u32,
    /// A flowreg_init. Default: FLOWREG_INIT_TORCH.
    pub init: i32,
    /// 1 for Nesterov's momentum. Default: 0.
    pub nesterov: i32,
    /// 1 for the learning rate 1/L instead of lr, where L bounds the largest eigenvalue of the mean
    /// loss's Hessian. Default: 0.
    pub auto_lr: i32,
    /// A flowreg_engine. Default: FLOWREG_ENGINE_AUTO.
    pub engine: i32,
    /// Called for each event; may be NULL. Default: NULL.
    pub callback: flowreg_callback,
    /// Passed to callback. Default: NULL.
    pub user_data: *mut c_void,
}

// SAFETY: `repr(C)`, begins with struct_size, consists of numbers and pointers.
unsafe impl Versioned for flowreg_sgd_options {
    const FIRST_SIZE: usize = offset_of!(flowreg_sgd_options, callback);
    const DEFAULT: flowreg_sgd_options = flowreg_sgd_options {
        struct_size: size_of::<flowreg_sgd_options>(),
        lr: 0.01,
        momentum: 0.0,
        dampening: 0.0,
        weight_decay: 0.0,
        epochs: 100,
        batch_size: 0,
        threads: 0,
        seed: 0,
        init_seed: 0,
        init: flowreg_init::Torch as i32,
        nesterov: 0,
        auto_lr: 0,
        engine: flowreg_engine::Auto as i32,
        callback: None,
        user_data: ptr::null_mut(),
    };
}

/// Result of flowreg_fit_sgd.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flowreg_sgd_result {
    /// sizeof(flowreg_sgd_result), to be set before the call.
    pub struct_size: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// Mean loss of the last epoch's batches, each measured before its step; NaN without epochs.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The flowreg_engine that was used.
    pub engine: i32,
    /// Not used. Default: 0.
    pub reserved: i32,
}

// SAFETY: `repr(C)`, begins with struct_size, consists of numbers.
unsafe impl Versioned for flowreg_sgd_result {
    const FIRST_SIZE: usize = size_of::<flowreg_sgd_result>();
    const DEFAULT: flowreg_sgd_result = flowreg_sgd_result {
        struct_size: size_of::<flowreg_sgd_result>(),
        epochs: 0,
        loss: f64::NAN,
        lr: f64::NAN,
        engine: flowreg_engine::Auto as i32,
        reserved: 0,
    };
}

/// `None` for 0, which means the default.
fn nonzero(count: usize) -> Option<usize> {
    (count > 0).then_some(count)
}

/// The option with this number.
fn chosen<T: Clone>(what: &str, number: i32, options: &[T]) -> Result<T, Failure> {
    let option = usize::try_from(number).ok().and_then(|i| options.get(i));
    option.cloned().ok_or_else(|| {
        let expected = format!("0 to {}, as the header names them", options.len() - 1);
        Failure::options(what, number, &expected)
    })
}

fn engine_of(number: i32) -> Result<EngineChoice, Failure> {
    use EngineChoice::{Auto, Gram, Primal};
    chosen("options.engine", number, &[Auto, Gram, Primal])
}

fn engine_number(engine: EngineKind) -> i32 {
    match engine {
        EngineKind::Gram => flowreg_engine::Gram as i32,
        EngineKind::Primal => flowreg_engine::Primal as i32,
    }
}

/// The samples in C arrays, and the rows' weights.
///
/// # Safety
/// The rules of the header, for `'a`.
unsafe fn samples_of<'a>(
    samples: *const flowreg_samples,
) -> Result<(Samples<'a>, SampleWeights), Failure> {
    // SAFETY: the caller's contract.
    let given = unsafe { read_struct("samples", samples)? };
    let stride = if given.row_stride == 0 {
        given.features
    } else {
        given.row_stride
    };
    if stride < given.features {
        let expected = format!("{} or more, the features of a row", given.features);
        return Err(Failure::shape("samples.row_stride", stride, expected));
    }
    let values = match given.rows.checked_sub(1) {
        None => 0,
        Some(before) => (product("samples.x", before, stride)?)
            .checked_add(given.features)
            .ok_or_else(|| too_large("samples.x", format!("{} rows", given.rows)))?,
    };
    // SAFETY: the caller's contract.
    let x = unsafe { slice("samples.x", given.x, values)? };
    // SAFETY: the caller's contract.
    let labels = unsafe { slice("samples.labels", given.labels, given.rows)? };
    let weights = if given.sample_weights.is_null() {
        None
    } else {
        // SAFETY: the caller's contract.
        let weights = unsafe { slice("samples.sample_weights", given.sample_weights, given.rows)? };
        Some(weights.to_vec())
    };
    let rows = Rows::strided(x, given.rows, given.features, stride)?;
    let samples = Samples::from_rows(rows, labels, given.classes)?;
    let weighting = SampleWeights {
        samples: weights,
        ..SampleWeights::default()
    };
    Ok((samples, weighting))
}

/// The options of a C struct; the defaults for NULL.
///
/// # Safety
/// As [`read_struct`].
unsafe fn options_of<T: Versioned>(options: *const T) -> Result<T, Failure> {
    if options.is_null() {
        return Ok(T::DEFAULT);
    }
    // SAFETY: the caller's contract.
    unsafe { read_struct("options", options) }
}

/// Set the defaults. struct_size is sizeof(flowreg_path_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_path_options_init(
    options: *mut flowreg_path_options,
    struct_size: usize,
) -> flowreg_code {
    // SAFETY: the rules of the header.
    guard(|| unsafe { init_struct("options", options, struct_size, Versioned::DEFAULT) })
}

/// Set the defaults. struct_size is sizeof(flowreg_sgd_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_sgd_options_init(
    options: *mut flowreg_sgd_options,
    struct_size: usize,
) -> flowreg_code {
    // SAFETY: the rules of the header.
    guard(|| unsafe { init_struct("options", options, struct_size, Versioned::DEFAULT) })
}

/// Minimize mean loss + (l2/2) |W|^2; the bias is not penalized. options may be NULL for the
/// defaults, result may be NULL. On success *model is a model to free, else NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_fit_path(
    samples: *const flowreg_samples,
    options: *const flowreg_path_options,
    result: *mut flowreg_path_result,
    model: *mut *mut flowreg_model,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        unsafe { write("model", model, ptr::null_mut())? };
        if !result.is_null() {
            // SAFETY: the rules of the header.
            unsafe { check_struct("result", result)? };
        }
        // SAFETY: the rules of the header.
        let given = unsafe { options_of(options)? };
        let optimizers = [Optimizer::Newton, Optimizer::Lbfgs];
        let penalties = [Penalty::C(given.penalty), Penalty::Value(given.penalty)];
        // SAFETY: the rules of the header.
        let (samples, weighting) = unsafe { samples_of(samples)? };
        let options = PathOptions {
            optimizer: chosen("options.solver", given.solver, &optimizers)?,
            penalty: chosen("options.penalty_kind", given.penalty_kind, &penalties)?,
            weighting,
            tolerance: given.tolerance,
            max_iterations: given.max_iterations,
            engine: engine_of(given.engine)?,
            threads: nonzero(given.threads),
            fit_intercept: chosen("options.fit_intercept", given.fit_intercept, &[false, true])?,
            ..PathOptions::default()
        };
        // SAFETY: the rules of the header; the fit ends before this call does.
        let mut listener = unsafe { Listener::new(given.callback, given.user_data) };
        let fit = fit_path(&samples, &options, &mut |event| listener.notify(event, 0))?;
        let found = flowreg_path_result {
            status: match fit.report.status {
                Status::Converged => flowreg_status::Converged,
                Status::IterationLimit => flowreg_status::IterationLimit,
                Status::PrecisionLimited => flowreg_status::PrecisionLimited,
                Status::Separable => flowreg_status::Separable,
                Status::QuasiSeparable => flowreg_status::QuasiSeparable,
                _ => flowreg_status::Other,
            } as i32,
            engine: engine_number(fit.engine),
            objective: fit.report.objective,
            gap: fit.report.gap.unwrap_or(f64::NAN),
            loss: fit.report.loss,
            gradient_norm: fit.report.gradient_norm,
            l2: fit.l2,
            iterations: fit.report.iterations,
            seconds: fit.seconds,
            ..Versioned::DEFAULT
        };
        if !result.is_null() {
            // SAFETY: the rules of the header.
            unsafe { write_struct("result", result, found)? };
        }
        // SAFETY: the rules of the header.
        unsafe { hand_out(fit.model, model) }
    })
}

/// Fit by stochastic gradient descent, along the trajectory of torch.optim.SGD. options may be NULL
/// for the defaults, result may be NULL. On success *model is a model to free, else NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flowreg_fit_sgd(
    samples: *const flowreg_samples,
    options: *const flowreg_sgd_options,
    result: *mut flowreg_sgd_result,
    model: *mut *mut flowreg_model,
) -> flowreg_code {
    guard(|| {
        // SAFETY: the rules of the header.
        unsafe { write("model", model, ptr::null_mut())? };
        if !result.is_null() {
            // SAFETY: the rules of the header.
            unsafe { check_struct("result", result)? };
        }
        // SAFETY: the rules of the header.
        let given = unsafe { options_of(options)? };
        // SAFETY: the rules of the header.
        let (samples, weighting) = unsafe { samples_of(samples)? };
        let mut options = FitOptions {
            weighting,
            engine: engine_of(given.engine)?,
            threads: nonzero(given.threads),
            ..FitOptions::default()
        };
        options.init = if chosen("options.init", given.init, &[true, false])? {
            Init::Torch {
                seed: given.init_seed,
            }
        } else {
            Init::Zeros
        };
        options.sgd.lr = if chosen("options.auto_lr", given.auto_lr, &[false, true])? {
            LearningRate::Auto
        } else {
            given.lr.into()
        };
        options.sgd.epochs = given.epochs;
        options.sgd.momentum = given.momentum;
        options.sgd.dampening = given.dampening;
        options.sgd.nesterov = chosen("options.nesterov", given.nesterov, &[false, true])?;
        options.sgd.weight_decay = given.weight_decay;
        options.sgd.batch_size = nonzero(given.batch_size);
        options.sgd.seed = given.seed;
        // SAFETY: the rules of the header; the fit ends before this call does.
        let mut listener = unsafe { Listener::new(given.callback, given.user_data) };
        let fit = fit(&samples, &options, &mut |event| {
            listener.notify(event, given.epochs)
        })?;
        let found = flowreg_sgd_result {
            epochs: fit.history.len(),
            loss: fit.history.last().map_or(f64::NAN, |epoch| epoch.loss),
            lr: fit.lr,
            engine: engine_number(fit.plan.engine),
            ..Versioned::DEFAULT
        };
        if !result.is_null() {
            // SAFETY: the rules of the header.
            unsafe { write_struct("result", result, found)? };
        }
        // SAFETY: the rules of the header.
        unsafe { hand_out(fit.model, model) }
    })
}
