//! The certified model of an optimum: the f32 weight and bias of its coordinates, and their
//! objective, gradient and gap.

use std::borrow::Cow;

use super::Limit;
use super::path_solver::PathSolver;
use crate::design::centered::Precision;
use crate::error::Result;
use crate::linalg::vec::Real;
use crate::loss::Loss;
use crate::loss::risk::Risk;
use crate::model::{Logits, Model};
use crate::solver::certificate::{Certificate, Certifier};
use crate::solver::decrement::decrement;
use crate::solver::minimizer::separation;
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::report::{MeasuredOn, SolveReport, Status, StoppingCriteria};

/// FLOP of a product with X up to which the weight is computed and certified in f64 at once, which
/// takes a few milliseconds.
pub(super) const SMALL: f64 = 5e8;

/// A model with its certificate.
pub(super) struct Certified {
    pub(super) model: Model,
    pub(super) report: SolveReport,
    pub(super) limit: Option<Limit>,
    pub(super) logits: Logits,
}

impl<S: Problem> PathSolver<'_, '_, S> {
    /// Whether products with X in f64 cost a few milliseconds at most.
    pub(super) fn is_small(&self, risk: &Risk) -> bool {
        let x = self.design.x();
        let products = 2.0 * x.all_len() as f64 * x.all_features() as f64;
        products * risk.outputs() as f64 <= SMALL
    }

    /// The model of a point, with the point's bias.
    pub(super) fn model(&mut self, risk: &Risk, point: &Point<S::Real>) -> Result<Model> {
        let exact = self.is_small(risk);
        let weight = self.problem.weight(&point.w, self.design, exact)?;
        let shifts = self.problem.shifts(&weight, self.design);
        let bias = point
            .b
            .iter()
            .zip(shifts)
            .map(|(b, shift)| (b - shift) as f32);
        let lowest = lowest_maximum(risk, &point.z, &point.b);
        Ok(self.of_all_classes(risk, weight, bias.collect(), lowest))
    }

    /// A model with an output for every class; `lowest` as for [`of_all_classes`].
    pub(super) fn of_all_classes(
        &self,
        risk: &Risk,
        weight: Vec<f32>,
        bias: Vec<f32>,
        lowest: f64,
    ) -> Model {
        let classes = self.splits.train.classes();
        let point = Point {
            w: weight,
            b: bias.iter().map(|&b| b.into()).collect(),
            z: Vec::<f64>::new(),
        };
        let all = of_all_classes(&point, risk, classes, lowest);
        let bias = all.b.iter().map(|&b| b as f32).collect();
        let model = Model::new(all.w.clone(), bias).expect("the shape of the data");
        match self.design.x().shard() {
            Some(shard) => model.of_ranks(shard),
            None => model,
        }
    }

