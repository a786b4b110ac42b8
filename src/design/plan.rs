//! The choice of the engine, by a model of its cost in FLOP and memory.

use std::fmt;

use crate::design::gram_products::SLAB_BYTES;
use crate::error::{Error, Result};

/// The engine that a fit is to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The cheaper one that fits the memory.
    #[default]
    Auto,
    /// [`GramParameters`](crate::sgd::gram::GramParameters).
    Gram,
    /// [`DenseParameters`](crate::sgd::dense::DenseParameters).
    Primal,
}

/// The engine that a fit uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// [`GramParameters`](crate::sgd::gram::GramParameters).
    Gram,
    /// [`DenseParameters`](crate::sgd::dense::DenseParameters).
    Primal,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Gram => "gram",
            EngineKind::Primal => "primal",
        })
    }
}

/// The size of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// n: number of rows.
    pub rows: usize,
    /// m: number of validation rows, 0 if there are none.
    pub validation_rows: usize,
    /// d: number of features.
    pub features: usize,
    /// c: number of outputs.
    pub outputs: usize,
}

impl EngineChoice {
    /// The choice called `name`: auto, gram or primal.
    ///
    /// # Errors
    /// [`Error::Options`] for another name.
    pub fn named(name: &str) -> Result<EngineChoice> {
        match name {
            "auto" => Ok(EngineChoice::Auto),
            "gram" => Ok(EngineChoice::Gram),
            "primal" => Ok(EngineChoice::Primal),
            _ => Err(Error::options("`engine`", name, "auto, gram or primal")),
        }
    }
}

/// The cost of each engine, and the chosen one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The chosen engine.
    pub engine: EngineKind,
    /// FLOP of the Gram engine: n²d + 2nmd (K, K_val) + 2(2n + m)dc (Z0, Z0_val and W)
    /// + 2n(n + m)c per epoch.
    pub gram_flop: f64,
    /// FLOP of the primal engine: 2(2n + m)dc per epoch.
    pub primal_flop: f64,
    /// Whether K fits the memory and, once it is computed, the range of f32.
    pub gram_fits: bool,
    /// Bytes needed to compute K and K_val: 12n(n + m), of which a third remains, and a slab of the
    /// rows.
    pub gram_bytes: u128,
}

