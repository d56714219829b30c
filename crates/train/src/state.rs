//! What a checkpoint remembers beside weights and moments.

use crate::{Settings, TrainError};
use corpus::{Corpus, MixtureCursor, Source, Tokens};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// Where a run stands. Everything else that resuming needs is a function of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// The next rows to read.
    pub cursor: MixtureCursor,
}

impl State {
    /// Before the first step.
    pub fn start(corpus: &Corpus) -> Self {
        Self { step: 0, cursor: MixtureCursor::start(corpus.sources.len()) }
    }

    /// As stored, with what decides the order and the meaning of the next steps.
    pub fn to_json(&self, settings: &Settings, corpus: &Corpus) -> Value {
        let mut value = identity(settings, corpus);
        value["step"] = json!(self.step);
        value["cursor"] = serde_json::to_value(&self.cursor).expect("invariant: numbers have a JSON form");
        value
    }

    /// As read from a checkpoint, refused when it belongs to a run that reads other data, or in another order.
    pub fn from_json(value: &Value, settings: &Settings, corpus: &Corpus, folder: &Path) -> Result<Self, TrainError> {
        let missing = |field: &'static str| TrainError::State { folder: folder.to_owned(), field };
        let wanted = identity(settings, corpus);
        for what in IDENTITY {
            let found = value.get(what).ok_or_else(|| missing(what))?;
            if *found != wanted[what] {
                let (found, wanted) = (found.to_string(), wanted[what].to_string());
                return Err(TrainError::OtherRun { folder: folder.to_owned(), what, found, wanted });
            }
        }
        let step = value["step"].as_u64().ok_or_else(|| missing("step"))?;
        let cursor = MixtureCursor::deserialize(&value["cursor"]).map_err(|_other_shape| missing("cursor"))?;
        match cursor.sources.len() == corpus.sources.len() {
            true => Ok(Self { step, cursor }),
            false => Err(missing("cursor")),
        }
    }
}

/// What a resumed run must have in common with the one that saved.
const IDENTITY: [&str; 7] =
    ["seed", "rows", "sequence_length", "isolate_documents", "mixture", "training text", "validation text"];

fn identity(settings: &Settings, corpus: &Corpus) -> Value {
    let digests = |side: fn(&Source) -> &Tokens| corpus.sources.iter().map(side).map(Tokens::digest).collect::<Value>();
    json!({
        "seed": settings.seed,
        "rows": settings.batch.rows,
        "sequence_length": settings.data.sequence_length,
        "isolate_documents": settings.data.isolate_documents,
        "mixture": corpus.sources.iter().map(|source| json!([source.name, source.weight])).collect::<Value>(),
        "training text": digests(|source| &source.train),
        "validation text": digests(|source| &source.validation),
    })
}
