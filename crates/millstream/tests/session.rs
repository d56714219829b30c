//! Whole sessions: train, interrupt, resume, fine-tune, generate, evaluate.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use safetensors::{Dtype, SafeTensors};
use std::process::Stdio;
use std::time::{Duration, Instant};

const WEIGHTS: &str = "model/model.safetensors";

#[test]
fn a_run_leaves_its_folder() {
    let place = Place::new();
    let output = place.run(&["train", "tiny.toml", "--out", "run", "--set", "validation.every=3"]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");

    // Not on a terminal: plain lines, up to the sample, whose characters are the model's.
    let (progress, closing) = stdout.split_once("validation loss").unwrap();
    assert!(!progress.contains(['\r', '\u{1b}', '\u{8}']), "{progress:?}");
    for step in 1..=4 {
        assert_eq!(progress.matches(&format!("\nstep {step}/4  loss ")).count(), 1, "{progress}");
    }
    for line in
        ["\nvalidation after step 3: ", "\nvalidation after step 4: ", "\nsaved run/checkpoints/step-00000002\n"]
    {
        assert!(progress.contains(line), "{progress}");
    }
    assert!(!stdout.contains(" ,"), "{stdout}");
    for written in ["run/report.html", "run/model", "run/checkpoints", "run/metrics.jsonl", "run/trace.json"] {
        assert!(closing.contains(&format!("{written}\n")) && place.path(written).exists(), "{written}: {closing}");
    }

    let metrics = place.read_text("run/metrics.jsonl");
    let lines: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> =
        lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["step"].as_u64().unwrap())).collect();
    let expected = [("step", 1), ("step", 2), ("step", 3), ("validation", 3), ("blocks", 3), ("step", 4)];
    assert_eq!(kinds, [&expected[..], &[("validation", 4), ("blocks", 4)]].concat());
    // An untrained model guesses: the first loss is near that of 281 equally likely tokens.
    let first = lines[0]["loss"].as_f64().unwrap();
    assert!((first - 281f64.ln()).abs() < 0.1, "{first}");

    let page = place.read_text("run/report.html");
    for outside in ["<link", "<script src", "src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    assert!(page.contains("<svg") && page.trim_end().ends_with("</html>"));
    assert!(!place.read_json("run/trace.json")["traceEvents"].as_array().unwrap().is_empty());
    let timeline = place.read_json("run/timeline.json");
    assert!(timeline["predicted"].is_object() && timeline["measured"].is_object());
    assert_eq!(place.read_json("run/summary.json")["steps"], 4);

    // The run file as resolved is a run file; the same run again has the same bits.
    place.succeed(&["train", "run/run.toml", "--out", "again"]);
    assert_eq!(place.read(&format!("again/{WEIGHTS}")), place.read(&format!("run/{WEIGHTS}")));
    // Nothing to do is no failure, and nothing is changed.
    let before = place.files("run");
    assert_eq!(
        place.succeed(&["train", "--resume", "run"]),
        "run has done its 4 steps; to train on, add --set steps=N\n"
    );
    assert_eq!(place.files("run"), before);
}

