//! What a rank keeps of one stage: weights, gradients, moments.

use architecture::Role;
use burn::tensor::{Int, Tensor, TensorData};
use kernels::{AdamW, Moments, WeightGrad, sum_of_squares, weight_gradient};
use model::{Part, Rows};
use simulate::Category;

/// What a stage keeps between forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Everything backward needs.
    None,
    /// Its input only; backward computes the forward again (GPipe's re-materialisation).
    Full,
}

/// One stage on its rank. Only the rank's thread touches it.
#[derive(Debug)]
pub(crate) struct Store {
    pub part: Part,
    pub recompute: Recompute,
    /// Gradient sums `[n]` of each parameter, in the order of the list's actions.
    pub gradients: Vec<Tensor<1>>,
    /// First and second moments of each parameter.
    pub moments: Vec<Moments>,
    /// Parameters that decay, in the order of the part's.
    pub decays: Vec<bool>,
    /// Parameters counted in the global norm: each name once over all stages.
    pub counted: Vec<bool>,
}

impl Store {
    /// Sets all gradients to zero.
    pub fn clear_gradients(&mut self) {
        let _gradients = ledger::category(Category::Gradients);
        self.gradients.clear();
        let device = self.part.device();
        let zeros =
            self.part.parameters().iter().map(|parameter| Tensor::zeros([parameter.weight.n_elements()], device));
        self.gradients = zeros.collect();
    }

    /// Adds to a parameter's gradient, in place when the buffer is not shared.
    fn add(&mut self, parameter: usize, with: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        let empty = Tensor::empty([0], self.part.device());
        let sum = std::mem::replace(&mut self.gradients[parameter], empty);
        self.gradients[parameter] = with(sum);
    }

    /// Adds the gradient of a leaf.
    pub fn add_leaf(&mut self, parameter: usize, gradient: Tensor<1>) {
        self.add(parameter, |sum| sum + gradient);
    }

    /// Adds a linear layer's weight gradient.
    pub fn add_weight(&mut self, left: WeightGrad) {
        let WeightGrad { parameter, x, dy } = left;
        let ([_, n_in], [_, n_out]) = (x.dims(), dy.dims());
        self.add(parameter, |sum| weight_gradient(sum.reshape([n_out, n_in]), dy, x).reshape([n_out * n_in]));
    }

    /// Adds the gradient of looked-up rows to the embedding's.
    pub fn add_embedding(&mut self, parameter: usize, rows: &Rows, gradient: Tensor<2>) {
        let [_, width] = gradient.dims();
        let device = self.part.device().clone();
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(rows.ids.clone(), [rows.n()]), &device);
        self.add(parameter, |sum| {
            let n = sum.dims()[0];
            let table = sum.reshape([n / width, width]);
            table.select_assign(0, ids, gradient, burn::tensor::IndexingUpdateOp::Add).reshape([n])
        });
    }

    /// Sums of squares of the counted parameters' gradients.
    pub fn squares(&self) -> impl Iterator<Item = f64> + '_ {
        let counted = self.gradients.iter().zip(&self.counted).filter(|(_, counted)| **counted);
        counted.map(|(gradient, _)| sum_of_squares(gradient))
    }

    /// One optimizer step on every parameter.
    pub fn update(&mut self, adamw: &AdamW) {
        let device = self.part.device().clone();
        let empty = || Tensor::empty([0], &device);
        for (i, parameter) in self.part.parameters_mut().iter_mut().enumerate() {
            let adamw = AdamW { weight_decay: if self.decays[i] { adamw.weight_decay } else { 0.0 }, ..*adamw };
            let moments = std::mem::replace(&mut self.moments[i], Moments { m: empty(), v: empty() });
            let value = std::mem::replace(&mut parameter.value, empty());
            (parameter.value, self.moments[i]) = adamw.update(value, &self.gradients[i], moments);
        }
    }
}

/// Whether weight decay applies: matrices only, not norms, biases and embeddings. A matrix that is also the embedding
/// counts as embedding.
pub(crate) fn decays(role: Role) -> bool {
    matches!(role, Role::Matrix)
}
