//! What moves between stages, and what stays.

use crate::{Architecture, Block};

/// Element kind of a carried tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// The run's compute dtype; differentiable or not as said beside it.
    Float,
    /// 32-bit integers.
    Int,
}

/// One named tensor of a carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarryTensor {
    /// Name (`hidden`, `positions`, `targets`...).
    pub name: &'static str,
    /// Element kind.
    pub element: Element,
    /// Whether a gradient comes back for it.
    pub differentiable: bool,
    /// Size after the leading `[rows, tokens]` dimensions; empty when there is none.
    pub inner: Vec<usize>,
}

/// The small ordered set of named tensors that one visit hands to the next, each `[rows, tokens, inner..]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carry(pub Vec<CarryTensor>);

/// One named tensor that stays on a rank between visits of the same sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTensor {
    /// Name (`keys 3`, `values 3`: per layer).
    pub name: String,
    /// Size per row and token.
    pub inner: Vec<usize>,
    /// Whether later segments send a gradient back into it.
    pub gradient: bool,
}

/// What a block keeps on its rank, keyed by sequence: keys and values of earlier segments. Empty for most blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(pub Vec<StateTensor>);

impl Carry {
    /// Elements of all its tensors for `rows` rows of `tokens` tokens; every one takes 4 bytes when floats are f32.
    pub fn n_elements(&self, rows: usize, tokens: usize) -> usize {
        self.0.iter().map(|tensor| rows * tokens * tensor.inner.iter().product::<usize>()).sum()
    }
}

fn integers(name: &'static str) -> CarryTensor {
    CarryTensor { name, element: Element::Int, differentiable: false, inner: Vec::new() }
}

impl Architecture {
    /// What the first block is given: `ids`, then what travels with every token ([`Architecture::carry_after`]).
    pub fn carry_in(&self) -> Carry {
        Carry(std::iter::once(integers("ids")).chain(companions()).collect())
    }

    /// What leaves `block` for the next one: `hidden` in the place of `ids`, and with it `positions`, `documents` (index
    /// of the token's document, so that attention can stop at borders), `targets` and their `weights`, so that only
    /// ranks with the first stage read data. Nothing leaves the head: the objective is applied where it is.
    pub fn carry_after(&self, block: Block) -> Carry {
        match block {
            Block::Embedding | Block::Attention(_) | Block::Mlp(_) => {
                let inner = vec![self.hidden_size];
                let hidden = CarryTensor { name: "hidden", element: Element::Float, differentiable: true, inner };
                Carry(std::iter::once(hidden).chain(companions()).collect())
            }
            Block::Head => Carry::default(),
        }
    }

    /// What `block` keeps of earlier tokens of the same sequence: keys and values of its layer, into which later
    /// segments send gradients.
    pub fn state(&self, block: Block) -> State {
        match block {
            Block::Attention(n) => {
                let inner = vec![self.num_key_value_heads, self.head_dim];
                let tensor =
                    |name: &str| StateTensor { name: format!("{name} {n}"), inner: inner.clone(), gradient: true };
                State(vec![tensor("keys"), tensor("values")])
            }
            Block::Embedding | Block::Mlp(_) | Block::Head => State::default(),
        }
    }
}

/// What travels with every token from the source to the objective.
fn companions() -> [CarryTensor; 4] {
    let weights = CarryTensor { name: "weights", element: Element::Float, differentiable: false, inner: Vec::new() };
    [integers("positions"), integers("documents"), integers("targets"), weights]
}
