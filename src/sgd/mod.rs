//! Fits by SGD along torch's trajectory.
//!
//! [`fit`](fn@fit) checks the options, scales the features if asked to, chooses the engine ([`plan`]),
//! draws or reads the initial weight, computes the Gram matrix for the Gram engine, runs the epochs
//! (`optimizer`, observed by `trainer`), and computes the model.

pub mod dense;
pub mod gram;
mod init;
pub mod one_pass;
pub mod optimizer;
pub mod options;
pub mod parameters;
#[cfg(test)]
mod ranks_tests;
pub mod recipe;
pub mod schedule;
pub mod shared_rows;
pub mod trainer;
pub mod trajectory;

use std::time::Instant;

use crate::comm;
use crate::design::gram::GramMatrix;
use crate::design::plan::available_memory;
use crate::design::plan::{EngineChoice, EngineKind, Plan, Shape};
use crate::design::samples::{Samples, Splits};
use crate::design::scaler::{Scaler, Standardize};
use crate::error::{Error, Result};
use crate::io::checkpoint::{Fingerprint, Saver};
use crate::kernels::Isa;
use crate::linalg::gemm::{Backend, Gemm};
use crate::loss::{BatchLoss, Loss};
use crate::model::Model;
use crate::progress::{Event, Flow, Observer};
use crate::sgd::dense::DenseParameters;
use crate::sgd::gram::GramParameters;
pub use crate::sgd::init::Init;
use crate::sgd::init::initial_model;
use crate::sgd::optimizer::LearningRate;
use crate::sgd::options::choice;
pub use crate::sgd::options::{Fit, FitOptions, Timings};
use crate::sgd::parameters::Coordinates;
use crate::sgd::parameters::Parameters;
use crate::sgd::shared_rows::SharedRows;
use crate::sgd::trainer::{Observed, Trainer};
use crate::threads;
use crate::threads::Work;

/// Returns the value of `work` and stores the seconds that it took.
fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let value = work();
    *seconds = started.elapsed().as_secs_f64();
    value
}

/// Fits a linear classifier by SGD: logistic for two classes, else softmax.
///
/// `data` is the samples to fit, or a pair of these and the samples to validate on after every epoch.
/// `callback` is called with each event and stops the fit by
/// [`ControlFlow::Break`](std::ops::ControlFlow::Break). Cost: see [`plan`].
///
/// ```
/// use flowreg::{Event, FitOptions, Samples};
///
/// // Four rows of two features, two classes.
/// let x = [0.0, 1.0, 0.2, 0.9, 1.0, 0.1, 0.8, 0.0];
/// let samples = Samples::new(&x, 2, &[0, 0, 1, 1], 2)?;
/// let mut options = FitOptions::default();
/// options.sgd.lr = 1.0.into();
/// let fit = flowreg::fit(&samples, &options, &mut |event| {
///     if let Event::Epoch(epoch) = event {
///         assert!(epoch.loss.is_finite());
///     }
/// })?;
/// assert_eq!(fit.model.evaluate(&samples)?.accuracy, 1.0);
/// assert_eq!(fit.model.predict(&[0.1, 0.8])?, [0]);
/// # Ok::<(), flowreg::Error>(())
/// ```
///
/// # Errors
/// [`Error::Options`] for invalid options, [`Error::Memory`] if the Gram engine is requested and its
/// matrix does not fit the memory, [`Error::Shape`] for features that are not finite and for
/// validation rows or weights that do not match the rows, [`Error::Format`] for an initial model of
/// another shape or a checkpoint of another fit, [`Error::Diverged`] if a loss, or a weight after the
/// last step, is not finite, [`Error::Io`] if a checkpoint cannot be written, [`Error::Interrupted`]
/// if the callback or [`FitOptions::cancel`] stopped the fit.
pub fn fit<'a, F: Flow>(
    data: impl Into<Splits<'a>>,
    options: &FitOptions,
    callback: &mut (dyn FnMut(Event) -> F + Send),
) -> Result<Fit> {
    let mut callback = |event| callback(event).flow();
    let observer = &mut Observer::new(&mut callback, options.cancel.as_ref());
    let splits = data.into();
    check(splits, options)?;
    Isa::chosen()?;
    let mut reading = 0.0;
    // Read a model file first: its shape may not match the rows.
    let start = match &options.init {
        Init::File(_) | Init::Model { .. } => Some(timed(&mut reading, || {
            initial_model(&options.init, options.fit_intercept, splits.train)
        })?),
        Init::Torch { .. } | Init::Zeros => None,
    };
    let values = splits.train.rows().saturating_mul(splits.train.features());
    let products = values.saturating_mul(4 * splits.train.classes());
    let length = Work::flop(products.saturating_mul(options.sgd.epochs));
    let mut fit = threads::run(options.threads, length, || {
        splits.train.x().agree(splits.check_finite())?;
        if options.standardize == Standardize::None {
            fit_rows(splits, splits, options, start, observer)
        } else {
            fit_scaled(splits, options, start, observer)
        }
    })??;
    fit.timings.initial_weights += reading;
    Ok(fit)
}

