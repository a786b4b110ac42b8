//! Calls of every function as from C, with valid and invalid arguments.

use std::ffi::{CStr, CString, c_void};
use std::mem::{offset_of, size_of, zeroed};
use std::ptr::{dangling_mut, null, null_mut};

use flowreg_c::*;

const OK: flowreg_code = flowreg_code::Ok;
const ARGUMENT: flowreg_code = flowreg_code::Argument;
const SHAPE: flowreg_code = flowreg_code::Shape;
const CLASSES: usize = 3;

fn message() -> String {
    let text = flowreg_last_error_message();
    // SAFETY: the text ends with NUL, and no call has failed since.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .unwrap()
        .to_string()
}

/// Assert that a call fails with this code and a message with this text.
#[track_caller]
fn refused(code: flowreg_code, expected: flowreg_code, text: &str) {
    assert_eq!(code, expected, "{}", message());
    assert_eq!(flowreg_last_error_code(), expected);
    assert!(message().contains(text), "{}", message());
}

/// Rows of three classes, `stride` values apart; the padding is NaN.
struct Problem {
    x: Vec<f32>,
    y: Vec<u32>,
    rows: usize,
    features: usize,
    stride: usize,
}

impl Problem {
    fn new(rows: usize, features: usize, stride: usize) -> Problem {
        let mut x = vec![f32::NAN; rows * stride];
        let y: Vec<u32> = (0..rows as u32).map(|row| row * row % 7 % 3).collect();
        for row in 0..rows {
            for column in 0..features {
                let noise = ((row * 7919 + column * 104_729) % 1013) as f32 / 1013.0;
                let is_own = column % CLASSES == y[row] as usize;
                x[row * stride + column] = noise + if is_own { 0.3 } else { 0.0 };
            }
        }
        x.truncate((rows - 1) * stride + features);
        Problem {
            x,
            y,
            rows,
            features,
            stride,
        }
    }

    fn samples(&self) -> flowreg_samples {
        flowreg_samples {
            struct_size: size_of::<flowreg_samples>(),
            x: self.x.as_ptr(),
            rows: self.rows,
            features: self.features,
            row_stride: self.stride,
            labels: self.y.as_ptr(),
            classes: CLASSES,
            sample_weights: null(),
        }
    }
}

fn path_options() -> flowreg_path_options {
    // SAFETY: zeros are valid for its numbers and pointers, and the size is its own.
    unsafe {
        let mut options: flowreg_path_options = zeroed();
        let code = flowreg_path_options_init(&mut options, size_of::<flowreg_path_options>());
        assert_eq!(code, OK, "{}", message());
        options
    }
}

fn sgd_options() -> flowreg_sgd_options {
    // SAFETY: zeros are valid for its numbers and pointers, and the size is its own.
    unsafe {
        let mut options: flowreg_sgd_options = zeroed();
        let code = flowreg_sgd_options_init(&mut options, size_of::<flowreg_sgd_options>());
        assert_eq!(code, OK, "{}", message());
        options
    }
}

fn path_result() -> flowreg_path_result {
    // SAFETY: zeros are valid for its numbers.
    let zeros: flowreg_path_result = unsafe { zeroed() };
    flowreg_path_result {
        struct_size: size_of::<flowreg_path_result>(),
        ..zeros
    }
}

fn fit(
    problem: &Problem,
    options: &flowreg_path_options,
) -> (*mut flowreg_model, flowreg_path_result) {
    let (mut result, mut model) = (path_result(), null_mut());
    // SAFETY: the arrays of `problem` and structs of their own sizes.
    let code = unsafe { flowreg_fit_path(&problem.samples(), options, &mut result, &mut model) };
    assert_eq!(code, OK, "{}", message());
    (model, result)
}

/// Weight and bias of a model, which is then freed.
fn take(model: *mut flowreg_model) -> (Vec<f32>, Vec<f32>) {
    let (mut outputs, mut features) = (0, 0);
    // SAFETY: a model, and arrays of its lengths.
    unsafe {
        assert_eq!(
            flowreg_model_shape(model, &mut outputs, null_mut(), &mut features),
            OK
        );
        let (mut weight, mut bias) = (vec![9.0; outputs * features], vec![9.0; outputs]);
        assert_eq!(
            flowreg_model_weight(model, weight.as_mut_ptr(), weight.len()),
            OK
        );
        assert_eq!(flowreg_model_bias(model, bias.as_mut_ptr(), bias.len()), OK);
        flowreg_model_free(model);
        (weight, bias)
    }
}

