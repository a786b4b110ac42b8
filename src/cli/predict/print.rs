//! Predictions in their forms: lines for people, values between commas, JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Args;
use super::labels::Classes;
use crate::cli::{self, escaped};

/// A form of the predictions on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Lines,
    Csv,
    Json,
}

/// Writes predictions down in one form.
pub struct Printer<'a> {
    form: Form,
    classes: &'a Classes,
    top: usize,
    /// "logit" or "probability".
    value: &'static str,
    explained: bool,
}

/// One input with its result.
pub struct Prediction<'a> {
    pub name: &'a str,
    /// Of each class.
    pub values: &'a [f32],
    /// Classes, the best first: as many as are printed.
    pub order: &'a [usize],
    /// Training rows and what they give to the first class's logit.
    pub pushed_by: &'a [(String, f64)],
}

impl<'a> Printer<'a> {
    pub fn new(args: &Args, classes: &'a Classes) -> Printer<'a> {
        let form = match (args.csv, args.json || cli::is_json()) {
            (true, _) => Form::Csv,
            (_, true) => Form::Json,
            _ => Form::Lines,
        };
        Printer {
            form,
            classes,
            top: args.top.min(classes.count()),
            value: if args.logits { "logit" } else { "probability" },
            explained: args.explain.is_some(),
        }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Number of classes that are printed.
    pub fn top(&self) -> usize {
        self.top
    }

    /// The first line, with its end.
    pub fn header(&self) -> String {
        match self.form {
            Form::Csv => format!("input,rank,class,label,{}\n", self.value),
            Form::Lines | Form::Json => String::new(),
        }
    }

    /// Add the lines of a prediction.
    pub fn add(&self, prediction: &Prediction, lines: &mut String) {
        let shown = prediction.order.iter();
        let shown = shown.map(|&label| (label, self.classes.name(label), prediction.values[label]));
        // Writing to a string does not fail.
        let _ = match self.form {
            Form::Json => {
                let predictions: Vec<Value> = shown
                    .map(|(label, class, value)| {
                        json!({"class": class, "label": label, self.value: value})
                    })
                    .collect();
                let mut line = json!({"input": prediction.name, "predictions": predictions});
                if self.explained {
                    let pushes = prediction.pushed_by.iter();
                    let pushes = pushes.map(|(file, push)| json!({"file": file, "logit": push}));
                    line["pushed_by"] = pushes.collect();
                }
                writeln!(lines, "{line}")
            }
            Form::Csv => {
                let name = quoted(prediction.name);
                shown
                    .enumerate()
                    .try_for_each(|(rank, (label, class, value))| {
                        writeln!(
                            lines,
                            "{name},{},{},{label},{value}",
                            rank + 1,
                            quoted(class)
                        )
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

/// A field of comma-separated values, without control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\"\""))
}

/// The numbers of the `top` largest values, the largest first; of equals the first.
pub fn largest(values: &[f32], top: usize) -> Vec<usize> {
    let before = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    if top < order.len() {
        order.select_nth_unstable_by(top, before);
        order.truncate(top);
    }
    order.sort_unstable_by(before);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_of_equals_the_first() {
        let values = [0.1, 0.4, 0.1, 0.4, 0.0];
        for top in 0..=values.len() {
            assert_eq!(largest(&values, top), [1, 3, 0, 2, 4][..top]);
        }
        assert_eq!(quoted("a\x1b,\"b\""), "\"a\\x1b,\"\"b\"\"\"");
    }
}
