//! Curves on axes, as a picture that fills any width and as data for the page's script.
//!
//! Curves are SVG stretched to the plot's size, with strokes that do not stretch; the numbers of the axes are text of the
//! page, so they are as large on a telephone as on a screen.

use super::axis::{Axis, Spread, short};
use super::series::{Bucket, smoothed};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// Buckets that a curve has at most: more than a screen has columns.
pub const BUCKETS_MAX: usize = 1600;

/// Width and height of the drawing before it is stretched.
const SIZE: f64 = 1000.0;

/// A picture of curves.
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub what: String,
    /// Height on the page, in pixels.
    pub height_px: u32,
    /// The horizontal axis.
    pub x: Axis,
    /// What its numbers are.
    pub x_quantity: Quantity,
    /// The vertical axis.
    pub y: Axis,
    /// What its numbers are.
    pub y_quantity: Quantity,
    /// From the back to the front.
    pub curves: Vec<Curve>,
}

/// A curve.
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// Class of its colour.
    pub class: String,
    /// How it is drawn.
    pub look: Look,
    /// Its points.
    pub points: Vec<Bucket>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The band from lowest to highest, and a smoothed line.
    Noisy,
    /// Only the smoothed line.
    Smooth,
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
    /// A line with discs.
    Dots,
    /// The area between `low` and `high`, in steps; `mean` is what it stands for.
    Area,
}

/// What numbers are, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// A number of steps.
    Steps,
    /// A bare number.
    Number,
    /// A share in [0, 1].
    Share,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// A chart as the template takes it.
#[derive(Clone, Debug, Serialize)]
pub struct Drawing {
    what: String,
    height_px: u32,
    paths: Vec<Path>,
    /// Place in percent and text.
    x_labels: Vec<(String, String)>,
    y_labels: Vec<(String, String)>,
    /// For the script, as JSON that may stand in a page.
    data: String,
}

#[derive(Clone, Debug, Serialize)]
struct Path {
    class: String,
    /// The curve, for paths that smoothing moves.
    curve: Option<usize>,
    d: String,
}

/// The share of a curve that a smoothed value looks at on either side.
const REACH: f64 = 1.0 / 40.0;

impl Chart {
    /// The drawing; `None` when there is nothing to show.
    pub fn draw(&self) -> Option<Drawing> {
        if self.curves.iter().all(|curve| curve.points.is_empty()) {
            return None;
        }
        let x_ticks = match self.x_quantity {
            Quantity::Steps => self.x.whole_ticks(if self.height_px > 200 { 8 } else { 4 }),
            quantity => {
                // Minutes and hours are round in themselves, not in seconds.
                let unit = if quantity == Quantity::Seconds { time_unit(self.x.to).0 } else { 1.0 };
                let axis = Axis { from: self.x.from / unit, to: self.x.to / unit, ..self.x };
                let ticks = axis.ticks(if self.height_px > 200 { 8 } else { 3 });
                ticks.into_iter().map(|tick| tick * unit).collect()
            }
        };
        let y_ticks = self.y.ticks((self.height_px / 36).max(2) as usize);
        let mut grid = String::new();
        for &tick in &y_ticks {
            write!(grid, "M0 {:.1}H{SIZE}", self.down(tick)).expect("invariant: text takes text");
        }
        let mut paths = vec![Path { class: "grid".to_owned(), curve: None, d: grid }];
        for (i, curve) in self.curves.iter().enumerate() {
            self.add(&mut paths, i, curve);
        }
        let label = |axis: Axis, quantity: Quantity| {
            move |&tick: &f64| (format!("{:.2}", 100.0 * axis.place(tick)), quantity.text(tick, axis))
        };
        Some(Drawing {
            what: self.what.clone(),
            height_px: self.height_px,
            paths,
            x_labels: x_ticks.iter().map(label(self.x, self.x_quantity)).collect(),
            y_labels: y_ticks.iter().map(label(self.y, self.y_quantity)).collect(),
            data: in_page(&self.data()),
        })
    }

    fn across(&self, x: f64) -> f64 {
        SIZE * self.x.place(x)
    }

    fn down(&self, y: f64) -> f64 {
        SIZE * (1.0 - self.y.place(y))
    }

    fn add(&self, paths: &mut Vec<Path>, number: usize, curve: &Curve) {
        let mut add = |class: &str, curve_number: Option<usize>, d: String| {
            if !d.is_empty() {
                paths.push(Path { class: format!("{class} {}", curve.class), curve: curve_number, d });
            }
        };
        let means = || curve.points.iter().map(|bucket| (bucket.x(), bucket.mean));
        match curve.look {
            // A lone point has no line.
            Look::Noisy | Look::Smooth | Look::Line if curve.points.len() == 1 => add("dots", None, self.dots(means())),
            Look::Line => add("line", None, self.line(means())),
            Look::Dashed => add("line dashed", None, self.line(means())),
            Look::Dots => {
                add("line", None, self.line(means()));
                add("dots", None, self.dots(means()));
            }
            Look::Noisy | Look::Smooth => {
                if curve.look == Look::Noisy {
                    add("band", None, self.band(&curve.points));
                }
                let points: Vec<(f64, f64)> = means().collect();
                let smooth = smoothed(&points, (points.len() as f64 * REACH) as usize);
                let line = points.iter().zip(smooth).map(|(&(x, _), y)| (x, y));
                add("line", Some(number), self.line(line));
            }
            Look::Area => add("area", None, self.area(&curve.points)),
        }
    }

