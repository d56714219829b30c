//! The whole way from paths to tokens: the cache, the yardsticks, the embedded text.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{
    Borders, Cached, Content, Corpus, CorpusError, CorpusOptions, Document, Packing, Source, SourceOptions,
    TokenizerChoice, TrainingRows, embedded_documents, unigram_entropy_nats, xz_bytes,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/byte-level.json")
}

fn documents() -> Vec<Document> {
    embedded_documents().into_iter().skip(101).take(307).collect()
}

/// The documents as JSON Lines in `folder`.
fn write_lines(folder: &Path, documents: &[Document]) -> PathBuf {
    let lines: Vec<String> =
        documents.iter().map(|document| serde_json::json!({ "text": document.text }).to_string() + "\n").collect();
    let path = folder.join("documents.jsonl");
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn source(paths: Vec<PathBuf>) -> SourceOptions {
    SourceOptions { name: "text".to_owned(), paths, content: Content::Text { field: "text".to_owned() }, weight: None }
}

fn options(sources: Vec<SourceOptions>, cache_folder: &Path) -> CorpusOptions {
    CorpusOptions {
        sources,
        tokenizer: TokenizerChoice::Train { vocab_size: 1009 },
        validation_fraction: 0.05,
        seed: 7,
        cache_folder: cache_folder.to_owned(),
    }
}

/// The documents with the fixture's tokenizer.
fn with_fixture(folder: &Path, documents: &[Document]) -> CorpusOptions {
    let tokenizer = TokenizerChoice::File(fixture());
    CorpusOptions { tokenizer, ..options(vec![source(vec![write_lines(folder, documents)])], &folder.join("cache")) }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The one file that starts with `prefix` and is the larger: the training side.
fn largest(folder: &Path, prefix: &str) -> PathBuf {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found = files(folder).into_iter().filter(|path| name(path).starts_with(prefix));
    found.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn cached_tokens_are_the_encoded_documents() {
    let folder = tempfile::tempdir().unwrap();
    let documents = documents();
    let options = with_fixture(folder.path(), &documents);
    for wanted in [Cached::Written, Cached::Read] {
        let corpus = Corpus::open(&options).unwrap();
        let [source] = &corpus.sources[..] else { panic!("one source") };
        assert_eq!(source.cached, [wanted; 2]);
        assert_eq!(source.train.documents() + source.validation.documents(), documents.len());
        let mut left: Vec<&Document> = documents.iter().collect();
        for tokens in [&source.train, &source.validation] {
            let mut end = 0;
            for index in 0..tokens.documents() {
                let range = tokens.document(index);
                assert_eq!(range.start, end);
                end = range.end;
                let ids: Vec<u32> = range.map(|token| tokens.get(token)).collect();
                assert!(tokens.ids(index).eq(ids.iter().copied()));
                // In the order of the text: those passed over belong to the other side.
                let encoded = |document: &Document| {
                    let ids = corpus.tokenizer.encode(&document.text).unwrap();
                    [ids, vec![corpus.tokenizer.end_of_text()]].concat()
                };
                let at = left.iter().position(|document| encoded(document) == ids).unwrap();
                assert_eq!(tokens.document_bytes(index), left[at].text.len() as u64);
                left.remove(at);
            }
            assert_eq!(end, tokens.len());
            assert_eq!(tokens.iter().count(), tokens.len());
        }
        assert!(left.is_empty());
    }
    assert_eq!(files(&folder.path().join("cache")).len(), 3, "the split and two sides");
}

#[test]
fn a_harmed_cache_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_fixture(folder.path(), &documents());
    let first = Corpus::open(&options).unwrap();
    let path = largest(&folder.path().join("cache"), "tokens-");
    let intact = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = intact.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        ("empty", Vec::new()),
        ("half a header", intact[..40].to_vec()),
        ("header only", intact[..80].to_vec()),
        ("one byte short", intact[..intact.len() - 1].to_vec()),
        ("one byte long", [intact.clone(), vec![0]].concat()),
        ("magic", flipped(0)),
        ("key", flipped(8)),
        ("length", flipped(40)),
        ("hash", flipped(48)),
        ("a token", flipped(80 + 16)),
        ("the number of tokens", flipped(intact.len() - 4)),
        (
            "other content",
            b"not a cache at all, but long enough to have a header of eighty bytes, or so it seems".to_vec(),
        ),
    ];
    for (name, bytes) in cases {
        // Replaced, not changed in place: `first` still maps the first file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let again = Corpus::open(&options).unwrap();
        assert_eq!(again.sources[0].cached, [Cached::Repaired, Cached::Read], "{name}");
        assert!(again.sources[0].train.iter().eq(first.sources[0].train.iter()), "{name}");
        assert_eq!(again.sources[0].train.digest(), first.sources[0].train.digest(), "{name}");
        assert_eq!(fs::read(&path).unwrap(), intact, "{name}");
    }
    assert_eq!(files(&folder.path().join("cache")).len(), 3);
}

#[test]
fn other_text_or_tokenizer_is_another_cache() {
    let folder = tempfile::tempdir().unwrap();
    let documents = documents();
    let options = with_fixture(folder.path(), &documents);
    let written = |options: &CorpusOptions| Corpus::open(options).unwrap().sources[0].cached;
    assert_eq!(written(&options), [Cached::Written; 2]);
    let trained = CorpusOptions { tokenizer: TokenizerChoice::Train { vocab_size: 300 }, ..options.clone() };
    assert_eq!(written(&trained), [Cached::Written; 2]);
    assert_eq!(written(&CorpusOptions { seed: 8, ..options.clone() }), [Cached::Written; 2]);
    assert_eq!(written(&CorpusOptions { validation_fraction: 0.1, ..options.clone() }), [Cached::Written; 2]);
    let moved: Vec<Document> = documents.iter().cloned().rev().collect();
    let mut merged = documents.clone();
    let first = merged.remove(0);
    merged[0].text.insert_str(0, &first.text);
    for documents in [&moved, &merged] {
        write_lines(folder.path(), documents);
        assert_eq!(written(&options), [Cached::Written; 2]);
    }
    // The first text once more, under another name.
    write_lines(folder.path(), &documents);
    fs::rename(folder.path().join("documents.jsonl"), folder.path().join("again.jsonl")).unwrap();
    let again = CorpusOptions { sources: vec![source(vec![folder.path().join("again.jsonl")])], ..options };
    assert_eq!(written(&again), [Cached::Read; 2]);
}

#[test]
fn an_unusable_cache_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let options = CorpusOptions { cache_folder: file.clone(), ..with_fixture(folder.path(), &documents()) };
    let error = Corpus::open(&options).unwrap_err();
    assert!(matches!(&error, CorpusError::Cache { .. }), "{error}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn the_embedded_text_is_ready_to_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = Corpus::open(&options(Vec::new(), folder.path())).unwrap();
    let second = Corpus::open(&options(Vec::new(), folder.path())).unwrap();
    let Source { name, weight, train, validation, cached } = &first.sources[0];
    assert_eq!((name.as_str(), *weight), ("text", 1.0));
    assert_eq!((*cached, second.sources[0].cached), ([Cached::Written; 2], [Cached::Read; 2]));
    assert_eq!(second.tokenizer.to_json(), first.tokenizer.to_json());
    assert_eq!(first.tokenizer.vocab_size(), 1009);

    let (bytes, total_bytes) = (validation.bytes(), validation.bytes() + train.bytes());
    assert_eq!(validation.documents() + train.documents(), embedded_documents().len());
    assert!((0.05..0.07).contains(&(bytes as f64 / total_bytes as f64)), "{bytes} of {total_bytes}");
    assert!(validation.documents() > 50, "{} documents validate", validation.documents());

    // The yardsticks by their definitions, on the text that was held back.
    let yardsticks = second.yardsticks().unwrap();
    let text: String = (0..validation.documents())
        .map(|document| first.tokenizer.decode(&validation.ids(document).collect::<Vec<_>>()).unwrap())
        .collect();
    assert_eq!((yardsticks.text_bytes, text.len() as u64), (bytes, bytes));
    let nats = unigram_entropy_nats(validation.iter());
    // Sums of a thousand terms in other orders.
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12 * b;
    assert!(close(yardsticks.unigram_nats_per_token, nats));
    assert!(close(yardsticks.unigram_bits_per_byte, nats * validation.len() as f64 / 2f64.ln() / bytes as f64));
    assert!(close(yardsticks.xz_bits_per_byte, 8.0 * xz_bytes(text.as_bytes()).unwrap() as f64 / bytes as f64));
    // A vocabulary of 1009 can cost at most its logarithm; xz cannot expand text.
    assert!(nats < 1009f64.ln() && yardsticks.xz_bits_per_byte < 8.0);
}

#[test]
fn errors_of_a_small_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        Corpus::open(&options(vec![source(vec![file.clone()])], &folder.path().join("cache")))
    };
    assert!(matches!(open("one document"), Err(CorpusError::OneDocument { bytes: 12 })));
    assert!(matches!(open(" \n"), Err(CorpusError::NoText { .. })));
    let lines: String = (0..2000).map(|i| format!("line {i} of the text\n\n")).collect();
    let corpus = open(&lines).unwrap();
    let packing = Packing { sequence_length: 100_000, borders: Borders::Joined };
    let error = TrainingRows::new(corpus.sources[0].train.clone(), packing, 0).unwrap_err();
    assert!(error.to_string().starts_with("the sequence is longer than the text"), "{error}");
}

#[test]
fn unigram_entropy_in_closed_form() {
    let uniform: Vec<u32> = (0..17).collect();
    let skewed: Vec<u32> = [vec![0; 8], vec![1; 4], vec![2; 2], vec![3; 2]].concat();
    let cases = [
        ("nothing", vec![], 0.0),
        ("one token", vec![5; 9], 0.0),
        ("uniform", uniform, 17f64.ln()),
        ("halves", skewed, 1.75 * 2f64.ln()),
    ];
    for (name, tokens, wanted) in cases {
        // Seventeen roundings of f64.
        assert!((unigram_entropy_nats(tokens) - wanted).abs() < 1e-14, "{name}");
    }
}

#[test]
fn xz_is_the_command_line_tool() {
    let documents = documents();
    let text: String = documents.iter().map(|document| document.text.as_str()).collect();
    for text in ["a", &text[..1009], &text] {
        let child = Command::new("xz")
            .args(["--format=xz", "-9", "--threads=1", "--stdout"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            return; // No xz on this machine; nothing to compare with.
        };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let compressed = child.wait_with_output().unwrap().stdout;
        assert_eq!(xz_bytes(text.as_bytes()).unwrap(), compressed.len() as u64, "{} bytes", text.len());
    }
}
