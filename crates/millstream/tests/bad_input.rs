//! What cannot be done is refused with code 2, a message that names place, found and wanted, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use architecture::{Architecture, Family, Positions, Rope, RopeScaling};
use common::Place;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::fs;

/// Runs a command that has to be refused with a message that holds all `parts`.
fn refused(place: &Place, arguments: &[&str], parts: &[&str]) {
    let before = place.files("");
    let output = place.run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("error: ") && stderr.ends_with('\n'), "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: no {part:?} in {stderr}");
    }
    assert!(place.files("") == before, "{arguments:?} left something");
}

#[test]
fn run_files() {
    let place = Place::new();
    let tiny = place.read_text("tiny.toml");
    place.write("key.toml", tiny.replace("rows = 4", "rowz = 4"));
    place.write("type.toml", tiny.replace("steps = 4", "steps = \"many\""));
    place.write("both.toml", tiny.replace("rows = 4", "rows = -4").replace("stages = 2", "stages = 0"));
    place.write("broken.toml", "seed = \n");
    place.write("latin.toml", b"# caf\xe9\n");
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["key.toml"],
            &[
                "2 problems",
                "key.toml:17:1: there is no key `batch.rowz`; did you mean `rows`?",
                "`batch.rows` is missing",
            ],
        ),
        (&["type.toml"], &["type.toml:3:9: `steps` is \"many\", but must be a whole number of at least 1"]),
        (
            &["both.toml"],
            &["2 problems", "both.toml:17:8: `batch.rows` is -4", "both.toml:20:10: `pipeline.stages` is 0"],
        ),
        (&["broken.toml"], &["broken.toml:1:8: this is not TOML: "]),
        (&["latin.toml"], &["latin.toml: the file cannot be read: ", "UTF-8"]),
        (&["none.toml"], &["none.toml: the file cannot be read: No such file"]),
        (
            &["tiny.toml", "--set", "steps"],
            &["--set steps: this assigns nothing; write key=value, such as `steps=100`"],
        ),
        (
            &["tiny.toml", "--set", "pipeline.stages=7"],
            &["`pipeline.stages` is 7, but the model has 6 blocks", "use at most 6 stages or more layers"],
        ),
        (
            &["tiny.toml", "--set", "model.num_attention_heads=4", "--set", "model.num_key_value_heads=3"],
            &["`model.num_key_value_heads` is 3, but it must divide `num_attention_heads`, which is 4"],
        ),
        (
            &["tiny.toml", "--set", "batch.rows=7"],
            &["`batch.rows` is 7, but must be a multiple of `batch.microbatches`, which is 2; use 6 or 8 rows"],
        ),
        (
            &["tiny.toml", "--set", "data.sequence_length=64", "--set", "model.max_position_embeddings=32"],
            &["`data.sequence_length` is 64, but the model is meant for at most 32 tokens", "use 32 or less"],
        ),
        (
            &["tiny.toml", "--set", "pipeline.schedule=zero-bubble"],
            &["`pipeline.schedule` is \"zero-bubble\", but must be one of \"gpipe\", \"1f1b\", "],
        ),
        (
            &["tiny.toml", "--set", "pipeline.schedule=1fib"],
            &["`pipeline.schedule` is \"1fib\"", "did you mean \"1f1b\"?"],
        ),
        (
            &["tiny.toml", "--set", "data.paths=[\"text.txt\", \"nowhere.txt\"]"],
            &["an item of `data.paths` is \"nowhere.txt\", but must be a file or folder that exists"],
        ),
        (&["tiny.toml", "--from", "nowhere"], &["there is no folder nowhere"]),
        (&["tiny.toml", "--resume", "run"], &["cannot be used with"]),
    ];
    for (arguments, parts) in cases {
        refused(&place, &[&["train"], *arguments].concat(), parts);
        // Where the run's folder is named, it is not made either.
        if !arguments.contains(&"--resume") {
            refused(&place, &[&["train", "--out", "deep/out"], *arguments].concat(), parts);
        }
    }
}

