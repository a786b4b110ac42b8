//! The preparation of datasets.
//!
//! Photographs: photographs per second, the share of each stage, and torchvision with the same number
//! of workers, if Python has it. `cargo bench --bench prep` draws 800 JPEGs of 667 x 500 once, into
//! the target directory, and prepares them at 128 x 128. `FLOWREG_PYTHON` names the Python that runs
//! torchvision (default: python3), which decodes, resizes and collects the same photographs and writes
//! nothing.
//!
//! Arrays, tables and LIBSVM texts: rows and bytes per second, and the share of the bound, which is
//! the slower of SHA-256 and the disk in the same run. `cargo bench --bench prep -- photographs` leaves
//! them out; another word prepares only the inputs whose name contains it (`-- .npy`).

#[path = "support/numbers.rs"]
mod numbers;
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flowreg::data::demo::{DemoOptions, photograph};
use flowreg::data::photographs::{Photograph, PhotographSplit, Photographs};
use flowreg::data::pictures::jpeg;
use flowreg::data::pictures::{DecodeOptions, decode_rgb};
use flowreg::data::prep::{self, PrepOptions};
use flowreg::data::resample::Resizer;
use flowreg::io::publish::Overwrite;
use flowreg::threads;
use rayon::prelude::*;

const WIDTH: usize = 667;
const HEIGHT: usize = 500;
const SIZE: usize = 128;
const DEMO: DemoOptions = DemoOptions {
    classes: 20,
    per_class: [40, 0, 0],
    seed: 0,
    cancel: None,
};
/// Number of preparations; the best and the median are printed.
const TIMES: usize = 7;

fn main() {
    // `cargo test --benches` only checks that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (threads, _) = support::machine();
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    if "photographs".contains(&wanted) {
        of_photographs(threads);
    }
    if wanted != "photographs" {
        numbers::prepare(threads, &wanted);
    }
}

fn of_photographs(threads: usize) {
    let photographs = drawn();
    let count: usize = photographs.splits.iter().map(|s| s.rows.len()).sum();
    println!(
        "{count} JPEGs of {WIDTH} x {HEIGHT} to {SIZE} x {SIZE}; libjpeg {} SIMD",
        if jpeg::has_simd() { "with" } else { "without" }
    );

    let [decode, resize] = stages(&photographs);
    let one = best(&photographs, 1)[0];
    println!("one thread:        {:>9} {:>6}", "ms each", "share");
    for (stage, seconds) in [
        ("read and decode", decode),
        ("resize", resize),
        ("hash and write", one - decode - resize),
        ("all", one),
    ] {
        println!(
            "  {stage:16} {:9.3} {:5.0}%",
            1e3 * seconds / count as f64,
            100.0 * seconds / one
        );
    }
    let seconds = best(&photographs, threads);
    let (best, median) = (seconds[0], seconds[TIMES / 2]);
    println!(
        "{threads} threads: {best:.3} s (median {median:.3}), {:.0} photographs/s",
        count as f64 / best
    );
    match torchvision(&photographs.root, threads) {
        Err(why) => println!("no torchvision (see FLOWREG_PYTHON): {why}"),
        Ok(seconds) => println!(
            "torchvision, {threads} workers: {seconds:.3} s, {:.0} photographs/s: {:.2} times as long",
            count as f64 / seconds,
            seconds / best
        ),
    }
}

/// The photographs, `CLASS/NUMBER.jpg` in the target directory; the first run draws them.
fn drawn() -> Photographs {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("prep-{WIDTH}x{HEIGHT}"));
    let class = |image: usize| format!("{:02}", image / DEMO.per_class[0]);
    let name = |image: usize| format!("{}/{image:04}.jpg", class(image));
    let images = 0..DEMO.photographs();
    if !root.exists() {
        let parent = root.parent().expect("a directory above");
        let made = tempfile::tempdir_in(parent).expect("a directory");
        images.clone().into_par_iter().for_each(|image| {
            std::fs::create_dir_all(made.path().join(class(image))).expect("a directory");
            let bytes = photograph(&DEMO, image, WIDTH, HEIGHT);
            std::fs::write(made.path().join(name(image)), bytes).expect("room on the disk");
        });
        std::fs::rename(made.keep(), &root).expect("a new name");
    }
    let row = |image| {
        let photograph = Photograph {
            path: root.join(name(image)),
            name: name(image),
            bytes: None,
        };
        (photograph, (image / DEMO.per_class[0]) as u32)
    };
    let train = PhotographSplit {
        name: "train".to_string(),
        rows: images.map(row).collect(),
    };
    Photographs {
        source: "demo".to_string(),
        class_names: (0..DEMO.classes).map(|class| class.to_string()).collect(),
        splits: vec![train],
        root,
        left_out: Vec::new(),
    }
}

/// Seconds of decoding all photographs and of resizing them, on one thread.
fn stages(photographs: &Photographs) -> [f64; 2] {
    let options = DecodeOptions::default();
    let mut resizer = Resizer::default();
    let mut row = vec![0.0; 3 * SIZE * SIZE];
    let mut best = [f64::INFINITY; 2];
    for _ in 0..TIMES {
        let mut seconds = [0.0; 2];
        for (photograph, _) in photographs.splits.iter().flat_map(|split| &split.rows) {
            let started = Instant::now();
            let bytes = std::fs::read(&photograph.path).expect("a file");
            let mut rgb = decode_rgb(&bytes, &options).expect("a photograph");
            let decoded = Instant::now();
            resizer.planes(&mut rgb.values, rgb.width, rgb.height, SIZE, &mut row);
            seconds[0] += (decoded - started).as_secs_f64();
            seconds[1] += decoded.elapsed().as_secs_f64();
        }
        for (best, seconds) in best.iter_mut().zip(seconds) {
            *best = best.min(seconds);
        }
    }
    best
}

/// Seconds of whole preparations, the shortest first.
fn best(photographs: &Photographs, threads: usize) -> Vec<f64> {
    let pool = threads::pool(Some(threads)).expect("threads");
    let options = PrepOptions {
        size: SIZE,
        ..PrepOptions::default()
    };
    let parent = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut seconds: Vec<f64> = (0..TIMES)
        .map(|_| {
            let out = parent.path().join("out");
            let started = Instant::now();
            let prepare = || prep::prepare(photographs, &options, &out, Overwrite::Never, &|_| ());
            pool.install(prepare).expect("a dataset");
            let seconds = started.elapsed().as_secs_f64();
            std::fs::remove_dir_all(&out).expect("an output to remove");
            seconds
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Seconds of torchvision's best pass over the photographs, or the last line of its error.
fn torchvision(root: &Path, workers: usize) -> Result<f64, String> {
    let python = std::env::var_os("FLOWREG_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tools/torchvision_prep.py"
        ))
        .arg(root)
        .args(["--size", &SIZE.to_string()])
        .args(["--workers", &workers.to_string()])
        .args(["--repeat", &TIMES.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout.trim().parse().map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.trim().lines().last().unwrap_or("no output");
        last.to_string()
    })
}
