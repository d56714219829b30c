//! `millstream plan` as its users meet it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use serde_json::{Value, json};

fn with_model(hidden: usize, layers: usize) -> Place {
    let place = Place::new();
    let config = json!({"model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 16, "intermediate_size": 4 * hidden, "vocab_size": 32000});
    place.write("model.json", config.to_string());
    place
}

fn plan<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["plan", "--model", "model.json", "--batch", "32", "--sequence", "2048"];
    arguments.extend(more);
    arguments
}

/// What the table, the JSON and other trainers' options say about one plan agrees.
#[test]
fn answers() {
    let place = with_model(2048, 16);
    let json: Value = serde_json::from_str(&place.succeed(&plan(&["--machine", "a100:1x4", "--json"]))).unwrap();
    let best = &json["plans"][0];
    let of = |key: &str| best[key].as_u64().unwrap();
    assert_eq!(of("pipeline") * of("data") * of("context") * of("tensor"), 4);
    assert_eq!(of("data") * of("microbatch_rows") * of("microbatches"), 32);
    let seconds = |key: &str| best[key].as_f64().unwrap();
    let parts = seconds("passes_s") + seconds("exchange_s") + seconds("optimizer_s");
    assert!((parts - seconds("step_s")).abs() < 1e-9 * parts);
    assert!((seconds("tokens_per_s") * seconds("step_s") - 32.0 * 2048.0).abs() < 1e-3);
    // Operations of the model over the step and the peak of four devices.
    let share = json["training_flops_per_token"].as_f64().unwrap() * seconds("tokens_per_s") / (4.0 * 312e12);
    assert!((share - seconds("peak_share")).abs() < 1e-9, "{share}");
    for rank in best["memory"].as_array().unwrap() {
        let parts = ["weights", "gradients", "optimizer", "activations", "logits", "buffers"];
        let sum: u64 = parts.iter().map(|part| rank[part].as_u64().unwrap()).sum();
        assert_eq!(rank["peak_bytes"].as_u64().unwrap(), sum);
        assert!(sum <= rank["usable_bytes"].as_u64().unwrap());
    }
    let page = place.succeed(&plan(&["--machine", "a100:1x4", "--pipeline", "2", "--data", "2"]));
    assert!(page.contains("pipeline 2 x data 2") && page.contains("rank 1 │"), "{page}");
    let options = place.succeed(&plan(&["--machine", "a100:1x4", "--pipeline", "4", "--emit", "megatron"]));
    assert!(options.contains("--pipeline-model-parallel-size 4\n--micro-batch-size "), "{options}");
    let layout = options.split("--pipeline-model-parallel-layout '").nth(1).unwrap().split('\'').next().unwrap();
    assert!(layout.starts_with('E') && layout.ends_with('L') && layout.matches('|').count() % 4 == 3, "{layout}");
    let toml = place.succeed(&plan(&["--machine", "a100:1x4", "--emit", "torchtitan"]));
    assert!(toml.contains("pipeline_parallel_degree = "), "{toml}");
}

/// Two clusters of other cards, one of them in two places of the file: gathered, and every rank says where it is.
#[test]
fn clusters_of_a_file() {
    let place = with_model(2048, 24);
    let group = |name: &str, cluster: &str, count: usize, kind: &str| {
        format!(
            "[[nodes]]\nname = \"{name}\"\ncluster = \"{cluster}\"\ncount = {count}\ndevices = 8\npreset = \"a100\"\n\
             [[nodes.nics]]\nkind = \"{kind}\"\ncount = 4\ngbytes_per_s = 20\n\
             [[nodes.nics]]\nkind = \"ethernet\"\ncount = 1\ngbytes_per_s = 2.5\n"
        )
    };
    let parts =
        [group("old", "a", 1, "infiniband"), group("other", "b", 2, "roce"), group("new", "a", 3, "infiniband")];
    let answer = |order: [usize; 3]| -> (Value, String) {
        place.write("machine.toml", order.map(|i| parts[i].as_str()).concat());
        let given =
            ["plan", "--model", "model.json", "--batch", "96", "--sequence", "1024", "--machine", "machine.toml"];
        let json = place.succeed(&[&given[..], &["--json"]].concat());
        (serde_json::from_str(&json).unwrap(), place.succeed(&given))
    };
    let (scattered, page) = answer([0, 1, 2]);
    let (gathered, _) = answer([0, 2, 1]);
    let best = |json: &Value| json["plans"][0].clone();
    assert_eq!(best(&scattered)["step_s"], best(&gathered)["step_s"]);
    assert!(best(&scattered)["nodes"].is_array());
    assert!(page.contains("nodes in this order, not that of the file: "), "{page}");
    let ranks = best(&scattered)["ranks"].as_array().unwrap().clone();
    assert_eq!(ranks.len(), best(&scattered)["pipeline"].as_u64().unwrap() as usize);
    let layers = ranks.iter().flat_map(|rank| rank["layers"].as_array().unwrap());
    assert!((layers.map(|n| n.as_f64().unwrap()).sum::<f64>() - 24.0).abs() < 1e-9);
    for rank in &ranks {
        let clusters: Vec<&str> =
            rank["devices"].as_array().unwrap().iter().map(|part| part["cluster"].as_str().unwrap()).collect();
        assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "{rank}");
        assert_ne!(rank["gradients_over"], "Ethernet", "{rank}");
    }
    for name in ["old node 0", "other node", "new node"] {
        assert!(page.contains(name), "{page}");
    }
    println!("{page}");
}

