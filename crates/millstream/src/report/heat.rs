//! Parameters and activations of all blocks over the run: a row per block, a column per look, darker for more.

use super::series::evenly;
use serde::Serialize;
use train::{BlockMetrics, BlocksMetrics};

/// Columns of a map at most.
const COLUMNS_MAX: usize = 80;

/// Steps of the colour scale.
const SHADES: usize = 9;

/// What is known of the blocks.
#[derive(Clone, Debug, Serialize)]
pub struct BlocksPart {
    /// The step of the table.
    pub step: u64,
    /// A map per quantity; none when there was one look only.
    pub maps: Vec<HeatMap>,
    /// Heads of the columns.
    pub columns: Vec<&'static str>,
    /// A row per block: its name, and a cell per column.
    pub rows: Vec<(String, Vec<String>)>,
}

/// One quantity over blocks and steps.
#[derive(Clone, Debug, Serialize)]
pub struct HeatMap {
    name: &'static str,
    meaning: &'static str,
    /// The ends of the colour scale.
    low: String,
    high: String,
    n_columns: usize,
    first_step: u64,
    last_step: u64,
    rows: Vec<(String, Vec<Cell>)>,
}

/// One value.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    column: usize,
    shade: usize,
    title: String,
}

/// A quantity of a block, absent where it has none.
type Quantity = (&'static str, &'static str, fn(&BlockMetrics) -> Option<f64>);

const QUANTITIES: [Quantity; 5] = [
    ("Update over weight", "how far the last step moved a block, by norms", |block| Some(block.update_share)),
    ("Gradient, rms", "before clipping", |block| Some(block.gradient_rms)),
    ("Activation, rms", "residual stream after the block", |block| block.activation_rms),
    ("Activation, largest magnitude", "after the block", |block| block.activation_max),
    ("Weight, rms", "", |block| Some(block.weight_rms)),
];

impl BlocksPart {
    /// `None` when nobody looked.
    pub fn new(looks: &[BlocksMetrics]) -> Option<Self> {
        let last = looks.last()?;
        let shown = evenly(looks, COLUMNS_MAX);
        let maps = QUANTITIES.iter().filter(|_| looks.len() > 1).filter_map(|quantity| HeatMap::new(quantity, &shown));
        let cell = |value: f64| if value.is_finite() { figure(value) } else { "not finite".to_owned() };
        let maybe = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), cell);
        let row = |block: &BlockMetrics| {
            let cells = [
                block.stage.to_string(),
                crate::units::count(block.parameters),
                cell(block.update_share),
                cell(block.weight_rms),
                cell(block.weight_max),
                cell(block.gradient_rms),
                cell(block.gradient_max),
                maybe(block.activation_rms),
                maybe(block.activation_max),
            ];
            (block.block.clone(), cells.to_vec())
        };
        Some(Self {
            step: last.step,
            maps: maps.collect(),
            columns: vec![
                "stage",
                "parameters",
                "update / weight",
                "weight rms",
                "weight max",
                "gradient rms",
                "gradient max",
                "activation rms",
                "activation max",
            ],
            rows: last.blocks.iter().map(row).collect(),
        })
    }
}

impl HeatMap {
    fn new(&(name, meaning, value): &Quantity, looks: &[&BlocksMetrics]) -> Option<Self> {
        let values = looks.iter().flat_map(|look| &look.blocks).filter_map(value);
        let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let shade = |value: f64| match (value / low).ln() / (high / low).ln() {
            // Not finite is the darkest: it is what one looks for.
            _ if !value.is_finite() => SHADES - 1,
            share if share.is_nan() => SHADES / 2,
            share => ((share * SHADES as f64) as usize).min(SHADES - 1),
        };
        let first = looks.first()?;
        let row = |(i, block): (usize, &BlockMetrics)| {
            let cells = looks.iter().enumerate().filter_map(|(column, look)| {
                let value = value(look.blocks.get(i)?)?;
                let title = format!("{}, step {}: {}", block.block, look.step, figure(value));
                Some(Cell { column, shade: shade(value), title })
            });
            (block.block.clone(), cells.collect::<Vec<Cell>>())
        };
        Some(Self {
            name,
            meaning,
            low: figure(low),
            high: figure(high),
            n_columns: looks.len(),
            first_step: first.step,
            last_step: looks.last()?.step,
            rows: first.blocks.iter().enumerate().map(row).filter(|(_, cells)| !cells.is_empty()).collect(),
        })
    }
}

/// Three digits.
fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e4).contains(&size) => {
            let digits = (2.0 - size.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.2e}").replace("e-", "e−"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(step: u64, values: &[f64]) -> BlocksMetrics {
        let block = |(i, &value): (usize, &f64)| BlockMetrics {
            block: format!("mlp {i}"),
            stage: i,
            parameters: 7,
            weight_rms: value,
            weight_max: value,
            gradient_rms: value,
            gradient_max: value,
            update_share: value,
            activation_rms: (i > 0).then_some(value),
            activation_max: None,
        };
        BlocksMetrics { step, blocks: values.iter().enumerate().map(block).collect() }
    }

    #[test]
    fn shades_go_by_the_logarithm() {
        let looks = [look(10, &[1e-4, 1e-2]), look(20, &[1.0, f64::NAN])];
        let part = BlocksPart::new(&looks).unwrap();
        // No block has a largest activation.
        assert_eq!(part.maps.len(), QUANTITIES.len() - 1);
        let map = &part.maps[0];
        let shades: Vec<Vec<usize>> =
            map.rows.iter().map(|(_, cells)| cells.iter().map(|cell| cell.shade).collect()).collect();
        assert_eq!(shades, [[0, SHADES - 1], [SHADES / 2, SHADES - 1]]);
        assert_eq!((map.low.as_str(), map.high.as_str()), ("1.00e−4", "1.00"));
        assert_eq!(part.rows[1].1[2], "not finite");
        assert_eq!(part.rows[0].1[8], "–");
        // One look has no course, and all alike are in the middle of the scale.
        assert!(BlocksPart::new(&looks[..1]).unwrap().maps.is_empty());
        let alike = BlocksPart::new(&[look(1, &[2.0]), look(2, &[2.0])]).unwrap();
        assert!(alike.maps[0].rows[0].1.iter().all(|cell| cell.shade == SHADES / 2));
        assert!(BlocksPart::new(&[]).is_none());
        let many: Vec<BlocksMetrics> = (1..=500).map(|step| look(step, &[1.0, 2.0])).collect();
        assert_eq!(BlocksPart::new(&many).unwrap().maps[0].n_columns, COLUMNS_MAX);
    }

    #[test]
    fn figures() {
        for (value, text) in
            [(0.0, "0"), (0.01234, "0.0123"), (123.456, "123"), (2.0, "2.00"), (1.234e-5, "1.23e−5"), (-0.5, "-0.500")]
        {
            assert_eq!(figure(value), text);
        }
    }
}
