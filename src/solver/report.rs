//! Stopping criteria and the report of a solve.

/// When a solve stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoppingCriteria {
    /// Largest |∇F| / |∇F(0)|. The gap (without a penalty, the decrement) must also be at most 100
    /// times this share of the objective.
    pub tolerance: f64,
    /// Maximum number of iterations.
    pub iterations: usize,
}

impl StoppingCriteria {
    /// The largest gap of a converged fit with this objective.
    pub(crate) fn largest_gap(self, objective: f64) -> f64 {
        GAP * self.tolerance * objective.abs()
    }
}

/// How a fit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// |∇F| ≤ tol·|∇F(0)| or |∇F| is rounding, and gap ≤ 100·tol·F. Without a penalty the Newton
    /// decrement takes the place of the gap.
    Converged,
    /// The maximum number of iterations was reached.
    IterationLimit,
    /// Rounding of the features, of the products or of the model's f32 values prevents a better
    /// result.
    PrecisionLimited,
    /// The classes are separable and l2 is 0: the loss falls to 0 along the weights found and has
    /// no minimum.
    Separable,
    /// Along a direction of the weights some samples are separated and the others are tied (Albert
    /// and Anderson 1984), and l2 is 0: the loss has no minimum.
    QuasiSeparable,
}

/// What a [`SolveReport`] was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredOn {
    /// The f32 weight and bias of the model, on the stored rows.
    Model,
    /// The coordinates of the solver, before they are rounded to a model.
    Coordinates,
}

/// The result of a solve: its status, objective, gradient and gap.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct SolveReport {
    /// How the solve ended.
    pub status: Status,
    /// What the numbers below were computed from.
    pub measured_on: MeasuredOn,
    /// F.
    pub objective: f64,
    /// F without the penalty.
    pub loss: f64,
    /// |∇F|.
    pub gradient_norm: f64,
    /// |∇F| at W = 0, b = 0.
    pub initial_gradient_norm: f64,
    /// Upper bound of F - min F. On coordinates: |∇_W F|²/(2 l2), as F is l2-strongly convex in W
    /// and ∇_b F = 0 up to rounding. On a model: plus the loss through rounding the bias, and an
    /// estimate of the rounding in the measurement. `None` without a penalty, or if the optimal
    /// bias was not found.
    pub gap: Option<f64>,
    /// Without a penalty: half the square of the Newton decrement, the decrease of F that the
    /// quadratic model still predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decrement: Option<f64>,
    /// If the classes are quasi-separable: the class whose samples are separated furthest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separated_class: Option<u32>,
    /// Number of steps.
    pub iterations: usize,
    /// Number of products.
    pub products: Products,
}

/// A step of a solve.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Number of the step; 0 is the start.
    pub iteration: usize,
    /// F.
    pub objective: f64,
    /// |∇F|.
    pub gradient_norm: f64,
}

/// Number of products with X, or with K in Gram coordinates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Products {
    /// Logits of a weight or direction. The primal engine makes two products for a weight.
    pub logits: usize,
    /// Adjoint products Gᵀ X.
    pub pullbacks: usize,
    /// Solves with the preconditioner.
    pub solves: usize,
}

/// The largest gap of a converged fit, as a share of the objective: this multiple of the
/// tolerance.
pub(super) const GAP: f64 = 100.0;
