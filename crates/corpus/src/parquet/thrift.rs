//! Thrift's compact protocol, as far as Parquet uses it: a value without its schema.

use std::collections::BTreeMap;

/// Deeper than this nests no Parquet metadata, but a damaged file may.
const DEPTH_MAX: usize = 32;

/// A decoded value; fields are known by their numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Thrift {
    Flag(bool),
    Whole(i64),
    Bytes(Vec<u8>),
    List(Vec<Thrift>),
    Struct(BTreeMap<i64, Thrift>),
    /// A float or a map, which nothing here asks for.
    Other,
}

/// Why bytes are no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// They end too early.
    Short,
    /// They hold something that is not of the protocol.
    Wrong,
}

/// The struct at the start of `bytes` and how many bytes it takes.
pub(super) fn read_struct(bytes: &[u8]) -> Result<(Thrift, usize), Broken> {
    let mut decoder = Decoder { bytes, at: 0 };
    let value = decoder.structure(0)?;
    Ok((value, decoder.at))
}

impl Thrift {
    pub fn field(&self, number: i64) -> Option<&Thrift> {
        match self {
            Thrift::Struct(fields) => fields.get(&number),
            _ => None,
        }
    }

    pub fn whole(&self, number: i64) -> Option<i64> {
        match self.field(number)? {
            Thrift::Whole(value) => Some(*value),
            _ => None,
        }
    }

    pub fn flag(&self, number: i64) -> Option<bool> {
        match self.field(number)? {
            Thrift::Flag(value) => Some(*value),
            _ => None,
        }
    }

    pub fn text(&self, number: i64) -> Option<String> {
        self.field(number)?.as_text()
    }

    pub fn as_text(&self) -> Option<String> {
        match self {
            Thrift::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub fn list(&self, number: i64) -> &[Thrift] {
        match self.field(number) {
            Some(Thrift::List(items)) => items,
            _ => &[],
        }
    }
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Result<u8, Broken> {
        let byte = *self.bytes.get(self.at).ok_or(Broken::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Broken> {
        let end = self.at.checked_add(count).ok_or(Broken::Wrong)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Broken::Short)?;
        self.at = end;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Broken::Wrong)
    }

    fn zigzag(&mut self) -> Result<i64, Broken> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn structure(&mut self, depth: usize) -> Result<Thrift, Broken> {
        if depth > DEPTH_MAX {
            return Err(Broken::Wrong);
        }
        let mut fields = BTreeMap::new();
        let mut number: i64 = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Thrift::Struct(fields));
            }
            number = match head >> 4 {
                0 => self.zigzag()?,
                delta => number.checked_add(i64::from(delta)).ok_or(Broken::Wrong)?,
            };
            let value = match head & 0xf {
                1 => Thrift::Flag(true),
                2 => Thrift::Flag(false),
                kind => self.value(kind, depth)?,
            };
            fields.insert(number, value);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Thrift, Broken> {
        match kind {
            // Within a list or map a flag is a byte.
            1 | 2 => Ok(Thrift::Flag(self.byte()? == 1)),
            3 => Ok(Thrift::Whole(i64::from(self.byte()? as i8))),
            4..=6 => Ok(Thrift::Whole(self.zigzag()?)),
            7 => self.take(8).map(|_| Thrift::Other),
            8 => {
                let length = usize::try_from(self.varint()?).map_err(|_too_large| Broken::Wrong)?;
                Ok(Thrift::Bytes(self.take(length)?.to_vec()))
            }
            9 | 10 => {
                let head = self.byte()?;
                let length = match head >> 4 {
                    15 => self.varint()?,
                    length => u64::from(length),
                };
                // No reservation: a damaged length ends where the bytes do.
                let items = (0..length).map(|_| self.value(head & 0xf, depth + 1));
                items.collect::<Result<_, _>>().map(Thrift::List)
            }
            11 => {
                let length = self.varint()?;
                if length > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..length {
                        self.value(kinds >> 4, depth + 1)?;
                        self.value(kinds & 0xf, depth + 1)?;
                    }
                }
                Ok(Thrift::Other)
            }
            12 => self.structure(depth + 1),
            _ => Err(Broken::Wrong),
        }
    }
}
