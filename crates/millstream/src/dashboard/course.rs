//! The course of a number over the steps, in bounded memory.

/// Points that are kept at most: four for every column of a wide terminal.
const POINTS_MAX: usize = 1024;

/// Means over groups of neighbouring steps; groups grow with the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Steps of a group.
    group: usize,
    points: Vec<(f64, f64)>,
    /// Sums of the group that is not full, and its number.
    open: (f64, f64, usize),
}

impl Default for Course {
    fn default() -> Self {
        Self { group: 1, points: Vec::new(), open: (0.0, 0.0, 0) }
    }
}

impl Course {
    /// Adds a value; one that is not finite has no place in a picture.
    pub fn push(&mut self, x: f64, y: f64) {
        if !y.is_finite() {
            return;
        }
        let (sum_x, sum_y, n) = self.open;
        self.open = (sum_x + x, sum_y + y, n + 1);
        if self.open.2 == self.group {
            let n = self.group as f64;
            self.points.push((self.open.0 / n, self.open.1 / n));
            self.open = (0.0, 0.0, 0);
        }
        if self.points.len() >= POINTS_MAX {
            let mean = |pair: &[(f64, f64)]| ((pair[0].0 + pair[1].0) / 2.0, (pair[0].1 + pair[1].1) / 2.0);
            self.points = self.points.chunks_exact(2).map(mean).collect();
            self.group *= 2;
        }
    }

    /// Means of groups, in order.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The means, each of as many points around it as `n` columns can tell apart.
    pub fn smoothed(&self, n: usize) -> Vec<(f64, f64)> {
        let reach = (self.points.len() / n.max(1)).max(self.points.len() / 60);
        let mean = |i: usize| {
            // As far on both sides, so that the ends do not lag.
            let reach = reach.min(i).min(self.points.len() - 1 - i);
            let window = &self.points[i - reach..=i + reach];
            (self.points[i].0, window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64)
        };
        (0..self.points.len()).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_exact_in_the_mean() {
        for n in [1, 2, 1023, 1024, 5000, 100_003] {
            let mut course = Course::default();
            (1..=n).for_each(|i| course.push(f64::from(i), 3.0 * f64::from(i)));
            course.push(f64::from(n), f64::NAN);
            let points = course.points();
            assert!(points.len() <= POINTS_MAX && points.len() * course.group + course.open.2 == n as usize, "{n}");
            assert!(points.iter().all(|&(x, y)| (y - 3.0 * x).abs() < 1e-6));
            // A straight line stays one.
            assert!(course.smoothed(10).iter().all(|&(x, y)| (y - 3.0 * x).abs() < 1e-6));
        }
    }
}
