//! Times as people read them.

/// The smallest of 1, 2, 5 times a power of ten that is not below `least_s`.
pub(crate) fn nice_step(least_s: f64) -> f64 {
    let power = 10_f64.powf(least_s.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|&step| step >= least_s).unwrap_or(10.0 * power)
}

/// A time in the unit that suits `scale_s`, with the digits that tell multiples of `step_s` apart.
pub(crate) fn seconds(time_s: f64, scale_s: f64, step_s: f64) -> String {
    let (factor, unit) = match scale_s {
        scale if scale >= 1.0 => (1.0, "s"),
        scale if scale >= 1e-3 => (1e3, "ms"),
        scale if scale >= 1e-6 => (1e6, "us"),
        _ => (1e9, "ns"),
    };
    // The logarithm of a step like 0.1 may come out a rounding error beyond its whole number.
    let n_digits = (-(step_s * factor).log10() - 1e-9).ceil().max(0.0) as usize;
    format!("{:.n_digits$} {unit}", time_s * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_units() {
        for (least_s, step_s) in [(1.0, 1.0), (1.01, 2.0), (0.03, 0.05), (6.0, 10.0), (0.0007, 0.001)] {
            assert!((nice_step(least_s) / step_s - 1.0).abs() < 1e-12, "{least_s}: {}", nice_step(least_s));
        }
        for (time_s, scale_s, step_s, expected) in [
            (1.5, 3.0, 0.5, "1.5 s"),
            (0.3, 0.4, 0.1, "300 ms"),
            (3.0, 4.0, 1.0, "3 s"),
            (0.0000012, 0.000005, 0.0000001, "1.2 us"),
            (0.25, 1.2, 0.05, "0.25 s"),
        ] {
            assert_eq!(seconds(time_s, scale_s, step_s), expected);
        }
    }
}
