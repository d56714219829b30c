//! Numbers as people read them.

/// Bytes with three digits: `512 B`, `1.50 MB`, `23.1 GB` (powers of ten).
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        _ => scaled(bytes as f64, &[(1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")]),
    }
}

/// A count with three digits: `960`, `12.3 k`, `3.11 M`.
pub fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => scaled(count as f64, &[(1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")]),
    }
}

/// "1 rank", "4 ranks".
pub fn ranks(n_ranks: usize) -> String {
    format!("{n_ranks} rank{}", if n_ranks == 1 { "" } else { "s" })
}

/// Seconds with three digits, from `1.00 us` on; over 100 s as `3 min 05 s` or `2 h 07 min`.
pub fn seconds(s: f64) -> String {
    if s >= 3595.0 {
        let minutes = (s / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    } else if s >= 100.0 {
        let s = s.round() as u64;
        format!("{} min {:02} s", s / 60, s % 60)
    } else if s <= 0.0 {
        "0 s".to_owned()
    } else {
        scaled(s, &[(1e-6, "us"), (1e-3, "ms"), (1.0, "s")])
    }
}

/// A share as a percentage with one digit after the point.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The number that bytes as people write them mean: `20 GB`, `512MiB`, `1.5e9 B`; `None` for anything else, and for less
/// than 1.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.trim().split_at(text.trim().find(|c: char| c.is_ascii_alphabetic() && c != 'e')?);
    let size = match unit.trim() {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        "TiB" => 1099511627776.0,
        _ => return None,
    };
    let bytes = digits.trim().parse::<f64>().ok()? * size;
    (bytes.is_finite() && bytes >= 1.0).then_some(bytes as u64)
}

/// `value` in the largest unit that it reaches, with three digits.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // What rounds up to the next unit is shown in it.
    let (size, name) = units.iter().rev().find(|(size, _)| value >= 0.9995 * size).unwrap_or(&units[0]);
    let in_unit = value / size;
    let digits = if in_unit >= 99.95 { 0 } else { usize::from(in_unit < 9.995) + 1 };
    format!("{in_unit:.digits$} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let bytes_of = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1_234_567, "1.23 MB"),
            (99_960_000, "100 MB"),
            (999_960_000, "1.00 GB"),
        ];
        for (n, text) in bytes_of {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(9999, "9999"), (10_000, "10.0 k"), (3_113_984, "3.11 M")] {
            assert_eq!(count(n), text);
        }
        let times = [
            (0.0, "0 s"),
            (2.5e-6, "2.50 us"),
            (0.0123, "12.3 ms"),
            (0.9999, "1.00 s"),
            (61.2, "61.2 s"),
            (185.2, "3 min 05 s"),
            (7620.0, "2 h 07 min"),
        ];
        for (s, text) in times {
            assert_eq!(seconds(s), text);
        }
    }

    #[test]
    fn bytes_as_people_write_them() {
        let cases = [
            ("20 GB", Some(20_000_000_000)),
            ("512MiB", Some(536_870_912)),
            ("1.5e3 kB", Some(1_500_000)),
            ("7B", Some(7)),
            ("20", None),
            ("GB", None),
            ("0 GB", None),
            ("-3 GB", None),
            ("3 Gb", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
    }
}
