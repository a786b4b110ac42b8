//! [`Problem`] in the weights, as [`DenseProblem`] has them, with products in f64: for the last steps
//! of a solve that the rounding of f32 products ended. The preconditioner is the dense problem's.

use crate::design::centered::{Centered, Precision};
use crate::design::gram::Progress;
use crate::error::Result;
use crate::io::checkpoint::State;
use crate::linalg::vec::dot;
use crate::loss::risk::Risk;
use crate::solver::minimizer::{Minimizer, Watch};
use crate::solver::newton_cg::NewtonCg;
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::problem_dense::DenseProblem;
use crate::solver::report::{SolveReport, Step, StoppingCriteria};

/// Most steps of a solve that continues.
const STEPS: usize = 50;

/// The weights of a dense problem, and its rows in f64.
struct DenseF64<'p, 'a> {
    dense: &'p mut DenseProblem<'a>,
    design: &'p Centered<'p>,
}

/// Continue a solve of `dense` from `point` by Newton's method, with products in f64. Cost: 4ncd flop
/// in f64 for each step of conjugate gradients.
///
/// # Errors
/// Those of `check_stop`, which is called after every step.
pub(super) fn refine(
    dense: &mut DenseProblem,
    design: &Centered,
    risk: &Risk,
    l2: f64,
    point: &Point<f32>,
    stop: StoppingCriteria,
    check_stop: &mut dyn FnMut() -> Result<()>,
) -> Result<(Point<f64>, SolveReport)> {
    let problem = &mut DenseF64 { dense, design };
    let start = Point {
        w: point.w.clone(),
        b: point.b.clone(),
        // The solve computes the logits at its start.
        z: vec![0.0; point.z.len()],
    };
    let stop = StoppingCriteria {
        iterations: stop.iterations.min(STEPS),
        ..stop
    };
    let minimizer = Minimizer::new(problem, risk, l2, start, stop);
    let rule = NewtonCg::new(&minimizer);
    minimizer.run(rule, &mut CheckStop(check_stop))
}

/// Calls a function after every step; its error stops the solve.
struct CheckStop<'a>(&'a mut dyn FnMut() -> Result<()>);

impl<P> Watch<P> for CheckStop<'_> {
    fn begin(&mut self, _state: &mut impl State<P>) -> Result<bool> {
        Ok(false)
    }

    fn at(&mut self, _step: Step, _state: Option<&mut impl State<P>>) -> Result<()> {
        (self.0)()
    }
}

impl Problem for DenseF64<'_, '_> {
    type Real = f64;

    fn rows(&self) -> usize {
        self.dense.rows()
    }

    fn coords(&self) -> usize {
        self.dense.coords()
    }

    fn noise(&self) -> f64 {
        1e-13
    }

    fn logits(&mut self, w: &[f64], z: &mut [f64]) {
        let mut weight = w.to_vec();
        self.dense.divide_by_deviation(&mut weight);
        z.copy_from_slice(&self.design.logits_f64(&weight));
    }

    fn adjoint(&mut self, g: &[f64], w: &mut [f64]) {
        w.copy_from_slice(&self.design.adjoint(g, Precision::Double));
        self.dense.clear_constant(w);
        self.dense.divide_by_deviation(w);
    }

    fn dot(&self, u: &[f64], v: &[f64], _logits: &[f64]) -> f64 {
        dot(u, v)
    }

    fn square(&mut self, u: &[f64]) -> f64 {
        dot(u, u)
    }

    fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()> {
        self.dense.fit_rows(rows, deviation, progress)
    }

    fn factor(&mut self, curvatures: &[f64], l2: f64) {
        self.dense.factor(curvatures, l2);
    }

    fn solve(&mut self, r: &[f64], w: &mut [f64], _logits: &mut [f64]) {
        self.dense.solve(r, w, &mut []);
    }

    fn solves_logits(&self) -> bool {
        false
    }

    fn weight(&mut self, w: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>> {
        self.dense.weight(w, design, exact)
    }

    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)> {
        self.dense.coordinates(weight, design)
    }

    fn adjoint_square(&self, _g: &[f64]) -> Option<(f64, f64)> {
        None
    }
}
