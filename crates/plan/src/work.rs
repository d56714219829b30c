//! The operations of a half-layer, one by one, and how long they take.

use crate::degrees::{Batch, Degrees};
use crate::description::{Activation, Attention, Core, Cut, Description, Experts, Mlp, Product};
use crate::machine::{AttentionShape, Collective, Device, Machine, Path, ProductLayout};
use crate::software::{AttentionKernel, BetweenProducts, Dropout, Software};

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// A product `[m, k] x [k, n]`.
    Product {
        /// `(m, k, n)`.
        size: (usize, usize, usize),
        /// Which of a layer's three.
        layout: ProductLayout,
    },
    /// As many products at once as there are experts here, or heads.
    Grouped {
        /// How many.
        groups: usize,
        /// `(m, k, n)` of each one's forward; its gradients are products of the same sides.
        size: (usize, usize, usize),
        /// Which of a layer's three.
        layout: ProductLayout,
    },
    /// The products of a fused attention.
    Attention {
        /// Rows of the microbatch.
        rows: usize,
        /// Tokens of each.
        tokens: usize,
        /// What lies here, heads already divided.
        core: Core,
        /// Which pass.
        pass: AttentionPass,
    },
    /// Bytes through memory.
    Stream {
        /// Read and written.
        bytes: f64,
        /// In what kind of operation.
        kind: Stream,
    },
    /// Something done with other ranks.
    Collective {
        /// What.
        collective: Collective,
        /// Of which group.
        group: Group,
        /// Of the whole tensor, see [`Machine::collective_s`].
        bytes: f64,
    },
}

/// Passes of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionPass {
    /// Two products.
    Forward,
    /// Five: scores again, and the gradients of values, probabilities, queries and keys.
    Backward,
}

/// Kinds of memory-bound operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Norms, activations, additions, copies.
    Elementwise,
    /// Tokens to experts and back.
    Permute,
    /// Cross-entropy over the vocabulary.
    Loss,
}

/// Ranks that work on one layer together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Of the tensor axis.
    Tensor,
    /// Of the context axis.
    Context,
    /// Of the expert axis.
    Expert,
}

/// The works of the three passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passes {
    /// Forward.
    pub forward: Vec<Work>,
    /// Backward of the input, everything that is no product for a weight's gradient.
    pub input: Vec<Work>,
    /// Backward of the weights.
    pub weight: Vec<Work>,
}

/// Seconds of the three passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PassSeconds {
    /// Forward.
    pub forward: f64,
    /// Backward of the input.
    pub input: f64,
    /// Backward of the weights.
    pub weight: f64,
}

/// What works are written down for.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Conventions.
    pub software: &'a Software,
    /// How the model is divided.
    pub degrees: Degrees,
    /// Rows of a microbatch on one replica, and their tokens.
    pub microbatch: Batch,
}

/// Copies around an all-to-all of attention: into the order that is sent, out of the one received, and into the order in
/// which a row's tokens follow each other.
const CONTEXT_COPIES: f64 = 3.0;
/// Element-wise operations of a router: softmax, choice of experts, their weights, counts and the balancing loss.
const ROUTER_OPERATIONS: usize = 4;

