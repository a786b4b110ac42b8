//! Follow the trajectory of PyTorch: `torch.manual_seed(0)`, `torch.nn.Linear`, `torch.optim.SGD`.
//!
//! `cargo run --release --no-default-features --example follow_torch`

use flowreg::{Event, FitOptions, Init, Samples, fit};

fn main() -> flowreg::Result<()> {
    let (n, d, classes) = (30, 100, 3);
    let x: Vec<f32> = (0..n * d)
        .map(|i| (i * 7919 % 256) as f32 / 255.0)
        .collect();
    let y: Vec<u32> = (0..n as u32).map(|row| row % classes).collect();
    let train = Samples::from_labels(&x, d, &y, classes as usize)?;

    let mut options = FitOptions {
        init: Init::Torch { seed: 0 },
        ..Default::default()
    };
    options.sgd.lr = 0.01.into();
    options.sgd.momentum = 0.9;
    options.sgd.epochs = 50;
    let fit = fit(&train, &options, &mut |event| {
        if let Event::Epoch(epoch) = event
            && epoch.epoch.is_multiple_of(10)
        {
            println!("epoch {:2}: loss {:.6}", epoch.epoch, epoch.loss);
        }
    })?;
    let scores = fit.model.evaluate(&train)?;
    println!(
        "{}; accuracy {:.3}, loss {:.6}",
        fit.plan, scores.accuracy, scores.loss
    );
    Ok(())
}
