//! The section on the pipeline: stages, ranks, schedule.

use crate::toml_file::{Node, Parsed, Reader, Value, Wrong, choice, list, or_word, whole};
use architecture::{Architecture, Partition};
use mesh::{Grid, Rank, StageMap};
use plan::Recompute;
use schedule::{Backward, InputLayer, Kind, Placement, Spec, Vocabulary, VocabularyAlgorithm};
use stage::{Precision, RollBack};
use train::{DeviceName, PipelineSettings};

/// Names of the schedules in run files.
pub const SCHEDULES: &[(&str, Kind)] = &{
    let mut names = [("", Kind::Gpipe); Kind::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = (Kind::ALL[i].id(), Kind::ALL[i]);
        i += 1;
    }
    names
};
/// Names of the ways backward is played.
pub const BACKWARDS: &[(&str, Backward)] = &[("fused", Backward::Fused), ("split", Backward::Split)];
/// Names of the ways the head is sharded over the ranks.
pub const VOCABULARIES: &[(&str, Option<VocabularyAlgorithm>)] = &[
    ("whole", None),
    ("one-barrier", Some(VocabularyAlgorithm::OneBarrier)),
    ("two-barriers", Some(VocabularyAlgorithm::TwoBarriers)),
];
/// Names of the places of the embedding when the head is sharded.
pub const EMBEDDINGS: &[(&str, InputLayer)] =
    &[("first-stage", InputLayer::FirstStage), ("sharded", InputLayer::Sharded)];
/// Names of the ways to take back an update that was made before the norm over all ranks was known.
pub const POST_VALIDATIONS: &[(&str, Option<RollBack>)] =
    &[("off", None), ("copy", Some(RollBack::Copy)), ("invert", Some(RollBack::Invert))];
/// The word for the ranks that the schedule's placement asks for.
pub const BY_SCHEDULE: &str = "by schedule";
/// Of a model that cannot be read, which is reported.
const MOST_STAGES: usize = 1 << 14;
/// Stages on a rank when the schedule loops over ranks and nothing is said.
const STAGES_PER_RANK: usize = 2;
/// Names of what stages compute in.
pub const PRECISIONS: &[(&str, Precision)] = &[("f32", Precision::F32), ("bf16", Precision::Bf16)];
/// Names of what a stage keeps.
pub const RECOMPUTES: &[(&str, Recompute)] = &[("none", Recompute::None), ("full", Recompute::Full)];

