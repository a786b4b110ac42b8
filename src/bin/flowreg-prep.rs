//! Photographs, arrays or text to dataset.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use flowreg::data::checks;
use flowreg::data::dataset::Prepared;
use flowreg::data::demo;
use flowreg::data::demo::DemoOptions;
use flowreg::data::flowers102;
use flowreg::data::flowers102::Verify;
use flowreg::data::folder;
use flowreg::data::folder::{FolderOptions, Layout, Shares};
use flowreg::data::jpeg;
use flowreg::data::libsvm::{Found, LibsvmOptions};
use flowreg::data::photographs::{Loader, Photographs};
use flowreg::data::pictures::DecodeOptions;
use flowreg::data::prep;
use flowreg::data::prep::PrepOptions;
use flowreg::data::source::Part;
use flowreg::data::{arrays, csv_text, download, libsvm, list};
use flowreg::io::publish::{OutputKind, Overwrite, Staging};
use flowreg::threads;
use flowreg::{Dataset, Error, Result, cli};

/// Prepare data once into a memory-mapped f32 matrix.
#[derive(Parser)]
#[command(
    name = "flowreg-prep",
    version,
    after_help = "\
Examples:
  flowreg-prep flowers102 --root ~/flowers-102 --download --out flowers
  flowreg-prep flowers102 --root ~/flowers-102 --out flowers64 --size 64
  flowreg-prep folder --root ~/my-photographs --out mine
  flowreg-prep folder --root ~/my-photographs --split-names train=learn,val=check --out mine
  flowreg-prep folder --list labels.csv --root ~/all-photographs --out mine
  flowreg-prep npy --x x.npy --y y.npy --x-test xt.npy --y-test yt.npy --out arrays
  flowreg-prep npy --x data.npz:x_train --y data.npz:y_train --labels-from 1 --out arrays
  flowreg-prep csv --label species --train iris.csv --test more.csv --out iris
  flowreg-prep libsvm --train a9a --test a9a.t --out a9a-data
  curl https://example.org/a9a.xz | flowreg-prep libsvm --train - --out a9a-data
  flowreg-prep demo --out photographs
  flowreg-prep flowers102 --root photographs --no-verify --out demo-data
  flowreg-prep verify flowers

A preparation that was stopped or killed leaves nothing that counts: start it again, it
begins anew. A download goes on where it stopped.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 a bug, 71 no memory, 73 the output
exists or another process is writing it, 74 a file could not be read, written or fetched, 75 a
file changed while it was in use, 130 and 143 stopped by Ctrl-C or SIGTERM (a second one stops
at once)."
)]
struct Prep {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Oxford Flowers102: a folder with jpg/ or 102flowers.tgz, imagelabels.mat and setid.mat
    Flowers102(Flowers102),
    /// Your photographs: a folder for each class, or a list of files and labels
    Folder(Folder),
    /// Arrays of other tools: .npy or .npz features and labels
    #[command(
        long_about = "Arrays of other tools: .npy or .npz features and labels.\n\n\
        FILE.npz:NAME is an array of an archive; without a name, its only array, or the one called x \
        (y for labels). Features are bool, whole numbers or floats, in C or Fortran order; they are \
        taken as they are and rounded to f32, except that bytes (|u1) are divided by 255, as pixels are. \
        A column whose differences f32 would lose (such as Unix times) is refused, or shifted with \
        --center. Labels are whole numbers from 0 (of any type, floats too if they are whole), or text, \
        numbered as the labels of a table."
    )]
    Npy(Npy),
    /// Tables with a header: comma-, semicolon- or tab-separated values
    #[command(
        long_about = "Tables with a header: comma-, semicolon- or tab-separated values.\n\n\
        The first line names the columns; the one of --label has the label, a whole number (1 and 1.0 are \
        one class), True or False, or the name of a class; all others have numbers (or True and False) and are features. The tables of a \
        dataset have the same columns, in any order."
    )]
    Csv(Csv),
    /// LIBSVM's text: LABEL INDEX:VALUE ..., with or without qid:N; plain, .gz, .bz2 or .xz
    Libsvm(Libsvm),
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
    /// Folder that holds jpg/ or 102flowers.tgz, imagelabels.mat and setid.mat
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Fetch the three official files (0.35 GB) into --root first; goes on where it broke off
    #[arg(
        long,
        conflicts_with = "no_verify",
        long_help = "Fetch the three official files (0.35 GB) into --root first. A download that broke off \
                     goes on; a proxy is taken from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; \
                     FLOWREG_FLOWERS102_URL names a mirror. The archive is read as it is, never unpacked"
    )]
    download: bool,
    /// Accept .mat files and an archive other than the official ones
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    pictures: Pictures,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Folder {
    /// Folder with one folder for each class, or with train/, val/ and test/ that have them
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    root: Option<PathBuf>,
    /// CSV of path,label or path,label,split instead: paths in --root, or else in the list's folder
    #[arg(
        long,
        value_name = "FILE",
        long_help = "CSV of path,label[,split] instead: paths in --root, or else in the list's folder. A first \
                     line with the names of the columns (path, file, filename or image; label or class; \
                     split) may give another order. Labels are those of a table: all whole numbers make \
                     classes in numeric order, others by name. Example: --list labels.csv --root photographs"
    )]
    list: Option<PathBuf>,
    /// What the folders in --root are, if not as they look: classes, or splits with classes in them
    #[arg(
        long,
        value_name = "classes|splits",
        value_parser = layout,
        conflicts_with_all = ["list", "split_names"],
        long_help = "What the folders in --root are. If not given, they are splits if all that hold pictures \
                     have names such as train, val and test, and train holds folders; else classes"
    )]
    layout: Option<Layout>,
    /// Names of the split folders in --root, such as train=learn,val=check
    #[arg(
        long,
        value_name = "SPLIT=FOLDER,...",
        value_parser = split_names,
        conflicts_with = "list"
    )]
    split_names: Option<SplitNames>,
    /// Share of each class for val, where neither folders nor a list make the splits
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    val_share: f64,
    /// Share of each class for test, where neither folders nor a list make the splits
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    test_share: f64,
    /// Seed of that draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
    #[command(flatten)]
    pictures: Pictures,
    #[command(flatten)]
    output: Output,
}

