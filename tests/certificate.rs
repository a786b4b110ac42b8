//! What a converged fit says of its model is true of the model's f32 weights, over the rows as
//! they are stored: held to the definition in f64 and to an optimum found there by another way.

mod common;

use common::uniform;
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use flowreg::converge::{ConvergeOptions, Converged, Optimizer, Penalty, converge};
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::engine::Choice;
use flowreg::optim::descent::{MeasuredOn, Status};
use flowreg::weighting::Weighting;
use flowreg::{Model, Samples};
use proptest::prelude::*;

/// Rows of an awkward kind with labels that a linear model can half learn.
#[derive(Clone, Debug)]
struct Awkward {
    n: usize,
    d: usize,
    classes: usize,
    x: Vec<f32>,
    labels: Vec<i64>,
    weights: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Values of one size.
    Plain,
    /// A few rows, and combinations of them.
    Dependent,
    /// Some rows stand there again, with other labels.
    Repeated,
    /// Every feature has a scale of its own, from 1e-6 to 1e6.
    Scales,
    /// Some features are constant, others nearly.
    Constants,
    /// Whole numbers from 0 to 1e5.
    Counts,
    /// Bytes over 255.
    Bytes,
    /// Far from 0, beside how they differ.
    Shifted,
}

const KINDS: [Kind; 8] = [
    Kind::Plain,
    Kind::Dependent,
    Kind::Repeated,
    Kind::Scales,
    Kind::Constants,
    Kind::Counts,
    Kind::Bytes,
    Kind::Shifted,
];

impl Awkward {
    fn new(kind: Kind, n: usize, d: usize, classes: usize, seed: u32) -> Awkward {
        let mut uniform = uniform(seed);
        let mut x: Vec<f32> = (0..n * d).map(|_| 2.0 * uniform() - 1.0).collect();
        match kind {
            Kind::Plain => {}
            Kind::Dependent => {
                let rank = 1 + (uniform() * (n as f32 / 3.0)) as usize;
                for i in rank..n {
                    let (a, b) = (uniform(), uniform() - 0.5);
                    let (p, q) = (i % rank, (i * 7 + 3) % rank);
                    for k in 0..d {
                        x[i * d + k] = a * x[p * d + k] + b * x[q * d + k];
                    }
                }
                x.iter_mut().for_each(|x| *x *= 100.0);
            }
            Kind::Repeated => {
                for i in (2..n).step_by(3) {
                    let from = (uniform() * i as f32) as usize;
                    x.copy_within(from * d..(from + 1) * d, i * d);
                }
            }
            Kind::Scales => {
                let scales: Vec<f32> = (0..d).map(|_| 10f32.powf(12.0 * uniform() - 6.0)).collect();
                (0..n * d).for_each(|at| x[at] *= scales[at % d]);
            }
            Kind::Constants => {
                for k in (0..d).step_by(2) {
                    let value = 10f32.powf(4.0 * uniform() - 2.0);
                    for i in 0..n {
                        let moved = k % 4 == 0 && i % 5 == 0;
                        x[i * d + k] = if moved { value * (1.0 + 1e-6) } else { value };
                    }
                }
            }
            Kind::Counts => x.iter_mut().for_each(|x| *x = (1e5 * x.powi(4)).round()),
            Kind::Bytes => x
                .iter_mut()
                .for_each(|x| *x = (127.5 * (*x + 1.0)).round() / 255.0),
            Kind::Shifted => {
                let far = 10f32.powf(1.0 + 3.0 * uniform());
                x.iter_mut().for_each(|x| *x += far);
            }
        }
        let spread: Vec<(f32, f32)> = (0..d)
            .map(|k| {
                let column = || (0..n).map(|i| x[i * d + k]);
                let low = column().fold(f32::INFINITY, f32::min);
                (low, column().fold(f32::NEG_INFINITY, f32::max) - low)
            })
            .collect();
        let mut labels: Vec<i64> = (0..n)
            .map(|i| {
                let k = seed as usize % d;
                let (low, width) = spread[k];
                let lean = (x[i * d + k] - low) / width.max(f32::MIN_POSITIVE) * classes as f32;
                let noise = uniform() * classes as f32;
                let value = if uniform() < 0.7 { lean } else { noise };
                (value as i64).clamp(0, classes as i64 - 1)
            })
            .collect();
        // Sometimes a class of one row, sometimes none of it.
        if seed % 4 == 1 {
            let last = classes as i64 - 1;
            labels
                .iter_mut()
                .for_each(|label| *label = (*label).min(last - 1));
            if seed % 8 == 1 {
                labels[n / 2] = last;
            }
        }
        let weights: Vec<f64> = match seed % 3 {
            0 => vec![1.0; n],
            1 => (0..n).map(|_| f64::from(uniform()) + 0.1).collect(),
            _ => (0..n).map(|i| (i % 4) as f64).collect(),
        };
        // Two classes that count.
        (labels[0], labels[1]) = (0, 1);
        let mut weights = weights;
        (weights[0], weights[1]) = (1.0, 1.0);
        // Rows without a weight may hold anything.
        if seed.is_multiple_of(5) {
            for i in (0..n).filter(|&i| weights[i] == 0.0) {
                x[i * d..(i + 1) * d]
                    .iter_mut()
                    .for_each(|x| *x = 1e6 * (*x + 1.0));
            }
        }
        Awkward {
            n,
            d,
            classes,
            x,
            labels,
            weights,
        }
    }

