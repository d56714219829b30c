//! Formats of other people: whatever the bytes are, an error or something that can be used, never a panic.

use schedule::pytorch::Table;
use std::fs;
use std::path::Path;

/// `config.json`: what is accepted is written back as the same, and its sizes can be reckoned with.
pub fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match architecture::from_config_json(text) {
        Err(error) => drop(error.to_string()),
        Ok(model) => {
            let again = architecture::from_config_json(&architecture::to_config_json(&model));
            assert_eq!(again.expect("what is written is read"), model);
            assert!(model.n_parameters() > 0);
            for block in model.blocks() {
                assert!(model.cost(block, 1, 2).activation_elements < u64::MAX);
            }
        }
    }
}

/// A schedule of torch.distributed.pipelining: a table prints as itself, and a schedule is written back.
pub fn schedule_csv(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let table: Table = match text.parse() {
        Err(error) => return drop::<schedule::ScheduleError>(error),
        Ok(table) => table,
    };
    let again: Table = table.to_string().parse().expect("what is printed is read");
    assert_eq!(again, table);
    drop(table.schedule_in_lockstep("fuzz"));
    let Ok(schedule) = table.schedule("fuzz") else { return };
    match schedule::validate(&schedule) {
        Err(problems) => assert!(problems.iter().all(|problem| !problem.to_string().is_empty())),
        Ok(()) => drop((Table::compute_only(&schedule), Table::compute_comms(&schedule))),
    }
}

/// `tokenizer.json`: what is accepted encodes and decodes.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match corpus::Tokenizer::from_json(text, "fuzz") {
        Err(error) => drop(error.to_string()),
        Ok(tokenizer) => encode_and_decode(&tokenizer),
    }
}

/// A SentencePiece model: what is converted encodes and decodes, and its `tokenizer.json` reads back.
pub fn sentencepiece(bytes: &[u8]) {
    match corpus::Tokenizer::from_sentencepiece(bytes, "fuzz") {
        Err(error) => drop(error.to_string()),
        Ok(tokenizer) => {
            encode_and_decode(&tokenizer);
            // Whose end of text is known to the model alone is refused.
            if let Ok(again) = corpus::Tokenizer::from_json(tokenizer.to_json(), "fuzz") {
                assert_eq!(again.vocab_size(), tokenizer.vocab_size());
            }
        }
    }
}

fn encode_and_decode(tokenizer: &corpus::Tokenizer) {
    assert!((tokenizer.end_of_text() as usize) < tokenizer.vocab_size());
    for text in ["", " ", "The mill\n turns, 27 times. ", "wörld 字↦\u{1f600}<unk></s>\0\r\n", "aaaaaaaaaaaaaaaaaaaab"]
    {
        if let Ok(ids) = tokenizer.encode(text) {
            drop(tokenizer.decode(&ids));
            let mut stream = tokenizer.stream();
            ids.iter().for_each(|&id| drop(stream.push(id)));
            drop(stream.finish());
        }
        drop(tokenizer.encode_documents(&[text, "b"]));
    }
    let most = tokenizer.vocab_size().min(300) as u32;
    drop(tokenizer.decode(&(0..most).collect::<Vec<u32>>()));
}

/// A chat template: it is refused, or renders a conversation, or says why not.
pub fn chat_template(bytes: &[u8]) {
    let Ok(source) = str::from_utf8(bytes) else { return };
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    let template = match corpus::ChatTemplate::new(source, tokens, "fuzz") {
        Err(error) => return drop(error.to_string()),
        Ok(template) => template,
    };
    let said = [("system", "Be brief."), ("user", "wörld 字\u{1f600}\n'\"\\"), ("assistant", " Yes. "), ("user", "")];
    let said = said.map(|(role, content)| corpus::Message { role: role.to_owned(), content: content.to_owned() });
    for (messages, prompt) in
        [(&said[..], corpus::GenerationPrompt::Added), (&said[1..3], corpus::GenerationPrompt::LeftOut)]
    {
        if let Err(error) = template.render(messages, prompt) {
            assert!(error.to_string().contains("fuzz"));
        }
    }
}

