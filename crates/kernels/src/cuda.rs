//! NVIDIA GPUs: the operations there, each as the composition that its trait has for a body, and the way to a device.
//!
//! Whether a build has them is decided in the program's manifest. Here stands what has to know of it: the tensor library
//! names the backend only in a build that has it, and its routing of operations names every backend.

use burn::tensor::{Device, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The program was built without it.
    #[error("this build has no CUDA; build it with --features cuda")]
    NotBuilt,
    /// There is no such device.
    #[error(
        "cuda:{index} is not among the {found} CUDA devices of this machine (nvidia-smi lists what the driver sees)"
    )]
    Absent {
        /// The number asked for.
        index: usize,
        /// Devices that the driver sees; 0 without a driver.
        found: usize,
    },
    /// It is there and does not compute.
    #[error("cuda:{index} does not compute: {reason}; are driver and nvrtc of one CUDA version on the library path?")]
    Broken {
        /// The number asked for.
        index: usize,
        /// What the tensor library said.
        reason: String,
    },
}

/// A GPU, by the driver's number, which has computed something.
///
/// # Errors
/// When the build, the machine or the device cannot.
pub fn cuda(index: usize) -> Result<Device, CudaError> {
    let devices = backend::devices()?;
    let found = devices.len();
    let device = devices.into_iter().nth(index).ok_or(CudaError::Absent { index, found })?;
    // The compiler of its kernels is a library of its own, which is looked for at the first kernel.
    let one_and_one = || (Tensor::<1>::ones([1], &device) + 1.0).into_scalar::<f32>();
    let reason = match catch_unwind(AssertUnwindSafe(one_and_one)) {
        Ok(2.0) => return Ok(device),
        Ok(other) => format!("1 + 1 is {other}"),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (None, Some(text)) => (*text).to_owned(),
            (None, None) => "it panicked".to_owned(),
        },
    };
    Err(CudaError::Broken { index, reason })
}

/// The names of this machine's GPUs, in the driver's order.
///
/// # Errors
/// When the build cannot use any.
pub fn cuda_names() -> Result<Vec<String>, CudaError> {
    Ok(backend::devices()?.iter().map(backend::name).collect())
}

#[cfg(feature = "cuda")]
mod backend {
    use super::*;
    use crate::Kernels;
    use crate::gelu::Gelu;
    use crate::layer_norm::LayerNorm;
    use burn::backend::Cube;
    use burn::tensor::DeviceType;

    impl Kernels for Cube {}
    impl Gelu for Cube {}
    impl LayerNorm for Cube {}

    pub fn devices() -> Result<Vec<Device>, CudaError> {
        Ok(Device::enumerate(DeviceType::Cuda).into_vec())
    }

    pub fn name(device: &Device) -> String {
        device.identity().map_or_else(|| "unnamed".to_owned(), |identity| identity.name)
    }
}

#[cfg(not(feature = "cuda"))]
mod backend {
    use super::*;

    pub fn devices() -> Result<Vec<Device>, CudaError> {
        Err(CudaError::NotBuilt)
    }

    pub fn name(_: &Device) -> String {
        unreachable!("a build without CUDA lists no device")
    }
}
