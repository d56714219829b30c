//! Typed access to the fields of a JSON object.

use crate::error::Problem;
use serde_json::{Map, Value, json};

/// Takes fields out of the object, so that what is left over is unknown, and goes on after a problem with the default.
pub(super) struct Reader {
    pub fields: Map<String, Value>,
    pub problems: Vec<Problem>,
    pub unreadable: Vec<String>,
}

impl Reader {
    pub fn new(fields: Map<String, Value>) -> Self {
        Self { fields, problems: Vec::new(), unreadable: Vec::new() }
    }

    /// The field, unless it is absent or `null`.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that must have one value where it is given.
    pub fn fixed(&mut self, name: &str, supported: &Value) {
        if let Some(found) = self.take(name).filter(|found| !same(found, supported)) {
            self.problems.push(problem(name, Some(&found), &format!("only {supported} is supported")));
        }
    }

    pub fn size(&mut self, name: &str, default: usize) -> usize {
        self.fields.remove(name).and_then(|value| self.read_size(name, value)).unwrap_or(default)
    }

    pub fn optional_size(&mut self, name: &str) -> Option<usize> {
        self.take(name).and_then(|value| self.read_size(name, value))
    }

    pub fn number(&mut self, name: &str, default: f64) -> f64 {
        self.optional_number(name).unwrap_or(default)
    }

    /// A number where the field is there; `null` is none.
    pub fn optional_number(&mut self, name: &str) -> Option<f64> {
        self.fields.remove(name).and_then(|value| self.read_number(name, value))
    }

    /// 1 when it is absent or malformed, which is then a problem.
    pub fn required_number(&mut self, name: &str) -> f64 {
        let value = self.fields.remove(name).unwrap_or(Value::Null);
        self.read_number(name, value).unwrap_or(1.0)
    }

    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.fields.remove(name) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.refuse(name, &other, "it must be true or false").unwrap_or(default),
        }
    }

    pub fn token(&mut self, name: &str, default: Option<u32>) -> Option<u32> {
        match self.fields.remove(name) {
            None => default,
            Some(Value::Null) => None,
            Some(value) => as_token(&value).or_else(|| self.refuse(name, &value, "it must be a token id or null")),
        }
    }

    pub fn tokens(&mut self, name: &str, default: Option<u32>) -> Vec<u32> {
        match self.fields.remove(name) {
            None => default.into_iter().collect(),
            Some(Value::Null) => Vec::new(),
            Some(value) => {
                let ids: Option<Vec<u32>> = match &value {
                    Value::Array(values) => values.iter().map(as_token).collect(),
                    one => as_token(one).map(|id| vec![id]),
                };
                let wanted = "it must be a token id, a list of token ids or null";
                ids.or_else(|| self.refuse(name, &value, wanted)).unwrap_or_default()
            }
        }
    }

    pub fn refuse<T>(&mut self, name: &str, found: &Value, wanted: &str) -> Option<T> {
        self.problems.push(problem(name, Some(found), wanted));
        self.unreadable.push(name.into());
        None
    }

    pub fn is_readable(&self, name: &str) -> bool {
        !self.unreadable.iter().any(|field| field == name)
    }

    fn read_size(&mut self, name: &str, value: Value) -> Option<usize> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.or_else(|| self.refuse(name, &value, "it must be a whole number of at least 1"))
    }

    fn read_number(&mut self, name: &str, value: Value) -> Option<f64> {
        value.as_f64().or_else(|| self.refuse(name, &value, "it must be a number"))
    }
}

/// Whether two values say the same; 0 and 0.0 do.
fn same(found: &Value, supported: &Value) -> bool {
    match (found.as_f64(), supported.as_f64()) {
        (Some(found), Some(supported)) => found == supported,
        _ => found == supported,
    }
}

fn as_token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

pub(super) fn problem(field: &str, found: Option<&Value>, wanted: &str) -> Problem {
    let found = found.map_or("nothing".into(), Value::to_string);
    Problem { field: field.into(), found, wanted: wanted.into() }
}

/// A number as JSON, whole where it is.
pub(super) fn whole_or_float(x: f64) -> Value {
    if x.fract() == 0.0 && (0.0..9e15).contains(&x) { json!(x as u64) } else { json!(x) }
}
