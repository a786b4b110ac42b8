//! The story: check the options, choose the start, optimise, hand over the model.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use crate::data::samples::Samples;
use crate::engine::{self, Choice, Engine, Gram, GramMatrix, Kind, Plan, Primal};
use crate::error::{Error, Result};
use crate::gemm::{Backend, Gemm};
use crate::model::Model;
use crate::objective::{Loss, Objective};
use crate::optim::sgd::{Epoch, Sgd};
use crate::threads;
use crate::torch_rng::TorchRng;

/// What to fit and how.
#[derive(Clone, Debug, Default)]
pub struct FitOptions {
    /// The optimizer and its settings.
    pub sgd: Sgd,
    /// Where the weights start.
    pub init: Init,
    /// How the weight is represented.
    pub engine: Choice,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
    /// Who multiplies matrices.
    pub backend: Backend,
}

/// Initial weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Those of `torch.manual_seed(seed); torch.nn.Linear(d, c)`, to the bit.
    Torch {
        /// The seed.
        seed: u32,
    },
    /// All zero.
    Zeros,
    /// A model file of the same shape.
    File(PathBuf),
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Init::Torch { seed } => write!(f, "torch (seed {seed})"),
            Init::Zeros => f.write_str("zeros"),
            Init::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Default for Init {
    fn default() -> Self {
        Init::Torch { seed: 0 }
    }
}

/// One of the founding notebook's four runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// Use the labels below this; `None` is all classes.
    pub classes: Option<usize>,
    /// Learning rate of full-batch SGD without momentum.
    pub lr: f32,
    /// Epochs.
    pub epochs: usize,
}

/// The notebook's runs: two classes or all, a cautious and a daring learning rate.
pub const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "binary-slow",
        classes: Some(2),
        lr: 1e-4,
        epochs: 100,
    },
    Recipe {
        name: "binary-fast",
        classes: Some(2),
        lr: 1e-2,
        epochs: 100,
    },
    Recipe {
        name: "softmax-slow",
        classes: None,
        lr: 0.01,
        epochs: 100,
    },
    Recipe {
        name: "softmax-fast",
        classes: None,
        lr: 0.1,
        epochs: 250,
    },
];

impl Recipe {
    /// Look a recipe up.
    pub fn named(name: &str) -> Result<&'static Recipe> {
        RECIPES.iter().find(|r| r.name == name).ok_or_else(|| {
            let names = RECIPES.map(|r| r.name).join(", ");
            Error::options("--recipe", name, format!("one of {names}"))
        })
    }

    /// The recipe's options: full-batch SGD from torch's weights of seed 0.
    pub fn options(&self) -> FitOptions {
        FitOptions {
            sgd: Sgd {
                lr: self.lr,
                epochs: self.epochs,
                ..Sgd::default()
            },
            ..FitOptions::default()
        }
    }
}

/// A finished fit.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The trained model.
    pub model: Model,
    /// Every epoch's loss, before its step.
    pub history: Vec<Epoch>,
    /// Name of the engine that did it.
    pub engine: &'static str,
    /// Threads it used.
    pub threads: usize,
    /// Seconds of fitting: from the options to the model, nothing else.
    pub seconds: f64,
}

