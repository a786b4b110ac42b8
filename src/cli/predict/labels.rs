//! Labels of the inputs, and the evaluation of the predictions.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value, json};

use crate::cli;
use crate::data::labels;
use crate::data::labels::LabelValue;
use crate::{Model, Result};

/// Limit on the unknown labels in a message.
const NAMED: usize = 8;
/// Limit on the classes of a confusion table.
const TABLE: usize = 12;
/// Number of most frequent mistakes that are printed for more classes.
const MISTAKES: usize = 10;

/// The classes of a model, by number and by name.
#[derive(Debug)]
pub struct Classes {
    names: Vec<String>,
    by_name: HashMap<String, u32>,
    /// `None` for a value that several class names have.
    by_value: HashMap<LabelValue, Option<u32>>,
}

impl Classes {
    pub fn of(model: &Model) -> Classes {
        let count = model.classes();
        let mut names = model.about().class_names.clone();
        names.truncate(count);
        names.extend((names.len()..count).map(|class| format!("class {class}")));
        let mut by_name = HashMap::new();
        let mut by_value = HashMap::new();
        for (class, name) in (0..).zip(&names) {
            by_name.insert(name.clone(), class);
            // Labels of classes without names are numbers.
            let label = name.strip_prefix("class ").unwrap_or(name);
            if let Ok(value) = LabelValue::parse(label.as_bytes()) {
                let known = by_value.entry(value).and_modify(|known| *known = None);
                known.or_insert(Some(class));
            }
        }
        Classes {
            names,
            by_name,
            by_value,
        }
    }

    pub fn count(&self) -> usize {
        self.names.len()
    }

    pub fn name(&self, class: usize) -> &str {
        &self.names[class]
    }

    /// Reads the labels in an array. Whole numbers are the numbers of classes if no class has a number
    /// as its name: so are the labels of a dataset.
    ///
    /// # Errors
    /// As [`labels::read`].
    pub fn read(&self, path: &Path) -> Result<Vec<Label>> {
        let labels = labels::read(path, None)?;
        let is_number = |value: &LabelValue| matches!(value, LabelValue::Number(_));
        let numbers = labels.numbers();
        if let Some(numbers) = numbers.filter(|_| !self.by_value.keys().any(is_number)) {
            let count = self.count() as i64;
            if numbers.contains(&count) && !numbers.contains(&0) {
                cli::warn(format_args!(
                    "{}: labels are numbers of classes from 0 to {}, found {count} and no 0: do they count from 1?",
                    path.display(),
                    count - 1
                ));
            }
            return Ok(numbers
                .iter()
                .map(|&number| self.numbered(number))
                .collect());
        }
        Ok(labels.texts().map(|label| self.label(label)).collect())
    }

    fn numbered(&self, number: i64) -> Label {
        match u32::try_from(number) {
            Ok(class) if (class as usize) < self.count() => Label::Class(class),
            _ => Label::Unknown(number.to_string()),
        }
    }

    /// The class of a label, or the label as unknown.
    pub fn label(&self, label: Cow<str>) -> Label {
        match self.find(&label) {
            Some(class) => Label::Class(class),
            None => Label::Unknown(label.into_owned()),
        }
    }

    /// The class of a label: by name, else by value, so that `1.0` and `+1` are class `1`.
    pub fn find(&self, label: &str) -> Option<u32> {
        let by_name = self.by_name.get(label).copied();
        by_name.or_else(|| {
            let value = LabelValue::parse(label.as_bytes()).ok()?;
            *self.by_value.get(&value)?
        })
    }
}

/// A label of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// A class of the model.
    Class(u32),
    /// The text of a label that is no class of the model.
    Unknown(String),
    /// The file has labels, but none for this row.
    Missing,
}

