//! Documents show the figures that `benches/compare` recorded: every block between
//! `<!-- record: FILE.json PART -->` and `<!-- record end -->` is what the JSON file gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The documents with such blocks, and the parts that they show. The tables that
/// `benches/compare/report.py` wrote have all parts.
const DOCUMENTS: [(&str, &[&str]); 2] = [
    ("README.md", &["machine", "workloads"]),
    ("python/README.md", &["sooner"]),
];
const ALL: [&str; 5] = ["commands", "fits", "machine", "sooner", "workloads"];
const RECORDS: &str = "benches/compare/record";

const WORKLOADS: [&str; 6] = [
    "flowers102",
    "softmax-fast",
    "arcene",
    "lymphoma",
    "isolet",
    "coil20",
];

/// `value` with so many significant figures, with an exponent below 1e-3.
fn rounded(value: f64, figures: usize) -> String {
    let scientific = format!("{value:.*e}", figures - 1);
    let exponent: i64 = scientific.split_once('e').unwrap().1.parse().unwrap();
    if exponent < -3 {
        return scientific;
    }
    let decimals = figures as i64 - 1 - exponent;
    format!("{value:.*}", decimals.max(0) as usize)
}

fn gap_of(fit: &Value) -> String {
    match fit["gap"].as_f64() {
        None => String::new(),
        Some(gap) if gap < 1e-12 => "< 1e-12".into(),
        Some(gap) => rounded(gap, 1),
    }
}

fn number(value: &Value, figures: usize) -> String {
    rounded(value.as_f64().unwrap(), figures)
}

fn thousands(value: &Value) -> String {
    let digits = value.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8(groups.join(&b',')).unwrap()
}

fn name_of(problem: &Value) -> String {
    let data = match problem["name"].as_str().unwrap() {
        "flowers102" => "Flowers102, pixels",
        "softmax-fast" => "Flowers102, 250 epochs of SGD",
        "arcene" => "arcene, mass spectra",
        "lymphoma" => "lymphoma, gene expression",
        "isolet" => "Isolet, speech",
        "coil20" => "COIL20, objects",
        "digits" => "digits, pixels",
        "tall" => "synthetic embeddings",
        name => panic!("{name}: no such data"),
    };
    let (rows, features) = (thousands(&problem["rows"]), thousands(&problem["features"]));
    format!(
        "{data}: {rows} x {features}, {} classes",
        problem["classes"]
    )
}

fn problem<'a>(record: &'a Value, name: &str) -> Option<&'a Value> {
    let problems = record["problems"].as_array().unwrap();
    problems.iter().find(|p| p["name"] == name)
}

/// All problems but that of SGD, which has no gap.
fn converged(record: &Value) -> Vec<&Value> {
    let problems = record["problems"].as_array().unwrap().iter();
    problems.filter(|p| p["name"] != "softmax-fast").collect()
}

/// The fits of a library that ended and were judged.
fn of<'a>(problem: &'a Value, library: &str) -> Vec<&'a Value> {
    let fits = problem["fits"].as_array().unwrap().iter();
    fits.filter(|fit| fit["library"] == library && fit["failed"].is_null())
        .collect()
}

/// flowreg's fit with its defaults.
fn default(problem: &Value) -> &Value {
    let fits = of(problem, "flowreg");
    (fits.into_iter())
        .find(|fit| fit["label"] == "tol 1e-5")
        .unwrap()
}

/// scikit-learn's fit with its defaults, or why it failed.
fn scikit_learn(problem: &Value) -> Result<&Value, String> {
    let mut fits = problem["fits"].as_array().unwrap().iter();
    let fit = fits.find(|fit| fit["library"] == "scikit-learn" && fit["label"] == "lbfgs, float32");
    let fit = fit.unwrap();
    match fit["failed"].as_str() {
        Some(why) => Err(why.to_string()),
        None => Ok(fit),
    }
}

fn smallest<'a>(fits: Vec<&'a Value>, field: &str) -> Option<&'a Value> {
    let value = |fit: &Value| fit[field].as_f64().unwrap();
    (fits.into_iter()).min_by(|a, b| value(a).total_cmp(&value(b)))
}

/// The quickest fit with a gap of at most 1e-6, or flowreg's if that is larger; else the closest fit.
fn best<'a>(problem: &'a Value, library: &str) -> Option<&'a Value> {
    let enough = default(problem)["gap"].as_f64().unwrap().max(1e-6);
    let fits = of(problem, library);
    let close: Vec<_> = (fits.iter().copied())
        .filter(|fit| fit["gap"].as_f64().unwrap() <= enough)
        .collect();
    smallest(close, "seconds").or_else(|| smallest(fits, "gap"))
}

