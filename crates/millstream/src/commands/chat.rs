//! Conversations in the form that the model's own template gives them.

use super::generate::Drawing;
use crate::fault::{UserFault, users};
use anyhow::Context;
use corpus::{ChatTemplate, GenerationPrompt, Message};
use serve::{Generator, Stop};
use std::io::{BufRead, ErrorKind, IsTerminal};
use std::path::Path;

/// A model that answers.
pub struct Chat<'a> {
    generator: &'a Generator,
    template: ChatTemplate,
}

impl<'a> Chat<'a> {
    /// With the template of the model's folder.
    pub fn open(generator: &'a Generator, folder: &Path) -> anyhow::Result<Self> {
        let template = ChatTemplate::from_folder(folder).map_err(users)?;
        let template = template.ok_or_else(|| {
            let hint = "a model that was not taught to converse only continues text: use --prompt; else put its \
                        chat_template.jinja beside its tokenizer.json";
            UserFault::new(format!("{} has no chat template", folder.display())).hint(hint)
        })?;
        Ok(Self { generator, template })
    }

    /// The conversation up to where the model is to answer, as text. Its special tokens are written out; nothing is to be
    /// added.
    pub fn prompt(&self, messages: &[Message]) -> anyhow::Result<String> {
        Ok(self.template.render(messages, GenerationPrompt::Added).map_err(users)?)
    }

    /// Reads what the user says line by line until the input ends, and answers each line.
    pub fn converse(&self, drawing: &Drawing, system: Option<&str>) -> anyhow::Result<()> {
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let begin: Vec<Message> = system.map(|system| message("system", system)).into_iter().collect();
        let mut messages = begin.clone();
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            super::print("Say something; /new starts anew, /exit or Ctrl-D ends.\n")?;
        }
        let mut n_answers = 0;
        loop {
            if is_terminal {
                super::print("> ")?;
            }
            let mut line = String::new();
            match std::io::stdin().lock().read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    let fault = UserFault::new("standard input: what was said is not UTF-8 text");
                    return Err(fault.hint("convert it, for instance with `iconv -t UTF-8`").into());
                }
                Err(error) => return Err(error).context("standard input cannot be read"),
            }
            match line.trim() {
                "" => continue,
                "/exit" => return Ok(()),
                "/new" => messages.clone_from(&begin),
                said => {
                    messages.push(message("user", said));
                    match self.answer(&messages, drawing, n_answers) {
                        Ok(answer) => messages.push(message("assistant", &answer)),
                        Err(error) if is_terminal && error.is::<UserFault>() => {
                            messages.pop();
                            super::note(&format!("{}; /new starts anew", crate::fault::in_full(&error)));
                        }
                        Err(error) => return Err(error),
                    }
                    n_answers += 1;
                }
            }
        }
    }

    /// Writes the `n`-th answer piece by piece, and yields it.
    fn answer(&self, messages: &[Message], drawing: &Drawing, n: u64) -> anyhow::Result<String> {
        let tokenizer = self.generator.tokenizer().map_err(users)?;
        let prompt = tokenizer.encode(&self.prompt(messages)?).map_err(users)?;
        let mut written = Ok(());
        let options = drawing.options(n, None)?;
        let generated = self.generator.generate_from_ids(&prompt, &options, |piece| {
            if written.is_ok() {
                written = super::print(&super::harmless(piece));
            }
        });
        let generated = generated.map_err(users)?;
        written?;
        super::print("\n")?;
        if generated.reason == Stop::PositionsMax {
            super::note("the model reads no further: /new starts anew");
        }
        Ok(generated.text)
    }
}

/// The conversation in a JSON file: a list of objects with `role` and `content`.
pub fn read_messages(path: &Path) -> anyhow::Result<Vec<Message>> {
    let fault = |what: String| UserFault::new(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let hint = "write a JSON list such as [{\"role\": \"user\", \"content\": \"Hello\"}]; tool calls and parts of other kinds are \
                not supported";
    let messages: Vec<Message> = serde_json::from_str(&text).map_err(|error| fault(error.to_string()).hint(hint))?;
    match messages.is_empty() {
        true => Err(fault("there are no messages".to_owned()).hint(hint).into()),
        false => Ok(messages),
    }
}
