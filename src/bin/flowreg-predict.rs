//! A model and inputs to names and probabilities: see [`flowreg::cli::predict`].

use std::process::ExitCode;

use flowreg::cli;

fn main() -> ExitCode {
    cli::own_process();
    cli::predict::main(std::env::args_os()).into()
}
