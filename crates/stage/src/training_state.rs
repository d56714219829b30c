//! What training keeps beside a list of parameters: gradient sums and moments.

use crate::RollBack;
use crate::pipeline::Source;
use crate::statistics::ParameterStatistics;
use architecture::{Role, Weight};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{
    AdamW, HeadSpec, LogProbabilities, Moments, Size, Trained, WeightGrad, WeightPlace, head_gradient, sums_of_squares,
    weight_gradient,
};
use model::Parameter;
use simulate::Category;

/// Gradients and moments of a list of parameters, in its order. Only the rank's thread touches it.
#[derive(Debug)]
pub(crate) struct TrainingState {
    device: Device,
    /// Gradient sums `[n]` of each parameter, in the order of the list's actions.
    pub gradients: Vec<Tensor<1>>,
    /// First and second moments of each parameter.
    pub moments: Vec<Moments>,
    /// What each parameter is.
    roles: Vec<Role>,
    /// Parameters that decay.
    decays: Vec<bool>,
    /// Parameters counted in the global norm: each element once over all holders.
    counted: Vec<bool>,
    /// What an update that is not validated may have to be taken back to.
    before: Option<Before>,
}

/// Copies of parameters and moments.
#[derive(Debug)]
struct Before {
    values: Vec<Tensor<1>>,
    moments: Vec<Moments>,
}

impl TrainingState {
    /// Gradients of zero, and moments from `read`; `decays` and `counted` tell of a parameter's name.
    ///
    /// # Errors
    /// What `read` gives.
    pub fn new<E>(
        parameters: &[Parameter],
        device: &Device,
        decays: impl Fn(&str) -> bool,
        counted: impl Fn(&str) -> bool,
        mut read: impl FnMut(&Weight, Source) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut moments = Vec::new();
        for parameter in parameters {
            let mut moment = |source| -> Result<Tensor<1>, E> {
                let values = read(&parameter.weight, source)?;
                let n = values.len();
                Ok(Tensor::from_data(TensorData::new(values, [n]), device))
            };
            moments.push(Moments { m: moment(Source::FirstMoment)?, v: moment(Source::SecondMoment)? });
        }
        let names = || parameters.iter().map(|parameter| parameter.weight.name.as_str());
        let (decays, counted) = (names().map(decays).collect(), names().map(counted).collect());
        let roles = parameters.iter().map(|parameter| parameter.weight.role).collect();
        let (device, gradients) = (device.clone(), Vec::new());
        let mut state = Self { device, gradients, moments, roles, decays, counted, before: None };
        state.clear_gradients();
        Ok(state)
    }

    /// Sets all gradients to zero.
    pub fn clear_gradients(&mut self) {
        let _gradients = ledger::category(Category::Gradients);
        self.gradients.clear();
        let zeros = self.moments.iter().map(|moments| Tensor::zeros(moments.m.dims(), &self.device));
        self.gradients = zeros.collect();
    }

    /// Adds to a parameter's gradient, in place when the buffer is not shared.
    fn add(&mut self, parameter: usize, with: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        let empty = Tensor::empty([0], &self.device);
        let sum = std::mem::replace(&mut self.gradients[parameter], empty);
        self.gradients[parameter] = with(sum);
    }

    /// Adds the gradient of a leaf.
    pub fn add_leaf(&mut self, parameter: usize, gradient: Tensor<1>) {
        self.add(parameter, |sum| sum + gradient);
    }

    /// Adds a linear layer's weight gradient.
    pub fn add_weight(&mut self, left: WeightGrad) {
        let WeightGrad { place: WeightPlace { parameter, first }, x, dy } = left;
        let [_, n_inputs] = x.dims();
        let is_transposed = self.roles[parameter] == Role::TransposedMatrix;
        self.add(parameter, |sum| {
            let [n] = sum.dims();
            // A matrix stored `[in, out]` swaps the two: its gradient is `x^T dy`.
            let sum = if is_transposed {
                weight_gradient(sum.reshape([n_inputs, n / n_inputs]), [0, first], x, dy)
            } else {
                weight_gradient(sum.reshape([n / n_inputs, n_inputs]), [first, 0], dy, x)
            };
            sum.reshape([n])
        });
    }

    /// Takes the head's input through the matrix `parameter` and adds its gradient; gives that of the input, and the
    /// log-probabilities.
    ///
    /// # Shapes
    /// - as for [`kernels::head_gradient`]
    pub fn add_head(
        &mut self,
        parameter: usize,
        x: &Tensor<2>,
        matrix: &Tensor<2>,
        targets: &[i32],
        derivative: &[f32],
    ) -> (Tensor<2>, LogProbabilities) {
        let mut rest = None;
        self.add(parameter, |sum| {
            let n = sum.dims()[0];
            let spec = HeadSpec::default();
            let found = head_gradient(x, matrix, targets, derivative, spec, sum.reshape(matrix.dims()));
            rest = Some((found.dx, found.log_probabilities));
            found.sum.reshape([n])
        });
        rest.expect("invariant: added at once")
    }