    fn samples(&self) -> Samples<'_> {
        Samples::new(&self.x, self.d, &self.labels, self.classes).unwrap()
    }

    fn fit(&self, options: &ConvergeOptions) -> Converged {
        let mut options = options.clone();
        options.weighting = Weighting {
            samples: Some(self.weights.clone()),
            ..Weighting::default()
        };
        converge(&self.samples(), &options, &mut |_| {}).unwrap()
    }

    /// σ of every feature while fitting.
    fn deviation(&self, standardize: Standardize) -> Vec<f64> {
        let scaler = Scaler::new(self.samples().x(), Some(&self.weights), standardize).unwrap();
        scaler.deviation().to_vec()
    }

    /// The mean loss of logits z(row, output), by its definition, small losses with their digits.
    fn loss(&self, outputs: usize, z: impl Fn(usize, usize) -> f64) -> f64 {
        let total: f64 = self.weights.iter().sum();
        let of_row = |i: usize| -> f64 {
            let label = self.labels[i] as usize;
            let z: Vec<f64> = (0..outputs).map(|j| z(i, j)).collect();
            let margins: Vec<f64> = match outputs {
                1 => vec![if label == 1 { -z[0] } else { z[0] }],
                _ => (0..outputs)
                    .filter(|&j| j != label)
                    .map(|j| z[j] - z[label])
                    .collect(),
            };
            let top = margins.iter().copied().fold(0.0, f64::max);
            let rest: f64 = margins.iter().map(|m| (m - top).exp()).sum();
            match top > 0.0 {
                true => top + (rest + (-top).exp()).ln(),
                false => rest.ln_1p(),
            }
        };
        (0..self.n)
            .filter(|&i| self.weights[i] > 0.0)
            .map(|i| self.weights[i] / total * of_row(i))
            .sum()
    }

    /// A logit of a model, in f64.
    fn logit(&self, model: &Model, i: usize, j: usize) -> f64 {
        let x = &self.x[i * self.d..][..self.d];
        let products = model.weight().row(j).iter().zip(x);
        products
            .map(|(&w, &x)| f64::from(w) * f64::from(x))
            .sum::<f64>()
            + f64::from(model.bias()[j])
    }

    /// The largest sum, over all logits, of their terms' sizes.
    fn largest_terms(&self, model: &Model) -> f64 {
        let terms = |i: usize, j: usize| -> f64 {
            let x = &self.x[i * self.d..][..self.d];
            let products = model.weight().row(j).iter().zip(x);
            products
                .map(|(&w, &x)| (f64::from(w) * f64::from(x)).abs())
                .sum()
        };
        let all = (0..self.n).flat_map(|i| (0..model.bias().len()).map(move |j| (i, j)));
        all.map(|(i, j)| terms(i, j)).fold(0.0, f64::max)
    }

    /// Whether a model predicts the labels of all rows that count, in f64.
    fn is_separated(&self, model: &Model) -> bool {
        (0..self.n).filter(|&i| self.weights[i] > 0.0).all(|i| {
            let label = self.labels[i] as usize;
            match model.bias().len() {
                1 => (self.logit(model, i, 0) > 0.0) == (label == 1),
                c => (0..c)
                    .filter(|&j| j != label)
                    .all(|j| self.logit(model, i, j) < self.logit(model, i, label)),
            }
        })
    }

    /// F of a model, in f64.
    fn objective(&self, model: &Model, l2: f64, deviation: &[f64]) -> f64 {
        let d = self.d;
        let weight = model.weight();
        let z = |i: usize, j: usize| self.logit(model, i, j);
        let values = weight.as_slice().iter().enumerate();
        let square: f64 = values
            .map(|(at, &w)| (f64::from(w) * deviation[at % d]).powi(2))
            .sum();
        self.loss(model.bias().len(), z) + 0.5 * l2 * square
    }

    /// min F by Newton's method with the whole Hessian in f64, on columns brought to one scale.
    fn optimum(&self, l2: f64, deviation: &[f64]) -> f64 {
        let (n, d) = (self.n, self.d);
        let c = if self.classes == 2 { 1 } else { self.classes };
        let total: f64 = self.weights.iter().sum();
        let share: Vec<f64> = self.weights.iter().map(|w| w / total).collect();
        let x = |i: usize, k: usize| f64::from(self.x[i * d + k]);
        let mut a = vec![1.0; n * (d + 1)];
        let mut penalty = vec![0.0; d + 1];
        for k in 0..d {
            let first = x(0, k);
            let mean = first + (0..n).map(|i| share[i] * (x(i, k) - first)).sum::<f64>();
            let square: f64 = (0..n).map(|i| share[i] * (x(i, k) - mean).powi(2)).sum();
            let scale = if square > 0.0 { square.sqrt() } else { 1.0 };
            (0..n).for_each(|i| a[i * (d + 1) + k] = (x(i, k) - mean) / scale);
            penalty[k] = l2 * (deviation[k] / scale).powi(2);
        }
        let m = d + 1;
        let logits = |theta: &[f64], i: usize, j: usize| -> f64 {
            (0..m).map(|k| theta[j * m + k] * a[i * m + k]).sum()
        };
        let f = |theta: &[f64]| {
            let square: f64 = (0..c * m)
                .map(|at| penalty[at % m] * theta[at].powi(2))
                .sum();
            self.loss(c, |i, j| logits(theta, i, j)) + 0.5 * square
        };
        let mut theta = vec![0.0; c * m];
        let mut lowest = f(&theta);
        for _ in 0..200 {
            let mut gradient: Vec<f64> = (0..c * m).map(|at| penalty[at % m] * theta[at]).collect();
            let mut hessian = Mat::<f64>::zeros(c * m, c * m);
            (0..c * m).for_each(|at| hessian[(at, at)] = penalty[at % m]);
            for i in (0..n).filter(|&i| share[i] > 0.0) {
                let z: Vec<f64> = (0..c).map(|j| logits(&theta, i, j)).collect();
                let top = z.iter().copied().fold(0.0, f64::max);
                let base = if c == 1 { (-top).exp() } else { 0.0 };
                let sum: f64 = base + z.iter().map(|z| (z - top).exp()).sum::<f64>();
                let p: Vec<f64> = z.iter().map(|z| (z - top).exp() / sum).collect();
                for j in 0..c {
                    let own = if c == 1 { 1 } else { j as i64 };
                    let target = f64::from(u8::from(self.labels[i] == own));
                    let g = share[i] * (p[j] - target);
                    (0..m).for_each(|k| gradient[j * m + k] += g * a[i * m + k]);
                    for l in 0..c {
                        let diagonal = f64::from(u8::from(j == l));
                        let h = share[i] * p[j] * (diagonal - p[l]);
                        for k in 0..m {
                            for q in 0..m {
                                hessian[(j * m + k, l * m + q)] += h * a[i * m + k] * a[i * m + q];
                            }
                        }
                    }
                }
            }
            let most = (0..c * m).map(|at| hessian[(at, at)]).fold(0.0, f64::max);
            let side = Mat::<f64>::from_fn(c * m, 1, |at, _| -gradient[at]);
            // Where nothing is separated any further the Hessian is 0.
            if most < 1e-18 {
                break;
            }
            let mut ridge = 1e-15 * most;
            let step = loop {
                let mut h = hessian.clone();
                (0..c * m).for_each(|at| h[(at, at)] += ridge);
                if let Ok(factor) = h.llt(Side::Lower) {
                    break factor.solve(&side);
                }
                ridge *= 10.0;
            };
            let step: Vec<f64> = (0..c * m).map(|at| step[(at, 0)]).collect();
            let decrement: f64 = -gradient.iter().zip(&step).map(|(g, s)| g * s).sum::<f64>();
            let mut t = 1.0;
            let moved = |t: f64| -> Vec<f64> {
                theta
                    .iter()
                    .zip(&step)
                    .map(|(theta, step)| theta + t * step)
                    .collect()
            };
            let fell = |t: f64| {
                let here = f(&moved(t));
                here.is_finite() && here <= lowest - 1e-4 * t * decrement + 1e-17
            };
            while t > 1e-12 && !fell(t) {
                t /= 2.0;
            }
            if t <= 1e-12 {
                break;
            }
            let before = lowest;
            theta = moved(t);
            lowest = f(&theta);
            if decrement < 1e-26 || before <= lowest && decrement < 1e-18 {
                break;
            }
        }
        lowest
    }
}