    /// The certified model of the point. `weight` is the weight of the point if it was computed
    /// before; its bias is the best one for that weight. If the f32 weight does not reach the
    /// tolerance, it is computed once more in f64.
    ///
    /// The gap's bound by the model's own gradient is far too large where features have large scales:
    /// rounding a weight to f32 hardly changes F, but it changes the gradient by the square of the
    /// scale. If it does not suffice, F is compared with the dual objective at the solver's point
    /// instead. Where rounding ended a solve whose products are small, it goes on in f64 first.
    pub(super) fn certify(
        &mut self,
        risk: &Risk,
        point: &Point<S::Real>,
        (l2, mut found): (f64, SolveReport),
        weight: Option<Vec<f32>>,
    ) -> Result<Certified> {
        let stop = StoppingCriteria {
            tolerance: self.options.tolerance,
            iterations: self.options.max_iterations,
        };
        let certifier = Certifier {
            design: self.design,
            deviation: self.deviation.as_deref(),
            risk,
            l2,
            tolerance: stop.largest_gap(1.0),
        };
        let measure = |problem: &mut S, weight: Vec<f32>, b: &[f64], exact: bool| {
            let precision = if exact {
                Precision::Double
            } else {
                Precision::Single
            };
            let square = |g: &[f64]| problem.adjoint_square(g);
            let certificate = certifier.certify(&weight, b, precision, square);
            (weight, certificate)
        };
        let falls_short = |certificate: &Certificate, status: Status| match status {
            Status::Converged if l2 > 0.0 => {
                let allowed = stop.largest_gap(certificate.objective);
                certificate.gap.is_none_or(|gap| gap > allowed)
            }
            Status::Separable => certificate.smallest_margin <= 0.0,
            _ => false,
        };
        let small = self.is_small(risk);
        let weight = match weight {
            Some(weight) => risk.rows_of_present(weight, self.design.mean().len()),
            None => self.problem.weight(&point.w, self.design, small)?,
        };
        let (mut weight, mut certificate) = measure(self.problem, weight, &point.b, small);
        if !small && falls_short(&certificate, found.status) {
            let exact = self.problem.weight(&point.w, self.design, true)?;
            (weight, certificate) = measure(self.problem, exact, &point.b, true);
        }
        let is_limited = found.status == Status::PrecisionLimited;
        // A gradient that was rounding counted as small.
        let is_rounding = found.status == Status::Converged
            && found.gradient_norm > stop.tolerance * found.initial_gradient_norm;
        let can_gain = is_limited || (small && is_rounding);
        if l2 > 0.0 && (can_gain || falls_short(&certificate, found.status)) {
            let left = StoppingCriteria {
                iterations: stop.iterations.saturating_sub(found.iterations),
                ..stop
            };
            let refined = if small {
                let (log, observer) = (&*self.log, &*self.observer);
                let x = self.design.x();
                let check_stop = &mut || x.agree(log.check(observer));
                (self.problem).refine(self.design, risk, l2, point, left, check_stop)?
            } else {
                None
            };
            let (logits, b) = match refined {
                None => (point.z.iter().map(|&z| z.into()).collect(), point.b.clone()),
                Some((refined, report)) => {
                    let exact = self.problem.weight(&refined.w, self.design, true)?;
                    let (exact, measured) = measure(self.problem, exact, &refined.b, true);
                    found.iterations += report.iterations;
                    // Rounding to f32 can cost a later point more than it gained.
                    if measured.objective <= certificate.objective {
                        (weight, certificate) = (exact, measured);
                    }
                    match report.status {
                        Status::Converged => found.status = Status::Converged,
                        Status::IterationLimit if found.iterations >= stop.iterations => {
                            found.status = Status::IterationLimit;
                        }
                        _ => {}
                    }
                    (refined.z, refined.b)
                }
            };
            let dual = certifier.dual(&logits, &b, |g| self.problem.adjoint_square(g));
            if let Some(dual) = dual {
                let gap = (certificate.objective - dual).max(0.0) + certificate.rounding;
                if gap.is_finite() && certificate.gap.is_none_or(|other| gap < other) {
                    certificate.gap = Some(gap);
                }
            }
            // Both tests of a converged fit hold, on the model itself.
            let is_flat = certificate.gradient_norm <= stop.tolerance * found.initial_gradient_norm;
            if is_limited && is_flat && !falls_short(&certificate, Status::Converged) {
                found.status = Status::Converged;
            }
        }
        // A solve that rounding ended may have left a model that is worse than none.
        if is_limited {
            let none = vec![0.0; weight.len()];
            let (none, measured) = measure(self.problem, none, &vec![0.0; point.b.len()], small);
            if measured.objective < certificate.objective {
                (weight, certificate) = (none, measured);
            }
        }
        let mut report = SolveReport {
            measured_on: MeasuredOn::Model,
            objective: certificate.objective,
            loss: certificate.loss,
            gradient_norm: certificate.gradient_norm,
            gap: certificate.gap,
            ..found
        };
        let is_end = !matches!(found.status, Status::Separable | Status::IterationLimit);
        if l2 == 0.0 && is_end {
            let allowed = separation::SURE * stop.largest_gap(report.objective);
            let logits = &certificate.logits;
            if let Some(exact) = decrement(self.design, risk, logits) {
                report.decrement = Some(exact.gain);
                report.separated_class = exact.separated_class;
                let is_minimum = exact.gain <= allowed && exact.step < separation::RUNNING;
                report.status = match exact.separated_class {
                    Some(_) => Status::QuasiSeparable,
                    None if is_minimum => Status::Converged,
                    None => Status::PrecisionLimited,
                };
            } else if found.status != Status::QuasiSeparable {
                let left = separation::decrement(self.problem, risk, logits, stop);
                report.decrement = left;
                if left.is_none_or(|left| left > allowed) {
                    report.status = Status::PrecisionLimited;
                }
            }
        }
        if falls_short(&certificate, found.status) {
            report.status = Status::PrecisionLimited;
        }
        let limit = (report.status == Status::PrecisionLimited).then_some(match found.status {
            Status::PrecisionLimited => Limit::Search,
            _ => Limit::Model,
        });
        let logits = Point {
            w: Vec::<f64>::new(),
            b: vec![0.0; risk.outputs()],
            z: certificate.logits,
        };
        let lowest = lowest_maximum(risk, &logits.z, &logits.b);
        let train = self.splits.train;
        let all = of_all_classes(&logits, risk, train.classes(), lowest);
        let of_outputs = all.z.chunks_exact(self.design.x().len()).zip(&all.b);
        let logits: Vec<Vec<f32>> = of_outputs
            .map(|(z, b)| z.iter().map(|z| (z + b) as f32).collect())
            .collect();
        Ok(Certified {
            model: self.of_all_classes(risk, weight, certificate.bias, lowest),
            report,
            limit,
            logits: Logits::new(all.b.len(), logits.concat()),
        })
    }
}

/// The smallest, over the rows, of the row's largest logit; 0 if all classes are fitted.
pub(super) fn lowest_maximum<T: Real>(risk: &Risk, z: &[T], b: &[f64]) -> f64 {
    match risk.present() {
        Some(_) => risk.lowest_maximum(z, b),
        None => 0.0,
    }
}

/// The point with an output for every class. A class that is not fitted gets W = 0 and a bias at
/// which its probability is below e⁻³⁷ in every row, so that it does not change sums in f64.
/// `lowest` is [`lowest_maximum`].
pub(super) fn of_all_classes<'p, W: Copy + Default, T: Real>(
    point: &'p Point<T, W>,
    risk: &Risk,
    classes: usize,
    lowest: f64,
) -> Cow<'p, Point<T, W>> {
    const NEVER: f64 = 37.0;
    let Some(present) = risk.present() else {
        return Cow::Borrowed(point);
    };
    let (coords, rows) = (point.w.len() / present.len(), point.z.len() / present.len());
    let outputs = Loss::for_classes(classes).outputs(classes);
    let mut all = Point {
        w: vec![W::default(); outputs * coords],
        // The margin of 1e-6 covers rounding to f32.
        b: vec![lowest - NEVER - 1e-6 * lowest.abs(); outputs],
        z: vec![T::default(); outputs * rows],
    };
    if outputs == 1 {
        // One of two classes is present.
        all.b[0] = if present == [1] { NEVER } else { -NEVER };
        return Cow::Owned(all);
    }
    for (j, &class) in present.iter().enumerate() {
        let class = class as usize;
        all.w[class * coords..][..coords].copy_from_slice(&point.w[j * coords..][..coords]);
        all.b[class] = point.b[j];
        all.z[class * rows..][..rows].copy_from_slice(&point.z[j * rows..][..rows]);
    }
    Cow::Owned(all)
}
