//! `flowreg-prep`: conversion of pictures, arrays and text to datasets.

mod args;

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use crate::cli::signals;
use crate::data::dataset::{Manifest, Prepared};
use crate::data::demo::DemoOptions;
use crate::data::flowers102::Verify;
use crate::data::folder::{FolderOptions, Shares};
use crate::data::libsvm::{Found, LibsvmOptions};
use crate::data::photographs::{Loader, Photographs};
use crate::data::pictures::jpeg;
use crate::data::prep::PrepOptions;
use crate::data::{
    arrays, checks, csv_text, demo, download, flowers102, folder, libsvm, list, prep,
};
use crate::io::publish::{OutputKind, Staging};
use crate::{Dataset, Error, Result, cli, threads};

use self::args::{
    Command, Csv, Demo, Dir, Flowers102, Folder, Libsvm, Npy, Output, Pictures, Prep,
};

/// Runs the program with these arguments, of which the first is the program's name, and returns the
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    cli::main("flowreg-prep", args, |args: Prep| match args.command {
        Command::Flowers102(args) => flowers102(&args),
        Command::Folder(args) => folder(&args),
        Command::Npy(args) => npy(&args),
        Command::Csv(args) => csv(&args),
        Command::Libsvm(args) => libsvm(&args),
        Command::Demo(args) => draw(&args),
        Command::Verify(args) => verify(&args),
    })
}

fn flowers102(args: &Flowers102) -> Result<()> {
    let verify = if args.no_verify {
        Verify::Any
    } else {
        Verify::Official
    };
    // The output is checked before 0.35 GB are downloaded.
    drop(Staging::begin(
        &args.output.out,
        OutputKind::Dataset,
        args.output.overwrite(),
        &[&args.root],
    )?);
    if args.download {
        fetch(&args.root)?;
    }
    let photographs = flowers102::open(&args.root, verify, &signals::cancel())?;
    prepare(&photographs, &args.pictures, &args.output)?;
    print_next(&args.output.out, "--recipe softmax-slow");
    Ok(())
}

