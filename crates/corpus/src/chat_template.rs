//! Chat templates: how a model wants a conversation written down.
//!
//! The template is a part of the tokenizer: it lies beside `tokenizer.json`, prints its special tokens, and training on
//! conversations needs it as much as serving does. So it is here, below both.
//!
//! Rendered as `apply_chat_template` of `transformers` does with Jinja2: `trim_blocks`, `lstrip_blocks`, loop controls,
//! methods of Python's types, `raise_exception`, `strftime_now`, `tojson` as `json.dumps`, `{% generation %}` blocks.
//! Tools and documents are not given.
//!
//! A template is a program of whoever wrote the model: what a rendering may take of time and memory is bounded. A
//! namespace that it puts into itself (`ns.x = ns`) is never freed.

mod python;

use crate::tokenizer_config::{TOKENIZER_CONFIG, read, spelled, tokenizer_config};
use crate::{CorpusError, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State};
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

/// One turn of a conversation. Fields that are not here, such as `tool_calls`, are refused when it is read: a template would
/// not see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// Bytes of a template at most: published ones have up to some 30 kB.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a tag at most. The engine looks at what is constant once for each operator, so that the time it takes is the
/// square of a tag's length: 0.1 s for 4 KiB of them.
const TAG_BYTES_MAX: usize = 4 << 10;

/// Steps that a rendering may take whatever it is given; a step is an instruction or 64 bytes of data. They are gone within
/// a tenth of a second, with 13 MB at most.
const STEPS: u64 = 200_000;

/// Steps for every message, and for every two bytes of its text. Rendering with the templates of the tests takes a tenth.
const STEPS_OF_MESSAGE: u64 = 1000;
const BYTES_OF_STEP: u64 = 2;

/// Bytes of stack for each step: a list that holds a list, and so on, is compared, printed and freed by functions that call
/// themselves. A level takes at least two steps and was seen to take at most 500 bytes. Reserved, and used when needed.
const STACK_BYTES_OF_STEP: u64 = 512;

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
        let config = tokenizer_config(folder)?;
        let special_tokens = special_tokens(&config);
        let template_path = folder.join(TEMPLATE_FILE);
        if let Some(bytes) = read(&template_path)? {
            let no_text = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let failed = |error| CorpusError::Read { path: template_path.clone(), source: no_text(error) };
            let source = String::from_utf8(bytes).map_err(failed)?;
            return ChatTemplate::new(&source, special_tokens, &template_path.display().to_string()).map(Some);
        }
        let place = format!("{}, `chat_template`", folder.join(TOKENIZER_CONFIG).display());
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
    /// [`CorpusError::ChatTemplate`], with the line, when it is no template or too long.
    pub fn new(source: &str, special_tokens: BTreeMap<String, String>, place: &str) -> Result<ChatTemplate> {
        let too_long = |what: &str, found: usize, most: usize, line: usize| {
            let problem = format!("{what} has {found} bytes, but may have at most {most}");
            CorpusError::ChatTemplate { place: place.to_owned(), line, problem }
        };
        if source.len() > SOURCE_BYTES_MAX {
            return Err(too_long("it", source.len(), SOURCE_BYTES_MAX, 1));
        }
        if let Some((at, found)) = tags(source).into_iter().find(|(_, n_bytes)| *n_bytes > TAG_BYTES_MAX) {
            let line = 1 + source[..at].matches('\n').count();
            return Err(too_long("a tag", found, TAG_BYTES_MAX, line));
        }
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
        let text = without_generation_blocks(source);
        with_stack(STEPS, place, || environment.add_template_owned(NAME, text))?
            .map_err(|error| unusable(place, &error))?;
        Ok(ChatTemplate { environment, special_tokens, source: source.to_owned(), place: place.to_owned() })
    }

    /// The text of a conversation, special tokens written out: encode it with
    /// [`Tokenizer::encode`](crate::Tokenizer::encode), which adds none.
    ///
    /// # Errors
    /// [`CorpusError::ChatRefused`] when the template refuses the conversation (roles in an order it does not know),
    /// [`CorpusError::ChatTemplate`] when it fails, or takes more steps than a conversation of this size is worth.
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
        let n_bytes: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let steps = STEPS + STEPS_OF_MESSAGE * messages.len() as u64 + n_bytes as u64 / BYTES_OF_STEP;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(steps));
        let template = environment.get_template(NAME).expect("invariant: compiled when it was made");
        let context = Value::from_pairs(special_tokens.chain(variables));
        // What the template made is freed by the end of the rendering, on the same stack.
        with_stack(steps, &self.place, || template.render(context))?.map_err(|error| match refusal(&error) {
            Some(message) => CorpusError::ChatRefused { place: self.place.clone(), message },
            None if is_out_of_fuel(&error) => CorpusError::ChatTemplate {
                place: self.place.clone(),
                line: error.line().unwrap_or(1),
                problem: format!(
                    "it takes more than {steps} steps for a conversation of {} messages with {n_bytes} bytes, its limit; \
                     a loop has no end, or a text grows without one",
                    messages.len()
                ),
            },
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

/// Does something that may take so many steps, on a stack that is large enough for it.
fn with_stack<T: Send>(steps: u64, place: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let stack = (steps * STACK_BYTES_OF_STEP) as usize;
    std::thread::scope(|scope| match std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, work) {
        Ok(thread) => Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        Err(error) => {
            let problem = format!("there are no {stack} bytes of stack for it: {error}");
            Err(CorpusError::ChatTemplate { place: place.to_owned(), line: 1, problem })
        }
    })
}

/// Where tags begin and how long they are. Strings within them may hold what else would end them; comments and raw text
/// hold none.
fn tags(source: &str) -> Vec<(usize, usize)> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|found| at + found) {
        let rest = &source[open..];
        let length = match rest.as_bytes().get(1) {
            Some(b'{') => tag_length(rest, "}}"),
            Some(b'%') => tag_length(rest, "%}"),
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            _ => 1,
        };
        if matches!(rest.as_bytes().get(1), Some(b'{' | b'%')) {
            tags.push((open, length));
        }
        at = open + length;
        let is_raw =
            |tag: &str, name| tag.starts_with("{%") && tag.trim_matches(['{', '%', '}', '-', '+']).trim() == name;
        if is_raw(&rest[..length], "raw") {
            let ends = source[at..].match_indices("{%").map(|(found, _)| at + found);
            let mut ends = ends.filter(|&end| is_raw(&source[end..end + tag_length(&source[end..], "%}")], "endraw"));
            at = ends.next().unwrap_or(source.len());
        }
    }
    tags
}

/// Up to what closes the tag that `text` begins with, outside of strings; all of it where nothing does.
fn tag_length(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (2, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(bytes[at]),
            (None, _) if text.as_bytes()[at..].starts_with(close.as_bytes()) => return at + 2,
            (None, _) => {}
        }
        at += 1;
    }
    text.len()
}

/// Whether the steps are used up, here or in what a macro or a filter called.
fn is_out_of_fuel(error: &Error) -> bool {
    let inner = || std::error::Error::source(error).and_then(|source| source.downcast_ref());
    error.kind() == ErrorKind::OutOfFuel || inner().is_some_and(is_out_of_fuel)
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
    fields.filter_map(|(name, token)| Some((name.clone(), spelled(token)?))).collect()
}

/// The present date and time, local, as C's `strftime` writes it.
fn strftime_now(state: &State, format: &str) -> std::result::Result<String, Error> {
    // A letter stands for many.
    state.consume_fuel(format.len() as u64)?;
    let failed = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"));
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now()).map_err(failed)
}
