//! Which values of an architecture make sense together.

use crate::error::Problem;
use crate::{Architecture, ArchitectureError, RopeScaling};

/// One thing that must hold.
pub(crate) struct Rule {
    /// Every field it reads, the one to blame first.
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
    /// [`ArchitectureError::Config`] with every rule that is broken.
    pub fn check(&self) -> Result<(), ArchitectureError> {
        let problems: Vec<Problem> =
            self.rules().into_iter().filter(|rule| !rule.holds).map(Rule::into_problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(ArchitectureError::Config(problems)) }
    }

    pub(crate) fn rules(&self) -> Vec<Rule> {
        let rule = |fields, holds, found: String, wanted: &str| Rule { fields, holds, found, wanted: wanted.into() };
        let positive = |fields, size: usize| rule(fields, size > 0, size.to_string(), "it must be at least 1");
        let positive_number =
            |fields, x: f64| rule(fields, x > 0.0 && x.is_finite(), x.to_string(), "it must be positive and finite");
        let token = |fields, id: u32| {
            let wanted = format!("a token id must be below `vocab_size`, which is {}", self.vocab_size);
            rule(fields, (id as usize) < self.vocab_size, id.to_string(), &wanted)
        };
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let deviation = self.initializer_range;
        let mut rules = vec![
            positive(&["hidden_size"], self.hidden_size),
            positive(&["num_hidden_layers"], self.num_hidden_layers),
            positive(&["num_attention_heads"], heads),
            positive(&["num_key_value_heads"], kv_heads),
            positive(&["intermediate_size"], self.intermediate_size),
            positive(&["vocab_size"], self.vocab_size),
            positive(&["max_position_embeddings"], self.max_position_embeddings),
            positive_number(&["rms_norm_eps"], self.rms_norm_eps),
            positive_number(&["rope_theta"], self.rope.theta),
            rule(
                &["initializer_range"],
                (0.0..=1.0).contains(&deviation),
                deviation.to_string(),
                "it must lie between 0 and 1",
            ),
            rule(
                &["num_key_value_heads", "num_attention_heads"],
                kv_heads == 0 || heads.is_multiple_of(kv_heads),
                kv_heads.to_string(),
                &format!("it must divide `num_attention_heads`, which is {heads}"),
            ),
            rule(
                &["head_dim", "hidden_size", "num_attention_heads"],
                self.head_dim > 0 && self.head_dim.is_multiple_of(2),
                self.head_dim.to_string(),
                "rotary embedding turns pairs, so it must be even and at least 2",
            ),
        ];
        rules.extend(self.bos_token_id.map(|id| token(&["bos_token_id", "vocab_size"], id)));
        rules.extend(self.eos_token_id.iter().map(|&id| token(&["eos_token_id", "vocab_size"], id)));
        rules.extend(self.pad_token_id.map(|id| token(&["pad_token_id", "vocab_size"], id)));
        if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
            self.rope.scaling
        {
            rules.extend([
                rule(
                    &["rope_parameters.factor"],
                    factor >= 1.0 && factor.is_finite(),
                    factor.to_string(),
                    "it must be at least 1 and finite",
                ),
                positive_number(&["rope_parameters.low_freq_factor"], low_freq_factor),
                rule(
                    &["rope_parameters.high_freq_factor", "rope_parameters.low_freq_factor"],
                    high_freq_factor > low_freq_factor && high_freq_factor.is_finite(),
                    high_freq_factor.to_string(),
                    &format!("it must be finite and above `low_freq_factor`, which is {low_freq_factor}"),
                ),
                positive(&["rope_parameters.original_max_position_embeddings"], original_max_position_embeddings),
            ]);
        }
        rules
    }
}