#[test]
fn interrupt_and_resume() {
    let place = Place::new();
    // Far more steps than anyone waits for.
    let arguments = ["train", "tiny.toml", "--out", "run", "--set", "steps=1000000", "--set", "checkpoint.every=end"];
    let stdout = interrupted(&place, &arguments);
    let (before, message) = stdout.rsplit_once("\ninterrupted after step ").unwrap();
    let (done, way_on) = message.split_once("; ").unwrap();
    assert_eq!(way_on, "go on with: millstream train --resume run\n");
    let done: u64 = done.parse().unwrap();
    assert!(before.contains(&format!("\nsaved run/checkpoints/step-{done:08}\n")), "{before}");
    assert_eq!(place.read_json("run/summary.json")["steps"], done);
    assert!(!place.path("run/model").exists() && place.path("run/report.html").exists());
    // A run that was stopped can be used.
    assert!(place.succeed(&["generate", "run", "--prompt", "The ", "--tokens", "3"]).starts_with("The "));

    let steps = format!("steps={}", done + 3);
    let settings = ["--set", &steps, "--set", "checkpoint.every=end"];
    place.succeed(&[&["train", "tiny.toml", "--out", "whole"], &settings[..]].concat());
    let stdout = place.succeed(&[&["train", "--resume", "run"], &settings[..]].concat());
    assert!(stdout.contains(&format!("{} steps, from step {}\n", done + 3, done + 1)), "{stdout}");
    assert_eq!(place.read(&format!("run/{WEIGHTS}")), place.read(&format!("whole/{WEIGHTS}")));
    let last = format!("run/checkpoints/step-{:08}", done + 3);
    assert_eq!(place.read(&format!("{last}/model.safetensors")), place.read(&format!("whole/{WEIGHTS}")));

    // Every step is in the metrics once, in order.
    let metrics = place.read_text("run/metrics.jsonl");
    let values = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps: Vec<u64> =
        values.filter(|line| line["kind"] == "step").map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=done + 3).collect::<Vec<_>>());
}

