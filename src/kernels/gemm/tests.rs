use super::driver::{KC, MC};
use super::inner::{MAX_SHORT, STRIP};
use super::tile::{MAX_NR, MR};
use super::*;
use crate::kernels::random_values as values;
use proptest::prelude::*;

/// A random rows x cols operand: as stored or transposed, its rows padded by NaN.
struct Made {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl Made {
    fn new(rows: usize, cols: usize, transposed: bool, padding: usize, seed: u32) -> Made {
        let (lines, len) = if transposed {
            (cols, rows)
        } else {
            (rows, cols)
        };
        let stride = len + padding;
        let mut data = values((lines * stride).max(1), seed);
        for line in data.chunks_mut(stride.max(1)) {
            for value in line.iter_mut().skip(len) {
                *value = f32::NAN;
            }
        }
        let (row_stride, col_stride) = if transposed { (1, stride) } else { (stride, 1) };
        Made {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    fn view(&self) -> Strided<'_> {
        Strided {
            data: &self.data,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        }
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_stride + j * self.col_stride]
    }
}

/// More rows than a block has: the full product and the triangle.
#[test]
fn products_of_several_blocks_of_rows_are_exact() {
    for n in [MC - 1, MC + 1, 2 * MC + 65] {
        let k = 3;
        let x = Made::new(n, k, false, 0, 9);
        let (a, b) = (
            x.view(),
            Strided {
                rows: k,
                cols: n,
                row_stride: 1,
                col_stride: k,
                ..x.view()
            },
        );
        for isa in Isa::available() {
            for part in [Part::Full, Part::LowerTriangle] {
                let mut c = vec![f32::NAN; n * n];
                product(isa, 1.0, a, b, Accum::Replace, part, &mut c);
                for i in 0..n {
                    let last = if part == Part::Full { n } else { i + 1 };
                    for j in 0..last {
                        let exact: f64 = (0..k)
                            .map(|l| f64::from(x.at(i, l)) * f64::from(x.at(j, l)))
                            .sum();
                        assert!(
                            (f64::from(c[i * n + j]) - exact).abs() < 1e-6,
                            "{isa} {i} {j}"
                        );
                    }
                }
            }
        }
    }
}

/// Inner products of operands that are both contiguous along k, over several blocks and strips, on
/// either side: the bits of the general driver, and f64 along a random direction.
#[test]
fn inner_products_and_driver_give_the_same_bits() {
    let (k, wide) = (2 * KC + 37, MAX_SHORT);
    for (m, n) in [(3 * STRIP + 5, 9), (9, 3 * STRIP + 5), (wide, wide + 7)] {
        let (a, b) = (Made::new(m, k, false, 3, 5), Made::new(k, n, true, 3, 6));
        let old = values(m * n, 7);
        let direction = values(n, 8);
        let mut expected: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let packed = Packed::new(isa, b.view());
            for general in [true, false] {
                let mut c = old.clone();
                if general {
                    packed_product(isa, 0.7, a.view(), &packed, &mut c, &|_| {});
                } else {
                    let (a, b) = (a.view(), b.view());
                    product(isa, 0.7, a, b, Accum::Add, Part::Full, &mut c);
                }
                let expected = expected.get_or_insert_with(|| c.clone());
                let same = c
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa} {m} x {n}");
            }
        }
        let c = expected.unwrap();
        let moved: Vec<f64> = (0..k)
            .map(|l| {
                let terms = (0..n).map(|j| f64::from(b.at(l, j)) * f64::from(direction[j]));
                terms.sum()
            })
            .collect();
        for i in 0..m {
            let along = |row: &[f32]| -> f64 {
                let terms = row.iter().zip(&direction);
                terms.map(|(&c, &r)| f64::from(c) * f64::from(r)).sum()
            };
            let product: f64 = (0..k).map(|l| f64::from(a.at(i, l)) * moved[l]).sum();
            let expected = along(&old[i * n..][..n]) + 0.7 * product;
            let found = along(&c[i * n..][..n]);
            assert!(
                (found - expected).abs() < 0.02,
                "row {i}: {found} {expected}"
            );
        }
    }
}

