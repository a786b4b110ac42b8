//! A solve that ends early.

use super::*;
use crate::design::gram_f64::GramF64;
use crate::design::rows::Rows;
use crate::linalg::gemm::{Backend, Gemm};
use crate::linalg::mat::MatRef;
use crate::solver::cg::NewtonDirection;
use crate::solver::problem_gram::GramProblem;

/// A good step, then a step to a worse point, then none.
struct Strays(usize);

impl<S: Problem> DirectionRule<S> for Strays {
    const MAX_BELOW_NOISE: usize = usize::MAX;

    fn step(&mut self, minimizer: &mut Minimizer<S>) -> Result<bool> {
        self.0 += 1;
        if self.0 == 1 {
            minimizer.factor();
            let mut direction = NewtonDirection::new(minimizer);
            direction.solve(minimizer, 0.1);
            assert!(minimizer.line_search_step(&direction.p).is_some());
            minimizer.evaluate();
        } else {
            minimizer.point.w.iter_mut().for_each(|w| *w *= 50.0);
            minimizer.recompute();
        }
        Ok(self.0 < 3)
    }

    fn fields<'a>(&'a mut self, _: Option<RowShard<'a>>, _: &mut StateDict<'a>) {}
}

/// Records the objective of each step.
struct Steps(Vec<f64>);

impl<P> Watch<P> for Steps {
    fn begin(&mut self, _state: &mut impl checkpoint::State<P>) -> Result<bool> {
        Ok(false)
    }

    fn at(&mut self, step: Step, _state: Option<&mut impl checkpoint::State<P>>) -> Result<()> {
        self.0.push(step.objective);
        Ok(())
    }
}

/// The solve stalls or reaches its iteration limit.
#[test]
fn an_interrupted_solve_returns_its_best_point() {
    let x = [
        0.3, 1.0, -0.2, 0.4, 0.9, -1.0, 0.6, 0.1, 0.5, -0.7, 0.2, 0.8,
    ];
    let rows = Rows::new(MatRef::new(&x, 4, 3));
    let gemm = Gemm::new(Backend::default(), 1);
    for (status, iterations) in [(Status::PrecisionLimited, 9), (Status::IterationLimit, 2)] {
        let gram = GramF64::new(&rows, None, true, gemm, &mut |_| Ok(())).unwrap();
        let mut problem = GramProblem::new(&rows, gram, None, gemm).unwrap();
        let risk = Risk::new(&[0, 1, 2, 1], &[1.0; 4], &[1.0; 3], 0.0);
        let start = problem.origin(3);
        let stop = StoppingCriteria {
            tolerance: 1e-12,
            iterations,
        };
        let minimizer = Minimizer::new(&mut problem, &risk, 0.1, start, stop);
        let mut steps = Steps(Vec::new());
        let (point, report) = minimizer.run(Strays(0), &mut steps).unwrap();
        assert_eq!(report.status, status);
        let (best, last) = (steps.0[1], steps.0[steps.0.len() - 1]);
        assert!(best < steps.0[0] && best < 0.5 * last, "{:?}", steps.0);
        // The bias may still be moved to its optimum.
        assert!(report.objective <= best, "{report:?} {:?}", steps.0);
        let mut at = Eval::new(3, 4);
        risk.evaluate(&point.z, &point.b, &mut at);
        assert_eq!(at.loss, report.loss);
    }
}
