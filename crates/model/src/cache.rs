//! Keys and values of tokens already read: a part's state between visits of the same sequences.

use burn::tensor::{Device, Int, Tensor, TensorData};
use std::ops::Range;

/// Per layer: keys and values `[rows, kv heads, tokens, head dim]`, plain. Of layers with a window only what later
/// queries can see.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    layers: Vec<Option<Layer>>,
    n_tokens: usize,
    /// Tokens to make room for at once.
    room: usize,
}

/// Keys and values with room for more, so that a token costs its own and not a copy of all before it.
#[derive(Clone, Debug)]
struct Layer {
    /// `[rows, kv heads, room, head dim]`.
    room: [Tensor<4>; 2],
    /// The tokens in it that are held.
    held: Range<usize>,
}

/// The least room for tokens yet to come.
const ROOM_MIN: usize = 64;

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty cache that moves nothing until it has been given more than `n_tokens`. Layers with a window make room as
    /// they need it.
    pub fn with_room(n_tokens: usize) -> Self {
        Self { room: n_tokens, ..Self::default() }
    }

    /// Tokens read, those included that windows have left behind.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// A cache with only these rows, in this order; a row may be taken several times.
    pub fn with_rows(self, rows: &[usize], device: &Device) -> Self {
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let rows: Tensor<1, Int> = Tensor::from_data(TensorData::new(rows.clone(), [rows.len()]), device);
        let of = |Layer { room, held }| Layer { room: room.map(|t: Tensor<4>| t.select(0, rows.clone())), held };
        Self { layers: self.layers.into_iter().map(|layer| layer.map(of)).collect(), ..self }
    }

    /// Appends a layer's new keys and values, and gives all that are held. With a window, the next call finds one less
    /// than it sees: its own token is not there yet.
    pub(crate) fn append(&mut self, layer: usize, new: [Tensor<4>; 2], window: Option<usize>) -> [Tensor<4>; 2] {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, || None);
        }
        let Layer { room, held } = match self.layers[layer].take() {
            Some(layer) => layer.append(new),
            None => Layer::new(new, if window.is_none() { self.room } else { 0 }),
        };
        let all = room.clone().map(|t| t.narrow(2, held.start, held.len()));
        let n_kept = window.map_or(held.len(), |window| held.len().min(window - 1));
        self.layers[layer] = (n_kept > 0).then_some(Layer { room, held: held.end - n_kept..held.end });
        all
    }

    /// Counts tokens that every block has appended.
    pub(crate) fn advance(&mut self, n_tokens: usize) {
        self.n_tokens += n_tokens;
    }
}

impl Layer {
    /// The first tokens, with room for `size` in all.
    fn new(first: [Tensor<4>; 2], size: usize) -> Self {
        let [_, _, n, _] = first[0].dims();
        let room = if size > n { first.map(|t| moved(t, size)) } else { first };
        Layer { room, held: 0..n }
    }

    /// In place while there is room; else everything moves to where there is twice as much.
    fn append(self, new: [Tensor<4>; 2]) -> Self {
        let Layer { room, held } = self;
        let ([rows, heads, size, e], [_, _, n_new, _]) = (room[0].dims(), new[0].dims());
        let (room, held) = if held.end + n_new <= size {
            (room, held)
        } else {
            let n = held.len();
            let size = (2 * (n + n_new)).max(ROOM_MIN);
            (room.map(|t| moved(t.narrow(2, held.start, n), size)), 0..n)
        };
        let end = held.end + n_new;
        let mut new = new.into_iter();
        let room = room.map(|t| {
            t.slice_assign([0..rows, 0..heads, held.end..end, 0..e], new.next().expect("invariant: keys and values"))
        });
        Layer { room, held: held.start..end }
    }
}

/// The tokens at the beginning of a place for `size`. Every token from now on reads all of it.
fn moved(t: Tensor<4>, size: usize) -> Tensor<4> {
    let [rows, heads, n, e] = t.dims();
    let larger = Tensor::zeros([rows, heads, size, e], (&t.device(), t.dtype()));
    let larger = larger.slice_assign([0..rows, 0..heads, 0..n, 0..e], t);
    kernels::hold_tensor_in_huge_pages(&larger);
    larger
}