#[test]
fn texts() {
    let place = Place::new();
    model(&place, "model");
    place.write("latin.txt", b"one\ncaf\xe9\n");
    place.write("empty.txt", "");
    place.write("field.jsonl", "{\"text\": \"a\"}\n{\"content\": \"b\"}\n");
    place.write("number.jsonl", "{\"text\": 7}\n");
    place.write("short.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    fs::create_dir(place.path("no-text")).unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("latin.txt", &["latin.txt:2: the byte at offset 7 is not UTF-8 text; convert the file"]),
        ("empty.txt", &["no text found in ", "empty.txt: ", "name files with text in them"]),
        ("no-text", &["no-text holds no text"]),
        ("field.jsonl", &["field.jsonl:2: no field `text`; this object has `content`"]),
        ("number.jsonl", &["number.jsonl:1: field `text` holds", "must be a string"]),
    ];
    let train = |text: &str, parts: &[&str]| {
        let paths = format!("data.paths=[{text:?}]");
        refused(&place, &["train", "tiny.toml", "--out", "out", "--set", &paths], parts);
    };
    for (text, parts) in cases {
        train(text, parts);
        refused(&place, &["eval", "model", text], parts);
    }
    train("short.jsonl", &["the sequence is longer than the text: a row of 16 tokens needs 17", "add text or shorten"]);
    refused(&place, &["eval", "model", "nowhere.txt"], &["there is no file or folder nowhere.txt"]);
    let longer = ["eval", "model", "text.txt", "--sequence-length", "17"];
    refused(&place, &longer, &["17 tokens are too many: the model reads at most 16"]);
}

