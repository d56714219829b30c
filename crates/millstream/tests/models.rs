//! What is done with a trained model: converted, measured, made to write; and what the program says about itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;

/// A place with a run, trained for a few steps.
fn trained() -> Place {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    place
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let text = place.succeed(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text}"))
}

fn refused(place: &Place, arguments: &[&str], part: &str) {
    let before = place.files("");
    let output = place.run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(stderr.contains(part), "{arguments:?}: no {part:?} in {stderr}");
    assert!(place.files("") == before, "{arguments:?} left something");
}

#[test]
fn models_are_converted() {
    let place = trained();
    let said = place.succeed(&["convert", "run", "half", "--dtype", "bf16", "--shard-size", "4kB"]);
    assert!(said.starts_with("half: ") && said.contains(" as bf16 in ") && said.ends_with("rounded to the nearest\n"));
    let files = place.files("half");
    let n_shards = files.keys().filter(|path| path.extension().is_some_and(|end| end == "safetensors")).count();
    let index = place.read_json("half/model.safetensors.index.json");
    assert_eq!(index["metadata"]["total_size"], 2 * index["metadata"]["total_parameters"].as_u64().unwrap());
    assert!(n_shards > 3, "{n_shards} files");
    let said = place.succeed(&["convert", "half", "whole", "--dtype", "f32", "--head", "untied"]);
    assert!(said.contains(" in 1 file, ") && said.ends_with("every value is exact\n"), "{said}");
    // Values are the same, so is what they say.
    let text = ["text.txt"];
    let [half, whole] = ["half", "whole"].map(|folder| place.succeed(&[&["eval", folder][..], &text].concat()));
    assert_eq!(half, whole);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(place.read(&format!("run/model/{name}")), place.read(&format!("whole/{name}")), "{name}");
    }
    refused(&place, &["convert", "run", "half"], "half");
    refused(&place, &["convert", "nowhere", "out"], "there is no folder nowhere");
    refused(&place, &["convert", "run", "out", "--shard-size", "2"], "--shard-size is \"2\"");
    refused(&place, &["convert", "run", "out", "--head", "tied"], "keep the head untied");
    refused(&place, &["convert", "run", "text.txt/out"], "text.txt/out");
    refused(&place, &["convert", "run", "out", "--dtype", "q8"], "write a GGUF file: --to gguf");
    refused(&place, &["convert", "run", "out", "--to", "gguf", "--head", "untied"], "--head are for folders");
    let said = place.succeed(&["convert", "run", "model.gguf", "--to", "gguf", "--dtype", "f16"]);
    assert!(said.contains("matrices as f16"), "{said}");
    refused(&place, &["convert", "run", "model.gguf", "--to", "gguf"], "`model.gguf` exists");
}

