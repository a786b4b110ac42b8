//! Predictions as text, comma-separated values or JSON.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use serde_json::{Value, json};

use crate::cli;
use crate::cli::escaped;
use crate::cli::predict::Args;
use crate::cli::predict::labels::Classes;

/// The format of the predictions on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Lines,
    Csv,
    Json,
}

/// Formats predictions.
pub struct Printer<'a> {
    form: Form,
    classes: &'a Classes,
    /// The class names as fields, for [`Form::Csv`].
    fields: Vec<String>,
    top: usize,
    /// "logit" or "probability".
    value: &'static str,
    explained: bool,
    /// Whether standard output is a terminal.
    on_terminal: bool,
}

/// The prediction of an input.
pub struct Prediction<'a> {
    pub name: &'a str,
    /// Probability or logit of each class.
    pub values: &'a [f32],
    /// The classes to print, the best first.
    pub order: &'a [usize],
    /// Training rows, and their contributions to the logit of the first class in `order`.
    pub pushed_by: &'a [(String, f64)],
}

impl<'a> Printer<'a> {
    pub fn new(args: &Args, classes: &'a Classes) -> Printer<'a> {
        let on_terminal = io::stdout().is_terminal();
        let (form, fields) = if args.csv {
            let names = (0..classes.count()).map(|class| field(classes.name(class), on_terminal));
            (Form::Csv, names.collect())
        } else if args.json || cli::is_json() {
            (Form::Json, Vec::new())
        } else {
            (Form::Lines, Vec::new())
        };
        Printer {
            form,
            classes,
            fields,
            top: args.top.min(classes.count()),
            value: if args.logits { "logit" } else { "probability" },
            explained: args.explain.is_some(),
            on_terminal,
        }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Number of classes that are printed.
    pub fn top(&self) -> usize {
        self.top
    }

    /// The header line of [`Form::Csv`]; else empty.
    pub fn header(&self) -> String {
        match self.form {
            Form::Csv => format!("input,rank,class,label,{}\n", self.value),
            Form::Lines | Form::Json => String::new(),
        }
    }

    /// Appends the lines of a prediction.
    pub fn add(&self, prediction: &Prediction, lines: &mut String) {
        let shown = prediction.order.iter();
        let shown = shown.map(|&label| (label, prediction.values[label]));
        // Writing to a string does not fail.
        let _ = match self.form {
            Form::Json => {
                let predictions: Vec<Value> = shown
                    .map(|(label, value)| {
                        let class = self.classes.name(label);
                        json!({"class": class, "label": label, self.value: value})
                    })
                    .collect();
                let mut line = json!({"input": prediction.name, "predictions": predictions});
                if self.explained {
                    let pushes = prediction.pushed_by.iter();
                    let pushes = pushes.map(|(file, push)| json!({"file": file, "logit": push}));
                    line["pushed_by"] = pushes.collect();
                }
                writeln!(lines, "{}", cli::json_line(&line))
            }
            Form::Csv => {
                let name = field(prediction.name, self.on_terminal);
                shown.zip(1..).try_for_each(|((label, value), rank)| {
                    let class = &self.fields[label];
                    writeln!(lines, "{name},{rank},{class},{label},{value}")
                })
            }
            Form::Lines => self.add_lines(prediction, lines),
        };
    }

    fn add_lines(&self, prediction: &Prediction, lines: &mut String) -> std::fmt::Result {
        writeln!(lines, "{}", escaped(prediction.name))?;
        for &label in prediction.order {
            let (class, value) = (escaped(self.classes.name(label)), prediction.values[label]);
            match self.value {
                "logit" => writeln!(lines, "  {value:+12.5}  {class}")?,
                _ => writeln!(lines, "  {:6.2} %  {class}", 100.0 * value)?,
            }
        }
        for (i, (file, push)) in prediction.pushed_by.iter().enumerate() {
            let lead = if i == 0 { "pushed by" } else { "" };
            writeln!(lines, "  {lead:9} {push:+8.3}  {}", escaped(file))?;
        }
        Ok(())
    }
}

/// A quoted field of comma-separated values. Programs read the unchanged text; on a terminal
/// control characters are escaped.
fn field(text: &str, on_terminal: bool) -> String {
    let text = if on_terminal {
        escaped(text)
    } else {
        text.into()
    };
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Fills `order` with the indices of the largest values, in decreasing order; of equal values the
/// first comes first. `all` is scratch memory.
pub fn largest(values: &[f32], order: &mut [usize], all: &mut Vec<usize>) {
    let before = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    let top = order.len();
    all.clear();
    all.extend(0..values.len());
    if top < all.len() {
        all.select_nth_unstable_by(top, before);
    }
    all[..top].sort_unstable_by(before);
    order.copy_from_slice(&all[..top]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_values_come_first_and_ties_keep_their_order() {
        let values = [0.1, 0.4, 0.1, 0.4, 0.0];
        let mut all = Vec::new();
        for top in 0..=values.len() {
            let mut order = vec![9; top];
            largest(&values, &mut order, &mut all);
            assert_eq!(order, [1, 3, 0, 2, 4][..top]);
        }
    }

    #[test]
    fn fields_are_quoted_and_escaped_for_terminals() {
        assert_eq!(field("a\x1b,\"b\"", true), "\"a\\x1b,\"\"b\"\"\"");
        for on_terminal in [false, true] {
            assert_eq!(field("", on_terminal), "\"\"");
        }
    }

    #[test]
    fn fields_for_programs_round_trip() {
        let names = [
            "back\nslash",
            "back\\nslash",
            "a\tb\rc",
            "\u{202e}",
            "x\x1b\"y\"",
            "",
        ];
        let line = names.map(|name| field(name, false)).join(",");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(line.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(record.iter().collect::<Vec<_>>(), names);
    }
}
