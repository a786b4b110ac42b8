//! The preparation of arrays, tables and LIBSVM texts: rows and bytes per second, compared with the
//! hashing and writing that every dataset needs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flowreg::Result;
use flowreg::data::arrays::{self, ArrayOptions, ArrayPart};
use flowreg::data::csv_text::{self, CsvOptions};
use flowreg::data::libsvm::{self, LibsvmOptions};
use flowreg::data::source::Part;
use flowreg::io::npy::{Dtype, Header};
use flowreg::io::publish::Overwrite;
use flowreg::threads;
use sha2::{Digest, Sha256};

/// Number of preparations of each kind; the best is printed.
const TIMES: usize = 5;
/// Rows and features of the arrays with few and with many columns.
const TALL: (usize, usize) = (65_536, 1024);
const WIDE: (usize, usize) = (3000, 20_000);
/// Rows and features of the texts.
const TABLE: (usize, usize) = (20_000, 256);
const SPARSE: (usize, usize) = (50_000, 1024);
/// Number of values of a row of the LIBSVM text.
const VALUES: usize = 64;

/// Time the preparation of every kind whose name contains `wanted`, and print it.
pub fn prepare(count: usize, wanted: &str) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let [hash, write] = bounds(dir.path());
    println!(
        "SHA-256 {:.2} GB/s, write and flush {:.2} GB/s; {count} threads",
        hash / 1e9,
        write / 1e9
    );
    let bound = hash.min(write);
    println!(
        "{:28} {:>16} {:>8} {:>10} {:>8} {:>8} {:>6}",
        "input", "rows x features", "s", "rows/s", "in GB/s", "out GB/s", "bound"
    );
    let pool = threads::pool(Some(count)).expect("threads");
    for kind in KINDS.iter().filter(|kind| kind.name.contains(wanted)) {
        let (x, y) = (dir.path().join("x"), dir.path().join("y"));
        (kind.make)(&x, kind.shape).expect("room on the disk");
        labels(&y, kind.shape.0).expect("room on the disk");
        let out = dir.path().join("out");
        let seconds = (0..TIMES).map(|_| {
            let started = Instant::now();
            pool.install(|| (kind.prepare)(&x, &y, &out))
                .expect("a dataset");
            let seconds = started.elapsed().as_secs_f64();
            std::fs::remove_dir_all(&out).expect("an output to remove");
            seconds
        });
        let seconds = seconds.fold(f64::INFINITY, f64::min);
        let (rows, features) = kind.shape;
        let read = x.metadata().expect("a file").len() as f64 / seconds;
        let written = (4 * rows * features) as f64 / seconds;
        println!(
            "{:28} {:>16} {seconds:8.3} {:10.0} {:8.2} {:8.2} {:5.0}%",
            kind.name,
            format!("{rows} x {features}"),
            rows as f64 / seconds,
            read / 1e9,
            written / 1e9,
            100.0 * written / bound
        );
    }
}

/// Bytes per second of SHA-256, and of writing and flushing a new file.
fn bounds(dir: &Path) -> [f64; 2] {
    let bytes = vec![7; 256 << 20];
    let mut best = [f64::INFINITY; 2];
    for _ in 0..TIMES {
        let started = Instant::now();
        std::hint::black_box(Sha256::digest(&bytes));
        let hashed = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut file = File::create(dir.join("written")).expect("a file");
        file.write_all(&bytes).expect("room on the disk");
        file.sync_all().expect("a disk");
        let written = started.elapsed().as_secs_f64();
        best = [best[0].min(hashed), best[1].min(written)];
    }
    best.map(|seconds| bytes.len() as f64 / seconds)
}

struct Kind {
    name: &'static str,
    shape: (usize, usize),
    make: fn(&Path, (usize, usize)) -> std::io::Result<()>,
    prepare: fn(&Path, &Path, &Path) -> Result<()>,
}

