//! The report contains the results of the run, and class names are escaped.
//! `tools/report_check.mjs` opens it in a browser.

mod common;

use std::path::Path;

use common::world::{FIT, PREP, World, succeeds};
use serde_json::Value;

/// The data of a page.
fn data(page: &Path) -> Value {
    let page = std::fs::read_to_string(page).unwrap();
    for address in ["http://", "https://", "src=\"", "@import", "url("] {
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains(address), "{address}");
    }
    let start = page.find("id=\"data\">").unwrap() + 10;
    let end = start + page[start..].find("</script>").unwrap();
    serde_json::from_str(&page[start..end]).unwrap()
}

#[test]
fn a_report_contains_the_results_of_the_run() {
    let world = World::new();
    let said = succeeds(&world.fit(&["--lr", "0.05", "--epochs", "30", "--val-split", "val"]));
    for file in ["report.html", "curve.svg", "confusion.svg", "weights.png"] {
        assert!(
            said.contains(file) && world.path("run").join(file).is_file(),
            "{file}"
        );
    }
    let summary = common::json(&world.path("run/summary.json"));
    let data = data(&world.path("run/report.html"));
    assert_eq!(data["runs"][0]["summary"], summary);
    assert_eq!(data["runs"][0]["history"].as_array().unwrap().len(), 30);
    let evaluation = &data["evaluation"];
    for (key, of) in [
        ("accuracy", "eval_accuracy"),
        ("top5", "eval_top5"),
        ("loss", "eval_loss"),
    ] {
        assert_eq!(evaluation[key], summary[of], "{key}");
    }
    let counts = evaluation["confusion"].as_array().unwrap();
    let sum = |wanted: &dyn Fn(&Value) -> bool| -> u64 {
        counts
            .iter()
            .filter(|c| wanted(c))
            .map(|c| c[2].as_u64().unwrap())
            .sum()
    };
    assert_eq!(sum(&|_| true), summary["eval_rows"].as_u64().unwrap());
    let hits = sum(&|c| c[0] == c[1]) as f64;
    assert_eq!(
        hits / summary["eval_rows"].as_f64().unwrap(),
        summary["eval_accuracy"].as_f64().unwrap()
    );
    assert_eq!(data["weights"].as_array().unwrap().len(), 4);
    let examples = ["mistakes", "unsure"].map(|key| data[key].as_array().unwrap());
    assert_eq!(examples.map(Vec::len).iter().sum::<usize>(), 8);
    for example in examples.into_iter().flatten() {
        assert!(
            example["picture"]
                .as_str()
                .unwrap()
                .starts_with("data:image/jpeg;base64,")
        );
        assert!(example["name"].as_str().unwrap().starts_with("jpg/image_"));
    }

    succeeds(&world.fit(&["--epochs", "3", "--force", "--no-report", "--classes", "2"]));
    assert!(!world.path("run/report.html").exists() && !world.path("run/weights.png").exists());
}

#[test]
fn several_runs_are_compared_in_one_report() {
    let world = World::new();
    for (out, lr) in [("one", "0.05"), ("two", "0.01")] {
        succeeds(&world.run(FIT, &["data", "--lr", lr, "--epochs", "9", "--out", out]));
    }
    succeeds(&world.run(FIT, &["compare", "one", "two"]));
    let data = data(&world.path("compare.html"));
    let names: Vec<&Value> = data["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["name"])
        .collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(data["runs"][1]["history"].as_array().unwrap().len(), 9);
    // Converged fits have steps; they are compared with one another and with runs of SGD.
    for (out, optimizer) in [("newton", "newton"), ("lbfgs", "lbfgs")] {
        let options = ["--optimizer", optimizer, "--l2", "0.1", "--out", out];
        succeeds(&world.run(FIT, &[&["data"], &options[..]].concat()));
    }
    for pair in [["newton", "lbfgs"], ["lbfgs", "one"]] {
        let out = format!("{}.html", pair.concat());
        succeeds(&world.run(FIT, &["compare", pair[0], pair[1], "--out", &out]));
        for (run, name) in self::data(&world.path(&out))["runs"]
            .as_array()
            .unwrap()
            .iter()
            .zip(pair)
        {
            let lines = std::fs::read_to_string(world.path(name).join("history.jsonl")).unwrap();
            let shown = run["history"].as_array().unwrap();
            assert_eq!(shown.len(), lines.lines().count());
            for (point, line) in shown.iter().zip(lines.lines()) {
                let line: Value = serde_json::from_str(line).unwrap();
                let of = |sgd: &str, converged: &str| match name {
                    "one" => line[sgd].clone(),
                    _ => line[converged].clone(),
                };
                assert_eq!(point["epoch"], of("epoch", "iteration"));
                assert_eq!(point["loss"], of("loss", "objective"));
            }
            assert_eq!(run["summary"].get("epochs").is_some(), name == "one");
        }
    }
    let curve = |run: &str| std::fs::read_to_string(world.path(run).join("curve.svg")).unwrap();
    assert!(curve("one").contains(">epoch<") && curve("one").contains(">loss<"));
    assert!(curve("newton").contains(">step<") && curve("newton").contains(">objective<"));
    assert!(!curve("newton").contains(">epoch<") && !curve("newton").contains(">loss<"));
    world.refuses(73, &["compare.html", "--force"], |world| {
        world.run(FIT, &["compare", "one", "two"])
    });
    world.refuses(74, &["data/summary.json", "flowreg-fit"], |world| {
        world.run(FIT, &["compare", "one", "data", "--out", "x.html"])
    });
    std::fs::write(world.path("two/history.jsonl"), "{\"epoch\": 0}\n").unwrap();
    world.refuses(65, &["two/history.jsonl", "missing field"], |world| {
        world.run(FIT, &["compare", "one", "two", "--out", "x.html"])
    });
}

#[cfg(unix)] // Other systems do not allow these names of folders.
#[test]
fn class_names_are_escaped() {
    let world = World::new();
    let hostile = "<img src=x onerror=alert(1)>";
    for (class, images) in [("<!--<script>", 1..5), (hostile, 8..12)] {
        let folder = world.path("mine").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in images {
            let name = format!("image_{i:05}.jpg");
            std::fs::copy(
                world.path("photographs/jpg").join(&name),
                folder.join(&name),
            )
            .unwrap();
        }
    }
    succeeds(&world.run(
        PREP,
        &["folder", "--root", "mine", "--out", "named", "--size", "8"],
    ));
    succeeds(&world.run(FIT, &["named", "--epochs", "3", "--out", "run"]));
    let page = std::fs::read_to_string(world.path("run/report.html")).unwrap();
    assert!(!page.contains("<img src=x") && !page.contains("<!--<script"));
    assert_eq!(page.matches("</script>").count(), 2);
    let classes = &data(&world.path("run/report.html"))["classes"];
    assert_eq!(*classes, serde_json::json!(["<!--<script>", hostile]));
    let svg = std::fs::read_to_string(world.path("run/confusion.svg")).unwrap();
    assert!(!svg.contains("<img") && svg.contains("&lt;img src=x"));
}
