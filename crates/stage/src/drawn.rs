//! A pipeline's beginning that is read from nowhere.

use crate::pipeline::Source;
use architecture::{Architecture, Weight};
use std::convert::Infallible;

/// What [`Pipeline::start`](crate::Pipeline::start) reads where training begins anew: values as [`model::draw`] gives them,
/// moments of zero.
pub fn drawn(architecture: &Architecture, seed: u64) -> impl Fn(&Weight, Source) -> Result<Vec<f32>, Infallible> {
    move |weight, source| {
        Ok(match source {
            Source::Value => model::draw(architecture, weight, seed),
            Source::FirstMoment | Source::SecondMoment | Source::Gradient => vec![0.0; weight.n_elements()],
        })
    }
}
