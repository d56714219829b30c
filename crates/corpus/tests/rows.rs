//! Rows against a definition written out token by token.

use corpus::{Batch, Borders, CorpusError, Cursor, Packing, Tokens, TrainingRows, ValidationRows};
use std::sync::Arc;

const END: u32 = 0;

/// Documents of the given lengths (end of text included) whose tokens count up from 1.
fn tokens(lengths: &[usize]) -> Arc<Tokens> {
    let mut next = 0;
    let document = |&length: &usize| {
        let mut ids: Vec<u32> = (1..length)
            .map(|_| {
                next += 1;
                next
            })
            .collect();
        ids.push(END);
        (ids, length as u64)
    };
    Arc::new(Tokens::from_documents(&lengths.iter().map(document).collect::<Vec<_>>()))
}

/// Id, target, position, document, weight.
type Place = (i32, i32, i32, i32, f32);

/// One row by definition.
fn row(tokens: &Tokens, packing: Packing, start: usize, inputs: usize) -> Vec<Place> {
    let flat: Vec<u32> = tokens.iter().collect();
    let at = |i: usize| flat[i % flat.len()] as i32;
    let is_end = |i: usize| at(i) == END as i32;
    (0..packing.sequence_length)
        .map(|place| {
            if place >= inputs {
                let borders = (1..inputs).filter(|&p| is_end(start + p)).count();
                let own = (borders + usize::from(inputs > 0)) as i32;
                return match packing.borders {
                    Borders::Joined => (END as i32, END as i32, place as i32, 0, 0.0),
                    Borders::Isolated => (END as i32, END as i32, (place - inputs) as i32, own, 0.0),
                };
            }
            let (id, target) = (at(start + place), at(start + place + 1));
            match packing.borders {
                Borders::Joined => (id, target, place as i32, 0, 1.0),
                Borders::Isolated => {
                    // Inputs that open a document, the row's first one aside.
                    let opens = |&p: &usize| p > 0 && is_end(start + p);
                    let borders = (0..=place).filter(opens).count() as i32;
                    let opened = (0..=place).rev().find(opens).unwrap_or(0);
                    (id, target, (place - opened) as i32, borders, 1.0)
                }
            }
        })
        .collect()
}

fn rows(batch: &Batch) -> Vec<Vec<Place>> {
    let entries = batch.rows * batch.tokens;
    for length in
        [batch.ids.len(), batch.targets.len(), batch.positions.len(), batch.documents.len(), batch.weights.len()]
    {
        assert_eq!(length, entries);
    }
    let place = |i: usize| (batch.ids[i], batch.targets[i], batch.positions[i], batch.documents[i], batch.weights[i]);
    (0..batch.rows).map(|row| (row * batch.tokens..(row + 1) * batch.tokens).map(place).collect()).collect()
}

const TEXTS: [&[usize]; 7] =
    [&[1], &[2], &[1, 1, 1], &[13], &[7, 1, 11, 2, 5], &[3, 17, 1, 1, 29, 5, 2], &[101, 53, 2, 31]];

fn packings() -> impl Iterator<Item = Packing> {
    [1, 2, 3, 5, 7, 13, 31].into_iter().flat_map(|sequence_length| {
        [Borders::Joined, Borders::Isolated].map(|borders| Packing { sequence_length, borders })
    })
}

#[test]
fn validation_rows_are_the_text_in_order() {
    for lengths in TEXTS {
        let tokens = tokens(lengths);
        let flat: Vec<i32> = tokens.iter().map(|id| id as i32).collect();
        for packing in packings() {
            let name = format!("{lengths:?} {packing:?}");
            let validation = ValidationRows::new(tokens.clone(), packing).unwrap();
            let length = packing.sequence_length;
            // Three rows too many: all padding.
            let batch = validation.batch(0, validation.rows() + 3);
            for (index, found) in rows(&batch).into_iter().enumerate() {
                let covered = (index * length).min(flat.len());
                let inputs = (flat.len() - covered).min(length);
                assert_eq!(found, row(&tokens, packing, flat.len() - 1 + covered, inputs), "{name} row {index}");
            }
            for row in 0..validation.rows() {
                let single = validation.batch(row, 1);
                assert_eq!(rows(&single)[0], rows(&batch)[row], "{name} row {row} alone");
            }
            assert_eq!(batch.weight(), flat.len() as f64, "{name}");
            let covered: Vec<i32> = batch.targets[..flat.len()].to_vec();
            assert_eq!(covered, flat, "{name}: every token is a target once, in order");
        }
    }
}

