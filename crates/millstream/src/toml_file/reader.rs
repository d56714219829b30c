//! Typed reading of a table that collects problems instead of stopping at the first.
//!
//! Every read yields `None` when it reported a problem, so a value that depends on several is made with `?` and
//! checks between values run only where all of them are readable.

use super::problem::nearest;
use super::{Entry, Node, Place, Problem, Table, Value};
use std::cell::RefCell;

/// Reads one table. Keys that were never asked for are reported when it is dropped.
pub struct Reader<'a> {
    section: Section<'a>,
    /// `pipeline.`; empty at the top.
    path: String,
    place: Place,
    problems: &'a RefCell<Vec<Problem>>,
    known: RefCell<Vec<&'static str>>,
}

#[derive(Clone, Copy)]
enum Section<'a> {
    Given(&'a Table),
    Absent,
    /// Something else stands in its place, which is reported: what it would hold is not missing as well.
    Unreadable,
}

/// What a parser yields.
pub type Parsed<T> = Result<T, Box<Wrong>>;

/// A value that cannot be used.
pub struct Wrong {
    place: Place,
    /// `an item of ` for an item of a list.
    of: &'static str,
    found: String,
    wanted: String,
    way_out: Option<String>,
}

impl Wrong {
    /// `node` is not what is `wanted` ("a whole number").
    pub fn new(node: &Node, wanted: impl Into<String>) -> Box<Self> {
        let found = node.value.to_string();
        Box::new(Self { place: node.place.clone(), of: "", found, wanted: wanted.into(), way_out: None })
    }
}

impl<'a> Reader<'a> {
    /// Reads the top of a file; `place` is the file.
    pub fn new(table: &'a Table, place: Place, problems: &'a RefCell<Vec<Problem>>) -> Self {
        Self { section: Section::Given(table), path: String::new(), place, problems, known: RefCell::default() }
    }

    /// The section `key`; an absent one reads as empty.
    pub fn section(&self, key: &'static str) -> Reader<'a> {
        let entry = self.entry(key);
        let section = match entry.map(|entry| &entry.node) {
            None => Section::Absent,
            Some(Node { value: Value::Table(table), .. }) => Section::Given(table),
            Some(Node { place, value }) => {
                self.wrong(
                    "",
                    key,
                    place,
                    &value.to_string(),
                    &format!("must be a section [{}{key}]", self.path),
                    None,
                );
                Section::Unreadable
            }
        };
        let place = entry.map_or_else(|| self.place.clone(), |entry| entry.node.place.clone());
        let path = format!("{}{key}.", self.path);
        Reader { section, path, place, problems: self.problems, known: RefCell::default() }
    }

    /// The tables of the list `[[key]]`, `None` for what is none, which is reported; an absent list reads as empty.
    pub fn tables(&self, key: &'static str) -> Vec<Option<Reader<'a>>> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let (items, is_list): (&[Node], bool) = match &entry.node.value {
            Value::List(items) => (items, true),
            _ => (std::slice::from_ref(&entry.node), false),
        };
        let reader = |(i, item): (usize, &'a Node)| match &item.value {
            Value::Table(table) if is_list => Some(Reader {
                section: Section::Given(table),
                path: format!("{}{key}[{i}].", self.path),
                place: item.place.clone(),
                problems: self.problems,
                known: RefCell::default(),
            }),
            value => {
                let wanted = format!("must be a section [[{}{key}]]", self.path);
                self.wrong("", key, &item.place, &value.to_string(), &wanted, None);
                None
            }
        };
        items.iter().enumerate().map(reader).collect()
    }

    /// The value of `key`, reported as missing when absent; `what` says what it gives.
    pub fn required<T>(&self, key: &'static str, what: &str, parse: impl Fn(&Node) -> Parsed<T>) -> Option<T> {
        match self.optional(key, parse)? {
            Some(value) => Some(value),
            None => {
                self.missing(key, what);
                None
            }
        }
    }

    /// The value of `key`, or `default` when absent.
    pub fn or<T>(&self, key: &'static str, default: T, parse: impl Fn(&Node) -> Parsed<T>) -> Option<T> {
        Some(self.optional(key, parse)?.unwrap_or(default))
    }

    /// The value of `key`; `Some(None)` when absent.
    pub fn optional<T>(&self, key: &'static str, parse: impl Fn(&Node) -> Parsed<T>) -> Option<Option<T>> {
        let Some(entry) = self.entry(key) else { return Some(None) };
        match parse(&entry.node) {
            Ok(value) => Some(Some(value)),
            Err(wrong) => {
                let Wrong { place, of, found, wanted, way_out } = *wrong;
                self.wrong(of, key, &place, &found, &format!("must be {wanted}"), way_out.as_deref());
                None
            }
        }
    }

    /// Whether `key` is given.
    pub fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// Reports that the value of `key`, which can be read, does not do: "`rows` is 10, but {wanted}; {way_out}". An
    /// absent key is shown with `default`, what it stands for.
    pub fn refuse(&self, key: &'static str, default: &str, wanted: &str, way_out: &str) {
        match self.entry(key) {
            Some(entry) => self.wrong("", key, &entry.node.place, &entry.node.value.to_string(), wanted, Some(way_out)),
            None => self.wrong("", key, &self.place, &format!("{default} (the default)"), wanted, Some(way_out)),
        }
    }

    /// Reports a sentence at the place of `key`, or of the section when it is absent.
    pub fn complain(&self, key: &str, text: String) {
        let entry = self.table().and_then(|table| table.get(key));
        self.say(entry.map_or(&self.place, |entry| &entry.node.place), text);
    }

    /// Reports that `key` is missing; `what` says what it gives.
    pub fn missing(&self, key: &str, what: &str) {
        match self.section {
            Section::Unreadable => {}
            Section::Given(_) | Section::Absent => {
                self.say(&self.place, format!("`{}{key}` is missing; it gives {what}", self.path));
            }
        }
    }

    fn table(&self) -> Option<&'a Table> {
        match self.section {
            Section::Given(table) => Some(table),
            Section::Absent | Section::Unreadable => None,
        }
    }

    fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table()?.get(key)
    }

    fn wrong(&self, of: &str, key: &str, place: &Place, found: &str, wanted: &str, way_out: Option<&str>) {
        let way_out = way_out.map(|way| format!("; {way}")).unwrap_or_default();
        self.say(place, format!("{of}`{}{key}` is {found}, but {wanted}{way_out}", self.path));
    }

    fn say(&self, place: &Place, text: String) {
        self.problems.borrow_mut().push(Problem::new(place.clone(), text));
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let known = self.known.borrow();
        for (key, entry) in self.table().into_iter().flatten().filter(|(key, _)| !known.contains(&key.as_str())) {
            let way_out = match nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            self.say(&entry.place, format!("there is no key `{}{key}`; {way_out}", self.path));
        }
    }
}

/// Counts above this are slips. Up to here, sums and products of two of them fit 64 bits.
const MOST: i128 = i32::MAX as i128;

/// A whole number of at least `least` that counts or numbers something.
pub fn whole<T: TryFrom<i128>>(least: i128) -> impl Fn(&Node) -> Parsed<T> {
    move |node| match node.value {
        Value::Whole(found) if found > MOST => Err(Wrong::new(node, format!("at most {MOST}"))),
        _ => any_whole(least)(node),
    }
}

/// A whole number of at least `least`, as large as `T` holds: a seed, bytes.
pub fn any_whole<T: TryFrom<i128>>(least: i128) -> impl Fn(&Node) -> Parsed<T> {
    move |node| match node.value {
        Value::Whole(found) if found >= least => {
            T::try_from(found).map_err(|_too_large| Wrong::new(node, "a smaller whole number"))
        }
        _ => Err(Wrong::new(node, format!("a whole number of at least {least}"))),
    }
}

/// What a number may be.
#[derive(Clone, Copy, Debug)]
pub enum NumberRange {
    /// Above 0.
    Positive,
    /// 0 or above.
    NotNegative,
    /// Above 0 and below 1.
    Fraction,
    /// Above 0 and at most 1.
    Share,
    /// From 0 to below 1.
    BelowOne,
}

/// A finite number in a range; a whole number will do.
pub fn number(range: NumberRange) -> impl Fn(&Node) -> Parsed<f64> {
    let (wanted, fits): (_, fn(f64) -> bool) = match range {
        NumberRange::Positive => ("a number above 0", |x| x > 0.0),
        NumberRange::NotNegative => ("a number of at least 0", |x| x >= 0.0),
        NumberRange::Fraction => ("a number above 0 and below 1", |x| x > 0.0 && x < 1.0),
        NumberRange::Share => ("a number above 0 and at most 1", |x| x > 0.0 && x <= 1.0),
        NumberRange::BelowOne => ("a number of at least 0 and below 1", |x| (0.0..1.0).contains(&x)),
    };
    move |node| {
        let found = match node.value {
            Value::Whole(found) => found as f64,
            Value::Number(found) => found,
            _ => return Err(Wrong::new(node, wanted)),
        };
        if found.is_finite() && fits(found) { Ok(found) } else { Err(Wrong::new(node, wanted)) }
    }
}

/// `true` or `false`.
pub fn flag(node: &Node) -> Parsed<bool> {
    match node.value {
        Value::Flag(flag) => Ok(flag),
        _ => Err(Wrong::new(node, "true or false")),
    }
}

/// A string.
pub fn text(node: &Node) -> Parsed<String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(Wrong::new(node, "a string")),
    }
}

/// One of the given words.
pub fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Node) -> Parsed<T> {
    move |node| {
        let names = || words.iter().map(|(word, _)| *word);
        if let Value::Text(found) = &node.value
            && let Some((_, meant)) = words.iter().find(|(word, _)| word == found)
        {
            return Ok(*meant);
        }
        let quoted: Vec<String> = names().map(|word| format!("{word:?}")).collect();
        let mut wrong = Wrong::new(
            node,
            match quoted.len() {
                ..=3 => quoted.join(" or "),
                _ => format!("one of {}", quoted.join(", ")),
            },
        );
        if let Value::Text(found) = &node.value {
            wrong.way_out = nearest(found, names()).map(|meant| format!("did you mean {meant:?}?"));
        }
        Err(wrong)
    }
}

/// A list; an item that does not fit is shown in its own place.
pub fn list<T>(item: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Vec<T>> {
    move |node| match &node.value {
        Value::List(items) => items.iter().map(&item).collect::<Parsed<Vec<T>>>().map_err(|mut wrong| {
            wrong.of = "an item of ";
            wrong
        }),
        _ => Err(Wrong::new(node, "a list")),
    }
}

/// `word` for none, or a value.
pub fn or_word<T>(word: &'static str, parse: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Option<T>> {
    move |node| match &node.value {
        Value::Text(found) if found == word => Ok(None),
        _ => parse(node).map(Some).map_err(|mut wrong| {
            if wrong.of.is_empty() {
                wrong.wanted = format!("{} or {word:?}", wrong.wanted);
            }
            wrong
        }),
    }
}
