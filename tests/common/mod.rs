//! Helpers of the tests: reference data, random problems, comparators and the f64 reference.
#![allow(dead_code)] // Each test file uses a part of it.

pub mod onnx;
pub mod process;
pub mod world;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flowreg::data::flowers102::{self, Verify};
use flowreg::data::prep::{self, PrepOptions};
use flowreg::io::publish::Overwrite;
use flowreg::{Cancel, Dataset, Samples};

/// Report that something was not tested: on stderr (directly, as libtest captures `eprintln!`), and
/// as a line of the file `FLOWREG_SKIPPED_LOG`, whose lines `.ci/run` counts.
pub fn skipped(what: &str) {
    // One write each, so that lines of several threads and processes do not mix.
    let line = format!("\n*** SKIPPED: {what} ***\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("FLOWREG_SKIPPED_LOG") {
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        log.write_all(format!("{what}\n").as_bytes()).unwrap();
    }
}

/// The folder of reference data: `FLOWREG_SHARED`, or `../shared` beside the checkout. If it does
/// not exist, the test reports that it is skipped and passes; with `CI=true` it fails.
pub fn shared(needs: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FLOWREG_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    if dir.join("flowers102-64px").is_dir() && dir.join("reference").is_dir() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{}: no reference data, which CI must have",
        dir.display()
    );
    skipped(&format!(
        "{needs}: no reference data at {} (set FLOWREG_SHARED)",
        dir.display()
    ));
    None
}

pub fn json(path: &Path) -> serde_json::Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// Flowers102 at 128 x 128, prepared once and stored in the target directory. A stored dataset is
/// used only if the checksums in its manifest are those of the reference.
pub fn flowers128(shared: &Path) -> Dataset {
    // The tests of a program run in parallel, and an output has one writer.
    static PREPARING: Mutex<()> = Mutex::new(());
    let _preparing = PREPARING.lock().unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flowers128");
    let expected = json(&shared.join("reference/prep_checksums.json"));
    let right = |dataset: &Dataset| {
        dataset.manifest().splits.iter().all(|split| {
            expected["matrices"].as_array().unwrap().iter().any(|m| {
                m["split"] == *split.name && m["size"] == 128 && m["sha256_f32"] == *split.x_sha256
            })
        })
    };
    if let Ok(dataset) = Dataset::open(&out)
        && right(&dataset)
    {
        return dataset;
    }
    let source = flowers102::open(
        &shared.join("flowers102-64px"),
        Verify::Official,
        &Cancel::new(),
    )
    .unwrap();
    prep::prepare(
        &source,
        &PrepOptions::default(),
        &out,
        Overwrite::Replace,
        &|_| {},
    )
    .unwrap();
    Dataset::open(&out).unwrap()
}

/// A random problem whose labels depend on a feature in 70 % of the rows.
#[derive(Clone, Debug)]
pub struct Problem {
    pub n: usize,
    pub d: usize,
    pub classes: usize,
    pub x: Vec<f32>,
    pub labels: Vec<i64>,
}

impl Problem {
    pub fn random(n: usize, d: usize, classes: usize, seed: u32) -> Problem {
        let mut uniform = uniform(seed);
        let x: Vec<f32> = (0..n * d).map(|_| uniform()).collect();
        let labels = (0..n)
            .map(|i| {
                let lean = (x[i * d] * classes as f32) as i64;
                let noise = (uniform() * classes as f32) as i64;
                (if uniform() < 0.7 { lean } else { noise }).min(classes as i64 - 1)
            })
            .collect();
        Problem {
            n,
            d,
            classes,
            x,
            labels,
        }
    }

    pub fn samples(&self) -> Samples<'_> {
        Samples::new(&self.x, self.d, &self.labels, self.classes).unwrap()
    }

    /// c, the number of outputs.
    pub fn outputs(&self) -> usize {
        if self.classes == 2 { 1 } else { self.classes }
    }
}

/// Uniform random numbers in 0..1 (SplitMix64).
pub fn uniform(seed: u32) -> impl FnMut() -> f32 {
    let mut state = u64::from(seed);
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    }
}

/// |found - expected| / |expected|; infinite for NaN and for a difference from 0.
pub fn relative(found: f64, expected: f64) -> f64 {
    let distance = (found - expected).abs();
    match distance {
        0.0 => 0.0,
        _ if distance.is_nan() || expected == 0.0 => f64::INFINITY,
        _ => distance / expected.abs(),
    }
}

/// The largest absolute difference; infinite for NaN.
pub fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    (found.iter().zip(expected))
        .map(|(&a, &b)| (f64::from(a) - b).abs())
        .fold(0.0, |max, d| {
            if d.is_nan() {
                f64::INFINITY
            } else {
                f64::max(max, d)
            }
        })
}

/// The f64 reference: losses, gradients and SGD in f64, from their definitions.
pub mod twin {
    use super::Problem;

    /// W (c x d) and b (c).
    #[derive(Clone, Debug)]
    pub struct Parameters {
        pub weight: Vec<f64>,
        pub bias: Vec<f64>,
    }

    impl Parameters {
        pub fn zeros(like: &Parameters) -> Parameters {
            Parameters {
                weight: vec![0.0; like.weight.len()],
                bias: vec![0.0; like.bias.len()],
            }
        }

        /// Replace every element by `f(element, other's element)`.
        pub fn update(&mut self, other: &Parameters, f: impl Fn(f64, f64) -> f64) {
            let own = self.weight.iter_mut().chain(&mut self.bias);
            for (a, &b) in own.zip(other.weight.iter().chain(&other.bias)) {
                *a = f(*a, b);
            }
        }
    }

