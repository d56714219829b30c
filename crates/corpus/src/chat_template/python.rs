//! Values written as Python writes them, which is what templates were made against.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use regex::Regex;
use std::sync::LazyLock;

/// Levels that a printed value may have: a template can put a list into itself, and Python's own limit is 1000.
const LEVELS_MAX: usize = 100;

/// `{{ value }}`: what Python's `str` gives.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => Ok(out.write_str(value.as_str().unwrap_or_default())?),
        _ => {
            let mut text = Paid { text: String::new(), state };
            repr(value, &mut text, 0)?;
            Ok(out.write_str(&text.text)?)
        }
    }
}

/// Text that is paid for, from the fuel of the render, before it is there: a list that holds another twice, that one
/// another twice, is short to write down and has a text without end.
struct Paid<'a, 'b, 'c> {
    text: String,
    state: &'a State<'b, 'c>,
}

impl Paid<'_, '_, '_> {
    /// Bytes that a unit of fuel pays for, as in the engine.
    const BYTES: usize = 64;

    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.spend(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    fn spend(&self, n_bytes: usize) -> Result<(), Error> {
        self.state.consume_fuel(1 + (n_bytes / Self::BYTES) as u64)
    }

    /// What a value holds, each paid for.
    fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.spend(size_of::<Value>())?;
            items.push(item);
        }
        Ok(items)
    }
}

/// One level down.
fn below(level: usize) -> Result<usize, Error> {
    match level < LEVELS_MAX {
        true => Ok(level + 1),
        false => {
            let problem = format!("a value of more than {LEVELS_MAX} levels, which may hold itself, cannot be printed");
            Err(Error::new(ErrorKind::InvalidOperation, problem))
        }
    }
}

/// Python's `repr`.
fn repr(value: &Value, out: &mut Paid, level: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push("None")?,
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" })?,
        ValueKind::Number => out.push(&number(value))?,
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out)?,
        ValueKind::Seq | ValueKind::Iterable => {
            let level = below(level)?;
            out.push("[")?;
            for (i, item) in value.try_iter()?.enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                repr(&item, out, level)?;
            }
            out.push("]")?;
        }
        ValueKind::Map => {
            let level = below(level)?;
            out.push("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                repr(&key, out, level)?;
                out.push(": ")?;
                repr(&value.get_item(&key)?, out, level)?;
            }
            out.push("}")?;
        }
        _ => out.push(&value.to_string())?,
    }
    Ok(())
}

/// A string as Python quotes it.
fn quoted(text: &str, out: &mut Paid) -> Result<(), Error> {
    // What Python does not print as it is: control, format and private characters, and space but the usual one.
    static UNPRINTABLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}--[ ]]").expect("invariant: a sound pattern"));
    // An escape is up to ten times as long as its character.
    out.spend(10 * text.len())?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let out = &mut out.text;
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => out.push_str(&match u32::from(c) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
            c => out.push(c),
        }
    }
    out.push(quote);
    Ok(())
}

/// An integer, or a float with the exponent as Python spells it: `1e-05`, `1e+16`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
    }
}

/// The filter `tojson`: `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let (item, key) = match (separators.as_deref(), indent) {
        (Some([item, key]), _) => (item.clone(), key.clone()),
        (Some(_), _) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings")),
        (None, None) => (", ".to_owned(), ": ".to_owned()),
        (None, Some(_)) => (",".to_owned(), ": ".to_owned()),
    };
    let style = Style { item, key, indent, ensure_ascii, sort_keys };
    let mut writer = JsonWriter { out: Paid { text: String::new(), state }, style: &style };
    writer.value(value, 0)?;
    Ok(writer.out.text)
}

/// How JSON is written.
struct Style {
    /// Between items.
    item: String,
    /// Between key and value.
    key: String,
    /// Blanks of a level; `None` keeps everything on one line.
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
}

struct JsonWriter<'a, 'b, 'c> {
    out: Paid<'a, 'b, 'c>,
    style: &'a Style,
}

impl JsonWriter<'_, '_, '_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push("null"),
            ValueKind::Bool => self.out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = self.out.items(value)?;
                self.all(["[", "]"], &items, level, |writer, item, level| writer.value(item, level))
            }
            ValueKind::Map => {
                let mut keys = self.out.items(value)?;
                if self.style.sort_keys {
                    keys.sort();
                }
                self.all(["{", "}"], &keys, level, |writer, key, level| {
                    match key.as_str() {
                        Some(text) => writer.string(text)?,
                        None => writer.string(&key.to_string())?,
                    }
                    writer.out.push(&writer.style.key)?;
                    writer.value(&value.get_item(key)?, level)
                })
            }
            kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} has no JSON form"))),
        }
    }

    fn all(
        &mut self,
        [open, close]: [&str; 2],
        items: &[Value],
        level: usize,
        mut each: impl FnMut(&mut Self, &Value, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inner = below(level)?;
        self.out.push(open)?;
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(&self.style.item)?;
            }
            self.line(inner)?;
            each(self, item, inner)?;
        }
        if !items.is_empty() {
            self.line(level)?;
        }
        self.out.push(close)
    }

    fn line(&mut self, level: usize) -> Result<(), Error> {
        if let Some(indent) = self.style.indent {
            let blanks = indent.saturating_mul(level);
            self.out.spend(blanks)?;
            self.out.text.push('\n');
            self.out.text.extend(std::iter::repeat_n(' ', blanks));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        // An escape is up to six times as long as its character.
        self.out.spend(6 * text.len())?;
        let quoted = serde_json::to_string(text).expect("invariant: a string has a JSON form");
        let out = &mut self.out.text;
        if !self.style.ensure_ascii {
            out.push_str(&quoted);
            return Ok(());
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            match c.is_ascii() {
                true => out.push(c),
                false => c.encode_utf16(&mut units).iter().for_each(|unit| *out += &format!("\\u{unit:04x}")),
            }
        }
        Ok(())
    }
}