#[test]
fn texts_are_measured_each_and_together() {
    let place = trained();
    // Lines are documents: twelve, and three.
    let lines = |n: usize| -> String {
        (0..n)
            .map(|i| format!("{{\"text\": \"The mill turns {} when water runs.\"}}\n", "over ".repeat(i % 5)))
            .collect()
    };
    place.write("a.jsonl", lines(12));
    place.write("b.jsonl", lines(3));
    let found = json(&place, &["eval", "run", "a.jsonl", "b.jsonl", "--json"]);
    let (texts, all) = (found["texts"].as_array().unwrap(), &found["all"]);
    assert_eq!([&texts[0]["text"], &texts[1]["text"]], ["a.jsonl", "b.jsonl"]);
    for sum in ["documents", "tokens", "bytes"] {
        let of = |value: &Value| value[sum].as_u64().unwrap();
        assert_eq!(of(&texts[0]) + of(&texts[1]), of(all), "{sum}");
    }
    assert_eq!((&texts[0]["documents"], &texts[1]["documents"]), (&Value::from(12), &Value::from(3)));
    let figure = |value: &Value, key: &str| value[key].as_f64().unwrap();
    let nats = |value: &Value| figure(value, "loss") * figure(value, "tokens");
    // Sums of some hundred f64 numbers.
    assert!((nats(&texts[0]) + nats(&texts[1]) - nats(all)).abs() < 1e-9 * nats(all));
    assert!((figure(all, "perplexity") - figure(all, "loss").exp()).abs() < 1e-9);
    assert!(texts[1]["loss_95"].is_null(), "3 documents have no interval");
    for value in [&texts[0], all] {
        let bound = |n: usize| value["loss_95"][n].as_f64().unwrap();
        assert!(bound(0) < figure(value, "loss") && figure(value, "loss") < bound(1), "{value}");
    }
    // By itself, a text has the figures of its row.
    let alone = json(&place, &["eval", "run", "a.jsonl", "--json"]);
    assert_eq!(alone["texts"][0], texts[0]);
    let table = place.succeed(&["eval", "run", "a.jsonl", "b.jsonl"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert_eq!(lines[4], "documents isolated in a row, as in run/run.toml");
    assert!(
        lines[0].starts_with("text ") && lines[1].starts_with("a.jsonl ") && lines[3].starts_with("all "),
        "{table}"
    );
    assert!(lines[3].contains(&format!("{:.4}", figure(all, "loss"))), "{table}");
    let page = place.succeed(&["eval", "run", "a.jsonl"]);
    assert!(page.contains("nats per token  (95 % interval ") && page.contains("documents      12\n"), "{page}");

    // As the run validates, also when its text is gone; the model by itself says nothing of it.
    let isolated = figure(&alone["all"], "loss");
    let run_file = place.read_text("run/run.toml");
    let (has, other) = ("isolate_documents = true", "isolate_documents = false");
    assert!(run_file.contains(has), "{run_file}");
    fs::rename(place.path("text.txt"), place.path("gone.txt")).unwrap();
    fs::rename(place.path("run"), place.path("isolated")).unwrap();
    let of = |folder: &str| {
        let found = json(&place, &["eval", folder, "a.jsonl", "--json"]);
        (found["documents"].as_str().unwrap().to_owned(), figure(&found["all"], "loss"))
    };
    assert_eq!(of("isolated"), ("isolated".to_owned(), isolated));
    assert_eq!(of("isolated/model"), ("isolated".to_owned(), isolated));
    place.write("isolated/run.toml", run_file.replace(has, other));
    let (borders, joined) = of("isolated/model");
    assert!(borders == "joined" && joined != isolated, "{borders}: {joined} {isolated}");
    fs::rename(place.path("isolated/model"), place.path("alone")).unwrap();
    assert_eq!(of("alone"), ("joined".to_owned(), joined));
    let page = place.succeed(&["eval", "alone", "a.jsonl"]);
    assert!(
        page.ends_with("borders        documents joined in a row: there is no run.toml that says otherwise\n"),
        "{page}"
    );
    place.write("isolated/run.toml", run_file.replace(has, "isolate_documents = 7"));
    let wanted = "`data.isolate_documents` is 7, but must be true or false";
    refused(&place, &["eval", "isolated/checkpoints/step-00000004", "a.jsonl"], wanted);
}

#[test]
fn tokens_come_with_their_log_probabilities() {
    let place = trained();
    let arguments = ["generate", "run", "--prompt", "The ", "--tokens", "6", "--json", "--samples", "2"];
    let found = json(&place, &arguments);
    let ids = |value: &Value| -> Vec<u64> { value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect() };
    let prompt = ids(&found["prompt_ids"]);
    for (n, sample) in found["samples"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&sample["seed"], &sample["reason"]), (&Value::from(n), &Value::from("tokens_max")));
        let tokens = sample["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), 6);
        // The same model through another door: logits of the whole text at once.
        let drawn = ids(&tokens.iter().map(|token| token["id"].clone()).collect());
        let text: Vec<u64> = prompt.iter().chain(&drawn).copied().collect();
        place.write("ids.json", serde_json::to_string(&text).unwrap());
        place.succeed(&["eval", "run", "--tokens", "ids.json", "--logits", "logits.safetensors"]);
        let file = place.read("logits.safetensors");
        let file = SafeTensors::deserialize(&file).unwrap();
        let logits = file.tensor("logits").unwrap();
        let values: Vec<f64> =
            logits.data().chunks(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap()))).collect();
        let vocab = logits.shape()[1];
        for (i, token) in tokens.iter().enumerate() {
            let row = &values[(prompt.len() + i - 1) * vocab..][..vocab];
            let total = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            // f32 logits through the cache and at once: some units in the last place.
            let close = |id: usize, found: &Value| (row[id] - total - found.as_f64().unwrap()).abs() < 1e-4;
            assert!(close(drawn[i] as usize, &token["logprob"]), "{token}");
            let top = token["top"].as_array().unwrap();
            assert_eq!(top.len(), 5);
            let mut order: Vec<usize> = (0..vocab).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let alternatives = top.iter().map(|other| other["id"].as_u64().unwrap() as usize);
            // Of the twelfth and thirteenth likeliest, rounding may say otherwise; not of ones a thousandth apart.
            for (other, &wanted) in alternatives.zip(&order) {
                assert!((row[other] - row[wanted]).abs() < 1e-3, "{token}");
            }
            assert!(top.iter().all(|other| close(other["id"].as_u64().unwrap() as usize, &other["logprob"])));
        }
    }
    let text = |sample: &Value| format!("The {}\n", sample["text"].as_str().unwrap());
    let [first, second] = [0, 1].map(|n| text(&found["samples"][n]));
    let plain = ["generate", "run", "--prompt", "The ", "--tokens", "6"];
    assert_eq!(place.succeed(&[&plain[..], &["--seed", "1"]].concat()), second);
    let both = place.succeed(&[&plain[..], &["--samples", "2"]].concat());
    assert_eq!(both, format!("--- 1 of 2, seed 0\n{first}--- 2 of 2, seed 1\n{second}"));

    // What the text has is brought down so far that it does not come again.
    let arguments =
        ["generate", "run", "--tokens", "12", "--repetition-penalty", "1e9", "--temperature", "0", "--json"];
    let mut drawn = ids(&json(&place, &arguments)["samples"][0]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].clone())
        .collect());
    let n_drawn = drawn.len();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), n_drawn, "{drawn:?}");
    // Only the likeliest is as likely as the likeliest.
    let greedy = place.succeed(&[&plain[..], &["--temperature", "0"]].concat());
    assert_eq!(place.succeed(&[&plain[..], &["--min-p", "1"]].concat()), greedy);
    refused(&place, &["generate", "run", "--min-p", "1.5"], "min_p is 1.5, but it must lie between 0 and 1");
    refused(&place, &["generate", "run", "--repetition-penalty", "0"], "the repetition penalty is 0, but it must be");
    refused(&place, &["generate", "run", "--samples", "0"], "--samples");
}

