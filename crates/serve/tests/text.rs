//! Continuations in text, by models that recite: a token is always followed by the one that follows it in their script.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Family, Positions, Role, Rope, RopeScaling, Weight};
use burn::tensor::Device;
use checkpoint::{Dtype, Export, write_folder};
use corpus::{Borders, Document, Packing, Tokenizer};
use packed::Format;
use serve::{Generated, Generator, Options, Sampler, Sampling, ServeError, Stop};
use std::convert::Infallible;

/// No byte occurs twice, so that every byte has one successor.
const SCRIPT: &str = "The quick,brôwn-字↦x!";

/// Ids are bytes: `<|endoftext|>` and 256 tokens of one byte each.
fn bytes() -> Tokenizer {
    let document = Document { text: String::from("x") };
    let tokenizer = Tokenizer::train(&[document], 257).unwrap();
    assert_eq!(tokenizer.vocab_size(), 257);
    tokenizer
}

fn architecture(vocab_size: usize, eos_token_id: Vec<u32>) -> Architecture {
    Architecture {
        family: Family::Llama,
        hidden_size: vocab_size,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 2,
        intermediate_size: 3,
        vocab_size,
        max_position_embeddings: 64,
        norm_eps: 1e-6,
        positions: Positions::rotary(Rope { theta: 10_000.0, scaling: RopeScaling::None }),
        sliding: None,
        query_pre_attn_scalar: 2.0,
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id,
        pad_token_id: None,
    }
}

/// Token `i` is embedded as the `i`-th unit vector, the blocks add nothing, and the head has a 1 where a token follows.
/// The follower's logit is the root of the vocabulary size, at least 16; the others are 0.
fn weight(weight: &Weight, script: &[u32]) -> Vec<f32> {
    let mut values = vec![if weight.role == Role::Norm { 1.0 } else { 0.0 }; weight.n_elements()];
    match weight.name.as_str() {
        "model.embed_tokens.weight" => (0..weight.shape[0]).for_each(|i| values[i * weight.shape[1] + i] = 1.0),
        "lm_head.weight" => {
            script.windows(2).for_each(|pair| values[pair[1] as usize * weight.shape[1] + pair[0] as usize] = 1.0);
        }
        _ => (),
    }
    values
}

fn reciter(architecture: &Architecture, tokenizer: Tokenizer, script: &[u32]) -> Generator {
    let weights = |w: &Weight| Ok::<_, Infallible>(weight(w, script));
    Generator::new(architecture, Some(tokenizer), &Device::flex(), weights).unwrap()
}

/// The script from the start of a document to its end.
fn script(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let start = tokenizer.start_of_document();
    let ids: Vec<u32> =
        std::iter::once(start).chain(tokenizer.encode(text).unwrap()).chain([tokenizer.end_of_text()]).collect();
    let mut followed = ids[..ids.len() - 1].to_vec();
    followed.sort_unstable();
    followed.dedup();
    assert_eq!(followed.len() + 1, ids.len(), "no token is followed by two: {text}");
    ids
}

fn options(tokens_max: usize, stop: &[&str]) -> Options {
    let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
    Options { tokens_max, sampler: Sampler::new(Sampling::GREEDY).unwrap(), stop, alternatives: None }
}

/// Generates and checks that the pieces are whole and add up.
fn generate(generator: &Generator, prompt: &str, options: &Options) -> (Generated, Vec<String>) {
    let mut pieces: Vec<String> = Vec::new();
    let generated = generator.generate(prompt, options, |piece| pieces.push(piece.to_owned())).unwrap();
    assert_eq!(pieces.concat(), generated.text);
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    (generated, pieces)
}

