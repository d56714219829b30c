//! A named parameter on a device.

use architecture::Weight;
use burn::tensor::{Device, Tensor, TensorData};

/// A parameter: flat, plain (never a leaf itself), owned by one thread.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name, shape and role.
    pub weight: Weight,
    /// Values `[n]` in row-major order of the weight's shape.
    pub value: Tensor<1>,
}

impl Parameter {
    /// A parameter with the given values.
    ///
    /// # Panics
    /// When there are not as many values as the weight has elements.
    pub fn new(weight: Weight, values: Vec<f32>, device: &Device) -> Self {
        assert_eq!(values.len(), weight.n_elements(), "values of {}", weight.name);
        let n = values.len();
        Self { value: Tensor::from_data(TensorData::new(values, [n]), device), weight }
    }

    /// The values of a matrix or embedding: `[rows, columns]`.
    ///
    /// # Panics
    /// When the weight is not two-dimensional.
    pub fn matrix(&self) -> Tensor<2> {
        let [rows, columns] = self.weight.shape[..] else { panic!("{} is not a matrix", self.weight.name) };
        self.value.clone().reshape([rows, columns])
    }

    /// A copy of the values on the host, f32.
    pub fn to_vec(&self) -> Vec<f32> {
        self.value.clone().into_data().try_to_vec().expect("invariant: parameters are f32")
    }
}