fn of_rust(problem: &Problem, options: &flowreg::PathOptions) -> flowreg::PathFit {
    let Problem {
        x,
        y,
        rows,
        features,
        stride,
    } = problem;
    let rows = flowreg::design::samples::Rows::strided(x, *rows, *features, *stride).unwrap();
    let samples = flowreg::Samples::from_rows(rows, y, CLASSES).unwrap();
    flowreg::fit_path(&samples, options, &mut |_| {}).unwrap()
}

#[test]
fn a_converged_fit_equals_the_library() {
    let problem = Problem::new(40, 60, 64);
    for (solver, optimizer) in [
        (flowreg_solver::Newton, flowreg::path::Optimizer::Newton),
        (flowreg_solver::Lbfgs, flowreg::path::Optimizer::Lbfgs),
    ] {
        let options = flowreg_path_options {
            penalty: 0.02,
            penalty_kind: flowreg_penalty::L2 as i32,
            solver: solver as i32,
            threads: 2,
            ..path_options()
        };
        let rust = flowreg::PathOptions {
            optimizer,
            penalty: flowreg::path::Penalty::Value(0.02),
            ..Default::default()
        };
        let rust = of_rust(&problem, &rust);
        let (model, result) = fit(&problem, &options);
        assert_eq!(result.status, flowreg_status::Converged as i32);
        assert_eq!(result.engine, flowreg_engine::Gram as i32);
        assert_eq!(result.objective, rust.report.objective);
        assert_eq!(Some(result.gap), rust.report.gap);
        assert_eq!(result.iterations, rust.report.iterations);
        assert_eq!((result.l2, result.loss), (0.02, rust.report.loss));
        let (weight, bias) = take(model);
        assert_eq!(weight, rust.model.weight().as_slice());
        assert_eq!(bias, rust.model.bias());
    }
}

#[test]
fn without_an_intercept_the_bias_is_zero() {
    let problem = Problem::new(40, 60, 64);
    let rust = flowreg::PathOptions {
        fit_intercept: false,
        ..Default::default()
    };
    let rust = of_rust(&problem, &rust);
    let options = flowreg_path_options {
        fit_intercept: 0,
        ..path_options()
    };
    let (weight, bias) = take(fit(&problem, &options).0);
    assert_eq!(weight, rust.model.weight().as_slice());
    assert!(bias.iter().all(|&bias| bias == 0.0), "{bias:?}");
    let (_, with) = take(fit(&problem, &path_options()).0);
    assert!(with.iter().any(|&bias| bias != 0.0), "{with:?}");
}

#[test]
fn default_options_equal_the_library() {
    let problem = Problem::new(40, 60, 60);
    let rust = of_rust(&problem, &flowreg::PathOptions::default());
    let samples = flowreg_samples {
        row_stride: 0,
        ..problem.samples()
    };
    let mut model = null_mut();
    // SAFETY: the arrays of `problem`; NULL is allowed for options and result.
    let code = unsafe { flowreg_fit_path(&samples, null(), null_mut(), &mut model) };
    assert_eq!(code, OK, "{}", message());
    assert_eq!(take(model).0, rust.model.weight().as_slice());
    let (options, of_rust) = (path_options(), flowreg::PathOptions::default());
    assert_eq!(options.tolerance, of_rust.tolerance);
    assert_eq!(options.max_iterations, of_rust.max_iterations);
    let (options, of_rust) = (sgd_options(), flowreg::FitOptions::default().sgd);
    assert_eq!(flowreg::LearningRate::Fixed(options.lr), of_rust.lr);
    assert_eq!(options.epochs, of_rust.epochs);
}