#[test]
fn text_ends_at_stop_strings_across_tokens_at_the_end_and_at_the_most_tokens() {
    let tokenizer = bytes();
    let generator = reciter(&architecture(257, Vec::new()), tokenizer.clone(), &script(&tokenizer, SCRIPT));
    let n_bytes = SCRIPT.len();
    let stopped = |stop: &str| Stop::StopString(stop.to_owned());
    // Prompt, most tokens, stop strings; text, tokens, reason.
    type Case = (&'static str, usize, &'static [&'static str], &'static str, usize, Stop);
    let cases: [Case; 11] = [
        ("", 60, &[], SCRIPT, n_bytes + 1, Stop::EndOfText(0)),
        ("The", 60, &[], &SCRIPT[3..], n_bytes - 2, Stop::EndOfText(0)),
        ("", 5, &[], "The q", 5, Stop::TokensMax),
        ("", 60, &["quick"], "The ", 9, stopped("quick")),
        ("", 60, &["quiet", "ck,b"], "The qui", 11, stopped("ck,b")),
        ("", 60, &["quiet", "never"], SCRIPT, n_bytes + 1, Stop::EndOfText(0)),
        ("", 60, &["ô"], "The quick,br", 14, stopped("ô")),
        ("", 60, &["字↦"], "The quick,brôwn-", 23, stopped("字↦")),
        ("", 60, &["x!!", "!"], "The quick,brôwn-字↦x", n_bytes, stopped("!")),
        ("", 60, &["x!!"], SCRIPT, n_bytes + 1, Stop::EndOfText(0)),
        ("", 6, &["qux"], "The qu", 6, Stop::TokensMax),
    ];
    for (prompt, tokens_max, stop, text, n_tokens, reason) in cases {
        let wanted = Generated { text: text.to_owned(), n_tokens, tokens: Vec::new(), reason };
        assert_eq!(
            generate(&generator, prompt, &options(tokens_max, stop)).0,
            wanted,
            "{prompt:?} {tokens_max} {stop:?}"
        );
    }
}

#[test]
fn pieces_are_whole_characters_and_come_at_once() {
    let tokenizer = bytes();
    let generator = reciter(&architecture(257, Vec::new()), tokenizer.clone(), &script(&tokenizer, SCRIPT));
    let (_, pieces) = generate(&generator, "", &options(60, &[]));
    assert_eq!(pieces, SCRIPT.chars().map(String::from).collect::<Vec<_>>());
    // A possible beginning of the stop string waits for what follows it.
    let (_, pieces) = generate(&generator, "", &options(10, &["quit"]));
    assert_eq!(pieces, ["T", "h", "e", " ", "quic", "k", ","]);
    // Cut off within a character of 3 bytes.
    let n_cut = SCRIPT.find('字').unwrap() + 2;
    let (generated, _) = generate(&generator, "", &options(n_cut, &[]));
    assert_eq!(generated.text, "The quick,brôwn-\u{fffd}");
}

#[test]
fn a_folder_says_the_same_as_the_model_in_memory() {
    let tokenizer = bytes();
    let ids = script(&tokenizer, SCRIPT);
    let architecture = architecture(257, vec![0]);
    let in_memory = reciter(&architecture, tokenizer.clone(), &ids);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    let json = tokenizer.to_json().as_bytes();
    let export = Export {
        architecture: &architecture,
        tokenizer: Some(json),
        companions: &[],
        dtype: Dtype::F32,
        shard_bytes: None,
    };
    write_folder(&folder, &export, |w| Ok(weight(w, &ids))).unwrap();
    let sampler = Sampler::new(Sampling { temperature: 3.0, seed: 23, ..Sampling::GREEDY }).unwrap();
    let options = Options { sampler, ..options(30, &[]) };
    let from_folder = Generator::open(&folder, &Device::flex()).unwrap();
    assert_eq!(generate(&from_folder, "The", &options), generate(&in_memory, "The", &options));

    // End tokens of generation_config.json count as well.
    let comma = tokenizer.encode(",").unwrap()[0];
    std::fs::write(folder.join("generation_config.json"), format!("{{\"eos_token_id\": [{comma}]}}")).unwrap();
    let from_folder = Generator::open(&folder, &Device::flex()).unwrap();
    let (generated, _) = generate(&from_folder, "", &self::options(30, &[]));
    let wanted =
        Generated { text: "The quick".to_owned(), n_tokens: 10, tokens: Vec::new(), reason: Stop::EndOfText(comma) };
    assert_eq!(generated, wanted, "the end token is not written");

    std::fs::write(folder.join("tokenizer.json"), "{").unwrap();
    assert!(matches!(Generator::open(&folder, &Device::flex()), Err(ServeError::Corpus(_))));
}

/// Tokenizers of the first Llama models drop the space at the beginning of a text: a continuation begins within one.
#[test]
fn a_continuation_keeps_its_leading_space() {
    let json = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/tests/fixtures/llama-like.json"),
    );
    let tokenizer = Tokenizer::from_json(&json.unwrap(), "llama-like.json").unwrap();
    let vocab_size = tokenizer.vocab_size();
    let prompt = "é";
    let ids = tokenizer.encode(prompt).unwrap();
    let space = tokenizer.encode("é é").unwrap()[ids.len()];
    let text = [tokenizer.start_of_document()].into_iter().chain(ids.iter().copied()).collect::<Vec<u32>>();
    // After the prompt: a space, an id that the tokenizer does not know, the end.
    let unknown = vocab_size as u32 + 3;
    let rest = [*ids.last().unwrap(), space, unknown, tokenizer.end_of_text()];
    let generator = reciter(&architecture(vocab_size + 7, Vec::new()), tokenizer.clone(), &rest);
    let found = generator.generate_from_ids(&text, &options(9, &[]), |_| ()).unwrap();
    let wanted = &tokenizer.decode(&[&text[..], &[space]].concat()).unwrap()[prompt.len()..];
    assert!(wanted.starts_with(' '), "{wanted:?}");
    assert_eq!(
        found,
        Generated { text: wanted.to_owned(), n_tokens: 3, tokens: Vec::new(), reason: Stop::EndOfText(2) }
    );
    assert_eq!(generator.generate(prompt, &options(9, &[]), |_| ()).unwrap(), found, "the begin of text is added");
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let tokenizer = bytes();
    let architecture = architecture(257, Vec::new());
    let generator = reciter(&architecture, tokenizer.clone(), &[]);
    let error = generator.generate("The", &options(3, &["x", ""]), |_| ()).unwrap_err();
    assert!(matches!(error, ServeError::EmptyStopString), "{error}");
    let error = generator.generate(&"x".repeat(65), &options(3, &[]), |_| ()).unwrap_err();
    assert!(matches!(error, ServeError::TooLong { found: 65, most: 64 }), "{error}");
    let weights = |w: &Weight| Ok::<_, Infallible>(weight(w, &[]));
    let without = Generator::new(&architecture, None, &Device::flex(), weights).unwrap();
    assert!(matches!(without.generate("The", &options(3, &[]), |_| ()), Err(ServeError::NoTokenizer)));
    let broken = |w: &Weight| Ok::<_, Infallible>(vec![f32::NAN; w.n_elements()]);
    let broken = Generator::new(&architecture, Some(tokenizer), &Device::flex(), broken).unwrap();
    let error = broken.generate("The", &options(3, &[]), |_| ()).unwrap_err();
    assert!(matches!(error, ServeError::NotFinite { n_tokens: 3 }), "{error}");
}

