//! Chat templates: how a model wants a conversation written down.
//!
//! The template is a part of the tokenizer: it lies beside `tokenizer.json`, prints its special tokens, and training on
//! conversations needs it as much as serving does. So it is here, below both.
//!
//! Rendered as `apply_chat_template` of `transformers` does with Jinja2: `trim_blocks`, `lstrip_blocks`, loop controls,
//! methods of Python's types, `raise_exception`, `strftime_now`, `tojson` as `json.dumps`, `{% generation %}` blocks.
//! Tools and documents are not given.

mod python;

use crate::{CorpusError, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// A compiled chat template with the special tokens that it may print.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    source: String,
    place: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, and what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What stands after the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// The opening of the assistant's turn: the model is to answer.
    Added,
    /// Nothing: the conversation is complete.
    LeftOut,
}

const NAME: &str = "chat_template";

/// File beside `tokenizer.json` that holds a template; it has precedence over the one in `tokenizer_config.json`.
const TEMPLATE_FILE: &str = "chat_template.jinja";

impl ChatTemplate {
    /// The template of a model folder: its `chat_template.jinja`, else `chat_template` of its `tokenizer_config.json`
    /// (where that is a list, the one named `default`). `None` when it has neither. Special tokens are those of
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, JSON that is none, and as [`ChatTemplate::new`].
    pub fn from_folder(folder: &Path) -> Result<Option<ChatTemplate>> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match read(&config_path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| CorpusError::TokenizerConfig {
                place: config_path.display().to_string(),
                problem: error.to_string(),
            })?,
            None => serde_json::Value::Null,
        };
        let special_tokens = special_tokens(&config);
        let template_path = folder.join(TEMPLATE_FILE);
        if let Some(source) = read(&template_path)? {
            return ChatTemplate::new(&source, special_tokens, &template_path.display().to_string()).map(Some);
        }
        let place = format!("{}, `chat_template`", config_path.display());
        let source = match &config["chat_template"] {
            serde_json::Value::Null => return Ok(None),
            serde_json::Value::Array(named) => {
                let default = named.iter().find(|template| template["name"] == "default");
                default.and_then(|template| template["template"].as_str())
            }
            template => template.as_str(),
        };
        let unusable = || CorpusError::TokenizerConfig {
            place: place.clone(),
            problem: "it is neither a template nor a list with one that is named `default`".to_owned(),
        };
        ChatTemplate::new(source.ok_or_else(unusable)?, special_tokens, &place).map(Some)
    }

    /// Compiles `source`; `special_tokens` are its variables (`bos_token`, `eos_token`...), `place` names its origin in
    /// errors.
    ///
    /// # Errors
    /// [`CorpusError::ChatTemplate`], with the line, when it is no template.
    pub fn new(source: &str, special_tokens: BTreeMap<String, String>, place: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("invariant: the usual delimiters"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python::print);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
        });
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_blocks(source))
            .map_err(|error| unusable(place, &error))?;
        Ok(ChatTemplate { environment, special_tokens, source: source.to_owned(), place: place.to_owned() })
    }

    /// The text of a conversation, special tokens written out: encode it with
    /// [`Tokenizer::encode`](crate::Tokenizer::encode), which adds none.
    ///
    /// # Errors
    /// [`CorpusError::ChatRefused`] when the template refuses the conversation (roles in an order it does not know),
    /// [`CorpusError::ChatTemplate`] when it fails.
    pub fn render(&self, messages: &[Message], prompt: GenerationPrompt) -> Result<String> {
        let message = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let special_tokens =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let variables = [
            ("messages", messages.iter().map(message).collect::<Value>()),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(prompt == GenerationPrompt::Added)),
        ];
        let template = self.environment.get_template(NAME).expect("invariant: compiled when it was made");
        let context = Value::from_pairs(special_tokens.chain(variables));
        template.render(context).map_err(|error| match refusal(&error) {
            Some(message) => CorpusError::ChatRefused { place: self.place.clone(), message },
            None => unusable(&self.place, &error),
        })
    }

    /// The template's text, as loaded.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it came from.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// What a template throws with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Refusal(message)) = inner.downcast_ref() {
            return Some(message.clone());
        }
        source = inner.source();
    }
    None
}

fn unusable(place: &str, error: &Error) -> CorpusError {
    let problem = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    CorpusError::ChatTemplate { place: place.to_owned(), line: error.line().unwrap_or(1), problem }
}

/// `{% generation %}` marks what the assistant said, for masks that we do not make: a block that is always taken.
fn without_generation_blocks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        match tag.trim_matches(['{', '%', '}', '-', '+']).trim() {
            "generation" => text.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text + rest
}

/// Every string of a `tokenizer_config.json` whose key ends in `_token`; some write an object with `content` instead.
fn special_tokens(config: &serde_json::Value) -> BTreeMap<String, String> {
    let fields = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let text = |token: &serde_json::Value| token.as_str().or(token["content"].as_str()).map(str::to_owned);
    fields.filter_map(|(name, token)| Some((name.clone(), text(token)?))).collect()
}

/// The present date and time, local, as C's `strftime` writes it.
fn strftime_now(format: &str) -> std::result::Result<String, Error> {
    let failed = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"));
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now()).map_err(failed)
}

fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CorpusError::Read { path: path.to_owned(), source }),
    }
}
