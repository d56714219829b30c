//! Which values of an architecture make sense together.

use crate::error::Problem;
use crate::{Architecture, ArchitectureError, Biases, Family, Positions, Rope, RopeScaling, Windows};

/// Layers that a model may have. More is a slip or a damaged file, and a list of them need not fit memory.
pub const LAYERS_MOST: usize = 1 << 13;

/// One thing that must hold.
pub(crate) struct Rule {
    /// Every field it reads, the one to blame first; named as most families have them.
    pub(crate) fields: &'static [&'static str],
    pub(crate) holds: bool,
    found: String,
    wanted: String,
}

impl Rule {
    pub(crate) fn into_problem(self) -> Problem {
        Problem { field: self.fields[0].into(), found: self.found, wanted: self.wanted }
    }
}

impl Architecture {
    /// Whether the values are usable and fit each other. [`crate::from_config_json`] has checked this already.
    ///
    /// # Errors
    /// [`ArchitectureError::Config`] with every rule that is broken. Fields are named as most families have them.
    pub fn check(&self) -> Result<(), ArchitectureError> {
        let problems: Vec<Problem> =
            self.rules().into_iter().filter(|rule| !rule.holds).map(Rule::into_problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(ArchitectureError::Config(problems)) }
    }

    pub(crate) fn rules(&self) -> Vec<Rule> {
        let token = |fields, id: u32| {
            let wanted = format!("a token id must be below `vocab_size`, which is {}", self.vocab_size);
            rule(fields, (id as usize) < self.vocab_size, id, &wanted)
        };
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let mut rules = vec![
            positive(&["hidden_size"], self.hidden_size),
            positive(&["num_hidden_layers"], self.num_hidden_layers),
            positive(&["num_attention_heads"], heads),
            positive(&["num_key_value_heads"], kv_heads),
            positive(&["intermediate_size"], self.intermediate_size),
            positive(&["vocab_size"], self.vocab_size),
            positive(&["max_position_embeddings"], self.max_position_embeddings),
            positive_number(&["rms_norm_eps"], self.norm_eps),
            rule(
                &["initializer_range"],
                (0.0..=1.0).contains(&self.initializer_range),
                self.initializer_range,
                "it must lie between 0 and 1",
            ),
            rule(
                &["num_key_value_heads", "num_attention_heads"],
                kv_heads == 0 || heads.is_multiple_of(kv_heads),
                kv_heads,
                &format!("it must divide `num_attention_heads`, which is {heads}"),
            ),
        ];
        rules.extend(self.rotary_rules());
        rules.extend(self.family_rules());
        rules.extend(self.bos_token_id.map(|id| token(&["bos_token_id", "vocab_size"], id)));
        rules.extend(self.eos_token_id.iter().map(|&id| token(&["eos_token_id", "vocab_size"], id)));
        rules.extend(self.pad_token_id.map(|id| token(&["pad_token_id", "vocab_size"], id)));
        rules
    }

    fn rotary_rules(&self) -> Vec<Rule> {
        let head_dim = &["head_dim", "hidden_size", "num_attention_heads"];
        match self.positions {
            Positions::Learned => vec![positive(head_dim, self.head_dim)],
            Positions::Rotary { full, sliding } => {
                let even = self.head_dim > 0 && self.head_dim.is_multiple_of(2);
                let wanted = "rotary embedding turns pairs, so it must be even and at least 2";
                let mut rules =
                    vec![rule(head_dim, even, self.head_dim, wanted), positive_number(&["rope_theta"], full.theta)];
                rules.extend(scaling_rules(full));
                if self.family == Family::Gemma3 {
                    rules.push(positive_number(&["rope_local_base_freq"], sliding.theta));
                } else {
                    let wanted = format!("in {} models it is `rope_theta`, which is {}", self.family, full.theta);
                    rules.push(rule(&["rope_local_base_freq"], sliding == full, sliding.theta, &wanted));
                }
                rules
            }
        }
    }

