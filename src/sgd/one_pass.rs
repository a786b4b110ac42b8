//! Full-batch loss and gradient of the primal engine in one pass over X: with few outputs the time is
//! that of reading X from memory.
//!
//! Rows are divided into parts, and parts into blocks that stay in the cache. For each block the
//! logits, the loss and its gradient in the weight are computed in turn. Each part sums its gradient
//! separately, and the sums are added in order. The parts depend only on the shape, so the bits do not
//! depend on the number of threads.

use rayon::prelude::*;

use crate::design::rows::Batch;
use crate::kernels::{Isa, skinny, with_isa};
use crate::linalg::mat::{MatMut, MatRef};
use crate::linalg::vec;
use crate::loss::BatchLoss;
use crate::sgd::parameters::LossGradient;
use crate::threads::{Share, Work};

/// Largest number of outputs.
const MAX_OUTPUTS: usize = 16;
/// Number of parts; fewer if their gradients would exceed `MAX_GRADIENT_VALUES`.
const PARTS: usize = 64;
/// Largest number of values in the gradients of all parts (4 MB).
const MAX_GRADIENT_VALUES: usize = 1 << 20;
/// Number of values of X in a block (512 KB).
const BLOCK: usize = 128 << 10;

/// The computation of loss and gradient of a full batch, in parts.
#[derive(Debug)]
pub(super) struct OnePass {
    /// Number of rows of a part.
    part: usize,
    /// Number of rows of a block.
    block: usize,
    weight: skinny::Weight,
}

impl OnePass {
    /// The computation for n x d features and c outputs; `None` where three steps (logits, loss,
    /// product) are about as fast.
    ///
    /// Time of an epoch in three steps divided by that in one pass, on 2 Zen 5 cores with 188 to
    /// 197 MB of X, AVX-512 and AVX2: c = 1, 2.5 and 3.4; 10, 2.0 and 1.8; 16, 1.5 and 1.25; 32, 1.2
    /// and 1.07. With c = 10 and d = 4096, 1.8 and 1.17; 256 x 784 rows in the cache, 1.6 and 1.4.
    /// Fewer than a quarter of [`PARTS`] would leave threads idle.
    pub fn new(n: usize, d: usize, c: usize) -> Option<OnePass> {
        let size = c.checked_mul(skinny::stride(d))?;
        let parts = PARTS.min(MAX_GRADIENT_VALUES / size);
        let block = skinny::ROWS.min(BLOCK / d);
        if c > MAX_OUTPUTS || parts < PARTS / 4 || block < skinny::ROWS / 4 || n < 4 * PARTS {
            return None;
        }
        Some(OnePass {
            part: n.div_ceil(parts).next_multiple_of(block),
            block,
            weight: skinny::Weight::default(),
        })
    }

    /// Returns the mean loss of all rows at a weight and bias, and writes Gᵀ X of each part (c rows at
    /// a stride of [`skinny::stride`]) and Gᵀ 1 to `gradient`. Cost: 4ndc flop; X is read once.
    pub fn loss(
        &mut self,
        weight: &[f32],
        bias: &[f32],
        x: MatRef,
        loss: &mut BatchLoss,
        gradient: &mut LossGradient,
    ) -> f64 {
        let (c, d) = (bias.len(), x.cols());
        let isa = Isa::current();
        let size = c * skinny::stride(d);
        let parts = x.rows().div_ceil(self.part);
        self.weight.load(weight, d, bias);
        gradient.parts.resize(parts * size, 0.0);
        gradient.sums.resize(parts * c, 0.0);
        let (weight, block) = (&self.weight, self.block);
        loss.mean_loss(Batch::All, |targets, losses| {
            let of_parts = (losses.par_chunks_mut(self.part))
                .zip(gradient.parts.par_chunks_exact_mut(size))
                .zip(gradient.sums.par_chunks_exact_mut(c));
            // Either reading X or the products take the longer time.
            let (x_bytes, flop) = (size_of_val(x.as_slice()), 4 * c * x.as_slice().len());
            let work = Work::bytes(x_bytes).max(Work::flop(flop));
            of_parts
                .share(work)
                .enumerate()
                .for_each(|(part, ((losses, gradient), sums))| {
                    gradient.fill(0.0);
                    sums.fill(0.0);
                    let mut scratch = [[0.0; MAX_OUTPUTS * skinny::ROWS]; 2];
                    let [z, g] = &mut scratch;
                    for (i, losses) in losses.chunks_mut(block).enumerate() {
                        let rows = losses.len();
                        let first = part * self.part + i * block;
                        let x = &x.as_slice()[first * d..];
                        let (z, g) = (&mut z[..c * rows], &mut g[..c * rows]);
                        skinny::logits(isa, weight, x, z);
                        let (z, g_view) = (MatRef::new(z, c, rows), MatMut::new(g, c, rows));
                        targets.loss_gradient(first..first + rows, z, g_view, losses);
                        skinny::adjoint(isa, g, x, d, gradient);
                        let rows = sums.iter_mut().zip(g.chunks_exact(rows));
                        rows.for_each(|(sum, g)| *sum += vec::sum(g));
                    }
                });
        })
    }

