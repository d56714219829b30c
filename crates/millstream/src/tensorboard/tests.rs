//! Bytes against those of TensorBoard's own writer, and what a run's lines become.

use super::*;
use crate::report::SampleMetrics;
use train::{BlockMetrics, BlocksMetrics, RankMetrics, StepMetrics};

/// As `crates/millstream/tests/fixtures/event_file.py` writes it with the package `tensorboard`.
const GOLDEN: &[u8] = include_bytes!("../../tests/fixtures/events.golden");

#[test]
fn bytes_are_those_of_tensorboards_own_writer() {
    let values = [
        ("loss/training".to_owned(), Value::Number(2.5)),
        ("optimizer/gradient norm".to_owned(), Value::Number(f64::NAN)),
        ("update over weight/mlp 0".to_owned(), Value::Number(1.25e-3)),
    ];
    let texts = [("sample".to_owned(), Value::Text(verbatim("The mill\nturns — <b>")))];
    let events = [
        event(0, 1_700_000_000.25, &What::Version),
        event(6, 1_700_000_001.5, &What::Start),
        event(6, 1_700_000_002.0, &What::Values(&values)),
        event(300, 1_700_000_003.0, &What::Values(&texts)),
    ];
    let written: Vec<u8> = events.iter().flat_map(|event| record(&event.0)).collect();
    assert_eq!(written, GOLDEN);
}

#[test]
fn a_file_is_records_and_nothing_else() {
    let run = tempfile::tempdir().unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    let mut file = EventFile::create(run.path(), 0, "seed = 1", now).unwrap();
    let sample = SampleMetrics { step: 7, prompt: "The ".to_owned(), text: "mill".to_owned() };
    file.write(&Line::Sample(sample), now).unwrap();
    let names: Vec<_> =
        fs::read_dir(run.path().join(TENSORBOARD)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 1);
    let mut bytes = &fs::read(&names[0]).unwrap()[..];
    let mut n = 0;
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let record = &bytes[..length + 16];
        assert_eq!(super::record(&record[12..12 + length]), record);
        bytes = &bytes[record.len()..];
        n += 1;
    }
    assert_eq!(n, 3);
}

#[test]
fn lines_become_tags() {
    let step = StepMetrics {
        step: 3,
        loss: 2.0,
        gradient_norm: 0.5,
        learning_rate: 1e-3,
        tokens: 10,
        step_s: 0.1,
        tokens_per_s: 100.0,
        peak_share: None,
        bubble: 0.25,
        loss_by_source: std::collections::BTreeMap::new(),
        ranks: vec![RankMetrics { idle: 0.5, peak_bytes: 7 }],
    };
    let block = BlockMetrics {
        block: "head".to_owned(),
        stage: 0,
        parameters: 5,
        weight_rms: 1.0,
        weight_max: 2.0,
        gradient_rms: 0.1,
        gradient_max: 0.2,
        update_share: 0.01,
        activation_rms: None,
        activation_max: None,
    };
    for (line, at, tags) in [
        (
            Line::Step(step),
            3,
            vec![
                "loss/training",
                "optimizer/gradient norm",
                "optimizer/learning rate",
                "speed/tokens per second",
                "speed/step seconds",
                "pipeline/idle share",
                "pipeline/idle share of rank 0",
                "memory/peak bytes of rank 0",
            ],
        ),
        (
            Line::Blocks(BlocksMetrics { step: 9, blocks: vec![block] }),
            9,
            vec!["update over weight/head", "weight rms/head", "gradient rms/head"],
        ),
    ] {
        let (step, found) = values(&line);
        assert_eq!(step, at);
        assert_eq!(found.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), tags);
    }
}
