//! `tokenizer` as its users meet it, and training on several sources.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::Place;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Runs with `input` on standard input and yields standard output.
fn piped(place: &Place, arguments: &[&str], input: &str) -> String {
    let mut child =
        place.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is refused, with exit code 2.
fn refused(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    error
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/tests/fixtures").join(name).display().to_string()
}

#[test]
fn from_text_to_ids_and_back() {
    let place = Place::new();
    let train = ["tokenizer", "train", "text.txt", "--vocab-size", "281", "--out", "mine"];
    assert!(place.succeed(&train).starts_with("mine/tokenizer.json: byte-level BPE with 281 entries"));
    assert!(refused(&place, &train).starts_with("error: mine/tokenizer.json is there already"));

    let text = "The mill turns.\n\n  Über <|endoftext|> 🦀\n";
    for tokenizer in ["mine", "mine/tokenizer.json"] {
        let ids = piped(&place, &["tokenizer", "encode", tokenizer], text);
        assert_eq!(piped(&place, &["tokenizer", "decode", tokenizer], &ids), text.replace("<|endoftext|>", ""));
        let json = piped(&place, &["tokenizer", "encode", tokenizer, "--json"], text);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let listed: Vec<String> = value["ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(listed.join(" "), ids.trim_end());
        assert_eq!(value["tokens"].as_array().unwrap().len(), listed.len());
        assert_eq!(piped(&place, &["tokenizer", "decode", tokenizer], &json), text.replace("<|endoftext|>", ""));
        let decoded = piped(&place, &["tokenizer", "decode", tokenizer, "--json"], &ids);
        assert_eq!(decoded, serde_json::json!({ "text": text.replace("<|endoftext|>", "") }).to_string() + "\n");
        // As a document, nothing in it is special and the end is added.
        let document = piped(&place, &["tokenizer", "encode", tokenizer, "--document"], text);
        assert_eq!(piped(&place, &["tokenizer", "decode", tokenizer], &document), text);
        assert!(document.ends_with(" 0\n") && document.split_whitespace().filter(|id| *id == "0").count() == 1);
    }
    place.write("a.txt", "The mill");
    place.write("b.txt", "");
    let lines = place.succeed(&["tokenizer", "encode", "mine", "a.txt", "b.txt"]);
    assert_eq!(lines.lines().count(), 2);

    let inspection = place.succeed(&["tokenizer", "inspect", "mine", "text.txt", "--json"]);
    let inspection: serde_json::Value = serde_json::from_str(&inspection).unwrap();
    assert_eq!(inspection["vocab_size"], 281);
    assert_eq!(inspection["algorithm"], "BPE");
    assert_eq!(inspection["end_of_text"]["token"], "<|endoftext|>");
    assert_eq!(inspection["compression"]["text_bytes"], place.read("text.txt").len());
    assert!(inspection["compression"]["bytes_per_token"].as_f64().unwrap() > 1.2, "{inspection}");
    assert!(inspection["chat_template"].is_null());
}

#[test]
fn sentencepiece_and_chat_templates_are_shown() {
    let place = Place::new();
    fs::copy(fixture("sentencepiece/bpe-bytes.model"), place.path("tokenizer.model")).unwrap();
    fs::copy(fixture("chat/mistral.jinja"), place.path("chat_template.jinja")).unwrap();
    place.write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
    for tokenizer in [".", "tokenizer.model"] {
        let page = place.succeed(&["tokenizer", "inspect", tokenizer]);
        for wanted in ["algorithm       BPE\n", "end of text     2 </s>\n", "bytes a token on the embedded text"] {
            assert!(page.contains(wanted), "{page}");
        }
        assert!(page.ends_with("    <s>[INST] Hello![/INST] Hello.</s>[INST] How are you?[/INST]\n"), "{page}");
    }
}

/// What a file could write over a terminal with is shown escaped: in tokens, in templates, in errors.
#[test]
fn control_characters_are_shown() {
    let place = Place::new();
    let json = serde_json::json!({
        "added_tokens": [{ "id": 0, "content": "</s>\u{1b}[2J\r\n", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": { "</s>\u{1b}[2J\r\n": 0, "<unk>": 1 }, "unk_token": "<unk>" },
    });
    place.write("tokenizer.json", json.to_string());
    let config =
        serde_json::json!({ "eos_token": "</s>\u{1b}[2J\r\n", "chat_template": "\u{1b}]0;{{ messages[0].content }}" });
    place.write("tokenizer_config.json", config.to_string());
    let page = place.succeed(&["tokenizer", "inspect", "."]);
    assert!(page.contains("end of text     0 </s>\\u{1b}[2J\\r\\n\n"), "{page:?}");
    assert!(page.ends_with("    \\u{1b}]0;Hello!\n"), "{page:?}");
    assert!(!page.contains('\u{1b}') && !page.contains('\r'), "{page:?}");
    place.write(
        "tokenizer_config.json",
        r#"{"chat_template": "{{ raise_exception('\u001b[2J') }}", "eos_token": "<unk>"}"#,
    );
    place.write("\u{1b}[31m.txt", b"\xff");
    let error = refused(&place, &["tokenizer", "inspect", ".", "\u{1b}[31m.txt"]);
    assert!(error.contains("\\u{1b}[31m.txt") && !error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn what_is_no_tokenizer_or_no_id_is_refused() {
    let place = Place::new();
    place.write("broken.json", "{\"model\": ");
    place.write("broken.model", b"\x0a\xff\xff\xff\xff\xff");
    place.write("ids", "1 2\n3 four\n");
    fs::create_dir(place.path("empty")).unwrap();
    let byte_level = fixture("byte-level.json");
    let cases: [(&[&str], &str); 8] = [
        (&["inspect", "nowhere"], "error: there is no file or folder nowhere; check the spelling"),
        (&["inspect", "broken.json"], "error: broken.json is not a usable tokenizer.json: EOF while parsing"),
        (&["inspect", "broken.model"], "error: broken.model cannot be used as a SentencePiece model: it is damaged"),
        (&["inspect", "empty"], "error: empty holds no model"),
        (&["inspect", &byte_level, "nowhere.txt"], "error: there is no file or folder nowhere.txt"),
        (&["decode", &byte_level, "ids"], "error: ids:2: `four` is no token id"),
        (
            &["train", "text.txt", "--vocab-size", "12", "--out", "o"],
            "error: a byte-level vocabulary of 12 entries is too",
        ),
        (&["train", "nowhere", "--vocab-size", "300", "--out", "o"], "error: there is no file or folder nowhere"),
    ];
    for (arguments, wanted) in cases {
        let error = refused(&place, &[&["tokenizer"], arguments].concat());
        assert!(error.starts_with(wanted), "{error}");
    }
    assert!(!place.path("o").exists());
    for (line, wanted) in [
        ("[1, 2", "this is not valid JSON: EOF while parsing a list at line 1 column 5"),
        ("{\"ids\": 7}", "`ids` is `7`, but must be a list"),
        ("{\"tokens\": [7]}", "this JSON object has no field `ids`"),
        ("[1, -2]", "`-2` is no token id"),
        ("[1, \"two\"]", "`\"two\"` is no token id"),
        ("1 -2", "`-2` is no token id"),
        ("[4294967296]", "`4294967296` is no token id"),
    ] {
        place.write("ids", format!("1\n{line}\n"));
        let error = refused(&place, &["tokenizer", "decode", &byte_level, "ids"]);
        assert!(error.starts_with(&format!("error: ids:2: {wanted}\n  hint: write numbers")), "{line}: {error}");
    }
    let error = {
        place.write("large", "389\n");
        refused(&place, &["tokenizer", "decode", &byte_level, "large"])
    };
    assert!(error.starts_with("error: large:1: token 389 is outside the vocabulary of 389 entries"), "{error}");
}

/// Sources of three formats, named in a run file, from the first step to the report.
#[test]
fn training_on_several_sources() {
    let place = Place::new();
    fs::copy(fixture("sources/snappy.parquet"), place.path("a.parquet")).unwrap();
    fs::copy(fixture("sources/lines.jsonl.gz"), place.path("b.jsonl.gz")).unwrap();
    let sources = "sources = [{ name = \"mill\", paths = [\"text.txt\"], weight = 2 }, \
                   { name = \"rows\", paths = [\"a.parquet\"], weight = 1 }, \
                   { name = \"lines\", paths = [\"b.jsonl.gz\"], weight = 1 }]";
    let run_file = place.read_text("tiny.toml").replace("paths = [\"text.txt\"]", sources);
    place.write("several.toml", run_file);
    let header = place.succeed(&["train", "several.toml", "--out", "run"]);
    assert!(
        header.contains("text       mill (50.0 % of the rows): ") && header.contains("rows (25.0 % of the rows): "),
        "{header}"
    );
    let metrics = place.read_text("run/metrics.jsonl");
    let lines: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.iter().rfind(|line| line["kind"] == "validation").unwrap();
    for name in ["mill", "rows", "lines"] {
        assert!(last["validation_loss_by_source"][name].is_f64(), "{last}");
        assert!(lines.iter().any(|line| line["loss_by_source"][name].is_f64()), "{metrics}");
    }
    // The run file as resolved reads back; and a damaged source is told with its name.
    place.succeed(&["train", "--resume", "run", "--set", "steps=5"]);
    place.write("b.jsonl.gz", b"\x1f\x8b\x08");
    let error = refused(&place, &["train", "several.toml", "--out", "again"]);
    assert!(
        error.starts_with("error: source `lines`: ")
            && error.contains("/b.jsonl.gz: the gzip data are damaged or cut off after 0 bytes of text"),
        "{error}"
    );
    assert!(!place.path("again").exists());
}
