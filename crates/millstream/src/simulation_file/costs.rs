//! The section `[costs]`: what the model's pieces, the vocabulary's shards and collectives cost.

use super::{MICROSECOND, ShardPasses};
use crate::toml_file::{Node, NumberRange, Parsed, Reader, Value, any_whole, list, number};
use simulate::{Category, MeetingCost, StageCost};

/// Costs of the model's pieces, in order.
pub fn pieces(section: &Reader, n_pieces: Option<usize>) -> Option<Vec<StageCost>> {
    let list = Lists { section, n: n_pieces, each: "stage" };
    let forward_us = list.needed_us("forward_us");
    let backward = backward(&list);
    let recompute_us = list.us_or("recompute_us", 0.0);
    let optimizer_us = list.us_or("optimizer_us", 0.0);
    let message_bytes = list.bytes("message_bytes");
    let activation_bytes = list.bytes("activation_bytes");
    let weight_gradient_bytes = list.bytes("weight_gradient_bytes");
    let resident_bytes = list.bytes("resident_bytes");

    let (forward_us, backward) = (forward_us?, backward?);
    let (recompute_us, optimizer_us) = (recompute_us?, optimizer_us?);
    let (message_bytes, activation_bytes) = (message_bytes?, activation_bytes?);
    let (weight_gradient_bytes, resident_bytes) = (weight_gradient_bytes?, resident_bytes?);
    if let Some(piece) = (0..n_pieces?).find(|&piece| weight_gradient_bytes[piece] > activation_bytes[piece]) {
        let wanted = format!("it is part of `activation_bytes`, which is {} on stage {piece}", activation_bytes[piece]);
        section.refuse("weight_gradient_bytes", "", &wanted, "use that much or less");
        return None;
    }
    let cost = |piece: usize| StageCost {
        forward_s: forward_us[piece] * MICROSECOND,
        backward_input_s: backward.input_us[piece] * MICROSECOND,
        backward_weight_s: backward.weight_us[piece] * MICROSECOND,
        backward_s: backward.fused_us[piece] * MICROSECOND,
        recompute_s: recompute_us[piece] * MICROSECOND,
        optimizer_s: optimizer_us[piece] * MICROSECOND,
        carry_bytes: message_bytes[piece],
        activation_bytes: activation_bytes[piece],
        weight_grad_bytes: weight_gradient_bytes[piece],
        resident: vec![(Category::Weights, resident_bytes[piece])],
        ..StageCost::default()
    };
    Some((0..n_pieces?).map(cost).collect())
}

/// What a rank's shard of the vocabulary costs, if anything is said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// The head's passes.
    pub passes: ShardPasses,
    /// `IF` and `IB`, in seconds.
    pub embedding_s: [f64; 2],
    /// Bytes of logits of a microbatch.
    pub logit_bytes: u64,
    /// Bytes held all the time.
    pub resident_bytes: u64,
}

/// Costs of the vocabulary's shards, rank by rank; `None` in the file when no key of theirs is there.
pub fn shards(section: &Reader, n_ranks: Option<usize>) -> Option<Option<Vec<Shard>>> {
    const KEYS: [&str; 7] = [
        "vocabulary_us",
        "vocabulary_forward_us",
        "vocabulary_backward_us",
        "embedding_forward_us",
        "embedding_backward_us",
        "logit_bytes",
        "vocabulary_resident_bytes",
    ];
    let given = KEYS.map(|key| section.has(key));
    if given == [false; 7] {
        return Some(None);
    }
    let list = Lists { section, n: n_ranks, each: "rank" };
    let both = list.us("vocabulary_us");
    let forward = list.us("vocabulary_forward_us");
    let backward = list.us("vocabulary_backward_us");
    let embedding_forward_us = list.us_or("embedding_forward_us", 0.0);
    let embedding_backward_us = list.us_or("embedding_backward_us", 0.0);
    let logit_bytes = list.bytes("logit_bytes");
    let resident_bytes = list.bytes("vocabulary_resident_bytes");
    let n_ranks = n_ranks?;
    let passes: Vec<ShardPasses> = match (both?, forward?, backward?) {
        (Some(both), None, None) => both.into_iter().map(|us| ShardPasses::Together(us * MICROSECOND)).collect(),
        (None, Some(forward), Some(backward)) => {
            let apart = |(forward, backward)| ShardPasses::Apart([forward, backward].map(|us: f64| us * MICROSECOND));
            forward.into_iter().zip(backward).map(apart).collect()
        }
        (None, None, None) => {
            section.missing("vocabulary_us", "microseconds of a rank's shard of the head, all passes together");
            return None;
        }
        (Some(_), _, _) => {
            let wanted = "the two passes are given as well";
            section.refuse("vocabulary_us", "", wanted, "give either their sum or both of them");
            return None;
        }
        (None, forward, _) => {
            let missing = if forward.is_some() { "vocabulary_backward_us" } else { "vocabulary_forward_us" };
            section.missing(missing, "microseconds of the other pass; or give their sum as `vocabulary_us`");
            return None;
        }
    };
    let (embedding_forward_us, embedding_backward_us) = (embedding_forward_us?, embedding_backward_us?);
    let (logit_bytes, resident_bytes) = (logit_bytes?, resident_bytes?);
    let shard = |rank: usize| Shard {
        passes: passes[rank],
        embedding_s: [embedding_forward_us[rank], embedding_backward_us[rank]].map(|us| us * MICROSECOND),
        logit_bytes: logit_bytes[rank],
        resident_bytes: resident_bytes[rank],
    };
    Some(Some((0..n_ranks).map(shard).collect()))
}

