//! The products of training at the real shapes, on each back end: forward, backward, and a
//! whole full-batch epoch of the primal engine.
//!
//! `cargo bench --bench gemm` prints criterion's lines and then one table: GFLOP/s and the
//! share of the FMA peak measured in the same run.

mod support;

use std::time::Duration;

use criterion::Criterion;
use flowreg::data::samples::{Batch, Rows};
use flowreg::engine::{Engine, Primal};
use flowreg::gemm::{Accum, Backend, Gemm};
use flowreg::mat::{MatMut, MatRef};
use flowreg::objective::Objective;
use flowreg::torch_rng::TorchRng;
use flowreg::{Loss, Model, threads};
use support::shapes::{BINARY, SOFTMAX, Shape};
use support::table::{Table, Work, processor};

const BACKENDS: [(&str, Backend); 3] = [
    ("own", Backend::Own),
    ("faer", Backend::Faer),
    ("matrixmultiply", Backend::Matrixmultiply),
];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let threads = threads::available();
    let peak = support::peak::measure(threads);
    println!(
        "{}, {threads} threads, {}: FMA peak {peak:.0} GFLOP/s",
        processor(),
        threads::instruction_set()
    );
    let mut table = Table::default();
    for shape in [SOFTMAX, BINARY] {
        let x = support::pixels(shape.n * shape.d);
        for (name, backend) in BACKENDS {
            let gemm = Gemm::new(backend, threads);
            check(gemm, shape, &x);
            time_shape(&mut criterion, &mut table, name, gemm, shape, &x);
        }
    }
    table.print(peak);
    criterion.final_summary();
}

fn time_shape(
    criterion: &mut Criterion,
    table: &mut Table,
    backend: &str,
    gemm: Gemm,
    shape: Shape,
    x: &[f32],
) {
    let Shape { name, n, d, c } = shape;
    let product = Work {
        flop: 2.0 * (n * d * c) as f64,
        bytes: 4.0 * (n * d) as f64,
    };
    let epoch = Work {
        flop: 2.0 * product.flop,
        bytes: 2.0 * product.bytes,
    };
    let x = MatRef::new(x, n, d);
    let (weight, bias) = TorchRng::new(0).linear(d, c);

    let mut z = vec![0.0; n * c];
    let w = MatRef::new(&weight, c, d);
    let path = format!("{name} forward {n}x{d}x{c}");
    table.time(criterion, &path, backend, product, || {
        gemm.a_bt(1.0, x, w, Accum::Replace, MatMut::new(&mut z, n, c));
    });
    let mut gradient = vec![0.0; c * d];
    let path = format!("{name} backward {c}x{n}x{d}");
    table.time(criterion, &path, backend, product, || {
        let gradient = MatMut::new(&mut gradient, c, d);
        gemm.at_b(1.0, MatRef::new(&z, n, c), x, Accum::Replace, gradient);
    });

    let mut k = vec![0.0; n * n];
    let triangle = Work {
        flop: (n * n * d) as f64,
        bytes: product.bytes,
    };
    table.time(
        criterion,
        &format!("{name} K {n}x{n}x{d}"),
        backend,
        triangle,
        || {
            gemm.gram(x, MatMut::new(&mut k, n, n));
        },
    );
    let step = Work {
        flop: 2.0 * (n * n * c) as f64,
        bytes: 0.0,
    };
    let g: Vec<f32> = z.clone();
    table.time(
        criterion,
        &format!("{name} K G {n}x{n}x{c}"),
        backend,
        step,
        || {
            let (k, g) = (MatRef::new(&k, n, n), MatRef::new(&g, n, c));
            gemm.at_b(1.0, k, g, Accum::Replace, MatMut::new(&mut z, n, c));
        },
    );

    let labels: Vec<u32> = (0..n as u32).map(|i| i % c.max(2) as u32).collect();
    let rows = Rows::new(x);
    let start = Model::new(weight, bias).expect("the shape is right");
    let mut engine = Primal::new(&rows, None, start, gemm);
    let mut objective = Objective::new(Loss::for_classes(c.max(2)), &labels);
    let mut point = engine.start();
    table.time(criterion, &format!("{name} epoch"), backend, epoch, || {
        let mut z = MatMut::new(&mut z, n, c);
        engine.margins(&point, Batch::All, z.reborrow());
        objective.loss_gradient(Batch::All, z.reborrow());
        engine.pullback(-1e-4, z.as_ref(), Batch::All, 1.0, &mut point);
    });
}

/// Nothing wrong is timed: both products against f64 along a random direction.
fn check(gemm: Gemm, Shape { n, d, c, .. }: Shape, x: &[f32]) {
    let (w, r) = TorchRng::new(1).linear(d, c);
    let mut z = vec![0.0; n * c];
    let x_view = MatRef::new(x, n, d);
    gemm.a_bt(
        1.0,
        x_view,
        MatRef::new(&w, c, d),
        Accum::Replace,
        MatMut::new(&mut z, n, c),
    );
    // Z r = X (Wᵀ r), row by row.
    let wr: Vec<f64> = (0..d)
        .map(|k| {
            (0..c)
                .map(|j| f64::from(w[j * d + k]) * f64::from(r[j]))
                .sum()
        })
        .collect();
    for i in 0..n.min(8) {
        let found: f64 = (0..c)
            .map(|j| f64::from(z[i * c + j]) * f64::from(r[j]))
            .sum();
        let row = &x[i * d..][..d];
        let expected: f64 = row.iter().zip(&wr).map(|(&x, w)| f64::from(x) * w).sum();
        assert!(
            (found - expected).abs() < 1e-5,
            "forward: {found} {expected}"
        );
    }
    let mut gradient = vec![0.0; c * d];
    let g = MatRef::new(&z, n, c);
    gemm.at_b(
        1.0,
        g,
        x_view,
        Accum::Replace,
        MatMut::new(&mut gradient, c, d),
    );
    // (Gᵀ X) column by column against sums over the rows.
    for k in [0, 1, d / 2, d - 1] {
        for j in 0..c {
            let terms = (0..n).map(|i| f64::from(z[i * c + j]) * f64::from(x[i * d + k]));
            let (expected, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
            let found = f64::from(gradient[j * d + k]);
            assert!(
                (found - expected).abs() <= 1e-5 * size,
                "backward: {found} {expected}"
            );
        }
    }
}
