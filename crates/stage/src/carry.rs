//! What moves between visits, as tensors and as messages.

use burn::tensor::{DType, Device, Tensor, TensorData};
use model::Rows;
use wire::Buffer;

/// What one visit hands to the next: the residual stream, and the undifferentiated tensors that travel along so that
/// only source ranks read data.
#[derive(Debug)]
pub(crate) struct Carry {
    /// `[n, hidden_size]`, plain.
    pub hidden: Tensor<2>,
    /// Positions, documents, targets and weights; the ids stay behind.
    pub rows: Rows,
}

impl Carry {
    /// Flat buffers, in the order of [`architecture::Architecture::carry_after`]. The hidden buffer moves when nobody
    /// else holds it.
    pub fn into_message(self) -> Vec<Buffer> {
        let Rows { positions, documents, targets, weights, .. } = self.rows;
        vec![
            Buffer::F32(into_vec(self.hidden)),
            Buffer::I32(positions),
            Buffer::I32(documents),
            Buffer::I32(targets),
            Buffer::F32(weights),
        ]
    }

    /// The carry of a message, on the receiver's device.
    ///
    /// # Panics
    /// When the message is not a carry of `n_rows` rows.
    pub fn from_message(message: Vec<Buffer>, n_rows: usize, device: &Device) -> Self {
        let [
            Buffer::F32(hidden),
            Buffer::I32(positions),
            Buffer::I32(documents),
            Buffer::I32(targets),
            Buffer::F32(weights),
        ] = <[Buffer; 5]>::try_from(message).expect("invariant: a carry has five buffers")
        else {
            panic!("the buffers of a carry have their types");
        };
        let n = positions.len();
        assert!(n > 0 && n % n_rows == 0 && [documents.len(), targets.len(), weights.len()] == [n; 3], "carry sizes");
        let rows = Rows { n_rows, n_tokens: n / n_rows, ids: Vec::new(), positions, documents, targets, weights };
        Self { hidden: from_vec(hidden, n, device), rows }
    }
}

/// The values of a plain tensor; moved when the tensor is alone on the host, else copied.
pub(crate) fn into_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("invariant: activations are f32")
}

/// A tensor as it goes into messages and sums, f32; the same tensor when it is.
pub(crate) fn f32(tensor: Tensor<2>) -> Tensor<2> {
    tensor.cast(DType::F32)
}

/// The tensor, alone on the host and booked to this thread's account from now on; elsewhere, where the ledger does not
/// count, and narrower than f32 as it is.
pub(crate) fn adopted(tensor: Tensor<2>) -> Tensor<2> {
    let (device, n) = (tensor.device(), tensor.dims()[0]);
    let is_counted = device == Device::flex() && tensor.dtype() == DType::F32;
    if is_counted { from_vec(into_vec(tensor), n, &device) } else { tensor }
}

/// A matrix of `n` rows that takes the values over.
pub(crate) fn from_vec(values: Vec<f32>, n: usize, device: &Device) -> Tensor<2> {
    ledger::adopt(&values);
    assert_eq!(values.len() % n, 0, "{} values in {n} rows", values.len());
    let width = values.len() / n;
    Tensor::from_data(TensorData::new(values, [n, width]), device)
}
