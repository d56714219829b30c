//! The pipeline files of torch.distributed.pipelining: CSV, one row per rank, one cell per step, an empty cell where the
//! rank is idle.
//!
//! PyTorch reads two dialects (`_load_csv(filename, format)` of its schedules):
//!
//! - `compute_only`: `F`, `I`, `W`, `B` and [overlapped](Cell::Overlapped) pairs of them. PyTorch inserts the rest.
//! - `compute_comms`: also `UNSHARD`, `RESHARD`, `REDUCE_GRAD`, the sends and receives, and (from the release that has
//!   them, as 2.15) a wait for every send and every reduction. It is played as it stands.
//!
//! And there are two alphabets: see [`Letters`].
//!
//! [`Table`] is such a file cell by cell and loses nothing of it. A [`Schedule`](crate::Schedule) comes from one and goes
//! into one; what the file cannot say is refused, and what it does not need is left out:
//!
//! - The file has no optimizer step; a schedule that is read gets one for every stage, at the end of its rank's list.
//! - Waits are not read: our sends do not wait. They are written, because PyTorch wants them.
//! - Overlapped actions are read one after the other, and not written.
//! - Idle cells only move PyTorch's sends and receives ([`Table::schedule_in_lockstep`]); they are not written, since
//!   PyTorch's loader wants none in `compute_comms` and drops them in `compute_only`.

mod cell;
mod read;
mod write;

pub use cell::{Cell, CellAction, CellOp, Letters};

use crate::ScheduleError;
use std::fmt;
use std::str::FromStr;

/// A pipeline file as it stands. Printed as the file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What its letters mean.
    pub letters: Letters,
    /// `ranks[r]` is row `r`; rows may differ in length.
    pub ranks: Vec<Vec<Cell>>,
}

impl FromStr for Table {
    type Err = ScheduleError;

    /// The table that a file's text holds; blank lines at its end are no ranks. Its letters are the [old](Letters::Old)
    /// ones if it has a `BW`, or a `W` and no `I`: in the new letters a `W` cannot be without its `I`.
    ///
    /// # Errors
    /// [`ScheduleError::PytorchCell`]: the first cell that holds no action.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        // A blank line is a rank without work; at the end of the file it is none.
        let rows = text.trim_end().lines().map(|line| match line.trim() {
            "" => Vec::new(),
            line => line.split(',').map(|cell| cell.trim().trim_matches('"').trim()).collect::<Vec<&str>>(),
        });
        let rows: Vec<Vec<&str>> = rows.collect();
        let letters = Letters::of(rows.iter().flatten().copied());
        let mut ranks = Vec::with_capacity(rows.len());
        for (row, cells) in rows.iter().enumerate() {
            let mut rank = Vec::with_capacity(cells.len());
            for (column, text) in cells.iter().enumerate() {
                let cell = Cell::parse(text, letters).map_err(|wanted| error(row, column, text, wanted))?;
                rank.push(cell);
            }
            ranks.push(rank);
        }
        Ok(Self { letters, ranks })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.ranks {
            match row.as_slice() {
                // An empty line would be a row without cells.
                [Cell::Idle] => writeln!(f, "\"\"")?,
                row => {
                    let cells: Vec<String> = row.iter().map(|cell| cell.text(self.letters)).collect();
                    writeln!(f, "{}", cells.join(","))?;
                }
            }
        }
        Ok(())
    }
}

/// What is wrong with the cell in this row and column, counted from 0.
fn error(row: usize, column: usize, found: &str, wanted: String) -> ScheduleError {
    ScheduleError::PytorchCell { row: row + 1, column: column + 1, found: found.to_owned(), wanted }
}
