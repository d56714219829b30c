//! `--device`.

use crate::commands::weights::WeightsArg;
use crate::fault::{UserFault, users};
use burn::tensor::Device;
use serve::Generator;
use std::path::Path;
use train::DeviceName;

/// Where a command computes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct On {
    /// Compute on this device: cpu, or in a build with --features cuda an NVIDIA GPU, cuda:0 and so on.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse)]
    pub device: DeviceName,
}

impl On {
    /// The device, which this build and machine have.
    pub fn open(self) -> anyhow::Result<Device> {
        Ok(train::device(self.device).map_err(users)?)
    }

    /// The model of a folder: with weights as they are asked for on cores, plain ones on a GPU.
    pub fn generator(self, folder: &Path, weights: WeightsArg) -> anyhow::Result<Generator> {
        match (self.device, weights) {
            (DeviceName::Cpu, weights) => Ok(Generator::open_packed(folder, weights.into()).map_err(users)?),
            (_, WeightsArg::F32) => Ok(Generator::open(folder, &self.open()?).map_err(users)?),
            (device, _) => {
                let message =
                    format!("--weights other than f32 are multiplied by cores only, but --device is {device}");
                Err(UserFault::new(message).hint("leave out one of the two").into())
            }
        }
    }
}

fn parse(name: &str) -> Result<DeviceName, String> {
    DeviceName::parse(name).ok_or_else(|| "a device is cpu, cuda:0, cuda:1 and so on".to_owned())
}
