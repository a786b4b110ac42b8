//! `flowreg-fit`: fits a model to a dataset or arrays; compares and exports runs; plans fits of
//! several processes.

mod args;
mod converged;
mod data;
mod options;
mod plan;
mod print;
mod run;

use std::ffi::OsString;

use std::path::{Path, PathBuf};

use self::args::{Args, Command, Compare, Export};
use self::run::run;
use crate::cli::report;
use crate::io::publish::{OutputKind, Overwrite, Staging, write_file};
use crate::model::export;
use crate::{Model, Result, cli};

/// Runs the program with these arguments, of which the first is the program's name, and returns the
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    cli::main("flowreg-fit", args, |args: Args| match &args.command {
        None => run(args),
        Some(Command::Compare(args)) => compare(args),
        Some(Command::Export(args)) => export(args),
        Some(Command::Plan(args)) => plan::plan(args),
    })
}

fn compare(args: &Compare) -> Result<()> {
    let page = report::compare(&args.runs)?;
    let runs: Vec<&Path> = args.runs.iter().map(PathBuf::as_path).collect();
    let overwrite = Overwrite::forced(args.force);
    write_file(
        &args.out,
        |start| start.starts_with(report::SIGNATURE),
        page.as_bytes(),
        overwrite,
        &runs,
    )?;
    cli::info(format_args!(
        "{}: {} runs",
        args.out.display(),
        args.runs.len()
    ));
    Ok(())
}

fn export(args: &Export) -> Result<()> {
    let model = Model::load(Model::file_of(&args.model))?;
    let staging = Staging::begin(
        &args.out,
        OutputKind::Export,
        Overwrite::forced(args.force),
        &[&args.model],
    )?;
    let files = export::write(&staging, &model)?;
    staging.publish()?;
    cli::info(format_args!("{}: {}", args.out.display(), files.join(", ")));
    let numbers = model.about().numbers.as_ref();
    if numbers.is_some_and(|numbers| numbers.scale.is_some()) {
        let (weight, onnx) = (export::WEIGHT, export::ONNX);
        cli::info(format_args!(
            "  {weight} expects bytes divided by 255; {onnx} divides them"
        ));
    }
    if files.contains(&export::SHIFT) {
        let (weight, shift, onnx) = (export::WEIGHT, export::SHIFT, export::ONNX);
        cli::info(format_args!(
            "  {weight} expects rows minus {shift}, subtracted in f64; {onnx} subtracts it"
        ));
    }
    Ok(())
}
