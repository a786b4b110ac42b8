//! The products of training at the real shapes, by each back end and by other libraries: X Wᵀ, Gᵀ X,
//! K, K G, and a full-batch epoch of the primal engine.
//!
//! `cargo bench --bench gemm` prints the lines of criterion and then one table: time and GFLOP/s of
//! `auto` (the default of flowreg), the share of the FMA peak measured in the same run, and the time
//! of every other back end and library as a multiple of it. `-- softmax` times one shape,
//! `-- softmax.*/own` one back end. OpenBLAS is included if it is found; see `support/openblas.rs`.

mod support;

use std::time::Duration;

use ::gemm::Parallelism;
use criterion::Criterion;
use flowreg::design::rows::{Batch, Rows};
use flowreg::linalg::gemm::{Accum, Backend, Gemm};
use flowreg::linalg::mat::{MatMut, MatRef};
use flowreg::loss::BatchLoss;
use flowreg::sgd::dense::DenseParameters;
use flowreg::sgd::parameters::{LossGradient, Parameters};
use flowreg::torch_rng::TorchRng;
use flowreg::{Loss, Model};
use support::openblas::OpenBlas;
use support::projection;
use support::shapes::{MOST_ROWS_OF_K, SHAPES, Shape};
use support::table::{Table, Work};

/// A back end of flowreg, or another library that flowreg does not use.
#[derive(Clone, Copy)]
enum Who {
    Flowreg(Gemm),
    GemmCrate(Parallelism),
    OpenBlas(OpenBlas),
}

fn main() {
    // Products use the threads of the pool that they are called in.
    let pool = flowreg::threads::pool(None).expect("threads");
    pool.install(time_all);
}

fn time_all() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let (threads, peak) = support::machine();
    let flowreg = |backend| Who::Flowreg(Gemm::new(backend, threads));
    let mut contenders = vec![
        ("auto", flowreg(Backend::Auto)),
        ("own", flowreg(Backend::Own)),
        ("faer", flowreg(Backend::Faer)),
        ("matrixmultiply", flowreg(Backend::Matrixmultiply)),
        ("gemm", Who::GemmCrate(Parallelism::Rayon(threads))),
    ];
    let openblas = OpenBlas::load(threads);
    contenders.extend(openblas.map(|openblas| ("openblas", Who::OpenBlas(openblas))));
    let mut table = Table::default();
    for shape in SHAPES {
        let x = support::pixels(shape.n * shape.d);
        for &(name, who) in &contenders {
            if let Who::Flowreg(gemm) = who {
                // Check the results before timing.
                projection::check(gemm, shape, &x);
            }
            time_shape(&mut criterion, &mut table, name, who, shape, &x);
        }
    }
    table.print(peak);
    criterion.final_summary();
}

impl Who {
    /// `C = A Bᵀ`, A m x k, B n x k.
    fn a_bt(self, a: MatRef, b: MatRef, c: MatMut) {
        match self {
            Who::Flowreg(gemm) => gemm.a_bt(1.0, a, b, Accum::Replace, c),
            Who::OpenBlas(openblas) => openblas.a_bt(a, b, c),
            Who::GemmCrate(parallelism) => {
                let (k, ldb) = (a.cols(), b.cols());
                rival(
                    c,
                    (a.as_slice(), k, 1),
                    (b.as_slice(), 1, ldb),
                    k,
                    parallelism,
                );
            }
        }
    }

    /// `C = A B`, A m x k, B k x n.
    fn a_b(self, a: MatRef, b: MatRef, c: MatMut) {
        match self {
            Who::Flowreg(gemm) => gemm.a_b(1.0, a, b, Accum::Replace, c),
            Who::OpenBlas(openblas) => openblas.a_b(a, b, c),
            Who::GemmCrate(parallelism) => {
                let (k, n) = (a.cols(), b.cols());
                rival(
                    c,
                    (a.as_slice(), k, 1),
                    (b.as_slice(), n, 1),
                    k,
                    parallelism,
                );
            }
        }
    }
}