    fn line(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut d = String::new();
        for (x, y) in points {
            let letter = if d.is_empty() { 'M' } else { 'L' };
            write!(d, "{letter}{:.1} {:.1}", self.across(x), self.down(y)).expect("invariant: text takes text");
        }
        d
    }

    /// Strokes of no length with round ends: round however the drawing is stretched.
    fn dots(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        points.map(|(x, y)| format!("M{:.1} {:.1}h0", self.across(x), self.down(y))).collect()
    }

    /// Through lowest and highest of every bucket: a line where each is one point.
    fn band(&self, buckets: &[Bucket]) -> String {
        let mut d = String::new();
        for bucket in buckets {
            let letter = if d.is_empty() { 'M' } else { 'L' };
            let (x, high) = (self.across(bucket.x()), self.down(bucket.high));
            write!(d, "{letter}{x:.1} {high:.1}").expect("invariant: text takes text");
            if bucket.low < bucket.high {
                write!(d, "V{:.1}", self.down(bucket.low)).expect("invariant: text takes text");
            }
        }
        d
    }

    /// Each bucket from its first to its last place.
    fn area(&self, buckets: &[Bucket]) -> String {
        if buckets.iter().all(|bucket| bucket.high <= bucket.low) {
            return String::new();
        }
        let mut d = String::new();
        for bucket in buckets {
            let letter = if d.is_empty() { 'M' } else { 'L' };
            let (from, y, to) = (self.across(bucket.first), self.down(bucket.high), self.across(bucket.last));
            write!(d, "{letter}{from:.1} {y:.1}H{to:.1}").expect("invariant: text takes text");
        }
        for bucket in buckets.iter().rev() {
            let (to, y, from) = (self.across(bucket.last), self.down(bucket.low), self.across(bucket.first));
            write!(d, "L{to:.1} {y:.1}H{from:.1}").expect("invariant: text takes text");
        }
        d + "Z"
    }

    fn data(&self) -> serde_json::Value {
        let axis = |axis: &Axis, quantity: Quantity| {
            json!({
                "from": axis.from, "to": axis.to, "log": axis.spread == Spread::Logarithmic, "quantity": quantity.name(),
            })
        };
        let curves = self.curves.iter().map(|curve| {
            let numbers = |value: fn(&Bucket) -> f64| -> Vec<f64> {
                curve.points.iter().map(|bucket| five_digits(value(bucket))).collect()
            };
            let mut data = json!({ "name": curve.name, "class": curve.class, "y": numbers(|bucket| bucket.mean) });
            data["first"] = curve.points.iter().map(|bucket| bucket.first).collect();
            if curve.points.iter().any(|bucket| bucket.first < bucket.last) {
                data["last"] = curve.points.iter().map(|bucket| bucket.last).collect();
            }
            data["smooth"] = matches!(curve.look, Look::Noisy | Look::Smooth).into();
            if curve.look == Look::Noisy && curve.points.iter().any(|bucket| bucket.low < bucket.high) {
                data["low"] = numbers(|bucket| bucket.low).into();
                data["high"] = numbers(|bucket| bucket.high).into();
            }
            data
        });
        let curves: Vec<serde_json::Value> = curves.collect();
        json!({ "x": axis(&self.x, self.x_quantity), "y": axis(&self.y, self.y_quantity), "curves": curves })
    }
}

/// More than a picture shows and a tooltip needs.
fn five_digits(x: f64) -> f64 {
    format!("{x:.4e}").parse().unwrap_or(x)
}

/// JSON as it may stand within a page's `<script>`.
fn in_page(json: &serde_json::Value) -> String {
    json.to_string().replace('<', "\\u003c")
}

impl Quantity {
    /// A number of an axis.
    fn text(self, x: f64, axis: Axis) -> String {
        match self {
            Quantity::Steps | Quantity::Number => short(x),
            Quantity::Share => format!("{} %", short((1e4 * x).round() / 100.0)),
            Quantity::Bytes => {
                whole_units(x, axis.to, &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB")])
            }
            Quantity::Seconds => {
                let (size, name) = time_unit(axis.to);
                format!("{} {name}", short(x / size))
            }
        }
    }

    /// What the script calls it.
    fn name(self) -> &'static str {
        match self {
            Quantity::Steps => "steps",
            Quantity::Number => "number",
            Quantity::Share => "share",
            Quantity::Bytes => "bytes",
            Quantity::Seconds => "seconds",
        }
    }
}

