//! Layers with a window as `config.json` has them.

use super::defaults::Defaults;
use super::reader::{Reader, problem};
use super::rope::{FULL, SLIDING};
use crate::{Family, Sliding, Windows};
use serde_json::{Map, Value, json};

pub(super) fn read(reader: &mut Reader, family: Family, defaults: &Defaults, n_layers: usize) -> Option<Sliding> {
    match (family, family.windows()) {
        (_, Windows::Never) => None,
        (_, Windows::AllLayers) => {
            let window = window(reader, defaults)?;
            Some(Sliding { window, layers: vec![true; n_layers] })
        }
        (Family::Gemma3, Windows::ByLayer) => {
            let window = window(reader, defaults);
            // A field that came before `layer_types`.
            let pattern = reader.size("sliding_window_pattern", 6).max(1);
            let layers = layer_types(reader).unwrap_or_else(|| (1..=n_layers).map(|n| n % pattern != 0).collect());
            of_layers(reader, window, layers)
        }
        (_, Windows::ByLayer) => {
            let is_used = reader.flag("use_sliding_window", false);
            let window = window(reader, defaults).filter(|_| is_used);
            let first = reader.size("max_window_layers", 28);
            let layers =
                layer_types(reader).unwrap_or_else(|| (0..n_layers).map(|n| window.is_some() && n >= first).collect());
            of_layers(reader, window, layers)
        }
    }
}

pub(super) fn write(config: &mut Map<String, Value>, family: Family, sliding: Option<&Sliding>, n_layers: usize) {
    if family.windows() == Windows::Never {
        return;
    }
    config.insert("sliding_window".into(), json!(sliding.map(|sliding| sliding.window)));
    if family.windows() == Windows::AllLayers {
        return;
    }
    let none = vec![false; n_layers];
    let layers = sliding.map_or(&none, |sliding| &sliding.layers);
    let types: Vec<&str> = layers.iter().map(|slides| if *slides { SLIDING } else { FULL }).collect();
    config.insert("layer_types".into(), json!(types));
    if family != Family::Gemma3 {
        config.insert("use_sliding_window".into(), json!(sliding.is_some()));
        // For readers that know no `layer_types`.
        let first = layers.iter().position(|slides| *slides).unwrap_or(n_layers);
        config.insert("max_window_layers".into(), json!(first));
    }
}

/// `sliding_window`: the family's where it is absent, none where it is `null`.
fn window(reader: &mut Reader, defaults: &Defaults) -> Option<usize> {
    if reader.fields.contains_key("sliding_window") {
        reader.optional_size("sliding_window")
    } else {
        defaults.sliding_window
    }
}

fn of_layers(reader: &mut Reader, window: Option<usize>, layers: Vec<bool>) -> Option<Sliding> {
    if !layers.contains(&true) {
        return None;
    }
    if window.is_none() && reader.is_readable("sliding_window") {
        let wanted = format!("layers of type \"{SLIDING}\" need `sliding_window`, switched on where it has a switch");
        reader.problems.push(problem("layer_types", Some(&json!(SLIDING)), &wanted));
    }
    Some(Sliding { window: window?, layers })
}

fn layer_types(reader: &mut Reader) -> Option<Vec<bool>> {
    let value = reader.take("layer_types")?;
    let slides = |value: &Value| match value.as_str() {
        Some(SLIDING) => Some(true),
        Some(FULL) => Some(false),
        _ => None,
    };
    let layers = value.as_array().and_then(|types| types.iter().map(slides).collect());
    layers
        .or_else(|| reader.refuse("layer_types", &value, &format!("it must be a list of \"{FULL}\" and \"{SLIDING}\"")))
}