impl Plan {
    /// The plan for a shape, a number of epochs, the caller's choice, and the available memory in
    /// bytes (`None` if it is unknown). `Auto` is the engine of fewer FLOP, Gram only if K fits.
    ///
    /// # Errors
    /// [`Error::Memory`] if `choice` is Gram and K does not fit.
    pub fn new(
        shape: Shape,
        epochs: usize,
        choice: EngineChoice,
        available: Option<u64>,
    ) -> Result<Plan> {
        let (n, m) = (shape.rows as u128, shape.validation_rows as u128);
        let slab = shape.features.saturating_mul(4).min(SLAB_BYTES) as u128;
        let gram_bytes = (n + m).saturating_mul(n.saturating_mul(12).saturating_add(slab));
        let [n, m, d, c, epochs] = [
            shape.rows,
            shape.validation_rows,
            shape.features,
            shape.outputs,
            epochs,
        ]
        .map(|size| size as f64);
        let products = 2.0 * (2.0 * n + m) * d * c;
        let gram_flop = n * (n + 2.0 * m) * d + products + 2.0 * n * (n + m) * c * epochs;
        let primal_flop = products * epochs;
        let fits = gram_bytes <= isize::MAX as u128
            && available.is_none_or(|available| gram_bytes <= u128::from(available));
        let engine = match choice {
            EngineChoice::Primal => EngineKind::Primal,
            EngineChoice::Gram if fits => EngineKind::Gram,
            EngineChoice::Gram => {
                let memory = match available {
                    Some(bytes) => format!("{bytes} bytes are available"),
                    None => "no address space holds them".to_string(),
                };
                let n = shape.rows;
                return Err(Error::memory(
                    "`engine`",
                    format!(
                        "gram, whose matrix of {n} x {n} takes {gram_bytes} bytes, and {memory}"
                    ),
                    "primal (or auto), which needs no such matrix",
                ));
            }
            EngineChoice::Auto if fits && gram_flop < primal_flop => EngineKind::Gram,
            EngineChoice::Auto => EngineKind::Primal,
        };
        Ok(Plan {
            engine,
            gram_flop,
            primal_flop,
            gram_fits: fits,
            gram_bytes,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gram, primal) = (self.gram_flop / 1e9, self.primal_flop / 1e9);
        match self.engine {
            EngineKind::Gram if gram < primal => {
                write!(f, "gram: {gram:.3} GFLOP instead of {primal:.3}")
            }
            EngineKind::Gram => write!(f, "gram: {gram:.3} GFLOP (primal: {primal:.3})"),
            EngineKind::Primal if self.gram_fits => {
                write!(f, "primal: {primal:.3} GFLOP (gram: {gram:.3})")
            }
            EngineKind::Primal => write!(
                f,
                "primal: {primal:.3} GFLOP (gram: {gram:.3}, but its {} bytes do not fit the memory, or its products do not fit f32)",
                self.gram_bytes
            ),
        }
    }
}

/// Available memory in bytes; `None` if the system does not report it.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let free = kilobytes.checked_mul(1024)?;
    // The limit of a container, if there is one.
    let read = |path| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let limit = read("/sys/fs/cgroup/memory.max");
    let used = read("/sys/fs/cgroup/memory.current").unwrap_or(0);
    // Pages of files, the mapped X among them, count as used but can be dropped.
    let stat = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    let files = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    let files: u64 = files
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0);
    let left = |limit: u64| limit.saturating_sub(used.saturating_sub(files));
    Some(limit.map_or(free, |limit| free.min(left(limit))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_chooses_the_cheaper_engine_that_fits_the_memory() {
        let shape = |rows, validation_rows, features, outputs| Shape {
            rows,
            validation_rows,
            features,
            outputs,
        };
        let wide = shape(1020, 0, 49152, 102);
        let fast = Plan::new(wide, 250, EngineChoice::Auto, None).unwrap();
        assert_eq!(fast.engine, EngineKind::Gram);
        assert_eq!(fast.gram_bytes, 1020 * (12 * 1020 + 16384));
        assert!(fast.primal_flop > 40.0 * fast.gram_flop);
        assert!(fast.to_string().starts_with("gram: 124."), "{fast}");
        let engine = |shape, epochs, choice, memory| {
            Plan::new(shape, epochs, choice, memory).unwrap().engine
        };
        assert_eq!(
            engine(wide, 1, EngineChoice::Auto, None),
            EngineKind::Primal
        );
        let little = Some(12_000_000);
        let tight = Plan::new(wide, 250, EngineChoice::Auto, little).unwrap();
        assert_eq!((tight.engine, tight.gram_fits), (EngineKind::Primal, false));
        assert!(tight.to_string().contains("do not fit"), "{tight}");
        assert_eq!(
            engine(wide, 250, EngineChoice::Primal, None),
            EngineKind::Primal
        );
        assert_eq!(engine(wide, 1, EngineChoice::Gram, None), EngineKind::Gram);
        let tall = shape(60_000, 0, 784, 10);
        assert_eq!(
            engine(tall, 100, EngineChoice::Auto, None),
            EngineKind::Primal
        );
        // Validation rows count as well.
        let validated =
            Plan::new(shape(1020, 6149, 49152, 102), 250, EngineChoice::Auto, None).unwrap();
        assert_eq!(validated.gram_bytes, 7169 * (12 * 1020 + 16384));
        assert!(validated.gram_flop > 5.0 * fast.gram_flop);
        let error = Plan::new(
            shape(1 << 20, 0, 10, 1),
            1,
            EngineChoice::Gram,
            Some(1 << 30),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("13194181476352 bytes"),
            "{error}"
        );
        assert!(error.to_string().contains("primal"), "{error}");
        assert!(
            Plan::new(
                shape(usize::MAX, usize::MAX, 10, 1),
                1,
                EngineChoice::Gram,
                None
            )
            .is_err()
        );
    }
}
