//! The options as a space to search.

use super::{Args, PredictorName, RecomputeName, kinds};
use crate::fault::UserFault;
use plan::{Checkpointing, Fixed, LatencyModel, Software, Space, Trainer};

/// What is looked at: all that the trainer has, less what options fix.
pub fn of(trainer: Trainer, software: &Software, args: &Args) -> Result<Space, UserFault> {
    let mut space = Space::of(trainer, software);
    space.kinds = kinds(&args.schedule, space.kinds)?;
    space.fixed = Fixed {
        pipeline: args.pipeline,
        data: args.data,
        context: args.context,
        expert: args.expert,
        tensor: args.tensor,
    };
    space.predictor = match args.predictor {
        None | Some(PredictorName::Simulator) => None,
        Some(PredictorName::Pipette) => Some(LatencyModel::Pipette),
        Some(PredictorName::Amp) => Some(LatencyModel::Amp),
    };
    if let Some(rows) = args.microbatch {
        space.microbatch_rows = vec![rows];
    }
    match args.recompute {
        None => {}
        Some(RecomputeName::None) => space.recompute = vec![Checkpointing::None],
        Some(RecomputeName::Layers) => space.recompute = vec![Checkpointing::Layers],
    }
    Ok(space)
}
