//! Tests of loss, gradient and Hessian against each other and against their definitions.

use super::block::exp;
use super::*;
use proptest::prelude::*;

fn direction(len: usize, seed: u32) -> Vec<f64> {
    let values = crate::kernels::random_values(len, seed);
    values.into_iter().map(f64::from).collect()
}

/// Compared with the standard library from 0 to -708.
#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let mut worst = 0;
    for i in 0..2_000_000 {
        let x = -708.0 * (f64::from(i) / 2e6).powi(3);
        let (found, expected) = (exp(x), x.exp());
        worst = worst.max(found.to_bits().abs_diff(expected.to_bits()));
    }
    assert!((1..=2).contains(&worst), "{worst}");
    assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
    assert_eq!((exp(-708.1), exp(f64::NEG_INFINITY)), (0.0, 0.0));
    assert!(exp(f64::NAN).is_nan());
}

proptest! {
    /// `evaluate` and `along` agree.
    #[test]
    fn gradient_and_hessian_products_equal_central_differences(
        n in prop_oneof![1usize..6, WIDTH - 1..WIDTH + 3, 2 * WIDTH..2 * WIDTH + 9],
        classes in 2usize..7, smoothing in prop_oneof![Just(0.0), 0.0f64..0.5],
        weighted in any::<bool>(), size in 0.1f64..12.0, seed in any::<u32>(),
    ) {
        let c = Loss::for_classes(classes).outputs(classes);
        let labels: Vec<u32> = (0..n as u32).map(|i| (i * 5 + i / 3) % classes as u32).collect();
        // Some samples have weight 0.
        let weights: Vec<f64> = direction(n, seed ^ 3).iter().map(|w| (w + 0.8).max(0.0)).collect();
        let class_weights: Vec<f64> = if weighted { (0..classes).map(|class| [1.0, 0.0, 2.5][class % 3]).collect() } else { vec![1.0; classes] };
        let total: f64 = labels.iter().zip(&weights).map(|(&y, w)| w * class_weights[y as usize]).sum();
        prop_assume!(total > 0.0);
        let risk = Risk::new(&labels, &weights, &class_weights, smoothing);
        let z: Vec<f64> = direction(c * n, seed).iter().map(|z| size * z).collect();
        let bias = direction(c, seed ^ 1);
        let (d, d_bias) = (direction(c * n, seed ^ 2), direction(c, seed ^ 4));
        let mut at = Eval::<f64>::new(c, n);
        let moved = |t: f64, at: &mut Eval<f64>| {
            let z: Vec<f64> = z.iter().zip(&d).map(|(z, d)| z + t * d).collect();
            let bias: Vec<f64> = bias.iter().zip(&d_bias).map(|(b, d)| b + t * d).collect();
            risk.evaluate(&z, &bias, at);
        };
        let step = 1e-4;
        let (mut after, mut before) = (at.clone(), at.clone());
        moved(step, &mut after);
        moved(-step, &mut before);
        moved(0.0, &mut at);
        for (t, loss) in [(step, after.loss), (-step, before.loss), (0.0, at.loss)] {
            let (along, _) = risk.along((&z, &bias), (&d, &d_bias), t);
            prop_assert!((along - loss).abs() <= 1e-12 * (1.0 + loss.abs()), "{along} {loss}");
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let slope = |at: &Eval<f64>| dot(&at.g, &d) + dot(&at.bias, &d_bias);
        for (t, expected) in [(0.0, slope(&at)), (step, slope(&after))] {
            let (_, along) = risk.along((&z, &bias), (&d, &d_bias), t);
            prop_assert!((along - expected).abs() <= 1e-12 * size, "{along} {expected}");
        }
        let slope = slope(&at);
        let expected = (after.loss - before.loss) / (2.0 * step);
        prop_assert!((slope - expected).abs() <= 1e-6, "{slope} {expected}");
        let (mut h, mut h_bias) = (vec![f64::NAN; c * n], vec![f64::NAN; c]);
        risk.hessian(&at, &d, &d_bias, &mut h, &mut h_bias);
        let differences = after.g.iter().zip(&before.g).map(|(a, b)| (a - b) / (2.0 * step));
        for (h, expected) in h.iter().zip(differences) {
            prop_assert!((h - expected).abs() <= 1e-6, "{h} {expected}");
        }
        for (j, sum) in h_bias.iter().enumerate() {
            let expected: f64 = h[j * n..][..n].iter().sum();
            prop_assert!((sum - expected).abs() <= 1e-12);
        }
        let of_samples: f64 = at.curvatures.iter().sum();
        let of_outputs: f64 = at.bias_curvatures.iter().sum();
        prop_assert!((of_samples - of_outputs / c as f64).abs() <= 1e-12);
    }

    /// With equal weights.
    #[test]
    fn equals_the_loss_of_sgd(n in 1usize..150, classes in 2usize..6, seed in any::<u32>()) {
        let c = Loss::for_classes(classes).outputs(classes);
        let labels: Vec<u32> = (0..n as u32).map(|i| (i * 7) % classes as u32).collect();
        let z: Vec<f32> = direction(c * n, seed).iter().map(|z| 5.0 * *z as f32).collect();
        let mut at = Eval::<f32>::new(c, n);
        Risk::new(&labels, &vec![2.0; n], &vec![1.0; classes], 0.0).evaluate(&z, &vec![0.0; c], &mut at);
        let mut g = vec![0.0; c * n];
        let expected = Loss::for_classes(classes).loss_gradient(
            crate::linalg::mat::MatRef::new(&z, c, n),
            &labels,
            crate::linalg::mat::MatMut::new(&mut g, c, n),
            &mut Vec::new(),
        );
        prop_assert!((at.loss - expected).abs() <= 1e-6 * expected, "{} {expected}", at.loss);
        for (a, b) in at.g.iter().zip(&g) {
            prop_assert!((a - b).abs() <= 1e-6 / n as f32, "{a} {b}");
        }
    }
}

/// With sample weights, class weights and label smoothing.
#[test]
fn logistic_is_the_softmax_of_two_outputs() {
    let labels = [0, 1, 1, 0, 1];
    let z = [0.3, -2.0, 25.0, 40.0, 0.0];
    let two: Vec<f64> = [0.0; 5].into_iter().chain(z).collect();
    for smoothing in [0.0, 0.3] {
        let weights = [1.0, 0.5, 2.0, 1.0, 0.0];
        let one = Risk::new(&labels, &weights, &[0.7, 3.0], smoothing);
        let mut softmax = one.clone();
        (softmax.loss, softmax.outputs) = (Loss::Softmax, 2);
        let (mut a, mut b) = (Eval::<f64>::new(1, 5), Eval::<f64>::new(2, 5));
        one.evaluate(&z, &[0.0], &mut a);
        softmax.evaluate(&two, &[0.0; 2], &mut b);
        assert!((a.loss - b.loss).abs() < 1e-14 * b.loss);
        for i in 0..5 {
            assert!(
                (a.g[i] - b.g[5 + i]).abs() <= 1e-14 * b.g[5 + i].abs(),
                "{i}"
            );
        }
    }
}

/// Also with logits in f32.
#[test]
fn probabilities_near_1_keep_their_relative_precision() {
    for margin in [1.0f64, 10.0, 16.0, 30.0, 80.0] {
        // The softmax of (m, 0, -1), with the label's p near 1.
        let odds = (-margin).exp() + (-margin - 1.0).exp();
        let rest = odds / (1.0 + odds);
        let z = [margin as f32, 0.0, -1.0];
        let mut at = Eval::<f32>::new(3, 1);
        let risk = Risk::new(&[0], &[1.0], &[1.0; 3], 0.0);
        risk.evaluate(&z, &[0.0; 3], &mut at);
        let near = |found: f64, expected: f64| {
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{margin}: {found} {expected}"
            );
        };
        near(at.loss, odds.ln_1p());
        near(f64::from(at.g[0]), -rest);
        near(at.bias[0], -rest);
        let p = [
            1.0 - rest,
            (-margin).exp() / (1.0 + odds),
            (-margin - 1.0).exp() / (1.0 + odds),
        ];
        near(at.bias_curvatures[0], p[0] * rest);
        // H (1, 0, 0): p0 (1 - p0), -p0 p1, -p0 p2.
        let (mut h, mut sums) = ([0f32; 3], [0.0; 3]);
        risk.hessian(&at, &[1f32, 0.0, 0.0], &[0.0; 3], &mut h, &mut sums);
        near(f64::from(h[0]), p[0] * rest);
        near(f64::from(h[1]), -p[0] * p[1]);
        near(f64::from(h[2]), -p[0] * p[2]);
        let (_, slope) = risk.along((&z, &[0.0; 3]), (&[1f32, 0.0, 0.0], &[0.0; 3]), 0.0);
        near(slope, -rest);
        // The logistic loss, for both labels.
        let q = (-margin).exp() / (1.0 + (-margin).exp());
        for (label, sign) in [(1, 1.0), (0, -1.0)] {
            let z = [(sign * margin) as f32];
            let mut at = Eval::<f32>::new(1, 1);
            let labels = [label];
            let risk = Risk::new(&labels, &[1.0], &[1.0; 2], 0.0);
            risk.evaluate(&z, &[0.0], &mut at);
            near(at.loss, (-margin).exp().ln_1p());
            near(f64::from(at.g[0]), -sign * q);
            near(at.curvatures[0], q * (1.0 - q));
            let (mut h, mut sums) = ([0f32], [0.0]);
            risk.hessian(&at, &[1f32], &[0.0], &mut h, &mut sums);
            near(f64::from(h[0]), q * (1.0 - q));
            let (_, slope) = risk.along((&z, &[0.0]), (&[1f32], &[0.0]), 0.0);
            near(slope, -sign * q);
        }
    }
}

