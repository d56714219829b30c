//! Stacked bars: parts of a whole, one bar below the other on a common scale.

use serde::Serialize;

/// One bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its whole, as text.
    pub total: String,
    /// Its parts from the left.
    pub parts: Vec<Part>,
}

/// One part of a bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Length in percent of the scale.
    pub percent: f64,
    /// Class of its colour.
    pub class: String,
    /// Shown when pointed at.
    pub title: String,
}

impl Bar {
    /// A bar with these parts (class, size, title), on a scale that ends at `longest`.
    pub fn new(
        name: String,
        total: String,
        longest: f64,
        parts: impl IntoIterator<Item = (String, f64, String)>,
    ) -> Self {
        let parts = parts.into_iter().filter(|(_, size, _)| *size > 0.0 && longest > 0.0);
        let parts = parts.map(|(class, size, title)| Part { percent: 100.0 * size / longest, class, title });
        Self { name, total, parts: parts.collect() }
    }
}
