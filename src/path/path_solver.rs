//! The path solver: solves one penalty after the other on one problem, each from the last optimum.

use super::PathFit;
use super::options::{Optimizer, PathOptions, Penalty};
use super::select::{best, choice};
use crate::design::centered::Centered;
use crate::design::gram_f64::GramF64;
use crate::design::plan::{EngineChoice, EngineKind, available_memory};
use crate::design::rows::Rows;
use crate::design::samples::{Samples, Splits};
use crate::design::scaler::{Scaler, Standardize};
use crate::error::{Error, Result};
use crate::linalg::gemm::Gemm;
use crate::loss::risk::Risk;
use crate::loss::weights::RowWeights;
use crate::path::record::{Solution, SolveLog, SolveRecord, SolveWatch};
use crate::progress::{Event, HeldOut, Observer, PathEntry, Solved};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::minimizer::Minimizer;
use crate::solver::newton_cg::NewtonCg;
use crate::solver::point::Point;
use crate::solver::problem::Problem;
use crate::solver::problem_dense::DenseProblem;
use crate::solver::problem_gram::GramProblem;
use crate::solver::report::{SolveReport, Status, StoppingCriteria};

/// Number of penalties in a row without a lower validation loss after which an automatic path ends.
pub(super) const AUTO_PATIENCE: usize = 3;

/// Choose the engine and fit: the penalty of the options, the one that the validation rows or folds
/// choose, or `l2` if it is given.
pub(super) fn fit_on_problem(
    splits: Splits,
    options: &PathOptions,
    gemm: Gemm,
    l2: Option<f64>,
    log: &mut SolveLog,
    observer: &mut Observer,
) -> Result<PathFit> {
    let x = splits.train.x();
    let mut engine = x.agree(choose_for(x, options.engine))?;
    observer.tell(Event::Engine(engine));
    let weights = options.weighting.resolve(splits.train, None)?;
    let design = if options.fit_intercept {
        Centered::new(x)
    } else {
        Centered::not_centered(x)
    };
    let deviation = deviation(splits.train, options.standardize, &weights.samples)?;
    let scale = deviation.clone();
    let scale = scale.as_deref();
    let inputs = Inputs {
        splits,
        options,
        design: &design,
        deviation,
        weights,
        log,
        observer,
    };
    let mut columns = |columns| {
        inputs.observer.tell(Event::GramMatrix {
            columns,
            of: x.features(),
        });
        inputs.log.check(inputs.observer)
    };
    if engine == EngineKind::Gram {
        match GramF64::new(x, scale, options.fit_intercept, gemm, &mut columns) {
            // The primal engine handles products that overflow in K.
            Err(Error::Memory { .. })
                if options.engine == EngineChoice::Auto && x.shard().is_none() =>
            {
                engine = EngineKind::Primal
            }
            gram => {
                let mut problem = GramProblem::new(x, gram?, scale, gemm)?;
                return inputs.solver(engine, &mut problem).run(l2);
            }
        }
    }
    let mut problem = DenseProblem::new(&design, scale, gemm, &mut columns)?;
    inputs.solver(engine, &mut problem).run(l2)
}

/// The inputs of a path solver that do not depend on its problem.
pub(super) struct Inputs<'a, 'o> {
    splits: Splits<'a>,
    options: &'a PathOptions,
    design: &'a Centered<'a>,
    /// σ of the training rows.
    deviation: Option<Vec<f64>>,
    weights: RowWeights,
    log: &'a mut SolveLog,
    observer: &'a mut Observer<'o>,
}

impl<'a, 'o> Inputs<'a, 'o> {
    pub(super) fn solver<S: Problem>(
        self,
        engine: EngineKind,
        problem: &'a mut S,
    ) -> PathSolver<'a, 'o, S> {
        PathSolver {
            splits: self.splits,
            options: self.options,
            engine,
            design: self.design,
            deviation: self.deviation,
            problem,
            weights: self.weights,
            log: self.log,
            observer: self.observer,
            last: None,
            best: None,
        }
    }
}

