//! Files, folders, JSON Lines, and the split.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{CorpusError, Document, Side, Survey, read_documents};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

/// Reads `paths` below a folder made of `files`, and yields the texts, or the error with the folder's name taken out.
fn read(files: &[(&str, &[u8])], paths: &[&str]) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }
    let paths: Vec<PathBuf> = paths.iter().map(|path| folder.path().join(path)).collect();
    match read_documents(&paths, "text") {
        Ok(documents) => Ok(documents.into_iter().map(|document| document.text).collect()),
        Err(error) => Err(error.to_string().replace(&format!("{}/", folder.path().display()), "")),
    }
}

#[test]
fn files_and_folders_in_order() {
    let files: [(&str, &[u8]); 11] = [
        ("f/b.txt", b"b"),
        ("f/a/z.md", b"a/z"),
        ("f/a/b/c", b"a/b/c"),
        ("f/a.txt", b"a.txt"),
        ("f/c.jsonl", b"{\"text\":\"c1\"}\n\n{\"n\":1,\"text\":\"c2\\n\"}\r\n{\"text\":\" \"}"),
        ("f/d.NDJSON", b"{\"text\":\"d\"}\n"),
        ("f/empty.txt", b""),
        ("f/blank.txt", b" \n\t\n"),
        ("f/.hidden", b"hidden"),
        ("f/.git/x", b"hidden"),
        ("g.txt", b"\xef\xbb\xbfg"),
    ];
    let cases: [(&[&str], &[&str]); 4] = [
        (&["f"], &["a/b/c", "a/z", "a.txt", "b", "c1", "c2\n", "d"]),
        (&["g.txt", "f/a"], &["g", "a/b/c", "a/z"]),
        (&["f/.hidden"], &["hidden"]),
        (&["f/b.txt", "f/b.txt"], &["b", "b"]),
    ];
    for (paths, wanted) in cases {
        assert_eq!(read(&files, paths).unwrap(), wanted, "{paths:?}");
    }
}

#[cfg(unix)]
#[test]
fn links_inside_folders_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "a").unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    let documents = read_documents(&[folder.path().to_owned()], "text").unwrap();
    assert_eq!(documents, [Document { text: "a".to_owned() }]);
}

#[test]
fn errors_say_where_and_what() {
    let files: [(&str, &[u8]); 9] = [
        ("empty/", b""),
        ("blank/a.txt", b"\n \n"),
        ("latin.txt", b"one\ntwo\ncaf\xe9\n"),
        ("cut.txt", b"caf\xc3"),
        ("bad.jsonl", b"{\"text\":\"a\"}\n\n{\"text\": \n"),
        ("list.jsonl", b"[1]\n"),
        ("field.jsonl", b"{\"text\":\"a\"}\n{\"body\":\"b\",\"id\":3}\n"),
        ("none.jsonl", b"{}\n"),
        ("number.jsonl", b"{\"text\":7}\n"),
    ];
    let cases = [
        ("gone.txt", "there is no file or folder gone.txt; check the spelling"),
        ("empty", "the folder empty holds no text: no regular file in it"),
        ("blank", "no text found in blank: every file is empty or white space"),
        ("latin.txt", "latin.txt:3: the byte at offset 11 is not UTF-8 text; convert the file (`iconv -t UTF-8`)"),
        ("cut.txt", "cut.txt:1: the byte at offset 3 is not UTF-8"),
        ("bad.jsonl", "bad.jsonl:3: invalid JSON: EOF while parsing a value"),
        ("list.jsonl", "list.jsonl:1: the line holds a list; every line of a JSON Lines file must be one JSON object"),
        ("field.jsonl", "field.jsonl:2: no field `text`; this object has `body`, `id`: choose one"),
        ("none.jsonl", "none.jsonl:1: no field `text`; this object has no fields"),
        ("number.jsonl", "number.jsonl:1: field `text` holds a number, but the text must be a string"),
    ];
    for (path, wanted) in cases {
        let error = read(&files, &[path]).unwrap_err();
        assert!(error.starts_with(wanted), "{path}: {error}");
    }
    #[cfg(unix)]
    assert!(matches!(read_documents(&[PathBuf::from("/dev/null")], "text"), Err(CorpusError::NotFileOrFolder { .. })));
}

/// Texts of different lengths, all distinct.
fn documents(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("document {i} {}", "x".repeat(i * 31 % 97))).collect()
}

/// The texts that train and those that validate.
fn split(texts: &[String], fraction: f64, seed: u64) -> corpus::Result<[Vec<String>; 2]> {
    let mut survey = Survey::new(seed);
    texts.iter().for_each(|text| survey.add(text.as_bytes()));
    let split = survey.split(fraction)?;
    let of = |side| texts.iter().filter(|text| split.side(text.as_bytes()) == side).cloned().collect();
    Ok([of(Side::Train), of(Side::Validation)])
}

#[test]
fn the_split_hits_the_share() {
    for (count, fraction) in [(2, 0.01), (2, 0.99), (3, 0.5), (101, 0.05), (1009, 0.1), (1009, 0.999)] {
        for seed in 0..5 {
            let all = documents(count);
            let size = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
            let [train, validation] = split(&all, fraction, seed).unwrap();
            assert!(!train.is_empty() && !validation.is_empty());
            assert_eq!(train.len() + validation.len(), count);
            let wanted = fraction * size(&all) as f64;
            // A step of ranks holds two documents of a thousand with probability 1/1000.
            let largest = 2 * all.iter().map(String::len).max().unwrap();
            assert!((size(&validation) as f64) < wanted + largest as f64);
            assert!(size(&validation) as f64 >= wanted || train.len() <= 2);
        }
    }
}

#[test]
fn the_split_depends_on_the_seed_and_on_texts_only() {
    let sides: HashSet<Vec<String>> =
        (0..20).map(|seed| split(&documents(31), 0.2, seed).unwrap()[1].clone()).collect();
    assert!(sides.len() > 10, "{} different splits by 20 seeds", sides.len());

    let mut reversed = documents(31);
    reversed.reverse();
    let [_, mut again] = split(&reversed, 0.2, 3).unwrap();
    again.reverse();
    assert_eq!(again, split(&documents(31), 0.2, 3).unwrap()[1]);

    let twice: Vec<String> = documents(31).into_iter().flat_map(|text| [text.clone(), text]).collect();
    let [train, validation] = split(&twice, 0.2, 3).unwrap();
    assert!(validation.iter().all(|text| !train.contains(text)), "equal documents stay together");
}

#[test]
fn split_errors() {
    for fraction in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(split(&documents(3), fraction, 0), Err(CorpusError::ValidationFraction { .. })), "{fraction}");
    }
    for copies in [1, 3] {
        let error = split(&vec!["document 0 ".to_owned(); copies], 0.5, 0).unwrap_err();
        assert!(matches!(error, CorpusError::OneDocument { bytes } if bytes == 11 * copies as u64), "{error}");
    }
}
