//! Rotary embedding as `config.json` has it.

use super::reader::{Reader, problem};
use crate::error::Problem;
use crate::{Family, Positions, Rope, RopeScaling};
use serde_json::{Map, Value, json};

/// What one object says: the scaling, and the base where it stands inside.
type Said = (RopeScaling, Option<f64>);

/// Both spellings may be present when they say the same: `rope_scaling` and `rope_parameters` name the scaling, and the
/// base stands beside them or inside. Gemma 3 has two of each: in `rope_parameters` one object for each type of layer,
/// or beside them another base for the layers with a window (`rope_local_base_freq`).
pub(super) fn read(reader: &mut Reader, family: Family, longest: usize) -> Positions {
    if !family.is_rotary() {
        return Positions::Learned;
    }
    let beside = reader.optional_number("rope_theta");
    let old = Object::take(reader, "rope_scaling", longest);
    if family != Family::Gemma3 {
        let new = Object::take(reader, "rope_parameters", longest);
        return Positions::rotary(merged(reader, "rope_theta", beside, old, new, 10_000.0));
    }
    let local = reader.optional_number("rope_local_base_freq");
    let [full, sliding] = by_layer_type(reader, longest);
    let full = merged(reader, "rope_theta", beside, old, full, 1_000_000.0);
    let sliding = merged(reader, "rope_local_base_freq", local, None, sliding, 10_000.0);
    Positions::Rotary { full, sliding }
}

/// The fields of both spellings.
pub(super) fn write(config: &mut Map<String, Value>, family: Family, positions: Positions) {
    let Positions::Rotary { full, sliding } = positions else { return };
    config.insert("rope_theta".into(), json!(full.theta));
    config.insert("rope_scaling".into(), scaling(full).map_or(Value::Null, Value::Object));
    let parameters = if family == Family::Gemma3 {
        config.insert("rope_local_base_freq".into(), json!(sliding.theta));
        json!({ FULL: object(full), SLIDING: object(sliding) })
    } else {
        object(full)
    };
    config.insert("rope_parameters".into(), parameters);
}

/// Types of layers.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

fn object(rope: Rope) -> Value {
    let mut object = scaling(rope).unwrap_or_default();
    object.entry("rope_type").or_insert(json!("default"));
    object.insert("rope_theta".into(), json!(rope.theta));
    Value::Object(object)
}

fn scaling(rope: Rope) -> Option<Map<String, Value>> {
    let object = match rope.scaling {
        RopeScaling::None => return None,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    object.as_object().cloned()
}

/// An object that was there, as it stands in the file and as it was read.
struct Object {
    json: Value,
    said: Said,
}

impl Object {
    fn take(reader: &mut Reader, name: &str, longest: usize) -> Option<Self> {
        let json = reader.take(name)?;
        let said = object_said(reader, name, json.clone(), longest)?;
        Some(Self { json, said })
    }
}

fn merged(
    reader: &mut Reader,
    beside_name: &str,
    beside: Option<f64>,
    old: Option<Object>,
    new: Option<Object>,
    default: f64,
) -> Rope {
    if let (Some(old), Some(new)) = (&old, &new)
        && old.said.0 != new.said.0
    {
        let wanted = format!("`rope_parameters` beside it says {}; keep one of them", new.json);
        reader.problems.push(problem("rope_scaling", Some(&old.json), &wanted));
    }
    let inside = [&new, &old].map(|object| object.as_ref().and_then(|object| object.said.1));
    let mut thetas = [beside, inside[0], inside[1]].into_iter().flatten();
    let theta = thetas.next().unwrap_or(default);
    if let Some(other) = thetas.find(|other| *other != theta) {
        let wanted = format!("the base is also given as {theta}; keep one of them");
        reader.problems.push(problem(beside_name, Some(&json!(other)), &wanted));
    }
    Rope { theta, scaling: new.or(old).map_or(RopeScaling::None, |object| object.said.0) }
}

/// The objects of `rope_parameters` for layers without and with a window.
fn by_layer_type(reader: &mut Reader, longest: usize) -> [Option<Object>; 2] {
    let fields = match reader.take("rope_parameters") {
        None => return [None, None],
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            let wanted = "it must be an object with one for each type of layer, or null";
            reader.problems.push(problem("rope_parameters", Some(&other), wanted));
            return [None, None];
        }
    };
    let mut inner = Reader::new(fields);
    let [full, sliding] = [FULL, SLIDING].map(|name| Object::take(&mut inner, name, longest));
    if let Some(Object { json, said: (scaling, _) }) = &sliding
        && *scaling != RopeScaling::None
    {
        inner.problems.push(problem(&format!("{SLIDING}.rope_type"), Some(&json["rope_type"]), ONLY_DEFAULT));
    }
    let wanted = format!("only \"{FULL}\" and \"{SLIDING}\" may stand here");
    let unknown = inner.fields.iter().filter(|(_, value)| !value.is_null());
    inner.problems.extend(unknown.map(|(key, value)| problem(key, Some(value), &wanted)));
    let under = |field: String| format!("rope_parameters.{field}");
    reader.problems.extend(inner.problems.into_iter().map(|p| Problem { field: under(p.field), ..p }));
    reader.unreadable.extend(inner.unreadable);
    [full, sliding]
}

const ONLY_DEFAULT: &str = "only \"default\" is supported in layers with a window";

/// Scaling and base that an object gives; `None` when it says nothing.
fn object_said(reader: &mut Reader, name: &str, json: Value, longest: usize) -> Option<Said> {
    let fields = match json {
        Value::Object(fields) if fields.is_empty() => return None,
        Value::Object(fields) => fields,
        other => {
            reader.problems.push(problem(name, Some(&other), "it must be an object or null"));
            return None;
        }
    };
    let mut inner = Reader::new(fields);
    let theta = inner.optional_number("rope_theta");
    let [new_type, old_type] = ["rope_type", "type"].map(|key| inner.fields.remove(key));
    if let (Some(new), Some(old)) = (&new_type, &old_type)
        && new != old
    {
        inner.problems.push(problem("type", Some(old), &format!("`rope_type` beside it is {new}; keep one of them")));
    }
    let kind = new_type.or(old_type).unwrap_or(json!("default"));
    let scaling = match kind.as_str() {
        Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: inner.required_number("factor") },
        Some("llama3") => RopeScaling::Llama3 {
            factor: inner.required_number("factor"),
            low_freq_factor: inner.required_number("low_freq_factor"),
            high_freq_factor: inner.required_number("high_freq_factor"),
            original_max_position_embeddings: inner
                .optional_size("original_max_position_embeddings")
                .unwrap_or(longest),
        },
        _ => {
            let wanted = "only \"default\", \"linear\" and \"llama3\" are supported";
            inner.problems.push(problem("rope_type", Some(&kind), wanted));
            inner.fields.clear();
            RopeScaling::None
        }
    };
    inner.fixed("partial_rotary_factor", &json!(1));
    let unknown = inner.fields.iter().filter(|(_, value)| !value.is_null());
    let wanted = format!("this field is not supported with `rope_type` {kind}");
    inner.problems.extend(unknown.map(|(key, value)| problem(key, Some(value), &wanted)));
    reader.problems.extend(inner.problems.into_iter().map(|p| Problem { field: format!("{name}.{}", p.field), ..p }));
    // Rules name the fields by the new spelling.
    reader.unreadable.extend(inner.unreadable.iter().map(|field| match field.as_str() {
        "rope_theta" => "rope_theta".into(),
        other => format!("rope_parameters.{other}"),
    }));
    Some((scaling, theta))
}