/// When nothing fits it says by how much, and what would do; the way out is one.
#[test]
fn nothing_fits() {
    let place = with_model(8192, 24);
    let output = place.run(&plan(&["--machine", "a100:1x2"]));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("nothing fits") && stderr.contains("GB more on its fullest rank"), "{stderr}");
    let times = stderr.split("hint: ").find(|hint| hint.contains("times as many nodes")).unwrap();
    let times: usize = times.split(' ').next().unwrap().parse().unwrap();
    let enough = format!("a100:{times}x2");
    place.succeed(&plan(&["--machine", &enough]));
    let fewer = format!("a100:{}x2", times / 2);
    assert_eq!(place.run(&plan(&["--machine", &fewer])).status.code(), Some(2));
}

/// A plan for this program is trained as it says; one that needs axes that training lacks is refused by their names.
#[test]
fn plans_are_trained() {
    let place = Place::new();
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24,
        "vocab_size": 281, "max_position_embeddings": 64, "rms_norm_eps": 1e-5});
    place.write("model.json", config.to_string());
    place.write("here.toml", "[[nodes]]\n[nodes.device]\nf32_tflops = 0.1\nmemory_gib = 4\nmemory_gbytes_per_s = 10\n");
    let wanted = ["--batch", "4", "--sequence", "16", "--machine", "here.toml", "--trainer", "millstream"];
    let mut arguments =
        vec!["plan", "--model", "model.json", "--pipeline", "3", "--schedule", "zb-h1", "--out", "plan.toml"];
    arguments.extend(wanted);
    let page = place.succeed(&arguments);
    assert!(page.contains("zb-h1") && page.contains("rank 2 │"), "{page}");
    place.succeed(&["train", "tiny.toml", "--plan", "plan.toml", "--out", "run"]);
    let resolved = place.read_text("run/run.toml");
    for line in ["stages = 3", "schedule = \"zb-h1\"", "rows = 4", "sequence_length = 16"] {
        assert!(resolved.contains(line), "{line}: {resolved}");
    }
    interleaved_plan_is_trained(&place);
    let divided = place.read_text("plan.toml").replace("data = 1", "data = 4").replace("tensor = 1", "tensor = 8");
    place.write("divided.toml", divided);
    let output = place.run(&["train", "tiny.toml", "--plan", "divided.toml", "--out", "other"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for axis in ["the data axis (4)", "the tensor axis (8)"] {
        assert!(stderr.contains(axis), "{stderr}");
    }
}

/// A plan for Megatron of two ranks alone, with more stages on a rank than a run file has by itself, and recomputation.
fn interleaved_plan_is_trained(place: &Place) {
    let config = json!({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 10,
        "num_attention_heads": 16, "intermediate_size": 16384, "vocab_size": 281});
    place.write("wide.json", config.to_string());
    let fixed = ["--pipeline", "2", "--schedule", "interleaved", "--recompute", "layers", "--microbatch", "1"];
    let asked = ["plan", "--model", "wide.json", "--machine", "a100:1x2", "--batch", "4", "--sequence", "16"];
    place.succeed(&[&asked[..], &fixed, &["--out", "interleaved.toml"]].concat());
    let set = "model.num_hidden_layers=10";
    place.succeed(&["train", "tiny.toml", "--set", set, "--plan", "interleaved.toml", "--out", "interleaved"]);
    let resolved = place.read_text("interleaved/run.toml");
    for line in [
        "stages = 6",
        "ranks = \"by schedule\"",
        "stages_per_rank = 3",
        "cut = [3, 4, 4, 4, 4, 3]",
        "schedule = \"interleaved\"",
        "backward = \"fused\"",
        "recompute = \"full\"",
        "microbatches = 4",
        "sequence_length = 16",
    ] {
        assert!(resolved.contains(line), "{line}: {resolved}");
    }
}

#[test]
fn refusals() {
    let place = with_model(2048, 16);
    place.write("empty.toml", "");
    place.write("mamba.json", json!({"model_type": "mamba"}).to_string());
    for (arguments, wanted) in [
        (plan(&["--machine", "b100:8"]), "give a file, or a preset with counts such as a100:4x8"),
        (plan(&["--machine", "empty.toml"]), "`nodes` is missing"),
        (
            plan(&["--machine", "a100:1x4", "--tensor", "3"]),
            "tensor 3 does not divide the 4 devices of a100:1x4; use one of 1, 2, 4",
        ),
        (plan(&["--machine", "a100:1x24", "--data", "3"]), "no arrangement of 24 devices with data 3"),
        (plan(&["--machine", "a100:1x24", "--data", "3"]), "32 rows do not divide over 3 replicas"),
        (
            plan(&["--machine", "a100:1x4", "--trainer", "torchtitan", "--emit", "megatron"]),
            "--emit megatron needs a plan for it, not --trainer torchtitan",
        ),
        (plan(&["--machine", "a100:1x4", "--schedule", "zb-v"]), "this trainer has 1f1b, interleaved"),
        (
            vec!["plan", "--model", "mamba.json", "--machine", "a100:4", "--batch", "1", "--sequence", "8"],
            "`model_type`: found \"mamba\"",
        ),
        (
            vec!["plan", "--model", "none.json", "--machine", "a100:4", "--batch", "1", "--sequence", "8"],
            "none.json: the model cannot be read",
        ),
        (
            vec!["plan", "--model", "model.json", "--machine", "a100:4", "--batch", "0", "--sequence", "8"],
            "--batch is 0",
        ),
    ] {
        let output = place.run(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
}

/// A machine fitted to a stored trace predicts its step, also of a run of this program; what is no trace is refused.
#[test]
fn machines_are_fitted() {
    let place = Place::new();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../plan/tests/fixtures");
    let steps: Value = serde_json::from_slice(&std::fs::read(format!("{fixtures}/torch_cuda.json")).unwrap()).unwrap();
    place.write("model.json", steps[0]["config"].to_string());
    let trace = format!("{fixtures}/torch_cuda.json.gz");
    let asked = ["plan", "--model", "model.json", "--batch", "4", "--sequence", "2048", "--trainer", "torchtitan"];
    let with = |more: &[&str]| place.succeed(&asked.iter().chain(more).copied().collect::<Vec<&str>>());
    let page = with(&["--machine", "h200:1", "--calibrate", &trace, "--machine-out", "fitted.toml"]);
    assert!(page.contains("products, backward") && page.contains("wrote fitted.toml"), "{page}");
    let more = ["--machine", "fitted.toml", "--microbatch", "4", "--recompute", "none", "--json"];
    let json: Value = serde_json::from_str(&with(&more)).unwrap();
    let (predicted, measured) = (json["plans"][0]["step_s"].as_f64().unwrap(), steps[0]["step_s"].as_f64().unwrap());
    // Shares are written with four digits.
    assert!((predicted / measured - 1.0).abs() < 0.01, "{predicted} {measured}");
    for (more, wanted) in [
        (vec!["--machine", "h200:1", "--calibrate", "model.json"], "there is no list `traceEvents`"),
        (vec!["--machine", "h200:1", "--calibrate", "none.json"], "the trace cannot be read"),
        (vec!["--machine", "h200:1", "--machine-out", "x.toml"], "--calibrate"),
    ] {
        let output = place.run(&asked.iter().copied().chain(more).collect::<Vec<&str>>());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(wanted), "{wanted}: {stderr}");
    }
}

/// Every predictor's plans are in the order of its own times.
#[test]
fn predictors() {
    let place = with_model(2048, 16);
    for (predictor, key) in [("simulator", "step_s"), ("pipette", "pipette_s"), ("amp", "amp_s")] {
        let text = place.succeed(&plan(&["--machine", "a100:2x4", "--predictor", predictor, "--json"]));
        let json: Value = serde_json::from_str(&text).unwrap();
        let plans = json["plans"].as_array().unwrap();
        let times: Vec<f64> = plans.iter().map(|plan| plan[key].as_f64().unwrap()).collect();
        assert!(!times.is_empty() && times.is_sorted(), "{predictor}: {times:?}");
        let is_known = |plan: &Value| predictor == "simulator" || plan["schedule"] == "1f1b";
        assert!(plans.iter().all(is_known), "{predictor}: {text}");
    }
}