#[test]
fn models() {
    let place = Place::new();
    model(&place, "model");
    config(&place, "family", json!({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}));
    config(&place, "activation", json!({"hidden_act": "gelu"}));
    config(&place, "window", json!({"sliding_window": 128}));
    config(&place, "heads", json!({"num_attention_heads": 4, "num_key_value_heads": 3, "head_dim": 8}));
    config(&place, "vocabulary", json!({"vocab_size": 280}));
    weights(&place, "missing", |tensors| tensors.retain(|tensor| tensor.name != "model.norm.weight"));
    weights(&place, "unexpected", |tensors| {
        let extra = tensors.iter().find(|tensor| tensor.name == "model.norm.weight").unwrap().clone();
        tensors.push(Tensor { name: "model.layers.2.input_layernorm.weight".into(), ..extra });
    });
    weights(&place, "shape", |tensors| {
        let norm = tensors.iter_mut().find(|tensor| tensor.name == "model.norm.weight").unwrap();
        (norm.shape, norm.bytes) = (vec![17], vec![0; 17 * 4]);
    });
    bytes(&place, "cut", |file| file.truncate(file.len() - 100));
    bytes(&place, "stump", |file| file.truncate(5));
    bytes(&place, "flipped", |file| file[20] ^= 0x80);
    bytes(&place, "flipped-length", |file| file[6] ^= 0x40);
    copy(&place, "no-weights");
    fs::remove_file(place.path("no-weights/model.safetensors")).unwrap();
    copy(&place, "no-tokenizer");
    fs::remove_file(place.path("no-tokenizer/tokenizer.json")).unwrap();
    copy(&place, "bad-tokenizer");
    place.write("bad-tokenizer/tokenizer.json", "{}");
    copy(&place, "bad-config");
    place.write("bad-config/config.json", "{\"hidden_size\":");
    fs::create_dir(place.path("empty")).unwrap();

    let cases: &[(&str, &[&str])] = &[
        ("family", &["`model_type`: found \"mamba\"", "the supported types are \"llama\", \"mistral\""]),
        ("activation", &["`hidden_act`: found \"gelu\", but only \"silu\" is supported"]),
        ("window", &["`sliding_window`: found 128, but this field is not supported"]),
        ("heads", &["`num_key_value_heads`: found 3, but it must divide `num_attention_heads`, which is 4"]),
        ("vocabulary", &["vocabulary/model.safetensors", "has shape [281, 16]", "asks for [280, 16]"]),
        ("missing", &["missing/model.safetensors", "lacks a tensor", "`model.norm.weight`"]),
        ("unexpected", &["unexpected/model.safetensors", "holds a tensor", "`model.layers.2.input_layernorm.weight`"]),
        ("shape", &["`model.norm.weight` in `", "shape/model.safetensors`", "has shape [17]", "asks for [16]"]),
        ("cut", &["cut/model.safetensors", "bytes", "it is probably cut off"]),
        ("stump", &["stump/model.safetensors", "has 5 bytes", "it is probably cut off"]),
        ("flipped", &["flipped/model.safetensors", "is not a valid safetensors file"]),
        ("flipped-length", &["flipped-length/model.safetensors", "is not a valid safetensors file"]),
        ("no-weights", &["no-weights", "holds neither `model.safetensors` nor"]),
        ("no-tokenizer", &["no tokenizer"]),
        ("bad-tokenizer", &["bad-tokenizer/tokenizer.json is not a usable tokenizer.json"]),
        ("bad-config", &["bad-config", "not valid JSON", "line 1"]),
        ("empty", &["empty holds no model", "give the folder of a run, such as runs/1, or of a model"]),
        ("nowhere", &["there is no folder nowhere"]),
    ];
    for (folder, parts) in cases {
        refused(&place, &["generate", folder, "--prompt", "The"], parts);
        refused(&place, &["eval", folder, "text.txt"], parts);
        refused(&place, &["train", "tiny.toml", "--out", "out", "--from", folder], parts);
    }

    // Entries of the tokenizer that the model has no row for: training refuses them, the others when they are met.
    copy(&place, "tokenizer");
    let mut tokenizer = place.read_json("tokenizer/tokenizer.json");
    let extra = json!({"id": 281, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(extra);
    place.write("tokenizer/tokenizer.json", tokenizer.to_string());
    place.write("new.txt", "The <new> mill");
    let met = "token id 281 is not below the model's vocabulary size of 281";
    refused(&place, &["generate", "tokenizer", "--prompt", "The <new>"], &[met]);
    refused(&place, &["eval", "tokenizer", "new.txt"], &[met]);
    let parts = ["the tokenizer has 282 entries but the model's vocabulary has 281; use the model's own tokenizer"];
    refused(&place, &["train", "tiny.toml", "--out", "out", "--from", "tokenizer"], &parts);

    // Weights that are no numbers.
    weights(&place, "not-a-number", |tensors| {
        let norm = tensors.iter_mut().find(|tensor| tensor.name == "model.norm.weight").unwrap();
        norm.bytes = f32::NAN.to_le_bytes().repeat(16);
    });
    for arguments in [&["generate", "not-a-number"][..], &["eval", "not-a-number", "text.txt"]] {
        refused(&place, arguments, &["not a number", "weights are damaged or come from a training run that diverged"]);
    }
}

#[test]
fn requests() {
    let place = Place::new();
    model(&place, "model");
    place.write("outside.json", "[1, 281]");
    place.write("negative.json", "[1, -1]");
    place.write("object.json", "{\"ids\": [1]}");
    place.write("none.json", "[]");
    place.write("many.json", format!("[{}]", ["1"; 17].join(", ")));
    place.write("good.json", "[1, 2]");
    let cases: &[(&str, &[&str])] = &[
        ("outside.json", &["outside.json: token id 281 is not below the model's vocabulary size of 281"]),
        ("negative.json", &["negative.json: ", "`-1`", "hint: write a JSON list of token ids"]),
        ("object.json", &["object.json: ", "map", "hint: write a JSON list of token ids"]),
        ("none.json", &["none.json: there are no token ids"]),
        ("many.json", &["many.json: 17 tokens are too many: the model reads at most 16"]),
        ("nowhere.json", &["nowhere.json: No such file"]),
    ];
    for (ids, parts) in cases {
        refused(&place, &["eval", "model", "--tokens", ids, "--logits", "out.safetensors"], parts);
    }
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["eval", "model", "--tokens", "good.json", "--logits", "text.txt/out.safetensors"],
            &["text.txt/out.safetensors cannot be written"],
        ),
        (&["eval", "model"], &["<TEXT>", "Usage: "]),
        (&["generate", "model", "--temperature", "-1"], &["the temperature is -1, but it must be", "at least 0"]),
        (&["generate", "model", "--top-p", "1.5"], &["top_p is 1.5, but it must be above 0 and at most 1"]),
        (&["generate", "model", "--top-k", "0"], &["top_k is 0, but at least 1 token must be left"]),
        (&["generate", "model", "--stop", ""], &["a stop string is empty"]),
        (&["generate", "model", "--tokens", "some"], &["invalid value 'some' for '--tokens"]),
        (
            &["generate", "model", "--prompt", &"The mill ".repeat(30)],
            &["tokens are too many: the model reads at most 16"],
        ),
        (&["trian"], &["unrecognized subcommand 'trian'", "train"]),
        (
            &["train", "tiny.toml", "--out", "text.txt"],
            &["the output folder text.txt cannot be used", "hint: choose another"],
        ),
        (&["train", "tiny.toml", "--out", "text.txt/run"], &["the output folder text.txt/run cannot be used"]),
        (
            &["train", "tiny.toml", "--out", "model"],
            &["the output folder model has something in it", "hint: choose another"],
        ),
        (&["train", "--resume", "model"], &["model is not the folder of a run: it has no run.toml"]),
        (&["train", "--resume", "nowhere"], &["nowhere is not the folder of a run: it has no run.toml"]),
    ];
    for (arguments, parts) in cases {
        refused(&place, arguments, parts);
    }
}

