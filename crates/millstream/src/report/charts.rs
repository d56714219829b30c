//! Curves over steps as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use train::{StepMetrics, ValidationMetrics};

/// Points that a curve is drawn with at most; more than a screen has columns.
const POINTS_MAX: usize = 1200;

/// Colours that stand for the page's own: [`svg`] puts the CSS variable in their place.
const INK: RGBColor = RGBColor(1, 0, 0);
const GRID: RGBColor = RGBColor(2, 0, 0);
const FIRST: RGBColor = RGBColor(3, 0, 0);
const SECOND: RGBColor = RGBColor(4, 0, 0);
const THIRD: RGBColor = RGBColor(5, 0, 0);
const COLOURS: [(&str, &str); 5] = [
    ("#010000", "var(--soft)"),
    ("#020000", "var(--line)"),
    ("#030000", "var(--first)"),
    ("#040000", "var(--second)"),
    ("#050000", "var(--third)"),
];

/// One curve.
struct Curve {
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    look: Look,
}

enum Look {
    Faint,
    Line,
    Dashed,
    /// A line with a disc at each point.
    Dotted,
}

/// Where the vertical axis begins.
enum Floor {
    Zero,
    Lowest,
}

/// Training loss of every step, faint, and smoothed; validation losses; the entropy of single tokens as a dashed line.
/// `None` when there is nothing to show.
pub fn loss(steps: &[StepMetrics], validations: &[ValidationMetrics], unigram_nats: Option<f64>) -> Option<String> {
    let raw = finite(steps.iter().map(|step| (step.step as f64, step.loss)));
    let validations = finite(validations.iter().map(|validation| (validation.step as f64, validation.loss)));
    let (first, last) = (raw.first().or(validations.first())?.0, raw.last().or(validations.last())?.0);
    let mut curves = Vec::new();
    if let Some(nats) = unigram_nats {
        curves.push(Curve { points: vec![(first, nats), (last, nats)], colour: THIRD, look: Look::Dashed });
    }
    if raw.len() > 1 {
        curves.push(Curve { points: thinned(&smoothed(&raw)), colour: FIRST, look: Look::Line });
        curves.push(Curve { points: thinned(&raw), colour: FIRST, look: Look::Faint });
    } else {
        curves.push(Curve { points: raw, colour: FIRST, look: Look::Dotted });
    }
    curves.push(Curve { points: validations, colour: SECOND, look: Look::Dotted });
    svg((820, 340), "loss in nats per token over steps", &curves, Floor::Lowest)
}

/// Any other value of the steps.
pub fn small(steps: &[StepMetrics], what: &str, value: fn(&StepMetrics) -> f64) -> Option<String> {
    let points = finite(steps.iter().map(|step| (step.step as f64, value(step))));
    let look = if points.len() > 1 { Look::Line } else { Look::Dotted };
    svg((330, 190), what, &[Curve { points: thinned(&points), colour: FIRST, look }], Floor::Zero)
}

fn finite(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, y)| y.is_finite()).collect()
}

/// At each point the value of the straight line that fits its neighbours best: in the middle their mean, and without
/// lag where the curve is steep and at the ends.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 40;
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
    points.iter().enumerate().map(|(i, &(x, _))| (x, fit(i))).collect()
}

/// The points, or of each group of neighbours the lowest and the highest, in order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let group = points.len().div_ceil(POINTS_MAX / 2);
    let extremes = points.chunks(group).flat_map(|group| {
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (group.iter().min_by(by_y), group.iter().max_by(by_y));
        let mut pair = [low.copied(), high.copied()].map(|point| point.expect("invariant: no group is empty"));
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair
    });
    extremes.collect()
}