/// What a fit says against what is so.
fn hold(
    problem: &Awkward,
    options: &ConvergeOptions,
    l2: f64,
    optimum: f64,
) -> Result<(), TestCaseError> {
    let deviation = problem.deviation(options.standardize);
    let fit = problem.fit(options);
    let outcome = fit.outcome;
    let context = format!(
        "{:?} {:?} {:?} l2 {l2:e} tolerance {:e}: optimum {optimum:e}, {outcome:?}",
        options.engine, options.optimizer, options.standardize, options.tolerance
    );
    prop_assert!(outcome.measured_on == MeasuredOn::Model);
    let values = fit.model.weight().as_slice().iter().chain(fit.model.bias());
    prop_assert!({ values }.all(|v| v.is_finite()), "{context}");
    let file = problem.objective(&fit.model, l2, &deviation);
    let off = (file - outcome.objective).abs();
    // A class that no row names keeps a probability of e^-37.
    prop_assert!(
        off <= 1e-6 * file + 1e-14,
        "file {file:e}, off {off:e}, {context}"
    );
    let above = file - optimum;
    // The definition in f64 has rounding, too: of the optimum, and of logits whose terms cancel.
    let rounding = 1e-12 * optimum + 1e-14 + 1e-15 * problem.largest_terms(&fit.model);
    if let Some(gap) = outcome.gap {
        prop_assert!(above <= gap + rounding, "{above:e} above, {context}");
    }
    match outcome.status {
        Status::Converged => {
            prop_assert!(l2 == 0.0 || outcome.gap.is_some(), "{context}");
            let allowed = 100.0 * options.tolerance * optimum;
            prop_assert!(above <= allowed + rounding, "{above:e} above, {context}");
        }
        Status::Separable => {
            prop_assert!(l2 == 0.0 && problem.is_separated(&fit.model), "{context}");
        }
        Status::QuasiSeparable => prop_assert!(l2 == 0.0, "{context}"),
        Status::PrecisionLimited | Status::IterationLimit => {}
    }
    Ok(())
}

