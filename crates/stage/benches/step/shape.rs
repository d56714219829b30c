//! What is trained, and how much of it.

use architecture::{Architecture, from_config_json};

/// Sizes of a Llama and of a step.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ff: usize,
    pub vocabulary: usize,
    pub tokens: usize,
    pub rows: usize,
    pub microbatches: usize,
    pub steps: usize,
    pub threads: usize,
}

impl Shape {
    /// What comparisons begin with.
    pub const fn default() -> Self {
        Self {
            hidden: 512,
            layers: 6,
            heads: 8,
            kv_heads: 8,
            ff: 1408,
            vocabulary: 8192,
            tokens: 512,
            rows: 4,
            microbatches: 1,
            steps: 10,
            threads: 2,
        }
    }

    /// With other sizes, by name.
    ///
    /// # Panics
    /// When there is none of the name, or what is given for it is no number.
    pub fn with(mut self, sizes: &[(String, String)]) -> Self {
        for (name, value) in sizes {
            let size = match name.as_str() {
                "hidden" => &mut self.hidden,
                "layers" => &mut self.layers,
                "heads" => &mut self.heads,
                "kv-heads" => &mut self.kv_heads,
                "ff" => &mut self.ff,
                "vocabulary" => &mut self.vocabulary,
                "tokens" => &mut self.tokens,
                "rows" => &mut self.rows,
                "microbatches" => &mut self.microbatches,
                "steps" => &mut self.steps,
                "threads" => &mut self.threads,
                _ => panic!("--{name}: wanted one of those that the head of main.rs lists"),
            };
            *size = value.parse().unwrap_or_else(|_| panic!("--{name} {value}: wanted a number"));
        }
        self
    }

    /// By name, as [`Shape::with`] takes them.
    pub fn sizes(&self) -> [(&'static str, usize); 9] {
        [
            ("hidden", self.hidden),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv-heads", self.kv_heads),
            ("ff", self.ff),
            ("vocabulary", self.vocabulary),
            ("tokens", self.tokens),
            ("rows", self.rows),
            ("threads", self.threads),
        ]
    }

    pub fn architecture(&self) -> Architecture {
        let Self { hidden, layers, heads, kv_heads, ff, vocabulary, tokens, .. } = self;
        let text = format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "num_hidden_layers": {layers},
                "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "intermediate_size": {ff},
                "vocab_size": {vocabulary}, "max_position_embeddings": {tokens}}}"#
        );
        from_config_json(&text).expect("a configuration")
    }

    pub fn tokens_of_step(&self) -> f64 {
        (self.rows * self.tokens) as f64
    }

    /// Of a step, attention under its causal mask.
    pub fn gflop(&self) -> f64 {
        self.architecture().training_flops_per_token(self.tokens) * self.tokens_of_step() / 1e9
    }
}