#[test]
fn a_weight_of_zero_removes_a_row() {
    let problem = Problem::new(40, 10, 10);
    let mut weights = vec![1.0; 40];
    weights[39] = 0.0;
    let fewer = flowreg_samples {
        rows: 39,
        ..problem.samples()
    };
    let weighted = flowreg_samples {
        sample_weights: weights.as_ptr(),
        ..problem.samples()
    };
    let models = [fewer, weighted].map(|samples| {
        let mut model = null_mut();
        // SAFETY: the arrays of `problem` and a weight for each row.
        let code = unsafe { flowreg_fit_path(&samples, &path_options(), null_mut(), &mut model) };
        assert_eq!(code, OK, "{}", message());
        take(model)
    });
    assert_eq!(models[0], models[1]);
}

#[test]
fn an_sgd_fit_equals_the_library() {
    let problem = Problem::new(40, 10, 10);
    let samples = flowreg::Samples::from_labels(&problem.x, 10, &problem.y, CLASSES).unwrap();
    let mut rust = flowreg::FitOptions::default();
    rust.sgd.lr = 0.05.into();
    rust.sgd.momentum = 0.9;
    rust.sgd.nesterov = true;
    rust.sgd.batch_size = Some(7);
    rust.sgd.seed = 5;
    rust.sgd.epochs = 4;
    rust.init = flowreg::Init::Torch { seed: 3 };
    let rust = flowreg::fit(&samples, &rust, &mut |_| {}).unwrap();
    let options = flowreg_sgd_options {
        lr: 0.05,
        momentum: 0.9,
        nesterov: 1,
        batch_size: 7,
        seed: 5,
        init_seed: 3,
        epochs: 4,
        ..sgd_options()
    };
    // SAFETY: zeros are valid for its numbers.
    let mut result: flowreg_sgd_result = unsafe { zeroed() };
    result.struct_size = size_of::<flowreg_sgd_result>();
    let mut model = null_mut();
    // SAFETY: the arrays of `problem` and structs of their own sizes.
    let code = unsafe { flowreg_fit_sgd(&problem.samples(), &options, &mut result, &mut model) };
    assert_eq!(code, OK, "{}", message());
    assert_eq!((result.epochs, result.lr), (4, 0.05));
    assert_eq!(result.loss, rust.history[3].loss);
    let (weight, bias) = take(model);
    assert_eq!(weight, rust.model.weight().as_slice());
    assert_eq!(bias, rust.model.bias());

    let mut wrong = |options, expected, text: &str| {
        // SAFETY: as above.
        let code = unsafe { flowreg_fit_sgd(&problem.samples(), &options, null_mut(), &mut model) };
        refused(code, expected, text);
    };
    let code = flowreg_code::Options;
    wrong(
        flowreg_sgd_options {
            nesterov: 2,
            ..options
        },
        code,
        "options.nesterov: found 2",
    );
    wrong(
        flowreg_sgd_options { init: 2, ..options },
        code,
        "options.init: found 2",
    );
    wrong(
        flowreg_sgd_options {
            lr: -1.0,
            ..options
        },
        code,
        "-1",
    );
    wrong(
        flowreg_sgd_options {
            lr: 1e39,
            ..options
        },
        flowreg_code::Numbers,
        "epoch",
    );
}

