//! Finite logits in, finite loss and gradient out.
#![no_main]

use flowreg::Loss;
use flowreg::mat::MatMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&label, rest)) = bytes.split_first() else {
        return;
    };
    let mut z: Vec<f32> = (rest.chunks_exact(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    if z.is_empty() || z.iter().any(|z| !z.is_finite()) {
        return;
    }
    let (loss, label) = match z.len() {
        1 => (Loss::Logistic, u32::from(label) % 2),
        c => (Loss::Softmax, u32::from(label) % c as u32),
    };
    let c = z.len();
    let value = loss.loss_gradient(MatMut::new(&mut z, 1, c), &[label], &mut Vec::new());
    assert!(value.is_finite() && value >= 0.0, "{value}");
    assert!(z.iter().all(|g| g.abs() <= 1.0), "{z:?}");
});