    /// The weights of samples and classes and the label smoothing of torch's `CrossEntropyLoss`.
    #[derive(Clone, Debug)]
    pub struct Weights {
        /// s, by row.
        pub samples: Vec<f64>,
        /// w, by class.
        pub classes: Vec<f64>,
        /// ε.
        pub smoothing: f64,
    }

    impl Weights {
        /// Weights of 1 and one-hot targets.
        pub fn equal(p: &Problem) -> Weights {
            Weights {
                samples: vec![1.0; p.n],
                classes: vec![1.0; p.classes],
                smoothing: 0.0,
            }
        }
    }

    /// Mean loss of these rows and its gradient.
    pub fn loss_gradient(p: &Problem, at: &Parameters, rows: &[u32]) -> (f64, Parameters) {
        weighted_loss_gradient(p, at, rows, &Weights::equal(p))
    }

    /// With T = Σ sᵢ w_yᵢ over these rows,
    /// `((1-ε) Σ sᵢ w_yᵢ (-ln p_yᵢ) + ε/C Σ sᵢ Σ_c w_c (-ln p_c)) / T` and its gradient; 0 where T
    /// is. Two classes have the logits (0, z).
    pub fn weighted_loss_gradient(
        p: &Problem,
        at: &Parameters,
        rows: &[u32],
        weights: &Weights,
    ) -> (f64, Parameters) {
        let (d, c) = (p.d, p.outputs());
        let label = |row: u32| p.labels[row as usize] as usize;
        let weight = |row: u32| weights.samples[row as usize] * weights.classes[label(row)];
        let total: f64 = rows.iter().map(|&row| weight(row)).sum();
        let mut gradient = Parameters::zeros(at);
        let mut loss = 0.0;
        if total == 0.0 {
            return (loss, gradient);
        }
        for &row in rows {
            let x = &p.x[row as usize * d..][..d];
            let mut z = vec![0.0; p.classes];
            let first = p.classes - c;
            for j in 0..c {
                let w = &at.weight[j * d..][..d];
                let dot: f64 = x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum();
                z[first + j] = dot + at.bias[j];
            }
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
            for class in 0..p.classes {
                // The factor of -ln p of this class in the loss.
                let smooth = weights.smoothing / p.classes as f64;
                let mut factor = smooth * weights.samples[row as usize] * weights.classes[class];
                if class == label(row) {
                    factor += (1.0 - weights.smoothing) * weight(row);
                }
                factor /= total;
                loss += factor * (lse - z[class]);
                for j in 0..c {
                    let own = f64::from(u8::from(class == first + j));
                    let g = factor * ((z[first + j] - lse).exp() - own);
                    gradient.bias[j] += g;
                    for (w, &x) in gradient.weight[j * d..][..d].iter_mut().zip(x) {
                        *w += g * f64::from(x);
                    }
                }
            }
        }
        (loss, gradient)
    }

    /// `torch.optim.SGD` as documented: the loss of each epoch, and the final parameters.
    pub fn sgd(
        p: &Problem,
        start: Parameters,
        options: &flowreg::Sgd,
        weights: &Weights,
    ) -> (Vec<f64>, Parameters) {
        let flowreg::LearningRate::Fixed(base) = options.lr else {
            panic!("the reference takes a fixed learning rate")
        };
        let (momentum, dampening, decay) =
            (options.momentum, options.dampening, options.weight_decay);
        let mut at = start;
        let mut buffer: Option<Parameters> = None;
        let mut rng = flowreg::torch_rng::TorchRng::new(options.seed);
        let mut order: Vec<u32> = (0..p.n as u32).collect();
        let size = options.batch_size.unwrap_or(p.n).min(p.n);
        let mut losses = Vec::new();
        for epoch in 0..options.epochs {
            // `sgd/schedule.rs` tests the factors against those of torch.
            let lr = base * options.schedule.factor(epoch, options.epochs);
            if size < p.n {
                rng.permutation(p.n as u32, &mut order);
            }
            let mut sum = 0.0;
            for rows in order.chunks(size) {
                let (loss, mut g) = weighted_loss_gradient(p, &at, rows, weights);
                sum += loss * rows.len() as f64;
                g.update(&at, |g, w| g + decay * w);
                if momentum != 0.0 {
                    let buffer = match &mut buffer {
                        None => buffer.insert(g.clone()),
                        Some(b) => {
                            b.update(&g, |b, g| momentum * b + (1.0 - dampening) * g);
                            b
                        }
                    };
                    if options.nesterov {
                        g.update(buffer, |g, b| g + momentum * b)
                    } else {
                        g = buffer.clone()
                    }
                }
                at.update(&g, |w, g| w - lr * g);
            }
            losses.push(sum / p.n as f64);
        }
        (losses, at)
    }
}

#[test]
fn comparators_treat_nan_and_zero_as_documented() {
    assert_eq!(relative(1.0, 1.0), 0.0);
    assert_eq!(relative(0.0, -0.0), 0.0);
    assert_eq!(relative(1e-300, 0.0), f64::INFINITY);
    assert_eq!(relative(f64::NAN, 1.0), f64::INFINITY);
    assert_eq!(relative(1.0, f64::NAN), f64::INFINITY);
    assert_eq!(relative(f64::INFINITY, 1.0), f64::INFINITY);
    assert!((relative(-1.1, -1.0) - 0.1).abs() < 1e-12);
    assert_eq!(
        largest_difference(&[1.0, f32::NAN], &[1.0, 1.0]),
        f64::INFINITY
    );
    assert_eq!(largest_difference(&[1.0, 2.0], &[1.0, 2.5]), 0.5);
}
