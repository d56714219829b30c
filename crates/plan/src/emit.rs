//! A plan in the words of other trainers.

use crate::search::Found;
use crate::step::{Checkpointing, OptimizerState, Task};
use schedule::Kind;
use std::fmt::Write;

/// Megatron-Core's command-line options, one a line; `sizes` of the plan are in half-layer blocks.
///
/// # Errors
/// What Megatron-Core does not have, by name.
pub fn megatron(task: &Task, found: &Found) -> Result<String, String> {
    let layout = &found.layout;
    let degrees = layout.degrees;
    let stages = layers(&found.prediction.sizes)?;
    let mut lines = vec![
        format!("--tensor-model-parallel-size {}", degrees.tensor),
        format!("--pipeline-model-parallel-size {}", degrees.pipeline),
        format!("--micro-batch-size {}", layout.microbatch_rows),
        format!("--global-batch-size {}", task.batch.rows),
        format!("--seq-length {}", task.batch.tokens),
    ];
    if degrees.context > 1 {
        lines.push(format!("--context-parallel-size {}", degrees.context));
        lines.push("--cp-comm-type a2a".to_owned());
    }
    if degrees.expert > 1 {
        lines.push(format!("--expert-model-parallel-size {}", degrees.expert));
        lines.push("--expert-tensor-parallel-size 1".to_owned());
    }
    if degrees.tensor > 1 {
        lines.push("--sequence-parallel".to_owned());
    }
    match layout.spec.kind {
        Kind::OneFOneB | Kind::Interleaved => {}
        other => return Err(format!("Megatron-Core has no {other}; plan with --trainer megatron")),
    }
    if degrees.pipeline > 1 {
        // The number of virtual stages follows from the layout.
        lines.push(format!("--pipeline-model-parallel-layout {}", quoted(&megatron_layout(&stages))));
    }
    match layout.recompute {
        Checkpointing::None => {}
        Checkpointing::Scores => lines.push("--recompute-granularity selective".to_owned()),
        Checkpointing::Layers => {
            let method = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1";
            lines.push(method.to_owned());
        }
    }
    if layout.optimizer == OptimizerState::Sharded {
        lines.push("--use-distributed-optimizer".to_owned());
    }
    lines.push("--bf16".to_owned());
    if !task.model.is_tied {
        lines.push("--untie-embeddings-and-output-weights".to_owned());
    }
    Ok(lines.join("\n") + "\n")
}

/// torchtitan's options as its TOML file has them. Its stages are cut between whole layers; embedding and head count as
/// layers there too.
///
/// # Errors
/// What torchtitan does not have, by name.
pub fn torchtitan(task: &Task, found: &Found) -> Result<String, String> {
    let layout = &found.layout;
    let degrees = layout.degrees;
    let schedule = match layout.spec.kind {
        Kind::Gpipe => "GPipe",
        Kind::OneFOneB => "1F1B",
        Kind::Interleaved => "Interleaved1F1B",
        Kind::LoopedBfs => "LoopedBFS",
        Kind::InterleavedZb => "InterleavedZeroBubble",
        Kind::ZbV => "ZBVZeroBubble",
        Kind::DualPipeV => "DualPipeV",
        other => return Err(format!("torchtitan has no {other}; plan with --trainer torchtitan, or write its CSV")),
    };
    let mut text = String::new();
    let mut line = |text_line: String| writeln!(text, "{text_line}").expect("invariant: writing to a string");
    line("[training]".to_owned());
    line(format!("local_batch_size = {}", task.batch.rows / degrees.data));
    line(format!("global_batch_size = {}", task.batch.rows));
    line(format!("seq_len = {}", task.batch.tokens));
    line(String::new());
    line("[parallelism]".to_owned());
    line(format!("pipeline_parallel_degree = {}", degrees.pipeline));
    line("data_parallel_replicate_degree = 1".to_owned());
    line(format!("data_parallel_shard_degree = {}", degrees.data));
    line(format!("tensor_parallel_degree = {}", degrees.tensor));
    line(format!("context_parallel_degree = {}", degrees.context));
    line(format!("expert_parallel_degree = {}", degrees.expert));
    if degrees.pipeline > 1 {
        line(format!("pipeline_parallel_schedule = \"{schedule}\""));
        line(format!("pipeline_parallel_microbatch_size = {}", layout.microbatch_rows));
        line(format!("module_fqns_per_model_part = [{}]", modules(&layers(&found.prediction.sizes)?).join(", ")));
    }
    line(String::new());
    line("[activation_checkpoint]".to_owned());
    let mode = match layout.recompute {
        Checkpointing::None => "none",
        Checkpointing::Scores => "selective",
        Checkpointing::Layers => "full",
    };
    line(format!("mode = \"{mode}\""));
    Ok(text)
}

