//! The weights of a converged fit as a space with an inner product and a preconditioner.
//!
//! Where [`Engine`](super::Engine) follows torch step by step, a [`Space`] is for optimizers
//! that want the optimum: coordinates and sums are f64, rows are centred, and the Newton system
//! of an average curvature is solved exactly.
//!
//! With μ the mean row, `Z = (X - 1 μᵀ) Wᵀ + 1 bᵀ`: the same models and the same penalty as
//! without μ (b takes μ·W up), but the bias hardly depends on W any more.
//!
//! Where features are scaled, by their deviations σ, Xc is `(X - 1 μᵀ) diag(1/σ)` and W that of
//! the scaled features: the weight of the features as they are is W/σ. X is not copied.

use super::Progress;
use crate::checkpoint::Fields;
use crate::design::centered::Centered;
use crate::error::Result;
use crate::kernels::{Isa, vectorised};
use crate::threads::{Share, Work};

/// What logits are stored as; sums over them are f64.
pub trait Real: Copy + Default + Send + Sync + Into<f64> + 'static {
    /// Rounded to this type.
    fn of(value: f64) -> Self;

    /// Add a vector to the fields of a checkpoint.
    fn field<'a>(fields: &mut Fields<'a>, name: &str, values: &'a mut [Self]);
}

impl Real for f32 {
    fn of(value: f64) -> f32 {
        value as f32
    }

    fn field<'a>(fields: &mut Fields<'a>, name: &str, values: &'a mut [f32]) {
        fields.f32(name, values);
    }
}

impl Real for f64 {
    fn of(value: f64) -> f64 {
        value
    }

    fn field<'a>(fields: &mut Fields<'a>, name: &str, values: &'a mut [f64]) {
        fields.f64(name, values);
    }
}

/// Weights W (c x d) by their coordinates: c rows of [`Space::width`] values.
///
/// Logits Zᵀ and their gradient Gᵀ are c x n, row-major, as everywhere.
pub trait Space {
    /// What logits are stored as.
    type Real: Real;

    /// n.
    fn rows(&self) -> usize;

    /// Coordinates of one output.
    fn width(&self) -> usize;

    /// Relative noise of an objective computed from these products.
    fn noise(&self) -> f64;

    /// `Zᵀ = W Xcᵀ`, Xc the centred rows, of a point.
    fn logits(&mut self, w: &[f64], z: &mut [Self::Real]);

    /// The same of a direction: an error that is small beside the direction does not matter.
    fn logits_of_direction(&mut self, w: &[f64], z: &mut [Self::Real]) {
        self.logits(w, z);
    }

    /// `w = Gᵀ Xc`.
    fn pullback(&mut self, g: &[Self::Real], w: &mut [f64]);

    /// The inner product of two weights, ⟨U, V⟩; `logits` are V's, and not read unless
    /// [`Space::solves_logits`].
    fn dot(&self, u: &[f64], v: &[f64], logits: &[Self::Real]) -> f64;

    /// |U|².
    fn square(&mut self, u: &[f64]) -> f64;

    /// From now on fit `rows` alone, in ascending order, or all with `None`, with features over
    /// `deviation`: coordinates made before mean nothing any more. The others have no share in
    /// any likelihood, and their logits are those of the last [`Space::logits`]. A space whose
    /// products take all rows anyway need not leave any out. `progress` hears how many columns
    /// are done, if a Gram matrix must be made anew.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory); those of `progress`.
    fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()>;

    /// Make ready to solve with `M = Xcᵀ D Xc + l2`, D being the diagonal of the rows' average
    /// curvatures (or the mean of them), each at least 0.
    fn factor(&mut self, curvatures: &[f64], l2: f64);

    /// `w = M⁻¹ r`, and its logits where [`Space::solves_logits`]; else `logits` is not touched.
    fn solve(&mut self, r: &[f64], w: &mut [f64], logits: &mut [Self::Real]);

    /// Whether a solution's logits come for nothing. Where they do, directions made of solutions
    /// carry theirs along; where they do not, only a finished direction's are multiplied out.
    fn solves_logits(&self) -> bool;

    /// Whether products are precise enough to tell small curvatures of the last factored matrix
    /// from none.
    fn tells_curvatures(&self) -> bool {
        true
    }

    /// Bring coordinates of a direction, whose logits it carries, to minimum norm, if most of
    /// them cancels; whether that was so.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn shorten(&mut self, _w: &mut [f64], _logits: &[Self::Real]) -> Result<bool> {
        Ok(false)
    }

    /// The weight of the features as they are stored, c x d in f32, of coordinates that fit all
    /// rows. Gram coordinates are brought to minimum norm where they cancel; in f64 if that is
    /// asked for, or if f32 would not do. Cost: in Gram coordinates 2ncd flop.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn weight(&mut self, w: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>>;

    /// |Gᵀ Xc|² and what rounding may have added to it, where that takes no product with X; Gᵀ
    /// is c x n.
    fn adjoint_square(&self, g: &[f64]) -> Option<(f64, f64)>;
}

/// Values a task of the loops below, whatever the number of threads.
const CHUNK: usize = 8 << 10;

/// Σ a·b, the same for any number of threads.
pub(crate) fn dot<A: Real, B: Real>(a: &[A], b: &[B]) -> f64 {
    use rayon::prelude::*;
    assert_eq!(a.len(), b.len(), "lengths");
    let isa = Isa::current();
    let of_chunk = |(a, b): (&[A], &[B])| {
        vectorised!(isa, || {
            let mut sums = [0.0f64; 16];
            let (a_parts, b_parts) = (a.chunks_exact(16), b.chunks_exact(16));
            let rest = a_parts.remainder().iter().zip(b_parts.remainder());
            let rest: f64 = rest.map(|(&a, &b)| a.into() * b.into()).sum();
            for (a, b) in a_parts.zip(b_parts) {
                for lane in 0..16 {
                    sums[lane] += a[lane].into() * b[lane].into();
                }
            }
            sums.iter().sum::<f64>() + rest
        })
    };
    let work = Work::bytes(size_of_val(a) + size_of_val(b));
    let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).share(work);
    let parts: Vec<f64> = chunks.map(of_chunk).collect();
    parts.iter().sum()
}

/// `y = alpha · x + beta · y`; with `beta` = 0, `y` is not read.
pub(crate) fn axpby<X: Real, Y: Real>(alpha: f64, x: &[X], beta: f64, y: &mut [Y]) {
    use rayon::prelude::*;
    assert_eq!(x.len(), y.len(), "lengths");
    let isa = Isa::current();
    let work = Work::bytes(2 * size_of_val(y) + size_of_val(x));
    let chunks = (y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK))).share(work);
    chunks.for_each(|(y, x)| {
        vectorised!(isa, || {
            let values = y.iter_mut().zip(x);
            match beta {
                0.0 => values.for_each(|(y, &x)| *y = Y::of(alpha * x.into())),
                _ => values.for_each(|(y, &x)| {
                    *y = Y::of(alpha * x.into() + beta * (*y).into());
                }),
            }
        });
    });
}
