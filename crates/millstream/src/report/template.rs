//! Pages from templates.

use minijinja::{Environment, Value};
use serde::Serialize;

/// The pages there are; the name's ending turns on escaping.
#[derive(Clone, Copy, Debug)]
pub enum Template {
    /// Of one run.
    Run,
    /// Of several runs side by side.
    Comparison,
}

/// Fills a page. Texts are escaped; only drawings and their data go in as they are.
///
/// # Errors
/// None but our own.
pub fn render(template: Template, page: &impl Serialize) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.add_template("macros.html", include_str!("macros.html.j2"))?;
    environment.add_template("run.html", include_str!("run.html.j2"))?;
    environment.add_template("comparison.html", include_str!("comparison.html.j2"))?;
    environment.add_global("style", Value::from_safe_string(include_str!("style.css").to_owned()));
    environment.add_global("script", Value::from_safe_string(include_str!("script.js").to_owned()));
    let name = match template {
        Template::Run => "run.html",
        Template::Comparison => "comparison.html",
    };
    Ok(environment.get_template(name)?.render(value(serde_json::to_value(page)?))?)
}

/// JSON as the template language has it.
fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => truth.into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().into(),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => items.into_iter().map(value).collect(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.into_iter().map(|(key, item)| (key, value(item))))
        }
    }
}
