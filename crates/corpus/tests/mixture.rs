//! Several sources: shares, names, exact resume.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{
    Borders, Content, Corpus, CorpusError, CorpusOptions, Cursor, Document, Mixture, MixtureCursor, Packing,
    SourceOptions, TokenizerChoice, embedded_documents,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

fn lines(documents: &[Document]) -> Vec<u8> {
    let line = |document: &Document| serde_json::json!({ "text": document.text }).to_string() + "\n";
    documents.iter().map(line).collect::<String>().into_bytes()
}

/// Three sources of different size, differently compressed.
fn write(folder: &Path) -> Vec<PathBuf> {
    let documents = embedded_documents();
    let paths = ["a.jsonl.gz", "b.txt", "c.jsonl.zst"].map(|name| folder.join(name));
    let gzip = flate2::Compression::fast();
    let mut writer = flate2::write::GzEncoder::new(fs::File::create(&paths[0]).unwrap(), gzip);
    writer.write_all(&lines(&documents[..9])).unwrap();
    writer.finish().unwrap();
    let text: String = documents[29..80].iter().map(|document| document.text.as_str()).collect();
    fs::write(&paths[1], text).unwrap();
    fs::write(&paths[2], zstd::encode_all(&lines(&documents[80..131])[..], 3).unwrap()).unwrap();
    paths.into()
}

fn options(folder: &Path, weights: [Option<f64>; 3]) -> CorpusOptions {
    let sources = write(folder).into_iter().zip(weights).enumerate();
    CorpusOptions {
        sources: sources
            .map(|(index, (path, weight))| SourceOptions {
                name: format!("source {index}"),
                paths: vec![path],
                content: Content::Text { field: "text".to_owned() },
                weight,
            })
            .collect(),
        tokenizer: TokenizerChoice::Train { vocab_size: 389 },
        validation_fraction: 0.1,
        seed: 5,
        cache_folder: folder.join("cache"),
    }
}

const PACKING: Packing = Packing { sequence_length: 31, borders: Borders::Isolated };

#[test]
fn weights_are_reached_within_sampling_error() {
    let folder = tempfile::tempdir().unwrap();
    let weights = [0.2, 1.5, 0.3].map(Some);
    let corpus = Corpus::open(&options(folder.path(), weights)).unwrap();
    let shares: Vec<f64> = corpus.sources.iter().map(|source| source.weight).collect();
    assert_eq!(shares, [0.1, 0.75, 0.15].map(|share: f64| share), "0.2 / 2, 1.5 / 2, 0.3 / 2");
    let mut n_bad = 0;
    for seed in 0..20 {
        let mut mixture = Mixture::new(&corpus, PACKING, seed).unwrap();
        let n = 5003;
        let (batch, cursor) = mixture.batch(&MixtureCursor::start(3), n);
        assert_eq!(cursor.rows, n as u64);
        for (source, share) in shares.iter().enumerate() {
            let found = batch.sources.iter().filter(|&&drawn| drawn == source).count() as f64;
            // Each row is an independent draw: a binomial count, beyond 4 of its standard deviations with probability
            // 6e-5, in 60 counts with 0.4 %. Within 2 of them lie 95 %.
            let deviation = (found - n as f64 * share) / (n as f64 * share * (1.0 - share)).sqrt();
            assert!(deviation.abs() < 4.0, "seed {seed}, source {source}: {found} rows, {deviation:.2} deviations");
            n_bad += usize::from(deviation.abs() > 2.0);
        }
    }
    assert!((1..12).contains(&n_bad), "{n_bad} of 60 counts beyond 2 deviations, of which 3 are expected");
}

/// Whatever their size, weights are shares: also where their sum is beyond the largest number.
#[test]
fn weights_of_any_size_are_shares() {
    let folder = tempfile::tempdir().unwrap();
    for (weights, wanted) in [
        ([1e308, 1e308, 1e308], [1.0 / 3.0; 3]),
        ([1.5e308, 1.5e308, 3e307], [5.0 / 11.0, 5.0 / 11.0, 1.0 / 11.0]),
        ([5e-324; 3], [1.0 / 3.0; 3]),
        ([1e308, 5e-324, 1e308], [0.5, 0.0, 0.5]),
    ] {
        let corpus = Corpus::open(&options(folder.path(), weights.map(Some))).unwrap();
        for (source, share) in corpus.sources.iter().zip(wanted) {
            // Divided twice, rounded thrice.
            assert!((source.weight - share).abs() < 1e-15, "{weights:?}: {}", source.weight);
        }
        let batch = Mixture::new(&corpus, PACKING, 7).unwrap().batch(&MixtureCursor::start(3), 100).0;
        let drawn = (0..3).filter(|source| batch.sources.contains(source)).count();
        assert_eq!(drawn, wanted.iter().filter(|&&share| share > 0.0).count(), "{weights:?}");
    }
}

