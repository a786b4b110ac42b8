//! Growth of the time with rows, features and outputs around the notebook's shape: the time of each
//! part of a fit against its FLOP shows sudden slowdowns.
//!
//! `cargo bench --bench growth` prints a line for each shape: milliseconds and GFLOP/s of each part,
//! and the ratio of its time to a model that scales the time of the notebook's shape by the FLOP. `!`
//! marks ratios above 1.5. With one output all parts but K are limited by memory bandwidth; with few
//! rows an epoch is limited by the synchronisation of threads.

mod support;

use std::time::Instant;

use flowreg::design::plan::EngineChoice;
use flowreg::{FitOptions, Samples, Timings};
use support::shapes::{SOFTMAX, Shape};

const ROWS: [usize; 6] = [255, 510, 1020, 2040, 4080, 8189];
const FEATURES: [usize; 6] = [1024, 3072, 12_288, 24_576, 49_152, 98_304];
const OUTPUTS: [usize; 4] = [1, 10, 102, 1000];
/// Number of epochs of a fit in Gram coordinates, and on the primal engine.
const EPOCHS: [usize; 2] = [20, 2];
/// A shape is fitted repeatedly for this time, and at most this number of times.
const SECONDS: f64 = 2.0;
const FITS: usize = 7;
/// Ratio to the model from which a time is marked.
const CLIFF: f64 = 1.5;

/// FLOP from n, d and c.
type Flop = fn(f64, f64, f64) -> f64;

/// The parts of a fit, and the FLOP of each.
const PARTS: [(&str, Flop); 5] = [
    ("K", |n, d, _| n * n * d),
    ("Z0", |n, d, c| 2.0 * n * d * c),
    ("gram epoch", |n, _, c| 2.0 * n * n * c),
    ("W", |n, d, c| 2.0 * n * d * c),
    ("primal epoch", |n, d, c| 4.0 * n * d * c),
];

fn main() {
    // `cargo test --benches` only checks that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    support::machine();
    let shape = |n, d, c| Shape { n, d, c, ..SOFTMAX };
    let Shape { n, d, c, .. } = SOFTMAX;
    let by_rows = ROWS.map(|n| shape(n, d, c));
    let by_features = FEATURES.map(|d| shape(n, d, c));
    let by_outputs = OUTPUTS.map(|c| shape(n, d, c));
    let groups = [&by_rows[..], &by_features, &by_outputs];
    let values = groups.concat().iter().map(|shape| shape.n * shape.d).max();
    let x = support::pixels(values.expect("shapes"));
    let base = seconds(SOFTMAX, &x);

    print!("{:>4} {:>5} {:>4}", "n", "d", "c");
    for (name, _) in PARTS.iter() {
        print!(" | {name:>20}");
    }
    println!(
        "\n{:15}{}",
        "",
        " |      ms GFLOP/s ratio".repeat(PARTS.len())
    );
    for group in groups {
        for &shape in group {
            let found = if (shape.n, shape.d, shape.c) == (n, d, c) {
                base
            } else {
                seconds(shape, &x)
            };
            line(shape, &found, &base);
        }
        println!();
    }
}

fn line(shape: Shape, found: &[f64; 5], base: &[f64; 5]) {
    print!("{:>4} {:>5} {:>4}", shape.n, shape.d, shape.c);
    for (((_, flop), found), base) in PARTS.iter().zip(found).zip(base) {
        let flop_of = |s: Shape| flop(s.n as f64, s.d as f64, s.c as f64);
        let model = base * flop_of(shape) / flop_of(SOFTMAX);
        let ratio = found / model;
        let mark = if ratio > CLIFF { '!' } else { ' ' };
        let speed = flop_of(shape) / found / 1e9;
        print!(" | {:7.2} {speed:6.0} {ratio:4.1}{mark}", found * 1e3);
    }
    println!();
}

/// The least seconds of each part.
fn seconds(shape: Shape, x: &[f32]) -> [f64; 5] {
    let Shape { n, d, c, .. } = shape;
    let classes = c.max(2);
    let labels: Vec<i64> = (0..n).map(|i| (i % classes) as i64).collect();
    let samples = Samples::new(&x[..n * d], d, &labels, classes).expect("the shape is right");
    let fit = |engine, epochs| -> Timings {
        let mut options = FitOptions::default();
        (options.engine, options.sgd.epochs) = (engine, epochs);
        options.sgd.lr = 1e-5.into();
        let fit = flowreg::fit(&samples, &options, &mut |_| {}).expect("a fit");
        fit.timings
    };
    let mut best = [f64::INFINITY; 5];
    let started = Instant::now();
    for _ in 0..FITS {
        let gram = fit(EngineChoice::Gram, EPOCHS[0]);
        let primal = fit(EngineChoice::Primal, EPOCHS[1]);
        let parts = [
            gram.gram_matrix,
            gram.initial_logits,
            gram.epochs / EPOCHS[0] as f64,
            gram.weight,
            primal.epochs / EPOCHS[1] as f64,
        ];
        for (best, part) in best.iter_mut().zip(parts) {
            *best = best.min(part);
        }
        if started.elapsed().as_secs_f64() > SECONDS {
            break;
        }
    }
    best
}
