//! Reader of rows of numbers, block by block: the usable rows, and the errors of the others.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::labels::{Classes, Label};
use crate::cli;
use crate::data::rows::RowReader;
use crate::{Error, Result};

/// The kind of an input of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowsKind {
    Array,
    Table,
    Libsvm,
}

/// A block of rows.
#[derive(Debug, Default)]
pub struct Block {
    /// Features of the usable rows.
    pub x: Vec<f32>,
    /// All rows, in order.
    pub rows: Vec<Row>,
}

/// A picture, or a row of an array or text.
#[derive(Debug)]
pub struct Row {
    pub name: Name,
    /// The label in its file.
    pub label: Option<Label>,
    pub state: State,
}

/// The name of an input (`FILE`), or of a row of an input (`FILE[3]`).
#[derive(Clone, Debug)]
pub struct Name {
    pub(super) input: Arc<str>,
    pub(super) row: Option<usize>,
}

impl Name {
    /// The name of the input.
    pub fn input(&self) -> &str {
        &self.input
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            Some(row) => write!(f, "{}[{row}]", self.input),
            None => f.write_str(&self.input),
        }
    }
}

/// Whether a row can be used.
#[derive(Debug)]
pub enum State {
    Usable,
    /// Not usable, for this reason.
    Failed(Error),
    /// Not usable: it comes after a row whose error ended reading.
    Lost,
    /// Not usable, nor are all later rows of the file, whose number is unknown.
    Ended(Error),
}

/// Whether an error ends the run, instead of leaving out one input.
pub fn ends_the_work(error: &Error) -> bool {
    match error {
        Error::Interrupted { .. } | Error::Memory { .. } | Error::Options { .. } => true,
        Error::Io { source, .. } => source.kind() == io::ErrorKind::OutOfMemory,
        _ => false,
    }
}

/// Replaces the path `from` in an error by `to`.
pub(super) fn renamed(mut error: Error, from: &Path, to: &Path) -> Error {
    match &mut error {
        Error::Io { path, .. }
        | Error::Format { path, .. }
        | Error::Npy { path, .. }
        | Error::Changed { path, .. }
            if path == from =>
        {
            *path = to.to_path_buf();
        }
        _ => {}
    }
    error
}

/// An open input of rows.
pub(super) struct OpenRows {
    path: PathBuf,
    /// The path as text.
    name: Arc<str>,
    pub kind: RowsKind,
    reader: Box<dyn RowReader>,
    /// The content of a pipe, in a temporary file that is removed on drop.
    file: Option<NamedTempFile>,
    /// Number of rows returned up to now.
    at: usize,
    /// Number of rows still to return as [`State::Lost`], after an error ended reading.
    lost: Option<usize>,
}

impl OpenRows {
    pub fn new(
        path: PathBuf,
        kind: RowsKind,
        reader: Box<dyn RowReader>,
        file: Option<NamedTempFile>,
    ) -> OpenRows {
        OpenRows {
            name: path.display().to_string().into(),
            path,
            kind,
            reader,
            file,
            at: 0,
            lost: None,
        }
    }

    /// The next rows, at most `most`; none at the end.
    pub fn read(&mut self, most: usize, features: usize, classes: &Classes) -> Result<Block> {
        let mut block = Block::default();
        if let Some(lost) = &mut self.lost {
            let rows = most.min(*lost);
            *lost -= rows;
            for _ in 0..rows {
                self.push(&mut block, None, State::Lost);
            }
            return Ok(block);
        }
        let most = self
            .reader
            .rows()
            .map_or(most, |rows| most.min(rows - self.at + 1));
        block.x = vec![0.0; most * features];
        let mut failed = BTreeMap::new();
        let read = self.reader.read_each(&mut block.x, &mut |row, error| {
            failed.insert(row, error);
        });
        let rows = match read {
            Ok(rows) => rows,
            Err(error) => {
                let error = self.with_input_name(error);
                // Rows read while a file changes may belong to neither version.
                if ends_the_work(&error) || matches!(error, Error::Changed { .. }) {
                    return Err(error);
                }
                let rows = self.reader.rows();
                let lost = rows.map_or(0, |rows| rows.saturating_sub(self.at + 1));
                self.lost = Some(lost);
                block.x.clear();
                let error = and_all_after(error);
                let state = match rows {
                    Some(_) => State::Failed(error),
                    None => State::Ended(error),
                };
                self.push(&mut block, None, state);
                return Ok(block);
            }
        };
        if rows == 0 {
            block.x.clear();
            for remark in self.reader.remarks() {
                cli::warn(format_args!("{}: {remark}", self.name));
            }
            if self.at == 0 {
                let error = Error::format(&self.path, "rows", 0, "at least one");
                self.push(&mut block, None, State::Failed(error));
            }
            return Ok(block);
        }
        let label = |label: &Option<String>| match label {
            Some(label) => classes.label(label.into()),
            None => Label::Missing,
        };
        let mut labels = (self.reader.labels().iter().map(label))
            .collect::<Vec<_>>()
            .into_iter();
        let mut usable = 0;
        for row in 0..rows {
            let label = labels.next();
            let state = match failed.remove(&row) {
                Some(error) => State::Failed(self.with_input_name(error)),
                None => {
                    let from = row * features..(row + 1) * features;
                    block.x.copy_within(from, usable * features);
                    usable += 1;
                    State::Usable
                }
            };
            self.push(&mut block, label, state);
        }
        block.x.truncate(usable * features);
        Ok(block)
    }

    fn push(&mut self, block: &mut Block, label: Option<Label>, state: State) {
        block.rows.push(Row {
            name: Name {
                input: Arc::clone(&self.name),
                row: Some(self.at),
            },
            label,
            state,
        });
        self.at += 1;
    }

    fn with_input_name(&self, error: Error) -> Error {
        match &self.file {
            Some(file) => renamed(error, file.path(), &self.path),
            None => error,
        }
    }
}

/// The error of a row after which nothing can be read.
fn and_all_after(mut error: Error) -> Error {
    const LEFT_OUT: &str = "; this row and all after it are left out";
    match &mut error {
        Error::Io { source, .. } => {
            *source = io::Error::new(source.kind(), format!("{source}{LEFT_OUT}"));
        }
        Error::Format { expected, .. } => *expected += LEFT_OUT,
        _ => {}
    }
    error
}
