//! `millstream tokenizer`: train one, turn text into ids and back, look at one.

use crate::fault::{UserFault, users};
use crate::out_folder::write_whole;
use crate::units::{bytes, count};
use crate::{Outcome, model_folder};
use corpus::{ChatTemplate, Documents, GenerationPrompt, Message, Tokenizer, VOCAB_SIZE_MAX};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What to do.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Train a byte-level BPE tokenizer and write a folder that transformers loads.
    Train(TrainArgs),
    /// Turn text into token ids.
    Encode(EncodeArgs),
    /// Turn token ids into text.
    Decode(DecodeArgs),
    /// Show what a tokenizer is, and how well it does on a text.
    Inspect(InspectArgs),
}

#[derive(clap::Args)]
struct TrainArgs {
    /// Text files, JSON Lines, Parquet (also .gz and .zst), and folders of them; without any, the embedded text.
    texts: Vec<PathBuf>,
    /// Entries of the vocabulary: the end of text, the 256 bytes, and merges.
    #[arg(long, value_name = "N", value_parser = super::size(0..=VOCAB_SIZE_MAX as u64))]
    vocab_size: usize,
    /// Folder to write tokenizer.json and tokenizer_config.json to.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// The field of JSON Lines objects, or the Parquet column, that holds the text.
    #[arg(long, default_value = "text")]
    field: String,
}

#[derive(clap::Args)]
struct EncodeArgs {
    /// A tokenizer.json, a SentencePiece model (.model), or the folder of a model or run.
    tokenizer: PathBuf,
    /// Text files, each encoded as a whole; without any, standard input.
    texts: Vec<PathBuf>,
    /// Encode as training reads a document: begin and end of text added, special tokens written out are text.
    #[arg(long)]
    document: bool,
    /// A JSON object for each text, with ids and the spelling of each token.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct DecodeArgs {
    /// A tokenizer.json, a SentencePiece model (.model), or the folder of a model or run.
    tokenizer: PathBuf,
    /// Files of ids, as `encode` writes them; without any, standard input.
    ids: Vec<PathBuf>,
    /// A JSON object for each line of ids, with its text.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct InspectArgs {
    /// A tokenizer.json, a SentencePiece model (.model), or the folder of a model or run.
    tokenizer: PathBuf,
    /// Texts to compress, as for `train`; without any, the embedded text.
    texts: Vec<PathBuf>,
    /// The field of JSON Lines objects, or the Parquet column, that holds the text.
    #[arg(long, default_value = "text")]
    field: String,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    match args.task {
        Task::Train(args) => train(args)?,
        Task::Encode(args) => encode(&args)?,
        Task::Decode(args) => decode(&args)?,
        Task::Inspect(args) => inspect(&args)?,
    }
    Ok(Outcome::Done)
}

fn train(args: TrainArgs) -> anyhow::Result<()> {
    let [json, config] = ["tokenizer.json", "tokenizer_config.json"].map(|name| args.out.join(name));
    if let Some(there) = [&json, &config].into_iter().find(|path| path.exists()) {
        let message = format!("{} is there already", there.display());
        return Err(UserFault::new(message).hint("name another folder with --out, or take the file away").into());
    }
    let mut failure = None;
    let texts = texts(&args.texts, &args.field)?.map_while(|text| text.map_err(|error| failure = Some(error)).ok());
    let trained = Tokenizer::train_on(texts, args.vocab_size);
    if let Some(error) = failure {
        return Err(users(error).into());
    }
    let tokenizer = trained.map_err(users)?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| UserFault::new(format!("{} cannot be made: {error}", args.out.display())))?;
    write_whole(&json, tokenizer.to_json()).map_err(users)?;
    write_whole(&config, tokenizer.to_config_json()).map_err(users)?;
    let found = tokenizer.vocab_size();
    super::print(&format!("{}: byte-level BPE with {} entries\n", json.display(), count(found as u64)))?;
    if found < args.vocab_size {
        super::note(&format!("the text holds no further pair of tokens twice; {} were asked for", args.vocab_size));
    }
    Ok(())
}

/// The documents of `paths`, or of the embedded text.
fn texts(paths: &[PathBuf], field: &str) -> Result<Box<dyn Iterator<Item = corpus::Result<String>> + Send>, UserFault> {
    match paths {
        [] => Ok(Box::new(corpus::embedded_documents().into_iter().map(|document| Ok(document.text)))),
        paths => {
            let documents = Documents::open(paths, field).map_err(users)?;
            Ok(Box::new(documents.map(|document| document.map(|document| document.text))))
        }
    }
}