/// The section `[collectives]`.
pub fn collectives(section: &Reader) -> Option<MeetingCost> {
    let seconds = |key| Some(section.or(key, 0.0, number(NumberRange::NotNegative))? * MICROSECOND);
    let (hidden_s, softmax_s) = (seconds("hidden_us"), seconds("softmax_us"));
    let hidden_gradient_s = seconds("hidden_gradient_us");
    let (embedded_s, embedded_gradient_s) = (seconds("embedded_us"), seconds("embedded_gradient_us"));
    let norm_s = seconds("norm_us");
    Some(MeetingCost {
        hidden_s: hidden_s?,
        softmax_s: softmax_s?,
        hidden_gradient_s: hidden_gradient_s?,
        embedded_s: embedded_s?,
        embedded_gradient_s: embedded_gradient_s?,
        norm_s: norm_s?,
    })
}

struct BackwardUs {
    fused_us: Vec<f64>,
    input_us: Vec<f64>,
    weight_us: Vec<f64>,
}

/// The backward as it was measured: fused, in halves, or both.
fn backward(list: &Lists) -> Option<BackwardUs> {
    let (fused, input, weight) = (list.us("backward_us"), list.us("backward_input_us"), list.us("backward_weight_us"));
    let halves = |us: &[f64]| us.iter().map(|us| us / 2.0).collect::<Vec<f64>>();
    Some(match (fused?, input?, weight?) {
        (fused, Some(input_us), Some(weight_us)) => {
            let sum = || input_us.iter().zip(&weight_us).map(|(input, weight)| input + weight).collect();
            BackwardUs { fused_us: fused.unwrap_or_else(sum), input_us, weight_us }
        }
        (Some(fused_us), None, None) => {
            BackwardUs { input_us: halves(&fused_us), weight_us: halves(&fused_us), fused_us }
        }
        (_, None, None) => {
            list.section.missing("backward_us", "microseconds of the backward; or give both of its halves");
            return None;
        }
        (_, Some(_), None) => {
            list.section.missing("backward_weight_us", "microseconds of the backward of the weights");
            return None;
        }
        (_, None, Some(_)) => {
            list.section.missing("backward_input_us", "microseconds of the backward of the input");
            return None;
        }
    })
}

/// Reads one value for all stages or ranks, or a list with one for each.
struct Lists<'a> {
    section: &'a Reader<'a>,
    /// How many; `None` when that is unknown, which is reported already.
    n: Option<usize>,
    /// "stage" or "rank".
    each: &'static str,
}

impl Lists<'_> {
    fn needed_us(&self, key: &'static str) -> Option<Vec<f64>> {
        let given = self.section.required(key, "microseconds of a microbatch", each(number(NumberRange::NotNegative)));
        self.spread(key, given?)
    }

    fn us(&self, key: &'static str) -> Option<Option<Vec<f64>>> {
        match self.section.optional(key, each(number(NumberRange::NotNegative)))? {
            Some(given) => self.spread(key, given).map(Some),
            None => Some(None),
        }
    }

    fn us_or(&self, key: &'static str, default: f64) -> Option<Vec<f64>> {
        let given = self.section.or(key, Each::Every(default), each(number(NumberRange::NotNegative)))?;
        self.spread(key, given)
    }

    fn bytes(&self, key: &'static str) -> Option<Vec<u64>> {
        let given = self.section.or(key, Each::Every(0), each(any_whole(0)))?;
        let values = self.spread(key, given)?;
        match values.iter().all(|&bytes| bytes <= MOST_BYTES) {
            true => Some(values),
            false => {
                self.section.refuse(key, "", "must be at most 16 TiB", "check the unit: it is bytes");
                None
            }
        }
    }

    fn spread<T: Copy>(&self, key: &'static str, given: Each<T>) -> Option<Vec<T>> {
        let n = self.n?;
        match given {
            Each::Every(value) => Some(vec![value; n]),
            Each::Listed(values) if values.len() == n => Some(values),
            Each::Listed(values) => {
                let wanted = format!("must have one value for each {}, {n} in all, not {}", self.each, values.len());
                self.section.refuse(key, "", &wanted, "change it or write one value for all");
                None
            }
        }
    }
}

/// For one microbatch on one stage: more is a slip, and sums of many would not fit a number.
const MOST_BYTES: u64 = 1 << 44;

/// One value for all, or one for each.
enum Each<T> {
    Every(T),
    Listed(Vec<T>),
}

fn each<T>(parse: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Each<T>> {
    move |node| match node.value {
        Value::List(_) => list(&parse)(node).map(Each::Listed),
        _ => parse(node).map(Each::Every),
    }
}
