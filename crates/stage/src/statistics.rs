//! Sizes of parameters, gradients, updates and activations: what tells a healthy run from one that is about to diverge.

use crate::rank::Player;
use kernels::{AdamW, Size};
use mesh::Stage;
use std::collections::BTreeMap;

/// One parameter after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterStatistics {
    /// Its name.
    pub name: String,
    /// Its values.
    pub value: Size,
    /// Its gradient of the last training step, before clipping.
    pub gradient: Size,
    /// What the last update took from it.
    pub change: Size,
}

/// What evaluations look at besides the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// The residual stream after each block.
    Blocks,
}

/// A parameter's statistics with the stage that holds it; `None` for rows in a shard of the vocabulary.
pub(crate) type Held = (Option<Stage>, ParameterStatistics);

impl Player {
    /// Of all parameters on this rank, after the last update.
    pub(crate) fn statistics(&self, last: Option<AdamW>) -> Vec<Held> {
        let _account = ledger::scope(self.endpoint.rank().0, simulate::Category::Buffers);
        let of_stages = self.stores.iter().flat_map(|(&stage, store)| {
            let all = store.training.statistics(store.part.parameters(), last);
            all.into_iter().map(move |one| (Some(stage), one))
        });
        let of_shard = self.shard.iter().flat_map(|shard| {
            let all = shard.training.statistics(&shard.parameters, last);
            all.into_iter().map(|one| (None, one))
        });
        of_stages.chain(of_shard).collect()
    }
}

/// Every parameter once, by name: from the stage that `first_stage` names, or put together from its rows in the shards.
/// `held` is in order of ranks, in which sums are made.
pub(crate) fn each_once(
    held: impl IntoIterator<Item = Held>,
    first_stage: &BTreeMap<String, Stage>,
    sharded: &[String],
) -> Vec<ParameterStatistics> {
    let mut found: BTreeMap<String, ParameterStatistics> = BTreeMap::new();
    for (stage, one) in held {
        let is_sharded = sharded.contains(&one.name);
        match stage {
            None if is_sharded => {
                let sum = found.remove(&one.name).map_or(one.clone(), |sum| ParameterStatistics {
                    name: one.name,
                    value: sum.value.and(one.value),
                    gradient: sum.gradient.and(one.gradient),
                    change: sum.change.and(one.change),
                });
                found.insert(sum.name.clone(), sum);
            }
            Some(stage) if !is_sharded && first_stage.get(&one.name) == Some(&stage) => {
                found.insert(one.name.clone(), one);
            }
            _ => {}
        }
    }
    found.into_values().collect()
}