/// The reciter's followers have the logit sqrt(257), all others 0; an unknown word's followers are all as likely.
#[test]
fn drawn_tokens_come_with_what_the_model_thought_of_them() {
    let tokenizer = bytes();
    let generator = reciter(&architecture(257, Vec::new()), tokenizer.clone(), &script(&tokenizer, SCRIPT));
    for (tokens_max, alternatives) in [(7, 3), (60, 1)] {
        let options = Options { alternatives: Some(alternatives), ..options(tokens_max, &["wn-"]) };
        let (generated, _) = generate(&generator, "The", &options);
        assert_eq!(generated.tokens.len(), generated.n_tokens);
        let sure = -(1.0 + 256.0 * (-257f64.sqrt()).exp()).ln();
        let unlikely = sure - 257f64.sqrt();
        for (scored, letter) in generated.tokens.iter().zip(SCRIPT.bytes().skip(3)) {
            assert_eq!(tokenizer.decode(&[scored.id]).unwrap(), String::from_utf8_lossy(&[letter]));
            assert_eq!((scored.alternatives.len(), scored.alternatives[0].0), (alternatives, scored.id));
            // The norm adds 1e-6 to a mean square of 1/257: the logit is off by 257e-6 / 2 of 16.
            assert!((scored.log_probability - sure).abs() < 4e-6, "{scored:?}");
            assert!(scored.alternatives[1..].iter().all(|(_, found)| (found - unlikely).abs() < 3e-3), "{scored:?}");
        }
    }
}