/// Fits a scaled copy of the rows. The initial model and the result are those of the original
/// features.
fn fit_scaled(
    splits: Splits,
    options: &FitOptions,
    mut start: Option<Model>,
    observer: &mut Observer,
) -> Result<Fit> {
    let started = Instant::now();
    let weights = options.weighting.samples.as_deref();
    let x = splits.train.x();
    let scaler = Scaler::new(x, weights, options.standardize)?;
    let train = x.agree(scaler.apply(splits.train))?;
    let validation = splits.validation.map(|rows| x.agree(scaler.apply(rows)));
    let validation = validation.transpose()?;
    let scaler = match x.shard() {
        Some(shard) => scaler.of_ranks(shard),
        None => scaler,
    };
    let copies = validation.as_ref().zip(splits.validation);
    let validation = copies.map(|(copy, rows)| copy.on_ranks_of(rows));
    let validation = validation.transpose()?;
    let scaled = Splits {
        train: &train.on_ranks_of(splits.train)?,
        validation: validation.as_ref(),
    };
    let finite = |model: &Model, of: &str| match model.non_finite() {
        None => Ok(()),
        Some((place, value)) => Err(Error::options(
            "`standardize`",
            format!(
                "{}, with which {place} of {of} is {value}",
                options.standardize
            ),
            "none, or features whose standard deviations are closer to 1 (multiply them by a constant)",
        )),
    };
    if let Some(start) = &mut start {
        scaler.scale(start);
        finite(start, "the initial model on the scaled features")?;
    }
    let before = started.elapsed();
    let mut fit = fit_rows(scaled, splits, options, start, observer)?;
    let started = Instant::now();
    scaler.restore(&mut fit.model);
    finite(&fit.model, "the model on the original features")?;
    fit.timings.scaling = (before + started.elapsed()).as_secs_f64();
    fit.scaler = Some(scaler);
    Ok(fit)
}

