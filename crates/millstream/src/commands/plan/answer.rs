//! What a search found, for people and for programs.

use super::seats::{self, SeatJson};
use crate::commands::table;
use crate::units;
use plan::machine::{NicKind, NodeGroup, Precision};
use plan::{Checkpointing, Found, LatencyModel, Over, PlanError, Prediction, Reason, Search, Space, Task, search};
use serde::Serialize;
use simulate::Category;

/// Degrees that lost are shown up to so many.
const LOST_MAX: usize = 8;

/// What `--json` prints; times in seconds.
#[derive(Serialize)]
pub struct Answer {
    machine: String,
    devices: usize,
    parameters: u64,
    active_parameters: u64,
    training_flops_per_token: f64,
    layouts: usize,
    simulated: usize,
    /// What a reader should know about how this was counted.
    notes: Vec<String>,
    plans: Vec<Plan>,
    lost: Vec<Lost>,
    missing: Option<Missing>,
}

#[derive(Serialize)]
struct Plan {
    pipeline: usize,
    data: usize,
    context: usize,
    expert: usize,
    tensor: usize,
    schedule: &'static str,
    stages_per_rank: usize,
    microbatch_rows: usize,
    microbatches: usize,
    recompute: &'static str,
    /// Blocks (embedding, attention, MLP, head) of every stage.
    cut: Vec<usize>,
    step_s: f64,
    /// The step by Pipette's and by AMP's formula, which know equal stages and 1F1B.
    pipette_s: f64,
    amp_s: f64,
    /// The machine's nodes in the order in which they take places; `null` for that of its file.
    nodes: Option<Vec<usize>>,
    /// By pipeline rank.
    ranks: Vec<SeatJson>,
    /// The same for the terminal.
    #[serde(skip)]
    seats: Vec<String>,
    /// `nodes` for the terminal.
    #[serde(skip)]
    order: Option<String>,
    passes_s: f64,
    exchange_s: f64,
    optimizer_s: f64,
    tokens_per_s: f64,
    /// Of the peak, in [0, 1], operations that are done again not counted.
    peak_share: f64,
    bubble: f64,
    /// The part of `bubble` that is messages between stages.
    message_share: f64,
    collective_share: f64,
    /// By pipeline rank.
    memory: Vec<RankMemory>,
    traffic: Vec<TrafficOver>,
    binds: String,
}

#[derive(Serialize)]
struct RankMemory {
    usable_bytes: u64,
    peak_bytes: u64,
    weights: u64,
    gradients: u64,
    optimizer: u64,
    activations: u64,
    logits: u64,
    buffers: u64,
}

#[derive(Serialize)]
struct TrafficOver {
    what: &'static str,
    over: &'static str,
    /// Of the busiest rank in a step.
    bytes: f64,
}

#[derive(Serialize)]
struct Lost {
    degrees: String,
    why: String,
}

#[derive(Serialize)]
struct Missing {
    /// On the fullest rank of the layout that misses least.
    bytes: i64,
    layout: String,
    ways_out: Vec<String>,
}

impl Answer {
    /// Of a search in `space`.
    ///
    /// # Errors
    /// When `search` is of another task.
    pub fn new(task: &Task, space: &Space, search: &Search) -> Result<Self, PlanError> {
        let lost = search.lost.iter().take(LOST_MAX).map(|(degrees, reason)| {
            let why = match reason {
                Reason::Memory(missing) => format!("{} too much on its fullest rank", units::bytes(*missing as u64)),
                Reason::Slower(step_s) => format!("a step takes at least {}", units::seconds(*step_s)),
            };
            Lost { degrees: degrees.to_string(), why }
        });
        let missing = search.nearest.as_ref().filter(|_| search.best.is_empty()).map(|(layout, bytes)| Missing {
            bytes: *bytes,
            layout: format!("{}, {}, microbatches of {}", layout.degrees, layout.spec, layout.microbatch_rows),
            ways_out: ways_out(task, space, *bytes),
        });
        Ok(Self {
            machine: task.machine.name.clone(),
            devices: task.machine.n_devices(),
            parameters: task.model.n_parameters(),
            active_parameters: task.model.n_active_parameters(),
            training_flops_per_token: task.model.training_flops_per_token(task.batch.tokens),
            layouts: search.n_layouts,
            simulated: search.n_simulated,
            notes: notes(task),
            plans: search.best.iter().map(|found| Plan::new(task, found)).collect::<Result<Vec<Plan>, PlanError>>()?,
            lost: lost.collect(),
            missing,
        })
    }

