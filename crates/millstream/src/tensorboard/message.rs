//! Protobuf's wire format, as far as event files need it.

/// A message as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(pub Vec<u8>);

/// How the bytes of a field are to be read.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    EightBytes = 1,
    Length = 2,
    FourBytes = 5,
}

impl Message {
    /// A whole number; 0 is the default and not written.
    pub fn whole(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, Wire::Varint);
            self.varint(value);
        }
    }

    /// An f64.
    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, Wire::EightBytes);
        self.0.extend(value.to_le_bytes());
    }

    /// An f32.
    pub fn float(&mut self, field: u32, value: f32) {
        self.key(field, Wire::FourBytes);
        self.0.extend(value.to_le_bytes());
    }

    /// A string or bytes.
    pub fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// A message within.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, Wire::Length);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn key(&mut self, field: u32, wire: Wire) {
        self.varint(u64::from(field) << 3 | wire as u64);
    }

    /// Seven bits a byte, the lowest first; the high bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of protobuf's encoding guide, and a number at each border of length.
    #[test]
    fn fields() {
        let check = |fill: &dyn Fn(&mut Message), expected: &[u8]| {
            let mut message = Message::default();
            fill(&mut message);
            assert_eq!(message.0, expected);
        };
        check(&|m| m.whole(1, 150), &[0x08, 0x96, 0x01]);
        check(&|m| m.text(2, "testing"), &[0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        check(&|m| m.message(3, |inner| inner.whole(1, 150)), &[0x1a, 0x03, 0x08, 0x96, 0x01]);
        check(&|m| m.whole(1, 0), &[]);
        check(&|m| m.whole(1, 127), &[0x08, 0x7f]);
        check(&|m| m.whole(1, 128), &[0x08, 0x80, 0x01]);
        check(&|m| m.whole(16, u64::MAX), &[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        check(&|m| m.double(1, 1.0), &[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        check(&|m| m.float(2, -2.0), &[0x15, 0, 0, 0, 0xc0]);
    }
}
