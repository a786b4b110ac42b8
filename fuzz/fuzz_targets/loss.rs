//! Finite logits of several samples give a finite loss and gradient, for both losses.
#![no_main]

use flowreg::Loss;
use flowreg::linalg::mat::{MatMut, MatRef};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [samples, label, rest @ ..] = bytes else {
        return;
    };
    let n = usize::from(*samples) % 20 + 1;
    let mut z: Vec<f32> = (rest.chunks_exact(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let c = z.len() / n;
    z.truncate(c * n);
    if c == 0 || z.iter().any(|z| !z.is_finite()) {
        return;
    }
    let (loss, classes) = match c {
        1 => (Loss::Logistic, 2),
        _ => (Loss::Softmax, c as u32),
    };
    let labels: Vec<u32> = (0..n as u32).map(|i| (u32::from(*label) + i) % classes).collect();
    let mut g = vec![f32::NAN; c * n];
    let value = loss.loss_gradient(
        MatRef::new(&z, c, n),
        &labels,
        MatMut::new(&mut g, c, n),
        &mut Vec::new(),
    );
    assert!(value.is_finite() && value >= 0.0, "{value}");
    assert!(g.iter().all(|g| g.abs() <= 1.0), "{g:?}");
});