    /// Why nothing fits, in a sentence.
    pub fn what_is_missing(&self) -> String {
        match &self.missing {
            Some(missing) => format!(
                "nothing fits: even {} needs {} more on its fullest rank than there are",
                missing.layout,
                units::bytes(missing.bytes as u64)
            ),
            None => "no layout could be played".to_owned(),
        }
    }

    /// The smallest changes with which something fits.
    pub fn ways_out(&self) -> Vec<String> {
        self.missing.as_ref().map(|missing| missing.ways_out.clone()).unwrap_or_default()
    }

    /// For the terminal.
    pub fn page(&self, search: &Search, width: usize) -> String {
        let active = match self.active_parameters == self.parameters {
            true => String::new(),
            false => format!(" ({} a token)", units::count(self.active_parameters)),
        };
        let mut page = format!(
            "{} parameters{active}, {} devices of {}; {} layouts compared, {} simulated\n\n",
            units::count(self.parameters),
            self.devices,
            self.machine,
            self.layouts,
            self.simulated
        );
        let head = [
            "",
            "layout",
            "schedule",
            "recompute",
            "rows x microbatches",
            "step",
            "pipette",
            "amp",
            "tokens/s",
            "of peak",
            "bubble",
            "waits",
            "memory",
            "free",
        ];
        let rows: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec())
            .chain(self.plans.iter().enumerate().map(|(i, plan)| plan.row(i, search)))
            .collect();
        page += &(table::aligned(&rows, 4).join("\n") + "\n");
        let best = &self.plans[0];
        page += &format!("\nbest plan: {}\n\n", best.binds);
        page += &best.details();
        for note in &self.notes {
            page += &format!("\nnote: {note}\n");
        }
        if !self.lost.is_empty() {
            page += "\nothers:\n";
            let rows: Vec<Vec<String>> =
                self.lost.iter().map(|lost| vec![format!("  {}", lost.degrees), lost.why.clone()]).collect();
            page += &(table::aligned(&rows, 2).join("\n") + "\n");
        }
        let timeline = &search.best[0].prediction.timeline;
        if timeline.n_ranks > 1 && timeline.n_ranks <= 16 && best.microbatches <= 64 {
            page += &format!("\n{}", simulate::text(timeline, width));
        }
        page
    }
}

