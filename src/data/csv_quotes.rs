//! Line numbers of the records of a CSV text, and detection of mismatched quotes.
//!
//! The `csv` crate reads to the end of the text if a quote is never closed, and continues unquoted if
//! text follows a closing quote. Both make a field of many lines. [`Records`] reads the same bytes,
//! finds the same records, and detects both.

use std::collections::VecDeque;
use std::path::Path;

use crate::error::{Error, Result};

/// The records of a text, which arrives in pieces: those that the `csv` crate finds with its default
/// quotes and line ends.
#[derive(Debug)]
pub(crate) struct Records {
    delimiter: u8,
    state: State,
    /// Line of the next byte, from 1.
    line: u64,
    after_cr: bool,
    /// Number of bytes of a byte-order mark seen; `None` after it, or if there is none.
    mark: Option<usize>,
    /// Line of the last opening quote.
    opened: u64,
    /// The records that [`Records::next`] has not returned; the last may be incomplete.
    found: VecDeque<Record>,
}

#[derive(Debug)]
struct Record {
    line: u64,
    /// Line of the opening quote of a field with text after its closing quote.
    followed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BeforeRecord,
    BeforeField,
    Plain,
    Quoted,
    /// After a quote that closes the field, or is the first of two.
    Quote,
    /// Only spaces may follow.
    Closed,
}

impl Records {
    /// Records whose fields are separated by this byte.
    pub fn new(delimiter: u8) -> Records {
        Records {
            delimiter,
            state: State::BeforeRecord,
            line: 1,
            after_cr: false,
            mark: Some(0),
            opened: 0,
            found: VecDeque::new(),
        }
    }

