//! Continuations and losses in ids: against transformers (`fixtures/make_fixtures.py`), and against themselves.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Role, Weight};
use burn::tensor::Device;
use corpus::{Borders, Packing, Tokens};
use packed::{Format, Matrix};
use safetensors::SafeTensors;
use serde::Deserialize;
use serve::{GeneratedIds, Generator, Sampler, Sampling, ServeError, Stop};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures")
}

fn open(name: &str) -> Generator {
    Generator::open(&folders().join("llama").join(name), &Device::flex()).unwrap()
}

fn greedy() -> Sampler {
    Sampler::new(Sampling::GREEDY).unwrap()
}

#[derive(Deserialize)]
struct Greedy {
    folder: String,
    prompt: Vec<u32>,
    tokens_max: usize,
    ids: Vec<u32>,
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let cases: Vec<Greedy> = serde_json::from_str(include_str!("fixtures/greedy.json")).unwrap();
    let mut ended = 0;
    for Greedy { folder, prompt, tokens_max, ids } in cases {
        let mut seen = Vec::new();
        let found = open(&folder).generate_ids(&prompt, tokens_max, &greedy(), |id| seen.push(id)).unwrap();
        let reason = match ids.len() < tokens_max {
            true => Stop::EndOfText(*ids.last().unwrap()),
            false => Stop::TokensMax,
        };
        ended += usize::from(reason != Stop::TokensMax);
        assert_eq!(seen, ids, "{folder}");
        assert_eq!(found, GeneratedIds { ids, reason }, "{folder}");
    }
    assert_eq!(ended, 3, "three of the cases meet an end token");
}

/// 64 tokens of every family, with windows shorter than the text; transformers drew them with its cache
/// (`crates/model/tests/fixtures/make_families.py`).
#[test]
fn all_families_continue_as_in_transformers() {
    let mut n_folders = 0;
    for entry in std::fs::read_dir(folders().join("families")).unwrap() {
        let folder = entry.unwrap().path();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let tensor = expected.tensor(name).unwrap();
            tensor.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
        };
        let plain = Generator::open(&folder, &Device::flex()).unwrap();
        let packed = Generator::open_packed(&folder, Format::F32).unwrap();
        for generator in [&plain, &packed] {
            let found = generator.generate_ids(&ids("prompt"), 64, &greedy(), |_| ()).unwrap();
            assert_eq!(found, GeneratedIds { ids: ids("greedy"), reason: Stop::TokensMax }, "{}", folder.display());
        }
        n_folders += 1;
    }
    assert_eq!(n_folders, 15);
}

/// Models as wide as a few blocks: a head of its own and a tied one, windows, and GPT-2's turned matrices.
fn wide() -> [Architecture; 3] {
    let llama = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
        "vocab_size": 259, "max_position_embeddings": 64, "tie_word_embeddings": false}"#;
    let mistral =
        llama.replace("llama", "mistral").replace("Llama", "Mistral").replace("false", r#"true, "sliding_window": 7"#);
    let gpt2 = r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 96, "n_layer": 2, "n_head": 3,
        "n_inner": 160, "vocab_size": 131, "n_positions": 64}"#;
    [llama, &mistral, gpt2].map(|config| architecture::from_config_json(config).unwrap())
}

/// A model with packed matrices gives the logits of the plain model whose matrices are the values that these stand for:
/// all prompt tokens at once (products in tiles), and the next ones one by one (products row by row).
#[test]
fn packed_models_compute_with_the_values_of_their_blocks() {
    for architecture in wide() {
        let ids: Vec<u32> = (0..23).map(|i| i * 7 % architecture.vocab_size as u32).collect();
        for format in Format::ALL {
            let name = format!("{} {format}", architecture.family);
            // Larger than training begins with, so that logits differ.
            let drawn = |weight: &Weight| -> Result<Vec<f32>, ServeError> {
                let values = model::draw(&architecture, weight, 5);
                Ok(if weight.shape.len() == 2 { values.iter().map(|x| 5.0 * x).collect() } else { values })
            };
            let rounded = |weight: &Weight| drawn(weight).map(|values| through(format, weight, values));
            let plain = Generator::new(&architecture, None, &Device::flex(), rounded).unwrap();
            let packed = Generator::packed(&architecture, None, format, drawn).unwrap();
            let (wanted, found) = (plain.logits(&ids).unwrap(), packed.logits(&ids).unwrap());
            let largest = wanted.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            assert!(largest > 1.0, "{name}: logits up to {largest} tell something");
            // f32 sums in another order, through two layers.
            let error = wanted.iter().zip(&found).fold(0.0f32, |max, (a, b)| max.max((a - b).abs()));
            assert!(error <= 1e-5 * largest, "{name}: logits differ by {error} of {largest}");
            let [wanted, found] =
                [&plain, &packed].map(|model| model.generate_ids(&ids, 30, &greedy(), |_| ()).unwrap());
            assert_eq!(found, wanted, "{name}");
        }
    }
}

/// Rows of the smallest models are no whole blocks.
#[test]
fn models_that_do_not_divide_into_blocks_are_refused() {
    let error = Generator::open_packed(&folders().join("llama/tied"), Format::Q8).unwrap_err();
    let wanted = "but q8 packs 32 at a time; take f16 or bf16, which have no blocks";
    assert!(error.to_string().contains(wanted), "{error}");
}