    /// Adds the gradient of looked-up rows to their table's.
    ///
    /// # Shapes
    /// - gradient: `[n, width]`, of the table's rows `ids`
    pub fn add_rows(&mut self, parameter: usize, ids: Vec<i32>, gradient: Tensor<2>) {
        let [n, width] = gradient.dims();
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [n]), &self.device);
        self.add(parameter, |sum| {
            let n = sum.dims()[0];
            let table = sum.reshape([n / width, width]);
            table.select_assign(0, ids, gradient, burn::tensor::IndexingUpdateOp::Add).reshape([n])
        });
    }

    /// Sums of squares of the counted parameters' gradients.
    pub fn squares(&self) -> Vec<f64> {
        let counted = self.gradients.iter().zip(&self.counted).filter(|(_, counted)| **counted);
        sums_of_squares(&counted.map(|(gradient, _)| gradient).collect::<Vec<_>>())
    }

    /// One optimizer step on every parameter.
    pub fn update(&mut self, parameters: &mut [Parameter], adamw: &AdamW) {
        self.on_each(parameters, adamw, AdamW::update);
    }

    /// An optimizer step that [`TrainingState::validate`] may take back.
    pub fn try_update(&mut self, parameters: &mut [Parameter], adamw: &AdamW, roll_back: RollBack) {
        self.before = match roll_back {
            RollBack::Invert => None,
            RollBack::Copy => {
                let moments = self.moments.iter().map(|moments| Moments { m: copy(&moments.m), v: copy(&moments.v) });
                let values = parameters.iter().map(|parameter| copy(&parameter.value));
                Some(Before { values: values.collect(), moments: moments.collect() })
            }
        };
        self.update(parameters, adamw);
    }

    /// Leaves the update `tried` as it is, or replaces it by `wanted`; `None` is no update. Copies are gone afterwards.
    pub fn validate(&mut self, parameters: &mut [Parameter], tried: Option<AdamW>, wanted: Option<AdamW>) {
        let before = self.before.take();
        if tried == wanted {
            return;
        }
        match (tried, before) {
            (None, _) => {}
            (Some(_), Some(before)) => self.restore(parameters, before),
            (Some(tried), None) => self.on_each(parameters, &tried, AdamW::undo),
        }
        if let Some(wanted) = wanted {
            self.update(parameters, &wanted);
        }
    }

    /// Writes the copies back in place, so that every buffer keeps its account.
    fn restore(&mut self, parameters: &mut [Parameter], before: Before) {
        let write = |to: &mut Tensor<1>, from: Tensor<1>| {
            let n = from.dims()[0];
            let buffer = std::mem::replace(to, Tensor::empty([0], &from.device()));
            *to = buffer.slice_assign(0..n, from);
        };
        for (parameter, value) in parameters.iter_mut().zip(before.values) {
            write(&mut parameter.value, value);
        }
        for (moments, before) in self.moments.iter_mut().zip(before.moments) {
            write(&mut moments.m, before.m);
            write(&mut moments.v, before.v);
        }
    }

    /// `pass` over all parameters with their gradients and moments.
    fn on_each(&mut self, parameters: &mut [Parameter], adamw: &AdamW, pass: impl Fn(&AdamW, Vec<Trained<'_>>)) {
        // Values and moments change in place; what the pass makes for itself are lists of them.
        let _lists = ledger::category(Category::Buffers);
        let held = parameters.iter_mut().zip(&self.gradients).zip(&mut self.moments).zip(&self.decays);
        let trained = held.map(|(((parameter, gradient), moments), &decays)| Trained {
            value: &mut parameter.value,
            gradient,
            moments,
            weight_decay: if decays { adamw.weight_decay } else { 0.0 },
        });
        pass(adamw, trained.collect());
    }

    /// Sizes of every parameter, of its gradient and of what `adamw`, the last update, changed of it; no update changes
    /// nothing.
    pub fn statistics(&self, parameters: &[Parameter], adamw: Option<AdamW>) -> Vec<ParameterStatistics> {
        let of = |(i, parameter): (usize, &Parameter)| {
            let change = adamw.map(|adamw| {
                let adamw = AdamW { weight_decay: if self.decays[i] { adamw.weight_decay } else { 0.0 }, ..adamw };
                Size::of(&adamw.change(&parameter.value, &self.moments[i]))
            });
            ParameterStatistics {
                name: parameter.weight.name.clone(),
                value: Size::of(&parameter.value),
                gradient: Size::of(&self.gradients[i]),
                change: change.unwrap_or_default(),
            }
        };
        parameters.iter().enumerate().map(of).collect()
    }

    /// A copy of the values that `source` names, of the parameter `name` among `parameters`.
    pub fn read(&self, parameters: &[Parameter], name: &str, source: Source) -> Option<Vec<f32>> {
        let i = parameters.iter().position(|parameter| parameter.weight.name == name)?;
        Some(crate::carry::into_vec(match source {
            Source::Value => parameters[i].value.clone(),
            Source::FirstMoment => self.moments[i].m.clone(),
            Source::SecondMoment => self.moments[i].v.clone(),
            Source::Gradient => self.gradients[i].clone(),
        }))
    }
}

/// The same values in a buffer of their own. Times 1 changes no bit and needs no second buffer, which an empty tensor to
/// write into does for a moment.
fn copy(t: &Tensor<1>) -> Tensor<1> {
    t.clone().mul_scalar(1.0)
}

/// Whether weight decay applies: matrices only, not norms, biases and embeddings. A matrix that is also the embedding
/// counts as embedding.
pub(crate) fn decays(role: Role) -> bool {
    matches!(role, Role::Matrix | Role::TransposedMatrix)
}