#[test]
fn a_nan_logit_gives_a_nan_loss() {
    for classes in [2, 3] {
        let c = Loss::for_classes(classes).outputs(classes);
        for bad in 0..c {
            let mut z = vec![0f64; c];
            z[bad] = f64::NAN;
            let mut at = Eval::new(c, 1);
            let class_weights = vec![1.0; classes];
            Risk::new(&[0], &[1.0], &class_weights, 0.0).evaluate(&z, &vec![0.0; c], &mut at);
            assert!(at.loss.is_nan(), "{classes} {bad}");
        }
    }
}

#[test]
fn margin_changes_equal_their_definition_by_class() {
    let labels = [0, 1, 2];
    let risk = Risk::new(&labels, &[1.0; 3], &[1.0; 3], 0.0);
    // Only the sample of class 2 moves, towards its label.
    let d = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0];
    let changes = risk.margin_changes(&d, &[0.0; 3]);
    assert_eq!((changes.smallest, changes.largest), (0.0, 2.0));
    assert_eq!(changes.of_classes, [0.0, 0.0, 2.0]);
    let changes = risk.margin_changes(&d, &[1.0, 0.0, 0.0]);
    assert_eq!((changes.smallest, changes.of_classes[0]), (-1.0, 1.0));
}

#[test]
fn smallest_margin_leaves_out_samples_of_weight_0() {
    let labels = [0, 2, 1];
    let z: Vec<f64> = vec![3.0, -1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 2.0, 9.0];
    let mut at = Eval::new(3, 3);
    Risk::new(&labels, &[1.0, 1.0, 0.0], &[1.0; 3], 0.0).evaluate(&z, &[0.0; 3], &mut at);
    assert_eq!(at.smallest_margin, 2.0);
    Risk::new(&labels, &[1.0; 3], &[1.0; 3], 0.0).evaluate(&z, &[0.0; 3], &mut at);
    assert_eq!(at.smallest_margin, -8.5);
}
