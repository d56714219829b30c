//! A document: the unit that is split, hashed and ended by the end-of-text token.

/// Plain text is cut at the first blank line after this many bytes.
///
/// 8 KiB leaves 140 documents in 1.1 MB, so that 5 % of them are a few and not one, and a training row of 512 tokens
/// (about 2 KB) still meets a border only in every fourth row.
pub(crate) const DOCUMENT_BYTES: usize = 8 * 1024;

/// Text without blank lines is cut at a line end, or failing that anywhere, before this many bytes.
const DOCUMENT_BYTES_MAX: usize = 2 * DOCUMENT_BYTES;

/// One document of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text, never blank.
    pub text: String,
}

/// The documents of a plain text: pieces that concatenate to `text`, in order.
///
/// A piece ends after the first blank line that follows its first 8 KiB; where 16 KiB hold no such line, after the
/// last line end in them, and where they hold no line end either, at 16 KiB. Blank pieces join the piece before.
pub(crate) fn cut(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > DOCUMENT_BYTES {
        let (piece, after) = rest.split_at(piece_end(rest));
        if after.trim().is_empty() {
            break;
        }
        pieces.push(piece);
        rest = after;
    }
    if !rest.trim().is_empty() {
        pieces.push(rest);
    }
    pieces
}

fn piece_end(text: &str) -> usize {
    let window = &text[..text.floor_char_boundary(DOCUMENT_BYTES_MAX)];
    let mut line_end = None;
    let mut at = 0;
    for line in window.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        at += line.len();
        if at >= DOCUMENT_BYTES && line.trim().is_empty() {
            return at;
        }
        line_end = Some(at);
    }
    line_end.unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_blank_lines_then_line_ends_then_anywhere() {
        let paragraph = format!("{}\n\n", "word ".repeat(60).trim_end());
        let crlf = format!("{}\r\n\r\n", "x".repeat(97));
        let cases: [(&str, String, usize); 7] = [
            ("empty", String::new(), 0),
            ("blank", " \n\n\t\n".repeat(5000), 0),
            ("small", "a\n\nb\n".to_owned(), 1),
            ("paragraphs", paragraph.repeat(100), 4), // 301 bytes: cuts after 28, 56 and 84 paragraphs
            ("carriage returns", crlf.repeat(200), 3), // 101 bytes: cuts after 82 and 164 paragraphs
            ("lines", "a line of text\n".repeat(2500), 3), // 15 bytes: cuts every 1092 lines
            ("one long line", "é".repeat(20_000), 3), // 2 bytes each: cuts every 16,384
        ];
        for (name, text, wanted) in cases {
            let pieces = cut(&text);
            assert_eq!(pieces.len(), wanted, "{name}");
            if wanted > 0 {
                assert_eq!(pieces.concat(), text, "{name}");
            }
            for piece in pieces.iter().rev().skip(1) {
                assert!((DOCUMENT_BYTES..=DOCUMENT_BYTES_MAX).contains(&piece.len()), "{name}: {}", piece.len());
            }
        }
    }

    #[test]
    fn a_blank_line_is_preferred_to_a_later_line_end() {
        let text = format!("{}\n\n{}\n{}", "a".repeat(DOCUMENT_BYTES), "b".repeat(100), "c".repeat(DOCUMENT_BYTES));
        assert_eq!(cut(&text)[0].len(), DOCUMENT_BYTES + 2);
    }
}
