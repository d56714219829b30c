//! Vocabulary Parallelism in the simulator: the paper's peaks, step time over vocabulary, and its measured passes replayed.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, StageMap, Visit};
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Placement, Schedule, Spec, Vocabulary, VocabularyAlgorithm, generate,
    generate_for, interlaced, with_vocabulary,
};
use simulate::{Category, Costs, ShardCost, StageCost, Timeline, simulate};

const SHARDED: [(VocabularyAlgorithm, usize); 2] =
    [(VocabularyAlgorithm::OneBarrier, 1), (VocabularyAlgorithm::TwoBarriers, 2)];

fn one_f_one_b(p: usize, m: usize) -> Schedule {
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    generate(spec, &StageMap::one_per_rank(p).route(), m, &[]).unwrap()
}

fn stage(forward_s: f64, backward_s: f64) -> StageCost {
    StageCost {
        forward_s,
        backward_input_s: 0.5 * backward_s,
        backward_weight_s: 0.5 * backward_s,
        backward_s,
        activation_bytes: 1,
        ..StageCost::default()
    }
}

fn times(stages: &[StageCost]) -> PassTimes {
    PassTimes {
        forward: stages.iter().map(|stage| stage.forward_s).collect(),
        backward_input: stages.iter().map(|stage| stage.backward_input_s).collect(),
        backward_weight: stages.iter().map(|stage| stage.backward_weight_s).collect(),
        ..PassTimes::equal(stages.len())
    }
}

fn in_flight(timeline: &Timeline, rank: usize) -> u64 {
    timeline.peak_by_category(Rank(rank))[Category::Activations as usize]
}

/// `VS` and `VT` are three products of equal length: two and one with one barrier, one and two with two.
fn shard(algorithm: VocabularyAlgorithm, both_s: f64) -> ShardCost {
    let forward_s = match algorithm {
        VocabularyAlgorithm::OneBarrier => 2.0 / 3.0 * both_s,
        VocabularyAlgorithm::TwoBarriers => 1.0 / 3.0 * both_s,
    };
    ShardCost { forward_s, backward_s: both_s - forward_s, ..ShardCost::default() }
}

/// Section 5 and 6 of the paper: with `b` barriers rank `i` of 1F1B holds `p - i + b` microbatches, interlaced the first
/// holds 1.5 p.
#[test]
fn peaks() {
    for p in 1..=12 {
        let m = 3 * p + 2;
        let base = one_f_one_b(p, m);
        for (forward_s, backward_s) in [(1.0, 1.0), (1.0, 2.0), (2.0, 5.0)] {
            let stages = vec![stage(forward_s, backward_s); p];
            for (algorithm, n_barriers) in SHARDED {
                for input in [InputLayer::FirstStage, InputLayer::Sharded] {
                    let sharded = with_vocabulary(&base, Vocabulary { algorithm, input }, &times(&stages)).unwrap();
                    let shards = vec![ShardCost { embed_forward_s: 0.125, ..shard(algorithm, 0.75) }; p];
                    let costs = Costs { stages: stages.clone(), shards, ..Costs::default() };
                    let timeline = simulate(&sharded, &costs).unwrap();
                    for i in 0..p {
                        assert_eq!(in_flight(&timeline, i), (p - i + n_barriers) as u64, "p {p} rank {i}\n{sharded}");
                    }
                }
            }
            let sharded = interlaced(&base, InputLayer::FirstStage, &times(&stages)).unwrap();
            let shards = vec![shard(VocabularyAlgorithm::TwoBarriers, 0.75); p];
            let timeline = simulate(&sharded, &Costs { stages, shards, ..Costs::default() }).unwrap();
            assert_eq!(in_flight(&timeline, 0), 3 * p as u64 / 2, "p {p}\n{sharded}");
        }
    }
}

fn route(placement: Placement, p: usize) -> Route {
    let rank_of: Vec<usize> = match placement {
        Placement::Any | Placement::OnePerRank => (0..p).collect(),
        Placement::Looped => (0..2 * p).map(|hop| hop % p).collect(),
        Placement::V => (0..p).chain((0..p).rev()).collect(),
    };
    let visit = |(hop, rank)| Visit { stage: Stage(hop), rank: Rank(rank) };
    Route::new(rank_of.into_iter().enumerate().map(visit).collect())
}

