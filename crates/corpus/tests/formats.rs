//! Compressed text, Parquet and token files (`fixtures/sources/make_sources.py`), whole and damaged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{
    Content, Corpus, CorpusError, CorpusOptions, Source, SourceOptions, TextColumn, TokenWidth, Tokenizer,
    TokenizerChoice, embedded_documents, read_documents,
};
use serde_json::Value;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn sources() -> PathBuf {
    fixtures().join("sources")
}

fn texts() -> Value {
    serde_json::from_slice(&fs::read(sources().join("texts.json")).unwrap()).unwrap()
}

fn strings(texts: &Value) -> Vec<&str> {
    texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn read(path: &Path, field: &str) -> Result<Vec<String>, String> {
    let folder = format!("{}/", path.parent().unwrap().display());
    match read_documents(&[path.to_owned()], field) {
        Ok(documents) => Ok(documents.into_iter().map(|document| document.text).collect()),
        // Causes, as the command line shows them.
        Err(error) => Err(error.to_string().replace(&folder, "")),
    }
}

#[test]
fn parquet_as_pyarrow_wrote_it() {
    let texts = texts();
    for (name, texts) in texts.as_object().unwrap().iter().filter(|(name, _)| name.ends_with(".parquet")) {
        let found = read(&sources().join(name), "text");
        match name.as_str() {
            "lz4.parquet" => {
                let error = found.unwrap_err();
                assert!(error.contains("LZ4 compression (codec 7), which is not read here; write the file"), "{error}");
            }
            "empty.parquet" => assert!(found.unwrap_err().starts_with("no text found in empty.parquet")),
            _ => assert_eq!(found.unwrap(), strings(texts), "{name}"),
        }
    }
}

#[test]
fn parquet_columns_that_are_no_text() {
    let path = sources().join("snappy.parquet");
    let check = |field: &str, wanted: &str| {
        let error = read(&path, field).unwrap_err();
        assert!(error.starts_with(wanted), "{error}");
    };
    check("body", "snappy.parquet: no column `body`; this file has `id`, `meta`, `tags`, `text`, `score`: choose one");
    check("id", "snappy.parquet: column `id` holds 64-bit integers, but the text must be strings");
    check("score", "snappy.parquet: column `score` holds 32-bit floats, but the text must be strings");
    check("meta", "snappy.parquet: column `meta` holds groups or lists, but");
    check("tags", "snappy.parquet: column `tags` holds groups or lists, but");
}

/// All texts of a Parquet file in memory.
fn column(bytes: &[u8]) -> corpus::Result<Vec<String>> {
    let mut column = TextColumn::open(Cursor::new(bytes), "a test", "text")?;
    let mut texts = Vec::new();
    while let Some(text) = column.next_text()? {
        texts.push(text);
        assert!(texts.len() < 100_000, "a damaged number of values");
    }
    Ok(texts)
}

#[test]
fn damaged_parquet() {
    let whole = fs::read(sources().join("snappy.parquet")).unwrap();
    let error = |bytes: &[u8]| column(bytes).unwrap_err().to_string();
    let start = "a test cannot be read as a Parquet file: ";
    assert_eq!(error(b"PAR1"), format!("{start}it is too short for a Parquet file"));
    assert_eq!(
        error(&whole[..whole.len() - 1]),
        format!("{start}it does not end in `PAR1`, as a whole Parquet file does")
    );
    let mut encrypted = whole.clone();
    *encrypted.last_mut().unwrap() = b'E';
    assert_eq!(error(&encrypted), format!("{start}it is encrypted"));
    let mut long = whole.clone();
    let at = long.len() - 8;
    long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(error(&long), format!("{start}its footer is said to have 4294967295 bytes"));
    // Text that is no UTF-8.
    let plain = fs::read(sources().join("required.parquet")).unwrap();
    let at = plain
        .windows(6)
        .position(|window| window == "Müll".as_bytes().iter().chain(b"e").copied().collect::<Vec<_>>())
        .unwrap();
    let mut latin = plain.clone();
    latin[at + 1] = 0xff;
    assert!(matches!(column(&latin), Err(CorpusError::RowNotUtf8 { .. })), "{:?}", column(&latin));

    for entry in fs::read_dir(sources()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(column(&whole[..length]).is_err(), "{} cut to {length}", path.display());
        }
        // Any byte may be changed: an error or other texts, never a panic.
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= if at % 3 == 0 { 0xff } else { 1 << (at % 8) };
            drop(column(&damaged));
        }
    }
}