/// What a stage holds, in whole layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stage {
    first_layer: usize,
    n_layers: usize,
    has_embedding: bool,
    has_head: bool,
}

/// Stages of blocks as stages of layers.
fn layers(sizes: &[usize]) -> Result<Vec<Stage>, String> {
    let n_blocks: usize = sizes.iter().sum();
    let mut stages = Vec::with_capacity(sizes.len());
    let mut begin = 0;
    for &size in sizes {
        let end = begin + size;
        // Block 0 is the embedding, the last the head, and layer n is blocks 2n + 1 and 2n + 2.
        let (has_embedding, has_head) = (begin == 0, end == n_blocks);
        let low = begin.max(1) - 1;
        let high = end.min(n_blocks - 1) - 1;
        if (!has_embedding && low % 2 == 1) || (!has_head && high % 2 == 1) {
            return Err(format!("stages of {sizes:?} blocks cut layers in half; plan with --cut layers"));
        }
        stages.push(Stage { first_layer: low / 2, n_layers: (high - low) / 2, has_embedding, has_head });
        begin = end;
    }
    Ok(stages)
}

/// `Et*3|t*2|tL`: `E` embedding, `t` layer, `L` loss, `*n` repeats, `|` between stages.
fn megatron_layout(stages: &[Stage]) -> String {
    let stage = |stage: &Stage| {
        let layers = match stage.n_layers {
            0 => String::new(),
            1 => "t".to_owned(),
            n => format!("t*{n}"),
        };
        format!("{}{layers}{}", if stage.has_embedding { "E" } else { "" }, if stage.has_head { "L" } else { "" })
    };
    stages.iter().map(stage).collect::<Vec<String>>().join("|")
}

/// Names of modules of each stage.
fn modules(stages: &[Stage]) -> Vec<String> {
    let of = |stage: &Stage| {
        let mut names: Vec<String> = Vec::new();
        names.extend(stage.has_embedding.then(|| "\"tok_embeddings\"".to_owned()));
        names.extend((stage.first_layer..stage.first_layer + stage.n_layers).map(|n| format!("\"layers.{n}\"")));
        names.extend(stage.has_head.then(|| "\"norm\", \"lm_head\"".to_owned()));
        format!("[{}]", names.join(", "))
    };
    stages.iter().map(of).collect()
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        for (sizes, wanted) in
            [(vec![3, 2, 3], "Et|t|tL"), (vec![1, 4, 2, 1], "E|t*2|t|L"), (vec![8], "Et*3L"), (vec![5, 3], "Et*2|tL")]
        {
            assert_eq!(megatron_layout(&layers(&sizes).expect("whole layers")), wanted);
        }
        assert!(layers(&[2, 6]).is_err(), "attention of layer 0 apart from its MLP");
        assert_eq!(
            modules(&layers(&[3, 5]).expect("whole layers")),
            ["[\"tok_embeddings\", \"layers.0\"]", "[\"layers.1\", \"layers.2\", \"norm\", \"lm_head\"]"]
        );
    }
}
