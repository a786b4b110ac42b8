//! A table of the best and median samples that criterion measures.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

/// The work of one call: operations, and bytes of X read.
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
    /// Time `run`, a call of `work`, by criterion under `path/backend`.
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

    /// Print a line for each path: best and median time, speed, share of `peak` (GFLOP/s) and rate of
    /// reading X of the first back end, then the best time of each other back end as a multiple of it.
    /// Lines without samples are left out.
    pub fn print(&mut self, peak: f64) {
        self.lines.retain(|line| !line.seconds.is_empty());
        for line in &mut self.lines {
            line.seconds.sort_by(f64::total_cmp);
        }
        let paths = distinct(self.lines.iter().map(|line| line.path.as_str()));
        let backends = distinct(self.lines.iter().map(|line| line.backend.as_str()));
        let Some((first, others)) = backends.split_first() else {
            return;
        };
        print!(
            "\ntime of {first}, and of the others as multiples of it\n{:33} ",
            "path"
        );
        print!(
            "{:>9} {:>9} {:>8} {:>5} {:>6} ",
            "best ms", "median ms", "GFLOP/s", "peak", "GB/s"
        );
        let width = |name: &str| name.len().max(6);
        let names = others
            .iter()
            .map(|name| format!(" {name:>0$}", width(name)));
        println!("{}", names.collect::<String>());
        for path in paths {
            let of = |backend: &str| {
                (self.lines.iter()).find(|line| line.path == path && line.backend == backend)
            };
            let Some(line) = of(first) else { continue };
            let best = line.seconds[0];
            let speed = line.work.flop / best / 1e9;
            let ratios = others.iter().map(|&name| match of(name) {
                Some(other) => format!(" {:>1$.2}", other.seconds[0] / best, width(name)),
                None => format!(" {:>1$}", "", width(name)),
            });
            println!(
                "{path:33} {:>9.3} {:>9.3} {speed:>8.1} {:>4.0}% {:>6.1} {}",
                best * 1e3,
                line.seconds[line.seconds.len() / 2] * 1e3,
                100.0 * speed / peak,
                line.work.bytes / best / 1e9,
                ratios.collect::<String>().trim_end(),
            );
        }
    }
}

/// The distinct names, in the order of their first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}
