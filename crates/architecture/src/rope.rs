//! How a model knows where tokens stand.

/// How the places of tokens enter a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are turned by angles (RoPE; Su et al., 2021).
    Rotary {
        /// In layers that see everything before them.
        full: Rope,
        /// In layers with a window; the same but in Gemma 3.
        sliding: Rope,
    },
    /// A learned vector for each place is added to the embedding.
    Learned,
}

impl Positions {
    /// The same angles in all layers.
    pub fn rotary(rope: Rope) -> Self {
        Positions::Rotary { full: rope, sliding: rope }
    }
}

/// Rotary position embedding: angles and how they are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the angles' geometric sequence.
    pub theta: f64,
    /// How frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are (`default`).
    None,
    /// All frequencies divided (`linear`).
    Linear {
        /// By what.
        factor: f64,
    },
    /// Llama 3's piecewise scaling (`llama3`).
    Llama3 {
        /// Divides low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided in full.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the first training.
        original_max_position_embeddings: usize,
    },
}

impl Rope {
    /// Angle per position of each of the `head_dim / 2` pairs, in radians.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-((2 * i) as f64) / head_dim as f64));
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                plain
                    .map(|frequency| {
                        let wavelength = std::f64::consts::TAU / frequency;
                        if wavelength < original / high_freq_factor {
                            frequency
                        } else if wavelength > original / low_freq_factor {
                            frequency / factor
                        } else {
                            let smooth =
                                (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * frequency / factor + smooth * frequency
                        }
                    })
                    .collect()
            }
        }
    }
}