/// Sizes beyond all measure: the option, what was found, and the limit.
#[test]
fn sizes() {
    let place = Place::new();
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 1000,
        "max_position_embeddings": 4096});
    place.write("model.json", config.to_string());
    place.write("here.toml", "[[nodes]]\n[nodes.device]\nf32_tflops = 0.1\nmemory_gib = 4\nmemory_gbytes_per_s = 10\n");
    fn plan<'a>(rest: &[&'a str]) -> Vec<&'a str> {
        [&["plan", "--model", "model.json", "--machine", "a100:4"], rest].concat()
    }
    let local = |batch: &'static str, sequence: &'static str| {
        let machine = ["plan", "--model", "model.json", "--machine", "here.toml", "--trainer", "millstream"];
        [&machine[..], &["--batch", batch, "--sequence", sequence]].concat()
    };
    let over = |option: &str, found: &str, most: &str| {
        vec![format!("invalid value '{found}' for '{option}"), format!("{found} is not in "), format!("..={most}")]
    };
    let cases = [
        (
            vec!["tokenizer", "train", "text.txt", "--out", "o", "--vocab-size", "99999999999"],
            over("--vocab-size", "99999999999", "1048576"),
        ),
        (vec!["bench", "--batch", "99999999999"], over("--batch", "99999999999", "65536")),
        (vec!["bench", "--threads", "1000000"], over("--threads", "1000000", "1024")),
        (vec!["bench", "--threads", "0"], over("--threads", "0", "1024")),
        (vec!["bench", "--layers", "18446744073709551615"], over("--layers", "18446744073709551615", "1024")),
        (vec!["bench", "--seq", "1"], over("--seq", "1", "1048576")),
        (vec!["bench", "--steps", "1"], over("--steps", "1", "1000000")),
        (
            vec!["bench", "--batch", "65536", "--seq", "1048576"],
            ["a training step of this model takes more than ", ", and the machine has ", "hint: lower --batch, --seq"]
                .map(str::to_owned)
                .into(),
        ),
        (plan(&["--batch", "8", "--sequence", "100000000000000"]), over("--sequence", "100000000000000", "4194304")),
        (
            plan(&["--batch", "18446744073709551615", "--sequence", "8"]),
            over("--batch", "18446744073709551615", "65536"),
        ),
        (plan(&["--batch", "8", "--sequence", "8", "--best", "99999999999"]), over("--best", "99999999999", "1000")),
        (
            plan(&["--batch", "8", "--sequence", "8", "--tensor", "99999999999"]),
            over("--tensor", "99999999999", "1048576"),
        ),
        (
            plan(&["--batch", "65536", "--sequence", "4194304", "--microbatch", "65536"]),
            vec![
                "--microbatch 65536 rows of --sequence 4194304 tokens are 274877906944".to_owned(),
                "33554432".to_owned(),
            ],
        ),
        (
            local("1", "131073"),
            vec!["--sequence is 131073 tokens, but for --trainer millstream may be at most 131072".to_owned()],
        ),
        (
            local("4096", "8192"),
            vec!["--batch times --sequence is 33554432 tokens".to_owned(), "at most 16777216".to_owned()],
        ),
    ];
    for (arguments, parts) in cases {
        refused(&place, &arguments, &parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // The largest that may be asked for ends, with a plan or with what is missing.
    for arguments in [
        plan(&["--batch", "65536", "--sequence", "4194304"]),
        plan(&[
            "--batch",
            "65536",
            "--sequence",
            "1",
            "--pipeline",
            "1048576",
            "--data",
            "1048576",
            "--tensor",
            "1048576",
        ]),
    ] {
        let output = place.run(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 2)), "{arguments:?}: {stderr}");
    }
}

