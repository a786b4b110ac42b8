//! The report of a run: `report.html`, a page without external resources, and its figures as files
//! for papers.
//!
//! The page (`page.html`) contains its data as JSON, and its script draws them. Text from the data,
//! such as names of classes and files, is inserted as text, never as markup.

mod figures;
mod pictures;

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::run_files::{HISTORY, SUMMARY, SolverSummary, Summary};
use crate::design::samples::Rows;
use crate::error::{Error, Result};
use crate::io::files;
use crate::io::publish::Staging;
use crate::model::Model;
use crate::model::evaluate::Scores;
use crate::progress::Epoch;

/// File name of the page.
pub const REPORT: &str = "report.html";
/// File name of the figure of the loss over the epochs.
pub const CURVE: &str = "curve.svg";
/// File name of the figure of the confusion matrix.
pub const CONFUSION: &str = "confusion.svg";
/// File name of the pictures of the weights, in rows.
pub const WEIGHTS: &str = "weights.png";

const TEMPLATE: &str = include_str!("page.html");
/// Limit on the examples of mistakes, and of correct predictions.
const EXAMPLES: usize = 12;
/// Limit on the points of a curve; see [`thinned`].
const POINTS: usize = 2000;
/// Limit on the size of a file that [`compare`] reads, in bytes.
const MAX_RUN_FILE: u64 = 256 << 20;

/// The data of a report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The source of the rows.
    pub source: &'a str,
    /// Options and results.
    pub summary: &'a Summary,
    /// The epochs, or the steps of a converged fit.
    pub history: &'a [Epoch],
    /// The model; its [`About`](crate::model::About) has the class names, and the transform if its
    /// features are pixels.
    pub model: &'a Model,
    /// The scores of the evaluated rows.
    pub scores: &'a Scores,
    /// The evaluated rows.
    pub rows: &'a Rows<'a>,
    /// The files of the evaluated rows, if known.
    pub files: Option<&'a [String]>,
    /// The penalty path, if there is one: objects with `l2` and other numbers.
    pub path: Option<&'a [Value]>,
}

impl Report<'_> {
    /// Writes the page and its figures into the temporary directory of the run. Returns the names
    /// of the files.
    ///
    /// Cost: for 102 classes of 128 x 128 pixels about 0.1 s on two cores, most of it for the
    /// pictures of the weights.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, staging: &Staging) -> Result<Vec<&'static str>> {
        let names = self.class_names();
        let tiles = pictures::of_weights(self.model);
        let mut files = vec![REPORT, CONFUSION];
        staging.write(REPORT, self.html(&tiles).as_bytes())?;
        staging.write(
            CONFUSION,
            figures::confusion(&self.scores.confusion(), &names).as_bytes(),
        )?;
        if !self.history.is_empty() {
            let axes = match self.summary.how {
                SolverSummary::Sgd(_) => figures::EPOCHS,
                SolverSummary::Converged(_) => figures::STEPS,
            };
            let curve = figures::curve(&thinned(self.history), axes);
            staging.write(CURVE, curve.as_bytes())?;
            files.push(CURVE);
        }
        if !tiles.is_empty() {
            staging.write(WEIGHTS, &pictures::sheet(&tiles))?;
            files.push(WEIGHTS);
        }
        Ok(files)
    }

    fn html(&self, tiles: &[pictures::Picture]) -> String {
        let names = self.class_names();
        let (summary, scores) = (self.summary, self.scores);
        let evaluation = json!({
            "split": summary.eval_split,
            "rows": scores.rows.len(),
            "accuracy": scores.evaluation.accuracy,
            "top5": scores.top(5),
            "loss": scores.evaluation.loss,
            "confusion": (scores.confusion().iter())
                .map(|((label, predicted), n)| [label, predicted, n].map(|v| *v))
                .collect::<Vec<_>>(),
            "classes": (scores.classes(names.len()).iter())
                .map(|c| json!({"rows": c.rows, "correct": c.correct, "predicted": c.predicted}))
                .collect::<Vec<_>>(),
        });
        let encoded: Vec<String> = tiles.par_iter().map(pictures::Picture::data_uri).collect();
        let weights: Vec<Value> = (encoded.iter().enumerate())
            .map(|(output, picture)| {
                // The output of a logistic model is the logit of the second class.
                let class = output + usize::from(self.model.bias().len() == 1);
                json!({"name": names[class], "picture": picture})
            })
            .collect();
        let what = if summary.c == 1 {
            "Logistic"
        } else {
            "Softmax"
        };
        page(&json!({
            "title": format!("{what} of {} classes on {}", summary.classes, self.source),
            "subtitle": format!(
                "{} of {} rows x {} features, {} on {} threads, finished; flowreg {}",
                summary.train_split, summary.n, summary.d, summary.engine, summary.threads, summary.flowreg,
            ),
            "runs": [run("run", summary, &thinned(self.history))],
            "classes": names,
            "evaluation": evaluation,
            "weights": (!weights.is_empty()).then_some(weights),
            "weights_note": format!(
                "Each class's weight as a picture: brighter pixels raise the logit of the class, \
                 darker ones lower it, grey ones have no effect.{}",
                if self.model.bias().len() > tiles.len() { format!(" The first {} classes.", tiles.len()) } else { String::new() }
            ),
            "mistakes": self.examples(&scores.confident_misses(EXAMPLES)),
            "unsure": self.examples(&scores.least_confident_correct(EXAMPLES)),
            "path": self.path,
        }))
    }

    fn class_names(&self) -> Vec<String> {
        let known = &self.model.about().class_names;
        (0..self.model.classes())
            .map(|class| match known.get(class) {
                Some(name) => name.clone(),
                None => format!("class {class}"),
            })
            .collect()
    }

    fn examples(&self, rows: &[usize]) -> Vec<Value> {
        let transform = self.model.about().transform.as_ref();
        let example = |&i: &usize| {
            let score = &self.scores.rows[i];
            let name = match self.files.and_then(|files| files.get(i)) {
                Some(file) => file.clone(),
                None => format!("row {i}"),
            };
            let picture = transform.and_then(|t| pictures::of_row(self.rows.row(i), t));
            json!({
                "name": name,
                "label": score.label,
                "predicted": score.predicted,
                "confidence": score.confidence,
                "picture": picture.map(|picture| picture.data_uri()),
            })
        };
        rows.par_iter().map(example).collect()
    }
}

