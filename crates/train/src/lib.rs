//! Training: a run's settings, its plan, the loop, its metrics and its checkpoints.
//!
//! Does not know about the command line, the run file, the report or serving.

mod blocks;
mod data;
mod error;
mod event;
mod learning_rate;
mod run_plan;
mod settings;
mod state;
mod trainer;

pub use blocks::{BlockMetrics, BlocksMetrics};
pub use error::TrainError;
pub use event::{Event, RankMetrics, StepMetrics, ValidationMetrics};
pub use run_plan::{RunPlan, device, matmul_gflops};
pub use settings::{
    BatchSettings, CheckpointSettings, DataSettings, DeviceName, LearningRate, MetricsSettings, ModelSource,
    OptimizerSettings, PipelineSettings, SampleSettings, Settings, TokenizerSource, ValidationSettings,
};
pub use trainer::{CHECKPOINTS, Ended, Resume, Trainer};
