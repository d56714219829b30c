//! How much memory and time it takes to stream a text of any size from a compressed file to batches:
//!
//! ```text
//! cargo bench --package corpus --package millstream --bench stream -- 1 10    # GB
//! ```
//!
//! The sizes one after the other in a process each, so that each has a peak of its own. Needs 1.1 times the size on disk
//! in the folder for temporary files.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails shows where")]

use corpus::{
    Borders, Content, Corpus, CorpusOptions, Mixture, MixtureCursor, Packing, SourceOptions, Tokenizer,
    TokenizerChoice, embedded_documents,
};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Documents that are all different: entries of the embedded text, numbered.
fn write(path: &Path, bytes: u64) {
    let documents = embedded_documents();
    let file = zstd::Encoder::new(File::create(path).unwrap(), 1).unwrap().auto_finish();
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut written = 0;
    for number in 0u64.. {
        let text = &documents[number as usize % documents.len()].text;
        let line = serde_json::json!({ "text": format!("{number} {text}") }).to_string() + "\n";
        file.write_all(line.as_bytes()).unwrap();
        written += line.len() as u64;
        if written >= bytes {
            break;
        }
    }
    file.flush().unwrap();
}

/// A line of `/proc/self/status`, in MB.
fn status(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
}

fn measure(gigabytes: f64) {
    let folder = tempfile::tempdir().unwrap();
    let (text, tokenizer) = (folder.path().join("text.jsonl.zst"), folder.path().join("tokenizer.json"));
    write(&text, (gigabytes * 1e9) as u64);
    fs::write(&tokenizer, Tokenizer::train(&embedded_documents(), 8192).unwrap().to_json()).unwrap();
    let options = CorpusOptions {
        sources: vec![SourceOptions {
            name: "large".to_owned(),
            paths: vec![text.clone()],
            content: Content::Text { field: "text".to_owned() },
            weight: None,
        }],
        tokenizer: TokenizerChoice::File(tokenizer),
        validation_fraction: 0.01,
        seed: 1,
        cache_folder: folder.path().join("cache"),
    };
    println!(
        "{gigabytes} GB of text, {:.2} GB compressed; {:.0} MB resident at the start, most {:.0} MB",
        fs::metadata(&text).unwrap().len() as f64 / 1e9,
        status("VmRSS"),
        status("VmHWM")
    );
    for what in ["cold cache", "warm cache"] {
        let start = Instant::now();
        let corpus = Corpus::open(&options).unwrap();
        let opened_s = start.elapsed().as_secs_f64();
        let opened = (status("VmHWM"), status("RssAnon"));
        let packing = Packing { sequence_length: 1024, borders: Borders::Isolated };
        let mut mixture = Mixture::new(&corpus, packing, 1).unwrap();
        let mut cursor = MixtureCursor::start(1);
        for _ in 0..100 {
            cursor = mixture.batch(&cursor, 8).1;
        }
        println!(
            "{what}: {:.2}e9 tokens in {opened_s:.0} s ({:.0} MB/s); most resident {:.0} MB, then {:.0} MB of memory of its \
             own; after 100 batches {:.0} MB, {:.0} MB",
            (corpus.sources[0].train.len() + corpus.sources[0].validation.len()) as f64 / 1e9,
            gigabytes * 1e3 / opened_s,
            opened.0,
            opened.1,
            status("VmHWM"),
            status("RssAnon"),
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [one, size] if one == "one" => measure(size.parse().unwrap()),
        sizes => {
            for size in sizes {
                let status = Command::new(std::env::current_exe().unwrap()).args(["one", size]).status().unwrap();
                assert!(status.success(), "{size} GB: {status}");
            }
        }
    }
}