/// Fits rows that are already scaled; `given` are the caller's rows, for the fingerprint.
fn fit_rows(
    splits: Splits,
    given: Splits,
    options: &FitOptions,
    start: Option<Model>,
    observer: &mut Observer,
) -> Result<Fit> {
    let threads = threads::current();
    let gemm = Gemm::new(backend_of(splits.train, options), threads);
    let mut timings = Timings::default();
    let mut plan = splits.train.x().agree(plan(splits, options))?;
    observer.tell(Event::Planned(plan));
    let draw = || match start {
        Some(start) => Ok(start),
        None => initial_model(&options.init, options.fit_intercept, splits.train),
    };
    let start = timed(&mut timings.initial_weights, || match plan.engine {
        EngineKind::Primal => draw(),
        // Drawing uses one core. Meanwhile read X by rows, which is faster on a disk than the slabs
        // of columns that K reads.
        EngineKind::Gram => {
            let x = splits.train.x();
            threads::join(draw, || x.touch(0..x.len())).0
        }
    })?;
    // Refuse a checkpoint of another fit before K is computed.
    let mut saver = (options.checkpoints.clone()).map(|checkpoints| {
        Saver::new(
            checkpoints,
            fingerprint(given, options, plan, &start),
            "epochs",
        )
    });
    let comm = given.train.x().comm();
    if comm.is_some_and(|comm| comm.rank() > 0) {
        saver = saver.map(Saver::reading_only);
    }
    if let Some(saver) = &saver {
        let refused = saver.refuse_other(Some("`engine`"));
        given.train.x().agree(refused)?;
    }
    let k = match plan.engine {
        EngineKind::Primal => None,
        EngineKind::Gram => match timed(&mut timings.gram_matrix, || {
            let weights = options.weighting.samples.as_deref();
            gram_matrices(splits, weights, gemm, observer)
        }) {
            Err(Error::Memory { what, found, .. }) if given.train.x().shard().is_some() => {
                return Err(Error::memory(what, found, NO_MEMORY_FOR_K));
            }
            // The primal engine needs no K.
            Err(Error::Options { .. } | Error::Memory { .. })
                if choice_for(options, splits.train)? == EngineChoice::Auto =>
            {
                plan.engine = EngineKind::Primal;
                plan.gram_fits = false;
                observer.tell(Event::Planned(plan));
                None
            }
            k => Some(k?),
        },
    };
    if let Some(saver) = &mut saver {
        saver.decide("`engine`", plan.engine.to_string());
    }
    let x = splits.train.x();
    let start = match x.shard() {
        Some(shard) => start.columns(shard.first..shard.first + x.features()),
        None => start,
    };
    let x_validation = splits.validation.map(Samples::x);
    let mut run = Run {
        splits,
        saver,
        options,
        plan,
        threads,
        timings,
        observer,
    };
    match k {
        None => {
            let intercept = options.fit_intercept;
            let dense = DenseParameters::new(x, x_validation, start, intercept, gemm);
            match x.row_shard() {
                None => run.train(dense),
                Some(shard) => run.train(SharedRows::new(dense, shard)),
            }
        }
        Some((k, k_validation)) => {
            let validation = x_validation.zip(k_validation);
            let engine = timed(&mut run.timings.initial_logits, || {
                GramParameters::new(x, k, validation, start, options.fit_intercept, gemm)
            });
            run.train(engine)
        }
    }
}

/// What to do where K, which ranks that share the columns need, does not fit.
const NO_MEMORY_FOR_K: &str =
    "more memory, fewer processes on one machine, or a run without mpirun, which needs no K";

/// The engine that [`fit`] will use, and the cost of each engine.
///
/// # Errors
/// [`Error::Memory`] if the Gram engine is requested and its matrix does not fit the memory,
/// [`Error::Options`] if coordinates are requested of the primal engine.
pub fn plan<'a>(data: impl Into<Splits<'a>>, options: &FitOptions) -> Result<Plan> {
    let Splits { train, validation } = data.into();
    let shape = Shape {
        rows: train.rows(),
        validation_rows: validation.map_or(0, Samples::rows),
        features: train.x().all_features(),
        outputs: Loss::for_classes(train.classes()).outputs(train.classes()),
    };
    let memory = available_memory();
    let choice = choice_for(options, train)?;
    let plan = Plan::new(shape, options.sgd.epochs, choice, memory);
    match plan {
        Err(Error::Memory { what, found, .. }) if train.x().shard().is_some() => {
            Err(Error::memory(what, found, NO_MEMORY_FOR_K))
        }
        Err(Error::Memory { found, .. }) if options.emit_coordinates => Err(Error::memory(
            "`emit_coordinates`",
            found,
            "no `emit_coordinates`, so that the primal engine can be used, or fewer rows",
        )),
        plan => plan,
    }
}