/// A type of its own, as clap would take a plain Vec for a repeated option.
#[derive(Clone)]
struct SplitNames(Vec<(String, String)>);

fn split_names(text: &str) -> std::result::Result<SplitNames, String> {
    folder::parse_split_names(text).map(SplitNames)
}

fn layout(text: &str) -> std::result::Result<Layout, String> {
    match text {
        "classes" => Ok(Layout::Classes),
        "splits" => Ok(Layout::Splits),
        _ => Err("expected classes or splits".to_string()),
    }
}

#[derive(Args)]
struct Pictures {
    /// Side of the square that photographs are resized to, in pixels
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Accept damaged photographs that still give pixels
    #[arg(
        long,
        long_help = "Accept damaged photographs that still give pixels: JPEGs, with the pixels that \
                     libjpeg invents for what is missing; PNGs that lack only their end or have \
                     wrong checksums; GIFs, unpacked BMPs and unpacked TIFFs that are cut short, with \
                     colour 0 or black for what is missing"
    )]
    lenient: bool,
    /// Turn photographs as EXIF's orientation says; stored, and done by flowreg-predict too
    #[arg(
        long,
        long_help = "Turn and mirror photographs as EXIF's orientation (or XMP's) says, as Pillow's \
                     ImageOps.exif_transpose does. It is stored in the dataset and in models fitted \
                     to it, and flowreg-predict does the same. Without it pixels are taken as stored, \
                     as torchvision's ImageFolder takes them. Example: \
                     flowreg-prep folder --root mine --exif --out mine-data"
    )]
    exif: bool,
    /// Most pixels of a photograph; a file may have 4 bytes for each, and 32 MiB at least
    #[arg(
        long,
        value_name = "N",
        default_value_t = DecodeOptions::default().max_pixels,
        long_help = "Most pixels of a photograph; larger ones are refused by their header. A file may \
                     have 4 bytes for each pixel allowed, and 32 MiB at least. Example, of scans: \
                     flowreg-prep folder --root scans --max-pixels 120000000 --max-side 20000 --out scans-data"
    )]
    max_pixels: usize,
    /// Longest side of a photograph, in pixels
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_side)]
    max_side: usize,
    /// Leave out photographs that cannot be used, and list them, instead of refusing all
    #[arg(long)]
    skip_bad: bool,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl Pictures {
    fn options(&self) -> PrepOptions {
        PrepOptions {
            size: self.size,
            decode: DecodeOptions {
                lenient: self.lenient,
                exif: self.exif,
                max_pixels: self.max_pixels,
                max_side: self.max_side,
            },
            skip_bad: self.skip_bad,
        }
    }
}