impl Setting<'_> {
    /// Tokens of a microbatch on a rank, between products that are not split.
    pub fn tokens(&self) -> usize {
        self.microbatch.rows * self.microbatch.tokens / self.degrees.context
    }

    /// Tokens where tensor parallelism splits them.
    pub fn tokens_between(&self) -> usize {
        match self.software.between_products {
            BetweenProducts::Replicated => self.tokens(),
            BetweenProducts::Split => self.tokens() / self.degrees.tensor,
        }
    }

    fn element(&self) -> f64 {
        self.software.precision.bytes()
    }

    /// The works of the attention half of a layer.
    pub fn attention(&self, attention: &Attention, hidden: usize) -> Passes {
        let mut passes = Passes::default();
        let (tensor, context) = (self.degrees.tensor, self.degrees.context);
        let core = &attention.core;
        let n = self.tokens() as f64;
        self.norm(&mut passes, hidden);
        self.gather(&mut passes, hidden);
        for product in attention.products.iter().filter(|product| product.cut != Cut::Rows) {
            self.product(&mut passes, product, self.tokens());
            // A latent form has a norm before it is widened.
            if product.cut == Cut::Whole {
                self.stream(&mut passes, 2.0 * n * product.outputs as f64, 3.0 * n * product.outputs as f64);
            }
        }
        let part = |width: usize| n * width as f64 / tensor as f64;
        // Rotary angles turn queries and keys.
        let turned = part(core.query_width() + core.key_value_heads * core.key_width);
        self.stream(&mut passes, 2.0 * turned, 2.0 * turned);
        if attention.products.iter().any(|product| product.name == "kv_up") {
            // Keys are put together from two parts, values cut out.
            let (keys, values) = (part(core.query_width()), part(core.output_width()));
            self.stream(&mut passes, 2.0 * keys, 2.0 * keys);
            self.stream(&mut passes, 2.0 * values, 2.0 * values);
        }
        let (queries, keys) = (part(core.query_width()), part(core.key_value_heads * core.key_width));
        let values = part(core.key_value_heads * core.value_width);
        if context > 1 {
            for elements in [queries, keys, values] {
                self.exchange(&mut passes, elements);
            }
        }
        let here = Core {
            heads: core.heads / (tensor * context),
            key_value_heads: (core.key_value_heads / (tensor * context)).max(1),
            ..*core
        };
        self.core(&mut passes, here);
        if context > 1 {
            self.exchange(&mut passes, part(core.output_width()));
        }
        for product in attention.products.iter().filter(|product| product.cut == Cut::Rows) {
            self.product(&mut passes, product, self.tokens());
        }
        self.reduce(&mut passes, hidden);
        self.residual(&mut passes, hidden);
        passes
    }

    /// The works of the MLP half of a layer.
    pub fn mlp(&self, mlp: &Mlp, hidden: usize) -> Passes {
        let mut passes = Passes::default();
        let tensor = self.degrees.tensor as f64;
        self.norm(&mut passes, hidden);
        self.gather(&mut passes, hidden);
        let mut has_rows = false;
        for product in &mlp.products {
            if product.cut == Cut::Whole {
                self.router(&mut passes, product);
                continue;
            }
            if product.cut == Cut::Rows
                && let Some(activation) = mlp.activation
            {
                self.activation(&mut passes, activation, self.tokens() as f64 / tensor);
            }
            has_rows |= product.cut == Cut::Rows;
            self.product(&mut passes, product, self.tokens());
        }
        if has_rows {
            self.reduce(&mut passes, hidden);
        }
        if let Some(experts) = &mlp.experts {
            self.experts(&mut passes, experts, hidden);
            if has_rows {
                // The shared experts' output is added.
                self.residual(&mut passes, hidden);
            }
        }
        self.residual(&mut passes, hidden);
        passes
    }

    /// Looking tokens up.
    pub fn embedding(&self, hidden: usize) -> Passes {
        let mut passes = Passes::default();
        let elements = (self.tokens_between() * hidden) as f64;
        self.stream(&mut passes, 2.0 * elements, 4.0 * elements);
        self.reduce(&mut passes, hidden);
        passes
    }

    /// Final norm, product with the vocabulary, loss.
    pub fn head(&self, model: &Description) -> Passes {
        let mut passes = Passes::default();
        let hidden = model.hidden_size;
        let rows = self.software.vocabulary_on(model.vocab_size, self.degrees.tensor);
        self.norm(&mut passes, hidden);
        self.gather(&mut passes, hidden);
        let whole = Product { name: "head", inputs: hidden, outputs: rows, cut: Cut::Whole, bias: 0 };
        self.product(&mut passes, &whole, self.tokens());
        let logits = (self.tokens() * rows) as f64;
        let (element, kind) = (self.element(), Stream::Loss);
        // Read twice and written once; the gradient is scaled in its place.
        passes.forward.push(Work::Stream { bytes: 3.0 * logits * element, kind });
        passes.input.push(Work::Stream { bytes: 2.0 * logits * element, kind });
        if self.degrees.tensor > 1 {
            // Largest logit, sum of exponentials, target's logit.
            let bytes = 4.0 * self.tokens() as f64;
            let work = Work::Collective { collective: Collective::AllReduce, group: Group::Tensor, bytes };
            passes.forward.extend([work; 3]);
        }
        passes
    }

    fn product(&self, passes: &mut Passes, product: &Product, tokens: usize) {
        let tensor = self.degrees.tensor;
        let (k, n) = match product.cut {
            Cut::Columns => (product.inputs, product.outputs.div_ceil(tensor)),
            Cut::Rows => (product.inputs.div_ceil(tensor), product.outputs),
            Cut::Whole => (product.inputs, product.outputs),
        };
        let m = tokens;
        passes.forward.push(Work::Product { size: (m, k, n), layout: ProductLayout::Tn });
        passes.input.push(Work::Product { size: (m, n, k), layout: ProductLayout::Nn });
        passes.weight.push(Work::Product { size: (n, m, k), layout: ProductLayout::Nt });
    }

    /// Elements of the precision, forward and backward.
    fn stream(&self, passes: &mut Passes, forward: f64, backward: f64) {
        let (element, kind) = (self.element(), Stream::Elementwise);
        passes.forward.push(Work::Stream { bytes: forward * element, kind });
        passes.input.push(Work::Stream { bytes: backward * element, kind });
    }

    fn norm(&self, passes: &mut Passes, hidden: usize) {
        let elements = (self.tokens_between() * hidden) as f64;
        self.stream(passes, 2.0 * elements, 3.0 * elements);
    }

    fn residual(&self, passes: &mut Passes, hidden: usize) {
        let elements = (self.tokens_between() * hidden) as f64;
        // A mask is a byte an element.
        let mask = match self.software.dropout {
            Dropout::Off => 0.0,
            Dropout::On => elements / self.element(),
        };
        // Two gradients meet; a mask is applied before.
        let gradient = if mask > 0.0 { 5.0 } else { 3.0 };
        self.stream(passes, 3.0 * elements + mask, gradient * elements + mask);
    }

    fn activation(&self, passes: &mut Passes, activation: Activation, tokens: f64) {
        let (inputs, outputs) = (activation.inputs() as f64 * tokens, activation.outputs() as f64 * tokens);
        self.stream(passes, inputs + outputs, 2.0 * inputs + outputs);
    }

    /// What comes before a product that is cut by columns.
    fn gather(&self, passes: &mut Passes, hidden: usize) {
        if self.degrees.tensor == 1 {
            return;
        }
        let bytes = (self.tokens() * hidden) as f64 * self.element();
        let of = |collective| Work::Collective { collective, group: Group::Tensor, bytes };
        match self.software.between_products {
            BetweenProducts::Replicated => passes.input.push(of(Collective::AllReduce)),
            BetweenProducts::Split => {
                passes.forward.push(of(Collective::AllGather));
                // Again for the weights' gradients, and the input's gradient.
                passes.input.extend([of(Collective::AllGather), of(Collective::ReduceScatter)]);
            }
        }
    }

    /// What comes after a product that is cut by rows.
    fn reduce(&self, passes: &mut Passes, hidden: usize) {
        if self.degrees.tensor == 1 {
            return;
        }
        let bytes = (self.tokens() * hidden) as f64 * self.element();
        let of = |collective| Work::Collective { collective, group: Group::Tensor, bytes };
        match self.software.between_products {
            BetweenProducts::Replicated => passes.forward.push(of(Collective::AllReduce)),
            BetweenProducts::Split => {
                passes.forward.push(of(Collective::ReduceScatter));
                passes.input.push(of(Collective::AllGather));
            }
        }
    }

    /// Tokens for heads: every rank of the context axis gets all tokens of its heads.
    fn exchange(&self, passes: &mut Passes, elements: f64) {
        let bytes = elements * self.element();
        let work = Work::Collective { collective: Collective::AllToAll, group: Group::Context, bytes };
        let copy = Work::Stream { bytes: 2.0 * CONTEXT_COPIES * bytes, kind: Stream::Elementwise };
        passes.forward.extend([work, copy]);
        passes.input.extend([work, copy]);
    }

    fn core(&self, passes: &mut Passes, core: Core) {
        let Batch { rows, tokens } = self.microbatch;
        match self.software.attention {
            AttentionKernel::Fused => {
                let of = |pass| Work::Attention { rows, tokens, core, pass };
                passes.forward.push(of(AttentionPass::Forward));
                passes.input.push(of(AttentionPass::Backward));
            }
            AttentionKernel::Unfused => {
                let groups = rows * core.heads;
                let of = |k, n, layout| Work::Grouped { groups, size: (tokens, k, n), layout };
                let (key, value) = (core.key_width, core.value_width);
                passes.forward.extend([of(key, tokens, ProductLayout::Tn), of(tokens, value, ProductLayout::Tn)]);
                passes.input.extend([
                    of(value, tokens, ProductLayout::Nn),
                    of(tokens, value, ProductLayout::Nn),
                    of(tokens, key, ProductLayout::Nn),
                    of(tokens, key, ProductLayout::Nn),
                ]);
                let scores = (groups * tokens * tokens) as f64;
                let (dropped, mask) = match self.software.dropout {
                    Dropout::Off => (0.0, 0.0),
                    Dropout::On => (2.0 * scores, scores / self.element()),
                };
                self.stream(passes, 2.0 * scores + dropped + mask, 3.0 * scores + dropped + mask);
            }
        }
    }

    fn router(&self, passes: &mut Passes, product: &Product) {
        self.product(passes, product, self.tokens_between());
        // In 32 bits.
        let bytes = 12.0 * (self.tokens_between() * product.outputs) as f64;
        let work = Work::Stream { bytes, kind: Stream::Elementwise };
        passes.forward.extend([work; ROUTER_OPERATIONS]);
        passes.input.extend([work; ROUTER_OPERATIONS]);
    }

    /// Every token to the ranks of its experts, through them, and back. Loads are even.
    fn experts(&self, passes: &mut Passes, experts: &Experts, hidden: usize) {
        let tokens = self.tokens_between();
        let sent = tokens * experts.per_token;
        let (one, all) = ((tokens * hidden) as f64 * self.element(), (sent * hidden) as f64 * self.element());
        let permute = |passes: &mut Passes, bytes: f64| {
            let work = Work::Stream { bytes, kind: Stream::Permute };
            passes.forward.push(work);
            passes.input.push(work);
        };
        let exchange = |passes: &mut Passes| {
            if self.degrees.expert > 1 {
                let work = Work::Collective { collective: Collective::AllToAll, group: Group::Expert, bytes: all };
                passes.forward.push(work);
                passes.input.push(work);
            }
        };
        // Copied once for each expert, sent, sorted by expert; the way back is the same.
        permute(passes, one + 2.0 * all);
        exchange(passes);
        permute(passes, 2.0 * all);
        let groups = experts.n / self.degrees.expert;
        let m = sent.div_ceil(groups);
        for product in &experts.products {
            if product.cut == Cut::Rows {
                self.activation(passes, experts.activation, sent as f64);
            }
            let (k, n) = (product.inputs, product.outputs);
            let of = |layout| Work::Grouped { groups, size: (m, k, n), layout };
            passes.forward.push(of(ProductLayout::Tn));
            passes.input.push(of(ProductLayout::Nn));
            passes.weight.push(of(ProductLayout::Nt));
        }
        permute(passes, 2.0 * all);
        exchange(passes);
        permute(passes, one + 2.0 * all);
    }
}