#[derive(Serialize)]
struct Encoded<'a> {
    /// Absent for standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    ids: &'a [u32],
    tokens: Vec<String>,
}

fn encode(args: &EncodeArgs) -> anyhow::Result<()> {
    let (tokenizer, _) = open(&args.tokenizer)?;
    for (file, text) in contents(&args.texts)? {
        let ids = match args.document {
            true => tokenizer.encode_documents(&[&text]).map_err(users)?.remove(0),
            false => tokenizer.encode(&text).map_err(users)?,
        };
        let line = match args.json {
            true => {
                let tokens = ids.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect();
                serde_json::to_string(&Encoded { file, ids: &ids, tokens })?
            }
            false => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        };
        super::print(&(line + "\n"))?;
    }
    Ok(())
}

fn decode(args: &DecodeArgs) -> anyhow::Result<()> {
    let (tokenizer, _) = open(&args.tokenizer)?;
    for (file, text) in contents(&args.ids)? {
        let name = file.map_or("standard input".to_owned(), |file| file.display().to_string());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{name}:{}", index + 1);
            let ids = ids(line).map_err(|problem| {
                UserFault::new(format!("{place}: {problem}"))
                    .hint("write numbers with blanks between them, a JSON list, or what `encode --json` writes")
            })?;
            let text = tokenizer.decode(&ids).map_err(|error| UserFault::new(format!("{place}: {error}")))?;
            match args.json {
                true => super::print(&(serde_json::json!({ "text": text }).to_string() + "\n"))?,
                false => super::print(&super::harmless(&text))?,
            }
        }
    }
    Ok(())
}

/// The ids of a line: numbers, a JSON list of them, or an object with such a list as `ids`. Else what is wrong.
fn ids(line: &str) -> Result<Vec<u32>, String> {
    if line.trim_start().starts_with(['[', '{']) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("this is not valid JSON: {error}"))?;
        let list = match &value {
            serde_json::Value::Object(fields) => fields.get("ids").ok_or("this JSON object has no field `ids`")?,
            list => list,
        };
        let items = list.as_array().ok_or_else(|| format!("`ids` is {}, but must be a list", shortened(list)))?;
        let id = |item: &serde_json::Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
        return items
            .iter()
            .map(|item| id(item).ok_or_else(|| format!("{} is no token id", shortened(item))))
            .collect();
    }
    line.split_whitespace().map(|word| word.parse().map_err(|_no_number| format!("`{word}` is no token id"))).collect()
}

/// A value for a sentence.
fn shortened(value: &serde_json::Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(40).collect();
    format!("`{start}`{}", if start.len() < text.len() { " and more" } else { "" })
}

/// Each file as text, or standard input.
fn contents(paths: &[PathBuf]) -> anyhow::Result<Vec<(Option<&Path>, String)>> {
    if paths.is_empty() {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes).map_err(|error| UserFault::new(format!("standard input: {error}")))?;
        return Ok(vec![(None, text)]);
    }
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| (path.display().to_string(), error));
    let contents = paths.iter().map(|path| Ok((Some(path.as_path()), read(path)?)));
    let contents: Result<_, (String, std::io::Error)> = contents.collect();
    Ok(contents.map_err(|(path, error)| UserFault::new(format!("{path} cannot be read: {error}")))?)
}

/// What `inspect` tells.
#[derive(Serialize)]
struct Inspection {
    file: PathBuf,
    algorithm: &'static str,
    vocab_size: usize,
    begin_of_text: Option<Token>,
    end_of_text: Option<Token>,
    special_tokens: Vec<Token>,
    chat_template: Option<Chat>,
    compression: Compression,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    token: String,
}

#[derive(Serialize)]
struct Chat {
    place: String,
    /// How it writes a short conversation; absent when it does not take one.
    example: Option<String>,
}

#[derive(Serialize)]
struct Compression {
    text_bytes: u64,
    tokens: u64,
    bytes_per_token: f64,
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let (tokenizer, file) = open(&args.tokenizer)?;
    let token = |id: u32| tokenizer.token(id).map(|token| Token { id, token });
    let folder = file.parent().unwrap_or(Path::new("."));
    let template = ChatTemplate::from_folder(folder).map_err(users)?;
    let inspection = Inspection {
        algorithm: tokenizer.algorithm(),
        vocab_size: tokenizer.vocab_size(),
        begin_of_text: tokenizer.begin_of_text().and_then(token),
        end_of_text: token(tokenizer.end_of_text()),
        special_tokens: tokenizer.special_tokens().into_iter().map(|(id, token)| Token { id, token }).collect(),
        chat_template: template.map(|template| chat(&template)),
        compression: compression(&tokenizer, texts(&args.texts, &args.field)?)?,
        file,
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&inspection)? + "\n",
        false => page(&inspection, &args.texts),
    };
    Ok(super::print(&text)?)
}