/// The `gemm` crate's product of operands with row and column strides.
fn rival(
    mut c: MatMut,
    a: (&[f32], usize, usize),
    b: (&[f32], usize, usize),
    k: usize,
    parallelism: Parallelism,
) {
    let (m, n) = (c.rows(), c.cols());
    assert!(a.0.len() == m * k && b.0.len() == k * n);
    // SAFETY: contiguous operands of exactly these sizes.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            c.as_mut_slice().as_mut_ptr(),
            1,
            n as isize,
            false,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn time_shape(
    criterion: &mut Criterion,
    table: &mut Table,
    name: &str,
    who: Who,
    shape: Shape,
    x: &[f32],
) {
    let Shape { n, d, c, .. } = shape;
    let work = |flop: usize, bytes: usize| Work {
        flop: flop as f64,
        bytes: bytes as f64,
    };
    let mut time = |what: &str, [m, k, n]: [usize; 3], work: Work, run: &mut dyn FnMut()| {
        let path = format!("{} {what} {m}x{k}x{n}", shape.name);
        table.time(criterion, &path, name, work, run);
    };
    let x = MatRef::new(x, n, d);
    let (weight, bias) = TorchRng::new(0).linear(d, c);

    let product = work(2 * n * d * c, 4 * n * d);
    let mut z = vec![0.0; n * c];
    let w = MatRef::new(&weight, c, d);
    time("W Xᵀ", [c, d, n], product, &mut || {
        who.a_bt(w, x, MatMut::new(&mut z, c, n));
    });
    let mut gradient = vec![0.0; c * d];
    time("Gᵀ X", [c, n, d], product, &mut || {
        who.a_b(MatRef::new(&z, c, n), x, MatMut::new(&mut gradient, c, d));
    });
    if n <= MOST_ROWS_OF_K {
        let mut k = vec![0.0; n * n];
        let triangle = work(n * n * d, 4 * n * d);
        match who {
            Who::Flowreg(gemm) => time("K", [n, d, n], triangle, &mut || {
                gemm.gram(x, MatMut::new(&mut k, n, n));
            }),
            Who::OpenBlas(openblas) => time("K", [n, d, n], triangle, &mut || {
                openblas.gram(x, MatMut::new(&mut k, n, n));
            }),
            // The library has no triangular product.
            Who::GemmCrate(_) => {}
        }
        let g = z.clone();
        let g = MatRef::new(&g, c, n);
        let product = work(2 * n * n * c, 4 * n * n);
        match who {
            Who::Flowreg(gemm) => {
                let k = gemm.prepack(k, n, n);
                time("Gᵀ K", [c, n, n], product, &mut || {
                    gemm.a_prepacked_t(1.0, g, &k, MatMut::new(&mut z, c, n), |_| {});
                });
            }
            Who::GemmCrate(_) | Who::OpenBlas(_) => time("Gᵀ K", [c, n, n], product, &mut || {
                who.a_bt(g, MatRef::new(&k, n, n), MatMut::new(&mut z, c, n));
            }),
        }
    }
    let Who::Flowreg(gemm) = who else { return };
    let labels: Vec<u32> = (0..n as u32).map(|i| i % c.max(2) as u32).collect();
    let rows = Rows::new(x);
    let start = Model::new(weight, bias).expect("the shape is right");
    let mut engine = DenseParameters::new(&rows, None, start, true, gemm);
    let mut objective = BatchLoss::new(Loss::for_classes(c.max(2)), &labels);
    let mut point = engine.start();
    let mut g = LossGradient::default();
    let both = work(4 * n * d * c, 8 * n * d);
    time("epoch", [n, d, c], both, &mut || {
        engine.loss(&point, Batch::All, &mut objective, &mut g);
        engine.gradient(-1e-4, &g, Batch::All, 1.0, &mut point);
    });
}
