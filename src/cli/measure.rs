//! Time and memory of a process: [`Stopwatch`] and [`PeakMemory`].

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cli::info;

/// Times of consecutive laps.
pub struct Stopwatch {
    last: Instant,
    laps: Vec<(String, f64)>,
}

impl Stopwatch {
    /// Starts the first lap.
    #[allow(clippy::new_without_default)] // It reads the clock.
    pub fn new() -> Stopwatch {
        Stopwatch {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    /// Ends a lap and starts the next.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64();
        self.laps.push((name.to_string(), seconds));
        self.last = now;
    }

    /// Ends a lap with parts of known time; the remaining time is recorded as `rest`.
    pub fn end_with_parts(&mut self, parts: &[(&str, f64)], rest: &str) {
        self.end(rest);
        let (name, whole) = self.laps.pop().expect("`end` pushed a lap");
        let known: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let parts = parts
            .iter()
            .map(|&(name, seconds)| (name.to_string(), seconds));
        self.laps.extend(parts);
        self.laps.push((name, whole - known));
    }

    /// Prints all laps and their sum.
    pub fn print(&self) {
        for (name, seconds) in &self.laps {
            info(format_args!("  {name:32} {:9.2} ms", 1e3 * seconds));
        }
        let sum: f64 = self.laps.iter().map(|(_, seconds)| seconds).sum();
        info(format_args!("  {:32} {:9.2} ms", "in all", 1e3 * sum));
    }
}

/// Peak memory of the process without mapped files (on Linux: anonymous pages), sampled every
/// millisecond.
pub struct PeakMemory {
    stop: Sender<()>,
    watcher: JoinHandle<Option<u64>>,
}

impl PeakMemory {
    /// Starts sampling.
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

    /// Prints the peak, if the system reports it.
    pub fn print(self) {
        drop(self.stop);
        if let Ok(Some(bytes)) = self.watcher.join() {
            let megabytes = bytes as f64 / 1e6;
            info(format_args!(
                "  {:32} {megabytes:9.2} MB",
                "peak memory without mapped files"
            ));
        }
    }
}

/// Anonymous memory of the process, in bytes.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