/// σ of the features under these sample weights; `None` if features are not scaled.
pub(super) fn deviation(
    samples: &Samples,
    standardize: Standardize,
    weights: &[f64],
) -> Result<Option<Vec<f64>>> {
    Ok(match standardize {
        // Subtracting means changes no fit, as the bias is not penalised.
        Standardize::None | Standardize::Center => None,
        Standardize::Scale | Standardize::Both => {
            let scaler = Scaler::new(samples.x(), Some(weights), Standardize::Scale)?;
            Some(scaler.deviation().to_vec())
        }
    })
}

/// [`choose`] for these rows; ranks that share the columns have the Gram engine only.
pub(super) fn choose_for(x: &Rows, choice: EngineChoice) -> Result<EngineKind> {
    let (n, d) = (x.all_len(), x.all_features());
    match (x.shard(), choice) {
        (None, _) if x.row_shard().is_some() && n < d => Err(Error::options(
            "`engine`",
            format!("rows of several processes, {n} x {d}"),
            "at least as many rows as features, or processes that share the columns",
        )),
        (None, _) if x.row_shard().is_some() => choose(n, d, EngineChoice::Primal),
        (None, choice) => choose(n, d, choice),
        (Some(_), EngineChoice::Auto | EngineChoice::Gram) if n <= d => {
            choose(n, d, EngineChoice::Gram)
        }
        (Some(_), _) => Err(Error::options(
            "`engine`",
            format!("primal for {n} rows of {d} features, with several processes"),
            "gram and fewer rows than features, or a run of one process, without mpirun",
        )),
    }
}

/// The engine of a fit of n rows and d features: Gram coordinates if n <= d and their matrices fit
/// the memory (28 bytes an element: K and its factor in f64, and buffers while K is computed).
///
/// # Errors
/// [`Error::Memory`] if the matrices of the chosen engine do not fit the memory.
pub(super) fn choose(n: usize, d: usize, choice: EngineChoice) -> Result<EngineKind> {
    let bytes = |side: usize| (side as u128).saturating_mul(side as u128) * 28;
    let fits =
        |bytes: u128| available_memory().is_none_or(|available| bytes <= u128::from(available));
    let refuse = |engine: &str, side: usize, instead: &str| {
        Err(Error::memory(
            "`engine`",
            format!(
                "{engine}, whose matrices of {side} x {side} take {} bytes",
                bytes(side)
            ),
            instead,
        ))
    };
    match choice {
        EngineChoice::Gram if !fits(bytes(n)) => {
            refuse("gram", n, "primal (or auto), or more memory")
        }
        EngineChoice::Gram => Ok(EngineKind::Gram),
        EngineChoice::Auto if n <= d && fits(bytes(n)) => Ok(EngineKind::Gram),
        _ if !fits(bytes(n.min(d))) => refuse(
            "primal",
            n.min(d),
            "`optimizer` sgd, fewer rows or features, or more memory",
        ),
        _ => Ok(EngineKind::Primal),
    }
}

/// The state of a converged fit on problem `S`.
pub(super) struct PathSolver<'a, 'o, S: Problem> {
    pub(super) splits: Splits<'a>,
    pub(super) options: &'a PathOptions,
    pub(super) engine: EngineKind,
    pub(super) design: &'a Centered<'a>,
    /// σ of the training rows.
    pub(super) deviation: Option<Vec<f64>>,
    pub(super) problem: &'a mut S,
    pub(super) weights: RowWeights,
    pub(super) log: &'a mut SolveLog,
    pub(super) observer: &'a mut Observer<'o>,
    /// The last optimum, from which the next solve starts.
    pub(super) last: Option<Solution<S::Real>>,
    /// The best optimum so far, if validation rows choose.
    pub(super) best: Option<Solution<S::Real>>,
}

/// The penalty, fold and tolerance of one solve.
#[derive(Clone, Copy)]
pub(super) struct SolveSpec {
    pub(super) l2: f64,
    pub(super) fold: Option<usize>,
    pub(super) tolerance: f64,
}

