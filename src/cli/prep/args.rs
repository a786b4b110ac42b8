//! The command line of flowreg-prep.

use std::path::PathBuf;

use crate::cli;
use crate::cli::signals;
use crate::data::folder;
use crate::data::folder::Layout;
use crate::data::pictures::DecodeOptions;
use crate::data::prep::PrepOptions;
use crate::data::source::Part;
use crate::io::publish::Overwrite;
use clap::{Args, Parser, Subcommand};

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

A preparation that is stopped or killed leaves no output; it starts again from the beginning.
A download resumes where it stopped.

Exit codes: 0 done, 64 wrong usage, 65 bad input data, 70 a bug, 71 no memory, 73 the output
exists or another process is writing it, 74 a file could not be read, written or fetched, 75 a
file changed while it was in use, 130 and 143 stopped by Ctrl-C or SIGTERM (a second one stops
at once)."
)]
pub(super) struct Prep {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Oxford Flowers102: a folder with jpg/ or 102flowers.tgz, imagelabels.mat and setid.mat
    Flowers102(Flowers102),
    /// Your photographs: a folder for each class, or a list of files and labels
    Folder(Folder),
    /// Arrays of other tools: .npy or .npz features and labels
    #[command(
        long_about = "Arrays of other tools: .npy or .npz features and labels.\n\n\
        FILE.npz:NAME is an array of an archive; without a name, its only array, or the one called x \
        (y for labels). Features are bool, whole numbers or floats, in C or Fortran order; they are \
        rounded to f32, and bytes (|u1) are divided by 255, as pixels are. \
        A column whose differences f32 would lose (such as Unix times) is refused, or shifted with \
        --center. Labels are whole numbers from 0 (of any type, floats too if they are whole), or text, \
        numbered as the labels of a table."
    )]
    Npy(Npy),
    /// Tables with a header: comma-, semicolon- or tab-separated values
    #[command(
        long_about = "Tables with a header: comma-, semicolon- or tab-separated values.\n\n\
        The first line names the columns. The column --label has the labels: whole numbers (1 and 1.0 are \
        one class), True and False, or names of classes. All other columns are features: numbers, or True \
        and False. The tables of a dataset have the same columns, in any order."
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
pub(super) struct Dir {
    /// Dataset directory
    #[arg(value_name = "DATASET")]
    pub(super) dataset: PathBuf,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
}

#[derive(Args)]
pub(super) struct Flowers102 {
    /// Folder that holds jpg/ or 102flowers.tgz, imagelabels.mat and setid.mat
    #[arg(long, value_name = "DIR")]
    pub(super) root: PathBuf,
    /// Download the three official files (0.35 GB) into --root first; resumes a partial download
    #[arg(
        long,
        conflicts_with = "no_verify",
        long_help = "Download the three official files (0.35 GB) into --root first. A partial download is \
                     resumed; HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY set the proxy; \
                     FLOWREG_FLOWERS102_URL names a mirror. The archive is read without unpacking it"
    )]
    pub(super) download: bool,
    /// Accept .mat files and an archive other than the official ones
    #[arg(long)]
    pub(super) no_verify: bool,
    #[command(flatten)]
    pub(super) pictures: Pictures,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Args)]
pub(super) struct Folder {
    /// Folder with a folder for each class, or with train/, val/ and test/ that contain those
    /// folders
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub(super) root: Option<PathBuf>,
    /// CSV of path,label or path,label,split, with paths relative to --root, else to the CSV's
    /// folder
    #[arg(
        long,
        value_name = "FILE",
        long_help = "CSV of path,label[,split], with paths relative to --root, else to the CSV's folder. A \
                     header (path, file, filename or image; label or class; split) may name the columns in \
                     another order. Classes are ordered as those of a table: by number if all labels are \
                     whole numbers, else by name. Example: --list labels.csv --root photographs"
    )]
    pub(super) list: Option<PathBuf>,
    /// Layout of the folders in --root: classes, or splits with classes in them [default: detected]
    #[arg(
        long,
        value_name = "classes|splits",
        value_parser = layout,
        conflicts_with_all = ["list", "split_names"],
        long_help = "Layout of the folders in --root: classes, or splits with classes in them. If not given, \
                     the folders are splits if all that contain pictures have names such as train, val and \
                     test, and train contains folders; else classes"
    )]
    pub(super) layout: Option<Layout>,
    /// Names of the split folders in --root, such as train=learn,val=check
    #[arg(
        long,
        value_name = "SPLIT=FOLDER,...",
        value_parser = split_names,
        conflicts_with = "list"
    )]
    pub(super) split_names: Option<SplitNames>,
    /// Share of each class for val, if neither folders nor a list give the splits
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    pub(super) val_share: f64,
    /// Share of each class for test, if neither folders nor a list give the splits
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    pub(super) test_share: f64,
    /// Seed of the random split
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u32,
    #[command(flatten)]
    pub(super) pictures: Pictures,
    #[command(flatten)]
    pub(super) output: Output,
}

/// The value of `--split-names`: a newtype, because clap treats a plain `Vec` as a repeated option.
#[derive(Clone)]
pub(super) struct SplitNames(pub(super) Vec<(String, String)>);

pub(super) fn split_names(text: &str) -> std::result::Result<SplitNames, String> {
    folder::parse_split_names(text).map(SplitNames)
}

pub(super) fn layout(text: &str) -> std::result::Result<Layout, String> {
    match text {
        "classes" => Ok(Layout::Classes),
        "splits" => Ok(Layout::Splits),
        _ => Err("expected classes or splits".to_string()),
    }
}