/// What a training into `run` says that is stopped by Ctrl-C after a few steps.
fn interrupted(place: &Place, arguments: &[&str]) -> String {
    let length = || std::fs::read(place.path("run/metrics.jsonl")).map_or(0, |metrics| metrics.len());
    let (start, before) = (Instant::now(), length());
    let child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while length() < before + 1000 {
        assert!(start.elapsed() < Duration::from_secs(60), "no step was made");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id().try_into().unwrap(), libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run that has finished, is trained on and stopped: its model is that of the newest step, wherever that lies.
#[test]
fn interrupt_after_the_end() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let evaluated = |folder: &str| place.succeed(&["eval", folder, "text.txt"]);
    assert_eq!(evaluated("run"), evaluated("run/model"));
    // What a person puts there is theirs.
    place.write("run/model/notes.txt", "keep me");
    std::fs::create_dir(place.path("run/model/own")).unwrap();
    place.write("run/model/own/chart.csv", "1,2");

    let longer = ["train", "--resume", "run", "--set", "checkpoint.every=end"];
    let stdout = interrupted(&place, &[&longer[..], &["--set", "steps=1000000"]].concat());
    assert!(!stdout.contains("run/model\n"), "an old model is not what the run leaves: {stdout}");
    let done = place.read_json("run/summary.json")["steps"].as_u64().unwrap();
    assert_eq!(place.read_json("run/summary.json")["exported_step"], 4);
    let newest = format!("run/checkpoints/step-{done:08}");
    assert!(done > 4 && evaluated("run") == evaluated(&newest) && evaluated("run") != evaluated("run/model"));

    // Killed between two renamings; the checkpoint stands in.
    std::fs::rename(place.path("run/model"), place.path("run/.replaced-model")).unwrap();
    assert_eq!(evaluated("run"), evaluated(&newest));
    let steps = format!("steps={done}");
    let stdout = place.succeed(&[&longer[..], &["--set", &steps]].concat());
    assert!(stdout.contains("run/model\n"), "{stdout}");
    assert_eq!(place.read(&format!("run/{WEIGHTS}")), place.read(&format!("{newest}/model.safetensors")));
    assert_eq!(
        (place.read_text("run/model/notes.txt"), place.read_text("run/model/own/chart.csv")),
        ("keep me".into(), "1,2".into())
    );
    assert!(!place.path("run/.replaced-model").exists() && evaluated("run") == evaluated("run/model"));
}

/// What fails after the last step costs no more than itself, and is told.
#[test]
fn the_end_of_a_run_fails() {
    let place = Place::new();
    let prompt = format!("sample.prompt={}", "The mill turns. ".repeat(9));
    let before = place.files("");
    let output = place.run(&["train", "tiny.toml", "--out", "run", "--set", &prompt]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("tokens, and the model reads at most 16") && place.files("") == before, "{stderr}");

    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    // A file of a person's own that keeps the folder from being read.
    place.write("run/model/manifest.json", "{}");
    let output = place.run(&["train", "--resume", "run", "--set", "steps=6"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("no sample: ") && stderr.contains("manifest.json"), "{stderr}");
    let summary = place.read_json("run/summary.json");
    assert_eq!((&summary["status"], &summary["sample"]), (&"finished".into(), &serde_json::Value::Null));

    std::fs::remove_file(place.path("run/report.html")).unwrap();
    std::fs::create_dir(place.path("run/report.html")).unwrap();
    let output = place.run(&["train", "--resume", "run", "--set", "steps=7"]);
    assert_eq!(output.status.code(), Some(1));
    let failed = place.read_json("run/summary.json")["status"]["failed"].to_string();
    assert!(failed.contains("report.html"), "{failed}");
}

/// What the makers of a model have put beside its weights goes with it.
#[test]
fn fine_tuning_keeps_what_conversations_need() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run", "--set", "sample.tokens=0"]);
    let eos = place.read_json("run/model/config.json")["eos_token_id"].clone();
    let files = [
        ("chat_template.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}".to_owned()),
        ("tokenizer_config.json", r#"{"additional_special_tokens": ["<|im_end|>"], "extra": 1}"#.to_owned()),
        ("special_tokens_map.json", r#"{"additional_special_tokens": ["<|im_end|>"]}"#.to_owned()),
        ("generation_config.json", serde_json::json!({ "eos_token_id": [eos, 7], "top_k": 20 }).to_string()),
    ];
    for (name, content) in &files {
        place.write(&format!("run/model/{name}"), content);
    }
    let short = ["--set", "sample.tokens=0"];
    place.succeed(&[&["train", "tiny.toml", "--from", "run", "--out", "tuned"], &short[..]].concat());
    place.succeed(&["train", "--resume", "tuned", "--set", "steps=6"]);
    for folder in ["tuned/checkpoints/step-00000004", "tuned/checkpoints/step-00000006", "tuned/model"] {
        for (name, content) in &files {
            assert_eq!(&place.read_text(&format!("{folder}/{name}")), content, "{folder}");
        }
    }
    place.write("talk.json", r#"[{"role": "user", "content": "turns"}]"#);
    place.succeed(&["generate", "tuned", "--messages", "talk.json", "--tokens", "2"]);
}

/// Resuming a run that was killed: from the newest checkpoint that is whole, on another number of stages too.
#[test]
fn resume_after_damage() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "whole", "--set", "steps=6"]);
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    // The newest checkpoint has lost its moments, and the process died while it wrote a line.
    place.write("run/checkpoints/step-00000004/optimizer.safetensors", "");
    let metrics = place.read_text("run/metrics.jsonl") + "{\"kind\":\"st";
    place.write("run/metrics.jsonl", metrics);
    let stdout = place.succeed(&["train", "--resume", "run", "--set", "steps=6"]);
    assert!(stdout.contains("6 steps, from step 3\n"), "{stdout}");
    assert_eq!(place.read(&format!("run/{WEIGHTS}")), place.read(&format!("whole/{WEIGHTS}")));
    for line in place.read_text("run/metrics.jsonl").lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    let longer = |run: &str, stages: &str| {
        let stages = format!("pipeline.stages={stages}");
        let stdout = place.succeed(&["train", "--resume", run, "--set", "steps=7", "--set", &stages]);
        assert!(stdout.contains("step 7/7  loss "), "{stdout}");
        weights(&place.read(&format!("{run}/{WEIGHTS}")))
    };
    // A hundredth of the learning rate, which is what a step of AdamW moves a weight: sums in another order are nearer.
    let largest = longer("run", "1").iter().zip(longer("whole", "2")).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-4, "{largest}");
}

