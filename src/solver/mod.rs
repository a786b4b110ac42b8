//! What converged fits are held to: the bias at its best, the certificate of a model.

pub(crate) mod bias;
pub(crate) mod certificate;
pub(crate) mod decrement;