#[test]
fn training_rows_are_windows_each_taken_once_an_epoch() {
    for lengths in TEXTS {
        let tokens = tokens(lengths);
        for packing in packings().filter(|packing| packing.sequence_length < tokens.len()) {
            let mut training = TrainingRows::new(tokens.clone(), packing, 3).unwrap();
            let per_epoch = tokens.len() / packing.sequence_length;
            assert_eq!(training.rows_per_epoch(), per_epoch as u64);
            for epoch in 0..3 {
                let (batch, next) = training.batch(Cursor { epoch, row: 0 }, per_epoch);
                assert_eq!(next, Cursor { epoch: epoch + 1, row: 0 });
                let mut found = rows(&batch);
                // Some offset explains all rows; brute force finds it.
                let windows = |offset: usize| {
                    let window =
                        |r| row(&tokens, packing, offset + r * packing.sequence_length, packing.sequence_length);
                    (0..per_epoch).map(window).collect::<Vec<_>>()
                };
                let order = |a: &Vec<_>, b: &Vec<_>| a.partial_cmp(b).unwrap();
                found.sort_by(order);
                let explained = (0..tokens.len()).any(|offset| {
                    let mut windows = windows(offset);
                    windows.sort_by(order);
                    windows == found
                });
                assert!(explained, "{lengths:?} {packing:?} epoch {epoch}");
            }
        }
    }
}

#[test]
fn resuming_is_exact() {
    let tokens = tokens(&[101, 53, 2, 31]);
    let packing = Packing { sequence_length: 7, borders: Borders::Isolated };
    let rows_per_batch = 5;
    let mut whole = TrainingRows::new(tokens.clone(), packing, 11).unwrap();
    let mut cursor = Cursor::default();
    let mut seen = Vec::new();
    for _ in 0..23 {
        let (batch, next) = whole.batch(cursor, rows_per_batch);
        seen.push((cursor, batch));
        cursor = next;
    }
    // 187 tokens: 26 rows an epoch; 115 rows reach the fifth.
    assert_eq!(cursor, Cursor { epoch: 4, row: 11 });
    for (cursor, batch) in seen.iter().rev() {
        let text = serde_json::to_string(cursor).unwrap();
        let cursor: Cursor = serde_json::from_str(&text).unwrap();
        let mut fresh = TrainingRows::new(tokens.clone(), packing, 11).unwrap();
        assert_eq!(&fresh.batch(cursor, rows_per_batch).0, batch);
        assert_eq!(&whole.batch(cursor, rows_per_batch).0, batch, "in any order of calls");
    }
    assert_eq!(serde_json::to_string(&Cursor { epoch: 2, row: 3 }).unwrap(), r#"{"epoch":2,"row":3}"#);
}

#[test]
fn the_order_differs_by_seed_and_epoch() {
    let tokens = tokens(&[1009]);
    let packing = Packing { sequence_length: 31, borders: Borders::Joined };
    let mut orders = Vec::new();
    for seed in 0..3 {
        let mut training = TrainingRows::new(tokens.clone(), packing, seed).unwrap();
        orders.extend((0..3).map(|epoch| training.batch(Cursor { epoch, row: 0 }, 32).0.ids));
    }
    for (index, order) in orders.iter().enumerate() {
        assert!(!orders[..index].contains(order), "draw {index}");
    }
}

#[test]
fn the_order_is_pinned() {
    // A changed draw would silently change every resumed run.
    let tokens = tokens(&[23]);
    let packing = Packing { sequence_length: 2, borders: Borders::Joined };
    let mut training = TrainingRows::new(tokens, packing, 5).unwrap();
    let (batch, _) = training.batch(Cursor::default(), 11);
    let starts: Vec<i32> = batch.ids.iter().copied().step_by(2).collect();
    assert_eq!(starts, [4, 0, 12, 6, 8, 19, 21, 17, 15, 10, 2], "a ring of 23 cut from its token 15");
}

#[test]
fn microbatches_are_slices_by_rows() {
    let validation =
        ValidationRows::new(tokens(&[101, 53, 2, 31]), Packing { sequence_length: 5, borders: Borders::Isolated })
            .unwrap();
    let batch = validation.batch(0, 12);
    for count in [1, 2, 3, 4, 6, 12] {
        let parts: Vec<Batch> = (0..count).map(|index| batch.microbatch(index, count)).collect();
        let joined: Vec<_> = parts.iter().flat_map(rows).collect();
        assert_eq!(joined, rows(&batch), "{count}");
        assert_eq!(parts.iter().map(Batch::weight).sum::<f64>(), batch.weight());
    }
}

#[test]
fn errors() {
    for (length, sequence_length) in [(1, 1), (7, 7), (7, 11)] {
        let packing = Packing { sequence_length, borders: Borders::Joined };
        let error = TrainingRows::new(tokens(&[length]), packing, 0).unwrap_err();
        let wanted = format!("a row of {sequence_length} tokens needs {} tokens of training text", sequence_length + 1);
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    let packing = Packing { sequence_length: 0, borders: Borders::Joined };
    assert!(matches!(TrainingRows::new(tokens(&[7]), packing, 0), Err(CorpusError::EmptyRow)));
    assert!(matches!(ValidationRows::new(tokens(&[7]), packing), Err(CorpusError::EmptyRow)));
}