/// Options that would change nothing are refused, or heard.
#[test]
fn options_that_mean_nothing() {
    let place = Place::new();
    model(&place, "model");
    place.write("good.json", "[1, 2]");
    place.write("here.toml", "[[nodes]]\n[nodes.device]\nf32_tflops = 0.1\nmemory_gib = 4\nmemory_gbytes_per_s = 10\n");
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let logits = ["eval", "model", "--tokens", "good.json", "--logits", "out.safetensors"];
    for option in [["--field", "body"], ["--sequence-length", "7"]] {
        refused(&place, &[&logits[..], &option].concat(), &["cannot be used with", option[0]]);
    }
    refused(
        &place,
        &["report", "run", "--out", "page.html"],
        &["--out is for the page that compares several runs", "the page goes to run/report.html"],
    );
    let plan = ["plan", "--model", "model", "--machine", "here.toml", "--batch", "4", "--sequence", "16"];
    let local = [&plan[..], &["--trainer", "millstream"]].concat();
    let options: [&[&str]; 9] = [
        &["--svg", "a.svg"],
        &["--recompute", "none"],
        &["--cut", "layers"],
        &["--data", "1"],
        &["--context", "1"],
        &["--expert", "1"],
        &["--tensor", "1"],
        &["--precision", "fp8"],
        &["--predictor", "simulator"],
    ];
    for option in options {
        let wanted = format!("--trainer millstream does not take {}", option[0]);
        refused(&place, &[&local, option].concat(), &[&wanted]);
    }
    let fit = [&local[..], &["--calibrate", "run/timeline.json"]].concat();
    let options: [&[&str]; 15] = [
        &["--schedule", "gpipe"],
        &["--pipeline", "1"],
        &["--data", "1"],
        &["--context", "1"],
        &["--expert", "1"],
        &["--tensor", "1"],
        &["--recompute", "none"],
        &["--cut", "layers"],
        &["--predictor", "amp"],
        &["--best", "5"],
        &["--json"],
        &["--emit", "megatron"],
        &["--out", "plan.toml"],
        &["--svg", "a.svg"],
        &["--width", "120"],
    ];
    for option in options {
        refused(&place, &[&fit, option].concat(), &["cannot be used with", option[0]]);
        let fit_device = [&plan[..], &["--calibrate", "trace.json"]].concat();
        refused(&place, &[&fit_device, option].concat(), &["cannot be used with", option[0]]);
    }
    for (printed, unheard) in [
        (&["--json"][..], ["--width", "80"]),
        (&["--emit", "megatron"], ["--width", "80"]),
        (&["--emit", "megatron"], ["--best", "2"]),
    ] {
        let given = [&plan[..], printed, &unheard].concat();
        refused(&place, &given, &["cannot be used with", printed[0], unheard[0]]);
    }
    let wanted = "--trainer millstream does not take --microbatch with --calibrate";
    refused(&place, &[&fit[..], &["--microbatch", "2"]].concat(), &[wanted]);
    let run_file = place.read_text("run/run.toml");
    for again in ["\"full\"", "[\"none\", \"full\"]"] {
        place.write("run/run.toml", run_file.replace("recompute = \"none\"", &format!("recompute = {again}")));
        refused(&place, &fit, &["run/timeline.json: its run computes forwards again", "pipeline.recompute = \"none\""]);
    }
    place.write("run/run.toml", "[pipeline");
    refused(&place, &fit, &["run/run.toml"]);
    place.write("run/run.toml", run_file);
    place.succeed(&fit);
    // What is printed for another trainer does not keep files from being written.
    let for_another = [&plan[..], &["--trainer", "millstream", "--emit", "megatron"]].concat();
    refused(&place, &for_another, &["--emit megatron needs a plan for it, not --trainer millstream"]);
    let emitted =
        place.succeed(&[&plan[..], &["--emit", "megatron", "--out", "plan.toml", "--svg", "plan.svg"]].concat());
    assert!(emitted.contains("--pipeline-model-parallel-size"), "{emitted}");
    assert!(place.read_text("plan.toml").contains("[plan]") && place.read_text("plan.svg").starts_with("<svg"));
    // A flag is one.
    refused(&place, &["report", "run", "--open", "yes"], &["yes is not the folder of a run"]);
}

