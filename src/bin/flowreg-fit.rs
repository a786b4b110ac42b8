//! Dataset to model: see [`flowreg::cli::fit`].

use std::process::ExitCode;

use flowreg::cli;

fn main() -> ExitCode {
    cli::own_process();
    cli::fit::main(std::env::args_os()).into()
}
