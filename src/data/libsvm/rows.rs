//! Reader of LIBSVM's text as rows for a model.

use crate::data::dataset::NumberFormat;
use crate::data::labels::given;
use crate::data::libsvm::line::{parse_line, whole_label};
use crate::data::row_reader::{Finish, RowReader};
use crate::data::text::Text;
use crate::error::{Error, Result};

/// Reader of the rows of a text, and of its labels.
///
/// Values of features that the model does not have are left out: they were 0 in all its training
/// rows. [`RowReader::remarks`] counts them.
pub struct LibsvmRows {
    text: Text,
    features: usize,
    /// The lowest index.
    first: usize,
    finish: Finish,
    labels: Vec<Option<String>>,
    /// The features of a row without values.
    empty: Vec<f32>,
    /// Number of values of features that the model does not have, and line and index of the first.
    beyond: u64,
    first_beyond: (u64, usize),
    queries: u64,
    /// Whether a line had a value.
    has_values: bool,
    /// The error that ended reading; returned after the rows before it.
    ended: Option<Error>,
}

impl LibsvmRows {
    /// A reader for a model with `features` features and this number format; indices begin at its
    /// `first_index`, or at 1.
    pub fn new(text: Text, format: &NumberFormat, features: usize) -> LibsvmRows {
        let mut finish = Finish::of_numbers(format);
        let empty = (0..features).map(|column| finish.value(column, 0.0).unwrap_or(f32::NAN));
        let empty = empty.collect();
        let finish = finish.refusing_copies();
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
            has_values: false,
            ended: None,
        }
    }

    /// Read the next row, skipping blank lines and comments; `None` at the end. The inner error is
    /// that of an invalid row.
    fn next(&mut self, row: &mut [f32]) -> Result<Option<Result<(), Error>>> {
        // Skipped lines have no values, so this is done once.
        row.copy_from_slice(&self.empty);
        loop {
            let (first, features) = (self.first, self.features);
            let (mut beyond, mut first_beyond) = (0, None);
            let (mut refused, mut values) = (None, 0);
            let finish = &mut self.finish;
            let Some(line) = self.text.next_line()? else {
                return Ok(None);
            };
            let head = parse_line(line, &mut |index, value| {
                values += 1;
                match index.checked_sub(first) {
                    None => {
                        let expected = "indices from 1, as the model's rows have; `first_index` 0 \
                                        reads indices from 0";
                        refused = Some((format!("index {index}"), expected));
                    }
                    Some(column) if column >= features => {
                        beyond += 1;
                        first_beyond.get_or_insert(index);
                    }
                    Some(column) => match finish.value(column, value) {
                        Ok(value) => row[column] = value,
                        Err(expected) if refused.is_none() => {
                            refused = Some((format!("\"{index}:{value}\""), expected));
                        }
                        Err(_) => {}
                    },
                }
            });
            let head = match head {
                Ok(None) => continue,
                Ok(Some(head)) => head,
                Err((found, expected)) => {
                    self.labels.push(None);
                    return Ok(Some(Err(self.text.refuse(found, expected))));
                }
            };
            // A word alone is a label without features only if it is a label.
            if values == 0
                && let Err((found, expected)) = whole_label(head.label)
            {
                self.labels.push(None);
                return Ok(Some(Err(self.text.refuse(found, expected))));
            }
            self.has_values |= values > 0;
            self.labels
                .push(head.label.and_then(|label| given(label.as_bytes())));
            self.queries += u64::from(head.query);
            if let Some(index) = first_beyond.filter(|_| self.beyond == 0) {
                self.first_beyond = (self.text.line_number(), index);
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
                    self.ended = self.text.check_unchanged().err();
                    break;
                }
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            }
            rows += 1;
        }
        if rows > 0 && !self.has_values {
            let expected = "INDEX:VALUE in at least one of them; a table needs a first line that \
                            names its columns";
            let found = format!("{rows} labels and no feature");
            return Err(Error::format(self.text.path(), "rows", found, expected));
        }
        let name = |column: usize| format!("index {}", column + self.first);
        self.finish.refuse_copies(self.text.path(), name)?;
        match self.ended.take_if(|_| rows == 0) {
            Some(error) => Err(error),
            None => Ok(rows),
        }
    }

    fn labels(&self) -> &[Option<String>] {
        &self.labels
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.queries > 0 {
            remarks.push(format!("qid: of {} lines is ignored", self.queries));
        }
        if self.beyond > 0 {
            let (line, index) = self.first_beyond;
            remarks.push(format!(
                "left out {} values of features that the model does not have (it has {}), the \
                 first in line {line} (index {index})",
                self.beyond, self.features
            ));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cancel;
    use crate::data::text::open_text;

    /// An invalid line is a row; a change of the file is reported after the rows, and adds none.
    #[test]
    fn invalid_lines_are_reported_as_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "7 1:1\n# none\n7 0:1\n\n7 2:3 9:1\n7 1:x\n").unwrap();
        let mut rows = LibsvmRows::new(
            open_text(&path, &Cancel::new()).unwrap(),
            &NumberFormat::default(),
            2,
        );
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let (mut values, mut refused) = ([f32::NAN; 20], Vec::new());
        let mut read = |rows: &mut LibsvmRows, values: &mut [f32]| {
            rows.read_each(values, &mut |row, error| {
                refused.push((row, error.to_string()))
            })
        };
        assert_eq!(read(&mut rows, &mut values).unwrap(), 4);
        assert_eq!(
            (&values[..2], &values[4..6]),
            (&[1.0, 0.0][..], &[0.0, 3.0][..])
        );
        assert_eq!(rows.labels().len(), 4);
        assert!(
            rows.remarks()[0].contains("left out 1 values"),
            "{:?}",
            rows.remarks()
        );
        let changed = read(&mut rows, &mut values).unwrap_err();
        assert!(matches!(changed, Error::Changed { .. }), "{changed}");
        assert_eq!(
            refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!(
            refused[0].1.contains("line 3: found index 0"),
            "{refused:?}"
        );
    }
}
