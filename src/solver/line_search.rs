//! Line search on a convex objective with known slope.

/// Sufficient decrease (Armijo 1966): share of the decrease predicted by the slope.
const C1: f64 = 1e-4;

/// Curvature condition (Wolfe 1969): largest share of the initial slope. It is small because an
/// evaluation costs little compared with a direction, and exact steps keep directions conjugate.
const C2: f64 = 0.05;

/// Maximum number of evaluations after the first acceptable point.
const MAX_EVALS: usize = 8;

/// Shortest step tried.
const SHORTEST: f64 = 1e-12;

/// The objective at a point of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinePoint {
    pub t: f64,
    pub objective: f64,
    pub slope: f64,
}

impl LinePoint {
    /// The minimum of the cubic through this point and `end` (Nocedal and Wright, 3.59), as a
    /// share of their distance.
    fn cubic_step(self, end: LinePoint) -> f64 {
        let length = end.t - self.t;
        let (a, b) = (self.slope * length, end.slope * length);
        let d1 = a + b - 3.0 * (end.objective - self.objective);
        let d2 = (d1 * d1 - a * b).max(0.0).sqrt();
        1.0 - (b + d2 - d1) / (b - a + 2.0 * d2)
    }

    /// The zero of the slope, extrapolated linearly from `before` and this point; infinity if the
    /// slope does not rise.
    fn secant_step(self, before: LinePoint) -> f64 {
        if before.slope < self.slope {
            self.t + self.slope * (self.t - before.t) / (before.slope - self.slope)
        } else {
            f64::INFINITY
        }
    }
}

/// Returns a step length t that satisfies the strong Wolfe conditions (Nocedal and Wright, section
/// 3.1), or that of the lowest point evaluated; `None` if the objective decreases at none. The
/// first t is 1. At `start` t is 0 and the slope negative.
pub(super) fn line_search(start: LinePoint, at: impl Fn(f64) -> LinePoint) -> Option<f64> {
    // The bracket of the minimum.
    let (mut low, mut high) = (start, None);
    let mut best: Option<LinePoint> = None;
    let (mut t, mut evals) = (1.0, 0);
    while evals < MAX_EVALS && t > SHORTEST {
        let here = at(t);
        let fell = here.objective <= start.objective + C1 * t * start.slope;
        if fell && here.slope.abs() <= -C2 * start.slope {
            return Some(t);
        }
        if fell && best.is_none_or(|best| here.objective < best.objective) {
            best = Some(here);
        }
        let before = low;
        if fell && here.slope < 0.0 {
            low = here
        } else {
            high = Some(here)
        }
        let most = if best.is_some() { 0.9 } else { 0.5 };
        t = match high {
            Some(high) => {
                let share = low.cubic_step(high);
                let share = if share.is_finite() { share } else { 0.0 };
                low.t + share.clamp(0.1, most) * (high.t - low.t)
            }
            None => low.secant_step(before).clamp(1.1 * t, 4.0 * t),
        };
        evals += usize::from(best.is_some());
    }
    best.map(|best| best.t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Convex lines that saturate, grow exponentially or do neither, with minima at 1e-4 to
        /// 1e3.
        #[test]
        fn line_search_reaches_the_minimum_in_few_evaluations(
            lowest in -4.0f64..3.0, square in 0.0f64..2.0, cosh in 0.0f64..2.0,
            softplus in 0.0f64..2.0, steep in -1.0f64..2.0,
        ) {
            let lowest = 10f64.powf(lowest);
            let steep = 10f64.powf(steep) / lowest;
            prop_assume!(square + cosh + softplus > 1e-3);
            let evals = std::cell::Cell::new(0);
            let at = |t: f64| {
                evals.set(evals.get() + 1);
                let u = t - lowest;
                let bend = 2.0 / (1.0 + (-steep * u).exp()) - 1.0;
                LinePoint {
                    t,
                    objective: square * u * u / 2.0 / lowest.powi(2) + cosh * (u / lowest).cosh()
                        + softplus * (2.0 * (steep * u).exp().ln_1p() - steep * u),
                    slope: square * u / lowest.powi(2) + cosh * (u / lowest).sinh() / lowest
                        + softplus * steep * bend,
                }
            };
            let start = at(0.0);
            let t = line_search(start, at).unwrap();
            prop_assert!(evals.get() <= 20, "{} evaluations", evals.get());
            let (end, lowest) = (at(t), at(lowest));
            let left = (end.objective - lowest.objective) / (start.objective - lowest.objective);
            prop_assert!(left <= 0.05, "{left}: {end:?} of {start:?}");
        }
    }

    #[test]
    fn line_search_returns_none_without_a_decrease() {
        let at = |t: f64| LinePoint {
            t,
            objective: if t > 0.0 { f64::NAN } else { 1.0 },
            slope: -1.0,
        };
        assert_eq!(line_search(at(0.0), at), None);
    }
}