/// Fit a linear classifier to `samples`: logistic for two classes, else softmax.
///
/// `observe` sees each epoch as it ends. Cost: that of the [`plan`].
///
/// ```
/// use flowreg::{FitOptions, Samples};
///
/// // Four rows of two features, two classes.
/// let x = [0.0, 1.0, 0.2, 0.9, 1.0, 0.1, 0.8, 0.0];
/// let samples = Samples::new(&x, 2, &[0, 0, 1, 1], 2)?;
/// let mut options = FitOptions::default();
/// options.sgd.lr = 1.0;
/// let fit = flowreg::fit(&samples, &options, &mut |epoch| {
///     assert!(epoch.loss.is_finite());
/// })?;
/// assert_eq!(fit.model.evaluate(&samples)?.accuracy, 1.0);
/// assert_eq!(fit.model.predict(&[0.1, 0.8])?, [0]);
/// # Ok::<(), flowreg::Error>(())
/// ```
///
/// # Errors
/// [`Error::Options`], [`Error::Shape`] for initial weights of another shape,
/// [`Error::Diverged`] if the loss stops being finite.
pub fn fit(
    samples: &Samples,
    options: &FitOptions,
    observe: &mut (dyn FnMut(Epoch) + Send),
) -> Result<Fit> {
    options.sgd.check()?;
    let pool = threads::pool(options.threads)?;
    pool.install(|| {
        let started = Instant::now();
        let threads = pool.current_num_threads();
        let loss = Loss::for_classes(samples.classes());
        let start = initial_model(&options.init, samples, loss)?;
        let gemm = Gemm::new(options.backend, threads);
        let x = samples.x();
        let k = match plan(samples, options)?.engine {
            Kind::Primal => None,
            Kind::Gram => match GramMatrix::new(x, gemm) {
                // The primal engine may reach what K cannot hold.
                Err(_) if options.engine == Choice::Auto => None,
                k => Some(k?),
            },
        };
        let (model, history, engine) = match k {
            Some(k) => train(Gram::new(x, k, start, gemm), samples, &options.sgd, observe),
            None => train(Primal::new(x, start, gemm), samples, &options.sgd, observe),
        }?;
        Ok(Fit {
            model,
            history,
            engine,
            threads,
            seconds: started.elapsed().as_secs_f64(),
        })
    })
}

/// The engine that [`fit`] will use, and what each would cost.
///
/// # Errors
/// [`Error::Options`] if the Gram engine is asked for and its matrix does not fit.
pub fn plan(samples: &Samples, options: &FitOptions) -> Result<Plan> {
    let c = Loss::for_classes(samples.classes()).outputs(samples.classes());
    let shape = (samples.rows(), samples.features(), c);
    let memory = engine::available_memory();
    Plan::new(shape, options.sgd.epochs, options.engine, memory)
}

/// Optimise on one engine: the model, every epoch, and the engine's name.
fn train<E: Engine>(
    mut engine: E,
    samples: &Samples,
    sgd: &Sgd,
    observe: &mut (dyn FnMut(Epoch) + Send),
) -> Result<(Model, Vec<Epoch>, &'static str)> {
    let loss = Loss::for_classes(samples.classes());
    let mut objective = Objective::new(loss, samples.labels());
    let mut history = Vec::with_capacity(sgd.epochs);
    let end = sgd.run(&mut engine, &mut objective, &mut |epoch| {
        history.push(epoch);
        observe(epoch);
    })?;
    Ok((engine.materialise(end), history, engine.name()))
}

fn initial_model(init: &Init, samples: &Samples, loss: Loss) -> Result<Model> {
    let (features, outputs) = (samples.features(), loss.outputs(samples.classes()));
    match init {
        Init::Torch { seed } => {
            let (weight, bias) = TorchRng::new(*seed).linear(features, outputs);
            Model::new(weight, bias)
        }
        Init::Zeros => Model::new(vec![0.0; outputs * features], vec![0.0; outputs]),
        Init::File(path) => {
            let model = Model::load(path)?;
            let found = (model.bias().len(), model.weight().cols());
            if found != (outputs, features) {
                return Err(Error::format(
                    path,
                    "weight",
                    format!("{} x {}", found.0, found.1),
                    format!("{outputs} x {features} as the data asks for"),
                ));
            }
            let values = model.weight().as_slice().iter().chain(model.bias());
            if let Some(value) = values.into_iter().find(|value| !value.is_finite()) {
                return Err(Error::format(
                    path,
                    "weight or bias",
                    value,
                    "finite numbers",
                ));
            }
            Ok(model)
        }
    }
}
