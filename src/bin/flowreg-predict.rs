//! A model and inputs to names and probabilities: see [`flowreg::cli::predict`].

use std::process::ExitCode;

use flowreg::cli::{self, predict};

fn main() -> ExitCode {
    cli::main("flowreg-predict", |args: predict::Args| predict::run(&args))
}
