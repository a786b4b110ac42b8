//! The report of a converged fit is true of the f32 weights of its model: it is compared with the
//! definition in f64 on the stored rows, and with an optimum that another method finds in f64.

mod common;

use common::uniform;
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use flowreg::design::plan::EngineChoice;
use flowreg::design::scaler::{Scaler, Standardize};
use flowreg::loss::weights::SampleWeights;
use flowreg::path::{Optimizer, PathFit, PathOptions, Penalty, fit_path};
use flowreg::solver::report::{MeasuredOn, Status};
use flowreg::{Model, Samples};
use proptest::prelude::*;

/// A problem whose rows make numerics difficult, with labels that a linear model partly fits.
#[derive(Clone, Debug)]
struct Awkward {
    n: usize,
    d: usize,
    classes: usize,
    x: Vec<f32>,
    labels: Vec<i64>,
    weights: Vec<f64>,
    intercept: bool,
}

#[derive(Clone, Copy, Debug)]
enum EngineKind {
    /// Values of one size.
    Plain,
    /// A few random rows, and linear combinations of them.
    Dependent,
    /// Some rows are repeated with other labels.
    Repeated,
    /// The features have different scales, from 1e-6 to 1e6.
    Scales,
    /// Some features are constant, others nearly.
    Constants,
    /// Whole numbers from 0 to 1e5.
    Counts,
    /// Bytes over 255.
    Bytes,
    /// The mean is large compared with the deviation.
    Shifted,
}

const KINDS: [EngineKind; 8] = [
    EngineKind::Plain,
    EngineKind::Dependent,
    EngineKind::Repeated,
    EngineKind::Scales,
    EngineKind::Constants,
    EngineKind::Counts,
    EngineKind::Bytes,
    EngineKind::Shifted,
];

impl Awkward {
    fn new(kind: EngineKind, n: usize, d: usize, classes: usize, seed: u32) -> Awkward {
        let mut uniform = uniform(seed);
        let mut x: Vec<f32> = (0..n * d).map(|_| 2.0 * uniform() - 1.0).collect();
        match kind {
            EngineKind::Plain => {}
            EngineKind::Dependent => {
                let rank = 1 + (uniform() * (n as f32 / 3.0)) as usize;
                for i in rank..n {
                    let (a, b) = (uniform(), uniform() - 0.5);
                    let (p, q) = (i % rank, (i * 7 + 3) % rank);
                    for k in 0..d {
                        x[i * d + k] = a * x[p * d + k] + b * x[q * d + k];
                    }
                }
                for x in &mut x {
                    *x *= 100.0;
                }
            }
            EngineKind::Repeated => {
                for i in (2..n).step_by(3) {
                    let from = (uniform() * i as f32) as usize;
                    x.copy_within(from * d..(from + 1) * d, i * d);
                }
            }
            EngineKind::Scales => {
                let scales: Vec<f32> = (0..d).map(|_| 10f32.powf(12.0 * uniform() - 6.0)).collect();
                for at in 0..n * d {
                    x[at] *= scales[at % d];
                }
            }
            EngineKind::Constants => {
                for k in (0..d).step_by(2) {
                    let value = 10f32.powf(4.0 * uniform() - 2.0);
                    for i in 0..n {
                        let moved = k % 4 == 0 && i % 5 == 0;
                        x[i * d + k] = if moved { value * (1.0 + 1e-6) } else { value };
                    }
                }
            }
            EngineKind::Counts => x.iter_mut().for_each(|x| *x = (1e5 * x.powi(4)).round()),
            EngineKind::Bytes => x
                .iter_mut()
                .for_each(|x| *x = (127.5 * (*x + 1.0)).round() / 255.0),
            EngineKind::Shifted => {
                let far = 10f32.powf(1.0 + 3.0 * uniform());
                for x in &mut x {
                    *x += far;
                }
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
        // Some problems have a class of one row or of none.
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
        // At least two classes have weight.
        (labels[0], labels[1]) = (0, 1);
        let mut weights = weights;
        (weights[0], weights[1]) = (1.0, 1.0);
        // Rows of weight 0 get arbitrary values.
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
            intercept: true,
        }
    }

    fn samples(&self) -> Samples<'_> {
        Samples::new(&self.x, self.d, &self.labels, self.classes).unwrap()
    }