fn penalties() -> impl Strategy<Value = f64> {
    prop_oneof![
        2 => Just(0.0),
        6 => (-6.0f64..1.0).prop_map(|e| 10f64.powf(e)),
        1 => (1.0f64..6.0).prop_map(|e| 10f64.powf(e)),
    ]
}

/// Cases: FLOWREG_CASES, or few.
fn cases() -> u32 {
    let text = std::env::var("FLOWREG_CASES");
    text.map_or(500, |text| text.parse().expect("FLOWREG_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_is_said_is_true_of_the_model(
        kind in prop::sample::select(&KINDS[..]), n in 6usize..28, d in 1usize..20,
        classes in 2usize..5, seed in any::<u32>(), l2 in penalties(),
        tolerance in prop::sample::select(&[1e-5, 1e-6, 1e-7][..]),
        standardize in prop::sample::select(&[Standardize::None, Standardize::None, Standardize::Scale, Standardize::Both][..]),
    ) {
        let problem = Awkward::new(kind, n, d, classes, seed);
        let optimum = problem.optimum(l2, &problem.deviation(standardize));
        for engine in [Choice::Gram, Choice::Primal] {
            if engine == Choice::Gram && n > d {
                continue;
            }
            for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                let options = ConvergeOptions {
                    engine,
                    optimizer,
                    standardize,
                    tolerance,
                    penalty: Penalty::Value(l2),
                    ..ConvergeOptions::default()
                };
                hold(&problem, &options, l2, optimum)?;
            }
        }
    }
}