fn fetch(root: &Path) -> Result<()> {
    let mirror = std::env::var("FLOWREG_FLOWERS102_URL");
    let base = mirror.as_deref().unwrap_or(flowers102::URL);
    for remote in &flowers102::OFFICIAL {
        let bar = cli::progress_bytes(0, remote.name);
        let fetched = download::fetch(base, remote, root, &signals::cancel(), &mut |bytes, of| {
            bar.set_length(of.unwrap_or(bytes));
            bar.set_position(bytes);
        })?;
        bar.finish_and_clear();
        let how = if fetched {
            "fetched, md5 as published"
        } else {
            "already there"
        };
        cli::info(format_args!("{}: {how}", root.join(remote.name).display()));
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
    cli::info(&found.layout);
    let left_out = &found.photographs.left_out;
    if !left_out.is_empty() {
        cli::info(format_args!("left out: {}", left_out.join("; ")));
    }
    let manifest = prepare(&found.photographs, &args.pictures, &args.output)?;
    print_next(&args.output.out, converged(&manifest));
    Ok(())
}

fn prepare(photographs: &Photographs, pictures: &Pictures, output: &Output) -> Result<Manifest> {
    let rows: usize = photographs.splits.iter().map(|s| s.rows.len()).sum();
    let (size, out) = (pictures.size, &output.out);
    let options = pictures.options();
    cli::info(format_args!(
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
    print_done(out, &prepared, started);
    Ok(prepared.manifest)
}

/// Prints the forecast of a preparation, extrapolated from eight photographs. Photographs that
/// cannot be used are reported later.
fn forecast(photographs: &Photographs, options: &PrepOptions, threads: usize) -> Result<()> {
    const SAMPLED: usize = 8;
    let all = photographs.splits.iter().flat_map(|split| &split.rows);
    let rows = all.clone().count();
    let started = Instant::now();
    let mut sampled = 0;
    let mut loader = Loader::default();
    let mut row = vec![0.0; 3 * options.size * options.size];
    for (photograph, _) in all.step_by((rows / SAMPLED).max(1)).take(SAMPLED) {
        match loader.load(photograph, options.size, &options.decode, &mut row) {
            Ok(_) => sampled += 1,
            Err(Error::Image { .. }) => {}
            Err(Error::Io { .. }) if options.skip_bad => {}
            Err(error) => return Err(error),
        }
    }
    let each = started.elapsed().as_secs_f64() / f64::from(sampled.max(1));
    let archive: usize = (photographs.splits.iter())
        .flat_map(|split| &split.rows)
        .filter_map(|(photograph, _)| Some(photograph.bytes.as_ref()?.len()))
        .sum();
    let row = 4.0 * 3.0 * (options.size * options.size) as f64;
    let memory = row.max(64e6) + archive as f64;
    let seconds = each * rows as f64 / threads as f64;
    cli::forecast(seconds, memory, row * rows as f64);
    if seconds >= cli::MIN_FORECAST_SECONDS && cfg!(target_arch = "x86_64") && !jpeg::has_simd() {
        cli::info(
            "  libjpeg was built without SIMD, with which this takes about half the time: install \
             nasm and build flowreg again (in a checkout, after `cargo clean -p mozjpeg-sys`)",
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
        cancel: Some(signals::cancel()),
    };
    convert(&args.output, |progress| {
        let (out, overwrite) = (&args.output.out, args.output.overwrite());
        arrays::prepare(&parts, &options, out, overwrite, progress)
    })
}

fn csv(args: &Csv) -> Result<()> {
    let parts = args.texts.parts();
    let options = csv_text::CsvOptions {
        label: args.label.clone(),
        delimiter: args.delimiter,
        center: args.center,
        cancel: Some(signals::cancel()),
    };
    convert(&args.output, |progress| {
        let (out, overwrite) = (&args.output.out, args.output.overwrite());
        csv_text::prepare(&parts, &options, out, overwrite, progress)
    })
}

fn libsvm(args: &Libsvm) -> Result<()> {
    let parts = args.texts.parts();
    let options = LibsvmOptions {
        first_index: args.first_index,
        features: args.features,
        center: args.center,
        cancel: Some(signals::cancel()),
    };
    convert(&args.output, |progress| {
        let overwrite = args.output.overwrite();
        let progress = |step| match step {
            libsvm::Progress::Read(_) => {}
            libsvm::Progress::Found(found) => print_found(&found),
            libsvm::Progress::Written(rows) => progress(rows),
        };
        libsvm::prepare(&parts, &options, &args.output.out, overwrite, &progress)
    })
}

fn print_found(found: &Found) {
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
        cli::info(format_args!("qid: of {queries} lines is ignored"));
    }
    cli::info(format_args!(
        "{rows} rows x {features} features, numbered from {first_index}: {bytes} bytes on the disk, \
         zeros included, and {spool} more during writing; the texts have {values} values"
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
    print_done(&output.out, &prepared, started);
    print_next(&output.out, converged(&prepared.manifest));
    Ok(())
}

fn print_done(out: &Path, prepared: &Prepared, started: Instant) {
    let manifest = &prepared.manifest;
    for split in &manifest.splits {
        cli::info(format_args!("  {:5} {:5} rows", split.name, split.rows));
    }
    for skipped in &manifest.skipped {
        cli::info(format_args!("  skipped: {skipped}"));
    }
    if prepared.ignored_orientations > 0 {
        cli::info(format_args!(
            "  EXIF or XMP orientation ignored, as by torchvision: {} photograph(s); --exif turns them \
             upright",
            prepared.ignored_orientations
        ));
    }
    let rows: usize = manifest.splits.iter().map(|split| split.rows).sum();
    let seconds = started.elapsed().as_secs_f64();
    cli::info(format_args!(
        "{} in {seconds:.1} s ({:.2} ms per row)",
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
    cli::info(format_args!(
        "{}: all checksums match ({} splits, {rows} rows)",
        args.dataset.display(),
        splits.len()
    ));
    Ok(())
}

/// Options of a converged fit of a dataset.
fn converged(manifest: &Manifest) -> &'static str {
    if manifest.splits.iter().any(|split| split.name == "val") {
        "--optimizer newton --val-split val"
    } else {
        "--optimizer newton --C 1"
    }
}

fn print_next(out: &Path, options: &str) {
    cli::info(format_args!(
        "next: flowreg-fit {} {options} --out RUN",
        out.display()
    ));
}

fn draw(args: &Demo) -> Result<()> {
    let options = DemoOptions {
        seed: args.seed,
        cancel: Some(signals::cancel()),
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
    cli::info(format_args!(
        "{}: {} photographs of {} classes; next: flowreg-prep flowers102 --root {} --no-verify --out DATASET",
        args.output.out.display(),
        options.photographs(),
        options.classes,
        args.output.out.display(),
    ));
    Ok(())
}
