//! Training: a run's settings, the optimizer, objectives, the loop, its metrics and its checkpoints.
//!
//! Does not know about the command line, files other than the run's own folder, or serving.

mod event;
mod settings;

pub use event::{Event, StepMetrics, ValidationMetrics};
pub use settings::{
    ActivationCheckpointing, BatchSettings, CheckpointSettings, DataSettings, LearningRate, ModelSource,
    OptimizerSettings, PipelineSettings, SampleSettings, Settings, TokenizerSource, ValidationSettings,
};