#[derive(Args)]
pub(super) struct Pictures {
    /// Side of the square to which photographs are resized, in pixels
    #[arg(long, default_value_t = 128)]
    pub(super) size: usize,
    /// Accept damaged photographs that can still be decoded
    #[arg(
        long,
        long_help = "Accept damaged photographs that can still be decoded: JPEGs, whose missing pixels \
                     libjpeg estimates; PNGs that lack only their end or have wrong checksums; \
                     truncated GIFs, uncompressed BMPs and uncompressed TIFFs, whose missing pixels \
                     are colour 0 or black"
    )]
    pub(super) lenient: bool,
    /// Rotate photographs by their EXIF orientation; stored, so flowreg-predict does so too
    #[arg(
        long,
        long_help = "Rotate and mirror photographs by their EXIF or XMP orientation, like Pillow's \
                     ImageOps.exif_transpose. The option is stored in the dataset and in models fitted \
                     to it, and flowreg-predict does the same. Without it pixels are read as stored, \
                     like those of torchvision's ImageFolder. Example: \
                     flowreg-prep folder --root mine --exif --out mine-data"
    )]
    pub(super) exif: bool,
    /// Maximum number of pixels of a photograph; limits files to 4 bytes per pixel, or 32 MiB if
    /// larger
    #[arg(
        long,
        value_name = "N",
        default_value_t = DecodeOptions::default().max_pixels,
        long_help = "Maximum number of pixels of a photograph; larger ones are refused by their header. \
                     A file may have 4 bytes per allowed pixel, or 32 MiB if that is more. Example: \
                     flowreg-prep folder --root scans --max-pixels 120000000 --max-side 20000 --out scans-data"
    )]
    pub(super) max_pixels: usize,
    /// Maximum side of a photograph, in pixels
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_side)]
    pub(super) max_side: usize,
    /// Skip and list photographs that cannot be used, instead of stopping at the first
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
}

impl Pictures {
    pub(super) fn options(&self) -> PrepOptions {
        PrepOptions {
            size: self.size,
            decode: DecodeOptions {
                lenient: self.lenient,
                exif: self.exif,
                max_pixels: self.max_pixels,
                max_side: self.max_side,
            },
            skip_bad: self.skip_bad,
            cancel: Some(signals::cancel()),
        }
    }
}

#[derive(Args)]
pub(super) struct Npy {
    /// Features to train on (rows x features)
    #[arg(long, value_name = "FILE")]
    pub(super) x: PathBuf,
    /// Labels of --x: whole numbers from 0, or text
    #[arg(long, value_name = "FILE")]
    pub(super) y: PathBuf,
    /// Features of the split val
    #[arg(long, value_name = "FILE", requires = "y_val")]
    pub(super) x_val: Option<PathBuf>,
    /// Labels of --x-val
    #[arg(long, value_name = "FILE", requires = "x_val")]
    pub(super) y_val: Option<PathBuf>,
    /// Features of the split test
    #[arg(long, value_name = "FILE", requires = "y_test")]
    pub(super) x_test: Option<PathBuf>,
    /// Labels of --x-test
    #[arg(long, value_name = "FILE", requires = "x_test")]
    pub(super) y_test: Option<PathBuf>,
    /// Label of the first class: 0 or 1
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(super) labels_from: u8,
    /// Subtract a number near its mean from each column whose differences f32 would lose; the
    /// number is stored, and flowreg-predict subtracts it, too
    #[arg(long)]
    pub(super) center: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Args)]
pub(super) struct Csv {
    /// Name of the label column
    #[arg(long, value_name = "COLUMN")]
    pub(super) label: String,
    #[command(flatten)]
    pub(super) texts: Texts,
    /// Delimiter of values: one character, or tab [default: detected from the header]
    #[arg(long, value_name = "CHARACTER", value_parser = cli::delimiter)]
    pub(super) delimiter: Option<u8>,
    /// Subtract a number near its mean from each column whose differences f32 would lose; the
    /// number is stored, and flowreg-predict subtracts it, too
    #[arg(long)]
    pub(super) center: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Args)]
pub(super) struct Libsvm {
    #[command(flatten)]
    pub(super) texts: Texts,
    /// Index of the first feature, 0 or 1 [default: 0 if any line has index 0, else 1]
    #[arg(long, value_name = "I")]
    pub(super) first_index: Option<u8>,
    /// Number of features [default: as many as the largest index needs]
    #[arg(long, value_name = "N")]
    pub(super) features: Option<usize>,
    /// Subtract a number near its mean from each feature whose differences f32 would lose; the
    /// number is stored, and flowreg-predict subtracts it, too
    #[arg(long)]
    pub(super) center: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// The texts of the splits.
#[derive(Args)]
pub(super) struct Texts {
    /// Text to train on: a file (.gz, .bz2 and .xz too), or - for standard input
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Text of the split val
    #[arg(long, value_name = "FILE")]
    val: Option<PathBuf>,
    /// Text of the split test
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
}

impl Texts {
    pub(super) fn parts(&self) -> Vec<Part> {
        let splits = [
            ("train", Some(&self.train)),
            ("val", self.val.as_ref()),
            ("test", self.test.as_ref()),
        ];
        let given = splits.into_iter().filter_map(|(name, path)| {
            let path = path?.clone();
            Some(Part { name, path })
        });
        given.collect()
    }
}

#[derive(Args)]
pub(super) struct Demo {
    #[command(flatten)]
    pub(super) output: Output,
    /// Seed of the synthetic photographs
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u32,
}

#[derive(Args)]
pub(super) struct Output {
    /// Directory to write; it appears complete or not at all
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    pub(super) force: bool,
}

impl Output {
    pub(super) fn overwrite(&self) -> Overwrite {
        Overwrite::forced(self.force)
    }
}