/// The unit, in seconds, and its name, for times up to this.
fn time_unit(end_s: f64) -> (f64, &'static str) {
    let units = [(7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms")];
    let fits = units.into_iter().find(|(least, ..)| end_s >= *least);
    fits.map_or((1e-6, "us"), |(_, size, name)| (size, name))
}

/// In the largest unit that is not above the axis' end.
fn whole_units(x: f64, end: f64, units: &[(f64, &str)]) -> String {
    let (size, name) = units.iter().rev().find(|(size, _)| end >= *size).unwrap_or(&units[0]);
    format!("{} {name}", short(x / size))
}

#[cfg(test)]
mod tests {
    use super::super::series::thinned;
    use super::*;

    fn chart(name: &str, look: Look, points: &[(f64, f64)]) -> Chart {
        let ys = points.iter().map(|point| point.1);
        let points = thinned(points.iter().copied(), BUCKETS_MAX);
        Chart {
            what: "a thing".to_owned(),
            height_px: 300,
            x: Axis::within(points.iter().map(Bucket::x)),
            x_quantity: Quantity::Steps,
            y: Axis { spread: Spread::Linear, ..Axis::within(ys) },
            y_quantity: Quantity::Number,
            curves: vec![Curve { name: name.to_owned(), class: "c0".to_owned(), look, points }],
        }
    }

    #[test]
    fn paths() {
        let points = [(1.0, 0.0), (2.0, 4.0), (3.0, 2.0)];
        for (look, expected) in [
            (Look::Line, vec!["line c0: M0.0 1000.0L500.0 0.0L1000.0 500.0"]),
            (Look::Dashed, vec!["line dashed c0: M0.0 1000.0L500.0 0.0L1000.0 500.0"]),
            (
                Look::Dots,
                vec![
                    "line c0: M0.0 1000.0L500.0 0.0L1000.0 500.0",
                    "dots c0: M0.0 1000.0h0M500.0 0.0h0M1000.0 500.0h0",
                ],
            ),
            (
                Look::Noisy,
                vec!["band c0: M0.0 1000.0L500.0 0.0L1000.0 500.0", "line c0: M0.0 1000.0L500.0 0.0L1000.0 500.0"],
            ),
        ] {
            let drawing = chart("x", look, &points).draw().unwrap();
            let found: Vec<String> =
                drawing.paths[1..].iter().map(|path| format!("{}: {}", path.class, path.d)).collect();
            assert_eq!(found, expected);
        }
        assert!(chart("x", Look::Line, &[]).draw().is_none());
        let lone = chart("x", Look::Noisy, &[(1.0, 5.0)]).draw().unwrap();
        assert_eq!((lone.paths.len(), lone.paths[1].class.as_str()), (2, "dots c0"));
    }

    #[test]
    fn areas_are_stacked_in_steps() {
        let bucket = |first, last, low, high| Bucket { first, last, low, high, mean: high - low };
        let points = vec![bucket(0.0, 1.0, 0.0, 2.0), bucket(1.0, 4.0, 1.0, 4.0)];
        let mut chart = chart("x", Look::Area, &[(0.0, 0.0), (4.0, 4.0)]);
        chart.curves[0].points = points;
        let drawing = chart.draw().unwrap();
        assert_eq!(drawing.paths[1].d, "M0.0 500.0H250.0L250.0 0.0H1000.0L1000.0 750.0H250.0L250.0 1000.0H0.0Z");
    }

    /// A name from a hostile source ends neither the script that holds the data nor the JSON.
    #[test]
    fn data_cannot_leave_its_script() {
        let name = "</script><script>alert(1)</script>\u{2028}\"\\";
        let drawing = chart(name, Look::Line, &[(1.0, 0.0), (2.0, 4.0)]).draw().unwrap();
        assert!(!drawing.data.contains('<'), "{}", drawing.data);
        let data: serde_json::Value = serde_json::from_str(&drawing.data).unwrap();
        assert_eq!(data["curves"][0]["name"], name);
    }

    #[test]
    fn labels() {
        let axis = |to: f64| Axis { from: 0.0, to, spread: Spread::Linear };
        for (quantity, x, end, text) in [
            (Quantity::Share, 0.125, 1.0, "12.5 %"),
            (Quantity::Bytes, 5e6, 2e7, "5 MB"),
            (Quantity::Bytes, 5e8, 2e9, "0.5 GB"),
            (Quantity::Seconds, 0.02, 0.1, "20 ms"),
            (Quantity::Seconds, 90.0, 600.0, "1.5 min"),
            (Quantity::Seconds, 9000.0, 90_000.0, "2.5 h"),
            (Quantity::Steps, 12_000.0, 2e4, "12k"),
        ] {
            assert_eq!(quantity.text(x, axis(end)), text);
        }
    }
}
