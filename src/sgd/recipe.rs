//! Recipes: the four runs of the notebook that flowreg reproduces.

use crate::error::{Error, Result};
use crate::sgd::optimizer::Sgd;
use crate::sgd::options::FitOptions;

/// The options of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Name of the recipe.
    pub name: &'static str,
    /// Use only rows whose label is below this; `None`: all classes.
    pub classes: Option<usize>,
    /// Learning rate of full-batch SGD without momentum.
    pub lr: f64,
    /// Number of epochs.
    pub epochs: usize,
}

/// All recipes: two classes or all, each with a small and a large learning rate.
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
    /// The recipe called `name`.
    ///
    /// # Errors
    /// [`Error::Options`] for another name.
    pub fn named(name: &str) -> Result<&'static Recipe> {
        RECIPES.iter().find(|r| r.name == name).ok_or_else(|| {
            let names = RECIPES.map(|r| r.name).join(", ");
            Error::options("`recipe`", name, format!("one of {names}"))
        })
    }

    /// The recipe's options: full-batch SGD from torch's initial weight with seed 0.
    pub fn options(&self) -> FitOptions {
        FitOptions {
            sgd: Sgd {
                lr: self.lr.into(),
                epochs: self.epochs,
                ..Sgd::default()
            },
            ..FitOptions::default()
        }
    }
}
