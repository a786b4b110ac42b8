//! How a solve ends, and what is reported of it.

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoppingCriteria {
    /// Gradient norm that is small enough, as a share of that at W = 0, b = 0. The gap (without
    /// a penalty, the decrement) must also be below 100 times this share of the objective.
    pub tolerance: f64,
    /// Most iterations.
    pub iterations: usize,
}

impl StoppingCriteria {
    /// The gap that is small enough at an objective.
    pub(crate) fn largest_gap(self, objective: f64) -> f64 {
        GAP * self.tolerance * objective.abs()
    }
}

/// How a fit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// |∇F| is the tolerance's share of that at W = 0, or rounding; and the gap is below 100
    /// times that share of F. Without a penalty the Newton decrement takes the gap's place.
    Converged,
    /// Out of iterations.
    IterationLimit,
    /// The precision of the features, of the products or of the model's f32 values allows no
    /// better.
    PrecisionLimited,
    /// The classes are separable and nothing penalises larger weights: the loss falls to 0 along
    /// the weights found, and has no minimum.
    Separable,
    /// Some samples are separated and the others tied along a direction of the weights (Albert
    /// and Anderson 1984), and nothing penalises larger weights: the loss has no minimum.
    QuasiSeparable,
}

/// What an [`SolveReport`] was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredOn {
    /// The f32 weights and bias of the model, over the rows as they are stored.
    Model,
    /// The optimizer's own coordinates, from which a model would be rounded.
    Coordinates,
}

/// The end of a fit.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct SolveReport {
    /// How it ended.
    pub status: Status,
    /// What the numbers below belong to.
    pub measured_on: MeasuredOn,
    /// F.
    pub objective: f64,
    /// The data's part of F.
    pub loss: f64,
    /// |∇F|.
    pub gradient_norm: f64,
    /// |∇F| at W = 0, b = 0.
    pub initial_gradient_norm: f64,
    /// F is above its minimum by no more than this. Of coordinates |∇_W F|²/(2 l2), where ∇_b F = 0
    /// but for rounding (F is l2-strongly convex in W); of a model with what the rounded bias
    /// loses and an estimate of the measurement's own rounding. `None` without a penalty, or where
    /// b still leaves more than rounding to gain.
    pub gap: Option<f64>,
    /// Without a penalty: half the square of the Newton decrement, what the quadratic model at
    /// the end promises to be left to gain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decrement: Option<f64>,
    /// Of quasi-separable classes the one whose samples are separated furthest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separated_class: Option<u32>,
    /// Steps.
    pub iterations: usize,
    /// Products.
    pub products: Products,
}

/// A step, as it is reported.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Number, from 0: the start.
    pub iteration: usize,
    /// F.
    pub objective: f64,
    /// |∇F|.
    pub gradient_norm: f64,
}

/// Products with X, or with K in Gram coordinates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Products {
    /// Logits of a weight or direction; on the weights themselves two products for a weight.
    pub logits: usize,
    /// Weights of a gradient in the logits.
    pub pullbacks: usize,
    /// Solutions with the preconditioner.
    pub solves: usize,
}

/// The gap that counts as none, as a share of the objective: a multiple of the tolerance.
pub(super) const GAP: f64 = 100.0;