fn cell(fit: &Value) -> String {
    format!("{} s, {}", number(&fit["seconds"], 3), gap_of(fit))
}

/// Why a library's first fit failed.
fn failure(problem: &Value, library: &str) -> String {
    let mut fits = problem["fits"].as_array().unwrap().iter();
    let failed = fits.find(|fit| fit["library"] == library && fit["failed"].is_string());
    failed.unwrap()["failed"].as_str().unwrap().to_string()
}

/// The best fit, or why the library's first fit failed.
fn best_cell(problem: &Value, library: &str) -> String {
    best(problem, library).map_or_else(|| failure(problem, library), cell)
}

/// Seconds and last loss of SGD, or why it failed.
fn trajectory(problem: &Value, library: &str) -> String {
    match of(problem, library).first() {
        None => failure(problem, library),
        Some(fit) => format!(
            "{} s, loss {}",
            number(&fit["seconds"], 3),
            number(&fit["objective"], 4)
        ),
    }
}

fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn workloads(record: &Value) -> Vec<String> {
    let mut lines = vec![
        "| data | flowreg's objective | flowreg, default | scikit-learn, default | scikit-learn, best | Cyanure, best | torch, best |".into(),
        "| --- | --- | --- | --- | --- | --- | --- |".into(),
    ];
    for problem in WORKLOADS.iter().filter_map(|name| problem(record, name)) {
        let name = problem["name"].as_str().unwrap();
        let (ours, cells) = if name == "softmax-fast" {
            let ours = of(problem, "flowreg SGD")[0];
            let none = String::new;
            let [first, last] = ["flowreg SGD", "torch SGD"].map(|name| trajectory(problem, name));
            (ours, vec![first, none(), none(), none(), last])
        } else {
            let ours = default(problem);
            let theirs = scikit_learn(problem).map_or_else(|why| why, cell);
            let rivals = ["scikit-learn", "Cyanure", "torch LBFGS"];
            let bests = rivals.map(|library| best_cell(problem, library));
            (ours, [&[cell(ours), theirs], &bests[..]].concat())
        };
        let first = [name_of(problem), number(&ours["objective"], 6)];
        lines.push(row(&[&first[..], &cells[..]].concat()));
    }
    lines
}

fn commands(record: &Value) -> Vec<String> {
    let mark = "<!-- not run: needs the data that benches/compare/README.md names -->";
    let mut lines = vec![mark.to_string(), "```sh".to_string()];
    for ran in WORKLOADS
        .iter()
        .filter_map(|name| record["commands"].get(name))
    {
        lines.push(format!(
            "{}  # objective {}",
            ran["command"].as_str().unwrap(),
            number(&ran["objective"], 6)
        ));
    }
    lines.push("```".into());
    lines
}

fn sooner(record: &Value) -> Vec<String> {
    let mut lines = vec![
        "| data | scikit-learn's default, s | flowreg to the same objective, s | flowreg's default, s |".into(),
        "| --- | --- | --- | --- |".into(),
    ];
    for problem in converged(record) {
        let seconds = |fit: &Value| number(&fit["seconds"], 3);
        let (theirs, reached) = match scikit_learn(problem) {
            Err(why) => (why, String::new()),
            Ok(theirs) => {
                let level = theirs["objective"].as_f64().unwrap();
                let reached: Vec<_> = (of(problem, "flowreg").into_iter())
                    .filter(|fit| fit["objective"].as_f64().unwrap() <= level)
                    .collect();
                let quickest = smallest(reached, "seconds");
                (
                    seconds(theirs),
                    quickest.map_or("not reached".into(), seconds),
                )
            }
        };
        lines.push(row(&[
            name_of(problem),
            theirs,
            reached,
            seconds(default(problem)),
        ]));
    }
    lines
}

fn fits(record: &Value) -> Vec<String> {
    let mut lines = vec![
        "| data | library | fit | seconds | objective | gap |".to_string(),
        "| --- | --- | --- | --- | --- | --- |".to_string(),
    ];
    for problem in record["problems"].as_array().unwrap() {
        for fit in problem["fits"].as_array().unwrap() {
            let text = |key: &str| fit[key].as_str().unwrap().to_string();
            let rest = if fit["failed"].is_null() {
                let objective = number(&fit["objective"], 6);
                [number(&fit["seconds"], 3), objective, gap_of(fit)]
            } else {
                [text("failed"), String::new(), String::new()]
            };
            let first = [name_of(problem), text("library"), text("label")];
            lines.push(row(&[first, rest].concat()));
        }
    }
    lines
}

