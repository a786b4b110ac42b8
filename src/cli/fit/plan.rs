//! `flowreg-fit plan`: what several processes would share, send and compute.

use std::time::Duration;

use super::args::PlanArgs;
use crate::cli;
use crate::comm::cost::{Network, Shape};
use crate::error::{Error, Result};
use crate::linalg::gemm::{Backend, Gemm};
use crate::loss::Loss;
use crate::threads;

/// Bytes that a converged fit and SGD keep for each output and row, or each output and row of a
/// process, as measured with 20 million of them.
const BYTES_CONVERGED: f64 = 42.0;
const BYTES_SGD: f64 = 9.0;
/// Bytes for each element of K while a converged fit computes and factors it, and of Xᵀ X.
const BYTES_OF_MATRIX: f64 = 28.0;

pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    if args.classes < 2 {
        return Err(Error::options("`classes`", args.classes, "2 or more"));
    }
    if !(args.gbits > 1e-6 && args.gbits < 1e6 && (0.0..1e9).contains(&args.latency_us)) {
        let found = format!("{} Gb/s, {} µs", args.gbits, args.latency_us);
        let expected = "a bandwidth from 1e-6 to 1e6 Gb/s and a latency from 0 to 1e9 µs";
        return Err(Error::options("network", found, expected));
    }
    let shape = Shape {
        rows: args.rows,
        features: args.features,
        outputs: Loss::for_classes(args.classes).outputs(args.classes),
        processes: args.processes,
    };
    let network = Network {
        bytes_per_second: args.gbits * 1e9 / 8.0,
        latency: Duration::from_secs_f64(args.latency_us * 1e-6),
    };
    let (n, d, c) = (
        shape.rows as f64,
        shape.features as f64,
        shape.outputs as f64,
    );
    let parts = shape.parts();
    if parts < args.processes {
        return Err(Error::options(
            "number of processes",
            args.processes,
            format!("at most {parts}, the parts that can be shared"),
        ));
    }
    // Of the process with the largest share.
    let largest = shape.largest_share() as f64;
    let p = if shape.shares_columns() { d } else { n } / largest;
    let pool = threads::pool(args.threads)?;
    let threads = pool.current_num_threads();
    let rate = pool.install(|| Gemm::new(Backend::Own, threads).rate());
    let share = if shape.shares_columns() {
        "columns"
    } else {
        "rows"
    };
    let shared = match args.processes {
        1 => format!("1 process has all {share}"),
        count => format!("{count} processes share the {share}, up to {largest:.0} each"),
    };
    cli::print(format!(
        "{} x {}, {} classes: {shared}",
        args.rows, args.features, args.classes
    ));
    cli::print(format!(
        "times: network of {} Gb/s and {} µs; {} threads of this machine, {:.0} GFLOP/s",
        args.gbits,
        args.latency_us,
        threads,
        rate / 1e9
    ));
    let memory = |what: &str, bytes: f64| {
        cli::print(format!("  {what:34} {:>10}", size(bytes)));
    };
    let work = |what: &str, flop: f64, (sums, bytes): (usize, f64)| {
        let network = shape.time(sums, bytes, network).as_secs_f64();
        cli::print(format!(
            "  {what:34} {:>10} FLOP {:>10} s   {:>10} {:>10} s",
            short(flop),
            short(flop / rate),
            size(bytes),
            short(network)
        ));
    };
    cli::print("memory of a process");
    memory("X, mapped", 4.0 * n * d / p);
    if shape.shares_columns() {
        memory("K, sgd (while it is computed)", 12.0 * n * n);
        memory("K, newton and lbfgs", BYTES_OF_MATRIX * n * n);
        memory("W", 4.0 * c * d);
        cli::print("once                                     compute               network");
        work("K = X Xᵀ", n * n * d / p, (4, shape.gram_bytes()));
        work(
            "Z0 or certificate",
            2.0 * n * d * c / p,
            (3, shape.logits_bytes()),
        );
        work("W", 2.0 * n * d * c / p, (1, shape.weight_bytes()));
        cli::print("each epoch or conjugate gradient step");
        work(
            "product with K, in every process",
            2.0 * n * n * c,
            (0, 0.0),
        );
    } else {
        memory("logits and gradients, sgd", BYTES_SGD * n * c / p);
        memory("and newton or lbfgs", BYTES_CONVERGED * n * c / p);
        memory("XᵀX, newton and lbfgs", BYTES_OF_MATRIX * d * d);
        memory("W", 8.0 * c * d);
        cli::print("once                                     compute               network");
        work(
            "XᵀX, newton and lbfgs",
            n * d * d / p,
            (3, shape.moments_bytes()),
        );
        cli::print("each epoch, step of lbfgs or of conjugate gradients");
        work(
            "logits and gradient",
            4.0 * n * d * c / p,
            (6, shape.gradient_bytes()),
        );
    }
    cli::print("at the end, by process 0 alone");
    work("evaluation of the training rows", 2.0 * n * d * c, (0, 0.0));
    Ok(())
}

/// A number of bytes, with its unit.
fn size(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{} {}", digits(value), units[unit])
}

/// A number in three digits, with an exponent if it is large or small.
fn short(value: f64) -> String {
    if value == 0.0 || (1e-3..1e4).contains(&value) {
        digits(value)
    } else {
        format!("{value:.1e}")
    }
}

fn digits(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ if value >= 0.0995 || value == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
