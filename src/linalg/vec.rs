//! Sums, inner products and linear combinations of vectors. The order of each sum does not depend on
//! the number of threads.

use rayon::prelude::*;

use super::gemm::Accum;
use super::mat::MatRef;
use crate::kernels::{Isa, with_isa};
use crate::threads::{Share, Work};

/// A stored number, f32 or f64; sums are f64.
pub trait Real: Copy + Default + Send + Sync + Into<f64> + 'static {
    /// `value`, rounded to this type.
    fn of(value: f64) -> Self;

    /// The slice, with its type as a value.
    fn slice(values: &mut [Self]) -> RealSlice<'_>;
}

/// A slice of f32 or f64.
pub enum RealSlice<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// f64.
    F64(&'a mut [f64]),
}

impl Real for f32 {
    fn of(value: f64) -> f32 {
        value as f32
    }

    fn slice(values: &mut [f32]) -> RealSlice<'_> {
        RealSlice::F32(values)
    }
}

impl Real for f64 {
    fn of(value: f64) -> f64 {
        value
    }

    fn slice(values: &mut [f64]) -> RealSlice<'_> {
        RealSlice::F64(values)
    }
}

/// Number of values of a task.
const CHUNK: usize = 8 << 10;
/// Lanes of [`sum`].
const SUM_LANES: usize = 8;
/// Lanes of [`dot`].
const DOT_LANES: usize = 16;

/// `y = alpha · x + beta · y`, each element rounded once; with `beta` = 0, `y` is not read.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn axpby<X: Real, Y: Real>(alpha: f64, x: &[X], beta: f64, y: &mut [Y]) {
    assert_eq!(x.len(), y.len(), "lengths");
    let isa = Isa::current();
    let work = Work::bytes(2 * size_of_val(y) + size_of_val(x));
    let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks
        .share(work)
        .for_each(|(y, x)| with_isa!(isa, || axpby_serial(alpha, x, beta, y)));
}

/// [`axpby`] on the calling thread.
#[inline(always)]
pub(crate) fn axpby_serial<X: Real, Y: Real>(alpha: f64, x: &[X], beta: f64, y: &mut [Y]) {
    if beta == 0.0 {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Y::of(alpha * x.into());
        }
    } else {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Y::of(alpha * x.into() + beta * (*y).into());
        }
    }
}

/// `to = x - y`, each element rounded once, on the calling thread.
#[inline(always)]
pub(crate) fn subtract<T: Real>(x: &[f32], y: &[f32], to: &mut [T]) {
    for (to, (&x, &y)) in to.iter_mut().zip(x.iter().zip(y)) {
        // A difference of two f32 in f64, rounded to f32, is their difference in f32 (Figueroa
        // 1995, "When is double rounding innocuous?").
        *to = T::of(f64::from(x) - f64::from(y));
    }
}

/// Multiplies `values` by `beta` and returns how a product is to be combined with them: added, or,
/// with `beta` = 0, in their place (then nothing is written).
pub(crate) fn scale(beta: f64, values: &mut [f32]) -> Accum {
    if beta == 0.0 {
        return Accum::Replace;
    }
    if beta != 1.0 {
        let work = Work::bytes(2 * size_of_val(values));
        let chunks = values.par_chunks_mut(CHUNK).share(work);
        chunks.for_each(|values| {
            for value in values {
                *value = (beta * f64::from(*value)) as f32;
            }
        });
    }
    Accum::Add
}

/// Σ aᵢ in f64.
#[inline(always)]
pub(crate) fn sum<A: Copy + Into<f64>>(a: &[A]) -> f64 {
    let mut sums = [0.0f64; SUM_LANES];
    let chunks = a.chunks_exact(SUM_LANES);
    let rest: f64 = chunks.remainder().iter().map(|&a| a.into()).sum();
    for a in chunks {
        for lane in 0..SUM_LANES {
            sums[lane] += a[lane].into();
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Writes the sum of each row of `g`, in f64, to `out`.
pub(crate) fn row_sums(g: MatRef, out: &mut Vec<f64>) {
    out.clear();
    out.extend(g.as_slice().chunks_exact(g.cols()).map(sum));
}

/// Σ aᵢ bᵢ in f64.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn dot<A: Real, B: Real>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let isa = Isa::current();
    let of_chunk = |(a, b): (&[A], &[B])| with_isa!(isa, || dot_in_lanes::<DOT_LANES, _, _>(a, b));
    let work = Work::bytes(size_of_val(a) + size_of_val(b));
    let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).share(work);
    let parts: Vec<f64> = chunks.map(of_chunk).collect();
    parts.iter().sum()
}

/// [`dot`] on the calling thread, in eight lanes; for the sums inside products with K.
#[inline(always)]
pub(crate) fn dot_serial<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    dot_in_lanes::<SUM_LANES, _, _>(a, b)
}

#[inline(always)]
fn dot_in_lanes<const LANES: usize, A: Copy + Into<f64>, B: Copy + Into<f64>>(
    a: &[A],
    b: &[B],
) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (a_parts, b_parts) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_parts.remainder().iter().zip(b_parts.remainder());
    let rest: f64 = rest.map(|(&a, &b)| a.into() * b.into()).sum();
    for (a, b) in a_parts.zip(b_parts) {
        for lane in 0..LANES {
            sums[lane] += a[lane].into() * b[lane].into();
        }
    }
    sums.iter().sum::<f64>() + rest
}
