//! Keys and values of tokens already read: a part's state between visits of the same sequence.

use burn::tensor::Tensor;

/// Per layer: keys and values `[rows, kv heads, tokens, head dim]`, plain. Of layers with a window only what later
/// queries can see.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    layers: Vec<Option<[Tensor<4>; 2]>>,
    n_tokens: usize,
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens read, those included that windows have left behind.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Appends a layer's new keys and values, and gives all that are held. With a window, the next call finds one less
    /// than it sees: its own token is not there yet.
    pub(crate) fn append(&mut self, layer: usize, new: [Tensor<4>; 2], window: Option<usize>) -> [Tensor<4>; 2] {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, || None);
        }
        let all = match self.layers[layer].take() {
            Some(held) => {
                let mut pairs = held.into_iter().zip(new);
                std::array::from_fn(|_| {
                    let (held, new) = pairs.next().expect("invariant: keys and values");
                    Tensor::cat(vec![held, new], 2)
                })
            }
            None => new,
        };
        let [_, _, n, _] = all[0].dims();
        let n_kept = window.map_or(n, |window| n.min(window - 1));
        self.layers[layer] = match n_kept {
            0 => None,
            kept if kept == n => Some(all.clone()),
            kept => Some(all.clone().map(|tensor| tensor.narrow(2, n - kept, kept))),
        };
        all
    }

    /// Counts tokens that every block has appended.
    pub(crate) fn advance(&mut self, n_tokens: usize) {
        self.n_tokens += n_tokens;
    }
}
