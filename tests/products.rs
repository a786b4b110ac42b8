//! The products of training at the real shapes, by every back end and on every instruction set of
//! this machine, against f64 along a random direction.

#[path = "../benches/support/projection.rs"]
mod projection;
#[path = "../benches/support/shapes.rs"]
#[allow(dead_code)] // The benchmarks use all of it.
mod shapes;

use std::process::Command;

use flowreg::kernels::Isa;
use flowreg::linalg::gemm::{Backend, Gemm};
use flowreg::threads;
use flowreg::torch_rng::TorchRng;
use shapes::{SHAPES, Shape};

/// Largest flop of a product; the shapes of the notebook stay below. Larger shapes are tested with
/// fewer rows and without K.
const FLOP: usize = 55_000_000_000;
/// Largest flop of a product in plain Rust, which computes a few GFLOP per second.
const PORTABLE_FLOP: usize = 800_000_000;
/// Largest number of values of X: 0.27 GB.
const VALUES: usize = 64 << 20;

#[test]
fn products_equal_f64_on_every_back_end() {
    let isa = Isa::chosen().expect("an instruction set of this machine");
    println!("instruction set: {isa}");
    // faer and matrixmultiply choose the instruction set themselves.
    let backends = match std::env::var_os("FLOWREG_ISA") {
        Some(_) => &[Backend::Own][..],
        None => &[Backend::Auto, Backend::Faer, Backend::Matrixmultiply],
    };
    let flop = if isa == Isa::PORTABLE {
        PORTABLE_FLOP
    } else {
        FLOP
    };
    let pool = threads::pool(None).expect("threads");
    for shape in SHAPES {
        let Shape { n, d, c, .. } = shape;
        let n = n.min(VALUES / d).min(flop / (2 * d * c)).max(1);
        let (x, _) = TorchRng::new(5).linear(n * d, 1);
        for &backend in backends {
            let gemm = Gemm::new(backend, pool.current_num_threads());
            pool.install(|| {
                projection::check(gemm, Shape { n, ..shape }, &x);
                if n * n * d <= flop {
                    projection::check_gram(gemm, Shape { n, ..shape }, &x);
                }
            });
        }
    }
}

/// The instruction set is chosen once in a process, so each is tested in a separate process.
#[test]
fn products_equal_f64_on_every_instruction_set() {
    let this = std::env::current_exe().expect("this test's binary");
    for isa in Isa::available() {
        let output = Command::new(&this)
            .args([
                "--exact",
                "products_equal_f64_on_every_back_end",
                "--nocapture",
            ])
            .env("FLOWREG_ISA", isa.to_string())
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{isa}: {said}{complaint}");
        assert!(
            said.contains(&format!("instruction set: {isa}\n")),
            "{said}"
        );
    }
}
