//! What the two binaries share: arguments to exit code, printing, progress.

pub mod converged;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::Every;
use crate::data::store;
use crate::error::Result;
use crate::interrupt;
use crate::optim::sgd::LearningRate;

/// Exit code for a command line that cannot be understood.
const USAGE: u8 = 64;

/// Exit code for a bug: a panic.
const BUG: u8 = 70;

/// Parse the arguments, run, and turn an error into one line on stderr and an exit code.
///
/// Ctrl-C, SIGTERM and files that are cut short while mapped are looked after.
pub fn main<A: Parser>(name: &'static str, run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let complain = move |message: &str| {
        let _ = writeln!(std::io::stderr(), "{name}: {}", one_line(message));
    };
    std::panic::set_hook(Box::new(move |panic| complain(&format!("bug: {panic}"))));
    store::exit_on_truncation();
    let run = |args| interrupt::listen().and_then(|()| run(args));
    let result = match A::try_parse() {
        Ok(args) => match catch_unwind(AssertUnwindSafe(|| run(args))) {
            Ok(result) => result.map_err(|error| (error.to_string(), error.exit_code())),
            Err(_) => return ExitCode::from(BUG), // The hook has said it.
        },
        Err(error) if error.use_stderr() => Err((first_paragraph(&error.to_string()), USAGE)),
        Err(help) => {
            say(help.to_string().trim_end());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((message, code)) => {
            complain(&message);
            ExitCode::from(code)
        }
    }
}

/// Print a line; a reader that has gone away is no reason to fail.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A finite number, for clap.
pub fn finite(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) => Err(format!("found {value}, expected a finite number")),
        Err(_) => Err("expected a number such as 0.01 or 1e-4".to_string()),
    }
}

/// A finite number or `auto`, for clap.
pub fn learning_rate(text: &str) -> std::result::Result<LearningRate, String> {
    match text {
        "auto" => Ok(LearningRate::Auto),
        _ => match finite(text) {
            Ok(rate) => Ok(LearningRate::Fixed(rate)),
            Err(why) => Err(format!("{why}, or auto")),
        },
    }
}

/// A number of epochs or a time such as 30s, 5m or 2h, for clap.
pub fn every(text: &str) -> std::result::Result<Every, String> {
    let bad = || "expected a number of epochs, or a time such as 30s, 5m or 2h".to_string();
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let time = units.map(|(unit, seconds)| Some((text.strip_suffix(unit)?, Some(seconds))));
    let (number, seconds) = time.into_iter().flatten().next().unwrap_or((text, None));
    let number: u32 = number.parse().map_err(|_| bad())?;
    match seconds {
        _ if number == 0 => Err(bad()),
        None => Ok(Every::Epochs(number as usize)),
        Some(seconds) => Ok(Every::Time(Duration::from_secs(
            seconds * u64::from(number),
        ))),
    }
}

/// Where a process's time goes: laps that follow one another without a gap.
pub struct Laps {
    last: Instant,
    laps: Vec<(String, f64)>,
}

impl Laps {
    /// The first lap begins.
    #[allow(clippy::new_without_default)] // It is no neutral value: it reads the clock.
    pub fn new() -> Laps {
        Laps {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    /// A lap ends and the next begins.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64();
        self.laps.push((name.to_string(), seconds));
        self.last = now;
    }

    /// A lap ends whose parts are known; what they leave is `rest`.
    pub fn end_with_parts(&mut self, parts: &[(&str, f64)], rest: &str) {
        self.end(rest);
        let (name, whole) = self.laps.pop().expect("it just ended");
        let known: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let parts = parts
            .iter()
            .map(|&(name, seconds)| (name.to_string(), seconds));
        self.laps.extend(parts);
        self.laps.push((name, whole - known));
    }

    /// All laps and their sum.
    pub fn say(&self) {
        for (name, seconds) in &self.laps {
            say(format_args!("  {name:32} {:9.2} ms", 1e3 * seconds));
        }
        let sum: f64 = self.laps.iter().map(|(_, seconds)| seconds).sum();
        say(format_args!("  {:32} {:9.2} ms", "in all", 1e3 * sum));
    }
}

/// The most memory that the process holds beside its maps of files: pages of its own, which
/// Linux calls anonymous, looked at every millisecond.
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
    pub fn say(self) {
        drop(self.stop);
        if let Ok(Some(bytes)) = self.watcher.join() {
            let megabytes = bytes as f64 / 1e6;
            say(format_args!(
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

/// A bar with rate and time left on a terminal; nothing elsewhere.
pub fn progress(steps: u64, what: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len} {per_sec}, {eta} left {msg}")
            .expect("the template is valid");
    ProgressBar::new(steps).with_style(style).with_prefix(what)
}

/// clap's message without its pointer to `--help` and its colours.
fn first_paragraph(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or(message);
    paragraph.trim_start_matches("error: ").to_string()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