fn near(edge: usize) -> impl Strategy<Value = usize> {
    (0..=2 * edge + 1).prop_map(move |n| if n > edge + 3 { n - edge / 2 } else { n })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every instruction set gives the bits of the portable one, which is within the rounding bound
    /// of f64. Values of C that are replaced may be NaN.
    #[test]
    fn every_instruction_set_equals_the_twin_and_f64(
        m in near(MR), n in prop_oneof![near(16), near(MAX_NR)],
        k in prop_oneof![0usize..40, KC - 2..KC + 3, 2 * KC - 1..2 * KC + 18],
        transposed in any::<bool>(), padding in 0usize..3, add in any::<bool>(),
        alpha in -2.0f32..2.0, seed in any::<u32>(), threads in 1usize..4,
    ) {
        crate::threads::share_short_loops();
        let a = Made::new(m, k, false, padding, seed);
        let b = Made::new(k, n, transposed, padding, seed ^ 1);
        let (accum, old) = if add {
            (Accum::Add, values(m * n, seed ^ 2))
        } else {
            (Accum::Replace, vec![f32::NAN; m * n])
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = |isa| {
            let mut c = old.clone();
            pool.install(|| product(isa, alpha, a.view(), b.view(), accum, Part::Full, &mut c));
            c
        };
        let run_packed = |isa| {
            let mut c = vec![f32::NAN; m * n];
            let b = pool.install(|| Packed::new(isa, b.view()));
            // Adding to -0 changes no bit of a product; where there is none, 0 is expected.
            let nothing = if k == 0 { 0.0 } else { -0.0 };
            let prologue = |block: &mut Columns| for i in 0..m {
                let range = block.range();
                if add {
                    block.row(i).copy_from_slice(&old[i * n..][range]);
                } else {
                    block.row(i).fill(nothing);
                }
            };
            pool.install(|| packed_product(isa, alpha, a.view(), &b, &mut c, &prologue));
            c
        };
        let twin = run(Isa::PORTABLE);
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|l| f64::from(a.at(i, l)) * f64::from(b.at(l, j)));
                let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
                let before = if add { f64::from(old[i * n + j]) } else { 0.0 };
                let expected = f64::from(alpha) * sum + before;
                let size = f64::from(alpha.abs()) * size + before.abs();
                let bound = f64::from(f32::EPSILON) * (k as f64 + 4.0) * size + 1e-30;
                let found = f64::from(twin[i * n + j]);
                prop_assert!((found - expected).abs() <= bound, "{i} {j}: {found} {expected}");
            }
        }
        for isa in Isa::available() {
            for found in [run(isa), run_packed(isa)] {
                let same = found.iter().zip(&twin).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{isa}");
            }
            let packed = Packed::new(isa, b.view());
            for l in 0..k {
                let mut row = Vec::new();
                packed.push_row(l, &mut row);
                prop_assert!(row.iter().enumerate().all(|(j, &value)| value == b.at(l, j)) && row.len() == n);
            }
        }
    }

    /// Bytes are multiplied exactly, and alike on every instruction set.
    #[test]
    fn bytes_are_exact(
        m in near(MR), n in prop_oneof![near(16), near(MAX_NR)],
        quads in prop_oneof![1usize..20, KC - 1..KC + 2, 2 * KC - 1..2 * KC + 2],
        extreme in any::<bool>(), add in any::<bool>(), seed in any::<u32>(),
    ) {
        let mut rng = rand_mt::Mt::new(seed);
        let mut quad = || if extreme { [255, 128, 255, 128] } else { rng.next_u32().to_le_bytes() };
        let a: Vec<[u8; 4]> = (0..m * quads).map(|_| quad()).collect();
        let b: Vec<[i8; 4]> = (0..n * quads).map(|_| quad().map(|byte| byte as i8)).collect();
        let left = Strided { data: &a, rows: m, cols: quads, row_stride: quads, col_stride: 1 };
        let right = Strided { data: &b, rows: quads, cols: n, row_stride: 1, col_stride: quads };
        for isa in Isa::available() {
            let (accum, old) = if add { (Accum::Add, 12_345) } else { (Accum::Replace, 0) };
            let mut c = vec![12_345; m * n];
            byte_product(isa, left, right, accum, Part::Full, &mut c);
            for i in 0..m {
                for j in 0..n {
                    let terms = (0..4 * quads).map(|l| {
                        i64::from(a.as_flattened()[4 * quads * i + l]) * i64::from(b.as_flattened()[4 * quads * j + l])
                    });
                    prop_assert_eq!(i64::from(c[i * n + j]), terms.sum::<i64>() + old, "{} {} {}", isa, i, j);
                }
            }
        }
    }

    /// The triangle is the full product's, and nothing is written outside of C.
    #[test]
    fn the_lower_triangle_is_the_full_products(n in near(2 * MAX_NR), k in 1usize..30, seed in any::<u32>()) {
        let x = Made::new(n, k, false, 0, seed);
        let (a, b) = (x.view(), Strided { rows: k, cols: n, row_stride: 1, col_stride: k, ..x.view() });
        for isa in Isa::available() {
            let mut full = vec![f32::NAN; n * n];
            let mut lower = full.clone();
            product(isa, 1.0, a, b, Accum::Replace, Part::Full, &mut full);
            product(isa, 1.0, a, b, Accum::Replace, Part::LowerTriangle, &mut lower);
            for i in 0..n {
                prop_assert_eq!(&lower[i * n..=i * n + i], &full[i * n..=i * n + i], "{} row {}", isa, i);
            }
        }
    }
}
