//! The whole way from paths to tokens: the cache, the yardsticks, the embedded text.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{
    Borders, Cached, Corpus, CorpusError, CorpusOptions, Document, Packing, SplitStatistics, Tokenizer,
    TokenizerChoice, Tokens, TrainingRows, embedded_documents, unigram_entropy_nats, xz_bytes,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/byte-level.json")).unwrap()
}

fn documents() -> Vec<Document> {
    embedded_documents().into_iter().skip(101).take(307).collect()
}

fn options(paths: Vec<PathBuf>, cache_folder: &Path) -> CorpusOptions {
    CorpusOptions {
        paths,
        field: "text".to_owned(),
        tokenizer: TokenizerChoice::Train { vocab_size: 1009 },
        validation_fraction: 0.05,
        seed: 7,
        cache_folder: cache_folder.to_owned(),
    }
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn cached_tokens_are_the_encoded_documents() {
    let (folder, tokenizer, documents) = (tempfile::tempdir().unwrap(), tokenizer(), documents());
    for wanted in [Cached::Written, Cached::Read] {
        let (tokens, cached) = Tokens::open(&documents, &tokenizer, folder.path()).unwrap();
        assert_eq!(cached, wanted);
        assert_eq!(tokens.documents(), documents.len());
        assert_eq!(tokens.bytes(), documents.iter().map(|d| d.text.len() as u64).sum::<u64>());
        let mut end = 0;
        for (index, document) in documents.iter().enumerate() {
            let range = tokens.document(index);
            assert_eq!(range.start, end);
            end = range.end;
            let ids: Vec<u32> = range.map(|token| tokens.get(token)).collect();
            assert_eq!(ids, [tokenizer.encode(&document.text).unwrap(), vec![tokenizer.end_of_text()]].concat());
            assert_eq!(tokens.document_bytes(index), document.text.len() as u64);
        }
        assert_eq!(end, tokens.len());
        assert_eq!(tokens.iter().count(), tokens.len());
    }
    assert!(only_file(folder.path()).file_name().unwrap().to_str().unwrap().starts_with("tokens-"));
}

#[test]
fn a_harmed_cache_is_written_anew() {
    let (folder, tokenizer, documents) = (tempfile::tempdir().unwrap(), tokenizer(), documents());
    let (tokens, _) = Tokens::open(&documents, &tokenizer, folder.path()).unwrap();
    let path = only_file(folder.path());
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
        ("a border", flipped(80 + 16)),
        ("a token", flipped(intact.len() - 4)),
        (
            "other content",
            b"not a cache at all, but long enough to have a header of eighty bytes, or so it seems".to_vec(),
        ),
    ];
    for (name, bytes) in cases {
        // Replaced, not changed in place: `tokens` still maps the first file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let (again, cached) = Tokens::open(&documents, &tokenizer, folder.path()).unwrap();
        assert_eq!(cached, Cached::Repaired, "{name}");
        assert!(again.iter().eq(tokens.iter()), "{name}");
        assert_eq!(fs::read(&path).unwrap(), intact, "{name}");
    }
    only_file(folder.path());
}

#[test]
fn other_text_or_tokenizer_is_another_cache() {
    let (folder, tokenizer, documents) = (tempfile::tempdir().unwrap(), tokenizer(), documents());
    let other_tokenizer = Tokenizer::train(&documents, 300).unwrap();
    let moved: Vec<Document> = documents.iter().cloned().rev().collect();
    let mut merged = documents.clone();
    let first = merged.remove(0);
    merged[0].text.insert_str(0, &first.text);
    for (documents, tokenizer) in
        [(&documents, &tokenizer), (&documents, &other_tokenizer), (&moved, &tokenizer), (&merged, &tokenizer)]
    {
        assert_eq!(Tokens::open(documents, tokenizer, folder.path()).unwrap().1, Cached::Written);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn an_unusable_cache_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let error = Tokens::open(&documents(), &tokenizer(), &file).unwrap_err();
    assert!(matches!(&error, CorpusError::Cache { .. }), "{error}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn the_embedded_text_is_ready_to_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = Corpus::open(&options(Vec::new(), folder.path())).unwrap();
    let second = Corpus::open(&options(Vec::new(), folder.path())).unwrap();
    let SplitStatistics { documents, bytes, tokens, cached } = first.statistics.validation;
    assert_eq!((first.statistics.train.cached, cached), (Cached::Written, Cached::Written));
    assert_eq!((second.statistics.train.cached, second.statistics.validation.cached), (Cached::Read, Cached::Read));
    assert_eq!(second.tokenizer.to_json(), first.tokenizer.to_json());
    assert_eq!(first.tokenizer.vocab_size(), 1009);

    let total_bytes = bytes + first.statistics.train.bytes;
    assert_eq!(documents + first.statistics.train.documents, embedded_documents().len());
    assert_eq!(first.validation_text.len() as u64, bytes);
    assert!((0.05..0.07).contains(&(bytes as f64 / total_bytes as f64)), "{bytes} of {total_bytes}");
    assert!(documents > 50, "{documents} documents validate");
    assert_eq!(tokens, first.validation.len());

    let yardsticks = second.yardsticks().unwrap();
    assert_eq!(yardsticks.text_bytes, bytes);
    // A vocabulary of 1009 can cost at most its logarithm; xz cannot expand text.
    assert!(yardsticks.unigram_nats_per_token < 1009f64.ln());
    assert!(yardsticks.xz_bits_per_byte < 8.0);
    let bits = yardsticks.unigram_nats_per_token * tokens as f64 / 2f64.ln() / bytes as f64;
    assert!((yardsticks.unigram_bits_per_byte - bits).abs() < 1e-12, "the same product in another order");
}

#[test]
fn errors_of_a_small_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        Corpus::open(&options(vec![file.clone()], &folder.path().join("cache")))
    };
    assert!(matches!(open("one document"), Err(CorpusError::OneDocument { bytes: 12 })));
    let corpus = open(&"a line of text\n\n".repeat(2000)).unwrap();
    let packing = Packing { sequence_length: 100_000, borders: Borders::Joined };
    let error = TrainingRows::new(corpus.train, packing, 0).unwrap_err();
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
