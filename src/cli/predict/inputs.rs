//! The inputs to predict: pictures, folders of pictures, and rows of numbers, detected by content.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tempfile::NamedTempFile;

use crate::cli;
use crate::cli::predict::Args;
use crate::cli::predict::labels::Classes;
use crate::cli::predict::open_rows::{
    Block, Name, OpenRows, Row, RowsKind, State, ends_the_work, renamed,
};
use crate::cli::signals;
use crate::data::checks;
use crate::data::csv_text::Table;
use crate::data::dataset::{BYTES, NumberFormat, Transform};
use crate::data::folder::pictures_below;
use crate::data::libsvm::LibsvmRows;
use crate::data::npz;
use crate::data::photographs::{Loader, Photograph};
use crate::data::pictures;
use crate::data::pictures::DecodeOptions;
use crate::data::rows;
use crate::data::rows::RowReader;
use crate::data::source::{Kind, Source, is_standard_input, refuse_twice, stopped_or};
use crate::data::text::{Text, TextKind};
use crate::{Error, Model, Result};

/// The inputs of a model of numbers, for messages.
const ROWS: &str = "rows of numbers: .npy, .npz, a table with a header (CSV) or LIBSVM's text";

/// Reader of all inputs, in order, block by block.
pub struct Inputs<'a> {
    reading: Reading<'a>,
    items: VecDeque<Item>,
    open: Option<OpenRows>,
    /// An error that ends the run, returned after the pictures before it.
    ended: Option<Error>,
    /// Options that no input has used yet.
    unused: Vec<TextOption>,
}

/// An option for texts of one kind.
struct TextOption {
    name: &'static str,
    kind: RowsKind,
    /// The kind in words.
    inputs: &'static str,
}

/// The given options for texts.
fn text_options(args: &Args) -> Vec<TextOption> {
    use RowsKind::{Libsvm, Table};
    let of = [
        (args.label.is_some(), "--label", Table, "a table"),
        (args.delimiter.is_some(), "--delimiter", Table, "a table"),
        (
            args.first_index.is_some(),
            "--first-index",
            Libsvm,
            "LIBSVM's text",
        ),
    ];
    (of.into_iter())
        .filter(|(is_given, ..)| *is_given)
        .map(|(_, name, kind, inputs)| TextOption { name, kind, inputs })
        .collect()
}

/// An input that is not opened yet.
enum Item {
    /// An argument.
    Given(PathBuf),
    /// A picture in a folder.
    Picture(PathBuf),
}

/// An input by its kind.
enum Input {
    Picture(Photograph),
    Folder(Vec<PathBuf>),
    Rows(OpenRows),
}

