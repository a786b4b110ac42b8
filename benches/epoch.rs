//! The time of each part of softmax-fast on the Gram engine, compared with the primal engine and, if
//! Python has it, PyTorch.
//!
//! `cargo bench --bench epoch` fits random pixels; `FLOWREG_DATASET=DIR` fits a prepared Flowers102.
//! `FLOWREG_PYTHON` names the Python that runs torch (default: python3).

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use flowreg::design::plan::EngineChoice;
use flowreg::io::npy::{Dtype, Header};
use flowreg::threads;
use flowreg::{Dataset, Fit, Recipe, Samples, Timings};
use support::shapes::{SOFTMAX, Shape};

/// Number of fits on the Gram engine; the best and the median of each part are printed.
const FITS: usize = 7;
/// Number of epochs timed on the primal engine, which all take the same time.
const PRIMAL_EPOCHS: usize = 10;

fn main() {
    // `cargo test --benches` only checks that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (_, peak) = support::machine();
    match std::env::var_os("FLOWREG_DATASET") {
        Some(directory) => {
            let directory = Path::new(&directory);
            let dataset = Dataset::open(directory).expect("FLOWREG_DATASET");
            let split = dataset.split("train").expect("a train split");
            report(&split.samples().expect("samples"), directory, peak);
        }
        None => {
            let Shape { n, d, c, .. } = SOFTMAX;
            let x = support::pixels(n * d);
            let labels: Vec<i64> = (0..n).map(|i| (i % c) as i64).collect();
            let directory = tempfile::tempdir().expect("a temporary directory");
            write(
                &directory.path().join("train.x.npy"),
                Dtype::F32,
                &[n, d],
                bytemuck::cast_slice(&x),
            );
            write(
                &directory.path().join("train.y.npy"),
                Dtype::I64,
                &[n],
                bytemuck::cast_slice(&labels),
            );
            let samples = Samples::new(&x, d, &labels, c).expect("the shape is right");
            report(&samples, directory.path(), peak);
        }
    }
}

fn write(path: &Path, dtype: Dtype, shape: &[usize], data: &[u8]) {
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&Header::encode(dtype, shape))
        .expect("room on the disk");
    file.write_all(data).expect("room on the disk");
}

fn report(samples: &Samples, directory: &Path, peak: f64) {
    let recipe = Recipe::named("softmax-fast").expect("a recipe");
    let fit = |engine, epochs| -> Fit {
        let mut options = recipe.options();
        (options.engine, options.sgd.epochs) = (engine, epochs);
        flowreg::fit(samples, &options, &mut |_| {}).expect("a fit")
    };
    let fits: Vec<Timings> = (0..FITS)
        .map(|_| fit(EngineChoice::Gram, recipe.epochs).timings)
        .collect();
    let (n, d) = (samples.rows() as f64, samples.features() as f64);
    let c = samples.classes() as f64;
    let epochs = recipe.epochs as f64;
    let product = 2.0 * n * d * c / 1e9;
    let gram = n * n * d / 1e9;
    let loop_ = 2.0 * n * n * c * epochs / 1e9;
    println!(
        "{:26} {:>8} {:>9} {:>9} {:>8} {:>5}",
        "softmax-fast, gram", "GFLOP", "best s", "median s", "GFLOP/s", "peak"
    );
    let line = |name: &str, gflop: f64, part: &dyn Fn(&Timings) -> f64| {
        let mut seconds: Vec<f64> = fits.iter().map(part).collect();
        seconds.sort_by(f64::total_cmp);
        let (best, median) = (seconds[0], seconds[FITS / 2]);
        if gflop > 0.0 {
            println!(
                "{name:26} {gflop:8.2} {best:9.4} {median:9.4} {:8.1} {:4.0}%",
                gflop / best,
                100.0 * gflop / best / peak
            )
        } else {
            println!("{name:26} {:8} {best:9.4} {median:9.4}", "")
        }
        best
    };
    line("  W0 (random numbers)", 0.0, &|t| t.initial_weights);
    line("  K = X Xᵀ", gram, &|t| t.gram_matrix);
    line("  Z0 = X W0ᵀ", product, &|t| t.initial_logits);
    line("  largest eigenvalue", 0.0, &|t| t.learning_rate);
    line("  loop (K G and the loss)", loop_, &|t| t.epochs);
    line("  W = s W0 + Aᵀ X", product, &|t| t.weight);
    let total = line("total", gram + 2.0 * product + loop_, &Timings::total);

    let seconds = fit(EngineChoice::Primal, PRIMAL_EPOCHS).timings.epochs / PRIMAL_EPOCHS as f64;
    println!(
        "primal: {:.1} ms an epoch ({:.1} GFLOP/s, {:.0}%), {:.1} s for {epochs} epochs: {:.1} times gram",
        seconds * 1e3,
        2.0 * product / seconds,
        200.0 * product / seconds / peak,
        seconds * epochs,
        seconds * epochs / total
    );
    match torch(directory) {
        Err(why) => println!("no torch (see FLOWREG_PYTHON): {why}"),
        Ok(seconds) => {
            for (who, seconds) in seconds.as_object().into_iter().flatten() {
                let seconds = seconds.as_f64().unwrap_or(f64::NAN);
                println!("{who}: {seconds:.2} s: {:.1} times gram", seconds / total);
            }
        }
    }
}

/// Seconds of torch's fits of the same rows, or the last line of its error.
fn torch(directory: &Path) -> Result<serde_json::Value, String> {
    let python = std::env::var_os("FLOWREG_PYTHON").unwrap_or_else(|| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/torch_baseline.py");
    let output = Command::new(python)
        .arg(script)
        .arg(directory)
        .args(["--recipes", "softmax-fast", "--json", "--repeat", "1"])
        .args(["--threads", &threads::available().to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let why = || {
        stderr
            .trim()
            .lines()
            .last()
            .unwrap_or("no output")
            .to_string()
    };
    let seconds: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| why())?;
    seconds.get("softmax-fast").cloned().ok_or_else(why)
}
