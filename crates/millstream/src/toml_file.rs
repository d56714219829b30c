//! TOML whose every value knows where it was written, so that a problem can be shown in its place.

mod problem;
mod reader;

pub use problem::{Problem, Problems};
pub use reader::{NumberRange, Parsed, Reader, Wrong, any_whole, choice, flag, list, number, or_word, text, whole};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// Where something was written: a file with line and column, counted from 1, or a command-line option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    source: Arc<str>,
    at: Option<(usize, usize)>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Of the value; for a table, of its header.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Whole(i128),
    /// A float.
    Number(f64),
    /// A boolean.
    Flag(bool),
    /// A date or time, which no key of ours is.
    Date(String),
    /// An array.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

/// Keys and what they are given.
pub type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Of the key.
    pub place: Place,
    /// What it is given.
    pub node: Node,
}

/// A whole file: its table, and everything that is no TOML.
pub fn parse(name: &str, text: &str) -> (Table, Vec<Problem>) {
    let source = Source { name: name.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    let problem = |error: &toml::de::Error| {
        let place = error.span().map_or_else(|| Place::named(name), |span| source.place(span.start));
        Problem::new(place, format!("this is not TOML: {}", error.message().trim_end_matches('\n').replace('\n', ", ")))
    };
    (source.table(table.get_ref()), errors.iter().map(problem).collect())
}

/// One `key.key=value` of the command line, given at `place`, as a file of one entry. A value that is no TOML is a string, so that words
/// need no quotes; every place in it is `place`.
pub fn parse_option(place: Place, assignment: &str) -> Result<Table, Problem> {
    let Some((path, value)) = assignment.split_once('=') else {
        return Err(Problem::new(place, "this assigns nothing; write key=value, such as `steps=100`".into()));
    };
    let keys: Vec<&str> = path.trim().split('.').map(str::trim).collect();
    if keys.iter().any(|key| key.is_empty()) {
        return Err(Problem::new(place, format!("`{}` is not a key; write section.key=value", path.trim())));
    }
    let source = Source { name: place.source.clone(), text: "" };
    let value = match DeValue::parse(value.trim()) {
        Ok(value) => source.value(value.get_ref()),
        Err(_not_toml) => Value::Text(value.trim().to_owned()),
    };
    let leaf = Node { place: place.clone(), value };
    let node = keys[1..].iter().rev().fold(leaf, |node, key| {
        let table = Table::from([((*key).to_owned(), Entry { place: place.clone(), node })]);
        Node { place: place.clone(), value: Value::Table(table) }
    });
    Ok(Table::from([(keys[0].to_owned(), Entry { place, node })]))
}

/// Lays `upper` over `lower`: tables join, everything else is replaced.
pub fn lay_over(lower: &mut Table, upper: Table) {
    for (key, entry) in upper {
        match (lower.get_mut(&key), entry) {
            (
                Some(Entry { place: old_place, node: Node { place: old_at, value: Value::Table(below) } }),
                Entry { place, node: Node { place: at, value: Value::Table(above) } },
            ) => {
                (*old_place, *old_at) = (place, at);
                lay_over(below, above);
            }
            (_, entry) => {
                lower.insert(key, entry);
            }
        }
    }
}

impl Place {
    /// All of a file or option.
    pub fn named(source: &str) -> Self {
        Self { source: source.into(), at: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Whole(whole) => whole.fmt(f),
            Value::Number(number) => write!(f, "{number:?}"),
            Value::Flag(flag) => flag.fmt(f),
            Value::Date(date) => date.fmt(f),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| item.value.to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Value::Table(_) => f.write_str("a table"),
        }
    }
}

struct Source<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Source<'_> {
    /// The place of a byte; without a text, all of the option.
    fn place(&self, byte: usize) -> Place {
        let Some(before) = self.text.get(..byte).filter(|_| !self.text.is_empty()) else {
            return Place { source: self.name.clone(), at: None };
        };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        Place { source: self.name.clone(), at: Some((line, column)) }
    }

    fn table(&self, table: &DeTable) -> Table {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue>)| {
            let key: (&std::borrow::Cow<str>, _) = (key.get_ref(), key.span());
            let node = Node { place: self.place(value.span().start), value: self.value(value.get_ref()) };
            (key.0.to_string(), Entry { place: self.place(key.1.start), node })
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, value: &DeValue) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => match i128::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(whole) => Value::Whole(whole),
                Err(_beyond_128_bits) => Value::Number(f64::INFINITY),
            },
            DeValue::Float(digits) => Value::Number(digits.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Node { place: self.place(item.span().start), value: self.value(item.get_ref()) })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}
