//! Pictures, arrays and text to datasets: see [`flowreg::cli::prep`].

use std::process::ExitCode;

use flowreg::cli;

fn main() -> ExitCode {
    cli::own_process();
    cli::prep::main(std::env::args_os()).into()
}
