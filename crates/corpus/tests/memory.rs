//! Text larger than memory: what the way from a compressed file to batches allocates does not grow with the file.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{
    Borders, Content, Corpus, CorpusOptions, Mixture, MixtureCursor, Packing, SourceOptions, TokenizerChoice,
    ValidationRows, embedded_documents,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts live bytes and their peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `bytes` of text in documents that are all different, as gzip or Zstandard.
fn write(path: &Path, bytes: usize) {
    let documents = embedded_documents();
    let file = File::create(path).unwrap();
    let mut writer: Box<dyn Write> = match path.extension().unwrap().to_str().unwrap() {
        "gz" => Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast())),
        _ => Box::new(zstd::Encoder::new(file, 1).unwrap().auto_finish()),
    };
    let mut written = 0;
    for number in 0.. {
        let text = &documents[number % documents.len()].text;
        // Numbered in words that come again: those that an encoder remembers are bounded, but by more than this text has.
        let text = format!("{} {} {} {text}", number % 100, number / 100 % 100, number / 10_000);
        let line = serde_json::json!({ "text": text }).to_string() + "\n";
        writer.write_all(line.as_bytes()).unwrap();
        written += line.len();
        if written >= bytes {
            break;
        }
    }
    writer.flush().unwrap();
}

/// Most bytes held at once on the way from `bytes` of text to the first batches, with a cold cache and a warm one.
fn peak_bytes(name: &str, bytes: usize) -> [usize; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path, bytes);
    let fixture: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/byte-level.json"].iter().collect();
    let options = CorpusOptions {
        sources: vec![SourceOptions {
            name: "large".to_owned(),
            paths: vec![path],
            content: Content::Text { field: "text".to_owned() },
            weight: None,
        }],
        tokenizer: TokenizerChoice::File(fixture),
        validation_fraction: 0.1,
        seed: 1,
        cache_folder: folder.path().join("cache"),
    };
    let packing = Packing { sequence_length: 512, borders: Borders::Isolated };
    [(); 2].map(|()| {
        let start = LIVE.load(Relaxed);
        PEAK.store(start, Relaxed);
        let corpus = Corpus::open(&options).unwrap();
        let mut mixture = Mixture::new(&corpus, packing, 1).unwrap();
        let mut cursor = MixtureCursor::start(1);
        for _ in 0..20 {
            cursor = mixture.batch(&cursor, 8).1;
        }
        let validation = ValidationRows::new(corpus.sources[0].validation.clone(), packing).unwrap();
        (0..validation.rows()).step_by(8).for_each(|row| drop(validation.batch(row, 8)));
        PEAK.load(Relaxed) - start
    })
}

#[test]
fn memory_does_not_grow_with_the_text() {
    const MB: usize = 1 << 20;
    // Once, so that what is allocated for good (thread pools, caches of words) is there.
    peak_bytes("warm.jsonl.gz", 2 * MB);
    for name in ["text.jsonl.gz", "text.jsonl.zst"] {
        // 5 MB fill the pipeline: four chunks of 1 MB and their ids. 15 MB are to take no more, but for the order of an
        // epoch's rows, 4 bytes for each of 512 tokens, and how chunks fall together in time: 1 of 20 MB at most.
        let [small, small_warm] = peak_bytes(name, 5 * MB);
        let [large, large_warm] = peak_bytes(name, 15 * MB);
        assert!(large < small + 2 * MB, "{name}: {small} bytes for 5 MB of text, {large} for 15 MB");
        assert!(large_warm < small_warm + MB, "{name}, cached: {small_warm} bytes for 5 MB, {large_warm} for 15 MB");
        assert!(large_warm < 4 * MB, "{name}, cached: {large_warm} bytes");
    }
}