const KINDS: [Kind; 8] = [
    Kind {
        name: ".npy <f8, C order",
        shape: TALL,
        make: |path, shape| array(path, shape, Dtype::F64, false),
        prepare: of_arrays,
    },
    Kind {
        name: ".npy <f4, C order",
        shape: TALL,
        make: |path, shape| array(path, shape, Dtype::F32, false),
        prepare: of_arrays,
    },
    Kind {
        name: ".npy <f8, Fortran order",
        shape: TALL,
        make: |path, shape| array(path, shape, Dtype::F64, true),
        prepare: of_arrays,
    },
    Kind {
        name: ".npy <f4, Fortran order",
        shape: TALL,
        make: |path, shape| array(path, shape, Dtype::F32, true),
        prepare: of_arrays,
    },
    Kind {
        name: ".npy <f8, Fortran, wide",
        shape: WIDE,
        make: |path, shape| array(path, shape, Dtype::F64, true),
        prepare: of_arrays,
    },
    Kind {
        name: ".npy <f4, Fortran, wide",
        shape: WIDE,
        make: |path, shape| array(path, shape, Dtype::F32, true),
        prepare: of_arrays,
    },
    Kind {
        name: "CSV",
        shape: TABLE,
        make: table,
        prepare: |x, _, out| {
            let part = Part {
                name: "train",
                path: x.to_path_buf(),
            };
            let options = CsvOptions {
                label: "label".to_string(),
                ..CsvOptions::default()
            };
            csv_text::prepare(&[part], &options, out, Overwrite::Never, &|_| ()).map(drop)
        },
    },
    Kind {
        name: "LIBSVM, 64 values a row",
        shape: SPARSE,
        make: sparse,
        prepare: |x, _, out| {
            let part = Part {
                name: "train",
                path: x.to_path_buf(),
            };
            let options = LibsvmOptions::default();
            libsvm::prepare(&[part], &options, out, Overwrite::Never, &|_| ()).map(drop)
        },
    },
];

fn of_arrays(x: &Path, y: &Path, out: &Path) -> Result<()> {
    let part = ArrayPart {
        name: "train",
        x: PathBuf::from(x),
        y: PathBuf::from(y),
    };
    let options = ArrayOptions::default();
    arrays::prepare(&[part], &options, out, Overwrite::Never, &|_| ()).map(drop)
}

/// Numbers from 0 to 1, of seven digits.
fn values() -> impl Iterator<Item = f64> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        f64::from(state >> 8) / f64::from(1 << 24)
    })
}

fn array(
    path: &Path,
    (rows, features): (usize, usize),
    dtype: Dtype,
    fortran_order: bool,
) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = String::from_utf8_lossy(&Header::encode(dtype, &[rows, features])[10..])
        .replace("False", if fortran_order { "True " } else { "False" });
    file.write_all(&Header::encode(dtype, &[rows, features])[..10])?;
    file.write_all(header.as_bytes())?;
    for value in values().take(rows * features) {
        match dtype {
            Dtype::F64 => file.write_all(&value.to_le_bytes())?,
            _ => file.write_all(&(value as f32).to_le_bytes())?,
        }
    }
    file.flush()
}

/// Labels of two classes by turns.
fn labels(path: &Path, rows: usize) -> std::io::Result<()> {
    let mut bytes = Header::encode(Dtype::U8, &[rows]);
    bytes.extend((0..rows).map(|row| (row % 2) as u8));
    std::fs::write(path, bytes)
}

fn table(path: &Path, (rows, features): (usize, usize)) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let names: Vec<String> = (0..features).map(|column| format!("x{column}")).collect();
    writeln!(file, "label,{}", names.join(","))?;
    let (mut values, mut line) = (values(), String::new());
    for row in 0..rows {
        line.clear();
        let _ = write!(line, "{}", row % 2);
        for value in values.by_ref().take(features) {
            let _ = write!(line, ",{value:.7}");
        }
        writeln!(file, "{line}")?;
    }
    file.flush()
}

fn sparse(path: &Path, (rows, features): (usize, usize)) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let (mut values, mut line) = (values(), String::new());
    for row in 0..rows {
        line.clear();
        let _ = write!(line, "{}", row % 2);
        for (i, value) in values.by_ref().take(VALUES).enumerate() {
            let index = 1 + i * (features / VALUES) + (row + i) % (features / VALUES);
            let _ = write!(line, " {index}:{value:.7}");
        }
        writeln!(file, "{line}")?;
    }
    file.flush()
}
