//! The gradient of each engine against central differences of the f64 reference.

mod common;

use common::{Problem, twin};
use flowreg::design::samples::Batch;
use flowreg::linalg::gemm::{Backend, Gemm};
use flowreg::linalg::mat::MatMut;
use flowreg::loss::BatchLoss;
use flowreg::sgd::dense::DenseParameters;
use flowreg::sgd::parameters::Parameters;
use flowreg::{Loss, Model};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gradient_equals_central_differences(
        n in 1usize..12, d in 1usize..10, classes in 2usize..7, seed in any::<u32>(),
        weight_decay in prop::sample::select(vec![0.0f64, 0.01, 0.5]),
        backend in prop::sample::select(vec![Backend::Own, Backend::Faer, Backend::Matrixmultiply]),
    ) {
        let problem = Problem::random(n, d, classes, seed);
        let c = problem.outputs();
        let mut uniform = common::uniform(seed ^ 1);
        let mut values = |len: usize| (0..len).map(|_| 2.0 * uniform() - 1.0).collect::<Vec<f32>>();
        let start = Model::new(values(c * d), values(c)).unwrap();
        let at = twin::Parameters {
            weight: start.weight().as_slice().iter().map(|&w| f64::from(w)).collect(),
            bias: start.bias().iter().map(|&b| f64::from(b)).collect(),
        };

        let samples = problem.samples();
        let mut engine = DenseParameters::new(samples.x(), None, start, Gemm::new(backend, 1));
        let mut objective = BatchLoss::new(Loss::for_classes(classes), samples.labels());
        let point = engine.start();
        let (mut room, mut g) = (Vec::new(), vec![f32::NAN; n * c]);
        let mut g = MatMut::new(&mut g, c, n);
        let z = engine.logits(&point, Batch::All, &mut room);
        let loss = objective.loss_gradient(Batch::All, z, g.reborrow());
        // torch adds weight_decay times the parameters to the gradient.
        let mut gradient = engine.zero();
        engine.adjoint(1.0, g.as_ref(), Batch::All, 0.0, &mut gradient);
        engine.axpby(weight_decay, &point, 1.0, &mut gradient);
        let gradient = engine.into_model(gradient);

        let rows: Vec<u32> = (0..n as u32).collect();
        let objective = |at: &twin::Parameters| {
            let squares: f64 = at.weight.iter().chain(&at.bias).map(|w| w * w).sum();
            twin::loss_gradient(&problem, at, &rows).0 + 0.5 * weight_decay * squares
        };
        prop_assert!(common::relative(loss, twin::loss_gradient(&problem, &at, &rows).0) < 2e-6);
        let h = 1e-5;
        for i in 0..c * d + c {
            let mut moved = at.clone();
            let value = |p: &mut twin::Parameters, by: f64| {
                *p.weight.iter_mut().chain(&mut p.bias).nth(i).unwrap() += by;
            };
            value(&mut moved, h);
            let up = objective(&moved);
            value(&mut moved, -2.0 * h);
            let slope = (up - objective(&moved)) / (2.0 * h);
            let found = gradient.weight().as_slice().iter().chain(gradient.bias()).nth(i).unwrap();
            prop_assert!((f64::from(*found) - slope).abs() < 2e-6, "{i}: {found} {slope}");
        }
    }
}
