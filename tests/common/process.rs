//! Child processes: signals, output lines, and waiting with a time limit.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time after which a process is killed.
const BOUND: Duration = Duration::from_secs(60);

/// Wait until the process ends, at most [`BOUND`].
pub fn bounded(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > BOUND {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().unwrap()
}

/// Send a signal to a process that may have ended; returns whether it still existed.
pub fn signal(child: &Child, signal: &str) -> bool {
    let status = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// Read the standard output of the process up to a line that contains `part`.
pub fn wait_for_line(child: &mut Child, part: &str) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert!(
            stdout.read_line(&mut line).unwrap() > 0,
            "the process ended without printing {part:?}"
        );
    }
    // Read the rest, so that the process neither blocks nor meets a closed pipe.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
}
