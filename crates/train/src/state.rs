//! What a checkpoint remembers beside weights and moments.

use crate::{Settings, TrainError};
use corpus::{Corpus, Cursor};
use serde_json::{Value, json};
use std::path::Path;

/// Where a run stands. Everything else that resuming needs is a function of the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// The next row to read.
    pub cursor: Cursor,
}

impl State {
    /// As stored, with what decides the order and the meaning of the next steps.
    pub fn to_json(self, settings: &Settings, corpus: &Corpus) -> Value {
        let mut value = identity(settings, corpus);
        value["step"] = json!(self.step);
        value["cursor"] = json!({ "epoch": self.cursor.epoch, "row": self.cursor.row });
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
        let number = |field: &'static str, value: &Value| value.as_u64().ok_or_else(|| missing(field));
        let cursor = &value["cursor"];
        Ok(Self {
            step: number("step", &value["step"])?,
            cursor: Cursor { epoch: number("cursor", &cursor["epoch"])?, row: number("cursor", &cursor["row"])? },
        })
    }
}

/// What a resumed run must have in common with the one that saved.
const IDENTITY: [&str; 6] =
    ["seed", "rows", "sequence_length", "isolate_documents", "training text", "validation text"];

fn identity(settings: &Settings, corpus: &Corpus) -> Value {
    json!({
        "seed": settings.seed,
        "rows": settings.batch.rows,
        "sequence_length": settings.data.sequence_length,
        "isolate_documents": settings.data.isolate_documents,
        "training text": corpus.train.digest(),
        "validation text": corpus.validation.digest(),
    })
}