impl<'a> Inputs<'a> {
    /// A reader of the inputs that the arguments name.
    ///
    /// # Errors
    /// [`Error::Options`] for standard input given twice, limits of pictures out of range and
    /// options of texts with a model of photographs.
    pub fn new(args: &'a Args, model: &'a Model, classes: &'a Classes) -> Result<Inputs<'a>> {
        refuse_twice(args.inputs.iter().map(PathBuf::as_path))?;
        let transform = model.about().transform.as_ref();
        let decode = DecodeOptions {
            lenient: args.lenient,
            exif: transform.is_some_and(|transform| transform.orientation.is_some()),
            max_pixels: args.max_pixels,
            max_side: args.max_side,
        };
        decode.check()?;
        let unused = text_options(args);
        if let (Some(option), Some(_)) = (unused.first(), transform) {
            let expected = "a model of rows of numbers; leave the option out";
            return Err(Error::options(
                option.name,
                "a model of photographs",
                expected,
            ));
        }
        let mut format = model.about().numbers.clone().unwrap_or_default();
        if let Some(transform) = transform {
            format.scale = (transform.scale == BYTES).then(|| BYTES.to_string());
        }
        format.first_index = args.first_index.or(format.first_index);
        Ok(Inputs {
            reading: Reading {
                features: model.weight().cols(),
                transform,
                format,
                described: model.about().numbers.is_some() || model.about().transform.is_some(),
                decode,
                label: args.label.as_deref(),
                delimiter: args.delimiter,
                skip_bad: args.skip_bad,
                classes,
            },
            items: args.inputs.iter().cloned().map(Item::Given).collect(),
            open: None,
            ended: None,
            unused,
        })
    }

    /// The next rows, at most `most`; `None` at the end.
    ///
    /// # Errors
    /// Those that end the run, such as a signal or no memory. The error of an input is in the state
    /// of its row.
    pub fn next(&mut self, most: usize) -> Result<Option<Block>> {
        loop {
            signals::check()?;
            if let Some(error) = self.ended.take() {
                return Err(error);
            }
            if let Some(open) = &mut self.open {
                let block = open.read(most, self.reading.features, self.reading.classes)?;
                if !block.rows.is_empty() {
                    return Ok(Some(block));
                }
                self.open = None;
            }
            let mut pictures = Vec::new();
            while pictures.len() < most && self.open.is_none() && self.ended.is_none() {
                let Some(item) = self.items.pop_front() else {
                    break;
                };
                let (Item::Given(path) | Item::Picture(path)) = &item;
                match self.reading.open(&item) {
                    Ok(Input::Picture(photograph)) => pictures.push(Ok(photograph)),
                    Ok(Input::Rows(rows)) => {
                        self.unused.retain(|option| option.kind != rows.kind);
                        self.open = Some(rows);
                        if self.items.is_empty() {
                            self.ended = self.unused.first().map(unused);
                        }
                    }
                    Ok(Input::Folder(found)) => {
                        let found = found.into_iter().rev().map(Item::Picture);
                        found.for_each(|item| self.items.push_front(item));
                    }
                    Err(error) if ends_the_work(&error) => self.ended = Some(error),
                    Err(error) => pictures.push(Err((path.display().to_string(), error))),
                }
            }
            if !pictures.is_empty() {
                return self.reading.decode(pictures).map(Some);
            }
            if self.open.is_none() && self.ended.is_none() {
                return Ok(None);
            }
        }
    }
}

/// The error for an option that no input uses, returned before the last input is read.
fn unused(option: &TextOption) -> Error {
    let found = format!("no input that is {}", option.inputs);
    Error::options(option.name, found, "at least one; or leave the option out")
}

/// Detects and opens inputs, by the model and the arguments.
pub(super) struct Reading<'a> {
    pub features: usize,
    transform: Option<&'a Transform>,
    format: NumberFormat,
    /// Whether the model has a transform or number format.
    described: bool,
    decode: DecodeOptions,
    /// Name of the label column.
    label: Option<&'a str>,
    /// Delimiter of tables, if given.
    delimiter: Option<u8>,
    skip_bad: bool,
    pub classes: &'a Classes,
}

