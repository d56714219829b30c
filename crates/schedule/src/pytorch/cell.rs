//! What a cell can say.

use mesh::{Microbatch, Stage};

/// What the letters of backward mean; PyTorch changed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Letters {
    /// `B` for the backward of the input, `W` of the weights, `BW` for both.
    Old,
    /// `I` for the backward of the input, `W` of the weights, `B` for both.
    New,
}

/// One step of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Nothing to do.
    Idle,
    /// One action.
    Action(CellAction),
    /// Actions of different microbatches side by side: `(0F3;7B1)OVERLAP_F_B`.
    Overlapped(Vec<CellAction>),
}

/// One action: `2F0`, `1UNSHARD`, `3SEND_F1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CellAction {
    /// On which stage.
    pub stage: Stage,
    /// What.
    pub op: CellOp,
    /// On which microbatch; `None` for work on the whole stage.
    pub microbatch: Option<Microbatch>,
}

/// The actions PyTorch knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellOp {
    /// `F`.
    Forward,
    /// `I`, in old letters `B`.
    BackwardInput,
    /// `W`.
    BackwardWeight,
    /// `B`, in old letters `BW`.
    Backward,
    /// `SEND_F`.
    SendActivation,
    /// `RECV_F`.
    RecvActivation,
    /// `SEND_B`.
    SendGradient,
    /// `RECV_B`.
    RecvGradient,
    /// `WAIT_SEND_F`: until the send is over and its buffer free.
    WaitSendActivation,
    /// `WAIT_SEND_B`.
    WaitSendGradient,
    /// `UNSHARD`.
    Unshard,
    /// `RESHARD`.
    Reshard,
    /// `REDUCE_GRAD`.
    ReduceGradients,
    /// `WAIT_REDUCE_GRAD`: until the reduction is over.
    WaitReduceGradients,
}

const OVERLAPPED: &str = "OVERLAP_F_B";

impl Letters {
    /// The letters of a file with these cells.
    pub(super) fn of<'a>(cells: impl Iterator<Item = &'a str>) -> Self {
        let (mut has_input, mut has_weight) = (false, false);
        for part in cells.flat_map(|cell| cell.split(['(', ')', ';'])) {
            match part.trim_matches(|c: char| c.is_ascii_digit() || c.is_whitespace()) {
                "BW" => return Letters::Old,
                "I" => has_input = true,
                "W" => has_weight = true,
                _ => {}
            }
        }
        if has_weight && !has_input { Letters::Old } else { Letters::New }
    }
}

impl Cell {
    /// The cell's actions in order.
    pub fn actions(&self) -> &[CellAction] {
        match self {
            Cell::Idle => &[],
            Cell::Action(action) => std::slice::from_ref(action),
            Cell::Overlapped(actions) => actions,
        }
    }

    /// The cell as the file writes it.
    pub fn text(&self, letters: Letters) -> String {
        match self {
            Cell::Idle => String::new(),
            Cell::Action(action) => action.text(letters),
            Cell::Overlapped(actions) => {
                let parts: Vec<String> = actions.iter().map(|action| action.text(letters)).collect();
                format!("({}){OVERLAPPED}", parts.join(";"))
            }
        }
    }

    /// The cell that a trimmed text writes; the error says what was wanted.
    pub(super) fn parse(text: &str, letters: Letters) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Cell::Idle);
        }
        let Some(parts) = text.strip_prefix('(') else { return CellAction::parse(text, letters).map(Cell::Action) };
        match parts.split_once(')') {
            Some((parts, OVERLAPPED)) => {
                let parts = parts.split(';').map(|part| CellAction::parse(part.trim(), letters));
                parts.collect::<Result<_, _>>().map(Cell::Overlapped)
            }
            _ => Err(format!("actions in brackets before {OVERLAPPED}, as in (0F3;7B1){OVERLAPPED}")),
        }
    }
}

impl CellAction {
    fn text(self, letters: Letters) -> String {
        let microbatch = self.microbatch.map_or(String::new(), |microbatch| microbatch.to_string());
        format!("{}{}{microbatch}", self.stage, self.op.text(letters))
    }

    fn parse(text: &str, letters: Letters) -> Result<Self, String> {
        let form = || "[stage][action][microbatch], as in 2F0 or 1UNSHARD".to_owned();
        let is_digit = |c: char| c.is_ascii_digit();
        let rest = text.trim_start_matches(is_digit);
        let op_text = rest.trim_end_matches(is_digit);
        let (stage, microbatch) = (&text[..text.len() - rest.len()], &rest[op_text.len()..]);
        let stage = Stage(stage.parse().ok().ok_or_else(form)?);
        let Some(op) = CellOp::ALL.into_iter().find(|op| op.text(letters) == op_text) else {
            let known: Vec<&str> = CellOp::ALL.iter().map(|op| op.text(letters)).collect();
            return Err(format!("one of the actions {} after the stage", known.join(", ")));
        };
        let microbatch = match (op.is_on_microbatch(), microbatch) {
            (true, "") => return Err(format!("a microbatch after {op_text}")),
            (true, microbatch) => Some(Microbatch(microbatch.parse().ok().ok_or_else(form)?)),
            (false, "") => None,
            (false, _) => return Err(format!("no microbatch after {op_text}, which is for the whole stage")),
        };
        Ok(Self { stage, op, microbatch })
    }
}

impl CellOp {
    /// All of them.
    pub const ALL: [CellOp; 14] = [
        CellOp::Forward,
        CellOp::BackwardInput,
        CellOp::BackwardWeight,
        CellOp::Backward,
        CellOp::SendActivation,
        CellOp::RecvActivation,
        CellOp::SendGradient,
        CellOp::RecvGradient,
        CellOp::WaitSendActivation,
        CellOp::WaitSendGradient,
        CellOp::Unshard,
        CellOp::Reshard,
        CellOp::ReduceGradients,
        CellOp::WaitReduceGradients,
    ];

    /// Whether it works on one microbatch; the others work on the whole stage.
    pub fn is_on_microbatch(self) -> bool {
        !matches!(self, CellOp::Unshard | CellOp::Reshard | CellOp::ReduceGradients | CellOp::WaitReduceGradients)
    }

    fn text(self, letters: Letters) -> &'static str {
        match (self, letters) {
            (CellOp::Forward, _) => "F",
            (CellOp::BackwardInput, Letters::New) => "I",
            (CellOp::BackwardInput, Letters::Old) => "B",
            (CellOp::BackwardWeight, _) => "W",
            (CellOp::Backward, Letters::New) => "B",
            (CellOp::Backward, Letters::Old) => "BW",
            (CellOp::SendActivation, _) => "SEND_F",
            (CellOp::RecvActivation, _) => "RECV_F",
            (CellOp::SendGradient, _) => "SEND_B",
            (CellOp::RecvGradient, _) => "RECV_B",
            (CellOp::WaitSendActivation, _) => "WAIT_SEND_F",
            (CellOp::WaitSendGradient, _) => "WAIT_SEND_B",
            (CellOp::Unshard, _) => "UNSHARD",
            (CellOp::Reshard, _) => "RESHARD",
            (CellOp::ReduceGradients, _) => "REDUCE_GRAD",
            (CellOp::WaitReduceGradients, _) => "WAIT_REDUCE_GRAD",
        }
    }
}
