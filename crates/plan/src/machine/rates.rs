//! How fast a device does what.

use super::{Device, Precision};
use std::collections::BTreeMap;

/// How much of a device's peaks is reached. Few numbers, each with a meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Efficiency {
    /// Share of the peak that large matrix products sustain in a long run, when the device is as warm as it gets.
    pub product: f64,
    /// The same for the products of backward; `None` where it is not known to differ.
    pub product_backward: Option<f64>,
    /// Size of a product's side at which half of that is lost: a side of `x` reaches `x / (x + half)`; 0 for none.
    pub product_half: f64,
    /// Share of the peak that grouped products of experts sustain.
    pub grouped: f64,
    /// Share of the peak that a fused attention's forward reaches, counted over the pairs that a causal mask leaves.
    pub attention: f64,
    /// Its backward, five products over the same pairs.
    pub attention_backward: f64,
    /// Share of the memory's bandwidth that element-wise operations reach.
    pub memory: f64,
    /// The share of it that norms, activations and additions reach, counted as if each read and wrote its operands once:
    /// less where they are not fused. `None` for `memory`.
    pub elementwise: Option<f64>,
    /// Share that permuting tokens to experts reaches.
    pub permute: f64,
    /// Share that the loss over the vocabulary reaches.
    pub loss: f64,
    /// Share that the optimizer's update reaches; `None` for that of element-wise operations.
    pub update: Option<f64>,
    /// Seconds that every memory-bound operation takes beside its bytes.
    pub operation_s: f64,
    /// Operations measured one by one; what is not among them has the shares above. Nothing runs faster than
    /// `product` for long, however fast it was alone.
    pub measured: Option<Measured>,
}

/// Shares of the peak by shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// `(m, k, n, layout)`.
    pub products: BTreeMap<(usize, usize, usize, Layout), f64>,
    /// Groups of `(groups, m, n, k, layout)`.
    pub grouped: BTreeMap<(usize, usize, usize, usize, Layout), f64>,
    /// Forward and backward, counted over the causal pairs.
    pub attention: BTreeMap<AttentionShape, (f64, f64)>,
}

/// What a fused attention was measured on, one row of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttentionShape {
    /// Tokens of the row.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_value_heads: usize,
    /// Width of a query and of a key.
    pub key_width: usize,
    /// Width of a value.
    pub value_width: usize,
}

/// Which of a linear layer's three products: as vendors' libraries name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Forward, `[m, k] [n, k]^T`.
    Tn,
    /// Gradient of the input, `[m, k] [k, n]`.
    Nn,
    /// Gradient of the weight, `[k, m]^T [k, n]`, added up in 32 bits.
    Nt,
}

/// Products that take longer than this run at the speed the device sustains.
const LONG_S: f64 = 2e-3;

impl Measured {
    /// The share that the device sustains: the middle one of the products that take long. Short ones measured alone run on
    /// a cool device with a higher clock; in a training step, where products follow products, nothing does.
    /// `None` without a long one.
    pub fn sustained(&self, peak_flops_per_s: f64) -> Option<f64> {
        let seconds =
            |(m, k, n): (usize, usize, usize), share: f64| 2.0 * (m * k * n) as f64 / (peak_flops_per_s * share);
        let products = self.products.iter();
        let long = products.filter(|&(&(m, k, n, _), &share)| seconds((m, k, n), share) > LONG_S);
        let mut shares: Vec<f64> = long.map(|(_, &share)| share).collect();
        shares.sort_by(f64::total_cmp);
        match (shares.len(), shares.len() / 2) {
            (0, _) => None,
            (n, middle) if n % 2 == 1 => Some(shares[middle]),
            (_, middle) => Some((shares[middle - 1] + shares[middle]) / 2.0),
        }
    }
}

impl Device {
    /// Seconds of a product `[m, k] x [k, n]`: its operations at the share of its shape, or its bytes, `element_bytes` each,
    /// through memory, whichever is longer.
    pub fn product_s(&self, (m, k, n): (usize, usize, usize), layout: Layout, precision: Precision) -> f64 {
        let efficiency = &self.efficiency;
        let measured = efficiency.measured.as_ref().and_then(|measured| measured.products.get(&(m, k, n, layout)));
        let share = match measured {
            Some(share) => share.min(efficiency.product),
            None => efficiency.of_product(layout) * self.saturation(m) * self.saturation(k) * self.saturation(n),
        };
        let flops = 2.0 * m as f64 * k as f64 * n as f64;
        let element_bytes = precision.bytes();
        let elements = m as f64 * k as f64 + k as f64 * n as f64 + m as f64 * n as f64;
        let through_memory = elements * element_bytes / (self.memory_bytes_per_s * efficiency.memory);
        (flops / (self.peak.of(precision) * share)).max(through_memory)
    }

    /// Seconds of `groups` products at once.
    pub fn grouped_s(
        &self,
        groups: usize,
        (m, k, n): (usize, usize, usize),
        layout: Layout,
        precision: Precision,
    ) -> f64 {
        let efficiency = &self.efficiency;
        // Measured with as many rows as were divided evenly, rounded to a multiple of the tile.
        let measured = efficiency.measured.as_ref().and_then(|measured| {
            let of_shape = measured
                .grouped
                .iter()
                .filter(|((g, _, wide, deep, l), _)| (*g, *wide, *deep, *l) == (groups, n, k, layout));
            let near = of_shape.min_by_key(|((_, rows, ..), _)| rows.abs_diff(m))?;
            (near.0.1.abs_diff(m) * 20 <= m).then_some(*near.1)
        });
        let share = match measured {
            Some(share) => share.min(efficiency.product),
            None => efficiency.of_grouped(layout) * self.saturation(m) * self.saturation(k) * self.saturation(n),
        };
        let flops = 2.0 * groups as f64 * m as f64 * k as f64 * n as f64;
        let elements = groups as f64 * (m as f64 * k as f64 + k as f64 * n as f64 + m as f64 * n as f64);
        let through_memory = elements * precision.bytes() / (self.memory_bytes_per_s * efficiency.memory);
        (flops / (self.peak.of(precision) * share)).max(through_memory)
    }

    /// Seconds of moving `bytes` through memory at `share` of its bandwidth, with the time every operation takes.
    pub fn stream_s(&self, bytes: f64, share: f64) -> f64 {
        bytes / (self.memory_bytes_per_s * share) + self.efficiency.operation_s
    }

    fn saturation(&self, side: usize) -> f64 {
        side as f64 / (side as f64 + self.efficiency.product_half)
    }
}

impl Efficiency {
    /// Of long products of backward.
    pub fn backward(&self) -> f64 {
        self.product_backward.unwrap_or(self.product)
    }

    /// Of norms, activations and additions.
    pub fn of_elementwise(&self) -> f64 {
        self.elementwise.unwrap_or(self.memory)
    }

    /// Of the optimizer's update.
    pub fn of_update(&self) -> f64 {
        self.update.unwrap_or(self.memory)
    }

    fn of_product(&self, layout: Layout) -> f64 {
        match layout {
            Layout::Tn => self.product,
            Layout::Nn | Layout::Nt => self.backward(),
        }
    }

    fn of_grouped(&self, layout: Layout) -> f64 {
        self.grouped * self.of_product(layout) / self.product
    }
}

impl Precision {
    /// Bytes of an element.
    pub fn bytes(self) -> f64 {
        match self {
            Precision::F32 => 4.0,
            Precision::Bf16 => 2.0,
            Precision::Fp8 => 1.0,
        }
    }
}