/// Whatever the schedule: a barrier costs the memory of one microbatch and the time of one more repetition of the
/// pattern, shards included; beyond that nobody waits. The two exceptions are those that `schedule` documents.
#[test]
fn little_is_lost_in_any_schedule() {
    for (kind, p, [f, i, w]) in Kind::ALL
        .into_iter()
        .flat_map(|kind| [2, 4, 5, 8].map(move |p| (kind, p)))
        .flat_map(|(kind, p)| [[1.0, 1.0, 1.0], [1.0, 1.25, 0.75], [2.0, 3.0, 1.0]].map(move |times| (kind, p, times)))
    {
        let m = 6 * p;
        let route = route(kind.placement(), p);
        let share = p as f64 / route.n_hops() as f64;
        let one = StageCost {
            forward_s: f * share,
            backward_input_s: i * share,
            backward_weight_s: w * share,
            backward_s: (i + w) * share,
            // As in PassTimes::equal, half of it is for W.
            activation_bytes: if share < 1.0 { 2 } else { 4 },
            weight_grad_bytes: if share < 1.0 { 1 } else { 2 },
            ..StageCost::default()
        };
        let stages = vec![one; route.n_hops()];
        let times = times(&stages);
        let base = generate_for(Spec { kind, backward: Backward::Fused }, &route, m, &[], &times).unwrap();
        let plain = simulate(&base, &Costs { stages: stages.clone(), ..Costs::default() }).unwrap();
        for (algorithm, n_barriers) in SHARDED {
            for input in [InputLayer::FirstStage, InputLayer::Sharded] {
                for both_s in [0.25, 1.5] {
                    let embedding_s = if input == InputLayer::Sharded { 0.0625 } else { 0.0 };
                    let work_s = both_s + 2.0 * embedding_s;
                    let sharded = with_vocabulary(&base, Vocabulary { algorithm, input }, &times).unwrap();
                    let shard = ShardCost {
                        embed_forward_s: embedding_s,
                        embed_backward_s: embedding_s,
                        ..shard(algorithm, both_s)
                    };
                    let costs = Costs { stages: stages.clone(), shards: vec![shard; p], ..Costs::default() };
                    let timeline = simulate(&sharded, &costs).unwrap();
                    let lost_s = timeline.makespan_s() - plain.makespan_s() - m as f64 * work_s;
                    let what = format!("{} p {p} m {m} {f} {i} {w} shard {both_s}", sharded.name);
                    let bound_s = match kind {
                        Kind::VMin if n_barriers == 2 => 0.25 * plain.makespan_s(),
                        _ => n_barriers as f64 * (f + i + w + work_s),
                    };
                    assert!(lost_s <= bound_s, "{what}: {lost_s}, bound {bound_s}");
                    let peak = |timeline: &Timeline| (0..p).map(|rank| in_flight(timeline, rank)).max().unwrap();
                    let n_more_bytes = match kind {
                        Kind::Interleaved | Kind::InterleavedZb if n_barriers == 2 => 10,
                        _ => 4 * n_barriers as u64,
                    };
                    assert!(peak(&timeline) <= peak(&plain) + n_more_bytes, "{what}: {}", peak(&timeline));
                }
            }
        }
    }
}

/// A head of `h` seconds makes every microbatch of the last stage `h` longer when it is whole, and of all ranks `h / p`
/// longer when it is cut: the step grows `p` times slower with the vocabulary, to the fill of one pair of passes.
#[test]
fn step_time_over_vocabulary() {
    let (p, m) = (8, 64);
    let base = one_f_one_b(p, m);
    let stages = vec![stage(1.0, 2.0); p];
    for (algorithm, n_barriers) in SHARDED {
        let vocabulary = Vocabulary { algorithm, input: InputLayer::FirstStage };
        let sharded = with_vocabulary(&base, vocabulary, &times(&stages)).unwrap();
        for head_s in [0.0, 1.5, 3.0, 6.0, 12.0] {
            let mut whole = stages.clone();
            whole[p - 1] = stage(1.0 + head_s / 3.0, 2.0 + 2.0 * head_s / 3.0);
            let whole = simulate(&base, &Costs { stages: whole, ..Costs::default() }).unwrap();
            assert_eq!(whole.makespan_s(), 3.0 * (m + p - 1) as f64 + m as f64 * head_s);
            let shards = vec![shard(algorithm, head_s / p as f64); p];
            let cut = simulate(&sharded, &Costs { stages: stages.clone(), shards, ..Costs::default() }).unwrap();
            let more_s = cut.makespan_s() - 3.0 * (m + p - 1) as f64;
            let wanted_s = m as f64 * head_s / p as f64;
            assert!(
                (more_s - wanted_s).abs() <= n_barriers as f64 * head_s / p as f64,
                "{head_s}: {more_s} {wanted_s}"
            );
        }
    }
}

