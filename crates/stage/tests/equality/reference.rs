//! The unsplit model without pipeline, schedule, store or visit: one part, the whole batch at once, plain products, and a
//! head that autodiff takes whole, with all logits.

use crate::setup::{Outcome, Tensors};
use architecture::{Architecture, Role};
use burn::tensor::{Device, Tensor, TensorData};
use kernels::{Seed, WeightPlace};
use model::{Part, Rows, Tape};
use std::convert::Infallible;

/// Loss and gradients of all rows of a batch, whose weights are divided by `total_weight`.
pub fn unsplit(architecture: &Architecture, weights: &Tensors, rows: &Rows, total_weight: f64) -> Outcome {
    let read = |weight: &architecture::Weight| Ok::<_, Infallible>(weights[&weight.name].clone());
    let part = Part::new(architecture, &architecture.blocks(), &Device::flex(), read).unwrap();
    let mut tape = Tape::tracked();
    let x = part.normalised(rows, None, &mut tape);
    let Tape::Tracked(tracked) = tape else { panic!("a tape that records") };
    let head = part.head_matrix().unwrap();
    let matrix = Tensor::from_inner(part.parameters()[head].matrix()).require_grad();
    let targets = Tensor::from_data(TensorData::new(rows.targets.clone(), [rows.n()]), &Device::flex());
    let y = kernels::log_probability(x.matmul(matrix.clone().transpose()), targets);
    let (seed, y) = Seed::new(y);
    let y: Vec<f32> = y.into_data().try_into_vec().unwrap();
    let share: Vec<f64> = rows.weights.iter().map(|&weight| f64::from(weight) / total_weight).collect();
    let loss = y.iter().zip(&share).map(|(&y, share)| -f64::from(y) * share).sum();
    let derivative = share.iter().map(|share| -share as f32).collect();
    let derivative = Tensor::from_data(TensorData::new::<f32, _>(derivative, [rows.n()]), &Device::flex());

    let mut sums = seed.backward(derivative);
    let mut gradients: Tensors = weights.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
    let mut add = |parameter: usize, values: Vec<f32>| {
        let sum = gradients.get_mut(&part.parameters()[parameter].weight.name).unwrap();
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    };
    let source: Tensor<2> = tracked.source.unwrap().grad_remove(&mut sums).unwrap();
    let source: Vec<f32> = source.into_data().try_into_vec().unwrap();
    let width = architecture.hidden_size;
    let mut looked_up = vec![0.0; architecture.vocab_size * width];
    for (row, &id) in source.chunks(width).zip(&rows.ids) {
        let entry = &mut looked_up[id as usize * width..][..width];
        entry.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    add(part.embedding().unwrap(), looked_up);
    add(head, matrix.grad_remove(&mut sums).unwrap().into_data().try_into_vec().unwrap());
    for (parameter, leaf) in tracked.leaves {
        add(parameter, leaf.grad_remove(&mut sums).unwrap().into_data().try_into_vec().unwrap());
    }
    for left in tracked.weight_grads.try_iter() {
        let WeightPlace { parameter, first } = left.place;
        let weight = &part.parameters()[parameter].weight;
        let (n, [_, n_inputs]) = (weight.n_elements(), left.x.dims());
        let gradient: Vec<f32> = left.dy.transpose().matmul(left.x).into_data().try_into_vec().unwrap();
        let mut whole = vec![0.0; n];
        for (i, value) in gradient.into_iter().enumerate() {
            let (output, input) = (first + i / n_inputs, i % n_inputs);
            let at = match weight.role {
                Role::TransposedMatrix => input * (n / n_inputs) + output,
                _ => output * n_inputs + input,
            };
            whole[at] = value;
        }
        add(parameter, whole);
    }
    Outcome { loss, gradients }
}
