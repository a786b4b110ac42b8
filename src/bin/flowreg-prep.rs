//! Photographs to dataset.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use flowreg::data::demo::{self, DemoOptions};
use flowreg::data::flowers102::{self, Verify};
use flowreg::data::jpeg::Warnings;
use flowreg::data::prep::{self, PrepOptions};
use flowreg::publish::{Overwrite, Staging};
use flowreg::{Dataset, Result, cli, threads};

/// Prepare photographs once into a memory-mapped f32 matrix.
#[derive(Parser)]
#[command(
    name = "flowreg-prep",
    version,
    after_help = "\
Examples:
  flowreg-prep flowers102 --root ~/flowers-102 --out flowers
  flowreg-prep flowers102 --root ~/flowers-102 --out flowers64 --size 64
  flowreg-prep demo --out photographs
  flowreg-prep flowers102 --root photographs --no-verify --out demo-data
  flowreg-prep verify flowers

A preparation that was stopped or killed leaves nothing that counts: start it again, it
begins anew.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 a bug, 73 the output exists or
another process is writing it, 74 a file could not be read or written, 75 a file changed
while it was in use, 130 and 143 stopped by Ctrl-C or SIGTERM."
)]
struct Prep {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Oxford Flowers102: a folder with jpg/, imagelabels.mat and setid.mat
    Flowers102(Flowers102),
    /// Draw the demo's synthetic photographs, in Flowers102's layout
    Demo(Demo),
    /// Check every byte of a dataset against its checksums; nothing is repaired
    Verify(Dir),
}

#[derive(Args)]
struct Dir {
    /// Dataset directory
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Args)]
struct Flowers102 {
    /// Folder that holds jpg/, imagelabels.mat and setid.mat
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Side of the square that photographs are resized to, in pixels
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Accept .mat files other than the official ones
    #[arg(long)]
    no_verify: bool,
    /// Accept photographs that libjpeg finds damaged, with the pixels that it invents
    #[arg(long)]
    lenient: bool,
    /// Leave out photographs that cannot be used, and list them, instead of refusing all
    #[arg(long)]
    skip_bad: bool,
    #[command(flatten)]
    output: Output,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Args)]
struct Demo {
    #[command(flatten)]
    output: Output,
    /// Seed of the drawing
    #[arg(long, default_value_t = 0)]
    seed: u32,
}

#[derive(Args)]
struct Output {
    /// Directory to write; it appears complete or not at all
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

impl Output {
    fn overwrite(&self) -> Overwrite {
        match self.force {
            true => Overwrite::Replace,
            false => Overwrite::Never,
        }
    }
}

fn main() -> ExitCode {
    cli::main("flowreg-prep", |args: Prep| match args.command {
        Command::Flowers102(args) => prepare(&args),
        Command::Demo(args) => draw(&args),
        Command::Verify(args) => verify(&args),
    })
}

fn prepare(args: &Flowers102) -> Result<()> {
    let verify = match args.no_verify {
        true => Verify::Any,
        false => Verify::Official,
    };
    let photographs = flowers102::open(&args.root, verify)?;
    let rows: usize = photographs.splits.iter().map(|s| s.rows.len()).sum();
    let (size, out) = (args.size, &args.output.out);
    cli::say(format_args!(
        "{}: {rows} photographs, {} classes, to {size} x {size} x 3 = {} features",
        photographs.source,
        photographs.class_names.len(),
        3 * size * size,
    ));
    let bar = cli::progress(rows as u64, "prepare");
    let started = std::time::Instant::now();
    let options = PrepOptions {
        size,
        warnings: match args.lenient {
            true => Warnings::Accept,
            false => Warnings::Refuse,
        },
        skip_bad: args.skip_bad,
    };
    let overwrite = args.output.overwrite();
    let manifest = threads::pool(args.threads)?
        .install(|| prep::prepare(&photographs, &options, out, overwrite, &|n| bar.inc(n)))?;
    bar.finish_and_clear();
    for split in &manifest.splits {
        cli::say(format_args!("  {:5} {:5} rows", split.name, split.rows));
    }
    for skipped in &manifest.skipped {
        cli::say(format_args!("  skipped: {skipped}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    cli::say(format_args!(
        "{} in {seconds:.1} s ({:.2} ms a photograph)",
        out.display(),
        seconds * 1e3 / rows as f64
    ));
    say_next(out);
    Ok(())
}

fn verify(args: &Dir) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    threads::pool(args.threads)?.install(|| dataset.verify())?;
    let splits = &dataset.manifest().splits;
    let rows: usize = splits.iter().map(|split| split.rows).sum();
    cli::say(format_args!(
        "{}: every byte is as it was written ({} splits, {rows} rows)",
        args.dataset.display(),
        splits.len()
    ));
    Ok(())
}

fn say_next(out: &Path) {
    cli::say(format_args!(
        "next: flowreg-fit {} --recipe softmax-slow --out RUN",
        out.display()
    ));
}

fn draw(args: &Demo) -> Result<()> {
    let options = DemoOptions {
        seed: args.seed,
        ..DemoOptions::default()
    };
    let staging = Staging::begin(&args.output.out, args.output.overwrite())?;
    let bar = cli::progress(options.photographs() as u64, "draw");
    demo::write_photographs(staging.dir(), &options, &|n| bar.inc(n))?;
    bar.finish_and_clear();
    staging.publish()?;
    cli::say(format_args!(
        "{}: {} photographs of {} classes; next: flowreg-prep flowers102 --root {} --no-verify --out DATASET",
        args.output.out.display(),
        options.photographs(),
        options.classes,
        args.output.out.display(),
    ));
    Ok(())
}
