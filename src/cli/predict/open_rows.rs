//! Rows of numbers, block by block: those that can be used, and what is wrong with the others.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::inputs::{Block, Name, Reading, Row, RowsKind, State, ends_the_work, renamed};
use super::labels::Label;
use crate::cli;
use crate::data::rows::RowReader;
use crate::{Error, Result};

/// Rows of numbers that are being read.
pub(super) struct OpenRows {
    path: PathBuf,
    /// The same for people.
    name: Arc<str>,
    pub kind: RowsKind,
    reader: Box<dyn RowReader>,
    /// What a pipe brought; gone when it has been read.
    file: Option<NamedTempFile>,
    /// Rows that were handed on.
    at: usize,
    /// Rows that cannot be read any more, if reading ended early.
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

    /// The next rows; none at the end.
    pub fn read(&mut self, most: usize, reading: &Reading) -> Result<Block> {
        let mut block = Block::default();
        if let Some(lost) = &mut self.lost {
            let rows = most.min(*lost);
            *lost -= rows;
            for _ in 0..rows {
                self.push(&mut block, None, State::Lost);
            }
            return Ok(block);
        }
        let features = reading.features;
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
                let error = self.under_its_name(error);
                // What was read of a file that changes may be of neither state of it.
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
            Some(label) => reading.classes.label(label.into()),
            None => Label::Missing,
        };
        let mut labels = (self.reader.labels().iter().map(label))
            .collect::<Vec<_>>()
            .into_iter();
        let mut usable = 0;
        for row in 0..rows {
            let label = labels.next();
            let state = match failed.remove(&row) {
                Some(error) => State::Failed(self.under_its_name(error)),
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

    fn under_its_name(&self, error: Error) -> Error {
        match &self.file {
            Some(file) => renamed(error, file.path(), &self.path),
            None => error,
        }
    }
}

/// The error of a row behind which nothing can be read.
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
