//! Linear softmax and logistic classifiers, trained on the CPU at the speed of the machine.
//!
//! # Names
//!
//! | name | meaning | shape |
//! | --- | --- | --- |
//! | n, d, c | rows, features, outputs | Flowers102: 1020, 49152, 102 |
//! | X | features, row-major f32, borrowed or memory-mapped | n x d |
//! | W, b | weight and bias, as `torch.nn.Linear` has them | c x d, c |
//! | Z | logits, Z = X Wᵀ + 1 bᵀ | n x c |
//! | P, Y | probabilities, one-hot labels | n x c |
//! | G | gradient of the loss in Z: (P - Y)/n | n x c |
//! | K | Gram matrix X Xᵀ | n x n |
//! | A | Gram coordinates of W: W = s·W0 + Aᵀ X | n x c |
//!
//! Two classes are fitted by one logistic output (c = 1), more by a softmax. The loss is
//! the mean over rows.
//!
//! # Two fits
//!
//! [`fit`](fn@fit) follows `torch.optim.SGD` epoch by epoch, to the same losses. With fewer rows
//! than features the whole trajectory runs, exactly, in Gram coordinates `W = s·W0 + Aᵀ X`: an
//! epoch then costs 2n²c flop instead of 4ndc.
//!
//! [`fit_path`] finds the optimum of `mean loss + (l2/2) |W|²` for one penalty or many, by Newton's
//! method or L-BFGS, and certifies it: [`report.gap`](SolveReport::gap) bounds how
//! far the objective of the f32 model is above its minimum. See [`path`].
//!
//! # The way of the data
//!
//! [`data`] makes datasets of pictures, arrays and text; [`Dataset`] maps them. [`Samples`] are rows
//! with labels, of a dataset or of the caller's slices. A fit gives a [`Model`]; it is
//! calibrated ([`model::calibrate`]), evaluated ([`model::evaluate`]), explained
//! ([`model::explain`]) and exported ([`model::export`]). An [`Event`] tells the caller what
//! happens, and a [`Cancel`] stops a fit, a preparation or a download. Files are written whole or not
//! at all.
//!
//! Nothing is process-wide: a fit works in the caller's rayon pool or in one of its own, and no
//! handler of a signal is set.
//!
//! # What may change
//!
//! Errors, events and results are `#[non_exhaustive]`: a later version may add variants and fields.
//! Structs of options are not, so that `FitOptions { engine, ..FitOptions::default() }` compiles
//! outside of this crate: write the `..`, as they grow, too. Modules that are not shown here
//! (kernels, products, solvers, files) are public for flowreg's own benchmarks, tests and fuzz
//! targets, and promise nothing.
//!
//! # Example
//!
//! ```no_run
//! use flowreg::{Dataset, Recipe};
//!
//! let dataset = Dataset::open("flowers")?;
//! let (train, test) = (dataset.split("train")?, dataset.split("test")?);
//! let options = Recipe::named("softmax-fast")?.options();
//! let fit = flowreg::fit(&train.samples()?, &options, &mut |event| println!("{event:?}"))?;
//! let test = fit.model.evaluate(&test.samples()?)?;
//! println!("test accuracy {:.4}, loss {:.4}", test.accuracy, test.loss);
//! # Ok::<(), flowreg::Error>(())
//! ```
#![deny(unsafe_code, missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod data;
#[doc(hidden)]
pub mod design;
pub mod error;
#[doc(hidden)]
pub mod io;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod linalg;
#[doc(hidden)]
pub mod loss;
pub mod model;
pub mod path;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod sgd;
#[doc(hidden)]
pub mod solver;
#[doc(hidden)]
pub mod threads;
#[doc(hidden)]
pub mod torch_rng;

pub use data::dataset::{Dataset, Split};
pub use design::plan::{EngineChoice, EngineKind, Plan};
pub use design::samples::{OwnedSamples, Rows, Samples, Splits};
pub use design::scaler::{Scaler, Standardize};
pub use error::{Error, Result};
pub use io::checkpoint::{Checkpoints, Every};
pub use io::publish::Overwrite;
pub use linalg::gemm::Backend;
pub use linalg::mat::MatRef;
pub use loss::weights::{ClassWeights, SampleWeights};
pub use loss::{Loss, loss_to_probability, probability_to_loss};
pub use model::evaluate::{Score, Scores};
pub use model::{Evaluation, Model};
pub use path::{PathFit, PathOptions, fit_path};
pub use progress::{Cancel, Epoch, Event, Flow, HeldOut, PathEntry, Solved};
pub use sgd::optimizer::{LearningRate, Sgd};
pub use sgd::recipe::{RECIPES, Recipe};
pub use sgd::schedule::{Decay, Schedule};
pub use sgd::trajectory::{Trajectory, TrajectoryWriter};
pub use sgd::{Fit, FitOptions, Init, Timings, fit, plan};
pub use solver::report::{SolveReport, Status, Step};
