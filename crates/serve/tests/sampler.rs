//! Draws against what the warpers of transformers leave (`fixtures/make_fixtures.py`).
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde::Deserialize;
use serve::{Sampler, Sampling, ServeError};

#[derive(Deserialize)]
struct Case {
    logits: Vec<f32>,
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    #[serde(default)]
    min_p: Option<f64>,
    #[serde(default)]
    repetition_penalty: Option<f64>,
    #[serde(default)]
    text: Vec<u32>,
    kept: Vec<u32>,
    probabilities: Vec<f64>,
}

impl Case {
    fn sampler(&self, seed: u64) -> Sampler {
        let &Case { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self;
        Sampler::new(Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed }).unwrap()
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/sampling.json")).unwrap();
    assert_eq!(cases.len(), 60);
    cases
}

#[test]
fn the_tokens_kept_and_their_probabilities_are_those_of_transformers() {
    for (n, case) in cases().iter().enumerate() {
        let mut distribution = case.sampler(0).distribution(&case.logits, &case.text);
        distribution.sort_by_key(|&(id, _)| id);
        let (kept, probabilities): (Vec<u32>, Vec<f64>) = distribution.into_iter().unzip();
        assert_eq!(kept, case.kept, "case {n}");
        for (found, wanted) in probabilities.iter().zip(&case.probabilities) {
            // Both in f64; we subtract the largest logit before dividing by the temperature.
            assert!((found - wanted).abs() < 1e-12, "case {n}: {found}, not {wanted}");
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    const DRAWS: u64 = 4000;
    for (n, case) in cases().iter().enumerate() {
        let sampler = case.sampler(17 + n as u64);
        let mut counts = vec![0u32; case.logits.len()];
        (0..DRAWS).for_each(|i| counts[sampler.draw(&case.logits, &case.text, i) as usize] += 1);
        for (&id, &probability) in case.kept.iter().zip(&case.probabilities) {
            let expected = DRAWS as f64 * probability;
            let deviation = (expected * (1.0 - probability)).sqrt();
            let found = f64::from(counts[id as usize]);
            // 4.5 standard errors: among 700 counts chance alone exceeds it once in 200 seeds. The added 3 is for tokens
            // too rare for a normal distribution.
            assert!((found - expected).abs() <= 4.5 * deviation + 3.0, "case {n}, id {id}: {found}, not {expected}");
        }
        let kept: u32 = case.kept.iter().map(|&id| counts[id as usize]).sum();
        assert_eq!(u64::from(kept), DRAWS, "case {n}: others are never drawn");
    }
}

#[test]
fn a_draw_is_a_function_of_seed_and_number() {
    let logits: Vec<f32> = (0..1009).map(|i| (i % 7) as f32 * 0.1).collect();
    let sampler = |seed| Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }).unwrap();
    let draws = |sampler: &Sampler| (0..50).map(|n| sampler.draw(&logits, &[], n)).collect::<Vec<_>>();
    let first = draws(&sampler(3));
    let backwards: Vec<u32> = (0..50).rev().map(|n| sampler(3).draw(&logits, &[], n)).rev().collect();
    assert_eq!(first, backwards);
    // Of 50 pairs of draws from 1009 tokens, 0.05 agree on average.
    let agreeing = |other: &[u32]| first.iter().zip(other).filter(|(a, b)| a == b).count();
    assert!(agreeing(&draws(&sampler(4))) < 5);
    assert!(agreeing(&first[1..]) < 5);
}

#[test]
fn ties_go_to_the_lowest_id() {
    let logits = [1.0, 3.0, -2.0, 3.0, 3.0, 1.0];
    // temperature, top_p, ids kept
    let cases: [(f64, f64, &[u32]); 4] =
        [(0.0, 1.0, &[1]), (1.0, 0.2, &[1]), (1.0, 0.5, &[1, 3]), (1e-300, 0.9, &[1, 3, 4])];
    for (temperature, top_p, wanted) in cases {
        let sampler = Sampler::new(Sampling { temperature, top_p: Some(top_p), ..Sampling::GREEDY }).unwrap();
        let kept: Vec<u32> = sampler.distribution(&logits, &[]).iter().map(|&(id, _)| id).collect();
        assert!(kept.starts_with(wanted), "temperature {temperature}, top_p {top_p}: {kept:?}");
        assert!(sampler.distribution(&logits, &[])[wanted.len()..].iter().all(|(_, p)| *p == 0.0), "{kept:?}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let with = |temperature, top_k, top_p| Sampler::new(Sampling { temperature, top_k, top_p, ..Sampling::GREEDY });
    for temperature in [-0.1, f64::NAN, f64::INFINITY] {
        let error = with(temperature, None, None).unwrap_err();
        assert!(matches!(error, ServeError::Temperature { .. }), "{temperature}: {error}");
    }
    for top_p in [0.0, -1.0, 1.0001, f64::NAN] {
        let error = with(1.0, None, Some(top_p)).unwrap_err();
        assert!(matches!(error, ServeError::TopP { .. }), "{top_p}: {error}");
    }
    assert!(matches!(with(1.0, Some(0), None), Err(ServeError::TopK)));
    for min_p in [-0.1, 1.1, f64::NAN] {
        let sampling = Sampling { min_p: Some(min_p), ..Sampling::GREEDY };
        assert!(matches!(Sampler::new(sampling), Err(ServeError::MinP { .. })), "{min_p}");
    }
    for penalty in [0.0, -1.5, f64::NAN, f64::INFINITY] {
        let sampling = Sampling { repetition_penalty: Some(penalty), ..Sampling::GREEDY };
        assert!(matches!(Sampler::new(sampling), Err(ServeError::RepetitionPenalty { .. })), "{penalty}");
    }
    assert!(with(0.0, Some(1), Some(1.0)).is_ok());
}