#[test]
fn null_pointers_are_rejected() {
    let problem = Problem::new(10, 4, 4);
    let (samples, options) = (problem.samples(), path_options());
    let (x, mut out, mut class) = ([0.0; 2], [0.0; 2], 0);
    let mut model = null_mut();
    let refuse = |code, text: &str| refused(code, ARGUMENT, &format!("{text}: found NULL"));
    // SAFETY: NULL is refused, all other arguments are valid.
    unsafe {
        refuse(
            flowreg_fit_path(&samples, &options, null_mut(), null_mut()),
            "model",
        );
        refuse(
            flowreg_fit_path(null(), &options, null_mut(), &mut model),
            "samples",
        );
        let wrong = flowreg_samples {
            x: null(),
            ..samples
        };
        model = dangling_mut();
        refuse(
            flowreg_fit_path(&wrong, &options, null_mut(), &mut model),
            "samples.x",
        );
        assert!(model.is_null());
        let wrong = flowreg_samples {
            labels: null(),
            ..samples
        };
        refuse(
            flowreg_fit_sgd(&wrong, null(), null_mut(), &mut model),
            "samples.labels",
        );
        refuse(
            flowreg_fit_sgd(&samples, null(), null_mut(), null_mut()),
            "model",
        );
        refuse(flowreg_path_options_init(null_mut(), 80), "options");
        refuse(flowreg_sgd_options_init(null_mut(), 80), "options");
        refuse(
            flowreg_model_new(null(), x.as_ptr(), 1, 1, &mut model),
            "weight",
        );
        refuse(
            flowreg_model_new(x.as_ptr(), null(), 1, 1, &mut model),
            "bias",
        );
        refuse(
            flowreg_model_new(x.as_ptr(), x.as_ptr(), 1, 1, null_mut()),
            "model",
        );
        refuse(flowreg_model_load(null(), &mut model), "path");
        refuse(flowreg_model_load(c"x".as_ptr(), null_mut()), "model");
        refuse(flowreg_model_save(null(), c"x".as_ptr()), "model");
        refuse(
            flowreg_model_shape(null(), null_mut(), null_mut(), null_mut()),
            "model",
        );
        refuse(flowreg_model_weight(null(), null_mut(), 0), "model");
        refuse(flowreg_model_bias(null(), null_mut(), 0), "model");
        refuse(
            flowreg_model_predict(null(), null(), 0, 1, null_mut(), 0),
            "model",
        );
        refuse(
            flowreg_model_logits(null(), null(), 0, 1, null_mut(), 0),
            "model",
        );
        refuse(
            flowreg_model_probabilities(null(), null(), 0, 1, null_mut(), 0),
            "model",
        );
        assert_eq!(
            flowreg_model_new(x.as_ptr(), x.as_ptr(), 1, 2, &mut model),
            OK
        );
        refuse(flowreg_model_save(model, null()), "path");
        refuse(flowreg_model_weight(model, null_mut(), 2), "weight");
        refuse(flowreg_model_bias(model, null_mut(), 1), "bias");
        refuse(
            flowreg_model_predict(model, null(), 1, 2, &mut class, 1),
            "x",
        );
        refuse(
            flowreg_model_predict(model, x.as_ptr(), 1, 2, null_mut(), 1),
            "classes",
        );
        refuse(
            flowreg_model_logits(model, x.as_ptr(), 1, 2, null_mut(), 1),
            "logits",
        );
        refuse(
            flowreg_model_logits(model, null(), 1, 2, out.as_mut_ptr(), 1),
            "x",
        );
        let code = flowreg_model_probabilities(model, x.as_ptr(), 1, 2, null_mut(), 2);
        refuse(code, "probabilities");
        let code = flowreg_model_probabilities(model, null(), 1, 2, out.as_mut_ptr(), 2);
        refuse(code, "x");
        flowreg_model_free(model);
        flowreg_model_free(null_mut());
    }
}

