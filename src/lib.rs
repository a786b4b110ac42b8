//! Linear softmax and logistic classifiers, trained on the CPU at the speed of the machine.
//!
//! There are two fits. [`fit`](fn@fit) follows the trajectory of `torch.optim.SGD`, epoch by epoch.
//! [`fit_path`] finds the optimum for one penalty or several, and bounds its distance from the
//! minimum. Both return a [`Model`].
//!
//! # Symbols
//!
//! | symbol | meaning | shape |
//! | --- | --- | --- |
//! | n, d, c | numbers of rows, features and outputs | Flowers102: 1020, 49152, 102 |
//! | X | features, row-major f32, borrowed or memory-mapped | n x d |
//! | W, b | weight and bias, as in `torch.nn.Linear` | c x d, c |
//! | Z | logits, Z = X Wᵀ + 1 bᵀ | n x c |
//! | P, Y | probabilities, one-hot labels | n x c |
//! | G | gradient of the loss in Z; for equal weights (P - Y)/n | n x c |
//! | K | Gram matrix X Xᵀ | n x n |
//! | s, A | Gram coordinates of W: W = s·W0 + Aᵀ X | 1, n x c |
//!
//! Z and G are stored transposed (Zᵀ, Gᵀ: c x n, row-major), so that vectors run over rows of X.
//!
//! # Glossary
//!
//! | term | meaning |
//! | --- | --- |
//! | row, sample | one observation: d features and, in [`Samples`], a label |
//! | label, class | the class of a row, as a number from 0; the class names are in [`model::About`] |
//! | output | one row of W: two classes have one output (logistic), c > 2 classes have c (softmax) |
//! | logit | a value of Z: one for each row and output |
//! | loss | mean of -ln p(label) over the rows, with sample and class weights and label smoothing |
//! | penalty, l2 | (l2/2) \|W\|²; b is not penalised |
//! | objective F | loss + penalty |
//! | gap | upper bound of F - min F, by weak duality |
//! | adjoint | Gᵀ X: the gradient in W that belongs to the gradient G in the logits |
//! | design | X as a linear map: W to logits, G to the gradient in W ([`design`]) |
//! | engine | the representation of W during a fit: `gram` (A, s, b) or `primal` (W, b) |
//! | parameters | W and b in the representation of an engine of SGD ([`sgd::parameters`]) |
//! | problem | the objective of a solver in the coordinates of an engine ([`solver::problem`]) |
//! | epoch, batch | one pass over the rows; the rows of one SGD step |
//! | step, solve | one iteration of a solver; all steps for one penalty |
//! | path | solves for several penalties, from the strongest to the weakest |
//! | fold | a split of the rows into fitted and held-out ones, for cross-validation |
//! | temperature T | divisor of the logits that calibrates probabilities ([`model::calibrate`]) |
//!
//! # The SGD trajectory
//!
//! [`fit`](fn@fit) starts from the weights of `torch.nn.Linear`, bit for bit, and applies the update
//! of `torch.optim.SGD`. The gradient in W is Gᵀ X, a combination of rows of X. With fewer rows than
//! features W is therefore kept as `W = s·W0 + Aᵀ X`, without approximation: K is computed once
//! (n²d flop), and an epoch costs 2n²c flop instead of 4ndc. See [`sgd`].
//!
//! ```
//! use flowreg::{FitOptions, Samples, fit};
//!
//! // Four rows of three features, two classes.
//! let x = [1.0, 0.1, 0.0, 0.9, 0.0, 0.2, 0.0, 1.0, 0.8, 0.1, 0.9, 1.0];
//! let train = Samples::from_labels(&x, 3, &[0, 0, 1, 1], 2)?;
//! let mut options = FitOptions::default();
//! options.sgd.lr = 0.5.into();
//! options.sgd.epochs = 50;
//! let fit = fit(&train, &options, &mut |_| {})?;
//! assert!(fit.history[49].loss < fit.history[0].loss);
//! assert_eq!(fit.model.predict(&x)?, [0, 0, 1, 1]);
//! # Ok::<(), flowreg::Error>(())
//! ```
//!
//! # The converged fit
//!
//! [`fit_path`] minimises `loss + (l2/2) |W|²` by Newton's method or L-BFGS, and chooses among
//! several penalties by validation rows or cross-validation. The report is measured on the f32
//! model: [`report.gap`](solver::report::SolveReport::gap) bounds how far its objective is above the
//! minimum. See [`path`] and [`solver`].
//!
//! ```
//! use flowreg::path::Penalty;
//! use flowreg::{PathOptions, Samples, fit_path};
//!
//! let x = [1.0, 0.1, 0.0, 0.9, 0.0, 0.2, 0.0, 1.0, 0.8, 0.1, 0.9, 1.0];
//! let train = Samples::from_labels(&x, 3, &[0, 0, 1, 1], 2)?;
//! let options = PathOptions { penalty: Penalty::Value(0.01), ..Default::default() };
//! let fit = fit_path(&train, &options, &mut |_| {})?;
//! let gap = fit.report.gap.expect("l2 is above 0");
//! assert!(gap < 1e-3 * fit.report.objective);
//! # Ok::<(), flowreg::Error>(())
//! ```
//!
//! # Modules
//!
//! [`data`] makes datasets from pictures, arrays and text, and maps them into memory. [`design`] is
//! X: its rows, scale, products and Gram matrix. [`loss`] computes losses and gradients from
//! logits. [`sgd`] and [`solver`] optimise; [`path`] runs the solver over penalties and folds.
//! [`comm`] connects the processes of one fit; [`RankSamples`] is a dataset of which each has rows.
//! `linalg` multiplies matrices with the `kernels` of this crate or another library. A [`Model`] is
//! calibrated ([`model::calibrate`]), evaluated ([`model::evaluate`]), explained
//! ([`model::explain`]) and exported ([`model::export`]). [`progress`] has the events of a fit, and
//! the flag that stops a fit, a preparation or a download. `io` writes files whole or not at all.
//! `threads` chooses the pool.
//!
//! The library changes no state of the process: it uses the caller's rayon pool or starts one that
//! ends with the call, and sets no signal handler.
//!
//! # What may change
//!
//! Errors, events and results are `#[non_exhaustive]`: a later version may add variants and fields.
//! Structs of options are not, so that `FitOptions { engine, ..FitOptions::default() }` compiles
//! outside of this crate: write the `..`, because they will get more fields. The interface is the
//! items at the root of the crate, [`comm`], [`data`], [`model`], [`path`] and what their signatures name.
//! The other modules are public for flowreg's own benchmarks, tests and fuzz targets; those with
//! formulas are shown here. They may change in any version.
#![deny(unsafe_code, missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod comm;
pub mod data;
pub mod design;
pub mod error;
#[doc(hidden)]
pub mod io;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod linalg;
pub mod loss;
pub mod model;
pub mod path;
pub mod progress;
pub mod sgd;
pub mod solver;
#[doc(hidden)]
pub mod threads;
#[doc(hidden)]
pub mod torch_rng;

/// The Rust code of README and of the book's pages, which `cargo test --doc` compiles and runs.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/reference/rust.md")]
    struct Rust;
}

pub use data::dataset::{Dataset, Split};
pub use design::plan::{EngineChoice, EngineKind, Plan};
pub use design::rank_samples::RankSamples;
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