#[test]
fn conversations() {
    let place = Place::new();
    model(&place, "model");
    let hint = "hint: write a JSON list such as";
    let said = |fields: &str| format!("[{{\"role\": \"user\", \"content\": \"x\"{fields}}}]");
    place.write("tools.json", said(", \"tool_calls\": []"));
    place.write("empty.json", "[]");
    place.write("cut.json", "[{");
    for (file, wanted) in [
        ("nofile.json", "nofile.json: No such file"),
        ("tools.json", "tools.json: unknown field `tool_calls`, expected `role` or `content`"),
        ("empty.json", "empty.json: there are no messages"),
        ("cut.json", "cut.json: EOF while parsing"),
    ] {
        // Before the model is read, and its template.
        refused(&place, &["generate", "model", "--messages", file], &[wanted]);
        refused(&place, &["generate", "nowhere", "--messages", file], &[wanted]);
    }
    refused(&place, &["generate", "model", "--messages", "tools.json"], &[hint]);
    place.write("good.json", said(""));
    refused(&place, &["generate", "model", "--messages", "good.json"], &["model has no chat template"]);
    // A template without an end.
    place.write(
        "model/chat_template.jinja",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    );
    let parts = ["model/chat_template.jinja:1: the chat template cannot be used: it takes more than 201002 steps"];
    refused(&place, &["generate", "model", "--messages", "good.json"], &parts);
    place.write("model/chat_template.jinja", "{{ messages[0].content }}");
    place.write("latin", b"caf\xe9\n");
    let mut command = place.command(&["generate", "model", "--chat"]);
    let output = command.stdin(fs::File::open(place.path("latin")).unwrap()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: standard input: what was said is not UTF-8 text\n  hint: "), "{stderr}");
}

/// What a run left, damaged; and pages that have no place.
#[test]
fn reports() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let whole = place.read_text("run/summary.json");
    place.write("run/summary.json", &whole[..whole.len() / 2]);
    let lines = whole[..whole.len() / 2].lines().count();
    refused(
        &place,
        &["report", "run"],
        &[
            &format!("error: run/summary.json:{lines}:"),
            "this is not what a run writes: EOF while parsing",
            "hint: docs/metrics.md",
        ],
    );
    refused(&place, &["report", "run", "run"], &["run/summary.json:"]);
    place.write("run/summary.json", whole);
    for (out, wanted) in [
        ("nowhere/page.html", "nowhere/page.html cannot be written: there is no folder nowhere"),
        ("run", "run cannot be written: it is a folder"),
        ("text.txt/page.html", "text.txt/page.html cannot be written: not a directory"),
    ] {
        refused(&place, &["report", "run", "run", "--out", out], &[wanted]);
        refused(&place, &["doctor", "--machine", out], &[wanted]);
    }
}