impl Plan {
    fn new(task: &Task, found: &Found) -> Result<Self, PlanError> {
        let (ranks, seats) = seats::seats(task, found)?;
        let (layout, prediction) = (&found.layout, &found.prediction);
        let degrees = layout.degrees;
        let memory = prediction.memory.iter().zip(&prediction.usable).map(|(bytes, usable)| {
            let of = |category: Category| bytes[category as usize];
            RankMemory {
                usable_bytes: *usable,
                peak_bytes: bytes.iter().sum(),
                weights: of(Category::Weights),
                gradients: of(Category::Gradients),
                optimizer: of(Category::Optimizer),
                activations: of(Category::Activations),
                logits: of(Category::Logits),
                buffers: of(Category::Buffers),
            }
        });
        let traffic = &prediction.traffic;
        let bytes = [traffic.within_layers, traffic.between_stages, traffic.between_replicas];
        let what = ["within layers", "between stages", "between replicas"];
        let traffic = what
            .into_iter()
            .zip(bytes)
            .zip(traffic.over)
            .filter_map(|((what, bytes), over)| Some(TrafficOver { what, over: over_name(over?), bytes }));
        Ok(Self {
            pipeline: degrees.pipeline,
            data: degrees.data,
            context: degrees.context,
            expert: degrees.expert,
            tensor: degrees.tensor,
            schedule: layout.spec.kind.id(),
            stages_per_rank: layout.n_stages() / degrees.pipeline,
            microbatch_rows: layout.microbatch_rows,
            microbatches: prediction.microbatches,
            recompute: match layout.recompute {
                Checkpointing::None => "none",
                Checkpointing::Scores => "scores",
                Checkpointing::Layers => "layers",
            },
            cut: prediction.sizes.clone(),
            step_s: prediction.step_s,
            pipette_s: prediction.by(Some(LatencyModel::Pipette)),
            amp_s: prediction.by(Some(LatencyModel::Amp)),
            nodes: found.nodes.clone(),
            ranks,
            seats,
            order: found.nodes.as_ref().map(|nodes| seats::order(&task.machine, nodes)),
            passes_s: prediction.passes_s,
            exchange_s: prediction.exchange_s,
            optimizer_s: prediction.optimizer_s,
            tokens_per_s: prediction.tokens_per_s,
            peak_share: prediction.peak_share,
            bubble: prediction.bubble,
            message_share: prediction.message_share,
            collective_share: prediction.collective_share,
            memory: memory.collect(),
            traffic: traffic.collect(),
            binds: binds(prediction),
        })
    }

    fn row(&self, i: usize, search: &Search) -> Vec<String> {
        let chunks = if self.stages_per_rank > 1 { format!(" x {}", self.stages_per_rank) } else { String::new() };
        let peak = self.memory.iter().map(|rank| rank.peak_bytes).max().unwrap_or(0);
        let free = self.memory.iter().map(|rank| rank.usable_bytes as i64 - rank.peak_bytes as i64).min().unwrap_or(0);
        vec![
            format!("{}", i + 1),
            search.best[i].layout.degrees.to_string(),
            if self.pipeline > 1 { format!("{}{chunks}", self.schedule) } else { "-".to_owned() },
            self.recompute.to_owned(),
            format!("{} x {}", self.microbatch_rows, self.microbatches),
            units::seconds(self.step_s),
            units::seconds(self.pipette_s),
            units::seconds(self.amp_s),
            units::count(self.tokens_per_s as u64),
            units::percent(self.peak_share),
            units::percent(self.bubble),
            units::percent(self.collective_share),
            units::bytes(peak),
            units::bytes(free.max(0) as u64),
        ]
    }

    fn details(&self) -> String {
        let cut: Vec<String> = self.cut.iter().map(usize::to_string).collect();
        let mut text = format!("blocks by stage: {}\n", cut.join(" "));
        if let Some(order) = &self.order {
            text += &format!("nodes in this order, not that of the file: {order}\n");
        }
        for traffic in &self.traffic {
            text += &format!(
                "{} over {}: {} a step on the busiest rank\n",
                traffic.what,
                traffic.over,
                units::bytes(traffic.bytes as u64)
            );
        }
        let head = ["", "weights", "gradients", "optimizer", "activations", "logits", "buffers", "in all", "may hold"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        // First, last, and the fullest between them tell enough of many.
        let fullest = (0..self.memory.len()).max_by_key(|&rank| self.memory[rank].peak_bytes).unwrap_or(0);
        let shown =
            |rank: usize| self.memory.len() <= 8 || rank == 0 || rank == fullest || rank + 1 == self.memory.len();
        for (rank, memory) in self.memory.iter().enumerate().filter(|(rank, _)| shown(*rank)) {
            let of = [
                memory.weights,
                memory.gradients,
                memory.optimizer,
                memory.activations,
                memory.logits,
                memory.buffers,
                memory.peak_bytes,
                memory.usable_bytes,
            ];
            rows.push(std::iter::once(format!("rank {rank}")).chain(of.map(units::bytes)).collect());
        }
        text + "\n" + &self.seats.join("\n") + "\n\n" + &table::aligned(&rows, 1).join("\n") + "\n"
    }
}

/// What bytes go over, for people.
pub fn over_name(over: Over) -> &'static str {
    match over {
        Over::Node => "node",
        Over::Network(Some(NicKind::InfiniBand)) => "InfiniBand",
        Over::Network(Some(NicKind::Roce)) => "RoCE",
        Over::Network(Some(NicKind::Ethernet)) => "Ethernet",
        Over::Network(None) => "network",
    }
}