#[test]
fn losses_of_known_models_are_known() {
    let tokenizer = bytes();
    let architecture = architecture(257, Vec::new());
    let packing = |sequence_length| Packing { sequence_length, borders: Borders::Joined };
    let texts = ["Two texts,", "of 24 bytes in"];
    let (n_tokens, n_bytes) = (26, 24);

    // A head of zeros: all 257 tokens are equally likely. f32 logarithms of about 5.5 are good to 5e-7.
    let ignorant = reciter(&architecture, tokenizer.clone(), &[]);
    for sequence_length in [1, 7, 26, 64] {
        let found = ignorant.evaluate(&texts, packing(sequence_length)).unwrap();
        assert_eq!((found.n_tokens, found.n_bytes), (n_tokens, n_bytes), "rows of {sequence_length}");
        assert!((found.nats_per_token() - 257f64.ln()).abs() < 2e-6, "{found:?}");
        assert!((found.perplexity() - 257.0).abs() < 1e-3, "{found:?}");
        assert!((found.bits_per_byte() - 257f64.log2() * 26.0 / 24.0).abs() < 1e-5, "{found:?}");
    }

    // One who knows every token: the follower's logit is sqrt(257), up to the norm's 1e-6 * 257 / 2.
    let reciter = reciter(&architecture, tokenizer.clone(), &script(&tokenizer, SCRIPT));
    let wanted = (1.0 + 256.0 * (-257f64.sqrt()).exp()).ln();
    let found = reciter.evaluate(&[SCRIPT], packing(11)).unwrap();
    assert_eq!(found.n_tokens, SCRIPT.len() as u64 + 1);
    // The value is 2.8e-5: a difference of f32 numbers near 16, rounded to 2e-6.
    assert!((found.nats_per_token() - wanted).abs() < 4e-6, "{} for {wanted}", found.nats_per_token());
    // Each document's share, whatever rows they lie in: 11 and 15 tokens with their ends.
    let found = ignorant.evaluate(&texts, packing(7)).unwrap();
    let documents: Vec<(u64, u64)> =
        found.documents.iter().map(|document| (document.n_tokens, document.n_bytes)).collect();
    assert_eq!(documents, [(11, 10), (15, 14)]);
    for document in &found.documents {
        assert!((document.nats / document.n_tokens as f64 - 257f64.ln()).abs() < 2e-6, "{document:?}");
    }
    let both = found.clone().with(&found);
    assert_eq!((both.n_tokens, both.n_bytes, both.documents.len()), (52, 48, 4));
    assert!(matches!(reciter.evaluate(&[], packing(11)), Err(ServeError::NoText)));
}

/// Texts drawn together are those drawn one by one, wherever each of them ends, and pieces reach the right one.
#[test]
fn texts_drawn_together_are_those_drawn_alone() {
    let tokenizer = bytes();
    let ids = script(&tokenizer, SCRIPT);
    for format in [Format::F32, Format::Bf16] {
        let weights = |w: &Weight| Ok(weight(w, &ids));
        let generator =
            Generator::packed(&architecture(257, vec![0]), Some(tokenizer.clone()), format, weights).unwrap();
        let request = |seed: u64| {
            let sampler = Sampler::new(Sampling { temperature: 6.0, seed, ..Sampling::GREEDY }).unwrap();
            Options { sampler, ..options([0, 40, 13, 40, 1, 40, 29][seed as usize], &["k"]) }
        };
        let requests: Vec<Options> = (0..7).map(request).collect();
        let prompt = generator.prompt_ids("The").unwrap();
        let mut pieces = vec![String::new(); requests.len()];
        let together = generator.generate_several(&prompt, &requests, |n, piece| pieces[n].push_str(piece)).unwrap();
        for (n, request) in requests.iter().enumerate() {
            let alone = generator.generate_from_ids(&prompt, request, |_| ()).unwrap();
            assert_eq!((&together[n], &pieces[n]), (&alone, &alone.text), "{format}, text {n}");
        }
        let mut lengths: Vec<usize> = together.iter().map(|text| text.n_tokens).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert!(lengths.len() > 3, "they end at different places: {lengths:?}");
    }
}