pub(super) fn pipeline(section: &Reader, architecture: Option<&Architecture>) -> Option<PipelineSettings> {
    let n_stages = section.or("stages", 1, whole(1));
    let cut = section.or("cut", None, or_word("balanced", list(whole(1))));
    let ranks = section.or("ranks", None, or_word(BY_SCHEDULE, list(whole(0))));
    let n_per_rank = section.or("stages_per_rank", STAGES_PER_RANK, whole(1));
    let kind = section.or("schedule", Kind::OneFOneB, choice(SCHEDULES));
    let backward = section.or("backward", Backward::Fused, choice(BACKWARDS));
    let algorithm = section.or("vocabulary", None, choice(VOCABULARIES));
    let input = section.or("embedding", InputLayer::FirstStage, choice(EMBEDDINGS));
    let post_validation = section.or("post_validation", None, choice(POST_VALIDATIONS));
    let recompute = section.or("recompute", Each::Same(Recompute::None), same_or_each(choice(RECOMPUTES)));
    let devices = section.or("devices", Each::Same(DeviceName::Cpu), same_or_each(device));
    let precision = section.or("precision", Precision::F32, choice(PRECISIONS));
    let cores = section.or("cores", None, or_word("all", whole(1)));

    let n_stages: usize = n_stages?;
    if let Some(architecture) = architecture {
        let n_blocks = architecture.blocks().len();
        if n_stages > n_blocks {
            let wanted = format!(
                "the model has {n_blocks} blocks (embedding, attention and MLP of {} layers, head)",
                architecture.num_hidden_layers
            );
            section.refuse("stages", "1", &wanted, &format!("use at most {n_blocks} stages or more layers"));
            return None;
        }
    } else if n_stages > MOST_STAGES {
        section.refuse("stages", "1", "no model has so many blocks", &format!("use at most {MOST_STAGES}"));
        return None;
    }
    let partition: Option<Vec<usize>> = cut?;
    if let Some(sizes) = &partition {
        if sizes.len() != n_stages {
            let wanted = format!("must have one size for each stage, {n_stages} in all, not {}", sizes.len());
            section.refuse("cut", "", &wanted, "change `cut` or `stages`, or write \"balanced\"");
        } else if let Some(architecture) = architecture
            && Partition::new(architecture, sizes).is_err()
        {
            let (sum, n_blocks) = (sizes.iter().sum::<usize>(), architecture.blocks().len());
            let wanted = format!("that makes {sum} blocks where the model has {n_blocks}");
            let layers = architecture.num_hidden_layers;
            let way_out = format!("count the embedding, attention and MLP of {layers} layers, and the head");
            section.refuse("cut", "", &wanted, &way_out);
        }
    }
    let (kind, n_per_rank) = (kind?, n_per_rank?);
    let ranks: Vec<usize> = match ranks? {
        Some(ranks) => ranks,
        None => match kind.placement().ranks(n_stages, n_per_rank) {
            Some(ranks) => ranks,
            None => {
                let wanted = match kind.placement() {
                    Placement::V => format!("{kind} puts two stages on each rank"),
                    _ => format!("{kind} puts {n_per_rank} stages on each rank (`stages_per_rank`)"),
                };
                section.refuse("stages", "1", &wanted, "use a multiple of that");
                return None;
            }
        },
    };
    if ranks.len() != n_stages {
        let wanted = format!("must have one rank for each stage, {n_stages} in all, not {}", ranks.len());
        section.refuse("ranks", "", &wanted, "change `ranks` or `stages`");
        return None;
    }
    let n_ranks = ranks.iter().max().map_or(0, |highest| highest + 1);
    if let Some(idle) = (0..n_ranks).find(|rank| !ranks.contains(rank)) {
        let wanted = format!("rank {idle} is given no stage");
        section.refuse("ranks", "", &wanted, &format!("count ranks from 0 to {} without gaps", n_ranks - 1));
        return None;
    }
    let devices = devices?.of(n_ranks);
    if devices.len() != n_ranks {
        let wanted = format!("must have one device for each rank, {n_ranks} in all, not {}", devices.len());
        section.refuse("devices", "", &wanted, "change `devices` or the number of ranks");
    }
    let recompute = recompute?.of(n_stages);
    if recompute.len() != n_stages {
        let wanted = format!("must have one word for each stage, {n_stages} in all, not {}", recompute.len());
        section.refuse("recompute", "", &wanted, "change it or write one word for all");
    }
    let (algorithm, input) = (algorithm?, input?);
    if algorithm.is_none() && input == InputLayer::Sharded {
        section.refuse("embedding", "", "the embedding is sharded together with the head only", "set `vocabulary` too");
    }
    let grids = ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect();
    Some(PipelineSettings {
        partition,
        stage_map: StageMap::new(grids).expect("invariant: at least one stage"),
        schedule: Spec { kind, backward: backward? },
        post_validation: post_validation?,
        vocabulary: algorithm.map(|algorithm| Vocabulary { algorithm, input }),
        recompute,
        devices,
        precision: precision?,
        cores: cores?,
    })
}

/// One value for all stages or ranks, which holds for any number of them, or a list.
enum Each<T> {
    Same(T),
    Listed(Vec<T>),
}

impl<T: Clone> Each<T> {
    fn of(self, n: usize) -> Vec<T> {
        match self {
            Each::Same(value) => vec![value; n],
            Each::Listed(values) => values,
        }
    }
}

fn same_or_each<T>(parse: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Each<T>> {
    move |node| match node.value {
        Value::List(_) => list(&parse)(node).map(Each::Listed),
        _ => parse(node).map(Each::Same),
    }
}

/// Whether the machine has the device is found out when the run begins.
fn device(node: &Node) -> Parsed<DeviceName> {
    const HAS_CUDA: bool = cfg!(feature = "cuda");
    let found = match &node.value {
        Value::Text(name) => DeviceName::parse(name),
        _ => None,
    };
    match found {
        Some(device @ DeviceName::Cpu) => Ok(device),
        Some(device @ DeviceName::Cuda(_)) if HAS_CUDA => Ok(device),
        _ if HAS_CUDA => Err(Wrong::new(node, "\"cpu\", or \"cuda:0\" and so on for a GPU")),
        _ => Err(Wrong::new(node, "\"cpu\", the only device this build can use; --features cuda builds one for GPUs")),
    }
}