fn svg(size: (u32, u32), what: &str, curves: &[Curve], floor: Floor) -> Option<String> {
    let mut page = String::new();
    let points: Vec<(f64, f64)> = curves.iter().flat_map(|curve| curve.points.iter().copied()).collect();
    if points.is_empty() {
        return None;
    }
    let area = SVGBackend::with_string(&mut page, size).into_drawing_area();
    draw(&area, &points, curves, floor).expect("invariant: drawing into a string");
    drop(area);
    let head = format!(r#"<svg width="{}" height="{}" "#, size.0, size.1);
    page = page.replacen(&head, &format!(r#"<svg class="chart" role="img" aria-label="{what}" "#), 1);
    for (colour, variable) in COLOURS {
        page = page.replace(colour, variable);
    }
    Some(page)
}

fn draw(
    area: &DrawingArea<SVGBackend, Shift>,
    points: &[(f64, f64)],
    curves: &[Curve],
    floor: Floor,
) -> Result<(), Box<dyn std::error::Error>> {
    let (width, height) = area.dim_in_pixel();
    let (first, last) = range(points.iter().map(|point| point.0));
    let last = if last > first { last } else { first + 1.0 };
    let (low, high) = range(points.iter().map(|point| point.1));
    let low = if let Floor::Zero = floor { low.min(0.0) } else { low };
    let room = if high > low { 0.06 * (high - low) } else { 0.5 * high.abs().max(1e-9) };
    let bottom = if let Floor::Zero = floor { low } else { low - room };
    let mut chart = ChartBuilder::on(area)
        .margin_top(8)
        .margin_right(18)
        .x_label_area_size(26)
        .y_label_area_size(if width > 600 { 46 } else { 52 })
        .build_cartesian_2d(first..last, bottom..high + room)?;
    let font = ("sans-serif", 13).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(font)
        .x_labels((width / 90) as usize)
        .y_labels((height / 36) as usize)
        .x_label_formatter(&|step| match (step - step.round()).abs() < 1e-6 {
            true => format!("{step:.0}"),
            false => String::new(),
        })
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for Curve { points, colour, look } in curves {
        let line = points.iter().copied();
        match look {
            Look::Faint => drop(chart.draw_series(LineSeries::new(line, colour.mix(0.35).stroke_width(1)))?),
            Look::Line => drop(chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?),
            Look::Dashed => drop(chart.draw_series(DashedLineSeries::new(line, 7, 5, colour.stroke_width(2)))?),
            Look::Dotted => {
                chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
                chart.draw_series(line.map(|point| Circle::new(point, 4, colour.filled())))?;
            }
        }
    }
    area.present()?;
    Ok(())
}

fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

/// A number of an axis with few characters: `12k`, `2.5`, `0.003`, `3e-5`.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
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
            (0.003, "0.003"),
            (3e-5, "3e-5"),
            (1.5e-4, "1.5e-4"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(short(x), text);
        }
    }

    /// A straight line stays as it is, also at its ends; a lone peak is spread over its neighbours and keeps its area.
    #[test]
    fn smoothing_does_not_lag() {
        let line: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 7.0 - 0.25 * f64::from(i))).collect();
        for (smooth, exact) in smoothed(&line).into_iter().zip(&line) {
            assert!((smooth.1 - exact.1).abs() < 1e-12, "{smooth:?} {exact:?}");
        }
        let peak: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), f64::from(u8::from(i == 100)))).collect();
        let smooth = smoothed(&peak);
        // 200 / 40 = 5 neighbours on either side.
        assert!((smooth[103].1 - 1.0 / 11.0).abs() < 1e-12 && smooth[106].1.abs() < 1e-12);
        let area: f64 = smooth.iter().map(|(_, y)| y).sum();
        assert!((area - 1.0).abs() < 1e-12, "{area}");
    }

    #[test]
    fn thinning_keeps_extremes_and_order() {
        let wave: Vec<(f64, f64)> = (0..10_007).map(|i| (f64::from(i), f64::from(i * 7919 % 10_007))).collect();
        let thin = thinned(&wave);
        assert!(thin.len() <= POINTS_MAX, "{}", thin.len());
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(range(thin.iter().map(|point| point.1)), (0.0, 10_006.0));
    }
}
