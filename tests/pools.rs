//! Work runs in the caller's pool or in one that ends with the call. rayon's global pool is never
//! started, because a forked child would wait for its threads for ever.

use flowreg::data::arrays;
use flowreg::data::arrays::{ArrayOptions, ArrayPart};
use flowreg::io::npy::{Dtype, Header};
use flowreg::io::publish::Overwrite;
use flowreg::model::calibrate::calibrate;
use flowreg::path::{PathOptions, fit_path};
use flowreg::threads;
use flowreg::{FitOptions, Samples};

/// Rows of two classes, enough for their loops to be shared.
fn rows(n: usize, d: usize) -> (Vec<f32>, Vec<i64>) {
    let value = |i: usize| ((i * 7919 + i / d) % 1013) as f32 / 1013.0;
    let x = (0..n * d).map(value).collect();
    (x, (0..n as i64).map(|i| i * i % 3 % 2).collect())
}

/// Make a dataset of an array and its labels.
fn prepare_arrays(x: &[f32], d: usize, y: &[i64]) {
    let dir = tempfile::tempdir().unwrap();
    let part = ArrayPart {
        name: "train",
        x: dir.path().join("x.npy"),
        y: dir.path().join("y.npy"),
    };
    let x = x.iter().flat_map(|value| value.to_le_bytes());
    let mut bytes = Header::encode(Dtype::F32, &[y.len(), d]);
    bytes.extend(x);
    std::fs::write(&part.x, bytes).unwrap();
    let mut bytes = Header::encode(Dtype::I64, &[y.len()]);
    bytes.extend(y.iter().flat_map(|label| label.to_le_bytes()));
    std::fs::write(&part.y, bytes).unwrap();
    let (options, out) = (ArrayOptions::default(), dir.path().join("out"));
    arrays::prepare(&[part], &options, &out, Overwrite::Never, &|_| {}).unwrap();
}

/// The only test of this process, as it checks state of the process.
#[test]
fn no_call_starts_the_global_pool() {
    for (n, d) in [(8, 3), (300, 4000), (4000, 200)] {
        let (x, y) = rows(n, d);
        let samples = Samples::new(&x, d, &y, 2).unwrap();
        let mut options = FitOptions::default();
        options.sgd.epochs = 3;
        let fit = flowreg::fit((&samples, &samples), &options, &mut |_| {}).unwrap();
        fit_path(&samples, &PathOptions::default(), &mut |_| {}).unwrap();
        fit.model.evaluate(&samples).unwrap();
        fit.model.score(&samples).unwrap();
        fit.model.predict(&x).unwrap();
        fit.model.probabilities(&x).unwrap();
        calibrate(&fit.model, &samples).unwrap();
        options.standardize = flowreg::design::scaler::Standardize::Both;
        flowreg::fit(&samples, &options, &mut |_| {}).unwrap();
        prepare_arrays(&x, d, &y);
    }
    let unused = rayon::ThreadPoolBuilder::new().build_global();
    assert!(unused.is_ok(), "{unused:?}");

    // Called in a pool of the caller, its threads are used.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    let (x, y) = rows(100, 2000);
    let samples = Samples::new(&x, 2000, &y, 2).unwrap();
    let fit = pool.install(|| fit_path(&samples, &PathOptions::default(), &mut |_| {}));
    assert_eq!(fit.unwrap().threads, 3);
    assert_eq!(threads::current(), 1);
}
