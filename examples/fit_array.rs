//! Fit the optimum for one penalty to rows in memory, and predict.
//!
//! `cargo run --release --no-default-features --example fit_array`

use flowreg::path::{Penalty, fit_path};
use flowreg::{PathOptions, Samples};

fn main() -> flowreg::Result<()> {
    // Six rows of two features, three classes.
    let x = [
        0.0, 1.0, 0.2, 0.9, 1.0, 0.1, 0.8, 0.0, -1.0, -0.9, -0.8, -1.0,
    ];
    let y = [0, 0, 1, 1, 2, 2];
    let train = Samples::from_labels(&x, 2, &y, 3)?;

    // scikit-learn's LogisticRegression(C=10) minimises the same objective.
    let options = PathOptions {
        penalty: Penalty::C(10.0),
        ..Default::default()
    };
    let fit = fit_path(&train, &options, &mut |_| {})?;
    let gap = fit.report.gap.expect("there is a penalty");
    println!(
        "objective {:.9}, at most {gap:.1e} above its minimum",
        fit.report.objective
    );

    let new = [0.1, 0.8, 0.9, 0.2];
    println!("classes {:?}", fit.model.predict(&new)?);
    println!("probabilities {:.3?}", fit.model.probabilities(&new)?);
    Ok(())
}