#[test]
fn wrong_lengths_are_rejected() {
    let (weight, bias) = ([1.0, 2.0, -1.0, 0.5, 0.0, 3.0], [0.1, 0.2, 0.3]);
    let (weight_at, bias_at) = (weight.as_ptr(), bias.as_ptr());
    let x = [1.0, 0.0, 0.0, 1.0];
    let (mut out, mut classes, mut model) = ([9.0; 6], [9; 2], null_mut());
    // SAFETY: the lengths are those of the arrays, or are refused.
    unsafe {
        assert_eq!(flowreg_model_new(weight_at, bias_at, 3, 2, &mut model), OK);
        let code = flowreg_model_weight(model, out.as_mut_ptr(), 5);
        refused(code, SHAPE, "weight: found room for 5 values, expected 6");
        refused(
            flowreg_model_bias(model, out.as_mut_ptr(), 4),
            SHAPE,
            "bias: found room for 4",
        );
        let code = flowreg_model_logits(model, x.as_ptr(), 2, 2, out.as_mut_ptr(), 5);
        refused(
            code,
            SHAPE,
            "logits: found 5 values, expected 6 values, for 2 rows",
        );
        let code = flowreg_model_probabilities(model, x.as_ptr(), 2, 2, out.as_mut_ptr(), 7);
        refused(code, SHAPE, "probabilities: found 7");
        let code = flowreg_model_predict(model, x.as_ptr(), 2, 2, classes.as_mut_ptr(), 1);
        refused(code, SHAPE, "classes: found 1");
        let code = flowreg_model_logits(model, x.as_ptr(), 1, 4, out.as_mut_ptr(), 3);
        refused(code, SHAPE, "features: found 4, expected 2");
        assert_eq!((out, classes), ([9.0; 6], [9; 2]));

        let code = flowreg_model_logits(model, x.as_ptr(), 2, 2, out.as_mut_ptr(), 6);
        assert_eq!(code, OK, "{}", message());
        let code = flowreg_model_predict(model, x.as_ptr(), 2, 2, classes.as_mut_ptr(), 2);
        assert_eq!(code, OK, "{}", message());
        for (i, row) in x.chunks(2).enumerate() {
            let logit = |j: usize| row[0] * weight[2 * j] + row[1] * weight[2 * j + 1] + bias[j];
            for j in 0..3 {
                assert!((out[3 * i + j] - logit(j)).abs() < 1e-6);
                assert!(logit(j) <= logit(classes[i] as usize));
            }
        }
        let code = flowreg_model_probabilities(model, x.as_ptr(), 2, 2, out.as_mut_ptr(), 6);
        assert_eq!(code, OK, "{}", message());
        assert!((out[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        flowreg_model_free(model);
        refused(
            flowreg_model_new(weight_at, bias_at, 0, 2, &mut model),
            SHAPE,
            "weight",
        );
        assert!(model.is_null());
    }
}

#[test]
fn overlapping_and_misaligned_arrays_are_rejected() {
    let mut values = [1.0f32; 4];
    let (mut model, mut class) = (null_mut(), 0);
    // SAFETY: invalid pointers are refused; the lengths are those of the arrays.
    unsafe {
        let at = values.as_mut_ptr();
        assert_eq!(flowreg_model_new(at, at, 1, 2, &mut model), OK);
        refused(
            flowreg_model_logits(model, at, 1, 2, at.add(1), 1),
            ARGUMENT,
            "overlap",
        );
        refused(
            flowreg_model_logits(model, at, 1, 2, at, 1),
            ARGUMENT,
            "overlap",
        );
        assert_eq!(flowreg_model_logits(model, at, 1, 2, at.add(2), 1), OK);
        assert_eq!(flowreg_model_logits(model, at.add(1), 1, 2, at, 1), OK);
        let code = flowreg_model_predict(model, at.byte_add(1), 1, 2, &mut class, 1);
        refused(code, ARGUMENT, "expected a multiple of 4");
        flowreg_model_free(model);
    }
}

#[test]
fn overflowing_sizes_are_rejected() {
    let problem = Problem::new(10, 4, 4);
    let mut model = null_mut();
    let half = 1 << (usize::BITS / 2);
    let huge = usize::MAX / 2;
    // SAFETY: impossible sizes are refused before the arrays are read.
    unsafe {
        for (rows, features, row_stride) in [
            (half, half, 0),
            (3, 4, huge),
            (3, 4, huge + 1),
            (2, 4, usize::MAX - 1),
            (usize::MAX, 4, 4),
            (half, 4, half / 2),
            (1, usize::MAX, 0),
        ] {
            let wrong = flowreg_samples {
                rows,
                features,
                row_stride,
                ..problem.samples()
            };
            let code = flowreg_fit_path(&wrong, null(), null_mut(), &mut model);
            refused(code, ARGUMENT, "samples.x");
        }
        let wrong = flowreg_samples {
            row_stride: 3,
            ..problem.samples()
        };
        let code = flowreg_fit_path(&wrong, null(), null_mut(), &mut model);
        refused(
            code,
            SHAPE,
            "samples.row_stride: found 3, expected 4 or more",
        );
        let wrong = flowreg_samples {
            rows: 0,
            ..problem.samples()
        };
        refused(
            flowreg_fit_path(&wrong, null(), null_mut(), &mut model),
            SHAPE,
            "x",
        );
        let wrong = flowreg_samples {
            features: 0,
            row_stride: 0,
            ..problem.samples()
        };
        refused(
            flowreg_fit_path(&wrong, null(), null_mut(), &mut model),
            SHAPE,
            "x",
        );
        let one = [1.0f32];
        let at = one.as_ptr();
        refused(
            flowreg_model_new(at, at, half, half, &mut model),
            ARGUMENT,
            "weight",
        );
        refused(
            flowreg_model_new(at, at, 1, usize::MAX / 4, &mut model),
            ARGUMENT,
            "weight",
        );
        assert_eq!(flowreg_model_new(at, at, 1, 1, &mut model), OK);
        let mut out = [0.0];
        let code = flowreg_model_logits(model, at, huge, 1, out.as_mut_ptr(), huge);
        refused(code, ARGUMENT, "x");
        let code = flowreg_model_probabilities(model, at, huge + 1, 1, out.as_mut_ptr(), 0);
        refused(code, ARGUMENT, "probabilities");
        flowreg_model_free(model);
    }
}

#[test]
fn invalid_values_are_rejected() {
    let problem = Problem::new(10, 4, 4);
    let options = path_options();
    let wrong = |samples, options, expected, text: &str| {
        let mut model = null_mut();
        // SAFETY: the arrays of `problem` and structs of their own sizes.
        let code = unsafe { flowreg_fit_path(&samples, &options, null_mut(), &mut model) };
        refused(code, expected, text);
        assert!(model.is_null());
    };
    let (good, code) = (problem.samples(), flowreg_code::Options);
    let bad = flowreg_path_options {
        engine: 3,
        ..options
    };
    wrong(good, bad, code, "options.engine: found 3, expected 0 to 2");
    let bad = flowreg_path_options {
        solver: -1,
        ..options
    };
    wrong(good, bad, code, "options.solver: found -1");
    let bad = flowreg_path_options {
        penalty_kind: 2,
        ..options
    };
    wrong(good, bad, code, "options.penalty_kind: found 2");
    let bad = flowreg_path_options {
        fit_intercept: 2,
        ..options
    };
    wrong(good, bad, code, "options.fit_intercept: found 2");
    wrong(
        good,
        flowreg_path_options {
            penalty: f64::NAN,
            ..options
        },
        code,
        "NaN",
    );
    wrong(
        good,
        flowreg_path_options {
            threads: 1025,
            ..options
        },
        code,
        "1025",
    );
    let mut labels = problem.y.clone();
    labels[7] = 3;
    let bad = flowreg_samples {
        labels: labels.as_ptr(),
        ..good
    };
    wrong(bad, options, SHAPE, "3 in row 7");
    let mut x = problem.x.clone();
    x[9] = f32::NAN;
    wrong(
        flowreg_samples {
            x: x.as_ptr(),
            ..good
        },
        options,
        SHAPE,
        "NaN in row 2, feature 1",
    );
}

#[test]
fn a_struct_of_an_older_caller_gets_defaults() {
    extern "C" fn stop(_: *const flowreg_progress, _: *mut c_void) -> i32 {
        1
    }
    let problem = Problem::new(20, 30, 30);
    let samples = problem.samples();
    // The older caller's struct ends before the callback, which must not be read.
    let older = offset_of!(flowreg_path_options, callback);
    let mut options = flowreg_path_options {
        callback: Some(stop),
        ..path_options()
    };
    let (mut model, mut result) = (null_mut(), path_result());
    // SAFETY: structs that are as long as they say, or longer, or refused; the arrays of `problem`.
    unsafe {
        options.penalty = 7.0;
        assert_eq!(flowreg_path_options_init(&mut options, older), OK);
        assert_eq!((options.struct_size, options.penalty), (older, 1.0));
        assert!(options.callback.is_some(), "written behind the end");
        result.struct_size = offset_of!(flowreg_path_result, loss);
        result.loss = -5.0;
        let code = flowreg_fit_path(&samples, &options, &mut result, &mut model);
        assert_eq!(code, OK, "{}", message());
        assert_eq!(result.loss, -5.0, "written behind the end");
        assert!(result.objective > 0.0 && result.gap >= 0.0);
        flowreg_model_free(model);
        options.struct_size = size_of::<flowreg_path_options>();
        let code = flowreg_fit_path(&samples, &options, null_mut(), &mut model);
        refused(code, flowreg_code::Stopped, "stopped");

        let newer = size_of::<flowreg_path_options>() + 8;
        for size in [0, 8, older - 8, older + 1, newer, usize::MAX] {
            options.struct_size = size;
            let code = flowreg_fit_path(&samples, &options, null_mut(), &mut model);
            refused(code, ARGUMENT, "options.struct_size");
            refused(
                flowreg_path_options_init(&mut options, size),
                ARGUMENT,
                "struct_size",
            );
        }
        for size in [0, 8, 33, size_of::<flowreg_path_result>() + 8, usize::MAX] {
            result.struct_size = size;
            let code = flowreg_fit_path(&samples, null(), &mut result, &mut model);
            refused(code, ARGUMENT, "result.struct_size");
            assert!(model.is_null());
        }
        let wrong = flowreg_samples {
            struct_size: 0,
            ..samples
        };
        let code = flowreg_fit_path(&wrong, null(), null_mut(), &mut model);
        refused(code, ARGUMENT, "samples.struct_size");
    }
}

/// The events that a callback got, and the number after which it stops the fit.
#[derive(Default)]
struct Seen {
    steps: Vec<f64>,
    epochs: usize,
    columns: usize,
    stop_after: usize,
}

unsafe extern "C" fn watch(progress: *const flowreg_progress, seen: *mut c_void) -> i32 {
    // SAFETY: the library passes an event, and the `Seen` of the fit.
    let (progress, seen) = unsafe { (&*progress, &mut *seen.cast::<Seen>()) };
    assert!(progress.message.is_null());
    if progress.event == flowreg_event::Step as i32 {
        seen.steps.push(progress.objective);
    } else if progress.event == flowreg_event::Epoch as i32 {
        seen.epochs += 1;
        assert_eq!((progress.done, progress.total), (seen.epochs, 100));
    } else if progress.event == flowreg_event::GramMatrix as i32 {
        seen.columns = progress.done;
    }
    i32::from(seen.steps.len() + seen.epochs == seen.stop_after)
}

#[test]
fn a_callback_gets_events_and_can_stop_the_fit() {
    let problem = Problem::new(40, 60, 60);
    // Fits until the callback has counted `stop_after` steps.
    let run = |stop_after: usize| {
        let mut seen = Seen {
            stop_after,
            ..Seen::default()
        };
        let options = flowreg_path_options {
            callback: Some(watch),
            user_data: (&raw mut seen).cast(),
            threads: 2,
            ..path_options()
        };
        let (mut result, mut model) = (path_result(), dangling_mut());
        // SAFETY: the arrays of `problem`, structs of their own sizes, and `seen` lives.
        let code =
            unsafe { flowreg_fit_path(&problem.samples(), &options, &mut result, &mut model) };
        (code, seen, result, model)
    };
    let (code, seen, result, model) = run(usize::MAX);
    assert_eq!(code, OK, "{}", message());
    take(model);
    assert!(seen.steps.len() > 2 && seen.steps.last() < seen.steps.first());
    assert!((seen.steps.last().unwrap() / result.objective - 1.0).abs() < 1e-4);
    assert_eq!(seen.columns, 60);

    let (code, seen, _, model) = run(2);
    refused(code, flowreg_code::Stopped, "stopped before its end");
    assert_eq!(seen.steps.len(), 2);
    assert!(model.is_null());

    let mut seen = Seen {
        stop_after: 3,
        ..Seen::default()
    };
    let options = flowreg_sgd_options {
        callback: Some(watch),
        user_data: (&raw mut seen).cast(),
        ..sgd_options()
    };
    let mut model = null_mut();
    // SAFETY: as above.
    let code = unsafe { flowreg_fit_sgd(&problem.samples(), &options, null_mut(), &mut model) };
    refused(code, flowreg_code::Stopped, "stopped before its end");
    assert_eq!(seen.epochs, 3);
}

#[test]
fn a_model_outlives_its_arrays_and_a_file_preserves_it() {
    let problem = Problem::new(20, 6, 8);
    let (model, _) = fit(&problem, &path_options());
    let x = problem.x[..6].to_vec();
    drop(problem);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(dir.path().join(name).to_str().unwrap()).unwrap();
    let (saved, missing) = (path("m\u{f6}del.safetensors"), path("missing"));
    let (mut first, mut second, mut loaded) = ([0.0; 3], [0.0; 3], null_mut());
    // SAFETY: models until they are freed, and arrays of these lengths.
    unsafe {
        assert_eq!(
            flowreg_model_save(model, saved.as_ptr()),
            OK,
            "{}",
            message()
        );
        assert_eq!(
            flowreg_model_load(saved.as_ptr(), &mut loaded),
            OK,
            "{}",
            message()
        );
        for (model, out) in [(model, &mut first), (loaded, &mut second)] {
            let code = flowreg_model_probabilities(model, x.as_ptr(), 1, 6, out.as_mut_ptr(), 3);
            assert_eq!(code, OK, "{}", message());
            flowreg_model_free(model);
        }
        assert_eq!(first, second);
        assert!((first.iter().sum::<f32>() - 1.0).abs() < 1e-6);

        let code = flowreg_model_load(missing.as_ptr(), &mut loaded);
        refused(code, flowreg_code::Io, "missing");
        assert!(loaded.is_null());
        std::fs::write(dir.path().join("missing"), b"no model").unwrap();
        let code = flowreg_model_load(missing.as_ptr(), &mut loaded);
        refused(code, flowreg_code::Format, "missing");
        let (nan, one) = ([f32::NAN], [1.0]);
        assert_eq!(
            flowreg_model_new(nan.as_ptr(), one.as_ptr(), 1, 1, &mut loaded),
            OK
        );
        let code = flowreg_model_save(loaded, saved.as_ptr());
        refused(code, flowreg_code::Format, "weight[0, 0]");
        let code = flowreg_model_logits(loaded, one.as_ptr(), 1, 1, first.as_mut_ptr(), 1);
        refused(code, flowreg_code::Numbers, "logits");
        flowreg_model_free(loaded);
    }
}

#[test]
fn errors_are_per_thread_and_kept_by_success() {
    let fail = |path: &CStr| {
        let mut model = null_mut();
        // SAFETY: a path, and a variable for the model.
        unsafe { flowreg_model_load(path.as_ptr(), &mut model) }
    };
    refused(fail(c"/no/such/file"), flowreg_code::Io, "/no/such/file");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!((flowreg_last_error_code(), message()), (OK, String::new()));
            refused(fail(c"/no/other/file"), flowreg_code::Io, "/no/other/file");
        });
    });
    assert!(message().contains("/no/such/file"), "{}", message());
    // A success keeps the message.
    let (model, _) = fit(&Problem::new(10, 4, 4), &path_options());
    take(model);
    assert!(message().contains("/no/such/file"), "{}", message());
    flowreg_clear_error();
    assert_eq!((flowreg_last_error_code(), message()), (OK, String::new()));
}

#[test]
fn threads_share_a_model() {
    struct Shared(*mut flowreg_model);
    // SAFETY: the header allows threads to share a model.
    unsafe impl Sync for Shared {}
    let problem = Problem::new(20, 6, 6);
    let shared = &Shared(fit(&problem, &path_options()).0);
    let predict = || {
        let Shared(model) = shared;
        let mut classes = vec![9; 20];
        // SAFETY: a model that is freed later, and arrays of these lengths.
        let code = unsafe {
            flowreg_model_predict(*model, problem.x.as_ptr(), 20, 6, classes.as_mut_ptr(), 20)
        };
        assert_eq!(code, OK, "{}", message());
        classes
    };
    let expected = predict();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(predict(), expected));
        }
    });
    take(shared.0);
}

#[test]
fn the_version_is_that_of_the_crate() {
    // SAFETY: a text of the library.
    let version = unsafe { CStr::from_ptr(flowreg_version()) };
    assert_eq!(version.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}