/// Counts of predictions by label, and their loss.
#[derive(Debug, Default)]
pub struct Tally {
    /// Whether logits are printed: the loss is that of the probabilities.
    logits: bool,
    /// Whether `--label` was given.
    label_given: bool,
    rows: u64,
    correct: u64,
    loss: f64,
    confusion: BTreeMap<(u32, u32), u64>,
    unknown: u64,
    unknown_names: Vec<String>,
    missing: u64,
}

impl Tally {
    pub fn new(logits: bool, label_given: bool) -> Tally {
        Tally {
            logits,
            label_given,
            ..Tally::default()
        }
    }

    /// Counts a predicted row.
    pub fn add(&mut self, label: &Label, predicted: usize, loss: f64) {
        match label {
            Label::Class(label) => {
                self.rows += 1;
                self.correct += u64::from(*label as usize == predicted);
                self.loss += loss;
                *self
                    .confusion
                    .entry((*label, predicted as u32))
                    .or_insert(0) += 1;
            }
            Label::Unknown(name) => {
                self.unknown += 1;
                if self.unknown_names.len() < NAMED && !self.unknown_names.contains(name) {
                    self.unknown_names.push(name.clone());
                }
            }
            Label::Missing => self.missing += 1,
        }
    }

    /// A warning about labels that are no class of the model.
    pub fn unknown(&self) -> Option<String> {
        (self.unknown > 0).then(|| {
            format!(
                "rows whose label is no class of the model: {} ({}); they are predicted but not \
                 counted",
                self.unknown,
                self.unknown_names.join(", ")
            )
        })
    }