#[test]
fn resuming() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let used = ["the output folder run has something in it", "hint: continue the run in it with --resume run\n"];
    refused(&place, &["train", "tiny.toml", "--out", "run"], &used);
    // Settings that the checkpoint cannot go on with; `run.toml` keeps those that it can.
    let cases: [(&str, &[&str]); 4] = [
        ("batch.rows=8", &["run/checkpoints/step-00000004", "another rows: 4 there, 8 now"]),
        ("seed=4", &["run/checkpoints/step-00000004", "another seed: 3 there, 4 now"]),
        ("model.hidden_size=32", &["a run that is resumed keeps its model and tokenizer", "--from run"]),
        ("tokenizer.vocab_size=290", &["a run that is resumed keeps its model and tokenizer", "--from run"]),
    ];
    for (set, parts) in cases {
        refused(&place, &["train", "--resume", "run", "--set", "steps=5", "--set", set], parts);
    }

    // A flipped bit in each checkpoint.
    for step in ["step-00000002", "step-00000004"] {
        let name = format!("run/checkpoints/{step}/model.safetensors");
        let mut file = place.read(&name);
        let middle = file.len() / 2;
        file[middle] ^= 1;
        place.write(&name, file);
    }
    let parts =
        ["run/checkpoints holds no checkpoint that can be resumed", "step-00000004/model.safetensors", "its hash is"];
    refused(&place, &["train", "--resume", "run", "--set", "steps=5"], &parts);
    let parts = ["run/checkpoints/step-00000004/model.safetensors", "has changed since it was written"];
    refused(&place, &["generate", "run/checkpoints/step-00000004"], &parts);
    refused(&place, &["eval", "run/checkpoints/step-00000004", "text.txt"], &parts);
    refused(&place, &["train", "tiny.toml", "--from", "run/checkpoints/step-00000004"], &parts);
    // Without its exported model, the run has none.
    fs::remove_dir_all(place.path("run/model")).unwrap();
    refused(&place, &["generate", "run"], &["run holds no model", "nor a sound checkpoint"]);
}

/// A model folder with drawn weights.
fn model(place: &Place, name: &str) {
    let documents = corpus::read_documents(&[place.path("text.txt")], "text").unwrap();
    let tokenizer = corpus::Tokenizer::train(&documents, 281).unwrap();
    let architecture = Architecture {
        family: Family::Llama,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        intermediate_size: 24,
        vocab_size: tokenizer.vocab_size(),
        max_position_embeddings: 16,
        norm_eps: 1e-5,
        positions: Positions::rotary(Rope { theta: 1e4, scaling: RopeScaling::None }),
        sliding: None,
        query_pre_attn_scalar: 8.0,
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id: vec![tokenizer.end_of_text()],
        pad_token_id: None,
    };
    let json = tokenizer.to_json().as_bytes();
    let export = checkpoint::Export {
        architecture: &architecture,
        tokenizer: Some(json),
        companions: &[],
        dtype: checkpoint::Dtype::F32,
        shard_bytes: None,
    };
    checkpoint::write_folder(&place.path(name), &export, |weight| Ok(model::draw(&architecture, weight, 7))).unwrap();
}

/// A copy of the folder `model`.
fn copy(place: &Place, name: &str) {
    fs::create_dir(place.path(name)).unwrap();
    for entry in fs::read_dir(place.path("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.path(name).join(path.file_name().unwrap())).unwrap();
    }
}

/// A copy of the folder `model` with fields of its `config.json` replaced.
fn config(place: &Place, name: &str, fields: Value) {
    copy(place, name);
    let file = format!("{name}/config.json");
    let mut config = place.read_json(&file);
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    place.write(&file, config.to_string());
}

#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A copy of the folder `model` with other tensors in its weight file.
fn weights(place: &Place, name: &str, change: impl Fn(&mut Vec<Tensor>)) {
    bytes(place, name, |file| {
        let tensors = SafeTensors::deserialize(file).unwrap();
        let tensor = |(name, view): (String, TensorView)| Tensor {
            name,
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let mut tensors = tensors.tensors().into_iter().map(tensor).collect();
        change(&mut tensors);
        let views = tensors.iter().map(|tensor| {
            (tensor.name.clone(), TensorView::new(Dtype::F32, tensor.shape.clone(), &tensor.bytes).unwrap())
        });
        *file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    });
}

/// A copy of the folder `model` with other bytes in its weight file.
fn bytes(place: &Place, name: &str, change: impl Fn(&mut Vec<u8>)) {
    copy(place, name);
    let file = format!("{name}/model.safetensors");
    let mut bytes = place.read(&file);
    change(&mut bytes);
    place.write(&file, bytes);
}