/// Formats that devices lack.
fn notes(task: &Task) -> Vec<String> {
    let precision = task.software.precision;
    let lacking = task.machine.nodes.iter().filter(|group| {
        let peak = &group.device.peak;
        match precision {
            Precision::F32 => false,
            Precision::Bf16 => peak.bf16 <= 0.0,
            Precision::Fp8 => peak.fp8 <= 0.0,
        }
    });
    let note = |group: &NodeGroup| {
        format!(
            "{} has no rate for the {}-bit products of this trainer; they are counted at its next wider rate, {:.1} TFLOP/s",
            group.device.name,
            8.0 * precision.bytes(),
            group.device.peak.of(precision) / 1e12
        )
    };
    lacking.map(note).collect()
}

/// What takes most of the time that is not products, in words.
fn binds(prediction: &Prediction) -> String {
    let passes = prediction.passes_s / prediction.step_s;
    let shares = [
        ("the pipeline's bubble", (prediction.bubble - prediction.message_share) * passes),
        ("messages between stages", prediction.message_share * passes),
        ("waiting for tensors within layers", prediction.collective_share * (1.0 - prediction.bubble) * passes),
        ("summing gradients and gathering weights", prediction.exchange_s / prediction.step_s),
        ("the update", prediction.optimizer_s / prediction.step_s),
    ];
    let largest = shares.iter().max_by(|a, b| a.1.total_cmp(&b.1)).copied().unwrap_or(("nothing", 0.0));
    let computing = 1.0 - shares.iter().map(|(_, share)| share).sum::<f64>();
    let headroom = prediction.memory.iter().zip(&prediction.usable);
    let headroom = headroom.map(|(bytes, usable)| 1.0 - bytes.iter().sum::<u64>() as f64 / *usable as f64);
    let tight = headroom.fold(1.0, f64::min);
    let memory = if tight < 0.1 { ", and memory is nearly full" } else { "" };
    format!(
        "computing takes {} of a step; what binds beside it is {} ({}){memory}",
        units::percent(computing),
        largest.0,
        units::percent(largest.1)
    )
}

/// Changes with which something fits, tried one by one: larger devices, more nodes, shorter rows.
fn ways_out(task: &Task, space: &Space, missing: i64) -> Vec<String> {
    let largest = task.machine.nodes.iter().map(|group| group.device.memory_bytes).max().unwrap_or(0);
    let mut ways = vec![format!(
        "devices with {} more memory than the {} there are",
        units::bytes(missing as u64),
        units::bytes(largest)
    )];
    let fits = |task: &Task| search(task, space, 1).is_ok_and(|found| !found.best.is_empty());
    let mut more = task.clone();
    for times in [2, 4, 8, 16, 32, 64] {
        for (group, given) in more.machine.nodes.iter_mut().zip(&task.machine.nodes) {
            group.count = given.count * times;
        }
        if fits(&more) {
            ways.push(format!("{times} times as many nodes ({} devices in all)", more.machine.n_devices()));
            break;
        }
    }
    let mut shorter = task.clone();
    while shorter.batch.tokens >= 512 {
        shorter.batch.tokens /= 2;
        if fits(&shorter) {
            ways.push(format!("rows of {} tokens instead of {}", shorter.batch.tokens, task.batch.tokens));
            break;
        }
    }
    ways
}
