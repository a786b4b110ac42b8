//! How the learning rate changes from epoch to epoch, by torch's definitions.

use std::fmt;

use crate::error::{Error, Result};

/// A factor of the learning rate for every epoch.
///
/// Warm-up is torch's `LinearLR` (a third of the rate at epoch 0, all of it after `warmup`
/// epochs); what follows starts there, as in torch's `SequentialLR`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub decay: Decay,
    /// Epochs of warm-up.
    pub warmup: usize,
}

/// What becomes of the rate after the warm-up; t counts epochs from there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Decay {
    /// Nothing.
    #[default]
    Constant,
    /// `StepLR`: `gamma^⌊t/size⌋`.
    Step {
        /// Epochs between changes.
        size: usize,
        /// Factor of each change.
        gamma: f64,
    },
    /// `CosineAnnealingLR` down to 0 over all T epochs after the warm-up: `(1 + cos(πt/T))/2`.
    Cosine,
}

impl Schedule {
    /// Refuse what cannot be computed.
    pub fn check(&self) -> Result<()> {
        match self.decay {
            Decay::Step { size: 0, .. } => Err(Error::options("`lr_step_size`", 0, "at least 1")),
            Decay::Step { gamma, .. } if !(gamma.is_finite() && gamma >= 0.0) => {
                let expected = "a finite number, 0 or above";
                Err(Error::options("`lr_gamma`", gamma, expected))
            }
            _ => Ok(()),
        }
    }

    /// The factor of epoch `epoch` (from 0) of `epochs`.
    pub fn factor(&self, epoch: usize, epochs: usize) -> f64 {
        if epoch < self.warmup {
            return (1.0 + 2.0 * epoch as f64 / self.warmup as f64) / 3.0;
        }
        let t = epoch - self.warmup;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Step { size, gamma } => gamma.powf((t / size) as f64),
            Decay::Cosine => {
                let share = t as f64 / (epochs - self.warmup) as f64;
                (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decay {
            Decay::Constant => f.write_str("constant")?,
            Decay::Step { size, gamma } => write!(f, "step (times {gamma} every {size} epochs)")?,
            Decay::Cosine => f.write_str("cosine")?,
        }
        match self.warmup {
            0 => Ok(()),
            epochs => write!(f, " after {epochs} epochs of warm-up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by `tools/schedules_golden.py`.
    #[rustfmt::skip]
    const TORCH: [(Decay, usize, [f64; 12]); 6] = [
        (Decay::Constant, 0, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (Decay::Constant, 4, [0.3333333333333333, 0.5, 0.6666666666666667, 0.8333333333333335, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (Decay::Step { size: 5, gamma: 0.3 }, 0, [1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.09, 0.09]),
        (Decay::Step { size: 5, gamma: 0.3 }, 4, [0.3333333333333333, 0.5, 0.6666666666666667, 0.8333333333333335, 1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3]),
        (Decay::Cosine, 0, [1.0, 0.9829629131445341, 0.9330127018922194, 0.8535533905932737, 0.75, 0.6294095225512604, 0.5, 0.3705904774487397, 0.2500000000000001, 0.14644660940672627, 0.06698729810778065, 0.0170370868554659]),
        (Decay::Cosine, 4, [0.3333333333333333, 0.5, 0.6666666666666667, 0.8333333333333335, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5, 0.30865828381745514, 0.14644660940672627, 0.03806023374435664]),
    ];

    #[test]
    fn factors_are_torchs() {
        for (decay, warmup, rates) in TORCH {
            let schedule = Schedule { decay, warmup };
            for (epoch, rate) in rates.into_iter().enumerate() {
                let factor = schedule.factor(epoch, rates.len());
                // torch multiplies rates along; these are the closed forms.
                assert!(
                    (factor - rate).abs() < 1e-14,
                    "{schedule}, {epoch}: {factor} {rate}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let check = |size, gamma| {
            let decay = Decay::Step { size, gamma };
            Schedule { decay, warmup: 0 }.check()
        };
        assert!(check(1, 0.0).is_ok());
        assert!(check(0, 0.1).is_err());
        assert!(check(1, f64::NAN).is_err());
        assert!(check(1, -0.1).is_err());
    }
}