#[test]
fn compressed_text_is_the_text() {
    let texts = texts();
    for name in ["lines.jsonl.gz", "lines.jsonl.zst"] {
        assert_eq!(read(&sources().join(name), "text").unwrap(), strings(&texts["lines"]), "{name}");
    }
    for name in ["plain.txt.gz", "plain.txt.zst"] {
        assert_eq!(read(&sources().join(name), "text").unwrap().concat(), texts["plain"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn damaged_compression() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("plain.txt.gz", "gzip"), ("plain.txt.zst", "Zstandard"), ("lines.jsonl.gz", "gzip")] {
        let whole = fs::read(sources().join(name)).unwrap();
        let path = folder.path().join(name);
        let found = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read(&path, "text")
        };
        let middle = found(&whole[..whole.len() / 3]).unwrap_err();
        let wanted = format!("{name}: the {format} data are damaged or cut off after ");
        assert!(middle.starts_with(&wanted), "{middle}");
        assert!(middle.ends_with(" bytes of text; compress or download the file again"), "{middle}");
        for length in 1..whole.len() {
            // Between two members or frames the data are whole.
            let result = found(&whole[..length]);
            assert!(result.is_err() || name.starts_with("plain"), "{name} cut to {length}");
        }
        for at in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            drop(found(&damaged));
        }
        assert!(found(b"no compressed data at all").unwrap_err().starts_with(&wanted), "{name}");
    }
    // Text inside that is not UTF-8, and a line that is no object.
    let gzip = |name: &str, text: &[u8]| {
        use std::io::Write;
        let path = folder.path().join(name);
        let mut writer = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
        writer.write_all(text).unwrap();
        writer.finish().unwrap();
        read(&path, "text").unwrap_err()
    };
    let error = gzip("latin.txt.gz", b"one\ntwo\ncaf\xe9\n");
    assert!(error.starts_with("latin.txt.gz:3: the byte at offset 11 is not UTF-8 text"), "{error}");
    let error = gzip("a.jsonl.gz", b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n");
    assert!(error.starts_with("a.jsonl.gz:2: the byte at offset 22 is not UTF-8 text"), "{error}");
    let error = gzip("b.jsonl.gz", b"{\"text\":\"a\"}\n[]\n");
    assert!(error.starts_with("b.jsonl.gz:2: the line holds a list"), "{error}");
    let error = gzip("c.parquet.gz", b"PAR1");
    assert!(error.starts_with("c.parquet.gz: a Parquet file compressed as a whole cannot be read; decompress it"));
}

/// Writes `documents` as ids and opens them as a source with the fixture's tokenizer.
fn open_ids(folder: &Path, files: &[(&str, Vec<u8>)], width: TokenWidth) -> corpus::Result<Source> {
    let paths = files.iter().map(|(name, bytes)| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    let options = CorpusOptions {
        sources: vec![SourceOptions {
            name: "ids".to_owned(),
            paths: paths.collect(),
            content: Content::Tokens(width),
            weight: None,
        }],
        tokenizer: TokenizerChoice::File(fixtures().join("byte-level.json")),
        validation_fraction: 0.1,
        seed: 3,
        cache_folder: folder.join("cache"),
    };
    Ok(Corpus::open(&options)?.sources.remove(0))
}

fn bytes(ids: &[u32], width: TokenWidth) -> Vec<u8> {
    match width {
        TokenWidth::U16 => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
        TokenWidth::U32 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    }
}

#[test]
fn token_files_are_their_documents() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("byte-level.json")).unwrap();
    let documents = embedded_documents();
    let texts: Vec<&str> = documents.iter().skip(11).take(211).map(|document| document.text.as_str()).collect();
    let encoded = tokenizer.encode_documents(&texts).unwrap();
    for width in [TokenWidth::U16, TokenWidth::U32] {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = encoded.split_at(101);
        let files = [("b.bin", bytes(&first.concat(), width)), ("a.bin", bytes(&second.concat(), width))];
        for cached in [corpus::Cached::Written, corpus::Cached::Read] {
            let source = open_ids(folder.path(), &files, width).unwrap();
            assert_eq!(source.cached, [cached; 2]);
            let share = source.validation.len() as f64 / encoded.concat().len() as f64;
            assert!((0.1..0.13).contains(&share), "{share}");
            let mut left: Vec<(&Vec<u32>, &str)> = encoded.iter().zip(texts.iter().copied()).collect();
            for tokens in [&source.train, &source.validation] {
                for document in 0..tokens.documents() {
                    let ids: Vec<u32> = tokens.ids(document).collect();
                    let at = left.iter().position(|(wanted, _)| **wanted == ids).unwrap();
                    assert_eq!(tokens.document_bytes(document), left.remove(at).1.len() as u64);
                }
            }
            assert!(left.is_empty());
        }
    }
}

#[test]
fn token_files_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let error = |content: Vec<u8>, width| {
        let error = open_ids(folder.path(), &[("a.bin", content)], width).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    let good = [5, 6, 0, 7, 8, 9, 0];
    let odd = [bytes(&good, TokenWidth::U16), vec![1]].concat();
    assert!(
        error(odd, TokenWidth::U16).starts_with("a.bin: 15 bytes do not divide into token ids of 2 bytes; the file is")
    );
    assert!(error(Vec::new(), TokenWidth::U16).starts_with("a.bin: 0 bytes do not divide into"));
    assert!(error(bytes(&good, TokenWidth::U16), TokenWidth::U32).starts_with("a.bin: 14 bytes do not divide"));
    let large = error(bytes(&[5, 6, 0, 389, 0], TokenWidth::U32), TokenWidth::U32);
    assert!(
        large.starts_with("a.bin: token 3, at byte 12, is 389, but the vocabulary has 389 entries; the ids"),
        "{large}"
    );
    let open = error(bytes(&[5, 0, 6, 7], TokenWidth::U16), TokenWidth::U16);
    assert!(
        open.starts_with("a.bin: its last token is 7, but a document ends with 0 (`<|endoftext|>`); append"),
        "{open}"
    );
    assert!(error(bytes(&[5, 6, 0], TokenWidth::U16), TokenWidth::U16).contains("the text is a single document"));
}

#[test]
fn token_files_need_their_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    fs::write(&path, bytes(&[1, 0, 2, 0], TokenWidth::U16)).unwrap();
    let error = Corpus::open(&CorpusOptions {
        sources: vec![SourceOptions {
            name: "ids".to_owned(),
            paths: vec![path],
            content: Content::Tokens(TokenWidth::U16),
            weight: None,
        }],
        tokenizer: TokenizerChoice::Train { vocab_size: 300 },
        validation_fraction: 0.1,
        seed: 3,
        cache_folder: folder.path().join("cache"),
    });
    assert!(matches!(error, Err(CorpusError::TokensNeedTokenizer { .. })));
}
