//! Tests of the loss: against its definition in f64, at extreme logits, and on several threads.

use super::*;
use proptest::prelude::*;

/// Loss and G (n x c) of n x c logits.
fn run(loss: Loss, z: &[f32], cols: usize, labels: &[u32]) -> (f64, Vec<f32>) {
    let rows = z.len() / cols;
    let transposed = |z: &[f32], rows: usize, cols: usize| -> Vec<f32> {
        let values = (0..cols).flat_map(|j| (0..rows).map(move |i| z[i * cols + j]));
        values.collect()
    };
    let z = transposed(z, rows, cols);
    let mut g = vec![f32::NAN; z.len()];
    let (z, g_view) = (MatRef::new(&z, cols, rows), MatMut::new(&mut g, cols, rows));
    let value = loss.loss_gradient(z, labels, g_view, &mut Vec::new());
    assert_eq!(
        loss.loss_and_correct(z, labels, &mut Vec::new())
            .0
            .to_bits(),
        value.to_bits()
    );
    (value, transposed(&g, cols, rows))
}

#[test]
fn predictions_and_probabilities_agree() {
    // Columns: the second class is the largest; a tie of the first and the third; a NaN.
    let z = [0.0, 1.0, f32::NAN, 2.0, 0.0, 1.0, 1.0, 1.0, 3.0];
    let z = MatRef::new(&z, 3, 3);
    assert_eq!(Loss::Softmax.predictions(z)[..2], [1, 0]);
    let mut p = [0.0; 9];
    Loss::Softmax.probabilities(z, &mut p);
    assert!((p[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6 && p[1] > p[2] && p[2] > p[0]);
    assert_eq!(p[3], p[5]);
    assert!(p[6..].iter().all(|p| p.is_nan()));
    let z = MatRef::new(&[-1.0, 2.0], 1, 2);
    assert_eq!(Loss::Logistic.predictions(z), [0, 1]);
    Loss::Logistic.probabilities(z, &mut p[..4]);
    assert!(p[0] > 0.5 && p[3] > 0.8 && (p[0] + p[1] - 1.0).abs() < 1e-6);
    // Several tasks.
    let n = 2 * TASK + 3;
    let z: Vec<f32> = (0..3 * n)
        .map(|at| f32::from(u8::from(at % n % 3 == at / n)))
        .collect();
    let expected: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
    assert_eq!(Loss::Softmax.predictions(MatRef::new(&z, 3, n)), expected);
}

/// The definition in f64, with the maximum of each row subtracted.
fn oracle(loss: Loss, z: &[f64], cols: usize, labels: &[u32]) -> f64 {
    let rows = z.len() / cols;
    let mut sum = 0.0;
    for (row, &label) in z.chunks_exact(cols).zip(labels) {
        sum += match loss {
            Loss::Logistic => {
                row[0].max(0.0) + (-row[0].abs()).exp().ln_1p() - f64::from(label) * row[0]
            }
            Loss::Softmax => {
                let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
                lse - row[label as usize]
            }
        };
    }
    sum / rows as f64
}

fn problem() -> impl Strategy<Value = (Loss, Vec<f32>, usize, Vec<u32>)> {
    (any::<bool>(), 1usize..9, 3usize..12, 0.1f32..30.0).prop_flat_map(
        |(binary, rows, classes, size)| {
            let loss = Loss::for_classes(if binary { 2 } else { classes });
            let cols = loss.outputs(classes);
            let labels = if binary { 2 } else { classes as u32 };
            (
                Just(loss),
                prop::collection::vec(-size..size, rows * cols),
                Just(cols),
                prop::collection::vec(0..labels, rows),
            )
        },
    )
}

proptest! {
    #[test]
    fn loss_and_gradient_equal_the_definition((loss, z, cols, labels) in problem()) {
        let (value, g) = run(loss, &z, cols, &labels);
        let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
        let expected = oracle(loss, &z, cols, &labels);
        prop_assert!((value - expected).abs() <= 2e-6 * expected.max(1e-3), "{value} {expected}");
        // The gradient is compared with central differences of the definition.
        let h = 1e-5;
        for i in 0..z.len() {
            let mut moved = z.clone();
            moved[i] += h;
            let up = oracle(loss, &moved, cols, &labels);
            moved[i] -= 2.0 * h;
            let down = oracle(loss, &moved, cols, &labels);
            let slope = (up - down) / (2.0 * h);
            prop_assert!((f64::from(g[i]) - slope).abs() < 1e-6, "{i}: {} {slope}", g[i]);
        }
    }

    /// The gradient of a row does not depend on the logits of other rows.
    #[test]
    fn softmax_is_row_independent((_, z, cols, labels) in problem()) {
        prop_assume!(cols > 1);
        let (_, g) = run(Loss::Softmax, &z, cols, &labels);
        let mut far = z.clone();
        far[..cols].iter_mut().for_each(|z| *z = *z * 0.0 + 1e30);
        let (_, g_far) = run(Loss::Softmax, &far, cols, &labels);
        prop_assert_eq!(&g[cols..], &g_far[cols..]);
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let extremes = [1e30f32, -1e30, f32::MAX, -f32::MAX, 0.0, -0.0, 88.8, -104.0];
    for &a in &extremes {
        for label in [0, 1] {
            let (value, g) = run(Loss::Logistic, &[a], 1, &[label]);
            assert!(value.is_finite() && value >= 0.0 && g[0].is_finite(), "{a}");
        }
        for &b in &extremes {
            for label in [0, 1, 2] {
                let (value, g) = run(Loss::Softmax, &[a, b, 1.0], 3, &[label]);
                assert!(value.is_finite() && value >= 0.0, "{a} {b}: {value}");
                assert!(g.iter().all(|g| g.is_finite() && g.abs() <= 1.0), "{g:?}");
            }
        }
    }
    // Known values at the extremes.
    assert_eq!(
        run(Loss::Softmax, &[1e30, 0.0, 0.0], 3, &[1]).0,
        f64::from(1e30f32)
    );
    assert_eq!(run(Loss::Softmax, &[1e30, 0.0, 0.0], 3, &[0]).0, 0.0);
    assert_eq!(run(Loss::Logistic, &[-1e30], 1, &[1]).0, f64::from(1e30f32));
}

#[test]
fn small_losses_are_not_rounded_away() {
    // lse - z_y in f32 would give 0 for both.
    let (value, g) = run(Loss::Softmax, &[20.0, 0.0, 0.0], 3, &[0]);
    let others = 2.0 * (-20.0f64).exp();
    assert!((value / others.ln_1p() - 1.0).abs() < 1e-6, "{value}");
    assert!((f64::from(g[0]) / -(others / (1.0 + others)) - 1.0).abs() < 1e-6);
    // The part of the loss above the distance of the label from the largest logit, which label
    // smoothing can subtract.
    let (value, _) = run(Loss::Softmax, &[10.0, 0.0, 0.0], 3, &[1]);
    let rest = 2.0 * (-10.0f64).exp();
    assert!(
        ((value - 10.0) / rest.ln_1p() - 1.0).abs() < 1e-6,
        "{value}"
    );
    let (value, g) = run(Loss::Logistic, &[30.0], 1, &[1]);
    assert!((value / (-30.0f64).exp() - 1.0).abs() < 1e-6);
    assert!((f64::from(g[0]) / -(-30.0f64).exp() - 1.0).abs() < 1e-6);
}

#[test]
fn non_finite_logits_give_a_non_finite_loss() {
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(!run(Loss::Softmax, &[0.0, bad, 0.0], 3, &[0]).0.is_finite());
        assert!(!run(Loss::Softmax, &[0.0, bad, 0.0], 3, &[1]).0.is_finite());
    }
    assert!(!run(Loss::Logistic, &[f32::NAN], 1, &[0]).0.is_finite());
    assert!(!run(Loss::Logistic, &[f32::INFINITY], 1, &[0]).0.is_finite());
}

#[test]
fn same_bits_for_any_number_of_threads() {
    crate::threads::share_short_loops();
    let z: Vec<f32> = (0..1000 * 7)
        .map(|i| ((i * 37) % 101) as f32 / 9.0)
        .collect();
    let labels: Vec<u32> = (0..1000).map(|i| i % 7).collect();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| run(Loss::Softmax, &z, 7, &labels))
    };
    assert!((1..5).all(|threads| on(threads) == on(1)));
}
