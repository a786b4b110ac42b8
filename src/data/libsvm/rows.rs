//! LIBSVM's text as rows for a model.

use super::line::parse_line;
use crate::data::dataset::NumberFormat;
use crate::data::rows::{Finish, RowReader};
use crate::data::text::Text;
use crate::error::{Error, Result};

/// Rows of a text, read front to back, with the labels that it has.
///
/// Values of features that the model does not have are left out: it saw none of them, so they
/// say nothing. [`RowReader::remarks`] tells of them.
pub struct LibsvmRows {
    text: Text,
    features: usize,
    /// The lowest index.
    first: usize,
    finish: Finish,
    labels: Vec<Option<String>>,
    /// A row without values.
    empty: Vec<f32>,
    /// Values of features that the model does not have; line and index of the first.
    beyond: u64,
    first_beyond: (u64, usize),
    queries: u64,
    /// Why reading ended, once the rows before have been handed on.
    ended: Option<Error>,
}

impl LibsvmRows {
    /// Rows of `features` numbers for a model whose rows were made by `format`: indices begin at
    /// its first index, 1 if it has none.
    pub fn new(text: Text, format: &NumberFormat, features: usize) -> LibsvmRows {
        let mut finish = Finish::of_numbers(format);
        let empty = (0..features).map(|column| finish.value(column, 0.0).unwrap_or(f32::NAN));
        let empty = empty.collect();
        LibsvmRows {
            text,
            features,
            first: format.first_index.map_or(1, usize::from),
            finish,
            labels: Vec::new(),
            empty,
            beyond: 0,
            first_beyond: (0, 0),
            queries: 0,
            ended: None,
        }
    }

    /// Read a line that says anything into a row: what is wrong with it, or `None` at the end.
    fn next(&mut self, row: &mut [f32]) -> Result<Option<Result<(), Error>>> {
        loop {
            row.copy_from_slice(&self.empty);
            let (first, features) = (self.first, self.features);
            let (mut beyond, mut largest, mut zero) = (0, 0, false);
            let mut refused = None;
            let finish = &mut self.finish;
            let Some(line) = self.text.next_line()? else {
                return Ok(None);
            };
            let head = parse_line(line, &mut |index, value| match index.checked_sub(first) {
                None => zero = true,
                Some(column) if column >= features => {
                    (beyond, largest) = (beyond + 1, index);
                }
                Some(column) => match finish.value(column, value) {
                    Ok(value) => row[column] = value,
                    Err(expected) if refused.is_none() => {
                        refused = Some((format!("\"{index}:{value}\""), expected));
                    }
                    Err(_) => {}
                },
            });
            let head = match head {
                Ok(None) => continue,
                Ok(Some(head)) => head,
                Err((found, expected)) => {
                    self.labels.push(None);
                    return Ok(Some(Err(self.text.refuse(found, expected))));
                }
            };
            self.labels.push(head.label.map(str::to_string));
            self.queries += u64::from(head.query);
            if zero {
                let expected = "indices from 1, as the model's rows have; --first-index 0 reads \
                                indices from 0";
                return Err(self.text.refuse("index 0", expected));
            }
            if beyond > 0 && self.beyond == 0 {
                self.first_beyond = (self.text.line_number(), largest);
            }
            self.beyond += beyond;
            let refused = refused.map(|(found, expected)| self.text.refuse(found, expected));
            return Ok(Some(refused.map_or(Ok(()), Err)));
        }
    }
}

impl RowReader for LibsvmRows {
    fn features(&self) -> usize {
        self.features
    }

    fn rows(&self) -> Option<usize> {
        None
    }

    fn read_each(
        &mut self,
        values: &mut [f32],
        refuse: &mut dyn FnMut(usize, Error),
    ) -> Result<usize> {
        self.labels.clear();
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        let mut rows = 0;
        for row in values.chunks_exact_mut(self.features) {
            match self.next(row) {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => refuse(rows, error),
                Ok(None) => {
                    self.text.check_unchanged()?;
                    break;
                }
                Err(error) if rows == 0 => return Err(error),
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            }
            rows += 1;
        }
        self.labels.truncate(rows);
        Ok(rows)
    }

    fn labels(&self) -> &[Option<String>] {
        &self.labels
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.queries > 0 {
            remarks.push(format!("qid: of {} lines is passed over", self.queries));
        }
        if self.beyond > 0 {
            let (line, index) = self.first_beyond;
            remarks.push(format!(
                "{} values are of features beyond the model's {} and left out, the first in line \
                 {line} (index {index}): the model saw none of them",
                self.beyond, self.features
            ));
        }
        remarks
    }
}
