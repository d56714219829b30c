//! The embedded text: the Jargon File 4.4.7, public domain (`text/LICENSE-jargon.md`).

use crate::Document;

const JARGON_FILE: &str = include_str!("../text/jargon-4.4.7.txt");

/// First lines of documents that only list the headings of others.
const NAVIGATION: [&str; 2] = ["(version 4.4.7)", "Glossary"];

/// The embedded text's documents: one per lexicon entry, chapter and section of the Jargon File, in its order.
///
/// A document starts, after a blank line, at an entry (`   :headword:`), at a heading (flush left, beginning with a letter,
/// digit or parenthesis) or at a centred title. The table of contents and the list of headwords are left out: they
/// repeat the other documents' first lines, also those held back for validation.
pub fn embedded_documents() -> Vec<Document> {
    let mut documents: Vec<Document> = Vec::new();
    let mut after_blank = true;
    for line in JARGON_FILE.split_inclusive('\n') {
        if after_blank && starts_document(line) {
            documents.push(Document { text: String::new() });
        }
        after_blank = line.trim().is_empty();
        documents.last_mut().expect("invariant: the file begins with its title").text.push_str(line);
    }
    documents.retain(|document| !NAVIGATION.iter().any(|first| document.text.lines().next() == Some(first)));
    documents
}

fn starts_document(line: &str) -> bool {
    let text = line.trim_start_matches(' ');
    let first = text.chars().next().expect("invariant: a line holds at least its line end");
    match line.len() - text.len() {
        0 => first.is_alphanumeric() || first == '(',
        3 => first == ':',
        indent => indent >= 24 && first.is_alphabetic(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_chapters_and_sections_are_documents() {
        let documents = embedded_documents();
        let first_lines: Vec<&str> = documents.iter().map(|d| d.text.lines().next().unwrap()).collect();
        // `grep -c '^   :' text/jargon-4.4.7.txt` counts 2307 entries.
        assert_eq!(first_lines.iter().filter(|line| line.starts_with("   :")).count(), 2307);
        // Flush-left lines beginning with a letter, less the list of headwords: 47; centred titles: 5.
        assert_eq!(documents.len(), 2307 + 47 + 5);
        for wanted in ["   :foo: /foo/", "The Story of Mel", "Appendix\u{a0}C.\u{a0}Helping Hacker Culture Grow"] {
            assert!(first_lines.contains(&wanted), "{wanted}");
        }
        let bytes: usize = documents.iter().map(|d| d.text.len()).sum();
        // 33,138 and 1,721 bytes of navigation, counted by a script that is not this code.
        assert_eq!(bytes, JARGON_FILE.len() - 33_138 - 1_721);
    }
}
