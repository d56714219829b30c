//! Actions simulated a second on one core, everything on: validation, links, core permits, collectives, memory curve and
//! labels. The promise is a million; `validate` is the part of it that checks the schedule.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh::{Cores, Rank, Route, Stage, StageMap, Visit};
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Schedule, Spec, Vocabulary, VocabularyAlgorithm, generate, validate,
    with_transfers, with_vocabulary,
};
use simulate::{Category, Communication, Costs, Link, MeetingCost, ShardCost, StageCost, bubbles, simulate};
use std::hint::black_box;

fn make(kind: Kind, backward: Backward, route: &Route, m: usize) -> Schedule {
    generate(Spec { kind, backward }, route, m, &[]).expect("a route that the kind is made for")
}

fn costs(n_stages: usize, n_ranks: usize) -> Costs {
    let stage = |i: usize| StageCost {
        forward_s: 1.0 + 0.01 * i as f64,
        backward_input_s: 1.1,
        backward_weight_s: 0.9,
        backward_s: 2.0,
        optimizer_s: 1.0,
        carry_bytes: 8,
        activation_bytes: 100,
        weight_grad_bytes: 30,
        backward_scratch: vec![(Category::Logits, 7)],
        resident: vec![(Category::Weights, 50)],
        ..StageCost::default()
    };
    let pairs = (0..n_ranks).flat_map(|from| (0..n_ranks).map(move |to| (Rank(from), Rank(to))));
    let link = |(from, to)| Link { from, to, latency_s: 0.1, bytes_per_s: 100.0 };
    let shard = ShardCost { forward_s: 0.3, backward_s: 0.2, logit_bytes: 9, ..ShardCost::default() };
    Costs {
        stages: (0..n_stages).map(stage).collect(),
        shards: vec![shard; n_ranks],
        meetings: MeetingCost { hidden_s: 0.1, softmax_s: 0.1, norm_s: 0.1, ..MeetingCost::default() },
        links: pairs.filter(|(from, to)| from != to).map(link).collect(),
        ..Costs::default()
    }
}

fn actions_per_second(criterion: &mut Criterion) {
    let plain = make(Kind::OneFOneB, Backward::Fused, &StageMap::one_per_rank(8).route(), 512);
    let looped = make(Kind::Interleaved, Backward::Split, &StageMap::looped(32, 16).route(), 256);
    let visit = |stage: usize| Visit { stage: Stage(stage), rank: Rank(stage.min(31 - stage)) };
    let v_shaped = make(Kind::DualPipeV, Backward::Split, &Route::new((0..32).map(visit).collect()), 256);
    let vocabulary = Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::Sharded };
    let vocabulary = with_vocabulary(&plain, vocabulary, &PassTimes::equal(8)).expect("a valid schedule");
    for (name, schedule, costs) in [
        ("1f1b, p 8, m 512", &plain, costs(8, 8)),
        ("1f1b, p 8, m 512, blocking", &plain, Costs { communication: Communication::Blocking, ..costs(8, 8) }),
        ("1f1b, p 8, m 512, 4 permits", &plain, Costs { cores: vec![Cores::shared(8, 4)], ..costs(8, 8) }),
        ("1f1b, p 8, m 512, vocabulary in shards", &vocabulary, costs(8, 8)),
        ("interleaved, p 16, v 2, m 256", &looped, costs(32, 16)),
        ("dualpipe-v, p 16, m 256", &v_shaped, costs(32, 16)),
    ] {
        let schedule = with_transfers(schedule);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(schedule.actions().count() as u64));
        group.bench_function("simulate", |bencher| bencher.iter(|| simulate(black_box(&schedule), &costs)));
        group.bench_function("validate", |bencher| bencher.iter(|| validate(black_box(&schedule))));
        let timeline = simulate(&schedule, &costs).expect("a valid schedule");
        group.bench_function("bubbles", |bencher| bencher.iter(|| bubbles(black_box(&timeline), &costs)));
        group.finish();
    }
}

criterion_group!(benches, actions_per_second);
criterion_main!(benches);
