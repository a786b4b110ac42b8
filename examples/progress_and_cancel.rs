//! Show the progress of a fit, and stop it from another thread.
//!
//! `cargo run --release --no-default-features --example progress_and_cancel`

use std::thread;
use std::time::Duration;

use flowreg::{Cancel, Error, Event, FitOptions, Samples, fit};

fn main() -> flowreg::Result<()> {
    let (n, d) = (400, 2000);
    let x: Vec<f32> = (0..n * d)
        .map(|i| (i * 7919 % 256) as f32 / 255.0)
        .collect();
    let y: Vec<u32> = (0..n as u32).map(|row| row % 2).collect();
    let train = Samples::from_labels(&x, d, &y, 2)?;

    let cancel = Cancel::new();
    let mut options = FitOptions {
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    options.sgd.lr = 0.01.into();
    options.sgd.epochs = 100_000_000;
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        cancel.cancel();
    });

    let mut last = None;
    let stopped = fit(&train, &options, &mut |event| match event {
        Event::GramMatrix { columns, of } => println!("K: {columns} of {of} columns"),
        Event::Epoch(epoch) => last = Some(epoch),
        _ => {}
    });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    let last = last.expect("an epoch takes less than 300 ms");
    println!("stopped after epoch {}: loss {:.6}", last.epoch, last.loss);
    Ok(())
}
