//! Small models, batches, and one step of a pipeline over them.

use architecture::{Architecture, Biases, Family, Partition, Positions, Rope, RopeScaling, Sliding, Weight, Windows};
use burn::tensor::Device;
use kernels::AdamW;
use mesh::{Cores, Rank, Route, StageMap};
use model::Rows;
use schedule::{Backward, Kind, Schedule, Spec, Vocabulary, generate, with_transfers};
use stage::{Objective, Pipeline, PipelineSpec, Precision, Recompute, Report, Source, Step, Update};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

pub type Tensors = BTreeMap<String, Vec<f32>>;

/// Hidden size, layers, heads, key heads, head width, MLP width, vocabulary.
pub fn architecture(sizes: [usize; 7], tied: bool, biases: bool) -> Architecture {
    let [
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
    ] = sizes;
    Architecture {
        family: Family::Llama,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
        max_position_embeddings: 64,
        norm_eps: 1e-6,
        positions: Positions::rotary(Rope { theta: 100.0, scaling: RopeScaling::None }),
        sliding: None,
        query_pre_attn_scalar: head_dim as f64,
        attention_bias: biases,
        mlp_bias: biases,
        tie_word_embeddings: tied,
        initializer_range: 0.3,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    }
}

/// Small models of all families but Llama, with windows shorter than the rows, and untied and tied heads in turn.
pub fn of_families() -> Vec<Architecture> {
    let others = Family::ALL.into_iter().filter(|family| *family != Family::Llama);
    others.enumerate().map(|(i, family)| of_family(family, i % 2 == 0)).collect()
}

fn of_family(family: Family, tied: bool) -> Architecture {
    let sizes = if family == Family::Gpt2 { [15, 3, 3, 3, 5, 11, 29] } else { [7, 3, 4, 2, 6, 11, 29] };
    let llama = architecture(sizes, tied, false);
    let rope = Rope { theta: 100.0, scaling: RopeScaling::None };
    Architecture {
        family,
        positions: match family {
            Family::Gpt2 => Positions::Learned,
            Family::Gemma3 => Positions::Rotary { full: rope, sliding: Rope { theta: 7.0, ..rope } },
            _ => llama.positions,
        },
        sliding: match family.windows() {
            Windows::Never => None,
            Windows::AllLayers => Some(Sliding { window: 3, layers: vec![true; 3] }),
            Windows::ByLayer => Some(Sliding { window: 2, layers: vec![true, false, true] }),
        },
        query_pre_attn_scalar: if family == Family::Gemma3 { 3.0 } else { llama.query_pre_attn_scalar },
        attention_bias: family.attention_bias() != Biases::Never,
        mlp_bias: family.mlp_bias() == Biases::Always,
        ..llama
    }
}

/// Numbers in [-1, 1) that do not repeat soon (Weyl's sequence).
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let at = |i: usize| (i as f64 + 1.0) * 0.618_033_988_75 + seed as f64 * 0.414_213_562;
    (0..n).map(|i| (2.0 * (at(i) * at(i)).fract() - 1.0) as f32).collect()
}

/// As [`model::draw`], with norms that are not 1 and biases that are not 0.
pub fn weights(architecture: &Architecture) -> Tensors {
    let values = |weight: &Weight| {
        let drawn = model::draw(architecture, weight, 5);
        match weight.shape.len() {
            1 => drawn.iter().zip(noise(drawn.len(), drawn.len() as u64)).map(|(x, noise)| x + 0.2 * noise).collect(),
            _ => drawn,
        }
    };
    architecture.all_weights().iter().map(|weight| (weight.name.clone(), values(weight))).collect()
}

/// A batch in which every row is packed differently from two or three documents, tokens weigh differently, and about
/// a fifth of them, all of row 2 among them, nothing.
pub fn batch(vocabulary: usize, n_rows: usize, n_tokens: usize) -> Rows {
    let mut rows = Rows { n_rows, n_tokens, ..Rows::default() };
    for row in 0..n_rows {
        let borders = [1 + row % n_tokens, 2 + row * 3 % n_tokens];
        let (mut position, mut document) = (0, 0);
        for token in 0..n_tokens {
            if borders.contains(&token) {
                (position, document) = (0, document + 1);
            }
            let i = row * n_tokens + token;
            rows.ids.push((i * i * 7 % vocabulary) as i32);
            rows.targets.push((i * 5 % vocabulary) as i32);
            rows.positions.push(position);
            rows.documents.push(document);
            rows.weights.push(if row == 2 || i % 7 == 3 { 0.0 } else { 0.5 + (i % 3) as f32 });
            position += 1;
        }
    }
    rows
}

/// The rows of a batch in `n` pieces, as even as they can be.
pub fn split(rows: &Rows, n: usize) -> Vec<Rows> {
    let piece = |piece: usize| {
        let [begin, end] = [piece, piece + 1].map(|piece| (piece * rows.n_rows).div_ceil(n) * rows.n_tokens);
        Rows {
            n_rows: (end - begin) / rows.n_tokens,
            n_tokens: rows.n_tokens,
            ids: rows.ids[begin..end].to_vec(),
            positions: rows.positions[begin..end].to_vec(),
            documents: rows.documents[begin..end].to_vec(),
            targets: rows.targets[begin..end].to_vec(),
            weights: rows.weights[begin..end].to_vec(),
        }
    };
    (0..n).map(piece).collect()
}

pub fn total_weight(microbatches: &[Rows]) -> f64 {
    microbatches.iter().flat_map(|rows| &rows.weights).map(|&weight| f64::from(weight)).sum()
}

