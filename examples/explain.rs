//! Print the contribution of each training row to a prediction.
//!
//! `cargo run --release --no-default-features --example explain`

use flowreg::design::plan::EngineChoice;
use flowreg::linalg::mat::MatRef;
use flowreg::model::explain::Explainer;
use flowreg::{FitOptions, Init, Samples, fit};

fn main() -> flowreg::Result<()> {
    // Rows 0 and 1 are similar, and so are 2 and 3.
    let x = [
        1.0, 0.9, 0.0, 0.1, 0.0, //
        0.9, 1.0, 0.1, 0.0, 0.0, //
        0.0, 0.1, 1.0, 0.9, 0.2, //
        0.1, 0.0, 0.9, 1.0, 0.1,
    ];
    let train = Samples::from_labels(&x, 5, &[0, 0, 1, 1], 2)?;
    let mut options = FitOptions {
        engine: EngineChoice::Gram,
        init: Init::Zeros,
        ..Default::default()
    };
    options.sgd.lr = 1.0.into();
    let fit = fit(&train, &options, &mut |_| {})?;

    let coordinates = fit.coordinates.expect("the Gram engine has them");
    let explainer = Explainer::new(&coordinates, &train, fit.scaler, fit.model.outputs())?;
    let new = [0.0, 0.0, 1.0, 1.0, 0.0];
    let class = fit.model.predict(&new)?[0];
    let contributions = explainer.contributions(MatRef::new(&new, 1, 5), &[class]);
    println!("contributions to the logit of class {class}:");
    for (row, contribution) in contributions[0].iter().enumerate() {
        println!("  row {row}: {contribution:+.3}");
    }
    Ok(())
}
