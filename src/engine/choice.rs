//! Which engine: a model of cost in FLOPs and memory.

use std::fmt;

use crate::error::{Error, Result};

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The cheaper one that fits the memory.
    #[default]
    Auto,
    /// [`Gram`](super::Gram).
    Gram,
    /// [`Primal`](super::Primal).
    Primal,
}

/// An engine of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Gram`](super::Gram).
    Gram,
    /// [`Primal`](super::Primal).
    Primal,
}

impl Choice {
    /// Look a choice up: auto, gram or primal.
    pub fn named(name: &str) -> Result<Choice> {
        match name {
            "auto" => Ok(Choice::Auto),
            "gram" => Ok(Choice::Gram),
            "primal" => Ok(Choice::Primal),
            _ => Err(Error::options("--engine", name, "auto, gram or primal")),
        }
    }
}

/// What each engine would cost, and the one that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The chosen engine.
    pub engine: Kind,
    /// FLOP of the Gram engine: n²d (K) + 4ndc (Z0 and W) + 2n²c an epoch.
    pub gram_flop: f64,
    /// FLOP of the primal engine: 4ndc an epoch.
    pub primal_flop: f64,
    /// Bytes that making K takes: 12n², of which 4n² stay.
    pub gram_bytes: u128,
}

impl Plan {
    /// Choose for n rows, d features, c outputs, so many epochs and so much memory.
    ///
    /// # Errors
    /// [`Error::Options`] if the Gram engine is asked for and K does not fit: it says how
    /// many bytes it would take, and what fits.
    pub fn new(
        (n, d, c): (usize, usize, usize),
        epochs: usize,
        choice: Choice,
        available: Option<u64>,
    ) -> Result<Plan> {
        let gram_bytes = 12u128.saturating_mul(n as u128).saturating_mul(n as u128);
        let (rows, features, outputs) = (n as f64, d as f64, c as f64);
        let products = 4.0 * rows * features * outputs;
        let gram_flop =
            rows * rows * features + products + 2.0 * rows * rows * outputs * epochs as f64;
        let primal_flop = products * epochs as f64;
        let fits = gram_bytes <= isize::MAX as u128
            && available.is_none_or(|available| gram_bytes <= u128::from(available));
        let engine = match choice {
            Choice::Primal => Kind::Primal,
            Choice::Gram if fits => Kind::Gram,
            Choice::Gram => {
                let memory = match available {
                    Some(bytes) => format!("{bytes} bytes are available"),
                    None => "no address space holds them".to_string(),
                };
                return Err(Error::options(
                    "--engine",
                    format!(
                        "gram, whose matrix of {n} x {n} takes {gram_bytes} bytes, and {memory}"
                    ),
                    "primal (or auto), which needs no such matrix",
                ));
            }
            Choice::Auto if fits && gram_flop < primal_flop => Kind::Gram,
            Choice::Auto => Kind::Primal,
        };
        Ok(Plan {
            engine,
            gram_flop,
            primal_flop,
            gram_bytes,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gram, primal) = (self.gram_flop / 1e9, self.primal_flop / 1e9);
        match self.engine {
            Kind::Gram => write!(f, "gram: {gram:.3} GFLOP instead of {primal:.3}"),
            Kind::Primal => write!(f, "primal: {primal:.3} GFLOP (gram: {gram:.3})"),
        }
    }
}

/// Bytes of memory that can still be had, where the system tells it.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let free = kilobytes.checked_mul(1024)?;
    // A container's limit, where there is one.
    let read = |path| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let limit = read("/sys/fs/cgroup/memory.max");
    let used = read("/sys/fs/cgroup/memory.current").unwrap_or(0);
    Some(limit.map_or(free, |limit| free.min(limit.saturating_sub(used))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_engine_that_fits() {
        let wide = (1020, 49152, 102);
        let plan = |shape, epochs, choice, memory| Plan::new(shape, epochs, choice, memory);
        let fast = plan(wide, 250, Choice::Auto, None).unwrap();
        assert_eq!(fast.engine, Kind::Gram);
        assert_eq!(fast.gram_bytes, 12 * 1020 * 1020);
        assert!(fast.primal_flop > 40.0 * fast.gram_flop);
        assert!(fast.to_string().starts_with("gram: 124."), "{fast}");
        let engine =
            |shape, epochs, choice, memory| plan(shape, epochs, choice, memory).unwrap().engine;
        assert_eq!(engine(wide, 1, Choice::Auto, None), Kind::Primal);
        assert_eq!(
            engine(wide, 250, Choice::Auto, Some(12_000_000)),
            Kind::Primal
        );
        assert_eq!(engine(wide, 250, Choice::Primal, None), Kind::Primal);
        assert_eq!(engine(wide, 1, Choice::Gram, None), Kind::Gram);
        assert_eq!(
            engine((60_000, 784, 10), 100, Choice::Auto, None),
            Kind::Primal
        );
        let error = plan((1 << 20, 10, 1), 1, Choice::Gram, Some(1 << 30)).unwrap_err();
        assert!(
            error.to_string().contains("13194139533312 bytes"),
            "{error}"
        );
        assert!(error.to_string().contains("primal"), "{error}");
        assert!(plan((usize::MAX, 10, 1), 1, Choice::Gram, None).is_err());
    }
}