/// A row of the measurements.
struct Row {
    name: String,
    method: String,
    step_s: f64,
    forward_s: Vec<f64>,
    backward_s: Vec<f64>,
    vocabulary_s: Vec<f64>,
    lookup_s: Vec<f64>,
    update_s: Vec<f64>,
}

fn rows() -> Vec<Row> {
    let text = include_str!("fixtures/vocabulary_passes.csv");
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        // A single 0 stands for "none on any rank".
        let seconds = |i: usize| -> Vec<f64> {
            let all: Vec<f64> = fields[i].split(' ').map(|us| 1e-6 * us.parse::<f64>().unwrap()).collect();
            if all.len() == 1 { vec![all[0]; 8] } else { all }
        };
        Row {
            name: format!("V {} s {} {}", fields[0], fields[1], fields[2]),
            method: fields[2].to_owned(),
            step_s: 1e-3 * fields[4].parse::<f64>().unwrap(),
            forward_s: seconds(8),
            backward_s: seconds(9),
            vocabulary_s: seconds(10),
            lookup_s: seconds(11),
            update_s: seconds(12),
        }
    };
    lines.map(row).collect()
}

/// By how much of its measured time a schedule's simulation misses.
fn miss(row: &Row, schedule: &Schedule, costs: &Costs) -> f64 {
    simulate(schedule, costs).unwrap().makespan_s() / row.step_s - 1.0
}

/// The recipe of the sheet: every row as plain 1F1B, with all that a rank does on shards in its backward and no
/// communication.
#[test]
fn measured_passes_as_plain_1f1b() {
    let base = one_f_one_b(8, 128);
    let misses: Vec<(String, f64)> = rows()
        .iter()
        .map(|row| {
            let shard_s = |i: usize| row.vocabulary_s[i] + row.lookup_s[i] + row.update_s[i];
            let stages = (0..8).map(|i| stage(row.forward_s[i], row.backward_s[i] + shard_s(i))).collect();
            (row.name.clone(), miss(row, &base, &Costs { stages, ..Costs::default() }))
        })
        .collect();
    assert_eq!(misses.len(), 30);
    for (name, miss) in &misses {
        assert!(miss.abs() < 0.02, "{name}: {miss:+.4}");
    }
    let mean = misses.iter().map(|(_, miss)| miss.abs()).sum::<f64>() / misses.len() as f64;
    assert!(mean < 0.01, "{mean}");
}

/// The schedules that were measured, with collectives that take no time: so each comes out shorter than measured, by
/// what the collectives and messages really took. That was never more than a fiftieth of the step.
#[test]
fn measured_passes_where_they_were_played() {
    let base = one_f_one_b(8, 128);
    let input = InputLayer::Sharded;
    let mut n_rows = 0;
    for row in rows() {
        let stages: Vec<StageCost> = (0..8).map(|i| stage(row.forward_s[i], row.backward_s[i])).collect();
        let times = times(&stages);
        let (algorithm, schedule) = match row.method.as_str() {
            "vocab" => {
                let algorithm = VocabularyAlgorithm::OneBarrier;
                (algorithm, with_vocabulary(&base, Vocabulary { algorithm, input }, &times))
            }
            "synctwice" => {
                let algorithm = VocabularyAlgorithm::TwoBarriers;
                (algorithm, with_vocabulary(&base, Vocabulary { algorithm, input }, &times))
            }
            "interlaced" => (VocabularyAlgorithm::TwoBarriers, interlaced(&base, input, &times)),
            _ => continue,
        };
        let shards = (0..8).map(|i| ShardCost {
            embed_forward_s: row.lookup_s[i],
            embed_backward_s: row.update_s[i],
            ..shard(algorithm, row.vocabulary_s[i])
        });
        let costs = Costs { shards: shards.collect(), stages, ..Costs::default() };
        let miss = miss(&row, &schedule.unwrap(), &costs);
        assert!((-0.02..0.0).contains(&miss), "{}: {miss:+.4}", row.name);
        n_rows += 1;
    }
    assert_eq!(n_rows, 18);
}
