//! Parsers of option values, for clap.

use std::time::Duration;

use crate::io::checkpoint::Every;
use crate::sgd::optimizer::LearningRate;

/// Parses a finite number.
pub fn finite(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) => Err(format!("found {value}, expected a finite number")),
        Err(_) => Err("expected a number such as 0.01 or 1e-4".to_string()),
    }
}

/// Parses the delimiter of a table: one character, or `tab`.
pub fn delimiter(text: &str) -> std::result::Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [b'"' | b'\r' | b'\n' | b'0'..=b'9' | b'.' | b'+' | b'-'] => {
            Err("expected a character that is no quote and no part of a number".to_string())
        }
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err("expected one character such as ; or tab".to_string()),
    }
}

/// Parses a finite number or `auto`.
pub fn learning_rate(text: &str) -> std::result::Result<LearningRate, String> {
    match text {
        "auto" => Ok(LearningRate::Auto),
        _ => match finite(text) {
            Ok(rate) => Ok(LearningRate::Fixed(rate)),
            Err(why) => Err(format!("{why}, or auto")),
        },
    }
}

/// A time such as 30s, 5m or 2h.
#[cfg(feature = "mpi")]
pub fn time(text: &str) -> std::result::Result<Duration, String> {
    match every(text) {
        Ok(Every::Time(time)) => Ok(time),
        _ => Err("expected a time such as 30s, 5m or 2h".to_string()),
    }
}

/// Parses a number of epochs, or a time such as 30s, 5m or 2h.
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