    /// Read the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.step(byte);
            bytes = rest;
            // Skip to the end of a plain field.
            if self.state == State::Plain && self.mark.is_none() {
                let ends = |&byte: &u8| byte == self.delimiter || matches!(byte, b'\n' | b'\r');
                bytes = &rest[rest.iter().position(ends).unwrap_or(rest.len())..];
            }
        }
    }

    fn step(&mut self, byte: u8) {
        let is_end = matches!(byte, b'\n' | b'\r');
        if self.state == State::BeforeRecord && !is_end {
            self.found.push_back(Record {
                line: self.line,
                followed: None,
            });
            self.state = State::BeforeField;
        }
        self.state = match self.state {
            State::BeforeRecord => State::BeforeRecord,
            State::Quoted if byte == b'"' => State::Quote,
            State::Quoted => State::Quoted,
            _ if is_end => State::BeforeRecord,
            _ if byte == self.delimiter => State::BeforeField,
            State::BeforeField if byte == b'"' => {
                self.opened = self.line;
                State::Quoted
            }
            State::Quote if byte == b'"' => State::Quoted,
            State::Quote | State::Closed if byte.is_ascii_whitespace() => State::Closed,
            State::Quote | State::Closed => {
                if let Some(record) = self.found.back_mut() {
                    record.followed.get_or_insert(self.opened);
                }
                State::Plain
            }
            State::BeforeField | State::Plain => State::Plain,
        };
        if byte == b'\n' && !self.after_cr || byte == b'\r' {
            self.line += 1;
        }
        self.after_cr = byte == b'\r';
        self.pass_mark(byte);
    }

    /// Skip a byte-order mark at the start.
    fn pass_mark(&mut self, byte: u8) {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let Some(seen) = self.mark else { return };
        self.mark = (MARK[seen] == byte).then_some(seen + 1);
        if self.mark == Some(MARK.len()) {
            self.mark = None;
            self.found.clear();
            self.state = State::BeforeRecord;
        }
    }

    /// The line, from 1, in which the next record begins. To be called once for each record of the
    /// `csv` crate, including the header; the path is for messages.
    ///
    /// # Errors
    /// [`Error::Format`] for a record with a quote that is never closed, or with text after a closing
    /// quote; it names the line of the opening quote.
    pub fn next(&mut self, path: &Path) -> Result<u64> {
        let refuse = |line: u64, found: &str, expected: &str| {
            Err(Error::format(path, format!("line {line}"), found, expected))
        };
        let Some(record) = self.found.pop_front() else {
            return Ok(self.line);
        };
        if let Some(line) = record.followed {
            let expected = "the end of the field behind the quote that closes it; close the field \
                            where it ends, and write two quotes for one that is part of it";
            return refuse(
                line,
                "a field in quotes with text behind its second quote",
                expected,
            );
        }
        // A record that ends within a quote ends the text.
        if self.found.is_empty() && self.state == State::Quoted {
            let expected = "a second quote at the end of the field; is the file cut, or a quote \
                            part of the field? (Write two for one, in a field in quotes)";
            return refuse(self.opened, "a quote that is never closed", expected);
        }
        Ok(record.line)
    }

    /// Line of the quote that is open after the bytes read up to now.
    pub fn open_quote(&self) -> Option<u64> {
        (self.state == State::Quoted).then_some(self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use csv::{ByteRecord, ReaderBuilder};
    use proptest::prelude::*;

    /// The lines of all records, or the first error.
    fn lines(text: &[u8], piece: usize) -> std::result::Result<Vec<u64>, String> {
        let mut records = Records::new(b',');
        text.chunks(piece).for_each(|piece| records.feed(piece));
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text);
        let (mut record, mut lines) = (ByteRecord::new(), Vec::new());
        while reader.read_byte_record(&mut record).unwrap() {
            let next = records.next("t.csv".as_ref());
            lines.push(next.map_err(|error| error.to_string())?);
        }
        assert!(records.found.is_empty(), "{text:?}");
        Ok(lines)
    }

    #[test]
    fn line_numbers_are_those_of_an_editor() {
        for (text, expected) in [
            ("a,b\n1,2\n3,4\n", &[1, 2, 3][..]),
            ("a,b\r\n1,2\r\n3,4\r\n", &[1, 2, 3]),
            ("a,b\r1,2\r3,4", &[1, 2, 3]),
            ("\n\na,b\r\n\r\n\r\n1,2\n\n3,4", &[3, 6, 8]),
            ("a,\"b\r\nc\"\r\n1,\"2\n\n\"\n3,4\n", &[1, 3, 6]),
            ("\u{feff}\"a\n\",b\n1,2\n", &[1, 3]),
            ("a,\"b\" \n1,\"say \"\"2\"\"\"\n", &[1, 2]),
            ("a,b\" c\n1, \"2\n", &[1, 2]),
            ("", &[]),
        ] {
            for piece in [1, 2, 100] {
                assert_eq!(lines(text.as_bytes(), piece).unwrap(), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn mismatched_quotes_are_rejected_with_the_line_of_the_opening_quote() {
        for (text, message) in [
            (
                "a,b\n1,2\n3,\"4\n5,6\n7,8\n",
                "line 3: found a quote that is never closed",
            ),
            (
                "a,b\r\n1,2\r\n3,\"4",
                "line 3: found a quote that is never closed",
            ),
            ("a,b\n1,\"2\n", "line 2: found a quote that is never closed"),
            ("a,b\n1,2\n\"", "line 3: found a quote that is never closed"),
            (
                "a,b\n1,\"2\n3,\"4\"\n5,6\n",
                "line 2: found a field in quotes with text",
            ),
            (
                "a,\"b\"c\n1,2\n",
                "line 1: found a field in quotes with text",
            ),
        ] {
            let error = lines(text.as_bytes(), 3).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_number_of_records_is_that_of_the_csv_crate(
            text in prop::collection::vec(prop::sample::select(&b"a,\"\r\n \xef"[..]), 0..60),
            piece in 1usize..9,
        ) {
            let mut records = Records::new(b',');
            text.chunks(piece).for_each(|piece| records.feed(piece));
            let mut reader = ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(&*text);
            let found = reader.byte_records().count();
            prop_assert_eq!(records.found.len(), found);
        }
    }
}