/// The engine that the options imply. Ranks that share the columns have the Gram engine only, those that
/// share the rows the primal one.
fn choice_for(options: &FitOptions, train: &Samples) -> Result<EngineChoice> {
    if train.x().row_shard().is_some() {
        return match choice(options)? {
            EngineChoice::Gram => Err(Error::options(
                "`engine`",
                "gram, with several processes that share the rows",
                "primal (or auto), without coordinates of the epochs; or a run of one process, without mpirun",
            )),
            _ => Ok(EngineChoice::Primal),
        };
    }
    match (choice(options)?, train.x().shard()) {
        (EngineChoice::Primal, Some(_)) => Err(Error::options(
            "`engine`",
            "primal, with several processes",
            "gram (or auto): processes that share the columns of X have no other; or a run of one process, without mpirun",
        )),
        (_, Some(_)) => Ok(EngineChoice::Gram),
        (choice, None) => Ok(choice),
    }
}

fn check(splits: Splits, options: &FitOptions) -> Result<()> {
    options.check(splits.validation.is_some())?;
    options.weighting.of(splits.train)?;
    if let Some(validation) = splits.validation {
        let (train, validation) = (splits.train.x(), validation.x());
        if validation.row_shard().is_some()
            || train.shard().is_some() != validation.shard().is_some()
        {
            return Err(Error::options(
                "`validation`",
                "rows that are divided among processes in another way than the training rows",
                "the same columns as those of the training rows, or all validation rows in every process if the training rows are shared",
            ));
        }
    }
    splits.check_shapes()
}

/// Computes K and, with validation rows, K_val.
fn gram_matrices(
    splits: Splits,
    weights: Option<&[f64]>,
    gemm: Gemm,
    observer: &mut Observer,
) -> Result<(GramMatrix, Option<GramMatrix>)> {
    let x = splits.train.x();
    let of = x.features() * (1 + usize::from(splits.validation.is_some()));
    let k = GramMatrix::weighted(x, weights, gemm, &mut |columns| {
        observer.columns(columns, of)
    })?;
    let k_validation = splits.validation.map(|validation| {
        GramMatrix::between(validation.x(), x, &k, gemm, &mut |columns| {
            observer.columns(columns + x.features(), of)
        })
    });
    Ok((k, k_validation.transpose()?))
}

/// A fit after the choice of its engine.
struct Run<'a, 'o> {
    splits: Splits<'a>,
    saver: Option<Saver>,
    options: &'a FitOptions,
    plan: Plan,
    threads: usize,
    timings: Timings,
    observer: &'a mut Observer<'o>,
}

impl Run<'_, '_> {
    fn train<E: Parameters>(&mut self, mut engine: E) -> Result<Fit> {
        let train = self.splits.train;
        let sgd = &self.options.sgd;
        let mut loss = BatchLoss::weighted(train, &self.options.weighting)?;
        let (lr, lr_bound) = timed(&mut self.timings.learning_rate, || {
            learning_rate(self.options, &mut engine, &loss, train, self.plan.engine)
        })?;
        self.observer.tell(Event::Started { lr, lr_bound });
        let saver = self.saver.take();
        let (splits, options) = (self.splits, self.options);
        let mut trainer = Trainer::new(splits, options, &engine, saver, self.observer);
        let end = timed(&mut self.timings.epochs, || {
            sgd.run(lr, &mut engine, &mut loss, &mut trainer)
        })?;
        let Observed { history, best } = trainer.finish();
        let (best_epoch, point) = match best {
            Some(best) => (Some(best.epoch), best.point),
            None => (None, end),
        };
        let coordinates = E::coordinates(&point).map(Coordinates::to_vec);
        if let (Some(shard), Some(values)) = (train.x().shard(), &coordinates) {
            // Every rank computed them alone.
            comm::refuse_other_state(shard.comm, bytemuck::cast_slice(values))?;
        }
        let model = timed(&mut self.timings.weight, || {
            let model = engine.into_model(point);
            match train.x().shard() {
                Some(shard) => model.of_ranks(shard),
                None => model,
            }
        });
        if let Some(shard) = train.x().row_shard() {
            comm::refuse_other_state(shard.comm, &model.crc32().to_le_bytes())?;
        }
        // The loss of a step is that before it: no loss shows whether the last step diverged.
        if let (Some(last), Some((_, value))) = (history.last(), model.non_finite()) {
            return Err(Error::Diverged {
                epoch: last.epoch,
                what: "weight",
                loss: value.into(),
                lr: last.lr,
            });
        }
        Ok(Fit {
            model,
            history,
            plan: self.plan,
            lr,
            lr_bound,
            best_epoch,
            threads: self.threads,
            coordinates,
            scaler: None,
            timings: self.timings,
        })
    }
}

