//! What a checkpoint remembers beside weights and moments.

use crate::{Settings, TrainError};
use corpus::Cursor;
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
    /// As stored, with the settings that decide what the next steps are.
    pub fn to_json(self, settings: &Settings) -> Value {
        json!({
            "step": self.step,
            "cursor": { "epoch": self.cursor.epoch, "row": self.cursor.row },
            "seed": settings.seed,
            "rows": settings.batch.rows,
            "sequence_length": settings.data.sequence_length,
        })
    }

    /// As read from a checkpoint, refused when it belongs to a run that reads its data in another order.
    pub fn from_json(value: &Value, settings: &Settings, folder: &Path) -> Result<Self, TrainError> {
        let number = |field: &'static str, value: &Value| {
            value.as_u64().ok_or_else(|| TrainError::State { folder: folder.to_owned(), field })
        };
        let wanted = [
            ("seed", settings.seed),
            ("rows", settings.batch.rows as u64),
            ("sequence_length", settings.data.sequence_length as u64),
        ];
        for (what, wanted) in wanted {
            let found = number(what, &value[what])?;
            if found != wanted {
                let (found, wanted) = (found.to_string(), wanted.to_string());
                return Err(TrainError::OtherRun { folder: folder.to_owned(), what, found, wanted });
            }
        }
        let cursor = &value["cursor"];
        Ok(Self {
            step: number("step", &value["step"])?,
            cursor: Cursor { epoch: number("cursor", &cursor["epoch"])?, row: number("cursor", &cursor["row"])? },
        })
    }
}