/// What is left of a weight once its matrix was packed.
fn through(format: Format, weight: &Weight, values: Vec<f32>) -> Vec<f32> {
    let turned = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
    };
    let &[rows, columns] = &weight.shape[..] else { return values };
    let is_turned = weight.role == Role::TransposedMatrix;
    if weight.name.contains("wpe") {
        return values;
    }
    let (values, dims) =
        if is_turned { (turned(&values, rows, columns), [columns, rows]) } else { (values, [rows, columns]) };
    let matrix = Matrix::pack(format, &weight.name, dims, values).unwrap();
    let mut unpacked = vec![0.0; rows * columns];
    unpacked.chunks_mut(dims[1]).enumerate().for_each(|(i, row)| matrix.unpack_row(i, row));
    if is_turned { turned(&unpacked, columns, rows) } else { unpacked }
}

/// Drawn through the cache, a continuation is the one drawn from the logits of everything read anew for each token.
#[test]
fn the_cache_changes_nothing() {
    for name in ["tied", "biases", "llama3", "three_layers", "older_config", "sharded", "bf16", "f16_sharded_tied"] {
        let generator = open(name);
        let vocab_size = generator.architecture().vocab_size;
        let sampler =
            Sampler::new(Sampling { temperature: 1.0, top_k: Some(20), top_p: Some(0.9), seed: 5, ..Sampling::GREEDY })
                .unwrap();
        let mut text = vec![3, 1, 4];
        let found = generator.generate_ids(&text, 30, &sampler, |_| ()).unwrap();
        for (n, &id) in found.ids.iter().enumerate() {
            let logits = generator.logits(&text).unwrap();
            assert_eq!(logits.len(), text.len() * vocab_size);
            // Rounding differs by 1e-6: a draw would fall on the other side of a border once in 10,000 continuations.
            assert_eq!(
                sampler.draw(&logits[(text.len() - 1) * vocab_size..], &text, n as u64),
                id,
                "{name}, token {n}"
            );
            text.push(id);
        }
        assert_eq!(generator.generate_ids(&[3, 1, 4], 30, &sampler, |_| ()).unwrap(), found, "{name}: again");
    }
}

#[test]
fn a_continuation_ends_where_the_model_does() {
    let generator = open("three_layers");
    let most = generator.architecture().max_position_embeddings;
    for (prompt, tokens_max, n, reason) in [
        (most - 5, 100, 5, Stop::PositionsMax),
        (most - 5, 5, 5, Stop::TokensMax),
        (most, 100, 0, Stop::PositionsMax),
        (1, 0, 0, Stop::TokensMax),
    ] {
        let found = generator.generate_ids(&vec![7; prompt], tokens_max, &greedy(), |_| ()).unwrap();
        assert_eq!((found.ids.len(), found.reason), (n, reason), "prompt of {prompt}, {tokens_max} asked for");
    }
}

#[test]
fn ids_that_cannot_be_read_are_refused() {
    let generator = open("three_layers");
    let most = generator.architecture().max_position_embeddings;
    let check = |ids: &[u32], wanted: fn(&ServeError) -> bool| {
        let error = generator.generate_ids(ids, 3, &greedy(), |_| ()).unwrap_err();
        assert!(wanted(&error), "{error}");
        let error = generator.logits(ids).unwrap_err();
        assert!(wanted(&error), "{error}");
    };
    check(&[], |error| matches!(error, ServeError::NoIds));
    check(&[1, 43], |error| matches!(error, ServeError::UnknownToken { id: 43, vocab_size: 43 }));
    check(&vec![1; most + 1], |error| matches!(error, ServeError::TooLong { found: 257, most: 256 }));

    let evaluate = |ids: Vec<u32>, sequence_length| {
        let tokens = Arc::new(Tokens::from_documents(&[(ids, 1)]));
        generator.evaluate_tokens(tokens, Packing { sequence_length, borders: Borders::Joined }).unwrap_err()
    };
    assert!(matches!(evaluate(vec![1, 43], 5), ServeError::UnknownToken { id: 43, vocab_size: 43 }));
    assert!(matches!(evaluate(vec![1], most + 1), ServeError::TooLong { found: 257, most: 256 }));
    assert!(matches!(evaluate(vec![1], 0), ServeError::Corpus(_)));
    assert!(matches!(
        generator.evaluate(&["x"], Packing { sequence_length: 5, borders: Borders::Joined }),
        Err(ServeError::NoTokenizer)
    ));
    assert!(matches!(Generator::open(Path::new("no such folder"), &Device::flex()), Err(ServeError::Checkpoint(_))));
}

#[derive(Deserialize)]
struct Evaluated {
    folder: String,
    documents: Vec<Vec<u32>>,
    sequence_length: usize,
    nats: f64,
}

#[test]
fn losses_are_those_of_transformers() {
    let cases: Vec<Evaluated> = serde_json::from_str(include_str!("fixtures/evaluation.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for Evaluated { folder, documents, sequence_length, nats } in cases {
        let documents: Vec<(Vec<u32>, u64)> = documents.into_iter().map(|ids| (ids, 29)).collect(); // bytes: any
        let tokens = Arc::new(Tokens::from_documents(&documents));
        let n_tokens = tokens.len() as u64;
        let packing = Packing { sequence_length, borders: Borders::Joined };
        let found = open(&folder).evaluate_tokens(tokens, packing).unwrap();
        assert_eq!((found.n_tokens, found.n_bytes), (n_tokens, 29 * documents.len() as u64), "{folder}");
        // Logits agree to 1e-4 and mostly to 1e-6; errors of at most 23 tokens add up.
        assert!((found.nats - nats).abs() < 1e-3, "{folder}: {}, not {nats}", found.nats);
    }
}