/// A line of the history of a converged fit.
#[derive(serde::Deserialize)]
struct StepLine {
    iteration: usize,
    objective: f64,
}

impl StepLine {
    /// The step as a point of the curve.
    fn point(self) -> Epoch {
        Epoch {
            epoch: self.iteration,
            lr: 1.0,
            loss: self.objective,
            val_loss: None,
            val_accuracy: None,
        }
    }
}

/// The page that compares finished runs: their curves, and the options and results that differ.
/// Runs of SGD are drawn as losses over epochs, converged fits as objectives over steps.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] for a directory that is not a run.
pub fn compare(runs: &[impl AsRef<Path>]) -> Result<String> {
    let mut shown = Vec::new();
    for directory in runs {
        let directory = directory.as_ref();
        let path = directory.join(SUMMARY);
        let summary: Value = parse(&path, &read(&path)?)?;
        if !summary.is_object() {
            return Err(Error::format(
                &path,
                "json",
                "no object",
                "the summary of a run",
            ));
        }
        let path = directory.join(HISTORY);
        let lines = read(&path)?;
        let lines = lines.lines();
        // Only SGD has epochs; the page distinguishes runs in the same way.
        let history: Vec<Epoch> = if summary.get("epochs").is_some() {
            lines
                .map(|line| parse(&path, line))
                .collect::<Result<_>>()?
        } else {
            let point = |line| parse(&path, line).map(StepLine::point);
            lines.map(point).collect::<Result<_>>()?
        };
        let name = directory.display().to_string();
        shown.push(run(&name, &summary, &thinned(&history)));
    }
    Ok(page(&json!({
        "title": format!("{} runs compared", shown.len()),
        "subtitle": format!("flowreg {}", env!("CARGO_PKG_VERSION")),
        "runs": shown,
        "classes": [],
    })))
}

fn read(path: &Path) -> Result<String> {
    let doing = "open the run (flowreg-fit makes one)";
    String::from_utf8(files::read(path, doing, MAX_RUN_FILE)?)
        .map_err(|error| Error::format(path, "text", error, "UTF-8"))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::format(path, "json", error, "a file written by flowreg-fit"))
}

fn run(name: &str, summary: &impl Serialize, history: &[Epoch]) -> Value {
    json!({"name": name, "summary": summary, "history": history})
}

/// The first bytes of every page.
pub const SIGNATURE: &[u8] = b"<!doctype html><!-- flowreg -->";

/// The template with its data. `<` is escaped: it alone could end the script element.
fn page(data: &Value) -> String {
    let data = data.to_string().replace('<', "\\u003c");
    TEMPLATE.replacen("{{DATA}}", &data, 1)
}

/// At most [`POINTS`] epochs: those with the lowest and the highest loss of each stretch.
fn thinned(history: &[Epoch]) -> Vec<Epoch> {
    if history.len() <= POINTS {
        return history.to_vec();
    }
    let stretch = history.len().div_ceil(POINTS / 2);
    let extremes = history.chunks(stretch).flat_map(|epochs| {
        let by_loss = |a: &&Epoch, b: &&Epoch| a.loss.total_cmp(&b.loss);
        let low = epochs.iter().min_by(by_loss).expect("chunks are not empty");
        let high = epochs.iter().max_by(by_loss).expect("chunks are not empty");
        let mut pair = vec![*low, *high];
        pair.sort_by_key(|epoch| epoch.epoch);
        pair.dedup_by_key(|epoch| epoch.epoch);
        pair
    });
    extremes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: usize, loss: f64) -> Epoch {
        Epoch {
            epoch,
            lr: 0.1,
            loss,
            val_loss: None,
            val_accuracy: None,
        }
    }

    #[test]
    fn a_thinned_history_keeps_its_extremes() {
        let mut history: Vec<Epoch> = (0..100_000)
            .map(|i| epoch(i, 1.0 / (i + 1) as f64))
            .collect();
        history[54_321].loss = 99.0;
        let thin = thinned(&history);
        assert!(thin.len() <= POINTS);
        assert!(thin.windows(2).all(|pair| pair[0].epoch < pair[1].epoch));
        assert!(thin.contains(&history[54_321]) && thin.contains(&history[0]));
    }

    #[test]
    fn data_cannot_end_the_script_element() {
        let page = page(&json!({"title": "</script><img src=x onerror=alert(1)>"}));
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("<img src=x"));
        let start = page.find("id=\"data\">").unwrap() + 10;
        let end = start + page[start..].find("</script>").unwrap();
        let data: Value = serde_json::from_str(&page[start..end]).unwrap();
        assert_eq!(data["title"], "</script><img src=x onerror=alert(1)>");
    }
}