fn weights(file: &[u8]) -> Vec<f32> {
    let mut tensors = SafeTensors::deserialize(file).unwrap().tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    tensors.iter().flat_map(|(_, tensor)| floats(tensor.data())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn fine_tune_generate_and_evaluate() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run", "--set", "steps=60", "--set", "sample.tokens=0"]);

    // Fine-tuning starts from the model's weights: with a rate that moves nothing, it ends with them, too.
    for (from, out) in [("run/model", "tuned"), ("run", "tuned-again")] {
        let arguments = ["train", "tiny.toml", "--from", from, "--out", out, "--set", "optimizer.learning_rate=1e-30"];
        let rest = ["--set", "optimizer.minimum_learning_rate=0", "--set", "steps=1"];
        place.succeed(&[&arguments[..], &rest[..]].concat());
        for file in ["model.safetensors", "tokenizer.json", "config.json"] {
            let (tuned, source) =
                (place.read(&format!("{out}/model/{file}")), place.read(&format!("run/model/{file}")));
            assert!(tuned == source, "{out}: {file}");
        }
    }

    // The prompt comes first; the same seed draws the same, another one does not.
    let generate = |rest: &[&str]| place.succeed(&[&["generate", "run", "--prompt", "The mill"], rest].concat());
    let text = generate(&["--seed", "5"]);
    assert!(text.starts_with("The mill") && text.ends_with('\n') && text.len() > 20, "{text:?}");
    assert_eq!(generate(&["--seed", "5"]), text);
    assert_ne!(generate(&["--seed", "6"]), text);
    let greedy = generate(&["--temperature", "0", "--tokens", "30"]);
    let continuation = greedy.strip_prefix("The mill").unwrap().strip_suffix('\n').unwrap();
    let stop = continuation.trim_start().chars().nth(3).unwrap().to_string();
    let (kept, _) = continuation.split_once(&stop).unwrap();
    let stopped = generate(&["--temperature", "0", "--tokens", "30", "--stop", &stop]);
    assert_eq!(stopped, format!("The mill{kept}\n"), "stopped at {stop:?} in {continuation:?}");

    // A run, its model and its last checkpoint are the same model.
    let evaluated = place.succeed(&["eval", "run", "text.txt"]);
    for folder in ["run/model", "run/checkpoints/step-00000060"] {
        assert_eq!(place.succeed(&["eval", folder, "text.txt"]), evaluated, "{folder}");
    }
    let figure = |name: &str| -> f64 {
        let line = evaluated.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (loss, bytes) = (figure("loss"), figure("bytes"));
    assert_eq!(bytes, place.read("text.txt").len() as f64);
    // Printed with 4 and 2 decimals.
    assert!(
        (figure("bits per byte") - loss * figure("tokens") / bytes / std::f64::consts::LN_2).abs() < 2e-4,
        "{evaluated}"
    );
    assert!((figure("perplexity") / loss.exp() - 1.0).abs() < 1e-2 && loss < 281f64.ln(), "{evaluated}");

    // Logits of each token, whatever comes after it.
    let logits = |ids: &str| {
        place.write("ids.json", ids);
        place.succeed(&["eval", "run", "--tokens", "ids.json", "--logits", "logits.safetensors"]);
        let file = place.read("logits.safetensors");
        let tensors = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(tensors.names(), ["logits"]);
        let tensor = tensors.tensor("logits").unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        (tensor.shape().to_vec(), floats(tensor.data()))
    };
    let (shape, long) = logits("[1, 280, 7, 7, 30]");
    assert_eq!(shape, [5, 281]);
    let (shape, short) = logits("[1, 280, 7]");
    assert_eq!(shape, [3, 281]);
    // Logits are of order 1; products of other sizes may round otherwise in the seventh digit.
    let largest = short.iter().zip(&long).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-5, "{largest}");
}
