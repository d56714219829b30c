//! A part with packed matrices against the same part without.

use architecture::{Weight, from_config_json};
use burn::tensor::Device;
use kernels::HEAD_CHUNK;
use ledger::Ledger;
use model::{Output, Part, Rows, Tape};
use packed::{Format, PackError};
use simulate::Category;

#[global_allocator]
static LEDGER: Ledger = Ledger;

/// Over two whole chunks and a piece of one, in one row: the same log-probabilities, from logits of a chunk.
#[test]
fn log_probabilities_come_in_chunks() {
    let (n, width, vocabulary) = (2 * HEAD_CHUNK + 7, 32, 1031);
    let config = format!(
        r#"{{"model_type": "llama", "hidden_size": {width}, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "intermediate_size": 48, "vocab_size": {vocabulary},
            "max_position_embeddings": {n}}}"#
    );
    let architecture = from_config_json(&config).unwrap();
    // Far larger than training begins with, so that log-probabilities of different tokens differ.
    let weights = |weight: &Weight| -> Result<Vec<f32>, PackError> {
        let drawn = model::draw(&architecture, weight, 5);
        Ok(if weight.shape.len() == 2 { drawn.iter().map(|x| 25.0 * x).collect() } else { drawn })
    };
    let plain = Part::new(&architecture, &architecture.blocks(), &Device::flex(), weights).unwrap();
    let packed = Part::packed(&architecture, Format::F32, weights).unwrap();
    let ids: Vec<i32> = (0..n).map(|i| (i * i * 31 % vocabulary) as i32).collect();
    let targets = (0..n).map(|i| (i * 7919 % vocabulary) as i32).collect();
    let rows = Rows { targets, ..Rows::to_read(ids, n) };
    let of = |part: &Part| -> Vec<f32> {
        let output = part.forward(&rows, None, &mut Tape::Untracked);
        let Output::LogProbability(y) = output else { panic!("a whole model") };
        y.into_data().try_to_vec().unwrap()
    };

    let wanted = of(&plain);
    let found = {
        let _scope = ledger::scope(0, Category::Activations);
        of(&packed)
    };
    let logit_bytes = ledger::take_peak(0)[Category::Logits as usize] as usize;
    let [least, most] = [f32::min, f32::max].map(|of| wanted.iter().copied().reduce(of).unwrap());
    assert!(most - least > 5.0, "from {least} to {most}: tokens can be told apart");
    // Of f32 up to 20, of sums in another order through a layer.
    let error = wanted.iter().zip(&found).fold(0.0f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(found.len() == n && error < 2e-5, "{} log-probabilities, off by {error}", found.len());
    // Beside the logits the chunk's input, and some numbers of each token.
    let chunk = HEAD_CHUNK * vocabulary * 4;
    let allowed = chunk..=chunk + 2 * HEAD_CHUNK * width * 4 + 32 * n;
    assert!(allowed.contains(&logit_bytes), "{logit_bytes} bytes of logits, allowed {allowed:?}");
}