impl<'a, S: Problem> PathSolver<'a, '_, S> {
    /// The fit for `l2`, or for the penalties of the options.
    pub(super) fn run(mut self, l2: Option<f64>) -> Result<PathFit> {
        match (l2, &self.options.folds) {
            (Some(l2), _) => self.on_all_rows(&[l2], Vec::new()),
            (None, None) => self.by_validation(),
            (None, Some(folds)) => {
                self.cross_validate(folds)?;
                let (path, chosen) = choice(self.log, self.options, self.splits.train)?;
                for entry in &path {
                    self.observer.tell(Event::Scored(entry.clone()));
                }
                let penalties: Vec<f64> = path[..=chosen].iter().map(|entry| entry.l2).collect();
                self.on_all_rows(&penalties, path)
            }
        }
    }

    /// Solve `penalties` on all rows, one after the other; the model is that of the last.
    pub(super) fn on_all_rows(
        mut self,
        penalties: &[f64],
        path: Vec<PathEntry>,
    ) -> Result<PathFit> {
        let risk = self.risk(&self.weights);
        let mut end = None;
        self.last = None;
        for &l2 in penalties {
            let record = self.solve(&risk, self.spec(l2), |_, _, _| Ok(None))?;
            end = Some((l2, record.report));
        }
        let solution = self.last.take();
        self.done(&risk, end.expect("at least one penalty"), solution, path)
    }

    /// Solve all penalties on all rows; the model is that of the lowest validation loss, or of the
    /// weakest penalty if there are no validation rows.
    pub(super) fn by_validation(mut self) -> Result<PathFit> {
        let risk = self.risk(&self.weights);
        let auto = self.options.penalty == Penalty::Auto;
        let mut path = Vec::new();
        for l2 in self.penalties()? {
            let record = self.solve(&risk, self.spec(l2), |solver, solution, report| {
                let Some(validation) = solver.splits.validation else {
                    return Ok(None);
                };
                let model = solver.model(&risk, &solution.point)?;
                let model = solution.model.insert(model);
                let score = model.evaluate(validation)?;
                if solver.options.emit.held_out {
                    let mut logits = Vec::new();
                    for row in model.logits_of(validation)?.each_row() {
                        logits.extend(row.into_iter().map(f64::from));
                    }
                    solver.observer.tell(Event::HeldOut(HeldOut {
                        fold: None,
                        l2,
                        rows: (0..validation.rows() as u32).collect(),
                        outputs: model.bias().len(),
                        logits,
                        report,
                    }));
                }
                Ok(Some((score.loss, score.accuracy)))
            })?;
            let entry = PathEntry::from(&record);
            self.observer.tell(Event::Scored(entry.clone()));
            path.push(entry);
            let best = best(&path, false);
            if let Some(last) = &mut self.last
                && best == path.len() - 1
            {
                self.best = Some(Solution {
                    point: last.point.clone(),
                    steps: last.steps.clone(),
                    model: last.model.take(),
                });
            }
            if auto && path.len() - 1 - best >= AUTO_PATIENCE {
                break;
            }
        }
        let chosen = &path[best(&path, false)];
        let (end, solution) = ((chosen.l2, chosen.report), self.best.take());
        self.done(&risk, end, solution, path)
    }

    /// The result for the chosen penalty: its model and certificate.
    pub(super) fn done(
        mut self,
        risk: &Risk,
        (l2, report): (f64, SolveReport),
        solution: Option<Solution<S::Real>>,
        path: Vec<PathEntry>,
    ) -> Result<PathFit> {
        // A checkpoint in which every solve has ended is never saved, so one without a solution
        // does not belong to this fit.
        let solution = solution.ok_or_else(|| self.log.foreign())?;
        // Ranks choose by folds alone, which need no model.
        let weight = solution
            .model
            .filter(|_| self.design.x().shard().is_none())
            .map(|model| model.weight().as_slice().to_vec());
        let certified = self.certify(risk, &solution.point, (l2, report), weight)?;
        Ok(PathFit {
            model: certified.model,
            l2,
            report: certified.report,
            limit: certified.limit,
            logits: (!self.log.refitting() && risk.ranks().is_none()).then_some(certified.logits),
            path,
            steps: solution.steps,
            engine: self.engine,
            gram_is_possible: self.gram_is_possible(),
            threads: 0,
            seconds: 0.0,
        })
    }

    pub(super) fn spec(&self, l2: f64) -> SolveSpec {
        SolveSpec {
            l2,
            fold: None,
            tolerance: self.options.tolerance,
        }
    }

    pub(super) fn gram_is_possible(&self) -> bool {
        let (n, d) = (self.design.x().all_len(), self.design.x().all_features());
        n <= d && choose(n, d, EngineChoice::Gram).is_ok()
    }

    pub(super) fn risk(&self, weights: &RowWeights) -> Risk<'a> {
        let labels = self.splits.train.labels();
        let smoothing = self.options.weighting.label_smoothing;
        let risk = Risk::new(labels, &weights.samples, &weights.classes, smoothing);
        let risk = if self.options.fit_intercept {
            risk.of_present_classes()
        } else {
            // Without a bias, the weight of a class without rows has an optimum.
            risk.without_bias()
        };
        risk.on_rows_of(self.design.x())
    }

    /// Solve for one penalty from the last optimum, and score the solution; or return the record of
    /// the solve, if the checkpoint has it.
    pub(super) fn solve(
        &mut self,
        risk: &Risk,
        spec: SolveSpec,
        score: impl FnOnce(&mut Self, &mut Solution<S::Real>, SolveReport) -> Result<Option<(f64, f64)>>,
    ) -> Result<SolveRecord> {
        let SolveSpec {
            l2,
            fold,
            tolerance,
        } = spec;
        if let Some(record) = self.log.replay(fold, l2)? {
            return Ok(record);
        }
        if self.log.has_best() {
            self.best = Some(Solution {
                point: self.problem.origin(risk.outputs()),
                steps: Vec::new(),
                model: None,
            });
        }
        let start = match self.last.take() {
            None => self.start(risk)?,
            // A separating weight has no optimum nearby: start a penalised solve from 0.
            Some(_) if self.log.last_status() == Some(Status::Separable) => {
                self.problem.origin(risk.outputs())
            }
            Some(solution) => solution.point,
        };
        let stop = StoppingCriteria {
            tolerance,
            iterations: self.options.max_iterations,
        };
        let mut watched = SolveWatch {
            log: self.log,
            best: self.best.as_mut(),
            observer: self.observer,
            l2,
            fold,
            ranks: risk.ranks(),
        };
        let minimizer = Minimizer::new(&mut *self.problem, risk, l2, start, stop);
        let (point, report) = match self.options.optimizer {
            Optimizer::Newton => {
                let rule = NewtonCg::new(&minimizer);
                minimizer.run(rule, &mut watched)
            }
            Optimizer::Lbfgs => {
                let rule = Lbfgs::new(&minimizer);
                minimizer.run(rule, &mut watched)
            }
        }?;
        let mut solution = Solution {
            point,
            steps: Vec::new(),
            model: None,
        };
        let record = SolveRecord {
            fold,
            l2,
            report,
            score: score(self, &mut solution, report)?,
        };
        if self.options.emit.models && !self.log.refitting() {
            let model = match &solution.model {
                Some(model) => model.clone(),
                None => self.model(risk, &solution.point)?,
            };
            let solved = Solved {
                fold,
                l2,
                report,
                model,
            };
            self.observer.tell(Event::Solved(Box::new(solved)));
        }
        solution.steps = self.log.record(record);
        self.last = Some(solution);
        Ok(record)
    }

    /// The point of [`PathOptions::start`], or the origin.
    fn start(&mut self, risk: &Risk) -> Result<Point<S::Real>> {
        let origin = self.problem.origin(risk.outputs());
        let Some(model) = &self.options.start else {
            return Ok(origin);
        };
        let x = self.design.x();
        let d = x.features();
        let weight = match x.shard() {
            Some(shard) => model
                .columns(shard.first..shard.first + d)
                .weight()
                .as_slice()
                .to_vec(),
            None => model.weight().as_slice().to_vec(),
        };
        let weight = risk.rows_of_present(weight, d);
        let bias = risk.rows_of_present(model.bias().to_vec(), 1);
        let (w, shifts) = self.problem.coordinates(&weight, self.design)?;
        let b = bias.iter().zip(shifts);
        let b = b.map(|(&b, shift)| f64::from(b) + shift);
        Ok(Point {
            w,
            b: if self.options.fit_intercept {
                b.collect()
            } else {
                origin.b
            },
            // The solve computes the logits at its start.
            z: origin.z,
        })
    }
}
