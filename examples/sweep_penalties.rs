//! Choose among penalties by five-fold cross-validation.
//!
//! `cargo run --release --no-default-features --example sweep_penalties`

use flowreg::path::{Folds, Penalty, fit_path};
use flowreg::{Event, PathOptions, Samples};

fn main() -> flowreg::Result<()> {
    // 60 rows of 200 features, of which the first ten depend on the class.
    let (n, d) = (60, 200);
    let y: Vec<u32> = (0..n as u32).map(|row| row % 2).collect();
    let noise = |i: usize| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0;
    let signal = |i: usize| if i % d < 10 { y[i / d] as f32 } else { 0.0 };
    let x: Vec<f32> = (0..n * d).map(|i| noise(i) + signal(i)).collect();
    let train = Samples::from_labels(&x, d, &y, 2)?;

    let options = PathOptions {
        penalty: Penalty::Path {
            from: 1.0,
            to: 1e-4,
            count: 9,
        },
        folds: Some(Folds::stratified(5, 0)),
        ..Default::default()
    };
    println!("{:>10} {:>10} {:>10}", "l2", "loss", "accuracy");
    let fit = fit_path(&train, &options, &mut |event| {
        if let Event::Scored(entry) = event {
            let (loss, accuracy) = (entry.val_loss.unwrap(), entry.val_accuracy.unwrap());
            println!("{:10.1e} {loss:10.4} {accuracy:10.3}", entry.l2);
        }
    })?;
    println!("chosen: {:.1e}", fit.l2);
    Ok(())
}