fn machine(record: &Value) -> Vec<String> {
    let (facts, versions) = (&record["machine"], &record["versions"]);
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let libraries = [
        ("flowreg", "flowreg"),
        ("scikit-learn", "scikit-learn"),
        ("cyanure", "Cyanure"),
        ("torch", "torch"),
        ("numpy", "NumPy"),
        ("Python", "Python"),
    ];
    let libraries = libraries.map(|(key, name)| format!("{name} {}", text(&versions[key])));
    vec![
        format!(
            "{} ({}), {} cores, {} GiB;",
            text(&facts["processor"]),
            text(&facts["kind"]),
            facts["cores"],
            number(&facts["memory_gib"], 3)
        ),
        format!("{}; {}", libraries.join(", "), text(&record["date"])),
    ]
}

fn lines_of(record: &Value, part: &str) -> Vec<String> {
    match part {
        "machine" => machine(record),
        "workloads" => workloads(record),
        "commands" => commands(record),
        "sooner" => sooner(record),
        "fits" => fits(record),
        _ => panic!("{part}: expected machine, workloads, commands, sooner or fits"),
    }
}

/// The parts that a document shows, each compared with the record that it names.
fn shown_parts(document: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut parts = BTreeSet::new();
    for block in text.split("<!-- record: ").skip(1) {
        let (head, rest) = block.split_once(" -->").unwrap();
        let (file, part) = head.split_once(' ').unwrap();
        let (shown, _) = (rest.split_once("<!-- record end -->"))
            .unwrap_or_else(|| panic!("{document}, {head}: no <!-- record end -->"));
        let record: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let shown: Vec<_> = shown.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(shown, lines_of(&record, part), "{document}, {head}");
        parts.insert(part.to_string());
    }
    parts
}

#[test]
fn documents_show_what_was_recorded() {
    for (document, parts) in DOCUMENTS {
        let shown = shown_parts(document);
        assert!(shown.iter().eq(parts), "{document}: {shown:?}");
    }
}

/// README's picture is drawn from the record of its tables.
#[test]
fn pictures_are_drawn_from_their_records() {
    let readme = fs::read_to_string("README.md").unwrap();
    let (head, _) = (readme.split_once(".json machine -->")).unwrap();
    let (_, record) = head.rsplit_once("<!-- record: ").unwrap();
    let json = fs::read(format!("{record}.json")).unwrap();
    let hash: String = (Sha256::digest(&json).iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for theme in ["light", "dark"] {
        let path = format!("{record}-{theme}.svg");
        assert!(readme.contains(&format!("\"{path}\"")), "{path}");
        assert!(fs::read_to_string(&path).unwrap().contains(&hash), "{path}");
    }
}

/// `NAME.md` shows all parts of `NAME.json`, and nothing in the JSON contradicts itself.
#[test]
fn tables_are_those_of_their_records() {
    let mut records = 0;
    for entry in fs::read_dir(RECORDS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        records += 1;
        let tables = path.with_extension("md");
        let parts = shown_parts(tables.to_str().unwrap());
        assert!(parts.iter().eq(ALL), "{}: {parts:?}", tables.display());
        agrees_with_itself(&path);
    }
    assert!(records > 0, "{RECORDS}: no record");
}

fn agrees_with_itself(path: &Path) {
    let record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for problem in converged(&record) {
        let name = &problem["name"];
        let bound = problem["bound"].as_f64().unwrap();
        let mut highest = f64::NEG_INFINITY;
        for fit in problem["fits"].as_array().unwrap() {
            let Some(objective) = fit["objective"].as_f64() else {
                assert!(!fit["failed"].is_null(), "{name}: {fit}");
                continue;
            };
            let gap = fit["gap"].as_f64().unwrap();
            highest = highest.max(fit["bound"].as_f64().unwrap());
            assert!(
                (gap - (objective - bound) / objective).abs() < 1e-15,
                "{name}: {fit}"
            );
            // A bound above an objective would be no bound.
            assert!(gap > -1e-13, "{name}: {fit}");
        }
        assert_eq!(highest, bound, "{name}");
    }
    // The commands give the objectives of the table, up to the rounding of the two programs' models.
    for name in WORKLOADS {
        let Some(problem) = problem(&record, name) else {
            continue;
        };
        let printed = record["commands"][name]["objective"].as_f64().unwrap();
        let ours = match name {
            "softmax-fast" => of(problem, "flowreg SGD")[0],
            _ => default(problem),
        };
        let ours = ours["objective"].as_f64().unwrap();
        assert!(
            (printed - ours).abs() <= 1e-6 * ours,
            "{name}: {printed}, {ours}"
        );
    }
}
