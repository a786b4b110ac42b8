//! criterion measures; this keeps the best sample of each line and prints the table.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

/// What a path does once: operations, and bytes of X read.
#[derive(Clone, Copy)]
pub struct Work {
    pub flop: f64,
    pub bytes: f64,
}

/// One line of the table.
struct Line {
    path: String,
    backend: String,
    work: Work,
    seconds: Vec<f64>,
}

/// All lines of a run.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Time `run`, which does `work`, by criterion under `path/backend`.
    pub fn time(
        &mut self,
        criterion: &mut Criterion,
        path: &str,
        backend: &str,
        work: Work,
        mut run: impl FnMut(),
    ) {
        let mut seconds = Vec::new();
        let mut group = criterion.benchmark_group(path);
        group.throughput(Throughput::Elements(work.flop as u64));
        group.bench_function(backend, |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let start = Instant::now();
                    run();
                    let took = start.elapsed();
                    seconds.push(took.as_secs_f64());
                    total += took;
                }
                total
            });
        });
        group.finish();
        self.lines.push(Line {
            path: path.to_string(),
            backend: backend.to_string(),
            work,
            seconds,
        });
    }

    /// Print best and median time, speed, share of `peak` (GFLOP/s), rate at which X is
    /// read, and the ratio to the path's first back end. Lines that a filter left without
    /// samples are left out.
    pub fn print(&mut self, peak: f64) {
        println!(
            "\n{:31} {:>14} {:>9} {:>9} {:>8} {:>5} {:>6} {:>6}",
            "path", "back end", "best ms", "median ms", "GFLOP/s", "peak", "GB/s", "ratio"
        );
        self.lines.retain(|line| !line.seconds.is_empty());
        for line in &mut self.lines {
            line.seconds.sort_by(f64::total_cmp);
        }
        let mut paths: Vec<&str> = Vec::new();
        for line in &self.lines {
            if !paths.contains(&line.path.as_str()) {
                paths.push(&line.path);
            }
        }
        for path in paths {
            let lines: Vec<&Line> = self.lines.iter().filter(|l| l.path == path).collect();
            for line in &lines {
                let best = line.seconds[0];
                let speed = line.work.flop / best / 1e9;
                println!(
                    "{path:31} {:>14} {:>9.3} {:>9.3} {speed:>8.1} {:>4.0}% {:>6.1} {:>6.2}",
                    line.backend,
                    best * 1e3,
                    line.seconds[line.seconds.len() / 2] * 1e3,
                    100.0 * speed / peak,
                    line.work.bytes / best / 1e9,
                    best / lines[0].seconds[0],
                );
            }
        }
    }
}
