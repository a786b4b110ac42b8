//! Where the time and the memory of a process go.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cli::info;

/// Where a process's time goes: laps that follow one another without a gap.
pub struct Stopwatch {
    last: Instant,
    stopwatch: Vec<(String, f64)>,
}

impl Stopwatch {
    /// The first lap begins.
    #[allow(clippy::new_without_default)] // It is no neutral value: it reads the clock.
    pub fn new() -> Stopwatch {
        Stopwatch {
            last: Instant::now(),
            stopwatch: Vec::new(),
        }
    }

    /// A lap ends and the next begins.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64();
        self.stopwatch.push((name.to_string(), seconds));
        self.last = now;
    }

    /// A lap ends whose parts are known; what they leave is `rest`.
    pub fn end_with_parts(&mut self, parts: &[(&str, f64)], rest: &str) {
        self.end(rest);
        let (name, whole) = self.stopwatch.pop().expect("it just ended");
        let known: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let parts = parts
            .iter()
            .map(|&(name, seconds)| (name.to_string(), seconds));
        self.stopwatch.extend(parts);
        self.stopwatch.push((name, whole - known));
    }

    /// All laps and their sum.
    pub fn print(&self) {
        for (name, seconds) in &self.stopwatch {
            info(format_args!("  {name:32} {:9.2} ms", 1e3 * seconds));
        }
        let sum: f64 = self.stopwatch.iter().map(|(_, seconds)| seconds).sum();
        info(format_args!("  {:32} {:9.2} ms", "in all", 1e3 * sum));
    }
}

/// Peak memory of the process without maps of files (Linux: anonymous pages), sampled every
/// millisecond.
pub struct PeakMemory {
    stop: Sender<()>,
    watcher: JoinHandle<Option<u64>>,
}

impl PeakMemory {
    /// Begin to look.
    pub fn watch() -> PeakMemory {
        let (stop, stopped) = mpsc::channel();
        let watcher = std::thread::spawn(move || {
            let mut peak = None;
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(anonymous_memory());
            }
            peak
        });
        PeakMemory { stop, watcher }
    }

    /// Print it, where the system tells it.
    pub fn print(self) {
        drop(self.stop);
        if let Ok(Some(bytes)) = self.watcher.join() {
            let megabytes = bytes as f64 / 1e6;
            info(format_args!(
                "  {:32} {megabytes:9.2} MB",
                "peak memory beside the maps"
            ));
        }
    }
}

/// Bytes.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