impl Reading<'_> {
    /// Detects the kind of an input, and opens it.
    fn open(&self, item: &Item) -> Result<Input> {
        let path = match item {
            Item::Picture(path) => return Ok(Input::Picture(photograph(path, None))),
            Item::Given(path) => path,
        };
        if npz::locate(path).1.is_some() {
            return self.array(path, None);
        }
        if path.is_dir() {
            return self.folder(path);
        }
        let source = Source::open(path, &signals::cancel())?;
        let again = source.is_file() && !is_standard_input(path);
        match source.kind() {
            Kind::Npy | Kind::Zip if again => self.array(path, None),
            Kind::Npy | Kind::Zip => self.array(path, Some(source)),
            _ if self.transform.is_some() => {
                let path = source.path().to_path_buf();
                let bytes = if again {
                    None
                } else {
                    Some(source.read_all(self.decode.max_file())?)
                };
                Ok(Input::Picture(photograph(&path, bytes)))
            }
            kind => self.text(source, kind),
        }
    }

    fn folder(&self, path: &Path) -> Result<Input> {
        if self.transform.is_none() {
            return Err(refused(path, "a folder"));
        }
        let (pictures, left_out) = pictures_below(path, self.skip_bad)?;
        let left_out = match left_out.join("; ") {
            left_out if left_out.is_empty() => left_out,
            left_out => format!("left out: {left_out}"),
        };
        if pictures.is_empty() {
            let found = format!("no photograph; {left_out}");
            let expected = "a folder with pictures in it or below it";
            return Err(Error::format(
                path,
                "folder",
                found.trim_end_matches("; "),
                expected,
            ));
        }
        if !left_out.is_empty() {
            cli::warn(format_args!("{}: {left_out}", path.display()));
        }
        Ok(Input::Folder(pictures))
    }

    /// Opens an array, in a file or from a pipe.
    fn array(&self, path: &Path, piped: Option<Source>) -> Result<Input> {
        let (name, file) = match piped {
            None => (path.to_path_buf(), None),
            Some(source) => {
                let name = source.path().to_path_buf();
                (name, Some(spooled(source)?))
            }
        };
        let at = file.as_ref().map_or(path, |file| file.path());
        let format = self.described.then_some(&self.format);
        let reader =
            rows::open(at, format, self.features).map_err(|error| renamed(error, at, &name))?;
        Ok(Input::Rows(OpenRows::new(
            name,
            RowsKind::Array,
            reader,
            file,
        )))
    }

    fn text(&self, source: Source, kind: Kind) -> Result<Input> {
        let name = source.path().to_path_buf();
        if kind == Kind::Empty {
            return Err(refused(&name, "an empty file"));
        }
        if let Some(kind) = pictures::kind(source.head()) {
            return Err(refused(
                &name,
                &format!("a {} picture", format!("{kind:?}").to_uppercase()),
            ));
        }
        let mut text = Text::of(source)?;
        let (kind, delimiter) = self.text_kind(&mut text)?;
        match kind {
            TextKind::Libsvm => {
                let rows = LibsvmRows::new(text, &self.format, self.features);
                let kind = RowsKind::Libsvm;
                Ok(Input::Rows(OpenRows::new(name, kind, Box::new(rows), None)))
            }
            TextKind::Table => {
                let table = Table::of_text(&name, text, self.label, delimiter, &self.format)?;
                let found = table.features();
                checks::refuse_width(&name, found, self.features, "the model")?;
                let table = table.refusing_copies();
                let kind = RowsKind::Table;
                Ok(Input::Rows(OpenRows::new(
                    name,
                    kind,
                    Box::new(table),
                    None,
                )))
            }
            TextKind::Other if text.peek(|_| true)?.contains(&0) => {
                Err(refused(&name, "bytes that are neither an array nor text"))
            }
            TextKind::Other => Err(refused(&name, "text that is neither CSV nor LIBSVM's")),
        }
    }

    /// The kind of a text, and the delimiter of a table: the option's, or the model's if the header
    /// contains it, else `None`.
    fn text_kind(&self, text: &mut Text) -> Result<(TextKind, Option<u8>)> {
        if self.delimiter.is_some() {
            return Ok((TextKind::Table, self.delimiter));
        }
        let kind = text.kind()?;
        if kind == TextKind::Libsvm {
            // For a model of tables, numbers alone are a table without a header, not labels.
            let is_table = self.format.columns.is_some() && !text.begins_with_line_of(b':')?;
            return Ok((if is_table { TextKind::Table } else { kind }, None));
        }
        let of_model = self.format.delimiter.and_then(|c| u8::try_from(c).ok());
        match of_model {
            Some(byte) if text.begins_with_line_of(byte)? => Ok((TextKind::Table, of_model)),
            _ => Ok((kind, None)),
        }
    }

    fn decode(&self, pictures: Vec<Result<Photograph, (String, Error)>>) -> Result<Block> {
        let size = self.transform.map_or(0, |transform| transform.size);
        let mut block = Block {
            x: vec![0.0; pictures.len() * self.features],
            rows: Vec::with_capacity(pictures.len()),
        };
        let decoded: Vec<_> = (pictures.into_par_iter())
            .zip(block.x.par_chunks_exact_mut(self.features))
            .map_init(Loader::default, |loader, (picture, row)| match picture {
                Ok(photograph) => {
                    let stopped = signals::check();
                    let loaded =
                        stopped.and_then(|()| loader.load(&photograph, size, &self.decode, row));
                    (photograph.name, loaded)
                }
                Err((name, error)) => (name, Err(error)),
            })
            .collect();
        let mut usable = 0;
        for (i, (name, loaded)) in decoded.into_iter().enumerate() {
            let state = match loaded {
                Ok(_) => {
                    let from = i * self.features..(i + 1) * self.features;
                    block.x.copy_within(from, usable * self.features);
                    usable += 1;
                    State::Usable
                }
                Err(error) if ends_the_work(&error) => return Err(error),
                Err(error) => State::Failed(error),
            };
            let input = name.into();
            block.rows.push(Row {
                name: Name { input, row: None },
                label: None,
                state,
            });
        }
        block.x.truncate(usable * self.features);
        Ok(block)
    }
}

fn photograph(path: &Path, bytes: Option<Vec<u8>>) -> Photograph {
    Photograph {
        path: path.to_path_buf(),
        name: path.display().to_string(),
        bytes,
    }
}

/// The error for an input that a model of numbers cannot use.
fn refused(path: &Path, found: &str) -> Error {
    let hint = if found.ends_with("picture") {
        "; the model was fitted to numbers and has no transform for photographs"
    } else {
        ""
    };
    Error::format(path, "input", found, format!("{ROWS}{hint}"))
}

/// Copies a pipe into a temporary file, which can be read in any order.
fn spooled(source: Source) -> Result<NamedTempFile> {
    let name = source.path().to_path_buf();
    let failed = |error| {
        let other = Error::io(&name, "keep in a temporary file");
        stopped_or(&signals::cancel(), error, other)
    };
    let mut file = NamedTempFile::new().map_err(failed)?;
    io::copy(&mut source.into_reader(), &mut file).map_err(failed)?;
    Ok(file)
}
