//! [`Problem`]: the weights of a converged fit as a space with an inner product and a
//! preconditioner.
//!
//! [`Parameters`](crate::sgd::parameters::Parameters) follow torch step by step; a [`Problem`]
//! serves the solvers: coordinates and sums are f64, rows are centred, and the preconditioner
//! solves the Newton system of an average curvature exactly.
//!
//! With μ the mean row, `Z = (X - 1 μᵀ) Wᵀ + 1 bᵀ`: models and penalty are those without μ (b
//! absorbs μ·W), but the bias hardly depends on W. Without a bias μ = 0.
//!
//! If features are scaled by their deviations σ, Xc is `(X - 1 μᵀ) diag(1/σ)` and W is the weight
//! of the scaled features: the weight of the unscaled features is W/σ. X is not copied.

use crate::design::centered::Centered;
use crate::design::gram::Progress;
use crate::error::Result;
use crate::linalg::vec::Real;
use crate::loss::risk::Risk;
use crate::solver::point::{Gradient, Point};
use crate::solver::report::{SolveReport, StoppingCriteria};

/// Weights W (c x d), given by their coordinates: c rows of [`Problem::coords`] values.
///
/// Logits Zᵀ and their gradient Gᵀ are c x n, row-major.
pub trait Problem {
    /// The number type of logits.
    type Real: Real;

    /// n.
    fn rows(&self) -> usize;

    /// Number of coordinates of one output.
    fn coords(&self) -> usize;

    /// Relative rounding error of an objective computed from these products.
    fn noise(&self) -> f64;

    /// Logits of a point: `Zᵀ = W Xcᵀ`, Xc the centred rows.
    fn logits(&mut self, w: &[f64], z: &mut [Self::Real]);

    /// Logits of a direction; they may be less precise, relative to the direction, than those of
    /// a point.
    fn logits_of_direction(&mut self, w: &[f64], z: &mut [Self::Real]) {
        self.logits(w, z);
    }

    /// `w = Gᵀ Xc`.
    fn adjoint(&mut self, g: &[Self::Real], w: &mut [f64]);

    /// The inner product ⟨U, V⟩ of two weights. `logits` are those of V; they are read only if
    /// [`Problem::solves_logits`].
    fn dot(&self, u: &[f64], v: &[f64], logits: &[Self::Real]) -> f64;

    /// |U|².
    fn square(&mut self, u: &[f64]) -> f64;

    /// Selects the fitted rows, in ascending order (`None`: all), and divides features by
    /// `deviation`. Earlier coordinates become invalid. The other rows have no share in the risk;
    /// their logits are those of the last [`Problem::logits`]. An implementation whose products
    /// take all rows may ignore `rows`. `progress` receives the number of finished columns if a
    /// Gram matrix is recomputed.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory); those of `progress`.
    fn fit_rows(
        &mut self,
        rows: Option<Vec<u32>>,
        deviation: Option<&[f64]>,
        progress: Progress,
    ) -> Result<()>;

    /// Factors the preconditioner `M = Xcᵀ D Xc + l2`. D is the diagonal of the rows' average
    /// curvatures (each at least 0), or their mean.
    fn factor(&mut self, curvatures: &[f64], l2: f64);

    /// `w = M⁻¹ r`, and its logits if [`Problem::solves_logits`]; else `logits` is not written.
    fn solve(&mut self, r: &[f64], w: &mut [f64], logits: &mut [Self::Real]);

    /// Whether [`Problem::solve`] gives the logits of a solution without a product. If so,
    /// directions composed of solutions carry their logits; else logits are computed once, for
    /// the finished direction.
    fn solves_logits(&self) -> bool;

    /// Whether products are precise enough to distinguish small curvatures of the last factored
    /// matrix from 0.
    fn resolves_curvatures(&self) -> bool {
        true
    }

    /// Replaces the coordinates of a direction that carries its logits by those of minimum norm,
    /// if they cancel. Returns whether it did.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn shorten(&mut self, _w: &mut [f64], _logits: &[Self::Real]) -> Result<bool> {
        Ok(false)
    }

    /// The weight (c x d, f32, of the unscaled features) of these coordinates. Gram coordinates
    /// that cancel are replaced by those of minimum norm; the product is in f64 if `exact`, or if
    /// f32 would lose too much. Cost: in Gram coordinates 2ncd flop.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn weight(&mut self, w: &[f64], design: &Centered, exact: bool) -> Result<Vec<f32>>;

    /// W μ (length c) for a weight as [`Problem::weight`] returns it; μ is the mean of the fitted
    /// rows.
    fn shifts(&self, weight: &[f32], design: &Centered) -> Vec<f64> {
        design.shifts(weight)
    }

    /// The coordinates of a weight (c x d) of the unscaled features, and its
    /// [shifts](Problem::shifts). Gram coordinates are those of minimum norm with the weight's
    /// logits of the fitted rows. Cost: in Gram coordinates 2ncd flop in f64, n³/3 flop the first
    /// time.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    fn coordinates(&mut self, weight: &[f32], design: &Centered) -> Result<(Vec<f64>, Vec<f64>)>;

    /// The origin, of `outputs` outputs.
    fn origin(&self, outputs: usize) -> Point<Self::Real> {
        Point {
            w: vec![0.0; outputs * self.coords()],
            b: vec![0.0; outputs],
            z: vec![Self::Real::default(); outputs * self.rows()],
        }
    }

    /// The origin, with logits only if [`Problem::solves_logits`].
    fn zero_solution(&self, outputs: usize) -> Point<Self::Real> {
        let mut point = self.origin(outputs);
        if !self.solves_logits() {
            point.z = Vec::new();
        }
        point
    }

    /// A gradient of zeros.
    fn zero_gradient(&self, outputs: usize) -> Gradient {
        Gradient {
            w: vec![0.0; outputs * self.coords()],
            b: vec![0.0; outputs],
        }
    }

    /// Continues a solve from `point`, as the rounding of this problem's products may have ended it,
    /// with products in f64. `None` if they are f64 already. Cost: 4ncd flop in f64 for each step of
    /// conjugate gradients. `check_stop` is called after every step.
    ///
    /// # Errors
    /// Those of `check_stop`.
    fn refine(
        &mut self,
        _design: &Centered,
        _risk: &Risk,
        _l2: f64,
        _point: &Point<Self::Real>,
        _stop: StoppingCriteria,
        _check_stop: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<(Point<f64>, SolveReport)>> {
        Ok(None)
    }

    /// |Gᵀ Xc|² and a bound of its rounding error; `None` if that takes a product with X. Gᵀ is
    /// c x n.
    fn adjoint_square(&self, g: &[f64]) -> Option<(f64, f64)>;
}
