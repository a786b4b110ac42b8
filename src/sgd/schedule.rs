//! Learning rate schedules, by the definitions of torch.

use std::fmt;

use crate::error::{Error, Result};

/// The factor of the learning rate in each epoch.
///
/// The warm-up is torch's `LinearLR` (from 1/3 at epoch 0 to 1 after `warmup` epochs). The decay
/// starts after it, as in torch's `SequentialLR`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The decay after the warm-up.
    pub decay: Decay,
    /// Number of epochs of warm-up.
    pub warmup: usize,
}

/// The factor of the learning rate t epochs after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Decay {
    /// 1.
    #[default]
    Constant,
    /// `StepLR`: `gamma^⌊t/size⌋`.
    Step {
        /// Number of epochs between changes.
        size: usize,
        /// Factor of each change.
        gamma: f64,
    },
    /// `CosineAnnealingLR` to 0 after all T epochs that follow the warm-up: `(1 + cos(πt/T))/2`.
    Cosine,
}

impl Schedule {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Options`] for a step size of 0, or a gamma that is negative or not finite.
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
    fn factors_equal_those_of_torch() {
        for (decay, warmup, rates) in TORCH {
            let schedule = Schedule { decay, warmup };
            for (epoch, rate) in rates.into_iter().enumerate() {
                let factor = schedule.factor(epoch, rates.len());
                // Torch updates the rate in every epoch; `factor` uses the closed forms.
                assert!(
                    (factor - rate).abs() < 1e-14,
                    "{schedule}, {epoch}: {factor} {rate}"
                );
            }
        }
    }

    #[test]
    fn invalid_parameters_are_rejected() {
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