/// A template of roles in brackets; the model is too small to say anything, but it is asked in the right words.
#[test]
fn conversations_take_the_models_own_form() {
    let place = trained();
    refused(&place, &["generate", "run", "--chat"], "run/model has no chat template");
    // The model reads 16 tokens.
    let template =
        "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}";
    place.write("run/model/chat_template.jinja", template);
    place.write("talk.json", r#"[{"role": "system", "content": "The"}, {"role": "user", "content": "turns"}]"#);
    let answer = ["generate", "run", "--messages", "talk.json", "--tokens", "2", "--temperature", "0"];
    let found = json(&place, &[&answer[..], &["--json"]].concat());
    assert_eq!(found["prompt"], "s The u turns a");
    let text = found["samples"][0]["text"].as_str().unwrap();
    assert_eq!(place.succeed(&answer), format!("{text}\n"));
    // The ids of the text: the template writes all that is special.
    let plain = json(&place, &["generate", "run", "--prompt", "s The u turns a", "--tokens", "1", "--json"]);
    assert_eq!(found["prompt_ids"], plain["prompt_ids"]);

    // Line by line; anew, the same is answered to the same.
    place.write("said.txt", "turns\n\n/new\nturns\n/exit\nnever read\n");
    let mut command =
        place.command(&["generate", "run", "--chat", "--system", "The", "--tokens", "2", "--temperature", "0"]);
    let output = command.stdin(fs::File::open(place.path("said.txt")).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n{text}\n"));
    assert!(output.status.success());
    place.write("bad.json", "{\"role\": \"user\"}");
    refused(&place, &["generate", "run", "--messages", "bad.json"], "hint: write a JSON list such as");
    place.write("none.json", "[]");
    refused(&place, &["generate", "run", "--messages", "none.json"], "none.json: there are no messages");
    refused(&place, &["generate", "run", "--messages", "nowhere.json"], "nowhere.json: No such file");
    refused(&place, &["generate", "run", "--chat", "--json"], "cannot be used with");
}

/// The library that reads it panics; the user gets an error.
#[test]
fn damaged_tokenizers_are_refused_in_words() {
    let place = trained();
    let finds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/finds/tokenizer");
    for find in ["decoder_that_is_not_json", "template_without_its_token", "map_longer_than_its_file"] {
        fs::copy(finds.join(find), place.path("run/model/tokenizer.json")).unwrap();
        refused(&place, &["generate", "run"], "error: run/model/tokenizer.json ");
        let output = place.run(&["generate", "run"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn the_program_describes_itself() {
    let place = Place::new();
    let commands = [
        "train",
        "convert",
        "generate",
        "eval",
        "layout",
        "schedules",
        "simulate",
        "report",
        "bench",
        "completions",
        "man",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.succeed(&["completions", shell]);
        for command in commands {
            assert!(script.contains(command), "{shell}: no {command}");
        }
        assert!(script.contains("shard-size"), "{shell}: no options");
    }
    refused(&place, &["completions", "tcsh"], "tcsh");
    let page = place.succeed(&["man"]);
    assert!(page.contains(".TH millstream 1") && page.contains("millstream\\-convert(1)"), "{page}");
    place.succeed(&["man", "--out", "man1"]);
    for command in commands {
        let page = place.read_text(&format!("man1/millstream-{command}.1"));
        assert!(
            page.contains(&format!(".TH millstream\\-{command} 1"))
                || page.contains(&format!(".TH millstream-{command} 1")),
            "{page}"
        );
    }
    assert!(place.read_text("man1/millstream-generate.1").contains("repetition"));
    // Commands within commands have pages too.
    for (task, option) in [("train", "vocab"), ("encode", "document"), ("decode", "json"), ("inspect", "field")] {
        let page = place.read_text(&format!("man1/millstream-tokenizer-{task}.1"));
        assert!(page.contains(option) && page.contains(&format!(".TH millstream-tokenizer-{task} 1")), "{page}");
    }
    assert_eq!(
        fs::read_dir(place.path("man1")).unwrap().filter(|page| page.is_ok()).count(),
        place.files("man1").len()
    );
}

#[test]
fn the_machine_is_measured_at_a_models_shape() {
    let place = Place::new();
    let shape = [
        "--d",
        "24",
        "--layers",
        "2",
        "--heads",
        "3",
        "--kv-heads",
        "1",
        "--ff",
        "40",
        "--vocab",
        "101",
        "--seq",
        "14",
        "--batch",
        "2",
        "--steps",
        "3",
        "--threads",
        "2",
    ];
    let found = json(&place, &[&["bench", "--json"][..], &shape].concat());
    // Queries, keys, values and output of 24, 8, 8 and 24 rows, an MLP of three matrices, and the head.
    let matrices = 2 * (24 * 24 + 2 * 8 * 24 + 24 * 24 + 3 * 24 * 40) + 101 * 24;
    let figure = |part: &str, key: &str| found[part][key].as_f64().unwrap();
    assert_eq!(figure("training", "flops_per_token"), f64::from(6 * matrices + 6 * 2 * 3 * 8 * 15));
    let weights = found["generation"]["weights"].as_array().unwrap();
    // Rows of 24 and 40 are no whole blocks.
    let formats: Vec<&str> = weights.iter().map(|speed| speed["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["f32", "f16", "bf16"]);
    for (speed, n_bytes) in weights.iter().zip([4, 2, 2]) {
        assert_eq!(speed["bytes_per_token"].as_f64().unwrap(), f64::from(n_bytes * matrices));
        for key in ["tokens_per_s", "bandwidth_share", "prompt_tokens_per_s", "prompt_share"] {
            assert!(speed[key].as_f64().unwrap() > 0.0, "{key} of {speed}");
        }
    }
    let (step_s, tokens_per_s) = (figure("training", "step_s"), figure("training", "tokens_per_s"));
    assert!((tokens_per_s * step_s - 28.0).abs() < 1e-6 && step_s > 0.0);
    assert_eq!(found["training"]["steps_s"].as_array().unwrap().len(), 2);
    let share = tokens_per_s * figure("training", "flops_per_token") * 1e-9 / figure("peak", "matmul_gflops");
    assert!((figure("training", "peak_share") / share - 1.0).abs() < 1e-9);
    let passes = found["training"]["passes"].as_object().unwrap().values().map(|s| s.as_f64().unwrap());
    let steps_s = found["training"]["steps_s"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap());
    let all_s: f64 = passes.sum();
    assert!(steps_s.into_iter().any(|s| (all_s / s - 1.0).abs() < 1e-9), "{all_s}: {found}");
    // What the kernels of a step compute, one by one, is what the step is counted by.
    let kernels = found["kernels"].as_array().unwrap();
    let flop = kernels.iter().filter_map(|kernel| Some(kernel["calls"].as_f64()? * kernel["work"]["flop"].as_f64()?));
    assert_eq!(flop.sum::<f64>(), 28.0 * figure("training", "flops_per_token"));
    assert!(kernels.iter().all(|kernel| kernel["limit_share"].as_f64().unwrap() > 0.0), "{found}");
    // Of a model that knows nothing yet.
    assert!((figure("training", "loss") - 101f64.ln()).abs() < 1.0, "{found}");

    assert_eq!((&found["threads"], &found["shape"]["kv_heads"]), (&Value::from(2), &Value::from(1)));
    refused(&place, &["bench", "--d", "10", "--heads", "3"], "--heads is 3, but must divide --d, which is 10");
    refused(&place, &["bench", "--heads", "8", "--kv-heads", "3"], "num_key_value_heads");
    refused(&place, &["bench", "--steps", "1"], "invalid value '1' for '--steps <N>': 1 is not in 2..=1000000");
    refused(&place, &["bench", "--threads", "0"], "0 is not in 1..=1024");
    refused(&place, &["bench", "--device", "gpu"], "a device is cpu, cuda:0, cuda:1 and so on");
    if !cfg!(feature = "cuda") {
        refused(&place, &["bench", "--device", "cuda:0"], "this build has no CUDA; build it with --features cuda");
    }
}
