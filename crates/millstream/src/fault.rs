//! Whose fault a failure is: the exit code tells.

use std::fmt::Display;

/// Something impossible was asked for; everything else that fails is our fault.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct UserFault {
    message: String,
    /// Ways out, a line each.
    pub hints: Vec<String>,
}

impl UserFault {
    /// A fault in a sentence.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), hints: Vec::new() }
    }

    /// The fault with a way out.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }
}

/// Panics of the `tokenizers` library about damaged files are caught where it is called and become errors: what the panic
/// says of itself is not shown as well.
pub fn keep_caught_panics_quiet() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |location| location.file());
        if !["tokenizers-", "spm_precompiled-"].iter().any(|library| file.contains(library)) {
            show(panic);
        }
    }));
}

/// Marks an error of a library as the user's: `read(..).map_err(users)?`. One that is keeps its ways out.
pub fn users(error: impl Into<anyhow::Error>) -> UserFault {
    error.into().downcast::<UserFault>().unwrap_or_else(|error| UserFault::new(in_full(&error)))
}

/// An error with its causes, without those that its text tells already.
pub fn in_full(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{}: {cause}", text.trim_end_matches('.'));
        }
    }
    text
}
