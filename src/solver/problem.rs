//! The weights of a converged fit as a space with an inner product and a preconditioner.
//!
//! Where [`Parameters`](crate::sgd::parameters::Parameters) follows torch step by step, a [`Problem`] is for optimizers
//! that want the optimum: coordinates and sums are f64, rows are centred, and the Newton system
//! of an average curvature is solved exactly.
//!
//! With μ the mean row, `Z = (X - 1 μᵀ) Wᵀ + 1 bᵀ`: the same models and the same penalty as
//! without μ (b takes μ·W up), but the bias hardly depends on W any more. Without a bias μ = 0.
//!
//! Where features are scaled, by their deviations σ, Xc is `(X - 1 μᵀ) diag(1/σ)` and W that of
//! the scaled features: the weight of the features as they are is W/σ. X is not copied.

use crate::design::centered::Centered;
use crate::design::gram::Progress;
use crate::error::Result;
use crate::linalg::vec::Real;

/// Weights W (c x d) by their coordinates: c rows of [`Problem::coords`] values.
///
/// Logits Zᵀ and their gradient Gᵀ are c x n, row-major, as everywhere.
pub trait Problem {
    /// What logits are stored as.
    type Real: Real;

    /// n.
    fn rows(&self) -> usize;

    /// Coordinates of one output.
    fn coords(&self) -> usize;

    /// Relative noise of an objective computed from these products.
    fn noise(&self) -> f64;

    /// `Zᵀ = W Xcᵀ`, Xc the centred rows, of a point.
    fn logits(&mut self, w: &[f64], z: &mut [Self::Real]);

    /// The same of a direction: an error that is small beside the direction does not matter.
    fn logits_of_direction(&mut self, w: &[f64], z: &mut [Self::Real]) {
        self.logits(w, z);
    }

    /// `w = Gᵀ Xc`.
    fn adjoint(&mut self, g: &[Self::Real], w: &mut [f64]);

    /// The inner product of two weights, ⟨U, V⟩; `logits` are V's, and not read unless
    /// [`Problem::solves_logits`].
    fn dot(&self, u: &[f64], v: &[f64], logits: &[Self::Real]) -> f64;

    /// |U|².
    fn square(&mut self, u: &[f64]) -> f64;

    /// From now on fit `rows` alone, in ascending order, or all with `None`, with features over
    /// `deviation`: coordinates made before mean nothing any more. The others have no share in
    /// any likelihood, and their logits are those of the last [`Problem::logits`]. A space whose
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

    /// `w = M⁻¹ r`, and its logits where [`Problem::solves_logits`]; else `logits` is not touched.
    fn solve(&mut self, r: &[f64], w: &mut [f64], logits: &mut [Self::Real]);

    /// Whether [`Problem::solve`] gives a solution's logits without a product. If it does,
    /// directions made of solutions carry their logits; if not, only a finished direction's
    /// logits are computed.
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

    /// The weight (c x d, f32, of the features as they are stored) of these coordinates. Gram
    /// coordinates are brought to minimum norm where they cancel; the product is in f64 if `exact`
    /// asks for it, or if f32 would lose too much. Cost: in Gram coordinates 2ncd flop.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn weight(&mut self, w: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>>;

    /// W μ, one an output, of a weight as [`Problem::weight`] gives it, μ being the row by which
    /// this problem's rows are centred.
    fn shifts(&self, weight: &[f32], design: &Centered) -> Vec<f64> {
        design.shifts(weight)
    }

    /// The coordinates of a weight of the features as they are stored, c x d, and its
    /// [shifts](Problem::shifts). In Gram coordinates, those of minimum norm with its logits of the
    /// fitted rows. Cost: in Gram coordinates 2ncd flop in f64, n³/3 flop the first time.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)>;

    /// |Gᵀ Xc|² and what rounding may have added to it, where that takes no product with X; Gᵀ
    /// is c x n.
    fn adjoint_square(&self, g: &[f64]) -> Option<(f64, f64)>;
}