    /// `(weight, bias) = alpha · gradient + beta · (weight, bias)`, with the rounding of
    /// [`Parameters::adjoint`](crate::sgd::parameters::Parameters::adjoint).
    pub fn adjoint(
        &self,
        alpha: f32,
        gradient: &LossGradient,
        beta: f64,
        weight: &mut [f32],
        bias: &mut [f32],
    ) {
        let (c, alpha) = (bias.len(), f64::from(alpha));
        let d = weight.len() / c;
        let stride = skinny::stride(d);
        let isa = Isa::current();
        weight
            .par_chunks_exact_mut(d)
            .share(Work::bytes(size_of_val(&gradient.parts[..])))
            .enumerate()
            .for_each(|(j, weight)| {
                let mut total = vec![0.0; d];
                with_isa!(isa, || {
                    for part in gradient.parts.chunks_exact(c * stride) {
                        let values = total.iter_mut().zip(&part[j * stride..]);
                        values.for_each(|(total, &value)| *total += f64::from(value));
                    }
                    vec::axpby_serial(alpha, &total, beta, weight);
                });
            });
        let mut total = vec![0.0; c];
        for sums in gradient.sums.chunks_exact(c) {
            total
                .iter_mut()
                .zip(sums)
                .for_each(|(total, sum)| *total += sum);
        }
        vec::axpby_serial(alpha, &total, beta, bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::design::rows::Rows;
    use crate::design::samples::Samples;
    use crate::linalg::gemm::{Backend, Gemm};
    use crate::loss::Loss;
    use crate::loss::weights::{ClassWeights, SampleWeights};
    use crate::model::Model;
    use crate::sgd::dense::DenseParameters;
    use crate::sgd::parameters::Parameters;
    use proptest::prelude::*;

    /// A problem whose logits and features are at most about 1.
    struct Problem {
        x: Vec<f32>,
        d: usize,
        labels: Vec<i64>,
        classes: usize,
        weight: Vec<f32>,
        bias: Vec<f32>,
        weighting: SampleWeights,
    }

    /// Loss and gradient.
    type Found = (f64, Vec<f32>, Vec<f32>);

    impl Problem {
        fn new(
            n: usize,
            d: usize,
            classes: usize,
            weighted: bool,
            smooth: bool,
            seed: u32,
        ) -> Self {
            let mut rng = rand_mt::Mt::new(seed);
            let mut value = || (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let c = Loss::for_classes(classes).outputs(classes);
            let mut weighting = SampleWeights::default();
            if weighted {
                let of_class = |j| 1.0 + (j % 3) as f64;
                weighting.classes = ClassWeights::Given((0..classes).map(of_class).collect());
                weighting.samples = Some((0..n).map(|i| (1 + i % 2) as f64 * 0.5).collect());
            }
            if smooth {
                weighting.label_smoothing = 0.125;
            }
            Problem {
                x: (0..n * d).map(|_| value()).collect(),
                d,
                labels: (0..n).map(|i| (i * 5 % classes) as i64).collect(),
                classes,
                weight: (0..c * d)
                    .map(|_| 2.0 * value() / (d as f32).sqrt())
                    .collect(),
                bias: (0..c).map(|_| value()).collect(),
                weighting,
            }
        }

        fn samples(&self) -> Samples<'_> {
            Samples::new(&self.x, self.d, &self.labels, self.classes).unwrap()
        }

        fn one_pass(&self, part: usize, block: usize) -> Found {
            let mut pass = OnePass {
                part,
                block,
                weight: skinny::Weight::default(),
            };
            let samples = self.samples();
            let mut batch_loss = BatchLoss::weighted(&samples, &self.weighting).unwrap();
            let x = samples.x().contiguous().unwrap();
            let mut g = LossGradient::default();
            let mut loss = || pass.loss(&self.weight, &self.bias, x, &mut batch_loss, &mut g);
            // The second call reuses the buffers of the first.
            let first = loss();
            assert_eq!(first.to_bits(), loss().to_bits());
            let (mut weight, mut bias) = (vec![f32::NAN; self.weight.len()], self.bias.clone());
            pass.adjoint(1.0, &g, 0.0, &mut weight, &mut bias);
            (first, weight, bias)
        }

        fn three_steps(&self) -> Found {
            let samples = self.samples();
            let start = Model::new(self.weight.clone(), self.bias.clone()).unwrap();
            let mut engine =
                DenseParameters::new(samples.x(), None, start, true, Gemm::new(Backend::Faer, 1));
            assert!(!engine.reads_once());
            let mut batch_loss = BatchLoss::weighted(&samples, &self.weighting).unwrap();
            let (mut g, point, mut gradient) =
                (LossGradient::default(), engine.start(), engine.zero());
            let loss = engine.loss(&point, Batch::All, &mut batch_loss, &mut g);
            engine.gradient(1.0, &g, Batch::All, 0.0, &mut gradient);
            let gradient = engine.into_model(gradient);
            (
                loss,
                gradient.weight().as_slice().to_vec(),
                gradient.bias().to_vec(),
            )
        }

        /// Loss and gradient by definition, in f64; the logistic loss is the softmax of (0, z).
        fn oracle(&self) -> (f64, Vec<f64>, Vec<f64>) {
            let weights = self.weighting.resolve(&self.samples(), None).unwrap();
            let total: f64 = weights.rows.iter().sum();
            let (c, epsilon) = (self.bias.len(), self.weighting.label_smoothing);
            let (mut loss, mut weight, mut bias) = (0.0, vec![0.0; c * self.d], vec![0.0; c]);
            let of_rows = weights.rows.iter().zip(&weights.samples);
            let rows = self.x.chunks_exact(self.d).zip(&self.labels).zip(of_rows);
            for ((x, &label), (own, sample)) in rows {
                let logit = |j: usize| {
                    let w = &self.weight[j * self.d..][..self.d];
                    let terms = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    terms.sum::<f64>() + f64::from(self.bias[j])
                };
                let mut z: Vec<f64> = (0..c).map(logit).collect();
                if c == 1 {
                    z.insert(0, 0.0);
                }
                let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
                let factor = |class: usize| {
                    let one_hot = f64::from(u8::from(class == label as usize));
                    let smooth = epsilon / self.classes as f64 * sample * weights.classes[class];
                    ((1.0 - epsilon) * one_hot * own + smooth) / total
                };
                let sum: f64 = (0..self.classes).map(factor).sum();
                for (class, z) in z.iter().enumerate() {
                    loss += factor(class) * (lse - z);
                    let Some(j) = (class + c).checked_sub(self.classes) else {
                        continue;
                    };
                    let g = sum * (z - lse).exp() - factor(class);
                    bias[j] += g;
                    let values = weight[j * self.d..].iter_mut().zip(x);
                    values.for_each(|(w, &x)| *w += g * f64::from(x));
                }
            }
            (loss, weight, bias)
        }
    }

    fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
        let distances = found
            .iter()
            .zip(expected)
            .map(|(&a, &b)| (f64::from(a) - b).abs());
        distances.fold(0.0, |largest, distance| {
            if distance > largest {
                distance
            } else {
                largest + 0.0 * distance
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// For any division of the rows into parts and blocks.
        #[test]
        fn one_pass_equals_three_steps_and_the_definition(
            n in 1usize..300, d in prop_oneof![1usize..30, 60usize..150],
            classes in 2usize..=MAX_OUTPUTS, weighted in any::<bool>(), smooth in any::<bool>(),
            block in 1usize..=skinny::ROWS, blocks in 1usize..4, seed in any::<u32>(),
        ) {
            let problem = Problem::new(n, d, classes, weighted, smooth, seed);
            let expected = problem.oracle();
            for (loss, weight, bias) in [problem.one_pass(block * blocks, block), problem.three_steps()] {
                prop_assert!((loss - expected.0).abs() <= 1e-6 * expected.0, "{loss} {}", expected.0);
                prop_assert!(largest_difference(&weight, &expected.1) < 1e-6);
                prop_assert!(largest_difference(&bias, &expected.2) < 1e-6);
            }
        }
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        crate::threads::share_short_loops();
        for (classes, weighted) in [(2, false), (2, true), (5, false), (10, true), (16, false)] {
            let problem = Problem::new(1000, 83, classes, weighted, weighted, 7);
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new();
                let pool = pool.num_threads(threads).build().unwrap();
                pool.install(|| problem.one_pass(96, 32))
            };
            let one = on(1);
            assert!(
                [2, 3, 8].iter().all(|&threads| on(threads) == one),
                "{classes} classes"
            );
        }
    }

    /// The step updates the point at which the gradient was computed.
    #[test]
    fn gradient_steps_in_place_with_alpha_and_beta() {
        let problem = Problem::new(300, 20, 4, false, false, 3);
        let (_, gradient, _) = problem.one_pass(64, 64);
        let samples = problem.samples();
        let start = Model::new(problem.weight.clone(), problem.bias.clone()).unwrap();
        let mut engine =
            DenseParameters::new(samples.x(), None, start, true, Gemm::new(Backend::Own, 1));
        assert!(engine.reads_once());
        let mut batch_loss = BatchLoss::new(Loss::Softmax, samples.labels());
        let (mut g, mut point) = (LossGradient::default(), engine.start());
        engine.loss(&point, Batch::All, &mut batch_loss, &mut g);
        engine.gradient(-0.5, &g, Batch::All, 0.75, &mut point);
        let moved = engine.into_model(point);
        let values = moved
            .weight()
            .as_slice()
            .iter()
            .zip(&problem.weight)
            .zip(&gradient);
        for ((&moved, &before), &gradient) in values {
            let expected = 0.75 * f64::from(before) - 0.5 * f64::from(gradient);
            assert!(
                (f64::from(moved) - expected).abs() < 1e-7,
                "{moved} {expected}"
            );
        }
    }

    #[test]
    fn one_pass_requires_contiguous_rows_and_few_outputs() {
        let problem = Problem::new(600, 20, 3, false, false, 5);
        let samples = problem.samples().first_classes(2).unwrap();
        let model = |c: usize| Model::new(vec![0.5; c * 20], vec![0.0; c]).unwrap();
        let gemm = Gemm::new(Backend::Own, 1);
        let gaps: &Rows = samples.x();
        assert!(gaps.contiguous().is_none());
        let mut engine = DenseParameters::new(gaps, None, model(1), true, gemm);
        assert!(!engine.reads_once());
        let mut batch_loss = BatchLoss::new(Loss::Logistic, samples.labels());
        let (mut g, point) = (LossGradient::default(), engine.start());
        assert!(
            engine
                .loss(&point, Batch::All, &mut batch_loss, &mut g)
                .is_finite()
        );
        let samples = problem.samples();
        assert!(
            DenseParameters::new(samples.x(), None, model(MAX_OUTPUTS), true, gemm).reads_once()
        );
        assert!(
            !DenseParameters::new(samples.x(), None, model(MAX_OUTPUTS + 1), true, gemm)
                .reads_once()
        );
    }
}