#[derive(Args)]
struct Npy {
    /// Features to train on (rows x features)
    #[arg(long, value_name = "FILE")]
    x: PathBuf,
    /// Their labels: whole numbers from 0, or text
    #[arg(long, value_name = "FILE")]
    y: PathBuf,
    /// Features of the split val
    #[arg(long, value_name = "FILE", requires = "y_val")]
    x_val: Option<PathBuf>,
    /// Their labels
    #[arg(long, value_name = "FILE", requires = "x_val")]
    y_val: Option<PathBuf>,
    /// Features of the split test
    #[arg(long, value_name = "FILE", requires = "y_test")]
    x_test: Option<PathBuf>,
    /// Their labels
    #[arg(long, value_name = "FILE", requires = "x_test")]
    y_test: Option<PathBuf>,
    /// Label of the first class: 0 or 1
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    labels_from: u8,
    /// Subtract a number near the mean from each column whose differences f32 would lose; it is
    /// stored, and subtracted from what flowreg-predict reads, too
    #[arg(long)]
    center: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Csv {
    /// Name of the column that has the label
    #[arg(long, value_name = "COLUMN")]
    label: String,
    /// Table to train on: a file (.gz, .bz2 and .xz too), or - for standard input
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Table of the split val
    #[arg(long, value_name = "FILE")]
    val: Option<PathBuf>,
    /// Table of the split test
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// What stands between values: one character, or tab [default: found in the header]
    #[arg(long, value_name = "CHARACTER", value_parser = cli::delimiter)]
    delimiter: Option<u8>,
    /// Subtract a number near the mean from each column whose differences f32 would lose; it is
    /// stored, and subtracted from what flowreg-predict reads, too
    #[arg(long)]
    center: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Libsvm {
    /// Text to train on: plain, .gz, .bz2 or .xz; - for standard input
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Text of the split val
    #[arg(long, value_name = "FILE")]
    val: Option<PathBuf>,
    /// Text of the split test
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// Index of the first feature, 0 or 1; 0 if any line has index 0, else 1, if not given
    #[arg(long, value_name = "I")]
    first_index: Option<u8>,
    /// Number of features; as many as the largest index needs if not given
    #[arg(long, value_name = "N")]
    features: Option<usize>,
    /// Subtract a number near the mean from each feature whose differences f32 would lose; it is
    /// stored, and subtracted from what flowreg-predict reads, too
    #[arg(long)]
    center: bool,
    #[command(flatten)]
    output: Output,
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
        Overwrite::forced(self.force)
    }
}

fn main() -> ExitCode {
    cli::own_process();
    cli::main(
        "flowreg-prep",
        std::env::args_os(),
        |args: Prep| match args.command {
            Command::Flowers102(args) => flowers102(&args),
            Command::Folder(args) => folder(&args),
            Command::Npy(args) => npy(&args),
            Command::Csv(args) => csv(&args),
            Command::Libsvm(args) => libsvm(&args),
            Command::Demo(args) => draw(&args),
            Command::Verify(args) => verify(&args),
        },
    )
}

fn flowers102(args: &Flowers102) -> Result<()> {
    let verify = match args.no_verify {
        true => Verify::Any,
        false => Verify::Official,
    };
    // Known before 0.35 GB are fetched: whether there is anything to do.
    drop(Staging::begin(
        &args.output.out,
        OutputKind::Dataset,
        args.output.overwrite(),
        &[&args.root],
    )?);
    if args.download {
        fetch(&args.root)?;
    }
    let photographs = flowers102::open(&args.root, verify)?;
    prepare(&photographs, &args.pictures, &args.output)?;
    say_next(&args.output.out, "--recipe softmax-slow");
    Ok(())
}

fn fetch(root: &Path) -> Result<()> {
    let mirror = std::env::var("FLOWREG_FLOWERS102_URL");
    let base = mirror.as_deref().unwrap_or(flowers102::URL);
    for remote in &flowers102::OFFICIAL {
        let bar = cli::progress_bytes(0, remote.name);
        let fetched = download::fetch(base, remote, root, &mut |bytes, of| {
            bar.set_length(of.unwrap_or(bytes));
            bar.set_position(bytes);
        })?;
        bar.finish_and_clear();
        let how = match fetched {
            true => "fetched, md5 as published",
            false => "already there",
        };
        cli::say(format_args!("{}: {how}", root.join(remote.name).display()));
    }
    Ok(())
}

fn folder(args: &Folder) -> Result<()> {
    let shares = Shares {
        val: args.val_share,
        test: args.test_share,
        seed: args.seed,
    };
    let skip_bad = args.pictures.skip_bad;
    let found = match (&args.list, &args.root) {
        (Some(list), root) => list::open(list, root.as_deref(), shares, skip_bad)?,
        (None, root) => {
            let options = FolderOptions {
                layout: args.layout,
                split_names: args.split_names.clone().map_or(Vec::new(), |names| names.0),
                shares,
                skip_bad,
            };
            folder::open(root.as_deref().expect("clap requires it"), &options)?
        }
    };
    cli::say(&found.layout);
    let left_out = &found.photographs.left_out;
    if !left_out.is_empty() {
        cli::say(format_args!("left out: {}", left_out.join("; ")));
    }
    prepare(&found.photographs, &args.pictures, &args.output)?;
    say_next(&args.output.out, "--lr auto --epochs 500");
    Ok(())
}

fn prepare(photographs: &Photographs, pictures: &Pictures, output: &Output) -> Result<()> {
    let rows: usize = photographs.splits.iter().map(|s| s.rows.len()).sum();
    let (size, out) = (pictures.size, &output.out);
    let options = pictures.options();
    cli::say(format_args!(
        "{}: {rows} photographs, {} classes, to {size} x {size} x 3 = {} features",
        photographs.source,
        photographs.class_names.len(),
        (size as u128 * size as u128).saturating_mul(3),
    ));
    let pool = threads::pool(pictures.threads)?;
    if (1..=prep::MAX_SIZE).contains(&size) {
        forecast(photographs, &options, pool.current_num_threads())?;
    }
    let bar = cli::progress(rows as u64, "prepare");
    let started = Instant::now();
    let prepared = pool.install(|| {
        let overwrite = output.overwrite();
        prep::prepare(photographs, &options, out, overwrite, &|n| bar.inc(n))
    })?;
    bar.finish_and_clear();
    say_done(out, &prepared, started);
    Ok(())
}

/// By the time that a few photographs take. One that cannot be used is named later.
fn forecast(photographs: &Photographs, options: &PrepOptions, threads: usize) -> Result<()> {
    const TRIED: usize = 8;
    let all = photographs.splits.iter().flat_map(|split| &split.rows);
    let rows = all.clone().count();
    let started = Instant::now();
    let mut tried = 0;
    let mut loader = Loader::default();
    let mut row = vec![0.0; 3 * options.size * options.size];
    for (photograph, _) in all.step_by((rows / TRIED).max(1)).take(TRIED) {
        match loader.load(photograph, options.size, &options.decode, &mut row) {
            Ok(()) => tried += 1,
            Err(Error::Image { .. }) => {}
            Err(Error::Io { .. }) if options.skip_bad => {}
            Err(error) => return Err(error),
        }
    }
    let each = started.elapsed().as_secs_f64() / f64::from(tried.max(1));
    let archive: usize = (photographs.splits.iter())
        .flat_map(|split| &split.rows)
        .filter_map(|(photograph, _)| Some(photograph.bytes.as_ref()?.len()))
        .sum();
    let row = 4.0 * 3.0 * (options.size * options.size) as f64;
    let memory = row.max(64e6) + archive as f64;
    let seconds = each * rows as f64 / threads as f64;
    cli::forecast(seconds, memory, row * rows as f64);
    if seconds >= cli::WORTH_A_FORECAST && cfg!(target_arch = "x86_64") && !jpeg::has_simd() {
        cli::say(
            "  libjpeg was built without SIMD: with it this takes about half the time. Install nasm \
             and build flowreg again (in a checkout after `cargo clean -p mozjpeg-sys`)",
        );
    }
    Ok(())
}

fn npy(args: &Npy) -> Result<()> {
    let mut parts = vec![arrays::ArrayPart {
        name: "train",
        x: args.x.clone(),
        y: args.y.clone(),
    }];
    let others = [
        ("val", &args.x_val, &args.y_val),
        ("test", &args.x_test, &args.y_test),
    ];
    for (name, x, y) in others {
        if let (Some(x), Some(y)) = (x.clone(), y.clone()) {
            parts.push(arrays::ArrayPart { name, x, y });
        }
    }
    let options = arrays::ArrayOptions {
        labels_from: args.labels_from,
        center: args.center,
    };
    convert(&args.output, |progress| {
        let (out, overwrite) = (&args.output.out, args.output.overwrite());
        arrays::prepare(&parts, options, out, overwrite, progress)
    })
}

fn text_parts(train: &Path, val: &Option<PathBuf>, test: &Option<PathBuf>) -> Vec<Part> {
    [
        ("train", Some(train)),
        ("val", val.as_deref()),
        ("test", test.as_deref()),
    ]
    .into_iter()
    .filter_map(|(name, path)| {
        let path = path?.to_path_buf();
        Some(Part { name, path })
    })
    .collect()
}

fn csv(args: &Csv) -> Result<()> {
    let parts = text_parts(&args.train, &args.val, &args.test);
    let options = csv_text::CsvOptions {
        label: args.label.clone(),
        delimiter: args.delimiter,
        center: args.center,
    };
    convert(&args.output, |progress| {
        let (out, overwrite) = (&args.output.out, args.output.overwrite());
        csv_text::prepare(&parts, &options, out, overwrite, progress)
    })
}

fn libsvm(args: &Libsvm) -> Result<()> {
    let parts = text_parts(&args.train, &args.val, &args.test);
    let options = LibsvmOptions {
        first_index: args.first_index,
        features: args.features,
        center: args.center,
    };
    convert(&args.output, |progress| {
        let overwrite = args.output.overwrite();
        let progress = |step| match step {
            libsvm::Progress::Read(_) => {}
            libsvm::Progress::Found(found) => say_found(&found),
            libsvm::Progress::Written(rows) => progress(rows),
        };
        libsvm::prepare(&parts, options, &args.output.out, overwrite, &progress)
    })
}

fn say_found(found: &Found) {
    let Found {
        rows,
        features,
        values,
        first_index,
        queries,
        bytes,
        spool,
    } = found;
    if *queries > 0 {
        cli::say(format_args!("qid: of {queries} lines is passed over"));
    }
    cli::say(format_args!(
        "{rows} rows x {features} features, numbered from {first_index}: {bytes} bytes on the disk \
         with the zeros, and {spool} more while they are written; the texts hold {values} values"
    ));
}

fn convert(
    output: &Output,
    prepare: impl FnOnce(&(dyn Fn(u64) + Sync)) -> Result<Prepared>,
) -> Result<()> {
    let started = Instant::now();
    let bar = cli::progress(0, "rows");
    let prepared = prepare(&|n| {
        bar.inc_length(n);
        bar.inc(n);
    })?;
    bar.finish_and_clear();
    say_done(&output.out, &prepared, started);
    say_next(&output.out, "--lr auto --epochs 2000");
    Ok(())
}

fn say_done(out: &Path, prepared: &Prepared, started: Instant) {
    let manifest = &prepared.manifest;
    for split in &manifest.splits {
        cli::say(format_args!("  {:5} {:5} rows", split.name, split.rows));
    }
    for skipped in &manifest.skipped {
        cli::say(format_args!("  skipped: {skipped}"));
    }
    let rows: usize = manifest.splits.iter().map(|split| split.rows).sum();
    let seconds = started.elapsed().as_secs_f64();
    cli::say(format_args!(
        "{} in {seconds:.1} s ({:.2} ms a row)",
        out.display(),
        seconds * 1e3 / rows as f64
    ));
    let (labels, names) = (&prepared.train_labels, &manifest.class_names);
    let from_one = "give --labels-from 1";
    if let Some(sentence) = checks::absent_classes(labels, names.len(), names, from_one) {
        cli::warn(sentence);
    }
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

fn say_next(out: &Path, options: &str) {
    cli::say(format_args!(
        "next: flowreg-fit {} {options} --out RUN",
        out.display()
    ));
}

fn draw(args: &Demo) -> Result<()> {
    let options = DemoOptions {
        seed: args.seed,
        ..DemoOptions::default()
    };
    let staging = Staging::begin(
        &args.output.out,
        OutputKind::Photographs,
        args.output.overwrite(),
        &[],
    )?;
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