    /// A warning about rows without a label, if other rows have labels or `--label` was given.
    pub fn missing(&self) -> Option<String> {
        let is_warned = self.missing > 0 && (self.label_given || self.rows + self.unknown > 0);
        is_warned.then(|| {
            let missing = self.missing;
            format!("rows without a label: {missing}; they are predicted but not counted")
        })
    }

    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.rows as f64
    }

    fn mean_loss(&self) -> f64 {
        self.loss / self.rows as f64
    }

    /// The evaluation as a JSON object; `None` if no row has a label.
    pub fn to_json(&self, classes: &Classes) -> Option<Value> {
        let confusion = self.confusion.iter().map(|(&(label, predicted), &rows)| {
            let name = |class: u32| classes.name(class as usize);
            json!({"class": name(label), "predicted": name(predicted), "rows": rows})
        });
        (self.rows + self.unknown > 0).then(|| {
            let mut value = json!({
                "evaluation": {
                    "rows": self.rows,
                    "accuracy": if self.rows > 0 { json!(self.accuracy()) } else { Value::Null },
                    "loss": if self.rows > 0 { json!(self.mean_loss()) } else { Value::Null },
                    "confusion": confusion.collect::<Vec<_>>(),
                    "rows_of_unknown_labels": self.unknown,
                    "rows_without_label": self.missing,
                }
            });
            if self.logits {
                value["evaluation"]["loss_of"] = json!("probabilities");
            }
            value
        })
    }

    /// The evaluation as text; empty if no row has the label of a class.
    pub fn to_text(&self, classes: &Classes) -> String {
        if self.rows == 0 {
            return String::new();
        }
        let name = |class: u32| crate::cli::escaped(classes.name(class as usize));
        let mut text = format!(
            "accuracy {:.4} ({} of {} rows), loss{} {:.4}\n",
            self.accuracy(),
            self.correct,
            self.rows,
            if self.logits {
                " of the probabilities"
            } else {
                ""
            },
            self.mean_loss()
        );
        if classes.count() <= TABLE {
            let all = 0..classes.count() as u32;
            let names: Vec<Cow<str>> = all.clone().map(name).collect();
            let width = |text: &str| text.chars().count();
            let largest = self
                .confusion
                .values()
                .max()
                .map_or(1, |n| n.to_string().len());
            let first = names
                .iter()
                .map(|name| width(name))
                .max()
                .unwrap_or(0)
                .max(19);
            text += &format!("{:first$}", "label \\ predicted as");
            for name in &names {
                text += &format!("  {name:>largest$}");
            }
            text += "\n";
            for label in all.clone() {
                text += &format!("{:first$}", names[label as usize]);
                for predicted in all.clone() {
                    let rows = self.confusion.get(&(label, predicted)).unwrap_or(&0);
                    let column = width(&names[predicted as usize]).max(largest);
                    text += &format!("  {rows:>column$}");
                }
                text += "\n";
            }
            return text;
        }
        let mut mistakes: Vec<_> = (self.confusion.iter())
            .filter(|((label, predicted), _)| label != predicted)
            .collect();
        mistakes.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        for ((label, predicted), rows) in mistakes.iter().take(MISTAKES) {
            text += &format!(
                "  {rows} x {} predicted as {}\n",
                name(*label),
                name(*predicted)
            );
        }
        if mistakes.len() > MISTAKES {
            text += &format!("  ... ({} more pairs)\n", mistakes.len() - MISTAKES);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str], count: usize) -> Classes {
        let outputs = if count == 2 { 1 } else { count };
        let mut model = Model::new(vec![0.0; outputs], vec![0.0; outputs]).unwrap();
        let mut about = model.about().clone();
        about.class_names = names.iter().map(ToString::to_string).collect();
        model.set_about(about);
        Classes::of(&model)
    }

    #[test]
    fn labels_match_classes_by_name_or_value() {
        let signs = classes(&["-1", "1"], 2);
        for (label, class) in [
            ("+1", Some(1)),
            ("1.0", Some(1)),
            ("-1", Some(0)),
            ("0", None),
            ("2", None),
            ("1.5", None),
            ("one", None),
        ] {
            assert_eq!(signs.find(label), class, "{label}");
        }
        for names in [&[][..], &["class 0", "class 1", "class 2"]] {
            let numbered = classes(names, 3);
            assert_eq!(numbered.find("2"), Some(2));
            assert_eq!(numbered.find("class 2"), Some(2));
            assert_eq!(numbered.find("3"), None);
            assert_eq!(numbered.name(1), "class 1");
        }
        let truths = classes(&["False", "True"], 2);
        for (label, class) in [
            ("TRUE", Some(1)),
            ("false", Some(0)),
            ("tRUE", None),
            ("1", None),
        ] {
            assert_eq!(truths.find(label), class, "{label}");
        }
        // Two names of one value match only themselves.
        let codes = classes(&["01", "1", "x"], 3);
        assert_eq!(
            (codes.find("01"), codes.find("1"), codes.find("1.0")),
            (Some(0), Some(1), None)
        );
        // Names beyond the number of classes are ignored.
        assert_eq!(classes(&["a", "b", "c"], 2).find("c"), None);
        assert_eq!(classes(&["a"], 2).find("1"), Some(1));
    }

    #[test]
    fn evaluation_counts_rows_with_known_labels() {
        let classes = classes(&["a", "b", "c"], 3);
        let mut tally = Tally::default();
        assert_eq!(
            (tally.to_json(&classes), tally.to_text(&classes)),
            (None, String::new())
        );
        tally.add(&Label::Class(0), 0, 0.25);
        tally.add(&Label::Class(0), 2, 1.75);
        tally.add(&Label::Unknown("z".to_string()), 2, 9.0);
        let value = tally.to_json(&classes).unwrap();
        let value = &value["evaluation"];
        assert_eq!(
            (&value["rows"], &value["accuracy"]),
            (&json!(2), &json!(0.5))
        );
        assert_eq!(
            (&value["loss"], &value["rows_of_unknown_labels"]),
            (&json!(1.0), &json!(1))
        );
        assert_eq!(
            value["confusion"],
            json!([{"class": "a", "predicted": "a", "rows": 1}, {"class": "a", "predicted": "c", "rows": 1}])
        );
        let text = tally.to_text(&classes);
        assert!(
            text.starts_with("accuracy 0.5000 (1 of 2 rows), loss 1.0000\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(tally.unknown().unwrap().contains("model: 1 (z)"));
    }
}
