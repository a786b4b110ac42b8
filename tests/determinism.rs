//! The model has the same bytes for any number of threads: for every engine, back end, loss and
//! SGD variant. (`tests/cli.rs` tests that for every instruction set.)

mod common;

use common::Problem;
use flowreg::design::plan::EngineChoice;
use flowreg::design::samples::Splits;
use flowreg::linalg::gemm::Backend;
use flowreg::{FitOptions, Init, LearningRate};

/// A variant of SGD.
type Way = fn(&mut FitOptions);
/// Variants by name.
const WAYS: [(&str, Way); 7] = [
    ("plain", |_| ()),
    ("momentum", |o| {
        (o.sgd.momentum, o.sgd.dampening) = (0.9, 0.1);
    }),
    ("nesterov and decay", |o| {
        (o.sgd.momentum, o.sgd.nesterov, o.sgd.weight_decay) = (0.8, true, 1e-3);
    }),
    ("mini-batches", |o| o.sgd.batch_size = Some(32)),
    ("1/L", |o| o.sgd.lr = LearningRate::Auto),
    ("early stopping", |o| o.early_stopping = Some(3)),
    ("from zero", |o| o.init = Init::Zeros),
];
const BACKENDS: [Backend; 4] = [
    Backend::Auto,
    Backend::Own,
    Backend::Faer,
    Backend::Matrixmultiply,
];

#[test]
fn the_number_of_threads_changes_no_bit() {
    flowreg::threads::share_short_loops();
    for classes in [2, 3, 5] {
        // Several blocks of rows and of features, the last ones not full.
        let (problem, other) = (
            Problem::random(530, 1100, classes, 1),
            Problem::random(70, 1100, classes, 2),
        );
        let (train, validation) = (problem.samples(), other.samples());
        let splits = Splits {
            train: &train,
            validation: Some(&validation),
        };
        for engine in [EngineChoice::Gram, EngineChoice::Primal] {
            for backend in BACKENDS {
                for (name, way) in WAYS {
                    let bytes = |threads| {
                        let mut options = FitOptions {
                            engine,
                            backend,
                            threads: Some(threads),
                            ..FitOptions::default()
                        };
                        (options.sgd.epochs, options.sgd.lr) = (4, 0.1.into());
                        way(&mut options);
                        let fit = flowreg::fit(splits, &options, &mut |_| {}).unwrap();
                        (fit.model.to_safetensors(), fit.history)
                    };
                    let one = bytes(1);
                    for threads in [2, 3, 4, 8] {
                        assert!(
                            bytes(threads) == one,
                            "{classes} classes, {engine:?}, {backend}, {name}, {threads} threads"
                        );
                    }
                }
            }
        }
    }
}
