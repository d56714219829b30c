//! Routes that repeat, skip, swap and mix stages, against whole models with layers repeated, left out and swapped.

use crate::reference::unsplit;
use crate::setup::*;
use architecture::Architecture;
use mesh::{Grid, Key, Rank, Route, Stage, StageMap, Visit};
use schedule::{Action, Op, Schedule, StageOp, with_transfers};
use stage::Recompute;

/// As in `plans.rs`.
const TOLERANCE: f64 = 1e-6;

/// Embedding, layer 0, layer 1, head: the stages.
const SIZES: [usize; 4] = [1, 2, 2, 1];

fn model() -> Architecture {
    architecture([6, 2, 3, 1, 4, 11, 23], false, true)
}

fn renamed(name: &str, from: usize, to: usize) -> String {
    name.replace(&format!("layers.{from}."), &format!("layers.{to}."))
}

/// What the model made of the given layers, in this order, gives; gradients summed over a layer's places.
fn wired(layers: &[usize], weights: &Tensors, rows: &model::Rows, total_weight: f64) -> Outcome {
    let architecture = Architecture { num_hidden_layers: layers.len(), ..model() };
    let mut of_places: Tensors = weights.clone();
    of_places.retain(|name, _| !name.contains(".layers."));
    for (place, layer) in layers.iter().enumerate() {
        let of_layer = weights.iter().filter(|(name, _)| name.contains(&format!("layers.{layer}.")));
        of_places.extend(of_layer.map(|(name, values)| (renamed(name, *layer, place), values.clone())));
    }
    let Outcome { loss, gradients: of_places } = unsplit(&architecture, &of_places, rows, total_weight);
    let mut gradients: Tensors = weights.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
    for (name, values) in of_places {
        let place = (0..layers.len()).find(|place| name.contains(&format!("layers.{place}.")));
        let name = place.map_or(name.clone(), |place| renamed(&name, place, layers[place]));
        let sum = gradients.get_mut(&name).unwrap();
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    Outcome { loss, gradients }
}

/// The route through the stages of `layers` between embedding and head.
fn route(layers: &[usize], ranks: [usize; 4]) -> Route {
    let stages = std::iter::once(0).chain(layers.iter().map(|layer| layer + 1)).chain([3]);
    Route::new(stages.map(|stage| Visit { stage: Stage(stage), rank: Rank(ranks[stage]) }).collect())
}

fn stage_map(ranks: [usize; 4]) -> StageMap {
    StageMap::new(ranks.map(|rank| Grid::single(Rank(rank))).to_vec()).unwrap()
}

const RANKS: [[usize; 4]; 5] = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 2, 1]];

#[test]
fn stages_are_repeated_skipped_and_swapped() {
    let (model, rows) = (model(), batch(23, 5, 4));
    let weights = weights(&model);
    for layers in [[0, 0].as_slice(), &[1], &[1, 0], &[0, 1, 0], &[0, 1, 1, 0], &[]] {
        let wanted = wired(layers, &weights, &rows, total_weight(std::slice::from_ref(&rows)));
        for ranks in RANKS {
            let recompute = [Recompute::None, Recompute::Full, Recompute::None, Recompute::Full].to_vec();
            let mut pipeline = start(&model, &weights, &SIZES, stage_map(ranks), recompute);
            for spec in SPECS {
                for n_microbatches in [1, 3, 5] {
                    let what = format!("layers {layers:?} at {ranks:?}, {} in {n_microbatches}", spec);
                    let schedule = schedule(&pipeline, spec, &route(layers, ranks), n_microbatches);
                    let report = pipeline.play(step(schedule, split(&rows, n_microbatches), STILL)).unwrap();
                    let found = outcome(&pipeline, &model, &report);
                    assert!((found.loss - wanted.loss).abs() < 1e-6, "{what}: {} {}", found.loss, wanted.loss);
                    assert_close(&found.gradients, &wanted.gradients, TOLERANCE, &what);
                }
            }
        }
    }
}

/// Every microbatch on a route of its own, one after the other there and back.
fn one_by_one(routes: Vec<Route>, n_ranks: usize) -> Schedule {
    let mut ranks = vec![Vec::new(); n_ranks];
    for (microbatch, route) in routes.iter().enumerate() {
        let hops = || route.visits().iter().enumerate();
        for (hop, visit) in hops() {
            ranks[visit.rank.0].push(Action::visit(Op::Forward, Key::new(microbatch, hop)));
        }
        for (hop, visit) in hops().rev() {
            ranks[visit.rank.0].push(Action::visit(Op::Backward, Key::new(microbatch, hop)));
        }
    }
    let mut visits: Vec<Visit> = routes.iter().flat_map(|route| route.visits().to_vec()).collect();
    visits.sort_by_key(|visit| visit.stage);
    visits.dedup();
    for visit in visits {
        ranks[visit.rank.0].push(Action::Stage { op: StageOp::OptimizerStep, stage: visit.stage });
    }
    with_transfers(&Schedule {
        name: "one by one".to_owned(),
        routes,
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks,
    })
}

#[test]
fn microbatches_take_different_routes() {
    let (model, rows) = (model(), batch(23, 4, 4));
    let weights = weights(&model);
    let ways: [&[usize]; 4] = [&[0, 1], &[1, 1, 0], &[0], &[]];
    let microbatches = split(&rows, ways.len());
    let total_weight = total_weight(&microbatches);
    let mut wanted = Outcome { loss: 0.0, gradients: weights.clone() };
    wanted.gradients.values_mut().flatten().for_each(|x| *x = 0.0);
    for (layers, rows) in ways.iter().zip(&microbatches) {
        let share = wired(layers, &weights, rows, total_weight);
        wanted.loss += share.loss;
        for (name, values) in share.gradients {
            let sum = wanted.gradients.get_mut(&name).unwrap();
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
    for ranks in RANKS {
        let mut pipeline = start(&model, &weights, &SIZES, stage_map(ranks), vec![Recompute::None; 4]);
        let routes = ways.iter().map(|layers| route(layers, ranks)).collect();
        let schedule = one_by_one(routes, stage_map(ranks).n_ranks());
        let report = pipeline.play(step(schedule, microbatches.clone(), STILL)).unwrap();
        let found = outcome(&pipeline, &model, &report);
        let what = format!("at {ranks:?}");
        assert!((found.loss - wanted.loss).abs() < 1e-6, "{what}: {} {}", found.loss, wanted.loss);
        assert_close(&found.gradients, &wanted.gradients, TOLERANCE, &what);
    }
}