    fn fit(&self, options: &PathOptions) -> PathFit {
        let mut options = options.clone();
        options.fit_intercept = self.intercept;
        options.weighting = SampleWeights {
            samples: Some(self.weights.clone()),
            ..SampleWeights::default()
        };
        fit_path(&self.samples(), &options, &mut |_| {}).unwrap()
    }

    /// σ of every feature, 1 where features are not scaled.
    fn deviation(&self, standardize: Standardize) -> Vec<f64> {
        let scaler = Scaler::new(self.samples().x(), Some(&self.weights), standardize).unwrap();
        scaler.deviation().to_vec()
    }

    /// The mean loss of logits z(row, output) by its definition; small losses keep their digits.
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
            if top > 0.0 {
                top + (rest + (-top).exp()).ln()
            } else {
                rest.ln_1p()
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

    /// Whether a model predicts the labels of all rows with weight, in f64.
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

    /// min F by Newton's method with the full Hessian in f64, on columns of equal scale.
    fn optimum(&self, l2: f64, deviation: &[f64]) -> f64 {
        let (n, d) = (self.n, self.d);
        let c = if self.classes == 2 { 1 } else { self.classes };
        let total: f64 = self.weights.iter().sum();
        let share: Vec<f64> = self.weights.iter().map(|w| w / total).collect();
        let x = |i: usize, k: usize| f64::from(self.x[i * d + k]);
        // A column of ones for the bias, if there is one.
        let m = d + usize::from(self.intercept);
        let mut a = vec![1.0; n * m];
        let mut penalty = vec![0.0; m];
        for k in 0..d {
            let first = x(0, k);
            let mean = if self.intercept {
                first + (0..n).map(|i| share[i] * (x(i, k) - first)).sum::<f64>()
            } else {
                0.0
            };
            let square: f64 = (0..n).map(|i| share[i] * (x(i, k) - mean).powi(2)).sum();
            let scale = if square > 0.0 { square.sqrt() } else { 1.0 };
            for i in 0..n {
                a[i * m + k] = (x(i, k) - mean) / scale;
            }
            penalty[k] = l2 * (deviation[k] / scale).powi(2);
        }
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
            for at in 0..c * m {
                hessian[(at, at)] = penalty[at % m];
            }
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
                    for k in 0..m {
                        gradient[j * m + k] += g * a[i * m + k];
                    }
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
            // The Hessian vanishes where rows are separated.
            if most < 1e-18 {
                break;
            }
            let mut ridge = 1e-15 * most;
            let step = loop {
                let mut h = hessian.clone();
                for at in 0..c * m {
                    h[(at, at)] += ridge;
                }
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

/// Compare the report of a fit with the model.
fn check(
    problem: &Awkward,
    options: &PathOptions,
    l2: f64,
    optimum: f64,
) -> Result<(), TestCaseError> {
    let deviation = problem.deviation(options.standardize);
    let fit = problem.fit(options);
    let report = fit.report;
    let context = format!(
        "{:?} {:?} {:?} l2 {l2:e} tolerance {:e}: optimum {optimum:e}, {report:?}",
        options.engine, options.optimizer, options.standardize, options.tolerance
    );
    prop_assert!(report.measured_on == MeasuredOn::Model);
    let values = fit.model.weight().as_slice().iter().chain(fit.model.bias());
    prop_assert!({ values }.all(|v| v.is_finite()), "{context}");
    let has_bias = fit.model.bias().iter().any(|&b| b != 0.0);
    prop_assert!(problem.intercept || !has_bias, "{context}");
    let file = problem.objective(&fit.model, l2, &deviation);
    let off = (file - report.objective).abs();
    // A class without rows keeps a probability of e^-37.
    prop_assert!(
        off <= 1e-6 * file + 1e-14,
        "file {file:e}, off {off:e}, {context}"
    );
    let above = file - optimum;
    // Rounding of the f64 reference: of the optimum, and of logits whose terms cancel.
    let rounding = 1e-12 * optimum + 1e-14 + 1e-15 * problem.largest_terms(&fit.model);
    if let Some(gap) = report.gap {
        prop_assert!(above <= gap + rounding, "{above:e} above, {context}");
    }
    match report.status {
        Status::Converged => {
            prop_assert!(l2 == 0.0 || report.gap.is_some(), "{context}");
            let allowed = 100.0 * options.tolerance * optimum;
            prop_assert!(above <= allowed + rounding, "{above:e} above, {context}");
        }
        Status::Separable => {
            prop_assert!(l2 == 0.0 && problem.is_separated(&fit.model), "{context}");
        }
        Status::QuasiSeparable => prop_assert!(l2 == 0.0, "{context}"),
        Status::PrecisionLimited | Status::IterationLimit => {}
        other => prop_assert!(false, "{other:?} is not known, {context}"),
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

/// Number of cases: FLOWREG_CASES, or a small number.
fn cases() -> u32 {
    let text = std::env::var("FLOWREG_CASES");
    text.map_or(500, |text| text.parse().expect("FLOWREG_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn the_report_is_true_of_the_model(
        kind in prop::sample::select(&KINDS[..]), n in 6usize..28, d in 1usize..20,
        classes in 2usize..5, seed in any::<u32>(), l2 in penalties(),
        tolerance in prop::sample::select(&[1e-5, 1e-6, 1e-7][..]),
        standardize in prop::sample::select(&[Standardize::None, Standardize::None, Standardize::Scale, Standardize::Both][..]),
        intercept in prop::sample::select(&[true, true, false][..]),
    ) {
        let mut problem = Awkward::new(kind, n, d, classes, seed);
        problem.intercept = intercept;
        // Centred features require a bias.
        let standardize = match standardize {
            Standardize::Both if !intercept => Standardize::Scale,
            standardize => standardize,
        };
        let optimum = problem.optimum(l2, &problem.deviation(standardize));
        for engine in [EngineChoice::Gram, EngineChoice::Primal] {
            if engine == EngineChoice::Gram && n > d {
                continue;
            }
            for optimizer in [Optimizer::Newton, Optimizer::Lbfgs] {
                let options = PathOptions {
                    engine,
                    optimizer,
                    standardize,
                    tolerance,
                    penalty: Penalty::Value(l2),
                    ..PathOptions::default()
                };
                check(&problem, &options, l2, optimum)?;
            }
        }
    }
}

/// Gaussian random numbers.
fn normal(seed: u32) -> impl FnMut() -> f64 {
    let mut uniform = uniform(seed);
    move || {
        let (a, b) = (f64::from(uniform()).max(1e-12), f64::from(uniform()));
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

impl Awkward {
    /// A problem of these rows with equal weights.
    fn of(x: Vec<f64>, d: usize, labels: Vec<i64>) -> Awkward {
        let classes = *labels.iter().max().unwrap() as usize + 1;
        Awkward {
            n: labels.len(),
            d,
            classes,
            x: x.iter().map(|&x| x as f32).collect(),
            weights: vec![1.0; labels.len()],
            labels,
            intercept: true,
        }
    }

    /// The status of a fit, whose report is compared with the model first.
    fn status(&self, optimizer: Optimizer, l2: f64, standardize: Standardize) -> Status {
        self.status_by(EngineChoice::Auto, optimizer, l2, standardize)
    }

    fn status_by(
        &self,
        engine: EngineChoice,
        optimizer: Optimizer,
        l2: f64,
        standardize: Standardize,
    ) -> Status {
        let options = PathOptions {
            engine,
            optimizer,
            standardize,
            penalty: Penalty::Value(l2),
            ..PathOptions::default()
        };
        let optimum = self.optimum(l2, &self.deviation(standardize));
        check(self, &options, l2, optimum).unwrap();
        self.fit(&options).report.status
    }
}

const BOTH: [Optimizer; 2] = [Optimizer::Newton, Optimizer::Lbfgs];

/// Spectra: 100 rows of large values that are mixtures of 8 peaks. The saved model reaches the
/// certified objective.
#[test]
fn models_of_nearly_dependent_rows_match_their_certificate() {
    let mut normal = normal(1);
    let (n, d) = (60, 200);
    let peak = |p: usize, k: usize| {
        let at = 0.1 + 0.1 * p as f64;
        (-((k as f64 / d as f64 - at) / 0.05).powi(2)).exp()
    };
    let amounts: Vec<f64> = (0..n * 8).map(|_| normal().abs() + 0.2).collect();
    let x: Vec<f64> = (0..n * d)
        .map(|at| {
            (0..8)
                .map(|p| 1000.0 * amounts[at / d * 8 + p] * peak(p, at % d))
                .sum()
        })
        .collect();
    let labels: Vec<i64> = (0..n)
        .map(|i| {
            let score = |j: usize| amounts[i * 8 + j] + 1.5 * ((i * 7 + j * 3) % 5) as f64 / 5.0;
            (0..3)
                .max_by(|&a, &b| score(a).total_cmp(&score(b)))
                .unwrap() as i64
        })
        .collect();
    let problem = Awkward::of(x, d, labels);
    for optimizer in BOTH {
        let fit = problem.fit(&PathOptions {
            optimizer,
            penalty: Penalty::Value(0.01),
            ..PathOptions::default()
        });
        let file = problem.objective(&fit.model, 0.01, &vec![1.0; d]);
        assert_eq!(fit.report.status, Status::Converged, "{:?}", fit.report);
        assert!(
            (file / fit.report.objective - 1.0).abs() < 1e-6,
            "{file} {:?}",
            fit.report
        );
        // The loss is below ln 3: the classes are partly separable.
        assert!(file < 1.0, "{file}");
    }
}

/// One row of large values is repeated with another label, with and without a penalty.
#[test]
fn repeated_rows_with_other_labels_are_not_separable() {
    let mut normal = normal(2);
    let (n, d) = (24, 100);
    for (classes, scale) in [(2, 1.0), (3, 1000.0)] {
        let mut x: Vec<f64> = (0..n * d).map(|_| scale * normal()).collect();
        let mut labels: Vec<i64> = (0..n as i64).map(|i| i % classes).collect();
        x.copy_within(0..d, (n - 1) * d);
        labels[n - 1] = (labels[0] + 1) % classes;
        let problem = Awkward::of(x, d, labels);
        for optimizer in BOTH {
            for l2 in [0.0, 1.0 / n as f64] {
                let fit = problem.fit(&PathOptions {
                    optimizer,
                    penalty: Penalty::Value(l2),
                    ..PathOptions::default()
                });
                let file = problem.objective(&fit.model, l2, &vec![1.0; d]);
                let report = fit.report;
                assert!(
                    (file / report.objective - 1.0).abs() < 1e-6,
                    "{file} {report:?}"
                );
                let ended = match l2 {
                    0.0 => {
                        let no_minimum = [Status::QuasiSeparable, Status::PrecisionLimited];
                        no_minimum.contains(&report.status)
                    }
                    _ => report.status == Status::Converged,
                };
                assert!(ended, "{report:?}");
                // Each of the two equal rows has loss ln 2 at least.
                assert!(file > 1.38 / n as f64, "{file}");
            }
        }
    }
}

/// If the mean is a million deviations, f32 weights of unscaled features lose precision.
#[test]
fn models_that_lose_precision_in_f32_are_precision_limited() {
    let mut normal = normal(3);
    let (n, d) = (400, 5);
    let z: Vec<f64> = (0..n * d).map(|_| normal()).collect();
    let labels = (0..n).map(|i| i64::from(z[i * d] + 0.5 * z[i * d + 1] + 0.3 * normal() > 0.0));
    let labels = labels.collect();
    let problem = Awkward::of(z.iter().map(|z| 1e6 + z).collect(), d, labels);
    problem.status(Optimizer::Newton, 1e-4, Standardize::Both);
}

/// Times among features of scale 1. Rounding the weight of such a column to f32 hardly changes F, but
/// changes the gradient by the square of the column's scale: a bound by that gradient is useless. With
/// three classes rounding along all outputs at once, which only the penalty limits, must not become a
/// weight. In Gram coordinates K of f64 does not tell rows apart at a scale of 1e6; the certificate says
/// so.
#[test]
fn a_column_of_large_scale_is_certified() {
    for (n, d, classes) in [(400, 5, 2), (400, 5, 3), (60, 80, 2), (60, 40, 3)] {
        for (offset, scale) in [(0.0, 1e6), (1.7e9, 1e6), (0.0, 1e4)] {
            let mut normal = normal(6);
            let z: Vec<f64> = (0..n * d).map(|_| normal()).collect();
            let label = |i: usize| {
                let score = z[i * d] + 0.5 * z[i * d + 1] - z[i * d + 2] + normal();
                ((score + 1.0) as i64).clamp(0, classes - 1)
            };
            let labels = (0..n).map(label).collect();
            let time = |(at, z): (usize, &f64)| match at % d {
                1 => offset + scale * z,
                _ => *z,
            };
            let problem = Awkward::of(z.iter().enumerate().map(time).collect(), d, labels);
            for (optimizer, engine) in [
                (Optimizer::Newton, EngineChoice::Auto),
                (Optimizer::Newton, EngineChoice::Primal),
                (Optimizer::Lbfgs, EngineChoice::Primal),
            ] {
                let status =
                    problem.status_by(engine, optimizer, 1.0 / n as f64, Standardize::None);
                let context = format!("{n} x {d}, {classes} classes, {offset} {scale}");
                if engine == EngineChoice::Primal || n > d || scale < 1e5 {
                    assert_eq!(status, Status::Converged, "{context} {optimizer:?}");
                }
            }
        }
    }
}

/// The units of the features do not change the status, with l2 = 0 too.
#[test]
fn convergence_does_not_depend_on_units() {
    let mut normal = normal(4);
    let (n, d) = (500, 7);
    let z: Vec<f64> = (0..n * d).map(|_| normal()).collect();
    let labels: Vec<i64> = (0..n)
        .map(|i| i64::from(z[i * d..][..d].iter().sum::<f64>() + 2.0 * normal() > 0.0))
        .collect();
    let scale = |k: usize| 10f64.powi(2 * k as i32 - 6);
    let x = z
        .iter()
        .enumerate()
        .map(|(at, z)| z * scale(at % d))
        .collect();
    let (scaled, plain) = (Awkward::of(x, d, labels.clone()), Awkward::of(z, d, labels));
    for optimizer in BOTH {
        for problem in [&scaled, &plain] {
            let status = problem.status(optimizer, 0.0, Standardize::None);
            assert_eq!(status, Status::Converged, "{optimizer:?}");
        }
    }
}

/// The three cases of Albert and Anderson (1984): separation, quasi-separation, overlap.
#[test]
fn separable_and_overlapping_classes_are_distinguished() {
    let mut normal = normal(5);
    let tie: Vec<f64> = (0..60).map(|i| (i % 5) as f64 - 2.0).collect();
    let of_tie = |(i, x): (usize, &f64)| {
        if *x == 0.0 {
            (i / 5 % 2) as i64
        } else {
            i64::from(*x > 0.0)
        }
    };
    let labels = tie.iter().enumerate().map(of_tie).collect();
    let ties = Awkward::of(tie, 1, labels);
    // A column that is 1 only in rows of label 1.
    let (mut x, mut labels) = (Vec::new(), Vec::new());
    for i in 0..200 {
        let value = normal();
        let label = i64::from(value + normal() > 0.0);
        labels.push(label);
        x.extend([value, f64::from(u8::from(label == 1 && i % 9 == 0))]);
    }
    let dummy = Awkward::of(x, 2, labels);
    // One class of three.
    let (mut x, mut labels) = (Vec::new(), Vec::new());
    for i in 0..150 {
        let third = i % 3 == 2;
        labels.push(if third { 2 } else { i64::from(normal() > 0.0) });
        x.extend([
            normal(),
            normal(),
            if third {
                2.0 + normal().abs()
            } else {
                -normal().abs()
            },
        ]);
    }
    let one_class = Awkward::of(x, 3, labels);
    // Small integers: the margins along (0, 1) with b = 3 are 0, 0, 0, 3.
    let whole = Awkward::of(
        vec![1.0, -3.0, 2.0, -3.0, -2.0, -3.0, 3.0, 0.0],
        2,
        vec![1, 0, 0, 1],
    );
    for (name, problem) in [
        ("tie", &ties),
        ("dummy", &dummy),
        ("one", &one_class),
        ("whole", &whole),
    ] {
        for optimizer in BOTH {
            let status = problem.status(optimizer, 0.0, Standardize::None);
            assert_eq!(status, Status::QuasiSeparable, "{name} {optimizer:?}");
        }
    }
    let fit = one_class.fit(&PathOptions {
        penalty: Penalty::Value(0.0),
        ..PathOptions::default()
    });
    assert_eq!(fit.report.separated_class, Some(2));
    // Labels that interleave, beside one row far away.
    let interleaved = |far: f64| {
        Awkward::of(
            vec![far, 1.0, 2.0, 3.0, 4.0, 0.0, -1.0, 5.0],
            1,
            vec![1, 0, 1, 0, 1, 0, 1, 0],
        )
    };
    for far in [1e2, 1e4, 1e6] {
        for optimizer in BOTH {
            let status = interleaved(far).status(optimizer, 0.0, Standardize::None);
            let denied = matches!(status, Status::Separable | Status::QuasiSeparable);
            assert!(!denied, "{far} {optimizer:?} {status:?}");
        }
    }
}

/// W = 0 is recognised as the optimum for constant features and for rows that have every label; a
/// constant feature among others gets no weight.
#[test]
fn an_optimum_at_the_start_is_converged() {
    let zeros = Awkward::of(vec![0.0; 120], 3, (0..40).map(|i| i * i % 3).collect());
    let mut normal = normal(6);
    let rows: Vec<f64> = (0..80).map(|_| normal()).collect();
    let every = (0..80)
        .flat_map(|i| rows[i / 4 * 4..][..4].to_vec())
        .collect();
    let every_label = Awkward::of(every, 4, (0..80).map(|i| i % 4).collect());
    let one_value = Awkward::of(vec![14.62; 4], 1, vec![0, 1, 0, 0]);
    for problem in [&zeros, &every_label, &one_value] {
        for optimizer in BOTH {
            for l2 in [0.0, 0.1] {
                let status = problem.status(optimizer, l2, Standardize::None);
                assert_eq!(status, Status::Converged, "{optimizer:?} {l2}");
            }
        }
    }
    let mut x = Vec::new();
    for _ in 0..40 {
        x.extend([normal(), normal(), 1e6]);
    }
    let labels = (0..40)
        .map(|i| i64::from(x[i * 3] + normal() > 0.0))
        .collect();
    let constant = Awkward::of(x, 3, labels);
    for standardize in [Standardize::None, Standardize::Both] {
        for optimizer in BOTH {
            let status = constant.status(optimizer, 1e-6, standardize);
            assert_eq!(status, Status::Converged, "{optimizer:?} {standardize:?}");
        }
    }
}

/// On separable rows products in f32 reach the optimum for l2 = 1e-8.
#[test]
fn weak_penalties_on_separable_rows_reach_their_optimum() {
    let mut normal = normal(7);
    let labels: Vec<i64> = (0..60).map(|i| i % 3).collect();
    let x: Vec<f64> = (0..360)
        .map(|at| normal() + if at % 6 == at / 6 % 3 { 4.0 } else { 0.0 })
        .collect();
    let problem = Awkward::of(x, 6, labels);
    let optimum = problem.optimum(1e-10, &[1.0; 6]);
    for optimizer in BOTH {
        let fit = problem.fit(&PathOptions {
            optimizer,
            penalty: Penalty::Value(1e-10),
            ..PathOptions::default()
        });
        let file = problem.objective(&fit.model, 1e-10, &[1.0; 6]);
        assert!(
            file <= optimum * (1.0 + 1e-3),
            "{file:e} {optimum:e} {:?}",
            fit.report
        );
    }
}

/// A smaller tolerance gives no larger objective where the precision of f32 products ends the solve.
#[test]
fn a_tighter_tolerance_gives_no_worse_model() {
    for seed in 0..8 {
        let mut uniform = uniform(seed);
        let x = (0..15 * 30).map(|_| f64::from(uniform())).collect();
        let labels = (0..15).map(|i| (i * 7 + seed as i64) % 3).collect();
        let problem = Awkward::of(x, 30, labels);
        let file = |tolerance: f64| {
            let fit = problem.fit(&PathOptions {
                engine: EngineChoice::Primal,
                tolerance,
                ..PathOptions::default()
            });
            problem.objective(&fit.model, 1.0 / 15.0, &[1.0; 30])
        };
        let [loose, tight] = [1e-7, 1e-9].map(file);
        // Weights are rounded to f32 either way.
        assert!(tight <= loose * (1.0 + 1e-10), "{tight:e} {loose:e}");
    }
}

/// Rows of weight 0 have no effect, whatever their values.
#[test]
fn rows_of_weight_0_have_no_effect() {
    let mut normal = normal(8);
    for (n, d) in [(60, 4), (20, 40)] {
        let x: Vec<f64> = (0..n * d).map(|_| normal()).collect();
        let labels: Vec<i64> = (0..n)
            .map(|i| i64::from(x[i * d] + normal() > 0.0))
            .collect();
        let alone = Awkward::of(x.clone(), d, labels.clone());
        for far in [1e3, 1e9] {
            let mut with = Awkward::of(
                [x.clone(), vec![far; 2 * d]].concat(),
                d,
                [labels.clone(), vec![0, 1]].concat(),
            );
            with.weights[n..].fill(0.0);
            for optimizer in BOTH {
                for standardize in [Standardize::None, Standardize::Both] {
                    let options = PathOptions {
                        optimizer,
                        standardize,
                        ..PathOptions::default()
                    };
                    let (a, b) = (alone.fit(&options), with.fit(&options));
                    assert_eq!(a.report.status, Status::Converged);
                    let off = (a.report.objective / b.report.objective - 1.0).abs();
                    assert!(
                        off < 1e-9 && a.report.status == b.report.status,
                        "{far} {:?}",
                        b.report
                    );
                }
            }
        }
    }
}

/// The objective is at least 0, so that no gap exceeds it, whatever rounding may have done.
#[test]
fn a_gap_is_at_most_the_objective() {
    let mut uniform = uniform(7);
    let (n, d) = (200, 4);
    let mut x: Vec<f32> = (0..n * d).map(|_| uniform() - 0.5).collect();
    x[5] = 9e14;
    let labels: Vec<u32> = (0..n).map(|i| u32::from(x[i * d] > 0.1)).collect();
    let samples = Samples::from_labels(&x, d, &labels, 2).unwrap();
    let options = PathOptions {
        penalty: Penalty::Value(1e-4),
        ..PathOptions::default()
    };
    let fit = fit_path(&samples, &options, &mut |_| {}).unwrap();
    let report = fit.report;
    assert!(
        report.gap.is_none_or(|gap| gap <= report.objective * 1.001),
        "{report:?}"
    );
}