fn chat(template: &ChatTemplate) -> Chat {
    let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let messages = [turn("user", "Hello!"), turn("assistant", "Hello."), turn("user", "How are you?")];
    let example = template.render(&messages, GenerationPrompt::Added).ok();
    Chat { place: template.place().to_owned(), example }
}

/// Text read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How many tokens the texts take, end-of-text tokens left out.
fn compression(
    tokenizer: &Tokenizer,
    texts: impl Iterator<Item = corpus::Result<String>>,
) -> Result<Compression, UserFault> {
    let encoder = tokenizer.document_encoder();
    let (mut text_bytes, mut tokens) = (0, 0);
    let (mut chunk, mut chunk_bytes) = (Vec::new(), 0);
    let added = 1 + usize::from(tokenizer.begin_of_text().is_some());
    let mut count = |chunk: &mut Vec<String>| {
        let texts: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let ids = encoder.encode(&texts).map_err(users)?;
        tokens += ids.iter().map(|ids| (ids.len() - added) as u64).sum::<u64>();
        chunk.clear();
        Ok::<_, UserFault>(())
    };
    for text in texts {
        let text = text.map_err(users)?;
        text_bytes += text.len() as u64;
        chunk_bytes += text.len();
        chunk.push(text);
        if chunk_bytes >= CHUNK_BYTES {
            count(&mut chunk)?;
            chunk_bytes = 0;
        }
    }
    count(&mut chunk)?;
    if tokens == 0 {
        return Err(UserFault::new("there is no text to compress: every file is empty or white space"));
    }
    Ok(Compression { text_bytes, tokens, bytes_per_token: text_bytes as f64 / tokens as f64 })
}

fn page(inspection: &Inspection, texts: &[PathBuf]) -> String {
    let Inspection { compression, special_tokens, .. } = inspection;
    let spelled = |token: &Token| format!("{} {}", token.id, super::visible_in_line(&token.token));
    let show = |token: &Option<Token>| token.as_ref().map_or("none".to_owned(), spelled);
    let special: Vec<String> = special_tokens.iter().take(12).map(spelled).collect();
    let more = match special_tokens.len().saturating_sub(special.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = match texts {
        [] => "the embedded text".to_owned(),
        texts => texts.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let template = match &inspection.chat_template {
        None => "none".to_owned(),
        Some(Chat { place, example: None }) => format!("{place} (takes no plain conversation)"),
        Some(Chat { place, example: Some(_) }) => place.clone(),
    };
    let rows = [
        ("tokenizer", inspection.file.display().to_string()),
        ("algorithm", inspection.algorithm.to_owned()),
        ("entries", inspection.vocab_size.to_string()),
        ("begin of text", show(&inspection.begin_of_text)),
        ("end of text", show(&inspection.end_of_text)),
        ("special tokens", if special.is_empty() { "none".to_owned() } else { special.join(", ") + &more }),
        (
            "compression",
            format!("{:.3} bytes a token on {text} ({})", compression.bytes_per_token, bytes(compression.text_bytes)),
        ),
        ("chat template", template),
    ];
    let row = |(name, value): (&str, String)| format!("{name:<16}{}\n", super::visible_in_line(&value));
    let mut page: String = rows.into_iter().map(row).collect();
    if let Some(Chat { example: Some(example), .. }) = &inspection.chat_template {
        page += "\n";
        example.lines().for_each(|line| page += &format!("    {}\n", super::visible(line)));
    }
    page
}

/// The tokenizer that a path means, and its file.
fn open(path: &Path) -> Result<(Tokenizer, PathBuf), UserFault> {
    let file = match path.is_dir() {
        false => path.to_owned(),
        true => {
            let in_folder = |folder: &Path| {
                let names = ["tokenizer.json", "tokenizer.model"];
                names.iter().map(|name| folder.join(name)).find(|file| file.is_file())
            };
            match in_folder(path) {
                Some(file) => file,
                // The folder of a run has it with its model.
                None => in_folder(&model_folder::find(path)?).ok_or_else(|| {
                    let message = format!("{} has neither tokenizer.json nor tokenizer.model", path.display());
                    UserFault::new(message).hint("name the file itself")
                })?,
            }
        }
    };
    Ok((Tokenizer::from_file(&file).map_err(users)?, file))
}