/// A file of token ids: it is refused, or its tokens are those that were there. The first byte says how wide they are.
pub fn token_ids(bytes: &[u8], place: &Path) {
    let Some((&which, content)) = bytes.split_first() else { return };
    let (width, n_bytes) = [(corpus::TokenWidth::U16, 2), (corpus::TokenWidth::U32, 4)][usize::from(which) % 2];
    let (path, tokenizer) = (place.join("ids.bin"), place.join("words.json"));
    if !tokenizer.exists() {
        fs::write(&tokenizer, WORDS).expect("a file");
    }
    fs::write(&path, content).expect("a file");
    let source = corpus::SourceOptions {
        name: "fuzz".to_owned(),
        paths: vec![path],
        content: corpus::Content::Tokens(width),
        weight: None,
    };
    let options = corpus::CorpusOptions {
        sources: vec![source],
        tokenizer: corpus::TokenizerChoice::File(tokenizer),
        validation_fraction: 0.5,
        seed: 3,
        cache_folder: place.join("cache"),
    };
    match corpus::Corpus::open(&options) {
        Err(error) => drop(error.to_string()),
        Ok(corpus) => {
            let source = &corpus.sources[0];
            assert_eq!((source.train.len() + source.validation.len()) * n_bytes, content.len());
        }
    }
    drop(fs::remove_dir_all(&options.cache_folder));
}

/// A tokenizer of whole words.
const WORDS: &str = r#"{"model": {"type": "WordLevel", "vocab": {"</s>": 0, "a": 1, "b": 2}, "unk_token": "a"}}"#;

/// The endings that tell how a text is stored.
const ENDINGS: [&str; 6] = ["parquet", "jsonl", "txt", "txt.gz", "jsonl.zst", "jsonl.gz"];

/// A text to train on: its documents, or what is wrong with it. The first byte says how it is stored.
pub fn text(bytes: &[u8], place: &Path) {
    let Some((&which, content)) = bytes.split_first() else { return };
    let ending = ENDINGS[usize::from(which) % ENDINGS.len()];
    let path = place.join(format!("text.{ending}"));
    fs::write(&path, content).expect("a file");
    match corpus::read_documents(&[path], "text") {
        Err(error) => drop(error.to_string()),
        Ok(documents) => assert!(documents.iter().all(|document| !document.text.trim().is_empty())),
    }
}

/// A config.json of 81 weights in 12 tensors.
const TINY: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 3, "num_hidden_layers": 1,
"num_attention_heads": 1, "head_dim": 2, "intermediate_size": 2, "vocab_size": 5, "max_position_embeddings": 8}"#;

/// `model.safetensors`: the folder is refused, or every weight of it is read.
pub fn safetensors(bytes: &[u8], place: &Path) {
    let folder = place.join("safetensors");
    if !folder.exists() {
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("config.json"), TINY).expect("a file");
    }
    fs::write(folder.join("model.safetensors"), bytes).expect("a file");
    read_all(&folder);
}

/// The files of a model folder or of a checkpoint; the first byte says which one the rest is.
pub fn folder(bytes: &[u8], place: &Path) {
    let Some((&which, content)) = bytes.split_first() else { return };
    let (sharded, saved) = (place.join("sharded"), place.join("saved"));
    if !sharded.exists() {
        write_folders(&sharded, &saved);
    }
    let files = ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer_config.json"];
    match files.get(usize::from(which)) {
        Some(name) => {
            let path = sharded.join(name);
            let good = fs::read(&path).ok();
            fs::write(&path, content).expect("a file");
            read_all(&sharded);
            drop(corpus::Tokenizer::from_file(&sharded.join("tokenizer.json")));
            match good {
                Some(good) => fs::write(&path, good).expect("a file"),
                None => fs::remove_file(&path).expect("a file"),
            }
        }
        None => {
            let path = saved.join("step-00000003/manifest.json");
            let good = fs::read(&path).expect("a manifest");
            fs::write(&path, content).expect("a file");
            drop(checkpoint::latest(&saved));
            fs::write(&path, good).expect("a file");
        }
    }
}

fn read_all(folder: &Path) {
    match checkpoint::read_folder(folder) {
        Err(error) => drop(error.to_string()),
        Ok(folder) => {
            for weight in folder.architecture().all_weights() {
                let values = folder.read(&weight).expect("what was checked is read");
                assert_eq!(values.len(), weight.n_elements());
            }
        }
    }
}

/// A model in several files, and a checkpoint of it.
fn write_folders(sharded: &Path, saved: &Path) {
    let architecture = architecture::from_config_json(TINY).expect("a configuration");
    let architecture = &architecture;
    let export = checkpoint::Export {
        architecture,
        tokenizer: None,
        companions: &[],
        dtype: checkpoint::Dtype::F16,
        shard_bytes: Some(40),
    };
    checkpoint::write_folder(sharded, &export, |weight| Ok(vec![0.5; weight.n_elements()])).expect("a folder");
    fs::write(sharded.join("tokenizer.json"), WORDS).expect("a file");
    let save = checkpoint::Save {
        step: 3,
        keep: 1,
        architecture,
        tokenizer: None,
        companions: &[],
        state: &serde_json::json!({}),
    };
    checkpoint::save(saved, &save, |weight, _| Ok(vec![0.5; weight.n_elements()])).expect("a checkpoint");
}
