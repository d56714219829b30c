//! Two stages in two threads against one stage that has both cores: what the schedule loses by itself, and what is lost
//! beside.

use crate::clock::Clock;
use crate::comparison::UNSTEADY;
use crate::median;
use crate::shape::Shape;
use crate::steps::Steps;
use architecture::Partition;
use mesh::Rank;
use plan::{MicrobatchShape, partition, stage_costs};
use simulate::{Bubble, Costs, Timeline, bubbles, idle_fraction, simulate};
use stage::Recompute;

/// Enough microbatches that the bubble does not cover everything else.
pub const SHAPE: Shape = Shape { rows: 8, microbatches: 8, ..Shape::default() };

/// What may be lost beside the schedule's bubble.
const ALLOWED: f64 = 0.05;

/// Steps of both in turn; prints what they took and where the difference went.
#[expect(clippy::print_stdout, reason = "a benchmark's output")]
pub fn compare(shape: Shape) {
    let architecture = shape.architecture();
    let microbatch = MicrobatchShape { rows: shape.rows / shape.microbatches, tokens: shape.tokens };
    let partition: Partition = partition(&architecture, microbatch, 2, None).expect("a model of two blocks");
    let cut: Vec<usize> = partition.stages().iter().map(|blocks| blocks.len()).collect();
    let mut one = Steps::start(shape, &[architecture.blocks().len()], 2);
    let mut two = Steps::start(shape, &cut, 1);
    let before = Clock::Wall.product_gflops(2);
    let [mut steps_s, mut cpu_s] = [(); 2].map(|()| [Vec::new(), Vec::new()]);
    let mut timelines: Vec<(f64, Timeline)> = Vec::new();
    for number in 0..shape.steps {
        let (one_cpu_s, (one_s, _)) = Clock::Cpu.time(|| one.play(Clock::Wall));
        let (two_cpu_s, (two_s, report)) = Clock::Cpu.time(|| two.play(Clock::Wall));
        if number > 0 {
            steps_s[0].push(one_s);
            steps_s[1].push(two_s);
            cpu_s[0].push(one_cpu_s);
            cpu_s[1].push(two_cpu_s);
            timelines.push((two_s, report.timeline));
        }
    }
    let after = Clock::Wall.product_gflops(2);
    let [one_s, two_s] = steps_s.map(|steps_s| median(&steps_s));
    let [one_cpu_s, two_cpu_s] = cpu_s.map(|cpu_s| median(&cpu_s));
    let (_, middle) =
        timelines.iter().find(|(step_s, _)| *step_s == two_s).expect("invariant: the median is one of them");
    let stages = stage_costs(&architecture, &partition, microbatch, &[Recompute::None; 2], None, 1e9);
    let costs = Costs { stages, ..Costs::default() };
    let simulated = simulate(two.schedule(), &costs).expect("a valid schedule");
    // As papers have it: over the time without bubble.
    let own = 1.0 / (1.0 - idle_fraction(&bubbles(&simulated, &costs))) - 1.0;
    let of_equal = 1.0 / shape.microbatches as f64;
    let limit = (1.0 + own) * (1.0 + ALLOWED);
    println!(
        "blocks by stage {cut:?}, {} microbatches, 1F1B; product {before:.0}, {after:.0} GFLOP/s",
        shape.microbatches
    );
    println!(
        "bubble of the schedule {:.1} % (of equal stages {:.1} %, the rest because no cut of whole blocks is even)",
        100.0 * own,
        100.0 * of_equal
    );
    println!(
        "one stage on two cores {one_s:.3} s, two stages {two_s:.3} s: {:.3} times as long; (1 + bubble) 1.05 = {limit:.3}: {}",
        two_s / one_s,
        match two_s / one_s <= limit {
            _ if (after / before - 1.0).abs() > UNSTEADY => "void, since the product moved by over 5 %",
            true => "holds",
            false => "does not hold",
        },
    );
    println!("CPU time {one_cpu_s:.3} s and {two_cpu_s:.3} s, {:.3} times as much", two_cpu_s / one_cpu_s);
    for (rank, bubble) in bubbles(middle, &Costs::default()).into_iter().enumerate() {
        let Bubble { compute_s, warm_up_s, drain_s, dependency_s, communication_s, permit_s, other_s, .. } = bubble;
        println!(
            "rank {}: compute {compute_s:.3} s, warm-up {warm_up_s:.3}, drain {drain_s:.3}, waits for the other \
             {dependency_s:.3}, messages {communication_s:.3}, permits {permit_s:.3}, between actions {other_s:.3}",
            Rank(rank),
        );
    }
}