/// A pipeline with moments of zero on the CPU, all ranks sharing two cores.
pub fn start(
    architecture: &Architecture,
    weights: &Tensors,
    sizes: &[usize],
    stage_map: StageMap,
    recompute: Vec<Recompute>,
) -> Pipeline {
    start_sharded(architecture, weights, sizes, stage_map, recompute, None)
}

/// As [`start`], with the vocabulary sharded over all ranks where `vocabulary` says so.
pub fn start_sharded(
    architecture: &Architecture,
    weights: &Tensors,
    sizes: &[usize],
    stage_map: StageMap,
    recompute: Vec<Recompute>,
    vocabulary: Option<Vocabulary>,
) -> Pipeline {
    start_spec(&spec(architecture, sizes, stage_map, recompute, vocabulary), weights)
}

fn spec(
    architecture: &Architecture,
    sizes: &[usize],
    stage_map: StageMap,
    recompute: Vec<Recompute>,
    vocabulary: Option<Vocabulary>,
) -> PipelineSpec {
    let n_ranks = stage_map.n_ranks();
    PipelineSpec {
        architecture: architecture.clone(),
        partition: Partition::new(architecture, sizes).unwrap(),
        devices: vec![Device::flex(); n_ranks],
        precision: Precision::F32,
        cores: vec![Cores { ranks: (0..n_ranks).map(Rank).collect(), permits: 2, threads: 1 }],
        // Far longer than any test waits, so that one that passes has not waited for it.
        deadline: Duration::from_secs(60),
        stage_map,
        recompute,
        vocabulary,
    }
}

/// What computes, and in what.
#[derive(Clone, Debug)]
pub struct Place {
    pub device: Device,
    pub precision: Precision,
}

impl Place {
    pub fn cpu() -> Self {
        Self { device: Device::flex(), precision: Precision::F32 }
    }
}

/// As [`start`], with all ranks at one place, keeping activations.
pub fn start_at(
    place: &Place,
    architecture: &Architecture,
    weights: &Tensors,
    sizes: &[usize],
    stage_map: StageMap,
) -> Pipeline {
    let recompute = vec![Recompute::None; sizes.len()];
    let mut spec = spec(architecture, sizes, stage_map, recompute, None);
    spec.devices.fill(place.device.clone());
    spec.precision = place.precision;
    start_spec(&spec, weights)
}

fn start_spec(spec: &PipelineSpec, weights: &Tensors) -> Pipeline {
    Pipeline::start(spec, |weight, source| {
        Ok::<_, Infallible>(match source {
            Source::Value => weights[&weight.name].clone(),
            _ => vec![0.0; weight.n_elements()],
        })
    })
    .unwrap()
}

pub const GPIPE: Spec = Spec { kind: Kind::Gpipe, backward: Backward::Fused };
pub const SPECS: [Spec; 4] = [
    GPIPE,
    Spec { kind: Kind::Gpipe, backward: Backward::Split },
    Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
    Spec { kind: Kind::OneFOneB, backward: Backward::Split },
];

/// The schedule of one training step with its messages.
pub fn schedule(pipeline: &Pipeline, spec: Spec, route: &Route, n_microbatches: usize) -> Schedule {
    with_transfers(&generate(spec, route, n_microbatches, pipeline.tied()).unwrap())
}

/// An update that changes no weight.
pub const STILL: AdamW = AdamW {
    learning_rate: 0.0,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.0,
    gradient_scale: 1.0,
    step: 1,
};

pub fn step(schedule: Schedule, microbatches: Vec<Rows>, adamw: AdamW) -> Step {
    Step {
        number: adamw.step,
        schedule,
        objective: Objective::NextToken { total_weight: total_weight(&microbatches) },
        microbatches,
        update: Some(Update::new(adamw)),
    }
}

pub fn read_all(pipeline: &Pipeline, architecture: &Architecture, source: Source) -> Tensors {
    let names = architecture.all_weights().into_iter().map(|weight| weight.name);
    names.map(|name| (name.clone(), pipeline.read(&name, source).unwrap())).collect()
}

/// Loss and gradients, from wherever.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub loss: f64,
    pub gradients: Tensors,
}

pub fn outcome(pipeline: &Pipeline, architecture: &Architecture, report: &Report) -> Outcome {
    Outcome { loss: report.loss(), gradients: read_all(pipeline, architecture, Source::Gradient) }
}

/// Euclidean norm over all tensors together.
pub fn norm(tensors: &Tensors) -> f64 {
    tensors.values().flatten().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Asserts that tensors agree within `tolerance` times the largest entry of all of `wanted`: entries that cancel to
/// nearly nothing (a bias on the keys has no gradient at all) carry the rounding of those around them.
pub fn assert_close(found: &Tensors, wanted: &Tensors, tolerance: f64, what: &str) {
    assert!(found.keys().eq(wanted.keys()), "{what}: names");
    let largest = wanted.values().flatten().fold(0.0f32, |max, x| max.max(x.abs()));
    for (name, wanted) in wanted {
        assert_eq!(found[name].len(), wanted.len(), "{what}: {name}");
        for (i, (found, wanted)) in found[name].iter().zip(wanted).enumerate() {
            let difference = f64::from((found - wanted).abs()) / f64::from(largest);
            assert!(
                difference <= tolerance,
                "{what}: {name}[{i}] is {found}, not {wanted}: {difference:e} of {largest}"
            );
        }
    }
}
