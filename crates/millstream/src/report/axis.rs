//! Axes: from values to places, and the numbers written beside them.

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Evenly.
    Linear,
    /// By their logarithm; all are above 0.
    Logarithmic,
}

/// An axis from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Value at its begin.
    pub from: f64,
    /// Value at its end, above `from`.
    pub to: f64,
    /// How values lie between.
    pub spread: Spread,
}

impl Axis {
    /// From 0, or from below it, to the largest value.
    pub fn from_zero(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = range(values);
        let from = low.min(0.0);
        let to = if high > from { high + 0.06 * (high - from) } else { from + 1.0 };
        Self { from, to, spread: Spread::Linear }
    }

    /// Around the values, with some room.
    pub fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = range(values);
        let room = if high > low { 0.06 * (high - low) } else { 0.5 * high.abs().max(1e-9) };
        Self { from: low - room, to: high + room, spread: Spread::Linear }
    }

    /// Exactly from the lowest to the highest.
    pub fn within(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (from, to) = range(values);
        Self { from, to: if to > from { to } else { from + 1.0 }, spread: Spread::Linear }
    }

    /// Like [`Axis::from_zero`], or by logarithm where the values are above 0 and reach over a factor of 30.
    pub fn fitting(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = range(values.clone());
        match low > 0.0 && high > 30.0 * low {
            true => Self { from: low / 1.2, to: high * 1.2, spread: Spread::Logarithmic },
            false => Self::from_zero(values),
        }
    }

    /// Where a value lies: 0 at the begin, 1 at the end.
    pub fn place(&self, value: f64) -> f64 {
        match self.spread {
            Spread::Linear => (value - self.from) / (self.to - self.from),
            Spread::Logarithmic => (value / self.from).ln() / (self.to / self.from).ln(),
        }
    }

    /// Round values within, about `n` of them.
    pub fn ticks(&self, n: usize) -> Vec<f64> {
        match self.spread {
            Spread::Linear => {
                let step = nice(((self.to - self.from) / n as f64).max(f64::MIN_POSITIVE));
                self.multiples(step)
            }
            Spread::Logarithmic => {
                let decades = (self.to / self.from).log10();
                let factors: &[f64] = match decades {
                    ..=1.2 => &[1.0, 2.0, 3.0, 5.0],
                    ..=2.5 => &[1.0, 3.0],
                    _ => &[1.0],
                };
                let every = (decades / n as f64).ceil().max(1.0) as i32;
                let (low, high) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
                let powers = (low..=high).filter(|power| power.rem_euclid(every) == 0);
                let values = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
                values.filter(|value| (self.from..=self.to).contains(value)).collect()
            }
        }
    }

    /// As [`Axis::ticks`], of whole numbers.
    pub fn whole_ticks(&self, n: usize) -> Vec<f64> {
        let step = nice(((self.to - self.from) / n as f64).max(f64::MIN_POSITIVE));
        // 2.5 is as round as steps get, but no step of a run.
        self.multiples(if step < 10.0 { step.round().max(1.0) } else { step })
    }

    fn multiples(&self, step: f64) -> Vec<f64> {
        let first = (self.from / step - 1e-9).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`.
fn nice(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0].map(|factor| factor * power);
    steps.into_iter().find(|&step| step >= least * (1.0 - 1e-12)).unwrap_or(10.0 * power)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// A number of an axis with few characters: `12k`, `2.5`, `0.003`, `3e-5`.
pub fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if size >= 9.9995e8 => format!("{x:.1e}").replace(".0e", "e"),
        size if size >= 9.9995e5 => format!("{}M", trimmed(x / 1e6)),
        size if size >= 9.9995e3 => format!("{}k", trimmed(x / 1e3)),
        size if size < 9.9995e-4 => format!("{x:.1e}").replace(".0e", "e"),
        _ => trimmed(x),
    }
}

/// At most 4 digits after the point, as few as needed.
fn trimmed(x: f64) -> String {
    let digits = format!("{x:.4}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_an_axis() {
        for (x, text) in [
            (0.0, "0"),
            (2.5, "2.5"),
            (12_000.0, "12k"),
            (2_500_000.0, "2.5M"),
            (3e12, "3e12"),
            (0.003, "0.003"),
            (3e-5, "3e-5"),
            (1.5e-4, "1.5e-4"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(short(x), text);
        }
    }

    #[test]
    fn ticks() {
        let linear = |from, to| Axis { from, to, spread: Spread::Linear };
        let logarithmic = |from, to| Axis { from, to, spread: Spread::Logarithmic };
        for (axis, n, expected) in [
            (linear(0.0, 10.0), 5, vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            (linear(0.1, 0.9), 4, vec![0.2, 0.4, 0.6, 0.8]),
            (linear(-1.0, 1.0), 2, vec![-1.0, 0.0, 1.0]),
            (linear(7.0, 8.0), 4, vec![7.0, 7.25, 7.5, 7.75, 8.0]),
            (logarithmic(0.5, 6.0), 4, vec![0.5, 1.0, 2.0, 3.0, 5.0]),
            (logarithmic(0.5, 600.0), 4, vec![1.0, 10.0, 100.0]),
            (logarithmic(1e-8, 2.0), 3, vec![1e-6, 1e-3, 1.0]),
        ] {
            let found = axis.ticks(n);
            let near = found.len() == expected.len()
                && found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs());
            assert!(near, "{axis:?}: {found:?}, not {expected:?}");
        }
        assert_eq!(linear(1.0, 4.0).whole_ticks(8), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(linear(1.0, 700.0).whole_ticks(8), [100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]);
    }

    #[test]
    fn places() {
        let axis = Axis { from: 1.0, to: 100.0, spread: Spread::Logarithmic };
        assert!((axis.place(10.0) - 0.5).abs() < 1e-12);
        for (values, expected) in [
            (vec![], Axis { from: 0.0, to: 1.06, spread: Spread::Linear }),
            (vec![0.0], Axis { from: 0.0, to: 1.0, spread: Spread::Linear }),
            (vec![-2.0, 3.0], Axis { from: -2.0, to: 3.3, spread: Spread::Linear }),
            (vec![2.0, 6.0], Axis { from: 0.0, to: 6.36, spread: Spread::Linear }),
            (vec![0.1, 60.0], Axis { from: 0.1 / 1.2, to: 72.0, spread: Spread::Logarithmic }),
        ] {
            assert_eq!(Axis::fitting(values.iter().copied()), expected);
        }
    }
}