#[test]
fn without_weights_rows_follow_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::open(&options(folder.path(), [None; 3])).unwrap();
    let total: usize = corpus.sources.iter().map(|source| source.train.len()).sum();
    for source in &corpus.sources {
        assert!((source.weight - source.train.len() as f64 / total as f64).abs() < 1e-15);
    }
}

/// From any cursor, written out and read back, in a corpus opened anew, the next batches are the same bits.
#[test]
fn resuming_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), [2.0, 1.0, 3.0].map(Some));
    let corpus = Corpus::open(&options).unwrap();
    let mut mixture = Mixture::new(&corpus, PACKING, 7).unwrap();
    let mut cursor = MixtureCursor::start(3);
    let mut seen = Vec::new();
    for _ in 0..211 {
        let (batch, next) = mixture.batch(&cursor, 17);
        seen.push((cursor, batch));
        cursor = next;
    }
    assert!(cursor.sources.iter().all(|cursor| cursor.epoch > 0), "every source was read more than once: {cursor:?}");
    assert_eq!(cursor.rows, 211 * 17);
    for (cursor, batch) in seen.iter().step_by(30) {
        let text = serde_json::to_string(cursor).unwrap();
        let cursor: MixtureCursor = serde_json::from_str(&text).unwrap();
        let again = Corpus::open(&options).unwrap();
        let mut fresh = Mixture::new(&again, PACKING, 7).unwrap();
        assert_eq!(&fresh.batch(&cursor, 17).0, batch);
        assert_eq!(&mixture.batch(&cursor, 17).0, batch, "in any order of calls");
    }
    // Rows do not depend on how they are batched.
    let (whole, _) = mixture.batch(&MixtureCursor::start(3), 34);
    let ids: Vec<i32> = seen[..2].iter().flat_map(|(_, batch)| batch.ids.clone()).collect();
    assert_eq!(whole.ids, ids);
}

#[test]
fn a_draw_is_pinned() {
    // A changed draw would silently change every resumed run.
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::open(&options(folder.path(), [Some(1.0); 3])).unwrap();
    let mut mixture = Mixture::new(&corpus, PACKING, 1).unwrap();
    let (batch, cursor) = mixture.batch(&MixtureCursor::start(3), 12);
    assert_eq!(batch.sources, PINNED);
    let counts: Vec<u64> = cursor.sources.iter().map(|cursor: &Cursor| cursor.row).collect();
    assert_eq!(counts, [0, 1, 2].map(|source| PINNED.iter().filter(|&&drawn| drawn == source).count() as u64));
}

const PINNED: [usize; 12] = [1, 1, 0, 2, 0, 0, 0, 1, 1, 2, 2, 2];

#[test]
fn errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = |change: fn(&mut Vec<SourceOptions>)| {
        let mut options = options(folder.path(), [Some(1.0); 3]);
        change(&mut options.sources);
        Corpus::open(&options).map(drop).unwrap_err()
    };
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut options = options(folder.path(), [Some(1.0); 3]);
        options.sources[1].weight = Some(weight);
        let error = Corpus::open(&options).map(drop).unwrap_err();
        assert!(matches!(&error, CorpusError::Weight { name, .. } if name == "source 1"), "{error}");
    }
    assert!(
        matches!(error(|sources| sources[2].weight = None), CorpusError::SomeWeights { name } if name == "source 2")
    );
    assert!(
        matches!(error(|sources| sources[0].weight = None), CorpusError::SomeWeights { name } if name == "source 0")
    );
    assert!(matches!(error(|sources| sources[2].name = "source 0".into()), CorpusError::SameName { .. }));
    // Which of several sources is meant.
    let empty = error(|sources| {
        fs::write(&sources[1].paths[0], " ").unwrap();
    });
    assert!(empty.to_string().starts_with("source `source 1`: no text found in"), "{empty}");
    let short = |length| {
        let corpus = Corpus::open(&options(folder.path(), [None; 3])).unwrap();
        Mixture::new(&corpus, Packing { sequence_length: length, ..PACKING }, 0).map(drop)
    };
    let error = short(500_000).unwrap_err().to_string();
    assert!(error.starts_with("source `source 0`: the sequence is longer than the text"), "{error}");
}
