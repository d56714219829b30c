//! Curves with as few points as a picture needs.

/// Neighbouring points of a curve as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Where the first of them is.
    pub first: f64,
    /// Where the last of them is.
    pub last: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
    /// Their mean.
    pub mean: f64,
}

impl Bucket {
    /// Where it is drawn.
    pub fn x(&self) -> f64 {
        (self.first + self.last) / 2.0
    }

    fn of(points: &[(f64, f64)]) -> Option<Self> {
        let (first, last) = (points.first()?.0, points.last()?.0);
        let fold = |start: f64, pick: fn(f64, f64) -> f64| points.iter().map(|point| point.1).fold(start, pick);
        let sum: f64 = points.iter().map(|point| point.1).sum();
        let (low, high) = (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max));
        Some(Self { first, last, low, high, mean: (sum / points.len() as f64).clamp(low, high) })
    }
}

/// The points whose value is finite, in at most `most` buckets of equally many points; a bucket each where they are not
/// more. No lowest or highest value is lost.
pub fn thinned(points: impl Iterator<Item = (f64, f64)>, most: usize) -> Vec<Bucket> {
    let points: Vec<(f64, f64)> = points.filter(|(_, y)| y.is_finite()).collect();
    let group = points.len().div_ceil(most).max(1);
    points.chunks(group).filter_map(Bucket::of).collect()
}

/// At each point the value of the straight line that fits its neighbours best, `reach` on either side: in the middle
/// nearly their mean, and without lag where the curve is steep and at the ends.
pub fn smoothed(points: &[(f64, f64)], reach: usize) -> Vec<f64> {
    let fit = |i: usize| {
        let window = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
        let n = window.len() as f64;
        let mean_x = window.iter().map(|(x, _)| x).sum::<f64>() / n;
        let mean_y = window.iter().map(|(_, y)| y).sum::<f64>() / n;
        let square = window.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        let slope = match square > 0.0 {
            true => window.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / square,
            false => 0.0,
        };
        mean_y + slope * (points[i].0 - mean_x)
    };
    (0..points.len()).map(fit).collect()
}

/// So many of the items, evenly chosen, the first and the last among them; all where there are not more.
pub fn evenly<T>(items: &[T], most: usize) -> Vec<&T> {
    match (items.len(), most) {
        (n, most) if n <= most => items.iter().collect(),
        (_, 0) => Vec::new(),
        (n, 1) => vec![&items[n - 1]],
        (n, most) => (0..most).map(|i| &items[i * (n - 1) / (most - 1)]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A straight line stays as it is, also at its ends; a lone peak is spread over its neighbours and keeps its area.
    #[test]
    fn smoothing_does_not_lag() {
        let line: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 7.0 - 0.25 * f64::from(i))).collect();
        for reach in [0, 1, 5, 500] {
            for (smooth, (_, exact)) in smoothed(&line, reach).into_iter().zip(&line) {
                assert!((smooth - exact).abs() < 1e-11, "{smooth} {exact}");
            }
        }
        let peak: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), f64::from(u8::from(i == 100)))).collect();
        let smooth = smoothed(&peak, 5);
        assert!((smooth[103] - 1.0 / 11.0).abs() < 1e-12 && smooth[106].abs() < 1e-12);
        let area: f64 = smooth.iter().sum();
        assert!((area - 1.0).abs() < 1e-12, "{area}");
        assert_eq!(smoothed(&[], 3), Vec::<f64>::new());
    }

    #[test]
    fn thinning_keeps_extremes_order_and_the_mean() {
        let wave: Vec<(f64, f64)> = (0..10_007).map(|i| (f64::from(i), f64::from(i * 7919 % 10_007))).collect();
        for most in [1, 2, 997, 1200, 10_006] {
            let thin = thinned(wave.iter().copied(), most);
            assert!(thin.len() <= most, "{most}: {}", thin.len());
            assert!(
                thin.is_sorted_by(|a, b| a.last < b.first) && thin.iter().all(|b| b.first <= b.x() && b.x() <= b.last)
            );
            let low = thin.iter().map(|bucket| bucket.low).fold(f64::INFINITY, f64::min);
            let high = thin.iter().map(|bucket| bucket.high).fold(0.0, f64::max);
            assert_eq!((low, high), (0.0, 10_006.0));
            let sum: f64 = thin.iter().map(|bucket| bucket.mean * (bucket.last - bucket.first + 1.0)).sum();
            assert!((sum - 10_006.0 * 10_007.0 / 2.0).abs() < 1e-3, "{most}: {sum}");
        }
        let whole = thinned(wave.iter().copied(), 20_000);
        assert!(
            whole
                .iter()
                .zip(&wave)
                .all(|(bucket, &(x, y))| { *bucket == Bucket { first: x, last: x, low: y, high: y, mean: y } })
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_left_out() {
        let points = [(1.0, f64::NAN), (2.0, 4.0), (3.0, f64::INFINITY), (4.0, 6.0)];
        let thin = thinned(points.into_iter(), 1);
        assert_eq!(thin, [Bucket { first: 2.0, last: 4.0, low: 4.0, high: 6.0, mean: 5.0 }]);
        assert_eq!(thinned([(1.0, f64::NAN)].into_iter(), 5), []);
        assert_eq!(thinned(std::iter::empty(), 5), []);
    }

    #[test]
    fn chosen_evenly() {
        let items: Vec<u32> = (0..10).collect();
        for (most, expected) in [
            (0, vec![]),
            (1, vec![9]),
            (2, vec![0, 9]),
            (4, vec![0, 3, 6, 9]),
            (10, items.clone()),
            (99, items.clone()),
        ] {
            assert_eq!(evenly(&items, most).into_iter().copied().collect::<Vec<_>>(), expected);
        }
    }
}