/// The back end of the products. Only the crate's own kernels give each element the same bits in any part
/// of a product, which ranks need.
fn backend_of(train: &Samples, options: &FitOptions) -> Backend {
    if train.x().is_shared() {
        Backend::Own
    } else {
        options.backend
    }
}

/// All inputs on which the bits of the fit depend, by their names on the command line. The number of
/// threads is not among them. The instruction set is, unless the crate's own kernels compute the
/// products.
fn fingerprint(given: Splits, options: &FitOptions, plan: Plan, start: &Model) -> Fingerprint {
    let FitOptions { sgd, init, .. } = options;
    let [train, validation] = given.fingerprints();
    let start = start.crc32();
    let number = |n: Option<usize>| n.map_or("none".to_string(), |n| n.to_string());
    let mut fingerprint = vec![
        ("`optimizer`", "sgd".to_string()),
        ("training rows", train),
        ("validation rows", validation),
        ("`engine`", plan.engine.to_string()),
        ("`backend`", backend_of(given.train, options).to_string()),
        ("`init`", format!("{init}, {start:08x}")),
        ("`fit_intercept`", options.fit_intercept.to_string()),
        ("`early_stopping`", number(options.early_stopping)),
        ("`epochs`", sgd.epochs.to_string()),
        ("`lr`", sgd.lr.to_string()),
        ("`lr_schedule`", sgd.schedule.to_string()),
        ("`momentum`", sgd.momentum.to_string()),
        ("`dampening`", sgd.dampening.to_string()),
        ("`nesterov`", sgd.nesterov.to_string()),
        ("`weight_decay`", sgd.weight_decay.to_string()),
        ("`batch_size`", number(sgd.batch_size)),
        ("`seed`", sgd.seed.to_string()),
        ("`standardize`", options.standardize.to_string()),
    ];
    if given.train.x().is_shared() {
        let (name, value) = comm::OF_SEVERAL;
        fingerprint.insert(0, (name, value.to_string()));
    }
    fingerprint.extend(options.weighting.fingerprint());
    if backend_of(given.train, options) != Backend::Own {
        fingerprint.push(("instruction set", Isa::current().to_string()));
    }
    let own = |(name, value): (&str, String)| (name.to_string(), value);
    fingerprint.into_iter().map(own).collect()
}

/// The learning rate, and 2/L if it is needed or cheap (on the Gram engine), where L is the Lipschitz
/// constant of the gradient.
fn learning_rate<E: Parameters>(
    options: &FitOptions,
    engine: &mut E,
    loss: &BatchLoss,
    train: &Samples,
    kind: EngineKind,
) -> Result<(f64, Option<f64>)> {
    let sgd = &options.sgd;
    let of_bias = if options.fit_intercept { 1.0 } else { 0.0 };
    let lipschitz = (kind == EngineKind::Gram || sgd.lr == LearningRate::Auto).then(|| {
        sgd.lipschitz_constant(engine, loss, |keep| {
            train.x().largest_square(keep) + of_bias
        })
    });
    let lr = match (sgd.lr, lipschitz) {
        (LearningRate::Fixed(lr), _) => lr,
        (LearningRate::Auto, Some(l)) if l.is_finite() && (1.0 / l).is_finite() => 1.0 / l,
        (LearningRate::Auto, l) => {
            let found = format!("auto, where L is {}", l.unwrap_or(f64::NAN));
            return Err(Error::options(
                "`lr`",
                found,
                "a number: 1/L is no learning rate (the features are too large or all 0, or \
                 mini-batches with label smoothing have rows of class weight 0)",
            ));
        }
    };
    let bound = lipschitz.map(|l| 2.0 / l);
    Ok((lr, bound.filter(|bound| !bound.is_infinite())))
}