/// How works become seconds: a device and the ways of its groups.
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Of this device.
    pub device: &'a Device,
    /// The format of products.
    pub software: &'a Software,
    /// The way of the tensor axis.
    pub tensor: Path,
    /// The way of the context axis.
    pub context: Path,
    /// The way of the expert axis.
    pub expert: Path,
}

impl Clock<'_> {
    /// Seconds of one work.
    pub fn seconds(&self, work: Work) -> f64 {
        let device = self.device;
        let efficiency = &device.efficiency;
        let precision = self.software.precision;
        match work {
            Work::Product { size, layout } => device.product_s(size, layout, precision),
            Work::Grouped { groups, size, layout } => device.grouped_s(groups, size, layout, precision),
            Work::Attention { rows, tokens, core, pass } => self.attention_s(rows, tokens, core, pass),
            Work::Stream { bytes, kind } => {
                let share = match kind {
                    Stream::Elementwise => efficiency.of_elementwise(),
                    Stream::Permute => efficiency.permute,
                    Stream::Loss => efficiency.loss,
                };
                device.stream_s(bytes, share)
            }
            Work::Collective { collective, group, bytes } => {
                let path = match group {
                    Group::Tensor => &self.tensor,
                    Group::Context => &self.context,
                    Group::Expert => &self.expert,
                };
                self.machine.collective_s(collective, bytes, path)
            }
        }
    }

    /// Seconds of all passes.
    pub fn passes(&self, passes: &Passes) -> PassSeconds {
        let sum = |works: &[Work]| works.iter().map(|&work| self.seconds(work)).sum();
        PassSeconds { forward: sum(&passes.forward), input: sum(&passes.input), weight: sum(&passes.weight) }
    }

    fn attention_s(&self, rows: usize, tokens: usize, core: Core, pass: AttentionPass) -> f64 {
        let efficiency = &self.device.efficiency;
        let pairs = (rows * core.heads) as f64 * core.causal_pairs(tokens) as f64;
        let measured = efficiency.measured.as_ref().and_then(|measured| {
            let Core { heads, key_value_heads, key_width, value_width, .. } = core;
            let shape = AttentionShape { tokens, heads, key_value_heads, key_width, value_width };
            measured.attention.get(&shape)
        });
        let (key, value) = (core.key_width as f64, core.value_width as f64);
        let (flops, share) = match pass {
            AttentionPass::Forward => {
                (2.0 * pairs * (key + value), measured.map_or(efficiency.attention, |(forward, _)| *forward))
            }
            AttentionPass::Backward => (
                2.0 * pairs * (3.0 * key + 2.0 * value),
                measured.map_or(efficiency.attention_backward, |(_, backward)| *backward),
            ),
        };
        flops / (self.device.peak.of(self.software.precision) * share.min(efficiency.product))
    }
}

impl PassSeconds {
    /// All three.
    pub fn total(&self) -> f64 {
        self.forward + self.input + self.weight
    }

    /// Added up.
    pub fn plus(self, other: Self) -> Self {
        Self {
            forward: self.forward + other.forward,
            input: self.input + other.input,
            weight: self.weight + other.weight,
        }
    }
}
