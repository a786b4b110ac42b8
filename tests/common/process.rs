//! Processes that are watched, signalled and waited for, but not for ever.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest life of a process.
const BOUND: Duration = Duration::from_secs(60);

/// Wait for the end.
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

/// Send a signal to a process that may have ended; whether it was there.
pub fn signal(child: &Child, signal: &str) -> bool {
    let status = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// Read what the process says up to a line with this in it.
pub fn wait_for_line(child: &mut Child, part: &str) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert!(
            stdout.read_line(&mut line).unwrap() > 0,
            "{part:?} was not said"
        );
    }
    // The rest must not block it, nor its reader be gone.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
}