    /// What the family fixes.
    fn family_rules(&self) -> Vec<Rule> {
        let family = self.family;
        let fixed = |fields, biases, found: bool| {
            let (holds, word) = match biases {
                Biases::Never => (!found, "without"),
                Biases::Always => (found, "with"),
                Biases::Chosen => (true, "with or without"),
            };
            rule(fields, holds, found, &format!("{family} models are {word} these biases"))
        };
        let mut rules = vec![
            fixed(&["attention_bias"], family.attention_bias(), self.attention_bias),
            fixed(&["mlp_bias"], family.mlp_bias(), self.mlp_bias),
        ];
        if let Some(sliding) = &self.sliding {
            rules.push(positive(&["sliding_window"], sliding.window));
            // A count beyond the limit is refused by itself, and makes no list.
            let (n, layers) = (sliding.layers.len(), self.num_hidden_layers);
            let wanted = format!("there must be one for each of the {layers} layers");
            rules.push(rule(&["layer_types", "num_hidden_layers"], n == layers.min(LAYERS_MOST), n, &wanted));
            let allowed = match family.windows() {
                Windows::Never => false,
                Windows::AllLayers => sliding.layers.iter().all(|slides| *slides),
                Windows::ByLayer => true,
            };
            let wanted = match family.windows() {
                Windows::Never => format!("{family} models have no layers with a window"),
                Windows::AllLayers | Windows::ByLayer => format!("{family} models have a window on all layers or none"),
            };
            rules.push(rule(&["sliding_window"], allowed, sliding.window, &wanted));
        }
        let scalar = self.query_pre_attn_scalar;
        if family == Family::Gemma3 {
            rules.push(positive_number(&["query_pre_attn_scalar"], scalar));
        } else {
            let wanted = format!("in {family} models it is `head_dim`, which is {}", self.head_dim);
            rules.push(rule(&["query_pre_attn_scalar", "head_dim"], scalar == self.head_dim as f64, scalar, &wanted));
        }
        if !family.is_rotary() {
            let (heads, d) = (self.num_attention_heads, self.hidden_size);
            let wanted = format!("{family} models have as many as query heads, which are {heads}");
            let holds = self.num_key_value_heads == heads;
            rules.push(rule(&["num_key_value_heads", "num_attention_heads"], holds, self.num_key_value_heads, &wanted));
            let wanted =
                format!("in {family} models the {heads} heads together are as wide as the model, which is {d}");
            let head_dim = &["head_dim", "hidden_size", "num_attention_heads"];
            rules.push(rule(head_dim, self.head_dim * heads == d, self.head_dim, &wanted));
        }
        rules.extend(self.limits());
        rules
    }

    /// What a slip or a damaged file exceeds and no model does. Up to here, counts of parameters and operations fit 64
    /// bits, and lists of layers fit memory.
    fn limits(&self) -> Vec<Rule> {
        const PARAMETERS_MOST: f64 = 1e13;
        let sizes: [(&[&str], usize); 8] = [
            (&["hidden_size"], self.hidden_size),
            (&["num_attention_heads"], self.num_attention_heads),
            (&["num_key_value_heads"], self.num_key_value_heads),
            (&["head_dim", "hidden_size", "num_attention_heads"], self.head_dim),
            (&["intermediate_size"], self.intermediate_size),
            (&["vocab_size"], self.vocab_size),
            (&["max_position_embeddings"], self.max_position_embeddings),
            (&["num_hidden_layers"], self.num_hidden_layers),
        ];
        let most = |fields: &[&str]| if fields[0] == "num_hidden_layers" { LAYERS_MOST } else { i32::MAX as usize };
        let mut rules: Vec<Rule> = sizes
            .into_iter()
            .map(|(fields, size)| {
                let most = most(fields);
                let wanted = format!("it must be at most {most}");
                Rule { fields, holds: size <= most, found: size.to_string(), wanted }
            })
            .collect();
        let [d, ff, v] = [self.hidden_size, self.intermediate_size, self.vocab_size].map(|size| size as f64);
        let heads = self.num_attention_heads as f64 + self.num_key_value_heads as f64;
        let layer = d * (2.0 * heads * self.head_dim as f64 + 3.0 * ff);
        let n_parameters = self.num_hidden_layers as f64 * layer + 2.0 * v * d;
        if rules.iter().all(|rule| rule.holds) {
            rules.push(Rule {
                fields: &["hidden_size", "head_dim", "num_attention_heads", "intermediate_size", "num_hidden_layers"],
                holds: n_parameters <= PARAMETERS_MOST,
                found: self.hidden_size.to_string(),
                wanted: format!("with the other sizes that makes {n_parameters:.1e} parameters, more than 1e13"),
            });
        }
        rules
    }
}

fn scaling_rules(rope: Rope) -> Vec<Rule> {
    let divisor = |factor: f64| {
        let holds = factor >= 1.0 && factor.is_finite();
        rule(&["rope_parameters.factor"], holds, factor, "it must be at least 1 and finite")
    };
    match rope.scaling {
        RopeScaling::None => Vec::new(),
        RopeScaling::Linear { factor } => vec![divisor(factor)],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => vec![
            divisor(factor),
            positive_number(&["rope_parameters.low_freq_factor"], low_freq_factor),
            rule(
                &["rope_parameters.high_freq_factor", "rope_parameters.low_freq_factor"],
                high_freq_factor > low_freq_factor && high_freq_factor.is_finite(),
                high_freq_factor,
                &format!("it must be finite and above `low_freq_factor`, which is {low_freq_factor}"),
            ),
            positive(&["rope_parameters.original_max_position_embeddings"], original_max_position_embeddings),
        ],
    }
}

fn rule(fields: &'static [&'static str], holds: bool, found: impl ToString, wanted: &str) -> Rule {
    Rule { fields, holds, found: found.to_string(), wanted: wanted.into() }
}

fn positive(fields: &'static [&'static str], size: usize) -> Rule {
    rule(fields, size > 0, size, "it must be at least 1")
}

fn positive_number(fields: &'static [&'static str], x: f64) -> Rule {
    rule(fields, x > 0.0 && x.is_finite(), x, "it must be positive and finite")
}
